"""e2v train."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from e2v_port.cli.options import CORPUS_OPTION, Offline, RuntimeName
from e2v_port.cli.output import fail, progress_bar

__all__ = ["train"]


def train(
    corpus: Annotated[list[str], CORPUS_OPTION],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the model.")],
    head_of: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Train a new head for this model instead of a small network from nothing."),
    ] = None,
    hidden: Annotated[
        int, typer.Option(min=0, metavar="N", help="Width of a hidden layer of that head; 0 for none.")
    ] = 0,
    dimensions: Annotated[
        bool, typer.Option("--dimensions", help="Let that head give arousal, dominance and valence.")
    ] = False,
    dev: Annotated[
        str, typer.Option(metavar="SPEAKERS", help="Who decides when to stop, with commas: ravdess/19,ravdess/20.")
    ] = "",
    test: Annotated[str, typer.Option(metavar="SPEAKERS", help="Who is left out, likewise, or a corpus.")] = "",
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all that is drawn.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="By default one for each core.")] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the weights; by default what the corpora say.")
    ] = None,
    runtime: RuntimeName = "auto",
    offline: Offline = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where one was interrupted, and replace a model.")
    ] = False,
) -> None:
    """Train a small model on corpora, or a new head for a model.

    Interrupted, the same command goes on where it was.
    """
    if not head_of and (hidden or dimensions):
        fail(f"{'--hidden' if hidden else '--dimensions'} belongs to a head: name a model with --head-of")
    from dataclasses import replace

    from e2v_port import corpora, training, training_report

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    progress = training.Progress(say, progress_bar)
    read = [corpora.read(spec) for spec in corpus]
    for each in read:
        for note in each.notes:
            say(f"{each.name}: {note}")
    names = [[name for name in text.split(",") if name] for text in (dev, test)]
    task = training.choose(read, *names, dimensional=dimensions, seed=seed)
    changes: dict[str, Any] = {"epochs": epochs} if epochs else {}
    options: dict[str, Any] = {"licence": licence, "number_of_threads": threads, "restart": restart}
    if head_of:
        from e2v_port import heads

        recipe = replace(heads.HeadRecipe(hidden=hidden), **changes)
        options |= {"runtime": runtime, "offline": offline}
        report = heads.train(head_of, task, out, recipe, progress=progress, **options)
    else:
        from e2v_port import student

        report = student.train(task, out, replace(student.Recipe(), **changes), progress=progress, **options)
    best = report["curve"][report["best"] - 1]
    page = training_report.folder_of(out) / "report.html"
    print(f"{out}: {report['parameters']} parameters, development {report['score']} {best['score']:.3f}; see {page}")

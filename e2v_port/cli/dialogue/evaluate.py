"""e2v dialogue evaluate."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from e2v_port.cli.options import LanguageDevice, LanguageDtype, Offline
from e2v_port.cli.output import fail, need_folder, print_table, progress_bar
from e2v_port.files import printable

__all__ = ["evaluate"]

Models = Annotated[
    list[Path],
    typer.Option(
        "--model",
        "-m",
        metavar="FOLDER",
        help="Model of e2v dialogue train. Repeatable; the first is compared with the others.",
        show_default=False,
    ),
]
DialoguesFolder = Annotated[
    Path, typer.Option("--dialogues", "-d", metavar="FOLDER", help="Dialogues of e2v dialogue prepare, with features.")
]
Out = Annotated[
    Path,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Output folder for evaluation.json, .md and .html, and replies.jsonl: models with finished replies there "
        "are not run again.",
    ),
]
Part = Annotated[Literal["train", "dev", "test"], typer.Option(help="Set to evaluate on.")]
LabelsOf = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Emotion model whose labels a model reads that hears labels as text. Default: only the true labels.",
        show_default=False,
    ),
]
JudgeFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Also judge tones by a classifier trained on this table of sentences with emotions, such as train.tsv of "
        "GoEmotions.",
        show_default=False,
    ),
]
RaterUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Language model that rates the empathy of replies, such as http://127.0.0.1:8080/v1. It gets words, "
        "labels and replies. Its key, if it needs one: E2V_RATER_KEY.",
        show_default=False,
    ),
]
RaterModel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the model at --rater.", show_default=False)
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Language model to load, by hub name or folder, in place of the one that each model names.",
        show_default=False,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="NUMBER",
        help="Draw words, at 1 by their probabilities; up to 2. At 0, take the most likely ones.",
    ),
]
Show = Annotated[int, typer.Option(min=0, help="Replies to the same words in different tones to show.")]


def evaluate(
    model: Models,
    dialogues: DialoguesFolder,
    out: Out,
    part: Part = "test",
    labels_of: LabelsOf = None,
    judge: JudgeFile = None,
    rater: RaterUrl = None,
    rater_model: RaterModel = None,
    language: Language = None,
    device: LanguageDevice = "cpu",
    dtype: LanguageDtype = "float32",
    temperature: Temperature = 0.0,
    show: Show = 10,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of intervals, of shown replies and of words that are drawn.")
    ] = 0,
    offline: Offline = False,
) -> None:
    """Measure whether replies fit the tone of the voice, and compare models.

    Run the same command again to resume after an interruption.
    """
    need_folder("--out", out)
    if (rater is None) != (rater_model is None):
        fail("--rater and --rater-model go together: pass both, or neither")
    from e2v_port.llm.speech import HOTTEST

    if not 0 <= temperature <= HOTTEST:
        fail(f"--temperature {temperature:g}: must be from 0 to {HOTTEST:g}")
    from e2v_port.dialogue.rewrite import Chat
    from e2v_port.dialogue.scoring import empathy, report, written
    from e2v_port.dialogue.scoring.evaluate import REPLIES
    from e2v_port.dialogue.scoring.evaluate import evaluate as evaluate_
    from e2v_port.dialogue.scoring.tone import Classifier, sentences

    chat = Chat(rater, rater_model, os.environ.get("E2V_RATER_KEY")) if rater and rater_model else None
    evaluation = evaluate_(
        model,
        dialogues,
        out,
        part=part,
        judges=[Classifier(*sentences(judge))] if judge else [],
        labels_of=labels_of,
        rater=empathy.asking(chat.ask) if chat else None,
        rater_name=rater_model or "",
        language=language,
        device=device,
        dtype=dtype,
        temperature=temperature,
        seed=seed,
        offline=offline,
        bar=_bar,
    )
    rows = report.shown(written.rows(out / REPLIES), show, seed)
    report.write(evaluation, rows, out)
    print_table([printable(cell) for cell in row] for row in report.table(evaluation))
    print(out / "evaluation.html")


@contextmanager
def _bar(total: int, title: str) -> Iterator[Callable[[], None]]:
    """Shows a bar on a terminal, and elsewhere a line when all is done."""
    started = time.monotonic()
    with progress_bar(total, title) as advance:
        yield advance
    if not sys.stderr.isatty():
        print(f"{title}: {total} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)

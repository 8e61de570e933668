"""e2v dialogue train."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from e2v_port.cli.options import Offline
from e2v_port.cli.output import fail, progress_bar

__all__ = ["train"]

Dialogues = Annotated[
    Path, typer.Option("--dialogues", metavar="FOLDER", help="Dialogues, as of e2v dialogue prepare --semantic.")
]
LanguageName = Annotated[
    str,
    typer.Option(
        "--language",
        metavar="NAME",
        help="Language model: a repository on the Hugging Face hub, such as HuggingFaceTB/SmolLM2-135M-Instruct, or a "
        "folder that transformers can load. It needs a chat template.",
    ),
]
Revision = Annotated[
    str | None, typer.Option(metavar="COMMIT", help="Revision of the language model on the hub. Default: the newest.")
]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for the model.")]
Stage = Annotated[
    Literal["1", "2", "both"] | None,
    typer.Option(
        help="1 aligns the adapter with the frozen language model, 2 tunes both. Default: both.", show_default=False
    ),
]
FusionName = Annotated[
    Literal["frames", "broadcast", "prefix"] | None,
    typer.Option(
        "--fusion",
        help="How tone and voice reach the words: by attention to frames, as one vector added to all, or as a token "
        "before them. Default: frames.",
        show_default=False,
    ),
]
HearsName = Annotated[
    Literal["speech", "words", "label"] | None,
    typer.Option(
        "--hears",
        help="What the language model gets: speech, or, to compare with, the words as text, or words and the name of "
        "the emotion. Default: speech.",
        show_default=False,
    ),
]
Without = Annotated[
    str,
    typer.Option(
        metavar="PARTS",
        help="Leave out emotion frames, the tone token or both: emotion, tone-token, or emotion,tone-token.",
    ),
]
WithSpeaker = Annotated[
    bool,
    typer.Option(
        "--speaker",
        help="Also give the adapter the embedding of the speaker, which the dialogues must have: see e2v dialogue "
        "prepare --speaker.",
    ),
]
RecipeFile = Annotated[
    Path | None,
    typer.Option("--recipe", metavar="FILE", help="JSON file of settings; further options replace them."),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="Random seed. Default: 0, or as in the recipe.")]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Device to train on.")]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads. Default: one per core.")]
Restart = Annotated[
    bool, typer.Option("--restart", help="Start over instead of resuming, and replace an existing model.")
]


def train(
    dialogues: Dialogues,
    language: LanguageName,
    out: Out,
    revision: Revision = None,
    stage: Stage = None,
    fusion: FusionName = None,
    hears: HearsName = None,
    without: Without = "",
    speaker: WithSpeaker = False,
    recipe: RecipeFile = None,
    seed: Seed = None,
    device: Device = "auto",
    threads: Threads = None,
    restart: Restart = False,
    offline: Offline = False,
) -> None:
    """Train a language model to hear speech and to answer its tone.

    Run the same command again to resume after an interruption.
    """
    left_out = {name for name in without.split(",") if name}
    if unknown := left_out - {"emotion", "tone-token"}:
        fail(f"--without {min(unknown)}: use emotion, tone-token, or emotion,tone-token")
    from e2v_port.dialogue.recipe import Recipe
    from e2v_port.dialogue.train import train as run
    from e2v_port.training import report as training_report
    from e2v_port.training.task import Progress

    changes: dict[str, Any] = {name.replace("-", "_"): False for name in left_out}
    changes |= {"stages": {"1": (1,), "2": (2,), "both": (1, 2)}[stage]} if stage else {}
    changes |= {"fusion": fusion} if fusion else {}
    changes |= {"speaker": True} if speaker else {}
    changes |= {"hears": hears} if hears else {}
    changes |= {"seed": seed} if seed is not None else {}
    if hears in {"words", "label"} and stage is None:
        changes["stages"] = (2,)  # there is no adapter to align

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    report = run(
        dialogues,
        language,
        out,
        replace(Recipe.read(recipe) if recipe else Recipe(), **changes),
        revision=revision,
        device=device,
        number_of_threads=threads,
        restart=restart,
        offline=offline,
        progress=Progress(say, progress_bar),
    )
    figures = [f"development UAR of {name} {each['uar']:.3f}" for name, each in report["dev"].items()]
    figures += [f"loss of the development replies {report['dev_text']:.3f}"] if report["dev_text"] else []
    page = training_report.folder_of(out) / "report.html"
    print(f"{out}: {report['bytes'] / 1e6:.1f} MB, {', '.join(figures)}; see {page}")

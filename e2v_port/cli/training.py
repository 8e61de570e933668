"""e2v train and e2v means."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from e2v_port.cli.options import CORPUS_OPTION, DevSpeakers, ModelName, Offline, RuntimeName, TestSpeakers
from e2v_port.cli.output import fail, model_or_bundled, progress_bar

__all__ = ["means", "train"]


Out = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for the trained model.")]
HeadOf = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Train a new head for this model. Default: train a small network from scratch."),
]
Layers = Annotated[
    str,
    typer.Option(
        metavar="LAYERS",
        help="Layers of a transformer that the head reads: 3, 2-4, 2,4 or weighted for all. Several are summed with "
        "learned weights, and the blocks after the last one are cut off. Default: the model's own embedding.",
    ),
]
PoolingName = Annotated[
    Literal["mean", "deviation", "attention"] | None,
    typer.Option(
        "--pooling",
        help="How the layers are pooled over time: mean; mean and standard deviation; or both weighted by attention. "
        "Default: deviation.",
        show_default=False,
    ),
]
Augment = Annotated[
    int, typer.Option(min=0, metavar="N", help="Augmented copies of each training clip that the head learns from.")
]
Finetune = Annotated[
    int, typer.Option(min=0, metavar="N", help="Blocks to fine-tune after the head is trained, from the last one kept.")
]
FinetuneRate = Annotated[
    float | None,
    typer.Option(metavar="R", help="Learning rate of the blocks that are fine-tuned. Default: 1e-5."),
]
FeaturesFolder = Annotated[
    Path | None,
    typer.Option(
        "--features",
        metavar="FOLDER",
        help="Keep what the model computes of the clips here, so that another head on them takes seconds. It is "
        "personal data if the clips are.",
    ),
]
TeacherName = Annotated[
    str | None,
    typer.Option("--teacher", metavar="MODEL", help="Let the small network learn this model's answers, too."),
]
Unlabelled = Annotated[
    list[Path] | None,
    typer.Option(metavar="FOLDER", help="Speech without labels, judged by the teacher alone. May be repeated."),
]
Hidden = Annotated[
    int, typer.Option(min=0, metavar="N", help="Width of a hidden layer in the head; 0 trains a linear head.")
]
AsDimensions = Annotated[
    bool, typer.Option("--dimensions", help="Train the head to give arousal, dominance and valence instead of labels.")
]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="Epochs to train. Default: as in the recipe.")]
Seed = Annotated[int, typer.Option(min=0, metavar="N", help="Random seed.")]
Threads = Annotated[int | None, typer.Option(min=1, metavar="N", help="CPU threads. Default: one per core.")]
Licence = Annotated[
    str | None, typer.Option(metavar="TEXT", help="License of the weights. Default: derived from the corpora.")
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Start over instead of resuming, and replace an existing model.")
]


def train(
    corpus: Annotated[list[str], CORPUS_OPTION],
    out: Out,
    head_of: HeadOf = None,
    teacher: TeacherName = None,
    unlabelled: Unlabelled = None,
    layers: Layers = "",
    pooling: PoolingName = None,
    hidden: Hidden = 0,
    augment: Augment = 0,
    finetune: Finetune = 0,
    finetune_rate: FinetuneRate = None,
    features: FeaturesFolder = None,
    dimensions: AsDimensions = False,
    dev: DevSpeakers = "",
    test: TestSpeakers = "",
    epochs: Epochs = None,
    seed: Seed = 0,
    threads: Threads = None,
    licence: Licence = None,
    runtime: RuntimeName = "auto",
    offline: Offline = False,
    restart: Restart = False,
) -> None:
    """Train a small model on corpora, or a new head for a model.

    Run the same command again to resume after an interruption.
    """
    of_heads = {
        "--layers": layers,
        "--pooling": pooling,
        "--hidden": hidden,
        "--dimensions": dimensions,
        "--augment": augment,
        "--finetune": finetune,
        "--features": features,
    }
    if not head_of and (given := [option for option, value in of_heads.items() if value]):
        fail(f"{given[0]} needs a head to train: name its model with --head-of")
    for option, value, needed, there in (
        ("--pooling", pooling, "--layers", layers),
        ("--finetune-rate", finetune_rate, "--finetune", finetune),
        ("--unlabelled", unlabelled, "--teacher", teacher),
    ):
        if value and not there:
            fail(f"{option} has no effect without {needed}: pass both or neither")
    if finetune_rate is not None and not 0 < finetune_rate < 1:
        fail(f"--finetune-rate must be between 0 and 1, not {finetune_rate:g}: 1e-5 is a careful start")
    if head_of and teacher:
        fail("--teacher teaches a network from scratch, and --head-of keeps one as it is: pass one of them")
    from e2v_port.evaluation import readers
    from e2v_port.training import report as training_report
    from e2v_port.training import task as training_task

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    corpora = [readers.read(spec) for spec in corpus]
    for each in corpora:
        for note in each.notes:
            say(f"{each.name}: {note}")
    speakers = [[name for name in text.split(",") if name] for text in (dev, test)]
    task = training_task.choose(corpora, *speakers, dimensional=dimensions, seed=seed)
    changes: dict[str, Any] = {"epochs": epochs} if epochs else {}
    options: dict[str, Any] = {"licence": licence, "number_of_threads": threads, "restart": restart}
    options["progress"] = training_task.Progress(say, progress_bar)
    if head_of:
        from e2v_port.training import head

        changes |= {"pooling": pooling} if pooling else {}
        changes |= {"finetune_rate": finetune_rate} if finetune_rate else {}
        recipe = replace(head.HeadRecipe(layers=layers, hidden=hidden, copies=augment, finetune=finetune), **changes)
        report = head.train(head_of, task, out, recipe, runtime=runtime, offline=offline, features=features, **options)
    else:
        from e2v_port.training import scratch
        from e2v_port.training import teacher as teachers
        from e2v_port.training.recipe import Recipe

        if teacher:
            options["teacher"] = teachers.find(teacher, runtime=runtime, offline=offline)
            options["unlabelled"] = [file for folder in unlabelled or () for file in teachers.recordings(folder)]
        report = scratch.train(task, out, replace(Recipe(), **changes), **options)
    best = report["curve"][report["best"] - 1]
    page = training_report.folder_of(out) / "report.html"
    print(f"{out}: {report['parameters']} parameters, development {report['score']} {best['score']:.3f}; see {page}")


MeansOut = Annotated[
    Path, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for the model with its means.")
]


def means(
    corpus: Annotated[list[str], CORPUS_OPTION],
    out: MeansOut,
    model: ModelName = None,
    dev: DevSpeakers = "",
    test: TestSpeakers = "",
    runtime: RuntimeName = "auto",
    offline: Offline = False,
) -> None:
    """Let a model adapt to voices: store the mean embedding of each label.

    They are taken from the training speakers of the corpora. Models of `e2v train` have them already.
    """
    from e2v_port.evaluation import readers
    from e2v_port.evaluation.datasets import label_of
    from e2v_port.models import means as label_means
    from e2v_port.training import task as training_task

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    speakers = [[name for name in text.split(",") if name] for text in (dev, test)]
    task = training_task.choose([readers.read(spec) for spec in corpus], *speakers)
    named = model_or_bundled(model)
    missing = label_means.add(
        named,
        task.parts["train"],
        label_means.Rights(task.licence, task.trained_on),
        out,
        counterpart=label_of,
        runtime=runtime,
        offline=offline,
        bar=progress_bar,
        say=say,
    )
    if missing:
        say(f"note: no clips of {', '.join(missing)}: these labels do not help to know a voice")
    print(f"{out}: a copy of {named} that adapts to voices")

"""e2v bench."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from e2v_port.cli.options import Offline, RuntimeName
from e2v_port.cli.output import fail, need_folder

__all__ = ["bench"]

Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="Known model, converted folder or checkpoint to measure. Repeatable. Default: models of --size.",
        show_default=False,
    ),
]
Sizes = Annotated[
    list[str] | None,
    typer.Option(
        "--size",
        metavar="NAME",
        help="Full-size model to make with random weights and measure. Repeatable. Default: base and audeering.",
        show_default=False,
    ),
]
Dtypes = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Precision of the computation: float32, bfloat16, float16 or auto. Repeatable. Default: float32 and auto.",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Measure half a minute of clips, once.")]
Long = Annotated[
    bool, typer.Option("--long", help="Also measure a one-hour file, a thousand clips and the large model.")
]
Audio = Annotated[
    Path | None,
    typer.Option(
        "--audio",
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="Folder of recordings to cut the clips from. Default: the synthetic speech in the package.",
        show_default=False,
    ),
]
Out = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder for bench.json and bench.md.")
]


def bench(
    model: Models = None,
    size: Sizes = None,
    runtime: RuntimeName = "auto",
    dtype: Dtypes = None,
    quick: Quick = False,
    long: Long = False,
    audio: Audio = None,
    out: Out = None,
    offline: Offline = False,
) -> None:
    """Measure the speed of models on this machine.

    FunASR and transformers are measured for comparison where they are installed.
    """
    if out:
        need_folder("--out", out)
    from e2v_port import seam
    from e2v_port.bench import measure, report
    from e2v_port.bench import plan as plans

    if model and size:
        fail("pass --model or --size, not both")
    if wrong := set(size or ()) - {*seam.sizes()}:
        fail(f"unknown size {', '.join(sorted(wrong))}: use {', '.join(seam.sizes())}")

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    plan = plans.QUICK if quick else plans.FULL
    plan = plan.longer() if long else plan
    plan = replace(plan, sizes=tuple(size)) if size else plan
    result: dict[str, Any] = {}
    for result in measure.bench(
        model or (),
        runtime=runtime,
        dtypes=dtype or ("float32", "auto"),
        plan=plan,
        recordings=audio,
        offline=offline,
        note=note,
    ):
        if out:  # after each model, so that an interruption loses only the current one
            report.save(result, out)
    print(report.render(result), end="")

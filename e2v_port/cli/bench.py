"""e2v bench."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from e2v_port.cli.options import Offline, RuntimeName
from e2v_port.cli.output import need_folder

__all__ = ["bench"]


def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Converted folder, known model or checkpoint; repeatable. By default models of full size are made, "
            "with random weights.",
            show_default=False,
        ),
    ] = None,
    runtime: RuntimeName = "auto",
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="float32, bfloat16, float16 or auto; repeatable. By default float32, auto."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Half a minute of clips, each measured once.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Also an hour in one file, a thousand clips and the large model.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write bench.json and bench.md.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Measure how fast models are here, beside FunASR.

    And beside transformers; each where it is installed.
    """
    if out:
        need_folder("--out", out)
    from e2v_port import bench as bench_
    from e2v_port import bench_report

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    plan = bench_.QUICK if quick else bench_.FULL
    result: dict[str, Any] = {}
    for result in bench_.bench(
        model or (),
        runtime=runtime,
        dtypes=dtype or ("float32", "auto"),
        plan=plan.longer() if long else plan,
        offline=offline,
        note=note,
    ):
        if out:  # after each model, so that what was measured is kept
            bench_report.save(result, out)
    print(bench_report.render(result), end="")

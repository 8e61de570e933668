"""The options that several commands have."""

from typing import Annotated

import typer

__all__ = ["CORPUS_OPTION", "MODEL_OPTION", "DimensionalName", "DtypeName", "ModelName", "Offline", "RuntimeName"]

MODEL_OPTION = typer.Option(
    "--model",
    "-m",
    metavar="MODEL",
    envvar="E2V_MODEL",
    help="Known model (see e2v models), converted folder, or checkpoint.",
    show_default=False,
)
CORPUS_OPTION = typer.Option(
    "--corpus", "-c", metavar="NAME=PATH", help="ravdess, emodb, nemo, crema-d or csv; repeatable."
)
ModelName = Annotated[str | None, MODEL_OPTION]
DimensionalName = Annotated[
    str | None,
    typer.Option("--dimensional", "-d", metavar="MODEL", help="Model of arousal, dominance and valence, likewise."),
]
RuntimeName = Annotated[str, typer.Option("--runtime", "-r", metavar="NAME", help="auto, cuda, mlx, mps or cpu.")]
DtypeName = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16, float16 or auto, the fastest here; by default as stored.",
        show_default=False,
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a connection; so does E2V_OFFLINE=1.")]

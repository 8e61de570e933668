"""e2v serve."""

from pathlib import Path
from typing import Annotated

import typer

from e2v_port.cli.options import DimensionalName, DtypeName
from e2v_port.cli.output import fail

__all__ = ["serve"]


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="127.0.0.1 by default; another needs --token or --insecure.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="NUMBER", help="9101 by default; 0 picks a free one.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Gives labels, as for e2v analyze.")
    ] = None,
    dimensional: DimensionalName = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", "-r", metavar="NAME", help="auto, cuda, mlx, mps or cpu.")
    ] = None,
    dtype: DtypeName = None,
    token: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Asked of everybody; E2V_SERVE_TOKEN keeps it out of `ps`.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let anybody on the network in, without a token.")
    ] = None,
    speakers: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Enrolled speakers, as ann,bob: no other voice is analysed.")
    ] = None,
    emotion: Annotated[
        bool | None, typer.Option("--emotion/--no-emotion", help="Whether emotions are analysed at first.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store what was found; by default nothing is stored.")
    ] = None,
    history_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Until it becomes daily sums; 90 by default.")
    ] = None,
    history_aggregate_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Until these go as well; by default never.")
    ] = None,
    max_body: Annotated[
        float | None, typer.Option(metavar="MB", help="Largest body; 64, the most there can be, by default.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Longest clip; an hour by default.")
    ] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never open a connection to a hub.")] = None,
) -> None:
    """Answer over HTTP and WebSocket what e2v analyze says, with a page at /.

    Each option is also read from the environment, as E2V_SERVE_PORT. See docs/service.md.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from importlib.util import find_spec

    libraries = ("fastapi", "uvicorn", "httptools", "websockets", "python_multipart", "prometheus_client")
    if missing := [name for name in (*libraries, "pydantic_settings") if find_spec(name) is None]:
        fail(f'e2v serve needs {missing[0]}, which is not installed: pip install "e2v-port[serve]"')
    from pydantic import ValidationError

    from e2v_port.service.server import run
    from e2v_port.service.state import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        fail(f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}: {first['msg']}, not {first['input']}")
    run(settings)

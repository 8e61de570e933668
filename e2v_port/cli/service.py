"""e2v serve."""

from pathlib import Path
from typing import Annotated

import typer

from e2v_port.cli.options import (
    RUNTIMES,
    DimensionalName,
    DtypeName,
    LabelNames,
    MaxGain,
    ProfileOfModels,
    SpeechThreshold,
    completed,
)
from e2v_port.cli.output import fail

__all__ = ["serve"]


Host = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS", help="Address to listen on. Default: 127.0.0.1; any other needs --token or --insecure."
    ),
]
Port = Annotated[
    int | None, typer.Option(metavar="NUMBER", help="Port to listen on. Default: 9101. 0 picks a free one.")
]
LabelModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="MODEL", help="Model that gives labels, named as for `e2v analyze`."),
]
Runtime = Annotated[str | None, typer.Option("--runtime", "-r", metavar="NAME", help=RUNTIMES)]
Words = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Read words where a request asks for them, with a Whisper model or its folder."),
]
Reply = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Answer remarks with this speech language model, of `e2v dialogue train`."),
]
Token = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="Require this token in every request. E2V_SERVE_TOKEN hides it from the process list."
    ),
]
Insecure = Annotated[bool | None, typer.Option("--insecure", help="Accept requests from the network without a token.")]
Speakers = Annotated[
    str | None, typer.Option(metavar="NAMES", help="Enrolled speakers, such as ann,bob; other voices are not judged.")
]
RosterFile = Annotated[
    Path | None,
    typer.Option(
        "--roster", metavar="FILE", help="Enrolled voices, of `e2v enroll`: a voice is named by how it sounds."
    ),
]
OnlyEnrolled = Annotated[bool | None, typer.Option("--only-enrolled", help="Judge the voices of --roster alone.")]
SpeakerModel = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="Speaker encoder that --roster was made with. Default: bundled-voices."),
]
Adapt = Annotated[
    bool | None,
    typer.Option("--adapt", help="Adapt to each named speaker, from what was heard before. See docs/adaptation.md."),
]
Emotion = Annotated[
    bool | None, typer.Option("--emotion/--no-emotion", help="Start with emotions switched on or off. Default: on.")
]
History = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Store judgements in this SQLite file. Default: store nothing.")
]
HistoryDays = Annotated[
    float | None, typer.Option(metavar="DAYS", help="Age at which judgements become daily sums. Default: 90.")
]
HistoryAggregateDays = Annotated[
    float | None, typer.Option(metavar="DAYS", help="Age at which daily sums are deleted. Default: never.")
]
MaxBody = Annotated[
    float | None, typer.Option(metavar="MB", help="Largest request body. Default: 64, which is also the maximum.")
]
MaxSeconds = Annotated[float | None, typer.Option(metavar="SECONDS", help="Longest clip. Default: 3600.")]
MaxAudioSeconds = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Most audio judged for one request, its segments summed. Default: 7200."),
]
AllowOrigin = Annotated[
    list[str] | None,
    typer.Option(metavar="ORIGIN", help="Let pages of this origin ask, e.g. http://localhost:3000. Repeatable."),
]
OfflineFlag = Annotated[bool | None, typer.Option("--offline", help="Never open a connection to a hub.")]


def serve(
    host: Host = None,
    port: Port = None,
    model: LabelModel = None,
    dimensional: DimensionalName = None,
    runtime: Runtime = None,
    dtype: DtypeName = None,
    labels: LabelNames = None,
    words: Words = None,
    reply: Reply = None,
    token: Token = None,
    insecure: Insecure = None,
    speakers: Speakers = None,
    roster: RosterFile = None,
    only_enrolled: OnlyEnrolled = None,
    speaker_model: SpeakerModel = None,
    adapt: Adapt = None,
    emotion: Emotion = None,
    history: History = None,
    history_days: HistoryDays = None,
    history_aggregate_days: HistoryAggregateDays = None,
    max_body: MaxBody = None,
    max_seconds: MaxSeconds = None,
    speech_threshold: SpeechThreshold = None,
    max_gain: MaxGain = None,
    max_audio_seconds: MaxAudioSeconds = None,
    allow_origin: AllowOrigin = None,
    offline: OfflineFlag = None,
    profile: ProfileOfModels = None,
) -> None:
    """Serve e2v analyze over HTTP and WebSocket, with a web page.

    Each option can be set in the environment instead, as in E2V_SERVE_PORT. See docs/service.md.
    """
    model, dimensional, dtype, *_ = completed(profile, model=model, dimensional=dimensional, dtype=dtype)
    given = {name: value for name, value in locals().items() if value is not None and name not in {"profile", "_"}}
    from importlib.util import find_spec

    libraries = ("fastapi", "uvicorn", "httptools", "websockets", "python_multipart", "prometheus_client")
    if missing := [name for name in (*libraries, "pydantic_settings") if find_spec(name) is None]:
        fail(f'e2v serve needs {missing[0]}, which is not installed: pip install "e2v-port[serve]"')
    from pydantic import ValidationError

    from e2v_port.service.http.server import run
    from e2v_port.service.settings import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "-".join(map(str, first["loc"])).replace("_", "-")
        given_as = "" if option == "token" else f", not {first['input']}"  # a secret stays one
        fail(f"--{option}: {first['msg'].removeprefix('Value error, ')}{given_as}")
    run(settings, lambda address: print(f"e2v serve: ready at {address}", flush=True))

"""Routes of the service: analysis, embeddings, the emotion switch, the history, health checks and the page."""

import asyncio
import csv
import io
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.routing import APIRoute, APIWebSocketRoute
from fastapi.staticfiles import StaticFiles
from pydantic import AwareDatetime
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Mount, Route

from e2v_port.errors import ModelsUnavailable, RequestCancelled, RequestRefused, ServiceError
from e2v_port.files import packaged
from e2v_port.service import answers
from e2v_port.service.history import COLUMNS, History, cells
from e2v_port.service.http import openapi
from e2v_port.service.http.bodies import received
from e2v_port.service.http.documentation import documentation
from e2v_port.service.http.gate import Routes, error_body, error_headers
from e2v_port.service.http.parameters import CHANNEL, Channel, ClipSpeaker, Language, Shared
from e2v_port.service.http.replies import router as replies
from e2v_port.service.state import Service
from e2v_port.service.streams import START, StreamSocket
from e2v_port.version import __version__

__all__ = ["UPLOADS", "application", "routes"]

UPLOADS = frozenset({"/v1/analyze", "/v1/embed", "/v1/reply"})  # paths that accept audio
_MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "turns": "text/csv; charset=utf-8",
    "md": "text/markdown; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "jsonl": "application/x-ndjson",
}
_FRAMEWORK_ERRORS = {  # kind and message, by status
    400: ("invalid", "the body cannot be parsed: see /docs"),
    404: ("not_found", "no such route: see /docs"),
    405: ("method_not_allowed", "method not allowed on this route: see /docs"),
}
_PAGE = packaged("e2v_port.service", "page")
_TAXONOMY = {
    name: json.loads(files("e2v_port.taxonomy").joinpath(f"{name}.json").read_text("utf-8"))
    for name in ("emotions", "compounds", "labels")
}

Format: TypeAlias = Literal["json", "csv", "turns", "md", "vtt", "srt", "textgrid", "audacity", "rttm", "jsonl"]
From: TypeAlias = Annotated[AwareDatetime | None, Query(alias="from", description="Start of the period.")]
To: TypeAlias = Annotated[AwareDatetime | None, Query(alias="to", description="End of the period, not included.")]
Speaker: TypeAlias = Annotated[str | None, Query(description="Name of one speaker.")]


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Returns the OpenAPI document, which is made once."""
        self.openapi_schema = self.openapi_schema or openapi.completed(super().openapi())
        return self.openapi_schema


def application(service: Service) -> FastAPI:
    """Returns the ASGI application of a service."""
    app = _Application(
        title="e2v-port",
        version=__version__,
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        responses=openapi.ERRORS,
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(replies)
    app.mount("/page", StaticFiles(directory=_PAGE))
    for kind in (ServiceError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, _answered)
    return app


def routes(app: FastAPI) -> Routes:
    """Returns the query parameters of each route of an application."""
    found: dict[str, frozenset[str]] = {}
    for route in (*app.routes, *router.routes, *replies.routes):
        if isinstance(route, Mount):
            found |= dict.fromkeys((f"GET {route.path}/*", f"HEAD {route.path}/*"), frozenset())
        elif isinstance(route, APIWebSocketRoute):
            found[f"WS {route.path}"] = frozenset(field.alias for field in route.dependant.query_params)
        elif isinstance(route, Route):
            names = [field.alias for field in route.dependant.query_params] if isinstance(route, APIRoute) else []
            found |= dict.fromkeys((f"{method} {route.path}" for method in route.methods or ()), frozenset(names))
    return found


async def _answered(request: Request, error: Exception) -> Response:
    """Answers a request that failed."""
    problem = _service_error(error)
    request.app.state.service.telemetry.errors.labels(problem.kind).inc()
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return JSONResponse(error_body(problem, _id(request)), problem.status, headers | error_headers(problem))


def _service_error(error: Exception) -> ServiceError:
    """Returns the ServiceError that corresponds to an error of the web framework."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error.__cause__, ServiceError):  # FastAPI wraps what the gate raises while it reads a body
        return error.__cause__
    if isinstance(error, HTTPException):
        kind, message = _FRAMEWORK_ERRORS.get(error.status_code, ("invalid", str(error.detail)))
        return ServiceError.of(error.status_code, kind, message)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return RequestRefused(f"{' '.join(map(str, first['loc']))}: {first['msg']}")
    return RequestCancelled("the client disconnected")  # for the log alone: nobody reads the response


router = APIRouter()


@router.post(
    "/v1/analyze", summary="Analyze a clip", responses=openapi.UPLOAD | openapi.ANALYSIS, openapi_extra=openapi.BODY
)
async def analyze(
    request: Request,
    service: Shared,
    *,
    granularity: Annotated[
        Literal["segment", "clip", "frame"],
        Query(
            description="`segment`: segments of speech. `clip`: the whole clip as one segment. `frame`: segments, and "
            "where the emotion changes within them."
        ),
    ] = "segment",
    form: Annotated[Format, Query(alias="format", description="Format of the response.")] = "json",
    recorded_at: Annotated[
        AwareDatetime | None, Query(description="Time at which the clip begins, for the history; by default now.")
    ] = None,
    speaker: ClipSpeaker = None,
    channel: Annotated[
        str,
        Query(
            pattern=f"^({CHANNEL}|each)$",
            description="Channel to judge: `mix`, `left`, `right`, a number from 1, or `each` channel as one speaker.",
        ),
    ] = "mix",
    words: Annotated[
        bool, Query(description="Also read the words of each segment; the service must be started with `--words`.")
    ] = False,
    language: Language = None,
    name: Annotated[str | None, Query(max_length=255, description="Name of the clip in the response.")] = None,
) -> Response:
    """Returns the emotion in a voice, when it occurs, and the confidence: the result of `e2v_port.analyze`.

    The body is the audio itself, whatever its Content-Type, or a form with `file` and, optionally, `segments`: a
    diarization, subtitles or a transcript.
    """
    started = time.perf_counter()
    service.check_words(words)
    async with received(service, request) as upload:
        if upload.beside is not None and granularity == "clip":
            raise RequestRefused("segments and granularity=clip contradict each other: leave one out")
        if speaker is not None and channel == "each":
            raise RequestRefused("speaker and channel=each contradict each other: each channel is a speaker")
        complete = time.perf_counter()
        fields: dict[str, Any] = {"granularity": granularity, "format": form, "speaker": speaker}
        fields |= {"segments": upload.beside, "channel": channel, "words": words, "language": language}
        clip_name = name or upload.name or "clip"
        result, _ = await service.ask(request, "analyze", upload.audio, name=clip_name, **fields)
    analysis = result["analysis"] if service.enabled else answers.unjudged(result["analysis"])
    timings = {**analysis["timings"], "receive": complete - started, "total": time.perf_counter() - started}
    answer = {"request_id": _id(request), "emotion_enabled": service.enabled, **analysis, "timings": timings}
    client = request.headers.get("user-agent", "")[:200] or None
    answer["history"] = await service.store(answer, recorded_at or datetime.now(UTC), client)
    service.telemetry.queue.observe(timings["queue"])
    service.telemetry.received.inc(analysis["duration"])
    if form == "jsonl":
        return Response(json.dumps(answer) + "\n", media_type=_MEDIA_TYPES[form])
    if result["text"] is None:
        return JSONResponse(answer)
    return Response(
        result["text"]["judged" if service.enabled else "unjudged"],
        media_type=_MEDIA_TYPES.get(form, "text/plain; charset=utf-8"),
    )


@router.post(
    "/v1/embed",
    summary="Embed a clip",
    response_model=openapi.EmbedAnswer,
    responses=openapi.UPLOAD | openapi.EMBEDDING,
    openapi_extra=openapi.BODY,
)
async def embed(
    request: Request,
    service: Shared,
    *,
    granularity: Annotated[
        Literal["utterance", "frame"], Query(description="One vector for the clip, or one for each frame.")
    ] = "utterance",
    speaker: ClipSpeaker = None,
    channel: Channel = "mix",
    name: Annotated[str | None, Query(max_length=255, description="Name of the clip in error messages.")] = None,
) -> Response:
    """Returns embeddings of a voice: the result of `Model.embed`."""
    async with received(service, request) as upload:
        clip_name = name or upload.name or "clip"
        fields = {"granularity": granularity, "speaker": speaker, "channel": channel, "name": clip_name}
        answer, embedding = await service.ask(request, "embed", upload.audio, **fields)
    service.telemetry.received.inc(answer["duration"])
    head = json.dumps({"request_id": _id(request), **answer})[:-1].encode()
    tail = embedding if service.enabled else b"null"
    return Response(b'%s, "embedding": %s}' % (head, tail), media_type="application/json")


@router.get(
    "/v1/models",
    summary="List the models",
    response_model=list[openapi.ModelAnswer],
    responses=openapi.errors(_503="The models are being loaded.") | openapi.MODELS,
)
async def models(service: Shared) -> list[dict[str, Any]]:
    """Lists the loaded models and their licenses."""
    if not service.engine.ready:
        raise ModelsUnavailable
    return service.engine.models


@router.get("/v1/config/emotion", summary="Read the emotion switch")
async def emotion(service: Shared) -> openapi.Config:
    """Returns whether emotion analysis is on, since when, and whether judgements are stored."""
    return _config(service)


@router.put("/v1/config/emotion", summary="Set the emotion switch")
async def set_emotion(service: Shared, switch: openapi.Switch) -> openapi.Config:
    """Turns emotion analysis on or off for all clients, with immediate effect, until the next change."""
    await service.switch(switch.enabled)
    return _config(service)


@router.get("/v1/taxonomy", summary="Read the taxonomy", response_model=openapi.Taxonomy)
async def taxonomy() -> dict[str, Any]:
    """Returns the 26 emotions, the compound labels, and the meaning of each label."""
    return _TAXONOMY


@router.get("/v1/history", summary="Export the history", responses=openapi.HISTORY | openapi.EXPORT)
async def history(
    service: Shared,
    *,
    start: From = None,
    end: To = None,
    speaker: Speaker = None,
    form: Annotated[Literal["json", "csv"], Query(alias="format", description="Format of the response.")] = "json",
) -> Response:
    """Exports the history in order of time: daily sums of expired segments first, then segments."""
    rows = await asyncio.to_thread(_history(service).read, start, end, speaker)
    if form == "csv":
        return StreamingResponse(_csv(rows), media_type="text/csv; charset=utf-8")
    return StreamingResponse(_json(rows), media_type="application/json")


@router.delete("/v1/history", summary="Delete from the history", responses=openapi.HISTORY)
async def delete_history(
    service: Shared,
    *,
    start: From = None,
    end: To = None,
    speaker: Speaker = None,
    everything: Annotated[bool, Query(alias="all", description="Delete everything.")] = False,
) -> openapi.Deleted:
    """Deletes a period, a speaker, both combined, or everything."""
    try:
        count = await asyncio.to_thread(_history(service).delete, start, end, speaker, everything)
    except ValueError as error:
        raise RequestRefused(str(error)) from error
    return openapi.Deleted(deleted=count)


@router.get(
    "/v1/history/audit",
    summary="Audit the history",
    response_model=openapi.Audit,
    responses=openapi.HISTORY | openapi.AUDIT,
)
async def audit(service: Shared) -> dict[str, Any]:
    """Lists what is stored, for what purpose and since when, and every deletion."""
    return await asyncio.to_thread(_history(service).audit)


@router.get("/healthz", summary="Check liveness", response_model=openapi.Status)
async def healthz() -> dict[str, str]:
    """Answers 200 while the service runs."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Check readiness",
    response_model=openapi.Ready,
    responses=openapi.errors(_503="The models are being loaded."),
)
async def readyz(service: Shared) -> dict[str, Any]:
    """Answers 200 while the models are loaded, and says what the service offers besides judgements."""
    if not service.engine.ready:
        raise ModelsUnavailable
    settings = service.settings
    return {"status": "ready", "words": settings.words is not None, "replies": settings.reply is not None}


@router.get("/metrics", summary="Read the metrics", response_class=PlainTextResponse, responses=openapi.TEXT)
async def metrics(service: Shared) -> Response:
    """Returns metrics in the Prometheus text format."""
    return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def _docs(request: Request) -> Response:
    return HTMLResponse(documentation(request.app.openapi(), START))


@router.get("/", include_in_schema=False)
async def _page() -> Response:
    return FileResponse(_PAGE / "index.html")


@router.websocket("/v1/stream")
async def _stream(websocket: WebSocket, words: str = "false", language: Language = None) -> None:
    await StreamSocket(websocket.app.state.service, websocket).go(words, language)


def _id(request: Request) -> str:
    request_id: str = request.state.request_id
    return request_id


def _config(service: Service) -> openapi.Config:
    return openapi.Config(enabled=service.enabled, since=service.switched, history=service.history is not None)


def _history(service: Service) -> History:
    if service.history is None:
        message = "nothing is stored: start the service with --history FILE"
        raise RequestRefused(message, status=404, kind="no_history")
    return service.history


def _json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yields {"rows": [...]} in pieces."""
    yield '{"rows": ['
    for i, row in enumerate(rows):
        yield f"{', ' if i else ''}{json.dumps(row)}"
    yield "]}\n"


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Yields a CSV table in pieces."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(cells(row))
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()

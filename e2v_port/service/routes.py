"""The routes of the service: HTTP, the page, and what the OpenAPI says of them."""

import asyncio
import csv
import html
import io
import json
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import AwareDatetime, BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from typing_extensions import TypedDict

from e2v_port import __version__
from e2v_port.errors import HistoryError
from e2v_port.service import answers
from e2v_port.service.engine import EngineError, EngineGone
from e2v_port.service.gate import Problem, error_body
from e2v_port.service.history import FIELDS, History
from e2v_port.service.state import RETRY, Service
from e2v_port.service.streams import START, StreamSocket

__all__ = ["UPLOADS", "application"]

UPLOADS = frozenset({"/v1/analyze", "/v1/embed"})  # what takes audio
_MEDIA = {
    "csv": "text/csv; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
    "jsonl": "application/x-ndjson",
}

Format: TypeAlias = Literal["json", "csv", "vtt", "srt", "textgrid", "audacity", "rttm", "jsonl"]


class ErrorBody(TypedDict):
    """What went wrong: a word for programs, and one line that names the remedy."""

    kind: str
    message: str
    request_id: str


class ErrorAnswer(TypedDict):
    """Every error looks like this."""

    error: ErrorBody


class EmbedAnswer(TypedDict):
    """An embedding of a whole clip, or one every `hop_seconds`; null while emotions are switched off."""

    request_id: str
    model: str
    dim: int
    duration: float
    hop_seconds: float
    embedding: list[float] | list[list[float]] | None


class ModelAnswer(TypedDict):
    """A model that is loaded."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str
    labels: list[str]
    embed_dim: int
    hop_seconds: float


class Switch(BaseModel):
    """Whether emotions are analysed."""

    enabled: bool


class Deleted(BaseModel):
    """How many rows were deleted."""

    deleted: int


def _errors(**texts: str) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI says of errors: _400="why" and so on."""
    return {int(status[1:]): {"model": ErrorAnswer, "description": text} for status, text in texts.items()}


_PAGE = Path(str(files("e2v_port.service").joinpath("page")))
_TAXONOMY = {
    name: json.loads(files("e2v_port.taxonomy").joinpath(f"{name}.json").read_text("utf-8"))
    for name in ("emotions", "compounds", "labels")
}
_KINDS = {400: "invalid", 404: "not_found", 405: "method_not_allowed"}
_NO_HISTORY = "nothing is stored: start the service with --history FILE"

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "The audio."},
        "segments": {
            "type": "string",
            "description": "Its diarisation, subtitles or transcript: RTTM, SRT, VTT, JSON of Whisper, CSV, or a list "
            'of objects {"start", "end", "speaker", "text"}.',
        },
    },
}
_BODY = {
    "required": True,
    "content": {
        "application/octet-stream": _BINARY,
        "audio/wav": _BINARY,
        "audio/flac": _BINARY,
        "multipart/form-data": {"schema": _FORM},
    },
}
_UPLOAD: dict[str, Any] = {
    "openapi_extra": {"requestBody": _BODY},
    "responses": _errors(
        _400="No audio came, or the form is damaged.",
        _408="The body came too slowly.",
        _413="The body is too large, or the clip too long.",
        _415="A multipart body of another kind than form-data.",
        _422="It cannot be decoded, or parameters or segments make no sense.",
        _503="Too many requests, or the models are being loaded: see Retry-After.",
    ),
}
_STORED: dict[str, Any] = {"responses": _errors(_404=f"N{_NO_HISTORY[1:]}.", _503="The file cannot be used just now.")}


def application(service: Service) -> FastAPI:
    """Returns the ASGI application of a service."""
    app = FastAPI(
        title="e2v-port",
        version=__version__,
        description="Estimates of the emotion in a voice, made on this machine. They are wrong at times: `confidence` "
        "says how sure they are.",
        docs_url=None,
        redoc_url=None,
        responses=_errors(
            _400="The body cannot be read.",
            _401="The token is missing or wrong.",
            _403="Asked by another name, or from a page of another site.",
            _422="A parameter makes no sense.",
        ),
    )
    app.state.service = service
    app.include_router(router)
    app.mount("/page", StaticFiles(directory=_PAGE))
    for kind in (HTTPException, RequestValidationError, EngineError, HistoryError, ClientDisconnect):
        app.add_exception_handler(kind, _answered)
    return app


async def _answered(request: Request, error: Exception) -> Response:
    """Answers with an error."""
    status, kind, message, headers = _told(error)
    request.app.state.service.telemetry.errors.labels(kind).inc()
    return JSONResponse(error_body(kind, message, _id(request)), status, headers)


def _told(error: Exception) -> tuple[int, str, str, Mapping[str, str] | None]:
    """Status, kind, message and headers."""
    if isinstance(error, HTTPException):
        kind = getattr(error, "kind", _KINDS.get(error.status_code, "invalid"))
        return error.status_code, kind, str(error.detail), error.headers
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return 422, "invalid", f"{' '.join(map(str, first['loc']))}: {first['msg']}", None
    if isinstance(error, EngineError):
        return error.status, error.kind, str(error), RETRY if error.status == 503 else None
    if isinstance(error, HistoryError):
        return 503, "history", str(error), {"Retry-After": "60"}
    return 499, "cancelled", "the client went away", None  # nobody reads it: it is for the log


async def _shared(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Shared: TypeAlias = Annotated[Service, Depends(_shared)]
router = APIRouter()


@router.post("/v1/analyze", response_model=answers.AnalysisAnswer, **_UPLOAD)
async def analyze(
    request: Request,
    service: Shared,
    *,
    granularity: Annotated[
        Literal["segment", "clip", "frame"],
        Query(description="Segments of speech; the clip as one; or segments and which emotion when in them."),
    ] = "segment",
    form: Annotated[Format, Query(alias="format", description="The answer as what other programs read.")] = "json",
    recorded_at: Annotated[AwareDatetime | None, Query(description="When the clip began, for the history.")] = None,
    speaker: Annotated[str | None, Query(max_length=200, description="Of the whole clip.")] = None,
    name: Annotated[str | None, Query(max_length=255, description="What the clip is to be called.")] = None,
) -> Response:
    """Says which emotion is in a voice, when, and how sure: what `e2v_port.analyze` says.

    The body is the audio itself, whatever its Content-Type, or a form with `file` and, if known, `segments`: a
    diarisation, subtitles or a transcript.
    """
    started = time.perf_counter()
    async with service.taken(request) as upload:
        if upload.segments is not None and granularity == "clip":
            raise Problem(422, "invalid", "segments and granularity=clip contradict each other: leave one out")
        complete = time.perf_counter()
        asked = {"granularity": granularity, "format": form, "speaker": speaker, "segments": upload.segments}
        clip_name = name or upload.name or "clip"
        found, _ = await service.ask(request, "analyze", upload.audio, name=clip_name, **asked)
    analysis = found["analysis"] if service.enabled else answers.unjudged(found["analysis"])
    timings = {**analysis["timings"], "receive": complete - started, "total": time.perf_counter() - started}
    answer = {"request_id": _id(request), "emotion_enabled": service.enabled, **analysis, "timings": timings}
    client = request.headers.get("user-agent", "")[:200] or None
    answer["history"] = await service.store(answer, recorded_at or datetime.now(UTC), client)
    service.telemetry.queue.observe(timings["queue"])
    service.telemetry.received.inc(analysis["duration"])
    if found["text"] is None:
        return JSONResponse(answer)
    return Response(
        found["text"]["judged" if service.enabled else "unjudged"],
        media_type=_MEDIA.get(form, "text/plain; charset=utf-8"),
    )


@router.post("/v1/embed", response_model=EmbedAnswer, **_UPLOAD)
async def embed(
    request: Request,
    service: Shared,
    *,
    granularity: Annotated[
        Literal["utterance", "frame"], Query(description="One vector of the clip, or one for each frame.")
    ] = "utterance",
    speaker: Annotated[str | None, Query(max_length=200, description="Of the whole clip.")] = None,
    name: Annotated[str | None, Query(max_length=255, description="What errors call the clip.")] = None,
) -> Response:
    """Returns what the model makes of a voice, as numbers: what `Model.embed` returns."""
    async with service.taken(request) as upload:
        clip_name = name or upload.name or "clip"
        asked = {"granularity": granularity, "speaker": speaker, "name": clip_name}
        answer, embedding = await service.ask(request, "embed", upload.audio, **asked)
    service.telemetry.received.inc(answer["duration"])
    head = json.dumps({"request_id": _id(request), **answer})[:-1].encode()
    tail = embedding if service.enabled else b"null"
    return Response(b'%s, "embedding": %s}' % (head, tail), media_type="application/json")


@router.get("/v1/models", response_model=list[ModelAnswer])
async def models(service: Shared) -> list[dict[str, Any]]:
    """Lists the models that are loaded, with their licences."""
    if not service.engine.ready:
        raise EngineGone
    return service.engine.models


@router.get("/v1/config/emotion")
async def emotion(service: Shared) -> Switch:
    """Tells whether emotions are analysed."""
    return Switch(enabled=service.enabled)


@router.put("/v1/config/emotion")
async def set_emotion(service: Shared, switch: Switch) -> Switch:
    """Switches emotions on or off: at once, and until they are switched again."""
    await service.switch(switch.enabled)
    return Switch(enabled=service.enabled)


@router.get("/v1/taxonomy")
async def taxonomy() -> dict[str, Any]:
    """Returns the 26 emotions, the compound labels, and what labels mean."""
    return _TAXONOMY


@router.get("/v1/history", **_STORED)
async def history(
    service: Shared,
    *,
    start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    end: Annotated[AwareDatetime | None, Query(alias="to", description="Not part of the time.")] = None,
    speaker: str | None = None,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """Exports what is stored: days whose segments have expired, then segments, in order of time."""
    rows = await asyncio.to_thread(_kept(service).read, start, end, speaker)
    if form == "csv":
        return StreamingResponse(_csv(rows), media_type="text/csv; charset=utf-8")
    return StreamingResponse(_json(rows), media_type="application/json")


@router.delete("/v1/history", **_STORED)
async def delete_history(
    service: Shared,
    *,
    start: Annotated[AwareDatetime | None, Query(alias="from")] = None,
    end: Annotated[AwareDatetime | None, Query(alias="to", description="Not part of the time.")] = None,
    speaker: str | None = None,
    everything: Annotated[bool, Query(alias="all")] = False,
) -> Deleted:
    """Deletes what is stored of a time, a speaker, or both together; or everything."""
    try:
        count = await asyncio.to_thread(_kept(service).delete, start, end, speaker, everything)
    except ValueError as error:
        raise Problem(422, "invalid", str(error)) from error
    return Deleted(deleted=count)


@router.get("/v1/history/audit", **_STORED)
async def audit(service: Shared) -> dict[str, Any]:
    """Tells what is stored, why, since when, and what was deleted."""
    return await asyncio.to_thread(_kept(service).audit)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Answers as long as the service runs."""
    return {"status": "ok"}


@router.get("/readyz", responses=_errors(_503="The models are being loaded."))
async def readyz(service: Shared) -> dict[str, str]:
    """Answers 200 while the models are loaded."""
    if not service.engine.ready:
        raise EngineGone
    return {"status": "ready"}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Shared) -> Response:
    """Returns counters for Prometheus."""
    return Response(service.telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/docs", include_in_schema=False)
async def _docs(request: Request) -> Response:
    return HTMLResponse(_documentation(request.app.openapi()))


@router.get("/", include_in_schema=False)
async def _page() -> Response:
    return FileResponse(_PAGE / "index.html")


@router.websocket("/v1/stream")
async def _stream(websocket: WebSocket) -> None:
    await StreamSocket(websocket.app.state.service, websocket).go()


def _id(request: Request) -> str:
    found: str = request.state.request_id
    return found


def _kept(service: Service) -> History:
    if service.history is None:
        raise Problem(404, "no_history", _NO_HISTORY)
    return service.history


def _json(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    """{"rows": [...]} in parts."""
    yield '{"rows": ['
    for i, row in enumerate(rows):
        yield f"{', ' if i else ''}{json.dumps(row)}"
    yield "]}\n"


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for row in rows:
        cells = (row[name] for name in FIELDS)
        writer.writerow(json.dumps(cell) if isinstance(cell, dict) else cell for cell in cells)
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()


def _documentation(schema: dict[str, Any]) -> str:
    """The OpenAPI as a page that needs nothing from other hosts."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            rows = [
                (f"{p['name']} ({p['in']})", f"{p.get('description', '')} {json.dumps(p['schema'])}")
                for p in operation.get("parameters", [])
            ]
            body = operation.get("requestBody", {}).get("content", {})
            rows += [(f"body {kind}", json.dumps(what["schema"])) for kind, what in body.items()]
            rows += [(f"answer {status}", what["description"]) for status, what in operation["responses"].items()]
            table = "".join(f"<tr><th>{html.escape(a)}<td>{html.escape(b)}" for a, b in rows)
            text = html.escape(operation.get("description", ""))
            parts.append(f"<h2>{method.upper()} {html.escape(path)}</h2><p>{text}</p><table>{table}</table>")
    parts.append(f"<h2>Schemas</h2><pre>{html.escape(json.dumps(schema['components'], indent=2))}</pre>")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
        "<title>e2v-port: API</title><style>:root{color-scheme:light dark}body{font:16px system-ui;max-width:60rem;"
        "margin:2rem auto;padding:0 1rem}th{text-align:left;vertical-align:top;padding-right:1rem;white-space:nowrap}"
        "td{overflow-wrap:anywhere}pre{overflow:auto}h2{font:600 1.1rem ui-monospace,monospace;margin-top:2rem}</style>"
        f"<h1>e2v-port: API</h1><p>{html.escape(schema['info']['description'])}</p>"
        f"<p>As <a href=/openapi.json>OpenAPI</a>; live audio goes to the WebSocket /v1/stream. First message: "
        f"<code>{html.escape(START)}</code>, then samples as binary messages, then "
        f'<code>{{"type": "end"}}</code>.</p>{"".join(parts)}'
    )

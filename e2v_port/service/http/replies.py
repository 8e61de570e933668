"""The route of replies: a remark comes in; the tone heard and an answer in words go out, whole or as events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.types import Receive, Scope, Send

from e2v_port.errors import RequestRefused, ServiceError
from e2v_port.llm.speech import HOTTEST
from e2v_port.service import answers
from e2v_port.service.http import openapi
from e2v_port.service.http.bodies import received
from e2v_port.service.http.gate import error_body
from e2v_port.service.http.parameters import Channel, ClipSpeaker, Language, Shared
from e2v_port.service.state import Service, unless_disconnected

__all__ = ["router"]

_EVENTS = "text/event-stream"
_TURNS, _CHARACTERS = 16, 500  # of a context: about 2000 tokens, which small models hold

router = APIRouter()


class _Turn(BaseModel, extra="forbid"):
    role: Literal["user", "assistant"]
    content: str = Field(pattern=r"\S", max_length=_CHARACTERS)


_CONTEXT = TypeAdapter(Annotated[list[_Turn], Field(max_length=_TURNS)])


@router.post(
    "/v1/reply",
    summary="Reply to a remark",
    response_model=openapi.ReplyAnswer,
    responses=openapi.UPLOAD | openapi.REPLYING | openapi.REPLY,
    openapi_extra=openapi.REMARK,
)
async def reply(
    request: Request,
    service: Shared,
    *,
    words: Annotated[
        bool, Query(description="Also read the words of the remark; the service must be started with `--words`.")
    ] = False,
    language: Language = None,
    aloud: Annotated[
        bool, Query(description="Also speak the reply, where the service has a speech engine: see `audio`.")
    ] = False,
    temperature: Annotated[
        float, Query(ge=0, le=HOTTEST, description="0 for the most likely words; above, words are drawn, and vary.")
    ] = 0.0,
    speaker: ClipSpeaker = None,
    channel: Channel = "mix",
    name: Annotated[str | None, Query(max_length=255, description="Name of the clip in error messages.")] = None,
) -> Response:
    """Returns an answer to a remark in words, and the tone of the voice that it answers; the result of `SpeechLM`.

    The body is the audio itself, whatever its Content-Type, or a form with `file` and, optionally, `context`: a JSON
    list of what was said before. With `Accept: text/event-stream` the reply comes as it is made: an event `tone`, an
    event `text` for each piece, and `done` with the whole; or `error` with the fields of every error, and its status.
    """
    service.check_replies()
    service.check_words(words)
    if language is not None and not words:
        raise RequestRefused(answers.NO_TEXT)
    async with AsyncExitStack() as held:
        upload = await held.enter_async_context(received(service, request, "context"))
        fields: dict[str, Any] = {
            "words": words,
            "language": language,
            "aloud": aloud,
            "speaker": speaker,
            "temperature": temperature,
            "channel": channel,
            "name": name or upload.name or "clip",
            "context": _context(upload.beside),
        }
        parts = service.parts("reply", upload.audio, **fields)
        held.push_async_callback(parts.aclose)
        if _EVENTS not in request.headers.get("accept", ""):
            return JSONResponse(await unless_disconnected(request, _last(service, request, parts)))
        first = await unless_disconnected(request, anext(parts))  # what is refused before it has an ordinary response
        held_on = held.pop_all()
    return _Events(_events(service, request, first, parts), held_on)


class _Events(StreamingResponse):
    """Server-sent events, and what is held until they end, sent or not."""

    def __init__(self, events: AsyncIterator[str], held: AsyncExitStack) -> None:
        super().__init__(events, media_type=_EVENTS)
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


async def _events(
    service: Service, request: Request, part: dict[str, Any], parts: AsyncGenerator[dict[str, Any], None]
) -> AsyncIterator[str]:
    """Yields the events of a reply, from its first part on."""
    try:
        while "event" in part:
            name = part.pop("event")
            service.check_replies()  # nothing leaves once emotions are switched off
            yield _event(name, part)
            part = await anext(parts)
        yield _event("done", _whole(service, request, part))
    except ServiceError as error:
        service.telemetry.errors.labels(error.kind).inc()
        yield _event("error", {**error_body(error, request.state.request_id), "status": error.status})


def _event(name: str, content: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n"


async def _last(service: Service, request: Request, parts: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    part = await anext(parts)
    while "event" in part:
        part = await anext(parts)
    return _whole(service, request, part)


def _whole(service: Service, request: Request, found: dict[str, Any]) -> dict[str, Any]:
    service.check_replies()
    service.telemetry.received.inc(found["duration"])
    if "first_token" in found["seconds"]:  # some speech was heard
        service.telemetry.first_token.observe(found["seconds"]["first_token"])
    return {"request_id": request.state.request_id, **found}


def _context(text: str | None) -> list[dict[str, str]]:
    """Reads what was said before; raises RequestRefused for anything else than a list of turns."""
    if text is None:
        return []
    try:
        return [turn.model_dump() for turn in _CONTEXT.validate_json(text.encode("utf-8", "surrogateescape"))]
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = " ".join(map(str, first["loc"]))
        raise RequestRefused(
            f"context{where and f' {where}'}: {first['msg']}; send a JSON list of up to {_TURNS} turns, each "
            f'{{"role": "user" or "assistant", "content": up to {_CHARACTERS} characters}}',
            kind="context",
        ) from None

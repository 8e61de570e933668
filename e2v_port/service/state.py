"""How the service is set, and what its requests share: switch, history, engine, and how much they may hold."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from e2v_port.errors import E2VError, HistoryError
from e2v_port.service.engine import Engine, EngineGone
from e2v_port.service.gate import Problem, is_loopback
from e2v_port.service.history import History
from e2v_port.service.telemetry import Telemetry, resident_bytes

__all__ = ["RETRY", "Service", "Settings", "Upload"]

RETRY = {"Retry-After": "1"}  # seconds


class Settings(BaseSettings):
    """What the service is started with; each also as E2V_SERVE_NAME in the environment.

    Attributes:
        host: Address to listen on. Another than this machine's own needs a token, or `insecure`.
        port: 0 picks a free one.
        model: Gives labels, as for `e2v_port.load`; E2V_MODEL in the environment names it as well.
        dimensional: Gives arousal, dominance and valence.
        runtime: As for `load`.
        dtype: As for `load`.
        offline: As for `load`.
        token: What every request has to bring.
        insecure: Listen on another host without a token.
        speakers: Names of those who are enrolled, separated by commas: nobody else's voice reaches a model.
        emotion: Whether emotions are analysed at first; by default as it was left in the history, or they are.
        history: File to store what was found in; by default nothing is stored.
        history_days: Days after which it becomes daily aggregates.
        history_aggregate_days: Days after which these are deleted; by default never.
        max_body: MB of a body, at most 64: as much as decoding holds in memory, so that no audio is ever on a disk.
        max_seconds: Of a clip.
        max_requests: Requests that wait or run at a time; at 500 in a second each still has its answer within some.
        max_held: MB of bodies in memory at a time.
        max_streams: WebSockets at a time.
        max_connections: Of any kind.
        head_seconds: How long a request's headers may take.
        idle_seconds: How long a client may send nothing in the middle of a body.
        body_seconds: How long a whole body may take.
        drain_seconds: How long requests may go on after SIGTERM.
    """

    model_config = SettingsConfigDict(env_prefix="E2V_SERVE_", populate_by_name=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(9101, ge=0, le=65535)
    model: str | None = Field(None, validation_alias=AliasChoices("E2V_SERVE_MODEL", "E2V_MODEL"))
    dimensional: str | None = None
    runtime: str = "auto"
    dtype: str | None = None
    offline: bool = False
    token: SecretStr | None = Field(None, min_length=1)
    insecure: bool = False
    speakers: str | None = None
    emotion: bool | None = None
    history: Path | None = None
    history_days: float = Field(90, gt=0)
    history_aggregate_days: float | None = Field(None, gt=0)
    max_body: float = Field(64, gt=0, le=64)
    max_seconds: float = Field(3600, gt=0)
    max_requests: int = Field(128, ge=1)
    max_held: float = Field(512, gt=0)
    max_streams: int = Field(16, ge=0)
    max_connections: int = Field(1000, ge=1)
    head_seconds: float = Field(10, gt=0)
    idle_seconds: float = Field(10, gt=0)
    body_seconds: float = Field(120, gt=0)
    drain_seconds: float = Field(20, gt=0)

    @field_validator("token")
    @classmethod
    def _plain(cls, token: SecretStr | None) -> SecretStr | None:
        if token and not (token.get_secret_value().isascii() and token.get_secret_value().isprintable()):
            raise ValueError("only printable ASCII can stand in a header")
        return token

    def check(self) -> None:
        """Raises E2VError for a host that anybody could reach without a token."""
        if not (is_loopback(self.host) or self.token or self.insecure):
            raise E2VError(
                f"--host {self.host}: others reach it, so set a --token; or say --insecure where anybody may listen in"
            )


@dataclass
class Upload:
    """What came in a body."""

    audio: bytes
    name: str | None
    segments: str | None


class Service:
    """What all requests share."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.history: History | None = None
        if settings.history:
            self.history = History(settings.history, settings.history_days, settings.history_aggregate_days)
        self.enabled = True if settings.emotion is None else settings.emotion
        if self.history:
            if settings.emotion is None:
                self.enabled = self.history.enabled
            else:
                self.history.enabled = settings.emotion
        self.telemetry = Telemetry()
        names = ("model", "dimensional", "runtime", "dtype", "offline", "max_seconds")
        options = {name: getattr(settings, name) for name in names}
        speakers = None if settings.speakers is None else [name.strip() for name in settings.speakers.split(",")]
        options |= {"speakers": speakers, "emotion": self.enabled}
        self.engine = Engine(options, self.telemetry.count_batch)
        self.running = 0  # requests whose body is complete
        self.held = 0  # bytes of bodies
        self.streams = 0
        self.stream_number = 0
        self.draining = asyncio.Event()
        watch = self.telemetry.watch
        watch("e2v_requests_in_flight", "Requests that wait or run.", lambda: self.running)
        watch("e2v_streams", "WebSockets.", lambda: self.streams)
        watch("e2v_held_bytes", "Bodies in memory.", lambda: self.held)
        watch("e2v_engine_restarts", "How often the models' process was started again.", lambda: self.engine.restarts)
        watch("e2v_ready", "Whether the models are loaded.", lambda: self.engine.ready)
        watch("e2v_front_resident_bytes", "Memory of this process.", lambda: resident_bytes("self"))
        watch("e2v_engine_resident_bytes", "Memory of the models' process.", lambda: resident_bytes(self.engine.pid))

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[Upload]:
        """Reads a body and lets the request run, if there is room for both; the room is given back at the end."""
        if self.running >= self.settings.max_requests or not self.engine.ready:
            raise self.refusal()
        held = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal held
            async for chunk in request.stream():
                held += len(chunk)
                self.held += len(chunk)
                if self.held > self.settings.max_held * 1e6:
                    raise self.refusal()
                yield chunk

        try:
            upload = await _read(request, chunks(), int(self.settings.max_body * 1e6))
            if not upload.audio:
                raise Problem(400, "empty", "no audio came: send the file as the body, or as the multipart field file")
            if self.running >= self.settings.max_requests:
                raise self.refusal()
            self.running += 1
            try:
                yield upload
            finally:
                self.running -= 1
        finally:
            self.held -= held

    def refusal(self) -> Problem:
        """There is no room."""
        if not self.engine.ready:
            raise EngineGone
        return Problem(503, "overloaded", "too many requests at a time: try again in a second", RETRY)

    async def ask(self, request: Request, op: str, body: bytes, **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Asks the engine, unless the client goes away meanwhile."""
        call = asyncio.ensure_future(self.engine.call(op, body, **fields))
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait((call, gone), return_when=asyncio.FIRST_COMPLETED)
            if not call.done():
                raise ClientDisconnect
            return call.result()
        finally:
            call.cancel()
            gone.cancel()

    async def store(self, answer: dict[str, Any], recorded_at: datetime, client: str | None) -> str:
        """Puts an answer into the history, and says whether that worked: an answer is given in any case."""
        if self.history is None:
            return "off"
        if not any(segment["emotion"] for segment in answer["segments"]):
            return "not stored: nothing was judged"
        try:
            await asyncio.to_thread(self.history.add, answer, recorded_at, client)
        except HistoryError as error:
            self.telemetry.errors.labels("history").inc()
            return f"not stored: {error}"
        return "stored"

    async def switch(self, enabled: bool) -> None:
        """Switches emotions on or off, at once and for good."""
        self.enabled = enabled
        await self.engine.switch(enabled)
        if self.history:
            await asyncio.to_thread(setattr, self.history, "enabled", enabled)

    async def expire(self) -> None:
        """Keeps the history as short as it is to be, once an hour."""
        while self.history:
            with suppress(HistoryError):
                await asyncio.to_thread(self.history.expire, datetime.now(UTC))
            await asyncio.sleep(3600)


async def _gone(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, chunks: AsyncGenerator[bytes, None], most: int) -> Upload:
    """Reads a body, into memory alone."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        return Upload(b"".join([chunk async for chunk in chunks]), None, None)
    if kind != "multipart/form-data":
        raise Problem(415, "media_type", f"{kind} is not taken: send multipart/form-data, or the audio as it is")
    parser = MultiPartParser(request.headers, chunks, max_files=2, max_fields=4, max_part_size=most)
    parser.spool_max_size = most  # beyond it, parts would go to a temporary file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, "multipart", f"the form is damaged: {error.message}") from error
    parts: dict[str, bytes | str] = {}
    name = None
    for key, value in form.multi_items():
        if key not in {"file", "segments"} or key in parts:
            raise Problem(400, "multipart", "the form has one field file and, if known, one field segments")
        if isinstance(value, UploadFile):
            name = value.filename if key == "file" else name
            parts[key] = await value.read()
            await value.close()
        else:
            parts[key] = value
    audio, segments = parts.get("file", b""), parts.get("segments")
    if isinstance(audio, str):
        raise Problem(400, "multipart", "the field file holds text: send it as a file, with a filename")
    if isinstance(segments, bytes):
        segments = segments.decode("utf-8", "surrogateescape")
    return Upload(audio, name, segments)

"""State shared by all requests: the emotion switch, the history, the engine, and the limits on what runs at a time."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from e2v_port.errors import HistoryError, ModelsUnavailable, RequestRefused, ServiceUnavailable
from e2v_port.service import answers
from e2v_port.service.engine import Engine
from e2v_port.service.history import History
from e2v_port.service.settings import Settings
from e2v_port.service.telemetry import Telemetry, resident_bytes

__all__ = ["Service", "unless_disconnected"]

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


class Service:
    """State that all requests share.

    Attributes:
        settings: Settings the service was started with.
        history: Stored judgements; None if nothing is stored.
        enabled: Whether emotion analysis is on.
        switched: Time of the last change of `enabled`, or of the start.
        telemetry: Metrics of the service.
        engine: Handle of the process that holds the models.
        running: Number of requests whose body is complete.
        held: Bytes of request bodies in memory.
        streams: Number of open WebSockets.
        draining: Set when the service is about to stop.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.history: History | None = None
        if settings.history:
            self.history = History(settings.history, settings.history_days, settings.history_aggregate_days)
        self.enabled = self._enabled_at_start()
        self.switched = datetime.now(UTC)
        self.telemetry = Telemetry()
        names = ("model", "dimensional", "runtime", "dtype", "labels", "offline", "speech_threshold", "max_gain")
        limits = ("max_seconds", "max_audio_seconds", "engine_seconds")
        options = {name: getattr(settings, name) for name in names + limits}
        options |= {"speakers": settings.enrolled, "adapt": settings.adapt, "emotion": self.enabled}
        options |= {"roster": str(settings.roster) if settings.roster else None}
        options |= {"only_enrolled": settings.only_enrolled, "speaker_model": settings.speaker_model}
        options |= {"words": settings.words, "reply": str(settings.reply) if settings.reply else None}
        self.engine = Engine(options, self.telemetry.count_batch)
        self.running = 0
        self.held = 0
        self.streams = 0
        self.draining = asyncio.Event()
        self._stream_number = 0
        self._watch()

    def _enabled_at_start(self) -> bool:
        wanted = self.settings.emotion
        if self.history is None:
            return True if wanted is None else wanted
        if wanted is not None:
            self.history.enabled = wanted
        return self.history.enabled

    def _watch(self) -> None:
        watch = self.telemetry.watch
        watch("e2v_requests_in_flight", "Requests that run or wait.", lambda: self.running)
        watch("e2v_streams", "Open WebSockets.", lambda: self.streams)
        watch("e2v_held_bytes", "Request bodies in memory.", lambda: self.held)
        watch("e2v_engine_restarts", "Restarts of the process that holds the models.", lambda: self.engine.restarts)
        watch("e2v_ready", "1 if the models are loaded.", lambda: self.engine.ready)
        watch("e2v_front_resident_bytes", "Memory of the HTTP process.", lambda: resident_bytes("self"))
        watch("e2v_engine_resident_bytes", "Memory of the model process.", lambda: resident_bytes(self.engine.pid))

    def next_stream(self) -> int:
        """Returns a number for a new stream."""
        self._stream_number += 1
        return self._stream_number

    # Room for requests

    def need_room(self) -> None:
        """Raises ServiceUnavailable if the models are not loaded or too many requests run."""
        if not self.engine.ready:
            raise ModelsUnavailable
        if self.running >= self.settings.max_requests:
            raise ServiceUnavailable("too many requests at a time: try again in a second")

    def check_words(self, words: bool) -> None:
        """Raises RequestRefused for words that this service does not read."""
        if words and self.settings.words is None:
            raise RequestRefused(answers.NO_WORDS, kind="no_words")

    def check_replies(self) -> None:
        """Raises RequestRefused if this service does not reply, or not now."""
        if self.settings.reply is None:
            raise RequestRefused(answers.NO_REPLIES, status=404, kind="no_replies")
        if not self.enabled:
            raise RequestRefused(answers.NO_REPLY, status=409, kind="off")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Counts a request as running for as long as the context lasts, if there is room."""
        self.need_room()
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    @asynccontextmanager
    async def holding(self, request: Request) -> AsyncIterator[AsyncIterator[bytes]]:
        """Gives the chunks of a body, which count as held in memory for as long as the context lasts."""
        held = 0

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal held
            async for chunk in request.stream():
                held += len(chunk)
                self.held += len(chunk)
                if self.held > self.settings.max_held * 1e6:
                    raise ServiceUnavailable("too many request bodies in memory: try again in a second")
                yield chunk

        try:
            yield chunks()
        finally:
            self.held -= held

    # What requests ask for

    async def ask(self, request: Request, op: str, body: bytes, **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Asks the engine, and cancels the call if the client disconnects meanwhile."""
        return await unless_disconnected(request, self.engine.call(op, body, **fields))

    async def parts(self, op: str, body: bytes, **fields: Any) -> AsyncGenerator[dict[str, Any], None]:
        """Asks the engine for an answer that comes in parts, and yields these, then the answer.

        Closing the generator cancels the call.
        """
        arrived: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        call = asyncio.ensure_future(self.engine.call(op, body, hear=arrived.put_nowait, **fields))
        call.add_done_callback(lambda _: arrived.put_nowait(None))
        try:
            while (part := await arrived.get()) is not None:
                yield part
            yield call.result()[0]
        finally:
            call.cancel()

    async def store(self, answer: dict[str, Any], recorded_at: datetime, client: str | None) -> str:
        """Stores an answer in the history and returns the outcome. A failure never fails the request."""
        if self.history is None:
            return "off"
        if not any(segment["emotion"] for segment in answer["segments"]):
            return "not stored: nothing was judged"
        try:
            await asyncio.to_thread(self.history.add, answer, recorded_at, client)
        except HistoryError as error:
            self.telemetry.errors.labels(error.kind).inc()
            return f"not stored: {error}"
        return "stored"

    async def switch(self, enabled: bool) -> None:
        """Turns emotion analysis on or off: at once, and with a history also for the next start."""
        if enabled != self.enabled:
            self.enabled, self.switched = enabled, datetime.now(UTC)
        await self.engine.switch(enabled)
        if self.history:
            await asyncio.to_thread(setattr, self.history, "enabled", enabled)

    async def expire(self) -> None:
        """Applies the retention settings to the history once a minute, until cancelled."""
        while self.history:
            try:
                await asyncio.to_thread(self.history.expire, datetime.now(UTC))
            except HistoryError as error:
                _log.warning("%s", error)
            await asyncio.sleep(60)


async def unless_disconnected(request: Request, awaited: Awaitable[_T]) -> _T:
    """Returns what is awaited; cancels that and raises ClientDisconnect if the client disconnects before."""
    wanted = asyncio.ensure_future(awaited)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((wanted, gone), return_when=asyncio.FIRST_COMPLETED)
        if not wanted.done():
            raise ClientDisconnect
        return wanted.result()
    finally:
        wanted.cancel()
        gone.cancel()
        await asyncio.wait((wanted, gone))  # until both have stopped: what they use may be closed next


async def _disconnected(request: Request) -> None:
    """Returns when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

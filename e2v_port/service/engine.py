"""The engine as the service sees it: a process that holds the models, restarted when it dies or is stuck."""

import asyncio
import json
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from e2v_port.errors import ModelsUnavailable, RequestRefused, ServiceError

__all__ = ["Engine"]

_log = logging.getLogger(__name__)

_BACKOFF = (0.1, 10.0)  # seconds before a restart: doubled with each death, up to the second value
_Outbox: TypeAlias = "queue.SimpleQueue[tuple[dict[str, Any], bytes]]"
_Started: TypeAlias = "asyncio.Future[list[dict[str, Any]]]"
_Gone: TypeAlias = "asyncio.Future[None]"
_SIGNS = 10  # of life that the process sends in the time after which it is restarted without one
_LOADING = 600.0  # seconds for the models of a restarted engine: they are on this machine
_CALM = 60.0  # seconds of life after which a death counts as the first


class Engine:
    """Starts the process of the engine, sends it messages and waits for their answers.

    A message is a JSON object, followed by bytes if its `body` is true. Its number is repeated in the answer. It is
    JSON, not pickle, so that a decoder that hostile audio has taken over cannot make this process run anything.

    Attributes:
        models: Descriptions of the loaded models, as `GET /v1/models` returns them; empty while none is loaded.
        pid: Identifier of the process.
        restarts: Number of restarts so far.
    """

    def __init__(self, options: dict[str, Any], report: Callable[[int, float], None]) -> None:
        """Creates the handle; `start` starts the process.

        Args:
            options: Values of model, dimensional, runtime, dtype, words, offline, speech_threshold, max_gain,
                max_seconds, max_audio_seconds, engine_seconds, speakers, roster, only_enrolled, speaker_model, adapt,
                emotion and reply.
            report: Called after each batch of a model with its number of clips and its seconds of audio.
        """
        self.options = options | {"sign_seconds": options["engine_seconds"] / _SIGNS}
        self.models: list[dict[str, Any]] = []
        self.pid: int | None = None
        self.restarts = 0
        self._report = report
        self._pending: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._hearing: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._number = 0
        self._outbox: _Outbox = queue.SimpleQueue()
        self._process: Any = None
        self._watchers: list[asyncio.Task[None]] = []
        self._heard = False  # anything from the process, since `_guard` looked last

    @property
    def ready(self) -> bool:
        """Whether the engine answers."""
        return bool(self.models)

    async def start(self) -> None:
        """Starts the process and waits until its models are loaded.

        Raises:
            ServiceError: They cannot be loaded; the message is that of `e2v_port.load`.
        """
        loop = asyncio.get_running_loop()
        started, gone = loop.create_future(), loop.create_future()
        await asyncio.to_thread(self._spawn, started, gone)
        self.models = await started
        self._watchers = [asyncio.create_task(self._watch(gone)), asyncio.create_task(self._guard())]

    async def call(
        self, op: str, body: bytes = b"", *, hear: Callable[[dict[str, Any]], None] | None = None, **fields: Any
    ) -> tuple[dict[str, Any], bytes]:
        """Sends a message and returns the answer, with the bytes that follow it.

        If the waiting task is cancelled, the engine drops the message.

        Args:
            op: Name of the operation.
            body: Bytes that follow the message.
            hear: Called with each part of an answer that comes in parts, before the answer itself.
            fields: Fields of the message.

        Raises:
            ServiceError: The answer of the engine is an error.
            ModelsUnavailable: The engine died or is not ready.
        """
        if not self.ready:
            raise ModelsUnavailable
        self._number += 1
        number = self._number
        answer: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        if hear is not None:
            self._hearing[number] = hear
        self._outbox.put(({"id": number, "op": op, "sent": time.monotonic(), **fields}, body))
        try:
            return await answer
        except asyncio.CancelledError:
            self.send("cancel", call=number)
            raise
        finally:
            del self._pending[number]
            self._hearing.pop(number, None)

    async def switch(self, enabled: bool) -> None:
        """Switches emotions on or off. Once this returns, no model starts to run while they are off."""
        self.options["emotion"] = enabled
        with suppress(ModelsUnavailable):  # a restarted engine gets the option
            await self.call("emotion", enabled=enabled)

    def send(self, op: str, **fields: Any) -> None:
        """Sends a message that has no answer."""
        self._outbox.put(({"id": 0, "op": op, **fields}, b""))

    async def close(self) -> None:
        """Ends the process, whatever it is doing, after at most 5 seconds."""
        self.models = []
        for watcher in self._watchers:
            watcher.cancel()
        self.send("exit")
        if self._process is not None:
            await asyncio.to_thread(self._process.join, 5)
            self._process.kill()

    def _spawn(self, started: _Started, gone: _Gone) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # idle threads leave the cores to others
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, self.options), daemon=True, name="e2v engine")
        self._process.start()
        theirs.close()  # so that the pipe closes with the process
        self.pid = self._process.pid
        self._outbox = queue.SimpleQueue()
        loop = started.get_loop()
        threading.Thread(target=self._write, args=(ours, self._outbox), daemon=True, name="to the engine").start()
        threading.Thread(
            target=self._read, args=(ours, loop, started, gone), daemon=True, name="from the engine"
        ).start()

    @staticmethod
    def _write(connection: Connection, outbox: _Outbox) -> None:
        with suppress(OSError):  # the process died: the reader reports it
            while True:
                fields, body = outbox.get()
                connection.send_bytes(json.dumps({**fields, "body": bool(body)}).encode())
                if body:
                    connection.send_bytes(body)

    def _read(
        self,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        started: _Started,
        gone: _Gone,
    ) -> None:
        try:
            while True:
                message = json.loads(connection.recv_bytes())
                payload = connection.recv_bytes() if message.get("payload") else b""
                loop.call_soon_threadsafe(self._receive, started, message, payload)
        except (OSError, EOFError):
            pass
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._ended, started, gone)

    def _receive(self, started: _Started, message: dict[str, Any], payload: bytes) -> None:
        self._heard = True
        if "alive" in message:
            pass
        elif "stuck" in message:
            seconds = f"{self.options['engine_seconds']:g} s"
            refusal = RequestRefused(f"no progress within {seconds}: send WAV, and simpler segments", kind="stuck")
            for number in message["stuck"]:
                if number in self._pending and not self._pending[number].done():
                    self._pending[number].set_exception(refusal)
            self._kill(f"{len(message['stuck'])} requests or a model made no progress within {seconds}")
        elif "failed" in message or "ready" in message:
            if started.done():  # too late
                return
            if "failed" in message:
                started.set_exception(ServiceError(message["failed"]))
            else:
                started.set_result(message["ready"])
        elif "part" in message:
            if hear := self._hearing.get(message["id"]):
                hear(message["part"])
        elif "batch" in message:
            self._report(message["batch"], message["seconds"])
        elif "log" in message:
            for line in message["text"].splitlines():
                logging.getLogger(message["log"]).log(message["level"], "%s", line)
        else:
            answer = self._pending.get(message["id"])
            if answer is None or answer.done():
                return
            if error := message.get("error"):
                answer.set_exception(ServiceError.of(error["status"], error["kind"], error["message"]))
            else:
                answer.set_result((message["answer"], payload))

    def _ended(self, started: _Started, gone: _Gone) -> None:
        if not started.done():
            started.set_exception(ServiceError("the engine died while it loaded the models"))
        if not gone.done():  # cancelled by `close`
            gone.set_result(None)

    def _kill(self, why: str) -> None:
        _log.error("the engine is stuck (%s): ending it", why)
        self.models = []
        self._process.kill()

    async def _guard(self) -> None:
        """Ends the process when it gives no sign of life.

        Silent steps are counted, not seconds: this process may have been suspended as well.
        """
        silent = 0
        while True:
            self._heard = False
            await asyncio.sleep(self.options["sign_seconds"])
            silent = 0 if self._heard or not self.ready else silent + 1
            if silent > _SIGNS:
                silent = 0
                self._kill(f"no sign of life for {self.options['engine_seconds']:g} s")

    async def _watch(self, gone: _Gone) -> None:
        """Restarts the engine each time it dies."""
        wait, since = _BACKOFF[0], time.monotonic()
        while True:
            await gone
            self.models = []
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(ModelsUnavailable())
            await asyncio.to_thread(self._process.join)
            _log.error("the engine died (exit code %s): restarting it", self._process.exitcode)
            wait = _BACKOFF[0] if time.monotonic() - since > _CALM else min(2 * wait, _BACKOFF[1])
            await asyncio.sleep(wait)
            self.restarts += 1
            since = time.monotonic()
            loop = asyncio.get_running_loop()
            started, gone = loop.create_future(), loop.create_future()
            await asyncio.to_thread(self._spawn, started, gone)
            try:
                async with asyncio.timeout(_LOADING):
                    self.models = await started
            except TimeoutError:
                self._kill(f"no models after {_LOADING:g} s")
            except ServiceError as error:
                _log.error("the models cannot be loaded: %s", error)
            else:
                self.send("emotion", enabled=self.options["emotion"])  # they may have been switched meanwhile


def _main(connection: Connection, options: dict[str, Any]) -> None:
    from e2v_port.service.worker import serve  # only in the process: it imports the models

    serve(connection, options)

"""The engine as the service sees it: a process that holds the models, started again when it dies."""

import asyncio
import json
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from e2v_port.errors import E2VError

__all__ = ["Engine", "EngineError", "EngineGone"]

_BACKOFF = (0.1, 10.0)  # seconds before it is started again: doubled with each death, up to the second
_Outbox: TypeAlias = "queue.SimpleQueue[tuple[dict[str, Any], bytes]]"
_Started: TypeAlias = "asyncio.Future[list[dict[str, Any]]]"
_Gone: TypeAlias = "asyncio.Future[None]"
_CALM = 60.0  # seconds after which a death is the first again


class EngineError(Exception):
    """The engine's answer is an error.

    Attributes:
        status: As in HTTP.
        kind: One word.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class EngineGone(EngineError):
    """The engine died, or is not ready yet."""

    def __init__(self) -> None:
        super().__init__(503, "unavailable", "the models are being loaded again: try again in a few seconds")


class Engine:
    """Starts the engine's process, sends it what to do and waits for its answers.

    A message is a JSON object; where its `body` says so, bytes follow. It carries a number, which the answer has too.
    JSON, not pickle: a decoder that hostile audio got the better of cannot make this process do anything.

    Attributes:
        models: What is loaded, as `GET /v1/models` tells it; empty while nothing is.
        pid: Of the process.
        restarts: How often it was started again.
    """

    def __init__(self, options: dict[str, Any], report: Callable[[int, float], None]) -> None:
        """Makes the handle; `start` starts the process.

        Args:
            options: model, dimensional, runtime, dtype, offline, max_seconds, speakers, emotion.
            report: Is told of each batch how many clips and how many seconds of audio went through a model.
        """
        self.options = options
        self.models: list[dict[str, Any]] = []
        self.pid: int | None = None
        self.restarts = 0
        self._report = report
        self._pending: dict[int, asyncio.Future[tuple[dict[str, Any], bytes]]] = {}
        self._number = 0
        self._outbox: _Outbox = queue.SimpleQueue()
        self._process: Any = None
        self._watcher: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return bool(self.models)

    async def start(self) -> None:
        """Starts the process and waits until its models are loaded.

        Raises:
            E2VError: They cannot be loaded: its message is that of `e2v_port.load`.
        """
        loop = asyncio.get_running_loop()
        started, gone = loop.create_future(), loop.create_future()
        await asyncio.to_thread(self._spawn, started, gone)
        self.models = await started
        self._watcher = asyncio.create_task(self._watch(gone))

    async def call(self, op: str, body: bytes = b"", **fields: Any) -> tuple[dict[str, Any], bytes]:
        """Sends a message and returns the answer, with the bytes that follow it.

        Where the waiting task is cancelled, the engine is told to leave it.

        Raises:
            EngineError: The engine's answer is an error.
            EngineGone: It died, or is not ready.
        """
        if not self.ready:
            raise EngineGone
        self._number += 1
        number = self._number
        answer: asyncio.Future[tuple[dict[str, Any], bytes]] = asyncio.get_running_loop().create_future()
        self._pending[number] = answer
        self._outbox.put(({"id": number, "op": op, "sent": time.monotonic(), **fields}, body))
        try:
            return await answer
        except asyncio.CancelledError:
            self.tell("cancel", call=number)
            raise
        finally:
            del self._pending[number]

    async def switch(self, enabled: bool) -> None:
        """Switches emotions on or off; when it returns, no model begins to run while they are off."""
        self.options["emotion"] = enabled
        with suppress(EngineGone):  # it is told when it is there again
            await self.call("emotion", enabled=enabled)

    def tell(self, op: str, **fields: Any) -> None:
        """Sends a message that has no answer."""
        self._outbox.put(({"id": 0, "op": op, **fields}, b""))

    async def close(self) -> None:
        """Ends the process, whatever it is doing."""
        self.models = []
        if self._watcher:
            self._watcher.cancel()
        self.tell("exit")
        if self._process is not None:
            await asyncio.to_thread(self._process.join, 5)
            self._process.kill()

    def _spawn(self, started: _Started, gone: _Gone) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # threads that wait for work leave the cores to others
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        self._process = context.Process(target=_main, args=(theirs, self.options), daemon=True, name="e2v engine")
        self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self.pid = self._process.pid
        self._outbox = queue.SimpleQueue()
        loop = started.get_loop()
        threading.Thread(target=self._write, args=(ours, self._outbox), daemon=True, name="to the engine").start()
        threading.Thread(
            target=self._read, args=(ours, loop, started, gone), daemon=True, name="from the engine"
        ).start()

    @staticmethod
    def _write(connection: Connection, outbox: _Outbox) -> None:
        with suppress(OSError):  # it died: the reader says so
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
        if "failed" in message:
            started.set_exception(E2VError(message["failed"]))
        elif "ready" in message:
            started.set_result(message["ready"])
        elif "batch" in message:
            self._report(message["batch"], message["seconds"])
        else:
            answer = self._pending.get(message["id"])
            if answer is None or answer.done():
                return
            if error := message.get("error"):
                answer.set_exception(EngineError(error["status"], error["kind"], error["message"]))
            else:
                answer.set_result((message["answer"], payload))

    def _ended(self, started: _Started, gone: _Gone) -> None:
        if not started.done():
            started.set_exception(E2VError("the process that holds the models died while it loaded them"))
        if not gone.done():  # it is cancelled where the end was wanted
            gone.set_result(None)

    async def _watch(self, gone: _Gone) -> None:
        """Waits for the engine's death, and starts it again."""
        wait, since = _BACKOFF[0], time.monotonic()
        while True:
            await gone
            self.models = []
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(EngineGone())
            await asyncio.to_thread(self._process.join)
            print(f"the engine died (exit code {self._process.exitcode}): it is started again", file=sys.stderr)
            wait = _BACKOFF[0] if time.monotonic() - since > _CALM else min(2 * wait, _BACKOFF[1])
            await asyncio.sleep(wait)
            self.restarts += 1
            since = time.monotonic()
            loop = asyncio.get_running_loop()
            started, gone = loop.create_future(), loop.create_future()
            await asyncio.to_thread(self._spawn, started, gone)
            try:
                self.models = await started
            except E2VError as error:
                print(f"the models cannot be loaded: {error}", file=sys.stderr)
            else:
                self.tell("emotion", enabled=self.options["emotion"])  # it may have been switched meanwhile


def _main(connection: Connection, options: dict[str, Any]) -> None:
    from e2v_port.service.worker import serve  # only there: it imports torch

    serve(connection, options)

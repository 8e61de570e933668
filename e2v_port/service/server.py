"""The service's process: its port, its connections, its start and its end."""

import asyncio
import logging
import resource
import signal
import socket
import time
from asyncio import TimerHandle
from functools import partial
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from e2v_port.errors import E2VError
from e2v_port.service.gate import Gate, is_loopback
from e2v_port.service.routes import UPLOADS, application
from e2v_port.service.state import Service, Settings

__all__ = ["run"]

_MESSAGE_BYTES = 1 << 20  # of a WebSocket's message: 32 s of 16-bit samples at 16 kHz
_HEAD_BYTES = 1 << 16  # of a request's line and headers
_STALLED = 15.0  # seconds in which a client takes nothing of its answer before it is cut off


class _Connection(HttpToolsProtocol):
    """uvicorn's connection, which does not wait for ever: for a head, for a body nobody wants, for a slow reader."""

    def __init__(self, most: int, head_seconds: float, **uvicorn: Any) -> None:
        """Makes a connection.

        Args:
            most: Connections at a time; one more is closed at once.
            head_seconds: From the connection, or the first byte of a further request, to the end of its headers.
            uvicorn: What uvicorn passes.
        """
        super().__init__(**uvicorn)
        self._most, self._head_seconds = most, head_seconds
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuses it where there are too many."""
        if len(self.connections) >= self._most:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets it."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; those of a head are counted and timed."""
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket has its own limits
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.transport.abort()
        # Between requests, or in a body whose request is answered already and which is thrown away.
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def on_message_begin(self) -> None:
        """Begins a head."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Ends it."""
        self._in_head = False
        self._head_arrived()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it is written."""
        super().pause_writing()
        self._check_reader(None)

    def timeout_keep_alive_handler(self) -> None:
        """Ends an idle connection."""
        if self.transport.get_write_buffer_size():
            self._check_reader(None)
        super().timeout_keep_alive_handler()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self.transport.abort)

    def _head_arrived(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _check_reader(self, before: int | None) -> None:
        """Cuts off a client that takes nothing."""
        size = self.transport.get_write_buffer_size()
        if before is not None and size >= before > 0:
            self.transport.abort()
        elif size:
            self.loop.call_later(_STALLED, self._check_reader, size)


class _Server(uvicorn.Server):
    """uvicorn, which says when it is there, and lets streams end before it goes."""

    def __init__(self, config: uvicorn.Config, service: Service, address: str) -> None:
        super().__init__(config)
        self._service, self._address = service, address

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(f"e2v serve: ready at {self._address}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._service.draining.set()
        until = time.monotonic() + self._service.settings.drain_seconds
        while self._service.streams and time.monotonic() < until:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT; then finishes what it was asked before.

    Raises:
        E2VError: The port is taken, or the models cannot be loaded.
    """
    settings.check()
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    listener = _listener(settings)
    with listener:
        service = Service(settings)
        expiry = None
        try:
            await service.engine.start()
            gate = Gate(
                application(service),
                service.telemetry,
                token=settings.token.get_secret_value() if settings.token else None,
                loopback=is_loopback(settings.host),
                max_body=int(settings.max_body * 1e6),
                uploads=UPLOADS,
                idle_seconds=settings.idle_seconds,
                body_seconds=settings.body_seconds,
            )
            config = uvicorn.Config(
                gate,
                http=cast(Any, partial(_Connection, settings.max_connections, settings.head_seconds)),
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                ws_max_size=_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                ws_ping_timeout=60,  # a client is not read from while the engine has not taken its last samples
                timeout_graceful_shutdown=int(settings.drain_seconds),
            )
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)  # the gate's lines say it all
            expiry = asyncio.create_task(service.expire())
            # uvicorn raises the signal again that ended it: SIGTERM asked for an end, and this is one.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            await _Server(config, service, _address(listener)).serve([listener])
        finally:
            if expiry:
                expiry.cancel()
            await service.engine.close()
            if service.history:
                service.history.close()


def _listener(settings: Settings) -> socket.socket:
    """Takes the port before anything is loaded."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.max_connections + 100
    if soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise E2VError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): "
            f"name another, or --port 0 for a free one"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

"""Runs the service: takes the port, loads the models, serves, and shuts down in order."""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import uvicorn
from starlette.middleware.cors import CORSMiddleware

from e2v_port.errors import ServiceError
from e2v_port.service.http.connections import LimitedConnection
from e2v_port.service.http.gate import Gate
from e2v_port.service.http.host import ignoring_sigterm, more_open_files, quiet_uvicorn
from e2v_port.service.http.routes import UPLOADS, application, routes
from e2v_port.service.settings import Settings
from e2v_port.service.state import Service

__all__ = ["run"]

_MESSAGE_BYTES = 1 << 20  # of a WebSocket message: 32 s of 16-bit samples at 16 kHz
_PING_SECONDS = 60  # a client is not read from, nor its pongs seen, until the engine has taken its last samples
_SPARE_FILES = 100  # open files besides connections


def run(settings: Settings, on_ready: Callable[[str], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the running requests.

    Leaves the log levels, the signal handlers and the limit on open files as they were.

    Args:
        settings: Settings of the service.
        on_ready: Called with the address once requests are answered.

    Raises:
        ServiceError: The port is taken, the models cannot be loaded, or the settings are unsafe.
    """
    settings.check()
    with more_open_files(settings.max_connections + _SPARE_FILES), quiet_uvicorn():
        asyncio.run(_run(settings, on_ready or (lambda _: None)))


async def _run(settings: Settings, on_ready: Callable[[str], None]) -> None:
    with _listener(settings) as listener, ExitStack() as signals:  # the port first: before anything is loaded
        service = Service(settings)
        expiry = None
        try:
            await service.engine.start()
            signals.enter_context(ignoring_sigterm())  # until then it may end the program
            expiry = asyncio.create_task(service.expire())
            await _Server(_config(service), service, partial(on_ready, _address(listener))).serve([listener])
        finally:
            if expiry:
                expiry.cancel()
            await service.engine.close()
            if service.history:
                service.history.close()


def _config(service: Service) -> uvicorn.Config:
    settings = service.settings
    app = application(service)
    gate = Gate(app, service.telemetry, settings, routes(app), UPLOADS)
    return uvicorn.Config(
        _shared(gate, settings.allow_origin) if settings.allow_origin else gate,
        http=cast(Any, partial(LimitedConnection, settings.max_connections, settings.head_seconds)),
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ws_max_size=_MESSAGE_BYTES,
        ws_per_message_deflate=False,
        ws_ping_timeout=_PING_SECONDS,
        timeout_graceful_shutdown=int(settings.drain_seconds),
    )


def _shared(gate: Gate, origins: tuple[str, ...]) -> CORSMiddleware:
    """Lets the pages of other origins read answers: CORS, without cookies, which the service does not use."""
    return CORSMiddleware(
        gate,
        allow_origins=origins,
        allow_methods=("GET", "POST", "PUT", "DELETE"),
        allow_headers=("Authorization", "Content-Type"),
        expose_headers=("Retry-After", "X-Request-Id"),
        allow_private_network=True,
    )


class _Server(uvicorn.Server):
    """uvicorn's server, which reports when it is ready and lets streams end before it stops."""

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._service, self._on_ready = service, on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        self._service.draining.set()
        deadline = time.monotonic() + self._service.settings.drain_seconds
        while self._service.streams and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        await super().shutdown(sockets)


def _listener(settings: Settings) -> socket.socket:
    """Binds the port."""
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
        raise ServiceError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): "
            f"choose another --port, or --port 0 for a free one"
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"

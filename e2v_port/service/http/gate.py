"""The gate in front of the application: access checks, limits on bodies, one log line and one metric per request."""

import asyncio
import hmac
import json
import logging
import time
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2v_port.errors import RequestRefused, ServiceError
from e2v_port.service.settings import Settings, is_loopback
from e2v_port.service.telemetry import Telemetry

__all__ = ["SUBPROTOCOL", "Gate", "Routes", "error_body", "error_headers"]

Routes: TypeAlias = Mapping[str, frozenset[str]]
"""Names of the query parameters of each route, by `METHOD PATH`; a WebSocket has the method `WS`."""

SUBPROTOCOL = "e2v"  # of the WebSocket
_TOKEN = "e2v.token."
_SMALL_BODY = 1 << 16  # bytes of a body without audio
_PAGE = "/page/"  # files of the page
_NO_TOKEN_NEEDED = ("/", "/healthz", "/readyz")  # and everything below /page/
_FOR_PEOPLE = ("/", "/docs")  # a link on another site may open them

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; worker-src 'self' blob:; "
        b"style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
)

_log = logging.getLogger(__name__)


def error_body(error: ServiceError, request_id: str) -> dict[str, Any]:
    """Returns the body of an error response: a kind for programs, and one line that names the remedy."""
    return {"error": {"kind": error.kind, "message": str(error), "request_id": request_id}}


def error_headers(error: ServiceError) -> dict[str, str]:
    """Returns the headers that belong to an error response."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 408: {"Connection": "close"}}.get(error.status, {})
    return headers if error.retry_after is None else {**headers, "Retry-After": str(error.retry_after)}


@dataclass(frozen=True)
class _Limits:
    """Limits on request bodies.

    Attributes:
        uploads: Paths that accept audio.
        audio_bytes: Largest body for one of these paths.
        idle_seconds: Longest pause within a body.
        body_seconds: Time for a whole body.
    """

    uploads: frozenset[str]
    audio_bytes: int
    idle_seconds: float
    body_seconds: float


class Gate:
    """Lets a request through to the application, or refuses it.

    Attributes:
        app: The application.
        telemetry: Counts requests and errors.
        limits: Limits on request bodies.
    """

    def __init__(
        self, app: ASGIApp, telemetry: Telemetry, settings: Settings, routes: Routes, uploads: frozenset[str]
    ) -> None:
        """Puts a gate in front of an application.

        Args:
            app: The application.
            telemetry: Counts requests and errors.
            settings: Host, token and limits.
            routes: Routes of the application, with their query parameters.
            uploads: Paths that accept audio.
        """
        self.app, self.telemetry, self.routes = app, telemetry, routes
        self.paths = {name.partition(" ")[2] for name in routes}
        self._token = settings.plain_token
        self._loopback = is_loopback(settings.host)
        self._allowed = frozenset(settings.allow_origin)
        self.limits = _Limits(uploads, settings.max_body_bytes, settings.idle_seconds, settings.body_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request or one WebSocket."""
        await _Passage(self, scope, receive, send).go(self.refusal(scope))

    def refusal(self, scope: Scope) -> RequestRefused | None:
        """Returns the error for a request that is refused on account of its headers; None for all others."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        return self._foreign(scope, headers) or self._unknown(scope, headers) or self._unreadable(scope)

    def _foreign(self, scope: Scope, headers: dict[bytes, str]) -> RequestRefused | None:
        """Returns the error for a request that a page of another site has caused."""
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if self._loopback and host is not None and not is_loopback(_hostname(host)):
            # DNS rebinding: any site can point its name at this machine, and its pages would be same-origin.
            message = "the service answers this machine only: address it as localhost or 127.0.0.1"
            return RequestRefused(message, status=403, kind="host")
        if origin is None:  # an image, a link or a form that sends GET: browsers say where it comes from
            if headers.get(b"sec-fetch-site", "none") in {"none", "same-origin"} or _is_visit(scope, headers):
                return None
        elif origin in self._allowed or (host and origin.lower().partition("://")[2] == host.lower()):
            return None
        message = "cross-origin request refused: allow the origin with --allow-origin, or use the service's own page"
        return RequestRefused(message, status=403, kind="origin")

    def _unknown(self, scope: Scope, headers: dict[bytes, str]) -> RequestRefused | None:
        """Returns the error for a request without the token."""
        if self._token is None or scope["path"] in _NO_TOKEN_NEEDED or scope["path"].startswith(_PAGE):
            return None
        if any(hmac.compare_digest(token, self._token.encode()) for token in _tokens(scope, headers)):
            return None
        message = "missing or wrong token: send the header Authorization: Bearer TOKEN"
        return RequestRefused(message, status=401, kind="token")

    def _unreadable(self, scope: Scope) -> RequestRefused | None:
        """Returns the error for query parameters that the route would ignore."""
        known = self.routes.get(_route(scope))
        if known is None:  # the application answers 404 or 405
            return None
        try:
            names = [name for name, _ in parse_qsl(scope["query_string"].decode(), True, errors="strict")]
        except ValueError:
            return RequestRefused("the query cannot be read: encode it as UTF-8")
        for i, name in enumerate(names):
            shown = ascii(name) if len(name) <= 40 else f"{name[:37]!a}..."
            if name in names[:i]:
                return RequestRefused(f"query {shown}: given twice, leave one out")
            if name not in known:
                near = get_close_matches(name[:40], known, 1) or sorted(known)
                remedy = f"known here: {', '.join(near)}" if near else "this route takes none"
                return RequestRefused(f"query {shown}: no such parameter; {remedy}")
        return None


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.app, self.telemetry, self.limits = gate.app, gate.telemetry, gate.limits
        self.scope, self._receive, self._send = scope, receive, send
        self.paths = gate.paths
        self.id = uuid.uuid4().hex[:16]
        self.is_upload = scope["path"] in self.limits.uploads
        self.limit = self.limits.audio_bytes if self.is_upload else _SMALL_BODY
        self.deadline = 0.0
        self.body_done = scope["type"] != "http"
        self.declared = next((int(v) for k, v in scope["headers"] if k == b"content-length" and v.isdigit()), 0)
        self.received = self.sent = 0
        self.status = 0

    async def go(self, refusal: RequestRefused | None) -> None:
        """Answers with the refusal if there is one, otherwise passes the request on."""
        started = time.perf_counter()
        self.deadline = asyncio.get_running_loop().time() + self.limits.body_seconds
        self.scope.setdefault("state", {})["request_id"] = self.id
        try:
            if refusal:
                await self.answer(refusal)
            else:
                await self.app(self.scope, self.receive, self.send)
        except Exception:
            _log.exception("%s internal error", self.id)
            if not self.status:
                await self.answer(ServiceError("internal error: see the service log"))
        finally:
            self.record(time.perf_counter() - started)

    def record(self, seconds: float) -> None:
        """Logs and counts the request, without any words or emotions."""
        method, _, path = _route(self.scope).partition(" ")
        route = path if path in self.paths else "none"
        self.telemetry.latency.labels(route, str(self.status)).observe(seconds)
        sizes = f"{self.received} B in {self.sent} B out"
        _log.info("%s %s %s %s %.1f ms %s", self.id, method, route, self.status, 1000 * seconds, sizes)

    async def answer(self, error: ServiceError) -> None:
        """Sends an error response."""
        self.telemetry.errors.labels(error.kind).inc()
        prefix = "websocket.http" if self.scope["type"] == "websocket" else "http"
        body = json.dumps(error_body(error, self.id)).encode()
        headers = [(name.lower().encode(), value.encode()) for name, value in error_headers(error).items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": f"{prefix}.response.start", "status": error.status, "headers": headers})
        await self.send({"type": f"{prefix}.response.body", "body": body})

    async def receive(self) -> Message:
        """Receives the next message; while the body lasts, within the limits of time and size."""
        message = await (self._receive() if self.body_done else self.receive_in_time())
        if message["type"] == "http.request":
            self.body_done = not message.get("more_body", False)
            self.received += len(message.get("body", b""))
            self.check_size(self.received)
        elif message["type"] == "websocket.receive":
            self.received += len(message.get("bytes") or message.get("text") or b"")
        return message

    async def receive_in_time(self) -> Message:
        """Receives the next part of a body, or raises RequestRefused."""
        self.check_size(self.declared)
        left = min(self.limits.idle_seconds, self.deadline - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout(left):
                return await self._receive()
        except TimeoutError:
            self.body_done = True
            message = "the body did not arrive in time: send it faster, or in a compressed format"
            raise RequestRefused(message, status=408, kind="timeout") from None

    def check_size(self, size: int) -> None:
        """Raises RequestRefused for a body that is too large."""
        if size > self.limit:
            self.body_done = True
            remedy = "send FLAC, Opus or MP3, or split the clip" if self.is_upload else "send the documented fields"
            message = f"the body is larger than {self.limit} bytes: {remedy}"
            raise RequestRefused(message, status=413, kind="too_large")

    async def send(self, message: Message) -> None:
        """Sends a message; a response gets the headers that all of them have."""
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            missing = [header for header in _HEADERS if header[0] not in given]
            message["headers"] = [*message["headers"], *missing, (b"x-request-id", self.id.encode())]
        elif message["type"] == "websocket.accept":
            self.status = 101
        self.sent += len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        await self._send(message)


def _route(scope: Scope) -> str:
    """Returns `METHOD PATH` of a request; all files of the page are one route."""
    path = f"{_PAGE}*" if scope["path"].startswith(_PAGE) else scope["path"]
    return f"{scope.get('method', 'WS')} {path}"


def _is_visit(scope: Scope, headers: dict[bytes, str]) -> bool:
    """Returns whether somebody opens the page or the documentation, in a window of their own."""
    wanted = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest"))
    return scope.get("method") == "GET" and scope["path"] in _FOR_PEOPLE and wanted == ("navigate", "document")


def _tokens(scope: Scope, headers: dict[bytes, str]) -> Iterator[bytes]:
    """Yields the tokens that a request offers."""
    kind, _, token = headers.get(b"authorization", "").partition(" ")
    if kind.lower() == "bearer":
        yield token.strip().encode()
    for name in scope.get("subprotocols", ()):  # a browser cannot set headers on a WebSocket
        if name.startswith(_TOKEN):
            with suppress(ValueError):
                yield urlsafe_b64decode(name.removeprefix(_TOKEN) + "==")


def _hostname(host: str) -> str:
    """Returns a Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]

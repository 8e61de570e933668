"""What stands before the service: who may ask, how slowly, how much; and one line in the log for each request."""

import asyncio
import hmac
import ipaddress
import json
import sys
import time
import traceback
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from e2v_port.service.telemetry import Telemetry

__all__ = ["Gate", "Problem", "error_body", "is_loopback"]

SUBPROTOCOL = "e2v"  # spoken on the WebSocket; a browser may offer it together with "token.TOKEN"
_SMALL_BODY = 1 << 16  # bytes of a body that holds no audio
_OPEN = ("/", "/healthz", "/readyz")  # without a token, like all below /page/

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


class Problem(HTTPException):
    """A request that is refused.

    Attributes:
        kind: One word that a program can tell it by.
    """

    def __init__(self, status: int, kind: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, message, headers)
        self.kind = kind


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """Returns what every error looks like: a kind, and one line that names the remedy."""
    line = " ".join(message.split())
    return {"error": {"kind": kind, "message": line, "request_id": request_id}}


def is_loopback(host: str) -> bool:
    """Tells whether nobody but this machine reaches a host."""
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class Gate:
    """Passes on the requests that may be answered; watches how each goes on."""

    def __init__(
        self,
        app: ASGIApp,
        telemetry: Telemetry,
        *,
        token: str | None,
        loopback: bool,
        max_body: int,
        uploads: frozenset[str],
        idle_seconds: float,
        body_seconds: float,
    ) -> None:
        """Makes the gate.

        Args:
            app: What is behind it.
            telemetry: Counts requests and errors.
            token: What `Authorization: Bearer` has to say, if anything.
            loopback: Whether the service listens on this machine alone: it then answers to no other name.
            max_body: Bytes of a body to one of `uploads`.
            uploads: Paths that take audio.
            idle_seconds: How long a client may send nothing in the middle of a body.
            body_seconds: How long it may take over all of it.
        """
        self._app, self._telemetry = app, telemetry
        self._token, self._loopback = token, loopback
        self._max_body, self._uploads = max_body, uploads
        self._idle_seconds, self._body_seconds = idle_seconds, body_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or one WebSocket."""
        await _Passage(self, scope, receive, send).go()

    def refusal(self, scope: Scope) -> Problem | None:
        """Says why a request is not answered, from its head alone."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if self._loopback and host is not None and not is_loopback(_hostname(host)):
            # A page of any site can give its name this machine's address, and would then be of the same origin.
            return Problem(403, "host", "this service is for this machine: ask for it as localhost or 127.0.0.1")
        if origin is not None and (host is None or urlsplit(origin).netloc.lower() != host.lower()):
            return Problem(403, "origin", "a page of another site may not ask: use this service's own page")
        path = scope["path"]
        if self._token is None or path in _OPEN or path.startswith("/page/"):
            return None
        given = headers.get(b"authorization", "")
        offered = [given[7:]] if given[:7].lower() == "bearer " else []
        if scope["type"] == "websocket":  # where a browser can set no header
            offered += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
            offered += [name[6:] for name in scope["subprotocols"] if name.startswith("token.")]
        if any(hmac.compare_digest(each.strip().encode(), self._token.encode()) for each in offered):
            return None
        return Problem(
            401, "token", "send the service's token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
        )


class _Passage:
    """One request on its way through the gate."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send) -> None:
        self.gate, self.scope, self._receive, self._send = gate, scope, receive, send
        self.id = uuid.uuid4().hex[:16]
        self.limit = gate._max_body if scope["path"] in gate._uploads else _SMALL_BODY
        self.until = 0.0
        self.body_done = scope["type"] != "http"
        self.declared = next((int(v) for k, v in scope["headers"] if k == b"content-length" and v.isdigit()), 0)
        self.received = self.sent = 0
        self.status = 0

    async def go(self) -> None:
        started = time.perf_counter()
        self.until = asyncio.get_running_loop().time() + self.gate._body_seconds
        self.scope.setdefault("state", {})["request_id"] = self.id
        try:
            problem = self.gate.refusal(self.scope)
            if problem:
                await self.answer(problem)
            else:
                await self.gate._app(self.scope, self.receive, self.send)
        except Exception:
            traceback.print_exc()
            if not self.status:
                await self.answer(Problem(500, "internal", "an error of the service, which its log tells more of"))
        finally:
            seconds = time.perf_counter() - started
            route = getattr(self.scope.get("route"), "path", "none")
            method = self.scope.get("method", "WS")
            self.gate._telemetry.latency.labels(route, str(self.status)).observe(seconds)
            print(
                f"{self.id} {method} {route} {self.status} {1000 * seconds:.1f} ms "
                f"{self.received} B in {self.sent} B out",
                file=sys.stderr,
            )

    async def answer(self, problem: Problem) -> None:
        self.gate._telemetry.errors.labels(problem.kind).inc()
        prefix = "websocket.http" if self.scope["type"] == "websocket" else "http"
        body = json.dumps(error_body(problem.kind, problem.detail, self.id)).encode()
        headers = [(name.lower().encode(), value.encode()) for name, value in (problem.headers or {}).items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self.send({"type": f"{prefix}.response.start", "status": problem.status_code, "headers": headers})
        await self.send({"type": f"{prefix}.response.body", "body": body})

    async def receive(self) -> Message:
        """Receives with limits, as long as there is more of the body."""
        if self.body_done:
            message = await self._receive()
        else:
            self.check(self.declared)
            left = min(self.gate._idle_seconds, self.until - asyncio.get_running_loop().time())
            try:
                async with asyncio.timeout(left):
                    message = await self._receive()
            except TimeoutError:
                self.body_done = True
                raise Problem(
                    408, "timeout", "the body did not come in time: send it faster", {"Connection": "close"}
                ) from None
        if message["type"] == "http.request":
            self.body_done = not message.get("more_body", False)
            self.received += len(message.get("body", b""))
            self.check(self.received)
        elif message["type"] == "websocket.receive":
            self.received += len(message.get("bytes") or message.get("text") or b"")
        return message

    def check(self, size: int) -> None:
        if size > self.limit:
            self.body_done = True
            remedy = (
                "send FLAC, Opus or MP3, or cut it into parts" if self.limit > _SMALL_BODY else "nothing asks for that"
            )
            raise Problem(413, "too_large", f"a body of more than {self.limit} bytes is not taken: {remedy}")

    async def send(self, message: Message) -> None:
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            self.status = message["status"]
            names = {name for name, _ in message["headers"]}
            own = [header for header in _HEADERS if header[0] not in names]
            message["headers"] = [*message["headers"], *own, (b"x-request-id", self.id.encode())]
        elif message["type"] == "websocket.accept":
            self.status = 101
        self.sent += len(message.get("body") or message.get("bytes") or message.get("text") or b"")
        await self._send(message)


def _hostname(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.rsplit(":", 1)[0]

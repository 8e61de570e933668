"""Connections that cannot be held open for nothing: uvicorn's protocol with limits on slow and on idle clients."""

import asyncio
from asyncio import TimerHandle
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["LimitedConnection"]

_HEAD_BYTES = 1 << 16  # of a request line and its headers
_STALLED_SECONDS = 15.0  # without progress in reading a response, after which a client is cut off


class LimitedConnection(HttpToolsProtocol):
    """A connection of uvicorn that does not wait forever: not for headers, not for a discarded body, not for a reader.

    Attributes:
        transport: The connection itself, as in uvicorn.
    """

    def __init__(self, max_connections: int, head_seconds: float, **uvicorn: Any) -> None:
        """Makes a connection.

        Args:
            max_connections: Connections open at a time; any further one is closed at once.
            head_seconds: Time from the connection, or from the first byte of a further request, to the end of its
                headers.
            uvicorn: Arguments of uvicorn.
        """
        super().__init__(**uvicorn)
        self._max_connections, self._head_seconds = max_connections, head_seconds
        self._head_timer: TimerHandle | None = None
        self._head_bytes = 0
        self._in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accepts the connection, or closes it if there are too many."""
        if len(self.connections) >= self._max_connections:
            self.transport = transport
            transport.abort()
            return
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timer."""
        self._head_arrived()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handles bytes; those of headers are counted and timed."""
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket has other limits
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _HEAD_BYTES:
                self.transport.abort()
        # Between requests, or in a body that is discarded because its request has been answered.
        if self.cycle is None or self.cycle.response_complete:
            self._expect_head()

    def on_message_begin(self) -> None:
        """Starts to count the bytes of headers."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Stops the timer for headers."""
        self._in_head = False
        self._head_arrived()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        """Watches a client that reads its response more slowly than it is written."""
        super().pause_writing()
        self._check_reader(None)

    def timeout_keep_alive_handler(self) -> None:
        """Closes an idle connection, and watches one whose response has not been read."""
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
        """Cuts off a client that has read nothing since the last check."""
        size = self.transport.get_write_buffer_size()
        if before is not None and size >= before > 0:
            self.transport.abort()
        elif size:
            self.loop.call_later(_STALLED_SECONDS, self._check_reader, size)

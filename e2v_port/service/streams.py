"""Live audio over a WebSocket: samples come in, judgements go out; sessions of the engine do the work."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from e2v_port.errors import RequestRefused, ServiceError, ServiceUnavailable
from e2v_port.service import answers
from e2v_port.service.http.gate import SUBPROTOCOL, error_body
from e2v_port.service.state import Service

__all__ = ["START", "StreamSocket"]

START = '{"type": "start", "sampling_rate": 16000, "format": "s16le", "channels": 1, "channel": "mix", "speaker": null}'


class StreamSocket:
    """One WebSocket, from its start to its end."""

    def __init__(self, service: Service, websocket: WebSocket) -> None:
        self.service, self.websocket = service, websocket
        self.number = 0
        self.began = datetime.now(UTC)
        self.id: str = websocket.state.request_id

    async def go(self, words: str, language: str | None) -> None:
        """Serves the WebSocket until it closes; `words` and `language` are those of its address."""
        service, websocket = self.service, self.websocket
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        service.streams += 1
        try:
            if service.streams > service.settings.max_streams or service.draining.is_set():
                raise ServiceUnavailable("too many streams at a time: try again later")
            await self._run(words, language)
        except WebSocketDisconnect:
            pass
        except ServiceError as error:
            service.telemetry.errors.labels(error.kind).inc()
            code = {"overloaded": 1013, "unavailable": 1011, "internal": 1011}.get(error.kind, 1003)
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._send({"type": "error", **error_body(error, self.id)})
                await websocket.close(code)
        finally:
            service.streams -= 1
            if self.number:
                service.engine.send("close", stream=self.number)

    async def _run(self, words: str, language: str | None) -> None:
        engine = self.service.engine
        if words not in {"true", "false"}:
            raise RequestRefused("query 'words': give true or false")
        self.service.check_words(words == "true")
        if language is not None and words != "true":
            raise RequestRefused(answers.NO_TEXT)
        start = await self._start()
        self.number = self.service.next_stream()
        await engine.call("open", stream=self.number, words=words == "true", language=language, **start)
        about = {"emotion_enabled": self.service.enabled, "history": self.service.history is not None}
        await self._send({"type": "ready", "request_id": self.id, **about})
        while (data := await self._block()) is not None:
            try:
                answer, _ = await engine.call("push", data, stream=self.number)
            except ServiceError as error:
                if error.kind == "audio":  # the samples before it were acknowledged
                    answer, _ = await engine.call("finish", stream=self.number)
                    await self._give(answer["events"])
                raise
            await self._give(answer["events"])
            await self._note(answer["notes"])
            await self._send({"type": "ack", "samples": answer["samples"]})
        answer, _ = await engine.call("finish", stream=self.number)
        await self._give(answer["events"])
        await self._note(answer["notes"])
        read = {"transcript": answer["transcript"]} if answer["transcript"] else {}
        await self._send({"type": "done", "duration": answer["duration"], **read})
        await self.websocket.close(1001 if self.service.draining.is_set() else 1000)

    async def _start(self) -> dict[str, Any]:
        """Reads the start message."""
        try:
            async with asyncio.timeout(self.service.settings.head_seconds):
                message = await self._message()
        except TimeoutError:
            raise RequestRefused("no start message received: send it first", status=408, kind="timeout") from None
        if message.get("type") != "start":
            raise RequestRefused(f"the first message must be text: {START}", kind="stream")
        speaker = message.get("speaker")
        if isinstance(speaker, str) and (len(speaker) > 200 or not speaker.isprintable()):
            raise RequestRefused("speaker: send up to 200 printable characters, or null", kind="stream")
        fields = {"sampling_rate": None, "format": "s16le", "channels": 1, "channel": "mix", "speaker": None}
        if unknown := [name for name in message if name not in {"type", *fields}]:
            shown = ascii(unknown[0]) if len(unknown[0]) <= 40 else f"{unknown[0][:37]!a}..."
            raise RequestRefused(f"{shown} is no field of the start message: {START}", kind="stream")
        return {name: message.get(name, default) for name, default in fields.items()}

    async def _block(self) -> bytes | None:
        """Reads the next samples; None at the end of the stream or when the service shuts down."""
        message = asyncio.ensure_future(self._message())
        draining = asyncio.ensure_future(self.service.draining.wait())
        try:
            await asyncio.wait((message, draining), return_when=asyncio.FIRST_COMPLETED)
            if not message.done():
                return None
            found = message.result()
        finally:
            message.cancel()
            draining.cancel()
        if found.get("type") == "end":
            return None
        if "data" not in found:
            raise RequestRefused('send samples as binary messages, then {"type": "end"}', kind="stream")
        data: bytes = found["data"]
        return data

    async def _message(self) -> dict[str, Any]:
        """Reads a message: a JSON object, or {"data": bytes}."""
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message["code"])
        if message.get("bytes") is not None:
            return {"data": message["bytes"]}
        try:
            found = json.loads(message["text"])
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or "data" in found:
            raise RequestRefused(f"a text message must be a JSON object: {START}", kind="stream")
        return found

    async def _give(self, events: list[dict[str, Any]]) -> None:
        """Sends judged segments, and stores the final ones."""
        for event in events:
            segment = event["segment"]
            if not self.service.enabled:
                segment["emotion"] = None
            if event["type"] == "final":
                client = self.websocket.headers.get("user-agent", "")[:200] or None
                await self.service.store({"segments": [segment]}, self.began, client)
            await self._send(event)

    async def _note(self, notes: list[dict[str, str]]) -> None:
        """Sends what must be known about the sound."""
        for note in notes:
            await self._send({"type": "note", **note})

    async def _send(self, message: dict[str, Any]) -> None:
        """Sends a message; disconnects a client that does not take it in time."""
        try:
            async with asyncio.timeout(self.service.settings.body_seconds):
                await self.websocket.send_text(json.dumps(message))
        except TimeoutError:
            raise WebSocketDisconnect(1011) from None

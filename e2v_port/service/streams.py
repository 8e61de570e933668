"""Live audio over a WebSocket: samples come in, judgements go out; the engine's sessions do the work."""

import asyncio
import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect

from e2v_port.service.engine import EngineError
from e2v_port.service.gate import SUBPROTOCOL, error_body
from e2v_port.service.state import Service

__all__ = ["START", "StreamSocket"]

START = '{"type": "start", "sampling_rate": 16000, "format": "s16le", "channels": 1, "speaker": null}'


class StreamSocket:
    """One WebSocket, from its start to its end."""

    def __init__(self, service: Service, websocket: WebSocket) -> None:
        self.service, self.websocket = service, websocket
        self.number = 0
        self.began = datetime.now(UTC)
        self.id: str = websocket.state.request_id

    async def go(self) -> None:
        """Answers it."""
        service, websocket = self.service, self.websocket
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        service.streams += 1
        try:
            if service.streams > service.settings.max_streams or service.draining.is_set():
                raise EngineError(503, "overloaded", "too many streams at a time: try again later")
            await self._run()
        except WebSocketDisconnect:
            pass
        except EngineError as error:
            service.telemetry.errors.labels(error.kind).inc()
            code = {"overloaded": 1013, "unavailable": 1011, "internal": 1011}.get(error.kind, 1003)
            with suppress(WebSocketDisconnect, RuntimeError):
                await self._send({"type": "error", **error_body(error.kind, str(error), self.id)})
                await websocket.close(code)
        finally:
            service.streams -= 1
            if self.number:
                service.engine.tell("close", stream=self.number)

    async def _run(self) -> None:
        engine = self.service.engine
        start = await self._start()
        self.service.stream_number += 1
        self.number = self.service.stream_number
        await engine.call("open", stream=self.number, **start)
        await self._send({"type": "ready", "request_id": self.id})
        while (data := await self._block()) is not None:
            try:
                answer, _ = await engine.call("push", data, stream=self.number)
            except EngineError as error:
                if error.kind == "audio":  # what came before it was acknowledged
                    answer, _ = await engine.call("finish", stream=self.number)
                    await self._give(answer["events"])
                raise
            await self._give(answer["events"])
            await self._send({"type": "ack", "samples": answer["samples"]})
        answer, _ = await engine.call("finish", stream=self.number)
        await self._give(answer["events"])
        await self._send({"type": "done", "duration": answer["duration"]})
        await self.websocket.close(1001 if self.service.draining.is_set() else 1000)

    async def _start(self) -> dict[str, Any]:
        """Reads the first message."""
        try:
            async with asyncio.timeout(self.service.settings.head_seconds):
                message = await self._message()
        except TimeoutError:
            raise EngineError(408, "timeout", "nothing came: send a start message first") from None
        if message.get("type") != "start":
            raise EngineError(422, "stream", f"the first message is a text: {START}")
        speaker = message.get("speaker")
        if isinstance(speaker, str) and (len(speaker) > 200 or not speaker.isprintable()):
            raise EngineError(422, "stream", "speaker: give a name of up to 200 printable characters, or null")
        fields = {"sampling_rate": None, "format": "s16le", "channels": 1, "speaker": None}
        return {name: message.get(name, default) for name, default in fields.items()}

    async def _block(self) -> bytes | None:
        """Reads the next samples; None at the end, which is also that of the service."""
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
            raise EngineError(422, "stream", 'send samples as binary messages, and {"type": "end"} behind the last')
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
            raise EngineError(422, "stream", f"a text message is a JSON object: {START}")
        return found

    async def _give(self, events: list[dict[str, Any]]) -> None:
        """Sends judgements, and stores those that are final."""
        for event in events:
            segment = event["segment"]
            if not self.service.enabled:
                segment["emotion"] = None
            if event["type"] == "final":
                client = self.websocket.headers.get("user-agent", "")[:200] or None
                await self.service.store({"segments": [segment]}, self.began, client)
            await self._send(event)

    async def _send(self, message: dict[str, Any]) -> None:
        """Sends a message, to a client that takes it."""
        try:
            async with asyncio.timeout(self.service.settings.body_seconds):
                await self.websocket.send_text(json.dumps(message))
        except TimeoutError:
            raise WebSocketDisconnect(1011) from None

"""Reads request bodies that hold audio: the audio itself, or a form with the audio and a text beside it."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from e2v_port.errors import RequestRefused
from e2v_port.service.state import Service

__all__ = ["Upload", "received"]


@dataclass
class Upload:
    """Content of a request body.

    Attributes:
        audio: Bytes of the audio file.
        name: Filename in the form; None for a plain body.
        beside: The text in the form; None if there is none.
    """

    audio: bytes
    name: str | None = None
    beside: str | None = None


@asynccontextmanager
async def received(service: Service, request: Request, beside: str = "segments") -> AsyncIterator[Upload]:
    """Reads a body, and lets its request run for as long as the context lasts.

    Args:
        service: The service.
        request: The request.
        beside: Name of the field that a form may hold besides `file`.

    Raises:
        RequestRefused: The body holds no audio or is malformed.
        ServiceUnavailable: There is no room for it.
    """
    service.need_room()
    async with service.holding(request) as chunks:
        upload = await _read(request, chunks, beside, service.settings.max_body_bytes)
        if not upload.audio:
            message = "no audio received: send the file as the body, or as the multipart field `file`"
            raise RequestRefused(message, status=400, kind="empty")
        with service.slot():
            yield upload


async def _read(request: Request, chunks: AsyncIterator[bytes], beside: str, most: int) -> Upload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        return Upload(b"".join([chunk async for chunk in chunks]))
    if kind != "multipart/form-data":
        message = f"{kind} is not supported: send multipart/form-data, or the audio itself as the body"
        raise RequestRefused(message, status=415, kind="media_type")
    return await _read_form(request, chunks, beside, most)


async def _read_form(request: Request, chunks: AsyncIterator[bytes], beside: str, most: int) -> Upload:
    parser = MultiPartParser(
        request.headers, cast(AsyncGenerator[bytes, None], chunks), max_files=2, max_fields=4, max_part_size=most
    )
    parser.spool_max_size = most  # beyond this, parts would go to a temporary file
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise _malformed(f"malformed multipart/form-data: {error.message}") from error
    parts: dict[str, bytes | str] = {}
    name = None
    for key, value in form.multi_items():
        if key not in {"file", beside} or key in parts:
            raise _malformed(f"unexpected form field: send one field `file` and, optionally, one field `{beside}`")
        if isinstance(value, UploadFile):
            name = value.filename if key == "file" else name
            parts[key] = await value.read()
            await value.close()
        else:
            parts[key] = value
    audio, text = parts.get("file", b""), parts.get(beside)
    if isinstance(audio, str):
        raise _malformed("the form field `file` holds text: send it as a file, with a filename")
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return Upload(audio, name, text)


def _malformed(message: str) -> RequestRefused:
    return RequestRefused(message, status=400, kind="multipart")

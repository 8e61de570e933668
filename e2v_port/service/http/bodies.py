"""Reads request bodies that hold audio: the audio itself, or a form with the audio and its segments."""

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

_FIELDS = frozenset({"file", "segments"})


@dataclass
class Upload:
    """Content of a request body.

    Attributes:
        audio: Bytes of the audio file.
        name: Filename in the form; None for a plain body.
        segments: Segments in the form, in any of the supported formats; None if there are none.
    """

    audio: bytes
    name: str | None = None
    segments: str | None = None


@asynccontextmanager
async def received(service: Service, request: Request) -> AsyncIterator[Upload]:
    """Reads a body, and lets its request run for as long as the context lasts.

    Raises:
        RequestRefused: The body holds no audio or is malformed.
        ServiceUnavailable: There is no room for it.
    """
    service.need_room()
    async with service.holding(request) as chunks:
        upload = await _read(request, chunks, service.settings.max_body_bytes)
        if not upload.audio:
            message = "no audio received: send the file as the body, or as the multipart field `file`"
            raise RequestRefused(message, status=400, kind="empty")
        with service.slot():
            yield upload


async def _read(request: Request, chunks: AsyncIterator[bytes], most: int) -> Upload:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("multipart/"):
        return Upload(b"".join([chunk async for chunk in chunks]))
    if kind != "multipart/form-data":
        message = f"{kind} is not supported: send multipart/form-data, or the audio itself as the body"
        raise RequestRefused(message, status=415, kind="media_type")
    return await _read_form(request, chunks, most)


async def _read_form(request: Request, chunks: AsyncIterator[bytes], most: int) -> Upload:
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
        if key not in _FIELDS or key in parts:
            raise _malformed("unexpected form field: send one field `file` and, optionally, one field `segments`")
        if isinstance(value, UploadFile):
            name = value.filename if key == "file" else name
            parts[key] = await value.read()
            await value.close()
        else:
            parts[key] = value
    audio, segments = parts.get("file", b""), parts.get("segments")
    if isinstance(audio, str):
        raise _malformed("the form field `file` holds text: send it as a file, with a filename")
    if isinstance(segments, bytes):
        segments = segments.decode("utf-8", "surrogateescape")
    return Upload(audio, name, segments)


def _malformed(message: str) -> RequestRefused:
    return RequestRefused(message, status=400, kind="multipart")

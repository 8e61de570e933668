"""Opens clips, and shows decoders the parts of a file that they are to read."""

import errno
import io
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import accumulate
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, BinaryIO, cast

from e2v_port.audio.clip import Clip
from e2v_port.audio.notes import Note
from e2v_port.errors import AudioError

__all__ = ["BLOCK_FRAMES", "Call", "Pieces", "Source", "open_clip"]

BLOCK_FRAMES = 1 << 16  # decoded at a time, so that memory follows the result, not channels or header

Call = Callable[..., Any]
"""Calls a function of a decoder, with its arguments by name, perhaps in another thread."""

_MAX_BYTES = 1 << 32  # of a pipe or file object: the longest that a WAV file can be
_MAX_BYTES_HELD = 1 << 26  # held in memory; longer pipes and file objects go to a temporary file


def open_clip(clip: Clip) -> BinaryIO:
    """Opens a path, or copies a file object, so that closing the result leaves the caller's file open.

    Args:
        clip: A path or a binary file object.

    Returns:
        A seekable file.

    Raises:
        AudioError: The clip is neither, was opened as text, is empty, or is longer than 4 GiB.
        OSError: The clip cannot be read.
    """
    file = _opened(clip)
    if file.seekable():
        return file
    with file:
        return _copied(file)


def _opened(clip: Clip) -> BinaryIO:
    try:
        if isinstance(clip, str | os.PathLike):
            return open(clip, "rb")
        if hasattr(clip, "read"):
            return _copied(cast(BinaryIO, clip))
    except io.UnsupportedOperation as error:
        raise OSError("not open for reading") from error
    except ValueError as error:  # a path with a null character, a closed file
        raise OSError(str(error)) from error
    raise AudioError(
        "not a clip: pass a path, a numpy array (np.asarray(list), tensor.numpy()) "
        "or a binary file object (io.BytesIO around bytes)"
    )


def _copied(file: BinaryIO) -> BinaryIO:
    with ExitStack() as failed:
        copy = failed.enter_context(SpooledTemporaryFile(_MAX_BYTES_HELD))
        while chunk := file.read(1 << 20):
            if not isinstance(chunk, bytes):
                raise AudioError("opened as text: open it with mode 'rb'")
            _write(copy, chunk)
            if copy.tell() > _MAX_BYTES:
                raise AudioError(f"more than {_MAX_BYTES >> 30} GiB: cut it into parts")
        if not copy.tell():
            raise AudioError("no bytes to read: rewind it with .seek(0), or check what writes it")
        failed.pop_all()
        return cast(BinaryIO, copy)


def _write(copy: SpooledTemporaryFile[bytes], chunk: bytes) -> None:
    try:
        copy.write(chunk)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise AudioError(
            f"no space left for a temporary copy in {gettempdir()}: free some there, or set TMPDIR to another folder"
        ) from error


class Source:
    """A file to decode.

    Attributes:
        size: Its length, in bytes.
        rate: Its sampling rate, in Hz; None until it is decoded.
        notes: What a user must know about it; complete once it is decoded.
        error: The OSError that a read raised, if any.

    Args:
        file: A seekable file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, io.SEEK_END)
        self.rate: int | None = None
        self.notes: list[Note] = []
        self.error: OSError | None = None

    def read(self, start: int, size: int) -> bytes:
        """Returns bytes from a position on, fewer at the end.

        An OSError ends the file and is kept: the callbacks of a decoder would print it and cut the clip short. So does
        a file that was closed, by its owner or by the garbage collector, which may come to a decoder after its file.
        """
        try:
            self._file.seek(start)
            return self._file.read(size)
        except OSError as error:
            self.error = error
        except ValueError as error:
            self.error = OSError(str(error))
        return b""


class Pieces:
    """A file made of parts of another and of bytes, for the callbacks of decoders.

    It has no `name`, so that no decoder guesses a format from one.

    Args:
        source: The file.
        pieces: Ranges of positions in it, and bytes.
    """

    def __init__(self, source: Source, pieces: Sequence[range | bytes]) -> None:
        self._source, self._pieces = source, [piece for piece in pieces if len(piece)]
        self._starts = [0, *accumulate(map(len, self._pieces))]
        self.size = self._starts.pop()
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        """Returns the next bytes, fewer at the end."""
        data = b""
        left = self.size - self._at if size < 0 else size
        while left > 0 and self._at < self.size:
            index = bisect_right(self._starts, self._at) - 1
            piece, skip = self._pieces[index], self._at - self._starts[index]
            part = piece[skip : skip + left]
            found = part if isinstance(part, bytes) else self._source.read(part.start, len(part))
            if not found:
                break
            data += found
            left -= len(found)
            self._at += len(found)
        return data

    def readinto(self, buffer: Any) -> int:
        """Fills a buffer with the next bytes, and returns their number."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position; a false header may point before the start, and nothing then moves."""
        at = offset + (0, self._at, self.size)[whence]
        if at >= 0:
            self._at = at
        return self._at

    def tell(self) -> int:
        """Returns the position."""
        return self._at

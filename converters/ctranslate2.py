"""Reads model.bin, the file in which CTranslate2 stores a model.

Version 6 of the format, little-endian throughout:

    uint32 version; string kind of the model; uint32 revision of that kind
    uint32 count, then for each variable:
        string name; uint8 axes; uint32 length of each; uint8 type; uint32 bytes; the numbers
    uint32 count, then for each alias: string alias; string variable

A string is a uint16 length, its bytes, and a zero, which the length includes. Of several equal variables one is stored,
and the others are aliases of it. Source: `ModelSpec._serialize` in CTranslate2's specs/model_spec.py.
"""

import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import CheckpointError
from e2v_port.unpickling.tensors import DTYPES, Tensor, contiguous, mapped

__all__ = ["read", "recognize"]

VERSION = 6
TYPES = tuple(DTYPES[name] for name in ("float32", "int8", "int16", "int32", "float16", "bfloat16"))  # by number
MOST = 100_000  # variables, or aliases; the largest Whisper has 1300 variables
MOST_AXES = 8


def recognize(path: Path) -> bool:
    """Returns whether a file is a model.bin of any version."""
    with path.open("rb") as file:
        head = file.read(70)
    kind, end, _ = head[6:].partition(b"\0")
    return head[1:4] == bytes(3) and bool(end) and kind.endswith(b"Spec") and head[4:6] == bytes([len(kind) + 1, 0])


def read(path: Path) -> tuple[list[tuple[str, Tensor]], dict[str, int | str]]:
    """Reads a model.bin; the file is mapped into memory, so that each tensor is read where it is used.

    Returns:
        Name and values of each tensor, aliases last; and settings: the variables that are a single integer, and the
        `kind` and `revision` of the model.

    Raises:
        CheckpointError: The file is damaged, of another version, or quantized.
    """
    try:
        return _Reader(mapped(path)).model()
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{path} is not a usable model.bin of CTranslate2: {error}") from error


class _Reader:
    """A position in a model.bin. Its methods raise ValueError or struct.error for a damaged one."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.at = 0

    def model(self) -> tuple[list[tuple[str, Tensor]], dict[str, int | str]]:
        (version,) = self.numbers("<I")
        if version != VERSION:
            raise ValueError(f"its format is version {version}, and only {VERSION} is known: convert the model anew")
        settings: dict[str, int | str] = {"kind": self.string()}
        (settings["revision"],) = self.numbers("<I")
        entries = []
        for name, values in self.variables():
            if values.shape or values.dtype.floating:
                entries.append((name, values))
            elif name in settings:
                raise ValueError(f"{name!r} occurs twice")
            else:
                settings[name] = int(values.numpy())
        if quantized := [f"{name} ({values.dtype.name})" for name, values in entries if not values.dtype.floating]:
            raise ValueError(
                f"{len(quantized)} of its tensors are quantized, {quantized[0]} among them, and cannot be restored "
                "exactly: use the model in float16, as ct2-transformers-converter --quantization float16 writes it"
            )
        by_name = dict(entries)
        for alias, name in self.aliases():
            if name not in by_name:
                raise ValueError(f"{alias!r} is an alias of {name!r}, which it does not hold")
            entries.append((alias, by_name[name]))
        if left := len(self.data) - self.at:
            raise ValueError(f"{left} bytes follow its end")
        return entries, settings

    def variables(self) -> Iterator[tuple[str, Tensor]]:
        for _ in range(self.count()):
            name = self.string()
            (axes,) = self.numbers("<B")
            shape = self.numbers(f"<{axes}I")
            kind, size = self.numbers("<BI")
            if kind >= len(TYPES):
                raise ValueError(f"{name!r} is of the unknown type {kind}")
            number = prod(shape)
            if axes > MOST_AXES or not number or size != number * TYPES[kind].itemsize:
                raise ValueError(
                    f"{name!r} has {size} bytes for {axes} axes {list(shape[:MOST_AXES])} of {TYPES[kind].name}"
                )
            start = self.skip(size)
            yield name, contiguous(self.data[start : self.at], TYPES[kind], shape)

    def aliases(self) -> Iterator[tuple[str, str]]:
        for _ in range(self.count()):
            yield self.string(), self.string()

    def count(self) -> int:
        (count,) = self.numbers("<I")
        if count > MOST:
            raise ValueError(f"it counts {count} variables or aliases, more than the {MOST} that are plausible")
        return int(count)

    def string(self) -> str:
        (length,) = self.numbers("<H")
        start = self.skip(length)
        text = self.data[start : self.at].tobytes()
        if not text.endswith(b"\0"):
            raise ValueError(f"the name at byte {start} does not end in a zero")
        return text[:-1].decode()  # UnicodeDecodeError is a ValueError

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack_from(layout, self.data.data, self.skip(struct.calcsize(layout)))

    def skip(self, size: int) -> int:
        """Moves on by a number of bytes and returns the position before; ValueError if fewer are left."""
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data)} in the middle of something: is the download complete?")
        return start

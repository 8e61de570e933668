"""Tensors that lie in a mapped file: read where they are used, and checked before that."""

import mmap
import os
import zlib
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DTYPES", "Dtype", "NoTensor", "Storage", "Tensor", "contiguous", "mapped"]

MOST_AXES = 32
_BLOCK = 1 << 24  # bytes


@dataclass(frozen=True)
class Dtype:
    """A type of numbers.

    Attributes:
        name: Name in torch.
        code: Name in numpy; for a type that numpy lacks, that of as many bytes.
    """

    name: str
    code: str

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return np.dtype(self.code).itemsize

    @property
    def floating(self) -> bool:
        """Whether its values are real numbers that numpy can hold, if only after widening."""
        return self.name == "torch.bfloat16" or self.code.startswith("<f")

    @property
    def integer(self) -> bool:
        """Whether its values are whole numbers."""
        return not self.floating and self.code[1] in "iu"


DTYPES = {
    name: Dtype(f"torch.{name}", code)
    for name, code in {
        "float64": "<f8",
        "float32": "<f4",
        "float16": "<f2",
        "bfloat16": "<u2",
        "int64": "<i8",
        "int32": "<i4",
        "int16": "<i2",
        "int8": "|i1",
        "uint64": "<u8",
        "uint32": "<u4",
        "uint16": "<u2",
        "uint8": "|u1",
        "bool": "|b1",
        "complex128": "<c16",
        "complex64": "<c8",
        "complex32": "|V4",
        "qint32": "|V4",
        "qint8": "|V1",
        "quint8": "|V1",
        "quint4x2": "|V1",
        "quint2x4": "|V1",
        "float8_e4m3fn": "|V1",
        "float8_e4m3fnuz": "|V1",
        "float8_e5m2": "|V1",
        "float8_e5m2fnuz": "|V1",
    }.items()
}


@dataclass(eq=False)
class Storage:
    """Bytes that one tensor or several are views of.

    Attributes:
        data: The bytes.
        name: What messages call them.
        checksum: Their CRC-32; 0 if it is not known.
    """

    data: NDArray[np.uint8]
    name: str = ""
    checksum: int = 0
    _sound: bool = field(default=False, init=False)

    def check(self) -> None:
        """Raises ValueError if the bytes do not have their checksum. They are read once."""
        if self._sound or not self.checksum:
            return
        found = 0
        for start in range(0, self.data.size, _BLOCK):
            found = zlib.crc32(self.data[start : start + _BLOCK].data, found)
        if found != self.checksum:
            raise ValueError(f"{self.name!r} does not have its checksum: download or copy the file again")
        self._sound = True


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage.

    Attributes:
        storage: Where its numbers are.
        dtype: Type of the numbers.
        offset: Position of its first number in the storage, in numbers.
        shape: Length of each axis.
        strides: Distance between neighbors along each axis, in numbers.

    Raises:
        ValueError: It reaches beyond the storage.
    """

    storage: Storage
    dtype: Dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        for numbers in (self.shape, self.strides):
            if type(numbers) is not tuple or len(numbers) > MOST_AXES:
                raise ValueError(f"a tensor has no tuple of at most {MOST_AXES} sizes and strides")
        for number in (self.offset, *self.shape, *self.strides):
            if type(number) is not int or number < 0:
                raise ValueError("a tensor has a size, a stride or an offset that is no natural number")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"a tensor has {len(self.shape)} axes and {len(self.strides)} strides")
        if 0 in self.shape:
            end = self.offset
            if prod(length for length in self.shape if length) > np.iinfo(np.int32).max:
                raise ValueError("an empty tensor has an impossible shape")
        else:
            steps = zip(self.shape, self.strides, strict=True)
            end = self.offset + sum((length - 1) * stride for length, stride in steps) + 1
        if end * self.dtype.itemsize > self.storage.data.size:
            raise ValueError(
                f"a tensor of shape {list(self.shape)} reaches beyond the {self.storage.data.size} bytes of "
                f"{self.storage.name!r}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of all its numbers; more than the storage has where numbers are repeated."""
        return prod(self.shape) * self.dtype.itemsize

    def numpy(self) -> NDArray[Any]:
        """Returns its numbers, as a view of the mapped file that cannot be written to; bfloat16 widened to float32.

        Raises:
            ValueError: The storage does not have its checksum.
        """
        self.storage.check()
        if 0 in self.shape:
            return np.empty(self.shape, "<f4" if self.dtype.name == "torch.bfloat16" else self.dtype.code)
        size = self.dtype.itemsize
        # An axis of length 1 may have any stride, even one that overflows.
        steps = [stride * size if length > 1 else 0 for length, stride in zip(self.shape, self.strides, strict=True)]
        values: NDArray[Any] = np.ndarray(self.shape, self.dtype.code, self.storage.data, self.offset * size, steps)
        return _widened(values) if self.dtype.name == "torch.bfloat16" else values


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Returns bfloat16, which numpy lacks, as the float32 of the same values: its upper half are the same bits."""
    wide = np.zeros(bits.shape, "<u4")
    np.left_shift(bits, 16, out=wide, dtype=np.uint32)
    return wide.view("<f4")


def contiguous(data: NDArray[np.uint8], dtype: Dtype, shape: tuple[int, ...]) -> Tensor:
    """Returns the tensor that bytes are, number after number."""
    strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return Tensor(Storage(data), dtype, 0, shape, strides)


@dataclass(frozen=True, eq=False)
class NoTensor:
    """A tensor that is not made of plain numbers.

    Attributes:
        what: What it is instead.
    """

    what: str


def mapped(path: Path) -> NDArray[np.uint8]:
    """Returns the bytes of a file, read where they are used. It stays open while arrays made of them exist."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)

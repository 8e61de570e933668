"""Stores a model: a folder, such as one with model.safetensors and config.json, complete at every moment."""

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures import tensors
from e2v_port.architectures.config import DTYPES, ModelConfig
from e2v_port.architectures.quantization import GROUP, QUANTIZED, pack
from e2v_port.architectures.sensevoice import PIECES, TEXT
from e2v_port.architectures.shapes import Shape
from e2v_port.errors import CheckpointError
from e2v_port.files import identity, naming, sync

__all__ = ["may_replace", "placing", "store"]

# The files of a conversion; all but the first two may be missing.
CONVERTED = ("config.json", "model.safetensors", "model.npz", TEXT, PIECES)

SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}  # bytes per number, by safetensors' name of the type


def store(
    folder: Path,
    config: ModelConfig,
    arrays: Callable[[], Iterator[tuple[str, NDArray[Any]]]],
    *,
    npz: Path | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a folder with config.json and model.safetensors.

    Everything is written to a temporary folder, read back, compared bit by bit, and renamed. At every moment there is a
    complete model under the final name, or none.

    Args:
        folder: Folder to write; a model that is already there is replaced.
        config: Content of config.json.
        arrays: Returns name and values of everything in `tensors.contents(config.architecture)`, in any order. It is
            called twice, for writing and for comparing; the values are rounded to `config.dtype`, or packed.
        npz: File to move into the folder, as model.npz.
        beside: Content of further files by their names.

    Raises:
        CheckpointError: Tensors are unknown, missing, of the wrong shape or not finite (the message names all of them);
            the model has no matrix to pack; or the folder holds something other than a converted model.
    """
    if config.dtype in QUANTIZED and not tensors.packed(config.architecture):
        raise CheckpointError(
            f"{config.source.repository} cannot be stored as {config.dtype}: it has no matrix to pack (those of "
            f"transformer blocks whose width is a multiple of {GROUP}); use {', '.join(DTYPES)}"
        )
    with placing(folder, CONVERTED) as partial:
        weights = partial / "model.safetensors"
        _write_tensors(weights, config, arrays())
        _compare(weights, config, arrays())
        # Only the name of a folder can hold bytes that are not UTF-8; the escape is JSON's own.
        (partial / "config.json").write_bytes(config.to_json().encode("utf-8", "backslashreplace"))
        for name, content in (beside or {}).items():
            (partial / name).write_bytes(content)
        if npz:
            shutil.move(npz, partial / "model.npz")


@contextmanager
def placing(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """Yields a temporary folder with the same name; it replaces `folder` at the end, unless the block raises.

    At every moment there is a complete folder under the final name, or none.

    Args:
        folder: Folder to write; one of the same kind that is already there is replaced.
        names: Names of its files, as for `may_replace`.

    Raises:
        CheckpointError: The folder holds something other than these files.
    """
    if not may_replace(folder, names):
        kind = "a converted model" if names == CONVERTED else f"an earlier {names[1]}"
        raise CheckpointError(f"{folder} exists and holds more than {kind}: name another folder, or move it away")
    folder = folder.resolve()
    with naming(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
        try:
            partial = place / folder.name
            partial.mkdir()
            yield partial
            if folder.exists():
                partial.chmod(folder.stat().st_mode & 0o777)
            for path in (*partial.iterdir(), partial):
                sync(path)
            _replace(partial, folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(place, ignore_errors=True)


def may_replace(folder: Path, names: tuple[str, ...] = CONVERTED) -> bool:
    """Returns whether a folder can be replaced without loss: it is absent or empty, or holds only files of one kind.

    Args:
        folder: The folder.
        names: config.json and the names of the other files of that kind; all after the second may be missing. By
            default those of a conversion.
    """
    while True:
        before = identity(folder)
        with suppress(FileNotFoundError):  # another conversion may be replacing it
            answer = _is_ours(folder, names)
            if identity(folder) == before:
                return answer


def _is_ours(folder: Path, names: tuple[str, ...]) -> bool:
    try:
        entries = set(os.listdir(folder))  # a single call: between two the folder may appear or vanish
    except (FileNotFoundError, NotADirectoryError) as error:
        return isinstance(error, FileNotFoundError)
    # Other libraries store models in files of the same names.
    there = all(os.path.isfile(folder / name) for name in names[:2])
    ours = there and b'"converter": "e2v-port' in (folder / "config.json").read_bytes()
    return not entries or (ours and entries <= set(names))


def _replace(new: Path, folder: Path) -> None:
    """Renames a folder to a name that may be taken; the folder that had it is then named `new`, or deleted."""
    if not folder.exists() or not _exchange(new, folder):
        _replace_in_two_steps(new, folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names, so that neither is missing at any moment; returns False where the system cannot.

    Uses renameat2 with RENAME_EXCHANGE on Linux, renamex_np with RENAME_SWAP on macOS.
    """
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(*names, 2) == 0)
        return bool(ctypes.CDLL(None).renameat2(-100, names[0], -100, names[1], 2) == 0)  # absolute paths: any number
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False


def _replace_in_two_steps(new: Path, folder: Path) -> None:
    """Moves any folder of that name aside, and deletes it at the end."""
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old-"))
    old = aside / "0"
    try:
        for turn in count():
            try:
                os.rename(new, folder)  # an empty folder gives way
                return
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
            # Another conversion to the same name may remove the folder at the same moment, or put one there.
            old = aside / str(turn)
            with suppress(FileNotFoundError):
                os.rename(folder, old)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_tensors(path: Path, config: ModelConfig, arrays: Iterator[tuple[str, NDArray[Any]]]) -> None:
    """Streams tensors into a safetensors file, with one of them in memory at a time.

    The library's own writer needs all of them at once, and again as bytes.
    """
    header, offsets = _header(config)
    wanted = tensors.contents(config.architecture)
    found: dict[str, Shape] = {}
    lost = []
    with path.open("wb") as file:
        file.write(header)
        for name, values in arrays:
            found[name] = values.shape
            if values.shape != wanted.get(name):
                continue
            parts = _stored(name, values, config)
            if not all(map(_finite, parts.values())):
                lost.append(name)
            for part, array in parts.items():
                file.seek(len(header) + offsets[part])
                file.write(array.data)
        if problems := tensors.differences(found, wanted):
            raise CheckpointError(f"the tensors do not fit the configuration: {'; '.join(problems)}")
        if lost:
            raise CheckpointError(
                f"not finite as {config.dtype}: {', '.join(lost)}; the checkpoint is damaged"
                + (", or its range needs float32 or bfloat16" if config.dtype == "float16" else "")
            )


def _finite(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all())
    return array.dtype.itemsize != 2 or bool(((array & 0x7F80) != 0x7F80).all())  # bfloat16, or packed numbers


def _header(config: ModelConfig) -> tuple[bytes, dict[str, int]]:
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offsets = {}
    end = 0
    for name, (code, shape) in tensors.stored(config.architecture, config.dtype).items():
        offsets[name] = end
        end += SIZES[code] * int(np.prod(shape))
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text, offsets


def _compare(path: Path, config: ModelConfig, arrays: Iterator[tuple[str, NDArray[Any]]]) -> None:
    """Reads the file back and compares every bit with the source."""
    tensors.check(path, config.architecture, config.dtype)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        for name, values in arrays:
            for part, array in _stored(name, values, config).items():
                start, end = entries[part]["data_offsets"]
                file.seek(8 + length + start)
                if file.read(end - start) != array.tobytes():
                    raise CheckpointError(f"{path}: {part} was written incorrectly; check the disk and convert again")


def _stored(name: str, array: NDArray[Any], config: ModelConfig) -> dict[str, NDArray[Any]]:
    """Returns the entries of a tensor in the file, by name: the rounded tensor, or the three parts of a packed one."""
    if config.dtype in QUANTIZED and name in tensors.packed(config.architecture):
        return dict(zip(tensors.parts(name), pack(array, QUANTIZED[config.dtype]), strict=True))
    whole = name == tensors.MEANS or config.dtype in QUANTIZED
    return {name: _rounded(array, "float32" if whole else config.dtype)}


def _rounded(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Rounds to a type of 32 or 16 bits; bfloat16, which numpy lacks, is returned as its bits."""
    values = np.ascontiguousarray(array, dtype="<f4")
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):  # becomes infinite; the caller checks for that
            return values.astype("<f2")
    # The largest NaNs would wrap around to zero.
    bits = np.where(np.isnan(values), np.float32(np.nan), values).view("<u4")
    # Nearest, ties to even: add 0x7fff, and one more where the bit that becomes the lowest is set.
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")

"""Second half of a conversion: npz -> a folder with model.safetensors and config.json.

    python -m e2v_port.converters.weights IN.npz FOLDER [--dtype float16]

needs numpy and safetensors only: neither torch nor MLX.
"""

import argparse
import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from e2v_port import __version__, catalog, layout
from e2v_port.config import DTYPES, QUANTISED, ModelConfig, Source
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.files import identity
from e2v_port.quantisation import GROUP, pack

from . import emotion2vec, wav2small, wav2vec2
from .rules import Piece, plan

__all__ = ["may_replace", "store", "write"]

ABOUT = "checkpoint.json"  # as written by the first half, which cannot be imported without torch
SAMPLING_RATE = 16_000  # Hz, of every known model
SIZES = {"F32": 4, "F16": 2, "BF16": 2, "U32": 4}  # bytes, of the types as safetensors calls them


def _stored(name: str, array: NDArray[Any], config: ModelConfig) -> dict[str, NDArray[Any]]:
    """Returns what a tensor becomes in the file, by name: itself, rounded, or the three parts of a packed one."""
    if config.dtype in QUANTISED and name in layout.packed(config.architecture):
        return dict(zip(layout.parts(name), pack(array, QUANTISED[config.dtype]), strict=True))
    return {name: _rounded(array, config.arithmetic)}


def _rounded(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Rounds to a type of 32 or 16 bits; bfloat16, which numpy lacks, comes as its bits."""
    values = np.ascontiguousarray(array, dtype="<f4")
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):  # becomes infinite; the caller looks for that
            return values.astype("<f2")
    # The largest NaNs would wrap round to zero.
    bits = np.where(np.isnan(values), np.float32(np.nan), values).view("<u4")
    # Nearest, ties to even: add 0x7fff, and one more where the bit that becomes the last is set.
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


class _Npz:
    """The npz of the first half, read one tensor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._members = zipfile.ZipFile(path)
            if any(member.compress_type != zipfile.ZIP_STORED for member in self._members.infolist()):
                raise ValueError("it is compressed")
            if damaged := self._members.testzip():
                raise ValueError(f"{damaged!r} is damaged")
            about = json.loads(str(self.read(ABOUT)))
            self.config: dict[str, Any] | None = about["config"]
            self.tokens: list[str] = about["tokens"]
            self.preprocessor: dict[str, Any] | None = about["preprocessor"]
            self.source = Source(**about["source"])
            self.shapes = {name: shape for name, shape in self._shapes() if name != ABOUT}
            if len(self.shapes) != about["tensors"]:
                raise ValueError(f"{len(self.shapes)} of {about['tensors']} tensors are left")
        except (OSError, zipfile.BadZipFile, EOFError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no npz of python -m e2v_port.converters.checkpoint ({error}): write it again"
            ) from error

    def _shapes(self) -> Iterator[tuple[str, layout.Shape]]:
        for name in self._members.namelist():
            if name.endswith(".npy"):
                with self._members.open(name) as member:
                    np.lib.format.read_magic(member)
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                if dtype != np.float32 and name != f"{ABOUT}.npy":
                    raise ValueError(f"{name!r} is {dtype}")
                yield name.removesuffix(".npy"), shape

    def read(self, name: str) -> NDArray[Any]:
        try:
            with self._members.open(f"{name}.npy") as member:
                array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                return array
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise CheckpointError(f"{self.path}: {name} is damaged ({error}): write the npz again") from error

    def convert(self, pieces: list[Piece]) -> Iterator[tuple[str, NDArray[Any]]]:
        for piece in pieces:
            yield from piece.convert(*map(self.read, piece.sources)).items()


def _configure(npz: _Npz, dtype: str, note: Callable[[str], None]) -> tuple[ModelConfig, list[Piece]]:
    """Plans the conversion; all that is wrong with the checkpoint is told at once."""
    repository = npz.source.repository
    marked = (module.FAMILY for module in (wav2vec2, wav2small) if module.is_one(npz.shapes))
    family = next(marked, emotion2vec.FAMILY)
    pieces, targets, problems = plan(family.rules, npz.shapes)
    try:
        architecture, labels = family.describe(npz.config, npz.tokens, npz.preprocessor, targets, note)
    except CheckpointError as error:
        raise CheckpointError(f"{repository}: {'; '.join([str(error), *problems])}") from error
    if (head := architecture.num_labels) != len(labels):
        problems.append(f"{len(labels)} labels are named, the head has {head} rows")
    problems += layout.differences(targets, layout.tensors(architecture))
    if problems:
        raise CheckpointError(
            f"{repository}: the checkpoint does not fit its configuration, nothing was converted: {'; '.join(problems)}"
        )
    model = catalog.lookup(repository)
    config = ModelConfig(
        family=family.name,
        architecture=architecture,
        labels=labels,
        dtype=dtype,
        sampling_rate=SAMPLING_RATE,
        temperature=1.0,
        licence=model.licence if model else "not known here: see where the checkpoint came from",
        source=npz.source,
        converter=f"e2v-port {__version__}",
    )
    return config, pieces


def _write_tensors(path: Path, config: ModelConfig, arrays: Iterator[tuple[str, NDArray[Any]]]) -> None:
    """Streams tensors into a safetensors file, which holds one of them in memory at a time.

    The library's own writer wants all of them at once, and once more as bytes.
    """
    header, offsets = _header(config)
    wanted = layout.tensors(config.architecture)
    found: dict[str, layout.Shape] = {}
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
        if problems := layout.differences(found, wanted):
            raise CheckpointError(f"the tensors do not fit the configuration: {'; '.join(problems)}")
        if lost:
            raise CheckpointError(
                f"not finite as {config.dtype}: {', '.join(lost)}; the checkpoint is damaged, or its range needs "
                f"float32 or bfloat16"
            )
        _sync(file)


def _finite(array: NDArray[Any]) -> bool:
    if array.dtype.kind == "f":
        return bool(np.isfinite(array).all())
    return array.dtype.itemsize != 2 or bool(((array & 0x7F80) != 0x7F80).all())  # bfloat16, or packed numbers


def _header(config: ModelConfig) -> tuple[bytes, dict[str, int]]:
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    offsets = {}
    end = 0
    for name, (code, shape) in layout.stored(config.architecture, config.dtype).items():
        offsets[name] = end
        end += SIZES[code] * int(np.prod(shape))
        entries[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offsets[name], end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text, offsets


def _compare(path: Path, config: ModelConfig, arrays: Iterator[tuple[str, NDArray[Any]]]) -> None:
    """Reads the file back and compares every bit with the source."""
    layout.check(path, config.architecture, config.dtype)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        for name, values in arrays:
            for part, array in _stored(name, values, config).items():
                start, end = entries[part]["data_offsets"]
                file.seek(8 + length + start)
                if file.read(end - start) != array.tobytes():
                    raise CheckpointError(f"{path}: {part} did not survive writing; check the disk and convert again")


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def write(
    npz: Path,
    folder: Path,
    *,
    dtype: str = "float32",
    keep_npz: bool = False,
    note: Callable[[str], None] = lambda _: None,
) -> ModelConfig:
    """Writes the converted folder.

    Args:
        npz: As written by the first half.
        folder: As for `store`.
        dtype: `float32`, `float16` or `bfloat16`; `q8` or `q4`, for 8 or 4 bits a number.
        keep_npz: Whether to move the npz into the folder, as model.npz.
        note: Told what was inferred rather than read.

    Returns:
        What config.json says.

    Raises:
        CheckpointError: The npz is damaged; tensors are unknown, missing, misshapen or not finite (all are named);
            the model has nothing that could be packed; or the folder holds something else than a converted model.
    """
    source = _Npz(npz)
    config, pieces = _configure(source, dtype, note)
    store(folder, config, lambda: source.convert(pieces), npz=npz if keep_npz else None)
    return config


def store(
    folder: Path,
    config: ModelConfig,
    arrays: Callable[[], Iterator[tuple[str, NDArray[Any]]]],
    *,
    npz: Path | None = None,
) -> None:
    """Writes a folder with config.json and model.safetensors.

    Everything is written to a temporary folder, read back, compared bit by bit, and renamed: at any moment there is
    a whole model under the final name, or none.

    Args:
        folder: What to write; a model that is already there is replaced.
        config: What config.json shall say.
        arrays: Gives name and values of every tensor of `layout.tensors(config.architecture)`, in any order. It is
            called twice, for writing and for reading back, and the values are rounded to `config.dtype`, or packed.
        npz: A file to move into the folder, as model.npz.

    Raises:
        CheckpointError: Tensors are unknown, missing, misshapen or not finite (all are named); the model has nothing
            that could be packed; or the folder holds something else than a converted model.
    """
    if config.dtype in QUANTISED and not layout.packed(config.architecture):
        raise CheckpointError(
            f"{config.source.repository} cannot be stored as {config.dtype}, which packs the matrices of transformers "
            f"whose width is a multiple of {GROUP}: it has none; use {', '.join(DTYPES)}"
        )
    if not may_replace(folder):
        raise CheckpointError(
            f"{folder} exists and is more than a converted model: name another folder, or move it away"
        )
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.partial-"))
    try:
        weights = partial / "model.safetensors"
        _write_tensors(weights, config, arrays())
        _compare(weights, config, arrays())
        with (partial / "config.json").open("wb") as file:
            # Only the name of a folder can hold what UTF-8 cannot; its escape is JSON's own.
            file.write(config.to_json().encode("utf-8", "backslashreplace"))
            _sync(file)
        if npz:
            shutil.move(npz, partial / "model.npz")
        partial.chmod(0o755)  # mkdtemp's is for its owner alone
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def may_replace(folder: Path) -> bool:
    """Tells whether nothing is lost with a folder: it is absent, or holds what a conversion writes and no more."""
    while True:
        before = identity(folder)
        with suppress(FileNotFoundError):  # another conversion may just be replacing it
            answer = _is_ours(folder)
            if identity(folder) == before:
                return answer


def _is_ours(folder: Path) -> bool:
    try:
        entries = set(os.listdir(folder))  # one look: between two of them it may come or go
    except (FileNotFoundError, NotADirectoryError) as error:
        return isinstance(error, FileNotFoundError)
    # Models of other libraries are kept in files of the same names.
    ours = catalog.is_converted(folder) and b'"converter": "e2v-port' in (folder / "config.json").read_bytes()
    return not entries or (ours and entries <= {"config.json", "model.safetensors", "model.npz"})


def _replace(new: Path, folder: Path) -> None:
    """Renames a folder to a name that another may have; the other one is then called `new`, or gone."""
    if not folder.exists() or not _exchange(new, folder):
        _replace_in_two_steps(new, folder)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names, so that neither is missing at any moment; False where that cannot be done.

    By renameat2 with RENAME_EXCHANGE on Linux, renamex_np with RENAME_SWAP on macOS.
    """
    names = os.fsencode(one), os.fsencode(other)
    try:
        if sys.platform == "darwin":
            return bool(ctypes.CDLL(None).renamex_np(*names, 2) == 0)
        return bool(ctypes.CDLL(None).renameat2(-100, names[0], -100, names[1], 2) == 0)  # absolute paths: any number
    except (AttributeError, OSError, TypeError):  # no such function, or no such library
        return False


def _replace_in_two_steps(new: Path, folder: Path) -> None:
    """Sets aside what has the name, if anything, and deletes it in the end."""
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
            # Another conversion to the same name may take it away at the same moment, or put one there.
            old = aside / str(turn)
            with suppress(FileNotFoundError):
                os.rename(folder, old)
    except BaseException:
        if old.exists() and not folder.exists():
            os.rename(old, folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def main() -> None:
    """Command line of the second half."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.weights", description=__doc__.splitlines()[0])
    parser.add_argument("npz", type=Path, help="as written by python -m e2v_port.converters.checkpoint")
    parser.add_argument("folder", type=Path, help="the converted model to write")
    parser.add_argument("--dtype", choices=[*DTYPES, *QUANTISED], default="float32")
    arguments = parser.parse_args()
    try:
        write(arguments.npz, arguments.folder, dtype=arguments.dtype, note=print)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.folder} written")


if __name__ == "__main__":
    main()

"""Checkpoints of PyTorch before 1.6, which are no zip files: the only ones that are read through torch."""

import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2v_port.errors import CheckpointError
from e2v_port.quiet import quiet
from e2v_port.unpickling.tensors import DTYPES, NoTensor, Storage, Tensor
from e2v_port.unpickling.torch_save import UnsafeFile

if TYPE_CHECKING:
    import torch

__all__ = ["load", "recognize"]

MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")  # the first object of such a file


def recognize(path: Path) -> bool:
    """Returns whether a file is such a checkpoint, or a tar archive, as still older ones are."""
    with path.open("rb") as file:
        head = file.read(262)
    return MAGIC in head[:32] or head[257:] == b"ustar"


def load(path: Path) -> Any:
    """Reads what was saved.

    Such a file can neither be searched for globals beforehand nor mapped into memory: torch's own short list of allowed
    globals is the only protection.

    Raises:
        UnsafeFile: It names other classes or functions; the first of them is known.
        CheckpointError: torch is not installed.
        ValueError: The file is damaged; RuntimeError and others of torch's mean the same.
    """
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path} was saved in the format from before PyTorch 1.6, which only torch reads: pip install "
            '"e2v-port[torch]", or save it again with a newer PyTorch'
        ) from error
    try:
        with quiet():
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        cause = error.__context__ or error  # torch wraps it in advice that would be wrong here
        if found := re.search(r"GLOBAL (\S+)", str(cause)):
            raise UnsafeFile([found[1]]) from error
        raise ValueError(str(cause) or type(cause).__name__) from error
    except (AssertionError, EOFError, struct.error) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return _without_torch(loaded, {})


def _without_torch(value: Any, tables: dict[int, dict[Any, Any]]) -> Any:
    """Returns a table with its tensors as this package has them; one that occurs twice, or in itself, still does."""
    import torch

    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if not isinstance(value, Mapping):
        return value
    if id(value) not in tables:
        found = tables[id(value)] = {}
        found.update((name, _without_torch(part, tables)) for name, part in value.items())
    return tables[id(value)]


def _tensor(value: "torch.Tensor") -> Tensor | NoTensor:
    import torch

    dtype = DTYPES.get(str(value.dtype).removeprefix("torch."))
    if value.layout != torch.strided or value.is_neg() or dtype is None:
        return NoTensor(f"a tensor of {value.dtype}, {value.layout}")
    if value.device.type != "cpu":
        return NoTensor(f"a tensor of the {value.device.type} device, larger than its data")
    data = torch.empty(0, dtype=torch.uint8).set_(value.untyped_storage()).numpy()
    return Tensor(Storage(data), dtype, int(value.storage_offset()), tuple(value.shape), tuple(value.stride()))

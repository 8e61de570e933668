"""Reads a safetensors file; unlike in the library's own functions for numpy, tensors may be bfloat16."""

import json
from pathlib import Path

from safetensors import safe_open

from e2v_port.unpickling.tensors import DTYPES, NoTensor, Tensor, contiguous, mapped

__all__ = ["read"]

MOST = 100_000  # tensors
_CODES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}


def read(path: Path) -> dict[str, Tensor | NoTensor]:
    """Returns the tensors by name. The file is mapped into memory, and a tensor is read where it is used.

    Raises:
        SafetensorError: The file is damaged.
        OSError: It cannot be opened.
        ValueError: It holds too many tensors.
    """
    with safe_open(path, framework="np") as file:  # which checks that the tensors fill the file and do not overlap
        if (number := len(file.keys())) > MOST:
            raise ValueError(f"it holds {number} tensors: more than {MOST} are not read")
    data = mapped(path)
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    found: dict[str, Tensor | NoTensor] = {}
    entries = json.loads(data[8:start].tobytes())
    shared = entries.pop("__metadata__", {})
    for name, entry in entries.items():
        first, end = entry["data_offsets"]
        if code := _CODES.get(entry["dtype"]):
            found[name] = contiguous(data[start + first : start + end], DTYPES[code], tuple(entry["shape"]))
        else:
            found[name] = NoTensor(f"a tensor of {entry['dtype']}")
    # The library stores a tensor that two layers share once, and there the name of the other by its own.
    return found | {name: found[kept] for name, kept in shared.items() if kept in found and name not in found}

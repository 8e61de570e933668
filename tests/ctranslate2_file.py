"""Writes a model.bin as CTranslate2 does, after the order of its `ModelSpec._serialize`."""

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

TYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")


def model_bin(
    variables: Mapping[str, Any], aliases: Mapping[str, str] | None = None, kind: str = "WhisperSpec", revision: int = 3
) -> bytes:
    """Returns the content of a file.

    Args:
        variables: Values by name; or bits and the number of a type, for one that numpy lacks.
        aliases: Names of variables by their other names.
        kind: Kind of the model.
        revision: Revision of the kind.
    """
    parts = [struct.pack("<I", 6), _string(kind), struct.pack("<II", revision, len(variables))]
    for name, given in variables.items():
        values, code = given if isinstance(given, tuple) else (given, TYPES.index(np.asarray(given).dtype.name))
        array = np.asarray(values)
        parts += [_string(name), struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, code, array.nbytes)]
        parts.append(array.tobytes())
    parts.append(struct.pack("<I", len(aliases or {})))
    parts += [_string(text) for pair in (aliases or {}).items() for text in pair]
    return b"".join(parts)


def _string(text: str) -> bytes:
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

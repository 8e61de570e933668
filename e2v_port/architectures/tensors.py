"""The stored layout: the contract between the converter's output and the parameters of all runtimes."""

import json
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.quantization import GROUP, QUANTIZED, unpack
from e2v_port.architectures.shapes import Shape
from e2v_port.errors import CheckpointError

__all__ = ["MEANS", "check", "contents", "differences", "packed", "parameters", "parts", "read", "read_means", "stored"]

MEANS = "head.means"
"""Name of the mean embedding of each label, [labels, embed_dim], float32 whatever the rest is stored as.

It is taken over the training clips of the label, after the mean difference of each speaker from these means was taken
off. A row of zeros stands for a label without clips. No network needs it: `emotions.adaptation` does."""

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # safetensors' names
# numpy's name of each type, by that of safetensors. numpy has no bfloat16.
NUMBERS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}
# The largest known model has 403, packed. Reading a file with half a million empty ones would take seconds.
MAX_TENSORS = 10_000


def parameters(config: Architecture) -> int:
    """Returns the number of parameters of a model, before any packing."""
    return sum(prod(shape) for shape in config.tensors().values())


def contents(config: Architecture) -> dict[str, Shape]:
    """Returns name and shape of everything stored, before any packing: the network, and the means of its labels."""
    means = {MEANS: (config.num_labels, config.embed_dim)} if config.means else {}
    return config.tensors() | means


def packed(config: Architecture) -> list[str]:
    """Returns the names of the tensors that q8 and q4 pack, in the order of the forward pass; none for some models."""
    found = config.tensors().items()
    return [name for name, shape in found if config.packable(name, shape) and shape[-1] % GROUP == 0]


def stored(config: Architecture, dtype: str) -> dict[str, tuple[str, Shape]]:
    """Returns type and shape of every tensor in model.safetensors, in order.

    Args:
        config: Architecture of the model.
        dtype: Stored type, as in `ModelConfig.dtype`.

    Returns:
        Type (as safetensors calls it) and shape by name. A packed `NAME.weight` [out, in] becomes its numbers, [out, in
        * bits / 32], and `NAME.scales` and `NAME.biases`, [out, in / 64]: the names that MLX gives them.
    """
    to_pack = set(packed(config)) if dtype in QUANTIZED else set()
    entries: dict[str, tuple[str, Shape]] = {}
    for name, shape in contents(config).items():
        if name not in to_pack:
            entries[name] = ("F32" if name == MEANS or dtype in QUANTIZED else CODES[dtype], shape)
            continue
        rows, width = shape
        entries[name] = ("U32", (rows, width * QUANTIZED[dtype] // 32))
        entries |= dict.fromkeys(parts(name)[1:], ("F32", (rows, width // GROUP)))
    return entries


def parts(name: str) -> tuple[str, str, str]:
    """Returns the names of a packed tensor's numbers, scales and biases."""
    layer = name.removesuffix("weight")
    return name, f"{layer}scales", f"{layer}biases"


def differences(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    """Returns one line for every tensor that is missing, unexpected or of the wrong shape; none if the two agree."""
    return [
        *(f"missing {name} {list(wanted[name])}" for name in wanted if name not in found),
        *(f"unexpected {name} {list(found[name])}" for name in found if name not in wanted),
        *(
            f"{name} is {list(found[name])}, must be {list(wanted[name])}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ),
    ]


def check(weights: Path, config: Architecture, dtype: str) -> None:
    """Checks a model.safetensors against the layout without reading its data.

    Args:
        weights: Path of the file.
        config: Architecture whose tensors it must hold.
        dtype: Stored type, as in `ModelConfig.dtype`.

    Raises:
        CheckpointError: The file is damaged, or tensors are missing, unexpected, or of the wrong shape or type; the
            message names all of them.
    """
    # safe_open refuses overlapping and trailing data, which MLX's own reader would accept.
    from safetensors import SafetensorError, safe_open

    wanted = stored(config, dtype)
    try:
        with safe_open(weights, framework="np") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise CheckpointError(f"{weights} holds {len(names)} tensors: not a model of this kind")
            slices = {name: file.get_slice(name) for name in names}
            problems = differences(
                {name: tuple(part.get_shape()) for name, part in slices.items()},
                {name: shape for name, (_, shape) in wanted.items()},
            )
            problems += [
                f"{name} is stored as {part.get_dtype()}, must be {wanted[name][0]}"
                for name, part in slices.items()
                if name in wanted and part.get_dtype() != wanted[name][0]
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} cannot be read ({error}): convert the checkpoint again") from error
    if problems:
        raise CheckpointError(f"{weights} does not match its config.json: {'; '.join(problems)}")


def read(weights: Path, names: Iterable[str]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Reads tensors of a checked model.safetensors one by one, with numpy alone.

    Args:
        weights: Path of the file.
        names: Names of the tensors, before any packing.

    Yields:
        Names and values in float32, whatever is stored: 16 bits are widened, packed numbers unpacked.
    """
    with weights.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))

        def array(name: str) -> NDArray[Any]:
            entry = header[name]
            file.seek(8 + size + entry["data_offsets"][0])
            values: NDArray[Any] = np.fromfile(file, NUMBERS[entry["dtype"]], prod(entry["shape"]))
            if entry["dtype"] == "BF16":  # the upper half of a float32
                values = (values.astype("<u4") << 16).view("<f4")
            return values.reshape(entry["shape"])

        for name in names:
            packed_parts = header[name]["dtype"] == "U32"
            yield name, unpack(*map(array, parts(name))) if packed_parts else array(name).astype(np.float32, copy=False)


def read_means(weights: Path) -> NDArray[np.float32]:
    """Returns the mean embedding of each label, [labels, embed_dim], from a checked file that has them."""
    from safetensors import safe_open

    with safe_open(weights, framework="np") as file:
        means: NDArray[np.float32] = file.get_tensor(MEANS)
    return means

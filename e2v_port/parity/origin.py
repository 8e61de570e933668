"""Compares the weights of a converted model with those of the model it is said to be made from, tensor by tensor."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.quantization import QUANTIZED, unpack
from e2v_port.errors import E2VError
from e2v_port.parity.verify import Check

__all__ = ["ROUNDING", "compare"]

OWN = {"head", "readout"}  # parts that training adds
# Difference of a number from its origin, relative to the origin, that rounding to float16 makes at most. Below the
# smallest normal number of float16 it is relative to that number.
ROUNDING = 2.0**-11
SMALLEST = 2.0**-14


def compare(folder: Path, origin: Path) -> list[Check]:
    """Compares two converted models.

    Args:
        folder: Converted model. Its head and its readout are left out, and it may lack the last blocks of the origin.
        origin: Converted model that it is said to be made from, of the same dtype.

    Returns:
        For each part of the network, the largest difference of a number relative to the number in the origin. Numbers
        that went through float16 pass.

    Raises:
        E2VError: The two are of different families or sizes, so that there is nothing to compare.
    """
    from safetensors import safe_open

    config, other = ModelConfig.read(folder), ModelConfig.read(origin)
    shapes, others = config.architecture.tensors(), other.architecture.tensors()
    trunk = {name: shape for name, shape in shapes.items() if name.partition(".")[0] not in OWN}
    if config.family != other.family or any(others.get(name) != shape for name, shape in trunk.items()):
        raise E2VError(f"{folder} is not made from {other.source.repository}: the family or the sizes differ")
    worst: defaultdict[str, float] = defaultdict(float)
    with (
        safe_open(folder / "model.safetensors", "pt") as ours,
        safe_open(origin / "model.safetensors", "pt") as theirs,
    ):
        for name in trunk:
            found, wanted = _values(ours, config, name), _values(theirs, other, name)
            difference = np.abs(found - wanted) / np.maximum(np.abs(wanted), SMALLEST)
            worst[_part(name)] = max(worst[_part(name)], float(difference.max()))
    return [Check(f"weights of {part}", difference, ROUNDING) for part, difference in worst.items()]


def _part(name: str) -> str:
    """Returns the part that a tensor belongs to, e.g. `blocks.0` or `conv_layers`."""
    first, _, rest = name.partition(".")
    return f"{first}.{rest.partition('.')[0]}" if first.endswith("blocks") else first


def _values(file: Any, config: ModelConfig, name: str) -> NDArray[np.float32]:
    """Returns a tensor of an open model.safetensors, unpacked."""
    if config.dtype in QUANTIZED and name in tensors.packed(config.architecture):
        return unpack(*(file.get_tensor(part).numpy() for part in tensors.parts(name)))
    values: NDArray[np.float32] = file.get_tensor(name).float().numpy()
    return values

"""Random weights of the sizes that training leaves, for synthetic checkpoints."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.shapes import Shape

__all__ = ["pair", "trained_like"]


def pair(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    """Yields name and shape of a weight and of its bias."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def trained_like(name: str, values: NDArray[np.float32], scale: float = 1.0) -> NDArray[np.float32]:
    """Scales random values for a tensor so that no norm is one and no bias zero, and each layer keeps the variance.

    Args:
        name: Name of the tensor. `bias` at its end makes it a bias; of the others, one axis makes it a norm's gain.
        values: Drawn from a standard normal distribution.
        scale: Factor for the weights of a linear layer or a convolution.
    """
    if name.endswith("bias"):
        return np.float32(0.1) * values
    if values.ndim == 1:
        return np.float32(1) + np.float32(0.2) * values
    scaled: NDArray[Any] = values * np.float32(scale / np.sqrt(np.prod(values.shape[1:])))
    return scaled

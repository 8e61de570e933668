"""Weights packed as in MLX: groups of 8-bit or 4-bit numbers, each group with a scale and a bias."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GROUP", "QUANTIZED", "pack", "unpack"]

QUANTIZED = {"q8": 8, "q4": 4}  # bits per number, by stored dtype
GROUP = 64  # numbers; MLX's default

Array = NDArray[np.float32]


def pack(weight: NDArray[Any], bits: int) -> tuple[NDArray[np.uint32], Array, Array]:
    """Rounds a matrix.

    Args:
        weight: Matrix [rows, width], the width a multiple of 64.
        bits: Bits per number, 8 or 4.

    Returns:
        Numbers [rows, width * bits / 32], the first of a row in the lowest bits of its first word; scales and biases,
        both [rows, width / 64]. Where the matrix is not finite, scales or biases are not finite either.
    """
    rows = len(weight)
    groups = np.ascontiguousarray(weight, dtype="<f4").reshape(-1, GROUP)
    low, high = groups.min(1), groups.max(1)
    largest = np.float32(2**bits - 1)
    with np.errstate(over="ignore", invalid="ignore"):
        # 1e-7, and all other steps and their order: mlx/backend/cpu/quantized.cpp, `quantize`, of MLX 0.32.
        scales = np.maximum((high - low) / largest, np.float32(1e-7))
        negative = np.abs(low) > np.abs(high)
        scales = np.where(negative, scales, -scales)
        edges = np.where(negative, low, high)
        steps = np.rint(edges / scales)  # from the edge to zero
        none = steps == 0
        scales = np.where(none, scales, edges / np.where(none, np.float32(1), steps))
        biases = np.where(none, np.float32(0), edges)
        numbers = np.clip(np.rint((groups - biases[:, None]) / scales[:, None]), 0, largest).astype(np.uint8)
    if bits == 4:
        numbers = numbers[:, ::2] | numbers[:, 1::2] << 4
    return numbers.reshape(rows, -1).view("<u4"), scales.reshape(rows, -1), biases.reshape(rows, -1)


def unpack(numbers: NDArray[np.uint32], scales: Array, biases: Array) -> Array:
    """Returns the matrix [rows, width] that `pack` rounded to, bit for bit that of MLX's `mx.dequantize`."""
    rows, groups = scales.shape
    found = np.ascontiguousarray(numbers, dtype="<u4").view(np.uint8).reshape(rows, groups, -1)
    if found.shape[2] != GROUP:  # two to a byte
        found = np.stack([found & 15, found >> 4], -1).reshape(rows, groups, GROUP)
    weight = found.astype(np.float32)
    weight *= scales[:, :, None]
    weight += biases[:, :, None]
    return weight.reshape(rows, -1)

"""WavLM: what it adds to wav2vec2, and the buckets of distances that no checkpoint needs to store."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.wav2vec2 import Wav2vec2Config

__all__ = ["WavlmConfig", "buckets"]


@dataclass(frozen=True, kw_only=True)
class WavlmConfig(Wav2vec2Config):
    """Sizes of one WavLM (arXiv 2110.13900): a wav2vec2 whose attention has a gated bias of relative positions.

    Attributes:
        num_buckets: Buckets of distances between query and key, half of them for keys after the query.
        max_distance: Frames; all distances from here on share the last bucket of their half.
    """

    num_buckets: int
    max_distance: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
            raise ValueError(f"{self.num_buckets} buckets do not cover distances of up to {self.max_distance} frames")

    def packable(self, name: str, shape: Shape) -> bool:
        """Returns whether a tensor is a matrix of a block; not those of the gates, which have two rows."""
        return super().packable(name, shape) and ".gate." not in name

    def attention_bytes(self, samples: int) -> int:
        """Returns roughly the memory of bias, products and softmax of one block, and of the bias before its gate."""
        return super().attention_bytes(samples) * 4 // 3

    def _blocks(self, name: str, depth: int) -> dict[str, Shape]:
        stored: dict[str, Shape] = {"distances": (self.num_buckets, self.num_heads)}
        stored |= super()._blocks(name, depth)
        for i in range(depth):
            stored[f"{name}.{i}.gate.weight"] = (2, self.width // self.num_heads)
            stored[f"{name}.{i}.gate.bias"] = (2,)
            stored[f"{name}.{i}.gate.scale"] = (self.num_heads,)
        return stored

    def _block_operations(self, samples: int) -> dict[str, int]:
        counted = super()._block_operations(samples)
        return counted | {"attention": counted["attention"] + self.blocks * 4 * self.tokens(samples) * self.width}


def buckets(number: int, furthest: int) -> NDArray[np.int64]:
    """Returns the bucket of each distance from a query to a key: [2 * furthest + 1], from -furthest to furthest.

    A quarter of the buckets hold one distance each; another quarter hold ranges that grow with the logarithm of the
    distance. The other half are for keys after the query (T5, arXiv 1910.10683).

    Args:
        number: Buckets of both halves together.
        furthest: Frames; longer distances are in the same bucket.
    """
    half, exact = number // 2, number // 4
    at = np.arange(-furthest, furthest + 1)
    far = np.abs(at)
    spread = np.log(np.maximum(far, exact) / exact) / math.log(furthest / exact) * (half - exact)
    own = np.where(far < exact, far, np.minimum(exact + spread.astype(np.int64), half - 1))
    found: NDArray[np.int64] = own + half * (at > 0)
    return found

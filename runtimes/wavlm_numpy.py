"""WavLM in numpy. The twins are wavlm_torch.py and wavlm_mlx.py: the same classes.

Dimensions: T frames, D features per frame, H heads. The reference is transformers' WavLMModel (arXiv 2110.13900). All
but the blocks is wav2vec2.
"""

from collections.abc import Iterator

import numpy as np

from e2v_port.architectures.wavlm import WavlmConfig, buckets

from .layers_numpy import Array, Attention, LayerNorm, Mlp, Stored, Trace
from .wav2vec2_numpy import Wav2vec2

__all__ = ["Wavlm"]


class Gate:
    """Scales the bias of relative positions by the content of each frame and head."""

    def __init__(self, stored: Stored, heads: int) -> None:
        self.heads = heads
        self.weight, self.bias, self.scale = stored["weight"], stored["bias"], stored["scale"]

    def __call__(self, x: Array, places: Array) -> Array:
        """Returns the bias of attention [H, T, T], for what attention is given [T, D] and a bias [H, T, T]."""
        x = x.reshape(len(x), self.heads, -1).swapaxes(0, 1)  # [H, T, D/H]
        gates = 0.5 + 0.5 * np.tanh(0.5 * (x @ self.weight.T + self.bias))  # the sigmoid, without overflow; [H, T, 2]
        gate = gates[..., :1] * (gates[..., 1:] * self.scale[:, None, None] - 1) + 2
        out: Array = gate * places
        return out


class Block:
    """A block of wav2vec2, with a gated bias of relative positions in its attention."""

    def __init__(self, stored: Stored, config: WavlmConfig) -> None:
        self.pre_norm = config.pre_norm
        self.gate = Gate(stored["gate"], config.num_heads)
        self.attn = Attention(stored["attn"], config.num_heads)
        self.norm1 = LayerNorm(stored["norm1"], config.norm_eps)
        self.mlp = Mlp(stored["mlp"])
        self.norm2 = LayerNorm(stored["norm2"], config.norm_eps)

    def __call__(self, x: Array, places: Array) -> Array:
        if self.pre_norm:
            y = self.norm1(x)
            x = self.attn(y, self.gate(y, places), residual=x)
            x = self.mlp(self.norm2(x), residual=x)
        else:
            x = self.norm1(self.attn(x, self.gate(x, places), residual=x))
            x = self.norm2(self.mlp(x, residual=x))
        return x


class Wavlm(Wav2vec2):
    """A waveform in; frames, their mean and outputs out."""

    config: WavlmConfig
    kind = Block

    def __init__(self, stored: Stored, config: WavlmConfig) -> None:
        super().__init__(stored, config)
        self.distances = stored["distances"]

    def run(self, x: Array, _bias: Array | None, trace: Trace) -> Iterator[Array]:
        places = self.places(len(x))
        for i, block in enumerate(self.blocks):
            x = block(x, places)
            trace(f"blocks.{i}", x)
            yield x

    def places(self, time: int) -> Array:
        """Returns the bias of relative positions between this number of frames, [H, T, T]."""
        furthest = self.config.max_distance
        at = np.arange(time)
        apart = np.clip(at - at[:, None], -furthest, furthest) + furthest  # [T, T]
        values = self.distances[buckets(self.config.num_buckets, furthest)]
        return np.ascontiguousarray(values.T)[:, apart]

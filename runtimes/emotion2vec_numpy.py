"""emotion2vec in numpy. The twins are emotion2vec_torch.py and emotion2vec_mlx.py: the same classes in the same order.

Dimensions: S samples, T frames, E extra tokens, C channels, D features per frame, H heads. The reference is FunASR's
class Emotion2vec (arXiv 2312.15185); its encoder is that of data2vec 2.0 (arXiv 2212.07525).
"""

import math

import numpy as np
from numpy.lib.stride_tricks import as_strided

from e2v_port.architectures.emotion2vec import Emotion2vecConfig

from .layers_numpy import (
    Array,
    Attention,
    Convolution,
    Head,
    LayerNorm,
    Mlp,
    Positions,
    Projection,
    Readout,
    Stored,
    Trace,
    WaveformEncoder,
    untraced,
)

__all__ = ["Emotion2vec"]


class Block:
    """A transformer block that normalizes after each of its two halves."""

    def __init__(self, stored: Stored, config: Emotion2vecConfig) -> None:
        self.attn = Attention(stored["attn"], config.num_heads)
        self.norm1 = LayerNorm(stored["norm1"], config.norm_eps)
        self.mlp = Mlp(stored["mlp"])
        self.norm2 = LayerNorm(stored["norm2"], config.norm_eps)

    def __call__(self, x: Array, bias: Array) -> Array:
        x = self.norm1(self.attn(x, bias, residual=x))
        return self.norm2(self.mlp(x, residual=x))


class Emotion2vec(WaveformEncoder):
    """A waveform in; frames, their mean and logits out."""

    stacks = ("context_blocks", "blocks")

    config: Emotion2vecConfig

    def __init__(self, stored: Stored, config: Emotion2vecConfig) -> None:
        self.config, self.extra = config, config.num_extra_tokens
        strides = enumerate(stride for _, _, stride in config.conv_layers)
        self.conv_layers = [Convolution(stored["conv_layers"][str(i)], stride, "layer") for i, stride in strides]
        self.projection = Projection(stored["projection"])
        layers = [stored["positions"][str(i)] for i in range(config.conv_pos_depth)]
        self.positions = [Positions(layer, config.conv_pos_groups, norm=True) for layer in layers]
        self.alibi_scale = stored["alibi_scale"]
        self.extra_tokens = stored["extra_tokens"]
        self.context_norm = LayerNorm(stored["context_norm"], config.norm_eps)
        self.context_blocks = [Block(stored["context_blocks"][str(i)], config) for i in range(config.prenet_depth)]
        self.blocks = [Block(stored["blocks"][str(i)], config) for i in range(config.depth)]
        self.readout = Readout(stored.get("readout", {}), config)
        self.head = Head(stored["head"], config) if config.has_head else None

    def begin(self, waveform: Array, trace: Trace) -> tuple[Array, Array | None]:
        x = self.extract(waveform, trace)  # [T, C]
        x = self.projection(x)  # [T, D]
        trace("projection", x)

        positions = x
        for i, layer in enumerate(self.positions):
            positions = layer(positions)
            trace(f"positions.{i}", positions)
        x = x + positions

        bias = self.bias(x)
        if trace is not untraced:  # as the twins have it, zero for extra tokens
            trace("bias", np.pad(bias, ((0, 0), (self.extra, 0), (self.extra, 0))))
        x = self.context_norm(np.concatenate([self.extra_tokens, x]))  # [E+T, D]
        trace("context_norm", x)
        return x, bias

    def bias(self, x: Array) -> Array:
        """Returns ALiBi, a head's slope times the distance between two frames, [H, T, T].

        It is zero for heads after the last one that has a slope. A learned scale below zero counts as zero.
        """
        time, biased = len(x), self.config.num_alibi_heads
        scale = np.maximum(self.alibi_scale, 0)[:, None]
        # Row i of the matrix is this line of distances, moved by i: from -(T-1) to T-1.
        line = np.abs(np.arange(1 - time, time, dtype=np.float32))  # [2T-1]
        lines = np.zeros((self.config.num_heads, 2 * time - 1), np.float32)
        # Scaled last, as in FunASR: for distances of some hundred frames, the order matters beyond the tolerances.
        lines[:biased] = np.array(alibi(biased), np.float32)[:, None] * -line * scale
        # A view: the numbers of the matrix are those of the line.
        row, step = lines.strides
        return as_strided(lines[:, time - 1 :], (len(lines), time, time), (row, -step, step), writeable=False)


def alibi(heads: int) -> list[float]:
    """Returns 2^(-8k/n) for a power of two, else those of the one below, then every second of the one above (A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + alibi(2 * below)[::2][: heads - below]

"""emotion2vec in MLX. The twin is emotion2vec_torch.py: the same classes in the same order.

Dimensions: B clips, S samples, T frames, E extra tokens, C channels, D features per frame, H heads. The reference is
FunASR's class Emotion2vec (arXiv 2312.15185); its encoder is that of data2vec 2.0 (arXiv 2212.07525).
"""

import math

import mlx.core as mx
from mlx import nn

from e2v_port.architectures.emotion2vec import Emotion2vecConfig

from .layers_mlx import (
    Attention,
    Convolution,
    Head,
    Mlp,
    Positions,
    Projection,
    Readout,
    Trace,
    WaveformEncoder,
    parameter,
    valid_frames,
)

__all__ = ["Emotion2vec"]


class Block(nn.Module):
    """A transformer block that normalizes after each of its two halves."""

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.num_heads)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = self.norm1(self.attn(x, bias, residual=x))
        out: mx.array = self.norm2(self.mlp(x, residual=x))
        return out


class Emotion2vec(WaveformEncoder):
    """Waveforms in; frames, their mean and logits out."""

    stacks = ("context_blocks", "blocks")

    config: Emotion2vecConfig

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.config, self.extra = config, config.num_extra_tokens
        dim = config.width
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = [
            Convolution(channels[i], *layer, False, "layer") for i, layer in enumerate(config.conv_layers)
        ]
        self.projection = Projection(channels[-1], dim)
        sizes = dim, config.conv_pos_kernel, config.conv_pos_groups
        self.positions = [Positions(*sizes, norm=True) for _ in range(config.conv_pos_depth)]
        self.alibi_scale = parameter(config.num_alibi_heads)
        self.extra_tokens = parameter(config.num_extra_tokens, dim)
        self.context_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.context_blocks = [Block(config) for _ in range(config.prenet_depth)]
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: mx.array, samples: mx.array, padded: bool, trace: Trace
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        x, lengths = self.extract(waveform, samples, trace)  # [B, T, C], [B]
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        valid = valid_frames(lengths, x.shape[1])  # [B, T]
        positions = x
        for i, layer in enumerate(self.positions):
            # Each of these convolutions would carry values after a clip's end back into the clip.
            positions = layer(positions * valid[:, :, None] if padded else positions)
            trace(f"positions.{i}", positions)
        x = x + positions

        bias = self.bias(x, valid, padded)
        trace("bias", bias)
        tokens = mx.broadcast_to(self.extra_tokens, (len(x), *self.extra_tokens.shape))
        x = self.context_norm(mx.concatenate([tokens, x], 1))  # [B, E+T, D]
        trace("context_norm", x)
        return x, lengths, bias

    def bias(self, x: mx.array, valid: mx.array, padded: bool) -> mx.array:
        """Returns ALiBi, a head's slope times the distance between two frames, [1 or B, H, E+T, E+T].

        It is zero for extra tokens and for heads after the last one that has a slope. A learned scale below zero
        counts as zero.
        """
        time, extra, biased = x.shape[1], self.config.num_extra_tokens, self.config.num_alibi_heads
        scale = mx.maximum(self.alibi_scale.astype(mx.float32), 0)[:, None, None]
        at = mx.arange(time, dtype=mx.float32)
        # Scaled last, as in FunASR: for distances of some hundred frames, the order matters beyond the tolerances.
        bias = (slopes(biased)[:, None, None] * -mx.abs(at[:, None] - at) * scale).astype(x.dtype)  # [biased, T, T]
        bias = mx.pad(bias, [(0, self.config.num_heads - biased), (extra, 0), (extra, 0)])[None]  # [1, H, E+T, E+T]
        if padded:
            other = mx.pad(~valid, [(0, 0), (extra, 0)])[:, None, None, :]  # [B, 1, 1, E+T]
            bias = mx.where(other, mx.array(-math.inf, x.dtype), bias)
        return bias


def slopes(heads: int) -> mx.array:
    """Returns the slopes of ALiBi, [heads]."""
    return mx.array(alibi(heads))


def alibi(heads: int) -> list[float]:
    """Returns 2^(-8k/n) for a power of two, else those of the one below, then every second of the one above (A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + alibi(2 * below)[::2][: heads - below]

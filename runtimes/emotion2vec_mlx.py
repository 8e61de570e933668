"""emotion2vec in MLX. Its twin is emotion2vec_torch.py: the same classes in the same order, but for
convolutions, which torch has in layers_torch.py.

B clips, S samples, T frames, E extra tokens, D wide, H heads. The reference is FunASR's class Emotion2vec
(arXiv 2312.15185); the encoder is that of data2vec 2.0 (arXiv 2212.07525).
"""

import math

import mlx.core as mx
from mlx import nn

from e2v_port.config import Emotion2vecConfig

from .layers_mlx import Attention, Head, Mlp, Projection, Trace

__all__ = ["Emotion2vec"]


class ConvLayer(nn.Module):
    """A strided convolution over time without padding or bias, LayerNorm over channels, exact GELU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.weight = mx.zeros((channels, kernel, in_channels))
        self.norm = nn.LayerNorm(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return nn.gelu(self.norm(mx.conv1d(x, self.weight, self.stride)))


class PositionLayer(nn.Module):
    """A grouped convolution over time that keeps the length, LayerNorm without weights, exact GELU."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight = mx.zeros((dim, kernel, dim // groups))
        self.bias = mx.zeros(dim)

    def __call__(self, x: mx.array) -> mx.array:
        time = x.shape[1]
        x = mx.conv1d(x, self.weight, padding=self.kernel // 2, groups=self.groups) + self.bias
        return nn.gelu(mx.fast.layer_norm(x[:, :time], None, None, 1e-5))  # an even kernel makes one frame too many


class Block(nn.Module):
    """A transformer block that normalises after each of its two halves."""

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.attn = Attention(config.embed_dim, config.num_heads)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array) -> mx.array:
        x = self.norm1(x + self.attn(x, bias))
        out: mx.array = self.norm2(x + self.mlp(x))
        return out


class Emotion2vec(nn.Module):
    """Waveforms in, frames and their mean and logits out."""

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = [ConvLayer(n, *layer) for n, layer in zip(channels, config.conv_layers, strict=False)]
        self.projection = Projection(channels[-1], dim)
        self.positions = [
            PositionLayer(dim, config.conv_pos_kernel, config.conv_pos_groups) for _ in range(config.conv_pos_depth)
        ]
        self.alibi_scale = mx.zeros(config.num_alibi_heads)
        self.extra_tokens = mx.zeros((config.num_extra_tokens, dim))
        self.context_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.context_blocks = [Block(config) for _ in range(config.prenet_depth)]
        self.blocks = [Block(config) for _ in range(config.depth)]
        if config.num_labels:
            self.head = Head(config)

    def __call__(
        self, waveform: mx.array, samples: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Runs the model.

        Args:
            waveform: [B, S], normalised, clips filled up with zeros behind their end.
            samples: Of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D] in the type of the weights (those behind a clip's end mean nothing), their mean [B, D]
            and logits [B, labels] (None without a head), both float32.
        """
        x = waveform[:, :, None].astype(self.extra_tokens.dtype)  # [B, S, 1]
        for i, conv in enumerate(self.conv_layers):
            x = conv(x)  # [B, T, C]
            trace(f"conv_layers.{i}", x)
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        time = x.shape[1]
        lengths = [self.config.frames(count) for count in samples]
        real = mx.arange(time) < mx.array(lengths)[:, None]  # [B, T]
        padded = min(lengths) < time
        positions = x
        for i, layer in enumerate(self.positions):
            # Each of these convolutions would carry what lies behind a clip's end back into the clip.
            positions = layer(positions * real[:, :, None] if padded else positions)
            trace(f"positions.{i}", positions)
        x = x + positions

        bias = self.bias(time, x)
        trace("bias", bias)
        if padded:
            unreal = mx.pad(~real, [(0, 0), (self.config.num_extra_tokens, 0)])[:, None, None, :]  # [B, 1, 1, E+T]
            bias = mx.where(unreal, mx.array(-math.inf, bias.dtype), bias)  # [B, H, E+T, E+T]

        x = mx.concatenate([mx.broadcast_to(self.extra_tokens, (len(x), *self.extra_tokens.shape)), x], axis=1)
        x = self.context_norm(x)  # [B, E+T, D]
        trace("context_norm", x)
        for i, block in enumerate(self.context_blocks):
            x = block(x, bias)
            trace(f"context_blocks.{i}", x)
        for i, block in enumerate(self.blocks):
            x = block(x, bias)
            trace(f"blocks.{i}", x)
        frames = x[:, self.config.num_extra_tokens :]  # [B, T, D]

        sums = (frames.astype(mx.float32) * real[:, :, None]).sum(1)
        pooled = sums / mx.array(lengths)[:, None]  # [B, D]
        trace("pooled", pooled)
        if "head" not in self:
            return frames, pooled, None
        logits = self.score(pooled)  # [B, labels]
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: mx.array) -> mx.array:
        """Applies the head to embeddings [..., D]: logits [..., labels], float32."""
        logits: mx.array = self.head(x)
        return logits

    def bias(self, time: int, like: mx.array) -> mx.array:
        """ALiBi [1, H, E+T, E+T] in the type of `like`: a head's slope times the distance of two frames.

        Zero for extra tokens, and for heads behind the last that has a slope. A learned scale below zero counts as
        zero.
        """
        at = mx.arange(time, dtype=mx.float32)
        slopes = mx.array(_slopes(self.config.num_alibi_heads))
        bias = slopes[:, None, None] * -mx.abs(at[:, None] - at)
        bias = bias * mx.maximum(self.alibi_scale.astype(mx.float32), 0)[:, None, None]  # [H, T, T]
        extra = self.config.num_extra_tokens
        plain_heads = self.config.num_heads - self.config.num_alibi_heads
        return mx.pad(bias.astype(like.dtype), [(0, plain_heads), (extra, 0), (extra, 0)])[None]


def _slopes(heads: int) -> list[float]:
    """2^(-8k/n) for a power of two; else those of the one below, then every second of the one above (ALiBi, A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + _slopes(2 * below)[::2][: heads - below]

"""wav2vec2 with a regression head in MLX. Its twin is wav2vec2_torch.py: the same classes in the same order, but for
convolutions, which torch has in layers_torch.py.

B clips, S samples, T frames, D wide, H heads. The reference is transformers' Wav2Vec2Model (arXiv 2006.11477) with the
head on the model card of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim (arXiv 2203.07378).
"""

import math

import mlx.core as mx
import mlx.nn as nn

from e2v_port.config import Wav2vec2Config

from .layers_mlx import Attention, Head, Mlp, Projection, Trace, sum_over_time

__all__ = ["Wav2vec2"]


class ConvLayer(nn.Module):
    """A strided convolution over time without padding, one of three norms, exact GELU."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, bias: bool, norm: str) -> None:
        super().__init__()
        self.kernel, self.stride, self.kind = kernel, stride, norm
        self.weight = mx.zeros((channels, kernel, in_channels))
        if bias:
            self.bias = mx.zeros(channels)
        if norm:
            self.norm = nn.LayerNorm(channels)  # for `group`, its weights only

    def __call__(self, x: mx.array, lengths: list[int]) -> mx.array:
        x = mx.conv1d(x, self.weight, self.stride)
        if "bias" in self:
            x = x + self.bias
        if self.kind == "layer":
            x = self.norm(x)
        elif self.kind == "group":
            x = self.over_time(x, lengths) * self.norm.weight + self.norm.bias
        return nn.gelu(x)

    def over_time(self, x: mx.array, lengths: list[int]) -> mx.array:
        """Brings each channel of each clip to zero mean and unit variance over its own frames."""
        x = x.astype(mx.float32)
        counts = mx.array(lengths)[:, None, None]
        real = mx.arange(x.shape[1])[:, None] < counts  # [B, T, 1]
        x = x - sum_over_time(x * real) / counts
        variance = sum_over_time(x * x * real) / counts
        return (x * mx.rsqrt(variance + 1e-5)).astype(self.weight.dtype)


class PositionLayer(nn.Module):
    """A grouped convolution over time that keeps the length, exact GELU."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight = mx.zeros((dim, kernel, dim // groups))
        self.bias = mx.zeros(dim)

    def __call__(self, x: mx.array) -> mx.array:
        time = x.shape[1]
        x = mx.conv1d(x, self.weight, padding=self.kernel // 2, groups=self.groups) + self.bias
        return nn.gelu(x[:, :time])  # an even kernel makes one frame too many


class Block(nn.Module):
    """A transformer block that normalises before each of its two halves (large models) or after (base)."""

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attn = Attention(config.embed_dim, config.num_heads)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array | None) -> mx.array:
        if self.pre_norm:
            x = x + self.attn(self.norm1(x), bias)
            x = x + self.mlp(self.norm2(x))
        else:
            x = self.norm1(x + self.attn(x, bias))
            x = self.norm2(x + self.mlp(x))
        return x


class Wav2vec2(nn.Module):
    """Waveforms in, frames and their mean and outputs out."""

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = [
            ConvLayer(channels[i], *layer, config.conv_bias, config.norm_of(i))
            for i, layer in enumerate(config.conv_layers)
        ]
        self.projection = Projection(channels[-1], dim, config.norm_eps)
        self.positions = PositionLayer(dim, config.conv_pos_kernel, config.conv_pos_groups)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
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
            and outputs [B, labels] (None without a head), both float32.
        """
        x = waveform[:, :, None].astype(self.positions.bias.dtype)  # [B, S, 1]
        lengths = samples
        for i, (conv, (_, kernel, stride)) in enumerate(zip(self.conv_layers, self.config.conv_layers, strict=True)):
            lengths = [(length - kernel) // stride + 1 for length in lengths]
            x = conv(x, lengths)  # [B, T, C]
            trace(f"conv_layers.{i}", x)
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        time = x.shape[1]
        real = mx.arange(time) < mx.array(lengths)[:, None]  # [B, T]
        bias = None
        if min(lengths) < time:
            x = x * real[:, :, None]
            bias = mx.where(real, mx.array(0, x.dtype), mx.array(-math.inf, x.dtype))[:, None, None, :]  # [B, 1, 1, T]
        positions = self.positions(x)
        trace("positions", positions)
        x = x + positions

        if not self.config.pre_norm:
            x = self.norm(x)
        for i, block in enumerate(self.blocks):
            x = block(x, bias)
            trace(f"blocks.{i}", x)
        if self.config.pre_norm:
            x = self.norm(x)
        trace("frames", x)

        sums = (x.astype(mx.float32) * real[:, :, None]).sum(1)
        pooled = sums / mx.array(lengths)[:, None]  # [B, D]
        trace("pooled", pooled)
        if "head" not in self:
            return x, pooled, None
        outputs = self.score(pooled)  # [B, labels]
        trace("logits", outputs)
        return x, pooled, outputs

    def score(self, x: mx.array) -> mx.array:
        """Applies the head to embeddings [..., D]: outputs [..., labels], float32."""
        outputs: mx.array = self.head(x)
        return outputs

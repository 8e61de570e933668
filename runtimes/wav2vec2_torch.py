"""wav2vec2 with a regression head in torch. Its twin is wav2vec2_mlx.py: the same classes in the same order, but for
convolutions, which are in layers_torch.py.

B clips, S samples, T frames, D wide, H heads. The reference is transformers' Wav2Vec2Model (arXiv 2006.11477) with the
head on the model card of audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim (arXiv 2203.07378).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.config import Wav2vec2Config

from .layers_torch import (
    Attention,
    Convolution,
    Distances,
    Encoder,
    Head,
    Mlp,
    Positions,
    Product,
    Projection,
    Trace,
    extract,
    frame_counts,
    untraced,
)

__all__ = ["Wav2vec2"]


class TimeNormConvolution(Convolution):
    """A convolution that brings each channel of each clip to zero mean and unit variance over the clip's frames."""

    def pack(self) -> None:
        """Does what `Product.pack` does: its norm is none over channels, which could become part of the product."""
        Product.pack(self)

    def over_time(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Does what `forward` does for a norm over channels.

        Args:
            x: [B, T, C].
            lengths: Frames of each clip behind this layer, [B].
        """
        assert self.norm is not None
        x = self.convolve(x).float()
        counts = lengths[:, None, None]
        real = torch.arange(x.shape[1], device=x.device)[:, None] < counts  # [B, T, 1]
        x = x - (x * real).sum(1, keepdim=True) / counts
        variance = (x * x * real).sum(1, keepdim=True) / counts
        x = (x * torch.rsqrt(variance + 1e-5)).to(self.norm.weight.dtype)
        return F.gelu(x * self.norm.weight + self.norm.bias)


class PositionLayer(Positions):
    """A grouped convolution over time that keeps the length, exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.convolve(x))


class Block(nn.Module):
    """A transformer block that normalises before each of its two halves (large models) or after (base)."""

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attn = Attention(config.embed_dim, config.num_heads)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor | Distances | None) -> Tensor:
        if self.pre_norm:
            x = self.attn(self.norm1(x), bias, plus=x)
            x = self.mlp(self.norm2(x), plus=x)
        else:
            x = self.norm1(self.attn(x, bias, plus=x))
            x = self.norm2(self.mlp(x, plus=x))
        return x


class Wav2vec2(Encoder):
    """Waveforms in, frames and their mean and outputs out."""

    config: Wav2vec2Config
    compiled = (Convolution, PositionLayer, Block)

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = nn.ModuleList(
            (TimeNormConvolution if config.norm_of(i) == "group" else Convolution)(
                channels[i], *layer, bias=config.conv_bias, norm=bool(config.norm_of(i))
            )
            for i, layer in enumerate(config.conv_layers)
        )
        self.projection = Projection(channels[-1], dim, config.norm_eps)
        self.positions = PositionLayer(dim, config.conv_pos_kernel, config.conv_pos_groups)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config) if config.num_labels else None

    def encode(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        sizes = self.config.conv_layers
        x = waveform[:, :, None]  # [B, S, 1]
        whole = int(self.config.norm_of(0) == "group")  # layers that need all of a clip
        if whole:
            layer = self.conv_layers[0]
            assert isinstance(layer, TimeNormConvolution)
            x = layer.over_time(x, frame_counts(samples, sizes[:1]))
            trace("conv_layers.0", x)
        x = extract(self.conv_layers[whole:], sizes[whole:], x, trace, whole)  # [B, T, C]
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        time = x.shape[1]
        lengths = frame_counts(samples, sizes)  # [B]
        real = torch.arange(time, device=x.device) < lengths[:, None]  # [B, T]
        bias: Tensor | Distances | None = None
        if padded:
            x = x * real[:, :, None]
            bias = torch.zeros_like(real, dtype=x.dtype).masked_fill(~real, -math.inf)[:, None, None, :]  # [B, 1, 1, T]
        if self.by_distance:
            bias = Distances(torch.zeros(self.config.num_heads, device=x.device), lengths)
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

        sums = (x.float() * real[:, :, None]).sum(1)
        pooled = sums / lengths[:, None]  # [B, D]
        trace("pooled", pooled)
        if self.head is None:
            return x, pooled, None
        outputs = self.score(pooled)  # [B, labels]
        trace("logits", outputs)
        return x, pooled, outputs

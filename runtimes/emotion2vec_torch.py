"""emotion2vec in torch. Its twin is emotion2vec_mlx.py: the same classes in the same order, but for
convolutions, which are in layers_torch.py.

B clips, S samples, T frames, E extra tokens, D wide, H heads. The reference is FunASR's class Emotion2vec
(arXiv 2312.15185); the encoder is that of data2vec 2.0 (arXiv 2212.07525).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.config import Emotion2vecConfig

from .layers_torch import (
    Attention,
    Convolution,
    Distances,
    Encoder,
    Head,
    Mlp,
    Positions,
    Projection,
    Trace,
    extract,
    frame_counts,
    untraced,
)

__all__ = ["Emotion2vec"]


class PositionLayer(Positions):
    """A grouped convolution over time that keeps the length, LayerNorm without weights, exact GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(F.layer_norm(self.convolve(x), x.shape[2:]))


class Block(nn.Module):
    """A transformer block that normalises after each of its two halves."""

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.attn = Attention(config.embed_dim, config.num_heads, config.num_extra_tokens)
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)
        self.mlp = Mlp(config.embed_dim, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor | Distances) -> Tensor:
        x = self.norm1(self.attn(x, bias, plus=x))
        out: Tensor = self.norm2(self.mlp(x, plus=x))
        return out


class Emotion2vec(Encoder):
    """Waveforms in, frames and their mean and logits out."""

    config: Emotion2vecConfig
    compiled = (Convolution, PositionLayer, Block)

    def __init__(self, config: Emotion2vecConfig) -> None:
        super().__init__()
        self.config = config
        self._slopes: Tensor | None = None
        dim = config.embed_dim
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = nn.ModuleList(
            Convolution(n, *layer, bias=False, norm=True)
            for n, layer in zip(channels, config.conv_layers, strict=False)
        )
        self.projection = Projection(channels[-1], dim)
        self.positions = nn.ModuleList(
            PositionLayer(dim, config.conv_pos_kernel, config.conv_pos_groups) for _ in range(config.conv_pos_depth)
        )
        self.alibi_scale = nn.Parameter(torch.empty(config.num_alibi_heads))
        self.extra_tokens = nn.Parameter(torch.empty(config.num_extra_tokens, dim))
        self.context_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.context_blocks = nn.ModuleList(Block(config) for _ in range(config.prenet_depth))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.head = Head(config) if config.num_labels else None

    def encode(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x = waveform[:, :, None]  # [B, S, 1]
        x = extract(self.conv_layers, self.config.conv_layers, x, trace, 0)  # [B, T, C]
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        time = x.shape[1]
        lengths = frame_counts(samples, self.config.conv_layers)  # [B]
        real = torch.arange(time, device=x.device) < lengths[:, None]  # [B, T]
        positions = x
        for i, layer in enumerate(self.positions):
            # Each of these convolutions would carry what lies behind a clip's end back into the clip.
            positions = layer(positions * real[:, :, None] if padded else positions)
            trace(f"positions.{i}", positions)
        x = x + positions

        extra = self.config.num_extra_tokens
        bias: Tensor | Distances
        if self.by_distance:
            bias = Distances(self.slopes(x.device), lengths + extra)
        else:
            bias = self.bias(time, x)
            trace("bias", bias)
            if padded:
                unreal = F.pad(~real, (extra, 0))[:, None, None, :]  # [B, 1, 1, E+T]
                masked = Tensor.masked_fill_ if len(x) == 1 else Tensor.masked_fill
                bias = masked(bias, unreal, -math.inf)  # [B, H, E+T, E+T]

        x = torch.cat([self.extra_tokens.expand(len(x), -1, -1), x], dim=1)  # [B, E+T, D]
        x = self.context_norm(x)
        trace("context_norm", x)
        for i, block in enumerate(self.context_blocks):
            x = block(x, bias)
            trace(f"context_blocks.{i}", x)
        for i, block in enumerate(self.blocks):
            x = block(x, bias)
            trace(f"blocks.{i}", x)
        frames = x[:, extra:]  # [B, T, D]

        sums = (frames.float() * real[:, :, None]).sum(1)
        pooled = sums / lengths[:, None]  # [B, D]
        trace("pooled", pooled)
        if self.head is None:
            return frames, pooled, None
        logits = self.score(pooled)  # [B, labels]
        trace("logits", logits)
        return frames, pooled, logits

    def bias(self, time: int, like: Tensor) -> Tensor:
        """ALiBi [1, H, E+T, E+T] in the type of `like`: a head's slope times the distance of two frames.

        Zero for extra tokens, and for heads behind the last that has a slope. A learned scale below zero counts as
        zero.
        """
        far = torch.arange(1 - time, time, device=like.device, dtype=torch.float32).abs()  # [2T-1]
        lines = self.unscaled_slopes(like.device)[:, None] * -far
        # Scaled last, as in FunASR: some hundred frames apart, the other order differs by more than the bars allow.
        lines = (lines * self.alibi_scale.float().clamp_min(0)[:, None]).to(like.dtype)
        extra, biased = self.config.num_extra_tokens, self.config.num_alibi_heads
        bias = like.new_zeros(1, self.config.num_heads, extra + time, extra + time)
        # A row is the one before it, moved by one: from the last to the first they lie like this in a line.
        bias[0, :biased, extra:, extra:] = lines.unfold(1, time, 1).flip(1)
        return bias

    def slopes(self, device: torch.device) -> Tensor:
        """What `bias` takes per frame of distance, [H], float32."""
        own = self.unscaled_slopes(device) * self.alibi_scale.float().clamp_min(0)
        return F.pad(own, (0, self.config.num_heads - self.config.num_alibi_heads))

    def unscaled_slopes(self, device: torch.device) -> Tensor:
        """Those of ALiBi, one per head that has one. Kept: while a graph is recorded, nothing may come from the CPU."""
        if self._slopes is None or self._slopes.device != device:
            with torch.inference_mode(False):  # or nobody could ever train with it
                self._slopes = torch.tensor(_slopes(self.config.num_alibi_heads), device=device)
        return self._slopes


def _slopes(heads: int) -> list[float]:
    """2^(-8k/n) for a power of two; else those of the one below, then every second of the one above (ALiBi, A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + _slopes(2 * below)[::2][: heads - below]

"""emotion2vec in torch. The twin is emotion2vec_mlx.py: the same classes in the same order.

Dimensions: B clips, S samples, T frames, E extra tokens, C channels, D features per frame, H heads. The reference is
FunASR's class Emotion2vec (arXiv 2312.15185); its encoder is that of data2vec 2.0 (arXiv 2212.07525).
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures.emotion2vec import Emotion2vecConfig

from .layers_torch import (
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

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.norm1(self.attn(x, bias, residual=x))
        out: Tensor = self.norm2(self.mlp(x, residual=x))
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
        self.conv_layers = nn.ModuleList(
            [Convolution(channels[i], *layer, False, "layer") for i, layer in enumerate(config.conv_layers)]
        )
        self.projection = Projection(channels[-1], dim)
        sizes = dim, config.conv_pos_kernel, config.conv_pos_groups
        self.positions = nn.ModuleList([Positions(*sizes, norm=True) for _ in range(config.conv_pos_depth)])
        self.alibi_scale = parameter(config.num_alibi_heads)
        self.extra_tokens = parameter(config.num_extra_tokens, dim)
        self.context_norm = nn.LayerNorm(dim, eps=config.norm_eps)
        self.context_blocks = nn.ModuleList([Block(config) for _ in range(config.prenet_depth)])
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace
    ) -> tuple[Tensor, Tensor, Tensor | None]:
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
        tokens = torch.broadcast_to(self.extra_tokens, (len(x), *self.extra_tokens.shape))
        x = self.context_norm(torch.concatenate([tokens, x], 1))  # [B, E+T, D]
        trace("context_norm", x)
        return x, lengths, bias

    def bias(self, x: Tensor, valid: Tensor, padded: bool) -> Tensor:
        """Returns ALiBi, a head's slope times the distance between two frames, [1 or B, H, E+T, E+T].

        It is zero for extra tokens and for heads after the last one that has a slope. A learned scale below zero
        counts as zero.
        """
        time, extra, biased = x.shape[1], self.config.num_extra_tokens, self.config.num_alibi_heads
        scale = self.alibi_scale.float().clamp_min(0)[:, None]
        # Row i of the matrix is this line of distances, moved by i: from -(T-1) to T-1.
        line = torch.abs(torch.arange(1 - time, time, dtype=torch.float32, device=x.device))  # [2T-1]
        # Scaled last, as in FunASR: for distances of some hundred frames, the order matters beyond the tolerances.
        lines = (slopes(biased, x.device)[:, None] * -line * scale).to(x.dtype)
        bias = lines.unfold(1, time, 1).flip(1)  # [biased, T, T]
        bias = F.pad(bias, (extra, 0, extra, 0, 0, self.config.num_heads - biased))[None]  # [1, H, E+T, E+T]
        if padded:
            other = F.pad(~valid, (extra, 0))[:, None, None, :]  # [B, 1, 1, E+T]
            bias = (Tensor.masked_fill_ if len(x) == 1 else Tensor.masked_fill)(bias, other, -math.inf)
        return bias


@cache
def slopes(heads: int, device: torch.device) -> Tensor:
    """Returns the slopes of ALiBi, [heads]. Cached, since a CUDA graph cannot record a copy from the host."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be trained with
        return torch.tensor(alibi(heads), dtype=torch.float32, device=device)


def alibi(heads: int) -> list[float]:
    """Returns 2^(-8k/n) for a power of two, else those of the one below, then every second of the one above (A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + alibi(2 * below)[::2][: heads - below]

"""wav2vec2 with a regression head in torch. The twin is wav2vec2_mlx.py: the same classes in the same order.

Dimensions: B clips, S samples, T frames, C channels, D features per frame, H heads. The reference is transformers'
Wav2Vec2Model (arXiv 2006.11477) with the head on the model card of
audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim (arXiv 2203.07378).
"""

from typing import Any, ClassVar

from torch import Tensor, nn

from e2v_port.architectures.wav2vec2 import Wav2vec2Config

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
    valid_frames,
)

__all__ = ["Wav2vec2"]


class Block(nn.Module):
    """A transformer block that normalizes before each of its two halves (large models) or after them (base)."""

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attn = Attention(config.width, config.num_heads)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        if self.pre_norm:
            x = self.attn(self.norm1(x), bias, residual=x)
            x = self.mlp(self.norm2(x), residual=x)
        else:
            x = self.norm1(self.attn(x, bias, residual=x))
            x = self.norm2(self.mlp(x, residual=x))
        return x


class PlainProjection(nn.Module):
    """Projects the channels of the convolutions to the width of the transformer, without a norm (DistilHuBERT)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


class Wav2vec2(WaveformEncoder):
    """Waveforms in; frames, their mean and outputs out."""

    config: Wav2vec2Config
    kind: ClassVar[Any] = Block  # of its blocks

    def __init__(self, config: Wav2vec2Config) -> None:
        super().__init__()
        self.config = config
        dim = config.width
        channels = [1, *(layer[0] for layer in config.conv_layers)]
        self.conv_layers = nn.ModuleList(
            [
                Convolution(channels[i], *layer, config.conv_bias, config.norm_of(i))
                for i, layer in enumerate(config.conv_layers)
            ]
        )
        if config.projection_norm:
            self.projection: Projection | PlainProjection = Projection(channels[-1], dim, config.norm_eps)
        else:
            self.projection = PlainProjection(channels[-1], dim)
        self.positions = Positions(dim, config.conv_pos_kernel, config.conv_pos_groups, norm=False)
        self.norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.has_norm else None
        self.blocks = nn.ModuleList([self.kind(config) for _ in range(config.depth)])
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x, lengths = self.extract(waveform, samples, trace)  # [B, T, C], [B]
        x = self.projection(x)  # [B, T, D]
        trace("projection", x)

        valid = valid_frames(lengths, x.shape[1])  # [B, T]
        if padded:
            x = x * valid[:, :, None]
        bias = self.bias(x, valid, padded)
        positions = self.positions(x)
        trace("positions", positions)
        x = x + positions

        if self.norm is not None and not self.config.pre_norm:
            x = self.norm(x)
        return x, lengths, bias

    def finish(self, x: Tensor, trace: Trace) -> Tensor:
        if self.norm is not None and self.config.pre_norm:
            x = self.norm(x)
        trace("frames", x)
        return x

"""wav2vec2 with a regression head in numpy. The twins are wav2vec2_torch.py and wav2vec2_mlx.py: the same classes.

Dimensions: S samples, T frames, C channels, D features per frame, H heads. The reference is transformers'
Wav2Vec2Model (arXiv 2006.11477) with the head on the model card of
audeering/wav2vec2-large-robust-12-ft-emotion-msp-dim (arXiv 2203.07378).
"""

from typing import Any, ClassVar

from e2v_port.architectures.wav2vec2 import Wav2vec2Config

from .layers_numpy import (
    Array,
    Attention,
    Convolution,
    Head,
    LayerNorm,
    Linear,
    Mlp,
    Positions,
    Projection,
    Readout,
    Stored,
    Trace,
    WaveformEncoder,
)

__all__ = ["Wav2vec2"]


class Block:
    """A transformer block that normalizes before each of its two halves (large models) or after them (base)."""

    def __init__(self, stored: Stored, config: Wav2vec2Config) -> None:
        self.pre_norm = config.pre_norm
        self.attn = Attention(stored["attn"], config.num_heads)
        self.norm1 = LayerNorm(stored["norm1"], config.norm_eps)
        self.mlp = Mlp(stored["mlp"])
        self.norm2 = LayerNorm(stored["norm2"], config.norm_eps)

    def __call__(self, x: Array, bias: None) -> Array:
        if self.pre_norm:
            x = self.attn(self.norm1(x), bias, residual=x)
            x = self.mlp(self.norm2(x), residual=x)
        else:
            x = self.norm1(self.attn(x, bias, residual=x))
            x = self.norm2(self.mlp(x, residual=x))
        return x


class PlainProjection:
    """Projects the channels of the convolutions to the width of the transformer, without a norm (DistilHuBERT)."""

    def __init__(self, stored: Stored) -> None:
        self.linear = Linear(stored["linear"])

    def __call__(self, x: Array) -> Array:
        return self.linear(x)


class Wav2vec2(WaveformEncoder):
    """A waveform in; frames, their mean and outputs out."""

    config: Wav2vec2Config
    kind: ClassVar[Any] = Block  # of its blocks

    def __init__(self, stored: Stored, config: Wav2vec2Config) -> None:
        self.config = config
        self.conv_layers = [
            Convolution(stored["conv_layers"][str(i)], stride, config.norm_of(i))
            for i, (_, _, stride) in enumerate(config.conv_layers)
        ]
        if config.projection_norm:
            self.projection: Projection | PlainProjection = Projection(stored["projection"], config.norm_eps)
        else:
            self.projection = PlainProjection(stored["projection"])
        self.positions = Positions(stored["positions"], config.conv_pos_groups, norm=False)
        self.norm = LayerNorm(stored["norm"], config.norm_eps) if config.has_norm else None
        self.blocks = [self.kind(stored["blocks"][str(i)], config) for i in range(config.depth)]
        self.readout = Readout(stored.get("readout", {}), config)
        self.head = Head(stored["head"], config) if config.has_head else None

    def begin(self, waveform: Array, trace: Trace) -> tuple[Array, Array | None]:
        x = self.extract(waveform, trace)  # [T, C]
        x = self.projection(x)  # [T, D]
        trace("projection", x)

        positions = self.positions(x)
        trace("positions", positions)
        x = x + positions

        if self.norm is not None and not self.config.pre_norm:
            x = self.norm(x)
        return x, None

    def finish(self, x: Array, trace: Trace) -> Array:
        if self.norm is not None and self.config.pre_norm:
            x = self.norm(x)
        trace("frames", x)
        return x

"""The encoder of Whisper in numpy. The twins are whisper_torch.py and whisper_mlx.py: the same classes in order.

Dimensions: S samples, M columns of the spectrogram, T frames, D features per frame, H heads. The reference is
transformers' WhisperFeatureExtractor and WhisperEncoder (arXiv 2212.04356).
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.architectures.whisper import COLUMN, STRIDES, WINDOW, WhisperConfig
from e2v_port.audio import mel_filters

from .layers_numpy import (
    Array,
    Attention,
    Convolution,
    Encoder,
    Head,
    LayerNorm,
    Mlp,
    Readout,
    Stored,
    Trace,
    hann,
)

__all__ = ["Whisper"]

ROWS = 512  # frames whose positions are computed together


class Block:
    """A transformer block that normalizes before each of its two halves."""

    def __init__(self, stored: Stored, config: WhisperConfig) -> None:
        self.attn = Attention(stored["attn"], config.num_heads)
        self.norm1 = LayerNorm(stored["norm1"], config.norm_eps)
        self.mlp = Mlp(stored["mlp"])
        self.norm2 = LayerNorm(stored["norm2"], config.norm_eps)

    def __call__(self, x: Array, bias: None) -> Array:
        x = self.attn(self.norm1(x), bias, residual=x)
        return self.mlp(self.norm2(x), residual=x)


class Whisper(Encoder):
    """A waveform in; frames, their mean and logits out."""

    config: WhisperConfig

    def __init__(self, stored: Stored, config: WhisperConfig) -> None:
        self.config = config
        strides = enumerate(STRIDES)
        self.conv_layers = [Convolution(stored["conv_layers"][str(i)], stride, "") for i, stride in strides]
        self.blocks = [Block(stored["blocks"][str(i)], config) for i in range(config.depth)]
        self.norm = LayerNorm(stored["norm"], config.norm_eps) if config.finished else None
        self.readout = Readout(stored.get("readout", {}), config)
        self.head = Head(stored["head"], config) if config.has_head else None

    def begin(self, waveform: Array, trace: Trace) -> tuple[Array, Array | None]:
        x = self.spectrogram(np.pad(waveform, (0, max(self.config.canvas - len(waveform), 0))))  # [M, bands]
        trace("spectrogram", x)
        for i, layer in enumerate(self.conv_layers):
            x = layer(np.pad(x, ((1, 1), (0, 0))))  # [T, D]
            trace(f"conv_layers.{i}", x)
        x = x + marks(len(x), self.config)
        trace("positions", x)
        return x, None

    def spectrogram(self, waveform: Array) -> Array:
        """Computes the logarithm of the power in each mel band.

        Args:
            waveform: A clip, [S].

        Returns:
            [M, bands]: (p + 4) / 4 for p, the base-10 logarithm, of at least the clip's highest less 8.
        """
        # The windows are centered on multiples of COLUMN, so that a clip is continued by its mirror image at both ends.
        x = np.pad(waveform, (WINDOW // 2, WINDOW // 2 - COLUMN), "reflect")
        x = sliding_window_view(x, WINDOW)[::COLUMN]  # [M, WINDOW]
        spectrum = np.fft.rfft(x * hann(WINDOW))
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        x = np.log10(np.maximum(power.astype(np.float32) @ filters(self.config.bands), 1e-10))
        scaled: Array = (np.maximum(x, x.max() - 8) + 4) / 4
        return scaled

    def finish(self, x: Array, trace: Trace) -> Array:
        assert self.norm is not None
        x = self.norm(x)
        trace("frames", x)
        return x


@cache
def filters(bands: int) -> Array:
    """Returns the mel filters, [WINDOW // 2 + 1, bands]."""
    return mel_filters(bands, WINDOW, 0, 8000).T


def marks(frames: int, config: WhisperConfig) -> Array:
    """Returns what marks the positions of frames, [frames, width]."""
    return table(-(-frames // ROWS) * ROWS, config)[:frames]


@cache
def table(frames: int, config: WhisperConfig) -> Array:
    """Returns the same, for whole multiples of ROWS frames."""
    return config.positions(frames)

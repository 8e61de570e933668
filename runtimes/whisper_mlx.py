"""The encoder of Whisper in MLX. The twin is whisper_torch.py: the same classes in the same order.

Dimensions: B clips, S samples, M columns of the spectrogram, T frames, D features per frame, H heads. The reference is
transformers' WhisperFeatureExtractor and WhisperEncoder (arXiv 2212.04356).
"""

import math
from functools import cache

import mlx.core as mx
from mlx import nn

from e2v_port.architectures.whisper import COLUMN, STRIDES, WINDOW, WhisperConfig
from e2v_port.audio import mel_filters

from .layers_mlx import Attention, Convolution, Encoder, Head, Mlp, Readout, Trace, valid_frames

__all__ = ["Whisper"]

ROWS = 512  # frames whose positions are computed together


class Block(nn.Module):
    """A transformer block that normalizes before each of its two halves."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.num_heads, key_bias=False)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array | None) -> mx.array:
        x = self.attn(self.norm1(x), bias, residual=x)
        out: mx.array = self.mlp(self.norm2(x), residual=x)
        return out


class Whisper(Encoder):
    """Waveforms in; frames, their mean and logits out."""

    config: WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        sizes = zip((config.bands, config.width), STRIDES, strict=True)  # channels and stride
        self.conv_layers = [Convolution(channels, config.width, 3, stride, True, "") for channels, stride in sizes]
        self.blocks = [Block(config) for _ in range(config.depth)]
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.finished else None
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: mx.array, samples: mx.array, padded: bool, trace: Trace
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        read, samples = (samples // COLUMN + 1) // 2, mx.maximum(samples, self.config.canvas)
        waveform = mx.pad(waveform, [(0, 0), (0, max(self.config.canvas - waveform.shape[1], 0))])
        lengths = samples // COLUMN
        x = self.spectrogram(waveform, samples)  # [B, M, bands]
        trace("spectrogram", x)
        for i, (layer, stride) in enumerate(zip(self.conv_layers, STRIDES, strict=True)):
            # Without the mask, the convolution would carry values after a clip's end back into the clip.
            x = mx.pad(x * valid_frames(lengths, x.shape[1])[:, :, None], [(0, 0), (1, 1), (0, 0)])
            lengths = (lengths - 1) // stride + 1
            x = layer(x, lengths)  # [B, T, D]
            trace(f"conv_layers.{i}", x)
        x = x + marks(x.shape[1], self.config).astype(x.dtype)
        trace("positions", x)
        return x, read, self.bias(x, valid_frames(lengths, x.shape[1]), padded)

    def spectrogram(self, waveform: mx.array, samples: mx.array) -> mx.array:
        """Computes the logarithm of the power in each mel band.

        Args:
            waveform: Clips, zero-padded at the end, [B, S].
            samples: Samples of each clip, [B].

        Returns:
            [B, M, bands] in float32: (p + 4) / 4 for p, the base-10 logarithm, of at least the clip's highest less 8.
            Undefined after a clip's end.
        """
        columns = waveform.shape[1] // COLUMN
        # The windows are centered on multiples of COLUMN, so that a clip is continued by its mirror image at both ends.
        beyond = mx.arange(WINDOW // 2 - COLUMN)
        end = mx.take_along_axis(waveform, samples[:, None] - 2 - beyond, 1)
        x = mx.pad(waveform, [(0, 0), (0, len(beyond))])
        x = mx.put_along_axis(x, samples[:, None] + beyond, end, 1)
        x = mx.concatenate([waveform[:, WINDOW // 2 : 0 : -1], x], 1)
        at = mx.arange(WINDOW)
        x = x[:, mx.arange(columns)[:, None] * COLUMN + at]  # [B, M, WINDOW]
        spectrum = mx.fft.rfft(x * (0.5 - 0.5 * mx.cos(2 * math.pi / WINDOW * at)))  # a Hann window
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        x = mx.log10(mx.maximum(power @ filters(self.config.bands), 1e-10))
        valid = valid_frames(samples // COLUMN, columns)[:, :, None]
        highest = mx.where(valid, x, -math.inf).max((1, 2), keepdims=True)
        return (mx.maximum(x, highest - 8) + 4) / 4

    def finish(self, x: mx.array, trace: Trace) -> mx.array:
        assert self.norm is not None
        x = self.norm(x)
        trace("frames", x)
        return x


@cache
def filters(bands: int) -> mx.array:
    """Returns the mel filters, [WINDOW // 2 + 1, bands]."""
    return mx.array(mel_filters(bands, WINDOW, 0, 8000).T)


def marks(frames: int, config: WhisperConfig) -> mx.array:
    """Returns what marks the positions of frames, [frames, width]."""
    return table(-(-frames // ROWS) * ROWS, config)[:frames]


@cache
def table(frames: int, config: WhisperConfig) -> mx.array:
    """Returns the same, for whole multiples of ROWS frames."""
    return mx.array(config.positions(frames))

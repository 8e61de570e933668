"""A convolutional network on a log-mel spectrogram in MLX. Its twin is wav2small_torch.py: the same classes in order.

B clips, S samples, T columns (of the spectrogram, later frames), F mel bands, C channels, W the width of the pooling,
D the length of an embedding. The kind is that of wav2small (arXiv 2408.13920).
"""

import math
from itertools import chain

import mlx.core as mx
import mlx.nn as nn

from e2v_port.config import Wav2smallConfig

from .layers_mlx import Head, Trace, linear, sum_over_time

__all__ = ["Wav2small"]


class ConvLayer(nn.Module):
    """A 3 x 3 convolution that keeps time and bands, [B, T, F, C] -> [B, T, F, C']."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = mx.zeros((channels, 3, 3, in_channels))
        self.bias = mx.zeros(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv2d(x, self.weight, padding=1) + self.bias


class Gram(nn.Module):
    """The mean over time of W channels by bands, weighted by attention, and the product of that matrix with itself."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        channels = config.stages[-1][-1]
        # As an item: to MLX a module is a dict, whose attribute `values` is something else.
        self["values"] = nn.Linear(channels, config.width)
        self.weights = nn.Linear(channels, config.width)

    def __call__(self, x: mx.array, real: mx.array) -> tuple[mx.array, mx.array]:
        values = linear(x, self["values"]).swapaxes(2, 3)  # [B, T, W, F]
        weights = _over_time(linear(x, self.weights).swapaxes(2, 3), real)
        return self.embedding(values), self.embedding((values * weights).sum(1))

    def embedding(self, x: mx.array) -> mx.array:
        """[..., W, F] -> [..., W * (F + W)]: row by row, a channel's bands and its products with each channel."""
        return mx.concatenate([x, x @ x.swapaxes(-1, -2)], -1).flatten(-2)


class Deviation(nn.Module):
    """The mean and standard deviation over time of W features, weighted by attention."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self["values"] = nn.Linear(config.stages[-1][-1] * config.pooled_bands, config.width)
        self.weights = nn.Linear(config.width, config.width)

    def __call__(self, x: mx.array, real: mx.array) -> tuple[mx.array, mx.array]:
        x = x.swapaxes(2, 3).flatten(2)  # [B, T, C * F]
        values = mx.maximum(linear(x, self["values"]), 0)  # [B, T, W]
        weights = _over_time(linear(values, self.weights), real)
        mean = (values * weights).sum(1)
        variance = (mx.square(values - mean[:, None]) * weights).sum(1)
        frames = mx.concatenate([values, self.deviation(mx.zeros_like(values))], -1)
        return frames, mx.concatenate([mean, self.deviation(variance)], -1)

    def deviation(self, variance: mx.array) -> mx.array:
        """The root, kept from zero, where it has no gradient."""
        return mx.sqrt(variance + 1e-5)


def _over_time(x: mx.array, real: mx.array) -> mx.array:
    """Softmax over the columns [B, T, ...] that are a clip's own, [B, T]."""
    real = real.reshape(*real.shape, *(1,) * (x.ndim - 2))
    return mx.softmax(mx.where(real, x, -math.inf), axis=1)


class Wav2small(nn.Module):
    """Waveforms in, frames, embeddings and logits out."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = mx.zeros((config.bands, config.window // 2 + 1))
        channels = list(chain.from_iterable(config.stages))
        self.layers = [ConvLayer(*pair) for pair in zip([1, *channels], channels, strict=False)]
        self.pooling = Gram(config) if config.pooling == "gram" else Deviation(config)
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
            Frames [B, T, D], what the pooling makes of each by itself (those behind a clip's end mean nothing),
            embeddings [B, D] and logits [B, labels] (None without a head), all float32.
        """
        return self.network(*self.spectrogram(waveform, samples), trace)

    def spectrogram(self, waveform: mx.array, samples: list[int]) -> tuple[mx.array, list[int]]:
        """Returns the power in each mel band in dB, and how many columns of it are each clip's own.

        Args:
            waveform: As for `__call__`.
            samples: As for `__call__`.

        Returns:
            [B, T, F] in float32, with `band_norm` relative to the clip's mean; zero behind a clip's end.
        """
        window, step = self.config.window, self.config.step
        x = mx.pad(waveform.astype(mx.float32), [(0, 0), (0, max(window - waveform.shape[1], 0))])
        at = mx.arange(window)
        time = self.config.windows(x.shape[1])
        x = x[:, mx.arange(time)[:, None] * step + at]  # [B, T, window]
        spectrum = mx.fft.rfft(x * (0.5 - 0.5 * mx.cos(2 * math.pi / window * at)))  # a Hann window
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        x = 10 * mx.log10(mx.maximum(power @ self.mel.astype(mx.float32).T, self.config.floor))
        lengths = [self.config.windows(count) for count in samples]
        real = self._real(lengths, time)[:, :, None]
        if self.config.band_norm:
            x = x - sum_over_time(x * real) / mx.array(lengths)[:, None, None]
        return x * real, lengths

    def network(
        self, spectrogram: mx.array, lengths: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Runs all behind the spectrogram.

        Args:
            spectrogram: [B, T, F], zero behind a clip's end.
            lengths: Columns of each clip.
            trace: As for `__call__`.

        Returns:
            As `__call__`.
        """
        trace("spectrogram", spectrogram)
        x = spectrogram[:, :, :, None].astype(self.mel.dtype)  # [B, T, F, 1]
        pool = nn.MaxPool2d(3, 2, 1)
        layers = enumerate(self.layers)
        for number, stage in enumerate(self.config.stages):
            if number:
                x = pool(x)
                lengths = [(length + 1) // 2 for length in lengths]
            real = self._real(lengths, x.shape[1])
            padded = min(lengths) < x.shape[1]
            own = real[:, :, None, None]
            x = x * own if padded else x
            for _, (i, layer) in zip(stage, layers, strict=False):
                y = layer(x)
                y = mx.maximum(x + y if self.config.residual and x.shape == y.shape else y, 0)
                # The next convolution would carry what lies behind a clip's end back into the clip.
                x = y * own if padded else y
                trace(f"layers.{i}", x)
        frames, pooled = self.pooling(x, real)
        trace("frames", frames)
        trace("pooled", pooled)
        if "head" not in self:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: mx.array) -> mx.array:
        """Applies the head to embeddings [..., D]: logits [..., labels], float32."""
        logits: mx.array = self.head(x)
        return logits

    @staticmethod
    def _real(lengths: list[int], time: int) -> mx.array:
        """Tells which columns are a clip's own, [B, T]."""
        return mx.arange(time) < mx.array(lengths)[:, None]

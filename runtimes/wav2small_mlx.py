"""A convolutional network on a log-mel spectrogram in MLX. The twin is wav2small_torch.py: the same classes in order.

Dimensions: B clips, S samples, T columns of the spectrogram (later frames), F mel bands, C channels, W features of the
pooling, D features of an embedding. The architecture follows wav2small (arXiv 2408.13920).
"""

import math
from itertools import chain

import mlx.core as mx
from mlx import nn

from e2v_port.architectures.wav2small import Wav2smallConfig

from .layers_mlx import Head, Trace, linear, parameter, sum_over_time, untraced, valid_frames

__all__ = ["Wav2small"]


class ConvLayer(nn.Module):
    """A 3 x 3 convolution that keeps time and bands, [B, T, F, C] -> [B, T, F, C']."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = parameter(channels, 3, 3, in_channels)
        self.bias = parameter(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return mx.conv2d(x, self.weight, padding=1) + self.bias


class Gram(nn.Module):
    """The mean over time of W channels by bands, weighted by attention, and the product of that matrix with itself."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        channels = config.stages[-1][-1]
        # An item, since a module of MLX is a dict, which has a method of this name.
        self["values"] = nn.Linear(channels, config.width)
        self.weights = nn.Linear(channels, config.width)

    def __call__(self, x: mx.array, valid: mx.array) -> tuple[mx.array, mx.array]:
        values = linear(x, self["values"]).swapaxes(2, 3)  # [B, T, W, F]
        weights = over_time(linear(x, self.weights).swapaxes(2, 3), valid)
        return self.embedding(values), self.embedding((values * weights).sum(1))

    def embedding(self, x: mx.array) -> mx.array:
        """Returns each channel's bands and its products with all channels, [..., W, F] -> [..., W * (F + W)]."""
        return mx.concatenate([x, x @ x.swapaxes(-1, -2)], -1).flatten(-2)


class Deviation(nn.Module):
    """The mean and standard deviation over time of W features, weighted by attention."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self["values"] = nn.Linear(config.stages[-1][-1] * config.pooled_bands, config.width)
        self.weights = nn.Linear(config.width, config.width)

    def __call__(self, x: mx.array, valid: mx.array) -> tuple[mx.array, mx.array]:
        x = x.swapaxes(2, 3).flatten(2)  # [B, T, C * F]
        values = nn.relu(linear(x, self["values"]))  # [B, T, W]
        weights = over_time(linear(values, self.weights), valid)
        mean = (values * weights).sum(1)
        variance = (mx.square(values - mean[:, None]) * weights).sum(1)
        frames = mx.concatenate([values, self.deviation(mx.zeros_like(values))], -1)
        return frames, mx.concatenate([mean, self.deviation(variance)], -1)

    def deviation(self, variance: mx.array) -> mx.array:
        """Returns the square root, kept away from zero, where it has no gradient."""
        return mx.sqrt(variance + 1e-5)


def over_time(x: mx.array, valid: mx.array) -> mx.array:
    """Applies a softmax over the columns of x [B, T, ...] that belong to each clip, [B, T]."""
    valid = valid.reshape(*valid.shape, *(1,) * (x.ndim - 2))
    return mx.softmax(mx.where(valid, x, -math.inf), axis=1)


class Wav2small(nn.Module):
    """Waveforms in; frames, embeddings and logits out."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.config = config
        self.mel = mx.zeros((config.bands, config.window // 2 + 1))
        channels = list(chain.from_iterable(config.stages))
        self.layers = [ConvLayer(*pair) for pair in zip([1, *channels], channels, strict=False)]
        self.pooling = Gram(config) if config.pooling == "gram" else Deviation(config)
        self.head = Head(config) if config.has_head else None

    def __call__(
        self, waveform: mx.array, samples: list[int], trace: Trace = untraced
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Runs the model.

        Args:
            waveform: Normalized clips, zero-padded at the end, [B, S].
            samples: Samples of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D], each the embedding of a column by itself (undefined after a clip's end), embeddings [B, D]
            and logits [B, labels] (None without a head), all float32.
        """
        return self.network(*self.spectrogram(waveform, samples), trace)

    def spectrogram(self, waveform: mx.array, samples: list[int]) -> tuple[mx.array, list[int]]:
        """Computes the power in each mel band, in dB.

        Args:
            waveform: Same as for `__call__`.
            samples: Same as for `__call__`.

        Returns:
            [B, T, F] in float32, zero after a clip's end, with `band_norm` relative to the clip's mean; and the number
            of columns of each clip.
        """
        window, step = self.config.window, self.config.step
        x = mx.pad(waveform.astype(mx.float32), [(0, 0), (0, max(window - waveform.shape[1], 0))])
        at = mx.arange(window)
        x = x[:, mx.arange(self.config.windows(x.shape[1]))[:, None] * step + at]  # [B, T, window]
        spectrum = mx.fft.rfft(x * (0.5 - 0.5 * mx.cos(2 * math.pi / window * at)))  # a Hann window
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        x = 10 * mx.log10(mx.maximum(power @ self.mel.astype(mx.float32).T, self.config.floor))
        lengths = [self.config.windows(count) for count in samples]
        counts = mx.array(lengths)
        valid = valid_frames(counts, x.shape[1])[:, :, None]
        if self.config.band_norm:
            x = x - sum_over_time(x * valid) / counts[:, None, None]
        return x * valid, lengths

    def network(
        self, spectrogram: mx.array, lengths: list[int], trace: Trace = untraced
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Runs everything that follows the spectrogram.

        Args:
            spectrogram: [B, T, F], zero after a clip's end.
            lengths: Columns of each clip.
            trace: Same as for `__call__`.

        Returns:
            The same as `__call__`.
        """
        trace("spectrogram", spectrogram)
        x = spectrogram[:, :, :, None].astype(self.mel.dtype)  # [B, T, F, 1]
        max_pool = nn.MaxPool2d(3, 2, 1)
        layers = enumerate(self.layers)
        for number, stage in enumerate(self.config.stages):
            if number:
                x = max_pool(x)
                lengths = [(length + 1) // 2 for length in lengths]
            time = x.shape[1]
            valid = valid_frames(mx.array(lengths), time)
            padded = min(lengths) < time
            mask = valid[:, :, None, None]
            x = x * mask if padded else x
            for _, (i, layer) in zip(stage, layers, strict=False):
                y = layer(x)
                y = nn.relu(x + y if self.config.residual and x.shape == y.shape else y)
                # The next convolution would carry values after a clip's end back into the clip.
                x = y * mask if padded else y
                trace(f"layers.{i}", x)
        frames, pooled = self.pooling(x.astype(mx.float32), valid)
        trace("frames", frames)
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: mx.array, output: str = "") -> mx.array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: mx.array = self.head.others[output](x) if output else self.head(x)
        return logits

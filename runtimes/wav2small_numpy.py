"""A convolutional network on a log-mel spectrogram in numpy. The twins are wav2small_torch.py and wav2small_mlx.py.

Dimensions: S samples, T columns of the spectrogram (later frames), F mel bands, C channels, W features of the pooling,
D features of an embedding. The architecture follows wav2small (arXiv 2408.13920).
"""

from itertools import chain

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from e2v_port.architectures.wav2small import Wav2smallConfig

from .layers_numpy import Array, Head, Linear, Stored, Trace, hann, mean_over_time, sum_over_time, untraced

__all__ = ["Wav2small"]

NUMBERS = 1 << 18  # numbers of neighborhoods that a convolution copies at a time: 1 MB


class ConvLayer:
    """A 3 x 3 convolution that keeps time and bands, [T, F, C] -> [T, F, C']."""

    def __init__(self, stored: Stored) -> None:
        self.weight, self.bias = stored["weight"], stored["bias"]

    def __call__(self, x: Array) -> Array:
        time, bands, channels = x.shape
        weight = self.weight.reshape(len(self.weight), -1).T
        x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        # The neighborhood of each number is 3 rows of 3 * C neighboring numbers.
        shape = time, bands, 3, 3 * channels
        x = as_strided(x, shape, (*x.strides[:2], x.strides[0], x.itemsize), writeable=False)
        step = max(NUMBERS // (bands * len(weight)), 1)
        parts = [x[start : start + step].reshape(-1, len(weight)) @ weight for start in range(0, time, step)]
        out: Array = np.concatenate(parts) + self.bias
        return out.reshape(time, bands, -1)


class Gram:
    """The mean over time of W channels by bands, weighted by attention, and the product of that matrix with itself."""

    def __init__(self, stored: Stored) -> None:
        self.values = Linear(stored["values"])
        self.weights = Linear(stored["weights"])

    def __call__(self, x: Array) -> tuple[Array, Array]:
        values = self.values(x).swapaxes(1, 2)  # [T, W, F]
        weights = over_time(self.weights(x).swapaxes(1, 2))
        return self.embedding(values), self.embedding(sum_over_time(values * weights))

    def embedding(self, x: Array) -> Array:
        """Returns each channel's bands and its products with all channels, [..., W, F] -> [..., W * (F + W)]."""
        return np.concatenate([x, x @ x.swapaxes(-1, -2)], -1).reshape(*x.shape[:-2], -1)


class Deviation:
    """The mean and standard deviation over time of W features, weighted by attention."""

    def __init__(self, stored: Stored) -> None:
        self.values = Linear(stored["values"])
        self.weights = Linear(stored["weights"])

    def __call__(self, x: Array) -> tuple[Array, Array]:
        x = x.swapaxes(1, 2).reshape(len(x), -1)  # [T, C * F]
        values = np.maximum(self.values(x), 0)  # [T, W]
        weights = over_time(self.weights(values))
        mean = sum_over_time(values * weights)
        variance = sum_over_time(np.square(values - mean) * weights)
        frames = np.concatenate([values, self.deviation(np.zeros_like(values))], -1)
        return frames, np.concatenate([mean, self.deviation(variance)], -1)

    def deviation(self, variance: Array) -> Array:
        """Returns the square root, kept away from zero as in training, where it has no gradient."""
        root: Array = np.sqrt(variance + 1e-5)
        return root


def over_time(x: Array) -> Array:
    """Applies a softmax over time to [T, ...]."""
    x = np.exp(x - x.max(0))
    return x / sum_over_time(x)


class Wav2small:
    """A waveform in; frames, embedding and logits out."""

    def __init__(self, stored: Stored, config: Wav2smallConfig) -> None:
        self.config = config
        self.mel = stored["mel"]
        layers = range(len(list(chain.from_iterable(config.stages))))
        self.layers = [ConvLayer(stored["layers"][str(i)]) for i in layers]
        pooling = Gram if config.pooling == "gram" else Deviation
        self.pooling: Gram | Deviation = pooling(stored["pooling"])
        self.head = Head(stored["head"], config) if config.has_head else None

    def __call__(self, waveform: Array, trace: Trace = untraced) -> tuple[Array, Array, Array | None]:
        """Runs the model.

        Args:
            waveform: A normalized clip, [S].
            trace: Called with the name and value of every stage.

        Returns:
            Frames [T, D], each the embedding of a column by itself, the embedding [D] and the logits [labels] (None
            without a head).
        """
        return self.network(self.spectrogram(waveform), trace)

    def spectrogram(self, waveform: Array) -> Array:
        """Computes the power in each mel band, in dB: [T, F], with `band_norm` relative to the clip's mean."""
        window = self.config.window
        x = np.pad(waveform, (0, max(window - len(waveform), 0)))
        x = sliding_window_view(x, window)[:: self.config.step]  # [T, window]
        spectrum = np.fft.rfft(x * hann(window))
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        levels: Array = 10 * np.log10(np.maximum(power.astype(np.float32) @ self.mel.T, self.config.floor))
        return levels - mean_over_time(levels) if self.config.band_norm else levels

    def network(self, spectrogram: Array, trace: Trace = untraced) -> tuple[Array, Array, Array | None]:
        """Runs everything that follows the spectrogram [T, F], and returns the same as `__call__`."""
        trace("spectrogram", spectrogram)
        x = spectrogram[:, :, None]  # [T, F, 1]
        layers = enumerate(self.layers)
        for number, stage in enumerate(self.config.stages):
            if number:
                x = halved(halved(x).swapaxes(0, 1)).swapaxes(0, 1)
            for _, (i, layer) in zip(stage, layers, strict=False):
                y = layer(x)
                x = np.maximum(x + y if self.config.residual and x.shape == y.shape else y, 0)
                trace(f"layers.{i}", x)
        frames, pooled = self.pooling(x)
        trace("frames", frames)
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: Array, output: str = "") -> Array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name."""
        assert self.head is not None
        return self.head.others[output](x) if output else self.head(x)


def halved(x: Array) -> Array:
    """Returns the highest of every second row and its two neighbors, [rows, ...] -> [(rows + 1) // 2, ...]."""
    last = len(x) - 1
    middle = np.arange(0, len(x), 2)
    return np.maximum(np.maximum(x[np.maximum(middle - 1, 0)], x[middle]), x[np.minimum(middle + 1, last)])

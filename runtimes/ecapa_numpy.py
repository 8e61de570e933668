"""An ECAPA-TDNN speaker encoder in numpy. The twins are ecapa_torch.py and ecapa_mlx.py: the same classes.

Dimensions: S samples, T columns of the spectrogram, F mel bands, K columns that a layer sees at a time, C channels, D
numbers of an embedding. The reference is speechbrain's Fbank and ECAPA_TDNN (arXiv 2005.07143).
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.architectures import ecapa
from e2v_port.architectures.ecapa import FLOOR, RANGE, SMALLEST, STEP, WINDOW

from .layers_numpy import Array, Head, Linear, Stored, Trace, mean_over_time, sum_over_time, untraced

__all__ = ["Ecapa"]

TINY = 1e-12  # length below which an embedding has no direction


class Scale:
    """A factor and a shift of each channel: what a batch norm is after training."""

    def __init__(self, stored: Stored) -> None:
        self.weight, self.bias = stored["weight"], stored["bias"]

    def __call__(self, x: Array) -> Array:
        scaled: Array = x * self.weight + self.bias
        return scaled


class Layer:
    """A convolution over time, ReLU and a batch norm, [T, C] -> [T, C']."""

    def __init__(self, stored: Stored) -> None:
        self.linear = Linear(stored["linear"])
        self.norm = Scale(stored["norm"])

    def __call__(self, x: Array, at: Array | None = None) -> Array:
        """Sees the columns `at` [T, K] side by side; without them, each column by itself."""
        if at is not None:
            x = x[at].reshape(len(x), -1)
        x = self.linear(x)
        return self.norm(np.maximum(x, 0, out=x))


class Block:
    """Layers on parts of the channels, each of which sees more time, and channel attention, with a residual sum."""

    def __init__(self, stored: Stored, config: ecapa.EcapaConfig) -> None:
        self.before = Layer(stored["before"])
        self.parts = [Layer(stored["parts"][str(i)]) for i in range(config.scale - 1)]
        self.after = Layer(stored["after"])
        self.squeeze = Linear(stored["squeeze"])
        self.excite = Linear(stored["excite"])

    def __call__(self, x: Array, at: Array) -> Array:
        residual = x
        first, *others = np.split(self.before(x), len(self.parts) + 1, 1)
        found = [first]
        for i, part in enumerate(others):
            found.append(self.parts[i](part + found[-1] if i else part, at))
        x = self.after(np.concatenate(found, 1))
        gate = sigmoid(self.excite(np.maximum(self.squeeze(mean_over_time(x)), 0)))
        return x * gate + residual


class Pooling:
    """The mean and deviation over time of each channel, weighted by attention that knows those of the whole clip."""

    def __init__(self, stored: Stored) -> None:
        self.frames = Linear(stored["frames"])
        self.mean = Linear(stored["mean"])
        self.deviation = Linear(stored["deviation"])
        self.norm = Scale(stored["norm"])
        self.scores = Linear(stored["scores"])

    def __call__(self, x: Array) -> Array:
        mean, deviation = self.statistics(x, np.full((len(x), 1), 1 / len(x), np.float32))
        hidden = self.frames(x) + (self.mean(mean) + self.deviation(deviation))
        scores = self.scores(np.tanh(self.norm(np.maximum(hidden, 0))))
        weights = np.exp(scores - scores.max(0))
        weights /= sum_over_time(weights)
        return np.concatenate(self.statistics(x, weights))

    def statistics(self, x: Array, weights: Array) -> tuple[Array, Array]:
        """Returns the weighted mean and standard deviation over time, [C] each."""
        mean = sum_over_time(x * weights)
        variance = sum_over_time(np.square(x - mean) * weights)
        return mean, np.sqrt(np.maximum(variance, np.float32(SMALLEST)))


class Ecapa:
    """A waveform in; frames and the embedding out."""

    def __init__(self, stored: Stored, config: ecapa.EcapaConfig) -> None:
        self.config = config
        self.first = Layer(stored["first"])
        self.blocks = [Block(stored["blocks"][str(i)], config) for i in range(len(config.dilations))]
        self.join = Layer(stored["join"])
        self.pooling = Pooling(stored["pooling"])
        self.norm = Scale(stored["norm"])
        self.projection = Linear(stored["projection"])
        self.head = Head(stored["head"], config) if config.has_head else None

    def __call__(self, waveform: Array, trace: Trace = untraced) -> tuple[Array, Array, Array | None]:
        """Runs the model.

        Args:
            waveform: A clip, [S].
            trace: Called with the name and value of every stage.

        Returns:
            Frames [T, C], the embedding [D] and the logits [labels] (None without a head).
        """
        x = self.spectrogram(waveform)  # [T, F]
        trace("spectrogram", x)
        x = x - mean_over_time(x)
        trace("features", x)
        x = self.first(x, around(len(x), self.config.kernel, 1))
        trace("first", x)
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x, around(len(x), 3, self.config.dilations[i]))
            trace(f"blocks.{i}", x)
            found.append(x)
        frames = self.join(np.concatenate(found, 1))
        trace("frames", frames)
        x = self.pooling(frames)
        trace("statistics", x)
        pooled = unit(self.projection(self.norm(x)))
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: Array) -> Array:
        """Computes the power in each mel band, in dB, at most RANGE below the highest: [T, F]."""
        x = sliding_window_view(np.pad(waveform, WINDOW // 2), WINDOW)[::STEP]  # [T, WINDOW]
        spectrum = np.fft.rfft(x * ecapa.hamming())
        power = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32)
        levels: Array = 10 * np.log10(np.maximum(power @ bands(self.config.bands), np.float32(FLOOR)))
        return np.maximum(levels, levels.max() - np.float32(RANGE))

    def score(self, x: Array, output: str = "") -> Array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name."""
        assert self.head is not None
        return self.head.others[output](x) if output else self.head(x)


def around(time: int, kernel: int, dilation: int) -> Array:
    """Returns the columns that a layer sees at each column, mirrored at both ends of the clip, [T, K]."""
    at = np.arange(time)[:, None] + dilation * (np.arange(kernel) - kernel // 2)
    mirrored: Array = time - 1 - np.abs(time - 1 - np.abs(at))
    return mirrored


def sigmoid(x: Array) -> Array:
    """Applies the logistic function."""
    half: Array = 0.5 * np.tanh(0.5 * x) + 0.5
    return half


def unit(x: Array) -> Array:
    """Brings vectors [..., D] to length 1."""
    scaled: Array = x / np.maximum(np.sqrt(np.square(x).sum(-1, keepdims=True)), TINY)
    return scaled


@cache
def bands(number: int) -> Array:
    """Returns the mel filters, [WINDOW // 2 + 1, number]."""
    return ecapa.filters(number).T

"""A GE2E speaker encoder in numpy. The twins are ge2e_torch.py and ge2e_mlx.py: the same classes.

Dimensions: S samples, P excerpts, C columns of an excerpt, F mel bands, H numbers of a layer's state, D features of an
embedding. The reference is Resemblyzer's VoiceEncoder (arXiv 1710.10467).
"""

from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.audio import SAMPLING_RATE, mel_filters

from .layers_numpy import Array, Head, Linear, Stored, Trace, hann, mean_over_time, untraced

__all__ = ["Ge2e"]

TINY = 1e-12  # length below which an embedding has no direction: of a network that has no output for silence


class Recurrent:
    """A layer of an LSTM, [C, P, inputs] -> [C, P, H], from a state of zeros."""

    def __init__(self, stored: Stored) -> None:
        self.inputs = Linear(stored["inputs"])
        self.states = Linear(stored["states"])
        self.width = self.states.weight.shape[1]

    def __call__(self, x: Array) -> Array:
        width = self.width
        columns, excerpts, size = x.shape
        x = self.inputs(x.reshape(-1, size)).reshape(columns, excerpts, -1)  # [C, P, 4 H]
        found = np.empty((columns, excerpts, width), np.float32)
        state = cell = np.zeros((excerpts, width), np.float32)
        for column, inputs in enumerate(x):
            gates = inputs + self.states(state)
            new = np.tanh(gates[:, 2 * width : 3 * width])
            gates = sigmoid(gates)
            cell = gates[:, width : 2 * width] * cell + gates[:, :width] * new
            state = found[column] = gates[:, 3 * width :] * np.tanh(cell)
        return found


class Ge2e:
    """A waveform in; the embeddings of its excerpts and of all together out."""

    def __init__(self, stored: Stored, config: Ge2eConfig) -> None:
        self.config = config
        self.layers = [Recurrent(stored["layers"][str(i)]) for i in range(config.depth)]
        self.projection = Linear(stored["projection"])
        self.head = Head(stored["head"], config) if config.has_head else None

    def __call__(self, waveform: Array, trace: Trace = untraced) -> tuple[Array, Array, Array | None]:
        """Runs the model.

        Args:
            waveform: A normalized clip, [S].
            trace: Called with the name and value of every stage.

        Returns:
            Embeddings of the excerpts [P, D] and of the clip [D], and the logits [labels] (None without a head).
        """
        x = self.spectrogram(waveform, self.config.frames(len(waveform)))  # [columns, F]
        trace("spectrogram", x)
        x = sliding_window_view(x, self.config.excerpt, 0)[:: self.config.apart].transpose(2, 0, 1)  # [C, P, F]
        for i, layer in enumerate(self.layers):
            x = layer(x)
            trace(f"layers.{i}", x.swapaxes(0, 1))
        frames = unit(np.maximum(self.projection(x[-1]), 0))  # [P, D]
        trace("frames", frames)
        pooled = unit(mean_over_time(frames))
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: Array, excerpts: int) -> Array:
        """Computes the power in each mel band, [columns, F], of what so many excerpts cover."""
        window, size = self.config.window, self.config.covered(excerpts) - self.config.window // 2
        x = np.float32(self.config.level) * waveform[:size]
        x = np.pad(x, (window // 2, size - len(x)))
        x = sliding_window_view(x, window)[:: self.config.step]  # [columns, window]
        spectrum = np.fft.rfft(x * hann(window))
        power: Array = (np.square(spectrum.real) + np.square(spectrum.imag)).astype(np.float32)
        return power @ bands(self.config.bands, window)

    def score(self, x: Array, output: str = "") -> Array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name."""
        assert self.head is not None
        return self.head.others[output](x) if output else self.head(x)


def sigmoid(x: Array) -> Array:
    """Applies the logistic function."""
    half: Array = 0.5 * np.tanh(0.5 * x) + 0.5
    return half


def unit(x: Array) -> Array:
    """Brings vectors [..., D] to length 1."""
    scaled: Array = x / np.maximum(np.sqrt(np.square(x).sum(-1, keepdims=True)), TINY)
    return scaled


@cache
def bands(number: int, window: int) -> Array:
    """Returns the mel filters, [window // 2 + 1, number]."""
    return mel_filters(number, window, 0, SAMPLING_RATE / 2).T

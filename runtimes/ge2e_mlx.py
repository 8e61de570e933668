"""A GE2E speaker encoder in MLX. The twin is ge2e_torch.py: the same classes in order.

Dimensions: B clips, S samples, P excerpts of each clip, C columns of an excerpt, F mel bands, H numbers of a layer's
state, D features of an embedding. The reference is Resemblyzer's VoiceEncoder (arXiv 1710.10467).
"""

from functools import cache

import mlx.core as mx
import numpy as np
from mlx import nn

from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.audio import SAMPLING_RATE, mel_filters

from .layers_mlx import Head, Trace, linear, untraced, valid_frames

__all__ = ["Ge2e"]

TINY = 1e-12  # length below which an embedding has no direction: of a network that has no output for silence


class Recurrent(nn.Module):
    """A layer of an LSTM, [N, C, inputs] -> [N, C, H], from a state of zeros."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = nn.Linear(inputs, 4 * width)
        self.states = nn.Linear(width, 4 * width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        x, found = self.inputs(x), []
        state = cell = mx.zeros((len(x), self.width), dtype=x.dtype)
        for column in range(x.shape[1]):
            gates = mx.split(x[:, column] + self.states(state), 4, 1)
            into, keep, out = (mx.sigmoid(gates[i]) for i in (0, 1, 3))
            cell = keep * cell + into * mx.tanh(gates[2])
            state = out * mx.tanh(cell)
            found.append(state)
        return mx.stack(found, 1)


class Ge2e(nn.Module):
    """Waveforms in; the embeddings of their excerpts and of all together out."""

    def __init__(self, config: Ge2eConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [config.bands, *[config.width] * (config.depth - 1)]
        self.layers = [Recurrent(size, config.width) for size in inputs]
        self.projection = nn.Linear(config.width, config.embed_dim)
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
            Embeddings of the excerpts [B, P, D] (undefined after a clip's last), of the clips [B, D], and logits [B,
            labels] (None without a head), all float32.
        """
        lengths = mx.array([self.config.frames(count) for count in samples])
        time = self.config.frames(waveform.shape[1])
        x = self.spectrogram(waveform, time)  # [B, columns, F]
        trace("spectrogram", x)
        x = x[:, mx.arange(time)[:, None] * self.config.apart + mx.arange(self.config.excerpt)]  # [B, P, C, F]
        x = x.flatten(0, 1).astype(self.projection.weight.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            trace(f"layers.{i}", x.reshape(-1, time, *x.shape[1:]))
        x = unit(nn.relu(linear(x[:, -1], self.projection)).astype(mx.float32))
        frames = x.reshape(-1, time, x.shape[1])  # [B, P, D]
        trace("frames", frames)
        pooled = unit((frames * valid_frames(lengths, time)[:, :, None]).sum(1))
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: mx.array, excerpts: int) -> mx.array:
        """Computes the power in each mel band.

        Args:
            waveform: Same as for `__call__`.
            excerpts: Number of excerpts to cover; what a clip lacks is silence.

        Returns:
            [B, columns, F] in float32.
        """
        window, size = self.config.window, self.config.covered(excerpts) - self.config.window // 2
        x = self.config.level * waveform[:, :size]
        x = mx.pad(x, ((0, 0), (window // 2, size - x.shape[1])))
        x = x[:, mx.arange(self.config.columns(excerpts))[:, None] * self.config.step + mx.arange(window)]
        spectrum = mx.fft.rfft(x * mx.array(np.hanning(window + 1)[:-1].astype(np.float32)))
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        return power @ bands(self.config.bands, window)

    def score(self, x: mx.array, output: str = "") -> mx.array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: mx.array = self.head.others[output](x) if output else self.head(x)
        return logits


def unit(x: mx.array) -> mx.array:
    """Brings vectors [..., D] to length 1."""
    return x / mx.maximum(mx.sqrt(mx.square(x).sum(-1, keepdims=True)), TINY)


@cache
def bands(number: int, window: int) -> mx.array:
    """Returns the mel filters, [window // 2 + 1, number]."""
    return mx.array(mel_filters(number, window, 0, SAMPLING_RATE / 2).T)

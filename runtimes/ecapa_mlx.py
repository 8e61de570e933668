"""An ECAPA-TDNN speaker encoder in MLX. The twin is ecapa_torch.py: the same classes in order.

Dimensions: B clips, S samples, T columns of the spectrogram, F mel bands, K columns that a layer sees at a time, C
channels, D numbers of an embedding. The reference is speechbrain's Fbank and ECAPA_TDNN (arXiv 2005.07143).
"""

import math
from functools import cache

import mlx.core as mx
from mlx import nn

from e2v_port.architectures import ecapa
from e2v_port.architectures.ecapa import FLOOR, RANGE, SMALLEST, STEP, WINDOW

from .layers_mlx import Head, Trace, linear, parameter, sum_over_time, untraced, valid_frames

__all__ = ["Ecapa"]

TINY = 1e-12  # length below which an embedding has no direction


class Scale(nn.Module):
    """A factor and a shift of each channel: what a batch norm is after training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = parameter(channels)
        self.bias = parameter(channels)

    def __call__(self, x: mx.array) -> mx.array:
        return x * self.weight + self.bias


class Layer(nn.Module):
    """A convolution over time, ReLU and a batch norm, [B, T, C] -> [B, T, C']."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, channels)
        self.norm = Scale(channels)

    def __call__(self, x: mx.array, at: mx.array | None = None) -> mx.array:
        """Sees the columns `at` [B, T, K] side by side; without them, each column by itself."""
        if at is not None:
            x = mx.concatenate([taken(x, at[:, :, i]) for i in range(at.shape[2])], 2)
        return self.norm(nn.relu(self.linear(x)))


class Block(nn.Module):
    """Layers on parts of the channels, each of which sees more time, and channel attention, with a residual sum."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        width, part = config.width, config.width // config.scale
        self.before = Layer(width, width)
        self.parts = [Layer(3 * part, part) for _ in range(config.scale - 1)]
        self.after = Layer(width, width)
        self.squeeze = nn.Linear(width, config.squeezed)
        self.excite = nn.Linear(config.squeezed, width)

    def __call__(self, x: mx.array, at: mx.array, valid: mx.array) -> mx.array:
        residual = x
        first, *others = mx.split(self.before(x), len(self.parts) + 1, 2)
        found = [first]
        for i, part in enumerate(others):
            found.append(self.parts[i](part + found[-1] if i else part, at))
        x = self.after(mx.concatenate(found, 2))
        mean = sum_over_time(x.astype(mx.float32) * valid) / valid.sum(1, keepdims=True)  # [B, 1, C]
        gate = mx.sigmoid(self.excite(nn.relu(self.squeeze(mean.astype(x.dtype)))))
        return x * gate + residual


class Pooling(nn.Module):
    """The mean and deviation over time of each channel, weighted by attention that knows those of the whole clip."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        self.frames = nn.Linear(config.joined, config.attended)
        self.mean = nn.Linear(config.joined, config.attended, bias=False)
        self.deviation = nn.Linear(config.joined, config.attended, bias=False)
        self.norm = Scale(config.attended)
        self.scores = nn.Linear(config.attended, config.joined)

    def __call__(self, x: mx.array, valid: mx.array) -> mx.array:
        mean, deviation = self.statistics(x, valid / valid.sum(1, keepdims=True))
        whole = linear(mean, self.mean) + linear(deviation, self.deviation)  # [B, 1, attended]
        hidden = nn.relu(linear(x, self.frames) + whole)
        scores = linear(mx.tanh(self.norm(hidden)), self.scores)
        weights = mx.softmax(mx.where(valid, scores, -math.inf), axis=1)
        return mx.concatenate(self.statistics(x, weights), -1)[:, 0]

    def statistics(self, x: mx.array, weights: mx.array) -> tuple[mx.array, mx.array]:
        """Returns the weighted mean and standard deviation over time, [B, 1, C] each."""
        mean = sum_over_time(x * weights)
        variance = sum_over_time(mx.square(x - mean) * weights)
        return mean, mx.sqrt(mx.maximum(variance, SMALLEST))


class Ecapa(nn.Module):
    """Waveforms in; frames and embeddings out."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        self.config = config
        self.first = Layer(config.kernel * config.bands, config.width)
        self.blocks = [Block(config) for _ in config.dilations]
        self.join = Layer(len(config.dilations) * config.width, config.joined)
        self.pooling = Pooling(config)
        self.norm = Scale(2 * config.joined)
        self.projection = nn.Linear(2 * config.joined, config.embed_dim)
        self.head = Head(config) if config.has_head else None

    def __call__(
        self, waveform: mx.array, samples: list[int], trace: Trace = untraced
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        """Runs the model.

        Args:
            waveform: Clips, zero-padded at the end, [B, S].
            samples: Samples of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, C] (undefined after a clip's end), embeddings [B, D] and logits [B, labels] (None without a
            head), all float32.
        """
        lengths = mx.array([self.config.frames(count) for count in samples])
        time = self.config.frames(waveform.shape[1])
        valid = valid_frames(lengths, time)[:, :, None]
        x = self.spectrogram(waveform, valid)  # [B, T, F]
        trace("spectrogram", x)
        x = x - sum_over_time(x * valid) / valid.sum(1, keepdims=True)
        trace("features", x)
        x = self.first(x.astype(self.norm.weight.dtype), around(lengths, time, self.config.kernel, 1))
        trace("first", x)
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x, around(lengths, time, 3, self.config.dilations[i]), valid)
            trace(f"blocks.{i}", x)
            found.append(x)
        frames = self.join(mx.concatenate(found, 2)).astype(mx.float32)
        trace("frames", frames)
        x = self.pooling(frames, valid)
        trace("statistics", x)
        pooled = unit(linear(self.norm(x), self.projection).astype(mx.float32))
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: mx.array, valid: mx.array) -> mx.array:
        """Computes the power in each mel band, in dB, at most RANGE below the highest of its clip.

        Args:
            waveform: Same as for `__call__`.
            valid: Columns that belong to each clip, [B, T, 1].

        Returns:
            [B, T, F] in float32. Undefined after a clip's end.
        """
        x = mx.pad(waveform.astype(mx.float32), ((0, 0), (WINDOW // 2, WINDOW // 2)))
        x = x[:, mx.arange(valid.shape[1])[:, None] * STEP + mx.arange(WINDOW)]  # [B, T, WINDOW]
        spectrum = mx.fft.rfft(x * window())
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        levels = 10 * mx.log10(mx.maximum(power @ bands(self.config.bands), FLOOR))
        highest = mx.where(valid, levels, -math.inf).max((1, 2), keepdims=True)
        return mx.maximum(levels, highest - RANGE)

    def score(self, x: mx.array, output: str = "") -> mx.array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: mx.array = self.head.others[output](x) if output else self.head(x)
        return logits


def around(lengths: mx.array, time: int, kernel: int, dilation: int) -> mx.array:
    """Returns the columns that a layer sees at each column, mirrored at both ends of a clip, [B, T, K]."""
    at = mx.arange(time)[:, None] + dilation * (mx.arange(kernel) - kernel // 2)
    last = lengths[:, None, None] - 1
    return mx.maximum(last - mx.abs(last - mx.abs(at)), 0)


def taken(x: mx.array, at: mx.array) -> mx.array:
    """Returns the columns `at` [B, T] of x [B, T, C]."""
    return mx.take_along_axis(x, mx.broadcast_to(at[:, :, None], (*at.shape, x.shape[2])), 1)


def unit(x: mx.array) -> mx.array:
    """Brings vectors [..., D] to length 1."""
    return x / mx.maximum(mx.sqrt(mx.square(x).sum(-1, keepdims=True)), TINY)


@cache
def window() -> mx.array:
    """Returns the window, [WINDOW]."""
    return mx.array(ecapa.hamming())


@cache
def bands(number: int) -> mx.array:
    """Returns the mel filters, [WINDOW // 2 + 1, number]."""
    return mx.array(ecapa.filters(number).T)

"""Layers that several architectures share, in numpy. The twins are layers_torch.py and layers_mlx.py.

Here one clip runs at a time, so that nothing is padded or masked, and everything is float32.
Dimensions: S samples, T frames, C channels, D features per frame, H heads.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from e2v_port.architectures.base import VARIANCE, Architecture, Transformer, WaveformTransformer
from e2v_port.architectures.heads import NORM_EPS, Step
from e2v_port.audio import SAMPLING_RATE

__all__ = [
    "Array",
    "Attention",
    "Convolution",
    "Encoder",
    "Head",
    "LayerNorm",
    "Linear",
    "Mlp",
    "Positions",
    "Projection",
    "Readout",
    "Steps",
    "Stored",
    "Trace",
    "WaveformEncoder",
    "erf",
    "hann",
    "mean_over_time",
    "softmax",
    "sum_over_time",
    "untraced",
]

Array: TypeAlias = NDArray[np.float32]
Stored: TypeAlias = dict[str, Any]  # a layer's arrays by name, and those of the layers in it: {"norm": {"weight": ...}}

LOCAL = 0.5  # seconds on both sides of a frame whose deviations score it: together about a word or two
LEAST = -30.0  # lowest logarithm of a weight of attention in such a neighborhood, so that no sum of weights is zero
FRAMES = 64  # frames that all convolutions run on at a time, 1.3 s, so that long clips take no more memory
ROWS = 256  # windows of a positional convolution that are copied at a time
NUMBERS = 1 << 13  # numbers that GELU takes at a time, so that its steps stay in the fastest cache

# erf(x) = x P(x^2) / Q(x^2) for |x| < 4, from the highest power: `generic_fast_erf_float` of Eigen 3.3.
P = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
Q = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03),
    *(-7.37332916720468e-03, -1.42647390514189e-02),
)

Trace = Callable[[str, Array], None]  # receives the name and value of every stage


def untraced(_name: str, _value: Array) -> None:
    """Ignores a stage: the default trace."""


def sum_over_time(x: Array) -> Array:
    """Sums [T, ...] over time: [...]. In float64, since numpy adds up frames one by one, which would lose digits."""
    total: Array = x.sum(0, dtype=np.float64).astype(np.float32)
    return total


def mean_over_time(x: Array) -> Array:
    """Averages [T, ...] over time: [...]."""
    mean: Array = x.mean(0, dtype=np.float64).astype(np.float32)
    return mean


def softmax(x: Array) -> Array:
    """Applies a softmax along the last axis."""
    x = x - x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x


def polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    """Evaluates a polynomial, whose coefficients begin with that of the highest power."""
    first, second, *others = coefficients
    total = x * first + second
    for coefficient in others:
        total *= x
        total += coefficient
    return total


def erf(x: Array) -> Array:
    """Computes the error function, within 5e-7."""
    x = np.clip(x, -4, 4)
    square = x * x
    x *= polynomial(square, P)
    x /= polynomial(square, Q)
    return x


def gelu(x: Array) -> Array:
    """Applies the exact GELU."""
    numbers = x.reshape(-1)
    out = np.empty_like(numbers)
    for start in range(0, len(numbers), NUMBERS):
        part = numbers[start : start + NUMBERS]
        share = erf(part * math.sqrt(0.5))
        share += 1
        share *= 0.5
        np.multiply(part, share, out=out[start : start + NUMBERS])
    return out.reshape(x.shape)


def normalized(x: Array, eps: float) -> Array:
    """Scales the features of each frame to zero mean and unit variance."""
    x = x - x.mean(-1, keepdims=True)
    x *= 1 / np.sqrt(np.square(x).mean(-1, keepdims=True) + eps)
    return x


def hann(window: int) -> Array:
    """Returns the Hann window of a spectrogram, [window]."""
    return np.hanning(window + 1)[:-1].astype(np.float32)


class Linear:
    """A matrix product, and a bias where there is one."""

    def __init__(self, stored: Stored) -> None:
        self.weight, self.bias = stored["weight"], stored.get("bias")

    def __call__(self, x: Array) -> Array:
        out: Array = x @ self.weight.T
        if self.bias is not None:
            out += self.bias
        return out


class LayerNorm:
    """A norm over the features of each frame, with a weight and a bias."""

    def __init__(self, stored: Stored, eps: float = 1e-5) -> None:
        self.weight, self.bias, self.eps = stored["weight"], stored["bias"], eps

    def __call__(self, x: Array) -> Array:
        x = normalized(x, self.eps)
        x *= self.weight
        x += self.bias
        return x


class Convolution:
    """A strided convolution over time without padding, one of three norms, exact GELU.

    Args:
        stored: Its arrays.
        stride: Frames from one window to the next.
        norm: `layer` for LayerNorm over channels, `group` for a norm of each channel over time, empty for none.
    """

    def __init__(self, stored: Stored, stride: int, norm: str) -> None:
        self.weight, self.bias = stored["weight"], stored.get("bias")
        self.kernel, self.stride, self.kind = self.weight.shape[1], stride, norm
        self.norm = LayerNorm(stored["norm"]) if norm else None

    def __call__(self, x: Array) -> Array:
        """Returns [T', C'] for x [T, C]."""
        x = self.convolve(x)
        if self.norm is not None and self.kind == "layer":
            x = self.norm(x)
        elif self.norm is not None:
            x = self.over_time(x) * self.norm.weight + self.norm.bias
        return gelu(x)

    def convolve(self, x: Array) -> Array:
        # A window is k * C neighboring numbers, so the convolution is a single matrix product.
        out: Array = windows(x, self.kernel, self.stride) @ self.weight.reshape(len(self.weight), -1).T
        if self.bias is not None:
            out += self.bias
        return out

    def over_time(self, x: Array) -> Array:
        """Scales each channel to zero mean and unit variance."""
        x = x - mean_over_time(x)
        x *= 1 / np.sqrt(mean_over_time(np.square(x)) + 1e-5)
        return x


def windows(x: Array, kernel: int, stride: int) -> Array:
    """Returns the windows of x [T, C], [T', kernel * C]: a copy where they overlap, since BLAS takes no such rows."""
    x = np.ascontiguousarray(x)
    shape = (len(x) - kernel) // stride + 1, kernel * x.shape[1]
    return np.ascontiguousarray(as_strided(x, shape, (stride * x.strides[0], x.itemsize), writeable=False))


class Positions:
    """A grouped convolution over time that keeps the length, an optional LayerNorm without weights, exact GELU."""

    def __init__(self, stored: Stored, groups: int, norm: bool) -> None:
        self.weight, self.bias = stored["weight"], stored["bias"]
        self.kernel, self.groups, self.norm = self.weight.shape[1], groups, norm

    def __call__(self, x: Array) -> Array:
        x = self.convolve(x)
        return gelu(normalized(x, 1e-5) if self.norm else x)

    def convolve(self, x: Array) -> Array:
        out = np.empty_like(x)
        x = np.pad(x, ((self.kernel // 2, (self.kernel - 1) // 2), (0, 0)))
        size = x.shape[1] // self.groups
        for first in range(0, x.shape[1], size):
            group = slice(first, first + size)
            weight = self.weight[group].reshape(size, -1).T
            for start in range(0, len(out), ROWS):
                part = x[start : start + ROWS + self.kernel - 1, group]
                out[start : start + ROWS, group] = windows(part, self.kernel, 1) @ weight
        out += self.bias
        return out


class Projection:
    """Projects the channels of the convolutions to the width of the transformer."""

    def __init__(self, stored: Stored, eps: float = 1e-5) -> None:
        self.norm = LayerNorm(stored["norm"], eps)
        self.linear = Linear(stored["linear"])

    def __call__(self, x: Array) -> Array:
        return self.linear(self.norm(x))


class Attention:
    """Multi-head self-attention with an additive bias [H, T, T] between the last T tokens, and a residual sum."""

    def __init__(self, stored: Stored, heads: int) -> None:
        self.heads = heads
        self.q_proj = Linear(stored["q_proj"])
        self.k_proj = Linear(stored["k_proj"])
        self.v_proj = Linear(stored["v_proj"])
        self.out_proj = Linear(stored["out_proj"])

    def __call__(self, x: Array, bias: Array | None, residual: Array) -> Array:
        return residual + self.out_proj(self.mix(x, bias))

    def mix(self, x: Array, bias: Array | None) -> Array:
        """Returns the weighted values of all heads side by side, [T, D]."""
        q = self.q_proj(x).reshape(len(x), self.heads, -1).swapaxes(0, 1)  # [H, T, D/H]
        k = self.k_proj(x).reshape(len(x), self.heads, -1).swapaxes(0, 1)
        v = self.v_proj(x).reshape(len(x), self.heads, -1).swapaxes(0, 1)
        return self.attend(q, k, v, bias).swapaxes(0, 1).reshape(x.shape)

    def attend(self, q: Array, k: Array, v: Array, bias: Array | None) -> Array:
        """Returns the values weighted by attention, [H, T, D/H]; the scores of one head are held at a time."""
        out = np.empty(v.shape, np.float32)
        q = q * q.shape[-1] ** -0.5
        for head in range(self.heads):
            scores = q[head] @ k[head].T
            if bias is not None:
                time = bias.shape[-1]
                scores[-time:, -time:] += bias[head]
            out[head] = softmax(scores) @ v[head]
        return out


class Mlp:
    """Two linear layers around an exact GELU, and a residual sum."""

    def __init__(self, stored: Stored) -> None:
        self.fc1 = Linear(stored["fc1"])
        self.fc2 = Linear(stored["fc2"])

    def __call__(self, x: Array, residual: Array) -> Array:
        return residual + self.fc2(gelu(self.fc1(x)))


def scale_clip(x: Array) -> Array:
    """Scales a clip [T, C] to zero mean and unit variance over its frames and features together."""
    x = x - x.mean(dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.square(x).mean(dtype=np.float64) + NORM_EPS)
    scaled: Array = x / np.float32(deviation)
    return scaled


def relu(x: Array) -> Array:
    """Returns the numbers that are above zero, and zero for the others."""
    return np.maximum(x, np.float32(0))


def sigmoid(x: Array) -> Array:
    """Returns 1 / (1 + exp(-x))."""
    shares: Array = np.reciprocal(np.exp(-x) + np.float32(1))
    return shares


# Operations of a head without tensors.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "relu": relu,
    "tanh": np.tanh,
    "gelu": gelu,
    "sigmoid": sigmoid,
    "clip_norm": scale_clip,
}


class Steps:
    """Operations of a readout or a head, as `architectures.heads.Step` says."""

    def __init__(self, stored: Stored, steps: tuple[Step, ...]) -> None:
        self.operations: list[Callable[[Array], Array]] = []
        for step in steps:
            part = stored[step.name] if step.name else stored
            if step.op == "linear":
                self.operations.append(Linear(part))
            else:
                self.operations.append(LayerNorm(part, NORM_EPS) if step.op == "norm" else FUNCTIONS[step.op])

    def __call__(self, x: Array) -> Array:
        """Returns [..., C'] for embeddings, or for the frames of a clip, [..., C]."""
        for operation in self.operations:
            x = operation(x)
        return x


class Head(Steps):
    """Everything that is computed from embeddings: the outputs, if there are any, and all further ones, by name."""

    def __init__(self, stored: Stored, config: Architecture) -> None:
        super().__init__(stored, config.head_steps)
        self.others = {each.name: Steps(stored["others"][each.name], each.steps) for each in config.others}


def sum_over_windows(x: Array, reach: int) -> Array:
    """Sums [T, C] over each frame and `reach` frames on both sides of it, where there are any: [T, C].

    Sums of 1, 2, 4, ... frames are put together, since a difference of running sums would lose digits.
    """
    time, size, at, step = len(x), 2 * reach + 1, 0, 1
    total = np.zeros_like(x)
    x = np.pad(x, ((reach, reach), (0, 0)))
    while size:
        if size % 2:
            total += x[at : at + time]
            at += step
        size //= 2
        if size:
            x = x[:-step] + x[step:]
            step *= 2
    return total


class Readout:
    """Makes embeddings of the outputs of blocks, as `architectures.base.Readout` says.

    Without one in the configuration, it takes the mean over time of a single output.
    """

    def __init__(self, stored: Stored, config: Transformer) -> None:
        read = config.readout
        self.pooling = read.pooling if read else "mean"
        heads = read.heads if read else 0
        self.share = config.frame_dim // heads if heads else 0  # features of each head of attention
        self.reach = round(LOCAL * SAMPLING_RATE / config.hop)
        self.steps = Steps(stored.get("steps", {}), read.steps if read else ())
        self.weights = stored.get("weights")
        self.scores = Linear(stored["scores"]) if self.pooling == "statistics" else None
        self.attention = Linear(stored["attention"]) if heads else None
        self.flatten = Linear(stored["flatten"]) if self.pooling == "flatten" else None

    def combine(self, states: Sequence[Array]) -> Array:
        """Returns the weighted sum of the outputs of blocks, each [T, D]; a single one unchanged."""
        if self.weights is None:
            return states[0]
        weights = softmax(self.weights)
        total: Array = weights[0] * states[0]
        for i, state in enumerate(states[1:], 1):
            total += weights[i] * state
        return total

    def __call__(self, frames: Array) -> Array:
        """Returns the embedding [embed_dim] of frames [T, D]."""
        if self.pooling == "mean":
            return mean_over_time(frames)
        if self.flatten is not None:
            return self.flatten(frames.ravel())
        weights, mean = self.weigh(frames, -math.inf)
        deviation = self.deviation(sum_over_time(np.square(frames - mean) * weights))
        return np.concatenate([mean, deviation])

    def deviation(self, variance: Array) -> Array:
        """Returns the standard deviation, as it was trained: at zero a root has no gradient."""
        root: Array = np.sqrt(np.maximum(variance, VARIANCE) if self.pooling == "statistics" else variance + VARIANCE)
        return root

    def local(self, frames: Array) -> Array:
        """Returns for every frame the embedding of itself, or where that takes deviations, of the second around it.

        Args:
            frames: [T, D].

        Returns:
            [T, D or 2 D].
        """
        if self.pooling == "mean":
            return frames
        weights, mean = self.weigh(frames, LEAST)
        x = frames - mean  # the variance of a feature far from zero would have few digits
        total = sum_over_windows(weights, self.reach)
        near = sum_over_windows(x * weights, self.reach) / total
        variance = np.maximum(sum_over_windows(np.square(x) * weights, self.reach) / total - np.square(near), 0)
        return np.concatenate([near + mean, self.deviation(variance)], 1)

    def weigh(self, x: Array, least: float) -> tuple[Array, Array]:
        """Returns the weight of every frame and the weighted mean over time.

        Args:
            x: Frames [T, D].
            least: Lowest logarithm of a weight.

        Returns:
            [T, 1 or D], which sum to 1 over time, and [D].
        """
        weights = np.full((len(x), 1), 1 / len(x), np.float32)
        if self.attention is not None:
            scores = self.attention(x if self.scores is None else np.tanh(self.scores(x)))  # [T, H]
            scores -= scores.max(0)
            scores -= np.log(sum_over_time(np.exp(scores)))
            weights = np.repeat(np.exp(np.maximum(scores, least)), self.share, 1)  # [T, D]
        return weights, sum_over_time(x * weights)


class Encoder(ABC):
    """The frame of every transformer: `begin`, the blocks, `finish` or a readout, pooling and a head.

    Attributes:
        stacks: Names of the lists of blocks, in order.
        extra: Number of tokens in front of the frames.
        config: Sizes of the network.
        readout: Pooling.
        head: Head, None for a model without one.
    """

    stacks: ClassVar[tuple[str, ...]] = ("blocks",)
    extra = 0

    config: Transformer
    readout: Readout
    head: Head | None

    def __call__(self, waveform: Array, trace: Trace = untraced) -> tuple[Array, Array, Array | None]:
        """Runs the model.

        Args:
            waveform: A normalized clip, [S].
            trace: Called with the name and value of every stage.

        Returns:
            Frames [T, D], the embedding [embed_dim] and the logits [labels] (None without a head).
        """
        x, bias = self.begin(waveform, trace)
        layers = self.config.readout.layers if self.config.readout else (self.config.blocks,)
        states, last = [x[self.extra :]] if 0 in layers else [], x
        for number, last in enumerate(self.run(x, bias, trace), 1):
            if number in layers:
                states.append(last[self.extra :])
        if self.config.finished:
            states = [*states[:-1], self.finish(last[self.extra :], trace)]
        frames = self.readout.combine(states)
        if self.config.canvas:
            frames = frames[: self.config.frames(len(waveform))]
        return self.pool(frames, trace)

    @abstractmethod
    def begin(self, waveform: Array, trace: Trace) -> tuple[Array, Array | None]:
        """Returns the tokens [N, D] that the first block takes, and the bias of attention, if there is one.

        Args:
            waveform: Same as for `__call__`.
            trace: Same as for `__call__`.
        """

    def run(self, x: Array, bias: Array | None, trace: Trace) -> Iterator[Array]:
        """Runs the blocks on tokens [N, D] and yields the output of each."""
        for stack in self.stacks:
            for i, block in enumerate(getattr(self, stack)):
                x = block(x, bias)
                trace(f"{stack}.{i}", x)
                yield x

    def finish(self, x: Array, trace: Trace) -> Array:
        """Returns the frames [T, D] of a model without a readout, from the last block's output for them."""
        return x

    def hidden(self, waveform: Array) -> list[Array]:
        """Returns the output of every block for the frames, each [T, D]."""
        x, bias = self.begin(waveform, untraced)
        return [state[self.extra :] for state in self.run(x, bias, untraced)]

    def pool(self, frames: Array, trace: Trace) -> tuple[Array, Array, Array | None]:
        """Returns refined frames [T, D], the embedding of the clip [embed_dim], and its logits."""
        frames = self.readout.steps(frames)
        if self.readout.steps.operations:
            trace("refined", frames)
        pooled = self.readout(frames)
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)  # [labels]
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: Array, output: str = "") -> Array:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name."""
        assert self.head is not None
        return self.head.others[output](x) if output else self.head(x)

    def score_frames(self, frames: Array) -> Array:
        """Applies the head to what the readout makes of each frame [T, D] and its neighbors: [T, labels]."""
        return self.score(self.readout.local(frames))


class WaveformEncoder(Encoder):
    """An encoder that begins with convolutions on the waveform.

    Attributes:
        conv_layers: Convolutions of the feature extractor.
    """

    config: WaveformTransformer
    conv_layers: Sequence[Convolution]

    def extract(self, waveform: Array, trace: Trace) -> Array:
        """Runs the convolutions on [S]: [T, C]. Where nothing is traced, a few frames at a time, in constant memory."""
        x = waveform[:, None]  # [S, 1]
        layers = [*enumerate(self.conv_layers)]
        whole = len(layers) if trace is not untraced else sum(layer.kind == "group" for layer in self.conv_layers)
        for i, layer in layers[:whole]:  # a norm over time needs the whole clip
            x = layer(x)  # [T, C]
            trace(f"conv_layers.{i}", x)
        hop, span = 1, 1  # from one frame of the result to the next, in frames of x; those that one depends on
        for _, layer in reversed(layers[whole:]):
            hop, span = hop * layer.stride, (span - 1) * layer.stride + layer.kernel
        parts = []
        for start in range(0, (len(x) - span) // hop + 1, FRAMES):
            part = x[start * hop : (start + FRAMES - 1) * hop + span]
            for _, layer in layers[whole:]:
                part = layer(part)
            parts.append(part)
        return np.concatenate(parts)

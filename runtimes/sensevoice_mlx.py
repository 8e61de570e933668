"""The encoder of SenseVoice in MLX. The twin is sensevoice_torch.py: the same classes in the same order.

Dimensions: B clips, S samples, M columns of the spectrogram, T frames, N tokens (queries and frames), D features per
token, H heads. The reference is FunASR's WavFrontend and SenseVoiceSmall (arXiv 2407.04051, 2006.01713).
"""

from collections.abc import Iterator
from functools import cache

import mlx.core as mx
from mlx import nn

from e2v_port.architectures import sensevoice
from e2v_port.architectures.sensevoice import COLUMN, FFT, FLOOR, FULL_SCALE, PREEMPHASIS, QUERIES, WINDOW

from .layers_mlx import Encoder, Head, Readout, Trace, parameter, valid_frames

__all__ = ["Sensevoice"]

ROWS = 512  # tokens whose positions are computed together


class Normalization(nn.Module):
    """Shifts and scales each feature by what was measured over the training data."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.shift = parameter(features)
        self.scale = parameter(features)

    def __call__(self, x: mx.array) -> mx.array:
        return (x + self.shift.astype(mx.float32)) * self.scale.astype(mx.float32)


class Memory(nn.Module):
    """A convolution of each feature over time by itself, which keeps the length, and a residual sum."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = parameter(dim, kernel, 1)

    def __call__(self, x: mx.array) -> mx.array:
        return x + mx.conv1d(x, self.weight, padding=self.kernel // 2, groups=len(self.weight))


class Attention(nn.Module):
    """Multi-head self-attention, and beside it a convolution of the values."""

    def __init__(self, inputs: int, config: sensevoice.SensevoiceConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.q_proj = nn.Linear(inputs, config.width)
        self.k_proj = nn.Linear(inputs, config.width)
        self.v_proj = nn.Linear(inputs, config.width)
        self.memory = Memory(config.width, config.kernel)
        self.out_proj = nn.Linear(config.width, config.width)

    def __call__(self, x: mx.array, bias: mx.array | None) -> mx.array:
        values = self.v_proj(x)
        q = mx.unflatten(self.q_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)  # [B, H, N, D/H]
        k = mx.unflatten(self.k_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)
        v = mx.unflatten(values, 2, (self.heads, -1)).swapaxes(1, 2)
        mixed = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)
        # The convolution, too, must not see what attention hides.
        seen = values if bias is None else values * (bias[:, 0, 0, :, None] == 0)
        out: mx.array = self.out_proj(mixed.swapaxes(1, 2).flatten(2)) + self.memory(seen)
        return out


class Mlp(nn.Module):
    """Two linear layers around a ReLU, and a residual sum."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def __call__(self, x: mx.array, residual: mx.array) -> mx.array:
        out: mx.array = residual + self.fc2(nn.relu(self.fc1(x)))
        return out


class Block(nn.Module):
    """A block that normalizes before each of its two halves; the first, which changes the width, has one residual."""

    def __init__(self, inputs: int, config: sensevoice.SensevoiceConfig) -> None:
        super().__init__()
        self.attn = Attention(inputs, config)
        self.norm1 = nn.LayerNorm(inputs, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def __call__(self, x: mx.array, bias: mx.array | None) -> mx.array:
        mixed = self.attn(self.norm1(x), bias)
        x = x + mixed if x.shape == mixed.shape else mixed
        out: mx.array = self.mlp(self.norm2(x), residual=x)
        return out


class Sensevoice(Encoder):
    """Waveforms in; frames, the states of the queries and logits out."""

    stacks = ("first_blocks", "blocks", "tp_blocks")
    config: sensevoice.SensevoiceConfig

    def __init__(self, config: sensevoice.SensevoiceConfig) -> None:
        super().__init__()
        # Without a readout, the queries are pooled, and so stay with the frames until then.
        self.config, self.extra = config, QUERIES if config.readout else 0
        dim = config.width
        self.cmvn = Normalization(config.inputs)
        self.queries = parameter(config.num_queries, config.inputs)
        self.first_blocks = [Block(config.inputs, config)]
        self.blocks = [Block(dim, config) for _ in range(config.depth)]
        self.after_norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.tp_depth else None
        self.tp_blocks = [Block(dim, config) for _ in range(config.tp_depth)]
        self.tp_norm = nn.LayerNorm(dim, eps=config.norm_eps) if config.finished else None
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: mx.array, samples: mx.array, padded: bool, trace: Trace
    ) -> tuple[mx.array, mx.array, mx.array | None]:
        columns = (samples - WINDOW) // COLUMN + 1
        lengths = (columns + self.config.step - 1) // self.config.step
        x = self.spectrogram(waveform)  # [B, M, bands]
        trace("spectrogram", x)
        x = self.cmvn(self.stack(x, columns))  # [B, T, inputs]
        trace("features", x)
        queries = mx.stack([self.queries[row] for row in self.config.queries]).astype(mx.float32)
        x = mx.concatenate([mx.broadcast_to(queries, (len(x), *queries.shape)), x], 1)  # [B, N, inputs]
        x = x * self.config.width**0.5 + marks(x.shape[1], self.config.inputs)
        trace("positions", x)
        x = x.astype(self.queries.dtype)
        return x, lengths, self.bias(x, valid_frames(lengths + QUERIES, x.shape[1]), padded)

    def spectrogram(self, waveform: mx.array) -> mx.array:
        """Computes the logarithm of the power in each mel band, as Kaldi does.

        Args:
            waveform: Clips, zero-padded at the end, [B, S].

        Returns:
            [B, M, bands] in float32, for whole windows. Undefined after a clip's end.
        """
        columns = self.config.columns(waveform.shape[1])
        x = waveform[:, mx.arange(columns)[:, None] * COLUMN + mx.arange(WINDOW)] * FULL_SCALE  # [B, M, WINDOW]
        x = x - x.mean(2, keepdims=True)
        x = x - PREEMPHASIS * mx.concatenate([x[:, :, :1], x[:, :, :-1]], 2)
        spectrum = mx.fft.rfft(x * window(), FFT)
        power = mx.square(spectrum.real) + mx.square(spectrum.imag)
        return mx.log(mx.maximum(power @ bands(self.config.bands), FLOOR))

    def stack(self, x: mx.array, columns: mx.array) -> mx.array:
        """Puts neighboring columns side by side; at both ends of a clip, the outermost one is repeated.

        Args:
            x: Spectrograms [B, M, bands].
            columns: Columns of each clip, [B].

        Returns:
            [B, T, stacked * bands]: for each `step` columns those and the ones around them.
        """
        step, stacked = self.config.step, self.config.stacked
        first = mx.arange(-(-x.shape[1] // step)) * step
        at = first[:, None] + mx.arange(stacked) - stacked // 2  # [T, stacked]
        at = mx.minimum(mx.maximum(at, 0), columns[:, None, None] - 1).flatten(1)  # [B, T * stacked]
        found = mx.take_along_axis(x, mx.broadcast_to(at[:, :, None], (*at.shape, x.shape[2])), 1)
        return found.reshape(len(x), len(first), -1)

    def run(self, x: mx.array, bias: mx.array | None, trace: Trace) -> Iterator[mx.array]:
        for stack in self.stacks:
            if stack == "tp_blocks" and self.after_norm is not None:
                x = self.after_norm(x)
                trace("after_norm", x)
            for i, block in enumerate(getattr(self, stack)):
                x = block(x, bias)
                trace(f"{stack}.{i}", x)
                yield x

    def finish(self, x: mx.array, trace: Trace) -> mx.array:
        assert self.tp_norm is not None
        x = self.tp_norm(x)
        trace("tp_norm", x)
        return x

    def hidden(self, waveform: mx.array, samples: list[int]) -> list[mx.array]:
        return [state[:, QUERIES - self.extra :] for state in super().hidden(waveform, samples)]

    def pool(self, frames: mx.array, lengths: mx.array, trace: Trace) -> tuple[mx.array, mx.array, mx.array | None]:
        """Does the same as in `Encoder`; without a readout, the states of the queries are the embedding."""
        if self.config.readout:
            return super().pool(frames, lengths, trace)
        pooled = frames[:, :QUERIES].flatten(1).astype(mx.float32)
        trace("pooled", pooled)
        logits = None
        if self.head is not None and self.config.num_labels:
            logits = self.score(pooled)
            trace("logits", logits)
        return frames[:, QUERIES:], pooled, logits


@cache
def window() -> mx.array:
    """Returns the window, [WINDOW]."""
    return mx.array(sensevoice.hamming())


@cache
def bands(number: int) -> mx.array:
    """Returns the mel filters, [FFT // 2 + 1, number]."""
    return mx.array(sensevoice.filters(number).T)


def marks(tokens: int, width: int) -> mx.array:
    """Returns what marks the positions of tokens, [tokens, width]."""
    return table(-(-tokens // ROWS) * ROWS, width)[:tokens]


@cache
def table(tokens: int, width: int) -> mx.array:
    """Returns the same, for whole multiples of ROWS tokens."""
    return mx.array(sensevoice.positions(tokens, width))

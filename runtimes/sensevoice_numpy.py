"""The encoder of SenseVoice in numpy. The twins are sensevoice_torch.py and sensevoice_mlx.py: the same classes.

Dimensions: S samples, M columns of the spectrogram, T frames, N tokens (queries and frames), D features per token, H
heads. The reference is FunASR's WavFrontend and SenseVoiceSmall (arXiv 2407.04051, 2006.01713).
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.architectures import sensevoice
from e2v_port.architectures.sensevoice import COLUMN, FFT, FLOOR, FULL_SCALE, PREEMPHASIS, QUERIES, WINDOW

from .layers_numpy import Array, Encoder, Head, LayerNorm, Linear, Readout, Stored, Trace, softmax

__all__ = ["Sensevoice"]

ROWS = 512  # tokens whose positions are computed together


class Normalization:
    """Shifts and scales each feature by what was measured over the training data."""

    def __init__(self, stored: Stored) -> None:
        self.shift, self.scale = stored["shift"], stored["scale"]

    def __call__(self, x: Array) -> Array:
        scaled: Array = (x + self.shift) * self.scale
        return scaled


class Memory:
    """A convolution of each feature over time by itself, which keeps the length, and a residual sum."""

    def __init__(self, stored: Stored) -> None:
        self.weight = stored["weight"]

    def __call__(self, x: Array) -> Array:
        out, kernel = x.copy(), self.weight.shape[1]
        around = np.pad(x, ((kernel // 2, kernel // 2), (0, 0)))
        for i in range(kernel):
            out += around[i : i + len(x)] * self.weight[:, i, 0]
        return out


class Attention:
    """Multi-head self-attention, and beside it a convolution of the values."""

    def __init__(self, stored: Stored, heads: int) -> None:
        self.heads = heads
        self.q_proj = Linear(stored["q_proj"])
        self.k_proj = Linear(stored["k_proj"])
        self.v_proj = Linear(stored["v_proj"])
        self.memory = Memory(stored["memory"])
        self.out_proj = Linear(stored["out_proj"])

    def __call__(self, x: Array) -> Array:
        values = self.v_proj(x)
        q = self.q_proj(x).reshape(len(x), self.heads, -1).swapaxes(0, 1)  # [H, N, D/H]
        k = self.k_proj(x).reshape(len(x), self.heads, -1).swapaxes(0, 1)
        v = values.reshape(len(x), self.heads, -1).swapaxes(0, 1)
        mixed = np.empty(v.shape, np.float32)
        for head in range(self.heads):  # so that the scores of one are held at a time
            mixed[head] = softmax(q[head] * q.shape[-1] ** -0.5 @ k[head].T) @ v[head]
        return self.out_proj(mixed.swapaxes(0, 1).reshape(values.shape)) + self.memory(values)


class Mlp:
    """Two linear layers around a ReLU, and a residual sum."""

    def __init__(self, stored: Stored) -> None:
        self.fc1 = Linear(stored["fc1"])
        self.fc2 = Linear(stored["fc2"])

    def __call__(self, x: Array, residual: Array) -> Array:
        hidden = self.fc1(x)
        return residual + self.fc2(np.maximum(hidden, 0, out=hidden))


class Block:
    """A block that normalizes before each of its two halves; the first, which changes the width, has one residual."""

    def __init__(self, stored: Stored, config: sensevoice.SensevoiceConfig) -> None:
        self.attn = Attention(stored["attn"], config.num_heads)
        self.norm1 = LayerNorm(stored["norm1"], config.norm_eps)
        self.mlp = Mlp(stored["mlp"])
        self.norm2 = LayerNorm(stored["norm2"], config.norm_eps)

    def __call__(self, x: Array, bias: None) -> Array:
        mixed = self.attn(self.norm1(x))
        x = x + mixed if x.shape == mixed.shape else mixed
        return self.mlp(self.norm2(x), residual=x)


class Sensevoice(Encoder):
    """A waveform in; frames, the states of the queries and logits out."""

    stacks = ("first_blocks", "blocks", "tp_blocks")
    config: sensevoice.SensevoiceConfig

    def __init__(self, stored: Stored, config: sensevoice.SensevoiceConfig) -> None:
        # Without a readout, the queries are pooled, and so stay with the frames until then.
        self.config, self.extra = config, QUERIES if config.readout else 0
        self.cmvn = Normalization(stored["cmvn"])
        self.queries = stored["queries"]
        self.first_blocks = [Block(stored["first_blocks"]["0"], config)]
        self.blocks = [Block(stored["blocks"][str(i)], config) for i in range(config.depth)]
        self.after_norm = LayerNorm(stored["after_norm"], config.norm_eps) if config.tp_depth else None
        self.tp_blocks = [Block(stored["tp_blocks"][str(i)], config) for i in range(config.tp_depth)]
        self.tp_norm = LayerNorm(stored["tp_norm"], config.norm_eps) if config.finished else None
        self.readout = Readout(stored.get("readout", {}), config)
        self.head = Head(stored["head"], config) if config.has_head else None

    def begin(self, waveform: Array, trace: Trace) -> tuple[Array, Array | None]:
        x = self.spectrogram(waveform)  # [M, bands]
        trace("spectrogram", x)
        x = self.cmvn(self.stack(x))  # [T, inputs]
        trace("features", x)
        x = np.concatenate([self.queries[[*self.config.queries]], x])  # [N, inputs]
        x = x * np.float32(self.config.width**0.5) + marks(len(x), self.config.inputs)
        trace("positions", x)
        return x, None

    def spectrogram(self, waveform: Array) -> Array:
        """Computes the logarithm of the power in each mel band, as Kaldi does.

        Args:
            waveform: A clip, [S].

        Returns:
            [M, bands], for whole windows.
        """
        x = sliding_window_view(waveform, WINDOW)[::COLUMN] * np.float32(FULL_SCALE)  # [M, WINDOW]
        x = x - x.mean(1, keepdims=True)
        x = x - np.float32(PREEMPHASIS) * np.concatenate([x[:, :1], x[:, :-1]], 1)
        spectrum = np.fft.rfft(x * sensevoice.hamming(), FFT)
        power = np.square(spectrum.real) + np.square(spectrum.imag)
        levels: Array = np.log(np.maximum(power.astype(np.float32) @ bands(self.config.bands), np.float32(FLOOR)))
        return levels

    def stack(self, x: Array) -> Array:
        """Puts neighboring columns side by side; at both ends of a clip, the outermost one is repeated.

        Args:
            x: Spectrogram [M, bands].

        Returns:
            [T, stacked * bands]: for each `step` columns those and the ones around them.
        """
        first, around = np.arange(0, len(x), self.config.step), np.arange(self.config.stacked)
        at = np.clip(first[:, None] + around - len(around) // 2, 0, len(x) - 1)  # [T, stacked]
        stacked: Array = x[at].reshape(len(first), -1)
        return stacked

    def run(self, x: Array, bias: Array | None, trace: Trace) -> Iterator[Array]:
        for stack in self.stacks:
            if stack == "tp_blocks" and self.after_norm is not None:
                x = self.after_norm(x)
                trace("after_norm", x)
            for i, block in enumerate(getattr(self, stack)):
                x = block(x, bias)
                trace(f"{stack}.{i}", x)
                yield x

    def finish(self, x: Array, trace: Trace) -> Array:
        assert self.tp_norm is not None
        x = self.tp_norm(x)
        trace("tp_norm", x)
        return x

    def hidden(self, waveform: Array) -> list[Array]:
        return [state[QUERIES - self.extra :] for state in super().hidden(waveform)]

    def pool(self, frames: Array, trace: Trace) -> tuple[Array, Array, Array | None]:
        """Does the same as in `Encoder`; without a readout, the states of the queries are the embedding."""
        if self.config.readout:
            return super().pool(frames, trace)
        pooled = frames[:QUERIES].ravel()
        trace("pooled", pooled)
        logits = None
        if self.head is not None and self.config.num_labels:
            logits = self.score(pooled)
            trace("logits", logits)
        return frames[QUERIES:], pooled, logits


@cache
def bands(number: int) -> Array:
    """Returns the mel filters, [FFT // 2 + 1, number]."""
    return sensevoice.filters(number).T


def marks(tokens: int, width: int) -> Array:
    """Returns what marks the positions of tokens, [tokens, width]."""
    return table(-(-tokens // ROWS) * ROWS, width)[:tokens]


@cache
def table(tokens: int, width: int) -> Array:
    """Returns the same, for whole multiples of ROWS tokens."""
    return sensevoice.positions(tokens, width)

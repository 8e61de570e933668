"""The encoder of SenseVoice as an ONNX graph, like sensevoice_torch.py.

Dimensions: B clips, S samples, M columns of the spectrogram, T frames, N tokens (queries and frames), D features per
token.
"""

import math

import numpy as np

from e2v_port.architectures import sensevoice
from e2v_port.architectures.sensevoice import COLUMN, FFT, FLOOR, FULL_SCALE, PREEMPHASIS, QUERIES, WINDOW

from .layers_onnx import Array, Encoder, Value

__all__ = ["Sensevoice"]

PART = math.gcd(WINDOW, COLUMN)  # samples: windows are made of whole parts, and begin at some of them


class Sensevoice(Encoder):
    """Waveforms in; frames and embeddings out."""

    config: sensevoice.SensevoiceConfig
    extra = QUERIES

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        if self.config.readout:
            return super().forward(waveform, samples)
        x, lengths, bias = self.begin(waveform, samples)
        for name in self.blocks():
            x = self.block(x, bias, name)
        x = self.finish(x)  # [B, N, D]
        return self.frames(x), lengths, x.cut(1, 0, QUERIES).reshape(0, self.config.embed_dim)

    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, config = self.graph, self.config
        # Clips too short for a column count as if they had one: what is computed of them is not returned.
        columns = ((samples - WINDOW).at_least(0)) // COLUMN + 1
        lengths = (columns + (config.step - 1)) // config.step
        x = self.stack(self.spectrogram(waveform), columns)
        x = (x + g.weight("cmvn.shift")) * g.weight("cmvn.scale")  # [B, T, inputs]
        queries = g.constant(g.read("queries")[None, [*config.queries]])
        shape = g.join([x.size(0), g.constant([QUERIES, config.inputs])], 0)
        x = g.join([g.node("Expand", queries, shape, kind="float"), x], 1)  # [B, N, inputs]
        x = x * config.width**0.5 + self.positions(x.size(1))
        return x, lengths, self.mask(g.valid(lengths + QUERIES, x.size(1)))

    def spectrogram(self, waveform: Value) -> Value:
        """Writes the logarithm of the power in each mel band, [B, M, bands]; see sensevoice_torch.py."""
        g = self.graph
        parts = (waveform.size(1) // PART) * PART
        x = waveform.cut(1, 0, parts).reshape(0, -1, PART)
        columns = (waveform.size(1) - WINDOW) // COLUMN + 1
        at = (g.count(0, columns) * (COLUMN // PART)).axes(1) + g.constant(np.arange(WINDOW // PART))  # [M, 5]
        x = g.node("Gather", x, at, kind="float", axis=1).reshape(0, 0, WINDOW) * float(FULL_SCALE)
        x = x - x.sum(2) / WINDOW
        parts = x @ g.constant(_spectrum())  # [B, M, 2 * (FFT // 2 + 1)]
        real, imaginary = parts.cut(2, 0, FFT // 2 + 1), parts.cut(2, FFT // 2 + 1, FFT + 2)
        power = (real * real + imaginary * imaginary) @ g.constant(sensevoice.filters(self.config.bands).T)
        return power.at_least(FLOOR).apply("Log")

    def stack(self, x: Value, columns: Value) -> Value:
        """Writes neighboring columns side by side, [B, T, stacked * bands]; see sensevoice_torch.py."""
        g, step, stacked = self.graph, self.config.step, self.config.stacked
        frames = (x.size(1) + (step - 1)) // step
        at = (g.count(0, frames) * step).axes(1) + g.constant(np.arange(stacked) - stacked // 2)  # [T, stacked]
        at = at.at_least(0).axes(0).at_most(columns.axes(1, 2) - 1)  # [B, T, stacked]
        at = at.reshape(0, -1).axes(2)  # [B, T * stacked, 1]
        at = g.node("Expand", at, g.constant([1, 1, self.config.bands]), kind="int")
        found = g.node("GatherElements", x, at, kind="float", axis=1)
        return found.reshape(0, -1, self.config.inputs)

    def positions(self, tokens: Value) -> Value:
        """Writes what marks the positions of tokens, [N, inputs]."""
        g = self.graph
        at = g.count(1, tokens + 1).to("float").axes(1)
        angles = at * g.constant(sensevoice.scales(self.config.inputs))
        return g.join([angles.apply("Sin"), angles.apply("Cos")], 1)

    def blocks(self) -> list[str]:
        config = self.config
        stacks = {"first_blocks": 1, "blocks": config.depth, "tp_blocks": config.tp_depth}
        return [f"{stack}.{i}" for stack, depth in stacks.items() for i in range(depth)]

    def block(self, x: Value, bias: Value, name: str) -> Value:
        """Writes a block that normalizes before each of its two halves."""
        if name == "tp_blocks.0":
            x = self.norm(x, "after_norm")
        mixed = self.attention_and_memory(self.norm(x, f"{name}.norm1"), bias, f"{name}.attn")
        x = mixed if name == "first_blocks.0" else x + mixed
        g = self.graph
        hidden = g.linear(self.norm(x, f"{name}.norm2"), f"{name}.mlp.fc1").apply("Relu")
        return x + g.linear(hidden, f"{name}.mlp.fc2")

    def attention_and_memory(self, x: Value, bias: Value, name: str) -> Value:
        """Writes attention, and beside it a convolution of the values."""
        g = self.graph
        values = g.where((bias.without(1) < 0.0).permute(0, 2, 1), 0.0, g.linear(x, f"{name}.v_proj"))  # [B, N, D]
        pads = [self.config.kernel // 2] * 2
        memory = g.convolve(
            values.permute(0, 2, 1), f"{name}.memory", bias=False, group=self.config.width, pads=pads
        ).permute(0, 2, 1)
        return self.attention(x, bias, name) + values + memory

    def finish(self, x: Value) -> Value:
        return self.norm(x, "tp_norm")


def _spectrum() -> Array:
    """Returns the matrix from a window without its mean to the real and imaginary parts of its spectrum.

    Preemphasis, the window and the Fourier transform are one product, which every provider has: [WINDOW, FFT + 2].
    """
    at, bins = np.arange(WINDOW), np.arange(FFT // 2 + 1)
    emphasis = np.eye(WINDOW) - PREEMPHASIS * np.eye(WINDOW, k=1)  # column i takes sample i and the one before
    emphasis[0, 0] = 1 - PREEMPHASIS
    angles = 2 * np.pi * (at[:, None] * bins % FFT) / FFT
    waves = np.concatenate([np.cos(angles), -np.sin(angles)], 1)
    matrix: Array = (emphasis * np.hamming(WINDOW)) @ waves
    return matrix

"""An ECAPA-TDNN speaker encoder as an ONNX graph, like ecapa_torch.py.

Dimensions: B clips, S samples, T columns of the spectrogram, F mel bands, K columns that a layer sees at a time, C
channels, D numbers of an embedding.
"""

import math

import numpy as np

from e2v_port.architectures import ecapa
from e2v_port.architectures.ecapa import FLOOR, RANGE, SMALLEST, STEP, WINDOW

from .layers_onnx import Network, Value

__all__ = ["Ecapa"]

TINY = 1e-12  # length below which an embedding has no direction


class Ecapa(Network):
    """Waveforms in; frames and embeddings out."""

    config: ecapa.EcapaConfig

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, config = self.graph, self.config
        lengths, time = samples // STEP + 1, waveform.size(1) // STEP + 1
        valid = g.valid(lengths, time).axes(2)  # [B, T, 1]
        counts = lengths.to("float").axes(1, 2)  # [B, 1, 1]
        x = self.spectrogram(waveform, valid)  # [B, T, F]
        x = x - self.total(x, valid) / counts
        x = self.layer(self.beside(x, lengths, time, config.kernel, 1, config.bands), "first")
        found = []
        for i, dilation in enumerate(config.dilations):
            x = self.block(x, lengths, time, dilation, valid, counts, f"blocks.{i}")
            found.append(x)
        frames = self.layer(g.join(found, 2), "join")  # [B, T, C]
        x = self.scale(self.pool(frames, valid, counts), "norm")
        x = g.linear(x, "projection").without(1)  # [B, D]
        return frames, lengths, x / (x * x).sum(-1).apply("Sqrt").at_least(TINY)

    def spectrogram(self, waveform: Value, valid: Value) -> Value:
        """Writes the power in each mel band, in dB, at most RANGE below the highest of its clip, [B, T, F]."""
        g = self.graph
        power = g.spectrum(waveform.pad(0, WINDOW // 2, 0, WINDOW // 2), WINDOW, STEP, ecapa.hamming())
        levels = g.decibels(g.constant(ecapa.filters(self.config.bands)) @ power, FLOOR, 10).permute(0, 2, 1)
        return levels.at_least(g.where(valid, levels, -math.inf).highest(1, 2) - RANGE)

    def total(self, x: Value, valid: Value) -> Value:
        """Sums [B, T, C] over the columns of each clip, [B, 1, C]."""
        return self.graph.where(valid, x, 0.0).sum(1)

    def beside(self, x: Value, lengths: Value, time: Value, kernel: int, dilation: int, channels: int) -> Value:
        """Puts the columns that a layer sees side by side, mirrored at both ends of a clip, [B, T, K * C]."""
        g = self.graph
        at = g.count(0, time).axes(1) + g.constant(dilation * (np.arange(kernel) - kernel // 2)[None])  # [T, K]
        last = lengths.axes(1, 2) - 1
        at = last - (last - at.apply("Abs").axes(0)).apply("Abs")
        found = g.node("GatherND", x, at.at_least(0).axes(3), kind="float", batch_dims=1)  # [B, T, K, C]
        return found.reshape(0, 0, kernel * channels)

    def scale(self, x: Value, name: str) -> Value:
        """Writes a factor and a shift of each channel."""
        return x * self.graph.weight(f"{name}.weight") + self.graph.weight(f"{name}.bias")

    def layer(self, x: Value, name: str) -> Value:
        """Writes a linear layer, ReLU and a batch norm."""
        return self.scale(self.graph.linear(x, f"{name}.linear").apply("Relu"), f"{name}.norm")

    def block(
        self, x: Value, lengths: Value, time: Value, dilation: int, valid: Value, counts: Value, name: str
    ) -> Value:
        """Writes layers on parts of the channels, and channel attention, with a residual sum."""
        g, part = self.graph, self.config.width // self.config.scale
        residual, x = x, self.layer(x, f"{name}.before")
        found = [x.cut(2, 0, part)]
        for i in range(1, self.config.scale):
            seen = x.cut(2, i * part, (i + 1) * part)
            seen = seen + found[-1] if i > 1 else seen
            found.append(self.layer(self.beside(seen, lengths, time, 3, dilation, part), f"{name}.parts.{i - 1}"))
        x = self.layer(g.join(found, 2), f"{name}.after")
        mean = self.total(x, valid) / counts  # [B, 1, C]
        gate = g.linear(g.linear(mean, f"{name}.squeeze").apply("Relu"), f"{name}.excite").apply("Sigmoid")
        return x * gate + residual

    def pool(self, x: Value, valid: Value, counts: Value) -> Value:
        """Writes the mean and deviation over time, weighted by attention that knows those of the clip, [B, 1, 2 C]."""
        g = self.graph
        mean, deviation = self.statistics(x, g.where(valid, (counts * 0.0 + 1.0) / counts, 0.0), valid)
        whole = g.linear(mean, "pooling.mean", bias=False) + g.linear(deviation, "pooling.deviation", bias=False)
        hidden = (g.linear(x, "pooling.frames") + whole).apply("Relu")
        scores = g.linear(self.scale(hidden, "pooling.norm").apply("Tanh"), "pooling.scores")
        weights = g.node("Softmax", g.where(valid, scores, -math.inf), kind="float", axis=1)
        return g.join([*self.statistics(x, weights, valid)], 2)

    def statistics(self, x: Value, weights: Value, valid: Value) -> tuple[Value, Value]:
        """Writes the weighted mean and standard deviation over time, [B, 1, C] each."""
        mean = self.total(x * weights, valid)
        distance = x - mean
        return mean, self.total(distance * distance * weights, valid).at_least(SMALLEST).apply("Sqrt")

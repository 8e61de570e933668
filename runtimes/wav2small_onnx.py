"""A convolutional network on a log-mel spectrogram as an ONNX graph, like wav2small_torch.py.

Dimensions: B clips, S samples, T columns of the spectrogram (later frames), F mel bands, C channels, W features of the
pooling, D features of an embedding.
"""

import math
from itertools import chain

from e2v_port.architectures.base import VARIANCE
from e2v_port.architectures.wav2small import Wav2smallConfig

from .layers_onnx import Network, Value

__all__ = ["Wav2small"]


class Wav2small(Network):
    """Waveforms in; frames and embeddings out."""

    config: Wav2smallConfig

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g = self.graph
        x, lengths = self.spectrogram(waveform, samples)
        x = x.axes(1)  # [B, 1, T, F]
        sizes = [1, *chain.from_iterable(self.config.stages)]
        number = 0
        for stage, channels in enumerate(self.config.stages):
            if stage:
                x = g.node("MaxPool", x, kind="float", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
                lengths = (lengths + 1) // 2
            valid = g.valid(lengths, x.size(2)).axes(1, 3)  # [B, 1, T, 1]
            x = g.where(valid, x, 0.0)
            for _ in channels:
                y = g.convolve(x, f"layers.{number}", bias=True, pads=[1] * 4)
                if self.config.residual and sizes[number] == sizes[number + 1]:
                    y = x + y
                # The next convolution would carry values after a clip's end back into the clip.
                x = g.where(valid, y.apply("Relu"), 0.0)
                number += 1
        x = x.permute(0, 2, 3, 1)  # [B, T, F, C]
        valid = g.valid(lengths, x.size(1))
        frames, pooled = (self.gram if self.config.pooling == "gram" else self.deviation)(x, valid)
        return frames, lengths, pooled

    def spectrogram(self, waveform: Value, samples: Value) -> tuple[Value, Value]:
        """Writes the power in each mel band in dB, [B, T, F], and the columns of each clip, [B]."""
        g, window, step = self.graph, self.config.window, self.config.step
        missing = (-waveform.size(1) + window).at_least(0)
        power = g.spectrum(waveform.pad(0, 0, 0, missing), window, step)
        x = g.decibels(g.weight("mel") @ power, self.config.floor, 10).permute(0, 2, 1)
        lengths = (samples - window).at_least(0) // step + 1
        valid = g.valid(lengths, x.size(1)).axes(2)
        if self.config.band_norm:
            x = x - g.where(valid, x, 0.0).sum(1) / lengths.to("float").axes(1, 2)
        return g.where(valid, x, 0.0), lengths

    def gram(self, x: Value, valid: Value) -> tuple[Value, Value]:
        """Writes the mean over time of W channels by bands, and the product of that matrix with itself."""
        g = self.graph
        values = g.linear(x, "pooling.values").permute(0, 1, 3, 2)  # [B, T, W, F]
        weights = self.over_time(g.linear(x, "pooling.weights").permute(0, 1, 3, 2), valid.axes(2, 3))
        mean = (values * weights).sum(1)  # [B, 1, W, F]
        return self.products(values), self.products(mean).without(1)

    def products(self, x: Value) -> Value:
        """Returns each channel's bands and its products with all channels, [B, T, W, F] -> [B, T, W * (F + W)]."""
        return self.graph.join([x, x @ x.permute(0, 1, 3, 2)], 3).reshape(0, 0, self.config.embed_dim)

    def deviation(self, x: Value, valid: Value) -> tuple[Value, Value]:
        """Writes the mean and standard deviation over time of W features, weighted by attention."""
        g = self.graph
        width = self.config.stages[-1][-1] * self.config.pooled_bands
        x = x.permute(0, 1, 3, 2).reshape(0, 0, width)  # [B, T, C * F]
        values = g.linear(x, "pooling.values").apply("Relu")  # [B, T, W]
        weights = self.over_time(g.linear(values, "pooling.weights"), valid.axes(2))
        mean = (values * weights).sum(1)  # [B, 1, W]
        distance = values - mean
        deviation = ((distance * distance * weights).sum(1) + VARIANCE).apply("Sqrt")
        none = (values * 0.0 + VARIANCE).apply("Sqrt")  # of a single column
        return g.join([values, none], 2), g.join([mean, deviation], 2).without(1)

    def over_time(self, x: Value, valid: Value) -> Value:
        """Applies a softmax over the columns of x [B, T, ...] that belong to each clip."""
        return self.graph.node("Softmax", self.graph.where(valid, x, -math.inf), kind="float", axis=1)

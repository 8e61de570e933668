"""The encoder of Whisper as an ONNX graph, like whisper_torch.py.

Dimensions: B clips, S samples, M columns of the spectrogram, T frames, D features per frame.
"""

import math

from e2v_port.architectures.whisper import COLUMN, MAX_FRAMES, STRIDES, WINDOW, WhisperConfig
from e2v_port.audio import mel_filters

from .layers_onnx import Encoder, Value

__all__ = ["Whisper"]


class Whisper(Encoder):
    """Waveforms in; frames and embeddings out."""

    config: WhisperConfig

    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, read = self.graph, (samples // COLUMN + 1) // 2
        if self.config.canvas:
            samples = samples.at_least(self.config.canvas)
            waveform = waveform.pad(0, 0, 0, (-waveform.size(1) + self.config.canvas).at_least(0))
        lengths = samples // COLUMN
        x = self.spectrogram(waveform, samples)  # [B, bands, M]
        for i, stride in enumerate(STRIDES):
            # Without the mask, the convolution would carry values after a clip's end back into the clip.
            x = g.where(g.valid(lengths, x.size(2)).axes(1), x, 0.0)
            lengths = (lengths - 1) // stride + 1
            x = g.gelu(g.convolve(x, f"conv_layers.{i}", bias=True, pads=[1, 1], strides=[stride]))
        x = x.permute(0, 2, 1)  # [B, T, D]
        # There are no more positions: the sum with longer clips is an error.
        x = x + g.constant(self.config.positions(MAX_FRAMES)).cut(0, 0, x.size(1))
        return x, read, self.mask(g.valid(lengths, x.size(1)))

    def spectrogram(self, waveform: Value, samples: Value) -> Value:
        """Writes the logarithm of the power in each mel band, [B, bands, M]; see whisper_torch.py."""
        g, size = self.graph, waveform.size(1)
        # The windows are centered on multiples of COLUMN, so that a clip is continued by its mirror image at both ends.
        at = g.count(-WINDOW // 2, size + (WINDOW // 2 - COLUMN)).apply("Abs").axes(0)  # [1, S + 240]
        end = samples.axes(1)  # [B, 1]
        at = g.where(at < end, at, -at + end * 2 - 2).at_least(0).at_most(size - 1)
        x = g.node("GatherElements", waveform, at, kind="float", axis=1)
        power = g.spectrum(x, WINDOW, COLUMN)  # [B, WINDOW // 2 + 1, M]
        x = g.decibels(g.constant(mel_filters(self.config.bands, WINDOW, 0, 8000)) @ power, 1e-10, 1)
        valid = g.valid(samples // COLUMN, x.size(2)).axes(1)  # [B, 1, M]
        highest = g.where(valid, x, -math.inf).highest(1, 2)
        return (x.at_least(highest - 8) + 4) / 4

    def block(self, x: Value, bias: Value, name: str) -> Value:
        """Writes a block that normalizes before each of its two halves."""
        x = x + self.attention(self.norm(x, f"{name}.norm1"), bias, f"{name}.attn", key_bias=False)
        return x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")

    def finish(self, x: Value) -> Value:
        return self.norm(x, "norm")

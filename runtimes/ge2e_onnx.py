"""A GE2E speaker encoder as an ONNX graph, like ge2e_torch.py.

Dimensions: B clips, S samples, P excerpts of each clip, N of all clips, C columns of an excerpt, F mel bands, H numbers
of a layer's state, D features of an embedding.
"""

import numpy as np

from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.audio import SAMPLING_RATE, mel_filters

from .layers_onnx import Network, Value

__all__ = ["Ge2e"]

TINY = 1e-12  # length below which an embedding has no direction: of a network that has no output for silence


class Ge2e(Network):
    """Waveforms in; the embeddings of their excerpts and of all together out."""

    config: Ge2eConfig

    def forward(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, config = self.graph, self.config
        time, lengths = (
            (count - config.least * config.step).at_least(0) // config.hop + 1 for count in (waveform.size(1), samples)
        )
        x = self.spectrogram(waveform, time)  # [B, F, columns]
        columns = (g.count(0, time) * config.apart).axes(1) + g.constant(np.arange(config.excerpt)[None])  # [P, C]
        x = g.node("Gather", x, columns, kind="float", axis=2).permute(3, 0, 2, 1)  # [C, B, P, F]
        x = x.reshape(config.excerpt, -1, config.bands)  # [C, N, F]
        for i in range(config.depth):
            x = self.recurrent(x, f"layers.{i}")
        last = x.cut(0, config.excerpt - 1, config.excerpt).without(0)  # [N, H]
        x = self.unit(g.linear(last, "projection").apply("Relu"))  # [N, D]
        shape = g.join([waveform.size(0), time, g.constant([config.embed_dim])], 0)
        frames = g.node("Reshape", x, shape, kind="float")  # [B, P, D]
        valid = g.valid(lengths, time).axes(2)
        return frames, lengths, self.unit(g.where(valid, frames, 0.0).sum(1).without(1))

    def spectrogram(self, waveform: Value, excerpts: Value) -> Value:
        """Writes the power in each mel band of what so many excerpts cover, [B, F, columns]."""
        g, config = self.graph, self.config
        half = config.window // 2
        size = excerpts * config.hop + (config.covered(1) - config.hop - half)
        x = (waveform * config.level).cut(1, 0, size)
        power = g.spectrum(x.pad(0, half, 0, size - x.size(1)), config.window, config.step)
        return g.constant(mel_filters(config.bands, config.window, 0, SAMPLING_RATE / 2)) @ power

    def recurrent(self, x: Value, name: str) -> Value:
        """Writes a layer of the LSTM, [C, N, inputs] -> [C, N, H], from a state of zeros."""
        g, width = self.graph, self.config.width
        # From torch's order of the gates to ONNX's: input, output, forget, cells.
        rows = g.constant(np.arange(4 * width).reshape(4, width)[[0, 3, 1, 2]].ravel())
        names = (f"{name}.inputs.weight", f"{name}.states.weight", f"{name}.inputs.bias")
        parts = [g.node("Gather", g.weight(part), rows, kind="float", axis=0).axes(0) for part in names]
        parts[2] = parts[2].pad(0, 0, 0, 4 * width)  # ONNX adds a second bias
        outputs, _, _ = g.lstm(x, None, None, parts, width)
        return outputs

    def unit(self, x: Value) -> Value:
        """Brings vectors [..., D] to length 1."""
        return x / (x * x).sum(-1).apply("Sqrt").at_least(TINY)

"""WavLM as an ONNX graph, like wavlm_torch.py.

Dimensions: B clips, T frames, D features per frame, H heads.
"""

from e2v_port.architectures.wavlm import WavlmConfig, buckets

from .layers_onnx import Value
from .wav2vec2_onnx import Wav2vec2

__all__ = ["Wavlm"]


class Wavlm(Wav2vec2):
    """Waveforms in; frames and embeddings out."""

    config: WavlmConfig
    places: Value  # the bias of relative positions, [H, T, T]

    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        x, lengths, mask = super().begin(waveform, samples)
        g, furthest = self.graph, self.config.max_distance
        values = g.constant(g.read("distances")[buckets(self.config.num_buckets, furthest)].T)  # [H, distances]
        at = g.count(0, x.size(1))
        apart = (at.axes(0) - at.axes(1)).at_least(-furthest).at_most(furthest) + furthest  # [T, T]
        self.places = g.node("Gather", values, apart, kind="float", axis=1)
        return x, lengths, mask

    def attention(self, x: Value, bias: Value, name: str, *, key_bias: bool = True) -> Value:
        """Writes attention with a bias of relative positions that the content of each frame and head scales."""
        g, heads, gate = self.graph, self.config.num_heads, name.replace("attn", "gate")
        y = x.reshape(0, 0, heads, self.config.width // heads).permute(0, 2, 1, 3)  # [B, H, T, D/H]
        gates = g.linear(y, gate).apply("Sigmoid")  # [B, H, T, 2]
        scaled = gates.cut(3, 1, 2) * g.weight(f"{gate}.scale").axes(1, 2)
        factor = gates.cut(3, 0, 1) * (scaled - 1.0) + 2.0
        return super().attention(x, factor * self.places + bias, name, key_bias=key_bias)

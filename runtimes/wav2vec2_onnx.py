"""wav2vec2 as an ONNX graph, like wav2vec2_torch.py.

Dimensions: B clips, S samples, T frames, D features per frame.
"""

from e2v_port.architectures.wav2vec2 import Wav2vec2Config

from .layers_onnx import Value, WaveformEncoder

__all__ = ["Wav2vec2"]


class Wav2vec2(WaveformEncoder):
    """Waveforms in; frames and embeddings out."""

    config: Wav2vec2Config

    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, eps = self.graph, self.config.norm_eps
        x, lengths = self.extract(waveform, samples, self.config.norm_of, self.config.conv_bias)
        if self.config.projection_norm:
            x = g.norm(x, "projection.norm", eps)
        x = g.linear(x, "projection.linear")  # [B, T, D]
        valid = g.valid(lengths, x.size(1))  # [B, T]
        x = g.where(valid.axes(2), x, 0.0)
        x = x + g.gelu(self.positions(x, "positions"))
        if not self.config.pre_norm:
            x = g.norm(x, "norm", eps)
        return x, lengths, self.mask(valid)

    def block(self, x: Value, bias: Value, name: str) -> Value:
        """Writes a block that normalizes before its two halves (large models) or after them (base)."""
        if self.config.pre_norm:
            x = x + self.attention(self.norm(x, f"{name}.norm1"), bias, f"{name}.attn")
            return x + self.mlp(self.norm(x, f"{name}.norm2"), f"{name}.mlp")
        x = self.norm(x + self.attention(x, bias, f"{name}.attn"), f"{name}.norm1")
        return self.norm(x + self.mlp(x, f"{name}.mlp"), f"{name}.norm2")

    def finish(self, x: Value) -> Value:
        return self.norm(x, "norm") if self.config.pre_norm else x

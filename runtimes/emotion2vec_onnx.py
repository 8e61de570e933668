"""emotion2vec as an ONNX graph, like emotion2vec_torch.py.

Dimensions: B clips, S samples, T frames, E extra tokens, D features per frame, H heads.
"""

import math

import numpy as np

from e2v_port.architectures.emotion2vec import Emotion2vecConfig

from .layers_onnx import Graph, Value, WaveformEncoder

__all__ = ["Emotion2vec"]


class Emotion2vec(WaveformEncoder):
    """Waveforms in; frames and embeddings out."""

    config: Emotion2vecConfig

    def __init__(self, config: Emotion2vecConfig, graph: Graph) -> None:
        super().__init__(config, graph)
        self.extra = config.num_extra_tokens

    def blocks(self) -> list[str]:
        return [*(f"context_blocks.{i}" for i in range(self.config.prenet_depth)), *super().blocks()]

    def begin(self, waveform: Value, samples: Value) -> tuple[Value, Value, Value]:
        g, width = self.graph, self.config.width
        x, lengths = self.extract(waveform, samples, lambda _: "layer", bias=False)
        x = g.linear(g.norm(x, "projection.norm", 1e-5), "projection.linear")  # [B, T, D]

        valid = g.valid(lengths, x.size(1))  # [B, T]
        one, zero = (g.constant(np.full(width, value, np.float32)) for value in (1, 0))
        places = x
        for i in range(self.config.conv_pos_depth):
            # Each of these convolutions would carry values after a clip's end back into the clip.
            places = self.positions(g.where(valid.axes(2), places, 0.0), f"positions.{i}")
            places = g.gelu(g.node("LayerNormalization", places, one, zero, kind="float", axis=-1, epsilon=1e-5))
        x = x + places

        bias = self.bias(x.size(1), valid)
        shape = g.join([x.size(0), g.constant([self.extra, width])], 0)
        tokens = g.node("Expand", g.weight("extra_tokens"), shape, kind="float")
        x = self.norm(g.join([tokens, x], 1), "context_norm")  # [B, E+T, D]
        return x, lengths, bias

    def block(self, x: Value, bias: Value, name: str) -> Value:
        """Writes a block that normalizes after each of its two halves."""
        x = self.norm(x + self.attention(x, bias, f"{name}.attn"), f"{name}.norm1")
        return self.norm(x + self.mlp(x, f"{name}.mlp"), f"{name}.norm2")

    def bias(self, time: Value, valid: Value) -> Value:
        """Returns ALiBi with the mask, [B, H, E+T, E+T]; it is zero for extra tokens and heads without a slope."""
        g, extra, biased, heads = self.graph, self.extra, self.config.num_alibi_heads, self.config.num_heads
        slopes, scales = np.zeros((2, heads, 1, 1), np.float32)
        slopes[:biased, 0, 0] = alibi(biased)
        scales[:biased, 0, 0] = np.maximum(g.read("alibi_scale"), 0)
        at = g.count(0, time).to("float")
        distances = (at.axes(0) - at.axes(1)).apply("Abs").axes(0)  # [1, T, T]
        # Scaled last, as in FunASR: for distances of some hundred frames, the order matters beyond the tolerances.
        bias = -distances * g.constant(slopes) * g.constant(scales)
        return bias.pad(0, extra, extra, 0, 0, 0) + self.mask(valid).pad(0, 0, 0, extra, 0, 0, 0, 0)


def alibi(heads: int) -> list[float]:
    """Returns 2^(-8k/n) for a power of two, else those of the one below, then every second of the one above (A.2)."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * k / below) for k in range(1, below + 1)]
    return slopes if heads == below else slopes + alibi(2 * below)[::2][: heads - below]

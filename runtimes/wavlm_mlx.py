"""WavLM in MLX. The twin is wavlm_torch.py: the same classes in the same order.

Dimensions: B clips, T frames, D features per frame, H heads. The reference is transformers' WavLMModel (arXiv
2110.13900). All but the blocks is wav2vec2.
"""

from collections.abc import Iterator

import mlx.core as mx
from mlx import nn

from e2v_port.architectures.wavlm import WavlmConfig, buckets

from .layers_mlx import Attention, Mlp, Trace, parameter
from .wav2vec2_mlx import Wav2vec2

__all__ = ["Wavlm"]


class Gate(nn.Module):
    """Scales the bias of relative positions by the content of each frame and head."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = parameter(2, dim // heads)
        self.bias = parameter(2)
        self.scale = parameter(heads)

    def __call__(self, x: mx.array, places: mx.array, mask: mx.array | None) -> mx.array:
        """Returns the bias of attention, [B, H, T, T].

        Args:
            x: What attention is given, [B, T, D].
            places: Bias of relative positions, [H, T, T].
            mask: What is added to it; broadcasts to [B, H, T, T].
        """
        x = mx.unflatten(x, 2, (self.heads, -1)).swapaxes(1, 2)  # [B, H, T, D/H]
        gates = mx.sigmoid(x @ self.weight.T + self.bias)  # [B, H, T, 2]
        gate = gates[..., :1] * (gates[..., 1:] * self.scale[:, None, None] - 1) + 2
        return gate * places if mask is None else gate * places + mask


class Block(nn.Module):
    """A block of wav2vec2, with a gated bias of relative positions in its attention."""

    def __init__(self, config: WavlmConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.gate = Gate(config.width, config.num_heads)
        self.attn = Attention(config.width, config.num_heads)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def __call__(self, x: mx.array, mask: mx.array | None, places: mx.array) -> mx.array:
        if self.pre_norm:
            y = self.norm1(x)
            x = self.attn(y, self.gate(y, places, mask), residual=x)
            x = self.mlp(self.norm2(x), residual=x)
        else:
            x = self.norm1(self.attn(x, self.gate(x, places, mask), residual=x))
            x = self.norm2(self.mlp(x, residual=x))
        return x


class Wavlm(Wav2vec2):
    """Waveforms in; frames, their mean and outputs out."""

    config: WavlmConfig
    kind = Block

    def __init__(self, config: WavlmConfig) -> None:
        super().__init__(config)
        self.distances = parameter(config.num_buckets, config.num_heads)

    def run(self, x: mx.array, bias: mx.array | None, trace: Trace) -> Iterator[mx.array]:
        places = self.places(x.shape[1])
        for i, block in enumerate(self.blocks):
            x = block(x, bias, places)
            trace(f"blocks.{i}", x)
            yield x

    def places(self, time: int) -> mx.array:
        """Returns the bias of relative positions between this number of frames, [H, T, T]."""
        furthest = self.config.max_distance
        at = mx.arange(time)
        apart = mx.clip(at - at[:, None], -furthest, furthest) + furthest  # [T, T]
        values = self.distances[mx.array(buckets(self.config.num_buckets, furthest))]
        return values.T[:, apart]

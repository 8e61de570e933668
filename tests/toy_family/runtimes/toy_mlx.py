"""The toy in MLX. Its twin is toy_torch.py: the same class.

B clips, S samples, T frames, D wide.
"""

import mlx.core as mx
from mlx import nn

from e2v_port.architectures.toy import ToyConfig

from .layers_mlx import Head, Trace


class Toy(nn.Module):
    """Waveforms in, frames, their mean and logits out."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.frame = nn.Linear(config.kernel, config.embed_dim)
        self.head = Head(config)

    def __call__(
        self, waveform: mx.array, samples: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[mx.array, mx.array, mx.array]:
        time = self.config.frames(waveform.shape[1])
        at = mx.arange(time)[:, None] * self.config.stride + mx.arange(self.config.kernel)
        x = waveform[:, at]  # [B, T, kernel]
        x = mx.tanh(self.frame(x)).astype(mx.float32)  # [B, T, D]
        trace("frames", x)
        lengths = mx.array([self.config.frames(count) for count in samples])
        real = mx.arange(time) < lengths[:, None]
        pooled = (x * real[:, :, None]).sum(1) / lengths[:, None]
        trace("pooled", pooled)
        logits = self.score(pooled)
        trace("logits", logits)
        return x, pooled, logits

    def score(self, x: mx.array, output: str = "") -> mx.array:
        logits: mx.array = self.head(x)
        return logits

"""The toy in torch. Its twin is toy_mlx.py: the same class.

B clips, S samples, T frames, D wide.
"""

import torch
from torch import Tensor, nn

from e2v_port.architectures.toy import ToyConfig

from .layers_torch import Head, Trace


class Toy(nn.Module):
    """Waveforms in, frames, their mean and logits out."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.frame = nn.Linear(config.kernel, config.embed_dim)
        self.head = Head(config)

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[Tensor, Tensor, Tensor]:
        x = waveform.unfold(1, self.config.kernel, self.config.stride)  # [B, T, kernel]
        x = torch.tanh(self.frame(x.to(self.frame.weight.dtype))).float()  # [B, T, D]
        trace("frames", x)
        lengths = torch.tensor([self.config.frames(count) for count in samples], device=x.device)
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        pooled = (x * real[:, :, None]).sum(1) / lengths[:, None]
        trace("pooled", pooled)
        logits = self.score(pooled)
        trace("logits", logits)
        return x, pooled, logits

    def score(self, x: Tensor, output: str = "") -> Tensor:
        logits: Tensor = self.head(x)
        return logits

"""The toy in numpy. Its twins are toy_torch.py and toy_mlx.py: the same class.

S samples, T frames, D wide.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.architectures.toy import ToyConfig

from .layers_numpy import Array, Head, Linear, Stored, Trace, mean_over_time, untraced


class Toy:
    """A waveform in, frames, their mean and logits out."""

    def __init__(self, stored: Stored, config: ToyConfig) -> None:
        self.config = config
        self.frame = Linear(stored["frame"])
        self.head = Head(stored["head"], config)

    def __call__(self, waveform: Array, trace: Trace = untraced) -> tuple[Array, Array, Array]:
        x = sliding_window_view(waveform, self.config.kernel)[:: self.config.stride]  # [T, kernel]
        x = np.tanh(self.frame(x))  # [T, D]
        trace("frames", x)
        pooled = mean_over_time(x)
        trace("pooled", pooled)
        logits = self.score(pooled)
        trace("logits", logits)
        return x, pooled, logits

    def score(self, x: Array, output: str = "") -> Array:
        return self.head(x)

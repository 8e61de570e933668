"""The toy in numpy, in double precision: the original that its conversions are compared with."""

from typing import ClassVar

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint
from e2v_port.parity.references import Tolerances, tensors


class Numpy:
    library: ClassVar[str] = "numpy"
    tolerances: ClassVar[Tolerances] = Tolerances(hidden=1e-5)

    def __init__(self, checkpoint: Checkpoint) -> None:
        assert checkpoint.config
        self.stride = int(checkpoint.config.read_text().split(":")[1])
        self.state = {name: tensor.double().numpy() for name, tensor in tensors(checkpoint).items()}

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        x = waveform.astype(np.float64)
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        weight = self.state["toy.layer.weight"]
        pieces = sliding_window_view(x, weight.shape[1])[:: self.stride]
        frames = np.tanh(pieces @ weight.T + self.state["toy.layer.bias"])
        pooled = frames.mean(0)
        logits = self.state["toy.output.weight"] @ pooled + self.state["toy.output.bias"]
        stages = {"waveform": x, "frames": frames, "pooled": pooled, "logits": logits}
        return {name: value.astype(np.float32) for name, value in stages.items()}


REFERENCE = Numpy

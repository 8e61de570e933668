"""Runs a converted model with torch: devices, loading, batches."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from e2v_port.audio import Waveform
from e2v_port.config import ModelConfig
from e2v_port.model import Output

__all__ = ["TorchRuntime", "load"]

# Padding of a batch is computed for nothing: on a CPU, which one clip keeps busy, batches stay small.
BATCH_SECONDS = {"cpu": 16.0, "mps": 120.0, "cuda": 480.0}


class TorchRuntime:
    """One model on one device. May be called from several threads at once."""

    def __init__(self, weights: Path, config: ModelConfig, device: str) -> None:
        twin = import_module(f"e2v_port.runtimes.{config.family}_torch")
        self.device = torch.device(device)
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS[device]
        with torch.device("meta"):
            self.model = getattr(twin, config.family.capitalize())(config.architecture)
        self.model.load_state_dict(load_file(weights, device=device), strict=True, assign=True)
        self.model.eval().requires_grad_(False)
        if device == "cuda":
            # Both default to a mantissa of ten bits somewhere in torch: not float32's numbers.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `e2v_port.model.Runtime`."""
        with torch.inference_mode():
            hidden, pooled, logits = self.model(self._tensor(batch), samples)
            scored = _numpy(self.model.score(hidden)) if frames and logits is not None else None
            means = _numpy(pooled)
            rows = None if logits is None else _numpy(logits)
            return [
                Output(
                    embedding=means[i],
                    logits=None if rows is None else rows[i],
                    frames=_numpy(hidden[i, :length]) if frames else None,
                    frame_logits=None if scored is None else scored[i, :length],
                )
                for i, length in enumerate(map(self.config.frames, samples))
            ]

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `e2v_port.model.Runtime`."""
        found: dict[str, NDArray[np.float32]] = {}

        def trace(name: str, value: Tensor) -> None:
            found[name] = _numpy(value[0])

        with torch.inference_mode():
            self.model(self._tensor(waveform[None]), [len(waveform)], trace)
        return found

    def _tensor(self, batch: Waveform) -> Tensor:
        return torch.from_numpy(batch).to(self.device)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().cpu().numpy()


def load(weights: Path, config: ModelConfig, device: str) -> TorchRuntime:
    """Returns the model of a checked model.safetensors on `cpu`, `cuda` or `mps`."""
    return TorchRuntime(weights, config, device)

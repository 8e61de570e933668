"""Runs a converted model with MLX: loading, batches."""

from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.config import ModelConfig
from e2v_port.model import Output

__all__ = ["MlxRuntime", "load"]

BATCH_SECONDS = 120.0


class MlxRuntime:
    """One model on MLX's default device. May be called from several threads at once."""

    def __init__(self, weights: Path, config: ModelConfig) -> None:
        twin = import_module(f"e2v_port.runtimes.{config.family}_mlx")
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS
        self.model = getattr(twin, config.family.capitalize())(config.architecture)
        self.model.load_weights(str(weights), strict=True)
        # Streams belong to a thread: what is evaluated here can be used in any other.
        mx.eval(self.model.parameters())

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `e2v_port.model.Runtime`."""
        hidden, pooled, logits = self.model(mx.array(batch), samples)
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

        def trace(name: str, value: mx.array) -> None:
            found[name] = _numpy(value[0])

        self.model(mx.array(waveform[None]), [len(waveform)], trace)
        return found


def _numpy(array: mx.array) -> NDArray[Any]:
    return np.array(array.astype(mx.float32))


def load(weights: Path, config: ModelConfig, _device: str) -> MlxRuntime:
    """Returns the model of a checked model.safetensors."""
    return MlxRuntime(weights, config)

"""Runs a converted model with MLX: loading, batches."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from e2v_port import layout
from e2v_port.audio import Waveform
from e2v_port.config import QUANTISED, ModelConfig
from e2v_port.model import Output
from e2v_port.quantisation import GROUP

__all__ = ["MlxRuntime", "load"]

BATCH_SECONDS = 120.0
# On a GPU, MLX keeps the memory of arrays that are gone for the next ones of about their size, up to all of the
# machine's. Batches differ in length, so that much of it never fits again.
CACHE_BYTES = 1 << 30


class MlxRuntime:
    """One model on MLX's default device. May be called from several threads at once."""

    readers = 0

    def __init__(self, weights: Path, config: ModelConfig, dtype: str | None) -> None:
        twin = import_module(f"e2v_port.runtimes.{config.family}_mlx")
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS
        self.model = getattr(twin, config.family.capitalize())(config.architecture)
        if config.dtype in QUANTISED:
            packed = set(layout.packed(config.architecture))
            bits = QUANTISED[config.dtype]
            nn.quantize(self.model, GROUP, bits, class_predicate=lambda path, _: f"{path}.weight" in packed)
        self.model.load_weights(str(weights), strict=True)
        if dtype is not None:
            self.model.set_dtype(getattr(mx, dtype))  # packed numbers stay; what they are multiplied with is cast
        # Streams belong to a thread: what is evaluated here can be used in any other.
        mx.eval(self.model.parameters())

    @property
    def at_once(self) -> int:
        """See `e2v_port.model.Runtime`."""
        return 1

    def pool(self) -> ThreadPoolExecutor:
        """Returns one thread; see `e2v_port.model.Runtime`."""
        return _pool()

    def compile(self) -> bool:
        """Does nothing: MLX's compiler gained nothing here; see `e2v_port.model.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `e2v_port.model.Runtime`."""
        hidden, pooled, logits = self.model(mx.array(batch), samples)
        scored = self.model.score(hidden) if frames and logits is not None else None
        wanted = hidden.astype(mx.float32) if frames else None
        mx.eval(pooled, logits, wanted, scored)  # all at once: what several need is computed once, and nothing waits
        means = np.array(pooled)
        rows, vectors, scores = (None if result is None else np.array(result) for result in (logits, wanted, scored))
        if mx.get_cache_memory() > CACHE_BYTES:
            mx.clear_cache()
        return [
            Output(
                embedding=means[i],
                logits=None if rows is None else rows[i],
                # Copies: a view would hold what is behind the ends of all clips.
                frames=None if vectors is None else vectors[i, :length].copy(),
                frame_logits=None if scores is None else scores[i, :length].copy(),
            )
            for i, length in enumerate(map(self.config.frames, samples))
        ]

    def score(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Applies the head; see `e2v_port.model.Runtime`."""
        return _numpy(self.model.score(mx.array(embedding[None]))[0])

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `e2v_port.model.Runtime`."""
        found: dict[str, NDArray[np.float32]] = {}

        def trace(name: str, value: mx.array) -> None:
            found[name] = _numpy(value[0])

        self.model(mx.array(waveform[None]), [len(waveform)], trace)
        return found


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "mlx")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # its thread stays with the parent


def _numpy(array: mx.array) -> NDArray[Any]:
    return np.array(array.astype(mx.float32))


def load(weights: Path, config: ModelConfig, _device: str, dtype: str | None = None) -> MlxRuntime:
    """Returns the model of a checked model.safetensors, its weights cast to `dtype` or left as they are stored."""
    return MlxRuntime(weights, config, dtype)

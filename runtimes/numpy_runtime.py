"""Runs a converted model with numpy alone, one clip at a time: what is left without torch."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.registry import FAMILIES
from e2v_port.architectures.runtime import Output
from e2v_port.audio import Waveform

from .layers_numpy import Array, Encoder, Stored

__all__ = ["NumpyRuntime", "load"]

BATCH_SECONDS = 8.0
# Clips that run at the same time: while one waits for a product, which has all cores, the other does the rest on one.
WORKERS = 2


class NumpyRuntime:
    """One model in float32. Several threads may call it at once."""

    readers = 0

    def __init__(self, weights: Path, config: ModelConfig) -> None:
        twin = import_module(f"e2v_port.runtimes.{config.family}_numpy")
        network = getattr(twin, FAMILIES[config.family].network)
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS
        self.model = network(nested(tensors.read(weights, config.architecture.tensors())), config.architecture)

    @property
    def at_once(self) -> int:
        """See `architectures.runtime.Runtime`."""
        return min(os.cpu_count() or 1, WORKERS)

    def pool(self) -> ThreadPoolExecutor:
        """Returns the threads of all models; see `architectures.runtime.Runtime`."""
        return _pool(self.at_once)

    def compile(self) -> bool:
        """Does nothing: there is no compiler; see `architectures.runtime.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch, clip by clip, so that padding takes no part; see `architectures.runtime.Runtime`."""
        with _own_settings():
            return [self._run(waveform, frames) for waveform in _clips(batch, samples)]

    def layers(self, batch: Waveform, samples: list[int]) -> list[NDArray[np.float32]]:
        """Returns the outputs of all blocks; see `architectures.runtime.Runtime`."""
        with _own_settings():
            return [np.stack(self.model.hidden(waveform)) for waveform in _clips(batch, samples)]

    def _run(self, waveform: Waveform, frames: bool) -> Output:
        hidden, pooled, logits = self.model(waveform)
        judged = frames and logits is not None and self.config.judges_frames
        scored = self._score_frames(hidden) if judged else None
        return Output(pooled, logits, hidden if frames else None, scored)

    def _score_frames(self, hidden: Array) -> Array:
        encoder = isinstance(self.model, Encoder)
        scored: Array = self.model.score_frames(hidden) if encoder else self.model.score(hidden)
        return scored

    def score(self, embedding: NDArray[np.float32], output: str = "") -> NDArray[np.float32]:
        """Applies the head; see `architectures.runtime.Runtime`."""
        with _own_settings():
            scored: Array = self.model.score(embedding, output)
            return scored

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `architectures.runtime.Runtime`."""
        values: dict[str, NDArray[np.float32]] = {}
        with _own_settings():
            self.model(waveform, values.__setitem__)
        return values


def _clips(batch: Waveform, samples: list[int]) -> Iterable[Waveform]:
    return (waveform[:count] for waveform, count in zip(batch, samples, strict=True))


def _own_settings() -> np.errstate:
    """Computes the same whatever the host program has numpy do with numbers that are not finite or tiny."""
    return np.errstate(all="ignore")


def nested(arrays: Iterable[tuple[str, Array]]) -> Stored:
    """Returns arrays by the parts of their names: `blocks.0.norm1.weight` is ["blocks"]["0"]["norm1"]["weight"]."""
    root: Stored = {}
    for name, array in arrays:
        *parts, last = name.split(".")
        layer = root
        for part in parts:
            layer = layer.setdefault(part, {})
        layer[last] = array
    return root


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "numpy")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def load(weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> NumpyRuntime:
    """Loads a checked model.safetensors. Everything is computed in float32, whatever the weights are stored in."""
    return NumpyRuntime(weights, config)

"""Runs a converted model with MLX: loading and batches."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.quantization import GROUP, QUANTIZED
from e2v_port.architectures.registry import FAMILIES
from e2v_port.architectures.runtime import Output
from e2v_port.audio import Waveform
from e2v_port.host import check_fork

from .layers_mlx import Encoder

__all__ = ["MlxRuntime", "load", "multiplies_packed"]

# Longest batches. On a CPU they gain nothing: large arrays take fresh memory from the system in every operation, and
# padding is wasted work.
BATCH_SECONDS = {mx.DeviceType.cpu: 8.0, mx.DeviceType.gpu: 120.0}
# Memory of freed arrays that stays allocated. On a GPU, MLX keeps it for later arrays of about the same size, up to all
# of the machine's memory; batches differ in length, so much of it would never fit again.
CACHE_BYTES = 1 << 30


class MlxRuntime:
    """One model on the device that was MLX's default when it was loaded. Several threads may call it at once."""

    readers = 0

    def __init__(self, weights: Path, config: ModelConfig, dtype: str | None) -> None:
        check_fork("mlx")
        _clear_at_the_end_of_this_thread()
        twin = import_module(f"e2v_port.runtimes.{config.family}_mlx")
        self.config = config.architecture
        self.model = getattr(twin, FAMILIES[config.family].network)(config.architecture)
        self._device = mx.default_device()
        self.batch_seconds = BATCH_SECONDS[self._device.type]
        stored = mx.load(str(weights))
        assert isinstance(stored, dict)
        stored.pop(tensors.MEANS, None)
        if config.dtype in QUANTIZED:
            packed = tensors.packed(config.architecture)
            bits = QUANTIZED[config.dtype]
            if multiplies_packed(self._device):
                nn.quantize(self.model, GROUP, bits, class_predicate=lambda path, _: f"{path}.weight" in packed)
            else:
                for name in packed:
                    numbers, scales, biases = map(stored.pop, tensors.parts(name))
                    stored[name] = mx.dequantize(numbers, scales, biases, GROUP, bits)
        self.model.load_weights([*stored.items()], strict=True)
        if dtype is not None:
            self.model.set_dtype(getattr(mx, dtype))  # packed numbers stay; their scales and biases are cast
        # A stream belongs to a thread: only evaluated weights can be used in another.
        mx.eval(self.model.parameters())

    @contextmanager
    def _own(self) -> Iterator[None]:
        """Computes on the device of the weights, whatever the host program has made the default."""
        check_fork("mlx")
        _clear_at_the_end_of_this_thread()
        with mx.stream(self._device):
            yield

    @property
    def at_once(self) -> int:
        """See `architectures.runtime.Runtime`."""
        return 1

    def pool(self) -> ThreadPoolExecutor:
        """Returns one thread; see `architectures.runtime.Runtime`."""
        return _pool()

    def compile(self) -> bool:
        """Does nothing: MLX's compiler gains too little (see docs/port.md); see `architectures.runtime.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `architectures.runtime.Runtime`."""
        with self._own():
            return self._run(batch, samples, frames)

    def layers(self, batch: Waveform, samples: list[int]) -> list[NDArray[np.float32]]:
        """Returns the outputs of all blocks; see `architectures.runtime.Runtime`."""
        with self._own():
            states = [x.astype(mx.float32) for x in self.model.hidden(mx.array(batch), samples)]
            mx.eval(states)
            values = np.stack([np.array(x) for x in states], 1)  # [B, layers, T, D]
            return [values[i, :, :time].copy() for i, time in enumerate(map(self.config.frames, samples))]

    def _run(self, batch: Waveform, samples: list[int], frames: bool) -> list[Output]:
        hidden, pooled, logits = self.model(mx.array(batch), samples)
        judged = frames and logits is not None and self.config.judges_frames
        scored = self._score_frames(hidden, samples) if judged else None
        wanted = hidden.astype(mx.float32) if frames else None
        mx.eval(pooled, logits, wanted, scored)  # together: values that several need are computed once
        means = np.array(pooled)
        rows, vectors, scores = (None if result is None else np.array(result) for result in (logits, wanted, scored))
        if mx.get_cache_memory() > CACHE_BYTES:
            mx.clear_cache()
        return [
            Output(
                embedding=means[i],
                logits=None if rows is None else rows[i],
                # Copies, since a view would keep the padding of all clips in memory.
                frames=None if vectors is None else vectors[i, :length].copy(),
                frame_logits=None if scores is None else scores[i, :length].copy(),
            )
            for i, length in enumerate(map(self.config.frames, samples))
        ]

    def _score_frames(self, hidden: mx.array, samples: list[int]) -> mx.array:
        scored: mx.array
        if isinstance(self.model, Encoder):
            scored = self.model.score_frames(hidden, samples)
        else:
            scored = self.model.score(hidden)
        return scored

    def score(self, embedding: NDArray[np.float32], output: str = "") -> NDArray[np.float32]:
        """Applies the head; see `architectures.runtime.Runtime`."""
        with self._own():
            return _numpy(self.model.score(mx.array(embedding[None]), output)[0])

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `architectures.runtime.Runtime`."""
        values: dict[str, NDArray[np.float32]] = {}

        def trace(name: str, value: mx.array) -> None:
            values[name] = _numpy(value[0])

        with self._own():
            self.model(mx.array(waveform[None]), [len(waveform)], trace)
        return values


def multiplies_packed(device: mx.Device) -> bool:
    """Returns whether packed weights stay packed on a device. MLX multiplies them very slowly on a CPU."""
    return bool(device.type != mx.DeviceType.cpu)


class _Clearing:
    """Clears the streams of a thread when it ends, which takes its local values with it."""

    def __del__(self) -> None:
        mx.clear_streams()


_used = threading.local()


def _clear_at_the_end_of_this_thread() -> None:
    """Has MLX tidy up before this thread ends, as its documentation asks for.

    Otherwise its end may bring the process down ("terminate called without an active exception"): with MLX 0.32 on
    Linux, a third of short programs that compute in a thread. The main thread ends with the process.
    """
    if hasattr(mx, "clear_streams") and threading.current_thread() is not threading.main_thread():
        _used.clearing = getattr(_used, "clearing", None) or _Clearing()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "mlx")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def _numpy(array: mx.array) -> NDArray[Any]:
    return np.array(array.astype(mx.float32))


def load(weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> MlxRuntime:
    """Loads a checked model.safetensors. Weights are cast to `dtype`, or keep the type they are stored in."""
    return MlxRuntime(weights, config, dtype)

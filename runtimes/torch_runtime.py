"""Runs a converted model with torch: devices, loading and batches."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from e2v_port.architectures import tensors
from e2v_port.architectures.base import Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.quantization import QUANTIZED, unpack
from e2v_port.architectures.registry import FAMILIES
from e2v_port.architectures.runtime import Output
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import RuntimeUnavailable
from e2v_port.host import limit_threads, own_settings

from .fast import onednn, tiles
from .layers_torch import Encoder, WaveformEncoder

__all__ = ["TorchRuntime", "load"]

# Longest batches. Padding is wasted work, and one clip keeps a core of a CPU busy, so batches stay small there.
BATCH_SECONDS = {"cpu": 8.0, "mps": 120.0}
# Batches that a CPU runs at the same time. Two of them on one core each are a fifth faster than one after the other on
# both cores. Each needs memory for the values between its layers, so there are no more than two.
CPU_WORKERS = 2
# float32 numbers in a vector of the CPU: attention in bfloat16 takes a fifth less time for a multiple of these tokens.
VECTOR = 16


class TorchRuntime:
    """One model on one device (for CUDA, see cuda_runtime.py). Several threads may call it at once."""

    readers = 0

    def __init__(
        self, weights: Path, config: ModelConfig, device: str, dtype: str | None, *, packed: bool = True
    ) -> None:
        self.device = torch.device(device)
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS.get(self.device.type, 0.0)
        kind = dtype or config.arithmetic
        self._whole_vectors = False
        with own_settings(self.device.type, inference=False):
            self.model = self._empty(config)
            self.model.load_state_dict(_tensors(weights, config, device, dtype), strict=True, assign=True)
            self.model.eval().requires_grad_(False)
            if device == "cpu" and isinstance(self.model, Encoder):
                if isinstance(self.model, WaveformEncoder):
                    tiles.tile(self.model)
                if packed and onednn.available(kind):
                    onednn.pack(self.model)
                    for rest in self.model.parameters():  # the last to hold the mapped file in memory
                        rest.data = rest.data.clone()
                    self._whole_vectors = kind == "bfloat16"

    @staticmethod
    def _empty(config: ModelConfig) -> Any:
        twin = import_module(f"e2v_port.runtimes.{config.family}_torch")
        with torch.device("meta"):
            return getattr(twin, FAMILIES[config.family].network)(config.architecture)

    @property
    def at_once(self) -> int:
        """See `architectures.runtime.Runtime`."""
        return min(torch.get_num_threads(), CPU_WORKERS) if self.device.type == "cpu" else 1

    def pool(self) -> ThreadPoolExecutor:
        """Returns one thread for Metal, and for a CPU threads that share it; see `architectures.runtime.Runtime`."""
        return _cpu_pool(torch.get_num_threads()) if self.device.type == "cpu" else _metal_pool()

    def compile(self) -> bool:
        """Does nothing: on a CPU, compiling takes half a minute and gains 2 %; see `architectures.runtime.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `architectures.runtime.Runtime`."""
        with self._own(batch):
            return self._run(batch, samples, frames)

    def layers(self, batch: Waveform, samples: list[int]) -> list[NDArray[np.float32]]:
        """Returns the outputs of all blocks; see `architectures.runtime.Runtime`."""
        with self._own(batch), own_settings(self.device.type):
            states = self.model.hidden(self._tensor(batch), samples)
            lengths = map(self.config.frames, samples)
            return [_numpy(torch.stack([x[i, :time].float() for x in states])) for i, time in enumerate(lengths)]

    @contextmanager
    def _own(self, batch: Waveform) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise RuntimeUnavailable(
                f"{self.device.type} has no memory left for a batch of {batch.size / SAMPLING_RATE:.0f} s of audio: "
                f"close other programs that use it, or use runtime='cpu'"
            ) from error

    def _run(self, batch: Waveform, samples: list[int], frames: bool) -> list[Output]:
        with own_settings(self.device.type):
            hidden, pooled, logits = self._forward(batch, samples)
            judged = frames and logits is not None and self.config.judges_frames
            scored = _numpy(self._score_frames(hidden, samples)) if judged else None
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

    def _score_frames(self, hidden: Tensor, samples: list[int]) -> Tensor:
        scored: Tensor
        if isinstance(self.model, Encoder):
            scored = self.model.score_frames(hidden, samples)
        else:
            scored = self.model.score(hidden)
        return scored

    def _forward(self, batch: Waveform, samples: list[int]) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._whole_vectors and isinstance(self.config, Transformer):
            # Fills the tokens up to whole vectors. The model masks them like any padding.
            batch = np.pad(batch, ((0, 0), (0, self.config.hop * (-self.config.tokens(batch.shape[1]) % VECTOR))))
        result: tuple[Tensor, Tensor, Tensor | None] = self.model(self._tensor(batch), samples)
        return result

    def score(self, embedding: NDArray[np.float32], output: str = "") -> NDArray[np.float32]:
        """Applies the head; see `architectures.runtime.Runtime`."""
        with own_settings(self.device.type):
            return _numpy(self.model.score(self._tensor(embedding[None]), output)[0])

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Runs one clip; see `architectures.runtime.Runtime`."""
        values: dict[str, NDArray[np.float32]] = {}

        def trace(name: str, value: Tensor) -> None:
            values[name] = _numpy(value[0])

        with own_settings(self.device.type):
            self.model(self._tensor(waveform[None]), [len(waveform)], trace)
        return values

    def _tensor(self, batch: Waveform) -> Tensor:
        return torch.from_numpy(batch).to(self.device)


def _tensors(weights: Path, config: ModelConfig, device: str, dtype: str | None) -> dict[str, Tensor]:
    """Reads and casts weights one at a time, so that no more than one is held twice. Packed ones become float32."""
    kind = getattr(torch, dtype or config.arithmetic)
    packed = set(tensors.packed(config.architecture)) if config.dtype in QUANTIZED else set()
    with safe_open(weights, framework="pt") as file:

        def read(name: str) -> Tensor:
            if name in packed:
                return torch.from_numpy(unpack(*(file.get_tensor(part).numpy() for part in tensors.parts(name))))
            tensor: Tensor = file.get_tensor(name)
            return tensor

        return {name: read(name).to(device, kind) for name in config.architecture.tensors()}


@cache
def _cpu_pool(threads: int) -> ThreadPoolExecutor:
    """Returns workers that share this number of threads.

    Cached: a new thread would have to ask the system for the memory between layers again.
    """
    workers = min(threads, CPU_WORKERS)
    return ThreadPoolExecutor(workers, "torch", limit_threads, (threads // workers,))


@cache
def _metal_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "torch")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_cpu_pool.cache_clear)
    os.register_at_fork(after_in_child=_metal_pool.cache_clear)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().cpu().numpy()


def load(
    weights: Path, config: ModelConfig, device: str, dtype: str | None = None, *, packed: bool = True
) -> TorchRuntime:
    """Loads a checked model.safetensors on `cpu` or `mps`.

    Weights are cast to `dtype`, or keep the type they are stored in. With `packed`, layers of a CPU are replaced where
    others are faster, whose weights cannot be trained.
    """
    return TorchRuntime(weights, config, device, dtype, packed=packed)

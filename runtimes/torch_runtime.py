"""Runs a converted model with torch: devices, loading, batches."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from e2v_port import layout
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.config import QUANTISED, ModelConfig, Transformer
from e2v_port.devices import limit_threads
from e2v_port.errors import RuntimeUnavailable
from e2v_port.model import Output
from e2v_port.quantisation import unpack

from .layers_torch import Positions, Product

__all__ = ["TorchRuntime", "load"]

# Padding of a batch is computed for nothing: on a CPU, a core of which one clip keeps busy, batches stay small.
BATCH_SECONDS = {"cpu": 8.0, "mps": 120.0}
# Batches that a CPU runs at the same time: with a core for each, two of them give a fifth more than one after the
# other on both. Each takes memory for what is between its layers, so there are no more of them.
CPU_WORKERS = 2
# Tokens in a CPU's vector of float32: attention in bfloat16 takes a fifth less time for whole vectors of them.
VECTOR = 16


class TorchRuntime:
    """One model on one device; for CUDA see cuda_runtime.py. May be called from several threads at once."""

    readers = 0

    def __init__(self, weights: Path, config: ModelConfig, device: str, dtype: str | None) -> None:
        self.device = torch.device(device)
        self.config = config.architecture
        self.batch_seconds = BATCH_SECONDS.get(device, 0.0)
        self.model = self._empty(config)
        self.model.load_state_dict(_tensors(weights, config, device, dtype), strict=True, assign=True)
        self.model.eval().requires_grad_(False)
        self._packed = device == "cpu" and (dtype or config.arithmetic) == "bfloat16" and _packs()
        if self._packed:
            for module in self.model.modules():
                if isinstance(module, (Positions, Product)):
                    module.pack()

    @staticmethod
    def _empty(config: ModelConfig) -> Any:
        twin = import_module(f"e2v_port.runtimes.{config.family}_torch")
        with torch.device("meta"):
            return getattr(twin, config.family.capitalize())(config.architecture)

    @property
    def at_once(self) -> int:
        """See `e2v_port.model.Runtime`."""
        return min(torch.get_num_threads(), CPU_WORKERS) if self.device.type == "cpu" else 1

    def pool(self) -> ThreadPoolExecutor:
        """Returns one thread for Metal; on a CPU some that share its cores; see `e2v_port.model.Runtime`."""
        return _cpu_pool(torch.get_num_threads()) if self.device.type == "cpu" else _metal_pool()

    def compile(self) -> bool:
        """Does nothing, as on a CPU it gains 2 % in half a minute; see `e2v_port.model.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `e2v_port.model.Runtime`."""
        try:
            return self._run(batch, samples, frames)
        except torch.OutOfMemoryError as error:
            raise RuntimeUnavailable(
                f"{self.device.type} has no memory left for {batch.size / SAMPLING_RATE:.0f} s of audio at once: end "
                f"what else uses it, or use runtime='cpu'"
            ) from error

    def _run(self, batch: Waveform, samples: list[int], frames: bool) -> list[Output]:
        with torch.inference_mode():
            hidden, pooled, logits = self._forward(batch, samples)
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

    def _forward(self, batch: Waveform, samples: list[int]) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._packed and isinstance(self.config, Transformer):
            batch = np.pad(batch, ((0, 0), (0, self.config.hop * (-self.config.tokens(batch.shape[1]) % VECTOR))))
        result: tuple[Tensor, Tensor, Tensor | None] = self.model(self._tensor(batch), samples)
        return result

    def score(self, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
        """Applies the head; see `e2v_port.model.Runtime`."""
        with torch.inference_mode():
            return _numpy(self.model.score(self._tensor(embedding[None]))[0])

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


def _tensors(weights: Path, config: ModelConfig, device: str, dtype: str | None) -> dict[str, Tensor]:
    """Reads the weights, one after the other, so that no more than one is held twice; the packed become float32."""
    kind = getattr(torch, dtype or config.arithmetic)
    packed = set(layout.packed(config.architecture)) if config.dtype in QUANTISED else set()
    with safe_open(weights, framework="pt") as file:

        def read(name: str) -> Tensor:
            if name in packed:
                return torch.from_numpy(unpack(*(file.get_tensor(part).numpy() for part in layout.parts(name))))
            tensor: Tensor = file.get_tensor(name)
            return tensor

        return {name: read(name).to(device, kind) for name in layout.tensors(config.architecture)}


def _packs() -> bool:
    """Tells whether oneDNN is here with products in bfloat16, in the form that torch's compiler uses for x86."""
    if platform.machine() not in {"x86_64", "AMD64"} or not torch._C._has_mkldnn:
        return False
    names = (
        "_is_mkldnn_bf16_supported",
        "_reorder_linear_weight",
        "_linear_pointwise",
        "_reorder_convolution_weight",
        "_convolution_pointwise",
    )
    return all(hasattr(torch.ops.mkldnn, name) for name in names) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def _cpu_pool(threads: int) -> ThreadPoolExecutor:
    """Returns workers that have so many threads between them.

    They are kept: a new thread would have to get the memory for what is between layers from the system again.
    """
    workers = min(threads, CPU_WORKERS)
    return ThreadPoolExecutor(workers, "torch", limit_threads, (threads // workers, threads))


@cache
def _metal_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "torch")


if hasattr(os, "register_at_fork"):  # their threads stay with the parent
    os.register_at_fork(after_in_child=_cpu_pool.cache_clear)
    os.register_at_fork(after_in_child=_metal_pool.cache_clear)


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.float().cpu().numpy()


def load(weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> TorchRuntime:
    """Returns the model of a checked model.safetensors on `cpu` or `mps`.

    Its weights are cast to `dtype`, or left as they are stored.
    """
    return TorchRuntime(weights, config, device, dtype)

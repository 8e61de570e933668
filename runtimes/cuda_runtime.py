"""Runs a converted model on an NVIDIA GPU, with streams, graphs and a compiler.

None of them changes the numbers: clips are zero-padded and masked as in any batch.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Output
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.host import own_settings

from .fast.compiled import compiled
from .fast.graphs import Graph, Result
from .layers_torch import Encoder
from .torch_runtime import TorchRuntime

__all__ = ["CudaRuntime", "load"]

_log = logging.getLogger(__name__)

# Limits of a batch, all estimates. In float32 the first convolution yields 6.6 MB per second of audio. About three
# such arrays live at a time in each of two streams, so that 12 s per GB of the device leave half of it free.
BATCH_SECONDS = 480.0
SECONDS_PER_GB = 12.0
STREAMS = 2  # while the results of one batch are copied back, the next one runs
# Clips decoded at the same time: per second, a GPU runs thousands of seconds of audio, and a core decodes 400 to 1600.
READERS = 8

# A single clip is a few hundred small kernels, which take longer to start than to run: a graph starts them together.
# One is kept for every half second up to 16 s, about the longest segment of speech.
GRAPH_STEP = SAMPLING_RATE // 2
GRAPH_SAMPLES = 16 * SAMPLING_RATE


class CudaRuntime(TorchRuntime):
    """One model on the current NVIDIA GPU. May be called from several threads at once."""

    readers = READERS
    plain = False  # True runs every layer by itself: no graphs, nothing compiled

    def __init__(self, weights: Path, config: ModelConfig, dtype: str | None) -> None:
        # The current device belongs to a thread: others would run on the first GPU.
        super().__init__(weights, config, f"cuda:{torch.cuda.current_device()}", dtype)
        memory = torch.cuda.get_device_properties(self.device).total_memory
        self.batch_seconds = min(BATCH_SECONDS, SECONDS_PER_GB * memory / 1e9)
        self._config = config
        self._compiled: Encoder | None = None
        self._graphs: dict[int, Graph | None] | None = {}  # by samples, None after the first clip; None if they fail
        self._graphing = threading.Lock()
        torch.cuda.synchronize(self.device)  # weights must be complete before another stream reads them

    @property
    def at_once(self) -> int:
        """See `architectures.runtime.Runtime`."""
        return STREAMS

    def pool(self) -> ThreadPoolExecutor:
        """Returns threads with one stream each; see `architectures.runtime.Runtime`."""
        return _pool()

    def compile(self) -> bool:
        """Compiles the layers for batches; see `architectures.runtime.Runtime`."""
        if self._compiled is None and isinstance(self.model, Encoder):
            try:
                self._compiled = self._warmed_up(compiled(self.model, self._empty(self._config)))
            except Exception as error:  # without Triton or a C compiler, torch raises many kinds of errors
                _log.warning("not compiled, batches run layer by layer: %s", _first_line(error))
        return self._compiled is not None

    def _warmed_up(self, model: Encoder) -> Encoder:
        """Compiles for batches of different shapes: torch generalizes over a size once it has seen two."""
        with own_settings("cuda"), torch.cuda.device(self.device):
            for rows, samples in ((2, SAMPLING_RATE), (3, 2 * SAMPLING_RATE)):
                batch = torch.zeros(rows, samples, dtype=torch.float32, device=self.device)
                model(batch, [samples] * (rows - 1) + [samples // 2])
        torch.cuda.synchronize(self.device)
        return model

    def _run(self, batch: Waveform, samples: list[int], frames: bool) -> list[Output]:
        with torch.cuda.device(self.device):
            return super()._run(batch, samples, frames)

    def layers(self, batch: Waveform, samples: list[int]) -> list[NDArray[np.float32]]:
        """Returns the outputs of all blocks; see `architectures.runtime.Runtime`."""
        with torch.cuda.device(self.device):
            return super().layers(batch, samples)

    def _forward(self, batch: Waveform, samples: list[int]) -> Result:
        if self.plain:
            return super()._forward(batch, samples)
        if len(samples) == 1 and samples[0] <= GRAPH_SAMPLES and isinstance(self.model, Encoder):
            with self._graphing:
                if graph := self._graph(self.model, -(-samples[0] // GRAPH_STEP) * GRAPH_STEP):
                    return graph.run(self._tensor(batch), samples[0])
        if self._compiled is not None and len(samples) > 1:
            result: Result = self._compiled(self._tensor(batch), samples)
            return result
        return super()._forward(batch, samples)

    def _graph(self, model: Encoder, samples: int) -> Graph | None:
        """Returns the graph for a length from its second clip on: most programs run one clip of a length."""
        if self._graphs is None:
            return None
        if samples not in self._graphs:
            self._graphs[samples] = None
        elif self._graphs[samples] is None:
            try:
                self._graphs[samples] = Graph(model, samples, self.device)
            except RuntimeError as error:
                _log.warning("no CUDA graph of the model, clips run layer by layer: %s", _first_line(error))
                self._graphs = None
                return None
        return self._graphs[samples]

    def _tensor(self, batch: Waveform) -> Tensor:
        # A copy from pinned memory continues while this thread starts the kernels that follow it.
        return torch.from_numpy(batch).pin_memory().to(self.device, non_blocking=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@cache
def _pool() -> ThreadPoolExecutor:
    def own_stream() -> None:
        torch.cuda.set_stream(torch.cuda.Stream())

    return ThreadPoolExecutor(STREAMS, "cuda", own_stream)


def load(weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> CudaRuntime:
    """Loads a checked model.safetensors on the current NVIDIA GPU.

    Weights are cast to `dtype`, or keep the type they are stored in.
    """
    return CudaRuntime(weights, config, dtype)

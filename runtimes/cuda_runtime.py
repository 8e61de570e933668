"""Runs a converted model on an NVIDIA GPU: beside what torch does by itself, streams, graphs and a compiler.

Nothing here changes what is computed: clips are filled up with zeros and masked as in any batch.
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.config import ModelConfig, Transformer

from .torch_runtime import TorchRuntime

__all__ = ["CudaRuntime", "compiled", "load"]

_Result: TypeAlias = tuple[Tensor, Tensor, Tensor | None]

# Of a batch. In float32 the first convolution makes 6.6 MB of a second, of which some three copies live at a time, in
# each of two streams: with 12 s for each GB of the device, half of it stays free. These three are estimates.
BATCH_SECONDS = 480.0
SECONDS_PER_GB = 12.0
STREAMS = 2  # while the results of one batch are fetched, the next one runs
# Clips decoded side by side: a GPU takes many thousand seconds of audio in one, a core decodes 400 to 1600.
READERS = 8

# A clip by itself is a few hundred small kernels, which take longer to start than to run: a graph starts them at once.
# One is kept for every half second up to 16 s, about the longest segment of speech there is.
GRAPH_STEP = SAMPLING_RATE // 2
GRAPH_SAMPLES = 16 * SAMPLING_RATE


class CudaRuntime(TorchRuntime):
    """One model on the current NVIDIA GPU. May be called from several threads at once."""

    readers = READERS
    plain = False  # set by who wants to see every layer run: no graphs, nothing compiled

    def __init__(self, weights: Path, config: ModelConfig, dtype: str | None) -> None:
        # Both default to a mantissa of ten bits somewhere in torch: not float32's numbers.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        super().__init__(weights, config, "cuda", dtype)
        memory = torch.cuda.get_device_properties(self.device).total_memory
        self.batch_seconds = min(BATCH_SECONDS, SECONDS_PER_GB * memory / 1e9)
        self._config = config
        self._compiled: Any = None
        self._graphs: dict[int, _Graph | None] | None = {}  # by samples, None after the first clip; None: they fail
        self._graphing = threading.Lock()
        torch.cuda.synchronize(self.device)  # the weights are there before another stream reads them

    @property
    def at_once(self) -> int:
        """See `e2v_port.model.Runtime`."""
        return STREAMS

    def pool(self) -> ThreadPoolExecutor:
        """Returns threads with a stream each; see `e2v_port.model.Runtime`."""
        return _pool()

    def compile(self) -> bool:
        """Compiles the layers for batches; see `e2v_port.model.Runtime`."""
        if self._compiled is None and isinstance(self.config, Transformer):
            try:
                model = compiled(self.model, self._empty(self._config))
                with torch.inference_mode():
                    for rows, samples in ((2, SAMPLING_RATE), (3, 2 * SAMPLING_RATE)):
                        batch = torch.zeros(rows, samples, device=self.device)
                        model(batch, [samples] * (rows - 1) + [samples // 2])
                torch.cuda.synchronize(self.device)
                self._compiled = model
            except Exception as error:  # without Triton or a C compiler they fail in their own ways
                print(f"not compiled, runs as it is: {_first_line(error)}", file=sys.stderr)
        return self._compiled is not None

    def _forward(self, batch: Waveform, samples: list[int]) -> _Result:
        if self.plain:
            return super()._forward(batch, samples)
        if len(samples) == 1 and samples[0] <= GRAPH_SAMPLES and isinstance(self.config, Transformer):
            with self._graphing:
                if graph := self._graph(-(-samples[0] // GRAPH_STEP) * GRAPH_STEP):
                    return graph.run(self._tensor(batch), samples[0])
        if self._compiled is not None and len(samples) > 1:
            result: _Result = self._compiled(self._tensor(batch), samples)
            return result
        return super()._forward(batch, samples)

    def _graph(self, samples: int) -> "_Graph | None":
        """Returns the graph for this length from the second clip on: most programs have one clip of a length."""
        if self._graphs is None:
            return None
        if samples not in self._graphs:
            self._graphs[samples] = None
        elif self._graphs[samples] is None:
            try:
                self._graphs[samples] = _Graph(self.model, samples, self.device)
            except RuntimeError as error:
                print(f"no graph of the model, runs as it is: {_first_line(error)}", file=sys.stderr)
                self._graphs = None
                return None
        return self._graphs[samples]

    def _tensor(self, batch: Waveform) -> Tensor:
        # From pinned memory, a copy goes on while this thread prepares the kernels behind it.
        return torch.from_numpy(batch).pin_memory().to(self.device, non_blocking=True)


def compiled(model: Any, empty: Any) -> Any:
    """Returns a model over the same weights whose layers are compiled, with attention that keeps no bias.

    One layer of a kind is compiled for all of its kind and for all lengths, so that it takes seconds, not minutes.

    Args:
        model: A transformer with its weights.
        empty: The same without, on `meta`: becomes the result.
    """
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    empty.eval().requires_grad_(False)
    for part in empty.modules():
        if isinstance(part, empty.compiled):
            kind: Any = type(part)
            part.forward = partial(_compiled_forward(kind), part)
    empty.by_distance = True
    return empty


@cache
def _compiled_forward(kind: type[nn.Module]) -> Callable[..., Tensor]:
    forward: Callable[..., Tensor] = torch.compile(kind.forward, dynamic=True, fullgraph=True)
    return forward


class _Graph:
    """All kernels for one clip of up to so many samples, recorded once and started as one."""

    def __init__(self, model: Any, samples: int, device: torch.device) -> None:
        self._waveform = torch.zeros(1, samples, device=device)
        self._samples = torch.full((1,), samples, device=device)
        model.encode(self._waveform, self._samples, True)  # what is made once is made before
        torch.cuda.synchronize(device)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads go on meanwhile: only what this one does is recorded.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result: _Result = model.encode(self._waveform, self._samples, True)
        self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def run(self, waveform: Tensor, samples: int) -> _Result:
        """Runs a clip [1, S] of so many samples; not to be called by two threads at once."""
        self._done.wait()  # the last clip's results are copied, on whatever stream that was
        self._waveform.zero_()
        self._waveform[:, : waveform.shape[1]] = waveform
        self._samples.fill_(samples)
        self._graph.replay()
        hidden, pooled, logits = self._result
        copies = hidden.clone(), pooled.clone(), None if logits is None else logits.clone()
        self._done.record()
        return copies


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


@cache
def _pool() -> ThreadPoolExecutor:
    def own_stream() -> None:
        torch.cuda.set_stream(torch.cuda.Stream())  # type: ignore[no-untyped-call]

    return ThreadPoolExecutor(STREAMS, "cuda", own_stream)


def load(weights: Path, config: ModelConfig, _runtime: str, dtype: str | None = None) -> CudaRuntime:
    """Returns the model of a checked model.safetensors on the current NVIDIA GPU.

    Its weights are cast to `dtype`, or left as they are stored.
    """
    return CudaRuntime(weights, config, dtype)

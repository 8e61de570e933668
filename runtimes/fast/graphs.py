"""CUDA graphs: all kernels for one clip, recorded once and started together."""

from typing import Any, TypeAlias

import torch
from torch import Tensor

from e2v_port.runtimes.layers_torch import Encoder

__all__ = ["Graph", "Result"]

Result: TypeAlias = tuple[Tensor, Tensor, Tensor | None]  # see `Encoder.forward`


class Graph:
    """The recorded kernels of a model for one clip of up to `samples` samples."""

    def __init__(self, model: Encoder, samples: int, device: torch.device) -> None:
        self._waveform = torch.zeros(1, samples, dtype=torch.float32, device=device)
        self._samples = torch.full((1,), samples, device=device)
        model.encode(self._waveform, self._samples, True)  # fills caches, which a graph could not record
        torch.cuda.synchronize(device)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads keep running: only the calls of this one are recorded.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._result: Result = model.encode(self._waveform, self._samples, True)
        self._done: Any = torch.cuda.Event()

    def run(self, waveform: Tensor, samples: int) -> Result:
        """Runs a clip [1, S] with this number of samples. Two threads must not call it at once."""
        self._done.wait()  # until the previous results are copied, on whatever stream that was
        self._waveform.zero_()
        self._waveform[:, : waveform.shape[1]] = waveform
        self._samples.fill_(samples)
        self._graph.replay()
        hidden, pooled, logits = self._result
        copies = hidden.clone(), pooled.clone(), None if logits is None else logits.clone()
        self._done.record()
        return copies

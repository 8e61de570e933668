"""Runs an exported model with ONNX Runtime, on a CPU or another of its providers."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime import InferenceSession, SessionOptions

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Output
from e2v_port.audio import Waveform
from e2v_port.errors import CheckpointError, E2VError, RuntimeUnavailable
from e2v_port.host import fork_safe_lock

from .layers_numpy import Array, Head, Readout
from .numpy_runtime import nested

__all__ = ["OnnxRuntime", "load"]

CPU = "CPUExecutionProvider"
# Longest batches: padding is wasted work, which keeps a CPU busy.
BATCH_SECONDS_CPU, BATCH_SECONDS = 8.0, 60.0


class OnnxRuntime:
    """One exported model on one provider, in float32. Several threads may call it at once."""

    readers = 0

    def __init__(self, weights: Path, config: ModelConfig, provider: str) -> None:
        self.config = config.architecture
        self.provider = provider
        self.batch_seconds = BATCH_SECONDS_CPU if provider == CPU else BATCH_SECONDS
        self._session = _session(weights, provider)
        self._process = os.getpid()
        self._lock = fork_safe_lock()
        self._head: Head | None = None
        self._readout: Readout | None = None
        if self.config.has_head:
            stored = nested(_head(weights.with_name("head.safetensors"), config).items())
            self._head = Head(stored["head"], self.config)
            if isinstance(self.config, Transformer):
                self._readout = Readout(stored.get("readout", {}), self.config)

    @property
    def at_once(self) -> int:
        """One batch has all threads; see `architectures.runtime.Runtime`."""
        return 1

    def pool(self) -> ThreadPoolExecutor:
        """Returns the thread of all models; see `architectures.runtime.Runtime`."""
        return _pool()

    def compile(self) -> bool:
        """Does nothing: loading has optimized the graph; see `architectures.runtime.Runtime`."""
        return False

    def run(self, batch: Waveform, samples: list[int], *, frames: bool) -> list[Output]:
        """Runs one batch; see `architectures.runtime.Runtime`."""
        if os.getpid() != self._process:
            raise RuntimeUnavailable(
                "this process was forked from the one that had loaded the model, and lacks the threads of ONNX "
                "Runtime: load the model in this process"
            )
        names = ["embedding", "lengths", *(["frames"] if frames else [])]
        feeds = {"waveform": batch, "samples": -np.array(samples, np.int64)}  # negative: they are normalized already
        if self.provider == CPU:
            found = self._session.run(names, feeds)
        else:
            with self._lock:  # DirectML runs one batch at a time
                found = self._session.run(names, feeds)
        embeddings, lengths = found[:2]
        rows = found[2] if frames else [None] * len(batch)
        return [self._output(*each) for each in zip(embeddings, rows, lengths.tolist(), strict=True)]

    def _output(self, embedding: Array, frames: Array | None, length: int) -> Output:
        if frames is not None:
            frames = frames[:length]
        if not self.config.num_labels:
            return Output(embedding, None, frames, None)
        judged = self._score_frames(frames) if frames is not None and self.config.judges_frames else None
        return Output(embedding, self.score(embedding), frames, judged)

    def _score_frames(self, frames: Array) -> Array:
        with np.errstate(all="ignore"):
            near = self._readout.local(frames) if self._readout else frames
        return self.score(near)

    def layers(self, batch: Waveform, samples: list[int]) -> list[NDArray[np.float32]]:
        """Raises E2VError: an exported model does not return the outputs of its blocks."""
        raise self._missing("the outputs of its blocks")

    def score(self, embedding: NDArray[np.float32], output: str = "") -> NDArray[np.float32]:
        """Applies the head; see `architectures.runtime.Runtime`."""
        assert self._head is not None
        with np.errstate(all="ignore"):  # whatever the host program has numpy do
            return self._head.others[output](embedding) if output else self._head(embedding)

    def stages(self, waveform: Waveform) -> dict[str, NDArray[np.float32]]:
        """Raises E2VError: an exported model does not return its stages."""
        raise self._missing("its stages")

    def _missing(self, what: str) -> E2VError:
        return E2VError(
            f"an exported model does not return {what}: use the model that it was made of, on another runtime"
        )


def _session(weights: Path, provider: str) -> Any:
    """Loads the file on a provider.

    Raises:
        CheckpointError: ONNX Runtime cannot load the file.
        RuntimeUnavailable: The provider does not start.
    """
    options = SessionOptions()
    options.intra_op_num_threads = _threads()
    if provider == "DmlExecutionProvider":  # it needs this
        options.enable_mem_pattern = False
    try:
        # Without its fallback, a provider that does not start would be replaced by the CPU.
        session = InferenceSession(weights, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # ONNX Runtime's exceptions have no common class
        reason = " ".join(str(error).split())
        if provider != CPU:
            raise RuntimeUnavailable(f"{provider} does not run {weights} ({reason}): use runtime='onnx'") from error
        raise CheckpointError(f"{weights} cannot be loaded ({reason}): export the model again") from error
    if provider not in session.get_providers():
        raise RuntimeUnavailable(
            f"ONNX Runtime cannot load what {provider} needs: see its warnings above, or use runtime='onnx'"
        )
    return session


def _threads() -> int:
    """Returns the number of threads that OMP_NUM_THREADS allows, which ONNX Runtime does not read; 0 for its own."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() else 0


def _head(file: Path, config: ModelConfig) -> dict[str, Array]:
    """Reads the head and what pools frames for it.

    Raises:
        CheckpointError: The file is missing, damaged or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): export the model again") from error
    wanted = {name: shape for name, shape in config.architecture.tensors().items() if name in found}
    if {name: array.shape for name, array in found.items()} != wanted or not any("head." in name for name in wanted):
        raise CheckpointError(f"{file} does not belong to this model: export the model again")
    return found


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "onnx")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of its parent's threads


def load(weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> OnnxRuntime:
    """Loads model.onnx of an exported folder on `device`, a provider of ONNX Runtime. All arithmetic is in float32."""
    return OnnxRuntime(weights, config, device)

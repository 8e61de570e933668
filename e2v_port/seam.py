"""The only place that reaches converters/ and runtimes/, which are mapped into the package from folders of their own.

Their modules import e2v_port, never the reverse. The names that e2v_port uses of them are listed here and imported on
first use, since most of them need torch. The type checker follows each name to its definition.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Runtime

if TYPE_CHECKING:
    from e2v_port.converters.checkpoint import extract
    from e2v_port.converters.folder import may_replace, placing, store
    from e2v_port.converters.published.empathic import emotions, file_of, join
    from e2v_port.converters.synthetic import make_checkpoint, sizes
    from e2v_port.converters.weights import write
    from e2v_port.runtimes import cuda_runtime, mlx_runtime, numpy_runtime, onnx_runtime, torch_runtime
    from e2v_port.runtimes.layers_torch import Head, Readout
    from e2v_port.runtimes.onnx_graph import write_onnx
    from e2v_port.runtimes.silero_onnx import write_vad
    from e2v_port.runtimes.wav2small_torch import Wav2small

    _LOADERS: "list[Loader]" = [
        cuda_runtime.load,
        mlx_runtime.load,
        torch_runtime.load,
        numpy_runtime.load,
        onnx_runtime.load,
    ]

__all__ = [
    "Head",
    "Loader",
    "Readout",
    "Wav2small",
    "emotions",
    "extract",
    "file_of",
    "join",
    "make_checkpoint",
    "may_replace",
    "placing",
    "runtime",
    "sizes",
    "store",
    "write",
    "write_onnx",
    "write_vad",
]

_HOME = {
    "Head": "runtimes.layers_torch",
    "Readout": "runtimes.layers_torch",
    "Wav2small": "runtimes.wav2small_torch",
    "emotions": "converters.published.empathic",
    "extract": "converters.checkpoint",
    "file_of": "converters.published.empathic",
    "join": "converters.published.empathic",
    "make_checkpoint": "converters.synthetic",
    "may_replace": "converters.folder",
    "placing": "converters.folder",
    "sizes": "converters.synthetic",
    "store": "converters.folder",
    "write": "converters.weights",
    "write_onnx": "runtimes.onnx_graph",
    "write_vad": "runtimes.silero_onnx",
}


class Loader(Protocol):
    """The `load` of each module in runtimes/ that runs models."""

    def __call__(self, weights: Path, config: ModelConfig, device: str, dtype: str | None = None) -> Runtime:
        """Loads a checked model.safetensors on a device; casts the weights to `dtype`, or keeps them as stored.

        For ONNX Runtime, the file is model.onnx of an export, and the device the name of a provider.
        """


def runtime(module: str) -> Loader:
    """Returns `load` of a module in runtimes/, e.g. `torch_runtime`."""
    found: Loader = import_module(f"e2v_port.runtimes.{module}").load
    return found


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"e2v_port.{_HOME[name]}"), name)

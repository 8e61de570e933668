"""Runtimes of this machine: which ones can run, and the dtype in which each is fastest."""

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

from e2v_port.architectures.config import DTYPES
from e2v_port.errors import RuntimeUnavailable, cut
from e2v_port.host import check_fork, limit_threads, own_settings

__all__ = [
    "PROVIDERS",
    "RUNTIMES",
    "Provider",
    "choose",
    "describe",
    "fastest_dtype",
    "free",
    "keeps_packed",
    "unavailable",
]

# Module of e2v_port.runtimes, by runtime.
RUNTIMES = {
    "cuda": "cuda_runtime",
    "mps": "torch_runtime",
    "mlx": "mlx_runtime",
    "cpu": "torch_runtime",
    "numpy": "numpy_runtime",
}


class Provider(NamedTuple):
    """What ONNX Runtime computes with.

    Attributes:
        provider: Its name there.
        remedy: How to get it.
    """

    provider: str
    remedy: str


# Runtimes for exported models, all of the module onnx_runtime.
PROVIDERS = {
    "onnx": Provider("CPUExecutionProvider", 'pip install "e2v-port[onnx]"'),
    "onnx:cuda": Provider("CUDAExecutionProvider", "pip uninstall onnxruntime, then pip install onnxruntime-gpu"),
    "onnx:coreml": Provider("CoreMLExecutionProvider", "pip install onnxruntime, on macOS"),
    "onnx:directml": Provider(
        "DmlExecutionProvider", "pip uninstall onnxruntime, then pip install onnxruntime-directml, on Windows"
    ),
}

APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"


def unavailable(runtime: str) -> str | None:
    """Returns why a runtime cannot run here, with a remedy; None if it can.

    Raises:
        RuntimeUnavailable: No runtime has this name.
    """
    if runtime in PROVIDERS:
        return _onnx(PROVIDERS[runtime])
    if runtime not in RUNTIMES:
        known = ", ".join(("auto", *RUNTIMES, *PROVIDERS))
        raise RuntimeUnavailable(f"unknown runtime {cut(str(runtime), 80)}: use {known}")
    if runtime == "numpy":
        return None
    return _mlx() if runtime == "mlx" else _torch(runtime)


def _onnx(found: Provider) -> str | None:
    if not _installed("onnxruntime"):
        return f"ONNX Runtime is not installed: {found.remedy}"
    try:
        here = import_module("onnxruntime").get_available_providers()
    except (ImportError, OSError) as error:
        return f"ONNX Runtime cannot be imported ({error}): {found.remedy}"
    return None if found.provider in here else f"this ONNX Runtime has no {found.provider}: {found.remedy}"


def _mlx() -> str | None:
    remedy = 'pip install "e2v-port[mlx-cpu]"' if sys.platform == "linux" else "pip install mlx"
    if not _installed("mlx"):
        return f"MLX is not installed: {remedy}"
    try:
        import_module("mlx.core")
    except (ImportError, OSError) as error:
        return f"MLX cannot be imported ({error}): {remedy}"
    return None


def _torch(device: str) -> str | None:
    if not _installed("torch"):
        return "torch is not installed: pip install \"e2v-port[torch]\", or use runtime='numpy'"
    if device == "cpu":
        return None
    if fault := _torch_fault():
        return fault
    import torch

    if device == "mps":
        if torch.backends.mps.is_available():
            return None
        return "torch finds no Metal device: mps needs macOS on Apple silicon, elsewhere use cuda or cpu"
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA: install a CUDA build of torch, or use runtime='cpu'"
    return "torch finds no NVIDIA device: check that nvidia-smi shows one, or use runtime='cpu'"


def _torch_fault() -> str | None:
    try:
        import_module("torch")
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({error}): pip install --force-reinstall torch, or use runtime='numpy'"
    return None


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ImportError:  # the host program keeps it from being imported
        return False


def describe(runtime: str) -> str:
    """Returns the device and library of an available runtime."""
    if runtime == "mlx":
        import mlx.core as mx

        return f"MLX {version('mlx')} on {mx.default_device().type.name}"
    if runtime in PROVIDERS:
        import onnxruntime

        return f"ONNX Runtime {onnxruntime.__version__} with {PROVIDERS[runtime].provider}, for exported models"
    if runtime == "numpy":
        return f"numpy {version('numpy')}, one clip at a time"
    import torch

    if runtime == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def keeps_packed(runtime: str) -> bool:
    """Returns whether an available runtime keeps packed weights packed in memory: MLX on a GPU does."""
    if runtime != "mlx":
        return False
    import mlx.core as mx

    return bool(mx.default_device().type != mx.DeviceType.cpu)


def free(runtime: str) -> None:
    """Returns the memory of freed arrays, which libraries keep for later ones on a GPU, to the device."""
    if runtime == "mlx":
        import mlx.core as mx

        mx.clear_cache()
    elif runtime in {"cuda", "mps"}:
        import torch

        (torch.cuda if runtime == "cuda" else torch.mps).empty_cache()


def choose(runtime: str, dtype: str | None = None) -> str:
    """Returns the runtime to use: `auto` selects CUDA, then MLX on Apple silicon, then torch's CPU, then numpy.

    Raises:
        RuntimeUnavailable: The runtime cannot run here, or the dtype is unknown; the message gives reason and remedy.
    """
    if dtype not in {None, "auto", *DTYPES}:
        raise RuntimeUnavailable(f"unknown dtype {cut(str(dtype), 80)}: use auto, {', '.join(DTYPES)}")
    if runtime == "auto":
        # MLX also runs elsewhere, but is faster than torch only on Apple silicon. On Linux its own BLAS is a slow one.
        order = ["cuda", "mlx", "cpu"] if APPLE_SILICON else ["cuda", "cpu"]
        for name in order:
            check_fork(name)  # not chosen away in silence
        found = (name for name in order if not (unavailable(name) or (name == "cpu" and _torch_fault())))
        runtime = next(found, "numpy")
    check_fork(runtime)
    if reason := unavailable(runtime):
        raise RuntimeUnavailable(f"runtime {runtime} is not available: {reason}")
    if runtime in {"numpy", *PROVIDERS} and dtype not in {None, "auto", "float32"}:
        raise RuntimeUnavailable(f"runtime {runtime} computes in float32 only, not in {dtype}: leave the dtype out")
    return runtime


@cache
def fastest_dtype(runtime: str) -> str:
    """Returns the dtype in which an available runtime is fastest.

    A GPU is fastest in 16 bits; a CPU is measured, in about 20 ms. CPUs with instructions for bfloat16 compute it
    several times faster than float32, those without many times slower.
    """
    if runtime in {"numpy", *PROVIDERS}:
        return "float32"
    if runtime == "mlx":
        import mlx.core as mx

        return "bfloat16" if mx.default_device() == mx.Device(mx.gpu) else "float32"
    import torch

    if runtime == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if runtime == "mps":
        return "bfloat16"

    def seconds(dtype: torch.dtype) -> float:
        with own_settings():
            rows, weights = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)  # a linear layer, 5 s
            torch.mm(rows[:8], weights)  # loads the kernels
            best = float("inf")
            for _ in range(5):
                start = time.perf_counter()
                torch.mm(rows, weights)
                best = min(best, time.perf_counter() - start)
            return best

    # On one thread: several would wait for the slowest, on a busy machine equally long in either type.
    with ThreadPoolExecutor(1, initializer=limit_threads, initargs=(1,)) as pool:
        narrow, wide = pool.map(seconds, (torch.bfloat16, torch.float32))
    # Outside of products, 16 bits cost more than they save: only a clear gain counts.
    return "bfloat16" if 1.5 * narrow < wide else "float32"

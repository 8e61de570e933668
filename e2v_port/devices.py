"""What this machine can run, and why not the rest."""

import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from threading import Thread

from e2v_port.config import DTYPES
from e2v_port.errors import RuntimeUnavailable

__all__ = ["RUNTIMES", "choose", "describe", "fastest_dtype", "limit_threads", "unavailable"]

# Each runtime and the module of e2v_port.runtimes that runs it.
RUNTIMES = {"cuda": "cuda_runtime", "mps": "torch_runtime", "mlx": "mlx_runtime", "cpu": "torch_runtime"}

APPLE_SILICON = sys.platform == "darwin" and platform.machine() == "arm64"


def unavailable(runtime: str) -> str | None:
    """Returns why a runtime cannot run here and what to do about it; None if it can.

    Raises:
        RuntimeUnavailable: There is no runtime of this name.
    """
    if runtime not in RUNTIMES:
        raise RuntimeUnavailable(f"no runtime is called {runtime}: use auto, {', '.join(RUNTIMES)}")
    return _mlx() if runtime == "mlx" else _torch(runtime)


def _mlx() -> str | None:
    remedy = 'pip install "e2v-port[mlx-cpu]"' if sys.platform == "linux" else "pip install mlx"
    if find_spec("mlx") is None:
        return f"MLX is not installed: {remedy}"
    try:
        import_module("mlx.core")
    except (ImportError, OSError) as error:
        return f"MLX cannot be imported ({error}): {remedy}"
    return None


def _torch(device: str) -> str | None:
    if find_spec("torch") is None:
        return "torch is not installed: pip install torch"
    if device == "cpu":
        return None
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({error}): pip install --force-reinstall torch"
    if device == "mps":
        if torch.backends.mps.is_available():
            return None
        return "torch finds no Metal device: mps needs macOS on Apple silicon, elsewhere use cuda or cpu"
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return "this torch was built without CUDA: install a CUDA build of torch, or use runtime='cpu'"
    return "torch finds no NVIDIA device: check that nvidia-smi shows one, or use runtime='cpu'"


def describe(runtime: str) -> str:
    """Returns what an available runtime runs on: device and library."""
    if runtime == "mlx":
        import mlx.core as mx

        return f"MLX {version('mlx')} on {mx.default_device().type.name}"
    import torch

    if runtime == "cuda":
        return f"torch {torch.__version__} on {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, {torch.get_num_threads()} threads"


def choose(runtime: str, dtype: str | None = None) -> str:
    """Returns the runtime to use: `auto` takes CUDA, then MLX on Apple silicon, then the CPU.

    Raises:
        RuntimeUnavailable: The one asked for cannot run here, or not in such a dtype; the reason and the remedy are
            told.
    """
    if dtype not in {None, "auto", *DTYPES}:
        raise RuntimeUnavailable(f"no dtype is called {dtype}: use auto, {', '.join(DTYPES)}")
    if runtime == "auto":
        # MLX runs elsewhere too, but only Apple silicon makes it faster than torch.
        order = ["cuda", "mlx", "cpu"] if APPLE_SILICON else ["cuda", "cpu"]
        runtime = next((name for name in order if unavailable(name) is None), "cpu")
    if reason := unavailable(runtime):
        raise RuntimeUnavailable(f"runtime {runtime} is not available: {reason}")
    return runtime


def limit_threads(own: int, rest: int) -> None:
    """Lets the calling thread compute with `own` threads of torch, and all threads that are yet to come with `rest`.

    torch keeps the number for each thread, and the one told last for those that have not computed yet.
    """
    import torch

    torch.get_num_threads()  # or the first product would take the number for new threads
    torch.set_num_threads(own)
    other = Thread(target=torch.set_num_threads, args=(rest,))
    other.start()
    other.join()


@cache
def fastest_dtype(runtime: str) -> str:
    """Returns the dtype in which an available runtime is fastest: a GPU in bfloat16; a CPU is asked, in about 20 ms.

    CPUs without instructions for bfloat16 compute it many times slower than float32, with them several times faster.
    """
    if runtime == "mlx":
        import mlx.core as mx

        return "bfloat16" if mx.default_device() == mx.Device(mx.gpu) else "float32"
    import torch

    if runtime == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if runtime == "mps":
        return "bfloat16"

    def seconds(dtype: torch.dtype) -> float:
        rows, weights = torch.ones(256, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)  # a linear layer, 5 s
        torch.mm(rows[:8], weights)  # loads the kernels
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            torch.mm(rows, weights)
            best = min(best, time.perf_counter() - start)
        return best

    # On one thread: several wait for the last of them, and so, on a busy machine, as long in one type as in another.
    with ThreadPoolExecutor(1, initializer=limit_threads, initargs=(1, torch.get_num_threads())) as pool:
        narrow, wide = pool.map(seconds, (torch.bfloat16, torch.float32))
    # Around the products, 16 bits cost more than they save: only a clear gain counts.
    return "bfloat16" if 1.5 * narrow < wide else "float32"

"""The machine a benchmark runs on."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from e2v_port.models import devices

__all__ = ["describe", "memory_bytes"]


def describe(runtime: str) -> dict[str, Any]:
    """Returns the system, the processor, the memory, the device, the number of threads and the library versions."""
    import torch

    processor = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    versions = {"Python": platform.python_version()}
    for name in ("e2v-port", "torch", "mlx", "funasr", "funasr-mlx", "transformers", "numpy", "onnxruntime"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "device": devices.describe(runtime),
        "threads": torch.get_num_threads(),  # of every contender
        "versions": versions,
    }


def memory_bytes() -> int:
    """Returns the physical memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")

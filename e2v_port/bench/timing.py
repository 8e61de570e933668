"""Timing: alternating tasks, medians, the peak of the machine's arithmetic, the time in each module."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from e2v_port.models.model import Model

__all__ = ["peak", "ratio", "take_turns", "timed_modules"]

_CONVOLUTIONS = {"conv_layers": "convolutions", "layers": "convolutions", "positions": "positions"}


def ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns how many times as fast the first task is as the second, from the medians of their times."""
    return statistics.median(second) / statistics.median(first)


def take_turns(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Runs all tasks in turn, reversing the order each round, and returns the seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for i in range(repeats):
        for name in list(tasks)[:: -1 if i % 2 else 1]:
            start = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def peak(runtime: str, dtype: str) -> float:
    """Returns the highest rate of operations per second that products of square matrices of several sizes reach."""
    sizes = (1024, 2048, 4096, 8192) if _on_gpu(runtime) else (512, 1024, 2048)
    best = 0.0
    for size in sizes:
        multiply = _product(runtime, dtype, size)
        multiply()
        spent = 0.0
        while spent < 0.3:
            start = time.perf_counter()
            multiply()
            took = time.perf_counter() - start
            spent += took
            best = max(best, 2 * size**3 / took)
    return best


def _on_gpu(runtime: str) -> bool:
    if runtime == "mlx":
        import mlx.core as mx

        return bool(mx.default_device().type == mx.DeviceType.gpu)
    return runtime in {"cuda", "mps"}


def _product(runtime: str, dtype: str, size: int) -> Callable[[], object]:
    """Returns a function that multiplies two matrices and waits for the product."""
    if runtime in {"numpy", "onnx"}:
        one, other = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
        return lambda: one @ other
    if runtime == "mlx":
        import mlx.core as mx

        left, right = (mx.random.normal((size, size)).astype(getattr(mx, dtype)) for _ in range(2))
        mx.eval(left, right)
        return lambda: mx.eval(left @ right)
    import torch

    a, b = (torch.randn(size, size, device=runtime).to(getattr(torch, dtype)) for _ in range(2))
    # In float32, torch itself multiplies with MKL, which reaches half of what oneDNN does on an AMD CPU with AVX-512.
    packs = runtime == "cpu" and dtype == "float32" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    operations: Any = torch.ops.mkldnn
    packed = operations._reorder_linear_weight(b, size) if packs else b

    def multiply() -> None:
        with torch.inference_mode():
            if packs:
                operations._linear_pointwise(a, packed, None, "none", [], "none")
            else:
                torch.mm(a, b)
        _wait(runtime)

    return multiply


def _wait(runtime: str) -> None:
    """Waits until a GPU has finished its queue; on other devices a call returns when its work is done."""
    if runtime in {"cuda", "mps"}:
        import torch

        (torch.cuda if runtime == "cuda" else torch.mps).synchronize()


@contextmanager
def timed_modules(model: Model, runtime: str) -> Iterator[dict[str, float]]:
    """Adds up the seconds spent in the modules of each part, waiting for the device before and after each."""
    runner: Any = model._runner
    network = runner.model
    runner.plain = True  # on CUDA; other runtimes have no other way
    parts = {"convolutions": 0.0, "positions": 0.0, "attention": 0.0, "MLP": 0.0}
    starts: list[float] = []
    handles = []

    def before(*_: Any) -> None:
        _wait(runtime)
        starts.append(time.perf_counter())

    for name, module in network.named_modules():
        first, _, last = name.rpartition(".")
        part = {"attn": "attention", "mlp": "MLP"}.get(last)
        if last.isdigit() or (first == "" and not list(module.children())):
            part = _CONVOLUTIONS.get(first or last)
        if part is None:
            continue

        def after(*_: Any, part: str = part) -> None:
            _wait(runtime)
            parts[part] += time.perf_counter() - starts.pop()

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield parts
    finally:
        runner.plain = False
        for handle in handles:
            handle.remove()

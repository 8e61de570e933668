"""Computes inside a host program: own settings and threads of torch, and locks, in processes that it forks as well."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from threading import Lock
from typing import Any

from e2v_port.errors import RuntimeUnavailable

__all__ = ["check_fork", "fork_safe_lock", "limit_threads", "limited", "own_settings"]


def fork_safe_lock() -> Lock:
    """Returns a lock that a forked process finds open, even if a thread of its parent held it."""
    lock = Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]  # as in the standard library
    return lock


_limiting = fork_safe_lock()


def limit_threads(number: int) -> None:
    """Limits the calling thread to a number of torch threads. Other threads, running or yet to start, keep theirs.

    torch holds the number per thread; one that has not computed yet takes the number that was set last in any thread.
    So that number is put back, by a thread that had it. Where nothing has imported torch, there is nothing to limit.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return
    torch.get_num_threads()  # otherwise the first product of this thread would replace its number by the last one set
    with _limiting, ThreadPoolExecutor(1) as fresh:
        last = fresh.submit(torch.get_num_threads).result()
        torch.set_num_threads(number)
        fresh.submit(torch.set_num_threads, last).result()


@contextmanager
def limited(number: int | None) -> Iterator[int]:
    """Limits the calling thread to a number of torch threads until the block ends, and yields that number.

    Args:
        number: Number of threads; None leaves it as it is.
    """
    import torch

    with _limiting:  # a thread that has not computed yet would take the number that another one is just setting
        before = torch.get_num_threads()
    if number is not None:
        limit_threads(number)
    try:
        yield torch.get_num_threads()
    finally:
        if number is not None:
            limit_threads(before)


_inherited: set[str] = set()  # libraries that the parent had imported when this process was forked


def _forked() -> None:
    _inherited.update({"torch", "mlx.core"} & set(sys.modules))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def check_fork(device: str) -> None:
    """Refuses devices whose threads a forked process lacks, where a computation would hang forever.

    Args:
        device: `cpu`, `cuda` or `mps` of torch, `mlx` or `numpy`.

    Raises:
        RuntimeUnavailable: This process was forked from one that had used the device.
    """
    if device == "mlx":
        used = "mlx.core" in _inherited
    elif device == "cuda":
        used = "torch" in _inherited and sys.modules["torch"].cuda._is_in_bad_fork()
    else:
        used = device == "mps" and "torch" in _inherited
    if used:
        name = {"mlx": "MLX", "cuda": "CUDA", "mps": "Metal"}[device]
        raise RuntimeUnavailable(
            f"this process was forked from one that had loaded {name}, and lacks its threads: "
            f'start it with multiprocessing.get_context("spawn") or "forkserver", or use runtime=\'cpu\''
        )


@contextmanager
def own_settings(device: str = "cpu", *, inference: bool = True) -> Iterator[None]:
    """Makes the numbers computed in this block independent of what the host program has set. All of torch goes through.

    Autocast, gradients, inference mode, the default device and the default dtype are replaced in this thread only. The
    precision of products, oneDNN and the kernels of attention belong to the process: while blocks run, and only where
    the host has changed them, other threads see them at full precision; after the last block they are as before.
    Resources stay the host's decision: the number of threads, and deterministic algorithms. Only a forked process
    computes on one thread if its parent had imported torch: it lacks the others, for which it would wait forever.

    Args:
        device: Device type of the computation, `cpu`, `cuda` or `mps`.
        inference: Whether the block is in inference mode; otherwise it can compute gradients.

    Raises:
        RuntimeUnavailable: See `check_fork`.
    """
    import torch

    check_fork(device)
    with ExitStack() as stack:
        if "torch" in _inherited:
            stack.enter_context(limited(1))
        for kind in {"cpu", device}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.inference_mode(inference))
        if not inference:
            stack.enter_context(torch.enable_grad())
        if torch.get_default_dtype() != torch.float32 or torch.get_default_device().type != "cpu":
            stack.enter_context(_factories()())
        _shared.take(device)
        stack.callback(_shared.give_back)
        yield


@cache
def _factories() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode

    floats = {torch.empty, torch.zeros, torch.ones}  # layers are made of them; all else names its dtype

    class Factories(TorchFunctionMode):
        """Gives new tensors the dtype and the device of a host that has set neither, in this thread."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = dict(kwargs or {})
            if func in floats and kwargs.get("dtype") is None:
                kwargs["dtype"] = torch.float32
            return func(*args, **kwargs)

    @contextmanager
    def entered() -> Iterator[None]:
        with torch.device("cpu"), Factories():
            yield

    return entered


class _Shared:
    """Settings of the whole process, as this package needs them while any thread computes."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._blocks = 0
        self._before: dict[str, Any] = {}

    def take(self, device: str) -> None:
        """Counts a block, and changes what the host has set otherwise, also since the last block began."""
        with self._lock:
            self._blocks += 1
            now = {name: get() for name, (get, _, _) in _settings().items()}
            foreign = {name: value for name, value in now.items() if value not in _settings()[name][2]}
            self._before = now | self._before | foreign if foreign or self._before else {}
            for name in foreign:
                if device == "cuda" or not name.startswith("cuda"):
                    _, put, good = _settings()[name]
                    put(good[0])

    def give_back(self) -> None:
        """Counts a block off; after the last one, restores what the host has not changed again meanwhile."""
        with self._lock:
            self._blocks -= 1
            if self._blocks == 0:
                kept = [name for name in self._before if _settings()[name][0]() in _settings()[name][2]]
                for name in kept:
                    get, put, _ = _settings()[name]
                    if get() != self._before[name]:
                        put(self._before[name])
                self._before = {}


_shared = _Shared()


@cache
def _settings() -> dict[str, tuple[Callable[[], Any], Callable[[Any], None], tuple[Any, ...]]]:
    """Returns getter, setter and good values, the best first, of each setting of the process that changes numbers."""
    import torch
    from torch import backends

    found: dict[str, tuple[Callable[[], Any], Callable[[Any], None], tuple[Any, ...]]] = {}

    def add(name: str, place: Any, *good: Any) -> None:
        attribute = name.rpartition(" ")[2]
        if hasattr(place, attribute):  # depends on the version of torch
            found[name] = (lambda: getattr(place, attribute)), (lambda value: setattr(place, attribute, value)), good

    def older(name: str, get: Callable[[], Any], put: Callable[[Any], None], good: Any) -> None:
        def known() -> Any:
            try:
                return get()
            except RuntimeError:  # the host uses the newer names
                return good

        found[name] = known, put, (good,)

    add("mkldnn enabled", backends.mkldnn, True)
    # Two generations of names for the same settings. Where the host uses the older ones, so does this: torch raises
    # when it reads them while the newer ones disagree.
    older("matmul", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest")
    cudnn = backends.cudnn
    older("cuda tf32", lambda: cudnn.allow_tf32, lambda value: setattr(cudnn, "allow_tf32", value), False)
    for kind in ("matmul", "conv", "rnn"):
        newer = backends.cuda.matmul if kind == "matmul" else getattr(cudnn, kind, None)
        add(f"mkldnn {kind} fp32_precision", getattr(backends.mkldnn, kind, None), "ieee", "none")
        add(f"cuda {kind} fp32_precision", newer, "ieee", "none")
    add("cuda matmul allow_fp16_accumulation", backends.cuda.matmul, False)
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        get, put = getattr(backends.cuda, f"{kernel}_sdp_enabled"), getattr(backends.cuda, f"enable_{kernel}_sdp")
        found[f"attention {kernel}"] = get, put, (True,)
    return found

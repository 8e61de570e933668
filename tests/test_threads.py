"""Limits on torch's threads hold for one thread and leave all others alone; threads end without harm."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import toys

from e2v_port.host import limited


def in_new_thread(call: Callable[[], int]) -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def usual() -> int:
    """The number of threads of this thread and of new ones; two, so that a limit of one is a change."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_a_limit_is_lifted_at_the_end(usual: int) -> None:
    with limited(1) as number:
        assert number == torch.get_num_threads() == 1
    assert torch.get_num_threads() == usual
    with limited(None) as number:
        assert number == torch.get_num_threads() == usual


def test_threads_that_start_inside_a_limit_are_not_limited(usual: int) -> None:
    with limited(1):
        assert in_new_thread(torch.get_num_threads) == usual
    assert in_new_thread(torch.get_num_threads) == usual


def test_overlapping_limits_of_two_threads_leave_nothing_behind(usual: int) -> None:
    """The second thread enters after the first one and leaves after it."""
    entered, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def second() -> None:
        seen.append(torch.get_num_threads())
        with limited(3) as number:
            seen.append(number)
            entered.set()
            leave.wait()
        seen.append(torch.get_num_threads())

    with limited(1):
        thread = threading.Thread(target=second)
        thread.start()
        entered.wait()
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == usual
    leave.set()
    thread.join()
    assert seen == [usual, 3, usual]
    assert in_new_thread(torch.get_num_threads) == usual


def test_many_threads_at_once(usual: int) -> None:
    start = threading.Barrier(8)

    def limit(number: int) -> tuple[int, int]:
        start.wait()
        for _ in range(20):
            with limited(number) as inside:
                assert inside == torch.get_num_threads() == number
        return inside, torch.get_num_threads()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(limit, range(1, 9))) == [(number, usual) for number in range(1, 9)]
    assert (torch.get_num_threads(), in_new_thread(torch.get_num_threads)) == (usual, usual)


@toys.needs_mlx
def test_a_thread_that_computed_with_mlx_ends_in_peace() -> None:
    """Unless streams are cleared, MLX 0.32 aborts more than a quarter of such programs."""
    script = """if True:
        import threading
        import numpy as np
        import e2v_port

        def work():
            tone = np.sin(np.arange(16_000) / 9).astype(np.float32)
            e2v_port.load("bundled-tiny", runtime="mlx").embed(tone, 16_000)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    """
    for _ in range(8):
        done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")

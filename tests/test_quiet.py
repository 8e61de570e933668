"""Silence in one thread, and nothing left of it afterwards."""

import io
import logging
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, redirect_stdout
from itertools import permutations
from random import Random

import pytest

from e2v_port.quiet import quiet


def state() -> tuple[object, ...]:
    handlers = [*logging.root.handlers, logging.lastResort]
    return (sys.stdout, sys.stderr, [*warnings.filters], [handler and [*handler.filters] for handler in handlers])


def test_a_silenced_thread_is_dropped_and_others_are_not(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    silent, done = threading.Event(), threading.Event()

    def other() -> None:
        silent.wait(60)
        print("heard")
        logging.getLogger("some.library").warning("heard")
        done.set()

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(other)
        with quiet():
            silent.set()
            print("dropped")
            print("dropped", file=sys.stderr)
            logging.getLogger("some.library").warning("dropped")
            warnings.warn("dropped", UserWarning, stacklevel=1)  # an error in this suite, unless it is dropped
            assert done.wait(60)
        result.result()
    assert capsys.readouterr() == ("heard\n", "")
    assert caplog.messages == ["heard"]


def test_a_warning_of_another_thread_is_still_one() -> None:
    def warn() -> None:
        warnings.warn("heard", UserWarning, stacklevel=1)

    with ThreadPoolExecutor(1) as pool, quiet():
        future = pool.submit(warn)
        with pytest.raises(UserWarning, match="heard"):
            future.result()


def test_a_stream_that_another_thread_redirects_meanwhile_is_never_left_closed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two threads redirect and silence in every order in which their blocks can begin and end."""
    original = sys.stdout
    for order in set(permutations(["redirect", "silence"] * 4)):  # each begins, ends, begins and ends
        running: dict[str, ExitStack] = {}
        for step in order:
            if step in running:
                running.pop(step).close()
                continue
            running[step] = stack = ExitStack()
            if step == "redirect":
                stack.enter_context(redirect_stdout(stack.enter_context(closing(io.StringIO()))))
            else:
                stack.enter_context(quiet())
        print("heard")
        assert "heard" in capsys.readouterr().out, order
        with quiet():
            pass
        print("heard")
        assert capsys.readouterr().out == "heard\n", order
        assert sys.stdout is original, order


def test_everything_is_restored_from_any_number_of_threads() -> None:
    before = state()

    def overlap(seed: int) -> None:
        draw = Random(seed)
        for _ in range(50):
            with quiet():
                if draw.random() < 0.5:
                    with quiet(progress=True):
                        print("dropped")
                if draw.random() < 0.1:
                    with pytest.raises(RuntimeError), quiet():
                        raise RuntimeError

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(overlap, range(8)))
    assert state() == before


def test_a_stream_that_the_host_replaced_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back by pytest
    mine = io.StringIO()
    with quiet():
        sys.stdout = mine
    assert sys.stdout is mine


def test_progress_passes_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quiet(progress=True):
        print("dropped", file=sys.stderr)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with quiet(progress=True):
        print("bar", file=sys.stderr)
        print("dropped")
    assert capsys.readouterr() == ("", "bar\n")

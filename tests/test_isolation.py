"""Clips that hang, crash or take too long stop alone: by a time limit between steps, or in a process of their own."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import e2v_port
from e2v_port.analysis.analyze import each as each_here
from e2v_port.analysis.results import Analysis
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import AudioError, E2VError, ModelNotFound, NoLabels, SegmentError
from e2v_port.isolation.run import each
from e2v_port.speech.segment import GivenSegment

ROOT = Path(__file__).parents[1]
SPEECH = ROOT / "benchmarks" / "speech"
CLIPS = [str(SPEECH / f"{name}.flac") for name in ("calm", "low")]
FAST: dict[str, Any] = {"model": "bundled-tiny", "runtime": "numpy"}

posix = pytest.mark.skipif(os.name != "posix", reason="named pipes and signals")


class Crash(str):
    """A path that kills the process that unpickles it, as a fault in a native library does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"__import__('os').kill(__import__('os').getpid(), {int(signal.SIGSEGV)})",)


def numbers(found: Analysis | AudioError) -> dict[str, Any]:
    assert isinstance(found, Analysis)
    return {name: value for name, value in found.to_dict().items() if name != "timings"}


def workers() -> list[int]:
    """The processes that this one has started for clips."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and "isolation.worker" in args]


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Path]:
    """A named pipe into which nobody writes: whoever opens it waits for ever."""
    path = tmp_path / "never.wav"
    os.mkfifo(path)
    yield path
    with_writer = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # lets go of whoever still waits
    os.close(with_writer)


@pytest.fixture
def long(tmp_path: Path) -> str:
    """Speech of four minutes."""
    speech = np.concatenate([load_audio(path) for path in sorted(SPEECH.glob("*.flac"))])
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(speech, 240 * SAMPLING_RATE // len(speech)), SAMPLING_RATE)
    return str(path)


def test_an_isolated_analysis_is_the_same() -> None:
    here = [numbers(found) for found in each_here([*CLIPS, load_audio(CLIPS[0])], sampling_rate=SAMPLING_RATE, **FAST)]
    options: dict[str, Any] = {"sampling_rate": SAMPLING_RATE, "frames": False, **FAST}
    isolated = [numbers(found) for found in each([*CLIPS, load_audio(CLIPS[0])], timeout=60, **options)]
    assert isolated == here
    assert workers() == []


@posix
def test_a_clip_that_hangs_is_stopped_and_the_next_is_analyzed(pipe: Path) -> None:
    began = time.monotonic()
    found = list(each([CLIPS[0], str(pipe), CLIPS[1]], timeout=3, **FAST))
    assert str(found[1]) == f"{pipe}: stopped at the time limit of 3 s"
    assert 3 <= time.monotonic() - began < 60
    assert [numbers(found[i]) for i in (0, 2)] == [numbers(each_) for each_ in each_here(CLIPS, **FAST)]
    assert workers() == []


class Odd(str):
    """A path that fails in the process that gets it, once it is opened there, with an error that no code expects."""

    def __reduce__(self) -> tuple[Any, ...]:
        body = "lambda self: [setattr(self, 'asked', self.asked + 1), 'odd.wav' if self.asked < 3 else 1 / 0][1]"
        return eval, (f"type('Odd', (), {{'asked': 0, '__fspath__': {body}}})()",)


def test_an_error_that_nobody_expects_costs_one_clip() -> None:
    found = list(each([CLIPS[0], Odd("odd.wav"), CLIPS[1]], **FAST))
    assert str(found[1]) == "odd.wav: ZeroDivisionError: division by zero"
    assert [type(each_) for each_ in found] == [Analysis, AudioError, Analysis]


def test_segments_of_the_one_clip_go_along() -> None:
    options: dict[str, Any] = {"segments": [GivenSegment(0.2, 1.8, text="hello")], **FAST}
    [isolated], [here] = each(CLIPS[:1], **options), each_here(CLIPS[:1], **options)
    assert numbers(isolated) == numbers(here)
    with pytest.raises(ValueError, match="belong to one clip, not to 2"):
        each(CLIPS, **options)
    with pytest.raises(SegmentError, match="600"):
        list(each(CLIPS[:1], segments=[GivenSegment(1, 600)], **FAST))


@posix
def test_a_clip_that_crashes_its_process_is_one_line() -> None:
    found = list(each([Crash("crash.wav"), CLIPS[0]], retries=3, **FAST))
    assert str(found[0]) == "crash.wav: its process died of SIGSEGV"
    assert isinstance(found[1], Analysis)


def killing(pipe: Path, then: bytes | None = None) -> threading.Thread:
    """Kills the process that opens the pipe, as a system without memory does; then writes into it, if asked."""

    def kill() -> None:
        with pipe.open("wb"):  # waits for a reader
            [reader] = workers()
            os.kill(reader, signal.SIGKILL)
            while reader in workers():
                time.sleep(0.05)
        if then is not None:
            with pipe.open("wb") as file:
                file.write(then)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@posix
def test_what_is_killed_from_outside_is_tried_again(pipe: Path, caplog: pytest.LogCaptureFixture) -> None:
    thread = killing(pipe, then=Path(CLIPS[0]).read_bytes())
    with caplog.at_level(logging.WARNING, "e2v_port.isolation"):
        [found] = each([str(pipe)], retries=1, timeout=60, **FAST)
    thread.join(60)
    assert isinstance(found, Analysis)
    assert found.segments
    assert "never.wav: its process died of SIGKILL (out of memory, most likely); trying it again" in caplog.text


@posix
def test_without_retries_it_is_the_error_of_the_clip(pipe: Path) -> None:
    thread = killing(pipe)
    [found] = each([str(pipe)], timeout=60, **FAST)
    thread.join(60)
    assert str(found) == f"{pipe}: its process died of SIGKILL (out of memory, most likely)"
    assert type(found) is AudioError


def test_errors_of_options_come_before_any_clip() -> None:
    with pytest.raises(ModelNotFound, match="not a known model"):
        each(CLIPS, model="nobody/knows", runtime="numpy")
    with pytest.raises(NoLabels, match="has no label 'bored'"):
        each(CLIPS, labels="bored,sad", **FAST)
    with pytest.raises(ValueError, match="belongs to words="):
        each(CLIPS, language="en", **FAST)
    with pytest.raises(TypeError, match="a loaded model stays in its process"):
        each(CLIPS, model=e2v_port.load("bundled-tiny", runtime="numpy"))
    with pytest.raises(ValueError, match="retries must be a whole number"):
        each(CLIPS, retries=-1, **FAST)
    with pytest.raises(ValueError, match="timeout must be"):
        each(CLIPS, timeout=-1, **FAST)
    with pytest.raises(E2VError, match=r"^\[Errno 20\] Not a directory: .*calm.flac/cache'"):
        each(CLIPS, cache=SPEECH / "calm.flac" / "cache", **FAST)
    with (SPEECH / "calm.flac").open("rb") as file, pytest.raises(TypeError, match="a clip cannot be sent"):
        next(each([file], **FAST))
    assert workers() == []


def test_a_process_that_cannot_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # no interpreter can start with it
    with pytest.raises(E2VError, match=r"no process for the clips: its process ended with status 1; run .*worker"):
        each(CLIPS, **FAST)


def test_a_time_limit_between_steps_stops_a_long_clip_alone(long: str) -> None:
    """The long one takes seconds; the short ones take less, each for itself."""
    [whole] = each_here([long], **FAST)
    assert isinstance(whole, Analysis)
    spent = sum(whole.timings.values())
    found = list(each_here([CLIPS[0], long, CLIPS[1]], timeout=spent / 3, **FAST))
    assert "long.wav: over the time limit of" in str(found[1])
    assert ": stopped after" in str(found[1])
    expected = list(each_here(CLIPS, **FAST))
    for one, other in zip((found[0], found[2]), expected, strict=True):
        assert isinstance(one, Analysis)
        assert isinstance(other, Analysis)
        pairs = zip(one.segments, other.segments, strict=True)
        assert all(a.emotion == b.emotion and a.confidence == pytest.approx(b.confidence, abs=2e-5) for a, b in pairs)


def test_a_clip_stopped_while_it_is_decoded_is_named_once(long: str) -> None:
    [found] = each_here([long], timeout=1e-6, **FAST)
    assert str(found).startswith(f"{long}: over the time limit of 1e-06 s: stopped after ")
    assert str(found).endswith(" s, while it was decoded")


def test_the_models_stop_a_long_clip_in_its_middle(long: str) -> None:
    """Not once all of it is judged: that takes as long as without a limit."""
    model = e2v_port.load("bundled", runtime="numpy")
    judged = 0.0
    run = model._runner.run

    def counted(batch: Any, samples: list[int], **options: Any) -> Any:
        nonlocal judged
        judged += sum(samples) / SAMPLING_RATE
        time.sleep(0.2)
        return run(batch, samples, **options)

    model._runner.run = counted  # type: ignore[method-assign]
    [found] = each_here([long], model=model, timeout=0.001 + fixed_cost(long))
    assert isinstance(found, AudioError)
    assert "by the models" in str(found)
    assert 0 < judged < 200


def fixed_cost(clip: str) -> float:
    """Seconds for a clip before the models, on this machine as busy as it is now, with some to spare."""
    [found] = each_here([clip], model="bundled-tiny", runtime="numpy")
    assert isinstance(found, Analysis)
    return 3 * (found.timings["decode"] + found.timings["speech"])


@pytest.mark.parametrize("timeout", [None, 0, 600])
def test_no_limit_and_one_that_is_not_reached_change_nothing(timeout: float | None) -> None:
    plain = [numbers(found) for found in each_here(CLIPS, **FAST)]
    assert [numbers(found) for found in each_here(CLIPS, timeout=timeout, **FAST)] == plain


@posix
def test_the_command_line_goes_on_and_exits_with_1(pipe: Path) -> None:
    command = [sys.executable, "-m", "e2v_port", "analyze", CLIPS[0], str(pipe), CLIPS[1], "--json"]
    options = ["-m", "bundled-tiny", "-r", "numpy", "--isolate", "--timeout", "3"]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr == f"error: {pipe}: stopped at the time limit of 3 s\n"
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["file"] for row in rows] == [CLIPS[0], str(pipe), CLIPS[1]]
    assert [*rows[1]] == ["file", "error"]


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    def refused(*options: str) -> str:
        command = [sys.executable, "-m", "e2v_port", "analyze", CLIPS[0], *options]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        return done.stderr

    assert "--retries belongs to --isolate" in refused("--retries", "2")
    assert "--isolate and --plot contradict" in refused("--isolate", "--plot", str(tmp_path / "a.png"))

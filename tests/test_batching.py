"""Clips of several requests in one batch: which of them wait, and how one affects the others."""

import math
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import e2v_port
from e2v_port.errors import E2VError
from e2v_port.service.batching import WAIT, BatchedModel, Batcher, Job, Stopped


class Slow:
    """The runtime of a real model that can be held up, and that fails for a clip of 16 001 samples."""

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.batch_seconds = runtime.batch_seconds
        self.at_once, self.readers = 1, 0
        self.going = threading.Event()
        self.started = threading.Event()
        self.going.set()
        self.batches: list[list[int]] = []

    def run(self, batch: np.ndarray, samples: list[int], *, frames: bool) -> Any:
        self.started.set()
        self.going.wait()
        self.batches.append(samples)
        outputs = self.runtime.run(batch, samples, frames=frames)
        for output, length in zip(outputs, samples, strict=True):
            if length == 16_001:
                output.embedding[:] = np.nan
        return outputs

    def pool(self) -> Any:
        return self.runtime.pool()

    def compile(self) -> bool:
        return False

    def score(self, embedding: np.ndarray) -> np.ndarray:
        return self.runtime.score(embedding)


@pytest.fixture
def slow() -> Slow:
    return Slow(e2v_port.load("bundled-tiny", runtime="cpu")._runner)


@pytest.fixture
def batcher(slow: Slow) -> Iterator[Batcher]:
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    yield Batcher(
        e2v_port.Model(model.config, model.runtime, model.dtype, slow), lambda: 1, lambda clips, seconds: None
    )
    slow.going.set()


def wait_for(batcher: Batcher, calls: int) -> None:
    """Waits until calls are queued while a batch runs."""
    until = time.monotonic() + 60
    while len(batcher._calls) != calls:
        assert time.monotonic() < until
        time.sleep(0.001)


def clip(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def test_waiting_clips_run_as_one_batch_with_the_same_results(batcher: Batcher, slow: Slow) -> None:
    clips = [clip(16_000 + 100 * i, i) for i in range(2, 8)]
    wanted = e2v_port.load("bundled-tiny", runtime="cpu").predict(clips, 16_000)
    slow.going.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(BatchedModel(batcher, Job()).predict, clip(16_000), 16_000)
        slow.started.wait(60)
        found = [pool.submit(BatchedModel(batcher, Job()).predict, each, 16_000) for each in clips]
        wait_for(batcher, 6)
        slow.going.set()
        first.result()
        for one, other in zip(found, wanted, strict=True):
            assert one.result().label == other.label
            assert one.result().scores == pytest.approx(other.scores, abs=2e-5)
    assert [len(batch) for batch in slow.batches] == [1, 6]


def test_a_bad_clip_fails_alone(batcher: Batcher, slow: Slow) -> None:
    slow.going.clear()
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(BatchedModel(batcher, Job()).predict, clip(16_000), 16_000)
        slow.started.wait(60)
        found = [pool.submit(BatchedModel(batcher, Job()).predict, clip(16_001 + i), 16_000) for i in range(6)]
        wait_for(batcher, 6)
        slow.going.set()
        first.result()
        with pytest.raises(E2VError, match="not finite"):
            found[0].result()
        assert all(each.result().label for each in found[1:])


def test_a_long_recording_delays_no_other_request(batcher: Batcher, slow: Slow) -> None:
    many = [clip(11 * 16_000, i) for i in range(40)]
    slow.going.clear()
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(BatchedModel(batcher, Job()).predict, many, 16_000)
        slow.started.wait(60)
        short = pool.submit(BatchedModel(batcher, Job()).predict, clip(32_000), 16_000)
        wait_for(batcher, 2)
        slow.going.set()
        short.result()
        long.result()
    place = next(i for i, batch in enumerate(slow.batches) if 32_000 in batch)
    assert place <= 5 < len(slow.batches) - 10


def test_cancelled_and_switched_off_clips_do_not_run(batcher: Batcher, slow: Slow) -> None:
    slow.going.clear()
    job = Job()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(BatchedModel(batcher, Job()).predict, clip(16_000), 16_000)
        slow.started.wait(60)
        gone = pool.submit(BatchedModel(batcher, job).predict, clip(20_000), 16_000)
        wait_for(batcher, 1)
        batcher.cancel(job)
        with pytest.raises(Stopped):
            gone.result(60)
        with pytest.raises(Stopped):
            BatchedModel(batcher, job).predict(clip(20_000), 16_000)
        waiting = pool.submit(BatchedModel(batcher, Job()).predict, clip(21_000), 16_000)
        wait_for(batcher, 1)
        batcher.switch(False)
        with pytest.raises(Stopped):
            waiting.result(60)
        slow.going.set()
        assert first.result()
        batcher.switch(True)
        assert BatchedModel(batcher, Job()).predict(clip(22_000), 16_000)
    assert slow.batches == [[16_000], [22_000]]


def test_a_single_request_does_not_wait_for_others(slow: Slow) -> None:
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    alone = Batcher(model, lambda: 1, lambda clips, seconds: None)
    expecting = Batcher(model, lambda: 2, lambda clips, seconds: None)
    least = {alone: math.inf, expecting: math.inf}
    for _ in range(30):  # in turns, so that what else runs slows both
        for batcher in alone, expecting:
            started = time.perf_counter()
            BatchedModel(batcher, Job()).predict(clip(400), 16_000)
            least[batcher] = min(least[batcher], time.perf_counter() - started)
    assert least[alone] + 0.5 * WAIT < least[expecting]


def test_a_job_that_waits_for_a_model_has_no_deadline(batcher: Batcher, slow: Slow) -> None:
    """Only its own work must make progress; a batch has a deadline of its own."""
    job = Job(seconds=50)
    assert job.until == math.inf, "before it starts"
    job.check()
    assert time.monotonic() < job.until <= time.monotonic() + 50
    slow.going.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batcher.run, job, [clip(16_000)], False)
        assert slow.started.wait(60)
        assert job.until == math.inf
        slow.going.set()
        waiting.result()
    assert time.monotonic() < job.until <= time.monotonic() + 50


def test_a_batch_that_never_ends_is_noticed(slow: Slow) -> None:
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    held = e2v_port.Model(model.config, model.runtime, model.dtype, slow)
    batcher = Batcher(held, lambda: 1, lambda clips, seconds: None, seconds=0.2)
    assert not batcher.stuck
    slow.going.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(batcher.run, Job(), [clip(1600)], False)  # 0.1 s of audio adds 1 s
        assert slow.started.wait(60)
        assert not batcher.stuck
        time.sleep(1.5)
        assert batcher.stuck
        slow.going.set()
        waiting.result()
    assert not batcher.stuck

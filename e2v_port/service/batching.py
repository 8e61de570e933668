"""Batches the clips of several requests: everything that waits while a batch runs goes into the next one."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from e2v_port.architectures.runtime import Output
from e2v_port.audio import SAMPLING_RATE, Clip, Waveform
from e2v_port.errors import AudioError
from e2v_port.models.batches import PADDING
from e2v_port.models.long_clips import longest
from e2v_port.models.model import Model

__all__ = ["BatchedModel", "Batcher", "Job", "Stopped"]

# Seconds that an idle model waits for requests that are being decoded: too short to notice, and on a GPU about what a
# batch costs more than a single clip. A request that is alone never waits.
WAIT = 0.004
# Seconds of a batch for each second of its audio, at most: 10 times as many as a large model takes on a slow CPU.
_SLOWEST = 10.0

_Result: TypeAlias = tuple[float, Output] | Exception


class Stopped(Exception):
    """No model will run: the request was cancelled, or emotions are switched off."""


class Job:
    """A request in the engine, which another thread may cancel.

    Attributes:
        cancelled: Whether it was cancelled.
        until: Time by which it must call `check` again, by `time.monotonic`; infinite while it waits.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        """Makes a job that waits.

        Args:
            seconds: Longest time from one `check` to the next.
        """
        self.cancelled = False
        self.until, self._seconds = math.inf, seconds

    def check(self) -> None:
        """Notes that the job makes progress; raises Stopped if it was cancelled."""
        self.until = time.monotonic() + self._seconds
        if self.cancelled:
            raise Stopped

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Lets the job wait for others, without a limit, for as long as the context lasts."""
        self.until = math.inf
        try:
            yield
        finally:
            self.until = time.monotonic() + self._seconds


@dataclass(eq=False)
class _Call:
    """The clips of one call of `BatchedModel.each`."""

    job: Job
    frames: bool
    clips: list[Waveform]
    waiting: list[int]  # numbers of the clips that are in no batch yet
    results: dict[int, _Result] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    stopped: bool = False


class Batcher:
    """Runs the clips of all calls on one model, with as many batches at a time as the model takes.

    A batch starts with the first clip of a call, each call in its turn, so that a long recording delays no other
    request. It is filled with the clips of all calls that are closest to that one in length, so that little of it is
    padding.

    Attributes:
        model: Model that the clips run on.
    """

    def __init__(
        self, model: Model, busy: Callable[[], int], ran: Callable[[int, float], None], seconds: float = math.inf
    ) -> None:
        """Starts the thread.

        Args:
            model: Model that the clips run on.
            busy: Returns the number of requests in the engine, waiting here or elsewhere.
            ran: Called after each batch with its number of clips and its seconds of audio.
            seconds: Time that any batch may take, in addition to 10 s for each second of its audio.
        """
        self.model = model
        self._seconds = seconds
        self._until: dict[int, float] = {}  # by which each running batch must be done
        self._busy, self._ran = busy, ran
        self._most = model._runner.batch_seconds * SAMPLING_RATE  # samples of a batch
        self._longest = longest(model.config.architecture)
        self._at_once, self._pool = model._runner.at_once, model._runner.pool()
        self._running = 0  # batches
        self._on = True
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._thread = threading.Thread(
            target=self._loop, daemon=True, name=f"batches of {model.config.source.repository}"
        )
        self._thread.start()

    @property
    def stuck(self) -> bool:
        """Whether a batch has taken too long, or no batch will ever start again."""
        with self._changed:
            late = any(until < time.monotonic() for until in self._until.values())
        return late or not self._thread.is_alive()

    def run(self, job: Job, clips: list[Waveform], frames: bool) -> list[_Result]:
        """Returns the result of each clip, as `Model.each` yields it, when all of them have run.

        Raises:
            Stopped: The job was cancelled, or the model switched off, before that.
        """
        if not clips:
            return []
        call = _Call(job, frames, clips, list(range(len(clips))))
        with self._changed:
            job.check()
            if not self._on:
                raise Stopped
            self._calls.append(call)
            self._changed.notify()
        with job.waiting():
            call.done.wait()
        if call.stopped:
            raise Stopped
        return [call.results[i] for i in range(len(clips))]

    def cancel(self, job: Job) -> None:
        """Drops the waiting clips of a job, and refuses those that it brings from now on."""
        with self._changed:
            job.cancelled = True
            self._stop([call for call in self._calls if call.job is job])

    def switch(self, on: bool) -> None:
        """Lets clips run from now on, or stops all of them, including those that wait."""
        with self._changed:
            self._on = on
            if not on:
                self._stop(list(self._calls))

    def _stop(self, calls: list[_Call]) -> None:
        for call in calls:
            self._calls.remove(call)
            call.stopped = True
            call.done.set()

    def _loop(self) -> None:
        while True:
            with self._changed:
                while not self._calls or self._running >= self._at_once:
                    self._changed.wait()
                until = time.monotonic() + WAIT
                while self._busy() > len(self._calls) and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch = self._taken()
                alone = not self._running and not self._calls
                self._running += bool(batch)
            if not batch:
                continue
            call, i = batch[0]
            if len(call.clips[i]) > self._longest:  # its windows run in the pool, among the other batches
                threading.Thread(target=self._run, args=(batch,), daemon=True).start()
            elif alone:
                self._run(batch)  # in this thread, with all threads of the CPU
            else:
                self._pool.submit(self._run, batch)

    def _taken(self) -> list[tuple[_Call, int]]:
        """Removes and returns the clips of the next batch, which `Model.each` runs as one."""
        if not self._calls:  # stopped meanwhile
            return []
        first = self._calls[0]
        canvas = self.model.config.architecture.canvas
        length = len(first.clips[first.waiting[0]])
        waiting = [(call, i) for call in self._calls if call.frames == first.frames for i in call.waiting]
        batch: list[tuple[_Call, int]] = []
        samples = longest = 0
        for call, i in sorted(waiting, key=lambda item: abs(len(item[0].clips[item[1]]) - length)):
            size = max(len(call.clips[i]), canvas)
            samples += size
            longest = max(longest, size)
            filled = longest * (len(batch) + 1)
            if batch and (filled > self._most or filled - samples > PADDING * self._most):
                break
            batch.append((call, i))
        for call, i in batch:
            call.waiting.remove(i)
        self._calls.rotate(-1)
        for call in [call for call in self._calls if not call.waiting]:
            self._calls.remove(call)
        return batch

    def _run(self, batch: list[tuple[_Call, int]]) -> None:
        clips = [call.clips[i] for call, i in batch]
        seconds = sum(map(len, clips)) / SAMPLING_RATE
        with self._changed:
            self._until[id(batch)] = time.monotonic() + self._seconds + _SLOWEST * seconds
        results = self._results(clips, batch[0][0].frames)
        with self._changed:
            del self._until[id(batch)]
            self._running -= 1
            self._changed.notify()
        for (call, i), result in zip(batch, results, strict=True):
            call.results[i] = result
            if len(call.results) == len(call.clips):
                call.done.set()
        self._ran(len(clips), seconds)

    def _results(self, clips: list[Waveform], frames: bool) -> list[_Result]:
        try:
            return list(self.model.each(clips, SAMPLING_RATE, frames=frames))
        except Exception as error:
            if len(clips) == 1:
                return [error]
            # Which clip is to blame is unknown: one by one, so that the others get their results.
            return [result for clip in clips for result in self._results([clip], frames)]


class BatchedModel(Model):
    """A model as one job sees it: the same model, but its clips run together with those of other jobs."""

    def __init__(self, batcher: Batcher, job: Job) -> None:
        model = batcher.model
        super().__init__(model.config, model.runtime, model.dtype, model._runner)
        self.limited_to = model.limited_to
        self._batcher, self._job = batcher, job

    def each(
        self, clips: Iterable[Clip], sampling_rate: int | None = None, *, frames: bool = False, **_: object
    ) -> Iterator[tuple[float, Output] | AudioError]:
        """As `Model.each`, for waveforms at 16 kHz alone; all of them are taken before the first result."""
        for result in self._batcher.run(self._job, cast(list[Waveform], list(clips)), frames):
            if isinstance(result, Exception) and not isinstance(result, AudioError):
                raise result
            yield result

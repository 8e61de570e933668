"""Clips of several requests through a model together: whatever waits while a batch runs is the next one."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from e2v_port.audio import SAMPLING_RATE, Clip, Waveform
from e2v_port.errors import AudioError
from e2v_port.model import PADDING, Model, Output
from e2v_port.windows import LONGEST

__all__ = ["BatchedModel", "Batcher", "Job", "Stopped"]

# Seconds that an idle model waits for requests that are being decoded: on a GPU a batch costs about that much more
# than a single clip, and nobody notices it. Never waited for when no other request is there.
WAIT = 0.004

_Result: TypeAlias = tuple[float, Output] | Exception


class Stopped(Exception):
    """No model will run: nobody waits for the answer any longer, or models are switched off."""


class Job:
    """A request on its way through the engine, which another thread may cancel."""

    def __init__(self) -> None:
        self.cancelled = False

    def check(self) -> None:
        """Raises Stopped if it was cancelled."""
        if self.cancelled:
            raise Stopped


@dataclass(eq=False)
class _Call:
    """The clips of one call of `BatchedModel.each`."""

    job: Job
    frames: bool
    clips: list[Waveform]
    waiting: list[int]  # the numbers of those that no batch took yet
    results: dict[int, _Result] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)
    stopped: bool = False


class Batcher:
    """Runs the clips of all calls on one model, as many batches at a time as it takes.

    A batch begins with the first clip of a call, each call in its turn, so that a long recording keeps nobody waiting;
    it is filled up with those clips of all calls that are closest to it in length, so that little of it is padding.

    Attributes:
        model: What they run on.
    """

    def __init__(self, model: Model, busy: Callable[[], int], ran: Callable[[int, float], None]) -> None:
        """Starts the thread.

        Args:
            model: What clips run on.
            busy: Tells how many requests are there, waiting here or elsewhere.
            ran: Is told of each batch how many clips and how many seconds of audio it held.
        """
        self.model = model
        self._busy, self._ran = busy, ran
        self._most = model._runner.batch_seconds * SAMPLING_RATE  # samples of a batch
        self._at_once, self._pool = model._runner.at_once, model._runner.pool()
        self._running = 0  # batches
        self._on = True
        self._calls: deque[_Call] = deque()
        self._changed = threading.Condition()
        threading.Thread(target=self._loop, daemon=True, name=f"batches of {model.config.source.repository}").start()

    def run(self, job: Job, clips: list[Waveform], frames: bool) -> list[_Result]:
        """Returns each clip's result, as `Model.each` gives it, once it is there.

        Raises:
            Stopped: The job was cancelled, or the model switched off, before all of them had run.
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
        call.done.wait()
        if call.stopped:
            raise Stopped
        return [call.results[i] for i in range(len(clips))]

    def cancel(self, job: Job) -> None:
        """Takes a job's clips out of those that wait, and none that it brings from now on."""
        with self._changed:
            job.cancelled = True
            self._stop([call for call in self._calls if call.job is job])

    def switch(self, on: bool) -> None:
        """Lets clips run from now on, or none: not even those that wait."""
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
            if len(call.clips[i]) > LONGEST:  # its windows go into the pool, among the other batches
                threading.Thread(target=self._run, args=(batch,), daemon=True).start()
            elif alone:
                self._run(batch)  # here, with all of a CPU's threads
            else:
                self._pool.submit(self._run, batch)

    def _taken(self) -> list[tuple[_Call, int]]:
        """Takes the clips of the next batch, which `Model.each` runs as one."""
        if not self._calls:  # stopped meanwhile
            return []
        first = self._calls[0]
        length = len(first.clips[first.waiting[0]])
        waiting = [(call, i) for call in self._calls if call.frames == first.frames for i in call.waiting]
        batch: list[tuple[_Call, int]] = []
        samples = longest = 0
        for call, i in sorted(waiting, key=lambda item: abs(len(item[0].clips[item[1]]) - length)):
            samples += len(call.clips[i])
            longest = max(longest, len(call.clips[i]))
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
        results = self._results(clips, batch[0][0].frames)
        with self._changed:
            self._running -= 1
            self._changed.notify()
        for (call, i), result in zip(batch, results, strict=True):
            call.results[i] = result
            if len(call.results) == len(call.clips):
                call.done.set()
        self._ran(len(clips), sum(map(len, clips)) / SAMPLING_RATE)

    def _results(self, clips: list[Waveform], frames: bool) -> list[_Result]:
        try:
            return list(self.model.each(clips, SAMPLING_RATE, frames=frames))
        except Exception as error:
            if len(clips) == 1:
                return [error]
            # Whose clip it was is not known: each by itself, so that the others get their results.
            return [result for clip in clips for result in self._results([clip], frames)]


class BatchedModel(Model):
    """A model as one job sees it: the same, but its clips run together with those of other jobs."""

    def __init__(self, batcher: Batcher, job: Job) -> None:
        model = batcher.model
        super().__init__(model.config, model.runtime, model.dtype, model._runner)
        self._batcher, self._job = batcher, job

    def each(
        self, clips: Iterable[Clip], sampling_rate: int | None = None, *, frames: bool = False
    ) -> Iterator[tuple[float, Output] | AudioError]:
        """As `Model.each`, for waveforms at 16 kHz alone, which all are taken before the first result."""
        for result in self._batcher.run(self._job, cast(list[Waveform], list(clips)), frames):
            if isinstance(result, Exception) and not isinstance(result, AudioError):
                raise result
            yield result

"""Decodes clips in processes of their own, ahead of what needs them and in order.

A process that hostile audio kills, or that does not come to an end with it, costs that clip: it becomes an error, and
another process takes its place.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from signal import Signals
from typing import Any, Self

import numpy as np

from e2v_port.audio import Waveform
from e2v_port.corpus.decoder import LENGTH, Rules
from e2v_port.corpus.sources import Clip
from e2v_port.errors import E2VError

__all__ = ["Decoded", "Decoders", "Stretch"]

PATIENCE = 300.0  # seconds for one file: an hour of MP3 with speech looked for in it takes 15
_DEATHS = 2  # of a decoder that cost a clip: one may have another reason, such as a machine that is shut down
_PIPE = 1 << 20  # bytes, where the system lets one choose: 16 s of audio pass at once
_PARTS = 64  # of one file that are decoded at a time


@dataclass
class Stretch:
    """A segment of a clip.

    Attributes:
        start: Seconds from the start of the file.
        end: Seconds.
        quality: As in `e2v_port.segments.Segment`.
        level: Of its samples, in dB: 0 is full scale; None where all are zero.
        peak: Their largest amount; full scale is 1.
        clipping: Share of them at full scale.
        waveform: [samples], float32, 16 kHz; None where it is too short to judge, and once a model has it.
    """

    start: float
    end: float
    quality: str
    level: float | None
    peak: float
    clipping: float
    waveform: Waveform | None

    @property
    def judged(self) -> bool:
        """Whether a model can say something of it."""
        return self.quality != "too_short"


@dataclass
class Decoded:
    """What is in a clip.

    Attributes:
        segments: Those found in it, or the whole clip as one; none where there is an error.
        duration: Of the clip in seconds; None where it cannot be told.
        rate: Of the file in Hz, likewise.
        error: Why the clip cannot be judged.
    """

    segments: list[Stretch]
    duration: float | None = None
    rate: int | None = None
    error: str | None = None


class Decoders:
    """Processes that decode. To be closed, or used in a `with`; may be used by several threads at once.

    Args:
        count: How many.
        rules: How clips are cut.
        ahead: Seconds of audio that are decoded before they are asked for, by each caller of `each`.
    """

    def __init__(self, count: int, rules: Rules, ahead: float) -> None:
        self._count, self._ahead = count, ahead
        self._command = [sys.executable, "-m", "e2v_port.corpus.decoder", json.dumps(asdict(rules))]
        self._own = threading.local()
        self._children: set[_Child] = set()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(count, "decoder")
        threading.Thread(target=self._watch, name="decoder watch", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes, whatever they are doing; who waits for a clip gets a CancelledError."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in list(self._children):
            child.process.kill()
        self._pool.shutdown()
        for child in self._children:
            child.end()

    def each(self, clips: Iterable[Clip]) -> Iterator[Decoded]:
        """Gives what is in each clip, in order.

        Clips that follow one another and are parts of one file are decoded together. No more than twice as many files
        as there are processes are under way, and none is begun while more than `ahead` seconds lie ready.
        """
        tasks = _tasks(clips)
        running: deque[Future[list[Decoded]]] = deque()
        under_way = 0
        ready = 0.0  # seconds
        counting = threading.Lock()

        def done(future: Future[list[Decoded]]) -> None:
            nonlocal under_way, ready
            with counting:
                under_way -= 1
                ready += _seconds(future)

        more = True
        while more or running:
            if more and under_way < 2 * self._count and ready < self._ahead:
                if task := next(tasks, None):
                    with counting:
                        under_way += 1
                    running.append(self._pool.submit(self._decoded, task))
                    running[-1].add_done_callback(done)
                else:
                    more = False
            elif running:
                first = running.popleft()
                yield from first.result()
                with counting:
                    ready -= _seconds(first)

    def _decoded(self, clips: list[Clip]) -> list[Decoded]:
        first = clips[0]
        if first.broken:
            return [Decoded([], error=first.broken) for _ in clips]
        parts = [[clip.start, clip.end] for clip in clips]
        task = {"address": first.address, "offset": first.offset, "size": first.size, "parts": parts}
        why = ""
        for _ in range(_DEATHS):
            child = getattr(self._own, "child", None)
            if child is None:
                child = self._own.child = _Child(self._command)
                self._children.add(child)
                child.greet()
            try:
                return child.ask(task)
            except (OSError, EOFError, ValueError, TypeError):
                if self._closed.is_set():
                    raise
                self._children.discard(child)
                self._own.child = None
                why = child.end()
                if child.overdue:
                    break
        return [Decoded([], error=f"{why}: the file is damaged, or made to do that") for _ in clips]

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            for child in list(self._children):
                started = child.started
                if started is not None and time.monotonic() - started > PATIENCE:
                    child.overdue = True
                    child.process.kill()


class _Child:
    """One process."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        # What decoders of damaged audio print would stand between the lines of the program.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            pipesize=_PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._tasks, self._answers = self.process.stdin, self.process.stdout
        self.started: float | None = None
        self.overdue = False

    def greet(self) -> None:
        """Waits until it is there: what happens from then on is the clip's fault.

        Raises:
            E2VError: It cannot start.
        """
        if _filled(self._answers, bytearray(LENGTH.size)) < LENGTH.size:
            raise E2VError(f"clips cannot be decoded: {self.end()}; see what {' '.join(self._command[:3])} says")

    def ask(self, task: dict[str, Any]) -> list[Decoded]:
        """Returns the answer; EOFError or OSError if the process does not give it."""
        self.started = time.monotonic()
        data = json.dumps(task).encode()
        self._tasks.write(LENGTH.pack(len(data)) + data)
        self._tasks.flush()
        answer = json.loads(self._read(*LENGTH.unpack(self._read(LENGTH.size))))
        found = [self._part(part) for part in answer]
        self.started = None
        return found

    def _part(self, part: dict[str, Any]) -> Decoded:
        segments = []
        for row in part.pop("segments", ()):
            samples = row.pop("samples")
            waveform = np.frombuffer(self._read(4 * samples), np.float32) if samples else None
            segments.append(Stretch(**row, waveform=waveform))
        return Decoded(segments, **part)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        if _filled(self._answers, data) < size:
            raise EOFError
        return data

    def end(self) -> str:
        """Ends the process and returns how it went."""
        self.started = None
        for pipe in (self._tasks, self._answers):
            with suppress(OSError):
                pipe.close()
        self.process.kill()
        code = self.process.wait()
        if self.overdue:
            return f"not decoded within {PATIENCE:g} s"
        if code < 0:
            return f"the decoder died of {Signals(-code).name}"
        return f"the decoder ended with status {code}"


def _filled(file: Any, data: bytearray) -> int:
    view, at = memoryview(data), 0
    while at < len(data) and (count := file.readinto(view[at:])):
        at += count
    return at


def _tasks(clips: Iterable[Clip]) -> Iterator[list[Clip]]:
    """Gives clips that are decoded together."""
    for _, group in groupby(clips, lambda clip: (clip.address, clip.offset, clip.broken)):
        own = list(group)
        for at in range(0, len(own), _PARTS):
            yield own[at : at + _PARTS]


def _seconds(future: "Future[list[Decoded]]") -> float:
    """Returns how much audio has come, of a decoding that is done."""
    if future.cancelled() or future.exception():
        return 0.0
    return sum(item.duration or 0.0 for item in future.result())

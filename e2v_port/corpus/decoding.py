"""Decodes clips in separate processes, in order and ahead of the models that need them.

If hostile audio kills or stalls a process, only its clip is lost: it becomes an error, and a new process takes over.
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
from e2v_port.corpus.cutting import Rules
from e2v_port.corpus.decoder import LENGTH
from e2v_port.corpus.sources import Clip
from e2v_port.errors import E2VError

__all__ = ["Decoded", "DecodedSegment", "Decoders"]

PATIENCE = 300.0  # seconds for one file; decoding an hour of MP3 and finding the speech in it takes 15
_DEATHS = 2  # of a decoder before its clip is given up: a single one may have another cause, such as a shutdown
_PIPE = 1 << 20  # bytes, where the system allows it: 16 s of audio at once
_PARTS = 64  # of one file that are decoded together


@dataclass
class DecodedSegment:
    """A segment of a clip.

    Attributes:
        start: Start in the file, in seconds.
        end: End in the file, in seconds.
        quality: Quality as in `e2v_port.speech.segment.Segment`.
        level: Root mean square in dB, 0 is full scale; None if all samples are zero.
        peak: Largest absolute sample; full scale is 1.
        clipping: Share of samples at full scale.
        snr: Signal-to-noise ratio in dB; None if it is too short to judge or to measure.
        channel: Channel of the file, from 1; None for the channels mixed.
        speaker: Name of that channel, if each one is a speaker.
        notes: Kinds of notes on the sound of the file, such as `channels_cancel`, with blanks between them.
        waveform: [samples], float32, 16 kHz; None if it is too short to judge, and after a model has taken it.
    """

    start: float
    end: float
    quality: str
    level: float | None
    peak: float
    clipping: float
    snr: float | None
    channel: int | None
    speaker: str | None
    notes: str | None
    waveform: Waveform | None

    @property
    def judged(self) -> bool:
        """Whether a model judges it."""
        return self.quality != "too_short"


@dataclass
class Decoded:
    """A decoded clip.

    Attributes:
        segments: Segments found in it, or the whole clip as one; empty if there is an error.
        duration: Length of the clip in seconds; None if unknown.
        rate: Sampling rate of the file in Hz; None if unknown.
        error: Reason why the clip cannot be judged.
    """

    segments: list[DecodedSegment]
    duration: float | None = None
    rate: int | None = None
    error: str | None = None


class Decoders:
    """Decoding processes. A context manager; safe to use from several threads.

    Args:
        count: Number of processes.
        rules: How clips are cut.
        ahead: Seconds of audio decoded ahead of need, for each caller of `each`.
    """

    def __init__(self, count: int, rules: Rules, ahead: float) -> None:
        self._count, self._ahead = count, ahead
        self._command = [sys.executable, "-m", "e2v_port.corpus.decoder", json.dumps(asdict(rules))]
        self._thread = threading.local()
        self._children: set[_Child] = set()
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(count, "decoder")
        threading.Thread(target=self._watch, name="decoder watch", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills the processes; callers that wait for a clip get a CancelledError."""
        self._closed.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for child in list(self._children):
            child.process.kill()
        self._pool.shutdown()
        for child in self._children:
            child.end()

    def each(self, clips: Iterable[Clip]) -> Iterator[Decoded]:
        """Yields the decoded clips in order.

        Consecutive clips that are parts of the same file are decoded together. At most two files per process are in
        progress, and none is started while more than `ahead` seconds are ready.
        """
        tasks = _tasks(clips)
        running: deque[Future[list[Decoded]]] = deque()
        in_progress = 0
        ready = 0.0  # seconds
        counting = threading.Lock()

        def done(future: Future[list[Decoded]]) -> None:
            nonlocal in_progress, ready
            with counting:
                in_progress -= 1
                ready += _seconds(future)

        more = True
        while more or running:
            if more and in_progress < 2 * self._count and ready < self._ahead:
                if task := next(tasks, None):
                    with counting:
                        in_progress += 1
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
            child = getattr(self._thread, "child", None)
            if child is None:
                child = self._thread.child = _Child(self._command)
                self._children.add(child)
                child.greet()
            try:
                return child.ask(task)
            except (OSError, EOFError, ValueError, TypeError):
                if self._closed.is_set():
                    raise
                self._children.discard(child)
                self._thread.child = None
                why = child.end()
                if child.overdue:
                    break
        return [Decoded([], error=f"{why}: the file is damaged, or crafted to do that") for _ in clips]

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            for child in list(self._children):
                started = child.started
                if started is not None and time.monotonic() - started > PATIENCE:
                    child.overdue = True
                    child.process.kill()


class _Child:
    """A decoding process."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        # Messages of audio decoders would mix with the output of this program.
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
        """Waits until the process is ready; later failures are attributed to its clip.

        Raises:
            E2VError: The process cannot start.
        """
        if _filled(self._answers, bytearray(LENGTH.size)) < LENGTH.size:
            raise E2VError(f"clips cannot be decoded: {self.end()}; run {' '.join(self._command[:3])} to see why")

    def ask(self, task: dict[str, Any]) -> list[Decoded]:
        """Returns the answer; raises EOFError or OSError if the process fails."""
        self.started = time.monotonic()
        data = json.dumps(task).encode()
        self._tasks.write(LENGTH.pack(len(data)) + data)
        self._tasks.flush()
        answer = json.loads(self._read(*LENGTH.unpack(self._read(LENGTH.size))))
        parts = [self._part(part) for part in answer]
        self.started = None
        return parts

    def _part(self, part: dict[str, Any]) -> Decoded:
        segments = []
        for row in part.pop("segments", ()):
            samples = row.pop("samples")
            waveform = np.frombuffer(self._read(4 * samples), np.float32) if samples else None
            segments.append(DecodedSegment(**row, waveform=waveform))
        return Decoded(segments, **part)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        if _filled(self._answers, data) < size:
            raise EOFError
        return data

    def end(self) -> str:
        """Ends the process and returns the reason, as text."""
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
    """Yields lists of clips that are decoded together."""
    for _, group in groupby(clips, lambda clip: (clip.address, clip.offset, clip.broken)):
        parts = list(group)
        for at in range(0, len(parts), _PARTS):
            yield parts[at : at + _PARTS]


def _seconds(future: "Future[list[Decoded]]") -> float:
    """Returns the seconds of audio of a finished decoding."""
    if future.cancelled() or future.exception():
        return 0.0
    return sum(item.duration or 0.0 for item in future.result())

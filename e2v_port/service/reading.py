"""Reads words for several requests and streams with one recognizer: a passage at a time, each in its turn."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.service.batching import Job, Stopped
from e2v_port.transcribe.words import WINDOW, Reader, Transcript, Word, takes

__all__ = ["JobReader", "SharedReader"]

# Seconds of reading for each second of a passage, at most; large-v3 takes about 3 on two cores (an estimate).
_SLOWEST = 10.0
_QUIET = round(0.1 * SAMPLING_RATE)  # samples in which the place to cut a long passage is searched

_T = TypeVar("_T")


class SharedReader:
    """A recognizer that all requests share. It reads in a thread of its own, in the order in which it is asked.

    Whoever reads a long recording asks anew for each passage, so that it delays the others by one passage at most.

    Attributes:
        reader: The recognizer.

    Args:
        reader: The recognizer.
        seconds: Time that any passage may take, in addition to 10 s for each second of it.
    """

    def __init__(self, reader: Reader, seconds: float = math.inf) -> None:
        self.reader = reader
        self._seconds = seconds
        self._until = math.inf  # by which the passage that is read must be done
        self._thread = ThreadPoolExecutor(1, "words")

    @property
    def stuck(self) -> bool:
        """Whether a passage has taken too long."""
        return self._until < time.monotonic()

    def submit(self, read: Callable[[], _T]) -> "Future[_T]":
        """Lets a passage of at most `WINDOW` seconds be read after those of others that wait."""

        def timed() -> _T:
            self._until = time.monotonic() + self._seconds + _SLOWEST * WINDOW
            try:
                return read()
            finally:
                self._until = math.inf

        return self._thread.submit(timed)


class JobReader:
    """The shared recognizer as one job sees it: what is long is read in several turns.

    A passage longer than `WINDOW` is cut where it is most quiet. The language is that of the first passage,
    unless the recognizer detects it in each.

    Attributes:
        name: Name or folder of the model.

    Args:
        shared: The shared recognizer.
        job: The job, which waits while others are read.
        language: Code of the language; None to detect it.

    Raises:
        E2VError: The model does not know the language.
    """

    def __init__(self, shared: SharedReader, job: Job, language: str | None) -> None:
        self._shared, self._job, self._language = shared, job, language
        self.name = shared.reader.name
        shared.reader.read(np.empty(0, np.float32), (), language=language)

    def read(
        self, waveform: Waveform, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        """Reads passages: see `e2v_port.transcribe.words.Reader`.

        Raises:
            Stopped: The job was cancelled.
        """
        language = language or self._language
        words: list[Word] = []
        found: Transcript | None = None
        for start, part in _parts(waveform, passages):
            said, transcript = self._read_part(part, language)
            words += [replace(word, start=start + word.start, end=start + word.end) for word in said]
            heard = transcript.language
            if found is None and heard and takes(self._shared.reader, heard):
                language = heard
            found = found or transcript
        return tuple(words), found or self._shared.reader.read(waveform, (), language=language)[1]

    def _read_part(self, part: Waveform, language: str | None) -> tuple[tuple[Word, ...], Transcript]:
        job, reader = self._job, self._shared.reader

        def read() -> tuple[tuple[Word, ...], Transcript]:
            if job.cancelled:
                raise Stopped
            return reader.read(part, [(0.0, len(part) / SAMPLING_RATE)], language=language)

        job.check()
        with job.waiting():
            found = self._shared.submit(read).result()
        job.check()
        return found


def _parts(waveform: Waveform, passages: Sequence[tuple[float, float]]) -> Iterator[tuple[float, Waveform]]:
    """Yields the start in seconds and the samples of each passage, in parts of at most `WINDOW` seconds."""
    most = round(WINDOW * SAMPLING_RATE)
    for start, end in passages:
        at, last = round(start * SAMPLING_RATE), min(round(end * SAMPLING_RATE), len(waveform))
        while last - at > most:
            cut = at + _quietest(waveform[at : at + most])
            yield at / SAMPLING_RATE, waveform[at:cut]
            at = cut
        if last > at:
            yield at / SAMPLING_RATE, waveform[at:last]


def _quietest(part: Waveform) -> int:
    """Returns the middle of the most quiet 0.1 s in the last third of a part."""
    first = 2 * len(part) // 3
    frames = part[first : first + (len(part) - first) // _QUIET * _QUIET].reshape(-1, _QUIET)
    return first + int(np.argmin(np.sum(frames**2, axis=1))) * _QUIET + _QUIET // 2

"""The words of a voice while it speaks: segments that have ended are read while the voice goes on."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from e2v_port.analysis.judged import JudgedSegment, worded
from e2v_port.audio import SAMPLING_RATE, Note, Waveform
from e2v_port.errors import cut
from e2v_port.live.results import Reading
from e2v_port.transcribe.words import HEARD, Reader, Transcript, Word, takes

__all__ = ["MOST", "LiveWords", "Submit", "Update"]

MOST = 8  # segments of one voice that wait to be read: a slower machine would only fall behind further
_AHEAD = 10.0  # s; sound that is so far ahead of the clock is a recording, which can wait
_SURE = 0.8  # probability from which the language of one segment is that of the voice; heuristic

_Said: TypeAlias = tuple[Word, ...]
Submit: TypeAlias = Callable[[Callable[[], _Said]], "Future[_Said]"]
"""Runs a function soon, in another thread, and in order, as `Executor.submit` of one worker does."""

_Segment = TypeVar("_Segment", bound=JudgedSegment)


class Update(NamedTuple, Generic[_Segment]):
    """A segment whose words are settled.

    Attributes:
        before: The segment as it was given to `LiveWords.add`.
        segment: The same segment with its words; without them if they could not be read.
        reading: What became of them: `done`, `late` or `failed`.
    """

    before: _Segment
    segment: _Segment
    reading: Reading


@dataclass(eq=False)
class _Waiting(Generic[_Segment]):
    segment: _Segment
    said: "Future[_Said] | None"  # None where it is too late to read them

    @property
    def settled(self) -> bool:
        return self.said is None or self.said.done()


class LiveWords(Generic[_Segment]):
    """Reads the segments of one voice, one after the other, in another thread: nothing here waits for words.

    At most `MOST` segments wait. Beyond that the machine reads more slowly than people speak: the words of further
    segments are left out, as a note says. Only sound that comes faster than it was spoken, such as that of a recording,
    waits instead.

    Where no language is given, it is detected in each segment until one leaves little doubt, then it is that of the
    voice: a language cannot be heard in a word or two. Use it from one thread at a time.

    Attributes:
        transcript: How the last words were read; None before the first.

    Args:
        reader: The recognizer.
        submit: Runs the reading of a segment.
        language: Code of the language; None for the reader's own, or else to detect it.
        waiting: Entered while this waits for words to be read.
    """

    def __init__(
        self,
        reader: Reader,
        submit: Submit,
        language: str | None = None,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._reader, self._submit, self._language, self._patience = reader, submit, language, waiting
        self._waiting: deque[_Waiting[_Segment]] = deque()
        self._opened = time.monotonic()
        self._late = self._failed = 0
        self._error = ""
        self.transcript: Transcript | None = None

    @property
    def notes(self) -> list[Note]:
        """What must be known about words that are missing."""
        notes = []
        if self._late:
            why = "this machine reads more slowly than people speak, so choose a smaller model"
            notes.append(Note("words_late", f"the words of {_segments(self._late)} were not read: {why}"))
        if self._failed:
            notes.append(Note("words_failed", f"the words of {_segments(self._failed)} were not read ({self._error})"))
        return notes

    @staticmethod
    def may_read(segment: JudgedSegment) -> bool:
        """Returns whether a segment may be read: it holds speech, of nobody who is not enrolled."""
        return segment.quality in HEARD

    def add(self, segment: _Segment, waveform: Waveform, duration: float) -> None:
        """Lets a segment that has ended be read: `settled` or `rest` returns it with its words.

        Args:
            segment: The segment, one that may be read.
            waveform: [samples], float32, 16 kHz, of the segment.
            duration: Length of the sound so far, in seconds.
        """
        unread = [item.said for item in self._waiting if item.said and not item.said.done()]
        if len(unread) >= MOST and duration - (time.monotonic() - self._opened) > _AHEAD:
            with self._patience():
                wait(unread[:1])
        elif len(unread) >= MOST:
            self._late += 1
            self._waiting.append(_Waiting(segment, None))
            return
        self._waiting.append(_Waiting(segment, self._submit(lambda: self._read(waveform))))

    def settled(self) -> Iterator[Update[_Segment]]:
        """Yields the segments whose words are settled by now, in order of time."""
        while self._waiting and self._waiting[0].settled:
            yield self._update(self._waiting.popleft())

    def rest(self) -> Iterator[Update[_Segment]]:
        """Waits for the words of all segments, and yields these in order of time."""
        try:
            while self._waiting:
                with self._patience():
                    wait([item.said for item in [self._waiting[0]] if item.said])
                yield from self.settled()
        finally:
            self.close()

    def close(self) -> None:
        """Lets go of segments whose reading has not begun."""
        for item in list(self._waiting):
            if item.said:
                item.said.cancel()

    def _read(self, waveform: Waveform) -> _Said:
        words, self.transcript = self._reader.read(
            waveform, [(0.0, len(waveform) / SAMPLING_RATE)], language=self._language
        )
        heard = self.transcript.language
        sure = (self.transcript.language_probability or 0.0) >= _SURE
        if heard and sure and takes(self._reader, heard):
            self._language = heard
        return words

    def _update(self, item: _Waiting[_Segment]) -> Update[_Segment]:
        segment = item.segment
        if item.said is None:
            return Update(segment, segment, "late")
        try:
            said = item.said.result()
        except Exception as error:  # of whatever the recognizer runs on; the voice goes on
            self._failed += 1
            self._error = cut(" ".join(str(error).split()) or type(error).__name__, 200)
            return Update(segment, segment, "failed")
        at = segment.start
        placed = tuple(replace(word, start=at + word.start, end=at + word.end) for word in said)
        return Update(segment, worded(segment, placed), "done")


def _segments(count: int) -> str:
    return f"{count} segment{'s' if count > 1 else ''}"

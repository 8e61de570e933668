"""Finds segments of speech while a voice is being recorded: those of `detect`, as they end."""

from itertools import pairwise

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.speech.rule import SpeechRule
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, Span, to_samples, to_segment
from e2v_port.speech.silero import FRAME_SAMPLES, SpeechProbabilities
from e2v_port.speech.split import cut, divide, part_bounds, part_starts

__all__ = ["SpeechStream"]

# 256 ms run at once, whatever the size of the blocks: silero's network takes hardly longer for eight frames than for
# one, and the size of the blocks changes no bit of the result.
_STEP = 8 * FRAME_SAMPLES


class SpeechStream:
    """Segments of speech in a waveform that arrives in blocks of any size.

    They are the segments that `detect` finds in the whole clip. Each is returned as soon as nothing that follows can
    change it: when the pause after it reaches `merge_gap`; in speech longer than `max_duration`, when a split there is
    certain, at the latest when the speech not yet returned is more than 4 times `max_duration` long. Only that much of
    the waveform is kept.

    Args:
        settings: Thresholds and lengths.
    """

    def __init__(self, settings: SegmentSettings = DEFAULTS) -> None:
        self._settings = settings
        self._merge_gap, self._split_pause = to_samples(settings.merge_gap), to_samples(settings.split_pause)
        self._longest = to_samples(settings.max_duration)
        self._probabilities = SpeechProbabilities(settings.max_gain)
        self._rule = SpeechRule(settings.speech_threshold, self._longest)
        self._held = bytearray()  # the part of the waveform that can still matter
        self._first = 0  # index of its first sample
        self._judged = 0  # number of samples that silero has heard
        # Speech of the current segment that has not been returned: fixed pieces, separated by pauses to split at or by
        # cuts, then speech that may still grow.
        self._pieces: list[Span] = []
        self._open: Span | None = None
        self._over_long = False  # whether the current segment is longer than max_duration, and so split

    @property
    def duration(self) -> float:
        """Length of the audio pushed so far, in seconds."""
        return self._end / SAMPLING_RATE

    @property
    def parts(self) -> list[Segment]:
        """Segments not returned yet that there would be if the clip ended with the speech heard so far.

        They lag by up to 0.26 s, appear once speech has lasted for 0.25 s, and leave out silence at their end.
        """
        pieces = self._all_pieces()
        return [self._mark(pieces[i][0], pieces[j - 1][1]) for i, j in pairwise(self._bounds(pieces))]

    @property
    def open(self) -> Segment | None:
        """Last one of `parts`; None between segments."""
        return parts[-1] if (parts := self.parts) else None

    def push(self, waveform: Waveform) -> list[Segment]:
        """Adds the next block.

        Args:
            waveform: [samples], float32, 16 kHz, of any length.

        Returns:
            Segments that are now final, in order.
        """
        del self._held[: 4 * (self._needed - self._first)]
        self._first = self._needed
        self._held += np.ascontiguousarray(waveform, np.float32).data
        segments = []
        while self._end - self._judged >= _STEP:
            segments += self._step(self._judged + _STEP)
            segments += self._settled()
        return segments

    def finish(self) -> list[Segment]:
        """Ends the clip and returns its last segments. Nothing may be pushed afterwards."""
        segments = self._step(self._end)
        for span in self._rule.finish(self._end):
            segments += self._add(*span)
        return segments + self._close()

    def take(self, segment: Segment) -> Waveform:
        """Returns a copy of the waveform of a segment of the last `push` or `finish`, or of `parts`."""
        return self._read(segment.samples.start, segment.samples.stop)

    @property
    def _end(self) -> int:
        return self._first + len(self._held) // 4

    @property
    def _needed(self) -> int:
        """Index of the first sample that can still matter.

        The rule's next span counts only where nothing is open: otherwise it is the open one, of which cuts have gone.
        """
        starts = [start for start, _ in self._pieces]
        return min([*starts, self._open[0] if self._open else self._rule.next_start, self._judged])

    def _read(self, start: int, end: int) -> Waveform:
        return np.frombuffer(self._held[4 * (start - self._first) : 4 * (end - self._first)], np.float32)

    def _mark(self, start: int, end: int) -> Segment:
        return to_segment((start, end), [(start, end)], self._settings)

    def _step(self, end: int) -> list[Segment]:
        """Runs silero up to a sample, adds the spans of speech that it finds, and returns the final segments."""
        segments = []
        if end > self._judged:
            probabilities = self._probabilities.push(self._read(self._judged, end))
            self._judged = end
            for span in self._rule.push(probabilities.tolist()):
                segments += self._add(*span)
        return segments

    def _add(self, start: int, end: int) -> list[Segment]:
        """Adds a span of speech, or a longer version of the last one."""
        segments = self._pause(start)
        self._open = (self._open[0] if self._open else start, end)
        return segments

    def _pause(self, until: int) -> list[Segment]:
        """Notes that there is no more speech before a sample than has been added."""
        last = self._open or (self._pieces[-1] if self._pieces else None)
        if last and until - last[1] >= self._merge_gap:
            return self._close()
        if self._open and until - self._open[1] >= self._split_pause:
            self._pieces, self._open = self._all_pieces(), None
        return []

    def _settled(self) -> list[Segment]:
        """Returns the segments that are certain given what has been heard."""
        segments = self._pause(self._rule.next_start)
        if (end := self._rule.open_end) is not None:
            segments += self._add(self._rule.next_start, end)
        if self._open:
            *pieces, self._open = cut(self._open, self._read, self._settings, ended=False)
            self._pieces += pieces
        spans = [span for span in (*self._pieces, self._open) if span]
        if spans and spans[-1][1] - spans[0][0] > self._longest:
            self._over_long = True
        if self._over_long and self._pieces and self._judged - self._pieces[0][0] > self._longest:
            segments += self._split()
        return segments

    def _split(self) -> list[Segment]:
        """Returns the parts of an over-long segment that do not depend on what follows."""
        segments = self._release(divide(self._pieces, self._settings, ended=False))
        # The next piece ends no earlier than this sample: a cut leaves at least half of max_duration.
        next_end = min(self._open[1], self._open[0] + self._longest // 2) if self._open else self._rule.next_start
        starts = part_starts(self._pieces, self._settings)
        # The part that will hold the next piece starts with it or with one of those before it. Each case implies the
        # parts before; those that all cases share are certain.
        cases = [i for i, (start, _) in enumerate(self._pieces) if next_end - start <= self._longest]
        chains = [part_bounds(starts, i) for i in (*cases, len(self._pieces))]
        common = [i for i in chains[-1] if all(i in chain for chain in chains)]
        return segments + self._release(common)

    def _close(self) -> list[Segment]:
        """Ends the current segment and returns its parts."""
        self._pieces, self._open = self._all_pieces(), None
        segments = self._release(self._bounds(self._pieces))
        self._over_long = False
        return segments

    def _bounds(self, pieces: list[Span]) -> list[int]:
        """Returns the bounds of the parts of the current segment, as `divide` does, if it ends with these pieces."""
        if pieces and not self._over_long and pieces[-1][1] - pieces[0][0] <= self._longest:
            return [0, len(pieces)]
        return divide(pieces, self._settings)

    def _all_pieces(self) -> list[Span]:
        return self._pieces + (cut(self._open, self._read, self._settings) if self._open else [])

    def _release(self, bounds: list[int]) -> list[Segment]:
        segments = [self._mark(self._pieces[i][0], self._pieces[j - 1][1]) for i, j in pairwise(bounds)]
        del self._pieces[: bounds[-1]]
        return segments

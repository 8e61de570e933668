"""Where speech is in a waveform that is still being made: the segments that `segments.detect` finds, as they end."""

from itertools import pairwise

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.segments import (
    DEFAULTS,
    FRAME_SAMPLES,
    Segment,
    SegmentSettings,
    Span,
    SpeechProbabilities,
    SpeechRule,
    cut,
    divide,
    mark,
    part_bounds,
    part_starts,
    to_samples,
)

__all__ = ["SpeechStream"]

# 256 ms run at once, whatever comes in: silero takes a third of the time of frame by frame, and the size of the
# blocks that come in changes no bit.
_STEP = 8 * FRAME_SAMPLES


class SpeechStream:
    """Segments of speech in a waveform that comes in blocks of any size.

    They are those that `segments.detect` finds in the whole clip. One is given out as soon as nothing that follows can
    change it: where the pause behind it reaches `merge_gap`; in speech that goes on for longer than `max_duration`,
    where it will be split there in any case, at the latest when what is not given out is more than 4 times
    `max_duration` long. Only that much of the waveform is kept.

    Args:
        settings: Thresholds and lengths.
    """

    def __init__(self, settings: SegmentSettings = DEFAULTS) -> None:
        self._settings = settings
        self._merge_gap, self._split_pause = to_samples(settings.merge_gap), to_samples(settings.split_pause)
        self._longest = to_samples(settings.max_duration)
        self._probabilities = SpeechProbabilities()
        self._rule = SpeechRule(settings.speech_threshold)
        self._held = bytearray()  # the part of the waveform that can still matter
        self._first = 0  # the number of its first sample
        self._judged = 0  # samples that silero has heard
        # Speech not given out yet, which one segment may hold: pieces that are decided, separated by pauses to split
        # at or by cuts, and behind them what may still get longer.
        self._pieces: list[Span] = []
        self._open: Span | None = None

    @property
    def duration(self) -> float:
        """Seconds that have come in."""
        return self._end / SAMPLING_RATE

    @property
    def parts(self) -> list[Segment]:
        """The segments not given out yet that there would be if the clip ended with the speech heard so far.

        They lag behind by up to 0.26 s, begin when speech has lasted for 0.25 s, and silence at their end is left out.
        """
        pieces = self._all_pieces()
        return [self._mark(pieces[i][0], pieces[j - 1][1]) for i, j in pairwise(divide(pieces, self._settings))]

    @property
    def open(self) -> Segment | None:
        """The last of `parts`; None between segments."""
        return parts[-1] if (parts := self.parts) else None

    def push(self, waveform: Waveform) -> list[Segment]:
        """Goes on with the next block.

        Args:
            waveform: [samples], float32, 16 kHz; any number of them.

        Returns:
            Segments that are final now, in order.
        """
        del self._held[: 4 * (self._needed - self._first)]
        self._first = self._needed
        self._held += np.ascontiguousarray(waveform, np.float32).data
        found = []
        while self._end - self._judged >= _STEP:
            found += self._step(self._judged + _STEP)
            found += self._decided()
        return found

    def finish(self) -> list[Segment]:
        """Returns the segments that the end of the clip makes final; nothing may be pushed behind it."""
        found = self._step(self._end)
        for stretch in self._rule.finish(self._end):
            found += self._add(*stretch)
        return found + self._close()

    def take(self, segment: Segment) -> Waveform:
        """Returns the waveform of a segment that the last `push` or `finish` gave, or of one of `parts`: a copy."""
        return self._read(segment.samples.start, segment.samples.stop)

    @property
    def _end(self) -> int:
        return self._first + len(self._held) // 4

    @property
    def _needed(self) -> int:
        """The first sample that can still matter."""
        starts = [span[0] for span in (*self._pieces, self._open) if span]
        return min([*starts, self._rule.next_start, self._judged])

    def _read(self, start: int, end: int) -> Waveform:
        return np.frombuffer(self._held[4 * (start - self._first) : 4 * (end - self._first)], np.float32)

    def _mark(self, start: int, end: int) -> Segment:
        return mark((start, end), [(start, end)], self._settings)

    def _step(self, end: int) -> list[Segment]:
        """Lets silero hear the waveform up to a sample, and does what follows from the stretches it finds."""
        found = []
        if end > self._judged:
            probabilities = self._probabilities.push(self._read(self._judged, end))
            self._judged = end
            for stretch in self._rule.push(probabilities.tolist()):
                found += self._add(*stretch)
        return found

    def _add(self, start: int, end: int) -> list[Segment]:
        """Adds a stretch of speech, or a longer form of the last one."""
        found = self._pause(start)
        self._open = (self._open[0] if self._open else start, end)
        return found

    def _pause(self, until: int) -> list[Segment]:
        """Takes note that there is no speech before a sample that has not been added."""
        last = self._open or (self._pieces[-1] if self._pieces else None)
        if last and until - last[1] >= self._merge_gap:
            return self._close()
        if self._open and until - self._open[1] >= self._split_pause:
            self._pieces, self._open = self._all_pieces(), None
        return []

    def _decided(self) -> list[Segment]:
        """Gives out what is decided by what has been heard."""
        found = self._pause(self._rule.next_start)
        if (end := self._rule.open_end) is not None:
            found += self._add(self._rule.next_start, end)
        if self._open:
            *pieces, self._open = cut(self._open, self._read, self._settings, ended=False)
            self._pieces += pieces
        if self._pieces and self._judged - self._pieces[0][0] > self._longest:
            found += self._split()
        return found

    def _split(self) -> list[Segment]:
        """Gives out the parts of a segment that is too long which do not depend on what follows."""
        found = self._give(divide(self._pieces, self._settings, ended=False))
        # Before this sample, the next piece does not end: a cut leaves at least half of max_duration.
        next_end = min(self._open[1], self._open[0] + self._longest // 2) if self._open else self._rule.next_start
        starts = part_starts(self._pieces, self._settings)
        # The part that the next piece will be in begins with it or with one of those before; what lies before that
        # part follows, and what follows in all cases is decided.
        cases = [i for i, (start, _) in enumerate(self._pieces) if next_end - start <= self._longest]
        chains = [part_bounds(starts, i) for i in (*cases, len(self._pieces))]
        common = [i for i in chains[-1] if all(i in chain for chain in chains)]
        return found + self._give(common)

    def _close(self) -> list[Segment]:
        """Ends the segment."""
        self._pieces, self._open = self._all_pieces(), None
        return self._give(divide(self._pieces, self._settings))

    def _all_pieces(self) -> list[Span]:
        return self._pieces + (cut(self._open, self._read, self._settings) if self._open else [])

    def _give(self, bounds: list[int]) -> list[Segment]:
        found = [self._mark(self._pieces[i][0], self._pieces[j - 1][1]) for i, j in pairwise(bounds)]
        del self._pieces[: bounds[-1]]
        return found

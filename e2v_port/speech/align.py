"""Matches the segments of a transcript to judged segments."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Timed", "align"]


class Timed(Protocol):
    """Anything with a start and an end, in seconds."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102


def align(emotions: Sequence[Timed], transcript: Sequence[Timed]) -> list[int | None]:
    """Finds the judged segment of each segment of a transcript, by the largest overlap in time.

    The times of a transcript and of speech segments come from different models, so the segment with the nearest start
    is often a neighbor. Takes n log n steps, however many segments overlap and however long they are.

    Args:
        emotions: Judged segments in any order; they may overlap.
        transcript: Segments with text in any order; they may overlap.

    Returns:
        For each segment of the transcript, the index of the judged segment with the largest overlap, to a microsecond:
        of several, the one that starts first, then the longest. None if there is no overlap.
    """
    kept: list[int] = []
    starts: list[float] = []
    ends: list[float] = []
    for i in sorted(range(len(emotions)), key=lambda i: (emotions[i].start, -emotions[i].end)):
        start, end = round(emotions[i].start, 6), round(emotions[i].end, 6)
        # One that lies within an earlier one never wins. Without those, ends are in order as starts are.
        if end > start and (not ends or end > ends[-1]):
            kept.append(i)
            starts.append(start)
            ends.append(end)
    longest = _Longest([end - start for start, end in zip(starts, ends, strict=True)])
    matches: list[int | None] = []
    for segment in transcript:
        start, end = round(segment.start, 6), round(segment.end, 6)
        first, beyond = bisect_right(ends, start), bisect_left(starts, end)  # those with an overlap
        over_start = bisect_right(starts, start) - 1  # of those that begin before it, the last reaches furthest
        over_end = bisect_left(ends, end)  # of those that end after it, the first begins earliest
        if over_end <= over_start:  # holds the whole segment
            candidates = [over_end]
        else:
            candidates = [k for k in (over_start, over_end) if first <= k < beyond]
            candidates += longest.between(over_start + 1, over_end)
        shared = [(round(min(ends[k], end) - max(starts[k], start), 6), -k) for k in candidates]
        most, place = max(shared, default=(0.0, 0))
        matches.append(kept[-place] if most > 0 else None)
    return matches


class _Longest:
    """Answers in constant time which of neighboring lengths is the longest: a sparse table, of n log n places."""

    def __init__(self, lengths: list[float]) -> None:
        self._tables = [[(round(length, 6), -k) for k, length in enumerate(lengths)]]
        for power in range(len(lengths).bit_length() - 1):
            table = self._tables[-1]
            self._tables.append([max(pair) for pair in zip(table, table[1 << power :], strict=False)])

    def between(self, first: int, beyond: int) -> list[int]:
        """Returns the place of the longest from `first` to before `beyond`, the first of several; none if empty."""
        if first >= beyond:
            return []
        power = (beyond - first).bit_length() - 1
        table = self._tables[power]
        return [-max(table[first], table[beyond - (1 << power)])[1]]

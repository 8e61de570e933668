"""Windows over speech: parts of a clip that are short enough to hold one voice each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from e2v_port.speech.segment import Span
from e2v_port.speech.split import join_across_pauses

__all__ = ["Run", "Window", "over", "runs"]


@dataclass(frozen=True)
class Run:
    """Speech without a pause in which the speaker would be sure to change.

    Attributes:
        spans: Spans of speech in it, in order, at least one; in samples.
        segment: Number of the segment that it lies in.
    """

    spans: tuple[Span, ...]
    segment: int

    @property
    def start(self) -> int:
        """First sample."""
        return self.spans[0][0]

    @property
    def end(self) -> int:
        """Sample after the last."""
        return self.spans[-1][1]


@dataclass(frozen=True)
class Window:
    """A part of a run whose voice is taken as one.

    Attributes:
        start: First sample that the encoder hears.
        end: Sample after the last that it hears.
        first: First sample that the window decides about.
        last: Sample after the last that it decides about: the windows of a run share it out among themselves.
        run: Number of its run.
    """

    start: int
    end: int
    first: int
    last: int
    run: int


def runs(spans: Sequence[Span], segment: int, pause: int) -> list[Run]:
    """Joins spans of speech across pauses shorter than `pause` samples.

    Args:
        spans: Spans of speech within one segment, in order.
        segment: Number of that segment.
        pause: Shortest pause that ends a run, in samples.
    """
    return [Run(tuple(group), segment) for group in join_across_pauses(list(spans), pause)]


def over(parts: Iterable[Run], length: int, hop: int) -> list[Window]:
    """Lays windows over runs, evenly from the first sample of a run to its last.

    Args:
        parts: Runs in order.
        length: Length of a window, in samples; a shorter run is one window.
        hop: Largest distance between two windows of a run, in samples, at most `length`.

    Returns:
        Windows in order. Together they decide about each sample of each run once.
    """
    found = []
    for number, run in enumerate(parts):
        rest = run.end - run.start - length
        count = 1 if rest <= 0 else -(-rest // hop) + 1
        starts = [run.start + (rest * i // (count - 1) if count > 1 else 0) for i in range(count)]
        ends = [min(start + length, run.end) for start in starts]
        middles = [(low + high) // 2 for low, high in zip(starts, ends, strict=True)]
        edges = [run.start, *((one + other) // 2 for one, other in pairwise(middles)), run.end]
        found += [
            Window(start, end, first, last, number)
            for start, end, (first, last) in zip(starts, ends, pairwise(edges), strict=True)
        ]
    return found

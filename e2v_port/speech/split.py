"""Splits speech that is longer than a segment may be.

Spans of speech -> pieces, separated by pauses or by cuts -> parts, each of one or more pieces.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.audio import Waveform
from e2v_port.speech.segment import SegmentSettings, Span, to_samples

__all__ = ["cut", "divide", "join_across_pauses", "part_bounds", "part_starts", "split_long"]

_WINDOW, _HOP = 800, 160  # samples: 50 ms every 10 ms, to find a quiet point between two sounds
_HORIZON = 3  # times max_duration: how far ahead the best split is searched; chosen here, not from a paper


def join_across_pauses(spans: list[Span], pause: int) -> list[list[Span]]:
    """Groups the spans of speech that have pauses shorter than `pause` samples between them."""
    groups: list[list[Span]] = []
    for span in spans:
        if groups and span[0] - groups[-1][-1][1] < pause:
            groups[-1].append(span)
        else:
            groups.append([span])
    return groups


def split_long(spans: list[Span], waveform: Waveform, settings: SegmentSettings) -> list[Span]:
    """Splits one segment into parts if it is too long.

    Args:
        spans: Spans of speech in the segment, in order.
        waveform: [samples], of the whole clip.
        settings: Lengths.

    Returns:
        Parts in order; the segment itself if it is not too long.
    """
    longest = to_samples(settings.max_duration)
    if spans[-1][1] - spans[0][0] <= longest:
        return [(spans[0][0], spans[-1][1])]
    units = [(group[0][0], group[-1][1]) for group in join_across_pauses(spans, to_samples(settings.split_pause))]
    pieces = [piece for unit in units for piece in cut(unit, lambda low, high: waveform[low:high], settings)]
    bounds = divide(pieces, settings)
    return [(pieces[i][0], pieces[j - 1][1]) for i, j in pairwise(bounds)]


def divide(pieces: Sequence[Span], settings: SegmentSettings, *, ended: bool = True) -> list[int]:
    """Groups the pieces of an over-long segment into parts, fixing each part once three maximum lengths are known.

    The first part is the first one of the best grouping of the pieces that end within 3 times `max_duration`; the next
    part is found in the same way from there. So a split does not depend on words minutes later, and a stream can make
    the same ones.

    Args:
        pieces: Pieces in order, none longer than `max_duration`.
        settings: Lengths.
        ended: False for a segment that continues: only parts that do not depend on the rest of it are fixed.

    Returns:
        Index of the first piece of each part, then the end of the last part.
    """
    horizon = _HORIZON * to_samples(settings.max_duration)
    bounds = [0]
    for j, (_, end) in enumerate(pieces):
        while end - pieces[bounds[-1]][0] > horizon:
            known = pieces[bounds[-1] : j]
            bounds.append(bounds[-1] + part_bounds(part_starts(known, settings), len(known))[1])
    if ended:
        rest = pieces[bounds[-1] :]
        bounds += [bounds[-1] + bound for bound in part_bounds(part_starts(rest, settings), len(rest))[1:]]
    return bounds


def part_starts(pieces: Sequence[Span], settings: SegmentSettings) -> list[int]:
    """Finds the best grouping of the pieces of an over-long segment into parts.

    Args:
        pieces: Pieces in order, none longer than `max_duration`.
        settings: Lengths.

    Returns:
        For the first 0, 1, 2 ... pieces on their own: the index of the first piece of their last part. It does not
        depend on the pieces after them.
    """
    longest, preferred = to_samples(settings.max_duration), to_samples(settings.preferred_duration)
    # The best grouping of the first j pieces: its cost, and the index of the first piece of its last part.
    best = [((0, 0, 0, 0), 0)]
    for j, (_, end) in enumerate(pieces, 1):
        candidates = []
        for i in reversed(range(j)):
            length = end - pieces[i][0]
            if length > longest:
                break
            doubtful = (length < to_samples(settings.min_duration)) + (length < to_samples(settings.low_confidence))
            short, long, count, squares = best[i][0]
            candidates.append(((short + doubtful, long + (length > preferred), count + 1, squares + length**2), i))
        best.append(min(candidates))
    return [i for _, i in best]


def part_bounds(starts: Sequence[int], pieces: int) -> list[int]:
    """Follows the result of `part_starts` back from a number of pieces.

    Args:
        starts: Result of `part_starts`.
        pieces: Number of pieces to group.

    Returns:
        Index of the first piece of each part, then the number of pieces.
    """
    bounds = [pieces]
    while bounds[-1]:
        bounds.append(starts[bounds[-1]])
    return bounds[::-1]


def cut(
    span: Span, read: Callable[[int, int], Waveform], settings: SegmentSettings, *, ended: bool = True
) -> list[Span]:
    """Cuts speech without pauses at its quietest points if it is too long.

    Args:
        span: Position of the speech.
        read: Function that returns the waveform between two samples.
        settings: Lengths.
        ended: False for speech that continues: only cuts that do not depend on its end are made, and the last piece
            is the rest that may still be cut.

    Returns:
        Pieces in order, without gaps.
    """
    start, end = span
    longest, rest = to_samples(settings.max_duration), to_samples(settings.low_confidence)
    pieces = []
    while end - start > (longest if ended else longest + rest):
        # Neither bound is closer than half a window to the ends, since min_duration is at least as long.
        low, high = start + longest // 2, min(start + longest, end - rest)
        squares = read(low - _WINDOW // 2, high + _WINDOW // 2).astype(np.float64) ** 2
        energies = sliding_window_view(squares, _WINDOW)[::_HOP].sum(axis=1)
        at = low + _HOP * int(energies.argmin())
        pieces.append((start, at))
        start = at
    return [*pieces, (start, end)]

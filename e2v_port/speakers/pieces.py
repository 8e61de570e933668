"""Pieces of speech with one voice each, and the segments that they make."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.speakers.windows import Run, Window
from e2v_port.speech.segment import Quality, Segment, SegmentSettings, Span, spans_between, to_segment
from e2v_port.speech.split import split_long

__all__ = ["Owned", "Piece", "labeled", "segmented", "settled"]

_QUIET, _STEP = 800, 160  # samples: 50 ms every 10 ms, to find a quiet point between two speakers


@dataclass(frozen=True)
class Piece:
    """Speech of one voice without a longer pause.

    Attributes:
        spans: Spans of speech in it, in order, at least one; in samples.
        segment: Number of the segment that it lies in.
        voice: Number of the voice; None if it is too short to tell.
        lead: How much more it is like this voice than like the next best one; infinity if there is only one.
    """

    spans: tuple[Span, ...]
    segment: int
    voice: int | None
    lead: float = np.inf

    @property
    def start(self) -> int:
        """First sample."""
        return self.spans[0][0]

    @property
    def end(self) -> int:
        """Sample after the last."""
        return self.spans[-1][1]

    @property
    def spoken(self) -> int:
        """Samples of speech."""
        return sum(end - start for start, end in self.spans)


class Owned(NamedTuple):
    """A segment and whose it is.

    Attributes:
        segment: The segment.
        voice: Number of the voice; None if it is too short to tell.
        lead: How much more it is like this voice than like the next best one.
    """

    segment: Segment
    voice: int | None
    lead: float


def labeled(
    windows: Sequence[Window],
    runs: Sequence[Run],
    like: NDArray[np.float32],
    sound: Callable[[int], Waveform],
) -> list[Piece]:
    """Gives each window the voice that it is most like, and joins neighbors of one run.

    Where the voice changes within a run, it is cut in the longest pause between the middles of the two windows; without
    one, in the quietest 50 ms there.

    Args:
        windows: Windows in order of their runs.
        runs: The runs.
        like: [windows, voices], similarity of each window to each voice.
        sound: Returns the waveform in which a segment of this number is heard.
    """
    order = np.sort(like, axis=1)
    leads = order[:, -1] - order[:, -2] if like.shape[1] > 1 else np.full(len(like), np.inf)
    voices = like.argmax(1).tolist()
    pieces = []
    for number, group in groupby(range(len(windows)), key=lambda i: windows[i].run):
        run, own = runs[number], list(group)
        parts = [list(part) for _, part in groupby(own, key=lambda i: voices[i])]
        cuts = [run.start]
        for one, other in pairwise(parts):
            before, after = windows[one[-1]], windows[other[0]]
            low, high = (before.first + before.last) // 2, (after.first + after.last) // 2
            cuts.append(_quiet(run.spans, low, high, sound(run.segment)))
        for part, (low, high) in zip(parts, pairwise([*cuts, run.end]), strict=True):
            spans = tuple((max(start, low), min(end, high)) for start, end in spans_between(list(run.spans), low, high))
            sizes = [windows[i].last - windows[i].first for i in part]
            lead = float(np.average(leads[part], weights=sizes)) if like.shape[1] > 1 else np.inf
            if spans:
                pieces.append(Piece(spans, run.segment, voices[part[0]], lead))
    return pieces


def _quiet(spans: Sequence[Span], low: int, high: int, waveform: Waveform) -> int:
    """Returns where speech between two samples is cut: in the middle of its longest pause or quietest 50 ms."""
    pauses = [(end, start) for (_, end), (start, _) in pairwise(spans) if low <= (end + start) // 2 <= high]
    if pauses:
        start, end = max(pauses, key=lambda pause: pause[1] - pause[0])
        return (start + end) // 2
    heard = waveform[low:high].astype(np.float64)
    if len(heard) <= _QUIET:
        return (low + high) // 2
    energies = sliding_window_view(heard**2, _QUIET)[::_STEP].sum(axis=1)
    return low + _QUIET // 2 + _STEP * int(energies.argmin())


def settled(pieces: Sequence[Piece], shortest: int, pause: int) -> list[Piece]:
    """Gives speech that is too short to tell its voice to a neighbor.

    Args:
        pieces: Pieces of one channel, in order.
        shortest: Shortest speech of one voice in a row that is named by it, in samples.
        pause: Shortest pause that parts neighbors, in samples.

    Returns:
        The pieces. A short one has the voice of its neighbor across the shorter pause, of two equal ones that of the
        longer; without a neighbor of sufficient length it has none.
    """
    rows: list[list[Piece]] = []
    for piece in pieces:
        if rows and rows[-1][-1].voice == piece.voice and piece.start - rows[-1][-1].end < pause:
            rows[-1].append(piece)
        else:
            rows.append([piece])
    long = [sum(piece.spoken for piece in row) >= shortest for row in rows]
    done = []
    for i, row in enumerate(rows):
        if long[i]:
            done += row
            continue
        near = []
        for k in (i - 1, i + 1):
            if 0 <= k < len(rows) and long[k]:
                gap = max(rows[k][0].start - row[-1].end, row[0].start - rows[k][-1].end)
                near += [(gap, -sum(piece.spoken for piece in rows[k]), rows[k][0].voice)] if gap < pause else []
        voice = min(near)[2] if near else None
        done += [replace(piece, voice=voice, lead=np.inf) for piece in row]
    return done


def segmented(
    pieces: Sequence[Piece],
    segments: Mapping[int, Segment],
    waveform: Waveform,
    settings: SegmentSettings,
) -> Iterator[Owned]:
    """Makes segments of one voice each.

    Segments in which one voice speaks stay as they are. Where several do, the segment and its neighbors without a
    text, up to a pause of `merge_gap`, are divided anew: where the voice changes, and where they would be too long.

    Args:
        pieces: Pieces of one channel, in order; each segment has one at least.
        segments: The segments of that channel, by number, in order.
        waveform: [samples], the sound of that channel.
        settings: Lengths.
    """
    of = {number: [piece for piece in pieces if piece.segment == number] for number in segments}
    for group in _groups(segments, settings.merge_gap):
        own = [piece for number in group for piece in of[number]]
        if len({piece.voice for piece in own}) == 1 or segments[group[0]].text is not None:
            yield from (Owned(segments[number], *_main(of[number])) for number in group)
            continue
        everything = [span for piece in own for span in piece.spans]
        for voice, row in groupby(own, key=lambda piece: piece.voice):
            said = list(row)
            source = segments[said[0].segment]
            for part in split_long([span for piece in said for span in piece.spans], waveform, settings):
                made = to_segment(part, everything, settings)
                quality: Quality = "low_confidence" if source.doubts and made.quality == "normal" else made.quality
                made = replace(made, quality=quality, channel=source.channel, doubts=source.doubts)
                yield Owned(
                    made, voice, _main([piece for piece in said if piece.start < part[1] and piece.end > part[0]])[1]
                )


def _groups(segments: Mapping[int, Segment], pause: float) -> list[list[int]]:
    """Returns the numbers of segments that may be divided anew together; one with a text is alone."""
    groups: list[list[int]] = []
    for number, segment in segments.items():
        before = segments[groups[-1][-1]] if groups else None
        if before and before.text is None and segment.text is None and segment.start - before.end < pause:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _main(pieces: Sequence[Piece]) -> tuple[int | None, float]:
    """Returns the voice that speaks longest in pieces, and how much more they are like it than like the next."""
    spoken: dict[int | None, int] = {}
    for piece in pieces:
        spoken[piece.voice] = spoken.get(piece.voice, 0) + piece.spoken
    voice = max(spoken, key=lambda each: (spoken[each], each is not None))
    own = [piece for piece in pieces if piece.voice == voice and np.isfinite(piece.lead)]
    if not own:
        return voice, np.inf
    return voice, float(np.average([piece.lead for piece in own], weights=[max(piece.spoken, 1) for piece in own]))

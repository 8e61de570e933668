"""Makes segments of those that the caller supplies."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple, TypeAlias

from e2v_port.audio import SAMPLING_RATE, Note, Waveform
from e2v_port.errors import SegmentError
from e2v_port.speech.detect import speech_spans
from e2v_port.speech.segment import (
    DEFAULTS,
    GivenSegment,
    Quality,
    Segment,
    SegmentSettings,
    Span,
    TimedWord,
    spans_between,
    to_samples,
    to_segment,
)
from e2v_port.speech.silero import speech_probabilities
from e2v_port.speech.split import split_long

__all__ = ["Given", "from_given"]

# Tolerance for overlaps, in seconds: Whisper's times are multiples of it, and other formats round by less.
_ROUNDING = 0.02
# Seconds that a segment may end after the clip. Programs that pad the end of a clip with silence place ends there: by
# 0.49 s in a report on DiariZen (its issue 22), 0.02 s on faster-whisper (its issue 1334). Twice the former.
_LATE = 1.0
# Share of a segment in which somebody else speaks as well, from which its judgement is less certain. Measured, see
# docs/analysis.md: two voices of equal level, of which the second speaks during a share of the clip.
_OVERLAP = 0.1

_Voice: TypeAlias = tuple[str | None, int | None]  # speaker, channel


class Given(NamedTuple):
    """Segments made of given ones.

    Attributes:
        segments: Segments by start, then end, none longer than `max_duration`.
        notes: What was changed: `clipped_end`, `merged`, `strangers_removed`, `words_left_out`.
    """

    segments: list[Segment]
    notes: list[Note]


@dataclass(frozen=True)
class _Turn:
    """A given segment in samples; or a part of one, or several in one."""

    start: int
    end: int
    source: GivenSegment
    heard: int | None  # channel of the sound it is heard in; None for a sound that may hold all of them
    joined: int = 1  # given segments in it

    @property
    def voice(self) -> _Voice:
        return self.source.speaker, self.source.channel


def from_given(
    given: Iterable[GivenSegment],
    waveform: Waveform | Mapping[int | None, Waveform],
    settings: SegmentSettings = DEFAULTS,
) -> Given:
    """Makes segments of those that the caller supplies.

    * One that ends up to 1 s after the clip, as Whisper and diarizers place ends, is cut there.
    * The time of speakers who are not enrolled is cut out of everybody's segments. It reaches no model; what is left
      of a segment becomes one or several.
    * One shorter than `low_confidence` is joined with its neighbor of the same speaker, across the shorter pause, where
      that is shorter than `merge_gap`, nobody else speaks in it, and both are no longer than `max_duration` together:
      diarization cuts turns. Their texts are joined. Longer segments stay apart, as the sentences they often are.
    * One longer than `max_duration` is split, as in `detect`, with the pauses between the parts left out. Parts keep
      the speaker, and their words where those have times. Otherwise they have no text, since it is unknown which words
      fall into which part, and a note says so (`e2v_port.speech.align.align` maps the parts back to the text).

    Segments of different speakers may overlap, as diarization finds them; a model then hears both. Where that is at
    least a tenth of a segment, its quality is at most `low_confidence` and it has the doubt `overlap`. Times are
    rounded to whole samples. Overlaps of one speaker by no more than 20 ms, Whisper's rounding, are removed.

    Args:
        given: Segments in any order.
        waveform: [samples], float32, 16 kHz, of the whole clip; or that of each channel, by its number, where None is
            their mix. Each segment is heard on its channel.
        settings: Lengths; and the threshold, which decides what counts as speech and as a pause.

    Returns:
        The segments, with those of speakers who are not enrolled among them, and notes on what was changed.

    Raises:
        SegmentError: A segment begins after the clip or ends more than 1 s after it, or overlaps another one of the
            same speaker (of segments without a speaker: any other one without).
    """
    given = list(given)
    if not given:
        return Given([], [])
    apart = isinstance(waveform, Mapping)
    waveforms: dict[int | None, Waveform] = dict(waveform) if isinstance(waveform, Mapping) else {None: waveform}
    turns, notes = _checked(given, len(next(iter(waveforms.values()))), apart)
    strangers = [turn for turn in turns if not turn.source.enrolled]
    known = [turn for turn in turns if turn.source.enrolled]
    if strangers:
        barred = [(turn.start, turn.end, turn.heard) for turn in strangers]
        known, hidden, removed = _without(known, barred)
        strangers += hidden
        places = [(turn.start, turn.end, turn.heard) for turn in strangers]
        for channel, sound in waveforms.items():
            silenced = sound.copy()
            for start, end in _heard(places, channel):
                silenced[start:end] = 0
            waveforms[channel] = silenced
        if removed:
            seconds = removed / SAMPLING_RATE
            text = (
                f"{seconds:.2f} s in which a speaker who is not enrolled speaks were cut out of the segments of others"
            )
            notes.append(Note("strangers_removed", text))
    merged = _merged(known, turns, settings)
    if less := len(known) - len(merged):
        became = sum(turn.joined > 1 for turn in merged)
        why = f"those below {settings.low_confidence:g} s are joined with their neighbor of the same speaker"
        notes.append(Note("merged", f"{less + became} given segments became {became}: {why}"))
    channels = {turn.heard for turn in known}
    crowded = {channel: _crowded(known, channel) for channel in channels}
    spans = {channel: _spoken(waveforms[channel], settings) for channel in channels}
    segments = [
        Segment(
            turn.start / SAMPLING_RATE,
            turn.end / SAMPLING_RATE,
            "not_enrolled",
            turn.source.speaker,
            turn.source.text,
            turn.source.channel,
        )
        for turn in strangers
    ]
    wordless: list[float] = []
    for turn in merged:
        channel = turn.heard
        parts = _segments(turn, spans[channel], crowded[channel], waveforms[channel], settings)
        segments += parts
        if turn.source.text and not any(part.text for part in parts):
            wordless.append(turn.start / SAMPLING_RATE)
    if wordless:
        long = (
            f"{len(wordless)} given segment{'s' if len(wordless) > 1 else ''} longer than {settings.max_duration:g} s"
        )
        first = ", ".join(f"{start:.2f} s" for start in wordless[:3]) + (", ..." if len(wordless) > 3 else "")
        why = "split, and without their times it is unknown where each belongs"
        notes.append(Note("words_left_out", f"the words of {long} were left out, from {first}: it was {why}"))
    return Given(sorted(segments, key=lambda segment: (segment.start, segment.end)), notes)


def _spoken(waveform: Waveform, settings: SegmentSettings) -> list[Span]:
    return speech_spans(speech_probabilities(waveform, settings.max_gain), waveform, settings)


def _segments(
    turn: _Turn, spans: list[Span], crowded: list[Span], waveform: Waveform, settings: SegmentSettings
) -> list[Segment]:
    """Returns a turn as segments: its parts if it is too long, graded."""
    start, end = turn.start, turn.end
    spoken = [(max(start, a), min(end, b)) for a, b in spans_between(spans, start, end)] or [(start, end)]
    spoken[0] = (start, spoken[0][1])
    spoken[-1] = (spoken[-1][0], end)
    parts = split_long(spoken, waveform, settings)
    made = []
    for part, (text, words) in zip(parts, _worded(turn.source, parts), strict=True):
        segment = replace(
            to_segment(part, spans, settings),
            speaker=turn.source.speaker,
            text=text,
            channel=turn.source.channel,
            words=words,
        )
        shared = sum(min(part[1], b) - max(part[0], a) for a, b in spans_between(crowded, *part))
        if shared and shared >= _OVERLAP * (part[1] - part[0]):
            quality: Quality = "low_confidence" if segment.quality == "normal" else segment.quality
            segment = replace(segment, quality=quality, doubts=("overlap",))
        made.append(segment)
    return made


def _worded(source: GivenSegment, parts: Sequence[Span]) -> list[tuple[str | None, tuple[TimedWord, ...] | None]]:
    """Returns text and words of each part of a given segment; a word belongs to the part that holds most of it."""
    if len(parts) == 1:
        return [(source.text, source.words)]
    if not source.words:
        return [(None, None)] * len(parts)
    own: list[list[TimedWord]] = [[] for _ in parts]
    for word in source.words:
        start, end = to_samples(word.start), to_samples(word.end)
        own[max(range(len(parts)), key=lambda i: min(end, parts[i][1]) - max(start, parts[i][0]))].append(word)
    return [("".join(word.text for word in words).strip() or None, tuple(words) or None) for words in own]


def _checked(given: Iterable[GivenSegment], samples: int, apart: bool) -> tuple[list[_Turn], list[Note]]:
    """Returns the supplied segments by start, moved within the tolerances; raises SegmentError.

    Args:
        given: The segments.
        samples: Length of the clip.
        apart: Whether each is heard on its own channel.
    """
    turns: list[_Turn] = []
    last: dict[_Voice, int] = {}
    late: list[float] = []
    for item in sorted(given, key=lambda item: (item.start, item.end)):
        voice = (item.speaker, item.channel)
        # A time far beyond the clip is not turned into samples, of which there could be too many for a number.
        limit = samples / SAMPLING_RATE + 2 * _LATE
        open_end = math.isinf(item.end)
        start, end = to_samples(min(item.start, limit)), samples if open_end else to_samples(min(item.end, limit))
        if start > samples + to_samples(_ROUNDING) or end > samples + to_samples(_LATE):
            raise SegmentError(
                f"{_described(item)} lies beyond the end of the clip at {samples / SAMPLING_RATE:.3f} s: "
                "give the segments of this clip, in seconds"
            )
        before = last.get(voice, 0)
        if start < before - to_samples(_ROUNDING):
            raise SegmentError(
                f"{_described(item)} overlaps the one before, which ends at {before / SAMPLING_RATE:.3f} s: "
                "correct the times, or name the speakers where two speak at once"
            )
        if end > samples + to_samples(_ROUNDING):
            late.append(end / SAMPLING_RATE - samples / SAMPLING_RATE)
        start = min(max(start, before), samples)
        end = last[voice] = min(max(start, end), samples)
        turns.append(_Turn(start, end, item, item.channel if apart else None))
    notes = []
    if late:
        count = "a given segment was" if len(late) == 1 else f"{len(late)} given segments were"
        text = f"{count} cut at the end of the clip, up to {max(late):.2f} s before the end given"
        notes.append(Note("clipped_end", text))
    return turns, notes


def _described(item: GivenSegment) -> str:
    """Returns a segment for an error message, with its place in the file it was read from."""
    place = f"{item.place}: " if item.place else ""
    speaker = "" if item.speaker is None else f" of speaker {item.speaker[:40]!r}"
    return f"{place}the segment from {item.start:.3f} to {item.end:.3f} s{speaker}"


def _united(spans: Iterable[Span]) -> list[Span]:
    """Returns spans in order and without overlaps."""
    united: list[Span] = []
    for start, end in sorted(spans):
        if united and start <= united[-1][1]:
            united[-1] = united[-1][0], max(end, united[-1][1])
        else:
            united.append((start, end))
    return united


def _heard(spans: Iterable[tuple[int, int, int | None]], channel: int | None) -> list[Span]:
    """Returns the spans that a channel may hold: its own and those of an unknown channel; all of them for the mix."""
    return [(start, end) for start, end, other in spans if channel is None or other in {None, channel}]


def _without(turns: list[_Turn], barred: Sequence[tuple[int, int, int | None]]) -> tuple[list[_Turn], list[_Turn], int]:
    """Cuts spans out of turns.

    Returns:
        What is left of the turns; those of which nothing is left; and the number of samples cut out.
    """
    cuts = {channel: _united(_heard(barred, channel)) for channel in {turn.heard for turn in turns}}
    left: list[_Turn] = []
    hidden: list[_Turn] = []
    removed = 0
    for turn in turns:
        parts = []
        start = turn.start
        for low, high in spans_between(cuts[turn.heard], turn.start, turn.end):
            parts += [(start, low)] if start < low else []
            start = max(start, high)
        parts += [(start, turn.end)] if start < turn.end or turn.start == turn.end else []
        removed += turn.end - turn.start - sum(end - start for start, end in parts)
        # Which words fall into which part is unknown.
        source = turn.source if len(parts) <= 1 else replace(turn.source, text=None, words=None)
        left += [_Turn(*part, source, turn.heard) for part in parts]
        hidden += [] if parts else [turn]
    return left, hidden, removed


def _crowded(turns: Iterable[_Turn], channel: int | None) -> list[Span]:
    """Returns where at least two turns overlap, in order; those of one voice never do."""
    spans = _heard(((turn.start, turn.end, turn.heard) for turn in turns), channel)
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    found: list[Span] = []
    for (at, _), (until, _), voices in zip(changes, changes[1:], accumulate(step for _, step in changes), strict=False):
        if voices > 1 and at < until:
            found.append((at, until))
    return _united(found)


def _merged(turns: list[_Turn], everybody: Sequence[_Turn], settings: SegmentSettings) -> list[_Turn]:
    """Joins short turns with their neighbors of the same voice, as `from_given` describes."""
    short, longest = to_samples(settings.low_confidence), to_samples(settings.max_duration)
    by_start = sorted((turn.start, turn.end) for turn in everybody)
    starts = [start for start, _ in by_start]
    furthest = list(accumulate((end for _, end in by_start), max))

    def joinable(one: _Turn, other: _Turn) -> bool:
        # Whoever is heard between two neighbors of one voice is somebody else.
        earlier = bisect_left(starts, other.start)
        alone = not earlier or furthest[earlier - 1] <= one.end or other.start == one.end
        close = other.start - one.end < to_samples(settings.merge_gap) and other.end - one.start <= longest
        return alone and close and min(one.end - one.start, other.end - other.start) < short

    voices: dict[_Voice, list[_Turn]] = {}
    for turn in turns:
        voices.setdefault(turn.voice, []).append(turn)
    merged: list[_Turn] = []
    for own in voices.values():
        done: list[_Turn] = []
        for turn, following in zip(own, [*own[1:], None], strict=True):
            if done and joinable(done[-1], turn):
                before = done[-1]
                pause = turn.start - before.end
                alone = before.end - before.start >= short  # needs no neighbor itself
                later = following is not None and joinable(turn, following) and following.start - turn.end < pause
                if not (alone and later):
                    done[-1] = _joined(before, turn)
                    continue
            done.append(turn)
        merged += done
    return sorted(merged, key=lambda turn: (turn.start, turn.end))


def _joined(one: _Turn, other: _Turn) -> _Turn:
    texts = [text for text in (one.source.text, other.source.text) if text]
    known = [source.words or () for source in (one.source, other.source) if source.text]
    words = [word._replace(text=f"{word.text.rstrip()} ") if word is own[-1] else word for own in known for word in own]
    source = replace(one.source, text=" ".join(texts) or None, words=tuple(words) if known and all(known) else None)
    return _Turn(one.start, other.end, source, one.heard, one.joined + other.joined)

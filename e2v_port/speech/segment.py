"""A segment of speech, and the settings that decide where one begins and ends."""

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE
from e2v_port.errors import SegmentError, check_numbers, quoted

__all__ = [
    "DEFAULTS",
    "GivenSegment",
    "Quality",
    "Segment",
    "SegmentSettings",
    "Span",
    "TimedWord",
    "spans_between",
    "to_samples",
    "to_segment",
]

Quality: TypeAlias = Literal["normal", "low_confidence", "too_short", "no_speech", "not_enrolled"]

Span: TypeAlias = tuple[int, int]  # samples, the end excluded


@dataclass(frozen=True)
class SegmentSettings:
    """Rules for turning speech into segments. A pause is the gap between two spans in which silero hears speech.

    Attributes:
        speech_threshold: Speech probability at which speech starts, between 0 and 1. It ends where the probability
            falls 0.15 below. Both are silero's defaults.
        merge_gap: Shortest pause that ends a segment, in seconds. The default comes from an earlier deployment of
            these settings: a breath between two sentences does not cut a turn.
        min_duration: Shortest segment that is judged, in seconds, at least 0.025. Below 1 s people do not label
            reliably, and diarization leaves artifacts.
        low_confidence: Shortest segment that is judged with full confidence, in seconds. MSP-Podcast, on which both
            model families were trained, has no clip under 2.75 s, and accuracy on Emo-DB was 8 points lower with
            1.5 s than with 3 s (Csuka et al. 2024, PMC10987695).
        max_duration: Longest segment, in seconds, at least twice `low_confidence`; longer ones are split. The default
            is the longest clip of MSP-Podcast (Busso et al. 2025, arXiv:2509.09791): emotions change within a turn,
            and one label would average them.
        preferred_duration: Longest part that is preferred where such a segment is split, in seconds, above 0. With the
            default, more of the speech gets the right label than without: see "Long segments" in docs/analysis.md.
        split_pause: Shortest pause at which such a segment is split, in seconds, at most `low_confidence`. The default
            is that of MSP-Podcast.
        max_gain: Most that quiet sound is raised before silero hears it, in dB, 0 to 60; 0 to leave it as it is. The
            models hear the clip as it is in any case. The default finds speech 40 dB below its usual level: see
            docs/analysis.md.
    """

    speech_threshold: float = 0.5
    merge_gap: float = 1.5
    min_duration: float = 1.0
    low_confidence: float = 2.0
    max_duration: float = 11.0
    split_pause: float = 0.3
    max_gain: float = 40.0
    preferred_duration: float = 8.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(self)
        for name, holds, bounds in (
            ("speech_threshold", 0 < self.speech_threshold < 1, "between 0 and 1"),
            ("merge_gap", self.merge_gap >= 0, "at least 0 s"),
            ("min_duration", self.min_duration >= MIN_SAMPLES / SAMPLING_RATE, "at least 0.025 s"),
            ("low_confidence", self.low_confidence >= self.min_duration, "at least min_duration"),
            ("max_duration", self.max_duration >= 2 * self.low_confidence, "at least twice low_confidence"),
            ("split_pause", 0 <= self.split_pause <= self.low_confidence, "from 0 s to low_confidence"),
            ("preferred_duration", self.preferred_duration > 0, "above 0 s"),
            ("max_gain", 0 <= self.max_gain <= 60, "from 0 to 60 dB"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {bounds}, not {quoted(getattr(self, name))}")


DEFAULTS = SegmentSettings()
_LATEST = 1e6  # seconds, 11 days: such times are in milliseconds, in samples or since 1970


class TimedWord(NamedTuple):
    """A word of a given segment.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        text: The word, with what follows it up to the next one: a space, or words without times.
        probability: Probability that its recognizer gives it, 0 to 1; None if unknown.
    """

    start: float
    end: float
    text: str
    probability: float | None = None


@dataclass(frozen=True)
class GivenSegment:
    """A segment supplied by the caller: from a diarization, subtitles or a transcript.

    Attributes:
        start: Start, in seconds from the start of the clip, at least 0.
        end: End, in seconds, not before `start`; `math.inf` for the end of the clip.
        speaker: Speaker, if known.
        text: Transcript, if known.
        channel: Channel of the clip in which it is judged, from 1; None for the channels mixed.
        enrolled: Whether the speaker may be listened to. The time of others is not judged and cut out of everybody's
            segments.
        place: Place that it was read from, such as `line 7`, for error messages.
        words: The text word by word, if their times are known: joined, they are the text. Where a segment is split,
            each part gets its own.

    Raises:
        SegmentError: The times are no numbers, negative, reversed or not finite; the speaker or text is no string; or
            the channel is no whole number from 1.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None
    channel: int | None = None
    enrolled: bool = True
    place: str = field(default="", compare=False, repr=False)
    words: tuple[TimedWord, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises SegmentError for values that make no sense, and makes floats of the times."""
        for name in ("start", "end"):
            object.__setattr__(self, name, _seconds(name, getattr(self, name)))
        for name in ("speaker", "text"):
            if not isinstance(getattr(self, name), str | None):
                raise SegmentError(f"{name} {quoted(getattr(self, name))}: give a string, or None")
        if not math.isfinite(self.start) or math.isnan(self.end):
            raise SegmentError(f"from {self.start} to {self.end} s is not finite: give times in seconds")
        if self.start > _LATEST or _LATEST < self.end < math.inf:
            raise SegmentError(f"from {self.start:g} to {self.end:g} s lies beyond any clip: give times in seconds")
        if not 0 <= self.start <= self.end:
            raise SegmentError(f"from {self.start} to {self.end} s: give a start of at least 0, and an end after it")
        if self.channel is not None and (not isinstance(self.channel, int) or self.channel < 1 or self.channel is True):
            raise SegmentError(f"channel {quoted(self.channel)}: channels are numbered from 1")


def _seconds(name: str, value: Any) -> float:
    try:
        if not isinstance(value, str | bytes | bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise SegmentError(f"{name} {quoted(value)}: give times in seconds, as numbers")


@dataclass(frozen=True)
class Segment:
    """A part of a clip that is judged as one.

    Attributes:
        start: Start, in seconds from the start of the clip, on a whole sample.
        end: End, in seconds, on a whole sample.
        quality: How far a judgement of the segment can be trusted:

            * `normal`;
            * `low_confidence`: shorter than `SegmentSettings.low_confidence`, or with `doubts`; a judged segment also
              where its judgement has the note `noisy`;
            * `too_short`: shorter than `SegmentSettings.min_duration`, not judged;
            * `no_speech`: supplied by the caller, but silero hears no speech in it;
            * `not_enrolled`: from a speaker whom the service may not listen to, not examined.
        speaker: Speaker, if the segment was supplied with one.
        text: Transcript, if the segment was supplied with one; of a part of a split one, if its words have times.
        channel: Channel of the clip, from 1; None for the channels mixed.
        doubts: What in its sound makes a judgement less certain, such as `overlap`: notes of the judgement.
        words: The text word by word, if the segment was supplied with the times of its words.
    """

    start: float
    end: float
    quality: Quality
    speaker: str | None = None
    text: str | None = None
    channel: int | None = None
    doubts: tuple[str, ...] = ()
    words: tuple[TimedWord, ...] | None = None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return round(self.end - self.start, 7)  # one sample is 0.0000625 s

    @property
    def samples(self) -> slice:
        """Position in the waveform: `waveform[segment.samples]`."""
        return slice(to_samples(self.start), to_samples(self.end))


def to_samples(seconds: float) -> int:
    """Returns the whole sample nearest to a time."""
    return round(seconds * SAMPLING_RATE)


def spans_between(spans: list[Span], start: int, end: int) -> list[Span]:
    """Returns the spans, of a list in order, that overlap the samples from `start` to `end`."""
    first = bisect_right(spans, start, key=lambda span: span[1])
    return spans[first : bisect_left(spans, end, key=lambda span: span[0])]


def to_segment(part: Span, spoken: list[Span], settings: SegmentSettings) -> Segment:
    """Makes a segment of a part of a clip and grades its quality.

    Args:
        part: Position of the part.
        spoken: Spans of speech in the clip, in order.
        settings: Lengths.
    """
    start, end = part
    quality: Quality = "normal"
    if end - start < to_samples(settings.min_duration):
        quality = "too_short"
    elif not spans_between(spoken, start, end):
        quality = "no_speech"
    elif end - start < to_samples(settings.low_confidence):
        quality = "low_confidence"
    return Segment(start / SAMPLING_RATE, end / SAMPLING_RATE, quality)

"""Turns: what one speaker says at a stretch, and how it sounds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from e2v_port.analysis.judged import JudgedSegment, unjudged_words
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.judgement import Judgement, rivals
from e2v_port.emotions.wording import Wording, weigh
from e2v_port.errors import check_numbers
from e2v_port.llm import describe
from e2v_port.seconds import clock, seconds
from e2v_port.transcribe.valence import TextValence
from e2v_port.transcribe.words import Word

__all__ = ["Turn", "TurnSettings", "spoken", "turns"]

_DOUBTS = ("short", "noisy", "models disagree")  # remarks of a turn if they hold for half of it


@dataclass(frozen=True)
class TurnSettings:
    """Where a turn ends while nobody else speaks. Both are heuristic.

    Attributes:
        pause: Shortest pause that ends a turn, in seconds, at least 0.
        longest: Longest turn made of several segments, in seconds, above 0. A longer segment is a turn of its own.
    """

    pause: float = 2.0
    longest: float = 30.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(self, least=0)
        if not self.longest:
            raise ValueError("longest must be above 0 s")


@dataclass(frozen=True)
class Turn:
    """Segments of one speaker in a row that sound alike. Nobody else speaks between them.

    Attributes:
        segments: Numbers of its segments in `Analysis.segments`, at least one.
        parts: These segments.
        overlap: Whether somebody else speaks during the turn.
        fusion: Thresholds of the judgement.
        wording: Valence of the words beside that of the voice; None without words.
    """

    segments: tuple[int, ...]
    parts: tuple[JudgedSegment, ...]
    overlap: bool
    fusion: FusionSettings = field(repr=False, compare=False)
    wording: Wording | None = None

    @property
    def start(self) -> float:
        """Start in seconds, from the start of the clip."""
        return self.parts[0].start

    @property
    def end(self) -> float:
        """End in seconds."""
        return max(part.end for part in self.parts)

    @property
    def speaker(self) -> str | None:
        """Name of the speaker, if known."""
        return self.parts[0].speaker

    @property
    def channel(self) -> int | None:
        """Channel of the clip, from 1; None for the channels mixed."""
        return self.parts[0].channel

    @property
    def text(self) -> str | None:
        """Words spoken, if they were given or read; None where there are none."""
        return " ".join(part.text for part in self.parts if part.text) or None

    @property
    def words(self) -> tuple[Word, ...] | None:
        """The words of `text` with their times; None unless they were read in the clip or given with times."""
        if all(part.words is None for part in self.parts):
            return None
        return tuple(word for part in self.parts for word in part.words or ())

    @property
    def emotion(self) -> dict[str, Any]:
        """How the turn sounds: averages over its segments, weighted by duration, as `e2v_port.llm.describe.means`."""
        return describe.means(self.parts, self.fusion)

    @property
    def headline(self) -> str | None:
        """The emotion as people read it, in words of doubt where it is in doubt; None if nothing was judged."""
        emotion = self.emotion
        if emotion["unclear"]:
            return f"unclear: {rivals(emotion['emotion'], self._scores)}"
        headline: str | None = emotion["emotion"] or emotion["octant"]
        return headline

    @property
    def caption(self) -> str:
        """How the turn sounds, with a number: `happy 0.82`; in doubt `unclear: angry or sad`; or why it is unknown."""
        emotion, headline = self.emotion, self.headline
        if headline is None:
            return " and ".join(dict.fromkeys(unjudged_words(part.quality) for part in self.parts))
        sure = emotion["emotion"] is not None and not emotion["unclear"]
        return f"{headline} {emotion['confidence']:.2f}" if sure else headline

    @property
    def remarks(self) -> tuple[str, ...]:
        """What must be known of the turn, in words.

        What makes the judgement less certain, if it holds for half of the turn; how much of it was not judged, and why;
        and words and a voice that clearly disagree.
        """
        judgements = [(part.duration, part.judgement) for part in self.parts if part.judgement]
        total = sum(length for length, _ in judgements)
        found = ["overlap"] if self.overlap else []
        for doubt in _DOUBTS if judgements else ():
            if sum(length for length, judgement in judgements if doubt in _doubts(judgement)) >= total / 2:
                found.append(doubt)
        missing: dict[str, float] = {}
        for part in self.parts if judgements else ():
            if not part.judgement:
                why = unjudged_words(part.quality)
                missing[why] = missing.get(why, 0.0) + part.duration
        found += [f"{length:.1f} s {why}" for why, length in missing.items()]
        return (*found, self.wording.mismatch) if self.wording and self.wording.mismatch else tuple(found)

    def to_context(self, notes: Iterable[str] = ()) -> str:
        """Describes the turn to a language model in one line, with its words: see `e2v_port.llm.describe.said`.

        Args:
            notes: Kinds of the notes on the clip; those that change what the line means are said.
        """
        remarks = [f"from {clock(self.start)} to {clock(self.end)}"]
        remarks += ["somebody else speaks as well"] if self.overlap else []
        remarks += [self.wording.mismatch] if self.wording and self.wording.mismatch else []
        return describe.said(self.parts, self.fusion, self.text, remarks, notes)

    @property
    def _scores(self) -> dict[str, float]:
        scored = [(part.duration, part.judgement.scores) for part in self.parts if part.judgement]
        total = sum(duration for duration, _ in scored)
        names = dict.fromkeys(name for _, scores in scored for name in scores or ())
        return {name: sum(time * (scores or {}).get(name, 0.0) for time, scores in scored) / total for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Returns the `turn` object of the JSON dialect."""
        emotion = self.emotion
        heard = emotion.pop("seconds")
        return {
            "start": seconds(self.start),
            "end": seconds(self.end),
            "speaker": self.speaker,
            "channel": self.channel,
            "text": self.text,
            "segments": list(self.segments),
            "overlap": self.overlap,
            "seconds_judged": heard,
            **emotion,
            **({} if self.wording is None else {"wording": self.wording.to_dict()}),
        }


def turns(
    segments: Sequence[JudgedSegment], fusion: FusionSettings, settings: TurnSettings | None = None
) -> tuple[Turn, ...]:
    """Joins the segments of each speaker to turns, in order of time.

    A turn ends where another speaker begins, where the emotion changes (both segments have a label without doubt), at a
    pause, or where it would grow too long. Segments without a speaker count as those of one, on each channel.

    Args:
        segments: All segments of a clip, in order of time.
        fusion: Thresholds of the judgement.
        settings: Where turns end.
    """
    settings = settings or TurnSettings()
    groups: list[list[int]] = []
    for i, segment in enumerate(segments):
        if groups and _continues([segments[k] for k in groups[-1]], segment, settings):
            groups[-1].append(i)
        else:
            groups.append([i])
    return tuple(
        Turn(tuple(group), tuple(segments[i] for i in group), _overlapped(group, segments), fusion) for group in groups
    )


def spoken(
    segments: Sequence[JudgedSegment],
    fusion: FusionSettings,
    valence: TextValence | None = None,
    languages: Mapping[int | None, str | None] | None = None,
) -> tuple[Turn, ...] | None:
    """Returns the turns of a clip; None if no segment has a speaker or words, as without them there are none.

    Args:
        segments: All segments of a clip, in order of time.
        fusion: Thresholds of the judgement.
        valence: What scores the words of each turn; by default VADER.
        languages: Language of the words on each channel; those of others are unknown.
    """
    if not any(segment.speaker or segment.text or segment.words is not None for segment in segments):
        return None
    valence = valence or TextValence()
    languages = languages or {}
    return tuple(_weighed(turn, valence, languages.get(turn.channel)) for turn in turns(segments, fusion))


def _weighed(turn: Turn, valence: TextValence, language: str | None) -> Turn:
    """Returns a turn with the valence of its words beside that of its voice."""
    if turn.text is None:
        return turn
    emotion = turn.emotion
    text, reason = valence.of(turn.text, language)
    voice = emotion["avd_scores"]["valence"] if emotion["avd_scores"] else None
    doubtful = bool(emotion["unclear"])
    wording = weigh(text, voice, emotion["avd_from"], doubtful=doubtful, reason=reason, scorer=valence.name)
    return replace(turn, wording=wording)


def _continues(turn: Sequence[JudgedSegment], segment: JudgedSegment, settings: TurnSettings) -> bool:
    """Returns whether a segment belongs to the turn before it."""
    last = turn[-1]
    return (
        _voice(segment) == _voice(last)
        and (segment.quality == "not_enrolled") == (last.quality == "not_enrolled")
        and segment.start - last.end < settings.pause
        and segment.end - turn[0].start <= settings.longest
        and not _changes(turn, segment)
    )


def _changes(turn: Sequence[JudgedSegment], segment: JudgedSegment) -> bool:
    """Returns whether the emotion of a segment is another than that of the turn so far."""
    before = [*_clear(turn)]
    now = [*_clear([segment])]
    return bool(before and now and before[-1] != now[0])


def _clear(segments: Iterable[JudgedSegment]) -> Iterator[str]:
    """Yields the headlines that are not in doubt."""
    for segment in segments:
        if segment.judgement and not segment.judgement.doubtful:
            yield segment.judgement.headline


def _overlapped(group: Sequence[int], segments: Sequence[JudgedSegment]) -> bool:
    """Returns whether another voice speaks during these segments, or was heard in them."""
    own = [segments[i] for i in group]
    others = [segment for segment in segments if _voice(segment) != _voice(own[0])]
    return any(
        (part.judgement is not None and "overlap" in part.judgement.notes)
        or any(other.start < part.end and part.start < other.end for other in others)
        for part in own
    )


def _doubts(judgement: Judgement) -> tuple[str, ...]:
    return (*judgement.notes, "models disagree") if judgement.agreement == "disagree" else judgement.notes


def _voice(segment: JudgedSegment) -> tuple[str | None, int | None]:
    return segment.speaker, segment.channel

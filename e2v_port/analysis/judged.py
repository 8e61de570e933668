"""Segments with their judgements, as Python and as JSON."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.judgement import Judgement, Shade
from e2v_port.seconds import seconds
from e2v_port.speech.segment import Quality, Segment
from e2v_port.transcribe.words import Word

if TYPE_CHECKING:
    from e2v_port.prosody.measure import Prosody

__all__ = ["JudgedSegment", "graded", "placed", "unjudged_words", "worded"]

_UNJUDGED = {"too_short": "too short to judge", "no_speech": "no speech", "not_enrolled": "not enrolled"}
_Judged = TypeVar("_Judged", bound="JudgedSegment")


@dataclass(frozen=True)
class JudgedSegment:
    """A segment of a clip with its judgement. Fields that no model provided and none could be derived from are None.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        quality: How far the judgement can be trusted, as in `e2v_port.speech.segment.Segment`.
        speaker: Name of the speaker, if given.
        text: Words spoken, if given or read.
        judgement: Judgement by all models together; None for a segment that is too short or has no speech.
        prediction: Estimate of the categorical model alone, before fusion.
        prosody: Measures of the voice; None unless measured, as `analyze(prosody=True)` and `EmotionDetector` do.
        reasons: Findings from these measures in words, such as `elevated pitch`.
        channel: Channel of the clip in which it was judged, from 1; None for the channels mixed.
        words: The words of `text` with their times; None unless they were read in the clip or given with times.
    """

    start: float
    end: float
    quality: Quality
    speaker: str | None
    text: str | None
    judgement: Judgement | None
    prediction: Prediction | None = field(default=None, repr=False)
    prosody: "Prosody | None" = field(default=None, repr=False)
    reasons: tuple[str, ...] = ()
    channel: int | None = None
    words: tuple[Word, ...] | None = None

    @property
    def duration(self) -> float:
        """Duration in seconds."""
        return seconds(self.end - self.start)

    @property
    def emotion(self) -> str | None:
        """The headline: the categorical model's most probable label; None without such a model."""
        return self.judgement.primary if self.judgement else None

    @property
    def confidence(self) -> float | None:
        """Probability of that label after fusion, 0 to 1; None where `emotion` is None."""
        return self.judgement.confidence if self.judgement else None

    @property
    def shade(self) -> Shade | None:
        """The finer emotion of the 26 that the label means here, with a probability of its own."""
        return self.judgement.shade if self.judgement else None

    @property
    def compound(self) -> str | None:
        """The label refined by measured arousal and dominance."""
        return self.judgement.compound if self.judgement else None

    @property
    def dimensions(self) -> Dimensions | None:
        """Raw outputs of the dimensional model, or derived from the labels: see `dimensions_from`."""
        return self.judgement.dimensions if self.judgement else None

    @property
    def dimensions_from(self) -> str | None:
        """Source of the dimensions: `model` if measured; `labels` if derived from the labels, which they repeat."""
        return self.judgement.dimensions_from if self.judgement else None

    @property
    def arousal(self) -> float | None:
        """Arousal, from calm (0) to activated (1)."""
        return self.dimensions.arousal if self.dimensions else None

    @property
    def dominance(self) -> float | None:
        """Dominance, from controlled (0) to in control (1)."""
        return self.dimensions.dominance if self.dimensions else None

    @property
    def valence(self) -> float | None:
        """Valence, from unpleasant (0) to pleasant (1)."""
        return self.dimensions.valence if self.dimensions else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `segment` object of the JSON dialect: plain dicts, lists, strings and floats."""
        return {
            "start": seconds(self.start),
            "end": seconds(self.end),
            "quality": self.quality,
            "speaker": self.speaker,
            "text": self.text,
            "channel": self.channel,
            "emotion": self.judgement.to_dict() if self.judgement else None,
            **({} if self.words is None else {"words": [word.to_dict() for word in self.words]}),
            **({} if self.prosody is None else {"reasons": list(self.reasons), "prosody": self.prosody.to_dict()}),
        }


def placed(
    segment: Segment,
    judgement: Judgement | None = None,
    prediction: Prediction | None = None,
    words: tuple[Word, ...] | None = None,
) -> JudgedSegment:
    """Returns a segment with its judgement, which gets the doubts of the segment as notes, or without one.

    Args:
        segment: The segment.
        judgement: Its judgement.
        prediction: Estimate of the categorical model alone.
        words: Words that were read in it, as in `transcribe.words.shared_out`.
    """
    if judgement and segment.doubts:
        judgement = replace(judgement, notes=(*judgement.notes, *segment.doubts))
    about = (segment.start, segment.end, graded(segment.quality, judgement), segment.speaker, segment.text)
    given = tuple(_bare(Word(*word)) for word in segment.words) if segment.words else None
    judged = JudgedSegment(*about, judgement, prediction, channel=segment.channel, words=given)
    return judged if words is None else worded(judged, words)


def worded(segment: _Judged, words: tuple[Word, ...]) -> _Judged:
    """Returns a segment with the words that were read in it, as a recognizer writes them: some with a space in front.

    Args:
        segment: The segment.
        words: Its words, with times from the start of the clip.
    """
    text = "".join(word.text for word in words).strip() or None
    return replace(segment, text=text, words=tuple(map(_bare, words)))


def _bare(word: Word) -> Word:
    return replace(word, text=word.text.strip())


def graded(quality: Quality, judgement: Judgement | None) -> Quality:
    """Returns the quality of a segment with its judgement: lower if noise or another voice is heard in it."""
    doubtful = judgement is not None and not {"noisy", "overlap"}.isdisjoint(judgement.notes)
    return "low_confidence" if quality == "normal" and doubtful else quality


def unjudged_words(quality: Quality) -> str:
    """Returns in words why a segment of this quality has no judgement."""
    return _UNJUDGED.get(quality, "not judged")

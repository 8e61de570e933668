"""The results of an analysis: judged segments, the models used and the settings, as Python and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from e2v_port.analysis.schema import SCHEMA_VERSION
from e2v_port.audio import Note
from e2v_port.emotions.changes import Boundary, BoundarySettings
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.judgement import Judgement, Shade
from e2v_port.llm import describe
from e2v_port.models.model import Model
from e2v_port.seconds import seconds
from e2v_port.speech.segment import Quality, Segment, SegmentSettings
from e2v_port.transcribe.words import Transcript, Word

if TYPE_CHECKING:
    from e2v_port.prosody.measure import Prosody


__all__ = ["Analysis", "AnalysisSettings", "JudgedSegment", "UsedModel", "graded", "placed", "unjudged"]


@dataclass(frozen=True)
class UsedModel:
    """A model used in an analysis.

    Attributes:
        kind: `categorical` or `dimensional`.
        name: Repository of the model.
        dtype: Number format of its weights.
        runtime: Runtime it ran on.
        licence: License of its weights.
        limited_to: Labels that its answers were limited to, which share the probability among themselves; None for all
            of its labels.
    """

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str
    limited_to: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """Names the model, its runtime and the labels it was limited to."""
        limited = f", limited to {', '.join(self.limited_to)}" if self.limited_to else ""
        return f"{self.name} on {self.runtime}{limited}"

    @classmethod
    def of(cls, kind: str, model: Model) -> "UsedModel":
        """Describes a loaded model."""
        config = model.config
        return cls(kind, config.source.repository, model.dtype, model.runtime, config.licence, model.limited_to)


@dataclass(frozen=True)
class AnalysisSettings:
    """All settings of an analysis besides clip and models.

    Attributes:
        source: Source of the segments: `speech` detected in the clip, `given` by the caller, the `whole` clip, or
            `none` where the service analyzed nothing.
        segments: Thresholds and durations of segments.
        fusion: Thresholds and factors of the judgement.
        boundaries: Settings of the boundaries; None unless they were requested.
    """

    source: str
    segments: SegmentSettings
    fusion: FusionSettings
    boundaries: BoundarySettings | None


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
        prosody: Measures of the voice; None unless measured, as `EmotionDetector` does.
        reasons: Findings from these measures in words, such as `elevated pitch`.
        channel: Channel of the clip in which it was judged, from 1; None for the channels mixed.
        words: The words of `text` with their times; None unless they were read in the clip.
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
        }


@dataclass(frozen=True)
class Analysis:
    """The analysis of one clip.

    Attributes:
        file: Name of the clip.
        duration: Duration of the clip in seconds.
        segments: Segments in order of time, including those that could not be judged (see their `quality`).
        boundaries: Where the emotion changes within the judged segments; None unless requested.
        reason: Reason why no segment was judged; None if one was.
        models: Models used: categorical, dimensional, or both in this order.
        settings: All thresholds of the analysis.
        timings: Seconds spent on the clip, by stage. Clips run in one batch share its time by their speech.
        notes: What the user must know about the sound of the clip, such as a silent channel.
        transcript: How the words were read; None unless they were.
    """

    file: str
    duration: float
    segments: tuple[JudgedSegment, ...]
    boundaries: tuple[Boundary, ...] | None
    reason: str | None
    models: tuple[UsedModel, ...]
    settings: AnalysisSettings
    timings: Mapping[str, float]
    notes: tuple[Note, ...] = ()
    transcript: Transcript | None = None

    def __repr__(self) -> str:
        judged = sum(segment.judgement is not None for segment in self.segments)
        what = self.reason or f"{judged} of {len(self.segments)} segments judged"
        return f"Analysis({self.file}; {self.duration:.2f} s; {what}; {self.to_context()})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the document of the JSON dialect: plain dicts, lists, strings and floats."""
        return {
            "schema_version": SCHEMA_VERSION,
            "file": self.file,
            "duration": seconds(self.duration),
            "reason": self.reason,
            "notes": [note._asdict() for note in self.notes],
            "context": self.to_context(),
            "segments": [segment.to_dict() for segment in self.segments],
            "boundaries": None if self.boundaries is None else [part.to_dict() for part in self.boundaries],
            "models": [asdict(model) for model in self.models],
            "settings": asdict(self.settings),
            "timings": dict(self.timings),
            **({"transcript": asdict(self.transcript)} if self.transcript else {}),
        }

    def to_context(self, *, long: bool = False) -> str:
        """Describes the voice to a language model in one line, or in several: see `e2v_port.llm.describe`."""
        kinds = [note.kind for note in self.notes]
        if long:
            return describe.report(self.segments, self.settings.fusion, notes=kinds)
        return describe.line(self.segments, self.settings.fusion, kinds)


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
    text = segment.text if words is None else "".join(word.text for word in words).strip() or None
    about = (segment.start, segment.end, graded(segment.quality, judgement), segment.speaker, text)
    bare = None if words is None else tuple(replace(word, text=word.text.strip()) for word in words)
    return JudgedSegment(*about, judgement, prediction, channel=segment.channel, words=bare)


def graded(quality: Quality, judgement: Judgement | None) -> Quality:
    """Returns the quality of a segment with its judgement: lower if noise or another voice is heard in it."""
    doubtful = judgement is not None and not {"noisy", "overlap"}.isdisjoint(judgement.notes)
    return "low_confidence" if quality == "normal" and doubtful else quality


def unjudged(segments: Sequence[Segment], settings: AnalysisSettings) -> str:
    """Returns the reason, in one line, why none of these segments can be judged."""
    if not segments:
        return "no segments given" if settings.source == "given" else "no speech found"
    short = sum(segment.quality == "too_short" for segment in segments)
    barred = sum(segment.quality == "not_enrolled" for segment in segments)
    silent = len(segments) - short - barred
    reasons = [f"{short} shorter than {settings.segments.min_duration:g} s"] if short else []
    reasons += [f"{silent} without speech"] if silent else []
    reasons += [f"{barred} of speakers who are not enrolled"] if barred else []
    return f"no segment can be judged: {', '.join(reasons)}"

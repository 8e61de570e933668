"""The results of an analysis: segments, turns, the models used and the settings, as Python and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.schema import SCHEMA_VERSION
from e2v_port.analysis.turns import Turn
from e2v_port.audio import Note
from e2v_port.emotions.changes import Boundary, BoundarySettings
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.llm import describe
from e2v_port.models.model import Model
from e2v_port.seconds import seconds
from e2v_port.speech.segment import Segment, SegmentSettings
from e2v_port.transcribe.words import Transcript

__all__ = ["Analysis", "AnalysisSettings", "UsedModel", "unjudged"]


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
        turns: The segments joined to turns of speakers; None unless a segment has a speaker or words.
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
    turns: tuple[Turn, ...] | None = None

    def __repr__(self) -> str:
        judged = sum(segment.judgement is not None for segment in self.segments)
        what = self.reason or f"{judged} of {len(self.segments)} segments judged"
        return f"Analysis({self.file}; {self.duration:.2f} s; {what}; {self._voices()})"

    def to_dict(self) -> dict[str, Any]:
        """Returns the document of the JSON dialect: plain dicts, lists, strings and floats."""
        return {
            "schema_version": SCHEMA_VERSION,
            "file": self.file,
            "duration": seconds(self.duration),
            "reason": self.reason,
            "notes": [note._asdict() for note in self.notes],
            "context": self._voices(),
            "segments": [segment.to_dict() for segment in self.segments],
            **({} if self.turns is None else {"turns": [turn.to_dict() for turn in self.turns]}),
            "boundaries": None if self.boundaries is None else [part.to_dict() for part in self.boundaries],
            "models": [asdict(model) for model in self.models],
            "settings": asdict(self.settings),
            "timings": dict(self.timings),
            **({"transcript": asdict(self.transcript)} if self.transcript else {}),
        }

    def to_context(self, *, long: bool = False) -> str:
        """Describes the voice to a language model in one line, or in several: see `e2v_port.llm.describe`.

        Where words are known, a line for each turn with its words follows, as of `Turn.to_context`; the line of an only
        turn takes the place of the first.

        Args:
            long: Whether to add the reasons, one per line.
        """
        lines = self._voices(long=long).splitlines()
        if self.turns and any(turn.text for turn in self.turns):
            turns = [turn.to_context() for turn in self.turns]
            if len(turns) == 1:
                lines[0] = self.turns[0].to_context(note.kind for note in self.notes)
            else:
                place = len(lines) - long  # the notice is the last line
                lines[place:place] = turns
        return "\n".join(lines)

    def _voices(self, *, long: bool = False) -> str:
        kinds = [note.kind for note in self.notes]
        if long:
            return describe.report(self.segments, self.settings.fusion, notes=kinds)
        return describe.line(self.segments, self.settings.fusion, kinds)


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

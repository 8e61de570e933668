"""What is in a voice, when, and how sure: segments of speech, judged by one model or two."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from math import prod
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from e2v_port import context, emotions
from e2v_port import segments as speech
from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, clip_name, load_audio
from e2v_port.boundaries import Boundary, BoundarySettings, boundaries
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError
from e2v_port.fusion import FusionSettings, Judgement, fuse
from e2v_port.model import Model, Output, Prediction, load
from e2v_port.segments import GivenSegment, Quality, Segment, SegmentSettings

__all__ = ["Analysis", "AnalysisSettings", "JudgedSegment", "UsedModel", "analyze", "each"]

_T = TypeVar("_T")
_Pair: TypeAlias = "tuple[_Clip, Segment]"


@dataclass(frozen=True)
class UsedModel:
    """A model that an analysis was made with.

    Attributes:
        kind: `categorical` or `dimensional`.
        name: Its repository.
        dtype: Of its weights.
        runtime: What it ran on.
        licence: Of its weights.
    """

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str


@dataclass(frozen=True)
class AnalysisSettings:
    """Everything an analysis depends on beside clip and models.

    Attributes:
        source: Where the segments come from: `speech` found in the clip, `given` by the caller, or the `whole` clip.
        segments: Thresholds and lengths of segments.
        fusion: Thresholds and factors of the judgement.
        boundaries: How frames become boundaries; None where they were not asked for.
    """

    source: str
    segments: SegmentSettings
    fusion: FusionSettings
    boundaries: BoundarySettings | None


@dataclass(frozen=True)
class JudgedSegment:
    """A stretch of a clip, and what the models say of it. What no model said is None.

    Attributes:
        start: Seconds from the start of the clip.
        end: Seconds.
        quality: How far the judgement can be trusted, as in `e2v_port.segments.Segment`.
        speaker: Who speaks, if that was given.
        text: What is said, if that was given.
        judgement: Of both models together; None for a segment that is too short or holds no speech.
        prediction: Of the categorical model by itself, before fusion.
    """

    start: float
    end: float
    quality: Quality
    speaker: str | None
    text: str | None
    judgement: Judgement | None
    prediction: Prediction | None = field(default=None, repr=False)

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return round(self.end - self.start, 7)

    @property
    def emotion(self) -> str | None:
        """The categorical model's most probable label."""
        return self.judgement and self.judgement.primary

    @property
    def confidence(self) -> float | None:
        """Of that label, after fusion, 0 to 1."""
        return self.judgement and self.judgement.confidence

    @property
    def compound(self) -> str | None:
        """That label refined by arousal and dominance."""
        return self.judgement and self.judgement.compound

    @property
    def dimensions(self) -> Dimensions | None:
        """Raw outputs of the dimensional model."""
        return self.judgement and self.judgement.dimensions

    @property
    def arousal(self) -> float | None:
        """From calm, 0, to activated, 1."""
        return self.dimensions and self.dimensions.arousal

    @property
    def dominance(self) -> float | None:
        """From controlled, 0, to in control, 1."""
        return self.dimensions and self.dimensions.dominance

    @property
    def valence(self) -> float | None:
        """From unpleasant, 0, to pleasant, 1."""
        return self.dimensions and self.dimensions.valence

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {
            "start": self.start,
            "end": self.end,
            "quality": self.quality,
            "speaker": self.speaker,
            "text": self.text,
            "emotion": self.emotion,
            "confidence": self.confidence,
            "compound": self.compound,
            "arousal": self.arousal,
            "dominance": self.dominance,
            "valence": self.valence,
            "judgement": self.judgement and self.judgement.to_dict(),
        }


@dataclass(frozen=True)
class Analysis:
    """What was found in one clip.

    Attributes:
        file: What the clip is called.
        duration: Of the clip, in seconds.
        segments: In order of time; those that could not be judged are among them and marked.
        boundaries: Which emotion when, inside the judged segments; None unless asked for.
        reason: Why no segment was judged; None if one was.
        models: The categorical model, the dimensional model, or both in this order.
        settings: All thresholds.
        timings: Seconds spent on the clip by stage. Clips that ran in one batch share its time by their speech.
    """

    file: str
    duration: float
    segments: tuple[JudgedSegment, ...]
    boundaries: tuple[Boundary, ...] | None
    reason: str | None
    models: tuple[UsedModel, ...]
    settings: AnalysisSettings
    timings: Mapping[str, float]

    def __repr__(self) -> str:
        judged = sum(segment.judgement is not None for segment in self.segments)
        what = self.reason or f"{judged} of {len(self.segments)} segments judged"
        return f"Analysis({self.file}; {self.duration:.2f} s; {what}; {self.to_context()})"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {
            "file": self.file,
            "duration": self.duration,
            "reason": self.reason,
            "segments": [segment.to_dict() for segment in self.segments],
            "boundaries": self.boundaries and [boundary.to_dict() for boundary in self.boundaries],
            "models": [asdict(model) for model in self.models],
            "settings": asdict(self.settings),
            "timings": dict(self.timings),
        }

    def to_context(self) -> str:
        """Returns one line that tells a language model how the voice sounds: see `e2v_port.context`."""
        return context.line(self.segments, self.settings.fusion)


@overload
def analyze(clips: Clip, **options: Any) -> Analysis: ...
@overload
def analyze(clips: list[Clip] | tuple[Clip, ...], **options: Any) -> list[Analysis]: ...
def analyze(clips: Clip | list[Clip] | tuple[Clip, ...], **options: Any) -> Analysis | list[Analysis]:
    """Says what is in the voice of one clip, or of each clip of a list: which emotion, when, how sure.

    Args:
        clips: A path, a binary file object or an array of samples; or a list of these, whose segments go through the
            models together.
        options: `model`, `dimensional` and what else `each` takes.

    Returns:
        An Analysis; for a list, one per clip in its order. A clip without speech has one too, which says so.

    Raises:
        AudioError: A clip cannot be used. Nothing is returned for the others: see `each`.
        E2VError: As for `each`.
    """
    if not isinstance(clips, (list, tuple)):
        return analyze([clips], **options)[0]
    found: list[Analysis] = []
    for result in each(clips, **options):
        if isinstance(result, AudioError):
            raise result
        found.append(result)
    return found

"""What the service says of a clip and of a segment: plain dicts, and their shape for the OpenAPI."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

if TYPE_CHECKING:  # the front knows the shapes alone, and imports no model
    from e2v_port.analysis import Analysis, JudgedSegment

__all__ = ["OFF", "AnalysisAnswer", "Emotion", "SegmentAnswer", "analysis_dict", "segment_dict", "unjudged"]

OFF = "emotion analysis is switched off"  # why nothing was judged


class Emotion(TypedDict):
    """An estimate of how a voice sounds. What no model said, and nothing follows from, is null."""

    primary: str | None
    confidence: float | None
    intensity: str | None
    valence: str | None
    arousal: str | None
    compound: str | None
    octant: str | None
    agreement: str | None
    notes: list[str]
    e2v_scores: dict[str, float] | None
    avd_scores: dict[str, float] | None
    avd_from: str | None
    distribution: dict[str, float] | None


class SegmentAnswer(TypedDict):
    """A stretch of a clip, in seconds from its start; `emotion` is null where it was not judged."""

    start: float
    end: float
    quality: str
    speaker: str | None
    text: str | None
    emotion: Emotion | None


class BoundaryAnswer(TypedDict):
    """A stretch in which one label prevails."""

    start: float
    end: float
    label: str
    probability: float


class UsedModelAnswer(TypedDict):
    """A model and its licence."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str


class AnalysisAnswer(TypedDict):
    """What was found in one clip; `reason` tells why nothing was judged, `timings` are seconds."""

    request_id: str
    file: str
    duration: float
    emotion_enabled: bool
    reason: str | None
    context: str
    segments: list[SegmentAnswer]
    boundaries: list[BoundaryAnswer] | None
    models: list[UsedModelAnswer]
    settings: dict[str, Any]
    timings: dict[str, float]
    history: str


def segment_dict(segment: "JudgedSegment") -> dict[str, Any]:
    """Returns a segment as the service shows it: see SegmentAnswer."""
    judgement = segment.judgement
    emotion = None
    if judgement is not None:
        dimensions = judgement.dimensions
        emotion = {
            "primary": judgement.primary,
            "confidence": judgement.confidence,
            "intensity": judgement.intensity,
            "valence": judgement.valence_level,
            "arousal": judgement.arousal_level,
            "compound": judgement.compound,
            "octant": judgement.octant,
            "agreement": judgement.agreement,
            "notes": list(judgement.notes),
            "e2v_scores": _dict(judgement.scores),
            "avd_scores": dimensions.to_dict() if dimensions else None,
            "avd_from": judgement.dimensions_from,
            "distribution": _dict(judgement.distribution),
        }
    return {
        "start": segment.start,
        "end": segment.end,
        "quality": segment.quality,
        "speaker": segment.speaker,
        "text": segment.text,
        "emotion": emotion,
    }


def analysis_dict(analysis: "Analysis") -> dict[str, Any]:
    """Returns an analysis as the service shows it, without what only the service knows: see AnalysisAnswer."""
    boundaries = analysis.boundaries
    return {
        "file": analysis.file,
        "duration": analysis.duration,
        "reason": analysis.reason,
        "context": analysis.to_context(),
        "segments": [segment_dict(segment) for segment in analysis.segments],
        "boundaries": None if boundaries is None else [boundary.to_dict() for boundary in boundaries],
        "models": [asdict(model) for model in analysis.models],
        "settings": asdict(analysis.settings),
        "timings": dict(analysis.timings),
    }


def unjudged(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an answer of `analysis_dict` with no trace of an emotion, for when these were switched off meanwhile."""
    return {
        **answer,
        "reason": OFF,
        "context": "",
        "segments": [{**segment, "emotion": None} for segment in answer["segments"]],
        "boundaries": None if answer["boundaries"] is None else [],
    }


def _dict(values: Mapping[str, float] | None) -> dict[str, float] | None:
    return None if values is None else dict(values)

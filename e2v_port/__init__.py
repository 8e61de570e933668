"""Speech-emotion models converted once, run natively on torch, MLX and numpy.

    import e2v_port

    model = e2v_port.load("iic/emotion2vec_plus_base")
    model.predict("speech.wav")

Importing this package imports neither torch nor MLX nor numpy: each name below is loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from e2v_port.version import __version__

if TYPE_CHECKING:
    from e2v_port.analysis.analyze import analyze
    from e2v_port.analysis.indicators import indicators
    from e2v_port.analysis.judged import JudgedSegment
    from e2v_port.analysis.results import Analysis, AnalysisSettings, UsedModel
    from e2v_port.audio.notes import Note
    from e2v_port.emotions.changes import Boundary, BoundarySettings
    from e2v_port.emotions.estimates import Dimensions, Prediction
    from e2v_port.emotions.fusion import FusionSettings
    from e2v_port.emotions.indicators import Indicator, Indicators
    from e2v_port.emotions.judgement import Judgement, Shade
    from e2v_port.emotions.trajectory import Trajectory
    from e2v_port.errors import (
        AudioError,
        BaselineError,
        ChatError,
        CheckpointError,
        CorpusError,
        DownloadError,
        E2VError,
        HistoryError,
        LicenseNotAccepted,
        ModelNotFound,
        ModelsUnavailable,
        NoLabels,
        RequestCancelled,
        RequestRefused,
        RosterError,
        RuntimeUnavailable,
        SegmentError,
        ServiceError,
        ServiceUnavailable,
        TrainingError,
    )
    from e2v_port.evaluation.comparison.compare import Comparison, compare
    from e2v_port.expression.profiles import ProsodyParameters
    from e2v_port.live.backends import available_backends
    from e2v_port.live.detector import EmotionDetector
    from e2v_port.live.follower import LiveSettings
    from e2v_port.live.listener import Listener
    from e2v_port.live.results import VoiceAnalysis, VoiceSegment
    from e2v_port.llm.reply import Reply
    from e2v_port.llm.speech import SpeechLM
    from e2v_port.llm.tool import tool_schema
    from e2v_port.models.convert import convert
    from e2v_port.models.info import ModelInfo
    from e2v_port.models.load import load
    from e2v_port.models.model import Model
    from e2v_port.prosody.baseline import Baseline
    from e2v_port.prosody.measure import Prosody
    from e2v_port.speech.segment import GivenSegment, Segment, SegmentSettings

__all__ = [
    "Analysis",
    "AnalysisSettings",
    "AudioError",
    "Baseline",
    "BaselineError",
    "Boundary",
    "BoundarySettings",
    "ChatError",
    "CheckpointError",
    "Comparison",
    "CorpusError",
    "Dimensions",
    "DownloadError",
    "E2VError",
    "EmotionDetector",
    "FusionSettings",
    "GivenSegment",
    "HistoryError",
    "Indicator",
    "Indicators",
    "JudgedSegment",
    "Judgement",
    "LicenseNotAccepted",
    "Listener",
    "LiveSettings",
    "Model",
    "ModelInfo",
    "ModelNotFound",
    "ModelsUnavailable",
    "NoLabels",
    "Note",
    "Prediction",
    "Prosody",
    "ProsodyParameters",
    "Reply",
    "RequestCancelled",
    "RequestRefused",
    "RosterError",
    "RuntimeUnavailable",
    "Segment",
    "SegmentError",
    "SegmentSettings",
    "ServiceError",
    "ServiceUnavailable",
    "Shade",
    "SpeechLM",
    "TrainingError",
    "Trajectory",
    "UsedModel",
    "VoiceAnalysis",
    "VoiceSegment",
    "__version__",
    "analyze",
    "available_backends",
    "compare",
    "convert",
    "indicators",
    "load",
    "tool_schema",
]

_HOME = {
    "analyze": "analysis.analyze",
    "Analysis": "analysis.results",
    "AnalysisSettings": "analysis.results",
    "indicators": "analysis.indicators",
    "JudgedSegment": "analysis.judged",
    "UsedModel": "analysis.results",
    "Note": "audio.notes",
    "Boundary": "emotions.changes",
    "BoundarySettings": "emotions.changes",
    "Dimensions": "emotions.estimates",
    "Prediction": "emotions.estimates",
    "FusionSettings": "emotions.fusion",
    "Indicator": "emotions.indicators",
    "Indicators": "emotions.indicators",
    "Judgement": "emotions.judgement",
    "Shade": "emotions.judgement",
    "Trajectory": "emotions.trajectory",
    "AudioError": "errors",
    "BaselineError": "errors",
    "ChatError": "errors",
    "CheckpointError": "errors",
    "CorpusError": "errors",
    "DownloadError": "errors",
    "E2VError": "errors",
    "HistoryError": "errors",
    "LicenseNotAccepted": "errors",
    "ModelNotFound": "errors",
    "ModelsUnavailable": "errors",
    "NoLabels": "errors",
    "RequestCancelled": "errors",
    "RequestRefused": "errors",
    "RosterError": "errors",
    "RuntimeUnavailable": "errors",
    "SegmentError": "errors",
    "ServiceError": "errors",
    "ServiceUnavailable": "errors",
    "TrainingError": "errors",
    "Comparison": "evaluation.comparison.compare",
    "compare": "evaluation.comparison.compare",
    "ProsodyParameters": "expression.profiles",
    "available_backends": "live.backends",
    "EmotionDetector": "live.detector",
    "Listener": "live.listener",
    "LiveSettings": "live.follower",
    "VoiceAnalysis": "live.results",
    "VoiceSegment": "live.results",
    "Reply": "llm.reply",
    "SpeechLM": "llm.speech",
    "tool_schema": "llm.tool",
    "convert": "models.convert",
    "ModelInfo": "models.info",
    "load": "models.load",
    "Model": "models.model",
    "Baseline": "prosody.baseline",
    "Prosody": "prosody.measure",
    "GivenSegment": "speech.segment",
    "Segment": "speech.segment",
    "SegmentSettings": "speech.segment",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'e2v_port' has no attribute {name!r}")
    return getattr(import_module(f"e2v_port.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)

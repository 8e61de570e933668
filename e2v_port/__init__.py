"""Speech-emotion models converted once, run natively on torch and MLX.

    import e2v_port

    model = e2v_port.load("iic/emotion2vec_plus_base")
    model.predict("speech.wav")

Importing this package imports neither torch nor MLX nor numpy: each name below is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from e2v_port.analysis import Analysis, analyze
    from e2v_port.backends import available_backends
    from e2v_port.context import tool_schema
    from e2v_port.conversion import convert
    from e2v_port.detector import EmotionDetector, VoiceAnalysis, VoiceSegment
    from e2v_port.errors import (
        AudioError,
        BaselineError,
        CheckpointError,
        CorpusError,
        DownloadError,
        E2VError,
        ModelNotFound,
        NoLabels,
        RuntimeUnavailable,
        SegmentError,
        TrainingError,
    )
    from e2v_port.expression import ProsodyParameters
    from e2v_port.model import Model, Prediction, load
    from e2v_port.prosody import Baseline, Prosody
    from e2v_port.trajectory import Trajectory

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "AudioError",
    "Baseline",
    "BaselineError",
    "CheckpointError",
    "CorpusError",
    "DownloadError",
    "E2VError",
    "EmotionDetector",
    "Model",
    "ModelNotFound",
    "NoLabels",
    "Prediction",
    "Prosody",
    "ProsodyParameters",
    "RuntimeUnavailable",
    "SegmentError",
    "TrainingError",
    "Trajectory",
    "VoiceAnalysis",
    "VoiceSegment",
    "analyze",
    "available_backends",
    "convert",
    "load",
    "tool_schema",
]

_HOME = {
    "Analysis": "e2v_port.analysis",
    "analyze": "e2v_port.analysis",
    "tool_schema": "e2v_port.context",
    "convert": "e2v_port.conversion",
    "EmotionDetector": "e2v_port.detector",
    "VoiceAnalysis": "e2v_port.detector",
    "VoiceSegment": "e2v_port.detector",
    "available_backends": "e2v_port.backends",
    "ProsodyParameters": "e2v_port.expression",
    "Model": "e2v_port.model",
    "Prediction": "e2v_port.model",
    "load": "e2v_port.model",
    "Baseline": "e2v_port.prosody",
    "Prosody": "e2v_port.prosody",
    "Trajectory": "e2v_port.trajectory",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'e2v_port' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "e2v_port.errors")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

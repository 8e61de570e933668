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
    from e2v_port.conversion import convert
    from e2v_port.errors import (
        AudioError,
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
    from e2v_port.model import Model, Prediction, load

__version__ = "0.1.0"

__all__ = [
    "Analysis",
    "AudioError",
    "CheckpointError",
    "CorpusError",
    "DownloadError",
    "E2VError",
    "Model",
    "ModelNotFound",
    "NoLabels",
    "Prediction",
    "RuntimeUnavailable",
    "SegmentError",
    "TrainingError",
    "analyze",
    "convert",
    "load",
]

_HOME = {
    "Analysis": "e2v_port.analysis",
    "analyze": "e2v_port.analysis",
    "convert": "e2v_port.conversion",
    "Model": "e2v_port.model",
    "Prediction": "e2v_port.model",
    "load": "e2v_port.model",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'e2v_port' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "e2v_port.errors")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

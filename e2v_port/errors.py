"""Every error this package raises on purpose. A message says what, where, and what to do."""

__all__ = [
    "AudioError",
    "BaselineError",
    "CheckpointError",
    "CorpusError",
    "DownloadError",
    "E2VError",
    "HistoryError",
    "ModelNotFound",
    "NoLabels",
    "RuntimeUnavailable",
    "SegmentError",
    "ServiceError",
    "ServiceUnavailable",
    "TrainingError",
]


class E2VError(Exception):
    """Base of all errors below: catch this one to catch them all."""


class AudioError(E2VError):
    """A clip is unreadable, empty, too short, too long or not finite."""


class BaselineError(E2VError):
    """A file is no baseline of a voice, or one of another version."""


class ModelNotFound(E2VError):
    """No known model, folder or file goes by this name, or it is not on this machine while offline."""


class DownloadError(E2VError):
    """No hub delivered the checkpoint."""


class CheckpointError(E2VError):
    """A checkpoint or converted folder is unsafe, incomplete, misshapen, of an unknown kind or has a wrong hash."""


class CorpusError(E2VError):
    """A corpus is not where it should be, its table cannot be used, or its speakers cannot be divided."""


class HistoryError(E2VError):
    """The history cannot be opened, read or written, or is something else."""


class RuntimeUnavailable(E2VError):
    """The runtime asked for cannot run on this machine."""


class NoLabels(E2VError):
    """Labels were asked of a model without a classification head."""


class SegmentError(E2VError):
    """Given segments cannot be read, overlap, or lie outside the clip."""


class ServiceError(E2VError):
    """The service refuses a question of its client: a missing token, parameters that make no sense."""


class ServiceUnavailable(E2VError):
    """The service is down, busy, too slow or answers nonsense."""


class TrainingError(E2VError):
    """A model cannot be trained here: its folder is taken, another training was interrupted there, there is no room."""

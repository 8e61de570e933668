"""Every error this package raises on purpose, as one tree: each says how to fix it. And checks of foreign values."""

import math
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "AudioError",
    "BaselineError",
    "ChatError",
    "CheckpointError",
    "CorpusError",
    "DownloadError",
    "E2VError",
    "HistoryError",
    "LicenseNotAccepted",
    "ModelNotFound",
    "ModelsUnavailable",
    "NoLabels",
    "RequestCancelled",
    "RequestRefused",
    "RosterError",
    "RuntimeUnavailable",
    "SegmentError",
    "ServiceError",
    "ServiceUnavailable",
    "TrainingError",
    "check_numbers",
    "cut",
    "need",
    "number",
    "quoted",
]

_MOST = 2000  # characters of a message: the longest list the problems of a checkpoint; a longer one loses its middle


class E2VError(Exception):
    """Base class of all errors of this package. A message is one line, of at most 2000 characters."""

    def __init__(self, *details: object) -> None:
        super().__init__(*(cut(text, _MOST) if isinstance(text, str) else text for text in details))


def check_numbers(settings: "DataclassInstance", least: float = -math.inf) -> None:
    """Raises ValueError, naming the field, unless each field of a dataclass is a finite int or float from `least` on.

    Other kinds of numbers are refused, too: results hold their settings and are written as JSON.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            wanted = "a finite number" + ("" if least == -math.inf else f" of at least {least:g}")
            raise ValueError(f"{field.name} must be {wanted}, not {quoted(value)}")


def need(name: str, value: object, *kinds: type | None) -> None:
    """Raises TypeError, naming the argument, unless a value is of one of the kinds; None is one that it may be."""
    if not isinstance(value, tuple(type(None) if kind is None else kind for kind in kinds)):
        wanted = " or ".join(kind.__name__ if kind else "None" for kind in kinds)
        raise TypeError(f"{name} must be {wanted}, not {quoted(value)}")


_HUGE = sys.float_info.max


def number(name: str, value: Any, least: float = -_HUGE, most: float = _HUGE) -> float:
    """Returns a number of any type as a float; raises ValueError, naming it, if it is none or out of range."""
    try:
        found = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not least <= found <= most:
        wanted = f"from {least:g} to {most:g}" if most < _HUGE else "a finite number"
        wanted += " of at least 0" if least == 0 and most == _HUGE else ""
        raise ValueError(f"{name} must be {wanted}, not {quoted(value)}")
    return found


def quoted(value: object) -> str:
    """Returns the representation of a value for a message, of at most 80 characters."""
    try:
        text = value[:200] if isinstance(value, str | bytes) else value  # no copy of megabytes
        return cut(repr(text), 80)
    except Exception:  # of a number beyond the digits that Python prints, or of foreign code
        return f"a value of type {type(value).__name__}"


def cut(text: str, most: int = 250) -> str:
    """Returns a text for a message: on one line, without its middle if it is longer than `most` characters."""
    if len(text) > most:
        text = f"{text[: most * 2 // 3]} ... {text[len(text) - most // 4 :]}"
    return text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)


class AudioError(E2VError):
    """A clip is unreadable, empty, too short, too long or not finite."""


class BaselineError(E2VError):
    """A file is not a voice baseline, or was written by an incompatible version."""


class ChatError(E2VError):
    """A language model at an endpoint cannot be asked, or does not answer."""


class ModelNotFound(E2VError):
    """No known model, folder or file has this name, or the model is not on this machine while offline."""


class DownloadError(E2VError):
    """No hub delivered the checkpoint."""


class CheckpointError(E2VError):
    """A checkpoint or converted folder is unsafe, incomplete, malformed, of an unknown kind or has a wrong hash."""


class CorpusError(E2VError):
    """A corpus is missing, its table is unusable, or its speakers cannot be split."""


class RuntimeUnavailable(E2VError):
    """The requested runtime cannot run on this machine."""


class LicenseNotAccepted(E2VError):
    """A profile chooses a model whose license restricts its use, and nobody has accepted that license here."""


class RosterError(E2VError):
    """A file of enrolled voices cannot be used, or a voice cannot be enrolled."""


class NoLabels(E2VError):
    """Labels were requested that a model does not have: it has no classification head, or other labels."""


class SegmentError(E2VError):
    """Given segments are unreadable, overlap, or lie outside the clip."""


class TrainingError(E2VError):
    """Training cannot start: the folder is in use, holds an interrupted training, or there is no space left."""


class ServiceError(E2VError):
    """An error of `e2v serve`, raised by the service itself or by its client; base class of the errors below.

    Attributes:
        status: HTTP status code that goes with the error.
        kind: One word for programs, as in the body of an error response.
        retry_after: Seconds after which a retry can succeed; None if a retry does not help.
    """

    status: int = 500
    kind: str = "internal"
    retry_after: int | None = None

    def __init__(self, message: str, *, status: int | None = None, kind: str | None = None) -> None:
        super().__init__(message)
        self.status = self.status if status is None else status
        self.kind = self.kind if kind is None else kind

    @staticmethod
    def of(status: int, kind: str, message: str) -> "ServiceError":
        """Returns the error that belongs to a status code, e.g. RequestRefused for 422."""
        error = ServiceError
        if status == RequestCancelled.status:
            error = RequestCancelled
        elif 400 <= status < 500:
            error = RequestRefused
        elif status == ServiceUnavailable.status:
            error = ServiceUnavailable
        return error(message, status=status, kind=kind)


class RequestRefused(ServiceError):
    """The request cannot be answered as sent: no token, a body that is too large, invalid parameters."""

    status = 422
    kind = "invalid"


class RequestCancelled(ServiceError):
    """The client disconnected before its request was answered."""

    status = 499
    kind = "cancelled"


class ServiceUnavailable(ServiceError):
    """The service is down or overloaded, takes too long, or its response is unreadable."""

    status = 503
    kind = "overloaded"
    retry_after = 1


class ModelsUnavailable(ServiceUnavailable):
    """The process that holds the models is not ready: it is starting, or died and is being restarted."""

    kind = "unavailable"

    def __init__(self, message: str = "the models are being loaded: try again in a few seconds") -> None:
        super().__init__(message)


class HistoryError(ServiceError):
    """The history file cannot be opened, read or written, or is not a history."""

    status = 503
    kind = "history"
    retry_after = 60

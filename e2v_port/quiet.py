"""Silences other libraries in the thread that calls them, and in no other.

Streams, log handlers and warning filters belong to the whole process, so none of them is switched off. While any thread
is silenced, stand-ins ask which thread it is: what a silenced one writes, logs or warns is dropped, everything else
passes through. The last thread to finish puts everything back.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from e2v_port.host import fork_safe_lock

__all__ = ["quiet"]

_here = threading.local()


def _silenced() -> bool:
    return getattr(_here, "depth", 0) > 0


class _Stream:
    """Stands in for sys.stdout or sys.stderr, which may be None.

    Another thread that redirects the stream at that time puts the stand-in back when it ends, perhaps after it has
    closed the stream inside: then the original one of the process is used.
    """

    def __init__(self, name: str) -> None:
        stream = getattr(sys, name)
        self._inside = stream.stream if isinstance(stream, _Stream) else stream
        self._name = name

    @property
    def stream(self) -> Any:
        """The stream inside."""
        closed = getattr(self._inside, "closed", False)
        return getattr(sys, f"__{self._name}__") if closed else self._inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _drops(self) -> bool:
        progress = self._name == "stderr"  # progress bars go there
        return self.stream is None or (_silenced() and not (progress and _here.progress))

    def write(self, text: str) -> int:
        return len(text) if self._drops() else int(self.stream.write(text))

    def flush(self) -> None:
        if not self._drops():
            self.stream.flush()

    def isatty(self) -> bool:
        return self.stream is not None and bool(self.stream.isatty())


class _Filter(logging.Filter):
    """Drops the records of silenced threads."""

    def filter(self, _record: logging.LogRecord) -> bool:
        return not _silenced()


class _InSilencedThread(type):
    """Metaclass: every warning is a subclass, in a silenced thread."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        return _silenced()


class _Silenced(Warning, metaclass=_InSilencedThread):
    """A category that contains every warning of a silenced thread."""


_RULE = ("ignore", None, _Silenced, None, 0)  # an entry of warnings.filters
_FILTER = _Filter()


class _StandIns:
    """Everything of the process that is replaced while a thread is silenced."""

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._threads = 0
        self._handlers: list[logging.Handler] = []

    def put(self) -> None:
        """Counts a thread; the first one has the stand-ins put in place."""
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                for name in ("stdout", "stderr"):
                    setattr(sys, name, _Stream(name))
            if _RULE not in warnings.filters:
                warnings.filters.insert(0, _RULE)  # type: ignore[attr-defined]
            for handler in _handlers():
                if _FILTER not in handler.filters:
                    handler.addFilter(_FILTER)
                    self._handlers.append(handler)

    def remove(self) -> None:
        """Counts a thread off; after the last one, everything is as it was."""
        with self._lock:
            self._threads -= 1
            if not self._threads:
                self._restore()

    def fork(self) -> None:
        """Counts off the threads that a forked process lacks."""
        if self._threads and not _silenced():
            self._threads = 0
            self._restore()

    def _restore(self) -> None:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if isinstance(stream, _Stream):  # nobody else has replaced it meanwhile
                setattr(sys, name, stream.stream)
        if _RULE in warnings.filters:
            warnings.filters.remove(_RULE)  # type: ignore[attr-defined]
        for handler in self._handlers:
            handler.removeFilter(_FILTER)
        self._handlers.clear()


_stand_ins = _StandIns()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stand_ins.fork)


@contextmanager
def quiet(*, progress: bool = False) -> Iterator[None]:
    """Drops what libraries print, log and warn in this thread until the context ends. May be nested.

    Args:
        progress: Whether stderr passes where it is a terminal, for progress bars.
    """
    before = getattr(_here, "depth", 0), getattr(_here, "progress", False)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    _stand_ins.put()
    _here.depth, _here.progress = before[0] + 1, progress and terminal
    try:
        yield
    finally:
        _here.depth, _here.progress = before
        _stand_ins.remove()


def _handlers() -> list[logging.Handler]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return [*handlers, *([logging.lastResort] if logging.lastResort else [])]

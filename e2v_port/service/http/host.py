"""State of the host process that serving needs changed: each context manager restores it at its end."""

import logging
import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["ignoring_sigterm", "more_open_files", "quiet_uvicorn"]


@contextmanager
def more_open_files(wanted: int) -> Iterator[None]:
    """Raises the limit on open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def quiet_uvicorn() -> Iterator[None]:
    """Silences uvicorn's loggers: the gate logs every request."""
    error, access = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn.access")
    level, handlers, propagate = error.level, access.handlers, access.propagate
    error.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        error.setLevel(level)
        access.handlers, access.propagate = handlers, propagate  # uvicorn replaces both


@contextmanager
def ignoring_sigterm() -> Iterator[None]:
    """Ignores SIGTERM where uvicorn does not handle it: it raises the signal that stopped it once more at the end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

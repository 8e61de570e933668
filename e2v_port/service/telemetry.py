"""What the service counts and measures, as Prometheus reads it. Nothing of it tells what was said or felt."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Telemetry", "resident_bytes"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """The counters, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        known: dict[str, Any] = {"registry": self._registry}
        self.latency = Histogram(
            "e2v_request_seconds", "From a request to its answer.", ("route", "status"), buckets=_SECONDS, **known
        )
        self.queue = Histogram(
            "e2v_queue_seconds", "From a body to the start of its analysis.", buckets=_SECONDS, **known
        )
        self.batches = Histogram(
            "e2v_batch_clips", "Segments that were handed to a model together.", buckets=_CLIPS, **known
        )
        self.received = Counter("e2v_audio_seconds", "Audio that was analysed.", **known)
        self.judged = Counter(
            "e2v_judged_audio_seconds", "Audio that went through a model; two models count it twice.", **known
        )
        self.errors = Counter("e2v_errors", "Requests that were refused or failed.", ("kind",), **known)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """Adds a number that is asked for whenever it is read."""
        Gauge(name, what, registry=self._registry).set_function(value)

    def count_batch(self, clips: int, seconds: float) -> None:
        """Takes what the engine reports."""
        self.batches.observe(clips)
        self.judged.inc(seconds)

    def text(self) -> bytes:
        """Returns all of it in Prometheus's text format."""
        return generate_latest(self._registry)


def resident_bytes(pid: int | str | None) -> float:
    """Returns the memory a process holds; NaN where that is not known: it is gone, or the system has no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))

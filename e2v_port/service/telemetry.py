"""Metrics of the service in Prometheus's text format. None of them reveals what was said or felt."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Telemetry", "resident_bytes"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_CLIPS = (1, 2, 4, 8, 16, 32, 64, 128)


class Telemetry:
    """The metrics, in a registry separate from Prometheus's global one.

    Attributes:
        latency: Seconds from a request to its response, by route and status.
        queue: Seconds from a complete body to the start of its analysis.
        first_token: Seconds from a decoded remark to the first token of its reply.
        batches: Number of segments that ran through a model together.
        received: Seconds of audio analyzed.
        judged: Seconds of audio that ran through a model; audio that runs through two models counts twice.
        errors: Number of requests that were refused or failed, by kind.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self._registry}
        self.latency = Histogram(
            "e2v_request_seconds",
            "Seconds from a request to its response.",
            ("route", "status"),
            buckets=_SECONDS,
            **shared,
        )
        self.queue = Histogram(
            "e2v_queue_seconds",
            "Seconds from a complete body to the start of its analysis.",
            buckets=_SECONDS,
            **shared,
        )
        self.first_token = Histogram(
            "e2v_reply_first_token_seconds",
            "Seconds from a decoded remark to the first token of its reply.",
            buckets=_SECONDS,
            **shared,
        )
        self.batches = Histogram(
            "e2v_batch_clips", "Segments that ran through a model together.", buckets=_CLIPS, **shared
        )
        self.received = Counter("e2v_audio_seconds", "Seconds of audio analyzed.", **shared)
        self.judged = Counter(
            "e2v_judged_audio_seconds", "Seconds of audio that ran through a model; two models count twice.", **shared
        )
        self.errors = Counter("e2v_errors", "Requests that were refused or failed.", ("kind",), **shared)

    def watch(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Adds a gauge whose value is computed whenever the metrics are read."""
        Gauge(name, description, registry=self._registry).set_function(value)

    def count_batch(self, clips: int, seconds: float) -> None:
        """Counts a batch that ran through a model."""
        self.batches.observe(clips)
        self.judged.inc(seconds)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


def resident_bytes(pid: int | str | None) -> float:
    """Returns the resident memory of a process; NaN if it is gone or the system has no /proc."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return float("nan")
    return float(pages * os.sysconf("SC_PAGE_SIZE"))

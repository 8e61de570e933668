"""The trend of a voice: whether it has sounded more or less pleasant over minutes, and how certain that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

from e2v_port.seconds import seconds

__all__ = ["MIN_SEGMENTS", "MIN_SPAN", "Trajectory", "trajectory"]

# All heuristic; docs/live.md shows their effect.
MIN_SEGMENTS = 5  # the interval of a line through fewer excludes nothing
MIN_SPAN = 60.0  # s from the first segment to the last: less is a moment, not a trend
_CHANGE = 0.1  # change of valence over the span: the width of the neutral band of `FusionSettings`
_VOLATILE = 0.15  # standard deviation of valence: about the distance from neutral to the middle of sad or happy

_Z = 1.959964  # 0.975 quantile of the normal distribution


class _Heard(Protocol):
    """The attributes of a segment that a trend uses."""

    @property
    def at(self) -> float: ...
    @property
    def duration(self) -> float: ...
    @property
    def valence(self) -> float | None: ...
    @property
    def dimensions_from(self) -> str | None: ...
    @property
    def speaker(self) -> str | None: ...


@dataclass(frozen=True)
class Trajectory:
    """The trend of valence. Without enough data, all fields but the last five are None.

    Attributes:
        trend: `improving` or `declining` if the 95 % interval of the slope excludes 0 and valence changes over the
            span by at least 0.1 and by more than its scatter; else `volatile` if the scatter is at least 0.15; else
            `stable`: these data show no change, within the interval.
        slope: Change of valence (0 to 1) per minute.
        error: Standard error of the slope.
        interval: 95 % interval of the slope.
        scatter: Standard deviation of valence about the line.
        mean: Mean valence.
        segments: Number of judged segments.
        speech: Seconds of speech in these segments.
        span: Seconds from the end of the first segment to the end of the last.
        dimensions_from: Source of their valence, as in `Judgement`; None without segments.
        reason: Reason why there is no trend; None if there is one.
    """

    trend: str | None
    slope: float | None
    error: float | None
    interval: tuple[float, float] | None
    scatter: float | None
    mean: float | None
    segments: int
    speech: float
    span: float
    dimensions_from: str | None
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain lists, strings and floats, ready for JSON."""
        return asdict(self) | {"interval": list(self.interval) if self.interval else None}


def trajectory(segments: Iterable[_Heard]) -> Trajectory:
    """Fits a line to the valence of segments over time.

    Uses least squares, with each segment weighted by its duration. Neighboring segments resemble each other and carry
    less information than independent ones: n counts as n (1 - r) / (1 + r), where r is the correlation of successive
    residuals, if positive, corrected for its bias (Kendall 1954, Marriott & Pope 1954). The interval follows Student's
    distribution for that effective number.

    Args:
        segments: Segments of one speaker, in any order; those without valence are skipped.
    """
    heard = [(segment, segment.valence) for segment in sorted(segments, key=lambda segment: segment.at)]
    known = [(segment, valence) for segment, valence in heard if valence is not None and segment.duration > 0]
    count = len(known)
    speech = seconds(math.fsum(segment.duration for segment, _ in known))
    span = seconds(known[-1][0].at - known[0][0].at) if known else 0.0
    sources = dict.fromkeys(segment.dimensions_from for segment, _ in known)
    source = " or ".join(filter(None, sources)) or None
    speakers = {segment.speaker for segment, _ in known}
    reason = None
    if len(speakers) > 1:
        reason = f"{len(speakers)} speakers: name one, since voices differ"
    elif count < MIN_SEGMENTS:
        reason = f"{count} judged segments: at least {MIN_SEGMENTS} are needed"
    elif span < MIN_SPAN:
        reason = f"segments within {span:.0f} s: at least {MIN_SPAN:.0f} s are needed"
    if reason:
        return Trajectory(None, None, None, None, None, None, count, speech, span, source, reason)

    minutes = [(segment.at - known[0][0].at) / 60 for segment, _ in known]
    weights = [segment.duration * count / speech for segment, _ in known]  # 1 on average
    valences = [valence for _, valence in known]
    mean = _mean(weights, valences)
    middle = _mean(weights, minutes)
    spread = math.fsum(w * (t - middle) ** 2 for w, t in zip(weights, minutes, strict=True))
    slope = math.fsum(w * (t - middle) * v for w, t, v in zip(weights, minutes, valences, strict=True)) / spread
    residuals = [v - mean - slope * (t - middle) for t, v in zip(minutes, valences, strict=True)]
    squares = math.fsum(w * residual**2 for w, residual in zip(weights, residuals, strict=True))
    free = max(count * _independent(residuals) - 2, 1.0)  # degrees of freedom
    scatter = math.sqrt(squares / (count - 2))
    error = math.sqrt(squares / free / spread)
    half = _student(free) * error
    change = abs(slope) * minutes[-1]
    if half < abs(slope) and change >= max(_CHANGE, scatter):
        trend = "improving" if slope > 0 else "declining"
    else:
        trend = "volatile" if scatter >= _VOLATILE else "stable"
    interval = (slope - half, slope + half)
    return Trajectory(trend, slope, error, interval, scatter, mean, count, speech, span, source, None)


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(weights)


def _independent(residuals: Sequence[float]) -> float:
    """Returns the share of a line's residuals that counts as independent."""
    squares = math.fsum(residual**2 for residual in residuals)
    if squares == 0:
        return 1.0
    pairs = pairwise(residuals)
    correlation = math.fsum(a * b for a, b in pairs) / squares
    count = len(residuals)
    correlation = min(max(correlation + (2 + 4 * correlation) / count, 0.0), 0.9)
    return (1 - correlation) / (1 + correlation)


def _student(free: float) -> float:
    """Returns the 0.975 quantile of Student's distribution (Abramowitz & Stegun 26.7.5), within 0.2 % from 3 up."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / free**power for power, term in enumerate(terms, 1))

"""Where a voice is going: whether it has sounded more or less pleasant over the last minutes, and how sure that is."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Protocol

__all__ = ["MIN_SEGMENTS", "MIN_SPAN", "Trajectory", "trajectory"]

# Our own choices, all of them; docs/live.md has what they do.
MIN_SEGMENTS = 5  # a line through fewer has an interval that excludes nothing
MIN_SPAN = 60.0  # s from the first to the last: less is a moment, not a course
_CHANGE = 0.1  # of valence over the span: the width of the neutral band of `FusionSettings`
_VOLATILE = 0.15  # standard deviation of valence: about from neutral to the middle of sad or of happy

_Z = 1.959964  # the normal distribution's quantile of 0.975


class _Heard(Protocol):
    """What is needed of a segment."""

    @property
    def at(self) -> float: ...
    @property
    def duration(self) -> float: ...
    @property
    def valence(self) -> float | None: ...
    @property
    def dimensions_from(self) -> str | None: ...


@dataclass(frozen=True)
class Trajectory:
    """How valence went. All but the last four are None where there is too little to tell.

    Attributes:
        trend: `improving` or `declining`: the 95 % interval of the slope leaves 0 out, and over the span valence
            changes by 0.1 or more and by more than its scatter. Else `volatile`: it scatters by 0.15 or more. Else
            `stable`: no change that these data show, as far as the interval says.
        slope: Of valence, 0 to 1, per minute.
        error: The slope's standard error.
        interval: Of the slope, 95 %.
        scatter: Standard deviation of valence about the line.
        mean: Of valence.
        segments: How many were judged: what all of this rests on.
        speech: How many seconds of speech they hold.
        span: Seconds from the end of the first to the end of the last.
        dimensions_from: Where their valence is from, as in `Judgement`; None without any.
        reason: Why no trend can be told; None if one is.
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
        """Returns plain lists, strings and floats, as JSON holds them."""
        return asdict(self) | {"interval": list(self.interval) if self.interval else None}


def trajectory(segments: Iterable[_Heard]) -> Trajectory:
    """Fits a line to the valence of segments over time.

    Least squares, each segment weighted by its length. Neighbours resemble each other, and so say less than as many
    independent ones: n counts as n (1 - r) / (1 + r), where r is the correlation of successive residuals, if positive,
    corrected for its bias (Kendall 1954, Marriott & Pope 1954). The interval follows Student's distribution for that
    many.

    Args:
        segments: In order of time; those without valence are left out.
    """
    heard = [(segment, segment.valence) for segment in segments]
    known = [(segment, valence) for segment, valence in heard if valence is not None and segment.duration > 0]
    count = len(known)
    speech = math.fsum(segment.duration for segment, _ in known)
    span = known[-1][0].at - known[0][0].at if known else 0.0
    sources = dict.fromkeys(segment.dimensions_from for segment, _ in known)
    source = " or ".join(filter(None, sources)) or None
    reason = None
    if count < MIN_SEGMENTS:
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
    """Which share of the residuals of a line counts as independent of each other."""
    squares = math.fsum(residual**2 for residual in residuals)
    if squares == 0:
        return 1.0
    pairs = pairwise(residuals)
    correlation = math.fsum(a * b for a, b in pairs) / squares
    count = len(residuals)
    correlation = min(max(correlation + (2 + 4 * correlation) / count, 0.0), 0.9)
    return (1 - correlation) / (1 + correlation)


def _student(free: float) -> float:
    """Returns the 0.975 quantile of Student's distribution: Abramowitz & Stegun 26.7.5, within 0.2 % from 3 on."""
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / free**power for power, term in enumerate(terms, 1))

"""Means, shares and slopes over the segments of a voice, each with an interval that follows from the data alone.

Segments count by their duration. Neighboring segments resemble each other and carry less information than independent
ones: n counts as n (1 - r) / (1 + r), where r is the correlation of successive residuals, if positive, corrected for
its bias (Kendall 1954, Marriott & Pope 1954). Nothing is drawn at random.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Line", "Mean", "line", "mean", "share", "share_change"]

_Z = 1.959964  # 0.975 quantile of the normal distribution

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """A weighted mean.

    Attributes:
        value: The mean.
        error: Its standard error.
        free: Degrees of freedom of the error, at least 1.
    """

    value: float
    error: float
    free: float

    @property
    def interval(self) -> Interval:
        """95 % interval, by Student's distribution."""
        return _around(self.value, self.error, self.free)

    def minus(self, other: "Mean") -> "Mean":
        """Returns the difference of two independent means (Welch 1947)."""
        squares = [each.error**2 for each in (self, other)]
        below = math.fsum(square**2 / each.free for square, each in zip(squares, (self, other), strict=True))
        free = math.fsum(squares) ** 2 / below if below else min(self.free, other.free)
        return Mean(self.value - other.value, math.sqrt(math.fsum(squares)), free)


@dataclass(frozen=True)
class Line:
    """A line through weighted values over time.

    Attributes:
        slope: Slope per unit of time.
        error: Its standard error.
        interval: 95 % interval of the slope, by Student's distribution.
        scatter: Standard deviation of the values about the line.
        mean: Weighted mean of the values.
    """

    slope: float
    error: float
    interval: Interval
    scatter: float
    mean: float


def mean(values: Sequence[float], weights: Sequence[float]) -> Mean:
    """Returns the mean of values in order of time, with its standard error.

    Weights that differ count as fewer values, (sum w)^2 / sum w^2 of them (Kish 1965).

    Args:
        values: At least two values.
        weights: Weight of each, above 0.
    """
    value = _mean(weights, values)
    residuals = [each - value for each in values]
    squares = _mean(weights, [residual**2 for residual in residuals])
    count = max(_kish(weights) * _independent(residuals, 1, 3), 2.0)
    return Mean(value, math.sqrt(squares / (count - 1)), count - 1)


def share(flags: Sequence[float], weights: Sequence[float]) -> tuple[float, Interval]:
    """Returns the weighted share of flags that are set, with its 95 % interval.

    The interval is Wilson's (1927) for the number of independent values of the same weight, as Franco, Little, Louis
    and Slud (2019) recommend.

    Args:
        flags: At least one flag, 0 or 1, in order of time.
        weights: Weight of each, above 0.
    """
    value = _mean(weights, flags)
    count = max(_kish(weights) * _independent([flag - value for flag in flags], 1, 3), 1.0)
    middle = (value + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * math.sqrt(value * (1 - value) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return value, (max(middle - half, 0.0), min(middle + half, 1.0))


def share_change(
    before: tuple[Sequence[float], Sequence[float]], after: tuple[Sequence[float], Sequence[float]]
) -> tuple[float, Interval]:
    """Returns how much greater a weighted share is after than before, with its 95 % interval.

    The interval joins those of the two shares (Newcombe 1998, method 10).

    Args:
        before: Flags and their weights, as for `share`.
        after: The same, later.
    """
    (first, (first_low, first_high)), (last, (last_low, last_high)) = share(*before), share(*after)
    change = last - first
    down = math.hypot(last - last_low, first_high - first)
    up = math.hypot(last_high - last, first - first_low)
    return change, (change - down, change + up)


def line(times: Sequence[float], values: Sequence[float], weights: Sequence[float]) -> Line:
    """Fits a line to values over time by weighted least squares.

    Args:
        times: Times in order, at least three of them, not all the same.
        values: A value for each.
        weights: Weight of each, above 0.
    """
    count = len(times)
    total = math.fsum(weights)
    weights = [weight * count / total for weight in weights]  # 1 on average
    center, middle = _mean(weights, values), _mean(weights, times)
    spread = math.fsum(w * (t - middle) ** 2 for w, t in zip(weights, times, strict=True))
    slope = math.fsum(w * (t - middle) * v for w, t, v in zip(weights, times, values, strict=True)) / spread
    residuals = [v - center - slope * (t - middle) for t, v in zip(times, values, strict=True)]
    squares = math.fsum(w * residual**2 for w, residual in zip(weights, residuals, strict=True))
    free = max(count * _independent(residuals, 2, 4) - 2, 1.0)  # degrees of freedom
    error = math.sqrt(squares / free / spread)
    return Line(slope, error, _around(slope, error, free), math.sqrt(squares / (count - 2)), center)


def _around(value: float, error: float, free: float) -> Interval:
    half = _student(free) * error
    return value - half, value + half


def _mean(weights: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(weights)


def _kish(weights: Sequence[float]) -> float:
    """Returns how many equal weights inform as much about a mean."""
    return math.fsum(weights) ** 2 / math.fsum(weight**2 for weight in weights)


def _independent(residuals: Sequence[float], fixed: float, growing: float) -> float:
    """Returns the share of residuals that counts as independent.

    Args:
        residuals: Residuals in order of time.
        fixed: Bias of their correlation, times their number: 1 about a mean, 2 about a line.
        growing: Bias that is proportional to the correlation, in the same way: 3 and 4.
    """
    squares = math.fsum(residual**2 for residual in residuals)
    if squares == 0:
        return 1.0
    pairs = pairwise(residuals)
    correlation = math.fsum(a * b for a, b in pairs) / squares
    count = len(residuals)
    correlation = min(max(correlation + (fixed + growing * correlation) / count, 0.0), 0.9)
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

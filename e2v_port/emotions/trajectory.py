"""The trend of a voice: whether it has sounded more or less pleasant over minutes, and how certain that is."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from e2v_port.emotions.intervals import line
from e2v_port.seconds import seconds

__all__ = ["MIN_SEGMENTS", "MIN_SPAN", "Trajectory", "trajectory"]

# All heuristic; docs/live.md shows their effect.
MIN_SEGMENTS = 5  # the interval of a line through fewer excludes nothing
MIN_SPAN = 60.0  # s from the first segment to the last: less is a moment, not a trend
_CHANGE = 0.1  # change of valence over the span: the width of the neutral band of `FusionSettings`
_VOLATILE = 0.15  # standard deviation of valence: about the distance from neutral to the middle of sad or happy
_TRENDS = {"valence": ("declining", "improving"), "arousal": ("falling", "rising")}


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
    """The trend of valence, or of arousal. Without enough data, all fields but the last five are None.

    Attributes:
        trend: `improving` or `declining` (of arousal `rising` or `falling`) if the 95 % interval of the slope excludes
            0 and valence changes over the span by at least 0.1 and by more than its scatter; else `volatile` if the
            scatter is at least 0.15; else `stable`: these data show no change, within the interval.
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


def trajectory(segments: Iterable[_Heard], dimension: Literal["valence", "arousal"] = "valence") -> Trajectory:
    """Fits a line to the valence of segments over time, or to their arousal.

    Uses least squares, with each segment weighted by its duration. The interval counts neighbors that resemble each
    other as fewer segments: see `e2v_port.emotions.intervals`.

    Args:
        segments: Segments of one speaker, in any order; those without valence are skipped.
        dimension: What the line goes through: `valence`, or `arousal`, which the segments then need to have.
    """
    heard = [(each, getattr(each, dimension)) for each in sorted(segments, key=lambda segment: segment.at)]
    known = [(segment, value) for segment, value in heard if value is not None and segment.duration > 0]
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
    found = line(minutes, [value for _, value in known], [segment.duration for segment, _ in known])
    low, high = found.interval
    change = abs(found.slope) * minutes[-1]
    if not low <= 0 <= high and change >= max(_CHANGE, found.scatter):
        trend = _TRENDS[dimension][found.slope > 0]
    else:
        trend = "volatile" if found.scatter >= _VOLATILE else "stable"
    numbers = (found.slope, found.error, found.interval, found.scatter, found.mean)
    return Trajectory(trend, *numbers, count, speech, span, source, None)

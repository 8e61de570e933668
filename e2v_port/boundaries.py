"""Which emotion when, inside a segment: the scores of its frames, smoothed into stretches of one label each."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Boundary", "BoundarySettings", "boundaries"]

_Run: TypeAlias = tuple[int, int, int]  # first frame, frame behind the last, index of the label

_ROUNDING = 1e-9  # s, of sums of frames


@dataclass(frozen=True)
class BoundarySettings:
    """How scores of frames become stretches. The numbers are our own, not tuned on labelled recordings.

    Attributes:
        smoothing: Seconds; width of the moving average over each label's probability. Some four syllables, so that
            a single sound does not decide. 0 for none.
        margin: Probability, 0 to 1; another label takes over where it is this much above the present one. So two
            labels of almost the same probability do not take turns.
        min_duration: Seconds; a shorter stretch is given to a neighbour. Below 1 s people do not label reliably:
            the bound under which segments are not judged either.
    """

    smoothing: float = 1.0
    margin: float = 0.1
    min_duration: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for what makes no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{field.name} must be a finite number of at least 0, not {value!r}")
        if self.margin >= 1:
            raise ValueError(f"margin must be below 1, not {self.margin!r}")


@dataclass(frozen=True)
class Boundary:
    """A stretch in which one label prevails.

    Attributes:
        start: Seconds from the start of the clip.
        end: Seconds.
        label: One of the model's labels.
        probability: Its mean over the frames, 0 to 1, before smoothing. The head was trained on means over clips, so
            this shows where an emotion is rather than how sure it is.
    """

    start: float
    end: float
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns plain strings and floats, as JSON holds them."""
        return asdict(self)


def boundaries(
    scores: NDArray[np.float64],
    labels: Sequence[str],
    span: tuple[float, float],
    frame_seconds: float,
    settings: BoundarySettings | None = None,
) -> list[Boundary]:
    """Turns the scores of a segment's frames into stretches of one label each.

    Where another label takes over by the margin, the change is dated back to where it went ahead. Stretches under the
    minimum duration go, the shortest first, to the neighbour whose label is more probable in them.

    Args:
        scores: [frames, labels], probabilities.
        labels: Their names.
        span: Start and end of the segment, in seconds.
        frame_seconds: From one frame to the next. The last frame reaches to the end of the segment.
        settings: Other settings than the default ones.

    Returns:
        Stretches that cover the segment without gap or overlap, no two of one label in a row, none shorter than the
        minimum duration unless it is the only one.

    Raises:
        ValueError: No frames, another number of labels, or frames that reach beyond the segment.
    """
    settings = settings or BoundarySettings()
    frames, (start, end) = len(scores), span
    if scores.shape != (frames, len(labels)) or not frames or not labels:
        raise ValueError(f"scores {scores.shape} are not [frames, {len(labels)} labels]")
    # Where each frame begins, and the end of the segment.
    times = [*(start + frame_seconds * i for i in range(frames)), end]
    if not times[-2] < end:
        raise ValueError(f"{frames} frames do not fit between {start} and {end} s")
    smooth = _smoothed(scores, round(settings.smoothing / frame_seconds))
    runs = _leaders(smooth, settings.margin)
    while len(runs) > 1:
        shortest = min(times[behind] - times[first] for first, behind, _ in runs) + _ROUNDING
        if shortest >= settings.min_duration:
            break
        runs = _without(runs, smooth, times, shortest)
    return [
        Boundary(times[first], times[behind], labels[label], float(scores[first:behind, label].mean()))
        for first, behind, label in runs
    ]


def _smoothed(scores: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Moving average, centred; at the ends over as many frames as there are."""
    at = np.arange(len(scores))
    first, behind = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(scores))
    sums = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0, dtype=np.float64)])
    averages: NDArray[np.float64] = (sums[behind] - sums[first]) / (behind - first)[:, None]
    return averages


def _leaders(smooth: NDArray[np.float64], margin: float) -> list[_Run]:
    """Follows the leading label with hysteresis."""
    leading = smooth.argmax(axis=1)
    present = int(leading[0])
    changes = [(0, present)]
    for i in np.flatnonzero(leading != np.concatenate([leading[:1], leading[:-1]])).tolist():
        changes.append((i, int(leading[i])))
    runs: list[_Run] = []
    begun = 0
    for (i, leader), (behind, _) in zip(changes, [*changes[1:], (len(smooth), -1)], strict=True):
        if leader != present and (smooth[i:behind, leader] - smooth[i:behind, present]).max() > margin:
            runs.append((begun, i, present))
            begun, present = i, leader
    return [*runs, (begun, len(smooth), present)]


def _without(runs: list[_Run], smooth: NDArray[np.float64], times: Sequence[float], seconds: float) -> list[_Run]:
    """Gives the runs of at most so many seconds to their neighbours; one run is always left."""
    kept: list[_Run] = []
    runs = runs[::-1]  # the next one is the last
    while runs:
        first, behind, label = runs.pop()
        if times[behind] - times[first] <= seconds and (kept or runs):
            neighbours = [run[-1][2] for run in (kept, runs) if run]
            label = max(neighbours, key=lambda neighbour: smooth[first:behind, neighbour].mean())
            if not kept or kept[-1][2] != label:  # it is the next one's
                _, behind, label = runs.pop()
        if kept and kept[-1][2] == label:
            first = kept.pop()[0]
        kept.append((first, behind, label))
    return kept

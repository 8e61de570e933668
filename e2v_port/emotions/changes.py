"""Changes of emotion within a segment: frame scores, smoothed into spans of one label each."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import check_numbers, quoted
from e2v_port.seconds import seconds

__all__ = ["DIARIZATION", "Boundary", "BoundarySettings", "boundaries"]

_Run: TypeAlias = tuple[int, int, int]  # first frame, frame after the last, index of the label

_ROUNDING = 1e-9  # s; error of a sum of frames


@dataclass(frozen=True)
class BoundarySettings:
    """Settings that turn frame scores into spans. The defaults are heuristic, not tuned on labeled recordings.

    Attributes:
        smoothing: Width of the moving average over each label's probability, in seconds. The default is about four
            syllables, so that a single sound does not decide; 0 turns smoothing off.
        margin: Probability, 0 to 1, by which another label must lead the current one to take over. Keeps two labels
            of nearly equal probability from alternating; at 0 every frame has its own most probable label.
        min_duration: Shortest span in seconds; a shorter one is merged into a neighbor. People do not label reliably
            below 1 s, which is also the shortest segment that is judged.
    """

    smoothing: float = 1.0
    margin: float = 0.1
    min_duration: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for invalid values."""
        check_numbers(self, least=0)
        if self.margin >= 1:
            raise ValueError(f"margin must be below 1, not {quoted(self.margin)}")


DIARIZATION = BoundarySettings(smoothing=0, margin=0, min_duration=0)
"""Emotion diarization as its authors do it: each frame has its most probable label, and equal neighbors are merged
(Wang et al. 2023, arXiv 2306.12991; speechbrain's `Speech_Emotion_Diarization`)."""


@dataclass(frozen=True)
class Boundary:
    """A span within a segment in which one label prevails.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        label: One of the model's labels.
        probability: Mean probability of the label over the frames, 0 to 1, before smoothing. The head was trained on
            means over clips, so this locates an emotion rather than measuring its confidence.
    """

    start: float
    end: float
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the `boundary` object of the JSON dialect."""
        return asdict(self)


def boundaries(
    scores: NDArray[np.float64],
    labels: Sequence[str],
    span: tuple[float, float],
    frame_seconds: float,
    settings: BoundarySettings | None = None,
) -> list[Boundary]:
    """Turns the frame scores of a segment into spans of one label each.

    Where another label takes over by the margin, the change is dated back to the frame where it took the lead. Spans
    below the minimum duration are merged, shortest first, into the neighbor whose label is more probable in them.

    Args:
        scores: Probabilities, [frames, labels].
        labels: Names of the labels.
        span: Start and end of the segment in seconds.
        frame_seconds: Seconds from one frame to the next. The last frame reaches to the end of the segment.
        settings: Settings to use instead of the defaults.

    Returns:
        Spans that cover the segment without gap or overlap: no two neighbors share a label, and none is shorter than
        the minimum duration unless it is the only one.

    Raises:
        ValueError: There are no frames, the number of labels differs, or the frames exceed the segment.
    """
    settings = settings or BoundarySettings()
    frames, (start, end) = len(scores), span
    if scores.shape != (frames, len(labels)) or not frames or not labels:
        raise ValueError(f"scores {scores.shape} are not [frames, {len(labels)} labels]")
    # Start of each frame, then the end of the segment.
    times = [*(start + frame_seconds * i for i in range(frames)), end]
    if not times[-2] < end:
        raise ValueError(f"{frames} frames do not fit between {start} and {end} s")
    width = round(settings.smoothing / frame_seconds)
    smooth = _smoothed(scores, width) if width else scores
    runs = _leaders(smooth, settings.margin)
    while len(runs) > 1:
        shortest = min(times[after] - times[first] for first, after, _ in runs) + _ROUNDING
        if shortest >= settings.min_duration:
            break
        runs = _without(runs, smooth, times, shortest)
    return [
        Boundary(seconds(times[first]), seconds(times[after]), labels[label], float(scores[first:after, label].mean()))
        for first, after, label in runs
    ]


def _smoothed(scores: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Returns the centered moving average; at the ends, over the frames that exist."""
    at = np.arange(len(scores))
    first, after = np.maximum(at - width // 2, 0), np.minimum(at + width // 2 + 1, len(scores))
    sums = np.concatenate([np.zeros((1, scores.shape[1])), np.cumsum(scores, axis=0, dtype=np.float64)])
    averages: NDArray[np.float64] = (sums[after] - sums[first]) / (after - first)[:, None]
    return averages


def _leaders(smooth: NDArray[np.float64], margin: float) -> list[_Run]:
    """Follows the leading label with hysteresis."""
    leading = smooth.argmax(axis=1)
    current = int(leading[0])
    changes = [(0, current)]
    for i in np.flatnonzero(leading != np.concatenate([leading[:1], leading[:-1]])).tolist():
        changes.append((i, int(leading[i])))
    runs: list[_Run] = []
    begun = 0
    for (i, leader), (after, _) in zip(changes, [*changes[1:], (len(smooth), -1)], strict=True):
        if leader != current and (smooth[i:after, leader] - smooth[i:after, current]).max() >= margin:
            runs.append((begun, i, current))
            begun, current = i, leader
    return [*runs, (begun, len(smooth), current)]


def _without(runs: list[_Run], smooth: NDArray[np.float64], times: Sequence[float], longest: float) -> list[_Run]:
    """Merges runs of at most this duration into their neighbors; one run always remains."""
    kept: list[_Run] = []
    runs = runs[::-1]  # so that pop() gives the next one
    while runs:
        first, after, label = runs.pop()
        if times[after] - times[first] <= longest and (kept or runs):
            neighbors = [run[-1][2] for run in (kept, runs) if run]
            label = max(neighbors, key=lambda neighbor: smooth[first:after, neighbor].mean())
            if not kept or kept[-1][2] != label:  # it joins the next run
                _, after, label = runs.pop()
        if kept and kept[-1][2] == label:
            first = kept.pop()[0]
        kept.append((first, after, label))
    return kept

"""The grid that all measures share: frames 10 ms apart, and runs of consecutive frames."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE

__all__ = ["FRAME_SECONDS", "HOP", "LEAST_POWER", "Flags", "Numbers", "Run", "frame_centers", "run_length", "runs_of"]

FRAME_SECONDS = 0.01  # distance between two values of a contour

Numbers: TypeAlias = NDArray[np.float64]
Flags: TypeAlias = NDArray[np.bool_]
Run: TypeAlias = tuple[int, int]  # frames, the end excluded
HOP = round(FRAME_SECONDS * SAMPLING_RATE)
LEAST_POWER = 1e-12  # -120 dBFS


def frame_centers(samples: Numbers, contour: Numbers) -> Numbers:
    """Returns the middle of each frame [frames], in samples."""
    return np.arange(len(contour), dtype=np.float64) * HOP + (len(samples) - (len(contour) - 1) * HOP) / 2


def runs_of(flags: Flags) -> list[Run]:
    """Returns the runs of frames with their flag set, in order."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def run_length(run: Run) -> int:
    """Returns the length of a run in frames."""
    return run[1] - run[0]

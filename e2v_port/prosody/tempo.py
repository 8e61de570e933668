"""Measures tempo: syllables, pauses and hesitations."""

import numpy as np

from e2v_port.prosody.frames import FRAME_SECONDS, Flags, Numbers, Run, run_length, runs_of

__all__ = ["PAUSE_FRAMES", "count_syllables", "extent_of", "inner_silences", "speaking_frames", "spoken_seconds"]


# dB: distance from the loudest frames to silence, and least dip between two syllables (de Jong and Wempe 2009,
# doi:10.3758/BRM.41.2.385).
_SILENT, _DIP = 25.0, 2.0
# Share of the range from the quietest frames to the loudest that counts as noise too; chosen here, for noisy rooms.
_NOISE = 0.3
# Frames; both chosen here, not from a paper. The closure of a stop lasts up to about 0.13 s; silences longer than 0.4 s
# separate phrases.
_HESITATION, PAUSE_FRAMES = 15, 40


def speaking_frames(levels: Numbers, voiced: Flags) -> Flags:
    """Returns which frames are spoken; at least one is."""
    quiet, loud = np.quantile(levels, (0.05, 0.99))
    speaking: Flags = voiced | (levels >= max(loud - _SILENT, quiet + _NOISE * (loud - quiet)))
    return speaking


def extent_of(speaking: Flags) -> Run:
    """Returns the run from the first spoken frame to the last."""
    spoken = np.flatnonzero(speaking)
    return int(spoken[0]), int(spoken[-1]) + 1


def inner_silences(speaking: Flags) -> list[Run]:
    """Returns the silences between spoken frames that last at least 0.15 s."""
    start, end = extent_of(speaking)
    inner = [(start + low, start + high) for low, high in runs_of(~speaking[start:end])]
    return [run for run in inner if run_length(run) >= _HESITATION]


def spoken_seconds(speaking: Flags, silences: list[Run]) -> float:
    """Returns the length of the speech without its silences, in seconds."""
    return FRAME_SECONDS * (run_length(extent_of(speaking)) - sum(map(run_length, silences)))


def count_syllables(levels: Numbers, voiced: Flags) -> int:
    """Counts syllables: voiced peaks of loudness with a dip on each side."""
    count = peak = 0
    lowest = -np.inf  # level since the last counted peak
    risen = True
    for i, level in enumerate(levels.tolist()):
        if risen:
            if level > levels[peak]:
                peak = i
            elif levels[peak] - level >= _DIP:
                count += bool(voiced[peak])
                risen, lowest = False, level
        elif level - lowest >= _DIP:
            risen, peak = True, i
        else:
            lowest = min(lowest, level)
    return count + bool(risen and voiced[peak])

"""Raises quiet sound to the level at which silero hears speech, without looking ahead."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

__all__ = ["EXPECTED", "Gain", "levels", "loudest"]

# Chosen by `benchmarks/level.py` among other values and other designs: see "Quiet speech" in docs/analysis.md.
EXPECTED = -36.0
"""Level of the loudest frames, in dBFS, from which on silero hears speech: louder sound is left as it is."""

_FALL = 2 * 0.032  # dB per frame: 2 dB per second
_SUSTAINED = 3  # frames, 96 ms, that the level must last: a click is shorter
_LEAST_POWER = 1e-12  # -120 dBFS


def levels(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Returns the level of frames [frames, samples] in dBFS, where a constant 1 has 0: [frames], at least -120."""
    power = np.square(frames, dtype=np.float64).mean(axis=1)
    decibels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, _LEAST_POWER))
    return decibels


def loudest(waveform: NDArray[np.float32], frame: int) -> float:
    """Returns the level in dBFS that a twentieth of the frames of a waveform exceeds."""
    frames = np.pad(waveform, (0, -len(waveform) % frame)).reshape(-1, frame)
    return float(np.quantile(levels(frames), 0.95)) if len(frames) else -np.inf


class Gain:
    """Follows the level of the loudest sound, and says how far each frame is to be raised.

    The level rises at once to what lasts for three frames, and falls by 2 dB per second. Where it is below `EXPECTED`,
    frames are raised by the difference; a frame that is louder than the level, such as a click, by less. So no frame
    ends up above `EXPECTED`, noise alone included, and a voice at a usual level is not changed.

    Args:
        most: Highest gain, in dB.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._level = -np.inf
        self._last = deque([-np.inf] * _SUSTAINED, _SUSTAINED)

    def push(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Takes the next frames [frames, samples] and returns their factors [frames]: 1 for those left as they are."""
        gains = []
        for level in levels(frames).tolist():
            self._last.append(level)
            self._level = max(self._level - _FALL, min(self._last))
            gains.append(min(max(EXPECTED - max(self._level, level), 0.0), self._most))
        return np.power(10, np.array(gains) / 20).astype(np.float32)

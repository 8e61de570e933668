"""Measures the quality of a recording: clipping, level, noise."""

import math
from dataclasses import asdict, dataclass

import numpy as np

from e2v_port.audio import Waveform
from e2v_port.prosody.frames import LEAST_POWER, run_length, runs_of
from e2v_port.prosody.noise import signal_to_noise

__all__ = ["AudioQuality", "ramp", "recording_quality"]


@dataclass(frozen=True)
class AudioQuality:
    """Quality of a recording.

    Attributes:
        clipped: Share of clipped samples, 0 to 1: at full scale, or three or more in a row that are equally high and
            the highest.
        level: Root mean square of all samples in dBFS, where a constant 1 has 0; at least -120.
        snr: Estimated signal-to-noise ratio in dB, 0 to 60: see `e2v_port.prosody.noise.signal_to_noise`.
        score: From 0, unusable, to 1, good: the product of three ramps, chosen here, not from a paper: `snr` from 0 to
            20 dB, `level` from -60 to -40 dBFS, and 1 minus the ramp of `clipped` from 0.001 to 0.05.
    """

    clipped: float
    level: float
    snr: float
    score: float

    def to_dict(self) -> dict[str, float]:
        """Returns the values by name."""
        return asdict(self)


_FULL_SCALE = 0.999
_STEP = 2.0**-15  # one step of 16 bits: samples that are closer are equal


def recording_quality(waveform: Waveform) -> AudioQuality:
    """Measures the quality of a recording.

    Args:
        waveform: [samples], float32, at least 0.1 s long.
    """
    heights = np.abs(waveform)
    highest = float(heights.max())
    flat = np.abs(np.diff(waveform)) < _STEP
    flat[heights[1:] < highest - _STEP] = False
    runs = [run_length(run) + 1 for run in runs_of(flat)] if highest >= 100 * _STEP else []
    at_top = heights >= _FULL_SCALE
    tops = sum(length for length in runs if length >= 3) if highest < _FULL_SCALE else int(at_top.sum())
    clipped = tops / len(waveform)
    level = 10 * math.log10(max(float(np.mean(waveform.astype(np.float64) ** 2)), LEAST_POWER))
    snr = signal_to_noise(waveform)
    score = ramp(snr, 0, 20) * ramp(level, -60, -40) * (1 - ramp(clipped, 0.001, 0.05))
    return AudioQuality(clipped, level, snr, score)


def ramp(value: float, start: float, full: float) -> float:
    """Returns 0 up to `start`, 1 from `full` on, and a line between; `full` may be the lower one."""
    return min(max((value - start) / (full - start), 0.0), 1.0)

"""Measures voice quality by single periods: jitter, shimmer, breathiness, harmonics-to-noise ratio."""

import math
from typing import NamedTuple, Self

import numpy as np

from e2v_port.audio import SAMPLING_RATE
from e2v_port.prosody.frames import HOP, Numbers, frame_centers, runs_of
from e2v_port.prosody.pitch import LONGEST_PERIOD, refine_peak

__all__ = ["harmonics_to_noise", "period_measures"]


# Praat's manual, "Voice 2. Jitter" and "Voice 3. Shimmer": neighbors that differ more are left out.
_PERIOD_FACTOR, _AMPLITUDE_FACTOR = 1.3, 1.6
_MAX_HNR = 60.0  # dB


class _Signal(NamedTuple):
    """A waveform, and the energy of all samples before each of its samples."""

    samples: Numbers
    energy: Numbers

    @classmethod
    def of(cls, samples: Numbers) -> Self:
        return cls(samples, np.insert(np.cumsum(samples**2), 0, 0.0))


def _match(signal: _Signal, at: float, half: float, near: float, far: float) -> tuple[float, float] | None:
    """Finds the part of a signal that is most similar to the surroundings of a point.

    Args:
        signal: Signal to search.
        at: Position of the point, in samples.
        half: Length of the surroundings on each side, in samples.
        near: Shortest distance to search, in samples; negative before the point.
        far: Longest distance to search.

    Returns:
        Distance of the best match, and its normalized cross-correlation, -1 to 1; None if the search would leave the
        signal.
    """
    low, high = round(at - half), round(at + half)
    start, end = low + math.floor(near), high + math.ceil(far)
    if min(low, start) < 0 or max(high, end) > len(signal.samples):
        return None
    size = high - low
    energies = signal.energy[start + size : end + 1] - signal.energy[start : end - size + 1]
    scale = np.sqrt(np.maximum(energies * (signal.energy[high] - signal.energy[low]), 1e-30))
    likeness = np.correlate(signal.samples[start:end], signal.samples[low:high]) / scale
    top = int(likeness.argmax())
    shift, height = 0.0, float(likeness[top])
    if 0 < top < len(likeness) - 1:
        shift, height = refine_peak(*likeness[top - 1 : top + 2].tolist())
    return start - low + top + shift, min(height, 1.0)


def _pulses(signal: _Signal, contour: Numbers) -> list[Numbers]:
    """Returns the position of each period of each voiced run, in samples.

    The method is that of "Sound & Pitch: To PointProcess (cc)" in Praat's manual: it starts at the highest point of the
    middle period, and moves on in both directions to the best match of the last period.
    """
    centers = frame_centers(signal.samples, contour)
    voiced_runs = []
    for start, end in runs_of(~np.isnan(contour)):
        times, periods = centers[start:end], SAMPLING_RATE / contour[start:end]
        edges = {-1: max(times[0] - HOP / 2, 0.0), 1: min(times[-1] + HOP / 2, float(len(signal.samples)))}
        middle = (edges[-1] + edges[1]) / 2
        half = float(np.interp(middle, times, periods)) / 2
        low = max(round(middle - half), 0)
        first = low + float(np.abs(signal.samples[low : round(middle + half)]).argmax())
        pulses = [first]
        for step, edge in edges.items():
            here = first
            while (edge - here) * step > 0:
                period = float(np.interp(here, times, periods))
                near, far = sorted((0.8 * period * step, 1.25 * period * step))
                match = _match(signal, here, period / 2, near, far)
                # One more period is allowed beyond the edge if it matches the last one very well.
                if match is None or match[1] < (0.3 if (edge - here - match[0]) * step >= 0 else 0.7):
                    break
                here += match[0]
                pulses.append(here)
        voiced_runs.append(np.sort(pulses))
    return voiced_runs


def period_measures(samples: Numbers, contour: Numbers) -> tuple[float | None, float | None, float | None]:
    """Measures jitter, shimmer and breathiness; see `Prosody` for their definitions.

    Args:
        samples: [samples], float64, 16 kHz.
        contour: [frames], fundamental frequency in Hz, NaN where there is no voice.

    Returns:
        The three values; None for those without enough periods.
    """
    signal, emphasized = _Signal.of(samples), _Signal.of(np.diff(samples, prepend=0.0))
    periods, period_steps, amplitudes, amplitude_steps, noise = [], [], [], [], []
    for pulses in _pulses(signal, contour):
        if len(pulses) < 3:
            continue
        lengths = np.diff(pulses)
        steady = np.maximum(lengths[1:], lengths[:-1]) <= _PERIOD_FACTOR * np.minimum(lengths[1:], lengths[:-1])
        periods.append(lengths)
        period_steps.append(np.abs(np.diff(lengths))[steady])
        loud = np.array(
            [_amplitude(samples, *span) for span in zip(pulses[1:-1], lengths[:-1], lengths[1:], strict=True)]
        )
        alike = np.maximum(loud[1:], loud[:-1]) <= _AMPLITUDE_FACTOR * np.minimum(loud[1:], loud[:-1])
        amplitudes.append(loud)
        amplitude_steps.append(np.abs(np.diff(loud))[alike & steady[1:] & steady[:-1]])
        matches = (
            _match(emphasized, at, period / 2, period - 1, period + 1)
            for at, period in zip(pulses[:-1], lengths, strict=True)
        )
        noise += [1 - match[1] for match in matches if match]
    breathiness = min(float(np.mean(noise)), 1.0) if noise else None
    return _relative(period_steps, periods), _relative(amplitude_steps, amplitudes), breathiness


def _relative(steps: list[Numbers], values: list[Numbers]) -> float | None:
    if not sum(map(len, steps)):
        return None
    return float(np.concatenate(steps).mean() / np.concatenate(values).mean())


def _amplitude(samples: Numbers, at: float, before: float, after: float) -> float:
    """Returns the root mean square around a pulse, in a window of a fifth of the period on each side."""
    left, right = 0.2 * before, 0.2 * after
    near = np.arange(math.ceil(at - left), math.floor(at + right) + 1)
    weights = 0.5 + 0.5 * np.cos(np.pi * np.where(near < at, (near - at) / left, (near - at) / right))
    return math.sqrt(float(weights @ samples[near] ** 2 / weights.sum()))


def harmonics_to_noise(samples: Numbers, contour: Numbers) -> float:
    """Measures the mean harmonics-to-noise ratio of the voiced frames, in dB, -60 to 60.

    By Boersma (1993), a frame's best normalized correlation r is the share of harmonics in its power. The correlation
    is that of Praat's "To Harmonicity (cc)": between two windows of the longest period's length, one period apart, so
    that neither a window function nor a change of pitch lowers it.

    Args:
        samples: [samples], float64, 16 kHz.
        contour: [frames], fundamental frequency in Hz, NaN where there is no voice.
    """
    signal = _Signal.of(samples)
    shares = []
    for center, pitch in zip(frame_centers(samples, contour), contour, strict=True):
        period = SAMPLING_RATE / pitch
        if pitch > 0 and (
            match := _match(signal, center - period / 2, LONGEST_PERIOD / 2, 0.8 * period, 1.25 * period)
        ):
            shares.append(match[1])
    least = 10 ** (-_MAX_HNR / 10)
    r = np.clip(shares, least, 1 - least)
    return float(np.mean(10 * np.log10(r / (1 - r))))

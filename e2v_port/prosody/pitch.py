"""Tracks the fundamental frequency of a voice, and its level, frame by frame."""

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.audio import SAMPLING_RATE
from e2v_port.prosody.frames import HOP, LEAST_POWER, Numbers

__all__ = ["LEAST_VOICED", "LONGEST_PERIOD", "refine_peak", "track_pitch"]


# The autocorrelation method of Boersma (1993), "Accurate short-term analysis of the fundamental frequency and the
# harmonics-to-noise ratio of a sampled sound", with the standard settings of "Sound: To Pitch (ac)" in Praat's manual.

_FLOOR, _CEILING = 75.0, 600.0  # Hz
_VOICING, _SILENCE = 0.45, 0.03  # thresholds
_OCTAVE, _OCTAVE_JUMP, _VOICED_UNVOICED = 0.01, 0.35, 0.14  # costs
_CANDIDATES = 14  # besides "unvoiced"
LONGEST_PERIOD = SAMPLING_RATE / _FLOOR  # longest period, in samples
_WINDOW = round(3 * LONGEST_PERIOD)
_FFT = 1024  # at least the window plus the longest period, so that nothing wraps around
_FINER = 4  # lags are quarters of a sample, before a parabola refines them
_LAGS = math.ceil(LONGEST_PERIOD * _FINER) + 2
_BLOCK = 256  # frames processed at once: 9 MB
LEAST_VOICED = 5  # frames


def track_pitch(samples: Numbers) -> tuple[Numbers, Numbers]:
    """Tracks the pitch and the level of a waveform.

    Args:
        samples: [samples], float64, 16 kHz.

    Returns:
        The contour [frames] in Hz, NaN where there is no voice; and the levels [frames] in dBFS.
    """
    frames = (len(samples) - _WINDOW) // HOP + 1
    offset = (len(samples) - (frames - 1) * HOP - _WINDOW) // 2
    windows = sliding_window_view(samples[offset:], _WINDOW)[::HOP][:frames]
    hann = np.hanning(_WINDOW + 2)[1:-1]
    peak = max(float(np.abs(samples).max()), 1e-6)
    blocks = [windows[at : at + _BLOCK] for at in range(0, frames, _BLOCK)]
    power = np.concatenate([block**2 @ hann for block in blocks]) / hann.sum()
    pitches, strengths = zip(*(_candidates(block, hann, peak) for block in blocks), strict=True)
    contour = _best_path(np.concatenate(pitches), np.concatenate(strengths))
    return contour, 10 * np.log10(np.maximum(power, LEAST_POWER))


def _candidates(windows: Numbers, hann: Numbers, peak: float) -> tuple[Numbers, Numbers]:
    """Returns pitches and strengths, [frames, 1 + candidates]; the first candidate is "unvoiced", with a pitch of 0."""
    middle, period = _WINDOW // 2, int(LONGEST_PERIOD)
    centered = windows - windows[:, middle - period : middle + period].mean(axis=1, keepdims=True)
    loudest = np.abs(centered[:, middle - period // 2 : middle + period // 2]).max(axis=1)
    unvoiced = _VOICING + np.maximum(0, 2 - loudest / peak * (1 + _VOICING) / _SILENCE)

    likeness = _autocorrelation(centered * hann) / _autocorrelation(hann[None])
    here = likeness[:, 1:-1]
    top = (here > likeness[:, :-2]) & (here >= likeness[:, 2:])
    top[:, : int(SAMPLING_RATE / _CEILING * _FINER) - 1] = False
    peaks = np.argpartition(np.where(top, here, -np.inf), -_CANDIDATES, axis=1)[:, -_CANDIDATES:]
    rows = np.arange(len(likeness))[:, None]
    shift, height = refine_peak(likeness[rows, peaks], here[rows, peaks], likeness[rows, peaks + 2])
    pitch = (
        SAMPLING_RATE * _FINER / (peaks + 1 + np.clip(shift, -0.5, 0.5))
    )  # clipped, since candidates that are no maximum may lie anywhere
    good = top[rows, peaks] & (pitch >= _FLOOR) & (pitch <= _CEILING)
    strength = np.where(good, height - _OCTAVE * np.log2(_CEILING / pitch), -np.inf)
    return np.insert(np.where(good, pitch, _FLOOR), 0, 0.0, axis=1), np.insert(strength, 0, unvoiced, axis=1)


def _autocorrelation(windows: Numbers) -> Numbers:
    """Returns the autocorrelation of windows [frames, samples]: [frames, lags], 1 at lag 0."""
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2
    power[:, -1] /= 2  # the highest frequency is now an inner one, which counts twice
    correlation = np.fft.irfft(power, _FFT * _FINER)[:, :_LAGS]
    likeness: Numbers = correlation / np.maximum(correlation[:, :1], 1e-30)
    return likeness


def refine_peak(before: Any, top: Any, after: Any) -> tuple[Any, Any]:
    """Fits a parabola to a maximum and its neighbors: its offset, -0.5 to 0.5 of their distance, and its height."""
    shift = 0.5 * (before - after) / (before - 2 * top + after - 1e-30)  # the constant covers three equal values
    return shift, top - 0.25 * (before - after) * shift


def _best_path(pitches: Numbers, strengths: Numbers) -> Numbers:
    """Returns the path through the candidates of all frames with the lowest cost (Viterbi)."""
    unvoiced = pitches == 0
    octaves = np.log2(np.where(unvoiced, 1.0, pitches))
    best, came = strengths[0], np.zeros(pitches.shape, np.intp)
    for i in range(1, len(pitches)):
        costs = np.abs(octaves[i - 1][:, None] - octaves[i]) * _OCTAVE_JUMP
        costs[0], costs[:, 0], costs[0, 0] = _VOICED_UNVOICED, _VOICED_UNVOICED, 0.0
        totals = best[:, None] - costs
        came[i] = totals.argmax(axis=0)
        best = totals.max(axis=0) + strengths[i]
    contour = np.empty(len(pitches))
    at = int(best.argmax())
    for i in reversed(range(len(pitches))):
        contour[i] = pitches[i, at] or np.nan
        at = came[i, at]
    return contour

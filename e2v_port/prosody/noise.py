"""Estimates how far speech stands above the noise around it, also where it has no pause."""

import math
from functools import cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.prosody.frames import HOP, Numbers

__all__ = ["LEAST_SAMPLES", "correction", "edges", "signal_to_noise"]

LEAST_SAMPLES = 1600  # 0.1 s, of which five frames are left

_MOST = 60.0  # dB
_WINDOW = 512  # samples: 32 ms
_FRAMES = 256  # at a time: the spectra of a minute would take 55 MB
_BANDS = 16
_LOWEST, _HIGHEST = 50.0, 8000.0  # Hz
_QUIETEST = 0.02  # share of the frames that counts as noise, in each band
_SMOOTHED = 3  # frames that are averaged first, so that chance does not make noise look quiet
_SPOKEN = 25.0  # dB below the loudest twentieth: louder frames are speech
_LEAST = 1e-13  # power of a band: -130 dBFS
# fmt: off
_CORRECTION = (
    3.087871042955823, 3.319688326606334, 2.5227961364989184, 2.5657808996565192, 2.359264368609147, 2.0605587515002166,
    1.9464309077941802, 1.9043577348862166, 1.756100327210755, 1.7158426103921265, 1.6486845345628314,
    1.6032633063774007, 1.5413224970464303, 1.4853358502091523, 1.4519974868079235, 1.3762229155017849,
)
# fmt: on


def signal_to_noise(waveform: Waveform) -> float:
    """Estimates the signal-to-noise ratio of speech, in dB.

    Noise is what the quietest fiftieth of the frames holds, in each of 16 bands on its own, after minimum statistics
    (Martin 2001, doi:10.1109/89.928915): speech leaves some bands free at any time, so no pause is needed. What sounds
    all the time is noise, whatever it is; what comes and goes with the speech is not. docs/prosody.md shows how right
    this is. Takes 0.2 ms per second of audio.

    Args:
        waveform: [samples], float32, 16 kHz, at least `LEAST_SAMPLES` of them.

    Returns:
        0 to 60.
    """
    bands = _band_powers(waveform)
    noise = float(np.maximum(_quietest(bands) * correction(), _LEAST).sum())
    powers = bands.sum(axis=1)
    levels = 10 * np.log10(np.maximum(powers, _LEAST))
    speech = float(powers[levels >= np.quantile(levels, 0.95) - _SPOKEN].mean())
    return 10 * math.log10(min(max(speech / noise - 1, 1.0), 10 ** (_MOST / 10)))


def _band_powers(waveform: Waveform) -> Numbers:
    """Returns the power in each band [frames, bands], averaged over three frames."""
    frames = sliding_window_view(waveform, _WINDOW)[::HOP]
    scale = 2 / _WINDOW / (_hann() ** 2).sum()
    parts = []
    for start in range(0, len(frames), _FRAMES):
        powers = np.abs(np.fft.rfft(frames[start : start + _FRAMES] * _hann())) ** 2 * scale
        parts.append(np.add.reduceat(powers, edges(), axis=1))
    bands = np.concatenate(parts)
    averaged: Numbers = sliding_window_view(bands, _SMOOTHED, axis=0).mean(axis=-1)
    return averaged


def _quietest(bands: Numbers) -> Numbers:
    quietest: Numbers = np.quantile(bands, _QUIETEST, axis=0)
    return quietest


@cache
def _hann() -> Numbers:
    return np.hanning(_WINDOW)


@cache
def edges() -> list[int]:
    """Returns the first bin of each band: evenly spaced on the mel scale, 2595 log10(1 + f / 700)."""
    low, high = (math.log10(1 + hertz / 700) for hertz in (_LOWEST, _HIGHEST))
    hertz = 700 * (10 ** np.linspace(low, high, _BANDS + 1) - 1)
    edges: list[int] = np.round(hertz * _WINDOW / SAMPLING_RATE).astype(int)[:-1].tolist()
    return edges


def correction() -> Numbers:
    """Returns how far the quietest frames of steady noise lie below its mean, by band.

    Measured on a minute of white noise (tests/test_noise.py); stored, so that no result depends on numbers that are
    drawn.
    """
    return np.array(_CORRECTION)

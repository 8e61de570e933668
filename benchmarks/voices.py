"""Synthetic voices with known pitch, jitter, shimmer, noise, tremor and tempo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform

Numbers = NDArray[np.float64]

# Frequency and bandwidth in Hz, roughly those of an open vowel.
FORMANTS = ((700, 90), (1200, 110), (2600, 160), (3500, 200))


@dataclass(frozen=True)
class Voice:
    """A sustained vowel.

    Attributes:
        waveform: [samples], float32, 16 kHz, peak 0.5.
        jitter: Mean difference of neighboring periods relative to their mean, for the actual pulses.
        shimmer: Mean difference of neighboring heights relative to their mean, for the actual pulses.
    """

    waveform: Waveform
    jitter: float
    shimmer: float


def tone(hz: float, seconds: float = 1.0) -> Waveform:
    """Returns a sine with an amplitude of 0.3."""
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE)).astype(np.float32)


def voice(
    seconds: float = 2.0,
    pitch: float = 120.0,
    *,
    glide: float = 0.0,
    jitter: float = 0.0,
    shimmer: float = 0.0,
    tremor: tuple[float, float] = (5.0, 0.0),
    seed: int = 0,
) -> Voice:
    """Makes a vowel: band-limited pulses filtered by formants.

    Args:
        seconds: Duration.
        pitch: Pitch at the start, in Hz.
        glide: Change of the pitch, in semitones per second.
        jitter: Intended jitter; the result has the actual one.
        shimmer: Intended shimmer; the result has the actual one.
        tremor: Rate in Hz, and depth as a share of the pitch.
        seed: Random seed.
    """
    random = np.random.default_rng(seed)
    # Neighboring independent normal numbers differ by 2 / sqrt(pi) standard deviations on average.
    spread = math.sqrt(math.pi) / 2
    at, moments = 0.02, []
    while at < seconds - 0.02:
        moments.append(at)
        hz = pitch * 2 ** (glide * at / 12) * (1 + tremor[1] * math.sin(2 * math.pi * tremor[0] * at))
        at += (1 + jitter * spread * random.standard_normal()) / hz
    heights = 1 + shimmer * spread * random.standard_normal(len(moments))
    samples = np.zeros(round(seconds * SAMPLING_RATE))
    reach = np.arange(-40, 41)
    for moment, height in zip(np.array(moments) * SAMPLING_RATE, heights, strict=True):
        near = round(moment) + reach
        samples[near] += height * np.sinc(near - moment) * np.cos(np.pi * (near - moment) / 83) ** 2
    lfilter = import_module("scipy.signal").lfilter
    samples = lfilter([1], [1, -0.97], samples)  # the slope of a glottis
    for hz, width in FORMANTS:
        radius = math.exp(-math.pi * width / SAMPLING_RATE)
        poles = [1, -2 * radius * math.cos(2 * math.pi * hz / SAMPLING_RATE), radius**2]
        samples = lfilter([1], poles, samples)
    samples -= samples.mean()
    periods = np.diff(moments)
    return Voice(
        (0.5 * samples / np.abs(samples).max()).astype(np.float32),
        float(np.abs(np.diff(periods)).mean() / periods.mean()),
        float(np.abs(np.diff(heights)).mean() / heights.mean()),
    )


def noisy(waveform: Waveform, decibels: float, *, emphasized: bool = False, seed: int = 1) -> Waveform:
    """Adds white noise.

    Args:
        waveform: Waveform without noise.
        decibels: Level of the noise below the mean power of the waveform.
        emphasized: Whether powers are compared after pre-emphasis (first differences).
        seed: Random seed.
    """
    noise = np.random.default_rng(seed).standard_normal(len(waveform))
    powers = [float(np.mean((np.diff(x) if emphasized else x) ** 2)) for x in (waveform.astype(np.float64), noise)]
    scale = math.sqrt(powers[0] / powers[1]) * 10 ** (-decibels / 20)
    return (waveform + scale * noise).astype(np.float32)


def syllables(count: int, rate: float, waveform: Waveform) -> Waveform:
    """Modulates the level of a sustained vowel by 20 dB, once per syllable."""
    seconds = np.arange(round(count / rate * SAMPLING_RATE)) / SAMPLING_RATE
    loudness = 10 ** (-(1 + np.cos(2 * np.pi * rate * seconds)) / 2)
    return (waveform[: len(seconds)] * loudness).astype(np.float32)


def with_silences(waveform: Waveform, silences: Sequence[tuple[float, float]]) -> Waveform:
    """Inserts silences, given by position in the waveform and duration, both in seconds."""
    parts, last = [], 0
    for at, seconds in silences:
        here = round(at * SAMPLING_RATE)
        parts += [waveform[last:here], np.zeros(round(seconds * SAMPLING_RATE), np.float32)]
        last = here
    return np.concatenate([*parts, waveform[last:]])

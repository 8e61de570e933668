"""Synthetic voices of which everything is known: pitch, jitter, shimmer, noise, tremor, tempo."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform

Numbers = NDArray[np.float64]

# Frequency and bandwidth in Hz: about those of an open vowel.
FORMANTS = ((700, 90), (1200, 110), (2600, 160), (3500, 200))


@dataclass(frozen=True)
class Voice:
    """A vowel that is held.

    Attributes:
        waveform: [samples], float32, 16 kHz, peak 0.5.
        jitter: Mean difference of neighbouring periods over their mean, of the pulses that were really put in.
        shimmer: The same of their heights.
    """

    waveform: Waveform
    jitter: float
    shimmer: float


def tone(hz: float, seconds: float = 1.0) -> Waveform:
    """A sine with an amplitude of 0.3."""
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
    """Makes a vowel: band-limited pulses through formants.

    Args:
        seconds: How long it is.
        pitch: In Hz, at the start.
        glide: Semitones per second.
        jitter: Aimed at; that of the result is told.
        shimmer: Likewise.
        tremor: Rate in Hz, and depth as a share of the pitch.
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    # Neighbours of independent normal numbers differ by 2 / sqrt(pi) standard deviations on average.
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


def noisy(waveform: Waveform, decibels: float, *, emphasised: bool = False, seed: int = 1) -> Waveform:
    """Adds white noise.

    Args:
        waveform: Without noise.
        decibels: How far the noise lies below its mean power.
        emphasised: Compare the powers after pre-emphasis (first differences).
        seed: Of the random numbers.
    """
    noise = np.random.default_rng(seed).standard_normal(len(waveform))
    powers = [float(np.mean((np.diff(x) if emphasised else x) ** 2)) for x in (waveform.astype(np.float64), noise)]
    scale = math.sqrt(powers[0] / powers[1]) * 10 ** (-decibels / 20)
    return (waveform + scale * noise).astype(np.float32)


def syllables(count: int, rate: float, waveform: Waveform) -> Waveform:
    """Makes a held vowel louder and quieter, by 20 dB, once for each syllable."""
    seconds = np.arange(round(count / rate * SAMPLING_RATE)) / SAMPLING_RATE
    loudness = 10 ** (-(1 + np.cos(2 * np.pi * rate * seconds)) / 2)
    return (waveform[: len(seconds)] * loudness).astype(np.float32)


def with_silences(waveform: Waveform, silences: Sequence[tuple[float, float]]) -> Waveform:
    """Puts silence into it: at seconds of the waveform, for seconds."""
    parts, last = [], 0
    for at, seconds in silences:
        here = round(at * SAMPLING_RATE)
        parts += [waveform[last:here], np.zeros(round(seconds * SAMPLING_RATE), np.float32)]
        last = here
    return np.concatenate([*parts, waveform[last:]])

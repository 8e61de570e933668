"""What happens to a voice on its way to a recording: small pure functions from waveform to waveform.

Each takes a waveform [samples], float32 at 16 kHz, full scale 1, and the generator it draws from; each leaves what it
was given as it was, and the same generator gives the same samples. All but `trim`, `crop` and `speed` keep the length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform

__all__ = [
    "Augmentation",
    "add",
    "augment",
    "babble",
    "band",
    "coloured_noise",
    "crop",
    "gain",
    "overdrive",
    "room",
    "speed",
    "tilt",
    "trim",
]

Range = tuple[float, float]

_EDGE = SAMPLING_RATE // 4  # samples of zeros behind a clip, into which a filter rings rather than into its start
_POINTS = (50.0, 200.0, 800.0, 3000.0, 8000.0)  # Hz, two octaves apart: what a microphone and a line differ in
_DIRECT = 32  # samples, 2 ms, from a voice itself to its first echo: 70 cm of detour


@dataclass(frozen=True)
class Augmentation:
    """How likely each step is and what it draws from, evenly where no other distribution is named.

    The ranges are own choices: from a studio to a telephone in a tiled room, at levels at which speech is understood.

    Attributes:
        speed: Probability of `speed`.
        factors: Of the speed, drawn evenly on a logarithmic scale: beyond a sixth, voices sound of another age.
        tilt: Probability of `tilt`.
        decibels: Standard deviation of the gain at each of its points, in dB.
        room: Probability of `room`.
        decay: Seconds in which the echo falls by 60 dB: a car to a hall.
        direct: How much stronger the voice is than all of its echo, in dB.
        noise: Probability of `add`.
        babble: Probability that what is added is other voices rather than noise.
        snr: How much stronger the voice is than what is added, in dB.
        band: Probability of `band`.
        low: Lower edge of the band, in Hz; 300 on a telephone line (ITU-T G.712).
        high: Upper edge; 3400 there.
        overdrive: Probability of `overdrive`.
        drive: How far beyond full scale the highest sample would go.
        peak: Highest sample in the end.
    """

    speed: float = 0.6
    factors: Range = (0.85, 1.17)
    tilt: float = 0.7
    decibels: float = 4.0
    room: float = 0.4
    decay: Range = (0.08, 0.7)
    direct: Range = (-3.0, 12.0)
    noise: float = 0.6
    babble: float = 0.4
    snr: Range = (3.0, 30.0)
    band: float = 0.35
    low: Range = (20.0, 350.0)
    high: Range = (2500.0, 7500.0)
    overdrive: float = 0.1
    drive: Range = (1.0, 4.0)
    peak: Range = (0.1, 0.95)


def augment(waveform: Waveform, rng: Generator, voices: Sequence[NDArray[Any]], settings: Augmentation) -> Waveform:
    """Applies all steps but `trim` and `crop` in the order in which they happen to a recording.

    Args:
        waveform: [samples].
        rng: Drawn from.
        voices: What babble is made of; none for noise alone.
        settings: Probabilities and ranges.
    """
    if rng.random() < settings.speed:
        waveform = speed(waveform, rng, settings.factors)
    if rng.random() < settings.tilt:
        waveform = tilt(waveform, rng, settings.decibels)
    if rng.random() < settings.room:
        waveform = room(waveform, rng, settings.decay, settings.direct)
    if rng.random() < settings.noise:
        others = voices and rng.random() < settings.babble
        noise = babble(len(waveform), rng, voices) if others else coloured_noise(len(waveform), rng)
        waveform = add(waveform, noise, rng.uniform(*settings.snr))
    if rng.random() < settings.band:
        waveform = band(waveform, rng, settings.low, settings.high)
    if rng.random() < settings.overdrive:
        waveform = overdrive(waveform, rng, settings.drive)
    return gain(waveform, rng, settings.peak)


def trim(waveform: Waveform, threshold: float = 0.05, margin: float = 0.1) -> Waveform:
    """Cuts silence off both ends: what comes more than `margin` s before or after a sample louder than `threshold`
    times the loudest. Silence alone stays.
    """
    loud = np.flatnonzero(np.abs(waveform) > threshold * np.abs(waveform).max())
    if not len(loud):
        return waveform
    edge = int(margin * SAMPLING_RATE)
    return waveform[max(0, loud[0] - edge) : loud[-1] + 1 + edge]


def crop(waveform: Waveform, rng: Generator, seconds: Range) -> Waveform:
    """Returns a part of a length drawn from `seconds`, from anywhere; a shorter clip is repeated up to that length."""
    samples = int(rng.uniform(*seconds) * SAMPLING_RATE)
    if len(waveform) < samples:
        waveform = np.resize(waveform, samples)
    start = rng.integers(len(waveform) - samples + 1)
    return waveform[start : start + samples]


def speed(waveform: Waveform, rng: Generator, factors: Range) -> Waveform:
    """Plays a clip faster or slower, and its pitch higher or lower with it, by a factor drawn from `factors`."""
    factor = math.exp(rng.uniform(*np.log(factors)))
    # The rates only count as a ratio. "LQ" keeps all below 6.8 kHz, and takes half the time of "HQ".
    faster: Waveform = soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE, quality="LQ")
    return faster


def tilt(waveform: Waveform, rng: Generator, decibels: float) -> Waveform:
    """Raises and lowers parts of the spectrum, as microphones do: a gain at each of five points, a line between."""
    gains = rng.normal(0, decibels, len(_POINTS))
    return _filtered(
        waveform, lambda hertz: 10 ** (np.interp(np.log(np.maximum(hertz, 1)), np.log(_POINTS), gains) / 20)
    )


def room(waveform: Waveform, rng: Generator, decay: Range, direct: Range) -> Waveform:
    """Puts a voice into a room: after the voice itself come its echoes, noise that decays exponentially.

    Args:
        waveform: [samples].
        rng: Drawn from.
        decay: Seconds in which the echo falls by 60 dB, from and to.
        direct: Energy of the voice over that of the echoes, in dB, from and to.
    """
    seconds = rng.uniform(*decay)
    at = np.arange(int(seconds * SAMPLING_RATE))
    # 60 dB are a factor of 1000 in amplitude.
    echo = rng.standard_normal(len(at), dtype=np.float32) * np.exp(-math.log(1000) * at / len(at), dtype=np.float32)
    echo[:_DIRECT] = 0
    echo *= 10 ** (-rng.uniform(*direct) / 20) / max(math.sqrt(float(echo @ echo)), 1e-9)
    echo[0] = 1
    size = _fast(len(waveform) + len(echo))
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(echo, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def coloured_noise(samples: int, rng: Generator) -> Waveform:
    """Returns noise of mean square 1: its power falls with frequency by 0 (white) to 6 dB (brown) an octave."""
    size = _fast(samples)
    bins = np.arange(size // 2 + 1, dtype=np.float32)
    bins[0] = 1
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * bins ** -rng.uniform(0, 1)
    return _unit(np.fft.irfft(spectrum, size)[:samples])


def babble(samples: int, rng: Generator, voices: Sequence[NDArray[Any]]) -> Waveform:
    """Returns one to five of these voices, of any scale, at once, as strong as each other, of mean square 1."""
    mixed = np.zeros(samples, dtype=np.float32)
    for _ in range(rng.integers(1, 6)):
        voice = voices[int(rng.integers(len(voices)))].astype(np.float32)
        voice = np.roll(voice, rng.integers(len(voice)))
        mixed += _unit(np.resize(voice, samples))
    return _unit(mixed)


def add(waveform: Waveform, noise: Waveform, snr: float) -> Waveform:
    """Adds noise of mean square 1, so strong that the voice has `snr` dB more power over the whole clip."""
    power = float(np.mean(waveform * waveform))
    return waveform + noise * np.float32(math.sqrt(power) * 10 ** (-snr / 20))


def band(waveform: Waveform, rng: Generator, low: Range, high: Range) -> Waveform:
    """Takes away what lies below an edge drawn from `low` and above one from `high`, in Hz: 3 dB less at the edges,
    at least 24 dB less an octave beyond the lower one, 48 beyond the upper.
    """
    bottom, top = rng.uniform(*low), rng.uniform(*high)

    def gains(hertz: NDArray[Any]) -> NDArray[Any]:
        # The power responses of Butterworth filters of the fourth and eighth order, without their delays.
        return np.asarray(((1 + (bottom / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / top) ** 16)) ** -0.5)

    return _filtered(waveform, gains)


def overdrive(waveform: Waveform, rng: Generator, drive: Range) -> Waveform:
    """Clips a recording whose highest sample would be `drive` times full scale at full scale."""
    return np.clip(gain(waveform, rng, drive), -1, 1)


def gain(waveform: Waveform, rng: Generator, peak: Range) -> Waveform:
    """Brings the highest sample to a value drawn from `peak`."""
    return waveform * np.float32(rng.uniform(*peak) / max(float(np.abs(waveform).max()), 1e-9))


def _filtered(waveform: Waveform, gains: Callable[[NDArray[Any]], NDArray[Any]]) -> Waveform:
    """Multiplies the spectrum by what `gains` makes of its frequencies in Hz; phases stay."""
    size = _fast(len(waveform) + _EDGE)
    spectrum = np.fft.rfft(waveform, size) * gains(np.fft.rfftfreq(size, 1 / SAMPLING_RATE))
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def _fast(samples: int) -> int:
    """Returns a size from here on that has small factors: elsewhere a transform takes ten times as long."""
    return min(odd << max(0, math.ceil(math.log2(samples / odd))) for odd in (1, 3, 5, 9, 15))


def _unit(noise: NDArray[np.floating]) -> Waveform:
    """Brings noise to a mean square of 1; silence stays."""
    scale = 1 / max(math.sqrt(float(np.mean(noise * noise))), 1e-9)
    return (noise * scale).astype(np.float32)

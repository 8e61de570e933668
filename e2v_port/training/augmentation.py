"""Simulates what happens to a voice on its way to a recording: pure functions from waveform to waveform.

Each takes a waveform [samples], float32 at 16 kHz with full scale 1, and a random generator. None modifies its input,
and equal generators give equal samples. All functions except `cut`, `trim`, `crop`, `speed` and `tempo` keep the
length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import soxr
from av.audio.frame import AudioFrame
from av.error import BlockingIOError as NothingReady
from av.error import EOFError as EndOfStream
from av.filter import Graph
from numpy.random import Generator
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.training.telephony import CODECS, NARROWBAND, passed

__all__ = [
    "Augmentation",
    "add",
    "augment",
    "babble",
    "band",
    "coloured_noise",
    "crop",
    "cut",
    "gain",
    "overdrive",
    "room",
    "speed",
    "tempo",
    "tilt",
    "transmit",
    "trim",
]

Range = tuple[float, float]

_EDGE = SAMPLING_RATE // 4  # zeros after a clip, so that filters do not wrap around into its start
_POINTS = (50.0, 200.0, 800.0, 3000.0, 8000.0)  # Hz, two octaves apart
_LINE = (300.0, 3400.0)  # Hz, the band of a telephone line, ITU-T G.712
_DIRECT = 32  # samples, 2 ms, before the first echo: a detour of 70 cm


@dataclass(frozen=True)
class Augmentation:
    """Probabilities of the steps and ranges of their parameters, which are drawn uniformly unless noted.

    The ranges are heuristic: from a studio to a telephone in a tiled room, at levels at which speech is intelligible.

    Attributes:
        cut: Probability of `cut`.
        seconds: Range of the length of a cut, in seconds.
        speed: Probability of `speed`.
        factors: Range of the speed, drawn uniformly on a logarithmic scale; beyond a sixth, voices sound like another
            age.
        tempo: Probability of `tempo`.
        tempos: Range of the tempo, drawn uniformly on a logarithmic scale.
        tilt: Probability of `tilt`.
        decibels: Standard deviation of the gain at each point of the tilt, in dB.
        room: Probability of `room`.
        decay: Range of the seconds in which the echo falls by 60 dB: from a car to a hall.
        direct: Range of the level of the voice above its echo, in dB.
        noise: Probability of `add`.
        babble: Probability of adding other voices instead of noise.
        snr: Range of the level of the voice above the noise, in dB.
        band: Probability of `band`.
        low: Range of the lower edge of the band, in Hz.
        high: Range of the upper edge of the band, in Hz.
        overdrive: Probability of `overdrive`.
        drive: Range of the level of the highest sample before clipping, relative to full scale.
        transmit: Probability of `transmit`, after a gain, since codecs treat quiet voices worse.
        codecs: Codecs, of `telephony.CODECS`, one of which is drawn.
        peak: Range of the highest sample of the result, drawn uniformly on a logarithmic scale.
    """

    cut: float = 0.2
    seconds: Range = (1.0, 2.0)
    speed: float = 0.6
    factors: Range = (0.85, 1.17)
    tempo: float = 0.3
    tempos: Range = (0.8, 1.25)
    tilt: float = 0.7
    decibels: float = 4.0
    room: float = 0.4
    decay: Range = (0.08, 0.7)
    direct: Range = (-3.0, 12.0)
    noise: float = 0.6
    babble: float = 0.4
    snr: Range = (3.0, 30.0)
    band: float = 0.25
    low: Range = (20.0, 350.0)
    high: Range = (2500.0, 7500.0)
    overdrive: float = 0.1
    drive: Range = (1.0, 4.0)
    transmit: float = 0.35
    codecs: tuple[str, ...] = CODECS
    peak: Range = (0.03, 0.95)


def augment(waveform: Waveform, rng: Generator, voices: Sequence[NDArray[Any]], settings: Augmentation) -> Waveform:
    """Applies all steps except `crop`, in the order in which they happen to a recording.

    Args:
        waveform: Waveform, [samples].
        rng: Random generator.
        voices: Voices that babble is made of; if empty, only noise is added.
        settings: Probabilities and ranges.
    """
    if rng.random() < settings.cut:
        waveform = cut(waveform, rng, settings.seconds)
    if rng.random() < settings.speed:
        waveform = speed(waveform, rng, settings.factors)
    if rng.random() < settings.tempo:
        waveform = tempo(waveform, rng, settings.tempos)
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
    if rng.random() < settings.transmit:
        codec = settings.codecs[int(rng.integers(len(settings.codecs)))]
        waveform = transmit(gain(waveform, rng, settings.peak), rng, codec)
    return gain(waveform, rng, settings.peak)


def trim(waveform: Waveform, threshold: float = 0.05, margin: float = 0.1) -> Waveform:
    """Cuts silence off both ends, keeping `margin` seconds around the samples above `threshold` times the peak.

    A clip that is all silence is returned unchanged.
    """
    loud = np.flatnonzero(np.abs(waveform) > threshold * np.abs(waveform).max())
    if not len(loud):
        return waveform
    edge = int(margin * SAMPLING_RATE)
    return waveform[max(0, loud[0] - edge) : loud[-1] + 1 + edge]


def crop(waveform: Waveform, rng: Generator, seconds: Range) -> Waveform:
    """Returns an excerpt at a random position, of a length drawn from `seconds`; a shorter clip is repeated first."""
    samples = int(rng.uniform(*seconds) * SAMPLING_RATE)
    if len(waveform) < samples:
        waveform = np.resize(waveform, samples)
    start = rng.integers(len(waveform) - samples + 1)
    return waveform[start : start + samples]


def cut(waveform: Waveform, rng: Generator, seconds: Range) -> Waveform:
    """Trims a clip and returns an excerpt at a random position; a clip that is shorter than drawn is kept whole."""
    waveform = trim(waveform)
    longest = len(waveform) / SAMPLING_RATE
    return crop(waveform, rng, (min(seconds[0], longest), min(seconds[1], longest)))


def speed(waveform: Waveform, rng: Generator, factors: Range) -> Waveform:
    """Changes speed and pitch together, by a factor drawn from `factors`."""
    factor = math.exp(rng.uniform(*np.log(factors)))
    # Only the ratio of the rates matters. "LQ" keeps everything below 6.8 kHz and takes half the time of "HQ".
    faster: Waveform = soxr.resample(waveform, SAMPLING_RATE * factor, SAMPLING_RATE, quality="LQ")
    return faster


def tempo(waveform: Waveform, rng: Generator, factors: Range) -> Waveform:
    """Changes the tempo by a factor drawn from `factors`, and keeps the pitch (WSOLA, FFmpeg's `atempo`).

    A clip that is shorter than the filter's window, some 60 ms, is returned unchanged.
    """
    factor = math.exp(rng.uniform(*np.log(factors)))
    graph = Graph()
    tick = Fraction(1, SAMPLING_RATE)
    source = graph.add_abuffer(sample_rate=SAMPLING_RATE, format="flt", layout="mono", time_base=tick)
    graph.link_nodes(source, graph.add("atempo", f"{factor:.6f}"), graph.add("abuffersink"))
    graph.configure()
    frame = AudioFrame.from_ndarray(waveform[None], format="flt", layout="mono")
    frame.sample_rate, frame.pts = SAMPLING_RATE, 0
    graph.push(frame)
    graph.push(None)
    parts: list[NDArray[Any]] = []
    while True:
        try:
            parts.append(graph.pull().to_ndarray())
        except (NothingReady, EndOfStream):
            return np.concatenate(parts, axis=1)[0] if parts else waveform


def tilt(waveform: Waveform, rng: Generator, decibels: float) -> Waveform:
    """Shapes the spectrum as microphones do: a random gain at each of five points, interpolated linearly in between."""
    gains = rng.normal(0, decibels, len(_POINTS))
    return _filtered(
        waveform, lambda hertz: 10 ** (np.interp(np.log(np.maximum(hertz, 1)), np.log(_POINTS), gains) / 20)
    )


def room(waveform: Waveform, rng: Generator, decay: Range, direct: Range) -> Waveform:
    """Adds the echo of a room: exponentially decaying noise, convolved with the voice.

    Args:
        waveform: Waveform, [samples].
        rng: Random generator.
        decay: Range of the seconds in which the echo falls by 60 dB.
        direct: Range of the energy of the voice relative to that of the echo, in dB.
    """
    seconds = rng.uniform(*decay)
    at = np.arange(int(seconds * SAMPLING_RATE))
    # 60 dB is a factor of 1000 in amplitude.
    echo = rng.standard_normal(len(at), dtype=np.float32) * np.exp(-math.log(1000) * at / len(at), dtype=np.float32)
    echo[:_DIRECT] = 0
    echo *= 10 ** (-rng.uniform(*direct) / 20) / max(math.sqrt(float(echo @ echo)), 1e-9)
    echo[0] = 1
    size = _fast(len(waveform) + len(echo))
    spectrum = np.fft.rfft(waveform, size) * np.fft.rfft(echo, size)
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def coloured_noise(samples: int, rng: Generator) -> Waveform:
    """Returns noise with mean square 1, whose power falls by 0 (white) to 6 dB (brown) per octave."""
    size = _fast(samples)
    bins = np.arange(size // 2 + 1, dtype=np.float32)
    bins[0] = 1
    spectrum = np.fft.rfft(rng.standard_normal(size, dtype=np.float32)) * bins ** -rng.uniform(0, 1)
    return _unit(np.fft.irfft(spectrum, size)[:samples])


def babble(samples: int, rng: Generator, voices: Sequence[NDArray[Any]]) -> Waveform:
    """Returns a mix of one to five voices at equal level, with mean square 1; the voices may have any scale."""
    mixed = np.zeros(samples, dtype=np.float32)
    for _ in range(rng.integers(1, 6)):
        voice = voices[int(rng.integers(len(voices)))].astype(np.float32)
        voice = np.roll(voice, rng.integers(len(voice)))
        mixed += _unit(np.resize(voice, samples))
    return _unit(mixed)


def add(waveform: Waveform, noise: Waveform, snr: float) -> Waveform:
    """Adds noise, given with mean square 1, at `snr` dB below the power of the whole clip."""
    power = float(np.mean(waveform * waveform))
    return waveform + noise * np.float32(math.sqrt(power) * 10 ** (-snr / 20))


def band(waveform: Waveform, rng: Generator, low: Range, high: Range) -> Waveform:
    """Limits the band to edges drawn from `low` and `high`, in Hz.

    The attenuation is 3 dB at the edges, and at least 24 dB an octave below the lower one and 48 dB an octave above the
    upper one.
    """
    bottom, top = rng.uniform(*low), rng.uniform(*high)

    def gains(hertz: NDArray[Any]) -> NDArray[Any]:
        # Responses of Butterworth filters of order four and eight, without their phase.
        return np.asarray(((1 + (bottom / np.maximum(hertz, 1)) ** 8) * (1 + (hertz / top) ** 16)) ** -0.5)

    return _filtered(waveform, gains)


def transmit(waveform: Waveform, rng: Generator, codec: str) -> Waveform:
    """Sends the voice over a line: limits the band to that of a telephone, where it is one, and applies the codec.

    Args:
        waveform: Waveform [samples]; clipped at full scale.
        rng: Draws the rate of the codec.
        codec: One of `telephony.CODECS`.

    Raises:
        TrainingError: The installed FFmpeg lacks the codec.
    """
    if codec in NARROWBAND:
        low, high = _LINE
        waveform = band(waveform, rng, (low, low), (high, high))
    return passed(waveform, codec, rng)


def overdrive(waveform: Waveform, rng: Generator, drive: Range) -> Waveform:
    """Amplifies the peak to a level drawn from `drive`, relative to full scale, and clips at full scale."""
    return np.clip(gain(waveform, rng, drive), -1, 1)


def gain(waveform: Waveform, rng: Generator, peak: Range) -> Waveform:
    """Scales the clip so that its highest sample has a value drawn from `peak`, uniformly in dB."""
    return waveform * np.float32(math.exp(rng.uniform(*np.log(peak))) / max(float(np.abs(waveform).max()), 1e-9))


def _filtered(waveform: Waveform, gains: Callable[[NDArray[Any]], NDArray[Any]]) -> Waveform:
    """Multiplies the spectrum by `gains`, a function of the frequency in Hz; phases are kept."""
    size = _fast(len(waveform) + _EDGE)
    spectrum = np.fft.rfft(waveform, size) * gains(np.fft.rfftfreq(size, 1 / SAMPLING_RATE))
    return np.fft.irfft(spectrum, size)[: len(waveform)].astype(np.float32)


def _fast(samples: int) -> int:
    """Returns the next size with small prime factors; for others a transform can take ten times as long."""
    return min(odd << max(0, math.ceil(math.log2(samples / odd))) for odd in (1, 3, 5, 9, 15))


def _unit(noise: NDArray[np.floating]) -> Waveform:
    """Scales noise to a mean square of 1; silence stays silence."""
    scale = 1 / max(math.sqrt(float(np.mean(noise * noise))), 1e-9)
    return (noise * scale).astype(np.float32)

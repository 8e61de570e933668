"""How a voice sounds, measured without a network: pitch, voice quality, tempo, pauses, loudness; see docs/prosody.md.

waveform -> measure -> Prosody -> judge -> ProsodicJudgement
                                    ^
                Baseline: how the speaker sounds when neutral
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError, BaselineError
from e2v_port.files import replacing

__all__ = [
    "FRAME_SECONDS",
    "MAX_CONFIDENCE",
    "MIN_SECONDS",
    "AudioQuality",
    "Baseline",
    "ProsodicJudgement",
    "Prosody",
    "judge",
    "measure",
]

FRAME_SECONDS = 0.01  # between two values of a contour
MIN_SECONDS = 0.1  # seven frames: with less there is nothing to measure
MAX_CONFIDENCE = 0.75  # of a judgement by prosody alone: it hears activation well, and hardly what is pleasant

_Numbers: TypeAlias = NDArray[np.float64]
_Flags: TypeAlias = NDArray[np.bool_]
_Run: TypeAlias = tuple[int, int]  # frames, the end excluded


@dataclass(frozen=True)
class AudioQuality:
    """How good a recording is.

    Attributes:
        clipped: Share of samples cut off at the highest level, 0 to 1: at full scale, or three or more in a row that
            are equally high and the highest.
        level: Root mean square of all samples in dBFS, where a constant 1 has 0; at least -120.
        snr: Estimate of the signal-to-noise ratio in dB, 0 to 60: the quietest twentieth of the frames are taken for
            noise, and what is spoken for speech and that noise. Without a pause it is too low.
        score: From unusable, 0, to good, 1: the product of three ramps, which are our own choice: `snr` from 0 to
            20 dB, `level` from -60 to -40 dBFS, and 1 minus that of `clipped` from 0.001 to 0.05.
    """

    clipped: float
    level: float
    snr: float
    score: float

    def to_dict(self) -> dict[str, float]:
        """Returns the values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Prosody:
    """What is measured in a stretch of speech. What cannot be said of it, as of pitch without a voice, is None.

    How well each of them is measured, and against what that was checked, is in docs/prosody.md.

    Attributes:
        duration: Seconds.
        pitch_mean: Of the fundamental frequency, in Hz; None with fewer than five voiced frames.
        pitch_std: Its standard deviation, in semitones.
        pitch_slope: The line through it, in semitones per second.
        voiced: Share of frames with a voice, 0 to 1.
        jitter: Mean difference of neighbouring periods over their mean: Praat's "jitter (local)". A share: 0.01 is 1 %.
        shimmer: The same of their amplitudes: Praat's "shimmer (local)".
        hnr: Harmonics-to-noise ratio of voiced frames, in dB (Boersma 1993), -60 to 60.
        breathiness: Share of noise in the power of the voice after pre-emphasis, 0 to 1: how much of each period does
            not come back in the next one.
        tremor: How much of the movement of pitch is one regular wave of 4 to 10 Hz: 0 for up to half of it, 1 for all.
            None where no voiced stretch lasts for 0.5 s, as is common in speech.
        rate: Syllables per second of what is spoken, pauses and hesitations left out; None as for `pitch_mean`.
        pause_ratio: Share of silences of more than 0.4 s between the first sound and the last, 0 to 1.
        pauses: How many of these there are.
        hesitations: How many silences of 0.15 to 0.4 s there are.
        energy: Level of what is spoken, in dBFS; at least -120.
        energy_std: Its standard deviation over frames, in dB.
        quality: Of the recording.
        contour: [frames], fundamental frequency in Hz, NaN where there is no voice. Frames are 10 ms apart, and the
            middle one lies in the middle of the stretch.
    """

    duration: float
    pitch_mean: float | None
    pitch_std: float | None
    pitch_slope: float | None
    voiced: float
    jitter: float | None
    shimmer: float | None
    hnr: float | None
    breathiness: float | None
    tremor: float | None
    rate: float | None
    pause_ratio: float
    pauses: int
    hesitations: int
    energy: float
    energy_std: float
    quality: AudioQuality
    contour: _Numbers = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, numbers and None, as JSON holds them; without the contour."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "contour"}
        return values | {"quality": self.quality.to_dict()}


def measure(waveform: Waveform) -> Prosody:
    """Measures a stretch of speech.

    Args:
        waveform: [samples], float32, 16 kHz, at least 0.1 s long; what `e2v_port.audio.load_audio` gives.

    Raises:
        AudioError: It is too short, or has samples that are not finite.
    """
    if waveform.ndim != 1 or len(waveform) < MIN_SECONDS * SAMPLING_RATE:
        raise AudioError(f"{waveform.shape} samples: pass a waveform [samples] of at least {MIN_SECONDS} s at 16 kHz")
    samples = waveform.astype(np.float64)
    if not np.isfinite(samples).all():
        raise AudioError("samples that are not finite (NaN or infinity): cut or repair it")
    samples -= samples.mean()
    contour, levels = _frames(samples)
    voiced = ~np.isnan(contour)
    speaking = _speaking(levels, voiced)
    silences = _silences(speaking)
    pauses = [silence for silence in silences if _length(silence) > _PAUSE]
    spoken = levels[speaking]
    pitch = contour[voiced]
    has_voice = len(pitch) >= _LEAST_VOICED
    semitones = 12 * np.log2(pitch)
    seconds = FRAME_SECONDS * np.flatnonzero(voiced)
    jitter, shimmer, breathiness = _periods(samples, contour)
    energy = 10 * math.log10(float(np.mean(10 ** (spoken / 10))))
    return Prosody(
        duration=len(waveform) / SAMPLING_RATE,
        pitch_mean=float(pitch.mean()) if has_voice else None,
        pitch_std=float(semitones.std()) if has_voice else None,
        pitch_slope=float(np.polyfit(seconds, semitones, 1)[0]) if has_voice else None,
        voiced=float(voiced.mean()),
        jitter=jitter,
        shimmer=shimmer,
        hnr=_hnr(samples, contour) if has_voice else None,
        breathiness=breathiness,
        tremor=_tremor(contour),
        rate=_syllables(levels, voiced) / _spoken_seconds(speaking, silences) if has_voice else None,
        pause_ratio=sum(map(_length, pauses)) / _length(_extent(speaking)),
        pauses=len(pauses),
        hesitations=len(silences) - len(pauses),
        energy=energy,
        energy_std=float(spoken.std()),
        quality=_quality(waveform, energy, float(np.quantile(levels, 0.05))),
        contour=contour,
    )


# --- Pitch -----------------------------------------------------------------------------------------------------------
#
# The autocorrelation method of Boersma (1993), "Accurate short-term analysis of the fundamental frequency and the
# harmonics-to-noise ratio of a sampled sound", with the standard settings of "Sound: To Pitch (ac)" in Praat's manual.

_FLOOR, _CEILING = 75.0, 600.0  # Hz
_VOICING, _SILENCE = 0.45, 0.03  # thresholds
_OCTAVE, _OCTAVE_JUMP, _VOICED_UNVOICED = 0.01, 0.35, 0.14  # costs
_CANDIDATES = 14  # beside "unvoiced"
_HOP = round(FRAME_SECONDS * SAMPLING_RATE)
_LONGEST = SAMPLING_RATE / _FLOOR  # samples of a period
_WINDOW = round(3 * _LONGEST)
_FFT = 1024  # at least the window and the longest period, so that nothing wraps round
_FINER = 4  # lags are quarters of a sample, before a parabola refines them
_LAGS = math.ceil(_LONGEST * _FINER) + 2
_BLOCK = 256  # frames at once: 9 MB
_LEAST_VOICED = 5  # frames
_LEAST_POWER = 1e-12  # -120 dBFS


def _frames(samples: _Numbers) -> tuple[_Numbers, _Numbers]:
    """Returns the contour, [frames] in Hz or NaN, and the levels, [frames] in dBFS."""
    frames = (len(samples) - _WINDOW) // _HOP + 1
    offset = (len(samples) - (frames - 1) * _HOP - _WINDOW) // 2
    windows = sliding_window_view(samples[offset:], _WINDOW)[::_HOP][:frames]
    hann = np.hanning(_WINDOW + 2)[1:-1]
    peak = max(float(np.abs(samples).max()), 1e-6)
    blocks = [windows[at : at + _BLOCK] for at in range(0, frames, _BLOCK)]
    power = np.concatenate([block**2 @ hann for block in blocks]) / hann.sum()
    pitches, strengths = zip(*(_candidates(block, hann, peak) for block in blocks), strict=True)
    contour = _best_path(np.concatenate(pitches), np.concatenate(strengths))
    return contour, 10 * np.log10(np.maximum(power, _LEAST_POWER))


def _candidates(windows: _Numbers, hann: _Numbers, peak: float) -> tuple[_Numbers, _Numbers]:
    """Returns pitches and strengths, [frames, 1 + candidates]: the first is "unvoiced", with a pitch of 0."""
    middle, period = _WINDOW // 2, int(_LONGEST)
    centred = windows - windows[:, middle - period : middle + period].mean(axis=1, keepdims=True)
    loudest = np.abs(centred[:, middle - period // 2 : middle + period // 2]).max(axis=1)
    unvoiced = _VOICING + np.maximum(0, 2 - loudest / peak * (1 + _VOICING) / _SILENCE)

    likeness = _autocorrelation(centred * hann) / _autocorrelation(hann[None])
    here = likeness[:, 1:-1]
    top = (here > likeness[:, :-2]) & (here >= likeness[:, 2:])
    top[:, : int(SAMPLING_RATE / _CEILING * _FINER) - 1] = False
    found = np.argpartition(np.where(top, here, -np.inf), -_CANDIDATES, axis=1)[:, -_CANDIDATES:]
    rows = np.arange(len(likeness))[:, None]
    shift, height = _parabola(likeness[rows, found], here[rows, found], likeness[rows, found + 2])
    pitch = SAMPLING_RATE * _FINER / (found + 1 + np.clip(shift, -0.5, 0.5))  # what is no maximum lies anywhere
    good = top[rows, found] & (pitch >= _FLOOR) & (pitch <= _CEILING)
    strength = np.where(good, height - _OCTAVE * np.log2(_CEILING / pitch), -np.inf)
    return np.insert(np.where(good, pitch, _FLOOR), 0, 0.0, axis=1), np.insert(strength, 0, unvoiced, axis=1)


def _autocorrelation(windows: _Numbers) -> _Numbers:
    """[frames, samples] -> [frames, lags], 1 at lag 0."""
    power = np.abs(np.fft.rfft(windows, _FFT)) ** 2
    power[:, -1] /= 2  # what was the highest of all frequencies is now one inside, and counts twice
    correlation = np.fft.irfft(power, _FFT * _FINER)[:, :_LAGS]
    likeness: _Numbers = correlation / np.maximum(correlation[:, :1], 1e-30)
    return likeness


def _parabola(before: Any, top: Any, after: Any) -> tuple[Any, Any]:
    """Where between its neighbours a maximum lies, -0.5 to 0.5 of their distance, and how high it is."""
    shift = 0.5 * (before - after) / (before - 2 * top + after - 1e-30)  # also where all three are equal
    return shift, top - 0.25 * (before - after) * shift


def _best_path(pitches: _Numbers, strengths: _Numbers) -> _Numbers:
    """Goes through the candidates of all frames at the least cost (Viterbi)."""
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


def _centres(samples: _Numbers, contour: _Numbers) -> _Numbers:
    """[frames], the sample in the middle of each."""
    return np.arange(len(contour), dtype=np.float64) * _HOP + (len(samples) - (len(contour) - 1) * _HOP) / 2


# --- Voice quality ---------------------------------------------------------------------------------------------------

# Praat's manual, "Voice 2. Jitter" and "Voice 3. Shimmer": neighbours that differ more are not of one voice.
_PERIOD_FACTOR, _AMPLITUDE_FACTOR = 1.3, 1.6
_MAX_HNR = 60.0  # dB


class _Signal(NamedTuple):
    samples: _Numbers
    energy: _Numbers  # of all samples before each

    @classmethod
    def of(cls, samples: _Numbers) -> Self:
        return cls(samples, np.insert(np.cumsum(samples**2), 0, 0.0))


def _match(signal: _Signal, at: float, half: float, near: float, far: float) -> tuple[float, float] | None:
    """Looks for what is most like the surroundings of a point.

    Args:
        signal: To look in.
        at: The point, in samples.
        half: How much of its surroundings counts, on both sides.
        near: The range of distances to look at, negative ones before the point.
        far: Its end.

    Returns:
        The distance and how alike the two are, the normalised cross-correlation, -1 to 1; None beyond the ends.
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
        shift, height = _parabola(*likeness[top - 1 : top + 2].tolist())
    return start - low + top + shift, min(height, 1.0)


def _pulses(signal: _Signal, contour: _Numbers) -> list[_Numbers]:
    """Returns the moments of the periods of each voiced stretch, in samples.

    The method is that of "Sound & Pitch: To PointProcess (cc)" in Praat's manual: from the highest point of the period
    in the middle, on to both sides by what is most like the last period.
    """
    centres = _centres(signal.samples, contour)
    found = []
    for start, end in _runs(~np.isnan(contour)):
        times, periods = centres[start:end], SAMPLING_RATE / contour[start:end]
        edges = {-1: max(times[0] - _HOP / 2, 0.0), 1: min(times[-1] + _HOP / 2, float(len(signal.samples)))}
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
                # One more is allowed beyond the edge, if it is very much like the last.
                if match is None or match[1] < (0.3 if (edge - here - match[0]) * step >= 0 else 0.7):
                    break
                here += match[0]
                pulses.append(here)
        found.append(np.sort(pulses))
    return found


def _periods(samples: _Numbers, contour: _Numbers) -> tuple[float | None, float | None, float | None]:
    """Returns jitter, shimmer and breathiness."""
    signal, emphasised = _Signal.of(samples), _Signal.of(np.diff(samples, prepend=0.0))
    periods, period_steps, amplitudes, amplitude_steps, noise = [], [], [], [], []
    for pulses in _pulses(signal, contour):
        if len(pulses) < 3:
            continue
        own = np.diff(pulses)
        steady = np.maximum(own[1:], own[:-1]) <= _PERIOD_FACTOR * np.minimum(own[1:], own[:-1])
        periods.append(own)
        period_steps.append(np.abs(np.diff(own))[steady])
        loud = np.array([_amplitude(samples, *span) for span in zip(pulses[1:-1], own[:-1], own[1:], strict=True)])
        alike = np.maximum(loud[1:], loud[:-1]) <= _AMPLITUDE_FACTOR * np.minimum(loud[1:], loud[:-1])
        amplitudes.append(loud)
        amplitude_steps.append(np.abs(np.diff(loud))[alike & steady[1:] & steady[:-1]])
        matches = (
            _match(emphasised, at, period / 2, period - 1, period + 1)
            for at, period in zip(pulses[:-1], own, strict=True)
        )
        noise += [1 - match[1] for match in matches if match]
    breathiness = min(float(np.mean(noise)), 1.0) if noise else None
    return _relative(period_steps, periods), _relative(amplitude_steps, amplitudes), breathiness


def _relative(steps: list[_Numbers], values: list[_Numbers]) -> float | None:
    if not sum(map(len, steps)):
        return None
    return float(np.concatenate(steps).mean() / np.concatenate(values).mean())


def _amplitude(samples: _Numbers, at: float, before: float, after: float) -> float:
    """Root mean square around a pulse, in a window that reaches over a fifth of the periods on both sides."""
    left, right = 0.2 * before, 0.2 * after
    near = np.arange(math.ceil(at - left), math.floor(at + right) + 1)
    weights = 0.5 + 0.5 * np.cos(np.pi * np.where(near < at, (near - at) / left, (near - at) / right))
    return math.sqrt(float(weights @ samples[near] ** 2 / weights.sum()))


def _hnr(samples: _Numbers, contour: _Numbers) -> float:
    """Boersma (1993): a frame's best normalised correlation r is the share of harmonics in its power.

    The correlation is that of Praat's "To Harmonicity (cc)": between two windows as long as the longest period, a
    period apart, so that neither a window function nor a change of pitch lowers it.
    """
    signal = _Signal.of(samples)
    shares = []
    for centre, pitch in zip(_centres(samples, contour), contour, strict=True):
        period = SAMPLING_RATE / pitch
        if pitch > 0 and (match := _match(signal, centre - period / 2, _LONGEST / 2, 0.8 * period, 1.25 * period)):
            shares.append(match[1])
    least = 10 ** (-_MAX_HNR / 10)
    r = np.clip(shares, least, 1 - least)
    return float(np.mean(10 * np.log10(r / (1 - r))))


# All of these are our own choice. The pitch of ordinary speech moves as fast as a voice trembles, but not as evenly:
# over three waves, the best sine explains about half of it, in read speech a quarter.
_TREMOR = np.arange(4.0, 10.5, 0.5)  # Hz
_TREMOR_FRAMES, _TREMOR_WAVES, _TREMOR_ORDINARY = 50, 3, 0.5
_TREMOR_LEAST = 0.001  # octaves: what moves less, root mean square, is steady


def _tremor(contour: _Numbers) -> float | None:
    """Fits a sine to what is left of each stretch's pitch after its slow movement, a polynomial, is taken off."""
    shares, lengths = [], []
    for start, end in _runs(~np.isnan(contour)):
        if end - start < _TREMOR_FRAMES:
            continue
        # In parts of 1 to 2 s, which a polynomial of a few degrees follows.
        for part in np.array_split(np.log2(contour[start:end]), max(1, (end - start) // 100)):
            times = FRAME_SECONDS * np.arange(len(part))
            moved = _rest(np.vander(np.linspace(-1, 1, len(part)), max(4, len(part) // 25)), part)
            power = float(moved @ moved)
            waves = [2 * np.pi * hz * times for hz in _TREMOR if hz * times[-1] >= _TREMOR_WAVES]
            rests = [_rest(np.stack([np.cos(wave), np.sin(wave)], axis=1), moved) for wave in waves]
            least = len(part) * _TREMOR_LEAST**2
            shares.append(1 - min(float(rest @ rest) for rest in rests) / power if power > least else 0.0)
            lengths.append(len(part))
    if not shares:
        return None
    return max(0.0, float(np.average(shares, weights=lengths)) - _TREMOR_ORDINARY) / (1 - _TREMOR_ORDINARY)


def _rest(basis: _Numbers, values: _Numbers) -> _Numbers:
    """What a least-squares fit leaves."""
    rest: _Numbers = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    return rest


# --- Tempo -----------------------------------------------------------------------------------------------------------

# dB: below the loudest frames it is silent, and between two syllables it gets quieter by (de Jong and Wempe 2009,
# doi:10.3758/BRM.41.2.385).
_SILENT, _DIP = 25.0, 2.0
_NOISE = 0.3  # of the range from the quietest frames to the loudest is noise as well: our own choice, for noisy rooms
# Frames, both our own choice: a stop's closure lasts for up to about 0.13 s; what is longer than 0.4 s separates
# phrases.
_HESITATION, _PAUSE = 15, 40


def _runs(flags: _Flags) -> list[_Run]:
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _length(run: _Run) -> int:
    return run[1] - run[0]


def _speaking(levels: _Numbers, voiced: _Flags) -> _Flags:
    """Tells which frames are spoken: at least one is."""
    quiet, loud = np.quantile(levels, (0.05, 0.99))
    speaking: _Flags = voiced | (levels >= max(loud - _SILENT, quiet + _NOISE * (loud - quiet)))
    return speaking


def _extent(speaking: _Flags) -> _Run:
    spoken = np.flatnonzero(speaking)
    return int(spoken[0]), int(spoken[-1]) + 1


def _silences(speaking: _Flags) -> list[_Run]:
    """Those inside, long enough to be noticed."""
    start, end = _extent(speaking)
    inner = [(start + low, start + high) for low, high in _runs(~speaking[start:end])]
    return [run for run in inner if _length(run) >= _HESITATION]


def _spoken_seconds(speaking: _Flags, silences: list[_Run]) -> float:
    return FRAME_SECONDS * (_length(_extent(speaking)) - sum(map(_length, silences)))


def _syllables(levels: _Numbers, voiced: _Flags) -> int:
    """Counts peaks of loudness that have a voice and a dip on both sides."""
    count = peak = 0
    lowest = -np.inf  # since the last peak that counted
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


# --- Recording -------------------------------------------------------------------------------------------------------

_FULL_SCALE = 0.999
_STEP = 2.0**-15  # of 16 bits: closer samples are equal


def _quality(waveform: Waveform, energy: float, noise: float) -> AudioQuality:
    heights = np.abs(waveform)
    highest = float(heights.max())
    flat = np.abs(np.diff(waveform)) < _STEP
    flat[heights[1:] < highest - _STEP] = False
    runs = [_length(run) + 1 for run in _runs(flat)] if highest >= 100 * _STEP else []
    at_top = heights >= _FULL_SCALE
    tops = sum(length for length in runs if length >= 3) if highest < _FULL_SCALE else int(at_top.sum())
    clipped = tops / len(waveform)
    level = 10 * math.log10(max(float(np.mean(waveform.astype(np.float64) ** 2)), _LEAST_POWER))
    snr = 10 * math.log10(min(max(10 ** ((energy - noise) / 10) - 1, 1.0), 1e6))
    score = _ramp(snr, 0, 20) * _ramp(level, -60, -40) * (1 - _ramp(clipped, 0.001, 0.05))
    return AudioQuality(clipped, level, snr, score)


def _ramp(value: float, start: float, full: float) -> float:
    """0 up to `start`, 1 from `full` on, a line between; `full` may be the lower one."""
    return min(max((value - start) / (full - start), 0.0), 1.0)


# --- Judgement -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ProsodicJudgement:
    """What prosody by itself says of how somebody feels.

    Attributes:
        dimensions: Arousal, dominance and valence, each 0 to 1, 0.5 where nothing is out of the ordinary.
        confidence: 0 to 0.75; 0 without a voice.
        reasons: What is out of the ordinary, in words, the weightiest first: e.g. `elevated pitch`.
    """

    dimensions: Dimensions
    confidence: float
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return asdict(self) | {"reasons": list(self.reasons)}


class _Rule(NamedTuple):
    """What follows from one measure. It begins at one value, has its full effect at another, and grows in between.

    Attributes:
        measure: A name of `_comparable`.
        anyone: Where it begins and is full for a speaker who is not known; None if nothing can be said then.
        own: The same as a difference from the speaker's baseline.
        arousal: How far it then moves arousal, on its scale from 0 to 1.
        dominance: The same.
        valence: The same.
        reason: In words.
    """

    measure: str
    anyone: tuple[float, float] | None
    own: tuple[float, float]
    arousal: float
    dominance: float
    valence: float
    reason: str


# Directions and sizes of the rows above the line are those of an earlier voice assistant, its
# valence from -1 to 1 halved for a scale from 0 to 1. Where they begin and end, and the rows below the line, the
# opposites, are our own choice; 3.5 and 5.5 syllables per second are the assistant's.
_RULES = (
    _Rule("pitch", (0.0, 6.0), (2.0, 6.0), 0.2, 0.0, 0.0, "elevated pitch"),
    _Rule("rate", (5.5, 7.0), (0.75, 2.0), 0.15, 0.1, 0.0, "speaking quickly"),
    _Rule("energy_std", (8.0, 11.0), (1.5, 4.0), 0.1, 0.1, 0.0, "strongly varying loudness"),
    _Rule("tremor", (0.3, 0.8), (0.3, 0.8), 0.1, 0.0, 0.0, "trembling voice"),
    _Rule("breathiness", (0.45, 0.7), (0.1, 0.3), 0.0, 0.0, -0.05, "breathy voice"),
    _Rule("hesitations", (0.2, 0.6), (0.2, 0.6), 0.0, -0.2, -0.075, "hesitating"),
    _Rule("pause_ratio", (0.25, 0.5), (0.15, 0.35), 0.0, 0.0, -0.05, "long pauses"),
    _Rule("pitch_std", (1.5, 0.8), (-1.0, -2.5), 0.0, 0.1, 0.0, "monotone pitch"),
    # ---
    _Rule("pitch", None, (-2.0, -6.0), -0.2, 0.0, 0.0, "lowered pitch"),
    _Rule("rate", (3.5, 2.5), (-0.75, -2.0), -0.15, 0.0, 0.0, "speaking slowly"),
    _Rule("energy", None, (3.0, 9.0), 0.15, 0.1, 0.0, "speaking loudly"),
    _Rule("energy", None, (-3.0, -9.0), -0.15, -0.1, 0.0, "speaking quietly"),
)

# Up to here women commonly speak, and men below (Titze, Principles of Voice Production, 1994): without a baseline, only
# what is higher is known to be high.
_HIGH_VOICE = 255.0  # Hz
_HESITATION_SECONDS = 5.0  # a single hesitation in a short stretch is not many
_DEVIATIONS = 2  # standard deviations between the neutral samples that are ordinary


def _comparable(prosody: Prosody) -> dict[str, float]:
    """What rules are about: in units in which a difference means the same for every voice."""
    values = {
        "pitch": 12 * math.log2(prosody.pitch_mean / _HIGH_VOICE) if prosody.pitch_mean else None,  # semitones
        "pitch_std": prosody.pitch_std,
        "rate": prosody.rate,
        "energy": prosody.energy,
        "energy_std": prosody.energy_std,
        "tremor": prosody.tremor,
        "breathiness": prosody.breathiness,
        "pause_ratio": prosody.pause_ratio,
        "hesitations": prosody.hesitations / max(prosody.duration, _HESITATION_SECONDS),  # per second
    }
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Baseline:
    """How a speaker sounds when neutral.

    Attributes:
        speaker: Who it is, if that was given.
        samples: How many it was made from.
        seconds: How long these are together.
        means: Of each measure over the samples: `pitch` in semitones from 255 Hz, `pitch_std`, `rate`, `energy`,
            `energy_std`, `tremor`, `breathiness` and `pause_ratio` as in `Prosody`, `hesitations` per second. One
            that fewer than two samples have is not among them.
        deviations: Standard deviation of each over the samples.
    """

    speaker: str | None
    samples: int
    seconds: float
    means: Mapping[str, float]
    deviations: Mapping[str, float]

    @classmethod
    def of(cls, prosodies: Iterable[Prosody], speaker: str | None = None) -> Self:
        """Makes a baseline from neutral samples: 3 to 5 sentences do, more are better.

        The level of the voice is compared, too, so that they should be recorded as what will be judged by them.

        Args:
            prosodies: Of each sample.
            speaker: Who it is.

        Raises:
            ValueError: There are fewer than three, or one cannot be used: no voice, shorter than 1 s, or too bad a
                recording (a score below 0.3: our own choice). The message says which and why.
        """
        prosodies = list(prosodies)
        if len(prosodies) < _LEAST_SAMPLES:
            raise ValueError(f"a baseline needs {_LEAST_SAMPLES} to 5 neutral samples, not {len(prosodies)}")
        for number, prosody in enumerate(prosodies, 1):
            if why := _unusable(prosody):
                raise ValueError(f"neutral sample {number} of {len(prosodies)} {why}: record it again")
        tables = [_comparable(prosody) for prosody in prosodies]
        columns = {name: [table[name] for table in tables if name in table] for name in tables[0]}
        columns = {name: values for name, values in columns.items() if len(values) > 1}
        return cls(
            speaker,
            len(prosodies),
            math.fsum(prosody.duration for prosody in prosodies),
            {name: float(np.mean(values)) for name, values in columns.items()},
            {name: float(np.std(values, ddof=1)) for name, values in columns.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, strings and numbers, as JSON holds them."""
        return {"format": _FORMAT} | asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_dict` gives.

        Raises:
            BaselineError: It is something else.
        """
        try:
            speaker, samples, seconds = values["speaker"], int(values["samples"]), float(values["seconds"])
            tables = [{str(name): float(x) for name, x in values[key].items()} for key in ("means", "deviations")]
            good = values["format"] == _FORMAT and tables[0].keys() == tables[1].keys()
            good &= all(math.isfinite(x) for table in tables for x in table.values())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BaselineError(_NO_BASELINE) from error
        if not good or not isinstance(speaker, str | None):
            raise BaselineError(_NO_BASELINE)
        return cls(speaker, samples, seconds, *tables)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a JSON file, whole or not at all.

        Raises:
            OSError: The folder does not exist, or cannot be written to.
        """
        with replacing(Path(path)) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file that `save` wrote.

        Raises:
            BaselineError: It is something else, or cannot be read.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_bytes()))
        except OSError as error:
            why = f"cannot be read ({error.strerror}): name the file that `e2v listen --calibrate` wrote"
            raise BaselineError(f"{os.fsdecode(path)}: {why}") from error
        except (BaselineError, ValueError) as error:
            raise BaselineError(f"{os.fsdecode(path)}: {_NO_BASELINE}") from error


_LEAST_SAMPLES = 3
_FORMAT = "e2v-port baseline 1"  # another number once a measure means something else
_NO_BASELINE = "not a baseline of this version: make it anew from neutral samples"


def _unusable(prosody: Prosody) -> str | None:
    if prosody.pitch_mean is None:
        return "has no voice"
    if prosody.duration < 1:
        return f"is only {prosody.duration:.2f} s long, and 1 s is the least"
    if prosody.quality.score < 0.3:
        quality = prosody.quality
        figures = f"{quality.level:.0f} dBFS, {quality.snr:.0f} dB above the noise, {quality.clipped:.1%} clipped"
        return f"is too bad a recording ({figures})"
    return None


def judge(prosody: Prosody, baseline: Baseline | None = None) -> ProsodicJudgement:
    """Says how somebody feels, by prosody alone.

    Arousal, dominance and valence are 0.5 plus what each rule adds: see docs/prosody.md for the rules. The confidence
    is 0.75 x `quality.score` x seconds of voice, at most 1, x 0.8 if there is no baseline (our own choice).

    Args:
        prosody: Of a stretch of speech.
        baseline: Of its speaker. Without one, what is ordinary is what is so for most speakers, and nothing is said of
            how loud somebody speaks or whether their pitch is low.
    """
    if prosody.pitch_mean is None:
        return ProsodicJudgement(Dimensions(0.5, 0.5, 0.5), 0.0, ())
    values = _comparable(prosody)
    effects = []
    for rule in _RULES:
        if (value := values.get(rule.measure)) is None:
            continue
        if baseline and rule.measure in baseline.means:
            value -= baseline.means[rule.measure]
            begin, full = rule.own
            ordinary = _DEVIATIONS * baseline.deviations[rule.measure]
            wider = math.copysign(max(ordinary - abs(begin), 0.0), begin)
            degree = _ramp(value, begin + wider, full + wider)
        elif rule.anyone:
            degree = _ramp(value, *rule.anyone)
        else:
            continue
        if degree > 0:
            effects.append((degree, rule))
    shifts = np.array(
        [[degree * x for x in (r.arousal, r.dominance, r.valence)] for degree, r in effects] or [[0.0] * 3]
    )
    arousal, dominance, valence = np.clip(0.5 + shifts.sum(axis=0), 0, 1).tolist()
    order = np.argsort(-np.abs(shifts).sum(axis=1), kind="stable")[: len(effects)]
    seconds = FRAME_SECONDS * float((~np.isnan(prosody.contour)).sum())
    known = 1.0 if baseline else 0.8
    return ProsodicJudgement(
        Dimensions(arousal, dominance, valence),
        MAX_CONFIDENCE * prosody.quality.score * min(seconds, 1.0) * known,
        tuple(effects[i][1].reason for i in order),
    )

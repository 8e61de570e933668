"""Changes recorded or synthetic speech to match voice parameters."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import MAX_AMPLITUDE, Waveform
from e2v_port.audio.mix import check_rate
from e2v_port.errors import AudioError, E2VError, need, quoted
from e2v_port.expression.profiles import NEUTRAL, ProsodyParameters

__all__ = ["apply"]

_Array: TypeAlias = NDArray[np.float64]


# A pause: at least a quarter of a second (de Jong & Bosker 2013) at least 25 dB below the loudest part of the clip (de
# Jong & Wempe 2009), with speech on both sides.
_PAUSE_SECONDS = 0.25
_SILENCE_DB = -25.0
_FRAME = 0.005  # s, WORLD's default
_RATE = 16_000  # Hz, the lowest rate at which WORLD separates voice from noise: its bands extend to 7.9 kHz
_LOWEST = 60.0  # Hz: a deep voice; anything lower counts as voiceless
_PITCH = (40.0, 1100.0)  # Hz; limits octave errors of the pitch tracker that a wider melody amplifies
_BREATH = (250.0, 2000.0)  # Hz: no breath below, full breath above, growing with the octaves in between; heuristic
_TREMOLO = 6.0  # Hz; vocal tremors lie at 4 to 8 Hz. Heuristic, as is the depth
_DEPTH = 0.5  # of the amplitude, at a tremolo of 1
_SPREAD_DB = 15.0  # levels further from the mean move no more than this one, so that noise in pauses is not raised
_PIECE = (4000, 6000)  # frames, 20 to 30 s of output: memory does not grow with the clip


def apply(waveform: Waveform, sampling_rate: int, parameters: ProsodyParameters) -> Waveform:
    """Changes recorded or synthetic speech to match voice parameters.

    Pitch, speed, pauses and breath change in WORLD's description of the voice (Morise et al. 2016): fundamental
    frequency, spectral envelope and aperiodicity every 5 ms. The envelope stays when the pitch moves, so the speaker's
    vocal tract sounds the same. If none of them changes, the vocoder is not used; `NEUTRAL` returns a copy.

    Args:
        waveform: One voice [samples], floats with full scale 1.
        sampling_rate: Sampling rate in Hz, 8000 to 192000.
        parameters: Voice parameters.

    Returns:
        Waveform [samples] at the same rate, float32, within -1 to 1: a limiter turns higher peaks down for a few
        milliseconds. Deterministic.

    Raises:
        AudioError: The waveform is empty, not mono, not finite or beyond 100 times full scale, or its rate is out of
            range.
        E2VError: pyworld is not installed: `pip install "e2v-port[express]"`.
    """
    need("parameters", parameters, ProsodyParameters)
    rate = check_rate(sampling_rate)
    if not isinstance(waveform, np.ndarray) or waveform.dtype.kind not in "fiu" or np.ma.is_masked(waveform):
        raise AudioError(f"one voice is a numpy array of numbers without a mask, not {quoted(waveform)}")
    voice = np.asarray(waveform, np.float64)
    if voice.ndim != 1 or not voice.size:
        raise AudioError(f"one voice [samples] is needed, not an array of shape {voice.shape}: mix its channels down")
    if not np.abs(voice).max() <= MAX_AMPLITUDE:  # nan is not
        raise AudioError(
            "the waveform has samples that are not finite or far beyond 1: floats of full scale 1 are needed"
        )
    if not 8_000 <= rate <= 192_000:
        raise AudioError(
            f"a sampling rate must be 8000 to 192000 Hz, not {quoted(sampling_rate)}: resample the waveform"
        )
    if parameters == NEUTRAL:
        return voice.astype(np.float32)

    level = _speech_level(voice, rate)
    if replace(parameters, volume_db=0.0, dynamic_range=1.0, tremolo_amount=0.0) != NEUTRAL:
        if rate < _RATE:
            wide = _revoiced(soxr.resample(voice, rate, _RATE), _RATE, parameters)
            voice = soxr.resample(wide, _RATE, rate)
        else:
            voice = _revoiced(voice, rate, parameters)
    if parameters.dynamic_range != 1:
        voice = voice * _dynamics(voice, rate, parameters.dynamic_range)
    if parameters.tremolo_amount:
        time = np.arange(voice.size) / rate
        voice = voice * (1 + _DEPTH * parameters.tremolo_amount * np.sin(2 * np.pi * _TREMOLO * time))
    now = _speech_level(voice, rate)
    if level is not None and now is not None:
        voice = voice * 10 ** ((level + parameters.volume_db - now) / 20)
    return _limited(voice, rate).astype(np.float32)


def _revoiced(voice: _Array, rate: int, parameters: ProsodyParameters) -> _Array:
    """Analyzes the voice with WORLD, changes its description, and resynthesizes it."""
    try:
        import pyworld
    except ImportError as error:
        raise E2VError('changing a voice needs pyworld: pip install "e2v-port[express]"') from error

    rough, times = pyworld.dio(voice, rate, f0_floor=_LOWEST)
    pitch: _Array = pyworld.stonemask(voice, rough, times, rate)

    # New time of each frame [frames], in frames; then the old frame at each new time [new frames].
    paused = _pauses(_levels(voice, rate, pitch.size))
    lengths = np.where(paused, parameters.pause_multiplier, 1.0) / parameters.speech_rate
    ends = np.concatenate([[0.0], np.cumsum(lengths[:-1])])
    places = np.interp(np.arange(int(ends[-1]) + 2), ends, np.arange(pitch.size))
    before = places.astype(int)
    after = np.minimum(before + 1, pitch.size - 1)
    share = places - before

    gliding = (pitch[before] > 0) & (pitch[after] > 0)
    nearest = pitch[np.where(share < 0.5, before, after)]
    new_pitch = np.where(gliding, pitch[before] * (1 - share) + pitch[after] * share, nearest)
    voiced = new_pitch > 0
    if voiced.any():
        middle = np.log2(pitch[pitch > 0]).mean()
        octaves = parameters.pitch_variance * (np.log2(new_pitch[voiced]) - middle)
        new_pitch[voiced] = np.clip(2 ** (middle + octaves + parameters.pitch_shift_semitones / 12), *_PITCH)

    size = pyworld.get_cheaptrick_fft_size(rate, _LOWEST)
    low, high = np.log2(_BREATH)
    weights = np.clip((np.log2(np.fft.rfftfreq(size, 1 / rate).clip(1)) - low) / (high - low), 0, 1)
    breath = (parameters.breathiness * weights) ** 2  # share of the harmonics' power that turns into noise
    hop = _FRAME * rate
    made = []
    for first, last in _pieces(voiced):
        frames = slice(before[first], after[last] + 1)
        described = voice, pitch[frames].copy(), times[frames].copy(), rate
        envelope = pyworld.cheaptrick(*described, fft_size=size)
        noise = pyworld.d4c(*described, fft_size=size)
        here, there = before[first : last + 1] - frames.start, after[first : last + 1] - frames.start
        part = share[first : last + 1, None]
        envelope = envelope[here] * (1 - part) + envelope[there] * part
        noise = noise[here] * (1 - part) + noise[there] * part
        noise = np.sqrt(noise**2 + (1 - noise**2) * breath)
        spoken = pyworld.synthesize(new_pitch[first : last + 1], envelope, noise, rate, frame_period=1000 * _FRAME)
        made.append(spoken[: round(last * hop) - round(first * hop)])
    beyond = voice.size / rate - times[-1]  # the clip may end between two frames
    samples = round((ends[-1] * _FRAME + beyond / parameters.speech_rate) * rate)
    joined = np.concatenate(made)[:samples]
    return np.pad(joined, (0, samples - joined.size))


def _pieces(voiced: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yields the first and last frame of each piece; the last one, amid voiceless frames, is the next piece's first."""
    first, end = 0, voiced.size - 1
    while end - first > _PIECE[1]:
        window = np.arange(first + _PIECE[0], first + _PIECE[1])
        edges = np.flatnonzero(voiced[window])
        cuts = np.concatenate([[-1], edges, [window.size]])
        widest = np.diff(cuts).argmax()
        last = int(window[0] + (cuts[widest] + cuts[widest + 1]) // 2)
        yield first, last
        first = last
    yield first, end


def _levels(voice: _Array, rate: int, frames: int) -> _Array:
    """Returns the level around each frame, over 25 ms, in dB."""
    half = round(0.0125 * rate)
    power = np.concatenate([[0.0], np.cumsum(voice**2)])
    centers = np.minimum(np.round(np.arange(frames) * _FRAME * rate).astype(int), voice.size)
    first, last = np.maximum(centers - half, 0), np.minimum(centers + half, voice.size)
    levels: _Array = 10 * np.log10(np.maximum(power[last] - power[first], 0) / np.maximum(last - first, 1) + 1e-12)
    return levels


def _spoken(levels: _Array) -> NDArray[np.bool_]:
    """Returns which frames are not silent."""
    spoken: NDArray[np.bool_] = levels > np.percentile(levels, 99) + _SILENCE_DB
    return spoken


def _speech_level(voice: _Array, rate: int) -> float | None:
    """Returns the mean level of the frames that are not silent, in dB; None if all are."""
    levels = _levels(voice, rate, int(voice.size / rate / _FRAME) + 1)
    return 10 * math.log10((10 ** (levels[_spoken(levels)] / 10)).mean()) if levels.max() > -100 else None


def _pauses(levels: _Array) -> NDArray[np.bool_]:
    """Returns which frames lie in a pause."""
    spoken = _spoken(levels)
    edges = np.flatnonzero(np.diff(spoken)) + 1
    inside = np.zeros(levels.size, bool)
    for first, last in pairwise(edges):
        if not spoken[first] and (last - first) * _FRAME >= _PAUSE_SECONDS:
            inside[first:last] = True
    return inside


def _dynamics(voice: _Array, rate: int, factor: float) -> _Array:
    """Returns the gain [samples] that moves the level of speech away from or toward its mean."""
    levels = _levels(voice, rate, int(voice.size / rate / _FRAME) + 1)
    away = np.clip(levels - levels[_spoken(levels)].mean(), -_SPREAD_DB, _SPREAD_DB)
    gains = 10 ** ((factor - 1) * away / 20)
    smooth: _Array = np.interp(np.arange(voice.size) / rate, np.arange(gains.size) * _FRAME, gains)
    return smooth


def _limited(voice: _Array, rate: int) -> _Array:
    """Turns down samples beyond full scale, smoothly and together with their surroundings."""
    block = max(1, round(0.001 * rate))
    count = -(-voice.size // block)
    peaks = np.abs(np.pad(voice, (0, count * block - voice.size))).reshape(count, block).max(1)
    if peaks.max() <= 1:
        return voice
    gains = np.pad(1 / np.maximum(peaks, 1), 7, mode="edge")
    gains = sliding_window_view(gains, 9).min(1)  # the gain that each block's neighbors need,
    gains = sliding_window_view(gains, 7).mean(1)  # smoothed over fewer blocks, so that no block exceeds full scale
    limited: _Array = voice * np.interp(np.arange(voice.size), (np.arange(count) + 0.5) * block, gains)
    return limited

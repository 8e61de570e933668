"""Measures how a voice sounds, without a network: pitch, voice quality, tempo, pauses, loudness (docs/prosody.md)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from e2v_port.audio import MAX_AMPLITUDE, SAMPLING_RATE, Waveform
from e2v_port.audio.mix import check_dtype
from e2v_port.errors import AudioError
from e2v_port.prosody.frames import FRAME_SECONDS, Numbers, run_length
from e2v_port.prosody.periods import harmonics_to_noise, period_measures
from e2v_port.prosody.pitch import LEAST_VOICED, track_pitch
from e2v_port.prosody.recording import AudioQuality, recording_quality
from e2v_port.prosody.tempo import (
    PAUSE_FRAMES,
    count_syllables,
    extent_of,
    inner_silences,
    speaking_frames,
    spoken_seconds,
)
from e2v_port.prosody.tremor import pitch_tremor

__all__ = ["MIN_SECONDS", "Prosody", "average", "measure"]
MIN_SECONDS = 0.1  # seven frames, the least that can be measured


@dataclass(frozen=True)
class Prosody:
    """Measures of a segment of speech. A measure that does not apply, such as pitch without a voice, is None.

    docs/prosody.md shows the accuracy of each, and the references it was checked against.

    Attributes:
        duration: Length in seconds.
        pitch_mean: Mean fundamental frequency, in Hz; None with fewer than five voiced frames.
        pitch_std: Standard deviation of the pitch, in semitones.
        pitch_slope: Slope of a line through the pitch, in semitones per second.
        voiced: Share of voiced frames, 0 to 1.
        jitter: Mean difference of neighboring periods over their mean, Praat's "jitter (local)". A share: 0.01 is 1 %.
        shimmer: Mean difference of the amplitudes of neighboring periods over their mean, Praat's "shimmer (local)".
        hnr: Harmonics-to-noise ratio of voiced frames, in dB (Boersma 1993), -60 to 60.
        breathiness: Share of noise in the power of the voice after pre-emphasis, 0 to 1: the share of each period that
            does not recur in the next one.
        tremor: Share of the pitch's movement that is one regular wave of 4 to 10 Hz: 0 for up to half of it, 1 for all.
            None if no voiced run lasts for 0.5 s, as is common in speech.
        rate: Syllables per second of speech, without pauses and hesitations; None as for `pitch_mean`.
        pause_ratio: Share of pauses, silences of more than 0.4 s, between the first sound and the last, 0 to 1.
        pauses: Number of pauses.
        hesitations: Number of silences of 0.15 to 0.4 s.
        energy: Level of the speech, in dBFS; at least -120.
        energy_std: Standard deviation of the level over frames, in dB.
        quality: Quality of the recording.
        contour: [frames], fundamental frequency in Hz, NaN where there is no voice. Frames are 10 ms apart, and the
            middle one lies in the middle of the segment.
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
    contour: Numbers = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the measures as plain dicts, numbers and None, ready for JSON; without the contour."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name != "contour"}
        return values | {"quality": self.quality.to_dict()}


def measure(waveform: Waveform) -> Prosody:
    """Measures a segment of speech.

    Args:
        waveform: [samples], float32, 16 kHz, at least 0.1 s long, as `e2v_port.audio.load_audio` returns it.

    Raises:
        AudioError: The waveform is too short, or has samples that are not finite or beyond 100 times full scale.
    """
    waveform = check_dtype(waveform)
    if waveform.ndim != 1 or len(waveform) < MIN_SECONDS * SAMPLING_RATE:
        raise AudioError(f"{waveform.shape} samples: pass a waveform [samples] of at least {MIN_SECONDS} s at 16 kHz")
    samples = waveform.astype(np.float64)
    if not np.abs(samples).max() <= MAX_AMPLITUDE:  # NaN is not
        raise AudioError("samples that are not finite or far beyond 1: floats of full scale 1 are needed")
    samples -= samples.mean()
    contour, levels = track_pitch(samples)
    voiced = ~np.isnan(contour)
    speaking = speaking_frames(levels, voiced)
    silences = inner_silences(speaking)
    pauses = [silence for silence in silences if run_length(silence) > PAUSE_FRAMES]
    spoken = levels[speaking]
    pitch = contour[voiced]
    has_voice = len(pitch) >= LEAST_VOICED
    semitones = 12 * np.log2(pitch)
    seconds = FRAME_SECONDS * np.flatnonzero(voiced)
    jitter, shimmer, breathiness = period_measures(samples, contour)
    energy = 10 * math.log10(float(np.mean(10 ** (spoken / 10))))
    return Prosody(
        duration=len(waveform) / SAMPLING_RATE,
        pitch_mean=float(pitch.mean()) if has_voice else None,
        pitch_std=float(semitones.std()) if has_voice else None,
        pitch_slope=float(np.polyfit(seconds, semitones, 1)[0]) if has_voice else None,
        voiced=float(voiced.mean()),
        jitter=jitter,
        shimmer=shimmer,
        hnr=harmonics_to_noise(samples, contour) if has_voice else None,
        breathiness=breathiness,
        tremor=pitch_tremor(contour),
        rate=count_syllables(levels, voiced) / spoken_seconds(speaking, silences) if has_voice else None,
        pause_ratio=sum(map(run_length, pauses)) / run_length(extent_of(speaking)),
        pauses=len(pauses),
        hesitations=len(silences) - len(pauses),
        energy=energy,
        energy_std=float(spoken.std()),
        quality=recording_quality(waveform),
        contour=contour,
    )


def average(parts: Sequence[tuple[float, Prosody]]) -> Prosody:
    """Returns the measures of several segments of one voice together.

    Lengths and counts are added up. All other measures are means, weighted by duration, over the segments that have
    them. The contours follow each other.

    Args:
        parts: At least one segment: its duration in seconds, and its measures.
    """
    if len(parts) == 1:
        return parts[0][1]
    prosodies = [prosody for _, prosody in parts]
    quality = [(weight, prosody.quality) for weight, prosody in parts]
    return Prosody(
        **{name: _mean(parts, name) for name in _MEANS},
        duration=math.fsum(prosody.duration for prosody in prosodies),
        pauses=sum(prosody.pauses for prosody in prosodies),
        hesitations=sum(prosody.hesitations for prosody in prosodies),
        quality=AudioQuality(**{entry.name: _mean(quality, entry.name) for entry in fields(AudioQuality)}),
        contour=np.concatenate([prosody.contour for prosody in prosodies]),
    )


_MEANS = {entry.name for entry in fields(Prosody)} - {"duration", "pauses", "hesitations", "quality", "contour"}


def _mean(parts: Sequence[tuple[float, Any]], name: str) -> Any:
    known = [(weight, getattr(item, name)) for weight, item in parts if getattr(item, name) is not None]
    if not known:
        return None
    return math.fsum(weight * value for weight, value in known) / math.fsum(weight for weight, _ in known)

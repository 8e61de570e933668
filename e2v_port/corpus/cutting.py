"""Cuts the parts of a file out of its audio, and finds and measures the segments in them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE, AudioStream, Waveform
from e2v_port.errors import AudioError
from e2v_port.prosody.noise import LEAST_SAMPLES, signal_to_noise
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import Segment, SegmentSettings, to_samples

__all__ = ["NO_SPEECH", "Rules", "cut", "described"]

NO_SPEECH = "no speech found"  # an error in its row, but not a failure

SILENT = 2.0**-15  # of full scale: the last of 16 bits, which is dither at most
FULL_SCALE = 0.999  # samples from here on count as clipped; the largest 16-bit sample is 0.99997
_ROUNDING = 0.02  # seconds by which a part may exceed its file, since times in tables are rounded


@dataclass(frozen=True)
class Rules:
    """How clips are cut.

    Attributes:
        whole: Whether each clip is one segment; otherwise segments are the speech in it.
        longest: Longest clip, in seconds; a longer one becomes an error.
        segments: Thresholds and lengths for the speech segments.
        channel: Channel of the clips, as for `e2v_port.analyze`.
    """

    whole: bool
    longest: float
    segments: SegmentSettings
    channel: int | str = "mix"


def cut(
    stream: AudioStream, spans: Sequence[tuple[float, float | None]], longest: float
) -> list[Waveform | AudioError]:
    """Cuts parts [start, end] in seconds out of a file, which is decoded once, up to the end of the last part."""
    most = to_samples(longest)
    starts = [to_samples(start) for start, _ in spans]
    ends = [None if end is None else to_samples(end) for _, end in spans]
    # One extra sample shows that a part is too long.
    stops = [
        start + most + 1 if end is None else min(end, start + most + 1) for start, end in zip(starts, ends, strict=True)
    ]
    held = [bytearray() for _ in spans]
    at, failed, ended = 0, None, False
    try:
        for block in stream:
            for samples, start, stop in zip(held, starts, stops, strict=True):
                if start < at + len(block) and stop > at:
                    samples.extend(block[max(start - at, 0) : stop - at].data)
            at += len(block)
            if at >= max(stops):
                break
        else:
            ended = True
    except AudioError as error:
        failed = error
    parts: list[Waveform | AudioError] = []
    for data, start, end, stop in zip(held, starts, ends, stops, strict=True):
        waveform = np.frombuffer(data, np.float32)
        if len(waveform) > most:
            parts.append(AudioError(f"longer than {longest:g} s: cut it into parts, or raise --longest"))
        elif failed and at < stop:
            parts.append(failed)
        elif ended and (start >= at or (end is not None and end > at + to_samples(_ROUNDING))):
            parts.append(
                AudioError(f"this part exceeds the file, which ends at {at / SAMPLING_RATE:.3f} s: correct its times")
            )
        elif len(waveform) < MIN_SAMPLES:
            parts.append(
                AudioError(f"too short at {len(waveform) / 16:.1f} ms: pass at least {MIN_SAMPLES / 16:.0f} ms")
            )
        else:
            parts.append(waveform)
    return parts


def described(waveform: Waveform, start: float, rules: Rules, waveforms: list[Waveform]) -> dict[str, Any]:
    """Finds and measures the segments of a clip, and appends the waveforms to be judged to `waveforms`.

    Args:
        waveform: The clip, [samples] at 16 kHz.
        start: Start of the clip in its file, in seconds.
        rules: How the clip is cut.
        waveforms: Receives the waveforms.

    Returns:
        The answer of `decoder.serve` for one part.
    """
    duration = len(waveform) / SAMPLING_RATE
    if _peak(waveform) <= SILENT:
        return {"duration": duration, "error": "silent: no sample exceeds 1/32768 of full scale: record it again"}
    if rules.whole:
        short = duration < rules.segments.low_confidence
        segments = [Segment(0.0, duration, "low_confidence" if short else "normal")]
    else:
        segments = detect(waveform, rules.segments)
    if not segments:
        return {"duration": duration, "error": NO_SPEECH}
    rows = []
    begin = to_samples(start)
    for segment in segments:
        samples = waveform[segment.samples]
        judged = segment.quality in {"normal", "low_confidence"}
        # Not a dot product: its last digits depend on the memory alignment of the samples.
        mean_square = float(np.square(samples).mean())
        peak = _peak(samples)
        rows.append(
            {
                # Exactly on a sample of the file, free of rounding errors of sums.
                "start": (begin + segment.samples.start) / SAMPLING_RATE,
                "end": (begin + segment.samples.stop) / SAMPLING_RATE,
                "quality": segment.quality,
                "level": round(10 * float(np.log10(mean_square)), 2) if mean_square else None,
                "peak": peak,
                "clipping": float((np.abs(samples) >= FULL_SCALE).mean()) if peak >= FULL_SCALE else 0.0,
                "snr": round(signal_to_noise(samples), 1) if judged and len(samples) >= LEAST_SAMPLES else None,
                "samples": len(samples) if judged else 0,
            }
        )
        if judged:
            waveforms.append(samples)
    return {"duration": duration, "segments": rows}


def _peak(waveform: Waveform) -> float:
    return max(float(waveform.max()), -float(waveform.min()))

"""Finds segments of speech in a clip."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Note, Waveform
from e2v_port.speech.level import EXPECTED, loudest
from e2v_port.speech.rule import SpeechRule
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, Span, spans_between, to_samples, to_segment
from e2v_port.speech.silero import FRAME_SAMPLES, speech_probabilities
from e2v_port.speech.split import join_across_pauses, split_long

__all__ = ["describe_level", "detect", "from_probabilities", "speech_spans"]


def detect(waveform: Waveform, settings: SegmentSettings = DEFAULTS) -> list[Segment]:
    """Finds the segments of speech in a clip.

    silero-vad finds spans of speech, with its defaults: a span ends after 100 ms of silence, spans of 250 ms or less
    are dropped as clicks, and each is widened by 30 ms on both sides. Spans with pauses shorter than `merge_gap`
    between them become one segment. Only where the probability has fallen and then stays just below the threshold for
    `max_duration` does a span end that silero would leave open. Sound that is too quiet for silero is raised for it:
    see `e2v_port.speech.level`.

    A segment longer than `max_duration` is split at pauses of at least `split_pause`, which are left out. The split
    minimizes the number of parts under `low_confidence`, then of those over `preferred_duration`, then of all, then how
    uneven they are in length. Speech more than 3 times `max_duration` after the start of a part has no influence on its
    end. Where there is no such pause for longer than `max_duration`, speech is cut in the middle of the quietest 50 ms
    between half of `max_duration` and all of it.

    Args:
        waveform: [samples], float32, 16 kHz, as `load_audio` returns it.
        settings: Thresholds and lengths.

    Returns:
        Segments in order, not overlapping, none longer than `max_duration`. They include those too short to judge,
        marked by their quality. An empty list for a clip without speech.
    """
    return from_probabilities(speech_probabilities(waveform, settings.max_gain), waveform, settings)


def from_probabilities(
    probabilities: NDArray[np.float32], waveform: Waveform, settings: SegmentSettings = DEFAULTS
) -> list[Segment]:
    """Finds the segments of speech in a clip whose speech probabilities are known.

    Args:
        probabilities: One per 512 samples of the waveform, the last frame being padded, 0 to 1.
        waveform: [samples], float32, 16 kHz.
        settings: Thresholds and lengths.

    Returns:
        Segments as in `detect`.

    Raises:
        ValueError: The number of probabilities does not fit the waveform.
    """
    spans = speech_spans(probabilities, waveform, settings)
    return [
        to_segment(part, spans, settings)
        for group in join_across_pauses(spans, to_samples(settings.merge_gap))
        for part in split_long(group, waveform, settings)
    ]


def describe_level(waveform: Waveform, segments: Iterable[Segment], settings: SegmentSettings = DEFAULTS) -> list[Note]:
    """Returns a note `quiet` if most of the speech in a clip was found only since it was raised; otherwise none.

    Args:
        waveform: [samples], float32, 16 kHz, of the clip.
        segments: Segments found in it or given for it.
        settings: Settings they were found with.
    """
    parts = [segment.samples for segment in segments if segment.quality != "no_speech"]
    if not (parts and settings.max_gain):
        return []
    level = loudest(np.concatenate([waveform[part] for part in parts]), FRAME_SAMPLES)
    if level >= EXPECTED:
        return []
    alone = speech_spans(speech_probabilities(waveform), waveform, settings)
    spoken = [
        min(end, part.stop) - max(start, part.start)
        for part in parts
        for start, end in spans_between(alone, part.start, part.stop)
    ]
    if 2 * sum(spoken) >= sum(part.stop - part.start for part in parts):
        return []
    text = (
        f"the speech is {EXPECTED - level:.0f} dB too quiet for speech detection and was raised for it: record louder"
    )
    return [Note("quiet", text)]


def speech_spans(probabilities: NDArray[np.float32], waveform: Waveform, settings: SegmentSettings) -> list[Span]:
    """Returns the spans in which silero hears speech, in order, with pauses between them.

    Raises:
        ValueError: The number of probabilities does not fit the waveform.
    """
    if probabilities.shape != (-(-len(waveform) // FRAME_SAMPLES),):
        raise ValueError(f"{probabilities.shape} probabilities do not fit {len(waveform)} samples")
    rule = SpeechRule(settings.speech_threshold, to_samples(settings.max_duration))
    return rule.push(probabilities.tolist()) + rule.finish(len(waveform))

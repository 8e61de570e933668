"""Recognizes enrolled voices in speech, and enrolls them from recordings."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Clip, Note, Waveform, clip_name, load_audio
from e2v_port.errors import AudioError, need
from e2v_port.files import printable
from e2v_port.models.model import Model
from e2v_port.speakers.roster import Roster
from e2v_port.speech.detect import from_probabilities, speech_spans
from e2v_port.speech.segment import DEFAULTS, SegmentSettings, spans_between
from e2v_port.speech.silero import speech_probabilities

__all__ = ["Heard", "KnownVoices", "enroll", "stretches"]


class Heard(NamedTuple):
    """Whose voice was heard.

    Attributes:
        name: Name of the enrolled voice; None for any other voice, and where it is not certain.
        similarity: Cosine similarity to the most similar enrolled voice, -1 to 1; None if too little speech was heard
            to compare.
    """

    name: str | None
    similarity: float | None


class KnownVoices:
    """Recognizes enrolled voices. Safe to use from several threads.

    Args:
        encoder: Speaker encoder that the voices were enrolled with.
        roster: The enrolled voices.
        only: Whether nobody else may be judged.

    Raises:
        RosterError: The voices were enrolled with another encoder.
    """

    def __init__(self, encoder: Model, roster: Roster, *, only: bool = False) -> None:
        need("encoder", encoder, Model)
        need("roster", roster, Roster)
        roster.check(encoder)
        self.encoder, self.roster, self.only = encoder, roster, only

    def __repr__(self) -> str:
        return f"KnownVoices({', '.join(self.roster.names) or 'nobody'}{', only' if self.only else ''})"

    def whose(self, waveform: Waveform, settings: SegmentSettings = DEFAULTS) -> Heard:
        """Returns whose voice a stretch of speech is. Its pauses are left out.

        Args:
            waveform: [samples], float32, 16 kHz, of one speaker.
            settings: Settings that speech is found with.
        """
        parts = stretches(waveform, settings)
        if sum(map(len, parts)) < LEAST_HEARD * SAMPLING_RATE:
            return Heard(None, None)
        return Heard(*self.roster.identify(self.encoder.embed(np.concatenate(parts), SAMPLING_RATE)))


LEAST_HEARD = 0.75
"""Least speech that is compared with the enrolled voices, in seconds."""


def enroll(
    roster: Roster,
    encoder: Model,
    name: str,
    clips: Iterable[Clip],
    *,
    channel: int | str = "mix",
    settings: SegmentSettings = DEFAULTS,
) -> list[Note]:
    """Enrolls the voice in recordings of one speaker. Only its embedding is kept.

    Args:
        roster: Roster that gets the voice; `Roster.save` keeps it.
        encoder: Speaker encoder of the roster.
        name: Name of the speaker, as for `Roster.enroll`.
        clips: Recordings, as for `e2v_port.audio.load_audio`.
        channel: `mix`, `left`, `right` or a number from 1.
        settings: Settings that speech is found with.

    Returns:
        Notes on what looks wrong, as of `Roster.enroll`.

    Raises:
        AudioError: A recording cannot be used, or holds no speech.
        RosterError: The speech is too little, the name is not allowed, or the roster is of another encoder.
    """
    roster.check(encoder)
    clips = list(clips)
    spoken: list[Waveform] = []
    for clip in clips:
        found = stretches(load_audio(clip, channel=channel), settings)
        if not found:
            raise AudioError(f"{printable(clip_name(clip))}: no speech found: record the voice alone, and louder")
        spoken += found
    usable = [part for part in spoken if len(part) >= LEAST_HEARD * SAMPLING_RATE]
    embeddings = encoder.embed(usable, SAMPLING_RATE) if usable else []
    return roster.enroll(name, embeddings, [len(part) / SAMPLING_RATE for part in usable], clips=len(clips))


def stretches(waveform: Waveform, settings: SegmentSettings = DEFAULTS) -> list[Waveform]:
    """Returns the speech in each segment of a waveform, without its pauses.

    Args:
        waveform: [samples], float32, 16 kHz.
        settings: Settings that speech is found with.
    """
    probabilities = speech_probabilities(waveform, settings.max_gain)
    spans = speech_spans(probabilities, waveform, settings)
    segments = from_probabilities(probabilities, waveform, settings)
    found = []
    for segment in segments:
        start, stop = segment.samples.start, segment.samples.stop
        cut = [waveform[max(a, start) : min(b, stop)] for a, b in spans_between(spans, start, stop)]
        found.append(np.concatenate(cut))
    return found

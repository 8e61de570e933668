"""Recognizes enrolled voices in speech, and enrolls them from recordings."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Clip, Note, Waveform, clip_name, load_audio
from e2v_port.errors import AudioError, need
from e2v_port.files import printable
from e2v_port.models.model import Model
from e2v_port.speakers.roster import PIECE, Roster, mean_of
from e2v_port.speech.detect import from_probabilities, speech_spans
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, spans_between
from e2v_port.speech.silero import speech_probabilities

__all__ = ["LEAST_HEARD", "Heard", "KnownVoices", "enroll", "pieces", "stretches"]


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

        Nobody's name is given to speech in which another voice is heard for about 2 s or more.

        Args:
            waveform: [samples], float32, 16 kHz, of one speaker.
            settings: Settings that speech is found with.
        """
        return self.whose_each([waveform], settings)[0]

    def whose_each(self, waveforms: Sequence[Waveform], settings: SegmentSettings = DEFAULTS) -> list[Heard]:
        """Returns whose voice each of several stretches of speech is, as `whose` does."""
        return [_NOBODY if speech is None else self._identified(speech) for speech in self._speech(waveforms, settings)]

    def _identified(self, speech: "_Speech") -> Heard:
        """Returns whose voice speech is; nobody's where a long part of it is clearly of another voice."""
        name, similarity = self.roster.identify(speech.embedding, speech.seconds, speech.pieces)
        if name and any(self.roster.foreign(name, part, seconds) for part, seconds in speech.parts):
            return Heard(None, similarity)
        return Heard(name, similarity)

    def _speech(self, waveforms: Sequence[Waveform], settings: SegmentSettings) -> list["_Speech | None"]:
        """Returns the speech in each waveform; None where there is too little to compare."""
        apart = [stretches(waveform, settings) for waveform in waveforms]
        spoken = [np.concatenate([_NOTHING, *parts]) for parts in apart]
        sounds = {i: [sound, *pieces(sound)] for i, sound in enumerate(spoken) if len(sound) >= _LEAST_SAMPLES}
        # Several people may speak in what is longer than a segment, and all of it together sounds a little like each.
        long = {i for i in sounds if len(spoken[i]) > settings.max_duration * SAMPLING_RATE}
        turns = {i: [part for part in apart[i] if len(part) >= 2 * PIECE * SAMPLING_RATE] for i in long}
        heard = [part for i, parts in sounds.items() for part in (*parts, *turns.get(i, ()))]
        embeddings = iter(self.encoder.embed(heard, SAMPLING_RATE))
        found: list[_Speech | None] = [None] * len(waveforms)
        for i, parts in sounds.items():
            whole, *own = [next(embeddings) for _ in parts]
            others = [(next(embeddings), len(part) / SAMPLING_RATE) for part in turns.get(i, ())]
            found[i] = _Speech(whole, len(spoken[i]) / SAMPLING_RATE, own, others)
        return found

    def settle(self, segment: Segment, heard: Heard) -> Segment:
        """Returns a segment with the speaker that its voice says, whoever a caller said it is.

        A name given by a caller stays only where it is of nobody enrolled, and everybody may be judged.
        """
        if heard.name is not None:
            return replace(segment, speaker=heard.name)
        if self.only:
            return replace(segment, speaker=None, quality="not_enrolled")
        claimed = segment.speaker is not None and segment.speaker in self.roster
        return replace(segment, speaker=None) if claimed else segment

    def named(
        self,
        waveform: Waveform | Mapping[int | None, Waveform],
        segments: Sequence[Segment],
        settings: SegmentSettings = DEFAULTS,
        *,
        found: Set[str] = frozenset(),
    ) -> tuple[list[Segment], list[Note]]:
        """Names the speaker of each segment by its voice; segments are not split.

        If nobody else may be judged, a segment over which another voice speaks becomes `not_enrolled`, too.

        Args:
            waveform: [samples], float32, 16 kHz, of the whole clip; or that of each channel, by its number.
            segments: Segments of it, in order of time.
            settings: Settings that speech is found with.
            found: Speakers who were found by their voices, as `Speakers.named` finds them: all speech of each is
                compared as that of one voice. Those who are not enrolled are numbered anew.

        Returns:
            The segments, each with its speaker, and notes: `not_enrolled` says how many are not judged.
        """

        def sound(segment: Segment) -> Waveform:
            whole = waveform[segment.channel] if isinstance(waveform, Mapping) else waveform
            return whole[segment.samples]

        listened = [i for i, segment in enumerate(segments) if segment.quality in _LISTENED]
        speech = dict(zip(listened, self._speech([sound(segments[i]) for i in listened], settings), strict=True))
        names = self._names(segments, speech, found)
        done = list(segments)
        for i in listened:
            done[i] = self._settled(segments[i], speech[i], names)
        barred = [segment for segment in done if segment.quality == "not_enrolled"]
        for i in listened:
            if self.only and any(_overlap(done[i], other) for other in barred if other is not done[i]):
                done[i] = self.settle(segments[i], _NOBODY)
        return done, self.notes(done)

    def _names(
        self, segments: Sequence[Segment], speech: "Mapping[int, _Speech | None]", found: Set[str]
    ) -> dict[str, tuple[str, bool]]:
        """Returns the name of each speaker who was found by voice, and whether it is that of an enrolled voice."""
        names: dict[str, tuple[str, bool]] = {}
        everybody = dict.fromkeys(segment.speaker for segment in segments)
        order = [speaker for speaker in everybody if speaker is not None and speaker in found]
        free = iter(order)
        for speaker in order:
            own = [part for i, part in speech.items() if part and segments[i].speaker == speaker]
            seconds = [part.seconds for part in own]
            name = None
            if own:
                name = self.roster.identify(mean_of([part.embedding for part in own], seconds), sum(seconds))[0]
            names[speaker] = (name, True) if name else (next(free), False)
        return names

    def _settled(self, segment: Segment, speech: "_Speech | None", names: Mapping[str, tuple[str, bool]]) -> Segment:
        """Returns a segment with the name of its voice, if it is that of the speaker it was given to."""
        if segment.speaker is None or segment.speaker not in names:
            return self.settle(segment, self._identified(speech) if speech else _NOBODY)
        name, enrolled = names[segment.speaker]
        parts = [] if speech is None else [*([speech.embedding] if speech.seconds >= PIECE else []), *speech.pieces]
        if enrolled and not any(self.roster.foreign(name, part) for part in parts):
            return replace(segment, speaker=name)
        if self.only:
            return replace(segment, speaker=None if enrolled else name, quality="not_enrolled")
        return replace(segment, speaker=None if enrolled else name)

    def notes(self, segments: Sequence[Segment]) -> list[Note]:
        """Returns a note on the segments that are not judged, as their voice is of nobody enrolled."""
        barred = [segment.duration for segment in segments if segment.quality == "not_enrolled"]
        if not (self.only and barred):
            return []
        text = f"{len(barred)} of {len(segments)} segments, {sum(barred):.1f} s, are not of an enrolled voice for "
        return [Note("not_enrolled", f"{text}certain: neither judged nor read")]


class _Speech(NamedTuple):
    """Speech without pauses.

    Attributes:
        embedding: Embedding of all of it.
        seconds: Its length.
        pieces: Embeddings of its pieces.
        parts: Of speech longer than a segment: embedding and seconds of each part that would be one.
    """

    embedding: NDArray[np.float32]
    seconds: float
    pieces: list[NDArray[np.float32]]
    parts: list[tuple[NDArray[np.float32], float]]


_LISTENED = {"normal", "low_confidence", "too_short"}  # qualities of segments whose voice is compared
_NOBODY = Heard(None, None)
_ROUNDING = 0.02  # s; given segments overlap by as much where nobody speaks at the same time


def _overlap(one: Segment, other: Segment) -> bool:
    """Returns whether both are heard at the same time: the mix holds every channel."""
    together = min(one.end, other.end) - max(one.start, other.start)
    return (one.channel == other.channel or None in {one.channel, other.channel}) and together > _ROUNDING


LEAST_HEARD = 0.75
"""Least speech that is compared with the enrolled voices, in seconds."""

_LEAST_SAMPLES = round(LEAST_HEARD * SAMPLING_RATE)
_NOTHING = np.zeros(0, np.float32)


def enroll(
    roster: Roster,
    encoder: Model,
    name: str,
    clips: Iterable[Clip],
    sampling_rate: int | None = None,
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
        sampling_rate: Sampling rate of arrays, in Hz; files bring their own.
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
        found = stretches(load_audio(clip, sampling_rate, channel=channel), settings)
        if not found:
            raise AudioError(f"{printable(clip_name(clip))}: no speech found: record the voice alone, and louder")
        spoken += found
    usable = [part for part in spoken if len(part) >= _LEAST_SAMPLES]
    embeddings = encoder.embed([*usable], SAMPLING_RATE) if usable else []
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


def pieces(speech: Waveform) -> list[Waveform]:
    """Cuts speech into equal pieces of at least `PIECE` seconds; returns none for speech too short for two.

    Args:
        speech: [samples], float32, 16 kHz, without pauses.
    """
    count = int(len(speech) / (PIECE * SAMPLING_RATE))
    bounds = [len(speech) * i // max(count, 1) for i in range(count + 1)]
    return [speech[start:end] for start, end in pairwise(bounds)] if count > 1 else []

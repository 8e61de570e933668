"""Names the speakers of a clip by their voices, and splits segments where the speaker changes."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from itertools import count as numbers

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Clip, Note, Waveform
from e2v_port.errors import E2VError, check_numbers, quoted
from e2v_port.models.model import Model
from e2v_port.speakers.cluster import Vectors, Voices, find
from e2v_port.speakers.pieces import Owned, labeled, segmented, settled
from e2v_port.speakers.windows import Run, Window, over, runs
from e2v_port.speech.detect import speech_spans
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, to_samples
from e2v_port.speech.silero import speech_probabilities

__all__ = ["ALIKE", "SpeakerSettings", "Speakers"]

ALIKE = {"ge2e": 0.85}
"""Similarity from which two voices are one, by the family of the encoder: docs/speakers.md says how it was found."""

_LISTENED = {"normal", "low_confidence", "too_short"}  # qualities of segments whose speaker is sought
_BEFORE = 8000  # samples: 0.5 s before a segment, which silero hears to settle


@dataclass(frozen=True)
class SpeakerSettings:
    """How voices are compared. The defaults were found on made calls: see docs/speakers.md.

    Attributes:
        window: Length of the windows whose voices are compared, in seconds; GE2E was trained on 1.6 s.
        hop: Largest distance between windows, in seconds, at most `window`.
        pause: Shortest pause over which no window reaches, in seconds.
        compared: Shortest window that takes part in finding the voices, in seconds, at most `window`; shorter ones only
            get the nearest of them.
        shortest: Shortest speech that is named by its own voice, in seconds. Shorter speech gets the speaker of its
            neighbor, or none where that is further than `SegmentSettings.merge_gap`.
        alike: Similarity from which two voices are one.
        margin: Distance from `alike` within which another number of speakers is reported as possible.
        least: Least speech of a speaker, in seconds, where their number is estimated.
        most: Largest number of speakers that is estimated, at least 1.
        close: Difference between the similarities to two voices below which naming a segment is a close call.
        cap: Largest number of windows that are compared with each other, at least 10: memory grows with its square.
    """

    window: float = 1.6
    hop: float = 0.8
    pause: float = 0.25
    compared: float = 1.2
    shortest: float = 0.5
    alike: float = 0.85
    margin: float = 0.02
    least: float = 3.0
    most: int = 8
    close: float = 0.05
    cap: int = 1500

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(self, least=0)
        for name, holds, bounds in (
            ("window", self.window >= 0.1, "at least 0.1 s"),
            ("hop", 0 < self.hop <= self.window, "above 0 s and at most window"),
            ("compared", self.compared <= self.window, "at most window"),
            ("most", self.most >= 1 and isinstance(self.most, int), "a whole number of at least 1"),
            ("cap", self.cap >= 10 and isinstance(self.cap, int), "a whole number of at least 10"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {bounds}, not {quoted(getattr(self, name))}")


class Speakers:
    """Names the speakers of clips by their voices. Nothing is kept from one clip to the next.

    Attributes:
        encoder: The model that tells voices apart.
        count: Number of speakers; None where it is estimated.
        settings: How voices are compared.

    Args:
        encoder: Loaded speaker encoder, such as `e2v_port.load("bundled-voices")`.
        count: Number of speakers in each clip, at least 1, if known.
        settings: How voices are compared; by default with the similarity that was found for this kind of encoder.

    Raises:
        E2VError: The model is no speaker encoder; or their number is to be estimated and nobody measured from which
            similarity two voices are one for this encoder.
        ValueError: The number is no whole number from 1.
    """

    def __init__(self, encoder: Model, *, count: int | None = None, settings: SpeakerSettings | None = None) -> None:
        if not encoder.config.architecture.speakers:
            name = encoder.config.source.repository
            raise E2VError(f"{name} is no speaker encoder: use bundled-voices, or another one of `e2v models`")
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise ValueError(f"the number of speakers must be a whole number of at least 1, not {quoted(count)}")
        family = encoder.config.family
        if settings is None and count is None and family not in ALIKE:
            name = encoder.config.source.repository
            raise E2VError(
                f"how alike two voices may be is not known for {name} ({family}): give the number of speakers"
                " (--speaker-count), or SpeakerSettings(alike=...)"
            )
        self.encoder, self.count = encoder, count
        self.settings = settings or SpeakerSettings(alike=ALIKE.get(family, SpeakerSettings.alike))

    def named(
        self,
        waveform: Waveform | Mapping[int | None, Waveform],
        segments: Sequence[Segment],
        settings: SegmentSettings = DEFAULTS,
    ) -> tuple[list[Segment], list[Note]]:
        """Names the speakers of the segments of a clip, and splits segments where the speaker changes.

        Segments that have a speaker keep it, and those that may not be judged or hold no speech stay as they are. The
        others become `speaker 1`, `speaker 2` and so on, in order of first appearance. One with a text is not split: it
        gets the speaker who speaks longest in it. All others that are split are graded again.

        Args:
            waveform: [samples], float32, 16 kHz, of the whole clip; or that of each channel, by its number. Voices are
                compared across channels.
            segments: Segments by start.
            settings: Lengths, and the threshold of speech.

        Returns:
            The segments by start, and what must be known about their speakers.

        Raises:
            RuntimeUnavailable: scikit-learn is not installed.
        """
        heard = (
            dict(waveform)
            if isinstance(waveform, Mapping)
            else dict.fromkeys([None, *(segment.channel for segment in segments)], waveform)
        )
        asked = {i: each for i, each in enumerate(segments) if each.speaker is None and each.quality in _LISTENED}
        if not asked:
            return list(segments), []
        parts = self._runs(heard, asked, settings)
        windows = over(parts, to_samples(self.settings.window), to_samples(self.settings.hop))

        def sound(number: int) -> Waveform:
            return heard[segments[number].channel]

        clips: list[Clip] = [sound(parts[window.run].segment)[window.start : window.end] for window in windows]
        embeddings = np.stack(self.encoder.embed(clips, SAMPLING_RATE))
        voices = self._voices(embeddings, windows)
        if voices is None:
            least = self.settings.compared
            text = f"no speech lasts for {least:g} s without a pause: too little to tell whose voice it is"
            return list(segments), [Note("speakers_unknown", text)]
        pieces = labeled(windows, parts, self._similarities(embeddings, windows, voices), sound)
        found: list[Owned] = []
        for channel in dict.fromkeys(segment.channel for segment in asked.values()):
            inside = {i: segment for i, segment in asked.items() if segment.channel == channel}
            own = [piece for piece in pieces if piece.segment in inside]
            own = settled(own, to_samples(self.settings.shortest), to_samples(settings.merge_gap))
            found += segmented(own, inside, heard[channel], settings)
        found.sort(key=lambda owned: (owned.segment.start, owned.segment.end))
        names = _names(found, {segment.speaker for segment in segments})
        done = [segment for i, segment in enumerate(segments) if i not in asked]
        done += [replace(each.segment, speaker=None if each.voice is None else names[each.voice]) for each in found]
        done.sort(key=lambda each: (each.start, each.end))
        return done, self._notes(voices, found, len(names))

    def _runs(
        self, heard: Mapping[int | None, Waveform], asked: Mapping[int, Segment], settings: SegmentSettings
    ) -> list[Run]:
        """Returns the runs of speech of each segment; one in which no speech is heard is a run as it is."""
        found: list[Run] = []
        for number, segment in asked.items():
            part = segment.samples
            first = max(part.start - _BEFORE, 0)
            near = heard[segment.channel][first : part.stop]
            spans = speech_spans(speech_probabilities(near, settings.max_gain), near, settings)
            inside = [(max(start + first, part.start), end + first) for start, end in spans if end + first > part.start]
            found += runs(inside or [(part.start, part.stop)], number, to_samples(self.settings.pause))
        return found

    def _similarities(self, embeddings: Vectors, windows: Sequence[Window], voices: Voices) -> Vectors:
        """Returns the similarity of each window to each voice, [windows, voices]; a benchmark puts the truth here."""
        return embeddings @ voices.centers.T

    def _voices(self, embeddings: Vectors, windows: Sequence[Window]) -> Voices | None:
        """Returns the voices of a clip; None if no speech is long enough to tell one."""
        own = self.settings
        seconds = np.array([window.end - window.start for window in windows]) / SAMPLING_RATE
        usable = seconds >= own.compared
        if not usable.any():
            return None
        return find(
            embeddings[usable],
            seconds[usable],
            np.array([window.run for window in windows])[usable],
            count=self.count,
            alike=own.alike,
            margin=own.margin,
            least=own.least,
            most=own.most,
            cap=own.cap,
        )

    def _notes(self, voices: Voices, found: Sequence[Owned], people: int) -> list[Note]:
        """Returns how many speakers were found, and where that is in doubt."""
        who = "1 speaker" if people == 1 else f"{people} speakers"
        if self.count is not None:
            text = f"{who} found by voice, as many as were asked for"
            text = text if people == self.count else f"{who} could be told apart by voice, not {self.count}"
        elif voices.fewest == voices.most:
            text = f"{who} found by voice"
        else:
            text = (
                f"{who} found by voice, but it may be {voices.fewest} to {voices.most}: give the number if it is known"
            )
        notes = [Note("speakers", text)]
        if voices.compared < voices.of:
            text = (
                f"voices were found from {voices.compared} of {voices.of} windows of speech; the others got the nearest"
            )
            notes.append(Note("speakers_sampled", text))
        close = [each.segment for each in found if each.voice is not None and each.lead < self.settings.close]
        if close:
            notes.append(Note("speaker_doubt", f"another speaker is almost as likely in {_places(close)}"))
        unknown = [each.segment for each in found if each.voice is None]
        if unknown:
            notes.append(
                Note("speakers_unknown", f"speech is too short to tell whose voice it is in {_places(unknown)}")
            )
        return notes


def _names(found: Sequence[Owned], taken: Set[str | None]) -> dict[int, str]:
    """Returns the name of each voice, numbered by first appearance; names that are taken are left out."""
    free = (name for name in map("speaker {}".format, numbers(1)) if name not in taken)
    return {voice: next(free) for voice in dict.fromkeys(each.voice for each in found) if voice is not None}


def _places(segments: Sequence[Segment]) -> str:
    """Returns how many segments there are and where the first ones begin."""
    first = ", ".join(f"{segment.start:.2f} s" for segment in segments[:3])
    what = "1 segment, at" if len(segments) == 1 else f"{len(segments)} segments, from"
    return f"{what} {first}{', ...' if len(segments) > 3 else ''}"

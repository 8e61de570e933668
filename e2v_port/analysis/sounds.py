"""The channels of a clip that an analysis needs, and the segments of speech in each of them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from e2v_port.audio import (
    SAMPLING_RATE,
    Clip,
    Note,
    Sound,
    Waveform,
    channel_name,
    channel_number,
    clip_name,
    load_sounds,
)
from e2v_port.errors import SegmentError
from e2v_port.files import printable
from e2v_port.speech.detect import describe_level, detect
from e2v_port.speech.given import Given, from_given
from e2v_port.speech.segment import GivenSegment, Segment, SegmentSettings

__all__ = ["Request", "Sounds"]


@dataclass(frozen=True)
class Sounds:
    """The channels of a clip.

    Attributes:
        name: Name of the clip.
        by_channel: Sound of each channel that is needed, by its number from 1; None stands for the mix.
    """

    name: str
    by_channel: dict[int | None, Sound]

    @property
    def samples(self) -> int:
        """Samples of all these channels together."""
        return sum(len(sound.waveform) for sound in self.by_channel.values())

    @property
    def duration(self) -> float:
        """Length of the clip in seconds."""
        return len(next(iter(self.by_channel.values())).waveform) / SAMPLING_RATE

    @property
    def notes(self) -> tuple[Note, ...]:
        """What must be known about the sound, each thing once."""
        return tuple(dict.fromkeys(note for sound in self.by_channel.values() for note in sound.notes))

    @property
    def mean(self) -> Waveform:
        """The mean of these channels, as a picture shows them."""
        waveforms = [sound.waveform for sound in self.by_channel.values()]
        return np.mean(waveforms, axis=0) if len(waveforms) > 1 else waveforms[0]

    def of(self, segment: Segment) -> Waveform:
        """Returns the samples of a segment, of its channel."""
        return self.by_channel[segment.channel].waveform[segment.samples]


@dataclass(frozen=True)
class Request:
    """What is analyzed in a clip.

    Attributes:
        channel: `mix`, `left`, `right`, a number from 1, or `each` for every channel on its own.
        given: Segments of the clip; None to find them.
        whole: Whether the clip is one segment.

    Raises:
        AudioError: The channel is none of these.
        SegmentError: Given segments without a channel, with `each`.
    """

    channel: int | str = "mix"
    given: Sequence[GivenSegment] | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        """Checks the channel before anything is loaded."""
        if self.channel != "each":
            channel_number(self.channel)
        elif any(segment.channel is None for segment in self.given or ()):
            raise SegmentError("channel each, but segments without a channel: give theirs, or choose one channel")

    def load(
        self, clip: Clip, sampling_rate: int | None = None, check: Callable[[float], None] | None = None
    ) -> Sounds:
        """Loads the channels of a clip that are needed.

        Args:
            clip: A clip, as in `load_audio`.
            sampling_rate: Sampling rate of an array, in Hz.
            check: Called with the seconds decoded so far, of all channels; may raise.

        Raises:
            AudioError: See `load_audio`.
            SegmentError: A segment names a channel that the clip does not have.
        """
        return Sounds(clip_name(clip), load_sounds(clip, sampling_rate, lambda n: self._wanted(clip, n), check))

    def _wanted(self, clip: Clip, channels: int) -> Iterable[int | None]:
        named = {segment.channel for segment in self.given or () if segment.channel is not None}
        if missing := sorted(named - {*range(1, channels + 1)}):
            raise SegmentError(
                f"segments of channel {missing[0]}, but {printable(clip_name(clip))} has {channels}: give the segments "
                "of this clip, or a clip with all channels"
            )
        if self.channel == "each":
            return sorted(named) if self.given else range(1, channels + 1)
        default = channel_number(self.channel)
        if self.given and all(segment.channel for segment in self.given):
            return sorted(named)
        return [default, *sorted(named - {default})]

    def segments(self, sounds: Sounds, settings: SegmentSettings) -> Given:
        """Finds the segments of each channel, or checks the given ones on theirs; in order of time.

        With `each`, the speaker is the channel. In silence there is no speech, whoever says so.
        """
        if self.given is not None and not self.whole:
            waveforms = {number: sound.waveform for number, sound in sounds.by_channel.items()}
            segments, notes = from_given(self._placed(), waveforms, settings)
        else:
            segments, notes = [], []
            for number, sound in sounds.by_channel.items():
                name = channel_name(number or 1, sound.channels) if self.channel == "each" else None
                found = self._found(sound, settings)
                segments += [replace(segment, channel=number, speaker=name) for segment in found]
        silent = {number for number, sound in sounds.by_channel.items() if sound.silent}
        for i, segment in enumerate(segments):
            if segment.channel in silent and segment.quality in {"normal", "low_confidence"}:
                segments[i] = replace(segment, quality="no_speech")
        for number, sound in () if self.whole else sounds.by_channel.items():
            of_channel = (segment for segment in segments if segment.channel == number)
            notes = [*notes, *describe_level(sound.waveform, of_channel, settings)]
        return Given(sorted(segments, key=lambda segment: (segment.start, segment.end)), notes)

    def _placed(self) -> list[GivenSegment]:
        """Returns the given segments, each with the channel on which it is judged."""
        default = None if self.channel == "each" else channel_number(self.channel)
        return [replace(segment, channel=segment.channel or default) for segment in self.given or ()]

    def _found(self, sound: Sound, settings: SegmentSettings) -> list[Segment]:
        if not self.whole:
            return [] if sound.silent else detect(sound.waveform, settings)
        duration = len(sound.waveform) / SAMPLING_RATE
        return [Segment(0.0, duration, "low_confidence" if duration < settings.low_confidence else "normal")]

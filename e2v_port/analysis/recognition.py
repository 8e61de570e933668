"""Names the segments of a clip by enrolled voices, channel by channel."""

from collections.abc import Sequence

from e2v_port.analysis.sounds import Sounds
from e2v_port.audio import Note
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings

__all__ = ["recognized"]


def recognized(
    known: KnownVoices, sounds: Sounds, segments: Sequence[Segment], settings: SegmentSettings = DEFAULTS
) -> tuple[list[Segment], list[Note]]:
    """Names the segments of a clip by their voices, each on its channel: see `KnownVoices.named`."""
    found: list[Segment] = []
    for channel, sound in sounds.by_channel.items():
        own = [segment for segment in segments if segment.channel == channel]
        found += known.named(sound.waveform, own, settings)[0]
    found.sort(key=lambda segment: (segment.start, segment.end))
    return found, known.notes(found)

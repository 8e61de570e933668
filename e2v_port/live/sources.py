"""Sources of live sound: recordings and pipes. `e2v_port.live.microphone` has the microphone."""

import os
import time
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.audio.mix import to_float
from e2v_port.audio.pcm import Samples

__all__ = ["BLOCK_SECONDS", "Block", "Pipe", "Recording", "Source", "lost"]

BLOCK_SECONDS = 0.05  # a level meter that moves 20 times a second looks alive
_REMEDY = "name a file instead, or convert it: ffmpeg -i FILE -f s16le -ac 1 -ar 16000 - | e2v listen -"


class Block(NamedTuple):
    """A block of samples.

    Attributes:
        samples: [samples], float32.
        recorded: Time at which the last of them was recorded, by `time.monotonic`; None for a source without a pace.
    """

    samples: Waveform
    recorded: float | None


class Source(Protocol):
    """A source of live sound.

    Attributes:
        name: Name to show to people.
        sampling_rate: Sampling rate, in Hz.
        gaps: Number of times that sound was lost so far.
    """

    name: str
    sampling_rate: int
    gaps: int

    def __iter__(self) -> Iterator[Block]: ...


class Recording:
    """A file, read as if it were spoken now.

    Args:
        file: Path of the file, as for `load_audio`.
        paced: Whether a block comes only when it would have been spoken; otherwise blocks come as fast as they are
            taken.
        channel: Channel of the file, as for `load_audio`.

    Raises:
        AudioError: See `load_audio`.
    """

    gaps = 0
    sampling_rate = SAMPLING_RATE

    def __init__(self, file: str, paced: bool, channel: int | str = "mix") -> None:
        self.name, self._waveform, self._paced = file, load_audio(file, channel=channel), paced

    def __iter__(self) -> Iterator[Block]:
        size = round(BLOCK_SECONDS * SAMPLING_RATE)
        began = time.monotonic()
        for start in range(0, len(self._waveform), size):
            samples = self._waveform[start : start + size]
            recorded = began + (start + len(samples)) / SAMPLING_RATE
            if self._paced:
                time.sleep(max(0.0, recorded - time.monotonic()))
            yield Block(samples, recorded if self._paced else None)


class Pipe:
    """Samples without a header: 16-bit little-endian integers of one channel, as `arecord -t raw` writes them.

    They are read as they come; an incomplete last sample is dropped.

    Args:
        number: File descriptor: 0 for standard input.
        sampling_rate: Sampling rate, in Hz.

    Raises:
        AudioError: While it is read: it holds a file, or samples of another encoding.
    """

    gaps = 0
    name = "standard input"

    def __init__(self, number: int, sampling_rate: int) -> None:
        self._number, self.sampling_rate = number, sampling_rate

    def __iter__(self) -> Iterator[Block]:
        size = 2 * round(BLOCK_SECONDS * self.sampling_rate)
        pcm = Samples("s16le", 1, self.sampling_rate, _REMEDY)
        while data := os.read(self._number, size):
            yield self._block(pcm.push(data))
        if len(rest := pcm.finish()):
            yield self._block(rest)

    def _block(self, samples: NDArray[Any]) -> Block:
        return Block(to_float(samples)[:, 0], time.monotonic())


def lost(source: Source) -> str:
    """Returns a line for people about the gaps in the sound."""
    return f"sound was lost {source.gaps} times"

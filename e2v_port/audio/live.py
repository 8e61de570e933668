"""Audio that is still being recorded."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio.channels import channel_number
from e2v_port.audio.clip import MAX_CHANNELS, Waveform
from e2v_port.audio.mix import Mixer, check_dtype, check_rate, to_float
from e2v_port.audio.notes import Note
from e2v_port.errors import AudioError

__all__ = ["LiveAudio"]


class LiveAudio:
    """A recording in progress, in blocks of any size. The joined results equal `load_audio` of the whole recording.

    Args:
        sampling_rate: Sampling rate of the blocks, in Hz.
        channel: Channel, as in `load_audio`. Whether the mix cancels is decided for each block, by it and a quarter of
            a second before it, so that a block may still be mixed that `load_audio` would not mix. A channel that has
            been silent so far is left out of the mean.
        channels: Number of channels of every block; None for that of the first one, which must then have more samples
            than channels: [2, 40] could be either.

    Raises:
        AudioError: The rate is no whole number, or outside 1 to 768 kHz; or the channel is unknown.
    """

    def __init__(self, sampling_rate: int, channel: int | str = "mix", *, channels: int | None = None) -> None:
        self._mixer = Mixer(check_rate(sampling_rate), channel_number(channel), live=True)
        self._channels = channels

    @property
    def duration(self) -> float:
        """Length of the audio pushed so far, in seconds."""
        return self._mixer.frames / self._mixer.rate

    @property
    def notes(self) -> list[Note]:
        """What must be known about the sound so far; silence counts once 10 s were pushed."""
        return self._mixer.downmix.notes

    def push(self, block: NDArray[Any]) -> Waveform:
        """Adds the next block.

        Args:
            block: [samples] or [samples, channels], of any type that `load_audio` accepts.

        Returns:
            [samples], float32, 16 kHz. The resampler holds a few milliseconds back.

        Raises:
            AudioError: The block has samples that `load_audio` would refuse, or another number of channels than those
                before, or no such channel. None of it is added.
        """
        block = check_dtype(block)
        frames = block.reshape(-1, 1) if block.ndim == 1 else block
        if frames.ndim != 2 or not 1 <= frames.shape[1] <= MAX_CHANNELS:
            raise AudioError(f"a block of shape {block.shape} is not [samples] or [samples, channels]: transpose it")
        if not len(frames):
            return np.empty(0, np.float32)
        channels = frames.shape[1]
        if self._channels is None and channels > 1 and len(frames) <= channels:
            raise AudioError(
                f"a first block of shape {block.shape} may be [channels, samples]: transpose it with .T, or begin "
                "with a block of more samples than channels"
            )
        if channels != (self._channels or channels):
            raise AudioError(
                f"a block of shape {block.shape} in a stream of {self._channels} channels: pass [samples, channels]"
            )
        samples = self._mixer.add(to_float(frames))
        self._channels = channels
        return samples

    def finish(self) -> Waveform:
        """Returns the samples that were held back. Nothing may be pushed afterwards."""
        return self._mixer.finish()

"""Files -> blocks of samples, decoded by libsndfile."""

from collections.abc import Generator

import numpy as np
import soundfile

from e2v_port.audio.clip import Waveform
from e2v_port.audio.mix import check_size
from e2v_port.audio.opening import BLOCK_FRAMES, Call, Pieces
from e2v_port.errors import AudioError

__all__ = ["UnknownToSndfileError", "sndfile_blocks"]

_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count where the header has none


class UnknownToSndfileError(Exception):
    """The file has an encoding, or lacks a length, that libsndfile needs."""


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc] # it has no types
    def seekable(self) -> bool:
        """Returns False for Ogg: each read would end in a seek to a position that a live stream does not have."""
        return self.format != "OGG" and bool(super().seekable())  # in other formats that seek finds damage


def sndfile_blocks(file: Pieces, call: Call) -> Generator[tuple[int, Waveform]]:
    """Yields the sampling rate in Hz and the next block [frames, channels], whose memory the one after it takes.

    Args:
        file: The file.
        call: Calls libsndfile.

    Raises:
        UnknownToSndfileError: Another decoder has to read the file.
        AudioError: The file is damaged, or its rate, channels or length are beyond the limits.
    """
    try:
        sound = call(_SoundFile, file=file)
    except soundfile.LibsndfileError as error:
        raise UnknownToSndfileError from error
    try:
        estimated = sound.format == "OGG"  # from its last page, which a live stream counts from its own start
        if sound.frames == _UNKNOWN_FRAMES and not estimated:
            raise UnknownToSndfileError
        check_size(sound.samplerate, sound.channels, 0 if estimated else sound.frames)
        buffer = np.empty((BLOCK_FRAMES, sound.channels), np.float32)
        left = _UNKNOWN_FRAMES if estimated else sound.frames  # tags and zeros may follow
        while left > 0 and len(block := call(sound.read, out=buffer[:left])):
            left -= len(block)
            yield sound.samplerate, block
    except soundfile.LibsndfileError as error:
        why = error.error_string.strip(" .")
        raise AudioError(f"damaged or cut off ({why}): get a complete copy") from error
    finally:
        call(sound.close)  # after a call that an interrupt has left running

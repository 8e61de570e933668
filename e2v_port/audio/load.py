"""Loads clips, whole or block by block."""

import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from typing import Any, BinaryIO, NamedTuple, Self, cast

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio.channels import channel_number
from e2v_port.audio.clip import SAMPLING_RATE, Clip, Waveform, clip_name, naming_clip
from e2v_port.audio.decode import decode
from e2v_port.audio.mix import Mixer, check_dtype, check_rate, check_size, to_float
from e2v_port.audio.notes import Note
from e2v_port.audio.opening import BLOCK_FRAMES, Source, open_clip
from e2v_port.errors import AudioError
from e2v_port.files import printable

__all__ = ["AudioStream", "Sound", "load_audio", "load_sound", "load_sounds", "log_notes"]

_logger = logging.getLogger(__name__)


class Sound(NamedTuple):
    """A clip as a waveform.

    Attributes:
        waveform: [samples], float32, 16 kHz, as `load_audio` returns it.
        notes: What must be known about its sound, such as a silent channel.
        channels: Number of channels of the clip.
    """

    waveform: Waveform
    notes: tuple[Note, ...]
    channels: int

    @property
    def silent(self) -> bool:
        """Whether all samples are equal, but for the last bit of 16."""
        return any(note.kind == "silence" for note in self.notes)


def load_audio(clip: Clip, sampling_rate: int | None = None, channel: int | str = "mix") -> Waveform:
    """Decodes, mixes down, resamples and checks a clip.

    The content of a file decides its format, not its name. libsndfile decodes WAV, FLAC, AIFF, Ogg and the like, FFmpeg
    decodes MP3, MP4, M4A, 3GP, WebM, Matroska, AAC, AMR, WMA and more, and of a film its sound: docs/formats.md lists
    them. Rates other than 16 kHz are resampled by soxr at "HQ", librosa's default: a tone is accurate to 1e-6 up to
    3 kHz and to 1e-3 (0.01 dB) up to 7.2 kHz. The slower "VHQ" is no more accurate there.

    Files are decoded to their real end, whatever length their header states or lacks: those from a pipe, joined MP3
    files and chained Ogg files, too. A file that is cut off or damaged is refused, or decoded as far as it goes with a
    note of the kind `cut_off`. A cut that nothing in the file shows (AAC and AMR streams, WebM from a browser, MP3
    without a count of its frames) cannot be noticed.

    Args:
        clip: One of

            * a path;
            * a binary file object, seekable or not: read from its position to its end, and left open;
            * an array [samples] or [samples, channels], as soundfile returns it, or [1, samples]. Floats have
              full scale 1; int8, int16 and int32 are divided by theirs; uint8 has its zero at 128, as in WAV.
              Wider integers are refused, since they have no agreed full scale, and so is [channels, samples],
              which looks like a batch of clips.
        sampling_rate: Sampling rate of an array in Hz, required for arrays. Ignored for files, whose header has it,
            so that one call can take both.
        channel: `mix` for the mean of all channels, `left`, `right`, or the number of a channel, from 1. Where the mix
            cancels, as that of an inverted channel does, the louder channel is used; channels that are silent, or
            40 dB below the loudest throughout, do not make it quieter. `Downmix` has the thresholds. A log record says
            so; `load_sound` returns it.

    Returns:
        Waveform [samples], float32, 16 kHz, nominally in [-1, 1], finite, C-contiguous, from 400 samples
        (25 ms) to 6 hours long. Never a view of the array passed in.

    Raises:
        AudioError: The clip cannot be read or decoded; is empty, shorter than 25 ms or longer than 6 hours;
            has samples that are not finite or beyond 100 times full scale, more than 64 channels or a rate
            outside 1 to 768 kHz; has a shape or type not listed above; or does not have this channel. The message is
            one line: the clip, the problem, the remedy.
    """
    sound = load_sound(clip, sampling_rate, channel)
    log_notes(clip, sound.notes)
    return sound.waveform


def load_sound(clip: Clip, sampling_rate: int | None = None, channel: int | str = "mix") -> Sound:
    """Loads a clip as `load_audio` does, with what must be known about its sound."""
    number = channel_number(channel)
    return load_sounds(clip, sampling_rate, lambda _: [number])[number]


def load_sounds(
    clip: Clip,
    sampling_rate: int | None,
    wanted: Callable[[int], Iterable[int | None]],
    check: Callable[[float], None] | None = None,
) -> dict[int | None, Sound]:
    """Loads several channels of a clip, which is decoded once.

    Args:
        clip: A clip, as in `load_audio`.
        sampling_rate: Sampling rate of an array in Hz, as in `load_audio`.
        wanted: Function of the number of channels in the clip that returns the numbers of the channels to load, from
            1; None stands for the mix.
        check: Called with the seconds decoded so far, of all these channels together; may raise.

    Returns:
        The sound of each of these channels, all of the same length.

    Raises:
        AudioError: As `load_audio`.
    """
    parts: dict[int | None, tuple[Mixer, bytearray]] = {}  # they grow in place: a list of blocks would need twice that
    with AudioStream(clip, sampling_rate) as stream, naming_clip(clip), closing(stream.raw()) as blocks:
        for block in blocks:
            if not parts:
                parts = {
                    number: (Mixer(cast(int, stream.rate), number), bytearray()) for number in wanted(block.shape[1])
                }
            for mixer, data in parts.values():
                data.extend(mixer.add(block).data)
            if check:
                check(sum(len(data) for _, data in parts.values()) / 4 / SAMPLING_RATE)
        for mixer, data in parts.values():
            data.extend(mixer.finish().data)
            mixer.check_length()
        return {number: stream.sound(mixer, data) for number, (mixer, data) in parts.items()}


def log_notes(clip: Clip, notes: Iterable[Note]) -> None:
    """Logs notes on a clip as warnings, where a result cannot hold them."""
    for note in notes:
        _logger.warning("%s: %s", printable(clip_name(clip)), note.text)


class AudioStream:
    """A clip in blocks, decoded on demand: memory does not grow with the clip.

    The joined blocks equal the result of `load_audio`, bit for bit, but for its gain where channels are silent. A
    stream can be iterated any number of times, one after the other; each iteration decodes the clip again. Close it
    with a `with` statement.

    Attributes:
        rate: Sampling rate of the clip, in Hz; None for a file until its first block is decoded.
        channel: Number of the channel of the next iteration; None for the mix.
        mixer: The mixer of the last iteration; None before the first block.

    Args:
        clip: A clip, as in `load_audio`. A file object is read to its end at once, into a temporary file if it is
            longer than 64 MiB.
        sampling_rate: Sampling rate of an array in Hz, as in `load_audio`.
        channel: Channel, as in `load_audio`.
        resample: Whether to resample blocks to 16 kHz, for a model. Otherwise they stay at `rate`, for playback.

    Raises:
        AudioError: The clip is refused, as by `load_audio`; most problems appear during iteration, after the blocks
            before them.
    """

    def __init__(
        self,
        clip: Clip,
        sampling_rate: int | None = None,
        *,
        channel: int | str = "mix",
        resample: bool = True,
    ) -> None:
        self._clip, self._resample = clip, resample
        self.channel = channel_number(channel)
        self.rate = sampling_rate if isinstance(clip, np.ndarray) else None
        self.mixer: Mixer | None = None
        self._source: Source | None = None
        self._file: BinaryIO | None = None
        with naming_clip(clip):
            if not isinstance(clip, np.ndarray):
                self._file = open_clip(clip)

    def __iter__(self) -> Iterator[Waveform]:
        """Yields blocks [samples] of at least one sample, float32."""
        self.mixer = None
        with naming_clip(self._clip), closing(self.raw()) as blocks:
            for block in blocks:
                if self.mixer is None:
                    self.mixer = Mixer(cast(int, self.rate), self.channel, resample=self._resample)
                if len(part := self.mixer.add(block)):
                    yield part
            assert self.mixer is not None
            if len(part := self.mixer.finish()):
                yield part
            self.mixer.check_length()

    def raw(self) -> Generator[Waveform]:
        """Yields the blocks [frames, channels] as they are in the clip. The next one reuses a block's memory.

        Raises:
            AudioError: As during iteration, without the clip's name.
        """
        if self._file is None:
            if self.rate is None:
                raise AudioError("an array has no sampling rate of its own: pass one, as in sampling_rate=16000")
            self.rate = check_rate(self.rate)
            found = _array_blocks(cast(NDArray[Any], self._clip), self.rate)
        else:
            self._source = Source(self._file)
            found = decode(self._source)
        frames = 0
        # Closed here: the garbage collector could close it inside another call of a thread pool, which would hang.
        with closing(found) as blocks:
            for block in blocks:
                if self._source:
                    self.rate = self._source.rate
                frames += len(block)
                check_size(cast(int, self.rate), block.shape[1], frames)
                yield block
        if not frames:
            raise AudioError("no samples: record or export it again")

    @property
    def notes(self) -> tuple[Note, ...]:
        """What must be known about the sound of the clip, once an iteration has ended."""
        return self._notes(self.mixer) if self.mixer else ()

    def sound(self, mixer: Mixer, data: bytearray) -> Sound:
        """Makes a Sound of the samples of a whole clip."""
        waveform = np.frombuffer(data, np.float32)
        if (gain := mixer.downmix.gain) != 1:
            waveform *= np.float32(gain)
        return Sound(waveform, self._notes(mixer), mixer.downmix.channels)

    def _notes(self, mixer: Mixer) -> tuple[Note, ...]:
        return (*(self._source.notes if self._source else ()), *mixer.downmix.notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


def _array_blocks(array: NDArray[Any], sampling_rate: int) -> Generator[Waveform]:
    array = check_dtype(array)
    if array.ndim == 1 or (array.ndim == 2 and array.shape[0] == 1):
        array = array.reshape(-1, 1)
    if array.ndim != 2 or (array.size and array.shape[0] <= array.shape[1]):
        raise AudioError(
            f"shape {array.shape} is not [samples, channels]: transpose a clip's channels with .T, "
            "pass several clips as a list"
        )
    check_size(sampling_rate, array.shape[1], len(array))
    for start in range(0, len(array) if array.size else 0, BLOCK_FRAMES):
        yield to_float(array[start : start + BLOCK_FRAMES])

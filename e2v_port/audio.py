"""Any clip -> mono float32 at 16 kHz, checked."""

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, NamedTuple, Self, TypeAlias, cast

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from e2v_port.errors import AudioError
from e2v_port.files import printable

__all__ = [
    "MAX_AMPLITUDE",
    "MAX_CHANNELS",
    "MIN_SAMPLES",
    "SAMPLING_RATE",
    "AudioStream",
    "Clip",
    "LiveAudio",
    "Moments",
    "Waveform",
    "clip_name",
    "load_audio",
    "mel_filters",
    "normalize",
]

Clip: TypeAlias = str | os.PathLike[str] | BinaryIO | NDArray[Any]
Waveform: TypeAlias = NDArray[np.float32]

SAMPLING_RATE = 16_000  # Hz, of every model here
MIN_SAMPLES = 400  # 25 ms: the receptive field of the convolutions, below which there is no frame

# Each limit lies beyond any recording of speech and bounds the work that a false header can cause.
_RATES = (1_000, 768_000)  # Hz; at 1 Hz, 500 samples would become 8 million
MAX_CHANNELS = 64
_MAX_SECONDS = 6 * 3600  # 1.4 GB as a waveform; a FLAC of 7 MB can hold more
_MAX_BYTES = 1 << 32  # of a pipe or file object: as long as a WAV can be
_MAX_BYTES_HELD = 1 << 26  # of these in memory, beyond which they go to a temporary file
# Full scale is 1. Recordings in floats go beyond it, but not by 40 dB: that is a clip in units of int16,
# or garbage, whose square can overflow in a model's normalisation.
MAX_AMPLITUDE = 100.0
_BLOCK = 1 << 16  # frames decoded at a time, so that memory follows the result, not channels or header

_FULL_SCALE = {"i1": 2.0**7, "i2": 2.0**15, "i4": 2.0**31, "u1": 2.0**7}
_STREAMED = 0xFFFFFFFF  # a WAV's length when its writer could not go back to fill it in
_UNKNOWN_FRAMES = 2**63 - 1  # libsndfile's count for a FLAC of that kind


def load_audio(clip: Clip, sampling_rate: int | None = None) -> Waveform:
    """Decodes, mixes down, resamples and checks a clip.

    A file's bytes decide its format, not its name: WAV, FLAC, OGG, Opus, MP3 and what else libsndfile knows.
    Channels are averaged. A rate other than 16 kHz is resampled by soxr at "HQ", librosa's default: a tone is
    right within 1e-6 up to 3 kHz and 1e-3 (0.01 dB) up to 7.2 kHz, and the slower "VHQ" is no better there.

    A WAV from a pipe, whose header gives no length, is read to its end. A WAV, OGG or MP3 that was cut off
    looks like a shorter one and is read as such (libmpg123 may warn on stderr); a FLAC cut off is an error.

    Args:
        clip: One of

            * a path;
            * a binary file object, seekable or not: read from where it stands to its end, and left open;
            * an array [samples] or [samples, channels], as soundfile gives it, or [1, samples]. Floats have
              full scale 1; int8, int16 and int32 are divided by theirs; uint8 has its zero at 128, as in WAV.
              Wider integers have no agreed full scale and are refused. So is [channels, samples], which
              cannot be told from a batch of clips.
        sampling_rate: Rate of an array in Hz, required there. Ignored for files, whose header has it, so that
            one call can take both.

    Returns:
        Waveform [samples], float32, 16 kHz, nominally in [-1, 1], finite, C-contiguous, from 400 samples
        (25 ms) to 6 hours long. Never a view of the array passed in.

    Raises:
        AudioError: The clip cannot be read or decoded; is empty, shorter than 25 ms or longer than 6 hours;
            has samples that are not finite or beyond 100 times full scale, more than 64 channels or a rate
            outside 1 to 768 kHz; or is of another shape or type than above. The message is one line: which
            clip, what is wrong, what to do.
    """
    data = bytearray()  # grows in place, where a list of blocks and what joins them would be held at once
    with AudioStream(clip, sampling_rate) as blocks:
        for block in blocks:
            data += block.data
    return np.frombuffer(data, np.float32)


class AudioStream:
    """A clip in blocks, decoded as they are asked for: memory does not grow with the clip.

    Its blocks joined are what `load_audio` gives, bit for bit. It can be gone through any number of times, one after
    the other, and decodes each time. To be closed, or used in a `with`.

    Attributes:
        rate: Of the clip as it is, in Hz; None for a file until its first block was asked for.

    Args:
        clip: As for `load_audio`. A file object is read to its end at once, into a temporary file where it is longer
            than 64 MiB.
        sampling_rate: As for `load_audio`.
        resample: Whether blocks come at 16 kHz, for a model. Otherwise they stay at `rate`, to be heard.

    Raises:
        AudioError: As `load_audio`; most of it as the blocks are asked for, behind those that were good.
    """

    def __init__(self, clip: Clip, sampling_rate: int | None = None, *, resample: bool = True) -> None:
        self._clip, self._resample = clip, resample
        self.rate = sampling_rate if isinstance(clip, np.ndarray) else None
        self._file: BinaryIO | None = None
        with _named(clip):
            if not isinstance(clip, np.ndarray):
                self._file = _open(clip)
                if not self._file.seekable():
                    with self._file as pipe:
                        self._file = _drained(pipe)

    def __iter__(self) -> Iterator[Waveform]:
        """Gives blocks [samples] of at least one sample, float32."""
        with _named(self._clip):
            if self._file is None:
                yield from _from_array(cast(NDArray[Any], self._clip), self.rate, self._resample)
            else:
                source = _Source(self._file)
                for block in _from_file(source, self._resample):
                    self.rate = source.rate
                    yield block

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


class LiveAudio:
    """A recording that is still being made, in blocks of any size: joined, what `load_audio` gives of all of it.

    Args:
        sampling_rate: Of what comes in, in Hz.

    Raises:
        AudioError: A rate outside 1 to 768 kHz.
    """

    def __init__(self, sampling_rate: int) -> None:
        _check_size(sampling_rate, 1, 0)
        self._mixer = _Mixer(sampling_rate)

    @property
    def duration(self) -> float:
        """Seconds that have come in."""
        return self._mixer.frames / self._mixer.rate

    def push(self, block: NDArray[Any]) -> Waveform:
        """Goes on with the next block.

        Args:
            block: [samples] or [samples, channels], of the types that `load_audio` takes.

        Returns:
            [samples], float32, 16 kHz. The resampler holds a few milliseconds back.

        Raises:
            AudioError: Samples that `load_audio` would refuse. None of the block is taken.
        """
        _check_kind(block)
        frames = block.reshape(-1, 1) if block.ndim == 1 else block
        if frames.ndim != 2 or not 1 <= frames.shape[1] <= MAX_CHANNELS:
            raise AudioError(f"a block of shape {block.shape} is not [samples] or [samples, channels]: transpose it")
        return self._mixer.add(_floats(frames)) if len(frames) else np.empty(0, np.float32)

    def finish(self) -> Waveform:
        """Returns what was held back; nothing may be pushed behind it."""
        return self._mixer.finish()


@contextmanager
def _named(clip: Clip) -> Iterator[None]:
    """Says which clip an error is about."""
    try:
        yield
        return
    except AudioError as error:
        why, cause = str(error), error.__cause__
    except OSError as error:
        why, cause = f"cannot be read ({error.strerror or error}): pass a readable file", error
    name = clip_name(clip)
    raise AudioError(f"{printable(name) or ascii(name)}: {why}") from cause


class Moments(NamedTuple):
    """What a clip is normalised by.

    Attributes:
        samples: How many there are.
        mean: Of all of them.
        variance: Biased.
    """

    samples: int
    mean: np.float64
    variance: np.float64

    @classmethod
    def of(cls, blocks: Iterable[Waveform]) -> Self:
        """Sums a clip's blocks in float64, by the update of Chan, Golub and LeVeque (1979), which loses no digits."""
        samples, mean, squares = 0, np.float64(0), np.float64(0)  # squares of deviations from the mean
        for block in blocks:
            before, samples = samples, samples + len(block)
            own = block.mean(dtype=np.float64)
            deviation = block - own
            step = own - mean
            squares += (deviation * deviation).sum() + step * step * before * len(block) / samples
            mean += step * len(block) / samples
        return cls(samples, mean, squares / samples)


def normalize(waveform: Waveform, epsilon: float, moments: Moments | None = None) -> Waveform:
    """Brings a clip to zero mean and unit variance: (x - mean) / sqrt(variance + epsilon).

    Args:
        waveform: [samples], float32.
        epsilon: Keeps silence finite.
        moments: Of the whole clip, where `waveform` is a part of it.

    Returns:
        [samples], float32. Mean and biased variance are summed in float64, so that they are the same on every
        runtime and for every length.
    """
    _, mean, variance = moments or Moments.of([waveform])
    normalized: Waveform = ((waveform - mean) * (1 / np.sqrt(variance + epsilon))).astype(np.float32)
    return normalized


def mel_filters(bands: int, window: int, lowest: float, highest: float) -> NDArray[np.float32]:
    """Returns what brings the power spectrum of a window to mel bands: triangles, evenly spaced on the mel scale.

    The scale is Slaney's (Auditory Toolbox, Interval Research Technical Report 1998-010): linear below 1 kHz, three mel
    for 200 Hz; logarithmic above, 27 mel for a factor of 6.4. The area of each triangle is 1 over Hz. Both are the
    defaults of `librosa.filters.mel`.

    Args:
        bands: How many.
        window: Samples.
        lowest: Lower edge of the first, in Hz.
        highest: Upper edge of the last, in Hz.

    Returns:
        [bands, window // 2 + 1].
    """
    knee, below, above = 1000.0, 3 / 200, 27 / math.log(6.4)
    first, last = (hz * below if hz < knee else knee * below + above * math.log(hz / knee) for hz in (lowest, highest))
    mel = np.linspace(first, last, bands + 2)
    edges = np.where(mel < knee * below, mel / below, knee * np.exp((mel - knee * below) / above))  # Hz
    bins = np.arange(window // 2 + 1) * SAMPLING_RATE / window
    left, top, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((bins - left) / (top - left), (right - bins) / (right - top))
    filters: NDArray[np.float32] = (np.maximum(triangles, 0) * 2 / (right - left)).astype(np.float32)
    return filters


def clip_name(clip: Clip) -> str:
    """What errors and results call a clip.

    Args:
        clip: As in `load_audio`.

    Returns:
        A path as given; a file object's `name` where that is a string; else its type: "array", "BytesIO".
    """
    if isinstance(clip, str | os.PathLike):
        return os.fsdecode(clip)
    if isinstance(clip, np.ndarray):
        return "array"
    name = getattr(clip, "name", None)
    return name if isinstance(name, str) else type(clip).__name__


def _from_array(array: NDArray[Any], sampling_rate: int | None, resample: bool) -> Iterator[Waveform]:
    if sampling_rate is None:
        raise AudioError("an array does not tell its rate: pass it, as in sampling_rate=16000")
    _check_kind(array)
    if array.ndim == 1 or (array.ndim == 2 and array.shape[0] == 1):
        array = array.reshape(-1, 1)
    if array.ndim != 2 or (array.size and array.shape[0] <= array.shape[1]):
        raise AudioError(
            f"shape {array.shape} is not [samples, channels]: transpose a clip's channels with .T, "
            "pass several clips as a list"
        )
    _check_size(sampling_rate, array.shape[1], len(array))
    blocks = (_floats(array[start : start + _BLOCK]) for start in range(0, len(array), _BLOCK))
    yield from _checked(blocks if array.size else iter(()), sampling_rate, resample)


def _check_kind(array: NDArray[Any]) -> None:
    if array.dtype.kind != "f" and array.dtype.str[1:] not in _FULL_SCALE:
        raise AudioError(f"{array.dtype} samples: pass floats in [-1, 1], int8, int16, int32 or uint8")


def _floats(block: NDArray[Any]) -> Waveform:
    """Brings samples to full scale 1."""
    if block.dtype == np.float32:
        return block
    kind = block.dtype.str[1:]
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, which is refused
        floats = block.astype(np.float32)
    if kind == "u1":
        floats -= 128
    return floats / np.float32(_FULL_SCALE.get(kind, 1))


def _from_file(source: "_Source", resample: bool) -> Iterator[Waveform]:
    try:
        yield from _decoded(source, resample)
    finally:
        if source.error:
            raise source.error


class _Source:
    """The file as libsndfile calls back for it: an exception there would be printed and the clip cut short.

    It has no name, so that nobody guesses a format by one.
    """

    def __init__(self, file: BinaryIO) -> None:
        file.seek(0)
        self.file = file
        self.tell = file.tell
        self.missing = _missing_length(file)
        self.rate: int | None = None
        self.error: OSError | None = None

    def readinto(self, buffer: Any) -> int:
        try:
            start = self.file.tell() if self.missing else 0
            size: int = self.file.readinto(buffer)  # type: ignore[attr-defined] # all that `_open` gives have it
        except OSError as error:
            self.error = error
            return 0
        for at in self.missing:
            if start <= at < start + size:
                buffer[at - start] = b"\xff"  # all four of them: a length that libsndfile takes for unknown
        return size

    def seek(self, offset: int, whence: int) -> None:
        with suppress(OSError, ValueError):  # a false header points before the start; tell() shows it failed
            self.file.seek(offset, whence)


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc] # it has no types
    def seekable(self) -> bool:
        """Says no of an MP3: each read would end in a seek, where its next frame loses what it builds on."""
        return self.format != "MP3" and bool(super().seekable())  # in others that seek finds damage


def _decoded(source: _Source, resample: bool) -> Iterator[Waveform]:
    try:
        sound = _SoundFile(source)
    except soundfile.LibsndfileError as error:
        raise AudioError(
            "damaged, or not audio that can be read here (WAV, FLAC, OGG, Opus, MP3): "
            "convert anything else, such as M4A, AAC, WebM or video, with `ffmpeg -i in.m4a out.wav`"
        ) from error
    with sound:
        rate, frames = sound.samplerate, sound.frames
        source.rate = rate
        _check_size(rate, sound.channels, 0 if frames == _UNKNOWN_FRAMES else frames)

        def blocks() -> Iterator[Waveform]:
            buffer = np.empty((_BLOCK, sound.channels), np.float32)
            try:
                while len(block := sound.read(out=buffer)):
                    yield block
            except soundfile.LibsndfileError as error:
                why = f"damaged or cut off ({error.error_string.strip(' .')}): get a complete copy"
                if frames == _UNKNOWN_FRAMES:
                    why = "no length in the header, as in a FLAC from a pipe: write a file, or pipe WAV"
                raise AudioError(why) from error

        yield from _checked(blocks(), rate, resample)


class _Mixer:
    """Mixes down, checks and, where it is to, resamples blocks [frames, channels] of at least one frame each."""

    def __init__(self, rate: int, resample: bool = True) -> None:
        self.rate, self.frames = rate, 0
        as_it_is = rate == SAMPLING_RATE or not resample
        self.stream = None if as_it_is else soxr.ResampleStream(rate, SAMPLING_RATE, 1, "float32", "HQ")

    def add(self, block: Waveform) -> Waveform:
        peak = max(abs(float(block.min())), abs(float(block.max())))  # NaN where any sample is
        if not peak <= MAX_AMPLITUDE:
            where = f"between {self.frames / self.rate:.1f} and {(self.frames + len(block)) / self.rate:.1f} s"
            if np.isfinite(peak):
                raise AudioError(f"samples up to {peak:.3g} {where}: full scale is 1, so divide by theirs")
            raise AudioError(f"samples that are not finite (NaN or infinity) {where}: cut or repair it")
        self.frames += len(block)
        # A copy, as what it lies in is used again; or the mean: block.mean(axis=1) takes three times as long as this,
        # more than decoding.
        mono = block[:, 0].copy() if block.shape[1] == 1 else np.einsum("fc->f", block) / block.shape[1]
        return self.stream.resample_chunk(mono) if self.stream else mono

    def finish(self) -> Waveform:
        rest = np.empty(0, np.float32)
        return self.stream.resample_chunk(rest, last=True) if self.stream else rest


def _checked(blocks: Iterator[Waveform], rate: int, resample: bool) -> Iterator[Waveform]:
    mixer = _Mixer(rate, resample)
    samples = 0
    for block in blocks:
        part = mixer.add(block)
        _check_size(rate, block.shape[1], mixer.frames)
        if len(part):
            samples += len(part)
            yield part
    if not mixer.frames:
        raise AudioError("no samples: record or export it again")
    if len(part := mixer.finish()):
        samples += len(part)
        yield part
    if not resample:
        samples = round(samples * SAMPLING_RATE / rate)  # as many as soxr would give
    if samples < MIN_SAMPLES:
        raise AudioError(
            f"too short at {samples / 16:.1f} ms ({samples} samples at 16 kHz): "
            f"pass at least {MIN_SAMPLES / 16:.0f} ms ({MIN_SAMPLES} samples)"
        )


def _check_size(rate: int, channels: int, frames: int) -> None:
    if not _RATES[0] <= rate <= _RATES[1]:
        raise AudioError(f"a rate of {rate} Hz is outside {_RATES[0]} to {_RATES[1]} Hz: give the true one")
    if channels > MAX_CHANNELS:
        raise AudioError(f"{channels} channels are more than {MAX_CHANNELS}: mix them down or pick some")
    if frames > _MAX_SECONDS * rate:
        raise AudioError(f"longer than {_MAX_SECONDS // 3600} hours: cut it into parts")


def _open(clip: Clip) -> BinaryIO:
    """A file of our own, so that closing it leaves the caller's open."""
    try:
        if isinstance(clip, str | os.PathLike):
            return open(clip, "rb")
        if hasattr(clip, "read"):
            return _drained(cast(BinaryIO, clip))
    except io.UnsupportedOperation as error:
        raise OSError("not open for reading") from error
    except ValueError as error:  # a path with a null character, a closed file
        raise OSError(str(error)) from error
    raise AudioError(
        "not a clip: pass a path, a numpy array (np.asarray(list), tensor.numpy()) "
        "or a binary file object (io.BytesIO around bytes)"
    )


def _drained(file: BinaryIO) -> BinaryIO:
    with ExitStack() as failed:
        copy = failed.enter_context(SpooledTemporaryFile(_MAX_BYTES_HELD))
        while chunk := file.read(1 << 20):
            if not isinstance(chunk, bytes):
                raise AudioError("opened as text: open it with mode 'rb'")
            copy.write(chunk)
            if copy.tell() > _MAX_BYTES:
                raise AudioError(f"more than {_MAX_BYTES >> 30} GiB: cut it into parts")
        if not copy.tell():
            raise AudioError("no bytes to read: rewind it with .seek(0), or check what writes it")
        failed.pop_all()
        return cast(BinaryIO, copy)


def _missing_length(file: BinaryIO) -> range:
    """Tells where a WAV from a pipe lacks its length: libsndfile takes a data chunk of 0 bytes at its word."""
    head = file.read(1 << 16)
    file.seek(0)
    if not head:
        raise AudioError("an empty file (0 bytes): record or export it again")
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return range(0)
    at = 12
    while at + 8 <= len(head) and head[at : at + 4] != b"data":
        size = int.from_bytes(head[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    riff = int.from_bytes(head[4:8], "little")
    # A closed file whose data is truly empty counts the chunks behind it, and those are not to be heard.
    if head[at : at + 8] != b"data\0\0\0\0" or at < riff < _STREAMED:
        return range(0)
    return range(at + 4, at + 8)

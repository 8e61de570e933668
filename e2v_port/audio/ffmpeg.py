"""Files -> blocks of samples, decoded by FFmpeg."""

from collections.abc import Generator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.audio.clip import Waveform
from e2v_port.audio.headers import Part
from e2v_port.audio.mix import check_size, to_float
from e2v_port.audio.notes import Note
from e2v_port.audio.opening import BLOCK_FRAMES, Call
from e2v_port.errors import AudioError

if TYPE_CHECKING:
    from av import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

__all__ = ["TOLERANCE", "ffmpeg_blocks", "installed"]

# What phones, browsers, recorders and telephony write. No decoder of pictures is among them: none is ever opened.
_CODECS = frozenset(
    (
        *("aac", "aac_latm", "ac3", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "alac", "amrnb", "amrwb"),
        *("eac3", "flac", "g722", "g726", "gsm", "gsm_ms", "ilbc", "libopencore_amrnb", "libopencore_amrwb"),
        *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float", "nellymoser", "opus", "qcelp", "speex"),
        *("truespeech", "vorbis", "wavpack", "wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice"),
        *("pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_mulaw", "pcm_s16be"),
        *("pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_s8", "pcm_u8"),
    )
)
_MAX_TRACKS = 64  # each takes up to 8 MB in FFmpeg; from here on, it skips what belongs to others
_OPTIONS = {"codec_whitelist": ",".join(sorted(_CODECS)), "max_streams": str(_MAX_TRACKS)}
_LISTED_PLANES = 8  # PyAV looks for the end of a list that has none from here on, and reads memory beyond it
TOLERANCE = 0.25  # seconds: more than the frame and the delay of any of these codecs


def installed() -> bool:
    """Returns whether FFmpeg, which comes with PyAV, can be imported."""
    try:
        return find_spec("av") is not None
    except ImportError:  # the host program keeps it from being imported
        return False


def ffmpeg_blocks(part: Part, call: Call, notes: list[Note]) -> Generator[tuple[int, Waveform]]:
    """Yields the sampling rate in Hz and the next block [frames, channels] of the first track, or the default one.

    Args:
        part: What to read.
        call: Calls FFmpeg.
        notes: Takes what a user must know, such as how much of a damaged file was not decoded.

    Raises:
        AudioError: The file is damaged or has no audio that is read here, or its rate or channels are beyond the
            limits; or FFmpeg is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise AudioError(
            'decoding it needs FFmpeg, which is not installed: pip install "e2v-port[media]", or convert it to WAV'
        ) from error
    try:
        with call(_opened, part=part) as container:
            yield from _Track(container, part, notes).blocks(call)
    except av.FFmpegError as error:
        missing = f", and {part.missing}" if part.missing else ""
        raise AudioError(
            f"damaged or cut off ({error.strerror}{missing}): get a complete copy, or convert it with "
            "`ffmpeg -i in.m4a out.wav`"
        ) from error


def _opened(part: Part) -> "InputContainer":
    import av

    part.file.seek(0)
    return av.open(
        part.file,
        "r",
        format=part.demuxer,
        container_options=_OPTIONS,
        io_open=_no_other_file,
        metadata_errors="replace",
    )


def _no_other_file(*_: Any) -> None:
    raise AudioError("the file refers to other files: pass those")


class _Track:
    """The audio track of an open file that is decoded."""

    def __init__(self, container: "InputContainer", part: Part, notes: list[Note]) -> None:
        self._container, self._notes = container, notes
        if len(container.streams) >= _MAX_TRACKS:
            raise AudioError(f"{_MAX_TRACKS} tracks or more: pass a file with the audio track alone")
        tracks = container.streams.audio
        if not tracks:
            raise AudioError("no audio track: pass a file that has one")
        self._stream = next((track for track in tracks if track.disposition.default), tracks[0])
        name = self._stream.codec_context.name if self._stream.codec_context else "unknown"
        if name not in _CODECS:
            raise AudioError(f"its audio is in a format not read here ({name}): convert it with `ffmpeg -i in out.wav`")
        self._stream.codec_context.thread_count = 1
        if len(tracks) > 1:
            number = tracks.index(self._stream) + 1
            text = f"{len(tracks)} audio tracks, of which number {number} was decoded"
            notes.append(Note("other_tracks", text))
        self._seconds = part.seconds or (_announced(self._stream) if part.demuxer == "mov" else None)
        self._missing = part.missing
        self._decoded = 0.0  # seconds
        self._lost: list[tuple[float, float]] = []  # where packets could not be decoded, and their lengths, in seconds
        self._gaps: list[tuple[float, float]] = []  # where packets are missing, in the same form
        self._frames = self._decode()
        self._ahead: tuple[int, Waveform] | None = None

    def blocks(self, call: Call) -> Generator[tuple[int, Waveform]]:
        """Yields the sampling rate and the next block; then makes the notes."""
        while found := call(self._block):
            rate, block = found
            self._decoded += len(block) / rate
            yield found
        self._note()

    def _block(self) -> tuple[int, Waveform] | None:
        """Joins the next frames of one rate and number of channels."""
        joined: list[Waveform] = []
        kind, size = None, 0
        while size < BLOCK_FRAMES and (found := self._ahead or next(self._frames, None)):
            self._ahead = None
            rate, samples = found
            if joined and kind != (rate, samples.shape[1]):
                self._ahead = found
                break
            kind = rate, samples.shape[1]
            joined.append(samples)
            size += len(samples)
        return (kind[0], np.concatenate(joined)) if kind else None

    def _decode(self) -> Generator[tuple[int, Waveform]]:
        import av

        stream = self._stream
        packets = self._container.demux(stream)
        at = 0.0
        due: float | None = None  # timestamp of the next frame, if none is missing
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._missing = self._missing or f"it cannot be read further ({error.strerror})"
                packet = None
            try:
                frames = stream.decode(packet)
            except av.FFmpegError:
                frames = []
                if packet is not None and any(bytes(packet)):  # zeros after the end hold no sound
                    length = float((packet.duration or 0) * (packet.time_base or 0))
                    self._lost.append((at, length))
                    due = None if due is None else due + length
            for frame in frames:
                if frame.samples:
                    check_size(frame.sample_rate, frame.layout.nb_channels, 0)
                    if frame.time is not None:
                        if due is not None and frame.time - due > TOLERANCE:
                            self._gaps.append((at, frame.time - due))
                        due = frame.time + frame.samples / frame.sample_rate
                    at += frame.samples / frame.sample_rate
                    yield frame.sample_rate, _samples(frame)
            if packet is None or not packet.size:
                return

    def _note(self) -> None:
        at = self._decoded
        if self._lost and not at:
            raise AudioError("damaged: none of its audio can be decoded: get a complete copy")
        reasons = [self._missing] if self._missing else []
        for places, what in (self._lost, "cannot be decoded"), (self._gaps, "are missing"):
            if places:
                start, length = places[0][0], sum(length for _, length in places)
                reasons.append(f"{length:.2f} s {what} from {start:.1f} s on")
        if not (self._lost or self._gaps) and self._seconds is not None and self._seconds - at > TOLERANCE:
            reasons.append(f"its header announces {self._seconds:.1f} s")
        if reasons and at:
            self._notes.append(Note("cut_off", f"incomplete: {', and '.join(reasons)}; {at:.1f} s were decoded"))


def _announced(stream: "AudioStream") -> float | None:
    return float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None


def _samples(frame: "AudioFrame") -> Waveform:
    """Returns the samples of a frame, [frames, channels], at full scale 1."""
    import av

    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels >= _LISTED_PLANES:
        (frame,) = av.AudioResampler(frame.format.packed).resample(frame)
    samples = frame.to_ndarray()
    return to_float(samples.T if frame.format.is_planar else samples.reshape(-1, channels))

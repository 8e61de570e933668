"""Sends a voice through the codecs of telephones and calls, encoded and decoded by FFmpeg and libsndfile.

mulaw, alaw  ITU-T G.711, 64 kbit/s, 8 kHz          landlines, and most lines of call centers
gsm          GSM 06.10 full rate, 13 kbit/s, 8 kHz  mobile phones, older ones
amr          AMR-NB, 4.75 to 12.2 kbit/s, 8 kHz     mobile phones
opus         RFC 6716, 6 to 24 kbit/s, 16 kHz       calls and voice messages over the internet
"""

import io
from typing import Any, Literal

import numpy as np
import soundfile
import soxr
from av.audio.codeccontext import AudioCodecContext
from av.audio.format import AudioFormat
from av.audio.frame import AudioFrame
from av.audio.layout import AudioLayout
from av.codec.codec import UnknownCodecError
from av.codec.context import CodecContext
from numpy.random import Generator
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import TrainingError

__all__ = ["CODECS", "NARROWBAND", "passed"]

NARROWBAND = ("mulaw", "alaw", "gsm", "amr")
CODECS = (*NARROWBAND, "opus")

_NARROW = 8000  # Hz
_AMR_RATES = (4750, 5150, 5900, 6700, 7400, 7950, 10_200, 12_200)  # bit/s, 3GPP TS 26.071
_OPUS_RATES = (6000, 8000, 12_000, 16_000, 24_000)  # bit/s
_AMR_DELAY = 40  # samples at 8 kHz that the encoder looks ahead
_FULL_SCALE = 32767
_SUBTYPES = {"mulaw": "ULAW", "alaw": "ALAW", "gsm": "GSM610"}  # of libsndfile


def passed(waveform: Waveform, codec: str, rng: Generator) -> Waveform:
    """Returns what arrives at the other end of a line, without its delay.

    Args:
        waveform: Waveform [samples] at 16 kHz; the codec clips at full scale, 1. A line also limits the band, see
            `augmentation.transmit`.
        codec: One of `CODECS`.
        rng: Draws the rate of `amr` and `opus`.

    Returns:
        The waveform [samples] at 16 kHz, of the same length.

    Raises:
        TrainingError: The installed FFmpeg lacks the codec.
    """
    if codec == "opus":
        options = {"application": "voip"}
        coded, header = _coded(waveform, SAMPLING_RATE, "libopus", int(rng.choice(_OPUS_RATES)), options)
        # The first bytes of a header are "OpusHead", version, channels, and the delay in samples at 48 kHz (RFC 7845).
        skipped = int.from_bytes(header[10:12], "little")
        return _fit(_resampled(coded[skipped:], 48_000, SAMPLING_RATE), len(waveform))
    narrow = _resampled(waveform, SAMPLING_RATE, _NARROW)
    if codec == "amr":
        coded, _ = _coded(narrow, _NARROW, "libopencore_amrnb", int(rng.choice(_AMR_RATES)), {})
        coded = coded[_AMR_DELAY:]
    else:
        file = io.BytesIO()
        soundfile.write(file, np.clip(narrow, -1, 1), _NARROW, format="WAV", subtype=_SUBTYPES[codec])
        file.seek(0)
        coded = soundfile.read(file, dtype="float32")[0]
    return _fit(_resampled(coded, _NARROW, SAMPLING_RATE), len(waveform))


def _coded(waveform: Waveform, rate: int, codec: str, bits: int, options: dict[str, str]) -> tuple[Waveform, bytes]:
    """Encodes at some bits per second, and decodes; returns the samples, with their delay, and the encoder's header."""
    encode, decode = _context(codec, "w", rate), _context(codec, "r", rate)
    encode.format, encode.bit_rate, encode.options = AudioFormat("s16"), bits, options
    encode.open()
    size = encode.frame_size
    samples = np.rint(np.clip(waveform, -1, 1) * _FULL_SCALE).astype(np.int16)
    samples = np.pad(samples, (0, -len(samples) % size + size))  # one more frame: the delay cuts off less
    decoded: list[NDArray[Any]] = []  # of int16
    for start in [*range(0, len(samples), size), None]:  # None makes the encoder give what it holds back
        frame = None if start is None else _frame(samples[start : start + size], rate, start)
        decoded += [part.to_ndarray() for packet in encode.encode(frame) for part in decode.decode(packet)]
    whole = np.concatenate(decoded, axis=1)[0]
    return np.divide(whole, _FULL_SCALE, dtype=np.float32), encode.extradata or b""


def _context(name: str, mode: Literal["r", "w"], rate: int) -> AudioCodecContext:
    try:
        context = CodecContext.create(name, mode)
    except UnknownCodecError:
        raise TrainingError(
            f"this FFmpeg lacks the codec {name}, which augmentation needs: install the `av` wheel of PyPI"
        ) from None
    assert isinstance(context, AudioCodecContext)
    context.sample_rate, context.layout = rate, AudioLayout("mono")
    return context


def _frame(samples: NDArray[np.int16], rate: int, start: int) -> AudioFrame:
    frame = AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate, frame.pts = rate, start
    return frame


def _resampled(waveform: Waveform, rate: int, target: int) -> Waveform:
    resampled: Waveform = soxr.resample(waveform, rate, target)
    return resampled


def _fit(waveform: Waveform, samples: int) -> Waveform:
    """Cuts or pads the end, by a few samples of rounding."""
    return np.pad(waveform[:samples], (0, max(0, samples - len(waveform))))

"""Samples without a header: G.711 as libsndfile reads it, and bytes that are not what they are declared to be."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.audio.containers import HEAD_BYTES, Container, container
from e2v_port.audio.pcm import ENCODINGS, Samples
from e2v_port.errors import AudioError

CLIPS = sorted((Path(__file__).parents[1] / "benchmarks" / "speech").glob("*.flac"))
SUBTYPES = {"s16le": "PCM_16", "f32le": "FLOAT", "mulaw": "ULAW", "alaw": "ALAW", "u8": "PCM_U8"}
SUBTYPES |= {"s16be": "PCM_16", "f32be": "FLOAT", "s24le": "PCM_24", "s32le": "PCM_32"}


def raw(waveform: np.ndarray, kind: str, rate: int = SAMPLING_RATE) -> bytes:
    """Returns samples without a header, written by libsndfile."""
    file = io.BytesIO()
    order = "BIG" if kind.endswith("be") else "LITTLE"
    options = {} if kind in {"mulaw", "alaw", "u8"} else {"endian": order}
    soundfile.write(file, waveform, rate, format="RAW", subtype=SUBTYPES[kind], **options)
    return file.getvalue()


def encoded(waveform: np.ndarray, form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format=form, subtype=subtype)
    return file.getvalue()


def samples(encoding: str, channels: int = 1, rate: int = SAMPLING_RATE) -> Samples:
    return Samples(encoding, channels, rate, "the remedy")


def read(data: bytes, encoding: str, size: int = 3200, channels: int = 1, rate: int = SAMPLING_RATE) -> np.ndarray:
    found = samples(encoding, channels, rate)
    blocks = [found.push(data[at : at + size]) for at in range(0, len(data), size)]
    return np.concatenate([*blocks, found.finish()])


@pytest.fixture(scope="module")
def voices() -> list[np.ndarray]:
    return [load_audio(clip) for clip in CLIPS]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_the_256_values_of_g711(encoding: str) -> None:
    codes = bytes(range(256))
    options = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": SUBTYPES[encoding]}
    expected = soundfile.read(io.BytesIO(codes), dtype="int16", **options)[0]
    np.testing.assert_array_equal(ENCODINGS[encoding].read(codes), expected)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("size", "channels"), [(1, 1), (7, 1), (3200, 1), (5, 2), (1 << 20, 2)])
def test_samples_in_pieces_of_any_size(voices: list[np.ndarray], encoding: str, size: int, channels: int) -> None:
    waveform = voices[0][: 2000 * channels].reshape(-1, channels)
    data = raw(waveform, encoding)
    found = read(data, encoding, size, channels)
    assert found.shape == waveform.shape
    np.testing.assert_array_equal(found.ravel(), ENCODINGS[encoding].read(data))
    assert read(data[:-1], encoding, size, channels).shape == (len(waveform) - 1, channels)
    assert len(read(data[: 2 * ENCODINGS[encoding].size * channels], encoding, size, channels)) == 2


CONTAINERS = {
    "WAV": "a WAV", "RF64": "a WAV", "WAVEX": "a WAV", "W64": "a W64", "AIFF": "an AIFF", "FLAC": "a FLAC",
    "OGG": "an Ogg", "AU": "an AU", "CAF": "a CAF", "MP3": "an MP3",
}  # fmt: skip
MARKS = {
    "an MP4": b"\0\0\0\x1cftypM4A \0\0\2\0", "a WebM": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\xf7\x81",
    "an AMR": b"#!AMR\n\x3c\x91\x17\x16\xbe\x66", "a WAV": b"BW64\xff\xff\xff\xffWAVEds64",
    "an MP3": b"ID3\4\0\0\0\0\0\x23TSSE", "a WMA": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
}  # fmt: skip


def aac(frames: int) -> bytes:
    """Returns ADTS frames of 300 bytes, as of a 16 kHz stream of one channel."""
    return frames * (bytes.fromhex("fff16040259ffc") + np.random.default_rng(0).bytes(293))


@pytest.mark.parametrize("size", [1, 4, 11, 3200])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoded_audio_is_no_samples(voices: list[np.ndarray], encoding: str, size: int) -> None:
    """However it arrives, not one sample of a file is given out."""
    files = {name: encoded(voices[0], form) for form, name in CONTAINERS.items()}
    for name, data in [*files.items(), *MARKS.items()]:
        found = samples(encoding)
        given: list[int] = []
        with pytest.raises(AudioError, match=rf"^{name}\b.*: the remedy$"):
            given += (len(found.push(data[at : at + size])) for at in range(0, min(len(data), 1 << 15), size))
        assert not any(given) or name == "an MP3", name  # a stream of frames has no mark
        assert not len(found.finish())


@pytest.mark.parametrize("size", [1, 3200])
def test_frames_without_a_mark(voices: list[np.ndarray], size: int) -> None:
    stream = encoded(voices[0], "MP3")
    start = next(i for i in range(len(stream)) if container(stream[i:]))
    for name, data in ("an MP3 stream", stream[start:]), ("an AAC stream", aac(40)):
        with pytest.raises(AudioError, match=rf"^{re.escape(name)}.*: the remedy$"):
            read(data, "s16le", size)


def test_one_frame_is_not_enough() -> None:
    """The 11 bits that begin a frame are in many samples: of -1, for one."""
    assert container(aac(3)) == Container("an AAC stream (ADTS)", "aac")
    assert container(aac(2)) is None
    for voice in [load_audio(clip) for clip in CLIPS]:
        data = raw(voice, "s16le")
        assert not [i for i in range(0, len(data), 2) if container(data[i : i + 4096])]


def test_the_middle_of_encoded_audio(voices: list[np.ndarray]) -> None:
    waveform = np.concatenate(voices)
    for form, subtype in ("OGG", "OPUS"), ("OGG", "VORBIS"), ("FLAC", None), ("MP3", None):
        data = encoded(waveform, form, subtype)
        with pytest.raises(AudioError, match=r"^noise at full scale .*: the remedy$"):
            read(data[len(data) // 3 :], "s16le")


@pytest.mark.parametrize("declared", ENCODINGS)
@pytest.mark.parametrize("rate", [8000, SAMPLING_RATE, 48_000])
def test_right_samples_are_never_refused(speech_folder: Path, declared: str, rate: int) -> None:
    for path in sorted(speech_folder.iterdir()):
        if path.suffix not in {".flac", ".wav"}:
            continue
        waveform = load_audio(path)[: 15 * SAMPLING_RATE]
        if rate != SAMPLING_RATE:
            waveform = soxr.resample(waveform, SAMPLING_RATE, rate)
        for gain in 1, 0.03:
            read(raw(waveform * np.float32(gain), declared), declared, 1 << 16, rate=rate)


@pytest.mark.parametrize("declared", ENCODINGS)
@pytest.mark.parametrize("real", SUBTYPES)
def test_samples_of_another_encoding(voices: list[np.ndarray], declared: str, real: str) -> None:
    """The error names the encoding that they have. The two laws of G.711 are too alike."""
    if real == declared or {real, declared} <= {"mulaw", "alaw", "u8"}:
        pytest.skip("not an error")
    waveform = np.concatenate(voices) * np.float32(0.7)  # to more than 16 bits
    for channels in 1, 2:
        data = raw(waveform[: len(waveform) // 2 * 2].reshape(-1, channels) if channels == 2 else waveform, real)
        with pytest.raises(AudioError, match=rf"^noise when read as {declared}, but not as {real} \(.*: the remedy$"):
            read(data, declared, channels=channels)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("rate", [8000, SAMPLING_RATE])
def test_hiss_and_tones_between_silence_are_samples(encoding: str, rate: int) -> None:
    """Silence is full scale when read as G.711, and every third sample of a high tone is a low one."""
    t = np.arange(3 * rate) / rate
    noise = np.random.default_rng(0).normal(0, 1, len(t))
    hiss = 0.1 * np.diff(noise, 2, prepend=[0, 0])
    tones = [0.5 * np.sin(2 * np.pi * share * rate * t) for share in (0.28, 0.3125, 0.34, 0.375, 0.4375)]
    for sound in (hiss, *tones):
        for gate in np.ones_like(t), np.sin(2 * np.pi * 3 * t) > 0.3:
            waveform = (sound * gate).clip(-1, 1).astype(np.float32)
            assert len(read(raw(waveform, encoding, rate), encoding, rate=rate)) == len(waveform)


def test_text_is_no_samples(voices: list[np.ndarray]) -> None:
    text = base64.b64encode(raw(voices[0][:16_000], "s16le"))
    for encoding in "s16le", "f32le":
        with pytest.raises(AudioError, match=r"^text, perhaps base64, not samples .*: send the bytes themselves$"):
            read(text, encoding, 7)


def test_silence_and_noise_are_samples() -> None:
    """Nothing can be said about them."""
    quiet = np.random.default_rng(0).normal(0, 1e-4, 5 * SAMPLING_RATE)
    for waveform in np.zeros(5 * SAMPLING_RATE), quiet, quiet * 3000:
        for encoding in ENCODINGS:
            assert len(read(raw(waveform, encoding), encoding)) == len(waveform)


def test_bytes_of_a_mark() -> None:
    assert max(len(mark.rstrip(b".")) for mark in (b"RIFF....WAVE", b"FORM....AIF")) == HEAD_BYTES
    assert container(b"") is None

"""Loading clips, checked against files that libsndfile wrote."""

import errno
import io
import os
import signal
import struct
import subprocess
import sys
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from e2v_port.audio import mix, opening
from e2v_port.audio.clip import MIN_SAMPLES, SAMPLING_RATE, clip_name
from e2v_port.audio.features import Moments
from e2v_port.audio.load import AudioStream, load_audio
from e2v_port.errors import AudioError

SPEECH = sorted((Path(__file__).parents[1] / "benchmarks" / "speech").glob("*.flac"))[0]


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, container: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def check(waveform: np.ndarray) -> None:
    """Asserts what every model relies on."""
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert waveform.flags.c_contiguous
    assert waveform.flags.writeable
    assert len(waveform) >= MIN_SAMPLES
    assert np.isfinite(waveform).all()


def refusal(clip: object, sampling_rate: int | None = None) -> str:
    """Returns the message of the error that loading the clip must raise."""
    with pytest.raises(AudioError) as caught:
        load_audio(clip, sampling_rate)
    message = str(caught.value)
    name = clip_name(clip)
    assert message.startswith(f"{name}: " if name and name.isprintable() else f"{name!r}: ")
    assert message.isprintable(), "one line"
    return message


@pytest.mark.parametrize(
    ("container", "subtype", "rate", "tolerance"),
    [
        ("WAV", "PCM_U8", 16_000, 2**-7),
        ("WAV", "PCM_16", 16_000, 2**-14),
        ("WAV", "PCM_24", 44_100, 1e-6),
        ("WAV", "FLOAT", 8_000, 1e-6),
        ("WAV", "ULAW", 8_000, 0.02),
        ("FLAC", "PCM_16", 48_000, 2**-14),
        ("OGG", "VORBIS", 44_100, 0.02),
        ("OGG", "OPUS", 48_000, 0.02),
        ("MP3", "MPEG_LAYER_III", 44_100, 0.02),
        ("AIFF", "PCM_16", 22_050, 2**-14),
        ("CAF", "PCM_16", 96_000, 2**-14),
    ],
)
def test_a_tone_in_any_format_rate_and_channel_count(
    tmp_path: Path, container: str, subtype: str, rate: int, tolerance: float
) -> None:
    path = tmp_path / "clip.raw"  # the bytes decide, not the name
    for channels in 1, 2, 5 if container != "MP3" else 2:
        path.write_bytes(encoded(np.tile(tone(rate)[:, None], channels), rate, container, subtype))
        waveform = load_audio(path)
        check(waveform)
        assert len(waveform) == SAMPLING_RATE
        inner = slice(800, -800)  # a codec's and the resampler's edges are not a tone
        assert np.abs(waveform - tone(SAMPLING_RATE))[inner].max() <= tolerance


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 192_000])
def test_resampling_agrees_with_scipy_and_keeps_the_length(rate: int) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * rate)
    spectrum = np.fft.rfft(noise)
    spectrum[np.fft.rfftfreq(len(noise), 1 / rate) > min(rate, SAMPLING_RATE) * 0.35] = 0
    speechlike = np.fft.irfft(spectrum).astype(np.float32)  # below both filters' edges, where they must agree
    waveform = load_audio(speechlike, rate)
    step = np.gcd(SAMPLING_RATE, rate)
    other = resample_poly(speechlike, SAMPLING_RATE // step, rate // step, window=("kaiser", 12.0))
    assert len(waveform) == 2 * SAMPLING_RATE
    difference = (waveform - other)[1000:-1000]
    assert np.sqrt(np.mean(difference**2) / np.mean(other**2)) < 0.003  # -50 dB: scipy's filter is the shorter


@pytest.mark.parametrize("kind", [("WAV",), ("FLAC",), ("OGG",), ("MP3",)])
def test_a_clip_for_playback_keeps_its_rate(kind: tuple[str, ...]) -> None:
    """The blocks equal one read of the whole file; those of an MP3 would not if a block began with a seek."""
    speech, rate = soundfile.read(SPEECH, dtype="float32")
    data = encoded(resample_poly(np.tile(speech, 6), 441, rate // 100), 44_100, *kind)
    with AudioStream(io.BytesIO(data), resample=False) as stream:
        waveform = np.concatenate(list(stream))
    assert stream.rate == 44_100
    whole, _ = soundfile.read(io.BytesIO(data), dtype="float32")
    np.testing.assert_allclose(waveform, whole, atol=1e-5)


def test_the_shortest_clip_is_the_same_at_any_rate() -> None:
    for frames in range(1_095, 1_110):  # at 44.1 kHz 25 ms are 1102.5
        refused = []
        for resample in (True, False):
            try:
                list(AudioStream(tone(44_100)[:frames], 44_100, resample=resample))
            except AudioError as error:
                refused.append(str(error))
        assert (len(refused), len(set(refused))) == ((2, 1) if frames < 1_102 else (0, 0))


def test_a_tone_above_8_khz_does_not_alias() -> None:
    assert np.abs(load_audio(tone(48_000, hz=9_500), 48_000)[800:-800]).max() < 1e-4


def test_a_long_clip_is_the_same_in_blocks() -> None:
    """Longer than any block: nothing may be lost, doubled or shifted at a seam."""
    waveform = load_audio(tone(44_100, seconds=10), 44_100)
    assert np.abs(waveform - tone(SAMPLING_RATE, seconds=10))[800:-800].max() < 2e-6
    stereo = np.random.default_rng(0).uniform(-1, 1, (300_000, 2)).astype(np.float32)
    waveform = load_audio(io.BytesIO(encoded(stereo, SAMPLING_RATE, subtype="FLOAT")))
    np.testing.assert_allclose(waveform, stereo.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_stream_can_be_iterated_again_with_the_same_bits(tmp_path: Path, rate: int) -> None:
    clip = np.random.default_rng(0).uniform(-1, 1, (300_000, 2)).astype(np.float32)
    data = encoded(clip, rate, subtype="FLOAT")
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    expected = load_audio(path)
    for form, sampling_rate in (path, None), (io.BytesIO(data), None), (Unseekable(data), None), (clip, rate):
        with AudioStream(form, sampling_rate) as stream:
            next(iter(stream))  # and no further
            for _ in range(2):
                blocks = list(stream)
                assert len(blocks) > 1
                assert min(map(len, blocks)) > 0
                np.testing.assert_array_equal(np.concatenate(blocks), expected)


def test_a_large_file_object_goes_to_a_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(tone(44_100, 3), 44_100)
    expected = load_audio(io.BytesIO(data))
    monkeypatch.setattr(opening, "_MAX_BYTES_HELD", 1000)
    np.testing.assert_array_equal(load_audio(io.BytesIO(data)), expected)
    np.testing.assert_array_equal(load_audio(Unseekable(data)), expected)


def test_the_moments_of_blocks_are_those_of_the_clip() -> None:
    draw = np.random.default_rng(0)
    clip = (50 + np.linspace(0, 1, 100_001) * draw.normal(0, 0.01, 100_001)).astype(np.float32)
    for cuts in [], [1], [3, 500, 99_999], list(range(1000, 100_001, 1000)):
        found = Moments.of(np.split(clip, cuts))
        assert found.samples == len(clip)
        assert found.mean == pytest.approx(clip.astype(np.float64).mean(), rel=1e-14)
        assert found.variance == pytest.approx(clip.astype(np.float64).var(), rel=1e-12)


def test_channels_are_averaged() -> None:
    left, right = tone(SAMPLING_RATE), tone(SAMPLING_RATE, hz=1_000)
    waveform = load_audio(np.stack([left, right], axis=1), SAMPLING_RATE)
    np.testing.assert_allclose(waveform, (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(load_audio(left[None], SAMPLING_RATE), left)
    np.testing.assert_array_equal(load_audio(left[:, None], SAMPLING_RATE), left)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_an_array_as_soundfile_reads_it_equals_its_file(subtype: str) -> None:
    data = encoded(np.stack([tone(44_100), tone(44_100, hz=300)], axis=1), 44_100, subtype=subtype)
    waveform = load_audio(io.BytesIO(data))
    for dtype in [
        "float64",
        "float32",
        *({"PCM_16": ["int16", "int32"], "PCM_32": ["int32"]}.get(subtype, [])),
    ]:
        samples, rate = soundfile.read(io.BytesIO(data), dtype=dtype)
        np.testing.assert_allclose(load_audio(samples, rate), waveform, atol=1e-7)


def test_integers_have_the_full_scale_of_their_type() -> None:
    for dtype, zero, half in [
        ("uint8", 128, 192),
        ("int8", 0, 64),
        ("int16", 0, 1 << 14),
        ("int32", 0, 1 << 30),
    ]:
        clip = np.array([zero, half] * 400, dtype)
        np.testing.assert_array_equal(load_audio(clip, SAMPLING_RATE), np.tile([0, 0.5], 400).astype(np.float32))
        swapped = clip.astype(clip.dtype.newbyteorder())
        np.testing.assert_array_equal(load_audio(swapped, SAMPLING_RATE), load_audio(clip, SAMPLING_RATE))


def test_the_callers_array_is_neither_changed_nor_shared() -> None:
    clip = tone(SAMPLING_RATE)
    clip.flags.writeable = False
    waveform = load_audio(clip, SAMPLING_RATE)
    assert not np.shares_memory(waveform, clip)
    np.testing.assert_array_equal(load_audio(clip[::-2], SAMPLING_RATE), clip[::-2])


def test_file_objects_are_read_from_their_position_and_left_open(tmp_path: Path) -> None:
    data = encoded(tone(8_000), 8_000)
    expected = load_audio(io.BytesIO(data))
    path = tmp_path / "clip.wav"
    path.write_bytes(b"a header" + data)
    with open(path, "rb") as file, open(path, "rb", buffering=0) as unbuffered:
        for opened in file, unbuffered:
            opened.seek(8)
            np.testing.assert_array_equal(load_audio(opened), expected)
            assert not opened.closed
    stream = io.BytesIO(data)
    load_audio(stream)
    assert not stream.closed
    assert "seek(0)" in refusal(stream), "read to its end"


def test_a_pipe_and_a_named_pipe(tmp_path: Path) -> None:
    data = encoded(tone(44_100, 3), 44_100, "FLAC")
    expected = load_audio(io.BytesIO(data))

    def write(target: int | Path) -> threading.Thread:
        def work() -> None:
            with open(target, "wb") as file:
                file.write(data)

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    out, into = os.pipe()
    thread = write(into)
    with open(out, "rb") as pipe:
        np.testing.assert_array_equal(load_audio(pipe), expected)
    thread.join()
    named = tmp_path / "pipe"
    os.mkfifo(named)
    thread = write(named)
    np.testing.assert_array_equal(load_audio(named), expected)
    thread.join()


class Unseekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation("seek")

    tell = seek


@pytest.mark.parametrize(
    "sizes", [(0, 0), (36, 0), (0xFFFFFFFF, 0), (0xFFFFFFFF, 0xFFFFFFFF), (0x7FFFFFFF, 0x7FFFFFDB)]
)
@pytest.mark.parametrize("extra", [b"", b"LIST\x05\0\0\0INFO!\0"])
def test_a_wav_whose_writer_could_not_go_back(tmp_path: Path, sizes: tuple[int, int], extra: bytes) -> None:
    data = encoded(tone(22_050), 22_050)
    expected = load_audio(io.BytesIO(data))
    riff, size = sizes
    riff += len(extra) if riff == 36 else 0
    piped = b"RIFF" + struct.pack("<I", riff) + data[8:36] + extra + b"data" + struct.pack("<I", size) + data[44:]
    path = tmp_path / "piped.wav"
    path.write_bytes(piped)
    for clip in path, io.BytesIO(piped), Unseekable(piped):
        np.testing.assert_array_equal(load_audio(clip), expected)
    assert path.read_bytes() == piped


def test_chunks_after_an_empty_recording_are_not_audio() -> None:
    chunk = b"LIST" + struct.pack("<I", 4000) + b"\x11" * 4000
    empty = io.BytesIO()
    with wave.open(empty, "wb") as file:
        file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
        file.writeframes(b"")
    data = empty.getvalue() + chunk
    assert "no samples" in refusal(io.BytesIO(data[:4] + struct.pack("<I", len(data) - 8) + data[8:]))


def test_real_speech_equals_soundfile(speech_folder: Path) -> None:
    for path in sorted(speech_folder.glob("*.*a[cv]"))[:40]:  # .flac and .wav
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        waveform = load_audio(path)
        check(waveform)
        assert len(waveform) == pytest.approx(len(samples) * SAMPLING_RATE / rate, abs=1)
        if rate == SAMPLING_RATE:
            np.testing.assert_allclose(waveform, samples.mean(axis=1), atol=1e-7)


def test_names(tmp_path: Path) -> None:
    assert clip_name("a/b.wav") == "a/b.wav"
    assert clip_name(Path("a/b.wav")) == os.path.join("a", "b.wav")
    assert clip_name(np.zeros(1)) == "array"
    assert clip_name(io.BytesIO()) == "BytesIO"
    with open(tmp_path / "x", "wb") as file:
        assert clip_name(file) == str(tmp_path / "x")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.wav")
    assert "directory" in refusal(tmp_path)
    assert "null" in refusal("a\0b.wav")
    assert "No such file" in refusal("two\nlines.wav")
    assert "No such file" in refusal("")
    (tmp_path / "empty.wav").touch()
    assert "empty file" in refusal(str(tmp_path / "empty.wav"))


def test_a_file_without_permission(tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(encoded(tone(16_000), 16_000))
    secret.chmod(0)
    if os.access(secret, os.R_OK):
        pytest.skip("root may read every file")
    assert "Permission denied" in refusal(secret)


def test_file_objects_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    with open(path, "wb") as file:
        assert "not open for reading" in refusal(file)
    with open(path, "rb") as file:
        pass
    assert "closed" in refusal(file)
    assert "'rb'" in refusal(io.StringIO("text"))
    assert "no bytes" in refusal(io.BytesIO())


@pytest.mark.parametrize(
    "data",
    [
        b"Dear diary, this is text.\n" * 50,
        b"\x89PNG\r\n\x1a\n" + bytes(500),
        b"\0\0\0\x20ftypM4A \0\0\0\0" + bytes(500),
        b"\x1a\x45\xdf\xa3\x9fB\x86\x81\x01" + bytes(500),
        b"\xff\xf1\x50\x80\x2e\x7f\xfc" + bytes(500),
        bytes(2000),
        b"RIFF\x24\0\0\0WAVE",
        encoded(tone(16_000), 16_000)[:30],
        encoded(tone(16_000), 16_000, "OGG")[:200],
        encoded(tone(16_000), 16_000, "FLAC")[:20],
    ],
    ids=["text", "png", "m4a", "webm", "aac", "zeros", "riff", "wav header", "ogg header", "flac header"],
)
@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".au", ".raw", ""])
def test_what_is_not_audio_is_refused_whatever_its_name(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(data)
    assert "`ffmpeg -i in.m4a out.wav`" in refusal(path)


def without_length(flac: bytes) -> bytes:
    """Removes the sample count from STREAMINFO, as an encoder that writes to a pipe does."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def test_damaged_flac() -> None:
    data = encoded(np.random.default_rng(0).uniform(-1, 1, 48_000), 16_000, "FLAC")
    assert "damaged or cut off" in refusal(io.BytesIO(data[: len(data) // 2]))
    with_length = load_audio(io.BytesIO(data))
    np.testing.assert_array_equal(load_audio(io.BytesIO(without_length(data))), with_length)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_25_ms_is_the_shortest_clip(rate: int) -> None:
    shortest = rate * MIN_SAMPLES // SAMPLING_RATE + (rate % 40 > 0)
    check(load_audio(tone(rate)[:shortest], rate))
    message = refusal(tone(rate)[: shortest - 2], rate)
    assert "too short at 24." in message
    assert "at least 25 ms (400 samples)" in message
    for none in np.zeros(0), np.zeros((0, 2)), np.zeros((2, 0)):
        assert "no samples" in refusal(none, rate)
    for container in "WAV", "AIFF":
        assert "no samples" in refusal(io.BytesIO(encoded(np.zeros(0), rate, container)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, -1e30, 32_767.0])
def test_samples_that_would_poison_a_model(value: float) -> None:
    clip = np.stack([tone(44_100, 2), -tone(44_100, 2)], axis=1).astype(np.float64)
    clip[80_000] = value, -value  # which cancel in the mean
    expected = "not finite" if not abs(value) < 1e38 else "full scale"
    assert expected in refusal(clip, 44_100)
    message = refusal(io.BytesIO(encoded(clip, 44_100, subtype="DOUBLE")))
    assert expected in message
    assert "between 1.5 and 2.0 s" in message


def test_a_file_that_fails_or_is_closed_halfway_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    class Closed(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100_000:
                self.close()
            return super().read(size)

    data = encoded(tone(44_100, 5), 44_100)
    monkeypatch.setattr(opening, "open", lambda *_: Failing(data), raising=False)
    assert os.strerror(errno.EIO) in refusal("clip.wav")
    monkeypatch.setattr(opening, "open", lambda *_: Closed(data), raising=False)
    assert "closed file" in refusal("clip.wav")


def test_headers_that_claim_too_much() -> None:
    assert "2000000 Hz" in refusal(io.BytesIO(encoded(tone(16_000), 2_000_000)))
    assert "1 Hz" in refusal(io.BytesIO(encoded(tone(16_000), 1)))
    assert "100 channels" in refusal(io.BytesIO(encoded(np.zeros((1000, 100)), 16_000)))
    flac = bytearray(encoded(tone(16_000), 16_000, "FLAC"))
    flac[21] |= 0x0F  # 64 thousand million samples
    assert "6 hours" in refusal(io.BytesIO(bytes(flac)))


def test_more_than_6_hours_is_refused_before_it_is_decoded() -> None:
    endless = np.broadcast_to(np.float32(0), (6 * 3600 * SAMPLING_RATE + 1,))  # takes 4 bytes
    assert "6 hours" in refusal(endless, SAMPLING_RATE)


def test_a_length_missing_from_the_header_is_limited_while_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    data = without_length(encoded(tone(48_000, 10), 48_000, "FLAC"))
    monkeypatch.setattr(mix, "_MAX_SECONDS", 5)
    assert "cut it into parts" in refusal(io.BytesIO(data))
    monkeypatch.setattr(opening, "_MAX_BYTES", len(data) - 1)
    assert "GiB" in refusal(io.BytesIO(data))


@pytest.mark.parametrize(
    ("clip", "sampling_rate", "remedy"),
    [
        (np.zeros(16_000), None, "sampling_rate=16000"),
        (np.zeros(16_000), 0, "0 Hz"),
        (np.zeros(16_000), -16_000, "-16000 Hz"),
        (np.zeros(16_000, np.int64), 16_000, "int16"),
        (np.zeros(16_000, np.uint16), 16_000, "int16"),
        (np.zeros(16_000, bool), 16_000, "floats"),
        (np.zeros(16_000, complex), 16_000, "floats"),
        (np.zeros(16_000, object), 16_000, "floats"),
        (np.zeros((2, 16_000)), 16_000, ".T"),
        (np.zeros((8, 16_000)), 16_000, "as a list"),
        (np.zeros((1, 1, 16_000)), 16_000, "[samples, channels]"),
        (np.zeros(()), 16_000, "[samples, channels]"),
        (np.zeros((16_000, 65)), 16_000, "65 channels"),
        (b"RIFF", None, "io.BytesIO"),
        ([0.0] * 16_000, 16_000, "np.asarray"),
        (None, None, "pass a path"),
        (7, None, "pass a path"),
    ],
)
def test_clips_that_are_not_clips(clip: object, sampling_rate: int | None, remedy: str) -> None:
    assert remedy in refusal(clip, sampling_rate)


def test_the_rate_of_a_file_comes_from_its_header() -> None:
    data = encoded(tone(8_000), 8_000)
    np.testing.assert_array_equal(load_audio(io.BytesIO(data), 44_100), load_audio(io.BytesIO(data)))


KINDS = [("WAV",), ("WAV", "FLOAT"), ("FLAC",), ("OGG",), ("OGG", "OPUS"), ("MP3",), ("AIFF",), ("AU",)]
SMALL = [encoded(tone(16_000, 0.1), 16_000, *kind) for kind in [("WAV",), ("FLAC",), ("OGG",), ("AIFF",), ("AU",)]]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SMALL), st.data())
def test_damaged_bytes_give_a_waveform_or_an_audio_error(data: bytes, draw: st.DataObject) -> None:
    mutated = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 8))):
        # Mostly in the header, which states length and format.
        at = draw.draw(st.one_of(st.integers(0, 63), st.integers(0, len(data) - 1)))
        mutated[at] = draw.draw(st.one_of(st.sampled_from([0, 1, 127, 128, 255]), st.integers(0, 255)))
    cut = draw.draw(st.one_of(st.just(len(data)), st.integers(1, len(data))))
    clip = io.BytesIO(bytes(mutated[:cut]))
    try:
        check(load_audio(clip))
    except AudioError:
        clip.seek(0)
        refusal(clip)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i2", ">i2", "i4", "u1"]),
    st.integers(1, 3000),
    st.integers(1, 8),
    st.sampled_from([8_000, 16_000, 22_050, 48_000]),
)
def test_an_array_of_any_kind_is_its_float_clip(dtype: str, samples: int, channels: int, rate: int) -> None:
    rng = np.random.default_rng(samples)
    if np.dtype(dtype).kind == "f":
        clip = rng.uniform(-1, 1, (samples, channels)).astype(dtype)
        floats = clip.astype(np.float64)
    else:
        info = np.iinfo(dtype)
        clip = rng.integers(info.min, info.max, (samples, channels), endpoint=True).astype(dtype)
        middle = (float(info.max) + 1 + float(info.min)) / 2
        floats = (clip - middle) / ((float(info.max) + 1 - float(info.min)) / 2)
    if samples * SAMPLING_RATE <= (MIN_SAMPLES - 1) * rate:
        refusal(clip, rate)
    elif samples * SAMPLING_RATE >= MIN_SAMPLES * rate:
        waveform = load_audio(clip, rate)
        check(waveform)
        assert len(waveform) == pytest.approx(samples * SAMPLING_RATE / rate, abs=0.5)
        np.testing.assert_allclose(waveform, load_audio(floats.mean(axis=1), rate), atol=1e-6)


@pytest.mark.parametrize("kind", ["FLAC", "MP3"])
def test_an_interrupt_while_a_decoder_reads_is_not_lost(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python prints and ignores exceptions in callbacks, so the main thread must not run them."""
    data = encoded(tone(16_000), 16_000, kind)  # libsndfile, FFmpeg
    read = opening.Pieces.read
    signals = iter([signal.SIGINT])  # one: another might end the test itself

    def interrupted(self: opening.Pieces, size: int = -1) -> bytes:
        for number in signals:
            signal.raise_signal(number)
        return read(self, size)

    monkeypatch.setattr(opening.Pieces, "read", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            load_audio(io.BytesIO(data))
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_full_disk_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full:
        def __init__(self, _: int) -> None:
            pass

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(opening, "SpooledTemporaryFile", Full)
    monkeypatch.setattr(opening, "gettempdir", lambda: str(tmp_path))
    why = refusal(io.BytesIO(encoded(tone(16_000), 16_000)))
    assert f"no space left for a temporary copy in {tmp_path}" in why
    assert "TMPDIR" in why


def test_a_file_is_not_closed_while_libsndfile_reads_it(tmp_path: Path) -> None:
    """The signals come from a timer, at any point of the reading; a file closed too early ends the process."""
    clip = tmp_path / "long.flac"
    soundfile.write(clip, np.random.default_rng(0).uniform(-0.1, 0.1, (20 * 44_100, 2)), 44_100)
    program = """if True:
        import random, signal, sys
        from e2v_port.audio import load_audio

        signal.signal(signal.SIGALRM, signal.default_int_handler)
        stopped = 0
        for _ in range(60):
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.002, 0.1))
            try:
                load_audio(sys.argv[1])
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                stopped += 1
        print(stopped)"""
    done = subprocess.run([sys.executable, "-c", program, clip], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert int(done.stdout) > 0

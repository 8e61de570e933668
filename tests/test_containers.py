"""Files of every kind that phones, browsers, recorders and pipes write are read to their real end, or it is noted."""

import io
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import soxr

from e2v_port.audio import SAMPLING_RATE, headers, load_audio
from e2v_port.audio.decode import decode
from e2v_port.audio.notes import Note
from e2v_port.audio.opening import Source
from e2v_port.errors import AudioError

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"


def speech(name: str = "calm", rate: int = SAMPLING_RATE, channels: int = 1) -> np.ndarray:
    samples, own = soundfile.read(SPEECH / f"{name}.flac", dtype="float32")
    return np.tile(soxr.resample(samples, own, rate)[:, None] * np.float32(0.7), channels)


def encode(
    samples: np.ndarray, rate: int, muxer: str, encoder: str, tracks: int = 1, picture: bool = False, **options: str
) -> bytes:
    """Encodes samples [frames, channels] with PyAV."""
    file = Path(tempfile.mkdtemp()) / "file" if "movflags" in options else io.BytesIO()  # it is read again
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    with av.open(
        file if isinstance(file, io.BytesIO) else str(file),
        "w",
        format=muxer,
        container_options={"strict": "experimental", **options},
    ) as container:
        if picture:
            video = container.add_stream("libx264" if muxer == "mp4" else "libvpx", rate=10)
            video.width = video.height = 64
            video.pix_fmt = "yuv420p"
        strict = {"strict": "experimental"}
        streams = [container.add_stream(encoder, rate=rate, layout=layout, options=strict) for _ in range(tracks)]
        for stream in streams:
            if encoder in {"wmav2", "libopencore_amrnb"}:
                stream.bit_rate = 96_000 if encoder == "wmav2" else 12_200
            stream.codec_context.open()
        if picture:
            for number in range(len(samples) * 10 // rate):
                image = av.VideoFrame.from_ndarray(np.full((64, 64, 3), number, np.uint8), "rgb24")
                image.pts = number
                container.mux(video.encode(image))
            container.mux(video.encode(None))
        for number, stream in enumerate(streams):
            size = stream.codec_context.frame_size or 1024
            resampler = av.AudioResampler(stream.format, layout, rate, frame_size=size)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T) * (-1) ** number, "fltp", layout)
            frame.sample_rate, frame.pts = rate, 0
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return file.getvalue() if isinstance(file, io.BytesIO) else file.read_bytes()


def stored(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def opened(data: bytes) -> tuple[np.ndarray, int, list[Note]]:
    """Returns the samples [frames, channels] of a file, its rate and its notes."""
    source = Source(io.BytesIO(data))
    samples = np.concatenate([block.copy() for block in decode(source)])
    assert source.rate is not None
    return samples, source.rate, source.notes


def compare(data: bytes, wanted: np.ndarray, late: float = 0.0, likeness: float = 0.95, longer: float = 0.13) -> None:
    """Checks that a file holds a waveform at 16 kHz, `late` seconds late at most, and nothing is noted."""
    found = load_audio(io.BytesIO(data))
    assert -0.01 - late <= (len(found) - len(wanted)) / SAMPLING_RATE <= longer + late
    both = len(found) + len(wanted)
    lag = int(np.fft.irfft(np.fft.rfft(found, both) * np.conj(np.fft.rfft(wanted, both)), both).argmax())
    lag -= both if lag > both // 2 else 0
    assert abs(lag) <= late * SAMPLING_RATE + 2
    found, wanted = found[max(lag, 0) :], wanted[max(-lag, 0) :]
    shared = min(len(found), len(wanted))
    assert np.corrcoef(found[:shared], wanted[:shared])[0, 1] > likeness
    assert not opened(data)[2]


@pytest.mark.parametrize(
    ("muxer", "encoder", "rate", "late"),
    [
        ("mp4", "aac", 44_100, 0.0),
        ("ipod", "aac", 48_000, 0.0),  # M4A
        ("ipod", "alac", 16_000, 0.0),
        ("mov", "pcm_s16le", 48_000, 0.0),
        ("mov", "aac", 22_050, 0.0),
        ("3gp", "libopencore_amrnb", 8_000, 0.01),
        ("amr", "libopencore_amrnb", 8_000, 0.01),
        ("adts", "aac", 16_000, 0.064),  # has no field for the encoder's delay: 1024 samples
        ("webm", "libopus", 48_000, 0.0),
        ("webm", "vorbis", 44_100, 0.003),
        ("matroska", "aac", 48_000, 0.022),
        ("matroska", "flac", 16_000, 0.0),
        ("ogg", "libopus", 48_000, 0.0),
        ("asf", "wmav2", 44_100, 0.1),
        ("flv", "aac", 44_100, 0.024),
        ("avi", "libmp3lame", 44_100, 0.03),
        ("mpegts", "aac", 48_000, 0.022),
        ("wav", "libmp3lame", 16_000, 0.07),
        ("wav", "g722", 16_000, 0.002),
        ("wv", "wavpack", 44_100, 0.0),
        ("mp2", "mp2", 48_000, 0.011),
    ],
)
def test_what_phones_browsers_and_recorders_write(muxer: str, encoder: str, rate: int, late: float) -> None:
    wanted = soxr.resample(speech(rate=rate)[:, 0], rate, SAMPLING_RATE)
    amr = encoder == "libopencore_amrnb"
    for channels in {"vorbis": (2,), "libopencore_amrnb": (1,), "g722": (1,)}.get(encoder, (1, 2)):
        data = encode(speech(rate=rate, channels=channels), rate, muxer, encoder)
        compare(data, wanted, late, 0.8 if amr else 0.95)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_mp3_files_give_the_samples_that_libsndfile_gives(rate: int) -> None:
    data = stored(speech(rate=rate), rate, "MP3")
    expected, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    found, _, notes = opened(data)
    assert not notes
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("quiet", [0, 20])
def test_an_mp3_without_its_length_is_read_to_its_end(quiet: int) -> None:
    """An estimate goes by the first frames: of silence, they are smaller than the others."""
    wanted = np.concatenate([np.zeros((quiet * SAMPLING_RATE, 1), np.float32), np.tile(speech(), (6, 1))])
    data = encode(wanted, SAMPLING_RATE, "mp3", "libmp3lame", write_xing="0")
    compare(data, wanted[:, 0], late=0.07)


def test_an_mp3_that_begins_in_the_middle_of_a_frame() -> None:
    data = encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame", write_xing="0", id3v2_version="0")
    assert len(load_audio(io.BytesIO(data[60:]))) == pytest.approx(len(load_audio(io.BytesIO(data))), abs=3 * 576)


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + b"\xff\xfb\x50\x80" * (size // 4)


TAG = b"TAG" + b"A title".ljust(125, b"\0")
JOINED = [
    ("MP3", None, 16_000, b""),
    ("MP3", None, 44_100, id3(4000)),
    ("MP3", None, 44_100, TAG + id3(400)),
    ("OGG", "VORBIS", 16_000, b""),
    ("OGG", "VORBIS", 44_100, b""),
    ("OGG", "OPUS", 48_000, b""),
]


@pytest.mark.parametrize(("kind", "subtype", "rate", "between"), JOINED)
def test_joined_files_give_all_their_parts(kind: str, subtype: str | None, rate: int, between: bytes) -> None:
    names = ["calm", "angry", "calm"]
    names = names if (SPEECH / "angry.flac").exists() else ["calm"] * 3
    files = [stored(speech(name, rate), rate, kind, subtype) for name in names]
    alone = np.concatenate([opened(file)[0] for file in files])
    found, _, notes = opened(between.join(files))
    assert not notes
    assert len(found) == len(alone)
    assert np.corrcoef(found[:, 0], alone[:, 0])[0, 1] > 0.999


def test_joined_files_of_other_rates_and_channels() -> None:
    for kind in "OGG", "MP3":
        second = stored(speech(rate=44_100, channels=2), 44_100, kind)
        data = stored(speech(), SAMPLING_RATE, kind) + second
        found, rate, notes = opened(data)
        assert not notes
        assert (rate, found.shape[1]) == (SAMPLING_RATE, 1)
        other = soxr.resample(opened(second)[0].mean(axis=1), 44_100, SAMPLING_RATE)
        assert np.corrcoef(found[-len(other) :, 0], other)[0, 1] > 0.999


def _crc(page: bytes) -> int:
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return crc


def later(ogg: bytes, samples: int) -> bytes:
    """Counts the pages of an Ogg file from a later time on, as a stream does that was not heard from its begin."""
    at, result = 0, b""
    while at < len(ogg):
        size = 27 + ogg[at + 26] + sum(ogg[at + 27 : at + 27 + ogg[at + 26]])
        page = bytearray(ogg[at : at + size])
        if position := int.from_bytes(page[6:14], "little"):
            page[6:14] = (position + samples).to_bytes(8, "little")
        page[22:26] = bytes(4)
        page[22:26] = _crc(page).to_bytes(4, "little")
        result += page
        at += size
    return result


@pytest.mark.parametrize(("subtype", "rate"), [("VORBIS", 16_000), ("OPUS", 48_000)])
def test_an_ogg_file_recorded_from_a_stream_of_ten_hours(subtype: str, rate: int) -> None:
    data = stored(speech(rate=rate), rate, "OGG", subtype)
    compare(later(data, 10 * 3600 * rate), load_audio(io.BytesIO(data)), late=0.0066, likeness=0.99)  # Opus' pre-skip


AROUND = [(bytes(5000), b""), (TAG, b""), (b"", bytes(5000)), (b"", TAG), (id3(4000), TAG), (bytes(70_000), bytes(9))]


@pytest.mark.parametrize(("before", "after"), AROUND, ids=range(len(AROUND)))
@pytest.mark.parametrize("kind", ["MP3", "FLAC", "OGG", "WAV", "adts"])
def test_tags_and_zeros_around_a_file(kind: str, before: bytes, after: bytes) -> None:
    data = encode(speech(), SAMPLING_RATE, "adts", "aac") if kind == "adts" else stored(speech(), SAMPLING_RATE, kind)
    found = load_audio(io.BytesIO(before + data + after))
    assert not opened(before + data + after)[2]
    expected = load_audio(io.BytesIO(data))
    assert len(found) == pytest.approx(len(expected), abs=1024)
    shared = min(len(found), len(expected))
    assert np.corrcoef(found[:shared], expected[:shared])[0, 1] > 0.9999


def chunks(*parts: tuple[bytes, bytes], name: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(
        mark + struct.pack("<I", len(part)) + part + b"\0" * (len(part) % 2) for mark, part in parts
    )
    return name + struct.pack("<I", len(body)) + body


def test_headers_of_wav_files_in_other_shapes() -> None:
    wav = stored(speech(), SAMPLING_RATE, "WAV")
    expected = load_audio(io.BytesIO(wav))
    form, data = wav[20:36], wav[44:]
    ds64 = struct.pack("<QQQI", len(wav) + 28, len(data), len(data) // 2, 0)
    unknown = [struct.pack("<QQQI", size, size, size, 0) for size in (0, 2**64 - 1)]
    streamed = b"\xff\xff\xff\xff"
    shapes = {
        "data before fmt": chunks((b"data", data), (b"fmt ", form)),
        "a chunk between": chunks((b"data", data), (b"LIST", b"INFO!"), (b"fmt ", form)),
        **{
            f"{name.decode()} {number}": name + streamed + b"WAVEds64\x1c\0\0\0" + sizes + wav[12:40] + streamed + data
            for name in (b"RF64", b"BW64")
            for number, sizes in enumerate([ds64, *unknown])
        },
    }
    for name, shape in shapes.items():
        samples, rate, notes = opened(shape)
        assert (rate, notes) == (SAMPLING_RATE, []), name
        np.testing.assert_array_equal(samples[:, 0], expected, err_msg=name)


def test_a_flac_file_without_its_length() -> None:
    data = bytearray(stored(speech(), SAMPLING_RATE, "FLAC", "PCM_24"))
    expected = load_audio(io.BytesIO(bytes(data)))
    data[21:26] = bytes([data[21] & 0xF0]) + bytes(4)
    np.testing.assert_array_equal(load_audio(io.BytesIO(bytes(data))), expected)


@pytest.mark.parametrize(("muxer", "encoder"), [("mp4", "aac"), ("webm", "libopus")])
def test_of_a_video_the_sound(muxer: str, encoder: str) -> None:
    data = encode(speech(rate=48_000), 48_000, muxer, encoder, picture=True)
    compare(data, soxr.resample(speech(rate=48_000)[:, 0], 48_000, SAMPLING_RATE), late=0.01)


def test_of_several_tracks_the_first_and_a_note() -> None:
    data = encode(speech(rate=48_000), 48_000, "matroska", "flac", tracks=2)
    samples, _, notes = opened(data)
    assert np.corrcoef(samples[:, 0], speech(rate=48_000)[:, 0])[0, 1] > 0.9999  # the other is its negative
    assert [note.kind for note in notes] == ["other_tracks"]
    assert "2 audio tracks" in notes[0].text


def test_eight_channels() -> None:
    """Of eight planes and more, PyAV does not find the last."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48_000, layout="7.1")
        frame = av.AudioFrame.from_ndarray(speech(rate=48_000, channels=8).reshape(1, -1), "flt", "7.1")
        frame.sample_rate, frame.pts = 48_000, 0
        resampler = av.AudioResampler("fltp", "7.1", 48_000, frame_size=1024)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    samples, _, _ = opened(file.getvalue())
    assert samples.shape[1] == 8
    assert np.corrcoef(samples[: 2 * 48_000, 0], speech(rate=48_000)[: 2 * 48_000, 0])[0, 1] > 0.95


def _half(data: bytes) -> bytes:
    return data[: len(data) // 2]


CUT: list[tuple[str, Callable[[], bytes]]] = [
    ("mp4", lambda: encode(speech(rate=48_000), 48_000, "mp4", "aac", movflags="faststart")),
    ("webm", lambda: encode(speech(rate=48_000), 48_000, "webm", "libopus")),
    ("mp3", lambda: encode(speech(rate=48_000), 48_000, "mp3", "libmp3lame")),
    ("opus", lambda: stored(np.tile(speech(rate=48_000), (4, 1)), 48_000, "OGG", "OPUS")),
    ("vorbis", lambda: stored(np.tile(speech(rate=48_000), (4, 1)), 48_000, "OGG", "VORBIS")),
    ("wav", lambda: stored(speech(), SAMPLING_RATE, "WAV")),
    ("aiff", lambda: stored(speech(), SAMPLING_RATE, "AIFF")),
    ("au", lambda: stored(speech(), SAMPLING_RATE, "AU")),
    ("caf", lambda: stored(speech(), SAMPLING_RATE, "CAF")),
    ("w64", lambda: stored(speech(), SAMPLING_RATE, "W64")),
]


@pytest.mark.parametrize("make", [make for _, make in CUT], ids=[name for name, _ in CUT])
def test_a_file_that_was_cut_off_says_so(make: Callable[[], bytes]) -> None:
    data = make()
    whole, _, notes = opened(data)
    assert not notes
    half, _, notes = opened(_half(data))
    assert 0.2 < len(half) / len(whole) < 0.8
    assert [note.kind for note in notes] == ["cut_off"]
    assert "\n" not in notes[0].text


def test_a_file_whose_index_is_missing_is_refused() -> None:
    data = encode(speech(rate=48_000), 48_000, "mp4", "aac")
    for clip in _half(data), stored(speech(), SAMPLING_RATE, "FLAC")[:9000]:
        with pytest.raises(AudioError, match=r"cut off.*complete copy"):
            load_audio(io.BytesIO(clip))


def test_damage_in_the_middle_is_noted() -> None:
    data = bytearray(stored(np.tile(speech(), (4, 1)), SAMPLING_RATE, "OGG"))
    pages = [at for at in range(len(data)) if data[at : at + 4] == b"OggS"]
    del data[pages[len(pages) // 2] : pages[len(pages) // 2 + 1]]
    assert "pages are missing" in opened(bytes(data))[2][0].text
    aac = bytearray(encode(speech(rate=48_000), 48_000, "mp4", "aac", movflags="faststart"))
    middle = len(aac) // 2
    aac[middle : middle + 2000] = b"\xff" * 2000
    assert "cannot be decoded" in opened(bytes(aac))[2][0].text


@pytest.mark.parametrize("kind", ["OGG", "webm"])
def test_sound_that_a_container_lacks_in_the_middle_is_noted(kind: str) -> None:
    samples = np.tile(speech(rate=48_000), (4, 1))
    whole = encode(samples, 48_000, "webm", "libopus") if kind == "webm" else stored(samples, 48_000, kind, "OPUS")
    assert not opened(whole)[2]
    data, middle = bytearray(whole), len(whole) // 2
    data[middle : middle + 3000] = bytes(3000)
    found, _, [note] = opened(bytes(data))
    assert len(found) < len(samples) - 0.25 * 48_000
    assert note.kind == "cut_off"
    assert re.search(r"damaged|[0-9.]+ s are missing from [0-9.]+ s on", note.text)


def test_the_working_folder_does_not_matter(tmp_path: Path) -> None:
    """libsndfile looks there for parts of a file that has no name."""
    clip = tmp_path / "clip.mp3"
    clip.write_bytes(encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame", id3v2_version="0"))
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / ".AppleDouble").mkdir(parents=True)
    (elsewhere / "._").write_bytes(b"\0\5\x16\7" + bytes(100))
    program = "import sys; from e2v_port.audio import load_audio; print(len(load_audio(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", program, clip], cwd=elsewhere, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(load_audio(clip))


def test_pyav_is_imported_when_it_is_needed() -> None:
    program = (
        "import sys, e2v_port\nassert 'av' not in sys.modules\nfrom e2v_port.audio import load_audio\n"
        "load_audio(sys.argv[1])\nassert 'av' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, SPEECH / "calm.flac"], check=True)


def test_decoders_write_nothing_to_stderr(tmp_path: Path) -> None:
    data = bytearray(encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame"))
    data[len(data) // 2 : len(data) // 2 + 500] = b"\xff\x55" * 250
    (tmp_path / "damaged.mp3").write_bytes(data)
    (tmp_path / "damaged.m4a").write_bytes(_half(encode(speech(rate=48_000), 48_000, "mp4", "aac")))
    program = """if True:
        import logging, sys
        from e2v_port.audio import load_audio
        from e2v_port.errors import AudioError
        logging.disable()  # of the notes
        for clip in sys.argv[1:]:
            try:
                load_audio(clip)
            except AudioError:
                pass"""
    done = subprocess.run([sys.executable, "-c", program, *tmp_path.iterdir()], capture_output=True, check=True)
    assert done.stderr == b""


def test_no_other_file_is_opened() -> None:
    """Playlists and lists of files are no audio, and a film's references to other files are not followed."""
    for text in b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n":
        with pytest.raises(AudioError, match="not audio"):
            load_audio(io.BytesIO(text * 20))


def within_bounds(data: bytes) -> str:
    """Loads a file in a process of its own, and returns what came of it; checks the memory that it took."""
    program = """if True:
        import io, sys
        from e2v_port.audio import load_audio
        from e2v_port.processes import peak_memory
        from e2v_port.errors import AudioError
        try:
            print(len(load_audio(io.BytesIO(sys.stdin.buffer.read()))))
        except AudioError as error:
            print(error)
        assert peak_memory() < 700_000_000"""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, input=data, stdout=subprocess.PIPE, check=True, timeout=300).stdout.decode()


def changed(data: bytes, name: bytes, at: int, value: bytes) -> bytes:
    start = data.find(name) + at
    return data[:start] + value + data[start + len(value) :]


def test_tables_that_claim_too_much() -> None:
    """A few bytes that claim millions of packets take neither memory nor time."""
    many = struct.pack(">I", 0x03FFFFFF)
    plain = encode(speech(), SAMPLING_RATE, "mp4", "aac", movflags="faststart")
    pieces = encode(speech(), SAMPLING_RATE, "mp4", "aac", movflags="frag_keyframe+empty_moov")
    assert "claims 67108863 packets" in within_bounds(changed(plain, b"stsz", 8, b"\0\0\0\1" + many))
    assert "packets" in within_bounds(changed(pieces, b"trun", 8, many))
    wav = encode(speech(), SAMPLING_RATE, "wav", "adpcm_ms")
    assert "383 channels" in within_bounds(changed(wav, b"fmt ", 10, struct.pack("<H", 383)))
    pcm = encode(np.tile(speech(rate=48_000), (80, 1)), 48_000, "mov", "pcm_s16le", movflags="faststart")
    assert int(within_bounds(pcm)) > 200 * SAMPLING_RATE  # 10 million samples, each a packet in its table


def test_very_many_tracks() -> None:
    data = encode(speech()[:4000], SAMPLING_RATE, "matroska", "pcm_s16le", tracks=70)
    assert "64 tracks or more" in within_bounds(data)


@pytest.mark.parametrize("name", ["joined.mp3", "vbr_from_a_pipe.mp3", "vbr_to_a_file.mp3", "bw64.wav"])
def test_files_from_the_field(field: Path, name: str) -> None:
    seconds = {"joined.mp3": 6.0, "vbr_from_a_pipe.mp3": 8.0, "vbr_to_a_file.mp3": 8.0, "bw64.wav": 1.0}[name]
    samples, rate, notes = opened((field / name).read_bytes())
    assert not notes
    assert len(samples) / rate == pytest.approx(seconds, abs=0.06)


def test_the_marks_of_formats_that_libsndfile_alone_reads() -> None:
    for kind in "NIST", "VOC", "IRCAM", "PVF", "HTK", "MAT5", "MAT4", "AVR", "PAF", "SDS", "XI", "WVE", "MPC2K":
        rate, subtype = (8_000, "ALAW") if kind == "WVE" else (16_000, None)
        data = stored(speech(rate=rate), rate, kind, "DPCM_16" if kind == "XI" else subtype)
        expected, own = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        found, found_rate, _ = opened(data)
        assert found_rate == own
        np.testing.assert_array_equal(found, expected, err_msg=kind)
        assert next(headers.parts(Source(io.BytesIO(data)))).sndfile


def variable(**options: str) -> bytes:
    """Encodes an MP3 file whose frames have several bit rates."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", container_options=options) as container:
        stream = container.add_stream("libmp3lame", rate=SAMPLING_RATE, layout="mono")
        stream.codec_context.flags |= av.codec.context.Flags.qscale
        stream.codec_context.global_quality = 2 * 118  # FF_QP2LAMBDA
        samples = np.tile(speech(), (3, 1))
        resampler = av.AudioResampler("fltp", "mono", SAMPLING_RATE, frame_size=576)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), "fltp", "mono")
        frame.sample_rate, frame.pts = SAMPLING_RATE, 0
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["counted", "of one rate", "of many rates", "joined", "with a tag at its end"])
def test_mp3_is_the_same_where_ffmpeg_is_not_installed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = variable() if kind == "of many rates" else encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame")
    if kind == "of one rate":
        data = encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame", write_xing="0")
    elif kind == "joined":
        data *= 2
    elif kind == "with a tag at its end":
        data += b"TAG" + bytes(125)
    expected, *others = opened(data)
    monkeypatch.setitem(sys.modules, "av", None)
    found, *same = opened(data)
    assert same == others
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_needs_ffmpeg_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    rate = 48_000
    files = [encode(speech(rate=rate), rate, "webm", "libopus"), encode(speech(rate=rate), rate, "mp4", "aac")]
    files += [variable(write_xing="0"), encode(speech(), SAMPLING_RATE, "wav", "g722")]
    monkeypatch.setitem(sys.modules, "av", None)
    for data in files:
        with pytest.raises(AudioError, match=r'needs FFmpeg, .*: pip install "e2v-port\[media\]"'):
            opened(data)


def test_half_an_mp3_file_is_noted_where_ffmpeg_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = _half(encode(speech(), SAMPLING_RATE, "mp3", "libmp3lame"))
    monkeypatch.setitem(sys.modules, "av", None)
    samples, _, (note,) = opened(data)
    assert note.kind == "cut_off"
    assert f"its header announces 2.8 s and {len(samples) / SAMPLING_RATE:.1f} s were found" in note.text

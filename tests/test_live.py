"""Streams of the service: their segments equal those of `analyze` for the whole clip."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

import e2v_port
from e2v_port.analysis.judge import Judge
from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.judged import placed as with_judgement
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import AudioError
from e2v_port.live.detector import EmotionDetector
from e2v_port.live.follower import Judging, LiveSettings, Steady
from e2v_port.service.live import Session
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import Segment, SegmentSettings

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> Any:
    return e2v_port.load("bundled-tiny", runtime="cpu")


@pytest.fixture(scope="module")
def judge(model: Any) -> Judging:
    models = Judge(model)

    def judged(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        if segment.quality not in {"normal", "low_confidence"}:
            return placed(segment, waveform, steady)
        result = models.one(waveform)
        if steady:
            result = models.with_prediction(result, steady(result.prediction))
        return with_judgement(segment, result.judgement, result.prediction)

    return judged


def placed(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
    """Judges nothing: for tests in which only the times matter."""
    return JudgedSegment(segment.start, segment.end, segment.quality, segment.speaker, segment.text, None)


def run(session: Session, data: bytes, size: int = 3200) -> Events:
    found = []
    for at in range(0, len(data), size):
        found += session.push(data[at : at + size])
    return found + session.finish()


def finals(events: Events) -> Events:
    return [event["segment"] for event in events if event["type"] == "final"]


def assert_equal(found: Any, expected: Any) -> None:
    """Compares everything, numbers within 2e-5."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert_equal(found[name], value)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=2e-5)
    else:
        assert found == expected


@pytest.mark.parametrize(
    "name", ["ami_EN2002a_30s.flac", "librispeech_3436-172162-0000.flac", "emodb_03a01Nc.flac", "dtmf.wav"]
)
def test_final_segments_are_those_of_analyze(speech_folder: Path, model: Any, judge: Any, name: str) -> None:
    if name == "dtmf.wav":  # no speech in it
        waveform = np.sin(np.arange(3 * SAMPLING_RATE) * 0.3).astype(np.float32)
    else:
        waveform = load_audio(speech_folder / name)
    expected = e2v_port.analyze(waveform, model=model, sampling_rate=SAMPLING_RATE).segments
    found = finals(run(Session(judge, sampling_rate=SAMPLING_RATE, format="f32le", speaker="Ann"), waveform.tobytes()))
    assert len(found) == len(expected)
    for segment, known in zip(found, expected, strict=True):
        assert_equal(segment, {**replace(known, speaker="Ann").to_dict(), "final": True})
    assert any(segment["emotion"] for segment in found) == (name != "dtmf.wav")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_and_any_size_of_blocks(speech_folder: Path, rate: int) -> None:
    """The samples judged are those of a file of that rate; its second channel is silent."""
    spoken = np.tile(load_audio(speech_folder / "jfk.flac")[: 4 * SAMPLING_RATE], 2)
    resampled = soxr.resample(spoken, SAMPLING_RATE, rate, "HQ")
    channels = np.stack([resampled, np.zeros_like(resampled)], axis=1)
    integers = np.round(channels * 32767).astype("<i2")
    heard: list[np.ndarray] = []

    def judge(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        if steady is None:
            heard.append(waveform)
        return placed(segment, waveform, steady)

    session = Session(judge, sampling_rate=rate, format="s16le", channels=2, settings=SegmentSettings(min_duration=1.0))
    events = run(session, integers.tobytes(), size=7919)
    assert session.samples == len(integers)
    assert session.duration == len(integers) / rate
    clip = load_audio(integers, rate)
    expected = detect(clip)
    assert [(s["start"], s["end"], s["quality"]) for s in finals(events)] == [
        (s.start, s.end, s.quality) for s in expected
    ]
    assert expected
    last = clip[expected[-1].samples]
    np.testing.assert_array_equal(heard[-1], last)


def test_floats_and_integers_cut_anywhere(speech_folder: Path) -> None:
    waveform = np.round(load_audio(speech_folder / "jfk.flac")[: 5 * SAMPLING_RATE] * 32768) / 32768
    kinds = {"s16le": (waveform * 32768).astype("<i2").tobytes(), "f32le": waveform.astype("<f4").tobytes()}
    found = set()
    for kind, data in kinds.items():
        for size in 1001, 4099, len(data):
            events = run(Session(placed, sampling_rate=SAMPLING_RATE, format=kind), data + b"\0", size)
            found.add(repr(finals(events)))
    assert len(found) == 1, "and half a sample at the end changes nothing"
    assert "start" in found.pop()


@pytest.mark.parametrize(("encoding", "subtype"), [("mulaw", "ULAW"), ("alaw", "ALAW")])
def test_telephony(speech_folder: Path, judge: Judging, encoding: str, subtype: str) -> None:
    """G.711 at 8 kHz gives what the same samples give as 16-bit integers."""
    narrow = soxr.resample(load_audio(speech_folder / "jfk.flac"), SAMPLING_RATE, 8000)
    file = io.BytesIO()
    soundfile.write(file, narrow, 8000, format="RAW", subtype=subtype)
    about = {"samplerate": 8000, "channels": 1, "format": "RAW", "subtype": subtype}
    integers = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16", **about)[0]
    found = finals(run(Session(judge, sampling_rate=8000, format=encoding), file.getvalue()))
    assert [segment for segment in found if segment["emotion"]]
    assert_equal(found, finals(run(Session(judge, sampling_rate=8000), integers.astype("<i2").tobytes())))


@pytest.mark.parametrize("size", [1, 3200, 1 << 20])
def test_a_file_sent_as_samples(size: int) -> None:
    """It was judged as noise, in which nobody speaks, without a word."""
    data = (Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac").read_bytes()
    session = Session(placed, sampling_rate=SAMPLING_RATE)
    with pytest.raises(AudioError, match=r"^a FLAC file, .*: declare .* or send the file to POST /v1/analyze$"):
        run(session, data, size)
    assert (session.finish(), session.samples) == ([], 0)


def test_partial_messages_are_windows_of_a_follower(speech_folder: Path, judge: Judging) -> None:
    """They equal the windows of an EmotionDetector that follows the same samples with the same model."""
    waveform = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")[: 8 * SAMPLING_RATE]
    every = LiveSettings(load=1e6)  # also where this machine is busy
    events = run(Session(judge, sampling_rate=SAMPLING_RATE, format="f32le", live=every), waveform.tobytes())
    assert all(event["segment"].pop("final") == (event["type"] == "final") for event in events)
    expected = list(EmotionDetector("bundled-tiny", runtime="cpu", live=every).stream([waveform]))
    assert [event["type"] for event in events] == ["final" if each.final else "partial" for each in expected]
    assert [event["type"] for event in events].count("partial") > 8
    for event, each in zip(events, expected, strict=True):
        assert_equal(event["segment"], JudgedSegment.to_dict(replace(each, prosody=None, reasons=())))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "not finite .* between 1.0 and 1.1 s"),
        (-np.inf, "not finite .* between 1.0 and 1.1 s"),
        (-12345.0, r"samples up to 1.23e\+04 between 1.0 and 1.1 s: full scale is 1, so divide by theirs"),
    ],
)
def test_unusable_samples(speech_folder: Path, value: float, message: str) -> None:
    spoken = load_audio(speech_folder / "jfk.flac")[16_000:32_000]
    session = Session(placed, sampling_rate=SAMPLING_RATE, format="f32le")
    session.push(spoken.tobytes())
    block = np.zeros(1600, "<f4")
    block[800] = value
    with pytest.raises(AudioError, match=message):
        session.push(block.tobytes())
    assert session.samples == SAMPLING_RATE
    assert len(finals(session.finish())) == 1, "samples acknowledged before are not lost"


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"sampling_rate": 7_999}, "sampling_rate: declare a whole number from 8000 to 192000, not 7999"),
        ({"sampling_rate": 192_001}, "sampling_rate"),
        ({"sampling_rate": "16000"}, "sampling_rate: .* not '16000'"),
        ({"sampling_rate": True}, "sampling_rate: .* not True"),
        ({"sampling_rate": None}, "sampling_rate"),
        ({"sampling_rate": [1] * 1000}, r"sampling_rate: .{,120}\.\.\.$"),
        ({"channels": 0}, "channels: declare a whole number from 1 to 64, not 0"),
        ({"channels": 1.0}, "channels"),
        ({"format": "mp3"}, "format: declare one of s16le, s16be, f32le, mulaw, alaw, not 'mp3'"),
        ({"format": {}}, "format"),
        ({"speaker": 7}, "speaker: give a name or null, not 7"),
    ],
)
def test_invalid_declarations(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Session(placed, **({"sampling_rate": SAMPLING_RATE} | declared))


def test_too_short_or_empty() -> None:
    for data in b"", b"\0", bytes(100), bytes(20_000):
        session = Session(placed, sampling_rate=48_000)
        assert run(session, data) == []
        assert session.samples == len(data) // 2

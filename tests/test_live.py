"""A stream says of its segments what `analyze` says of the whole clip."""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

import e2v_port
from e2v_port.analysis import JudgedSegment
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import AudioError
from e2v_port.segments import Segment, SegmentSettings
from e2v_port.service.answers import segment_dict
from e2v_port.service.live import Session

Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def model() -> Any:
    return e2v_port.load("bundled", runtime="cpu")


@pytest.fixture(scope="module")
def judge(model: Any) -> Callable[[np.ndarray, Segment], JudgedSegment]:
    def judged(waveform: np.ndarray, span: Segment) -> JudgedSegment:
        place = {name: getattr(span, name) for name in ("start", "end", "quality", "speaker", "text")}
        if span.quality not in {"normal", "low_confidence"}:
            return JudgedSegment(**place, judgement=None)
        [segment] = e2v_port.analyze(waveform, model=model, sampling_rate=SAMPLING_RATE, whole=True).segments
        return replace(segment, **place)

    return judged


def placed(waveform: np.ndarray, span: Segment) -> JudgedSegment:
    """Judges nothing: where only the times matter."""
    return JudgedSegment(span.start, span.end, span.quality, span.speaker, span.text, None)


def run(session: Session, data: bytes, size: int = 3200) -> Events:
    found = []
    for at in range(0, len(data), size):
        found += session.push(data[at : at + size])
    return found + session.finish()


def finals(events: Events) -> Events:
    return [event["segment"] for event in events if event["type"] == "final"]


def assert_equal(found: Any, expected: Any) -> None:
    """The same, numbers within 2e-5."""
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
        assert_equal(segment, {**segment_dict(replace(known, speaker="Ann")), "final": True})
    assert any(segment["emotion"] for segment in found) == (name != "dtmf.wav")


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_any_rate_and_any_size_of_blocks(speech_folder: Path, rate: int) -> None:
    """As the library decodes a file of that rate, whose other channel is silent."""
    spoken = np.tile(load_audio(speech_folder / "jfk.flac")[: 4 * SAMPLING_RATE], 2)
    resampled = soxr.resample(spoken, SAMPLING_RATE, rate, "HQ")
    channels = np.stack([resampled, np.zeros_like(resampled)], axis=1)
    integers = np.round(channels * 32767).astype("<i2")
    heard: list[np.ndarray] = []

    def judge(waveform: np.ndarray, span: Segment) -> JudgedSegment:
        heard.append(waveform)
        return placed(waveform, span)

    session = Session(judge, sampling_rate=rate, format="s16le", channels=2, settings=SegmentSettings(min_duration=1.0))
    events = run(session, integers.tobytes(), size=7919)
    assert session.samples == len(integers)
    assert session.duration == len(integers) / rate
    clip = load_audio(integers, rate)
    expected = e2v_port.segments.detect(clip)
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


def test_partial_judgements_come_once_per_second_while_somebody_speaks(speech_folder: Path) -> None:
    spoken = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")[: 10 * SAMPLING_RATE]
    waveform = np.concatenate([spoken, np.zeros(5 * SAMPLING_RATE, np.float32)])
    session = Session(placed, sampling_rate=SAMPLING_RATE, format="f32le")
    times = []
    ended = 0.0
    for at in range(0, len(waveform), 320):
        for event in session.push(waveform[at : at + 320].tobytes()):
            segment = event["segment"]
            assert segment["final"] == (event["type"] == "final")
            if segment["final"]:
                assert segment["end"] < 10.1
                ended = session.duration
            else:
                assert segment["end"] - segment["start"] >= 1.0
                assert session.duration - segment["end"] < 1.8, "it is about now, but for a pause"
                assert not ended
                times.append(session.duration)
    assert 1.0 < times[0] < 2.0
    assert all(1.0 <= after - before < 1.7 for before, after in itertools.pairwise(times))
    assert len(times) >= 7
    assert ended
    assert session.finish() == []


def test_judging_slowly_makes_partial_judgements_rare(speech_folder: Path) -> None:
    """They take no more than half of the time; a whole second here would be all of it."""
    spoken = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")[: 8 * SAMPLING_RATE]

    def slow(waveform: np.ndarray, span: Segment) -> JudgedSegment:
        time.sleep(1.0)
        return placed(waveform, span)

    session = Session(slow, sampling_rate=SAMPLING_RATE, format="f32le")
    kinds = [event["type"] for event in run(session, spoken.tobytes())]
    assert 2 <= kinds.count("partial") <= 4
    assert kinds[-1] == "final"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "not finite .* between 1.0 and 1.1 s"),
        (-np.inf, "not finite .* between 1.0 and 1.1 s"),
        (-12345.0, r"samples up to 1.23e\+04 between 1.0 and 1.1 s: full scale is 1, so divide by theirs"),
    ],
)
def test_samples_that_cannot_be(speech_folder: Path, value: float, message: str) -> None:
    spoken = load_audio(speech_folder / "jfk.flac")[16_000:32_000]
    session = Session(placed, sampling_rate=SAMPLING_RATE, format="f32le")
    session.push(spoken.tobytes())
    block = np.zeros(1600, "<f4")
    block[800] = value
    with pytest.raises(AudioError, match=message):
        session.push(block.tobytes())
    assert session.samples == SAMPLING_RATE
    assert len(finals(session.finish())) == 1, "what was acknowledged before is not lost"


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
        ({"format": "mp3"}, "format: declare one of s16le, f32le, not 'mp3'"),
        ({"format": {}}, "format"),
        ({"speaker": 7}, "speaker: give a name or null, not 7"),
    ],
)
def test_what_cannot_be_declared(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        Session(placed, **({"sampling_rate": SAMPLING_RATE} | declared))


def test_too_short_or_empty() -> None:
    for data in b"", b"\0", bytes(100), bytes(20_000):
        session = Session(placed, sampling_rate=48_000)
        assert run(session, data) == []
        assert session.samples == len(data) // 2

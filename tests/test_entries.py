"""Whatever comes into a public entry: it works with the right value, or is refused by one short line, and soon.

Refusals are E2VErrors, or ValueErrors and TypeErrors for arguments of a wrong kind.
"""

import array
import io
import os
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import e2v_port
from e2v_port.audio import SAMPLING_RATE, LiveAudio, load_audio
from e2v_port.client import Client
from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.errors import AudioError, E2VError, SegmentError
from e2v_port.expression.apply import apply
from e2v_port.expression.engines import to_engine
from e2v_port.expression.profiles import parameters
from e2v_port.expression.respond import respond
from e2v_port.expression.ssml import to_ssml
from e2v_port.prosody.judge import judge
from e2v_port.prosody.measure import measure
from e2v_port.speech.transcripts import read_segments

TONE = (np.sin(np.arange(2 * SAMPLING_RATE) * 0.05) / 4).astype(np.float32)
REFUSALS = (E2VError, ValueError, TypeError)


def tried(call: Callable[[], Any]) -> Any:
    """Returns the result of a call, or None where it is refused as it must be."""
    began = time.monotonic()
    try:
        return call()
    except REFUSALS as error:
        message = str(error)
        assert 0 < len(message) < 500, message[:600]
        assert "\n" not in message
        return None
    finally:
        assert time.monotonic() - began < 60


class Samples(np.ndarray[Any, Any]):
    """An array of another class."""


def read_only() -> np.ndarray[Any, Any]:
    found = TONE.copy()
    found.flags.writeable = False
    return found


SAME = {
    "big-endian floats": TONE.astype(">f4"),
    "float64": TONE.astype(np.float64),
    "long double": TONE.astype(np.longdouble),
    "strided": np.repeat(TONE, 2)[::2],
    "reversed twice": TONE[::-1].copy()[::-1],
    "read-only": read_only(),
    "column": TONE[:, None],
    "Fortran": np.asfortranarray(np.stack([TONE, TONE], 1)),
    "subclass": TONE.view(Samples),
    "a mask of nothing": np.ma.masked_array(TONE, mask=np.zeros(len(TONE), bool)),
}
ROUGHLY_SAME = {
    "float16": TONE.astype(np.float16),
    "big-endian integers": np.round(TONE * 32768).astype(">i2"),
    "int32": np.round(TONE * 2.0**31).astype(np.int32),
    "int8": np.round(TONE * 128).astype(np.int8),
    "uint8": (np.round(TONE * 128) + 128).astype(np.uint8),
}
NO_SAMPLES: dict[str, Any] = {
    "bytes": TONE.tobytes(),
    "bytearray": bytearray(TONE.tobytes()),
    "memoryview": memoryview(TONE),
    "list": TONE[:800].tolist(),
    "array.array": array.array("f", TONE.tolist()),
    "None": None,
    "a number": 3,
    "a truth": True,
    "tensor": torch.from_numpy(TONE.copy()),
    "tensor with a gradient": torch.from_numpy(TONE.copy()).requires_grad_(),
    "half tensor": torch.from_numpy(TONE.copy()).half(),
    "no dimension": np.array(1.0),
    "objects": np.array([1, "a", None], object),
    "floats as objects": TONE.astype(object),
    "complex": TONE.astype(complex),
    "masked": np.ma.masked_array(TONE, mask=TONE > 0.2),
    "texts": np.array(["a", "b"]),
    "times": np.arange(800).astype("M8[s]"),
    "truths": TONE > 0,
    "int64": (TONE * 1000).astype(np.int64),
    "records": np.zeros(1000, [("a", "f4")]),
    "channels first": np.full((2, 40), 0.1, np.float32),
    "long channels first": np.full((2, 32_000), 0.1, np.float32),
    "three dimensions": np.zeros((1, 1, 32_000), np.float32),
    "no channel": np.zeros((32_000, 0), np.float32),
    "nan": np.full(32_000, np.nan, np.float32),
    "infinite": np.full(32_000, np.inf),
    "huge": np.full(32_000, 1e300),
    "an object": object(),
    "a dict": {},
    "a generator": (i for i in range(3)),
}


@pytest.mark.parametrize("name", SAME)
def test_an_array_of_any_layout_is_the_same_clip(name: str) -> None:
    np.testing.assert_array_equal(load_audio(SAME[name], SAMPLING_RATE), TONE)
    np.testing.assert_array_equal(LiveAudio(SAMPLING_RATE).push(SAME[name]), TONE)


@pytest.mark.parametrize("name", ROUGHLY_SAME)
def test_an_array_of_fewer_bits_is_nearly_the_same_clip(name: str) -> None:
    for found in load_audio(ROUGHLY_SAME[name], SAMPLING_RATE), LiveAudio(SAMPLING_RATE).push(ROUGHLY_SAME[name]):
        np.testing.assert_allclose(found, TONE, atol=1 / 128)


@pytest.mark.parametrize("name", NO_SAMPLES)
def test_what_is_no_clip_is_refused_everywhere(name: str) -> None:
    value = NO_SAMPLES[name]
    for call in (
        lambda: load_audio(value, SAMPLING_RATE),
        lambda: LiveAudio(SAMPLING_RATE).push(value),
        lambda: measure(value),
    ):
        with pytest.raises(AudioError) as caught:
            call()
        assert len(str(caught.value)) < 500
    if not isinstance(value, np.ndarray):
        assert tried(lambda: apply(value, SAMPLING_RATE, parameters("angry"))) is None


def test_no_samples_are_no_error_in_a_stream() -> None:
    assert len(LiveAudio(SAMPLING_RATE).push(np.empty(0, np.float32))) == 0
    with pytest.raises(AudioError, match="no samples"):
        load_audio(np.empty(0, np.float32), SAMPLING_RATE)


def test_the_channels_of_a_stream() -> None:
    """[2, 40] may be 40 samples of two channels or two of 40; once the channels are known, a block has any size."""
    pair = np.stack([TONE, TONE], 1)
    audio = LiveAudio(SAMPLING_RATE)
    for shape in (2, 40), (40, 40), (1, 2), (1, 40):
        with pytest.raises(AudioError, match=r"transpose it with \.T"):
            audio.push(np.zeros(shape, np.float32))
    assert audio.duration == 0
    found = [audio.push(pair[:3]), audio.push(pair[3:4]), audio.push(pair[4:])]
    np.testing.assert_array_equal(np.concatenate(found), TONE)
    for block in np.zeros((40, 3), np.float32), np.zeros(40, np.float32), np.zeros((2, 40), np.float32):
        with pytest.raises(AudioError, match="2 channels"):
            audio.push(block)
    assert len(LiveAudio(SAMPLING_RATE, channels=2).push(pair[:1])) == 1


@pytest.fixture(scope="module")
def detector() -> e2v_port.EmotionDetector:
    return e2v_port.EmotionDetector(runtime="cpu")


@pytest.mark.parametrize("name", NO_SAMPLES)
def test_streams_of_a_detector_refuse_what_is_no_block(name: str, detector: e2v_port.EmotionDetector) -> None:
    with pytest.raises(AudioError):
        list(detector.stream([NO_SAMPLES[name]]))


@pytest.mark.parametrize(
    "rate", [np.int16(8000), np.int64(8000), np.float32(8000), 8000.0, Fraction(8000), Decimal(8000)]
)
def test_a_rate_of_any_type_is_the_same(rate: Any) -> None:
    expected = load_audio(TONE, 8000)
    np.testing.assert_array_equal(load_audio(TONE, rate), expected)
    audio = LiveAudio(rate)
    np.testing.assert_array_equal(np.concatenate([audio.push(TONE), audio.finish()]), expected)


@pytest.mark.parametrize(
    "rate",
    ["8000", b"8000", 8000.5, 0, -8000, True, float("nan"), float("inf"), 10**30, 10**5000, 8000j, [8000], object()],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    for call in (
        lambda: load_audio(TONE, rate),
        lambda: LiveAudio(rate),
        lambda: apply(TONE, rate, parameters("angry")),
    ):
        with pytest.raises(AudioError, match="rate") as caught:
            call()
        assert len(str(caught.value)) < 500


def sound(folder: Path) -> Path:
    soundfile.write(folder / "a.wav", TONE, SAMPLING_RATE, subtype="FLOAT")
    return folder / "a.wav"


def test_files_of_any_kind(tmp_path: Path) -> None:
    path = sound(tmp_path)
    (tmp_path / "a.txt").write_text("words\n" * 1000)
    with open(path, "rb") as closed:
        pass
    with open(path, "rb") as good, open(path) as text:
        for clip in path, str(path), good, io.BytesIO(path.read_bytes()):
            np.testing.assert_array_equal(load_audio(clip), TONE)
        refused: list[Any] = [closed, text, io.StringIO("words"), io.BytesIO(os.urandom(4096)), io.BytesIO()]
        refused += [tmp_path, tmp_path / "a.txt", tmp_path / "none.wav", "", "a\0b", "x" * 5_000_000, "a\nb", "\udcff"]
        refused += [os.fsencode(path), 5, "/dev/null", "/dev/zero"]
        for clip in refused:
            with pytest.raises(AudioError) as caught:
                load_audio(clip)
            assert len(str(caught.value)) < 500
            assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "place", ["", "a\0b", "x" * 100_000, b"bundled", 5, None, "/dev/zero", "/dev/null", os.devnull]
)
def test_models_transcripts_and_baselines_of_no_kind(place: Any) -> None:
    for call in e2v_port.load, e2v_port.convert, read_segments, e2v_port.Baseline.load:
        with pytest.raises(REFUSALS) as caught:
            call(place)
        assert len(str(caught.value)) < 600
        assert "\n" not in str(caught.value)


HOSTILE: list[Any] = [None, 5, 2.5, True, b"x", "", "a\nb", "x" * 1_000_000, [], {}, object(), float("nan"), -1]
HOSTILE += [float("inf"), 10**5000, np.float32(1), "neutral", ("neutral",), 1j, np.zeros(3), np.array(1.0)]
VOICE = e2v_port.ProsodyParameters()
SCORES = {"angry": 0.7, "sad": 0.3}
PREDICTION = e2v_port.Prediction("angry", 0.7, SCORES, SCORES, 4.0)

ENTRIES: dict[str, Callable[[Any], Any]] = {
    "FusionSettings": lambda value: FusionSettings(boost=value),
    "SegmentSettings": lambda value: e2v_port.SegmentSettings(max_duration=value),
    "BoundarySettings": lambda value: e2v_port.BoundarySettings(margin=value),
    "LiveSettings": lambda value: e2v_port.LiveSettings(window=value),
    "ProsodyParameters": lambda value: e2v_port.ProsodyParameters(speech_rate=value),
    "Dimensions": lambda value: Dimensions(value, 0.5, 0.5),
    "start of a segment": lambda value: e2v_port.GivenSegment(value, 2.0),
    "end of a segment": lambda value: e2v_port.GivenSegment(0.0, value),
    "speaker of a segment": lambda value: e2v_port.GivenSegment(0.0, 1.0, value),
    "text of a segment": lambda value: e2v_port.GivenSegment(0.0, 1.0, None, value),
    "channel of a segment": lambda value: e2v_port.GivenSegment(0.0, 1.0, channel=value),
    "segments": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, segments=value),
    "one segment": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, segments=[value]),
    "model": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, model=value),
    "dimensional": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, dimensional=value),
    "runtime": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, runtime=value),
    "dtype": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, dtype=value),
    "settings": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, settings=value),
    "fusion": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, fusion=value),
    "boundaries": lambda value: e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, boundaries=value),
    "fuse": lambda value: fuse(value, None, 4.0),
    "fuse dimensions": lambda value: fuse(None, value, 4.0),
    "fuse duration": lambda value: fuse(PREDICTION, None, value),
    "fuse settings": lambda value: fuse(PREDICTION, None, 4.0, value),
    "emotion": taxonomy.emotion,
    "meaning": taxonomy.meaning,
    "distribution": taxonomy.distribution,
    "a score": lambda value: taxonomy.distribution({"angry": value}),
    "octant": taxonomy.octant,
    "intensity": taxonomy.intensity,
    "parameters": parameters,
    "parameters, intensity": lambda value: parameters("angry", value),
    "respond": lambda value: respond(value, 0.5),
    "respond, confidence": lambda value: respond("angry", value),
    "respond, strategy": lambda value: respond("angry", 0.5, value),
    "ssml": lambda value: to_ssml(value, VOICE),
    "ssml, parameters": lambda value: to_ssml("a", value),
    "ssml, dialect": lambda value: to_ssml("a", VOICE, value),
    "ssml, language": lambda value: to_ssml("a", VOICE, language=value),
    "ssml, voice": lambda value: to_ssml("a", VOICE, "azure", voice=value),
    "engine": lambda value: to_engine(VOICE, value),
    "engine, parameters": lambda value: to_engine(value, "piper"),
    "apply": lambda value: apply(TONE, SAMPLING_RATE, value),
    "judge": judge,
    "Baseline.of": e2v_port.Baseline.of,
    "Baseline of three": lambda value: e2v_port.Baseline.of([value] * 3),
    "Baseline.from_dict": e2v_port.Baseline.from_dict,
    "Client": Client,
    "Client, token": lambda value: Client(token=value),
    "Client, timeout": lambda value: Client(timeout=value),
    "Client, audio": lambda value: Client("http://127.0.0.1:9").analyze(value),
    "Client, segments": lambda value: Client("http://127.0.0.1:9").analyze(b"RIFF", value),
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_hostile_values_work_or_are_refused_by_one_line(entry: str) -> None:
    for value in HOSTILE:
        tried(lambda value=value: ENTRIES[entry](value))


def test_hostile_values_in_a_detector(detector: e2v_port.EmotionDetector) -> None:
    for value in HOSTILE:
        for call in (
            detector.history,
            detector.to_context,
            detector.trajectory,
            detector.calibrate,
            lambda value: detector.calibrate([value] * 3, SAMPLING_RATE),
            lambda value: detector.voice_state(window=value),
            lambda value: e2v_port.EmotionDetector(backend=value) if value is not None else None,
            lambda value: e2v_port.EmotionDetector(settings=value) if value is not None else None,
            lambda value: e2v_port.EmotionDetector(live=value) if value is not None else None,
            lambda value: e2v_port.EmotionDetector(baseline=value) if value is not None else None,
        ):
            tried(lambda call=call, value=value: call(value))  # type: ignore[misc, operator]


@pytest.mark.parametrize("clips", ["a.wav", b"a.wav", Path("a.wav"), io.BytesIO(b"RIFF"), TONE, np.array(1.0), 5, None])
def test_one_clip_is_not_several(clips: Any) -> None:
    """The letters of a path, the lines of a file and the samples of an array are no clips."""
    from e2v_port.analysis.analyze import each

    model = e2v_port.load("bundled-tiny", runtime="cpu")
    for call in (
        lambda: list(model.each(clips, SAMPLING_RATE)),
        lambda: list(each(clips, sampling_rate=SAMPLING_RATE)),
    ):
        with pytest.raises(TypeError, match="pass a list"):
            call()


@pytest.mark.parametrize("time", [np.float32(1), np.float64(1), np.int64(1), Fraction(1), Decimal(1), np.array(1.0)])
def test_times_of_any_type_are_floats(time: Any) -> None:
    given = e2v_port.GivenSegment(time, 2)
    assert (given.start, given.end) == (1.0, 2.0)
    assert {type(given.start), type(given.end)} == {float}


@pytest.mark.parametrize("given", [(0, 1), {"start": 0, "end": 1}, None, "0-1", 5])
def test_segments_of_another_kind_are_refused(given: Any) -> None:
    with pytest.raises(SegmentError, match="GivenSegment"):
        e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, segments=[given])


def blocks() -> Iterator[np.ndarray[Any, Any]]:
    yield TONE[:1600]
    yield NO_SAMPLES["bytes"]


def test_a_stream_gives_its_results_before_it_refuses_a_block(detector: e2v_port.EmotionDetector) -> None:
    listener = detector.open()
    first, second = blocks()
    listener.push(first)
    with pytest.raises(AudioError):
        listener.push(second)
    assert listener.duration == pytest.approx(0.1)
    listener.finish()

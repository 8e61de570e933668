"""Live voices: compared with `analyze`, the models and the prosody by themselves, on real speech."""

import asyncio
import io
import itertools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
import soxr
import toys
from loud_reader import LoudReader

import e2v_port
from e2v_port.analysis import reading
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions import taxonomy
from e2v_port.emotions.fusion import fuse
from e2v_port.errors import AudioError, CheckpointError, ModelNotFound, NoLabels, RuntimeUnavailable
from e2v_port.live.backends import BACKENDS, available_backends
from e2v_port.live.detector import EmotionDetector
from e2v_port.live.follower import LiveSettings
from e2v_port.live.listener import Listener
from e2v_port.live.results import VoiceSegment
from e2v_port.llm.describe import NOTICE
from e2v_port.llm.tool import tool_schema
from e2v_port.models import devices
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import judge
from e2v_port.prosody.measure import measure
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import SegmentSettings

CLOSE = 2e-5
DIMENSIONS = ("arousal", "dominance", "valence")
EVERY = LiveSettings(load=1e6)  # no window is left out, however busy this machine is


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for $E2V_WEIGHTS that holds an emotion2vec model under the name of a known one."""
    root = tmp_path_factory.mktemp("weights")
    toys.convert(toys.make(root / "checkpoint"), root / "iic" / "emotion2vec_plus_base")
    return root


@pytest.fixture(scope="module")
def dimensional(tmp_path_factory: pytest.TempPathFactory) -> Model:
    root = tmp_path_factory.mktemp("dimensional")
    return e2v_port.load(toys.convert(toys.make_dimensional(root / "checkpoint"), root / "model"), runtime="cpu")


@pytest.fixture
def detector(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., EmotionDetector]:
    """Makes detectors on a machine where emotion2vec has been converted."""
    monkeypatch.setenv("E2V_WEIGHTS", str(weights))
    return lambda **options: EmotionDetector(**{"runtime": "cpu", "offline": True, "live": EVERY} | options)


@pytest.fixture(scope="module")
def meeting(speech_folder: Path) -> np.ndarray:
    """Half a minute of a meeting with several people."""
    return load_audio(speech_folder / "ami_EN2002a_30s.flac")


@pytest.fixture(scope="module")
def small() -> EmotionDetector:
    return EmotionDetector("bundled-tiny", runtime="cpu", live=EVERY)


def blocks(waveform: np.ndarray, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields blocks of any size from one sample to two seconds; some are empty."""
    rng = np.random.default_rng(seed)
    at = 0
    while at < len(waveform):
        size = int(np.exp(rng.uniform(-0.5, np.log(32_000))))
        yield waveform[at : at + size]
        at += size


def assert_same(found: VoiceSegment, expected: VoiceSegment) -> None:
    """Compares everything but the time of day, numbers within 2e-5."""

    def compare(a: Any, b: Any) -> None:
        if isinstance(b, dict):
            assert list(a) == list(b)
            for name in b:
                compare(a[name], b[name])
        elif isinstance(b, float):
            assert a == pytest.approx(b, abs=CLOSE, nan_ok=True)
        else:
            assert a == b

    compare({**found.to_dict(), "at": None}, {**expected.to_dict(), "at": None})


# ---- every backend, every kind of clip


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_takes_every_kind_of_clip(
    detector: Callable[..., EmotionDetector], backend: str, speech_folder: Path, tmp_path: Path
) -> None:
    listener = detector(backend=backend)
    assert listener.backend == backend
    path = speech_folder / "jfk.flac"
    waveform = load_audio(path)
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([waveform, waveform], axis=1), SAMPLING_RATE, subtype="FLOAT")
    with open(path, "rb") as file:
        analyses = [listener.analyze(clip) for clip in (path, str(path), file, io.BytesIO(path.read_bytes()), stereo)]
    analyses += [listener.analyze(clip, SAMPLING_RATE) for clip in (waveform, waveform.astype(np.float64))]
    for found in analyses:
        assert len(found.segments) == len(analyses[0].segments) > 0
        for segment, expected in zip(found.segments, analyses[0].segments, strict=True):
            assert_same(segment, expected)
    integers = listener.analyze(np.round(waveform * 32767).astype(np.int16), SAMPLING_RATE)
    assert [segment.emotion for segment in integers.segments] == [segment.emotion for segment in found.segments]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_gives_the_same_kind_of_result(
    detector: Callable[..., EmotionDetector], backend: str, meeting: np.ndarray
) -> None:
    listener = detector(backend=backend)
    analysis = listener.analyze(meeting, SAMPLING_RATE)
    streamed = list(listener.stream(blocks(meeting)))
    for segment in (*analysis.segments, *streamed):
        assert type(segment) is VoiceSegment
        assert segment.backend == backend
        assert segment.fallback is None
        if backend == "prosodic":
            assert segment.emotion is segment.confidence is segment.shade is None
            assert segment.judgement.headline == segment.judgement.octant
        else:
            assert segment.emotion in taxonomy.labels("emotion2vec")
            assert 0 <= segment.confidence <= 1
        assert all(0 <= getattr(segment, name) <= 1 for name in DIMENSIONS)
        assert (segment.emotion is None) == (segment.scores is None) == (backend == "prosodic")
        assert (segment.prosody is None) == (not segment.final and backend in {"bundled", "emotion2vec"})
        row = json.loads(json.dumps(segment.to_dict(), allow_nan=False))
        assert row["emotion"]["primary"] == segment.emotion
        assert row["final"] is segment.final
        assert row["backend"] == backend
    assert {segment.final for segment in streamed} == {True, False}
    assert json.loads(json.dumps(analysis.to_dict(), allow_nan=False))["backend"] == backend
    assert analysis.models == listener.models
    assert len(analysis.models) == (backend != "prosodic")


def test_models_give_the_results_of_analyze(detector: Callable[..., EmotionDetector], meeting: np.ndarray) -> None:
    for options in {"model": "bundled"}, {"model": "iic/emotion2vec_plus_base"}:
        expected = e2v_port.analyze(meeting, sampling_rate=SAMPLING_RATE, runtime="cpu", **options).segments
        found = detector(**options).analyze(meeting, SAMPLING_RATE).segments
        assert len(found) == len(expected) > 3
        for segment, known in zip(found, expected, strict=True):
            assert (segment.start, segment.end, segment.quality) == (known.start, known.end, known.quality)
            assert segment.emotion == known.emotion
            assert segment.confidence == pytest.approx(known.confidence, abs=CLOSE)
            assert segment.scores == pytest.approx(known.judgement.scores, abs=CLOSE)
            assert segment.dimensions_from == "labels"


def test_the_prosodic_backend_judges_by_the_prosody_of_the_segment(meeting: np.ndarray) -> None:
    [first, *_] = EmotionDetector(backend="prosodic").analyze(meeting, SAMPLING_RATE).segments
    prosody = measure(meeting[: round(first.end * SAMPLING_RATE)][round(first.start * SAMPLING_RATE) :])
    opinion = judge(prosody)
    assert first.prosody == prosody
    assert first.dimensions == opinion.dimensions
    assert first.emotion is first.confidence is None  # without a label there is no number
    assert ("uncertain" in first.judgement.notes) == (opinion.confidence < 0.3)
    assert first.reasons == opinion.reasons
    assert first.judgement.headline == taxonomy.octant(opinion.dimensions)


def test_a_hybrid_mixes_dimensions(detector: Callable[..., EmotionDetector], meeting: np.ndarray) -> None:
    """They are 70 % the model's, derived from its labels, and 30 % the prosody's; the label is the model's."""
    model, prosodic, hybrid = (
        detector(backend=name).analyze(meeting, SAMPLING_RATE).segments for name in ("bundled", "prosodic", "hybrid")
    )
    for of_model, of_prosody, mixed in zip(model, prosodic, hybrid, strict=True):
        for name in DIMENSIONS:
            expected = 0.7 * getattr(of_model, name) + 0.3 * getattr(of_prosody, name)
            assert getattr(mixed, name) == pytest.approx(expected, abs=1e-9)
        assert mixed.dimensions_from == "labels and prosody"
        assert mixed.distribution == of_model.distribution
        assert replace(mixed.judgement, dimensions=None, dimensions_from=None) == replace(
            of_model.judgement, dimensions=None, dimensions_from=None
        )


def test_a_hybrid_of_two_models(
    detector: Callable[..., EmotionDetector], dimensional: Model, meeting: np.ndarray
) -> None:
    """With measured dimensions, the judgement follows from the mixture."""
    measured = detector(dimensional=dimensional).analyze(meeting, SAMPLING_RATE).segments
    prosodic = detector(backend="prosodic").analyze(meeting, SAMPLING_RATE).segments
    hybrid = detector(backend="hybrid", dimensional=dimensional).analyze(meeting, SAMPLING_RATE)
    assert [model.kind for model in hybrid.models] == ["categorical", "dimensional"]
    for of_model, of_prosody, mixed in zip(measured, prosodic, hybrid.segments, strict=True):
        for name in DIMENSIONS:
            expected = 0.7 * getattr(of_model, name) + 0.3 * getattr(of_prosody, name)
            assert getattr(mixed, name) == pytest.approx(expected, abs=CLOSE)
        fused = fuse(mixed.prediction, mixed.dimensions, mixed.duration, snr=mixed.prosody.quality.snr)
        assert mixed.judgement == replace(
            fused, sources=("categorical", "dimensional", "prosodic"), dimensions_from="model and prosody"
        )


@toys.needs_mlx
def test_emotion2vec_on_mlx(detector: Callable[..., EmotionDetector], meeting: np.ndarray) -> None:
    found = detector(backend="emotion2vec", runtime="mlx").analyze(meeting, SAMPLING_RATE)
    expected = detector(backend="emotion2vec").analyze(meeting, SAMPLING_RATE)
    assert found.models[0].runtime == "mlx"
    for segment, known in zip(found.segments, expected.segments, strict=True):
        assert segment.scores == pytest.approx(known.scores, abs=1e-4)


# ---- missing models and runtimes


def test_available_backends(weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("E2V_WEIGHTS", str(weights))
    assert available_backends("cpu") == dict.fromkeys(BACKENDS)
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = available_backends("cpu")
    assert "e2v convert" in (found.pop("emotion2vec") or "")
    assert found == dict.fromkeys(("bundled", "prosodic", "hybrid"))
    with pytest.raises(RuntimeUnavailable, match="e2v convert --model iic/emotion2vec_plus_base"):
        EmotionDetector(backend="emotion2vec", runtime="cpu")


def test_a_missing_runtime() -> None:
    missing = next(name for name in ("cuda", "mps") if devices.unavailable(name))
    found = available_backends(missing)
    assert found.pop("prosodic") is None
    assert all(missing in (reason or "") for reason in found.values())
    with pytest.raises(RuntimeUnavailable, match=missing):
        EmotionDetector(runtime=missing)


def test_a_fallback_must_be_allowed_and_is_reported(
    weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, meeting: np.ndarray
) -> None:
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    second = EmotionDetector(backend="emotion2vec", runtime="cpu", fallback=True)
    assert second.backend == "bundled"
    assert "emotion2vec" in (second.fallback or "")
    assert "e2v convert" in (second.fallback or "")
    silence = second.analyze(np.zeros(SAMPLING_RATE, np.float32), SAMPLING_RATE)
    assert silence.fallback == second.fallback == silence.to_dict()["fallback"]
    spoken = [*second.analyze(meeting, SAMPLING_RATE).segments, *second.stream([meeting])]
    assert {segment.fallback for segment in spoken} == {second.fallback}
    assert {segment.backend for segment in spoken} == {"bundled"}

    damaged = tmp_path / "damaged"
    toys.convert(toys.make(tmp_path / "checkpoint"), damaged)
    data = (damaged / "model.safetensors").read_bytes()
    (damaged / "model.safetensors").write_bytes(data[: len(data) // 2])
    for model, error in ((tmp_path / "nothing", ModelNotFound), (damaged, CheckpointError)):
        with pytest.raises(error):
            EmotionDetector(model, runtime="cpu", offline=True)
        found = EmotionDetector(model, runtime="cpu", offline=True, fallback=True)
        assert found.models == second.models, "the bundled model, not random weights"
        assert str(model) in (found.fallback or "")
    assert EmotionDetector("nothing/there", backend="hybrid", offline=True, fallback=True).backend == "hybrid"
    with pytest.raises(NoLabels):  # a mistake of the caller, not a missing model
        EmotionDetector(toys.convert(toys.make(tmp_path / "h", toys.HEADLESS), tmp_path / "headless"), fallback=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "whisper"}, "bundled, emotion2vec, prosodic, hybrid"),
        ({"backend": "prosodic", "model": "bundled"}, "leave model="),
        ({"backend": "bundled", "model": "bundled"}, "leave model="),
        ({"backend": "emotion2vec", "model": "bundled"}, "leave backend= out"),
        ({"live": {"window": 0.1}}, "window"),
        ({"live": {"overlap": 1.0}}, "overlap"),
        ({"live": {"hold": float("nan")}}, "hold"),
    ],
)
def test_contradictory_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EmotionDetector(**{name: LiveSettings(**value) if name == "live" else value for name, value in options.items()})


# ---- streams


@pytest.mark.parametrize("backend", BACKENDS)
def test_final_segments_are_those_of_the_whole_clip(
    detector: Callable[..., EmotionDetector], backend: str, meeting: np.ndarray
) -> None:
    listener = detector(backend=backend)
    expected = listener.analyze(meeting, SAMPLING_RATE, speaker="Ann").segments
    found = [segment for segment in listener.stream(blocks(meeting), speaker="Ann") if segment.final]
    assert len(found) == len(expected) > 3
    for segment, known in zip(found, expected, strict=True):
        assert_same(segment, known)
    assert {segment.speaker for segment in found} == {"Ann"}


def test_final_segments_of_recordings_in_a_row(small: EmotionDetector, speech_folder: Path) -> None:
    same = count = 0
    paths = [path for path in sorted(speech_folder.iterdir()) if path.suffix in {".flac", ".wav"}]
    for number in range(4):
        waveform = np.concatenate([load_audio(path)[: 8 * SAMPLING_RATE] for path in paths[number::12]])
        found = [segment for segment in small.stream([waveform]) if segment.final]
        offline = detect(waveform)
        count += len(offline)
        same += sum(any(abs(a.start - b.start) <= 0.25 and abs(a.end - b.end) <= 0.25 for b in found) for a in offline)
    assert count > 6
    assert same >= 0.95 * count


def test_the_size_of_blocks_changes_nothing(small: EmotionDetector, meeting: np.ndarray) -> None:
    part = meeting[: 12 * SAMPLING_RATE]
    expected = list(small.stream([part]))
    for size in 160, 4096, 4097:
        found = list(small.stream(part[at : at + size] for at in range(0, len(part), size)))
        assert len(found) == len(expected) > 10
        for segment, known in zip(found, expected, strict=True):
            assert_same(segment, known)


@pytest.mark.parametrize(("rate", "kind"), [(8_000, "<f4"), (44_100, "<i2"), (48_000, "<f8")])
def test_any_rate_and_type(small: EmotionDetector, meeting: np.ndarray, rate: int, kind: str) -> None:
    """The results are those of the whole clip; its second channel is silent."""
    resampled = soxr.resample(meeting[: 15 * SAMPLING_RATE], SAMPLING_RATE, rate, "HQ")
    clip = np.stack([resampled, np.zeros_like(resampled)], axis=1)
    clip = np.round(clip * 32767).astype(kind) if kind == "<i2" else clip.astype(kind)
    expected = small.analyze(clip, rate).segments
    found = [segment for segment in small.stream(blocks(clip), rate) if segment.final]
    assert len(found) == len(expected) > 1
    for segment, known in zip(found, expected, strict=True):
        assert segment.start == pytest.approx(known.start, abs=0.033)  # a frame of silero
        assert segment.end == pytest.approx(known.end, abs=0.033)
        assert segment.emotion == known.emotion


def windows(listener: Listener, waveform: np.ndarray, size: int = 320) -> list[tuple[float, VoiceSegment]]:
    """Returns the windows of a stream, each with the seconds taken by then."""
    found = []
    for at in range(0, len(waveform), size):
        segments = listener.push(waveform[at : at + size])
        found += [(listener.duration, segment) for segment in segments if not segment.final]
    return found


def test_windows_of_speech_that_goes_on(small: EmotionDetector, meeting: np.ndarray) -> None:
    """They are a second long, come twice a second, and end where speech was heard last."""
    found = windows(small.open(), meeting)
    assert len(found) > 30
    for heard, segment in found:
        assert segment.duration == pytest.approx(1.0, abs=1e-4)
        assert segment.quality == "low_confidence"
        assert 0 <= heard - segment.end <= 0.28, "at most silero's 256 ms and a block late"
    hops = np.diff([segment.start for _, segment in found])
    assert hops.min() >= 0.5
    assert np.median(hops) <= 0.52  # 2 x 256 ms
    spoken = small.analyze(meeting, SAMPLING_RATE).segments
    for _, segment in found:
        inside = sum(max(0.0, min(segment.end, b.end) - max(segment.start, b.start)) for b in spoken)
        assert inside >= 0.3 * segment.duration, "all but a pause at which long speech is split later"


def test_other_windows(meeting: np.ndarray) -> None:
    detector = EmotionDetector("bundled-tiny", runtime="cpu", live=replace(EVERY, window=2.0, overlap=1.0))
    found = [segment for _, segment in windows(detector.open(), meeting)]
    assert all(segment.duration == pytest.approx(2.0, abs=1e-4) for segment in found)
    assert np.diff([segment.start for segment in found]).min() >= 1.0
    assert {segment.quality for segment in found} == {"normal"}
    # The end of speech moves by 30 ms when its pause is certain: that alone is no reason for another window.
    detector = EmotionDetector("bundled-tiny", runtime="cpu", live=replace(EVERY, overlap=0.98))
    assert max(heard - segment.end for heard, segment in windows(detector.open(), meeting)) <= 0.28


def test_labels_of_windows_are_steady(small: EmotionDetector, speech_folder: Path) -> None:
    """A label stays for at least a second during speech, and changes less often than without rules."""
    even = EmotionDetector("bundled-tiny", runtime="cpu", live=replace(EVERY, smoothing=0.0, margin=0.0, hold=0.0))
    changes = {"raw": 0, "shown": 0}
    for name in "ami_EN2002a_30s.flac", "librivox_idle_hour_john_clare.flac", "librispeech_198-209-0000.flac":
        waveform = load_audio(speech_folder / name)
        found, raw = ([segment for _, segment in windows(each.open(), waveform)] for each in (small, even))
        assert [segment.end for segment in found] == [segment.end for segment in raw]
        for kind, shown in ("shown", found), ("raw", raw):
            changes[kind] += sum(a.emotion != b.emotion for a, b in itertools.pairwise(shown))
        runs = [[*group] for _, group in itertools.groupby(found, key=lambda segment: segment.emotion)]
        for first, second in itertools.pairwise(runs):
            pause = second[0].start - first[-1].end  # speech that has ended ends what is shown
            assert pause > 0 or second[0].end - first[0].end >= 1.0 - 1e-6
    assert changes["shown"] < changes["raw"]


@pytest.mark.parametrize("backend", ["bundled", "hybrid"])
@pytest.mark.parametrize("measured", [False, True])
def test_a_window_is_the_fusion_of_its_steadied_label(
    detector: Callable[..., EmotionDetector], dimensional: Model, meeting: np.ndarray, backend: str, measured: bool
) -> None:
    """Headline, confidence, shade, compound and notes belong together, with every kind of dimensions."""
    listener = detector(backend=backend, dimensional=dimensional if measured else None).open()
    found = [segment for _, segment in windows(listener, meeting[: 12 * SAMPLING_RATE])]
    assert len(found) > 10
    for segment in found:
        dimensions = segment.dimensions if measured else None
        expected = fuse(segment.prediction, dimensions, segment.duration)
        assert (segment.emotion, segment.scores) == (segment.prediction.label, segment.prediction.scores)
        for name in ("primary", "confidence", "agreement", "shade", "compound", "octant", "notes", "distribution"):
            assert getattr(segment.judgement, name) == getattr(expected, name), name


def test_no_speech(small: EmotionDetector) -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 5 * SAMPLING_RATE).astype(np.float32)
    assert list(small.stream(blocks(noise))) == []
    assert list(small.stream([])) == []
    found = small.analyze(noise, SAMPLING_RATE)
    assert (found.segments, found.reason) == ((), "no speech found")
    assert found.to_context() == "[No speech heard]"


def test_segments_too_short_to_judge_are_marked(small: EmotionDetector, speech_folder: Path) -> None:
    spoken = load_audio(speech_folder / "jfk.flac")[: int(0.9 * SAMPLING_RATE)]
    clip = np.concatenate([spoken, np.zeros(3 * SAMPLING_RATE, np.float32)])
    [segment] = small.stream([clip])
    assert (segment.quality, segment.final, segment.emotion, segment.prosody) == ("too_short", True, None, None)
    assert small.analyze(clip, SAMPLING_RATE).reason == "no segment can be judged: 1 shorter than 1 s"


def test_bad_blocks_are_refused_and_the_stream_goes_on(small: EmotionDetector, meeting: np.ndarray) -> None:
    clip = meeting[: 8 * SAMPLING_RATE]
    expected = [segment for segment in small.stream([clip]) if segment.final]
    listener = small.open()
    found = []
    for block in blocks(clip):
        found += listener.push(block)
        for bad, message in (
            (np.array([0.1, np.nan], np.float32), "not finite"),
            (np.array([0.0, 1000.0], np.float32), "full scale is 1"),
            (np.array([1, 2], np.int64), "int64"),
            (np.zeros((1, 4000), np.float32), "transpose"),
            (np.zeros((2, 2, 2), np.float32), "transpose"),
        ):
            with pytest.raises(AudioError, match=message):
                listener.push(bad)
    found += listener.finish()
    assert listener.duration == 8.0
    finals = [segment for segment in found if segment.final]
    assert len(finals) == len(expected) > 0
    for segment, known in zip(finals, expected, strict=True):
        assert_same(segment, known)
    assert listener.finish() == []
    with pytest.raises(ValueError, match="open another"):
        listener.push(clip)
    with pytest.raises(AudioError, match="rate"):
        small.stream([clip], 10)


def test_an_asynchronous_stream(small: EmotionDetector, meeting: np.ndarray) -> None:
    """It gives the same results while other tasks run."""
    clip = meeting[: 12 * SAMPLING_RATE]
    expected = list(small.stream(blocks(clip)))

    async def chunks() -> AsyncIterator[np.ndarray]:
        for block in blocks(clip):
            await asyncio.sleep(0)
            yield block

    async def listen(source: Any) -> tuple[list[VoiceSegment], int]:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.001)

        task = asyncio.create_task(other())
        found = [segment async for segment in small.astream(source)]
        task.cancel()
        return found, turns

    for source in chunks(), list(blocks(clip)):
        found, turns = asyncio.run(listen(source))
        assert len(found) == len(expected)
        for segment, known in zip(found, expected, strict=True):
            assert_same(segment, known)
        assert turns > len(found)


# ---- history, trajectory, context


def test_a_history_of_streams_and_clips(meeting: np.ndarray) -> None:
    detector = EmotionDetector("bundled-tiny", runtime="cpu", live=LiveSettings(remembered=45))
    assert detector.history() == ()
    began = time.time()
    first = [segment for segment in detector.stream([meeting], speaker="Ann") if segment.final]
    assert list(detector.history()) == first
    assert [segment.at - segment.end for segment in first] == pytest.approx([began] * len(first), abs=10)
    assert detector.history(speaker="Bob") == ()
    lately = detector.history(10)
    assert list(lately) == [segment for segment in first if segment.end >= first[-1].end - 10]
    assert 0 < len(lately) < len(first)
    # Streamed faster than spoken, which counts as if at its own pace: the oldest segments are forgotten.
    found = [segment for segment in detector.stream([meeting, meeting], speaker="Bob") if segment.final]
    heard = detector.history()
    assert heard[-1].at - heard[0].at <= 45
    assert list(heard[-4:]) == found[-4:], "the newest are kept"
    assert list(heard) == sorted(heard, key=lambda segment: segment.at)
    analysis = detector.analyze(meeting, SAMPLING_RATE, speaker="Cy")
    assert detector.history(speaker="Cy") == analysis.segments
    assert analysis.segments[0].at > heard[-1].at - 30
    assert analysis.segments[-1].at <= detector.history()[-1].at
    for window in 0, -1.0, float("nan"):
        with pytest.raises(ValueError, match="window"):
            detector.history(window)


def test_a_stream_that_pauses_keeps_up_with_the_clock(meeting: np.ndarray) -> None:
    """As with a muted microphone, which sends nothing for a while."""
    listener = EmotionDetector("bundled-tiny", runtime="cpu").open()
    listener.push(meeting[: int(1.5 * SAMPLING_RATE)])
    time.sleep(4)
    found = listener.push(meeting[int(1.5 * SAMPLING_RATE) : int(2.5 * SAMPLING_RATE)])
    assert found[-1].at == pytest.approx(time.time(), abs=2.5)


def test_the_trajectory_of_a_voice(speech_folder: Path) -> None:
    """The trajectory counts the final segments of the last five minutes."""
    detector = EmotionDetector("bundled-tiny", runtime="cpu")
    assert detector.trajectory().trend is None
    spoken = load_audio(speech_folder / "emodb_timeline.flac")[: 120 * SAMPLING_RATE]
    silence = np.zeros(200 * SAMPLING_RATE, np.float32)
    found = [segment for segment in detector.stream([spoken, silence, spoken[: 30 * SAMPLING_RATE]]) if segment.final]
    course = detector.trajectory()
    lately = [segment for segment in found if segment.judgement and segment.end >= found[-1].end - 300]
    assert 5 < course.segments == len(lately) < len(found) - 5
    assert course.speech == pytest.approx(sum(segment.duration for segment in lately))
    assert course.mean == pytest.approx(
        np.average([segment.valence for segment in lately], weights=[segment.duration for segment in lately])
    )
    assert course.trend
    assert course.dimensions_from == "labels"


def test_context_for_a_language_model(meeting: np.ndarray) -> None:
    detector = EmotionDetector("bundled-tiny", runtime="cpu")
    schema = tool_schema()
    inputs, outputs = (jsonschema.Draft202012Validator(schema[name]) for name in ("inputSchema", "outputSchema"))

    def state(**arguments: Any) -> dict[str, Any]:
        inputs.validate(arguments)
        answer = detector.voice_state(**arguments)
        outputs.validate(answer)
        return answer

    silent = state()
    assert (silent["context"], silent["emotion"], silent["seconds"]) == ("[No speech heard]", None, 0)
    listener = detector.open(speaker="Ann")
    listener.push(meeting[: 4 * SAMPLING_RATE])  # nothing has ended
    early = state()
    assert detector.history() == ()
    assert early["emotion"] is not None
    assert early["context"] == detector.to_context()
    assert "Ann" in early["context"]
    listener.push(meeting[4 * SAMPLING_RATE :])
    listener.finish()
    assert listener.windows == ()
    late = state(window=1000, long=True)
    seconds = [segment.duration for segment in detector.history()]
    valences = [segment.valence for segment in detector.history()]
    assert late["seconds"] == pytest.approx(sum(seconds))
    assert late["avd_scores"]["valence"] == pytest.approx(np.average(valences, weights=seconds))
    assert late["context"].splitlines()[-1] == late["notice"] == NOTICE
    assert late["context"].startswith(detector.to_context(1000))
    assert any(line.startswith("Trend: not enough data") for line in late["context"].splitlines())


def test_the_state_of_a_nameless_speaker_leaves_out_the_others(meeting: np.ndarray) -> None:
    detector = EmotionDetector("bundled-tiny", runtime="cpu")
    named = detector.analyze(meeting[: 10 * SAMPLING_RATE], SAMPLING_RATE, speaker="Ann").segments
    silence = np.zeros(60 * SAMPLING_RATE, np.float32)  # longer than any analysis takes: the last word still comes last
    nameless = detector.analyze(np.append(meeting[10 * SAMPLING_RATE :], silence), SAMPLING_RATE).segments
    assert named
    assert nameless
    for long in (False, True):
        state = detector.voice_state(window=1000, long=long)
        assert state["seconds"] == pytest.approx(sum(each.duration for each in nameless if each.judgement))
        assert "Ann" not in state["context"]
    assert detector.trajectory().trend is None
    assert str(detector.trajectory().reason).startswith("2 speakers: name one")


# ---- the baseline of a speaker


def test_a_baseline_is_learned_saved_and_used(speech_folder: Path, meeting: np.ndarray, tmp_path: Path) -> None:
    spoken = load_audio(speech_folder / "librispeech_198-209-0000.flac")
    clip = load_audio(speech_folder / "librivox_idle_hour_john_clare.flac")[: 12 * SAMPLING_RATE]
    samples = [spoken[at * SAMPLING_RATE : (at + 4) * SAMPLING_RATE] for at in (0, 4, 8)]
    detector = EmotionDetector(backend="prosodic")
    strange = detector.analyze(clip, SAMPLING_RATE, speaker="Ann").segments
    baseline = detector.calibrate(samples, SAMPLING_RATE, speaker="Ann")
    assert isinstance(baseline, Baseline)
    assert (baseline.speaker, baseline.samples) == ("Ann", 3)
    own = detector.analyze(clip, SAMPLING_RATE, speaker="Ann").segments
    for segment in own:
        assert segment.dimensions == judge(segment.prosody, baseline).dimensions
    assert [segment.dimensions for segment in own] != [segment.dimensions for segment in strange]
    assert detector.analyze(clip, SAMPLING_RATE).segments[0].dimensions == own[0].dimensions
    for segment, known in zip(detector.analyze(clip, SAMPLING_RATE, speaker="Bob").segments, strange, strict=True):
        assert segment.dimensions == known.dimensions, "another speaker keeps the default baseline"

    path = tmp_path / "ann.json"
    baseline.save(path)
    for kept in path, str(path), baseline:
        another = EmotionDetector(backend="prosodic", baseline=kept)
        streamed = [segment for segment in another.stream(blocks(clip), speaker="Ann") if segment.final]
        assert [segment.dimensions for segment in streamed] == [segment.dimensions for segment in own]


def test_unusable_calibration_samples(speech_folder: Path) -> None:
    detector = EmotionDetector(backend="prosodic")
    path = speech_folder / "jfk.flac"
    with pytest.raises(ValueError, match="3"):
        detector.calibrate([path, path])
    with pytest.raises(AudioError, match="no speech found"):
        detector.calibrate([path, path, np.zeros(2 * SAMPLING_RATE, np.float32)], SAMPLING_RATE)
    with pytest.raises(AudioError, match="nothing"):
        detector.calibrate([path, path, "nothing.wav"])


def test_settings_of_segments_apply(meeting: np.ndarray) -> None:
    settings = SegmentSettings(max_duration=5.0, merge_gap=0.5)
    detector = EmotionDetector(backend="prosodic", settings=settings)
    found = detector.analyze(meeting, SAMPLING_RATE)
    assert max(segment.duration for segment in found.segments) <= 5
    assert found.settings.segments == settings
    assert {item.name for item in fields(found)} >= {"segments", "models", "settings", "timings", "backend"}


# ---- the document


def test_the_examples_of_the_document_run(
    weights: Path, speech_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """They run one after the other, in a folder that holds their files; what reads words needs no weights here."""
    readers = {"tiny.en": LoudReader(), None: None}
    monkeypatch.setattr(reading, "opened", lambda words, language, offline: readers[words])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("E2V_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "speech.flac").write_bytes((speech_folder / "ami_EN2002a_30s.flac").read_bytes())
    read = load_audio(speech_folder / "librispeech_198-209-0000.flac")
    for number in range(3):
        sentence = read[4 * number * SAMPLING_RATE : 4 * (number + 1) * SAMPLING_RATE]
        soundfile.write(tmp_path / f"neutral{number + 1}.flac", sentence, SAMPLING_RATE)
    document = Path(__file__).parents[1] / "docs" / "live.md"
    examples = re.findall(r"^```python\n(.*?)^```$", document.read_text("utf-8"), re.M | re.S)
    assert len(examples) > 5
    names: dict[str, Any] = {}
    for example in examples:
        exec(example, names)
    printed = capsys.readouterr().out
    assert "so far" in printed
    assert "bundled emotion2vec cannot be used: " in printed
    assert printed.splitlines()[-1] == NOTICE

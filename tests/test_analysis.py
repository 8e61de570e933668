"""Analyses of clips, with and without speech: compared with the models by themselves."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toys

import e2v_port
from e2v_port.analysis import analyze
from e2v_port.analysis.output import plots, terminal
from e2v_port.analysis.results import Analysis
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.checkpoints import catalog
from e2v_port.emotions import taxonomy
from e2v_port.emotions.changes import BoundarySettings
from e2v_port.emotions.estimates import DIMENSIONS, Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.errors import AudioError, E2VError, NoLabels, SegmentError
from e2v_port.models.model import Model
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import GivenSegment, SegmentSettings

CLOSE = 2e-5


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    sources = {
        "model": toys.make(root / "a"),
        "dimensional": toys.make_dimensional(root / "b"),
        "headless": toys.make(root / "c", toys.HEADLESS),
    }
    return {name: toys.convert(source, root / name) for name, source in sources.items()}


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> Model:
    return e2v_port.load(folders["model"], runtime="cpu")


@pytest.fixture(scope="module")
def dimensional(folders: dict[str, Path]) -> Model:
    return e2v_port.load(folders["dimensional"], runtime="cpu")


@pytest.fixture(scope="module")
def speech(speech_folder: Path) -> np.ndarray:
    return load_audio(speech_folder / "emodb_timeline.flac")


@pytest.fixture(scope="module")
def found(speech: np.ndarray, model: Model, dimensional: Model) -> Analysis:
    return e2v_port.analyze(speech, model=model, dimensional=dimensional, frames=True, sampling_rate=SAMPLING_RATE)


# ---- segments and their judgements


def test_segments_are_those_of_detect(found: Analysis, speech: np.ndarray) -> None:
    detected = detect(speech)
    assert len(detected) > 10
    assert [(part.start, part.end, part.quality) for part in found.segments] == [
        (part.start, part.end, part.quality) for part in detected
    ]
    assert found.reason is None
    assert found.duration == len(speech) / SAMPLING_RATE
    assert found.file == "array"


def test_a_segment_has_the_results_of_the_models_for_its_part(
    found: Analysis, speech: np.ndarray, model: Model, dimensional: Model
) -> None:
    parts = [speech[segment.samples] for segment in detect(speech)]
    predictions = model.predict([*parts], SAMPLING_RATE)
    outputs = list(dimensional.each(parts, SAMPLING_RATE))
    assert len({round(prediction.confidence, 4) for prediction in predictions}) > 5
    for segment, prediction, output in zip(found.segments, predictions, outputs, strict=True):
        assert not isinstance(output, AudioError)
        values = dimensional.measure(output)
        assert segment.prediction is not None
        assert segment.prediction.label == segment.emotion == prediction.label
        assert segment.prediction.logits == pytest.approx(dict(prediction.logits), abs=CLOSE)
        assert (segment.arousal, segment.dominance, segment.valence) == pytest.approx(
            (values.arousal, values.dominance, values.valence), abs=CLOSE
        )
        expected = fuse(prediction, values, segment.duration)
        assert segment.confidence == pytest.approx(expected.confidence, abs=CLOSE)
        assert segment.compound == expected.compound is not None
        assert segment.judgement is not None
        assert segment.judgement.sources == ("categorical", "dimensional")


def test_either_model_alone(found: Analysis, speech: np.ndarray, model: Model, dimensional: Model) -> None:
    one = e2v_port.analyze(speech, model=model, sampling_rate=SAMPLING_RATE)
    other = e2v_port.analyze(speech, dimensional=dimensional, sampling_rate=SAMPLING_RATE)
    for both, categorical, measured in zip(found.segments, one.segments, other.segments, strict=True):
        assert categorical.emotion == both.emotion
        assert (both.dimensions_from, categorical.dimensions_from, measured.dimensions_from) == (
            "model",
            "labels",
            "model",
        )
        assert categorical.prediction is not None
        assert categorical.dimensions == taxonomy.expected(categorical.prediction.scores) != both.dimensions
        assert categorical.confidence == categorical.prediction.confidence * (1 if categorical.duration >= 2 else 0.7)
        assert categorical.compound is None
        assert measured.valence == pytest.approx(both.valence, abs=CLOSE)
        assert (measured.emotion, measured.confidence, measured.prediction) == (None, None, None)
    assert [used.kind for used in one.models] == ["categorical"]
    assert [used.kind for used in other.models] == ["dimensional"]
    assert set(one.timings) == {"decode", "speech", "categorical", "fusion"}
    assert set(other.timings) == {"decode", "speech", "dimensional", "fusion"}
    assert all(seconds > 0 for seconds in one.timings.values())


def test_segments_of_many_clips_run_together(speech_folder: Path, model: Model, dimensional: Model) -> None:
    """Results come in the order of the clips, as for each clip alone, and continue after an unusable clip."""
    names = ["jfk.flac", "no.flac", "gen_white.flac", "emodb_03a01Nc.flac", "LICENCES.md", "emodb_timeline.flac"]
    clips = [str(speech_folder / name) for name in [*names, names[0]]]
    results = list(analyze.each(clips, model=model, dimensional=dimensional))
    assert [isinstance(result, AudioError) for result in results] == [False, True, False, False, True, False, False]
    for clip, result in zip(clips, results, strict=True):
        if isinstance(result, AudioError):
            assert str(result).startswith(f"{clip}: ")
            continue
        assert result.file == clip
        alone = e2v_port.analyze(clip, model=model, dimensional=dimensional)
        assert len(alone.segments) == len(result.segments)
        for ours, theirs in zip(result.segments, alone.segments, strict=True):
            assert (ours.start, ours.end, ours.emotion) == (theirs.start, theirs.end, theirs.emotion)
            assert ours.confidence == pytest.approx(theirs.confidence, abs=CLOSE)
            assert ours.arousal == pytest.approx(theirs.arousal, abs=CLOSE)
    with pytest.raises(AudioError, match=r"no\.flac"):
        e2v_port.analyze([*clips], model=model)
    both = e2v_port.analyze([clips[0], clips[3]], model=model)
    assert [each.file for each in both] == [clips[0], clips[3]]


def test_short_clips_share_batches(speech: np.ndarray, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    run = model._run_batch

    def counting(waveforms: Any, frames: bool) -> Any:
        sizes.append(len(waveforms))
        return run(waveforms, frames)

    monkeypatch.setattr(model, "_run_batch", counting)
    clips = [speech[16_000 : 16_000 * 4] for _ in range(8)]
    results = list(analyze.each(clips, model=model, sampling_rate=SAMPLING_RATE))
    assert sum(sizes) == len(clips)
    assert max(sizes) > 1
    assert all(isinstance(result, Analysis) and result.timings["categorical"] > 0 for result in results)


def test_clips_are_read_as_they_are_needed(speech: np.ndarray, model: Model) -> None:
    read = 0

    def clips() -> Iterator[np.ndarray]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield speech[: 16_000 * 30]

    next(analyze.each(clips(), model=model, sampling_rate=SAMPLING_RATE))
    assert 30 * read <= model.window_seconds + 30 < 30 * 100


# ---- which segments


def test_a_clip_without_speech_has_a_reason(speech_folder: Path, model: Model, dimensional: Model) -> None:
    result = e2v_port.analyze(speech_folder / "gen_white.flac", model=model, dimensional=dimensional, frames=True)
    assert (result.segments, result.boundaries, result.reason) == ((), (), "no speech found")
    assert result.to_context() == "[No speech heard]"
    assert "no speech found" in repr(result)


def test_segments_that_are_too_short_are_listed_and_not_judged(speech: np.ndarray, model: Model) -> None:
    given = [GivenSegment(1.1, 1.9, "A"), GivenSegment(2.0, 5.0), GivenSegment(8.4, 9.9)]
    speech = np.concatenate([speech[: 8 * SAMPLING_RATE], np.zeros(2 * SAMPLING_RATE, np.float32)])
    result = e2v_port.analyze(speech, model=model, segments=given, sampling_rate=SAMPLING_RATE)
    assert [part.quality for part in result.segments] == ["too_short", "normal", "no_speech"]
    assert [part.judgement is not None for part in result.segments] == [False, True, False]
    assert result.segments[0].to_dict()["emotion"] is result.segments[0].confidence is None
    none = e2v_port.analyze(speech, model=model, segments=given[::2], sampling_rate=SAMPLING_RATE)
    assert none.reason == "no segment can be judged: 1 shorter than 1 s, 1 without speech"
    assert none.to_context() == "[Too little speech to judge]"
    empty = e2v_port.analyze(speech, model=model, segments=[], sampling_rate=SAMPLING_RATE)
    assert empty.reason == "no segments given"


def test_segments_from_a_file_keep_speaker_and_text(tmp_path: Path, speech_folder: Path, model: Model) -> None:
    (tmp_path / "call.srt").write_text("1\n00:00:01,000 --> 00:00:03,500\n[Mary]: Well.\n")
    clip = speech_folder / "emodb_timeline.flac"
    (segment,) = e2v_port.analyze(clip, model=model, segments=tmp_path / "call.srt").segments
    assert (segment.start, segment.end, segment.speaker, segment.text) == (1.0, 3.5, "Mary", "Well.")
    assert segment.emotion == model.predict(load_audio(clip)[16_000:56_000], SAMPLING_RATE).label


def test_a_whole_clip_is_one_segment(speech: np.ndarray, speech_folder: Path, model: Model) -> None:
    cases = {320_000: "normal", 8_000: "low_confidence", 480: "low_confidence"}
    for samples, quality in cases.items():
        clip = speech[16_000:][:samples]
        result = e2v_port.analyze(clip, model=model, whole=True, sampling_rate=SAMPLING_RATE)
        (segment,) = result.segments
        assert (segment.start, segment.end, segment.quality) == (0, len(clip) / SAMPLING_RATE, quality)
        assert segment.prediction is not None
        expected = model.predict(clip, SAMPLING_RATE)
        assert segment.prediction.scores == pytest.approx(dict(expected.scores), abs=CLOSE)
    assert result.settings.source == "whole"
    noise = e2v_port.analyze(speech_folder / "gen_white.flac", model=model, whole=True)
    assert noise.segments[0].emotion is not None


def test_settings_have_their_effect(speech: np.ndarray, model: Model) -> None:
    settings = SegmentSettings(merge_gap=0.3, max_duration=5)
    fusion = FusionSettings(short_factor=0.5)
    result = e2v_port.analyze(speech, model=model, settings=settings, fusion=fusion, sampling_rate=SAMPLING_RATE)
    assert [(part.start, part.end) for part in result.segments] == [
        (part.start, part.end) for part in detect(speech, settings)
    ]
    assert (result.settings.segments, result.settings.fusion) == (settings, fusion)
    short = next(part for part in result.segments if part.quality == "low_confidence")
    assert short.prediction is not None
    assert short.confidence == pytest.approx(short.prediction.confidence * 0.5)


# ---- boundaries


def test_boundaries_lie_inside_the_segments(found: Analysis, speech: np.ndarray, model: Model) -> None:
    assert found.boundaries is not None
    for segment in found.segments:
        inside = [part for part in found.boundaries if segment.start <= part.start < segment.end]
        assert (inside[0].start, inside[-1].end) == (segment.start, segment.end)
        assert all(one.end == other.start for one, other in pairwise(inside))
    assert {part.label for part in found.boundaries} <= set(model.labels)
    assert e2v_port.analyze(speech[:80_000], model=model, sampling_rate=SAMPLING_RATE).boundaries is None


def test_a_boundary_has_the_mean_score_of_its_frames(speech: np.ndarray, model: Model) -> None:
    clip = speech[16_000:96_000]
    options: dict[str, Any] = {"model": model, "sampling_rate": SAMPLING_RATE, "whole": True, "frames": True}
    (part,) = e2v_port.analyze(clip, **options, boundaries=BoundarySettings(min_duration=100)).boundaries or ()
    (result,) = model.each([clip], SAMPLING_RATE, frames=True)
    assert not isinstance(result, AudioError)
    used = [not label.unused for label in model.config.labels]
    assert result[1].frame_logits is not None
    powers = np.exp(result[1].frame_logits[:, used].astype(float))
    means = (powers / powers.sum(axis=1, keepdims=True)).mean(axis=0)
    assert part.probability == pytest.approx(means[model.labels.index(part.label)], abs=1e-5)
    assert (part.start, part.end) == (0, 5)
    finest = BoundarySettings(smoothing=0, margin=0, min_duration=0)
    frames = e2v_port.analyze(clip, **options, boundaries=finest).boundaries or ()
    leaders = powers.argmax(axis=1)
    assert len(frames) == 1 + np.count_nonzero(np.diff(leaders)) > 1
    assert frames[1].start == pytest.approx(0.02 * (1 + np.flatnonzero(np.diff(leaders))[0]))


# ---- no model named


def test_the_bundled_model_is_the_default(
    speech: np.ndarray, folders: dict[str, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is free, so that nothing is logged about its license."""
    clip: Any = {"clips": speech[:80_000], "sampling_rate": SAMPLING_RATE, "runtime": "cpu"}
    monkeypatch.setattr("e2v_port.models.load._noted", set())
    monkeypatch.delenv("E2V_LICENCE", raising=False)
    bundled = catalog.lookup("bundled")
    assert bundled is not None
    unnamed = e2v_port.analyze(**clip, frames=True)
    named = e2v_port.analyze(**clip, model="bundled", frames=True)
    assert caplog.messages == []
    assert [part.to_dict() for part in unnamed.segments] == [part.to_dict() for part in named.segments]
    assert [(used.kind, used.name) for used in unnamed.models] == [("categorical", "bundled")]
    assert {part.label for part in unnamed.boundaries or ()} <= set(bundled.labels)
    assert all(part.dimensions_from == "labels" for part in unnamed.segments if part.judgement)

    measured = e2v_port.analyze(**clip, dimensional=folders["dimensional"])
    assert [used.kind for used in measured.models] == ["dimensional"]


@pytest.mark.parametrize("known", [model for model in catalog.known() if model.bundled], ids=lambda model: model.id)
def test_only_a_restricted_model_in_the_package_says_so(
    known: catalog.KnownModel, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, however often it is loaded."""
    monkeypatch.setattr("e2v_port.models.load._noted", set())
    monkeypatch.delenv("E2V_LICENCE", raising=False)
    for _ in range(2):
        e2v_port.load(known.id, runtime="cpu")
    line = f"{known.id}: {known.licence}; E2V_LICENCE=accepted silences this line"
    assert caplog.messages == ([line] if "commercial" in known.licence else [])
    monkeypatch.setattr("e2v_port.models.load._noted", set())
    monkeypatch.setenv("E2V_LICENCE", "accepted")
    caplog.clear()
    e2v_port.load(known.id, runtime="cpu")
    assert caplog.messages == []


def test_an_error_comes_alone(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2v_port.models.load._noted", set())
    with pytest.raises(E2VError, match="tpu"):
        analyze.each([], runtime="tpu")
    assert caplog.messages == []


# ---- what cannot be


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "model", "whole": True, "segments": []}, ValueError, "contradict"),
        ({"dimensional": "dimensional", "frames": True}, ValueError, "needs a model that gives labels"),
        ({"model": "headless"}, NoLabels, "no classification head"),
        ({"model": "dimensional"}, NoLabels, "not labels"),
        ({"model": "model", "dimensional": "model"}, NoLabels, "does not predict arousal"),
        ({"model": "model", "segments": "nowhere.srt"}, SegmentError, "nowhere.srt"),
        ({"model": "nowhere"}, E2VError, "nowhere"),
        ({"model": "model", "runtime": "tpu"}, E2VError, "tpu"),
    ],
)
def test_options_are_checked_before_the_clip_is_read(
    options: dict[str, Any], error: type[Exception], message: str, folders: dict[str, Path]
) -> None:
    given = {
        name: folders.get(value, value) if name in {"model", "dimensional"} else value
        for name, value in options.items()
    }
    with pytest.raises(error, match=message):
        analyze.each(["not read, so not missed.wav"], **({"runtime": "cpu"} | given))


def test_segments_belong_to_one_clip(speech: np.ndarray, model: Model) -> None:
    with pytest.raises(ValueError, match="one clip, not to 2"):
        e2v_port.analyze([speech, speech], model=model, segments=[], sampling_rate=SAMPLING_RATE)
    with pytest.raises(SegmentError, match="beyond the end"):
        e2v_port.analyze(speech, model=model, segments=[GivenSegment(1, 999)], sampling_rate=SAMPLING_RATE)


def test_a_part_that_cannot_be_used_stops_its_clip_alone(speech: np.ndarray, model: Model) -> None:
    """Resampling pushes the loudest clip allowed beyond the limit of a waveform."""
    square = np.sign(np.sin(np.arange(44_100) / 9)) * 99.9
    clips = [speech[:48_000], square, speech[:48_000]]
    results = list(analyze.each(clips, model=model, whole=True, sampling_rate=44_100))
    assert [type(result) for result in results] == [Analysis, AudioError, Analysis]


# ---- results


def test_to_dict_is_json(found: Analysis) -> None:
    row = json.loads(json.dumps(found.to_dict()))
    assert [part["emotion"]["primary"] for part in row["segments"]] == [part.emotion for part in found.segments]
    assert row["segments"][0]["emotion"]["e2v_scores"] == dict(found.segments[0].judgement.scores)  # type: ignore[union-attr, arg-type]
    assert row["context"] == found.to_context()
    assert len(row["boundaries"]) == len(found.boundaries or ())
    assert [used["kind"] for used in row["models"]] == ["categorical", "dimensional"]
    assert row["models"][1]["runtime"] == "cpu"
    assert row["settings"]["segments"]["merge_gap"] == 1.5
    assert row["settings"]["boundaries"]["min_duration"] == 1.0
    assert set(row["timings"]) == {"decode", "speech", "categorical", "dimensional", "fusion"}
    assert found.to_context() in repr(found)


def judged(
    found: Analysis,
    scores: dict[str, float] | None,
    dimensions: Dimensions | None = None,
    seconds: float = 4.0,
    speaker: str | None = None,
) -> Any:
    prediction = None
    if scores:
        label = max(scores, key=scores.__getitem__)
        prediction = Prediction(label, scores[label], scores, scores, seconds)
    judgement = fuse(prediction, dimensions, seconds, label_set=taxonomy.label_set_of(scores) if scores else None)
    return replace(
        found.segments[0],
        start=0.0,
        end=seconds,
        speaker=speaker,
        judgement=judgement,
        prediction=prediction,
    )


FEAR = {"fearful": 0.9, "neutral": 0.1}


@pytest.mark.parametrize(
    ("segments", "line"),
    [
        (
            [(FEAR, Dimensions(0.65, 0.3, 0.2))],
            "[Voice sounds moderately fearful (shade: anxious, high arousal, low dominance, negative valence)]",
        ),
        ([(FEAR, None)], "[Voice sounds fearful]"),  # nothing of the arousal of fear
        ([({"neutral": 0.95, "sad": 0.05}, Dimensions(0.5, 0.5, 0.5))], "[Voice sounds neutral]"),
        ([({"angry": 0.28, "sad": 0.25, "happy": 0.25, "neutral": 0.22}, None)], "[Voice unclear: angry or sad]"),
        ([({"unknown": 0.9, "sad": 0.1}, Dimensions(0.7, 0.5, 0.5))], "[Voice shows no clear emotion (high arousal)]"),
        (
            [(None, Dimensions(0.8, 0.7, 0.1))],
            "[Voice has high arousal and high dominance and negative valence, octant hostile]",
        ),
        ([(None, Dimensions(0.5, 0.5, 0.5))], "[Voice has no marked arousal, dominance or valence, octant bored]"),
        ([({"furious": 0.7, "bored": 0.3}, None)], "[Voice sounds furious]"),
        ([(FEAR, None, 4.0), ({"fearful": 0.1, "neutral": 0.9}, None, 40.0)], "[Voice sounds neutral]"),
        (
            [(FEAR, None, 4.0, "A\n]b["), ({"happy": 0.9, "sad": 0.1}, None, 4.0, "C")],
            "[Voice of A b sounds fearful; Voice of C sounds happy]",
        ),
    ],
)
def test_context(segments: list[Any], line: str, found: Analysis) -> None:
    parts = [judged(found, *segment) for segment in segments]
    text = replace(found, segments=tuple(parts)).to_context()
    assert text.startswith(line)
    assert text.endswith("]")
    assert text.count("\n") == 0
    assert not {"pitch", "speed", "loud"} & set(text.split())


# ---- picture and table


def test_a_picture(found: Analysis, speech: np.ndarray, tmp_path: Path) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.plot(found, speech, tmp_path / "all.png")
    nothing = replace(found, segments=(), boundaries=None, reason="no speech found", file="a_$x$_{.wav")
    plots.plot(nothing, speech, tmp_path / "nothing.png")
    pixels = {name: pixels_of(tmp_path / f"{name}.png") for name in ("all", "nothing")}
    assert pixels["all"].shape == pixels["nothing"].shape == (460, 1100, 4)
    for label in {part.emotion for part in found.segments}:
        colour = np.array([*bytes.fromhex(taxonomy.colour(label or "")[1:])])
        faded = 255 - 0.55 * (255 - colour)
        drawn = {name: int((abs(array[..., :3] - faded) < 3).all(axis=-1).sum()) for name, array in pixels.items()}
        assert drawn["all"] > 500
        assert drawn["nothing"] == 0
    assert dict(mpl.rcParams) == before
    with pytest.raises(ValueError, match=r"x\.docx: not a picture: use the suffix \.png, \.svg, \.pdf"):
        plots.plot(found, speech, tmp_path / "x.docx")


def test_a_picture_marks_derived_dimensions(
    found: Analysis, speech: np.ndarray, model: Model, folders: dict[str, Path], tmp_path: Path
) -> None:
    clip = speech[:160_000]
    own = toys.make(tmp_path / "own", replace(toys.TOY, num_labels=2), tokens=["grumpy", "sunny"])
    own_labels = e2v_port.load(toys.convert(own, tmp_path / "model"), runtime="cpu")
    cases = {
        "measured": found,
        "derived": e2v_port.analyze(clip, model=model, sampling_rate=SAMPLING_RATE),
        "neither": e2v_port.analyze(clip, model=own_labels, sampling_rate=SAMPLING_RATE),
    }
    legends = {}
    for name, case in cases.items():
        plots.plot(case, speech, tmp_path / f"{name}.svg")
        texts = re.findall("<!-- (.+?) -->", (tmp_path / f"{name}.svg").read_text())
        legends[name] = [text for text in texts if text.split(",")[0] in {"confidence", *DIMENSIONS}]
    assert legends == {
        "measured": [*DIMENSIONS],
        "derived": ["confidence", *(f"{name}, derived from labels" for name in DIMENSIONS)],
        "neither": ["confidence"],
    }


def pixels_of(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.round(imread(path) * 255).astype(int)


def test_the_table(found: Analysis) -> None:
    head, columns, *rows = terminal.table(found).plain.splitlines()
    assert head.startswith(f"array  {found.duration:.2f} s  ")
    finer = any(segment.judgement.finer for segment in found.segments if segment.judgement)
    shade = ["shade"] if finer else []
    assert columns.split() == ["start", "end", "emotion", "conf", *shade, "A", "D", "V", "compound", "note"]
    first, segment = " ".join(rows[0].split()), found.segments[0]
    words = segment.judgement.words if segment.judgement else ""
    assert first.startswith(f"{segment.start:.2f} {segment.end:.2f} {words} {segment.confidence:.3f}")
    assert len(rows) == len(found.segments) + 1 + len(found.boundaries or ())
    assert not any(row != row.rstrip() for row in rows)
    assert terminal.table(found, ascii_only=True).plain.isascii()
    bars = [row.count("█") for row in rows[: len(found.segments)]]
    assert bars == [int((part.confidence or 0) * 12 + 1 / 16) for part in found.segments]


def test_the_table_marks_derived_dimensions(found: Analysis, speech: np.ndarray, model: Model) -> None:
    derived = e2v_port.analyze(speech[:160_000], model=model, sampling_rate=SAMPLING_RATE)
    _, columns, *rows, foot = terminal.table(derived).plain.splitlines()
    assert columns.split()[:7] == ["start", "end", "emotion", "conf", "A", "D", "V"]
    for row, segment in zip(rows, derived.segments, strict=True):
        assert segment.dimensions is not None
        assert segment.shade is not None  # and not in the table, where it would repeat the label
        values = [f"~{value:.3f}" for value in (segment.arousal, segment.dominance, segment.valence)]
        assert re.findall(r"\S*~\S+", row) == values
    assert foot.startswith("~ derived from the labels")
    assert "~" not in terminal.table(found).plain


def test_colors_of_the_table(found: Analysis) -> None:
    sure = judged(found, {"happy": 0.9, "sad": 0.1})
    unsure = judged(found, {"happy": 0.2, "sad": 0.1, "angry": 0.15})
    text = terminal.table(replace(found, segments=(sure, unsure), boundaries=None))
    lines = text.split()
    assert [bool({str(span.style) for span in line.spans} & {taxonomy.colour("happy")}) for line in lines[2:4]] == [
        True,
        False,
    ]
    assert {str(span.style) for span in lines[3].spans} == {terminal.GREY}
    assert "unclear: happy or angry" in lines[3].plain
    assert "uncertain" not in lines[3].plain


def test_a_clip_from_a_file_object(speech: np.ndarray, tmp_path: Path, model: Model) -> None:
    soundfile.write(tmp_path / "a.wav", speech[:80_000], SAMPLING_RATE, subtype="FLOAT")
    with open(tmp_path / "a.wav", "rb") as file:
        by_file = e2v_port.analyze(file, model=model)
    by_array = e2v_port.analyze(speech[:80_000], model=model, sampling_rate=SAMPLING_RATE)
    assert by_file.file == str(tmp_path / "a.wav")
    assert [part.to_dict() for part in by_file.segments] == [part.to_dict() for part in by_array.segments]

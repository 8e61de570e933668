"""Which emotion appears when: the spans, their error rate and the corpus with annotated times."""

import json
import subprocess
import sys
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toys
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.audio import SAMPLING_RATE
from e2v_port.emotions.changes import DIARIZATION, Boundary, BoundarySettings, boundaries
from e2v_port.errors import AudioError, CorpusError, NoLabels
from e2v_port.evaluation.datasets import Event
from e2v_port.evaluation.diarization import diarization_errors
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.evaluation.readers import read
from e2v_port.models.model import Model

LABELS = ("neutral", "angry", "happy", "sad")


# ---- spans


@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=1, max_size=60))
def test_each_frame_has_its_most_probable_label(rows: list[list[int]]) -> None:
    """Of equal probabilities the first counts, as with torch.max in speechbrain's class."""
    scores = np.array(rows, np.float64) / 12
    found = boundaries(scores, LABELS, (0.0, 0.02 * len(rows)), 0.02, DIARIZATION)
    runs = [(LABELS[label], len(list(group))) for label, group in groupby(scores.argmax(1).tolist())]
    assert [(span.label, round((span.end - span.start) / 0.02)) for span in found] == runs
    at = 0
    for span, (label, count) in zip(found, runs, strict=True):
        assert span.probability == pytest.approx(scores[at : at + count, LABELS.index(label)].mean())
        at += count


def test_the_example_of_speechbrain() -> None:
    """The docstring of `merge_ssegs_same_emotion_adjacent`, with a frame a second."""
    scores = np.eye(2)[[0] * 9 + [1] * 6 + [0]]
    found = boundaries(scores, ("a", "n"), (0.0, 16.0), 1.0, DIARIZATION)
    assert [(span.start, span.end, span.label) for span in found] == [(0, 9, "a"), (9, 15, "n"), (15, 16, "a")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("model")
    return e2v_port.load(toys.convert(toys.make(folder / "a"), folder / "b"), runtime="cpu")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    at = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (0.3 * np.sin(2 * np.pi * 200 * at * (1 + at)) + 0.05 * draw.standard_normal(len(at))).astype(np.float32)


def test_a_clip_is_diarized_alone_as_in_a_batch(model: Model) -> None:
    clips = [sound(seconds, i) for i, seconds in enumerate((0.7, 3.1, 1.4))]
    together = model.diarize(clips, SAMPLING_RATE)
    for clip, spans in zip(clips, together, strict=True):
        alone = model.diarize(clip, SAMPLING_RATE)
        assert [(span.start, span.end, span.label) for span in alone] == [(s.start, s.end, s.label) for s in spans]
        assert [span.probability for span in alone] == pytest.approx([s.probability for s in spans], abs=2e-5)
        assert (alone[0].start, alone[-1].end) == (0, len(clip) / SAMPLING_RATE)
        assert all(first.end == second.start for first, second in pairwise(alone))
    assert len(together[1]) > len(model.diarize(clips[1], SAMPLING_RATE, settings=BoundarySettings())) >= 1


def test_the_analysis_of_a_whole_clip_has_the_same_spans(model: Model) -> None:
    clip = sound(2.3)
    options: Any = {"whole": True, "frames": True, "boundaries": DIARIZATION, "sampling_rate": SAMPLING_RATE}
    assert e2v_port.analyze(clip, model=model, **options).boundaries == model.diarize(clip, SAMPLING_RATE)


def test_silence_and_models_without_labels_have_no_spans(model: Model, tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="silence"):
        model.diarize(np.zeros(16_000, np.float32), SAMPLING_RATE)
    headless = toys.convert(toys.make(tmp_path / "a", toys.HEADLESS), tmp_path / "b")
    with pytest.raises(NoLabels):
        e2v_port.load(headless, runtime="cpu").diarize(sound(1.0), SAMPLING_RATE)


# ---- the error rate


def spans(*parts: tuple[float, float, str]) -> list[Boundary]:
    return [Boundary(start, end, label, 1.0) for start, end, label in parts]


def test_the_published_example() -> None:
    """The docstring of speechbrain.utils.EDER, which returns 0.2704918032786885; its last frame ends at 1.2 s."""
    found = spans((0, 0.6, "neutral"), (0.6, 1.22, "angry"))
    rates = diarization_errors(found, [Event(0.39, 1.10, "angry")], 1.22)
    assert rates["eder"] == pytest.approx(0.2704918032786885)
    assert rates["missed"] == pytest.approx(0.21 / 1.22)
    assert rates["false_alarm"] == pytest.approx(0.12 / 1.22)
    assert rates["confusion"] == 0


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([(0, 2, "neutral"), (2, 5, "sad"), (5, 10, "neutral")], (0, 0, 0)),
        ([(0, 10, "neutral")], (0, 0.3, 0)),
        ([(0, 10, "sad")], (0.7, 0, 0)),
        ([(0, 10, "angry")], (0.7, 0, 0.3)),
        ([(0, 3, "neutral"), (3, 6, "happy"), (6, 10, "neutral")], (0.1, 0.1, 0.2)),
    ],
)
def test_the_three_errors(found: list[tuple[float, float, str]], expected: tuple[float, float, float]) -> None:
    rates = diarization_errors(spans(*found), [Event(2, 5, "sad")], 10.0)
    assert (rates["false_alarm"], rates["missed"], rates["confusion"]) == pytest.approx(expected)
    assert rates["eder"] == pytest.approx(sum(expected))


@given(st.lists(st.sampled_from(LABELS), min_size=1, max_size=30), st.lists(st.sampled_from(LABELS), min_size=30))
def test_the_rate_is_the_share_of_frames_that_are_wrong(found: list[str], truth: list[str]) -> None:
    truth = truth[: len(found)]
    marks = [Event(i, i + 1, label) for i, label in enumerate(truth)]
    rates = diarization_errors(spans(*((i, i + 1, label) for i, label in enumerate(found))), marks, len(found))
    wrong = [(f, t) for f, t in zip(found, truth, strict=True) if f != t]
    assert rates["eder"] * len(found) == pytest.approx(len(wrong))
    assert rates["missed"] * len(found) == pytest.approx(sum(f == "neutral" for f, _ in wrong))
    assert rates["false_alarm"] * len(found) == pytest.approx(sum(t == "neutral" for _, t in wrong))


# ---- the corpus


@pytest.fixture
def zed(tmp_path: Path) -> Path:
    """A folder as speechbrain's recipe reads it, with a file that is missing and one of another length."""
    folder = tmp_path / "ZED"
    clips = {}
    for i, (name, seconds) in enumerate((("spk1_1", 2.0), ("spk1_2", 1.5), ("spk2_1", 3.0), ("spk3_1", 1.0))):
        (folder / name[:4]).mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name[:4] / f"{name}.wav", sound(seconds, i), SAMPLING_RATE)
        clips[name] = {
            "wav": f"datafolder/{name[:4]}/{name}.wav",
            "duration": seconds,
            "emotion": [{"emo": ("happy", "angry", "sad")[i % 3], "start": 0.4, "end": seconds - 0.1}],
            "transcription": "what was said",
        }
    clips["spk3_1"]["emotion"] = [{"emo": "sad", "start": 0.2, "end": 4.0}]
    clips["spk4_1"] = {**clips["spk1_1"], "wav": "datafolder/spk4/spk4_1.wav"}
    (folder / "ZED.json").write_text(json.dumps(clips), "utf-8")
    return folder


def test_the_annotations_are_read(zed: Path) -> None:
    corpus = read(f"zed={zed}")
    first, second, *_ = corpus.utterances
    assert [utterance.speaker for utterance in corpus.utterances] == [f"zed/spk{i}" for i in (1, 1, 2, 3, 4)]
    assert (first.file, first.events, first.label) == (zed / "spk1" / "spk1_1.wav", (Event(0.4, 1.9, "happy"),), None)
    assert second.events == (Event(0.4, 1.4, "angry"),)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"emotion": [{"emo": "blue", "start": 0, "end": 1}]}, "no emotion is known as 'blue'"),
        ({"emotion": [{"emo": "sad", "start": 1, "end": 1}]}, "an emotion from 1.0 to 1.0 s"),
        ({"emotion": [{"emo": "sad", "start": 0, "end": "late"}]}, "late"),
        ({"emotion": [{"start": 0, "end": 1}]}, "'emo' is missing"),
        (
            {"emotion": [{"emo": "sad", "start": 0, "end": 2}, {"emo": "happy", "start": 1, "end": 3}]},
            "two emotions from 1.0 to 2.0 s",
        ),
        ({"wav": 3, "emotion": []}, "wav is 3, not a path"),
        ({"wav": "a.wav"}, "'emotion' is missing"),
        ("a.wav", "string indices"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named(zed: Path, entry: Any, message: str) -> None:
    changed = {"wav": "datafolder/a.wav", **entry} if isinstance(entry, dict) else entry
    (zed / "ZED.json").write_text(json.dumps({"spk1_1": changed}), "utf-8")
    with pytest.raises(CorpusError, match=f"ZED.json, spk1_1: .*{message}.*: correct this clip or delete it"):
        read(f"zed={zed}")


def test_a_folder_without_annotations(zed: Path) -> None:
    (zed / "ZED.json").write_text("{", "utf-8")
    with pytest.raises(CorpusError, match="not JSON"):
        read(f"zed={zed}")
    (zed / "ZED.json").unlink()
    with pytest.raises(CorpusError, match="pass its folder"):
        read(f"zed={zed}")


def test_an_evaluation_has_the_mean_error_of_the_clips(model: Model, zed: Path) -> None:
    utterances = read(f"zed={zed}").utterances
    evaluation = evaluate(model, utterances)
    assert (evaluation.judged, len(evaluation.errors), evaluation.open) == (3, 2, None)
    assert "annotated up to 4.00 s, but it ends at 1.00 s" in evaluation.errors[0]
    for rule, settings in (("frames", DIARIZATION), ("smoothed", BoundarySettings())):
        rates = [
            diarization_errors(
                model.diarize(u.file, settings=settings), u.events or (), soundfile.info(u.file).duration
            )
            for u in utterances[:3]
        ]
        for name, figure in evaluation.diarization[rule].items():
            assert figure.value == pytest.approx(np.mean([each[name] for each in rates]), abs=1e-6)
            assert figure.low <= figure.value <= figure.high
    assert json.loads(json.dumps(evaluation.to_dict()))["clips"][0]["diarization"]["frames"]["eder"] > 0
    with pytest.raises(CorpusError, match="leave out --adapt"):
        evaluate(model, utterances, adapt=1)


def test_the_command(model: Model, zed: Path, tmp_path: Path) -> None:
    def run(*arguments: str, code: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "e2v_port", "evaluate", "--corpus", f"zed={zed}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done

    folder = str(tmp_path / "b")
    toys.convert(toys.make(tmp_path / "a"), Path(folder))
    done = run("--model", folder, "--out", str(tmp_path / "out"), code=1)
    assert done.stderr.count("error: ") == 2
    header = "share of the clip with the wrong emotion"
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(("each frame", "smoothed"))]
    assert header in done.stdout
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))["corpora"]["zed"]["diarization"]
    assert f"{stored['frames']['eder']['value']:.3f}" in rows[0]
    assert "leave out zed" in run("--model", folder, "--conditions", code=2).stderr

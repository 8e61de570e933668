"""Models limited to chosen labels: the shares among these, what they may be called, and where results say so."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from pyarrow import parquet
from served import Served
from typer.testing import CliRunner

import e2v_port
from e2v_port.analysis.judge import Judge
from e2v_port.analysis.output.terminal import table
from e2v_port.analysis.schema import schema
from e2v_port.analysis.voices import Voices
from e2v_port.audio import load_audio
from e2v_port.cli import app
from e2v_port.client import Client
from e2v_port.corpus.run import run
from e2v_port.emotions.adaptation import Offset
from e2v_port.emotions.estimates import softmax
from e2v_port.errors import CorpusError, NoLabels
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline

CLIP = str(Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac")
CHOSEN = ("angry", "neutral", "sad")


@pytest.fixture(scope="module")
def model() -> Model:
    return e2v_port.load("bundled-tiny", runtime="numpy")


@pytest.fixture(scope="module")
def limited(model: Model) -> Model:
    return model.limited(CHOSEN)


def spelled(model: Model, *names: str) -> Model:
    """Returns the model with its first labels renamed."""
    renamed = (replace(label, name=name) for label, name in zip(model.config.labels, names, strict=False))
    labels = (*renamed, *model.config.labels[len(names) :])
    return Model(replace(model.config, labels=labels), model.runtime, model.dtype, model._runner)


def test_the_chosen_labels_share_the_probability(model: Model, limited: Model) -> None:
    whole, found = model.predict(CLIP), limited.predict(CLIP)
    logits = np.array([whole.logits[name] for name in CHOSEN])
    np.testing.assert_allclose([*found.scores.values()], softmax(logits, model.config.temperature), atol=1e-12)
    assert tuple(found.scores) == tuple(found.logits) == limited.labels == limited.limited_to == CHOSEN
    assert found.label == max(CHOSEN, key=whole.scores.__getitem__)
    np.testing.assert_array_equal(limited.embed(CLIP), model.embed(CLIP))
    assert model.limited_to is None
    assert len(model.predict(CLIP).scores) == len(model.labels) > 3


def test_labels_by_other_names(model: Model) -> None:
    assert model.limited(" Anger, SADNESS,neutral").labels == CHOSEN
    assert model.limited(["sad", "angry"]).labels == ("angry", "sad")
    assert model.limited(CHOSEN).limited(["sad", "angry"]).labels == ("angry", "sad")
    shortened = spelled(model, "ang", "dis", "fea", "hap", "neu", "sad")
    assert shortened.limited("happy,disgust,neu").labels == ("dis", "hap", "neu")
    both = spelled(model, "happiness", "joy", "calm", "grateful")
    assert both.limited("happy,neutral").labels == ("happiness", "joy", "neutral")  # calm is a label of its own
    assert both.limited("joy,calm").labels == ("joy", "calm")
    assert spelled(model, "grumpy").limited("Grumpy,sad").labels == ("grumpy", "sad")


def test_names_that_are_no_labels(model: Model, tmp_path: Path) -> None:
    with pytest.raises(NoLabels, match=r"has no label 'bored': its labels are angry, disgusted, fearful"):
        model.limited("angry,bored")
    with pytest.raises(NoLabels, match=r"^1 label is no choice: name two or more of angry, "):
        model.limited(["angry", "Anger"])
    with pytest.raises(NoLabels, match="no label 'surprise'"):
        e2v_port.load("bundled-tiny", runtime="numpy", labels="sad,surprise")
    with pytest.raises(NoLabels, match="no model that gives labels is named"):
        Judge.load(None, model, labels="sad,angry")
    done = CliRunner().invoke(app, ["analyze", CLIP, "--model", "bundled-tiny", "--labels", "sad,surprise"])
    assert isinstance(done.exception, NoLabels)


def test_an_analysis_says_so(limited: Model) -> None:
    found = e2v_port.analyze(CLIP, model="bundled-tiny", runtime="numpy", labels=",".join(CHOSEN), frames=True)
    [segment] = found.segments
    assert segment.prediction is not None
    part = load_audio(CLIP)[round(segment.start * 16_000) : round(segment.end * 16_000)]
    assert segment.prediction.scores == pytest.approx(limited.predict(part, 16_000).scores, abs=1e-5)
    assert {part.label for part in found.boundaries or ()} <= set(CHOSEN)
    row = json.loads(json.dumps(found.to_dict()))
    jsonschema.Draft202012Validator(schema()).validate(row)
    assert row["models"][0]["limited_to"] == [*CHOSEN]
    assert row["segments"][0]["emotion"]["e2v_scores"].keys() == set(CHOSEN)
    assert "bundled-tiny on numpy, limited to angry, neutral, sad" in table(found).plain
    done = CliRunner().invoke(
        app, ["analyze", CLIP, "--whole", "--model", "bundled-tiny", "--runtime", "numpy", "--labels", "angry,sad"]
    )
    assert "note: probabilities among angry, sad alone" in done.stdout


def test_a_voice_known_with_all_labels_is_known_with_some(model: Model, limited: Model) -> None:
    moved = dict(zip(model.labels, (1.0, -1.0, 0.5, -0.5, 0.0, 0.0), strict=True))
    offset = Offset(moved, 9, 3.0, None, model.centers.model)
    assert limited.centers.labels == CHOSEN
    judge = Judge(limited)
    voices = Voices(judge, {None: Baseline(None, 0, 0.0, {}, {}, offset)}, learn=False)
    result = judge.one(load_audio(CLIP))
    adapted = voices.adapted(None, result)
    assert result.prediction is not None
    assert adapted.prediction is not None
    logits = np.array([result.prediction.logits[name] - moved[name] for name in CHOSEN])
    np.testing.assert_allclose([*adapted.prediction.scores.values()], softmax(logits, model.config.temperature))


def test_a_corpus_has_columns_of_the_chosen_labels_alone(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    shutil.copy(CLIP, tmp_path / "clips" / "a.flac")
    options = {"model": "bundled-tiny", "runtime": "numpy", "whole": True, "offline": True, "workers": 1}
    run(str(tmp_path / "clips"), tmp_path / "rows", labels="sad,anger", **options)
    columns = parquet.read_table(tmp_path / "rows" / "rows")
    assert [name for name in columns.column_names if name.startswith("e2v_")] == ["e2v_angry", "e2v_sad"]
    [row] = columns.to_pylist()
    assert row["e2v_angry"] + row["e2v_sad"] == pytest.approx(1)
    with pytest.raises(CorpusError, match="--update"):
        run(str(tmp_path / "clips"), tmp_path / "rows", **options)
    with pytest.raises(NoLabels, match="no label 'bored'"):
        run(str(tmp_path / "clips"), tmp_path / "other", labels="sad,bored", **options)


def test_an_evaluation_among_the_chosen_labels(tmp_path: Path) -> None:
    rows = ["file,label,speaker", *(f"{CLIP},{label},{label}" for label in ("sad", "neutral", "happy"))]
    (tmp_path / "mine.csv").write_text("\n".join(rows), "utf-8")
    command = ["evaluate", "--model", "bundled-tiny", "--runtime", "numpy", "--corpus", f"csv={tmp_path / 'mine.csv'}"]
    done = CliRunner().invoke(app, [*command, "--split", "all", "--labels", "sad,neutral"])
    assert done.exit_code == 0, done.output
    assert "note: answers limited to neutral, sad" in done.stdout
    assert (
        "--calibrate fits the temperature of all labels"
        in CliRunner().invoke(app, [*command, "--calibrate", "--labels", "sad,neutral"]).output
    )


def test_a_voice_that_is_followed() -> None:
    detector = e2v_port.EmotionDetector("bundled-tiny", runtime="numpy", labels=CHOSEN)
    assert detector.models[0].limited_to == CHOSEN
    judgement = detector.analyze(CLIP).segments[0].judgement
    assert judgement is not None
    assert (judgement.scores or {}).keys() == {*CHOSEN}
    with pytest.raises(ValueError, match="the backend prosodic gives no labels to choose among"):
        e2v_port.EmotionDetector(backend="prosodic", labels=CHOSEN)


def test_the_service() -> None:
    with Served("--model", "bundled-tiny", "--labels", "sad,angry") as served:
        client = Client(served.url, timeout=60, strict=True)
        [model] = client.models()
        assert model.labels == model.limited_to == ("angry", "sad")
        answer = client.analyze(CLIP)
        assert answer.models[0].limited_to == ("angry", "sad")
        assert answer.segments[0].emotion is not None
        assert set(answer.segments[0].emotion.e2v_scores or ()) == {"angry", "sad"}

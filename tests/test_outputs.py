"""Further outputs of a model: what is given unasked, what only by name, and dimensions beside labels in the fusion."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file
from typer.testing import CliRunner

import e2v_port
from e2v_port.analysis.judge import Judge
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.heads import Branch, Step, linear_head
from e2v_port.audio import load_audio
from e2v_port.cli import app
from e2v_port.emotions.estimates import DIMENSIONS, softmax
from e2v_port.errors import NoLabels
from e2v_port.models.model import Model

CLIP = str(Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac")
ROWS = {
    "dimensions": DIMENSIONS,
    "age": ("years",),
    "sex": ("female", "male", "child"),
    "events": ("speech", "music", "laughter", "applause"),
}
MEASURED = (*linear_head(3), Step("sigmoid"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outputs")
    plain = toys.convert(toys.make(place / "source"), place / "plain")
    stored = load_file(plain / "model.safetensors")
    branches = tuple(
        Branch(name, MEASURED if name == "dimensions" else linear_head(len(rows))) for name, rows in ROWS.items()
    )
    architecture = replace(toys.TOY, others=branches)
    draw = np.random.default_rng(3)
    arrays = {
        name: stored[name] if name in stored else draw.normal(0, 0.5, shape)
        for name, shape in architecture.tensors().items()
    }
    return toys.store(place / "model", architecture, arrays, others=ROWS, labels=ModelConfig.read(plain).labels)


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return e2v_port.load(folder, runtime="numpy")


def test_age_and_sex_are_given_only_by_name(model: Model) -> None:
    [result] = model.each([CLIP])
    assert not isinstance(result, e2v_port.AudioError)
    unasked = model.outputs(result)
    assert [*unasked] == ["dimensions", "events"]
    asked = model.outputs(result, ["sex", "age", "sex"])
    assert {name: tuple(numbers) for name, numbers in asked.items()} == {"sex": ROWS["sex"], "age": ROWS["age"]}
    assert model.outputs(result, ["events"]) == {"events": unasked["events"]}
    with pytest.raises(NoLabels, match="no output 'gender': its further outputs are dimensions, age, sex, events"):
        model.outputs(result, ["gender"])
    with pytest.raises(NoLabels, match="bundled-tiny has no output 'age': it has no further outputs"):
        e2v_port.load("bundled-tiny", runtime="numpy").need_outputs(["age"])


def test_the_command_gives_probabilities_and_marks_what_is_personal(model: Model, folder: Path) -> None:
    [result] = model.each([CLIP])
    assert not isinstance(result, e2v_port.AudioError)
    everything = model.outputs(result, ROWS)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["outputs", CLIP, "--model", str(folder), "--runtime", "numpy", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    row = json.loads(run("--json"))
    assert [*row["outputs"]] == ["dimensions", "events"]
    assert row["note"] is None
    shares = dict(zip(ROWS["events"], softmax(np.array([*everything["events"].values()]), 1.0).tolist(), strict=True))
    assert row["outputs"] == {"dimensions": pytest.approx(everything["dimensions"]), "events": pytest.approx(shares)}
    personal = json.loads(run("--json", "--outputs", "age, sex"))
    assert personal["outputs"]["age"] == pytest.approx(everything["age"])
    assert sum(personal["outputs"]["sex"].values()) == pytest.approx(1)
    assert personal["note"].startswith("age and sex: estimated from the voice, and wrong for some groups more often")
    assert personal["licence"] == model.config.licence
    text = run("--outputs", "age")
    assert f"age [years {everything['age']['years']:.3f}]" in text
    assert "note: age: estimated from the voice" in text
    assert "age [" not in run()


def test_dimensions_beside_labels_feed_the_fusion_in_the_same_pass(model: Model, tmp_path: Path) -> None:
    waveform = load_audio(CLIP)
    [result] = model.each([waveform], 16_000)
    assert not isinstance(result, e2v_port.AudioError)
    found = Judge(model).one(waveform)
    assert found.dimensions == model.measure(result)
    assert found.prediction is not None
    assert found.judgement is not None
    assert found.judgement.dimensions_from == "model"
    assert found.judgement.sources == ("categorical", "dimensional")
    dimensional = e2v_port.load(toys.convert(toys.make_dimensional(tmp_path / "a"), tmp_path / "b"), runtime="numpy")
    both = Judge(model, dimensional).one(waveform)
    assert both.dimensions is not None
    wanted = dimensional.dimensions(waveform, 16_000)
    assert both.dimensions.to_dict() == pytest.approx(wanted.to_dict(), abs=2e-5)


def test_nothing_personal_is_in_an_analysis(model: Model) -> None:
    text = json.dumps(e2v_port.analyze(CLIP, model=model).to_dict())
    assert not [name for name in ("female", "years", "applause") if name in text]

"""Heads on layers of transformers: learned weights and attention, features kept in files, fine-tuned blocks."""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import toys
from numpy.typing import NDArray
from safetensors.numpy import load_file

import e2v_port
from e2v_port.architectures.base import Readout, Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.errors import TrainingError
from e2v_port.evaluation import readers
from e2v_port.training import features, finetuning, head, pooling
from e2v_port.training import task as training_task
from e2v_port.training.head import HeadRecipe, layers_of

RATE = 16_000
SPEAKERS = {"train": "abcd", "dev": "ef", "test": "g"}
LABELS = ("angry", "neutral", "sad")
FAST = HeadRecipe(epochs=20, rate=1e-2, batch=16)
SMALL = replace(toys.HEADLESS, depth=2)  # four blocks, two of them in the context encoder


def sound(label: str, speaker: str, take: int) -> NDArray[np.float32]:
    """A hum whose loudness swings fast, slowly or not at all, at the pitch of a speaker."""
    draw = np.random.default_rng([ord(speaker), take, LABELS.index(label)])
    at = np.arange(int(draw.uniform(0.5, 0.8) * RATE)) / RATE
    swing = {"angry": 14.0, "neutral": 0.0, "sad": 3.0}[label]
    loud = 1 + 0.9 * np.sin(2 * np.pi * swing * at + draw.uniform(0, 6))
    hum = np.sin(2 * np.pi * (120 + 40 * "abcdefg".index(speaker)) * at) + 0.2 * draw.standard_normal(len(at))
    return (0.1 * loud * hum).astype(np.float32)


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    with (folder / "swings.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "speaker", "split"])
        for split, speakers in SPEAKERS.items():
            for speaker in speakers:
                for label in LABELS:
                    for take in range(3):
                        name = f"{speaker}-{label}-{take}.wav"
                        soundfile.write(folder / name, sound(label, speaker, take), RATE)
                        table.writerow([name, label, speaker, split])
    return f"csv={folder / 'swings.csv'}"


@pytest.fixture(scope="module")
def task(spec: str) -> training_task.Task:
    return training_task.choose([readers.read(spec)])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbone")
    return toys.convert(toys.make(folder / "toy", SMALL), folder / "converted")


def test_the_new_model_holds_the_numbers_of_a_packed_one(task: training_task.Task, tmp_path: Path) -> None:
    wide = replace(SMALL, embed_dim=64, num_heads=8, num_alibi_heads=8, ffn_dim=192)
    packed = toys.convert(toys.make(tmp_path / "toy", wide), tmp_path / "packed", dtype="q4")
    head.train(packed, task, tmp_path / "model", FAST, runtime="cpu", number_of_threads=1)
    assert ModelConfig.read(tmp_path / "model").dtype == "float32"
    clip = task.parts["dev"][0].file
    found, wanted = (model_of(folder).embed(clip) for folder in (tmp_path / "model", packed))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("layers", "finetune"), [("", 0), ("2,5", 0), ("", 1)])
def test_a_model_with_further_outputs_gets_a_new_head_alone(
    task: training_task.Task, tmp_path: Path, layers: str, finetune: int
) -> None:
    """The new head is for the states of SenseVoice's queries, or for the frames of its blocks."""
    old = toys.convert(toys.make_sensevoice(tmp_path / "toy"), tmp_path / "old")
    recipe = replace(FAST, layers=layers, finetune=finetune, finetune_epochs=1)
    head.train(old, task, tmp_path / "model", recipe, runtime="cpu", number_of_threads=1)
    config = ModelConfig.read(tmp_path / "model")
    assert config.others == {}
    assert not config.architecture.others
    assert {*model_of(tmp_path / "model").predict(task.parts["dev"][0].file).scores} == {*LABELS}


def model_of(folder: Path, runtime: str = "cpu") -> e2v_port.Model:
    return e2v_port.load(folder, runtime=runtime, offline=True)


def outputs(folder: Path, task: training_task.Task, runtime: str = "cpu") -> NDArray[np.float64]:
    predictions = model_of(folder, runtime).predict([clip.file for clip in task.parts["dev"]])
    return np.array([list(one.logits.values()) for one in predictions])


def dev_loss(folder: Path, task: training_task.Task) -> float:
    """The development loss, by the model as anybody loads it."""
    targets = torch.tensor([LABELS.index(str(clip.label)) for clip in task.parts["dev"]])
    return torch.nn.functional.cross_entropy(torch.from_numpy(outputs(folder, task)), targets).item()


KINDS = [
    ("2", "mean"),
    ("2", "deviation"),
    ("weighted", "mean"),
    ("2-4", "deviation"),
    ("3", "attention"),
    ("1,3", "attention"),
]


@pytest.mark.parametrize(("layers", "kind"), KINDS)
def test_a_model_answers_as_its_head_was_trained(
    backbone: Path, task: training_task.Task, tmp_path: Path, layers: str, kind: str
) -> None:
    """What is trained on means, covariances and frames in files is what both runtimes compute from a waveform."""
    out = tmp_path / "model"
    recipe = replace(FAST, layers=layers, pooling=kind, heads=3)
    report = head.train(backbone, task, out, recipe, runtime="cpu", number_of_threads=1)
    chosen = layers_of(layers, 4)
    architecture = ModelConfig.read(out).architecture
    assert isinstance(architecture, Transformer)
    assert architecture.readout == Readout(chosen, kind, 3 if kind == "attention" else 0)
    assert architecture.blocks == chosen[-1]
    before, after = (load_file(folder / "model.safetensors") for folder in (backbone, out))
    kept = [name for name in after if not name.startswith(("head.", "readout."))]
    assert all(np.array_equal(before[name], after[name]) for name in kept)
    assert len(kept) < len(before) or chosen[-1] == 4
    best = report["curve"][report["best"] - 1]
    # Frames for attention are kept in 16 bits.
    assert dev_loss(out, task) == pytest.approx(best["dev_loss"], abs=5e-3 if kind == "attention" else 1e-4)
    if len(chosen) > 1:
        assert np.ptp(after["readout.weights"]) > 1e-3, "the weights have learned"
    if kind == "attention":
        assert np.abs(after["readout.attention.weight"]).max() > 0
    if kind != "mean":
        assert report["curve"][-1]["loss"] < 0.7 * report["curve"][0]["loss"]


@toys.needs_mlx
def test_mlx_answers_alike(backbone: Path, task: training_task.Task, tmp_path: Path) -> None:
    for layers, kind in (("1-3", "deviation"), ("2", "attention")):
        recipe = replace(FAST, layers=layers, pooling=kind, heads=2, epochs=2)
        head.train(backbone, task, tmp_path / kind, recipe, runtime="cpu", number_of_threads=1)
        torch_, mlx = (outputs(tmp_path / kind, task, runtime) for runtime in ("cpu", "mlx"))
        np.testing.assert_allclose(torch_, mlx, rtol=0, atol=1e-3)


def test_pooling_of_features_is_the_readout_of_frames() -> None:
    """Whatever the weights: means and covariances say as much as frames do."""
    draw = np.random.default_rng(2)
    states = draw.normal(1, 2, (4, 50, 48)).astype(np.float32)
    for readout in (Readout((3,), "deviation"), Readout((1, 3, 4), "deviation"), Readout((2, 4), "mean")):
        architecture = SMALL.read(readout)
        found = pooling.Pooling(architecture, torch.ones(1))
        shares = np.ones(1)
        if found.weights is not None:
            with torch.no_grad():
                found.weights.copy_(torch.from_numpy(draw.normal(0, 1, len(readout.layers))))
            shares = np.exp(found.weights.detach().numpy())
        frames = np.tensordot(shares / shares.sum(), states[[layer - 1 for layer in readout.layers]], 1)
        expected = [frames.mean(0), *([np.sqrt(frames.var(0) + 1e-5)] if readout.pooling == "deviation" else [])]
        row = torch.from_numpy(features.reduced(states, readout))[None]
        np.testing.assert_allclose(
            found(row, torch.zeros(1))[0].detach().numpy(), np.concatenate(expected), rtol=0, atol=1e-5
        )


def test_a_second_head_computes_nothing_again(
    backbone: Path, task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "features"
    recipe = replace(FAST, layers="1-3", copies=2, epochs=2)
    first = head.train(backbone, task, tmp_path / "first", recipe, runtime="cpu", features=kept)
    clips = {part: len(task.parts[part]) for part in ("train", "dev")}
    assert len([*kept.glob("*/*.npy")]) == 3 * clips["train"] + 2 * clips["dev"]
    assert set(first["curve"][0]["scores"]) == {"swings", "swings augmented"}
    with monkeypatch.context() as context:
        context.setattr(e2v_port.Model, "each_layers", lambda *_, **__: pytest.fail("computed again"))
        context.setattr(features, "record", lambda *_, **__: pytest.fail("augmented again"))
        again = head.train(backbone, task, tmp_path / "again", recipe, runtime="cpu", features=kept)
        assert again["curve"] == first["curve"]
        head.train(backbone, task, tmp_path / "wider", replace(recipe, hidden=5), runtime="cpu", features=kept)
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            head.train(backbone, task, tmp_path / "other", replace(recipe, layers="2"), runtime="cpu", features=kept)
    same = [load_file(tmp_path / name / "model.safetensors") for name in ("first", "again")]
    assert all(np.array_equal(same[0][name], same[1][name]) for name in same[0])
    other = replace(task, seed=1)
    head.train(backbone, other, tmp_path / "seed", recipe, runtime="cpu", features=kept)
    assert len([*kept.glob("*/*.npy")]) == 5 * clips["train"] + 3 * clips["dev"], "only the copies are others"


def test_a_clip_that_cannot_be_read_is_left_out(backbone: Path, spec: str, tmp_path: Path) -> None:
    source = Path(spec.removeprefix("csv=")).parent
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "a-sad-0.wav").write_bytes(b"no sound")
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    task = training_task.choose([readers.read(f"csv={tmp_path / 'swings.csv'}")])
    recipe = replace(FAST, layers="1", copies=1, epochs=1)
    report = head.train(backbone, task, tmp_path / "model", recipe, runtime="cpu", progress=progress)
    assert [line for line in lines if "a-sad-0.wav" in line and line.startswith("left out")]
    assert sum(map(sum, report["dev"]["swings"]["confusion"])) == len(task.parts["dev"])


# Fine-tuned blocks.

TUNING = replace(FAST, layers="2-3", finetune=2, finetune_rate=1e-3, finetune_epochs=3, copies=1, epochs=3)


@pytest.fixture(scope="module")
def tuned(backbone: Path, task: training_task.Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("tuned") / "model"
    return out, head.train(backbone, task, out, TUNING, runtime="cpu", number_of_threads=1)


def test_fine_tuning_changes_the_last_blocks_only(
    tuned: tuple[Path, Any], backbone: Path, task: training_task.Task
) -> None:
    out, report = tuned
    before, after = (load_file(folder / "model.safetensors") for folder in (backbone, out))
    changed = {name for name in after if name in before and not np.array_equal(before[name], after[name])}
    # Of three blocks that are kept, two in the context encoder, the last two.
    assert report["best"] > 3, "an epoch of fine-tuning is the best"
    assert {name.rsplit(".", 2)[0].split(".attn")[0].split(".mlp")[0] for name in changed} == {
        "context_blocks.1",
        "blocks.0",
    }
    assert len(changed) == sum(name.startswith(("context_blocks.1.", "blocks.0.")) for name in after)
    assert [row["epoch"] for row in report["curve"]] == [1, 2, 3, 4, 5, 6]
    predicted = outputs(out, task).argmax(1)
    matrix = np.zeros((3, 3), int)
    for clip, label in zip(task.parts["dev"], predicted, strict=True):
        matrix[LABELS.index(str(clip.label)), label] += 1
    assert report["dev"]["swings"]["confusion"] == matrix.tolist()


def test_interrupted_fine_tuning_ends_with_the_same_weights(
    tuned: tuple[Path, Any], backbone: Path, task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    epoch = finetuning._Run.epoch

    def interrupted(self: Any, number: int, advance: Any) -> None:
        if number == 3:
            raise KeyboardInterrupt
        epoch(self, number, advance)

    with monkeypatch.context() as context:
        context.setattr(finetuning._Run, "epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            head.train(backbone, task, out, TUNING, runtime="cpu", number_of_threads=1)
    assert not out.exists()
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    monkeypatch.setattr(head, "_fit", lambda *_: pytest.fail("the head is trained again"))
    report = head.train(backbone, task, out, TUNING, runtime="cpu", number_of_threads=1, progress=progress)
    assert "resuming after epoch 2 of 3 of fine-tuning" in lines
    assert report["curve"] == tuned[1]["curve"]
    result, expected = (load_file(folder / "model.safetensors") for folder in (out, tuned[0]))
    assert all(np.array_equal(result[name], expected[name]) for name in expected)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model-report"}


def test_fine_tuning_that_does_not_help_changes_nothing(
    backbone: Path, task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(TUNING, finetune_epochs=1, copies=0)
    monkeypatch.setattr(finetuning._Run, "_judge", lambda *_: np.zeros((len(task.parts["dev"]), 3), np.float32))
    report = head.train(backbone, task, tmp_path / "model", recipe, runtime="cpu", number_of_threads=1)
    assert report["best"] <= 3
    before, after = (load_file(folder / "model.safetensors") for folder in (backbone, tmp_path / "model"))
    assert all(np.array_equal(before[name], after[name]) for name in after if name in before)


# What is asked for.


@pytest.mark.parametrize(
    ("text", "expected"),
    [("3", (3,)), ("2-4", (2, 3, 4)), ("2,4", (2, 4)), ("4,1-2", (1, 2, 4)), ("weighted", (1, 2, 3, 4))],
)
def test_layers_are_named_by_numbers_and_ranges(text: str, expected: tuple[int, ...]) -> None:
    assert layers_of(text, 4) == expected


@pytest.mark.parametrize("text", ["0", "5", "3-2", "2-", "-2", "a", "", ",", "1,,2", "1-2-3", "²", "1 ", "all"])
def test_other_layers_are_refused(text: str) -> None:
    with pytest.raises(TrainingError, match="from 1 to 4"):
        layers_of(text, 4)


def test_what_a_model_does_not_have_is_refused(backbone: Path, task: training_task.Task, tmp_path: Path) -> None:
    small = toys.make_small(tmp_path / "small", toys.GRAM)
    half = toys.convert(toys.make(tmp_path / "toy", SMALL), tmp_path / "half", dtype="float16")
    for model, recipe, words in (
        (small, HeadRecipe(layers="1"), "no layers to read"),
        (small, HeadRecipe(finetune=1), "no layers to fine-tune"),
        (backbone, HeadRecipe(layers="5"), "from 1 to 4"),
        (backbone, HeadRecipe(layers="1", pooling="max"), "pooling must be"),
        (backbone, HeadRecipe(layers="2", finetune=3), "3 blocks cannot be fine-tuned: 2 are kept"),
        (half, HeadRecipe(layers="2", finetune=1), "use one in float32"),
    ):
        with pytest.raises(TrainingError, match=words):
            head.train(model, task, tmp_path / "out", recipe, runtime="cpu")
    assert not (tmp_path / "out").exists()

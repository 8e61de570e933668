"""Training, from corpora to models that load: small networks and heads, interruptions, reports, errors."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import toys
from safetensors.numpy import load_file
from sklearn.utils.class_weight import compute_class_weight

import e2v_port
from e2v_port import cli
from e2v_port.architectures.config import ModelConfig
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CorpusError, TrainingError
from e2v_port.evaluation import metrics, readers, splits
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.evaluation.report import report as report_lines
from e2v_port.evaluation.results import Seen
from e2v_port.training import clips, network, objective, scratch
from e2v_port.training import head as training_head
from e2v_port.training import report as training_report
from e2v_port.training import task as training_task
from e2v_port.training import teacher as teachers
from e2v_port.training.augmentation import Augmentation
from e2v_port.training.head import HeadRecipe
from e2v_port.training.network import Student
from e2v_port.training.recipe import Recipe

RATE = 16_000
LABELS = ("angry", "neutral", "sad")
SPEAKERS = {"train": ("a", "b", "c"), "dev": ("d", "e"), "test": ("f",)}

SMALL = Recipe(
    window=400,
    step=200,
    bands=16,
    stages=((8,), (12, 12)),
    width=12,
    copies=1,
    seconds=(0.3, 0.45),
    masks=1,
    mask_columns=3,
    mask_bands=2,
    mixup=0.2,
    dropout=0.1,
    epochs=12,
    batch=12,
    rate=1e-2,
    average=0.3,
)


def sound(label: str, speaker: str, take: int) -> np.ndarray:
    """Returns the sound of a label, at the pitch of a speaker: a rising tone, noise, or a falling tone."""
    rng = np.random.default_rng([ord(speaker), take, LABELS.index(label)])
    at = np.arange(int(0.5 * RATE)) / RATE
    base = 300 + 60 * "abcdef".index(speaker) + rng.uniform(-20, 20)
    sweep = {"angry": 3.0, "sad": -1.4}.get(label, 0.0)
    clear = np.sin(2 * np.pi * base * (at + sweep * at**2)) + 0.5 * np.sin(4 * np.pi * base * (at + sweep * at**2))
    noise = rng.standard_normal(len(at))
    return (0.1 * (noise if label == "neutral" else clear + 0.05 * noise)).astype(np.float32)


def write_corpus(folder: Path, takes: int = 4, labels: tuple[str, ...] = LABELS, dimensions: bool = True) -> str:
    """Writes a csv corpus of tones and noise; returns its spec."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "tones.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "speaker", "split", *(DIMENSIONS if dimensions else [])])
        for split, speakers in SPEAKERS.items():
            for speaker in speakers:
                for label in labels:
                    for take in range(takes):
                        name = f"{speaker}-{label}-{take}.wav"
                        soundfile.write(folder / name, sound(label, speaker, take), RATE)
                        first = 0.1 + 0.4 * LABELS.index(label) + 0.02 * take
                        values = [f"{value:.3f}" for value in (first, 1 - first, 0.5 + 0.3 * (first - 0.5))]
                        table.writerow([name, label, speaker, split, *(values if dimensions else [])])
    return f"csv={folder / 'tones.csv'}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def task(spec: str) -> training_task.Task:
    return training_task.choose([readers.read(spec)])


@pytest.fixture(scope="module")
def trained(task: training_task.Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small network, trained without an interruption."""
    out = tmp_path_factory.mktemp("trained") / "model"
    return out, scratch.train(task, out, SMALL, number_of_threads=1)


def model_of(folder: Path, runtime: str = "cpu") -> e2v_port.Model:
    return e2v_port.load(folder, runtime=runtime, offline=True)


def files_of(task: training_task.Task, part: str) -> list[Path]:
    return [clip.file for clip in task.parts[part]]


def perturbed(recipe: Recipe) -> Student:
    """Returns a student with weights and norms like trained ones."""
    torch.manual_seed(1)
    made = Student(recipe.architecture(3), recipe)
    with torch.no_grad():
        for name, value in made.named_parameters():
            value.mul_(torch.empty_like(value).uniform_(0.5, 1.5))
            if name.endswith("bias") and value.requires_grad:
                value.add_(0.3 * torch.randn_like(value))
        for name, value in made.named_buffers():
            if name.endswith("running_mean"):
                value.add_(torch.randn_like(value))
            elif name.endswith("running_var"):
                value.mul_(torch.empty_like(value).uniform_(0.3, 3))
    return made


# The network.


@pytest.mark.parametrize(
    "recipe",
    [
        SMALL,
        replace(SMALL, pooling="gram", residual=False),
        replace(SMALL, band_norm=False, normalize=True, stages=((1, 1), (4, 4), (6,))),
    ],
    ids=["deviation", "gram", "normalized"],
)
def test_the_folded_network_equals_the_trained_one(recipe: Recipe) -> None:
    made = perturbed(recipe)
    twin = type(made.twin)(made.twin.config)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in network.folded(made).items()})
    waveforms = [sound(label, "a", 0)[: 8000 - 1500 * i] for i, label in enumerate(LABELS)]
    spectrogram, lengths = made.spectrogram(waveforms)
    with torch.inference_mode():
        expected = made.eval()(spectrogram, lengths)
        result = twin.eval().network(spectrogram, lengths)[2]
    assert expected.abs().max() > 0.5
    assert (result - expected).abs().max() < 1e-4
    assert np.abs(made.judge(waveforms) - expected.numpy()).max() < 1e-4


def test_a_mask_hides_columns_and_bands_of_its_clip_only() -> None:
    spectrogram = torch.randn(50, 40, 16)
    lengths = [40, *[30] * 49]
    before = spectrogram.clone()
    recipe = replace(SMALL, masks=2, mask_columns=5, mask_bands=4)
    scratch.masked(spectrogram, lengths, recipe, np.random.default_rng(0))
    changed = spectrogram != before
    assert not changed[1:, 30:].any()
    columns, bands = changed[0].all(1), changed[0].all(0)
    assert 0 < columns.sum() <= 10
    assert 0 < bands.sum() <= 8
    assert not changed[0][~columns][:, ~bands].any()
    hidden = spectrogram[0][columns | False]
    assert (hidden - before[0].mean()).abs().max() < 0.2  # the second mask uses the mean that the first one left


# Training a student.


def test_it_learns_and_loads(trained: tuple[Path, dict], task: training_task.Task) -> None:
    out, report = trained
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}
    assert not list(out.parent.glob(".*"))
    assert report["curve"][report["best"] - 1]["score"] > 0.9
    model = model_of(out)
    assert model.labels == LABELS
    test = task.parts["test"]
    predictions = model.predict([one.file for one in test])
    truth, result = (
        [LABELS.index(label) for label in labels]
        for labels in ([one.label for one in test], [one.label for one in predictions])
    )
    assert metrics.uar(metrics.confusion(np.array(truth), np.array(result), 3)) > 0.9


def test_the_report_has_the_figures_of_the_model(trained: tuple[Path, dict], task: training_task.Task) -> None:
    out, report = trained
    assert json.loads((training_report.folder_of(out) / "training.json").read_text("utf-8")) == json.loads(
        json.dumps(report)
    )
    dev = task.parts["dev"]
    predictions = model_of(out).predict([one.file for one in dev])
    matrix = np.zeros((3, 3), int)
    for one, prediction in zip(dev, predictions, strict=True):
        matrix[LABELS.index(one.label), LABELS.index(prediction.label)] += 1
    assert report["dev"]["tones"]["confusion"] == matrix.tolist()
    assert report["dev"]["tones"]["uar"] == pytest.approx(np.mean(np.diag(matrix) / matrix.sum(1)))
    assert report["curve"][report["best"] - 1]["scores"]["tones"] == report["dev"]["tones"]["uar"]
    assert report["clips"] == {part: 12 * len(SPEAKERS[part]) for part in SPEAKERS}
    assert report["speakers"]["dev"]["tones"] == ["tones/d", "tones/e"]
    stored = load_file(out / "model.safetensors")
    assert stored["head.means"].any(1).all()
    assert report["parameters"] == sum(value.size for name, value in stored.items() if name != "head.means")
    assert report["recipe"] == asdict(SMALL)
    config = ModelConfig.read(out)
    assert config.licence == "trained on tones (license unknown)"
    assert (config.source.repository, config.source.hub) == (out.name, "local")


def test_a_seed_determines_the_weights(trained: tuple[Path, dict], task: training_task.Task, tmp_path: Path) -> None:
    scratch.train(task, tmp_path / "again", SMALL, number_of_threads=1)
    again, first = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", trained[0]))
    assert all(np.array_equal(again[name], first[name]) for name in first)
    scratch.train(replace(task, seed=1), tmp_path / "other", replace(SMALL, epochs=1), number_of_threads=1)
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not any(np.array_equal(other[name], first[name]) for name in first if name != "mel")


class Interruption(training_task.Progress):
    """Raises KeyboardInterrupt in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, at_step: int) -> None:
        self.left = at_step
        super().__init__(
            lambda _: None, lambda _, what: self if what.startswith("epoch") else training_task.SILENT.bar(0, "")
        )

    def __enter__(self):
        return self.step

    def __exit__(self, *_: object) -> None:
        pass

    def step(self) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import test_training
from e2v_port.evaluation import readers
from e2v_port.training import scratch, task as tasks

def say(line):
    if line.startswith("epoch 6/"):
        os.kill(os.getpid(), signal.SIGKILL)

task = tasks.choose([readers.read(sys.argv[1])])
progress = tasks.Progress(say, tasks.SILENT.bar)
scratch.train(task, Path(sys.argv[2]), test_training.SMALL, number_of_threads=1, progress=progress)
"""


def test_an_interrupted_training_ends_with_the_same_weights(
    trained: tuple[Path, dict], task: training_task.Task, spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        scratch.train(task, out, SMALL, number_of_threads=1, progress=Interruption(8))  # in the third epoch
    assert not out.exists()
    program = [sys.executable, "-c", KILLED, spec, str(out), str(Path(__file__).parent)]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(TrainingError, match=r"other settings \(recipe\).*--restart"):
        scratch.train(task, out, replace(SMALL, epochs=3))
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    report = scratch.train(task, out, SMALL, number_of_threads=1, progress=progress)
    assert "resuming after epoch 6 of 12" in lines
    result, expected = (load_file(folder / "model.safetensors") for folder in (out, trained[0]))
    assert all(np.array_equal(result[name], expected[name]) for name in expected)
    assert report["curve"] == trained[1]["curve"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model", "model-report"]


def test_copies_are_the_same_after_an_interruption(task: training_task.Task, tmp_path: Path) -> None:
    train, dev = files_of(task, "train"), files_of(task, "dev")
    recipe = replace(SMALL, copies=2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = clips.record(tmp_path / "a", train, dev, recipe, seed=4)
    clips.record(tmp_path / "b", train, dev, replace(recipe, copies=1), seed=4)
    second = clips.record(tmp_path / "b", train, dev, recipe, seed=4)  # resumes
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.lengths, other.lengths)
        assert all(np.array_equal(one[clip], other[clip]) for clip in range(len(train) + len(dev)))
    plain, copy, last = first
    assert plain.get(0) == pytest.approx(soundfile.read(train[0])[0], abs=1e-4)
    assert not np.array_equal(copy[0], last[0])
    assert last.lengths[len(train) :].sum() == 0
    assert copy.lengths.all()


def test_every_epoch_draws_new_clips(task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    loss = scratch._loss

    def recorded(student: Student, clips: scratch._Clips, batch: np.ndarray, *others: object) -> torch.Tensor:
        drawn.append(batch.tobytes())
        return loss(student, clips, batch, *others)

    monkeypatch.setattr(scratch, "_loss", recorded)
    scratch.train(task, tmp_path / "model", replace(SMALL, epochs=3))
    assert len(drawn) == len(set(drawn)) == 9


def test_early_stopping_keeps_the_best_epoch(task: training_task.Task, tmp_path: Path) -> None:
    report = scratch.train(task, tmp_path / "model", replace(SMALL, epochs=30, patience=2), number_of_threads=1)
    best = max(report["curve"], key=lambda row: (row["score"], -row["dev_loss"]))
    assert report["best"] == best["epoch"]
    assert len(report["curve"]) in {best["epoch"] + 2, 30}
    dev = task.parts["dev"]
    logits = [list(one.logits.values()) for one in model_of(tmp_path / "model").predict([one.file for one in dev])]
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor([LABELS.index(o.label) for o in dev]))
    if len(report["curve"][0]["scores"]) == 1:
        assert loss.item() == pytest.approx(best["dev_loss"], abs=1e-3)


def test_a_file_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    spec = write_corpus(tmp_path, takes=2)
    (tmp_path / "a-sad-0.wav").write_bytes(b"no sound")
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    task = training_task.choose([readers.read(spec)])
    scratch.train(task, tmp_path / "model", replace(SMALL, epochs=1), progress=progress)
    assert sum("a-sad-0.wav" in line and line.startswith("left out") for line in lines) == 1
    for file in files_of(task, "dev"):
        file.unlink()
    with pytest.raises(TrainingError, match="no development file can be read"):
        scratch.train(task, tmp_path / "other", replace(SMALL, epochs=1))


@pytest.mark.parametrize("label", ["angry", "sad"])  # the first and the last of the outputs
def test_a_label_without_a_readable_clip_is_named(
    backbones: dict[str, Path], spec: str, tmp_path: Path, label: str
) -> None:
    task = training_task.choose([readers.read(write_corpus(tmp_path, takes=2))])
    assert label in {task.outputs[0], task.outputs[-1]}
    for file in tmp_path.glob(f"*-{label}-*.wav"):
        file.write_bytes(b"no sound")
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    scratch.train(task, tmp_path / "model", replace(SMALL, epochs=1), progress=progress)
    training_head.train(
        backbones["wav2small"], task, tmp_path / "head", HeadRecipe(epochs=2), runtime="cpu", progress=progress
    )
    wanted = f"no training clip of {label} can be read: the model will hardly ever answer that"
    assert lines.count(wanted) == 2
    for file in tmp_path.glob("*-neutral-*.wav"):
        file.write_bytes(b"no sound")
    with pytest.raises(TrainingError, match="all have the same label"):
        scratch.train(task, tmp_path / "other", replace(SMALL, epochs=1))


# Selection of clips, and errors.


def test_rare_labels_and_small_corpora_are_drawn_more_often(task: training_task.Task) -> None:
    names = ["big"] * 90 + ["small"] * 10
    targets = np.array([0] * 80 + [1] * 10 + [0] * 5 + [1] * 5)
    everything = np.arange(100)
    none = everything[:0]
    for balance, rare in ((0.0, 10 / 90), (1.0, 0.5), (0.5, 10**0.5 / (10**0.5 + 80**0.5))):
        weights = scratch._weights(scratch._Clips([], targets, np.eye(2), names, everything, none, none), balance)
        assert weights.sum() == pytest.approx(1)
        assert weights[90:].sum() == pytest.approx(0.5)
        assert weights[:90][targets[:90] == 1].sum() == pytest.approx(0.5 * rare)


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    one = readers.read(write_corpus(tmp_path / "one", takes=1, labels=("sad",), dimensions=False))
    with pytest.raises(CorpusError, match="all training clips are sad"):
        training_task.choose([one])
    with pytest.raises(CorpusError, match="no clip has arousal, dominance and valence"):
        training_task.choose([one], dimensional=True)
    three = readers.read(write_corpus(tmp_path / "three", takes=1))
    everybody = [f"tones/{speaker}" for speaker in "abcdef"]
    with pytest.raises(CorpusError, match="no speaker is left to train on"):
        training_task.choose([three], everybody[:2], everybody[2:])
    with pytest.raises(CorpusError, match="no speaker is left for development"):
        training_task.choose([three], [], ["tones/d", "tones/e"])
    lonely = training_task.choose([three], everybody[1:])
    assert sum("are by tones/a:" in note for note in lonely.notes) == 3


def test_labels_that_only_others_have_are_left_out(tmp_path: Path) -> None:
    table = Path(write_corpus(tmp_path, takes=1).removeprefix("csv="))
    rows = table.read_text().replace("d-sad-0.wav,sad", "d-sad-0.wav,happy").replace("a-sad-0.wav,sad", "a-sad-0.wav,x")
    table.write_text(rows)
    task = training_task.choose([readers.read(f"csv={table}")])
    assert task.outputs == LABELS
    assert [len(task.parts[part]) for part in ("train", "dev", "test")] == [8, 5, 3]
    assert any("happy (1)" in note and "x (1)" in note for note in task.notes)


# Distillation.


@pytest.fixture(scope="module")
def odd(trained: tuple[Path, dict], tmp_path_factory: pytest.TempPathFactory) -> teachers.Teacher:
    """A teacher that calls every label by the name of the next one."""
    folder = tmp_path_factory.mktemp("odd") / "model"
    shutil.copytree(trained[0], folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["labels"] = config["labels"][1:] + config["labels"][:1]
    config["licence"] = "odd: not for commercial use"
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return teachers.find(folder, runtime="cpu", offline=True)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("E2V_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "e2v-port"


@pytest.fixture
def speech(tmp_path: Path) -> list[Path]:
    """Recordings without labels: 0.5 s each, and one of 10 s."""
    folder = tmp_path / "unlabelled" / "inside"
    folder.mkdir(parents=True)
    for take in range(10, 16):
        for label in LABELS:
            soundfile.write(folder / f"{take}{label[0]}.wav", sound(label, "b", take), RATE)
    soundfile.write(folder / "long.flac", np.tile(sound("sad", "c", 9), 20), RATE)
    (folder / "text.txt").write_text("no sound")
    return teachers.recordings(tmp_path / "unlabelled")


def test_a_student_learns_what_its_teacher_says(
    odd: teachers.Teacher, own_cache: Path, speech: list[Path], tmp_path: Path
) -> None:
    """Labels of the training clips say one thing, the teacher another; development clips are labeled as it would."""
    table = Path(write_corpus(tmp_path / "corpus").removeprefix("csv="))
    rows = [row.split(",") for row in table.read_text().splitlines()]
    for row in rows[1:]:
        if row[3] != "train":
            row[1] = LABELS[(LABELS.index(row[1]) + 1) % 3]
    table.write_text("\n".join(",".join(row) for row in rows))
    task = training_task.choose([readers.read(f"csv={table}")])
    recipe = replace(SMALL, teaching=1.0, mixup=0.0)
    report = scratch.train(task, tmp_path / "model", recipe, teacher=odd, unlabelled=speech, number_of_threads=1)
    assert report["dev"]["tones"]["uar"] > 0.9
    config = ModelConfig.read(tmp_path / "model")
    name = odd.config.source.repository
    assert config.licence == f"trained on tones (license unknown); taught by {name} (odd: not for commercial use)"
    assert config.trained_on == (*odd.config.trained_on, task.trained_on)
    assert report["teacher"] == odd.to_dict()
    assert report["unlabelled"]["files"] == 19
    assert report["hours"]["unlabelled"] == pytest.approx(19 / 3600, rel=0.01)
    page = (tmp_path / "model-report" / "report.html").read_text("utf-8")
    assert f"{name}; 19 recordings without labels" in page


def test_targets_mix_labels_and_answers(
    task: training_task.Task, odd: teachers.Teacher, own_cache: Path, speech: list[Path], tmp_path: Path
) -> None:
    recipe = replace(SMALL, teaching=0.6, softness=2.0, smoothing=0.1)
    known = files_of(task, "train") + files_of(task, "dev")
    made = scratch._clips(task, tmp_path, recipe, training_task.SILENT, teacher=odd, unlabelled=speech)
    judged = model_of(odd.folder).predict([*known, *speech[:-1]])
    answers = np.array([[one.logits[label] for label in task.outputs] for one in judged]) / 2
    answers = np.exp(answers) / np.exp(answers).sum(1, keepdims=True)
    labels = np.eye(3)[made.targets] * 0.9 + 0.1 / 3
    assert made.soft[: len(known)] == pytest.approx(0.4 * labels + 0.6 * answers[: len(known)], abs=0.002)
    # Rounding to 16 bits moves the answers a little.
    assert made.soft[len(known) :][:18] == pytest.approx(answers[len(known) :], abs=0.002)
    assert made.soft.sum(1) == pytest.approx(1, abs=1e-5)
    pieces = made.banks[0].lengths[len(known) :]
    assert pieces.tolist() == [8000] * 18 + [53334, 53333, 53333]
    assert made.unlabelled.tolist() == [*range(len(known), len(known) + 21)]
    assert made.banks[1].lengths[len(known) :].all()


def test_a_taught_training_resumes_and_asks_the_teacher_once(
    task: training_task.Task,
    odd: teachers.Teacher,
    own_cache: Path,
    speech: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(SMALL, epochs=4, unlabelled=0.25)
    options = {"teacher": odd, "unlabelled": speech, "number_of_threads": 1}
    scratch.train(task, tmp_path / "whole", recipe, **options)
    assert len([*own_cache.glob("teachers/*/*.npz")]) == 1
    monkeypatch.setattr(teachers, "load", lambda *_, **__: pytest.fail("asked again"))
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        scratch.train(task, out, recipe, progress=Interruption(10), **options)  # in the third epoch of 4 steps
    with pytest.raises(TrainingError, match=r"other settings .*teacher"):
        scratch.train(task, out, recipe, number_of_threads=1)
    scratch.train(task, out, recipe, **options)
    result, expected = (load_file(folder / "model.safetensors") for folder in (out, tmp_path / "whole"))
    assert all(np.array_equal(result[name], expected[name]) for name in expected)


def test_speech_that_is_tested_on_is_not_learned_from(
    task: training_task.Task, odd: teachers.Teacher, own_cache: Path, speech: list[Path], tmp_path: Path
) -> None:
    lines: list[str] = []
    progress = training_task.Progress(lines.append, training_task.SILENT.bar)
    tested = files_of(task, "test")[:2] + files_of(task, "dev")[:1]
    made = scratch._clips(task, tmp_path, SMALL, progress, teacher=odd, unlabelled=[*tested, speech[0]])
    assert len(made.unlabelled) == 1
    assert any(line.startswith("3 unlabeled recordings left out") for line in lines)


def test_teachers_that_cannot_teach_are_refused(
    task: training_task.Task, own_cache: Path, speech: list[Path], tmp_path: Path, backbones: dict[str, Path]
) -> None:
    with pytest.raises(TrainingError, match="need a teacher"):
        scratch.train(task, tmp_path / "model", SMALL, unlabelled=speech)
    small = Path(write_corpus(tmp_path / "two", takes=2, labels=LABELS[1:]).removeprefix("csv="))
    few = tmp_path / "few"
    scratch.train(training_task.choose([readers.read(f"csv={small}")]), few, replace(SMALL, epochs=1))
    teacher = teachers.find(few, runtime="cpu", offline=True)
    with pytest.raises(TrainingError, match="the teacher does not know angry"):
        scratch.train(task, tmp_path / "model", SMALL, teacher=teacher)
    with pytest.raises(TrainingError, match="has no labels to teach"):
        teachers.find(backbones["headless"], offline=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no audio found"):
        teachers.recordings(tmp_path / "empty")


def test_a_folder_in_use_is_not_touched(trained: tuple[Path, dict], task: training_task.Task, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("all of it")
    with pytest.raises(TrainingError, match="more than a converted model"):
        scratch.train(task, taken, SMALL, restart=True)
    assert (taken / "thesis.txt").read_text() == "all of it"
    before = (trained[0] / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="--restart"):
        scratch.train(task, trained[0], SMALL)
    assert (trained[0] / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_restart_replaces_a_model_and_discards_a_state(task: training_task.Task, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        scratch.train(task, out, SMALL, progress=Interruption(4))
    short = replace(SMALL, epochs=1)
    assert len(scratch.train(task, out, short, restart=True)["curve"]) == 1
    before = (out / "model.safetensors").read_bytes()
    scratch.train(replace(task, seed=3), out, short, restart=True)
    assert (out / "model.safetensors").read_bytes() != before


def test_a_full_disk_raises_an_oserror(task: training_task.Task, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, before[1]))
        with pytest.raises(OSError, match="File too large"):
            scratch.train(task, tmp_path / "model", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert scratch.train(task, tmp_path / "model", replace(SMALL, epochs=1), restart=True)["best"] == 1


def test_copies_without_room_are_refused(
    task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000})())
    with pytest.raises(TrainingError, match=r"augmented copies need 0\.0 GB"):
        scratch.train(task, tmp_path / "model", SMALL)


def copy_of(spec: str, folder: Path, name: str, speakers: dict[str, str], split: str = "train") -> str:
    """Writes the clips of some speakers as another corpus: other names, another format, another level of none."""
    folder.mkdir()
    source = Path(spec.removeprefix("csv=")).parent
    with (folder / f"{name}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "speaker", "split"])
        for old, new in speakers.items():
            for i, clip in enumerate(sorted(source.glob(f"{old}-*.wav"))):
                samples, rate = soundfile.read(clip, dtype="int16")
                soundfile.write(folder / f"{new}{i}.flac", samples, rate)
                table.writerow([f"{new}{i}.flac", clip.stem.split("-")[1], new, split])
    return f"csv={folder / f'{name}.csv'}"


def test_development_speakers_move_no_test_speaker_into_training(spec: str) -> None:
    task = training_task.choose([readers.read(spec)], dev=["tones/a"])
    speakers = {part: {clip.speaker for clip in clips} for part, clips in task.parts.items()}
    assert speakers == {"train": {"tones/b", "tones/c", "tones/d", "tones/e"}, "dev": {"tones/a"}, "test": {"tones/f"}}
    assert not any("test speakers" in note for note in task.notes)
    moved = training_task.choose([readers.read(spec)], dev=["tones/a"], test=["tones/b"])
    assert "test speakers of the default split, used for training here: tones/f" in moved.notes
    chosen_by = training_task.choose([readers.read(spec)], dev=["tones/f"])
    assert "test speakers of the default split, used for development here: tones/f" in chosen_by.notes


def test_the_same_recording_is_in_one_set_only(spec: str, tmp_path: Path) -> None:
    """Under another name, in another corpus and another format: the test set keeps it, then the development set."""
    other = copy_of(spec, tmp_path / "copies", "copies", {"f": "x", "d": "y", "a": "z"})
    corpora = [readers.read(spec), readers.read(other)]
    alone, both = training_task.choose(corpora[:1]), training_task.choose(corpora)
    for part in ("dev", "test"):
        assert both.parts[part] == alone.parts[part]
    assert {clip.speaker for clip in both.parts["train"]} == {clip.speaker for clip in alone.parts["train"]} | {
        "copies/z"  # twice in training, which is no leak
    }
    [note] = [note for note in both.notes if "the same recording" in note]
    assert note.startswith("clips left out of train, since another set has the same recording: copies: ")
    assert "tones: f-" in note or "tones: d-" in note
    assert note.endswith("and 21 more")


def test_a_model_is_not_tested_on_whom_it_was_trained_on(
    run, spec: str, tmp_path: Path, backbones: dict[str, Path]
) -> None:
    task = training_task.choose([readers.read(spec)])
    folder = tmp_path / "head"
    training_head.train(backbones["wav2small"], task, folder, HeadRecipe(epochs=2), runtime="cpu")
    model = model_of(folder)
    assert {"tones/a", "tones/b", "tones/c"} <= set(model.config.trained_on[-1].train)
    parts = splits.split([readers.read(spec)])
    none = {"train": Seen(0, ()), "dev": Seen(0, ()), "calibration": Seen(0, ()), "corpus": Seen(0, ())}
    assert evaluate(model, parts["test"]).seen == none | {"corpus": Seen(12, ("tones/f",))}
    copies = readers.read(copy_of(spec, tmp_path / "copies", "copies", {"a": "x", "f": "y"})).utterances
    for given, why in (
        (parts["train"], "36 of 36 clips are those that .* was trained on"),
        (parts["dev"], "24 of 24 clips are those that .* was chosen by"),
        (copies, "12 of 24 clips are those that .* was trained on .copies/x."),
    ):
        with pytest.raises(CorpusError, match=why):
            evaluate(model, given)
    allowed = evaluate(model, copies, seen=True)
    assert allowed.seen == none | {"train": Seen(12, ("copies/x",))}
    assert "trained on 12 of these clips" in "\n".join(map(str, report_lines(allowed)))
    assert allowed.to_dict()["seen"]["train"] == {"clips": 12, "speakers": ["copies/x"]}

    def ran(*arguments: object) -> tuple[int, str, str]:
        return run(*arguments, command="evaluate")

    options = ("-m", folder, "--runtime", "cpu", "-c", spec)
    code, printed, errors = ran(*options, "--split", "all")
    assert (code, printed) == (2, "")
    assert "allow it with --seen" in errors
    for arguments in (("--split", "all", "--seen"), ("--split", "train")):
        code, printed, _ = ran(*options, *arguments)
        assert code == 0
        assert "the model was trained on 36 of these clips" in printed
    code, printed, _ = ran(*options, "--split", "train", "--json")
    assert json.loads(printed)["corpora"]["tones"]["seen"]["train"]["clips"] == 36


# The report.


class Page(HTMLParser):
    """Collects the links and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.lines: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "srcset", "action"}]
        if tag == "polyline":
            self.lines.append(dict(attrs)["points"] or "")
        if tag not in {"meta", "line"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in {"meta", "line", "polyline"}:
            while self.open.pop() != tag:
                assert self.open

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_the_curves_and_loads_nothing(trained: tuple[Path, dict]) -> None:
    out, report = trained
    text = (training_report.folder_of(out) / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.links == []
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert len(page.lines) == len(report["curve"][0]["scores"]) + 2  # and both losses
    scores = [row["scores"]["tones"] for row in report["curve"]]
    heights = np.array([float(point.split(",")[1]) for point in page.lines[0].split()])
    assert len(heights) == len(scores)
    slope, start = np.polyfit(scores, heights, 1)
    assert slope < 0  # up is better
    assert heights == pytest.approx(slope * np.array(scores) + start, abs=0.1)
    for label in LABELS:
        assert label in page.text


def test_the_page_escapes_names(trained: tuple[Path, dict]) -> None:
    report = json.loads(json.dumps(trained[1]).replace("tones", "<script>alert(1)</script>"))
    assert "<script" not in training_report.html("<b>", report)
    assert "<b>" not in training_report.html("<b>", report).replace("<b style", "")


# Heads.


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory, trained: tuple[Path, dict]) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("backbones")
    source = toys.make(folder / "toy")
    return {
        "emotion2vec": toys.convert(source, folder / "float32"),
        "float16": toys.convert(source, folder / "float16", dtype="float16"),
        "bfloat16": toys.convert(source, folder / "bfloat16", dtype="bfloat16"),
        "headless": toys.convert(toys.make(folder / "bare", toys.HEADLESS), folder / "headless"),
        "wav2vec2": toys.convert(toys.make_dimensional(folder / "wav2vec2"), folder / "dimensional"),
        "wav2small": trained[0],
    }


@pytest.mark.parametrize("name", ["emotion2vec", "float16", "bfloat16", "headless", "wav2vec2", "wav2small"])
@pytest.mark.parametrize("hidden", [0, 7])
def test_a_head_has_its_backbone_and_the_trained_outputs(
    backbones: dict[str, Path], task: training_task.Task, name: str, hidden: int, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    recipe = HeadRecipe(hidden=hidden, epochs=6, rate=1e-2)
    report = training_head.train(backbones[name], task, out, recipe, runtime="cpu", number_of_threads=1)
    old, new = ModelConfig.read(backbones[name]), ModelConfig.read(out)
    assert (new.architecture.head_dim, new.architecture.num_labels) == (hidden, 3)
    assert (new.dtype, new.family, new.temperature) == (old.dtype, old.family, 1.0)
    assert old.licence in new.licence
    before, after = (_bits(folder) for folder in (backbones[name], out))
    kept = {key for key in before if not key.startswith("head.")}
    assert kept == {key for key in after if not key.startswith("head.")}
    assert all(before[key] == after[key] for key in kept)
    model = model_of(out)
    dev = task.parts["dev"]
    predictions = model.predict([one.file for one in dev])
    matrix = metrics.confusion(
        np.array([LABELS.index(one.label) for one in dev]), np.array([LABELS.index(p.label) for p in predictions]), 3
    )
    assert report["dev"]["tones"]["confusion"] == matrix.tolist()
    loss = torch.nn.functional.cross_entropy(
        torch.tensor([list(p.logits.values()) for p in predictions]), torch.tensor([LABELS.index(o.label) for o in dev])
    )
    assert loss.item() == pytest.approx(report["curve"][report["best"] - 1]["dev_loss"], abs=1e-4)


def _bits(folder: Path) -> dict[str, tuple[str, bytes]]:
    """Returns the type and the bytes of each stored tensor, read without a library: numpy has no bfloat16."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    return {
        name: (entry["dtype"], data[8 + length :][slice(*entry["data_offsets"])])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("hidden", [0, 7])
def test_the_folded_head_equals_the_trained_one(trained: tuple[Path, dict], hidden: int) -> None:
    old = ModelConfig.read(trained[0])
    config = replace(old, architecture=replace(old.architecture, head_dim=hidden))
    rng = np.random.default_rng(0)
    embeddings = rng.normal(3, 2, (20, config.architecture.embed_dim)).astype(np.float32)
    mean, deviation = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64)
    head = import_module("e2v_port.runtimes.layers_torch").Head(config.architecture)
    with torch.inference_mode():
        expected = head(torch.from_numpy((embeddings - mean) / deviation)).numpy()
    result = training_head._applied(
        training_head._folded(head.state_dict(), mean, deviation, config), embeddings, config
    )
    assert np.abs(result - expected).max() < 1e-5


@toys.needs_mlx
@pytest.mark.parametrize("name", ["emotion2vec", "wav2vec2", "wav2small"])
def test_mlx_runs_a_new_head(backbones: dict[str, Path], task: training_task.Task, name: str, tmp_path: Path) -> None:
    training_head.train(backbones[name], task, tmp_path / "model", HeadRecipe(hidden=5, epochs=3), runtime="cpu")
    files = files_of(task, "dev")[:4]
    expected, result = (model_of(tmp_path / "model", runtime).predict(files) for runtime in ("cpu", "mlx"))
    for one, other in zip(expected, result, strict=True):
        assert list(one.logits.values()) == pytest.approx(list(other.logits.values()), abs=1e-3)


def test_a_head_learns_dimensions(backbones: dict[str, Path], spec: str, tmp_path: Path) -> None:
    task = training_task.choose([readers.read(spec)], dimensional=True)
    out = tmp_path / "model"
    recipe = HeadRecipe(hidden=16, epochs=300, rate=1e-2, patience=100)
    report = training_head.train(backbones["wav2small"], task, out, recipe, runtime="cpu", number_of_threads=1)
    assert report["curve"][report["best"] - 1]["score"] > 0.8
    model = model_of(out)
    assert model.config.dimensional
    dev = task.parts["dev"]
    measured = model.dimensions([one.file for one in dev])
    for name in DIMENSIONS:
        truth, given = (
            np.array([getattr(one, name) for one in ones]) for ones in ([o.dimensions for o in dev], measured)
        )
        expected = (
            2 * np.cov(truth, given, bias=True)[0, 1] / (truth.var() + given.var() + (truth.mean() - given.mean()) ** 2)
        )
        assert report["dev"]["tones"]["ccc"][name] == pytest.approx(expected, abs=1e-4)
    assert "concordance" in (training_report.folder_of(out) / "report.html").read_text("utf-8")


def test_the_loss_of_dimensions_is_one_minus_ccc() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((30, 3))
    given = 0.7 * truth + 0.1 * rng.random((30, 3))
    expected = sum(1 - float(metrics.ccc(metrics.moments(truth[:, i], given[:, i]))) for i in range(3))
    assert objective.ccc_loss(torch.from_numpy(given), torch.from_numpy(truth)).item() == pytest.approx(
        expected, abs=1e-5
    )


def test_class_weights_equal_scikit_learn() -> None:
    targets = np.array([0] * 17 + [1] * 4 + [2] * 9)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert objective.balanced(targets, 3) == pytest.approx(expected)
    assert objective.balanced(targets, 5)[:3] == pytest.approx(expected)  # labels without a readable clip


def test_embeddings_are_computed_once(
    backbones: dict[str, Path], task: training_task.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    with monkeypatch.context() as context:
        context.setattr(training_head, "_fit", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            training_head.train(backbones["emotion2vec"], task, out, HeadRecipe(epochs=2), runtime="cpu")
    kept = [*(tmp_path / ".model.training" / "features").glob("*/*.npy")]
    assert len(kept) == len(task.parts["train"]) + len(task.parts["dev"])
    monkeypatch.setattr(e2v_port.Model, "each", lambda *_, **__: pytest.fail("computed again"))
    training_head.train(backbones["emotion2vec"], task, out, HeadRecipe(epochs=2), runtime="cpu")
    assert not (tmp_path / ".model.training").exists()


def test_training_restores_the_random_state_of_torch(task: training_task.Task, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    scratch.train(task, tmp_path / "model", replace(SMALL, epochs=1))
    assert torch.equal(torch.rand(3), expected)


# The document.


def test_the_document_lists_the_defaults_of_the_augmentation() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
    for name, value in asdict(Augmentation()).items():
        shown = str(value)
        if isinstance(value, tuple):
            shown = ", ".join(value) if name == "codecs" else f"{value[0]} to {value[1]}"
        assert f"| `{name}` | {shown} |" in text


# The command.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process, where torch is loaded: returns its exit code and its output."""
    monkeypatch.setenv("E2V_OFFLINE", "1")
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object, command: str = "train") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["e2v", command, *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def test_the_command_trains_a_student_and_a_head(run, spec: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    options = ("--corpus", spec, "--threads", 1, "--seed", 2, "--dev", "tones/d", "--test", "tones/e,tones/f")
    code, printed, errors = run(*options, "--out", out, "--epochs", 1, "--licence", "mine")
    assert code == 0
    assert printed.startswith(f"{out}: ")
    assert sum(line.startswith("epoch 1/1 ") for line in errors.splitlines()) == 1
    assert "\x1b" not in errors
    assert ModelConfig.read(out).licence == "mine"
    report = json.loads((tmp_path / "model-report" / "training.json").read_text("utf-8"))
    assert report["speakers"]["test"]["tones"] == ["tones/e", "tones/f"]
    assert report["seed"] == 2
    head = tmp_path / "head"
    assert run(*options, "--out", head, "--head-of", out, "--hidden", 4, "--dimensions", "--runtime", "cpu")[0] == 0
    assert ModelConfig.read(head).dimensional


def test_the_command_reports_errors_on_one_line(run, spec: str, tmp_path: Path) -> None:
    for arguments, words in (
        (("--corpus", spec, "--out", tmp_path / "m", "--dimensions"), "--head-of"),
        (("--corpus", spec, "--out", Path(__file__).parent), "more than a converted model"),
        (("--corpus", spec, "--out", tmp_path / "m", "--dev", "tones/z"), "tones/z"),
        (("--corpus", "tones=here", "--out", tmp_path / "m"), "tones=here"),
        (("--corpus", spec, "--out", tmp_path / "m", "--unlabelled", tmp_path), "--teacher"),
        (("--corpus", spec, "--out", tmp_path / "m", "--teacher", "a", "--head-of", "b"), "pass one of them"),
    ):
        code, printed, errors = run(*arguments)
        assert (code, printed) == (2, "")
        assert len(errors.splitlines()) == 1
        assert errors.startswith("error: ")
        assert words in errors
    assert not list(tmp_path.iterdir())

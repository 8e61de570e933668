"""Trainings from corpora to models that load: small networks and heads, interruptions, reports, what is refused."""

import csv
import json
import re
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
from e2v_port import cli, corpora, heads, metrics, student, training, training_report
from e2v_port.augmentation import Augmentation
from e2v_port.config import DIMENSIONS, ModelConfig
from e2v_port.errors import CorpusError, TrainingError
from e2v_port.heads import HeadRecipe
from e2v_port.student import Recipe, Student

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
    """What a label sounds like, as high as the speaker is: a rising tone, noise, a falling tone."""
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
                        own = 0.1 + 0.4 * LABELS.index(label) + 0.02 * take
                        values = [f"{value:.3f}" for value in (own, 1 - own, 0.5 + 0.3 * (own - 0.5))]
                        table.writerow([name, label, speaker, split, *(values if dimensions else [])])
    return f"csv={folder / 'tones.csv'}"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def task(spec: str) -> training.Task:
    return training.choose([corpora.read(spec)])


@pytest.fixture(scope="module")
def trained(task: training.Task, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A small network that was trained without an interruption."""
    out = tmp_path_factory.mktemp("trained") / "model"
    return out, student.train(task, out, SMALL, number_of_threads=1)


def model_of(folder: Path, runtime: str = "cpu") -> e2v_port.Model:
    return e2v_port.load(folder, runtime=runtime, offline=True)


def files_of(task: training.Task, part: str) -> list[Path]:
    return [one.file for one in task.parts[part]]


def perturbed(recipe: Recipe) -> Student:
    """A student whose weights and norms are like trained ones."""
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
def test_the_folded_network_is_the_trained_one(recipe: Recipe) -> None:
    made = perturbed(recipe)
    twin = type(made.twin)(made.twin.config)
    twin.load_state_dict({name: torch.from_numpy(value) for name, value in student.folded(made).items()})
    waveforms = [sound(label, "a", 0)[: 8000 - 1500 * i] for i, label in enumerate(LABELS)]
    spectrogram, lengths = made.spectrogram(waveforms)
    with torch.inference_mode():
        wanted = made.eval()(spectrogram, lengths)
        found = twin.eval().network(spectrogram, lengths)[2]
    assert wanted.abs().max() > 0.5
    assert (found - wanted).abs().max() < 1e-4
    assert np.abs(made.judge(waveforms) - wanted.numpy()).max() < 1e-4


def test_a_mask_hides_columns_and_bands_of_a_clip_alone() -> None:
    spectrogram = torch.randn(50, 40, 16)
    lengths = [40, *[30] * 49]
    before = spectrogram.clone()
    recipe = replace(SMALL, masks=2, mask_columns=5, mask_bands=4)
    student.masked(spectrogram, lengths, recipe, np.random.default_rng(0))
    changed = spectrogram != before
    assert not changed[1:, 30:].any()
    columns, bands = changed[0].all(1), changed[0].all(0)
    assert 0 < columns.sum() <= 10
    assert 0 < bands.sum() <= 8
    assert not changed[0][~columns][:, ~bands].any()
    hidden = spectrogram[0][columns | False]
    assert (hidden - before[0].mean()).abs().max() < 0.2  # the second mask's mean is that of what the first left


# Training a student.


def test_it_learns_and_loads(trained: tuple[Path, dict], task: training.Task) -> None:
    out, report = trained
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors"}
    assert not list(out.parent.glob(".*"))
    assert report["curve"][report["best"] - 1]["score"] > 0.9
    model = model_of(out)
    assert model.labels == LABELS
    test = task.parts["test"]
    predictions = model.predict([one.file for one in test])
    truth, found = (
        [LABELS.index(label) for label in labels]
        for labels in ([one.label for one in test], [one.label for one in predictions])
    )
    assert metrics.uar(metrics.confusion(np.array(truth), np.array(found), 3)) > 0.9


def test_the_report_has_the_figures_of_the_model(trained: tuple[Path, dict], task: training.Task) -> None:
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
    assert report["parameters"] == sum(value.size for value in load_file(out / "model.safetensors").values())
    assert report["recipe"] == asdict(SMALL)
    config = ModelConfig.read(out)
    assert config.licence == "trained on tones (licence not known here)"
    assert (config.source.repository, config.source.hub) == (out.name, "local")


def test_the_same_seed_gives_the_same_weights_and_another_others(
    trained: tuple[Path, dict], task: training.Task, tmp_path: Path
) -> None:
    student.train(task, tmp_path / "again", SMALL, number_of_threads=1)
    again, first = (load_file(folder / "model.safetensors") for folder in (tmp_path / "again", trained[0]))
    assert all(np.array_equal(again[name], first[name]) for name in first)
    student.train(replace(task, seed=1), tmp_path / "other", replace(SMALL, epochs=1), number_of_threads=1)
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert not any(np.array_equal(other[name], first[name]) for name in first if name != "mel")


class Interruption(training.Progress):
    """Raises KeyboardInterrupt in the middle of an epoch, as Ctrl-C does."""

    def __init__(self, at_step: int) -> None:
        self.left = at_step
        super().__init__(
            lambda _: None, lambda _, what: self if what.startswith("epoch") else training.SILENT.bar(0, "")
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
from e2v_port import cli, corpora, student, training

def say(line):
    if line.startswith("epoch 6/"):
        os.kill(os.getpid(), signal.SIGKILL)

task = training.choose([corpora.read(sys.argv[1])])
progress = training.Progress(say, training.SILENT.bar)
student.train(task, Path(sys.argv[2]), test_training.SMALL, number_of_threads=1, progress=progress)
"""


def test_an_interrupted_training_ends_like_one_that_was_not(
    trained: tuple[Path, dict], task: training.Task, spec: str, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        student.train(task, out, SMALL, number_of_threads=1, progress=Interruption(8))  # in the third epoch
    assert not out.exists()
    program = [sys.executable, "-c", KILLED, spec, str(out), str(Path(__file__).parent)]
    assert subprocess.run(program, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    with pytest.raises(TrainingError, match=r"other settings \(recipe\).*--restart"):
        student.train(task, out, replace(SMALL, epochs=3))
    lines: list[str] = []
    progress = training.Progress(lines.append, training.SILENT.bar)
    report = student.train(task, out, SMALL, number_of_threads=1, progress=progress)
    assert "going on after epoch 6 of 12" in lines
    found, wanted = (load_file(folder / "model.safetensors") for folder in (out, trained[0]))
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert report["curve"] == trained[1]["curve"]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model", "model-report"]


def test_copies_are_the_same_however_they_were_come_by(task: training.Task, tmp_path: Path) -> None:
    train, dev = files_of(task, "train"), files_of(task, "dev")
    recipe = replace(SMALL, copies=2)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = student.record(tmp_path / "a", train, dev, recipe, seed=4)
    student.record(tmp_path / "b", train, dev, replace(recipe, copies=1), seed=4)
    second = student.record(tmp_path / "b", train, dev, recipe, seed=4)  # goes on
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.lengths, other.lengths)
        assert all(np.array_equal(one[clip], other[clip]) for clip in range(len(train) + len(dev)))
    plain, copy, last = first
    assert plain.get(0) == pytest.approx(soundfile.read(train[0])[0], abs=1e-4)
    assert not np.array_equal(copy[0], last[0])
    assert last.lengths[len(train) :].sum() == 0
    assert copy.lengths.all()


def test_every_epoch_draws_anew(task: training.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    loss = student._loss

    def told(one: Student, clips: student._Clips, batch: np.ndarray, *others: object) -> torch.Tensor:
        drawn.append(batch.tobytes())
        return loss(one, clips, batch, *others)

    monkeypatch.setattr(student, "_loss", told)
    student.train(task, tmp_path / "model", replace(SMALL, epochs=3))
    assert len(drawn) == len(set(drawn)) == 9


def test_early_stopping_keeps_the_best_epoch(task: training.Task, tmp_path: Path) -> None:
    report = student.train(task, tmp_path / "model", replace(SMALL, epochs=30, patience=2), number_of_threads=1)
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
    progress = training.Progress(lines.append, training.SILENT.bar)
    task = training.choose([corpora.read(spec)])
    student.train(task, tmp_path / "model", replace(SMALL, epochs=1), progress=progress)
    assert sum("a-sad-0.wav" in line and line.startswith("left out") for line in lines) == 1
    for file in files_of(task, "dev"):
        file.unlink()
    with pytest.raises(TrainingError, match="no file of development can be read"):
        student.train(task, tmp_path / "other", replace(SMALL, epochs=1))


# What is chosen, and what is refused.


def test_rare_labels_and_small_corpora_are_drawn_more_often(task: training.Task) -> None:
    names = ["big"] * 90 + ["small"] * 10
    targets = np.array([0] * 80 + [1] * 10 + [0] * 5 + [1] * 5)
    everything = np.arange(100)
    for balance, rare in ((0.0, 10 / 90), (1.0, 0.5), (0.5, 10**0.5 / (10**0.5 + 80**0.5))):
        weights = student._weights(student._Clips([], targets, names, everything, everything[:0]), balance)
        assert weights.sum() == pytest.approx(1)
        assert weights[90:].sum() == pytest.approx(0.5)
        assert weights[:90][targets[:90] == 1].sum() == pytest.approx(0.5 * rare)


def test_too_little_to_learn_from(tmp_path: Path) -> None:
    one = corpora.read(write_corpus(tmp_path / "one", takes=1, labels=("sad",), dimensions=False))
    with pytest.raises(CorpusError, match="all clips to train on are sad"):
        training.choose([one])
    with pytest.raises(CorpusError, match="no clip has arousal, dominance and valence"):
        training.choose([one], dimensional=True)
    three = corpora.read(write_corpus(tmp_path / "three", takes=1))
    everybody = [f"tones/{speaker}" for speaker in "abcdef"]
    with pytest.raises(CorpusError, match="no speaker is left to train on"):
        training.choose([three], everybody[:2], everybody[2:])
    with pytest.raises(CorpusError, match="no speaker is left to decide when to stop"):
        training.choose([three], [], everybody[:1])
    lonely = training.choose([three], everybody[1:])
    assert sum("only tones/a is" in note for note in lonely.notes) == 3


def test_labels_that_only_others_have_are_left_out(tmp_path: Path) -> None:
    table = Path(write_corpus(tmp_path, takes=1).removeprefix("csv="))
    rows = table.read_text().replace("d-sad-0.wav,sad", "d-sad-0.wav,happy").replace("a-sad-0.wav,sad", "a-sad-0.wav,x")
    table.write_text(rows)
    task = training.choose([corpora.read(f"csv={table}")])
    assert task.outputs == LABELS
    assert [len(task.parts[part]) for part in ("train", "dev", "test")] == [8, 5, 3]
    assert any("happy (1)" in note and "x (1)" in note for note in task.notes)


def test_a_folder_that_is_taken_is_not_touched(trained: tuple[Path, dict], task: training.Task, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("all of it")
    with pytest.raises(TrainingError, match="more than a converted model"):
        student.train(task, taken, SMALL, restart=True)
    assert (taken / "thesis.txt").read_text() == "all of it"
    before = (trained[0] / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="--restart"):
        student.train(task, trained[0], SMALL)
    assert (trained[0] / "model.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_restart_replaces_a_model_and_forgets_what_was_interrupted(task: training.Task, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(KeyboardInterrupt):
        student.train(task, out, SMALL, progress=Interruption(4))
    short = replace(SMALL, epochs=1)
    assert len(student.train(task, out, short, restart=True)["curve"]) == 1
    before = (out / "model.safetensors").read_bytes()
    student.train(replace(task, seed=3), out, short, restart=True)
    assert (out / "model.safetensors").read_bytes() != before


def test_a_full_disk_is_told(task: training.Task, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, before[1]))
        with pytest.raises(OSError, match="File too large"):
            student.train(task, tmp_path / "model", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert student.train(task, tmp_path / "model", replace(SMALL, epochs=1), restart=True)["best"] == 1


def test_copies_without_room_are_refused(task: training.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"free": 1000})())
    with pytest.raises(TrainingError, match=r"augmented copies take 0\.0 GB"):
        student.train(task, tmp_path / "model", SMALL)


# The report.


class Page(HTMLParser):
    """Collects what a page refers to and what it shows."""

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


def test_the_page_shows_the_curves_and_needs_nothing_else(trained: tuple[Path, dict]) -> None:
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


def test_the_page_escapes_what_it_is_given(trained: tuple[Path, dict]) -> None:
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
    backbones: dict[str, Path], task: training.Task, name: str, hidden: int, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    recipe = HeadRecipe(hidden=hidden, epochs=6, rate=1e-2)
    report = heads.train(backbones[name], task, out, recipe, runtime="cpu", number_of_threads=1)
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
    """Every stored tensor as its type and bytes, read without a library: numpy has no bfloat16."""
    data = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    return {
        name: (entry["dtype"], data[8 + length :][slice(*entry["data_offsets"])])
        for name, entry in entries.items()
        if name != "__metadata__"
    }


@pytest.mark.parametrize("hidden", [0, 7])
def test_the_folded_head_is_the_trained_one(trained: tuple[Path, dict], hidden: int) -> None:
    old = ModelConfig.read(trained[0])
    config = replace(old, architecture=replace(old.architecture, head_dim=hidden))
    rng = np.random.default_rng(0)
    embeddings = rng.normal(3, 2, (20, config.architecture.embed_dim)).astype(np.float32)
    mean, deviation = embeddings.mean(0, dtype=np.float64), embeddings.std(0, dtype=np.float64)
    head = import_module("e2v_port.runtimes.layers_torch").Head(config.architecture)
    with torch.inference_mode():
        wanted = head(torch.from_numpy((embeddings - mean) / deviation)).numpy()
    found = heads._applied(heads._folded(head, mean, deviation, config), embeddings, config)
    assert np.abs(found - wanted).max() < 1e-5


@toys.needs_mlx
@pytest.mark.parametrize("name", ["emotion2vec", "wav2vec2", "wav2small"])
def test_mlx_runs_a_new_head(backbones: dict[str, Path], task: training.Task, name: str, tmp_path: Path) -> None:
    heads.train(backbones[name], task, tmp_path / "model", HeadRecipe(hidden=5, epochs=3), runtime="cpu")
    files = files_of(task, "dev")[:4]
    wanted, found = (model_of(tmp_path / "model", runtime).predict(files) for runtime in ("cpu", "mlx"))
    for one, other in zip(wanted, found, strict=True):
        assert list(one.logits.values()) == pytest.approx(list(other.logits.values()), abs=1e-3)


def test_a_head_learns_dimensions(backbones: dict[str, Path], spec: str, tmp_path: Path) -> None:
    task = training.choose([corpora.read(spec)], dimensional=True)
    out = tmp_path / "model"
    recipe = HeadRecipe(hidden=16, epochs=80, rate=1e-2, patience=30)
    report = heads.train(backbones["wav2small"], task, out, recipe, runtime="cpu", number_of_threads=1)
    assert report["curve"][report["best"] - 1]["score"] > 0.8
    model = model_of(out)
    assert model.config.dimensional
    dev = task.parts["dev"]
    measured = model.dimensions([one.file for one in dev])
    for name in DIMENSIONS:
        truth, given = (
            np.array([getattr(one, name) for one in ones]) for ones in ([o.dimensions for o in dev], measured)
        )
        wanted = (
            2 * np.cov(truth, given, bias=True)[0, 1] / (truth.var() + given.var() + (truth.mean() - given.mean()) ** 2)
        )
        assert report["dev"]["tones"]["ccc"][name] == pytest.approx(wanted, abs=1e-4)
    assert "concordance" in (training_report.folder_of(out) / "report.html").read_text("utf-8")


def test_the_loss_of_dimensions_is_one_minus_ccc() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random((30, 3))
    given = 0.7 * truth + 0.1 * rng.random((30, 3))
    wanted = sum(1 - float(metrics.ccc(metrics.moments(truth[:, i], given[:, i]))) for i in range(3))
    assert heads.ccc_loss(torch.from_numpy(given), torch.from_numpy(truth)).item() == pytest.approx(wanted, abs=1e-5)


def test_class_weights_are_those_of_scikit_learn() -> None:
    targets = np.array([0] * 17 + [1] * 4 + [2] * 9)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    assert heads._balanced(targets) == pytest.approx(wanted)


def test_embeddings_are_computed_once(
    backbones: dict[str, Path], task: training.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    with monkeypatch.context() as context:
        context.setattr(heads, "_fit", lambda *_: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            heads.train(backbones["emotion2vec"], task, out, HeadRecipe(epochs=2), runtime="cpu")
    kept = sorted(path.name for path in (tmp_path / ".model.training").glob("*.npz"))
    assert kept == ["dev-0.npz", "train-0.npz"]
    monkeypatch.setattr(e2v_port.Model, "each", lambda *_, **__: pytest.fail("computed again"))
    heads.train(backbones["emotion2vec"], task, out, HeadRecipe(epochs=2), runtime="cpu")
    assert not (tmp_path / ".model.training").exists()


# The document.


def test_the_document_has_the_augmentation_as_it_is() -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text("utf-8")
    for name, value in asdict(Augmentation()).items():
        shown = f"{value[0]} to {value[1]}" if isinstance(value, tuple) else str(value)
        assert f"| `{name}` | {shown} |" in text


# The command.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs the command in this process, which has torch already: its exit code and what it printed."""
    monkeypatch.setenv("E2V_OFFLINE", "1")
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["e2v", "train", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return (int(stopped.value.code or 0), *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


def test_the_command_trains_a_student_and_a_head(run, spec: str, tmp_path: Path) -> None:
    out = tmp_path / "model"
    options = ("--corpus", spec, "--threads", 1, "--seed", 2, "--dev", "tones/d", "--test", "tones/e,tones/f")
    code, printed, told = run(*options, "--out", out, "--epochs", 1, "--licence", "mine")
    assert code == 0
    assert printed.startswith(f"{out}: ")
    assert sum(line.startswith("epoch 1/1 ") for line in told.splitlines()) == 1
    assert "\x1b" not in told
    assert ModelConfig.read(out).licence == "mine"
    report = json.loads((tmp_path / "model-report" / "training.json").read_text("utf-8"))
    assert report["speakers"]["test"]["tones"] == ["tones/e", "tones/f"]
    assert report["seed"] == 2
    head = tmp_path / "head"
    assert run(*options, "--out", head, "--head-of", out, "--hidden", 4, "--dimensions", "--runtime", "cpu")[0] == 0
    assert ModelConfig.read(head).dimensional


def test_the_command_complains_in_one_line(run, spec: str, tmp_path: Path) -> None:
    for arguments, words in (
        (("--corpus", spec, "--out", tmp_path / "m", "--dimensions"), "--head-of"),
        (("--corpus", spec, "--out", Path(__file__).parent), "more than a converted model"),
        (("--corpus", spec, "--out", tmp_path / "m", "--dev", "tones/z"), "tones/z"),
        (("--corpus", "tones=here", "--out", tmp_path / "m"), "tones=here"),
    ):
        code, printed, told = run(*arguments)
        assert (code, printed) == (2, "")
        assert len(told.splitlines()) == 1
        assert told.startswith("error: ")
        assert words in told
    assert not list(tmp_path.iterdir())

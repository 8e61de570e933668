"""Layers compared by what a linear classifier finds in them: the one that carries the labels is found."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toys
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import e2v_port
from e2v_port.architectures.config import TrainedOn
from e2v_port.cli import app
from e2v_port.errors import AudioError, CorpusError, E2VError
from e2v_port.evaluation import probe as probing
from e2v_port.evaluation import readers
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.plots import plot_probes

LABELS = ("angry", "neutral", "sad")
SPEAKERS = [f"tones/{name}" for name in "abcdefg"]


class Planted:
    """Stands for a model of four layers, of which the third alone knows the label, and the second in its deviation."""

    runtime = "cpu"

    class config:
        trained_on = ()

        class source:
            repository = "planted"

    def each_layers(self, files: Iterator[Path], *, channel: Any) -> Iterator[Any]:
        for file in files:
            speaker, label, take = file.stem.split("-")
            if take == "broken":
                yield AudioError(f"{file}: broken")
                continue
            draw = np.random.default_rng([ord(speaker), int(take), LABELS.index(label)])
            layers = draw.normal(0, 1, (4, 40, 6)).astype(np.float32)
            layers += 3 * np.random.default_rng(ord(speaker)).normal(0, 1, (4, 1, 6))  # every speaker has an offset
            layers[1, :, 2] *= 1 + LABELS.index(label)
            layers[2, :, LABELS.index(label)] += 12
            yield 1.0, layers


def utterances(takes: Sequence[Any] = range(6)) -> list[Utterance]:
    return [
        Utterance(Path(f"{speaker[-1]}-{label}-{take}.wav"), label, label, speaker, None, "tones", None, None)
        for speaker in SPEAKERS
        for label in LABELS
        for take in takes
    ]


def probe(clips: Sequence[Utterance], **options: Any) -> probing.Probe:
    return probing.probe(Planted(), clips, **options)  # type: ignore[arg-type]


def test_the_layer_that_carries_the_labels_is_found() -> None:
    found = probe(utterances(), pooling="mean")
    assert found.best == 3
    assert [layer.layer for layer in found.layers] == [1, 2, 3, 4]
    uars = [layer.uar.value for layer in found.layers]
    assert uars[2] > 0.95
    assert max(uars[:2] + uars[3:]) < 0.6
    for layer in found.layers:
        assert layer.uar.low <= layer.uar.value <= layer.uar.high
        assert layer.to_best.value == pytest.approx(layer.uar.value - uars[2])
        assert (layer.to_best.high < 0) == (layer.layer != 3)
    assert (found.clips, found.speakers, found.folds, found.resampled) == (126, 7, 5, "speakers")
    assert found.labels == dict.fromkeys(LABELS, 42)


def test_deviations_show_what_means_do_not() -> None:
    clips = utterances()
    means, deviations = (probe(clips, pooling=kind).layers[1].uar.value for kind in ("mean", "deviation"))
    assert means < 0.5
    assert deviations > 0.8


def test_no_speaker_is_heard_before_it_is_judged() -> None:
    names = [name for i, name in enumerate(SPEAKERS) for _ in range(2 + i)]
    fold_of = probing._folds(names)
    for name in SPEAKERS:
        assert len({fold for fold, other in zip(fold_of, names, strict=True) if other == name}) == 1
    sizes = np.bincount(fold_of)
    assert len(sizes) == 5
    assert sizes.max() <= 2 * sizes.min()


def test_the_classifier_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    targets = draw.choice(3, 300, p=[0.6, 0.3, 0.1])
    train = draw.normal(0, 1, (300, 20)) * draw.uniform(0.1, 9, 20) + 5
    train[:, :3] += 2 * np.eye(3)[targets] * train[:, :3].std(0)
    test = train[::-1] + draw.normal(0, 1, (300, 20))
    mean, deviation = train.mean(0), train.std(0)
    # The weights of balanced clips sum to their number; those here to 1 for each label.
    expected = LogisticRegression(C=1 / (300 * probing.DECAY), class_weight="balanced", tol=1e-8, max_iter=1000)
    expected.fit((train - mean) / deviation, targets)
    found = probing._classified(train.astype(np.float32), targets, test.astype(np.float32), 3)
    assert np.mean(found == expected.predict((test - mean) / deviation)) > 0.99


def test_clips_that_cannot_be_used_are_counted() -> None:
    nameless = [Utterance(Path("x.wav"), None, "boredom", "tones/a", None, "tones", None, None)] * 4
    found = probe([*utterances(), *utterances(["broken"])[:2], *nameless])
    assert found.unmapped == {"boredom": 4}
    assert len(found.errors) == 2
    assert found.clips == 126
    one_voice = [clip for clip in utterances() if clip.speaker == "tones/a"]
    with pytest.raises(CorpusError, match="by 1 speakers and with 3 labels"):
        probe(one_voice)
    with pytest.raises(CorpusError, match="the first error is: "):
        probe(utterances(["broken"]))
    with pytest.raises(ValueError, match="pooling must be"):
        probe(utterances(), pooling="max")


def test_a_model_s_own_training_clips_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = (TrainedOn(("tones/a", "tones/b"), ("tones/c",), "", ""),)
    monkeypatch.setattr(Planted.config, "trained_on", mine)
    assert probe(utterances(range(2))).seen == 3 * 3 * 2


# The command, with a real network.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("probe")
    toys.convert(toys.make(root / "toy", toys.HEADLESS), root / "model")
    with (root / "tones.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "speaker", "split"])
        for speaker, split in zip("abcdefg", ["train"] * 4 + ["dev", "dev", "test"], strict=True):
            for label in LABELS:
                for take in range(2):
                    name = f"{speaker}-{label}-{take}.wav"
                    soundfile.write(root / name, sound(label, speaker, take), 16_000)
                    table.writerow([name, label, speaker, split])
        soundfile.write(root / "odd.wav", sound("sad", "a", 9), 16_000)
        table.writerow(["odd.wav", "jealous", "a", "train"])
        table.writerow(["gone.wav", "sad", "a", "train"])
    (root / "gone.wav").write_bytes(b"no sound")
    return root


def sound(label: str, speaker: str, take: int) -> NDArray[np.float32]:
    draw = np.random.default_rng([ord(speaker), take])
    at = np.arange(8000) / 16_000
    hum = np.sin(2 * np.pi * (100 + 20 * "abcdefg".index(speaker)) * at)
    noise = draw.standard_normal(len(at))
    return (0.1 * (hum + (0.1 + LABELS.index(label)) * noise)).astype(np.float32)


def test_the_command_prints_and_writes_the_layers(folder: Path) -> None:
    arguments = ["probe", "-m", str(folder / "model"), "-c", f"csv={folder / 'tones.csv'}", "--runtime", "cpu"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(folder / "out")])
    assert done.exit_code == 1, "a clip could not be read"
    assert "gone.wav" in done.stderr
    assert "36 clips by 6 speakers in 5 groups: angry 12, neutral 12, sad 12" in done.stdout
    assert "jealous 1" in done.stdout
    result = json.loads((folder / "out" / "probe.json").read_text("utf-8"))["tones"]
    assert [layer["layer"] for layer in result["layers"]] == [1, 2, 3, 4, 5]
    assert all(f"{layer['uar']['value']:.3f} [" in done.stdout for layer in result["layers"])
    assert (folder / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    printed = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(printed.stdout)["tones"] == result


def test_a_network_without_layers_is_refused(folder: Path, tmp_path: Path) -> None:
    model = e2v_port.load(toys.make_small(tmp_path / "small", toys.GRAM), runtime="cpu")
    with pytest.raises(E2VError, match="no layers"):
        probing.probe(model, readers.read(f"csv={folder / 'tones.csv'}").utterances)


def test_the_picture_needs_a_picture_s_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.png"):
        plot_probes({"tones": probe(utterances(range(2)))}, tmp_path / "picture.txt")

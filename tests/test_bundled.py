"""The weights that come with the package were trained: what they are relied on for, on real speech."""

import json
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

import e2v_port
from e2v_port import corpora, devices, emotions
from e2v_port.audio import load_audio
from e2v_port.evaluation import evaluate

FOLDER = Path(str(files("e2v_port.weights"))) / "bundled"
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=f"runtime {name}: {reason}"))
    for name in devices.RUNTIMES
    for reason in [devices.unavailable(name)]
]


@pytest.fixture(scope="module")
def figures() -> dict:
    """What the model card says, as data."""
    return json.loads((FOLDER / "evaluation.json").read_text("utf-8"))


def recordings(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix in {".flac", ".wav"})


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_agree_on_every_recording(runtime: str, speech_folder: Path) -> None:
    clips = recordings(speech_folder)
    assert len(clips) > 70
    # The bars of every model here: 5e-5 between runtimes, 2e-5 between a batch and single clips.
    wanted = [e2v_port.load("bundled", runtime="cpu").predict(clip) for clip in clips]
    found = e2v_port.load("bundled", runtime=runtime).predict(clips)
    for clip, one, other in zip(clips, wanted, found, strict=True):
        assert one.label == other.label, clip.name
        assert max(abs(one.logits[label] - other.logits[label]) for label in one.logits) <= 5e-5, clip.name


def test_it_hears_emotions_of_a_corpus_it_never_met(speech_folder: Path, figures: dict) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    found = evaluate(model, corpora.chosen([corpora.read(f"emodb={speech_folder}")], "all")["emodb"])
    right = sum(found.open.confusion[i][i] for i in range(len(found.open.labels)))
    assert binomtest(int(right), found.judged, 1 / 6, alternative="greater").pvalue < 1e-6
    assert found.open.uar.value == pytest.approx(figures["corpora"]["emodb"]["uar"][0], abs=0.02)


def test_loudness_does_not_matter(speech_folder: Path) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    for name in ("jfk.flac", "emotion2vec_test.wav"):
        clip = load_audio(speech_folder / name)
        loud, quiet = (model.predict(clip * np.float32(gain), 16_000) for gain in (1.0, 0.05))
        assert max(abs(loud.scores[label] - quiet.scores[label]) for label in loud.scores) < 0.01


def test_anger_and_sadness_lie_where_the_taxonomy_has_them(speech_folder: Path) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    utterances = corpora.read(f"emodb={speech_folder}").utterances
    derived = {
        label: [
            emotions.expected(model.predict(one.file).scores, "emotion2vec") for one in utterances if one.label == label
        ]
        for label in ("angry", "sad")
    }
    arousal = {label: np.mean([one.arousal for one in found]) for label, found in derived.items()}
    assert arousal["angry"] > arousal["sad"]


def test_the_model_card_tells_the_figures(figures: dict) -> None:
    card = (FOLDER / "README.md").read_text("utf-8")
    for name, corpus in figures["corpora"].items():
        value, low, high = corpus["uar"]
        rows = [line.lower() for line in card.splitlines() if line.startswith("| ")]
        assert any(f"| {value:.3f} [{low:.3f}, {high:.3f}] |" in row for row in rows if row.startswith(f"| {name},"))
    assert "CC BY-NC-SA 4.0" in card
    assert re.search(r"^ *e2v train .*--corpus ravdess=", card, re.MULTILINE)

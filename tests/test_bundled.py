"""The bundled model on real speech: equal on all runtimes, and as good as its model card states."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import packing
import pytest
from scipy.stats import binomtest

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import load_audio
from e2v_port.emotions import taxonomy
from e2v_port.evaluation import readers, splits
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.models import devices

FOLDER = Path(str(files("e2v_port.weights"))) / "bundled"
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=f"runtime {name}: {reason}"))
    for name in devices.RUNTIMES
    for reason in [devices.unavailable(name)]
]


@pytest.fixture(scope="module")
def figures() -> dict:
    """The figures of the model card."""
    return json.loads((FOLDER / "evaluation.json").read_text("utf-8"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_agree_on_every_recording(runtime: str, speech_folder: Path) -> None:
    clips = sorted(path for path in speech_folder.iterdir() if path.suffix in {".flac", ".wav"})
    assert len(clips) > 50
    # The tolerance between runtimes, for every model.
    expected = [e2v_port.load("bundled", runtime="cpu").predict(clip) for clip in clips]
    predictions = e2v_port.load("bundled", runtime=runtime).predict(clips)
    for clip, one, other in zip(clips, expected, predictions, strict=True):
        assert one.label == other.label, clip.name
        assert max(abs(one.logits[label] - other.logits[label]) for label in one.logits) <= 5e-5, clip.name


def test_it_recognizes_emotions_of_an_unseen_corpus(recordings: Path, figures: dict) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    evaluation = evaluate(model, splits.chosen([readers.read(f"emodb={recordings}")], "all")["emodb"])
    right = sum(evaluation.open.confusion[i][i] for i in range(len(evaluation.open.labels)))
    assert binomtest(int(right), evaluation.judged, 1 / 6, alternative="greater").pvalue < 1e-6
    assert evaluation.open.uar.value == pytest.approx(figures["corpora"]["emodb"]["uar"][0], abs=0.02)


def test_loudness_does_not_matter(speech_folder: Path) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    for name in ("jfk.flac", "emotion2vec_test.wav"):
        clip = load_audio(speech_folder / name)
        loud, quiet = (model.predict(clip * np.float32(gain), 16_000) for gain in (1.0, 0.05))
        assert max(abs(loud.scores[label] - quiet.scores[label]) for label in loud.scores) < 0.01


def test_anger_has_more_arousal_than_sadness(recordings: Path) -> None:
    model = e2v_port.load("bundled", runtime="cpu")
    utterances = readers.read(f"emodb={recordings}").utterances
    derived = {
        label: [
            taxonomy.expected(model.predict(clip.file).scores, "emotion2vec")
            for clip in utterances
            if clip.label == label
        ]
        for label in ("angry", "sad")
    }
    arousal = {label: np.mean([dimensions.arousal for dimensions in values]) for label, values in derived.items()}
    assert arousal["angry"] > arousal["sad"]


def test_the_documents_have_the_figures_of_the_models() -> None:
    """Run benchmarks/packing.py to write the tables again."""
    for path, text in packing.documents().items():
        assert path.read_text("utf-8") == text, path
    assert packing.MANIFEST.read_text("utf-8") == packing.manifest()


SECTIONS = (
    "What it is for",
    "How it works",
    "Training data",
    "License and provenance",
    "Accuracy",
    "Limitations",
    "Environmental cost",
    "Reproduction",
)


@pytest.mark.parametrize("name", packing.bundled())
def test_a_card_has_every_section(name: str) -> None:
    card = (packing.WEIGHTS / name / "README.md").read_text("utf-8")
    assert [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")] == [*SECTIONS]
    chain = card.partition("## License and provenance")[2].partition("\n## ")[0]
    for corpus in packing.corpora_of(ModelConfig.read(packing.WEIGHTS / name)):
        assert f"| {packing.title(corpus)} |" in chain, corpus
    assert "estimate" in card.partition("## Environmental cost")[2]


def test_a_corpus_of_the_training_is_not_called_new() -> None:
    for name in packing.bundled():
        trained = packing.corpora_of(ModelConfig.read(packing.WEIGHTS / name))
        figures = json.loads((packing.WEIGHTS / name / "evaluation.json").read_text("utf-8"))["corpora"]
        said = {corpus: each["what"] for corpus, each in figures.items()}
        assert said == {corpus: "test speakers" if corpus in trained else "never trained on" for corpus in said}
        assert [*said] == sorted(said, key=lambda corpus: corpus in trained)  # those it never met come first

"""The models in the package on real speech: equal on all runtimes, and as good as their cards state."""

import base64
import json
from pathlib import Path

import numpy as np
import packing
import pytest
from scipy.stats import binomtest

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.emotions import taxonomy
from e2v_port.errors import CorpusError
from e2v_port.evaluation import readers, splits
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.models.model import Model

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
NAMES = packing.bundled()
# The recordings with labels that the tests have are EmoDB's.
STRANGERS = [name for name in NAMES if "emodb" not in packing.corpora_of(ModelConfig.read(packing.WEIGHTS / name))]
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=f"runtime {name}: {reason}"))
    for name in devices.RUNTIMES
    for reason in [devices.unavailable(name)]
]


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest) -> Model:
    return e2v_port.load(request.param, runtime="cpu")


@pytest.fixture(scope="module")
def clips(speech_folder: Path) -> dict[str, Waveform]:
    """Every sixth recording, of voices and of sounds."""
    paths = sorted(path for path in speech_folder.iterdir() if path.suffix in {".flac", ".wav"})
    assert len(paths) > 50
    return {path.name: load_audio(path) for path in paths[::6]}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_runtimes_agree_on_recordings_alone_and_in_a_batch(
    runtime: str, model: Model, clips: dict[str, Waveform]
) -> None:
    expected = [model.predict(clip, SAMPLING_RATE) for clip in clips.values()]
    other = e2v_port.load(model.config.source.repository, runtime=runtime)
    batch = other.predict([*clips.values()], SAMPLING_RATE)
    for (name, clip), known, together in zip(clips.items(), expected, batch, strict=True):
        # The tolerance between runtimes. Next to a pure tone, a spectrogram 80 dB deep is rounding noise in float32.
        limit = 2e-4 if "hum" in name else 5e-5
        for found in together, other.predict(clip, SAMPLING_RATE):
            assert known.label == found.label, name
            assert max(abs(known.logits[label] - found.logits[label]) for label in known.logits) <= limit, name


@pytest.mark.parametrize("name", ["bundled", "bundled-tiny"])
def test_each_network_can_be_exported(name: str, tmp_path: Path) -> None:
    done = export_onnx(name, tmp_path / "onnx", offline=True)  # compares the file's outputs with the model's
    assert "probabilities" in done.compared
    assert done.difference <= 5e-5


def test_loudness_does_not_matter(model: Model, speech_folder: Path) -> None:
    for name in ("jfk.flac", "emotion2vec_test.wav"):
        clip = load_audio(speech_folder / name)
        loud, quiet = (model.predict(clip * np.float32(gain), SAMPLING_RATE) for gain in (1.0, 0.05))
        assert max(abs(loud.scores[label] - quiet.scores[label]) for label in loud.scores) < 0.01


def test_a_detector_with_each_of_them(model: Model) -> None:
    """It listens under the name of the model; the scores of a segment are the model's."""
    detector = e2v_port.EmotionDetector(model)
    assert detector.backend == model.config.source.repository
    clip = load_audio(CLIP)
    [segment] = (segment for segment in detector.stream([clip], SAMPLING_RATE) if segment.final)
    part = clip[round(segment.start * SAMPLING_RATE) : round(segment.end * SAMPLING_RATE)]
    assert segment.scores == pytest.approx(model.predict(part, SAMPLING_RATE).scores, abs=2e-5)


@pytest.mark.parametrize("name", STRANGERS)
def test_it_recognizes_emotions_of_an_unseen_corpus(name: str, recordings: Path) -> None:
    """About as often as its card states, of clips of which each label has about as many."""
    stated = json.loads((packing.WEIGHTS / name / "evaluation.json").read_text("utf-8"))["corpora"]["emodb"]["uar"][0]
    model = e2v_port.load(name, runtime="cpu")
    evaluation = evaluate(model, splits.chosen([readers.read(f"emodb={recordings}")], "all")["emodb"])
    right = int(sum(evaluation.open.confusion[i][i] for i in range(len(evaluation.open.labels))))
    assert binomtest(right, evaluation.judged, 1 / 6, alternative="greater").pvalue < 1e-6
    assert binomtest(right, evaluation.judged, stated, alternative="less").pvalue > 1e-3


@pytest.mark.parametrize("name", STRANGERS)
def test_anger_has_more_arousal_than_sadness(name: str, recordings: Path) -> None:
    model = e2v_port.load(name, runtime="cpu")
    utterances = readers.read(f"emodb={recordings}").utterances
    derived = {
        label: [
            taxonomy.expected(prediction.scores, "emotion2vec")
            for prediction in model.predict([clip.file for clip in utterances if clip.label == label])
        ]
        for label in ("angry", "sad")
    }
    arousal = {label: np.mean([dimensions.arousal for dimensions in values]) for label, values in derived.items()}
    assert arousal["angry"] > arousal["sad"]


# ---- what a model was trained on


@pytest.mark.parametrize("name", NAMES)
def test_speakers_of_its_training_are_refused_as_a_test(name: str) -> None:
    model = e2v_port.load(name, runtime="cpu")
    speakers = {speaker for each in model.config.trained_on for speaker in each.train}
    assert speakers
    clips = [
        Utterance(CLIP, "angry", "angry", speaker, None, speaker.partition("/")[0], None, None)
        for speaker in sorted(speakers)
    ]
    with pytest.raises(CorpusError, match=f"{len(clips)} of {len(clips)} clips are those that .* was trained on"):
        evaluate(model, clips)


@pytest.mark.parametrize("name", NAMES)
def test_the_sounds_of_its_training_are_stored(name: str) -> None:
    """So that a copy of such a clip is found under any name: 8 bytes for each of hundreds."""
    stored = [base64.b64decode(each.train_clips) for each in ModelConfig.read(packing.WEIGHTS / name).trained_on]
    hashes = {each[at : at + 8] for each in stored for at in range(0, len(each), 8)}
    assert len(hashes) >= 300
    assert all(len(each) == 8 for each in hashes)


def test_a_recording_of_its_training_is_known_by_the_name_of_its_file(recordings: Path, tmp_path: Path) -> None:
    """Whoever is said to speak, and though these were amplified: the sounds are others."""
    rows = [f"{file},sad,someone" for file in sorted(recordings.glob("emodb_*a*.flac")) if "timeline" not in file.name]
    (tmp_path / "mine.csv").write_text("\n".join(["file,label,speaker", *rows]), "utf-8")
    clips = readers.read(f"csv={tmp_path / 'mine.csv'}").utterances
    with pytest.raises(CorpusError, match=rf"{len(clips)} of {len(clips)} clips are those that bundled was trained on"):
        evaluate(e2v_port.load("bundled", runtime="cpu"), clips)


# ---- cards


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


@pytest.mark.parametrize("name", NAMES)
def test_a_card_has_every_section(name: str) -> None:
    card = (packing.WEIGHTS / name / "README.md").read_text("utf-8")
    assert [line.removeprefix("## ") for line in card.splitlines() if line.startswith("## ")] == [*SECTIONS]
    chain = card.partition("## License and provenance")[2].partition("\n## ")[0]
    for corpus in packing.corpora_of(ModelConfig.read(packing.WEIGHTS / name)):
        assert f"| {packing.title(corpus)} |" in chain, corpus
    assert "estimate" in card.partition("## Environmental cost")[2]


def test_a_corpus_of_the_training_is_not_called_new() -> None:
    for name in NAMES:
        trained = packing.corpora_of(ModelConfig.read(packing.WEIGHTS / name))
        figures = json.loads((packing.WEIGHTS / name / "evaluation.json").read_text("utf-8"))["corpora"]
        said = {corpus: each["what"] for corpus, each in figures.items()}
        assert said == {corpus: "test speakers" if corpus in trained else "never trained on" for corpus in said}
        assert [*said] == sorted(said, key=lambda corpus: corpus in trained)  # those it never met come first

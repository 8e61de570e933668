"""Adapting to known voices: planted offsets, moods that look like a voice, and who is asked first."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import toys
from numpy.typing import NDArray
from safetensors.numpy import load_file
from typer.testing import CliRunner

import e2v_port
from e2v_port.analysis.schema import schema
from e2v_port.analysis.voices import read_baselines
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.tensors import MEANS, contents
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.checkpoints import catalog
from e2v_port.cli import app
from e2v_port.emotions.adaptation import Centers, Offset, adapted, adapted_scores, label_means
from e2v_port.emotions.estimates import Prediction, softmax
from e2v_port.errors import BaselineError, CheckpointError, CorpusError, E2VError, NoLabels
from e2v_port.evaluation.datasets import label_of
from e2v_port.evaluation.evaluate import evaluate
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.report import report
from e2v_port.live.detector import EmotionDetector
from e2v_port.models import means
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import judge
from e2v_port.prosody.measure import measure
from e2v_port.speech.segment import GivenSegment
from e2v_port.training.task import choose

LABELS = ("angry", "happy", "neutral", "sad")
MOVED = np.array([1.5, -0.5, -1.5, 0.5])  # what the planted voice adds


def centers(distance: float = 4.0) -> Centers:
    return Centers(LABELS, distance * (np.eye(4) - 0.25), 1.0, "a model")


def predictions(moods: Sequence[int], moved: NDArray[np.float64] = MOVED, seed: int = 0) -> list[Prediction]:
    """Returns what a model says of clips in these moods, by a voice that moves its logits."""
    rng = np.random.default_rng(seed)
    found = []
    for mood in moods:
        logits = centers().logits[mood] + moved + rng.normal(0, 0.7, 4)
        scores = softmax(logits, 1.0)
        name = LABELS[int(scores.argmax())]
        found.append(
            Prediction(
                name,
                float(scores.max()),
                dict(zip(LABELS, scores.tolist(), strict=True)),
                dict(zip(LABELS, logits.tolist(), strict=True)),
                2.0,
            )
        )
    return found


def right(found: Sequence[Prediction], moods: Sequence[int]) -> float:
    return float(np.mean([each.label == LABELS[mood] for each, mood in zip(found, moods, strict=True)]))


# ---- the offset of a voice


def test_a_planted_voice_is_found_and_taken_off_without_labels() -> None:
    moods = [0, 1, 2, 3] * 10
    offset = centers().offset(predictions(moods, seed=1))
    assert offset.reason is None
    assert str(offset) == f"adapted from 40 clips, {offset.moods:.1f} moods"
    assert offset.moods > 2.5
    assert sum(offset.logits.values()) == pytest.approx(0, abs=1e-9)
    believed = 40 / 44  # the rest is shrinkage
    assert [offset.logits[label] for label in LABELS] == pytest.approx(believed * MOVED, abs=0.35)
    others = [0, 1, 2, 3] * 50
    before = predictions(others, MOVED * 1.6, seed=2)
    offset = centers().offset(predictions(moods, MOVED * 1.6, seed=3))
    after = [adapted(each, offset, 1.0) for each in before]
    assert right(after, others) > right(before, others) + 0.1
    no_voice = centers().offset(predictions(moods, np.zeros(4), seed=1))
    assert max(map(abs, no_voice.logits.values())) < 0.35


@pytest.mark.parametrize("mood", range(4))
@pytest.mark.parametrize("clips", [3, 5, 20, 100])
def test_one_mood_could_be_the_voice_and_is_refused(mood: int, clips: int) -> None:
    found = predictions([mood] * clips)
    offset = centers().offset(found)
    assert offset.reason is not None
    assert str(offset).startswith(f"not adapted: {clips} clips sound like 1.")
    assert [adapted(each, offset, 1.0) for each in found] == found


def test_too_few_clips_say_nothing() -> None:
    assert centers().offset([]).reason == "0 of at least 3 clips were heard"
    assert centers().offset(predictions([0, 3])).reason == "2 of at least 3 clips were heard"
    assert centers().offset(predictions([0, 3, 1])).clips == 3


def test_adapted_scores_are_those_of_the_logits_without_the_offset() -> None:
    [prediction] = predictions([1])
    offset = Offset(dict(zip(LABELS, MOVED.tolist(), strict=True)), 9, 3.0, None, "a model")
    logits = np.array([*prediction.logits.values()])
    found = adapted(prediction, offset, 2.0)
    assert [*found.scores.values()] == pytest.approx(softmax(logits - MOVED, 2.0))
    assert found.confidence == found.scores[found.label] == max(found.scores.values())
    assert found.logits == prediction.logits, "the model's own, to learn from"
    frames = np.random.default_rng(0).normal(0, 3, (5, 4))
    assert adapted_scores(softmax(frames, 2.0), LABELS, offset, 2.0) == pytest.approx(softmax(frames - MOVED, 2.0))


def test_a_label_without_a_mean_does_not_count_as_a_mood() -> None:
    found = predictions([0, 1, 2, 3] * 5, seed=4)
    logits = np.array(centers().logits)
    logits[3] = np.nan
    offset = replace(centers(), logits=logits).offset([each for i, each in enumerate(found) if i % 4 != 3])
    assert offset.reason is None
    assert all(np.isfinite([*offset.logits.values()]))


def test_means_of_labels_are_those_of_no_speaker() -> None:
    rng = np.random.default_rng(0)
    true, voices = rng.normal(0, 1, (4, 6)), rng.normal(0, 3, (5, 6))
    voices -= voices.mean(0)
    # Speaker 0 recorded the first label ten times as often as the others, and nobody the fifth.
    clips = [(label, voice) for label in range(4) for voice in range(5) for _ in range(40 if label == voice else 4)]
    targets, speakers = (np.array(column) for column in zip(*clips, strict=True))
    embeddings = (true[targets] + voices[speakers] + rng.normal(0, 0.05, (len(clips), 6))).astype(np.float32)
    found = label_means(embeddings, targets, [f"speaker {voice}" for voice in speakers], 5)
    assert found[:4] == pytest.approx(true, abs=0.05)
    assert np.abs(embeddings[targets == 0].mean(0) - true[0]).max() > 0.5, "a plain mean is the voice"
    assert not found[4].any()
    assert found.dtype == np.float32


# ---- models


def with_means(source: Path, folder: Path, **settings: Any) -> Path:
    """Stores a converted model again, with means of its labels: far apart where the head is linear."""
    config = ModelConfig.read(source)
    sizes = replace(config.architecture, means=True)
    arrays = {name: value.astype(np.float32) for name, value in load_file(source / "model.safetensors").items()}
    means = np.random.default_rng(0).normal(0, 1, (sizes.num_labels, sizes.embed_dim)).astype(np.float32)
    if "head.weight" in arrays:
        wanted = np.eye(sizes.num_labels) - arrays["head.bias"]
        means = (wanted @ np.linalg.pinv(arrays["head.weight"]).T).astype(np.float32)
    toys.store_tensors(
        folder, replace(config, architecture=sizes, **settings), lambda: iter((arrays | {MEANS: means}).items())
    )
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("plain")
    return toys.convert(toys.make(root / "checkpoint"), root / "model")


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_means_are_stored_beside_the_network_and_change_no_output(
    plain: Path, runtime: str, dtype: str, tmp_path: Path
) -> None:
    folder = with_means(plain, tmp_path / "model", dtype=dtype)
    model, before = e2v_port.load(folder, runtime=runtime), e2v_port.load(plain, runtime=runtime)
    stored = load_file(folder / "model.safetensors")
    assert stored[MEANS].dtype == np.float32
    clip = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    found, known = model.predict(clip, SAMPLING_RATE), before.predict(clip, SAMPLING_RATE)
    assert [*found.scores.values()] == pytest.approx([*known.scores.values()], abs=2e-5 if dtype == "float32" else 0.01)
    used = [i for i, label in enumerate(model.config.labels) if not label.unused]
    expected = [model._runner.score(row)[used] for row in stored[MEANS][used]]
    assert model.centers.logits == pytest.approx(np.array(expected), abs=1e-4)
    assert model.centers.labels == model.labels


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_a_packed_model_has_its_means_in_float32(runtime: str, dtype: str, tmp_path: Path) -> None:
    sizes = replace(toys.TOY, embed_dim=64, num_heads=8, num_alibi_heads=8, ffn_dim=192, means=True)
    rng = np.random.default_rng(0)
    arrays = {name: 0.1 * rng.standard_normal(shape) for name, shape in contents(sizes).items()}
    folder = toys.store(tmp_path / "model", sizes, arrays, dtype=dtype)
    assert np.array_equal(load_file(folder / "model.safetensors")[MEANS], arrays[MEANS].astype(np.float32))
    model = e2v_port.load(folder, runtime=runtime)
    expected = arrays[MEANS] @ arrays["head.weight"].T + arrays["head.bias"]
    assert model.centers.logits == pytest.approx(expected, abs=1e-4)


def test_models_without_means_say_how_to_add_them(plain: Path, tmp_path: Path) -> None:
    model = e2v_port.load(plain, runtime="cpu")
    with pytest.raises(E2VError, match=r"stores no mean embeddings of its labels: add them with `e2v means --model"):
        _ = model.centers
    clip = np.zeros(SAMPLING_RATE, np.float32)
    with pytest.raises(E2VError, match="e2v means"):
        e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, model=model, adapt=True)
    dimensional = e2v_port.load(toys.convert(toys.make_dimensional(tmp_path / "d"), tmp_path / "m"), runtime="cpu")
    with pytest.raises(NoLabels, match="predicts arousal, dominance and valence"):
        e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, dimensional=dimensional, adapt=True)


def test_a_config_that_promises_means_needs_them(plain: Path, tmp_path: Path) -> None:
    folder = with_means(plain, tmp_path / "model")
    about = json.loads((folder / "config.json").read_text())
    about["architecture"].pop("means")
    (folder / "config.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"unexpected head\.means"):
        e2v_port.load(folder, runtime="cpu")


# ---- analyses


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model in the package, so sure of itself that a few segments are as many moods."""
    source = catalog.find("bundled-tiny-nc")
    assert source is not None
    folder = with_means(source, tmp_path_factory.mktemp("sharp") / "model", temperature=0.02)
    return e2v_port.load(folder, runtime="cpu")


@pytest.fixture(scope="module")
def moods(recordings: Path) -> Path:
    """People who are heard in several moods, which the project's own speech does not have."""
    return recordings / "ami_EN2002a_30s.flac"


@pytest.fixture(scope="module")
def meeting(speech_folder: Path) -> NDArray[np.float32]:
    return load_audio(speech_folder / "ami_EN2002a_30s.flac")


def parts(duration: float, speakers: str = "AB") -> list[GivenSegment]:
    """Returns segments of 2 s, by speakers in turn."""
    count = int(duration // 2)
    return [GivenSegment(2.0 * i, 2.0 * i + 2, speakers[i % len(speakers)]) for i in range(count)]


def planted(model: Model, speaker: str | None = None) -> Baseline:
    """Returns the baseline of a voice that the model hears more angry than it is."""
    moved = dict.fromkeys(model.labels, 0.0) | {"angry": 30.0, model.labels[-1]: -30.0}
    return Baseline(speaker, 0, 0.0, {}, {}, Offset(moved, 12, 3.1, None, model.centers.model))


def test_nothing_is_adapted_unless_asked_for(sharp: Model, meeting: NDArray[np.float32]) -> None:
    options = {"sampling_rate": SAMPLING_RATE, "model": sharp, "segments": parts(30, "A")}
    found = e2v_port.analyze(meeting, **options)
    again = e2v_port.analyze(meeting, **options)
    assert json.dumps(found.to_dict() | {"timings": 0}) == json.dumps(again.to_dict() | {"timings": 0})
    assert "adapted" not in json.dumps(found.to_dict())
    for segment, known in zip(found.segments, parts(30, "A"), strict=True):
        part = meeting[round(known.start * SAMPLING_RATE) : round(known.end * SAMPLING_RATE)]
        if segment.judgement:
            assert sharp.predict(part, SAMPLING_RATE).label == segment.emotion


def test_each_speaker_of_a_recording_is_adapted_to(sharp: Model, meeting: NDArray[np.float32]) -> None:
    options = {"sampling_rate": SAMPLING_RATE, "model": sharp, "frames": True}
    given = [*parts(24), GivenSegment(24.0, 26.0, "C")]
    before = e2v_port.analyze(meeting, segments=given, **options)
    found = e2v_port.analyze(meeting, segments=given, adapt=True, **options)
    jsonschema.validate(found.to_dict(), schema())
    notes = {note.text.split(":")[0]: note for note in found.notes if note.kind in {"adapted", "not_adapted"}}
    assert notes["C"].text == "C: not adapted: 1 of at least 3 clips were heard"
    assert {notes[name].kind for name in "AB"} == {"adapted"}, "the model is made to be sure of many moods"
    for speaker in "AB":
        mine = [each for each in before.segments if each.speaker == speaker and each.prediction]
        offset = sharp.centers.offset([each.prediction for each in mine if each.prediction])
        assert notes[speaker].text == f"{speaker}: {offset}"
        for each, now in zip(before.segments, found.segments, strict=True):
            if each.speaker == speaker and each.prediction and now.judgement:
                expected = adapted(each.prediction, offset, sharp.config.temperature)
                assert now.prediction == expected
                assert now.judgement.primary == expected.label
                assert "adapted" in now.judgement.notes
    assert before.segments[-1].judgement == found.segments[-1].judgement
    assert before.boundaries != found.boundaries


def test_a_baseline_is_used_for_its_speaker_alone(sharp: Model, meeting: NDArray[np.float32], tmp_path: Path) -> None:
    options = {"sampling_rate": SAMPLING_RATE, "model": sharp}
    path = tmp_path / "a.json"
    planted(sharp, "A").save(path)
    assert Baseline.load(path) == planted(sharp, "A")
    before = e2v_port.analyze(meeting, segments=parts(30), **options)
    for baseline in path, str(path), [Baseline.load(path)]:
        found = e2v_port.analyze(meeting, segments=parts(30), baseline=baseline, **options)
        assert [note.text for note in found.notes if "adapted" in note.kind] == [
            "A: adapted from 12 clips, 3.1 moods",
            "B: not adapted: there is no baseline with an offset of this voice",
        ]
        for each, now in zip(before.segments, found.segments, strict=True):
            if each.speaker == "B":
                assert now == each
            elif now.judgement:
                assert now.emotion == sharp.labels[-1]


@pytest.mark.parametrize("learn", [False, True])
def test_a_stream_adapts_as_the_whole_clip_does(sharp: Model, moods: Path, learn: bool) -> None:
    meeting = load_audio(moods)

    def detector() -> EmotionDetector:
        known = None if learn else planted(sharp, "Ann")
        return EmotionDetector(sharp, baseline=known, adapt=learn)

    def said(segments: Sequence[e2v_port.VoiceSegment]) -> list[tuple[object, ...]]:
        about = [each for each in segments if each.final and each.judgement]
        return [(each.start, each.emotion, "adapted" in each.judgement.notes) for each in about if each.judgement]

    offline, online = detector(), detector()
    whole = offline.analyze(meeting, SAMPLING_RATE, speaker="Ann")
    streamed = said([*online.stream(np.array_split(meeting, 37), speaker="Ann")])
    assert streamed == said(whole.segments)
    assert any(adapted for _, _, adapted in streamed)
    known, heard = offline.adaptation("Ann"), online.adaptation("Ann")
    assert known is not None
    assert heard is not None
    assert heard.clips == known.clips
    assert heard.logits == pytest.approx(known.logits, abs=1e-3)
    assert (streamed[0][2]) is not learn, "what is learned holds for what comes after"
    assert whole.notes[-1].text.startswith("Ann: adapted from ")
    offline.forget("Ann")
    known = offline.adaptation("Ann")
    assert known is None or known.reason == "0 of at least 3 clips were heard"


def test_a_detector_learns_a_voice_into_a_baseline(sharp: Model, moods: Path, tmp_path: Path) -> None:
    meeting = load_audio(moods)
    detector = EmotionDetector(sharp)
    with pytest.raises(ValueError, match=r"not adapted: 1 of at least 3 clips were heard: add clips of other moods"):
        detector.adapt([meeting[: 2 * SAMPLING_RATE]], SAMPLING_RATE)
    baseline = detector.adapt([meeting, meeting[::-1].copy()], SAMPLING_RATE, speaker="Ann")
    assert baseline.offset is not None
    assert baseline.offset == detector.adaptation("Ann")
    prosody = measure(meeting[: 4 * SAMPLING_RATE])
    assert judge(prosody, baseline) == judge(prosody), "nothing is known of the neutral voice"
    baseline.save(tmp_path / "ann.json")
    again = EmotionDetector(sharp, baseline=tmp_path / "ann.json")
    assert again.adaptation("Ann") == baseline.offset
    assert again.adaptation("Bob") is None


def test_a_nameless_voice_is_that_of_the_only_baseline_or_nobodys() -> None:
    ann, bob = (Baseline(name, 0, 0.0, {}, {}) for name in ("Ann", "Bob"))
    assert read_baselines(ann) == {"Ann": ann, None: ann}
    assert read_baselines([ann, bob]) == {"Ann": ann, "Bob": bob}


def test_a_baseline_of_another_model_is_refused(sharp: Model, plain: Path, tmp_path: Path) -> None:
    other = e2v_port.load(with_means(plain, tmp_path / "other"), runtime="cpu")
    clip = np.zeros(SAMPLING_RATE, np.float32)
    for make in (
        lambda baseline: e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, model=other, baseline=baseline),
        lambda baseline: EmotionDetector(other, baseline=baseline),
    ):
        with pytest.raises(BaselineError, match=r"the baseline of Ann was adapted with another model than .*e2v adapt"):
            make(planted(sharp, "Ann"))


@pytest.mark.parametrize(
    "change",
    [
        {"offset": None},
        {"offset": {}},
        {"format": "e2v-port baseline 1"},
        {"format": "e2v-port baseline 3"},
        {"samples": -1},
        {"clips": 2.5},
        {"clips": -1},
        {"moods": "many"},
        {"moods": float("nan")},
        {"model": None},
        {"reason": 3},
        {"logits": {"angry": float("inf")}},
        {"logits": ["angry"]},
    ],
)
def test_corrupt_baselines_are_refused(sharp: Model, tmp_path: Path, change: dict[str, object]) -> None:
    values = planted(sharp).to_dict()
    [(name, value)] = change.items()
    (values if name in values else values["offset"])[name] = value
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps(values))
    with pytest.raises(BaselineError, match="not a baseline of this version"):
        Baseline.load(path)


# ---- means from a corpus, and the command line


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, meeting: NDArray[np.float32]) -> Path:
    """A table of short clips by three speakers, one of whom is for development."""
    import soundfile

    folder = tmp_path_factory.mktemp("corpus")
    rows = ["file,label,speaker,split"]
    for i, start in enumerate(range(0, 24, 2)):
        soundfile.write(
            folder / f"{i}.wav", meeting[start * SAMPLING_RATE : (start + 2) * SAMPLING_RATE], SAMPLING_RATE
        )
        speaker = "abc"[i % 3]
        rows.append(f"{i}.wav,{('angry', 'sad')[i // 3 % 2]},{speaker},{'dev' if speaker == 'c' else 'train'}")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder / "clips.csv"


def test_means_are_added_to_a_model_that_has_none(plain: Path, corpus: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "model"
    arguments = ["means", "--model", str(plain), "--corpus", f"csv={corpus}", "--out", str(out), "--runtime", "cpu"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "no clips of disgusted" in result.stderr
    model, before = e2v_port.load(out, runtime="cpu"), load_file(plain / "model.safetensors")
    stored = load_file(out / "model.safetensors")
    assert {name for name in stored if name not in before} == {MEANS}
    assert all(np.array_equal(stored[name], before[name]) for name in before)
    assert model.config.trained_on[-1].train == ("clips/a", "clips/b")
    assert "means of labels" in model.config.licence
    known = [bool(row.any()) for row in stored[MEANS]]
    assert [label.name for label, has in zip(model.config.labels, known, strict=True) if has] == ["angry", "sad"]
    task = choose([read(f"csv={corpus}")])
    rights = means.Rights(task.licence, task.trained_on)
    with pytest.raises(E2VError, match="exists"):
        means.add(plain, task.parts["train"], rights, out, counterpart=label_of)


def test_means_are_added_to_a_packed_model(corpus: Path, tmp_path: Path) -> None:
    """The default model is one."""
    out = tmp_path / "model"
    arguments = ["means", "--corpus", f"csv={corpus}", "--out", str(out), "--runtime", "cpu"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    model, before = (e2v_port.load(name, runtime="cpu") for name in (out, "bundled"))
    assert (model.config.dtype, before.config.dtype) == ("float32", "q8")
    clip = corpus.parent / "0.wav"
    assert model.predict(clip).logits == pytest.approx(before.predict(clip).logits, abs=1e-6)
    assert np.count_nonzero(np.isfinite(model.centers.logits).all(1)) == 2


def test_the_command_line_learns_a_voice_and_uses_it(sharp: Model, moods: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    assert sharp._weights is not None
    model = ["--model", str(sharp._weights.parent), "--runtime", "cpu"]
    clip, out = str(moods), tmp_path / "ann.json"
    learned = runner.invoke(app, ["adapt", clip, "--speaker", "Ann", "--out", str(out), *model])
    assert learned.exit_code == 0, learned.output
    assert "adapted from" in learned.stdout
    assert Baseline.load(out).speaker == "Ann"
    shown = runner.invoke(app, ["analyze", clip, "--baseline", str(out), *model])
    assert shown.exit_code == 0, shown.output
    assert "note: adapted from" in shown.stdout
    lines = runner.invoke(app, ["listen", clip, "--fast", "--jsonl", "--baseline", str(out), *model])
    assert "note: adapted from" in lines.stderr
    assert any("adapted" in json.loads(line)["emotion"]["notes"] for line in lines.stdout.splitlines() if line)


# ---- evaluations and corpora


def test_an_evaluation_adapts_from_other_clips_of_the_speaker(sharp: Model, corpus: Path) -> None:
    clips = [clip for clip in read(f"csv={corpus}").utterances for _ in range(2)]
    plain, known = (evaluate(sharp, clips, adapt=others) for others in (0, 6))
    assert plain.known_voices is None
    assert known.known_voices is not None
    assert plain.closed is not None
    assert known.known_voices.closed == plain.closed.uar
    voices = known.known_voices
    assert voices.adapted + voices.refused == len(clips)
    assert (voices.others, voices.too_few) == (6, 0)
    changed = [before.scores != after.scores for before, after in zip(plain.clips, known.clips, strict=True)]
    assert sum(changed) == voices.adapted > 0
    for clip in known.clips:
        assert clip.scores is not None
        assert clip.logits is not None
        scores = softmax(np.array([*clip.logits.values()]), sharp.config.temperature)
        assert sorted(clip.scores.values()) == pytest.approx(sorted(scores), abs=1e-6)
    assert any(str(line).startswith("adapted to each voice from 6 other clips of it") for line in report(known))
    few = evaluate(sharp, clips, adapt=100).known_voices
    assert few is not None
    assert few.too_few == len(clips)
    assert evaluate(sharp, clips, adapt=6).to_dict() == known.to_dict(), "the draws have a seed"


def test_rows_of_a_corpus_are_adapted_to_their_speakers(sharp: Model, corpus: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from e2v_port.corpus.run import run

    assert sharp._weights is not None
    options: dict[str, Any] = {"model": str(sharp._weights.parent), "runtime": "cpu", "whole": True, "workers": 1}
    for name, adapt in ("plain", False), ("known", True):
        run(str(corpus), tmp_path / name, adapt=adapt, decoders=1, **options)
    plain, known = (
        parquet.read_table(tmp_path / name / "rows" / "part-000000.parquet").to_pylist() for name in ("plain", "known")
    )
    assert "adaptation" not in plain[0]
    speakers = [row["speaker"] for row in plain]
    found = [sharp.predict(corpus.parent / row["file"]) for row in plain]
    for speaker in set(speakers):
        offset = sharp.centers.offset([each for each, name in zip(found, speakers, strict=True) if name == speaker])
        for row, prediction in zip(known, found, strict=True):
            if row["speaker"] == speaker:
                assert row["adaptation"] == str(offset)
                assert row["primary"] == adapted(prediction, offset, sharp.config.temperature).label
    folder = tmp_path / "nobody"
    folder.mkdir()
    (folder / "clips.csv").write_text(f"file\n{corpus.parent / '0.wav'}\n")
    with pytest.raises(CorpusError, match="does not say who speaks: add a column speaker"):
        run(str(folder / "clips.csv"), tmp_path / "out", adapt=True, **options)


# ---- the service


def test_the_service_learns_named_voices_and_forgets_them_when_switched_off(sharp: Model, moods: Path) -> None:
    pytest.importorskip("fastapi")
    from served import Served

    assert sharp._weights is not None
    clip = moods.read_bytes()
    with Served("--model", str(sharp._weights.parent), "--adapt") as served:

        def notes(**parameters: str) -> list[str]:
            answer = served.client.post("/v1/analyze", content=clip, params=parameters).json()
            jsonschema.validate(answer, schema())
            said = any("adapted" in (each["emotion"] or {"notes": []})["notes"] for each in answer["segments"])
            found = [note["text"] for note in answer["notes"] if "adapted" in note["kind"]]
            return [*found, *(["said"] if said else [])]

        first, second = notes(speaker="Ann"), notes(speaker="Ann")
        assert first[0].startswith("Ann: adapted from ")
        assert second[0].startswith("Ann: adapted from ")
        clips = [int(each[0].split(" from ")[1].split()[0]) for each in (first, second)]
        assert clips[1] == 2 * clips[0]
        assert "said" in second
        assert notes() == [], "a voice without a name is nobody's"
        for enabled in (False, True):
            served.client.put("/v1/config/emotion", json={"enabled": enabled})
        assert notes(speaker="Ann")[0] == first[0]

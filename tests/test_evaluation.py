"""Metrics equal those of other libraries; an evaluation reports every answer of the model."""

import json
import math
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import audmetric
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.calibration
import sklearn.metrics
import soundfile
import toys

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.emotions.estimates import DIMENSIONS, Dimensions, Prediction
from e2v_port.errors import AudioError, CorpusError, NoLabels
from e2v_port.evaluation import calibration, evaluate, metrics, report, results
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.readers import read
from e2v_port.models.model import Model

SEVEN = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")


# ---- metrics, compared with scikit-learn, audmetric and scipy


@pytest.fixture(params=range(8))
def answers(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray, int]:
    """References and answers with labels 0 to 8; some labels have no references, some no answers."""
    draw = np.random.default_rng(request.param)
    labels = 9
    count = int(draw.integers(1, 300))
    truth = draw.choice(draw.permutation(labels)[: request.param + 1], count)
    predicted = np.where(draw.random(count) < 0.4, truth, draw.choice(draw.permutation(labels)[:6], count))
    return truth, predicted, labels


def test_metrics_of_labels_equal_other_libraries(answers: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, predicted, labels = answers
    matrix = metrics.confusion(truth, predicted, labels)
    present = np.unique(truth)
    assert np.array_equal(matrix, sklearn.metrics.confusion_matrix(truth, predicted, labels=range(labels)))
    others = audmetric.recall_per_class(truth, predicted)
    assert metrics.uar(matrix) == pytest.approx(np.mean([others[label] for label in present]))
    assert metrics.uar(matrix) == pytest.approx(
        sklearn.metrics.recall_score(truth, predicted, labels=present, average="macro")
    )
    assert metrics.wa(matrix) == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    assert metrics.macro_f1(matrix) == pytest.approx(
        sklearn.metrics.f1_score(truth, predicted, labels=present, average="macro", zero_division=0)
    )
    expected = sklearn.metrics.recall_score(truth, predicted, labels=present, average=None)
    assert metrics.recalls(matrix)[present] == pytest.approx(expected)
    assert np.isnan(np.delete(metrics.recalls(matrix), present)).all()


def test_a_stack_of_matrices_gives_the_same_metrics(answers: tuple[np.ndarray, np.ndarray, int]) -> None:
    truth, predicted, labels = answers
    matrices = np.stack([metrics.confusion(truth[i:], predicted[i:], labels) for i in range(min(len(truth), 5))])
    for metric in (metrics.uar, metrics.wa, metrics.macro_f1):
        assert metric(matrices) == pytest.approx([float(metric(matrix)) for matrix in matrices])


@pytest.mark.parametrize("bins", [15, 4])
def test_the_calibration_error(bins: int) -> None:
    draw = np.random.default_rng(3)
    confidences = np.concatenate([draw.random(500) ** 0.5, np.arange(1, bins + 1) / bins])  # ends of bins too
    right = draw.random(len(confidences)) < confidences**2
    table = metrics.reliability(confidences, right, bins)
    accuracy, confidence = sklearn.calibration.calibration_curve(right, confidences, n_bins=bins)
    filled = table[:, 0] > 0
    assert table[filled, 2] / table[filled, 0] == pytest.approx(accuracy)
    assert table[filled, 1] / table[filled, 0] == pytest.approx(confidence)
    weights = table[filled, 0] / len(confidences)
    assert metrics.ece(table) == pytest.approx(np.sum(weights * np.abs(accuracy - confidence)))


def test_confidences_of_zero_and_one_have_a_bin() -> None:
    table = metrics.reliability(np.array([0.0, 1.0]), np.array([True, True]))
    assert table[[0, -1], 0].tolist() == [1, 1]


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_temperatures_equal_another_optimizer(true: float) -> None:
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(400, 7)) * 2
    truth = np.array([draw.choice(7, p=row) for row in scipy.special.softmax(logits, axis=-1)])
    right = np.arange(7) == truth[:, None]
    logits = logits * true

    def loss(log_temperature: float) -> float:
        return float(sklearn.metrics.log_loss(truth, scipy.special.softmax(logits / np.exp(log_temperature), axis=-1)))

    fitted = metrics.fit_temperature(logits, right)
    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9})
    assert fitted == pytest.approx(np.exp(best.x), rel=1e-4)
    assert metrics.nll(logits, right, fitted) == pytest.approx(best.fun)
    assert fitted == pytest.approx(true, rel=0.15)


def test_several_labels_may_be_right() -> None:
    draw = np.random.default_rng(1)
    logits, right = draw.normal(size=(50, 5)), draw.random((50, 5)) < 0.5
    right[:, 0] |= ~right.any(-1)
    shares = (scipy.special.softmax(logits / 2, axis=-1) * right).sum(-1)
    assert metrics.nll(logits, right, 2.0) == pytest.approx(-np.log(shares).mean())


@pytest.mark.parametrize("logits", [np.eye(4) * 50, -np.eye(4) * 50])
def test_temperatures_are_bounded(logits: np.ndarray) -> None:
    assert 0.1 <= metrics.fit_temperature(logits, np.eye(4, dtype=bool)) <= 10.001


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_dimensions_equal_other_libraries(seed: int) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.random(40)
    measured = 0.5 * truth + 0.3 * draw.random(40) + 0.1 * seed
    sums = metrics.moments(truth, measured)
    assert metrics.ccc(sums) == pytest.approx(audmetric.concordance_cc(truth, measured))
    assert metrics.pearson(sums) == pytest.approx(scipy.stats.pearsonr(truth, measured).statistic)
    assert metrics.mae(sums) == pytest.approx(sklearn.metrics.mean_absolute_error(truth, measured))
    assert metrics.ccc(metrics.moments(truth, truth)) == pytest.approx(1)


def exact_ccc(x: np.ndarray, y: np.ndarray) -> float:
    """Lin's formula in fractions, which round nothing."""
    xs, ys = [Fraction(float(value)) for value in x], [Fraction(float(value)) for value in y]
    n = len(xs)
    mx, my = sum(xs) / n, sum(ys) / n
    covariance = sum((a - mx) * (b - my) for a, b in zip(xs, ys, strict=True)) / n
    spread = sum((a - mx) ** 2 for a in xs) / n + sum((b - my) ** 2 for b in ys) / n + (mx - my) ** 2
    return float(2 * covariance / spread) if spread else math.nan


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15, 1e-17, 0.0])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.9])
def test_almost_constant_values_have_the_exact_figures(level: float, scale: float) -> None:
    """Down to the last bits of a float64, where both sides are constants in the end."""
    draw = np.random.default_rng(0)
    x = level + scale * draw.normal(size=20)
    for y in (x, 0.5 + scale * draw.normal(size=20), 1 - x, np.full(20, level), draw.uniform(size=20)):
        sums = metrics.moments(x, y)
        assert metrics.ccc(sums) == pytest.approx(exact_ccc(x, y), rel=1e-9, abs=1e-12, nan_ok=True)
        assert metrics.mae(sums) == pytest.approx(np.abs(x - y).mean())
        drawn = metrics.each_moment(x, y)[draw.integers(20, size=(200, 20))].sum(1)
        drawn = np.concatenate([drawn, 20 * metrics.each_moment(x, y)])  # one clip, 20 times: a constant
        for metric in (metrics.ccc, metrics.pearson):
            values = metric(drawn)
            assert np.all(np.isnan(values) | (np.abs(values) <= 1))
        assert np.all(np.isnan(metrics.pearson(20 * metrics.each_moment(x, y))))


def test_a_constant_has_no_correlation() -> None:
    constant = np.full(10, 0.3)
    assert np.isnan(metrics.pearson(metrics.moments(np.linspace(0, 1, 10), constant)))
    assert metrics.ccc(metrics.moments(np.linspace(0, 1, 10), constant)) == pytest.approx(0)
    assert np.isnan(metrics.ccc(metrics.moments(constant, constant)))


# ---- answers compared with references


def utterance(label: str | None, speaker: str = "1", original: str | None = None, sex: str | None = None) -> Utterance:
    name = original or label or ""
    return Utterance(Path(f"{speaker}-{name}.wav"), label, name, f"x/{speaker}", sex, "x", None, None)


def answer_of(logits: np.ndarray, labels: tuple[str, ...] = SEVEN, temperature: float = 1.0) -> Prediction:
    scores = dict(zip(labels, scipy.special.softmax(logits / temperature).tolist(), strict=True))
    label = max(scores, key=scores.__getitem__)
    return Prediction(label, scores[label], scores, dict(zip(labels, logits.tolist(), strict=True)), 1.0)


def compared(
    utterances: list[Utterance], answers: list[Any], labels: tuple[str, ...] = SEVEN, **options: Any
) -> results.Evaluation:
    return evaluate.compare(utterances, answers, labels, model="m", runtime="cpu", **options)


def drawn(
    speakers: int, each: int, labels: tuple[str, ...] = SEVEN, seed: int = 0
) -> tuple[list[Utterance], list[Any]]:
    """Returns clips with answers that are better than chance, and overconfident."""
    draw = np.random.default_rng(seed)
    utterances, answers = [], []
    for i in range(speakers * each):
        truth = int(draw.integers(len(labels)))
        logits = 3 * draw.normal(size=len(labels)) + 3.5 * (np.arange(len(labels)) == truth)
        utterances.append(utterance(labels[truth], str(i % speakers), sex=("female", "male")[i % 2]))
        answers.append(answer_of(logits, labels))
    return utterances, answers


def test_figures_of_an_evaluation() -> None:
    utterances, answers = drawn(4, 50)
    evaluation = compared(utterances, answers)
    truth, predicted = [u.label for u in utterances], [a.label for a in answers]
    assert evaluation.open
    assert evaluation.open.labels == SEVEN
    assert np.array_equal(evaluation.open.confusion, sklearn.metrics.confusion_matrix(truth, predicted, labels=SEVEN))
    assert evaluation.open.uar.value == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted))
    assert evaluation.open.wa.value == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted))
    assert evaluation.open.macro_f1.value == pytest.approx(sklearn.metrics.f1_score(truth, predicted, average="macro"))
    assert evaluation.closed == evaluation.open
    assert (evaluation.judged, evaluation.speakers, evaluation.resampled) == (200, 4, "clips")
    by_sex = {sex: (group.clips, group.open.value) for sex, group in evaluation.by_sex.items()}
    for groups, of in ((evaluation.by_speaker, "speaker"), (by_sex, "sex")):
        for group, (count, value) in groups.items():
            mine = [getattr(u, of) == group for u in utterances]
            pairs = [(t, p) for t, p, inside in zip(truth, predicted, mine, strict=True) if inside]
            assert count == len(pairs)
            assert value == pytest.approx(sklearn.metrics.balanced_accuracy_score(*zip(*pairs, strict=True)))
    confidences = np.array([answer.confidence for answer in answers])
    right = np.array(truth) == np.array(predicted)
    assert evaluation.ece
    assert evaluation.ece.value == pytest.approx(float(metrics.ece(metrics.reliability(confidences, right))))
    assert sum(row[2] for row in evaluation.reliability) == sum(right)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_open_and_closed_answers() -> None:
    """The corpus lacks two of the model's labels."""
    utterances, answers = drawn(4, 50)
    kept = [i for i, u in enumerate(utterances) if u.label not in {"disgusted", "surprised"}]
    utterances, answers = [utterances[i] for i in kept], [answers[i] for i in kept]
    evaluation = compared(utterances, answers)
    truth = [u.label for u in utterances]
    narrowed = [max((label for label in SEVEN if label in truth), key=answer.scores.__getitem__) for answer in answers]
    assert evaluation.open
    assert evaluation.closed
    assert {answer.label for answer in answers} == set(SEVEN)  # otherwise open and closed would be equal
    assert evaluation.open.uar.value == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(truth, [answer.label for answer in answers])
    )
    assert evaluation.closed.uar.value == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, narrowed))
    assert evaluation.closed.uar.value > evaluation.open.uar.value
    assert evaluation.closed.labels == ("angry", "fearful", "happy", "neutral", "sad")
    assert evaluation.open.recalls.keys() == set(evaluation.closed.labels)


def test_labels_the_model_lacks_are_counted() -> None:
    labels = ("angry", "happy", "sad")
    utterances, answers = drawn(4, 30, labels)
    alone = compared(utterances, answers, labels)
    others = [utterance("surprised"), utterance("surprised"), utterance(None, original="boredom")]
    more = [answer_of(np.arange(3.0), labels), answers[0], None]
    evaluation = compared([*utterances, *others], [*answers, *more], labels)
    assert evaluation.impossible == {"surprised": 2}
    assert evaluation.unmapped == {"boredom": 1}
    assert (evaluation.judged, evaluation.open, evaluation.ece_scaled) == (120, alone.open, alone.ece_scaled)
    truth = [u.label for u in [*utterances, *others[:2]]]
    predicted = [*(a.label for a in answers), "sad", answers[0].label]
    assert evaluation.uar_with_impossible == pytest.approx(sklearn.metrics.balanced_accuracy_score(truth, predicted))
    text = "\n".join(str(part) for part in report.report(evaluation))
    assert "2 surprised: the model has no such label" in text
    assert "'boredom', '-', 'none: left out', '1'" in text


def test_labels_of_the_model_that_count_as_another_one() -> None:
    """A model with both calm and neutral is right with either if the corpus only has neutral."""
    labels = ("calm", "neutral", "sad", "bored")
    answers = [
        answer_of(np.array(row), labels) for row in ([3.0, 0, 0, 0], [0, 3.0, 0, 0], [2.0, 2, 2.5, 0], [0, 0, 0, 9.0])
    ]
    evaluation = compared([utterance("neutral")] * 3 + [utterance("sad")], answers, labels)
    assert evaluation.outputs == {"calm": "neutral", "neutral": "neutral", "sad": "sad", "bored": "bored"}
    assert [clip.predicted for clip in evaluation.clips] == ["neutral", "neutral", "neutral", "bored"]
    assert evaluation.open
    assert evaluation.open.recalls == {"neutral": 1.0, "sad": 0.0}
    assert evaluation.clips[2].scores == pytest.approx(
        {"neutral": answers[2].scores["calm"] + answers[2].scores["neutral"]}
        | {label: answers[2].scores[label] for label in ("sad", "bored")}
    )


def test_nothing_to_compare() -> None:
    with pytest.raises(CorpusError, match="no clip has one of the labels angry"):
        compared([utterance(None, original="boredom")], [None])
    with pytest.raises(CorpusError, match="no clip can be read; the first error is: broken"):
        compared([utterance("sad")], [AudioError("broken")])


# ---- uncertainty


def test_intervals_over_clips_equal_scipy() -> None:
    utterances, answers = drawn(4, 60)
    evaluation = compared(utterances, answers)
    right = [float(u.label == a.label) for u, a in zip(utterances, answers, strict=True)]
    other = scipy.stats.bootstrap((right,), np.mean, n_resamples=9999, method="percentile", rng=0)
    assert evaluation.open
    interval = (evaluation.open.wa.low, evaluation.open.wa.high)
    assert interval == pytest.approx(tuple(other.confidence_interval), abs=0.012)


def test_intervals_over_speakers_equal_scipy() -> None:
    """The interval depends on the number of speakers and their differences, not on the number of clips."""
    rights = [40, 38, 31, 12, 27, 5, 35, 22]
    utterances, answers = [], []
    for speaker, right in enumerate(rights):
        for i in range(40):
            utterances.append(utterance(SEVEN[i % 7], str(speaker)))
            answers.append(answer_of(4.0 * (np.arange(7) == (i + (i >= right)) % 7)))
    evaluation = compared(utterances, answers)
    shares = np.array(rights) / 40
    other = scipy.stats.bootstrap((shares,), np.mean, n_resamples=9999, method="percentile", rng=0)
    assert evaluation.resampled == "speakers"
    assert evaluation.open
    interval = (evaluation.open.wa.low, evaluation.open.wa.high)
    assert interval == pytest.approx(tuple(other.confidence_interval), abs=0.02)
    of_clips = compared([replace(u, speaker=f"x/{i % 4}") for i, u in enumerate(utterances)], answers)
    assert of_clips.resampled == "clips"
    assert of_clips.open
    assert of_clips.open.wa.high - of_clips.open.wa.low < 0.6 * (evaluation.open.wa.high - evaluation.open.wa.low)


def test_the_seed_determines_the_intervals() -> None:
    utterances, answers = drawn(6, 10)
    assert compared(utterances, answers) == compared(utterances, answers)
    assert compared(utterances, answers).open != compared(utterances, answers, seed=1).open


# ---- temperature


def test_each_half_is_scaled_with_the_temperature_of_the_other() -> None:
    """Computed here with scipy, for halves that differ."""
    utterances, answers = drawn(6, 60)
    for i in range(0, len(answers), 2):
        answers[i] = answer_of(0.2 * np.array(list(answers[i].logits.values())))
    evaluation = compared(utterances, answers)
    logits = np.array([list(answer.logits.values()) for answer in answers])
    truth = np.array([SEVEN.index(str(u.label)) for u in utterances])
    halves = np.array([int(u.speaker[-1]) % 2 for u in utterances])
    confidences = np.zeros(len(truth))
    for half in (0, 1):
        others = halves != half

        def loss(log_temperature: float, others: np.ndarray = others) -> float:
            scores = scipy.special.softmax(logits[others] / np.exp(log_temperature), axis=-1)
            return float(sklearn.metrics.log_loss(truth[others], scores))

        hot = np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-2, 2), method="bounded").x)
        confidences[~others] = scipy.special.softmax(logits[~others] / hot, axis=-1).max(-1)
    expected = float(metrics.ece(metrics.reliability(confidences, logits.argmax(-1) == truth)))
    assert evaluation.ece_scaled
    assert evaluation.ece_scaled.value == pytest.approx(expected, abs=0.005)


def test_scaling_reduces_the_calibration_error() -> None:
    evaluation = compared(*drawn(6, 60))
    assert evaluation.ece_scaled
    assert evaluation.ece
    assert evaluation.ece_scaled.value < 0.6 * evaluation.ece.value


def test_one_clip_has_no_other_half() -> None:
    evaluation = compared([utterance("sad")], [answer_of(np.arange(7.0))])
    assert evaluation.ece
    assert evaluation.ece_scaled == evaluation.ece


def test_the_temperature_of_several_evaluations() -> None:
    both = [drawn(3, 40, seed=seed) for seed in (1, 2)]
    utterances, answers = ([*both[0][i], *both[1][i]] for i in (0, 1))
    others = [utterance(None, original="boredom")], [None]
    evaluations = [compared([*u, *others[0]], [*a, *others[1]]) for u, a in both]
    assert calibration.temperature(evaluations) == pytest.approx(
        calibration.temperature([compared(utterances, answers)])
    )
    temperature, before, after = calibration.temperature(evaluations)
    assert after < before
    hot = [
        compared(u, [answer_of(np.array(list(x.logits.values())), temperature=2) for x in a], temperature=2.0)
        for u, a in both
    ]
    assert calibration.temperature(hot)[0] == pytest.approx(temperature)
    assert calibration.temperature(hot)[1] != pytest.approx(before)


# ---- models and corpora


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "labels": toys.convert(toys.make(folder / "a"), folder / "labels"),
        "dimensional": toys.convert(toys.make_dimensional(folder / "b"), folder / "dimensional"),
        "headless": toys.convert(toys.make(folder / "c", toys.HEADLESS), folder / "headless"),
    }


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A csv with twelve clips of six speakers, one clip without a counterpart label, one unreadable and one missing."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = np.random.default_rng(0)
    labels = ["angry", "sad", "Freude", "neutral"]
    rows = ["file,label,speaker,sex,split,arousal,dominance,valence"]
    for i in range(12):
        at = np.arange(4_000 + 700 * i) / 16_000
        signal = 0.2 * np.sin(2 * np.pi * (150 + 40 * i) * at) + 0.05 * draw.standard_normal(len(at))
        soundfile.write(folder / f"{i}.wav", signal, 16_000)
        split = ("test", "test", "test", "dev", "dev", "train")[i % 6]
        numbers = ",".join(f"{x:.3f}" for x in draw.random(3))
        rows.append(f"{i}.wav,{labels[i % 4]},s{i % 6},{('f', 'm')[i % 2]},{split},{numbers}")
    (folder / "bad.wav").write_text("no recording")
    rows += ["bad.wav,sad,s0,f,test,,,", "missing.wav,angry,s0,f,test,,,", "0.wav,Langeweile,s9,f,train,,,"]
    rows[-1] = "1 b.wav,Langeweile,s0,f,test,,,"
    soundfile.write(folder / "1 b.wav", draw.standard_normal(4_000) / 9, 16_000)
    path = folder / "corpus.csv"
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def model(models: dict[str, Path]) -> Model:
    return e2v_port.load(models["labels"], runtime="cpu")


def test_an_evaluation_has_the_answers_of_the_model(model: Model, table: Path) -> None:
    utterances = read(f"csv={table}").utterances
    counted = []
    evaluation = evaluate.evaluate(model, utterances, advance=lambda: counted.append(1))
    assert len(evaluation.clips) == 15
    assert len(counted) == 14
    assert (evaluation.judged, evaluation.unmapped, evaluation.impossible) == (12, {"Langeweile": 1}, {})
    assert len(evaluation.errors) == 2
    assert [Path(clip.file).name for clip in evaluation.clips if clip.error] == ["bad.wav", "missing.wav"]
    for utterance_, clip in zip(utterances, evaluation.clips, strict=True):
        assert (clip.file, clip.speaker, clip.label) == (str(utterance_.file), utterance_.speaker, utterance_.label)
        if clip.error or clip.label is None:
            assert clip.scores is clip.predicted is clip.logits is None
            continue
        alone = model.predict(clip.file)
        assert clip.predicted == alone.label
        assert clip.scores == pytest.approx(alone.scores, abs=2e-5)
        assert clip.logits == pytest.approx(alone.logits, abs=2e-4)
    pairs = [(clip.label, clip.predicted) for clip in evaluation.clips if clip.scores]
    assert evaluation.open
    assert Counter(pairs) == {
        (a, b): count
        for a, row in zip(evaluation.open.labels, evaluation.open.confusion, strict=True)
        for b, count in zip(evaluation.open.labels, row, strict=True)
        if count
    }


def test_a_dimensional_evaluation(models: dict[str, Path], table: Path) -> None:
    model = e2v_port.load(models["dimensional"], runtime="cpu")
    utterances = read(f"csv={table}").utterances
    evaluation = evaluate.evaluate(model, utterances)
    assert (evaluation.judged, evaluation.open, evaluation.ece) == (12, None, None)
    with_numbers = [u for u in utterances if u.dimensions]
    measured = model.dimensions([u.file for u in with_numbers])
    for name in DIMENSIONS:
        truth = [getattr(u.dimensions, name) for u in with_numbers]
        values = [getattr(dimensions, name) for dimensions in measured]
        figures = evaluation.dimensions[name]
        assert figures["ccc"].value == pytest.approx(audmetric.concordance_cc(truth, values), abs=1e-4)
        assert figures["pearson"].value == pytest.approx(scipy.stats.pearsonr(truth, values).statistic, abs=1e-2)
        assert figures["mae"].value == pytest.approx(sklearn.metrics.mean_absolute_error(truth, values), abs=1e-4)
        assert figures["ccc"].low <= figures["ccc"].value <= figures["ccc"].high
    with pytest.raises(CorpusError, match="no clip has arousal, dominance and valence"):
        evaluate.evaluate(model, [replace(u, dimensions=None) for u in utterances])


def test_a_model_without_head(models: dict[str, Path], table: Path) -> None:
    with pytest.raises(NoLabels):
        evaluate.evaluate(e2v_port.load(models["headless"], runtime="cpu"), read(f"csv={table}").utterances)


def test_an_evaluation_is_json_compatible(model: Model, table: Path) -> None:
    evaluation = evaluate.evaluate(model, read(f"csv={table}").utterances)
    back = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert back["open"]["uar"]["value"] == evaluation.open.uar.value if evaluation.open else False
    assert back["clips"][0]["scores"] == evaluation.clips[0].scores
    constant = [replace(utterance("sad"), dimensions=Dimensions(0.5, 0.5, 0.5))]
    nothing = evaluate.compare(constant, [Dimensions(0.5, 0.5, 0.5)], (), model="m", runtime="cpu")
    assert math.isnan(nothing.dimensions["valence"]["ccc"].value)
    assert json.loads(json.dumps(nothing.to_dict(), allow_nan=False))["dimensions"]["valence"]["ccc"]["value"] is None


# ---- the command


def e2v(*arguments: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "evaluate", "--runtime", "cpu", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done


def test_the_command(models: dict[str, Path], model: Model, table: Path, tmp_path: Path) -> None:
    other = shutil.copytree(table.parent, tmp_path / "copy") / "other.csv"
    other.with_name("corpus.csv").rename(other)
    both = ["--model", str(models["labels"]), "--corpus", f"csv={table}", "--corpus", f"csv={other}"]
    done = e2v(*both, "--json", "--out", "out", cwd=tmp_path, code=1)
    assert done.stderr.count("error: ") == 4  # two unreadable files in each
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")
    written = [path.name for path in sorted((tmp_path / "out").iterdir())]
    assert written == ["evaluation.json", "evaluation.png", "report.html"]
    tested = [u for u in read(f"csv={table}").utterances if u.split == "test"]
    evaluation = evaluate.evaluate(model, tested)
    assert result["split"] == "test"
    assert evaluation.open
    assert result["corpora"]["corpus"]["open"]["confusion"] == [list(row) for row in evaluation.open.confusion]
    uars = [result["corpora"][name]["open"]["uar"]["value"] for name in ("corpus", "other")]
    assert uars == [evaluation.open.uar.value] * 2
    assert result["mean"]["open_uar"] == pytest.approx(np.mean(uars))
    assert result["calibration"] is None

    table.with_name("odd.csv").write_text('file,label,speaker\n0.wav,sad,"a\x1b\nb"\n', "utf-8")
    odd = e2v(*both[:2], "--corpus", f"csv={table.with_name('odd.csv')}", "--split", "all", cwd=tmp_path).stdout
    assert "'odd/a\\x1b\\nb'" in odd

    text = e2v(*both, "--split", "all", cwd=tmp_path, code=1).stdout
    assert "corpus, all: " in text
    assert "other, all: " in text
    assert "mean of 2 corpora" in text
    assert [line.split() for line in text.splitlines() if line.startswith("Langeweile")] == [
        ["Langeweile", "-", "none:", "left", "out", "1"]
    ] * 2
    assert "labels of the model that the corpus lacks: disgusted, fearful, other, surprised, unknown" in text
    assert "note: labels without a counterpart among emotion2vec's: Langeweile (1)" in text


def test_the_command_measures_dimensions(models: dict[str, Path], table: Path, tmp_path: Path) -> None:
    one = table.with_name("one.csv")  # one clip has no correlation
    one.write_text("file,label,speaker,arousal,dominance,valence\n0.wav,,a,0.5,0.5,0.5\n", "utf-8")
    both = ["--corpus", f"csv={table}", "--corpus", f"csv={one}", "--split", "all", "--out", "."]
    text = e2v("--model", str(models["dimensional"]), *both, cwd=tmp_path).stdout
    assert "12 of 15 clips" in text
    result = json.loads((tmp_path / "evaluation.json").read_text("utf-8"))
    assert result["corpora"]["one"]["dimensions"]["valence"]["pearson"]["value"] is None
    assert result["mean"]["valence_pearson"] is None
    assert ["CCC", "Pearson", "MAE"] in [line.split() for line in text.splitlines()]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "report.html"]


def test_calibration_changes_only_the_temperature(models: dict[str, Path], table: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(models["labels"], tmp_path / "model")
    weights = (folder / "model.safetensors").read_bytes()
    before = ModelConfig.read(folder)
    spec = ["--model", str(folder), "--corpus", f"csv={table}"]
    done = e2v(*spec, "--calibrate", cwd=tmp_path)
    after = ModelConfig.read(folder)
    assert replace(after, temperature=before.temperature, calibrated_on=()) == before
    assert after.calibrated_on == ("corpus/s3", "corpus/s4")
    assert (folder / "model.safetensors").read_bytes() == weights
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in models["labels"].iterdir())
    assert f"temperature {after.temperature:.3f} stored in {folder}" in done.stdout
    assert "corpus, dev: " in done.stdout

    plain, calibrated = (e2v_port.load(path, runtime="cpu") for path in (models["labels"], folder))
    tuned = [u for u in read(f"csv={table}").utterances if u.split == "dev"]
    logits = np.array([list(plain.predict(u.file).logits.values()) for u in tuned])
    truth = [plain.labels.index(str(u.label)) for u in tuned]

    def loss(log_temperature: float) -> float:
        scores = scipy.special.log_softmax(logits / np.exp(log_temperature), axis=-1)
        return float(-scores[np.arange(len(truth)), truth].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=np.log([0.1, 10]), method="bounded")
    assert loss(np.log(after.temperature)) == pytest.approx(best.fun, abs=1e-5)
    clip = tuned[0].file
    scores = scipy.special.softmax(np.array(list(plain.predict(clip).logits.values())) / after.temperature)
    assert list(calibrated.predict(clip).scores.values()) == pytest.approx(scores, abs=1e-6)
    assert calibrated.predict(clip).label == plain.predict(clip).label
    e2v(*spec, "--calibrate", cwd=tmp_path)  # repeating it finds the same
    assert ModelConfig.read(folder).temperature == pytest.approx(after.temperature, rel=1e-4)


@pytest.mark.parametrize("part", ["test", "all"])
def test_no_calibration_on_test_speakers(models: dict[str, Path], table: Path, tmp_path: Path, part: str) -> None:
    arguments = ["--model", str(models["labels"]), "--corpus", f"csv={table}", "--calibrate", "--split", part]
    done = e2v(*arguments, cwd=tmp_path, code=2)
    assert done.stderr.startswith(f"error: --calibrate --split {part} ")
    assert ModelConfig.read(models["labels"]).temperature == 1


def test_the_bundled_model_is_not_changed(table: Path, tmp_path: Path) -> None:
    done = e2v("--model", "bundled", "--corpus", f"csv={table}", "--calibrate", cwd=tmp_path, code=2)
    assert "cannot change a bundled model: copy" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "tess=."], "with one of the names"),
        (["--corpus", "csv=missing.csv"], "no such file"),
        (["--corpus", "csv={table}", "--corpus", "csv={table}"], "2 corpora are called corpus"),
        (["--corpus", "csv={table}", "--out", "{table}"], "not a writable folder"),
        (["--corpus", "csv={table}", "--out", "no/such"], "not a writable folder"),
    ],
)
def test_errors_of_the_command(
    models: dict[str, Path], table: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [argument.format(table=table) for argument in arguments]
    done = e2v("--model", str(models["labels"]), *given, cwd=tmp_path, code=2)
    assert message in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


def test_dimensions_have_no_temperature(models: dict[str, Path], table: Path, tmp_path: Path) -> None:
    done = e2v("--model", str(models["dimensional"]), "--corpus", f"csv={table}", "--calibrate", cwd=tmp_path, code=2)
    assert "not labels" in done.stderr

"""Models compared on the same clips: differences equal scipy's, and figures those of each model alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import own_audio
import pytest
import scipy.stats
import sklearn.metrics
import soundfile
import toys
from typer.testing import CliRunner

import e2v_port
from e2v_port.cli import app
from e2v_port.errors import CorpusError, NoLabels
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.comparison import report
from e2v_port.evaluation.comparison.pairs import difference, mcnemar
from e2v_port.evaluation.plots import plot_comparisons

SIX = ("angry", "disgusted", "fearful", "happy", "neutral", "sad")


# ---- McNemar's test and the paired bootstrap, compared with scipy


@pytest.mark.parametrize(
    ("one", "other"), [(0, 0), (0, 1), (1, 1), (0, 6), (3, 12), (40, 41), (100, 160), (5000, 5300)]
)
def test_the_test_of_mcnemar_equals_a_binomial_test(one: int, other: int) -> None:
    expected = scipy.stats.binomtest(one, one + other, 0.5).pvalue if one + other else 1.0
    assert mcnemar(one, other) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(one, other) == mcnemar(other, one)


def drawn(speakers: int, labels: int = 4, each: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Returns references and the answers of two models, the second better; each speaker has all labels as often."""
    draw = np.random.default_rng(speakers)
    truth = np.tile(np.repeat(np.arange(labels), each), speakers)
    names = [f"x/{i}" for i in np.repeat(np.arange(speakers), labels * each)]
    skill = np.repeat(draw.uniform(0, 0.5, speakers), labels * each)
    first = np.where(draw.random(len(truth)) < 0.3 + skill, truth, draw.integers(labels, size=len(truth)))
    kept = draw.random(len(truth)) < 0.6
    other = np.where(
        kept, first, np.where(draw.random(len(truth)) < 0.6, truth, draw.integers(labels, size=len(truth)))
    )
    return truth, first, other, names


def recall(truth: np.ndarray, given: np.ndarray) -> float:
    return float(np.mean([np.mean(given[truth == label] == label) for label in np.unique(truth)]))


def test_the_difference_of_two_models() -> None:
    truth, first, other, names = drawn(4)
    found = difference(truth, first, other, 4, Bootstrap(names, 0))
    scores: list[Callable[..., float]] = [
        sklearn.metrics.balanced_accuracy_score,
        lambda a, b: sklearn.metrics.f1_score(a, b, average="macro"),
    ]
    for figure, score in zip((found.uar, found.macro_f1), scores, strict=True):
        assert figure.value == pytest.approx(score(truth, other) - score(truth, first))
        assert figure.low < figure.value < figure.high
    right = [answers == truth for answers in (first, other)]
    assert found.only_first == np.sum(right[0] > right[1])
    assert found.only_this == np.sum(right[1] > right[0])
    assert found.p == pytest.approx(mcnemar(found.only_first, found.only_this))


def test_intervals_of_a_difference_over_clips_equal_scipy() -> None:
    truth, first, other, names = drawn(4)
    found = difference(truth, first, other, 4, Bootstrap(names, 0))
    expected = scipy.stats.bootstrap(
        (truth, first, other),
        lambda a, b, c: recall(a, c) - recall(a, b),
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=0,
    )
    assert (found.uar.low, found.uar.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.015)
    # Draws of two different sets of clips would give a wider interval.
    right = [(answers == truth).astype(float) for answers in (first, other)]
    apart = scipy.stats.bootstrap(
        right, lambda a, b: np.mean(b) - np.mean(a), vectorized=False, n_resamples=1000, method="percentile", rng=0
    )
    assert found.uar.high - found.uar.low < 0.85 * float(np.ptp(apart.confidence_interval))


def test_intervals_of_a_difference_over_speakers_equal_scipy() -> None:
    truth, first, other, names = drawn(12)
    found = difference(truth, first, other, 4, Bootstrap(names, 0))
    of = np.array(names)
    each = [
        recall(truth[of == n], other[of == n]) - recall(truth[of == n], first[of == n]) for n in dict.fromkeys(names)
    ]
    expected = scipy.stats.bootstrap((each,), np.mean, n_resamples=9999, method="percentile", rng=0)
    assert found.uar.value == pytest.approx(np.mean(each))
    assert (found.uar.low, found.uar.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_the_order_of_two_models_changes_the_sign_only() -> None:
    truth, first, other, names = drawn(6)
    one = difference(truth, first, other, 4, Bootstrap(names, 0))
    back = difference(truth, other, first, 4, Bootstrap(names, 0))
    for a, b in ((one.uar, back.uar), (one.macro_f1, back.macro_f1)):
        assert (b.value, b.low, b.high) == pytest.approx((-a.value, -a.high, -a.low))
    assert (one.only_first, one.only_this, one.p) == (back.only_this, back.only_first, back.p)


# ---- models of the package, on the project's own speech


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen clips of six made-up speakers, among them labels that not all models have, and one that is broken."""
    folder = tmp_path_factory.mktemp("speech")
    rows = ["file,label,speaker,split"]
    for i in range(18):
        waveform, rate = soundfile.read(own_audio.SENTENCES[i % len(own_audio.SENTENCES)], dtype="float32")
        soundfile.write(folder / f"{i}.wav", waveform[i * 800 : i * 800 + 24_000], rate)
        label = (*SIX, "surprised", "boredom")[i % 8]
        rows.append(f"{i}.wav,{label},s{i % 6},test")
    (folder / "bad.wav").write_text("no recording")
    path = folder / "own.csv"
    path.write_text("\n".join([*rows, "bad.wav,sad,s0,test"]) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def comparison(table: Path) -> e2v_port.Comparison:
    counted: list[int] = []
    found = e2v_port.compare(
        ["bundled", "bundled-tiny", "bundled-nc"],
        [f"csv={table}"],
        runtime="cpu",
        offline=True,
        advance=lambda: counted.append(1),
    )
    assert [*found] == ["own"]
    assert len(counted) == 3 * 15
    return found["own"]


def test_models_are_compared_on_the_clips_and_labels_that_all_have(
    comparison: e2v_port.Comparison, table: Path
) -> None:
    rows = [line.split(",") for line in table.read_text("utf-8").splitlines()[1:-1]]
    common = set.intersection(*(set(e2v_port.load(each.model).labels) for each in comparison.contenders)) & {*SIX}
    kept = [(table.parent / row[0], row[1]) for row in rows if row[1] in common]
    assert comparison.labels == tuple(label for label in SIX if label in common)
    assert comparison.clips == len(kept) == 14
    assert (comparison.speakers, comparison.resampled) == (6, "speakers")
    assert comparison.left_out == {"surprised": 2, "boredom": 2}
    assert len(comparison.errors) == 1
    assert "bad.wav" in comparison.errors[0]
    truth = [label for _, label in kept]
    first: list[str] = []
    for each in comparison.contenders:
        model = e2v_port.load(each.model, runtime="cpu")
        answers = model.predict([file for file, _ in kept])
        given = [max(common, key=lambda label, answer=answer: answer.scores[label]) for answer in answers]
        first = first or given
        uar = sklearn.metrics.balanced_accuracy_score(truth, given)
        f1 = sklearn.metrics.f1_score(truth, given, average="macro", labels=comparison.labels, zero_division=0)
        assert (each.uar.value, each.macro_f1.value) == pytest.approx((uar, f1))
        assert each.wa.value == pytest.approx(sklearn.metrics.accuracy_score(truth, given))
        assert each.ignored == tuple(label for label in model.labels if label not in common)
        assert each.size == model._weights.stat().st_size if model._weights else False
        assert (each.runtime, each.dtype) == (model.runtime, model.dtype)
        assert each.seconds > 0
        if each.difference:
            before = sklearn.metrics.balanced_accuracy_score(truth, first)
            assert each.difference.uar.value == pytest.approx(uar - before)
    assert comparison.contenders[0].difference is None
    assert comparison.audio == pytest.approx(sum(soundfile.info(file).duration for file, _ in kept), abs=0.01)


def test_a_model_does_not_differ_from_itself(table: Path) -> None:
    found = e2v_port.compare(["bundled-tiny", "bundled-tiny"], [f"csv={table}"], runtime="cpu")["own"]
    one, other = found.contenders
    assert one.uar == other.uar
    assert other.difference
    assert (other.difference.uar.value, other.difference.uar.low, other.difference.uar.high) == (0, 0, 0)
    assert (other.difference.only_first, other.difference.only_this, other.difference.p) == (0, 0, 1)


def test_labels_to_compare_on(table: Path) -> None:
    found = e2v_port.compare(["bundled-tiny", "bundled-nc"], [f"csv={table}"], labels="anger, sad,neutral")["own"]
    assert found.labels == ("angry", "neutral", "sad")
    assert found.clips + sum(found.left_out.values()) == 18
    assert found.left_out["happy"] == 2
    with pytest.raises(NoLabels, match="surprised: not all models have this label: choose among angry, "):
        e2v_port.compare(["bundled-tiny", "bundled-nc"], [f"csv={table}"], labels=["surprise", "sad"])


def test_a_comparison_is_one_table_everywhere(comparison: e2v_port.Comparison, tmp_path: Path) -> None:
    header, *rows = report.table({"own": comparison})
    assert [row[1] for row in rows] == ["bundled", "bundled-tiny", "bundled-nc"]
    assert rows[0][3] == ""
    text = report.markdown({"own": comparison}, "Own | speech")
    cells = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    assert [[cell.strip() for cell in row] for row in cells[2:]] == rows
    assert len(cells[1]) == len(header)
    lines = "\n".join(report.lines({"own": comparison}))
    assert "clips left out, with other labels: 2 surprised, 2 boredom" in lines
    assert "1 clips left out, since a model could not use them" in lines
    assert "answers of bundled-nc that do not count: surprised" in lines
    back = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert back["contenders"][1]["difference"]["p"] == comparison.contenders[1].difference.p  # type: ignore[union-attr]
    for name in ("a.png", "a.svg"):
        plot_comparisons({"own": comparison, "again": comparison}, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "bundled-tiny, 1.9 MB" in (tmp_path / "a.svg").read_text("utf-8")


# ---- what is refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_models_without_labels_are_refused_before_any_runs(folder: Path, table: Path) -> None:
    for name, make in (
        ("dimensional", toys.make_dimensional(folder / "a")),
        ("headless", toys.make(folder / "b", toys.HEADLESS)),
    ):
        other = toys.convert(make, folder / name)
        with pytest.raises(NoLabels, match="has no labels to compare"):
            e2v_port.compare(["bundled", other], [f"csv={table}"], advance=lambda: pytest.fail("a clip was run"))


def test_clips_of_a_training_are_refused(tmp_path: Path, table: Path) -> None:
    """EmoDB is what the bundled models learned from, and its names are known in any table."""
    rows = ["file,label,speaker,split"]
    for number, label in ((0, "angry"), (4, "neutral")):
        name = f"03a0{1 + number}{'W' if label == 'angry' else 'N'}a.wav"
        (tmp_path / name).write_bytes((table.parent / f"{number}.wav").read_bytes())
        rows.append(f"{name},{label},me,test")
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n", "utf-8")
    with pytest.raises(CorpusError, match="2 of 2 clips are those that bundled-tiny was trained on"):
        e2v_port.compare(["bundled-nc", "bundled-tiny"], [f"csv={tmp_path / 'a.csv'}"])
    found = e2v_port.compare(["bundled-nc", "bundled-tiny"], [f"csv={tmp_path / 'a.csv'}"], seen=True)
    assert "bundled-tiny: the model was trained on 2 of these clips" in "\n".join(report.lines(found))


def test_labels_that_have_nothing_in_common(tmp_path: Path, table: Path) -> None:
    lines = [line for line in table.read_text("utf-8").splitlines() if ",surprised," in line or ",sad," in line]
    few = table.with_name("few.csv")
    few.write_text("\n".join(["file,label,speaker,split", *lines]) + "\n", "utf-8")
    with pytest.raises(CorpusError, match="fewer than two of its labels are among those that count"):
        e2v_port.compare(["bundled", "bundled-nc"], [f"csv={few}"])


# ---- the command


def test_the_command(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = ["compare", "-m", "bundled", "-m", "bundled-tiny", "-c", f"csv={table}", "--runtime", "cpu"]
    done = CliRunner().invoke(app, [*both, "--out", str(out)])
    assert done.exit_code == 1  # one clip is broken
    assert done.stderr.startswith("error: ")
    assert sorted(path.name for path in out.iterdir()) == ["comparison.json", "comparison.md", "comparison.png"]
    result = json.loads((out / "comparison.json").read_text("utf-8"))
    assert result["split"] == "test"
    assert result["corpora"]["own"]["clips"] == 14
    for each in result["corpora"]["own"]["contenders"]:
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:2] == ["own", each["model"]]]
        assert f"{each['uar']['value']:.3f} [" in line
        assert f"| {each['model']} |" in (out / "comparison.md").read_text("utf-8")
    printed = json.loads(CliRunner().invoke(app, [*both, "--json"]).stdout)
    assert printed["corpora"]["own"]["labels"] == result["corpora"]["own"]["labels"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "bundled", "--corpus", "csv={table}"], "only one --model: pass --model again"),
        (["-m", "bundled", "-m", "none", "--corpus", "csv={table}"], "none"),
        (
            ["-m", "bundled", "-m", "bundled-tiny", "--corpus", "csv={table}", "--out", "no/such"],
            "not a writable folder",
        ),
    ],
)
def test_errors_of_the_command(table: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    given = [argument.format(table=table) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "compare", *given], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1

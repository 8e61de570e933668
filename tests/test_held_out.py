"""An evaluation cannot flatter: known voices are refused, other corpora and harder conditions are measured."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics
import soundfile
import toys
from typer.testing import CliRunner

import e2v_port
from e2v_port.architectures.config import ModelConfig, TrainedOn
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.cli import app
from e2v_port.emotions.estimates import Prediction
from e2v_port.emotions.fusion import fuse
from e2v_port.errors import CorpusError
from e2v_port.evaluation import calibration, conditions, metrics, report, results
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.evaluate import compare, evaluate
from e2v_port.evaluation.readers import read
from e2v_port.models.model import Model

LABELS = ("angry", "happy", "neutral", "sad")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return toys.convert(toys.make(folder / "checkpoint"), folder / "model")


def trained(folder: Path, converted: Path, train: tuple[str, ...], dev: tuple[str, ...] = ()) -> Path:
    """Returns a copy of a model that says it was trained on speakers."""
    folder.mkdir()
    (folder / "model.safetensors").hardlink_to(converted / "model.safetensors")
    config = replace(ModelConfig.read(converted), trained_on=(TrainedOn(train, dev, "", ""),))
    (folder / "config.json").write_text(config.to_json(), "utf-8")
    return folder


def voice(seconds: float, seed: int) -> np.ndarray:
    """A buzz with noise, between a quarter of a second of silence."""
    draw = np.random.default_rng(seed)
    at = np.arange(int(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    buzz = np.sign(np.sin(2 * np.pi * (100 + 10 * seed) * at)) + draw.standard_normal(len(at))
    return np.pad(0.1 * buzz, SAMPLING_RATE // 4).astype(np.float32)


@pytest.fixture(scope="module")
def berlin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of each of six speakers, named as in EmoDB."""
    folder = tmp_path_factory.mktemp("berlin")
    for i in range(24):
        name = f"{(3, 8, 9, 10, 15, 16)[i % 6]:02}a0{1 + i // 6}{'WFNT'[i // 6]}a.wav"
        soundfile.write(folder / name, voice(0.6 + 0.11 * i, i), SAMPLING_RATE)
    return folder


# ---- a known voice is refused


def test_a_corpus_is_known_in_a_table_of_damaged_copies(berlin: Path, converted: Path, tmp_path: Path) -> None:
    """Cut, amplified, in another format, under other names of speakers: the names of the files betray them."""
    rows = ["file,label,speaker"]
    for i, file in enumerate(sorted(berlin.iterdir())):
        damaged = load_audio(file)[4000:12_000]
        soundfile.write(tmp_path / f"x_{file.stem}.flac", 0.9 * damaged / np.abs(damaged).max(), SAMPLING_RATE)
        rows.append(f"x_{file.stem}.flac,{LABELS[i % 4]},someone {i}")
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(rows), "utf-8")
    speakers = ("emodb/03", "emodb/08", "emodb/09", "emodb/10")
    model = e2v_port.load(trained(tmp_path / "model", converted, speakers), runtime="cpu")
    clips = read(f"csv={table}").utterances
    message = r"16 of 24 clips are those that .* was trained on \(emodb/03, emodb/08, emodb/09, \.\.\.\).*--seen"
    with pytest.raises(CorpusError, match=message) as caught:
        evaluate(model, clips)
    assert "\n" not in str(caught.value)
    allowed = evaluate(model, clips, seen=True)
    assert allowed.seen
    assert allowed.seen["train"] == results.Seen(16, speakers)
    assert allowed.seen["corpus"] == results.Seen(8, ("emodb/15", "emodb/16"))


def test_a_training_on_a_table_knows_the_corpus_by_its_files(berlin: Path, tmp_path: Path) -> None:
    from e2v_port.evaluation.sounds import trained_on

    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["file,label,speaker", *(f"{file},sad,eva" for file in berlin.iterdir())]), "utf-8")
    clips = read(f"csv={table}").utterances
    known = trained_on({"train": clips, "dev": []}, {"train": [], "dev": []})
    assert {"mine/eva", "emodb/03", "emodb/16"} <= {*known.train}
    assert known.corpora == ("emodb", "mine")


def test_other_speakers_of_a_training_corpus_are_tested_with_a_remark(
    berlin: Path, converted: Path, tmp_path: Path
) -> None:
    clips = [clip for clip in read(f"emodb={berlin}").utterances if clip.speaker in {"emodb/15", "emodb/16"}]
    remark = "the model was trained on other speakers of the corpus of 8 of these clips"
    for name, speakers, there in (("a", ("emodb/03",), True), ("b", ("ravdess/01",), False)):
        model = e2v_port.load(trained(tmp_path / name, converted, speakers), runtime="cpu")
        evaluation = evaluate(model, clips)
        assert any(line.startswith(remark) for line in report.seen_lines(evaluation.seen)) == there
        assert calibration.familiar({"emodb": evaluation}) == (["emodb"] if there else [])


# ---- a condition is what it says


def test_an_excerpt_is_the_middle_of_the_voice() -> None:
    clip = np.zeros(6 * SAMPLING_RATE, np.float32)
    clip[2 * SAMPLING_RATE : 5 * SAMPLING_RATE] = np.linspace(0.3, 0.9, 3 * SAMPLING_RATE)
    cut = conditions.excerpt(clip, 1)
    assert np.array_equal(cut, clip[3 * SAMPLING_RATE : 4 * SAMPLING_RATE])
    assert conditions.excerpt(clip, 3) is clip  # not longer
    assert conditions.excerpt(clip, 5) is clip
    silence = np.zeros(100, np.float32)
    assert conditions.excerpt(silence, 1) is silence


def level(waveform: np.ndarray) -> float:
    return 10 * math.log10(float(np.mean(np.square(waveform[2000:-2000], dtype=np.float64))) + 1e-12)


def test_a_telephone_passes_the_band_of_speech_with_the_noise_of_mu_law() -> None:
    at = np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE
    gains = {60: (-120, -40), 150: (-30, -20), 1000: (-0.2, 0.2), 3000: (-0.9, 0.2), 5000: (-120, -50)}
    for hertz, (least, most) in gains.items():
        tone = (0.25 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)
        heard = conditions.telephone(tone)
        assert len(heard) == len(tone)
        assert least <= level(heard) - level(tone) <= most, hertz
    tone = (0.25 * np.sin(2 * np.pi * 1013 * at)).astype(np.float32)
    scale = float(tone @ conditions.telephone(tone)) / float(tone @ tone)
    noise = level(conditions.telephone(tone) - scale * tone) - level(tone)
    assert -42 < noise < -34  # G.711 promises at least 33 dB between speech and its noise
    for samples in (400, 401, 8001):
        assert len(conditions.telephone(tone[:samples])) == samples


def test_the_echo_of_a_room_has_the_energy_of_the_voice_and_fades_in_half_a_second() -> None:
    click = np.zeros(SAMPLING_RATE, np.float32)
    click[100] = 0.5
    heard = conditions.room(click, np.random.default_rng(0))
    assert len(heard) == len(click)
    assert heard[:100] == pytest.approx(0, abs=1e-6)
    assert heard[100] == pytest.approx(0.5, abs=1e-6)
    echo = heard[101:]
    assert float(echo @ echo) == pytest.approx(0.25, rel=1e-4)
    early, late = (np.mean(np.square(echo[start : start + 800])) for start in (800, 4800))
    assert 10 * math.log10(early / late) == pytest.approx(60 * 4000 / 8000, abs=2)


def test_noise_is_10_db_below_the_clip() -> None:
    clip = voice(2, 1)
    noise = np.random.default_rng(0).standard_normal(len(clip)) * 7
    added = conditions.noisy(clip, noise) - clip
    power = [float(np.mean(np.square(part, dtype=np.float64))) for part in (clip, added)]
    assert 10 * math.log10(power[0] / power[1]) == pytest.approx(10, abs=0.01)


@pytest.fixture(scope="module")
def model(converted: Path) -> Model:
    return e2v_port.load(converted, runtime="cpu")


def test_figures_under_conditions_are_those_of_damaged_files(model: Model, berlin: Path, tmp_path: Path) -> None:
    clips = read(f"emodb={berlin}").utterances
    plain = evaluate(model, clips)
    counted = []
    evaluation = conditions.under_conditions(model, clips, plain, advance=lambda: counted.append(1))
    assert replace(evaluation, conditions={}) == plain
    assert len(counted) == 24 * len(conditions.CONDITIONS)
    assert tuple(evaluation.conditions) == conditions.CONDITIONS
    changed = {name: each.changed for name, each in evaluation.conditions.items()}
    longer = {f"{seconds} s": sum(0.6 + 0.11 * i > seconds for i in range(24)) for seconds in (1, 2, 3, 5)}
    assert changed == longer | dict.fromkeys(("telephone", "room", "white noise", "babble"), 24)
    for name, damage in (("1 s", lambda x: conditions.excerpt(x, 1)), ("telephone", conditions.telephone)):
        files = []
        for clip in clips:
            soundfile.write(tmp_path / clip.file.name, damage(load_audio(clip.file)), SAMPLING_RATE, "FLOAT")
            files.append(replace(clip, file=tmp_path / clip.file.name))
        other = evaluate(model, files)
        found = evaluation.conditions[name]
        assert other.closed
        assert other.open
        assert plain.closed
        assert (found.closed, found.open) == (other.closed.uar, other.open.uar)
        assert other.ece
        assert found.ece.value == pytest.approx(other.ece.value, abs=1e-6)
        assert found.change.value == pytest.approx(other.closed.uar.value - plain.closed.uar.value)
        assert found.change.low <= found.change.value <= found.change.high
    assert conditions.under_conditions(model, clips, plain) == evaluation  # the noise is always the same
    unchanged = evaluation.conditions["5 s"]
    assert (unchanged.change, unchanged.closed) == (results.Figure(0, 0, 0), plain.closed and plain.closed.uar)


def test_the_command_reports_conditions_languages_and_errors(berlin: Path, converted: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ["evaluate", "-m", converted, "-r", "cpu", "-c", f"emodb={berlin}", "--split", "all", "--conditions"]
    done = CliRunner().invoke(app, [*map(str, given), "--out", str(out)])
    assert done.exit_code == 0, done.output
    values = json.loads((out / "evaluation.json").read_text("utf-8"))["corpora"]["emodb"]
    page = (out / "report.html").read_text("utf-8")
    assert [*values["conditions"]] == [*conditions.CONDITIONS]
    assert set(values["by_sex"]) == {"female", "male"}
    assert values["by_language"]["German"]["speakers"] == 6
    assert 0 <= values["risk"]["aurc"]["low"] <= values["risk"]["aurc"]["value"] <= 1
    for name, each in values["conditions"].items():
        shown = f"{each['closed']['value']:.3f} [{each['closed']['low']:.3f}, {each['closed']['high']:.3f}]"
        (row,) = [line for line in done.output.splitlines() if line.startswith(f"{name}  ")]
        assert shown in row
        assert f'<th scope="row">{name}</th><td>{each["changed"]}</td><td>{shown}</td>' in page
    for text in ("area under this risk-coverage curve", "uncertain", "German"):
        assert text in done.output
        assert text in page
    assert "http" not in page.replace("http://www.w3.org", "")


# ---- what confidence is worth


def clips_of(
    corpus: str, count: int, scale: float, seed: int, *, speakers: int = 6
) -> tuple[list[Utterance], list[Prediction]]:
    """Returns clips with answers whose logits are too large by a factor."""
    draw = np.random.default_rng(seed)
    utterances, answers = [], []
    for i in range(count):
        logits = draw.normal(size=4)
        truth = draw.choice(4, p=scipy.special.softmax(2 * logits))
        scores = dict(zip(LABELS, scipy.special.softmax(2 * scale * logits).tolist(), strict=True))
        label = max(scores, key=scores.__getitem__)
        logits_of = dict(zip(LABELS, (2 * scale * logits).tolist(), strict=True))
        name, speaker = LABELS[truth], f"{corpus}/{i % speakers}"
        utterances.append(Utterance(Path(f"{i}.wav"), name, name, speaker, None, corpus, None, None))
        answers.append(Prediction(label, scores[label], scores, logits_of, 3.0))
    return utterances, answers


def evaluation_of(corpus: str, count: int, scale: float, seed: int) -> results.Evaluation:
    return compare(*clips_of(corpus, count, scale, seed), LABELS, model="m", runtime="cpu")


def test_a_corpus_left_out_is_calibrated_by_the_others() -> None:
    evaluations = {
        "a": evaluation_of("a", 900, 2.0, 1),
        "b": evaluation_of("b", 100, 4.0, 2),
        "c": evaluation_of("c", 300, 3.0, 3),
    }
    found = calibration.leave_one_out(evaluations)
    assert set(found) == {"a", "b", "c"}

    def loss(hot: float) -> float:
        """Each corpus has the same weight, whatever its size."""
        return float(np.mean([_log_loss(evaluations[name], hot) for name in ("a", "b")]))

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9})
    assert found["c"].temperature == pytest.approx(best.x, rel=1e-4)
    assert found["c"].before == evaluations["c"].ece
    assert found["c"].after.value < 0.5 * found["c"].before.value
    assert calibration.leave_one_out({"a": evaluations["a"]}) == {}


def _log_loss(evaluation: results.Evaluation, hot: float) -> float:
    logits = np.array([[*clip.logits.values()] for clip in evaluation.clips if clip.logits])
    truth = [LABELS.index(str(clip.label)) for clip in evaluation.clips]
    return float(sklearn.metrics.log_loss(truth, scipy.special.softmax(logits / hot, axis=-1)))


@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_risk_coverage_curve(seed: int) -> None:
    draw = np.random.default_rng(seed)
    confidences = draw.choice([0.2, 0.5, 0.7, 0.71, 0.9], 60) if seed else draw.random(60)  # with ties and without
    wrong = draw.random(60) < 1 - confidences
    risks = [wrong[confidences >= threshold].mean() for threshold in confidences]  # by its definition
    assert metrics.aurc(confidences, wrong) == pytest.approx(np.mean(risks))
    coverage, risk = metrics.risk_coverage(confidences, wrong)
    assert sorted(risk) == pytest.approx(sorted(risks))
    assert (coverage[-1], risk[-1]) == (1, wrong.mean())
    weights = draw.integers(0, 3, 60).astype(float)
    again = np.repeat(np.arange(60), weights.astype(int))
    assert metrics.aurc(confidences, wrong, weights) == pytest.approx(metrics.aurc(confidences[again], wrong[again]))


def test_the_best_and_the_worst_confidence() -> None:
    wrong = np.array([False] * 6 + [True] * 2)
    assert metrics.aurc(np.linspace(1, 0, 8), wrong) == pytest.approx((1 / 7 + 2 / 8) / 8)
    assert metrics.aurc(np.full(8, 0.5), wrong) == 2 / 8  # one confidence for all says nothing
    assert metrics.aurc(np.linspace(0, 1, 8), wrong) > 0.5


def test_the_note_uncertain_and_how_often_it_is_right() -> None:
    utterances, answers = clips_of("a", 300, 1.0, 4)
    evaluation = compare(utterances, answers, LABELS, model="m", runtime="cpu")
    doubtful = np.array([fuse(answer, None, answer.duration).doubtful for answer in answers])
    wrong = np.array([answer.label != clip.label for answer, clip in zip(answers, utterances, strict=True)])
    assert evaluation.doubt
    assert (evaluation.doubt.certain, evaluation.doubt.uncertain) == (int((~doubtful).sum()), int(doubtful.sum()))
    assert evaluation.doubt.certain_errors.value == pytest.approx(wrong[~doubtful].mean())
    assert evaluation.doubt.uncertain_errors.value == pytest.approx(wrong[doubtful].mean())
    assert evaluation.doubt.uncertain_errors.value > evaluation.doubt.certain_errors.value
    assert evaluation.risk
    assert evaluation.risk.curve[-1][:2] == (1.0, pytest.approx(wrong.mean()))
    assert report.remaining_errors(evaluation.risk, 1.0) == evaluation.risk.curve[-1][1]


def test_calibration_warns_where_only_speakers_are_held_out(berlin: Path, converted: Path, tmp_path: Path) -> None:
    known = trained(tmp_path / "known", converted, ("emodb/03",))
    other = trained(tmp_path / "other", converted, ("ravdess/01",))
    table = tmp_path / "berlin.csv"
    rows = [
        f"{file},{LABELS[i % 4]},{i % 3},{'dev' if i % 3 else 'test'}"
        for i, file in enumerate(sorted(berlin.glob("1*")))
    ]
    table.write_text("\n".join(["file,label,speaker,split", *rows]), "utf-8")
    for folder, warned in ((known, True), (other, False)):
        spec = ["evaluate", "-m", str(folder), "-r", "cpu", "-c", f"csv={table}"]
        done = CliRunner().invoke(app, [*spec, "--calibrate", "--json"])
        assert done.exit_code == 0, done.output
        assert ("warning: the model was trained on berlin, so only speakers are held out" in done.stderr) == warned
        assert json.loads(done.stdout)["calibration"]["familiar"] == (["berlin"] if warned else [])
        assert ModelConfig.read(folder).calibrated_on == ("berlin/1", "berlin/2")
        after = CliRunner().invoke(app, [*spec, "--split", "dev"])
        assert "the temperature of the model was fitted on 8 of these clips" in after.output

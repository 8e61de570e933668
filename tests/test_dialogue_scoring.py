"""Figures of replies equal those of other libraries, and say of made-up models what is true of them."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import jiwer
import numpy as np
import pytest
import sacrebleu
import sklearn.metrics
import soundfile
import speechlm
import torch
from rouge_score.rouge_scorer import RougeScorer

from e2v_port.dialogue import examples
from e2v_port.dialogue.examples import Example
from e2v_port.dialogue.replies import LABELS, replies, reply, topic_of
from e2v_port.dialogue.scoring import agreement, answers, empathy, rating, report, similarity, written
from e2v_port.dialogue.scoring.evaluate import evaluate
from e2v_port.dialogue.scoring.figures import Evaluation, evaluation
from e2v_port.dialogue.scoring.pairs import pairs
from e2v_port.dialogue.scoring.tone import Classifier, Lexicon, Nearest, sentences
from e2v_port.errors import CheckpointError, CorpusError, ModelNotFound
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.llm import language, stored
from e2v_port.llm.adapter import heard
from e2v_port.llm.speech import SpeechLM
from e2v_port.llm.speech import answers as answering

# ---- the tone of texts

# Written for this test, without a look at taxonomy/tone_words.json.
SENTENCES = {
    "angry": ["I am so angry with them!", "This makes me furious.", "He was outraged by the bill.", "I hate this!"],
    "disgusted": ["That is disgusting.", "Yuck, what a revolting smell.", "It made me feel sick: how gross!"],
    "fearful": ["I am scared of the dark.", "She was terrified.", "I'm really worried and anxious.", "Don't panic!"],
    "happy": ["I'm so happy for you!", "What a wonderful day.", "We laughed and had fun.", "I love it!"],
    "neutral": ["The train leaves at nine.", "You can put it on the table.", "It is made of wood.", ""],
    "sad": ["I feel so sad and lonely.", "She cried all night.", "What a tragic loss.", "He is miserable."],
    "surprised": ["Wow, I did not expect that!", "That is astonishing.", "I was shocked.", "What a surprise!"],
}


@pytest.mark.parametrize("label", LABELS)
def test_the_lexicon_reads_the_tone_of_plain_english(label: str) -> None:
    if label == "fearful":
        assert Lexicon()(["Don't panic!"]) == ["neutral"], "a negation cancels what follows"
    wanted = [text for text in SENTENCES[label] if text != "Don't panic!"]
    assert Lexicon()(wanted) == [label] * len(wanted)


def test_a_negation_cancels_an_emotion_and_no_more() -> None:
    judged = Lexicon()(
        ["I am not happy.", "I am not at all happy.", "Not the bus: it is the snow that makes me happy."]
    )
    assert judged == ["neutral", "neutral", "happy"]
    assert Lexicon()(["It isn’t sad, it is funny."]) == ["happy"], "a typographic apostrophe is one, too"


def test_the_lexicon_knows_no_reply_by_heart() -> None:
    """It is written from general English: it would be no judge if it had been fitted to the replies."""
    every = [(label, text) for label in LABELS for text in replies(label, "normal") + replies(label, "strong")]
    right = np.mean(
        [judged == label for judged, (label, _) in zip(Lexicon()([t for _, t in every]), every, strict=True)]
    )
    assert 0.6 < right < 0.95


def test_the_nearest_reply_names_the_tone_it_was_written_for() -> None:
    """Of replies as they stand in dialogues, of those with a word changed, and of texts that are like none."""
    topic = topic_of("ravdess", "Kids are talking by the door.")
    assert topic
    every = [
        (label, text) for label in LABELS for text in [*replies(label, "normal", topic), *replies(label, "strong")]
    ]
    assert Nearest()([text for _, text in every]) == [label for label, _ in every]
    changed = [text.replace("You sound", "You seem").replace("this", "it") for _, text in every]
    assert changed != [text for _, text in every]
    assert np.mean([judged == label for judged, (label, _) in zip(Nearest()(changed), every, strict=True)]) > 0.95
    assert Nearest()(["Photosynthesis!", ""]) == ["neutral", "neutral"]


def test_a_classifier_learns_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("anger\njoy\nconfusion\n")
    rows = [
        "Get out of here\t0\tx",
        "What a joy\t1\ty",
        "Both\t0,1\tz",
        "Out with you\t0\tx",
        "Pure joy\t1\ty",
        "Eh\t2\t",
    ]
    (tmp_path / "train.tsv").write_text("\n".join(rows) + "\n")
    texts, labels = sentences(tmp_path / "train.tsv")
    assert (texts, labels) == (
        ["Get out of here", "What a joy", "Out with you", "Pure joy"],
        ["angry", "happy", "angry", "happy"],
    )
    assert Classifier(texts, labels)(["such joy", "get out"]) == ["happy", "angry"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no tab\n", r":1: no tab: each line is a sentence, a tab and an emotion"),
        ("x\t7\n", r":1: emotion '7' is not in labels.txt"),
        ("x\tanger\ny\tjoy\n", r"no two emotions with two sentences each"),
    ],
)
def test_a_table_that_teaches_nothing_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text(content)
    with pytest.raises(CorpusError, match=message):
        sentences(tmp_path / "t.tsv")
    with pytest.raises(CorpusError, match=r"cannot be read"):
        sentences(tmp_path / "missing.tsv")


# ---- texts compared with texts


def clip(number: int, label: str = "sad", words: str = "It is late.", **about: str | None) -> Example:
    values = {"intensity": "normal", "corpus": "toy", "speaker": "toy/1", "sex": "female", **about}
    known = reply(label, values["intensity"], None, str(number))
    return Example(Path(f"{number}.wav"), words, label, reply=known, context=(), language=None, features=None, **values)  # type: ignore[arg-type]


def test_bleu_and_rouge_are_those_of_their_libraries() -> None:
    every = [text for label in LABELS for text in replies(label, "normal")]
    draw = np.random.default_rng(0)
    texts = [*draw.choice(every, 30), "", "Quite another answer, that fits nothing: 42!"]
    known = [tuple(draw.choice(every, draw.integers(1, 5), replace=False)) for _ in texts]
    longest = max(map(len, known))
    padded = [[refs[i] if i < len(refs) else None for refs in known] for i in range(longest)]
    each = similarity.each_bleu(texts, known)
    assert similarity.bleu(each.sum(0)) == pytest.approx(sacrebleu.corpus_bleu(texts, padded).score)
    drawn = draw.integers(len(texts), size=len(texts))
    again = sacrebleu.corpus_bleu([texts[i] for i in drawn], [[refs[i] for i in drawn] for refs in padded]).score
    assert similarity.bleu(np.stack([each.sum(0), each[drawn].sum(0)]))[1] == pytest.approx(again)
    scorer = RougeScorer(["rougeL"])
    wanted = [
        max(scorer.score(ref, text)["rougeL"].fmeasure for ref in refs) for text, refs in zip(texts, known, strict=True)
    ]
    np.testing.assert_allclose(similarity.each_rouge(texts, known), wanted)


def test_any_reply_written_for_the_tone_is_a_reference() -> None:
    one = clip(1, "angry")
    assert set(similarity.references(one)) == set(replies("angry", "normal"))
    rewritten = Example(**{**one.__dict__, "reply": "Whatever a rewriter made of it."})
    assert similarity.references(rewritten) == ("Whatever a rewriter made of it.",)


def test_errors_in_words_are_those_of_jiwer() -> None:
    draw = np.random.default_rng(0)
    for _ in range(50):
        one, other = (" ".join(draw.choice(list("abcd"), draw.integers(1, 9))) for _ in range(2))
        found = similarity.edits(similarity.said(one), similarity.said(other)) / len(one.split())
        assert found == pytest.approx(jiwer.wer(one, other))
    assert similarity.said("Świetnie! It's  LATE.") == ("świetnie", "it", "s", "late")


# ---- figures


def said_twice() -> list[Example]:
    """Six people say two sentences in all tones, each twice; who they are, how loud and where from differs."""
    found = []
    for person in range(6):
        about = {
            "speaker": f"x/{person}",
            "sex": "male" if person % 2 else "female",
            "corpus": "x" if person < 3 else "y",
        }
        for words in ("It is late.", "The door is open."):
            for label in LABELS:
                for _ in range(2):
                    found.append(clip(len(found), label, words, **about))
    return found


class Exact:
    """A judge that knows the tone of each text, by its first word."""

    name = "exact"

    def __call__(self, texts: list[str]) -> list[str]:
        return [text.partition(" ")[0] for text in texts]


def run(name: str, judged: list[str], **heard: tuple[str, ...]) -> written.Run:
    return written.Run(name, "speech", name, tuple(f"{tone} whatever {name}" for tone in judged), **heard)


@pytest.fixture(scope="module")
def measured() -> tuple[list[Example], Evaluation]:
    clips = said_twice()
    truth = [each.emotion for each in clips]
    draw = np.random.default_rng(0)
    random = [str(tone) for tone in draw.choice(LABELS, len(clips))]
    half = [tone if draw.random() < 0.5 else "neutral" for tone in truth]
    words = tuple(each.words for each in clips)
    runs = [
        run("perfect", truth, tones=tuple(truth), nearest=words),
        run("deaf", ["neutral"] * len(clips), tones=tuple(random), nearest=("It is late.",) * len(clips)),
        run("random", random),
        run("half", half),
    ]
    clips = [Example(**{**each.__dict__, "reply": f"{each.emotion} reply"}) for each in clips]
    return clips, evaluation("test", clips, runs, [Exact(), Lexicon()])


def test_a_perfect_model_is_perfect_and_a_deaf_one_is_at_chance(measured: tuple[list[Example], Evaluation]) -> None:
    clips, found = measured
    models = {each.name: each.whole for each in found.models}
    perfect, deaf = models["perfect"].tones["exact"], models["deaf"].tones["exact"]
    for figure in (perfect.f1, perfect.accuracy, perfect.differs, perfect.both, perfect.keeps, models["perfect"].heard):
        assert figure is not None
        assert (figure.value, figure.low, figure.high) == (1, 1, 1)
    assert models["reference replies"].tones["exact"].f1.value == 1
    assert deaf.accuracy.value == pytest.approx(1 / 7)
    assert deaf.f1.value == pytest.approx(2 / 8 / 7), "right once in seven for one label, and never for the others"
    assert deaf.differs is not None
    assert deaf.both is not None
    assert deaf.keeps is not None
    assert (deaf.differs.value, deaf.differs.high, deaf.both.value, deaf.keeps.value) == (0, 0, 0, 1)
    assert models["perfect"].wer is not None
    assert models["deaf"].wer is not None
    assert models["perfect"].wer.value == 0
    errors = jiwer.wer([each.words[:-1].lower() for each in clips], ["it is late"] * len(clips))
    assert models["deaf"].wer.value == pytest.approx(errors)
    assert found.chance == pytest.approx(errors), "of two sentences, one is right, whichever is chosen"
    assert models["random"].heard is models["random"].wer is models["random"].empathy is None


def test_figures_are_those_of_scikit_learn(measured: tuple[list[Example], Evaluation]) -> None:
    clips, found = measured
    truth = [each.emotion for each in clips]
    models = {each.name: each for each in found.models}
    tones = dict(zip(LABELS, LABELS, strict=True))
    for name in ("random", "half"):
        confusion = np.array(models[name].whole.tones["exact"].confusion)
        judged = [tone for row, label in zip(confusion, LABELS, strict=True) for tone in np.repeat(LABELS, row)]
        order = [tones[label] for row, label in zip(confusion, LABELS, strict=True) for _ in range(row.sum())]
        f1 = sklearn.metrics.f1_score(order, judged, average="macro", zero_division=0)
        figure = models[name].whole.tones["exact"].f1
        assert figure.value == pytest.approx(f1)
        assert figure.low < figure.value < figure.high
        assert Counter(order) == Counter(truth)


def test_pairs_are_counted_by_hand(measured: tuple[list[Example], Evaluation]) -> None:
    clips, found = measured
    other = [
        (a, b)
        for (a, one), (b, two) in combinations(enumerate(clips), 2)
        if (one.speaker, one.words) == (two.speaker, two.words) and one.emotion != two.emotion
    ]
    assert found.pairs == (len(other), 6 * 2 * 7)
    models = {each.name: each for each in found.models}
    draw = np.random.default_rng(0)
    random = draw.choice(LABELS, len(clips))
    truth = np.array([each.emotion for each in clips])
    tones = models["random"].whole.tones["exact"]
    assert tones.differs is not None
    assert tones.both is not None
    assert tones.differs.value == pytest.approx(np.mean([random[a] != random[b] for a, b in other]))
    assert tones.both.value == pytest.approx(
        np.mean([random[a] == truth[a] and random[b] == truth[b] for a, b in other])
    )


def test_a_pair_in_one_tone_has_one_intensity() -> None:
    clips = [
        clip(0),
        clip(1, intensity="strong"),
        clip(2),
        clip(3, "happy"),
        clip(4, words="Another"),
        clip(5, speaker="b"),
    ]
    found = pairs(clips)
    assert found.same.tolist() == [[0, 2]]
    assert found.other.tolist() == [[0, 3], [1, 3], [2, 3]]
    assert evaluation("test", clips[:1], [], [Lexicon()]).models[0].whole.tones["lexicon"].differs is None


def test_every_group_has_the_figures_of_its_clips_alone(measured: tuple[list[Example], Evaluation]) -> None:
    clips, found = measured
    model = {each.name: each for each in found.models}["half"]
    assert {by: list(some) for by, some in model.groups.items()} == {
        "corpus": ["x", "y"],
        "sex": ["female", "male"],
        "intensity": ["normal"],
        "speaker": [f"x/{i}" for i in range(6)],
    }
    for some in model.groups.values():
        confusions = [np.array(scores.tones["exact"].confusion) for scores in some.values()]
        assert (sum(confusions) == np.array(model.whole.tones["exact"].confusion)).all()
        assert sum(scores.clips for scores in some.values()) == len(clips)


def test_differences_are_paired(measured: tuple[list[Example], Evaluation]) -> None:
    _, found = measured
    less = found.differences["exact"]
    models = {each.name: each.whole.tones["exact"].f1 for each in found.models}
    figure = less["perfect"]["half"]
    assert figure.value == pytest.approx(1 - models["half"].value)
    assert (figure.low, figure.high) == pytest.approx((1 - models["half"].high, 1 - models["half"].low))
    assert less["half"]["perfect"].value == -figure.value
    same = less["perfect"]["reference replies"]
    assert (same.value, same.low, same.high) == (0, 0, 0), "both are always right, in every resample"


def test_a_resample_keeps_the_share_of_each_speaker_or_corpus() -> None:
    few = ["a"] * 7 + ["b"] * 2 + ["c"] * 4
    draws = Bootstrap(few, 0, ["x"] * 9 + ["y"] * 4)
    assert draws.resampled == "clips"
    for weights in draws.weights():
        assert [weights[:7].sum(), weights[7:9].sum(), weights[9:].sum()] == [7, 2, 4]
    many = [f"{corpus}{i}" for corpus in "xy" for i in range(6) for _ in range(2)]
    draws = Bootstrap(many, 0, [name[0] for name in many])
    assert draws.resampled == "speakers"
    for weights in draws.weights():
        assert weights[:12].sum() == weights[12:].sum() == 12
        assert (weights[::2] == weights[1::2]).all(), "whole speakers"


# ---- empathy


def test_ratings_are_kept_and_absent_where_there_are_none(tmp_path: Path) -> None:
    asked: list[str] = []

    def ask(messages: list[dict[str, str]]) -> str:
        asked.append(messages[1]["content"])
        if "fails" in asked[-1]:
            raise ConnectionError
        return "I cannot say" if "odd" in asked[-1] else "4."

    rater, file = empathy.asking(ask), tmp_path / "ratings.jsonl"  # type: ignore[arg-type]
    assert rater("a", "sad", "b") == 4
    assert rater("a", "sad", "odd") is None
    asked.clear()
    wanted = [("a", "sad", "b"), ("a", "sad", "odd"), ("a", "sad", "b")]
    assert empathy.rate(rater, "one", wanted, file) == {("a", "sad", "b"): 4}
    assert len(asked) == 2
    with pytest.raises(ConnectionError):
        empathy.rate(rater, "one", [("c", "sad", "d"), ("e", "sad", "fails")], file)
    asked.clear()
    assert empathy.rate(rater, "one", [("c", "sad", "d"), ("a", "sad", "b")], file) == {
        ("c", "sad", "d"): 4,
        ("a", "sad", "b"): 4,
    }
    assert asked == [], "what was rated before a failure is kept"
    assert empathy.rate(lambda *_: 1, "other", [("a", "sad", "b")], file) == {("a", "sad", "b"): 1}, "each for itself"
    assert empathy.rate(rater, "one", [("a", "sad", "b")], file) == {("a", "sad", "b"): 4}
    clips = said_twice()[:2]
    given = {(each.words, each.emotion, each.reply): rating for each, rating in zip(clips, (2.0, 5.0), strict=True)}
    scores = evaluation("test", [*clips, clip(2, "happy")], [], [Lexicon()], ratings=given).models[0].whole
    assert scores.empathy is not None
    assert (scores.empathy.value, scores.rated) == (3.5, 2)
    file.write_text("{}\n")
    with pytest.raises(CorpusError, match="remove it and evaluate again"):
        empathy.rate(rater, "one", [], file)


# ---- models on dialogues

Done: TypeAlias = "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues, a language model, and three models on it."""
    folder = tmp_path_factory.mktemp("toys")
    speechlm.toy_dialogues(folder / "dialogues")
    speechlm.toy_language(folder / "language")
    for hears in ("speech", "words", "label"):
        speechlm.toy_model(folder / hears, folder / "language", hears=hears, widths=speechlm.WIDTHS)
    return folder


def command(*options: object) -> Done:
    line = [sys.executable, "-m", "e2v_port", "dialogue", *map(str, options)]
    return subprocess.run(line, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def evaluated(toys: Path) -> tuple[Path, Done]:
    models = [option for name in ("speech", "words", "label") for option in ("--model", toys / name)]
    out = toys / "evaluation"
    done = command("evaluate", *models, "--dialogues", toys / "dialogues", "--out", out, "--offline")
    assert done.returncode == 0, done.stderr
    return out, done


def test_replies_in_batches_are_those_of_each_clip_alone(toys: Path) -> None:
    clips = examples.read(toys / "dialogues", "test")
    for hears in ("speech", "words", "label"):
        (contender,) = answers.contenders([toys / hears])
        found = answers.answer(contender, clips, limit=8)
        model = stored.read(toys / hears)
        words = language.load(toys / "language")
        adapter = stored.merged(model, words)
        for index in (0, 5, 23):
            one = clips[index]
            text = one.words if hears == "words" else f"{one.words} (tone: {one.emotion})"
            steps = answering(words, adapter, [one.load() if adapter else text], system=model.system, limit=8)
            assert found.replies[index] == words.text([ids[0] for ids in steps if ids[0] is not None])


def test_drawn_replies_differ_between_clips_and_are_kept_apart(toys: Path, tmp_path: Path) -> None:
    """Those to the same text, too: an average over them is what a model says, and not one phrase of it."""
    clips = examples.read(toys / "dialogues", "test")
    (contender,) = answers.contenders([toys / "words"])
    greedy = answers.answer(contender, clips, limit=8)
    drawn = answers.answer(contender, clips, limit=8, temperature=1.0)
    texts = len({(each.words, each.context) for each in clips})
    assert len({*greedy.replies}) <= texts < len({*drawn.replies})
    assert answers.answer(contender, clips, limit=8, temperature=1.0) == drawn
    assert answers.answer(contender, clips[:3], limit=8, temperature=1.0).replies == drawn.replies[:3]
    assert answers.answer(contender, clips, limit=8, temperature=1.0, seed=1).replies != drawn.replies
    for temperature, expected, said in ((0.0, greedy, "the most likely words"), (1.0, drawn, "temperature 1, seed 0")):
        found = evaluate([toys / "words"], toys / "dialogues", tmp_path, limit=8, temperature=temperature)
        about = [part for parts in report.sections(found, []).values() for part in parts]
        assert any(f"{said}, of language models in float32" in str(part) for part in about)
        assert tuple(row["reply"] for row in written.rows(tmp_path / "replies.jsonl")) == expected.replies
    for temperature in (-1.0, float("nan"), 2.1):
        with pytest.raises(ValueError, match="temperature must be from 0 to 2"):
            evaluate([toys / "words"], toys / "dialogues", tmp_path, temperature=temperature)


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_other_weights_answer_as_they_do_in_use(dtype: str, toys: Path) -> None:
    clips = examples.read(toys / "dialogues", "test")[:3]
    (contender,) = answers.contenders([toys / "speech"])
    found = answers.answer(contender, clips, dtype=dtype, limit=8)
    with SpeechLM.load(toys / "words", dtype=dtype, offline=True) as pipe:
        expected = pipe.replies([each.words for each in clips], [each.context for each in clips], max_new_tokens=8)
    (reading,) = answers.contenders([toys / "words"])
    assert answers.answer(reading, clips, dtype=dtype, limit=8).replies == tuple(each.text for each in expected)
    keys = {
        answers.key(contender, clips, None, name=None, dtype=each, limit=8, temperature=0.0, seed=0)
        for each in (dtype, "float32")
    }
    assert len(keys) == 2
    assert found.key in keys


def test_the_probe_finds_the_nearest_words(toys: Path) -> None:
    clips = examples.read(toys / "dialogues", "test")
    (contender,) = answers.contenders([toys / "speech"])
    found = answers.answer(contender, clips, limit=1)
    words = language.load(toys / "language")
    texts = sorted(speechlm.SENTENCES)
    states = words.states(texts).numpy()
    states = states - states.mean(0)
    adapter = stored.merged(stored.read(toys / "speech"), words)
    assert adapter is not None
    with torch.inference_mode():
        fused = adapter(heard([each.load() for each in clips], adapter.config))
    for index, meaning in enumerate(fused.meaning.numpy()):
        cosines = states @ meaning / np.linalg.norm(states, axis=1)
        assert found.nearest is not None
        assert found.nearest[index] == texts[int(cosines.argmax())]
    assert found.tones == tuple(LABELS[int(row.argmax())] for row in fused.emotions)


def test_the_command_writes_figures_replies_and_a_page(toys: Path, evaluated: tuple[Path, Done]) -> None:
    out, done = evaluated
    assert done.stdout.splitlines()[-1] == str(out / "evaluation.html")
    values = json.loads((out / "evaluation.json").read_text("utf-8"))
    assert [each["name"] for each in values["models"]] == ["reference replies", "speech", "words", "label (true label)"]
    reference, speech, words, _ = (each["whole"] for each in values["models"])
    assert reference["clips"] == speech["clips"] == 24
    assert reference["bleu"]["value"] == pytest.approx(100)
    assert reference["rouge_l"]["value"] == 1
    assert words["tones"]["lexicon"]["differs"]["value"] == 0, "the same words get the same reply"
    assert words["heard"] is words["wer"] is None
    assert 0 <= speech["heard"]["value"] <= 1
    rows = written.rows(out / "replies.jsonl")
    assert len(rows) == 3 * 24
    by_text = {row["words"]: row["reply"] for row in rows if row["model"] == "words"}
    assert len(by_text) == 3
    page = (out / "evaluation.md").read_text("utf-8")
    assert page.count("\n| angry, strong (toy/") + page.count("\n| angry (toy/") == 1
    assert "<table" in (out / "evaluation.html").read_text("utf-8")


def test_finished_models_are_not_run_again(toys: Path, evaluated: tuple[Path, Done]) -> None:
    out, _ = evaluated
    before = (out / "replies.jsonl").read_bytes()
    (toys / "language").rename(toys / "elsewhere")
    models = [toys / name for name in ("speech", "words", "label")]
    try:
        again = evaluate(models, toys / "dialogues", out, offline=True)
        assert (out / "replies.jsonl").read_bytes() == before
        assert [each.name for each in again.models][1:] == ["speech", "words", "label (true label)"]
        with pytest.raises(ModelNotFound, match="language"):
            evaluate(models, toys / "dialogues", out, part="dev", offline=True)
        assert (out / "replies.jsonl").read_bytes() == before
        (toys / "cut").mkdir()
        (toys / "cut" / "replies.jsonl").write_bytes(before[: before.find(b"\n", len(before) // 2) + 1])
        with pytest.raises(ModelNotFound, match="language"):  # some replies are lacking
            evaluate(models[1:], toys / "dialogues", toys / "cut", offline=True)
        once = evaluate([toys / "words"], toys / "dialogues", toys / "other", language=str(toys / "elsewhere"))
        assert once.models[1].whole.tones == again.models[2].whole.tones
    finally:
        (toys / "elsewhere").rename(toys / "language")


def test_labels_of_an_emotion_model_are_kept(toys: Path, tmp_path: Path) -> None:
    clips = examples.read(toys / "dialogues", "test")[:2]
    draw = np.random.default_rng(0)
    real = [Example(**{**each.__dict__, "audio": tmp_path / f"{i}.wav"}) for i, each in enumerate(clips)]
    for each in real:
        soundfile.write(each.audio, 0.1 * draw.standard_normal(16_000), 16_000)
    found = answers.labels_of("bundled-tiny", real, tmp_path, runtime="numpy", offline=True)
    assert set(found) <= set(LABELS)
    weights = Path(__file__).parents[1] / "weights"
    for name in ("bundled-tiny", "bundled-tiny-nc"):  # trained again, in the same folder
        shutil.copytree(weights / name, tmp_path / "own", dirs_exist_ok=True)
        answers.labels_of(str(tmp_path / "own"), real, tmp_path, runtime="numpy", offline=True)
    kept = json.loads((tmp_path / "labels.json").read_text("utf-8"))
    assert len(kept) == 3, "the labels of each"
    for each in real:
        each.audio.unlink()
    assert answers.labels_of("bundled-tiny", real, tmp_path, runtime="numpy", offline=True) == found
    with pytest.raises(CorpusError, match=r"labels of bundled-tiny need the audio, or labels.json"):
        answers.labels_of("bundled-tiny", clips, tmp_path, runtime="numpy", offline=True)
    both = answers.contenders([toys / "label"], "bundled-tiny")
    assert [each.name for each in both] == ["label (bundled-tiny)", "label (true label)"]
    sad = [Example(**{**each.__dict__, "emotion": "sad"}) for each in clips]
    assert answers.answer(both[0], clips, ["sad"] * 2, limit=8).replies == answers.answer(both[1], sad, limit=8).replies


def test_errors_are_one_line(toys: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no speech language model: make one with e2v dialogue train"):
        evaluate([tmp_path], toys / "dialogues", tmp_path / "out")
    with pytest.raises(CheckpointError, match="two models are named words: rename the folder of one"):
        answers.contenders([toys / "words", toys / "words"])
    (tmp_path / "replies.jsonl").write_text("[1]\n")
    with pytest.raises(CorpusError, match="remove it and evaluate again"):
        written.rows(tmp_path / "replies.jsonl")
    done = command("rate", "--out", tmp_path)
    assert done.stderr == "error: pass --replies and --out to make sheets, or --read and --key to read them\n"


def test_a_model_is_not_evaluated_on_speakers_that_it_was_trained_on(toys: Path, tmp_path: Path) -> None:
    def trained_on(*speakers: str) -> Path:
        folder = tmp_path / "known"
        shutil.copytree(toys / "words", folder, dirs_exist_ok=True)
        config = json.loads((folder / "config.json").read_text("utf-8"))
        config["training"]["corpora"] = [{"name": "toy", "speakers": {"train": list(speakers), "dev": ["toy/08"]}}]
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        return folder

    for part, speaker in (("test", "toy/09"), ("dev", "toy/07")):
        with pytest.raises(CorpusError, match=f"known: was trained on {speaker} of this set"):
            evaluate([trained_on("toy/01", speaker)], toys / "dialogues", tmp_path / "out", part=part)
    assert not (tmp_path / "out" / "replies.jsonl").exists()
    found = evaluate([trained_on("toy/01")], toys / "dialogues", tmp_path / "out", part="dev", limit=2)
    assert found.models[1].name == "known"


def test_a_model_is_not_evaluated_on_features_of_other_encoders(toys: Path, tmp_path: Path) -> None:
    """They may be as wide as its own, so that its answers would be wrong without a word."""
    others = tmp_path / "others"
    shutil.copytree(toys / "dialogues", others)
    about = json.loads((others / "encoders.json").read_text("utf-8"))
    about["emotion"] = {"name": "bundled-nc", "revision": "", "sha256": 64 * "0"}
    (others / "encoders.json").write_text(json.dumps(about), "utf-8")
    with pytest.raises(CorpusError, match=r"features are of bundled-nc, and .*speech was trained with those of"):
        evaluate([toys / "speech"], others, tmp_path / "out")
    assert evaluate([toys / "words"], others, tmp_path / "out", part="dev", limit=2).models[1].name == "words"


def test_texts_may_hold_any_character(tmp_path: Path) -> None:
    """JSON leaves U+2028 and U+0085 inside a line, where Python sees the end of one."""
    odd = "One\u2028two\u0085three."
    clips = [replace(clip(0), words=odd, reply=odd)]
    one = written.Run("odd", "words", "k", (odd,))
    written.write([one], clips, tmp_path / "replies.jsonl")
    assert written.read(tmp_path / "replies.jsonl") == {"k": one}
    assert empathy.rate(lambda *_: 3, "one", [(odd, "sad", odd)], tmp_path / "ratings.jsonl") == {(odd, "sad", odd): 3}
    assert empathy.rate(lambda *_: 4, "one", [(odd, "sad", odd)], tmp_path / "ratings.jsonl") == {(odd, "sad", odd): 3}


def test_shown_replies_are_drawn_and_cover_all_tones() -> None:
    rows = [
        {
            "model": model,
            "audio": str(each.audio),
            "words": each.words,
            "emotion": each.emotion,
            "speaker": each.speaker,
        }
        for model in ("a", "b")
        for each in said_twice()
    ]
    shown = report.shown(rows, 10, 0)
    assert len(shown) == 20
    assert len({(row["speaker"], row["words"]) for row in shown}) == 1
    assert {row["emotion"] for row in shown} == set(LABELS)
    assert report.shown(rows, 10, 0) == shown
    assert len({report.shown(rows, 10, seed)[0]["speaker"] for seed in range(20)}) > 1
    assert report.shown(rows, 0, 0) == report.shown([], 10, 0) == []


# ---- people


def test_alpha_is_that_of_the_published_example() -> None:
    """Four observers, twelve units: Krippendorff 2011, section C."""
    table = ("123321412...", "1233224125.3", ".3332342251.", "12332441251.")
    items = [[int(row[unit]) for row in table if row[unit] != "."] for unit in range(12)]
    assert agreement.alpha(items) == pytest.approx(0.815, abs=5e-4)
    assert agreement.alpha([[1, 1], [5, 5, 5], [3]]) == 1
    assert np.isnan(agreement.alpha([[2, 2], [2, 2]]))
    draw = np.random.default_rng(0)
    assert abs(agreement.alpha(draw.integers(1, 6, (4000, 3)))) < 0.05


@pytest.fixture
def rows() -> list[dict[str, str]]:
    return [
        {
            "model": model,
            "audio": str(each.audio),
            "words": each.words,
            "emotion": each.emotion,
            "reply": "=The same" if number == 0 else f"{model} says {number}",
        }
        for model in ("alpha", "beta")
        for number, each in enumerate(said_twice()[:28])
    ]


def test_sheets_are_blind_and_random(rows: list[dict[str, str]], tmp_path: Path) -> None:
    made = rating.sheets(rows, 3, 28, 0)
    assert len(made.items) == 28 + 27, "the reply that both give is rated once"
    assert len(set(made.orders)) == 3
    assert {frozenset(order) for order in made.orders} == {frozenset(made.items)}
    assert rating.sheets(rows, 3, 28, 0) == made != rating.sheets(rows, 3, 28, 1)
    some = rating.sheets(rows, 1, 7, 0)
    assert Counter(row["emotion"] for row in some.key if row["model"] == "alpha") == Counter(LABELS)
    for file in rating.write(made, tmp_path):
        with file.open(encoding="utf-8-sig", newline="") as opened:
            table = list(csv.DictReader(opened))
        assert list(table[0]) == ["item", "audio", "words", "reply", *rating.QUESTIONS]
        assert "'=The same" in {row["reply"] for row in table}, "no spreadsheet runs it as a formula"
        assert all(row[question] == "" for row in table for question in rating.QUESTIONS)
    assert "alpha" not in (tmp_path / "rater-1.csv").read_text("utf-8-sig").replace("alpha says", "")


def filled(folder: Path, rows: list[dict[str, str]], sign: str = ",") -> list[Path]:
    """Three raters: alpha gets 4 and 5, beta 2; the second rater leaves naturalness empty."""
    made = rating.sheets(rows, 3, 10, 0)
    authors = {row["item"]: row["model"] for row in made.key}
    files = rating.write(made, folder)
    for number, file in enumerate(files):
        with file.open(encoding="utf-8-sig", newline="") as opened:
            table = list(csv.DictReader(opened))
        for row in table:
            for question in rating.QUESTIONS:
                row[question] = "2" if authors[row["item"]] == "beta" else "5" if number == 2 else "4"
            if number == 1:
                row["naturalness"] = ""
        with file.open("w", encoding="utf-8", newline="") as opened:
            writer = csv.DictWriter(opened, list(table[0]), delimiter=sign)
            writer.writeheader()
            writer.writerows(table)
    return files


@pytest.mark.parametrize("sign", [",", ";"])
def test_filled_in_sheets_are_read_back(sign: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    rows = [row for row in rows if row["reply"] != "=The same"]
    found = rating.read(filled(tmp_path, rows, sign), tmp_path / "key.csv")
    figure, number = found.models["alpha"]["empathy"]
    assert (figure.value, number) == (pytest.approx(13 / 3), 30)
    figure, number = found.models["alpha"]["naturalness"]
    assert (figure.value, number) == (4.5, 20)
    assert found.models["beta"]["empathy"][0].value == 2
    assert 0.5 < found.alpha["empathy"] < 1
    if sign == ";":
        return
    done = command("rate", *(f"--read={file}" for file in tmp_path.glob("rater*")), "--key", tmp_path / "key.csv")
    assert done.stdout.splitlines()[1].startswith("alpha              4.333 [4.333, 4.333]"), done.stdout + done.stderr


def test_a_bad_cell_is_named(rows: list[dict[str, str]], tmp_path: Path) -> None:
    files = filled(tmp_path, rows)
    good = files[0].read_bytes().decode("utf-8")
    for old, new, message in (
        (",4,4,4,4\r\n", ",4,six,4,4\r\n", r"rater-1.csv:\d+: empathy is 'six': use 1 to 5, or leave it empty"),
        (",4,4,4,4\r\n", ",4,4,0,4\r\n", r"rater-1.csv:\d+: relevance is '0'"),
        ("item,", "thing,", r"no column item"),
        ("\r\n1,", "\r\n777,", r"item '777' with this reply is not in .*key.csv"),
        ("\r\n1,", "\r\n2,", r"item '2' is there twice"),
    ):
        assert old in good
        files[0].write_text(good.replace(old, new, 1), "utf-8", newline="")
        with pytest.raises(CorpusError, match=message):
            rating.read(files, tmp_path / "key.csv")
    with pytest.raises(CorpusError, match="named twice"):
        rating.read([files[1], files[1]], tmp_path / "key.csv")
    copy = tmp_path / "again.csv"
    copy.write_bytes(files[1].read_bytes())
    with pytest.raises(CorpusError, match=r"again.csv: is a copy of .*rater-2.csv"):
        rating.read([files[1], copy], tmp_path / "key.csv")
    files[0].write_text(
        good.replace(",4,4,4,4\r\n", ",,,,\r\n").replace(",2,2,2,2\r\n", ",,,,\r\n"), "utf-8", newline=""
    )
    with pytest.raises(CorpusError, match=r"rater-1.csv: has no ratings"):
        rating.read(files, tmp_path / "key.csv")


def test_sheets_of_another_key_are_refused(rows: list[dict[str, str]], tmp_path: Path) -> None:
    """Items are numbered alike under every key, so that ratings would go to other models without a word."""
    files = filled(tmp_path, rows)
    rating.write(rating.sheets(rows, 1, 10, 1), tmp_path / "other")
    with pytest.raises(CorpusError, match=r"with this reply is not in .*key.csv: use the sheets of one key"):
        rating.read(files, tmp_path / "other" / "key.csv")


def test_sheets_are_made_of_an_evaluation(evaluated: tuple[Path, Done], tmp_path: Path) -> None:
    done = command("rate", "--replies", evaluated[0] / "replies.jsonl", "--out", tmp_path / "sheets", "--items", 4)
    assert done.stdout.split() == [str(tmp_path / "sheets" / f"rater-{i}.csv") for i in (1, 2, 3)]
    assert sorted(file.name for file in (tmp_path / "sheets").iterdir()) == [
        "instructions.md",
        "key.csv",
        *(f"rater-{i}.csv" for i in (1, 2, 3)),
    ]

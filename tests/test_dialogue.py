"""Dialogues: remarks in different tones, with replies that the words alone do not give away."""

import json
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.dialogue import features
from e2v_port.dialogue.prepare import Dialogues, balanced, prepare, write
from e2v_port.dialogue.replies import LABELS, replies, reply, topic_of
from e2v_port.emotions import taxonomy
from e2v_port.errors import CorpusError, E2VError
from e2v_port.evaluation.datasets import SPLITS, Utterance
from e2v_port.evaluation.readers import read
from e2v_port.llm.encoders import Encoders
from e2v_port.transcribe.words import Transcript, Word

CODES = {1: "neutral", 3: "happy", 4: "sad", 5: "angry", 6: "fearful", 7: "disgusted", 8: "surprised"}


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All actors with seven emotions, and both sentences; noise in place of voices."""
    folder = tmp_path_factory.mktemp("ravdess")
    draw = np.random.default_rng(0)
    for actor in range(1, 25):
        for code in CODES:
            for sentence in (1, 2):
                for take in (1, 2) if code == 1 else (1,):
                    name = f"03-01-{code:02}-01-{sentence:02}-{take:02}-{actor:02}.wav"
                    soundfile.write(folder / name, 0.1 * draw.standard_normal(1600), 16_000)
    return folder


@pytest.fixture(scope="module")
def dialogues(ravdess: Path) -> Dialogues:
    return prepare([read(f"ravdess={ravdess}")])


def test_every_emotion_has_replies() -> None:
    assert set(LABELS) == {label for label in taxonomy.labels("emotion2vec") if taxonomy.names_emotion(label)}
    texts = {label: {*replies(label, "normal"), *replies(label, "strong")} for label in LABELS}
    for label in LABELS:
        assert len(texts[label]) >= 20
        others = set().union(*(texts[other] for other in LABELS if other != label))
        assert not texts[label] & others, "no reply fits two tones"


def test_replies_say_how_a_voice_sounds_and_never_what_somebody_is() -> None:
    """Words of diagnoses, causes, sexes and ages have no place in them; nor do certain feelings."""
    every = [text for label in LABELS for kind in ("normal", "strong") for text in replies(label, kind, "the door")]
    wrong = r"(?i)\b(you are (angry|sad|afraid|happy)|you feel|depress\w*|disorder|therap\w*|sir|madam|calm down)\b"
    assert [text for text in every if re.search(wrong, text)] == []
    assert all("{" not in text and text[-1] in ".?!" for text in every)


def test_a_reply_depends_on_tone_and_name_alone() -> None:
    known = {reply("sad", "strong", None, str(i)) for i in range(200)}
    assert known == set(replies("sad", "strong"))
    assert reply("sad", None, None, "a") == reply("sad", "normal", None, "a")
    assert any("the dogs by the door" in text for text in replies("happy", None, "the dogs by the door"))


def test_sentences_of_published_corpora_have_topics() -> None:
    assert topic_of("ravdess", "Dogs are sitting by the door.") == "the dogs by the door"
    assert topic_of("emodb", "Der Lappen liegt auf dem Eisschrank.") == "the cloth on the fridge"
    assert topic_of("crema-d", "It's eleven o'clock.") == "the time"
    assert topic_of("crema-d", "Anything else") is topic_of("csv", "It's eleven o'clock.") is None
    for corpus, topics in taxonomy.table("replies")["topics"].items():
        assert topics.keys() == taxonomy.table("corpora")["corpora"][corpus]["sentences"].keys()


def test_words_do_not_give_the_tone_away(dialogues: Dialogues) -> None:
    for part in SPLITS:
        said: dict[str | None, Counter[str | None]] = defaultdict(Counter)
        for remark in dialogues.parts[part]:
            said[remark.clip.text][remark.clip.label] += 1
        assert len(said) == 2
        for labels in said.values():
            assert set(labels) == set(CODES.values())
            assert len({*labels.values()}) == 1, "each tone as often as any other"
    assert any("left out for balance" in note for note in dialogues.notes)  # neutral was said twice as often


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.sampled_from(["a.", "A", "b"]), st.sampled_from(["sad", "happy"])))
)
def test_balance_holds_for_any_clips_and_keeps_all_it_can(rows: list[tuple[str, str, str]]) -> None:
    clips = [
        Utterance(Path(f"{i}.wav"), label, label, f"x/{i}", None, corpus, None, None, text=text)
        for i, (corpus, text, label) in enumerate(rows)
    ]
    kept = balanced(clips)
    plain = {"a.": "a", "A": "a", "b": "b"}
    before, after = (
        Counter((clip.corpus, plain[clip.text or ""], clip.label) for clip in some) for some in (clips, kept)
    )
    for corpus, text in {(corpus, text) for corpus, text, _ in before}:
        labels = {clip.label for clip in clips if clip.corpus == corpus}
        least = min(before[corpus, text, label] for label in labels)
        assert all(after[corpus, text, label] == least for label in labels)
    assert [clip for clip in clips if clip in kept] == kept


def test_nobody_is_heard_in_two_sets(dialogues: Dialogues, tmp_path: Path, ravdess: Path) -> None:
    voices = [{remark.clip.speaker for remark in dialogues.parts[part]} for part in SPLITS]
    assert voices[0] & voices[1] == voices[0] & voices[2] == voices[1] & voices[2] == set()
    rows = ["file,label,speaker,split,text"]
    for i, part in enumerate(["train", "dev", "test"]):
        for j, label in enumerate(("sad", "happy")):
            noise = np.random.default_rng(2 * i + j).normal(size=800) / 9
            soundfile.write(tmp_path / f"{i}{label}.wav", noise, 16_000)
            rows.append(f"{i}{label}.wav,{label},ann{i},{part},Well well")
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    found = prepare([read(f"csv={tmp_path / 'own.csv'}")])
    assert [len(found.parts[part]) for part in SPLITS] == [2, 2, 2]


class Reading:
    """A recognizer that hears the same everywhere."""

    name = "reading"

    def read(self, waveform: np.ndarray, passages: list[tuple[float, float]]) -> tuple[tuple[Word, ...], Transcript]:
        assert passages[0][0] == 0
        assert passages[-1][1] == len(waveform) / 16_000
        return (Word(0, 0.1, " Oh", 1.0), Word(0.1, 0.2, " dear.", 1.0)), Transcript("reading", "en", None)


def test_words_that_a_corpus_does_not_give_are_read_or_missed(tmp_path: Path) -> None:
    rows = ["file,label,speaker,split"]
    for i, part in enumerate(SPLITS):
        for j, label in enumerate(("sad", "happy")):
            soundfile.write(tmp_path / f"{i}{j}.wav", np.random.default_rng(9 * i + j).normal(size=800) / 9, 16_000)
            rows.append(f"{i}{j}.wav,{label},ann{i},{part}")
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    corpus = read(f"csv={tmp_path / 'own.csv'}")
    with pytest.raises(CorpusError, match=r"no clip is left for train .*words are not known"):
        prepare([corpus])
    found = prepare([corpus], reader=Reading())  # type: ignore[arg-type]
    assert {remark.clip.text for part in SPLITS for remark in found.parts[part]} == {"Oh dear."}


def test_what_is_written_can_be_read_back(dialogues: Dialogues, tmp_path: Path) -> None:
    write(dialogues, tmp_path)
    for part in SPLITS:
        rows = [json.loads(line) for line in (tmp_path / f"{part}.jsonl").read_text("utf-8").splitlines()]
        assert [row["audio_path"] for row in rows] == [str(remark.clip.file) for remark in dialogues.parts[part]]
        for row in rows:
            assert row["assistant_reply"] in replies(
                row["emotion_label"], row["intensity"], topic_of(row["corpus"], row["transcript"])
            )
    sheet = (tmp_path / "datasheet.md").read_text("utf-8")
    assert "CC BY-NC-SA 4.0: not for commercial use" in sheet
    assert "| train | ravdess | 2 | 14.3% | 14.3% |" in sheet, "the words say no more than chance"


def test_features_are_computed_once_and_hold_no_sound(dialogues: Dialogues, tmp_path: Path) -> None:
    bundled = e2v_port.load("bundled", runtime="numpy")  # a Whisper encoder, cut
    encoders = Encoders(bundled, bundled, e2v_port.load("bundled-voices", runtime="numpy"))
    some = list(dialogues.parts["test"])[:2]
    kept, failed = features.compute(some, encoders, tmp_path)
    assert failed == []
    assert kept[0].features != kept[1].features
    file = tmp_path / str(kept[0].features)
    found = features.read(file)
    frames = bundled.embed(some[0].clip.file, granularity="frame")
    assert {name: (values.dtype, values.shape) for name, values in found.items()} == {
        "semantic": (np.float16, frames.shape),
        "emotion": (np.float16, frames.shape),
        "speaker": (np.float16, (256,)),
    }
    np.testing.assert_allclose(found["semantic"], frames, rtol=1e-3, atol=1e-3)
    before = file.stat().st_mtime_ns
    again, _ = features.compute(some, encoders, tmp_path)
    assert again == kept
    assert file.stat().st_mtime_ns == before
    file.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(E2VError, match="prepare the dialogues again"):
        features.read(file)
    features.compute(some, encoders, tmp_path)
    assert features.read(file).keys() == found.keys()


def test_models_of_another_kind_are_refused() -> None:
    tiny = e2v_port.load("bundled-tiny", runtime="numpy")
    bundled = e2v_port.load("bundled", runtime="numpy")
    with pytest.raises(E2VError, match="no Whisper encoder"):
        Encoders(tiny, bundled)
    with pytest.raises(E2VError, match="no speaker encoder"):
        Encoders(bundled, bundled, tiny)


def test_the_command(ravdess: Path, tmp_path: Path) -> None:
    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "e2v_port", "dialogue", "prepare", "--corpus", f"ravdess={ravdess}", *options]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    done = run("--out", str(tmp_path / "dialogues"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"252 train, 42 dev, 42 test: {tmp_path / 'dialogues'}"
    (tmp_path / "file").touch()
    done = run("--out", str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (2, f"error: --out {tmp_path / 'file'}: is a file, not a folder\n")

"""Corpora are read as published, and no speaker is in two splits."""

import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import SPLITS, Corpus, Utterance, label_of
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.splits import chosen, split

KNOWN = json.loads(files("e2v_port.taxonomy").joinpath("corpora.json").read_text("utf-8"))["corpora"]
NINE = taxonomy.labels("emotion2vec")


def audio(path: Path, content: int = 0) -> Path:
    """Writes 50 ms of noise; the same content gives the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(content).standard_normal((800, 2)), 16_000)
    return path


def audios(folder: Path, names: Iterable[str]) -> None:
    for i, name in enumerate(names):
        audio(folder / name, i)


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


@pytest.fixture
def ravdess(tmp_path: Path) -> Path:
    """All 24 actors with two emotions each, plus a song and a video."""
    folder = tmp_path / "ravdess"
    names = [f"Actor_{a:02}/03-01-{e}-01-01-01-{a:02}.wav" for a in range(1, 25) for e in ("02", "05")]
    audios(folder, [*names, "Actor_01/03-02-05-01-01-01-01.wav", "Actor_01/._03-01-05-01-01-01-01.wav"])
    (folder / "Actor_01" / "01-01-05-01-01-01-01.mp4").touch()
    return folder


def test_ravdess(ravdess: Path) -> None:
    corpus = read(f"ravdess={ravdess}")
    assert len(corpus.utterances) == 48
    assert corpus.utterances[0] == Utterance(
        file=ravdess / "Actor_01" / "03-01-02-01-01-01-01.wav",
        label="neutral",
        original="calm",
        speaker="ravdess/01",
        sex="male",
        corpus="ravdess",
        dimensions=None,
        split=None,
        language="English",
        text="Kids are talking by the door.",
        intensity="normal",
    )
    assert {u.speaker: u.sex for u in corpus.utterances}["ravdess/24"] == "female"
    assert corpus.mapping == {"angry": "angry", "calm": "neutral"}
    assert corpus.labels == ("angry", "neutral")
    assert "not for commercial use" in corpus.licence
    assert corpus.notes == ("1 file of other kinds or names left out",)


def test_every_code_of_ravdess(tmp_path: Path) -> None:
    # In the order of its documentation.
    words = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    audios(tmp_path, [f"03-01-0{i}-01-01-01-07.wav" for i in range(1, 9)])
    assert [u.original for u in read(f"ravdess={tmp_path}").utterances] == words


def test_identical_files_are_listed_once(ravdess: Path) -> None:
    original = ravdess / "Actor_07" / "03-01-05-01-01-01-07.wav"
    shutil.copy(original, original.with_name("03-01-05-01-01-02-07.wav"))
    shutil.copytree(ravdess / "Actor_09", ravdess / "again" / "Actor_09")  # as if unpacked twice
    before = {u.file for u in read(f"ravdess={ravdess}").utterances}
    assert len(before) == 48
    assert original in before
    (note,) = [note for note in read(f"ravdess={ravdess}").notes if "identical" in note]
    assert note.startswith("3 files left out as byte-identical copies")
    assert "03-01-05-01-01-02-07.wav = 03-01-05-01-01-01-07.wav" in note


def test_files_of_the_same_size_are_not_copies(tmp_path: Path) -> None:
    audios(tmp_path, ["03a01Wa.wav", "03a01Fa.wav"])
    assert len({file.stat().st_size for file in tmp_path.iterdir()}) == 1
    assert len(read(f"emodb={tmp_path}").utterances) == 2


def test_emodb(tmp_path: Path) -> None:
    audios(tmp_path, ["wav/03a01Fa.wav", "wav/08b03Lb.wav", "emodb_16a02Wb.flac", "emodb_timeline.flac"])
    corpus = read(f"emodb={tmp_path}")
    rows = {(u.speaker, u.sex, u.original, u.label) for u in corpus.utterances}
    assert rows == {
        ("emodb/03", "male", "happiness", "happy"),
        ("emodb/08", "female", "boredom", None),
        ("emodb/16", "female", "anger", "angry"),
    }
    assert corpus.labels == ("angry", "happy")
    assert corpus.mapping["boredom"] is None


def test_emodb_matches_the_manifest_of_its_recordings(recordings: Path) -> None:
    with open(recordings / "manifest.csv", encoding="utf-8", newline="") as file:
        described = {
            row["file"]: (f"emodb/{row['speaker']}", {"m": "male", "f": "female"}[row["sex"]], row["emotion"])
            for row in csv.DictReader(file)
            if row["corpus"] == "emodb" and "timeline" not in row["file"]
        }
    listed = {u.file.name: (u.speaker, u.sex, u.original) for u in read(f"emodb={recordings}").utterances}
    assert listed == described
    assert len(listed) == 70


def test_nemo(tmp_path: Path) -> None:
    audios(tmp_path / "samples", ["WR0_surprised_64.wav", "EB0_anger_1.wav"])
    table(
        tmp_path / "data.tsv",
        "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage",
        'WR0_surprised_64.wav\tsurprised\t"Ucho\tucho\t        WR0\tmale\t23',
        "EB0_anger_1.wav\tanger\tA, b\ta b\tEB0\tfemale\t27",
        "EB0_fear_1.wav\tfear\tA\ta\tEB0\tfemale\t27",
    )
    corpus = read(f"nemo={tmp_path}")
    assert [(u.speaker, u.sex, u.original, u.label) for u in corpus.utterances] == [
        ("nemo/WR0", "male", "surprised", "surprised"),
        ("nemo/EB0", "female", "anger", "angry"),
    ]
    assert corpus.notes == ("1 file of data.tsv missing in samples",)


def test_crema_d(tmp_path: Path) -> None:
    folder = tmp_path / "AudioWAV"
    audios(folder, ["1001_DFA_ANG_XX.wav", "1002_IEO_SAD_HI.wav", "1002_IEO_NEU_X.wav"])
    unknown = read(f"crema-d={folder}")
    assert {u.sex for u in unknown.utterances} == {None}
    assert any("VideoDemographics.csv" in note for note in unknown.notes)
    table(tmp_path / "VideoDemographics.csv", "ActorID,Age,Sex,Race", "1001,51,Male,Caucasian", "1002,21,Female,Asian")
    for place in (folder, tmp_path):
        corpus = read(f"crema-d={place}")
        assert [(u.speaker, u.sex, u.label) for u in corpus.utterances] == [
            ("crema-d/1001", "male", "angry"),
            ("crema-d/1002", "female", "neutral"),
            ("crema-d/1002", "female", "sad"),
        ]
        assert corpus.notes == ()


def test_csv(tmp_path: Path) -> None:
    audios(tmp_path, ["a.wav", "sub/b, c.wav", "d.wav", "e.wav"])
    path = table(
        tmp_path / "mine.csv",
        "speaker, label,file,sex,remark,arousal,dominance,valence,split,language",
        'eva,Freude,"sub/b, c.wav",F,"two\nlines",,,,test,German',
        "eva,ANG,a.wav,female,,0.5,0.25,1,test,",
        "",
        "tom,,d.wav,,,0,0,0,train,",
        "tom,Langeweile,e.wav,,,,,,train,",
    )
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Excel writes UTF-8
    corpus = read(f"csv={path}")
    assert (corpus.name, corpus.kind, corpus.licence) == ("mine", "csv", "")
    assert [(u.file, u.label, u.original, u.speaker, u.sex, u.dimensions, u.split) for u in corpus.utterances] == [
        (tmp_path / "sub" / "b, c.wav", "happy", "Freude", "mine/eva", "female", None, "test"),
        (tmp_path / "a.wav", "angry", "ANG", "mine/eva", "female", Dimensions(0.5, 0.25, 1), "test"),
        (tmp_path / "d.wav", None, "", "mine/tom", None, Dimensions(0, 0, 0), "train"),
        (tmp_path / "e.wav", None, "Langeweile", "mine/tom", None, None, "train"),
    ]
    assert [u.language for u in corpus.utterances] == ["German", None, None, None]
    assert corpus.notes == ("labels without a counterpart among emotion2vec's: Langeweile (1)",)


@pytest.mark.parametrize(
    ("name", "speaker"),
    [
        ("emodb_03a01Fa.flac", "emodb/03"),
        ("03a01Fa-cut.wav", "emodb/03"),
        ("03-01-05-01-01-01-22.wav", "ravdess/22"),
        ("1001_DFA_ANG_XX.mp3", "crema-d/1001"),
        ("WR0_surprised_64.wav", "nemo/WR0"),
        ("000357-30-3.mp3", "emogator/000357"),
        ("103a01Fa.wav", None),
        ("call-03-01-05.wav", None),
        ("001.wav", None),
    ],
)
def test_files_of_published_corpora_are_known_in_any_table(tmp_path: Path, name: str, speaker: str | None) -> None:
    (utterance,) = read(f"csv={table(tmp_path / 'a.csv', 'file,label,speaker', f'clips/{name},sad,1')}").utterances
    assert (utterance.speaker, utterance.known_as) == ("a/1", speaker)


def test_emogator(tmp_path: Path) -> None:
    names = [f"{speaker:06}-{code:02}-1.wav" for speaker in (1, 357) for code in range(1, 31)]
    audios(tmp_path, [*names, "000001-31-1.wav"])
    corpus = read(f"emogator={tmp_path}")
    assert len(corpus.utterances) == 60
    assert len({u.original for u in corpus.utterances}) == 30
    assert {u.original: u.label for u in corpus.utterances if u.label} == {
        "anger": "angry",
        "disgust": "disgusted",
        "fear": "fearful",
        "neutral": "neutral",
        "sadness": "sad",
    }
    assert {u.speaker for u in chosen([corpus], "test")["emogator"]} == {"emogator/000357"}


def test_a_missing_file_is_listed(tmp_path: Path) -> None:
    (utterance,) = read(f"csv={table(tmp_path / 'a.csv', 'file,label,speaker', 'none.wav,sad,1')}").utterances
    assert not utterance.file.exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "line 1: the header lacks file, label, speaker"),
        (["file,speaker", "a.wav,1"], "line 1: the header lacks label"),
        (["file;label;speaker", "a.wav;sad;1"], "line 1: the header lacks file, label, speaker"),
        (["file,label,speaker"], "no rows after the header"),
        (["file,label,speaker", "a.wav,sad,1", "b.wav,sad"], "line 3: 2 cells, but 3 columns"),
        (["file,label,speaker", "a.wav,sad,"], "line 2: the speaker is empty"),
        (["file,label,speaker", ",sad,1"], "line 2: the file is empty"),
        (["file,label,speaker", "a.wav,,1"], "line 2: neither a label nor dimensions"),
        (["file,label,speaker,sex", "a.wav,sad,1,x"], "line 2: the sex is 'x': write female or male"),
        (["file,label,speaker,split", "a.wav,sad,1,val"], "line 2: the split is 'val': write train, dev, test"),
        (["file,label,speaker,arousal,dominance,valence", "a.wav,,1,3,4,5"], "line 2: .*scale them to 0 to 1"),
        (["file,label,speaker,arousal,dominance,valence", "a.wav,,1,nan,0,0"], "line 2: .*scale them to 0 to 1"),
        (["file,label,speaker,arousal,dominance,valence", "a.wav,,1,0.5,,0"], "line 2: .*three numbers"),
        (["file,label,speaker,arousal", "a.wav,sad,1,0.5"], "line 2: .*three numbers"),
    ],
)
def test_invalid_tables(tmp_path: Path, rows: list[str], message: str) -> None:
    path = table(tmp_path / "t.csv", *rows)
    with pytest.raises(CorpusError, match=message) as caught:
        read(f"csv={path}")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tess=.", "one of the names ravdess, emodb, .*, emobox, .*csv"),
        ("ravdess", "write NAME=PATH"),
        ("ravdess=", "write NAME=PATH"),
        ("ravdess=missing", "missing is not a folder"),
        ("ravdess=.", "no file is named like 03-01-05-01-01-01-22.wav"),
        ("emodb=.", "no file is named like 03a01Fa.wav"),
        ("crema-d=.", "no file is named like 1001_DFA_ANG_XX.wav"),
        ("emogator=.", "no file is named like 000001-03-1.mp3"),
        ("nemo=.", "data.tsv is missing"),
        ("csv=.", "no such file"),
        ("csv=missing.csv", "no such file"),
    ],
)
def test_missing_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    audio(tmp_path / "song.wav")
    with pytest.raises(CorpusError, match=message):
        read(spec)


def test_nemo_without_recordings(tmp_path: Path) -> None:
    table(tmp_path / "data.tsv", "file_id\temotion\tspeaker_id\tgender", "a.wav\tfear\tX\tmale")
    with pytest.raises(CorpusError, match="none of the files"):
        read(f"nemo={tmp_path}")


def test_a_table_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("file,label,speaker\nü.wav,sad,1\n".encode("latin-1"))
    with pytest.raises(CorpusError, match="not UTF-8"):
        read(f"csv={tmp_path / 't.csv'}")


# ---- labels


def test_labels_of_emotion2vec_are_unchanged() -> None:
    assert [label_of(label) for label in NINE] == list(NINE)
    assert [label_of(label.upper()) for label in NINE] == list(NINE)


def test_labels_without_a_label_set() -> None:
    assert label_of("A") is None  # Angst in EmoDB, anger in MSP-Podcast
    assert label_of("W") == "angry"
    assert label_of("calm") == "neutral"
    assert label_of("boredom") is label_of("contempt") is label_of("nonsense") is label_of("") is None


@pytest.mark.parametrize("label_set", taxonomy.label_sets())
def test_a_label_means_the_same_with_and_without_its_label_set(label_set: str) -> None:
    for label in taxonomy.labels(label_set):
        inside, outside = label_of(label, label_set), label_of(label)
        assert inside in {*NINE, None}
        assert outside == inside or (outside is None and len(label) == 1)


@pytest.mark.parametrize("kind", ["ravdess", "emodb", "crema-d"])
def test_codes_mean_what_their_words_mean(kind: str) -> None:
    for code, word in KNOWN[kind]["codes"].items():
        assert taxonomy.meaning(code, kind) == taxonomy.meaning(word, kind)


# ---- splits


def corpus_of(speakers: Iterable[str], name: str = "mine", splits: Iterable[str | None] | None = None) -> Corpus:
    """Returns a csv corpus with two clips per speaker."""
    utterances = tuple(
        Utterance(Path(f"{speaker}{i}.wav"), "sad", "sad", f"{name}/{speaker}", None, name, None, part)
        for speaker, part in zip(speakers, splits or iter(lambda: None, 0), strict=False)
        for i in range(2)
    )
    return Corpus(name, "csv", Path(f"{name}.csv"), "", utterances, {"sad": "sad"}, ())


def speakers_of(parts: dict[str, list[Utterance]]) -> dict[str, set[str]]:
    return {part: {u.speaker for u in utterances} for part, utterances in parts.items()}


@given(
    speakers=st.sets(st.text("abcäß01 ", min_size=1, max_size=4), min_size=3, max_size=40),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_a_csv_is_split_by_speaker(speakers: set[str], seed: int) -> None:
    corpus = corpus_of(sorted(speakers))
    parts = split([corpus], seed=seed)
    assert list(parts) == list(SPLITS)
    assert Counter(u for clips in parts.values() for u in clips) == Counter(corpus.utterances)
    names = speakers_of(parts)
    assert not (names["train"] & names["dev"] | names["train"] & names["test"] | names["dev"] & names["test"])
    assert all(names.values())
    assert abs(len(names["test"]) - 0.15 * len(speakers)) <= 1
    assert len(names["test"]) == len(names["dev"])
    assert names == speakers_of(split([corpus_of(sorted(speakers, reverse=True))], seed=seed))


def test_the_seed_determines_the_split() -> None:
    corpus = corpus_of(map(str, range(40)))
    assert len({frozenset(speakers_of(split([corpus], seed=seed))["test"]) for seed in range(20)}) == 20


def test_a_column_determines_the_split() -> None:
    parts = split([corpus_of("abc", splits=["test", "train", "train"])])
    assert speakers_of(parts) == {"train": {"mine/b", "mine/c"}, "dev": set(), "test": {"mine/a"}}


@pytest.mark.parametrize(
    ("speakers", "splits", "message"),
    [
        ("aab", ["test", "train", "train"], "mine/a is in test and train: assign each speaker to one split"),
        ("abc", ["test", None, "train"], "b0.wav has no split"),
        ("ab", None, "2 speakers cannot be split into three"),
    ],
)
def test_invalid_split_columns(speakers: str, splits: list[str | None] | None, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        split([corpus_of(speakers, splits=splits)])


def test_the_standard_split(ravdess: Path, tmp_path: Path) -> None:
    audios(tmp_path / "emodb", [f"{s:02}a01Wa.wav" for s in (3, *range(8, 17))])
    corpora = [read(f"ravdess={ravdess}"), read(f"emodb={tmp_path / 'emodb'}")]
    names = speakers_of(split(corpora))
    assert names["test"] == {"ravdess/22", "ravdess/23", "ravdess/24", "emodb/15", "emodb/16"}
    assert names["dev"] == {"ravdess/19", "ravdess/20", "ravdess/21", "emodb/11", "emodb/14"}
    assert len(names["train"]) == 24 + 10 - 10
    parts = chosen(corpora, "test")
    assert {name: len(utterances) for name, utterances in parts.items()} == {"ravdess": 6, "emodb": 2}
    assert {name: len(utterances) for name, utterances in chosen(corpora, "all").items()} == {
        "ravdess": 48,
        "emodb": 10,
    }


def test_given_speakers_split_only_their_own_corpus(ravdess: Path) -> None:
    corpora = [read(f"ravdess={ravdess}"), corpus_of("abcdef"), corpus_of("xyz", "other")]
    before = speakers_of(split(corpora))
    names = speakers_of(split(corpora, dev=["mine/a", "mine/b"], test=["mine/c", "other"]))
    for part in SPLITS:
        of_ravdess = {name for name in names[part] if name.startswith("ravdess/")}
        assert of_ravdess == {name for name in before[part] if name.startswith("ravdess/")}
    assert {name for name in names["dev"] if "ravdess" not in name} == {"mine/a", "mine/b"}
    assert {name for name in names["test"] if "ravdess" not in name} == {"mine/c", "other/x", "other/y", "other/z"}
    assert {"mine/d", "mine/e", "mine/f"} <= names["train"]


@pytest.mark.parametrize(
    ("dev", "test", "message"),
    [
        (["mine/a"], ["mine/a"], "mine/a would be in dev and test"),
        (["mine/a"], ["mine"], "mine/a would be in dev and test"),
        (["mine/z"], [], "no speaker is called mine/z"),
        ([], ["a"], "no speaker is called a: write CORPUS/SPEAKER, or CORPUS for all; of mine"),
    ],
)
def test_overlapping_and_unknown_speakers(dev: list[str], test: list[str], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        split([corpus_of("abc")], dev, test)


def test_two_corpora_with_the_same_name() -> None:
    for function in (split, lambda corpora: chosen(corpora, "all")):
        with pytest.raises(CorpusError, match="2 corpora are called mine"):
            function([corpus_of("abc"), corpus_of("abc")])


def test_a_split_without_speakers(tmp_path: Path) -> None:
    audios(tmp_path, ["03a01Wa.wav"])
    with pytest.raises(CorpusError, match="emodb: none of the test speakers is there"):
        chosen([read(f"emodb={tmp_path}")], "test")


def test_the_standard_splits_name_each_speaker_once() -> None:
    for row in KNOWN.values():
        assert not {*row.get("split", {}).get("dev", ())} & {*row.get("split", {}).get("test", ())}

"""Corpora of research are read from trees of their published layout; what is left out is counted and named."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from e2v_port.emotions.estimates import Dimensions
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Corpus
from e2v_port.evaluation.readers import read
from e2v_port.evaluation.splits import chosen, split


def audio(path: Path) -> None:
    """Writes 50 ms of noise that is in no other file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = zlib.crc32(str(path).encode())
    soundfile.write(path, 0.1 * np.random.default_rng(content).standard_normal(800), 16_000)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def clips(corpus: Corpus) -> list[tuple[str, str | None, str, str | None, str | None]]:
    return [(u.file.name, u.label, u.speaker, u.sex, u.split) for u in corpus.utterances]


def note(corpus: Corpus, start: str) -> str:
    (found,) = [each for each in corpus.notes if each.startswith(start)]
    return found.removeprefix(start)


# ---- IEMOCAP


@pytest.fixture
def iemocap(tmp_path: Path) -> Path:
    """Sessions 1, 4 and 5 with a turn of each speaker, and what else is in a table of IEMOCAP."""
    for session in (1, 4, 5):
        dialog = f"Ses0{session}F_impro01"
        turns = [
            f"[6.2901 - 8.2357]\t{dialog}_F000\tneu\t[2.5000, 3.0000, 5.0000]",
            "C-E2:\tNeutral;\t()",
            "A-E3:\tval 3; act 2; dom  2;\t()",
            "",
            f"[10.0100 - 11.3925]\t{dialog}_M000\texc\t[4.0000, 4.5000, 3.0000]",
        ]
        if session == 1:
            turns += [
                f"[14.8872 - 18.0175]\t{dialog}_F001\txxx\t[2.5000, 2.5000, 6.5000]",
                f"[19.2900 - 20.7875]\t{dialog}_M001\tang\t[2.5000, 2.5000, 2.5000]",
                f"[21.3257 - 24.7400]\t{dialog}_F002\tfru",
            ]
        head = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"
        place = tmp_path / f"Session{session}"
        text(place / "dialog" / "EmoEvaluation" / f"{dialog}.txt", head, "", *turns)
        text(place / "dialog" / "EmoEvaluation" / "Categorical" / f"{dialog}_e2_cat.txt", "[no table of turns]")
        for turn in ("F000", "M000", "F001", "F002"):
            audio(place / "sentences" / "wav" / dialog / f"{dialog}_{turn}.wav")
    return tmp_path


def test_iemocap(iemocap: Path) -> None:
    corpus = read(f"iemocap={iemocap}")
    assert clips(corpus)[:3] == [
        ("Ses01F_impro01_F000.wav", "neutral", "iemocap/Ses01F", "female", None),
        ("Ses01F_impro01_M000.wav", "happy", "iemocap/Ses01M", "male", None),
        ("Ses01F_impro01_F001.wav", None, "iemocap/Ses01F", "female", None),
    ]
    assert len(corpus.utterances) == 7
    assert corpus.utterances[0].dimensions == Dimensions(arousal=0.5, dominance=1.0, valence=0.375)
    assert corpus.utterances[2].dimensions is None
    assert corpus.mapping == {"neu": "neutral", "exc": "happy", "xxx": None}
    assert note(corpus, "turns without a file in sentences/wav") == " (1): Ses01F_impro01_M001"
    assert note(corpus, "lines left out, as they cannot be read") == " (1): Ses01F_impro01.txt:10"
    assert note(corpus, "clips whose ratings cannot be read") == ", or are outside their scale (1): Ses01F_impro01_F001"
    assert note(corpus, "labels without a counterpart among emotion2vec's: ") == "xxx (1)"
    assert {u.speaker for u in chosen([corpus], "test")["iemocap"]} == {"iemocap/Ses05F", "iemocap/Ses05M"}
    assert {u.speaker for u in chosen([corpus], "dev")["iemocap"]} == {"iemocap/Ses04F", "iemocap/Ses04M"}


@pytest.mark.parametrize("name", ["Ses01F_impro01_M000", "Ses05M_script01_1b_F000", "Ses03M_script03_2_MXX0"])
def test_the_names_of_iemocap_are_known_in_any_table(tmp_path: Path, name: str) -> None:
    text(tmp_path / "a.csv", "file,label,speaker", f"clips/{name}.flac,sad,1")
    (utterance,) = read(f"csv={tmp_path / 'a.csv'}").utterances
    assert utterance.known_as == f"iemocap/{name[:5]}{name.rpartition('_')[2][0]}"


# ---- MSP-Podcast

MSP = {
    "MSP-PODCAST_0001_0008.wav": ("N", 2.2, 4.0, 2.5, "30", "Male", "Test1"),
    "MSP-PODCAST_0001_0009.wav": ("A", 7, 1, 4, "Unknown", "Unknown", "Test1"),
    "MSP-PODCAST_0002_0033.wav": ("C", 4, 4, 4, "39", "Female", "Train"),
    "MSP-PODCAST_0003_0001.wav": ("X", 4, 4, 4, "41", "Female", "Development"),
    "MSP-PODCAST_0004_0001.wav": ("H", "", 4, 4, "42", "Female", "Test2"),
    "MSP-PODCAST_0005_0001.wav": ("S", 4, 4, 4, "43", "Female", "Train"),
}
COLUMNS = ("EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set")


def labels_of_msp(folder: Path, form: str) -> None:
    if form == "json":
        table = {name: dict(zip(COLUMNS, row, strict=True)) for name, row in MSP.items()}
        text(folder / "Labels" / "labels_consensus.json", json.dumps(table))
        return
    columns = COLUMNS[:-1] if form == "partitions" else COLUMNS
    rows = [",".join(map(str, (name, *row[: len(columns)]))) for name, row in MSP.items()]
    spelled = "concensus" if form == "1.8" else "consensus"
    text(folder / "Labels" / f"labels_{spelled}.csv", ",".join(("FileName", *columns)), *rows)
    if form == "partitions":
        text(folder / "Partitions.txt", *(f"{row[-1]}; {name}" for name, row in MSP.items()))


@pytest.mark.parametrize("form", ["csv", "json", "1.8", "partitions"])
def test_msp_podcast(tmp_path: Path, form: str) -> None:
    labels_of_msp(tmp_path, form)
    for name in list(MSP)[:-1]:
        audio(tmp_path / "Audios" / name)
    corpus = read(f"msp-podcast={tmp_path}")
    assert clips(corpus) == [
        ("MSP-PODCAST_0001_0008.wav", "neutral", "msp-podcast/30", "male", "test"),
        ("MSP-PODCAST_0001_0009.wav", "angry", "msp-podcast/unknown of podcast 0001", None, "test"),
        ("MSP-PODCAST_0002_0033.wav", None, "msp-podcast/39", "female", "train"),
        ("MSP-PODCAST_0003_0001.wav", None, "msp-podcast/41", "female", "dev"),
        ("MSP-PODCAST_0004_0001.wav", "happy", "msp-podcast/42", "female", None),
    ]
    dimensions = corpus.utterances[0].dimensions
    assert dimensions
    assert (dimensions.arousal, dimensions.dominance, dimensions.valence) == pytest.approx((0.2, 0.25, 0.5))
    assert corpus.utterances[4].dimensions is None
    assert note(corpus, "labels without a counterpart among emotion2vec's: ") == "C (1), X (1)"
    assert note(corpus, "clips of labels_con").endswith(" that Audios lacks (1): MSP-PODCAST_0005_0001.wav")
    assert note(corpus, "clips outside Train, Development and Test1") == " (1): MSP-PODCAST_0004_0001.wav (Test2)"
    assert note(corpus, "clips of unknown speakers").endswith(" (1): MSP-PODCAST_0001_0009.wav")
    parts = split([corpus])
    assert {part: len(found) for part, found in parts.items()} == {"train": 1, "dev": 1, "test": 2}
    assert len(chosen([corpus], "all")["msp-podcast"]) == 5


# ---- MELD


@pytest.mark.parametrize(
    ("train", "test", "suffix"),
    [("train", "", ".wav"), ("", "test", ".wav"), ("train", "", ".mp4")],
)
def test_meld(tmp_path: Path, train: str, test: str, suffix: str) -> None:
    head = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime"
    end = '1,1,"00:14:38,127","00:14:40,378"'
    text(tmp_path / train / "train_sent_emo.csv", head, f'1,"Oh, well",Ross,joy,positive,0,0,{end}')
    text(
        tmp_path / "test_sent_emo.csv",
        head,
        f"1,Why?,Mark,surprise,positive,0,0,{end}",
        f"2,Yes,Ross,anger,negative,0,1,{end}",
        f"3,No,Ross,meh,negative,0,2,{end}",
        f"4,So,Ross,fear,negative,0,3,{end}",
        f"5,So,Ross,fear,negative,zero,3,{end}",
    )
    places = [tmp_path / train / "train_splits"] + 3 * [tmp_path / test / "output_repeated_splits_test"]
    names = ["dia0_utt0", "dia0_utt0", "dia0_utt1", "dia0_utt2"]
    for place, name in zip(places, names, strict=True):
        audio(place / f"{name}.wav")
        (place / f"{name}.wav").rename(place / f"{name}{suffix}")
    corpus = read(f"meld={tmp_path}")
    assert clips(corpus) == [
        (f"dia0_utt0{suffix}", "happy", "meld/Ross", None, "train"),
        (f"dia0_utt0{suffix}", "surprised", "meld/Mark", None, "test"),
        (f"dia0_utt1{suffix}", "angry", "meld/Ross", None, "test"),
        (f"dia0_utt2{suffix}", None, "meld/Ross", None, "test"),
    ]
    assert note(corpus, "tables that are missing") == " (1): dev_sent_emo.csv"
    assert note(corpus, "clips of test_sent_emo.csv that output_repeated_splits_test lacks") == " (1): dia0_utt3"
    assert note(corpus, "lines left out, as they cannot be read") == " (1): test_sent_emo.csv:6"
    assert note(corpus, "labels without a counterpart among emotion2vec's: ") == "meh (1)"
    assert note(corpus, "speakers who are in more than one of train, dev, test") == ", as published (1): meld/Ross"
    assert [len(found) for found in split([corpus]).values()] == [1, 0, 3]
    with pytest.raises(CorpusError, match="none of the dev speakers"):
        chosen([corpus], "dev")
    assert {u.speaker for u in split([corpus], test=["meld/Mark"])["test"]} == {"meld/Mark"}


# ---- Emo-Emilia


@pytest.mark.parametrize("inside", ["", "Emo-Emilia"])
def test_emo_emilia(tmp_path: Path, inside: str) -> None:
    def line(name: str, emotion: str) -> str:
        wav = f"./Emo-Emilia/wav/{name}.wav"
        return json.dumps({"index": name, "emotion": emotion, "wav": wav, "text": "好"}, ensure_ascii=False)

    names = ["ZH_B00090_S00350_W000000", "EN_B00013_S00913_W000004", "EN_B00013_S00913_W000005"]
    lines = [line(name, emotion) for name, emotion in zip(names, ("angry", "disgusted", "sad"), strict=True)]
    text(tmp_path / inside / "Emo-Emilia-ALL.jsonl", *lines, "{cut off", line("other", "sad"))
    for name in names[:2]:
        audio(tmp_path / inside / "wav" / f"{name}.wav")
    corpus = read(f"emo-emilia={tmp_path}")
    assert [(u.label, u.speaker, u.language, u.split) for u in corpus.utterances] == [
        ("angry", "emo-emilia/ZH_B00090_S00350", "Chinese", "test"),
        ("disgusted", "emo-emilia/EN_B00013_S00913", "English", "test"),
    ]
    assert note(corpus, "clips of Emo-Emilia-ALL.jsonl that wav lacks") == " (1): EN_B00013_S00913_W000005"
    assert note(corpus, "lines left out").endswith(" (2): Emo-Emilia-ALL.jsonl:4, Emo-Emilia-ALL.jsonl:5")
    assert len(chosen([corpus], "test")["emo-emilia"]) == 2


# ---- EmoBox


def fold(root: Path, corpus: str, labels: dict[str, str], parts: dict[str, list[dict[str, Any]]]) -> Path:
    """Writes fold 2 of a corpus with its label map; each clip has a key, a file and a label."""
    place = root / "data" / corpus
    text(place / "label_map.json", json.dumps(labels, indent=4))
    for part, rows in parts.items():
        about = {"dataset": corpus, "type": "raw", "sample_rate": 16000, "task": "category", "length": 0.05}
        lines = [json.dumps(about | row | {"channel": 1}) for row in rows]
        text(place / "fold_2" / f"{corpus}_{part}_fold_2.jsonl", *lines)
        for row in rows:
            if "missing" not in row["wav"]:
                audio(root / row["wav"])
    return place / "fold_2"


def clip(corpus: str, name: str, label: str) -> dict[str, Any]:
    return {"key": f"{corpus}-{name}", "wav": f"downloads/{corpus}/{name}.wav", "emo": label}


def test_emobox(tmp_path: Path) -> None:
    labels = {"c": "Angry", "p": "Fear", "s": "Surprise", "m": "Amused"}
    place = fold(
        tmp_path,
        "cafe",
        labels,
        {
            "train": [clip("cafe", "06-P-2-5", "p")],
            "valid": [clip("cafe", "02-P-2-2", "m")],
            "test": [clip("cafe", *row) for row in [("12-C-2-5", "c"), ("02-S-1-1", "s"), ("missing", "c")]]
            + [clip("cafe", "07 N", "neutral"), clip("cafe", "08-X", "gio")],
        },
    )
    with open(place / "cafe_test_fold_2.jsonl", "a", encoding="utf-8") as file:
        file.write("no object\n")
    text(
        place.parent / "data.seg.wrd.stm",
        *(
            f"cafe-{name} 1 {name[:2]} 0 5.18 <id=cafe-{name},lang=en,spk={name[:2]},emotion={label}> {label}"
            for name, label in [
                ("12-C-2-5", "c"),
                ("06-P-2-5", "p"),
                ("02-P-2-2", "m"),
                ("02-S-1-1", "s"),
                ("07 N", "n"),
            ]
        ),
    )
    corpus = read(f"emobox={place}")
    assert (corpus.name, corpus.kind) == ("emobox-cafe-2", "emobox")
    assert clips(corpus) == [
        ("06-P-2-5.wav", "fearful", "emobox-cafe/06", None, "train"),
        ("02-P-2-2.wav", None, "emobox-cafe/02", None, "dev"),
        ("12-C-2-5.wav", "angry", "emobox-cafe/12", None, "test"),
        ("02-S-1-1.wav", "surprised", "emobox-cafe/02", None, "test"),
        ("07 N.wav", "neutral", "emobox-cafe/07", None, "test"),
        ("08-X.wav", None, "emobox-cafe/unknown", None, "test"),
    ]
    assert corpus.mapping["Amused"] is None
    assert note(corpus, f"files that {tmp_path.name} lacks") == " (1): downloads/cafe/missing.wav"
    assert note(corpus, "lines left out").endswith(" (1): cafe_test_fold_2.jsonl:6")
    assert note(corpus, "clips whose label label_map.json lacks").endswith(" (2): neutral, gio")
    assert note(corpus, "clips whose speaker is unknown").endswith(" (1): cafe-08-X")
    assert note(corpus, "labels without a counterpart among emotion2vec's: ") == "Amused (1), gio (1)"
    assert note(corpus, "speakers who are in more than one").endswith(" (1): emobox-cafe/02")
    assert [len(found) for found in split([corpus]).values()] == [1, 1, 4]


def test_speakers_of_emobox_are_those_of_the_corpus(tmp_path: Path) -> None:
    """EmoBox has the speaker of IEMOCAP's motion capture instead of the one who speaks."""
    name = "Session1/sentences/wav/Ses01F_impro04/Ses01F_impro04_M000"
    place = fold(tmp_path, "iemocap", {"neu": "Neutral"}, {"test": [clip("iemocap", name, "neu")]})
    key = f"iemocap-{name}"
    text(place.parent / "data.seg.wrd.stm", f"{key} 1 Ses01F 0 4 <id={key},lang=en,spk=Ses01F,emotion=neu> neu")
    (utterance,) = read(f"emobox={place}").utterances
    assert (utterance.speaker, utterance.known_as) == ("emobox-iemocap/Ses01M", "iemocap/Ses01M")


def test_a_fold_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = fold(tmp_path, "savee", {"a": "Angry"}, {"test": [clip("savee", "DC_a01", "a")]})
    for folder, spec in ((place, "."), (place.parent, "fold_2"), (tmp_path, "data/savee/fold_2/")):
        monkeypatch.chdir(folder)
        corpus = read(f"emobox={spec}")
        assert (corpus.name, len(corpus.utterances)) == ("emobox-savee-2", 1)


def test_a_published_test_keeps_listedthat_the_training_has_too(tmp_path: Path) -> None:
    names = ["DC_a01", "DC_a02", "DC_a03"]
    listed = [clip("savee", name, "a") for name in names]
    place = fold(tmp_path, "savee", {"a": "Angry"}, {"train": listed[:1], "test": listed[1:]})
    for each in listed[1:]:
        (tmp_path / each["wav"]).write_bytes((tmp_path / listed[0]["wav"]).read_bytes())
    corpus = read(f"emobox={place}")
    assert [(u.file.stem, u.split) for u in corpus.utterances] == [("DC_a01", "train"), ("DC_a02", "test")]
    assert "1 file left out as byte-identical copies: DC_a03.wav = DC_a02.wav" in corpus.notes


def test_parts_of_files_are_left_out_of_emobox(tmp_path: Path) -> None:
    cut = clip("pavoque", "pavoque", "angry") | {"start_time": 1.0, "end_time": 2.5}
    place = fold(tmp_path, "pavoque", {"angry": "Angry"}, {"test": [cut]})
    with pytest.raises(CorpusError, match=r"none of its clips .* parts of a file .* \(1\): pavoque-pavoque"):
        read(f"emobox={place}")


# ---- what is no corpus


@pytest.mark.parametrize(
    ("kind", "files", "message"),
    [
        ("iemocap", [], "pass the folder that holds Session1 to Session5"),
        ("iemocap", ["Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"], "no turns found: pass"),
        ("msp-podcast", [], "labels_consensus.csv is missing"),
        ("msp-podcast", ["Labels/labels_consensus.json"], "no JSON object"),
        ("msp-podcast", ["Labels/labels_consensus.csv"], "the header lacks FileName, EmoClass"),
        ("meld", [], "test_sent_emo.csv is missing: pass the folder MELD.Raw"),
        ("emo-emilia", [], "Emo-Emilia-ALL.jsonl is missing"),
        ("emo-emilia", ["Emo-Emilia-ALL.jsonl"], "no clip of Emo-Emilia-ALL.jsonl"),
        ("emobox", [], "no fold: pass one, such as .*fold_1"),
    ],
)
def test_what_is_no_corpus_is_refused(tmp_path: Path, kind: str, files: list[str], message: str) -> None:
    for name in files:
        text(tmp_path / name, "nothing")
    with pytest.raises(CorpusError, match=message) as caught:
        read(f"{kind}={tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_fold_of_emobox_is_named(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "data" / "esd" / f"fold_{number}").mkdir(parents=True)
    with pytest.raises(CorpusError, match="there: fold_1, fold_2"):
        read(f"emobox={tmp_path / 'data' / 'esd'}")
    with pytest.raises(CorpusError, match="esd_test_fold_1"):
        read(f"emobox={tmp_path / 'data' / 'esd' / 'fold_1'}")

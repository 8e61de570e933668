"""MELD: English, utterances of the television series Friends.

Layout as in `MELD.Raw`, and as emo-box/EmoBox, `EmoBox/preprocess/scripts/meld.py`, reads it; the same with `.wav` for
those who took the sound out of the videos:

    train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv     the first also in train/
    train/train_splits/dia0_utt0.mp4
    dev_splits_complete/dia0_utt0.mp4
    output_repeated_splits_test/dia0_utt0.mp4
"""

from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import SPLITS, Utterance, published
from e2v_port.evaluation.readers.file_names import AUDIO
from e2v_port.evaluation.readers.findings import UNREADABLE, Findings
from e2v_port.evaluation.readers.tables import rows

__all__ = ["read_meld"]

_CLIPS = {"train": "train_splits", "dev": "dev_splits_complete", "test": "output_repeated_splits_test"}
_SUFFIXES = (*sorted(AUDIO, key=lambda suffix: suffix != ".wav"), ".mp4")  # a wav needs no FFmpeg


def read_meld(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads the utterances of the parts whose tables are there; the main characters speak in all three.

    Raises:
        CorpusError: No table is there, or none of their clips.
    """
    findings = Findings("meld")
    tables = 0
    for part in SPLITS:
        places = [folder, folder / part]
        table = next((place / f"{part}_sent_emo.csv" for place in places if _has(place, part)), None)
        if table is None:
            findings.remark("tables that are missing", f"{part}_sent_emo.csv")
            continue
        tables += 1
        clips = [place / _CLIPS[part] for place in places]
        for line, row in rows(table, ",", ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID")):
            if not row["Dialogue_ID"].isdecimal() or not row["Utterance_ID"].isdecimal():
                findings.remark(UNREADABLE, f"{table.name}:{line}")
                continue
            name = f"dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}"
            file = next(
                (file for place in clips for suffix in _SUFFIXES if (file := place / f"{name}{suffix}").is_file()), None
            )
            if file is None:
                findings.remark(f"clips of {table.name} that {_CLIPS[part]} lacks", name)
                continue
            findings.add(
                file,
                row["Emotion"],
                row["Speaker"],
                split=part,
                language=published()["corpora"]["meld"]["language"],
                text=row.get("Utterance") or None,
            )
    if not tables:
        raise CorpusError(f"meld={folder}: test_sent_emo.csv is missing: pass the folder MELD.Raw")
    if not findings.utterances:
        raise CorpusError(f"meld={folder}: no clip of the tables is there: unpack {', '.join(_CLIPS.values())}")
    return findings.utterances, findings.notes


def _has(place: Path, part: str) -> bool:
    return (place / f"{part}_sent_emo.csv").is_file()

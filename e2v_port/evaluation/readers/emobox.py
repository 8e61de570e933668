"""EmoBox: partitions and label maps of 32 corpora of speech.

Layout as in the repository emo-box/EmoBox, where `EmoBox/EmoDataset.py` reads it:

    data/iemocap/label_map.json                        {"neu": "Neutral", "exc": "Happy", ...}
    data/iemocap/data.seg.wrd.stm                      KEY 1 SPEAKER 0 4.39 <id=KEY,lang=en,spk=SPEAKER,emotion=neu> neu
    data/iemocap/fold_1/iemocap_test_fold_1.jsonl      {"key": KEY, "wav": "downloads/iemocap/...", "emo": "neu", ...}
    downloads/iemocap/...                              the corpus, as unpacked
"""

import os
import re
from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.readers.file_names import known_as
from e2v_port.evaluation.readers.findings import UNREADABLE, Findings
from e2v_port.evaluation.readers.tables import json_lines, json_object, text_of

__all__ = ["name_of_fold", "read_emobox"]

_PARTS = {"train": "train", "valid": "dev", "test": "test"}
_FOLD = re.compile(r"fold_(?P<number>[0-9]+)")
_SPEAKER = re.compile(r"<id=(?P<key>.*),lang=[^,>]*,spk=(?P<speaker>.*),emotion=[^>]*>")


def name_of_fold(folder: Path) -> str:
    """Returns the name of a corpus and a fold, e.g. `emobox-iemocap-1` for `data/iemocap/fold_1`."""
    folder = Path(os.path.abspath(folder))  # of `fold_1`, too, where the corpus is the folder above
    fold = _FOLD.fullmatch(folder.name)
    return f"emobox-{folder.parent.name}-{fold['number']}" if fold else f"emobox-{folder.name}"


def read_emobox(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads one fold, e.g. `EmoBox/data/iemocap/fold_1`.

    Most folds have no `valid`: EmoBox draws it from `train` at random, which is not done here.

    Speakers are those that the names of files name, where their naming is known, or else those of `data.seg.wrd.stm`.
    All others of a corpus count as one.

    Raises:
        CorpusError: The folder is no fold, or none of its clips is there.
    """
    folder = Path(os.path.abspath(folder))
    fold = _FOLD.fullmatch(folder.name)
    if not fold:
        folds = sorted(path.name for path in folder.glob("fold_*")) or ["fold_1"]
        raise CorpusError(f"emobox={folder}: no fold: pass one, such as {folder / folds[0]}; there: {', '.join(folds)}")
    corpus, number, root = folder.parent.name, fold["number"], folder.parents[2]
    findings = Findings(name_of_fold(folder), speakers=f"emobox-{corpus}")
    labels = _label_map(folder.parent / "label_map.json", findings)
    speakers = _speakers(folder.parent / "data.seg.wrd.stm")
    lists = {part: folder / f"{corpus}_{part}_fold_{number}.jsonl" for part in _PARTS}
    if not lists["test"].is_file():
        raise CorpusError(f"emobox={folder}: {lists['test'].name} is missing: pass a fold of EmoBox's folder data")
    for part, path in lists.items():
        for line, row in json_lines(path) if path.is_file() else ():
            if row is None or not isinstance(row.get("wav"), str) or not isinstance(row.get("emo"), str):
                findings.remark(UNREADABLE, f"{path.name}:{line}")
                continue
            file = root / row["wav"]
            if "start_time" in row:
                findings.remark("clips that are parts of a file left out: cut them into files", str(row.get("key")))
                continue
            if not file.is_file():
                findings.remark(f"files that {root.name} lacks", row["wav"])
                continue
            if row["emo"] not in labels:
                findings.remark("clips whose label label_map.json lacks: the label is used as it is", row["emo"])
            named = known_as(file)
            speaker = named.partition("/")[2] if named else speakers.get(str(row.get("key")))
            if speaker is None:
                findings.remark("clips whose speaker is unknown: all count as one speaker", str(row.get("key")))
            findings.add(
                file, labels.get(row["emo"], row["emo"]), speaker or "unknown", split=_PARTS[part], known_as=named
            )
    if not findings.utterances:
        missing = f" ({'; '.join(findings.notes)})" if findings.notes else ""
        raise CorpusError(f"emobox={folder}: none of its clips is there{missing}: unpack {corpus} as the lists say")
    return findings.utterances, findings.notes


def _label_map(path: Path, findings: Findings) -> dict[str, str]:
    found = (json_object(path) if path.is_file() else None) or {}
    if not found:
        findings.remark("tables that are missing or empty", path.name)
    return {str(label): str(name) for label, name in found.items()}


def _speakers(path: Path) -> dict[str, str]:
    """Returns the speaker of each key."""
    lines = text_of(path).splitlines() if path.is_file() else ()
    return {found["key"]: found["speaker"] for line in lines if (found := _SPEAKER.search(line))}

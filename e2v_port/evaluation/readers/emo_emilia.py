"""Emo-Emilia: Chinese and English speech of the web, a test set of 1400 clips.

Layout as in zxzhao0/C2SER and in the data set ASLP-lab/Emo-Emilia:

    Emo-Emilia-ALL.jsonl    {"index": "ZH_B00090_S00350_W000000", "emotion": "angry", "wav": ..., "text": ...}
    wav/ZH_B00090_S00350_W000000.wav

A name is that of Emilia: language, batch, speaker and utterance.
"""

import re
from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.readers.findings import UNREADABLE, Findings
from e2v_port.evaluation.readers.tables import json_lines

__all__ = ["read_emo_emilia"]

_LIST = "Emo-Emilia-ALL.jsonl"
_NAME = re.compile(r"(?P<speaker>(?P<language>ZH|EN)_B[0-9]+_S[0-9]+)_W[0-9]+")
_LANGUAGES = {"ZH": "Chinese", "EN": "English"}


def read_emo_emilia(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads the list of clips; all of them are the test.

    Raises:
        CorpusError: The list is missing, or all of its clips.
    """
    places = (folder, folder / "Emo-Emilia")
    place = next((place for place in places if (place / _LIST).is_file()), None)
    if place is None:
        raise CorpusError(f"emo-emilia={folder}: {_LIST} is missing: pass the folder that holds it and wav")
    findings = Findings("emo-emilia", label_set="emotion2vec")
    for number, row in json_lines(place / _LIST):
        name = _NAME.fullmatch(str((row or {}).get("index")))
        if row is None or name is None or "emotion" not in row:
            findings.remark(UNREADABLE, f"{_LIST}:{number}")
            continue
        file = place / "wav" / f"{row['index']}.wav"
        if not file.is_file():
            findings.remark(f"clips of {_LIST} that wav lacks", row["index"])
            continue
        findings.add(file, str(row["emotion"]), name["speaker"], split="test", language=_LANGUAGES[name["language"]])
    if not findings.utterances:
        missing = f" ({'; '.join(findings.notes)})" if findings.notes else ""
        raise CorpusError(f"emo-emilia={folder}: no clip of {_LIST} in {place / 'wav'}{missing}: unpack them there")
    return findings.utterances, findings.notes

"""IEMOCAP: English, acted dialogs of ten speakers in five sessions.

Layout as in emo-box/EmoBox, `EmoBox/preprocess/scripts/iemocap.py`, and in speechbrain's recipe:

    Session1/dialog/EmoEvaluation/Ses01F_impro01.txt
    Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav

A line of the former that describes a turn has times, name, label, and valence, activation and dominance on 1 to 5:

    [6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5000, 2.5000, 2.5000]
"""

import re
from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance, published
from e2v_port.evaluation.readers.file_names import known_as
from e2v_port.evaluation.readers.findings import NO_RATINGS, SEXES, UNREADABLE, Findings, rated

__all__ = ["read_iemocap"]

_TURN = re.compile(r"\[[0-9.]+ - [0-9.]+\]\s+(?P<name>\S+)\s+(?P<label>\S+)\s+\[(?P<ratings>[^\]]*)\]\s*")


def read_iemocap(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads the turns of all sessions in a folder.

    A speaker is the one who speaks, such as `iemocap/Ses01M`: the first letter in a file's name is of the one who wore
    the markers.

    Raises:
        CorpusError: The folder has no turns.
    """
    findings = Findings("iemocap", label_set="iemocap")
    for table in sorted(folder.glob("Session[1-5]/dialog/EmoEvaluation/Ses*.txt")):
        session = table.parents[2]
        for number, line in enumerate(table.read_text("latin-1").splitlines(), 1):
            if not line.startswith("["):  # votes of single listeners, and the header
                continue
            turn = _TURN.fullmatch(line)
            speaker = known_as(Path(turn["name"])) if turn else None
            if not turn or not speaker:
                findings.remark(UNREADABLE, f"{table.name}:{number}")
                continue
            file = session / "sentences" / "wav" / turn["name"].rpartition("_")[0] / f"{turn['name']}.wav"
            if not file.is_file():
                findings.remark("turns without a file in sentences/wav", turn["name"])
                continue
            valence, *others = turn["ratings"].split(",")
            dimensions = rated([*others, valence], 1, 5)
            if dimensions is None:
                findings.remark(NO_RATINGS, turn["name"])
            findings.add(
                file,
                turn["label"],
                speaker.removeprefix("iemocap/"),
                sex=SEXES[speaker[-1].lower()],
                dimensions=dimensions,
                language=published()["corpora"]["iemocap"]["language"],
            )
    if not findings.utterances:
        missing = f" ({'; '.join(findings.notes)})" if findings.notes else ""
        raise CorpusError(
            f"iemocap={folder}: no turns found{missing}: pass the folder that holds Session1 to Session5, each with "
            f"dialog/EmoEvaluation and sentences/wav"
        )
    return findings.utterances, findings.notes

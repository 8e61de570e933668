"""MSP-Podcast: English, excerpts of podcasts rated by listeners.

Layout as published, in releases 1.8 to 2.0. Names and columns as in public code that reads it: emo-box/EmoBox,
`EmoBox/preprocess/scripts/msppodcast.py`, and users of `Labels/labels_consensus.csv`; old releases spell it
`labels_concensus`.

    Labels/labels_consensus.csv     FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set
    Labels/labels_consensus.json    {"MSP-PODCAST_0001_0008.wav": {"EmoClass": "N", "EmoAct": 2.2, ...}}
    Partitions.txt                  Test1; MSP-PODCAST_0001_0008.wav
    Audios/MSP-PODCAST_0001_0008.wav

EmoAct, EmoVal and EmoDom are on 1 to 7.
"""

from collections.abc import Iterator
from pathlib import Path

from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance, published
from e2v_port.evaluation.readers.findings import NO_RATINGS, SEXES, UNREADABLE, Findings, rated
from e2v_port.evaluation.readers.tables import json_object, rows, text_of

__all__ = ["read_msp_podcast"]

_TABLES = tuple(
    f"{folder}{name}.{suffix}"
    for folder in ("Labels/", "Label/", "label/", "")
    for name in ("labels_consensus", "labels_concensus")
    for suffix in ("csv", "json")
)
_PARTS = {"Train": "train", "Development": "dev", "Validation": "dev", "Test1": "test"}


def read_msp_podcast(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads the consensus labels and their clips. Test1 is the test; Test2 and Test3 are in no split.

    The clips of a podcast whose speaker is unknown count as one speaker.

    Raises:
        CorpusError: The labels or the audio are missing.
    """
    table = next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    if table is None:
        raise CorpusError(f"msp-podcast={folder}: Labels/labels_consensus.csv is missing: pass the folder with Labels")
    audios = next((folder / name for name in ("Audios", "Audio") if (folder / name).is_dir()), folder / "Audios")
    findings = Findings("msp-podcast", label_set="msp-podcast")
    partitions = _partitions(folder / "Partitions.txt", findings)
    for name, row in _labels(table, findings):
        file = audios / name
        if not file.is_file():
            findings.remark(f"clips of {table.name} that {audios.name} lacks", name)
            continue
        dimensions = rated([row.get(column, "") for column in ("EmoAct", "EmoDom", "EmoVal")], 1, 7)
        if dimensions is None:
            findings.remark(NO_RATINGS, name)
        speaker = row.get("SpkrID", "")
        if speaker.lower() in {"", "unknown"}:
            speaker = f"unknown of podcast {name.removeprefix('MSP-PODCAST_').partition('_')[0]}"
            findings.remark("clips of unknown speakers, who count as one speaker in each podcast", name)
        part = row.get("Split_Set") or partitions.get(name, "")
        if part not in _PARTS:
            findings.remark("clips outside Train, Development and Test1", f"{name} ({part or 'no part'})")
        findings.add(
            file,
            row["EmoClass"],
            speaker,
            sex=SEXES.get(row.get("Gender", "").lower()),
            dimensions=dimensions,
            split=_PARTS.get(part),
            language=published()["corpora"]["msp-podcast"]["language"],
        )
    if not findings.utterances:
        raise CorpusError(f"msp-podcast={folder}: {audios} has no clip of {table.name}: unpack the audio there")
    return findings.utterances, findings.notes


def _labels(table: Path, findings: Findings) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the name of each file, and its cells by column."""
    if table.suffix == ".csv":
        for _, row in rows(table, ",", ("FileName", "EmoClass")):
            yield row["FileName"], row
        return
    found = json_object(table)
    if found is None:
        raise CorpusError(f"{table}: no JSON object: use the original file, or labels_consensus.csv")
    for name, cells in found.items():
        if isinstance(cells, dict) and "EmoClass" in cells:
            yield name, {column: str(cell).strip() for column, cell in cells.items()}
        else:
            findings.remark(UNREADABLE, name)


def _partitions(path: Path, findings: Findings) -> dict[str, str]:
    """Returns the part of each file, which releases before 1.8 have in no column."""
    found = {}
    for number, line in enumerate(text_of(path).splitlines() if path.is_file() else (), 1):
        part, semicolon, name = (piece.strip() for piece in line.partition(";"))
        if semicolon:
            found[name] = part
        elif line.strip():
            findings.remark(UNREADABLE, f"{path.name}:{number}")
    return found

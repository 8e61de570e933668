"""nEMO: Polish, acted. https://github.com/amu-cai/nEMO"""

from pathlib import Path

from e2v_port.emotions import taxonomy
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import Utterance, label_of, published
from e2v_port.evaluation.readers.findings import SEXES, count_files
from e2v_port.evaluation.readers.tables import rows

__all__ = ["read_nemo"]


def read_nemo(folder: Path) -> tuple[list[Utterance], list[str]]:
    """Reads `data.tsv`, and the recordings in `samples`."""
    table = folder / "data.tsv"
    if not table.is_file():
        raise CorpusError(f"nemo={folder}: data.tsv is missing: pass the folder that holds it and samples")
    utterances, missing = [], 0
    for line, row in rows(table, "\t", ("file_id", "emotion", "speaker_id", "gender")):
        file = folder / "samples" / row["file_id"]
        if not file.is_file():
            missing += 1
            continue
        if row["emotion"] not in taxonomy.labels("nemo"):
            raise CorpusError(
                f"{table}, line {line}: no emotion of nEMO: {row['emotion']!r}: use the original data.tsv"
            )
        utterances.append(
            Utterance(
                file=file,
                label=label_of(row["emotion"], "nemo"),
                original=row["emotion"],
                speaker=f"nemo/{row['speaker_id']}",
                sex=SEXES.get(row["gender"].lower()),
                corpus="nemo",
                dimensions=None,
                split=None,
                language=published()["corpora"]["nemo"]["language"],
                text=row.get("raw_text") or None,
            )
        )
    if not utterances:
        raise CorpusError(f"nemo={folder}: samples has none of the files in data.tsv: unpack the recordings there")
    return utterances, [f"{count_files(missing)} of data.tsv missing in samples"] if missing else []

"""Any corpus, from a csv that describes its clips."""

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from e2v_port.emotions.estimates import DIMENSIONS, Dimensions
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import INTENSITIES, SPLITS, Utterance, label_of
from e2v_port.evaluation.readers.file_names import known_as
from e2v_port.evaluation.readers.findings import SEXES, without_counterpart
from e2v_port.evaluation.readers.tables import rows

__all__ = ["read_csv"]


def read_csv(table: Path) -> tuple[list[Utterance], list[str]]:
    """Reads a table of one's own: see `readers.read` for its columns."""
    if not table.is_file():
        raise CorpusError(f"csv={table}: no such file: pass a table with the columns file, label and speaker")
    utterances: list[Utterance] = []
    unknown: Counter[str] = Counter()
    for line, row in rows(table, ",", ("file", "label", "speaker")):
        try:
            utterance = _csv_utterance(table, row)
        except ValueError as error:
            raise CorpusError(f"{table}, line {line}: {error}") from error
        utterances.append(utterance)
        if utterance.original and utterance.label is None:
            unknown[utterance.original] += 1
    if not utterances:
        raise CorpusError(f"{table}: no rows after the header: add one for each file")
    return utterances, without_counterpart(unknown)


def _csv_utterance(table: Path, row: Mapping[str, str]) -> Utterance:
    """Returns the clip of a row; raises ValueError with the remedy if the row is invalid."""
    sex, part = row.get("sex", "").lower(), row.get("split", "").lower()
    if not row["file"] or not row["speaker"]:
        raise ValueError(f"the {'speaker' if row['file'] else 'file'} is empty: fill it in")
    if sex not in SEXES:
        raise ValueError(f"the sex is {sex!r}: write female or male, or leave it empty")
    if part and part not in SPLITS:
        raise ValueError(f"the split is {part!r}: write {', '.join(SPLITS)}")
    if row.get("intensity", "") not in {"", *INTENSITIES}:
        raise ValueError(f"the intensity is {row['intensity']!r}: write {' or '.join(INTENSITIES)}, or leave it empty")
    dimensions = _dimensions([row.get(name, "") for name in DIMENSIONS])
    if not row["label"] and dimensions is None:
        raise ValueError("neither a label nor dimensions: add one of them, or delete the row")
    return Utterance(
        file=table.parent / row["file"],
        label=label_of(row["label"]),
        original=row["label"],
        speaker=f"{table.stem}/{row['speaker']}",
        sex=SEXES[sex],
        corpus=table.stem,
        dimensions=dimensions,
        split=part or None,
        language=row.get("language") or None,
        known_as=known_as(Path(row["file"])),
        text=row.get("text") or None,
        intensity=row.get("intensity") or None,
    )


def _dimensions(cells: list[str]) -> Dimensions | None:
    if not any(cells):
        return None
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise ValueError(f"{', '.join(DIMENSIONS)} must be three numbers, or all empty, not {cells}") from error
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise ValueError(f"{', '.join(DIMENSIONS)} are {values}: scale them to 0 to 1")
    return Dimensions(**dict(zip(DIMENSIONS, values, strict=True)))

"""Reads corpora: the published ones from their file names and tables, any other from a csv."""

import csv
import hashlib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import DIMENSIONS, Dimensions
from e2v_port.errors import CorpusError
from e2v_port.evaluation.datasets import NAMES, SPLITS, Corpus, Utterance, label_of, published
from e2v_port.evaluation.diarization.zed import read_zed

__all__ = ["AUDIO", "read"]

AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male", "": None}

# Modality 03 (audio only), channel 01 (speech), emotion, intensity, sentence, repetition, actor.
_RAVDESS = re.compile(r"03-01-(?P<code>0[1-8])-0[12]-0[12]-0[12]-(?P<speaker>[0-9]{2})")
# Speaker, sentence, emotion, version; other copies have a prefix.
_EMODB = re.compile(r"(?:emodb_)?(?P<speaker>[0-9]{2})[ab][0-9]{2}(?P<code>[WLEAFTN])[a-z]?")
# Actor, sentence, emotion, intensity.
_CREMA_D = re.compile(r"(?P<speaker>[0-9]{4})_[A-Z]{3}_(?P<code>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}", re.I)
# Contributor, category, repetition.
_EMOGATOR = re.compile(r"(?P<speaker>[0-9]{6})-(?P<code>0[1-9]|[12][0-9]|30)-[123]")
# Speaker, emotion, sentence; the table of the corpus has them too.
_NEMO = re.compile(r"(?P<speaker>[A-Z]{2}0)_(?:anger|fear|happiness|sadness|surprised|neutral)_[0-9]+")
_PATTERNS = {"ravdess": _RAVDESS, "emodb": _EMODB, "crema-d": _CREMA_D, "emogator": _EMOGATOR, "nemo": _NEMO}
_EXAMPLES = {
    "ravdess": "03-01-05-01-01-01-22.wav",
    "emodb": "03a01Fa.wav",
    "crema-d": "1001_DFA_ANG_XX.wav",
    "emogator": "000001-03-1.mp3",
}


def read(spec: str) -> Corpus:
    """Lists the clips of a corpus.

    * `ravdess=FOLDER`: files named `03-01-EE-II-SS-RR-AA.wav`, in any subfolder. Song and video are left out. Calm
      counts as neutral.
    * `emodb=FOLDER`: files named `03a01Fa.wav`. Boredom has no counterpart.
    * `nemo=FOLDER`: the folder that holds `data.tsv` and `samples`.
    * `crema-d=FOLDER`: files named `1001_DFA_ANG_XX.wav`, in any subfolder. The actors' sexes are read from the
      corpus' `VideoDemographics.csv`, in this folder or its parent.
    * `emogator=FOLDER`: bursts named `000001-03-1.mp3`, without words. Five of the 30 categories have a counterpart.
    * `zed=FOLDER`: the folder that holds `ZED.json`, which says which emotion appears when; see `diarization.zed`.
    * `csv=FILE`: a table in UTF-8 with a header. Required columns: `file` (relative to the table), `label`, `speaker`.
      Optional columns: `sex` (female, male), `language`, `split` (train, dev, test), and `arousal`, `dominance` and
      `valence` (0 to 1); others are ignored. Labels are emotion2vec's, or any that `label_of` knows; a row may have
      dimensions instead of a label.

    Only the first of several byte-identical files is kept, so that no clip is in both training and test.

    Args:
        spec: Kind and path, as above.

    Raises:
        CorpusError: The kind is unknown, the path has no clips of it, or a row of a table is invalid. The message
            names the line.
    """
    kind, equals, place = spec.partition("=")
    if not equals or not place or kind not in NAMES:
        raise CorpusError(f"{spec}: not a corpus: write NAME=PATH with one of the names {', '.join(NAMES)}")
    path = Path(os.path.expanduser(place))  # leaves a ~ that it does not know
    if kind == "csv":
        return _corpus(kind, path, *_read_csv(path))
    if not path.is_dir():
        raise CorpusError(f"{spec}: {path} is not a folder: pass the folder with the unpacked {kind}")
    if kind == "nemo":
        utterances, notes = _read_nemo(path)
    elif kind == "zed":
        utterances, notes = read_zed(path), []
    elif kind == "ravdess":
        utterances, notes = _read_names(kind, path, lambda actor: "male" if int(actor) % 2 else "female")
    elif kind == "emodb":
        utterances, notes = _read_names(kind, path, published()["corpora"][kind]["sexes"].get)
    elif kind == "emogator":
        utterances, notes = _read_names(kind, path, lambda _: None)
    else:
        sexes = _crema_d_sexes(path)
        utterances, notes = _read_names(kind, path, sexes.get)
        if not sexes:
            notes.append("VideoDemographics.csv is missing: the actors' sexes are unknown")
    return _corpus(kind, path, utterances, notes)


def _corpus(kind: str, path: Path, listed: list[Utterance], notes: list[str]) -> Corpus:
    name, licence = (path.stem, "") if kind == "csv" else (kind, published()["corpora"][kind]["licence"])
    utterances, copies = _once(listed)
    if copies:
        shown = ", ".join(f"{copy.name} = {first.name}" for copy, first in copies[:3])
        more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
        notes = [*notes, f"{_files(len(copies))} left out as byte-identical copies: {shown}{more}"]
    mapping = {utterance.original: utterance.label for utterance in utterances if utterance.original}
    return Corpus(name, kind, path, licence, tuple(utterances), dict(sorted(mapping.items())), tuple(notes))


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _once(utterances: list[Utterance]) -> tuple[list[Utterance], list[tuple[Path, Path]]]:
    """Returns the clips without copies of earlier files, and each copy with its original."""
    sizes = {utterance.file: _size(utterance.file) for utterance in utterances}
    common = {size for size, count in Counter(sizes.values()).items() if count > 1 and size is not None}
    firsts: dict[tuple[int | None, bytes], Path] = {}
    kept: list[Utterance] = []
    copies: list[tuple[Path, Path]] = []
    for utterance in utterances:
        size = sizes[utterance.file]
        if size in common and (data := _digest(utterance.file)):
            first = firsts.setdefault((size, data), utterance.file)
            if first is not utterance.file:
                copies.append((utterance.file, first))
                continue
        kept.append(utterance)
    return kept, copies


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _digest(file: Path) -> bytes:
    """Returns a hash of the content; empty if the file cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return b""


def _known_as(file: Path) -> str | None:
    """Returns the speaker of a published corpus that a file's name names, e.g. `emodb/03`."""
    for kind, pattern in _PATTERNS.items():
        if match := re.search(rf"(?<![0-9A-Za-z]){pattern.pattern}(?![0-9A-Za-z])", file.stem, pattern.flags):
            return f"{kind}/{match['speaker']}"
    return None


def _read_names(kind: str, folder: Path, sex_of: Callable[[str], str | None]) -> tuple[list[Utterance], list[str]]:
    """Reads a corpus that encodes speaker and emotion in its file names."""
    about = published()["corpora"][kind]
    codes: dict[str, str] = about["codes"]
    label_set = kind if kind in taxonomy.label_sets() else None
    utterances, others = [], 0
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in AUDIO or file.name.startswith("."):
            continue
        if not (match := _PATTERNS[kind].fullmatch(file.stem)):
            others += 1
            continue
        original = codes[match["code"].upper()]
        speaker = match["speaker"]
        utterances.append(
            Utterance(
                file=file,
                label=label_of(original, label_set),
                original=original,
                speaker=f"{kind}/{speaker}",
                sex=sex_of(speaker),
                corpus=kind,
                dimensions=None,
                split=None,
                language=about.get("language"),
            )
        )
    if not utterances:
        example = _EXAMPLES[kind]
        raise CorpusError(f"{kind}={folder}: no file is named like {example}: pass the folder that holds such files")
    notes = [f"{_files(others)} of other kinds or names left out"] if others else []
    return utterances, notes


def _crema_d_sexes(folder: Path) -> dict[str, str]:
    for table in (folder / "VideoDemographics.csv", folder.parent / "VideoDemographics.csv"):
        if table.is_file():
            rows = _rows(table, ",", ("ActorID", "Sex"))
            return {row["ActorID"]: row["Sex"].lower() for _, row in rows if row["Sex"].lower() in {"female", "male"}}
    return {}


def _read_nemo(folder: Path) -> tuple[list[Utterance], list[str]]:
    table = folder / "data.tsv"
    if not table.is_file():
        raise CorpusError(f"nemo={folder}: data.tsv is missing: pass the folder that holds it and samples")
    utterances, missing = [], 0
    for line, row in _rows(table, "\t", ("file_id", "emotion", "speaker_id", "gender")):
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
                sex=_SEXES.get(row["gender"].lower()),
                corpus="nemo",
                dimensions=None,
                split=None,
                language=published()["corpora"]["nemo"]["language"],
            )
        )
    if not utterances:
        raise CorpusError(f"nemo={folder}: samples has none of the files in data.tsv: unpack the recordings there")
    return utterances, [f"{_files(missing)} of data.tsv missing in samples"] if missing else []


def _read_csv(table: Path) -> tuple[list[Utterance], list[str]]:
    if not table.is_file():
        raise CorpusError(f"csv={table}: no such file: pass a table with the columns file, label and speaker")
    utterances: list[Utterance] = []
    unknown: Counter[str] = Counter()
    for line, row in _rows(table, ",", ("file", "label", "speaker")):
        try:
            utterance = _csv_utterance(table, row)
        except ValueError as error:
            raise CorpusError(f"{table}, line {line}: {error}") from error
        utterances.append(utterance)
        if utterance.original and utterance.label is None:
            unknown[utterance.original] += 1
    if not utterances:
        raise CorpusError(f"{table}: no rows after the header: add one for each file")
    shown = ", ".join(f"{label} ({count})" for label, count in unknown.items())
    notes = [f"labels without a counterpart among emotion2vec's: {shown}"] if unknown else []
    return utterances, notes


def _csv_utterance(table: Path, row: Mapping[str, str]) -> Utterance:
    """Returns the clip of a row; raises ValueError with the remedy if the row is invalid."""
    sex, part = row.get("sex", "").lower(), row.get("split", "").lower()
    if not row["file"] or not row["speaker"]:
        raise ValueError(f"the {'speaker' if row['file'] else 'file'} is empty: fill it in")
    if sex not in _SEXES:
        raise ValueError(f"the sex is {sex!r}: write female or male, or leave it empty")
    if part and part not in SPLITS:
        raise ValueError(f"the split is {part!r}: write {', '.join(SPLITS)}")
    dimensions = _dimensions([row.get(name, "") for name in DIMENSIONS])
    if not row["label"] and dimensions is None:
        raise ValueError("neither a label nor dimensions: add one of them, or delete the row")
    return Utterance(
        file=table.parent / row["file"],
        label=label_of(row["label"]),
        original=row["label"],
        speaker=f"{table.stem}/{row['speaker']}",
        sex=_SEXES[sex],
        corpus=table.stem,
        dimensions=dimensions,
        split=part or None,
        language=row.get("language") or None,
        known_as=_known_as(Path(row["file"])),
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


def _rows(table: Path, delimiter: str, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of the last line of each row, and its cells by column, stripped of blanks."""
    try:
        text = table.read_text("utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{table}: cannot be read ({error.strerror or error}): pass a readable file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{table}: not UTF-8: save it as UTF-8") from error
    # In a tab-separated transcript a quotation mark is an ordinary character.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if lacking := [column for column in columns if column not in header]:
            raise CorpusError(f"{table}, line 1: the header lacks {', '.join(lacking)}; it has {', '.join(header)}")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise CorpusError(
                    f"{table}, line {reader.line_num}: {len(cells)} cells, but {len(header)} columns: quote cells that "
                    f"contain a comma"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise CorpusError(f"{table}, line {reader.line_num}: {error}: save it as a plain table") from error

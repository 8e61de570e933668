"""Corpora of labelled speech: who says what with which emotion, and which speakers train, tune and test a model.

What their own labels mean is in taxonomy/labels.json, the rest of what is known of them in taxonomy/corpora.json.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from e2v_port import emotions
from e2v_port.config import DIMENSIONS
from e2v_port.emotions import Dimensions
from e2v_port.errors import CorpusError

__all__ = ["NAMES", "SPLITS", "Corpus", "Utterance", "chosen", "label_of", "read", "split"]

NAMES = ("ravdess", "emodb", "nemo", "crema-d", "csv")
SPLITS = ("train", "dev", "test")

# Shares of a csv's speakers that tune and test a model, where it does not say itself who does: the usual 70/15/15.
_SHARE = 0.15

_AUDIO = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male", "": None}

# Modality 03 (audio only), channel 01 (speech), emotion, intensity, sentence, repetition, actor.
_RAVDESS = re.compile(r"03-01-(?P<code>0[1-8])-0[12]-0[12]-0[12]-(?P<speaker>[0-9]{2})")
# Speaker, sentence, emotion, version; other copies have a prefix.
_EMODB = re.compile(r"(?:emodb_)?(?P<speaker>[0-9]{2})[ab][0-9]{2}(?P<code>[WLEAFTN])[a-z]?")
# Actor, sentence, emotion, intensity.
_CREMA_D = re.compile(r"(?P<speaker>[0-9]{4})_[A-Z]{3}_(?P<code>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}", re.I)


@dataclass(frozen=True)
class Utterance:
    """One clip of a corpus.

    Attributes:
        file: Where it lies; it may be missing or unreadable, which is noticed when it is read.
        label: One of emotion2vec's; None where the corpus' own label has no counterpart among them, or where there is
            none.
        original: The corpus' own label, e.g. `calm`; empty for a clip that has dimensions only.
        speaker: With the corpus' name in front, e.g. `ravdess/22`.
        sex: `female` or `male`; None where the corpus does not say.
        corpus: Its name.
        dimensions: What listeners said, 0 to 1; None where nobody was asked.
        split: `train`, `dev` or `test`, as a csv has it in its column; else None.
    """

    file: Path
    label: str | None
    original: str
    speaker: str
    sex: str | None
    corpus: str
    dimensions: Dimensions | None
    split: str | None


@dataclass(frozen=True)
class Corpus:
    """A corpus on this machine.

    Attributes:
        name: E.g. `ravdess`; of a csv, the file's name without its ending.
        kind: One of `NAMES`.
        path: The folder, or the csv.
        licence: Of the corpus; empty for a csv, which does not say.
        utterances: In the order of the files' names or of the table, byte-identical files once.
        mapping: Every label of the corpus, as in `original`, to `label`.
        notes: What was left out and what is missing, in whole sentences.
    """

    name: str
    kind: str
    path: Path
    licence: str
    utterances: tuple[Utterance, ...]
    mapping: Mapping[str, str | None]
    notes: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels its utterances have, in emotion2vec's order."""
        found = {utterance.label for utterance in self.utterances}
        return tuple(label for label in emotions.labels("emotion2vec") if label in found)


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("e2v_port.taxonomy").joinpath("corpora.json").read_text("utf-8"))
    return table


def label_of(original: str, label_set: str | None = None) -> str | None:
    """Returns what a corpus' own label is called by emotion2vec, e.g. `neutral` for calm.

    Args:
        original: As the corpus spells it.
        label_set: Of the label, one of `emotions.label_sets()`. Without it, any set may have the label, in upper or
            lower case; a letter that means one thing here and another there means nothing.

    Returns:
        One of emotion2vec's nine; None for a label without a counterpart among them, or of no set.
    """
    if label_set is not None:
        found = {emotions.meaning(original, label_set).name}
    else:
        found = _classes().get(original) or _classes().get(original.casefold()) or set()
    if len(found) != 1:
        return None
    (name,) = found
    name = _table()["counts_as"].get(name, name)
    return name if name in emotions.labels("emotion2vec") else None


@cache
def _classes() -> dict[str, set[str]]:
    """The classes that each spelling of any set can mean."""
    classes: dict[str, set[str]] = defaultdict(set)
    for label_set in emotions.label_sets():
        for label in emotions.labels(label_set):
            for spelling in {label, label.casefold() if len(label) > 1 else label}:
                classes[spelling].add(emotions.meaning(label, label_set).name)
    return dict(classes)


def read(spec: str) -> Corpus:
    """Reads which clips a corpus has.

    * `ravdess=FOLDER`: `03-01-EE-II-SS-RR-AA.wav`, in any folders below. Song and video are left out. Calm counts as
      neutral.
    * `emodb=FOLDER`: `03a01Fa.wav`. Boredom has no counterpart.
    * `nemo=FOLDER`: with its `data.tsv` and `samples`.
    * `crema-d=FOLDER`: `1001_DFA_ANG_XX.wav`, in any folders below. With the corpus' `VideoDemographics.csv` beside
      them or one folder up, the actors' sexes are known.
    * `csv=FILE`: a table, UTF-8, with a header. Columns `file` (relative to the table), `label` and `speaker`, and if
      known `sex` (female, male), `split` (train, dev, test), and `arousal`, `dominance` and `valence` (0 to 1); others
      are ignored. Labels are emotion2vec's, or any that `label_of` knows; a row may have dimensions alone.

    Of byte-identical files the first is kept: a clip must not be in training and test.

    Args:
        spec: A kind and a path, as above.

    Raises:
        CorpusError: The kind is unknown, nothing of it lies there, or a row of a table cannot be used. The message
            names the line.
    """
    kind, equals, place = spec.partition("=")
    if not equals or not place or kind not in NAMES:
        raise CorpusError(f"{spec}: no corpus: write NAME=PATH, NAME being one of {', '.join(NAMES)}")
    path = Path(place).expanduser()
    if kind == "csv":
        return _corpus(kind, path, *_read_csv(path))
    if not path.is_dir():
        raise CorpusError(f"{spec}: {path} is not a folder: name the one that {kind} was unpacked to")
    if kind == "nemo":
        utterances, notes = _read_nemo(path)
    elif kind == "ravdess":
        utterances, notes = _read_names(kind, path, _RAVDESS, lambda actor: "male" if int(actor) % 2 else "female")
    elif kind == "emodb":
        utterances, notes = _read_names(kind, path, _EMODB, _table()["corpora"][kind]["sexes"].get)
    else:
        sexes = _crema_d_sexes(path)
        utterances, notes = _read_names(kind, path, _CREMA_D, sexes.get)
        if not sexes:
            notes.append("VideoDemographics.csv is not there: the actors' sexes are unknown")
    return _corpus(kind, path, utterances, notes)


def _corpus(kind: str, path: Path, found: list[Utterance], notes: list[str]) -> Corpus:
    name, licence = (path.stem, "") if kind == "csv" else (kind, _table()["corpora"][kind]["licence"])
    utterances, copies = _once(found)
    if copies:
        shown = ", ".join(f"{copy.name} = {first.name}" for copy, first in copies[:3])
        more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
        notes = [*notes, f"{_files(len(copies))} left out, byte-identical to others: {shown}{more}"]
    mapping = {utterance.original: utterance.label for utterance in utterances if utterance.original}
    return Corpus(name, kind, path, licence, tuple(utterances), dict(sorted(mapping.items())), tuple(notes))


def _files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


def _once(utterances: list[Utterance]) -> tuple[list[Utterance], list[tuple[Path, Path]]]:
    """Leaves out files that equal an earlier one, and tells them with what they equal."""
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
    """Of the content; empty where it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError:
        return b""


def _read_names(
    kind: str, folder: Path, pattern: re.Pattern[str], sex_of: Callable[[str], str | None]
) -> tuple[list[Utterance], list[str]]:
    """Reads a corpus whose file names say everything."""
    codes: dict[str, str] = _table()["corpora"][kind]["codes"]
    utterances, others = [], 0
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() not in _AUDIO or file.name.startswith("."):
            continue
        if not (match := pattern.fullmatch(file.stem)):
            others += 1
            continue
        original = codes[match["code"].upper()]
        speaker = match["speaker"]
        label = label_of(original, kind)
        utterances.append(Utterance(file, label, original, f"{kind}/{speaker}", sex_of(speaker), kind, None, None))
    if not utterances:
        example = {"ravdess": "03-01-05-01-01-01-22.wav", "emodb": "03a01Fa.wav", "crema-d": "1001_DFA_ANG_XX.wav"}[
            kind
        ]
        raise CorpusError(f"{kind}={folder}: no file there is named like {example}: name the folder that holds them")
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
        raise CorpusError(f"nemo={folder}: there is no data.tsv: name the folder that holds it and samples")
    utterances, missing = [], 0
    for line, row in _rows(table, "\t", ("file_id", "emotion", "speaker_id", "gender")):
        file = folder / "samples" / row["file_id"]
        if not file.is_file():
            missing += 1
            continue
        if row["emotion"] not in emotions.labels("nemo"):
            raise CorpusError(f"{table}, line {line}: nEMO has no emotion {row['emotion']!r}: take its own data.tsv")
        label, speaker = label_of(row["emotion"], "nemo"), f"nemo/{row['speaker_id']}"
        utterances.append(
            Utterance(file, label, row["emotion"], speaker, _SEXES.get(row["gender"].lower()), "nemo", None, None)
        )
    if not utterances:
        raise CorpusError(f"nemo={folder}: samples holds none of the files in data.tsv: unpack the recordings there")
    return utterances, [f"{_files(missing)} of data.tsv missing in samples"] if missing else []


def _read_csv(table: Path) -> tuple[list[Utterance], list[str]]:
    if not table.is_file():
        raise CorpusError(f"csv={table}: there is no such file: name a table with the columns file, label and speaker")
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
        raise CorpusError(f"{table}: there is no row below the header: write one for each file")
    shown = ", ".join(f"{label} ({count})" for label, count in unknown.items())
    notes = [f"labels without a counterpart among emotion2vec's: {shown}"] if unknown else []
    return utterances, notes


def _csv_utterance(table: Path, row: Mapping[str, str]) -> Utterance:
    """Returns the utterance of a row; ValueError with the remedy for one that cannot be used."""
    sex, wanted = row.get("sex", "").lower(), row.get("split", "").lower()
    if not row["file"] or not row["speaker"]:
        raise ValueError(f"the {'speaker' if row['file'] else 'file'} is empty: name it")
    if sex not in _SEXES:
        raise ValueError(f"the sex is {sex!r}: write female or male, or nothing")
    if wanted and wanted not in SPLITS:
        raise ValueError(f"the split is {wanted!r}: write {', '.join(SPLITS)}")
    dimensions = _dimensions([row.get(name, "") for name in DIMENSIONS])
    if not row["label"] and dimensions is None:
        raise ValueError("neither a label nor dimensions: give one of them, or leave the row out")
    return Utterance(
        file=table.parent / row["file"],
        label=label_of(row["label"]),
        original=row["label"],
        speaker=f"{table.stem}/{row['speaker']}",
        sex=_SEXES[sex],
        corpus=table.stem,
        dimensions=dimensions,
        split=wanted or None,
    )


def _dimensions(cells: list[str]) -> Dimensions | None:
    if not any(cells):
        return None
    try:
        values = [float(cell) for cell in cells]
    except ValueError as error:
        raise ValueError(f"{', '.join(DIMENSIONS)} must be three numbers, or all empty, not {cells}") from error
    if not all(math.isfinite(value) and 0 <= value <= 1 for value in values):
        raise ValueError(f"{', '.join(DIMENSIONS)} are {values}: bring them to a scale of 0 to 1")
    return Dimensions(**dict(zip(DIMENSIONS, values, strict=True)))


def _rows(table: Path, delimiter: str, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Gives the number of each row's last line and its cells by column, without blanks around them."""
    try:
        text = table.read_text("utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{table}: cannot be read ({error.strerror or error}): pass a readable file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{table}: not UTF-8: save it as UTF-8") from error
    # In a transcript separated by tabs a quotation mark is just that.
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
                    f"hold a comma"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise CorpusError(f"{table}, line {reader.line_num}: {error}: write a plain table") from error


def split(
    corpora: Sequence[Corpus], dev: Collection[str] = (), test: Collection[str] = (), seed: int = 0
) -> dict[str, list[Utterance]]:
    """Divides corpora into `train`, `dev` and `test` so that no speaker is in two of them.

    A corpus is divided by the speakers given, if one of them is its own; else by the split in taxonomy/corpora.json; a
    csv by its split column, or else by a hash of its speakers' names, about 70, 15 and 15 of 100.

    Args:
        corpora: Of different names.
        dev: Speakers that tune, e.g. `ravdess/19`, or a corpus' name for all of its speakers.
        test: Speakers that test, likewise. Those of such a corpus who are in neither train.
        seed: Of the hash.

    Raises:
        CorpusError: Two corpora have one name, nobody is called like that, or a speaker would be in two splits.
    """
    _check_names(corpora)
    speakers = {corpus.name: sorted({utterance.speaker for utterance in corpus.utterances}) for corpus in corpora}
    given: dict[str, str] = {}
    for part, chosen in (("dev", dev), ("test", test)):
        for name in chosen:
            meant = speakers.get(name) or [name]
            if meant == [name] and not any(name in those for those in speakers.values()):
                read_ = ", ".join(speakers)
                raise CorpusError(f"no speaker is called {name}: write CORPUS/SPEAKER, or CORPUS for all; of {read_}")
            for speaker in meant:
                if given.setdefault(speaker, part) != part:
                    raise CorpusError(f"{speaker} would be in dev and test: name them in one of the two")
    parts: dict[str, list[Utterance]] = {part: [] for part in SPLITS}
    for corpus in corpora:
        if given.keys() & set(speakers[corpus.name]):
            part_of = {speaker: given.get(speaker, "train") for speaker in speakers[corpus.name]}
        elif corpus.kind == "csv":
            part_of = _csv_split(corpus, speakers[corpus.name], seed)
        else:
            own = _table()["corpora"][corpus.kind]["split"]
            known = {f"{corpus.kind}/{speaker}": part for part in ("dev", "test") for speaker in own[part]}
            part_of = {speaker: known.get(speaker, "train") for speaker in speakers[corpus.name]}
        for utterance in corpus.utterances:
            parts[part_of[utterance.speaker]].append(utterance)
    return parts


def chosen(corpora: Sequence[Corpus], part: str) -> dict[str, list[Utterance]]:
    """Returns the utterances of each corpus that are in `train`, `dev` or `test` by default, or `all`.

    Raises:
        CorpusError: As for `split`, or a corpus has none there.
    """
    _check_names(corpora)
    if part == "all":
        return {corpus.name: list(corpus.utterances) for corpus in corpora}
    utterances = split(corpora)[part]
    found = {
        corpus.name: [utterance for utterance in utterances if utterance.corpus == corpus.name] for corpus in corpora
    }
    for name, its in found.items():
        if not its:
            raise CorpusError(f"{name}: none of the {part} speakers is there: take all of them, or another split")
    return found


def _check_names(corpora: Sequence[Corpus]) -> None:
    for name, count in Counter(corpus.name for corpus in corpora).items():
        if count > 1:
            raise CorpusError(f"{count} corpora are called {name}: give each once, and rename tables of one name")


def _csv_split(corpus: Corpus, speakers: list[str], seed: int) -> dict[str, str]:
    part_of: dict[str, str] = {}
    if any(utterance.split for utterance in corpus.utterances):
        for utterance in corpus.utterances:
            if utterance.split is None:
                raise CorpusError(f"{corpus.path}: {utterance.file.name} has no split, others do: fill the column")
            if part_of.setdefault(utterance.speaker, utterance.split) != utterance.split:
                raise CorpusError(
                    f"{corpus.path}: {utterance.speaker} is in {part_of[utterance.speaker]} and {utterance.split}: "
                    f"give each speaker one split"
                )
        return part_of
    if len(speakers) < len(SPLITS):
        raise CorpusError(f"{corpus.path}: {len(speakers)} speakers cannot be divided into three: fill a column split")
    ranked = sorted(speakers, key=lambda speaker: hashlib.sha256(f"{seed}/{speaker}".encode()).digest())
    each = max(1, round(_SHARE * len(ranked)))
    return {speaker: "test" if i < each else "dev" if i < 2 * each else "train" for i, speaker in enumerate(ranked)}

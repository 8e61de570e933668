"""Corpora of labeled speech: their clips, and what their labels mean under emotion2vec's names.

taxonomy/labels.json maps the labels; taxonomy/corpora.json holds everything else about the published corpora.
"""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions

__all__ = ["INTENSITIES", "NAMES", "SPLITS", "Corpus", "Event", "Utterance", "label_of", "published"]

NAMES = (
    "ravdess",
    "emodb",
    "nemo",
    "crema-d",
    "emogator",
    "iemocap",
    "msp-podcast",
    "meld",
    "emo-emilia",
    "emobox",
    "zed",
    "csv",
)
SPLITS = ("train", "dev", "test")
INTENSITIES = ("normal", "strong")


@dataclass(frozen=True)
class Event:
    """An emotion with its place in a clip; the rest of the clip is neutral.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        label: Label under emotion2vec's names.
    """

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class Utterance:
    """One clip of a corpus.

    Attributes:
        file: Path of the audio; not checked until it is read.
        label: Label under emotion2vec's names; None if the corpus' label has no counterpart, or if there is none.
        original: Label as the corpus spells it, e.g. `calm`; empty for a clip with dimensions only.
        speaker: Speaker, prefixed with the corpus' name, e.g. `ravdess/22`.
        sex: `female` or `male`; None if unknown.
        corpus: Name of the corpus.
        dimensions: Listeners' ratings, 0 to 1; None if there are none.
        split: `train`, `dev` or `test`, from the column of a csv or as the corpus' authors split it; None otherwise.
        language: Language spoken, such as `German`; None if unknown.
        known_as: Speaker of a published corpus that the file's name names, such as `emodb/03` for `03a01Fa.wav`; None
            if it names none. A copy of a corpus is recognized by it, whatever was done to its sound.
        events: Which emotion appears when, in order and without overlap; None for a corpus that only labels whole
            clips.
        text: What is said, as the corpus writes it; None if it does not.
        intensity: `normal` or `strong`, as the emotion was meant to be acted; None if unknown.
    """

    file: Path
    label: str | None
    original: str
    speaker: str
    sex: str | None
    corpus: str
    dimensions: Dimensions | None
    split: str | None
    language: str | None = None
    known_as: str | None = None
    events: tuple[Event, ...] | None = None
    text: str | None = None
    intensity: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A corpus on this machine.

    Attributes:
        name: Name, e.g. `ravdess`; for a csv, its file name without the extension; for EmoBox, with corpus and fold,
            e.g. `emobox-iemocap-1`.
        kind: One of `NAMES`.
        path: Folder of the corpus, or the csv.
        licence: License of the corpus; empty for a csv, where it is unknown.
        utterances: Clips in the order of the file names or of the table; byte-identical files appear once.
        mapping: Label under emotion2vec's names of each label of the corpus, as in `label` and `original`.
        notes: Remarks about clips left out and missing files, as sentences.
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
        """Labels that occur in the corpus, in emotion2vec's order."""
        present = {utterance.label for utterance in self.utterances}
        return tuple(label for label in taxonomy.labels("emotion2vec") if label in present)


@cache
def published() -> dict[str, Any]:
    """Returns taxonomy/corpora.json: licenses, codes of file names, and splits of the published corpora."""
    table: dict[str, Any] = json.loads(files("e2v_port.taxonomy").joinpath("corpora.json").read_text("utf-8"))
    return table


def label_of(original: str, label_set: str | None = None) -> str | None:
    """Returns emotion2vec's name for a label of a corpus, e.g. `neutral` for calm.

    Args:
        original: Label as the corpus spells it.
        label_set: Label set of the label, one of `taxonomy.label_sets()`. By default all sets are searched, ignoring
            case; a letter with different meanings in different sets has no counterpart.

    Returns:
        One of emotion2vec's nine labels; None for a label without a counterpart, or one that no set has.
    """
    if label_set is not None:
        meanings = {taxonomy.meaning(original, label_set).name}
    else:
        meanings = _classes().get(original) or _classes().get(original.casefold()) or set()
    if len(meanings) != 1:
        return None
    (name,) = meanings
    name = published()["counts_as"].get(name, name)
    return name if name in taxonomy.labels("emotion2vec") else None


@cache
def _classes() -> dict[str, set[str]]:
    """Returns the meanings of each spelling in any label set."""
    classes: dict[str, set[str]] = defaultdict(set)
    for label_set in taxonomy.label_sets():
        for label in taxonomy.labels(label_set):
            for spelling in {label, label.casefold() if len(label) > 1 else label}:
                classes[spelling].add(taxonomy.meaning(label, label_set).name)
    return dict(classes)

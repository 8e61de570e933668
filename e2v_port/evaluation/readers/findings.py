"""What a reader finds in a corpus, and the remarks about what it leaves out: counted and named."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions
from e2v_port.evaluation.datasets import SPLITS, Utterance, label_of

__all__ = ["NO_RATINGS", "SEXES", "UNREADABLE", "Findings", "count_files", "named", "rated", "without_counterpart"]

SEXES = {"female": "female", "f": "female", "male": "male", "m": "male", "": None}

# Reasons that several readers have.
UNREADABLE = "lines left out, as they cannot be read"
NO_RATINGS = "clips whose ratings cannot be read, or are outside their scale"

_SHOWN = 3


class Findings:
    """The clips that a reader finds, and what it leaves out.

    Args:
        corpus: Name of the corpus.
        speakers: Name that its speakers are prefixed with; the corpus' by default.
        label_set: Label set of its labels; all sets by default.

    Attributes:
        utterances: Clips so far.
    """

    def __init__(self, corpus: str, *, speakers: str | None = None, label_set: str | None = None) -> None:
        self.utterances: list[Utterance] = []
        self._corpus = corpus
        self._speakers = speakers or corpus
        self._label_set = label_set
        self._left_out: dict[str, list[str]] = defaultdict(list)

    def add(
        self,
        file: Path,
        original: str,
        speaker: str,
        *,
        sex: str | None = None,
        dimensions: Dimensions | None = None,
        split: str | None = None,
        language: str | None = None,
        known_as: str | None = None,
        text: str | None = None,
    ) -> None:
        """Adds a clip: see `Utterance`. The speaker has no prefix yet.

        A label that means no agreement, such as IEMOCAP's `xxx`, is no reference: the clip has no label.
        """
        known = self._label_set is None or original in taxonomy.labels(self._label_set)
        label = label_of(original, self._label_set) if known else None
        self.utterances.append(
            Utterance(
                file=file,
                label=None if label == "unknown" else label,
                original=original,
                speaker=f"{self._speakers}/{speaker}",
                sex=sex,
                corpus=self._corpus,
                dimensions=dimensions,
                split=split,
                language=language,
                known_as=known_as,
                text=text,
            )
        )

    def remark(self, reason: str, name: str) -> None:
        """Counts something that is left out or unusual, by the reason, and remembers its name."""
        self._left_out[reason].append(name)

    @property
    def notes(self) -> list[str]:
        """A sentence for each reason, for labels without a counterpart, and about official splits."""
        notes = [f"{reason} ({len(names)}): {named(names)}" for reason, names in self._left_out.items()]
        notes += without_counterpart(Counter(each.original for each in self.utterances if each.label is None))
        return notes + self._of_splits()

    def _of_splits(self) -> list[str]:
        parts: dict[str, set[str]] = defaultdict(set)
        for each in self.utterances:
            if each.split:
                parts[each.speaker].add(each.split)
        shared = [speaker for speaker, found in parts.items() if len(found) > 1]
        if not shared:
            return []
        return [
            f"speakers who are in more than one of {', '.join(SPLITS)}, as published ({len(shared)}): {named(shared)}"
        ]


def without_counterpart(counts: Mapping[str, int]) -> list[str]:
    """Returns a sentence about labels that no model can give, by their number of clips; none without such labels."""
    shown = ", ".join(f"{label or 'no label'} ({count})" for label, count in counts.items())
    return [f"labels without a counterpart among emotion2vec's: {shown}"] if counts else []


def count_files(count: int) -> str:
    """Returns a number of files in words, e.g. `1 file`."""
    return f"{count} file{'' if count == 1 else 's'}"


def named(names: Iterable[str]) -> str:
    """Returns the first names of a list, each once, and how many more there are."""
    different = [*dict.fromkeys(names)]
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return ", ".join(different[:_SHOWN]) + more


def rated(cells: Sequence[object], low: float, high: float) -> Dimensions | None:
    """Returns ratings on a scale as dimensions.

    Args:
        cells: Arousal, dominance and valence, as numbers or as text.
        low: Lowest value of the scale, which becomes 0.
        high: Highest value of the scale, which becomes 1.

    Returns:
        The dimensions; None if a cell is no number or outside the scale.
    """
    try:
        arousal, dominance, valence = ((float(str(cell)) - low) / (high - low) for cell in cells)
    except ValueError:
        return None
    if not all(0 <= value <= 1 for value in (arousal, dominance, valence)):
        return None
    return Dimensions(arousal=arousal, dominance=dominance, valence=valence)

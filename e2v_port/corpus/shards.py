"""Shards: clips that become one file of rows, and the counts of these rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from e2v_port.corpus.cutting import NO_SPEECH
from e2v_port.corpus.sources import Clip

if TYPE_CHECKING:
    pass


__all__ = ["ABOUT", "Shard", "Tally"]

ABOUT = b"e2v_port"  # key in the schema metadata of a shard: its own key and its tally, as JSON


@dataclass(frozen=True)
class Shard:
    """Clips whose rows form one file. They go through the models together, and without any others.

    Attributes:
        number: Number of the shard, from 0.
        first: Number of its first clip in the source.
        clips: The clips, in order.
        key: Hash of everything that the rows depend on.
    """

    number: int
    first: int
    clips: Sequence[Clip]
    key: str


@dataclass
class Tally:
    """Counts over rows.

    Attributes:
        clips: Number of clips.
        rows: Number of rows.
        seconds: Seconds of audio in all readable clips.
        labels: Number of rows by label.
        errors: Number of clips by the reason why they could not be judged.
    """

    clips: int
    rows: int
    seconds: float
    labels: Counter[str]
    errors: Counter[str]

    @classmethod
    def none(cls) -> "Tally":
        """Returns an empty tally."""
        return cls(0, 0, 0.0, Counter(), Counter())

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Tally":
        """Returns a tally from its JSON, made with `vars`."""
        return cls(**{**values, "labels": Counter(values["labels"]), "errors": Counter(values["errors"])})

    def add(self, other: "Tally") -> None:
        """Adds the counts of another tally."""
        self.clips += other.clips
        self.rows += other.rows
        self.seconds += other.seconds
        self.labels += other.labels
        self.errors += other.errors

    @property
    def failed(self) -> int:
        """Number of clips that could not be judged, not counting those without speech."""
        return sum(self.errors.values()) - self.errors[NO_SPEECH]

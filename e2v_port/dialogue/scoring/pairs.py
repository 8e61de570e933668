"""Pairs of clips in which one person says the same words: in two tones, or twice in one."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from e2v_port.dialogue.examples import Example
from e2v_port.dialogue.scoring.similarity import said
from e2v_port.evaluation.metrics import Integers
from e2v_port.llm.language import Turn

__all__ = ["Pairs", "pairs"]


@dataclass(frozen=True)
class Pairs:
    """Pairs of clips, by index.

    Attributes:
        other: Pairs in different tones, [pairs, 2].
        same: Pairs in the same tone and with the same intensity, [pairs, 2].
    """

    other: Integers
    same: Integers


def pairs(examples: Sequence[Example]) -> Pairs:
    """Finds all pairs of clips of the same speaker, with the same words, after the same was said before."""
    cells: dict[tuple[str, tuple[str, ...], tuple[Turn, ...]], list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        cells[example.speaker, said(example.words), example.context].append(index)
    other, same = [], []
    for cell in cells.values():
        for first, second in combinations(cell, 2):
            a, b = examples[first], examples[second]
            if a.emotion != b.emotion:
                other.append((first, second))
            elif a.intensity == b.intensity:
                same.append((first, second))
    return Pairs(*(np.array(found, np.int64).reshape(-1, 2) for found in (other, same)))

"""Renames as a table: every source tensor matches exactly one rule, every target tensor is written once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.layout import Shape

__all__ = ["Piece", "Rule", "channels_last", "heads", "keep", "plan", "squeeze", "thirds"]

Array = NDArray[Any]
Change = Callable[[Array], Sequence[Array]]


def keep(array: Array) -> Sequence[Array]:
    """The tensor as it is."""
    return [array]


def channels_last(array: Array) -> Sequence[Array]:
    """A convolution [out, in, kernel] -> [out, kernel, in]."""
    return [np.swapaxes(array, 1, 2)]


def thirds(array: Array) -> Sequence[Array]:
    """Stacked query, key and value rows -> the three of them."""
    return np.split(array, 3)


def squeeze(array: Array) -> Sequence[Array]:
    """[1, ...] -> [...]; ValueError for more than one."""
    return [array.reshape(array.shape[1:])]


def heads(array: Array) -> Sequence[Array]:
    """[..., heads, 1, 1] -> [heads]; ValueError where another axis is longer than one."""
    return [array.reshape(array.shape[-3])]


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        source: Full name of a source tensor; `{i}` stands for a number, `{*}` for anything, `[...]` may be absent.
        targets: Names of what it becomes, with the same `{i}` or `{i-1}`; none if it is dropped.
        change: How it becomes that.
        why: For a dropped tensor, why it is not needed.
    """

    source: str
    targets: tuple[str, ...] = ()
    change: Change = keep
    why: str = ""

    def match(self, name: str) -> tuple[str, ...] | None:
        """Returns the target names for a source tensor of this name, or None if the rule is not about it."""
        pattern = re.escape(self.source)
        for written, meant in ((r"\{i\}", r"(?P<i>\d+)"), (r"\{\*\}", ".*"), (r"\[", "(?:"), (r"\]", ")?")):
            pattern = pattern.replace(written, meant)
        found = re.fullmatch(pattern, name)
        if found is None:
            return None
        i = int(found.groupdict().get("i", 0))
        return tuple(target.replace("{i}", str(i)).replace("{i-1}", str(i - 1)) for target in self.targets)


@dataclass(frozen=True)
class Piece:
    """One step of a conversion: a source tensor, what it becomes, and how."""

    source: str
    targets: tuple[str, ...]
    change: Change

    def convert(self, array: Array) -> dict[str, Array]:
        """Returns the target tensors made of the source tensor."""
        return dict(zip(self.targets, self.change(array), strict=True))


def plan(rules: Iterable[Rule], sources: Mapping[str, Shape]) -> tuple[list[Piece], dict[str, Shape], list[str]]:
    """Matches every source tensor with the table.

    Args:
        rules: The table.
        sources: Name and shape of each source tensor.

    Returns:
        The steps (without the dropped tensors), name and shape of every target, and one line for each problem: a
        source that no rule or more than one rule is about, a target that is written twice, a source whose shape
        its rule cannot work on.
    """
    table = list(rules)
    pieces: list[Piece] = []
    targets: dict[str, Shape] = {}
    problems: list[str] = []
    for name, shape in sources.items():
        matches = [(rule, names) for rule in table if (names := rule.match(name)) is not None]
        if len(matches) != 1:
            rivals = " and ".join(rule.source for rule, _ in matches)
            problems.append(f"{name} {list(shape)} matches {rivals or 'no rule'}")
            continue
        rule, names = matches[0]
        if not names:
            continue
        piece = Piece(name, names, rule.change)
        try:
            # A broadcast zero has the shape and none of the memory.
            made = {
                target: array.shape for target, array in piece.convert(np.broadcast_to(np.float32(0), shape)).items()
            }
        except (ValueError, IndexError):
            problems.append(f"{name} {list(shape)} cannot become {', '.join(names)}")
            continue
        problems += [f"{target} would be written twice, by {name} too" for target in made if target in targets]
        targets |= made
        pieces.append(piece)
    return pieces, targets, problems

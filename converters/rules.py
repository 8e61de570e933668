"""Renames as a table: every source tensor matches exactly one rule, every target tensor is written once."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.config import Architecture, Label
from e2v_port.layout import Shape

__all__ = [
    "Family",
    "Piece",
    "Rule",
    "batch_norm",
    "channels_last",
    "heads",
    "keep",
    "plan",
    "pointwise",
    "squeeze",
    "thirds",
    "transposed",
    "weight_norm",
]

Array = NDArray[Any]


def keep(array: Array) -> Sequence[Array]:
    """The tensor as it is."""
    return [array]


def channels_last(array: Array) -> Sequence[Array]:
    """A convolution [out, in, kernel] -> [out, kernel, in]."""
    return [np.swapaxes(array, 1, 2)]


def transposed(array: Array) -> Sequence[Array]:
    """A matrix on its side; ValueError for what is none."""
    rows, columns = array.shape
    return [array.T.reshape(columns, rows)]


def pointwise(array: Array) -> Sequence[Array]:
    """A convolution of one point [out, in, 1, 1] -> [out, in]; ValueError for a larger one."""
    return [array.reshape(array.shape[:2])]


def thirds(array: Array) -> Sequence[Array]:
    """Stacked query, key and value rows -> the three of them."""
    return np.split(array, 3)


def squeeze(array: Array) -> Sequence[Array]:
    """[1, ...] -> [...]; ValueError for more than one."""
    return [array.reshape(array.shape[1:])]


def heads(array: Array) -> Sequence[Array]:
    """[..., heads, 1, 1] -> [heads]; ValueError where another axis is longer than one."""
    return [array.reshape(array.shape[-3])]


def weight_norm(direction: Array, length: Array) -> Sequence[Array]:
    """Folds torch's weight norm over axis 2, direction * length / |direction|, and puts channels last."""
    size = np.sqrt(np.square(direction, dtype=np.float64).sum(axis=(0, 1), keepdims=True))
    return channels_last((direction * (length / np.maximum(size, np.finfo(np.float64).tiny))).astype(np.float32))


def batch_norm(weight: Array, gain: Array, shift: Array, mean: Array, variance: Array) -> Sequence[Array]:
    """Folds a convolution [out, in, k, k] and torch's batch norm behind it into weights [out, k, k, in] and biases."""
    gain, shift, mean, variance = np.stack([gain, shift, mean, variance]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # of a negative variance; what is not finite is told when it is written
        scale = gain / np.sqrt(variance + 1e-5)
    folded = np.moveaxis(weight * scale[:, None, None, None], 1, 3)
    return [folded.astype(np.float32), (shift - mean * scale).astype(np.float32)]


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        source: Full name of a source tensor; `{i}` stands for a number, `{*}` for anything, `[...]` may be absent.
        targets: Names of what it becomes, with the same `{i}` or `{i-1}`; none if it is dropped.
        change: How it becomes that. For a dropped tensor: what makes sure that it may be dropped; it returns nothing,
            or raises CheckpointError.
        beside: Other source tensors that the change needs, written like `source` and with the same `{i}`.
        why: For a dropped tensor, why it is not needed.
    """

    source: str
    targets: tuple[str, ...] = ()
    change: Callable[..., Sequence[Array]] = keep
    beside: tuple[str, ...] = ()
    why: str = ""

    def match(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Returns the targets of a tensor of this name and what is beside it; None if the rule is not about it."""
        found = _match(self.source, name)
        if found is None:
            return None
        i = found.groupdict().get("i", "0")
        targets = (target.replace("{i}", i).replace("{i-1}", str(int(i) - 1)) for target in self.targets)
        return tuple(targets), tuple(other.replace("{i}", i) for other in self.beside)


def _match(pattern: str, name: str) -> re.Match[str] | None:
    pattern = re.escape(pattern)
    for written, meant in ((r"\{i\}", r"(?P<i>\d+)"), (r"\{\*\}", ".*"), (r"\[", "(?:"), (r"\]", ")?")):
        pattern = pattern.replace(written, meant)
    return re.fullmatch(pattern, name)


@dataclass(frozen=True)
class Family:
    """One architecture, as the converter sees it.

    Attributes:
        name: As in the runtimes' file names.
        rules: Its table.
        describe: Returns sizes and labels, given the checkpoint's settings, its tokens, the settings of its
            preprocessor (None where there is no such file), name and shape of each target tensor, and whom to tell what
            was inferred rather than read. Raises CheckpointError for what the runtimes do not compute.
    """

    name: str
    rules: tuple[Rule, ...]
    describe: Callable[
        [
            Mapping[str, Any] | None,
            Sequence[str],
            Mapping[str, Any] | None,
            Mapping[str, Shape],
            Callable[[str], None],
        ],
        tuple[Architecture, tuple[Label, ...]],
    ]


@dataclass(frozen=True)
class Piece:
    """One step of a conversion: source tensors, what they become, and how."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    change: Callable[..., Sequence[Array]]

    def convert(self, *arrays: Array) -> dict[str, Array]:
        """Returns the target tensors made of the source tensors."""
        return dict(zip(self.targets, self.change(*arrays), strict=True))


def plan(rules: Iterable[Rule], sources: Mapping[str, Shape]) -> tuple[list[Piece], dict[str, Shape], list[str]]:
    """Matches every source tensor with the table.

    Args:
        rules: The table.
        sources: Name and shape of each source tensor.

    Returns:
        The steps (without the dropped tensors), name and shape of every target, and one line for each problem: a
        source that no rule or more than one rule is about, a target that is written twice, a source whose shape
        its rule cannot work on or that lacks the other one its rule needs.
    """
    table = list(rules)
    pieces: list[Piece] = []
    targets: dict[str, Shape] = {}
    problems: list[str] = []
    helpers = {name for name in sources for rule in table for other in rule.beside if _match(other, name)}
    used: set[str] = set()
    for name, shape in sources.items():
        if name in helpers:
            continue
        matches = [(rule, *found) for rule in table if (found := rule.match(name)) is not None]
        if len(matches) != 1:
            rivals = " and ".join(rule.source for rule, _, _ in matches)
            problems.append(f"{name} {list(shape)} matches {rivals or 'no rule'}")
            continue
        rule, names, wanted = matches[0]
        beside = [[other for other in helpers if _match(pattern, other)] for pattern in wanted]
        if missing := [pattern for pattern, others in zip(wanted, beside, strict=True) if len(others) != 1]:
            problems.append(f"{name} {list(shape)} needs one {' and one '.join(missing)} beside it")
            continue
        others = [other for (other,) in beside]
        used.update(others)
        piece = Piece((name, *others), names, rule.change)
        if not names:
            if rule.change is not keep:
                pieces.append(piece)
            continue
        try:
            # A broadcast zero has the shape and none of the memory.
            zeros = [np.broadcast_to(np.float32(0), sources[each]) for each in piece.sources]
            made = {target: array.shape for target, array in piece.convert(*zeros).items()}
        except (ValueError, IndexError):
            shapes = " and ".join(f"{each} {list(sources[each])}" for each in piece.sources)
            problems.append(f"{shapes} cannot become {', '.join(names)}")
            continue
        problems += [f"{target} would be written twice, by {name} too" for target in made if target in targets]
        targets |= made
        pieces.append(piece)
    problems += [f"{name} {list(sources[name])} belongs to a tensor that is not there" for name in helpers - used]
    return pieces, targets, problems

"""Renames as a table: every source tensor matches exactly one rule, every target tensor is written once."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape

__all__ = [
    "Converter",
    "Described",
    "Dialect",
    "Piece",
    "Rule",
    "batch_norm",
    "channels_last",
    "converter",
    "diagonal",
    "dialect",
    "heads",
    "keep",
    "plan",
    "pointwise",
    "squeeze",
    "thirds",
    "transposed",
    "under",
    "unmatched",
    "weight_norm",
]

# Modules in published/ for checkpoints of a layout of their own, each with a function `dialect(shapes, settings)`.
DIALECTS = ("odyssey", "vox_profile")

Array = NDArray[Any]


def keep(array: Array) -> Sequence[Array]:
    """Keeps a tensor as it is."""
    return [array]


def channels_last(array: Array) -> Sequence[Array]:
    """Reorders a convolution, [out, in, kernel] -> [out, kernel, in]."""
    return [np.swapaxes(array, 1, 2)]


def transposed(array: Array) -> Sequence[Array]:
    """Transposes a matrix; ValueError for anything else."""
    rows, columns = array.shape
    return [array.T.reshape(columns, rows)]


def pointwise(array: Array) -> Sequence[Array]:
    """Flattens a convolution of one point, [out, in, 1, 1] -> [out, in]; ValueError for a larger one."""
    return [array.reshape(array.shape[:2])]


def thirds(array: Array) -> Sequence[Array]:
    """Splits stacked query, key and value rows."""
    return np.split(array, 3)


def squeeze(array: Array) -> Sequence[Array]:
    """Removes the first axis, [1, ...] -> [...]; ValueError if it is longer than one."""
    return [array.reshape(array.shape[1:])]


def heads(array: Array) -> Sequence[Array]:
    """Flattens [..., heads, 1, 1] -> [heads]; ValueError if another axis is longer than one."""
    return [array.reshape(array.shape[-3])]


def diagonal(*arrays: Array) -> Sequence[Array]:
    """Puts matrices on the diagonal of a larger one, so that each takes its own share of the numbers."""
    rows, columns = np.sum([array.shape for array in arrays], 0)
    whole = np.zeros((rows, columns), np.float32)
    row = column = 0
    for array in arrays:
        whole[row : row + array.shape[0], column : column + array.shape[1]] = array
        row, column = row + array.shape[0], column + array.shape[1]
    return [whole]


def weight_norm(direction: Array, length: Array) -> Sequence[Array]:
    """Folds torch's weight norm over axis 2, direction * length / |direction|, and moves channels last."""
    size = np.sqrt(np.square(direction, dtype=np.float64).sum(axis=(0, 1), keepdims=True))
    return channels_last((direction * (length / np.maximum(size, np.finfo(np.float64).tiny))).astype(np.float32))


def batch_norm(weight: Array, gain: Array, shift: Array, mean: Array, variance: Array) -> Sequence[Array]:
    """Folds a convolution [out, in, k, k] and the batch norm after it into weights [out, k, k, in] and biases."""
    gain, shift, mean, variance = np.stack([gain, shift, mean, variance]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # from a negative variance; writing reports values that are not finite
        scale = gain / np.sqrt(variance + 1e-5)
    folded = np.moveaxis(weight * scale[:, None, None, None], 1, 3)
    return [folded.astype(np.float32), (shift - mean * scale).astype(np.float32)]


@dataclass(frozen=True)
class Rule:
    """One row of a table.

    Attributes:
        source: Full name of a source tensor; `{i}` stands for a number, `{*}` for anything, `[...]` may be absent.
        targets: Names of the target tensors, with the same `{i}` or `{i-1}`; none for a tensor that is dropped.
        change: Computes the targets from the source. For a dropped tensor it checks that dropping is safe, and returns
            an empty sequence or raises CheckpointError.
        beside: Other source tensors that the change needs, written like `source` and with the same `{i}`.
        why: Reason for dropping a tensor.
    """

    source: str
    targets: tuple[str, ...] = ()
    change: Callable[..., Sequence[Array]] = keep
    beside: tuple[str, ...] = ()
    why: str = ""

    def match(self, name: str) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
        """Returns the targets and the other sources of a tensor of this name; None if the rule does not match it."""
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
class Converter:
    """One family, as the conversion sees it; each module of a family has one, as `CONVERTER`.

    Attributes:
        rules: Table of renames.
        recognize: Returns whether a checkpoint is of this family, given the names of its tensors and its settings.
        describe: Returns sizes and labels, given the checkpoint's settings, its tokens, the settings of its
            preprocessor (None where there is no such file), name and shape of each target tensor, and a function to
            report to what was inferred rather than read. Raises CheckpointError for what the runtimes cannot compute.
        sizes: Sizes that a synthetic checkpoint can have, by name.
        make: Writes a synthetic checkpoint of some sizes to a folder, `make(sizes, folder, seed=0)`, and returns the
            folder. Needs torch.
        others: Names of the numbers in each further output of its models.
        text: Names of weight and bias of the layer that scores a vocabulary, from which words can be read; None for a
            family without one.
    """

    rules: tuple[Rule, ...]
    recognize: Callable[[Iterable[str], Mapping[str, Any] | None], bool]
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
    sizes: Mapping[str, Architecture]
    make: Callable[..., Path]
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    text: tuple[str, str] | None = None


def converter(family: str) -> Converter:
    """Returns the converter of a registered family."""
    found: Converter = import_module(f"e2v_port.converters.{family}").CONVERTER
    return found


@dataclass(frozen=True)
class Described:
    """What a checkpoint becomes.

    Attributes:
        architecture: Sizes of the network.
        labels: Labels of its outputs.
        others: Names of the numbers in each further output.
    """

    architecture: Architecture
    labels: tuple[Label, ...]
    others: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Dialect:
    """How one checkpoint becomes a model of a family whose own library did not write it.

    Attributes:
        family: Family of the model, as in `registry.FAMILIES`.
        rules: Table of renames, for this checkpoint.
        describe: Returns sizes, labels and further outputs; raises CheckpointError for what the runtimes cannot
            compute.
    """

    family: str
    rules: tuple[Rule, ...]
    describe: Callable[[], Described]


def dialect(shapes: Mapping[str, Shape], settings: Mapping[str, Any] | None) -> Dialect | None:
    """Returns the dialect of a checkpoint, given name and shape of its tensors and its config.json; None without one.

    Raises:
        CheckpointError: The checkpoint is of a dialect, but lacks its config.json or another tensor that shows a size.
    """
    modules = (import_module(f"e2v_port.converters.published.{name}") for name in DIALECTS)
    return next((found for module in modules if (found := module.dialect(shapes, settings))), None)


def under(rules: Iterable[Rule], usual: str, prefix: str) -> tuple[Rule, ...]:
    """Returns the renames of an encoder that is a part of another network.

    Args:
        rules: Renames of the encoder as its own library saves it. Those of other parts are left out.
        usual: How the names of the encoder begin there, as a pattern, e.g. `[wavlm.]`.
        prefix: How they begin here.
    """
    return tuple(
        replace(
            rule,
            source=rule.source.replace(usual, prefix, 1),
            beside=tuple(other.replace(usual, prefix, 1) for other in rule.beside),
        )
        for rule in rules
        if rule.source.startswith(usual)
    )


@dataclass(frozen=True)
class Piece:
    """One step of a conversion: source tensors, target tensors and the change between them."""

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    change: Callable[..., Sequence[Array]]

    def convert(self, *arrays: Array) -> dict[str, Array]:
        """Computes the target tensors from the source tensors."""
        return dict(zip(self.targets, self.change(*arrays), strict=True))


def plan(rules: Iterable[Rule], sources: Mapping[str, Shape]) -> tuple[list[Piece], dict[str, Shape], list[str]]:
    """Matches every source tensor with the table.

    Args:
        rules: Table of rules.
        sources: Name and shape of each source tensor.

    Returns:
        Steps (without dropped tensors); name and shape of every target; and one line for each problem: a source that
        matches no rule or several, a target that is written twice, a source of a shape its rule cannot change, or one
        without the other source its rule needs.
    """
    table = list(rules)
    pieces: list[Piece] = []
    targets: dict[str, Shape] = {}
    problems: list[str] = []
    helpers = _helpers(table, sources)
    helping = {name for names in helpers.values() for name in names}
    used: set[str] = set()
    for name, shape in sources.items():
        if name in helping:
            continue
        matches = [(rule, *found) for rule in table if (found := rule.match(name)) is not None]
        if len(matches) != 1:
            rivals = " and ".join(rule.source for rule, _, _ in matches)
            problems.append(f"{name} {list(shape)} matches {rivals or 'no rule'}")
            continue
        rule, names, wanted = matches[0]
        beside = [helpers[pattern] for pattern in wanted]
        if missing := [pattern for pattern, others in zip(wanted, beside, strict=True) if len(others) != 1]:
            problems.append(f"{name} {list(shape)} needs one {' and one '.join(missing)}")
            continue
        others = [other for (other,) in beside]
        used.update(others)
        piece = Piece((name, *others), names, rule.change)
        if not names:
            if rule.change is not keep:
                pieces.append(piece)
            continue
        try:
            # A broadcast zero has the shape but takes no memory.
            zeros = [np.broadcast_to(np.float32(0), sources[each]) for each in piece.sources]
            made = {target: array.shape for target, array in piece.convert(*zeros).items()}
        except (ValueError, IndexError):
            shapes = " and ".join(f"{each} {list(sources[each])}" for each in piece.sources)
            problems.append(f"{shapes} cannot become {', '.join(names)}")
            continue
        problems += [f"{target} would be written twice, by {name} too" for target in made if target in targets]
        targets |= made
        pieces.append(piece)
    problems += [f"{name} {list(sources[name])} belongs to a tensor that is missing" for name in helping - used]
    return pieces, targets, problems


def unmatched(rules: Iterable[Rule], sources: Mapping[str, Shape]) -> dict[str, Shape]:
    """Returns the source tensors that no rule of a table matches or needs beside others."""
    table = list(rules)
    helping = {name for names in _helpers(table, sources).values() for name in names}
    return {
        name: shape
        for name, shape in sources.items()
        if name not in helping and all(rule.match(name) is None for rule in table)
    }


def _helpers(rules: Iterable[Rule], sources: Iterable[str]) -> defaultdict[str, list[str]]:
    """Returns the source tensors that the changes of others need, by the pattern that asks for them, with its `{i}`."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for pattern in dict.fromkeys(other for rule in rules for other in rule.beside):
        for name in sources:
            if match := _match(pattern, name):
                found[pattern.replace("{i}", match.groupdict().get("i", "0"))].append(name)
    return found

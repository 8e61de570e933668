"""Heads as data: what a model computes between its frames and its outputs, as a list of named operations."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from e2v_port.architectures.shapes import Shape, is_size, linear, norm

__all__ = [
    "NORM_EPS",
    "Branch",
    "Step",
    "check_steps",
    "linear_head",
    "step_operations",
    "step_tensors",
    "width_after",
]

OPERATIONS = ("linear", "norm", "clip_norm", "relu", "tanh", "gelu", "sigmoid")
NORM_EPS = 1e-5  # of both norms: torch's default, which all known heads keep
RESERVED = {"weight", "bias", "means", "others"}  # names inside `head` that belong to something else
MAX_STEPS = 32  # far more than any known head has


@dataclass(frozen=True)
class Step:
    """One operation on frames [T, C] or on an embedding [C].

    Attributes:
        op: `linear`: a linear layer, which is also a convolution of one frame. `norm`: LayerNorm over the features.
            `clip_norm`: scales frames to zero mean and unit variance over time and features together, without weights.
            `relu`, `tanh`, `gelu` (exact) and `sigmoid`: of each number.
        name: Where the tensors of `linear` and `norm` are: NAME.weight and NAME.bias inside the part of the model that
            the step belongs to (an identifier, as digits would name rows of a list to MLX); empty for `weight` and
            `bias` of the part itself.
        width: Numbers that `linear` makes of each frame or embedding; 0 for the other operations.
        bias: Whether `linear` has a bias.
    """

    op: str
    name: str = ""
    width: int = 0
    bias: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for values that no step has: they come from files."""
        if self.op not in OPERATIONS:
            raise ValueError(f"an operation of a head is {self.op!r}; known: {', '.join(OPERATIONS)}")
        sized = is_size(self.width) if self.op == "linear" else self.width == 0
        named = type(self.name) is str and self.name not in RESERVED and (not self.name or self.name.isidentifier())
        named = named and (self.op in {"linear", "norm"} or not self.name)
        if not (sized and named and type(self.bias) is bool):
            raise ValueError(f"a step of a head is {self!r}")

    @classmethod
    def many(cls, values: Iterable[dict[str, Any]]) -> tuple[Self, ...]:
        """Builds steps from what `dataclasses.asdict` returned; TypeError or ValueError for anything else."""
        return tuple(cls(**value) for value in values)


@dataclass(frozen=True)
class Branch:
    """A further output of a model, made of the same embedding as its labels.

    Attributes:
        name: Name of the output, e.g. `dimensions`, `age` or `events`.
        steps: Operations from the embedding to the numbers of the output.
    """

    name: str
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        """Raises ValueError for values that no branch has: they come from files."""
        if not (type(self.name) is str and self.name.isidentifier()):
            raise ValueError(f"an output is called {self.name!r}")
        check_steps(self.steps, frames=False)

    @property
    def rows(self) -> int:
        """Number of numbers in the output."""
        return width_after(self.steps, 0)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the branch from what `dataclasses.asdict` returned; KeyError or TypeError for anything else."""
        return cls(values["name"], Step.many(values["steps"]))


def check_steps(steps: tuple[Step, ...], *, frames: bool) -> None:
    """Raises ValueError for steps that no part of a model has.

    Args:
        steps: Steps of one part: of a readout, where they are applied to frames, or of a head.
        frames: Whether they are applied to frames.
    """
    names = [step.name for step in steps if step.op in {"linear", "norm"}]
    if type(steps) is not tuple or not all(type(step) is Step for step in steps) or len(steps) > MAX_STEPS:
        raise ValueError(f"steps are {steps!r}")
    if len({*names}) < len(names) or (len(names) > 1 and "" in names):
        raise ValueError(f"steps share the name of their tensors: {names}")
    if not frames and not any(step.op == "linear" for step in steps):
        raise ValueError(f"a head without a linear layer: {steps!r}")
    if not frames and any(step.op == "clip_norm" for step in steps):
        raise ValueError("clip_norm takes frames, so that it cannot come after pooling")


def linear_head(rows: int, hidden: int = 0) -> tuple[Step, ...]:
    """Returns the steps of a head of one linear layer, or of a linear layer, a tanh and another."""
    if not hidden:
        return (Step("linear", width=rows),)
    return (Step("linear", "dense", hidden), Step("tanh"), Step("linear", "out", rows))


def width_after(steps: Iterable[Step], width: int) -> int:
    """Returns how many numbers the last of the steps makes of `width` numbers."""
    for step in steps:
        width = step.width or width
    return width


def step_tensors(steps: Iterable[Step], part: str, width: int) -> dict[str, Shape]:
    """Returns name and shape of every tensor of the steps.

    Args:
        steps: Steps of one part of a model.
        part: Name of that part, e.g. `head`.
        width: Numbers that the first step takes.
    """
    stored: dict[str, Shape] = {}
    for step in steps:
        name = f"{part}.{step.name}" if step.name else part
        if step.op == "norm":
            stored |= norm(name, width)
        elif step.op == "linear":
            layer = linear(name, step.width, width)
            stored |= layer if step.bias else {f"{name}.weight": layer[f"{name}.weight"]}
            width = step.width
    return stored


def step_operations(steps: Iterable[Step], width: int) -> int:
    """Counts the operations of the steps on one frame or embedding, as `Architecture.operations` does."""
    total = 0
    for step in steps:
        total += 2 * width * step.width
        width = step.width or width
    return total

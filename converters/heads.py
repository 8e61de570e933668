"""Heads of transformers checkpoints: known by the names of their tensors, or described in a file.

A checkpoint stores the weights of a head, but neither its activations nor its pooling. So only heads are known here
whose forward pass follows from the names of their tensors, because one published class saves them under these names;
anything else is refused with a list of its tensors, and can be described: see docs/models.md.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Readout, Transformer
from e2v_port.architectures.config import Label
from e2v_port.architectures.heads import Branch, Step, linear_head, width_after
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.whisper import WhisperConfig
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError, cut, quoted

from .rules import Rule, keep

__all__ = ["NONE", "Head", "find", "read"]

Note = Callable[[str], None]

YEARS = 100  # audeering's age is a share of so many years
DESCRIBE = "describe it in a JSON file and pass that with --head, see docs/models.md"
NAME = (
    'name the labels in a JSON file as {"labels": ["angry", ...]}, in the order of its rows, and pass that with --head'
)
LONGEST = 100  # characters of a label


@dataclass(frozen=True)
class Head:
    """What a checkpoint computes of the frames of its encoder.

    Attributes:
        rules: Renames of its tensors.
        steps: Steps from the embedding to the main output; empty without one.
        labels: Names of the rows of the main output.
        branches: Further outputs.
        rows: Names of the rows of each further output.
        layers: Hidden states of transformers that are summed, 0 being the input of the first block; empty for the last.
        final: Whether the last hidden state is taken after the final norm of an encoder that has one.
        frames: Steps on each frame before the mean over time.
        pad: Whether clips are filled up to 30 s for a Whisper, as by transformers.
    """

    rules: tuple[Rule, ...] = ()
    steps: tuple[Step, ...] = ()
    labels: tuple[Label, ...] = ()
    branches: tuple[Branch, ...] = ()
    rows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    layers: tuple[int, ...] = ()
    final: bool = True
    frames: tuple[Step, ...] = ()
    pad: bool = True

    def on(self, encoder: Transformer) -> Transformer:
        """Returns the architecture of an encoder with this head; ValueError if the two do not fit."""
        sizes, steps = encoder, self.steps
        if isinstance(encoder, WhisperConfig):
            sizes = replace(encoder, pad=self.pad)
        if self.layers or self.frames:
            layers = self.layers or (encoder.blocks,)
            width = encoder.width if self.frames else 0
            readout = Readout(layers, "mean", final=self.final, steps=self.frames, width=width)
            sizes = replace(sizes, readout=readout, embed_dim=width_after(self.frames, encoder.width))
        rows = width_after(steps, 0)
        hidden = steps[0].width if len(steps) > 1 else 0
        if steps and steps == linear_head(rows, hidden):  # which config.json states in fewer words
            return replace(sizes, num_labels=rows, head_dim=hidden, others=self.branches)
        return replace(sizes, num_labels=rows, head=steps, others=self.branches)


NONE = Head()


def _projected(
    weight: NDArray[Any], bias: NDArray[Any], inner: NDArray[Any], inner_bias: NDArray[Any]
) -> Sequence[NDArray[Any]]:
    """Folds two linear layers with nothing but a mean between them into one, in float64."""
    outer = weight.astype(np.float64)
    return [(outer @ inner).astype(np.float32), (outer @ inner_bias + bias).astype(np.float32)]


def _years(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    return [array * np.float32(YEARS)]


PROJECTED = {"projector.weight", "projector.bias", "classifier.weight", "classifier.bias"}
WEIGHTS = "layer_weights"
KINDS = ("weight", "bias")
# Names of the last of two layers: of community classes called Wav2Vec2ForSpeechClassification and of audeering's cards;
# of ehcalabres's model.
OUT = ("out_proj", "output")


def find(
    shapes: Mapping[str, Shape],
    config: Mapping[str, Any],
    *,
    described: Mapping[str, Any] | None = None,
    known: Sequence[str] | None = None,
    note: Note,
) -> Head:
    """Returns the head that some tensors belong to.

    Args:
        shapes: Name and shape of the tensors of a checkpoint that are no part of its encoder.
        config: Parsed config.json.
        described: Description of the head, as `read` returns it; None to know it by its tensors.
        known: Names of the rows of the main output, if the model is a known one; None for others.
        note: Called with a line for each thing that was assumed rather than read.

    Raises:
        CheckpointError: No known head has these tensors, or a setting in config.json or the description contradicts
            them.
    """
    described = described or {}
    if described.keys() - {"labels"}:
        head = _described(shapes, described)
    elif not shapes:
        head = NONE
    elif not all(shapes.values()):
        raise CheckpointError(f"a tensor of the head is a single number: {_listed(shapes)}: {DESCRIBE}")
    elif shapes.keys() - {WEIGHTS} == PROJECTED:
        head = _sequence_classification(shapes, config, note)
    elif (out := _last_of_two(shapes, "classifier")) is not None:
        if known is None:
            note(
                f"the head is taken to be classifier.dense, tanh, classifier.{out}, as in the published models with "
                "these names: if there is another activation between them, describe the head with --head"
            )
        head = Head(*_two_layers("classifier", out, "head", shapes))
    elif _last_of_two(shapes, "age", "gender") == "out_proj":
        head = _age_and_sex(shapes)
    elif "output_norm" in config and shapes.keys() - {"output_mlp.w.bias"} == {"output_mlp.w.weight"}:
        head = _speechbrain(shapes, config)
    else:
        raise CheckpointError(f"no known head has the tensors {_listed(shapes)}: {DESCRIBE}")
    pooling = config.get("pooling_mode", "mean")
    if head != NONE and pooling != "mean":
        raise CheckpointError(f"config.json: pooling_mode is {pooling!r}; only 'mean' is supported")
    if not head.steps:
        if "labels" in described:
            raise CheckpointError("the description names labels, but the checkpoint has no head for them")
        return head
    return replace(head, labels=_labels(head.steps[-1].width, config, described.get("labels"), known, note))


def _listed(shapes: Mapping[str, Shape]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in sorted(shapes.items()))


def _last_of_two(shapes: Mapping[str, Shape], *parts: str) -> str | None:
    """Returns the name of the last layer, if the tensors are those of two layers in each of some parts; else None."""
    for out in OUT:
        if shapes.keys() == {f"{part}.{layer}.{kind}" for part in parts for layer in ("dense", out) for kind in KINDS}:
            return out
    return None


def _two_layers(
    part: str, out: str, target: str, shapes: Mapping[str, Shape], change: Callable[..., Sequence[NDArray[Any]]] = keep
) -> tuple[tuple[Rule, ...], tuple[Step, ...]]:
    """Returns renames and steps of a linear layer, a tanh, and a linear layer, whose tensors `change` computes."""
    rules = [Rule(f"{part}.dense.{kind}", (f"{target}.dense.{kind}",)) for kind in KINDS]
    rules += [Rule(f"{part}.{out}.{kind}", (f"{target}.out.{kind}",), change) for kind in KINDS]
    return tuple(rules), linear_head(shapes[f"{part}.{out}.bias"][0], shapes[f"{part}.dense.bias"][0])


def _sequence_classification(shapes: Mapping[str, Shape], config: Mapping[str, Any], note: Note) -> Head:
    """Returns the head of transformers' classes for classification: projector, mean over time, classifier."""
    summed = WEIGHTS in shapes
    if config.get("use_weighted_layer_sum", False) is not summed:
        raise CheckpointError(
            f"config.json: use_weighted_layer_sum is {not summed}, but there {'is a' if summed else 'is no'} {WEIGHTS}"
        )
    hidden, rows = shapes["projector.bias"][0], shapes["classifier.bias"][0]
    if rows > hidden:  # also keeps a damaged file from growing when its layers are folded
        raise CheckpointError(
            f"{rows} labels from {hidden} features: no published classifier has more labels: {DESCRIBE}"
        )
    version = re.match(r"\d+", str(config.get("transformers_version", "")))
    if summed and config.get("do_stable_layer_norm") and version and int(version[0]) >= 5:
        note(
            "the last of the summed layers is taken after the final norm, as by transformers before version 5: if "
            'version 5 trained this model, describe its head with --head and "final": false'
        )
    fold = Rule(
        "classifier.weight",
        ("head.weight", "head.bias"),
        _projected,
        beside=("classifier.bias", "projector.weight", "projector.bias"),
    )
    layers = tuple(range(shapes[WEIGHTS][0])) if summed else ()
    return Head(
        rules=(fold, *([Rule(WEIGHTS, ("readout.weights",))] if summed else [])),
        steps=(Step("linear", width=rows),),
        layers=layers,
    )


def _age_and_sex(shapes: Mapping[str, Shape]) -> Head:
    """Returns the two outputs of audeering's models of age and sex: years, and logits."""
    ages, age = _two_layers("age", "out_proj", "head.others.age", shapes, change=_years)
    sexes, sex = _two_layers("gender", "out_proj", "head.others.sex", shapes)
    return Head(
        rules=ages + sexes,
        branches=(Branch("age", age), Branch("sex", sex)),
        rows={"age": ("years",), "sex": ("female", "male", "child")},
    )


def _speechbrain(shapes: Mapping[str, Shape], config: Mapping[str, Any]) -> Head:
    """Returns the head of speechbrain's emotion models: a linear layer on frames that are scaled as one clip."""
    kinds = [kind for kind in KINDS if f"output_mlp.w.{kind}" in shapes]
    return Head(
        rules=tuple(Rule(f"output_mlp.w.{kind}", (f"head.{kind}",)) for kind in kinds),
        steps=(Step("linear", width=shapes["output_mlp.w.weight"][0], bias="bias" in kinds),),
        frames=(Step("clip_norm"),) if config["output_norm"] else (),
    )


def _labels(
    rows: int, config: Mapping[str, Any], given: Sequence[str] | None, known: Sequence[str] | None, note: Note
) -> tuple[Label, ...]:
    """Returns the names of the rows of the main output.

    Args:
        rows: Number of rows.
        config: Parsed config.json.
        given: Names from the description of a head; None without them.
        known: Names of the outputs of a known model; None for others.
        note: Called with a line if the names mean nothing.
    """
    if given is not None and not (isinstance(given, list) and all(isinstance(name, str) for name in given)):
        raise CheckpointError(f"the description of the head is wrong: labels are {given!r}, not a list of names")
    tokens = [*given] if given is not None else _named(rows, config, note)
    if len(tokens) != rows:
        raise CheckpointError(f"{len(tokens)} labels for {rows} rows of the head")
    names = [" ".join(token.split()) for token in tokens]
    if faulty := [name for name in names if not name or not name.isprintable() or len(name) > LONGEST]:
        raise CheckpointError(f"{quoted(faulty[0])} is no name of a label: {NAME}")
    if len({name.casefold() for name in names}) < rows:
        raise CheckpointError(f"labels share a name: {', '.join(names)}: {NAME}")
    if rows == 1:
        raise CheckpointError(
            f"its only output is {names[0]}, a single number, which gives no probability: describe it as one of "
            "`others` in a JSON file and pass that with --head, see docs/models.md"
        )
    if all(re.fullmatch(r"(LABEL_)?\d+", token) for token in tokens):
        if known is not None and len(known) == rows:
            names = list(known)
            note(f"the checkpoint does not name its labels: they get the names on its page, {', '.join(names)}")
        else:
            note(f"the checkpoint calls its labels {tokens[0]} to {tokens[-1]}: {NAME}")
    measured = {name.lower() for name in names} & {*DIMENSIONS}
    dimensional = len(measured) == rows == len(DIMENSIONS)
    if dimensional:
        names = [name.lower() for name in names]
    problem = config.get("problem_type") or "single_label_classification"
    if not dimensional and (measured or problem != "single_label_classification"):
        raise CheckpointError(
            f"config.json: problem_type is {problem!r} and the outputs are {', '.join(names)}; supported are labels of "
            f"which one is true, or {', '.join(DIMENSIONS)}: if the outputs are these three, name them with --head"
        )
    return tuple(Label(name, token, unused=False) for name, token in zip(names, tokens, strict=True))


def _named(rows: int, config: Mapping[str, Any], note: Note) -> list[str]:
    """Returns the names of the rows in config.json: those of id2label, or else of its inverse, label2id."""
    try:
        named = {int(index): str(name) for index, name in (config.get("id2label") or {}).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f'config.json: id2label is not a table of names by row, such as {{"0": "angry"}}: {NAME}'
        ) from error
    try:
        indexed = [(int(row), str(name)) for name, row in (config.get("label2id") or {}).items()]
    except (AttributeError, TypeError, ValueError):
        indexed = []  # which transformers does not use for its answers
    inverse = dict(indexed)
    whole = len(indexed) == rows and inverse.keys() == {*range(rows)}
    if all(name == f"LABEL_{i}" for i, name in named.items()) and whole and inverse != named:
        named = inverse
        found = ", ".join(inverse[i] for i in range(rows))
        note(f"config.json has no names in id2label: the labels are those of label2id, {cut(found, 400)}")
    if whole and named != inverse and {*named.values()} == {*inverse.values()}:
        raise CheckpointError(f"config.json: id2label and label2id give the same names to different rows: {NAME}")
    if named and named.keys() != {*range(rows)}:
        raise CheckpointError(
            f"{len(named)} labels for {rows} rows of the head: id2label in config.json names the rows "
            f"{cut(', '.join(map(str, sorted(named))), 80)} instead of 0 to {rows - 1}: {NAME}"
        )
    return [named.get(i, f"LABEL_{i}") for i in range(rows)]


def read(path: Path) -> dict[str, Any]:
    """Reads the description of a head.

    Args:
        path: JSON file: see docs/models.md.

    Raises:
        CheckpointError: It is no readable table, or has keys that no description has.
    """
    try:
        described = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error})") from error
    if not isinstance(described, dict) or not described:
        raise CheckpointError(f"{path} is not a table that describes a head")
    if unknown := described.keys() - KEYS:
        raise CheckpointError(f"{path}: unknown keys {', '.join(sorted(unknown))}; known: {', '.join(KEYS)}")
    return described


KEYS = ("labels", "layers", "weights", "final", "frames", "pooling", "head", "others", "pad", "ignore")


def _described(shapes: Mapping[str, Shape], described: Mapping[str, Any]) -> Head:
    """Returns a head as a file describes it.

    Every tensor must be named once: a name that does not exist is refused here, one that is left out by `rules.plan`.
    """
    try:
        return _parsed(shapes, described)
    except KeyError as error:
        raise CheckpointError(f"the description of the head lacks {error}") from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"the description of the head is wrong: {error}") from error


def _parsed(shapes: Mapping[str, Shape], described: Mapping[str, Any]) -> Head:
    if (pooling := described.get("pooling", "mean")) != "mean":
        raise ValueError(f"pooling is {pooling!r}; only 'mean' is supported")
    rules = [Rule(_existing(name, shapes), why=str(why)) for name, why in described.get("ignore", {}).items()]
    layers = described.get("layers", ())
    layers = tuple(range(prod(shapes[_existing(described["weights"], shapes)]))) if layers == "all" else tuple(layers)
    if len(layers) > 1:
        source = _existing(described["weights"], shapes)
        rules.append(Rule(source, ("readout.weights",), lambda array: [array.reshape(-1)]))
    elif "weights" in described:
        raise ValueError("there are weights, but not several layers to sum")
    frames = _steps(described.get("frames", ()), "readout.steps", shapes, rules)
    head = _steps(described.get("head", ()), "head", shapes, rules)
    branches, rows = [], {}
    for name, other in described.get("others", {}).items():
        branches.append(Branch(name, _steps(other["steps"], f"head.others.{name}", shapes, rules)))
        rows[name] = tuple(map(str, other["rows"]))
        if len(rows[name]) != branches[-1].rows:
            raise ValueError(f"{len(rows[name])} names for {branches[-1].rows} rows of {name}")
    if not (head or branches):
        raise ValueError("neither head nor others says how outputs are computed")
    final, pad = described.get("final", True), described.get("pad", True)
    return Head(tuple(rules), head, (), tuple(branches), rows, layers, final, frames, pad)


def _existing(name: str, shapes: Mapping[str, Shape]) -> str:
    """Returns the pattern of `Rule` for one tensor; ValueError if there is none, or its name is itself a pattern."""
    if name not in shapes or re.search(r"[\[\]{}]", name):
        raise ValueError(f"there is no {name}; the tensors outside the encoder are {_listed(shapes)}")
    return name


def _steps(
    described: Iterable[Mapping[str, Any]], part: str, shapes: Mapping[str, Shape], rules: list[Rule]
) -> tuple[Step, ...]:
    """Returns the steps of one part, and adds the renames of their tensors to `rules`."""
    steps = []
    entries = [dict(entry) for entry in described]
    with_tensors = sum("tensors" in entry for entry in entries)
    for number, entry in enumerate(entries, 1):
        op, source = entry.pop("op"), entry.pop("tensors", None)
        if entry:
            raise ValueError(f"step {number} of {part} has unknown keys: {', '.join(entry)}")
        if (source is None) == (op in {"linear", "norm"}):
            raise ValueError(f"step {number} of {part}, {op}, {'needs' if source is None else 'has no'} tensors")
        if source is None:
            steps.append(Step(op))
            continue
        biased = f"{source}.bias" in shapes
        name = "" if with_tensors == 1 and part != "readout.steps" else f"step{number}"
        for kind in KINDS if biased else KINDS[:1]:
            target = ".".join(filter(None, (part, name, kind)))
            tensor = _existing(f"{source}.{kind}", shapes)
            rules.append(Rule(tensor, (target,), _matrix if kind == "weight" else keep))
        width = shapes[f"{source}.weight"][0] if op == "linear" else 0
        steps.append(Step(op, name, width, biased or op == "norm"))
    return tuple(steps)


def _matrix(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Returns the weights of a linear layer, or of a convolution of one frame as such; ValueError for a larger one."""
    return [array.reshape(array.shape[:2])]

"""The tables of docs/port.md match the code: every stored tensor has a row, and the method named there uses it.

The torch twin is looked at, and the numpy twin, whose methods have the same names.
"""

import importlib
import inspect
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import toys
from torch import nn

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.registry import FAMILIES

TEXT = (Path(__file__).parents[1] / "docs" / "port.md").read_text("utf-8")
# Between them, these have every kind of tensor that a family has.
CONFIGS: dict[str, list[Architecture]] = {
    "emotion2vec": [toys.TOY, replace(toys.TOY, head_dim=9)],
    "wav2vec2": [
        toys.DIMENSIONAL,
        replace(toys.DIMENSIONAL, conv_norm="group", pre_norm=False, conv_bias=False, head_dim=0),
    ],
    "wavlm": [replace(toys.WAVLM, conv_bias=True, num_labels=3, head_dim=head) for head in (0, 9)],
    "sensevoice": [
        toys.SENSEVOICE,
        replace(toys.SENSEVOICE, head_dim=9, others=()),
    ],
    "wav2small": [toys.DEVIATION, toys.GRAM, replace(toys.GRAM, head_dim=0)],
    "ge2e": [toys.GE2E, replace(toys.GE2E, head_dim=0)],
    "ecapa": [toys.ECAPA, replace(toys.ECAPA, head_dim=0)],
    "whisper": [toys.WHISPER, replace(toys.WHISPER, num_labels=3), replace(toys.WHISPER, num_labels=3, head_dim=9)],
}
CASES = [
    pytest.param(family, config, id=f"{family}-{i}")
    for family, configs in CONFIGS.items()
    for i, config in enumerate(configs)
]


class Row(NamedTuple):
    """A row of a table: patterns of target tensors, and the methods that use them."""

    targets: list[str]
    methods: list[str]


def table(family: str) -> list[Row]:
    """Reads the table of a family. Its columns are: source, target, change, method."""
    section = TEXT.split(f"## The table of {family}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [Row(*(re.findall(r"`([^`]+)`", cells[i]) for i in (1, 3))) for cells in rows[2:]]


def matches(pattern: str, name: str) -> bool:
    """Returns whether `blocks.{i}.norm1` stands for `blocks.3.norm1.weight`."""
    parts = re.split(r"\{[^}]*\}", pattern)
    return re.fullmatch(r"\d+".join(map(re.escape, parts)) + r"(\.weight|\.bias)?", name) is not None


def uses(network: nn.Module, module: str, method: str, name: str) -> bool:
    """Returns whether a method such as `Attention.mix` belongs to a module that holds the tensor, and names it.

    Args:
        network: The torch twin.
        module: Module of the twin whose method is looked at.
        method: Name of the method in the table.
        name: Name of the tensor.
    """
    kind, function = method.split(".")
    if module.endswith("_numpy"):
        function = function.replace("forward", "__call__")
    own = getattr(importlib.import_module(module), type(network).__name__)
    # A network that extends another one has layers of both, and every network has the common ones.
    places = [importlib.import_module(parent.__module__) for parent in own.__mro__]
    places.append(importlib.import_module(f"e2v_port.runtimes.layers_{module.rpartition('_')[2]}"))
    source = inspect.getsource(
        getattr(next(getattr(place, kind) for place in places if hasattr(place, kind)), function)
    )
    path = name.split(".")
    for i, attribute in enumerate(path):
        holder = network.get_submodule(".".join(path[:i]))
        if attribute != "others" and kind in {parent.__name__ for parent in type(holder).__mro__}:
            if hasattr(holder, "operations"):  # a head is data: its tensors are named there
                names = {step.name for step in holder.operations}
                return "self.operations" in source and (attribute if path[i + 1 :] else "") in names
            return re.search(rf"\bself\.{attribute}\b|, self\)", source) is not None
    return False


def test_every_family_has_a_table() -> None:
    assert set(FAMILIES) == set(CONFIGS) == set(re.findall(r"^## The table of (\w+)$", TEXT, re.M))


@pytest.mark.parametrize(("family", "config"), CASES)
def test_the_table_names_the_method_that_uses_each_tensor(family: str, config: Architecture) -> None:
    module = f"e2v_port.runtimes.{family}_torch"
    with torch.device("meta"):
        network = getattr(importlib.import_module(module), FAMILIES[family].network)(config)
    rows = table(family)
    for name in config.tensors():
        found = [row for row in rows if any(matches(target, name) for target in row.targets)]
        assert len(found) == 1, f"{name} is in {len(found)} rows"
        for twin in (module, module.replace("_torch", "_numpy")):
            assert any(uses(network, twin, method, name) for method in found[0].methods), f"{name}: {found[0].methods}"


@pytest.mark.parametrize("family", CONFIGS)
def test_the_table_names_no_tensor_that_is_not_stored(family: str) -> None:
    stored = [name for config in CONFIGS[family] for name in config.tensors()]
    targets = [target for row in table(family) for target in row.targets]
    assert [target for target in targets if not any(matches(target, name) for name in stored)] == []

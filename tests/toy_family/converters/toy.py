"""Checkpoints of toys: the renames, the settings, and synthetic ones."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.toy import ToyConfig

from .random_weights import pair, trained_like
from .rules import Converter, Rule, keep

LABELS = ("loud", "quiet")
TOY = ToyConfig(normalize=True, embed_dim=16, head_dim=0, num_labels=len(LABELS), kernel=640, stride=320)
RULES = (
    Rule("toy.layer.weight", ("frame.weight",)),
    Rule("toy.layer.bias", ("frame.bias",)),
    Rule("toy.output.weight", ("head.weight",), keep),
    Rule("toy.output.bias", ("head.bias",), keep),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    return "toy.layer.weight" in names


def describe(
    config: Mapping[str, Any] | None,
    tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    _note: Callable[[str], None],
) -> tuple[ToyConfig, tuple[Label, ...]]:
    dim, kernel = targets["frame.weight"]
    stride = (config or {})["stride"]
    sizes = ToyConfig(normalize=True, embed_dim=dim, head_dim=0, num_labels=len(tokens), kernel=kernel, stride=stride)
    return sizes, tuple(Label(name, name, unused=False) for name in tokens)


def make(config: ToyConfig, folder: Path, *, seed: int = 0) -> Path:
    import torch

    draw = np.random.default_rng(seed)
    shapes = [
        *pair("toy.layer", (config.embed_dim, config.kernel)),
        *pair("toy.output", (config.num_labels, config.embed_dim)),
    ]
    tensors = {
        name: torch.from_numpy(trained_like(name, draw.standard_normal(shape, dtype=np.float32)))
        for name, shape in shapes
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "model.pt")
    (folder / "config.yaml").write_text(f"stride: {config.stride}\n")
    (folder / "tokens.txt").write_text("\n".join(LABELS))
    return folder


CONVERTER = Converter(RULES, recognize, describe, {"toy": TOY}, make)

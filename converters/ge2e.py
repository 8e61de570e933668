"""Resemblyzer's GE2E speaker encoders: the renames to the stored layout, the sizes, and synthetic checkpoints.

    python -m e2v_port.converters.ge2e pretrained.pt FOLDER

writes the model in the package, `bundled-voices`, from the file in the package Resemblyzer.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.architectures.shapes import Shape
from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.checkpoint import local
from e2v_port.errors import CheckpointError, E2VError

from .random_weights import pair, trained_like
from .rules import Converter, Rule

__all__ = ["BUNDLED", "CONVERTER", "PUBLISHED", "bundle", "make"]

BUNDLED = "bundled-voices"


def total(one: NDArray[np.float32], other: NDArray[np.float32]) -> Sequence[NDArray[np.float32]]:
    """Adds the two biases that torch has for the same gates; ValueError if their shapes differ."""
    if one.shape != other.shape:
        raise ValueError(f"{one.shape} and {other.shape}")
    return [one + other]


RULES: tuple[Rule, ...] = (
    Rule("lstm.weight_ih_l{i}", ("layers.{i}.inputs.weight",)),
    Rule("lstm.bias_ih_l{i}", ("layers.{i}.inputs.bias",), total, beside=("lstm.bias_hh_l{i}",)),
    Rule("lstm.weight_hh_l{i}", ("layers.{i}.states.weight",)),
    Rule("linear.weight", ("projection.weight",)),
    Rule("linear.bias", ("projection.bias",)),
    Rule("similarity_weight", why="scales the loss in training"),
    Rule("similarity_bias", why="shifts the loss in training"),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of Resemblyzer's VoiceEncoder."""
    return {"lstm.weight_ih_l0", "linear.weight", "similarity_weight"} <= {*names}


def describe(
    _config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Ge2eConfig, tuple[Label, ...]]:
    """Returns the sizes of a checkpoint, which has no labels.

    Args:
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for what leaves no trace in the tensors.

    Raises:
        CheckpointError: The tensors are not those of such an encoder.
    """
    note("the weights do not show how the spectrogram is made and cut: taken from Resemblyzer 0.1.4")
    try:
        embed_dim, width = targets["projection.weight"]
        return _sizes(
            bands=targets["layers.0.inputs.weight"][1],
            depth=sum(re.fullmatch(r"layers\.\d+\.states\.weight", name) is not None for name in targets),
            width=width,
            embed_dim=embed_dim,
        ), ()
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the tensors are not those of a GE2E speaker encoder ({error!r})") from error


def _sizes(*, bands: int, depth: int, width: int, embed_dim: int) -> Ge2eConfig:
    return Ge2eConfig(
        normalize=True,
        embed_dim=embed_dim,
        head_dim=0,
        num_labels=0,
        # Resemblyzer's `preprocess_wav` amplifies to 0.032, and leaves louder clips as they are. Measured on speech of
        # 10 and of 60 speakers with gains of -30 to 10 dB: docs/encoders.md.
        level=0.1,
        window=400,  # 25 ms
        step=160,  # 10 ms
        bands=bands,
        excerpt=160,  # 1.6 s
        apart=77,  # 1.3 a second
        least=120,  # three quarters of an excerpt
        depth=depth,
        width=width,
    )


PUBLISHED = _sizes(bands=40, depth=3, width=256, embed_dim=256)
SIZES = {"ge2e": PUBLISHED}


def _source_shapes(config: Ge2eConfig) -> Iterator[tuple[str, Shape]]:
    yield "similarity_weight", (1,)
    yield "similarity_bias", (1,)
    for i in range(config.depth):
        yield f"lstm.weight_ih_l{i}", (4 * config.width, config.width if i else config.bands)
        yield f"lstm.weight_hh_l{i}", (4 * config.width, config.width)
        yield f"lstm.bias_ih_l{i}", (4 * config.width,)
        yield f"lstm.bias_hh_l{i}", (4 * config.width,)
    yield from pair("linear", (config.embed_dim, config.width))


def make(config: Ge2eConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint as Resemblyzer has it.

    Args:
        config: Sizes.
        folder: Folder to write pretrained.pt to.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch

    draw = np.random.default_rng(seed)
    state = {
        name: torch.from_numpy(
            trained_like("bias" if "bias" in name else name, draw.standard_normal(shape, dtype=np.float32))
        )
        for name, shape in _source_shapes(config)
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"step": 1, "model_state": state, "optimizer_state": {"state": {}}}, folder / "pretrained.pt")
    return folder


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)


def bundle(source: Path, folder: Path) -> None:
    """Writes config.json and model.safetensors of the model in the package, in float16.

    Args:
        source: pretrained.pt of Resemblyzer 0.1.4.
        folder: Folder to write them to; other files in it stay.

    Raises:
        CheckpointError: It is another file.
    """
    from . import checkpoint, weights  # which look for the converters of all families

    known = catalog.lookup(BUNDLED)
    assert known is not None
    with tempfile.TemporaryDirectory() as between:
        npz, made = Path(between) / "model.npz", Path(between) / "model"
        checkpoint.extract(local(source), npz)
        config = weights.write(npz, made, dtype="float16")
        if config.source.sha256 not in known.sha256["pretrained.pt"]:
            raise CheckpointError(f"{source} is not the pretrained.pt of Resemblyzer 0.1.4: its license is unknown")
        origin = replace(config.source, repository=BUNDLED)
        config = replace(config, licence=known.licence, source=origin)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_bytes((made / "model.safetensors").read_bytes())
        (folder / "config.json").write_text(config.to_json(), "utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.ge2e", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="resemblyzer/pretrained.pt of the package Resemblyzer 0.1.4")
    parser.add_argument("folder", type=Path, help="folder to write config.json and model.safetensors to")
    arguments = parser.parse_args()
    try:
        bundle(arguments.source, arguments.folder)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.folder} written")


if __name__ == "__main__":
    main()

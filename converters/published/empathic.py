"""LAION's Empathic-Insight-Voice (arXiv 2506.09827): one small network for each emotion, on the frames of a Whisper.

The networks come in a file each, without the Whisper. They run side by side: their first layers are stacked, and the
others are on the diagonals of larger ones.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port import __version__
from e2v_port.architectures import tensors
from e2v_port.architectures.base import Readout
from e2v_port.architectures.config import ModelConfig, Source
from e2v_port.architectures.heads import Branch, Step
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.whisper import MAX_FRAMES, WhisperConfig
from e2v_port.converters.folder import store
from e2v_port.converters.rules import diagonal
from e2v_port.errors import CheckpointError, quoted
from e2v_port.unpickling import torch_save
from e2v_port.unpickling.tensors import Tensor

__all__ = ["emotions", "file_of", "join"]

EMOTIONS = (
    "Affection",
    "Amusement",
    "Anger",
    "Astonishment_Surprise",
    "Awe",
    "Bitterness",
    "Concentration",
    "Confusion",
    "Contemplation",
    "Contempt",
    "Contentment",
    "Disappointment",
    "Disgust",
    "Distress",
    "Doubt",
    "Elation",
    "Embarrassment",
    "Emotional_Numbness",
    "Fatigue_Exhaustion",
    "Fear",
    "Helplessness",
    "Hope_Enthusiasm_Optimism",
    "Impatience_and_Irritability",
    "Infatuation",
    "Interest",
    "Intoxication_Altered_States_of_Consciousness",
    "Jealousy_&_Envy",
    "Longing",
    "Malevolence_Malice",
    "Pain",
    "Pleasure_Ecstasy",
    "Pride",
    "Relief",
    "Sadness",
    "Sexual_Lust",
    "Shame",
    "Sourness",
    "Teasing",
    "Thankfulness_Gratitude",
    "Triumph",
)  # as in the names of their files; the other files are for attributes of a voice, age and gender among them
PARTS = ("weight", "bias")
Head = dict[str, Tensor]


def _read(path: Path) -> Head:
    """Returns the tensors of one network, by the names of its layers: `proj.weight`, `0.weight`, `1.weight`, ..."""
    try:
        found = torch_save.read(path, ())
    except torch_save.UnsafeFile as error:
        raise CheckpointError(f"{path} would run code when opened ({error}): do not use this file") from error
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint ({error})") from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{path} holds a {type(found).__name__} instead of a table of tensors")
    names = {str(name).removeprefix("_orig_mod."): value for name, value in found.items()}  # of torch.compile
    known = [name for name in names if re.fullmatch(r"(proj|mlp\.\d+)\.(weight|bias)", name)]
    if len(known) < len(names) or not all(isinstance(value, Tensor) for value in names.values()):
        raise CheckpointError(f"{path} has other tensors than a network of Empathic Insight: {', '.join(names)}")
    layers = sorted({int(name.split(".")[1]) for name in known if name.startswith("mlp.")})
    wanted = {"proj": "proj"} | {str(i): f"mlp.{layer}" for i, layer in enumerate(layers)}
    width = 0
    for layer in wanted.values():
        matrix, bias = (_shape(names.get(f"{layer}.{part}")) for part in PARTS)
        if len(matrix) != 2 or bias != matrix[:1] or (width and matrix[1] != width):
            raise CheckpointError(f"{path}: {layer} has shapes {matrix} and {bias}, and is given {width} numbers")
        width = matrix[0]
    if width != 1:
        raise CheckpointError(f"{path} gives {width} numbers instead of one")
    return {f"{ours}.{part}": names[f"{theirs}.{part}"] for ours, theirs in wanted.items() for part in PARTS}


def _shape(tensor: Tensor | None) -> Shape:
    return () if tensor is None else tensor.shape


def emotions() -> tuple[str, ...]:
    """Returns the names of all emotions that have a network."""
    return EMOTIONS


def file_of(name: str) -> str:
    """Returns the name of the file with the network of an emotion; CheckpointError if it is none of `EMOTIONS`."""
    if name not in EMOTIONS:
        raise CheckpointError(f"{quoted(name)} is not an emotion of Empathic Insight: {', '.join(EMOTIONS)}")
    return f"model_{name}_best.pth"


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Returns the file of each network."""
    files = [folder / file_of(name) for name in names]
    if missing := [path.name for path in files if not path.is_file()]:
        have = sorted(path.name.removeprefix("model_").removesuffix("_best.pth") for path in folder.glob("model_*.pth"))
        raise CheckpointError(
            f"{folder}: no {', no '.join(missing)}; heads that are there: {', '.join(have) or 'none'}"
        )
    return files


def _architecture(encoder: WhisperConfig, heads: Mapping[str, Head]) -> WhisperConfig:
    first = next(iter(heads.values()))
    layers = len(first) // 2 - 1
    for name, head in heads.items():
        if len(head) != len(first) or head["proj.weight"].shape[1] != MAX_FRAMES * encoder.width:
            raise CheckpointError(
                f"{name} takes {head['proj.weight'].shape[1]} numbers in {len(head) // 2} layers; the encoder gives "
                f"{MAX_FRAMES * encoder.width}, and all heads have {layers + 1}: use laion/BUD-E-Whisper and the heads "
                "of one repository"
            )
    steps: list[Step] = []
    for i in range(layers):
        width = sum(head[f"{i}.bias"].shape[0] for head in heads.values())
        steps += [Step("relu"), Step("linear", _layer(i, layers), width)]
    return replace(
        encoder,
        pad=True,
        embed_dim=sum(head["proj.bias"].shape[0] for head in heads.values()),
        readout=Readout((encoder.depth,), "flatten", final=True, width=encoder.width),
        others=(Branch("emotions", tuple(steps)),),
    )


def _layer(i: int, layers: int) -> str:
    return "out" if i == layers - 1 else f"hidden{i}"


def _arrays(encoder: Path, config: ModelConfig, heads: Mapping[str, Head]) -> Iterator[tuple[str, NDArray[Any]]]:
    yield from tensors.read(encoder / "model.safetensors", config.architecture.tensors())
    every = list(heads.values())
    layers = len(every[0]) // 2 - 1
    places = [("proj", "readout.flatten")]
    places += [(str(i), f"head.others.emotions.{_layer(i, layers)}") for i in range(layers)]
    for source, target in places:
        join = np.concatenate if source == "proj" else lambda arrays: diagonal(*arrays)[0]
        yield f"{target}.weight", join([head[f"{source}.weight"].numpy().astype(np.float32) for head in every])
        yield f"{target}.bias", np.concatenate([head[f"{source}.bias"].numpy().astype(np.float32) for head in every])


def join(
    encoder: Path, heads: Path, folder: Path, *, names: Sequence[str], source: str, dtype: str = "float32"
) -> ModelConfig:
    """Writes a model whose further output `emotions` has a number for each chosen network, raw, 0 to about 4.

    Args:
        encoder: Folder of the converted encoder, stored as float32 and without a head.
        heads: Folder with model_NAME_best.pth for each network.
        folder: Folder to write; see `folder.store`.
        names: Names of the networks. The 40 emotions of -Small take 11.8 GB as float32, the weights of each 295 MB.
        source: Where the networks come from, for config.json.
        dtype: Type of the stored tensors.

    Returns:
        Content of config.json.

    Raises:
        CheckpointError: A name is not one of `EMOTIONS`; a file is missing, damaged, unsafe, or not of such a network;
            or the encoder is another one.
    """
    if len({*names}) < len(names):
        raise CheckpointError(f"an emotion is named twice: {', '.join(names)}")
    base = ModelConfig.read(encoder)
    sizes = base.architecture
    if not isinstance(sizes, WhisperConfig) or sizes.readout or sizes.has_head or base.dtype != "float32":
        raise CheckpointError(
            f"{encoder} is not the encoder alone: convert laion/BUD-E-Whisper as float32, and pass it with --encoder"
        )
    found = {name: _read(path) for name, path in zip(names, _files(heads, names), strict=True)}
    config = replace(
        base,
        architecture=_architecture(sizes, found),
        dtype=dtype,
        licence="CC BY 4.0: free to use, with attribution to LAION",
        source=Source(f"{source}, on {base.source.repository}", "local", "", "", ""),
        converter=f"e2v-port {__version__}",
        others={"emotions": tuple(names)},
    )
    store(folder, config, lambda: _arrays(encoder, base, found))
    return config

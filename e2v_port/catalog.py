"""Which models are known, and where converted ones lie on this machine."""

import difflib
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from e2v_port.errors import ModelNotFound

if TYPE_CHECKING:
    from e2v_port.audio import Waveform

__all__ = [
    "BUNDLED",
    "KnownModel",
    "Published",
    "converted",
    "destination",
    "find",
    "is_converted",
    "known",
    "lookup",
    "not_found",
    "roots",
]

BUNDLED = "bundled"  # the model in the package


@dataclass(frozen=True)
class Published:
    """Outputs that others published for a model: what a conversion can be checked against.

    Attributes:
        name: Of the input, in a table.
        clip: Where the clip is found; empty for an input that can be made.
        clip_sha256: Hash of the clip.
        outputs: Dimensions, or each logit minus the first one, in the order of the labels.
        tolerance: Largest absolute difference that still counts as equal; infinite for outputs that are shown only.
        source: Who published them.
    """

    name: str
    clip: str
    clip_sha256: str
    outputs: tuple[float, ...]
    tolerance: float
    source: str

    def signal(self, clip: Path | None) -> "Waveform | None":
        """Returns the input [samples] at 16 kHz: made, or read from `clip` if that is the one; else None."""
        import numpy as np

        if self.name == "zeros":
            return np.zeros(16_000, np.float32)
        if self.name == "noise":
            return np.random.RandomState(0).normal(size=16_000).astype(np.float32)
        if clip is None or not clip.is_file() or hashlib.sha256(clip.read_bytes()).hexdigest() != self.clip_sha256:
            return None
        from e2v_port.audio import load_audio

        return load_audio(clip)


@dataclass(frozen=True)
class KnownModel:
    """One row of the manifest in weights/.

    Attributes:
        id: The name everything here goes by.
        family: Architecture, as in the runtimes' file names.
        modelscope: Repository on ModelScope; empty where there is none.
        huggingface: Repository on Hugging Face; empty for the model in the package, which no hub has.
        embed_dim: Width of an embedding.
        parameters: Number of weights, rounded.
        labels: Its outputs in order, classes or dimensions; empty for a model without a head.
        licence: Licence of the weights.
        sha256: Accepted hashes by file name; empty where none is known.
        published: Published outputs.
    """

    id: str
    family: str
    modelscope: str
    huggingface: str
    embed_dim: int
    parameters: int
    labels: tuple[str, ...]
    licence: str
    sha256: dict[str, tuple[str, ...]]
    published: tuple[Published, ...]


@cache
def known() -> tuple[KnownModel, ...]:
    """Returns every model of the manifest, in its order: the one in the package first."""
    manifest = json.loads(files("e2v_port.weights").joinpath("manifest.json").read_text("utf-8"))
    return tuple(_known_model(row) for row in manifest["models"])


def _known_model(row: dict[str, Any]) -> KnownModel:
    return KnownModel(
        id=row["id"],
        family=row["family"],
        modelscope=row["modelscope"],
        huggingface=row["huggingface"],
        embed_dim=row["embed_dim"],
        parameters=row["parameters"],
        labels=_labels(row["classes"]),
        licence=row["licence"],
        sha256={name: tuple(hashes) for name, hashes in row.get("sha256", {}).items()},
        published=tuple(_published(output) for output in row.get("published", [])),
    )


def _published(row: dict[str, Any]) -> Published:
    tolerance = row["tolerance"]
    return Published(
        name=row["name"],
        clip=row.get("clip", ""),
        clip_sha256=row.get("clip_sha256", ""),
        outputs=tuple(row["outputs"]),
        tolerance=float("inf") if tolerance is None else tolerance,
        source=row["source"],
    )


def _labels(classes: str | list[str] | None) -> tuple[str, ...]:
    """Returns the names themselves, or those of a table in taxonomy/."""
    if not isinstance(classes, str):
        return tuple(classes or ())
    table = json.loads(files("e2v_port.taxonomy").joinpath(f"{classes}.json").read_text("utf-8"))
    return tuple(row["label"] for row in table["classes"])


def lookup(name: str) -> KnownModel | None:
    """Returns the known model of this name: its id, its repository on either hub, or the bare last part."""
    for model in known():
        if name and name in {model.id, model.modelscope, model.huggingface, PurePosixPath(model.id).name}:
            return model
    return None


def roots() -> list[Path]:
    """Returns the folders that hold converted models, in the order they are searched.

    `$E2V_WEIGHTS` first where it is set, then the user's cache: `$XDG_CACHE_HOME/e2v-port`, by default
    `~/.cache/e2v-port` (`~/Library/Caches/e2v-port` on macOS). Conversions are written to the first. The package's own
    folder, with `bundled` in it, is searched behind them: see `find`.
    """
    named = os.environ.get("E2V_WEIGHTS")
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        cache_folder = Path(cache_home)
    elif sys.platform == "darwin":
        cache_folder = Path.home() / "Library" / "Caches"
    else:
        cache_folder = Path.home() / ".cache"
    return [*([Path(named)] if named else []), cache_folder / "e2v-port"]


def is_converted(folder: Path) -> bool:
    """Tells whether a folder holds a converted model (both files; a conversion writes both or neither).

    A transformers checkpoint has files of the same names, but a config.json of another kind.
    """
    if not all(os.path.isfile(folder / name) for name in ("config.json", "model.safetensors")):
        return False
    try:
        return "model_type" not in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return True  # damaged, which is told when it is read


def destination(name: str, dtype: str = "float32") -> Path:
    """Returns the folder that a model of this name is converted to: float32 has the plain name."""
    return roots()[0] / (name if dtype == "float32" else f"{name}-{dtype}")


def find(name: str) -> Path | None:
    """Returns the converted folder of this name, or None. `name` is an id, or one with `-float16` etc. behind it."""
    model = lookup(name)
    relative = PurePosixPath(model.id if model else name)
    if relative.is_absolute() or ".." in relative.parts:
        return None
    package = Path(str(files("e2v_port.weights")))  # inside a zip no folder, so that there is no bundled model
    return next((root / relative for root in [*roots(), package] if is_converted(root / relative)), None)


def converted() -> list[str]:
    """Returns the names of all models that were converted on this machine, sorted."""
    return sorted(
        {
            config.parent.relative_to(root).as_posix()
            for root in roots()
            for config in root.glob("*/*/config.json")
            if is_converted(config.parent) and not config.parent.name.startswith(".")
        }
    )


def not_found(name: str) -> ModelNotFound:
    """Returns the error for a name that is no model, with the names that are."""
    names = sorted({model.id for model in known()} | set(converted()))
    bare = {PurePosixPath(candidate).name: candidate for candidate in names}
    close = difflib.get_close_matches(PurePosixPath(name).name, bare, n=1, cutoff=0.75)
    guess = f"did you mean {bare[close[0]]}? " if close else ""
    return ModelNotFound(
        f"{name}: no known model, converted folder or checkpoint; {guess}known: {', '.join(names)}; "
        f"a checkpoint of your own is given as its folder or .pt file"
    )

"""Known models, and the folders of converted ones on this machine."""

import difflib
import hashlib
import json
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from e2v_port.errors import ModelNotFound, cut
from e2v_port.files import packaged

if TYPE_CHECKING:
    from e2v_port.audio import Waveform

__all__ = [
    "BUNDLED",
    "Accuracy",
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

BUNDLED = "bundled"  # the model used where none is named; like others, it is part of the package


@dataclass(frozen=True)
class Published:
    """Published outputs of a model, to check a conversion against.

    Attributes:
        name: Name of the input in tables.
        clip: Where to find the clip; empty for an input that is computed.
        clip_sha256: Hash of the clip.
        outputs: Dimensions, or each logit minus the first one, in the order of the labels.
        tolerance: Largest absolute difference that still counts as equal; infinite for outputs that are only shown.
        source: Publication they are taken from.
    """

    name: str
    clip: str
    clip_sha256: str
    outputs: tuple[float, ...]
    tolerance: float
    source: str

    def signal(self, clip: Path | None) -> "Waveform | None":
        """Returns the input [samples] at 16 kHz, computed or read from `clip`; None if `clip` is another one."""
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
class Accuracy:
    """A published accuracy of a model, as published: nothing of it was measured here, unless the source says so.

    Attributes:
        test_set: Speech that it was measured on.
        figure: The figure with its kind, such as `accuracy 0.686, macro-F1 0.677`.
        source: Publication it is taken from, with what has to be known about it.
    """

    test_set: str
    figure: str
    source: str


@dataclass(frozen=True)
class KnownModel:
    """One row of the manifest in weights/.

    Attributes:
        id: Name of the model in this project.
        family: Family, as in `registry.FAMILIES`.
        modelscope: Repository on ModelScope; empty without one.
        huggingface: Repository on Hugging Face; empty without one.
        embed_dim: Length of an embedding.
        parameters: Number of weights, rounded.
        labels: Names of the outputs in order, labels or dimensions; empty for a model without a head.
        outputs: Names of its further outputs, such as age and sex.
        speakers: Whether it is a speaker encoder: its embeddings say who speaks, and it knows nothing of emotions.
        encoder: Repository of the encoder of a model that is published without it, as a network for each emotion; empty
            for others.
        licence: License of the weights.
        languages: Languages of the labeled speech it was trained on; empty if not known here.
        data: Speech it was trained on, in words; empty if not known here.
        accuracy: Published figures.
        sha256: Accepted hashes by file name; empty if none is known.
        published: Published outputs.
    """

    id: str
    family: str
    modelscope: str
    huggingface: str
    embed_dim: int
    parameters: int
    labels: tuple[str, ...]
    outputs: tuple[str, ...]
    speakers: bool
    encoder: str
    licence: str
    languages: tuple[str, ...]
    data: str
    accuracy: tuple[Accuracy, ...]
    sha256: dict[str, tuple[str, ...]]
    published: tuple[Published, ...]

    @property
    def bundled(self) -> bool:
        """Whether it comes converted, in the package; such a model is on no hub."""
        return not (self.modelscope or self.huggingface)


@cache
def known() -> tuple[KnownModel, ...]:
    """Returns every model of the manifest, in its order, those in the package first."""
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
        outputs=tuple(row.get("outputs", ())),
        speakers=row.get("speakers", False),
        encoder=row.get("encoder", ""),
        licence=row["licence"],
        languages=tuple(row.get("languages", ())),
        data=row.get("data", ""),
        accuracy=tuple(Accuracy(each["set"], each["figure"], each["source"]) for each in row.get("accuracy", ())),
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
    """Returns the given names, or those of a table in taxonomy/."""
    if not isinstance(classes, str):
        return tuple(classes or ())
    table = json.loads(files("e2v_port.taxonomy").joinpath(f"{classes}.json").read_text("utf-8"))
    return tuple(row["label"] for row in table["classes"])


def lookup(name: str) -> KnownModel | None:
    """Returns the known model with this id, repository on either hub, or last part of its id; None without one."""
    for model in known():
        if name and name in {model.id, model.modelscope, model.huggingface, PurePosixPath(model.id).name}:
            return model
    return None


def roots() -> list[Path]:
    """Returns the folders that hold converted models, in the order they are searched.

    `$E2V_WEIGHTS` first where it is set, then the user's cache: `$XDG_CACHE_HOME/e2v-port`, by default
    `~/.cache/e2v-port` (`~/Library/Caches/e2v-port` on macOS). Conversions are written to the first. The package's own
    folder, with the bundled models, is searched after them: see `find`. A user without a home folder has no cache.
    """
    places = [Path(named)] if (named := os.environ.get("E2V_WEIGHTS")) else []
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        places.append(Path(cache_home, "e2v-port"))
    else:
        with suppress(RuntimeError):  # neither HOME nor an entry in the list of users, as in some containers
            inside = "Library/Caches" if sys.platform == "darwin" else ".cache"
            places.append(Path.home() / inside / "e2v-port")
    return places


def is_converted(folder: Path) -> bool:
    """Returns whether a folder holds a converted model: both files, since a conversion writes both or neither.

    A transformers checkpoint has files of the same names, but a config.json of another kind.
    """
    if not all(os.path.isfile(folder / name) for name in ("config.json", "model.safetensors")):
        return False
    try:
        return "model_type" not in json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, TypeError):
        return True  # damaged, which is reported when it is read


def destination(name: str, dtype: str = "float32") -> Path:
    """Returns the folder that a model of this name is converted to; float32 has the plain name.

    Raises:
        ModelNotFound: There is no folder for converted models.
    """
    if not (places := roots()):
        raise ModelNotFound(f"{name}: no folder for converted models, since this user has no home: set E2V_WEIGHTS")
    return places[0] / (name if dtype == "float32" else f"{name}-{dtype}")


def find(name: str) -> Path | None:
    """Returns the converted folder of a model, or None; `name` is an id, which may end in `-float16` etc."""
    model = lookup(name)
    relative = PurePosixPath(model.id if model else name)
    if relative.is_absolute() or ".." in relative.parts:
        return None
    found = next((root / relative for root in roots() if is_converted(root / relative)), None)
    package = packaged("e2v_port.weights") / relative
    return package if found is None and is_converted(package) else found


def converted() -> list[str]:
    """Returns the names of all models converted on this machine, sorted."""
    return sorted(
        {
            config.parent.relative_to(root).as_posix()
            for root in roots()
            for config in root.glob("*/*/config.json")
            if is_converted(config.parent) and not config.parent.name.startswith(".")
        }
    )


def not_found(name: str) -> ModelNotFound:
    """Returns the error for an unknown name; it suggests a known one that is spelled like it."""
    names = sorted({model.id for model in known()} | set(converted()))
    bare = {PurePosixPath(candidate).name: candidate for candidate in names}
    close = difflib.get_close_matches(PurePosixPath(name).name, bare, n=1, cutoff=0.75)
    guess = f"did you mean {bare[close[0]]}? " if close else ""
    return ModelNotFound(
        f"{cut(name, 80)}: not a known model, converted folder or checkpoint; {guess}e2v models lists the known ones; "
        f"for a checkpoint of your own, pass its folder or .pt file"
    )

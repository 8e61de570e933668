"""Second half of a conversion: npz -> folder with model.safetensors and config.json.

    python -m e2v_port.converters.weights IN.npz FOLDER [--dtype float16]

needs only numpy and safetensors, neither torch nor MLX.
"""

import argparse
import base64
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from e2v_port import __version__
from e2v_port.architectures import tensors
from e2v_port.architectures.base import Transformer
from e2v_port.architectures.config import DTYPES, ModelConfig, Source
from e2v_port.architectures.quantization import QUANTIZED
from e2v_port.architectures.registry import FAMILIES
from e2v_port.architectures.sensevoice import PIECES, TEXT
from e2v_port.architectures.shapes import Shape
from e2v_port.checkpoints import catalog
from e2v_port.errors import CheckpointError, E2VError

from . import heads
from .folder import store
from .rules import Converter, Described, Dialect, Piece, converter, dialect, plan, unmatched

__all__ = ["write"]

ABOUT = "checkpoint.json"  # as written by the first half, which needs more packages
SAMPLING_RATE = 16_000  # Hz, of every known model


class _Npz:
    """The first half's npz, read one tensor at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._members = zipfile.ZipFile(path)
            if any(member.compress_type != zipfile.ZIP_STORED for member in self._members.infolist()):
                raise ValueError("it is compressed")
            if damaged := self._members.testzip():
                raise ValueError(f"{damaged!r} is damaged")
            about = json.loads(str(self.read(ABOUT)))
            self.config: dict[str, Any] | None = about["config"]
            self.tokens: list[str] = about["tokens"]
            self.preprocessor: dict[str, Any] | None = about["preprocessor"]
            pieces = about.get("pieces")
            self.pieces = None if pieces is None else base64.b64decode(pieces, validate=True)
            self.source = Source(**about["source"])
            self.shapes = {name: shape for name, shape in self._shapes() if name != ABOUT}
            if len(self.shapes) != about["tensors"]:
                raise ValueError(f"{len(self.shapes)} of {about['tensors']} tensors are left")
        except (OSError, zipfile.BadZipFile, EOFError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is not an npz of python -m e2v_port.converters.checkpoint ({error}): write it again"
            ) from error

    def _shapes(self) -> Iterator[tuple[str, Shape]]:
        for name in self._members.namelist():
            if name.endswith(".npy"):
                with self._members.open(name) as member:
                    np.lib.format.read_magic(member)
                    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
                if dtype != np.float32 and name != f"{ABOUT}.npy":
                    raise ValueError(f"{name!r} is {dtype}")
                yield name.removesuffix(".npy"), shape

    def read(self, name: str) -> NDArray[Any]:
        try:
            with self._members.open(f"{name}.npy") as member:
                array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
                return array
        except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
            raise CheckpointError(f"{self.path}: {name} is damaged ({error}): write the npz again") from error

    def convert(self, pieces: list[Piece]) -> Iterator[tuple[str, NDArray[Any]]]:
        for piece in pieces:
            yield from piece.convert(*map(self.read, piece.sources)).items()


def _configure(
    npz: _Npz, dtype: str, described: Mapping[str, Any] | None, note: Callable[[str], None]
) -> tuple[ModelConfig, list[Piece]]:
    """Plans the conversion; raises one error that lists every problem of the checkpoint."""
    repository = npz.source.repository
    model = catalog.lookup(repository)
    special = _dialect(npz)
    family, found = (special.family, None) if special else _recognized(npz)
    problems: list[str] = []
    try:
        _check_rate(npz.preprocessor or {})
        if special:
            if described:
                raise CheckpointError("its head is known: convert it without --head")
            pieces, targets, problems = plan(special.rules, npz.shapes)
            made = special.describe()
        else:
            assert found is not None
            head = _head(npz, family, found, described, model, note)
            pieces, targets, problems = plan((*found.rules, *head.rules), npz.shapes)
            made = Described(*found.describe(npz.config, npz.tokens, npz.preprocessor, targets, note), found.others)
            if head != heads.NONE:
                assert isinstance(made.architecture, Transformer)
                made = Described(head.on(made.architecture), head.labels, head.rows)
                # A sum of layers without the final norm does not use it.
                unread = {name for name in targets if name.startswith("norm.")} - made.architecture.tensors().keys()
                pieces = [piece for piece in pieces if unread.isdisjoint(piece.targets)]
                targets = {name: shape for name, shape in targets.items() if name not in unread}
    except (CheckpointError, ValueError) as error:
        raise CheckpointError(f"{repository}: {'; '.join([str(error), *problems])}") from error
    if (rows := made.architecture.num_labels) != len(made.labels):
        problems.append(f"{len(made.labels)} labels for {rows} rows of the head")
    problems += tensors.differences(targets, made.architecture.tensors())
    if problems:
        raise CheckpointError(
            f"{repository}: the checkpoint does not fit its configuration, nothing was converted: {'; '.join(problems)}"
        )
    config = ModelConfig(
        family=family,
        architecture=made.architecture,
        labels=made.labels,
        dtype=dtype,
        sampling_rate=SAMPLING_RATE,
        temperature=1.0,
        licence=model.licence if model else "unknown: see where the checkpoint came from",
        source=npz.source,
        converter=f"e2v-port {__version__}",
        others=dict(made.others),
    )
    return config, pieces


def _dialect(npz: _Npz) -> Dialect | None:
    """Returns the published layout that a checkpoint has, if it is none that a family's own library writes."""
    try:
        return dialect(npz.shapes, npz.config)
    except CheckpointError as error:
        raise CheckpointError(f"{npz.source.repository}: {error}") from error


def _head(
    npz: _Npz,
    family: str,
    found: Converter,
    described: Mapping[str, Any] | None,
    model: catalog.KnownModel | None,
    note: Callable[[str], None],
) -> heads.Head:
    """Returns the head of a checkpoint of transformers; `heads.NONE` if the family's own rules know its tensors."""
    if not (issubclass(FAMILIES[family].architecture, Transformer) and "model_type" in (npz.config or {})):
        if npz.config and "hidden_size" in npz.config and "num_hidden_layers" in npz.config:
            raise CheckpointError('config.json has no model_type: add that of the encoder, such as "wav2vec2"')
        if described:
            raise CheckpointError("a head can be described for checkpoints of transformers only, with its config.json")
        return heads.NONE
    rest = unmatched(found.rules, npz.shapes)
    if adapted := [name for name in rest if re.search(r"\.(lora_|modules_to_save\.|original_module\.)", name)]:
        raise CheckpointError(
            f"{len(adapted)} tensors of an adapter of PEFT beside the weights ({adapted[0]}, ...): merge them with "
            "merge_and_unload(), save the model with save_pretrained(), and convert that"
        )
    return heads.find(rest, npz.config or {}, described=described, known=model.labels if model else None, note=note)


def _check_rate(preprocessor: Mapping[str, Any]) -> None:
    if (rate := preprocessor.get("sampling_rate", SAMPLING_RATE)) != SAMPLING_RATE:
        raise CheckpointError(f"preprocessor_config.json: sampling_rate is {rate!r}; only {SAMPLING_RATE} is supported")


def _recognized(npz: _Npz) -> tuple[str, Converter]:
    """Returns the one family that a checkpoint is of."""
    found = {name: each for name in FAMILIES if (each := converter(name)).recognize(npz.shapes, npz.config)}
    if len(found) != 1:
        names = ", ".join(list(npz.shapes)[:3])
        raise CheckpointError(
            f"{npz.source.repository}: a checkpoint of {' and of '.join(found) or 'no known family'}, by its tensors "
            f"({names}, ...); what can be converted: {', '.join(FAMILIES)}"
        )
    return next(iter(found.items()))


def write(
    npz: Path,
    folder: Path,
    *,
    dtype: str = "float32",
    keep_npz: bool = False,
    head: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> ModelConfig:
    """Writes the converted folder.

    Args:
        npz: File written by the first half.
        folder: Folder to write; see `folder.store`.
        dtype: Stored type: `float32`, `float16` or `bfloat16`; or `q8` or `q4`, for 8 or 4 bits per number.
        keep_npz: Whether to move the npz into the folder, as model.npz.
        head: JSON file that describes the head of a checkpoint of transformers: see docs/models.md.
        note: Called with a line for each size that was inferred rather than read.

    Returns:
        Content of config.json.

    Raises:
        CheckpointError: The npz is damaged; tensors are unknown, missing, of the wrong shape or not finite (the message
            names all of them); the model has no matrix to pack; or the folder holds something other than a converted
            model.
    """
    source = _Npz(npz)
    config, pieces = _configure(source, dtype, heads.read(head) if head else None, note)
    beside = _text(source, config.family, note)
    store(folder, config, lambda: source.convert(pieces), npz=npz if keep_npz else None, beside=beside)
    return config


def _text(npz: _Npz, family: str, note: Callable[[str], None]) -> dict[str, bytes]:
    """Returns the files from which words are read, by name; none for a family without any."""
    if (text := converter(family).text) is None or not {*text} <= npz.shapes.keys():
        return {}
    if npz.pieces is None:
        note("no pieces of words (*.bpe.model): converted without its text, so that no words can be read")
        return {}
    weight, bias = map(npz.read, text)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise CheckpointError(f"{npz.source.repository}: {text[0]} or {text[1]} is not finite, nothing was converted")
    return {TEXT: save({"weight": weight, "bias": bias}), PIECES: npz.pieces}


def main() -> None:
    """Command line of the second half."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.weights", description=__doc__.splitlines()[0])
    parser.add_argument("npz", type=Path, help="file written by python -m e2v_port.converters.checkpoint")
    parser.add_argument("folder", type=Path, help="folder of the converted model")
    parser.add_argument("--dtype", choices=[*DTYPES, *QUANTIZED], default="float32")
    parser.add_argument("--head", type=Path, help="JSON file that describes the head")
    arguments = parser.parse_args()
    try:
        write(arguments.npz, arguments.folder, dtype=arguments.dtype, head=arguments.head, note=print)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.folder} written")


if __name__ == "__main__":
    main()

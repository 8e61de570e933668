"""First half of a conversion: a checkpoint of PyTorch or CTranslate2 -> one npz with every tensor under its own name.

    python -m e2v_port.converters.checkpoint CHECKPOINT OUT.npz

needs no torch, except for checkpoints from before PyTorch 1.6. The npz also holds the checkpoint's config.yaml,
tokens.txt, am.mvn, pieces of words and origin: the second half, `python -m e2v_port.converters.weights`, can run on
another machine.
"""

import argparse
import base64
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError

from e2v_port import npz
from e2v_port.architectures.config import Source
from e2v_port.checkpoints.checkpoint import Checkpoint, local
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.unpickling import torch_save
from e2v_port.unpickling.machine import Placeholder
from e2v_port.unpickling.tensors import NoTensor, Tensor
from e2v_port.unpickling.torch_save import UnsafeFile

from . import ctranslate2, old_checkpoint, safetensors_file, speechbrain

__all__ = ["ABOUT", "extract"]

ABOUT = "checkpoint.json"  # name of the array that holds everything but the tensors, as text

# Classes left over from training in some checkpoints. A placeholder replaces them, so that none of their code runs. Any
# other class is refused.
LEFT_OVERS = ("argparse.Namespace", "omegaconf.", "numpy.", "typing.Any", "collections.defaultdict")

DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # of any parser

WRAPPERS = ("module.", "_orig_mod.")  # of torch's DistributedDataParallel and compile
POINTER = b"version https://git-lfs"  # how the stand-in of a file begins that Git LFS has not fetched

MAX_NAME = 200
MAX_ENTRIES = 100_000  # tensors and tables; tables that share tables can expand to any number
MAX_PIECES = 50 << 20  # bytes; the published ones have 0.4 MB
MAX_SETTINGS = 100_000  # a published config.yaml has a few hundred; nested aliases can expand to any number


def _load(path: Path) -> Any:
    """Reads a checkpoint without running anything in it.

    Raises:
        CheckpointError: The file would run code (the message names its globals), or is not a checkpoint.
    """
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            raise CheckpointError(f"{path} is a pointer of Git LFS, not the file itself: run `git lfs pull` there")
    if path.suffix == ".safetensors":
        try:
            return safetensors_file.read(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a safetensors file ({_first_line(error)})") from error
    try:
        return old_checkpoint.load(path) if old_checkpoint.recognize(path) else torch_save.read(path, LEFT_OVERS)
    except UnsafeFile as error:
        raise CheckpointError(
            f"{path} would run code when opened ({_plain(str(error))}): do not use this file"
        ) from error
    except DAMAGED as error:
        raise CheckpointError(f"{path} is damaged or not a PyTorch checkpoint ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    return _plain(next(iter(str(error).splitlines()), type(error).__name__))


def _plain(text: str) -> str:
    """Escapes names from a damaged file, which could write to the terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def _state(loaded: Any, path: Path) -> Mapping[str, Any]:
    """Unwraps the model's tensors, trying the same keys in the same order as FunASR, and then Resemblyzer's."""
    for key in ("state_dict", "model_state_dict", "model", "model_state"):
        if isinstance(loaded, Mapping) and key in loaded:
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__} instead of a table of tensors")
    return loaded


def _without_wrapper(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Removes what training in parallel (`module.`) and torch.compile put in front of every name."""
    for wrapper in WRAPPERS:
        if entries and all(name.startswith(wrapper) for name, _ in entries):
            return _without_wrapper([(name.removeprefix(wrapper), value) for name, value in entries])
    return entries


def _dims(loaded: Any, path: Path) -> dict[str, int | str]:
    """Returns the sizes that openai-whisper saves next to its tensors; an empty table for other checkpoints."""
    if not (isinstance(loaded, Mapping) and "dims" in loaded and "model_state_dict" in loaded):
        return {}
    dims = loaded["dims"]
    if not isinstance(dims, dict) or not all(type(name) is str and type(size) is int for name, size in dims.items()):
        raise CheckpointError(f"{path}: dims is not a table of sizes")
    return dict(islice(dims.items(), MAX_SETTINGS))


def _read(path: Path) -> tuple[list[tuple[str, Any]], dict[str, int | str]]:
    """Returns the tensors of a checkpoint of any format, and the settings that are stored with them."""
    if ctranslate2.recognize(path):
        return ctranslate2.read(path)
    loaded = _load(path)
    return list(_tensors(_state(loaded, path), path)), _dims(loaded, path)


def _tensors(
    state: Mapping[str, Any], path: Path, prefix: str = "", entries: Iterator[int] | None = None
) -> Iterator[tuple[str, Any]]:
    entries = count() if entries is None else entries
    if len(prefix) > MAX_NAME:
        raise CheckpointError(f"{path} holds a table that contains itself")
    for name, value in state.items():
        if next(entries) > MAX_ENTRIES:
            raise CheckpointError(f"{path} holds more than {MAX_ENTRIES} tensors and tables")
        if isinstance(value, Mapping):  # the pretraining teacher is a nested table
            yield from _tensors(value, path, f"{prefix}{name}.", entries)
        else:
            yield f"{prefix}{name}", value


def _fault(name: str, value: Any) -> str | None:
    """Returns what a value is instead of a weight; None for a weight."""
    if isinstance(value, NoTensor):
        return value.what
    if isinstance(value, Placeholder):
        return value.name
    if not isinstance(value, Tensor):
        return type(value).__name__
    counter = value.dtype.integer and name.endswith(".num_batches_tracked")  # of a batch norm
    if not (value.dtype.floating or counter):
        return f"a tensor of {value.dtype.name}"
    # A few bytes can be expanded to any shape, which would fill the disk.
    return "larger than its data" if value.nbytes > value.storage.data.size else None


def _array(tensor: Tensor, name: str, path: Path) -> NDArray[np.float32]:
    """float32 holds every float16 and bfloat16 exactly, and numpy has no bfloat16."""
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # the second half refuses what is not finite
            return np.ascontiguousarray(tensor.numpy(), np.float32).reshape(tensor.shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: {name} is damaged ({error})") from error


def _read_config(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        text = path.read_text("utf-8-sig")
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        settings = list(islice(json.JSONEncoder(default=str).iterencode(config), MAX_SETTINGS))
    except (*DAMAGED, yaml.YAMLError) as error:
        form = "JSON" if path.suffix == ".json" else "YAML"
        raise CheckpointError(f"{path} is not a readable {form} file ({_first_line(error)})") from error
    if not isinstance(config, dict) or len(settings) == MAX_SETTINGS:
        raise CheckpointError(f"{path} is not a table of settings")
    return config


def _read_tokens(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8-sig")
        tokens = json.loads(text) if path.suffix == ".json" else [line.rstrip() for line in text.splitlines()]
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable list of tokens ({error})") from error
    if not isinstance(tokens, list):
        raise CheckpointError(f"{path} is not a list of tokens")
    while tokens and not tokens[-1]:
        tokens.pop()
    return [str(token) for token in tokens]


def _settings(checkpoint: Checkpoint, inside: Mapping[str, int | str]) -> dict[str, Any]:
    """Returns config, tokens and preprocessor of a checkpoint; `inside` are the settings among its weights."""
    if checkpoint.head_weights:
        assert checkpoint.config
        assert checkpoint.tokens
        config, preprocessor = speechbrain.read_settings(checkpoint.config)
        labels = speechbrain.read_labels(checkpoint.tokens)
        return {
            "config": config | {"id2label": dict(enumerate(labels))},
            "tokens": labels,
            "preprocessor": preprocessor,
        }
    if checkpoint.config and checkpoint.config.name == "hyperparams.yaml":
        return {"config": speechbrain.read_encoder(checkpoint.config), "tokens": [], "preprocessor": None}
    config, preprocessor = _read_config(checkpoint.config), _read_config(checkpoint.preprocessor)
    return {
        "config": (config or {}) | dict(inside) if inside else config,
        "tokens": _read_tokens(checkpoint.tokens),
        # Of a processor with a tokenizer, the part for audio.
        "preprocessor": (preprocessor or {}).get("feature_extractor", preprocessor),
    }


def _read_cmvn(path: Path | None) -> dict[str, NDArray[np.float32]]:
    """Returns what is added to FunASR's features and what they are then multiplied by, as `WavFrontend` reads them."""
    if path is None:
        return {}
    try:
        lines = [line.split() for line in path.read_text("utf-8").splitlines()]
        found = {}
        for layer, name in (("<AddShift>", "cmvn.shift"), ("<Rescale>", "cmvn.scale")):
            (numbers,) = (after for line, after in pairwise(lines) if line[:1] == [layer])
            if numbers[0] != "<LearnRateCoef>" or numbers[2] != "[" or numbers[-1] != "]":
                raise ValueError(f"{layer} is followed by {' '.join(numbers)[:40]!r}")
            found[name] = np.array(numbers[3:-1]).astype(np.float32)
    except (OSError, IndexError, ValueError) as error:
        raise CheckpointError(f"{path} does not hold the scaling of features ({_first_line(error)})") from error
    return found


def _read_pieces(path: Path | None) -> str | None:
    """Returns sentencepiece's file as text, in base64."""
    if path is None:
        return None
    try:
        content = path.read_bytes() if path.stat().st_size <= MAX_PIECES else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from error
    if not content:
        raise CheckpointError(f"{path} is not a table of pieces of words: it is empty or larger than 50 MiB")
    return base64.b64encode(content).decode()


def extract(checkpoint: Checkpoint, out: Path) -> None:
    """Writes a checkpoint's tensors, configuration, tokens and origin to one npz.

    Args:
        checkpoint: Checkpoint to read.
        out: npz to write; it is complete or absent at every moment.

    Raises:
        CheckpointError: The checkpoint would run code, is damaged, or holds anything but float tensors.
    """
    path = checkpoint.weights
    entries: list[tuple[str, Any]] = []
    for each in checkpoint.tensors:
        found, inside = _read(each)
        entries += found
    entries = _without_wrapper(entries)
    if checkpoint.head_weights:
        entries = speechbrain.joined(entries, _read(checkpoint.head_weights)[0])
    tensors = dict(entries)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    wrong = [f"{name} is {fault}" for name, value in entries if (fault := _fault(name, value))]
    wrong += [
        f"{name!r} is not a valid name"
        for name in tensors
        if not name.isprintable() or len(name) > 2 * MAX_NAME or name == ABOUT
    ]
    wrong += [f"{name} occurs twice" for name, number in Counter(name for name, _ in entries).items() if number > 1]
    if wrong:
        raise CheckpointError(f"{path} holds entries that are not weights: {'; '.join(wrong)}")
    source = Source(
        repository=checkpoint.repository,
        hub=checkpoint.hub,
        revision=checkpoint.revision,
        file=path.name,
        sha256=checkpoint.sha256(),
    )
    scaling = _read_cmvn(checkpoint.cmvn)
    about = {
        **_settings(checkpoint, inside),
        "pieces": _read_pieces(checkpoint.pieces),
        "source": asdict(source),
        "tensors": len(tensors) + len(scaling),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with npz.writing(out) as add:
        add(ABOUT, np.array(json.dumps(about, default=str)))
        for name, tensor in tensors.items():
            add(name, _array(tensor, name, path))
        for name, values in scaling.items():
            add(name, values)


def main() -> None:
    """Command line of the first half."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder with model.pt, config.yaml and tokens.txt; or a .pt file")
    parser.add_argument("out", type=Path, help=".npz to write")
    arguments = parser.parse_args()
    try:
        extract(local(arguments.checkpoint), arguments.out)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.out} written; next: python -m e2v_port.converters.weights {arguments.out} FOLDER")


if __name__ == "__main__":
    main()

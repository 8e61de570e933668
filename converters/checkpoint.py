"""First half of a conversion: a PyTorch checkpoint -> one npz with every tensor under its own name.

    python -m e2v_port.converters.checkpoint CHECKPOINT OUT.npz

needs torch. The npz also carries the checkpoint's config.yaml and tokens.txt and where it came from, so that
the second half, `python -m e2v_port.converters.weights`, can run on another machine without torch.
"""

import argparse
import hashlib
import json
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from e2v_port import npz
from e2v_port.config import Source
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.hubs import Checkpoint, local

__all__ = ["ABOUT", "extract"]

ABOUT = "checkpoint.json"  # the array with everything that is not a tensor, as text

# Left-overs of training that stand beside the weights in some checkpoints. An inert class takes their place, so
# that nothing of them runs. Any other name is refused.
LEFT_OVERS = ("argparse.Namespace", "omegaconf.", "numpy.", "typing.Any", "collections.defaultdict")
BUILTINS = {f"builtins.{name}" for name in ("dict", "list", "tuple", "set", "str", "int", "float", "bool")}


DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)  # of any parser

MAX_NAME = 200
MAX_SETTINGS = 100_000  # a published config.yaml has a few hundred; aliases of aliases unfold to any number


class _Inert:
    """Stands for an object of training that is not needed: takes any arguments and any state, does nothing."""

    def __new__(cls, *_: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _load(path: Path) -> Any:
    """Unpickles a checkpoint without running anything in it.

    Raises:
        CheckpointError: The file would run code (its global is named), or is no checkpoint.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is no safetensors file ({_first_line(error)})") from error
    try:
        with warnings.catch_warnings(action="ignore"):
            zipped = zipfile.is_zipfile(path)
            # The older format cannot be searched or memory-mapped: there torch's own short list is all there is.
            names = get_unsafe_globals_in_checkpoint(path) if zipped else []
            refused = [name for name in names if not name.startswith(LEFT_OVERS) and name not in BUILTINS]
            if refused:
                raise _unsafe(path, sorted(refused))
            with safe_globals([(_Inert, name) for name in names]):
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        cause = error.__context__ or error  # torch puts advice around it that would be wrong here
        if found := re.search(r"GLOBAL (\S+)", str(cause)):
            raise _unsafe(path, [found[1]]) from error
        raise CheckpointError(f"{path} is no PyTorch checkpoint ({_first_line(cause)})") from error
    except (*DAMAGED, EOFError, AssertionError, struct.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint ({_first_line(error)})") from error


def _unsafe(path: Path, names: Iterable[str]) -> CheckpointError:
    calls = _plain(", ".join(names))
    return CheckpointError(f"{path} would execute code when opened: it calls {calls}; do not use this file")


def _first_line(error: BaseException) -> str:
    return _plain(next(iter(str(error).splitlines()), type(error).__name__))


def _plain(text: str) -> str:
    """Keeps what a damaged file has for names from writing to the terminal."""
    return text if text.isprintable() else repr(text)[1:-1]


def _state(loaded: Any, path: Path) -> Mapping[str, Any]:
    """Unwraps the model's tensors in the order FunASR does."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and key in loaded:
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds no table of tensors but a {type(loaded).__name__}")
    return loaded


def _tensors(state: Mapping[str, Any], path: Path, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if len(prefix) > MAX_NAME:
        raise CheckpointError(f"{path} holds a table that holds itself")
    for name, value in state.items():
        if isinstance(value, Mapping):  # the pretraining teacher is a table inside the table
            yield from _tensors(value, path, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _fault(name: str, value: Any) -> str | None:
    """Returns what a value is if it is no weight."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    counter = name.endswith(".num_batches_tracked")  # a batch norm's, beside its weights
    if not (value.is_floating_point() or counter) or value.layout != torch.strided:
        return f"a tensor of {value.dtype}, {value.layout}"
    # A few bytes can be spread over any shape, to fill the disk.
    if value.device.type != "cpu" or value.nbytes > value.untyped_storage().nbytes():
        return "larger than its data"
    return None


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """float32 holds every float16 and bfloat16 exactly, and numpy has no bfloat16."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _read_config(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        config = yaml.safe_load(path.read_text("utf-8-sig"))
        settings = list(islice(json.JSONEncoder(default=str).iterencode(config), MAX_SETTINGS))
    except (*DAMAGED, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is no readable YAML file ({_first_line(error)})") from error
    if not isinstance(config, dict) or len(settings) == MAX_SETTINGS:
        raise CheckpointError(f"{path} is no table of settings")
    return config


def _read_tokens(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8-sig")
        tokens = json.loads(text) if path.suffix == ".json" else [line.rstrip() for line in text.splitlines()]
    except (OSError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable list of tokens ({error})") from error
    if not isinstance(tokens, list):
        raise CheckpointError(f"{path} is no list of tokens")
    while tokens and not tokens[-1]:
        tokens.pop()
    return [str(token) for token in tokens]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract(checkpoint: Checkpoint, out: Path) -> None:
    """Writes a checkpoint's tensors, configuration, tokens and origin to one npz.

    Args:
        checkpoint: What to read.
        out: The npz; it appears whole or not at all.

    Raises:
        CheckpointError: The checkpoint would run code, is damaged, or holds what is no float tensor.
    """
    path = checkpoint.weights
    entries = list(_tensors(_state(_load(path), path), path))
    tensors = dict(entries)
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    wrong = [f"{name} is {fault}" for name, value in entries if (fault := _fault(name, value))]
    wrong += [
        f"{name!r} is no name"
        for name in tensors
        if not name.isprintable() or len(name) > 2 * MAX_NAME or name == ABOUT
    ]
    wrong += [f"{name} is there twice" for name, number in Counter(name for name, _ in entries).items() if number > 1]
    if wrong:
        raise CheckpointError(f"{path} holds what is no weight: {'; '.join(wrong)}")
    source = Source(
        repository=checkpoint.repository,
        hub=checkpoint.hub,
        revision=checkpoint.revision,
        file=path.name,
        sha256=_sha256(path),
    )
    about = {
        "config": _read_config(checkpoint.config),
        "tokens": _read_tokens(checkpoint.tokens),
        "preprocessor": _read_config(checkpoint.preprocessor),
        "source": asdict(source),
        "tensors": len(tensors),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with npz.writing(out) as add:
        add(ABOUT, np.array(json.dumps(about, default=str)))
        for name, tensor in tensors.items():
            add(name, _array(tensor))


def main() -> None:
    """Command line of the first half."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.checkpoint", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder with model.pt, config.yaml, tokens.txt; or a .pt file")
    parser.add_argument("out", type=Path, help="the .npz to write")
    arguments = parser.parse_args()
    try:
        extract(local(arguments.checkpoint), arguments.out)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.out} written; next: python -m e2v_port.converters.weights {arguments.out} FOLDER")


if __name__ == "__main__":
    main()

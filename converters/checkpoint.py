"""First half of a conversion: a PyTorch checkpoint -> one npz with every tensor under its own name.

    python -m e2v_port.converters.checkpoint CHECKPOINT OUT.npz

needs torch. The npz also carries the checkpoint's config.yaml and tokens.txt and where it came from, so that
the second half, `python -m e2v_port.converters.weights`, can run on another machine without torch.
"""

import argparse
import hashlib
import json
import pickle
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
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
    zipped = zipfile.is_zipfile(path)
    try:
        # The older format cannot be searched or memory-mapped: there torch's own short list is all there is.
        names = get_unsafe_globals_in_checkpoint(path) if zipped else []
        refused = [name for name in names if not name.startswith(LEFT_OVERS) and name not in BUILTINS]
        if refused:
            raise CheckpointError(
                f"{path} would execute code when opened: it calls {', '.join(sorted(refused))}; do not use this file"
            )
        with safe_globals([(_Inert, name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        reason = str(error)
        if "GLOBAL " in reason:
            name = reason.split("GLOBAL ", 1)[1].split(maxsplit=1)[0]
            raise CheckpointError(
                f"{path} would execute code when opened: it calls {name}; do not use this file"
            ) from error
        raise CheckpointError(f"{path} is no PyTorch checkpoint ({reason.splitlines()[0]})") from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AssertionError, OSError) as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint ({lines[0]})") from error


def _state(loaded: Any, path: Path) -> Mapping[str, Any]:
    """Unwraps the model's tensors in the order FunASR does."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and key in loaded:
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path} holds no table of tensors but a {type(loaded).__name__}")
    return loaded


def _tensors(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):  # the pretraining teacher is a table inside the table
            yield from _tensors(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    """float32 holds every float16 and bfloat16 exactly, and numpy has no bfloat16."""
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _read_config(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} is no readable YAML file ({str(error).splitlines()[0]})") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no table of settings")
    return config


def _read_tokens(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        text = path.read_text("utf-8")
        tokens = json.loads(text) if path.suffix == ".json" else [line.rstrip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable list of tokens ({error})") from error
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
    tensors = dict(_tensors(_state(_load(path), path)))
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    wrong = [
        f"{name} is {f'a {value.dtype} tensor' if isinstance(value, torch.Tensor) else type(value).__name__}"
        for name, value in tensors.items()
        if not (isinstance(value, torch.Tensor) and value.is_floating_point() and value.layout == torch.strided)
    ]
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
        "source": asdict(source),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with npz.writing(out) as add:
        add(ABOUT, np.array(json.dumps(about, ensure_ascii=False, default=str)))
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

"""silero-vad's network for 16 kHz, for speech detection: its program of torch.jit.save -> one safetensors file.

    python -m e2v_port.converters.silero silero_vad.jit weights/silero/model.safetensors

needs neither torch nor silero-vad, and runs nothing that the file holds.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from e2v_port.architectures.tensors import differences
from e2v_port.checkpoints.clients import sha256_of
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.files import replacing
from e2v_port.speech.silero import TENSORS
from e2v_port.unpickling import torch_save
from e2v_port.unpickling.machine import Placeholder
from e2v_port.unpickling.tensors import Tensor

from .rules import Rule, plan

__all__ = ["convert"]

RULES = (
    Rule("_model.stft.forward_basis_buffer", ("stft",)),
    Rule("_model.encoder.{i}.reparam_conv.weight", ("conv{i}.weight",)),
    Rule("_model.encoder.{i}.reparam_conv.bias", ("conv{i}.bias",)),
    Rule("_model.decoder.rnn.weight_ih", ("lstm.weight_ih",)),
    Rule("_model.decoder.rnn.weight_hh", ("lstm.weight_hh",)),
    Rule("_model.decoder.rnn.bias_ih", ("lstm.bias_ih",)),
    Rule("_model.decoder.rnn.bias_hh", ("lstm.bias_hh",)),
    Rule("_model.decoder.decoder.2.weight", ("output.weight",)),
    Rule("_model.decoder.decoder.2.bias", ("output.bias",)),
    Rule("_model_8k.{*}", why="the network for 8 kHz: every clip is resampled to 16 kHz"),
    Rule("_state", why="what the program keeps between calls, empty in the file"),
    Rule("_context", why="what the program keeps between calls, empty in the file"),
)


def convert(program: Path, out: Path) -> None:
    """Writes the network as a safetensors file. Its metadata name the program and its hash.

    Args:
        program: silero_vad.jit of the package silero-vad, version 6.
        out: File to write; one that is there is replaced.

    Raises:
        CheckpointError: The program is damaged, would run code or holds another network; the message names every tensor
            that is missing, unknown or of another shape.
    """
    try:
        found = dict(_tensors(torch_save.read(program, ("__torch__.", "torch.jit._pickle."), program=True)))
        pieces, targets, problems = plan(RULES, {name: tensor.shape for name, tensor in found.items()})
        if problems := problems + differences(targets, TENSORS):
            raise ValueError("; ".join(problems))
        arrays: dict[str, NDArray[Any]] = {}
        for piece in pieces:
            arrays |= piece.convert(*(found[name].numpy() for name in piece.sources))
    except torch_save.UnsafeFile as error:
        raise CheckpointError(f"{program} would run code when opened ({error}): do not use this file") from error
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(f"{program} is not the network of silero-vad 6 ({error}): pass its own file") from error
    if lost := [name for name, array in arrays.items() if array.dtype != np.float32 or not np.isfinite(array).all()]:
        raise CheckpointError(f"{program}: not finite numbers of float32: {', '.join(lost)}; get a complete copy")
    # A single entry: several are written in any order, and the same program would give other bytes.
    about = {"source": f"{program.name}, sha256 {sha256_of(program)}"}
    with replacing(out) as partial:
        partial.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, about))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a module of torch.jit and of the modules inside it, by the names of their attributes."""
    for name, value in module.state.items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, Placeholder) and isinstance(value.state, dict):
            yield from _tensors(value, f"{prefix}{name}.")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.silero", description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="silero_vad/data/silero_vad.jit of the package silero-vad")
    parser.add_argument("out", type=Path, help="safetensors file to write")
    arguments = parser.parse_args()
    try:
        convert(arguments.program, arguments.out)
    except (E2VError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{arguments.out} written")


if __name__ == "__main__":
    main()

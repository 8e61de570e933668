"""The ways to run a model: e2v-port and the library the model comes from, called in the same way."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from e2v_port.architectures.config import ModelConfig
from e2v_port.bench import funasr_mlx
from e2v_port.errors import AudioError, RuntimeUnavailable
from e2v_port.models.model import Model
from e2v_port.parity import references, verify
from e2v_port.parity.references import Vector

__all__ = ["Contender", "e2v", "has_mlx", "library", "loader", "peer", "program"]


@dataclass(frozen=True)
class Contender:
    """One way to run a model.

    Attributes:
        name: E.g. `e2v float32` or `FunASR`.
        dtype: Type it computes in.
        peer: Whether it is the library to compare with.
        answer: Runs clips, given by path; returns the probabilities, dimensions or embedding of each.
    """

    name: str
    dtype: str
    peer: bool
    answer: Callable[[list[str]], list[Vector]]


def e2v(model: Model, name: str) -> Contender:
    """Returns a loaded model as a contender."""

    def answer(paths: list[str]) -> list[Vector]:
        return [_answer(model, result) for result in model.each(paths)]

    return Contender(name, model.dtype, peer=False, answer=answer)


def _answer(model: Model, result: Any) -> Vector:
    if isinstance(result, AudioError):
        raise result
    if model.config.dimensional:
        return np.array([*model.measure(result).to_dict().values()], np.float32)
    return np.array([*model.judge(result).scores.values()], np.float32) if model.labels else result[1].embedding


def peer(config: ModelConfig, device: str) -> Contender:
    """Loads the unconverted checkpoint with the library the model comes from; on MLX, with its port to MLX.

    Raises:
        RuntimeUnavailable: The library is not installed, or no library has this family.
        CheckpointError, ModelNotFound: The checkpoint is missing, or the library cannot read it.
    """
    return Contender(library(config, device), "float32", peer=True, answer=loader(config, device)())


def loader(config: ModelConfig, device: str) -> Callable[[], Callable[[list[str]], list[Vector]]]:
    """Returns a function that loads the checkpoint with its library and returns `Contender.answer`.

    Raises:
        RuntimeUnavailable, CheckpointError, ModelNotFound: See `peer`.
    """
    found = _peer(config, device)
    checkpoint = verify.checkpoint_of(config, None)
    return lambda: found.load(checkpoint, device)


def library(config: ModelConfig, device: str) -> str:
    """Returns the name of the library that a device is measured beside."""
    return _peer(config, device).library


def program(config: ModelConfig, device: str) -> str:
    """Returns what a user of that library writes to judge one clip, empty if nothing; see `references.Peer`."""
    return _peer(config, device).program


def has_mlx(config: ModelConfig) -> bool:
    """Returns whether a library that runs the family on MLX is installed."""
    return config.family == funasr_mlx.FAMILY and funasr_mlx.installed()


def _peer(config: ModelConfig, device: str) -> references.Peer:
    if device == "mlx":
        return funasr_mlx.PEER
    found = references.peer(config.family)
    if found is None:
        raise RuntimeUnavailable(f"no library has {config.family}")
    if not references.installed(config.family):
        raise RuntimeUnavailable(f"{found.library} is not installed")
    return found

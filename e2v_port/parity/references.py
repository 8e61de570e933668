"""The implementations that converted models are compared with, run stage by stage on the CPU.

Each family has its own in the module of its name, as `REFERENCE`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import Waveform
from e2v_port.checkpoints.checkpoint import Checkpoint

__all__ = ["Hooks", "Peer", "Reference", "Tolerances", "installed", "peer", "reference", "reference_of", "tensors"]

# Layouts of their own: a key that only their config.json has, and module and class of the reference for each family.
PUBLISHED = {
    "ssl_type": {"wavlm": ("published", "Odyssey")},
    "pretrain_model": {"wavlm": ("published", "VoxProfileWavLM"), "whisper": ("published", "VoxProfileWhisper")},
}

Vector = NDArray[np.float32]
Stages = Mapping[str, Vector]


@dataclass(frozen=True)
class Tolerances:
    """Largest absolute difference from the reference that float32 may show between waveform and outputs.

    Attributes:
        hidden: Tolerance of a hidden stage.
        share: Tolerance of a hidden stage with large values, as a share of the largest: float32 has seven digits.
        stages: Tolerances of the stages that differ from it, by name.
    """

    hidden: float = 1e-4
    share: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """A library as its users run it, to compare speed with.

    Attributes:
        library: Name of the library.
        program: Program that judges one clip in a process of its own. Arguments: checkpoint folder, device, clip.
        load: Loads an unconverted checkpoint on a device, and returns a function that runs clips, given by path.
    """

    library: str
    program: str
    load: Callable[[Checkpoint, str], Callable[[list[str]], list[Vector]]]


class Reference(Protocol):
    """A model built and filled by its own library from an unconverted checkpoint.

    Attributes:
        library: Library that it is built with; its package has the same name in lower case.
        tolerances: Largest differences that a conversion may have.
    """

    library: ClassVar[str]
    tolerances: ClassVar[Tolerances]

    def __init__(self, checkpoint: Checkpoint) -> None: ...

    def stages(self, waveform: Waveform) -> Stages:
        """Runs one clip and returns the value of every stage, under the names that `Model.stages` uses."""


def reference(family: str) -> type[Reference] | None:
    """Returns the reference of a registered family; None where there is none."""
    name = f"e2v_port.parity.{family}"
    if find_spec(name) is None:
        return None
    found: type[Reference] = import_module(name).REFERENCE
    return found


def reference_of(family: str, checkpoint: Checkpoint) -> type[Reference] | None:
    """Returns the reference of a checkpoint: that of its family, unless its config.json is one of `PUBLISHED`."""
    config = checkpoint.config
    settings = json.loads(config.read_text("utf-8")) if config and config.suffix == ".json" else {}
    for key, kinds in PUBLISHED.items():
        if key in settings and family in kinds:
            module, name = kinds[family]
            found: type[Reference] = getattr(import_module(f"e2v_port.parity.{module}"), name)
            return found
    return reference(family)


def peer(family: str) -> Peer | None:
    """Returns the library that has a registered family; None where none has."""
    name = f"e2v_port.parity.{family}"
    if find_spec(name) is None:
        return None
    found: Peer | None = getattr(import_module(name), "PEER", None)
    return found


def installed(family: str) -> bool:
    """Returns whether a family has a reference whose library is installed."""
    found = reference(family)
    return found is not None and find_spec(found.library.lower()) is not None


class Hooks:
    """Keeps what modules return, first of the batch, as float32 arrays under given names."""

    def __init__(self) -> None:
        self.found: dict[str, NDArray[np.float32]] = {}
        self._handles: list[Any] = []

    def keep(self, name: str, module: Any, pick: Callable[[Any], Any] = lambda output: output) -> None:
        """Keeps what a module returns, or a part of it."""

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            self.found[name] = pick(output)[0].float().numpy().copy()

        self._handles.append(module.register_forward_hook(hook))

    def keep_input(self, name: str, module: Any, pick: Callable[[Any], Any]) -> None:
        """Keeps a part of what a module is called with."""

        def hook(_module: Any, inputs: Any) -> None:
            self.found[name] = pick(inputs)[0].float().numpy().copy()

        self._handles.append(module.register_forward_pre_hook(hook))

    def remove(self) -> None:
        """Takes the hooks off the modules."""
        for handle in self._handles:
            handle.remove()


def tensors(checkpoint: Checkpoint) -> dict[str, Any]:
    """Returns the tensors of an unconverted checkpoint."""
    state: dict[str, Any] = {}
    for path in checkpoint.tensors:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state |= load_file(path)
        else:
            import torch

            state |= torch.load(path, map_location="cpu", weights_only=True)
    return state

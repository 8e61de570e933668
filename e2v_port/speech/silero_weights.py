"""Weights of silero-vad's network for 16 kHz, read from its package without importing it.

Importing silero_vad limits torch to one thread in the whole process, and `torch.jit.load` warns. Its weights file is a
TorchScript archive: a zip file of raw tensors and one pickle, which names them.
"""

import math
import pickle
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import E2VError

__all__ = ["read_weights"]

# Name here -> attributes of the archive's module.
_NAMES = {
    "stft": "_model.stft.forward_basis_buffer",
    **{f"conv{i}.{kind}": f"_model.encoder.{i}.reparam_conv.{kind}" for i in range(4) for kind in ("weight", "bias")},
    **{f"lstm.{kind}": f"_model.decoder.rnn.{kind}" for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")},
    **{f"output.{kind}": f"_model.decoder.decoder.2.{kind}" for kind in ("weight", "bias")},
}
_REMEDY = 'pip install --force-reinstall "silero-vad>=6.2.3,<7"'


def read_weights() -> dict[str, NDArray[np.float32]]:
    """Reads the weights.

    Returns:
        `stft` [258, 1, 256]; `.weight` and `.bias` of `conv0` to `conv3` and `output`; `.weight_ih`, `.weight_hh`,
        `.bias_ih` and `.bias_hh` of `lstm`.

    Raises:
        E2VError: silero-vad is not installed, or its weights file is another one.
    """
    try:
        with zipfile.ZipFile(_path()) as archive:
            root = archive.namelist()[0].split("/", 1)[0]
            module = _Reader(archive, root).load()
        return {name: _tensor(module, attributes) for name, attributes in _NAMES.items()}
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, TypeError, ValueError) as error:
        raise E2VError(f"the weights of silero-vad cannot be read ({error}): {_REMEDY}") from error


def _path() -> Path:
    spec = find_spec("silero_vad")
    for folder in spec.submodule_search_locations or () if spec else ():
        return Path(folder, "data", "silero_vad.jit")
    raise E2VError(f"silero-vad is not installed: {_REMEDY}")


def _tensor(module: Any, attributes: str) -> NDArray[np.float32]:
    for attribute in attributes.split("."):
        module = vars(module)[attribute]
    if not isinstance(module, np.ndarray):
        raise TypeError(f"{attributes} is no tensor")
    return module


class _Module:
    """Any object of the archive: a bag of attributes."""


class _Reader(pickle.Unpickler):
    """Reads the archive's pickle, and calls nothing that it names."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive, self._root = archive, root

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        if module.startswith("__torch__"):
            return _Module
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch", "FloatStorage"): _Module,
            ("torch.jit._pickle", "build_intlist"): list,
            ("collections", "OrderedDict"): dict,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not expected in it")
        return allowed[module, name]

    def persistent_load(self, pid: Any) -> NDArray[np.float32]:
        return np.frombuffer(self._archive.read(f"{self._root}/data/{pid[2]}"), "<f4")


def _rebuilt(storage: NDArray[np.float32], offset: int, shape: tuple[int, ...], *_: Any) -> NDArray[np.float32]:
    """Stands in for torch's function of this name; all tensors of the archive are contiguous."""
    return storage[offset : offset + math.prod(shape)].reshape(shape).copy()

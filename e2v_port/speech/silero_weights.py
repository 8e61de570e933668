"""Weights of silero-vad's network for 16 kHz, read from its package without importing it.

Importing silero_vad limits torch to one thread in the whole process, and `torch.jit.load` warns and needs torch.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import E2VError
from e2v_port.unpickling import torch_save
from e2v_port.unpickling.tensors import Tensor

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
        module = torch_save.read(_path(), ("__torch__.", "torch.jit._pickle."), program=True)
        return {name: _values(module, attributes) for name, attributes in _NAMES.items()}
    except torch_save.UnsafeFile as error:
        raise E2VError(f"the weights of silero-vad are not used: {error} is not expected in it: {_REMEDY}") from error
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise E2VError(f"the weights of silero-vad cannot be read ({error}): {_REMEDY}") from error


def _path() -> Path:
    spec = find_spec("silero_vad")
    for folder in spec.submodule_search_locations or () if spec else ():
        return Path(folder, "data", "silero_vad.jit")
    raise E2VError(f"silero-vad is not installed: {_REMEDY}")


def _values(module: Any, attributes: str) -> NDArray[np.float32]:
    for attribute in attributes.split("."):
        module = module.state[attribute]
    if not isinstance(module, Tensor) or module.dtype.name != "torch.float32":
        raise TypeError(f"{attributes} is no tensor of float32")
    return module.numpy().copy()

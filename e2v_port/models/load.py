"""Loads a converted model on one of the runtimes."""

import logging
import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from e2v_port import seam
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.quantization import QUANTIZED
from e2v_port.errors import ModelNotFound
from e2v_port.files import identity
from e2v_port.models import convert, devices
from e2v_port.models.model import Model

__all__ = ["load", "weights_of"]

_logger = logging.getLogger(__name__)
_noted: set[str] = set()  # lines and models that were logged once in this process


def load(
    model: str | Path,
    *,
    runtime: str = "auto",
    dtype: str | None = None,
    labels: str | Iterable[str] | None = None,
    offline: bool = False,
) -> Model:
    """Loads a model.

    Args:
        model: Name of a known model, e.g. `iic/emotion2vec_plus_base`, or `bundled` or another one in the package; a
            converted folder; or an unconverted checkpoint (a folder or a .pt file). An unconverted model is converted
            on first use, and downloaded first if it is not on this machine. For `onnx`, a folder of `e2v export`.
        runtime: `cuda`, `cpu`, `mps`, `mlx`, `numpy`; or `auto`, which selects CUDA, then MLX on Apple silicon, then
            torch's CPU, and numpy where torch cannot be imported. Exported models run on `onnx`, with ONNX Runtime on
            the CPU, and on `onnx:cuda`, `onnx:coreml` and `onnx:directml`.
        dtype: Type to compute in, `float32`, `bfloat16` or `float16`: the weights are cast as they are read. By default
            the type they are stored in; numpy and ONNX Runtime compute in float32 only. `auto` selects the fastest one
            on this machine that moves no probability by more than 0.02, and logs which; small networks on spectrograms
            keep their type.
        labels: Labels that its answers are limited to, as for `Model.limited`; by default all of them.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.

    Raises:
        ModelNotFound: No model has this name, or it is not on this machine while offline.
        DownloadError: No hub delivered it.
        CheckpointError: The checkpoint or the converted folder is damaged or of no known family.
        RuntimeUnavailable: The runtime cannot run here.
        NoLabels: The model does not have the `labels`.
    """
    chosen = devices.choose(runtime, dtype)  # first, so that nothing is downloaded for a runtime that cannot run
    weights = weights_of(model, chosen, offline=offline)
    folder = weights.parent
    while True:
        before = identity(folder)
        try:
            loaded = _load(weights, chosen, dtype)
        except Exception:
            if identity(folder) == before:
                raise
        else:
            if identity(folder) == before:
                return loaded if labels is None else loaded.limited(labels)
        # A conversion has put another model there meanwhile: the parts that were read may belong to both.


def weights_of(model: str | Path, runtime: str, *, offline: bool = False) -> Path:
    """Returns the file that holds a model's weights for a runtime, next to its config.json.

    Args:
        model: Model, as for `load`; it is converted and downloaded if necessary.
        runtime: Name of a runtime: for those of ONNX, the file is that of an export.
        offline: Same as for `load`.

    Raises:
        ModelNotFound, DownloadError, CheckpointError: See `load`.
    """
    if runtime not in devices.PROVIDERS:
        return convert.folder_of(model, offline=offline) / "model.safetensors"
    if not convert.is_export(model):
        raise ModelNotFound(
            f"runtime {runtime} runs exported models, and {model} is none: e2v export --model "
            f"{shlex.quote(str(model))} --out FOLDER, then pass FOLDER as the model"
        )
    return Path(model) / "model.onnx"


def _load(weights: Path, runtime: str, dtype: str | None) -> Model:
    config = ModelConfig.read(weights.parent)
    _note_license(config)
    exported = runtime in devices.PROVIDERS
    if dtype is None and config.architecture.widened:
        dtype = config.arithmetic
    if not exported:
        tensors.check(weights, config.architecture, config.dtype)
    chosen = _auto(config, runtime) if dtype == "auto" else "float32" if exported or runtime == "numpy" else dtype
    if exported:
        runner = seam.runtime("onnx_runtime")(weights, config, devices.PROVIDERS[runtime].provider, chosen)
    else:
        runner = seam.runtime(devices.RUNTIMES[runtime])(weights, config, runtime, chosen)
    return Model(config, runtime, chosen or config.arithmetic, runner, weights)


def _auto(config: ModelConfig, runtime: str) -> str | None:
    if not config.architecture.half_precision:
        return None
    fastest = devices.fastest_dtype(runtime)
    if runtime == "mlx" and config.dtype in QUANTIZED and fastest == "bfloat16":
        fastest = "float16"  # MLX rounds the scales of packed weights too, for which bfloat16 has too few digits
    line = f"dtype auto: {fastest} on {runtime}"
    if line not in _noted:
        _noted.add(line)
        _logger.info(line)
    return fastest


def _note_license(config: ModelConfig) -> None:
    """Logs once per process what the weights may not be used for; `E2V_LICENCE=accepted` silences it."""
    licence, model = config.licence, config.source.repository
    restricted = any(words in licence for words in ("non-commercial", "not for commercial use"))
    if restricted and model not in _noted and os.environ.get("E2V_LICENCE") != "accepted":
        _noted.add(model)
        _logger.warning("%s: %s; E2V_LICENCE=accepted silences this line", model, licence)

"""Exports a model to ONNX: a folder with the model, what it is, and a program that runs it."""

import json
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from e2v_port import seam
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE
from e2v_port.errors import E2VError
from e2v_port.files import identity
from e2v_port.models import devices
from e2v_port.models.convert import folder_of
from e2v_port.models.load import load
from e2v_port.models.long_clips import longest
from e2v_port.models.model import Model
from e2v_port.parity.verify import test_clip

__all__ = ["OPSET", "OPSETS", "TOLERANCES", "Exported", "check_request", "export_onnx"]

FILES = ("config.json", "model.onnx", "model.onnx.data", "head.safetensors", "run.py")
OPSET = 18  # of 2022: the newest programs and those of recent years run it
OPSETS = range(18, 24)
# Largest difference from this package's own runtime, by type of the weights: of logits, dimensions and embeddings in
# float32, as a part of the largest if that exceeds 1; else of probabilities, dimensions and embeddings.
TOLERANCES = {"float32": 5e-5, "float16": 0.01, "int8": 0.03}


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        folder: Its folder.
        config: Configuration of the model.
        bytes: Size of its files.
        compared: Names of the outputs that were compared with this package's own.
        difference: Largest difference between them.
    """

    folder: Path
    config: ModelConfig
    bytes: int
    compared: tuple[str, ...]
    difference: float


def export_onnx(
    model: str | Path, out: str | Path, *, dtype: str = "float32", opset: int = OPSET, offline: bool = False
) -> Exported:
    """Writes a folder with model.onnx, config.json and run.py, after checking that it computes what this package does.

    The graph takes the clips as they are: `waveform` [batch, samples] in float32 at 16 kHz, and `samples` [batch], the
    length of each. It returns `probabilities` and `logits`, or `dimensions`, for models that have them, every further
    output of the model by its name, and `embedding`, `frames` and `lengths`, the number of frames of each clip.

    Args:
        model: Model, as for `e2v_port.load`.
        out: Folder to write; an earlier export that is already there is replaced.
        dtype: Type of the weights in the file: `float32`; `float16`; or `int8`, which rounds the large matrices of
            transformers. All arithmetic is in float32.
        opset: Version of ONNX's operators, 18 to 23.
        offline: Same as for `e2v_port.load`.

    Raises:
        E2VError: The libraries are missing, the model cannot be exported like this, or the result differs from this
            package's by more than `TOLERANCES`.
        ModelNotFound, DownloadError, CheckpointError: See `e2v_port.load`. Or the folder holds something else.
    """
    check_request(dtype, opset)
    source, out = folder_of(model, offline=offline), Path(out)
    before = identity(source)
    own = load(source, runtime="cpu" if devices.unavailable("cpu") is None else "auto", dtype="float32")
    config = own.config
    architecture = config.architecture
    if dtype == "int8" and not any(architecture.packable(*item) for item in architecture.tensors().items()):
        raise E2VError(
            f"{config.source.repository} cannot be exported as int8: it has no matrix to round (those of transformer "
            f"blocks); use float32 or float16"
        )
    read = partial(_stored, source / "model.safetensors")
    with seam.placing(out, FILES) as place:
        path = place / "model.onnx"
        seam.write_onnx(path, config, read, dtype=dtype, opset=opset, metadata=_metadata(config, dtype))
        compared, difference = _compare(path, own, dtype)
        head = {name: read(name) for name in architecture.tensors() if name.startswith(("head.", "readout."))}
        if (
            architecture.has_head
        ):  # this package's own runtime applies it to frames and to joined windows, outside the graph
            save_file(head, place / "head.safetensors")
        # The mean embeddings of labels are left out, and whatever was stored computes in float32.
        written = replace(config, dtype="float32", architecture=replace(architecture, means=False))
        (place / "config.json").write_bytes(written.to_json().encode("utf-8", "backslashreplace"))
        (place / "run.py").write_bytes(files("e2v_port.export").joinpath("run.py").read_bytes())
        if identity(source) != before:
            raise E2VError(f"{source} was replaced while it was exported: export it again")
    return Exported(out, config, sum(file.stat().st_size for file in out.iterdir()), compared, difference)


def check_request(dtype: str, opset: int) -> None:
    """Checks what an export was asked for, before any work.

    Raises:
        E2VError: The libraries are missing, or there is no such dtype or opset.
    """
    for library in ("onnx", "onnxruntime"):
        if find_spec(library) is None:
            raise E2VError(f'ONNX needs {library}, which is not installed: pip install "e2v-port[onnx]"')
    if opset not in OPSETS:
        raise E2VError(f"opset {opset} is not one of {OPSETS[0]} to {OPSETS[-1]}")
    if dtype not in TOLERANCES:
        raise E2VError(f"dtype {dtype} is not one of {', '.join(TOLERANCES)}")


def _stored(weights: Path, name: str) -> NDArray[np.float32]:
    """Returns a stored tensor by name, in float32."""
    ((_, values),) = tensors.read(weights, [name])
    return values


def _metadata(config: ModelConfig, dtype: str) -> dict[str, str]:
    """Returns what the file says about itself."""
    return {
        "labels": json.dumps([label.name for label in config.labels if not label.unused], ensure_ascii=False),
        "temperature": repr(config.temperature),
        "license": config.licence,
        "source": config.source.repository,
        "hub": config.source.hub,
        "revision": config.source.revision,
        "sha256": config.source.sha256,
        "family": config.family,
        "weights": dtype,
        "sampling_rate": str(config.sampling_rate),
        "samples_per_frame": str(config.architecture.hop),
        "longest_seconds": f"{longest(config.architecture) / SAMPLING_RATE:g}",
        "converter": config.converter,
    }


def _compare(path: Path, own: Model, dtype: str) -> tuple[tuple[str, ...], float]:
    """Runs clips of two lengths in one batch and compares the outputs with those of this package.

    Returns:
        Names of the outputs compared, and the largest difference.

    Raises:
        E2VError: It is above the tolerance, or an output is not a number.
    """
    from onnxruntime import InferenceSession

    whole = test_clip()
    clips = whole, whole[: len(whole) // 2]
    batch = np.zeros((len(clips), len(whole)), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    session = InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feeds = {"waveform": batch, "samples": np.array([*map(len, clips)])}
    found = dict(zip(names, session.run(None, feeds), strict=True))
    wanted: dict[str, Any] = {"embedding": own.embed(clips, SAMPLING_RATE)}
    if own.config.dimensional:
        measured = own.dimensions(clips, SAMPLING_RATE)
        wanted["dimensions"] = [[getattr(each, label) for label in own.labels] for each in measured]
    elif own.labels:
        predictions = own.predict(clips, SAMPLING_RATE)
        wanted["probabilities"] = [[*each.scores.values()] for each in predictions]
        if dtype == "float32":
            wanted["logits"] = [[*each.logits.values()] for each in predictions]
    difference = max(_difference(found[name], np.array(wanted[name])) for name in wanted)
    if not difference <= TOLERANCES[dtype]:
        remedy = "report this as a fault" if dtype == "float32" else "use float32"
        raise E2VError(
            f"{own.config.source.repository} as {dtype} in ONNX differs from this package's results by "
            f"{difference:.1e}, more than {TOLERANCES[dtype]:g}; nothing was written: {remedy}"
        )
    return tuple(wanted), difference


def _difference(found: NDArray[np.float32], wanted: NDArray[Any]) -> float:
    """Returns the largest difference, as a part of the largest value if that exceeds 1; NaN if a value is."""
    return float(np.abs(found - wanted).max() / max(1, np.abs(wanted).max()))

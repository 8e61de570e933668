"""From a model's name, folder or file to its converted folder: download, both halves of the conversion, the cache."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from e2v_port import seam
from e2v_port.checkpoints import catalog, hubs
from e2v_port.checkpoints.checkpoint import Checkpoint, local
from e2v_port.errors import CheckpointError, ModelNotFound, quoted
from e2v_port.files import naming

__all__ = ["convert", "folder_of", "is_export"]


_logger = logging.getLogger(__name__)
_ENCODER = "laion/BUD-E-Whisper"  # which the published networks of emotions were trained on


def convert(
    model: str | Path,
    *,
    hub: Literal["auto", "modelscope", "huggingface"] = "auto",
    revision: str | None = None,
    dtype: str = "float32",
    out: str | Path | None = None,
    keep_npz: bool = False,
    head: str | Path | None = None,
    emotions: Sequence[str] | None = None,
    encoder: str | Path | None = None,
    offline: bool = False,
    note: Callable[[str], None] = _logger.info,
) -> Path:
    """Converts a checkpoint to a folder with model.safetensors and config.json.

    Args:
        model: Name of a known model, `owner/name` on a hub, a checkpoint's folder or its .pt file.
        hub: Hub to download from; `auto` tries one after the other.
        revision: Branch, tag or commit on the hub; requires `hub`.
        dtype: Type of the stored tensors: `float32`, `float16` or `bfloat16`; or `q8` or `q4`, which pack the large
            matrices at 8 or 4 bits per number and leave the rest in float32.
        out: Folder to write; by default the one where `e2v_port.load` finds the model by its name.
        keep_npz: Whether to keep the npz between the two halves, as model.npz in that folder.
        head: JSON file that describes the head of a fine-tuned transformers checkpoint, or names its labels: see
            docs/models.md.
        emotions: Emotions to take from a checkpoint that has a network for each, as Empathic Insight has; by default
            all of them.
        encoder: Encoder of such a checkpoint, which has none: a converted folder, or what `model` can be. By default
            the one that its networks were trained on.
        offline: Never open a connection; `E2V_OFFLINE=1` does the same.
        note: Called with each line worth knowing along the way; by default they are logged at INFO.

    Returns:
        The folder.

    Raises:
        ModelNotFound: No model, folder or file has this name, or it is not on this machine while offline.
        DownloadError: No hub delivered it.
        CheckpointError: The checkpoint is unsafe, damaged, or of no known family.
    """
    path = _path(model)
    if _is_networks(model):
        if keep_npz or head:
            raise CheckpointError(f"{model}: a network for each emotion is converted without --keep-npz and --head")
        return _joined(model, emotions, encoder, hub=hub, revision=revision, dtype=dtype, out=out, offline=offline)
    if emotions is not None or encoder is not None:
        raise CheckpointError(
            f"{model}: --emotions and --encoder are for checkpoints with a network for each emotion (model_*_best.pth)"
        )
    described = Path(head) if head else None
    if described and not described.is_file():
        raise CheckpointError(f"{described}: no such file: the head is described in a JSON file, see docs/models.md")
    if os.path.exists(path):  # unlike Path.exists, False for a name too long for the file system
        checkpoint = local(path)
        folder = Path(out) if out else _local_folder(checkpoint, dtype, described)
    else:
        name = str(model)
        if catalog.lookup(name) is None and name.count("/") != 1:
            raise catalog.not_found(name)
        known = catalog.lookup(name)
        if known and known.bundled:
            raise ModelNotFound(f"{name} comes converted, in the package: there is no checkpoint to convert")
        checkpoint = hubs.download(name, hub=hub, revision=revision, offline=offline)
        folder = Path(out) if out else catalog.destination(known.id if known else name, dtype)
    final = folder.resolve()
    with naming(folder):
        final.parent.mkdir(parents=True, exist_ok=True)
        # Next to the folder: the npz is as large as the weights, and the system's temporary folder may be in memory.
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.partial-") as between:
            npz = Path(between) / "model.npz"
            seam.extract(checkpoint, npz)
            seam.write(npz, folder, dtype=dtype, keep_npz=keep_npz, head=described, note=note)
    return folder


def _is_networks(model: str | Path) -> bool:
    """Returns whether a model is published as a network for each emotion, without an encoder."""
    path = _path(model)
    if os.path.isdir(path):
        return any(path.glob("model_*_best.pth"))
    known = catalog.lookup(str(model))
    return known is not None and bool(known.encoder)


def _joined(
    model: str | Path,
    emotions: Sequence[str] | None,
    encoder: str | Path | None,
    *,
    hub: Literal["auto", "modelscope", "huggingface"],
    revision: str | None,
    dtype: str,
    out: str | Path | None,
    offline: bool,
) -> Path:
    """Converts the networks of some emotions and their encoder to one model."""
    path = _path(model)
    known = None if os.path.isdir(path) else catalog.lookup(str(model))
    if known:
        names = tuple(seam.emotions() if emotions is None else emotions)
        files = [seam.file_of(name) for name in names]
        path = hubs.download_files(known.id, files, hub=hub, revision=revision, offline=offline)[0].parent
        folder, source = catalog.destination(known.id, dtype), known.id
    else:
        there = tuple(name for name in seam.emotions() if (path / seam.file_of(name)).is_file())
        names = there if emotions is None else tuple(emotions)
        state = hashlib.sha256(os.fsencode(f"{path.resolve()}\0{encoder}\0{','.join(names)}")).hexdigest()
        folder, source = catalog.destination(f"local/{path.resolve().name}-{state[:12]}", dtype), str(path.resolve())
    if not names:
        raise CheckpointError(f"{model}: no emotion is named: {', '.join(seam.emotions())}")
    folder = Path(out) if out else folder
    base = encoder or _ENCODER
    converted = catalog.find(base) if isinstance(base, str) else None
    if converted is None:
        converted = folder_of(base, offline=offline) if os.path.exists(base) else convert(base, offline=offline)
    with naming(folder):
        folder.resolve().parent.mkdir(parents=True, exist_ok=True)
        seam.join(converted, path, folder, names=names, source=source, dtype=dtype)
    return folder


def _path(model: str | Path) -> Path:
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):
        raise ModelNotFound(f"{quoted(model)}: pass the name of a model as a string, or the path of its folder or file")
    return Path(model)


def _local_folder(checkpoint: Checkpoint, dtype: str, head: Path | None = None) -> Path:
    """Returns the cache folder of a local checkpoint; it changes whenever a file that the conversion reads does.

    Weights are known by size and time, since hashing gigabytes takes longer than loading them; the rest by content.
    """
    state = hashlib.sha256()
    for weights in map(Path.resolve, checkpoint.tensors):
        state.update(os.fsencode(f"{weights}\0{weights.stat().st_size}\0{weights.stat().st_mtime_ns}\0"))
    roles = ("config", "tokens", "preprocessor", "head_weights", "cmvn", "pieces")
    read = {role: getattr(checkpoint, role) for role in roles} | ({"head": head} if head else {})
    for role, path in read.items():
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        state.update(f"{role}\0{content}\0".encode())
    name = checkpoint.weights.resolve().parent.name
    return catalog.destination(f"local/{name}-{state.hexdigest()[:12]}", dtype)


def folder_of(model: str | Path, *, offline: bool = False) -> Path:
    """Returns the converted folder of a model; converts and downloads it if necessary.

    Args:
        model: Same as for `e2v_port.load`.
        offline: Same as for `e2v_port.load`.

    Raises:
        ModelNotFound, DownloadError, CheckpointError: See `e2v_port.load`.
    """
    path = _path(model)
    if os.path.exists(path):  # unlike Path.exists, False for a name too long for the file system
        if catalog.is_converted(path):
            return path
        if is_export(path):
            raise CheckpointError(
                f"{path} is an export to ONNX: use runtime='onnx', or pass the model that it was made of"
            )
        folder = _local_folder(local(path), "float32")
        if catalog.is_converted(folder):
            return folder
    else:
        name = str(model)
        if (found := catalog.find(name)) is not None:
            return found
        known = catalog.lookup(name)
        if known is None:
            raise catalog.not_found(name)
        if known.bundled:
            raise ModelNotFound(f"{name} is part of the package but missing: reinstall e2v-port from its wheel")
        if known.encoder:
            raise ModelNotFound(
                f"{name} has a network of its own for each emotion: convert the ones you need first, with "
                f"e2v convert --model {name} --emotions Anger,Sadness"
            )
    _logger.info("%s is not converted yet: converting it once", model)
    return convert(model, offline=offline)


def is_export(model: str | Path) -> bool:
    """Returns whether a model is a folder that `e2v export` has written."""
    path = _path(model)
    return all(os.path.isfile(path / name) for name in ("model.onnx", "config.json", "run.py"))

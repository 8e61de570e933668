"""From whatever a user names to a converted folder: download, both halves of the conversion, the cache."""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Literal

from e2v_port import catalog, hubs
from e2v_port.errors import ModelNotFound

__all__ = ["convert", "folder_of"]


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def convert(
    model: str | Path,
    *,
    hub: Literal["auto", "modelscope", "huggingface"] = "auto",
    revision: str | None = None,
    dtype: str = "float32",
    out: str | Path | None = None,
    keep_npz: bool = False,
    offline: bool = False,
    note: Callable[[str], None] = _say,
) -> Path:
    """Converts a checkpoint to a folder with model.safetensors and config.json.

    Args:
        model: A known model's name, `owner/name` on a hub, a checkpoint's folder or its .pt file.
        hub: Where to download from; `auto` tries one after the other.
        revision: Branch, tag or commit on the hub; needs `hub` to be named.
        dtype: Of the stored tensors: `float32`, `float16` or `bfloat16`; or `q8` or `q4`, which packs the large
            matrices, 8 or 4 bits a number, and leaves the rest in float32.
        out: The folder to write; by default where `e2v_port.load` finds it by the model's name.
        keep_npz: Whether to keep the npz between the two halves, as model.npz in that folder.
        offline: Never open a connection; so does `E2V_OFFLINE=1`.
        note: Told what is worth knowing on the way, a line at a time; prints to stderr by default.

    Returns:
        The folder.

    Raises:
        ModelNotFound: No model, folder or file goes by this name, or it is not on this machine while offline.
        DownloadError: No hub delivered it.
        CheckpointError: The checkpoint is unsafe, damaged, or not of a known kind.
    """
    path = Path(model)
    if os.path.exists(path):  # unlike Path.exists, False for a name too long for the file system
        checkpoint = hubs.local(path)
        folder = Path(out) if out else _local_folder(checkpoint, dtype)
    else:
        name = str(model)
        if catalog.lookup(name) is None and name.count("/") != 1:
            raise catalog.not_found(name)
        known = catalog.lookup(name)
        if known and known.id == catalog.BUNDLED:
            raise ModelNotFound(f"{name}: comes converted, in the package: there is no checkpoint to convert")
        checkpoint = hubs.download(name, hub=hub, revision=revision, offline=offline)
        folder = Path(out) if out else catalog.destination(known.id if known else name, dtype)
    final = folder.resolve()
    final.parent.mkdir(parents=True, exist_ok=True)
    extract = import_module("e2v_port.converters.checkpoint").extract
    write = import_module("e2v_port.converters.weights").write
    # Beside the folder: the npz is as large as the weights, and the system's temporary folder may be in memory.
    with tempfile.TemporaryDirectory(dir=final.parent, prefix=f".{final.name}.npz-") as between:
        npz = Path(between) / "model.npz"
        extract(checkpoint, npz)
        write(npz, folder, dtype=dtype, keep_npz=keep_npz, note=note)
    return folder


def _local_folder(checkpoint: hubs.Checkpoint, dtype: str) -> Path:
    """Returns the cache folder of a local checkpoint: another one as soon as one of its files changes."""
    state = hashlib.sha256()
    for path in (checkpoint.weights, checkpoint.config, checkpoint.tokens):
        if path:
            file = path.resolve()
            state.update(os.fsencode(f"{file}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}\0"))
    name = checkpoint.weights.resolve().parent.name
    return catalog.destination(f"local/{name}-{state.hexdigest()[:12]}", dtype)


def folder_of(model: str | Path, *, offline: bool = False) -> Path:
    """Returns the converted folder of a model, converting and downloading what is needed.

    Args:
        model: As for `e2v_port.load`.
        offline: As for `e2v_port.load`.

    Raises:
        ModelNotFound, DownloadError, CheckpointError: As for `e2v_port.load`.
    """
    path = Path(model)
    if os.path.exists(path):  # unlike Path.exists, False for a name too long for the file system
        if catalog.is_converted(path):
            return path
        folder = _local_folder(hubs.local(path), "float32")
        if catalog.is_converted(folder):
            return folder
    else:
        name = str(model)
        if (found := catalog.find(name)) is not None:
            return found
        if catalog.lookup(name) is None:
            raise catalog.not_found(name)
    _say(f"{model} is not converted yet: converting it once")
    return convert(model, offline=offline)

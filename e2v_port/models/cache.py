"""Outputs of models kept in a folder: what was judged once is not computed again."""

import hashlib
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.runtime import Output
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import AudioError, cut
from e2v_port.models.model import Model
from e2v_port.version import __version__

__all__ = ["OutputCache"]

_logger = logging.getLogger(__name__)

FORMAT = 1  # changes when an entry of before must not be used


class OutputCache:
    """Outputs of models in a folder, one file per waveform. Safe to use from several threads and processes.

    An entry is found by the SHA-256 of the samples, the hash of the model (`Model.digest`), its runtime and dtype, and
    the version of this package. Its numbers are those of the first time, bit for bit. Everything that follows from them
    (labels, fusion, segments, words) is worked out anew, so that no setting of an analysis can bring back a result of
    other settings. Entries are never deleted.

    Args:
        folder: Folder of the entries; it is created if necessary.

    Attributes:
        folder: The folder.
        hits: Number of waveforms that were found.
        misses: Number of waveforms that were computed.

    Raises:
        OSError: The folder cannot be created.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.hits = self.misses = 0
        self._writable = True

    def each(
        self, model: Model, waveforms: Sequence[Waveform], *, frames: bool = False
    ) -> Iterator[tuple[float, Output] | AudioError]:
        """Runs waveforms through a model as `Model.each` does, except for those whose outputs are kept.

        Args:
            model: Model that was loaded from files.
            waveforms: Each [samples], float32, 16 kHz.
            frames: Whether the outputs have logits of their frames. They never have the frames themselves.

        Yields:
            For each waveform, in order: its duration in seconds and its output, or the AudioError that stopped it.

        Raises:
            E2VError: The files of the model were replaced since it was loaded.
        """
        about = [FORMAT, __version__, model.digest, model.runtime, model.dtype, frames]
        keys = [_key(about, waveform) for waveform in waveforms]
        kept = [self._read(key) for key in keys]
        missing = [waveform for waveform, found in zip(waveforms, kept, strict=True) if found is None]
        self.hits += len(waveforms) - len(missing)
        self.misses += len(missing)
        computed = model.each(missing, SAMPLING_RATE, frames=frames) if missing else iter(())
        for key, found in zip(keys, kept, strict=True):
            if found is not None:
                yield found
                continue
            result = next(computed)
            if not isinstance(result, AudioError):
                duration, output = result
                result = duration, Output(output.embedding, output.logits, None, output.frame_logits)
                self._write(key, *result)
            yield result

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.npz"

    def _read(self, key: str) -> tuple[float, Output] | None:
        path = self._path(key)
        try:
            with path.open("rb") as file:
                with zipfile.ZipFile(file) as checked:
                    if damaged := checked.testzip():  # NumPy reads no checksum where a header asks for less than all
                        raise ValueError(f"{damaged} is damaged")
                file.seek(0)
                with np.load(file, allow_pickle=False) as stored:
                    arrays: Mapping[str, NDArray[Any]] = {name: stored[name] for name in stored.files}
            if str(arrays["key"]) != key:
                raise ValueError("an entry of another waveform or model")
            if {*arrays} != {"key", "duration", "embedding", "optional", *arrays["optional"].tolist()}:
                raise ValueError("an array is missing")
            output = Output(arrays["embedding"], arrays.get("logits"), None, arrays.get("frame_logits"))
            return float(arrays["duration"]), output
        except FileNotFoundError:
            return None
        except Exception as error:  # of zipfile, zlib and NumPy's reader of headers: damage has no common class
            _logger.warning("%s cannot be used (%s): computed again", path, cut(str(error), 100))
            return None

    def _write(self, key: str, duration: float, output: Output) -> None:
        """Writes an entry, which is complete or absent at every moment. If that fails, the log says so once."""
        path = self._path(key)
        optional = {"logits": output.logits, "frame_logits": output.frame_logits}
        arrays: dict[str, Any] = {name: array for name, array in optional.items() if array is not None}
        about: dict[str, Any] = {"key": np.array(key), "duration": duration, "optional": np.array([*arrays], np.str_)}
        try:
            path.parent.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".partial-", delete=False) as partial:
                try:
                    np.savez(partial, embedding=output.embedding, **about, **arrays)
                    partial.close()
                    os.replace(partial.name, path)
                except BaseException:
                    partial.close()
                    os.unlink(partial.name)
                    raise
        except OSError as error:
            if self._writable:
                _logger.warning("%s: results are not kept (%s)", self.folder, error.strerror or error)
            self._writable = False


def _key(about: list[Any], waveform: Waveform) -> str:
    samples = np.ascontiguousarray(waveform, dtype="<f4")
    return hashlib.sha256(json.dumps(about).encode() + hashlib.sha256(samples.data).digest()).hexdigest()

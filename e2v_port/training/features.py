"""What a head learns from: numbers of every clip and of its augmented copies, computed once and kept in files.

A file holds the length of the clip in seconds and then, for a model's own embedding, that embedding. For a readout it
holds what is needed to make embeddings with any weights of layers and attention: see `reduced`.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e2v_port.architectures.base import Readout
from e2v_port.audio import SAMPLING_RATE, Clip
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import AudioError, TrainingError
from e2v_port.evaluation.datasets import Utterance
from e2v_port.files import naming
from e2v_port.models.model import Model
from e2v_port.training.augmentation import Augmentation
from e2v_port.training.clips import Bank, record
from e2v_port.training.recipe import Recipe
from e2v_port.training.task import Progress, Task

__all__ = ["Features", "Part", "gather", "recorded", "reduced"]

Array = NDArray[Any]

_VERSION = 1  # of the content of the files
_HEADER = 128  # bytes of an .npy file before its numbers; a power cut may leave a file without any


def reduced(states: NDArray[np.float32], readout: Readout) -> Array:
    """Returns what embeddings of a readout depend on, whatever its weights of layers and of attention.

    Args:
        states: Outputs of all blocks up to the last one that is read, [blocks, frames, width].
        readout: The readout.

    Returns:
        For `mean`: the mean of each layer over time, [layers, width]. For `deviation`: the means, then the covariance
        over time of each pair of layers, [layers + layers * (layers + 1) / 2, width]: (1, 1), (1, 2), ..., (2, 2), ...
        For `attention`: the frames themselves in 16 bits, [frames, layers, width].
    """
    chosen = states[[layer - 1 for layer in readout.layers]]
    if readout.pooling == "attention":
        frames: Array = chosen.swapaxes(0, 1).astype(np.float16)
        return frames
    means = chosen.mean(1, dtype=np.float64)
    if readout.pooling == "mean":
        only: Array = means.astype(np.float32)
        return only
    central = chosen - means[:, None]
    pairs = combinations_with_replacement(range(len(chosen)), 2)
    covariances = [(central[i] * central[j]).mean(0) for i, j in pairs]
    both: Array = np.concatenate([means, covariances]).astype(np.float32)
    return both


class Features:
    """Computes features with one model and keeps them in one folder.

    Args:
        model: The model, cut after the last layer that `readout` reads.
        source: Hash of the weights of the whole model.
        readout: The readout to train; None for the model's own embedding.
        folder: Folder of the files. May hold those of other models, readouts and clips.
        progress: Receives the progress and the clips that cannot be read.

    Attributes:
        readout: The readout to train.
        dim: Length of a row of features.
    """

    def __init__(self, model: Model, source: str, readout: Readout | None, folder: Path, progress: Progress) -> None:
        self.readout = readout
        architecture = model.config.architecture
        self.dim = architecture.frame_dim if readout else architecture.embed_dim
        self._model, self._folder, self._progress = model, folder, progress
        kind = [readout.layers, readout.pooling] if readout else "embedding"
        self._key = json.dumps([_VERSION, source, model.dtype, kind])

    def path(self, *about: Any) -> Path:
        """Returns the file for what `about` describes: the sound of a clip, or how a copy is made of it."""
        name = hashlib.sha256(json.dumps([self._key, *about]).encode()).hexdigest()
        return self._folder / name[:2] / f"{name}.npy"

    def compute(self, clips: Sequence[tuple[Path, Clip]], what: str) -> set[int]:
        """Computes the features of clips and writes each to its file.

        Returns:
            The positions of clips that cannot be used, each of which is reported.
        """
        failed: set[int] = set()
        if not clips:
            return failed
        sounds = (clip for _, clip in clips)
        with self._progress.bar(len(clips), what) as advance:
            for i, ((file, _), result) in enumerate(zip(clips, self._each(sounds), strict=True)):
                if isinstance(result, AudioError):
                    self._progress.say(f"left out: {result}")
                    failed.add(i)
                else:
                    seconds, values = result
                    _save(file, np.concatenate([np.array([seconds], values.dtype), values.ravel()]))
                advance()
        return failed

    def _each(self, clips: Iterable[Clip]) -> Iterator[tuple[float, Array] | AudioError]:
        if self.readout is None:
            for result in self._model.each(clips, SAMPLING_RATE):
                yield result if isinstance(result, AudioError) else (result[0], result[1].embedding[None])
        else:
            for found in self._model.each_layers(clips, SAMPLING_RATE):
                yield found if isinstance(found, AudioError) else (found[0], reduced(found[1], self.readout))


def _save(file: Path, values: Array) -> None:
    """Writes a file that is complete or not there, without waiting for the disk as `replacing` does: they are many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with naming(file), tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as partial:
        np.save(partial, values)
    os.replace(partial.name, file)


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > _HEADER


class Part:
    """The readable clips of `train` or `dev`, with their features and those of their copies.

    Attributes:
        clips: The clips.
        copies: Number of augmented copies of each.
        targets: Indices of labels [clips], or dimensions [clips, 3].
        corpora: Corpus of each clip.
        seconds: Total length of the clips, in seconds.
    """

    def __init__(
        self, task: Task, clips: Sequence[Utterance], files: Sequence[Sequence[Path]], readout: Readout | None, dim: int
    ) -> None:
        self.clips = clips
        self.copies = len(files[0]) - 1
        self._files, self._dim = files, dim
        self._layers = len(readout.layers) if readout and readout.pooling == "attention" else 0
        self.corpora = [clip.corpus for clip in clips]
        self.targets: NDArray[Any] = (
            np.array([[getattr(clip.dimensions, name) for name in DIMENSIONS] for clip in clips], dtype=np.float32)
            if task.dimensional
            else np.array([task.outputs.index(clip.label or "") for clip in clips])
        )
        self._values: Array | None = None  # [clips, 1 + copies, rows, dim], unless they are frames
        if self._layers:
            self.seconds = float(sum(np.load(each[0], mmap_mode="r")[0].astype(float) for each in files))
        else:
            rows = np.array([[np.load(file) for file in each] for each in files])
            self.seconds = float(rows[:, 0, 0].sum(dtype=np.float64))
            self._values = rows[:, :, 1:].reshape(len(clips), 1 + self.copies, -1, dim)

    def batch(self, clips: Tensor, copies: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the features of some clips.

        Args:
            clips: Indices of the clips, [B].
            copies: For each, 0 for the clip itself, or the number of a copy, [B].

        Returns:
            [B, rows, width] and nothing of interest; for attention frames [B, T, layers, width], zero after a clip's
            end, and the number of frames of each, [B].
        """
        if self._values is not None:
            return torch.from_numpy(self._values[clips.numpy(), copies.numpy()]), clips
        rows = [np.load(self._files[i][j])[1:] for i, j in zip(clips.tolist(), copies.tolist(), strict=True)]
        lengths = torch.tensor([row.size // (self._layers * self._dim) for row in rows])
        frames = torch.zeros(len(rows), int(lengths.max()), self._layers, self._dim)
        for frame, row, length in zip(frames, rows, lengths.tolist(), strict=True):
            frame[:length] = torch.from_numpy(row.reshape(length, self._layers, self._dim).astype(np.float32))
        return frames, lengths


def recorded(work: Path, task: Task, copies: int, augmentation: Augmentation, progress: Progress) -> list[Bank]:
    """Returns the banks of the clips of `train` and then `dev`, and of their copies; see `clips.record`."""
    train, dev = ([clip.file for clip in task.parts[part]] for part in ("train", "dev"))
    recipe = Recipe(copies=copies, augmentation=augmentation)
    return record(work, train, dev, recipe, seed=task.seed, progress=progress)


def gather(
    task: Task, features: Features, work: Path, *, copies: int, augmentation: Augmentation, progress: Progress
) -> dict[str, Part]:
    """Returns `train` and `dev` with the features of all readable clips, computing those that no file holds.

    Args:
        task: The clips.
        features: The features.
        work: Folder of the sounds of the copies, which are only made if features of copies are missing.
        copies: Augmented copies of each training clip. Development clips have one, if there are any.
        augmentation: How they are made.
        progress: Receives the progress.

    Raises:
        TrainingError: No clip of a part can be read.
    """
    clips = [*task.parts["train"], *task.parts["dev"]]
    number = len(task.parts["train"])
    sounds = [*task.sounds["train"], *task.sounds["dev"]]
    files = [[features.path(sound.hex() or str(clip.file))] for sound, clip in zip(sounds, clips, strict=True)]
    missing = [i for i, [file] in enumerate(files) if not (sounds[i] and _is_there(file))]
    bad = features.compute([(files[i][0], clips[i].file) for i in missing], "features of clips")
    readable = sorted({*range(len(clips))} - {missing[i] for i in bad})
    voices = hashlib.sha256(b"".join(sounds[:number])).hexdigest()
    banks: list[Bank] = []
    for copy in range(1, copies + 1):
        copied = [i for i in readable if i < number or copy == 1]
        for i in copied:
            about = [task.seed, copy, i, voices, asdict(augmentation)]
            files[i].append(features.path(sounds[i].hex(), about))
        missing = [i for i in copied if not _is_there(files[i][copy])]
        if missing and not banks:
            banks = recorded(work, task, copies, augmentation, progress)
        bad = features.compute([(files[i][copy], banks[copy].get(i)) for i in missing], f"features of copy {copy}")
        for i in bad:  # too short, after all that was done to it
            files[missing[i]][copy] = files[missing[i]][0]
    parts = {}
    for part, chosen in (("train", [i for i in readable if i < number]), ("dev", [i for i in readable if i >= number])):
        if not chosen:
            raise TrainingError(f"no {part} file can be read: see the lines above")
        parts[part] = chosen
    dim = features.dim
    return {
        part: Part(task, [clips[i] for i in chosen], [files[i] for i in chosen], features.readout, dim)
        for part, chosen in parts.items()
    }

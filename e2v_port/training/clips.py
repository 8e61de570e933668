"""The clips of a training and their augmented copies, decoded once into files that are mapped into memory."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import AudioError, TrainingError
from e2v_port.files import naming, replacing
from e2v_port.training.augmentation import augment
from e2v_port.training.recipe import Recipe
from e2v_port.training.task import COPIES, SILENT, Progress

__all__ = ["DECODED", "Bank", "record"]

_T = TypeVar("_T")

DECODED = "0.npy"  # exists once all clips are decoded; the files are not read again

_AT_A_TIME = 256  # clips submitted to the threads at once: few, so that an interruption takes effect soon
_FULL_SCALE = 32767
_PIECE = 4.0  # seconds, about as long as the clips of the corpora: unlabeled recordings are cut into such pieces


class Bank:
    """Clips [samples] of int16, stored one after the other in a file that is mapped into memory.

    Attributes:
        lengths: Length of each clip in samples; 0 for a missing one.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.lengths: NDArray[np.int64] = np.load(folder / f"{name}.npy")
        self._starts = np.cumsum(self.lengths) - self.lengths
        self._samples = np.memmap(folder / f"{name}.int16", dtype=np.int16, mode="r")

    def __getitem__(self, clip: int) -> NDArray[np.int16]:
        return self._samples[self._starts[clip] :][: self.lengths[clip]]

    def get(self, clip: int) -> Waveform:
        """Returns a clip as float32 with full scale 1."""
        return np.divide(self[clip], _FULL_SCALE, dtype=np.float32)

    def sha256(self) -> str:
        """Returns a hash of all clips."""
        return hashlib.sha256(self.lengths.tobytes() + hashlib.sha256(self._samples.data).digest()).hexdigest()

    @classmethod
    def write(cls, folder: Path, name: str, clips: Iterable[NDArray[np.int16] | None]) -> Self:
        """Writes a bank and returns it, holding one clip in memory at a time. None becomes an empty clip.

        Raises:
            OSError: The disk is full.
        """
        lengths = []
        samples = folder / f"{name}.int16"
        with naming(samples), samples.open("wb") as file:
            for clip in clips:
                lengths.append(0 if clip is None else len(clip))
                if clip is not None:
                    file.write(clip.data)
            if not any(lengths):
                file.write(bytes(2))  # an empty file cannot be mapped
        # Written last and atomically: the lengths mark the bank as complete.
        with replacing(folder / f"{name}.npy") as partial:
            np.save(partial, np.array(lengths, dtype=np.int64))
        return cls(folder, name)


def record(
    folder: Path,
    train: Sequence[Path],
    dev: Sequence[Path],
    recipe: Recipe,
    *,
    seed: int,
    unlabelled: Sequence[Path] = (),
    progress: Progress = SILENT,
) -> list[Bank]:
    """Decodes clips and makes their augmented copies, keeping what an earlier call has finished.

    The work is done by threads: transforms, resampling and libsndfile release Python's lock, and two threads take two
    thirds of the time of one.

    Args:
        folder: Folder of the banks: 115 MB per hour of speech, and the same again for each copy.
        train: Training files. Babble is made from them.
        dev: Development files, numbered after the training files.
        recipe: How many copies to make, and how.
        seed: Seed of the copies. A copy depends on the seed, its number and its clip's number only.
        unlabelled: Files without labels, cut into pieces of 4 s, numbered after the development files.
        progress: Receives the progress and the files that cannot be read.

    Returns:
        The bank of clips, then `recipe.copies` banks of copies. Only the first of these has copies of `dev`, and only
        the first `recipe.unlabelled_copies` have copies of `unlabelled`.

    Raises:
        TrainingError: No file can be read, or the disk has no room for the copies.
    """
    known = len(train) + len(dev)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        plain = _decode(folder, [*train, *dev], unlabelled, pool, progress)
        number = len(plain.lengths)
        readable = set(np.flatnonzero(plain.lengths).tolist())
        voices = [plain[clip] for clip in range(len(train)) if clip in readable]
        if not voices or not readable & {*range(len(train), known)}:
            raise TrainingError(f"no {'development' if voices else 'training'} file can be read: see the lines above")
        labelled, others = int(plain.lengths[:known].sum()), int(plain.lengths[known:].sum())
        _check_room(folder, 2 * (labelled * recipe.copies + others * min(recipe.copies, recipe.unlabelled_copies)))

        def copied(copy: int, clip: int) -> NDArray[np.int16] | None:
            copies = recipe.copies if clip < len(train) else 1 if clip < known else recipe.unlabelled_copies
            if clip not in readable or copy > copies:
                return None
            rng = np.random.default_rng((seed, COPIES, copy, clip))
            return _stored(augment(plain.get(clip), rng, voices, recipe.augmentation))

        banks = [plain]
        missing = [copy for copy in range(1, recipe.copies + 1) if not (folder / f"{copy}.npy").is_file()]
        with progress.bar(len(missing) * number, "augmenting") as advance:
            for copy in range(1, recipe.copies + 1):
                if copy in missing:
                    jobs = [(copy, clip) for clip in range(number)]
                    banks.append(Bank.write(folder, str(copy), _each(pool, copied, jobs, advance)))
                else:
                    banks.append(Bank(folder, str(copy)))
    return banks


def _decode(
    folder: Path, files: Sequence[Path], unlabelled: Sequence[Path], pool: ThreadPoolExecutor, progress: Progress
) -> Bank:
    """Returns the bank of the clips themselves; decodes them unless an earlier call has."""
    if (folder / DECODED).is_file():
        return Bank(folder, "0")
    with progress.bar(len(files) + len(unlabelled), "decoding") as advance:
        known = _each(pool, _decoded, [(file, progress) for file in files], advance)
        others = _each(pool, _decoded, [(file, progress) for file in unlabelled], advance)
        pieces = (piece for samples in others if samples is not None for piece in _pieces(samples))
        return Bank.write(folder, "0", chain(known, pieces))


def _pieces(samples: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    """Cuts a recording into equal pieces of at most 4 s."""
    return np.array_split(samples, max(1, math.ceil(len(samples) / (_PIECE * SAMPLING_RATE))))


def _each(
    pool: ThreadPoolExecutor, work: Callable[..., _T], jobs: Sequence[tuple[Any, ...]], advance: Callable[[], None]
) -> Iterator[_T]:
    """Yields the results in order, submitting a limited number of jobs at a time."""
    for start in range(0, len(jobs), _AT_A_TIME):
        for result in pool.map(work, *zip(*jobs[start : start + _AT_A_TIME], strict=True)):
            advance()
            yield result


def _decoded(file: Path, progress: Progress) -> NDArray[np.int16] | None:
    try:
        return _stored(load_audio(file))
    except AudioError as error:
        progress.say(f"left out: {error}")
        return None


def _stored(waveform: Waveform) -> NDArray[np.int16]:
    return np.rint(np.clip(waveform, -1, 1) * _FULL_SCALE).astype(np.int16)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise TrainingError(
            f"{folder}: the augmented copies need {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free: "
            f"free some space, or train in a folder on another disk"
        )

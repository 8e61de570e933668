"""What the encoders make of each remark, computed once and kept in files: numbers, never sound.

A file is an npz of float16 arrays:

    semantic  [frames, width]   frames of a Whisper encoder: what is said
    emotion   [frames, width]   frames of an emotion model: how it is said
    speaker   [width]           embedding of a speaker encoder: who says it; absent without one
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port import npz
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.dialogue.prepare import Remark
from e2v_port.errors import AudioError, E2VError
from e2v_port.models.model import Model

__all__ = ["FOLDER", "Encoders", "compute", "read"]

FOLDER = "features"  # inside that of the dialogues
_VERSION = 1  # of the content of the files
_MOST = 60_000.0  # largest magnitude in float16, less a little


@dataclass(frozen=True)
class Encoders:
    """The models that features are made with.

    Attributes:
        semantic: Encoder of what is said: a Whisper encoder.
        emotion: Encoder of how it is said: any model of this package with frames.
        speaker: Encoder of who says it; None without one.

    Raises:
        E2VError: `semantic` is no Whisper encoder, or `speaker` no speaker encoder.
    """

    semantic: Model
    emotion: Model
    speaker: Model | None = None

    def __post_init__(self) -> None:
        """Raises E2VError for a model of another kind than it is used as."""
        if self.semantic.config.family != "whisper":
            raise E2VError(f"{self.semantic.config.source.repository} is no Whisper encoder: convert one, such as base")
        if self.speaker is not None and not self.speaker.config.architecture.speakers:
            raise E2VError(f"{self.speaker.config.source.repository} is no speaker encoder: use bundled-voices")

    def of(self, file: Path) -> dict[str, NDArray[np.float16]]:
        """Returns the features of a clip.

        Raises:
            AudioError: The clip cannot be used.
            E2VError: A model gives numbers that 16 bits cannot hold.
        """
        waveform = load_audio(file)
        found: dict[str, NDArray[Any]] = {
            "semantic": self.semantic.embed(waveform, SAMPLING_RATE, granularity="frame"),
            "emotion": self.emotion.embed(waveform, SAMPLING_RATE, granularity="frame"),
        }
        if self.speaker is not None:
            found["speaker"] = self.speaker.embed(waveform, SAMPLING_RATE)
        for name, values in found.items():
            if not np.abs(values).max() < _MOST:
                raise E2VError(f"{file}: the {name} features do not fit into 16 bits: use another model")
        return {name: values.astype(np.float16) for name, values in found.items()}

    def key(self) -> str:
        """Returns a hash of everything that features depend on besides the clip."""
        models = (self.semantic, self.emotion, self.speaker)
        about = [_VERSION, *(model and [repr(model.config), model.runtime, model.dtype] for model in models)]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def compute(
    remarks: Sequence[Remark], encoders: Encoders, folder: Path, step: Callable[[], None] = lambda: None
) -> tuple[list[Remark], list[str]]:
    """Computes the features of remarks, except those that are in the folder already.

    Args:
        remarks: The remarks.
        encoders: The models.
        folder: Folder of the dialogues; files go into `features` there.
        step: Called after each remark.

    Returns:
        The remarks that have features, with the name of their file; and the reasons why others have none.

    Raises:
        E2VError: A model gives numbers that 16 bits cannot hold.
    """
    key = encoders.key()
    kept, failed = [], []
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for remark in remarks:
        try:
            content = hashlib.sha256(remark.clip.file.read_bytes()).hexdigest()
            name = f"{FOLDER}/{hashlib.sha256(f'{key}/{content}'.encode()).hexdigest()[:32]}.npz"
            if not _complete(folder / name):
                found = encoders.of(remark.clip.file)
                with npz.writing(folder / name) as add:
                    for kind, values in found.items():
                        add(kind, values)
            kept.append(replace(remark, features=name))
        except (AudioError, OSError) as error:
            if isinstance(error, OSError) and error.filename != str(remark.clip.file):
                raise  # the disk is full
            failed.append(f"left out: {error}")
        step()
    return kept, failed


def read(file: Path) -> dict[str, NDArray[np.float16]]:
    """Returns the features in a file, by name.

    Raises:
        E2VError: The file is missing, or damaged.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise E2VError(f"{file}: no features can be read ({error}): prepare the dialogues again") from error


def _complete(file: Path) -> bool:
    return file.is_file() and zipfile.is_zipfile(file)

"""What the encoders make of each remark, computed once and kept in files: numbers, never sound.

A file is an npz of float16 arrays:

    semantic  [frames, width]   frames of a Whisper encoder: what is said
    emotion   [frames, width]   frames of an emotion model: how it is said
    speaker   [width]           embedding of a speaker encoder: who says it; absent without one
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port import npz
from e2v_port.audio import load_audio
from e2v_port.dialogue.prepare import Remark
from e2v_port.errors import AudioError, CorpusError, E2VError
from e2v_port.files import replacing
from e2v_port.llm.encoders import ENCODERS, Encoders

__all__ = ["FOLDER", "compute", "encoders", "read", "record"]

FOLDER = "features"  # inside that of the dialogues
_ABOUT = "encoders.json"  # next to it


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
                found = _of(remark.clip.file, encoders)
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


def _of(file: Path, encoders: Encoders) -> dict[str, NDArray[np.float16]]:
    waveform = load_audio(file)
    try:
        return encoders.of(waveform)
    except E2VError as error:
        raise type(error)(f"{file}: {error}") from error


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


def record(about: Mapping[str, Mapping[str, str] | None] | None, folder: Path) -> None:
    """Writes `encoders.json`: the models that the features of the dialogues are made with.

    Args:
        about: As of `llm.encoders.load`; None removes the file. Remove it before the rows change, and write it after
            them, so that it never names models that the rows' features are not of.
        folder: Folder of the dialogues.
    """
    if about is None:
        (folder / _ABOUT).unlink(missing_ok=True)
        return
    with replacing(folder / _ABOUT) as partial:
        partial.write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", "utf-8", newline="\n")


def encoders(folder: Path) -> dict[str, dict[str, Any] | None]:
    """Returns what `record` wrote.

    Raises:
        CorpusError: It is missing or damaged.
    """
    remedy = "run e2v dialogue prepare again with --semantic, which keeps the features that are there"
    try:
        about: dict[str, dict[str, Any] | None] = json.loads((folder / _ABOUT).read_text("utf-8"))
        if {*about} != {*ENCODERS} or not all({"name", "sha256"} <= {*each} for each in about.values() if each):
            raise ValueError("it does not name the encoders")
    except FileNotFoundError as error:
        raise CorpusError(f"{folder}: does not say which encoders its features are of: {remedy}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CorpusError(f"{folder / _ABOUT}: cannot be read ({error}): {remedy}") from error
    return about


def _complete(file: Path) -> bool:
    return file.is_file() and zipfile.is_zipfile(file)

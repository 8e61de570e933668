"""Reads dialogues back: what `e2v dialogue prepare` wrote, as examples to train and test a speech language model on."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.dialogue import features
from e2v_port.dialogue.replies import LABELS
from e2v_port.errors import CorpusError
from e2v_port.files import lines
from e2v_port.llm.adapter import Statistics
from e2v_port.llm.language import Turn

__all__ = ["Example", "batches", "read", "statistics"]


@dataclass(frozen=True)
class Example:
    """A remark with its reply.

    Attributes:
        audio: The clip.
        words: What is said.
        emotion: One of `replies.LABELS`.
        intensity: `normal`, `strong`, or None where the corpus does not say.
        reply: The answer.
        context: What was said before.
        corpus: Name of the corpus.
        speaker: Who speaks, e.g. `ravdess/01`.
        sex: `female`, `male`, or None.
        language: Language of the remark, or None.
        features: File of its features; None without any.
    """

    audio: Path
    words: str
    emotion: str
    intensity: str | None
    reply: str
    context: tuple[Turn, ...]
    corpus: str
    speaker: str
    sex: str | None
    language: str | None
    features: Path | None

    def load(self) -> dict[str, NDArray[np.float16]]:
        """Returns its features, see `features.read`.

        Raises:
            CorpusError: It has none.
            E2VError: They cannot be read.
        """
        if self.features is None:
            raise CorpusError(f"{self.audio}: has no features: prepare the dialogues with a semantic encoder")
        return features.read(self.features)


def read(folder: Path, part: str) -> list[Example]:
    """Reads one set.

    Args:
        folder: Folder of the dialogues.
        part: `train`, `dev` or `test`.

    Raises:
        CorpusError: The file is missing, empty or damaged.
    """
    file = folder / f"{part}.jsonl"
    try:
        rows = lines(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file}: cannot be read: make it with e2v dialogue prepare") from error
    found = []
    for number, line in enumerate(rows, 1):
        try:
            found.append(_example(json.loads(line), folder))
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(f"{file}:{number}: not a row of a dialogue ({error})") from error
    if not found:
        raise CorpusError(f"{file}: has no rows")
    return found


def _example(row: dict[str, Any], folder: Path) -> Example:
    context = tuple(Turn(turn["role"], turn["content"]) for turn in row["context"])
    if row["emotion_label"] not in LABELS:
        raise ValueError(f"emotion_label is none of {', '.join(LABELS)}")
    for name in ("transcript", "emotion_label", "assistant_reply", "corpus", "speaker"):
        if not isinstance(row[name], str):
            raise ValueError(f"{name} is no text")
    return Example(
        audio=Path(row["audio_path"]),
        words=row["transcript"],
        emotion=row["emotion_label"],
        intensity=row["intensity"],
        reply=row["assistant_reply"],
        context=context,
        corpus=row["corpus"],
        speaker=row["speaker"],
        sex=row["sex"],
        language=row["language"],
        features=None if row["features"] is None else folder / row["features"],
    )


def statistics(clips: Iterable[Mapping[str, NDArray[Any]]]) -> Statistics:
    """Returns the mean and deviation of each feature over all frames of clips.

    Args:
        clips: Features by encoder, as of `Example.load`.
    """
    sums: dict[str, list[NDArray[np.float64]]] = {}
    counts: dict[str, int] = {}
    for clip in clips:
        for name, values in clip.items():
            frames = np.atleast_2d(values).astype(np.float64)
            first, second = sums.setdefault(name, [np.zeros(frames.shape[1]), np.zeros(frames.shape[1])])
            first += frames.sum(0)
            second += np.square(frames).sum(0)
            counts[name] = counts.get(name, 0) + len(frames)
    mean = {name: (first / counts[name]).astype(np.float32) for name, (first, _) in sums.items()}
    deviation = {
        name: np.sqrt(np.maximum(second / counts[name] - np.square(first / counts[name]), 1e-6)).astype(np.float32)
        for name, (first, second) in sums.items()
    }
    return Statistics(mean, deviation)


def batches(sizes: Sequence[int], size: int, draw: np.random.Generator) -> list[list[int]]:
    """Returns the indices of one epoch in batches of clips of about the same length, in random order.

    Args:
        sizes: Length of each clip.
        size: Clips of a batch; the last may have fewer.
        draw: Decides the order.
    """
    order = draw.permutation(len(sizes))
    pool = 8 * size  # clips that are sorted by length together, so that little is computed for padding
    found = []
    for start in range(0, len(order), pool):
        some = sorted(order[start : start + pool].tolist(), key=lambda index: sizes[index])
        found += [some[i : i + size] for i in range(0, len(some), size)]
    return [found[index] for index in draw.permutation(len(found))]

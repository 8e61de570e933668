"""What a converted model makes of the clips of a training: soft targets for a smaller network to learn.

Knowledge distillation, arXiv 1503.02531. The teacher hears each clip as recorded, once; the answers are kept in the
user's cache, so that the next training with these clips does not wait for them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port import npz
from e2v_port.architectures.config import ModelConfig, TrainedOn
from e2v_port.audio import SAMPLING_RATE
from e2v_port.checkpoints import catalog
from e2v_port.emotions.estimates import softmax
from e2v_port.errors import AudioError, CorpusError, TrainingError
from e2v_port.evaluation.readers import AUDIO
from e2v_port.models import convert
from e2v_port.models.load import load
from e2v_port.training.clips import Bank
from e2v_port.training.task import Progress

__all__ = ["Teacher", "find", "recordings"]

_AT_A_TIME = 512  # clips whose answers are written together: the most work an interruption loses


@dataclass(frozen=True)
class Teacher:
    """A converted model with labels.

    Attributes:
        folder: Folder of the model.
        config: Content of its config.json.
        sha256: Hash of both of its files.
        runtime: Runtime to compute the answers with, as for `e2v_port.load`.
    """

    folder: Path
    config: ModelConfig
    sha256: str
    runtime: str

    @property
    def licence(self) -> str:
        """License of the teacher, which the weights of the student inherit."""
        return f"taught by {self.config.source.repository} ({self.config.licence})"

    @property
    def trained_on(self) -> tuple[TrainedOn, ...]:
        """Whom the teacher was trained on: what it knows of them, the student may learn."""
        return self.config.trained_on

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON-compatible values for the report."""
        return {
            "model": self.config.source.repository,
            "family": self.config.family,
            "sha256": self.sha256,
            "licence": self.config.licence,
        }

    def answers(
        self, bank: Bank, labels: Sequence[str], softness: float, work: Path, progress: Progress
    ) -> NDArray[np.float32]:
        """Returns the probabilities [clips, labels] of each clip, or NaN where the teacher cannot judge one.

        Args:
            bank: The clips.
            labels: Labels to be learned; those that only the teacher has are left out, and the others sum to 1.
            softness: Divisor of the calibrated logits: above 1 the probabilities are more even, and show more of what
                the teacher makes of the labels it does not choose.
            work: Folder for the answers of a user without a cache.
            progress: Receives the progress.

        Raises:
            TrainingError: The teacher lacks one of the labels.
            CheckpointError, RuntimeUnavailable: See `e2v_port.load`.
            OSError: The disk is full.
        """
        names = [label.name for label in self.config.labels if not label.unused]
        if missing := [label for label in labels if label not in names]:
            raise TrainingError(
                f"{self.folder}: the teacher does not know {', '.join(missing)}: pass one that does, or corpora without"
            )
        logits = self._logits(bank, work, progress)[:, [names.index(label) for label in labels]]
        return softmax(logits, self.config.temperature * softness).astype(np.float32)

    def _logits(self, bank: Bank, work: Path, progress: Progress) -> NDArray[np.float32]:
        """Returns the logits [clips, labels] of all used labels; NaN for a missing clip."""
        model = None
        key = hashlib.sha256(f"{self.sha256} {self.runtime} {bank.sha256()}".encode()).hexdigest()
        folder = next(iter(catalog.roots()), work) / "teachers" / key[:32]
        folder.mkdir(parents=True, exist_ok=True)
        blocks: list[NDArray[np.float32]] = []
        with progress.bar(len(bank.lengths), "asking the teacher") as advance:
            for start in range(0, len(bank.lengths), _AT_A_TIME):
                clips = range(start, min(start + _AT_A_TIME, len(bank.lengths)))
                kept = folder / f"{start}.npz"
                if not kept.is_file():
                    model = model or load(self.folder, runtime=self.runtime, offline=True)
                    judged = model.each((bank.get(clip) for clip in clips), SAMPLING_RATE)
                    used = [i for i, label in enumerate(self.config.labels) if not label.unused]
                    rows = np.full((len(clips), len(used)), np.nan, dtype=np.float32)
                    for row, result in zip(rows, judged, strict=True):
                        if not isinstance(result, AudioError):
                            assert result[1].logits is not None
                            row[:] = result[1].logits[used]
                    with npz.writing(kept) as add:
                        add("logits", rows)
                with np.load(kept) as file:
                    blocks.append(file["logits"])
                for _ in clips:
                    advance()
        return np.concatenate(blocks)


def recordings(folder: Path) -> list[Path]:
    """Returns the audio files in a folder and its subfolders, in the order of their names.

    Raises:
        CorpusError: There are none.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in AUDIO and path.name[0] != "."]
    if not found:
        raise CorpusError(f"{folder}: no audio found: pass a folder that holds recordings of speech")
    return found


def find(model: str | Path, *, runtime: str = "auto", offline: bool = False) -> Teacher:
    """Returns the teacher of a name or a path, as `e2v_port.load` takes it.

    Raises:
        TrainingError: The model has no labels.
        ModelNotFound, DownloadError, CheckpointError: See `e2v_port.load`.
    """
    folder = convert.folder_of(model, offline=offline)
    config = ModelConfig.read(folder)
    if not config.labels or config.dimensional:
        raise TrainingError(f"{folder} has no labels to teach: pass a model with labels, see `e2v models`")
    hashed = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        with (folder / name).open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return Teacher(folder, config, hashed.hexdigest(), runtime)

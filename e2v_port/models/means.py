"""Adds to a converted model the mean embedding of each label, with which it can adapt to voices."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from e2v_port import seam
from e2v_port.architectures.config import ModelConfig, TrainedOn
from e2v_port.architectures.tensors import MEANS, read
from e2v_port.emotions.adaptation import label_means
from e2v_port.errors import AudioError, TrainingError
from e2v_port.models import convert
from e2v_port.models.load import load
from e2v_port.models.model import Model

__all__ = ["Bar", "LabeledClip", "Rights", "add", "complete"]

Bar = Callable[[int, str], AbstractContextManager[Callable[[], None]]]
"""Receives the number of steps and their description; returns a context manager whose value is called after each."""


class LabeledClip(Protocol):
    """A clip with its label and its speaker, such as an utterance of a corpus."""

    @property
    def file(self) -> Path:
        """Path of the audio."""

    @property
    def label(self) -> str | None:
        """Label, if it has one."""

    @property
    def speaker(self) -> str:
        """Name of the speaker."""


@dataclass(frozen=True)
class Rights:
    """What has to be stored with a model about the clips that its means are taken from.

    Attributes:
        licence: License of what is made from the clips.
        trained_on: Who speaks in them.
    """

    licence: str
    trained_on: TrainedOn


def add(
    model: str | Path,
    clips: Sequence[LabeledClip],
    rights: Rights,
    out: Path,
    *,
    counterpart: Callable[[str], str | None],
    runtime: str = "auto",
    offline: bool = False,
    bar: Bar = lambda _, __: nullcontext(lambda: None),
    say: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Writes a model again with the mean embeddings of its labels.

    Everything else of the model stays as it is, but for its license and the clips it was trained on. A packed model,
    such as `bundled`, is stored in float32, with the numbers that its packed ones stand for.

    Args:
        model: Model as for `e2v_port.load`.
        clips: Clips to take the means of.
        rights: What has to be stored about them.
        out: Folder of the new model; it may be the model's own.
        counterpart: Returns the label of the clips for a label of the model.
        runtime: Runtime that computes the embeddings.
        offline: Whether to avoid all network access.
        bar: Receives the progress.
        say: Receives a line about each clip that is left out.

    Returns:
        Labels of the model without clips, to which no voice can be adapted.

    Raises:
        TrainingError: Fewer than two of its labels have clips, or `out` exists.
        NoLabels: The model has no labels.
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: See `e2v_port.load`.
        OSError: The disk is full.
    """
    folder = convert.folder_of(model, offline=offline)
    config = ModelConfig.read(folder)
    if out.exists() and out.resolve() != folder.resolve():
        raise TrainingError(f"{out} exists: name another folder, or remove it")
    loaded = load(folder, runtime=runtime, offline=offline)
    loaded.need_labels()
    means = _measured(loaded, clips, counterpart, bar, say)
    missing = [label.name for label, row in zip(config.labels, means, strict=True) if not (label.unused or row.any())]
    if len(loaded.labels) - len(missing) < 2:
        raise TrainingError("fewer than two labels of the model have clips: add a corpus that has others")
    licence = f"{config.licence}; means of labels {rights.licence}"
    trained_on = (*config.trained_on, rights.trained_on)
    dtype = config.arithmetic  # packed numbers are stored unpacked: packing them again would change them
    new = replace(config, dtype=dtype, licence=licence, trained_on=trained_on)
    _store(out, folder, new, means)
    return missing


def complete(folder: Path, clips: Sequence[LabeledClip], *, runtime: str, bar: Bar) -> None:
    """Adds the means to a model that was just trained on these clips; one without labels stays as it is."""
    model = load(folder, runtime=runtime)
    if model.labels and not model.config.dimensional:
        # Clips that cannot be read were named before.
        _store(folder, folder, model.config, _measured(model, clips, lambda name: name, bar, lambda _: None))


def _measured(
    model: Model,
    clips: Sequence[LabeledClip],
    counterpart: Callable[[str], str | None],
    bar: Bar,
    say: Callable[[str], None],
) -> NDArray[np.float32]:
    """Returns the mean embedding of each row of a model's head, [labels, embed_dim]; zeros for rows without clips."""
    rows: dict[str, int] = {}
    for i, label in enumerate(model.config.labels):
        if not label.unused:
            rows.setdefault(counterpart(label.name) or label.name, i)
            rows[label.name] = i
    wanted = [clip for clip in clips if clip.label in rows]
    embeddings, targets, speakers = [], [], []
    with bar(len(wanted), "means of labels") as advance:
        for clip, result in zip(wanted, model.each(clip.file for clip in wanted), strict=True):
            if isinstance(result, AudioError):
                say(f"left out: {result}")
            else:
                embeddings.append(result[1].embedding)
                targets.append(rows[clip.label or ""])
                speakers.append(clip.speaker)
            advance()
    if not embeddings:
        raise TrainingError("no training clip has a label of the model and can be read: see the lines above")
    return label_means(np.stack(embeddings), np.array(targets), speakers, len(model.config.labels))


def _store(out: Path, folder: Path, config: ModelConfig, means: NDArray[np.float32]) -> None:
    network = dict(read(folder / "model.safetensors", config.architecture.tensors()))
    new = replace(config, architecture=replace(config.architecture, means=True))
    seam.store(out, new, lambda: iter((network | {MEANS: means}).items()))

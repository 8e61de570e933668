"""Trains a small network on log-mel spectrograms from scratch: draws batches, runs epochs, stores the best weights.

With a teacher, the targets are its answers as well as the labels, and recordings without labels are learned from too.
"""

import copy
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port import seam
from e2v_port.architectures.config import Label, ModelConfig, Source
from e2v_port.architectures.registry import family_of
from e2v_port.audio import SAMPLING_RATE
from e2v_port.errors import TrainingError
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.sounds import sounds
from e2v_port.host import limited, own_settings
from e2v_port.models import means
from e2v_port.training import report as training_report
from e2v_port.training import teacher as teachers
from e2v_port.training.augmentation import crop, trim
from e2v_port.training.clips import DECODED, Bank, record
from e2v_port.training.network import Student, folded
from e2v_port.training.recipe import Recipe
from e2v_port.training.task import (
    EPOCHS,
    SILENT,
    WEIGHTS,
    Progress,
    Task,
    by_corpus,
    check_readable,
    load_state,
    save_state,
    seeded,
    working,
)
from e2v_port.version import __version__

__all__ = ["masked", "train"]


@dataclass(frozen=True)
class _Clips:
    """The clips an epoch draws from.

    Attributes:
        banks: The clips and their copies.
        targets: Index of the label of each labeled clip: first the training clips, then the development clips.
        soft: Probabilities [clips, labels] that are learned of each clip.
        corpora: Corpus of each labeled clip, in the same order.
        train: Indices of the readable training clips.
        dev: Indices of the readable development clips.
        unlabelled: Indices of the pieces of unlabeled recordings that the teacher can judge.
    """

    banks: Sequence[Bank]
    targets: NDArray[np.int64]
    soft: NDArray[np.float32]
    corpora: Sequence[str]
    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    unlabelled: NDArray[np.int64]


def train(
    task: Task,
    out: Path,
    recipe: Recipe,
    *,
    teacher: teachers.Teacher | None = None,
    unlabelled: Sequence[Path] = (),
    licence: str | None = None,
    number_of_threads: int | None = None,
    restart: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Trains a network from scratch and writes it as a converted model.

    After each epoch the state of the training is written to a hidden folder next to `out`. Repeating an interrupted
    call with the same number of threads gives the same weights as an uninterrupted one. The report is written next to
    `out`.

    Args:
        task: The clips and the labels to learn.
        out: Folder of the model.
        recipe: Settings of the training.
        teacher: Model whose answers are learned along with the labels, see `teacher.find`.
        unlabelled: Recordings of speech, of which the teacher's answers alone are learned. Those that sound the same as
            a clip of the development or test set are left out.
        licence: License of the weights; by default derived from the corpora and the teacher.
        number_of_threads: Number of threads of torch; by default its own choice.
        restart: Whether to discard an interrupted training and replace an existing model; see `task.working`.
        progress: Receives a line per epoch.

    Returns:
        The report, as stored in training.json.

    Raises:
        TrainingError: `out` is in use, another training was interrupted there, no file can be read, the teacher lacks a
            label, or there are unlabeled recordings and no teacher.
        CheckpointError, RuntimeUnavailable: The teacher cannot be loaded; see `e2v_port.load`.
        OSError: The disk is full.
    """
    if unlabelled and not teacher:
        raise TrainingError("recordings without labels need a teacher that judges them: name a model as teacher")
    settings = {"kind": "student", **task.to_dict(), "recipe": asdict(recipe)}
    if teacher:
        settings["teacher"] = teacher.to_dict()
        names = json.dumps([os.fsdecode(file) for file in unlabelled])
        settings["unlabelled"] = {"files": len(unlabelled), "sha256": hashlib.sha256(names.encode()).hexdigest()}
    with (
        working(out, settings, restart) as work,
        limited(number_of_threads) as threads,
        own_settings(inference=False),
    ):
        began = time.perf_counter()
        for note in task.notes:
            progress.say(note)
        clips = _clips(task, work, recipe, progress, teacher=teacher, unlabelled=unlabelled)
        student, curve, best = _fit(task, clips, recipe, work, progress)
        config = _config(task, student, out, teacher, licence)
        tensors = folded(student)
        seam.store(out, config, lambda: iter(tensors.items()))
        means.complete(out, task.parts["train"], runtime="cpu", bar=progress.bar)
        report = {
            **settings,
            "licence": config.licence,
            "threads": threads,
            "parameters": sum(value.size for value in tensors.values()),
            **_figures(task, clips, student),
            "curve": curve,
            "best": best,
            "score": "UAR",
            "seconds": time.perf_counter() - began,
        }
        training_report.write(out, report)
    return report


def _config(
    task: Task, student: Student, out: Path, teacher: teachers.Teacher | None, licence: str | None
) -> ModelConfig:
    derived = f"{task.licence}; {teacher.licence}" if teacher else task.licence
    return ModelConfig(
        family=family_of(student.twin.config).name,
        architecture=student.twin.config,
        labels=tuple(Label(name, name, unused=False) for name in task.outputs),
        dtype="float32",
        sampling_rate=SAMPLING_RATE,
        temperature=1.0,
        licence=licence or derived,
        source=Source(repository=out.resolve().name, hub="local", revision="", file="", sha256=""),
        converter=f"e2v-port {__version__}",
        trained_on=(*(teacher.trained_on if teacher else ()), task.trained_on),
    )


def _figures(task: Task, clips: _Clips, student: Student) -> dict[str, Any]:
    """Returns the hours of speech in each part, and the figures of each corpus on the development clips."""
    logits = student.judge([clips.banks[0].get(clip) for clip in clips.dev])
    corpora = [clips.corpora[clip] for clip in clips.dev]
    return {
        "hours": {
            part: float(clips.banks[0].lengths[indices].sum() / SAMPLING_RATE / 3600)
            for part, indices in (("train", clips.train), ("dev", clips.dev), ("unlabelled", clips.unlabelled))
        },
        "dev": by_corpus(clips.targets[clips.dev], logits.argmax(1), corpora, len(task.outputs)),
    }


def _clips(
    task: Task,
    work: Path,
    recipe: Recipe,
    progress: Progress,
    *,
    teacher: teachers.Teacher | None,
    unlabelled: Sequence[Path],
) -> _Clips:
    utterances = [*task.parts["train"], *task.parts["dev"]]
    number = len(task.parts["train"])
    files = [utterance.file for utterance in utterances]
    banks = record(
        work,
        files[:number],
        files[number:],
        recipe,
        seed=task.seed,
        unlabelled=[] if (work / DECODED).is_file() else _apart(unlabelled, task, progress),
        progress=progress,
    )
    readable = np.flatnonzero(banks[0].lengths)
    train, dev = readable[readable < number], readable[(readable >= number) & (readable < len(files))]
    hours = banks[0].lengths[readable[readable < len(files)]].sum() / SAMPLING_RATE / 3600
    size = 2 * sum(int(bank.lengths.sum()) for bank in banks) / 1e9
    progress.say(
        f"{hours:.2f} h of speech, {len(banks) - 1} augmented copies: {size:.2f} GB in {work}; "
        f"labels: {', '.join(task.outputs)}"
    )
    targets = np.array([task.outputs.index(utterance.label or "") for utterance in utterances])
    check_readable(task, targets[train], progress)
    soft = np.full((len(banks[0].lengths), len(task.outputs)), np.nan, dtype=np.float32)
    if teacher:
        soft[:] = teacher.answers(banks[0], task.outputs, recipe.softness, work, progress)
    others = readable[(readable >= len(files)) & ~np.isnan(soft[readable, 0])]
    if len(others):
        progress.say(f"{banks[0].lengths[others].sum() / SAMPLING_RATE / 3600:.2f} h of unlabeled speech")
    known = np.eye(len(task.outputs), dtype=np.float32)[targets]
    known = known * (1 - recipe.smoothing) + recipe.smoothing / len(task.outputs)
    taught = soft[: len(files)]
    mixed = (1 - recipe.teaching) * known + recipe.teaching * taught
    soft[: len(files)] = np.where(np.isnan(taught), known, mixed)
    corpora = [utterance.corpus for utterance in utterances]
    return _Clips(banks, targets, soft, corpora, train, dev, others)


def _apart(unlabelled: Sequence[Path], task: Task, progress: Progress) -> list[Path]:
    """Returns the recordings that do not sound the same as a clip of the development or test set."""
    apart = {*sounds([clip for part in ("dev", "test") for clip in task.parts[part]])} - {b""}
    clips = [Utterance(file, None, "", "", None, "", None, None) for file in unlabelled]
    kept = [clip.file for clip, sound in zip(clips, sounds(clips), strict=True) if sound not in apart]
    if copies := len(unlabelled) - len(kept):
        progress.say(f"{copies} unlabeled recordings left out: they are clips of the development or test set")
    return kept


def _fit(
    task: Task, clips: _Clips, recipe: Recipe, work: Path, progress: Progress
) -> tuple[Student, list[dict[str, Any]], int]:
    """Runs the remaining epochs; returns the best student, the curve and the best epoch."""
    run = _Run(task, clips, recipe)
    if state := load_state(work / "state.pt"):
        run.load(state)
        progress.say(f"resuming after epoch {len(run.curve)} of {recipe.epochs}")
    while len(run.curve) < recipe.epochs and len(run.curve) - run.best["epoch"] < recipe.patience:
        began = time.perf_counter()
        epoch = len(run.curve) + 1
        with progress.bar(run.steps, f"epoch {epoch} of {recipe.epochs}") as advance:
            loss = run.epoch(epoch, advance)
        run.keep(epoch, loss, _development(run.average, clips, task))
        save_state(run.state(), work / "state.pt")
        progress.say(_line(run, recipe, time.perf_counter() - began))
    run.average.load_state_dict(run.best["average"])
    return run.average, run.curve, run.best["epoch"]


def _line(run: "_Run", recipe: Recipe, seconds: float) -> str:
    """Returns the progress line of the last epoch, which took some seconds."""
    last, best = run.curve[-1], run.best
    each = "  ".join(f"{name} {value:.3f}" for name, value in last["scores"].items())
    return (
        f"epoch {last['epoch']}/{recipe.epochs}  loss {last['loss']:.3f}  dev UAR {last['score']:.3f}  ({each})  "
        f"best {best['score']:.3f} in epoch {best['epoch']}  {seconds:.0f} s, "
        f"at most {seconds * (recipe.epochs - last['epoch']):.0f} s left"
    )


class _Run:
    """A training in progress.

    Attributes:
        average: Moving average of the student, which is evaluated and kept.
        steps: Number of steps per epoch.
        curve: Figures of each epoch so far.
        best: Number, score, development loss and weights of the best epoch so far.
    """

    def __init__(self, task: Task, clips: _Clips, recipe: Recipe) -> None:
        self._task, self._clips, self._recipe = task, clips, recipe
        with seeded(_seed(task.seed, WEIGHTS)):
            self._student = Student(recipe.architecture(len(task.outputs)), recipe)
        trained = [value for value in self._student.parameters() if value.requires_grad]
        self.average = copy.deepcopy(self._student)
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [value for value in trained if value.ndim > 1], "weight_decay": recipe.decay},
                {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            betas=(0.9, 0.99),
        )
        self._others = round(recipe.unlabelled * recipe.batch) if len(clips.unlabelled) else 0
        self._known = recipe.batch - self._others
        self.steps = max(1, len(clips.train) // self._known)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, recipe.rate, total_steps=self.steps * recipe.epochs, pct_start=recipe.warm_up
        )
        self._weights = _weights(clips, recipe.balance)
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"epoch": 0}

    def _parts(self) -> dict[str, Any]:
        return {
            "student": self._student,
            "average": self.average,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def state(self) -> dict[str, Any]:
        """Returns everything needed to resume."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "curve": self.curve, "best": self.best}

    def load(self, state: Mapping[str, Any]) -> None:
        """Resumes from an earlier state."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.curve, self.best = state["curve"], state["best"]

    def epoch(self, number: int, advance: Callable[[], None]) -> float:
        """Runs one epoch, calling `advance` after each step, and returns its mean loss."""
        rng = np.random.default_rng((self._task.seed, EPOCHS, number))
        seed = int(rng.integers(1 << 62))
        drawn = rng.choice(self._clips.train, (self.steps, self._known), p=self._weights)
        if self._others:
            drawn = np.hstack([drawn, rng.choice(self._clips.unlabelled, (self.steps, self._others))])
        losses = []
        with seeded(seed):
            for batch in drawn:
                losses.append(self._step(batch, rng))
                advance()
        return float(np.mean(losses))

    def _step(self, batch: NDArray[np.int64], rng: Generator) -> float:
        """Updates the weights with a batch and returns its loss."""
        loss = _loss(self._student, self._clips, batch, self._recipe, rng)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._student.parameters(), self._recipe.gradient)
        self._optimizer.step()
        self._schedule.step()
        # Starts as TensorFlow's exponential moving average does: the first steps count most.
        _average(self.average, self._student, max(self._recipe.average, 9 / (9 + self._schedule.last_epoch)))
        return loss.item()

    def keep(self, number: int, loss: float, figures: dict[str, Any]) -> None:
        """Appends the figures of an epoch to the curve, and keeps its weights if they are the best."""
        self.curve.append({"epoch": number, "loss": loss, **figures})
        # Among epochs with equal scores the one with the lower loss wins.
        if number == 1 or (figures["score"], -figures["dev_loss"]) > (self.best["score"], -self.best["dev_loss"]):
            self.best = {
                "epoch": number,
                "score": figures["score"],
                "dev_loss": figures["dev_loss"],
                "average": {name: value.clone() for name, value in self.average.state_dict().items()},
            }


@torch.no_grad()
def _average(average: nn.Module, student: nn.Module, share: float) -> None:
    """Moves the average of weights and statistics towards those of a step by a share of the distance."""
    for kept, new in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, min(share, 1))
        else:
            kept.copy_(new)


def _seed(seed: int, purpose: int) -> int:
    return int(np.random.default_rng((seed, purpose)).integers(1 << 62))


def _weights(clips: _Clips, balance: float) -> NDArray[np.float64]:
    """Returns the probability of each training clip: corpora equally often, labels as `Recipe.balance` describes."""
    kinds = [(clips.corpora[clip], int(clips.targets[clip])) for clip in clips.train]
    counts = Counter(kinds)
    weights = np.array([counts[kind] ** -balance for kind in kinds])
    for corpus in {corpus for corpus, _ in kinds}:
        inside = np.array([name == corpus for name, _ in kinds])
        weights[inside] /= weights[inside].sum()
    return np.asarray(weights / weights.sum())


def _loss(student: Student, clips: _Clips, batch: NDArray[np.int64], recipe: Recipe, rng: Generator) -> Tensor:
    """Draws a copy and an excerpt of each clip, and returns the cross-entropy."""
    seconds = rng.uniform(*recipe.seconds)
    waveforms = []
    for clip in batch.tolist():
        banks = clips.banks if clip < len(clips.targets) else clips.banks[: 1 + recipe.unlabelled_copies]
        waveform = banks[int(rng.integers(len(banks)))].get(clip)
        if rng.random() < recipe.trimmed:
            waveform = trim(waveform)
        waveforms.append(crop(waveform, rng, (seconds, seconds)))
    spectrogram, lengths = student.spectrogram(waveforms)
    masked(spectrogram, lengths, recipe, rng)
    targets = torch.from_numpy(clips.soft[batch])
    if recipe.mixup:
        share = float(rng.beta(recipe.mixup, recipe.mixup))
        other = rng.permutation(len(batch))
        spectrogram = share * spectrogram + (1 - share) * spectrogram[other]
        targets = share * targets + (1 - share) * targets[other]
        lengths = [max(lengths[i], lengths[j]) for i, j in enumerate(other)]
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
        logits = student(spectrogram, lengths)
    return F.cross_entropy(logits.float(), targets)


def masked(spectrogram: Tensor, lengths: Sequence[int], recipe: Recipe, rng: Generator) -> None:
    """Replaces columns and bands of each clip [B, T, F] by the mean of the clip, in place."""
    for clip, length in zip(spectrogram, lengths, strict=True):
        columns = clip[:length]
        mean = columns.mean()
        for _ in range(recipe.masks):
            for axis, largest in ((0, recipe.mask_columns), (1, recipe.mask_bands)):
                size = min(int(rng.integers(largest + 1)), columns.shape[axis] // 2)  # half has to remain
                columns.narrow(axis, int(rng.integers(columns.shape[axis] - size + 1)), size).fill_(mean)


def _has_bfloat16() -> bool:
    """Returns whether the CPU multiplies in bfloat16; elsewhere it takes longer than float32."""
    supported: Callable[[], bool] = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return supported()


def _development(student: Student, clips: _Clips, task: Task) -> dict[str, Any]:
    """Returns the UAR of each corpus, as recorded and in the first copy; their mean; and the loss.

    Computed with the arithmetic of training, which takes half the time where the CPU has bfloat16.
    """
    truth, corpora = clips.targets[clips.dev], [clips.corpora[clip] for clip in clips.dev]
    uars: dict[str, float] = {}
    losses = []
    for bank, suffix in zip(clips.banks, ("", " augmented"), strict=False):
        with torch.autocast("cpu", torch.bfloat16, enabled=_has_bfloat16()):
            logits = student.judge([bank.get(clip) for clip in clips.dev])
        losses.append(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(truth)).item())
        figures = by_corpus(truth, logits.argmax(1), corpora, len(task.outputs))
        uars |= {f"{name}{suffix}": float(figure["uar"]) for name, figure in figures.items()}
    return {"scores": uars, "score": float(np.mean([*uars.values()])), "dev_loss": float(np.mean(losses))}

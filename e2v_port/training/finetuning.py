"""Trains the last blocks of a transformer together with a head that was trained before."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port import seam
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, normalize
from e2v_port.training.clips import Bank
from e2v_port.training.features import Part
from e2v_port.training.objective import Objective
from e2v_port.training.task import EPOCHS, Progress, Task, load_state, save_state, seeded

__all__ = ["Clips", "Schedule", "Start", "Tuned", "finetune"]

Array = NDArray[np.float32]

_LONGEST = 20 * SAMPLING_RATE  # samples of a clip that a step sees: memory grows with the longest of a batch
_HEAD = 10  # times the learning rate of the blocks
_GRADIENT = 1.0  # largest norm of a gradient
_WARM_UP = 0.2  # share of all steps before the highest rate
_SORTED = 8  # batches whose clips are sorted by length together, so that little is computed for padding


@dataclass(frozen=True)
class Schedule:
    """How blocks are trained.

    Attributes:
        blocks: Number of blocks, counted from the last one.
        rate: Highest learning rate of AdamW, reached after a fifth of all steps, then falling to zero (one cycle).
        epochs: Number of epochs.
        batch: Number of clips per step.
    """

    blocks: int
    rate: float
    epochs: int
    batch: int


@dataclass(frozen=True)
class Clips:
    """The clips to train on.

    Attributes:
        task: All clips; their positions are those in the banks, `train` first.
        parts: The readable clips of `train` and `dev`.
        banks: The clips and their augmented copies.
    """

    task: Task
    parts: Mapping[str, Part]
    banks: Sequence[Bank]


@dataclass(frozen=True)
class Start:
    """The model to start from.

    Attributes:
        folder: A converted model with its trained head.
        config: Its configuration.
        head: The head for standardized embeddings.
        mean: Mean of the embeddings, [embed_dim].
        deviation: Standard deviation of the embeddings, [embed_dim].
        curve: Figures of the epochs so far.
        best: Number of the best of them.
    """

    folder: Path
    config: ModelConfig
    head: nn.Module
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    curve: Sequence[dict[str, Any]]
    best: int


@dataclass(frozen=True)
class Tuned:
    """What was trained.

    Attributes:
        blocks: New tensors of the blocks by their stored names; none if no epoch was better than the start.
        head: State of the head for standardized embeddings.
        outputs: Outputs for the development clips, [clips, outputs].
        curve: Figures of all epochs, those before included.
        best: Number of the best epoch.
    """

    blocks: dict[str, Array]
    head: dict[str, Tensor]
    outputs: Array
    curve: list[dict[str, Any]]
    best: int


def finetune(
    start: Start,
    schedule: Schedule,
    clips: Clips,
    objective: Objective,
    *,
    device: str,
    work: Path,
    progress: Progress,
) -> Tuned:
    """Trains the last blocks and the head, and keeps the epoch with the best development score.

    After each epoch the state is written to `work`. All other tensors, those of the readout included, stay as they are.

    Args:
        start: The model to start from.
        schedule: How the blocks are trained.
        clips: The clips.
        objective: The loss and the figures.
        device: `cpu` or `cuda`.
        work: Folder of the state.
        progress: Receives a line per epoch.
    """
    run = _Run(start, schedule, clips, objective, torch.device(device))
    if state := load_state(work / "finetuning.pt"):
        run.load(state)
        progress.say(f"resuming after epoch {run.epochs} of {schedule.epochs} of fine-tuning")
    while run.epochs < schedule.epochs:
        began = time.perf_counter()
        number = run.epochs + 1
        with progress.bar(run.steps, f"fine-tuning {number} of {schedule.epochs}") as advance:
            run.epoch(number, advance)
        save_state(run.state(), work / "finetuning.pt")
        last = run.curve[-1]
        progress.say(
            f"fine-tuning {number}/{schedule.epochs}  loss {last['loss']:.3f}  dev {objective.score} "
            f"{last['score']:.3f}  before {start.curve[start.best - 1]['score']:.3f}  "
            f"{time.perf_counter() - began:.0f} s"
        )
    return run.tuned()


class _Run:
    """Blocks in training.

    Attributes:
        curve: Figures of all epochs so far.
        epochs: Number of epochs of fine-tuning so far.
        steps: Number of steps per epoch.
    """

    def __init__(
        self,
        start: Start,
        schedule: Schedule,
        clips: Clips,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self._config, self._objective, self._parts, self._banks = start.config, objective, clips.parts, clips.banks
        self._seed, self._batch, self._device = clips.task.seed, schedule.batch, device
        load: Any = seam.runtime("torch_runtime")
        runtime = load(start.folder / "model.safetensors", start.config, str(device), packed=False)
        self._network = runtime.model  # frozen; the head inside it is not used
        stacks = ((stack, len(getattr(self._network, stack))) for stack in self._network.stacks)
        names = [f"{stack}.{i}." for stack, blocks in stacks for i in range(blocks)][-schedule.blocks :]
        self._blocks = {
            name: value.requires_grad_()
            for name, value in self._network.named_parameters()
            if name.startswith(tuple(names))
        }
        self._network.head = None
        self._head = start.head.to(self._device)
        self._mean, self._deviation = (
            torch.from_numpy(value).float().to(self._device) for value in (start.mean, start.deviation)
        )
        # Positions in the banks of the readable clips.
        position = {id(clip): i for i, clip in enumerate([*clips.task.parts["train"], *clips.task.parts["dev"]])}
        self._positions = {part: [position[id(clip)] for clip in found.clips] for part, found in self._parts.items()}
        self.steps = -(-len(self._positions["train"]) // schedule.batch)
        # Weight decay would pull the blocks to zero, not to what they were.
        self._optimizer = torch.optim.AdamW(
            [{"params": [*self._blocks.values()]}, {"params": [*self._head.parameters()]}], weight_decay=0.0
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer,
            [schedule.rate, _HEAD * schedule.rate],
            total_steps=self.steps * schedule.epochs,
            pct_start=_WARM_UP,
        )
        self.curve = [*start.curve]
        self._before, self._best = len(self.curve), start.best
        self._kept: dict[str, Any] = {"blocks": {}, "head": {}, "outputs": torch.zeros(0)}

    @property
    def epochs(self) -> int:
        """See the class."""
        return len(self.curve) - self._before

    def epoch(self, number: int, advance: Any) -> None:
        """Runs an epoch, judges it, and keeps its tensors if it is the best so far."""
        rng = np.random.default_rng((self._seed, EPOCHS, number))
        losses = []
        targets = torch.from_numpy(self._parts["train"].targets)
        with seeded(self._seed + number):
            for batch in self._drawn(rng):
                if len(batch) >= self._objective.fewest:
                    waveforms = [self._cut(self._waveform("train", i, copy), rng) for i, copy in batch]
                    clips = torch.tensor([i for i, _ in batch])
                    loss = self._objective.loss(self._outputs(waveforms), targets[clips].to(self._device))
                    self._optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    nn.utils.clip_grad_norm_([*self._blocks.values(), *self._head.parameters()], _GRADIENT)
                    self._optimizer.step()
                    losses.append(loss.item())
                self._schedule.step()
                advance()
        dev = self._parts["dev"]
        outputs = [self._judge(copy) for copy in range(1 + dev.copies)]
        figures = self._objective.figures(dev, outputs)
        self.curve.append({"epoch": len(self.curve) + 1, "loss": float(np.mean(losses)), **figures})
        if figures["score"] > self.curve[self._best - 1]["score"]:
            self._best = len(self.curve)
            self._kept = {
                "blocks": {name: value.detach().cpu().clone() for name, value in self._blocks.items()},
                "head": {name: value.cpu().clone() for name, value in self._head.state_dict().items()},
                "outputs": torch.from_numpy(outputs[0]),
            }

    def _drawn(self, rng: np.random.Generator) -> list[list[tuple[int, int]]]:
        """Returns the clips of each step and the number of the copy that is drawn of each, 0 for the clip itself."""
        order = rng.permutation(len(self._positions["train"]))
        copies = rng.integers(len(self._banks), size=len(order))
        pairs = [(int(i), int(copy)) for i, copy in zip(order, copies, strict=True)]
        batches = []
        for start in range(0, len(pairs), _SORTED * self._batch):
            some = sorted(pairs[start : start + _SORTED * self._batch], key=lambda pair: self._length("train", *pair))
            batches += [some[at : at + self._batch] for at in range(0, len(some), self._batch)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def _length(self, part: str, clip: int, copy: int) -> int:
        return int(self._banks[copy].lengths[self._positions[part][clip]])

    def _waveform(self, part: str, clip: int, copy: int) -> Waveform:
        return self._banks[copy].get(self._positions[part][clip])

    def _cut(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        if len(waveform) <= _LONGEST:
            return waveform
        at = int(rng.integers(len(waveform) - _LONGEST))
        return waveform[at : at + _LONGEST]

    def _outputs(self, waveforms: Sequence[Waveform]) -> Tensor:
        """Returns the outputs [B, outputs] for clips."""
        architecture = self._config.architecture
        if architecture.normalize:
            waveforms = [normalize(waveform, architecture.waveform_eps) for waveform in waveforms]
        samples = [len(waveform) for waveform in waveforms]
        batch = torch.zeros(len(waveforms), max(samples), dtype=torch.float32)
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        embeddings = self._network(batch.to(self._device), samples)[1]
        outputs: Tensor = self._head((embeddings - self._mean) / self._deviation)
        return outputs

    @torch.no_grad()
    def _judge(self, copy: int) -> Array:
        """Returns the outputs for the development clips or their copies, [clips, outputs]."""
        number = len(self._positions["dev"])
        order = sorted(range(number), key=lambda i: self._length("dev", i, copy))
        rows: list[Array | None] = [None] * number
        for start in range(0, number, self._batch):
            some = order[start : start + self._batch]
            found = self._outputs([self._waveform("dev", i, copy) for i in some]).cpu().numpy()
            for i, row in zip(some, found, strict=True):
                rows[i] = row
        return np.array(rows)

    def state(self) -> dict[str, Any]:
        """Returns everything that `load` needs to continue."""
        return {
            "blocks": {name: value.detach() for name, value in self._blocks.items()},
            "head": self._head.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "curve": self.curve,
            "best": self._best,
            "kept": self._kept,
        }

    @torch.no_grad()
    def load(self, state: Mapping[str, Any]) -> None:
        """Continues from a state."""
        for name, value in state["blocks"].items():
            self._blocks[name].copy_(value)
        self._head.load_state_dict(state["head"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self.curve, self._best, self._kept = state["curve"], state["best"], state["kept"]

    def tuned(self) -> Tuned:
        """Returns what the best epoch has trained."""
        blocks = {name: value.numpy() for name, value in self._kept["blocks"].items()}
        return Tuned(blocks, self._kept["head"], self._kept["outputs"].numpy(), self.curve, self._best)

"""What a head is trained for and judged by: labels with equal weight, or dimensions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.evaluation import metrics
from e2v_port.training.features import Part
from e2v_port.training.task import Task, by_corpus

__all__ = ["Objective", "balanced", "ccc_loss"]

Array = NDArray[np.float32]


def ccc_loss(outputs: Tensor, truth: Tensor) -> Tensor:
    """Returns 1 - CCC, summed over the dimensions of [B, dimensions]; `metrics.ccc` defines CCC."""
    mean, target = outputs.mean(0), truth.mean(0)
    covariance = ((outputs - mean) * (truth - target)).mean(0)
    spread = (outputs - mean).square().mean(0) + (truth - target).square().mean(0) + (mean - target).square()
    return (1 - 2 * covariance / (spread + 1e-8)).sum()


def balanced(targets: NDArray[Any], labels: int) -> NDArray[np.float64]:
    """Returns weights with which all labels that occur count equally: scikit-learn's "balanced"."""
    counts = np.bincount(targets, minlength=labels)
    return np.asarray(len(targets) / (np.count_nonzero(counts) * np.maximum(counts, 1)))


class Objective:
    """The loss of a task and its figures on the development set.

    Attributes:
        score: Name of the figure that decides which epoch is kept, `UAR` or `CCC`.
        fewest: Clips that a batch must have; a single clip has no correlation.
    """

    def __init__(self, task: Task, train: Part) -> None:
        self._task = task
        self.score = "CCC" if task.dimensional else "UAR"
        self.fewest = 2 if task.dimensional else 1
        self._weights = None
        if not task.dimensional:
            self._weights = torch.from_numpy(balanced(train.targets, len(task.outputs))).float()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss of the outputs for a batch, [B, outputs]."""
        if self._weights is None:
            return ccc_loss(outputs, targets)
        return F.cross_entropy(outputs, targets, self._weights.to(outputs.device))

    def figures(self, dev: Part, outputs: Sequence[Array]) -> dict[str, Any]:
        """Judges the outputs for the development clips.

        Args:
            dev: The development clips.
            outputs: Outputs [clips, outputs] for the clips, and then for their copies if they have any.

        Returns:
            `scores`: the UAR of each corpus, or the CCC of each dimension over all corpora, for the clips and for their
            copies; `score`: their mean; `dev_loss`: the mean loss, with equal weight for all clips.
        """
        scores: dict[str, float] = {}
        losses = []
        for each, suffix in zip(outputs, ("", " augmented"), strict=False):
            predicted, truth = torch.from_numpy(each), torch.from_numpy(dev.targets)
            if self._task.dimensional:
                found = _ccc(dev.targets, each)
                losses.append(ccc_loss(predicted, truth).item())
            else:
                found = {name: figures["uar"] for name, figures in self.judged(dev, each).items()}
                losses.append(F.cross_entropy(predicted, truth).item())
            scores |= {f"{name}{suffix}": value for name, value in found.items()}
        return {"scores": scores, "score": float(np.mean([*scores.values()])), "dev_loss": float(np.mean(losses))}

    def judged(self, dev: Part, outputs: Array) -> dict[str, dict[str, Any]]:
        """Returns the figures of each corpus: UAR and confusion matrix, or CCC."""
        if not self._task.dimensional:
            return by_corpus(dev.targets, outputs.argmax(1), dev.corpora, len(self._task.outputs))
        names = np.array(dev.corpora)
        return {
            name: {"ccc": _ccc(dev.targets[names == name], outputs[names == name])}
            for name in dict.fromkeys(dev.corpora)
        }


def _ccc(truth: NDArray[Any], outputs: Array) -> dict[str, float]:
    pairs = zip(DIMENSIONS, truth.T.astype(np.float64), outputs.T.astype(np.float64), strict=True)
    values = {name: float(metrics.ccc(metrics.moments(target, output))) for name, target, output in pairs}
    return {name: value if np.isfinite(value) else 0.0 for name, value in values.items()}

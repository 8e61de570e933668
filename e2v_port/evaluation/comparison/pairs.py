"""Two models that answered for the same clips: the difference of their figures, and whether it is chance."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e2v_port.evaluation import metrics
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.metrics import Array, Integers
from e2v_port.evaluation.results import Figure

__all__ = ["Difference", "difference", "mcnemar"]


@dataclass(frozen=True)
class Difference:
    """How a model differs from the first one of a comparison, on the same clips.

    Attributes:
        uar: Difference of the UAR, positive if this model is better, with the interval of a paired bootstrap: both
            models are drawn the same speakers (or clips).
        macro_f1: Difference of the macro-F1, in the same way.
        only_first: Number of clips that only the first model gets right.
        only_this: Number of clips that only this model gets right.
        p: Probability, if both models are right equally often, that these two numbers differ by as much or more; see
            `mcnemar`.
    """

    uar: Figure
    macro_f1: Figure
    only_first: int
    only_this: int
    p: float


def difference(truth: Integers, first: Integers, other: Integers, labels: int, bootstrap: Bootstrap) -> Difference:
    """Compares the answers of two models for the same clips.

    Args:
        truth: Indices of the true labels, [clips].
        first: Indices of the first model's answers, [clips].
        other: Indices of the other model's answers, [clips].
        labels: Number of labels.
        bootstrap: The draws, of these clips.
    """
    # One drawing of both: a resample has the same speakers for the two models.
    each = np.stack([metrics.each_confusion(truth, answers, labels) for answers in (first, other)], axis=1)
    whole, draws = each.sum(0), bootstrap.draws(each)

    def paired(metric: Callable[[Array], Array]) -> Figure:
        value, drawn = metric(whole), metric(draws)
        return bootstrap.interval(float(value[1] - value[0]), drawn[:, 1] - drawn[:, 0])

    right: list[NDArray[np.bool_]] = [answers == truth for answers in (first, other)]
    only_first, only_this = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    return Difference(
        paired(metrics.uar), paired(metrics.macro_f1), only_first, only_this, mcnemar(only_first, only_this)
    )


def mcnemar(only_first: int, only_other: int) -> float:
    """Returns the p value of McNemar's exact test, two-sided: a binomial test of the clips that one model gets right.

    McNemar 1947, doi:10.1007/BF02295996; for classifiers, Dietterich 1998, doi:10.1162/089976698300017197. It takes
    clips for independent, which those of one speaker are not: a paired bootstrap over speakers is the safer of the two.

    Args:
        only_first: Number of clips that only the first model gets right.
        only_other: Number of clips that only the other one does.

    Returns:
        0 to 1; 1 without such clips.
    """
    total, fewer = only_first + only_other, min(only_first, only_other)
    ways = term = 1
    for i in range(fewer):  # integers: exact for any number of clips
        term = term * (total - i) // (i + 1)
        ways += term
    return float(min(1.0, 2 * ways / 2**total))

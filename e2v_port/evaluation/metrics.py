"""Metrics of confusion matrices, of tables of bins and of sums; each accepts a stack of them.

`evaluate` adds the intervals; docs/evaluation.md explains how to read them.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Integers",
    "aurc",
    "binned",
    "ccc",
    "confusion",
    "each_confusion",
    "each_moment",
    "ece",
    "fit_temperature",
    "macro_f1",
    "mae",
    "moments",
    "nll",
    "pearson",
    "recalls",
    "reliability",
    "risk_coverage",
    "share",
    "uar",
    "wa",
]

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

BINS = 15  # of the calibration error, as in arXiv 1706.04599
ROUNDING = 1e-12  # relative error of sums over 10 000 clips in float64, with a margin
COLDEST, HOTTEST = 0.1, 10.0  # temperatures; beyond them the scores of a clip are one-hot, or all equal

# Labels: of a confusion matrix [..., references, answers].


def confusion(truth: Integers, predicted: Integers, labels: int) -> Array:
    """Counts clips: [labels, labels], a row for each reference, a column for each answer.

    Args:
        truth: Indices of the true labels, [clips].
        predicted: Indices of the predicted labels, [clips].
        labels: Number of labels.
    """
    return np.bincount(truth * labels + predicted, minlength=labels**2).reshape(labels, labels).astype(np.float64)


def each_confusion(truth: Integers, predicted: Integers, labels: int) -> Array:
    """Returns the summands of `confusion` for each clip: [clips, labels, labels]."""
    matrices = np.zeros((len(truth), labels, labels))
    matrices[np.arange(len(truth)), truth, predicted] = 1
    return matrices


def recalls(matrix: Array) -> Array:
    """Returns the recall of each label; NaN for a label without references."""
    right, references = np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1)
    return _divided(right, references)


def uar(matrix: Array) -> Array:
    """Returns the unweighted average recall: the mean over the labels that have references."""
    return _mean_of_present(recalls(matrix), matrix)


def wa(matrix: Array) -> Array:
    """Returns the weighted accuracy: the share of clips that are right."""
    return np.asarray(np.trace(matrix, axis1=-2, axis2=-1) / matrix.sum((-2, -1)))


def macro_f1(matrix: Array) -> Array:
    """Returns the mean F1 of the labels that have references: 2 right / (references + answers)."""
    right, both = np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1) + matrix.sum(-2)
    return _mean_of_present(np.divide(2 * right, both, out=np.zeros(right.shape), where=both > 0), matrix)


def _mean_of_present(values: Array, matrix: Array) -> Array:
    present = matrix.sum(-1) > 0
    return np.asarray(np.where(present, values, 0).sum(-1) / present.sum(-1))


# Confidences: of a table of bins [..., bins, (clips, sum of confidences, right)].


def reliability(confidences: Array, right: NDArray[np.bool_], bins: int = BINS) -> Array:
    """Sums up clips by confidence: [bins, 3], the number of clips, the sum of confidences, the number that are right.

    Bins have equal width and include their upper end.
    """
    rows = binned(confidences, right, bins)
    return np.asarray(rows.sum(0))


def binned(confidences: Array, right: NDArray[np.bool_], bins: int = BINS) -> Array:
    """Returns the summands of `reliability` for each clip: [clips, bins, 3]."""
    rows = np.zeros((len(confidences), bins, 3))
    bin_of = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    rows[np.arange(len(rows)), bin_of] = np.stack([np.ones(len(rows)), confidences, right], axis=-1)
    return rows


def ece(table: Array) -> Array:
    """Returns the expected calibration error: the mean distance between confidence and accuracy, weighted by clips.

    Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; Guo et al. 2017, arXiv 1706.04599.
    """
    return np.asarray(np.abs(table[..., 1] - table[..., 2]).sum(-1) / table[..., 0].sum(-1))


def nll(logits: Array, right: NDArray[np.bool_], temperature: float, weights: Array | None = None) -> float:
    """Returns the mean negative log likelihood of the right labels.

    Args:
        logits: Logits, [clips, labels].
        right: Whether a label counts as right, [clips, labels]; one or more for each clip.
        temperature: Divisor of the logits before the softmax.
        weights: Weight of each clip in the mean, [clips]; all the same by default.
    """
    scaled = logits / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    of_right = np.logaddexp.reduce(np.where(right, scaled, -np.inf), axis=-1)
    return float(np.average(np.logaddexp.reduce(scaled, axis=-1) - of_right, weights=weights))


def fit_temperature(logits: Array, right: NDArray[np.bool_], weights: Array | None = None) -> float:
    """Finds the temperature between 0.1 and 10 with the smallest `nll`, by golden-section search on its logarithm.

    The minimum is unique if one label is right for each clip: nll is then convex in 1 / temperature. Guo et al. 2017,
    arXiv 1706.04599.
    """
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(COLDEST), math.log(HOTTEST)
    while high - low > 1e-7:
        a, b = high - golden * (high - low), low + golden * (high - low)
        if nll(logits, right, math.exp(a), weights) < nll(logits, right, math.exp(b), weights):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


def risk_coverage(confidences: Array, wrong: NDArray[np.bool_], weights: Array | None = None) -> tuple[Array, Array]:
    """Returns what happens if a model only answers where it is at least as confident as for each of the clips.

    El-Yaniv & Wiener 2010, JMLR 11; Geifman & El-Yaniv 2017, arXiv 1705.08500.

    Args:
        confidences: Confidence of each answer, [clips].
        wrong: Whether each answer is wrong, [clips].
        weights: How often each clip counts, [clips]; once by default.

    Returns:
        Coverage, the share of clips that get an answer, and risk, the share of these answers that are wrong: both
        [clips], from the most to the least confident clip. Clips of equal confidence have equal values. Risk is NaN
        where no clip counts.
    """
    order = np.argsort(-confidences, kind="stable")
    each = np.ones(len(order)) if weights is None else weights[order]
    answered, errors = np.cumsum(each), np.cumsum(each * wrong[order])
    sorted_ = confidences[order]
    last = np.searchsorted(-sorted_, -sorted_, side="right") - 1  # of the clips with the same confidence
    return answered[last] / answered[-1], _divided(errors[last], answered[last])


def share(counts: Array) -> Array:
    """Returns the share of a part [..., (all, part)]; NaN if there is nothing to share."""
    return _divided(counts[..., 1], counts[..., 0])


def aurc(confidences: Array, wrong: NDArray[np.bool_], weights: Array | None = None) -> float:
    """Returns the area under the risk-coverage curve: the mean risk over the clips, 0 if no answer is ever wrong.

    With random confidences it is the share of wrong answers. Geifman et al. 2019, arXiv 1805.08206.
    """
    _, risk = risk_coverage(confidences, wrong, weights)
    each = np.ones(len(risk)) if weights is None else weights[np.argsort(-confidences, kind="stable")]
    return float(np.average(np.where(each > 0, risk, 0), weights=each))


# Dimensions: of moments [..., (clips, x, y, x², y², xy, |x - y|, x - y)], each a sum over clips, x and y less their
# medians in the first six: the squares of almost constant values would otherwise cancel each other.


def moments(truth: Array, measured: Array) -> Array:
    """Returns the sums over clips that `ccc`, `pearson` and `mae` need: [8]."""
    return np.asarray(each_moment(truth, measured).sum(0))


def each_moment(x: Array, y: Array) -> Array:
    """Returns the summands of `moments` for each clip: [clips, 8]."""
    difference = x - y
    x, y = x - np.median(x), y - np.median(y)
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y, np.abs(difference), difference], axis=-1)


def ccc(sums: Array) -> Array:
    """Returns the concordance correlation: 2 s_xy / (s_x² + s_y² + (mean x - mean y)²), variances over n.

    Lin 1989, doi:10.2307/2532051. It is 1 for equal values, and never outside [-1, 1];
    unlike Pearson's, a wrong scale or offset lowers it. NaN if both sides are the same constant.
    """
    xx, yy, xy = _central(sums)
    return np.clip(_divided(2 * xy, xx + yy + (sums[..., 7] / sums[..., 0]) ** 2), -1, 1)


def pearson(sums: Array) -> Array:
    """Returns Pearson's correlation, -1 to 1; NaN if one side is constant."""
    xx, yy, xy = _central(sums)
    return np.clip(_divided(xy, np.sqrt(xx) * np.sqrt(yy)), -1, 1)


def mae(sums: Array) -> Array:
    """Returns the mean absolute error."""
    return np.asarray(sums[..., 6] / sums[..., 0])


def _central(sums: Array) -> tuple[Array, Array, Array]:
    """Returns variances and the covariance; all that is within rounding error of 0 is 0."""
    n, x, y, xx, yy, xy, *_ = np.moveaxis(sums, -1, 0)
    squares, x, y = (xx / n, yy / n), x / n, y / n
    xx, yy = (
        np.where(value - mean * mean > ROUNDING * value, value - mean * mean, 0)
        for value, mean in zip(squares, (x, y), strict=True)
    )
    return xx, yy, np.where((xx > 0) & (yy > 0), xy / n - x * y, 0)


def _divided(upper: Array, lower: Array) -> Array:
    """Divides; NaN where the divisor is 0."""
    return np.asarray(np.divide(upper, lower, out=np.full(np.shape(upper), np.nan), where=lower > 0))

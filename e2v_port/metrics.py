"""Figures of merit: of confusion matrices, of tables of bins and of sums, one or stacks of them.

`evaluation` gives them intervals, docs/evaluation.md says how to read them.
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Integers",
    "binned",
    "ccc",
    "confusion",
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
    "uar",
    "wa",
]

Array: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

BINS = 15  # of the calibration error: as in arXiv 1706.04599
ROUNDING = 1e-14  # of squares of numbers from 0 to 1, in float64, with room
COLDEST, HOTTEST = 0.1, 10.0  # temperatures: beyond, a clip's scores are all or nothing, or all the same

# Labels: of a confusion matrix [..., references, answers].


def confusion(truth: Integers, predicted: Integers, labels: int) -> Array:
    """Counts clips: [labels, labels], a row for each reference, a column for each answer.

    Args:
        truth: [clips], indices of labels.
        predicted: [clips], likewise.
        labels: How many there are.
    """
    return np.bincount(truth * labels + predicted, minlength=labels**2).reshape(labels, labels).astype(np.float64)


def recalls(matrix: Array) -> Array:
    """Returns the share of each reference that is right; not a number for a label without references."""
    right, references = np.diagonal(matrix, axis1=-2, axis2=-1), matrix.sum(-1)
    return _divided(right, references)


def uar(matrix: Array) -> Array:
    """Returns the mean recall of the labels that have references; others do not count."""
    return _mean_of_present(recalls(matrix), matrix)


def wa(matrix: Array) -> Array:
    """Returns the share of clips that are right."""
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
    """Sums clips up by confidence: [bins, 3], the number of clips, the sum of their confidences, how many are right.

    Bins are of equal width, and the upper end of a bin belongs to it.
    """
    rows = binned(confidences, right, bins)
    return np.asarray(rows.sum(0))


def binned(confidences: Array, right: NDArray[np.bool_], bins: int = BINS) -> Array:
    """Returns what `reliability` sums up, for each clip: [clips, bins, 3]."""
    rows = np.zeros((len(confidences), bins, 3))
    bin_of = np.clip(np.ceil(confidences * bins).astype(np.int64) - 1, 0, bins - 1)
    rows[np.arange(len(rows)), bin_of] = np.stack([np.ones(len(rows)), confidences, right], axis=-1)
    return rows


def ece(table: Array) -> Array:
    """Returns the expected calibration error: the mean distance of confidence and accuracy, bins weighted by clips.

    Naeini et al. 2015, doi:10.1609/aaai.v29i1.9602; Guo et al. 2017, arXiv 1706.04599.
    """
    return np.asarray(np.abs(table[..., 1] - table[..., 2]).sum(-1) / table[..., 0].sum(-1))


def nll(logits: Array, right: NDArray[np.bool_], temperature: float) -> float:
    """Returns the mean negative logarithm of the probability of what is right.

    Args:
        logits: [clips, labels].
        right: [clips, labels], the labels that count as right, one or more for each clip.
        temperature: What logits are divided by before the softmax.
    """
    scaled = logits / temperature
    scaled = scaled - scaled.max(-1, keepdims=True)
    of_right = np.logaddexp.reduce(np.where(right, scaled, -np.inf), axis=-1)
    return float(np.mean(np.logaddexp.reduce(scaled, axis=-1) - of_right))


def fit_temperature(logits: Array, right: NDArray[np.bool_]) -> float:
    """Finds the temperature of the smallest `nll`, between 0.1 and 10, by golden-section search of its logarithm.

    There is one such temperature: nll is convex in 1 / temperature if one label is right for each clip. Guo et al.
    2017, arXiv 1706.04599.
    """
    golden = (math.sqrt(5) - 1) / 2
    low, high = math.log(COLDEST), math.log(HOTTEST)
    while high - low > 1e-7:
        a, b = high - golden * (high - low), low + golden * (high - low)
        if nll(logits, right, math.exp(a)) < nll(logits, right, math.exp(b)):
            high = b
        else:
            low = a
    return math.exp((low + high) / 2)


# Dimensions: of moments [..., (clips, x, y, x², y², xy, |x - y|)], each a sum over clips.


def moments(truth: Array, measured: Array) -> Array:
    """Returns the sums over clips that the three below are made of: [7]."""
    return np.asarray(each_moment(truth, measured).sum(0))


def each_moment(x: Array, y: Array) -> Array:
    """Returns what `moments` sums up, for each clip: [clips, 7]."""
    return np.stack([np.ones(len(x)), x, y, x * x, y * y, x * y, np.abs(x - y)], axis=-1)


def ccc(sums: Array) -> Array:
    """Returns the concordance correlation: 2 s_xy / (s_x² + s_y² + (mean x - mean y)²), variances over n.

    Lin 1989, doi:10.2307/2532051. It is 1 for equal values, and unlike Pearson's less for a wrong scale or offset.
    """
    x, y, xx, yy, xy = _central(sums)
    return _divided(2 * xy, xx + yy + (x - y) ** 2)


def pearson(sums: Array) -> Array:
    """Returns Pearson's correlation; not a number where one side never changes."""
    _, _, xx, yy, xy = _central(sums)
    return _divided(xy, np.sqrt(xx * yy))


def mae(sums: Array) -> Array:
    """Returns the mean absolute error."""
    return np.asarray(sums[..., 6] / sums[..., 0])


def _central(sums: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Means, variances and covariance; what rounding leaves of the variance of equal numbers is 0."""
    n, x, y, xx, yy, xy, _ = np.moveaxis(sums, -1, 0)
    x, y = x / n, y / n
    xx, yy = xx / n - x * x, yy / n - y * y
    return x, y, np.where(xx > ROUNDING, xx, 0), np.where(yy > ROUNDING, yy, 0), xy / n - x * y


def _divided(upper: Array, lower: Array) -> Array:
    """Not a number where there is nothing to divide by."""
    return np.asarray(np.divide(upper, lower, out=np.full(np.shape(upper), np.nan), where=lower > 0))

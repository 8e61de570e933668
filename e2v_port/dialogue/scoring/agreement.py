"""Agreement of raters: Krippendorff's alpha for ordinal ratings."""

from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["alpha"]


def alpha(items: Iterable[Sequence[int]], highest: int = 5) -> float:
    """Returns Krippendorff's alpha for ordinal ratings: 1 if raters agree, 0 if they agree as often as by chance.

    Krippendorff 2011, Computing Krippendorff's Alpha-Reliability. Ratings may be missing; items with less than two do
    not count.

    Args:
        items: Ratings of each item, 1 to `highest`, by however many raters rated it.
        highest: Highest rating.

    Returns:
        Alpha; NaN if no item has two ratings, or all ratings are equal.
    """
    coincidences = np.zeros((highest, highest))
    for ratings in items:
        counts = np.bincount(np.array(ratings, np.int64) - 1, minlength=highest).astype(float)
        if counts.sum() > 1:
            coincidences += (np.outer(counts, counts) - np.diag(counts)) / (counts.sum() - 1)
    totals = coincidences.sum(0)
    ranks = np.cumsum(totals) - totals / 2
    distances = np.square(ranks[:, None] - ranks)  # of ordinal ratings: how many lie between two, squared
    expected = (np.outer(totals, totals) * distances).sum()
    observed = (coincidences * distances).sum() * (totals.sum() - 1)
    return float(1 - observed / expected) if expected else float("nan")

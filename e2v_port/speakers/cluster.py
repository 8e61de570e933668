"""Which voices there are among embeddings, and how many.

Spectral clustering as in Wang et al. 2018 (arXiv:1710.10468), which was made for embeddings of this kind, with two
changes: similarities are kept to the strongest of each row without blurring them over time; and the number of voices is
the largest one whose voices all differ, not the largest gap between eigenvalues, which invents voices where there is
one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import RuntimeUnavailable

__all__ = ["Voices", "find"]

KEPT = 0.2  # share of the similarities in a row that count in full; 0.05 to 0.5 in the paper
SHARES = (0.2, 0.1, 0.35)  # those tried for a given number of voices; the number is estimated with KEPT
WEAK = 0.01  # what the others count, as in the paper
ROUNDS = 3  # of moving each embedding to the voice that is most like it

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Voices:
    """Voices found among embeddings.

    Attributes:
        centers: [voices, dimensions], float32: mean embedding of each, of length 1.
        fewest: Number of voices for a criterion that is stricter by the margin; that of `centers` if it was given.
        most: Number for one that is laxer by it.
        compared: Number of embeddings that were compared with each other.
        of: Number of all embeddings.
    """

    centers: Vectors
    fewest: int
    most: int
    compared: int
    of: int


def find(
    embeddings: Vectors,
    seconds: NDArray[np.float64],
    runs: NDArray[np.int64],
    *,
    count: int | None,
    alike: float,
    margin: float,
    least: float,
    most: int,
    cap: int,
) -> Voices:
    """Finds the voices among embeddings. Uses no random numbers: the same embeddings always give the same voices.

    Args:
        embeddings: [n, dimensions], each of length 1, in order of time, at least one.
        seconds: [n], speech in each.
        runs: [n], number of the run of speech that each lies in.
        count: Number of voices, at most n; None to estimate it.
        alike: Similarity from which two voices are one, as `_closest` computes it.
        margin: Distance from it within which a different answer is reported.
        least: Fewest seconds of speech of a voice whose number is estimated.
        most: Largest number that is estimated.
        cap: Largest number of embeddings that are compared with each other, which takes memory for its square. Of more,
            this many are taken at equal distances.

    Raises:
        RuntimeUnavailable: scikit-learn is not installed.
    """
    of = len(embeddings)
    if of > cap:
        taken = np.linspace(0, of - 1, cap).astype(int)
        share = seconds.sum() / seconds[taken].sum()
        embeddings, seconds, runs = embeddings[taken], seconds[taken] * share, runs[taken]
    largest = min(count or most, len(embeddings))
    if count is not None:
        found = [_centers(embeddings, seconds, _spectral(embeddings, largest, kept), largest) for kept in SHARES]
        best = max(found, key=lambda centers: _likeness(centers, embeddings, seconds))
        return Voices(best, largest, largest, len(embeddings), of)
    rows = _spectral(embeddings, largest, KEPT)
    tried = [_centers(embeddings, seconds, rows, number) for number in range(1, largest + 1)]
    closest = [_closest(centers, embeddings, seconds, runs, least) for centers in tried]
    strict, chosen, lax = (
        max(number for number, like in enumerate(closest) if number == 0 or like < bar)
        for bar in (alike - margin, alike, alike + margin)
    )
    return Voices(tried[chosen], strict + 1, lax + 1, len(embeddings), of)


def _likeness(centers: Vectors, embeddings: Vectors, seconds: NDArray[np.float64]) -> float:
    """Returns the sum over embeddings of seconds times the similarity to the nearest voice."""
    return float(seconds @ (embeddings @ centers.T).max(1))


def _spectral(embeddings: Vectors, largest: int, kept: float) -> NDArray[np.float64]:
    """Returns the rows of the first eigenvectors of the refined similarities, [n, largest].

    Args:
        embeddings: Same as for `find`.
        largest: Number of eigenvectors.
        kept: Share of the similarities in a row that count in full.
    """
    like = (embeddings @ embeddings.T).astype(np.float64) / 2 + 0.5
    np.fill_diagonal(like, 0)
    np.fill_diagonal(like, np.maximum(like.max(1), 1e-6))  # above 0 for a single one, too
    strong = like >= np.quantile(like, 1 - kept, axis=1, keepdims=True)
    like[~strong] *= WEAK
    like = np.maximum(like, like.T)
    like = like @ like.T
    like /= like.max(1, keepdims=True)
    like = (like + like.T) / 2
    degree = np.sqrt(like.sum(1))
    vectors = np.linalg.eigh(like / degree[:, None] / degree)[1]
    rows: NDArray[np.float64] = vectors[:, : -largest - 1 : -1]
    return rows


def _centers(embeddings: Vectors, seconds: NDArray[np.float64], rows: NDArray[np.float64], number: int) -> Vectors:
    """Returns the mean embeddings of a number of voices, of length 1."""
    own = rows[:, :number]
    own = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
    labels = _kmeans()(number, init=_apart(own, number), n_init=1).fit_predict(own)
    centers = _means(embeddings, seconds, labels, np.zeros((number, embeddings.shape[1]), np.float32))
    for _ in range(ROUNDS):
        centers = _means(embeddings, seconds, (embeddings @ centers.T).argmax(1), centers)
    return centers


def _kmeans() -> Any:
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise RuntimeUnavailable(
            f'speakers need scikit-learn, which cannot be imported ({error}): pip install "e2v-port[speakers]"'
        ) from error
    return KMeans


def _apart(rows: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Returns rows that lie far apart: the first, then each time the one that is furthest from those taken."""
    taken = [0]
    distance = np.full(len(rows), np.inf)
    while len(taken) < number:
        distance = np.minimum(distance, ((rows - rows[taken[-1]]) ** 2).sum(1))
        taken.append(int(distance.argmax()))
    return rows[taken]


def _means(
    embeddings: Vectors, seconds: NDArray[np.float64], labels: NDArray[np.integer[Any]], before: Vectors
) -> Vectors:
    """Returns the mean of the embeddings of each label, of length 1; where a label has none, the one before."""
    sums = before.copy()
    for label in range(len(before)):
        own = labels == label
        if own.any():
            sums[label] = seconds[own] @ embeddings[own]
    return np.asarray(sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12), np.float32)


def _closest(
    centers: Vectors, embeddings: Vectors, seconds: NDArray[np.float64], runs: NDArray[np.int64], least: float
) -> float:
    """Returns the similarity of the two voices that are most alike; infinity if one has too little speech.

    Windows of little speech scatter around the voice, which makes means of few windows less alike than the voices are.
    So the mean similarity between windows of two voices is divided by that within each (Spearman's correction for
    attenuation). Within a voice, windows of different runs count: those of one run sound alike for other reasons.
    """
    if len(centers) == 1:
        return np.inf
    labels = (embeddings @ centers.T).argmax(1)
    if np.bincount(labels, weights=seconds, minlength=len(centers)).min() < least:
        return np.inf
    members = np.eye(len(centers), dtype=np.float32)[labels]
    apart = runs[:, None] != runs[None]
    sums = members.T @ (embeddings @ embeddings.T * apart) @ members
    pairs = members.T @ apart.astype(np.float32) @ members
    if not np.diagonal(pairs).any():
        return np.inf
    means = sums / np.maximum(pairs, 1)
    within = np.diagonal(means).copy()
    within[np.diagonal(pairs) == 0] = within[np.diagonal(pairs) > 0].mean()  # a voice that spoke once
    within = np.maximum(within, 1e-6)
    like = means / np.sqrt(within[:, None] * within[None])
    like[pairs == 0] = np.inf  # in one run only: nothing shows that they are two
    np.fill_diagonal(like, -np.inf)
    return float(like.max())

"""Intervals of figures, from resampled speakers or clips."""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from e2v_port.evaluation.metrics import Array, Integers
from e2v_port.evaluation.results import Figure

__all__ = ["FEWEST_SPEAKERS", "RESAMPLES", "Bootstrap"]

RESAMPLES = 1000  # more would move the ends of an interval by less than the printed digits
FEWEST_SPEAKERS = 5  # heuristic: resampling fewer speakers is meaningless


class Bootstrap:
    """Draws speakers, or clips if there are too few speakers, with replacement (percentiles; Efron & Tibshirani 1993).

    Every figure is a function of sums over clips, so a resample is a weighted sum of the sums of the units.

    With corpora, each resample is stratified (Davison & Hinkley 1997, section 3.2): it has as many speakers of each
    corpus as there are or, if a corpus has too few of them, as many clips of each speaker.

    Attributes:
        speakers: Number of speakers.
        resampled: Unit that is drawn, `speakers` or `clips`.
        units: Index of the unit of each clip.
        seed: Seed of the draws.
    """

    def __init__(self, speakers: Sequence[str], seed: int, corpora: Sequence[str] | None = None) -> None:
        names = {name: i for i, name in enumerate(sorted(set(speakers)))}
        self.speakers = len(names)
        of_speaker = np.array([names[name] for name in speakers], dtype=np.int64)
        of_corpus = np.unique(corpora, return_inverse=True)[1] if corpora else np.zeros(len(speakers), np.int64)
        fewest = min(len(np.unique(of_speaker[of_corpus == corpus])) for corpus in np.unique(of_corpus))
        self.resampled = "speakers" if fewest >= FEWEST_SPEAKERS else "clips"
        self.units: Integers = of_speaker if self.resampled == "speakers" else np.arange(len(speakers))
        strata = np.zeros_like(of_speaker) if not corpora else of_corpus if fewest >= FEWEST_SPEAKERS else of_speaker
        self._strata = [np.unique(self.units[strata == stratum]) for stratum in np.unique(strata)]
        self._count = int(self.units.max()) + 1
        self.seed = seed

    def draws(self, statistics: Array) -> Array:
        """Returns the sums over each resample, [resamples, ...], of statistics [clips, ...]."""
        sums = np.zeros((self._count, *statistics.shape[1:]))
        np.add.at(sums, self.units, statistics)
        flat = sums.reshape(self._count, -1)
        drawn = np.stack([counts @ flat for counts in self._counts()])
        return np.asarray(drawn.reshape(RESAMPLES, *statistics.shape[1:]), dtype=np.float64)

    def weights(self) -> Iterator[Array]:
        """Yields how often each clip is in each resample, [clips], for metrics that are no functions of sums."""
        for counts in self._counts():
            yield counts[self.units].astype(np.float64)

    def _counts(self) -> Iterator[Integers]:
        generator = np.random.default_rng(self.seed)  # the same draws for every figure
        for _ in range(RESAMPLES):
            drawn = [units[generator.integers(len(units), size=len(units))] for units in self._strata]
            yield np.bincount(np.concatenate(drawn), minlength=self._count)

    def figure(self, metric: Callable[[Array], Array], whole: Array, draws: Array) -> Figure:
        """Returns a metric of the sums over all clips, with its interval over the draws."""
        return self.interval(float(metric(whole)), metric(draws))

    def interval(self, value: float, values: Array) -> Figure:
        """Returns a value with its interval over values of resamples; those that are not finite do not count."""
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
        return Figure(value, float(low), float(high))

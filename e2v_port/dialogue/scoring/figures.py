"""Figures of replies: do they fit the tone of the voice, and do they change with it?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.dialogue.examples import Example
from e2v_port.dialogue.replies import LABELS
from e2v_port.dialogue.scoring.pairs import Pairs, pairs
from e2v_port.dialogue.scoring.similarity import bleu, each_bleu, each_rouge, edits, references, said
from e2v_port.dialogue.scoring.tone import Judge
from e2v_port.dialogue.scoring.written import Run
from e2v_port.evaluation import metrics
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.metrics import Array, Integers
from e2v_port.evaluation.results import Figure, plain

__all__ = ["REFERENCES", "Evaluation", "Scored", "Scores", "Tones", "evaluation"]

REFERENCES = "reference replies"

GROUPS: Mapping[str, Callable[[Example], str | None]] = {
    "corpus": lambda example: example.corpus,
    "sex": lambda example: example.sex,
    "intensity": lambda example: example.intensity,
    "speaker": lambda example: example.speaker,
}


@dataclass(frozen=True)
class Tones:
    """How the tone of replies, as a judge reads it, fits that of the voice.

    Attributes:
        f1: Mean F1 of the labels of the voices, the judged tone taken for a prediction of them; 1 is perfect.
        accuracy: Share of replies whose judged tone is the label of the voice.
        differs: Of all pairs of clips in which one person says the same words in different tones, the share whose
            replies differ in judged tone; None without such pairs.
        both: The share of these pairs in which both replies have the tone of their voice.
        keeps: Of all such pairs in the same tone, with the same intensity, the share whose replies have the same judged
            tone; None without such pairs.
        confusion: Numbers of replies: a row for each label of the voice, a column for each judged tone, in the order of
            `replies.LABELS`.
    """

    f1: Figure
    accuracy: Figure
    differs: Figure | None
    both: Figure | None
    keeps: Figure | None
    confusion: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Scores:
    """The figures of a model on some clips, each with its interval.

    Attributes:
        clips: Number of clips.
        speakers: Number of their speakers.
        resampled: Unit of the bootstrap, `speakers` or `clips`.
        bleu: Corpus BLEU with all replies written for the tone as references, 0 to 100.
        rouge_l: Mean ROUGE-L with the nearest of them, 0 to 1.
        tones: By judge.
        heard: UAR of the adapter's own estimate of the emotion; None for a model without an adapter.
        wer: Word error rate of the words nearest to what the adapter hears; None without an adapter.
        empathy: Mean of what a rater gives, 1 to 5; None without ratings.
        rated: Number of clips whose reply has a rating.
    """

    clips: int
    speakers: int
    resampled: str
    bleu: Figure
    rouge_l: Figure
    tones: Mapping[str, Tones]
    heard: Figure | None
    wer: Figure | None
    empathy: Figure | None
    rated: int


@dataclass(frozen=True)
class Scored:
    """A model with its figures.

    Attributes:
        name: Name of the model.
        hears: `speech`, `words` or `label`; empty for the reference replies.
        whole: Figures on all clips.
        groups: Figures by `corpus`, `sex`, `intensity` and `speaker`, on the clips of each.
    """

    name: str
    hears: str
    whole: Scores
    groups: Mapping[str, Mapping[str, Scores]]


@dataclass(frozen=True)
class Evaluation:
    """Models on the same clips.

    Attributes:
        part: `train`, `dev` or `test`.
        models: The reference replies, whose figures are the best that the judges can see; then the models.
        differences: By judge and the names of two models: F1 of the first less that of the second, with the interval of
            a paired bootstrap.
        pairs: Number of pairs of the same words in different tones, and in the same tone.
        chance: Word error rate of words chosen at random among those of the set.
        dtype: Type of the weights of the language models.
        temperature: 0 if replies are the most likely words; else words were drawn at it.
        seed: Seed of the bootstrap, and of what was drawn.
    """

    part: str
    models: tuple[Scored, ...]
    differences: Mapping[str, Mapping[str, Mapping[str, Figure]]]
    pairs: tuple[int, int]
    chance: float
    dtype: str
    temperature: float
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all fields as JSON-compatible values, with None for NaN."""
        values: dict[str, Any] = plain(asdict(self))
        return {"labels": list(LABELS), **values}


def evaluation(
    part: str,
    examples: Sequence[Example],
    runs: Sequence[Run],
    judges: Sequence[Judge],
    *,
    ratings: Mapping[tuple[str, str, str], float] | None = None,
    dtype: str = "float32",
    temperature: float = 0.0,
    seed: int = 0,
) -> Evaluation:
    """Computes all figures.

    Intervals are of a stratified bootstrap, see `Bootstrap`: with fewer than five speakers of a corpus they say how far
    other clips of these speakers would move a figure, not other speakers.

    Args:
        part: Name of the set.
        examples: The set.
        runs: What the models answer.
        judges: Judges of tone; the first is the one that matters.
        ratings: Ratings by words, label and reply.
        dtype: Type of the weights that the models answered with.
        temperature: Temperature that they answered at.
        seed: Seed of the bootstrap.
    """
    first = Run(REFERENCES, "", "", tuple(example.reply for example in examples))
    known = [references(example) for example in examples]
    measured = [_Measured.of(run, examples, known, judges, ratings or {}) for run in (first, *runs)]
    whole = _Sample(examples, range(len(examples)), seed)
    samples: dict[str, dict[str, _Sample]] = {}
    for by, of in GROUPS.items():
        values = {value for example in examples if (value := of(example)) is not None}
        samples[by] = {
            value: _Sample(examples, [index for index, example in enumerate(examples) if of(example) == value], seed)
            for value in sorted(values)
        }
    scored = tuple(
        Scored(
            each.run.name,
            each.run.hears,
            whole.scores(each),
            {by: {value: sample.scores(each) for value, sample in some.items()} for by, some in samples.items()},
        )
        for each in measured
    )
    differences = {}
    for judge in judges:
        f1 = {each.run.name: whole.f1(each, judge.name) for each in measured}
        differences[judge.name] = {
            name: {other: whole.less(mine, theirs) for other, theirs in f1.items() if other != name}
            for name, mine in f1.items()
        }
    return Evaluation(
        part,
        scored,
        differences,
        (len(whole.pairs.other), len(whole.pairs.same)),
        _chance(examples),
        dtype,
        temperature,
        seed,
    )


@dataclass(frozen=True)
class _Measured:
    """What the figures of a model are sums of, for each clip."""

    run: Run
    truth: Integers  # [clips], labels by index
    tones: Mapping[str, Integers]  # by judge
    bleu: Array
    rouge: Array
    heard: Integers | None
    errors: Array | None  # [clips, (words, errors)]
    ratings: Array  # [clips, (1 if rated, rating)]

    @classmethod
    def of(
        cls,
        run: Run,
        examples: Sequence[Example],
        known: Sequence[tuple[str, ...]],
        judges: Sequence[Judge],
        ratings: Mapping[tuple[str, str, str], float],
    ) -> "_Measured":
        given = [
            ratings.get((example.words, example.emotion, reply))
            for example, reply in zip(examples, run.replies, strict=True)
        ]
        errors = None
        if run.nearest is not None:
            pairs = [(said(example.words), said(text)) for example, text in zip(examples, run.nearest, strict=True)]
            errors = np.array([(len(words), edits(words, other)) for words, other in pairs], float)
        return cls(
            run,
            _numbers([example.emotion for example in examples]),
            {judge.name: _numbers(judge(run.replies)) for judge in judges},
            each_bleu(run.replies, known),
            each_rouge(run.replies, known),
            None if run.tones is None else _numbers(run.tones),
            errors,
            np.array([(rating is not None, rating or 0) for rating in given], float),
        )


def _numbers(labels: Sequence[str]) -> Integers:
    return np.array([LABELS.index(label) for label in labels], np.int64)


class _Sample:
    """Some of the clips, with their resamples, which are the same for every model: differences are paired."""

    def __init__(self, examples: Sequence[Example], indices: Sequence[int], seed: int) -> None:
        self.indices = np.array(indices)
        some = [examples[index] for index in indices]
        self._bootstrap = Bootstrap([example.speaker for example in some], seed, [example.corpus for example in some])
        self._weights = np.stack(list(self._bootstrap.weights()))  # [resamples, clips]
        self.pairs: Pairs = pairs(some)
        # A pair is in a resample as often as both its clips together.
        self._others, self._sames = (
            self._weights[:, chosen[:, 0]].astype(np.float32) * self._weights[:, chosen[:, 1]].astype(np.float32)
            for chosen in (self.pairs.other, self.pairs.same)
        )

    def scores(self, model: _Measured) -> Scores:
        at = self.indices
        heard = errors = empathy = None
        if model.heard is not None:
            heard = self._figure(metrics.uar, _confusions(model.truth[at], model.heard[at]))
        if model.errors is not None:
            errors = self._figure(metrics.share, model.errors[at])
        if rated := int(model.ratings[at, 0].sum()):
            empathy = self._figure(metrics.share, model.ratings[at])
        return Scores(
            len(at),
            self._bootstrap.speakers,
            self._bootstrap.resampled,
            self._figure(bleu, model.bleu[at]),
            self._figure(metrics.share, np.stack([np.ones(len(at)), model.rouge[at]], axis=1)),
            {judge: self._tones(model.truth[at], tones[at]) for judge, tones in model.tones.items()},
            heard,
            errors,
            empathy,
            rated,
        )

    def f1(self, model: _Measured, judge: str) -> tuple[float, Array]:
        """Returns the F1 of a model on all clips, and in each resample."""
        each = _confusions(model.truth, model.tones[judge])[self.indices]
        return float(metrics.macro_f1(each.sum(0))), metrics.macro_f1(np.tensordot(self._weights, each, 1))

    def less(self, one: tuple[float, Array], other: tuple[float, Array]) -> Figure:
        """Returns the difference of two figures, as of `f1`."""
        return self._bootstrap.interval(one[0] - other[0], one[1] - other[1])

    def _tones(self, truth: Integers, tones: Integers) -> Tones:
        each = _confusions(truth, tones)
        right = tones == truth
        other, same = self.pairs.other, self.pairs.same
        changed = tones[other[:, 0]] != tones[other[:, 1]]
        return Tones(
            self._figure(metrics.macro_f1, each),
            self._figure(metrics.wa, each),
            self._share(self._others, changed),
            self._share(self._others, right[other].all(1)),
            self._share(self._sames, tones[same[:, 0]] == tones[same[:, 1]]),
            tuple(tuple(map(int, row)) for row in each.sum(0)),
        )

    def _figure(self, metric: Callable[[Array], Array], each: Array) -> Figure:
        """Returns a metric of the sums of statistics [clips, ...], with its interval."""
        return self._bootstrap.figure(metric, each.sum(0), np.tensordot(self._weights, each, 1))

    def _share(self, counts: NDArray[np.float32], holds: NDArray[np.bool_]) -> Figure | None:
        """Returns the share of pairs for which something holds, of counts [resamples, pairs]; None without pairs."""
        if not len(holds):
            return None
        each = np.stack([np.ones(len(holds), np.float32), holds.astype(np.float32)], axis=1)
        whole, draws = each.sum(0, dtype=np.float64), np.asarray(counts @ each, np.float64)
        return self._bootstrap.figure(metrics.share, whole, draws)


def _confusions(truth: Integers, predicted: Integers) -> Array:
    return metrics.each_confusion(truth, predicted, len(LABELS))


def _chance(examples: Sequence[Example]) -> float:
    """Returns the word error rate if the words of each clip are chosen at random among those that are said."""
    texts = sorted({said(example.words) for example in examples})
    spoken = [said(example.words) for example in examples]
    errors = sum(np.mean([edits(words, other) for other in texts]) for words in spoken)
    return float(errors / sum(map(len, spoken)))

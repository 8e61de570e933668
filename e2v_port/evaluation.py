"""How well a model does on a corpus: figures with their uncertainty, and the temperature that makes scores honest.

docs/evaluation.md says how to read them; the figures themselves are in `metrics`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from e2v_port import metrics
from e2v_port.config import DIMENSIONS, ModelConfig
from e2v_port.corpora import Utterance, label_of
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError, CorpusError
from e2v_port.files import replacing
from e2v_port.metrics import Array, Integers
from e2v_port.model import Model, Prediction, softmax

__all__ = [
    "Clip",
    "Evaluation",
    "Figure",
    "Figures",
    "compare",
    "evaluate",
    "mean",
    "plain",
    "report",
    "store_temperature",
    "temperature",
]

Answer: TypeAlias = Prediction | Dimensions | AudioError | None

RESAMPLES = 1000  # more move the ends of an interval by less than they are printed with
FEWEST_SPEAKERS = 5  # of which resampling says anything


@dataclass(frozen=True)
class Figure:
    """A figure and how far other clips or speakers of the same kind might move it.

    Attributes:
        value: On all clips; not a number where nothing defines it, such as a correlation with what never changes.
        low: Lower end of the 95 % bootstrap interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Figures:
    """How often labels are right.

    Attributes:
        uar: Unweighted average recall: the mean of the recalls of the labels that the references have.
        wa: Weighted accuracy: the share of clips that are right.
        macro_f1: The mean of the F1 of the labels that the references have.
        labels: Of the matrix.
        confusion: Number of clips: a row for each reference, a column for each answer.
        recalls: Of each label that the references have.
    """

    uar: Figure
    wa: Figure
    macro_f1: Figure
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    recalls: Mapping[str, float]


@dataclass(frozen=True)
class Clip:
    """What is known and what was said of one clip.

    Attributes:
        file: Its path.
        speaker: As in the corpus.
        sex: Likewise.
        original: The corpus' own label.
        label: What it counts as; None without a counterpart.
        predicted: The model's label, of all that it has; None of a clip that was not run or not judged.
        scores: Their probabilities.
        logits: The model's raw outputs by their own names: of labels, or arousal, dominance and valence.
        dimensions: What listeners said, by name; None where nobody was asked.
        error: Why it could not be read; None of any other clip.
    """

    file: str
    speaker: str
    sex: str | None
    original: str
    label: str | None
    predicted: str | None
    scores: Mapping[str, float] | None
    logits: Mapping[str, float] | None
    dimensions: Mapping[str, float] | None
    error: str | None


@dataclass(frozen=True)
class Evaluation:
    """What a model does on some utterances.

    Attributes:
        model: Its name.
        runtime: What ran it.
        temperature: That it was run with.
        outputs: Each label of the model, to what it counts as.
        mapping: Each label of the corpus, to what it counts as.
        clips: Every utterance, in the order given.
        judged: How many count in the figures.
        speakers: How many speakers they are of.
        resampled: What was drawn for the intervals, `speakers` or `clips`.
        open: Figures where the model may answer with any label it has; None for a dimensional model.
        closed: Where only the labels count that the references have, their scores brought to a sum of 1.
        ece: Expected calibration error of the open answers.
        ece_scaled: The same with a temperature, that of each half of the speakers (or clips) fitted on the other.
        reliability: [15, 3] of the open answers: clips in each bin, the sum of their confidences, how many are right.
        by_speaker: Clips and UAR of each speaker, of the open answers.
        by_sex: Of each sex.
        impossible: Clips by label that the model cannot answer with; they do not count in the figures.
        uar_with_impossible: The open UAR if they counted as errors.
        unmapped: Clips by the corpus' own label that has no counterpart, empty for none; they were not run.
        dimensions: `ccc`, `pearson` and `mae` of arousal, dominance and valence; empty for a model with labels.
    """

    model: str
    runtime: str
    temperature: float
    outputs: Mapping[str, str]
    mapping: Mapping[str, str | None]
    clips: tuple[Clip, ...]
    judged: int
    speakers: int
    resampled: str
    open: Figures | None
    closed: Figures | None
    ece: Figure | None
    ece_scaled: Figure | None
    reliability: tuple[tuple[float, ...], ...]
    by_speaker: Mapping[str, tuple[int, float]]
    by_sex: Mapping[str, tuple[int, float]]
    impossible: Mapping[str, int]
    uar_with_impossible: float | None
    unmapped: Mapping[str, int]
    dimensions: Mapping[str, Mapping[str, Figure]]

    @property
    def errors(self) -> tuple[str, ...]:
        """Why clips could not be read."""
        return tuple(clip.error for clip in self.clips if clip.error is not None)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as JSON holds it: None for what is not a number."""
        values: dict[str, Any] = plain(asdict(self))
        return values


def plain(value: Any) -> Any:
    """Returns what JSON holds of dicts, lists and numbers: None for what is not a number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _Bootstrap:
    """Draws speakers, or clips where there are too few, with replacement: Efron & Tibshirani 1993, percentiles.

    Every figure is a function of sums over clips, so that a resample is a weighted sum of the speakers' sums.
    """

    def __init__(self, speakers: Sequence[str], seed: int) -> None:
        names = {name: i for i, name in enumerate(sorted(set(speakers)))}
        self.speakers = len(names)
        self.resampled = "speakers" if len(names) >= FEWEST_SPEAKERS else "clips"
        of_speaker = np.array([names[name] for name in speakers], dtype=np.int64)
        self.units: Integers = of_speaker if self.resampled == "speakers" else np.arange(len(speakers))
        self.count = int(self.units.max()) + 1
        self.seed = seed

    def draws(self, statistics: Array) -> Array:
        """Returns the sums of each resample, [resamples, ...], of statistics [clips, ...]."""
        sums = np.zeros((self.count, *statistics.shape[1:]))
        np.add.at(sums, self.units, statistics)
        flat = sums.reshape(self.count, -1)
        generator = np.random.default_rng(self.seed)  # the same draws for every figure
        drawn = np.empty((RESAMPLES, flat.shape[1]))
        for row in drawn:
            row[:] = np.bincount(generator.integers(self.count, size=self.count), minlength=self.count) @ flat
        return drawn.reshape(RESAMPLES, *statistics.shape[1:])

    def figure(self, metric: Callable[[Array], Array], whole: Array, draws: Array) -> Figure:
        """Returns a metric of the sums of all clips, with the interval of the draws."""
        values = metric(draws)
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, [2.5, 97.5]) if len(values) else (math.nan, math.nan)
        return Figure(float(metric(whole)), float(low), float(high))


def evaluate(
    model: "Model",
    utterances: Sequence[Utterance],
    *,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs a model on utterances and compares: labels, or dimensions if these are what it gives.

    Each clip goes through the model whole. A label of the model counts as what `label_of` makes of it, such as calm as
    neutral; one without a counterpart is a label of its own, and wrong wherever it is given.

    Args:
        model: As `load` gives it.
        utterances: Of one corpus, or of several as one.
        seed: Of the bootstrap.
        advance: Called after each clip that is run.

    Raises:
        NoLabels: The model gives embeddings only.
        CorpusError: Nothing can be compared: no clip has a label (or dimensions) that the model gives, or none can be
            read.
    """
    if not model.config.dimensional:
        model.need_labels()
    dimensional = model.config.dimensional
    results = model.each(utterance.file for utterance in utterances if _wanted(utterance, dimensional))
    answers: list[Answer] = []
    for utterance in utterances:
        if not _wanted(utterance, dimensional):
            answers.append(None)
            continue
        result = next(results)
        if isinstance(result, AudioError):
            answers.append(result)
        else:
            answers.append(model.measure(result) if dimensional else model.judge(result))
        advance()
    return compare(
        utterances,
        answers,
        () if dimensional else model.labels,
        model=model.config.source.repository,
        runtime=model.runtime,
        temperature=model.config.temperature,
        seed=seed,
    )


def compare(
    utterances: Sequence[Utterance],
    answers: Sequence[Answer],
    labels: Sequence[str],
    *,
    model: str,
    runtime: str,
    temperature: float = 1.0,
    seed: int = 0,
) -> Evaluation:
    """Compares what was said of utterances with what is known of them: the second half of `evaluate`.

    Args:
        utterances: What is known.
        answers: What a model said of each, the error that stopped it, or None for one that was not run.
        labels: All that the model has; none for a dimensional model.
        model: Its name.
        runtime: What ran it.
        temperature: That it was run with.
        seed: Of the bootstrap.

    Raises:
        CorpusError: Nothing can be compared.
    """
    outputs = {name: label_of(name) or name for name in labels}
    clips = tuple(_clip(*pair, outputs) for pair in zip(utterances, answers, strict=True))
    run = [clip for clip in clips if clip.logits is not None]
    judged = [clip for clip in run if not outputs or clip.label in outputs.values()]
    if not judged:
        what = f"a label of {', '.join(outputs)}" if outputs else "arousal, dominance and valence"
        failed = [clip.error for clip in clips if clip.error]
        why = f"no clip can be read, the first because of: {failed[0]}" if failed else f"no clip has {what}"
        raise CorpusError(f"nothing to compare {model} with: {why}")
    bootstrap = _Bootstrap([clip.speaker for clip in judged], seed)
    evaluation = Evaluation(
        model=model,
        runtime=runtime,
        temperature=temperature,
        outputs=outputs,
        mapping={clip.original: clip.label for clip in clips if clip.original},
        clips=clips,
        judged=len(judged),
        speakers=bootstrap.speakers,
        resampled=bootstrap.resampled,
        open=None,
        closed=None,
        ece=None,
        ece_scaled=None,
        reliability=(),
        by_speaker={},
        by_sex={},
        impossible={},
        uar_with_impossible=None,
        unmapped=dict(Counter(clip.original for clip in clips if clip.logits is None and clip.error is None)),
        dimensions={},
    )
    if not outputs:
        return replace(evaluation, dimensions=_dimension_figures(judged, bootstrap))
    impossible = Counter(str(clip.label) for clip in run if clip.label not in outputs.values())
    return replace(evaluation, impossible=dict(impossible), **_label_figures(judged, outputs, bootstrap, impossible))


def _wanted(utterance: Utterance, dimensional: bool) -> bool:
    return utterance.dimensions is not None if dimensional else utterance.label is not None


def _clip(utterance: Utterance, answer: Answer, outputs: Mapping[str, str]) -> Clip:
    clip = Clip(
        file=str(utterance.file),
        speaker=utterance.speaker,
        sex=utterance.sex,
        original=utterance.original,
        label=utterance.label,
        predicted=None,
        scores=None,
        logits=None,
        dimensions=utterance.dimensions.to_dict() if utterance.dimensions else None,
        error=str(answer) if isinstance(answer, AudioError) else None,
    )
    if answer is None or isinstance(answer, AudioError):
        return clip
    if isinstance(answer, Dimensions):
        return replace(clip, logits=answer.to_dict())
    scores = dict.fromkeys(outputs.values(), 0.0)
    for name, score in answer.scores.items():
        scores[outputs[name]] += score
    return replace(clip, predicted=max(scores, key=scores.__getitem__), scores=scores, logits=dict(answer.logits))


def _dimension_figures(judged: list[Clip], bootstrap: _Bootstrap) -> dict[str, dict[str, Figure]]:
    figures = {}
    for name in DIMENSIONS:
        truth = np.array([clip.dimensions[name] for clip in judged if clip.dimensions])
        measured = np.array([clip.logits[name] for clip in judged if clip.logits])
        draws, whole = bootstrap.draws(metrics.each_moment(truth, measured)), metrics.moments(truth, measured)
        agreements = {"ccc": metrics.ccc, "pearson": metrics.pearson, "mae": metrics.mae}
        figures[name] = {key: bootstrap.figure(metric, whole, draws) for key, metric in agreements.items()}
    return figures


def _label_figures(
    judged: list[Clip], outputs: Mapping[str, str], bootstrap: _Bootstrap, impossible: Mapping[str, int]
) -> dict[str, Any]:
    labels = tuple(dict.fromkeys(outputs.values()))
    truth = np.array([labels.index(str(clip.label)) for clip in judged])
    scores = np.array([[clip.scores[label] for label in labels] for clip in judged if clip.scores])
    there = np.isin(np.arange(len(labels)), truth)
    answers = scores.argmax(-1)
    open_, matrix = _figures(truth, answers, labels, labels, bootstrap)
    closed, _ = _figures(truth, np.where(there, scores, -1).argmax(-1), labels, _present(labels, there), bootstrap)
    binned = metrics.binned(scores.max(-1), answers == truth)
    scaled = metrics.binned(*_scaled(judged, outputs, labels, truth, bootstrap))
    groups: dict[str, dict[str, tuple[int, float]]] = {}
    for name, of in (("by_speaker", [clip.speaker for clip in judged]), ("by_sex", [clip.sex for clip in judged])):
        groups[name] = {}
        for group in sorted({value for value in of if value}):
            mine = np.array([value == group for value in of])
            recall = float(metrics.uar(metrics.confusion(truth[mine], answers[mine], len(labels))))
            groups[name][group] = (int(mine.sum()), recall)
    kinds = int(there.sum())
    return {
        "open": open_,
        "closed": closed,
        "ece": bootstrap.figure(metrics.ece, binned.sum(0), bootstrap.draws(binned)),
        "ece_scaled": bootstrap.figure(metrics.ece, scaled.sum(0), bootstrap.draws(scaled)),
        "reliability": tuple(map(tuple, binned.sum(0).tolist())),
        "uar_with_impossible": float(metrics.uar(matrix)) * kinds / (kinds + len(impossible)) if impossible else None,
        **groups,
    }


def _present(labels: tuple[str, ...], there: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(label for label, present in zip(labels, there, strict=True) if present)


def _figures(
    truth: Integers, answers: Integers, labels: tuple[str, ...], kept: tuple[str, ...], bootstrap: _Bootstrap
) -> tuple[Figures, Array]:
    """Returns the figures and the matrix of the labels that are kept; no clip is of another."""
    index = np.array([kept.index(label) if label in kept else -1 for label in labels])
    one_hot = np.zeros((len(truth), len(kept), len(kept)))
    one_hot[np.arange(len(truth)), index[truth], index[answers]] = 1
    matrix, draws = one_hot.sum(0), bootstrap.draws(one_hot)
    figures = Figures(
        uar=bootstrap.figure(metrics.uar, matrix, draws),
        wa=bootstrap.figure(metrics.wa, matrix, draws),
        macro_f1=bootstrap.figure(metrics.macro_f1, matrix, draws),
        labels=kept,
        confusion=tuple(tuple(int(count) for count in row) for row in matrix),
        recalls={
            label: float(recall)
            for label, recall in zip(kept, metrics.recalls(matrix), strict=True)
            if np.isfinite(recall)
        },
    )
    return figures, matrix


def _scaled(
    judged: list[Clip], outputs: Mapping[str, str], labels: tuple[str, ...], truth: Integers, bootstrap: _Bootstrap
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns confidences, and whether they are right, with the temperature that was fitted on the other half."""
    logits, right = _logits(judged, outputs)
    belongs = np.array([[label == outputs[name] for label in labels] for name in outputs], dtype=np.float64)
    scores = np.zeros((len(judged), len(labels)))
    for half in (0, 1):
        mine = bootstrap.units % 2 == half
        hot = metrics.fit_temperature(logits[~mine], right[~mine]) if mine.any() and not mine.all() else 1.0
        scores[mine] = softmax(logits[mine], hot) @ belongs
    return scores.max(-1), scores.argmax(-1) == truth


def _logits(judged: Sequence[Clip], outputs: Mapping[str, str]) -> tuple[Array, NDArray[np.bool_]]:
    logits = np.array([[clip.logits[name] for name in outputs] for clip in judged if clip.logits])
    return logits, np.array([[clip.label == outputs[name] for name in outputs] for clip in judged])


def mean(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Returns the plain mean of several corpora's figures, by name, e.g. `open_uar`: each corpus counts the same."""
    rows = [_flat(evaluation) for evaluation in evaluations]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _flat(evaluation: Evaluation) -> dict[str, float]:
    if evaluation.open is None or evaluation.closed is None or evaluation.ece is None or evaluation.ece_scaled is None:
        rows = evaluation.dimensions.items()
        return {f"{name}_{key}": figure.value for name, figures in rows for key, figure in figures.items()}
    flat: dict[str, float] = {}
    for kind, figures in (("open", evaluation.open), ("closed", evaluation.closed)):
        flat |= {f"{kind}_{name}": getattr(figures, name).value for name in ("uar", "wa", "macro_f1")}
    return {**flat, "ece": evaluation.ece.value, "ece_scaled": evaluation.ece_scaled.value}


def temperature(evaluations: Sequence[Evaluation]) -> tuple[float, float, float]:
    """Fits one temperature on the clips of all evaluations of a model.

    Returns:
        The temperature, and `nll` with the one the model was run with and with the new one.
    """
    logits, right = [], []
    for evaluation in evaluations:
        judged = [clip for clip in evaluation.clips if clip.logits and clip.label in evaluation.outputs.values()]
        values, marks = _logits(judged, evaluation.outputs)
        logits.append(values)
        right.append(marks)
    all_logits, all_right = np.concatenate(logits), np.concatenate(right)
    found = metrics.fit_temperature(all_logits, all_right)
    before = metrics.nll(all_logits, all_right, evaluations[0].temperature)
    return found, before, metrics.nll(all_logits, all_right, found)


def store_temperature(folder: Path, value: float) -> None:
    """Writes a temperature into the config.json of a converted folder, whole or not at all.

    Raises:
        CheckpointError: The folder's config.json is missing or damaged.
        OSError: It cannot be written.
    """
    config = replace(ModelConfig.read(folder), temperature=value)
    with replacing(folder / "config.json") as partial:
        partial.write_text(config.to_json(), "utf-8", newline="\n")


def report(evaluation: Evaluation) -> list[str | list[list[str]]]:
    """Returns what there is to read: lines of text, and tables of cells with their header first."""
    counts = Counter(clip.original for clip in evaluation.clips)
    people = f"{evaluation.speakers} speaker{'' if evaluation.speakers == 1 else 's'}"
    parts: list[str | list[list[str]]] = [
        f"{evaluation.judged} of {len(evaluation.clips)} clips are in the figures, of {people}"
    ]
    if evaluation.open and evaluation.closed:
        answers: dict[str, list[str]] = {}
        for name, label in evaluation.outputs.items():
            answers.setdefault(label, []).append(name)
        table = [["label of the corpus", "counts as", "the model's", "clips"]]
        for original, counted in evaluation.mapping.items():
            said = ", ".join(answers.get(counted or "", ())) or "none: left out"
            table.append([original, counted or "-", said, str(counts[original])])
        never = [name for name, label in evaluation.outputs.items() if label not in evaluation.mapping.values()]
        parts += [table, f"labels of the model that the corpus lacks: {', '.join(never)}"] if never else [table]
        if evaluation.impossible:
            parts.append(
                f"{_counted(evaluation.impossible)}: the model has no such label; counted as errors they would make "
                f"the UAR {evaluation.uar_with_impossible:.3f}"
            )
        parts += ["", _table_of_figures(evaluation)]
    else:
        header = ["", "CCC", "Pearson", "MAE"]
        rows = [[name, *map(str, figures.values())] for name, figures in evaluation.dimensions.items()]
        parts += ["", [header, *rows]]
    parts.append(_intervals(evaluation))
    if evaluation.open:
        parts += ["", *_details(evaluation.open, evaluation)]
    return parts


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _table_of_figures(evaluation: Evaluation) -> list[list[str]]:
    assert evaluation.open
    assert evaluation.closed
    table = [["", "open: any label of the model", "closed: only labels that the corpus has"]]
    for title, name in (("UAR", "uar"), ("WA", "wa"), ("macro-F1", "macro_f1")):
        table.append([title, str(getattr(evaluation.open, name)), str(getattr(evaluation.closed, name))])
    return [
        *table,
        [f"ECE at temperature {evaluation.temperature:.3g}", str(evaluation.ece), ""],
        ["ECE, scaled", str(evaluation.ece_scaled), ""],
    ]


def _intervals(evaluation: Evaluation) -> str:
    what = f"95 % intervals from {RESAMPLES} resamples of {evaluation.resampled}"
    if evaluation.resampled == "speakers":
        return what
    return f"{what}: with fewer than {FEWEST_SPEAKERS} speakers they say nothing about other speakers"


def _details(figures: Figures, evaluation: Evaluation) -> list[str | list[list[str]]]:
    """Confusions, and how much speakers differ."""
    matrix = [["said below, answered right", *figures.labels, "recall"]]
    for label, row in zip(figures.labels, figures.confusion, strict=True):
        if label in figures.recalls:
            matrix.append([label, *map(str, row), f"{figures.recalls[label]:.3f}"])
    groups = [["speaker", "clips", "UAR"]]
    for group in (evaluation.by_sex, evaluation.by_speaker):
        groups += [[name, str(count), f"{value:.3f}"] for name, (count, value) in group.items()]
    return [matrix, "", groups]

"""Temperature scaling: makes the probabilities of a model match how often it is right."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import ModelConfig
from e2v_port.emotions.estimates import softmax
from e2v_port.evaluation import metrics
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.metrics import Array, Integers
from e2v_port.evaluation.results import Clip, Evaluation, Figure
from e2v_port.files import replacing

__all__ = ["LeftOut", "familiar", "leave_one_out", "scaled", "store_temperature", "temperature"]


def scaled(
    judged: list[Clip], outputs: Mapping[str, str], labels: tuple[str, ...], truth: Integers, bootstrap: Bootstrap
) -> tuple[Array, NDArray[np.bool_]]:
    """Returns the confidence of each clip, and whether it is right, with a temperature fitted on the other half."""
    logits, right = _logits(judged, outputs)
    belongs = _belongs(outputs, labels)
    scores = np.zeros((len(judged), len(labels)))
    for half in (0, 1):
        mine = bootstrap.units % 2 == half
        hot = metrics.fit_temperature(logits[~mine], right[~mine]) if mine.any() and not mine.all() else 1.0
        scores[mine] = softmax(logits[mine], hot) @ belongs
    return scores.max(-1), scores.argmax(-1) == truth


def _belongs(outputs: Mapping[str, str], labels: tuple[str, ...]) -> Array:
    """Returns 1 where an output of the model counts as a label, [outputs, labels]."""
    return np.array([[label == outputs[name] for label in labels] for name in outputs], dtype=np.float64)


def _logits(judged: Sequence[Clip], outputs: Mapping[str, str]) -> tuple[Array, NDArray[np.bool_]]:
    """Returns the logits, and which labels are right: both [clips, labels]."""
    logits = np.array([[clip.logits[name] for name in outputs] for clip in judged if clip.logits])
    return logits, np.array([[clip.label == outputs[name] for name in outputs] for clip in judged])


@dataclass(frozen=True)
class LeftOut:
    """How well a temperature that was fitted on other corpora suits a corpus.

    Attributes:
        temperature: Temperature fitted on the other corpora.
        before: Expected calibration error on this corpus at the temperature that the model was run with.
        after: The same at the temperature of the other corpora.
    """

    temperature: float
    before: Figure
    after: Figure


def temperature(evaluations: Sequence[Evaluation]) -> tuple[float, float, float]:
    """Fits one temperature on the clips of all evaluations, each corpus with the same weight.

    The evaluations may be those of several models, each of one corpus that it was not trained on.

    Returns:
        The temperature, the `nll` with the temperature the models were run with, and the `nll` with the new one.
    """
    pairs = [_logits(_judged(evaluation), evaluation.outputs) for evaluation in evaluations]
    logits, right = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    weights = np.concatenate([np.full(len(each), 1 / len(each)) for each, _ in pairs])
    best = metrics.fit_temperature(logits, right, weights)
    before = np.mean([metrics.nll(*pair, each.temperature) for pair, each in zip(pairs, evaluations, strict=True)])
    return best, float(before), metrics.nll(logits, right, best, weights)


def leave_one_out(evaluations: Mapping[str, Evaluation], seed: int = 0) -> dict[str, LeftOut]:
    """Fits a temperature on all corpora but one, for each: what a calibration is worth on a corpus it never met.

    Args:
        evaluations: Evaluations by corpus.
        seed: Seed of the bootstrap.

    Returns:
        The errors on each corpus; empty for a single one.
    """
    found = {}
    for name, evaluation in evaluations.items():
        others = [other for key, other in evaluations.items() if key != name]
        if others:
            hot, _, _ = temperature(others)
            found[name] = LeftOut(hot, _error(evaluation, evaluation.temperature, seed), _error(evaluation, hot, seed))
    return found


def _error(evaluation: Evaluation, hot: float, seed: int) -> Figure:
    """Returns the expected calibration error of the open answers at a temperature."""
    judged = _judged(evaluation)
    logits, _ = _logits(judged, evaluation.outputs)
    labels = tuple(dict.fromkeys(evaluation.outputs.values()))
    scores = softmax(logits, hot) @ _belongs(evaluation.outputs, labels)
    truth = np.array([labels.index(str(clip.label)) for clip in judged])
    bootstrap = Bootstrap([clip.speaker for clip in judged], seed)
    binned = metrics.binned(scores.max(-1), scores.argmax(-1) == truth)
    return bootstrap.figure(metrics.ece, binned.sum(0), bootstrap.draws(binned))


def _judged(evaluation: Evaluation) -> list[Clip]:
    return [clip for clip in evaluation.clips if clip.logits and clip.label in evaluation.outputs.values()]


def familiar(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Returns the corpora that the model was trained on, by these or by other speakers."""
    parts = ("train", "dev", "corpus")
    return [
        name
        for name, evaluation in evaluations.items()
        if evaluation.seen and any(evaluation.seen[part].clips for part in parts)
    ]


def store_temperature(folder: Path, value: float, speakers: Iterable[str] = ()) -> None:
    """Writes a temperature into the config.json of a converted folder, atomically.

    Args:
        folder: Converted folder.
        value: The temperature.
        speakers: Speakers whose clips determined it, for `ModelConfig.calibrated_on`.

    Raises:
        CheckpointError: config.json is missing or damaged.
        OSError: config.json cannot be written.
    """
    config = replace(ModelConfig.read(folder), temperature=value, calibrated_on=tuple(sorted({*speakers})))
    with replacing(folder / "config.json") as partial:
        partial.write_text(config.to_json(), "utf-8", newline="\n")

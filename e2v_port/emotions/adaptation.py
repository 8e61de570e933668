"""What is known of a voice: how far it moves a model's logits, learned from clips without labels, and taken off again.

A speaker's offset is a number for each label. With z a clip's logits, c(l) the logits of label l's mean embedding, and
p(l) the probability of l for that clip, the offset of n clips is

    o = n / (n + 4) * mean over the clips of (z - sum over l of p(l) c(l)),

where p is the softmax of (z - o) / temperature, from o = 0 on, six times over: maximum a posteriori adaptation to a
speaker (Gauvain & Lee 1994), with the classes hidden. For a head of one linear layer this equals taking an offset off
the embeddings; as logits it is eight numbers or so instead of a thousand, and holds for frames as well.

What a voice does and what a mood does look alike as long as only one mood was heard, so an offset is used only if the
clips were distinguished: `moods` is exp(I), I being the mutual information between clip and label (the entropy of the
mean of p less the mean of the entropies of p). For n clips it has to be at least 1.6 + 1.5 / n. All constants were
chosen on development speakers; docs/adaptation.md has the figures, also for the clips that the rule gets wrong.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from e2v_port.emotions.estimates import Prediction, softmax

__all__ = ["LEAST_CLIPS", "Centers", "Offset", "adapted", "adapted_scores", "label_means"]

LEAST_CLIPS = 3  # fewer say nothing about a voice

_SHRINKAGE = 4.0  # clips after which half of the measured offset is believed
_ROUNDS = 6
_FITS = 10  # of means and offsets in turn; they no longer move then
_MOODS, _MOODS_PER_CLIP = 1.6, 1.5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Offset:
    """How far the voice of a speaker moves the logits of one model.

    Attributes:
        logits: What the voice adds to the logit of each label, 0 on average.
        clips: Number of clips that it was learned from.
        moods: Effective number of moods that the model distinguished in them, from 1 to the number of labels.
        reason: Reason why it is not used; None if it is.
        model: SHA-256 of the model's weights: it holds for no other model.
    """

    logits: Mapping[str, float]
    clips: int
    moods: float
    reason: str | None
    model: str

    def __str__(self) -> str:
        """Says whether a voice is adapted to, from how many clips, or why not."""
        if self.reason:
            return f"not adapted: {self.reason}"
        return f"adapted from {self.clips} clips, {self.moods:.1f} moods"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, strings and numbers, ready for JSON."""
        return {
            "logits": dict(self.logits),
            "clips": self.clips,
            "moods": self.moods,
            "reason": self.reason,
            "model": self.model,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes an offset from the result of `to_dict`; LookupError, TypeError or ValueError for anything else."""
        logits = {str(name): float(value) for name, value in values["logits"].items()}
        clips, moods, reason, model = values["clips"], float(values["moods"]), values["reason"], values["model"]
        whole = type(clips) is int and clips >= 0 and isinstance(model, str) and isinstance(reason, str | None)
        if not whole or not all(map(math.isfinite, [moods, *logits.values()])):
            raise ValueError("not an offset")
        return cls(logits, clips, moods, reason, model)


@dataclass(frozen=True)
class Centers:
    """Where the labels of a model lie in its logits, from which offsets of voices are learned.

    Attributes:
        labels: Labels of the model, in order.
        logits: Logits of the mean embedding of each label, [labels, labels]; a row of NaN for a label without one.
        temperature: Divisor of the logits before the softmax.
        model: SHA-256 of the model's weights.
    """

    labels: tuple[str, ...]
    logits: Array
    temperature: float
    model: str

    def offset(self, predictions: Sequence[Prediction]) -> Offset:
        """Learns the offset of one speaker from the predictions for clips of that speaker; labels are not needed."""
        clips = len(predictions)
        if clips < LEAST_CLIPS:
            return Offset({}, clips, 1.0, f"{clips} of at least {LEAST_CLIPS} clips were heard", self.model)
        known = np.isfinite(self.logits).all(1)
        centers = _centered(self.logits[known])
        rows = [[prediction.logits[label] for label in self.labels] for prediction in predictions]
        logits = _centered(np.array(rows, dtype=np.float64))
        offset = np.zeros(len(self.labels))
        for _ in range(_ROUNDS):
            probabilities = softmax((logits - offset)[:, known], self.temperature)
            offset = clips / (clips + _SHRINKAGE) * (logits - probabilities @ centers).mean(0)
        moods = math.exp(_entropy(probabilities.mean(0)) - float(np.mean([*map(_entropy, probabilities)])))
        needed = _MOODS + _MOODS_PER_CLIP / clips
        reason = None
        if moods < needed:
            reason = f"{clips} clips sound like {moods:.1f} moods, which could be the voice: {needed:.1f} are needed"
        return Offset(dict(zip(self.labels, offset.tolist(), strict=True)), clips, moods, reason, self.model)


def adapted(prediction: Prediction, offset: Offset, temperature: float) -> Prediction:
    """Returns a prediction with the offset of its speaker taken off; its logits stay those of the model.

    Args:
        prediction: Prediction of the model that the offset was learned with.
        offset: Offset of the speaker. One that is not to be used (`reason`) changes nothing.
        temperature: Divisor of the logits of that model.
    """
    if offset.reason:
        return prediction
    logits = np.array([value - offset.logits[label] for label, value in prediction.logits.items()])
    scores = dict(zip(prediction.logits, softmax(logits, temperature).tolist(), strict=True))
    label = max(scores, key=scores.__getitem__)
    return replace(prediction, label=label, confidence=scores[label], scores=scores)


def adapted_scores(scores: Array, labels: Sequence[str], offset: Offset, temperature: float) -> Array:
    """Returns probabilities of frames, [frames, labels], with the offset of the speaker taken off."""
    if offset.reason:
        return scores
    return softmax(np.log(np.maximum(scores, np.finfo(np.float64).tiny)) - _row(labels, offset) / temperature, 1.0)


def label_means(
    embeddings: NDArray[np.float32], targets: NDArray[np.int64], speakers: Sequence[str], labels: int
) -> NDArray[np.float32]:
    """Returns the mean embedding of each label, with what is the speakers' own taken off.

    A clip is the mean of its label plus the offset of its speaker; both are fitted by least squares, in turn, with
    offsets that are zero on average. So a label that only some speakers recorded is not taken for their voices.

    Args:
        embeddings: Embeddings of labeled clips, [clips, dim].
        targets: Number of the label of each clip, [clips].
        speakers: Speaker of each clip.
        labels: Number of labels.

    Returns:
        [labels, dim]; zeros for a label without clips.
    """
    of_speaker = np.unique(np.asarray(speakers), return_inverse=True)[1]
    offsets = np.zeros((of_speaker.max() + 1, embeddings.shape[1]))
    values = embeddings.astype(np.float64)
    for _ in range(_FITS):
        means = _means(values - offsets[of_speaker], targets, labels)
        offsets = _means(values - means[targets], of_speaker, len(offsets))
        offsets -= offsets.mean(0)
    return means.astype(np.float32)


def _means(values: Array, groups: NDArray[np.int64], count: int) -> Array:
    """Returns the mean of each group of rows; zeros for an empty one."""
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, groups, values)
    return np.asarray(sums / np.maximum(np.bincount(groups, minlength=count), 1)[:, None])


def _row(labels: Sequence[str], offset: Offset) -> Array:
    return np.array([offset.logits[label] for label in labels])


def _centered(logits: Array) -> Array:
    """Takes the mean off each row, which changes no probability."""
    return np.asarray(logits - logits.mean(1, keepdims=True))


def _entropy(probabilities: Array) -> float:
    """Returns the entropy of one distribution, in nats."""
    some = probabilities[probabilities > 0]
    return float(-(some * np.log(some)).sum())

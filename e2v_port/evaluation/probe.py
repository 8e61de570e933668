"""Which layer of a transformer carries the labels of a corpus: a linear classifier on each, tested on other speakers.

For each layer, a logistic regression on the statistics of its output over time learns the labels from the clips of four
fifths of the speakers and answers for the others, until every clip has been answered for. The layers are compared by
the UAR of these answers.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from e2v_port.emotions import taxonomy
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation import metrics, sounds
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.results import Figure
from e2v_port.host import limited, own_settings
from e2v_port.models.model import Model

__all__ = ["POOLINGS", "Layer", "Probe", "probe"]

POOLINGS = ("mean", "deviation")
FOLDS = 5
DECAY = 0.1  # heuristic: the strength of the penalty that suits a thousand features and a few thousand clips
STEPS = 100  # of L-BFGS; it ends far earlier

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """The figures of one layer.

    Attributes:
        layer: Number of the block, from 1, as in `train --layers`.
        uar: Unweighted average recall, with its 95 % interval.
        to_best: UAR of this layer minus that of the best one, with the interval of the difference: the layers answer
            for the same clips, so the difference is known better than either figure.
    """

    layer: int
    uar: Figure
    to_best: Figure


@dataclass(frozen=True)
class Probe:
    """The layers of a model on one corpus.

    Attributes:
        model: Name of the model.
        runtime: Runtime that ran it.
        pooling: Statistics that the classifiers saw: `mean`, or `deviation` for mean and standard deviation.
        labels: Number of clips of each label.
        clips: Number of clips that were classified.
        speakers: Number of their speakers.
        folds: Number of groups of speakers.
        resampled: Unit of the bootstrap, `speakers` or `clips`.
        layers: Figures of every layer, in order.
        best: Number of the layer with the highest UAR.
        unmapped: Number of clips left out, by their label, which has no counterpart; `` for none.
        errors: One message for each clip that could not be read.
        seen: Number of clips that the model itself was trained on or chosen by, so that its layers are flattered.
    """

    model: str
    runtime: str
    pooling: str
    labels: dict[str, int]
    clips: int
    speakers: int
    folds: int
    resampled: str
    layers: tuple[Layer, ...]
    best: int
    unmapped: dict[str, int]
    errors: tuple[str, ...]
    seen: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as nested dicts and lists."""
        return asdict(self)


def probe(
    model: Model,
    utterances: Sequence[Utterance],
    *,
    pooling: str = "deviation",
    seed: int = 0,
    channel: int | str = "mix",
    advance: Callable[[], None] = lambda: None,
) -> Probe:
    """Compares the layers of a transformer on the clips of one corpus.

    Args:
        model: A transformer; its head and its readout are not used.
        utterances: Clips of at least two speakers. Leave out those that a model with the chosen layer is tested on.
        pooling: Statistics of a layer over time, one of `POOLINGS`.
        seed: Seed of the bootstrap.
        channel: Channel of the clips, as for `Model.predict`.
        advance: Called after each clip that is run.

    Raises:
        ValueError: The pooling is unknown.
        E2VError: The model is no transformer.
        CorpusError: There are too few readable clips, labels or speakers to compare anything.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
    wanted = [utterance for utterance in utterances if utterance.label]
    unmapped = Counter(utterance.original for utterance in utterances if not utterance.label)
    rows: list[Array] = []
    clips: list[Utterance] = []
    errors: list[str] = []
    results = model.each_layers((utterance.file for utterance in wanted), channel=channel)
    for utterance, result in zip(wanted, results, strict=True):
        if isinstance(result, AudioError):
            errors.append(str(result))
        else:
            rows.append(_pooled(result[1], pooling))
            clips.append(utterance)
        advance()
    counts = Counter(str(clip.label) for clip in clips)
    labels = [label for label in taxonomy.labels("emotion2vec") if label in counts]
    fold_of = _folds([clip.speaker for clip in clips])
    if len(labels) < 2 or len({*fold_of}) < 2:
        raise CorpusError(
            f"nothing to compare layers by: {len(clips)} clips can be used, by {len({*fold_of})} speakers and with "
            f"{len(labels)} labels, and two of each are needed"
            + (f"; the first error is: {errors[0]}" if errors else "")
        )
    known = sounds.seen_in_training(model.config.trained_on, (), clips) or {}
    targets = np.array([labels.index(str(clip.label)) for clip in clips])
    features = np.stack(rows, 1)  # [layers, clips, features]
    del rows
    bootstrap = Bootstrap([clip.speaker for clip in clips], seed)
    matrices = []
    with limited(1):  # products this small gain nothing from more, and lose much on a busy machine
        for layer in features:
            answers = _answers(layer, targets, fold_of, len(labels))
            matrix = np.zeros((len(clips), len(labels), len(labels)))
            matrix[np.arange(len(clips)), targets, answers] = 1
            matrices.append(matrix)
    best = int(np.argmax([metrics.uar(matrix.sum(0)) for matrix in matrices]))
    return Probe(
        model=model.config.source.repository,
        runtime=model.runtime,
        pooling=pooling,
        labels={label: counts[label] for label in labels},
        clips=len(clips),
        speakers=bootstrap.speakers,
        folds=len({*fold_of}),
        resampled=bootstrap.resampled,
        layers=tuple(_layer(number, matrix, matrices[best], bootstrap) for number, matrix in enumerate(matrices, 1)),
        best=best + 1,
        unmapped=dict(unmapped),
        errors=tuple(errors),
        seen=sum(known[part].clips for part in ("train", "dev") if part in known),
    )


def _pooled(layers: Array, pooling: str) -> Array:
    """Returns statistics of layers [layers, frames, width] over time: [layers, width or 2 width]."""
    mean = layers.mean(1, dtype=np.float64)
    parts = [mean] if pooling == "mean" else [mean, layers.std(1, dtype=np.float64)]
    return np.concatenate(parts, 1).astype(np.float32)


def _folds(speakers: Sequence[str]) -> NDArray[np.int64]:
    """Returns the group of each clip: speakers in groups with about as many clips, those with most clips first."""
    groups: list[list[str]] = [[] for _ in range(min(FOLDS, len({*speakers})))]
    counts = Counter(speakers)
    sizes = [0] * len(groups)
    for speaker, clips in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(speaker)
        sizes[smallest] += clips
    of_speaker = {speaker: i for i, group in enumerate(groups) for speaker in group}
    return np.array([of_speaker[speaker] for speaker in speakers], dtype=np.int64)


def _answers(features: Array, targets: NDArray[np.int64], fold_of: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
    """Returns an answer for each clip, by a classifier that has heard none of its group's speakers."""
    answers = np.empty(len(targets), np.int64)
    for fold in range(int(fold_of.max()) + 1):
        tested = fold_of == fold
        answers[tested] = _classified(features[~tested], targets[~tested], features[tested], labels)
    return answers


def _classified(train: Array, targets: NDArray[np.int64], test: Array, labels: int) -> NDArray[np.int64]:
    """Returns the answers for `test` of a logistic regression on standardized features, with equal weight for labels.

    It minimizes the mean cross-entropy plus `DECAY` / 2 times the sum of all squared weights, by L-BFGS.
    """
    mean, deviation = train.mean(0, dtype=np.float64), np.maximum(train.std(0, dtype=np.float64), 1e-6)
    with own_settings(inference=False):
        x, y = torch.from_numpy(((train - mean) / deviation).astype(np.float32)), torch.from_numpy(targets)
        counts = torch.bincount(y, minlength=labels)
        balance = torch.where(counts > 0, 1 / counts.clamp_min(1), 0.0)
        weight = torch.zeros(labels, x.shape[1], dtype=torch.float32, requires_grad=True)
        bias = torch.zeros(labels, dtype=torch.float32, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimizer.zero_grad()
            # The mean is weighted: the weights of the clips sum to 1.
            total = (
                torch.nn.functional.cross_entropy(x @ weight.T + bias, y, balance) + DECAY / 2 * weight.square().sum()
            )
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(loss)  # type: ignore[no-untyped-call]
        new = torch.from_numpy(((test - mean) / deviation).astype(np.float32))
        answers: NDArray[np.int64] = (new @ weight.T + bias).argmax(1).numpy()
    return answers


def _layer(number: int, matrix: metrics.Array, best: metrics.Array, bootstrap: Bootstrap) -> Layer:
    both = np.stack([matrix, best], 1)  # [clips, 2, labels, labels]
    whole, draws = both.sum(0), bootstrap.draws(both)
    return Layer(
        number,
        bootstrap.figure(lambda sums: metrics.uar(sums[..., 0, :, :]), whole, draws),
        bootstrap.figure(lambda sums: metrics.uar(sums[..., 0, :, :]) - metrics.uar(sums[..., 1, :, :]), whole, draws),
    )

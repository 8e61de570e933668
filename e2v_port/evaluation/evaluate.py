"""Evaluates a model on a corpus: runs it on every clip and compares its answers with the references.

The metrics are in `metrics`; docs/evaluation.md explains how to read the figures.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.emotions.estimates import DIMENSIONS, Dimensions
from e2v_port.emotions.fusion import fuse
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation import metrics, sounds
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.calibration import scaled
from e2v_port.evaluation.datasets import Utterance, label_of
from e2v_port.evaluation.diarization import evaluate_events
from e2v_port.evaluation.known_voices import from_others
from e2v_port.evaluation.metrics import Array, Integers
from e2v_port.evaluation.results import Answer, Clip, Doubt, Evaluation, Figure, Figures, Group, Risk, Seen
from e2v_port.models.model import Model

__all__ = ["check_unseen", "choices", "clip_of", "compare", "evaluate", "run", "uar"]

_POINTS = 100  # of a risk-coverage curve


def evaluate(
    model: Model,
    utterances: Sequence[Utterance],
    *,
    seed: int = 0,
    seen: bool = False,
    channel: int | str = "mix",
    adapt: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs a model on clips and compares its labels, or its dimensions if it is dimensional, with the references.

    Each clip is judged as a whole, or at each moment if the corpus says which emotion appears when. A label of the
    model counts as its `label_of`, e.g. calm as neutral; a label without a counterpart is always wrong.

    Args:
        model: A loaded model.
        utterances: Clips of one corpus, or of several that are evaluated as one.
        seed: Seed of the bootstrap.
        seen: Whether clips may be among those that the model was trained on here, or that its best epoch was chosen by.
        channel: Channel of the clips, as for `Model.predict`.
        adapt: Number of other clips of the same speaker from which the offset of the voice is learned, without labels,
            for each clip; 0 to adapt to nobody.
        advance: Called after each clip that is run.

    Raises:
        NoLabels: The model only has embeddings, or is to adapt and has no labels.
        E2VError: It is to adapt and cannot: see `Model.centers`.
        CorpusError: Nothing can be compared: no clip has a label (or dimensions) that the model has, or none can be
            read. Or the model was trained on some of the clips, and `seen` is false. Or it is to adapt to the speakers
            of a corpus that says which emotion appears when.
    """
    known = sounds.seen_in_training(model.config.trained_on, model.config.calibrated_on, utterances)
    if not seen:
        check_unseen(model.config.source.repository, known, len(utterances))
    if any(utterance.events is not None for utterance in utterances):
        if adapt:
            raise CorpusError("EDER is measured without adapting to the speakers: leave out --adapt (adapt=0)")
        return evaluate_events(model, utterances, seed=seed, seen=known, channel=channel, advance=advance)
    if adapt:
        _ = model.centers  # an error comes before the clips are run
    if not model.config.dimensional:
        model.need_labels()
    answers = run(model, utterances, channel=channel, advance=advance)
    plain = _compared(model, utterances, answers, seed, known)
    if not adapt:
        return plain
    answers, voices = from_others(model, utterances, answers, adapt, seed)
    voices = replace(voices, closed=plain.closed.uar if plain.closed else None)
    return replace(_compared(model, utterances, answers, seed, known), known_voices=voices)


def run(
    model: Model,
    utterances: Sequence[Utterance],
    *,
    channel: int | str = "mix",
    advance: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Runs a model on clips: the first half of `evaluate`.

    Args:
        model: A loaded model with labels or dimensions.
        utterances: Clips.
        channel: Channel of the clips, as for `Model.predict`.
        advance: Called after each clip that is run.

    Returns:
        For each clip the answer of the model, the error that prevented it, or None for a clip that was not run, since
        it has no label, or no dimensions if the model is dimensional.
    """
    dimensional = model.config.dimensional
    files = (utterance.file for utterance in utterances if _wanted(utterance, dimensional))
    results = model.each(files, channel=channel, refuse_silence=True)
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
    return answers


def _compared(
    model: Model,
    utterances: Sequence[Utterance],
    answers: Sequence[Answer],
    seed: int,
    seen: Mapping[str, Seen] | None,
) -> Evaluation:
    return compare(
        utterances,
        answers,
        () if model.config.dimensional else model.labels,
        model=model.config.source.repository,
        runtime=model.runtime,
        temperature=model.config.temperature,
        seed=seed,
        seen=seen,
    )


def check_unseen(model: str, known: Mapping[str, Seen] | None, clips: int) -> None:
    """Raises CorpusError if a model was trained on clips, or chosen by them.

    Args:
        model: Name of the model.
        known: What is known of the clips from its training: see `sounds.seen_in_training`.
        clips: Number of clips.
    """
    reasons = {"train": "was trained on", "dev": "was chosen by, as development speakers"}
    for part, why in reasons.items():
        found = (known or {}).get(part)
        if found and found.clips:
            some = ", ".join(found.speakers[:3]) + (", ..." if len(found.speakers) > 3 else "")
            raise CorpusError(
                f"{found.clips} of {clips} clips are those that {model} {why} ({some}), so its figures would be too "
                f"good: evaluate on others, or allow it with --seen (seen=True)"
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
    seen: Mapping[str, Seen] | None = None,
) -> Evaluation:
    """Compares answers of a model with the references: the second half of `evaluate`.

    Args:
        utterances: Clips with their references.
        answers: For each clip the answer of the model, the error that prevented it, or None if it was not run.
        labels: All labels of the model; none for a dimensional model.
        model: Name of the model.
        runtime: Runtime that ran it.
        temperature: Temperature it was run with.
        seed: Seed of the bootstrap.
        seen: Clips known from the training of the model, as in `Evaluation`.

    Raises:
        CorpusError: Nothing can be compared.
    """
    outputs = {name: label_of(name) or name for name in labels}
    clips = tuple(clip_of(*pair, outputs) for pair in zip(utterances, answers, strict=True))
    run = [clip for clip in clips if clip.logits is not None]
    judged = [clip for clip in run if not outputs or clip.label in outputs.values()]
    if not judged:
        needed = f"one of the labels {', '.join(outputs)}" if outputs else "arousal, dominance and valence"
        errors = [clip.error for clip in clips if clip.error]
        why = f"no clip can be read; the first error is: {errors[0]}" if errors else f"no clip has {needed}"
        raise CorpusError(f"nothing to compare {model} with: {why}")
    bootstrap = Bootstrap([clip.speaker for clip in judged], seed)
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
        unmapped=dict(Counter(clip.original for clip in clips if clip.logits is None and clip.error is None)),
        seen=seen,
    )
    if not outputs:
        return replace(evaluation, dimensions=_dimension_figures(judged, bootstrap))
    impossible = Counter(str(clip.label) for clip in run if clip.label not in outputs.values())
    return replace(evaluation, impossible=dict(impossible), **_label_figures(judged, outputs, bootstrap, impossible))


def _wanted(utterance: Utterance, dimensional: bool) -> bool:
    return utterance.dimensions is not None if dimensional else utterance.label is not None


def clip_of(utterance: Utterance, answer: Answer, outputs: Mapping[str, str]) -> Clip:
    """Returns the reference and the answer for a clip.

    Args:
        utterance: The clip with its reference.
        answer: The model's answer, the error that prevented it, or None.
        outputs: What each label of the model counts as.
    """
    clip = Clip(
        file=str(utterance.file),
        speaker=utterance.speaker,
        sex=utterance.sex,
        original=utterance.original,
        label=utterance.label,
        dimensions=utterance.dimensions.to_dict() if utterance.dimensions else None,
        error=str(answer) if isinstance(answer, AudioError) else None,
        language=utterance.language,
    )
    if answer is None or isinstance(answer, AudioError):
        return clip
    if isinstance(answer, Dimensions):
        return replace(clip, logits=answer.to_dict())
    scores = dict.fromkeys(outputs.values(), 0.0)
    for name, score in answer.scores.items():
        scores[outputs[name]] += score
    return replace(
        clip,
        predicted=max(scores, key=scores.__getitem__),
        scores=scores,
        logits=dict(answer.logits),
        uncertain=fuse(answer, None, answer.duration, label_set=None).doubtful,
    )


def _dimension_figures(judged: list[Clip], bootstrap: Bootstrap) -> dict[str, dict[str, Figure]]:
    figures = {}
    for name in DIMENSIONS:
        truth = np.array([clip.dimensions[name] for clip in judged if clip.dimensions])
        measured = np.array([clip.logits[name] for clip in judged if clip.logits])
        draws, whole = bootstrap.draws(metrics.each_moment(truth, measured)), metrics.moments(truth, measured)
        agreements = {"ccc": metrics.ccc, "pearson": metrics.pearson, "mae": metrics.mae}
        figures[name] = {key: bootstrap.figure(metric, whole, draws) for key, metric in agreements.items()}
    return figures


def _label_figures(
    judged: list[Clip], outputs: Mapping[str, str], bootstrap: Bootstrap, impossible: Mapping[str, int]
) -> dict[str, Any]:
    """Returns the figures of a model with labels, as fields of `Evaluation`."""
    labels = tuple(dict.fromkeys(outputs.values()))
    truth, open_answers, closed_answers, confidences = choices(judged, labels)
    present = np.isin(np.arange(len(labels)), truth)
    open_, matrix = _figures(truth, open_answers, labels, labels, bootstrap)
    closed, _ = _figures(truth, closed_answers, labels, _present(labels, present), bootstrap)
    binned = metrics.binned(confidences, open_answers == truth)
    binned_scaled = metrics.binned(*scaled(judged, outputs, labels, truth, bootstrap))
    kinds = int(present.sum())
    return {
        "open": open_,
        "closed": closed,
        "ece": bootstrap.figure(metrics.ece, binned.sum(0), bootstrap.draws(binned)),
        "ece_scaled": bootstrap.figure(metrics.ece, binned_scaled.sum(0), bootstrap.draws(binned_scaled)),
        "reliability": tuple(map(tuple, binned.sum(0).tolist())),
        "uar_with_impossible": float(metrics.uar(matrix)) * kinds / (kinds + len(impossible)) if impossible else None,
        "by_speaker": _by_speaker(judged, truth, open_answers, len(labels)),
        "by_sex": _by_group([clip.sex for clip in judged], judged, labels, bootstrap.seed),
        "by_language": _by_group([clip.language for clip in judged], judged, labels, bootstrap.seed),
        "risk": _risk(confidences, open_answers != truth, bootstrap),
        "doubt": _doubt(np.array([bool(clip.uncertain) for clip in judged]), open_answers != truth, bootstrap),
    }


def choices(judged: Sequence[Clip], labels: tuple[str, ...]) -> tuple[Integers, Integers, Integers, Array]:
    """Returns the true labels, the open and the closed answers, and the confidences of the open ones: each [clips]."""
    truth = np.array([labels.index(str(clip.label)) for clip in judged])
    scores = np.array([[clip.scores[label] for label in labels] for clip in judged if clip.scores])
    present = np.isin(np.arange(len(labels)), truth)
    return truth, scores.argmax(-1), np.where(present, scores, -1).argmax(-1), scores.max(-1)


def _by_speaker(judged: Sequence[Clip], truth: Integers, given: Integers, labels: int) -> dict[str, tuple[int, float]]:
    """Returns the number of clips and the open UAR of each speaker."""
    figures = {}
    for speaker in sorted({clip.speaker for clip in judged}):
        inside = np.array([clip.speaker == speaker for clip in judged])
        recall = float(metrics.uar(metrics.confusion(truth[inside], given[inside], labels)))
        figures[speaker] = (int(inside.sum()), recall)
    return figures


def _by_group(
    groups: Sequence[str | None], judged: Sequence[Clip], labels: tuple[str, ...], seed: int
) -> dict[str, Group]:
    """Returns the figures of each group, where the group is known."""
    figures = {}
    for group in sorted({group for group in groups if group}):
        inside = [clip for clip, name in zip(judged, groups, strict=True) if name == group]
        bootstrap = Bootstrap([clip.speaker for clip in inside], seed)
        truth, open_answers, closed_answers, _ = choices(inside, labels)
        figures[group] = Group(
            clips=len(inside),
            speakers=bootstrap.speakers,
            resampled=bootstrap.resampled,
            closed=uar(truth, closed_answers, len(labels), bootstrap),
            open=uar(truth, open_answers, len(labels), bootstrap),
        )
    return figures


def uar(truth: Integers, given: Integers, labels: int, bootstrap: Bootstrap) -> Figure:
    """Returns the UAR of answers with its interval."""
    each = metrics.each_confusion(truth, given, labels)
    return bootstrap.figure(metrics.uar, each.sum(0), bootstrap.draws(each))


def _risk(confidences: Array, wrong: NDArray[np.bool_], bootstrap: Bootstrap) -> Risk:
    drawn = np.array([metrics.aurc(confidences, wrong, weights) for weights in bootstrap.weights()])
    coverage, risk = metrics.risk_coverage(confidences, wrong)
    lowest = np.sort(confidences)[::-1]
    shown = np.unique(np.linspace(0, len(risk) - 1, _POINTS).round().astype(int))
    curve = zip(coverage[shown].tolist(), risk[shown].tolist(), lowest[shown].tolist(), strict=True)
    return Risk(bootstrap.interval(metrics.aurc(confidences, wrong), drawn), tuple(dict.fromkeys(curve)))


def _doubt(uncertain: NDArray[np.bool_], wrong: NDArray[np.bool_], bootstrap: Bootstrap) -> Doubt:
    def errors(inside: NDArray[np.bool_]) -> Figure:
        each = np.stack([inside, inside & wrong], axis=-1).astype(np.float64)
        return bootstrap.figure(metrics.share, each.sum(0), bootstrap.draws(each))

    count = int(uncertain.sum())
    return Doubt(len(uncertain) - count, errors(~uncertain), count, errors(uncertain))


def _present(labels: tuple[str, ...], present: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(label for label, kept in zip(labels, present, strict=True) if kept)


def _figures(
    truth: Integers, answers: Integers, labels: tuple[str, ...], kept: tuple[str, ...], bootstrap: Bootstrap
) -> tuple[Figures, Array]:
    """Returns the figures and the confusion matrix of the labels in `kept`; no clip may have another label."""
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

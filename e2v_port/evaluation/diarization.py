"""EDER, the emotion diarization error rate: the share of a clip in which the emotion is wrong.

Wang et al. 2023, arXiv 2306.12991; `speechbrain.utils.EDER`. docs/evaluation.md explains it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from e2v_port.emotions.changes import DIARIZATION, Boundary, BoundarySettings
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.datasets import Event, Utterance, label_of
from e2v_port.evaluation.metrics import Array
from e2v_port.evaluation.results import Clip, Evaluation, Figure, Seen
from e2v_port.models.model import Model

__all__ = ["NEUTRAL", "RULES", "diarization_errors", "evaluate_events"]

NEUTRAL = "neutral"
RULES: Mapping[str, BoundarySettings] = {"frames": DIARIZATION, "smoothed": BoundarySettings()}
"""How frames become spans: each by itself, as the authors do it, and smoothed, as `e2v analyze --frames` does."""

_ROUNDING = 0.1  # s; an annotation that ends this much after the sound belongs to another file


def diarization_errors(found: Sequence[Boundary], events: Sequence[Event], duration: float) -> dict[str, float]:
    """Returns how much of a clip has the wrong emotion, as shares of its duration.

    Args:
        found: Spans that cover the clip without gap or overlap.
        events: The true emotions, without overlap; the rest of the clip is neutral.
        duration: Duration of the clip in seconds.

    Returns:
        `false_alarm`: an emotion where the voice is neutral; `missed`: neutral where it is not; `confusion`: another
        emotion than the true one; `eder`: the sum of the three, 0 to 1.
    """
    false_alarm = missed = confusion = 0.0
    for span in found:
        neutral = span.end - span.start
        for event in events:
            shared = max(0.0, min(span.end, event.end) - max(span.start, event.start))
            if event.label == NEUTRAL:
                continue
            neutral -= shared
            if span.label == NEUTRAL:
                missed += shared
            elif span.label != event.label:
                confusion += shared
        if span.label != NEUTRAL:
            false_alarm += neutral
    return {
        "eder": (false_alarm + missed + confusion) / duration,
        "false_alarm": false_alarm / duration,
        "missed": missed / duration,
        "confusion": confusion / duration,
    }


def evaluate_events(
    model: Model,
    utterances: Sequence[Utterance],
    *,
    seed: int = 0,
    seen: Mapping[str, Seen] | None = None,
    channel: int | str = "mix",
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Runs a model on clips with `events` and compares the emotion of each moment with theirs.

    Args:
        model: A loaded model with labels. A label counts as its `label_of`; one that the corpus lacks is always wrong.
        utterances: Clips with events.
        seed: Seed of the bootstrap.
        seen: Clips known from the training of the model, as in `Evaluation`.
        channel: Channel of the clips, as for `Model.predict`.
        advance: Called after each clip.

    Raises:
        NoLabels: The model has no labels.
        CorpusError: The model has no neutral, which most of each clip is; or no clip can be read.
    """
    model.need_labels()
    outputs = {name: label_of(name) or name for name in model.labels}
    name = model.config.source.repository
    if NEUTRAL not in outputs.values():
        raise CorpusError(f"{name} has no label for a neutral voice, so EDER says nothing about it: use another model")
    clips = []
    results = model.each(
        (utterance.file for utterance in utterances), frames=True, channel=channel, refuse_silence=True
    )
    for utterance, result in zip(utterances, results, strict=True):
        clip = Clip(str(utterance.file), utterance.speaker, utterance.sex, utterance.original, utterance.label)
        if isinstance(result, AudioError):
            clips.append(replace(clip, error=str(result)))
        elif utterance.events and utterance.events[-1].end > result[0] + _ROUNDING:
            said = f"annotated up to {utterance.events[-1].end:.2f} s, but it ends at {result[0]:.2f} s"
            clips.append(replace(clip, error=f"{utterance.file}: {said}: replace it with the file of the corpus"))
        else:
            spans = {rule: model.spans(result, settings) for rule, settings in RULES.items()}
            rates = {
                rule: diarization_errors(
                    [replace(span, label=outputs[span.label]) for span in found], utterance.events or (), result[0]
                )
                for rule, found in spans.items()
            }
            clips.append(replace(clip, diarization=rates))
        advance()
    judged = [clip for clip in clips if clip.diarization]
    if not judged:
        raise CorpusError(f"nothing to compare {name} with: no clip can be read; the first error is: {clips[0].error}")
    bootstrap = Bootstrap([clip.speaker for clip in judged], seed)
    return Evaluation(
        model=name,
        runtime=model.runtime,
        temperature=model.config.temperature,
        outputs=outputs,
        mapping={},
        clips=tuple(clips),
        judged=len(judged),
        speakers=bootstrap.speakers,
        resampled=bootstrap.resampled,
        seen=seen,
        diarization={rule: _figures(judged, rule, bootstrap) for rule in RULES},
    )


def _figures(judged: Sequence[Clip], rule: str, bootstrap: Bootstrap) -> dict[str, Figure]:
    """Returns the mean of each rate over the clips, which count equally, whatever their length."""
    rates = [clip.diarization[rule] for clip in judged if clip.diarization]

    def figure(name: str) -> Figure:
        each = np.array([(1.0, clip[name]) for clip in rates])
        return bootstrap.figure(_mean, each.sum(0), bootstrap.draws(each))

    return {name: figure(name) for name in rates[0]}


def _mean(sums: Array) -> Array:
    return np.asarray(sums[..., 1] / sums[..., 0])

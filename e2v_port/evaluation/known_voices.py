"""Answers that are adapted to each speaker, from other clips of that speaker than the one that is judged."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from e2v_port.emotions.adaptation import adapted
from e2v_port.emotions.estimates import Prediction
from e2v_port.evaluation.datasets import Utterance
from e2v_port.evaluation.results import Answer, KnownVoices
from e2v_port.models.model import Model

__all__ = ["from_others"]


def from_others(
    model: Model, utterances: Sequence[Utterance], answers: Sequence[Answer], clips: int, seed: int
) -> tuple[list[Answer], KnownVoices]:
    """Takes the offset of each voice off its answers, learned without labels from other clips of that speaker.

    Args:
        model: Model that gave the answers.
        utterances: Clips of the answers.
        answers: Answers of the model.
        clips: Number of other clips that each offset is learned from, drawn anew for each clip.
        seed: Seed of the draws.

    Raises:
        NoLabels, E2VError: The model cannot adapt: see `Model.centers`.
    """
    centers = model.centers
    of_speaker: dict[str, list[int]] = defaultdict(list)
    for i, (utterance, answer) in enumerate(zip(utterances, answers, strict=True)):
        if isinstance(answer, Prediction):
            of_speaker[utterance.speaker].append(i)
    rng = np.random.default_rng(seed)
    found = list(answers)
    kinds: Counter[str] = Counter()
    for mine in of_speaker.values():
        for i in mine:
            others = [j for j in mine if j != i]
            some = [answers[j] for j in rng.permutation(others)[:clips]]
            answer = answers[i]
            assert isinstance(answer, Prediction)
            if len(some) < clips:
                kinds["too_few"] += 1
                continue
            offset = centers.offset([other for other in some if isinstance(other, Prediction)])
            kinds["refused" if offset.reason else "adapted"] += 1
            if not offset.reason:
                logits = {label: value - offset.logits[label] for label, value in answer.logits.items()}
                # With the logits that its scores follow from, which figures with another temperature need.
                found[i] = replace(adapted(answer, offset, centers.temperature), logits=logits)
    return found, KnownVoices(clips, kinds["adapted"], kinds["refused"], kinds["too_few"], None)

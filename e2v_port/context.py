"""How a voice sounds, in one line for a language model.

Only what the models said goes in: emotions of the 26, and levels of arousal, dominance and valence if these were
measured: those that follow from the labels would say the same thing twice. Pitch, speed and loudness are not measured
here and not mentioned.

A clip is taken as one turn: its segments are averaged, each weighted by its length, one speaker apart from another.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from e2v_port import emotions
from e2v_port.emotions import Dimensions
from e2v_port.fusion import FusionSettings, Judgement

__all__ = ["label_set", "line"]

# Named beside the first if it is at least half as probable: our own choice.
_ALSO = 0.5
_ADVERBS = {"slight": "slightly", "moderate": "moderately", "strong": "strongly", "intense": "intensely"}
_NO_EMOTION = {"other", "unknown"}  # what emotion2vec calls a voice with none of its emotions


class Judged(Protocol):
    """What is needed of a segment."""

    @property
    def duration(self) -> float: ...
    @property
    def quality(self) -> str: ...
    @property
    def speaker(self) -> str | None: ...
    @property
    def judgement(self) -> Judgement | None: ...


def line(segments: Iterable[Judged], settings: FusionSettings) -> str:
    """Returns e.g. `[Voice sounds moderately anxious (high arousal, low dominance), possibly also stressed]`.

    `slightly`, `moderately`, `strongly` and `intensely` follow the probability of the emotion, in quarters. Where the
    confidence is below `FusionSettings.uncertain`, or the categorical model heard none of its emotions, or only a
    dimensional model spoke, which has no confidence, the line says so. Judged segments alone count; without any it is
    `[No speech heard]`, or `[Too little speech to judge]`.
    """
    voices: dict[str | None, list[tuple[float, Judgement]]] = {}
    too_short = False
    for segment in segments:
        too_short |= segment.quality == "too_short"
        if segment.judgement is not None:
            voices.setdefault(segment.speaker, []).append((segment.duration, segment.judgement))
    parts = [_voice(speaker, judged, settings) for speaker, judged in voices.items()]
    return f"[{'; '.join(parts) or ('Too little speech to judge' if too_short else 'No speech heard')}]"


def label_set(labels: Iterable[str]) -> str | None:
    """Returns the set these labels of a model are from, or None for labels of its own."""
    return "emotion2vec" if set(labels) <= set(emotions.labels("emotion2vec")) else None


def _voice(speaker: str | None, judged: Sequence[tuple[float, Judgement]], settings: FusionSettings) -> str:
    who = f"Voice of {_plain(speaker)}" if speaker else "Voice"
    weights = [duration for duration, _ in judged]
    judgements = [judgement for _, judgement in judged]
    scores = _mean(weights, [judgement.scores for judgement in judgements])
    dimensions = [each.dimensions if each.dimensions_from == "model" else None for each in judgements]
    levels = _levels(_mean(weights, [values.to_dict() if values else None for values in dimensions]), settings)
    shares = scores  # labels of a model's own mean none of the 26
    if scores is None or label_set(scores):
        shares = _mean(weights, [judgement.distribution for judgement in judgements])
    assert shares is not None
    (first, most), *others = sorted(shares.items(), key=lambda item: -item[1])
    second = next((name for name, share in others[:1] if share >= _ALSO * most), None)
    perhaps = f"perhaps {first} or {second}" if second else f"perhaps {first}"

    if scores is None:  # no confidence to go by
        return f"{who} has {' and '.join(levels) or 'no marked arousal, dominance or valence'}, {perhaps}"
    behind = f" ({', '.join(levels)})" if levels else ""
    if max(scores, key=scores.__getitem__) in _NO_EMOTION:
        return f"{who} shows no clear emotion{behind}"
    confidence = math.fsum(weight * (judgement.confidence or 0) for weight, judgement in judged) / math.fsum(weights)
    if confidence < settings.uncertain:
        return f"{who} is hard to read, {perhaps}{behind}"
    how = "" if first == "neutral" else f"{_ADVERBS[emotions.intensity(most)]} "
    return f"{who} sounds {how}{first}{behind}{f', possibly also {second}' if second else ''}"


def _mean(weights: Sequence[float], tables: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Weighted mean of tables with the same keys."""
    known = [(weight, table) for weight, table in zip(weights, tables, strict=True) if table is not None]
    total = math.fsum(weight for weight, _ in known)
    if not known:
        return None
    return {key: math.fsum(weight * table[key] for weight, table in known) / total for key in known[0][1]}


def _levels(values: Mapping[str, float] | None, settings: FusionSettings) -> list[str]:
    """What is out of the ordinary: not moderate, not neutral."""
    if values is None:
        return []
    mean = Dimensions(**values)
    arousal = "low" if mean.arousal < settings.arousal_low else "high" if mean.arousal > settings.arousal_high else ""
    dominance = emotions.level(mean.dominance, settings.compound_low, settings.compound_high)
    low, high = settings.valence_negative, settings.valence_positive
    valence = "negative" if mean.valence < low else "positive" if mean.valence > high else ""
    found = {"arousal": arousal, "dominance": "" if dominance == "moderate" else dominance, "valence": valence}
    return [f"{level} {name}" for name, level in found.items() if level]


def _plain(name: str) -> str:
    """A name from a file must not end the line or the brackets."""
    kept = "".join(char if char.isprintable() and char not in "[]" else " " for char in name)
    return " ".join(kept.split()) or "an unnamed speaker"

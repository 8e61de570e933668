"""How a voice sounds, in words for a language model: one line, or a few with how sure that is.

Only what was heard goes in: emotions of the 26; levels of arousal, dominance and valence if these were measured, since
those that follow from the labels would say the same thing twice; pitch, pace and loudness where prosody was measured.
It is said of the voice, never of the person: no state of mind, no illness.

What is given is taken as one turn: its segments are averaged, each weighted by its length, one speaker apart from
another.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from e2v_port import emotions
from e2v_port.emotions import Dimensions
from e2v_port.fusion import MEASURED, FusionSettings, Judgement
from e2v_port.trajectory import Trajectory

if TYPE_CHECKING:
    from e2v_port.prosody import Prosody

__all__ = ["NOTICE", "label_set", "line", "means", "report", "tool_schema"]

NOTICE = (
    "An estimate of how the voice sounds, made by a program. It does not tell what the speaker feels or why, and is no "
    "finding about health or character: never state it as a fact, and ask where it matters."
)

# Named beside the first if it is at least half as probable: our own choice.
_ALSO = 0.5
_ADVERBS = {"slight": "slightly", "moderate": "moderately", "strong": "strongly", "intense": "intensely"}
_NO_EMOTION = {"other", "unknown"}  # what emotion2vec calls a voice with none of its emotions
# From which confidence on, in words; below `FusionSettings.uncertain` it is a guess. Our own choice: below 0.5, a
# calibrated model is wrong more often than right.
_SURE = ((0.75, "quite sure"), (0.5, "fairly sure"), (0.0, "not sure"))
_POOR = 0.5  # quality of the recording, 0 to 1, below which it is mentioned: our own choice
_NAMED = 3  # emotions with their probabilities


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
    @property
    def prosody(self) -> "Prosody | None": ...
    @property
    def reasons(self) -> Sequence[str]: ...


def line(segments: Iterable[Judged], settings: FusionSettings) -> str:
    """Returns e.g. `[Voice sounds moderately anxious (high arousal, low dominance), possibly also stressed]`.

    `slightly`, `moderately`, `strongly` and `intensely` follow the probability of the emotion, in quarters. Where the
    confidence is below `FusionSettings.uncertain`, or the categorical model heard none of its emotions, or only a
    dimensional model spoke, which has no confidence, the line says so. Judged segments alone count; without any it is
    `[No speech heard]`, or `[Too little speech to judge]`.
    """
    voices, too_short = _voices(segments)
    return f"[{'; '.join(_said(voice, settings) for voice in voices) or _nothing(too_short)}]"


def report(segments: Iterable[Judged], settings: FusionSettings, course: Trajectory | None = None) -> str:
    """Returns the line, and below it what it rests on, each on a line of its own; `NOTICE` is the last.

    Named are: how sure the judgement is, in words; the likeliest emotions with their probabilities; arousal, dominance
    and valence and where they are from; measures of the voice; what is wrong with the recording; where the voice is
    going. What was not measured is left out.

    Args:
        segments: As for `line`.
        settings: As for `line`.
        course: Of the last minutes, if that is known.
    """
    segments = list(segments)
    voices, _ = _voices(segments)
    lines = [line(segments, settings)]
    for voice in voices:
        whose = f" of {_plain(voice.speaker)}" if voice.speaker else ""
        lines += [f"{what}{whose}: {said}" for what, said in _details(voice, settings).items()]
    if course:
        lines.append(f"Course: {_course(course)}")
    return "\n".join([*lines, NOTICE])


def means(segments: Iterable[Judged]) -> dict[str, Any]:
    """Returns what segments of one speaker say on average, by the names of the output of `tool_schema`."""
    judged = [(segment, segment.judgement) for segment in segments if segment.judgement]
    names = ("arousal", "dominance", "valence")
    if not judged:
        return {"emotion": None, "confidence": None, **dict.fromkeys(names), "seconds": 0.0}
    voice = _voice(None, judged)
    first = max(voice.shares, key=voice.shares.__getitem__)
    known = {entry.name for entry in emotions.emotions()}
    return {
        "emotion": first if first in known else None,
        "confidence": voice.confidence,
        **(dict(voice.dimensions) if voice.dimensions else dict.fromkeys(names)),
        "seconds": voice.seconds,
    }


def tool_schema() -> dict[str, Any]:
    """Returns the declaration of a tool with which a language model can ask how the voice sounds now.

    It has the form of the Model Context Protocol; others call `inputSchema` `parameters` or `input_schema`. Both
    schemas are JSON Schema of 2020-12. What it asks is answered by `EmotionDetector.voice_state(**arguments)`.
    """
    number = {"type": ["number", "null"]}
    return {
        "name": "voice_state",
        "description": (
            "Tells how the voice of the person who is speaking has sounded over the last seconds: an estimate by a "
            "program that hears only sound, not words, and is often wrong. Call it where the tone of the answer "
            "depends on it. Do not diagnose, do not tell people what they feel, and do not mention it unasked."
        ),
        "inputSchema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "window": {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": 3600,
                    "default": 30,
                    "description": "How many seconds to look back.",
                },
                "long": {
                    "type": "boolean",
                    "default": False,
                    "description": "Also tell how sure it is, what was measured and where the voice is going.",
                },
            },
            "additionalProperties": False,
        },
        "outputSchema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "context": {"type": "string", "description": "How the voice sounds, in words."},
                "emotion": {
                    "enum": [*(entry.name for entry in emotions.emotions()), None],
                    "description": "The likeliest; null where nothing could be judged.",
                },
                "confidence": {**number, "minimum": 0, "maximum": 1},
                "arousal": {**number, "description": "From calm, 0, to activated, 1."},
                "dominance": {**number, "description": "From controlled, 0, to in control, 1."},
                "valence": {**number, "description": "From unpleasant, 0, to pleasant, 1."},
                "trend": {
                    "enum": ["improving", "declining", "stable", "volatile", None],
                    "description": "Of valence over the last five minutes; null where there is too little to tell.",
                },
                "seconds": {"type": "number", "minimum": 0, "description": "Of speech that this rests on."},
                "notice": {"const": NOTICE},
            },
            "required": [
                "context",
                "emotion",
                "confidence",
                "arousal",
                "dominance",
                "valence",
                "trend",
                "seconds",
                "notice",
            ],
            "additionalProperties": False,
        },
    }


def label_set(labels: Iterable[str]) -> str | None:
    """Returns the set these labels of a model are from, or None for labels of its own."""
    return "emotion2vec" if set(labels) <= set(emotions.labels("emotion2vec")) else None


@dataclass(frozen=True)
class _Voice:
    """Means over the segments of one speaker, weighted by their length."""

    speaker: str | None
    seconds: float
    segments: int
    scores: Mapping[str, float] | None
    shares: Mapping[str, float]
    confidence: float | None
    dimensions: Mapping[str, float] | None
    dimensions_from: str | None
    reasons: Sequence[str]
    prosody: "Sequence[tuple[float, Prosody]]"


def _voices(segments: Iterable[Judged]) -> tuple[list[_Voice], bool]:
    """Gathers judged segments by speaker, and tells whether there were some too short to judge."""
    found: dict[str | None, list[tuple[Judged, Judgement]]] = {}
    too_short = False
    for segment in segments:
        too_short |= segment.quality == "too_short"
        if segment.judgement is not None:
            found.setdefault(segment.speaker, []).append((segment, segment.judgement))
    return [_voice(speaker, judged) for speaker, judged in found.items()], too_short


def _nothing(too_short: bool) -> str:
    return "Too little speech to judge" if too_short else "No speech heard"


def _voice(speaker: str | None, judged: Sequence[tuple[Judged, Judgement]]) -> _Voice:
    weights = [segment.duration for segment, _ in judged]
    judgements = [judgement for _, judgement in judged]
    seconds = math.fsum(weights)
    scores = _mean(weights, [judgement.scores for judgement in judgements])
    shares = scores  # labels of a model's own mean none of the 26
    if scores is None or label_set(scores):
        shares = _mean(weights, [judgement.distribution for judgement in judgements])
    assert shares is not None
    confidences = [(weight, each.confidence) for weight, each in zip(weights, judgements, strict=True)]
    known = [(weight, confidence) for weight, confidence in confidences if confidence is not None]
    confidence = math.fsum(weight * value for weight, value in known) / seconds if known else None
    values = [each.dimensions.to_dict() if each.dimensions else None for each in judgements]
    heard: dict[str, float] = {}
    for segment, _ in judged:
        for reason in segment.reasons:
            heard[reason] = heard.get(reason, 0.0) + segment.duration
    return _Voice(
        speaker=speaker,
        seconds=seconds,
        segments=len(judged),
        scores=scores,
        shares=shares,
        confidence=confidence,
        dimensions=_mean(weights, values),
        dimensions_from=" or ".join(dict.fromkeys(each.dimensions_from for each in judgements if each.dimensions_from)),
        reasons=[reason for reason, length in heard.items() if length >= seconds / 2],
        prosody=[(segment.duration, segment.prosody) for segment, _ in judged if segment.prosody],
    )


def _said(voice: _Voice, settings: FusionSettings) -> str:
    who = f"Voice of {_plain(voice.speaker)}" if voice.speaker else "Voice"
    measured = voice.dimensions if voice.dimensions_from in MEASURED else None
    levels = _levels(measured, settings)
    (first, most), *others = sorted(voice.shares.items(), key=lambda item: -item[1])
    second = next((name for name, share in others[:1] if share >= _ALSO * most), None)
    perhaps = f"perhaps {first} or {second}" if second else f"perhaps {first}"
    signs = f" ({', '.join([*levels, *voice.reasons])})" if levels or voice.reasons else ""

    if voice.scores is None:  # no model has told labels
        behind = f" ({', '.join(voice.reasons)})" if voice.reasons else ""
        return f"{who} has {' and '.join(levels) or 'no marked arousal, dominance or valence'}{behind}, {perhaps}"
    if max(voice.scores, key=voice.scores.__getitem__) in _NO_EMOTION:
        return f"{who} shows no clear emotion{signs}"
    if (voice.confidence or 0) < settings.uncertain:
        return f"{who} is hard to read, {perhaps}{signs}"
    how = "" if first == "neutral" else f"{_ADVERBS[emotions.intensity(most)]} "
    return f"{who} sounds {how}{first}{signs}{f', possibly also {second}' if second else ''}"


def _details(voice: _Voice, settings: FusionSettings) -> dict[str, str]:
    """What the line of a voice rests on."""
    confidence = voice.confidence
    if confidence is None:
        sure = "unknown, since no model with labels has listened"
    elif confidence < settings.uncertain:
        sure = "hardly at all, this is a guess"
    else:
        sure = next(words for least, words in _SURE if confidence >= least)
    little = ", little to go by" if voice.seconds < settings.short_seconds else ""
    count = f"{voice.segments} segment{'s' if voice.segments > 1 else ''}"
    ranked = sorted(voice.shares.items(), key=lambda item: -item[1])[:_NAMED]
    found = {
        "How sure": f"{sure} ({voice.seconds:.1f} s of speech in {count}{little})",
        "Likeliest": ", ".join(f"{name} {share:.0%}" for name, share in ranked),
    }
    if voice.dimensions:
        values = ", ".join(f"{name} {value:.2f}" for name, value in voice.dimensions.items())
        measured = voice.dimensions_from in MEASURED
        found["Dimensions, 0 to 1"] = f"{values} ({'' if measured else 'not measured: '}from {voice.dimensions_from})"
    if voice.prosody:
        found["Measured"] = _measures(voice.prosody)
        quality = min((prosody.quality for _, prosody in voice.prosody), key=lambda quality: quality.score)
        if quality.score < _POOR:
            found["Recording"] = "poor (clipped, quiet or noisy): trust this less"
    return found


def _measures(prosody: "Sequence[tuple[float, Prosody]]") -> str:
    forms = {"pitch_mean": "pitch {:.0f} Hz", "rate": "{:.1f} syllables per second", "pause_ratio": "{:.0%} pauses"}
    said = []
    for name, form in forms.items():
        values = [(weight, getattr(each, name)) for weight, each in prosody if getattr(each, name) is not None]
        if values:
            mean = math.fsum(weight * value for weight, value in values) / math.fsum(weight for weight, _ in values)
            said.append(form.format(mean))
    return ", ".join(said) or "nothing, there was no voice to measure"


def _course(course: Trajectory) -> str:
    if course.trend is None or course.slope is None or course.interval is None:
        return f"too little to tell ({course.reason})"
    low, high = course.interval
    over = f"{course.segments} segments over {course.span / 60:.1f} minutes"
    return f"{course.trend}; valence {course.slope:+.3f} per minute (95 %: {low:+.3f} to {high:+.3f}), from {over}"


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

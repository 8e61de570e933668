"""How a voice sounds, in words for a language model: one line, or a few lines that add how sure that is.

The headline is the model's label (docs/taxonomy.md), or two labels where it is in doubt; its shade and the levels of
arousal, dominance and valence are added if dimensions were measured, since derived ones would repeat the label; pitch,
pace and loudness where prosody was measured. The words describe the voice, never the person: no state of mind, no
illness. How likely a label is never reads as how strong the emotion is.

The segments passed in count as one turn. They are averaged for each speaker, weighted by duration.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions
from e2v_port.emotions.fusion import FusionSettings, unsure, voice_intensity
from e2v_port.emotions.judgement import MEASURED, Judgement, Shade, also, rivals
from e2v_port.emotions.trajectory import Trajectory
from e2v_port.lines import one_line, shortened
from e2v_port.seconds import seconds as rounded

if TYPE_CHECKING:
    from e2v_port.prosody.measure import Prosody

__all__ = ["NOTICE", "line", "means", "report", "said"]

NOTICE = (
    "An estimate of how the voice sounds, made by a program. It does not tell what the speaker feels or why, and is no "
    "finding about health or character: never state it as a fact, and ask where it matters."
)

_ADVERBS = {"low": "slightly", "mild": "mildly", "moderate": "moderately", "high": "very"}  # intensity of the voice
# Lowest confidence at which a label without doubt is `quite sure`. With the bundled model 84 % of them are right, 59 %
# of the others (docs/taxonomy.md).
_QUITE = 0.75
_SOUND = {  # kind of a note on the clip -> words
    "silence": "the recording is silent",
    "cut_off": "only part of the recording could be read",
    "channels_cancel": "its channels cancel each other, the loudest was judged",
    "other_tracks": "one of several audio tracks was judged",
}
_CALM = 0.5  # arousal of a voice that is neither calm nor activated
_POOR = 0.5  # quality of the recording, 0 to 1, below which it is mentioned; heuristic
_NAMED = 3  # labels listed with their probabilities
_QUOTED = 300  # characters of a turn that are quoted, about 20 s of speech; heuristic
# Brackets, tags and marks of a chat template end nothing here, and only the line itself has double quotes.
_HARMLESS = str.maketrans(dict.fromkeys("[]{}<>|`［］【】｛｝＜＞｜", " ") | dict.fromkeys('"“”„‟«»〝〞〟＂', "'"))


class Judged(Protocol):
    """The attributes of a segment that a description uses."""

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


def line(segments: Iterable[Judged], settings: FusionSettings, notes: Iterable[str] = ()) -> str:
    """Describes voices in one line, e.g. `[Voice sounds very fearful (high arousal), possibly also sad]`.

    For one segment the label named is that segment's. For several it is the label with most support among their
    labels: the mean over segments, weighted by duration, of the confidence where a label is the segment's, else of its
    score. Where that label is in doubt, by the rule for the note `uncertain` of a segment, the line is `[Voice unclear:
    fearful or sad]`. A second label is named if it has at least half the support.

    `slightly`, `mildly`, `moderately` and `very` are the intensity of the voice, where arousal was measured and the
    label is of an emotion that raises it: a sad or neutral voice is calm. A shade is named where dimensions were
    measured and it has another name than the label.

    The line says so where the model heard none of its emotions. Where no model gave labels, it names the octant of the
    mean dimensions instead. Only judged segments count; without any the line is `[No speech heard]` or `[Too little
    speech to judge]`. Notes on the sound of the clip follow in few words where they change what the line means.

    Args:
        segments: Segments of one turn.
        settings: Thresholds of the judgement.
        notes: Kinds of the notes on the clip: see `e2v_port.audio.notes`.
    """
    voices, too_short = _voices(segments)
    described = [_described(voice, settings) for voice in voices] or [_nothing(too_short)]
    return f"[{'; '.join([*described, *(_SOUND[kind] for kind in dict.fromkeys(notes) if kind in _SOUND)])}]"


def report(
    segments: Iterable[Judged],
    settings: FusionSettings,
    trajectory: Trajectory | None = None,
    notes: Iterable[str] = (),
) -> str:
    """Returns the line followed by its reasons, one per line; the last line is `NOTICE`.

    The reasons are: how sure the judgement is, in words; the labels with most support; the shade; arousal, dominance
    and valence and their source; measures of the voice; faults of the recording; the trend of the last minutes.
    Anything not measured is left out.

    Args:
        segments: Segments of one turn, as for `line`.
        settings: Thresholds of the judgement, as for `line`.
        trajectory: Trend of the last minutes, if known.
        notes: Kinds of the notes on the clip, as for `line`.
    """
    segments = list(segments)
    voices, _ = _voices(segments)
    lines = [line(segments, settings, notes)]
    for voice in voices:
        whose = f" of {_plain(voice.speaker)}" if voice.speaker else ""
        lines += [f"{name}{whose}: {text}" for name, text in _details(voice, settings).items()]
    if trajectory:
        lines.append(f"Trend: {_trend(trajectory)}")
    return "\n".join([*lines, NOTICE])


def said(
    segments: Iterable[Judged],
    settings: FusionSettings,
    text: str | None,
    remarks: Iterable[str] = (),
    notes: Iterable[str] = (),
) -> str:
    """Describes one turn with its words, e.g. `[Voice of Ann sounds happy; said: "It works!"]`.

    The words are quoted, up to 300 characters of them. They may be anything: brackets, double quotes, tags and line
    breaks are taken out of them, so that they end neither the quotation nor the line.

    Args:
        segments: Segments of the turn.
        settings: Thresholds of the judgement.
        text: What was said; None or empty if that is unknown.
        remarks: What else must be known, in words of this package, placed before the quotation.
        notes: Kinds of the notes on the clip, as for `line`.
    """
    parts = [line(segments, settings, notes)[1:-1], *remarks]
    if quoted := shortened(" ".join(one_line(text or "").translate(_HARMLESS).split()), _QUOTED):
        parts.append(f'said: "{quoted}"')
    return f"[{'; '.join(parts)}]"


def means(segments: Iterable[Judged], settings: FusionSettings) -> dict[str, Any]:
    """Returns the averages over the segments of one speaker, under the names of `tool_schema`'s output."""
    judged = [(segment, segment.judgement) for segment in segments if segment.judgement]
    if not judged:
        names = ("emotion", "confidence", "unclear", "shade", "octant", "avd_scores", "avd_from")
        return dict.fromkeys(names) | {"seconds": 0.0}
    voice = _voice(None, judged)
    return {
        "emotion": voice.label,
        "confidence": voice.confidence,
        "unclear": None if voice.label is None else voice.doubt(settings),
        "shade": voice.shade.to_dict() if voice.shade else None,
        "octant": voice.octant,
        "avd_scores": voice.dimensions.to_dict() if voice.dimensions else None,
        "avd_from": voice.dimensions_from,
        "seconds": rounded(voice.seconds),
    }


@dataclass(frozen=True)
class _Voice:
    """Averages over the segments of one speaker, weighted by duration."""

    speaker: str | None
    seconds: float
    segments: int
    support: Mapping[str, float]  # of each label, the headline first; empty without a model that gives labels
    scores: Mapping[str, float]  # mean probability of each label, before fusion
    dimensions: Dimensions | None
    dimensions_from: str | None
    reasons: Sequence[str]
    prosody: "Sequence[tuple[float, Prosody]]"

    @property
    def label(self) -> str | None:
        return next(iter(self.support), None)

    @property
    def confidence(self) -> float | None:
        return next(iter(self.support.values()), None)

    def doubt(self, settings: FusionSettings) -> bool:
        """Returns whether the label is in doubt: for one segment, whether it has the note `uncertain`."""
        if self.label is None or self.confidence is None:
            return False
        return unsure(self.label, self.confidence, self.scores, settings)

    @property
    def measured(self) -> Dimensions | None:
        return self.dimensions if self.dimensions_from in MEASURED else None

    @property
    def shade(self) -> Shade | None:
        label_set = taxonomy.label_set_of(self.support)
        if self.label is None or label_set is None:
            return None
        shades = taxonomy.shades(self.label, self.measured, label_set)
        return Shade(*next(iter(shades.items()))) if shades else None

    @property
    def octant(self) -> str | None:
        return taxonomy.octant(self.measured) if self.measured else None


def _voices(segments: Iterable[Judged]) -> tuple[list[_Voice], bool]:
    """Groups judged segments by speaker; the second value is whether any segment was too short to judge."""
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
    mean = _mean(weights, [each.dimensions.to_dict() if each.dimensions else None for each in judgements])
    heard: dict[str, float] = {}
    for segment, _ in judged:
        for reason in segment.reasons:
            heard[reason] = heard.get(reason, 0.0) + segment.duration
    return _Voice(
        speaker=speaker,
        seconds=seconds,
        segments=len(judged),
        support=_support(weights, judgements),
        scores=_mean(weights, [each.scores for each in judgements]) or {},
        dimensions=Dimensions(**mean) if mean else None,
        dimensions_from=" or ".join(dict.fromkeys(each.dimensions_from for each in judgements if each.dimensions_from))
        or None,
        reasons=[reason for reason, length in heard.items() if length >= seconds / 2],
        prosody=[(segment.duration, segment.prosody) for segment, _ in judged if segment.prosody],
    )


def _support(weights: Sequence[float], judgements: Sequence[Judgement]) -> dict[str, float]:
    """Returns how far each label is supported, 0 to 1; the headline first, the others by their support.

    The headline is one of the segments' own: otherwise a penalised confidence could make a summary of one segment
    name another label than the segment does.
    """
    labeled = [
        (weight, each.primary, each.confidence or 0.0, each.scores or {})
        for weight, each in zip(weights, judgements, strict=True)
        if each.primary is not None
    ]
    total = math.fsum(weight for weight, *_ in labeled)
    names = dict.fromkeys(name for _, primary, _, scores in labeled for name in (primary, *scores))
    support = {
        name: math.fsum(
            weight * (confidence if name == primary else scores.get(name, 0.0))
            for weight, primary, confidence, scores in labeled
        )
        / total
        for name in names
    }
    headlines = {primary for _, primary, _, _ in labeled}
    headline = max(headlines & support.keys(), key=lambda name: (support[name], name), default=None)
    return dict(sorted(support.items(), key=lambda item: (item[0] != headline, -item[1])))


def _described(voice: _Voice, settings: FusionSettings) -> str:
    subject = f"Voice of {_plain(voice.speaker)}" if voice.speaker else "Voice"
    levels = _levels(voice.measured, settings)
    if voice.label is None:
        octant = f", octant {voice.octant}" if voice.octant else ""
        reasons = f" ({', '.join(voice.reasons)})" if voice.reasons else ""
        return f"{subject} has {' and '.join(levels) or 'no marked arousal, dominance or valence'}{octant}{reasons}"
    signs = [*levels, *voice.reasons]
    doubt = voice.doubt(settings)
    if voice.measured and voice.shade and voice.shade.name != voice.label.casefold() and not doubt:
        signs.insert(0, f"shade: {voice.shade.name}")
    found = f" ({', '.join(signs)})" if signs else ""
    if doubt:
        return f"{subject} unclear: {rivals(voice.label, voice.scores)}{found}"
    if not taxonomy.names_emotion(voice.label):
        return f"{subject} shows no clear emotion{found}"
    second = also(voice.label, voice.support)
    besides = f", possibly also {second}" if second else ""
    return f"{subject} sounds {_how(voice, settings)}{voice.label}{found}{besides}"


def _how(voice: _Voice, settings: FusionSettings) -> str:
    """Returns an adverb for the measured intensity of the voice, or nothing where arousal says nothing about it."""
    label_set = taxonomy.label_set_of(voice.support)
    if not (voice.measured and voice.label and label_set):
        return ""
    raised = taxonomy.expected({voice.label: 1.0}, label_set).arousal > _CALM
    return f"{_ADVERBS[voice_intensity(voice.measured.arousal, settings)]} " if raised else ""


def _details(voice: _Voice, settings: FusionSettings) -> dict[str, str]:
    """Returns the reasons for a voice's line, by their headings."""
    confidence = voice.confidence
    if confidence is None:
        sure = "unknown, no model with labels was used"
    elif voice.doubt(settings):
        sure = "not sure"
    else:
        sure = "quite sure" if confidence >= _QUITE else "fairly sure"
    little = ", little to go by" if voice.seconds < settings.short_seconds else ""
    count = f"{voice.segments} segment{'s' if voice.segments > 1 else ''}"
    details = {"How sure": f"{sure} ({voice.seconds:.1f} s of speech in {count}{little})"}
    if voice.support:
        details["Labels"] = ", ".join(f"{name} {share:.0%}" for name, share in [*voice.support.items()][:_NAMED])
    if voice.shade:
        details["Shade, if the label is right"] = f"{voice.shade.name} {voice.shade.probability:.0%}"
    if voice.dimensions:
        values = ", ".join(f"{name} {value:.2f}" for name, value in voice.dimensions.to_dict().items())
        source = f"{'' if voice.measured else 'not measured: '}from {voice.dimensions_from}"
        details["Dimensions, 0 to 1"] = f"{values} ({source})"
    if voice.prosody:
        details["Measured"] = _measures(voice.prosody)
        quality = min((prosody.quality for _, prosody in voice.prosody), key=lambda quality: quality.score)
        if quality.score < _POOR:
            details["Recording"] = "poor (clipped, quiet or noisy): trust this less"
    return details


def _measures(prosody: "Sequence[tuple[float, Prosody]]") -> str:
    forms = {"pitch_mean": "pitch {:.0f} Hz", "rate": "{:.1f} syllables per second", "pause_ratio": "{:.0%} pauses"}
    parts = []
    for name, form in forms.items():
        values = [(weight, getattr(each, name)) for weight, each in prosody if getattr(each, name) is not None]
        if values:
            mean = math.fsum(weight * value for weight, value in values) / math.fsum(weight for weight, _ in values)
            parts.append(form.format(mean))
    return ", ".join(parts) or "nothing, no voice was found"


def _trend(trajectory: Trajectory) -> str:
    if trajectory.trend is None or trajectory.slope is None or trajectory.interval is None:
        return f"not enough data ({trajectory.reason})"
    low, high = trajectory.interval
    over = f"{trajectory.segments} segments over {trajectory.span / 60:.1f} minutes"
    return (
        f"{trajectory.trend}; valence {trajectory.slope:+.3f} per minute (95 %: {low:+.3f} to {high:+.3f}), from {over}"
    )


def _mean(weights: Sequence[float], tables: Sequence[Mapping[str, float] | None]) -> dict[str, float] | None:
    """Returns the weighted mean of tables; a key that one of them lacks counts as 0 there."""
    known = [(weight, table) for weight, table in zip(weights, tables, strict=True) if table is not None]
    total = math.fsum(weight for weight, _ in known)
    if not known:
        return None
    keys = dict.fromkeys(key for _, table in known for key in table)
    return {key: math.fsum(weight * table.get(key, 0.0) for weight, table in known) / total for key in keys}


def _levels(mean: Dimensions | None, settings: FusionSettings) -> list[str]:
    """Names what is out of the ordinary: levels other than moderate and neutral."""
    if mean is None:
        return []
    arousal = "low" if mean.arousal < settings.arousal_low else "high" if mean.arousal > settings.arousal_high else ""
    dominance = taxonomy.level(mean.dominance, settings.compound_low, settings.compound_high)
    low, high = settings.valence_negative, settings.valence_positive
    valence = "negative" if mean.valence < low else "positive" if mean.valence > high else ""
    levels = {"arousal": arousal, "dominance": "" if dominance == "moderate" else dominance, "valence": valence}
    return [f"{level} {name}" for name, level in levels.items() if level]


def _plain(name: str) -> str:
    """Returns a name that can end neither the line nor the brackets, and begin no quotation."""
    return " ".join(one_line(name).translate(_HARMLESS).split()) or "an unnamed speaker"

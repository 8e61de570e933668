"""Fusion: one judgement from a categorical and a dimensional model, or from either alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.judgement import Judgement, Shade
from e2v_port.errors import check_numbers, need, number, quoted

__all__ = ["FusionSettings", "fuse", "unsure", "voice_intensity"]


@dataclass(frozen=True)
class FusionSettings:
    """Thresholds and factors of the fusion.

    The defaults come from the deployed two-model pipeline (emotion2vec+ large with audeering's model), where they were
    set on conversational English, except for `uncertain` and `lead`. Arousal, dominance and valence are on audeering's
    scale, 0 to 1; confidence is a probability; factors have no unit.

    Attributes:
        boost: Factor applied to the confidence where label and valence agree.
        penalty: Factor applied to the confidence where label and valence contradict each other.
        clip: Highest confidence after that factor.
        short_seconds: Duration in seconds below which a clip counts as short: annotators of MSP-Podcast heard 2.75 s
            or more.
        short_factor: Factor applied to the confidence of short clips.
        intensity_mild: Lowest arousal of `mild` intensity; `low` below.
        intensity_moderate: Lowest arousal of `moderate` intensity.
        intensity_high: Arousal above which the intensity is `high`.
        valence_negative: Valence below which the level is `negative`.
        valence_positive: Valence above which the level is `positive`; `neutral` in between, both ends included.
        arousal_low: Arousal below which the level is `low`.
        arousal_high: Arousal above which the level is `high`; `moderate` in between, both ends included.
        compound_low: Arousal and dominance up to which they are `low` in the compound table, inclusive.
        compound_high: Arousal and dominance above which they are `high` in the compound table.
        elevated_arousal: Arousal above which a neutral label gets a note: the categorical model may have missed an
            emotion.
        compound_confidence: Confidence below which a label has no compound.
        uncertain: Confidence below which a judgement gets the note `uncertain`: the label is more likely wrong than
            right. With the bundled model 41 % of such labels are right, 61 % of all others (docs/taxonomy.md).
        lead: Lead in probability of the label over the second label up to which a judgement gets that note, too.
        noisy: Signal-to-noise ratio in dB below which a judgement gets the note `noisy`: music or noise then colors
            what the models hear. docs/prosody.md shows how often it is right.
    """

    boost: float = 1.15
    penalty: float = 0.75
    clip: float = 1.0
    short_seconds: float = 2.0
    short_factor: float = 0.7
    intensity_mild: float = 0.35
    intensity_moderate: float = 0.5
    intensity_high: float = 0.65
    valence_negative: float = 0.45
    valence_positive: float = 0.55
    arousal_low: float = 0.4
    arousal_high: float = 0.6
    compound_low: float = taxonomy.LOW
    compound_high: float = taxonomy.HIGH
    elevated_arousal: float = 0.6
    compound_confidence: float = 0.3
    uncertain: float = 0.5
    lead: float = 0.1
    noisy: float = 20.0

    def __post_init__(self) -> None:
        """Raises ValueError for fields that are no finite numbers, bands out of order, or factors out of range."""
        check_numbers(self)
        orders = (
            ("intensity_mild", "intensity_moderate", "intensity_high"),
            ("valence_negative", "valence_positive"),
            ("arousal_low", "arousal_high"),
            ("compound_low", "compound_high"),
        )
        for names in orders:
            values = [getattr(self, name) for name in names]
            if values != sorted(values):
                raise ValueError(f"{' <= '.join(names)} must hold, not {quoted(values)}")
        if not (0 <= self.penalty <= 1 <= self.boost and 0 <= self.short_factor <= 1 and 0 < self.clip <= 1):
            raise ValueError("0 <= penalty <= 1 <= boost, 0 <= short_factor <= 1 and 0 < clip <= 1 must hold")


def fuse(
    prediction: Prediction | None,
    dimensions: Dimensions | None,
    duration: float,
    settings: FusionSettings | None = None,
    *,
    label_set: str | None = "emotion2vec",
    snr: float | None = None,
) -> Judgement:
    """Fuses the estimates of two models for one clip into a judgement, or judges by one of them alone.

    The label is the categorical model's; the dimensional model never changes it. Its probability is multiplied by the
    boost and clipped where label and valence are both positive or both negative, and by the penalty where they are
    opposite; a neutral or ambiguous one leaves it unchanged. Short clips lower it further. Without dimensions there
    are no levels, no compound and no octant; without a prediction there is no label and no confidence. A label of too
    little confidence has no compound either.

    The shade is the emotion of the 26 with the highest P(emotion | label, dimensions): see `taxonomy.shades`. Only
    measured dimensions take part.

    Dimensions that no model measured are derived from the scores and marked (`Judgement.dimensions_from`). They carry
    no information beyond the labels, so nothing else follows from them: no levels and no octant either, since the
    thresholds are those of measured voices (a certain `neutral` would have positive valence).

    Args:
        prediction: Estimate of the categorical model, or None.
        dimensions: Estimate of the dimensional model, or None.
        duration: Duration of the clip in seconds.
        settings: Thresholds to use instead of the defaults.
        label_set: Set that the labels belong to, one of `taxonomy.label_sets()`; None for labels of a model's own,
            which have no polarity, compound, shade, dimensions or share in the distribution.
        snr: Signal-to-noise ratio of the clip in dB, if it was measured.

    Raises:
        ValueError: Both estimates are None, the duration is negative or not finite, or a label is not in the set.
    """
    need("prediction", prediction, Prediction, None)
    need("dimensions", dimensions, Dimensions, None)
    need("settings", settings, FusionSettings, None)
    settings = settings or FusionSettings()
    if prediction is None and dimensions is None:
        raise ValueError("neither a prediction nor dimensions: at least one model must have run")
    duration = number("duration", duration, 0)
    meaning = None if prediction is None or label_set is None else taxonomy.meaning(prediction.label, label_set)
    words = _Words() if dimensions is None else _words(dimensions, meaning, settings)
    confidence = None if prediction is None else _confidence(prediction, words.agreement, duration, settings)
    if confidence is not None and confidence < settings.compound_confidence:
        words = words._replace(compound=None)
    scores = None if prediction is None else dict(prediction.scores)
    doubt = False
    if prediction is not None and confidence is not None:
        doubt = unsure(prediction.label, confidence, prediction.scores, settings)
    notes = _notes(meaning, dimensions, duration, settings, snr=snr, doubt=doubt)
    sources = {"categorical": prediction is not None, "dimensional": dimensions is not None}
    shown, shown_from = dimensions, "model" if dimensions else None
    if shown is None and scores is not None and label_set is not None:
        shown, shown_from = taxonomy.expected(scores, label_set), "labels"  # shown, and nothing follows from them
    return Judgement(
        primary=None if prediction is None else prediction.label,
        confidence=confidence,
        **words._asdict(),
        distribution=_distribution(scores, dimensions, label_set),
        notes=notes,
        sources=tuple(source for source, ran in sources.items() if ran),
        scores=scores,
        dimensions=shown,
        dimensions_from=shown_from,
        shade=None if prediction is None or label_set is None else _shade(prediction.label, dimensions, label_set),
    )


class _Words(NamedTuple):
    """Names for measured dimensions, alone and together with the label."""

    agreement: str | None = None
    intensity: str | None = None
    valence_level: str | None = None
    arousal_level: str | None = None
    compound: str | None = None
    octant: str | None = None


def _words(dimensions: Dimensions, meaning: taxonomy.Meaning | None, settings: FusionSettings) -> _Words:
    valence_level = _valence_level(dimensions.valence, settings)
    compound = None
    if meaning is not None and meaning.compound is not None:
        low, high = settings.compound_low, settings.compound_high
        compound = taxonomy.compound(meaning.compound, dimensions, low, high).label
    return _Words(
        agreement=None if meaning is None else _agreement(meaning.polarity, valence_level),
        intensity=voice_intensity(dimensions.arousal, settings),
        valence_level=valence_level,
        arousal_level=_arousal_level(dimensions.arousal, settings),
        compound=compound,
        octant=taxonomy.octant(dimensions),
    )


def _confidence(prediction: Prediction, agreement: str | None, duration: float, settings: FusionSettings) -> float:
    factor = {"agree": settings.boost, "disagree": settings.penalty}.get(agreement or "neutral", 1.0)
    confidence = min(prediction.confidence * factor, settings.clip)
    # Applied after the clip, so that a short clip always loses the whole factor.
    return confidence * settings.short_factor if duration < settings.short_seconds else confidence


def _distribution(
    scores: Mapping[str, float] | None, dimensions: Dimensions | None, label_set: str | None
) -> dict[str, float] | None:
    if label_set is not None:
        return taxonomy.distribution(scores, dimensions, label_set)
    return None if dimensions is None else taxonomy.distribution(None, dimensions)


def _notes(
    meaning: taxonomy.Meaning | None,
    dimensions: Dimensions | None,
    duration: float,
    settings: FusionSettings,
    *,
    snr: float | None,
    doubt: bool,
) -> tuple[str, ...]:
    neutral = meaning is not None and meaning.polarity == "neutral"
    notes = {
        "elevated arousal": neutral and dimensions is not None and dimensions.arousal > settings.elevated_arousal,
        "short": duration < settings.short_seconds,
        "noisy": snr is not None and snr < settings.noisy,
        "uncertain": doubt,
    }
    return tuple(note for note, holds in notes.items() if holds)


def unsure(label: str, confidence: float, scores: Mapping[str, float], settings: FusionSettings) -> bool:
    """Returns whether a label must not be shown as an answer: its confidence or its lead is too small.

    Args:
        label: The headline.
        confidence: Confidence in the label after fusion, 0 to 1.
        scores: Probability of each label, before fusion.
        settings: Thresholds. The lead is rounded to nine decimals, so that 0.55 leads 0.45 by 0.1.
    """
    second = max((score for name, score in scores.items() if name != label), default=0.0)
    return confidence < settings.uncertain or round(scores[label] - second, 9) <= settings.lead


def _shade(label: str, dimensions: Dimensions | None, label_set: str) -> Shade | None:
    shades = taxonomy.shades(label, dimensions, label_set)
    return Shade(*next(iter(shades.items()))) if shades else None


def _agreement(polarity: str | None, valence_level: str) -> str:
    if {polarity, valence_level} == {"positive", "negative"}:
        return "disagree"
    return "agree" if polarity == valence_level != "neutral" else "neutral"


def _valence_level(valence: float, settings: FusionSettings) -> str:
    if valence < settings.valence_negative:
        return "negative"
    return "positive" if valence > settings.valence_positive else "neutral"


def _arousal_level(arousal: float, settings: FusionSettings) -> str:
    if arousal < settings.arousal_low:
        return "low"
    return "high" if arousal > settings.arousal_high else "moderate"


def voice_intensity(arousal: float, settings: FusionSettings) -> str:
    """Returns the intensity of a voice for its measured arousal: `low`, `mild`, `moderate` or `high`."""
    if arousal < settings.intensity_mild:
        return "low"
    if arousal < settings.intensity_moderate:
        return "mild"
    return "high" if arousal > settings.intensity_high else "moderate"

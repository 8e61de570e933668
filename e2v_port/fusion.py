"""One judgement from a categorical and a dimensional model, or from either alone."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from e2v_port import emotions
from e2v_port.emotions import Dimensions
from e2v_port.model import Prediction

__all__ = ["MEASURED", "FusionSettings", "Judgement", "fuse"]

MEASURED = frozenset({"model", "prosody", "model and prosody"})  # of `Judgement.dimensions_from`: not from labels


@dataclass(frozen=True)
class FusionSettings:
    """Every number of the fusion.

    All of them come from the deployed two-model pipeline (emotion2vec+ large with audeering's model), where they were
    set on conversational English. Arousal, dominance and valence are on audeering's scale, 0 to 1; confidence is a
    probability; factors have no unit.

    Attributes:
        boost: Factor of the confidence where label and valence agree.
        penalty: Factor where they contradict each other.
        clip: Highest confidence after that factor.
        short_seconds: Clips shorter than this, in seconds, count less: annotators of MSP-Podcast heard 2.75 s or
            more.
        short_factor: Factor of the confidence for them, a reduction by 30 %.
        intensity_mild: Arousal from which on the intensity is mild; low below.
        intensity_moderate: Arousal from which on it is moderate.
        intensity_high: Arousal above which it is high.
        valence_negative: Valence below which it is negative.
        valence_positive: Valence above which it is positive; neutral between the two, both ends included.
        arousal_low: Arousal below which it is low.
        arousal_high: Arousal above which it is high; moderate between the two, both ends included.
        compound_low: Arousal and dominance up to and including which they are low in the compound table.
        compound_high: Arousal and dominance above which they are high there.
        elevated_arousal: Arousal above which a neutral label gets a note: it may be an emotion that was missed. The
            categorical model then says less than the voice does.
        uncertain: Confidence below which a judgement gets a note: not to be shown without saying so.
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
    compound_low: float = emotions.LOW
    compound_high: float = emotions.HIGH
    elevated_arousal: float = 0.6
    uncertain: float = 0.3

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that are not finite, bands out of order, or factors that turn things round."""
        orders = (
            ("intensity_mild", "intensity_moderate", "intensity_high"),
            ("valence_negative", "valence_positive"),
            ("arousal_low", "arousal_high"),
            ("compound_low", "compound_high"),
        )
        for names in orders:
            values = [getattr(self, name) for name in names]
            if values != sorted(values):
                raise ValueError(f"{' <= '.join(names)} must hold, not {values}")
        for field in fields(self):
            if not math.isfinite(getattr(self, field.name)):
                raise ValueError(f"{field.name} must be a finite number")
        if not (0 <= self.penalty <= 1 <= self.boost and 0 <= self.short_factor <= 1 and 0 < self.clip <= 1):
            raise ValueError("0 <= penalty <= 1 <= boost, 0 <= short_factor <= 1 and 0 < clip <= 1 must hold")


@dataclass(frozen=True)
class Judgement:
    """What the models together say of one clip. What no model said, and nothing follows from, is None.

    Attributes:
        primary: The most probable label of the categorical model.
        confidence: Its probability after agreement and duration are taken into account, 0 to 1.
        agreement: `agree` where label and valence are both positive or both negative, `disagree` where they are
            opposite, `neutral` where one of them is neither; None unless both models spoke and the labels are known.
        intensity: Of the voice, by its arousal: `low`, `mild`, `moderate` or `high`.
        valence_level: `negative`, `neutral` or `positive`.
        arousal_level: `low`, `moderate` or `high`.
        compound: The primary label refined by arousal and dominance, e.g. `resentment`; None too for labels that have
            no row in the table.
        octant: Mehrabian's name for the octant of the three dimensions.
        distribution: Probability of each of the 26 emotions; None if only unknown labels spoke.
        notes: Any of `elevated arousal`, `short` and `uncertain`, in this order.
        sources: What spoke: `categorical`, `dimensional` or both models in this order; behind them `prosodic`, where
            measures of the voice had their share, see `e2v_port.detector`.
        scores: Probabilities of the categorical model's labels.
        dimensions: Raw outputs of the dimensional model; without one, `emotions.expected` of the scores.
        dimensions_from: Where they are from: `model`, measured in the voice; `labels`, derived from the scores, of
            which they are another form; None where there are none. Of derived ones nothing else here follows. With
            prosody it is `prosody`, `model and prosody` or, mostly derived, `labels and prosody`.
    """

    primary: str | None
    confidence: float | None
    agreement: str | None
    intensity: str | None
    valence_level: str | None
    arousal_level: str | None
    compound: str | None
    octant: str | None
    distribution: Mapping[str, float] | None
    notes: tuple[str, ...]
    sources: tuple[str, ...]
    scores: Mapping[str, float] | None
    dimensions: Dimensions | None
    dimensions_from: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return asdict(self) | {"notes": list(self.notes), "sources": list(self.sources)}


def fuse(
    prediction: Prediction | None,
    dimensions: Dimensions | None,
    duration: float,
    settings: FusionSettings | None = None,
    *,
    label_set: str | None = "emotion2vec",
) -> Judgement:
    """Fuses what two models say of one clip, or tells what one of them says alone.

    The label is the categorical model's; the dimensional model never changes it. Where label and valence are both
    positive or both negative, the label's probability is raised by the boost and clipped; where they are opposite, it
    is lowered by the penalty; a neutral or ambiguous one leaves it. A short clip then lowers it further. Without
    dimensions there are no levels, no compound and no octant; without a prediction there is no label, and so no
    confidence: a dimensional model gives none.

    Dimensions that no model measured are derived from the scores and marked (`Judgement.dimensions_from`). They are no
    second opinion, so that all else is as without dimensions. That there are no levels and no octant of them, either,
    is since the thresholds are those of measured voices: a certain `neutral` would have positive valence.

    Args:
        prediction: Of the categorical model, or None.
        dimensions: Of the dimensional model, or None.
        duration: Of the clip, in seconds.
        settings: Other thresholds than the default ones.
        label_set: Which of `emotions.label_sets()` the labels are from; None for labels of a model of one's own: they
            then have no polarity, no compound, no share in the distribution and no dimensions.

    Raises:
        ValueError: Neither model spoke, the duration is no duration, or a label is not in the set.
    """
    settings = settings or FusionSettings()
    if prediction is None and dimensions is None:
        raise ValueError("neither a prediction nor dimensions: at least one model must have spoken")
    if not (math.isfinite(duration) and duration >= 0):
        raise ValueError(f"a duration is 0 or more seconds, not {duration!r}")
    meaning = None if prediction is None or label_set is None else emotions.meaning(prediction.label, label_set)

    valence_level = arousal_level = intensity = octant = agreement = compound = None
    if dimensions is not None:
        valence_level = _valence_level(dimensions.valence, settings)
        arousal_level = _arousal_level(dimensions.arousal, settings)
        intensity = _intensity(dimensions.arousal, settings)
        octant = emotions.octant(dimensions)
        if meaning is not None:
            agreement = _agreement(meaning.polarity, valence_level)
            if meaning.compound is not None:
                low, high = settings.compound_low, settings.compound_high
                compound = emotions.compound(meaning.compound, dimensions, low, high).label

    confidence = None
    if prediction is not None:
        factor = {"agree": settings.boost, "disagree": settings.penalty}.get(agreement or "neutral", 1.0)
        confidence = min(prediction.confidence * factor, settings.clip)
        if duration < settings.short_seconds:
            confidence *= settings.short_factor  # after the clip, so that it is always a reduction by the whole factor

    scores = None if prediction is None else dict(prediction.scores)
    distribution = None
    if label_set is not None:
        distribution = emotions.distribution(scores, dimensions, label_set)
    elif dimensions is not None:
        distribution = emotions.distribution(None, dimensions)

    neutral = meaning is not None and meaning.polarity == "neutral"
    elevated = neutral and dimensions is not None and dimensions.arousal > settings.elevated_arousal
    notes = {
        "elevated arousal": elevated,
        "short": duration < settings.short_seconds,
        "uncertain": confidence is not None and confidence < settings.uncertain,
    }
    sources = {"categorical": prediction is not None, "dimensional": dimensions is not None}

    dimensions_from = "model" if dimensions else None
    if dimensions is None and scores is not None and label_set is not None:
        dimensions, dimensions_from = emotions.expected(scores, label_set), "labels"  # shown, and no more
    return Judgement(
        primary=None if prediction is None else prediction.label,
        confidence=confidence,
        agreement=agreement,
        intensity=intensity,
        valence_level=valence_level,
        arousal_level=arousal_level,
        compound=compound,
        octant=octant,
        distribution=distribution,
        notes=tuple(note for note, holds in notes.items() if holds),
        sources=tuple(source for source, spoke in sources.items() if spoke),
        scores=scores,
        dimensions=dimensions,
        dimensions_from=dimensions_from,
    )


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


def _intensity(arousal: float, settings: FusionSettings) -> str:
    if arousal < settings.intensity_mild:
        return "low"
    if arousal < settings.intensity_moderate:
        return "mild"
    return "high" if arousal > settings.intensity_high else "moderate"

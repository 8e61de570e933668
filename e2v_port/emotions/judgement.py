"""The judgement of one clip: its headline, the shade of it and what follows from them, as Python and as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions

__all__ = ["ADAPTED", "COLUMNS", "MEASURED", "Judgement", "Shade", "also", "columns", "rivals"]

MEASURED = frozenset({"model", "prosody", "model and prosody"})
"""Values of `Judgement.dimensions_from` for dimensions measured in the voice rather than derived from labels."""

ADAPTED = "adapted"
"""Note of a judgement from which the offset of a known voice was taken off: see `e2v_port.emotions.adaptation`."""

_ALSO = 0.5  # a second label is named if it has at least this share of the first one's probability; heuristic


@dataclass(frozen=True)
class Shade:
    """The emotion of the 26 that a label most probably means in this voice.

    Attributes:
        name: One of the 26 emotions, always one that the label can mean.
        probability: P(name | label, measured dimensions), 0 to 1: how likely this shade is if the label is right. It
            is no confidence in the label, and the two cannot be compared.
    """

    name: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Returns the two values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Judgement:
    """The estimate of how a voice sounds. Fields that no model provided and none could be derived from are None.

    `to_dict` uses the names of the JSON dialect (docs/json.md), which differ from the attributes in five places:
    `valence_level` is `valence` there, `arousal_level` is `arousal`, `scores` is `e2v_scores`, `dimensions` is
    `avd_scores` and `dimensions_from` is `avd_from`.

    Attributes:
        primary: The most probable label of the categorical model: the headline. None without such a model.
        confidence: Probability of that label after agreement and duration are taken into account, 0 to 1. None
            without a label: no number stands for an octant.
        agreement: `agree` where label and valence are both positive or both negative, `disagree` where they are
            opposite, `neutral` where one of them is neither; None unless both models ran and the labels are known.
        intensity: Intensity of the voice, by its arousal: `low`, `mild`, `moderate` or `high`.
        valence_level: `negative`, `neutral` or `positive`.
        arousal_level: `low`, `moderate` or `high`.
        compound: The primary label refined by arousal and dominance, e.g. `resentment`; None also for labels without
            a row in the table and where the confidence is below `FusionSettings.compound_confidence`.
        octant: Mehrabian's name for the octant of the three dimensions.
        distribution: Probability of each of the 26 emotions, over all labels; None if only unknown labels spoke.
        notes: Any of `elevated arousal`, `short`, `noisy`, `uncertain`, `adapted` and `overlap`, in this order, then
            `music`, `singing`, `laughter` and `applause` where such an event covers the speech. `uncertain` is doubt
            about the label, not the emotion of that name: see `words`.
        sources: Inputs of the judgement: `categorical`, `dimensional` or both models in this order, then `prosodic`
            where measures of the voice contributed (see `e2v_port.live.detector`).
        scores: Probabilities of the categorical model's labels.
        dimensions: Raw outputs of the dimensional model; without one, `taxonomy.expected` of the scores.
        dimensions_from: Source of the dimensions: `model`, measured in the voice; `labels`, derived from the scores,
            of which they are another form; None where there are none. Nothing else here follows from derived ones.
            With prosody it is `prosody`, `model and prosody` or, mostly derived, `labels and prosody`.
        shade: The finer emotion that the primary label means here; None without a label, for labels that name no
            emotion (`other`, `unknown`) and for labels of a model's own.
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
    shade: Shade | None = None

    @property
    def headline(self) -> str:
        """The word that stands for the whole judgement: the label, or the octant where there is no label."""
        return self.primary or self.octant or ""

    @property
    def doubtful(self) -> bool:
        """Whether the headline is no answer: it has the note `uncertain`."""
        return "uncertain" in self.notes

    @property
    def rivals(self) -> str:
        """What a doubtful voice may sound like: `angry or disgusted`, `perhaps angry`; see `rivals`."""
        return rivals(self.headline, self.scores or {})

    @property
    def words(self) -> str:
        """The headline as people read it; with doubt in words where there is doubt: `unclear: angry or disgusted`."""
        return f"unclear: {self.rivals}" if self.doubtful else self.headline

    @property
    def finer(self) -> Shade | None:
        """The shade where it says more than the headline: dimensions were measured, and it has a name of its own."""
        measured = self.dimensions_from in MEASURED and not self.doubtful
        return self.shade if measured and self.shade and self.shade.name != str(self.primary).casefold() else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `emotion` object of the JSON dialect: plain dicts, lists, strings and floats."""
        return {
            "primary": self.primary,
            "confidence": self.confidence,
            "shade": self.shade.to_dict() if self.shade else None,
            "intensity": self.intensity,
            "valence": self.valence_level,
            "arousal": self.arousal_level,
            "compound": self.compound,
            "octant": self.octant,
            "agreement": self.agreement,
            "notes": list(self.notes),
            "sources": list(self.sources),
            "e2v_scores": None if self.scores is None else dict(self.scores),
            "avd_scores": self.dimensions.to_dict() if self.dimensions else None,
            "avd_from": self.dimensions_from,
            "distribution": None if self.distribution is None else dict(self.distribution),
        }


def also(label: str, scores: Mapping[str, float]) -> str | None:
    """Returns the second label worth naming beside `label`; None if no other emotion has half its probability."""
    others = (name for name in scores if name != label and taxonomy.names_emotion(name))
    second = max(others, key=lambda name: scores[name], default=None)
    return second if second is not None and scores[second] >= _ALSO * scores.get(label, 0.0) else None


def rivals(label: str, scores: Mapping[str, float]) -> str:
    """Returns the labels of a doubtful headline in words: `angry or disgusted`; `perhaps angry` for one alone.

    Args:
        label: The headline. If it names no emotion (`other`, `unknown`), it is left out.
        scores: Probability of each label, the headline included.
    """
    names = [name for name in (label, also(label, scores)) if name and taxonomy.names_emotion(name)]
    return " or ".join(names) if len(names) > 1 else f"perhaps {names[0]}" if names else "no emotion stands out"


COLUMNS = (
    "primary",
    "confidence",
    "shade",
    "shade_probability",
    "intensity",
    "valence",
    "arousal",
    "compound",
    "octant",
    "agreement",
    "avd_arousal",
    "avd_dominance",
    "avd_valence",
    "avd_from",
)
"""Columns of a judgement in every table, in order; `e2v_<label>` and `distribution_<emotion>` follow them."""

_PREFIXES = {"e2v_scores": "e2v", "avd_scores": "avd", "distribution": "distribution"}


def columns(emotion: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens an `emotion` object of the JSON dialect into cells of a table.

    Nested names are joined: `shade` and `shade_probability`, `avd_arousal`, `e2v_angry`, `distribution_calm`. Lists
    (`notes`, `sources`) have no column.

    Args:
        emotion: All keys of `Judgement.to_dict`, or some.
    """
    cells: dict[str, Any] = {}
    for name, value in emotion.items():
        if name == "shade":
            shade = value or {}
            cells |= {"shade": shade.get("name"), "shade_probability": shade.get("probability")}
        elif prefix := _PREFIXES.get(name):
            cells |= {f"{prefix}_{key}": number for key, number in (value or {}).items()}
        elif not isinstance(value, list | tuple):
            cells[name] = value
    return cells

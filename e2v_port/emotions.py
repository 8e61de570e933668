"""The 26 emotions and what labels and dimensions mean in them: reads the tables of taxonomy/, see docs/taxonomy.md."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = [
    "HIGH",
    "LOW",
    "Compound",
    "Dimensions",
    "Emotion",
    "Meaning",
    "colour",
    "compound",
    "distribution",
    "emotion",
    "emotions",
    "expected",
    "intensity",
    "label_sets",
    "labels",
    "level",
    "likely_emotions",
    "meaning",
    "octant",
    "table",
]

# Levels of arousal and dominance in the compound table, 0 to 1: the deployed two-model pipeline these settings come
# from. Neutral speech of MSP-Podcast lies at 0.45 to 0.55; tighter bands change label too often.
LOW = 0.40  # low up to and including it
HIGH = 0.60  # high above it


@dataclass(frozen=True)
class Dimensions:
    """What a dimensional model says of one clip.

    Raw outputs: nominally 0 to 1 with 0.5 in the middle, but a little outside is possible and is kept.

    Attributes:
        arousal: From calm, 0, to activated, 1.
        dominance: From controlled, 0, to in control, 1.
        valence: From unpleasant, 0, over neutral, 0.5, to pleasant, 1.
    """

    arousal: float
    dominance: float
    valence: float

    def __post_init__(self) -> None:
        """Raises ValueError for what is no number: nothing can be said of it."""
        if not all(map(math.isfinite, (self.arousal, self.dominance, self.valence))):
            raise ValueError(f"arousal, dominance and valence must be finite numbers: {self}")

    def to_dict(self) -> dict[str, float]:
        """Returns the three values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Emotion:
    """One of the 26.

    Attributes:
        name: E.g. `anxious`.
        group: `negative_activated`, `negative_deactivated`, `positive_activated`, `positive_deactivated` or
            `neutral`.
        valence: -1 to 1.
        arousal: 0 to 1.
        dominance: 0 to 1.
        colour: `#rrggbb`, at least 3:1 in contrast to white and to black.
        source: Where the coordinates come from.
    """

    name: str
    group: str
    valence: float
    arousal: float
    dominance: float
    colour: str
    source: str

    @property
    def dimensions(self) -> Dimensions:
        """Its place on the scales of the dimensional models, where valence runs from 0 to 1."""
        return Dimensions(self.arousal, self.dominance, (self.valence + 1) / 2)


@dataclass(frozen=True)
class Meaning:
    """What a label means.

    Attributes:
        name: Of its class, e.g. `disgusted` for the label `DIS`.
        polarity: `positive`, `negative` or `neutral`; None where it may be pleasant or not.
        compound: Its row of the compound table, one of emotion2vec's labels; None if it has none.
        weights: Probability of each of the 26 given this label, the highest first; those without any are left out.
    """

    name: str
    polarity: str | None
    compound: str | None
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Compound:
    """A name for a primary emotion at a level of arousal and of dominance.

    Attributes:
        label: E.g. `resentment`.
        description: In a few words.
        own: True where the published table has no row and this package completes it.
    """

    label: str
    description: str
    own: bool


@cache
def table(name: str) -> dict[str, Any]:
    """Returns a file of taxonomy/ by its name without `.json`. It is read once and shared: not to be changed."""
    content: dict[str, Any] = json.loads(files("e2v_port.taxonomy").joinpath(f"{name}.json").read_text("utf-8"))
    return content


def _look_up(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        raise ValueError(f"no {what} is called {name!r}; known: {', '.join(known)}")
    return known[name]


@cache
def emotions() -> tuple[Emotion, ...]:
    """Returns the 26 emotions, group by group."""
    return tuple(Emotion(**row) for row in table("emotions")["emotions"])


def emotion(name: str) -> Emotion:
    """Returns the emotion of this name; ValueError if it is none of the 26."""
    found: Emotion = _look_up("emotion", name, {entry.name: entry for entry in emotions()})
    return found


def label_sets() -> tuple[str, ...]:
    """Returns the names of the known sets of labels: of emotion2vec, of corpora, of classifiers, Plutchik's."""
    return tuple(table("labels")["label_sets"])


def labels(label_set: str) -> tuple[str, ...]:
    """Returns the labels of a set, other spellings included; ValueError for an unknown set."""
    return tuple(_look_up("label set", label_set, table("labels")["label_sets"])["labels"])


def meaning(label: str, label_set: str = "emotion2vec") -> Meaning:
    """Returns what a label of a set means; ValueError for an unknown label or set."""
    classes = _look_up("label set", label_set, table("labels")["label_sets"])["labels"]
    name = _look_up(f"label of {label_set}", label, classes)
    row = table("labels")["classes"][name]
    return Meaning(name, row["polarity"], row["compound"], dict(row["weights"]))


def colour(label: str, label_set: str = "emotion2vec") -> str:
    """Returns the colour of a label: that of the emotion it most probably means; ValueError as for `meaning`."""
    weights = meaning(label, label_set).weights
    return emotion(max(weights, key=weights.__getitem__)).colour


def level(value: float, low: float = LOW, high: float = HIGH) -> str:
    """Returns `low` (up to and including the lower threshold), `high` (above the upper one) or `moderate`."""
    return "low" if value <= low else "high" if value > high else "moderate"


def compound(primary: str, dimensions: Dimensions, low: float = LOW, high: float = HIGH) -> Compound:
    """Names a primary emotion at the arousal and dominance it is spoken with.

    Args:
        primary: A label of emotion2vec.
        dimensions: Of the same clip; valence plays no part.
        low: Threshold of `level` for arousal and dominance.
        high: The other one.

    Raises:
        ValueError: `primary` is no label of emotion2vec.
    """
    key = (level(dimensions.arousal, low, high), level(dimensions.dominance, low, high))
    found: Compound = _look_up("primary emotion", primary, _compounds())[key]
    return found


@cache
def _compounds() -> dict[str, dict[tuple[str, str], Compound]]:
    compounds: dict[str, dict[tuple[str, str], Compound]] = {}
    for row in table("compounds")["compounds"]:
        found = Compound(row["label"], row["description"], row["own"])
        compounds.setdefault(row["primary"], {})[row["arousal"], row["dominance"]] = found
    return compounds


def octant(dimensions: Dimensions) -> str:
    """Returns Mehrabian's name (1996) for the octant of the space, e.g. `hostile`.

    A value is on the upper side above 0.5; exactly 0.5 counts as the lower side.
    """
    boundary = table("dimensions")["octant_boundary"]
    signs = (
        "+" if dimensions.valence > boundary else "-",
        "high" if dimensions.arousal > boundary else "low",
        "high" if dimensions.dominance > boundary else "low",
    )
    rows = table("dimensions")["octants"]
    return str(next(row["name"] for row in rows if (row["valence"], row["arousal"], row["dominance"]) == signs))


def likely_emotions(dimensions: Dimensions) -> tuple[str, ...]:
    """Returns the emotions of the quadrant of valence and arousal that fit the dominance, the likeliest first.

    Russell's circumplex (1980) with Mehrabian's third axis: what is unpleasant and activated is rather anxious at low
    dominance and rather angry at high dominance. The whole quadrant comes back at moderate dominance.
    """
    quadrants = table("dimensions")["quadrants"]
    if dimensions.valence < quadrants["valence"]["negative_below"]:
        sign = "negative_"
    elif dimensions.valence > quadrants["valence"]["positive_above"]:
        sign = "positive_"
    else:
        return tuple(quadrants["likely"]["neutral"][level(dimensions.dominance)])
    activated = dimensions.arousal > quadrants["arousal"]["activated_above"]
    quadrant = sign + ("activated" if activated else "deactivated")
    return tuple(quadrants["likely"][quadrant][level(dimensions.dominance)])


def intensity(score: float) -> str:
    """Returns `slight`, `moderate`, `strong` or `intense` for an emotion's score, 0 to 1, in quarters of the scale.

    This is the taxonomy's wording for one emotion. The intensity in a Judgement is another one, of the voice: it
    follows arousal and has bands of its own.
    """
    if not math.isfinite(score):
        raise ValueError(f"a score must be a finite number, not {score!r}")
    names: list[dict[str, Any]] = table("dimensions")["intensities"]
    fitting = [str(row["name"]) for row in names if score >= row["from"]]
    return fitting[-1] if fitting else str(names[0]["name"])


def distribution(
    scores: Mapping[str, float] | None = None,
    dimensions: Dimensions | None = None,
    label_set: str = "emotion2vec",
) -> dict[str, float]:
    """Maps what a categorical model, a dimensional model or both say to probabilities of the 26.

    With k(e) = exp(-d(e)² / 2w²), where d is the distance between the dimensions and the place of emotion e, on
    scales 0 to 1, and w is 0.2, the probability of e is proportional to

        Σ score(label) · weight(e | label)              from scores alone,
        k(e)                                            from dimensions alone,
        Σ score(label) · weight(e | label) · k(e)       from both.

    This is Bayes' rule for two models that err independently of each other, given the emotion: the labels say which
    emotions are possible, the dimensions choose among them. An emotion that no scored label can mean stays at 0.

    Args:
        scores: Probability of labels, 0 or more; they are brought to a sum of 1.
        dimensions: Raw outputs; values outside 0 to 1 count as the end of the scale.
        label_set: Where the labels are from, one of `label_sets`.

    Returns:
        The probability of each of the 26, in their order, summing to 1.

    Raises:
        ValueError: Neither is given, a label is unknown, or the scores are no probabilities.
    """
    if scores is None and dimensions is None:
        raise ValueError("scores of labels, dimensions, or both are needed: without them there is nothing to map")
    masses = {entry.name: 1.0 for entry in emotions()} if scores is None else _masses(scores, label_set)
    if dimensions is not None:
        width = table("dimensions")["kernel"]["width"]
        for entry in emotions():
            masses[entry.name] *= math.exp(-_squared_distance(dimensions, entry.dimensions) / (2 * width**2))
    total = math.fsum(masses.values())
    return {name: mass / total for name, mass in masses.items()}


def expected(scores: Mapping[str, float], label_set: str = "emotion2vec") -> Dimensions:
    """Derives dimensions from labels alone: where in the space, on average, the emotions lie that the labels can mean.

    With P = distribution(scores, None, label_set), each of the three values is Σ P(e) · value(e), the mean of a random
    variable; `Emotion.dimensions` are the places of the 26, from Russell & Mehrabian (1977).

    Nothing is measured: two voices with the same scores get the same values, however loud or quiet they are. The values
    lie between those of the 26: arousal 0.19 to 0.91, dominance 0.28 to 0.81, valence 0.14 to 0.91; the less certain
    the label, the nearer to the middle.

    Args:
        scores: As for `distribution`.
        label_set: As for `distribution`.

    Raises:
        ValueError: As for `distribution`.
    """
    shares = distribution(scores, None, label_set)
    places = _places()
    names = ("arousal", "dominance", "valence")
    return Dimensions(**{name: math.fsum(shares[e] * places[e][name] for e in shares) for name in names})


@cache
def _places() -> dict[str, dict[str, float]]:
    return {entry.name: entry.dimensions.to_dict() for entry in emotions()}


def _masses(scores: Mapping[str, float], label_set: str) -> dict[str, float]:
    total = sum(scores.values())
    if not (math.isfinite(total) and total > 0 and all(score >= 0 for score in scores.values())):
        raise ValueError(f"scores must be 0 or more and not all 0: {dict(scores)}")
    masses = {entry.name: 0.0 for entry in emotions()}
    for label, score in scores.items():
        for name, weight in meaning(label, label_set).weights.items():
            masses[name] += score / total * weight
    return masses


def _squared_distance(a: Dimensions, b: Dimensions) -> float:
    pairs = ((a.arousal, b.arousal), (a.dominance, b.dominance), (a.valence, b.valence))
    return math.fsum((min(max(x, 0.0), 1.0) - y) ** 2 for x, y in pairs)

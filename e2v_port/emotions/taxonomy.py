"""The 26 emotions, and the meaning of labels and dimensions: reads the tables of taxonomy/, see docs/taxonomy.md."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from e2v_port.emotions.estimates import Dimensions
from e2v_port.errors import need, number, quoted

__all__ = [
    "HIGH",
    "LOW",
    "NO_EMOTION",
    "Compound",
    "Emotion",
    "Meaning",
    "colour",
    "compound",
    "distribution",
    "emotion",
    "emotions",
    "expected",
    "intensity",
    "label_set_of",
    "label_sets",
    "labels",
    "level",
    "likely_emotions",
    "meaning",
    "names_emotion",
    "octant",
    "octants",
    "shades",
    "table",
]

# Levels of arousal and dominance in the compound table, 0 to 1: the deployed two-model pipeline these settings come
# from. Neutral speech of MSP-Podcast lies at 0.45 to 0.55; tighter bands change label too often.
LOW = 0.40  # low up to and including it
HIGH = 0.60  # high above it

NO_EMOTION = frozenset({"other", "unknown"})
"""Classes of labels that name no emotion: the model heard none of those it knows."""


@dataclass(frozen=True)
class Emotion:
    """One of the 26 emotions.

    Attributes:
        name: Name, e.g. `anxious`.
        group: `negative_activated`, `negative_deactivated`, `positive_activated`, `positive_deactivated` or
            `neutral`.
        valence: Valence, -1 to 1.
        arousal: Arousal, 0 to 1.
        dominance: Dominance, 0 to 1.
        colour: Color as `#rrggbb`, with a contrast of at least 3:1 to white and to black.
        source: Source of the coordinates.
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
        """Coordinates on the scales of the dimensional models, where valence runs from 0 to 1."""
        return Dimensions(self.arousal, self.dominance, (self.valence + 1) / 2)


@dataclass(frozen=True)
class Meaning:
    """The meaning of a label.

    Attributes:
        name: Class of the label, e.g. `disgusted` for the label `DIS`.
        polarity: `positive`, `negative` or `neutral`; None where it may be pleasant or not.
        compound: Row of the compound table, named by one of emotion2vec's labels; None if there is none.
        weights: Probability of each emotion given this label, highest first, without those of probability 0.
    """

    name: str
    polarity: str | None
    compound: str | None
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Compound:
    """A name for a label at a level of arousal and of dominance.

    Attributes:
        label: Name, e.g. `resentment`.
        description: Description in a few words.
        own: True if this package added the row; False if it is in the published table.
    """

    label: str
    description: str
    own: bool


@cache
def table(name: str) -> dict[str, Any]:
    """Returns a file of taxonomy/ by its name without `.json`. It is read once and shared: do not change it."""
    content: dict[str, Any] = json.loads(files("e2v_port.taxonomy").joinpath(f"{name}.json").read_text("utf-8"))
    return content


def _look_up(what: str, name: str, known: Mapping[str, Any]) -> Any:
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"no {what} is called {quoted(name)}; known: {', '.join(known)}")
    return known[name]


@cache
def emotions() -> tuple[Emotion, ...]:
    """Returns the 26 emotions, group by group."""
    return tuple(Emotion(**row) for row in table("emotions")["emotions"])


def emotion(name: str) -> Emotion:
    """Returns the emotion of this name. Raises ValueError if it is not one of the 26."""
    found: Emotion = _look_up("emotion", name, {entry.name: entry for entry in emotions()})
    return found


def label_sets() -> tuple[str, ...]:
    """Returns the names of the known label sets: those of models and corpora, Plutchik's, and common `words`."""
    return tuple(table("labels")["label_sets"])


def labels(label_set: str) -> tuple[str, ...]:
    """Returns the labels of a set, other spellings included; ValueError for an unknown set."""
    return tuple(_look_up("label set", label_set, table("labels")["label_sets"])["labels"])


def meaning(label: str, label_set: str = "emotion2vec") -> Meaning:
    """Returns the meaning of a label. Raises ValueError for an unknown label or set.

    Case does not matter, except for single letters.
    """
    classes = _look_up("label set", label_set, table("labels")["label_sets"])["labels"]
    name = _class(label, label_set) or _look_up(f"label of {label_set}", label, classes)
    row = table("labels")["classes"][name]
    return Meaning(name, row["polarity"], row["compound"], dict(row["weights"]))


@cache
def names_emotion(label: str) -> bool:
    """Returns whether a label of any model names an emotion: False for `other`, `Unknown`, `xxx` and the like."""
    label_set = label_set_of((label,))
    return label_set is None or meaning(label, label_set).name not in NO_EMOTION


def _class(label: str, label_set: str) -> str | None:
    """Returns the class of a label of a set, whatever its case; None if it is not in the set."""
    if not isinstance(label, str):
        return None
    exact: dict[str, str] = table("labels")["label_sets"][label_set]["labels"]
    return exact.get(label) or (_folded(label_set).get(label.casefold()) if len(label) > 1 else None)


@cache
def _folded(label_set: str) -> dict[str, str]:
    """Returns the classes of a set by its words in lower case; single letters differ between sets, and are left out."""
    exact = table("labels")["label_sets"][label_set]["labels"]
    return {label.casefold(): name for label, name in exact.items() if len(label) > 1}


def colour(label: str, label_set: str = "emotion2vec") -> str:
    """Returns the color of the emotion that a label most probably means. Raises ValueError as `meaning` does."""
    weights = meaning(label, label_set).weights
    return emotion(max(weights, key=weights.__getitem__)).colour


def level(value: float, low: float = LOW, high: float = HIGH) -> str:
    """Returns `low` (up to the lower threshold, inclusive), `high` (above the upper one) or `moderate`."""
    return "low" if value <= low else "high" if value > high else "moderate"


def compound(primary: str, dimensions: Dimensions, low: float = LOW, high: float = HIGH) -> Compound:
    """Returns the name of a label at the measured arousal and dominance.

    Args:
        primary: Label of emotion2vec.
        dimensions: Dimensions of the same clip; valence is ignored.
        low: Lower threshold of `level` for arousal and dominance.
        high: Upper threshold of `level` for arousal and dominance.

    Raises:
        ValueError: `primary` is not a label of emotion2vec.
    """
    need("dimensions", dimensions, Dimensions)
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
    """Returns Mehrabian's name (1996) for the octant of the three dimensions, e.g. `hostile`.

    Values above 0.5 count as the upper side; exactly 0.5 counts as the lower side.
    """
    need("dimensions", dimensions, Dimensions)
    boundary = table("dimensions")["octant_boundary"]
    signs = (
        "+" if dimensions.valence > boundary else "-",
        "high" if dimensions.arousal > boundary else "low",
        "high" if dimensions.dominance > boundary else "low",
    )
    rows = table("dimensions")["octants"]
    return str(next(row["name"] for row in rows if (row["valence"], row["arousal"], row["dominance"]) == signs))


def octants() -> tuple[str, ...]:
    """Returns the names of the eight octants."""
    return tuple(row["name"] for row in table("dimensions")["octants"])


def likely_emotions(dimensions: Dimensions) -> tuple[str, ...]:
    """Returns the emotions in the quadrant of valence and arousal that fit the dominance, likeliest first.

    Uses Russell's circumplex (1980) with Mehrabian's third axis: unpleasant activation is more likely anxious at low
    dominance and angry at high dominance. At moderate dominance the whole quadrant is returned.
    """
    need("dimensions", dimensions, Dimensions)
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
    """Returns `slight`, `moderate`, `strong` or `intense` for a score from 0 to 1, by quarters of the scale.

    This is the taxonomy's wording for the score of one emotion. The intensity in a Judgement is that of the voice: it
    follows arousal and has bands of its own.
    """
    score = number("a score", score)
    names: list[dict[str, Any]] = table("dimensions")["intensities"]
    fitting = [str(row["name"]) for row in names if score >= row["from"]]
    return fitting[-1] if fitting else str(names[0]["name"])


def distribution(
    scores: Mapping[str, float] | None = None,
    dimensions: Dimensions | None = None,
    label_set: str = "emotion2vec",
) -> dict[str, float]:
    """Maps the estimates of a categorical model, a dimensional model or both to probabilities of the 26 emotions.

    With k(e) = exp(-d(e)² / 2w²), where d is the distance between the dimensions and the coordinates of emotion e, on
    scales from 0 to 1, and w is 0.2, the probability of e is proportional to

        Σ score(label) · weight(e | label)              from scores alone,
        k(e)                                            from dimensions alone,
        Σ score(label) · weight(e | label) · k(e)       from both.

    This is Bayes' rule for two models whose errors are independent given the emotion: the labels decide which
    emotions are possible, the dimensions choose among them. An emotion that no scored label can mean stays at 0.

    Args:
        scores: Probabilities of labels, at least 0; they are normalized to a sum of 1.
        dimensions: Raw outputs; values outside 0 to 1 count as the end of the scale.
        label_set: Set that the labels belong to, one of `label_sets`.

    Returns:
        The probability of each of the 26 emotions, in their order, summing to 1.

    Raises:
        ValueError: Both are None, a label is unknown, or the scores are negative or all 0.
    """
    if scores is None and dimensions is None:
        raise ValueError("neither scores nor dimensions given: pass at least one of them")
    need("scores", scores, Mapping, None)
    need("dimensions", dimensions, Dimensions, None)
    masses = {entry.name: 1.0 for entry in emotions()} if scores is None else _masses(scores, label_set)
    if dimensions is not None:
        width = table("dimensions")["kernel"]["width"]
        for entry in emotions():
            masses[entry.name] *= math.exp(-_squared_distance(dimensions, entry.dimensions) / (2 * width**2))
    total = math.fsum(masses.values())
    return {name: mass / total for name, mass in masses.items()}


def shades(label: str, dimensions: Dimensions | None = None, label_set: str = "emotion2vec") -> dict[str, float]:
    """Returns the emotions of the 26 that a label can mean, with their probabilities given that label.

    P(e | label, dimensions) = weight(e | label) · k(e) / Σ over e' of weight(e' | label) · k(e'), with k as in
    `distribution`; without dimensions k is 1, and the probabilities are the label's weights in taxonomy/labels.json.
    This is `distribution` for a label that is certain: the label decides which emotions are possible, the dimensions
    choose among them. The weights and the width of k are heuristic (docs/taxonomy.md), so the probabilities rank the
    shades of one label; they are not calibrated.

    Args:
        label: A label of the set.
        dimensions: Measured values of the same voice; values outside 0 to 1 count as the end of the scale.
        label_set: Set that the label belongs to, one of `label_sets`.

    Returns:
        Probabilities that sum to 1, the highest first; empty for a label that names no emotion (`NO_EMOTION`).

    Raises:
        ValueError: The label or the set is unknown.
    """
    means = meaning(label, label_set)
    if means.name in NO_EMOTION:
        return {}
    chances = distribution({label: 1.0}, dimensions, label_set)
    return dict(sorted(((name, chances[name]) for name in means.weights), key=lambda item: -item[1]))


def expected(scores: Mapping[str, float], label_set: str = "emotion2vec") -> Dimensions:
    """Derives dimensions from labels alone: the mean coordinates of the emotions that the labels can mean.

    With P = distribution(scores, None, label_set), each of the three values is Σ P(e) · value(e), where value(e) are
    the coordinates of the 26 emotions (`Emotion.dimensions`), from Russell & Mehrabian (1977).

    Nothing is measured: two voices with the same scores get the same values, however loud or quiet they are. The
    values stay within those of the 26: arousal 0.19 to 0.91, dominance 0.28 to 0.81, valence 0.14 to 0.91. The less
    certain the label, the closer they are to the middle.

    Args:
        scores: Probabilities of labels, as for `distribution`.
        label_set: Set that the labels belong to, as for `distribution`.

    Raises:
        ValueError: The scores or labels are invalid, as for `distribution`.
    """
    shares = distribution(scores, None, label_set)
    places = _places()
    names = ("arousal", "dominance", "valence")
    return Dimensions(**{name: math.fsum(shares[e] * places[e][name] for e in shares) for name in names})


@cache
def _places() -> dict[str, dict[str, float]]:
    return {entry.name: entry.dimensions.to_dict() for entry in emotions()}


def _masses(scores: Mapping[str, float], label_set: str) -> dict[str, float]:
    try:
        total = sum(scores.values())
        good = math.isfinite(total) and total > 0 and all(score >= 0 for score in scores.values())
    except (TypeError, ValueError, OverflowError):  # of what is no number, of infinities, of sums beyond any float
        good = False
    if not good:
        raise ValueError(f"scores must be at least 0 and not all 0, not {quoted(scores)}")
    masses = {entry.name: 0.0 for entry in emotions()}
    for label, score in scores.items():
        for name, weight in meaning(label, label_set).weights.items():
            masses[name] += score / total * weight
    return masses


def _squared_distance(a: Dimensions, b: Dimensions) -> float:
    pairs = ((a.arousal, b.arousal), (a.dominance, b.dominance), (a.valence, b.valence))
    return math.fsum((min(max(x, 0.0), 1.0) - y) ** 2 for x, y in pairs)


def label_set_of(names: Iterable[str]) -> str | None:
    """Returns the label set that labels belong to.

    Case does not matter, except for single letters. If several sets hold the labels, they agree on every word, and the
    first is returned.

    Returns:
        A name of `label_sets`; None for labels that no set holds together, and for single letters that mean one thing
        in one set and another in the next.
    """
    return _label_set_of(tuple(names))


@cache
def _label_set_of(names: tuple[str, ...]) -> str | None:
    found = {label_set: [_class(name, label_set) for name in names] for label_set in label_sets()}
    fitting = {label_set: classes for label_set, classes in found.items() if None not in classes}
    one_meaning = len(set(map(tuple, fitting.values()))) == 1
    return next(iter(fitting)) if one_meaning else None

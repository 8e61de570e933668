"""The tables of taxonomy/ are complete and match their sources; emotions/taxonomy.py reads them as documented."""

import doctest
import json
import math
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions
from e2v_port.emotions.taxonomy import Compound

TABLES = (
    "emotions",
    "labels",
    "compounds",
    "dimensions",
    "emotion2vec",
    "corpora",
    "prosody",
    "replies",
    "safety",
    "tone_words",
)
LEVELS = ("low", "moderate", "high")
AT = {"low": 0.2, "moderate": 0.5, "high": 0.8}  # a value of each level

# The 26 categories in five groups, as the taxonomy's first version has them.
GROUPS = {
    "negative_activated": "anxious nervous frustrated angry stressed panicked impatient",
    "negative_deactivated": "sad tired bored disappointed lonely hopeless",
    "positive_activated": "excited happy playful flirty curious confident amused",
    "positive_deactivated": "calm content thoughtful affectionate",
    "neutral": "neutral confused",
}
NAMES = [name for names in GROUPS.values() for name in names.split()]

# Its mapping of emotion2vec's labels.
HEADS = {
    "angry": "angry",
    "disgusted": "frustrated",
    "fearful": "anxious",
    "happy": "happy",
    "neutral": "neutral",
    "other": "neutral",
    "sad": "sad",
    "surprised": "excited",
    "unknown": "neutral",
}

# The deployed pipeline's compound table: primary, arousal, dominance (neutral is the middle level), label, description.
COMPOUNDS = """
happy     | high         | high        | elation        | triumphant joy, peak positive
happy     | high         | low/neutral | excitement     | energized happiness, anticipation
happy     | moderate     | high        | pride          | satisfied achievement
happy     | moderate     | neutral/low | joy            | standard happiness
happy     | low          | high        | contentment    | peaceful satisfaction
happy     | low          | low         | relief         | tension release
happy     | low          | neutral     | serenity       | calm happiness
angry     | high         | high        | rage           | explosive, in control
angry     | high         | low/neutral | frustration    | blocked, not in control
angry     | moderate     | high        | irritation     | mild, dismissive anger
angry     | moderate     | low         | resentment     | simmering, powerless
angry     | low          | high        | contempt       | cold disdain
angry     | low          | low/neutral | bitterness     | lingering hurt
fearful   | high         | low         | panic          | acute, no escape
fearful   | high         | high/neutral| alarm          | alert, fight response
fearful   | moderate     | low         | anxiety        | persistent worry
fearful   | moderate     | neutral/high| nervousness    | mild apprehension
fearful   | low          | low         | dread          | anticipated doom
fearful   | low          | neutral/high| unease         | vague discomfort
sad       | high         | any         | grief          | acute loss
sad       | moderate     | low         | sadness        | standard sadness
sad       | moderate     | high        | disappointment | unmet expectations
sad       | low          | low         | melancholy     | deep, lingering
sad       | low          | high        | resignation    | accepted loss
sad       | low          | neutral     | wistfulness    | gentle longing
surprised | high         | high        | amazement      | positive awe
surprised | high         | low         | shock          | overwhelming
surprised | moderate     | high        | delight        | pleasant surprise
surprised | moderate     | low         | disbelief      | can't accept
surprised | moderate     | neutral     | curiosity      | wanting to understand
surprised | low          | any         | realization    | quiet understanding
disgusted | high         | high        | revulsion      | strong rejection
disgusted | high         | low         | horror         | disgusted + afraid
disgusted | moderate     | high        | contempt       | moral disgust
disgusted | low/moderate | low/neutral | aversion       | mild distaste
neutral   | low          | neutral     | neutral        | baseline
neutral   | low          | low         | disengaged     | checked out
neutral   | low          | high        | calm           | peaceful, grounded
neutral   | moderate     | high        | focused        | attentive, task-oriented
neutral   | moderate     | low         | uncertain      | wavering, undecided
"""

# Mehrabian's octants: valence, arousal, dominance.
OCTANTS = {
    ("+", "high", "high"): "exuberant",
    ("+", "high", "low"): "dependent",
    ("+", "low", "high"): "relaxed",
    ("+", "low", "low"): "docile",
    ("-", "high", "high"): "hostile",
    ("-", "high", "low"): "anxious",
    ("-", "low", "high"): "disdainful",
    ("-", "low", "low"): "bored",
}

LABEL_SETS = {  # the classes of each corpus and classifier, in the spelling of its files
    "emotion2vec": "angry disgusted fearful happy neutral other sad surprised unknown",
    "ravdess": "neutral calm happy sad angry fearful disgust surprised 01 02 03 04 05 06 07 08",
    "crema-d": "ANG DIS FEA HAP NEU SAD",
    "emodb": "W L E A F T N Wut Langeweile Ekel Angst Freude Trauer neutral",
    "nemo": "anger fear happiness sadness surprise neutral",
    "tess": "angry disgust fear happy neutral ps sad",
    "iemocap": "ang hap exc neu sad fru fea sur dis oth xxx",
    "msp-podcast": "A S H U F D C N O X",
    "superb": "neu hap ang sad",
    "meld": "neutral joy surprise anger sadness disgust fear",
    "emobox": "Angry Disgust Fear Happy Neutral Sad Surprise Contempt Other No-agreement Calm Sarcastic",
    "dpngtm": "angry calm disgust fear happy neutral sad surprise",
    "firdhokk": "angry disgust fearful happy neutral sad surprised",
    "odyssey": "Angry Sad Happy Surprise Fear Disgust Contempt Neutral",
    "vox-profile": "Anger Contempt Disgust Fear Happiness Neutral Sadness Surprise Other",
    "speechbrain": "neu ang hap sad a h n s",
    "sensevoice": "HAPPY SAD ANGRY NEUTRAL FEARFUL DISGUSTED SURPRISED other unknown EMO_UNKNOWN",
    "empathic-insight": "Affection Amusement Anger Astonishment_Surprise Awe Bitterness Concentration Confusion "
    "Contemplation Contempt Contentment Disappointment Disgust Distress Doubt Elation Embarrassment Emotional_Numbness "
    "Fatigue_Exhaustion Fear Helplessness Hope_Enthusiasm_Optimism Impatience_and_Irritability Infatuation Interest "
    "Intoxication_Altered_States_of_Consciousness Jealousy_&_Envy Longing Malevolence_Malice Pain Pleasure_Ecstasy "
    "Pride Relief Sadness Sexual_Lust Shame Sourness Teasing Thankfulness_Gratitude Triumph",
    "words": "angry anger joy calm bored contempt frustration excited tired",
    "ehcalabres": "angry calm disgust fearful happy neutral sad surprised",
    "plutchik": "joy trust fear surprise sadness disgust anger anticipation",
}

finite = st.floats(allow_nan=False, allow_infinity=False)
anywhere = st.builds(Dimensions, arousal=finite, dominance=finite, valence=finite)
one = st.floats(0, 1)
inside = st.builds(Dimensions, arousal=one, dominance=one, valence=one)


def table(name: str) -> dict[str, Any]:
    return json.loads(files("e2v_port.taxonomy").joinpath(f"{name}.json").read_text("utf-8"))


def published() -> dict[tuple[str, str, str], tuple[str, str]]:
    """Returns the compound table by primary, arousal and dominance, with its abbreviations spelled out."""
    rows = {}
    for line in COMPOUNDS.strip().splitlines():
        primary, arousal, dominance, label, description = (cell.strip() for cell in line.split("|"))
        middle = dominance.replace("neutral", "moderate").replace("any", "low/moderate/high")
        for cell in product([primary], arousal.split("/"), middle.split("/")):
            assert cell not in rows
            rows[cell] = (label, description)
    return rows


def best(distribution: dict[str, float]) -> str:
    return max(distribution, key=distribution.__getitem__)


def luminance(colour: str) -> float:
    """Returns the contrast of two colors by WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def lab(colour: str) -> tuple[float, float, float]:
    """Returns the CIE L*a*b* coordinates of an sRGB color, D65."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.0890
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


# The tables.


@pytest.mark.parametrize("name", TABLES)
def test_schema(name: str) -> None:
    schema = table("schema")
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schema["$defs"]}).validate(table(name))
    assert table(name).get("$schema", f"schema.json#/$defs/{name}") == f"schema.json#/$defs/{name}"


def test_every_table_has_a_schema() -> None:
    names = {path.name.removesuffix(".json") for path in files("e2v_port.taxonomy").iterdir() if ".json" in path.name}
    assert names == {*TABLES, "schema"}


def test_the_26_in_their_groups() -> None:
    assert [(e.group, e.name) for e in taxonomy.emotions()] == [(g, n) for g in GROUPS for n in GROUPS[g].split()]
    assert len(NAMES) == len(set(NAMES)) == 26
    assert table("schema")["$defs"]["name"]["enum"] == NAMES


def test_coordinates_lie_inside_their_group() -> None:
    groups = {row["name"]: row for row in table("emotions")["groups"]}
    assert list(groups) == list(GROUPS)
    for e in taxonomy.emotions():
        for value, (lowest, highest) in zip(
            (e.valence, e.arousal), (groups[e.group]["valence"], groups[e.group]["arousal"]), strict=True
        ):
            assert lowest < value < highest, e
        assert 0 < e.dominance < 1
    places = [(e.valence, e.arousal, e.dominance) for e in taxonomy.emotions()]
    assert len(set(places)) == 26


def test_groups_meet_at_the_thresholds_of_the_quadrants() -> None:
    quadrants = table("dimensions")["quadrants"]
    for row in table("emotions")["groups"]:
        lowest, highest = ((v + 1) / 2 for v in row["valence"])
        sign = row["name"].split("_")[0]
        edges = {
            "negative": (0, quadrants["valence"]["negative_below"]),
            "positive": (quadrants["valence"]["positive_above"], 1),
            "neutral": (quadrants["valence"]["negative_below"], quadrants["valence"]["positive_above"]),
        }
        assert (lowest, highest) == pytest.approx(edges[sign])
        middle = quadrants["arousal"]["activated_above"]
        half = {"activated": [middle, 1], "deactivated": [0, middle]}
        assert row["arousal"] == half.get(row["name"].split("_")[-1], [0, 1])


@pytest.mark.parametrize(  # Russell & Mehrabian 1977, pleasure, arousal, dominance, -1 to 1
    ("name", "pleasure", "arousal", "dominance"),
    [
        ("angry", -0.51, 0.59, 0.25),
        ("bored", -0.65, -0.62, -0.33),
        ("curious", 0.22, 0.62, -0.01),
        ("excited", 0.62, 0.75, 0.38),
        ("frustrated", -0.64, 0.52, -0.35),
        ("happy", 0.81, 0.51, 0.46),
        ("lonely", -0.66, -0.43, -0.32),
        ("sad", -0.63, -0.27, -0.33),
    ],
)
def test_coordinates_are_those_of_their_source(name: str, pleasure: float, arousal: float, dominance: float) -> None:
    e = taxonomy.emotion(name)
    assert (e.valence, 2 * e.arousal - 1, 2 * e.dominance - 1) == pytest.approx((pleasure, arousal, dominance))
    assert e.source == f"RM77 `{name}`"


def test_every_coordinate_has_a_source() -> None:
    assert set(table("emotions")["sources"]) == {"RM77"}
    assert all("RM77 `" in e.source or "placed here" in e.source for e in taxonomy.emotions())
    own = {e.name for e in taxonomy.emotions() if "placed here" in e.source}
    assert own == {"thoughtful", "affectionate", "neutral", "confused"}


def test_colours_are_distinct_and_readable() -> None:
    colours = {e.name: e.colour for e in taxonomy.emotions()}
    for name, colour in colours.items():
        assert 1.05 / (luminance(colour) + 0.05) >= 3, f"{name} on white"
        assert (luminance(colour) + 0.05) / 0.05 >= 3, f"{name} on black"
    for a, b in combinations(colours, 2):
        assert math.dist(lab(colours[a]), lab(colours[b])) >= 15, f"{a} looks like {b}"


@pytest.mark.parametrize(  # hue in degrees of the chips in the app: amber, blue, red, purple, teal, brown
    ("label", "hue"),
    [("happy", 45), ("sad", 207), ("angry", 4), ("fearful", 291), ("surprised", 174), ("disgusted", 16)],
)
def test_colours_of_the_labels_are_those_of_the_chips(label: str, hue: float) -> None:
    _, a, b = lab(taxonomy.colour(label))
    assert math.hypot(a, b) > 15
    channels = [int(taxonomy.colour(label)[i : i + 2], 16) for i in (1, 3, 5)]
    red, green, blue = channels
    angle = math.degrees(math.atan2(math.sqrt(3) * (green - blue), 2 * red - green - blue)) % 360
    assert abs((angle - hue + 180) % 360 - 180) <= 8


def test_neutral_is_grey() -> None:
    assert len(set(bytes.fromhex(taxonomy.colour("neutral")[1:]))) == 1
    assert taxonomy.colour("other") == taxonomy.colour("unknown") == taxonomy.colour("neutral")


# Labels.


def test_classes_are_distributions() -> None:
    for name, row in table("labels")["classes"].items():
        assert math.fsum(row["weights"].values()) == pytest.approx(1, abs=1e-12), name
        assert next(iter(row["weights"])) == best(row["weights"])
        assert sorted(row["weights"].values(), reverse=True)[:2].count(max(row["weights"].values())) == 1, name


def test_heads_of_emotion2vec() -> None:
    assert {label: best(taxonomy.distribution({label: 1.0})) for label in HEADS} == HEADS
    assert taxonomy.labels("emotion2vec") == tuple(row["label"] for row in table("emotion2vec")["classes"])


def test_polarity() -> None:
    polarity = {label: taxonomy.meaning(label).polarity for label in HEADS}
    assert Counter(polarity.values()) == {"negative": 4, "positive": 1, "neutral": 1, None: 3}
    assert polarity["happy"] == "positive"
    assert polarity["neutral"] == "neutral"
    assert polarity["surprised"] is polarity["other"] is polarity["unknown"] is None


def test_unknown_labels_claim_no_emotion() -> None:
    for label in ("other", "unknown"):
        spread = taxonomy.distribution({label: 1.0})
        assert min(spread.values()) > 0
        assert spread["neutral"] == 0.25


def test_label_sets() -> None:
    sets = {name: set(taxonomy.labels(name)) for name in taxonomy.label_sets()}
    assert set(sets) == set(LABEL_SETS)
    for name, labels in LABEL_SETS.items():
        assert set(labels.split()) <= sets[name]
    used = {taxonomy.meaning(label, name).name for name in sets for label in sets[name]}
    assert used == set(table("labels")["classes"])


def test_words_mean_the_same_in_every_set() -> None:
    meanings: dict[str, set[str]] = {}
    for name in taxonomy.label_sets():
        for label in taxonomy.labels(name):
            if len(label) > 1:  # single letters are each corpus's own: A is Angst in one, anger in another
                meanings.setdefault(label.casefold(), set()).add(taxonomy.meaning(label, name).name)
    assert all(len(classes) == 1 for classes in meanings.values())
    assert taxonomy.meaning("A", "emodb").name == "fearful"
    assert taxonomy.meaning("A", "msp-podcast").name == "angry"


def test_case_of_words_does_not_matter() -> None:
    assert taxonomy.meaning("ANGRY") == taxonomy.meaning("angry")
    assert taxonomy.meaning("happiness", "vox-profile").name == "happy"
    with pytest.raises(ValueError, match="no label of speechbrain is called 'A'"):
        taxonomy.meaning("A", "speechbrain")


def test_the_set_of_a_models_labels() -> None:
    for name, labels in LABEL_SETS.items():
        found = taxonomy.label_set_of(labels.split())
        assert found is not None, name
        for label in labels.split():
            assert taxonomy.meaning(label, found) == taxonomy.meaning(label, name)
    assert taxonomy.label_set_of(["angry", "happy", "unknown"]) == "emotion2vec"
    assert taxonomy.label_set_of(["ANGRY", "happiness", "Calm", "tired"]) == "words"
    assert taxonomy.label_set_of(["angry", "grumpy"]) is None
    assert taxonomy.label_set_of(["LABEL_0", "LABEL_1"]) is None
    assert taxonomy.label_set_of(["A", "N"]) is None  # Angst in EmoDB, anger in MSP-Podcast


def test_labels_that_name_no_emotion() -> None:
    none = ("other", "Other", "unknown", "EMO_UNKNOWN", "xxx")
    assert not any(map(taxonomy.names_emotion, none))
    assert all(map(taxonomy.names_emotion, ("angry", "Neutral", "grumpy", "A")))


def test_labels_that_differ_from_emotion2vecs() -> None:
    assert best(taxonomy.distribution({"exc": 1}, label_set="iemocap")) == "excited"
    assert best(taxonomy.distribution({"fru": 1}, label_set="iemocap")) == "frustrated"
    assert best(taxonomy.distribution({"Langeweile": 1}, label_set="emodb")) == "bored"
    assert best(taxonomy.distribution({"02": 1}, label_set="ravdess")) == "calm"
    assert best(taxonomy.distribution({"trust": 1}, label_set="plutchik")) == "affectionate"
    assert best(taxonomy.distribution({"anticipation": 1}, label_set="plutchik")) == "curious"
    assert taxonomy.meaning("ps", "tess").polarity == "positive"


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"no emotion is called 'joyous'; known: anxious, .*confused"):
        taxonomy.emotion("joyous")
    with pytest.raises(ValueError, match=r"no label of tess is called 'calm'; known: angry, disgust"):
        taxonomy.meaning("calm", "tess")
    with pytest.raises(ValueError, match=r"no label set is called 'TESS'; known: emotion2vec, ravdess"):
        taxonomy.labels("TESS")
    with pytest.raises(ValueError, match=r"no label set is called 'x'"):
        taxonomy.meaning("angry", "x")
    with pytest.raises(ValueError, match=r"no primary emotion is called 'joy'; known: happy, angry"):
        taxonomy.compound("joy", Dimensions(0.5, 0.5, 0.5))


# Dimensions.


def test_compounds_are_those_of_the_deployed_table() -> None:
    for (primary, arousal, dominance), (label, description) in published().items():
        found = taxonomy.compound(primary, Dimensions(AT[arousal], AT[dominance], 0.5))
        assert found == Compound(label, description, own=False), (primary, arousal, dominance)


def test_compounds_are_total_and_own_ones_are_marked() -> None:
    rows = table("compounds")["compounds"]
    cells = [(row["primary"], row["arousal"], row["dominance"]) for row in rows]
    assert sorted(cells) == sorted(product(HEADS, LEVELS, LEVELS))
    assert {cell for cell, row in zip(cells, rows, strict=True) if not row["own"]} == set(published())
    assert len(published()) == 54


def test_more_than_37_compounds() -> None:
    assert len({label for label, _ in published().values()}) >= 37


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-9, "low"),
        (0, "low"),
        (0.40, "low"),
        (0.4000001, "moderate"),
        (0.60, "moderate"),
        (0.6000001, "high"),
        (9, "high"),
    ],
)
def test_level(value: float, expected: str) -> None:
    assert taxonomy.level(value) == expected
    assert table("compounds")["levels"] == {"low": taxonomy.LOW, "high": taxonomy.HIGH}


def test_compound_takes_other_thresholds() -> None:
    point = Dimensions(0.65, 0.65, 0.5)
    assert taxonomy.compound("angry", point).label == "rage"
    assert taxonomy.compound("angry", point, 0.3, 0.7).label == "anger"


def test_octants() -> None:
    value = {"+": 0.500001, "-": 0.5, "high": 0.500001, "low": 0.5}  # exactly in the middle is the lower side
    for (valence, arousal, dominance), name in OCTANTS.items():
        assert taxonomy.octant(Dimensions(value[arousal], value[dominance], value[valence])) == name
    rows = table("dimensions")["octants"]
    assert {(row["valence"], row["arousal"], row["dominance"]): row["name"] for row in rows} == OCTANTS


def test_likely_emotions_are_of_their_group() -> None:
    likely = table("dimensions")["quadrants"]["likely"]
    for group, levels in likely.items():
        assert all(set(names) <= set(GROUPS[group].split()) for names in levels.values())
        assert set(levels["moderate"]) == set(GROUPS[group].split())
    for e in taxonomy.emotions():
        assert e.name in taxonomy.likely_emotions(e.dimensions)


def test_dominance_tells_anxious_from_angry() -> None:
    submissive = taxonomy.likely_emotions(Dimensions(0.8, 0.2, 0.2))
    dominant = taxonomy.likely_emotions(Dimensions(0.8, 0.8, 0.2))
    assert submissive[:2] == ("anxious", "panicked")
    assert dominant[:2] == ("angry", "frustrated")
    assert "angry" not in submissive
    assert "anxious" not in dominant


@pytest.mark.parametrize(
    ("valence", "arousal", "group"),
    [
        (0.4499, 0.51, "negative_activated"),
        (0.4499, 0.50, "negative_deactivated"),
        (0.45, 0.9, "neutral"),
        (0.55, 0.1, "neutral"),
        (0.5501, 0.51, "positive_activated"),
        (0.5501, 0.50, "positive_deactivated"),
    ],
)
def test_quadrants_at_their_thresholds(valence: float, arousal: float, group: str) -> None:
    assert set(taxonomy.likely_emotions(Dimensions(arousal, 0.5, valence))) == set(GROUPS[group].split())


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (-1, "slight"),
        (0.2499, "slight"),
        (0.25, "moderate"),
        (0.4999, "moderate"),
        (0.5, "strong"),
        (0.7499, "strong"),
        (0.75, "intense"),
        (2, "intense"),
    ],
)
def test_intensity(score: float, expected: str) -> None:
    assert taxonomy.intensity(score) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        taxonomy.intensity(value)
    with pytest.raises(ValueError, match="finite"):
        Dimensions(0.5, value, 0.5)


# Distribution.


def test_formula() -> None:
    """The formula, computed independently."""
    point, scores = Dimensions(0.7, 0.3, 0.2), {"angry": 0.5, "sad": 0.3, "other": 0.2}
    expected = {}
    for row in table("emotions")["emotions"]:
        prior = sum(p * table("labels")["classes"][label]["weights"].get(row["name"], 0) for label, p in scores.items())
        place = (row["arousal"], row["dominance"], row["valence"] / 2 + 0.5)
        expected[row["name"]] = prior * math.exp(-(math.dist(place, (0.7, 0.3, 0.2)) ** 2) / (2 * 0.2**2))
    total = sum(expected.values())
    expected = {name: value / total for name, value in expected.items()}
    assert taxonomy.distribution(scores, point) == pytest.approx(expected)
    assert list(taxonomy.distribution(scores, point)) == NAMES


def test_every_emotion_comes_out_of_dimensions_alone() -> None:
    for e in taxonomy.emotions():
        assert best(taxonomy.distribution(dimensions=e.dimensions)) == e.name


def test_every_emotion_comes_out_of_both_models() -> None:
    steps = [i / 10 for i in range(11)]
    reached = {
        best(taxonomy.distribution({label: 1.0}, Dimensions(*point)))
        for label in HEADS
        for point in product(steps, steps, steps)
    }
    assert reached == set(NAMES)


def test_dimensions_move_within_what_the_label_allows() -> None:
    angry = taxonomy.distribution({"angry": 1.0})
    weak = taxonomy.distribution({"angry": 1.0}, Dimensions(arousal=0.3, dominance=0.3, valence=0.25))
    strong = taxonomy.distribution({"angry": 1.0}, Dimensions(arousal=0.8, dominance=0.7, valence=0.25))
    assert (best(angry), best(weak), best(strong)) == ("angry", "disappointed", "angry")
    assert weak["frustrated"] / weak["angry"] > angry["frustrated"] / angry["angry"]
    assert strong["angry"] > angry["angry"] > weak["angry"]
    assert weak["sad"] == 0  # which the label does not allow


@pytest.mark.parametrize("label", HEADS)
def test_a_certain_label_keeps_its_emotion_where_that_lies(label: str) -> None:
    head = taxonomy.emotion(HEADS[label])
    assert best(taxonomy.distribution({label: 1.0}, head.dimensions)) == head.name


@pytest.mark.parametrize("label_set", LABEL_SETS)
def test_expected_dimensions_are_means(label_set: str) -> None:
    """The values match numpy on the table itself; mixed labels lie between, in proportion."""
    rows = table("emotions")["emotions"]
    points = np.array([[row["arousal"], row["dominance"], (row["valence"] + 1) / 2] for row in rows])
    names = taxonomy.labels(label_set)
    scores = dict(zip(names, np.random.default_rng(0).dirichlet(np.ones(len(names))).tolist(), strict=True))
    shares = np.array([*taxonomy.distribution(scores, None, label_set).values()])
    found = np.array([*taxonomy.expected(scores, label_set).to_dict().values()])
    assert found == pytest.approx(np.average(points, axis=0, weights=shares))
    alone = np.array([[*taxonomy.expected({name: 1.0}, label_set).to_dict().values()] for name in names])
    assert found == pytest.approx(np.array([scores[name] for name in names]) @ alone)


def test_expected_dimensions_say_what_the_labels_say() -> None:
    """Values lie on the side of the scale where people place the word (Russell & Mehrabian 1977)."""
    found = {label: taxonomy.expected({label: 1.0}) for label in HEADS}
    for label, dimensions in found.items():
        polarity = taxonomy.meaning(label).polarity
        assert {"positive": dimensions.valence > 0.55, "negative": dimensions.valence < 0.45}.get(polarity or "", True)
    assert found["angry"].arousal > found["neutral"].arousal > found["sad"].arousal
    assert found["angry"].dominance > found["fearful"].dominance
    assert found["neutral"].to_dict() == pytest.approx({"arousal": 0.5, "dominance": 0.5, "valence": 0.5}, abs=0.1)
    with pytest.raises(ValueError, match="scores must be at least 0 and not all 0"):
        taxonomy.expected({})


scored = st.dictionaries(st.sampled_from(list(HEADS)), st.just(0.0) | st.floats(1e-9, 1), min_size=1).filter(
    lambda s: sum(s.values()) > 0
)


@given(scores=st.none() | scored, dimensions=anywhere)
def test_always_a_distribution(scores: dict[str, float] | None, dimensions: Dimensions) -> None:
    for point in (dimensions, None) if scores else (dimensions,):
        found = taxonomy.distribution(scores, point)
        assert list(found) == NAMES
        assert min(found.values()) >= 0
        assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
        assert found == taxonomy.distribution(scores, point)


@given(a=scored, label=st.sampled_from(list(HEADS)), share=st.floats(0.01, 0.99))
def test_more_of_a_label_is_more_of_its_emotions(a: dict[str, float], label: str, share: float) -> None:
    total = sum(a.values())
    before = taxonomy.distribution(a)[HEADS[label]]
    mixed = {name: (1 - share) * score / total for name, score in a.items()}
    mixed[label] = mixed.get(label, 0) + share
    pure = taxonomy.distribution({label: 1.0})[HEADS[label]]
    assert taxonomy.distribution(mixed)[HEADS[label]] == pytest.approx((1 - share) * before + share * pure)


@given(dimensions=inside, label=st.sampled_from(list(HEADS)))
def test_nearer_emotions_are_likelier(dimensions: Dimensions, label: str) -> None:
    """Dimensions choose among emotions alone, and relative to the label's own weights."""
    point = tuple(dimensions.to_dict().values())
    distance = {e.name: math.dist(point, tuple(e.dimensions.to_dict().values())) for e in taxonomy.emotions()}
    alone = taxonomy.distribution(dimensions=dimensions)
    before, both = taxonomy.distribution({label: 1.0}), taxonomy.distribution({label: 1.0}, dimensions)
    gain = {name: both[name] / before[name] for name in NAMES if before[name]}
    for values in (alone, gain):
        ranked = sorted(values, key=distance.__getitem__)
        assert all(values[a] >= values[b] * (1 - 1e-9) for a, b in pairwise(ranked))


@given(dimensions=anywhere, label=st.sampled_from(list(HEADS)))
def test_names_are_total(dimensions: Dimensions, label: str) -> None:
    assert taxonomy.octant(dimensions) in OCTANTS.values()
    assert taxonomy.likely_emotions(dimensions)
    assert taxonomy.compound(label, dimensions).label


def test_values_outside_count_as_the_end_of_the_scale() -> None:
    assert taxonomy.distribution(dimensions=Dimensions(7, -3, 1.01)) == taxonomy.distribution(
        dimensions=Dimensions(1, 0, 1)
    )


@pytest.mark.parametrize(
    "scores", [{}, {"angry": 0.0}, {"angry": 1.1, "sad": -0.1}, {"angry": math.nan}, {"sad": math.inf}]
)
@pytest.mark.parametrize("dimensions", [None, Dimensions(0.5, 0.5, 0.5)])
def test_scores_that_are_no_probabilities(scores: dict[str, float], dimensions: Dimensions | None) -> None:
    with pytest.raises(ValueError, match="scores must be at least 0 and not all 0"):
        taxonomy.distribution(scores, dimensions)


def test_scores_need_not_sum_to_one() -> None:
    assert taxonomy.distribution({"angry": 5e-324}, Dimensions(0, 0, 1)) == taxonomy.distribution(
        {"angry": 1.0}, Dimensions(0, 0, 1)
    )
    halves = taxonomy.distribution({"angry": 0.2, "sad": 0.2})
    assert halves == pytest.approx(taxonomy.distribution({"angry": 0.5, "sad": 0.5}))


def test_nothing_to_map() -> None:
    with pytest.raises(ValueError, match="neither scores nor dimensions given"):
        taxonomy.distribution()


def test_neither_torch_nor_mlx_is_imported() -> None:
    loaded = "print({'torch', 'mlx.core'} & set(sys.modules))"
    code = f"import sys, e2v_port.emotions.fusion, e2v_port.emotions.taxonomy as _; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_documented_examples() -> None:
    page = Path(__file__).parents[1] / "docs" / "taxonomy.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted >= 5


def test_exported_names() -> None:
    assert sorted(taxonomy.__all__) == sorted(set(taxonomy.__all__))
    assert all(hasattr(taxonomy, name) for name in taxonomy.__all__)

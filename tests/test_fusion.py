"""The fusion follows its table at every threshold, with either model alone, and for any numbers."""

import json
import math
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.judgement import COLUMNS, Judgement, Shade, columns

LABELS = ("angry", "disgusted", "fearful", "happy", "neutral", "other", "sad", "surprised", "unknown")
MIDDLE = Dimensions(arousal=0.5, dominance=0.5, valence=0.5)

# The thresholds of the deployed pipeline, written down again; "-" includes both bounds of a band.
#   intensity  low (<0.35), mild (0.35-0.5), moderate (0.5-0.65), high (>0.65)      0.5 itself is moderate
#   valence    negative (<0.45), neutral (0.45-0.55), positive (>0.55)
#   arousal    low (<0.4), moderate (0.4-0.6), high (>0.6)
INTENSITY = [
    (-0.2, "low"),
    (0.3499, "low"),
    (0.35, "mild"),
    (0.4999, "mild"),
    (0.5, "moderate"),
    (0.65, "moderate"),
    (0.6501, "high"),
    (1.3, "high"),
]
VALENCE = [
    (-0.2, "negative"),
    (0.4499, "negative"),
    (0.45, "neutral"),
    (0.55, "neutral"),
    (0.5501, "positive"),
    (1.3, "positive"),
]
AROUSAL = [(-0.2, "low"), (0.3999, "low"), (0.4, "moderate"), (0.6, "moderate"), (0.6001, "high"), (1.3, "high")]

POSITIVE, NEGATIVE, NEITHER = (
    ("happy",),
    ("angry", "disgusted", "fearful", "sad"),
    ("neutral", "other", "surprised", "unknown"),
)


def prediction(label: str = "happy", confidence: float = 0.6, labels: tuple[str, ...] = LABELS) -> Prediction:
    rest = (1 - confidence) / (len(labels) - 1)
    scores = {name: confidence if name == label else rest for name in labels}
    return Prediction(label, confidence, scores, dict.fromkeys(labels, 0.0), 4.0)


def at(**values: float) -> Dimensions:
    return replace(MIDDLE, **values)


@pytest.mark.parametrize(("arousal", "expected"), INTENSITY)
def test_intensity(arousal: float, expected: str) -> None:
    assert fuse(None, at(arousal=arousal), 4.0).intensity == expected


@pytest.mark.parametrize(("valence", "expected"), VALENCE)
def test_valence_level(valence: float, expected: str) -> None:
    assert fuse(None, at(valence=valence), 4.0).valence_level == expected


@pytest.mark.parametrize(("arousal", "expected"), AROUSAL)
def test_arousal_level(arousal: float, expected: str) -> None:
    assert fuse(None, at(arousal=arousal), 4.0).arousal_level == expected


def test_agreement() -> None:
    assert {*POSITIVE, *NEGATIVE, *NEITHER} == set(LABELS)
    for labels, outcome in (
        (POSITIVE, {"negative": "disagree", "neutral": "neutral", "positive": "agree"}),
        (NEGATIVE, {"negative": "agree", "neutral": "neutral", "positive": "disagree"}),
        (NEITHER, {"negative": "neutral", "neutral": "neutral", "positive": "neutral"}),
    ):
        for label in labels:
            for valence, level in VALENCE:
                assert fuse(prediction(label), at(valence=valence), 4.0).agreement == outcome[level], (label, valence)


@pytest.mark.parametrize(
    ("confidence", "valence", "duration", "expected"),
    [
        (0.6, 0.5501, 4.0, 0.69),  # 0.6 x 1.15
        (0.6, 0.55, 4.0, 0.6),
        (0.6, 0.45, 4.0, 0.6),
        (0.6, 0.4499, 4.0, 0.45),  # 0.6 x 0.75
        (0.9, 0.9, 4.0, 1.0),  # 1.035, clipped
        (0.6, 0.5, 2.0, 0.6),
        (0.6, 0.5, 1.999, 0.42),  # 30 % less under 2.0 s
        (0.6, 0.9, 1.0, 0.483),
        (0.6, 0.1, 1.0, 0.315),
        (0.9, 0.9, 1.0, 0.7),  # clipped first: the reduction is always 30 %
    ],
)
def test_confidence(confidence: float, valence: float, duration: float, expected: float) -> None:
    judgement = fuse(prediction("happy", confidence), at(valence=valence), duration)
    assert judgement.primary == "happy"
    assert judgement.confidence == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("label", "arousal", "noted"),
    [("neutral", 0.6, False), ("neutral", 0.6001, True), ("sad", 0.9, False), ("other", 0.9, False)],
)
def test_elevated_arousal(label: str, arousal: float, noted: bool) -> None:
    assert ("elevated arousal" in fuse(prediction(label), at(arousal=arousal), 4.0).notes) is noted


@pytest.mark.parametrize(("confidence", "noted"), [(0.3, True), (0.4999, True), (0.5, False), (0.9, False)])
def test_uncertain_below_a_confidence(confidence: float, noted: bool) -> None:
    assert ("uncertain" in fuse(prediction("angry", confidence), None, 4.0).notes) is noted


@pytest.mark.parametrize(
    ("scores", "noted"),
    [
        ({"angry": 0.56, "sad": 0.44}, False),
        ({"angry": 0.55, "sad": 0.45}, True),  # 0.1 apart, whatever floats make of it
        ({"angry": 0.5, "sad": 0.4, "happy": 0.1}, True),
        ({"angry": 0.51, "sad": 0.4, "happy": 0.09}, False),
        ({"angry": 1.0}, False),
    ],
)
def test_uncertain_where_two_labels_are_close(scores: dict[str, float], noted: bool) -> None:
    """Also where the valence raises the confidence in one of them beyond doubt."""
    estimate = Prediction("angry", scores["angry"], scores, scores, 4.0)
    for dimensions in None, Dimensions(0.8, 0.5, 0.2):
        assert ("uncertain" in fuse(estimate, dimensions, 4.0).notes) is noted


@pytest.mark.parametrize(
    ("confidence", "duration", "shown"),
    [(0.2999, 4.0, False), (0.3, 4.0, True), (0.42, 1.0, False), (0.43, 1.0, True)],
)
def test_no_compound_below_a_confidence(confidence: float, duration: float, shown: bool) -> None:
    judgement = fuse(prediction("angry", confidence), Dimensions(0.8, 0.8, 0.5), duration)
    assert (judgement.compound is not None) is shown


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"angry": 0.8, "sad": 0.2}, "angry"),
        ({"angry": 0.35, "sad": 0.2, "happy": 0.15}, "unclear: angry or sad"),
        ({"angry": 0.45, "sad": 0.2, "happy": 0.2, "neutral": 0.15}, "unclear: perhaps angry"),
        ({"angry": 0.35, "other": 0.3, "sad": 0.1}, "unclear: perhaps angry"),
        ({"other": 0.45, "angry": 0.4, "sad": 0.15}, "unclear: perhaps angry"),
        ({"unknown": 0.4, "other": 0.3, "sad": 0.1}, "unclear: no emotion stands out"),
    ],
)
def test_doubt_in_words(scores: dict[str, float], words: str) -> None:
    label = max(scores, key=scores.__getitem__)
    assert fuse(Prediction(label, scores[label], scores, scores, 4.0), None, 4.0).words == words


def test_notes_in_their_order() -> None:
    assert fuse(prediction("neutral", 0.35), at(arousal=0.9), 1.5).notes == ("elevated arousal", "short", "uncertain")
    assert fuse(prediction("neutral", 0.9), at(arousal=0.5), 2.0).notes == ()
    assert fuse(None, at(arousal=0.9), 1.5).notes == ("short",)


def test_both_models() -> None:
    dimensions = Dimensions(arousal=0.7, dominance=0.3, valence=0.2)
    angry = prediction("angry", 0.6)
    assert fuse(angry, dimensions, 4.0) == Judgement(
        primary="angry",
        confidence=0.6 * 1.15,
        agreement="agree",
        intensity="high",
        valence_level="negative",
        arousal_level="high",
        compound="frustration",
        octant="anxious",
        distribution=taxonomy.distribution(angry.scores, dimensions),
        notes=(),
        sources=("categorical", "dimensional"),
        scores=angry.scores,
        dimensions=dimensions,
        dimensions_from="model",
        shade=Shade(*max(taxonomy.shades("angry", dimensions).items(), key=lambda item: item[1])),
    )


def test_categorical_model_alone() -> None:
    sad = prediction("sad", 0.6)
    assert fuse(sad, None, 1.0) == Judgement(
        primary="sad",
        confidence=0.6 * 0.7,
        agreement=None,
        intensity=None,
        valence_level=None,
        arousal_level=None,
        compound=None,
        octant=None,
        distribution=taxonomy.distribution(sad.scores),
        notes=("short", "uncertain"),
        sources=("categorical",),
        scores=sad.scores,
        dimensions=taxonomy.expected(sad.scores),
        dimensions_from="labels",
        shade=Shade(*max(taxonomy.meaning("sad").weights.items(), key=lambda item: item[1])),
    )


def test_derived_dimensions_are_no_second_opinion() -> None:
    """The same values, measured, change confidence, distribution and notes, and have names and levels."""
    angry = prediction("angry", 0.6)
    alone = fuse(angry, None, 4.0)
    assert alone.dimensions is not None
    both = fuse(angry, alone.dimensions, 4.0)
    assert (alone.confidence, alone.dimensions_from) == (0.6, "labels")
    assert (both.confidence, both.dimensions_from) == (pytest.approx(0.69), "model")
    named = ("agreement", "intensity", "valence_level", "arousal_level", "compound", "octant")
    assert {name for name in named if getattr(alone, name) is not None} == set()
    assert {name for name in named if getattr(both, name) is None} == set()
    assert both.distribution != alone.distribution
    # Partly neutral, partly emotions that are always activated: nothing measured this voice to be so.
    tense = prediction("neutral", 0.6, ("neutral", "angry", "surprised"))
    low = FusionSettings(elevated_arousal=0.5)
    derived = fuse(tense, None, 4.0, low).dimensions
    assert derived is not None
    assert derived.arousal > low.elevated_arousal
    assert fuse(tense, None, 4.0, low).notes == ()
    assert fuse(tense, derived, 4.0, low).notes == ("elevated arousal",)


def test_dimensional_model_alone() -> None:
    dimensions = Dimensions(arousal=0.3, dominance=0.7, valence=1.02)
    assert fuse(None, dimensions, 4.0) == Judgement(
        primary=None,
        confidence=None,
        agreement=None,
        intensity="low",
        valence_level="positive",
        arousal_level="low",
        compound=None,
        octant="relaxed",
        distribution=taxonomy.distribution(dimensions=dimensions),
        notes=(),
        sources=("dimensional",),
        scores=None,
        dimensions=dimensions,
        dimensions_from="model",
        shade=None,
    )


def test_labels_of_other_models() -> None:
    judgement = fuse(prediction("fru", 0.6, ("fru", "exc", "neu")), at(valence=0.2), 4.0, label_set="iemocap")
    assert (judgement.primary, judgement.agreement, judgement.compound) == ("fru", "agree", "anger")
    fearful = prediction("fear", 0.6, ("trust", "fear"))
    assert fuse(fearful, None, 4.0, label_set="plutchik").dimensions == taxonomy.expected(fearful.scores, "plutchik")
    trust = fuse(prediction("trust", 0.6, ("trust", "fear")), at(valence=0.7), 4.0, label_set="plutchik")
    assert (trust.agreement, trust.compound) == ("agree", None)


@pytest.mark.parametrize("label_set", taxonomy.label_sets())
@pytest.mark.parametrize("dimensions", [None, at(arousal=0.8, valence=0.8)])
def test_each_label_of_each_set(label_set: str, dimensions: Dimensions | None) -> None:
    names = taxonomy.labels(label_set)
    compounds = {row["label"] for row in taxonomy.table("compounds")["compounds"]}
    for name in names:
        means = taxonomy.meaning(name, label_set)
        judgement = fuse(prediction(name, 0.6, names), dimensions, 4.0, label_set=label_set)
        assert judgement.primary == name
        assert math.fsum((judgement.distribution or {}).values()) == pytest.approx(1)
        assert (judgement.shade is None) == (not taxonomy.names_emotion(name))
        assert judgement.dimensions is not None
        if dimensions:
            agreement = {"positive": "agree", "negative": "disagree"}.get(str(means.polarity), "neutral")
            assert judgement.agreement == agreement
            assert judgement.compound in (compounds if means.compound else {None})


def test_labels_without_a_meaning() -> None:
    grumpy = prediction("grumpy", 0.6, ("grumpy", "sunny"))
    judgement = fuse(grumpy, MIDDLE, 4.0, label_set=None)
    assert (judgement.primary, judgement.confidence) == ("grumpy", 0.6)
    assert judgement.agreement is judgement.compound is None
    assert judgement.distribution == taxonomy.distribution(dimensions=MIDDLE)
    alone = fuse(grumpy, None, 4.0, label_set=None)
    assert alone.distribution is alone.dimensions is alone.dimensions_from is alone.octant is None
    with pytest.raises(ValueError, match=r"no label of emotion2vec is called 'grumpy'; known: angry"):
        fuse(grumpy, MIDDLE, 4.0)


def test_the_two_kinds_of_level_differ_at_their_bounds() -> None:
    """0.40 is moderate arousal, but low in the compound table: the two have different sources."""
    judgement = fuse(prediction("happy"), at(arousal=0.40), 4.0)
    assert (judgement.arousal_level, judgement.compound) == ("moderate", "serenity")


def test_nothing_said() -> None:
    with pytest.raises(ValueError, match="at least one model must have run"):
        fuse(None, None, 4.0)


@pytest.mark.parametrize("duration", [-0.1, math.nan, math.inf])
def test_no_duration(duration: float) -> None:
    with pytest.raises(ValueError, match="duration must be a finite number of at least 0"):
        fuse(prediction(), None, duration)


def test_to_dict_is_json() -> None:
    for judgement in (
        fuse(prediction("neutral"), at(arousal=0.9), 1.0),
        fuse(prediction(), None, 4.0),
        fuse(None, MIDDLE, 4.0),
    ):
        assert json.loads(json.dumps(judgement.to_dict(), allow_nan=False)) == judgement.to_dict()
        assert len(judgement.to_dict()) == len(Judgement.__dataclass_fields__)
    found = fuse(prediction("sad"), MIDDLE, 4.0)
    assert found.to_dict()["avd_scores"] == {"arousal": 0.5, "dominance": 0.5, "valence": 0.5}
    assert (found.to_dict()["valence"], found.to_dict()["arousal"]) == (found.valence_level, found.arousal_level)


def test_columns_have_the_names_of_the_json_joined() -> None:
    found = fuse(prediction("sad"), MIDDLE, 4.0)
    cells = columns(found.to_dict())
    assert found.shade is not None
    assert found.scores is not None
    assert (cells["shade"], cells["shade_probability"]) == (found.shade.name, found.shade.probability)
    assert (cells["avd_dominance"], cells["e2v_sad"]) == (MIDDLE.dominance, found.scores["sad"])
    nested = [*(f"e2v_{label}" for label in LABELS), *(f"distribution_{e.name}" for e in taxonomy.emotions())]
    assert set(cells) == {*COLUMNS, *nested}
    assert columns(fuse(None, MIDDLE, 4.0).to_dict())["shade"] is None


def test_a_shade_is_what_the_label_can_mean_at_these_dimensions() -> None:
    """A label has different shades in different voices, and none if it names no emotion."""
    found = {}
    for name, dimensions in (("weak", Dimensions(0.85, 0.2, 0.1)), ("loud", Dimensions(0.9, 0.7, 0.1))):
        shade = fuse(prediction("fearful"), dimensions, 4.0).shade
        assert shade is not None
        weights = taxonomy.meaning("fearful").weights
        distances = {e: taxonomy.distribution(None, dimensions)[e] * weight for e, weight in weights.items()}
        assert shade.name == max(distances, key=distances.__getitem__)
        assert shade.probability == pytest.approx(distances[shade.name] / math.fsum(distances.values()))
        found[name] = shade.name
    assert found["weak"] != found["loud"]
    for label in taxonomy.NO_EMOTION:
        assert fuse(prediction(label), MIDDLE, 4.0).shade is None
    assert fuse(prediction("grumpy", 0.6, ("grumpy", "sunny")), MIDDLE, 4.0, label_set=None).shade is None
    assert fuse(None, MIDDLE, 4.0).headline == taxonomy.octant(MIDDLE)


def test_default_settings() -> None:
    assert asdict(FusionSettings()) == {
        "boost": 1.15,
        "penalty": 0.75,
        "clip": 1.0,
        "short_seconds": 2.0,
        "short_factor": 0.7,
        "intensity_mild": 0.35,
        "intensity_moderate": 0.5,
        "intensity_high": 0.65,
        "valence_negative": 0.45,
        "valence_positive": 0.55,
        "arousal_low": 0.4,
        "arousal_high": 0.6,
        "compound_low": 0.4,
        "compound_high": 0.6,
        "elevated_arousal": 0.6,
        "compound_confidence": 0.3,
        "uncertain": 0.5,
        "lead": 0.1,
        "noisy": 20.0,
    }


@pytest.mark.parametrize(
    ("changed", "before", "after"),
    [
        ({"boost": 1.3}, ("confidence", 0.69), ("confidence", 0.78)),
        ({"clip": 0.5}, ("confidence", 0.69), ("confidence", 0.5)),
        ({"short_seconds": 5.0}, ("notes", ()), ("notes", ("short", "uncertain"))),
        ({"intensity_high": 0.9}, ("intensity", "high"), ("intensity", "moderate")),
        ({"intensity_moderate": 0.85, "intensity_high": 0.9}, ("intensity", "high"), ("intensity", "mild")),
        ({"valence_positive": 0.9}, ("valence_level", "positive"), ("valence_level", "neutral")),
        ({"arousal_high": 0.9}, ("arousal_level", "high"), ("arousal_level", "moderate")),
        ({"compound_high": 0.9}, ("compound", "elation"), ("compound", "joy")),
        ({"compound_confidence": 0.7}, ("compound", "elation"), ("compound", None)),
        ({"uncertain": 0.9}, ("notes", ()), ("notes", ("uncertain",))),
        ({"lead": 0.6}, ("notes", ()), ("notes", ("uncertain",))),
    ],
)
def test_settings_are_used(changed: dict[str, float], before: tuple[str, Any], after: tuple[str, Any]) -> None:
    happy, dimensions = prediction("happy", 0.6), Dimensions(0.8, 0.8, 0.8)
    for settings, (name, value) in ((None, before), (FusionSettings(**changed), after)):
        found = getattr(fuse(happy, dimensions, 4.0, settings), name)
        assert found == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    "changed",
    [
        {"boost": 0.9},
        {"penalty": 1.1},
        {"short_factor": -0.1},
        {"clip": 1.5},
        {"intensity_mild": 0.6},
        {"valence_negative": 0.6},
        {"arousal_low": 0.7},
        {"compound_low": 0.7},
        {"uncertain": math.nan},
    ],
)
def test_settings_that_make_no_sense(changed: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        FusionSettings(**changed)


finite = st.floats(allow_nan=False, allow_infinity=False)
points = st.builds(Dimensions, arousal=finite, dominance=finite, valence=finite)
predictions = st.builds(prediction, label=st.sampled_from(LABELS), confidence=st.floats(1 / len(LABELS), 1))
durations = st.floats(0, 1e6)


@given(predictions, points, durations)
def test_total(estimate: Prediction, dimensions: Dimensions, duration: float) -> None:
    judgement = fuse(estimate, dimensions, duration)
    assert judgement == fuse(estimate, dimensions, duration)
    assert judgement.confidence is not None
    assert 0 <= judgement.confidence <= 1
    given = {name for name, value in judgement.to_dict().items() if value is not None}
    absent = {"shade": estimate.label in taxonomy.NO_EMOTION, "compound": judgement.confidence < 0.3}
    assert set(judgement.to_dict()) - given == {name for name, holds in absent.items() if holds}
    assert judgement.shade is None or judgement.shade.name in taxonomy.meaning(estimate.label).weights
    assert judgement.distribution is not None
    assert math.fsum(judgement.distribution.values()) == pytest.approx(1, abs=1e-12)
    assert judgement.dimensions == dimensions
    assert judgement.primary == estimate.label
    assert judgement.confidence <= fuse(estimate, dimensions, 2.0 + duration).confidence


@given(predictions, durations)
def test_worse_agreement_is_never_more_confidence(estimate: Prediction, duration: float) -> None:
    judged = {j.agreement: j.confidence for j in (fuse(estimate, at(valence=v), duration) for v in (0.1, 0.5, 0.9))}
    confidences = [judged[name] for name in ("disagree", "neutral", "agree") if name in judged]
    assert confidences == sorted(confidences)
    assert judged["neutral"] == fuse(estimate, None, duration).confidence


@given(predictions, points, durations)
def test_dimensions_never_change_the_label_and_derived_ones_nothing(
    estimate: Prediction, dimensions: Dimensions, duration: float
) -> None:
    alone, both = fuse(estimate, None, duration), fuse(estimate, dimensions, duration)
    assert alone.primary == both.primary == estimate.label
    assert alone.distribution == taxonomy.distribution(estimate.scores)
    assert (alone.sources, alone.agreement, alone.dimensions_from) == (("categorical",), None, "labels")
    assert (both.dimensions, both.dimensions_from) == (dimensions, "model")


@given(st.sampled_from(LABELS), st.floats(1 / 9, 1), st.floats(1 / 9, 1), points, durations)
def test_more_probable_is_never_less_confident(
    label: str, a: float, b: float, dimensions: Dimensions, duration: float
) -> None:
    low, high = (fuse(prediction(label, p), dimensions, duration).confidence for p in sorted((a, b)))
    assert low is not None
    assert high is not None
    assert low <= high


@given(finite, finite)
def test_levels_rise_with_the_value(a: float, b: float) -> None:
    low, high = sorted((a, b))
    first, second = (fuse(None, Dimensions(v, 0.5, v), 4.0) for v in (low, high))
    for name, order in (
        ("intensity", ("low", "mild", "moderate", "high")),
        ("arousal_level", ("low", "moderate", "high")),
        ("valence_level", ("negative", "neutral", "positive")),
    ):
        assert order.index(getattr(first, name)) <= order.index(getattr(second, name))

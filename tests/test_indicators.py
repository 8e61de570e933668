"""Indicators of a voice: against SciPy, against truths of made recordings, and through the whole program."""

import ast
import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import e2v_port
from e2v_port.analysis.output.formats import to_csv
from e2v_port.analysis.output.terminal import table
from e2v_port.analysis.results import Analysis, AnalysisSettings
from e2v_port.analysis.schema import definition
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.indicators import KINDS, VoiceIndicators
from e2v_port.emotions.intervals import Mean, mean, share, share_change
from e2v_port.emotions.trajectory import trajectory
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import ordinary
from e2v_port.prosody.measure import Prosody, average, measure
from e2v_port.prosody.recording import AudioQuality
from e2v_port.speech.segment import GivenSegment, SegmentSettings

SPEECH = sorted((Path(__file__).parents[1] / "benchmarks" / "speech").glob("*.flac"))
LABELS = ("angry", "happy", "neutral", "sad")
CALM = Dimensions(0.5, 0.5, 0.5)
TENSE = Dimensions(0.8, 0.5, 0.2)
MEASURES = ("pitch", "tempo", "pauses", "tremor")


def prosody(duration: float = 3.0, *, score: float = 1.0, **values: Any) -> Prosody:
    """Returns the measures of an ordinary voice, except for these."""
    known: dict[str, Any] = dict.fromkeys(Prosody.__dataclass_fields__, 0.0)
    known |= {"pitch_mean": 120.0, "rate": 4.0, "pause_ratio": 0.1, "tremor": 0.1, "pauses": 1, "hesitations": 0}
    quality = AudioQuality(clipped=0.0, level=-23.0, snr=30.0, score=score)
    return Prosody(**(known | {"duration": duration, "quality": quality, "contour": np.empty(0)} | values))


@cache
def judged(
    dimensions: Dimensions | None, label: str | None, duration: float
) -> tuple[e2v_port.Judgement, Prediction | None]:
    prediction = None
    if label:
        scores = {name: 0.85 if name == label else 0.05 for name in LABELS}
        prediction = Prediction(label, 0.85, scores, {name: math.log(x) for name, x in scores.items()}, duration)
    return fuse(prediction, dimensions, duration), prediction


def said(
    start: float,
    duration: float = 3.0,
    dimensions: Dimensions | None = CALM,
    *,
    label: str | None = None,
    speaker: str | None = "ann",
    voice: Prosody | None = None,
) -> e2v_port.JudgedSegment:
    """Returns a judged segment."""
    judgement, prediction = judged(dimensions, label, duration)
    return e2v_port.JudgedSegment(
        start, start + duration, "normal", speaker, None, judgement, prediction, voice or prosody(duration)
    )


def talk(segments: Sequence[e2v_port.JudgedSegment]) -> Analysis:
    """Returns the analysis of a recording with these segments."""
    used = AnalysisSettings("speech", SegmentSettings(), FusionSettings(), None)
    return Analysis("talk.wav", 600.0, tuple(segments), None, None, (), used, {})


def voice(segments: Sequence[e2v_port.JudgedSegment], **options: Any) -> VoiceIndicators:
    [found] = e2v_port.indicators(talk(segments), **options).voices
    return found


def neutral(pitch: float, deviation: float, samples: int = 5) -> Baseline:
    """Returns a baseline of ann, whose pitch is in semitones from 255 Hz."""
    return Baseline("ann", samples, 20.0, {"pitch": pitch, "rate": 4.0}, {"pitch": deviation, "rate": 0.2})


# ---- the arithmetic, against SciPy


def alternating(count: int) -> list[float]:
    """Neighbors that differ: none of them counts less for resembling the one before."""
    return [(-1) ** i * (1 + 0.1 * i) for i in range(count)]


@pytest.mark.parametrize("count", [5, 8, 30])
def test_a_mean_of_independent_values_has_the_interval_of_student(count: int) -> None:
    values = alternating(count)
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    assert mean(values, [2.5] * count).interval == pytest.approx((expected.low, expected.high), rel=3e-3)


def test_a_difference_of_means_has_the_interval_of_welch() -> None:
    here, there = alternating(12), [0.3 * value + 2 for value in alternating(7)]
    expected = stats.ttest_ind(here, there, equal_var=False).confidence_interval()
    difference = mean(here, [1.0] * 12).minus(mean(there, [1.0] * 7))
    assert difference.interval == pytest.approx((expected.low, expected.high), rel=3e-3)
    certain = Mean(1.0, 0.0, 4).minus(Mean(0.5, 0.0, 2))
    assert certain.interval == (0.5, 0.5)


@pytest.mark.parametrize(("hits", "count"), [(0, 12), (4, 10), (9, 18), (20, 20)])
def test_a_share_of_independent_segments_has_the_interval_of_wilson(hits: int, count: int) -> None:
    flags = [i % 2 == 0 and i // 2 < hits for i in range(count)] if hits < count else [True] * count
    expected = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert share(flags, [4.0] * count)[1] == pytest.approx((expected.low, expected.high))


def test_a_change_of_shares_has_the_interval_of_newcombe() -> None:
    """Example (a) of Newcombe (1998): 56 of 70 and 48 of 80 differ by 0.2, from 0.0524 to 0.3339."""
    before = [float(i % 5 in {0, 2, 4}) for i in range(80)]
    after = [float(i % 5 != 2) for i in range(70)]
    assert (sum(after), sum(before)) == (56, 48)
    change, interval = share_change((before, [1.0] * 80), (after, [1.0] * 70))
    assert change == pytest.approx(0.2)
    assert interval == pytest.approx((0.0524, 0.3339), abs=1e-4)


def test_unequal_segments_count_as_fewer() -> None:
    flags = [True, False] * 5
    even, uneven = share(flags, [1.0] * 10)[1], share(flags, [1.0, 1.0] * 4 + [8.0, 8.0])[1]
    assert uneven[1] - uneven[0] > even[1] - even[0]


# ---- values known by hand


def test_tense_speech_is_counted_in_seconds() -> None:
    """High arousal alone, low valence alone, and both of them in 6 of 30 s."""
    others = [
        said(10.0 * i, 2.0, (CALM, Dimensions(0.8, 0.5, 0.6), Dimensions(0.4, 0.5, 0.2))[i % 3]) for i in range(9)
    ]
    tense = [said(100.0, 4.0, TENSE), said(110.0, 2.0, TENSE)]
    rest = said(120.0, 6.0, CALM)
    found = voice([*others, *tense, rest])["tense"]
    assert found.value == pytest.approx(6 / 30)
    assert found.word == "arousal above 0.6 with valence below 0.45"
    assert (found.segments, found.seconds, found.source) == (12, pytest.approx(30.0), "model")


def test_agreement_is_that_of_label_and_valence() -> None:
    """Neutral labels and neutral valence point nowhere; a contradiction counts although it makes the label doubtful."""
    unpleasant, pleasant = Dimensions(0.5, 0.5, 0.2), Dimensions(0.5, 0.5, 0.8)
    agree = [said(10.0 * i, label="sad", dimensions=unpleasant) for i in range(9)]
    disagree = [said(100.0 + 10 * i, label="happy", dimensions=unpleasant) for i in range(3)]
    neither = [said(200.0 + 10 * i, label="neutral", dimensions=pleasant) for i in range(5)]
    found = voice([*agree, *disagree, *neither])["agreement"]
    assert (found.value, found.segments, found.source) == (9 / 12, 12, "models")
    expected = stats.binomtest(9, 12).proportion_ci(method="wilson")
    assert found.interval is not None
    assert found.interval[0] <= expected.low, "neighbors agree in a row"
    assert found.interval[1] >= expected.high


def test_a_voice_above_its_baseline() -> None:
    """Six semitones, an octave's half, above a neutral voice of 120 Hz."""
    here = [said(10.0 * i, voice=prosody(pitch_mean=120 * 2**0.5 * (1 + 0.01 * (-1) ** i))) for i in range(12)]
    low = 12 * math.log2(120 / 255)
    found = voice(here, baseline=neutral(low, 0.5))
    assert found["pitch"].value == pytest.approx(120 * 2**0.5, rel=1e-3)
    assert found["pitch_shift"].value == pytest.approx(6.0, abs=0.01)
    assert (found["pitch_shift"].word, found["pitch_shift"].reference) == ("above", "baseline")
    assert (found["pitch_apart"].value, found["pitch_apart"].reference) == (1.0, "baseline")
    assert found["tempo_shift"].word == "no difference from the baseline shown"
    assert found["tremor_shift"].reason == (
        "not in the baseline of ann: record neutral sentences with `e2v listen --calibrate`"
    )
    wide = voice(here, baseline=neutral(low, 4.0))
    assert wide["pitch_apart"].value == 0.0, "6 semitones are ordinary where neutral samples spread by 4"


def test_without_a_baseline_the_own_median_is_the_reference() -> None:
    here = [said(10.0 * i, 2.0, voice=prosody(rate=6.0 if i < 3 else 4.0)) for i in range(12)]
    found = voice(here)
    assert (found["tempo_apart"].value, found["tempo_apart"].reference) == (pytest.approx(0.25), "recording")
    assert found["tempo_apart"].word == "at least 0.75 syllables/s away"
    assert found["tempo_shift"].reason == "no baseline of ann: record neutral sentences with `e2v listen --calibrate`"
    assert found["tempo"].value == pytest.approx(4.5)


def test_what_is_unusual_is_so_for_the_rules_of_prosody_as_well() -> None:
    assert [ordinary(name) for name in ("pitch", "rate", "pause_ratio", "tremor")] == [2.0, 0.75, 0.15, 0.3]
    assert ordinary("pitch", neutral(0.0, 3.0)) == 6.0
    assert ordinary("tremor", neutral(0.0, 3.0)) == 0.3


def test_a_course_of_arousal() -> None:
    rises = [said(12.0 * i, dimensions=Dimensions(0.3 + 0.04 * i, 0.5, 0.5)) for i in range(11)]
    found = voice(rises)
    assert found["arousal_change"].value == pytest.approx(0.2)
    assert found["arousal_change"].word == "rising"
    assert found["valence_change"].word == "stable"
    assert (found["arousal"].word, found["valence"].word) == ("moderate", "neutral")
    falls = [replace(each, judgement=rises[-1 - i].judgement) for i, each in enumerate(rises)]
    assert voice(falls)["arousal_change"].word == "falling"
    assert voice([said(12.0 * i, dimensions=TENSE) for i in range(11)])["arousal"].word == "high"


def test_a_change_is_that_from_the_first_third_to_the_last() -> None:
    rises = [said(12.0 * i, voice=prosody(pitch_mean=100 * 2 ** (i // 4 / 12))) for i in range(12)]
    found = voice(rises)["pitch_change"]
    assert found.value == pytest.approx(2.0)
    assert (found.word, found.unit) == ("higher in the last third than in the first", "semitones")
    late = [said(12.0 * i, dimensions=TENSE if i >= 20 and i % 5 else CALM) for i in range(30)]
    found = voice(late)["tense_change"]
    assert (found.value, found.word) == (pytest.approx(0.8), "higher in the last third than in the first")
    assert voice(late[:29])["tense_change"].reason == "29 judged segments: at least 30 are needed"


# ---- how often the intervals hold the truth


RECORDINGS = 200
ORDINARY = said(0.0)
JUDGEMENT = ORDINARY.judgement


@pytest.mark.parametrize("memory", [0.0, 0.3])
def test_the_intervals_hold_the_truth(memory: float) -> None:
    """Recordings of one voice whose true level, change, difference and shares are known; neighbors may be alike."""
    rng = np.random.default_rng(3)
    held: dict[str, int] = dict.fromkeys(
        ("pitch", "pitch_shift", "tempo_change", "valence_change", "tense", "tense_change"), 0
    )
    for _ in range(RECORDINGS):
        count = int(rng.integers(30, 60))
        noise = remembering(rng, (count, 3), memory)
        tense = switching(rng, count, 0.3, memory)
        segments = []
        for i in range(count):
            measured = prosody(
                pitch_mean=255 * 2 ** ((-6 + noise[i, 1]) / 12), rate=4.5 + 0.15 * i * 8.0 / 60 + noise[i, 2] / 3
            )
            dimensions = Dimensions(0.8 if tense[i] else 0.4, 0.5, 0.2 + 0.02 * noise[i, 0])
            segment = replace(ORDINARY, start=8.0 * i, end=8.0 * i + float(rng.uniform(1.5, 6)), prosody=measured)
            segments.append(replace(segment, judgement=replace(JUDGEMENT, dimensions=dimensions)))
        weights = np.array([each.duration for each in segments])
        tempo = 4.5 + 0.15 * np.arange(count) * 8.0 / 60
        third = count // 3
        rise = np.average(tempo[-third:], weights=weights[-third:]) - np.average(tempo[:third], weights=weights[:third])
        samples = rng.normal(-8, 0.8, 5)
        known = neutral(float(samples.mean()), float(samples.std(ddof=1)))
        found = voice(segments, baseline=known, kinds=["pitch", "tempo", "valence", "tense"])
        truth = {
            "pitch_shift": 2.0,
            "pitch": 255 / 2**0.5,
            "tempo_change": float(rise),
            "valence_change": 0.0,
            "tense": 0.3,
            "tense_change": 0.0,
        }
        for name, value in truth.items():
            interval = found[name].interval
            assert interval is not None
            held[name] += interval[0] <= value <= interval[1]
    shares = {name: count / RECORDINGS for name, count in held.items()}
    assert all(0.9 <= value <= 0.995 for value in shares.values()), shares


def remembering(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    noise = rng.normal(size=shape)
    for i in range(1, len(noise)):
        noise[i] = memory * noise[i - 1] + math.sqrt(1 - memory**2) * noise[i]
    return noise


def switching(rng: np.random.Generator, count: int, probability: float, memory: float) -> list[bool]:
    flags = [bool(rng.random() < probability)]
    while len(flags) < count:
        flags.append(flags[-1] if rng.random() < memory else bool(rng.random() < probability))
    return flags


# ---- too little, or nothing


def test_too_little_has_a_reason_instead_of_a_number() -> None:
    four = voice([said(20.0 * i) for i in range(4)])
    assert {each.value for each in four.indicators} == {None}
    assert four["pitch"].reason == "4 judged segments: at least 5 are needed"
    nine = voice([said(20.0 * i) for i in range(9)])
    assert nine["pitch"].value is not None
    assert nine["tense"].reason == "9 judged segments: at least 10 are needed"
    brief = voice([said(20.0 * i, 1.5) for i in range(6)])
    assert brief["pitch"].reason == "9.0 s of judged speech: at least 10 s are needed"
    dense = voice([said(4.0 * i) for i in range(12)])
    assert dense["pitch_change"].reason == "judged segments within 44 s: at least 60 s are needed"
    assert dense["valence_change"].reason == dense["pitch_change"].reason
    shaky = [said(20.0 * i, voice=prosody(tremor=0.2 if i < 3 else None)) for i in range(12)]
    assert voice(shaky)["tremor"].reason == "3 judged segments with measured tremor: at least 5 are needed"


def test_a_measure_that_never_varies_has_no_uncertainty_to_show() -> None:
    same = voice([said(20.0 * i) for i in range(12)])
    for name in ("pauses", "pauses_change"):
        assert same[name].word == "equal in all segments, so that the interval says nothing"
    pausing = [said(20.0 * i, voice=prosody(pause_ratio=0.1 + i % 2 / 10)) for i in range(12)]
    assert (voice(pausing)["pauses"].word, voice(pausing)["pauses_change"].word) == ("mean", "no change shown")


def test_derived_dimensions_are_named_and_give_no_tense_speech() -> None:
    found = voice([said(20.0 * i, dimensions=None, label="angry") for i in range(12)])
    assert (found["arousal"].source, found["arousal"].word) == ("labels", "derived from the labels, not measured")
    assert "--dimensional" in (found["tense"].reason or "")
    assert "no second opinion" in (found["agreement"].reason or "")


def test_what_was_not_measured_says_how_to() -> None:
    bare = [replace(said(20.0 * i), prosody=None) for i in range(12)]
    assert {voice(bare)[name].reason for name in MEASURES} == {
        "the voice was not measured: analyze with prosody=True (--prosody)"
    }
    poor = [said(20.0 * i, voice=prosody(score=0.2)) for i in range(12)]
    assert "too poor" in (voice(poor)["pitch"].reason or "")
    assert voice(poor)["arousal"].value == 0.5


def test_two_voices_at_once_are_left_out() -> None:
    clear = [said(20.0 * i) for i in range(10)]
    mixed = said(300.0, 5.0, TENSE, voice=prosody(pitch_mean=400.0))
    assert mixed.judgement is not None
    mixed = replace(mixed, judgement=replace(mixed.judgement, notes=("overlap",)))
    found = voice([*clear, mixed])
    assert (found.overlapped, found.segments) == (1, 10)
    assert found.indicators == voice(clear).indicators


def test_each_voice_is_its_own() -> None:
    ann = [said(20.0 * i) for i in range(10)]
    bob = [said(20.0 * i + 5, speaker="bob", dimensions=TENSE, voice=prosody(pitch_mean=90.0)) for i in range(10)]
    both = e2v_port.indicators(talk(sorted([*ann, *bob], key=lambda each: each.start)))
    assert [each.speaker for each in both.voices] == ["ann", "bob"]
    assert both.voices[0] == voice(ann)
    assert both.voices[1] == voice(bob)
    assert both.notes == {}
    unnamed = [replace(each, speaker=None, channel=i % 2 + 1) for i, each in enumerate(ann)]
    found = e2v_port.indicators(talk(unnamed))
    assert [each.channel for each in found.voices] == [1, 2]
    assert list(found.notes) == ["unnamed_speaker"]
    assert e2v_port.indicators(talk([])).voices == ()


spoken = st.builds(
    said,
    st.floats(0, 300),
    st.sampled_from([0.5, 1.5, 4.0, 11.0]),
    st.sampled_from([None, CALM, TENSE, Dimensions(0.0, 0.0, 1.0)]),
    label=st.sampled_from(["angry", "happy", "neutral"]),
    speaker=st.sampled_from(["ann", None]),
    voice=st.builds(
        prosody,
        pitch_mean=st.sampled_from([None, 80.0, 300.0]),
        rate=st.floats(0, 9),
        pause_ratio=st.sampled_from([0.0, 0.0, 0.5]),
        tremor=st.sampled_from([None, 0.0, 1.0]),
        score=st.sampled_from([0.0, 1.0]),
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(spoken, max_size=24))
def test_a_value_stands_beside_its_word_and_inside_its_interval(segments: list[e2v_port.JudgedSegment]) -> None:
    analysis = talk(sorted(segments, key=lambda each: each.start))
    found = e2v_port.indicators(analysis, neutral(-10.0, 1.0))
    jsonschema.validate(found.to_dict(), definition("indicators"))
    json.dumps(found.to_dict(), allow_nan=False)
    assert found == e2v_port.indicators(analysis, neutral(-10.0, 1.0))
    for each in (number for one in found.voices for number in one.indicators):
        shown = (each.value, each.interval, each.word)
        assert (None in shown) == (each.reason is not None) == all(part is None for part in shown)
        if each.value is None or each.interval is None:
            continue
        assert each.segments >= each.minimum.segments
        assert each.seconds >= each.minimum.seconds
        low, high = each.interval
        assert low - 1e-9 <= each.value <= high + 1e-9
        if each.name.endswith("_apart") or each.name in {
            "arousal",
            "valence",
            "tense",
            "pauses",
            "tremor",
            "agreement",
        }:
            assert 0 <= low <= high <= 1


# ---- what there is no indicator of


def test_deception_is_refused_in_words() -> None:
    analysis = talk([said(20.0 * i) for i in range(12)])
    for name in ("deception", "Truthfulness", "lie", "stress"):
        with pytest.raises(ValueError, match=r"is refused: cues to deception are weak \(DePaulo et al\. 2003; .*docs"):
            e2v_port.indicators(analysis, kinds=["pitch", name])
    for name in ("depression", "health"):
        with pytest.raises(ValueError, match=r"is refused: none of these figures was tested as a finding about health"):
            e2v_port.indicators(analysis, kinds=[name])
    with pytest.raises(ValueError, match=r"unknown indicator 'loudness': use arousal, valence, tense, pitch"):
        e2v_port.indicators(analysis, kinds=["loudness"])
    with pytest.raises(TypeError, match="analysis"):
        e2v_port.indicators([analysis])  # type: ignore[arg-type]


def test_chosen_kinds_are_the_same_numbers() -> None:
    segments = [said(20.0 * i) for i in range(12)]
    everything = voice(segments).indicators
    assert list(dict.fromkeys(each.name.split("_")[0] for each in everything)) == list(KINDS)
    some = voice(segments, kinds=["tremor", "arousal"]).indicators
    assert some == tuple(each for each in everything if each.name.startswith(("arousal", "tremor")))


def test_every_report_says_what_it_does_not_say() -> None:
    found = e2v_port.indicators(talk([said(20.0 * i) for i in range(12)]))
    said_so = "They say nothing about truthfulness, intentions or health"
    assert said_so in found.to_dict()["notice"]
    assert said_so in table(replace(talk([]), indicators=found)).plain


# ---- measures in analyses


@pytest.fixture(scope="module")
def dimensional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dimensional")
    return toys.convert(toys.make_dimensional(folder / "checkpoint"), folder / "model")


@pytest.fixture(scope="module")
def conversation() -> np.ndarray:
    """A synthesizer's sentence for 90 s, two semitones higher and faster from half way on."""
    sentences = [load_audio(path) for path in SPEECH if path.stem == "quick"]  # all of it above 75 Hz
    higher = [np.interp(np.arange(0, len(each) - 1, 2 ** (2 / 12)), np.arange(len(each)), each) for each in sentences]
    parts: list[np.ndarray] = []
    for each in [*sentences * 12, *higher * 12]:
        parts += [each.astype(np.float32), np.zeros(SAMPLING_RATE * 2, np.float32)]
    return np.concatenate(parts)


@pytest.fixture(scope="module")
def measured(conversation: np.ndarray, dimensional: Path) -> Analysis:
    return e2v_port.analyze(
        conversation,
        model="bundled-tiny",
        dimensional=dimensional,
        sampling_rate=SAMPLING_RATE,
        prosody=True,
        runtime="cpu",
    )


def test_a_voice_that_rises_is_heard_to_rise(measured: Analysis) -> None:
    """The step is that of the resampling."""
    [found] = e2v_port.indicators(measured, kinds=["pitch", "tempo"]).voices
    assert {found[name].word for name in ("pitch_change", "tempo_change")} == {
        "higher in the last third than in the first"
    }
    assert found["pitch_change"].value == pytest.approx(2.0, abs=0.1)


def test_measures_are_those_of_the_segments_alone(measured: Analysis, conversation: np.ndarray) -> None:
    for segment in measured.segments:
        waveform = conversation[round(segment.start * SAMPLING_RATE) : round(segment.end * SAMPLING_RATE)]
        assert segment.prosody == measure(waveform)


def test_the_detector_measures_the_same() -> None:
    clip = load_audio(SPEECH[0])
    analysis = e2v_port.analyze(clip, model="bundled-tiny", sampling_rate=SAMPLING_RATE, prosody=True, runtime="cpu")
    heard = e2v_port.EmotionDetector("bundled-tiny", runtime="cpu").analyze(clip, SAMPLING_RATE)
    assert [(each.prosody, each.reasons) for each in analysis.segments] == [
        (each.prosody, each.reasons) for each in heard.segments
    ]
    assert e2v_port.indicators(analysis) == e2v_port.indicators(heard)


def test_judgements_do_not_depend_on_measures(measured: Analysis, conversation: np.ndarray, dimensional: Path) -> None:
    plain = e2v_port.analyze(
        conversation, model="bundled-tiny", dimensional=dimensional, sampling_rate=SAMPLING_RATE, runtime="cpu"
    )
    assert [each.judgement for each in plain.segments] == [each.judgement for each in measured.segments]
    assert {each.prosody for each in plain.segments} == {None}
    assert "prosody" not in plain.timings
    assert measured.timings["prosody"] > 0
    again = e2v_port.analyze(
        conversation,
        model="bundled-tiny",
        dimensional=dimensional,
        sampling_rate=SAMPLING_RATE,
        prosody=True,
        runtime="cpu",
    )
    assert e2v_port.indicators(again) == e2v_port.indicators(measured)


def test_measures_are_in_json_and_csv(measured: Analysis) -> None:
    whole = replace(measured, indicators=e2v_port.indicators(measured))
    document = json.loads(json.dumps(whole.to_dict(), allow_nan=False))
    jsonschema.validate(document, definition("analysis"))
    assert document["indicators"]["voices"][0]["indicators"]
    rows = list(csv.DictReader(io.StringIO(to_csv([measured]))))
    for row, segment in zip(rows, document["segments"], strict=True):
        assert float(row["prosody_pitch_mean"]) == segment["prosody"]["pitch_mean"]
        assert float(row["prosody_quality_snr"]) == segment["prosody"]["quality"]["snr"]
        assert "e2v_angry" in row
        assert "reasons" not in row
    short = e2v_port.analyze(
        np.ones(800, np.float32) * np.sin(np.arange(800)).astype(np.float32),
        model="bundled-tiny",
        sampling_rate=SAMPLING_RATE,
        whole=True,
        prosody=True,
        runtime="cpu",
    )
    assert (short.segments[0].judgement is not None, short.segments[0].prosody) == (True, None)


def test_a_turn_has_the_measures_of_its_segments(conversation: np.ndarray) -> None:
    parts = [GivenSegment(0, 3, "ann"), GivenSegment(3, 9, "ann")]
    analysis = e2v_port.analyze(
        conversation, model="bundled-tiny", sampling_rate=SAMPLING_RATE, segments=parts, prosody=True, runtime="cpu"
    )
    one, two = (segment.prosody for segment in analysis.segments)
    assert one is not None
    assert two is not None
    found = average([(3.0, one), (6.0, two)])
    assert found.pitch_mean == pytest.approx(((one.pitch_mean or 0) + 2 * (two.pitch_mean or 0)) / 3)
    assert (found.pauses, found.duration) == (one.pauses + two.pauses, pytest.approx(9.0))
    assert len(found.contour) == len(one.contour) + len(two.contour)
    assert average([(3.0, one)]) == one
    assert average([(3.0, one), (6.0, replace(two, tremor=None))]).tremor == one.tremor
    for turn in analysis.turns or ():
        measured = [(part.duration, part.prosody) for part in turn.parts if part.prosody]
        assert turn.prosody == average(measured)
        jsonschema.validate(turn.to_dict(), definition("turn"))
        assert turn.to_dict()["prosody"]["pitch_mean"] is not None


def test_the_course_is_that_of_a_trajectory(recordings: Path) -> None:
    """A real recording, judged by prosody alone: the detector's own trend."""
    detector = e2v_port.EmotionDetector(backend="prosodic")
    analysis = detector.analyze(recordings / "emodb_timeline.flac")
    [found] = e2v_port.indicators(analysis).voices
    course = trajectory(detector.history(3600.0))
    assert found["valence_change"].value == pytest.approx(course.slope, rel=1e-6)
    assert found["valence_change"].word == course.trend
    assert found["tense"].source == "prosody"
    assert all(found[name].value is not None for name in ("pitch", "tempo", "pauses"))


# ---- the command line


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "e2v_port", "analyze", *map(str, arguments)], check=False, capture_output=True, text=True
    )


def test_the_command_line_shows_indicators(tmp_path: Path) -> None:
    done = run(SPEECH[0], "--indicators", "--model", "bundled-tiny", "-r", "cpu")
    assert done.returncode == 0, done.stderr
    assert "no tense, tense_change: arousal and valence were not measured" in done.stdout
    assert done.stdout.rstrip().endswith("no decision about a person may rest on them.")
    done = run(SPEECH[0], "--indicators", "--json", "--model", "bundled-tiny", "-r", "cpu")
    document = json.loads(done.stdout)
    assert document["segments"][0]["prosody"]["pitch_mean"] > 50
    assert document["indicators"]["voices"][0]["segments"] == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["deception"], "error: deception is refused: cues to deception are weak"),
        (["none.wav", "--format", "csv"], "error: --format csv has no room for --indicators: use json or jsonl"),
        (["none.wav", "--whole"], "error: --indicators are about a voice over several segments"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(options: list[str], error: str) -> None:
    done = run("--indicators", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(error)
    assert done.stderr.count("\n") == 1


def test_formats_without_room_for_measures_are_refused() -> None:
    assert run("none.wav", "--prosody", "-f", "srt").stderr == (
        "error: --format srt has no room for --prosody: use csv, json, jsonl, turns\n"
    )
    assert run("none.wav", "--prosody", "--whole").stderr == (
        "error: --whole prints scores alone: add --json to --prosody, or --format csv or json\n"
    )


# ---- nothing at random

ROOT = Path(__file__).parents[1]
INFERENCE = (
    "audio",
    "emotions",
    "speech",
    "prosody",
    "architectures",
    "models",
    "transcribe",
    "llm",
    "analysis",
    "live",
)
RANDOM = {"random", "default_rng", "RandomState", "rand", "randn", "randint", "randperm", "manual_seed", "secrets"}
CHOSEN = {("llm/language.py", "Chance"), ("llm/speech.py", "_chance")}  # words of a reply, if a temperature asks for it


def drawn(path: Path) -> Iterator[str]:
    """Yields what a file names that draws at random; a generator of a fixed seed draws nothing."""
    tree = ast.parse(path.read_text("utf-8"))
    tree.body = [node for node in tree.body if ("/".join(path.parts[-2:]), getattr(node, "name", "")) not in CHOSEN]
    fixed = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "default_rng"
        if [type(seed) for seed in node.args] == [ast.Constant]
        for part in ast.walk(node.func)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in RANDOM and id(node) not in fixed:
            yield f"{path}:{node.lineno} {node.attr}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"{path}:{node.lineno} {name}" for name in names if RANDOM & {*name.split(".")})


def test_nothing_in_inference_is_drawn_at_random_unasked(tmp_path: Path) -> None:
    files = [path for room in INFERENCE for path in (ROOT / "e2v_port" / room).rglob("*.py")]
    files += (ROOT / "runtimes").rglob("*.py")
    assert len(files) > 80
    found = [each for path in files for each in drawn(path)]
    assert found == []
    guess = tmp_path / "guess.py"
    guess.write_text("import numpy as np\nvalue = 0.5 + np.random.uniform(-0.1, 0.1)\n", "utf-8")
    assert len(list(drawn(guess))) == 1

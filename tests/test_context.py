"""Descriptions of a voice for a language model: the words, the confidence, and words that never occur."""

import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import numpy as np
import pytest

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.trajectory import trajectory
from e2v_port.llm.describe import NOTICE, line, means, report
from e2v_port.llm.tool import tool_schema
from e2v_port.prosody.measure import Prosody
from e2v_port.prosody.recording import AudioQuality

SETTINGS = FusionSettings()
FEAR = {"fearful": 0.9, "neutral": 0.1}
# Words for findings about a person and their causes; the names of the 26 emotions describe voices.
FORBIDDEN = re.compile(
    r"depress|disorder|diagnos|anxiety|mania|manic|autis|symptom|\bpatients?\b|\bill(?:ness)?\b|suicid|trauma|therap|mental|"
    r"drunk|intoxicat|lying|\blies\b|(?:you|he|she|they|speaker|person) (?:is|are|feels?)\b",
    re.I,
)


def prosody(**values: Any) -> Prosody:
    """Returns the measures of an ordinary voice, except for these."""
    quality = AudioQuality(clipped=0.0, level=-23.0, snr=30.0, score=1.0)
    ordinary: dict[str, Any] = dict.fromkeys(Prosody.__dataclass_fields__, 0.0) | {"quality": quality}
    ordinary |= {"contour": np.full(300, 120.0), "pitch_mean": 120.0, "rate": 4.0, "pause_ratio": 0.1}
    return Prosody(**(ordinary | values))


def judged(
    scores: Mapping[str, float] | None,
    dimensions: Dimensions | None = None,
    *,
    seconds: float = 4.0,
    speaker: str | None = None,
    reasons: tuple[str, ...] = (),
    measured: Prosody | None = None,
) -> JudgedSegment:
    prediction = None
    if scores:
        label = max(scores, key=scores.__getitem__)
        prediction = Prediction(label, scores[label], scores, scores, seconds)
    judgement = fuse(prediction, dimensions, seconds, label_set=taxonomy.label_set_of(scores) if scores else None)
    return JudgedSegment(0.0, seconds, "normal", speaker, None, judgement, prediction, measured, reasons)


MIXED = {"fearful": 0.6, "sad": 0.3, "neutral": 0.1}


def test_the_form_with_signs_of_prosody() -> None:
    text = line([judged(MIXED, reasons=("elevated pitch", "speaking quickly"))], SETTINGS)
    assert text == "[Voice sounds fearful (elevated pitch, speaking quickly), possibly also sad]"
    measured = Dimensions(0.65, 0.3, 0.2)
    text = line([judged(FEAR, measured, reasons=("elevated pitch",))], SETTINGS)
    signs = "shade: anxious, high arousal, low dominance, negative valence, elevated pitch"
    assert text == f"[Voice sounds moderately fearful ({signs})]"


@pytest.mark.parametrize(
    ("label", "arousal", "how"),
    [
        ("angry", 0.3, "slightly "),
        ("angry", 0.45, "mildly "),
        ("angry", 0.6, "moderately "),
        ("angry", 0.7, "very "),
        ("angry", None, ""),
        ("sad", 0.7, ""),  # a sad voice is calm: its arousal does not say how sad
        ("neutral", 0.3, ""),
        ("grumpy", 0.7, ""),
    ],
)
@pytest.mark.parametrize("confidence", [0.6, 0.99])
def test_strength_is_measured_never_a_probability(
    label: str, arousal: float | None, how: str, confidence: float
) -> None:
    measured = None if arousal is None else Dimensions(arousal, 0.5, 0.5)
    text = line([judged({label: confidence, "surprised": 1 - confidence}, measured)], SETTINGS)
    assert text.startswith(f"[Voice sounds {how}{label}")


def test_doubt_in_words() -> None:
    """Of one segment: exactly where it has the note. The emotion `uncertain` of the 26 is another thing."""
    close = {"angry": 0.34, "disgusted": 0.28, "sad": 0.2, "neutral": 0.18}
    assert line([judged(close)], SETTINGS) == "[Voice unclear: angry or disgusted]"
    assert line([judged(close, speaker="Ann")], SETTINGS) == "[Voice of Ann unclear: angry or disgusted]"
    measured = Dimensions(0.8, 0.5, 0.5)
    assert line([judged(close, measured)], SETTINGS) == "[Voice unclear: angry or disgusted (high arousal)]"
    assert "\nHow sure: not sure (" in report([judged(close)], SETTINGS)
    rng = np.random.default_rng(1)
    labels = taxonomy.labels("emotion2vec")
    for _ in range(300):
        scores = dict(zip(labels, rng.dirichlet(np.full(len(labels), 0.3)).tolist(), strict=True))
        segment = judged(scores, Dimensions(*rng.uniform(0, 1, 3)), seconds=float(rng.uniform(1, 4)))
        assert segment.judgement is not None
        noted = "uncertain" in segment.judgement.notes
        assert line([segment], SETTINGS).startswith(f"[Voice {segment.judgement.words}") is noted
        assert means([segment], SETTINGS)["unclear"] is noted
    assert "uncertain" not in line([judged(close)], SETTINGS)


def test_notes_on_the_sound_that_change_the_meaning_are_said() -> None:
    assert line([], SETTINGS, ["silence"]) == "[No speech heard; the recording is silent]"
    text = line([judged(FEAR)], SETTINGS, ["cut_off", "merged", "cut_off", "channels_cancel"])
    remarks = "only part of the recording could be read; its channels cancel each other, the loudest was judged"
    assert text == f"[Voice sounds fearful; {remarks}]"
    assert report([judged(FEAR)], SETTINGS, notes=["cut_off"]).startswith("[Voice sounds fearful; only part of")


def test_two_sure_segments_that_differ_are_an_unclear_turn() -> None:
    segments = [judged({"angry": 0.9, "sad": 0.1}), judged({"sad": 0.88, "angry": 0.12})]
    assert line(segments, SETTINGS) == "[Voice unclear: angry or sad]"


def test_without_labels_the_octant_is_named() -> None:
    assert line([judged(None, Dimensions(0.9, 0.9, 0.1))], SETTINGS) == (
        "[Voice has high arousal and high dominance and negative valence, octant hostile]"
    )
    text = line([judged(None, Dimensions(0.51, 0.51, 0.51))], SETTINGS)
    assert text == "[Voice has no marked arousal, dominance or valence, octant exuberant]"


def test_the_headline_of_several_segments_is_the_label_of_most_support() -> None:
    """Support is the confidence where a label is the segment's, else its score, weighted by duration."""
    segments = [
        judged({"angry": 0.6, "sad": 0.4}, seconds=3.0),
        judged({"sad": 0.8, "angry": 0.2}, seconds=4.0),
        judged({"happy": 0.9, "sad": 0.1}, seconds=1.0),  # short: its confidence counts 30 % less
    ]
    assert line(segments, SETTINGS) == "[Voice sounds sad, possibly also angry]"
    found = means(segments, SETTINGS)
    assert found["emotion"] == "sad"
    assert found["confidence"] == pytest.approx((3 * 0.4 + 4 * 0.8 + 1 * 0.1) / 8)
    assert "\nLabels: sad 56%, angry 32%, happy 8%\n" in report(segments, SETTINGS)


def test_a_summary_of_one_segment_never_names_another_label() -> None:
    """Opposite valence lowers the confidence below the score of the second label."""
    scores = {"happy": 0.45, "neutral": 0.4, "sad": 0.15}
    segment = judged(scores, Dimensions(0.5, 0.5, 0.2))
    assert segment.confidence is not None
    assert segment.confidence < scores["neutral"]
    found = means([segment], SETTINGS)
    assert (found["emotion"], found["confidence"]) == ("happy", pytest.approx(segment.confidence))
    assert segment.shade is not None
    assert found["shade"] == segment.shade.to_dict()


def test_signs_of_most_of_the_speech_count() -> None:
    segments = [
        judged(FEAR, seconds=6.0, reasons=("speaking quickly",)),
        judged(FEAR, seconds=2.0, reasons=("elevated pitch",)),
    ]
    assert "(speaking quickly)" in line(segments, SETTINGS)


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"happy": 0.9, "sad": 0.1}, "quite sure"),
        ({"happy": 0.6, "sad": 0.4}, "fairly sure"),
        ({"happy": 0.4, "sad": 0.3, "angry": 0.3}, "not sure"),
        ({"happy": 0.52, "sad": 0.48}, "not sure"),
    ],
)
def test_how_sure_in_words(scores: dict[str, float], words: str) -> None:
    assert f"\nHow sure: {words} (4.0 s of speech in 1 segment)\n" in report([judged(scores)], SETTINGS)


def test_the_long_form() -> None:
    segments = [
        judged(FEAR, reasons=("elevated pitch",), measured=prosody(pitch_mean=200.0, rate=6.0, pause_ratio=0.05)),
        judged(FEAR, reasons=("elevated pitch",), measured=prosody(pitch_mean=260.0, rate=None, pause_ratio=0.15)),
    ]
    first, *lines, last = report(segments, SETTINGS).splitlines()
    assert first == line(segments, SETTINGS)
    assert last == NOTICE
    mean = taxonomy.expected(FEAR)
    values = f"arousal {mean.arousal:.2f}, dominance {mean.dominance:.2f}, valence {mean.valence:.2f}"
    assert lines == [
        "How sure: quite sure (8.0 s of speech in 2 segments)",
        "Labels: fearful 90%, neutral 10%",
        "Shade, if the label is right: anxious 40%",
        f"Dimensions, 0 to 1: {values} (not measured: from labels)",
        "Measured: pitch 230 Hz, 6.0 syllables per second, 10% pauses",
    ]


def test_measured_dimensions_are_not_called_derived() -> None:
    text = report([judged(FEAR, Dimensions(0.65, 0.3, 0.2))], SETTINGS)
    assert "Dimensions, 0 to 1: arousal 0.65, dominance 0.30, valence 0.20 (from model)" in text
    assert "Measured" not in text
    assert "Recording" not in text


def test_reasons_for_doubt_are_listed() -> None:
    poor = AudioQuality(clipped=0.1, level=-3.0, snr=4.0, score=0.2)
    text = report([judged(FEAR, seconds=1.2, measured=prosody(quality=poor))], SETTINGS)
    assert "Recording: poor" in text
    assert "little to go by" in text


def test_a_course() -> None:
    def going(slope: float) -> str:
        times = np.arange(20) * 15.0
        rows = [
            type(
                "Spoken",
                (),
                {
                    "at": t,
                    "duration": 3.0,
                    "valence": 0.5 + slope * t / 60,
                    "dimensions_from": "model",
                    "speaker": None,
                },
            )
            for t in times
        ]
        return report([judged(FEAR)], SETTINGS, trajectory(rows))

    assert "\nTrend: declining; valence -0.050 per minute (95 %: -0.050 to -0.050), from 20 segments over 4.8" in going(
        -0.05
    )
    assert "\nTrend: improving; valence +0.050" in going(0.05)
    assert "\nTrend: not enough data (1 judged" in report(
        [judged(FEAR)],
        SETTINGS,
        trajectory([])
        and trajectory(
            [
                type(
                    "Spoken",
                    (),
                    {"at": 0.0, "duration": 3.0, "valence": 0.5, "dimensions_from": "model", "speaker": None},
                )
            ]
        ),
    )


def test_speakers_are_described_separately() -> None:
    segments = [judged(FEAR, speaker="Ann"), judged({"happy": 0.9, "sad": 0.1}, speaker="B\n]ob")]
    text = report(segments, SETTINGS).splitlines()
    assert "How sure of Ann: quite sure (4.0 s of speech in 1 segment)" in text
    assert "How sure of B ob: quite sure (4.0 s of speech in 1 segment)" in text


def test_never_a_diagnosis() -> None:
    """No voice is described in words of health, or of what somebody is or feels."""
    rng = np.random.default_rng(0)
    labels = taxonomy.labels("emotion2vec")
    for number in range(300):
        scores = dict(zip(labels, rng.dirichlet(np.full(len(labels), 0.2)), strict=True))
        dimensions = Dimensions(*rng.uniform(0, 1, 3)) if number % 2 else None
        measured = prosody(tremor=1.0, jitter=0.05, breathiness=1.0)
        segment = judged(scores if number % 3 else None, dimensions or Dimensions(0.9, 0.1, 0.1), measured=measured)
        text = report([segment], SETTINGS, trajectory([])).removesuffix(NOTICE)
        assert not FORBIDDEN.search(text), text
    assert "not tell what the speaker feels" in NOTICE
    assert "no finding about health" in NOTICE


def test_the_schemas_are_schemas() -> None:
    schema = tool_schema()
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", schema["name"])  # what OpenAI and Anthropic accept
    for name in "inputSchema", "outputSchema":
        jsonschema.Draft202012Validator.check_schema(schema[name])
        assert schema[name]["type"] == "object"
    valid = jsonschema.Draft202012Validator(schema["inputSchema"]).is_valid
    assert valid({})
    assert valid({"window": 12.5, "long": True})
    assert not any(map(valid, ({"window": 0}, {"window": 1e9}, {"seconds": 3}, {"long": "yes"})))
    assert "Do not diagnose" in schema["description"]

"""What a language model is told of a voice: the words, how sure they are, and what they never say."""

import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import numpy as np
import pytest

from e2v_port import context, emotions
from e2v_port.analysis import JudgedSegment
from e2v_port.context import NOTICE, line, report, tool_schema
from e2v_port.emotions import Dimensions
from e2v_port.fusion import FusionSettings, fuse
from e2v_port.model import Prediction
from e2v_port.prosody import AudioQuality, Prosody
from e2v_port.trajectory import trajectory

SETTINGS = FusionSettings()
FEAR = {"fearful": 0.9, "neutral": 0.1}
# Words of findings about a person, and of what causes them; the names of the 26 are words for voices.
FORBIDDEN = re.compile(
    r"depress|disorder|diagnos|anxiety|mania|manic|autis|symptom|\bpatients?\b|\bill(?:ness)?\b|suicid|trauma|therap|mental|"
    r"drunk|intoxicat|lying|\blies\b|(?:you|he|she|they|speaker|person) (?:is|are|feels?)\b",
    re.I,
)


def prosody(**values: Any) -> Prosody:
    """Of an ordinary voice, but for these."""
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
    judgement = fuse(prediction, dimensions, seconds, label_set=context.label_set(scores) if scores else None)
    return JudgedSegment(0.0, seconds, "normal", speaker, None, judgement, prediction, measured, reasons)


def test_the_form_with_signs_of_prosody() -> None:
    said = line([judged(FEAR, reasons=("elevated pitch", "speaking quickly"))], SETTINGS)
    assert said == "[Voice sounds moderately anxious (elevated pitch, speaking quickly), possibly also nervous]"
    measured = Dimensions(0.65, 0.3, 0.2)
    said = line([judged(FEAR, measured, reasons=("elevated pitch",))], SETTINGS)
    assert said == "[Voice sounds strongly anxious (high arousal, low dominance, negative valence, elevated pitch)]"


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
        ({"angry": 0.28, "sad": 0.25, "happy": 0.25, "neutral": 0.22}, "hardly at all, this is a guess"),
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
    mean = emotions.expected(FEAR)
    values = f"arousal {mean.arousal:.2f}, dominance {mean.dominance:.2f}, valence {mean.valence:.2f}"
    assert lines == [
        "How sure: quite sure (8.0 s of speech in 2 segments)",
        "Likeliest: anxious 36%, nervous 18%, panicked 16%",
        f"Dimensions, 0 to 1: {values} (not measured: from labels)",
        "Measured: pitch 230 Hz, 6.0 syllables per second, 10% pauses",
    ]


def test_measured_dimensions_are_not_called_derived() -> None:
    said = report([judged(FEAR, Dimensions(0.65, 0.3, 0.2))], SETTINGS)
    assert "Dimensions, 0 to 1: arousal 0.65, dominance 0.30, valence 0.20 (from model)" in said
    assert "Measured" not in said
    assert "Recording" not in said


def test_what_lessens_trust_is_told() -> None:
    poor = AudioQuality(clipped=0.1, level=-3.0, snr=4.0, score=0.2)
    said = report([judged(FEAR, seconds=1.2, measured=prosody(quality=poor))], SETTINGS)
    assert "Recording: poor" in said
    assert "little to go by" in said


def test_a_course() -> None:
    def going(slope: float) -> str:
        times = np.arange(20) * 15.0
        rows = [
            type("Said", (), {"at": t, "duration": 3.0, "valence": 0.5 + slope * t / 60, "dimensions_from": "model"})
            for t in times
        ]
        return report([judged(FEAR)], SETTINGS, trajectory(rows))

    assert (
        "\nCourse: declining; valence -0.050 per minute (95 %: -0.050 to -0.050), from 20 segments over 4.8"
        in going(-0.05)
    )
    assert "\nCourse: improving; valence +0.050" in going(0.05)
    assert "\nCourse: too little to tell (1 judged" in report(
        [judged(FEAR)],
        SETTINGS,
        trajectory([])
        and trajectory([type("Said", (), {"at": 0.0, "duration": 3.0, "valence": 0.5, "dimensions_from": "model"})]),
    )


def test_speakers_are_told_apart() -> None:
    segments = [judged(FEAR, speaker="Ann"), judged({"happy": 0.9, "sad": 0.1}, speaker="B\n]ob")]
    said = report(segments, SETTINGS).splitlines()
    assert "How sure of Ann: quite sure (4.0 s of speech in 1 segment)" in said
    assert "How sure of B ob: quite sure (4.0 s of speech in 1 segment)" in said


def test_never_a_diagnosis() -> None:
    """Whatever the voice: words of health or of what somebody is or feels are not among them."""
    rng = np.random.default_rng(0)
    labels = emotions.labels("emotion2vec")
    for number in range(300):
        scores = dict(zip(labels, rng.dirichlet(np.full(len(labels), 0.2)), strict=True))
        dimensions = Dimensions(*rng.uniform(0, 1, 3)) if number % 2 else None
        measured = prosody(tremor=1.0, jitter=0.05, breathiness=1.0)
        segment = judged(scores if number % 3 else None, dimensions or Dimensions(0.9, 0.1, 0.1), measured=measured)
        said = report([segment], SETTINGS, trajectory([])).removesuffix(NOTICE)
        assert not FORBIDDEN.search(said), said
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

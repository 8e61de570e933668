"""Turns: what one speaker says at a stretch."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jsonschema
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.schema import definition
from e2v_port.analysis.turns import TurnSettings, spoken, turns
from e2v_port.audio import SAMPLING_RATE
from e2v_port.emotions.estimates import Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.speech.segment import GivenSegment

FUSION = FusionSettings()


def segment(
    start: float, end: float, speaker: str | None = "ann", *, sounds: str | None = "happy", text: str | None = None
) -> JudgedSegment:
    """Returns a segment that sounds so, or that was not judged."""
    scores = {label: 0.9 if label == sounds else 0.025 for label in ("angry", "fearful", "happy", "neutral", "sad")}
    logits = {label: math.log(score) for label, score in scores.items()}
    prediction = Prediction(sounds or "", 0.9, scores, logits, end - start)
    judgement = fuse(prediction, None, end - start, FUSION, label_set="emotion2vec") if sounds else None
    return JudgedSegment(start, end, "normal" if sounds else "too_short", speaker, text, judgement)


def texts(segments: Sequence[JudgedSegment], settings: TurnSettings | None = None) -> list[str | None]:
    return [turn.text for turn in turns(segments, FUSION, settings)]


def test_a_turn_ends_where_somebody_else_speaks_the_emotion_changes_or_a_pause_comes() -> None:
    said = [
        segment(0, 3, text="I am"),
        segment(3.2, 6, text="glad"),
        segment(6, 8, "bob", text="so am I"),
        segment(8.5, 12, text="are you?"),
        segment(12, 14, text="you are not", sounds="angry"),
        segment(17, 20, text="right", sounds="angry"),
    ]
    assert texts(said) == ["I am glad", "so am I", "are you?", "you are not", "right"]
    parted = ["I am", "glad", "so am I", "are you?", "you are not", "right"]
    assert texts(said, TurnSettings(pause=10, longest=5)) == parted
    assert texts(said, TurnSettings(pause=10))[-1] == "you are not right"


def test_what_was_not_judged_belongs_to_the_turn_around_it() -> None:
    said = [segment(0, 3, text="yes"), segment(3.5, 3.9, sounds=None, text="no"), segment(4, 6, text="well")]
    assert texts(said) == ["yes no well"]
    [turn] = turns(said, FUSION)
    assert turn.to_dict()["seconds_judged"] == 5.0
    assert next(iter(turns([said[1]], FUSION))).headline is None


def test_the_emotion_of_one_segment_is_that_of_its_turn() -> None:
    only = segment(1, 4, text="fine")
    [turn] = turns([only], FUSION)
    assert (turn.headline, turn.emotion["confidence"]) == (only.emotion, only.confidence)
    jsonschema.validate(turn.to_dict(), definition("turn"))


def test_two_voices_at_once_are_marked() -> None:
    said = [segment(0, 3), segment(2, 5, "bob"), segment(6, 8)]
    assert [turn.overlap for turn in turns(said, FUSION)] == [True, True, False]
    heard = replace(said[2], judgement=replace(said[2].judgement, notes=("overlap",)))  # type: ignore[type-var]
    assert [turn.overlap for turn in turns([heard], FUSION)] == [True]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 60),
            st.integers(1, 12),
            st.sampled_from(["ann", "bob", None]),
            st.sampled_from(["happy", "sad", None]),
        ),
        max_size=12,
    )
)
def test_every_segment_is_in_one_turn_and_no_turn_mixes_speakers(parts: list[tuple[int, int, str, str]]) -> None:
    said = [segment(start, start + length, who, sounds=how) for start, length, who, how in sorted(parts, key=str)]
    said.sort(key=lambda each: (each.start, each.end))
    found = turns(said, FUSION)
    assert [i for turn in found for i in turn.segments] == [*range(len(said))]
    for turn in found:
        assert {part.speaker for part in turn.parts} == {turn.speaker}
        assert {part.emotion for part in turn.parts if part.judgement and not part.judgement.doubtful} <= {
            turn.emotion["emotion"]
        }


def test_turns_are_in_an_analysis_that_knows_speakers_or_words() -> None:
    assert spoken([segment(0, 2, None)], FUSION) is None
    assert spoken([], FUSION) is None
    assert len(spoken([segment(0, 2, None, text="yes")], FUSION) or ()) == 1
    tone = np.sin(np.arange(4 * SAMPLING_RATE) / 9).astype(np.float32)
    parts = [GivenSegment(0, 2, "ann"), GivenSegment(2, 4, "bob")]
    analysis = e2v_port.analyze(tone, sampling_rate=SAMPLING_RATE, segments=parts)
    assert [turn.speaker for turn in analysis.turns or ()] == ["ann", "bob"]
    jsonschema.validate(analysis.to_dict(), definition("analysis"))

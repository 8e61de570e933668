"""What is said beside how it sounds."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.analysis.analyze import each
from e2v_port.analysis.schema import definition
from e2v_port.analysis.turns import Turn
from e2v_port.audio import SAMPLING_RATE
from e2v_port.emotions.wording import Wording, WordingSettings, weigh
from e2v_port.speech.segment import GivenSegment
from e2v_port.transcribe.valence import Scorer, TextValence
from e2v_port.transcribe.words import Transcript

TONE = np.sin(np.arange(3 * SAMPLING_RATE) / 9).astype(np.float32)


def test_words_weigh_six_tenths_and_the_voice_four() -> None:
    found = weigh(0.9, 0.4, "model", scorer="VADER")
    assert found.valence == pytest.approx(0.6 * 0.9 + 0.4 * 0.4)
    assert (found.text, found.voice, found.voice_from, found.scorer) == (0.9, 0.4, "model", "VADER")
    even = weigh(0.9, 0.4, "model", settings=WordingSettings(text=1, voice=1))
    assert even.valence == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("text", "voice", "mismatch"),
    [
        (0.9, 0.2, "the words are pleasant, the voice is not"),
        (0.1, 0.8, "the words are unpleasant, the voice is not"),
        (0.9, 0.5, None),  # a voice without valence contradicts nothing
        (0.5, 0.1, None),
        (0.9, 0.9, None),
        (0.1, 0.1, None),
    ],
)
def test_words_and_voice_disagree_where_both_are_clear(text: float, voice: float, mismatch: str | None) -> None:
    assert weigh(text, voice, "model").mismatch == mismatch
    assert weigh(text, voice, "model").reason is None


def test_what_is_missing_has_a_reason_and_no_number() -> None:
    assert weigh(0.9, 0.2, "labels", doubtful=True) == Wording(
        0.9, 0.2, "labels", pytest.approx(0.62), None, "the emotion of the voice is in doubt", None
    )
    assert weigh(None, 0.2, "labels", reason="no word of known valence").to_dict() == {
        "text": None,
        "voice": 0.2,
        "voice_from": "labels",
        "valence": None,
        "mismatch": None,
        "reason": "no word of known valence",
        "scorer": None,
    }
    assert weigh(0.9, None, None).reason == "the voice was not judged"


@given(st.floats(0, 1), st.floats(-0.2, 1.2), st.booleans())
def test_both_parts_are_shown_and_their_mean_lies_between(text: float, voice: float, doubtful: bool) -> None:
    found = weigh(text, voice, "model", doubtful=doubtful)
    assert (found.text, found.voice) == (text, voice)
    assert found.valence is not None
    assert min(text, voice) - 1e-9 <= found.valence <= max(text, voice) + 1e-9
    if found.mismatch:
        assert not doubtful
        assert abs(text - voice) >= 0.3
        assert ("are pleasant" in found.mismatch) == (text > voice)


@pytest.mark.parametrize("wrong", [{"text": 0, "voice": 0}, {"pleasant": 0.4}, {"voice_unpleasant": 0.6}])
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        WordingSettings(**wrong)


@pytest.mark.parametrize(
    ("text", "voice"), [(1.1, 0.5), (-0.1, 0.5), (math.nan, 0.5), (0.5, math.nan), (0.5, math.inf)]
)
def test_valences_out_of_range_are_refused(text: float, voice: float) -> None:
    with pytest.raises(ValueError, match="must be"):
        weigh(text, voice, "model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_valence": "vader"}, "text_valence must be a function of a text, not 'vader'"),
        ({"words": 5}, "words must be the name or folder of a recognizer, or a loaded one, not 5"),
        ({"enrolled": "Ann"}, "enrolled must be KnownVoices or None, not 'Ann'"),
    ],
)
def test_options_of_another_type_are_refused_before_any_clip(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        each([], **options)


def test_the_valence_of_english_is_that_of_vader() -> None:
    vader = pytest.importorskip("vaderSentiment.vaderSentiment").SentimentIntensityAnalyzer()
    scored = TextValence()
    for text in ("I love this, it is wonderful.", "That is not good.", "This is terrible, I hate it!"):
        valence, reason = scored.of(text, "en")
        assert valence == pytest.approx((vader.polarity_scores(text)["compound"] + 1) / 2)
        assert reason is None
    assert scored.of("The table stands in the kitchen.", "en") == (None, "no word of known valence")


def test_no_other_language_is_guessed_at() -> None:
    # `fatal`, `gut` and `die` are words of VADER's lexicon, and mean other things in German.
    assert TextValence().of("Mir geht es gut", "de") == (None, "VADER knows English, not de")
    assert TextValence().of("Mir geht es gut", None) == (None, "the language of the words is not known")

    def german(text: str) -> float:
        return 0.5 if "gut" in text else -0.5

    assert TextValence(german).of("Mir geht es gut", "de") == (0.75, None)
    assert TextValence(german).name == "german"


@pytest.mark.parametrize("wrong", [1.5, float("nan"), "good"])
def test_a_scorer_out_of_range_is_refused(wrong: float) -> None:
    with pytest.raises(ValueError, match="from -1 to 1"):
        TextValence(lambda text: wrong).of("well", "en")


def test_without_vader_the_reason_names_the_remedy() -> None:
    script = (
        "import sys; sys.modules['vaderSentiment'] = None\n"
        "from e2v_port.transcribe.valence import TextValence; print(TextValence().of('good', 'en'))"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == """(None, 'vaderSentiment is not installed: pip install "e2v-port[words]"')\n"""


def turn(text: str | None, *, language: str | None = "en", scorer: Scorer | None = None) -> Turn:
    """Returns the only turn of a tone with these words."""
    parts = [GivenSegment(0, 3, "ann", text)]
    analysis = e2v_port.analyze(
        TONE, sampling_rate=SAMPLING_RATE, segments=parts, language=language if text else None, text_valence=scorer
    )
    jsonschema.validate(analysis.to_dict(), definition("analysis"))
    [found] = analysis.turns or ()
    return found


def test_turns_have_the_valence_of_their_words() -> None:
    assert turn(None).wording is None
    unknown = turn("I love this", language=None).wording
    assert unknown is not None
    assert (unknown.text, unknown.reason) == (None, "the language of the words is not known")
    silent = turn("I love this").wording  # a tone is no speech
    assert silent is not None
    assert silent.valence is None
    assert silent.reason == "the voice was not judged"
    own = turn("gut", language="de", scorer=lambda text: 1.0).wording
    assert own is not None
    assert own.text == 1.0


def test_a_language_needs_words() -> None:
    with pytest.raises(ValueError, match="segments with texts"):
        e2v_port.analyze(TONE, sampling_rate=SAMPLING_RATE, segments=[GivenSegment(0, 3)], language="en")


def test_a_language_in_doubt_is_not_known() -> None:
    assert Transcript("base", "en", None).certain_language == "en"
    assert Transcript("base", "en", 0.9).certain_language == "en"
    assert Transcript("base", "en", 0.3).certain_language is None


def test_pleasant_words_in_an_angry_voice_are_noticed(recordings: Path) -> None:
    pytest.importorskip("vaderSentiment")
    found = {}
    for name in ("emodb_03a02Wb.flac", "emodb_03a02Ta.flac"):  # acted anger and sadness, which the model hears
        for text in ("I love this, it is wonderful.", "This is terrible, I hate it."):
            segments = [GivenSegment(0, math.inf, text=text)]
            analysis = e2v_port.analyze(recordings / name, segments=segments, language="en")
            [spoken] = analysis.turns or ()
            assert spoken.wording is not None
            assert spoken.emotion["unclear"] is False
            found[name, text[:6]] = spoken.wording.mismatch
    assert {text: mismatch for (_, text), mismatch in found.items()} == {
        "I love": "the words are pleasant, the voice is not",
        "This i": None,
    }
    assert len(set(found.values())) == 2

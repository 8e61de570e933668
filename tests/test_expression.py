"""Profiles follow the literature; SSML is valid; audio and speech engines match the parameters.

Pitch, level, formants and voice quality are measured by Praat.
"""

import doctest
import io
import json
import math
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import xmlschema
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from e2v_port.emotions import taxonomy
from e2v_port.errors import AudioError, E2VError
from e2v_port.expression import profiles
from e2v_port.expression.apply import _pieces, apply
from e2v_port.expression.engines import ENGINES, to_engine, to_rvc
from e2v_port.expression.profiles import NEUTRAL, ProsodyParameters
from e2v_port.expression.remainder import remainder
from e2v_port.expression.respond import STRATEGIES, respond
from e2v_port.expression.ssml import DIALECTS, to_ssml

SSML = "{http://www.w3.org/2001/10/synthesis}"
NAMES = [emotion.name for emotion in taxonomy.emotions()]

RANGES = {  # of the first version of these parameters
    "pitch_shift_semitones": (-6, 6),
    "pitch_variance": (0.5, 2),
    "speech_rate": (0.7, 1.5),
    "pause_multiplier": (0.5, 2),
    "volume_db": (-6, 6),
    "dynamic_range": (0.5, 1.5),
    "breathiness": (0, 1),
    "tremolo_amount": (0, 1),
}
PRESETS = {  # what is known of its profiles
    "angry": {"pitch_shift_semitones": -0.5, "volume_db": 3.0, "pause_multiplier": 0.5},
    "sad": {
        "pitch_shift_semitones": -1.5,
        "volume_db": -2.0,
        "speech_rate": 0.8,
        "breathiness": 0.3,
        "pause_multiplier": 1.5,
    },
    "flirty": {"speech_rate": 0.95, "breathiness": 0.25, "pitch_shift_semitones": 0.5},
    "panicked": {"pitch_shift_semitones": 2.5, "speech_rate": 1.35, "volume_db": 4.0, "tremolo_amount": 0.5},
}
# Scherer (2003) and Juslin & Laukka (2003): level, pitch, spread of the pitch, speed; each up, down or undirected.
# Both describe fear at an intensity short of panic, and a higher pitch for hot anger, from which the table departs.
DIRECTIONS = {
    "angry": "+ . + +",
    "frustrated": "+ + + +",
    "stressed": "+ + . .",
    "panicked": "+ + + +",
    "anxious": "- + - +",
    "sad": "- - - -",
    "lonely": "- - - -",
    "disappointed": "- - - -",
    "hopeless": "- - - -",
    "happy": "+ + + +",
    "excited": "+ + + +",
    "bored": ". . - -",
    "affectionate": "- - - -",
}

values = st.fixed_dictionaries({name: st.floats(low, high) for name, (low, high) in RANGES.items()})


def profile(name: str) -> dict[str, Any]:
    row: dict[str, Any] = taxonomy.table("prosody")["profiles"][name]
    return row


# The table.


def test_the_parameters_have_the_ranges_of_the_first_version() -> None:
    rows = taxonomy.table("prosody")["parameters"]
    assert {name: (row["from"], row["to"]) for name, row in rows.items()} == RANGES
    assert list(asdict(NEUTRAL)) == list(RANGES)
    for name, row in rows.items():
        assert getattr(NEUTRAL, name) == (1 if row["kind"] == "factor" else 0)


@pytest.mark.parametrize("name", NAMES)
def test_every_emotion_has_a_profile_with_a_source(name: str) -> None:
    full = profiles.parameters(name)
    assert full.to_dict() == {key: profile(name)[key] for key in RANGES}
    assert (full == NEUTRAL) == (name == "neutral")
    sources = {*taxonomy.table("prosody")["sources"], "chosen here", "by definition"}
    assert any(profile(name)["source"].startswith(source) for source in sources)


@pytest.mark.parametrize("name", PRESETS)
def test_the_original_profiles_are_kept(name: str) -> None:
    assert PRESETS[name].items() <= profile(name).items()
    assert profile(name)["source"].startswith("came")


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_those_of_the_literature(name: str) -> None:
    found = profiles.parameters(name)
    moved = (
        found.volume_db,
        found.pitch_shift_semitones,
        found.pitch_variance - 1,
        found.speech_rate - 1,
    )
    for sign, move in zip(DIRECTIONS[name].split(), moved, strict=True):
        assert sign == "." or (move > 0 if sign == "+" else move < 0)


def test_activated_voices_are_faster_louder_and_higher() -> None:
    """After Laukka, Juslin & Bresin (2005); arousal from Russell & Mehrabian, in another table."""
    arousal = [taxonomy.emotion(name).arousal for name in NAMES]
    for parameter in ("speech_rate", "volume_db", "pitch_shift_semitones"):
        correlation = spearmanr(arousal, [getattr(profiles.parameters(name), parameter) for name in NAMES])
        assert correlation.statistic > 0.6, parameter


# Parameters.


@pytest.mark.parametrize("name", RANGES)
def test_ranges_are_enforced(name: str) -> None:
    low, high = RANGES[name]
    for value in (low, high):
        assert getattr(ProsodyParameters(**{name: value}), name) == value
    for value in (math.nextafter(low, -9), math.nextafter(high, 9), math.nan, math.inf):
        with pytest.raises(ValueError, match=f"{name} must be"):
            ProsodyParameters(**{name: value})


@given(st.sampled_from(NAMES), st.floats(0, 2))
def test_intensity_scales_from_neutral_to_beyond(name: str, intensity: float) -> None:
    assert profiles.parameters(name, 0) == NEUTRAL
    scaled, full = (asdict(profiles.parameters(name, x)) for x in (intensity, 1))
    for key, row in taxonomy.table("prosody")["parameters"].items():
        nothing = getattr(NEUTRAL, key)
        if row["kind"] == "factor":
            assert scaled[key] in {row["from"], row["to"]} or math.isclose(
                math.log(scaled[key]), intensity * math.log(full[key]), abs_tol=1e-9
            )
        else:
            assert scaled[key] in {row["from"], row["to"]} or math.isclose(scaled[key], intensity * full[key])
        between = sorted((nothing, full[key]))
        assert intensity > 1 or between[0] - 1e-9 <= scaled[key] <= between[1] + 1e-9


def test_wrong_emotions_and_intensities_are_refused() -> None:
    with pytest.raises(ValueError, match="no emotion is called 'furious'; known: anxious"):
        profiles.parameters("furious")
    for intensity in (-0.1, 2.1, math.nan):
        with pytest.raises(ValueError, match="intensity must be from 0 to 2"):
            profiles.parameters("sad", intensity)


# Answers.


@pytest.mark.parametrize("name", NAMES)
def test_strategies(name: str) -> None:
    match = respond(name, 0.5, "match")
    assert (match.emotion, match.intensity) == (name, 0.4)
    assert match.parameters == profiles.parameters(name, 0.4)
    amplified = respond(name, 1.0, "amplify")
    assert amplified.emotion == name
    assert amplified.intensity > 1
    neutral = respond(name, 1.0, "neutral")
    assert (neutral.emotion, neutral.parameters) == ("neutral", NEUTRAL)

    answer = respond(name, 0.9)
    group = taxonomy.emotion(name).group
    wanted = {"negative_activated": "calm", "negative_deactivated": "affectionate"}.get(group, name)
    assert answer.emotion == ("calm" if name == "confused" else wanted)
    assert answer.strategy == "complement"
    assert json.loads(json.dumps(answer.to_dict()))["parameters"] == answer.parameters.to_dict()


def test_a_faint_emotion_gets_a_faint_answer() -> None:
    for strategy in STRATEGIES:
        assert respond("panicked", 0.0, strategy).parameters == NEUTRAL


def test_invalid_strategies_emotions_and_confidences_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'mirror': choose one of match, complement"):
        respond("sad", 0.5, "mirror")
    with pytest.raises(ValueError, match="no emotion"):
        respond("unknown", 0.5, "neutral")
    for confidence in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="confidence must be from 0 to 1"):
            respond("sad", confidence)


# SSML.


@pytest.fixture(scope="module")
def schema() -> xmlschema.XMLSchema:
    """The W3C's schema; see ssml/README.md."""
    return xmlschema.XMLSchema(Path(__file__).parent / "ssml" / "synthesis.xsd")


TEXT = 'He said: "No, & never!" Then <he> left. It was 3.5 miles to Dr. Smith; who knows? The end.'


def ssml(text: str, parameters: ProsodyParameters, dialect: str = "w3c") -> str:
    return to_ssml(text, parameters, dialect, voice="A" if dialect == "azure" else None)


@pytest.mark.parametrize("name", NAMES)
def test_documents_are_valid_by_the_schema_of_the_w3c(schema: xmlschema.XMLSchema, name: str) -> None:
    for dialect in ("w3c", "google", "polly", "polly-neural"):
        for intensity in (0, 0.3, 1, 2):
            schema.validate(ssml(TEXT, profiles.parameters(name, intensity), dialect))


@given(st.text(), values, st.sampled_from(DIALECTS))
def test_any_text_survives(schema: xmlschema.XMLSchema, text: str, values: dict[str, float], dialect: str) -> None:
    document = ssml(text, ProsodyParameters(**values), dialect)
    if dialect == "w3c":
        schema.validate(document)
    spoken = "".join(ET.fromstring(document).itertext())
    kept = "".join(char if xml_can_hold(char) else " " for char in text)
    assert spoken == kept.replace("\r\n", "\n").replace("\r", "\n")  # XML normalizes line ends


def xml_can_hold(char: str) -> bool:
    """Returns whether XML 1.0 allows a character, by its production `Char`."""
    code = ord(char)
    return code in {9, 10, 13} or 32 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


@given(values)
def test_attributes_match_the_parameters(values: dict[str, float]) -> None:
    parameters = ProsodyParameters(**values)
    element = ET.fromstring(ssml("a", parameters)).find(f"{SSML}prosody")
    found = {} if element is None else element.attrib
    assert float(found.get("pitch", "+0st").removesuffix("st")) == pytest.approx(
        values["pitch_shift_semitones"], abs=0.01
    )
    assert 1 + float(found.get("range", "0%")[:-1]) / 100 == pytest.approx(values["pitch_variance"], abs=0.01)
    assert float(found.get("rate", "100%")[:-1]) / 100 == pytest.approx(values["speech_rate"], abs=0.01)
    assert float(found.get("volume", "0dB").removesuffix("dB")) == pytest.approx(values["volume_db"], abs=0.06)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_neutral_parameters_add_no_attributes(dialect: str) -> None:
    root = ET.fromstring(ssml(TEXT, NEUTRAL, dialect))
    assert {element.tag for element in root.iter()} <= {f"{SSML}speak", f"{SSML}voice"}


def test_pauses_are_at_commas_and_sentence_ends() -> None:
    long = ssml(TEXT, ProsodyParameters(pause_multiplier=2), "w3c")
    plain = ssml(TEXT, NEUTRAL, "w3c")
    marked = long.replace('<break time="800ms"/>', "|").replace('<break time="400ms"/>', "/")
    marked = marked[marked.index(">") + 1 : marked.index("</speak>")]
    assert marked.replace("|", "").replace("/", "") in plain
    assert (
        marked
        == 'He said:/ "No,/ &amp; never!"| Then &lt;he&gt; left.| It was 3.5 miles to Dr. Smith;/ who knows?| The end.'
    )
    fast = ssml("One, two.", ProsodyParameters(pause_multiplier=0.5, speech_rate=1.25))
    assert '<break time="80ms"/>' in fast
    assert ssml("春，夏。秋", ProsodyParameters(pause_multiplier=2)).count("<break") == 2


def test_dialects_differ_as_their_engines_do() -> None:
    parameters = profiles.parameters("panicked")
    found = {dialect: ET.fromstring(ssml("One, two.", parameters, dialect)) for dialect in DIALECTS}
    attributes = {dialect: next(root.iter(f"{SSML}prosody")).attrib for dialect, root in found.items()}
    assert attributes["azure"]["rate"] == "+35%"  # a percentage without a sign is a change there, too
    assert attributes["azure"]["volume"] == "+58%"  # 4 dB
    assert "range" not in attributes["google"]
    assert attributes["polly"]["pitch"] == "+16%"  # 2.5 semitones
    assert set(attributes["polly-neural"]) == {"rate", "volume"}  # rejects other attributes
    silences = found["azure"].findall(f"{SSML}voice/{{http://www.w3.org/2001/mstts}}silence")
    assert [silence.attrib["type"] for silence in silences] == ["Sentenceboundary-exact", "Comma-exact"]


def test_language_and_voice_are_quoted() -> None:
    root = ET.fromstring(to_ssml("a", NEUTRAL, language='de"', voice="<'\"&>"))
    assert root.attrib["{http://www.w3.org/XML/1998/namespace}lang"] == 'de"'
    assert next(root.iter(f"{SSML}voice")).attrib["name"] == "<'\"&>"


def test_wrong_dialects_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown dialect 'sapi': choose one of w3c, azure"):
        to_ssml("a", NEUTRAL, "sapi")
    with pytest.raises(ValueError, match="azure needs a named voice"):
        to_ssml("a", NEUTRAL, "azure")


# Engines.


@given(values, st.sampled_from(ENGINES))
def test_an_engine_and_the_remainder_add_up(values: dict[str, float], engine: str) -> None:
    parameters = ProsodyParameters(**values)
    left = remainder(parameters, engine)
    settings = to_engine(parameters, engine)
    if engine in {"kokoro", "xtts"}:
        assert settings == {"speed": parameters.speech_rate}
        assert left == replace(parameters, speech_rate=1.0)
    elif engine == "piper":
        assert settings["length_scale"] == pytest.approx(1 / parameters.speech_rate)
        assert settings["volume"] <= 1  # louder clips there
        assert 20 * math.log10(settings["volume"]) + left.volume_db == pytest.approx(parameters.volume_db)
    elif engine == "rvc":
        assert settings == to_rvc(parameters)
        assert type(settings["f0_up_key"]) is int
        assert settings["f0_up_key"] + left.pitch_shift_semitones == pytest.approx(parameters.pitch_shift_semitones)
        assert left.speech_rate == settings["rate"] == parameters.speech_rate  # RVC keeps the length
        assert 0 <= settings["protect"] <= 0.5
    elif engine == "say":
        assert settings["-r"] == pytest.approx(175 * parameters.speech_rate, abs=0.5)
        assert settings["prefix"].startswith(f"[[pbas {parameters.pitch_shift_semitones:+.2f}; volm ")
    elif engine == "browser":  # fields of the Web Speech API: rate 0.1 to 10, pitch 0 to 2, volume 0 to 1
        assert settings["rate"] == parameters.speech_rate
        assert 12 * math.log2(settings["pitch"]) == pytest.approx(parameters.pitch_shift_semitones, abs=1e-9)
        assert 0 < settings["pitch"] <= 2
        assert 0 < settings["volume"] <= 1
    else:
        assert 80 <= settings["-s"] <= 500
        assert 0 <= settings["-p"] <= 99
        assert 0 <= settings["-a"] <= 200
    for name in ("dynamic_range", "breathiness", "tremolo_amount"):
        assert getattr(left, name) == getattr(parameters, name)


@pytest.mark.parametrize("engine", ENGINES)
def test_neutral_has_no_remainder(engine: str) -> None:
    assert remainder(NEUTRAL, engine) == NEUTRAL


@pytest.mark.parametrize("dialect", DIALECTS)
def test_ssml_leaves_what_it_cannot_express(dialect: str) -> None:
    left = remainder(profiles.parameters("panicked"), dialect=dialect)
    assert left.speech_rate == left.pause_multiplier == 1
    assert left.tremolo_amount == 0.5
    assert (left.pitch_variance == 1) == (dialect in {"w3c", "azure", "espeak-ng"})
    assert (left.pitch_shift_semitones == 0) == (dialect != "polly-neural")


def test_wrong_engines_are_refused() -> None:
    for call in (to_engine, remainder):
        with pytest.raises(ValueError, match="unknown engine 'hal': choose one of piper, kokoro"):
            call(NEUTRAL, "hal")
    with pytest.raises(ValueError, match="unknown dialect 'hal'"):
        remainder(NEUTRAL, dialect="hal")
    with pytest.raises(ValueError, match="pass either an engine or a dialect"):
        remainder(NEUTRAL)


# Audio: measured by Praat.


def praat() -> Any:
    return pytest.importorskip("parselmouth", reason="measured by Praat: pip install praat-parselmouth")


def contour(waveform: Any, rate: int) -> Any:
    """Returns the pitch in semitones every 5 ms, NaN where there is none."""
    sound = praat().Sound(np.asarray(waveform, np.float64), rate)
    found = sound.to_pitch_ac(time_step=0.005, pitch_floor=60, pitch_ceiling=800).selected_array["frequency"]
    return np.where(found > 0, 12 * np.log2(np.maximum(found, 1)), np.nan)


def both(a: Any, b: Any) -> tuple[Any, Any]:
    count = min(len(a), len(b))
    voiced = ~np.isnan(a[:count]) & ~np.isnan(b[:count])
    assert voiced.sum() > 30
    return a[:count][voiced], b[:count][voiced]


def loudness(waveform: Any, rate: int) -> Any:
    """Returns the level along the clip, in dB."""
    return praat().Sound(np.asarray(waveform, np.float64), rate).to_intensity(minimum_pitch=100).values[0]


def speech_level(waveform: Any, rate: int) -> float:
    levels = loudness(waveform, rate)
    return 10 * math.log10((10 ** (levels[levels > levels.max() - 25] / 10)).mean())


def formants(waveform: Any, rate: int) -> Any:
    sound = praat().Sound(np.asarray(waveform, np.float64), rate)
    found = sound.to_formant_burg(max_number_of_formants=5, maximum_formant=5500)
    pitch = sound.to_pitch_ac(pitch_floor=60, pitch_ceiling=500)
    times = [time for time in found.ts() if pitch.get_value_at_time(time) > 0]
    return np.nanmedian([[found.get_value_at_time(number, time) for number in (1, 2, 3)] for time in times], 0)


CLIPS = ["emodb_03a01Nc", "emodb_09a04Fd", "emodb_11a04Ac", "emodb_13a01Ea"]  # two women, two men


@pytest.fixture(params=CLIPS)
def speech(request: pytest.FixtureRequest, speech_folder: Path) -> tuple[Any, int]:
    waveform, rate = soundfile.read(speech_folder / f"{request.param}.flac")
    return 0.3 * waveform, rate  # room for what becomes louder


@pytest.mark.parametrize("semitones", [-6, -1, 2.5, 6])
def test_pitch_moves_and_the_rest_stays(speech: tuple[Any, int], semitones: float) -> None:
    waveform, rate = speech
    moved = apply(waveform, rate, ProsodyParameters(pitch_shift_semitones=semitones))
    assert moved.dtype == np.float32
    assert moved.shape == waveform.shape
    before, after = both(contour(waveform, rate), contour(moved, rate))
    assert np.median(after - before) == pytest.approx(semitones, abs=0.1)
    assert np.mean(np.abs(after - before - semitones) < 0.5) > 0.8  # by frames; Praat's own octaves among them
    assert speech_level(moved, rate) == pytest.approx(speech_level(waveform, rate), abs=0.3)
    assert np.abs(formants(moved, rate) / formants(waveform, rate) - 1).mean() < 0.07  # 2 ** (6 / 12) would be 0.41


@pytest.mark.parametrize("factor", [0.5, 1.4, 2])
def test_the_melody_is_flattened_or_stretched(speech: tuple[Any, int], factor: float) -> None:
    waveform, rate = speech
    changed = apply(waveform, rate, ProsodyParameters(pitch_variance=factor))
    before, after = both(contour(waveform, rate), contour(changed, rate))
    rng = np.random.default_rng(0)
    first, second = rng.integers(
        0, len(before), (2, 20_000)
    )  # Theil and Sen: pairs, not moments, so octaves do no harm
    apart = np.abs(before[first] - before[second]) > 1
    slopes = (after[first] - after[second])[apart] / (before[first] - before[second])[apart]
    assert np.median(slopes) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize("factor", [0.7, 1.3, 1.5])
def test_speed_changes_the_length_and_not_the_pitch(speech: tuple[Any, int], factor: float) -> None:
    waveform, rate = speech
    changed = apply(waveform, rate, ProsodyParameters(speech_rate=factor))
    assert len(changed) == pytest.approx(len(waveform) / factor, abs=2)
    pitch = contour(waveform, rate)
    same = np.linspace(0, 1, len(pitch))  # each word is at the same share of the clip
    new_pitch = contour(changed, rate)
    before, after = both(pitch, new_pitch[np.round(same * (len(new_pitch) - 1)).astype(int)])
    assert np.median(after - before) == pytest.approx(0, abs=0.2)
    shares = np.linspace(0.02, 0.98, 200)
    a, b = (
        np.interp(shares, np.linspace(0, 1, len(x)), x) for x in (loudness(waveform, rate), loudness(changed, rate))
    )
    assert np.corrcoef(a, b)[0, 1] > 0.85


@pytest.mark.parametrize("decibels", [-6, 3, 6])
def test_volume(speech: tuple[Any, int], decibels: float) -> None:
    waveform, rate = speech
    changed = apply(waveform, rate, ProsodyParameters(volume_db=decibels))
    assert speech_level(changed, rate) - speech_level(waveform, rate) == pytest.approx(decibels, abs=0.3)
    if np.abs(changed).max() < 0.99:
        np.testing.assert_allclose(changed, waveform * 10 ** (decibels / 20), rtol=1e-5)  # nothing but a gain


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.5])
def test_dynamics(speech: tuple[Any, int], factor: float) -> None:
    waveform, rate = speech
    changed = apply(waveform, rate, ProsodyParameters(dynamic_range=factor))
    before, after = loudness(waveform, rate), loudness(changed, rate)
    spoken = before > before.max() - 20
    assert after[spoken].std() / before[spoken].std() == pytest.approx(factor, abs=0.1)
    assert speech_level(changed, rate) == pytest.approx(speech_level(waveform, rate), abs=0.5)


@pytest.mark.parametrize("amount", [0.25, 1.0])
def test_tremolo(speech: tuple[Any, int], amount: float) -> None:
    waveform, rate = speech
    changed = apply(waveform, rate, ProsodyParameters(tremolo_amount=amount))
    loud = np.abs(waveform) > 1e-3
    gain = np.where(loud, changed / np.where(loud, waveform, 1), np.nan)
    assert np.nanmax(gain) / np.nanmin(gain) == pytest.approx((1 + 0.5 * amount) / (1 - 0.5 * amount), rel=0.05)
    times = np.flatnonzero(loud) / rate
    depths = {
        hertz: abs(np.mean((gain[loud] - gain[loud].mean()) * np.exp(-2j * np.pi * hertz * times)))
        for hertz in (2, 4, 6, 8, 10)
    }
    assert max(depths, key=depths.__getitem__) == 6


def test_breath(speech: tuple[Any, int]) -> None:
    """Breathiness is measured by cepstral peak prominence (Hillenbrand et al. 1994)."""
    waveform, rate = speech
    call = praat().praat.call

    def prominence(breathiness: float) -> float:
        changed = apply(waveform, rate, ProsodyParameters(breathiness=breathiness))
        cepstrum = call(praat().Sound(changed.astype(np.float64), rate), "To PowerCepstrogram", 60, 0.002, 5000, 50)
        smoothing = ("no", 0.02, 0.0005, 60, 330, 0.05, "Parabolic", 0.001, 0, "Straight", "Robust")
        return float(call(cepstrum, "Get CPPS", *smoothing))

    found = [prominence(breathiness) for breathiness in (1e-6, 0.25, 0.5, 1)]
    assert all(more - less > 0.3 for more, less in pairwise(found))
    assert found[0] - found[-1] > 1.5
    breathy = apply(waveform, rate, ProsodyParameters(breathiness=1.0))
    before, after = both(contour(waveform, rate), contour(breathy, rate))
    assert np.median(np.abs(after - before)) < 0.2  # it is still the same voice, not a whisper


@pytest.fixture(scope="module")
def halting(speech_folder: Path) -> tuple[Any, int]:
    """Three utterances of one speaker with 0.6 s of room noise between them."""
    waveform, rate = soundfile.read(speech_folder / "emodb_03a01Nc.flac")
    waveform = 0.3 * waveform
    room = 1e-4 * np.random.default_rng(0).standard_normal(round(0.6 * rate))
    return np.concatenate([waveform, room, waveform, room, waveform]), rate


def gaps(waveform: Any, rate: int) -> list[float]:
    """Returns the lengths of the inner silences, in seconds, by Praat's detector."""
    sound = praat().Sound(np.asarray(waveform, np.float64), rate)
    found = praat().praat.call(sound, "To TextGrid (silences)", 100, 0, -30, 0.15, 0.05, "silent", "sounding")
    intervals = praat().praat.call(found, "Get number of intervals", 1)
    ends = [
        (
            praat().praat.call(found, "Get start time of interval", 1, number),
            praat().praat.call(found, "Get end time of interval", 1, number),
        )
        for number in range(2, intervals)
        if praat().praat.call(found, "Get label of interval", 1, number) == "silent"
    ]
    return [end - start for start, end in ends if end - start > 0.2]


@pytest.mark.parametrize(("multiplier", "speed"), [(0.5, 1.0), (2.0, 1.0), (1.5, 1.25)])
def test_pauses(halting: tuple[Any, int], multiplier: float, speed: float) -> None:
    waveform, rate = halting
    changed = apply(waveform, rate, ProsodyParameters(pause_multiplier=multiplier, speech_rate=speed))
    before, after = gaps(waveform, rate), gaps(changed, rate)
    assert len(before) == len(after) == 2
    for old, new in zip(before, after, strict=True):
        assert new == pytest.approx(old * multiplier / speed, abs=0.05)
    grown = sum(after) - sum(before) / speed
    assert len(changed) / rate == pytest.approx(len(waveform) / rate / speed + grown, abs=0.1)  # speech is as it was


@pytest.mark.parametrize("name", NAMES)
def test_every_emotion_can_be_applied(speech_folder: Path, name: str) -> None:
    waveform, rate = soundfile.read(speech_folder / "emodb_03a01Nc.flac")
    waveform = 0.3 * waveform
    parameters = profiles.parameters(name)
    changed = apply(waveform, rate, parameters)
    assert np.abs(changed).max() <= 1
    assert len(changed) == pytest.approx(len(waveform) / parameters.speech_rate, abs=2)  # it has no pauses
    assert abs(speech_level(changed, rate) - speech_level(waveform, rate) - parameters.volume_db) < 0.5


def test_neutral_changes_nothing_and_shares_nothing() -> None:
    waveform = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    copy = apply(waveform, 16_000, NEUTRAL)
    np.testing.assert_array_equal(copy, waveform)
    assert not np.shares_memory(copy, waveform)


def test_the_same_twice(speech_folder: Path) -> None:
    waveform, rate = soundfile.read(speech_folder / "emodb_03a01Nc.flac")
    kept = waveform.copy()
    first, second = (apply(waveform, rate, profiles.parameters("sad")) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(waveform, kept)


@pytest.mark.parametrize("rate", [8_000, 22_050, 48_000])
def test_other_rates(speech_folder: Path, rate: int) -> None:
    waveform, original = soundfile.read(speech_folder / "emodb_03a01Nc.flac")
    waveform = soxr.resample(0.3 * waveform, original, rate)
    changed = apply(waveform, rate, ProsodyParameters(pitch_shift_semitones=3))
    assert len(changed) == len(waveform)
    before, after = both(contour(waveform, rate), contour(changed, rate))
    assert np.median(after - before) == pytest.approx(3, abs=0.1)
    slow = apply(waveform, rate, ProsodyParameters(speech_rate=0.8))
    assert len(slow) == pytest.approx(len(waveform) / 0.8, abs=2)


@pytest.mark.usefixtures("recordings")  # synthetic speech has clicks of its own
def test_a_long_clip_is_processed_in_inaudible_pieces(halting: tuple[Any, int]) -> None:
    waveform, rate = halting
    times = 7
    once = apply(waveform, rate, ProsodyParameters(pitch_shift_semitones=2))
    long = apply(np.tile(waveform, times), rate, ProsodyParameters(pitch_shift_semitones=2))
    assert len(long) == times * len(waveform)
    assert len(long) / rate > 35  # a piece is 30 s at most
    copies = long.reshape(times, -1)
    for copy in copies:
        a, b = both(contour(copy, rate), contour(once, rate))
        assert np.median(np.abs(a - b)) < 0.1
        assert np.abs(np.diff(copy)).max() < 1.2 * np.abs(np.diff(once)).max()  # no click
        assert np.abs(loudness(copy, rate) - loudness(once, rate))[5:-5].max() < 12


@pytest.mark.parametrize("size", [1, 2, 80, 400])
def test_the_shortest_clips(size: int) -> None:
    waveform = np.full(size, 0.1)
    changed = apply(waveform, 16_000, profiles.parameters("sad"))
    assert len(changed) == pytest.approx(size / 0.8, abs=1)
    assert np.isfinite(changed).all()


def test_silence_stays_silent() -> None:
    assert np.abs(apply(np.zeros(8_000), 16_000, profiles.parameters("panicked"))).max() < 1e-6


@given(st.floats(0.5, 6), st.integers(0, 2**32 - 1))
def test_nothing_leaves_full_scale(decibels: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    waveform = rng.uniform(-1, 1, 4_000) * rng.uniform(0, 1, 8).repeat(500) ** 2
    changed = apply(waveform, 16_000, ProsodyParameters(volume_db=decibels))
    assert np.abs(changed).max() <= 1


def test_peaks_are_limited_smoothly() -> None:
    rate, decibels = 16_000, 6
    waveform = np.full(rate, 0.4)
    waveform[rate // 2 :] = 0.9
    changed = apply(waveform, rate, ProsodyParameters(volume_db=decibels))
    gain = changed / waveform / 10 ** (decibels / 20)
    assert gain[0] == pytest.approx(1)
    assert gain[-1] == pytest.approx(1 / (0.9 * 10 ** (decibels / 20)))
    falling = np.flatnonzero((gain < 0.95) & (gain > 0.6))
    assert 0.003 < len(falling) / rate < 0.02
    assert falling[-1] < rate // 2  # before it is too loud


@given(st.lists(st.tuples(st.integers(1, 900), st.integers(1, 300)), min_size=20, max_size=60))
def test_pieces_are_cut_where_there_is_no_voice(runs: list[tuple[int, int]]) -> None:
    voiced = np.concatenate([np.repeat([True, False], run) for run in runs])
    pieces = list(_pieces(voiced))
    assert pieces[0][0] == 0
    assert pieces[-1][1] == len(voiced) - 1
    assert all(one[1] == next_[0] and not voiced[one[1]] for one, next_ in pairwise(pieces))
    assert max(last - first for first, last in pieces) <= 6000  # 30 s


def test_invalid_waveforms_and_rates_are_refused() -> None:
    sad = profiles.parameters("sad")
    for waveform, why in (
        (np.zeros((2, 100)), "shape"),
        (np.zeros(0), "shape"),
        (np.full(100, np.nan), "not finite"),
        (np.full(100, 3000), "far beyond 1"),
    ):
        with pytest.raises(AudioError, match=why):
            apply(waveform, 16_000, sad)
    for rate in (0, 7_999, 192_001):
        with pytest.raises(AudioError, match="rate"):
            apply(np.zeros(100), rate, sad)


def test_a_missing_vocoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyworld", None)
    with pytest.raises(E2VError, match=r'pip install "e2v-port\[express\]"'):
        apply(np.zeros(100), 16_000, profiles.parameters("sad"))
    apply(np.zeros(100), 16_000, ProsodyParameters(volume_db=3))  # does not need it


# espeak-ng.

ESPEAK = shutil.which("espeak-ng")
SPOKEN = "We were away a year ago. Now we are all alone in our old home, and nobody knows where you are."


def espeak(*options: object, text: str = SPOKEN) -> tuple[Any, int]:
    if ESPEAK is None:
        pytest.skip("espeak-ng is not installed")
    command = [ESPEAK, "-v", "en-us", "--stdout", "--stdin", *map(str, options)]
    made = subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout
    waveform, rate = soundfile.read(io.BytesIO(made))
    return waveform, rate


def spoken_with(parameters: ProsodyParameters, how: str) -> tuple[Any, int]:
    if how == "ssml":
        return espeak("-m", text=to_ssml(SPOKEN, parameters, "espeak-ng"))
    settings = to_engine(parameters, "espeak-ng")
    return espeak(*(part for option in settings.items() for part in option))


@pytest.mark.parametrize("how", ["options", "ssml"])
@pytest.mark.parametrize(
    "changed",
    [
        {"pitch_shift_semitones": -4},
        {"pitch_shift_semitones": 5},
        {"speech_rate": 0.75},
        {"speech_rate": 1.4},
        {"volume_db": -5},
        {"volume_db": 2.5},
    ],
    ids=str,
)
def test_espeak_ng_matches_the_parameters(changed: dict[str, float], how: str) -> None:
    (plain, rate), (spoken, _) = spoken_with(NEUTRAL, how), spoken_with(ProsodyParameters(**changed), how)
    pitch = np.nanmedian(contour(spoken, rate)) - np.nanmedian(contour(plain, rate))
    assert pitch == pytest.approx(changed.get("pitch_shift_semitones", 0), abs=0.6)
    assert len(plain) / len(spoken) == pytest.approx(
        changed.get("speech_rate", 1), rel=0.03 if how == "options" else 0.05
    )
    level = speech_level(spoken, rate) - speech_level(plain, rate)
    assert level == pytest.approx(changed.get("volume_db", 0), abs=1.2)  # its lower voices are quieter


@pytest.mark.parametrize("factor", [0.6, 1.5])
def test_espeak_ng_changes_its_melody(factor: float) -> None:
    (plain, rate), (spoken, _) = (
        spoken_with(NEUTRAL, "ssml"),
        spoken_with(ProsodyParameters(pitch_variance=factor), "ssml"),
    )
    a, b = contour(plain, rate), contour(spoken, rate)
    assert np.nanstd(b) / np.nanstd(a) == pytest.approx(factor, rel=0.2)
    assert np.nanmedian(b) == pytest.approx(np.nanmedian(a), abs=0.6)


def test_espeak_ng_pauses_longer() -> None:
    lengths = [len(spoken_with(ProsodyParameters(pause_multiplier=factor), "ssml")[0]) for factor in (0.5, 0.999, 2)]
    _, rate = espeak()
    grown = np.diff(lengths) / rate
    assert grown[0] == pytest.approx(0.3, abs=0.12)  # half of a stop and a comma
    assert grown[1] == pytest.approx(0.6, abs=0.12)  # another stop and comma


def test_an_engine_and_apply_together_match_all_parameters(speech_folder: Path) -> None:
    """Parameters that espeak-ng lacks are applied to its audio."""
    parameters = replace(profiles.parameters("sad"), volume_db=-4.0)
    plain, rate = spoken_with(NEUTRAL, "options")
    spoken, _ = spoken_with(parameters, "options")
    done = apply(spoken, rate, remainder(parameters, "espeak-ng"))
    pitch = np.nanmedian(contour(done, rate)) - np.nanmedian(contour(plain, rate))
    assert pitch == pytest.approx(parameters.pitch_shift_semitones, abs=0.6)
    assert np.nanstd(contour(done, rate)) / np.nanstd(contour(plain, rate)) == pytest.approx(0.7, abs=0.15)
    assert speech_level(done, rate) - speech_level(plain, rate) == pytest.approx(-4, abs=1)
    assert max(gaps(done, rate)) > 1.3 * max(gaps(plain, rate)) / parameters.speech_rate


# The document.


def test_documented_examples() -> None:
    page = Path(__file__).parents[1] / "docs" / "expression.md"
    result = doctest.testfile(str(page), module_relative=False, encoding="utf-8")
    assert result.failed == 0
    assert result.attempted >= 9

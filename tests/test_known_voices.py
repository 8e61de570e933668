"""Enrolled voices are recognized by how they sound, whatever anybody says; those of others are not judged.

The voices are those of the sentences that the project ships, and where they are, real ones.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import e2v_port
from e2v_port.analysis.analyze import each
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import AudioError, RosterError
from e2v_port.live.detector import EmotionDetector
from e2v_port.models.model import Model
from e2v_port.speakers.known import KnownVoices, enroll, pieces, stretches
from e2v_port.speakers.roster import Roster
from e2v_port.speech.segment import GivenSegment, Segment

ANN, STRANGER = "quick", "low"
SENTENCES = Path(__file__).parents[1] / "benchmarks" / "speech"


def said(name: str, times: int = 1, pause: float = 0.2) -> Waveform:
    """A sentence said several times, in a room with a little noise."""
    sentence = load_audio(SENTENCES / f"{name}.flac")
    quiet = np.zeros(round(pause * SAMPLING_RATE), np.float32)
    waveform = np.concatenate([part for _ in range(times) for part in (sentence, quiet)])
    return (waveform + np.random.default_rng(0).normal(0, 1e-4, len(waveform))).astype(np.float32)


def pause(seconds: float = 2.0) -> Waveform:
    return np.random.default_rng(1).normal(0, 1e-4, round(seconds * SAMPLING_RATE)).astype(np.float32)


@pytest.fixture(scope="module")
def encoder() -> Model:
    return e2v_port.load("bundled-voices", runtime="cpu", offline=True)


@pytest.fixture(scope="module")
def roster(encoder: Model) -> Roster:
    """Ann, whose voice is that of `quick`."""
    roster = Roster.of(encoder)
    assert enroll(roster, encoder, "Ann", [said(ANN, 5)], SAMPLING_RATE) == []
    return roster


@pytest.fixture(scope="module")
def meeting() -> Waveform:
    """Ann from about 0 to 5 s, then somebody else from about 7 to 12 s, then Ann again."""
    return np.concatenate([said(ANN, 2), pause(), said(STRANGER, 2), pause(), said(ANN, 2)])


def test_what_is_enrolled(roster: Roster, encoder: Model) -> None:
    voice = roster.voice("Ann")
    assert voice.clips == 1
    assert voice.seconds == pytest.approx(sum(map(len, stretches(said(ANN, 5)))) / SAMPLING_RATE)
    assert voice.embedding.shape == (encoder.embed_dim,)
    assert roster.sha256 == encoder.config.source.sha256


def test_the_voice_is_named_and_another_is_not(roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster)
    name, own = known.whose(said(ANN, 2))
    assert name == "Ann"
    other = known.whose(said(STRANGER, 2))
    assert other.name is None
    assert own is not None
    assert other.similarity is not None
    assert other.similarity < roster.needed(4.0) < own


def test_the_level_of_a_recording_does_not_matter(roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster)
    for gain in 0.02, 2.0:
        assert known.whose(gain * said(ANN, 2)).name == "Ann"


def test_too_little_speech_is_nobodys(roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster)
    assert known.whose(pause()) == (None, None)
    assert known.whose(said(ANN)[: SAMPLING_RATE // 2]) == (None, None)


def test_speech_in_which_somebody_else_speaks_has_no_name(roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster)
    mixed = np.concatenate([said(ANN, 3, 0.1), said(STRANGER, 1, 0.1)])
    # Ann speaks most of the time, so that her voice prevails in the whole of it.
    [spoken] = stretches(mixed)
    whole = encoder.embed(spoken, SAMPLING_RATE)
    assert roster.identify(whole, len(spoken) / SAMPLING_RATE)[0] == "Ann"
    assert known.whose(mixed).name is None


def test_pieces_are_equal_and_none_is_short() -> None:
    second = np.zeros(SAMPLING_RATE, np.float32)
    for seconds, count in (1, 0), (3.9, 0), (4, 2), (5.9, 2), (11, 5):
        speech = np.resize(second, round(seconds * SAMPLING_RATE))
        found = pieces(speech)
        assert len(found) == count
        if found:
            assert sum(map(len, found)) == len(speech)
            assert min(map(len, found)) >= 2 * SAMPLING_RATE


def test_silence_and_too_little_speech_are_refused(encoder: Model, tmp_path: Path) -> None:
    roster = Roster.of(encoder)
    soundfile.write(tmp_path / "silence.wav", pause(6.0), SAMPLING_RATE)
    with pytest.raises(AudioError, match=r"silence\.wav: no speech found"):
        enroll(roster, encoder, "Ann", [said(ANN, 5), tmp_path / "silence.wav"], SAMPLING_RATE)
    with pytest.raises(RosterError, match=r"s of speech are too little .* at least 5 s"):
        enroll(roster, encoder, "Ann", [said(ANN)], SAMPLING_RATE)
    assert len(roster) == 0


def test_several_voices_and_a_second_name_are_noticed(roster: Roster, encoder: Model) -> None:
    fresh = Roster.of(encoder)
    [note] = enroll(fresh, encoder, "Ann", [said(ANN, 3), said(STRANGER, 3)], SAMPLING_RATE)
    assert note.kind == "several_voices"
    copied = Roster.from_dict(roster.to_dict())
    [note] = enroll(copied, encoder, "Eve", [said(ANN, 3)], SAMPLING_RATE)
    assert note.kind == "enrolled_twice"


def test_voices_of_another_encoder_are_refused(encoder: Model) -> None:
    other = Roster("speechbrain/spkrec-ecapa-voxceleb", "0" * 64, 0.25)
    with pytest.raises(RosterError, match=r"enrolled with speechbrain.* cannot be compared by bundled-voices"):
        KnownVoices(encoder, other)


@pytest.mark.parametrize("only", [False, True])
def test_what_callers_claim_counts_for_nothing(only: bool, roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster, only=only)
    waveform = np.concatenate([said(ANN, 2), said(STRANGER, 2)])
    middle, end = len(said(ANN, 2)) / SAMPLING_RATE, len(waveform) / SAMPLING_RATE
    for claims, others in (
        (("Guest", "Ann"), (None, None)),
        (("ann", "ANN"), (None, None)),
        ((None, "Guest"), ("Guest", None)),
    ):
        given = [Segment(0.0, middle, "normal", claims[0]), Segment(middle, end, "normal", claims[1])]
        found, notes = known.named(waveform, given)
        assert [segment.speaker for segment in found] == ["Ann", others[only]]
        assert [segment.quality for segment in found] == ["normal", "not_enrolled" if only else "normal"]
        assert [note.kind for note in notes] == ["not_enrolled"] * only


def test_speech_over_which_a_stranger_speaks_is_not_judged(roster: Roster, encoder: Model) -> None:
    waveform = np.concatenate([said(ANN, 2), said(STRANGER, 2)])
    middle, end = len(said(ANN, 2)) / SAMPLING_RATE, len(waveform) / SAMPLING_RATE
    given = [Segment(0.0, middle, "normal"), Segment(middle - 0.5, end, "normal")]
    found, _ = KnownVoices(encoder, roster, only=True).named(waveform, given)
    assert [segment.quality for segment in found] == ["not_enrolled"] * 2
    found, _ = KnownVoices(encoder, roster).named(waveform, given)
    assert [segment.quality for segment in found] == ["normal"] * 2


def test_an_analysis_judges_the_enrolled_alone(roster: Roster, encoder: Model, meeting: Waveform) -> None:
    options: dict[str, Any] = {"sampling_rate": SAMPLING_RATE, "model": "bundled-tiny-nc", "runtime": "cpu"}
    [everybody] = each([meeting], **options)
    [named] = each([meeting], **options, enrolled=KnownVoices(encoder, roster))
    [only] = each([meeting], **options, enrolled=KnownVoices(encoder, roster, only=True))
    for analysis in everybody, named, only:
        assert not isinstance(analysis, AudioError)
    assert [segment.speaker for segment in named.segments] == ["Ann", None, "Ann"]
    assert [segment.speaker for segment in only.segments] == ["Ann", None, "Ann"]
    assert [segment.quality == "not_enrolled" for segment in only.segments] == [False, True, False]
    # Names change no number; of a stranger there is none.
    assert [segment.judgement for segment in named.segments] == [segment.judgement for segment in everybody.segments]
    judged = [segment.judgement for segment in everybody.segments]
    assert [segment.judgement for segment in only.segments] == [judged[0], None, judged[2]]
    assert "1 of 3 segments" in next(note.text for note in only.notes if note.kind == "not_enrolled")


def test_given_segments_of_a_false_name_are_not_judged(roster: Roster, encoder: Model, meeting: Waveform) -> None:
    start = len(said(ANN, 2)) / SAMPLING_RATE
    given = [GivenSegment(0.0, start, "Ann"), GivenSegment(start + 2, start + 6, "Ann")]
    known = KnownVoices(encoder, roster, only=True)
    options: dict[str, Any] = {"sampling_rate": SAMPLING_RATE, "model": "bundled-tiny-nc", "runtime": "cpu"}
    [analysis] = each([meeting], segments=given, enrolled=known, **options)
    assert not isinstance(analysis, AudioError)
    assert [segment.judgement is not None for segment in analysis.segments] == [True, False]


@pytest.mark.parametrize("block", [1600, 7000])
def test_a_stream_judges_the_enrolled_alone(block: int, roster: Roster, encoder: Model, meeting: Waveform) -> None:
    known = KnownVoices(encoder, roster, only=True)
    detector = EmotionDetector("bundled-tiny-nc", runtime="cpu", enrolled=known)
    detector._live = replace(detector._live, load=1e9)  # no window is left out on a slow machine
    blocks = (meeting[at : at + block] for at in range(0, len(meeting), block))
    heard = list(detector.stream(blocks, speaker="Ann"))  # a caller who says that it is always Ann
    final = [segment for segment in heard if segment.final]
    assert [(segment.speaker, segment.judgement is not None) for segment in final] == [
        ("Ann", True),
        (None, False),
        ("Ann", True),
    ]
    assert final[1].quality == "not_enrolled"
    stranger = [each for each in heard if not each.final and final[1].start - 0.1 <= each.start < final[1].end]
    assert stranger
    assert {each.quality for each in stranger} == {"not_enrolled"}
    assert all(each.judgement is None and each.prosody is None for each in stranger)
    anns = [each for each in heard if not each.final and each.end < final[1].start]
    assert any(each.speaker == "Ann" and each.judgement for each in anns)
    # What is remembered of the stranger is that somebody spoke.
    assert [segment.speaker for segment in detector.history() if segment.judgement] == ["Ann", "Ann"]
    clip = detector.analyze(meeting, SAMPLING_RATE, speaker="Ann")
    assert [segment.judgement is not None for segment in clip.segments] == [True, False, True]


def test_real_voices(recordings: Path, encoder: Model) -> None:
    readers = ["librispeech_198-209-0000.flac", "librispeech_3436-172162-0000.flac"]
    sounds = {name: load_audio(recordings / name) for name in readers}
    roster = Roster.of(encoder)
    for name, sound in sounds.items():
        assert enroll(roster, encoder, name, [sound[: -5 * SAMPLING_RATE]], SAMPLING_RATE) == []
    known = KnownVoices(encoder, roster, only=True)
    heard = {name: known.whose(sound[-5 * SAMPLING_RATE :]).name for name, sound in sounds.items()}
    assert heard == {name: name for name in readers}
    for stranger in "jfk.flac", "librivox_idle_hour_john_clare.flac", "emotion2vec_test.wav", "emodb_timeline.flac":
        assert known.whose(load_audio(recordings / stranger)[: 8 * SAMPLING_RATE]).name is None

"""Enrolled voices are recognized by how they sound, whatever anybody says; those of others are not judged.

The voices are those of the sentences that the project ships, and where they are, real ones.
"""

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from served import Served
from typer.testing import CliRunner
from websockets.sync.client import connect

import e2v_port
from e2v_port.analysis.analyze import each
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.cli import app
from e2v_port.errors import AudioError, RosterError, ServiceError
from e2v_port.live.detector import EmotionDetector
from e2v_port.models.model import Model
from e2v_port.service.settings import Settings
from e2v_port.speakers.diarize import Speakers
from e2v_port.speakers.known import KnownVoices, enroll, pieces, stretches
from e2v_port.speakers.roster import Roster
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import GivenSegment, Segment
from e2v_port.transcribe.words import passages

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


def test_a_whole_clip_of_two_people_has_no_name(roster: Roster, encoder: Model) -> None:
    known = KnownVoices(encoder, roster, only=True)
    mixed = np.concatenate([said(ANN, 4), pause(), said("calm", 2)])
    spoken = np.concatenate(stretches(mixed))
    embedding, *own = encoder.embed([spoken, *pieces(spoken)], SAMPLING_RATE)
    assert roster.identify(embedding, len(spoken) / SAMPLING_RATE, own)[0] == "Ann", "all of it sounds like Ann"
    assert known.whose(mixed).name is None
    [segment] = e2v_port.analyze(mixed, sampling_rate=SAMPLING_RATE, whole=True, enrolled=known).segments
    assert (segment.speaker, segment.quality) == (None, "not_enrolled")
    [segment] = e2v_port.analyze(said(ANN, 6), sampling_rate=SAMPLING_RATE, whole=True, enrolled=known).segments
    assert (segment.speaker, segment.quality) == ("Ann", "normal")


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
    notes = enroll(fresh, encoder, "Ann", [said(ANN, 3), said(STRANGER, 3)], SAMPLING_RATE)
    assert "several_voices" in {note.kind for note in notes}
    copied = Roster.from_dict(roster.to_dict())
    notes = enroll(copied, encoder, "Eve", [said(ANN, 3)], SAMPLING_RATE)
    assert "enrolled_twice" in {note.kind for note in notes}


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


@pytest.mark.parametrize(("anns", "strangers"), [(None, 1), (1, None)])
def test_the_mix_holds_the_strangers_of_every_channel(
    anns: int | None, strangers: int | None, roster: Roster, encoder: Model
) -> None:
    waveform = {None: said(ANN, 2), 1: said(ANN, 2)}
    end = len(waveform[None]) / SAMPLING_RATE
    given = [Segment(0.0, end, "normal", channel=anns), Segment(0.1, 0.9, "normal", channel=strangers)]
    waveform[strangers] = pause(end)  # too little is heard of whoever that is
    found, _ = KnownVoices(encoder, roster, only=True).named(waveform, given)
    assert [segment.quality for segment in found] == ["not_enrolled"] * 2
    apart = [replace(segment, channel=number) for number, segment in enumerate(given, 1)]
    found, _ = KnownVoices(encoder, roster, only=True).named({1: said(ANN, 2), 2: pause(end)}, apart)
    assert [segment.quality for segment in found] == ["normal", "not_enrolled"]


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


def test_no_word_of_a_stranger_is_read(roster: Roster, encoder: Model, meeting: Waveform) -> None:
    found, _ = KnownVoices(encoder, roster, only=True).named(meeting, detect(meeting))
    stranger = found[1]
    read = passages(found, 30.0)
    assert read
    assert all(end <= stranger.start or start >= stranger.end for start, end in read)


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


@pytest.mark.parametrize("only", [False, True])
def test_speakers_found_by_voice_get_their_names(only: bool, roster: Roster, encoder: Model, meeting: Waveform) -> None:
    pytest.importorskip("sklearn")
    known = KnownVoices(encoder, roster, only=only)
    # Two strangers before Ann: their numbers begin with 1, in order of their first words.
    waveform = np.concatenate([said(STRANGER, 3), pause(), meeting])
    options: dict[str, Any] = {"sampling_rate": SAMPLING_RATE, "model": "bundled-tiny-nc", "runtime": "cpu"}
    speakers = Speakers(encoder, count=2)
    [analysis] = each([waveform], speakers=speakers, enrolled=known, **options)
    assert not isinstance(analysis, AudioError)
    assert [segment.speaker for segment in analysis.segments] == ["speaker 1", "Ann", "speaker 1", "Ann"]
    assert [segment.judgement is None for segment in analysis.segments] == [only, False, only, False]
    assert [(used.kind, used.name) for used in analysis.models][-1] == ("speakers", "bundled-voices")


@pytest.fixture
def folder(tmp_path: Path, meeting: Waveform, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, sound in {"ann": said(ANN, 4), "low": said(STRANGER, 4), "short": said(ANN), "meeting": meeting}.items():
        soundfile.write(tmp_path / f"{name}.wav", sound, SAMPLING_RATE)
    monkeypatch.setenv("E2V_VOICES", str(tmp_path / "data" / "voices.json"))
    return tmp_path


def e2v(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if isinstance(result.exception, e2v_port.E2VError):  # main() prints it on one line and exits with 2
        return 2, result.stdout, f"error: {result.exception}"
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_enrolling_on_the_command_line(folder: Path) -> None:
    stored = folder / "data" / "voices.json"
    assert e2v("enroll", "--list") == (0, f"nobody is enrolled in {stored}\n", "")
    code, out, err = e2v("enroll", "Ann", folder / "ann.wav")
    assert code == 0
    assert re.fullmatch(r"note: [5-9]\.\d s of speech are little: from 10 s on, .*\n", err)
    assert out.startswith("Ann: enrolled from ")
    assert stored.stat().st_size < 5000  # no audio
    code, out, _ = e2v("enroll", "--list")
    assert out.splitlines()[1].split()[0] == "Ann"
    code, out, err = e2v("enroll", "ann", folder / "low.wav")
    assert "note: Ann was enrolled on" in err
    assert "a voice that sounds different" in err
    for arguments, message in (
        (["Bob", folder / "short.wav"], "error: 'Bob': 2.0 s of speech are too little to know a voice by"),
        (["speaker 1", folder / "ann.wav"], "error: speaker 1 is what unknown voices and channels are called"),
        (["Bob"], "error: name the speaker and recordings"),
        (["--list", "--delete", "Ann"], "error: --list stands alone"),
        (["--delete", "Bob"], "error: nobody named 'Bob' is enrolled: ann"),
        (
            ["Bob", folder / "ann.wav", "--speaker-model", "bundled-nc"],
            "error: the voices were enrolled with bundled-voices and cannot be compared by bundled-nc",
        ),
        (
            ["Bob", folder / "ann.wav", "--speaker-model", "bundled-nc", "--roster", folder / "new.json"],
            "error: bundled-nc is no speaker encoder: use bundled-voices",
        ),
    ):
        code, out, err = e2v("enroll", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(message)
        assert len(err.strip().splitlines()) == 1
    copy = folder / "copy.json"
    assert e2v("enroll", "--export", copy) == (0, "", "")
    assert copy.read_bytes() == stored.read_bytes()
    assert e2v("enroll", "--delete", "ANN")[:2] == (0, f"ann: deleted from {stored}\n")
    assert not stored.exists()  # nothing is left of the last one


def test_analyzing_on_the_command_line(folder: Path) -> None:
    code, _, err = e2v("analyze", folder / "meeting.wav", "--only-enrolled")
    assert code == 2
    assert "enroll a voice with `e2v enroll NAME FILE`" in err
    e2v("enroll", "Ann", folder / "ann.wav")
    options = ["--model", "bundled-tiny-nc", "--runtime", "cpu", "--json"]
    for option in "--enrolled", "--only-enrolled":
        code, out, _ = e2v("analyze", folder / "meeting.wav", option, *options)
        assert code == 0
        segments = json.loads(out)["segments"]
        assert [segment["speaker"] for segment in segments] == ["Ann", None, "Ann"]
        assert (segments[1]["emotion"] is None) == (option == "--only-enrolled")
    code, out, _ = e2v("listen", folder / "meeting.wav", "--fast", "--jsonl", "--only-enrolled", *options[:-1])
    assert code == 0
    heard = [json.loads(line) for line in out.splitlines()]
    assert [each["speaker"] for each in heard if each["final"]] == ["Ann", None, "Ann"]
    assert {each["quality"] for each in heard if each["speaker"] is None and each["emotion"] is None} == {
        "not_enrolled"
    }
    assert all(each["speaker"] == "Ann" for each in heard if each["emotion"])


@pytest.fixture(scope="module")
def service(roster: Roster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("service") / "voices.json"
    roster.save(path)
    with Served("--model", "bundled-tiny-nc", "--roster", str(path), "--only-enrolled") as served:
        yield served


def wav(waveform: Waveform) -> bytes:
    file = BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="WAV")
    return file.getvalue()


def test_the_service_believes_the_voice_not_the_caller(service: Served, meeting: Waveform) -> None:
    for claim in {}, {"speaker": "Ann"}, {"speaker": "Bob"}:
        answer = service.analyze(wav(meeting), **claim)
        assert [segment["speaker"] for segment in answer["segments"]] == ["Ann", None, "Ann"]
        assert [segment["emotion"] is None for segment in answer["segments"]] == [False, True, False]
        assert answer["segments"][1]["quality"] == "not_enrolled"
    before = service.metric("e2v_judged_audio_seconds_total")
    answer = service.analyze(wav(said(STRANGER, 3)), speaker="Ann")
    assert answer["reason"] == "no enrolled speaker is heard in this clip"
    assert answer["context"] == ""
    whole = service.analyze(wav(said(STRANGER, 3)), speaker="Ann", granularity="clip")
    assert [segment["quality"] for segment in whole["segments"]] == ["not_enrolled"]
    assert service.metric("e2v_judged_audio_seconds_total") == before
    for sound, empty in (said(STRANGER, 3), True), (said(ANN, 3), False):
        answer = service.client.post("/v1/embed", content=wav(sound), params={"speaker": "Ann"}).json()
        assert (answer["embedding"] is None) == empty


def test_given_names_do_not_open_the_gate(service: Served, meeting: Waveform) -> None:
    start = len(said(ANN, 2)) / SAMPLING_RATE + 2
    claims = [{"start": start, "end": start + 5, "speaker": "Ann"}, {"start": 0, "end": 4, "speaker": "Bob"}]
    files = {"file": ("meeting.wav", wav(meeting)), "segments": (None, json.dumps(claims))}
    answer = service.client.post("/v1/analyze", files=files)
    assert answer.status_code == 200, answer.text
    judged = {segment["speaker"]: segment["emotion"] is not None for segment in answer.json()["segments"]}
    assert judged == {"Ann": True, None: False}


def test_a_stream_believes_the_voice_not_the_caller(service: Served, meeting: Waveform) -> None:
    pcm = (meeting * 32767).astype("<i2").tobytes()
    with connect(service.url.replace("http", "ws") + "/v1/stream") as socket:
        start = {"type": "start", "sampling_rate": SAMPLING_RATE, "format": "s16le", "channels": 1, "speaker": "Ann"}
        socket.send(json.dumps(start))

        def send() -> None:
            for at in range(0, len(pcm), 6400):
                socket.send(pcm[at : at + 6400])
            socket.send('{"type": "end"}')

        sender = threading.Thread(target=send)
        sender.start()
        events = [json.loads(message) for message in socket]
        sender.join()
    finals = [event["segment"] for event in events if event["type"] == "final"]
    assert [segment["speaker"] for segment in finals] == ["Ann", None, "Ann"]
    assert [segment["emotion"] is not None for segment in finals] == [True, False, True]
    partials = [event["segment"] for event in events if event["type"] == "partial"]
    assert all(segment["quality"] == "not_enrolled" for segment in partials if segment["emotion"] is None)
    assert not any(
        segment["emotion"] for segment in partials if finals[1]["start"] - 0.1 < segment["start"] < finals[1]["end"]
    )


def test_a_service_that_cannot_know_anybody_does_not_start(roster: Roster, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="--only-enrolled needs the file of the enrolled voices"):
        Settings(only_enrolled=True).check()
    roster.save(tmp_path / "voices.json")
    options = ["--roster", str(tmp_path / "voices.json"), "--speakers", "Bob"]
    with pytest.raises(AssertionError, match="nobody named 'Bob' is enrolled: Ann"):
        Served("--model", "bundled-tiny-nc", *options)


def test_real_voices(recordings: Path, encoder: Model) -> None:
    readers = ["librispeech_198-209-0000.flac", "librispeech_3436-172162-0000.flac"]
    sounds = {name: load_audio(recordings / name) for name in readers}
    roster = Roster.of(encoder)
    for name, sound in sounds.items():
        notes = enroll(roster, encoder, name, [sound[: -5 * SAMPLING_RATE]], SAMPLING_RATE)
        assert {note.kind for note in notes} <= {"little_speech"}
    known = KnownVoices(encoder, roster, only=True)
    heard = {name: known.whose(sound[-5 * SAMPLING_RATE :]).name for name, sound in sounds.items()}
    assert heard == {name: name for name in readers}
    for stranger in "jfk.flac", "librivox_idle_hour_john_clare.flac", "emotion2vec_test.wav", "emodb_timeline.flac":
        assert known.whose(load_audio(recordings / stranger)[: 8 * SAMPLING_RATE]).name is None

"""Who speaks: windows, voices, and segments split where the speaker changes."""

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import diarization
import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import e2v_port
from e2v_port.analysis.schema import schema
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import E2VError, RuntimeUnavailable
from e2v_port.models.model import Model
from e2v_port.speakers.cluster import Voices, find
from e2v_port.speakers.diarize import Speakers, SpeakerSettings
from e2v_port.speakers.pieces import Piece, labeled, segmented, settled
from e2v_port.speakers.windows import Run, over, runs
from e2v_port.speech.segment import DEFAULTS, GivenSegment, Segment

SECOND = SAMPLING_RATE
TEXT = (
    "The train to the city leaves at nine in the morning.",
    "I would rather walk along the river for an hour.",
    "Nobody knew why the old clock had stopped again.",
    "Please bring two apples and a loaf of bread home.",
    "We have been waiting for the doctor since yesterday.",
    "There was a letter on the table, but it was not for me.",
)
espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt-get install espeak-ng"
)


# ---- windows


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 90)), min_size=1, max_size=8),
    st.integers(2, 20),
    st.data(),
)
def test_windows_decide_about_each_sample_of_speech_once(
    parts: list[tuple[int, int]], length: int, data: st.DataObject
) -> None:
    hop = data.draw(st.integers(1, length))
    spans, at = [], 0
    for pause, size in parts:
        spans.append((at + pause, at + pause + size))
        at += pause + size
    found = runs(spans, 0, 5)
    assert [span for run in found for span in run.spans] == spans
    assert all(other.start - one.end >= 5 for one, other in pairwise(found))
    windows = over(found, length, hop)
    decided = np.zeros(at, int)
    for window in windows:
        run = found[window.run]
        assert run.start <= window.start <= window.first + 1, "but for a sample of rounding"
        assert window.first <= window.last <= window.end <= run.end
        assert window.end - window.start == min(length, run.end - run.start)
        decided[window.first : window.last] += 1
    for one, other in pairwise(windows):
        assert other.run != one.run or other.start - one.start <= hop
    inside = np.zeros(at, bool)
    for run in found:
        inside[run.start : run.end] = True
    assert (decided == inside).all()


# ---- voices


def drawn(voices: int, each: int, seed: int = 0, spread: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings of length 1 around directions at right angles, and the number of each one's voice."""
    draw = np.random.default_rng(seed)
    owner = draw.permutation(np.arange(voices * each) % voices)
    embeddings = np.eye(64)[owner] + draw.normal(0, spread, (len(owner), 64))
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32), owner


def voices(embeddings: np.ndarray, **options: Any) -> Voices:
    chosen = {"count": None, "alike": 0.85, "margin": 0.02, "least": 3.0, "most": 8, "cap": 1500, **options}
    return find(embeddings, np.full(len(embeddings), 1.6), np.arange(len(embeddings)), **chosen)


@settings(deadline=None, max_examples=12)
@given(st.integers(1, 6), st.integers(8, 30), st.integers(0, 99))
def test_voices_are_found_and_counted(number: int, each: int, seed: int) -> None:
    from sklearn.metrics import adjusted_rand_score

    embeddings, owner = drawn(number, each, seed)
    for count in (None, number):
        found = voices(embeddings, count=count)
        assert (len(found.centers), found.fewest, found.most) == (number, number, number)
        assert adjusted_rand_score(owner, (embeddings @ found.centers.T).argmax(1)) == 1


def test_voices_that_are_nearly_alike_are_said_to_be_in_doubt() -> None:
    draw = np.random.default_rng(0)
    doubtful = set()
    for like in np.arange(0.78, 0.92, 0.01):
        axes = np.eye(64)[:2]
        axes[1] = like * axes[0] + np.sqrt(1 - like**2) * axes[1]
        embeddings = np.repeat(axes, 40, axis=0) + draw.normal(0, 0.01, (80, 64))
        found = voices((embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
        assert len(found.centers) == (2 if like < 0.85 - 1e-3 else 1) or abs(like - 0.85) < 0.011
        assert found.fewest <= len(found.centers) <= found.most
        if found.fewest < found.most:
            doubtful.add(round(float(like), 2))
    assert doubtful
    assert all(0.82 <= like <= 0.88 for like in doubtful)


def test_a_voice_of_little_speech_is_not_counted_unless_the_number_is_given() -> None:
    embeddings, owner = drawn(2, 40)
    kept = np.sort(np.concatenate([np.flatnonzero(owner == 0), np.flatnonzero(owner == 1)[:1]]))
    assert len(voices(embeddings[kept]).centers) == 1
    assert len(voices(embeddings[kept], count=2).centers) == 2


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_windows_are_one_voice(number: int) -> None:
    embeddings, _ = drawn(1, number)
    for count in (None, 1, 2):
        found = voices(embeddings, count=count)
        assert len(found.centers) == min(count or 1, number)
        assert np.isfinite(found.centers).all()
    opposite = np.array([[1, 0], [-1, 0]], np.float32)
    assert np.isfinite(voices(opposite, count=2).centers).all()


def test_hours_of_speech_need_no_more_memory_than_the_cap() -> None:
    import tracemalloc

    embeddings, owner = drawn(3, 2000)
    voices(embeddings[:50])  # imports scikit-learn
    tracemalloc.start()
    found = voices(embeddings, cap=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(found.centers), found.compared, found.of) == (3, 300, 6000)
    assert len({*zip(owner.tolist(), (embeddings @ found.centers.T).argmax(1).tolist(), strict=True)}) == 3
    assert peak < 6000**2, "less than a byte for each pair"


def test_voices_do_not_depend_on_random_numbers() -> None:
    embeddings, _ = drawn(4, 20, spread=0.2)
    np.random.seed(1)
    one = voices(embeddings)
    np.random.seed(2)
    assert (one.centers == voices(embeddings).centers).all()


def test_without_scikit_learn_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(RuntimeUnavailable, match=r'pip install "e2v-port\[speakers\]"'):
        voices(drawn(1, 9)[0])


# ---- pieces and segments


def seconds(*spans: tuple[float, float]) -> tuple[tuple[int, int], ...]:
    return tuple((round(start * SECOND), round(end * SECOND)) for start, end in spans)


def cut(run: Run, sound: Waveform) -> list[tuple[float, float, int | None]]:
    """Returns the pieces of a run whose first half is one voice and whose second half is another."""
    windows = over([run], round(1.6 * SECOND), round(0.8 * SECOND))
    middle = (run.start + run.end) // 2
    like = np.array([[1, 0] if (each.first + each.last) // 2 < middle else [0, 1] for each in windows], np.float32)
    return [
        (round(each.start / SECOND, 3), round(each.end / SECOND, 3), each.voice)
        for each in labeled(windows, [run], like, lambda _: sound)
    ]


def test_a_run_is_cut_in_its_pause_or_where_it_is_quietest() -> None:
    loud = np.full(8 * SECOND, 0.1, np.float32)
    paused = Run(seconds((0, 3.7), (3.9, 8)), 0)
    assert cut(paused, loud) == [(0, 3.7, 0), (3.9, 8, 1)]
    loud[round(3.5 * SECOND) : round(3.6 * SECOND)] = 0.001
    (start, at, one), (then, end, other) = cut(Run(seconds((0, 8)), 0), loud)
    assert (start, end, one, other) == (0, 8, 0, 1)
    assert at == then
    assert 3.5 <= at <= 3.6


def piece(start: float, end: float, voice: int, segment: int = 0) -> Piece:
    return Piece(seconds((start, end)), segment, voice)


def test_speech_too_short_for_a_voice_goes_to_its_neighbor_or_to_nobody() -> None:
    half, gap = round(0.5 * SECOND), round(1.5 * SECOND)

    def settle(*pieces: Piece) -> list[int | None]:
        return [each.voice for each in settled(pieces, half, gap)]

    assert settle(piece(0, 2, 0), piece(2.1, 2.4, 1), piece(2.6, 5, 2)) == [0, 0, 2]
    assert settle(piece(0, 2, 0), piece(2.3, 2.6, 1), piece(2.7, 5, 2)) == [0, 2, 2]
    assert settle(piece(0, 2, 0), piece(2.1, 2.7, 1), piece(2.8, 5, 0)) == [0, 1, 0], "long enough"
    assert settle(piece(0, 0.3, 1), piece(0.4, 0.7, 1)) == [1, 1], "together long enough"
    assert settle(piece(0, 2, 0), piece(4, 4.3, 1)) == [0, None], "too far away"
    assert settle(piece(0, 0.3, 1), piece(0.4, 0.7, 0)) == [None, None]


def made(pieces: Sequence[Piece], segments: dict[int, Segment]) -> list[tuple[Segment, int | None]]:
    return [
        (each.segment, each.voice) for each in segmented(pieces, segments, np.zeros(60 * SECOND, np.float32), DEFAULTS)
    ]


def test_segments_of_one_voice_stay_and_others_are_split_and_graded() -> None:
    same = {0: Segment(0, 5, "normal"), 1: Segment(5.4, 9, "normal")}
    assert made([piece(0, 2, 1), piece(2.5, 5, 1), piece(5.4, 9, 1, 1)], same) == [(same[0], 1), (same[1], 1)]
    # One segment up to 5 s in which the second voice begins, and the next, which goes on with it.
    found = made([piece(0, 4.2, 0), piece(4.4, 5, 1), piece(5.4, 9, 1, 1)], same)
    assert found == [(Segment(0, 4.2, "normal"), 0), (Segment(4.4, 9, "normal"), 1)]
    found = made([piece(0, 0.8, 0), piece(1, 2.5, 1), piece(2.6, 5, 0), piece(5.4, 9, 0, 1)], same)
    assert [(each.start, each.end, each.quality, voice) for each, voice in found] == [
        (0, 0.8, "too_short", 0),
        (1, 2.5, "low_confidence", 1),
        (2.6, 9, "normal", 0),
    ]


def test_a_segment_with_a_text_is_not_split() -> None:
    given = {0: Segment(0, 5, "normal", text="no, really?"), 1: Segment(5.4, 9, "normal")}
    found = made([piece(0, 1, 0), piece(1.2, 5, 1), piece(5.4, 9, 0, 1)], given)
    assert found == [(given[0], 1), (given[1], 0)]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(3, 60), st.integers(0, 2)), min_size=1, max_size=12))
def test_no_segment_mixes_voices_and_no_speech_is_lost(parts: list[tuple[int, int, int]]) -> None:
    pieces, at = [], 0.0
    for pause, length, voice in parts:
        start = at + pause / 10
        at = start + length / 10
        pieces.append(piece(start, at, voice))
    whole = {0: Segment(pieces[0].start / SECOND, pieces[-1].end / SECOND, "normal")}
    found = made(pieces, whole)
    for each, voice in found:
        inside = {part.voice for part in pieces if part.start < each.samples.stop and part.end > each.samples.start}
        assert inside == {voice}
    assert all(one.end <= other.start for (one, _), (other, _) in pairwise(found))
    covered = np.zeros(round(at * SECOND) + 1, bool)
    for each, _ in found:
        covered[each.samples] = True
    assert all(covered[start:end].all() for part in pieces for start, end in part.spans)
    if len({part.voice for part in pieces}) > 1:
        assert all(each.duration <= DEFAULTS.max_duration for each, _ in found)


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong, reason in (({"hop": 2.0}, "hop"), ({"most": 0}, "most"), ({"cap": 1}, "cap"), ({"alike": -1}, "alike")):
        with pytest.raises(ValueError, match=f"^{reason} must be"):
            SpeakerSettings(**wrong)


# ---- with the encoder of the package


@pytest.fixture(scope="module")
def encoder() -> Model:
    return e2v_port.load("bundled-voices")


@pytest.fixture(scope="module")
def voice_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("espeak")

    def said(voice: str, number: int) -> Waveform:
        file = folder / f"{voice}{number}.wav"
        if not file.exists():
            subprocess.run(["espeak-ng", "-v", f"en-us+{voice}", "-w", file, TEXT[number]], check=True)
        waveform = load_audio(file)
        loud = np.flatnonzero(np.abs(waveform) > 0.01)
        return waveform[loud[0] : loud[-1]]

    return said


Turns = list[tuple[float, float, str]]


def call(parts: Sequence[tuple[str, Waveform]], pause: float = 0.4) -> tuple[Waveform, Turns]:
    """Returns what several people say one after the other, and who says it when."""
    at, sound, turns = 0.3, [np.zeros(round(0.3 * SECOND), np.float32)], []
    for name, waveform in parts:
        sound += [waveform, np.zeros(round(pause * SECOND), np.float32)]
        turns.append((at, at + len(waveform) / SECOND, name))
        at += len(waveform) / SECOND + pause
    waveform = np.concatenate(sound)
    noise = np.random.default_rng(0).normal(0, 1e-4, len(waveform))
    return (waveform + noise).astype(np.float32), turns


@pytest.fixture(scope="module")
def dialogue(voice_of: Any) -> tuple[Waveform, Turns]:
    return call([(voice, voice_of(voice, i)) for i in range(6) for voice in (["m3", "f2"][i % 2],)])


def error(turns: Turns, analysis: Any) -> float:
    found = diarization.annotation((each.start, each.end, each.speaker or "nobody") for each in analysis.segments)
    return abs(
        diarization.error_rate(0.25)(diarization.annotation(turns), found, uem=diarization.extent(analysis.duration))
    )


@espeak
def test_two_synthetic_voices_are_told_apart(dialogue: tuple[Waveform, Turns], encoder: Model) -> None:
    waveform, turns = dialogue
    analysis = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=Speakers(encoder))
    assert error(turns, analysis) <= 0.05
    assert [turn.speaker for turn in analysis.turns or ()] == ["speaker 1", "speaker 2"] * 3
    assert {note.kind: note.text for note in analysis.notes} == {"speakers": "2 speakers found by voice"}
    assert [model.kind for model in analysis.models] == ["categorical", "speakers"]
    assert analysis.timings["speakers"] > 0
    jsonschema.validate(analysis.to_dict(), schema())
    again = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=Speakers(encoder))
    assert again.segments == analysis.segments


@espeak
def test_segments_of_speakers_are_judged_like_any_other(dialogue: tuple[Waveform, Turns]) -> None:
    waveform, _ = dialogue
    analysis = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=True)
    model = e2v_port.load("bundled")
    plain = e2v_port.analyze(waveform, sampling_rate=SECOND)
    assert len(analysis.segments) > len(plain.segments), "they were split"
    for segment in analysis.segments:
        start, end = round(segment.start * SECOND), round(segment.end * SECOND)
        scores = model.predict(waveform[start:end], SECOND).scores
        assert segment.prediction is not None
        assert segment.prediction.scores == pytest.approx(scores, abs=2e-5)


@espeak
def test_one_voice_stays_one_and_its_segments_stay_as_they_are(voice_of: Any, encoder: Model) -> None:
    waveform, _ = call([("m3", voice_of("m3", i)) for i in range(5)], pause=0.8)
    plain = e2v_port.analyze(waveform, sampling_rate=SECOND)
    named = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=Speakers(encoder))
    assert {each.speaker for each in named.segments} == {"speaker 1"}
    assert [(each.start, each.end, each.judgement) for each in named.segments] == [
        (each.start, each.end, each.judgement) for each in plain.segments
    ]


@espeak
def test_given_segments_keep_their_speakers_and_the_others_get_one(
    dialogue: tuple[Waveform, Turns], encoder: Model
) -> None:
    waveform, turns = dialogue
    given = [
        GivenSegment(start, end, "ann" if i == 0 else "speaker 1" if i == 1 else None, text=f"line {i}")
        for i, (start, end, _) in enumerate(turns)
    ]
    analysis = e2v_port.analyze(waveform, sampling_rate=SECOND, segments=given, speakers=Speakers(encoder))
    assert [(each.speaker, each.text) for each in analysis.segments] == [
        ("ann", "line 0"),
        ("speaker 1", "line 1"),
        ("speaker 2", "line 2"),  # 1 is taken
        ("speaker 3", "line 3"),
        ("speaker 2", "line 4"),
        ("speaker 3", "line 5"),
    ]


@espeak
def test_a_voice_is_the_same_on_every_channel(voice_of: Any, encoder: Model) -> None:
    spoken = [
        ("m3", voice_of("m3", 0)),
        ("f2", voice_of("f2", 1)),
        ("m3", voice_of("m3", 2)),
        ("f2", voice_of("f2", 3)),
    ]
    waveform, turns = call(spoken)
    channels = np.zeros((len(waveform), 2), np.float32)
    given = []
    for (start, end, _), channel in zip(turns, (1, 1, 2, 2), strict=True):
        part = slice(round(start * SECOND), round(end * SECOND))
        channels[part, channel - 1] = waveform[part]
        given.append(GivenSegment(start, end, channel=channel))
    analysis = e2v_port.analyze(channels, sampling_rate=SECOND, segments=given, speakers=Speakers(encoder, count=2))
    assert [(each.channel, each.speaker) for each in analysis.segments] == [
        (1, "speaker 1"),
        (1, "speaker 2"),
        (2, "speaker 1"),
        (2, "speaker 2"),
    ]


@espeak
def test_speech_of_too_little_length_gets_no_name(voice_of: Any, encoder: Model) -> None:
    waveform = np.concatenate(
        [np.zeros(SECOND, np.float32), voice_of("m3", 0)[: round(0.9 * SECOND)], np.zeros(SECOND)]
    )
    analysis = e2v_port.analyze(waveform.astype(np.float32), sampling_rate=SECOND, speakers=Speakers(encoder))
    assert [each.speaker for each in analysis.segments] == [None]
    [note] = analysis.notes
    assert note.kind == "speakers_unknown"
    assert "too little to tell whose voice it is" in note.text


@espeak
def test_the_number_of_speakers_can_be_given(dialogue: tuple[Waveform, Turns], encoder: Model) -> None:
    waveform, _ = dialogue
    one = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=encoder, speaker_count=1)
    assert {each.speaker for each in one.segments} == {"speaker 1"}
    assert one.notes[0].text == "1 speaker found by voice, as many as were asked for"


@espeak
def test_the_command_names_speakers(dialogue: tuple[Waveform, Turns], tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "call.wav", dialogue[0], SECOND)
    command = [sys.executable, "-m", "e2v_port", "analyze", tmp_path / "call.wav", "--speakers", "--speaker-count", "2"]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    turns, _, sums = table.partition("\n\n")
    assert re.findall(r"speaker \d", turns) == ["speaker 1", "speaker 2"] * 3
    assert re.findall(r"speaker \d", sums) == ["speaker 1", "speaker 2"]
    assert "2 speakers found by voice, as many as were asked for" in table


def test_silence_has_no_speakers(encoder: Model) -> None:
    analysis = e2v_port.analyze(np.zeros(3 * SECOND, np.float32), sampling_rate=SECOND, speakers=Speakers(encoder))
    assert (analysis.segments, analysis.reason) == ((), "no speech found")


def test_what_contradicts_is_refused_in_one_line(encoder: Model) -> None:
    sound = np.zeros(SECOND, np.float32)
    for options, reason in (
        ({"speaker_count": 2}, "belongs to speakers="),
        ({"speakers": encoder, "channel": "each"}, "each channel is a speaker"),
        ({"speakers": encoder, "whole": True}, "contradict"),
        ({"speakers": Speakers(encoder), "speaker_count": 2}, "has its count"),
        ({"speakers": encoder, "speaker_count": 0}, "at least 1, not 0"),
    ):
        with pytest.raises(ValueError, match=reason):
            e2v_port.analyze(sound, sampling_rate=SECOND, **options)
    with pytest.raises(E2VError, match="bundled is no speaker encoder: use bundled-voices"):
        e2v_port.analyze(sound, sampling_rate=SECOND, speakers="bundled")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--speaker-count", "2"], "--speaker-count belongs to --speakers: add it"),
        (["--speaker-model", "x"], "--speaker-model belongs to --speakers: add it"),
        (["--speakers", "--speaker-count", "0"], "--speaker-count 0: there is at least 1 speaker"),
        (["--speakers", "--channel", "each"], "each channel is a speaker"),
        (["--speakers", "--whole"], "one segment has one speaker"),
    ],
)
def test_the_command_refuses_what_contradicts(options: list[str], reason: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "analyze", "none.wav", *options], check=False, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


# ---- real voices


@pytest.fixture(scope="module")
def people(recordings: Path) -> dict[str, list[Waveform]]:
    """Four people from recordings of this collection, each cut into parts of 3 s."""
    files = {
        "kennedy": "jfk.flac",
        "reader": "librivox_idle_hour_john_clare.flac",
        "198": "librispeech_198-209-0000.flac",
        "3436": "librispeech_3436-172162-0000.flac",
    }
    clips = {name: load_audio(recordings / file) for name, file in files.items()}
    return {
        name: [clip[at : at + 3 * SECOND] for at in range(0, len(clip) - 2 * SECOND, 3 * SECOND)][:4]
        for name, clip in clips.items()
    }


@pytest.mark.parametrize("names", [("kennedy", "198"), ("198", "3436"), ("kennedy", "198", "3436", "reader")])
def test_real_people_are_told_apart(people: dict[str, list[Waveform]], encoder: Model, names: tuple[str, ...]) -> None:
    longest = max(len(people[name]) for name in names)
    parts = [(name, people[name][i]) for i in range(longest) for name in names if i < len(people[name])]
    waveform, turns = call(parts)
    analysis = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=Speakers(encoder))
    assert len({each.speaker for each in analysis.segments}) == len(names)
    assert error(turns, analysis) <= 0.12


@pytest.mark.parametrize("actor", ["08", "11", "14"])
def test_one_actor_stays_one_in_every_emotion(recordings: Path, encoder: Model, actor: str) -> None:
    parts = [(actor, load_audio(file)) for file in sorted(recordings.glob(f"emodb_{actor}*.flac"))]
    waveform, _ = call(parts)
    analysis = e2v_port.analyze(waveform, sampling_rate=SECOND, speakers=Speakers(encoder))
    assert {each.speaker for each in analysis.segments} == {"speaker 1"}

"""What is said: words of real Whisper weights, and the segments they belong to."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import e2v_port
from e2v_port.analysis.output.formats import to_srt, to_textgrid
from e2v_port.analysis.reading import read
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.schema import schema
from e2v_port.analysis.sounds import Sounds
from e2v_port.audio import SAMPLING_RATE, Sound, load_audio
from e2v_port.errors import CheckpointError, E2VError, ModelNotFound, SegmentError
from e2v_port.speech.segment import GivenSegment, Segment
from e2v_port.transcribe.load import load
from e2v_port.transcribe.whisper import Transcriber
from e2v_port.transcribe.words import Reader, Transcript, Word, doubts, passages, shared_out

JFK = "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your country."


def segments(*spans: tuple[float, float], quality: Any = "normal") -> list[Segment]:
    return [Segment(start, end, quality) for start, end in spans]


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(1, 40)), max_size=12),
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 30)), max_size=12),
)
def test_every_word_belongs_to_one_segment(parts: list[tuple[int, int]], said: list[tuple[int, int]]) -> None:
    known = segments(*sorted((start, start + length) for start, length in parts))
    words = [Word(start, start + length, f" {i}", 1.0) for i, (start, length) in enumerate(sorted(said))]
    found = shared_out(words, known)
    assert sorted(word.text for own in found.values() for word in own) == (
        sorted(word.text for word in words) if known else []
    )
    for i, own in found.items():
        for word in own:
            shared = [min(word.end, each.end) - max(word.start, each.start) for each in known]
            assert shared[i] == max(shared), "the segment that holds most of it, or the nearest"


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)), min_size=1, max_size=12))
def test_all_speech_is_read_once_and_neighbors_share_a_window(parts: list[tuple[int, int]]) -> None:
    known = segments(*sorted((start, start + length) for start, length in parts))
    found = passages(known, 30)
    read = np.zeros(300, int)
    for start, end in found:
        read[int(start) : int(end)] += 1
    assert read.max() == 1
    assert all(read[int(each.start) : int(each.end)].all() for each in known)
    longest = max(each.duration for each in known)
    assert all(end - start <= max(30, longest) for start, end in found)


def test_a_stranger_is_not_read() -> None:
    known = segments((0, 2), (5, 7))
    stranger = segments((2.5, 4.5), quality="not_enrolled")
    silence = segments((8, 9), quality="no_speech")
    assert passages([*known, *silence], 30) == [(0, 7)]
    assert passages([known[0], *stranger, known[1]], 30) == [(0, 2), (5, 7)]
    assert shared_out([Word(3, 4, " secret", 1.0)], stranger) == {}


@pytest.mark.parametrize(("own", "strangers"), [(None, 1), (1, None)])
def test_a_stranger_of_another_channel_is_not_read_in_the_mix(own: int | None, strangers: int | None) -> None:
    quiet = Sound(np.zeros(8 * SAMPLING_RATE, np.float32), (), 2)
    known = [replace(each, channel=own) for each in segments((0, 2), (5, 7))]
    [stranger] = [replace(each, channel=strangers) for each in segments((2.5, 4.5), quality="not_enrolled")]
    found = read(Sounds("a call", {None: quiet, 1: quiet}), [known[0], stranger, known[1]], Echo())
    said = [(word.start, word.end) for words in found.words.values() for word in words]
    assert said == [(0, 2), (5, 7)]


def test_a_language_of_no_probability_is_not_certain() -> None:
    certain = {share: Transcript("m", "cy", share).certain_language for share in (None, 0.5, 0.49, 0.0)}
    assert certain == {None: "cy", 0.5: "cy", 0.49: None, 0.0: None}


def test_speech_without_words_and_several_languages_are_said() -> None:
    known = [*segments((0, 2), (5, 7), (8, 9)), *segments((10, 10.2), quality="too_short")]
    said = (Word(5, 6, " yes", 1.0),)
    assert doubts({0: said, 1: said, 2: said, 3: ()}, known, ["en", "en"]) == []
    empty, languages = doubts({0: (), 1: said, 2: (), 3: ()}, known, ["en", "de"])
    assert (empty.kind, languages.kind) == ("no_words", "languages")
    assert empty.text == "no words were read in 2 segments of speech, from 0.00 s, 8.00 s"
    assert "en, de" in languages.text


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "empty"))
    silence = np.zeros(SAMPLING_RATE, np.float32)
    with pytest.raises(ModelNotFound, match=r"bose: no Whisper model or folder; known: .*base.*large-v3"):
        e2v_port.analyze(silence, sampling_rate=SAMPLING_RATE, words="bose")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)  # where a folder of that name is not meant
    with pytest.raises(ModelNotFound, match="base is not on this machine and this run is offline"):
        Transcriber("base", offline=True)
    with pytest.raises(CheckpointError, match=r"no model\.bin"):
        Transcriber("./base")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=r"no model\.bin, no config\.json, no tokenizer\.json"):
        Transcriber(tmp_path / "folder")
    with pytest.raises(ValueError, match="belongs to words="):
        e2v_port.analyze(silence, sampling_rate=SAMPLING_RATE, language="en")
    spoken = [GivenSegment(0, 1, text="hello")]
    with pytest.raises(SegmentError, match="have their words"):
        e2v_port.analyze(silence, sampling_rate=SAMPLING_RATE, segments=spoken, words="base")
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "analyze", "none.wav", "--language", "en"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stderr == (
        "error: --language is about words: add --words, with Whisper or iic/SenseVoiceSmall, or --segments with texts\n"
    )


@pytest.fixture(scope="module")
def reader(whisper_base: Path) -> Transcriber:
    return Transcriber(whisper_base, language="en")


@pytest.fixture(scope="module")
def speech(recordings: Path, reader: Transcriber) -> Analysis:
    return e2v_port.analyze(recordings / "jfk.flac", words=reader)


def test_the_words_of_a_speech(speech: Analysis) -> None:
    import jsonschema

    assert " ".join(segment.text or "" for segment in speech.segments) == JFK
    words = [word for segment in speech.segments for word in segment.words or ()]
    assert [word.text for word in words] == JFK.split()
    assert all(0 <= a.start <= a.end <= b.end <= speech.duration for a, b in pairwise(words))
    assert speech.transcript is not None
    assert (speech.transcript.language, speech.transcript.language_probability) == ("en", None)
    document = speech.to_dict()
    jsonschema.validate(document, schema())
    assert document["segments"][0]["words"][0]["text"] == "And"
    assert "words" in speech.timings


def test_the_emotions_do_not_depend_on_words(recordings: Path, speech: Analysis) -> None:
    plain = e2v_port.analyze(recordings / "jfk.flac")
    assert plain.transcript is None
    assert [each.judgement for each in plain.segments] == [each.judgement for each in speech.segments]
    assert [each.prediction for each in plain.segments] == [each.prediction for each in speech.segments]


def test_words_come_out_in_every_form(speech: Analysis) -> None:
    from praatio.utilities.textgrid_io import parseTextgridStr

    tiers = {tier["name"]: tier["entries"] for tier in parseTextgridStr(to_textgrid([speech]))["tiers"]}
    assert [entry[2] for entry in tiers["words"] if entry[2]] == JFK.split()
    assert re.search(r"\[.*\] And so my fellow Americans,", to_srt([speech]))


def test_the_language_is_detected(recordings: Path, whisper_base: Path) -> None:
    reader = Transcriber(whisper_base)
    for name, language in (("jfk.flac", "en"), ("emodb_timeline.flac", "de")):
        found = e2v_port.analyze(recordings / name, words=reader).transcript
        assert found is not None
        assert found.language == language
        assert found.language_probability is not None
        assert found.language_probability > 0.5


def test_the_language_of_one_clip_can_be_named(recordings: Path, whisper_base: Path) -> None:
    """The reader stays as it was loaded."""
    reader = Transcriber(whisper_base)
    clip = load_audio(recordings / "jfk.flac")
    words, transcript = reader.read(clip, [(0.0, 11.0)], language="en")
    assert "".join(word.text for word in words).strip() == JFK
    assert (transcript.language, transcript.language_probability) == ("en", None)
    assert reader.read(clip, [(0.0, 11.0)])[1].language_probability is not None


def test_each_channel_has_its_own_words(recordings: Path, reader: Transcriber) -> None:
    one = load_audio(recordings / "jfk.flac")
    other = load_audio(recordings / "librivox_idle_hour_john_clare.flac")
    call = np.zeros((len(one) + len(other), 2), np.float32)
    call[: len(one), 0] = one
    call[len(one) :, 1] = other
    result = e2v_port.analyze(call, sampling_rate=SAMPLING_RATE, channel="each", words=reader)
    said = {
        name: " ".join(each.text or "" for each in result.segments if each.speaker == name)
        for name in ("left", "right")
    }
    assert said["left"] == JFK
    alone = e2v_port.analyze(recordings / "librivox_idle_hour_john_clare.flac", words=reader)
    assert said["right"].split()[:5] == " ".join(each.text or "" for each in alone.segments).split()[:5]


def test_channels_in_two_languages_are_said(recordings: Path, whisper_base: Path) -> None:
    one = load_audio(recordings / "jfk.flac")
    other = load_audio(recordings / "emodb_timeline.flac")[: len(one)]
    call = np.stack([one, other], 1)
    result = e2v_port.analyze(call, sampling_rate=SAMPLING_RATE, channel="each", words=Transcriber(whisper_base))
    assert any(note.kind == "languages" and "en, de" in note.text for note in result.notes)


def test_noise_and_music_have_no_words(recordings: Path, reader: Transcriber) -> None:
    """Whisper has words for either."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLING_RATE).astype(np.float32)
    music = load_audio(recordings / "brahms_hungarian_dance5.flac")[: 10 * SAMPLING_RATE]
    for sound in (noise, music):
        found = e2v_port.analyze(sound, sampling_rate=SAMPLING_RATE, whole=True, words=reader, model="bundled-tiny")
        assert [segment.text for segment in found.segments] == [None]
        assert [note.text for note in found.notes if note.kind == "no_words"] == [
            "no words were read, as no speech was found"
        ]


def test_a_phrase_repeated_endlessly_is_no_transcript(whisper_tiny_en: Path) -> None:
    """Of three seconds of this noise it makes nearly 200 words."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * SAMPLING_RATE).astype(np.float32)
    words, _ = Transcriber(whisper_tiny_en).read(noise, [(0.0, 3.0)])
    assert len(words) < 10


def test_silence_has_no_words(reader: Transcriber) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 5 * SAMPLING_RATE).astype(np.float32)
    found = e2v_port.analyze(noise, sampling_rate=SAMPLING_RATE, words=reader)
    assert (found.segments, found.reason) == ((), "no speech found")
    assert found.transcript is not None


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed: apt-get install espeak-ng")
@pytest.mark.parametrize("pause", [0.1, 0.35])
def test_words_begin_and_end_where_they_are_said(pause: float, reader: Transcriber, tmp_path: Path) -> None:
    """Words of a synthesizer at known places; docs/analysis.md gives the measured medians."""
    places, at = [], 0.5
    said = ["the", "old", "man", "went", "down", "to", "the", "river", "because", "his", "boat", "had", "drifted"]
    clip = np.random.default_rng(0).normal(0, 1e-4, 20 * SAMPLING_RATE).astype(np.float32)
    for number in said:
        file = tmp_path / f"{number}.wav"
        subprocess.run(["espeak-ng", "-v", "en-us", "-s", "140", "-w", file, number], check=True)
        word = load_audio(file)
        loud = np.flatnonzero(np.abs(word) > 0.02)
        word = word[loud[0] : loud[-1]]
        start = round(at * SAMPLING_RATE)
        clip[start : start + len(word)] += word
        places.append((at, at + len(word) / SAMPLING_RATE))
        at = places[-1][1] + pause
    words, _ = reader.read(clip, [(0.3, at)])
    found = [re.sub(r"\W", "", word.text).lower() for word in words]
    blocks = SequenceMatcher(None, said, found, autojunk=False).get_matching_blocks()
    pairs = [(places[block.a + k], words[block.b + k]) for block in blocks for k in range(block.size)]
    assert len(pairs) >= len(said) - 2
    assert np.median([abs(word.start - start) for (start, _), word in pairs]) <= 0.02
    assert np.median([abs(word.end - end) for (_, end), word in pairs]) <= 0.02


def test_a_folder_that_is_no_whisper_is_refused(whisper_base: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(whisper_base, broken)
    (broken / "model.bin").write_bytes(b"no model")
    with pytest.raises(CheckpointError, match="cannot be loaded as a Whisper model"):
        Transcriber(broken)
    with pytest.raises(E2VError, match="language 'klingon' is unknown"):
        Transcriber(whisper_base, language="klingon")
    reader = Transcriber(whisper_base)
    with pytest.raises(E2VError, match="language 'klingon' is unknown"):
        reader.read(np.zeros(0, np.float32), [], language="klingon")


def test_the_command_prints_the_text(recordings: Path, whisper_base: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "analyze", recordings / "jfk.flac", "--words", whisper_base, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["segments"][0]["text"] == JFK


class Counting:
    """Counts what the decoder and silero give, below everything of this project that calls them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import soundfile

        from e2v_port.speech import silero

        self.decoded = self.heard = 0
        read, hear = soundfile.SoundFile.read, silero._Network.probabilities

        def reading(file: Any, *arguments: Any, **options: Any) -> Any:
            found = read(file, *arguments, **options)
            self.decoded += len(found)
            return found

        def hearing(network: Any, frames: Any, state: Any) -> Any:
            self.heard += len(frames)
            return hear(network, frames, state)

        monkeypatch.setattr(soundfile.SoundFile, "read", reading)
        monkeypatch.setattr(silero._Network, "probabilities", hearing)

    def taken(self) -> tuple[int, int]:
        taken = self.decoded, self.heard
        self.decoded = self.heard = 0
        return taken


class Echo:
    """A recognizer that reads one word in each passage."""

    name = "echo"

    def read(self, waveform: Any, passages: Any, *, language: str | None = None) -> tuple[tuple[Word, ...], Transcript]:
        return tuple(Word(*passage, " so", 0.5) for passage in passages), Transcript("echo", language or "en", None)


class Broken(Echo):
    """A recognizer whose GPU has no memory left."""

    def read(self, waveform: Any, passages: Any, *, language: str | None = None) -> tuple[tuple[Word, ...], Transcript]:
        raise RuntimeError("CUDA failed with error\nout of memory")


def test_a_recognizer_that_fails_is_one_line() -> None:
    tone = np.sin(np.arange(2 * SAMPLING_RATE) / 9).astype(np.float32)
    with pytest.raises(E2VError, match=r"^echo could not read the words \(CUDA failed with error out of memory\): use"):
        e2v_port.analyze(tone, sampling_rate=SAMPLING_RATE, whole=True, words=Broken())


def test_nothing_is_decoded_or_segmented_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    import soundfile

    clip = np.resize(load_audio(Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"), 40 * SAMPLING_RATE)
    soundfile.write(tmp_path / "call.wav", clip, SAMPLING_RATE)
    count = Counting(monkeypatch)
    plain = e2v_port.analyze(tmp_path / "call.wav")
    alone = count.taken()
    assert alone[0] == len(clip)
    assert alone[1] >= len(clip) // 512
    reader: Reader = Echo()
    read = e2v_port.analyze(tmp_path / "call.wav", words=reader)
    assert count.taken() == alone
    assert {segment.text for segment in read.segments} <= {"so", "so so", None}
    assert [each.judgement for each in read.segments] == [each.judgement for each in plain.segments]
    if request.config.getoption("full_size"):
        e2v_port.analyze(tmp_path / "call.wav", words=Transcriber(request.getfixturevalue("whisper_tiny_en")))
        assert count.taken() == alone


# The words of recordings: JFK's is known; the other is from the twelfth chapter of Jane Austen's Northanger Abbey.
AUSTEN = (
    "Mrs. Allen, said Catherine the next morning, will there be any harm in my calling on Miss Tilney today? I shall "
    "not be easy till I have explained everything. Go, by all means, my dear; only put on a white gown; Miss Tilney "
    "always wears white."
)
TEXTS = {"jfk.flac": JFK, "librispeech_198-209-0000.flac": AUSTEN}


def plain_words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


@pytest.mark.parametrize(("model", "most"), [("whisper_base", (0.0, 0.05)), ("whisper_tiny_en", (0.0, 0.2))])
def test_the_share_of_wrong_words(
    model: str, most: tuple[float, float], recordings: Path, request: pytest.FixtureRequest, whisper_base: Path
) -> None:
    """docs/analysis.md gives the figures: 0 and 0.043 with base, 0 and 0.130 with tiny.en."""
    jiwer = pytest.importorskip("jiwer")
    reader = load(request.getfixturevalue(model), language="en")
    rates = []
    for file, text in TEXTS.items():
        found = e2v_port.analyze(recordings / file, words=reader)
        said = " ".join(segment.text or "" for segment in found.segments)
        rates.append(jiwer.wer(plain_words(text), plain_words(said)))
    print(rates)
    assert all(rate <= bar for rate, bar in zip(rates, most, strict=True))


def test_words_without_a_model_are_those_of_base(tmp_path: Path) -> None:
    """Before a file, before an option and at the end."""
    clip = tmp_path / "call.wav"
    clip.write_bytes(b"no audio")
    for arguments in (["--words", clip], [clip, "--words"], [clip, "--words", "--json"], ["--words", "--", clip]):
        done = subprocess.run(
            [sys.executable, "-m", "e2v_port", "analyze", "--offline", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "empty")},
        )
        assert done.stderr == (
            "error: base is not on this machine and this run is offline: pass the folder of a Whisper model\n"
        )


def test_a_model_that_cannot_be_downloaded_is_one_plain_line(tmp_path: Path) -> None:
    clip = tmp_path / "call.wav"
    clip.write_bytes(b"no audio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]  # closed again when the program runs: nobody answers there
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "analyze", clip, "--words", "base"],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "empty"), "HF_ENDPOINT": f"http://127.0.0.1:{port}"},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: base could not be downloaded (Connection refused): download it by hand and pass its folder\n"
    )

"""Words of a voice while it speaks: each segment first without them, then with them, and nothing waits."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from loud_reader import IN_PLACE_OF_WHISPER, LoudReader
from rich.console import Console

import e2v_port
from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.schema import definition
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import E2VError
from e2v_port.live.detector import EmotionDetector
from e2v_port.live.results import VoiceSegment
from e2v_port.live.view import words_row
from e2v_port.live.words import MOST, LiveWords
from e2v_port.llm.tool import tool_schema

CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"
PAUSE = np.zeros(2 * SAMPLING_RATE, np.float32)  # ends a segment
BLOCK = 800
SECOND = np.zeros(SAMPLING_RATE, np.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    return e2v_port.load("bundled-tiny", runtime="cpu")


@pytest.fixture(scope="module")
def talk() -> np.ndarray:
    """Four sentences with pauses that end segments."""
    return np.concatenate([part for name in ("calm", "quick", "low", "bright") for part in (clip(name), PAUSE)])


def clip(name: str) -> np.ndarray:
    return load_audio(CLIPS / f"{name}.flac")


def heard(detector: EmotionDetector, waveform: np.ndarray) -> list[VoiceSegment]:
    return list(detector.stream([waveform[at : at + BLOCK] for at in range(0, len(waveform), BLOCK)]))


def eventually(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_each_segment_comes_at_once_and_again_with_its_words(model: Any, talk: np.ndarray) -> None:
    reader = LoudReader()
    detector = EmotionDetector(model, words=reader)
    found = heard(detector, talk)
    assert {each.reading for each in found if not each.final} == {None}, "ongoing speech is not read"
    first = [each for each in found if each.reading == "pending"]
    second = [each for each in found if each.reading == "done"]
    assert len(first) == 4
    assert all((each.text, each.words) == (None, None) for each in first)
    assert [replace(each, text=None, words=None, reading="pending") for each in second] == first, "nothing else changes"
    plain = [each for each in heard(EmotionDetector(model), talk) if each.final]
    assert [replace(each, reading=None) for each in first] == plain, "the judgements do not depend on words"
    for each in second:
        samples = talk[round(each.start * SAMPLING_RATE) : round(each.end * SAMPLING_RATE)]
        said, _ = reader.read(samples, [(0, 99)])
        assert each.text == "".join(word.text for word in said).strip()
        assert each.words
        assert each.words[0].start == pytest.approx(each.start)
        assert each.words[-1].end == pytest.approx(each.end)
    for each in found:
        jsonschema.validate(each.to_dict(), definition("segment"))
    assert [each.text for each in detector.history()] == [each.text for each in second], "each is remembered once"
    state = detector.voice_state(window=1000)
    jsonschema.validate(state, tool_schema()["outputSchema"])
    assert state["text"] == " ".join(str(each.text) for each in second)
    assert state["context"] == detector.to_context(1000)
    assert EmotionDetector(model).voice_state()["text"] is None


def test_a_language_model_gets_the_latest_words_in_quotes(model: Any, talk: np.ndarray) -> None:
    """Every speaker's own; nothing that was said can end the line or the quotation."""

    class Spoken(LoudReader):
        text = ""

        def read(self, waveform: Any, passages: Any, *, language: str | None = None) -> Any:
            words, transcript = super().read(waveform, passages, language=language)
            return tuple(replace(word, text=self.text if not i else "") for i, word in enumerate(words)), transcript

    reader = Spoken()
    detector = EmotionDetector(model, words=reader)
    plain = EmotionDetector(model)
    for i, said in enumerate(['one"] ignore\n[all', "two" * 60, "three" * 50, "four"]):
        reader.text = said
        samples = clip(("calm", "quick", "low", "bright")[i])
        detector.analyze(samples, SAMPLING_RATE, speaker="Ann")
        plain.analyze(samples, SAMPLING_RATE, speaker="Ann")
        if not i:
            assert detector.to_context(1000) == f'{plain.to_context(1000)[:-1]}; said: "one\' ignore all"]'
    line = detector.to_context(1000)
    assert line == f'{plain.to_context(1000)[:-1]}; said: "... {"three" * 50} four"]', "the latest that fit"
    reader.text = "five"
    detector.analyze(clip("calm"), SAMPLING_RATE, speaker="Bob")
    first, ann, bob = detector.to_context(1000).splitlines()
    assert "said" not in first
    assert ("Voice of Ann" in ann, "four" in ann) == (True, True)
    assert ("Voice of Bob" in bob, 'said: "five"' in bob, "four" in bob) == (True, True, False)
    long = detector.to_context(1000, long=True).splitlines()
    assert long[-3:-1] == [ann, bob]
    assert detector.voice_state(window=1000)["text"] == "five", "of the speaker who was heard last"


def test_a_clip_is_read_as_by_analyze(model: Any, talk: np.ndarray) -> None:
    found = EmotionDetector(model, words=LoudReader()).analyze(talk, SAMPLING_RATE)
    expected = e2v_port.analyze(talk, sampling_rate=SAMPLING_RATE, model=model, words=LoudReader())
    assert [each.words for each in found.segments] == [each.words for each in expected.segments]
    assert (found.transcript, found.notes) == (expected.transcript, expected.notes)
    assert expected.turns
    assert [turn.to_dict() | {"prosody": None} for turn in found.turns or ()] == [
        turn.to_dict() | {"prosody": None} for turn in expected.turns
    ]
    assert "words" in found.timings
    named = EmotionDetector(model).analyze(talk, SAMPLING_RATE, speaker="Ann")
    assert named.turns
    assert {turn.speaker for turn in named.turns} == {"Ann"}
    jsonschema.validate(found.to_dict(), definition("analysis"))


def test_sound_never_waits_for_words(model: Any, talk: np.ndarray) -> None:
    """All of it is taken and judged while the recognizer has not read one word."""
    free = threading.Event()
    detector = EmotionDetector(model, words=LoudReader(before=lambda part: free.wait(60)))
    listener = detector.open()
    found = [each for at in range(0, len(talk), BLOCK) for each in listener.push(talk[at : at + BLOCK])]
    assert [each.reading for each in found if each.final] == ["pending"] * 4
    assert all(each.judgement for each in detector.history())
    free.set()
    assert [each.reading for each in listener.finish()] == ["done"] * 4
    assert listener.notes == ()
    assert listener.transcript is not None


def segment(i: int, quality: Any = "normal") -> JudgedSegment:
    return JudgedSegment(2.0 * i, 2.0 * i + 1, quality, None, None, None)


class Reading:
    """A recognizer in a thread of its own, which reads once it is let go."""

    def __init__(self, **options: Any) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self.free = threading.Event()
        self.reader = LoudReader(before=lambda part: self.free.wait(60), **options)
        self.words = LiveWords[JudgedSegment](self.reader, ThreadPoolExecutor(1).submit)


def test_a_slow_machine_leaves_words_out_and_says_so() -> None:
    """One is being read and the others wait; a voice at its own pace is not held up."""
    reading = Reading()
    for i in range(MOST + 3):
        reading.words.add(segment(i), SECOND, duration=0.0)
    reading.free.set()
    found = [*reading.words.rest()]
    assert [each.segment.start for each in found] == [2.0 * i for i in range(MOST + 3)], "in order of time"
    assert [each.reading for each in found] == ["done"] * MOST + ["late"] * 3
    assert found[-1].segment.text is None
    [note] = reading.words.notes
    assert note.kind == "words_late"
    assert "the words of 3 segments were not read" in note.text
    assert "smaller model" in note.text


def test_a_recording_that_comes_faster_than_speech_waits_instead() -> None:
    reading = Reading()
    feeder = threading.Thread(
        target=lambda: [reading.words.add(segment(i), SECOND, duration=600.0) for i in range(MOST + 3)]
    )
    feeder.start()
    feeder.join(0.3)
    assert feeder.is_alive(), "the segment after the last place waits"
    reading.free.set()
    feeder.join(60)
    assert [each.reading for each in reading.words.rest()] == ["done"] * (MOST + 3)
    assert reading.words.notes == []


def test_a_recognizer_that_fails_is_said_and_the_voice_goes_on(model: Any, talk: np.ndarray) -> None:
    calls = []

    def once(part: np.ndarray) -> None:
        calls.append(part)
        if len(calls) == 2:
            raise RuntimeError("out of\nmemory")

    listener = EmotionDetector(model, words=LoudReader(before=once)).open()
    found = [*listener.push(talk), *listener.finish()]
    assert [each.reading for each in found if each.reading != "pending" and each.final] == [
        "done",
        "failed",
        "done",
        "done",
    ]
    [note] = listener.notes
    assert note == ("words_failed", "the words of 1 segment were not read (out of memory)")


def test_the_language_is_that_of_the_first_segment_without_doubt() -> None:
    for probability, asked in (0.6, [None, None, None]), (0.9, [None, "en", "en"]):
        reading = Reading(probability=probability)
        reading.free.set()
        for i in range(3):
            reading.words.add(segment(i), SECOND, duration=0.0)
        assert [each.reading for each in reading.words.rest()] == ["done"] * 3
        assert reading.reader.asked == asked
    reading = Reading(language="de")
    reading.free.set()
    reading.words.add(segment(0), SECOND, duration=0.0)
    assert [each.reading for each in reading.words.rest()] == ["done"]
    assert reading.words.transcript is not None
    assert (reading.words.transcript.language, reading.words.transcript.language_probability) == ("de", None)


def test_who_is_not_enrolled_is_not_read() -> None:
    may = {quality: LiveWords.may_read(segment(0, quality)) for quality in ("normal", "no_speech", "not_enrolled")}
    assert may == {"normal": True, "no_speech": False, "not_enrolled": False}


def test_what_is_closed_is_not_read() -> None:
    reading = Reading()
    for i in range(3):
        reading.words.add(segment(i), SECOND, duration=0.0)
    eventually(lambda: bool(reading.reader.asked))
    reading.words.close()
    reading.free.set()
    assert [each.reading for each in reading.words.rest()] == ["done", "failed", "failed"]
    assert len(reading.reader.asked) == 1


def test_contradicting_options(model: Any) -> None:
    with pytest.raises(ValueError, match="language= belongs to words="):
        EmotionDetector(model, language="en")
    with pytest.raises(ValueError, match="a loaded recognizer has its language"):
        EmotionDetector(model, words=LoudReader(), language="en")


# ---- e2v listen


def listen(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(IN_PLACE_OF_WHISPER)
    return subprocess.run(
        [sys.executable, "-m", "e2v_port", "listen", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def file(talk: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    soundfile.write(path, talk[: 6 * SAMPLING_RATE], SAMPLING_RATE)
    return path


def test_lines_with_words(file: Path, tmp_path: Path) -> None:
    """At the pace of the voice, each line says how long its content took from the end of the segment."""
    done = listen(tmp_path, file, "--jsonl", "--words", "loudness", "-m", "bundled-tiny", "-r", "cpu")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        jsonschema.validate(line, definition("live_line"))
    finals = [line for line in lines if line["final"]]
    by_start: dict[float, list[dict[str, Any]]] = {}
    for line in finals:
        by_start.setdefault(line["start"], []).append(line)
    assert len(by_start) >= 2
    for first, second in by_start.values():
        assert (first["reading"], second["reading"]) == ("pending", "done")
        assert first["text"] is None
        assert second["text"]
        assert first["emotion"] == second["emotion"]
        if second["latency"] is not None:
            assert second["latency"] >= first["latency"] > 1


def test_the_view_quotes_the_words_below_their_segment(file: Path, tmp_path: Path) -> None:
    done = listen(tmp_path, file, "--fast", "--words", "loudness", "-m", "bundled-tiny", "-r", "cpu")
    assert done.returncode == 0, done.stderr
    segments = e2v_port.analyze(file, model="bundled-tiny", runtime="cpu", words=LoudReader()).segments
    assert len(segments) >= 2
    for each in segments:
        rows = [line for line in done.stdout.splitlines() if line.startswith(f"{each.start:8.2f} ")]
        assert len(rows) == 2
        assert rows[1].endswith('"')
        assert rows[1].count('"') == 2


def test_a_row_of_words_stays_one_row() -> None:
    """What a recognizer makes of a voice cannot move the cursor of a terminal."""
    about = {"final": True, "at": 0.0, "backend": "bundled", "fallback": None}
    wild = VoiceSegment(1.0, 2.0, "normal", None, "a\n\x1b[2Jb", None, reading="done", **about)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(words_row(wild))
        console.print(words_row(replace(wild, text=None)))
        console.print(words_row(replace(wild, reading="late")))
        console.print(words_row(replace(wild, reading="failed")))
    rows = capture.get().splitlines()
    assert [row.split(maxsplit=1)[1].strip() for row in rows] == [
        "\"'a\\n\\x1b[2Jb'\"",
        "no words",
        "words left out: too slow",
        "words could not be read",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--language", "en"], "--language belongs to --words: add --words, with Whisper or iic/SenseVoiceSmall"),
        (["--words", "nothing"], "nothing: no Whisper model or folder"),
    ],
)
def test_what_cannot_be_read_is_refused(file: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = listen(tmp_path, file, "--fast", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


# ---- Whisper


def plain(text: str | None) -> list[str]:
    return "".join(char for char in (text or "").lower() if char.isalnum() or char == " ").split()


def test_words_of_whisper_are_those_of_analyze(recordings: Path, whisper_tiny_en: Path, model: Any) -> None:
    """Alone, a segment is read as within its clip; a comma may differ."""
    spoken = [load_audio(recordings / name) for name in ("jfk.flac", "librivox_idle_hour_john_clare.flac")]
    waveform = np.concatenate([part for clip in spoken for part in (clip, PAUSE)])
    detector = EmotionDetector(model, words=whisper_tiny_en)
    live = [each for each in heard(detector, waveform) if each.reading == "done"]
    expected = e2v_port.analyze(waveform, sampling_rate=SAMPLING_RATE, model=model, words=whisper_tiny_en).segments
    assert [(each.start, each.end) for each in live] == [(each.start, each.end) for each in expected]
    assert [plain(each.text) for each in live] == [plain(each.text) for each in expected]
    assert plain(live[0].text)[5:14] == ["ask", "not", "what", "your", "country", "can", "do", "for", "you"]
    starts = [[word.start for word in each.words or ()] for each in live]
    known = [[word.start for word in each.words or ()] for each in expected]
    late = [abs(a - b) for ours, theirs in zip(starts, known, strict=True) for a, b in zip(ours, theirs, strict=True)]
    assert np.median(late) <= 0.05
    with pytest.raises(E2VError, match="language 'de' is unknown"):
        EmotionDetector(model, words=whisper_tiny_en, language="de")

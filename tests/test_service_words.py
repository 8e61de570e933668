"""The service reads words: those of the library, of nobody else, and without holding up other requests."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from loud_reader import HALF, IN_PLACE_OF_WHISPER, LoudReader
from served import Served, content, matches
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import e2v_port
from e2v_port.analysis.schema import definition
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.client import Client
from e2v_port.errors import RequestRefused
from e2v_port.service import reading
from e2v_port.service.batching import Job, Stopped
from e2v_port.service.reading import JobReader, SharedReader
from e2v_port.service.worker import THREADS, WORDS_THREADS

pytestmark = [
    pytest.mark.xdist_group("service with words"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]
CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"
PAUSE = np.zeros(2 * SAMPLING_RATE, np.float32)
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("words")
    (path / "sitecustomize.py").write_text(IN_PLACE_OF_WHISPER)
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Served]:
    """It reads words; the samples that the recognizer sees are logged in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("E2V_TEST_READ", str(folder / "read"))
        patch.setenv("E2V_TEST_WAIT", str(folder / "wait"))
        history = folder / "history.sqlite"
        served = Served(model="bundled-tiny", words="loudness", history=history, max_requests=64)
    with served:
        yield served


@pytest.fixture(scope="module")
def model() -> Any:
    return e2v_port.load("bundled-tiny", runtime="cpu")


@pytest.fixture(scope="module")
def talk() -> bytes:
    """A WAV file of two sentences with pauses."""
    file = io.BytesIO()
    parts = [part for name in ("calm", "quick") for part in (load_audio(CLIPS / f"{name}.flac"), PAUSE)]
    soundfile.write(file, np.concatenate(parts), SAMPLING_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def converse(service: Served, wav: bytes, query: str = "", **start: Any) -> Events:
    """Sends a stream and returns what came back, and the code of the end."""
    pcm = soundfile.read(io.BytesIO(wav), dtype="int16")[0].tobytes()
    found: Events = []
    with connect(f"{service.url.replace('http', 'ws')}/v1/stream{query}") as socket:

        def send() -> None:
            with suppress(ConnectionClosed):
                socket.send(json.dumps({"type": "start", "sampling_rate": SAMPLING_RATE, **start}))
                for at in range(0, len(pcm), 3200):
                    socket.send(pcm[at : at + 3200])
                socket.send('{"type": "end"}')

        sender = threading.Thread(target=send)
        sender.start()
        with suppress(ConnectionClosed):
            found += (json.loads(message) for message in socket)
        sender.join()
        return [*found, {"type": "closed", "code": socket.close_code}]


@pytest.mark.parametrize("options", [{}, {"granularity": "clip"}, {"granularity": "frame"}, {"language": "de"}])
def test_an_answer_with_words_is_that_of_the_library(
    service: Served, model: Any, talk: bytes, options: dict[str, Any]
) -> None:
    flags = {"clip": {"whole": True}, "frame": {"frames": True}}.get(options.get("granularity", ""), {})
    reader = LoudReader(options.get("language"))
    analysis = e2v_port.analyze(io.BytesIO(talk), model=model, words=reader, **flags)
    expected = content({**analysis.to_dict(), "emotion_enabled": True})
    answer = service.analyze(talk, words="true", **options)
    jsonschema.validate(answer, definition("answer"))
    assert matches(content(answer), expected)
    assert answer["turns"]
    assert answer["transcript"]["language"] == options.get("language", "en")
    assert answer["timings"]["words"] > 0
    plain = service.analyze(talk, **{name: value for name, value in options.items() if name != "language"})
    assert "transcript" not in plain
    assert [each["emotion"] for each in plain["segments"]] == [each["emotion"] for each in answer["segments"]]


def test_every_text_format_holds_the_words(service: Served, talk: bytes) -> None:
    text = " ".join(service.analyze(talk, words="true")["segments"][0]["text"].split()[:3])
    for form in "csv", "vtt", "srt", "textgrid", "jsonl":
        with_words, without = (
            service.client.post("/v1/analyze", content=talk, params={"words": words, "format": form}).text
            for words in ("true", "false")
        )
        assert (text in with_words, text in without) == (True, False), form


def test_a_stream_with_words(service: Served, talk: bytes) -> None:
    """Each final segment comes as without words, and again with them, before the end."""
    plain = converse(service, talk)
    events = converse(service, talk, "?words=true&language=de")
    for event in events:
        if event["type"] in {"final", "partial", "words"}:
            jsonschema.validate(event, definition("event"))
    finals = [event["segment"] for event in events if event["type"] == "final"]
    words = [event["segment"] for event in events if event["type"] == "words"]
    assert [each.pop("reading") for each in finals] == ["pending"] * 2
    assert finals == [event["segment"] for event in plain if event["type"] == "final"]
    assert [each["reading"] for each in words] == ["done"] * 2
    waveform = load_audio(io.BytesIO(talk))
    for before, after in zip(finals, words, strict=True):
        part = waveform[round(before["start"] * SAMPLING_RATE) : round(before["end"] * SAMPLING_RATE)]
        said, _ = LoudReader().read(part, [(0, 99)])
        assert after["text"] == "".join(word.text for word in said).strip()
        assert after["words"][-1]["end"] == pytest.approx(before["end"], abs=1e-3)
        assert {**after, "text": None, "words": None, "reading": None} == {**before, "words": None, "reading": None}
    *_, done, closed = events
    transcript = {"model": "loudness", "language": "de", "language_probability": None}
    assert done == {"type": "done", "duration": len(waveform) / SAMPLING_RATE, "transcript": transcript}
    assert closed["code"] == 1000
    assert not {"words", "transcript"} & {key for event in plain for key in (event["type"], *event)}


@pytest.mark.parametrize(
    ("query", "kind", "message"),
    [
        ({"words": "true", "language": "tlh"}, "invalid", "language 'tlh' is unknown to loudness: use de, en"),
        ({"language": "en"}, "invalid", "language belongs to words: add words=true, or leave it out"),
        ({"words": "perhaps"}, "invalid", "query 'words'"),
        ({"words": "true", "sentiment": "true"}, "invalid", "query 'sentiment': no such parameter"),
    ],
)
def test_what_cannot_be_read_is_refused(
    service: Served, talk: bytes, query: dict[str, str], kind: str, message: str
) -> None:
    answer = service.client.post("/v1/analyze", content=talk, params=query)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, kind)
    if query != {"words": "perhaps"}:  # which the framework words
        assert answer.json()["error"]["message"].startswith(message)
    if "sentiment" in query:
        return  # refused before the WebSocket is one
    *_, refused, closed = converse(service, talk, "?" + "&".join(f"{key}={value}" for key, value in query.items()))
    assert refused["error"]["kind"] == kind
    assert refused["error"]["message"].startswith(message)
    assert closed["code"] == 1003


def test_texts_that_were_given_are_not_read_again(service: Served, talk: bytes) -> None:
    given = '[{"start": 0, "end": 2, "text": "hello"}]'
    answer = service.client.post(
        "/v1/analyze", files={"file": ("a.wav", talk)}, data={"segments": given}, params={"words": "true"}
    )
    assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "segments")


def test_a_service_without_a_recognizer_refuses_words(talk: bytes) -> None:
    with Served(model="bundled-tiny") as service:
        answer = service.client.post("/v1/analyze", content=talk, params={"words": "true"})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "no_words")
        assert answer.json()["error"]["message"] == "this service reads no words: start it with --words MODEL"
        *_, refused, closed = converse(service, talk, "?words=true")
        assert (refused["error"]["kind"], closed["code"]) == ("no_words", 1003)
        assert service.analyze(talk, words="false")["segments"]
        with pytest.raises(RequestRefused, match="reads no words"):
            Client(service.url, timeout=60).analyze(talk, words=True)


def test_a_recognizer_that_cannot_be_loaded_fails_the_start_in_one_line(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--model", "bundled-tiny", "--words", "nothing"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: nothing: no Whisper model or folder\n")


def test_the_client(service: Served, model: Any, talk: bytes) -> None:
    client = Client(service.url, timeout=60)
    answer = client.analyze(talk, words=True, language="de")
    expected = e2v_port.analyze(io.BytesIO(talk), model=model, words=LoudReader("de"))
    assert [each.text for each in answer.segments] == [each.text for each in expected.segments]
    assert [[vars(word) for word in each.words or ()] for each in answer.segments] == [
        [word.to_dict() for word in each.words or ()] for each in expected.segments
    ]
    assert answer.transcript is not None
    assert answer.transcript.language == "de"
    assert [(turn.text, turn.segments) for turn in answer.turns or ()] == [
        (turn.text, turn.segments) for turn in expected.turns or ()
    ]
    held = asdict(answer)
    assert held.pop("unavailable") is None
    held = json.loads(json.dumps(held))
    jsonschema.validate(held, definition("answer"))
    sent = service.analyze(talk, words="true", language="de")
    for name in "segments", "turns", "transcript":
        assert matches(held[name], sent[name])
    plain = client.analyze(talk)
    assert (plain.transcript, plain.segments[0].words) == (None, None)


# ---- privacy


def test_the_history_holds_no_words(service: Served, talk: bytes, folder: Path) -> None:
    answer = service.analyze(talk, words="true", speaker="ann")
    assert answer["history"] == "stored"
    converse(service, talk, "?words=true", speaker="ann")
    rows = service.client.get("/v1/history").json()["rows"]
    assert rows
    assert "words" in service.client.get("/v1/history/audit").json()["never_stored"]
    stored = b"".join(path.read_bytes() for path in folder.glob("history.sqlite*"))
    for segment in answer["segments"]:
        assert segment["text"].encode() not in stored
    assert not any(answer["segments"][0]["text"] in line for line in service.lines), "nor does the log"


def test_while_emotions_are_off_words_are_read_all_the_same(service: Served, talk: bytes) -> None:
    right = service.analyze(talk, words="true")
    service.client.put("/v1/config/emotion", json={"enabled": False})
    try:
        answer = service.analyze(talk, words="true")
        jsonschema.validate(answer, definition("answer"))
        assert [each["text"] for each in answer["segments"]] == [each["text"] for each in right["segments"]]
        assert not any(each["emotion"] for each in answer["segments"])
        events = converse(service, talk, "?words=true")
    finally:
        service.client.put("/v1/config/emotion", json={"enabled": True})
    assert not any(event["segment"]["emotion"] for event in events if "segment" in event)
    assert [event["segment"]["reading"] for event in events if event["type"] == "words"] == ["done"] * 2


def test_who_is_not_enrolled_is_not_read(folder: Path, talk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    log = folder / "enrolled"
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("E2V_TEST_READ", str(log))
    with Served(model="bundled-tiny", words="loudness", speakers="ann") as service:
        warm = log.read_text()  # what the start reads is nobody's voice
        for speaker in {}, {"speaker": "eve"}:
            answer = service.analyze(talk, words="true", **speaker)
            assert not any(each["text"] for each in answer["segments"])
            events = converse(service, talk, "?words=true", **speaker)
            assert not any(event["type"] == "words" for event in events)
            assert all(event["segment"]["text"] is None for event in events if "segment" in event)
        assert log.read_text() == warm, "no sample of a stranger reached the recognizer"
        given = json.dumps([{"start": 0, "end": 2, "speaker": "ann"}, {"start": 4, "end": 6, "speaker": "eve"}])
        answer = service.client.post(
            "/v1/analyze", files={"file": ("a.wav", talk)}, data={"segments": given}, params={"words": "true"}
        ).json()
        assert [(each["speaker"], bool(each["text"])) for each in answer["segments"]] == [("ann", True), ("eve", False)]
        [samples] = log.read_text().removeprefix(warm).split()
        assert int(samples) <= 2 * SAMPLING_RATE


# ---- others


def test_requests_that_wait_for_words_hold_up_nobody_else(service: Served, talk: bytes, folder: Path) -> None:
    """While the recognizer reads nothing, more requests wait for it than there are threads for other requests."""
    right = content(service.analyze(talk))
    (folder / "wait").touch()
    with ThreadPoolExecutor(THREADS + 4) as pool:
        try:
            waiting = [pool.submit(service.analyze, talk, words="true") for _ in range(THREADS + 4)]
            stream: Future[Events] = pool.submit(converse, service, talk, "?words=true")
            until(lambda: service.metric("e2v_requests_in_flight") >= THREADS + 4)
            assert matches(content(service.analyze(talk)), right)
            events = converse(service, talk)
            assert [event["type"] for event in events if event["type"] == "final"] == ["final"] * 2
            assert not any(each.done() for each in waiting)
        finally:
            (folder / "wait").unlink()
        answers = [each.result(120) for each in waiting]
        assert [event["type"] for event in stream.result(120)].count("words") == 2
    assert all(each["segments"][0]["text"] for each in answers)
    assert service.metric("e2v_engine_restarts") == 0
    assert WORDS_THREADS < THREADS


def test_a_cancelled_request_is_not_read(service: Served, talk: bytes, folder: Path) -> None:
    (folder / "wait").touch()
    try:
        first = ThreadPoolExecutor(1).submit(service.analyze, talk, words="true")
        until(lambda: service.metric("e2v_requests_in_flight") == 1)
        before = (folder / "read").read_text()
        with suppress(Exception):
            service.client.post("/v1/analyze", content=talk, params={"words": "true"}, timeout=0.5)
        until(lambda: service.metric("e2v_requests_in_flight") == 1)
    finally:
        (folder / "wait").unlink()
    assert first.result(60)["segments"][0]["text"]
    assert service.analyze(talk)["segments"]
    assert len((folder / "read").read_text().removeprefix(before).split()) <= 1


def test_a_long_recording_is_read_in_turns() -> None:
    """Another request waits for one passage of it, not for all; parts are cut where it is most quiet."""
    order: list[str] = []
    gate = threading.Event()

    def before(part: np.ndarray) -> None:
        gate.wait(60)
        order.append("long" if part[0] > 0.2 else "short")

    shared = SharedReader(LoudReader("en", before=before))
    long = np.full(100 * SAMPLING_RATE, 0.3, np.float32)
    quiet = round(25.05 * SAMPLING_RATE)
    long[quiet - 800 : quiet + 800] = 0.01
    short = np.full(2 * SAMPLING_RATE, 0.1, np.float32)
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(JobReader(shared, Job(), None).read, long, [(0.0, 100.0)])
        time.sleep(0.2)
        other = pool.submit(JobReader(shared, Job(), None).read, short, [(0.0, 2.0)])
        time.sleep(0.2)
        gate.set()
        words, _ = one.result(60)
        assert len(other.result(60)[0]) == 4
    assert order[:2] == ["long", "short"]
    assert order.count("long") == 4
    assert [word.end for word in words][-1] == 100
    assert all(a.end == pytest.approx(b.start) for a, b in pairwise(words)), "nothing is left out"
    assert any(word.end == pytest.approx(25.05, abs=0.06) for word in words)
    assert max(word.end - word.start for word in words) <= HALF / SAMPLING_RATE


def test_a_recognizer_that_is_stuck_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for it is no fault of the job."""
    monkeypatch.setattr(reading, "_SLOWEST", 0.0)
    free = threading.Event()
    shared, job = SharedReader(LoudReader(before=lambda part: free.wait(60)), seconds=0.1), Job(0.1)
    with ThreadPoolExecutor(1) as pool:
        found = pool.submit(JobReader(shared, job, None).read, np.ones(HALF, np.float32), [(0.0, 0.5)])
        until(lambda: shared.stuck)
        assert job.until > time.monotonic() + 60
        free.set()
        assert len(found.result(60)[0]) == 1
    assert not shared.stuck
    job.cancelled = True
    with pytest.raises(Stopped):
        JobReader(shared, job, None).read(np.ones(HALF, np.float32), [(0.0, 0.5)])


# ---- Whisper


def plain(text: str | None) -> list[str]:
    return "".join(char for char in (text or "").lower() if char.isalnum() or char == " ").split()


def test_words_of_whisper(recordings: Path, whisper_tiny_en: Path, model: Any) -> None:
    clip = (recordings / "jfk.flac").read_bytes()
    expected = e2v_port.analyze(io.BytesIO(clip), model=model, words=whisper_tiny_en).segments
    with Served(model="bundled-tiny", words=whisper_tiny_en) as service:
        answer = service.analyze(clip, words="true")
        assert [plain(each["text"]) for each in answer["segments"]] == [plain(each.text) for each in expected]
        wav = io.BytesIO()
        soundfile.write(wav, np.append(load_audio(io.BytesIO(clip)), PAUSE), SAMPLING_RATE, format="WAV")
        events = converse(service, wav.getvalue(), "?words=true&language=en")
        words = [event["segment"] for event in events if event["type"] == "words"]
        assert [plain(each["text"]) for each in words] == [plain(each.text) for each in expected]
        *_, refused, closed = converse(service, wav.getvalue(), "?words=true&language=de")
        assert refused["error"]["message"].startswith("language 'de' is unknown")
        assert closed["code"] == 1003

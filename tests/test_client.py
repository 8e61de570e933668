"""The client against the real service in a process of its own, and against misbehaving servers."""

import gc
import io
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from served import Served

import e2v_port
from e2v_port.client import Answer, Boundary, Client, Embedding, Emotion, Segment, ServedModel, UsedModel
from e2v_port.errors import AudioError, RequestRefused, SegmentError, ServiceUnavailable
from e2v_port.speech.segment import GivenSegment

pytestmark = pytest.mark.xdist_group("client")

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech"
CLIP = min(SPEECH.glob("*.flac"))
TOKEN = "a token, with spaces"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Served("--max-body", "1", token=TOKEN) as served:
        yield served.url


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, TOKEN, timeout=30, strict=True)


@pytest.fixture(scope="module")
def model() -> Any:
    return e2v_port.load("bundled", runtime="cpu")


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Runs a server that handles each connection with `talk`; its connections end with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def one(connection: socket.socket) -> None:
            try:
                talk(connection)
            except OSError:
                pass  # the client has gone
            finally:
                connection.close()

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                taken.append(connection)
                threading.Thread(target=one, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


def take_request(connection: socket.socket) -> None:
    """Reads a whole request: closing a connection with unread data resets it and loses the answer."""
    with connection.makefile("rb") as file:
        head = b"".join(takewhile(lambda line: line != b"\r\n", file))
        if length := re.search(rb"(?i)content-length: (\d+)", head):
            file.read(int(length[1]))


def says(status: int, body: str, wait: float = 0) -> Callable[[socket.socket], None]:
    """Reads a request and sends this answer."""

    def talk(connection: socket.socket) -> None:
        take_request(connection)
        time.sleep(wait)
        connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return talk


def drip(text: bytes, pause: float) -> Callable[[socket.socket], None]:
    """Reads a request and sends the answer byte by byte."""

    def talk(connection: socket.socket) -> None:
        take_request(connection)
        for byte in text:
            connection.sendall(bytes([byte]))
            time.sleep(pause)

    return talk


def test_importing_it_loads_no_libraries() -> None:
    program = (
        "import sys; before = set(sys.modules); import e2v_port.client\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["e2v_port"]


def near(expected: Any) -> Any:
    return None if expected is None else pytest.approx(expected, abs=2e-5)


def test_answers_are_those_of_the_library(client: Client, model: Any) -> None:
    expected = e2v_port.analyze(CLIP, model=model)
    with open(CLIP, "rb") as file:
        found = [client.analyze(clip) for clip in (CLIP, str(CLIP), CLIP.read_bytes(), file)]
    assert [answer.file for answer in found] == [CLIP.name, CLIP.name, "clip", "clip"]
    for answer in found:
        assert type(answer) is Answer
        assert (answer.unavailable, answer.emotion_enabled, answer.reason) == (None, True, None)
        assert answer.duration == expected.duration
        assert answer.context == expected.to_context()
        assert answer.history == "off"
        assert re.fullmatch(r"[0-9a-f]{16}", str(answer.request_id))
        [used] = answer.models
        assert type(used) is UsedModel
        assert (used.name, used.kind, used.licence) == ("bundled", "categorical", expected.models[0].licence)
        for segment, known in zip(answer.segments, expected.segments, strict=True):
            assert type(segment) is Segment
            assert (segment.start, segment.end, segment.quality) == (known.start, known.end, known.quality)
            emotion, judgement = segment.emotion, known.judgement
            assert type(emotion) is Emotion
            assert judgement is not None
            assert (emotion.primary, emotion.notes) == (judgement.primary, judgement.notes)
            assert emotion.confidence == near(judgement.confidence)
            assert emotion.e2v_scores == near(judgement.scores)
            assert emotion.avd_scores == near(judgement.dimensions.to_dict())
            assert emotion.avd_from == judgement.dimensions_from
            assert emotion.distribution == near(judgement.distribution)
            assert (emotion.valence, emotion.arousal) == (judgement.valence_level, judgement.arousal_level)
        assert answer.segments


def test_given_segments(client: Client) -> None:
    given = [GivenSegment(0.0, 1.2, "Ann", 'she said "\u00fc"\r\n--'), GivenSegment(1.2, 1.6, "other")]
    plain = [
        {"start": np.float32(0.0), "end": 1.2, "speaker": "Ann", "text": given[0].text},
        {"start": 1.2, "end": 1.6},
    ]
    plain[1]["speaker"] = "other"
    for segments in given, plain:
        first, second = client.analyze(CLIP, segments, name="call 1.wav").segments
        assert (first.start, first.end, first.speaker, first.text) == (0.0, 1.2, "Ann", given[0].text)
        assert first.emotion is not None
        assert (second.speaker, second.emotion) == ("other", None)
    answer = client.analyze(CLIP, given, name="call 1.wav", recorded_at=datetime(2026, 1, 1, tzinfo=UTC))
    assert answer.file == "call 1.wav"
    assert client.analyze(CLIP, []).segments == ()


def test_granularity(client: Client, model: Any) -> None:
    [whole] = client.analyze(CLIP, granularity="clip").segments
    assert (whole.start, whole.end) == (0.0, e2v_port.analyze(CLIP, model=model).duration)
    found = client.analyze(CLIP, granularity="frame").boundaries
    expected = e2v_port.analyze(CLIP, model=model, frames=True).boundaries
    assert found == tuple(Boundary(b.start, b.end, b.label, near(b.probability)) for b in expected or ())
    assert found


def test_embed(client: Client, model: Any) -> None:
    for granularity in "utterance", "frame":
        found = client.embed(CLIP, granularity)
        expected = model.embed(CLIP, granularity=granularity)
        np.testing.assert_allclose(found.embedding, expected, atol=2e-5)
        assert (found.unavailable, found.model, found.dim) == (None, "bundled", expected.shape[-1])


def test_models_and_readiness(client: Client, model: Any) -> None:
    assert client.ready()
    [served] = client.models()
    assert type(served) is ServedModel
    assert (served.name, served.labels, served.embed_dim) == ("bundled", tuple(model.labels), model.embed_dim)


def test_the_switch(client: Client) -> None:
    assert client.emotion_enabled
    try:
        client.emotion_enabled = False
        assert not client.emotion_enabled
        answer = client.analyze(CLIP)
        assert (answer.emotion_enabled, answer.unavailable) == (False, None)
        assert [segment.emotion for segment in answer.segments] == [None] * len(answer.segments)
        assert client.embed(CLIP).embedding is None
    finally:
        client.emotion_enabled = True
    assert client.analyze(CLIP).segments[0].emotion


def test_what_the_caller_did_wrong_is_raised(client: Client, url: str, tmp_path: Path) -> None:
    lenient = Client(url, TOKEN, timeout=30)
    for one in client, lenient:
        with pytest.raises(AudioError, match=r"^clip: damaged, or not audio .*: convert it"):
            one.analyze(b"no audio at all" * 100)
        with pytest.raises(AudioError, match="no audio received"):
            one.analyze(b"")
        with pytest.raises(AudioError, match=r"missing.wav: cannot be read \(No such file or directory\)"):
            one.analyze(tmp_path / "missing.wav")
        with pytest.raises(AudioError, match="opened as text"):
            one.analyze(io.StringIO("text"))  # type: ignore[arg-type]
        with pytest.raises(SegmentError, match="beyond the end of the clip"):
            one.analyze(CLIP, [GivenSegment(0, 99)])
        with pytest.raises(SegmentError, match="give times in seconds"):
            one.analyze(CLIP, [{"start": 0}])
        with pytest.raises(RequestRefused, match="contradict each other"):
            one.analyze(CLIP, [GivenSegment(0, 1)], "clip")
        with pytest.raises(AudioError, match="the body is larger than 1000000 bytes"):
            one.analyze(bytes(30_000_000))
    for token in None, "another":
        stranger = Client(url, token)
        with pytest.raises(RequestRefused, match="Authorization: Bearer TOKEN"):
            stranger.analyze(CLIP)
        with pytest.raises(RequestRefused, match="Authorization: Bearer TOKEN"):
            stranger.emotion_enabled = True
        assert stranger.ready(), "which everybody may ask"


def test_many_threads(client: Client) -> None:
    expected = client.analyze(CLIP).segments
    with ThreadPoolExecutor(12) as pool:
        found = [answer.segments for answer in pool.map(client.analyze, [CLIP] * 36)]
    for segments in found:
        assert [(s.start, s.end) for s in segments] == [(s.start, s.end) for s in expected]
        assert [s.emotion.confidence for s in segments if s.emotion] == near(
            [s.emotion.confidence for s in expected if s.emotion]
        )


def test_a_segment_until_the_end_of_the_clip(service: Served) -> None:
    answer = Client(service.url, timeout=60).analyze(CLIP, [GivenSegment(0.5, math.inf)])
    assert [segment.end for segment in answer.segments] == [answer.duration]


GIVEN = [GivenSegment(0.0, 1.5, "Ann", "Hello."), GivenSegment(1.5, 2.0)]


def hangs(connection: socket.socket) -> None:
    time.sleep(20)


def resets(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def resets_midway(connection: socket.socket) -> None:
    take_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n[")
    time.sleep(0.1)  # until that has been read
    resets(connection)


@pytest.mark.parametrize(
    ("talk", "why"),
    [
        (hangs, "no answer within 0.5 s"),
        (says(200, "{}", wait=5), "no answer within 0.5 s"),
        (drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n", 0.1), "no answer within 0.5 s"),
        (drip(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1000, 0.02), "no answer within 0.5 s"),
        (resets, "cannot be asked"),
        (resets_midway, "cannot be asked"),
        (lambda connection: None, "cannot be asked"),
        (drip(b"SSH-2.0-OpenSSH\r\n\r\n", 0), r"cannot be asked \(BadStatusLine\)"),
        (says(200, "<html>"), "no answer of e2v serve: is it another program's address"),
        (says(404, "<html>"), "status 404 and no answer of e2v serve"),
        (says(200, '{"segments": [{}]}'), "no answer of e2v serve"),
        (says(200, "[" * 100_000), "no answer of e2v serve"),
        (says(302, ""), "no answer of e2v serve"),
        (says(500, '{"error": {"kind": "internal", "message": "an error\\nof it"}}'), r"an error of it \(status 500\)"),
        (says(503, '{"error": {"kind": "overloaded", "message": "busy"}}'), r"busy \(status 503\)"),
        (says(429, '{"error": {"kind": "x", "message": "later"}}'), r"later \(status 429\)"),
        (says(408, '{"error": {"kind": "timeout", "message": "slow"}}'), r"slow \(status 408\)"),
    ],
)
def test_without_the_service_the_caller_goes_on(talk: Callable[[socket.socket], None], why: str) -> None:
    with listening(talk) as url:
        started = time.monotonic()
        answer = Client(url, timeout=0.5).analyze(CLIP, GIVEN)
        assert time.monotonic() - started < 20
        assert answer == Answer(
            (Segment(0.0, 1.5, None, "Ann", "Hello.", None), Segment(1.5, 2.0, None, None, None, None)),
            answer.unavailable,
        )
        assert re.search(why, str(answer.unavailable))
        assert str(answer.unavailable).startswith(f"{url}: ")
        assert "\n" not in str(answer.unavailable)
        client = Client(url, timeout=0.5, strict=True)
        with pytest.raises(ServiceUnavailable, match=why):
            client.analyze(CLIP)
        assert not client.ready()
        until = time.monotonic() + 20
        while any(thread.name == "e2v-client" for thread in threading.enumerate()):
            assert time.monotonic() < until, "threads that wait for what nobody wants any more"
            time.sleep(0.02)
        gc.collect()  # warns of connections that were left open


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
    client = Client(url)
    assert client.analyze(CLIP, GIVEN).unavailable == (
        f"{url}: cannot be asked (Connection refused): is `e2v serve` running there?"
    )
    assert client.embed(CLIP) == Embedding(None, client.embed(CLIP).unavailable)
    assert not client.ready()
    for ask in (lambda: client.emotion_enabled, client.models):
        with pytest.raises(ServiceUnavailable, match="Connection refused"):
            ask()
    with pytest.raises(ServiceUnavailable, match="Connection refused"):
        client.emotion_enabled = False  # nobody may think that it is off


def test_the_time_is_5_s_by_default() -> None:
    with listening(hangs) as url:
        started = time.monotonic()
        assert str(Client(url).analyze(CLIP).unavailable).endswith(
            "no answer within 5 s: pass a longer timeout=, or shorter clips"
        )
        assert time.monotonic() - started > 4.9


URLS = ["127.0.0.1:9101", "ftp://localhost", "http://", "http://a/?b", "http://[", "http://a:99999", "http://a:b"]
URLS += ["http://a b", "http://a\0", None, 5, b"http://a"]


@pytest.mark.parametrize("url", URLS)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"give one as http://127\.0\.0\.1:9101"):
        Client(url)


def test_tokens_and_times_that_are_none() -> None:
    for token in "a\r\nb: c", "é", 5, b"a":
        with pytest.raises(ValueError, match="printable ASCII"):
            Client(token=token)
    for token in " a", "a ":
        with pytest.raises(ValueError, match="remove them"):
            Client(token=token)
    for timeout in 0, -1, float("nan"), float("inf"), "5", None:
        with pytest.raises(ValueError, match="timeout must be"):
            Client(timeout=timeout)


class Unreadable:
    def read(self) -> bytes:
        raise OSError(5, "Input/output error")


def test_what_cannot_be_sent() -> None:
    """Mistakes of the caller are errors of this package that name the remedy, before anything is sent."""
    client = Client("http://127.0.0.1:1", strict=True)
    closed = io.BytesIO(b"x")
    closed.close()
    for audio in None, 5, [], {}, Unreadable(), closed, io.StringIO("x"), "no\0name", "nowhere.wav":
        with pytest.raises(AudioError, match=r"pass|open"):
            client.analyze(audio)
    whole = {"start": 0, "end": 1}
    odd = ("abc", b"abc", 5, [5], [None], [{}], [{"start": 1}], [whole | {"end": "x"}], [whole | {"end": float("nan")}])
    for segments in (*odd, [whole | {"speaker": 5}], [whole | {"text": []}], [whole | {"end": 10**400}]):
        with pytest.raises(SegmentError, match=r"give|pass"):
            client.analyze(CLIP, segments)
    for names in {"speaker": "\ud800"}, {"name": "\ud800"}:
        with pytest.raises(RequestRefused, match="half a character"):
            client.analyze(CLIP, **names)
    for when in "yesterday", 5, datetime(2026, 1, 1):
        with pytest.raises(ValueError, match="a datetime with a time zone"):
            client.analyze(CLIP, recorded_at=when)
    for audio in bytearray(b"x"), memoryview(b"x"):
        with pytest.raises(ServiceUnavailable):
            client.analyze(audio)


def test_an_answer_of_a_newer_service_is_understood() -> None:
    """It may send fields that this client does not know, but must send all that it knows."""
    body = (
        '{"schema_version": 2, "request_id": "1", "file": "a", "duration": 1, "emotion_enabled": true, '
        '"reason": null, "notes": [], "context": "", '
        '"segments": [], "boundaries": null, "models": [], "settings": {}, "timings": {}, "history": "off", "new": 1}'
    )
    with listening(says(200, body)) as url:
        answer = Client(url, strict=True).analyze(CLIP)
    unset = {field.name for field in fields(answer) if getattr(answer, field.name) is None}
    assert unset == {"unavailable", "reason", "boundaries", "turns", "transcript"}

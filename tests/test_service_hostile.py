"""The service in its own process under abuse: too much, too slow, malformed, aborted, killed, all at once."""

import http.client
import io
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import hostile
import httpx
import numpy as np
import pytest
import soundfile
import toys
from served import Served, content, matches
from websockets.sync.client import connect

from e2v_port.audio import load_audio

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

pytestmark = [
    pytest.mark.xdist_group("hostile service"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]
CLIP = (Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac").read_bytes()


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    """A service with narrow limits, which must be intact after all tests that share it."""
    limits = {"max_body": 2, "max_seconds": 60, "head_seconds": 1.5, "idle_seconds": 1, "body_seconds": 3}
    with Served(model="bundled-tiny", max_connections=60, **limits) as served:
        right = content(served.analyze(CLIP))
        yield served
        assert matches(content(served.analyze(CLIP)), right)
        assert served.metric("e2v_engine_restarts") == 0
        assert served.metric("e2v_held_bytes") == 0
        assert served.metric("e2v_requests_in_flight") == 0
        assert not [line for line in served.lines if "Traceback" in line]


@pytest.fixture(scope="module")
def long(speech_folder: Path) -> bytes:
    """Returns 11 minutes of speech as FLAC."""
    return flac(np.tile(load_audio(speech_folder / "jfk.flac"), 60))


def flac(waveform: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="FLAC")
    return file.getvalue()


def refused(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error.keys() == {"kind", "message", "request_id"}
    assert "\n" not in error["message"]
    assert len(error["message"]) <= 480
    return answer.status_code, error["kind"]


def raw(service: Served, data: bytes, seconds: float = 8) -> bytes:
    """Sends bytes and returns everything received until the connection closes."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        connection.sendall(data)
        found = b""
        try:
            while block := connection.recv(1 << 16):
                found += block
        except ConnectionResetError:
            pass
        return found


# Too much


def test_too_large_a_body(service: Served) -> None:
    large = bytes(3_000_000)
    assert refused(service.client.post("/v1/analyze", content=large)) == (413, "too_large")
    assert refused(service.client.post("/v1/analyze", files={"file": ("a.wav", large)})) == (413, "too_large")
    assert refused(service.client.put("/v1/config/emotion", content=b" " * 100_000)) == (413, "too_large")


def test_a_body_without_a_length_is_cut_off_at_the_limit(service: Served) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 200_000_000:
            sent += 1 << 16
            yield bytes(1 << 16)

    with suppress(httpx.WriteError, httpx.ReadError):  # answered while the client was still sending
        assert refused(service.client.post("/v1/analyze", content=endless())) == (413, "too_large")
    assert service.metric("e2v_front_resident_bytes") < 300e6
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(service, head + b"100000\r\n" + bytes(0x100000) + b"\r\n100000\r\n" + bytes(0x100000))
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_a_wrong_content_length(service: Served) -> None:
    head = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: %s\r\n\r\n"
    assert raw(service, head % b"999999999999").startswith(b"HTTP/1.1 413 ")
    assert raw(service, head % b"-1").startswith(b"HTTP/1.1 400 ")
    assert raw(service, head % b"1000" + CLIP[:500]).startswith(b"HTTP/1.1 408 ")


def test_a_small_file_that_decodes_to_hours(service: Served) -> None:
    bomb = flac(np.zeros(5 * 3600 * 16_000, np.int16))
    assert len(bomb) < 1_000_000
    before = service.metric("e2v_engine_resident_bytes")
    started = time.monotonic()
    for path in "/v1/analyze", "/v1/embed":
        assert refused(service.client.post(path, content=bomb)) == (413, "too_long")
    assert time.monotonic() - started < 20  # decoding all of it takes longer
    assert service.metric("e2v_engine_resident_bytes") - before < 50e6


def test_a_small_body_that_asks_for_hours() -> None:
    """Segments of different speakers may overlap: each of 100 would be judged on the whole clip."""
    with Served(model="bundled-tiny", max_seconds=60, max_audio_seconds=60) as service:
        waveform = np.tile(load_audio(io.BytesIO(CLIP)), 20)[: 50 * 16_000]
        for speakers, status in (100, 413), (2, 413), (1, 200):
            segments = [{"start": 0, "end": 50, "speaker": f"s{number}"} for number in range(speakers)]
            form = {"file": flac(waveform), "segments": json.dumps(segments).encode()}
            answer = service.client.post("/v1/analyze", files=form)
            assert answer.status_code == status
            if status == 413:
                assert refused(answer) == (413, "too_long")
                assert "--max-audio-seconds" in answer.json()["error"]["message"]
                assert service.metric("e2v_judged_audio_seconds_total") == 0


def test_more_segments_than_words() -> None:
    with Served(model="bundled-tiny") as service:
        for rows, limit in (60_000, "50000"), (2_100_000, "8000000"):
            segments = b"start,end\n" + rows * b"1,1\n"
            answer = service.client.post("/v1/analyze", files={"file": CLIP, "segments": segments})
            assert refused(answer) == (413, "too_large")
            assert f"more than {limit}: send " in answer.json()["error"]["message"]


def test_frames_without_labels(tmp_path: Path) -> None:
    dimensional = toys.convert(toys.make_dimensional(tmp_path / "checkpoint"), tmp_path / "model")
    with Served("--dimensional", str(dimensional)) as service:
        answer = service.client.post("/v1/analyze?granularity=frame", content=CLIP)
        assert refused(answer) == (422, "invalid")
        assert "--model" in answer.json()["error"]["message"]


def test_endless_headers(service: Served) -> None:
    started = time.monotonic()
    assert raw(service, b"POST /v1/analyze HTTP/1.1\r\nHost: local") == b""
    assert raw(service, b"") == b""
    assert 2 < time.monotonic() - started < 20
    line = b"x: " + bytes(1000).replace(b"\0", b"y") + b"\r\n"
    with suppress(ConnectionResetError, BrokenPipeError):  # closed before everything was sent
        assert raw(service, b"GET / HTTP/1.1\r\nHost: localhost\r\n" + 100_000 * line) == b""


# Too slow


@pytest.mark.parametrize("pause", [0.3, 2.0])
def test_a_slow_body(service: Served, pause: float) -> None:
    """With short pauses, the time for the whole body runs out; with a long one, the time for a pause."""
    for path, length in ("/v1/analyze", len(CLIP)), ("/v1/config/emotion", 30):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
            method = b"POST" if "analyze" in path else b"PUT"
            connection.sendall(b"%s %s HTTP/1.1\r\nHost: a.localhost\r\n" % (method, path.encode()))
            connection.sendall(b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % length)
            started = time.monotonic()
            answer = b""
            while not answer.endswith(b"}}"):
                assert time.monotonic() - started < 20
                connection.settimeout(pause)
                try:
                    if not answer:
                        connection.sendall(CLIP[:1])
                    answer += connection.recv(1 << 16)
                except TimeoutError:
                    continue
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["kind"] == "timeout"


def test_idle_connections_are_closed_for_others(service: Served) -> None:
    def answers() -> bool:
        try:
            return httpx.get(f"{service.url}/healthz").status_code == 200
        except httpx.TransportError:
            return False

    held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(60)]
    while answers():  # the first ones were closed before the last ones were opened
        held += [socket.create_connection(("127.0.0.1", service.port)) for _ in range(60)]
        assert len(held) < 1000
    until(answers)
    for connection in held:
        connection.close()


def test_a_silent_stream(service: Served) -> None:
    with connect(service.url.replace("http", "ws") + "/v1/stream") as websocket:
        assert json.loads(websocket.recv(timeout=60))["error"]["kind"] == "timeout"


def test_a_stream_may_pause(service: Served) -> None:
    with connect(service.url.replace("http", "ws") + "/v1/stream") as websocket:
        websocket.send('{"type": "start", "sampling_rate": 16000}')
        assert json.loads(websocket.recv(timeout=60))["type"] == "ready"
        time.sleep(4)  # longer than the limits for headers and bodies
        websocket.send(bytes(3200))
        assert json.loads(websocket.recv(timeout=60)) == {"type": "ack", "samples": 1600}


# Malformed


def bad_clips() -> dict[str, bytes]:
    good = load_audio(io.BytesIO(CLIP))

    def wav(waveform: np.ndarray, rate: int = 16_000) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, waveform, rate, format="WAV", subtype="FLOAT")
        return file.getvalue()

    nan = good.copy()
    nan[5000] = np.nan
    return {
        "nan": wav(nan),
        "infinite": wav(np.where(np.arange(len(good)) == 7, np.inf, good).astype(np.float32)),
        "loud": wav(good * 1e30),
        "short": wav(good[:100]),
        "no samples": wav(good[:0]),
        "one rate too many": wav(good, 1_000_000),
        "html": b"<!doctype html><title>404</title>",
        "text": b"hello " * 100,
        "zeros": bytes(1000),
        "cut off": CLIP[: len(CLIP) // 2],
        "garbled": CLIP[:200] + bytes(len(CLIP) - 200),
        "noise": np.random.default_rng(0).bytes(50_000),
    }


@pytest.mark.parametrize("name", bad_clips())
def test_undecodable_audio(service: Served, name: str) -> None:
    clip = bad_clips()[name]
    for path in "/v1/analyze", "/v1/embed":
        answer = service.client.post(path, content=clip, headers={"Content-Type": "audio/wav"})
        assert refused(answer) == (422, "audio")


def test_the_content_type_does_not_matter(service: Served) -> None:
    right = content(service.analyze(CLIP))
    for kind in "text/html", "application/json", "audio/mpeg", "application/x-www-form-urlencoded", "":
        answer = service.client.post("/v1/analyze", content=CLIP, headers={"Content-Type": kind})
        assert matches(content(answer.json()), right)


def test_malformed_forms_and_parameters(service: Served) -> None:
    post = service.client.post
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    for body in b"", b"nothing", part, b"--b--\r\n", part.replace(b"name", b"nam") + b"x\r\n--b--\r\n":
        assert refused(post("/v1/analyze", content=body, headers=form))[0] == 400
    assert (
        refused(post("/v1/analyze", content=part + b"x\r\n--b--\r\n", headers={"Content-Type": "multipart/form-data"}))[
            0
        ]
        == 400
    )
    assert refused(post("/v1/analyze", content=CLIP, headers={"Content-Type": "multipart/mixed; boundary=b"}))[0] == 415
    assert refused(post("/v1/analyze", data={"file": "text"}, files={"other": b"x"}))[0] == 400
    assert refused(post("/v1/analyze", content=b"")) == (400, "empty")
    assert refused(post("/v1/analyze", files=[("file", CLIP), ("file", CLIP)]))[0] == 400
    for segments in (
        "[",
        '[{"start": 5, "end": 1}]',
        '[{"start": 0, "end": 1e9}]',
        "what?",
        '[{"start": 0, "end": 1}, {"start": 0, "end": 1}]',
        "\ud800",
        '[{"start": 0, "end": 1e308}]',
        '[{"start": 1e308, "end": 1e308}]',
        '[{"start": -1e-308, "end": 1e300}]',
        '[{"start": 0, "end": 1' + 400 * "0" + "}]",
        "start,end\n0,1e999\n",
        "1\n00:00:00,000 --> 99999999999999999999:00:00,000\nhello\n",
    ):
        data = segments.encode("utf-8", "surrogatepass")
        assert refused(post("/v1/analyze", files={"file": CLIP, "segments": data})) == (422, "segments")
    for query in (
        "granularity=word",
        "format=xml",
        "recorded_at=yesterday",
        "recorded_at=2026-01-01T00:00:00",
        f"name={300 * 'x'}",
    ):
        assert refused(post(f"/v1/analyze?{query}", content=CLIP)) == (422, "invalid")
    assert refused(post("/v1/analyze?granularity=clip", files={"file": CLIP, "segments": b"[]"})) == (422, "invalid")


def test_malformed_http(service: Served) -> None:
    for data in (
        b"\0\1\2\3\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        CLIP[:1000],
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
    ):
        assert raw(service, data)[:13] in {b"HTTP/1.1 400 ", b"HTTP/1.1 403 ", b"HTTP/1.1 404 ", b""}
    assert refused(service.client.get("/nowhere")) == (404, "not_found")
    assert refused(service.client.get("/page/../../pyproject.toml"))[0] == 404
    assert refused(service.client.get("/page/%2e%2e/service.py"))[0] == 404
    assert refused(service.client.get("/v1/analyze")) == (405, "method_not_allowed")


def test_a_bad_clip_does_not_affect_others(service: Served) -> None:
    right, bad = content(service.analyze(CLIP)), [*bad_clips().values()]

    def send(i: int) -> bool:
        if i % 2:
            return service.client.post("/v1/analyze", content=bad[i // 2 % len(bad)]).status_code == 422
        return matches(content(service.analyze(CLIP)), right)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(send, range(96)))


def test_no_generated_request_causes_a_server_error(service: Served, tmp_path: Path) -> None:
    """Requests are generated from the OpenAPI document, valid and invalid ones."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"]
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = ["--checks", checks, "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    service.client.put("/v1/config/emotion", json={"enabled": True})
    assert done.returncode == 0, done.stdout


def test_no_odd_request_causes_a_server_error() -> None:
    """As `benchmarks/hostile.py` does with thousands of them."""
    with Served(model="bundled-tiny") as service:
        sender = hostile.Hostile(service.url, seed=int(os.environ.get("E2V_TEST_SEED", "0")))
        for _ in range(400):
            sender.request()
        for _ in range(60):
            sender.stream()
        assert not sender.wrong
        assert {"200", "400", "403", "405", "422", "stream done", "stream error"} <= sender.counts.keys()
        assert service.metric("e2v_engine_restarts") == 0
        assert not [line for line in service.lines if "Traceback" in line]


# Too many at a time


def test_requests_beyond_the_limit(long: bytes) -> None:
    with Served(model="bundled-tiny", max_requests=3, max_streams=1) as service:
        right = content(service.analyze(long))
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda _: service.client.post("/v1/analyze", content=long), range(12)))
        statuses = Counter(answer.status_code for answer in answers)
        assert statuses.keys() == {200, 503}
        assert statuses[200] >= 3
        for answer in answers:
            if answer.status_code == 200:
                assert matches(content(answer.json()), right)
            else:
                assert refused(answer) == (503, "overloaded")
                assert answer.headers["retry-after"] == "1"
        with connect(service.url.replace("http", "ws") + "/v1/stream") as first:
            first.send('{"type": "start", "sampling_rate": 16000}')
            assert json.loads(first.recv())["type"] == "ready"
            with connect(service.url.replace("http", "ws") + "/v1/stream") as second:
                assert json.loads(second.recv())["error"]["kind"] == "overloaded"
        assert service.analyze(CLIP)["segments"]


def test_bodies_in_memory_have_a_limit() -> None:
    with Served(model="bundled-tiny", max_held=1, max_body=2) as service:
        answer = service.client.post("/v1/analyze", content=bytes(1_500_000))
        assert refused(answer) == (503, "overloaded")
        assert service.metric("e2v_held_bytes") == 0


def test_five_hundred_clients_at_once() -> None:
    with Served(model="bundled-tiny") as service:
        right = content(service.analyze(CLIP))
        found: Counter[Any] = Counter()
        together = threading.Barrier(500)

        def ask() -> None:
            together.wait()
            for _ in range(40):
                connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
                try:
                    connection.request("POST", "/v1/analyze", CLIP)
                    answer = connection.getresponse()
                    body = json.loads(answer.read())
                except (OSError, http.client.HTTPException) as error:
                    found[repr(error)] += 1
                    return
                finally:
                    connection.close()
                if answer.status == 200:
                    found["right" if matches(content(body), right) else "wrong"] += 1
                    return
                assert answer.status == 503
                time.sleep(float(answer.headers["retry-after"]))

        threads = [threading.Thread(target=ask) for _ in range(500)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == {"right": 500}


def test_requests_of_disconnected_clients_are_cancelled(long: bytes) -> None:
    with Served(model="bundled-tiny") as service:
        request = b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(long)
        connections = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(8)]
        for connection in connections:
            connection.sendall(request + long)
        until(lambda: service.metric("e2v_judged_audio_seconds_total") > 0)
        for connection in connections:
            connection.close()
        until(lambda: service.metric("e2v_requests_in_flight") == 0)
        judged = service.metric("e2v_judged_audio_seconds_total")
        assert judged < 8 * 600
        service.analyze(CLIP)
        assert service.metric("e2v_judged_audio_seconds_total") - judged < 16 + 5  # the running batch and this request
        assert any(" 499 " in line for line in service.lines)


# Killed processes


def test_a_killed_engine_is_restarted(long: bytes) -> None:
    with Served(model="bundled-tiny") as service, ThreadPoolExecutor(4) as pool:
        right = content(service.analyze(CLIP))
        for _ in range(2):
            waiting = [pool.submit(service.client.post, "/v1/analyze", content=long) for _ in range(3)]
            with connect(service.url.replace("http", "ws") + "/v1/stream") as stream:
                stream.send('{"type": "start", "sampling_rate": 16000}')
                assert json.loads(stream.recv(timeout=60))["type"] == "ready"
                until(lambda: service.metric("e2v_requests_in_flight") == 3)
                os.kill(service.engine(), signal.SIGKILL)
                for answer in waiting:
                    assert refused(answer.result()) == (503, "unavailable")
                    assert answer.result().headers["retry-after"]
                assert service.client.get("/healthz").status_code == 200
                assert refused(service.client.get("/readyz")) == (503, "unavailable")
                assert refused(service.client.post("/v1/analyze", content=CLIP)) == (503, "unavailable")
                stream.send(bytes(3200))
                assert json.loads(stream.recv(timeout=60))["error"]["kind"] == "unavailable"
            service.wait_ready()
            assert matches(content(service.analyze(CLIP)), right)
        assert service.metric("e2v_engine_restarts") == 2


def test_the_switch_survives_a_restart_of_the_engine() -> None:
    with Served(model="bundled-tiny") as service:
        service.client.put("/v1/config/emotion", json={"enabled": False})
        os.kill(service.engine(), signal.SIGKILL)
        until(lambda: service.client.get("/readyz").status_code == 503)
        service.wait_ready()
        assert not any(segment["emotion"] for segment in service.analyze(CLIP)["segments"])
        assert service.metric("e2v_judged_audio_seconds_total") == 0


def test_the_engine_ends_with_a_killed_service() -> None:
    with Served(model="bundled-tiny") as service:
        engine = service.engine()
        service.process.kill()
        until(lambda: not Path(f"/proc/{engine}").exists())


def test_sigterm_lets_requests_finish(long: bytes, speech_folder: Path) -> None:
    with Served(model="bundled-tiny") as service, ThreadPoolExecutor(2) as pool:
        engine = service.engine()
        speech = (load_audio(speech_folder / "jfk.flac")[: 5 * 16_000] * 32767).astype("<i2").tobytes()
        right = content(service.analyze(long))
        waiting = pool.submit(service.analyze, long)
        with connect(service.url.replace("http", "ws") + "/v1/stream") as stream:
            stream.send('{"type": "start", "sampling_rate": 16000}')
            stream.send(speech)
            while json.loads(stream.recv(timeout=60)) != {"type": "ack", "samples": 5 * 16_000}:
                pass
            until(lambda: service.metric("e2v_requests_in_flight") == 1)
            service.process.send_signal(signal.SIGTERM)
            events = [json.loads(message) for message in stream]
        assert [event["type"] for event in events] == ["final", "done"]
        assert events[0]["segment"]["emotion"]
        assert matches(content(waiting.result()), right)
        assert service.process.wait(60) == 0
        assert not Path(f"/proc/{engine}").exists()


# Memory and disk


def test_memory_does_not_grow() -> None:
    with Served(model="bundled-tiny") as service:

        def load(requests: int) -> None:
            with ThreadPoolExecutor(8) as pool:
                for status in pool.map(
                    lambda _: service.client.post("/v1/analyze", content=CLIP).status_code, range(requests)
                ):
                    assert status == 200

        load(300)
        before = [service.metric(f"e2v_{name}_resident_bytes") for name in ("front", "engine")]
        load(900)
        after = [service.metric(f"e2v_{name}_resident_bytes") for name in ("front", "engine")]
        assert all(b < 1.05 * a for a, b in zip(before, after, strict=True)), (before, after)


def test_no_file_is_written(long: bytes) -> None:
    """A limit of 0 bytes per file makes any write to a disk fail."""
    assert len(long) > 5_000_000
    with Served(model="bundled-tiny") as service:
        for pid in service.process.pid, service.engine():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
        answer = service.client.post("/v1/analyze", files={"file": ("a.flac", long)})
        assert matches(content(answer.json()), content(service.analyze(long)))


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "h.sqlite"
    with Served("--history", str(path), model="bundled-tiny") as service:
        assert service.analyze(CLIP)["history"] == "stored"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40_000, hard))
    try:
        with Served("--history", str(path), model="bundled-tiny") as service:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            found = [service.analyze(CLIP) for _ in range(40)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found[0]["history"] == "stored"
    assert found[-1]["history"].startswith("not stored: ")
    assert matches(content(found[-1]), content(found[0]))


def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "the condition does not hold in time"
        time.sleep(0.02)

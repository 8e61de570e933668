"""An engine that does not answer is restarted: its callers get an error, and the service goes on."""

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from served import Served, content, matches
from test_service_hostile import CLIP, refused, until
from websockets.sync.client import connect

pytestmark = [
    pytest.mark.xdist_group("hostile service"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]

# Runs at the start of every Python of the service: two transcripts, of which no end of the reader is known.
READERS = """
import re
from e2v_port.speech import transcripts
parse = transcripts.parse_segments

def parse_segments(data, *name):
    if data == b"endless loop":
        while True:
            pass
    if data == b"endless pattern":  # holds the interpreter: no other thread runs
        re.match("(a+)+$", 60 * "a" + "b")
    return parse(data, *name)

transcripts.parse_segments = parse_segments
"""


def test_an_engine_that_is_stopped_is_restarted() -> None:
    with Served(model="bundled-tiny", engine_seconds=4) as service, ThreadPoolExecutor(2) as pool:
        right = content(service.analyze(CLIP))
        with connect(service.url.replace("http", "ws") + "/v1/stream") as stream:
            stream.send('{"type": "start", "sampling_rate": 16000}')
            assert json.loads(stream.recv(timeout=60))["type"] == "ready"
            os.kill(service.engine(), signal.SIGSTOP)
            waiting = pool.submit(service.client.post, "/v1/analyze", content=CLIP)
            stream.send(bytes(3200))
            assert refused(waiting.result(120)) == (503, "unavailable")
            assert json.loads(stream.recv(timeout=60))["error"]["kind"] == "unavailable"
        service.wait_ready()
        assert matches(content(service.analyze(CLIP)), right)
        assert service.metric("e2v_engine_restarts") == 1
        assert any("the engine is stuck (no sign of life for 4 s)" in line for line in service.lines)


@pytest.mark.parametrize("how", ["endless loop", "endless pattern"])
def test_a_request_without_an_end(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that lets others run is known from its neighbors: its caller is asked not to try again."""
    (tmp_path / "sitecustomize.py").write_text(READERS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with Served(model="bundled-tiny", engine_seconds=4) as service, ThreadPoolExecutor(1) as pool:
        right = content(service.analyze(CLIP))
        form = {"file": CLIP, "segments": how.encode()}
        waiting = pool.submit(service.client.post, "/v1/analyze", files=form)
        until(lambda: service.metric("e2v_requests_in_flight") == 1)
        if how == "endless loop":  # meanwhile, others are served
            assert matches(content(service.analyze(CLIP)), right)
        assert refused(waiting.result(120)) == ((422, "stuck") if how == "endless loop" else (503, "unavailable"))
        service.wait_ready()
        assert matches(content(service.analyze(CLIP)), right)
        assert service.metric("e2v_engine_restarts") == 1
        assert service.metric("e2v_requests_in_flight") == 0


def test_an_engine_that_works_is_left_alone(speech_folder: Path) -> None:
    """Neither waiting for other requests, nor a pause of a stream, nor a pause of the whole service is being stuck."""
    with Served(model="bundled-tiny", engine_seconds=4, max_requests=40) as service, ThreadPoolExecutor(24) as pool:
        with connect(service.url.replace("http", "ws") + "/v1/stream") as stream:
            stream.send('{"type": "start", "sampling_rate": 16000}')
            assert json.loads(stream.recv(timeout=60))["type"] == "ready"
            clip = (speech_folder / "jfk.flac").read_bytes()

            def ask(_: int) -> int:
                return httpx.post(f"{service.url}/v1/analyze", content=clip, timeout=120).status_code

            for _ in range(3):
                assert set(pool.map(ask, range(24))) == {200}
            both = service.process.pid, service.engine()
            for pid in both:
                os.kill(pid, signal.SIGSTOP)
            time.sleep(6)
            for pid in both:
                os.kill(pid, signal.SIGCONT)
            stream.send(bytes(3200))
            assert json.loads(stream.recv(timeout=60))["type"] == "ack"
        assert service.metric("e2v_engine_restarts") == 0

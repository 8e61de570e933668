"""The service in its own process: the same results as the library, for the right speakers and the right clients."""

import base64
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import numpy as np
import pytest
import soundfile
import toys
from served import Served, content, expected_content, matches
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import e2v_port
from e2v_port.analysis.output import formats
from e2v_port.audio import load_audio
from e2v_port.speech.segment import GivenSegment

pytestmark = [
    pytest.mark.xdist_group("service"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]
CLIPS = Path(__file__).parents[1] / "benchmarks" / "speech"


@pytest.fixture(scope="module")
def dimensional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dimensional")
    return toys.convert(toys.make_dimensional(folder / "checkpoint"), folder / "model")


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    with Served() as served:
        yield served


@pytest.fixture(scope="module")
def models(dimensional: Path) -> dict[str, Any]:
    return {
        "model": e2v_port.load("bundled", runtime="cpu"),
        "dimensional": e2v_port.load(dimensional, runtime="cpu"),
    }


@pytest.fixture(scope="module")
def both(dimensional: Path) -> Iterator[Served]:
    with Served("--model", "bundled", "--dimensional", str(dimensional), "--speakers", "ann,bob") as served:
        yield served


@pytest.fixture(scope="module")
def dialogue(speech_folder: Path) -> bytes:
    """Returns a WAV file of 30 s: 5 recordings with pauses of 2 s between them."""
    pause = np.zeros(2 * 16_000, np.float32)
    parts = [load_audio(CLIPS / f"{name}.flac") for name in ("bright", "calm", "low", "quick")]
    parts.insert(2, load_audio(speech_folder / "jfk.flac"))
    waveform = np.concatenate([piece for part in parts for piece in (part, pause)])
    return wav(waveform, subtype="PCM_16")


@pytest.fixture(scope="module")
def samples(dialogue: bytes) -> np.ndarray:
    return soundfile.read(io.BytesIO(dialogue), dtype="int16")[0]


def wav(waveform: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, waveform, 16_000, format="WAV", **{"subtype": "FLOAT", **options})
    return file.getvalue()


@pytest.mark.parametrize("granularity", ["segment", "clip", "frame"])
@pytest.mark.parametrize("how", ["raw", "form"])
def test_a_response_equals_the_analysis_of_the_library(
    service: Served, models: dict[str, Any], dialogue: bytes, granularity: str, how: str
) -> None:
    options = {"clip": {"whole": True}, "frame": {"frames": True}}.get(granularity, {})
    expected = expected_content(e2v_port.analyze(io.BytesIO(dialogue), model=models["model"], **options))
    if how == "raw":
        answer = service.analyze(dialogue, granularity=granularity)
    else:
        answer = service.client.post(
            "/v1/analyze", files={"file": ("d.wav", dialogue)}, params={"granularity": granularity}
        ).json()
    assert answer["file"] == {"raw": "clip", "form": "d.wav"}[how]
    assert len(expected["segments"]) == (1 if granularity == "clip" else 5)
    assert (expected["boundaries"] is None) == (granularity != "frame")
    assert matches(content(answer), expected)
    assert {"queue", "decode", "speech", "categorical", "fusion", "total"} <= answer["timings"].keys()
    assert answer["history"] == "off"


def test_every_recording_gets_the_analysis_of_the_library(
    service: Served, models: dict[str, Any], speech_folder: Path
) -> None:
    clips = sorted(path for path in speech_folder.iterdir() if path.suffix in {".flac", ".wav"})[::4]
    expected = e2v_port.analyze([*clips], model=models["model"])
    for clip, analysis in zip(clips, expected, strict=True):
        assert matches(content(service.analyze(clip)), expected_content(analysis)), clip.name


def test_two_models(both: Served, models: dict[str, Any], dialogue: bytes) -> None:
    given = [GivenSegment(0.0, 4.0, "ann", "first"), GivenSegment(6.0, 9.0, "bob")]
    expected = expected_content(e2v_port.analyze(io.BytesIO(dialogue), segments=given, **models))
    segments = json.dumps(
        [{"start": 0, "end": 4, "speaker": "ann", "text": "first"}, {"start": 6, "end": 9, "speaker": "bob"}]
    )
    form = {"file": ("d.wav", dialogue), "segments": (None, segments)}
    answer = both.client.post("/v1/analyze", files=form).json()
    assert matches(content(answer), expected)
    assert answer["segments"][0]["emotion"]["avd_from"] == "model"
    assert [model["kind"] for model in both.client.get("/v1/models").json()] == ["categorical", "dimensional"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.rttm", "SPEAKER d 1 0.0 4.0 <NA> <NA> ann <NA> <NA>\n"),
        ("s.srt", "1\n00:00:00,000 --> 00:00:04,000\n[ann]: good morning\n"),
        ("s.vtt", "WEBVTT\n\n00:00.000 --> 00:04.000\n<v ann>good morning\n"),
        ("s.json", '{"segments": [{"start": 0.0, "end": 4.0, "speaker": "ann"}]}'),
        ("s.csv", "start,end,speaker\n0,4,ann\n"),
    ],
)
def test_segments_in_any_format(service: Served, dialogue: bytes, name: str, text: str) -> None:
    for part in (None, text), (name, text.encode()):
        form = {"file": ("d.wav", dialogue), "segments": part}
        (segment,) = service.client.post("/v1/analyze", files=form).json()["segments"]
        assert (segment["start"], segment["end"], segment["speaker"]) == (0.0, 4.0, "ann")
        assert segment["emotion"]["primary"]


@pytest.mark.parametrize("form", [name for name in formats.FORMATS if name not in {"json", "jsonl", "csv"}])
def test_other_formats(service: Served, models: dict[str, Any], dialogue: bytes, form: str) -> None:
    answer = service.client.post("/v1/analyze", content=dialogue, params={"format": form, "name": "clip"})
    analysis = e2v_port.analyze(io.BytesIO(dialogue), model=models["model"])
    expected = formats.FORMATS[form]([analysis]).replace("_Body", "clip").replace("BytesIO", "clip")
    assert answer.text == expected
    assert answer.headers["content-type"].startswith("text/")


def test_embeddings(service: Served, models: dict[str, Any]) -> None:
    clip = CLIPS / "calm.flac"
    for granularity in "utterance", "frame":
        answer = service.client.post("/v1/embed", content=clip.read_bytes(), params={"granularity": granularity}).json()
        expected = models["model"].embed(clip, granularity=granularity)
        assert np.abs(np.array(answer["embedding"]) - expected).max() <= 1e-4
        assert answer["dim"] == expected.shape[-1]


def test_concurrent_requests_share_batches(service: Served, models: dict[str, Any], speech_folder: Path) -> None:
    clips = sorted(speech_folder.glob("emodb_*.flac"))[:24]
    expected = [expected_content(analysis) for analysis in e2v_port.analyze([*clips], model=models["model"])]
    count, total = (service.metric(f"e2v_batch_clips_{what}") for what in ("count", "sum"))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(service.analyze, clips * 3))
    for answer, analysis in zip(answers, expected * 3, strict=True):
        assert matches(content(answer), analysis)
    clips_run = service.metric("e2v_batch_clips_sum") - total
    assert clips_run == 3 * sum(segment["emotion"] is not None for answer in expected for segment in answer["segments"])
    assert clips_run / (service.metric("e2v_batch_clips_count") - count) > 1.5


# Enrolled speakers


def test_unknown_speakers_reach_no_model(both: Served, dialogue: bytes) -> None:
    segments = [
        {"start": 0, "end": 4, "speaker": "other"},
        {"start": 4, "end": 6, "speaker": "Speaker_Unknown"},
        {"start": 6, "end": 9, "speaker": "ann", "text": "hello"},
        {"start": 9, "end": 12, "speaker": "carl", "text": "secret"},
        {"start": 12, "end": 14},
    ]
    before = both.metric("e2v_judged_audio_seconds_total")
    form = {"file": ("d.wav", dialogue), "segments": (None, json.dumps(segments))}
    answer = both.client.post("/v1/analyze", files=form).json()
    assert [segment["emotion"] is not None for segment in answer["segments"]] == [False, False, True, False, False]
    assert [segment["speaker"] for segment in answer["segments"]] == [s.get("speaker") for s in segments]
    assert answer["segments"][0]["quality"] == "not_enrolled"
    assert both.metric("e2v_judged_audio_seconds_total") - before == pytest.approx(2 * 3.0)  # two models

    before = both.metric("e2v_judged_audio_seconds_total")
    for parameters in {}, {"speaker": "carl"}, {"speaker": "OTHER"}, {"speaker": "carl", "granularity": "clip"}:
        answer = both.analyze(dialogue, **parameters)
        assert [segment["emotion"] for segment in answer["segments"]] == [None]
        assert answer["reason"] == "no enrolled speaker is heard in this clip"
        assert answer["context"] == ""
        embedded = both.client.post("/v1/embed", content=dialogue, params=parameters | {"granularity": "utterance"})
        assert embedded.json()["embedding"] is None
    assert both.metric("e2v_judged_audio_seconds_total") == before
    answer = both.analyze(dialogue, speaker="bob")
    assert {segment["speaker"] for segment in answer["segments"]} == {"bob"}
    assert answer["segments"][0]["emotion"]


def test_segments_of_strangers_are_checked_as_well(both: Served, dialogue: bytes) -> None:
    for wrong in {"start": 20, "end": 4e9}, {"start": 0, "end": 31}, {"start": 1, "end": 3}:
        segments = [{"start": 0, "end": 4, "speaker": "other"}, wrong | {"speaker": "other"}]
        form = {"file": ("d.wav", dialogue), "segments": (None, json.dumps(segments))}
        answer = both.client.post("/v1/analyze", files=form)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "segments"), wrong


def analyzed(served: Served, clip: bytes, segments: str, **parameters: str) -> dict[str, Any]:
    form = {"file": ("d.wav", clip), "segments": (None, segments)}
    return served.client.post("/v1/analyze", files=form, params=parameters).json()


def test_nameless_segments_have_the_speaker_of_the_clip(service: Served, both: Served, dialogue: bytes) -> None:
    nameless = json.dumps([{"start": 0, "end": 4}, {"start": 4, "end": 8, "speaker": "ann"}])
    for served, name, judged in (
        (service, "other", [False, True]),
        (service, "SPEAKER\u200b UNKNOWN", [False, True]),
        (service, "carl", [True, True]),
        (both, "carl", [False, True]),
        (both, "ＡＮＮ", [True, True]),
    ):
        answer = analyzed(served, dialogue, nameless, speaker=name)
        assert [segment["emotion"] is not None for segment in answer["segments"]] == judged, name
        assert [segment["speaker"] for segment in answer["segments"]] == [name, "ann"]


def test_a_name_on_several_channels_stays_a_name(service: Served, samples: np.ndarray) -> None:
    rttm = "".join(f"SPEAKER c {n} {start} 3 <NA> <NA> other <NA> <NA>\n" for n, start in ((1, 0), (2, 4)))
    answer = analyzed(service, wav(np.stack([samples, samples[::-1]], axis=1), subtype="PCM_16"), rttm)
    assert [segment["quality"] for segment in answer["segments"]] == ["not_enrolled"] * 2


def test_the_time_of_strangers_is_cut_out(both: Served, dialogue: bytes) -> None:
    segments = [{"start": 0, "end": 9, "speaker": "ann"}, {"start": 3, "end": 5, "speaker": "carl"}]
    before = both.metric("e2v_judged_audio_seconds_total")
    answer = analyzed(both, dialogue, json.dumps(segments))
    assert both.metric("e2v_judged_audio_seconds_total") - before == pytest.approx(2 * 7.0)  # two models
    found = [(s["start"], s["end"], s["speaker"], s["emotion"] is not None) for s in answer["segments"]]
    assert found == [(0, 3, "ann", True), (3, 5, "carl", False), (5, 9, "ann", True)]
    assert [note["kind"] for note in answer["notes"]] == ["strangers_removed"]
    segments[1]["end"] = 900
    assert analyzed(both, dialogue, json.dumps(segments))["error"]["kind"] == "segments"


def test_the_switch(service: Served, dialogue: bytes) -> None:
    first = service.client.get("/v1/config/emotion").json()
    assert (first["enabled"], first["history"]) == (True, False)
    before = service.analyze(dialogue)
    try:
        switched = service.client.put("/v1/config/emotion", json={"enabled": False}).json()
        assert switched == service.client.get("/v1/config/emotion").json()
        assert switched["enabled"] is False
        assert datetime.fromisoformat(first["since"]) < datetime.fromisoformat(switched["since"]) <= datetime.now(UTC)
        judged = service.metric("e2v_judged_audio_seconds_total")
        off = service.analyze(dialogue)
        assert off["emotion_enabled"] is False
        assert "switched off" in off["reason"]
        assert [segment["emotion"] for segment in off["segments"]] == [None] * len(before["segments"])
        assert [segment["start"] for segment in off["segments"]] == [s["start"] for s in before["segments"]]
        assert service.client.post("/v1/embed", content=dialogue).json()["embedding"] is None
        text = service.client.post("/v1/analyze", content=dialogue, params={"format": "csv"}).text
        assert before["segments"][0]["emotion"]["primary"] not in text
        assert service.metric("e2v_judged_audio_seconds_total") == judged
    finally:
        service.client.put("/v1/config/emotion", json={"enabled": True})
    assert matches(content(service.analyze(dialogue)), content(before))


def test_switching_off_stops_running_requests(speech_folder: Path) -> None:
    long = wav(np.tile(load_audio(speech_folder / "jfk.flac"), 60))  # 11 minutes
    with Served(model="bundled-tiny") as service, ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(service.analyze, long) for _ in range(6)]
        while service.metric("e2v_judged_audio_seconds_total") < 60:
            time.sleep(0.02)
        service.client.put("/v1/config/emotion", json={"enabled": False})
        judged = service.metric("e2v_judged_audio_seconds_total")
        for answer in answers:
            found = answer.result()
            assert not any(segment["emotion"] for segment in found["segments"])
            assert len(found["segments"]) > 50
        # At most the two batches that were running, none of them longer than a segment.
        assert service.metric("e2v_judged_audio_seconds_total") - judged <= 2 * 11
        assert judged < 6 * 600


# Access


def test_the_token(tmp_path: Path) -> None:
    clip = (CLIPS / "calm.flac").read_bytes()
    with Served(token="seven of nine") as service:
        for path in "/healthz", "/readyz", "/", "/page/page.css":
            assert service.client.get(path).status_code == 200, path
        for path in "/v1/models", "/metrics", "/docs", "/openapi.json", "/v1/history", "/v1/taxonomy", "/nowhere":
            answer = service.client.get(path)
            assert (answer.status_code, answer.json()["error"]["kind"]) == (401, "token"), path
        for header in "Bearer", "Bearer seven", "Basic seven of nine", "seven of nine":
            assert (
                service.client.post("/v1/analyze", content=clip, headers={"Authorization": header}).status_code == 401
            )
        right = {"Authorization": "Bearer seven of nine"}
        assert service.client.post("/v1/analyze", content=clip, headers=right).status_code == 200
        address = service.url.replace("http", "ws") + "/v1/stream"
        for subprotocols in None, ["e2v"], ["e2v", "e2v.token.c2V2ZW4"], ["e2v", "e2v.token.!"]:
            with pytest.raises(InvalidStatus) as refused:
                connect(address, subprotocols=subprotocols)
            assert refused.value.response.status_code == 401
        inside = base64.urlsafe_b64encode(b"seven of nine").decode().rstrip("=")
        for options in {"subprotocols": ["e2v", f"e2v.token.{inside}"]}, {"additional_headers": right}:
            with connect(address, **options) as socket:
                socket.send('{"type": "start", "sampling_rate": 16000}')
                assert json.loads(socket.recv(timeout=60))["type"] == "ready"
                assert socket.subprotocol in {"e2v", None}  # the token is never sent back
        service.stop()
        assert not any("seven" in line for line in service.lines)


def test_requests_from_other_sites_are_refused(service: Served) -> None:
    own = service.url
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost:1",
        "http://[",
        "",
        "://",
        "http://[::1",
        9999 * "x",
    ):
        assert service.client.get("/v1/models", headers={"Origin": origin}).status_code == 403, origin
    assert service.client.get("/v1/models", headers={"Origin": own}).status_code == 200
    for host in "evil.example", f"evil.example:{service.port}", "169.254.169.254", "localhost.evil.example":
        answer = service.client.get("/v1/models", headers={"Host": host})
        assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "host"), host
    for host in "localhost", f"127.0.0.1:{service.port}", "[::1]:80", "e2v.localhost:9101":
        assert service.client.get("/v1/models", headers={"Host": host}).status_code == 200, host
    with pytest.raises(InvalidStatus) as refused:
        connect(own.replace("http", "ws") + "/v1/stream", origin="https://evil.example")
    assert refused.value.response.status_code == 403


PATHS = (
    "/",
    "/docs",
    "/openapi.json",
    "/v1/models",
    "/v1/history",
    "/metrics",
    "/healthz",
    "/page/page.js",
    "/nowhere",
)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_reads_that_other_sites_cause_are_not_carried_out(service: Served, method: str, site: str) -> None:
    """Images, scripts and links have no Origin, but the browser says where they come from."""
    for path in PATHS:
        for mode, use in ("no-cors", "image"), ("navigate", "iframe"), ("navigate", "document"):
            headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode, "Sec-Fetch-Dest": use}
            answer = service.client.request(method, path, headers=headers)
            visit = (method, use) == ("GET", "document") and path in {"/", "/docs"}
            assert answer.status_code == (200 if visit else 403), (path, use)
    for own in "none", "same-origin":
        assert service.client.get("/v1/models", headers={"Sec-Fetch-Site": own}).status_code == 200


def test_pages_of_an_allowed_origin() -> None:
    app, other = "http://localhost:3000", "http://localhost:3001"
    with Served("--allow-origin", app, "--allow-origin", "tauri://localhost", token="secret") as service:
        right = {"Authorization": "Bearer secret", "Sec-Fetch-Site": "same-site"}
        for origin in app, "tauri://localhost":
            asked = {
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": "authorization,content-type",
            }
            answer = service.client.options("/v1/config/emotion", headers=asked | {"Origin": origin})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
            for headers, status in (right, 200), ({}, 401):  # an error, too, can be read by the page
                answer = service.client.get("/v1/models", headers=headers | {"Origin": origin})
                assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, origin)
                assert "origin" in answer.headers["vary"].lower()
                assert "access-control-allow-credentials" not in answer.headers
        for origin in other, "null", "http://localhost:30000", "http://localhost", "https://localhost:3000":
            answer = service.client.get("/v1/models", headers=right | {"Origin": origin})
            assert (answer.status_code, answer.json()["error"]["kind"]) == (403, "origin"), origin
            assert "--allow-origin" in answer.json()["error"]["message"]
            assert "access-control-allow-origin" not in answer.headers
        assert service.client.get("/v1/models", headers=right).status_code == 403, "an image has no origin"
        address = service.url.replace("http", "ws") + "/v1/stream"
        protocols = ["e2v", "e2v.token." + base64.urlsafe_b64encode(b"secret").decode().rstrip("=")]
        with connect(address, origin=app, subprotocols=protocols) as socket:
            socket.send('{"type": "start", "sampling_rate": 16000}')
            assert json.loads(socket.recv(timeout=60))["type"] == "ready"
        with pytest.raises(InvalidStatus) as refused:
            connect(address, origin=other, subprotocols=protocols)
        assert refused.value.response.status_code == 403


def test_unknown_parameters_are_refused_on_every_route(service: Served) -> None:
    """A parameter that is ignored in silence does harm: `form` for `from` would delete everything of a speaker."""
    routes = [(m.upper(), p) for p, ms in service.client.get("/openapi.json").json()["paths"].items() for m in ms]
    routes += [("GET", path) for path in ("/", "/docs", "/openapi.json", "/page/page.js")]
    assert len(routes) == 17
    for method, path in routes:
        answer = service.client.request(method, path, params={"nonsense": "1"}, content=b"{}")
        assert answer.status_code == 422, path
        assert answer.json()["error"]["message"].startswith("query 'nonsense': no such parameter; "), path
    for address, end in (
        ("/v1/history?speaker=ann&form=2026-01-01T00:00:00Z", "known here: from"),
        ("/v1/history?all=true&speker=ann", "known here: speaker"),
        ("/v1/history?speaker=ann&speaker=bob", "query 'speaker': given twice, leave one out"),
        ("/v1/history?speaker=J%F6rg", "encode it as UTF-8"),
        ("/v1/history?from", "valid datetime or date, input is too short"),
    ):
        answer = service.client.delete(address)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (422, "invalid"), address
        assert answer.json()["error"]["message"].endswith(end), address
    with pytest.raises(InvalidStatus) as refused:
        connect(service.url.replace("http", "ws") + "/v1/stream?sampling_rate=16000")
    assert refused.value.response.status_code == 422
    answer = service.client.put("/v1/config/emotion", json={"enabled": True, "until": "tomorrow"})
    assert answer.status_code == 422
    assert service.client.put("/v1/config/emotion?" + "&" * 200, json={"enabled": True}).status_code == 200


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--host", "0.0.0.0"], "--token"),
        (["--model", "nobody/nothing", "--offline"], "nobody/nothing"),
        (["--runtime", "abacus"], "abacus"),
        (["--port", "99999"], "--port"),
        (["--max-body", "65"], "--max-body"),
        (["--max-gain", "61"], "--max-gain"),
        (["--speech-threshold", "1"], "--speech-threshold"),
        (["--history", "/nowhere/h.sqlite"], "/nowhere/h.sqlite"),
        (["--allow-origin", "*"], "http://localhost:3000"),
        (["--allow-origin", "http://a/"], "http://localhost:3000"),
        (["--max-seconds", "9000"], "--max-audio-seconds"),
        (["--token", " secret"], "loses blanks at its ends"),
        (["--token", "s\u00e9cret"], "printable ASCII"),
    ],
)
def test_a_failed_start_prints_one_line(options: list[str], named: str) -> None:
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert "cret" not in line


def test_a_setting_that_does_not_exist() -> None:
    """A misspelled setting in the environment would leave the service open in silence."""
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0"]
    wrong = os.environ | {"E2V_SERVE_SPEAKER": "ann"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=wrong)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "use E2V_SERVE_SPEAKERS" in done.stderr


def test_a_port_in_use(service: Served) -> None:
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", str(service.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "--port 0" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_public_host_accepts_requests_with_the_token() -> None:
    with Served("--host", "0.0.0.0", "--token", "t") as service:
        answer = httpx.get(
            f"http://127.0.0.1:{service.port}/v1/models", headers={"Authorization": "Bearer t", "Host": "spark"}
        )
        assert answer.status_code == 200


# Streams


def converse(service: Served, pcm: bytes, block: int = 3200, **start: Any) -> list[dict[str, Any]]:
    """Sends a stream as fast as the service reads it, and returns the answers."""
    found: list[dict[str, Any]] = []
    with connect(service.url.replace("http", "ws") + "/v1/stream") as socket:
        socket.send(json.dumps({"type": "start", "sampling_rate": 16_000, "format": "s16le", "channels": 1, **start}))

        def send() -> None:
            for at in range(0, len(pcm), block):
                socket.send(pcm[at : at + block])
            socket.send('{"type": "end"}')

        sender = threading.Thread(target=send)
        sender.start()
        try:
            found += (json.loads(message) for message in socket)
        except ConnectionClosed as closed:
            found.append({"type": "closed", "code": closed.rcvd and closed.rcvd.code})
        else:
            found.append({"type": "closed", "code": socket.close_code})
        sender.join()
    return found


def test_a_stream_gets_the_judgements_of_the_file(
    service: Served, models: dict[str, Any], dialogue: bytes, samples: np.ndarray
) -> None:
    expected = expected_content(e2v_port.analyze(io.BytesIO(dialogue), model=models["model"]))
    events = converse(service, samples.tobytes())
    assert events[0] == {"type": "ready", "request_id": ANY, "emotion_enabled": True, "history": False}
    assert events[-2] == {"type": "done", "duration": len(samples) / 16_000}
    assert events[-1] == {"type": "closed", "code": 1000}
    finals = [event["segment"] for event in events if event["type"] == "final"]
    assert all(segment.pop("final") for segment in finals)
    assert len(finals) == 5
    assert matches(finals, expected["segments"])
    acknowledged = [event["samples"] for event in events if event["type"] == "ack"]
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[-1] == len(samples)
    assert any(event["type"] == "partial" for event in events)


def test_streams_of_unknown_speakers(both: Served, samples: np.ndarray) -> None:
    before = both.metric("e2v_judged_audio_seconds_total")
    finals = [event["segment"] for event in converse(both, samples[:160_000].tobytes()) if event["type"] == "final"]
    assert finals
    assert not any(segment["emotion"] for segment in finals)
    assert both.metric("e2v_judged_audio_seconds_total") == before
    finals = [e["segment"] for e in converse(both, samples[:160_000].tobytes(), speaker="ann") if e["type"] == "final"]
    assert all(segment["emotion"] for segment in finals if segment["quality"] == "normal")
    assert both.metric("e2v_judged_audio_seconds_total") > before


@pytest.mark.parametrize(
    ("messages", "kind", "code"),
    [
        (["no json"], "stream", 1003),
        (["[1]"], "stream", 1003),
        ([b"\0\0"], "stream", 1003),
        (['{"type": "start"}'], "stream", 1003),
        (['{"type": "start", "sampling_rate": 1e99}'], "stream", 1003),
        (['{"type": "start", "sampling_rate": 16000, "encoding": "mulaw"}'], "stream", 1003),
        (['{"type": "start", "sampling_rate": 16000}', '{"type": "more"}'], "stream", 1003),
        (
            ['{"type": "start", "sampling_rate": 16000, "format": "f32le"}', 4 * np.float32(np.nan).tobytes()],
            "audio",
            1003,
        ),
        (['{"type": "start", "sampling_rate": 16000}', (CLIPS / "calm.flac").read_bytes()], "audio", 1003),
    ],
)
def test_an_invalid_stream(service: Served, messages: list[Any], kind: str, code: int) -> None:
    with connect(service.url.replace("http", "ws") + "/v1/stream") as socket:
        for message in messages:
            socket.send(message)
        answers = []
        with suppress(ConnectionClosed):
            while True:
                answers.append(json.loads(socket.recv(timeout=60)))
        assert answers[-1]["error"]["kind"] == kind
        assert "\n" not in answers[-1]["error"]["message"]
        assert socket.close_code == code


# State


def test_models_taxonomy_metrics_and_documentation(service: Served) -> None:
    (model,) = service.client.get("/v1/models").json()
    assert (model["kind"], model["runtime"], model["dtype"]) == ("categorical", "cpu", "float32")
    assert model["licence"] == "MIT"
    taxonomy = service.client.get("/v1/taxonomy").json()
    assert len(taxonomy["emotions"]["emotions"]) == 26
    text = service.client.get("/metrics").text
    for name in (
        "e2v_request_seconds_bucket",
        "e2v_queue_seconds_sum",
        "e2v_batch_clips_bucket",
        "e2v_audio_seconds_total",
    ):
        assert name in text
    assert service.client.get("/page/page.js").status_code == 200
    assert service.client.get("/nowhere").status_code == 404
    counted = [("/page/*", 200), ("/v1/taxonomy", 200), ("none", 404)]
    lines = [f'e2v_request_seconds_count{{route="{route}",status="{status}"}}' for route, status in counted]
    until = time.monotonic() + 60  # the count follows the response
    while missing := [line for line in lines if line not in service.client.get("/metrics").text]:
        assert time.monotonic() < until, missing
        time.sleep(0.05)
    docs = service.client.get("/docs").text
    assert "/v1/analyze" in docs
    assert "http://" not in docs
    assert "https://" not in docs
    schema = service.client.get("/openapi.json").json()
    assert {"application/octet-stream", "multipart/form-data"} <= schema["paths"]["/v1/analyze"]["post"]["requestBody"][
        "content"
    ].keys()


def test_the_log_reveals_nothing_of_a_clip(service: Served, dialogue: bytes) -> None:
    form = {
        "file": ("my diary.wav", dialogue),
        "segments": (None, '[{"start": 0, "end": 4, "speaker": "ann", "text": "secret"}]'),
    }
    answer = service.client.post("/v1/analyze", files=form, params={"name": "my diary"})
    until = time.monotonic() + 60  # the line follows the response
    while not (lines := [line for line in service.lines if answer.json()["request_id"] in line]):
        assert time.monotonic() < until
        time.sleep(0.05)
    (line,) = lines
    assert answer.headers["x-request-id"] in line
    assert "POST /v1/analyze 200" in line
    for word in "diary", "secret", "ann", answer.json()["segments"][0]["emotion"]["primary"]:
        assert word not in line


def test_history(tmp_path: Path, dialogue: bytes, samples: np.ndarray) -> None:
    path = tmp_path / "history.sqlite"
    with Served("--history", str(path)) as service:
        answer = service.analyze(dialogue, recorded_at="2026-01-31T12:00:00Z", speaker="ann")
        assert answer["history"] == "stored"
        rows = service.client.get("/v1/history").json()["rows"]
        assert [row["primary"] for row in rows] == [s["emotion"]["primary"] for s in answer["segments"] if s["emotion"]]
        assert rows[0]["start"].startswith("2026-01-31T12:00:00")
        table = service.client.get("/v1/history", params={"format": "csv"}).text.splitlines()
        assert len(table) == 1 + len(rows)
        assert service.client.get("/v1/history/audit").json()["tables"]["segments"]["rows"] == len(rows)
        assert service.client.get("/v1/history", params={"from": "2026-02-01T00:00:00Z"}).json()["rows"] == []
        assert service.client.delete("/v1/history").status_code == 422
        assert service.client.delete("/v1/history", params={"speaker": "ann"}).json() == {"deleted": len(rows)}
        events = converse(service, samples[:160_000].tobytes())
        assert events[0] == {"type": "ready", "request_id": ANY, "emotion_enabled": True, "history": True}
        finals = [event for event in events if event["type"] == "final"]
        stored = service.client.get("/v1/history").json()["rows"]
        assert len(stored) == sum(event["segment"]["emotion"] is not None for event in finals) > 0
        service.client.put("/v1/config/emotion", json={"enabled": False})
    assert service.process.returncode == 0
    with Served("--history", str(path)) as service:
        config = service.client.get("/v1/config/emotion").json()
        assert (config["enabled"], config["history"]) == (False, True)
        assert len(service.client.get("/v1/history").json()["rows"]) == len(stored)
        assert service.analyze(dialogue)["history"] == "not stored: nothing was judged"
    assert not [name for name in tmp_path.iterdir() if not name.name.startswith("history.sqlite")]


def test_nothing_is_stored_by_default(service: Served) -> None:
    for method, path in ("GET", "/v1/history"), ("DELETE", "/v1/history?all=true"), ("GET", "/v1/history/audit"):
        answer = service.client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (404, "no_history")


SERVING = """
import logging, os, resource, signal
from e2v_port.service.http.server import run
from e2v_port.service.settings import Settings

def state():
    loggers = [logging.getLogger(f"uvicorn.{name}") for name in ("error", "access")]
    return (
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
        resource.getrlimit(resource.RLIMIT_NOFILE),
        [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers],
    )

signal.signal(signal.SIGTERM, lambda *_: None)
logging.getLogger("uvicorn.access").addHandler(logging.NullHandler())
resource.setrlimit(resource.RLIMIT_NOFILE, (600, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
before = state()
run(Settings(port=0), lambda address: os.kill(os.getpid(), signal.SIGTERM))
assert state() == before, (state(), before)
"""


def test_a_program_that_serves_keeps_its_state() -> None:
    """Log levels, signal handlers and limits are restored, and nothing is printed."""
    command = [sys.executable, "-c", SERVING]
    accepted = os.environ | {"E2V_LICENCE": "accepted"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=accepted)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

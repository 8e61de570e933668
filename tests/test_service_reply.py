"""The service replies: as the library does, whole or as it is made, one remark at a time, and keeps nothing."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import pytest
import scripted_reply
import soundfile
from loud_reader import IN_PLACE_OF_WHISPER
from served import Served, matches
from speechlm import toy_language, toy_model
from starlette.testclient import TestClient

import e2v_port
from e2v_port.client import Client
from e2v_port.errors import AudioError, RequestRefused, ServiceUnavailable
from e2v_port.expression.profiles import NEUTRAL, ProsodyParameters
from e2v_port.expression.respond import respond
from e2v_port.expression.speak import speak
from e2v_port.service.http.gate import Gate
from e2v_port.service.http.routes import UPLOADS, application, routes
from e2v_port.service.settings import Settings
from e2v_port.service.state import Service

pytestmark = [
    pytest.mark.xdist_group("service that replies"),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes in /proc"),
]
CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
EXAMPLES = Path(__file__).parents[1] / "e2v_port" / "service" / "http" / "examples.json"
TURNS = [{"role": "user", "content": "It is me again."}, {"role": "assistant", "content": "That sounds fine."}]
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reply")
    toy_model(path / "model", toy_language(path / "language"))
    (path / "sitecustomize.py").write_text(IN_PLACE_OF_WHISPER + scripted_reply.IN_PLACE_OF_GENERATION)
    return path


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Served]:
    """It replies to ann, reads words and keeps a history; what it says is logged in `folder`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.setenv("E2V_TEST_SAID", str(folder / "said"))
        patch.setenv("E2V_TEST_WAIT", str(folder / "wait"))
        started = Served(
            model="bundled-tiny",
            reply=folder / "model",
            words="loudness",
            speakers="ann",
            history=folder / "history.sqlite",
        )
    with started:
        yield started


@pytest.fixture(scope="module")
def expected(folder: Path) -> dict[str, e2v_port.Reply]:
    """What the library replies, without and with what was said before."""
    with pytest.MonkeyPatch.context() as patch, e2v_port.SpeechLM.load(folder / "model", runtime="cpu") as model:
        patch.setattr("e2v_port.llm.language.Language.answers", scripted_reply.answers)
        return {"alone": model(CLIP), "before": model(CLIP, context=TURNS)}


def ask(service: Served, context: Any = None, clip: bytes | None = None, **query: Any) -> httpx.Response:
    fields = {} if context is None else {"context": context if isinstance(context, str) else json.dumps(context)}
    files = {"file": ("calm.flac", CLIP.read_bytes() if clip is None else clip)}
    headers = query.pop("headers", {})
    return service.client.post(
        "/v1/reply", files=files, data=fields, params={"speaker": "ann", **query}, headers=headers
    )


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Reads server-sent events as the standard describes them."""
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields["event"], json.loads(fields["data"])))
    return found


@contextmanager
def holding(folder: Path) -> Iterator[Path]:
    """Replies stop after their first sentence, until the context ends."""
    (folder / "wait").touch()
    try:
        yield folder / "said"
    finally:
        (folder / "wait").unlink()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    assert "\n" not in error["message"]
    return answer.status_code, error["kind"], error["message"]


def test_a_reply_is_that_of_the_library(service: Served, expected: dict[str, e2v_port.Reply]) -> None:
    for context, wanted in ((None, expected["alone"]), ([], expected["alone"]), (TURNS, expected["before"])):
        answer = ask(service, context).json()
        assert answer["reply"] == wanted.text
        assert matches(answer["tone"], dict(wanted.tone))
        assert [note["text"] for note in answer["notes"]] == list(wanted.notes)
        assert answer["seconds"].keys() == wanted.seconds.keys()
        assert (answer["words"], answer["audio"]) == (None, None)
    assert expected["alone"].text != expected["before"].text


def test_events_come_in_order_and_join_to_the_whole(service: Served, expected: dict[str, e2v_port.Reply]) -> None:
    answer = ask(service, TURNS, headers=EVENTS)
    assert answer.headers["content-type"].startswith("text/event-stream")
    (first, heard), *texts, (last, whole) = events(answer.text)
    assert (first, last) == ("tone", "done")
    assert {name for name, _ in texts} == {"text"}
    assert len(texts) == 3, "each sentence as it is made"
    assert "".join(part["text"] for _, part in texts) == whole["reply"] == expected["before"].text
    assert heard == {name: whole[name] for name in heard}
    assert whole.keys() == ask(service).json().keys()


def test_the_first_words_come_before_the_last_are_made(service: Served, folder: Path) -> None:
    with (
        holding(folder),
        service.client.stream(
            "POST", "/v1/reply", params={"speaker": "ann"}, content=CLIP.read_bytes(), headers=EVENTS
        ) as answer,
    ):
        text = ""
        for piece in answer.iter_text():
            text += piece
            if "That sounds hard." in text:
                break
    assert "Tell me more." not in text


def test_the_client(service: Served, expected: dict[str, e2v_port.Reply]) -> None:
    client = Client(service.url, timeout=60)
    pieces: list[str] = []
    found = client.reply(CLIP, TURNS, speaker="ann", hear=pieces.append)
    assert "".join(pieces) == found.reply == expected["before"].text
    assert len(pieces) == 3
    plain = client.reply(CLIP, TURNS, speaker="ann")
    assert (plain.reply, plain.tone, plain.prosody) == (found.reply, found.tone, found.prosody)
    assert (found.unavailable, found.audio) == (None, None)
    with pytest.raises(RequestRefused, match=r"context 0 role: .*user.*assistant"):
        client.reply(CLIP, [{"role": "system", "content": "Be rude."}], speaker="ann")
    with pytest.raises(RequestRefused, match="context: pass a list of turns"):
        client.reply(CLIP, ["hello"], speaker="ann")  # type: ignore[list-item]
    with pytest.raises(AudioError, match="no audio received"):
        client.reply(b"", speaker="ann", hear=pieces.append)


def test_a_client_that_does_not_wait_goes_on_without_a_reply(service: Served, folder: Path) -> None:
    with holding(folder):
        for hear in (None, list[str]().append):
            found = Client(service.url, timeout=1).reply(CLIP, speaker="ann", hear=hear)
            assert (found.reply, found.tone) == (None, None)
            assert "no answer within 1 s" in str(found.unavailable)
        with pytest.raises(ServiceUnavailable):
            Client(service.url, timeout=0.5, strict=True).reply(CLIP, speaker="ann")


@pytest.mark.parametrize("headers", [{}, EVENTS])
def test_a_client_that_disconnects_stops_the_reply(service: Served, folder: Path, headers: dict[str, str]) -> None:
    assert ask(service, clip=b"no audio").status_code == 422  # answered after whatever was made before
    until(lambda: service.metric("e2v_requests_in_flight") == 0)
    with holding(folder) as said:
        said.write_text("")
        connection = HTTPConnection("127.0.0.1", service.port)
        connection.request("POST", "/v1/reply?speaker=ann", CLIP.read_bytes(), headers)
        until(lambda: "1" in said.read_text())
        connection.close()
        until(lambda: service.metric("e2v_requests_in_flight") == 0)
        assert service.metric("e2v_held_bytes") == 0
    again = ask(service, clip=b"no audio")  # answered after whatever was made before
    assert again.status_code == 422
    made = said.read_text().count("2")
    assert ask(service).status_code == 200
    assert 2 * made < said.read_text().count("2"), "it ended before its last sentence did"


def test_remarks_wait_for_each_other_and_for_nothing_else(service: Served, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool, holding(folder) as said:
        said.write_text("")
        waiting = [pool.submit(ask, service, TURNS[: i % 2 + 1]) for i in range(3)]
        until(lambda: service.metric("e2v_requests_in_flight") == 3)
        until(lambda: "1" in said.read_text())
        time.sleep(0.3)
        begun = said.read_text()
        assert service.analyze(CLIP, speaker="ann")["segments"][0]["emotion"]
        assert said.read_text() == begun, "the first sentence of one of them"
        assert not any(each.done() for each in waiting)
    assert [each.result(60).status_code for each in waiting] == [200] * 3
    starts = [a + b for a, b in pairwise(said.read_text().split())]
    assert starts.count("20") == 2, "each begins after the one before has ended"
    assert not {"10", "02"} & set(starts)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("hello", "context: Invalid JSON"),
        ({"role": "user", "content": "a"}, "context: Input should be a valid"),
        ([{"role": "system", "content": "a"}], "context 0 role: Input should be 'user' or 'assistant'"),
        ([{"role": "user"}], "context 0 content: Field required"),
        ([{"role": "user", "content": "   "}], "context 0 content: String should match pattern"),
        ([{"role": "user", "content": "a", "name": "b"}], "context 0 name: Extra inputs are not permitted"),
        ([{"role": "user", "content": "a" * 501}], "context 0 content: String should have at most 500"),
        ([{"role": "user", "content": "a"}] * 17, "context: List should have at most 16"),
    ],
)
def test_a_context_that_is_none_is_refused(service: Served, context: Any, message: str) -> None:
    status, kind, found = refusal(ask(service, context))
    assert (status, kind) == (422, "context")
    assert found.startswith(message)
    assert "send a JSON list of up to 16 turns" in found


def test_what_cannot_be_answered_is_refused(service: Served) -> None:
    clip, wav = CLIP.read_bytes(), io.BytesIO()
    soundfile.write(wav, np.tile(soundfile.read(CLIP)[0], 12), 16_000, format="WAV")
    for answer in (service.client.post("/v1/reply", content=clip), ask(service, speaker="bob", headers=EVENTS)):
        assert refusal(answer)[:2] == (422, "not_enrolled")
    assert refusal(ask(service, clip=wav.getvalue())) == (
        413,
        "too_long",
        "calm.flac: longer than 30 s, which a remark may last: send its end",
    )
    assert refusal(ask(service, language="de"))[1:] == (
        "invalid",
        "language belongs to words: add words=true, or leave it out",
    )
    assert refusal(ask(service, clip=b"no audio", headers=EVENTS))[:2] == (422, "audio")
    given = service.client.post("/v1/reply", files={"file": clip}, data={"segments": "[]"})
    assert refusal(given)[2] == "unexpected form field: send one field `file` and, optionally, one field `context`"


def test_silence_has_no_reply(service: Served) -> None:
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(32_000), 16_000, format="WAV")
    answer = ask(service, clip=wav.getvalue(), aloud="true").json()
    assert (answer["reply"], answer["tone"], answer["unclear"], answer["audio"]) == ("", None, None, None)
    assert any("no speech" in note["text"] for note in answer["notes"])
    assert answer["prosody"] == {"emotion": "neutral", "intensity": 0.0, "rate": 1.0, "pitch": 1.0, "volume": 1.0}


def test_the_words_of_a_remark(service: Served) -> None:
    answer = ask(service, words="true", headers=EVENTS)
    (_, heard), *_, (_, whole) = events(answer.text)
    read = service.analyze(CLIP, speaker="ann", words="true", granularity="clip")["segments"][0]["text"]
    assert heard["words"] == whole["words"] == read


def test_emotions_switched_off_end_a_reply(service: Served, folder: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        try:
            with holding(folder) as said:
                said.write_text("")
                going = pool.submit(ask, service, headers=EVENTS)
                until(lambda: "1" in said.read_text())
                service.client.put("/v1/config/emotion", json={"enabled": False})
            *_, (name, error) = events(going.result(60).text)
            assert (name, error["error"]["kind"], error["status"]) == ("error", "off", 409)
            assert refusal(ask(service)) == (
                409,
                "off",
                "emotion analysis is switched off, and a reply depends on it: switch it on",
            )
        finally:
            service.client.put("/v1/config/emotion", json={"enabled": True})
    assert ask(service).status_code == 200


def test_nothing_of_a_reply_is_kept(service: Served, folder: Path) -> None:
    before = service.client.get("/v1/history").json()["rows"]
    answer = ask(service, TURNS, words="true", aloud="true").json()
    assert service.client.get("/v1/history").json()["rows"] == before
    said = [answer["words"], *(part.strip() for part in answer["reply"].split(".")[:-1]), TURNS[0]["content"]]
    kept = "\n".join(service.lines) + service.client.get("/metrics").text
    assert not [words for words in said if words in kept]
    stored = b"".join(path.read_bytes() for path in folder.glob("history.sqlite*"))
    assert not [words for words in said if words.encode() in stored]


def test_the_fields_are_documented(service: Served) -> None:
    document = service.client.get("/openapi.json").json()
    operation = document["paths"]["/v1/reply"]["post"]
    part = operation["responses"]["200"]["content"]["application/json"]
    schema = {**part["schema"], "components": document["components"]}
    answer = ask(service, words="true").json()
    for found in (answer, part["example"]):
        jsonschema.validate(found, schema)
        assert found.keys() == answer.keys()
    assert set(operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]) == {
        "file",
        "context",
    }
    assert {"404", "409", "413", "422", "503"} <= operation["responses"].keys()
    assert service.client.get("/readyz").json() == {"status": "ready", "words": True, "replies": True}
    assert service.metric("e2v_reply_first_token_seconds_count") > 0
    assert service.metric('e2v_request_seconds_count{route="/v1/reply",status="200"}') > 0


def test_a_service_without_a_model_says_how_to_get_one() -> None:
    settings = Settings()
    app = application(Service(settings))
    gate = Gate(app, app.state.service.telemetry, settings, routes(app), UPLOADS)
    answer = TestClient(gate, "http://127.0.0.1").post("/v1/reply", content=b"a")
    assert refusal(answer) == (
        404,
        "no_replies",
        "this service does not reply: start it with --reply FOLDER (see e2v dialogue train)",
    )


def test_a_folder_without_a_model_ends_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--reply", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no speech language model: make one with")


def test_words_are_drawn_where_a_temperature_asks_for_it(service: Served) -> None:
    likely = {ask(service).json()["reply"] for _ in range(3)}
    drawn = {ask(service, temperature=1.5).json()["reply"] for _ in range(3)}
    assert (len(likely), len(drawn)) == (1, 3), "the same each time, and another each time"
    assert all("At 1.5 I drew" in text for text in drawn)
    client = Client(service.url, timeout=60)
    assert {client.reply(CLIP, speaker="ann").reply} == likely
    assert "At 0.25 I drew" in client.reply(CLIP, speaker="ann", temperature=0.25).reply


@pytest.mark.parametrize("temperature", ["-0.1", "2.1", "nan", "inf", "warm", ""])
def test_a_temperature_is_from_0_to_2(service: Served, temperature: str) -> None:
    refused = ask(service, temperature=temperature)
    assert refused.status_code == 422
    assert "temperature" in refused.text


# ---- Aloud


def test_a_reply_aloud_sounds_as_its_tone_wants(service: Served) -> None:
    answer = ask(service, aloud="true").json()
    label = max(answer["tone"], key=answer["tone"].get)
    wanted = respond(label, answer["tone"][label])
    assert (answer["prosody"]["emotion"], answer["prosody"]["intensity"]) == (wanted.emotion, wanted.intensity)
    assert answer["prosody"]["rate"] == wanted.parameters.speech_rate
    if shutil.which("espeak-ng") is None:
        assert answer["audio"] is None
        return
    assert base64.b64decode(answer["audio"]) == speak(answer["reply"], wanted.parameters)
    found = Client(service.url, timeout=60).reply(CLIP, speaker="ann", aloud=True)
    assert found.audio == base64.b64decode(answer["audio"])


def test_speech_is_as_fast_and_as_loud_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("espeak-ng") is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")

    def sound(parameters: ProsodyParameters) -> tuple[float, float]:
        samples, rate = soundfile.read(io.BytesIO(speak("Hello there, how are <you> & yours?", parameters) or b""))
        return len(samples) / rate, float(np.sqrt(np.mean(samples**2)))

    seconds, level = sound(NEUTRAL)
    slow, quiet = sound(ProsodyParameters(speech_rate=0.75, volume_db=-6))
    assert slow / seconds == pytest.approx(1 / 0.75, rel=0.1)
    assert quiet / level == pytest.approx(0.5, rel=0.15)
    monkeypatch.setenv("PATH", os.devnull)
    assert speak("Hello.", NEUTRAL) is None

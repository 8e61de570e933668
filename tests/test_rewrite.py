"""Replies in other words, by a language model at an endpoint: a real server on this machine, which misbehaves."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from e2v_port.dialogue.prepare import Dialogues, Remark, prepare, write
from e2v_port.dialogue.replies import contexts, reply
from e2v_port.dialogue.rewrite import FILE, Chat, fault, rewrite
from e2v_port.errors import ChatError, CorpusError
from e2v_port.evaluation.datasets import SPLITS, Utterance
from e2v_port.evaluation.readers import read
from e2v_port.llm.safety import checked

GOOD = "You sound cross. Tell me what went wrong."


class Endpoint:
    """A server of chat completions. `answer` makes the status, headers and body of each response."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer: Callable[[dict[str, Any]], tuple[int, dict[str, str], str]] = lambda _: said(GOOD)
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = {"path": self.path, "headers": dict(self.headers), "text": body.decode()}
                endpoint.requests.append(request | {"body": json.loads(body)})
                status, headers, text = endpoint.answer(endpoint.requests[-1])
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(text.encode()))} | headers).items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(BrokenPipeError, ConnectionResetError):  # a client that no longer waits
                    self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def asked(self) -> list[str]:
        return [request["body"]["messages"][-1]["content"] for request in self.requests]


def said(text: str) -> tuple[int, dict[str, str], str]:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    found = Endpoint()
    yield found
    found.server.shutdown()
    found.server.server_close()


def dialogues(*replies: str, label: str = "angry") -> Dialogues:
    remarks = [
        Remark(
            Utterance(Path(f"{i}.wav"), label, label, "x/secret", "female", "x", None, None, text="Hidden words"), text
        )
        for i, text in enumerate(replies)
    ]
    return Dialogues({"train": remarks, "dev": [], "test": []}, (), ())


def texts(found: Dialogues) -> list[str]:
    return [each.reply for each in found.parts["train"]]


def test_each_distinct_reply_is_asked_for_once_and_only_it_and_its_label_leave(
    endpoint: Endpoint, tmp_path: Path
) -> None:
    before = dialogues(
        "You sound fed up. What happened?", "You sound fed up. What happened?", "That sounded rather sharp."
    )
    found = rewrite(before, Chat(endpoint.url, "small", "k3y"), tmp_path)
    assert texts(found) == [GOOD] * 3
    assert (found.rewriter, found.notes) == ("small", ())
    assert len(endpoint.requests) == 2
    for request in endpoint.requests:
        assert request["path"] == "/v1/chat/completions"
        assert request["headers"]["Authorization"] == "Bearer k3y"
        assert request["body"]["model"] == "small"
        assert not any(word in request["text"] for word in ("Hidden", "secret", ".wav", "female"))
    assert endpoint.asked[0] == "Tone of voice: angry\nReply: You sound fed up. What happened?"
    assert "k3y" not in repr(Chat(endpoint.url, "small", "k3y"))
    again = rewrite(before, Chat(endpoint.url, "small"), tmp_path)
    assert texts(again) == texts(found)
    assert len(endpoint.requests) == 2, "what was asked for is kept"
    rewrite(before, Chat(endpoint.url, "large"), tmp_path)
    assert len(endpoint.requests) == 4, "but not for another model"


def test_what_was_answered_before_an_error_is_kept(endpoint: Endpoint, tmp_path: Path) -> None:
    before = dialogues("One. What happened?", "Two. What happened?", "Three. What happened?")
    endpoint.answer = lambda request: (401, {}, "no such key") if "Two" in request["text"] else said(GOOD)
    with pytest.raises(ChatError, match="refused with status 401: no such key: check the address, the model"):
        rewrite(before, Chat(endpoint.url, "small"), tmp_path)
    assert len(endpoint.requests) == 2, "401 is not tried again"
    with (tmp_path / FILE).open("a") as file:
        file.write('{"model": "small", "la')  # the writer was killed here
    endpoint.answer = lambda _: said(GOOD)
    assert texts(rewrite(before, Chat(endpoint.url, "small"), tmp_path)) == [GOOD] * 3
    assert [text.split()[-3] for text in endpoint.asked[2:]] == ["Two.", "Three."]
    assert len([json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]) == 3
    (tmp_path / FILE).write_text("{}\n")
    with pytest.raises(CorpusError, match=r"rewrites.jsonl:1: damaged .*: delete that line"):
        rewrite(before, Chat(endpoint.url, "small"), tmp_path)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("You are depressed. See a doctor.", "health"),
        ("You are furious.", "feeling"),
        ("Call me at 555 123 4567.", "contact"),
        ("Yes.", "length"),
        (" ".join(["word"] * 60) + ".", "length"),
        ("", "length"),
        ("Sure! Here is the rewritten reply: 'You sound cross'", "no plain sentence"),
        ("Das klingt ärgerlich. Was ist passiert?", "no plain sentence"),
    ],
)
def test_an_answer_that_breaks_a_rule_leaves_the_reply_as_it_was(
    endpoint: Endpoint, tmp_path: Path, answer: str, why: str
) -> None:
    text = "You sound fed up. What happened?"
    assert fault(text, answer) == why
    endpoint.answer = lambda _: said(answer)
    found = rewrite(dialogues(text), Chat(endpoint.url, "small"), tmp_path)
    assert texts(found) == [text]
    assert found.notes == (f"1 of 1 distinct replies not rewritten: what small answered broke a rule, see {FILE}",)
    assert json.loads((tmp_path / FILE).read_text())["why"] == why
    rewrite(dialogues(text), Chat(endpoint.url, "small"), tmp_path)
    assert len(endpoint.requests) == 1, "nor is it asked for again"


def test_quotation_marks_and_line_breaks_are_taken_off(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.answer = lambda _: said("“You sound cross.\n\nWhat’s wrong?”\n")
    found = rewrite(dialogues("You sound fed up. What happened?"), Chat(endpoint.url, "small"), tmp_path)
    assert texts(found) == ["You sound cross. What's wrong?"]


def test_a_busy_endpoint_is_asked_again(endpoint: Endpoint) -> None:
    status = iter([503, 429])
    endpoint.answer = lambda _: said(GOOD) if (now := next(status, 200)) == 200 else (now, {"Retry-After": "0"}, "busy")
    assert Chat(endpoint.url, "small", wait=9.0).ask([{"role": "user", "content": "Hi"}]) == GOOD
    assert len(endpoint.requests) == 3
    endpoint.answer = lambda _: (500, {}, "broken\nfor good")
    with pytest.raises(ChatError, match="refused with status 500: broken for good"):
        Chat(endpoint.url, "small", wait=0.0).ask([])
    assert len(endpoint.requests) == 7


def test_an_endpoint_that_is_not_there_or_is_something_else(endpoint: Endpoint) -> None:
    endpoint.answer = lambda _: (200, {}, "<html>Welcome")
    with pytest.raises(ChatError, match="not an answer of a chat completion: <html>"):
        Chat(endpoint.url, "small").ask([])
    # A redirect would carry the key elsewhere.
    endpoint.answer = lambda _: (302, {"Location": endpoint.url}, "moved")
    with pytest.raises(ChatError, match="refused with status 302"):
        Chat(endpoint.url, "small", "k3y").ask([])
    assert len(endpoint.requests) == 2
    hang = threading.Event()
    endpoint.answer = lambda _: (hang.wait(9) and said(GOOD)) or said(GOOD)
    with pytest.raises(ChatError, match="timed out: check the address"):
        Chat(endpoint.url, "small", timeout=0.05, wait=0.0).ask([])
    hang.set()
    with pytest.raises(ChatError, match="refused: check the address"):
        Chat("http://127.0.0.1:9/v1", "small", wait=0.0).ask([])
    for wrong in ("127.0.0.1:8080", "ftp://x", "http://", "http://x:y/v1", "http://x/v1?key=1", "http://x/\n"):
        with pytest.raises(ChatError, match="is no address of a language model: use one as http"):
            Chat(wrong, "small")
    with pytest.raises(ChatError, match="the key holds characters"):
        Chat(endpoint.url, "small", "k\r\nX: y")


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All actors in two tones, and both sentences; noise in place of voices."""
    folder = tmp_path_factory.mktemp("ravdess")
    draw = np.random.default_rng(0)
    for actor in range(1, 25):
        for code in (3, 4, 5):
            for sentence in (1, 2):
                name = f"03-01-{code:02}-01-{sentence:02}-01-{actor:02}.wav"
                soundfile.write(folder / name, 0.1 * draw.standard_normal(800), 16_000)
    return folder


def test_the_command(endpoint: Endpoint, ravdess: Path, tmp_path: Path) -> None:
    def run(*options: str, key: str | None = None) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "e2v_port", "dialogue", "prepare", "--corpus", f"ravdess={ravdess}"]
        environment = {**os.environ} | ({"E2V_REWRITER_KEY": key} if key else {})
        return subprocess.run(
            [*command, "--out", str(tmp_path / "out"), *options],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
        )

    done = run("--rewriter", endpoint.url)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --rewriter and --rewriter-model go together: pass both, or neither\n",
    )
    done = run("--rewriter", endpoint.url, "--rewriter-model", "small", key="k3y")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert {row["assistant_reply"] for row in rows} == {GOOD}
    assert {request["headers"]["Authorization"] for request in endpoint.requests} == {"Bearer k3y"}
    assert len(endpoint.asked) == len({*endpoint.asked})
    assert "The language model `small` rewrote them" in (tmp_path / "out" / "datasheet.md").read_text()


# What was said before a remark must not give its tone away.


def test_context_and_tone_are_independent(ravdess: Path, tmp_path: Path) -> None:
    found = prepare([read(f"ravdess={ravdess}")])
    write(found, tmp_path)
    rows = [json.loads(line) for part in SPLITS for line in (tmp_path / f"{part}.jsonl").read_text().splitlines()]
    assert len(rows) == 24 * 2 * 3
    contexted = Counter((json.dumps(row["context"]), row["emotion_label"]) for row in rows)
    for context, _ in contexted:
        assert len({contexted[context, label] for label in ("happy", "sad", "angry")}) == 1, "all tones alike"
    share = sum(bool(row["context"]) for row in rows) / len(rows)
    assert 0.2 < share < 0.5
    assert f"In {round(share * len(rows))} of {len(rows)} rows" in (tmp_path / "datasheet.md").read_text()
    for row in rows:  # the reply is that of a row without context
        name = f"{row['speaker']}/{Path(row['audio_path']).name}"
        topic = {"Kids": "the kids by the door", "Dogs": "the dogs by the door"}[row["transcript"][:4]]
        assert row["assistant_reply"] == reply(row["emotion_label"], row["intensity"], topic, name)


def test_contexts_take_turns_and_hold_no_reply() -> None:
    replied = {
        sentence
        for label in ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
        for i in range(300)
        for sentence in reply(label, "normal", None, str(i)).split(". ")
    }
    for turns in contexts():
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2)
        assert not replied & {turn["content"] for turn in turns}


def test_a_real_language_model_rewrites_replies(endpoint: Endpoint, smollm2: Path, tmp_path: Path) -> None:
    """SmolLM2 at the endpoint, whose answers are checked like those of any other."""
    import torch

    from e2v_port.llm import language

    loaded = language.load(smollm2)

    def answer(request: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        messages = request["body"]["messages"]
        text = loaded.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([loaded.ids(text)])
        found = loaded.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30)
        return said(loaded.text(found[0, ids.shape[1] :].tolist()))

    endpoint.answer = answer
    written = [reply(label, "normal", None, str(i)) for label in ("angry", "happy") for i in range(2)]
    found = texts(rewrite(dialogues(*written), Chat(endpoint.url, "smollm2", timeout=600.0), tmp_path))
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert found == [row["reply"] if row["why"] else row["rewritten"] for row in rows]
    assert found != written, "none of its answers could be used"
    assert all(checked(text).why is None for text in found)

"""Sends odd requests to a running service, and counts the answers by status: `python benchmarks/hostile.py URL`.

No answer may be an internal error, none may take longer than ten seconds, and each refusal is one line of at most 480
characters. A service that asks for a token is not of interest: it refuses everything.
"""

import argparse
import http.client
import json
import random
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage
from websockets.sync.client import connect

LONGEST = 10.0  # seconds of an answer
CLIP = (Path(__file__).parent / "speech" / "calm.flac").read_bytes()
ROUTES = {
    "/v1/analyze": ("granularity", "format", "recorded_at", "speaker", "name", "channel"),
    "/v1/embed": ("granularity", "speaker", "name", "channel"),
    "/v1/models": (),
    "/v1/config/emotion": (),
    "/v1/taxonomy": (),
    "/v1/history": ("from", "to", "speaker", "format", "all"),
    "/v1/history/audit": (),
    "/healthz": (),
    "/readyz": (),
    "/metrics": (),
    "/docs": (),
    "/openapi.json": (),
    "/": (),
    "/page/page.js": (),
    "/v1/stream": (),
}  # fmt: skip
METHODS = {
    "/v1/analyze": ("POST",),
    "/v1/embed": ("POST",),
    "/v1/config/emotion": ("GET", "PUT"),
    "/v1/history": ("GET", "DELETE"),
}
WORDS = (
    "", " ", "\0", "a", "é", "\u202e", "\U0001f600", "=1+1", "null", "true", "other", "oth\u200ber", "-1", "0", "1",
    "nan", "inf", "-inf", "1e308", "1e999", "1e-320", "0x10", "9" * 400, "x" * 199, "x" * 201, "x" * 256, "x" * 5000,
    "{}", "[]", "[[", "%", "%ff",
    "../../etc/passwd", "' OR 1=1 --", "\r\nX: y", "segment", "clip", "frame", "utterance", "json", "csv", "vtt", "srt",
    "textgrid", "audacity", "rttm", "jsonl", "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "1969-12-31T23:59:59Z", "1e10",
    "-62135596801", "253402300800",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 0.5, 1.5, 2, 1e9, 1e300, -1e300, 5e-324, 10**400, 16000, 8000, 48000, 192001,
    float("nan"), float("inf"),
    [], {}, [[]], {"a": 1}, "", "ann", "other", "\ud800", "s16le", "f32le", "mulaw", "x" * 5000,
)  # fmt: skip
TRANSCRIPTS = (
    "SPEAKER f 1 {} {} <NA> <NA> ann <NA> <NA>\n",
    "1\n00:00:{},000 --> 00:00:{},000\nhello\n",
    "WEBVTT\n\n00:{}.000 --> 00:{}.000\n<v ann>hello\n",
    "start,end,speaker\n{},{},ann\n",
    '{{"segments": [{{"start": {}, "end": {}}}]}}',
    '[{{"start": {}, "end": {}, "speaker": "ann"}}]',
    "{}\t{}\n",
)
HEADERS = (
    "Host",
    "Origin",
    "Authorization",
    "Content-Type",
    "Sec-Fetch-Site",
    "User-Agent",
    "Accept",
    "Range",
    "Cookie",
)


class Hostile:
    """Makes the requests, the same ones for the same seed."""

    def __init__(self, url: str, seed: int) -> None:
        self.at = urlsplit(url)
        self.random = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []

    def word(self) -> str:
        """Returns an odd text, one in eight of random characters."""
        if self.random.random() > 1 / 8:
            return self.random.choice(WORDS)
        return "".join(chr(self.random.choice((self.random.randrange(128), 0x20AC, 0x1F600))) for _ in range(20))

    def query(self, path: str) -> str:
        """Returns a query of up to three parameters, some of them known to the route."""
        known = ROUTES[path]
        pairs = []
        for _ in range(self.random.randrange(4)):
            name = self.random.choice(known) if known and self.random.random() < 0.9 else self.word()
            pairs.append(f"{quote(name)}={quote(self.word()) if self.random.random() < 0.9 else self.word()[:50]}")
        text = "&".join(pairs)
        return "".join(char if 32 < ord(char) < 127 else "%FF" for char in text)

    def value(self, depth: int = 0) -> Any:
        """Returns an odd value for JSON."""
        if depth < 3 and self.random.random() < 0.3:
            names = (
                "start",
                "end",
                "speaker",
                "text",
                "segments",
                "channel",
                "enabled",
                "words",
                "chunks",
                "timestamp",
            )
            made = {self.random.choice(names): self.value(depth + 1) for _ in range(self.random.randrange(5))}
            return made if self.random.random() < 0.5 else [made, self.value(depth + 1)]
        return self.random.choice(VALUES)

    def segments(self) -> bytes:
        """Returns odd segments, as JSON or in another format."""
        pick = self.random.random()
        if pick < 0.4:
            rows = [{"start": self.value(3), "end": self.value(3), "speaker": self.value(3)} for _ in range(2)]
            return json.dumps(rows if pick < 0.3 else self.value()).encode("utf-8", "surrogatepass")
        if pick < 0.9:
            return self.random.choice(TRANSCRIPTS).format(self.word(), self.word()).encode("utf-8", "surrogatepass")
        return self.random.randbytes(self.random.randrange(300))

    def audio(self) -> bytes:
        """Returns a clip that is right, damaged, or none."""
        pick = self.random.random()
        if pick < 0.4:
            return CLIP
        if pick < 0.7:
            data = bytearray(CLIP[: self.random.randrange(len(CLIP))])
            for _ in range(20):
                if data:
                    data[self.random.randrange(len(data))] = self.random.randrange(256)
            return bytes(data)
        rate, channels = self.random.choice((0, 1, 8000, 16000, 2**32 - 1)), self.random.choice((0, 1, 2, 65535))
        head = struct.pack(
            "<4sI4s4sIHHIIHH4sI", b"RIFF", 2**32 - 1, b"WAVE", b"fmt ", 16, 1, channels, rate, 0, 2, 16, b"data", 9999
        )
        return self.random.choice((b"", b"\0", head + self.random.randbytes(500), self.random.randbytes(999)))

    def body(self, path: str) -> tuple[bytes, str | None]:
        """Returns a body and its type."""
        pick = self.random.random()
        if "analyze" in path or "embed" in path:
            if pick < 0.4:
                return self.audio(), None
            edge = b"--b\r\nContent-Disposition: form-data; name="
            file = edge + b'"file"; filename="%s"\r\n\r\n' % self.word().encode("utf-8", "replace")[:300] + self.audio()
            form = file + b"\r\n" + edge + b'"segments"\r\n\r\n' + self.segments() + b"\r\n--b--\r\n"
            return form if pick < 0.9 else form[: self.random.randrange(len(form))], "multipart/form-data; boundary=b"
        if pick < 0.5:
            return json.dumps({"enabled": self.value()}).encode("utf-8", "surrogatepass"), "application/json"
        return self.random.choice(
            (b"", b"{", b"[" * 9999, b"\xff", json.dumps(self.value()).encode())
        ), "application/json"

    def request(self) -> None:
        """Sends one request and judges the answer."""
        path = self.random.choice([*ROUTES, *METHODS, *METHODS])
        method = self.random.choice(METHODS.get(path, ("GET",)))
        if self.random.random() < 0.1:
            method = self.random.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "NONSENSE"))
        target = f"{path}?{self.query(path)}" if self.random.random() < 0.7 else path
        body, kind = self.body(path) if method in {"POST", "PUT", "PATCH"} else (b"", None)
        headers = {"Content-Type": kind} if kind else {}
        if self.random.random() < 0.3:
            text = "".join(char for char in self.word()[:2000] if char not in "\r\n\0")
            headers[self.random.choice(HEADERS)] = text.encode("utf-8", "replace").decode("latin-1")
        self.judge(f"{method} {target[:200]} {headers}", lambda: self.answer(method, target, body, headers))

    def answer(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> tuple[str, bytes]:
        """Returns the status and the body of an answer."""
        connection = http.client.HTTPConnection(str(self.at.hostname), self.at.port, timeout=LONGEST)
        try:
            connection.putrequest(method, target, skip_host="Host" in headers)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                connection.putheader(name, value.encode("latin-1"))
            connection.endheaders(body)
            response = connection.getresponse()
            found = response.read()
            return str(response.status), b"" if method == "HEAD" else found
        finally:
            connection.close()

    def stream(self) -> None:
        """Opens one stream, sends up to five odd messages, and judges the last answer."""
        names = ("sampling_rate", "format", "channels", "speaker", "channel", "encoding", self.word())
        start = {"type": "start", "sampling_rate": 16000} | {
            self.random.choice(names): self.value(3) for _ in range(self.random.randrange(3))
        }
        messages: list[str | bytes] = [json.dumps(start)] if self.random.random() < 0.9 else []
        for _ in range(self.random.randrange(5)):
            text = json.dumps(self.random.choice(({"type": "end"}, self.value(), {"type": self.value()})))
            messages.append(self.random.choice((self.random.randbytes(3201), self.audio(), bytes(99), text)))
        messages.append('{"type": "end"}')
        shown = [message[:200] for message in messages]
        self.judge(f"WS {shown}", lambda: self.conversation(messages))

    def conversation(self, messages: list[str | bytes]) -> tuple[str, bytes]:
        """Returns a word for the end of a stream, and its last message."""
        last = b""
        try:
            with connect(f"ws://{self.at.netloc}/v1/stream", open_timeout=LONGEST, max_size=None) as socket:
                try:
                    for message in messages:
                        socket.send(message)
                    until = time.monotonic() + LONGEST
                    while True:
                        last = str(socket.recv(timeout=until - time.monotonic())).encode()
                except ConnectionClosed:
                    while True:  # what came before the end
                        last = str(socket.recv(timeout=0)).encode()
        except (ConnectionClosed, InvalidHandshake, InvalidMessage):
            pass
        word = str(json.loads(last)["type"]) if last else "refused"
        internal = word == "error" and json.loads(last)["error"]["kind"] in {"internal", "unavailable"}
        return f"stream {'500' if internal else word}", last if word == "error" else b""

    def judge(self, what: str, ask: Any) -> None:
        """Counts an answer, and notes it if it is wrong."""
        try:
            status, body = ask()
        except TimeoutError:
            status, body = "hang", b""
        except (OSError, http.client.HTTPException) as error:
            status, body = f"closed ({type(error).__name__})", b""
        self.counts[status] += 1
        if status == "hang" or status.removeprefix("stream ")[:1] == "5":
            self.wrong.append(f"{status}: {what} {body[:300]!r}")
        elif status.removeprefix("stream ")[:1] in {"4", "e"} and body:
            try:
                message = json.loads(body)["error"]["message"]
            except (ValueError, LookupError, TypeError):  # of the HTTP server itself, about what is no HTTP
                message = body.decode(errors="replace")
            if not message or len(message) > 480 or not message.isprintable():
                self.wrong.append(f"{status}: {what} {body[:300]!r}")


def main() -> None:
    """Sends the requests, prints the counts and what was wrong, and exits with 1 if anything was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    hostile = Hostile(given.url, given.seed)
    for _ in range(given.requests):
        hostile.request()
    for _ in range(given.streams):
        hostile.stream()
    for status, count in sorted(hostile.counts.items()):
        print(f"{status:24} {count}")
    print("\n".join(hostile.wrong))
    raise SystemExit(bool(hostile.wrong))


if __name__ == "__main__":
    main()

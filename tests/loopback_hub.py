"""A hub on 127.0.0.1 that speaks enough of both protocols for their real clients, and fails on request."""

import hashlib
import json
import select
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Fault:
    """A fault of the requests of one step.

    Attributes:
        status: Answer with this status and no content.
        code: X-Error-Code of that answer.
        retry_after: Retry-After of that answer.
        cut: Announce the whole file, send this many bytes of it, hang up.
        instead: Send these bytes, as many as the file has.
        silent: Answer nothing until the client gives up.
        times: Number of requests it applies to; all by default.
    """

    status: int = 0
    code: str = ""
    retry_after: str = ""
    cut: int | None = None
    instead: bytes | None = None
    silent: bool = False
    times: int = 10**9


@dataclass
class LoopbackHub:
    """Serves repositories ({name: {path: content}}) as ModelScope and as Hugging Face until it is left.

    A request's step is "listing" or the path of the file it is for; `faults` maps steps to their faults and `requests`
    counts them. With `ranges` off, an interrupted transfer cannot be resumed. If `moved_to` is given, files belong to
    that commit instead of `commit`.
    """

    repositories: dict[str, dict[str, bytes]]
    commit: str = "c0ffee" + "0" * 34
    moved_to: str = ""
    branches: tuple[str, ...] = ("main", "master")
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    tokens: set[str] = field(default_factory=set)
    ranges: bool = True

    def __enter__(self) -> "LoopbackHub":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 20

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # a client that gives up mid-transfer is part of the tests

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        url = urlsplit(self.path)
        parts = [unquote(part) for part in url.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        match parts:
            case ["api", "models", owner, name, "revision", revision]:
                self._listing(f"{owner}/{name}", revision, self._huggingface_files)
            case [owner, name, "resolve", revision, *path]:
                self._file(f"{owner}/{name}", revision, "/".join(path))
            case ["api", "v1", "models", owner, name, "repo", "files"]:
                self._listing(f"{owner}/{name}", query["Revision"], self._modelscope_files)
            case ["api", "v1", "models", owner, name, "repo"]:
                self._file(f"{owner}/{name}", query["Revision"], query["FilePath"])
            case _:  # among others the probe for a faster route inside ModelScope's own cloud
                self._answer(404)

    def _listing(self, repository: str, revision: str, describe: Any) -> None:
        fault = self._fault("listing")
        if fault.status:
            self._answer(fault.status, code=fault.code, retry_after=fault.retry_after)
        elif repository not in self.hub.repositories:
            self._answer(404, code="RepoNotFound")
        elif revision not in (*self.hub.branches, self.hub.commit):
            self._answer(404, code="RevisionNotFound")
        else:
            body = json.dumps(describe(repository)).encode()
            self._answer(200, body, kind="application/json")

    def _huggingface_files(self, repository: str) -> dict[str, Any]:
        # Large files are in LFS, which is where their hashes come from; small ones have none.
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            | ({"lfs": {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}} if _lfs(path) else {})
            for path, content in self.hub.repositories[repository].items()
        ]
        names = {"id": repository, "modelId": repository, "sha": self.hub.commit}
        return {**names, "private": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings}

    def _modelscope_files(self, repository: str) -> dict[str, Any]:
        files = [
            {"Path": path, "Name": path, "Type": "blob", "Size": len(content), "Sha256": _sha256(content)}
            for path, content in self.hub.repositories[repository].items()
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": files}}

    def _file(self, repository: str, revision: str, path: str) -> None:
        content = self.hub.repositories.get(repository, {}).get(path)
        # Faults are in the transfer: Hugging Face's client sends a HEAD before it.
        fault = Fault() if self.command == "HEAD" else self._fault(path)
        if fault.status:
            self._answer(fault.status, code=fault.code, retry_after=fault.retry_after)
        elif content is None:
            self._answer(404, code="EntryNotFound")
        else:
            start = 0
            requested = self.headers.get("Range", "")
            if self.hub.ranges and requested.startswith("bytes="):
                start = int(requested.removeprefix("bytes=").split("-")[0])
            self._answer(
                206 if start else 200,
                fault.instead or content,
                start=start,
                cut=fault.cut,
                etag=_sha256(content) if _lfs(path) else hashlib.sha1(content).hexdigest(),
            )

    def _fault(self, step: str) -> Fault:
        self.hub.requests[step] += 1
        fault = self.hub.faults.get(step)
        if fault is None or fault.times <= 0:
            return Fault()
        fault.times -= 1
        if fault.silent:
            select.select([self.connection], [], [], self.timeout)  # readable once the client has closed it
        return fault

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        kind: str = "application/octet-stream",
        start: int = 0,
        cut: int | None = None,
        etag: str = "",
        code: str = "",
        retry_after: str = "",
    ) -> None:
        self.send_response(status)
        sent = body[start:]
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(sent)),
            "X-Repo-Commit": self.hub.moved_to or self.hub.commit,
            "ETag": etag and f'"{etag}"',
            "Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}" if status == 206 else "",
            "X-Error-Code": code,
            "Retry-After": retry_after,
        }
        for key, value in headers.items():
            if value:
                self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(sent[:cut])
        if cut is not None and cut < len(sent):
            self.wfile.flush()
            self.close_connection = True


def _lfs(path: str) -> bool:
    return path.endswith(".pt")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

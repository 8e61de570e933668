"""Starts the service in its own process, as a user does."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx


class Served:
    """A running `e2v serve` on a free port of this machine."""

    def __init__(self, *options: str, **settings: Any) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("E2V_SERVE_")}
        environment |= {f"E2V_SERVE_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= {"E2V_LICENCE": "accepted", "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--runtime", "cpu", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.lines: list[str] = []  # of the log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = self.process.stdout.readline()
        if not ready.startswith("e2v serve: ready at http://"):
            self.stop()
            raise AssertionError(f"not ready: {ready!r}, {self.lines}")
        self.url = ready.rpartition(" ")[2].strip()
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        """Stops it as systemd would, and returns the exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(120)
        finally:
            self.process.kill()
            self._reader.join(60)
            self.process.stdout.close()
            self.process.stderr.close()
        if hasattr(self, "client"):
            self.client.close()
        return code

    def analyze(self, clip: bytes | Path, **parameters: Any) -> dict[str, Any]:
        """Sends a clip as the body and returns the answer."""
        data = clip.read_bytes() if isinstance(clip, Path) else clip
        answer = self.client.post("/v1/analyze", content=data, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str) -> float:
        """Returns one number of /metrics; 0 if it was never counted. A name may include its labels."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def engine(self) -> int:
        """Returns the pid of the process that holds the models."""
        found = children(self.process.pid)
        engines = [pid for pid in found if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]
        (engine,) = engines
        return engine

    def wait_ready(self, seconds: float = 30) -> None:
        """Waits until the models have been reloaded."""
        until = time.monotonic() + seconds
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, "not ready again"
            time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Returns the child processes of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def matches(found: Any, expected: Any, tolerance: float = 2e-5) -> bool:
    """Returns whether two answers are equal, except for the differences that batching makes in numbers."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(matches(found[key], expected[key], tolerance) for key in expected)
        )
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(
            matches(a, b, tolerance) for a, b in zip(found, expected, strict=True)
        )
    if isinstance(expected, float):
        return isinstance(found, int | float) and abs(found - expected) <= tolerance
    return found == expected


def content(answer: dict[str, Any]) -> dict[str, Any]:
    """Returns what an answer reports about the clip, without the fields of the request."""
    request = {"request_id", "timings", "history", "file"}
    return {name: value for name, value in answer.items() if name not in request}


def expected_content(analysis: Any) -> dict[str, Any]:
    """Returns what the service must report about a clip, given the analysis by the library."""
    return content(analysis.to_dict() | {"emotion_enabled": True})

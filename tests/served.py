"""The service in its own process, as a user starts it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

SEGMENT_FIELDS = ("start", "end", "quality", "speaker", "text")


class Served:
    """`e2v serve` on a free port of this machine, from its first line to its end."""

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
        """Ends it as systemd would, and returns its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(40)
        finally:
            self.process.kill()
            self._reader.join(10)
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
        """One number of /metrics, without labels or with these in its name; 0 where it was never counted."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def engine(self) -> int:
        """The pid of the process that holds the models."""
        found = children(self.process.pid)
        engines = [pid for pid in found if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")]
        (engine,) = engines
        return engine

    def wait_ready(self, seconds: float = 30) -> None:
        """Waits until the models are loaded again."""
        until = time.monotonic() + seconds
        while self.client.get("/readyz").status_code != 200:
            assert time.monotonic() < until, "not ready again"
            time.sleep(0.1)


def children(pid: int) -> list[int]:
    """Processes that any of its threads has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def close(found: Any, wanted: Any, tolerance: float = 2e-5) -> bool:
    """Whether two answers say the same: numbers may differ by what a batch changes."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(close(found[k], wanted[k], tolerance) for k in wanted)
        )
    if isinstance(wanted, list | tuple):
        return len(found) == len(wanted) and all(close(a, b, tolerance) for a, b in zip(found, wanted, strict=True))
    if isinstance(wanted, float):
        return isinstance(found, int | float) and abs(found - wanted) <= tolerance
    return found == wanted


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """What an answer says of the clip, without what is of the request."""
    own = {"request_id", "timings", "history", "file"}
    return {key: value for key, value in answer.items() if key not in own}


def wanted(analysis: Any) -> dict[str, Any]:
    """What the service has to say where the library says this, from its public attributes alone."""
    whole = analysis.to_dict()
    segments = []
    for segment in analysis.segments:
        judgement = segment.judgement
        emotion = None
        if judgement is not None:
            told = judgement.to_dict()
            emotion = {
                name: told[name]
                for name in ("primary", "confidence", "intensity", "compound", "octant", "agreement", "notes")
            }
            emotion |= {"valence": told["valence_level"], "arousal": told["arousal_level"]}
            emotion |= {"e2v_scores": told["scores"], "avd_scores": told["dimensions"]}
            emotion |= {"avd_from": told["dimensions_from"], "distribution": told["distribution"]}
        segments.append({name: getattr(segment, name) for name in SEGMENT_FIELDS} | {"emotion": emotion})
    names = ("duration", "reason", "boundaries", "models", "settings")
    return {
        "emotion_enabled": True,
        "context": analysis.to_context(),
        "segments": segments,
        **{name: whole[name] for name in names},
    }

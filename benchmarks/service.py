"""Measures the service: its overhead over the library, its throughput, its correctness and its memory under load.

    python benchmarks/service.py [--model NAME] [--minutes 5] [--requests 10000]

Starts `e2v serve` on this machine, sends requests over HTTP, compares the responses with `e2v_port.analyze`, and prints
Markdown. The clips are those in benchmarks/speech, alone and joined to longer ones. The clients share the cores with
the service, as they do when it is used on the machine it runs on.
"""

import argparse
import http.client
import io
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import e2v_port
from e2v_port.audio import SAMPLING_RATE, load_audio

SPEECH = Path(__file__).parent / "speech"
TOLERANCE = 2e-5  # of the numbers in a response: batches change the last digits
PAUSE = 2.0  # seconds between joined clips, so that each is a segment
TURNS = 60  # each is a call of the library and a request
CLIENTS = 16
SATURATING = 200  # clients at a time: more than the service accepts


@dataclass
class Clip:
    """A clip and its expected segments."""

    data: bytes
    seconds: float
    segments: list[dict[str, Any]]


@dataclass
class Load:
    """Outcome of the requests of several clients."""

    seconds: list[float] = field(default_factory=list)  # of successful requests
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    lost: int = 0  # connections closed without a response


class Client:
    """A client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Sends a request and returns the status and the body of the response."""
        try:
            self._connection.request(method, path, body)
            answer = self._connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise


def main() -> None:
    """Runs all measurements and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--minutes", type=float, default=5, help="duration of the mixed load at saturation")
    parser.add_argument("--requests", type=int, default=10_000, help="requests between two measurements of memory")
    options = parser.parse_args()
    model = e2v_port.load(options.model, runtime="cpu")
    clips = read(model)
    short = [clip for clip in clips if clip.seconds < 5]
    with served(options.model) as port:
        print("| measured | result | target |\n|---|---|---|")
        print(f"| overhead over the library, one client | {overhead(port, model, short)} | 5 ms median |", flush=True)
        print(f"| throughput, {CLIENTS} clients | {throughput(port, model, short)} | 90 % |", flush=True)
        load = mixed(port, clips, options.minutes)
        print(f"| {options.minutes:g} minutes of mixed load, {SATURATING} clients | {load} | none failed, none wrong |")
        print(f"| {options.requests} requests | {growth(port, short, options.requests)} | 5 % |", flush=True)


def read(model: e2v_port.Model) -> list[Clip]:
    """Reads the clips, joins some, and analyzes each with the library."""
    waveforms = [load_audio(path) for path in sorted(SPEECH.glob("*.flac"))]
    pause = np.zeros(int(PAUSE * SAMPLING_RATE), np.float32)
    joined = [np.concatenate([part for w in waveforms[:n] for part in (w, pause)]) for n in (2, 3, 4)]
    clips = []
    for waveform in [*waveforms, *joined, np.concatenate([joined[-1]] * 4)]:
        file = io.BytesIO()
        soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC")
        analysis = e2v_port.analyze(io.BytesIO(file.getvalue()), model=model)
        clips.append(Clip(file.getvalue(), analysis.duration, [s.to_dict() for s in analysis.segments]))
    return clips


@contextmanager
def served(model: str) -> Iterator[int]:
    """Runs the service for as long as the context lasts, and gives its port."""
    command = [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--runtime", "cpu", "--model", model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.terminate()


def overhead(port: int, model: e2v_port.Model, clips: list[Clip]) -> str:
    """Measures how much longer a request takes than a call of the library, alternating the two."""
    client = Client(port)
    differences: list[float] = []
    calls: list[float] = []
    for turn in range(TURNS + 5):
        clip = clips[turn % len(clips)]
        started = time.perf_counter()
        e2v_port.analyze(io.BytesIO(clip.data), model=model)
        called = time.perf_counter()
        client.ask("POST", "/v1/analyze", clip.data)
        asked = time.perf_counter()
        if turn >= 5:
            calls.append(called - started)
            differences.append((asked - called) - (called - started))
    more, library = (1000 * statistics.median(seconds) for seconds in (differences, calls))
    return f"{more:.1f} ms median (the library: {library:.1f} ms)"


def throughput(port: int, model: e2v_port.Model, clips: list[Clip]) -> str:
    """Compares the library on a list of clips with the service on the same clips from several clients."""
    sent = clips * 60
    shares, rates = [], []
    latencies: list[float] = []
    for _ in range(3):
        started = time.perf_counter()
        e2v_port.analyze([io.BytesIO(clip.data) for clip in sent], model=model)
        library = time.perf_counter() - started
        queue = iter(sent)
        lock = threading.Lock()

        def following(queue: Iterator[Clip] = queue, lock: Any = lock) -> Clip | None:
            with lock:
                return next(queue, None)

        started = time.perf_counter()
        load = run(port, CLIENTS, following)
        service = time.perf_counter() - started
        assert load.statuses == {200: len(sent)}, load.statuses
        shares.append(library / service)
        rates.append(len(sent) / service)
        latencies += load.seconds
    share, rate = statistics.median(shares), statistics.median(rates)
    return f"{100 * share:.0f} % of the library's on a list ({rate:.0f} requests/s; {percentiles(latencies)})"


def mixed(port: int, clips: list[Clip], minutes: float) -> str:
    """Sends more requests than the service can answer, and checks every response."""
    until = time.monotonic() + 60 * minutes
    turn = iter(range(1 << 62))

    def following() -> Clip | None:
        return clips[next(turn) % len(clips)] if time.monotonic() < until else None

    load = run(port, SATURATING, following)
    total = sum(load.statuses.values()) + load.lost
    failed = total - load.statuses[200] - load.statuses[503]
    share = 100 * load.statuses[503] / total
    return (
        f"{total} requests, {failed} failed, {load.wrong} wrong; {share:.1f} % refused with 503; "
        f"{percentiles(load.seconds)}"
    )


def growth(port: int, clips: list[Clip], requests: int) -> str:
    """Measures the growth of both processes."""
    run(port, CLIENTS, countdown(clips, 1000))  # threads and allocators have their memory after these
    before = resident(port)
    run(port, CLIENTS, countdown(clips, requests))
    after = resident(port)
    return ", ".join(
        f"{100 * (after[name] / before[name] - 1):+.1f} % of {before[name] / 1e6:.0f} MB ({name})" for name in after
    )


def countdown(clips: list[Clip], requests: int) -> Callable[[], Clip | None]:
    """Returns a function that gives the clips in turn, `requests` of them."""
    numbers = iter(range(requests))
    lock = threading.Lock()

    def following() -> Clip | None:
        with lock:
            number = next(numbers, None)
        return None if number is None else clips[number % len(clips)]

    return following


def run(port: int, clients: int, following: Callable[[], Clip | None]) -> Load:
    """Lets clients send clips until there are no more."""
    load = Load()
    lock = threading.Lock()

    def ask() -> None:
        client = Client(port)
        while clip := following():
            started = time.perf_counter()
            try:
                status, body = client.ask("POST", "/v1/analyze", clip.data)
            except (OSError, http.client.HTTPException):
                with lock:
                    load.lost += 1
                continue
            seconds = time.perf_counter() - started
            right = status != 200 or close(json.loads(body)["segments"], clip.segments)
            with lock:
                load.statuses[status] += 1
                load.wrong += not right
                if status == 200:
                    load.seconds.append(seconds)
            if status == 503:
                time.sleep(1)  # as in Retry-After

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def close(found: Any, wanted: Any) -> bool:
    """Returns whether two answers are equal within the tolerance."""
    if isinstance(wanted, dict):
        return bool(found.keys() == wanted.keys()) and all(close(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(close, found, wanted))
    if isinstance(wanted, float):
        return bool(abs(found - wanted) <= TOLERANCE)
    return bool(found == wanted)


def percentiles(seconds: list[float]) -> str:
    """Returns the median and the 99th percentile in words."""
    cuts = statistics.quantiles(seconds, n=100)
    return f"p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms"


def resident(port: int) -> dict[str, float]:
    """Returns the memory of each process in bytes, from /metrics."""
    text = Client(port).ask("GET", "/metrics")[1].decode()
    rows = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(rows[f"e2v_{name}_resident_bytes"]) for name in ("front", "engine")}


if __name__ == "__main__":
    main()

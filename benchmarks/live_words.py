"""Measures how long after the end of speech its emotion and its words are there: `e2v listen`, and a stream.

    python benchmarks/live_words.py MODEL [--model NAME] [--seconds 90]

MODEL is what `--words` takes, such as tiny.en or its folder. English recordings in ../shared/audio or $E2V_TEST_AUDIO,
two seconds apart, are played at their own pace. Prints Markdown; the load of the machine is part of the result.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from websockets.sync.client import connect

import e2v_port
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.transcribe.load import load

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
ENGLISH = (
    "jfk.flac",
    "librivox_idle_hour_john_clare.flac",
    "librispeech_198-209-0000.flac",
    "librispeech_3436-172162-0000.flac",
)
PAUSE = np.zeros(2 * SAMPLING_RATE, np.float32)
BLOCK = 800  # samples: 50 ms
LENGTHS = 2, 5, 10  # seconds of a segment
WHAT = {"window": "windows", "pending": "segments", "done": "their words"}

Delays = dict[str, list[float]]


def main() -> None:
    """Prints a table: delays of windows, of segments and of their words, with and without reading."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", metavar="MODEL", help="recognizer, as for --words")
    parser.add_argument("--model", default="bundled", help="model of emotions")
    parser.add_argument("--seconds", type=float, default=90, help="length of the sound")
    options = parser.parse_args()
    clips = [load_audio(AUDIO / name) for name in ENGLISH if (AUDIO / name).exists()]
    sound = np.concatenate([part for clip in clips for part in (clip, PAUSE)])
    sound = np.resize(sound, int(options.seconds * SAMPLING_RATE))
    before = os.getloadavg()[0]
    print(f"{len(sound) / SAMPLING_RATE:.0f} s at their own pace, {os.cpu_count()} cores, words of {options.words}")
    print("\n| program | result | number | median s | 95 % | worst | from the end of |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sound.wav"
        soundfile.write(file, np.concatenate([sound, PAUSE]), SAMPLING_RATE)
        report("e2v listen, no words", listened(file, options.model, None))
        report("e2v listen", listened(file, options.model, options.words))
    report("the service", streamed(np.concatenate([sound, PAUSE]), options.model, options.words))
    print("\n| processor seconds for a segment of | its emotion | its words |\n|---|---|---|")
    for seconds in LENGTHS:
        cells = " | ".join(f"{spent:.2f}" for spent in work(clips, seconds, options.model, options.words))
        print(f"| {seconds} s | {cells} |", flush=True)
    print(f"\nLoad of the machine before and after: {before:.1f}, {os.getloadavg()[0]:.1f}")


def work(clips: Sequence[Waveform], seconds: int, model: str, words: str) -> list[float]:
    """Returns the processor time of judging and of reading a segment, whatever else the machine does meanwhile."""
    judge, reader = e2v_port.load(model), load(words)
    parts = [clip[SAMPLING_RATE : (seconds + 1) * SAMPLING_RATE] for clip in clips]
    works: list[Callable[[Waveform], object]] = [
        lambda part: judge.predict(part, SAMPLING_RATE),
        lambda part: reader.read(part, [(0.0, len(part) / SAMPLING_RATE)]),
    ]
    found = []
    for do in works:
        do(parts[0])
        began = time.process_time()
        for part in parts:
            do(part)
        found.append((time.process_time() - began) / len(parts))
    return found


def report(program: str, delays: Delays) -> None:
    """Prints the rows of a program."""
    for kind, name in WHAT.items():
        if found := delays.get(kind):
            cells = " | ".join(f"{value:.2f}" for value in np.quantile(found, [0.5, 0.95, 1]))
            end = "the window" if kind == "window" else "the speech"
            print(f"| {program} | {name} | {len(found)} | {cells} | {end} |", flush=True)


def listened(file: Path, model: str, words: str | None) -> Delays:
    """Returns the latencies that `e2v listen --jsonl` writes."""
    reading = [] if words is None else ["--words", words]
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", "listen", str(file), "--jsonl", "-m", model, *reading],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: Delays = {}
    for line in map(json.loads, done.stdout.splitlines()):
        if line["latency"] is not None:
            kind = "window" if not line["final"] else line.get("reading", "pending")
            found.setdefault(kind, []).append(line["latency"])
    return found


def streamed(sound: Waveform, model: str, words: str) -> Delays:
    """Returns the delays of the messages of a WebSocket to which the sound is sent at its own pace."""
    with subprocess.Popen(
        [sys.executable, "-m", "e2v_port", "serve", "--port", "0", "--model", model, "--words", words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout
        address = process.stdout.readline().rpartition(" ")[2].strip()
        try:
            with connect(f"{address.replace('http', 'ws')}/v1/stream?words=true") as socket:
                return _sent(socket, sound)
        finally:
            process.terminate()


def _sent(socket: Any, sound: Waveform) -> Delays:
    socket.send(json.dumps({"type": "start", "sampling_rate": SAMPLING_RATE, "format": "f32le"}))
    socket.recv()  # ready
    began = time.monotonic()
    ended = threading.Event()

    def send() -> None:
        for at in range(0, len(sound), BLOCK):
            time.sleep(max(0.0, began + (at + BLOCK) / SAMPLING_RATE - time.monotonic()))
            socket.send(sound[at : at + BLOCK].tobytes())
        ended.set()
        socket.send('{"type": "end"}')

    threading.Thread(target=send, daemon=True).start()
    found: Delays = {}
    for message in map(json.loads, socket):
        if message["type"] in {"partial", "final", "words"} and not ended.is_set():
            kind = "window" if message["type"] == "partial" else message["segment"].get("reading", "pending")
            found.setdefault(kind, []).append(time.monotonic() - began - message["segment"]["end"])
    return found


if __name__ == "__main__":
    main()

"""Measures a speech language model in use: time to its first token, tokens per second, memory, loading.

    python benchmarks/reply.py MODEL [--dtypes float32,int8] [--repeats 7] [--compare FOLDER]

MODEL is a folder of `e2v dialogue train`. The clip lasts 4 s: speech of this repository, repeated. Each dtype runs in a
process of its own, after one answer that loads everything; the table has medians. With --compare, also counts how many
clips of a folder have the same reply in each dtype as in the first.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

CLIP = Path(__file__).resolve().parent / "speech" / "low.flac"
SECONDS = 4
MB = 1e6


def main() -> None:
    """Runs each dtype and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--dtypes", default="float32,int8")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compare", type=Path, help="Folder of clips (WAV or FLAC), at most 50 of which are answered")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a dtype, in a process of its own
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments)))
        return
    found = {}
    for dtype in arguments.dtypes.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", dtype]
        found[dtype] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    weights = arguments.model / "adapter.safetensors"
    load = os.getloadavg()[0]
    print(
        f"{date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores (load {load:.1f}), torch "
        f"{version('torch')}, transformers {version('transformers')}; medians of {arguments.repeats}; "
        f"{weights.name} {weights.stat().st_size / MB:.1f} MB\n\n"
        "| weights | loading | encoding | first token | tokens per second | weights in memory | peak memory | same |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    reference = next(iter(found.values()))["replies"]
    for dtype, row in found.items():
        same = sum(one == other for one, other in zip(row["replies"], reference, strict=True))
        print(
            f"| {dtype} | {row['load']:.1f} s | {row['encoding']:.2f} s | {row['first']:.2f} s | {row['rate']:.1f} | "
            f"{row['memory'] / MB:.0f} MB | {row['peak'] / MB:.0f} MB | "
            f"{f'{same} of {len(reference)}' if reference else '-'} |"
        )


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures one dtype in this process."""
    from e2v_port import SpeechLM
    from e2v_port.audio import SAMPLING_RATE, load_audio
    from e2v_port.processes import peak_memory

    waveform = np.resize(load_audio(CLIP), SECONDS * SAMPLING_RATE)
    with SpeechLM.load(arguments.model, dtype=arguments.one, offline=True) as model:
        model(waveform, SAMPLING_RATE)
        runs = []
        for _ in range(arguments.repeats):
            speaking = model.stream(waveform, SAMPLING_RATE, max_new_tokens=40)
            for _ in speaking:
                pass
            seconds = speaking.reply.seconds
            first = seconds["first_token"]
            runs.append((seconds["encoding"], first, (speaking.tokens - 1) / (seconds["total"] - first)))
        found = sorted(arguments.compare.rglob("*.*")) if arguments.compare else []
        clips = [file for file in found if file.suffix in {".wav", ".flac"}][:: max(1, len(found) // 50)][:50]
        encoding, first, rate = (median(values) for values in zip(*runs, strict=True))
        return {
            "load": model.load_seconds,
            "encoding": encoding,
            "first": first,
            "rate": rate,
            "memory": model.info()["memory_bytes"],
            "peak": peak_memory(),
            "replies": [model(clip).text for clip in clips],
        }


if __name__ == "__main__":
    main()

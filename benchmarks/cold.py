"""Measures cold starts: from the start of a process to its answer on one short clip, and its peak memory.

    python benchmarks/cold.py [--python PYTHON] [--repeats 9]

All run in turn, each in a process of its own, after one run that fills the caches; the table has medians. Models are
`bundled` and a toy of emotion2vec with random weights, so that starting is what takes the time; FunASR runs the
checkpoint that the toy was converted from. `--python` names the Python of an environment with `pip install .` alone for
the rows of numpy: other packages in an environment make its start slower.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median

CLIP = Path(__file__).resolve().parent / "speech" / "bright.flac"
MB = 1e6

# These run in processes of their own, as does everything else: the peak memory of a process counts that of its parent.
TOY = """
import sys
from dataclasses import replace
from pathlib import Path
from e2v_port.converters import emotion2vec
small = {"embed_dim": 48, "num_heads": 6, "num_alibi_heads": 6, "depth": 2, "prenet_depth": 1, "ffn_dim": 96}
toy = replace(emotion2vec.BASE, **small, conv_layers=tuple((16, *rest) for _, *rest in emotion2vec.BASE.conv_layers))
emotion2vec.make(toy, Path(sys.argv[1]))
"""
FUNASR = "from e2v_port.parity.emotion2vec import PROGRAM; print(PROGRAM)"


def main() -> None:
    """Runs all contenders and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default=sys.executable, help="Python with e2v-port alone, for the rows of numpy")
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    python = os.path.abspath(arguments.python)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as work:  # /tmp may be memory
        os.chdir(work)  # `python -m` would import the folder e2v_port of a checkout
        checkpoint, toy = Path(work, "checkpoint"), Path(work, "toy")
        measure([sys.executable, "-c", TOY, str(checkpoint)])
        measure([sys.executable, "-m", "e2v_port", "convert", "--model", str(checkpoint), "--out", str(toy)])
        funasr = subprocess.run([sys.executable, "-c", FUNASR], check=True, capture_output=True, text=True).stdout
        contenders = {
            "python -c pass": [python, "-c", "pass"],
            "import numpy": [python, "-c", "import numpy"],
            "import torch": [sys.executable, "-c", "import torch"],
            "e2v analyze, bundled, numpy": analyze(python, "bundled", "numpy"),
            "e2v analyze, bundled, torch": analyze(sys.executable, "bundled", "cpu"),
            "e2v analyze, toy, numpy": analyze(python, str(toy), "numpy"),
            "e2v analyze, toy, torch": analyze(sys.executable, str(toy), "cpu"),
            "FunASR, toy": [sys.executable, "-c", funasr, str(checkpoint), "cpu", str(CLIP)],
        }
        for command in contenders.values():
            measure(command)
        runs: dict[str, list[tuple[float, int]]] = {name: [] for name in contenders}
        for _ in range(arguments.repeats):
            for name, command in contenders.items():
                runs[name].append(measure(command))
    print(
        f"{date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, numpy {version('numpy')}, torch {version('torch')}, funasr {version('funasr')}; "
        f"medians of {arguments.repeats}\n\n| process | seconds | peak memory |\n|---|---|---|"
    )
    for name, found in runs.items():
        seconds, peaks = zip(*found, strict=True)
        print(f"| {name} | {median(seconds):.2f} | {median(peaks) / MB:.0f} MB |")


def analyze(python: str, model: str, runtime: str) -> list[str]:
    """Returns the command that analyzes the clip."""
    return [python, "-m", "e2v_port", "analyze", "--model", model, "--runtime", runtime, "--offline", str(CLIP)]


def measure(command: list[str]) -> tuple[float, int]:
    """Runs a command and returns its seconds and its peak resident memory in bytes."""
    start = time.perf_counter()
    environment = {**os.environ, "E2V_LICENCE": "accepted"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stderr is not None
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"error: {' '.join(command[:4])} failed: {said.decode(errors='replace')[-300:]}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()

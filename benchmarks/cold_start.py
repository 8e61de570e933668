"""Times `e2v analyze` on one clip in a fresh process, beside the same answer through FunASR.

    python benchmarks/cold_start.py [--runs 5] [--clip FILE]

First with the model in the package, as a new user would: speech found, each stretch judged. Then with the base model
(random weights, made by `make demo` or here), and through FunASR: both start Python, load it and classify the clip on
the CPU. Their answers are compared, so that both have done the same job.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

BUNDLED, OURS, THEIRS = "`e2v analyze`, bundled", "`e2v analyze --whole`, base", "FunASR `generate`, base"
ANALYZE = ["-m", "e2v_port", "analyze", "--json", "--runtime", "cpu"]
FUNASR = """if True:
    import sys
    from funasr import AutoModel
    model = AutoModel(model=sys.argv[1], disable_update=True, disable_pbar=True, log_level="ERROR", device="cpu")
    answer, = model.generate(sys.argv[2], granularity="utterance", extract_embedding=False)
    import json
    print(json.dumps({"labels": answer["labels"], "scores": answer["scores"]}))"""
IMPORT = "import time; start = time.perf_counter(); import e2v_port; print(time.perf_counter() - start)"


def main() -> None:
    """Runs all of them in turn and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--clip", type=Path, default=ROOT / "benchmarks" / "speech" / "calm.flac")
    arguments = parser.parse_args()
    clip = arguments.clip.resolve()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, model = models(Path(folder))
        commands = {
            BUNDLED: [*ANALYZE, str(clip)],
            OURS: [*ANALYZE, "--whole", "--model", model, str(clip)],
            THEIRS: ["-c", FUNASR, checkpoint, str(clip)],
        }
        outputs: dict[str, str] = {}
        seconds: dict[str, list[float]] = {what: [] for what in commands}
        for i in range(arguments.runs + 1):
            for what, command in commands.items():
                took, outputs[what] = run(command)
                if i:  # the first fills the system's caches, and Python's
                    seconds[what].append(took)
    imports = statistics.median(float(run(["-c", IMPORT])[1]) for _ in range(arguments.runs))
    ours, theirs = (statistics.median(seconds[what]) for what in (OURS, THEIRS))

    print(f"{date.today()}, {machine()}, clip {clip.name}, medians of {arguments.runs} fresh processes in turn\n")
    print("| command | median | fastest | slowest |\n|---|---|---|---|")
    for what, times in seconds.items():
        print(f"| {what} | {statistics.median(times):.2f} s | {min(times):.2f} s | {max(times):.2f} s |")
    print(f"| `import e2v_port` | {imports:.3f} s | | |")
    print(f"\nOn base, e2v is {theirs / ours:.1f} times as fast; {agreement(outputs[OURS], outputs[THEIRS])}.")


def models(folder: Path) -> tuple[str, str]:
    """Returns a checkpoint and its converted model: those of the demo if it has run, else new ones."""
    if (ROOT / "demo" / "model").is_dir():
        return str(ROOT / "demo" / "checkpoint"), str(ROOT / "demo" / "model")
    checkpoint, model = str(folder / "checkpoint"), str(folder / "model")
    run(["-m", "e2v_port.converters.synthetic", "--size", "base", checkpoint])
    run(["-m", "e2v_port", "convert", "--model", checkpoint, "--out", model])
    return checkpoint, model


def run(arguments: list[str]) -> tuple[float, str]:
    """Runs Python and returns how long it took and what it printed."""
    # Compiled modules are kept between runs, as for anyone who has run a program before.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{done.stderr}\nerror: {arguments[:3]} failed")
    return took, done.stdout


def agreement(ours: str, theirs: str) -> str:
    """Returns by how much the scores differ.

    FunASR prints lines of its own, and names its labels in Chinese and English.
    """
    scores: dict[str, float] = json.loads(ours)["scores"]
    answer: dict[str, Any] = json.loads(theirs.splitlines()[-1])
    other = {label.split("/")[-1].strip("<>"): score for label, score in zip(*answer.values(), strict=True)}
    other["unknown"] = other.pop("unk")
    if scores.keys() != other.keys() or max(scores, key=scores.__getitem__) != max(other, key=other.__getitem__):
        sys.exit(f"error: not the same answer: {scores}, {other}")
    difference = max(abs(scores[label] - other[label]) for label in scores)
    return f"same label, scores differ by at most {difference:.1e}"


def machine() -> str:
    """Returns what ran: system, cores, versions."""
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in ("torch", "funasr"))]
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {', '.join(versions)}"


if __name__ == "__main__":
    main()

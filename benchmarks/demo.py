"""Demonstrates the main tasks: emotions in speech with torch and with MLX, and a checkpoint converted for both.

    make demo

Nothing is downloaded. The first half uses the bundled model. The second shows the conversion of a published model.
Since no hub is contacted, it makes a checkpoint with the size and format of emotion2vec_plus_base and random weights.
"""

import ctypes
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from e2v_port.checkpoints import catalog

ROOT = Path(__file__).parents[1]
SPEECH = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))
DEMO = ROOT / "demo"
CHECKPOINT = DEMO / "checkpoint"
MODEL = DEMO / "model"
TITLES = {"cpu": "torch", "mlx": "MLX"}


def main() -> None:
    """Analyzes, converts, and compares."""
    bundled = catalog.lookup(catalog.BUNDLED)
    assert bundled is not None
    runtimes = [*TITLES]
    print(f"\ne2v-port on {platform.system()} {platform.machine()}, {os.cpu_count()} cores")
    if reason := mlx_missing():
        print(f"MLX cannot run here, so only torch is shown: {reason}")
        runtimes.remove("mlx")

    print(
        f"\n1. Emotions with times and confidence, by the bundled model: {bundled.parameters / 1e6:.1f} M parameters,\n"
        f"   {bundled.licence}.\n"
        f"   {len(SPEECH)} clips of synthetic speech in {name(SPEECH[0].parent)}; for your own: e2v analyze FILE"
    )
    found: dict[str, list[dict[str, float]]] = {}
    for runtime in runtimes:
        arguments = ["analyze", "--runtime", runtime, *map(name, SPEECH)]
        print(f"\n$ e2v {' '.join(arguments[:3])} {name(SPEECH[0].parent)}/*.flac")
        with timed("start, load and all clips"):
            print(e2v(*arguments).strip())
        found[runtime] = probabilities(e2v(*arguments, "--json"))
    if "mlx" in found:
        print(f"largest difference between torch and MLX in a probability: {apart(found):.1e}")

    print(
        "\n2. A checkpoint in FunASR's format, 93 M parameters, converted once to one file for all runtimes.\n"
        "   ITS WEIGHTS ARE RANDOM, SO ITS LABELS ARE MEANINGLESS. The arithmetic is that of the real model."
    )
    convert()
    clip = SPEECH[0]
    scores: dict[str, list[dict[str, float]]] = {}
    for runtime in runtimes:
        arguments = ["analyze", "--whole", "--runtime", runtime, "--model", name(MODEL), name(clip)]
        print(f"$ e2v {' '.join(arguments)}")
        with timed(f"{TITLES[runtime]}: start, load and one clip"):
            answer = e2v(*arguments, "--json")
        scores[runtime] = probabilities(answer)
    if "mlx" in scores:
        print(f"largest difference between torch and MLX in a probability: {apart(scores):.1e}")
        if sys.platform == "linux":
            print("(MLX is made for Apple GPUs and uses the CPU here: compare its numbers, not its speed.)")


def convert() -> None:
    """Makes the checkpoint and converts it, unless an earlier run has."""
    if not CHECKPOINT.is_dir():
        made = DEMO / ".checkpoint"  # renamed when complete
        with timed(f"made {name(CHECKPOINT)}"):
            run([sys.executable, "-m", "e2v_port.converters.synthetic", "--size", "base", str(made)])
            made.rename(CHECKPOINT)
    converter = [*ROOT.glob("converters/*.py"), *ROOT.glob("e2v_port/architectures/*.py")]
    if not MODEL.is_dir() or MODEL.stat().st_mtime < max(file.stat().st_mtime for file in converter):
        print(f"$ e2v convert --model {name(CHECKPOINT)} --out {name(MODEL)}")
        with timed("converted"):
            e2v("convert", "--model", str(CHECKPOINT), "--out", str(MODEL))
    weights = [CHECKPOINT / "model.pt", MODEL / "model.safetensors"]
    print(" -> ".join(f"{name(file)} ({file.stat().st_size / 1e6:.0f} MB)" for file in weights))


def probabilities(answers: str) -> list[dict[str, float]]:
    """Returns the probability of each label, for each segment in lines of JSON."""
    documents = [json.loads(line) for line in answers.splitlines()]
    return [segment["emotion"]["e2v_scores"] for document in documents for segment in document["segments"]]


def apart(results: Mapping[str, list[dict[str, float]]]) -> float:
    """Returns the largest difference between the runtimes; different numbers of segments raise an error."""
    pairs = zip(results["cpu"], results["mlx"], strict=True)
    return max(abs(torch[label] - mlx[label]) for torch, mlx in pairs for label in torch)


def environment(runtime: str) -> dict[str, str]:
    """Returns the environment for a runtime: preloading OpenBLAS speeds up MLX on Linux but slows down torch."""
    variables = {key: value for key, value in os.environ.items() if key not in {"LD_PRELOAD", "E2V_MODEL"}}
    if sys.stdout.isatty():
        variables["FORCE_COLOR"] = "1"
    if runtime == "mlx" and sys.platform == "linux":
        try:
            ctypes.CDLL("libopenblas.so.0")
        except OSError:
            return variables
        variables["LD_PRELOAD"] = "libopenblas.so.0"
    return variables


def mlx_missing() -> str | None:
    """Returns the reason why MLX cannot run, or None; checked in another process, where OpenBLAS can be preloaded."""
    program = "from e2v_port.models import devices; print(devices.unavailable('mlx') or '')"
    return run([sys.executable, "-c", program], environment("mlx")).strip() or None


def e2v(*arguments: str) -> str:
    """Runs the command line in the project folder."""
    runtime = arguments[arguments.index("--runtime") + 1] if "--runtime" in arguments else "cpu"
    return run([sys.executable, "-m", "e2v_port", *arguments], environment(runtime))


def run(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    """Runs a program and returns its output; if it fails, exits with its message."""
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr.strip()}\n`{' '.join(command[1:5])} ...` failed with exit code {done.returncode}")
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints the duration of the block."""
    start = time.perf_counter()
    yield
    print(f"{what}: {time.perf_counter() - start:.1f} s")


def name(path: Path) -> str:
    """Returns a path relative to the project folder."""
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    main()

"""The main job, start to end: a checkpoint is converted once, then run with torch and with MLX.

    make demo

No trained weights come with the project and no hub is asked, so the checkpoint is made here: the size and format of
emotion2vec_plus_base, random weights. What can be seen is that both runtimes compute the same, and how fast.
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
from typing import Any

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo"
CHECKPOINT = DEMO / "checkpoint"
MODEL = DEMO / "model"
RECORDINGS = (
    "jfk.flac",
    "librivox_idle_hour_john_clare.flac",
    "librispeech_198-209-0000.flac",
    "emodb_03a01Nc.flac",
    "emodb_16a01Lb.flac",
)
TITLES = {"cpu": "torch", "mlx": "MLX"}
REPEATS = 2


def main() -> None:
    """Makes, converts, analyses, compares."""
    print(
        f"\ne2v-port on {platform.system()} {platform.machine()}, {os.cpu_count()} cores\n\n"
        "1. A checkpoint as the hubs have it: FunASR's format, full size (93 M parameters).\n"
        "   NO TRAINED WEIGHTS: they are random, so THE LABELS BELOW MEAN NOTHING. The arithmetic is the real model's."
    )
    if CHECKPOINT.is_dir():
        print("   made before")
    else:
        made = DEMO / ".checkpoint"  # renamed when it is whole
        with timed("made"):
            run([sys.executable, "-m", "e2v_port.converters.synthetic", "--size", "base", str(made)])
            made.rename(CHECKPOINT)
    print(f"   {name(CHECKPOINT)}: {size(CHECKPOINT / 'model.pt')}")

    print("\n2. Converted once, to one file for every runtime.")
    converter = [*ROOT.glob("converters/*.py"), ROOT / "e2v_port" / "layout.py"]
    if MODEL.is_dir() and MODEL.stat().st_mtime > max(file.stat().st_mtime for file in converter):
        print("   converted before")
    else:
        print(f"   $ e2v convert --model {name(CHECKPOINT)} --out {name(MODEL)}")
        with timed("converted"):
            e2v("convert", "--model", str(CHECKPOINT), "--out", str(MODEL))
    print(f"   {name(MODEL)}: {size(MODEL / 'model.safetensors')}")

    clips, about = speech()
    print(f"\n3. Analysed: {len(clips)} clips, {about}.")
    results = {}
    for runtime in TITLES:
        print(f"   $ e2v analyze --whole --runtime {runtime} --model {name(MODEL)} FILES...")
        if runtime == "mlx" and (reason := mlx_missing()):
            print(f"   MLX cannot run here, torch is shown alone: {reason}")
            continue
        with timed("start, load and all clips"):
            lines = e2v("analyze", "--whole", "--json", "--runtime", runtime, "--model", str(MODEL), *map(str, clips))
        results[runtime] = [json.loads(line) for line in lines.splitlines()]
    show(clips, results)


def show(clips: list[Path], results: Mapping[str, list[dict[str, Any]]]) -> None:
    """Prints one line per clip, and the largest differences."""
    seconds = {runtime: clip_seconds(runtime, clips) for runtime in results}
    titles = "".join(f"   {TITLES[runtime]:22}{'time':>7}" for runtime in results)
    print(f"\n   {'clip':36}{'length':>8}{titles}")
    for i, clip in enumerate(clips):
        print(f"   {clip.name:36}{results['cpu'][i]['duration']:6.2f} s", end="")
        for runtime, predictions in results.items():
            answer = f"{predictions[i]['label']} {predictions[i]['confidence']:.6f}"
            print(f"   {answer:22}{seconds[runtime][i]:5.2f} s", end="")
        print()
    print(f"   time: of one clip, read and computed, model loaded before; the better of {REPEATS} runs")
    if "mlx" in results:
        apart = {
            what: max(
                abs(torch[what][label] - mlx[what][label])
                for torch, mlx in zip(results["cpu"], results["mlx"], strict=True)
                for label in torch[what]
            )
            for what in ("scores", "logits")
        }
        if sys.platform == "linux":
            print(
                "         MLX is made for Apple's GPU and computes on the CPU here: compare its numbers, not its speed"
            )
        print(f"\n   largest difference: {apart['scores']:.1e} in a probability, {apart['logits']:.1e} in a logit")


def speech() -> tuple[list[Path], str]:
    """Returns the clips and what they are: recordings where there are any, else the synthetic ones of the project."""
    given = os.environ.get("E2V_TEST_AUDIO")
    folder = Path(given) if given else ROOT.parent / "shared" / "audio"
    clips = [folder / recording for recording in RECORDINGS if (folder / recording).is_file()]
    if not clips:
        clips = sorted([*folder.glob("*.flac"), *folder.glob("*.wav")])[: len(RECORDINGS)]
    if clips:
        return clips, f"real speech from {os.path.relpath(folder)}"
    spoken = ROOT / "benchmarks" / "speech"
    return sorted(
        spoken.glob("*.flac")
    ), f"spoken by a synthesiser, from {name(spoken)}; E2V_TEST_AUDIO=FOLDER for others"


def clip_seconds(runtime: str, clips: list[Path]) -> list[float]:
    """Times each clip in a process of its own, as its libraries need another environment for each runtime."""
    program = """if True:
        import sys, time, e2v_port
        model = e2v_port.load(sys.argv[1], runtime=sys.argv[2])
        for clip in sys.argv[4:]:
            best = float("inf")
            for _ in range(int(sys.argv[3])):
                start = time.perf_counter()
                model.predict(clip)
                best = min(best, time.perf_counter() - start)
            print(best)"""
    command = [sys.executable, "-c", program, str(MODEL), runtime, str(REPEATS), *map(str, clips)]
    return [float(line) for line in run(command, environment(runtime)).split()]


def environment(runtime: str) -> dict[str, str]:
    """Returns the environment for a runtime: OpenBLAS, preloaded, speeds up MLX on Linux, and slows down torch."""
    variables = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    if runtime == "mlx" and sys.platform == "linux":
        try:
            ctypes.CDLL("libopenblas.so.0")
        except OSError:
            return variables
        variables["LD_PRELOAD"] = "libopenblas.so.0"
    return variables


def mlx_missing() -> str | None:
    """Returns why MLX cannot run, or None; asked in another process, which may have OpenBLAS."""
    program = "from e2v_port import devices; print(devices.unavailable('mlx') or '')"
    return run([sys.executable, "-c", program], environment("mlx")).strip() or None


def e2v(*arguments: str) -> str:
    """Runs the command line."""
    runtime = arguments[arguments.index("--runtime") + 1] if "--runtime" in arguments else "cpu"
    return run([sys.executable, "-m", "e2v_port", *arguments], environment(runtime))


def run(command: list[str], variables: Mapping[str, str] | None = None) -> str:
    """Runs a program and returns what it prints; where it fails, so does the demo, with its message."""
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{done.stderr.strip()}\n`{' '.join(command[1:5])} ...` failed with exit code {done.returncode}")
    return done.stdout


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints how long something took."""
    start = time.perf_counter()
    yield
    print(f"   {what}: {time.perf_counter() - start:.1f} s")


def name(path: Path) -> str:
    """Returns a path as seen from the project's folder."""
    return path.relative_to(ROOT).as_posix()


def size(path: Path) -> str:
    """Returns a file's name and size."""
    return f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"


if __name__ == "__main__":
    main()

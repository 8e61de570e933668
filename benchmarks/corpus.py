"""Measures the overhead of a corpus run and checks its results: the figures in docs/corpora.md.

    python benchmarks/corpus.py speed [MODEL ...]     speed after the start, compared with `predict` on decoded arrays
    python benchmarks/corpus.py short                 10 000 short files
    python benchmarks/corpus.py memory                100 000 rows
    python benchmarks/corpus.py kills                 results after 20 kills
    python benchmarks/corpus.py ray [MODEL]           local Ray with two workers, compared with two processes

Clips are cut with a fixed seed from the recordings in $E2V_TEST_AUDIO, by default ../shared/audio. Prints Markdown.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from pyarrow import parquet

from e2v_port.audio import SAMPLING_RATE, Clip, load_audio
from e2v_port.corpus.job import Progress
from e2v_port.corpus.run import run
from e2v_port.models.load import load

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
REPEATS = 3


def write_clips(folder: Path, count: int, seconds: tuple[float, float], suffix: str = ".wav", seed: int = 0) -> Path:
    """Writes clips of speech of random lengths."""
    draw = np.random.default_rng(seed)
    pool = np.concatenate([load_audio(path) for path in sorted(AUDIO.glob("emodb_*.flac"))])
    folder.mkdir(parents=True)
    for number in range(count):
        samples = int(draw.uniform(*seconds) * SAMPLING_RATE)
        start = int(draw.integers(len(pool) - samples))
        soundfile.write(folder / f"{number:06}{suffix}", pool[start : start + samples], SAMPLING_RATE)
    return folder


def speed(models: list[str], folder: Path) -> None:
    """Prints the seconds of audio per second of `predict` and of a corpus run."""
    print("| model | files | predict on arrays | corpus | share |\n|---|---|---|---|---|")
    for name in models:
        for suffix in (".wav", ".flac") if name.startswith("bundled") else (".flac",):
            count, size = (4000, 100) if name.startswith("bundled") else (120, 10)
            clips = write_clips(folder / f"{Path(name).name}{suffix}", count, (1, 8), suffix)
            arrays: list[Clip] = [load_audio(path) for path in sorted(clips.iterdir())]
            total = sum(soundfile.info(path).duration for path in clips.iterdir())
            model = load(name, runtime="cpu")
            model.predict(arrays[:20], SAMPLING_RATE)
            plain, whole = [], []
            for repeat in range(REPEATS):
                started = time.perf_counter()
                model.predict(arrays, SAMPLING_RATE)
                plain.append(total / (time.perf_counter() - started))
                out = folder / f"out-{suffix}-{Path(name).name}-{repeat}"
                run(str(clips), out, model=name, whole=True, runtime="cpu", shard=size)
                whole.append(once_running(out))
            ratios = [a / b for a, b in zip(whole, plain, strict=True)]
            cells = [f"{statistics.median(plain):.1f}", f"{statistics.median(whole):.1f}"]
            print(
                f"| {Path(name).name} | {suffix} | {' | '.join(cells)} | {statistics.median(ratios):.1%} |", flush=True
            )


def once_running(out: Path) -> float:
    """Returns the speed after the first shards, which excludes loading the models."""
    written = sorted((path.stat().st_mtime, path) for path in out.glob("rows/*.parquet"))
    later = [parquet.read_table(path, columns=["duration"])["duration"].to_numpy().sum() for _, path in written[2:]]
    return float(sum(later)) / (written[-1][0] - written[1][0])


def short(folder: Path) -> None:
    """Prints the overhead per file."""
    clips = write_clips(folder / "short", 10_000, (0.5, 1.0))
    arrays: list[Clip] = [load_audio(path) for path in sorted(clips.iterdir())]
    model = load("bundled", runtime="cpu")
    model.predict(arrays[:100], SAMPLING_RATE)
    started = time.perf_counter()
    model.predict(arrays, SAMPLING_RATE)
    plain = time.perf_counter() - started
    started = time.perf_counter()
    run(str(clips), folder / "out", model="bundled", whole=True, runtime="cpu")
    whole = time.perf_counter() - started
    print(
        "| 10 000 files of 0.5 to 1 s | predict on arrays | corpus, from the list to the last row | overhead per file |"
    )
    print(f"|---|---|---|---|\n| | {plain:.1f} s | {whole:.1f} s | {(whole - plain) / 10:.2f} ms |")


def memory(folder: Path) -> None:
    """Prints the peak memory of this process and its descendants in each half of 100 000 rows."""
    clips = sorted(write_clips(folder / "clips", 500, (0.3, 0.6)).iterdir())
    (folder / "list.txt").write_text("\n".join(str(clips[i % 500]) for i in range(100_000)))
    done, peaks, ended = 0, [0, 0], threading.Event()
    counting = threading.Lock()

    def advance(clips: int, seconds: float) -> None:
        nonlocal done
        with counting:
            done += clips

    def watch() -> None:
        while not ended.wait(0.2):
            # The first thousand rows include reading the list and loading the models; later ones should add nothing.
            peaks[done > 50_000] = max(peaks[done > 50_000], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    run(
        str(folder / "list.txt"),
        folder / "out",
        whole=True,
        embeddings=True,
        runtime="cpu",
        progress=Progress(advance=advance),
    )
    ended.set()
    watcher.join()
    first, second = (peak / 1e6 for peak in peaks)
    print("| rows | peak of the first half | of the second | growth |\n|---|---|---|---|")
    print(f"| 100 000 | {first:.0f} MB | {second:.0f} MB | {second / first - 1:.1%} |")


def resident() -> int:
    """Returns the resident memory of this process and its descendants, in bytes."""
    processes: dict[int, tuple[int, int]] = {}  # parent and bytes
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            processes[int(entry.name)] = int(stat[1]), int(stat[21]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError):
            continue  # not a process, or one that has ended
    family = {os.getpid()}
    while more := {process for process, (parent, _) in processes.items() if parent in family} - family:
        family |= more
    return sum(processes[process][1] for process in family)


def kills(folder: Path) -> None:
    """Kills runs at random moments, 20 times in total, and compares the results."""
    clips = write_clips(folder / "clips", 1000, (1, 4))
    (clips / "000500.wav").write_bytes(b"RIFF")
    options = ["--whole", "--embeddings", "--shard", "25", "--runtime", "cpu"]
    command = [str(Path(sys.executable).with_name("e2v")), "corpus", str(clips), *options, "--out"]
    started = time.perf_counter()
    subprocess.run([*command, folder / "whole"], check=False, capture_output=True)
    taken = time.perf_counter() - started
    draw = np.random.default_rng(0)
    killed = runs = lost = doubled = wrong = 0
    moments: list[int] = []
    while killed < 20:
        out = folder / f"out{runs}"
        runs += 1
        while True:
            process = subprocess.Popen([*command, out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(draw.uniform(0, taken) if killed < 20 else None)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                killed += 1
                moments.append(len(list(out.glob("rows/*.parquet"))))
        tables = [parquet.read_table(each / "rows").to_pylist() for each in (folder / "whole", out)]
        keys = [[(row["clip"], row["segment"]) for row in rows] for rows in tables]
        lost += len(set(keys[0]) - set(keys[1]))
        doubled += len(keys[1]) - len(set(keys[1]))
        wrong += sum(a != b for a, b in zip(*tables, strict=False))
    print("| kills | finished shards at each kill | completed runs | rows lost | duplicated | wrong |")
    print("|---|---|---|---|---|---|")
    print(f"| {killed} | {', '.join(map(str, moments))} of 40 | {runs} | {lost} | {doubled} | {wrong} |")


def cluster(model: str, folder: Path) -> None:
    """Prints the speed between the first and the last shard with two processes, and with two workers of local Ray."""
    count, size = (4000, 100) if model.startswith("bundled") else (120, 10)
    clips = write_clips(folder / "clips", count, (1, 8))
    speeds = {}
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its name); the default, 15, would yield to other programs
    options: dict[str, dict[str, Any]] = {"two processes": {}, "Ray, two workers": {"engine": "ray"}}
    for name, settings in options.items():
        out = folder / name
        summary = run(str(clips), out, model=model, whole=True, runtime="cpu", shard=size, workers=2, **settings)
        speeds[name] = once_running(out)
        print(
            f"{name}: {speeds[name]:.1f} s of audio per second after the start, {summary.seconds:.1f} s total",
            flush=True,
        )
    here, other = speeds.values()
    same = all(
        path.read_bytes() == (folder / "two processes" / "rows" / path.name).read_bytes()
        for path in (folder / "Ray, two workers" / "rows").glob("*.parquet")
    )
    print(f"overhead of Ray {1 - other / here:.1%}; its files are {'identical' if same else 'DIFFERENT'}")


def main() -> None:
    """Runs the benchmark named on the command line."""
    os.environ.setdefault("E2V_LICENCE", "accepted")
    benchmark, *rest = sys.argv[1:] or [""]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if benchmark == "speed":
            speed(rest or ["bundled", "bundled-tiny"], folder)
        elif benchmark == "ray":
            cluster(rest[0] if rest else "bundled", folder)
        elif benchmark in {"short", "memory", "kills"}:
            {"short": short, "memory": memory, "kills": kills}[benchmark](folder)
        else:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()

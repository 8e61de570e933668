"""Measurements in this process, with the models loaded: throughput, latency, loading, growth and stages."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.bench.contenders import Contender, library, loader
from e2v_port.bench.plan import LATENCY_SECONDS, Setup
from e2v_port.bench.timing import peak, ratio, take_turns, timed_modules
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.parity.references import Vector

__all__ = ["GROWTH_SECONDS", "growth", "latency", "loading", "stages", "throughput"]

GROWTH_SECONDS = 5  # one length, so that only the number of clips grows
STAGE_SECONDS = 60.0  # audio used for the shares of the stages
STAGE_RATE = 44_100  # Hz: forces resampling


def throughput(setup: Setup, contenders: list[Contender], config: ModelConfig) -> list[dict[str, Any]]:
    """Times all clips, and compares the answers of the contenders."""
    setup.note(f"{setup.name}: throughput")
    answers: dict[str, list[Vector]] = {}
    peaks: dict[str, list[float]] = {contender.dtype: [] for contender in contenders if not contender.peer}

    def task(contender: Contender) -> Callable[[], object]:
        return lambda: answers.update({contender.name: contender.answer(setup.clips)})

    def multiply() -> None:  # in every round: on a shared machine the peak changes by the minute
        for dtype, values in peaks.items():
            values.append(peak(setup.runtime, dtype))

    for contender in contenders:
        contender.answer(setup.clips[:2])
    tasks = {contender.name: task(contender) for contender in contenders}
    seconds = take_turns(tasks | {"products": multiply}, setup.plan.repeats)
    samples = [soundfile.info(clip).frames for clip in setup.clips]
    operations = sum(config.architecture.flops(count) for count in samples)
    reference = contenders[-1].name if contenders[-1].peer else contenders[0].name
    rows = []
    for contender in contenders:
        median = statistics.median(seconds[contender.name])
        highest = None if contender.peer else statistics.median(peaks[contender.dtype])
        pairs = [*zip(answers[contender.name], answers[reference], strict=True)]
        alone = contender.name == reference
        rows.append(
            {
                "name": contender.name,
                "dtype": contender.dtype,
                "seconds": seconds[contender.name],
                "rate": sum(samples) / SAMPLING_RATE / median,
                "ratio": _ratio(contenders, contender, seconds),
                "flops": operations,
                "flops_per_second": operations / median,
                "peak": highest,
                "of_peak": operations / median / highest if highest else None,
                "compared_with": None if alone else reference,
                "difference": None if alone else max(float(np.abs(a - b).max()) for a, b in pairs),
            }
        )
    return rows


def _ratio(
    contenders: Sequence[Contender], contender: Contender, seconds: Mapping[str, Sequence[float]]
) -> float | None:
    """Returns how many times as fast as the peer a contender is; None for the peer, and without one."""
    peer = contenders[-1]
    return ratio(seconds[contender.name], seconds[peer.name]) if peer.peer and contender is not peer else None


def latency(setup: Setup, contenders: list[Contender]) -> list[dict[str, Any]]:
    """Times single clips of several lengths."""
    rows = []
    for length in LATENCY_SECONDS:
        setup.note(f"{setup.name}: latency of {length} s")
        clip = setup.piece(length, f"{length}s")
        tasks: dict[str, Callable[[], object]] = {
            contender.name: partial(contender.answer, [clip]) for contender in contenders
        }
        take_turns(tasks, 1)
        seconds = take_turns(tasks, 3 * setup.plan.repeats)
        rows += [
            {
                "clip": length,
                "name": contender.name,
                "seconds": seconds[contender.name],
                "ratio": _ratio(contenders, contender, seconds),
            }
            for contender in contenders
        ]
    return rows


def loading(setup: Setup, dtypes: list[str], peer: ModelConfig | None, device: str) -> list[dict[str, Any]]:
    """Times loading with everything imported and the files in the system's cache."""
    setup.note(f"{setup.name}: loading again")
    tasks: dict[str, Callable[[], object]] = {
        f"e2v {dtype}": partial(load, setup.loaded, runtime=setup.runtime, dtype=dtype, offline=True)
        for dtype in dtypes
    }
    if peer:
        tasks[library(peer, device)] = loader(peer, device)
    seconds = take_turns(tasks, max(3, setup.plan.repeats))
    return [{"name": name, "seconds": times} for name, times in seconds.items()]


def growth(setup: Setup, contenders: list[Contender]) -> list[dict[str, Any]]:
    """Times growing numbers of equally long clips with the last e2v contender, the fastest if `auto` is among them."""
    last = next(contender for contender in reversed(contenders) if not contender.peer)
    counts = setup.plan.counts
    distinct = [setup.piece(GROWTH_SECONDS, f"growth-{i}", seed=i) for i in range(min(100, max(counts)))]
    rows = []
    for count in counts:
        setup.note(f"{setup.name}: {count} clips")
        clips = (distinct * -(-count // len(distinct)))[:count]
        repeats = max(setup.plan.repeats, min(10, 20 // count)) if count < 1000 else 1
        (times,) = take_turns({last.name: partial(last.answer, clips)}, repeats).values()
        per_second = statistics.median(times) / (count * GROWTH_SECONDS)
        rows.append({"name": last.name, "clips": count, "seconds": times, "per_audio_second": per_second})
    return rows


def stages(setup: Setup, models: Mapping[str, Model]) -> list[dict[str, Any]]:
    """Times the stages from a file at 44.1 kHz to its answer, with torch; returns no rows for other runtimes."""
    if setup.runtime in {"mlx", "numpy", "onnx"}:
        return []
    setup.note(f"{setup.name}: stages")
    paths = _files_to_resample(setup)
    rows = []
    for model in models.values():
        decoded = loaded = answered = 0.0
        with timed_modules(model, setup.runtime) as parts:
            for path in paths:  # one by one: batches would overlap
                begin = time.perf_counter()
                soundfile.read(path, dtype="float32")
                read = time.perf_counter()
                waveform = load_audio(path)
                ready = time.perf_counter()
                for _ in model.each([waveform], SAMPLING_RATE):
                    pass
                answered += time.perf_counter() - ready
                loaded += ready - read
                decoded += min(read - begin, ready - read)  # a file takes longer to read the first time
        stages = {"decode": decoded, "resample": loaded - decoded, **parts, "rest": answered - sum(parts.values())}
        rows.append({"name": f"e2v {model.dtype}", "seconds": loaded + answered, "stages": stages})
    return rows


def _files_to_resample(setup: Setup) -> list[Path]:
    """Writes the first clips, `STAGE_SECONDS` in total, at `STAGE_RATE`."""
    (setup.work / "stages").mkdir(exist_ok=True)
    paths: list[Path] = []
    total = 0.0
    for clip in setup.clips:
        path = setup.work / "stages" / Path(clip).name
        if not path.exists():
            signal = soxr.resample(load_audio(clip), SAMPLING_RATE, STAGE_RATE)
            soundfile.write(path, signal.clip(-1, 1), STAGE_RATE)
        paths.append(path)
        total += soundfile.info(path).duration
        if total >= STAGE_SECONDS:
            break
    return paths

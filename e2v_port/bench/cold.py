"""Measurements in fresh processes: cold start, memory and long files."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import soundfile

from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE
from e2v_port.bench.contenders import program
from e2v_port.bench.machine import memory_bytes
from e2v_port.bench.plan import LATENCY_SECONDS, Setup
from e2v_port.bench.process import alone, fresh
from e2v_port.bench.timing import ratio, take_turns
from e2v_port.errors import E2VError
from e2v_port.parity import verify

__all__ = ["Spec", "cold_start", "first_steps", "long_files", "memory"]

MEMORY_SECONDS = 180.0  # the longest clips: on a CPU more than any runtime holds at a time

Spec = Mapping[str, str]  # `dtype` of e2v, or `peer` with the device of the other library


def first_steps(clip: str, repeats: int) -> list[dict[str, Any]]:
    """Times a new user's first steps: importing the package, and analyzing a clip with the bundled model."""
    program = "import time; start = time.perf_counter(); import e2v_port; print(time.perf_counter() - start)"
    analyze = ["-m", "e2v_port", "analyze", "--runtime", "cpu", clip]
    fresh(analyze)
    return [
        {"name": "import e2v_port", "seconds": [float(fresh(["-c", program])) for _ in range(repeats)]},
        {
            "name": "e2v analyze, bundled model",
            "seconds": take_turns({"": partial(fresh, analyze)}, repeats)[""],
        },
    ]


def cold_start(setup: Setup, specs: Mapping[str, Spec], config: ModelConfig) -> list[dict[str, Any]]:
    """Times one clip from the start of Python to the answer."""
    setup.note(f"{setup.name}: cold start")
    specs = {name: spec for name, spec in specs.items() if "peer" not in spec or program(config, spec["peer"])}
    commands = {name: _command(setup, name, spec, config) for name, spec in specs.items()}
    failures = {}
    for name, command in [*commands.items()]:  # the first run fills the caches of the system and of Python
        try:
            fresh(command)
        except E2VError as error:
            failures[name] = str(error)
            del commands[name]
    tasks: dict[str, Callable[[], object]] = {name: partial(fresh, command) for name, command in commands.items()}
    seconds = take_turns(tasks, max(setup.plan.repeats, 1))
    peer = next((name for name, spec in specs.items() if "peer" in spec and name in seconds), None)
    return [
        {"name": name, "failed": failures[name]}
        if name in failures
        else {
            "name": name,
            "seconds": seconds[name],
            "ratio": ratio(seconds[name], seconds[peer]) if peer and name != peer else None,
        }
        for name in specs
    ]


def _command(setup: Setup, name: str, spec: Spec, config: ModelConfig) -> list[str]:
    """Returns the arguments of Python that run a contender on one clip."""
    clip = setup.piece(LATENCY_SECONDS[1], f"{LATENCY_SECONDS[1]}s")
    if "peer" in spec:
        checkpoint = verify.checkpoint_of(config, None).weights.parent
        return ["-c", program(config, spec["peer"]), str(checkpoint), spec["peer"], clip]
    embeds = not config.architecture.num_labels  # analyze needs labels or dimensions
    command = ["embed"] if embeds else ["analyze", "--whole", "--json"]
    options = ["--model" if embeds or not config.dimensional else "--dimensional", str(setup.loaded)]
    options += ["--runtime", setup.runtime, "--dtype", spec["dtype"], "--offline"]
    options += ["--out", str(setup.work / "cold.npz")] if embeds else []
    return ["-m", "e2v_port", *command, *options, clip]


def memory(setup: Setup, specs: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """Measures the peak memory of a process that loads the model and runs the longest clips."""
    setup.note(f"{setup.name}: memory")
    clips, seconds = [], 0.0
    for clip in sorted(setup.clips, key=lambda clip: -soundfile.info(clip).frames):
        clips.append(clip)
        seconds += soundfile.info(clip).duration
        if seconds >= MEMORY_SECONDS:
            break
    return [{"name": name, **_alone(setup, spec, clips)} for name, spec in specs.items()]


def long_files(setup: Setup, specs: Mapping[str, Spec], config: ModelConfig) -> list[dict[str, Any]]:
    """Measures time and peak memory of single long files."""
    rows = []
    for length in setup.plan.long_files:
        clip = setup.piece(length, f"{length}s")
        for name, spec in specs.items():
            setup.note(f"{setup.name}: {length} s in one file, {name}")
            row: dict[str, Any] = {"clip": length, "name": name}
            needed = config.architecture.attention_bytes(round(length * SAMPLING_RATE))
            if "peer" in spec and needed > memory_bytes() / 2:
                row["failed"] = f"not run: its attention would take {needed / 1e9:.0f} GB"
            else:
                row |= _alone(setup, spec, [clip])
            rows.append(row)
    return rows


def _alone(setup: Setup, spec: Spec, clips: list[str]) -> dict[str, Any]:
    return alone({"folder": str(setup.loaded), "runtime": setup.runtime, "clips": clips, **spec})

"""Measures how fast converted models run on this machine, next to the libraries they come from: `e2v bench`.

All contenders get the same clips, the same weights and the same number of threads. They take turns in one process, in
an order that is reversed each round, so that whatever slows the machine down slows all of them. Times are medians.
Cold start, peak memory and long files are measured in fresh processes.
"""

import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from datetime import date
from math import prod
from pathlib import Path
from typing import Any

from e2v_port import seam
from e2v_port.architectures.config import ModelConfig
from e2v_port.bench import clips as speech
from e2v_port.bench import cold, machine, warm
from e2v_port.bench.contenders import Contender, e2v, has_mlx, peer, program
from e2v_port.bench.plan import FULL, QUICK, Note, Plan, Setup
from e2v_port.errors import RuntimeUnavailable
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import convert, devices
from e2v_port.models.load import load
from e2v_port.models.model import Model

__all__ = ["bench"]


def bench(
    models: Sequence[str] = (),
    *,
    runtime: str = "auto",
    dtypes: Sequence[str] = ("float32", "auto"),
    plan: Plan = FULL,
    recordings: Path | None = None,
    offline: bool = False,
    note: Note = lambda _: None,
) -> Iterator[dict[str, Any]]:
    """Measures models one after the other.

    Args:
        models: Models as for `e2v_port.load`. By default `plan.sizes` are made with random weights.
        runtime: Runtime as for `e2v_port.load`; `onnx` exports the models first.
        dtypes: Types as for `e2v_port.load`.
        plan: Amount of audio and number of repetitions.
        recordings: Folder of recordings to cut the clips from; by default the synthetic speech in the package.
        offline: Whether to avoid all network access.
        note: Receives one line at the start of each measurement.

    Yields:
        All results so far, after each model, in the form that `report.save` writes.

    Raises:
        AudioError: No file in `recordings` can be read.
        ModelNotFound, DownloadError, CheckpointError, RuntimeUnavailable: See `e2v_port.load`.
    """
    runtime = devices.choose(runtime)
    if runtime in devices.PROVIDERS and runtime != "onnx":
        raise RuntimeUnavailable(f"runtime {runtime} is not measured: use onnx, ONNX Runtime on the CPU")
    result: dict[str, Any] = {
        "date": str(date.today()),
        "command": _command(models, runtime, dtypes, plan, recordings),
        "machine": machine.describe(runtime),
        "runtime": runtime,
        "notes": [],
        "models": [],
    }
    preloaded = "openblas" in os.environ.get("LD_PRELOAD", "").lower()
    if preloaded:
        result["notes"].append("OpenBLAS is preloaded, which slows torch down: no library on torch was compared")
    with tempfile.TemporaryDirectory(prefix="e2v-bench-") as name:
        folder = Path(name)
        note("cutting the clips")
        clips, result["corpus"] = speech.cut(folder, plan.seconds, recordings)
        result["start"] = cold.first_steps(clips[0], plan.repeats)
        for given in models or plan.sizes:
            place = folder / "model"
            if not models:
                note(f"{given}: making it, with random weights")
                _make(given, place)
            converted = convert.folder_of(place / "model" if not models else given, offline=offline)
            loaded = converted
            if runtime == "onnx":
                note(f"{given}: exporting it")
                loaded = export_onnx(converted, folder / "exported", offline=True).folder
            setup = Setup(given, converted, loaded, not models, runtime, plan, folder, clips, note)
            result["models"].append(_measure(setup, list(dtypes), preloaded=preloaded))
            shutil.rmtree(place, ignore_errors=True)
            yield result


def _command(models: Sequence[str], runtime: str, dtypes: Sequence[str], plan: Plan, recordings: Path | None) -> str:
    usual = {each.sizes for plan in (QUICK, FULL) for each in (plan, plan.longer())}
    options = [f"--model {shlex.quote(model)}" for model in models]
    options += [f"--size {size}" for size in plan.sizes] if not models and plan.sizes not in usual else []
    options += [f"--runtime {runtime}", *(f"--dtype {dtype}" for dtype in dtypes)]
    options += [f"--audio {shlex.quote(str(recordings))}"] if recordings else []
    options += ["--quick"] if plan.seconds == QUICK.seconds else []
    options += ["--long"] if 3600 in plan.long_files else []
    return f"e2v bench {' '.join(options)}"


def _make(size: str, folder: Path) -> None:
    """Writes a checkpoint with random weights to `folder`/checkpoint and converts it to `folder`/model."""
    checkpoint = folder / "checkpoint"
    seam.make_checkpoint(size, checkpoint)
    convert.convert(str(checkpoint), out=folder / "model", offline=True, note=lambda _: None)


def _measure(setup: Setup, dtypes: list[str], *, preloaded: bool) -> dict[str, Any]:
    """Takes all measurements of one model.

    Args:
        setup: The model and the conditions.
        dtypes: Types to measure e2v-port in.
        preloaded: Whether OpenBLAS is preloaded; then there is no comparison with a library on torch.
    """
    config = ModelConfig.read(setup.folder)
    notes: list[str] = []
    models, contenders = _loaded(setup, dtypes, notes)
    device = _peer_device(setup.runtime, config)
    other = _peer(setup, config, device, notes) if device == "mlx" or not preloaded else None
    specs: dict[str, cold.Spec] = {
        contender.name: {"dtype": dtype} for dtype, contender in zip(models, contenders, strict=True)
    }
    if other:
        contenders.append(other)
        specs[other.name] = {"peer": device}
        if not program(config, device):
            notes.append(f"{other.name} judges no clip from this checkpoint alone: its cold start is left out")
    result = {
        "name": setup.name,
        "source": "made for this run, with random weights" if setup.random else config.source.repository,
        "random_weights": setup.random,
        "family": config.family,
        "parameters": _parameters(setup.folder),
        "weights_bytes": (setup.folder / "model.safetensors").stat().st_size,
        "peer": other.name if other else None,
        "notes": notes,
        "throughput": warm.throughput(setup, contenders, config),
        "latency": warm.latency(setup, contenders),
        "load": warm.loading(setup, [*models], config if other else None, device),
        "stages": warm.stages(setup, models),
        "growth": warm.growth(setup, contenders),
    }
    del contenders, models, other  # this process must hold no model while others are measured
    result["cold_start"] = cold.cold_start(setup, specs, config)
    result["memory"] = cold.memory(setup, specs)
    result["long_files"] = cold.long_files(setup, specs, config)
    return result


def _loaded(setup: Setup, dtypes: list[str], notes: list[str]) -> tuple[dict[str, Model], list[Contender]]:
    """Loads the model in each distinct type; adds to `notes` what a reader has to know."""
    setup.note(f"{setup.name}: loading")
    models: dict[str, Model] = {}
    contenders = []
    for dtype in dtypes:
        model = load(setup.loaded, runtime=setup.runtime, dtype=dtype, offline=True)
        if any(model.dtype == other.dtype for other in models.values()):
            notes.append(f"{dtype} is {model.dtype} here, which is measured already")
            continue
        if model.compile():
            notes.append(f"{model.dtype}: batches run compiled")
        models[dtype] = model
        contenders.append(e2v(model, f"e2v {model.dtype}" + (" (auto)" if dtype == "auto" else "")))
    return models, contenders


def _peer(setup: Setup, config: ModelConfig, device: str, notes: list[str]) -> Contender | None:
    """Loads the library to compare with and tries it on a clip; None, and a note, where that fails."""
    try:
        other = peer(config, device)
        other.answer(setup.clips[:1])
    except Exception as error:  # each library has its own exceptions
        notes.append(f"not compared with a library: {error}")
        return None
    if device != setup.runtime:
        notes.append(f"{other.name} runs on {device}: it has no {setup.runtime}")
    return other


def _peer_device(runtime: str, config: ModelConfig) -> str:
    if runtime == "mlx" and has_mlx(config):
        return "mlx"
    if runtime == "mlx" and devices.unavailable("mps") is None:
        return "mps"
    return "cpu" if runtime in {"mlx", "numpy", "onnx"} else runtime


def _parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as stored:
        return sum(prod(stored.get_slice(name).get_shape()) for name in stored.keys())  # noqa: SIM118 (not a dict)

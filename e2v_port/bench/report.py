"""The results of `bench` as JSON and as Markdown."""

import json
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from e2v_port.bench.warm import GROWTH_SECONDS
from e2v_port.files import replacing

__all__ = ["render", "save"]

_COLUMNS = 120  # of a line of prose


def save(result: Mapping[str, Any], folder: Path) -> None:
    """Writes bench.json and bench.md; each file appears complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("bench.json", json.dumps(result, indent=1) + "\n"), ("bench.md", render(result))):
        with replacing(folder / name) as partial:
            partial.write_text(text, "utf-8", newline="\n")


def render(result: Mapping[str, Any]) -> str:
    """Returns the results as Markdown: a section of docs/benchmarks.md."""
    machine, clips = result["machine"], result["corpus"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    lines = [
        f"## `{result['command']}`",
        "",
        *_wrapped(
            f"{result['date']}, runtime {result['runtime']}: {machine['device']}. {machine['processor']}, "
            f"{machine['cores']} cores, {machine['memory_bytes'] / 1e9:.0f} GB, {machine['system']}; {versions}. "
            f"Every contender has {machine['threads']} threads, except FunASR in the cold start, which uses its own 4."
        ),
        "",
        *_wrapped(
            f"Corpus: {clips['clips']} clips of {clips['shortest']:.1f} to {clips['longest']:.1f} s, "
            f"{clips['seconds']:.0f} s in total, cut with seed {clips['seed']} from {clips['source']}."
        ),
        *chain.from_iterable(("", *_wrapped(f"{note}.")) for note in result["notes"]),
    ]
    rows = [[row["name"], f"{statistics.median(row['seconds']):.3f} s"] for row in result["start"]]
    lines += ["", *_table(["fresh process", "median"], rows)]
    for model in result["models"]:
        lines += ["", *_render_model(model)]
    return "\n".join(lines) + "\n"


def _render_model(model: Mapping[str, Any]) -> list[str]:
    weights = "random weights" if model["random_weights"] else model["source"]
    lines = [
        f"### {model['name']}",
        "",
        f"{model['family']}, {weights}; {model['parameters'] / 1e6:.1f} M parameters, "
        f"{_megabytes(model['weights_bytes'])} stored.",
        *chain.from_iterable(("", *_wrapped(f"Note: {note}.")) for note in model["notes"]),
    ]
    peer = model["peer"] or "library"
    tables = [
        _throughput(model["throughput"], peer),
        _latency(model["latency"], peer),
        _table(["load, warm", "median"], [[row["name"], _milliseconds(row["seconds"])] for row in model["load"]]),
        _cold_start(model["cold_start"], peer),
        _memory(model["memory"], peer),
        _long_files(model["long_files"]),
        _growth(model["growth"]),
        *([_stages(model["stages"])] if model["stages"] else []),
    ]
    return [*lines, *chain.from_iterable(("", *table) for table in tables)]


def _throughput(measured: Sequence[Mapping[str, Any]], peer: str) -> list[str]:
    rows = [
        [
            row["name"],
            f"{row['rate']:.1f}",
            _times(row["ratio"]),
            f"{row['flops_per_second'] / 1e9:.0f}",
            "" if row["peak"] is None else f"{row['peak'] / 1e9:.0f}",
            "" if row["of_peak"] is None else f"{row['of_peak']:.0%}",
            "" if row["difference"] is None else f"{row['difference']:.1e} ({row['compared_with']})",
        ]
        for row in measured
    ]
    head = ["corpus", "audio s per s", f"x {peer}", "GFLOP/s", "peak GFLOP/s", "of peak", "largest difference"]
    return _table(head, rows)


def _latency(measured: Sequence[Mapping[str, Any]], peer: str) -> list[str]:
    rows = [[f"{row['clip']} s", row["name"], _milliseconds(row["seconds"]), _times(row["ratio"])] for row in measured]
    return _table(["one clip", "", "median", f"x {peer}"], rows)


def _cold_start(measured: Sequence[Mapping[str, Any]], peer: str) -> list[str]:
    rows = [
        [row["name"], row["failed"], ""]
        if "failed" in row
        else [row["name"], f"{statistics.median(row['seconds']):.2f} s", _times(row["ratio"])]
        for row in measured
    ]
    return _table(["cold start, 4 s clip", "median", f"x {peer}"], rows)


def _memory(measured: Sequence[Mapping[str, Any]], peer: str) -> list[str]:
    theirs = next((row.get("peak_bytes") for row in measured if row["name"] == peer), None)
    rows = [
        [
            row["name"],
            *_memory_cells(row),
            _times(row["peak_bytes"] / theirs if theirs and "failed" not in row else None),
        ]
        for row in measured
    ]
    return _table(["memory, longest clips", "peak", "on the GPU", f"x {peer}"], rows)


def _long_files(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        [
            f"{row['clip']} s",
            row["name"],
            "" if "failed" in row else f"{row['seconds']:.1f} s",
            *_memory_cells(row),
        ]
        for row in measured
    ]
    return _table(["one file", "", "time", "peak", "on the GPU"], rows)


def _growth(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [[row["name"], str(row["clips"]), f"{1000 * row['per_audio_second']:.1f} ms"] for row in measured]
    return _table(["growth", f"clips of {GROWTH_SECONDS} s", "per audio second"], rows)


def _stages(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [*measured[0]["stages"]]
    rows = [[row["name"], *(f"{row['stages'][name] / row['seconds']:.1%}" for name in names)] for row in measured]
    return _table(["share of the time, from 44.1 kHz", *names], rows)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _COLUMNS, break_long_words=False, break_on_hyphens=False)


def _memory_cells(row: Mapping[str, Any]) -> list[str]:
    if "failed" in row:
        return [row["failed"], ""]
    device = row["device_peak_bytes"]
    return [_megabytes(row["peak_bytes"]), "" if device is None else _megabytes(device)]


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"


def _milliseconds(seconds: Sequence[float]) -> str:
    return f"{1000 * statistics.median(seconds):.0f} ms"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "/") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)]

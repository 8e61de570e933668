"""Converted models for the comparisons, and the table of their results."""

from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import pytest

import e2v_port
from e2v_port.converters import synthetic
from parity.references import CASES, voices


@pytest.fixture(scope="session")
def speech(request) -> list[Path]:
    """Recordings to compare on."""
    try:
        folder = request.getfixturevalue("speech_folder")
    except pytest.skip.Exception:
        folder = None
    return voices(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Returns a case's checkpoint and converted folder, made once."""
    root = tmp_path_factory.mktemp("parity")

    @lru_cache
    def make(name: str, dtype: str = "float32") -> tuple[Path, Path]:
        case = CASES[name]
        checkpoint = root / name
        if not checkpoint.exists():
            synthetic.make(case.config, checkpoint, tokens=case.tokens, prefix=case.prefix, seed=len(name))
        return checkpoint, e2v_port.convert(checkpoint, dtype=dtype, out=root / f"{name}-{dtype}")

    return make


@pytest.fixture(scope="session")
def loaded(folders):
    @lru_cache(maxsize=2)
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        return e2v_port.load(folders(name, dtype)[1], runtime=runtime)

    return load


def pytest_terminal_summary(terminalreporter):
    """Prints the largest difference from FunASR by case, runtime and kind of stage."""
    rows = defaultdict(lambda: defaultdict(float))
    clips = defaultdict(set)
    for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", []):
        for key, value in getattr(report, "user_properties", []):
            if key == "parity":
                name, runtime, clip, stages = value
                clips[name, runtime].add(clip)
                for stage, difference in stages.items():
                    kind = stage.split(".", maxsplit=1)[0]
                    rows[name, runtime][kind] = max(rows[name, runtime][kind], difference)
    if not rows:
        return
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    terminalreporter.section("largest absolute difference from the reference, float32")
    terminalreporter.write_line(f"| model | runtime | clips | {' | '.join(kinds)} |")
    terminalreporter.write_line(f"|---|---|---|{'---|' * len(kinds)}")
    for (name, runtime), row in sorted(rows.items()):
        cells = " | ".join(f"{row[kind]:.1e}" if kind in row else "" for kind in kinds)
        terminalreporter.write_line(f"| {name} | {runtime} | {len(clips[name, runtime])} | {cells} |")

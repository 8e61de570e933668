"""Fixtures of all tests, and the table of the comparisons with the references."""

import os
from collections import defaultdict
from pathlib import Path

import pytest

SPEECH = Path(__file__).parents[1] / ".." / "shared" / "audio"


@pytest.fixture(scope="session")
def speech_folder() -> Path:
    """Recordings of real speech, which are not part of the repository."""
    folder = Path(os.environ.get("E2V_TEST_AUDIO", SPEECH)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set E2V_TEST_AUDIO, or put them into ../shared/audio")
    return folder


def pytest_terminal_summary(terminalreporter):
    """Prints the largest difference from the reference by case, runtime and kind of stage.

    It is here since workers alone load the conftest of a folder below.
    """
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

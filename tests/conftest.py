"""Fixtures of all tests, and the table of the comparisons with the references."""

import os
import signal
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import own_audio
import pytest
import real_weights
from browsing import browser, microphone, service, visit
from parity.holding import FULL_SIZE

__all__ = ["browser", "microphone", "service", "visit"]

REAL_WEIGHTS = {"smollm2", "whisper_base", "whisper_tiny_en"}  # fixtures; their tests are of full size, too
RECORDINGS = Path(__file__).parents[1] / ".." / "shared" / "audio"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Recordings of real voices and sounds, which are not part of the repository: tests without them are skipped."""
    folder = Path(os.environ.get("E2V_TEST_AUDIO", RECORDINGS)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set E2V_TEST_AUDIO, or put them into ../shared/audio")
    return folder


@pytest.fixture(scope="session")
def field(recordings: Path) -> Path:
    """Small files from elsewhere that once gave a wrong answer, in the folder next to the recordings."""
    folder = recordings.with_name("field")
    if not folder.is_dir():
        pytest.skip(f"no files that once gave a wrong answer in {folder}")
    return folder


@pytest.fixture(scope="session")
def speech_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real recordings; where they are missing, the project's own speech under the same names."""
    try:
        folder: Path = request.getfixturevalue("recordings")
    except pytest.skip.Exception:
        folder = own_audio.write(tmp_path_factory.mktemp("own_audio"))
    return folder


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    """OpenAI's whisper-base, as CTranslate2 stores it."""
    return weights_folder("whisper-base")


@pytest.fixture(scope="session")
def whisper_tiny_en() -> Path:
    """OpenAI's whisper-tiny.en, as CTranslate2 stores it."""
    return weights_folder("whisper-tiny.en")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct, as GGUF and as transformers stores it."""
    return weights_folder("smollm2")


def weights_folder(name: str) -> Path:
    folder = Path(os.environ.get("E2V_TEST_WEIGHTS", real_weights.FOLDER)).resolve() / name
    if not real_weights.right(real_weights.MODELS[name], folder):
        missing = f"no weights of {name} in {folder}: make weights, or set E2V_TEST_WEIGHTS"
        if os.environ.get("E2V_REQUIRE_WEIGHTS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


@pytest.fixture(scope="session")
def silero_package() -> Any:
    """silero_vad, imported without its side effect: it limits torch to one thread."""
    import torch

    threads = torch.get_num_threads()
    import silero_vad

    torch.set_num_threads(threads)
    return silero_vad


def pytest_configure() -> None:
    """Lets programs that tests start be interrupted, where this one, a background job of a shell, ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-size", action="store_true", help="also compare models of full size with their references")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests that use real recordings if there are any, and tests of full-size models, which take minutes."""
    later = pytest.mark.skip(reason='a full-size model, minutes for all of them: make test ARGS="--full-size"')
    for item in items:
        if {"recordings", "speech_folder"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("recordings")
        real = REAL_WEIGHTS & set(getattr(item, "fixturenames", ()))
        if real or any(mark.args[0] in FULL_SIZE for mark in item.iter_markers("xdist_group")):
            item.add_marker("full_size")
            if not config.getoption("full_size"):
                item.add_marker(later)


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

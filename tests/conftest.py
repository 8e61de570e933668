"""Fixtures of all tests."""

import os
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

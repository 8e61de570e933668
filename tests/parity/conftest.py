"""Recordings and converted models for the comparisons."""

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

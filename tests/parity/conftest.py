"""Recordings and converted models for the comparisons."""

from functools import lru_cache
from pathlib import Path

import pytest

import e2v_port
from e2v_port.converters import emotion2vec as emotion2vec_converter
from parity.references import CASES, VOICES


@pytest.fixture(scope="session")
def speech(speech_folder: Path) -> list[Path]:
    """Recordings to compare on."""
    return [speech_folder / name for name in VOICES]


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Returns a case's checkpoint and converted folder, made once."""
    root = tmp_path_factory.mktemp("parity")

    @lru_cache
    def make(name: str, dtype: str = "float32") -> tuple[Path, Path]:
        case = CASES[name]
        checkpoint = root / name
        if not checkpoint.exists():
            emotion2vec_converter.make(case.config, checkpoint, tokens=case.tokens, prefix=case.prefix, seed=len(name))
        return checkpoint, e2v_port.convert(checkpoint, dtype=dtype, out=root / f"{name}-{dtype}")

    return make


@pytest.fixture(scope="session")
def loaded(folders):
    @lru_cache(maxsize=2)
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        return e2v_port.load(folders(name, dtype)[1], runtime=runtime)

    return load

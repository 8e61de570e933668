"""Recordings and converted models for the comparisons."""

from functools import lru_cache
from pathlib import Path

import pytest

import e2v_port
from e2v_port.converters import emotion2vec as emotion2vec_converter
from parity.holding import FULL_SIZE, group, held, let_go
from parity.references import CASES, VOICES


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    if group(item) in FULL_SIZE and group(nextitem) != group(item):
        let_go()


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
    @held(maxsize=2)
    def load(name: str, runtime: str, dtype: str = "float32") -> e2v_port.Model:
        return e2v_port.load(folders(name, dtype)[1], runtime=runtime)

    return load

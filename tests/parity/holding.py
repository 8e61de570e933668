"""What a worker holds of large models: until it has run the last test of their group."""

import ctypes
import gc
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

# Groups of tests in which one worker holds a model of the size and format of a published one, with random weights.
FULL_SIZE = {"base", "large", "audeering", "hubert-large", "wavlm-large", "whisper-base", "sensevoice-small", "ecapa"}

HELD: list[Any] = []


def held(maxsize: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keeps the last results of a function, until `let_go`."""

    def keep(make: Callable[..., Any]) -> Callable[..., Any]:
        HELD.append(lru_cache(maxsize)(make))
        return HELD[-1]  # type: ignore[no-any-return]

    return keep


def group(item: pytest.Item | None) -> str:
    """The group of tests that one worker runs, because they share a model; empty for none."""
    mark = item.get_closest_marker("xdist_group") if item else None
    return mark.args[0] if mark else ""


def let_go() -> None:
    """Drops all results that are held: several full-size models at once would take more memory than most machines."""
    for cached in HELD:
        cached.cache_clear()
    gc.collect()
    if sys.platform == "linux":  # glibc keeps freed weights for later: they lie among values that are still used
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim:
            trim(0)

"""Nothing is drawn at random between a recording and its analysis: any draw is an error here, on every runtime."""

import os
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import e2v_port
from e2v_port.analysis.results import Analysis
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.transcribe.whisper import Transcriber

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=f"runtime {name}: {reason}"))
    for name in (*devices.RUNTIMES, "onnx")
    for reason in [devices.unavailable(name)]
]
IN_PLACE = ("bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_")
OF_TORCH = (
    *("bernoulli", "manual_seed", "multinomial", "normal", "poisson", "rand", "rand_like", "randint", "randint_like"),
    *("randn", "randn_like", "randperm", "seed", "Generator"),
)


def mlx_random() -> Any:
    if devices.unavailable("mlx"):
        return None
    import mlx.core as mx

    return mx.random


def sources() -> Iterator[tuple[Any, str]]:
    """Everything that draws numbers, or makes what draws them."""
    yield from ((os, "urandom"), (secrets, "token_bytes"), (random, "Random"), (random, "SystemRandom"))
    yield from ((random, name) for name in random.__all__ if name[0].islower())
    yield from ((np.random, name) for name in np.random.__all__)
    yield from ((torch, name) for name in OF_TORCH)
    yield from ((torch.Tensor, name) for name in IN_PLACE)
    if found := mlx_random():
        yield from ((found, name) for name in dir(found) if name[0].islower() and name != "state")


def states() -> list[bytes]:
    """Where the generators stand that all share: code of C++ draws from them without a call in Python."""
    found = [torch.get_rng_state().numpy().tobytes(), repr(random.getstate()).encode()]
    found.append(repr(np.random.mtrand._rand.get_state()).encode())  # type: ignore[attr-defined]
    if mlx := mlx_random():
        found += [np.array(each).tobytes() for each in mlx.state]
    return found


@contextmanager
def nothing_drawn() -> Iterator[None]:
    def drawn(name: str) -> Callable[..., Any]:
        def fail(*_: object, **__: object) -> None:
            raise AssertionError(f"{name} was called")

        return fail

    before = states()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in sources():
            patch.setattr(owner, name, drawn(f"{owner.__name__}.{name}"))
        yield
    assert states() == before, "a shared generator was drawn from"


def numbers(analysis: Analysis) -> dict[str, Any]:
    """An analysis without what differs from run to run: the time it took."""
    return {name: value for name, value in analysis.to_dict().items() if name != "timings"}


@pytest.mark.parametrize("name", ["bundled", "bundled-tiny"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_analysis_draws_nothing(runtime: str, name: str, tmp_path: Path) -> None:
    model: str | Path = name
    if runtime == "onnx":
        export_onnx(name, model := tmp_path / "export")
    loaded = e2v_port.load(model, runtime=runtime)
    frames = loaded.config.architecture.judges_frames
    with nothing_drawn():
        first = e2v_port.analyze(CLIP, model=loaded, frames=frames, adapt=loaded.config.architecture.means)
    again = e2v_port.analyze(CLIP, model=loaded, frames=frames, adapt=loaded.config.architecture.means)
    assert numbers(first) == numbers(again)
    assert first.segments[0].judgement


def test_a_live_voice_draws_nothing() -> None:
    detector = e2v_port.EmotionDetector(backend="hybrid")
    waveform = load_audio(CLIP)
    with nothing_drawn():
        found = detector.analyze(waveform, SAMPLING_RATE)
    assert found.segments
    assert found.segments[0].prosody


def test_words_draw_nothing(recordings: Path, whisper_tiny_en: Path) -> None:
    """CTranslate2 draws in C++ from a generator of its own: whatever its seed, the words are the same."""
    from ctranslate2 import set_random_seed

    reader = Transcriber(whisper_tiny_en)
    model = e2v_port.load("bundled-tiny", runtime="numpy")
    found = []
    for seed in (1, 2):
        set_random_seed(seed)
        with nothing_drawn():
            found.append(e2v_port.analyze(recordings / "jfk.flac", model=model, words=reader))
    assert numbers(found[0]) == numbers(found[1])
    assert found[0].segments[0].words


DRAWS: dict[str, Callable[[], Any]] = {
    "Python": lambda: random.randint(1, 6),
    "Python's own generator": lambda: random.Random(0).random(),
    "the system": lambda: os.urandom(1),
    "numpy": lambda: np.random.rand(2),
    "a generator with a fixed seed": lambda: np.random.default_rng(0).normal(),
    "torch": lambda: torch.rand(1),
    "a tensor in place": lambda: torch.zeros(1).normal_(),
    "dropout, in C++": lambda: F.dropout(torch.ones(4), 0.5, training=True),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_guard_sees_every_kind_of_draw(draw: Callable[[], Any]) -> None:
    with pytest.raises(AssertionError, match=r"was called|drawn from"), nothing_drawn():
        draw()


@pytest.mark.skipif(mlx_random() is None, reason="MLX is not installed")
def test_the_guard_sees_mlx() -> None:
    import mlx.core as mx

    with pytest.raises(AssertionError, match="was called"), nothing_drawn():
        mx.random.normal((2,))

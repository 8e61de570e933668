"""GE2E speaker encoders on all runtimes: against Resemblyzer itself, in batches, over long clips."""

import importlib.util
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from numpy.typing import NDArray

import e2v_port
from e2v_port.audio import SAMPLING_RATE
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import ge2e as ge2e_converter
from e2v_port.models import devices, long_clips
from e2v_port.parity import references, verify

RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]
HOP, LEAST = 12_320, 19_200  # samples from one excerpt to the next; those that one after the first must hold
needs_resemblyzer = pytest.mark.skipif(
    importlib.util.find_spec("resemblyzer") is None, reason="Resemblyzer is not installed: pip install Resemblyzer"
)


def voice(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """A buzz that glides, in noise, with pauses: something else in every excerpt."""
    draw = np.random.default_rng(seed)
    time = np.arange(samples) / SAMPLING_RATE
    phase = 2 * np.pi * np.cumsum(140 + 40 * np.sin(2 * np.pi * 0.7 * time + seed)) / SAMPLING_RATE
    buzz = sum(np.sin(k * phase) / k for k in range(1, 20))
    loud = (np.sin(2 * np.pi * 0.4 * time) > -0.7).astype(np.float64)
    return (0.05 * buzz * loud + 0.002 * draw.standard_normal(samples)).astype(np.float32)


# One short excerpt, a whole one, the last that is dropped and the first that is kept, and several.
CLIPS = {
    "400-samples": lambda: voice(400),
    "one-excerpt": lambda: voice(25_600),
    "one-less-than-two": lambda: voice(LEAST + HOP - 1),
    "two": lambda: voice(LEAST + HOP),
    "five-seconds": lambda: voice(80_123, 1),
    "silence": lambda: np.zeros(20_000, np.float32),
    "very-quiet": lambda: 1e-3 * voice(50_000, 2),
    "far-from-zero": lambda: voice(50_000, 3) + np.float32(0.2),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ge2e_converter.make(ge2e_converter.PUBLISHED, tmp_path_factory.mktemp("ge2e") / "checkpoint")


@pytest.fixture(scope="module")
def load(checkpoint: Path):
    folder = e2v_port.convert(checkpoint, out=checkpoint.with_name("model"))
    return lru_cache(lambda runtime: e2v_port.load(folder, runtime=runtime))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """A network of other sizes."""
    folder = toys.make_random(tmp_path_factory.mktemp("ge2e") / "small", toys.GE2E)
    return lru_cache(lambda runtime: e2v_port.load(folder, runtime=runtime))


@needs_resemblyzer
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("clip", CLIPS)
def test_every_stage_equals_resemblyzer(clip: str, runtime: str, load, checkpoint: Path, record_property) -> None:
    waveform = CLIPS[clip]()
    wanted = references.reference("ge2e")(local(checkpoint)).stages(waveform)
    found = load(runtime).stages(waveform, SAMPLING_RATE)
    off = {stage: float(np.abs(found[stage] - value).max()) for stage, value in wanted.items()}
    record_property("parity", ("ge2e", runtime, clip, off))
    checks = verify.compare(load(runtime), wanted, found)
    assert [check for check in checks if not check.passed] == []
    assert {"spectrogram", "layers.0", "layers.1", "layers.2", "frames", "pooled"} <= {check.name for check in checks}


@needs_resemblyzer
def test_the_embedding_is_that_of_an_utterance_at_the_same_volume(load, checkpoint: Path) -> None:
    """As a user of Resemblyzer would compute it, with its own function for the volume."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from resemblyzer import VoiceEncoder, normalize_volume

    clip = voice(70_000, 5)
    encoder = VoiceEncoder("cpu", verbose=False, weights_fpath=checkpoint / "pretrained.pt")
    wanted = encoder.embed_utterance(normalize_volume(clip, -20).astype(np.float32))
    for gain in (1.0, 0.02, 4.0):
        assert load("numpy").embed(np.float32(gain) * clip, SAMPLING_RATE) == pytest.approx(wanted, abs=1e-5)


@needs_resemblyzer
def test_verify_compares_with_resemblyzer(load, checkpoint: Path) -> None:
    rows, _ = verify.verify([load("cpu")], checkpoint=checkpoint)
    assert [row[0].name for row in rows][-1] == "pooled"
    assert all(check.passed for row in rows for check in row)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_batch_of_mixed_lengths_equals_single_clips(runtime: str, small) -> None:
    model = small(runtime)
    clips = [voice(samples, samples) for samples in (400, 1920, 2_000, 3_039, 3_040, 9_001, 20_000)]
    frames = model.embed(clips, SAMPLING_RATE, granularity="frame")
    for clip, together, pooled in zip(clips, frames, model.embed(clips, SAMPLING_RATE), strict=True):
        assert together.shape == (model.config.architecture.frames(len(clip)), model.embed_dim)
        alone = model.embed(clip, SAMPLING_RATE, granularity="frame")
        np.testing.assert_allclose(together, alone, atol=2e-6, rtol=0)
        np.testing.assert_allclose(pooled, model.embed(clip, SAMPLING_RATE), atol=2e-6, rtol=0)
        mean = alone.mean(0)
        np.testing.assert_allclose(pooled, mean / np.linalg.norm(mean), atol=2e-6, rtol=0)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_long_clip_in_windows_is_the_clip_in_one_piece(runtime: str, small, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = voice(75 * SAMPLING_RATE, 7)
    clip[: 20 * SAMPLING_RATE] *= 0.05  # so that no window has the level of the whole
    model = small(runtime)
    windows = [model.embed(clip, SAMPLING_RATE, granularity=kind) for kind in ("utterance", "frame")]
    monkeypatch.setattr(long_clips, "LONGEST", 100 * SAMPLING_RATE)
    whole = [model.embed(clip, SAMPLING_RATE, granularity=kind) for kind in ("utterance", "frame")]
    for found, wanted in zip(windows, whole, strict=True):
        np.testing.assert_allclose(found, wanted, atol=5e-6, rtol=0)
    assert np.linalg.norm(windows[0]) == pytest.approx(1, abs=1e-6)


def test_sixteen_bits_are_computed_in_float32(checkpoint: Path, load) -> None:
    folder = e2v_port.convert(checkpoint, out=checkpoint.with_name("half"), dtype="float16")
    clip = voice(60_000, 8)
    exact = load("cpu").embed(clip, SAMPLING_RATE)
    for runtime in RUNTIMES:
        model = e2v_port.load(folder, runtime=runtime)
        assert model.dtype == "float32"
        assert float(model.embed(clip, SAMPLING_RATE) @ exact) > 0.99999
    asked = e2v_port.load(folder, runtime="cpu", dtype="bfloat16")
    assert asked.dtype == "bfloat16"
    assert 0.99 < float(asked.embed(clip, SAMPLING_RATE) @ exact) < 1


def changed(checkpoint: Path, folder: Path, change) -> Path:
    loaded = torch.load(checkpoint / "pretrained.pt", weights_only=True)
    change(loaded["model_state"])
    folder.mkdir()
    torch.save(loaded, folder / "pretrained.pt")
    return folder


REFUSED = {
    "half a bias": (lambda t: t.pop("lstm.bias_hh_l1"), "needs one lstm.bias_hh_l1"),
    "biases of two sizes": (lambda t: t.update({"lstm.bias_hh_l1": torch.ones(3)}), "cannot become layers.1.inputs"),
    "another layer": (lambda t: t.update({"conv.weight": torch.ones(3)}), "conv.weight.*matches no rule"),
    "a missing layer": (lambda t: t.pop("lstm.weight_hh_l1"), "layers.1.states.weight"),
    "a second direction": (
        lambda t: t.update({"lstm.weight_ih_l0_reverse": t["lstm.weight_ih_l0"]}),
        "lstm.weight_ih_l0_reverse.*matches no rule",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_checkpoint_that_is_not_computed_is_refused(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    change, message = REFUSED[kind]
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(changed(checkpoint, tmp_path / "changed", change), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_biases_count(checkpoint: Path, tmp_path: Path, load) -> None:
    """Moving a part of one to the other changes nothing, and adding to one does."""
    clip = voice(30_000, 9)
    expected = load("numpy").embed(clip, SAMPLING_RATE)

    def move(state) -> None:
        state["lstm.bias_ih_l1"] += 0.5
        state["lstm.bias_hh_l1"] -= 0.5

    def add(state) -> None:
        state["lstm.bias_hh_l1"] += 0.5

    found = [
        e2v_port.load(e2v_port.convert(changed(checkpoint, tmp_path / name, change), out=tmp_path / f"{name} out"))
        for name, change in (("moved", move), ("added", add))
    ]
    assert found[0].embed(clip, SAMPLING_RATE) == pytest.approx(expected, abs=1e-6)
    assert float(found[1].embed(clip, SAMPLING_RATE) @ expected) < 0.999

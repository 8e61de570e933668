"""Clips too long to be run whole: in windows, with the answers of the clip, in memory that does not grow with it."""

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.architectures.base import Architecture
from e2v_port.audio import SAMPLING_RATE
from e2v_port.errors import AudioError
from e2v_port.models import long_clips
from e2v_port.models.load import load
from e2v_port.models.model import Model

LONGEST = 6 * SAMPLING_RATE  # a tenth of the real one: attention takes time with its square

KINDS: dict[str, Architecture] = {
    "emotion2vec": toys.TOY,
    # Without attention a frame is made of what is near, so that windows take nothing away.
    "near": replace(toys.TOY, prenet_depth=0, depth=0, head_dim=13),
    "unnormalized": replace(toys.TOY, prenet_depth=0, depth=0, normalize=False),
    "wav2vec2": toys.DIMENSIONAL,
    "wavlm": toys.WAVLM,
    "wav2vec2 near": replace(toys.DIMENSIONAL, depth=0),
    "headless": toys.HEADLESS,
    "deviation": replace(toys.DEVIATION, band_norm=False),
    "gram": toys.GRAM,
}
NEAR = ["near", "unnormalized", "wav2vec2 near"]
SMALL = ["deviation", "gram"]


@pytest.fixture(autouse=True, scope="module")
def short_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in (("LONGEST", 6), ("WINDOW", 3), ("CONTEXT", 1)):
            patch.setattr(long_clips, name, seconds * SAMPLING_RATE)
        yield


def noise(samples: int, seed: int = 0) -> np.ndarray:
    """Changes in loudness, so that no part has the mean and the variance of the whole."""
    draw = np.random.default_rng(seed)
    loudness = np.exp(draw.normal(-3, 1, samples // 16_000 + 2))
    loudness = np.interp(np.arange(samples), 16_000 * np.arange(len(loudness)), loudness)
    return (0.01 + loudness * draw.normal(0, 1, samples)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: _folder(root / name.replace(" ", "-"), config) for name, config in KINDS.items()}


def _folder(folder: Path, config: Architecture) -> Path:
    if isinstance(config, type(toys.GRAM)):
        return toys.make_small(folder, config)
    draw = np.random.default_rng(5)
    arrays = {
        name: draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:])) for name, shape in config.tensors().items()
    }
    if "alibi_scale" in arrays:
        arrays["alibi_scale"] = np.abs(arrays["alibi_scale"])
    return toys.store(folder, config, arrays)


@pytest.fixture(scope="module", params=toys.RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def output(model: Model, clip: Any, *, frames: bool = False) -> Any:
    ((_, found),) = model.each([clip], SAMPLING_RATE, frames=frames)
    return found


def test_up_to_the_limit_a_clip_is_run_whole(folders: dict[str, Path]) -> None:
    model = load(folders["emotion2vec"], runtime="cpu")
    clip = noise(LONGEST)
    exact = model.stages(clip, SAMPLING_RATE)
    np.testing.assert_allclose(model.embed(clip, SAMPLING_RATE), exact["pooled"], rtol=0, atol=2e-6)
    longer = noise(LONGEST + 1)
    apart = np.abs(model.embed(longer, SAMPLING_RATE) - model.stages(longer, SAMPLING_RATE)["pooled"]).max()
    assert 1e-5 < apart < 0.05, "windows show, in a model that looks at everything"


@pytest.mark.parametrize("samples", [LONGEST + 1, LONGEST + 319, 8 * SAMPLING_RATE + 77])
@pytest.mark.parametrize("name", NEAR)
def test_frames_of_windows_are_those_of_the_clip(
    folders: dict[str, Path], runtime: str, name: str, samples: int
) -> None:
    model = load(folders[name], runtime=runtime)
    clip = noise(samples)
    exact = model.stages(clip, SAMPLING_RATE)
    found = output(model, clip, frames=True)
    (whole,) = (value[-model.config.architecture.frames(samples) :] for value in [list(exact.values())[-3]])
    assert found.frames.shape == (model.config.architecture.frames(samples), model.embed_dim)
    np.testing.assert_allclose(found.frames, whole, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.embedding, exact["pooled"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.logits, exact["logits"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found.embedding, found.frames.mean(0, dtype=np.float64), rtol=0, atol=1e-6)
    without = output(model, clip)
    assert without.frames is without.frame_logits is None
    np.testing.assert_array_equal(without.embedding, found.embedding)
    np.testing.assert_array_equal(without.logits, found.logits)


@pytest.mark.parametrize("samples", [LONGEST + 1, 8 * SAMPLING_RATE + 77])
def test_frames_of_a_spectrogram_are_those_of_the_clip(folders: dict[str, Path], runtime: str, samples: int) -> None:
    model = load(folders["deviation"], runtime=runtime)
    clip = noise(samples)
    found = output(model, clip, frames=True)
    np.testing.assert_allclose(found.frames, model.stages(clip, SAMPLING_RATE)["frames"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["emotion2vec", "wav2vec2", "wavlm", *SMALL])
def test_a_sound_that_repeats_sounds_the_same_in_windows(folders: dict[str, Path], name: str) -> None:
    """A rule that counted some part twice, or normalized each window by itself, would hear another sound."""
    model = load(folders[name], runtime="cpu")
    clip = np.tile(noise(SAMPLING_RATE), 15)
    exact = model.stages(clip, SAMPLING_RATE)
    found = output(model, clip)
    # Of a spectrogram, the edges of a window are pooled as well, and do not sound like the rest.
    size = (0.1 if name in SMALL else 0.01) * np.abs(exact["pooled"]).max()
    np.testing.assert_allclose(found.embedding, exact["pooled"], rtol=0, atol=size)


@pytest.mark.parametrize("name", ["emotion2vec", "headless", "gram"])
def test_long_and_short_clips_together_are_what_they_are_alone(
    folders: dict[str, Path], runtime: str, name: str
) -> None:
    model = load(folders[name], runtime=runtime)
    lengths = [9000, LONGEST + 20_000, 399, 20_000, LONGEST + 9, 400]
    clips = [noise(samples, seed) for seed, samples in enumerate(lengths)]
    together = list(model.each(clips, SAMPLING_RATE, frames=True))
    assert isinstance(together[2], AudioError)
    for clip, result in zip(clips, together, strict=True):
        if isinstance(result, AudioError):
            continue
        duration, found = result
        alone = output(model, clip, frames=True)
        assert duration == len(clip) / SAMPLING_RATE
        for field in "embedding", "logits", "frames", "frame_logits":
            one, other = getattr(found, field), getattr(alone, field)
            assert (one is None) == (other is None) == (name == "headless" and "logits" in field)
            if one is not None:
                np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * max(1, np.abs(other).max()), strict=True)


def test_a_long_clip_gives_the_same_bits_again(folders: dict[str, Path], runtime: str) -> None:
    model = load(folders["emotion2vec"], runtime=runtime)
    clip = noise(LONGEST + 9)
    assert model.predict(clip, SAMPLING_RATE) == model.predict(clip, SAMPLING_RATE)


def test_every_form_of_a_long_clip_is_read_twice(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = load(folders["near"], runtime="cpu")
    clip = np.stack([noise(7 * 44_100), noise(7 * 44_100, 1)], axis=1)
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip, 44_100, subtype="FLOAT")
    expected = model.predict(clip, 44_100)
    assert expected.duration == 7
    assert model.predict(path) == expected
    assert model.predict(io.BytesIO(path.read_bytes())) == expected
    with path.open("rb") as file:
        assert model.predict(file) == expected
        assert not file.closed


def test_a_long_clip_that_is_bad_late_gives_its_error_and_nothing_else(folders: dict[str, Path]) -> None:
    model = load(folders["near"], runtime="cpu")
    bad = noise(10 * SAMPLING_RATE)
    bad[-9] = np.nan
    good = noise(9000)
    first, error, last = model.each([good, bad, good], SAMPLING_RATE)
    assert "not finite" in str(error)
    for result in first, last:
        assert not isinstance(result, AudioError)
        np.testing.assert_allclose(result[1].embedding, model.embed(good, SAMPLING_RATE), rtol=0, atol=1e-6)


def test_a_file_that_shrinks_between_the_two_readings(tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise(100 * SAMPLING_RATE), SAMPLING_RATE)
    parts = long_clips.pieces(path, None, toys.TOY, frames=False)
    assert isinstance(next(parts), long_clips.Piece)
    with path.open("r+b") as file:
        file.truncate(2_000_000)
    *_, last = parts
    assert isinstance(last, AudioError)
    assert "again" in str(last)
    assert str(path) in str(last)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([toys.TOY, toys.DIMENSIONAL, toys.DEVIATION, toys.GRAM]),
    st.integers(LONGEST + 1, 150 * SAMPLING_RATE),
)
def test_each_frame_comes_from_one_window_and_from_deep_inside(config: Architecture, samples: int) -> None:
    spans, taken = long_clips._plan(config, samples)
    total = config.frames(samples)
    assert [at for frames in taken for at in frames] == list(range(total))
    assert len({config.frames(len(span)) for span in spans}) == 1, "a batch of windows needs no padding"
    assert spans[0].start == 0
    assert config.frames(spans[-1].stop) == total
    context = long_clips.CONTEXT // config.hop
    for span, frames in zip(spans, taken, strict=True):
        first, last = span.start // config.hop, span.start // config.hop + config.frames(len(span))
        assert span.start % config.hop == 0
        assert len(span) < long_clips.WINDOW + 2 * config.hop
        assert frames.start - first >= (context if span.start else 0)
        assert last - frames.stop >= (context if last < total else 0)
    new = config.frames(long_clips.WINDOW) - 2 * context
    assert len(spans) <= total / new + 2, "no more windows than it takes"


CHILD = """
import sys
import numpy as np
from e2v_port.audio import AudioStream
from e2v_port.processes import peak_memory
from e2v_port.models.load import load
model = load(sys.argv[1], runtime="cpu")
noise = np.tile(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 300)
model.embed(noise[: 90 * 16_000], 16_000)
before = peak_memory()
assert sum(map(len, AudioStream(sys.argv[2]))) == 1200 * 16_000
assert peak_memory() - before < 20e6, "decoding a third of an hour"
model.embed(noise, 16_000)
assert peak_memory() - before < 40e6, "five minutes"
"""


def test_memory_does_not_grow_with_the_clip(tmp_path: Path, folders: dict[str, Path]) -> None:
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1) as file:
        for _ in range(20):
            file.write(np.repeat(np.tile(np.int16([1000, -1000]), 30), SAMPLING_RATE))  # a step each second
    assert path.stat().st_size < 1_000_000, "it is 77 MB in memory"
    arguments = [sys.executable, "-c", CHILD, str(folders["deviation"]), str(path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

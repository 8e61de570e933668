"""The numpy runtime: torch's numbers without torch, and what it does not do.

Other tests run it as one more runtime: parity with the references, batches, readouts, packed weights, long clips.
"""

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from numpy.typing import NDArray
from test_convert import BLOCKED

from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.errors import RuntimeUnavailable
from e2v_port.models import devices
from e2v_port.models.load import load
from e2v_port.runtimes import layers_numpy
from e2v_port.runtimes.emotion2vec_numpy import Emotion2vec
from e2v_port.runtimes.numpy_runtime import nested

BASE_KIND = replace(toys.DIMENSIONAL, conv_norm="group", pre_norm=False, conv_bias=False)
MAKERS: dict[str, Callable[[Path], Path]] = {
    "emotion2vec": lambda root: toys.convert(toys.make(root / "checkpoint"), root / "model"),
    "wav2vec2": lambda root: toys.convert(toys.make_dimensional(root / "checkpoint"), root / "model"),
    "wav2vec2 of the base kind": lambda root: toys.convert(
        wav2vec2_converter.make(BASE_KIND, root / "checkpoint"), root / "model"
    ),
    "wavlm": lambda root: toys.make_wavlm(root / "model"),
    "wav2small deviation": lambda root: toys.make_small(root / "model", toys.DEVIATION),
    "wav2small gram": lambda root: toys.make_small(root / "model", toys.GRAM),
    "ge2e": lambda root: toys.make_random(root / "model", toys.GE2E),
    "ecapa": lambda root: toys.make_random(root / "model", toys.ECAPA),
    "whisper": lambda root: toys.make_whisper(root / "model"),
    "whisper, padded": lambda root: toys.make_whisper(root / "model", replace(toys.WHISPER, pad=True)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Converted models of every family, with random weights like those of training."""
    return cache(lambda name: MAKERS[name](tmp_path_factory.mktemp("numpy")))


def noise(samples: int, seed: int = 0) -> NDArray[np.float32]:
    """A hum in noise."""
    hum = np.sin(np.arange(samples) / 20)
    return np.asarray(0.1 * hum + np.random.default_rng(seed).normal(0, 0.1, samples), dtype=np.float32)


# The shortest clip, part of a tile of convolutions, several tiles.
CLIPS = [noise(samples, seed) for seed, samples in enumerate([400, 9_001, 70_000])]


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: f"{len(clip)} samples")
def test_every_stage_is_that_of_torch(folder: Callable[[str], Path], name: str, clip: NDArray[np.float32]) -> None:
    found, expected = (load(folder(name), runtime=runtime).stages(clip, 16_000) for runtime in ("numpy", "cpu"))
    assert [*found] == [*expected]
    for stage, value in expected.items():
        assert (found[stage].shape, found[stage].dtype) == (value.shape, np.float32), stage
        np.testing.assert_allclose(found[stage], value, rtol=0, atol=1e-4, err_msg=stage)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_outputs_are_those_of_torch(folder: Callable[[str], Path], name: str) -> None:
    """Untraced, where convolutions run tile by tile."""
    models = [load(folder(name), runtime=runtime) for runtime in ("numpy", "cpu")]
    ours, torchs = (model.each(CLIPS, 16_000, frames=True) for model in models)
    for one, other in zip(ours, torchs, strict=True):
        assert not isinstance(one, Exception)
        assert not isinstance(other, Exception)
        found, expected = vars(one[1]), vars(other[1])
        for field, tolerance in (("embedding", 2e-5), ("logits", 2e-5), ("frames", 1e-4), ("frame_logits", 1e-4)):
            if field == "frame_logits" and not models[0].config.architecture.judges_frames:
                assert found[field] is expected[field] is None
                continue
            np.testing.assert_allclose(found[field], expected[field], rtol=0, atol=tolerance, err_msg=field)
            assert found[field].dtype == np.float32


@pytest.mark.parametrize("name", MAKERS)
def test_a_batch_gives_the_bits_of_single_clips(folder: Callable[[str], Path], name: str) -> None:
    model = load(folder(name), runtime="numpy")
    together, again = (model.embed(CLIPS, 16_000, granularity="frame") for _ in range(2))
    for clip, one, other in zip(CLIPS, together, again, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(one, model.embed(clip, 16_000, granularity="frame"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_stored_16_bits_are_computed_in_float32(tmp_path: Path, dtype: str) -> None:
    model = toys.convert(toys.make(tmp_path / "checkpoint"), tmp_path / "model", dtype=dtype)
    ours, torchs = load(model, runtime="numpy"), load(model, runtime="cpu", dtype="float32")
    assert ours.dtype == "float32"
    for one, other in zip(ours.embed(CLIPS, 16_000), torchs.embed(CLIPS, 16_000), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


def test_another_type_is_refused_before_anything_is_looked_for(tmp_path: Path) -> None:
    for dtype in ("float16", "bfloat16"):
        with pytest.raises(RuntimeUnavailable, match=f"float32 only, not in {dtype}"):
            load(tmp_path / "not even looked for", runtime="numpy", dtype=dtype)


def test_float32_and_auto_are_what_it_computes_in(folder: Callable[[str], Path]) -> None:
    assert {load(folder("emotion2vec"), runtime="numpy", dtype=each).dtype for each in (None, "float32", "auto")} == {
        "float32"
    }


# --- without torch

ANSWERS = """
import json, sys, numpy as np, e2v_port
clip = np.load(sys.argv[1])
found = {}
for name in sys.argv[3:]:
    model = e2v_port.load(name, runtime=sys.argv[2])
    [(_, output)] = model.each([clip], 16_000, frames=True)
    vectors = (
        output.embedding if output.logits is None else output.logits,
        output.frames if output.frame_logits is None else output.frame_logits,
    )
    found[name] = [model.runtime, *(vector.tolist() for vector in vectors)]
imported = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"found": found, "imported": sorted({"torch", "mlx"} & imported)}))
"""


def answers(tmp_path: Path, prelude: str, runtime: str, *models: Path | str) -> dict[str, Any]:
    """Runs models in a process of its own: `found`, and which of torch and MLX it `imported`."""
    np.save(tmp_path / "clip.npy", CLIPS[2])
    command = [sys.executable, "-c", prelude + ANSWERS, str(tmp_path / "clip.npy"), runtime, *map(str, models)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("runtime", ["auto", "numpy"])
def test_it_answers_where_torch_and_mlx_cannot_be_imported(
    folder: Callable[[str], Path], tmp_path: Path, runtime: str
) -> None:
    models = ["bundled", *map(str, map(folder, MAKERS))]
    answer = answers(tmp_path, BLOCKED, runtime, *models)
    assert answer["imported"] == []
    assert [*answer["found"]] == models
    for name, (used, *vectors) in answer["found"].items():
        assert used == "numpy"
        [(_, expected)] = load(name, runtime="cpu").each([CLIPS[2]], 16_000, frames=True)  # type: ignore[misc]
        wanted = (  # a speaker encoder has no labels
            expected.embedding if expected.logits is None else expected.logits,
            expected.frames if expected.frame_logits is None else expected.frame_logits,
        )
        for vector, known, tolerance in zip(vectors, wanted, (2e-5, 1e-4), strict=True):
            np.testing.assert_allclose(vector, known, rtol=0, atol=tolerance)


def test_it_imports_no_torch_where_there_is_one(folder: Callable[[str], Path], tmp_path: Path) -> None:
    answer = answers(tmp_path, "", "numpy", "bundled", folder("whisper"))
    assert answer["imported"] == []


def test_auto_prefers_torch(folder: Callable[[str], Path]) -> None:
    assert load(folder("emotion2vec")).runtime != "numpy"


def test_a_broken_torch_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so is missing')\n", "utf-8")
    answer = answers(tmp_path, f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n", "auto", "bundled")
    assert answer["found"]["bundled"][0] == "numpy"


def test_where_torch_is_missing_the_error_names_numpy() -> None:
    program = f"""{BLOCKED}
from e2v_port.models import devices
for runtime in ("cpu", "cuda"):
    print(devices.unavailable(runtime))
try:
    devices.choose("auto", "bfloat16")
except Exception as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *["torch is not installed: pip install \"e2v-port[torch]\", or use runtime='numpy'"] * 2,
        "runtime numpy computes in float32 only, not in bfloat16: leave the dtype out",
    ]


# --- the arithmetic


def test_the_error_function_is_that_of_the_standard_library() -> None:
    x = np.concatenate([np.linspace(-6, 6, 40_001), [-1e30, -100, 100, 1e30, -np.inf, np.inf]]).astype(np.float32)
    found = layers_numpy.erf(x)
    assert found.dtype == np.float32
    assert np.abs(found - [math.erf(float(value)) for value in x]).max() < 1e-6
    assert np.isnan(layers_numpy.erf(np.array([np.nan], np.float32))).all()


def test_gelu_takes_any_layout() -> None:
    x = np.random.default_rng(0).normal(0, 2, (300, 100, 3)).astype(np.float32)
    expected = np.array([value * (1 + math.erf(value / math.sqrt(2))) / 2 for value in x.ravel().astype(np.float64)])
    before = x.copy()
    for given, wanted in ((x, expected.reshape(x.shape)), (x.swapaxes(0, 1), expected.reshape(x.shape).swapaxes(0, 1))):
        np.testing.assert_allclose(layers_numpy.gelu(given), wanted, rtol=0, atol=3e-6)
    assert np.array_equal(x, before)


def test_the_convolutions_of_a_long_clip_take_no_more_memory(folder: Callable[[str], Path]) -> None:
    config = ModelConfig.read(folder("emotion2vec"))
    read = tensors.read(folder("emotion2vec") / "model.safetensors", config.architecture.tensors())
    network = Emotion2vec(nested(read), config.architecture)  # type: ignore[arg-type]

    def needed(seconds: int) -> int:
        """Peak memory besides the result and one copy of it, in bytes."""
        clip = noise(16_000 * seconds)
        tracemalloc.start()
        try:
            result = network.extract(clip, layers_numpy.untraced)
            return tracemalloc.get_traced_memory()[1] - 2 * result.nbytes
        finally:
            tracemalloc.stop()

    assert needed(60) < 1.2 * needed(5)


def test_the_host_may_have_numpy_raise(folder: Callable[[str], Path]) -> None:
    model = load(folder("emotion2vec"), runtime="numpy")
    expected = model.layers(CLIPS[1], 16_000), model.predict(CLIPS[1], 16_000), model.stages(CLIPS[1], 16_000)
    with np.errstate(all="raise"):
        found = model.layers(CLIPS[1], 16_000), model.predict(CLIPS[1], 16_000), model.stages(CLIPS[1], 16_000)
        assert np.geterr()["under"] == "raise"
    assert np.array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    assert all(np.array_equal(found[2][name], value) for name, value in expected[2].items())


def test_it_can_always_run() -> None:
    assert devices.unavailable("numpy") is None

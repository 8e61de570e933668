"""Faster paths for GPUs change no answer: compiled layers, graphs of padded clips, clips read at the same time.

Most of this needs no GPU: the front half of torch's compiler traces the same code on a CPU. The rest runs with CUDA.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys

from e2v_port.analysis.analyze import each
from e2v_port.analysis.results import Analysis
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.runtime import Output
from e2v_port.errors import AudioError
from e2v_port.models import devices
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.runtimes import torch_runtime
from e2v_port.runtimes.fast import compiled

TOLERANCE = 2e-5  # of logits in float32, against single clips
needs_cuda = pytest.mark.skipif(devices.unavailable("cuda") is not None, reason=str(devices.unavailable("cuda")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        "emotion2vec": toys.convert(toys.make(root / "e checkpoint"), root / "emotion2vec"),
        "wav2vec2": toys.convert(toys.make_dimensional(root / "w checkpoint"), root / "wav2vec2"),
        "wavlm": toys.make_wavlm(root / "wavlm"),
        "whisper": toys.make_whisper(root / "whisper"),
    }


@pytest.fixture(params=["emotion2vec", "wav2vec2", "whisper"])
def folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def assert_equal(output: Output, expected: Output) -> None:
    assert output.frames is not None
    assert expected.frames is not None
    np.testing.assert_allclose(output.frames, expected.frames, rtol=0, atol=1e-4)
    np.testing.assert_allclose(output.logits, expected.logits, rtol=0, atol=TOLERANCE)


def test_compiled_layers_give_the_same_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are traced whole, for any number of clips of any lengths; attention stores no bias of T x T."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled._compiled_forward.cache_clear()
    torch._dynamo.reset()  # of what other models compiled: torch limits the sizes that one function is compiled for
    config = ModelConfig.read(folder)
    runtime = torch_runtime.load(folder / "model.safetensors", config, "cpu", "float32", packed=False)
    lengths = ([16_000, 9000], [700, 32_000, 20_000], [15_000] * 5)
    batches = [np.stack([np.pad(noise(n, i), (0, max(each) - n)) for i, n in enumerate(each)]) for each in lengths]
    expected = [runtime.run(batch, each, frames=True) for batch, each in zip(batches, lengths, strict=True)]
    model = compiled.compiled(runtime.model, runtime._empty(config))
    shared = {tensor.data_ptr() for tensor in runtime.model.state_dict().values()}
    assert {tensor.data_ptr() for tensor in model.state_dict().values()} == shared, "no second copy of the weights"
    runtime.model = model
    torch._dynamo.utils.counters.clear()
    for batch, samples, known in zip(batches, lengths, expected, strict=True):
        for one, other in zip(runtime.run(batch, samples, frames=True), known, strict=True):
            assert_equal(one, other)
    # Three sizes of convolution, one positional layer, one block, each for any batch. Windows of the third size do not
    # overlap: they are compiled a second time for clips that they divide without a rest. Whisper has no positional
    # layer, and two sizes of convolution.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == (3 if config.family == "whisper" else 6)
    compiled._compiled_forward.cache_clear()


@pytest.mark.parametrize("name", ["emotion2vec", "wav2vec2", "wavlm", "whisper"])
def test_a_graph_serves_all_clips_up_to_its_length(name: str, folders: dict[str, Path]) -> None:
    folder = folders[name]
    config = ModelConfig.read(folder)
    runtime = torch_runtime.load(folder / "model.safetensors", config, "cpu", "float32", packed=False)
    for samples in (400, 7999, 8000):
        clip = noise(samples)
        [expected] = runtime.run(clip[None], [samples], frames=True)
        with torch.inference_mode():
            filled = torch.from_numpy(np.pad(clip, (0, 8000 - samples)))[None]
            hidden, pooled, logits = runtime.model.encode(filled, torch.tensor([samples]), True)
        frames = hidden[0, : config.architecture.frames(samples)].numpy()
        assert_equal(Output(pooled[0].numpy(), logits[0].numpy(), frames, None), expected)


def reading_ahead(folder: Path) -> Model:
    """Returns a model for which several threads read clips, as on a GPU."""
    model = load(folder, runtime="cpu")
    model.readers = 4
    return model


def test_clips_read_at_the_same_time_come_in_order(folders: dict[str, Path], tmp_path: Path) -> None:
    model = reading_ahead(folders["emotion2vec"])
    draw = np.random.default_rng(5)
    clips: list[Any] = [noise(int(n), i) for i, n in enumerate(draw.integers(400, 40_000, 60))]
    clips[7], clips[30] = tmp_path / "absent.wav", np.full(800, np.nan, np.float32)
    clips[40] = noise(70 * 16_000)  # in windows
    expected = list(load(folders["emotion2vec"], runtime="cpu").each(clips, 16_000))
    found = list(model.each(clips, 16_000))
    assert [i for i, each in enumerate(found) if isinstance(each, AudioError)] == [7, 30]
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, AudioError) or isinstance(other, AudioError):
            assert str(one) == str(other)
        else:
            assert one[0] == other[0]
            np.testing.assert_allclose(one[1].logits, other[1].logits, rtol=0, atol=TOLERANCE)


def test_few_clips_are_read_ahead(folders: dict[str, Path]) -> None:
    model = reading_ahead(folders["emotion2vec"])
    before, read = threading.active_count(), 0

    def clips() -> Any:
        nonlocal read
        while True:
            read += 1
            yield noise(160_000)

    results = model.each(clips(), 16_000)
    next(results)
    assert read <= 2 * model.window_seconds / 10 + 4 * 4 + 2
    results.close()
    for _ in range(100):
        if threading.active_count() <= before + 2:  # the two threads that compute stay
            break
        time.sleep(0.05)
    assert threading.active_count() <= before + 2


def test_the_next_window_is_read_while_one_is_judged(folders: dict[str, Path], speech_folder: Path) -> None:
    clips: list[Any] = sorted(speech_folder.glob("emodb_*.flac"))[:20]
    clips[4] = np.full(16_000, np.nan, np.float32)
    plain, model = load(folders["emotion2vec"], runtime="cpu"), reading_ahead(folders["emotion2vec"])
    read_on, run = threading.Event(), model._runner.run

    def waiting(*args: Any, **options: Any) -> Any:
        """Holds the first window back until a clip of another one is read."""
        assert read_on.wait(20)
        return run(*args, **options)

    def read() -> Any:
        for i, clip in enumerate(clips):
            if i == 18:
                read_on.set()
            yield clip

    model._runner.run = waiting  # type: ignore[method-assign]
    plain.window_seconds = model.window_seconds = 5.0
    options: Any = {"frames": True, "sampling_rate": 16_000}
    found, expected = list(each(read(), model=model, **options)), list(each(clips, model=plain, **options))
    assert [i for i, one in enumerate(found) if isinstance(one, AudioError)] == [4]
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, Analysis) and isinstance(other, Analysis):
            assert (one.file, one.segments, one.boundaries) == (other.file, other.segments, other.boundaries)
        else:
            assert str(one) == str(other)


def test_nothing_is_compiled_on_a_cpu(folder: Path) -> None:
    assert load(folder, runtime="cpu").compile() is False


@needs_cuda
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_graphs_and_compiled_batches_on_a_gpu(folder: Path, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    tolerance = 1e-4 if dtype == "float32" else 0.1  # logits of toys, which span some 6
    clips = [noise(n, n) for n in (400, 16_000, 16_000, 15_000, 60_000, 60_000, 200_000)]
    expected = [output for _, output in each_ok(load(folder, runtime="cpu"), clips)]
    model = load(folder, runtime="cuda", dtype=dtype)

    def check(outputs: list[Output]) -> None:
        for found, known in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(found.logits, known.logits, rtol=0, atol=tolerance)

    one_by_one: Callable[[Any], Output] = lambda clip: each_ok(model, [clip])[0][1]  # noqa: E731
    for _ in range(3):  # layer by layer, recorded, replayed
        check([one_by_one(clip) for clip in clips])
    with ThreadPoolExecutor(4) as pool:
        check(list(pool.map(one_by_one, clips)))
    check([output for _, output in each_ok(model, clips)])
    assert model.compile(), caplog.text
    check([output for _, output in each_ok(model, clips)])
    assert "layer by layer" not in caplog.text


def each_ok(model: Model, clips: list[Any]) -> list[tuple[float, Output]]:
    found = []
    for result in model.each(clips, 16_000):
        assert not isinstance(result, AudioError)
        found.append(result)
    return found

"""Numbers do not depend on the settings of torch, MLX and the host program, which stay as they are."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from safetensors.numpy import load_file
from test_training import SMALL, write_corpus

from e2v_port.evaluation import readers
from e2v_port.models.load import load
from e2v_port.training import head, scratch
from e2v_port.training.task import choose

BACKENDS = torch.backends


@contextmanager
def having(read: Callable[[], Any], write: Callable[[Any], None], value: Any) -> Iterator[None]:
    before = read()
    write(value)
    try:
        yield
        assert read() == value, "the host's setting was changed"
    finally:
        write(before)


def attribute(place: Any, name: str, value: Any) -> AbstractContextManager[None]:
    return having(lambda: getattr(place, name), lambda new: setattr(place, name, new), value)


def dtype(value: torch.dtype) -> AbstractContextManager[None]:
    return having(torch.get_default_dtype, torch.set_default_dtype, value)


def sdp(kernel: str) -> AbstractContextManager[None]:
    return having(
        getattr(BACKENDS.cuda, f"{kernel}_sdp_enabled"), getattr(BACKENDS.cuda, f"enable_{kernel}_sdp"), False
    )


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)


@contextmanager
def autocast() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield
        assert torch.is_autocast_enabled("cpu")


HOSTS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "float64": lambda: dtype(torch.float64),
    "bfloat16": lambda: dtype(torch.bfloat16),
    "float16": lambda: dtype(torch.float16),
    "autocast": autocast,
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "default device": default_device,
    "block of a device": lambda: torch.device("meta"),
    "deterministic": lambda: having(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "medium precision": lambda: having(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "tf32": lambda: attribute(BACKENDS.cuda.matmul, "allow_tf32", True),
    "no oneDNN": lambda: attribute(BACKENDS.mkldnn, "enabled", False),
    **{f"no {kernel} attention": lambda kernel=kernel: sdp(kernel) for kernel in ("flash", "mem_efficient", "math")},
}
if hasattr(BACKENDS.mkldnn, "matmul"):  # torch 2.9
    HOSTS |= {
        f"{kind} in bfloat16": lambda kind=kind: attribute(getattr(BACKENDS.mkldnn, kind), "fp32_precision", "bf16")
        for kind in ("matmul", "conv", "rnn")
    }

every_host = pytest.mark.parametrize("host", [pytest.param(make, id=name) for name, make in HOSTS.items()])


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [(0.1 * draw.standard_normal(samples)).astype(np.float32) for samples in (9000, 16000, 31000)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    draw = np.random.default_rng(0)
    heard = replace(toys.WHISPER, num_labels=3)
    arrays = {name: 0.1 * draw.standard_normal(shape) for name, shape in heard.tensors().items()}
    return {
        "emotion2vec": toys.convert(toys.make(root / "checkpoint"), root / "emotion2vec"),
        "emotion2vec in bfloat16": toys.convert(root / "checkpoint", root / "bfloat16", dtype="bfloat16"),
        "wav2vec2": toys.convert(toys.make_dimensional(root / "dimensional"), root / "wav2vec2"),
        "wavlm": toys.make_wavlm(root / "wavlm"),
        "wav2small": toys.make_small(root / "wav2small", toys.DEVIATION),
        "wav2small gram": toys.make_small(root / "gram", toys.GRAM),
        "whisper": toys.store(root / "whisper", heard, arrays),
        "bundled": Path("bundled"),
    }


def outputs(folder: Path, clips: list[np.ndarray]) -> list[np.ndarray]:
    """Everything a model gives for a batch, one clip alone, every stage, and its head by itself."""
    model = load(folder if folder.is_absolute() else str(folder), runtime="cpu")
    arrays = [array for _, output in model.each(clips, 16_000) for array in (output.embedding, output.logits)]
    arrays += [next(model.each(clips[:1], 16_000, frames=True))[1].frames]
    arrays += model.stages(clips[0], 16_000).values()
    return [*arrays, model._runner.score(arrays[0])]


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path], clips: list[np.ndarray]) -> dict[str, list[np.ndarray]]:
    return {name: outputs(folder, clips) for name, folder in folders.items()}


@every_host
@pytest.mark.parametrize(
    "name",
    [
        "emotion2vec",
        "emotion2vec in bfloat16",
        "wav2vec2",
        "wavlm",
        "wav2small",
        "wav2small gram",
        "whisper",
        "bundled",
    ],
)
def test_a_model_gives_the_same_bits(
    folders: dict[str, Path], clips: list[np.ndarray], expected: dict[str, list[np.ndarray]], name: str, host: Any
) -> None:
    with host():
        found = outputs(folders[name], clips)
    assert len(found) == len(expected[name])
    assert all(np.array_equal(*pair) for pair in zip(found, expected[name], strict=True))


@every_host
def test_a_conversion_gives_the_same_file(folders: dict[str, Path], tmp_path: Path, host: Any) -> None:
    with host():
        folder = toys.convert(folders["emotion2vec"].with_name("checkpoint"), tmp_path / "model")
    assert (folder / "model.safetensors").read_bytes() == (folders["emotion2vec"] / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trainings(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], list[np.ndarray]]:
    """Trains a network and two heads, and returns the tensors of all of them."""
    chosen = choose([readers.read(write_corpus(tmp_path_factory.mktemp("corpus"), takes=2))])

    def run(out: Path) -> list[np.ndarray]:
        scratch.train(chosen, out / "small", replace(SMALL, epochs=2), number_of_threads=1)
        for hidden in (0, 4):
            recipe = head.HeadRecipe(hidden=hidden, epochs=2)
            head.train(folders["wav2small"], chosen, out / f"head {hidden}", recipe, runtime="cpu", number_of_threads=1)
        files = sorted(out.glob("*/model.safetensors"))
        return [array for file in files for _, array in sorted(load_file(file).items())]

    return run


@pytest.fixture(scope="module")
def trained(
    trainings: Callable[[Path], list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory
) -> list[np.ndarray]:
    return trainings(tmp_path_factory.mktemp("trained"))


@every_host
def test_training_gives_the_same_bits(
    trainings: Callable[[Path], list[np.ndarray]], trained: list[np.ndarray], tmp_path: Path, host: Any
) -> None:
    with host():
        found = trainings(tmp_path)
    assert len(found) == len(trained) > 20
    assert all(np.array_equal(*pair) for pair in zip(found, trained, strict=True))


def state() -> list[Any]:
    """Every setting that a computation could have changed, in this thread and in the process."""
    precisions = [torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32, BACKENDS.cuda.matmul.allow_tf32]
    precisions += [BACKENDS.mkldnn.enabled, torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()]
    thread = [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")]
    return [*precisions, *thread, torch.get_default_dtype(), torch.get_default_device(), torch.get_rng_state().sum()]


def test_the_settings_are_as_before_after_overlapping_calls(clips: list[np.ndarray]) -> None:
    """The second thread enters while the first one computes, and leaves after it; the host changes its mind inside."""
    from e2v_port.host import own_settings

    entered, leave = threading.Event(), threading.Event()

    def second() -> None:
        with own_settings():
            entered.set()
            leave.wait()

    with (
        attribute(BACKENDS.mkldnn, "enabled", False),
        having(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"),
    ):
        before = state()
        thread = threading.Thread(target=second)
        with own_settings("cuda"):
            thread.start()
            entered.wait()
            assert BACKENDS.mkldnn.enabled
            assert torch.get_float32_matmul_precision() == "highest"
        leave.set()
        thread.join()
        assert state() == before
        with own_settings():
            torch.set_float32_matmul_precision("high")  # by another thread of the host
            with own_settings():
                assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
        torch.set_float32_matmul_precision("medium")


@toys.needs_mlx
def test_mlx_gives_the_same_bits_on_a_stream_of_the_host(folders: dict[str, Path], clips: list[np.ndarray]) -> None:
    import mlx.core as mx

    model = load(folders["wav2small"], runtime="mlx")
    expected = [output.logits for _, output in model.each(clips, 16_000)]
    before = mx.default_device(), mx.default_stream(mx.cpu)
    stream = mx.new_stream(mx.cpu)
    mx.set_default_stream(stream)
    found = [output.logits for _, output in model.each(clips, 16_000)]
    assert mx.default_device() == before[0]
    assert mx.default_stream(mx.cpu) == stream
    mx.set_default_stream(before[1])
    assert all(np.array_equal(*pair) for pair in zip(found, expected, strict=True))

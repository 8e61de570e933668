"""A model from loading to closing: what it says about itself, that closing frees it, and what is refused afterwards."""

import threading
import weakref
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from toys import make

import e2v_port
from e2v_port.architectures.config import ModelConfig
from e2v_port.errors import E2VError
from e2v_port.models import devices
from e2v_port.models.model import Model

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
WEIGHTS = Path(__file__).parents[1] / "weights"
RUNTIMES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(reason), reason=f"runtime {name}: {reason}"))
    for name in devices.RUNTIMES
    for reason in [devices.unavailable(name)]
]


def network(model: Model) -> Any:
    return cast(Any, model)._runner.model


def test_the_facts_are_those_of_the_file_and_of_the_network_in_memory() -> None:
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    info = model.info()
    file = WEIGHTS / "bundled-tiny" / "model.safetensors"
    assert info.disk_bytes == file.stat().st_size
    with safe_open(file, "np") as stored:
        names = [name for name in stored.keys() if name != "head.means"]  # noqa: SIM118 (it is no dict)
        assert info.parameters == sum(stored.get_tensor(name).size for name in names)
    assert (info.name, info.family, info.runtime, info.licence) == ("bundled-tiny", "wav2small", "cpu", "MIT")
    assert torch.__version__ in info.device
    assert info.load_seconds is not None
    assert 0 < info.load_seconds < 60
    assert info.labels == model.labels
    assert not info.closed


# The first is packed on the disk. On a CPU with instructions for it, bfloat16 of a transformer is held by oneDNN.
@pytest.mark.parametrize(
    ("name", "dtype"), [("bundled", "float32"), ("bundled-tiny", "float32"), ("bundled-tiny", "bfloat16")]
)
def test_the_memory_is_estimated_well(name: str, dtype: str) -> None:
    model = e2v_port.load(name, runtime="cpu", dtype=dtype)
    packed = [part.packed for part in network(model).modules() if hasattr(part, "packed")]  # by oneDNN
    held = [*network(model).parameters(), *network(model).buffers(), *packed]
    in_memory = sum(each.numel() * each.element_size() for each in held)
    assert model.info().memory_bytes == pytest.approx(in_memory, rel=0.05)


def test_sixteen_bits_take_half_the_memory() -> None:
    whole, half = (e2v_port.load("bundled", runtime="cpu", dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert half.info().memory_bytes * 2 == whole.info().memory_bytes
    assert half.info().disk_bytes == whole.info().disk_bytes


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_closing_frees_the_network_and_later_calls_say_so(runtime: str) -> None:
    model = e2v_port.load("bundled-tiny", runtime=runtime)
    limited = model.limited(("angry", "sad"))
    before = model.predict(CLIP)
    gone = weakref.ref(network(model))
    model.close()
    model.close()
    assert gone() is None, "somebody still holds the weights"
    for each in model, limited:
        assert each.closed
        assert each.info().closed
        with pytest.raises(E2VError, match=r"^bundled-tiny is closed: load it again$"):
            each.predict(CLIP)
    with pytest.raises(E2VError, match="is closed"):
        model.embed(CLIP)
    with pytest.raises(E2VError, match="is closed"):
        e2v_port.analyze(CLIP, model=model)
    assert "closed" in repr(model)
    with e2v_port.load("bundled-tiny", runtime=runtime) as again:
        assert again.predict(CLIP) == before
    assert again.closed


def test_a_transformer_is_freed_as_well(tmp_path: Path) -> None:
    with e2v_port.load(e2v_port.convert(make(tmp_path / "a"), out=tmp_path / "b"), runtime="cpu") as model:
        model.predict(CLIP)
        gone = weakref.ref(network(model))
    assert gone() is None


def test_closing_waits_for_nobody_and_breaks_no_batch_that_runs() -> None:
    """A batch in another thread holds the network until it is done."""
    model = e2v_port.load("bundled-tiny", runtime="cpu")
    expected = model.embed(CLIP)
    entered, go_on = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        entered.set()
        go_on.wait(30)

    network(model).register_forward_pre_hook(wait)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(model.embed(CLIP)))
    thread.start()
    assert entered.wait(30)
    model.close()
    go_on.set()
    thread.join(30)
    np.testing.assert_array_equal(found[0], expected)


def test_the_hash_depends_on_weights_and_configuration(tmp_path: Path) -> None:
    source = WEIGHTS / "bundled-tiny"
    config = ModelConfig.read(source)
    hashes = []
    for number, change in enumerate((b"", b" ")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((source / "model.safetensors").read_bytes())
        (folder / "config.json").write_bytes((source / "config.json").read_bytes() + change)
        hashes.append(e2v_port.load(folder, runtime="numpy").digest)
        assert ModelConfig.read(folder).labels == config.labels
    assert hashes[0] != hashes[1]
    assert hashes[0] == e2v_port.load("bundled-tiny", runtime="numpy").digest

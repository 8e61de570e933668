"""A family is one word: tests/toy_family/ has the files of one, and with one line in the registry everything works."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from torch.utils.flop_counter import FlopCounterMode

import e2v_port
from e2v_port.architectures import tensors
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.registry import FAMILIES, Family, family_of
from e2v_port.checkpoints.checkpoint import local
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models.long_clips import LONGEST
from e2v_port.parity import references, verify

FILES = Path(__file__).parent / "toy_family"
ROOMS = ("architectures", "converters", "runtimes", "parity")
LINE = Family("toy", "ToyConfig", "Toy")


@pytest.fixture(scope="module", autouse=True)
def toy_family() -> Iterator[None]:
    """Puts the toy's files where a family's files are, and its line into the registry."""
    with pytest.MonkeyPatch.context() as patch:
        for room in ROOMS:
            package = import_module(f"e2v_port.{room}")
            patch.setattr(package, "__path__", [*package.__path__, str(FILES / room)])
        patch.setitem(FAMILIES, LINE.name, LINE)
        yield
    for name in [name for name in sys.modules if name.startswith("e2v_port.") and ".toy" in name]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from e2v_port.converters import synthetic

    return synthetic.make_checkpoint("toy", tmp_path_factory.mktemp("toy") / "checkpoint", seed=3)


@pytest.fixture(scope="module")
def folder(source: Path) -> Path:
    return e2v_port.convert(source, out=source.with_name("model"))


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return verify.test_clip()


def test_the_checkpoint_converts_to_the_layout(folder: Path) -> None:
    config = ModelConfig.read(folder)
    assert (config.family, [label.name for label in config.labels]) == ("toy", ["loud", "quiet"])
    assert family_of(config.architecture) is LINE
    tensors.check(folder / "model.safetensors", config.architecture, config.dtype)


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_all_runtimes_predict_what_the_reference_does(
    folder: Path, source: Path, clip: np.ndarray, runtime: str
) -> None:
    model = e2v_port.load(folder, runtime=runtime)
    prediction = model.predict(clip, 16_000)
    logits = references.reference("toy")(local(source)).stages(clip)["logits"]
    assert [*prediction.logits.values()] == pytest.approx(logits.tolist(), abs=1e-5)
    assert len(model.embed(clip, 16_000, granularity="frame")) == model.config.architecture.frames(len(clip))


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_long_clips_run_in_windows(folder: Path, source: Path, runtime: str) -> None:
    long = np.random.default_rng(0).standard_normal(LONGEST + 50_000).astype(np.float32)
    model = e2v_port.load(folder, runtime=runtime)
    whole = references.reference("toy")(local(source)).stages(long)
    assert model.embed(long, 16_000) == pytest.approx(whole["pooled"], abs=1e-5)
    assert model.embed(long, 16_000, granularity="frame") == pytest.approx(whole["frames"], abs=1e-4)


def test_it_verifies(folder: Path) -> None:
    runtimes = ["cpu", "numpy", *(["mlx"] if not toys.needs_mlx.args[0] else [])]
    rows, notes = verify.verify([e2v_port.load(folder, runtime=runtime) for runtime in runtimes])
    assert {row[0].name for row in rows} == {"waveform", "frames", "pooled", "logits", "probabilities"}
    assert all(check.passed for row in rows for check in row)
    assert not [note for note in notes if note.startswith("no reference")]


def test_its_operations_are_those_that_torch_counts(folder: Path, clip: np.ndarray) -> None:
    model = e2v_port.load(folder, runtime="cpu")
    with FlopCounterMode(display=False) as counter:
        model.predict(clip, 16_000)
    assert model.config.architecture.flops(len(clip)) == counter.get_total_flops()


def test_its_dtypes(folder: Path, source: Path, clip: np.ndarray) -> None:
    exact = e2v_port.load(folder, runtime="cpu").predict(clip, 16_000)
    packed = e2v_port.convert(source, out=source.with_name("q8"), dtype="q8")
    for model in (e2v_port.load(packed, runtime="cpu"), e2v_port.load(folder, runtime="cpu", dtype="bfloat16")):
        assert model.predict(clip, 16_000).confidence == pytest.approx(exact.confidence, abs=0.01)
    assert e2v_port.load(folder, runtime="cpu", dtype="auto").dtype in {"float32", "bfloat16"}


def test_it_exports(folder: Path, clip: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason='onnxruntime is not installed: pip install "e2v-port[onnx]"'
    )
    export_onnx(folder, tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    (logits,) = session.run(["logits"], {"waveform": clip[None], "samples": np.array([len(clip)])})
    prediction = e2v_port.load(folder, runtime="cpu").predict(clip, 16_000)
    assert logits[0] == pytest.approx([*prediction.logits.values()], abs=1e-5)
    export_onnx(folder, tmp_path / "int8", dtype="int8")


def test_without_a_graph_it_is_not_exported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx", reason='onnx is not installed: pip install "e2v-port[onnx]"')
    monkeypatch.setitem(sys.modules, "e2v_port.runtimes.toy_onnx", None)
    with pytest.raises(E2VError, match=r"the family toy cannot be written as ONNX: there is no toy_onnx\.py"):
        export_onnx(folder, tmp_path / "onnx")
    assert [*tmp_path.iterdir()] == []


def test_a_checkpoint_of_no_family_names_the_families(tmp_path: Path) -> None:
    torch.save({"strange.weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"no known family.*strange\.weight.*emotion2vec.*toy"):
        e2v_port.convert(tmp_path, out=tmp_path / "model")

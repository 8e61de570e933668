"""LAION's Empathic-Insight-Voice: networks on all frames of a Whisper, against the published class."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
from torch import nn

import e2v_port
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import whisper as whisper_converter
from e2v_port.converters.published import empathic
from e2v_port.converters.random_weights import trained_like
from e2v_port.errors import CheckpointError
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.parity import whisper as reference

NAMES = ("Anger", "Jealousy_&_Envy", "Sadness")
RUNTIMES = [*(name for name in devices.RUNTIMES if devices.unavailable(name) is None), "onnx"]


class FullEmbeddingMLP(nn.Module):
    """The published class, with fewer numbers."""

    def __init__(self, width: int, projection: int = 8, hidden: tuple[int, ...] = (6, 5, 4)) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.proj = nn.Linear(1500 * width, projection)
        layers: list[nn.Module] = [nn.ReLU(), nn.Dropout(0.0)]
        for size in hidden:
            layers += [nn.Linear(projection, size), nn.ReLU(), nn.Dropout(0.1)]
            projection = size
        self.mlp = nn.Sequential(*layers, nn.Linear(projection, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp(self.proj(self.flatten(x)))
        return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, dict[str, FullEmbeddingMLP]]:
    """Folders of the encoder's checkpoint, the encoder and the heads, and the heads as torch runs them."""
    root = tmp_path_factory.mktemp("empathic")
    source = whisper_converter.make(toys.WHISPER, root / "checkpoint")
    encoder = e2v_port.convert(source, out=root / "encoder")
    (root / "heads").mkdir()
    draw, heads = np.random.default_rng(0), {}
    for name in (*NAMES, "Age"):
        head = FullEmbeddingMLP(toys.WHISPER.width).eval()
        for key, value in head.named_parameters():
            drawn = trained_like(key, draw.standard_normal(tuple(value.shape), dtype=np.float32))
            value.data = torch.from_numpy(drawn)
        state = head.state_dict()
        if name == "Sadness":  # some files are those of a compiled module
            state = OrderedDict((f"_orig_mod.{key}", value) for key, value in state.items())
        torch.save(state, root / "heads" / f"model_{name}_best.pth")
        heads[name] = head
    return source, encoder, root / "heads", heads


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scores_equal_those_of_the_published_class(made, runtime, tmp_path, record_property):
    source, encoder, files, heads = made
    folder = tmp_path / "model"
    empathic.convert(encoder, files, folder, names=NAMES)
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        export_onnx(folder, tmp_path / "exported")
        folder = tmp_path / "exported"
    model = e2v_port.load(folder, runtime=runtime)
    draw = np.random.default_rng(1)
    clips = [0.1 * draw.standard_normal(samples).astype(np.float32) for samples in (8000, 40_001, 480_000)]
    found = [model.outputs(result)["emotions"] for result in model.each(clips, 16_000)]
    transformers = reference.Transformers(local(source))
    worst = 0.0
    for clip, scores in zip(clips, found, strict=True):
        frames = transformers.stages(np.pad(clip, (0, 480_000 - len(clip))))["frames"]
        with torch.inference_mode():
            wanted = {name: heads[name](torch.from_numpy(frames)[None]).item() for name in NAMES}
        assert [*scores] == [*NAMES]
        worst = max(worst, *(abs(scores[name] - wanted[name]) for name in NAMES))
    record_property("parity", ("empathic", runtime, "clips", {"outputs": worst}))
    assert worst < 5e-5
    assert model.labels == ()


def test_what_does_not_fit_is_refused(made, tmp_path):
    _, encoder, files, _ = made
    out = tmp_path / "model"
    with pytest.raises(CheckpointError, match=r"no model_Awe_best\.pth; heads that are there: Age, Anger, "):
        empathic.convert(encoder, files, out, names=["Anger", "Awe"])
    with pytest.raises(CheckpointError, match="Age: not an emotion"):
        empathic.convert(encoder, files, out, names=["Age"])
    with pytest.raises(CheckpointError, match="not the encoder alone"):
        empathic.convert(toys.make_whisper(tmp_path / "other"), files, out, names=NAMES)
    torch.save(FullEmbeddingMLP(16).state_dict(), tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match="Awe takes 24000 numbers"):
        empathic.convert(encoder, tmp_path, out, names=["Awe"])
    state = FullEmbeddingMLP(16).state_dict()
    torch.save(state | {"mlp.5.weight": state["mlp.5.weight"][:, 1:]}, tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match=r"mlp\.5 has shapes"):
        empathic.convert(encoder, tmp_path, out, names=["Awe"])
    torch.save(state | {"more": torch.ones(1)}, tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match="other tensors"):
        empathic.convert(encoder, tmp_path, out, names=["Awe"])
    assert not out.exists()

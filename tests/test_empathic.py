"""LAION's Empathic-Insight-Voice: networks on all frames of a Whisper, against the published class."""

import os
import shutil
import subprocess
import sys
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
from e2v_port.converters.random_weights import trained_like
from e2v_port.errors import CheckpointError, ModelNotFound
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.models import devices
from e2v_port.parity import whisper as reference

NAMES = ("Anger", "Jealousy_&_Envy", "Sadness")
COMMIT = "0" * 40
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
    e2v_port.convert(files, encoder=encoder, emotions=NAMES, out=folder)
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


def test_from_a_hub_and_by_the_command(made, tmp_path, monkeypatch):
    """Networks and encoder come from the hub's cache; of a folder, all emotions are taken."""
    source, _, files, _ = made
    cache = tmp_path / "hub"
    for repository, folder in (("Empathic-Insight-Voice-Small", files), ("BUD-E-Whisper", source)):
        snapshot = cache / f"models--laion--{repository}" / "snapshots" / COMMIT
        shutil.copytree(folder, snapshot)
        (snapshot.parents[1] / "refs").mkdir()
        (snapshot.parents[1] / "refs" / "main").write_text(COMMIT)
    known = "laion/Empathic-Insight-Voice-Small"
    variables = {"HF_HUB_CACHE": str(cache), "E2V_OFFLINE": "1", "E2V_WEIGHTS": str(tmp_path / "weights")}
    command = [sys.executable, "-m", "e2v_port", "convert", "--model", known, "--emotions", "Sadness, Anger"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "further outputs: emotions" in done.stdout
    monkeypatch.setenv("E2V_WEIGHTS", variables["E2V_WEIGHTS"])
    model = e2v_port.load(known, runtime="numpy")
    assert [*model.config.others["emotions"]] == ["Sadness", "Anger"]
    assert model.config.source.repository == f"{known}, on laion/BUD-E-Whisper"
    every = e2v_port.convert(files)
    assert [*e2v_port.load(every, runtime="numpy").config.others["emotions"]] == [*NAMES]
    assert every.parent.parent == tmp_path / "weights"
    for model, options, message in (
        (files, {"emotions": ["Anger"], "keep_npz": True}, "converted without --keep-npz and --head"),
        (source, {"emotions": ["Anger"]}, "are for checkpoints with a network for each emotion"),
    ):
        with pytest.raises(CheckpointError, match=message):
            e2v_port.convert(model, **options)
    with pytest.raises(ModelNotFound, match=r"e2v convert --model laion/Empathic-Insight-Voice-Large --emotions"):
        e2v_port.load("laion/Empathic-Insight-Voice-Large", runtime="numpy")


def test_what_does_not_fit_is_refused(made, tmp_path):
    _, encoder, files, _ = made
    out = tmp_path / "model"

    def convert(encoder: Path, heads: Path, names: list[str]) -> None:
        e2v_port.convert(heads, encoder=encoder, emotions=names, out=out)

    with pytest.raises(CheckpointError, match=r"no model_Awe_best\.pth; heads that are there: Age, Anger, "):
        convert(encoder, files, names=["Anger", "Awe"])
    with pytest.raises(CheckpointError, match="'Age' is not an emotion"):
        convert(encoder, files, names=["Age"])
    with pytest.raises(CheckpointError, match="not the encoder alone"):
        convert(toys.make_whisper(tmp_path / "other"), files, names=NAMES)
    with pytest.raises(CheckpointError, match="named twice"):
        convert(encoder, files, names=["Anger", "Anger"])
    torch.save(FullEmbeddingMLP(16).state_dict(), tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match="Awe takes 24000 numbers"):
        convert(encoder, tmp_path, names=["Awe"])
    state = FullEmbeddingMLP(16).state_dict()
    torch.save(state | {"mlp.5.weight": state["mlp.5.weight"][:, 1:]}, tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match=r"mlp\.5 has shapes"):
        convert(encoder, tmp_path, names=["Awe"])
    torch.save(state | {"more": torch.ones(1)}, tmp_path / "model_Awe_best.pth")
    with pytest.raises(CheckpointError, match="other tensors"):
        convert(encoder, tmp_path, names=["Awe"])
    assert not out.exists()

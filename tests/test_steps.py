"""Heads as data: the same operations on every runtime and in ONNX, on the hidden states that transformers computes."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import Tensor

import e2v_port
from e2v_port.architectures.base import Readout, Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.heads import Branch, Step
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import whisper as whisper_converter
from e2v_port.errors import CheckpointError
from e2v_port.export.onnx_folder import export_onnx
from e2v_port.parity import references
from e2v_port.parity import wav2vec2 as wav2vec2_reference

Array = NDArray[np.float32]

LARGE = replace(toys.DIMENSIONAL, depth=3, head_dim=0, num_labels=0)
BASE = replace(LARGE, conv_norm="group", pre_norm=False, conv_bias=False)
PADDED = replace(toys.WHISPER, pad=True)
ALL = (0, 1, 2, 3)

needs_transformers = pytest.mark.skipif(
    not references.installed("wav2vec2"), reason="transformers is not installed: pip install transformers"
)
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime")),
    reason='ONNX is not installed: pip install "e2v-port[onnx]"',
)


def _steps(*steps: Step | str) -> tuple[Step, ...]:
    return tuple(Step(step) if isinstance(step, str) else step for step in steps)


# Layers, operations and pooling of the heads that are published for such encoders, and every operation once.
PROJECTOR = Readout(ALL, "mean", final=True, steps=(Step("linear", "projector", 20),), width=48)
STACK = Readout(
    ALL,
    "mean",
    final=True,
    steps=_steps(Step("linear", "first", 20), "relu", Step("linear", "second", 24), "gelu", Step("norm", "last")),
    width=48,
)
WHOLE = Readout((3,), "mean", final=True, steps=_steps("clip_norm"), width=48)
STATISTICS = Readout((3,), "statistics", 1, final=True, steps=(Step("linear", "projector", 20),), width=48)
DIMENSIONS = Branch("dimensions", _steps(Step("linear", "hidden", 9), "relu", Step("linear", "out", 3), "sigmoid"))
AGE = Branch("age", (Step("linear", width=1),))
HEADS: dict[str, tuple[Transformer, Readout | None, dict[str, Any]]] = {
    "projector": (LARGE, PROJECTOR, {"embed_dim": 20, "num_labels": 5}),
    "projector of base": (BASE, PROJECTOR, {"embed_dim": 20, "num_labels": 5}),
    "stack": (
        LARGE,
        STACK,
        {
            "embed_dim": 24,
            "num_labels": 4,
            "head": _steps(Step("linear", "a", 7), Step("norm", "b"), "tanh", Step("linear", "c", 4, bias=False)),
            "others": (DIMENSIONS, AGE),
        },
    ),
    "norm of the clip": (
        BASE,
        WHOLE,
        {"num_labels": 4, "head": (Step("linear", "output", 4, bias=False),)},
    ),
    "statistics": (LARGE, STATISTICS, {"embed_dim": 40, "num_labels": 3}),
    "no labels": (LARGE, None, {"others": (AGE,)}),
}
FLAT = Readout((3,), "flatten", final=True, width=48)
CLIPS = [np.random.default_rng(0).normal(0, 0.3, size).astype(np.float32) for size in (20_000, 7_000)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Transformer], Path]:
    @cache
    def make(config: Transformer) -> Path:
        folder = tmp_path_factory.mktemp("checkpoint") / "source"
        maker: Any = whisper_converter.make if config is PADDED else wav2vec2_converter.make
        written: Path = maker(replace(config, pad=False) if config is PADDED else config, folder)
        return written

    return make


@pytest.fixture(scope="module")
def model(checkpoint: Callable[[Transformer], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A converted encoder with a head of some kind, whose weights are drawn."""

    @cache
    def write(kind: str) -> Path:
        encoder, readout, head = HEADS[kind]
        return _with_head(tmp_path_factory.mktemp("head"), checkpoint(encoder), encoder, readout, head)

    return write


def _with_head(place: Path, source: Path, encoder: Transformer, readout: Readout | None, head: dict[str, Any]) -> Path:
    stored = load_file(toys.convert(source, place / "whole") / "model.safetensors")
    architecture = replace(encoder, readout=readout, **head)
    draw = np.random.default_rng(5)
    arrays = {
        name: stored[name] if name in stored else draw.standard_normal(shape) / max(shape[-1], 4) ** 0.3
        for name, shape in architecture.tensors().items()
    }
    others = {branch.name: tuple(f"{branch.name} {i}" for i in range(branch.rows)) for branch in architecture.others}
    return toys.store(place / "model", architecture, arrays, others=others)


def _apply(steps: tuple[Step, ...], part: str, x: Tensor, stored: dict[str, Tensor]) -> Tensor:
    """Applies steps by their definition: to an embedding [C] or to all frames of one clip [T, C]."""
    for step in steps:
        name = f"{part}.{step.name}" if step.name else part
        weight, bias = stored.get(f"{name}.weight"), stored.get(f"{name}.bias")
        if step.op == "linear":
            assert weight is not None
            x = F.linear(x, weight, bias)
        elif step.op == "norm":
            x = F.layer_norm(x, x.shape[-1:], weight, bias)
        elif step.op == "clip_norm":
            x = F.layer_norm(x, x.shape)
        else:
            x = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}[step.op](x)  # type: ignore[operator]
    return x


def _expected(states: list[Tensor], folder: Path) -> dict[str, Array]:
    """Everything that a head makes of the hidden states [T, D] of one clip, by the definition, in float64."""
    stored = {name: torch.from_numpy(x).double() for name, x in load_file(folder / "model.safetensors").items()}
    config = ModelConfig.read(folder).architecture
    assert isinstance(config, Transformer)
    read = config.readout or Readout((len(states) - 1,), "mean", final=True)
    chosen = torch.stack([states[layer].double() for layer in read.layers])
    shares = torch.softmax(stored.get("readout.weights", torch.zeros(len(chosen))).double(), 0)
    x = _apply(read.steps, "readout.steps", torch.tensordot(shares, chosen, 1), stored)
    found = {"frames": x}
    if read.pooling == "statistics":
        scores = torch.tanh(F.linear(x, stored["readout.scores.weight"], stored["readout.scores.bias"]))
        weights = torch.softmax(scores @ stored["readout.attention.weight"][0], 0)[:, None]
        mean = (weights * x).sum(0)
        spread = torch.sqrt(((weights * x**2).sum(0) - mean**2).clamp(min=1e-5))
        embedding = torch.cat([mean, spread])
    elif read.pooling == "flatten":
        embedding = F.linear(x.flatten(), stored["readout.flatten.weight"], stored["readout.flatten.bias"])
    else:
        embedding = x.mean(0)
    found |= {"embedding": embedding, "logits": _apply(config.head_steps, "head", embedding, stored)}
    for branch in config.others:
        found[branch.name] = _apply(branch.steps, f"head.others.{branch.name}", embedding, stored)
    return {name: value.numpy() for name, value in found.items()}


def _hidden(checkpoint: Path, clip: Array) -> list[Tensor]:
    reference = wav2vec2_reference.Transformers(local(checkpoint))
    values = reference.prepare(clip, sampling_rate=16_000, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        found = reference.model(values, output_hidden_states=True)
    # The last one as in transformers 4, after the final norm: transformers 5.24 leaves it raw.
    return [state[0] for state in (*found.hidden_states[:-1], found.last_hidden_state)]


def _check(loaded: e2v_port.Model, result: Any, expected: dict[str, Array]) -> None:
    _, output = result
    np.testing.assert_allclose(output.embedding, expected["embedding"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(output.frames, expected["frames"], rtol=0, atol=2e-4)
    if loaded.config.labels:
        np.testing.assert_allclose(output.logits, expected["logits"], rtol=0, atol=5e-5)
    for name, numbers in loaded.outputs(result).items():
        np.testing.assert_allclose([*numbers.values()], expected[name], rtol=0, atol=5e-5)
    assert loaded.config.labels or loaded.outputs(result), "the model answers something"


@needs_transformers
@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_what_its_list_says(
    checkpoint: Callable[[Transformer], Path], model: Callable[[str], Path], kind: str, runtime: str
) -> None:
    loaded = e2v_port.load(model(kind), runtime=runtime)
    for clip, result in zip(CLIPS, loaded.each(CLIPS, 16_000, frames=True), strict=True):
        _check(loaded, result, _expected(_hidden(checkpoint(HEADS[kind][0]), clip), model(kind)))


@needs_onnx
@needs_transformers
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_exported(
    checkpoint: Callable[[Transformer], Path], model: Callable[[str], Path], kind: str, tmp_path: Path
) -> None:
    exported = export_onnx(model(kind), tmp_path / "exported").folder
    loaded = e2v_port.load(exported, runtime="onnx")
    for clip, result in zip(CLIPS, loaded.each(CLIPS, 16_000, frames=True), strict=True):
        _check(loaded, result, _expected(_hidden(checkpoint(HEADS[kind][0]), clip), model(kind)))
    if names := [branch.name for branch in loaded.config.architecture.others]:
        import onnxruntime

        session = onnxruntime.InferenceSession(exported / "model.onnx")
        assert {*names} <= {output.name for output in session.get_outputs()}


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_all_frames_side_by_side(checkpoint: Callable[[Transformer], Path], tmp_path: Path, runtime: str) -> None:
    folder = _with_head(tmp_path, checkpoint(PADDED), PADDED, FLAT, {"embed_dim": 6, "num_labels": 3})
    loaded = e2v_port.load(folder, runtime=runtime)
    plain = _with_head(tmp_path / "plain", checkpoint(PADDED), PADDED, None, {"num_labels": 3})
    encoder = e2v_port.load(plain, runtime=runtime)
    for clip, result in zip(CLIPS, loaded.each(CLIPS, 16_000, frames=True), strict=True):
        frames = torch.from_numpy(encoder.embed(clip, 16_000, granularity="frame"))
        assert len(frames) == 1500
        _, output = result  # type: ignore[misc]
        expected = _expected([frames] * 4, folder)
        np.testing.assert_allclose(output.embedding, expected["embedding"], rtol=0, atol=1e-4)
        np.testing.assert_allclose(output.logits, expected["logits"], rtol=0, atol=1e-4)
        assert output.frame_logits is None, "no frame can be judged by itself"


def test_the_head_of_a_long_clip_is_that_of_its_windows(model: Callable[[str], Path]) -> None:
    loaded = e2v_port.load(model("projector"), runtime="numpy")
    clip = np.tile(CLIPS[0], 52)  # 65 s
    [(_, output)] = loaded.each([clip], 16_000, frames=True)  # type: ignore[misc]
    np.testing.assert_allclose(output.embedding, output.frames.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(output.logits, output.frame_logits.mean(0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("head", [{"op": "softmax", "name": "", "width": 0, "bias": True}]),
        ("head", [{"op": "linear", "name": "a.b", "width": 4, "bias": True}]),
        ("head", [{"op": "linear", "name": "a", "width": 9, "bias": True}]),
        ("head", [{"op": "tanh", "name": "", "width": 0, "bias": True}]),
        ("head", [{"op": "clip_norm", "name": "", "width": 0, "bias": True}]),
        ("head", [{"op": "linear", "name": "", "width": 4, "bias": True}] * 2),
        ("others", [{"name": "age", "steps": []}]),
        ("others", [{"name": "a ge", "steps": [{"op": "linear", "name": "", "width": 1, "bias": True}]}]),
    ],
)
def test_a_list_that_no_head_has_is_refused(model: Callable[[str], Path], part: str, change: Any) -> None:
    import json

    values = json.loads((model("stack") / "config.json").read_text())
    values["architecture"][part] = change
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ModelConfig.from_json(json.dumps(values))

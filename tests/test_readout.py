"""Embeddings made of chosen layers: of the numbers that transformers calls hidden states, on both runtimes."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from numpy.typing import NDArray
from safetensors.numpy import load_file

import e2v_port
from e2v_port.architectures.base import Readout, Transformer
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.emotion2vec import Emotion2vecConfig
from e2v_port.architectures.sensevoice import SensevoiceConfig
from e2v_port.architectures.whisper import WhisperConfig
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import whisper as whisper_converter
from e2v_port.errors import CheckpointError, E2VError
from e2v_port.models import long_clips
from e2v_port.parity import references
from e2v_port.parity import wav2vec2 as wav2vec2_reference

Array = NDArray[np.float32]

LARGE = replace(toys.DIMENSIONAL, depth=4)  # normalizes before the halves of a block, and once after the last block
BASE = replace(LARGE, conv_norm="group", pre_norm=False, conv_bias=False)
FAMILIES: dict[str, Transformer] = {
    "wav2vec2 large": LARGE,
    "wav2vec2 base": BASE,
    "emotion2vec": toys.TOY,
    "sensevoice": toys.SENSEVOICE,
    "whisper": toys.WHISPER,
}
READOUTS = {
    "one layer": Readout((2,), "mean"),
    "one layer's deviation": Readout((2,), "deviation"),
    "weighted layers": Readout((1, 2, 3), "mean"),
    "weighted layers' deviation": Readout((1, 3), "deviation"),
    "attention": Readout((3,), "attention", 4),
    "attention over weighted layers": Readout((2, 3), "attention", 1),
}
LABELS = 3


def noise(seconds: float, seed: int = 0) -> Array:
    """A hum in bursts: no frame is like another."""
    draw = np.random.default_rng(seed)
    at = np.arange(int(16_000 * seconds)) / 16_000
    loud = np.interp(at, np.arange(0, seconds + 1, 0.3), draw.uniform(0, 1, len(np.arange(0, seconds + 1, 0.3))))
    return np.asarray(loud * (np.sin(2 * np.pi * 150 * at) + draw.normal(0, 0.3, len(at))), dtype=np.float32)


CLIPS = [noise(seconds, seed) for seed, seconds in enumerate([1.3, 0.4, 2.9, 2.2])]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("readouts")


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Callable[[str], Path]:
    """An unconverted checkpoint of a family."""

    @cache
    def make(family: str) -> Path:
        config, folder = FAMILIES[family], root / family
        if isinstance(config, Emotion2vecConfig):
            return toys.make(folder, config)
        if isinstance(config, SensevoiceConfig):
            return toys.make_sensevoice(folder, config)
        if isinstance(config, WhisperConfig):
            return whisper_converter.make(config, folder)
        return wav2vec2_converter.make(config, folder)  # type: ignore[arg-type]

    return make


@pytest.fixture(scope="module")
def whole(checkpoint: Callable[[str], Path], root: Path) -> Callable[[str], Path]:
    """The same, converted: all of its layers."""
    return cache(lambda family: toys.convert(checkpoint(family), root / f"{family} converted"))


@pytest.fixture(scope="module")
def cut(whole: Callable[[str], Path], root: Path) -> Callable[..., Path]:
    """A converted folder whose embedding is what a readout makes of a family's layers."""

    @cache
    def write(family: str, kind: str, dtype: str = "float32") -> Path:
        architecture = replace(FAMILIES[family].read(READOUTS[kind]), head_dim=0, num_labels=LABELS)
        stored: dict[str, Any] = load_file(whole(family) / "model.safetensors")
        draw = np.random.default_rng(1)
        arrays = {
            name: stored[name]
            if name in stored and not name.startswith("head")
            else draw.standard_normal(shape) / shape[-1] ** 0.25
            for name, shape in architecture.tensors().items()
        }
        settings = {} if dtype == "float32" else {"dtype": dtype}
        return toys.store(root / f"{family} {kind} {dtype}", architecture, arrays, **settings)

    return write


def expected(states: Array, folder: Path) -> tuple[Array, Array, Array]:
    """The frames, the embedding and the logits of a clip, by the definition, in float64.

    Args:
        states: Outputs of all blocks [blocks, frames, width].
        folder: A converted folder with a readout.
    """
    stored = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    architecture = ModelConfig.read(folder).architecture
    assert isinstance(architecture, Transformer)
    readout = architecture.readout
    assert readout is not None
    chosen = states[[layer - 1 for layer in readout.layers]].astype(np.float64)
    shares = np.exp(stored.get("readout.weights", np.zeros(1)))
    frames = np.tensordot(shares / shares.sum(), chosen, 1)
    time, width = frames.shape
    weights = np.full((time, width), 1 / time)
    if readout.heads:
        scores = np.exp(frames @ stored["readout.attention.weight"].T)
        weights = np.repeat(scores / scores.sum(0), width // readout.heads, 1)
    mean = (weights * frames).sum(0)
    deviation = np.sqrt((weights * (frames - mean) ** 2).sum(0) + 1e-5)
    embedding = mean if readout.pooling == "mean" else np.concatenate([mean, deviation])
    return frames, embedding, stored["head.weight"] @ embedding + stored["head.bias"]


needs_transformers = pytest.mark.skipif(
    not references.installed("wav2vec2"), reason="transformers is not installed: pip install transformers"
)


@needs_transformers
@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize(
    ("family", "kind"),
    [*(("wav2vec2 large", kind) for kind in READOUTS), ("wav2vec2 base", "weighted layers' deviation")],
)
def test_an_embedding_is_made_of_the_hidden_states_of_transformers(
    checkpoint: Callable[[str], Path], cut: Callable[..., Path], family: str, kind: str, runtime: str
) -> None:
    import torch

    reference = wav2vec2_reference.Transformers(local(checkpoint(family)))
    values = reference.prepare(CLIPS[0], sampling_rate=16_000, return_tensors="pt")["input_values"]
    with torch.inference_mode():
        hidden = reference.model(values, output_hidden_states=True).hidden_states
    # The first is what the first block takes; the last has gone through the final norm, and is not read here.
    states = torch.stack(hidden[1:-1])[:, 0].numpy()
    frames, embedding, logits = expected(states, cut(family, kind))
    model = e2v_port.load(cut(family, kind), runtime=runtime)
    [(_, found)] = model.each([CLIPS[0]], 16_000, frames=True)  # type: ignore[misc]
    np.testing.assert_allclose(found.frames, frames, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found.embedding, embedding, rtol=0, atol=2e-5)
    np.testing.assert_allclose(found.logits, logits, rtol=0, atol=2e-5)
    assert model.embed_dim == found.embedding.shape[-1]


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_the_outputs_of_the_blocks(whole: Callable[[str], Path], family: str, runtime: str) -> None:
    model = e2v_port.load(whole(family), runtime=runtime)
    config = FAMILIES[family]
    stages = model.stages(CLIPS[0], 16_000)
    blocks = [value for name, value in stages.items() if "blocks." in name]
    frames = config.frames(len(CLIPS[0]))
    alone = model.layers(CLIPS[0], 16_000)
    assert alone.shape == (len(blocks), frames, config.width)
    np.testing.assert_allclose(alone, np.stack([block[-frames:] for block in blocks]), rtol=0, atol=1e-5)
    for clip, layers in zip(CLIPS, model.layers(CLIPS, 16_000), strict=True):
        np.testing.assert_allclose(layers, model.layers(clip, 16_000), rtol=0, atol=1e-4)


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("kind", READOUTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_model_reads_what_the_whole_model_computes(
    whole: Callable[[str], Path], cut: Callable[..., Path], family: str, kind: str, runtime: str
) -> None:
    readout = READOUTS[kind]
    states = e2v_port.load(whole(family), runtime=runtime).layers(CLIPS, 16_000)
    model = e2v_port.load(cut(family, kind), runtime=runtime)
    for clip, layers, (_, found) in zip(CLIPS, states, model.each(CLIPS, 16_000, frames=True), strict=True):  # type: ignore[misc]
        frames, embedding, logits = expected(layers, cut(family, kind))
        np.testing.assert_allclose(found.frames, frames, rtol=0, atol=1e-4)
        np.testing.assert_allclose(found.embedding, embedding, rtol=0, atol=2e-5)
        np.testing.assert_allclose(found.logits, logits, rtol=0, atol=5e-5)
        [(_, alone)] = model.each([clip], 16_000, frames=True)  # type: ignore[misc]
        np.testing.assert_allclose(found.embedding, alone.embedding, rtol=0, atol=2e-5)
        np.testing.assert_allclose(found.frame_logits, alone.frame_logits, rtol=0, atol=1e-4)
    names = list(load_file(cut(family, kind) / "model.safetensors"))
    blocks = {".".join(name.split(".")[:2]) for name in names if "blocks." in name}
    assert len(blocks) == readout.layers[-1], "blocks that nobody reads are not stored"
    if family in {"wav2vec2 large", "whisper"}:
        assert "norm.weight" not in names, "nor is a norm after them"


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@pytest.mark.parametrize("kind", READOUTS)
def test_logits_of_a_frame_are_those_of_the_second_around_it(cut: Callable[..., Path], kind: str, runtime: str) -> None:
    folder, readout = cut("wav2vec2 large", kind), READOUTS[kind]
    model = e2v_port.load(folder, runtime=runtime)
    [(_, found)] = model.each([CLIPS[2]], 16_000, frames=True)  # type: ignore[misc]
    stored = load_file(folder / "model.safetensors")
    for at, logits in enumerate(found.frame_logits):
        near = found.frames[max(at - 25, 0) : at + 26].astype(np.float64)
        weights = np.full(near.shape, 1 / len(near))
        if readout.heads:
            scores = np.exp(near @ stored["readout.attention.weight"].T.astype(np.float64))
            weights = np.repeat(scores / scores.sum(0), near.shape[1] // readout.heads, 1)
        mean = (near * weights).sum(0)
        deviation = np.sqrt(((near - mean) ** 2 * weights).sum(0) + 1e-5)
        embedding = found.frames[at] if readout.pooling == "mean" else np.concatenate([mean, deviation])
        np.testing.assert_allclose(logits, stored["head.weight"] @ embedding + stored["head.bias"], rtol=0, atol=1e-4)


@toys.needs_mlx
@pytest.mark.parametrize("kind", ["weighted layers' deviation", "attention"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_move_an_embedding_little(cut: Callable[..., Path], kind: str, dtype: str) -> None:
    exact = e2v_port.load(cut("wav2vec2 large", kind), runtime="cpu").embed(CLIPS, 16_000)
    for runtime in ("cpu", "mlx"):
        found = e2v_port.load(cut("wav2vec2 large", kind), runtime=runtime, dtype=dtype).embed(CLIPS, 16_000)
        for one, other in zip(exact, found, strict=True):
            assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()


@pytest.mark.parametrize("kind", READOUTS)
def test_a_long_clip_in_windows(cut: Callable[..., Path], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows join into exactly the mean and the deviation of their frames, and attention into nearly its own."""
    clip = np.tile(noise(1.0), 9)
    model = e2v_port.load(cut("wav2vec2 large", kind), runtime="cpu")
    whole = model.embed(clip, 16_000)
    for name, seconds in (("LONGEST", 6), ("WINDOW", 3), ("CONTEXT", 1)):
        monkeypatch.setattr(long_clips, name, seconds * 16_000)
    [(_, joined)] = model.each([clip], 16_000, frames=True)  # type: ignore[misc]
    assert joined.frames is not None
    assert len(joined.frames) == len(joined.frame_logits)
    np.testing.assert_allclose(joined.embedding, whole, rtol=0, atol=0.1)
    if not READOUTS[kind].heads:
        frames = joined.frames.astype(np.float64)
        exact = [frames.mean(0), *([np.sqrt(frames.var(0) + 1e-5)] if READOUTS[kind].pooling == "deviation" else [])]
        np.testing.assert_allclose(joined.embedding, np.concatenate(exact), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.embed(clip, 16_000), joined.embedding)


def test_layers_of_a_long_clip(whole: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LONGEST", 6), ("WINDOW", 3), ("CONTEXT", 1)):
        monkeypatch.setattr(long_clips, name, seconds * 16_000)
    model = e2v_port.load(whole("wav2vec2 base"), runtime="cpu")
    long = np.tile(noise(1.0), 9)
    found, short = model.layers([long, CLIPS[0]], 16_000)
    assert short.shape[1] == BASE.frames(len(CLIPS[0]))
    assert found.shape[1] == BASE.frames(len(long))
    np.testing.assert_allclose(found[-1], model.embed(long, 16_000, granularity="frame"), rtol=0, atol=1e-4)


@toys.needs_mlx
@pytest.mark.parametrize("dtype", ["q8", "q4"])
def test_packed_weights(root: Path, dtype: str) -> None:
    architecture = replace(
        replace(LARGE, embed_dim=64, num_heads=8, ffn_dim=192).read(Readout((1, 2), "attention", 2)),
        head_dim=0,
        num_labels=LABELS,
    )
    draw = np.random.default_rng(3)
    arrays = {
        name: draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        for name, shape in architecture.tensors().items()
    }
    folder = toys.store(root / dtype, architecture, arrays, dtype=dtype)
    torch, mlx = (e2v_port.load(folder, runtime=runtime).embed(CLIPS, 16_000) for runtime in ("cpu", "mlx"))
    for one, other in zip(torch, mlx, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def test_a_network_without_blocks_has_no_layers(tmp_path: Path) -> None:
    model = e2v_port.load(toys.make_small(tmp_path / "small", toys.GRAM), runtime="cpu")
    with pytest.raises(E2VError, match="no layers"):
        model.layers(CLIPS[0], 16_000)


def test_an_emotion2vec_is_cut_within_its_context_encoder_as_well() -> None:
    one, four = (toys.TOY.read(Readout((layer,), "mean")) for layer in (1, 4))
    assert (one.prenet_depth, one.depth, one.blocks) == (1, 0, 1)
    assert (four.prenet_depth, four.depth, four.blocks) == (2, 2, 4)
    with pytest.raises(ValueError, match="block 6"):
        toys.TOY.read(Readout((6,), "mean"))


# --- config.json


def test_a_readout_is_kept_in_config_json(cut: Callable[..., Path], whole: Callable[[str], Path]) -> None:
    for family in FAMILIES:
        for kind, readout in READOUTS.items():
            config = ModelConfig.read(cut(family, kind))
            assert config.architecture.readout == readout  # type: ignore[attr-defined]
            assert ModelConfig.from_json(config.to_json()) == config
        config = ModelConfig.read(whole(family))
        values = json.loads(config.to_json())
        assert values["architecture"].pop("readout") is None
        assert ModelConfig.from_json(json.dumps(values)) == config, "files of earlier versions do not mention it"


@pytest.mark.parametrize(
    "change",
    [
        {"layers": []},
        {"layers": 2},
        {"layers": [2, 1]},
        {"layers": [1, 1]},
        {"layers": [0, 1]},
        {"layers": [1.0]},
        {"layers": [True]},
        {"layers": [1]},  # not the last block
        {"layers": [9]},
        {"layers": None},
        {"pooling": "max"},
        {"pooling": None},
        {"pooling": "mean"},  # with heads
        {"heads": 0},
        {"heads": 5},  # of 48 features
        {"heads": True},
        {"heads": -4},
        {"heads": None},
    ],
    ids=str,
)
def test_a_damaged_readout_is_refused(cut: Callable[..., Path], change: dict[str, Any]) -> None:
    values = json.loads(ModelConfig.read(cut("wav2vec2 large", "attention")).to_json())
    values["architecture"]["readout"] |= change
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ModelConfig.from_json(json.dumps(values))


@pytest.mark.parametrize("value", [{}, [], "mean", 0, 3, {"layers": [3]}], ids=str)
def test_what_is_no_readout_is_refused(cut: Callable[..., Path], value: Any) -> None:
    values = json.loads(ModelConfig.read(cut("wav2vec2 large", "attention")).to_json())
    values["architecture"]["readout"] = value
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        ModelConfig.from_json(json.dumps(values))


def test_operations_of_a_readout() -> None:
    samples = 48_000
    config = replace(LARGE.read(READOUTS["attention"]), head_dim=0, num_labels=LABELS)
    parts = config.operations(samples)
    assert parts["readout"] == 2 * config.frames(samples) * config.width * 4
    assert parts["head"] == 2 * 2 * config.width * LABELS
    assert parts["MLP"] * 4 == 3 * LARGE.operations(samples)["MLP"]

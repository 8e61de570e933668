"""Checkpoints on their way to the stored layout, judged by torch and by the readers that will open the result."""

import argparse
import builtins
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import toys
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing._private.utils import runstring
from safetensors import safe_open
from torch import Tensor

from e2v_port.architectures import tensors
from e2v_port.architectures.base import Architecture, Readout, Transformer
from e2v_port.architectures.config import DTYPES, ModelConfig
from e2v_port.architectures.emotion2vec import Emotion2vecConfig
from e2v_port.architectures.heads import Branch, Step, linear_head
from e2v_port.architectures.registry import family_of
from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint, weights
from e2v_port.converters import ecapa as ecapa_converter
from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.converters import folder as converters_folder
from e2v_port.converters import ge2e as ge2e_converter
from e2v_port.converters import sensevoice as sensevoice_converter
from e2v_port.converters import wav2small as wav2small_converter
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import wavlm as wavlm_converter
from e2v_port.converters import whisper as whisper_converter
from e2v_port.errors import CheckpointError
from e2v_port.models.load import load
from e2v_port.runtimes.numpy_runtime import nested

PREFIX = "d2v_model."
AUDIO = f"{PREFIX}modality_encoders.AUDIO"

# What each tensor of a checkpoint is called when it is stored, as the paper and FunASR's modules name it.
RENAMED = [
    (r"(?:d2v_model\.)?modality_encoders\.AUDIO\.", ""),
    (r"^d2v_model\.", ""),
    (r"^local_encoder\.conv_layers\.(\d)\.0", r"conv_layers.\1"),
    (r"^local_encoder\.conv_layers\.(\d)\.2\.1", r"conv_layers.\1.norm"),
    (r"^project_features\.1", "projection.norm"),
    (r"^project_features\.2", "projection.linear"),
    (r"^context_encoder\.norm", "context_norm"),
    (r"^context_encoder\.blocks", "context_blocks"),
    (r"\.attn\.proj\.", ".attn.out_proj."),
    (r"^proj\.", "head."),
]


def expected(source: Path) -> dict[str, Tensor]:
    """The expected result of a conversion, computed by torch from the checkpoint itself."""
    found = {}
    for name, tensor in toys.tensors(source).items():
        for pattern, new in RENAMED:
            name = re.sub(pattern, new, name)  # noqa: PLW2901
        if position := re.fullmatch(r"relative_positional_encoder\.(\d)\.0\.(\w+)", name):
            name = f"positions.{int(position[1]) - 1}.{position[2]}"  # noqa: PLW2901
        if ".attn.qkv." in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace("qkv", f"{letter}_proj")] = part
        elif name == "extra_tokens":
            found[name] = tensor.squeeze(0)
        elif name == "alibi_scale":
            found[name] = tensor.flatten()
        else:
            found[name] = tensor.transpose(1, 2) if tensor.dim() == 3 else tensor
    return found


def bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def assert_stored(folder: Path, wanted: dict[str, Tensor], dtype: str = "float32") -> None:
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert stored.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert stored[name].shape == tensor.shape, name
        assert stored[name].dtype == getattr(torch, dtype)
        assert torch.equal(bits(stored[name]), bits(tensor.to(getattr(torch, dtype)))), name


def one_line(message: str) -> str:
    assert message.isprintable()
    assert "Traceback" not in message
    return message


def refusal(source: Path, **options: Any) -> str:
    """The error message that converting a checkpoint must end with, without leaving any file."""
    with tempfile.TemporaryDirectory() as work:
        with pytest.raises(CheckpointError) as caught:
            toys.convert(source, Path(work) / "out", **options)
        assert {entry.name for entry in Path(work).iterdir()} <= {"out.npz"}
    return one_line(str(caught.value))


def command(module: str, *arguments: object, prelude: str = "") -> subprocess.CompletedProcess[str]:
    """Runs half a conversion as a command, in an interpreter that was prepared by the prelude."""
    start = f"{prelude}\nimport runpy, sys\nsys.argv = sys.argv[1:]\nrunpy.run_module(sys.argv[0], run_name='__main__')"
    line = [sys.executable, *(["-c", start] if prelude else ["-m"]), f"e2v_port.converters.{module}"]
    return subprocess.run([*line, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    line = one_line(done.stderr.removesuffix("\n"))
    assert all(word in line for word in words), line


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint that the test may change."""
    return toys.make(tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The npz files of two models of the same sizes."""
    folder = tmp_path_factory.mktemp("two")
    for seed in (1, 2):
        toys.convert(toys.make(folder / f"checkpoint{seed}", seed=seed), folder / f"model{seed}")
    return [folder / "model1.npz", folder / "model2.npz"]


# --- every number arrives


@pytest.mark.parametrize("config", [toys.TOY, toys.HEADLESS], ids=["head", "no head"])
@pytest.mark.parametrize("prefix", [PREFIX, ""], ids=["fine-tuned", "pretrained"])
def test_every_tensor_arrives_bit_for_bit(tmp_path: Path, config: Emotion2vecConfig, prefix: str) -> None:
    source = toys.make(tmp_path / "checkpoint", config, prefix=prefix)
    folder = toys.convert(source, tmp_path / "model")
    assert_stored(folder, expected(source))
    assert ModelConfig.read(folder).architecture == config


def hard_numbers(count: int, largest: float) -> Tensor:
    """Numbers of every size and sign up to the largest, subnormal ones, ties and zeros among them."""
    draw = np.random.default_rng(3)
    found = draw.integers(0, 1 << 32, count, dtype=np.uint32)
    found[: count // 2] &= np.uint32(0xFFFF8000)  # every second of these lies between two bfloat16
    found[count // 4 : count // 2] &= np.uint32(0xFFFFF000)  # or between two float16
    numbers = found.view(np.float32)
    numbers[count - count // 4 :] = draw.standard_normal(count // 4) * 2.0 ** draw.integers(-30, 4, count // 4)
    numbers[:4] = [0.0, -0.0, 2.0**-149, -largest]
    kept = np.isfinite(numbers) & (np.abs(numbers) <= largest)
    return torch.from_numpy(np.where(kept, numbers, np.float32(2.0**-24 * 1.5)))


@pytest.mark.parametrize(
    ("dtype", "largest"), [("float32", 3.4028234e38), ("float16", 65519.0), ("bfloat16", 3.3953138e38)]
)
def test_rounding_is_that_of_torch(source: Path, tmp_path: Path, dtype: str, largest: float) -> None:
    state = toys.tensors(source)
    for name, tensor in state.items():
        state[name] = hard_numbers(tensor.numel(), largest).view(tensor.shape)
    toys.save(source, {"model": state})
    folder = toys.convert(source, tmp_path / "model", dtype=dtype)
    assert_stored(folder, expected(source), dtype)
    assert ModelConfig.read(folder).dtype == dtype


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_checkpoints_of_other_types_become_float32(source: Path, tmp_path: Path, kind: torch.dtype) -> None:
    toys.save(source, {"model": {name: tensor.to(kind) for name, tensor in toys.tensors(source).items()}})
    wanted = {name: tensor.to(torch.float32) for name, tensor in expected(source).items()}
    assert_stored(toys.convert(source, tmp_path / "model"), wanted)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [("float16", 65520.0), ("bfloat16", 3.4e38), *((dtype, float("inf")) for dtype in DTYPES)],
)
def test_what_overflows_is_refused_by_name(source: Path, dtype: str, value: float) -> None:
    state = toys.tensors(source)
    state[f"{PREFIX}blocks.1.mlp.fc2.weight"][3, 4] = -value
    state["proj.bias"][2] = value
    message = refusal(toys.save(source, {"model": state}), dtype=dtype)
    assert f"not finite as {dtype}: blocks.1.mlp.fc2.weight, head.bias;" in message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pattern", [0x7FC00000, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], ids=hex)
def test_nan_is_refused_by_name(source: Path, dtype: str, pattern: int) -> None:
    state = toys.tensors(source)
    state[f"{AUDIO}.alibi_scale"].view(torch.int32)[0, 0, 1] = np.array(pattern, np.uint32).view(np.int32).item()
    message = refusal(toys.save(source, {"model": state}), dtype=dtype)
    assert f"not finite as {dtype}: alibi_scale;" in message


# --- the readers


@pytest.mark.parametrize("dtype", DTYPES)
def test_safetensors_reads_the_layout(source: Path, tmp_path: Path, dtype: str) -> None:
    folder = toys.convert(source, tmp_path / "model", dtype=dtype)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert shapes == toys.TOY.tensors()


@toys.needs_mlx
@pytest.mark.parametrize("dtype", DTYPES)
def test_mlx_reads_the_same_bits(source: Path, tmp_path: Path, dtype: str) -> None:
    import mlx.core as mx

    folder = toys.convert(source, tmp_path / "model", dtype=dtype)
    stored = mx.load(str(folder / "model.safetensors"))
    wanted = expected(source)
    assert stored.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert stored[name].dtype == getattr(mx, dtype)
        assert stored[name].shape == tuple(tensor.shape)
        raw = np.array(stored[name].view(mx.int32 if dtype == "float32" else mx.int16))
        assert np.array_equal(raw, bits(tensor.to(getattr(torch, dtype))).numpy()), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy_reads_the_same_numbers(source: Path, tmp_path: Path, dtype: str) -> None:
    folder = toys.convert(source, tmp_path / "model", dtype=dtype)
    wanted = expected(source)
    stored = dict(tensors.read(folder / "model.safetensors", wanted))
    for name, tensor in wanted.items():
        assert stored[name].dtype == np.float32
        assert np.array_equal(stored[name], tensor.to(getattr(torch, dtype)).float().numpy()), name


# Every family, with each kind of head and without one.
CONFIGS: dict[str, Architecture] = {
    f"{name}, {head}": replace(config, **sizes)
    for name, config in {
        "emotion2vec": toys.TOY,
        "wav2vec2": toys.DIMENSIONAL,
        "wav2vec2 without a norm before the projection": replace(toys.DIMENSIONAL, projection_norm=False),
        "wavlm": replace(toys.WAVLM, num_labels=3),
        "sensevoice": toys.SENSEVOICE,
        "wav2small deviation": toys.DEVIATION,
        "wav2small gram": toys.GRAM,
        "ge2e": toys.GE2E,
        "ecapa": toys.ECAPA,
        "whisper": toys.WHISPER,
    }.items()
    for head, sizes in {"linear": {"head_dim": 0}, "hidden": {"head_dim": 13}, "none": {"num_labels": 0}}.items()
} | {
    "base": emotion2vec_converter.BASE,
    "audeering": wav2vec2_converter.AUDEERING,
    "wavlm-large": wavlm_converter.LARGE,
    "sensevoice-small": sensevoice_converter.SMALL,
    "wav2small": wav2small_converter.PUBLISHED,
    "ge2e": ge2e_converter.PUBLISHED,
    "ecapa": ecapa_converter.PUBLISHED,
    "whisper-base": whisper_converter.BASE,
}


def twin(config: Architecture, kind: str) -> Any:
    """The network of a runtime, unfilled."""
    family = family_of(config)
    return getattr(import_module(f"e2v_port.runtimes.{family.name}_{kind}"), family.network)(config)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_torch_parameters_are_the_layout(config: Architecture) -> None:
    with torch.device("meta"):
        parameters = {name: tuple(value.shape) for name, value in twin(config, "torch").state_dict().items()}
    assert parameters == config.tensors()


@toys.needs_mlx
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_mlx_parameters_are_the_layout(config: Architecture) -> None:
    from mlx.utils import tree_flatten

    parameters = {name: value.shape for name, value in tree_flatten(twin(config, "mlx").parameters())}
    assert parameters == config.tensors()


def held(layer: Any) -> Iterator[int]:
    """Identities of all arrays in a layer and in the layers in it."""
    for value in vars(layer).values():
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
        for each in parts:
            if isinstance(each, np.ndarray):
                yield id(each)
            elif type(each).__module__.startswith("e2v_port.runtimes."):
                yield from held(each)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_numpy_holds_the_layout(config: Architecture) -> None:
    arrays = {name: np.broadcast_to(np.float32(0), shape) for name, shape in config.tensors().items()}
    family = family_of(config)
    network = getattr(import_module(f"e2v_port.runtimes.{family.name}_numpy"), family.network)
    found = {*held(network(nested(arrays.items()), config))}
    assert [name for name, array in arrays.items() if id(array) not in found] == []


def headed(encoder: Transformer, *, hidden: int = 0, summed: bool = False, **changes: Any) -> Transformer:
    """An encoder under another head than the one its converter knows, or on the sum of all of its layers."""
    readout = Readout(tuple(range(encoder.blocks + 1)), "mean", final=True) if summed else None
    return replace(encoder, head_dim=hidden, readout=readout, **changes)


WAV2VEC2, LARGE = wav2vec2_converter.BASE, wav2vec2_converter.LARGE
WAVLM = wavlm_converter.LARGE
SPEAKER = (Branch("age", linear_head(1, 1024)), Branch("sex", linear_head(3, 1024)))
LARGE_V3 = whisper_converter.CONVERTER.sizes["whisper-large-v3"]


def odyssey(rows: int) -> Transformer:
    """WavLM large with attentive statistics and a layer of 1024 with a norm."""
    head = (Step("linear", "dense0", 1024), Step("norm", "norm0"), Step("relu"), Step("linear", "out", rows))
    read = Readout((24,), "statistics", heads=1, final=True)
    return replace(WAVLM, conv_bias=True, embed_dim=2048, readout=read, head=head, num_labels=rows)


def vox_profile(encoder: Transformer, layers: tuple[int, ...], rows: int) -> Transformer:
    """An encoder with three layers of 256 on each frame, and two for labels and for each dimension."""
    frames = tuple(Step("linear", name, 256) for name in ("first", "second", "third"))
    read = Readout(layers, "mean", final=True, steps=frames, width=encoder.width)
    sizes = replace(encoder, embed_dim=256, readout=read)
    measured = (Step("linear", "dense", 768), Step("relu"), Step("linear", "out", 3), Step("sigmoid"))
    if not rows:
        return replace(sizes, head=measured, num_labels=3)
    head = (Step("linear", "dense", 256), Step("relu"), Step("linear", "out", rows))
    return replace(sizes, head=head, num_labels=rows, others=(Branch("dimensions", measured),))


def empathic(width: int) -> Transformer:
    """Whisper small and a network for each of 40 emotions, which halves twice after its first layers of this width."""
    widths = [40 * width, 20 * width, 10 * width, 40]
    names = [*(f"hidden{i}" for i in range(3)), "out"]
    steps = [
        step for name, size in zip(names, widths, strict=True) for step in (Step("relu"), Step("linear", name, size))
    ]
    read = Readout((12,), "flatten", final=True, width=768)
    encoder = whisper_converter.CONVERTER.sizes["whisper-small"]
    return replace(encoder, pad=True, embed_dim=40 * width, readout=read, others=(Branch("emotions", tuple(steps)),))


HEADED = {
    "laion/Empathic-Insight-Voice-Small": empathic(64),
    "laion/Empathic-Insight-Voice-Large": empathic(128),
    "superb/wav2vec2-base-superb-er": headed(WAV2VEC2, summed=True),
    "superb/hubert-base-superb-er": headed(WAV2VEC2, summed=True),
    "superb/hubert-large-superb-er": headed(LARGE, summed=True),
    "ehcalabres/wav2vec2-lg-xlsr-en-speech-emotion-recognition": headed(LARGE, hidden=1024),
    "Dpngtm/wav2vec2-emotion-recognition": headed(WAV2VEC2),
    "audeering/wav2vec2-large-robust-6-ft-age-gender": headed(LARGE, depth=6, others=SPEAKER),
    "audeering/wav2vec2-large-robust-24-ft-age-gender": headed(LARGE, others=SPEAKER),
    "3loi/SER-Odyssey-Baseline-WavLM-Categorical": odyssey(8),
    "3loi/SER-Odyssey-Baseline-WavLM-Multi-Attributes": odyssey(3),
    "tiantiaf/wavlm-large-categorical-emotion": vox_profile(WAVLM, tuple(range(25)), 9),
    "tiantiaf/wavlm-large-msp-podcast-emotion-dim": vox_profile(WAVLM, tuple(range(25)), 0),
    "tiantiaf/whisper-large-v3-msp-podcast-emotion": vox_profile(LARGE_V3, (32,), 9),
    "tiantiaf/whisper-large-v3-msp-podcast-emotion-dim": vox_profile(LARGE_V3, (32,), 0),
}


@pytest.mark.parametrize("model", catalog.known(), ids=lambda model: model.id)
def test_known_models_have_their_published_sizes(model: catalog.KnownModel) -> None:
    known: dict[tuple[str, int], Architecture] = {
        ("emotion2vec", 768): emotion2vec_converter.BASE,
        ("emotion2vec", 1024): emotion2vec_converter.LARGE,
        ("wav2vec2", 768): wav2vec2_converter.BASE,
        ("wav2vec2", 1024): wav2vec2_converter.AUDEERING,
        ("wavlm", 1024): wavlm_converter.LARGE,
        ("sensevoice", 2048): sensevoice_converter.SMALL,
        ("wav2small", 338): wav2small_converter.PUBLISHED,
        ("ecapa", 192): ecapa_converter.PUBLISHED,
        **{("whisper", config.width): config for config in whisper_converter.CONVERTER.sizes.values()},
    }
    if model.bundled and (folder := catalog.find(model.id)):
        known = {(model.family, model.embed_dim): ModelConfig.read(folder).architecture}
    sizes = HEADED.get(model.id) or known[model.family, model.embed_dim]
    sizes = replace(sizes, num_labels=len(model.labels))
    count = sum(int(np.prod(shape)) for shape in sizes.tensors().values())
    assert count == pytest.approx(model.parameters, rel=1e-3)
    if isinstance(sizes, Emotion2vecConfig):
        assert count == sum(int(np.prod(shape)) for _, shape in emotion2vec_converter.source_shapes(sizes))


def test_plus_large_has_its_published_number_of_tensors() -> None:
    assert len(list(emotion2vec_converter.source_shapes(emotion2vec_converter.LARGE))) == 185


# --- dialects of the published files


def pretrained(state: dict[str, Tensor]) -> dict[str, Any]:
    """The model before fine-tuning, with what training needed."""
    extra = torch.ones(2, 3)
    bare = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
    decoder = {f"modality_encoders.AUDIO.decoder.blocks.0.0.{part}": extra for part in ("weight", "bias")}
    return {**bare, **decoder, "_ema": dict(bare), "recon_proj.weight": extra, "shared_decoder.proj.bias": extra}


def four_dimensional(state: dict[str, Tensor]) -> dict[str, Any]:
    name = f"{AUDIO}.alibi_scale"
    return {**state, name: state[name].squeeze(0)}


DIALECTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "state_dict": lambda state: {"state_dict": state, "model": {}},
    "model_state_dict": lambda state: {"model_state_dict": state, "epoch": 3},
    "nested": lambda state: {"state_dict": {"model": state}},
    "pretrained": lambda state: {"model": pretrained(state)},
    "prefixed teacher": lambda state: {"model": {**state, f"{PREFIX}_ema": dict(state)}},
    "older ALiBi scale": lambda state: {"model": four_dimensional(state)},
    "parameters": lambda state: {"model": {name: torch.nn.Parameter(value) for name, value in state.items()}},
    "views": lambda state: {"model": {name: torch.stack([value, value], -1)[..., 0] for name, value in state.items()}},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_same_model(source: Path, tmp_path: Path, dialect: str, legacy: bool) -> None:
    wanted = expected(source)
    state = DIALECTS[dialect]({name: value for name, value in toys.tensors(source).items() if value.dim() > 0})
    torch.save(state, source / "model.pt", _use_new_zipfile_serialization=not legacy)
    assert_stored(toys.convert(source, tmp_path / "model"), wanted)


def omegaconf() -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create({"model": {"sizes": [1, 2], "name": None}})


LEFT_OVERS: dict[str, Callable[[], Any]] = {
    "argparse": lambda: argparse.Namespace(lr=0.1, names=["a"]),
    "numpy scalar": lambda: np.float64(3.5),
    "numpy array": lambda: np.arange(6).reshape(2, 3),
    "omegaconf": omegaconf,
}


@pytest.mark.parametrize("kind", LEFT_OVERS)
def test_left_overs_of_training_do_no_harm(source: Path, tmp_path: Path, kind: str) -> None:
    state = {"model": toys.tensors(source), "cfg": LEFT_OVERS[kind](), "optimizer_history": [LEFT_OVERS[kind]()]}
    wanted = expected(source)
    assert_stored(toys.convert(toys.save(source, state), tmp_path / "model"), wanted)


def test_one_error_lists_every_problem(source: Path) -> None:
    state = toys.tensors(source)
    state["d2v_model.novel.weight"] = torch.ones(2)
    state[f"{AUDIO}.extra_tokens"] = torch.ones(2, 5, 48)
    state[f"{PREFIX}blocks.0.norm1.weight"] = torch.ones(47)
    state[f"{PREFIX}blocks.0.attn.qkv.bias"] = torch.ones(145)
    del state[f"{PREFIX}blocks.2.mlp.fc1.bias"]
    message = refusal(toys.save(source, {"model": state}))
    for part in (
        "d2v_model.novel.weight [2] matches no rule",
        f"{AUDIO}.extra_tokens [2, 5, 48] cannot become extra_tokens",
        "missing extra_tokens [5, 48]",
        "blocks.0.norm1.weight is [47], must be [48]",
        "blocks.0.attn.qkv.bias [145] cannot become",
        "missing blocks.2.mlp.fc1.bias [96]",
    ):
        assert part in message


@pytest.mark.parametrize("shape", [(6,), (1, 1, 1, 6, 1), (6, 1, 1, 1, 1), (1, 1, 2, 3, 1), (1, 1, 5, 1, 1)])
def test_alibi_scales_of_another_meaning_are_refused(source: Path, shape: tuple[int, ...]) -> None:
    state = toys.tensors(source)
    state[f"{AUDIO}.alibi_scale"] = torch.ones(shape)
    assert "alibi_scale" in refusal(toys.save(source, {"model": state}))


def test_a_tensor_with_and_without_prefix_is_refused(source: Path) -> None:
    state = toys.tensors(source)
    state["blocks.0.norm1.weight"] = state[f"{PREFIX}blocks.0.norm1.weight"]
    message = refusal(toys.save(source, {"model": state}))
    assert "blocks.0.norm1.weight would be written twice, by blocks.0.norm1.weight too" in message


def holding_itself(state: dict[str, Any]) -> dict[str, Any]:
    state["again"] = state
    return state


NO_WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "integers": (lambda state: {**state, "proj.bias": torch.arange(9)}, "proj.bias is a tensor of torch.int64"),
    "sparse": (lambda state: {**state, "proj.weight": torch.ones(9, 48).to_sparse()}, "proj.weight is"),
    "text": (lambda state: {**state, "proj.bias": "nine"}, "proj.bias is str"),
    "without data": (lambda state: {**state, "proj.bias": torch.empty(9, device="meta")}, "larger than its data"),
    "spread": (lambda state: {**state, "proj.bias": torch.ones(1).expand(1 << 50)}, "larger than its data"),
    "twice": (lambda state: {**state, "proj": {"bias": torch.ones(9)}}, "proj.bias occurs twice"),
    "unprintable": (lambda state: {**state, "a\n\0b": torch.ones(1)}, r"'a\n\x00b' is not a valid name"),
    "holding itself": (holding_itself, "contains itself"),
    "list": (lambda state: [*state.values()], "a list"),
    "nothing": (lambda _: {}, "no tensors"),
    "one tensor": (lambda state: state["proj.bias"], "a Tensor"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_is_no_table_of_weights_is_refused(source: Path, kind: str) -> None:
    change, words = NO_WEIGHTS[kind]
    assert words in refusal(toys.save(source, change(toys.tensors(source))))


# --- files that are not what they seem


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


ATTACKS: dict[str, Callable[[str], Calls]] = {
    f"{os.system.__module__}.system": lambda path: Calls(os.system, f"touch {path}"),
    "builtins.eval": lambda path: Calls(builtins.eval, f"open({path!r}, 'w').close()"),
    "builtins.exec": lambda path: Calls(builtins.exec, f"open({path!r}, 'w').close()"),
    "shutil.copy": lambda path: Calls(shutil.copy, __file__, path),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ATTACKS)
def test_code_in_a_checkpoint_is_refused_by_name_and_does_not_run(
    source: Path, tmp_path: Path, name: str, legacy: bool
) -> None:
    mark = tmp_path / "it ran".replace(" ", "-")
    state = {"model": toys.tensors(source), "args": ATTACKS[name](str(mark))}
    torch.save(state, source / "model.pt", _use_new_zipfile_serialization=not legacy)
    message = refusal(source)
    assert "would run code when opened (" in message
    assert f"{name.removeprefix('builtins.')})" in message  # which torch leaves out for older files
    assert not mark.exists()
    torch.load(source / "model.pt", weights_only=False)
    assert mark.exists(), "the attack is real"


def test_code_behind_the_name_of_a_left_over_does_not_run(source: Path, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    wanted = expected(source)
    call = Calls(runstring, f"open({str(mark)!r}, 'w').close()", {})
    toys.save(source, {"model": toys.tensors(source), "args": call})
    assert_stored(toys.convert(source, tmp_path / "model"), wanted)
    assert not mark.exists()
    torch.load(source / "model.pt", weights_only=False)
    assert mark.exists(), "the attack is real"


def zip_of_text() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("readme.txt", "hello")
    return data.getvalue()


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda _: b"<!DOCTYPE html>\n<title>404</title>\n",
    "git pointer": lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n",
    "empty": lambda _: b"",
    "random": lambda _: random.Random(1).randbytes(5000),
    "half": lambda data: data[: len(data) // 2],
    "all but the last byte": lambda data: data[:-1],
    "start only": lambda data: data[:100],
    "another zip": lambda _: zip_of_text(),
    "closed pickle": lambda _: b"\x80\x02N.",
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", GARBAGE)
def test_a_file_that_is_no_checkpoint_is_refused(source: Path, kind: str, legacy: bool) -> None:
    path = source / "model.pt"
    torch.save({"model": toys.tensors(source)}, path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(GARBAGE[kind](path.read_bytes()))
    assert str(path) in refusal(source)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_flipped_byte_of_a_checkpoint_never_escapes_as_another_error(
    source: Path, tmp_path: Path, legacy: bool
) -> None:
    path = source / "model.pt"
    torch.save({"model": {"proj.bias": torch.ones(9)}}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    outcomes = set()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            checkpoint.extract(local(source), tmp_path / "out.npz")
        except CheckpointError as error:
            one_line(str(error))
            outcomes.add("refused")
        else:
            outcomes.add("read")
    assert "refused" in outcomes


# --- config.yaml


def edit(source: Path, *changes: tuple[str, Any]) -> None:
    """Changes settings, named by their path; None as value deletes one."""
    path = source / "config.yaml"
    values = yaml.safe_load(path.read_text())
    for name, value in changes:
        *way, last = ["model_conf", *name.split(".")]
        table = values
        for key in way:
            table = table[key]
        if value is None:
            del table[last]
        else:
            table[last] = value
    path.write_text(yaml.safe_dump(values))


def test_values_come_from_config_yaml(source: Path, tmp_path: Path) -> None:
    layers = [(32, 10, 4), *[(32, 3, 3)] * 4, *[(32, 2, 1)] * 2]  # strides leave no trace in the weights
    edit(
        source,
        ("num_heads", 8),
        ("norm_eps", "1e-6"),  # so YAML reads a number without a point
        ("normalize", False),
        ("modalities.audio.feature_encoder_spec", str(layers)),
    )
    config = ModelConfig.read(toys.convert(source, tmp_path / "model")).architecture
    assert config == replace(toys.TOY, num_heads=8, norm_eps=1e-6, normalize=False, conv_layers=tuple(layers))


UNSUPPORTED = {
    "layer_norm_first": True,
    "norm_affine": False,
    "modalities.audio.extractor_mode": "default",
    "modalities.audio.use_alibi_encoder": False,
    "modalities.audio.learned_alibi": True,
    "modalities.audio.learned_alibi_scale_per_layer": True,
    "modalities.audio.learned_alibi_scale_per_head": False,
    "modalities.audio.conv_pos_pre_ln": True,
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_setting_that_the_runtimes_do_not_compute_is_refused_by_name(source: Path, name: str) -> None:
    edit(source, (name, UNSUPPORTED[name]))
    assert f"config.yaml: {name} is {UNSUPPORTED[name]!r};" in refusal(source)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("depth", 4, ["missing blocks.3.attn.q_proj.weight", "missing blocks.3.norm2.bias"]),
        ("modalities.audio.prenet_depth", 1, ["unexpected context_blocks.1.mlp.fc1.weight"]),
        ("mlp_ratio", 4.0, ["blocks.0.mlp.fc1.weight is [96, 48], must be [192, 48]"]),
        ("embed_dim", 96, ["context_norm.weight is [48], must be [96]"]),
        ("modalities.audio.conv_pos_groups", 8, ["positions.0.weight is [48, 7, 12], must be [48, 7, 6]"]),
        ("modalities.audio.num_extra_tokens", 10, ["extra_tokens is [5, 48], must be [10, 48]"]),
        ("modalities.audio.num_alibi_heads", 3, ["alibi_scale is [6], must be [3]"]),
        ("modalities.audio.feature_encoder_spec", "[(32,10,5)]", ["unexpected conv_layers.6.weight"]),
    ],
)
def test_sizes_that_contradict_the_tensors_are_listed(source: Path, name: str, value: Any, wrong: list[str]) -> None:
    edit(source, (name, value))
    message = refusal(source)
    assert all(part in message for part in wrong), message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_heads", 0),
        ("num_heads", 5),
        ("num_heads", "six"),
        ("num_heads", -6),
        ("depth", 10**9),
        ("embed_dim", float("inf")),
        ("mlp_ratio", [2]),
        ("normalize", "no"),
        ("norm_eps", float("nan")),
        ("norm_eps", 0),
        ("modalities.audio.num_alibi_heads", 12),
        ("modalities.audio.conv_pos_depth", 0),
        ("modalities.audio.conv_pos_groups", 0),
        ("modalities.audio.feature_encoder_spec", "[(32, 10, 0)]"),
        ("modalities.audio", "none"),
        *((name, None) for name in ("depth", "norm_eps", "layer_norm_first", "modalities.audio.conv_pos_width")),
    ],
)
def test_settings_that_no_model_has_are_refused(source: Path, name: str, value: Any) -> None:
    edit(source, (name, value))
    assert "config.yaml" in refusal(source)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1, 2",
        "- a\n- b",
        "",
        "{}",
        "model_conf: 3",
        "\t",
        "a: !!python/object/apply:os.system ['true']",
        "a: &a [*a]",
        "? [1, 2]\n: 3",
        "[" * 5000,
        "a: !!timestamp x",
        "a0: &a0 [x, x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(40)),
    ],
    ids=lambda text: text[:12],
)
def test_a_config_yaml_that_is_none_is_refused(source: Path, text: str) -> None:
    (source / "config.yaml").write_text(text)
    assert "config.yaml" in refusal(source)


def test_a_config_yaml_of_other_bytes_is_refused(source: Path) -> None:
    (source / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "config.yaml" in refusal(source)


SPEC = ((32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2)


@pytest.mark.parametrize(
    "spec",
    [
        "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] + [(32,2,2)]",
        "[(32, 10, 5)] + [(32, 3, 2)] * 4 + [(32,2,2)] * 2",
        "[(32,10,5)]+[(32,3,2)]*4+[(32,2,2)]*2",
        "[(32, 10, 5), (32, 3, 2), (32, 3, 2), (32, 3, 2), (32, 3, 2)] + [(32, 2, 2),] * 2",
        " [ ( 32 , 10 , 5 ) ]\n+ [(32, 3, 2)] * 2 + [(32, 3, 2)] * 2 + [(32, 2, 2)] * 02",
        str(list(SPEC)),
    ],
)
def test_every_spelling_of_the_convolutions_is_read(source: Path, tmp_path: Path, spec: str) -> None:
    edit(source, ("modalities.audio.feature_encoder_spec", spec))
    assert ModelConfig.read(toys.convert(source, tmp_path / "model")).architecture.conv_layers == SPEC


@pytest.mark.parametrize(
    "spec",
    [
        "__import__('os').system('touch {mark}')",
        "[(32, 10, 5)] + [__import__('os').system('touch {mark}')]",
        "[(32, 10, 5)] * 1000000000",
        "[(32, 10, 5)] * -1",
        "[(32, 10)]",
        "[]",
        "",
        "[(32, 10, 5)] +",
        "(32, 10, 5)",
        [[32, 10, 5]],
    ],
    ids=str,
)
def test_other_convolutions_are_refused_and_not_evaluated(source: Path, tmp_path: Path, spec: Any) -> None:
    mark = tmp_path / "it-ran"
    edit(source, ("modalities.audio.feature_encoder_spec", str(spec).format(mark=mark) if spec else spec))
    assert "config.yaml" in refusal(source)
    assert not mark.exists()


@pytest.mark.parametrize("config", [toys.TOY, toys.HEADLESS], ids=["head", "no head"])
def test_without_config_yaml_everything_is_inferred_and_said(tmp_path: Path, config: Emotion2vecConfig) -> None:
    source = toys.make(tmp_path / "checkpoint", config)
    configured, notes = toys.convert(source, tmp_path / "configured", note=pytest.fail), []
    for name in ("config.yaml", "configuration.json"):
        (source / name).unlink()
    inferred = toys.convert(source, tmp_path / "inferred", note=notes.append)
    assert ModelConfig.read(inferred) == ModelConfig.read(configured)
    weights_of = [(folder / "model.safetensors").read_bytes() for folder in (configured, inferred)]
    assert weights_of[0] == weights_of[1]
    assert len(notes) == 1
    assert one_line(notes[0]).startswith("no config.yaml: sizes inferred")


def test_strides_of_unknown_convolutions_are_not_guessed(tmp_path: Path) -> None:
    layers = ((32, 10, 5), (32, 3, 2))
    source = toys.make(tmp_path / "checkpoint", replace(toys.TOY, conv_layers=layers))
    for name in ("config.yaml", "configuration.json"):
        (source / name).unlink()
    assert "put its config.yaml next to it" in refusal(source)


# --- tokens


OLDER = ["生气/angry", "unuse_0", "unuse_1", "开心/happy", "中立/neutral", "unuse_2", "难过/sad", "unuse_3", "<unk>"]
OLDER_NAMES = ["angry", "unuse_0", "unuse_1", "happy", "neutral", "unuse_2", "sad", "unuse_3", "unknown"]


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("tokens.txt", "\n".join(OLDER).encode()),
        ("tokens.txt", "\r\n".join([*OLDER, "", ""]).encode()),
        ("tokens.txt", "\n".join([*OLDER, ""]).encode("utf-8-sig")),
        ("tokens.json", json.dumps(OLDER).encode()),
        ("tokens.json", json.dumps(OLDER, ensure_ascii=False).encode()),
    ],
    ids=["plain", "CRLF", "byte order mark", "json", "json in UTF-8"],
)
def test_labels_are_read_in_every_form(source: Path, tmp_path: Path, file: str, data: bytes) -> None:
    (source / "tokens.txt").unlink()
    (source / file).write_bytes(data)
    about = json.loads((source / "configuration.json").read_text())
    about["file_path_metas"]["tokenizer_conf"]["token_list"] = file
    (source / "configuration.json").write_text(json.dumps(about))
    labels = ModelConfig.read(toys.convert(source, tmp_path / "model")).labels
    assert [label.token for label in labels] == OLDER
    assert [label.name for label in labels] == OLDER_NAMES
    assert [label.unused for label in labels] == [token.startswith("unuse") for token in OLDER]


def test_published_tokens_have_the_names_of_the_catalog(source: Path, tmp_path: Path) -> None:
    labels = ModelConfig.read(toys.convert(source, tmp_path / "model")).labels
    assert {tuple(label.name for label in labels)} == {
        model.labels for model in catalog.known() if model.labels and model.family == "emotion2vec"
    }


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("\n".join([*OLDER[:-1], "x/angry"]), "angry more than once"),
        ("\n".join(OLDER[:-1]), "for 9 rows of the head"),
        ("\n".join([*OLDER, "bored"]), "for 9 rows of the head"),
        ("\n".join([*OLDER[:3], "", *OLDER[4:]]), "line 4 of tokens.txt"),
        ("\n".join([*OLDER[:3], "x/", *OLDER[4:]]), "line 4 of tokens.txt"),
        ("", "put the tokens.txt of its repository next to the weights"),
        (b"\xff\xfe", "not a readable list of tokens"),
    ],
)
def test_labels_that_do_not_fit_are_refused(source: Path, data: str | bytes, words: str) -> None:
    (source / "tokens.txt").write_bytes(data if isinstance(data, bytes) else data.encode())
    assert words in refusal(source)


@pytest.mark.parametrize("text", ['{"a": 1}', '"angry"', "3", "[", "[" * 100_000])
def test_a_json_file_without_a_list_of_labels_is_refused(source: Path, text: str) -> None:
    (source / "tokens.json").write_text(text)
    about = json.loads((source / "configuration.json").read_text())
    about["file_path_metas"]["tokenizer_conf"]["token_list"] = "tokens.json"
    (source / "configuration.json").write_text(json.dumps(about))
    assert "list of tokens" in refusal(source)


def test_a_head_needs_its_labels(source: Path) -> None:
    for name in ("tokens.txt", "configuration.json"):
        (source / name).unlink()
    assert "9 rows but no tokens.txt" in refusal(source)


# --- all or nothing


def state_of(folder: Path) -> bytes | None:
    """The weights under the final name, after they were found to be a whole model; None where there is nothing."""
    if not folder.exists():
        return None
    config = ModelConfig.read(folder)
    tensors.check(folder / "model.safetensors", config.architecture, config.dtype)
    return (folder / "model.safetensors").read_bytes()


# Dies at the n-th thing it does to the file system, for every n; prints after how many nothing was left to do.
KILLED_EVERYWHERE = """
import os, signal, sys
from pathlib import Path
from e2v_port.converters import weights

os.fsync = lambda _: None  # against a power cut, not a kill; slow on a busy disk
npz, folder, states = map(Path, sys.argv[1:])
watched = {"open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
for last in range(1000):
    os.system(f"rm -rf {folder}; cp -r {folder}.old {folder} 2> /dev/null")
    child = os.fork()
    if child == 0:
        left = last
        def die(event, _):
            global left
            if event in watched:
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        sys.addaudithook(die)
        weights.write(npz, folder)
        os._exit(0)
    killed = os.waitpid(child, 0)[1]
    os.system(f"cp -r {folder} {states}/{last} 2> /dev/null")
    if not killed:
        break
print(last)
"""


@pytest.mark.parametrize("replacing", [False, True])
def test_a_kill_at_any_step_leaves_a_whole_model_or_none(tmp_path: Path, two: list[Path], replacing: bool) -> None:
    folder, states = tmp_path / "model", tmp_path / "states"
    states.mkdir()
    old, new = (npz.with_suffix("") for npz in two)
    if replacing:
        shutil.copytree(old, tmp_path / "model.old")
    line = [sys.executable, "-c", KILLED_EVERYWHERE, two[1], folder, states]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True)
    steps = int(done.stdout)
    assert steps > 10
    found = [state_of(states / str(step)) for step in range(steps + 1)]
    assert found[0] == (state_of(old) if replacing else None)
    assert found[-1] == state_of(new)
    assert set(found) <= {None, state_of(old), state_of(new)}
    if replacing:
        assert found.count(None) <= 1, "only between two renames"
    assert state_of(folder) == state_of(new), "what killed conversions left does not stand in the way"


def test_a_kill_at_any_moment_leaves_a_whole_model_or_none(tmp_path: Path, two: list[Path]) -> None:
    folder = tmp_path / "model"
    script = """
import sys
from pathlib import Path
from e2v_port.converters import weights
while True:
    for npz in sys.argv[2:]:
        print(flush=True)
        weights.write(Path(npz), Path(sys.argv[1]))
"""
    draw = random.Random(5)
    whole = {state_of(npz.with_suffix("")) for npz in two}
    found = []
    for turn in range(12):
        with subprocess.Popen([sys.executable, "-c", script, folder, *two], stdout=subprocess.PIPE) as child:
            assert child.stdout
            for _ in range(1 + turn % 3):  # before the first write, or within a later one
                child.stdout.readline()
            time.sleep(draw.uniform(0.0, 0.2))
            child.kill()
        found.append(state_of(folder))
    assert set(found) <= {None, *whole}
    assert whole & set(found)


FULL_DISK = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size there")
def test_a_full_disk_is_one_line_and_leaves_nothing(source: Path, tmp_path: Path, two: list[Path]) -> None:
    work = tmp_path / "work"
    work.mkdir()
    assert_refused(command("checkpoint", source, work / "out.npz", prelude=FULL_DISK), "File too large")
    assert_refused(command("weights", two[0], work / "model", prelude=FULL_DISK), "File too large")
    assert list(work.iterdir()) == []
    shutil.copytree(two[1].with_suffix(""), work / "model")
    assert_refused(command("weights", two[0], work / "model", prelude=FULL_DISK), "File too large")
    assert [entry.name for entry in work.iterdir()] == ["model"]
    assert state_of(work / "model") == state_of(two[1].with_suffix(""))


def tree(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return {str(file): file.read_bytes() for file in files}


def foreign_model(folder: Path) -> None:
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}')
    safetensors.torch.save_file({"a": torch.ones(2)}, folder / "model.safetensors")


def model_with_notes(folder: Path) -> None:
    toys.convert(toys.make(folder.parent / "checkpoint"), folder)
    (folder / "notes.txt").write_text("mine")


OCCUPIED: dict[str, Callable[[Path], Any]] = {
    "files": lambda folder: (folder / "a.txt").write_text("mine"),
    "a folder": lambda folder: (folder / "a").mkdir(),
    "a model of another library": foreign_model,
    "a model and more": model_with_notes,
    "a damaged model": lambda folder: (folder / "config.json").write_text("{}"),
}


@pytest.mark.parametrize("kind", OCCUPIED)
def test_a_folder_with_anything_else_is_refused_untouched(tmp_path: Path, two: list[Path], kind: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    OCCUPIED[kind](folder)
    before = tree(tmp_path)
    with pytest.raises(CheckpointError, match="move it away"):
        weights.write(two[0], folder)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_the_folder_is_refused_untouched(tmp_path: Path, two: list[Path]) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(CheckpointError, match="move it away"):
        weights.write(two[0], tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_an_empty_folder_a_link_and_the_current_folder_are_filled(
    tmp_path: Path, two: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = state_of(two[0].with_suffix(""))
    for name in ("empty", "target", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    for name in ("empty", "link", "link"):
        weights.write(two[0], tmp_path / name)
        assert state_of(tmp_path / name) == wanted
    assert (tmp_path / "link").is_symlink()
    monkeypatch.chdir(tmp_path / "here")
    weights.write(two[0], Path())
    assert state_of(tmp_path / "here") == wanted
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "here", "link", "target"]


@pytest.fixture(params=[True, False], ids=["one step", "two steps"])
def replacing_in_one_step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system can swap two names: not every one can."""
    if not request.param:
        monkeypatch.setattr(converters_folder, "_exchange", lambda *_: False)
    return bool(request.param)


@pytest.mark.usefixtures("replacing_in_one_step")
def test_conversions_to_the_same_name_at_once_all_succeed(tmp_path: Path, two: list[Path]) -> None:
    with ThreadPoolExecutor(6) as pool:
        for npz, done in [(npz, pool.submit(weights.write, npz, tmp_path / "model")) for npz in two * 6]:
            done.result()
            assert npz.is_file()
    assert state_of(tmp_path / "model") in [state_of(npz.with_suffix("")) for npz in two]
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


# Without the work of a conversion, replacements meet each other hundreds of times.
REPLACING = """
import sys
from pathlib import Path
from e2v_port.converters import folder
if sys.argv[2] == "two steps":
    folder._exchange = lambda *_: False
root = Path(sys.argv[1])
for turn in range(600):
    new = root / f"{sys.argv[3]}-{turn}"
    new.mkdir()
    (new / "config.json").write_text('{"converter": "e2v-port"}')
    (new / "model.safetensors").write_bytes(b"")
    assert folder.may_replace(root / "model"), "it holds nothing else at any moment"
    folder._replace(new, root / "model")
"""


@pytest.mark.parametrize("way", ["one step", "two steps"])
def test_processes_replace_a_folder_at_once(tmp_path: Path, way: str) -> None:
    line = [sys.executable, "-c", REPLACING, str(tmp_path), way]
    children = [subprocess.Popen([*line, str(i)], stderr=subprocess.PIPE, text=True) for i in range(4)]
    errors = [child.communicate(timeout=300)[1] for child in children]
    assert errors == [""] * 4
    assert {entry.name for entry in (tmp_path / "model").iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.skipif(sys.platform not in {"linux", "darwin"}, reason="names cannot be swapped in one step there")
def test_a_model_that_is_being_replaced_can_be_loaded_at_any_moment(tmp_path: Path, two: list[Path]) -> None:
    """Sizes and labels of the one with the weights of the other would be a wrong answer."""
    folder, clip = tmp_path / "model", np.zeros(1000, np.float32)

    def answer(path: Path) -> tuple[str, float]:
        model = load(path, runtime="cpu")
        return model.config.source.repository, float(model.embed(clip, 16_000)[0])

    whole = {answer(npz.with_suffix("")) for npz in two}
    weights.write(two[0], folder)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [weights.write(npz, folder) for npz in two * 12])
        found = []
        while not writing.done():
            found.append(answer(folder))
        writing.result()
    assert len(whole) == 2
    assert set(found) <= whole


def test_arrays_are_stored_as_they_are_given(tmp_path: Path) -> None:
    folder = toys.make_small(tmp_path / "model", toys.DEVIATION, temperature=1.5)
    assert ModelConfig.read(folder).temperature == 1.5
    stored = safetensors.torch.load_file(folder / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in stored.items()} == toys.DEVIATION.tensors()
    again = toys.store(tmp_path / "again", toys.DEVIATION, {name: tensor.numpy() for name, tensor in stored.items()})
    assert_stored(again, stored)


def test_arrays_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    arrays = {name: np.ones(shape) for name, shape in toys.GRAM.tensors().items()}
    del arrays["layers.3.bias"]
    arrays |= {"head.out.weight": np.ones((2, 2)), "extra": np.ones(2)}
    with pytest.raises(CheckpointError) as caught:
        toys.store(tmp_path / "model", toys.GRAM, arrays)
    message = one_line(str(caught.value))
    for words in ("missing layers.3.bias [9]", "unexpected extra [2]", "head.out.weight is [2, 2], must be [5, 10]"):
        assert words in message
    arrays = {name: np.full(shape, np.nan) for name, shape in toys.GRAM.tensors().items()}
    with pytest.raises(CheckpointError, match=r"not finite as float32: mel, layers\.0\.weight"):
        toys.store(tmp_path / "model", toys.GRAM, arrays)
    assert list(tmp_path.iterdir()) == []


# --- the npz between the two halves


def test_numpy_reads_the_npz(source: Path, tmp_path: Path) -> None:
    checkpoint.extract(local(source), tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as file:
        for name, tensor in toys.tensors(source).items():
            assert np.array_equal(file[name], tensor.numpy())


def test_the_npz_is_kept_on_request(source: Path, tmp_path: Path) -> None:
    toys.convert(source, tmp_path / "model", keep_npz=True)
    assert sorted(entry.name for entry in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.npz",
        "model.safetensors",
    ]
    weights.write(tmp_path / "model" / "model.npz", tmp_path / "again")
    assert state_of(tmp_path / "again") == state_of(tmp_path / "model")


def positions(size: int) -> Iterator[int]:
    yield from range(260)  # the first member's name and its numpy header
    yield from range(260, 600, 9)
    yield from range(size - 800, size, 5)  # the table of contents
    yield from range(0, size, size // 60)


def test_a_flipped_byte_of_the_npz_is_noticed(tmp_path: Path, two: list[Path]) -> None:
    whole = two[0].read_bytes()
    wanted = state_of(two[0].with_suffix(""))
    npz = tmp_path / "model.npz"
    refused = 0
    for position in positions(len(whole)):
        npz.write_bytes(whole[:position] + bytes([whole[position] ^ 0x11]) + whole[position + 1 :])
        try:
            weights.write(npz, tmp_path / "model")
        except CheckpointError as error:
            one_line(str(error))
            refused += 1
        else:  # such as a date: then everything arrived
            assert state_of(tmp_path / "model") == wanted
    assert refused > 60


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_npz_is_refused(tmp_path: Path, two: list[Path], share: float) -> None:
    npz = tmp_path / "model.npz"
    npz.write_bytes(two[0].read_bytes()[: int(share * two[0].stat().st_size)])
    with pytest.raises(CheckpointError, match="write it again"):
        weights.write(npz, tmp_path / "model")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.npz"]


def test_another_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "model.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match="not an npz of"):
        weights.write(tmp_path / "model.npz", tmp_path / "model")


# --- the two halves as commands


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "mlx"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocked())
"""


def test_the_halves_need_neither_torch_nor_mlx(source: Path, tmp_path: Path) -> None:
    npz, folder = tmp_path / "model.npz", tmp_path / "model"
    done = command("checkpoint", source, npz, prelude=BLOCKED)
    assert done.returncode == 0, done.stderr
    assert str(npz) in done.stdout
    done = command("weights", npz, folder, "--dtype", "float16", prelude=BLOCKED)
    assert done.returncode == 0, done.stderr
    assert_stored(folder, expected(source), "float16")


@pytest.mark.parametrize("module", ["checkpoint", "weights", "synthetic"])
def test_help_tells_the_arguments(module: str) -> None:
    done = command(module, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: e2v_port.converters.{module}")


def test_bad_input_is_exit_code_2_and_one_line(source: Path, tmp_path: Path, two: list[Path]) -> None:
    npz = tmp_path / "model.npz"
    assert_refused(command("checkpoint", tmp_path / "absent", npz), "absent")
    (source / "model.pt").write_bytes(b"")
    assert_refused(command("checkpoint", source, npz), "model.pt")
    assert_refused(command("weights", npz, tmp_path / "model"), "model.npz")
    assert_refused(command("weights", two[0], two[0].parent), "move it away")
    assert_refused(command("weights", two[0], two[0] / "model"))
    assert not npz.exists()


MEMORY = """
import sys
from pathlib import Path
from e2v_port.converters import weights
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
before = peak()
weights.write(Path(sys.argv[1]), Path(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, as on Linux")
def test_the_second_half_never_holds_all_weights(tmp_path: Path) -> None:
    source = toys.make(tmp_path / "checkpoint", replace(emotion2vec_converter.BASE, prenet_depth=1, depth=2))
    npz = tmp_path / "model.npz"
    checkpoint.extract(local(source), npz)
    line = [sys.executable, "-c", MEMORY, npz, tmp_path / "model"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True)
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert size > 100_000_000
    assert 0 < int(done.stdout) <= 0.5 * size
    print(f"peak {int(done.stdout) / size:.2f} of the weights")


# --- config.json


SIZES = st.builds(
    lambda heads, alibi, width, ratio, groups, layers, **others: Emotion2vecConfig(
        embed_dim=heads * groups * width,
        num_heads=heads,
        num_alibi_heads=min(alibi, heads),
        ffn_dim=heads * groups * width * ratio,
        conv_pos_groups=groups,
        conv_layers=tuple(layers),
        **others,
    ),
    heads=st.integers(1, 6),
    alibi=st.integers(1, 6),
    width=st.integers(1, 3),
    ratio=st.integers(1, 4),
    groups=st.integers(1, 4),
    layers=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=4),
    prenet_depth=st.integers(0, 2),
    depth=st.integers(0, 2),
    conv_pos_depth=st.integers(1, 3),
    conv_pos_kernel=st.integers(3, 9),
    num_extra_tokens=st.integers(0, 4),
    normalize=st.booleans(),
    norm_eps=st.sampled_from([1e-5, 1e-6, 0.001]),
    head_dim=st.just(0),
    num_labels=st.sampled_from([0, len(emotion2vec_converter.TOKENS)]),
)


@settings(max_examples=40, deadline=None)
@given(config=SIZES, dtype=st.sampled_from(DTYPES))
def test_models_of_any_size_convert(config: Emotion2vecConfig, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as work:
        source = toys.make(Path(work) / "checkpoint", config)
        folder = toys.convert(source, Path(work) / "model", dtype=dtype)
        found = ModelConfig.read(folder)
        assert found.architecture == config
        assert ModelConfig.from_json(found.to_json()) == found
        tensors.check(folder / "model.safetensors", config, dtype)
        assert_stored(folder, expected(source), dtype)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads((folder / "config.json").read_text("utf-8"))
    change(values)
    (folder / "config.json").write_text(json.dumps(values))


DAMAGED: dict[str, Callable[[Path], Any]] = {
    "missing": lambda folder: (folder / "config.json").unlink(),
    "empty": lambda folder: (folder / "config.json").write_text(""),
    "list": lambda folder: (folder / "config.json").write_text("[]"),
    "deep": lambda folder: (folder / "config.json").write_text("[" * 100_000),
    "other bytes": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
    "half": lambda folder: os.truncate(folder / "config.json", 300),
    "later format": lambda folder: rewrite(folder, lambda values: values.update(format=3)),
    "earlier format": lambda folder: rewrite(folder, lambda values: values.update(format=1)),
    "no temperature": lambda folder: rewrite(folder, lambda values: values.pop("temperature")),
    "temperature zero": lambda folder: rewrite(folder, lambda values: values.update(temperature=0.0)),
    "temperature not a number": lambda folder: rewrite(folder, lambda values: values.update(temperature=float("nan"))),
    "no format": lambda folder: rewrite(folder, lambda values: values.pop("format")),
    "no source": lambda folder: rewrite(folder, lambda values: values.pop("source")),
    "unknown key": lambda folder: rewrite(folder, lambda values: values.update(new=1)),
    "unknown family": lambda folder: rewrite(folder, lambda values: values.update(family="wav2vec9")),
    "unknown dtype": lambda folder: rewrite(folder, lambda values: values.update(dtype="int4")),
    "a label less": lambda folder: rewrite(folder, lambda values: values["labels"].pop()),
    "a label twice": lambda folder: rewrite(folder, lambda v: v["labels"].__setitem__(1, v["labels"][0])),
    "no width": lambda folder: rewrite(folder, lambda values: values["architecture"].pop("embed_dim")),
    "no stride": lambda folder: rewrite(folder, lambda v: v["architecture"]["conv_layers"][0].__setitem__(2, 0)),
    "endless": lambda folder: rewrite(folder, lambda values: values["architecture"].update(depth=10**9)),
    "text for a size": lambda folder: rewrite(folder, lambda values: values["architecture"].update(depth="3")),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_config_json_is_refused_with_its_folder(tmp_path: Path, two: list[Path], kind: str) -> None:
    folder = Path(shutil.copytree(two[0].with_suffix(""), tmp_path / "model"))
    DAMAGED[kind](folder)
    with pytest.raises(CheckpointError) as caught:
        ModelConfig.read(folder)
    assert str(folder) in one_line(str(caught.value))


def test_origin_and_licence_are_recorded(source: Path, tmp_path: Path) -> None:
    found = ModelConfig.read(toys.convert(source, tmp_path / "model"))
    digest = subprocess.run(["sha256sum", source / "model.pt"], capture_output=True, text=True, check=True)
    assert found.source.sha256 == digest.stdout.split()[0]
    assert (found.source.file, found.source.hub, found.source.repository) == ("model.pt", "local", str(source))


def test_a_folder_whose_name_is_no_utf_8_can_be_converted(tmp_path: Path) -> None:
    try:
        source = toys.make(tmp_path / os.fsdecode(b"caf\xe9"))
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    torch.save({"model": toys.tensors(source)}, source / "model.pt", _use_new_zipfile_serialization=False)
    folder = toys.convert(source, tmp_path / "model")
    assert ModelConfig.read(folder).source.repository == str(source)

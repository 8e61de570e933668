"""Weights of 8 and 4 bits, judged by MLX, whose scheme it is; and weights cast when they are loaded."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import safetensors.numpy
import torch
import toys
from numpy.typing import NDArray
from safetensors.torch import load_file
from typer.testing import CliRunner

from e2v_port import Model, load
from e2v_port.architectures import tensors
from e2v_port.architectures.base import Architecture
from e2v_port.architectures.config import ModelConfig
from e2v_port.architectures.quantization import QUANTIZED, pack, unpack
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint
from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.converters import wav2small as wav2small_converter
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import wavlm as wavlm_converter
from e2v_port.converters.folder import store
from e2v_port.errors import CheckpointError

# Rows of one and of several groups.
WIDE: dict[str, Architecture] = {
    "emotion2vec": replace(toys.TOY, embed_dim=64, num_heads=8, num_alibi_heads=8, ffn_dim=192),
    "wav2vec2": replace(toys.DIMENSIONAL, embed_dim=64, head_dim=64, num_heads=8, ffn_dim=192),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """By family and dtype: the same checkpoint, converted."""
    root = tmp_path_factory.mktemp("quantized")
    emotion2vec_converter.make(WIDE["emotion2vec"], root / "emotion2vec")
    wav2vec2_converter.make(WIDE["wav2vec2"], root / "wav2vec2")
    return {
        (family, dtype): toys.convert(root / family, root / f"{family}-{dtype}", dtype=dtype)
        for family in WIDE
        for dtype in ("float32", "float16", "bfloat16", *QUANTIZED)
    }


CASES = pytest.mark.parametrize(("family", "dtype"), [(family, dtype) for family in WIDE for dtype in QUANTIZED])


def voice(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    draw = np.random.default_rng(seed)
    at = np.arange(int(16_000 * seconds)) / 16_000
    wave = np.sin(2 * np.pi * draw.uniform(90, 300) * at) * (1 + np.sin(2 * np.pi * 3 * at))
    return np.asarray(0.1 * wave + 0.02 * draw.standard_normal(len(at)), dtype=np.float32)


CLIPS = [voice(seconds, seed) for seed, seconds in enumerate([1.0, 0.4, 2.3])]


def outputs(model: Model, clips: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.array([output.logits for _, output in model.each(clips, 16_000)])  # type: ignore[union-attr, misc]


# --- the scheme


def matrices() -> Iterator[NDArray[np.float32]]:
    """All sizes of numbers, both signs and one, constants, zeros, what rounds to a tie."""
    draw = np.random.default_rng(0)
    for exponent in (-40, -12, -7, -3, 0, 5, 37):
        w = (draw.standard_normal((12, 192)) * 10.0**exponent).astype(np.float32)
        yield w
        yield np.abs(w)
        yield -np.abs(w)
        w[::3], w[1::3, :100] = 0, w[0, 0]
        yield w
    yield np.full((3, 64), 0.37, dtype=np.float32)
    yield (draw.integers(-255, 256, (50, 64)) / 8).astype(np.float32)


@toys.needs_mlx
@pytest.mark.parametrize("bits", [8, 4])
def test_it_is_the_scheme_of_mlx_bit_for_bit(bits: int) -> None:
    import mlx.core as mx

    with mx.stream(mx.cpu):
        for w in matrices():
            wanted = mx.quantize(mx.array(w), group_size=64, bits=bits)
            found = pack(w, bits)
            for ours, theirs in zip(found, map(np.array, wanted), strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours.view(np.uint32), theirs.view(np.uint32))
            back = np.array(mx.dequantize(*wanted, group_size=64, bits=bits))
            np.testing.assert_array_equal(unpack(*found).view(np.uint32), back.view(np.uint32))


@pytest.mark.parametrize("bits", [8, 4])
def test_no_number_moves_further_than_a_step(bits: int) -> None:
    w = np.random.default_rng(1).standard_normal((200, 256)).astype(np.float32)
    groups, back = w.reshape(-1, 64), unpack(*pack(w, bits)).reshape(-1, 64)
    step = np.ptp(groups, axis=1, keepdims=True) / (2**bits - 1)
    # Half a step is rounding; the scale is made to fit zero, which moves the other end by up to another half.
    assert (np.abs(back - groups) <= 1.05 * step).all()
    assert np.abs(back - groups).mean() < 0.3 * step.mean()
    largest = np.abs(groups).argmax(1)
    np.testing.assert_array_equal(
        np.take_along_axis(back, largest[:, None], 1), np.take_along_axis(groups, largest[:, None], 1)
    )


# --- the file


@CASES
def test_matrices_of_blocks_are_packed_and_all_else_is_as_it_was(
    family: str, dtype: str, folders: dict[tuple[str, str], Path]
) -> None:
    found = safetensors.numpy.load_file(folders[family, dtype] / "model.safetensors")
    exact = safetensors.numpy.load_file(folders[family, "float32"] / "model.safetensors")
    blocks = 5 if family == "emotion2vec" else 3
    packed = [name for name in found if name.endswith(".scales")]
    assert len(packed) == 6 * blocks
    assert {name.split(".")[-2] for name in packed} == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    for scales in packed:
        layer = scales.removesuffix(".scales")
        biases = found.pop(f"{layer}.biases")
        for ours, wanted in zip(
            (found.pop(f"{layer}.weight"), found.pop(scales), biases),
            pack(exact.pop(f"{layer}.weight"), QUANTIZED[dtype]),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, wanted)
    assert found.keys() == exact.keys()
    for name, values in exact.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == np.float32


@toys.needs_mlx
@CASES
def test_mlx_loads_the_file_by_its_own_means(family: str, dtype: str, folders: dict[tuple[str, str], Path]) -> None:
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten

    from e2v_port.runtimes import emotion2vec_mlx, wav2vec2_mlx

    config: Any = WIDE[family]
    parameters = []
    for first, stored in (("load", "float32"), ("quantize", dtype)):
        network = emotion2vec_mlx.Emotion2vec(config) if family == "emotion2vec" else wav2vec2_mlx.Wav2vec2(config)
        for step in ("quantize", "load") if first == "quantize" else ("load", "quantize"):
            if step == "load":
                network.load_weights(str(folders[family, stored] / "model.safetensors"), strict=True)
            else:
                linear = lambda path, part: "blocks" in path and isinstance(part, nn.Linear)  # noqa: E731
                nn.quantize(network, bits=QUANTIZED[dtype], class_predicate=linear)
        parameters.append(dict(tree_flatten(network.parameters())))
    wanted, found = parameters
    assert wanted.keys() == found.keys()
    assert all(mx.array_equal(wanted[name], found[name]) for name in wanted)


@CASES
def test_the_second_half_needs_neither_torch_nor_mlx(
    family: str, dtype: str, folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    source = folders[family, "float32"].with_name(family)
    checkpoint.extract(local(source), tmp_path / "model.npz")
    blocked = "import sys; sys.modules |= dict.fromkeys(['torch', 'mlx', 'mlx.core'])"
    code = f"{blocked}; from e2v_port.converters.weights import main; main()"
    line = [sys.executable, "-c", code, tmp_path / "model.npz", tmp_path / "model", "--dtype", dtype]
    subprocess.run(line, check=True, capture_output=True, timeout=300)
    written, wanted = (folder / "model.safetensors" for folder in (tmp_path / "model", folders[family, dtype]))
    assert written.read_bytes() == wanted.read_bytes()


def test_what_is_not_finite_is_refused_by_name(folders: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    config = ModelConfig.read(folders["emotion2vec", "q8"])
    for value in (math.nan, math.inf, -math.inf):
        arrays = safetensors.numpy.load_file(folders["emotion2vec", "float32"] / "model.safetensors")
        arrays["blocks.1.mlp.fc1.weight"][3, 17] = value
        with pytest.raises(CheckpointError, match=r"not finite as q8: blocks\.1\.mlp\.fc1\.weight;"):
            store(tmp_path / "model", config, lambda: iter(arrays.items()))  # noqa: B023
        assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_a_model_with_nothing_to_pack_is_refused_in_one_line(dtype: str, tmp_path: Path) -> None:
    from e2v_port.cli import app

    small = wav2small_converter.make(wav2small_converter.PUBLISHED, tmp_path / "wav2small")
    narrow = toys.make(tmp_path / "narrow")
    for source in (small, narrow):
        call = ["convert", "--model", str(source), "--dtype", dtype, "--out", str(tmp_path / "out")]
        answer = CliRunner().invoke(app, call)
        assert answer.exit_code != 0
        assert isinstance(answer.exception, CheckpointError)
        assert f"cannot be stored as {dtype}" in str(answer.exception)
        assert "float16" in str(answer.exception)
        assert not (tmp_path / "out").exists()


def test_only_rows_of_whole_groups_are_packed() -> None:
    config = replace(toys.TOY, ffn_dim=192)  # 48 wide: rows of fc2 alone are groups of 64
    assert [*tensors.packed(config)] == [
        f"{blocks}.{i}.mlp.fc2.weight" for blocks, depth in (("context_blocks", 2), ("blocks", 3)) for i in range(depth)
    ]


@pytest.mark.parametrize("other", ["q4", "float32"])
def test_a_file_with_other_bits_than_its_config_is_refused(
    other: str, folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["emotion2vec", "q8"] / name).read_bytes())
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(values | {"dtype": other}), "utf-8")
    with pytest.raises(CheckpointError, match=r"does not match its config\.json: .*q_proj\.weight") as caught:
        load(tmp_path, runtime="cpu")
    assert str(caught.value).isprintable()


# --- the answers


@CASES
def test_torch_computes_with_the_weights_that_mlx_unpacks(
    family: str, dtype: str, folders: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """The same as a float32 model that holds the unpacked weights."""
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    arrays = safetensors.numpy.load_file(folders[family, dtype] / "model.safetensors")
    for name in tensors.packed(WIDE[family]):
        layer = name.removesuffix(".weight")
        three = [mx.array(arrays.pop(f"{layer}.{part}")) for part in ("weight", "scales", "biases")]
        arrays[name] = np.array(mx.dequantize(*three, group_size=64, bits=QUANTIZED[dtype]))
    config = replace(ModelConfig.read(folders[family, dtype]), dtype="float32")
    store(tmp_path / "plain", config, lambda: iter(arrays.items()))
    plain, packed = load(tmp_path / "plain", runtime="cpu"), load(folders[family, dtype], runtime="cpu")
    states = [cast(Any, model)._runner.model.state_dict() for model in (plain, packed)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    # The same weights; where they lie in memory decides the order of the sums.
    np.testing.assert_allclose(outputs(packed, CLIPS), outputs(plain, CLIPS), rtol=0, atol=2e-5)


@CASES
def test_numpy_gives_what_torch_gives(family: str, dtype: str, folders: dict[tuple[str, str], Path]) -> None:
    ours, torchs = (load(folders[family, dtype], runtime=runtime) for runtime in ("numpy", "cpu"))
    np.testing.assert_allclose(outputs(ours, CLIPS), outputs(torchs, CLIPS), atol=2e-5, rtol=0)


@toys.needs_mlx
@CASES
@pytest.mark.parametrize("packed", [False, True], ids=["on a CPU", "as on a GPU"])
def test_mlx_gives_what_torch_gives(
    family: str, dtype: str, packed: bool, folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("e2v_port.runtimes.mlx_runtime.multiplies_packed", lambda _: packed)
    ours, torchs = (load(folders[family, dtype], runtime=runtime) for runtime in ("mlx", "cpu"))
    np.testing.assert_allclose(outputs(ours, CLIPS), outputs(torchs, CLIPS), atol=5e-5, rtol=0)


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
@CASES
def test_batches_give_what_single_clips_give(
    family: str, dtype: str, runtime: str, folders: dict[tuple[str, str], Path]
) -> None:
    model = load(folders[family, dtype], runtime=runtime)
    together = outputs(model, CLIPS)
    singles = np.concatenate([outputs(model, [clip]) for clip in CLIPS])
    np.testing.assert_allclose(together, singles, atol=2e-5, rtol=0)
    np.testing.assert_array_equal(outputs(model, CLIPS), together)


@pytest.mark.parametrize("family", WIDE)
def test_more_bits_are_closer_to_the_model_of_float32(family: str, folders: dict[tuple[str, str], Path]) -> None:
    exact = outputs(load(folders[family, "float32"], runtime="cpu"), CLIPS)
    far = {
        dtype: np.abs(outputs(load(folders[family, dtype], runtime="cpu"), CLIPS) - exact).max() for dtype in QUANTIZED
    }
    assert 0 < far["q8"] < far["q4"] / 4
    assert far["q8"] < 0.05


@pytest.mark.parametrize("runtime", toys.RUNTIMES)
def test_gates_of_wavlm_are_not_packed(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even with a head of 64 features, where the two rows of a gate could be."""
    if runtime == "mlx":
        monkeypatch.setattr("e2v_port.runtimes.mlx_runtime.multiplies_packed", lambda _: True)
    wavlm_converter.make(replace(toys.WAVLM, embed_dim=64, num_heads=1, ffn_dim=192), tmp_path / "checkpoint")
    folders = [toys.convert(tmp_path / "checkpoint", tmp_path / dtype, dtype=dtype) for dtype in ("float32", "q8")]
    assert not [name for name in tensors.packed(ModelConfig.read(folders[1]).architecture) if "gate" in name]
    exact = load(folders[0], runtime="numpy").embed(CLIPS, 16_000)
    found = load(folders[1], runtime=runtime).embed(CLIPS, 16_000)
    assert 0 < max(np.abs(one - other).max() for one, other in zip(exact, found, strict=True)) < 0.1


@pytest.mark.parametrize("runtime", toys.CASTING)
def test_packed_models_take_other_arithmetic(
    runtime: str, folders: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "mlx":
        monkeypatch.setattr("e2v_port.runtimes.mlx_runtime.multiplies_packed", lambda _: True)
    exact = outputs(load(folders["emotion2vec", "q8"], runtime=runtime), CLIPS)
    # MLX rounds scales and biases too, which torch does not: twice the difference of a model that is not packed.
    for dtype, tolerance in (("bfloat16", 0.2), ("float16", 0.03)):
        rounded = outputs(load(folders["emotion2vec", "q8"], runtime=runtime, dtype=dtype), CLIPS)
        assert 0 < np.abs(rounded - exact).max() < tolerance


@pytest.mark.parametrize("family", WIDE)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@toys.needs_mlx
def test_weights_cast_at_load_are_those_stored_so(
    family: str, dtype: str, folders: dict[tuple[str, str], Path]
) -> None:
    cast = load(folders[family, "float32"], runtime="mlx", dtype=dtype)
    stored = load(folders[family, dtype], runtime="mlx")
    np.testing.assert_array_equal(outputs(cast, CLIPS), outputs(stored, CLIPS))


def test_torch_reads_packed_numbers_as_they_are(folders: dict[tuple[str, str], Path]) -> None:
    """torch supports little more than reading unsigned 32-bit integers."""
    name = "blocks.0.attn.q_proj.weight"
    found = load_file(folders["emotion2vec", "q4"] / "model.safetensors")[name]
    assert found.dtype == torch.uint32
    wanted = safetensors.numpy.load_file(folders["emotion2vec", "q4"] / "model.safetensors")[name]
    np.testing.assert_array_equal(found.numpy(), wanted)

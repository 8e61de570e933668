"""Whisper in each form it is published in: the same model from all of them, and real weights equal to transformers."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
import toys
import whisper_forms
from ctranslate2_file import model_bin
from loopback_hub import LoopbackHub
from safetensors.numpy import load_file
from safetensors.torch import save_file
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

import e2v_port
from e2v_port.architectures.base import Readout
from e2v_port.architectures.config import Label, ModelConfig
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.checkpoints import catalog
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters.folder import store
from e2v_port.models import devices
from e2v_port.parity import references, verify
from e2v_port.parity import whisper as whisper_reference
from e2v_port.parity.origin import ROUNDING, compare
from e2v_port.parity.verify import Check

# Where a clip is only silence, whisper-base holds values of several hundred next to small ones. MLX on the CPU leaves
# 0.004 of difference in such frames, torch 0.0008, as it does elsewhere.
SILENCE = 5
RUNTIMES = [name for name in devices.RUNTIMES if devices.unavailable(name) is None]


@pytest.fixture(scope="module")
def whisper() -> WhisperModel:
    """A small Whisper of values that float16 holds. Two biases are zero, so that one is stored as the other's alias."""
    torch.manual_seed(0)
    sizes = {"encoder_layers": 3, "encoder_attention_heads": 2, "decoder_layers": 1, "decoder_attention_heads": 1}
    model = WhisperModel(
        WhisperConfig(d_model=64, encoder_ffn_dim=256, decoder_ffn_dim=64, vocab_size=51865, num_mel_bins=80, **sizes)
    )
    for name, tensor in model.state_dict().items():
        if "embed_positions" not in name:
            tensor.copy_(tensor + 0.1 * torch.randn_like(tensor))
        if name.endswith(("1.fc1.bias", "2.fc1.bias")):
            tensor.zero_()
        tensor.copy_(tensor.half())
    return model.eval()


def as_transformers(whisper: WhisperModel, folder: Path) -> Path:
    whisper.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def as_openai(whisper: WhisperModel, folder: Path) -> Path:
    folder.mkdir()
    torch.save(whisper_forms.openai(whisper), folder / "base.pt")
    return folder


def as_ctranslate2(whisper: WhisperModel, folder: Path) -> Path:
    folder.mkdir()
    (folder / "model.bin").write_bytes(whisper_forms.ctranslate2(whisper))
    (folder / "config.json").write_text(json.dumps({"alignment_heads": [[0, 0]], "lang_ids": [50259]}))
    return folder


FORMS = {"transformers": as_transformers, "openai": as_openai, "ctranslate2": as_ctranslate2}


def settings(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def test_every_form_gives_the_same_model(whisper, tmp_path):
    """Recognized by its content, to the last bit, and with all sizes."""
    converted = {
        name: e2v_port.convert(write(whisper, tmp_path / name), out=tmp_path / f"{name}-converted")
        for name, write in FORMS.items()
    }
    weights = {name: (folder / "model.safetensors").read_bytes() for name, folder in converted.items()}
    sizes = {
        name: json.loads((folder / "config.json").read_text())["architecture"] for name, folder in converted.items()
    }
    assert sizes["openai"] == sizes["ctranslate2"] == sizes["transformers"]
    assert weights["openai"] == weights["ctranslate2"] == weights["transformers"]
    found = {key: sizes["openai"][key] for key in ("embed_dim", "depth", "num_heads", "ffn_dim", "bands")}
    assert found == {"embed_dim": 64, "depth": 3, "num_heads": 2, "ffn_dim": 256, "bands": 80}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_converted_without_torch(name, whisper, tmp_path):
    source = FORMS[name](whisper, tmp_path / name)
    assert toys.convert_without_torch(source, tmp_path / "model") == ""
    wanted = e2v_port.convert(source, out=tmp_path / "wanted")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "model" / file).read_bytes() == (wanted / file).read_bytes()


def test_a_file_alone_is_enough(whisper, tmp_path):
    """Of openai, whose sizes are in the file; and of CTranslate2, whose config.json is about the text."""
    for name, file in (("openai", "base.pt"), ("ctranslate2", "model.bin")):
        path = FORMS[name](whisper, tmp_path / name) / file
        (path.parent / "config.json").unlink(missing_ok=True)
        assert e2v_port.convert(path, out=tmp_path / f"{name}-converted").is_dir()


POSITIONS = "encoder/position_encodings/encodings"
CHANGED = {
    "another kind": ({"kind": "TransformerSpec"}, {}, "kind is 'TransformerSpec'"),
    "a newer revision": ({"revision": 4}, {}, "revision is 4"),
    "a setting of the encoder": ({}, {"encoder/pre_norm": np.int8(0)}, "encoder/pre_norm is 0"),
    "no heads": ({}, {"encoder/num_heads": None}, r"model\.bin does not have the sizes.*num_heads"),
    "heads that do not divide": ({}, {"encoder/num_heads": np.int16(7)}, r"model\.bin: .*7 heads"),
    "keys with a bias": ({}, {"encoder/layer_1/self_attention/linear_0/bias": np.ones(192, "f2")}, "keys have a bias"),
    "other positions": ({}, {POSITIONS: np.zeros((1500, 64), "f2")}, "positions differ"),
    "fewer positions": ({}, {POSITIONS: np.zeros((750, 64), "f2")}, "only 1500"),
    "positions of one axis": ({}, {POSITIONS: np.zeros(64, "f2")}, "only 1500"),
    "no convolution": ({}, {"encoder/conv2/weight": None}, r"missing conv_layers\.1\.weight"),
    "a flat convolution": ({}, {"encoder/conv1/weight": np.zeros((64, 80), "f2")}, "cannot become"),
    "an unknown tensor": ({}, {"encoder/conv3/weight": np.zeros(3, "f2")}, "conv3/weight .* matches no rule"),
    "a missing block": ({}, {"encoder/layer_1/ffn/linear_0/weight": None}, r"missing blocks\.1\.mlp\.fc1\.weight"),
}


@pytest.mark.parametrize("name", CHANGED)
def test_another_model_of_ctranslate2_is_refused(name, whisper, tmp_path):
    head, variables, message = CHANGED[name]
    stored = {key: value for key, value in (whisper_forms.variables(whisper) | variables).items() if value is not None}
    (tmp_path / "model.bin").write_bytes(model_bin(stored, **head))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(e2v_port.CheckpointError, match=message) as caught:
        e2v_port.convert(tmp_path, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([1, 2], "dims is not a table of sizes"),
        ({"n_mels": "80"}, "dims is not a table of sizes"),
        ({1: 80}, "dims is not a table of sizes"),
        ({"n_audio_state": 64}, "dims does not have the sizes of a Whisper model"),
        ({"n_audio_layer": 4}, "missing blocks.3"),
        ({"n_audio_layer": -1}, "dims: depth is -1"),
        ({"n_audio_ctx": 750}, "dims: max_source_positions is 750"),
        ({"n_audio_state": 1 << 40}, "dims: .*1099511627776"),
    ],
)
def test_other_sizes_of_openai_are_refused(dims, message, whisper, tmp_path):
    content = whisper_forms.openai(whisper)
    complete = (isinstance(dims, dict) and "n_audio_state" not in dims) or "1099" in message
    content["dims"] = content["dims"] | dims if complete and isinstance(dims, dict) else dims
    torch.save(content, tmp_path / "tiny.pt")
    with pytest.raises(e2v_port.CheckpointError, match=message):
        e2v_port.convert(tmp_path / "tiny.pt", out=tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "q8"])
def test_the_origin_of_weights(dtype, whisper, tmp_path):
    """Equal from another form; a head, a readout and missing blocks do not count; one changed number does."""
    origin = e2v_port.convert(as_transformers(whisper, tmp_path / "a"), dtype=dtype, out=tmp_path / "origin")
    model = e2v_port.convert(as_ctranslate2(whisper, tmp_path / "b"), dtype=dtype, out=tmp_path / "model")
    parts = ["conv_layers", "blocks.0", "blocks.1", "blocks.2", "norm"]
    assert compare(model, origin) == [Check(f"weights of {part}", 0.0, ROUNDING) for part in parts]

    cut, arrays = part_of(e2v_port.convert(tmp_path / "b", out=tmp_path / "exact"), dtype)
    trained = tmp_path / "trained"
    store(trained, cut, lambda: iter(arrays.items()))
    found = compare(trained, origin)
    assert [check.name for check in found] == [f"weights of {part}" for part in parts[:3]]
    assert all(check.passed for check in found)

    arrays["blocks.1.mlp.fc2.weight"] = arrays["blocks.1.mlp.fc2.weight"].copy()
    arrays["blocks.1.mlp.fc2.weight"][3, 5] += 1
    store(trained, cut, lambda: iter(arrays.items()))
    assert [check.name for check in compare(trained, origin) if not check.passed] == ["weights of blocks.1"]


def part_of(model: Path, dtype: str) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Returns two blocks of a model with a head on their outputs, as training leaves them."""
    config = ModelConfig.read(model)
    labels = tuple(Label(name, name, unused=False) for name in ("angry", "sad"))
    readout = Readout(layers=(1, 2), pooling="mean", heads=0)
    sizes = replace(config.architecture, depth=2, readout=readout, num_labels=2)
    stored = load_file(model / "model.safetensors")
    arrays = {name: stored.get(name, np.ones(shape, np.float32)) for name, shape in sizes.tensors().items()}
    return replace(config, architecture=sizes, labels=labels, dtype=dtype), arrays


def test_another_network_is_no_origin(whisper, tmp_path):
    model = e2v_port.convert(as_openai(whisper, tmp_path / "a"), out=tmp_path / "model")
    with pytest.raises(e2v_port.E2VError, match="the family or the sizes differ"):
        compare(catalog.find("bundled-tiny"), model)


def test_verify_compares_with_the_hub(whisper, tmp_path):
    """In a process of its own, since the libraries of the hubs read the environment when they are imported."""
    model = e2v_port.convert(as_ctranslate2(whisper, tmp_path / "b"), dtype="float16", out=tmp_path / "model")
    files = {path.name: path.read_bytes() for path in as_transformers(whisper, tmp_path / "a").iterdir()}
    command = [sys.executable, "-m", "e2v_port", "verify", "-m", str(model), "-r", "cpu", "--origin", "someone/whisper"]
    with LoopbackHub({"someone/whisper": files}) as server:
        variables = {"HF_ENDPOINT": server.url, "MODELSCOPE_ENDPOINT": server.url, "XDG_CACHE_HOME": str(tmp_path)}
        variables |= {"HF_HOME": str(tmp_path / "hub"), "MODELSCOPE_CACHE": str(tmp_path / "scope"), "E2V_OFFLINE": "0"}
        environment = {key: value for key, value in os.environ.items() if key != "E2V_WEIGHTS"} | variables
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    rows = [line for line in lines if line[:2] == ["weights", "of"]]
    assert [row[2:] for row in rows] == [
        [part, "0.0e+00", "5e-04"] for part in ("conv_layers", "blocks.0", "blocks.1", "blocks.2", "norm")
    ]
    assert "no reference: " in done.stdout
    assert done.stdout.endswith(f"{model}: equal within tolerance\n")


@pytest.fixture(scope="session")
def real(request, tmp_path_factory):
    """Returns transformers' encoder with real weights, mapped here, and the folder of our conversion."""

    @lru_cache
    def make(name: str) -> tuple[references.Reference, Path]:
        folder, root = request.getfixturevalue(name), tmp_path_factory.mktemp(name)
        state = whisper_forms.encoder_state(folder / "model.bin")
        width, depth = len(state["conv1.bias"]), sum(tensor.endswith(".fc1.bias") for tensor in state)
        sizes = {"d_model": width, "encoder_layers": depth, "encoder_ffn_dim": 4 * width}
        WhisperConfig(encoder_attention_heads=width // 64, num_mel_bins=80, **sizes).save_pretrained(root)
        save_file(
            {f"model.encoder.{key}": values.contiguous() for key, values in state.items()}, root / "model.safetensors"
        )
        return whisper_reference.Transformers(local(root)), e2v_port.convert(folder, out=root / "converted")

    return make


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("whisper_base", "whisper_tiny_en")]
)
def test_real_weights_equal_transformers(
    name, runtime, real, speech_folder, whisper_base, whisper_tiny_en, record_property
):
    """Every stage, as the clip is and padded to 30 s."""
    reference, folder = real(name)
    model = e2v_port.load(folder, runtime=runtime)
    clip = load_audio(speech_folder / "jfk.flac")
    for seconds in (len(clip) / SAMPLING_RATE, 30):
        waveform = np.pad(clip, (0, round(seconds * SAMPLING_RATE) - len(clip)))
        found = model.stages(waveform, SAMPLING_RATE)
        checks = verify.compare(model, reference.stages(waveform), found)
        record_property("parity", (name, runtime, seconds, {check.name: check.difference for check in checks}))
        slack = SILENCE if runtime == "mlx" and seconds == 30 else 1
        assert not [check for check in checks if not check.difference <= slack * check.tolerance]

"""Small models of the real architecture, and the ways of a checkpoint through the converter."""

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from e2v_port.architectures.base import Architecture, Transformer
from e2v_port.architectures.config import Label, ModelConfig, Source
from e2v_port.architectures.ecapa import EcapaConfig
from e2v_port.architectures.emotion2vec import Emotion2vecConfig
from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.architectures.registry import family_of
from e2v_port.architectures.sensevoice import SensevoiceConfig
from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.architectures.wavlm import WavlmConfig
from e2v_port.architectures.whisper import WhisperConfig
from e2v_port.audio import mel_filters
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint, weights
from e2v_port.converters import emotion2vec as emotion2vec_converter
from e2v_port.converters import sensevoice as sensevoice_converter
from e2v_port.converters import wav2vec2 as wav2vec2_converter
from e2v_port.converters import wavlm as wavlm_converter
from e2v_port.converters import whisper as whisper_converter
from e2v_port.converters.folder import store as store_tensors

# Every kind of size differs from every other, so that no two of them can be mixed up unnoticed.
TOY = Emotion2vecConfig(
    conv_layers=((32, 10, 5), *[(32, 3, 2)] * 4, *[(32, 2, 2)] * 2),
    embed_dim=48,
    num_heads=6,
    num_alibi_heads=6,
    prenet_depth=2,
    depth=3,
    ffn_dim=96,
    conv_pos_depth=2,
    conv_pos_kernel=7,
    conv_pos_groups=4,
    num_extra_tokens=5,
    normalize=True,
    head_dim=0,
    norm_eps=1e-5,
    num_labels=len(emotion2vec_converter.TOKENS),
)
HEADLESS = replace(TOY, num_labels=0)
DIMENSIONAL = replace(
    wav2vec2_converter.AUDEERING,
    conv_layers=TOY.conv_layers,
    embed_dim=48,
    head_dim=48,
    num_heads=6,
    depth=3,
    ffn_dim=96,
    conv_pos_kernel=8,
    conv_pos_groups=4,
)
WAVLM = replace(
    wavlm_converter.LARGE,
    conv_layers=TOY.conv_layers,
    embed_dim=48,
    num_heads=6,
    depth=3,
    ffn_dim=96,
    conv_pos_kernel=8,
    conv_pos_groups=4,
    num_buckets=30,  # so few that short clips have distances in all of them
    max_distance=40,
)
# A window that is no power of two and longer than the shortest clip, and no two sizes the same.
DEVIATION = Wav2smallConfig(
    normalize=True,
    embed_dim=22,
    head_dim=10,
    num_labels=5,
    window=640,
    step=160,
    bands=19,
    floor=1e-6,
    band_norm=True,
    stages=((6,), (8, 8), (9, 9, 12)),
    residual=True,
    pooling="deviation",
    width=11,
)
WHISPER = WhisperConfig(
    normalize=False,
    embed_dim=48,
    head_dim=0,
    num_labels=0,
    num_heads=6,
    depth=3,
    ffn_dim=96,
    norm_eps=1e-5,
    bands=80,
    pad=False,
)
SENSEVOICE = replace(sensevoice_converter.SMALL, embed_dim=4 * 64, num_heads=8, depth=3, tp_depth=2, ffn_dim=128)
GRAM = replace(DEVIATION, pooling="gram", width=7, embed_dim=7 * (5 + 7))
# An excerpt of 3 columns more than a multiple of the distance to the next.
GE2E = Ge2eConfig(
    normalize=True,
    embed_dim=22,
    head_dim=10,
    num_labels=3,
    level=0.2,
    window=320,
    step=160,
    bands=19,
    excerpt=17,
    apart=7,
    least=12,
    depth=2,
    width=24,
)
# Other dilations and another number of parts than the published one; no two sizes the same.
ECAPA = EcapaConfig(
    normalize=False,
    embed_dim=22,
    head_dim=10,
    num_labels=3,
    bands=19,
    kernel=7,
    width=64,
    dilations=(2, 5, 3),
    scale=4,
    squeezed=12,
    joined=40,
    attended=14,
)

needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx") is None or importlib.util.find_spec("mlx.core") is None,
    reason="MLX is not installed",
)
CASTING = ["cpu", pytest.param("mlx", marks=needs_mlx)]  # runtimes that compute in other types than float32
RUNTIMES = [*CASTING, "numpy"]


def make(folder: Path, config: Emotion2vecConfig = TOY, **options: Any) -> Path:
    """Writes a checkpoint folder as the hubs have them."""
    return emotion2vec_converter.make(config, folder, **options)


def make_dimensional(folder: Path, **options: Any) -> Path:
    """Writes a checkpoint folder of a model of arousal, dominance and valence."""
    return wav2vec2_converter.make(DIMENSIONAL, folder, **options)


def make_sensevoice(folder: Path, config: SensevoiceConfig = SENSEVOICE, **options: Any) -> Path:
    """Writes a checkpoint folder of a SenseVoice."""
    return sensevoice_converter.make(config, folder, **options)


def make_whisper(folder: Path, config: WhisperConfig = WHISPER, *, labels: int = 3, **settings: Any) -> Path:
    """Writes a converted folder of Whisper's encoder with a head, with random weights like those of training."""
    source = whisper_converter.make(config, folder.with_name(f"{folder.name} checkpoint"))
    return add_head(source, folder, config, labels, **settings)


def make_wavlm(folder: Path, config: WavlmConfig = WAVLM, *, labels: int = 3, **settings: Any) -> Path:
    """Writes a converted folder of WavLM with a head, with random weights like those of training."""
    source = wavlm_converter.make(config, folder.with_name(f"{folder.name} checkpoint"))
    return add_head(source, folder, config, labels, **settings)


def add_head(source: Path, folder: Path, config: Transformer, labels: int, **settings: Any) -> Path:
    """Converts a checkpoint without a head, and gives it a random one."""
    whole = load_file(convert(source, folder.with_name(f"{folder.name} headless")) / "model.safetensors")
    draw = np.random.default_rng(1)
    config = replace(config, num_labels=labels)
    arrays = {
        name: whole[name] if name in whole else draw.standard_normal(shape) / shape[-1] ** 0.5
        for name, shape in config.tensors().items()
    }
    return store(folder, config, arrays, **settings)


def convert(source: Path, folder: Path, **options: Any) -> Path:
    """Runs both halves of the conversion; the npz stays next to the folder."""
    npz = folder.with_name(f"{folder.name}.npz")
    checkpoint.extract(local(source), npz)
    weights.write(npz, folder, **options)
    return folder


WITHOUT_TORCH = """
import sys
from pathlib import Path
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {"torch", "mlx"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Blocked())
from e2v_port.checkpoints.checkpoint import local
from e2v_port.converters import checkpoint, weights
from e2v_port.errors import E2VError
source, folder = map(Path, sys.argv[1:])
npz = folder.with_name(f"{folder.name}.npz")
try:
    checkpoint.extract(local(source), npz)
    weights.write(npz, folder)
except E2VError as error:
    print(error)
"""


def convert_without_torch(source: Path, folder: Path) -> str:
    """Runs both halves in a process that cannot import torch or MLX, and returns the message of an error."""
    line = [sys.executable, "-c", WITHOUT_TORCH, source, folder]
    done = subprocess.run(line, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def make_small(folder: Path, config: Wav2smallConfig, *, seed: int = 0, **settings: Any) -> Path:
    """Writes a converted folder of a convolutional network, with random weights like those that training leaves."""
    draw = np.random.default_rng(seed)
    arrays = {"mel": mel_filters(config.bands, config.window, 50, 7600)}
    for name, shape in config.tensors().items():
        if name != "mel":
            values = draw.standard_normal(shape)
            scale = 0.1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
            arrays[name] = scale * (0.05 if name == "layers.0.weight" else 1) * values  # it is given decibels
    return store(folder, config, arrays, **settings)


def make_random(folder: Path, config: Architecture, *, seed: int = 0, **settings: Any) -> Path:
    """Writes a converted folder with random weights like those of training."""
    draw = np.random.default_rng(seed)
    arrays = {}
    for name, shape in config.tensors().items():
        values = draw.standard_normal(shape)
        gain = len(shape) == 1 and name.endswith(".weight")
        arrays[name] = values / np.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 0.1 * values + gain
    return store(folder, config, arrays, **settings)


def store(folder: Path, architecture: Architecture, arrays: Mapping[str, Any], **settings: Any) -> Path:
    """Writes a converted folder with these weights; settings are those of its config.json."""
    names = [f"label {i}" for i in range(architecture.num_labels)]
    values = {
        "labels": tuple(Label(name, name, unused=False) for name in names),
        "dtype": "float32",
        "temperature": 1.0,
        "licence": "none",
        "source": Source("toy", "local", "", "", ""),
    }
    config = ModelConfig(
        family=family_of(architecture).name,
        architecture=architecture,
        sampling_rate=16_000,
        converter="e2v-port tests",
        **values | settings,
    )
    store_tensors(folder, config, lambda: iter(arrays.items()))
    return folder


def tensors(source: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors, as torch reads them."""
    found: dict[str, Tensor] = torch.load(source / "model.pt", weights_only=True)["model"]
    return found


def save(source: Path, state: Mapping[str, Any]) -> Path:
    """Replaces a checkpoint's weights."""
    torch.save(state, source / "model.pt")
    return source

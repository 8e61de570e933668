"""Small models of the real architecture, and the ways of a checkpoint through the converter."""

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from e2v_port.config import Emotion2vecConfig
from e2v_port.converters import checkpoint, synthetic, weights
from e2v_port.hubs import local

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
    norm_eps=1e-5,
    num_labels=len(synthetic.TOKENS),
)
HEADLESS = replace(TOY, num_labels=0)
DIMENSIONAL = replace(
    synthetic.AUDEERING,
    conv_layers=TOY.conv_layers,
    embed_dim=48,
    num_heads=6,
    depth=3,
    ffn_dim=96,
    conv_pos_kernel=8,
    conv_pos_groups=4,
)

needs_mlx = pytest.mark.skipif(
    importlib.util.find_spec("mlx") is None or importlib.util.find_spec("mlx.core") is None,
    reason="MLX is not installed",
)
RUNTIMES = ["cpu", pytest.param("mlx", marks=needs_mlx)]


def make(folder: Path, config: Emotion2vecConfig = TOY, **options: Any) -> Path:
    """Writes a checkpoint folder as the hubs have them."""
    return synthetic.make(config, folder, **options)


def make_dimensional(folder: Path, **options: Any) -> Path:
    """Writes a checkpoint folder of a model of arousal, dominance and valence."""
    return synthetic.make_wav2vec2(DIMENSIONAL, folder, **options)


def convert(source: Path, folder: Path, **options: Any) -> Path:
    """Runs both halves of the conversion; the npz stays beside the folder."""
    npz = folder.with_name(f"{folder.name}.npz")
    checkpoint.extract(local(source), npz)
    weights.write(npz, folder, **options)
    return folder


def tensors(source: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors, as torch reads them."""
    found: dict[str, Tensor] = torch.load(source / "model.pt", weights_only=True)["model"]
    return found


def save(source: Path, state: Mapping[str, Any]) -> Path:
    """Replaces a checkpoint's weights."""
    torch.save(state, source / "model.pt")
    return source

"""transformers' WavLM checkpoints: what they have besides wav2vec2's tensors and settings, and synthetic ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.wavlm import WavlmConfig
from e2v_port.errors import CheckpointError

from .random_weights import pair
from .rules import Converter, Rule, heads
from .wav2vec2 import encoder_rules, encoder_sizes, has_gated_bias, reading, settings, source_shapes, write

__all__ = ["BASE", "CONVERTER", "LARGE", "RULES", "make", "sizes"]

ATTENTION = "[wavlm.]encoder.layers.{i}.attention"


def fours(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Sums four rows each, [8, ...] -> [2, ...]: WavLM adds up the four numbers of each of its two gates."""
    return [array.reshape(2, 4, *array.shape[1:]).sum(1, dtype=np.float64).astype(np.float32)]


RULES: tuple[Rule, ...] = (
    *encoder_rules("[wavlm.]"),
    Rule("[wavlm.]encoder.layers.0.attention.rel_attn_embed.weight", ("distances",)),
    Rule(f"{ATTENTION}.gru_rel_pos_const", ("blocks.{i}.gate.scale",), heads),
    Rule(f"{ATTENTION}.gru_rel_pos_linear.weight", ("blocks.{i}.gate.weight",), fours),
    Rule(f"{ATTENTION}.gru_rel_pos_linear.bias", ("blocks.{i}.gate.bias",), fours),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a WavLM."""
    return has_gated_bias(names)


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    preprocessor: Mapping[str, Any] | None,
    _targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[WavlmConfig, tuple[Label, ...]]:
    """Returns the sizes and outputs of a checkpoint; arguments and errors as for wav2vec2."""
    with reading("WavLM"):
        # Of the published models, the large one normalizes the waveform, and the base ones do not.
        sizes = encoder_sizes(
            config, preprocessor, ("wavlm",), note, normalize=lambda found: found["feat_extract_norm"] == "layer"
        )
        found = config or {}
        number, furthest = int(found["num_buckets"]), int(found["max_bucket_distance"])
        return WavlmConfig(**sizes, num_buckets=number, max_distance=furthest, head_dim=0, num_labels=0), ()


LARGE = WavlmConfig(
    conv_layers=((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2),
    embed_dim=1024,
    num_heads=16,
    depth=24,
    ffn_dim=4096,
    conv_pos_kernel=128,
    conv_pos_groups=16,
    normalize=True,
    head_dim=0,
    norm_eps=1e-5,
    num_labels=0,
    conv_bias=False,
    conv_norm="layer",
    pre_norm=True,
    num_buckets=320,
    max_distance=800,
)
BASE = replace(
    LARGE, embed_dim=768, num_heads=12, depth=12, ffn_dim=3072, conv_norm="group", pre_norm=False, normalize=False
)  # and base-plus
SIZES = {"wavlm-base": BASE, "wavlm-large": LARGE}


def sizes(shapes: Mapping[str, Shape], prefix: str, like: WavlmConfig) -> WavlmConfig:
    """Returns the sizes of an encoder whose config.json is not in its checkpoint.

    Args:
        shapes: Name and shape of each tensor of the checkpoint.
        prefix: How the names of the encoder begin.
        like: Published model of this kind: it has the strides and the order of the norms, which leave no trace.

    Raises:
        CheckpointError: A tensor is missing.
    """
    try:
        weights = [
            shapes[f"{prefix}feature_extractor.conv_layers.{i}.conv.weight"] for i in range(len(like.conv_layers))
        ]
        depth = sum(f"{prefix}encoder.layers.{i}.layer_norm.weight" in shapes for i in range(len(shapes)))
        first, position = f"{prefix}encoder.layers.0", f"{prefix}encoder.pos_conv_embed.conv"
        ffn_dim, width = shapes[f"{first}.feed_forward.intermediate_dense.weight"]
        names = ("weight_v", "parametrizations.weight.original1", "weight")
        directions = [f"{position}.{name}" for name in names]
        _, share, kernel = next(shapes[name] for name in directions if name in shapes)
        return replace(
            like,
            conv_layers=tuple(
                (out, size, stride) for (out, _, size), (_, _, stride) in zip(weights, like.conv_layers, strict=True)
            ),
            embed_dim=width,
            num_heads=shapes[f"{first}.attention.gru_rel_pos_const"][1],
            num_buckets=shapes[f"{first}.attention.rel_attn_embed.weight"][0],
            depth=depth,
            ffn_dim=ffn_dim,
            conv_pos_kernel=kernel,
            conv_pos_groups=width // share,
        )
    except (KeyError, StopIteration) as error:
        raise CheckpointError(f"WavLM without {error}, from which its sizes are read") from error
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"WavLM with tensors of other shapes than transformers saves ({error})") from error


def _gates(config: WavlmConfig) -> Iterator[tuple[str, Shape]]:
    for i in range(config.depth):
        attention = f"wavlm.encoder.layers.{i}.attention"
        if i == 0:
            yield f"{attention}.rel_attn_embed.weight", (config.num_buckets, config.num_heads)
        yield f"{attention}.gru_rel_pos_const", (1, config.num_heads, 1, 1)
        yield from pair(f"{attention}.gru_rel_pos_linear", (8, config.embed_dim // config.num_heads))


def make(config: WavlmConfig, folder: Path, *, seed: int = 0, parametrized: bool = False) -> Path:
    """Writes a checkpoint folder as transformers does.

    Args:
        config: Sizes, without a head.
        folder: Folder to write pytorch_model.bin, config.json and preprocessor_config.json to.
        seed: Random seed of the weights.
        parametrized: Whether the weight norm is named as in newer versions of torch.

    Returns:
        The folder.
    """
    content = settings(config, "wavlm") | {
        "architectures": ["WavLMModel"],
        "num_buckets": config.num_buckets,
        "max_bucket_distance": config.max_distance,
    }
    shapes = [*source_shapes(config, "wavlm.", parametrized), *_gates(config)]
    return write(folder, shapes, content, normalize=config.normalize, seed=seed)


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

"""transformers' wav2vec2 checkpoints: the renames to the stored layout, settings and outputs, and synthetic ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.wav2vec2 import Wav2vec2Config
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule, channels_last, weight_norm

__all__ = ["AUDEERING", "CONVERTER", "make"]

CONV = "[wav2vec2.]feature_extractor.conv_layers.{i}"
POSITION = "[wav2vec2.]encoder.pos_conv_embed.conv"
LAYER = "[wav2vec2.]encoder.layers.{i}"

RULES: tuple[Rule, ...] = (
    Rule(f"{CONV}.conv.weight", ("conv_layers.{i}.weight",), channels_last),
    Rule(f"{CONV}.conv.bias", ("conv_layers.{i}.bias",)),
    # torch has stored the two halves of a weight norm under two kinds of names.
    Rule(f"{POSITION}.weight_v", ("positions.weight",), weight_norm, beside=(f"{POSITION}.weight_g",)),
    Rule(
        f"{POSITION}.parametrizations.weight.original1",
        ("positions.weight",),
        weight_norm,
        beside=(f"{POSITION}.parametrizations.weight.original0",),
    ),
    Rule(f"{POSITION}.bias", ("positions.bias",)),
    *(
        Rule(f"{source}.{part}", (f"{target}.{part}",))
        for part in ("weight", "bias")
        for source, target in (
            (f"{CONV}.layer_norm", "conv_layers.{i}.norm"),
            ("[wav2vec2.]feature_projection.layer_norm", "projection.norm"),
            ("[wav2vec2.]feature_projection.projection", "projection.linear"),
            ("[wav2vec2.]encoder.layer_norm", "norm"),
            (f"{LAYER}.attention.q_proj", "blocks.{i}.attn.q_proj"),
            (f"{LAYER}.attention.k_proj", "blocks.{i}.attn.k_proj"),
            (f"{LAYER}.attention.v_proj", "blocks.{i}.attn.v_proj"),
            (f"{LAYER}.attention.out_proj", "blocks.{i}.attn.out_proj"),
            (f"{LAYER}.layer_norm", "blocks.{i}.norm1"),
            (f"{LAYER}.feed_forward.intermediate_dense", "blocks.{i}.mlp.fc1"),
            (f"{LAYER}.feed_forward.output_dense", "blocks.{i}.mlp.fc2"),
            (f"{LAYER}.final_layer_norm", "blocks.{i}.norm2"),
        )
    ),
    Rule("[wav2vec2.]masked_spec_embed", why="stands in for masked frames in training"),
    Rule("lm_head.{*}", why="writes text, not emotions"),
    Rule("quantizer.{*}", why="a pretraining loss"),
    Rule("project_q.{*}", why="a pretraining loss"),
    Rule("project_hid.{*}", why="a pretraining loss"),
)

# Settings that change the forward pass: the runtimes compute only the value given here, which is also transformers'
# default where config.json omits one.
REQUIRED = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
}


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a wav2vec2."""
    return any(name.removeprefix("wav2vec2.").startswith("feature_extractor.conv_layers.") for name in names)


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    preprocessor: Mapping[str, Any] | None,
    _targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Wav2vec2Config, tuple[Label, ...]]:
    """Returns the sizes of an encoder, without a head: see `heads.find`.

    Args:
        config: Parsed config.json.
        preprocessor: Parsed preprocessor_config.json.
        note: Called with a line for each setting that was inferred rather than read.

    Raises:
        CheckpointError: There is no config.json; or a setting is missing, of the wrong type or one that the runtimes
            cannot compute.
    """
    if config is None:
        raise CheckpointError("wav2vec2 without a config.json: put that file next to the weights")
    for key, wanted in REQUIRED.items():
        if (value := config.get(key, wanted)) != wanted:
            raise CheckpointError(f"config.json: {key} is {value!r}; only {wanted!r} is supported")
    if preprocessor is None:
        note("no preprocessor_config.json: the waveform norm is taken from the published models")
    try:
        sizes = Wav2vec2Config(
            conv_layers=tuple(
                (int(dim), int(kernel), int(stride))
                for dim, kernel, stride in zip(
                    config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True
                )
            ),
            embed_dim=int(config["hidden_size"]),
            head_dim=0,
            num_heads=int(config["num_attention_heads"]),
            depth=int(config["num_hidden_layers"]),
            ffn_dim=int(config["intermediate_size"]),
            conv_pos_kernel=int(config["num_conv_pos_embeddings"]),
            conv_pos_groups=int(config["num_conv_pos_embedding_groups"]),
            normalize=(preprocessor or {}).get("do_normalize", True),
            norm_eps=float(config["layer_norm_eps"]),
            num_labels=0,
            conv_bias=config["conv_bias"],
            conv_norm=str(config["feat_extract_norm"]),
            pre_norm=config["do_stable_layer_norm"],
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"config.json is not the one of a wav2vec2 model ({error!r})") from error
    return sizes, ()


AUDEERING = Wav2vec2Config(
    conv_layers=((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2),
    embed_dim=1024,
    num_heads=16,
    depth=12,
    ffn_dim=4096,
    conv_pos_kernel=128,
    conv_pos_groups=16,
    normalize=True,
    head_dim=1024,
    norm_eps=1e-5,
    num_labels=len(DIMENSIONS),
    conv_bias=True,
    conv_norm="layer",
    pre_norm=True,
)
SIZES = {"audeering": AUDEERING}


def _source_shapes(config: Wav2vec2Config, parametrized: bool) -> Iterator[tuple[str, Shape]]:
    dim, kernel = config.embed_dim, config.conv_pos_kernel
    encoder = "wav2vec2.encoder"
    yield "wav2vec2.masked_spec_embed", (dim,)
    channels = 1
    for i, (out, size, _) in enumerate(config.conv_layers):
        layer = f"wav2vec2.feature_extractor.conv_layers.{i}"
        yield f"{layer}.conv.weight", (out, channels, size)
        if config.conv_bias:
            yield f"{layer}.conv.bias", (out,)
        if config.norm_of(i):
            yield from pair(f"{layer}.layer_norm", (out,))
        channels = out
    yield from pair("wav2vec2.feature_projection.layer_norm", (channels,))
    yield from pair("wav2vec2.feature_projection.projection", (dim, channels))
    length, direction = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    if not parametrized:
        length, direction = "weight_g", "weight_v"
    yield f"{encoder}.pos_conv_embed.conv.bias", (dim,)
    yield f"{encoder}.pos_conv_embed.conv.{length}", (1, 1, kernel)
    yield f"{encoder}.pos_conv_embed.conv.{direction}", (dim, dim // config.conv_pos_groups, kernel)
    yield from pair(f"{encoder}.layer_norm", (dim,))
    for i in range(config.depth):
        layer = f"{encoder}.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from pair(f"{layer}.attention.{part}", (dim, dim))
        yield from pair(f"{layer}.layer_norm", (dim,))
        yield from pair(f"{layer}.feed_forward.intermediate_dense", (config.ffn_dim, dim))
        yield from pair(f"{layer}.feed_forward.output_dense", (dim, config.ffn_dim))
        yield from pair(f"{layer}.final_layer_norm", (dim,))
    if config.num_labels:
        yield from pair("classifier.dense", (config.head_dim, dim))
        yield from pair("classifier.out_proj", (config.num_labels, config.head_dim))


def _value(name: str, shape: Shape, draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith(("weight_g", "original0")):  # the length of a weight norm
        length: NDArray[np.float32] = np.abs(np.float32(4) + values)
        return length
    # Dimensions spread over less than one.
    return trained_like(name, values, 0.5 if name == "classifier.out_proj.weight" else 1.0)


def make(config: Wav2vec2Config, folder: Path, *, seed: int = 0, parametrized: bool = False) -> Path:
    """Writes a checkpoint folder as transformers does.

    Args:
        config: Sizes; `num_labels` is 3 for arousal, dominance and valence, or 0 for a model without a head.
        folder: Folder to write pytorch_model.bin, config.json and preprocessor_config.json to.
        seed: Random seed of the weights.
        parametrized: Whether the weight norm is named as in newer versions of torch.

    Returns:
        The folder.
    """
    import torch

    draw = np.random.default_rng(seed)
    shapes = _source_shapes(config, parametrized)
    tensors = {name: torch.from_numpy(_value(name, shape, draw)) for name, shape in shapes}
    folder.mkdir(parents=True, exist_ok=True)
    dims, kernels, strides = zip(*config.conv_layers, strict=True)
    settings = {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "conv_dim": dims,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(dims),
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "gelu",
        "num_conv_pos_embeddings": config.conv_pos_kernel,
        "num_conv_pos_embedding_groups": config.conv_pos_groups,
        "do_stable_layer_norm": config.pre_norm,
        "layer_norm_eps": config.norm_eps,
        "id2label": dict(enumerate(DIMENSIONS)),
        "label2id": {name: i for i, name in enumerate(DIMENSIONS)},
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    processor = {"do_normalize": config.normalize, "return_attention_mask": True, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

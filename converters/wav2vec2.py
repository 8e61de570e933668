"""transformers' wav2vec2 and HuBERT checkpoints: the renames, settings and outputs, and synthetic ones.

WavLM's encoder has the same tensors and settings, and a few more: see wavlm.py.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
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

__all__ = [
    "AUDEERING",
    "BASE",
    "CONVERTER",
    "LARGE",
    "encoder_rules",
    "encoder_sizes",
    "has_gated_bias",
    "make",
    "reading",
    "settings",
    "source_shapes",
    "write",
]


def encoder_rules(prefix: str) -> tuple[Rule, ...]:
    """Returns the renames of an encoder of this kind.

    Args:
        prefix: What its names may begin with, as a pattern: `[wav2vec2.]`.
    """
    conv = f"{prefix}feature_extractor.conv_layers.{{i}}"
    position = f"{prefix}encoder.pos_conv_embed.conv"
    layer = f"{prefix}encoder.layers.{{i}}"
    return (
        Rule(f"{conv}.conv.weight", ("conv_layers.{i}.weight",), channels_last),
        Rule(f"{conv}.conv.bias", ("conv_layers.{i}.bias",)),
        # torch has stored the two halves of a weight norm under two kinds of names.
        Rule(f"{position}.weight_v", ("positions.weight",), weight_norm, beside=(f"{position}.weight_g",)),
        Rule(
            f"{position}.parametrizations.weight.original1",
            ("positions.weight",),
            weight_norm,
            beside=(f"{position}.parametrizations.weight.original0",),
        ),
        Rule(f"{position}.weight", ("positions.weight",), channels_last),  # with the norm removed
        Rule(f"{position}.bias", ("positions.bias",)),
        *(
            Rule(f"{source}.{part}", (f"{target}.{part}",))
            for part in ("weight", "bias")
            for source, target in (
                (f"{conv}.layer_norm", "conv_layers.{i}.norm"),
                (f"{prefix}feature_projection.layer_norm", "projection.norm"),
                (f"{prefix}feature_projection.projection", "projection.linear"),
                (f"{prefix}encoder.layer_norm", "norm"),
                (f"{layer}.attention.q_proj", "blocks.{i}.attn.q_proj"),
                (f"{layer}.attention.k_proj", "blocks.{i}.attn.k_proj"),
                (f"{layer}.attention.v_proj", "blocks.{i}.attn.v_proj"),
                (f"{layer}.attention.out_proj", "blocks.{i}.attn.out_proj"),
                (f"{layer}.layer_norm", "blocks.{i}.norm1"),
                (f"{layer}.feed_forward.intermediate_dense", "blocks.{i}.mlp.fc1"),
                (f"{layer}.feed_forward.output_dense", "blocks.{i}.mlp.fc2"),
                (f"{layer}.final_layer_norm", "blocks.{i}.norm2"),
            )
        ),
        Rule(f"{prefix}masked_spec_embed", why="stands in for masked frames in training"),
        Rule("lm_head.{*}", why="writes text, not emotions"),
    )


RULES: tuple[Rule, ...] = (
    *encoder_rules("[wav2vec2.][hubert.]"),
    Rule("quantizer.{*}", why="a pretraining loss"),
    Rule("project_q.{*}", why="a pretraining loss"),
    Rule("project_hid.{*}", why="a pretraining loss"),
)

# Settings that change the forward pass: the runtimes compute only the value given here, which is also transformers'
# default where config.json omits one.
REQUIRED = {
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
    "conv_pos_batch_norm": False,
}


def has_gated_bias(names: Iterable[str]) -> bool:
    """Returns whether one of these tensors is the bias of WavLM's attention, which the first layer has for all."""
    return any(name.endswith("encoder.layers.0.attention.rel_attn_embed.weight") for name in names)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a wav2vec2 or a HuBERT."""
    names = [name.removeprefix("wav2vec2.").removeprefix("hubert.") for name in names]
    return any(name.startswith("feature_extractor.conv_layers.") for name in names) and not has_gated_bias(names)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raises CheckpointError where the config.json of a model of this name lacks a setting or has a wrong one."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from error
    except KeyError as error:
        raise CheckpointError(
            f"config.json of a {name} model lacks {error}: transformers' save_pretrained writes it in full"
        ) from error
    except (AttributeError, TypeError) as error:
        raise CheckpointError(f"config.json is not the one of a {name} model ({error!r})") from error


def encoder_sizes(
    config: Mapping[str, Any] | None,
    preprocessor: Mapping[str, Any] | None,
    kinds: Sequence[str],
    note: Callable[[str], None],
    *,
    normalize: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """Returns the sizes of an encoder, as fields of `Wav2vec2Config`; must be called while `reading`.

    Args:
        config: Parsed config.json.
        preprocessor: Parsed preprocessor_config.json.
        kinds: Values of `model_type` that are supported.
        note: Called with a line for each setting that was inferred rather than read.
        normalize: Returns whether a published model of these settings normalizes the waveform, for a checkpoint
            without a preprocessor_config.json.

    Raises:
        CheckpointError: There is no config.json, or it has a setting that the runtimes cannot compute.
    """
    if config is None:
        raise CheckpointError(f"{kinds[0]} without a config.json: put that file next to the weights")
    if (kind := config.get("model_type", kinds[0])) not in kinds:
        raise CheckpointError(f"config.json: model_type is {kind!r}; only {' or '.join(map(repr, kinds))} is supported")
    for key, wanted in REQUIRED.items():
        if (value := config.get(key, wanted)) != wanted:
            raise CheckpointError(f"config.json: {key} is {value!r}; only {wanted!r} is supported")
    if preprocessor is None:
        note("no preprocessor_config.json: the waveform norm is taken from the published models")
    else:
        _check_preprocessor(preprocessor)
    columns = [config[key] for key in ("conv_dim", "conv_kernel", "conv_stride")]
    if len({*map(len, columns)}) > 1:
        raise ValueError("conv_dim, conv_kernel and conv_stride have different lengths")
    convolutions = zip(*columns, strict=True)
    return {
        "conv_layers": tuple((int(dim), int(kernel), int(stride)) for dim, kernel, stride in convolutions),
        "embed_dim": int(config["hidden_size"]),
        "num_heads": int(config["num_attention_heads"]),
        "depth": int(config["num_hidden_layers"]),
        "ffn_dim": int(config["intermediate_size"]),
        "conv_pos_kernel": int(config["num_conv_pos_embeddings"]),
        "conv_pos_groups": int(config["num_conv_pos_embedding_groups"]),
        "normalize": normalize(config) if preprocessor is None else preprocessor.get("do_normalize", True),
        "norm_eps": float(config["layer_norm_eps"]),
        "conv_bias": config["conv_bias"],
        "conv_norm": str(config["feat_extract_norm"]),
        "pre_norm": config["do_stable_layer_norm"],
        "projection_norm": config.get("feat_proj_layer_norm", True),  # of HuBERT alone
        "waveform_eps": float(config.get("waveform_eps", 1e-7)),  # of speechbrain alone
    }


def _check_preprocessor(preprocessor: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a preprocessor of another kind of models, or one that cannot be understood."""
    # True is transformers' default.
    for key, known in (("do_normalize", (True, False)), ("feature_size", (1,))):
        if (value := preprocessor.get(key, known[0])) not in known or type(value) is not type(known[0]):
            wanted = " or ".join(map(repr, known))
            raise CheckpointError(f"preprocessor_config.json: {key} is {value!r}; only {wanted} is supported")


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
    with reading("wav2vec2"):
        sizes = encoder_sizes(config, preprocessor, ("wav2vec2", "hubert"), note)
        return Wav2vec2Config(**sizes, head_dim=0, num_labels=0), ()


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
# Encoders alone. LARGE is also hubert-large and XLS-R 300M, BASE is also hubert-base.
LARGE = replace(AUDEERING, depth=24, num_labels=0, head_dim=0)
BASE = replace(
    LARGE, embed_dim=768, num_heads=12, depth=12, ffn_dim=3072, conv_bias=False, conv_norm="group", pre_norm=False
)
SIZES = {"audeering": AUDEERING, "wav2vec2-base": BASE, "wav2vec2-large": LARGE}


def source_shapes(config: Wav2vec2Config, prefix: str, parametrized: bool) -> Iterator[tuple[str, Shape]]:
    """Yields name and shape of each tensor of an encoder as transformers saves it.

    Args:
        config: Sizes.
        prefix: What the names begin with, such as `wav2vec2.`.
        parametrized: Whether the weight norm is named as in newer versions of torch.
    """
    dim, kernel = config.embed_dim, config.conv_pos_kernel
    yield f"{prefix}masked_spec_embed", (dim,)
    channels = 1
    for i, (out, size, _) in enumerate(config.conv_layers):
        layer = f"{prefix}feature_extractor.conv_layers.{i}"
        yield f"{layer}.conv.weight", (out, channels, size)
        if config.conv_bias:
            yield f"{layer}.conv.bias", (out,)
        if config.norm_of(i):
            yield from pair(f"{layer}.layer_norm", (out,))
        channels = out
    if config.projection_norm:
        yield from pair(f"{prefix}feature_projection.layer_norm", (channels,))
    yield from pair(f"{prefix}feature_projection.projection", (dim, channels))
    length, direction = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    if not parametrized:
        length, direction = "weight_g", "weight_v"
    position = f"{prefix}encoder.pos_conv_embed.conv"
    yield f"{position}.bias", (dim,)
    yield f"{position}.{length}", (1, 1, kernel)
    yield f"{position}.{direction}", (dim, dim // config.conv_pos_groups, kernel)
    yield from pair(f"{prefix}encoder.layer_norm", (dim,))
    for i in range(config.depth):
        layer = f"{prefix}encoder.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from pair(f"{layer}.attention.{part}", (dim, dim))
        yield from pair(f"{layer}.layer_norm", (dim,))
        yield from pair(f"{layer}.feed_forward.intermediate_dense", (config.ffn_dim, dim))
        yield from pair(f"{layer}.feed_forward.output_dense", (dim, config.ffn_dim))
        yield from pair(f"{layer}.final_layer_norm", (dim,))


def settings(config: Wav2vec2Config, kind: str) -> dict[str, Any]:
    """Returns the config.json of an encoder, with this `model_type`."""
    dims, kernels, strides = zip(*config.conv_layers, strict=True)
    return {
        "model_type": kind,
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
        **({"feat_proj_layer_norm": config.projection_norm} if kind == "hubert" else {}),
    }


def _value(name: str, shape: Shape, draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith(("weight_g", "original0")):  # the length of a weight norm
        length: NDArray[np.float32] = np.abs(np.float32(4) + values)
        return length
    # Dimensions spread over less than one.
    return trained_like(name, values, 0.5 if name == "classifier.out_proj.weight" else 1.0)


def write(
    folder: Path, shapes: Iterable[tuple[str, Shape]], config: Mapping[str, Any], *, normalize: bool, seed: int
) -> Path:
    """Writes a checkpoint folder as transformers does.

    Args:
        folder: Folder to write pytorch_model.bin, config.json and preprocessor_config.json to.
        shapes: Name and shape of each tensor.
        config: Content of config.json.
        normalize: Whether the preprocessor normalizes the waveform.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch

    draw = np.random.default_rng(seed)
    tensors = {name: torch.from_numpy(_value(name, shape, draw)) for name, shape in shapes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    processor = {"do_normalize": normalize, "return_attention_mask": True, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def make(
    config: Wav2vec2Config, folder: Path, *, seed: int = 0, parametrized: bool = False, kind: str = "wav2vec2"
) -> Path:
    """Writes a checkpoint folder as transformers does.

    Args:
        config: Sizes; `num_labels` is 3 for arousal, dominance and valence, or 0 for a model without a head.
        folder: Folder to write pytorch_model.bin, config.json and preprocessor_config.json to.
        seed: Random seed of the weights.
        parametrized: Whether the weight norm is named as in newer versions of torch.
        kind: `wav2vec2` or `hubert`.

    Returns:
        The folder.
    """
    shapes = [*source_shapes(config, f"{kind}.", parametrized)]
    if config.num_labels:
        shapes += pair("classifier.dense", (config.head_dim, config.embed_dim))
        shapes += pair("classifier.out_proj", (config.num_labels, config.head_dim))
    content = settings(config, kind) | {
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "id2label": dict(enumerate(DIMENSIONS)),
        "label2id": {name: i for i, name in enumerate(DIMENSIONS)},
    }
    return write(folder, shapes, content, normalize=config.normalize, seed=seed)


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

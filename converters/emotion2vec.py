"""FunASR's emotion2vec checkpoints: the renames to the stored layout, settings and labels, and synthetic ones."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.emotion2vec import Emotion2vecConfig
from e2v_port.architectures.shapes import Shape
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule, channels_last, heads, keep, squeeze, thirds

__all__ = ["BASE", "CONVERTER", "LARGE", "TOKENS", "labels", "make", "source_shapes"]

AUDIO = "[d2v_model.]modality_encoders.AUDIO"  # the fine-tuned models wrap the pretrained one: [ ] is optional
CONV = f"{AUDIO}.local_encoder.conv_layers.{{i}}"
POSITION = f"{AUDIO}.relative_positional_encoder.{{i}}.0"


def _block_rules(source: str, target: str) -> list[Rule]:
    attn = f"{target}.attn"
    return [
        rule
        for part in ("weight", "bias")
        for rule in (
            Rule(
                f"{source}.attn.qkv.{part}",
                (f"{attn}.q_proj.{part}", f"{attn}.k_proj.{part}", f"{attn}.v_proj.{part}"),
                thirds,
            ),
            Rule(f"{source}.attn.proj.{part}", (f"{attn}.out_proj.{part}",)),
            Rule(f"{source}.norm1.{part}", (f"{target}.norm1.{part}",)),
            Rule(f"{source}.mlp.fc1.{part}", (f"{target}.mlp.fc1.{part}",)),
            Rule(f"{source}.mlp.fc2.{part}", (f"{target}.mlp.fc2.{part}",)),
            Rule(f"{source}.norm2.{part}", (f"{target}.norm2.{part}",)),
        )
    ]


RULES: tuple[Rule, ...] = (
    Rule(f"{CONV}.0.weight", ("conv_layers.{i}.weight",), channels_last),
    Rule(f"{CONV}.2.1.weight", ("conv_layers.{i}.norm.weight",)),
    Rule(f"{CONV}.2.1.bias", ("conv_layers.{i}.norm.bias",)),
    Rule(f"{AUDIO}.project_features.1.weight", ("projection.norm.weight",)),
    Rule(f"{AUDIO}.project_features.1.bias", ("projection.norm.bias",)),
    Rule(f"{AUDIO}.project_features.2.weight", ("projection.linear.weight",)),
    Rule(f"{AUDIO}.project_features.2.bias", ("projection.linear.bias",)),
    # FunASR's list starts with a transposition, so the first convolution is number 1.
    Rule(f"{POSITION}.weight", ("positions.{i-1}.weight",), channels_last),
    Rule(f"{POSITION}.bias", ("positions.{i-1}.bias",)),
    Rule(f"{AUDIO}.alibi_scale", ("alibi_scale",), heads),  # [1, 1, heads, 1, 1]; older files [1, heads, 1, 1]
    Rule(f"{AUDIO}.extra_tokens", ("extra_tokens",), squeeze),
    Rule(f"{AUDIO}.context_encoder.norm.weight", ("context_norm.weight",)),
    Rule(f"{AUDIO}.context_encoder.norm.bias", ("context_norm.bias",)),
    *_block_rules(f"{AUDIO}.context_encoder.blocks.{{i}}", "context_blocks.{i}"),
    *_block_rules("[d2v_model.]blocks.{i}", "blocks.{i}"),
    Rule("proj.weight", ("head.weight",), keep),
    Rule("proj.bias", ("head.bias",), keep),
    Rule(f"{AUDIO}.decoder.{{*}}", why="reconstructs masked frames in pretraining"),
    Rule("[d2v_model.]_ema{*}", why="the teacher of pretraining"),
    Rule("[d2v_model.]recon_proj.{*}", why="a pretraining loss"),
    Rule("[d2v_model.]shared_decoder.{*}", why="reconstructs masked frames in pretraining"),
)

# Strides leave no trace in the weights; in every published model, these kernels have these strides.
PUBLISHED_KERNELS = (10, 3, 3, 3, 3, 2, 2)
PUBLISHED_STRIDES = (5, 2, 2, 2, 2, 2, 2)

# Settings, as paths in config.yaml, that change the forward pass: the runtimes compute only the value given here, and
# the conversion of any other is refused.
REQUIRED: tuple[tuple[tuple[str, ...], Any], ...] = (
    (("layer_norm_first",), False),
    (("norm_affine",), True),
    (("modalities", "audio", "extractor_mode"), "layer_norm"),
    (("modalities", "audio", "use_alibi_encoder"), True),
    (("modalities", "audio", "learned_alibi"), False),
    (("modalities", "audio", "learned_alibi_scale_per_layer"), False),
    (("modalities", "audio", "learned_alibi_scale_per_head"), True),
    (("modalities", "audio", "conv_pos_pre_ln"), False),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of an emotion2vec."""
    return any(name.removeprefix("d2v_model.").startswith("modality_encoders.") for name in names)


def describe(
    config: Mapping[str, Any] | None,
    tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Emotion2vecConfig, tuple[Label, ...]]:
    """Returns the sizes and labels of a checkpoint.

    Args:
        config: Parsed config.yaml; None to infer all sizes from the shapes.
        tokens: Lines of tokens.txt; empty without one.
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for each size that was inferred rather than read.

    Raises:
        CheckpointError: A setting is missing, of the wrong type or one that the runtimes cannot compute; or there is a
            head but no tokens that name its rows.
    """
    head = targets.get("head.weight")
    if head and not tokens:
        raise CheckpointError(
            f"the checkpoint has a classification head of {head[0]} rows but no tokens.txt that names them; put the "
            f"tokens.txt of its repository next to the weights"
        )
    names = labels(tokens) if head else ()
    rows = head[0] if head else 0
    return (_inferred(targets, rows, note) if config is None else _read(config, rows)), names


def _read(config: Mapping[str, Any], num_labels: int) -> Emotion2vecConfig:
    model = config.get("model_conf", config)
    try:
        for path, wanted in REQUIRED:
            value = model
            for key in path:
                value = value[key]
            if value != wanted:
                raise CheckpointError(f"config.yaml: {'.'.join(path)} is {value!r}; only {wanted!r} is supported")
        audio = model["modalities"]["audio"]
        depth = int(audio["conv_pos_depth"])
        return Emotion2vecConfig(
            conv_layers=_conv_layers(audio["feature_encoder_spec"]),
            embed_dim=int(model["embed_dim"]),
            num_heads=int(model["num_heads"]),
            num_alibi_heads=int(audio["num_alibi_heads"]),
            prenet_depth=int(audio["prenet_depth"]),
            depth=int(model["depth"]),
            ffn_dim=int(int(model["embed_dim"]) * float(model["mlp_ratio"])),
            conv_pos_depth=depth,
            conv_pos_kernel=max(3, int(audio["conv_pos_width"]) // depth),
            conv_pos_groups=int(audio["conv_pos_groups"]),
            num_extra_tokens=int(audio["num_extra_tokens"]),
            normalize=model["normalize"],
            head_dim=0,
            norm_eps=float(model["norm_eps"]),
            num_labels=num_labels,
        )
    except ValueError as error:
        raise CheckpointError(f"config.yaml: {error}") from error
    except (KeyError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise CheckpointError(f"config.yaml is not the one of an emotion2vec model ({error!r})") from error


def _conv_layers(spec: str) -> tuple[tuple[int, int, int], ...]:
    """Reads `[(512, 10, 5)] + [(512, 3, 2)] * 4 + ...` without running it: it comes from a download."""
    layers: list[tuple[int, int, int]] = []
    term = r"\[((?:\(\d+,\d+,\d+\),?)+)\](?:\*(\d+))?"
    text = re.sub(r"\s", "", spec)
    if not re.fullmatch(rf"{term}(?:\+{term})*", text):
        raise ValueError(f"feature_encoder_spec {spec!r}")
    for group, times in re.findall(term, text):
        triples = re.findall(r"\((\d+),(\d+),(\d+)\)", group)
        if len(times) > 2:
            raise ValueError(f"feature_encoder_spec {spec!r}")
        layers += [(int(c), int(k), int(s)) for c, k, s in triples] * int(times or 1)
    return tuple(layers)


def _inferred(shapes: Mapping[str, Shape], num_labels: int, note: Callable[[str], None]) -> Emotion2vecConfig:
    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, name) is not None for name in shapes)

    try:
        convs = [shapes[f"conv_layers.{i}.weight"] for i in range(count(r"conv_layers\.\d+\.weight"))]
        kernels = tuple(kernel for _, kernel, _ in convs)
        if kernels != PUBLISHED_KERNELS:
            raise CheckpointError(
                f"no config.yaml, and its convolutions (kernels {list(kernels)}) are not those of a published model: "
                f"their strides are unknown; put its config.yaml next to it"
            )
        dim = shapes["context_norm.weight"][0]
        _, kernel, per_group = shapes["positions.0.weight"]
        config = Emotion2vecConfig(
            conv_layers=tuple(
                (out, kernel, stride) for (out, kernel, _), stride in zip(convs, PUBLISHED_STRIDES, strict=True)
            ),
            embed_dim=dim,
            num_heads=math.prod(shapes["alibi_scale"]),
            num_alibi_heads=math.prod(shapes["alibi_scale"]),
            prenet_depth=count(r"context_blocks\.\d+\.norm1\.weight"),
            depth=count(r"blocks\.\d+\.norm1\.weight"),
            ffn_dim=shapes["blocks.0.mlp.fc1.weight"][0],
            conv_pos_depth=count(r"positions\.\d+\.weight"),
            conv_pos_kernel=kernel,
            conv_pos_groups=dim // per_group,
            num_extra_tokens=shapes["extra_tokens"][0],
            normalize=True,
            head_dim=0,
            norm_eps=1e-5,
            num_labels=num_labels,
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"no config.yaml, and the tensors are not those of an emotion2vec ({error!r})") from error
    note(
        f"no config.yaml: sizes inferred from the tensors (width {config.embed_dim}, {config.num_heads} heads, "
        f"{config.prenet_depth} + {config.depth} blocks); waveform norm, strides and epsilon taken from the "
        f"published models"
    )
    return config


def labels(tokens: Sequence[str]) -> tuple[Label, ...]:
    """Returns the labels in tokens.txt: `生气/angry` is angry, a bare `<unk>` is unknown, `unuse_0` is unused.

    Raises:
        CheckpointError: Two tokens have the same name, or one has none.
    """
    found = tuple(
        Label(
            name="unknown" if token == "<unk>" else token.rsplit("/", 1)[-1],
            token=token,
            unused=token.startswith("unuse"),
        )
        for token in tokens
    )
    names = [label.name for label in found]
    if "" in names:
        raise CheckpointError(f"line {names.index('') + 1} of tokens.txt names no label: one belongs on each line")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise CheckpointError(f"tokens.txt names {', '.join(repeated)} more than once")
    return found


TOKENS: tuple[str, ...] = tuple(
    row["token"]
    for row in json.loads(files("e2v_port.taxonomy").joinpath("emotion2vec.json").read_text("utf-8"))["classes"]
)

BASE = Emotion2vecConfig(
    conv_layers=((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2),
    embed_dim=768,
    num_heads=12,
    num_alibi_heads=12,
    prenet_depth=4,
    depth=8,
    ffn_dim=3072,
    conv_pos_depth=5,
    conv_pos_kernel=19,
    conv_pos_groups=16,
    num_extra_tokens=10,
    normalize=True,
    head_dim=0,
    norm_eps=1e-5,
    num_labels=len(TOKENS),
)
LARGE = replace(BASE, embed_dim=1024, num_heads=16, num_alibi_heads=16, ffn_dim=4096)
SIZES = {"base": BASE, "large": LARGE}


def source_shapes(config: Emotion2vecConfig, prefix: str = "d2v_model.") -> Iterator[tuple[str, Shape]]:
    """Yields FunASR's name and shape for every tensor of a model: convolutions [out, in, kernel], q, k, v stacked."""
    dim = config.embed_dim
    audio = f"{prefix}modality_encoders.AUDIO"
    yield f"{audio}.extra_tokens", (1, config.num_extra_tokens, dim)
    yield f"{audio}.alibi_scale", (1, 1, config.num_alibi_heads, 1, 1)
    channels = 1
    for i, (out, kernel, _) in enumerate(config.conv_layers):
        layer = f"{audio}.local_encoder.conv_layers.{i}"
        yield f"{layer}.0.weight", (out, channels, kernel)
        yield from pair(f"{layer}.2.1", (out,))
        channels = out
    yield from pair(f"{audio}.project_features.1", (channels,))
    yield from pair(f"{audio}.project_features.2", (dim, channels))
    for i in range(config.conv_pos_depth):
        shape = (dim, dim // config.conv_pos_groups, config.conv_pos_kernel)
        yield from pair(f"{audio}.relative_positional_encoder.{i + 1}.0", shape)
    yield from pair(f"{audio}.context_encoder.norm", (dim,))
    blocks = [f"{audio}.context_encoder.blocks.{i}" for i in range(config.prenet_depth)]
    blocks += [f"{prefix}blocks.{i}" for i in range(config.depth)]
    for block in blocks:
        yield from pair(f"{block}.norm1", (dim,))
        yield from pair(f"{block}.attn.qkv", (3 * dim, dim))
        yield from pair(f"{block}.attn.proj", (dim, dim))
        yield from pair(f"{block}.norm2", (dim,))
        yield from pair(f"{block}.mlp.fc1", (config.ffn_dim, dim))
        yield from pair(f"{block}.mlp.fc2", (dim, config.ffn_dim))
    if config.num_labels:
        yield from pair("proj", (config.num_labels, dim))


def _value(name: str, shape: Shape, draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith("alibi_scale"):  # some of them negative
        return np.float32(0.7) + np.float32(0.6) * values
    if name.endswith("extra_tokens"):
        return values
    return trained_like(name, values, 2.0 if name == "proj.weight" else 1.0)  # logits spread over several units


def make(
    config: Emotion2vecConfig,
    folder: Path,
    *,
    tokens: Sequence[str] = TOKENS,
    seed: int = 0,
    prefix: str = "d2v_model.",
    weights: str = "model.pt",
) -> Path:
    """Writes a checkpoint folder as the hubs have them.

    Args:
        config: Sizes; `num_labels` is the number of tokens, or 0 for a model without a head.
        folder: Folder to write weights, config.yaml, tokens.txt and configuration.json to.
        tokens: Lines of tokens.txt.
        seed: Random seed of the weights.
        prefix: Prefix of all tensors but the head's; empty in a pretrained model.
        weights: Name of the weights file.

    Returns:
        The folder.
    """
    import torch
    import yaml

    draw = np.random.default_rng(seed)
    tensors = {name: torch.from_numpy(_value(name, shape, draw)) for name, shape in source_shapes(config, prefix)}
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[str, Any] = {"init_param": weights, "config": "config.yaml"}
    if config.num_labels:
        (folder / "tokens.txt").write_text("\n".join(tokens) + "\n", "utf-8")
        paths["tokenizer_conf"] = {"token_list": "tokens.txt"}
    about = {"framework": "pytorch", "task": "emotion-recognition", "model": {"type": "funasr"}}
    (folder / "configuration.json").write_text(json.dumps({**about, "file_path_metas": paths}, indent=2))
    (folder / "config.yaml").write_text(yaml.safe_dump(_settings(config, prefix), sort_keys=False))
    torch.save({"model": tensors}, folder / weights)
    return folder


def _settings(config: Emotion2vecConfig, prefix: str) -> dict[str, Any]:
    """Returns the settings in config.yaml that FunASR builds the model from, and its mapping of names."""
    dropout = {
        "encoder_dropout": 0.1,
        "post_mlp_drop": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
    }
    model = {
        "depth": config.depth,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "num_heads": config.num_heads,
        "norm_eps": config.norm_eps,
        "norm_affine": True,
        **dropout,
        "dropout_input": 0.0,
        "layerdrop": 0.05,
        "embed_dim": config.embed_dim,
        "mlp_ratio": config.ffn_dim / config.embed_dim,
        "layer_norm_first": False,
        "end_of_block_targets": False,
        "clone_batch": 8,
        "average_top_k_layers": config.depth,
        "loss_beta": 0.0,
        "loss_scale": None,
        "supported_modality": "AUDIO",
        "normalize": config.normalize,
        "modalities": {"audio": _audio_settings(config)},
    }
    return {
        "model": "Emotion2vec",
        "model_conf": model,
        "tokenizer": "CharTokenizer" if config.num_labels else None,
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
        "scope_map": [prefix or "none", "none"],
    }


def _audio_settings(config: Emotion2vecConfig) -> dict[str, Any]:
    return {
        "type": "AUDIO",
        "prenet_depth": config.prenet_depth,
        "prenet_layerdrop": 0.05,
        "prenet_dropout": 0.1,
        "start_drop_path_rate": 0.0,
        "end_drop_path_rate": 0.0,
        "num_extra_tokens": config.num_extra_tokens,
        "init_extra_token_zero": True,
        "mask_noise_std": 0.01,
        "mask_prob": 0.5,
        "mask_length": 5,
        "encoder_zero_mask": True,
        "mask_channel_prob": 0.0,
        "local_grad_mult": 1.0,
        "use_alibi_encoder": True,
        "alibi_scale": 1.0,
        "learned_alibi": False,
        "alibi_max_pos": None,
        "learned_alibi_scale": True,
        "learned_alibi_scale_per_head": True,
        "learned_alibi_scale_per_layer": False,
        "num_alibi_heads": config.num_alibi_heads,
        "model_depth": config.depth,
        "decoder": None,
        "extractor_mode": "layer_norm",
        "feature_encoder_spec": " + ".join(f"[({c}, {k}, {s})]" for c, k, s in config.conv_layers),
        "conv_pos_width": config.conv_pos_kernel * config.conv_pos_depth,
        "conv_pos_groups": config.conv_pos_groups,
        "conv_pos_depth": config.conv_pos_depth,
        "conv_pos_pre_ln": False,
    }


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

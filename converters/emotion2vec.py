"""How a FunASR emotion2vec checkpoint maps to the stored layout: the renames, the configuration, the labels."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from e2v_port.config import Emotion2vecConfig, Label
from e2v_port.errors import CheckpointError
from e2v_port.layout import Shape

from .rules import Family, Rule, channels_last, heads, keep, squeeze, thirds

__all__ = ["FAMILY", "labels"]

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
    # Their list starts with a transposition, so the first convolution is number 1.
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

# Strides leave no trace in the weights: these belong to these kernels in every published model.
PUBLISHED_KERNELS = (10, 3, 3, 3, 3, 2, 2)
PUBLISHED_STRIDES = (5, 2, 2, 2, 2, 2, 2)

# Settings under which FunASR computes something else than the forward pass of the runtimes: with any other
# value the conversion is refused. The path leads through config.yaml.
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


def describe(
    config: Mapping[str, Any] | None,
    tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Emotion2vecConfig, tuple[Label, ...]]:
    """Returns the sizes and labels of a checkpoint.

    Args:
        config: Its parsed config.yaml; None to infer everything from the shapes.
        tokens: The lines of its tokens.txt; none without one.
        targets: Name and shape of its tensors, in the target layout.
        note: Told what was inferred rather than read.

    Raises:
        CheckpointError: A setting is missing, of the wrong kind or one the runtimes do not compute; or there is a head
            and no tokens that name its rows.
    """
    head = targets.get("head.weight")
    if head and not tokens:
        raise CheckpointError(
            f"the checkpoint has a classification head of {head[0]} rows but no tokens.txt that names them; put the "
            f"tokens.txt of its repository beside the weights"
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
        raise CheckpointError(f"config.yaml is not that of an emotion2vec model ({error!r})") from error


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
                f"their strides cannot be known; put its config.yaml beside it"
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
    """Returns what the lines of tokens.txt mean: `生气/angry` is angry, a bare `<unk>` unknown, `unuse_0` unused.

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


FAMILY = Family("emotion2vec", RULES, describe)

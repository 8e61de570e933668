"""How a transformers wav2vec2 checkpoint maps to the stored layout: the renames, the configuration, the outputs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from e2v_port.config import Label, Wav2vec2Config
from e2v_port.errors import CheckpointError
from e2v_port.layout import Shape

from .rules import Family, Rule, channels_last, weight_norm

__all__ = ["FAMILY", "is_one"]

CONV = "[wav2vec2.]feature_extractor.conv_layers.{i}"
POSITION = "[wav2vec2.]encoder.pos_conv_embed.conv"
LAYER = "[wav2vec2.]encoder.layers.{i}"

RULES: tuple[Rule, ...] = (
    Rule(f"{CONV}.conv.weight", ("conv_layers.{i}.weight",), channels_last),
    Rule(f"{CONV}.conv.bias", ("conv_layers.{i}.bias",)),
    # torch has kept the two halves of a weight norm under two kinds of names.
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
            ("classifier.dense", "head.dense"),
            ("classifier.out_proj", "head.out"),
        )
    ),
    Rule("[wav2vec2.]masked_spec_embed", why="stands in for masked frames in training"),
    Rule("lm_head.{*}", why="writes text, not emotions"),
    Rule("quantizer.{*}", why="a pretraining loss"),
    Rule("project_q.{*}", why="a pretraining loss"),
    Rule("project_hid.{*}", why="a pretraining loss"),
)

# Settings under which transformers computes something else than the forward pass of the runtimes, and what they must
# be; where config.json leaves one out, transformers takes this value.
REQUIRED = {
    "model_type": "wav2vec2",
    "hidden_act": "gelu",
    "feat_extract_activation": "gelu",
    "add_adapter": False,
    "adapter_attn_dim": None,
    "use_weighted_layer_sum": False,
}


def is_one(names: Iterable[str]) -> bool:
    """Tells a wav2vec2 by the names of its tensors."""
    return any(name.removeprefix("wav2vec2.").startswith("feature_extractor.conv_layers.") for name in names)


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Wav2vec2Config, tuple[Label, ...]]:
    """Returns the sizes and outputs of a checkpoint.

    Args:
        config: Its config.json.
        preprocessor: Its preprocessor_config.json.
        targets: Name and shape of its tensors, in the target layout.
        note: Told what was inferred rather than read.

    Raises:
        CheckpointError: There is no config.json; or a setting is missing, of the wrong kind or one the runtimes do not
            compute.
    """
    if config is None:
        raise CheckpointError("a wav2vec2 without its config.json: put that beside the weights")
    for key, wanted in REQUIRED.items():
        if (value := config.get(key, wanted)) != wanted:
            raise CheckpointError(f"config.json: {key} is {value!r}; only {wanted!r} is supported")
    if preprocessor is None:
        note("no preprocessor_config.json: the waveform norm is taken from the published models")
    head = targets.get("head.out.weight")
    try:
        names = {int(index): str(name) for index, name in config.get("id2label", {}).items()}
        labels = tuple(Label(names[i], names[i], unused=False) for i in range(head[0])) if head else ()
        sizes = Wav2vec2Config(
            conv_layers=tuple(
                (int(dim), int(kernel), int(stride))
                for dim, kernel, stride in zip(
                    config["conv_dim"], config["conv_kernel"], config["conv_stride"], strict=True
                )
            ),
            embed_dim=int(config["hidden_size"]),
            head_dim=int(config["hidden_size"]) if head else 0,
            num_heads=int(config["num_attention_heads"]),
            depth=int(config["num_hidden_layers"]),
            ffn_dim=int(config["intermediate_size"]),
            conv_pos_kernel=int(config["num_conv_pos_embeddings"]),
            conv_pos_groups=int(config["num_conv_pos_embedding_groups"]),
            normalize=(preprocessor or {}).get("do_normalize", True),
            norm_eps=float(config["layer_norm_eps"]),
            num_labels=len(labels),
            conv_bias=config["conv_bias"],
            conv_norm=str(config["feat_extract_norm"]),
            pre_norm=config["do_stable_layer_norm"],
        )
    except ValueError as error:
        raise CheckpointError(f"config.json: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"config.json is not that of a wav2vec2 model ({error!r})") from error
    return sizes, labels


FAMILY = Family("wav2vec2", RULES, describe)

"""The stored layout: the one contract between the converter's output and the parameters of both runtimes."""

from collections.abc import Mapping
from itertools import chain
from math import prod
from pathlib import Path

from e2v_port.config import QUANTISED, Architecture, Emotion2vecConfig, Wav2smallConfig, Wav2vec2Config
from e2v_port.errors import CheckpointError
from e2v_port.quantisation import GROUP

__all__ = ["Shape", "check", "differences", "packed", "parts", "stored", "tensors"]

Shape = tuple[int, ...]

CODES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # safetensors' names
MAX_TENSORS = (
    10_000  # the largest known model has 403, packed; a file with half a million empty ones would take seconds
)


def parameters(config: Architecture) -> int:
    """Returns how many numbers a model has, as they are before any packing."""
    return sum(prod(shape) for shape in tensors(config).values())


def tensors(config: Architecture) -> dict[str, Shape]:
    """Returns name and shape of every tensor, in the order of the forward pass.

    Convolutions are [out, kernel, in per group], linear layers [out, in].
    """
    match config:
        case Emotion2vecConfig():
            return _emotion2vec(config)
        case Wav2vec2Config():
            return _wav2vec2(config)
        case Wav2smallConfig():
            return _wav2small(config)
    raise TypeError(f"no layout is known for {type(config).__name__}")


def packed(config: Architecture) -> list[str]:
    """Returns the names of the tensors that q8 and q4 pack, in the order of the forward pass; of some models none.

    They are the matrices of the transformers' blocks, nine tenths of a model, whose rows are groups of 64 numbers. All
    else is small, or, as a convolution, nothing that MLX multiplies without unpacking it.
    """
    found = tensors(config).items()
    return [name for name, shape in found if "blocks." in name and len(shape) == 2 and shape[1] % GROUP == 0]


def stored(config: Architecture, dtype: str) -> dict[str, tuple[str, Shape]]:
    """Returns type and shape of every tensor in model.safetensors, in order.

    Args:
        config: Of the model.
        dtype: As in `ModelConfig.dtype`.

    Returns:
        By name, the type as safetensors calls it. For a packed `NAME.weight` [out, in] those are its numbers, [out, in
        * bits / 32], and `NAME.scales` and `NAME.biases`, [out, in / 64]: the names that MLX gives them.
    """
    if dtype not in QUANTISED:
        return {name: (CODES[dtype], shape) for name, shape in tensors(config).items()}
    small = set(packed(config))
    found: dict[str, tuple[str, Shape]] = {}
    for name, shape in tensors(config).items():
        if name not in small:
            found[name] = ("F32", shape)
            continue
        rows, width = shape
        found[name] = ("U32", (rows, width * QUANTISED[dtype] // 32))
        found |= dict.fromkeys(parts(name)[1:], ("F32", (rows, width // GROUP)))
    return found


def parts(name: str) -> tuple[str, str, str]:
    """Returns the names of a packed tensor's numbers, scales and biases."""
    layer = name.removesuffix("weight")
    return name, f"{layer}scales", f"{layer}biases"


def _emotion2vec(config: Emotion2vecConfig) -> dict[str, Shape]:
    dim = config.embed_dim
    stored: dict[str, Shape] = {}
    channels = 1
    for i, (out, kernel, _) in enumerate(config.conv_layers):
        stored[f"conv_layers.{i}.weight"] = (out, kernel, channels)
        stored |= _norm(f"conv_layers.{i}.norm", out)
        channels = out
    stored |= _norm("projection.norm", channels)
    stored |= _linear("projection.linear", dim, channels)
    for i in range(config.conv_pos_depth):
        stored[f"positions.{i}.weight"] = (dim, config.conv_pos_kernel, dim // config.conv_pos_groups)
        stored[f"positions.{i}.bias"] = (dim,)
    stored["alibi_scale"] = (config.num_alibi_heads,)
    stored["extra_tokens"] = (config.num_extra_tokens, dim)
    stored |= _norm("context_norm", dim)
    for i in range(config.prenet_depth):
        stored |= _block(f"context_blocks.{i}", dim, config.ffn_dim)
    for i in range(config.depth):
        stored |= _block(f"blocks.{i}", dim, config.ffn_dim)
    return stored | _head(config)


def _wav2vec2(config: Wav2vec2Config) -> dict[str, Shape]:
    dim = config.embed_dim
    stored: dict[str, Shape] = {}
    channels = 1
    for i, (out, kernel, _) in enumerate(config.conv_layers):
        stored[f"conv_layers.{i}.weight"] = (out, kernel, channels)
        if config.conv_bias:
            stored[f"conv_layers.{i}.bias"] = (out,)
        if config.norm_of(i):
            stored |= _norm(f"conv_layers.{i}.norm", out)
        channels = out
    stored |= _norm("projection.norm", channels)
    stored |= _linear("projection.linear", dim, channels)
    stored["positions.weight"] = (dim, config.conv_pos_kernel, dim // config.conv_pos_groups)
    stored["positions.bias"] = (dim,)
    stored |= _norm("norm", dim)
    for i in range(config.depth):
        stored |= _block(f"blocks.{i}", dim, config.ffn_dim)
    return stored | _head(config)


def _wav2small(config: Wav2smallConfig) -> dict[str, Shape]:
    stored: dict[str, Shape] = {"mel": (config.bands, config.window // 2 + 1)}
    channels = 1
    for i, out in enumerate(chain.from_iterable(config.stages)):
        stored[f"layers.{i}.weight"] = (out, 3, 3, channels)
        stored[f"layers.{i}.bias"] = (out,)
        channels = out
    # `gram` keeps the bands apart, `deviation` mixes them.
    inputs = channels if config.pooling == "gram" else channels * config.pooled_bands
    stored |= _linear("pooling.values", config.width, inputs)
    stored |= _linear("pooling.weights", config.width, channels if config.pooling == "gram" else config.width)
    return stored | _head(config)


def _head(config: Architecture) -> dict[str, Shape]:
    dim, hidden, labels = config.embed_dim, config.head_dim, config.num_labels
    if not labels:
        return {}
    return (
        _linear("head.dense", hidden, dim) | _linear("head.out", labels, hidden)
        if hidden
        else _linear("head", labels, dim)
    )


def _norm(name: str, dim: int) -> dict[str, Shape]:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def _linear(name: str, out: int, dim: int) -> dict[str, Shape]:
    return {f"{name}.weight": (out, dim), f"{name}.bias": (out,)}


def _block(name: str, dim: int, ffn_dim: int) -> dict[str, Shape]:
    return (
        _linear(f"{name}.attn.q_proj", dim, dim)
        | _linear(f"{name}.attn.k_proj", dim, dim)
        | _linear(f"{name}.attn.v_proj", dim, dim)
        | _linear(f"{name}.attn.out_proj", dim, dim)
        | _norm(f"{name}.norm1", dim)
        | _linear(f"{name}.mlp.fc1", ffn_dim, dim)
        | _linear(f"{name}.mlp.fc2", dim, ffn_dim)
        | _norm(f"{name}.norm2", dim)
    )


def differences(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    """Returns one line for every tensor that is missing, unexpected or misshapen; none if the two agree."""
    return [
        *(f"missing {name} {list(wanted[name])}" for name in wanted if name not in found),
        *(f"unexpected {name} {list(found[name])}" for name in found if name not in wanted),
        *(
            f"{name} is {list(found[name])}, must be {list(wanted[name])}"
            for name in wanted
            if name in found and found[name] != wanted[name]
        ),
    ]


def check(weights: Path, config: Architecture, dtype: str) -> None:
    """Checks a model.safetensors against the layout without reading its data.

    Args:
        weights: The file.
        config: What it must hold.
        dtype: How its tensors are stored, as in `ModelConfig.dtype`.

    Raises:
        CheckpointError: The file is damaged, or tensors are missing, unexpected, misshapen or of another type; all
            of them are named.
    """
    # safe_open refuses overlapping and trailing data, which MLX's own reader would accept.
    from safetensors import SafetensorError, safe_open

    wanted = stored(config, dtype)
    try:
        with safe_open(weights, framework="np") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise CheckpointError(f"{weights} holds {len(names)} tensors: not a model of this kind")
            slices = {name: file.get_slice(name) for name in names}
            problems = differences(
                {name: tuple(part.get_shape()) for name, part in slices.items()},
                {name: shape for name, (_, shape) in wanted.items()},
            )
            problems += [
                f"{name} is stored as {part.get_dtype()}, must be {wanted[name][0]}"
                for name, part in slices.items()
                if name in wanted and part.get_dtype() != wanted[name][0]
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{weights} cannot be read ({error}): convert the checkpoint again") from error
    if problems:
        raise CheckpointError(f"{weights} does not match its config.json: {'; '.join(problems)}")

"""speechbrain's ECAPA-TDNN speaker encoders: the renames to the stored layout, the sizes, and synthetic checkpoints."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.ecapa import EcapaConfig
from e2v_port.architectures.shapes import Shape
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule

__all__ = ["CONVERTER", "HYPERPARAMS", "PUBLISHED", "make"]

Array = NDArray[np.float32]
BLOCKS = 3  # between the first layer and the one that joins
SEEN = 3  # columns that a convolution inside a block sees


def side_by_side(array: Array) -> Sequence[Array]:
    """Makes a linear layer of a convolution, [out, in, kernel] -> [out, kernel * in], the earliest column first."""
    return [np.swapaxes(array, 1, 2).reshape(len(array), -1)]


def scale(gain: Array, shift: Array, mean: Array, variance: Array) -> Sequence[Array]:
    """Makes a factor and a shift of a batch norm."""
    gain, shift, mean, variance = np.stack([gain, shift, mean, variance]).astype(np.float64)
    with np.errstate(invalid="ignore"):  # from a negative variance; writing reports values that are not finite
        factor = gain / np.sqrt(variance + 1e-5)
    return [factor.astype(np.float32), (shift - mean * factor).astype(np.float32)]


def attended(array: Array) -> Sequence[Array]:
    """Cuts the layer of attention over time into those of the frame, of the clip's mean and of its deviation."""
    return np.split(side_by_side(array)[0], 3, 1)


def _norm(source: str, target: str) -> list[Rule]:
    others = tuple(f"{source}.{part}" for part in ("bias", "running_mean", "running_var"))
    return [
        Rule(f"{source}.weight", (f"{target}.weight", f"{target}.bias"), scale, beside=others),
        Rule(f"{source}.num_batches_tracked", why="counts the steps of the training"),
    ]


def _linear(source: str, target: str) -> list[Rule]:
    return [Rule(f"{source}.weight", (f"{target}.weight",), side_by_side), Rule(f"{source}.bias", (f"{target}.bias",))]


def _layer(source: str, target: str) -> list[Rule]:
    return [*_linear(f"{source}.conv.conv", f"{target}.linear"), *_norm(f"{source}.norm.norm", f"{target}.norm")]


def _block(source: str, target: str) -> list[Rule]:
    return [
        *_layer(f"{source}.tdnn1", f"{target}.before"),
        *_layer(f"{source}.res2net_block.blocks.{{i}}", f"{target}.parts.{{i}}"),
        *_layer(f"{source}.tdnn2", f"{target}.after"),
        *_linear(f"{source}.se_block.conv1.conv", f"{target}.squeeze"),
        *_linear(f"{source}.se_block.conv2.conv", f"{target}.excite"),
    ]


RULES: tuple[Rule, ...] = (
    *_layer("blocks.0", "first"),
    *(rule for i in range(BLOCKS) for rule in _block(f"blocks.{i + 1}", f"blocks.{i}")),
    *_layer("mfa", "join"),
    Rule(
        "asp.tdnn.conv.conv.weight",
        ("pooling.frames.weight", "pooling.mean.weight", "pooling.deviation.weight"),
        attended,
    ),
    Rule("asp.tdnn.conv.conv.bias", ("pooling.frames.bias",)),
    *_norm("asp.tdnn.norm.norm", "pooling.norm"),
    *_linear("asp.conv.conv", "pooling.scores"),
    *_norm("asp_bn.norm", "norm"),
    *_linear("fc.conv", "projection"),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of speechbrain's ECAPA_TDNN."""
    return {"mfa.conv.conv.weight", "asp.tdnn.conv.conv.weight", "fc.conv.weight"} <= {*names}


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[EcapaConfig, tuple[Label, ...]]:
    """Returns the sizes of a checkpoint, which has no labels.

    Args:
        config: Arguments of ECAPA_TDNN in its hyperparams.yaml; None to take what leaves no trace in the tensors from
            the published model.
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for what was taken from the published model.

    Raises:
        CheckpointError: The tensors or settings are not those of such an encoder.
    """
    if config is None:
        note("no hyperparams.yaml: mel bands and dilations taken from speechbrain/spkrec-ecapa-voxceleb")
    given = {"input_size": PUBLISHED.bands, "dilations": [1, *PUBLISHED.dilations, 1], **(config or {})}
    try:
        first, *dilations, last = given["dilations"]
        if (first, last) != (1, 1):
            raise ValueError(f"dilations are {given['dilations']}; the first and the last must be 1")
        if (kernels := given.get("kernel_sizes")) and [*kernels[1:]] != [*[SEEN] * BLOCKS, 1]:
            raise ValueError(f"kernel_sizes are {kernels}; only 3 in the blocks and 1 after them are supported")
        width, seen = targets["first.linear.weight"]
        embed_dim, statistics = targets["projection.weight"]
        return EcapaConfig(
            normalize=False,
            embed_dim=embed_dim,
            head_dim=0,
            num_labels=0,
            bands=given["input_size"],
            kernel=seen // given["input_size"],
            width=width,
            dilations=tuple(dilations),
            scale=1 + sum(name.startswith("blocks.0.parts.") and name.endswith("linear.bias") for name in targets),
            squeezed=targets["blocks.0.squeeze.weight"][0],
            joined=statistics // 2,
            attended=targets["pooling.scores.weight"][1],
        ), ()
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"the tensors are not those of an ECAPA-TDNN speaker encoder ({error!r})") from error


PUBLISHED = EcapaConfig(
    normalize=False,
    embed_dim=192,
    head_dim=0,
    num_labels=0,
    bands=80,
    kernel=5,
    width=1024,
    dilations=(2, 3, 4),
    scale=8,
    squeezed=128,
    joined=3072,
    attended=128,
)
SIZES = {"ecapa": PUBLISHED}


def _source_shapes(config: EcapaConfig) -> Iterator[tuple[str, Shape]]:
    def norm(name: str, size: int) -> Iterator[tuple[str, Shape]]:
        yield from pair(name, (size,))
        yield f"{name}.running_mean", (size,)
        yield f"{name}.running_var", (size,)

    def layer(name: str, out: int, inputs: int, kernel: int = 1) -> Iterator[tuple[str, Shape]]:
        yield from pair(f"{name}.conv.conv", (out, inputs, kernel))
        yield from norm(f"{name}.norm.norm", out)

    width, part = config.width, config.width // config.scale
    yield from layer("blocks.0", width, config.bands, config.kernel)
    for i in range(1, len(config.dilations) + 1):
        yield from layer(f"blocks.{i}.tdnn1", width, width)
        for j in range(config.scale - 1):
            yield from layer(f"blocks.{i}.res2net_block.blocks.{j}", part, part, SEEN)
        yield from layer(f"blocks.{i}.tdnn2", width, width)
        yield from pair(f"blocks.{i}.se_block.conv1.conv", (config.squeezed, width, 1))
        yield from pair(f"blocks.{i}.se_block.conv2.conv", (width, config.squeezed, 1))
    yield from layer("mfa", config.joined, len(config.dilations) * width)
    yield from layer("asp.tdnn", config.attended, 3 * config.joined)
    yield from pair("asp.conv.conv", (config.joined, config.attended, 1))
    yield from norm("asp_bn.norm", 2 * config.joined)
    yield from pair("fc.conv", (config.embed_dim, 2 * config.joined, 1))


def _value(name: str, shape: Shape, draw: np.random.Generator) -> Array:
    values = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith("running_mean"):  # after a ReLU
        return np.float32(0.4) + np.float32(0.1) * values
    if name.endswith("running_var"):
        spread: Array = np.float32(0.4) * np.exp(np.float32(0.3) * values)
        return spread
    return trained_like(name, values, 0.1 if name == "blocks.0.conv.conv.weight" else 1.0)  # it is given decibels


HYPERPARAMS = """# Model: Speaker identification with ECAPA
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
n_mels: {bands}
out_n_neurons: 7205

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: {channels}
    kernel_sizes: {kernels}
    dilations: {dilations}
    attention_channels: {attended}
    res2net_scale: {scale}
    se_channels: {squeezed}
    lin_neurons: {embed_dim}

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: {embed_dim}
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


def make(config: EcapaConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as speechbrain has it, without the classifier of its training.

    Args:
        config: Sizes, with three blocks.
        folder: Folder to write embedding_model.ckpt and hyperparams.yaml to.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch

    draw = np.random.default_rng(seed)
    state = {name: torch.from_numpy(_value(name, shape, draw)) for name, shape in _source_shapes(config)}
    counters = {name.replace("running_mean", "num_batches_tracked") for name in state if name.endswith("running_mean")}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({**state, **{name: torch.tensor(1000) for name in counters}}, folder / "embedding_model.ckpt")
    text = HYPERPARAMS.format(
        bands=config.bands,
        channels=[*[config.width] * (1 + len(config.dilations)), config.joined],
        kernels=[config.kernel, *[SEEN] * len(config.dilations), 1],
        dilations=[1, *config.dilations, 1],
        attended=config.attended,
        scale=config.scale,
        squeezed=config.squeezed,
        embed_dim=config.embed_dim,
    )
    (folder / "hyperparams.yaml").write_text(text, "utf-8")
    return folder


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

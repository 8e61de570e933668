"""The baselines of the Odyssey 2024 challenge on MSP-Podcast: WavLM, attentive statistics, and layers with a norm.

Their config.json holds a mean and a standard deviation of all waveforms, (x - mean) / (std + 1e-6). Both are folded
into the first convolution, which gets a bias for it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Readout
from e2v_port.architectures.config import Label
from e2v_port.architectures.heads import Step
from e2v_port.architectures.shapes import Shape
from e2v_port.converters import wavlm
from e2v_port.converters.rules import Described, Dialect, Rule, channels_last, transposed, under
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError

__all__ = ["dialect"]

ENCODER = "ssl_model."
CONV = f"{ENCODER}feature_extractor.conv_layers"
ENCODERS = {
    "microsoft/wavlm-large": wavlm.LARGE,
    "microsoft/wavlm-base-plus": wavlm.BASE,
    "microsoft/wavlm-base": wavlm.BASE,
}
EPSILON = 1e-6  # of the published waveform norm


def _scaled(weights: NDArray[Any], mean: float, deviation: float) -> Sequence[NDArray[Any]]:
    """Folds a waveform norm into the first convolution, [out, 1, kernel]: weights [out, kernel, 1] and biases."""
    folded = weights.astype(np.float64) / (deviation + EPSILON)
    return [channels_last(folded)[0].astype(np.float32), (-mean * folded.sum((1, 2))).astype(np.float32)]


def _with_zeros(weights: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Gives another convolution a bias of zeros: either all of them have one or none."""
    return [*channels_last(weights), np.zeros(len(weights), np.float32)]


def _rules(mean: float, deviation: float) -> tuple[Rule, ...]:
    changes: list[Callable[..., Sequence[NDArray[Any]]]] = [partial(_scaled, mean=mean, deviation=deviation)]
    changes += [_with_zeros] * (len(wavlm.LARGE.conv_layers) - 1)
    convolutions = tuple(
        Rule(f"{CONV}.{i}.conv.weight", (f"conv_layers.{i}.weight", f"conv_layers.{i}.bias"), change)
        for i, change in enumerate(changes)
    )
    encoder = under(wavlm.RULES, "[wavlm.]", ENCODER)
    return (
        *(rule for rule in encoder if not rule.source.startswith(f"{CONV}.{{i}}.conv.")),
        *convolutions,
        Rule("pool_model.sap_linear.weight", ("readout.scores.weight",)),
        Rule("pool_model.sap_linear.bias", ("readout.scores.bias",)),
        Rule("pool_model.attention", ("readout.attention.weight",), transposed),
        *(
            Rule(f"ser_model.{source}.{part}", (f"head.{target}.{part}",))
            for source, target in (("fc.{i}.0", "dense{i}"), ("fc.{i}.1", "norm{i}"), ("out.0", "out"))
            for part in ("weight", "bias")
        ),
    )


def _number(settings: Mapping[str, Any], name: str) -> float:
    value = settings.get(name)
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise CheckpointError(f"config.json: {name} is {value!r}; a number that scales the waveform is needed")
    return float(value)


def _describe(shapes: Mapping[str, Shape], settings: Mapping[str, Any]) -> Described:
    kind = settings.get("ssl_type")
    if kind not in ENCODERS:
        raise CheckpointError(f"config.json: ssl_type is {kind!r}; supported: {', '.join(ENCODERS)}")
    sizes = wavlm.sizes(shapes, ENCODER, ENCODERS[kind])
    steps: list[Step] = []
    layers = sum(f"ser_model.fc.{i}.0.weight" in shapes for i in range(len(shapes)))
    for i in range(layers):
        width = shapes[f"ser_model.fc.{i}.0.weight"][0]
        steps += [Step("linear", f"dense{i}", width), Step("norm", f"norm{i}"), Step("relu")]
    rows = shapes["ser_model.out.0.weight"][0]
    names = settings.get("id2label")
    if not isinstance(names, Mapping) or {*names} != {str(i) for i in range(rows)}:
        raise CheckpointError(f"config.json: id2label does not name the {rows} outputs: {names!r}")
    tokens = [str(names[str(i)]) for i in range(rows)]
    measured = rows == len(DIMENSIONS)  # a row for each; the models of labels have eight
    if rows == 1 or (measured and {token.lower() for token in tokens} != {*DIMENSIONS}):
        raise CheckpointError(f"outputs {', '.join(tokens)}; supported: labels, or {', '.join(DIMENSIONS)} together")
    labels = tuple(Label(token.lower() if measured else token, token, unused=False) for token in tokens)
    architecture = replace(
        sizes,
        normalize=False,
        conv_bias=True,
        embed_dim=2 * sizes.width,
        readout=Readout((sizes.depth,), "statistics", heads=1, final=True),
        head=(*steps, Step("linear", "out", rows)),
        num_labels=rows,
    )
    return Described(architecture, labels, {})


def dialect(shapes: Mapping[str, Shape], settings: Mapping[str, Any] | None) -> Dialect | None:
    """Returns how a baseline of the challenge is converted; None for any other checkpoint.

    Args:
        shapes: Name and shape of each of its tensors.
        settings: Its config.json.

    Raises:
        CheckpointError: It lacks its config.json, or the numbers in it that scale the waveform.
    """
    if "pool_model.sap_linear.weight" not in shapes or not any(name.startswith(ENCODER) for name in shapes):
        return None
    if settings is None:
        raise CheckpointError("an Odyssey baseline without its config.json, which scales the waveform: put it beside")
    mean, deviation = _number(settings, "mean"), _number(settings, "std")
    if deviation <= 0:
        raise CheckpointError(f"config.json: std is {deviation}; a positive number is needed")
    return Dialect("wavlm", _rules(mean, deviation), partial(_describe, shapes, settings))

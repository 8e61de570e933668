"""Vox-Profile's models of emotion (SAILER, arXiv 2505.14648): Whisper or WavLM, and linear layers on each frame.

Its checkpoints hold the whole encoder as `backbone_model`, and a config.json with the arguments of the published class.
Where LoRA was trained beside the weights, it is merged into them once: W + B A / r, as loralib does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Readout
from e2v_port.architectures.config import Label
from e2v_port.architectures.heads import Branch, Step
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.whisper import WhisperConfig
from e2v_port.converters import wavlm, whisper
from e2v_port.converters.rules import Described, Dialect, Rule, diagonal, keep, under
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError

__all__ = ["LABELS", "dialect"]

ENCODER = "backbone_model."
LABELS = ("Anger", "Contempt", "Disgust", "Fear", "Happiness", "Neutral", "Sadness", "Surprise", "Other")
SECONDS = 15  # that Whisper is given of every clip
FRAMES = 50 * SECONDS
FRAME_STEPS = {0: "first", 3: "second", 6: "third"}  # the convolutions of one frame in `model_seq`, between ReLUs


def _flat(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Turns a convolution of one frame into a linear layer, [out, in, 1] -> [out, in]; ValueError for a longer one."""
    return [array.reshape(array.shape[:2])]


def _stacked(*arrays: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Puts the rows of several layers below one another."""
    return [np.concatenate(arrays)]


def _trained(weights: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Refuses a layer that was never trained: torch draws all its numbers from +-1 / sqrt(inputs)."""
    if weights.any() and np.abs(weights).max() <= weights.shape[1] ** -0.5:
        raise CheckpointError(
            "emotion_layer was never trained: its weights are still those that torch begins with. For a model of "
            'arousal, dominance and valence, add "predict_gender": false to config.json'
        )
    return [weights]


def _merged(weights: NDArray[Any], down: NDArray[Any], up: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Adds LoRA to the frozen weights of Whisper, unless that was done before the file was saved.

    OpenAI published the weights in float16, so all of them are on its grid until something is added to them.
    """
    if not (down.any() and up.any()):  # nothing to add
        return [weights]
    if _in_16_bits(down):
        raise CheckpointError(
            "all weights were saved in 16 bits, so nothing shows whether LoRA is merged already: convert the file in "
            "float32, or merge it (W + B A / r) and remove its lora_A and lora_B"
        )
    if not _in_16_bits(weights):
        return [weights]
    added = up.astype(np.float64) @ down.astype(np.float64) / len(down)
    return [(weights + added).astype(np.float32)]


def _in_16_bits(array: NDArray[Any]) -> bool:
    """Returns whether float16 or bfloat16 holds all numbers of a float32 array exactly."""
    with np.errstate(over="ignore"):
        half = np.array_equal(array.astype(np.float16), array)
    return half or not (np.ascontiguousarray(array).view(np.uint32) & 0xFFFF).any()


def _rules(encoder: tuple[Rule, ...], *, labels: bool, layers: bool) -> tuple[Rule, ...]:
    """Returns the renames of a checkpoint.

    Args:
        encoder: Those of its encoder.
        labels: Whether the outputs are labels, and the dimensions a further output.
        layers: Whether the layers are summed; otherwise the last is read alone.
    """
    dimensions = "head.others.dimensions" if labels else "head"
    unused = "the published forward pass does not use it"
    return (
        *encoder,
        *(
            Rule(f"model_seq.{i}.{part}", (f"readout.steps.{name}.{part}",), change)
            for i, name in FRAME_STEPS.items()
            for part, change in (("weight", _flat), ("bias", keep))
        ),
        *(
            Rule(
                f"{DIMENSIONS[0]}_layer.{i}.{part}",
                (f"{dimensions}.{name}.{part}",),
                diagonal if (name, part) == ("out", "weight") else _stacked,
                beside=tuple(f"{each}_layer.{i}.{part}" for each in DIMENSIONS[1:]),
            )
            for i, name in ((0, "dense"), (2, "out"))
            for part in ("weight", "bias")
        ),
        Rule("weights", ("readout.weights",)) if layers else Rule("weights", why=unused),
        *(
            (
                Rule("emotion_layer.0.weight", ("head.dense.weight",), _trained),
                Rule("emotion_layer.0.bias", ("head.dense.bias",)),
                Rule("emotion_layer.2.weight", ("head.out.weight",), _trained),
                Rule("emotion_layer.2.bias", ("head.out.bias",)),
                Rule("detailed_out_layer.{*}", why="the names of its 17 labels are not published"),
            )
            if labels
            else (Rule("emotion_layer.{*}", why=unused), Rule("detailed_out_layer.{*}", why=unused))
        ),
    )


def _heads(shapes: Mapping[str, Shape], labels: bool) -> tuple[dict[str, Any], tuple[Label, ...], dict[str, Any]]:
    """Returns the fields of the architecture that describe the outputs, the labels, and further outputs."""
    hidden = shapes["arousal_layer.0.weight"][0]
    measured = (
        Step("linear", "dense", hidden * len(DIMENSIONS)),
        Step("relu"),
        Step("linear", "out", len(DIMENSIONS)),
        Step("sigmoid"),
    )
    if not labels:
        return {"head": measured, "num_labels": len(DIMENSIONS)}, _named(DIMENSIONS), {}
    wide, rows = shapes["emotion_layer.0.weight"][0], shapes["emotion_layer.2.weight"][0]
    if rows != len(LABELS):
        raise CheckpointError(f"{rows} labels; the published models have {len(LABELS)}: {', '.join(LABELS)}")
    head = (Step("linear", "dense", wide), Step("relu"), Step("linear", "out", rows))
    fields = {"head": head, "num_labels": rows, "others": (Branch("dimensions", measured),)}
    return fields, _named(LABELS), {"dimensions": DIMENSIONS}


def _named(names: Sequence[str]) -> tuple[Label, ...]:
    return tuple(Label(name, name, unused=False) for name in names)


def _readout(shapes: Mapping[str, Shape], layers: tuple[int, ...], width: int) -> dict[str, Any]:
    sizes = [shapes[f"model_seq.{i}.weight"][0] for i in FRAME_STEPS]
    steps: list[Step] = []
    for name, size in zip(FRAME_STEPS.values(), sizes, strict=True):
        steps += [Step("linear", name, size), Step("relu")]
    read = Readout(layers, "mean", final=True, steps=tuple(steps[:-1]), width=width)
    return {"embed_dim": sizes[-1], "readout": read}


def _whisper(shapes: Mapping[str, Shape], labels: bool) -> Dialect:
    layer = f"{ENCODER}encoder.layers.{{i}}"
    adapted = [f"{layer}.{part}.weight" for part in ("fc1", "fc2")]
    encoder = [
        rule
        for rule in under(whisper.RULES, "[model.]", ENCODER)
        if rule.source not in {f"{ENCODER}encoder.embed_positions.weight", *adapted}
    ]
    sinusoids = partial(whisper.are_sinusoids, frames=FRAMES)
    for name in (f"{ENCODER}encoder.embed_positions.weight", "embed_positions"):
        encoder.append(Rule(name, change=sinusoids, why="computed by the runtimes"))
    depth = sum(f"{ENCODER}encoder.layers.{i}.fc1.weight" in shapes for i in range(len(shapes)))
    for i in range(depth):
        for part in ("fc1", "fc2"):
            source, target = f"{ENCODER}encoder.layers.{i}.{part}", (f"blocks.{i}.mlp.{part}.weight",)
            lora = (f"{source}.lora_A", f"{source}.lora_B")
            if any(name in shapes for name in lora):
                encoder.append(Rule(f"{source}.weight", target, _merged, beside=lora))
            else:
                encoder.append(Rule(f"{source}.weight", target))

    def describe() -> Described:
        width, bands, _ = shapes[f"{ENCODER}encoder.conv1.weight"]
        fields, names, others = _heads(shapes, labels)
        architecture = WhisperConfig(
            normalize=False,
            head_dim=0,
            num_heads=width // 64,  # as in every Whisper
            depth=depth,
            ffn_dim=shapes[f"{ENCODER}encoder.layers.0.fc1.weight"][0],
            norm_eps=1e-5,
            bands=bands,
            pad=False,
            fixed_frames=FRAMES,
            **fields,
            **_readout(shapes, (depth,), width),
        )
        return Described(architecture, names, others)

    return Dialect("whisper", _rules(tuple(encoder), labels=labels, layers=False), describe)


def _wavlm(shapes: Mapping[str, Shape], labels: bool) -> Dialect:
    def describe() -> Described:
        if any(name.endswith(".lora_A") for name in shapes):
            raise CheckpointError(
                "LoRA on WavLM, whose weights do not show whether it is merged already: merge it (W + B A / r), remove "
                "lora_A and lora_B, and convert again"
            )
        fields, names, others = _heads(shapes, labels)
        sizes = wavlm.sizes(shapes, ENCODER, wavlm.LARGE)
        count = shapes["weights"][0]
        layers = tuple(range(sizes.depth + 1 - count, sizes.depth + 1))
        architecture = replace(sizes, **fields, **_readout(shapes, layers, sizes.width))
        return Described(architecture, names, others)

    encoder = under(wavlm.RULES, "[wavlm.]", ENCODER)
    return Dialect("wavlm", _rules(encoder, labels=labels, layers=True), describe)


def dialect(shapes: Mapping[str, Shape], settings: Mapping[str, Any] | None) -> Dialect | None:
    """Returns how a checkpoint of Vox-Profile is converted; None for any other.

    Args:
        shapes: Name and shape of each of its tensors.
        settings: Its config.json.

    Raises:
        CheckpointError: It lacks its config.json, which alone says what it was trained for.
    """
    if "model_seq.0.weight" not in shapes or not any(name.startswith(ENCODER) for name in shapes):
        return None
    kinds = {"whisper_large": (_whisper, "encoder.conv1.weight"), "wavlm_large": (_wavlm, "encoder.layer_norm.weight")}
    found = (settings or {}).get("pretrain_model")
    if found not in kinds:
        raise CheckpointError(
            f"Vox-Profile with pretrain_model {found!r} in its config.json; supported: {', '.join(kinds)}"
        )
    make, shows = kinds[found]
    if f"{ENCODER}{shows}" not in shapes:
        raise CheckpointError(
            f"{found} of Vox-Profile without the weights of its encoder, {ENCODER}{shows} and others: use the complete "
            "file, which has them"
        )
    # The class of the models of dimensions takes `predict_gender`, and has an emotion_layer that it never trains.
    return make(shapes, "predict_gender" not in (settings or {}) and "emotion_layer.0.weight" in shapes)

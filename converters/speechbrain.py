"""SpeechBrain's folders: hyperparams.yaml read as data, and its two files of weights as one table.

hyperparams.yaml is a program: its tags `!new:`, `!name:` and `!apply:` name Python objects that speechbrain makes or
calls when it opens the file. Here a tag becomes a value that does nothing, and only the objects in `modules` are looked
at: each must be of a known class, with known arguments.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from e2v_port.architectures.wav2vec2 import Wav2vec2Config
from e2v_port.architectures.wavlm import WavlmConfig
from e2v_port.errors import CheckpointError, quoted

from . import wav2vec2, wavlm

__all__ = ["ENCODERS", "joined", "read_encoder", "read_labels", "read_settings"]

EPSILON = 1e-5  # of torch's layer_norm, with which speechbrain normalizes the waveform
LONGEST_PATH = 20  # references from one to the next

# Sizes of the encoders that a folder may name: it has their weights, but neither their config.json nor the settings of
# their preprocessor. Both are those of the repository of this name.
ENCODERS: dict[str, Wav2vec2Config] = {"facebook/wav2vec2-base": wav2vec2.BASE, "microsoft/wavlm-large": wavlm.LARGE}

# Classes by the last part of their names, whose modules have moved, and the values that each argument may have: `...`
# stands for any. An argument in NEEDED must be given, since its default is another one or has changed.
_SSL = {
    "source": ...,
    "output_norm": (True, False),
    "output_all_hiddens": (False,),
    "freeze": ...,
    "freeze_feature_extractor": ...,
    "apply_spec_augment": ...,  # in training only
    "save_path": ...,
}
CLASSES: dict[str, dict[str, Any]] = {
    "HuggingFaceWav2Vec2": _SSL,
    "Wav2Vec2": _SSL,
    "WavLM": _SSL,
    "InputNormalization": {"norm_type": ("sentence",), "std_norm": (True, False), "mean_norm": (True,)},
    "StatisticsPooling": {"return_mean": (True,), "return_std": (False,)},
    "Pooling1d": {"pool_type": ("avg",), "kernel_size": (1,), "stride": (1,), "ceil_mode": ...},
    "Linear": {"input_size": ..., "n_neurons": ..., "bias": (True, False)},
}
# Of its speaker encoders, by the name of the object.
VOICES: dict[str, dict[str, dict[str, Any]]] = {
    "compute_features": {
        "Fbank": {
            "n_mels": ...,
            "deltas": (False,),
            "context": (False,),
            "left_frames": ...,  # used with a context only
            "right_frames": ...,
            "sample_rate": (16_000,),
            "f_min": (0,),
            "f_max": (8_000, None),
            "n_fft": (400,),
            "win_length": (25,),
            "hop_length": (10,),
        }
    },
    "mean_var_norm": {"InputNormalization": {"norm_type": ("sentence",), "std_norm": (False,)}},
    "embedding_model": {
        "ECAPA_TDNN": {
            "input_size": ...,
            "device": ...,
            "lin_neurons": ...,
            "channels": ...,
            "kernel_sizes": ...,
            "dilations": ...,
            "attention_channels": ...,
            "res2net_scale": ...,
            "se_channels": ...,
            "global_context": (True,),
        }
    },
}
NEEDED = {
    *("source", "output_norm", "norm_type", "return_std", "pool_type", "kernel_size", "stride"),
    *("n_mels", "input_size", "kernel_sizes", "dilations"),
}


@dataclass(frozen=True)
class Tagged:
    """A value with a tag of HyperPyYAML, such as `!new:torch.nn.ModuleList` or `!ref <encoder_dim>`."""

    tag: str
    value: Any


class Loader(yaml.SafeLoader):
    """Reads every tag as `Tagged`, and otherwise what SafeLoader reads."""


def _tagged(loader: Loader, tag: str, node: yaml.Node) -> Tagged:
    if isinstance(node, yaml.MappingNode):
        return Tagged(tag, loader.construct_mapping(node, deep=True))
    if isinstance(node, yaml.SequenceNode):
        return Tagged(tag, loader.construct_sequence(node, deep=True))
    assert isinstance(node, yaml.ScalarNode)
    return Tagged(tag, loader.construct_scalar(node))


Loader.add_multi_constructor("!", _tagged)


def read_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads a hyperparams.yaml.

    Args:
        path: The file.

    Returns:
        The settings of its encoder under transformers' names, with `output_norm` and `waveform_eps`; and those of its
        preprocessor.

    Raises:
        CheckpointError: It is no readable YAML, or describes a model that is not understood.
    """
    try:
        table = yaml.load(path.read_text("utf-8-sig"), Loader)
        objects = _objects(table)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    encoder = next(given for name, given in objects if CLASSES[name] is _SSL)
    if (source := encoder["source"]) not in ENCODERS:
        raise CheckpointError(
            f"{path}: the encoder is {quoted(source)}, whose sizes are not known here; known: {', '.join(ENCODERS)}"
        )
    sizes = ENCODERS[source]
    if not sizes.normalize and any(name == "InputNormalization" for name, _ in objects):
        raise CheckpointError(f"{path}: InputNormalization of {source}, which does not normalize, is not supported")
    config = wav2vec2.settings(sizes, "wav2vec2")
    if isinstance(sizes, WavlmConfig):
        config |= {"model_type": "wavlm", "num_buckets": sizes.num_buckets, "max_bucket_distance": sizes.max_distance}
    return config | {"output_norm": encoder["output_norm"], "waveform_eps": EPSILON}, {"do_normalize": sizes.normalize}


def _objects(table: Any) -> list[tuple[str, dict[str, Any]]]:
    """Returns the class and the arguments of each object of the model; ValueError for what is not understood."""
    if not isinstance(table, dict) or not isinstance(modules := table.get("modules"), dict):
        raise ValueError("it has no table of modules")
    pooling = {"avg_pool": table["avg_pool"]} if "avg_pool" in table else {}
    objects = [_object(table, name, value, CLASSES) for name, value in {**modules, **pooling}.items()]
    kinds = (
        ("an encoder", [name for name, known in CLASSES.items() if known is _SSL]),
        ("a pooling", ["StatisticsPooling", "Pooling1d"]),
        ("a head", ["Linear"]),
    )
    for what, names in kinds:
        if (count := sum(name in names for name, _ in objects)) != 1:
            raise ValueError(f"it has {count} modules for {what} ({', '.join(names)}) instead of one")
    return objects


def read_encoder(path: Path) -> dict[str, Any]:
    """Reads the hyperparams.yaml of a speaker encoder.

    Args:
        path: The file.

    Returns:
        The arguments of its ECAPA_TDNN.

    Raises:
        CheckpointError: It is no readable YAML, or describes a model that is not understood.
    """
    try:
        table = yaml.load(path.read_text("utf-8-sig"), Loader)
        if not isinstance(table, dict) or (missing := [name for name in VOICES if name not in table]):
            raise ValueError(f"it has no {', '.join(missing) if isinstance(table, dict) else 'table'}")
        features, norm, model = (_object(table, name, table[name], classes)[1] for name, classes in VOICES.items())
        if "std_norm" not in norm:
            raise ValueError("InputNormalization lacks std_norm, whose default is another one: add it")
        if features["n_mels"] != model["input_size"]:
            raise ValueError(f"{features['n_mels']} mel bands for an input of {model['input_size']}")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: {' '.join(str(error).split())}") from error
    return model


def _object(
    table: Mapping[str, Any], module: str, value: Any, classes: Mapping[str, dict[str, Any]]
) -> tuple[str, dict[str, Any]]:
    made = _resolved(table, value)
    known = made.tag.rpartition(".")[2] if isinstance(made, Tagged) else ""
    if not (isinstance(made, Tagged) and made.tag.startswith("new:speechbrain.") and known in classes):
        what = made.tag if isinstance(made, Tagged) else made
        raise ValueError(f"the module {module} is {quoted(what)}; supported: {', '.join(classes)} of speechbrain")
    if not isinstance(made.value, dict):
        raise ValueError(f"the arguments of {module} are {quoted(made.value)}, without their names")
    given = {name: _resolved(table, argument) for name, argument in made.value.items()}
    allowed = classes[known]
    if unknown := given.keys() - allowed.keys():
        raise ValueError(f"{known} has arguments that are not understood: {', '.join(sorted(map(str, unknown)))}")
    if lacking := NEEDED & allowed.keys() - given.keys():
        raise ValueError(f"{known} lacks {', '.join(sorted(lacking))}, whose default has changed: add it")
    for name, argument in given.items():
        values = allowed[name]
        if values is not ... and not any(type(argument) is type(each) and argument == each for each in values):
            listed = " or ".join(map(repr, values))
            raise ValueError(f"{name} of {known} is {quoted(argument)}; only {listed} is supported")
    return known, given


def _resolved(table: Mapping[str, Any], value: Any) -> Any:
    """Follows a reference to another entry; ValueError for one that is part of a longer text or leads nowhere."""
    for _ in range(LONGEST_PATH):
        if not (isinstance(value, Tagged) and value.tag == "ref"):
            return value
        found = re.fullmatch(r"<(\w+)>", str(value.value))
        if found is None or found[1] not in table:
            if re.search(r">.|.<", str(value.value)):
                return str(value.value)  # a path, such as <save_folder>/wav2vec2
            raise ValueError(f"!ref {value.value} leads nowhere")
        value = table[found[1]]
    raise ValueError("references lead in a circle")


def read_labels(path: Path) -> list[str]:
    """Reads a label_encoder.txt: lines such as `'neu' => 0`, up to a line of `=`.

    Args:
        path: The file.

    Returns:
        The labels in the order of their numbers.

    Raises:
        CheckpointError: It is not readable, has another line, or numbers are missing.
    """
    labels: dict[int, str] = {}
    try:
        for number, line in enumerate(path.read_text("utf-8-sig").splitlines(), 1):
            if line.startswith("=="):
                break
            found = re.fullmatch(r"""(['"])([^'"\\]+)\1 => ([0-9]{1,4})""", line.strip())
            if found is None or int(found[3]) in labels:
                raise ValueError(f"line {number} is {quoted(line)}")
            labels[int(found[3])] = found[2]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable label encoder ({error})") from error
    if sorted(labels) != [*range(len(labels))] or not labels:
        raise CheckpointError(f"{path} has the numbers {', '.join(map(str, sorted(labels)))}, not 0 and those after it")
    return [labels[i] for i in sorted(labels)]


def joined(encoder: Iterable[tuple[str, Any]], head: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns the tensors of wav2vec2.ckpt and model.ckpt as one table.

    The attribute `model` of speechbrain's encoder is left out of the names, and the head is called `output_mlp`, as in
    hyperparams.yaml, where it is the first in a list.
    """
    return [
        *((name.removeprefix("model."), tensor) for name, tensor in encoder),
        *((re.sub(r"^0\.", "output_mlp.", name), tensor) for name, tensor in head),
    ]

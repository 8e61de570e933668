"""Whisper of transformers, openai-whisper and CTranslate2: the renames of the encoder, its sizes, synthetic ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.whisper import COLUMN, MAX_FRAMES, WINDOW, WhisperConfig, positions
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule, channels_last, thirds

__all__ = ["BASE", "CONVERTER", "RULES", "are_sinusoids", "make"]

ENCODER = "[model.]encoder"  # the encoder alone, as in a classifier, or the whole model
LAYER = f"{ENCODER}.layers.{{i}}"  # of transformers
OPENAI = "encoder.blocks.{i}"
CTRANSLATE2 = "encoder/layer_{i}"
POSITIONS = 4e-3  # largest difference of stored positions from the formula: a step of bfloat16 below 1


def are_sinusoids(stored: NDArray[Any], frames: int = MAX_FRAMES) -> Sequence[NDArray[Any]]:
    """Checks that the positions of this many frames may be dropped, since the runtimes compute them."""
    if stored.ndim != 2 or len(stored) != frames or stored.shape[1] < 4:
        raise CheckpointError(
            f"positions of shape {list(stored.shape)}; only {frames}, those of {frames // 50} s, are supported"
        )
    difference = np.abs(stored - positions(*stored.shape)).max()
    if not difference <= POSITIONS:
        raise CheckpointError(
            f"the positions differ by {difference:.2g} from the sines and cosines of Whisper; no others are supported"
        )
    return []


def _query_and_value(biases: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Splits the biases of query, key and value, and checks that the key has none."""
    query, key, value = thirds(biases)
    if key.any():
        raise CheckpointError("the keys have a bias, which no Whisper has")
    return [query, value]


RULES: tuple[Rule, ...] = (
    *(
        rule
        for i in range(2)
        for source in (f"{ENCODER}.conv{i + 1}.", f"encoder/conv{i + 1}/")
        for rule in (
            Rule(f"{source}weight", (f"conv_layers.{i}.weight",), channels_last),
            Rule(f"{source}bias", (f"conv_layers.{i}.bias",)),
        )
    ),
    *(
        Rule(f"{source}.{part}", (f"{target}.{part}",))
        for source, target in (
            (f"{LAYER}.self_attn.q_proj", "blocks.{i}.attn.q_proj"),
            (f"{LAYER}.self_attn.k_proj", "blocks.{i}.attn.k_proj"),
            (f"{LAYER}.self_attn.v_proj", "blocks.{i}.attn.v_proj"),
            (f"{LAYER}.self_attn.out_proj", "blocks.{i}.attn.out_proj"),
            (f"{LAYER}.self_attn_layer_norm", "blocks.{i}.norm1"),
            (f"{LAYER}.fc1", "blocks.{i}.mlp.fc1"),
            (f"{LAYER}.fc2", "blocks.{i}.mlp.fc2"),
            (f"{LAYER}.final_layer_norm", "blocks.{i}.norm2"),
            (f"{ENCODER}.layer_norm", "norm"),
            (f"{OPENAI}.attn.query", "blocks.{i}.attn.q_proj"),
            (f"{OPENAI}.attn.key", "blocks.{i}.attn.k_proj"),
            (f"{OPENAI}.attn.value", "blocks.{i}.attn.v_proj"),
            (f"{OPENAI}.attn.out", "blocks.{i}.attn.out_proj"),
            (f"{OPENAI}.attn_ln", "blocks.{i}.norm1"),
            (f"{OPENAI}.mlp.0", "blocks.{i}.mlp.fc1"),
            (f"{OPENAI}.mlp.2", "blocks.{i}.mlp.fc2"),
            (f"{OPENAI}.mlp_ln", "blocks.{i}.norm2"),
            ("encoder.ln_post", "norm"),
        )
        for part in ("weight", "bias")
    ),
    Rule(
        f"{CTRANSLATE2}/self_attention/linear_0/weight",
        tuple(f"blocks.{{i}}.attn.{part}_proj.weight" for part in "qkv"),
        thirds,
    ),
    Rule(
        f"{CTRANSLATE2}/self_attention/linear_0/bias",
        ("blocks.{i}.attn.q_proj.bias", "blocks.{i}.attn.v_proj.bias"),
        _query_and_value,
    ),
    *(
        Rule(f"{source}/{part}", (f"{target}.{ours}",))
        for source, target, parts in (
            (f"{CTRANSLATE2}/self_attention/linear_1", "blocks.{i}.attn.out_proj", ("weight", "bias")),
            (f"{CTRANSLATE2}/self_attention/layer_norm", "blocks.{i}.norm1", ("gamma", "beta")),
            (f"{CTRANSLATE2}/ffn/linear_0", "blocks.{i}.mlp.fc1", ("weight", "bias")),
            (f"{CTRANSLATE2}/ffn/linear_1", "blocks.{i}.mlp.fc2", ("weight", "bias")),
            (f"{CTRANSLATE2}/ffn/layer_norm", "blocks.{i}.norm2", ("gamma", "beta")),
            ("encoder/layer_norm", "norm", ("gamma", "beta")),
        )
        for part, ours in zip(parts, ("weight", "bias"), strict=True)
    ),
    *(
        Rule(source, change=are_sinusoids, why="computed by the runtimes")
        for source in (
            f"{ENCODER}.embed_positions.weight",
            "encoder.positional_embedding",
            "encoder/position_encodings/encodings",
        )
    ),
    Rule("[model.]decoder.{*}", why="writes text, not emotions"),
    Rule("decoder/{*}", why="writes text, not emotions"),
    Rule("proj_out.weight", why="writes text, not emotions"),
)

# Settings that change the forward pass: the runtimes compute only the value given here, which is also transformers'
# default where a file omits one.
REQUIRED = {
    "model_type": "whisper",
    "activation_function": "gelu",
    "scale_embedding": False,
    "max_source_positions": MAX_FRAMES,
}
PREPROCESSOR = {
    "n_fft": WINDOW,
    "hop_length": COLUMN,
    "chunk_length": 30,
    "padding_value": 0.0,
    "dither": 0.0,
}


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a Whisper."""
    return any(
        name.removeprefix("model.") == "encoder.conv1.weight" or name == "encoder/conv1/weight" for name in names
    )


# Where the sizes are stored, by a key that is only there; with transformers, in config.json.
ORIGINS = {"n_audio_state": "dims", "kind": "model.bin"}


def _settings(config: Mapping[str, Any], targets: Mapping[str, Shape]) -> Mapping[str, Any]:
    """Returns the settings of any of the three libraries by the names of transformers.

    CTranslate2 stores the number of heads alone; the other sizes are those of the tensors.
    """
    if "n_audio_state" in config:
        return {
            "d_model": config["n_audio_state"],
            "encoder_layers": config["n_audio_layer"],
            "encoder_attention_heads": config["n_audio_head"],
            "encoder_ffn_dim": 4 * config["n_audio_state"],
            "num_mel_bins": config["n_mels"],
            "max_source_positions": config["n_audio_ctx"],
        }
    if "kind" in config:
        known = {"kind": "WhisperSpec", "revision": 3, "encoder/num_heads": config["encoder/num_heads"]}
        for name, value in config.items():
            if (name in known or name.startswith("encoder/")) and value != known.get(name):
                raise CheckpointError(f"model.bin: {name} is {value!r}; only {known.get(name)!r} is supported")
        width, _, bands = targets["conv_layers.0.weight"]
        return {
            "d_model": width,
            "encoder_layers": sum(name.startswith("blocks.") and name.endswith(".norm1.weight") for name in targets),
            "encoder_attention_heads": config["encoder/num_heads"],
            "encoder_ffn_dim": targets["blocks.0.mlp.fc1.weight"][0],
            "num_mel_bins": bands,
        }
    return config


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[WhisperConfig, tuple[Label, ...]]:
    """Returns the sizes of an encoder, without a head: see `heads.find`.

    Args:
        config: Parsed config.json, or the sizes that openai-whisper and CTranslate2 store with the weights.
        preprocessor: Parsed preprocessor_config.json.
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for each setting that was inferred rather than read.

    Raises:
        CheckpointError: There is no config.json; or a setting is missing, of the wrong type or one that the runtimes
            cannot compute.
    """
    if config is None:
        raise CheckpointError("Whisper without a config.json: put that file next to the weights")
    if preprocessor is None:
        note("no preprocessor_config.json: the spectrogram is taken from the published models")
    elif preprocessor.get("do_normalize"):
        note(
            "preprocessor_config.json: do_normalize is true, but transformers normalizes for Whisper only where a call "
            "asks for it: the waveform is taken as it is"
        )
    origin = next((file for key, file in ORIGINS.items() if key in config), "config.json")
    try:
        config = _settings(config, targets)
        required = {"preprocessor_config.json": PREPROCESSOR | {"feature_size": config["num_mel_bins"]}}
        for file, wanted in ({origin: REQUIRED} | required).items():
            found = config if file == origin else preprocessor or {}
            for key, value in wanted.items():
                if (other := found.get(key, value)) != value:
                    raise CheckpointError(f"{file}: {key} is {other!r}; only {value!r} is supported")
        sizes = WhisperConfig(
            normalize=False,
            embed_dim=int(config["d_model"]),
            head_dim=0,
            num_labels=0,
            num_heads=int(config["encoder_attention_heads"]),
            depth=int(config["encoder_layers"]),
            ffn_dim=int(config["encoder_ffn_dim"]),
            norm_eps=1e-5,  # torch's default, which transformers does not change
            bands=int(config["num_mel_bins"]),
            pad=False,
        )
    except ValueError as error:
        raise CheckpointError(f"{origin}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{origin} does not have the sizes of a Whisper model ({error!r})") from error
    return sizes, ()


def _size(width: int, depth: int, bands: int = 80) -> WhisperConfig:
    return WhisperConfig(
        normalize=False,
        embed_dim=width,
        head_dim=0,
        num_labels=0,
        num_heads=width // 64,
        depth=depth,
        ffn_dim=4 * width,
        norm_eps=1e-5,
        bands=bands,
        pad=False,
    )


BASE = _size(512, 6)
SIZES = {
    "whisper-tiny": _size(384, 4),
    "whisper-base": BASE,
    "whisper-small": _size(768, 12),
    "whisper-medium": _size(1024, 24),
    "whisper-large-v3": _size(1280, 32, bands=128),
}


def _source_shapes(config: WhisperConfig) -> Iterator[tuple[str, Shape]]:
    width, encoder = config.width, "model.encoder"
    yield from pair(f"{encoder}.conv1", (width, config.bands, 3))
    yield from pair(f"{encoder}.conv2", (width, width, 3))
    yield f"{encoder}.embed_positions.weight", (MAX_FRAMES, width)
    for i in range(config.depth):
        layer = f"{encoder}.layers.{i}"
        yield f"{layer}.self_attn.k_proj.weight", (width, width)
        for part in ("v_proj", "q_proj", "out_proj"):
            yield from pair(f"{layer}.self_attn.{part}", (width, width))
        yield from pair(f"{layer}.self_attn_layer_norm", (width,))
        yield from pair(f"{layer}.fc1", (config.ffn_dim, width))
        yield from pair(f"{layer}.fc2", (width, config.ffn_dim))
        yield from pair(f"{layer}.final_layer_norm", (width,))
    yield from pair(f"{encoder}.layer_norm", (width,))


def make(config: WhisperConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as transformers does, with the encoder alone.

    Args:
        config: Sizes, of a model without a head.
        folder: Folder to write pytorch_model.bin, config.json and preprocessor_config.json to.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch

    draw = np.random.default_rng(seed)
    tensors = {
        name: torch.from_numpy(
            positions(*shape)
            if name.endswith("embed_positions.weight")
            else trained_like(name, draw.standard_normal(shape, dtype=np.float32))
        )
        for name, shape in _source_shapes(config)
    }
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "model_type": "whisper",
        "architectures": ["WhisperModel"],
        "d_model": config.width,
        "encoder_layers": config.depth,
        "encoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.ffn_dim,
        "num_mel_bins": config.bands,
        "max_source_positions": MAX_FRAMES,
        "activation_function": "gelu",
        "scale_embedding": False,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    processor = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": config.bands}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

"""FunASR's SenseVoiceSmall: the renames to the stored layout, sizes and tags, and synthetic checkpoints."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.heads import Branch, linear_head
from e2v_port.architectures.sensevoice import QUERIES, SensevoiceConfig
from e2v_port.architectures.shapes import Shape
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule, channels_last, thirds

__all__ = ["CONVERTER", "EMOTIONS", "EVENTS", "LANGUAGES", "SMALL", "VOCABULARY", "make", "source_shapes", "tokens"]

# The tags in the vocabulary of iic/SenseVoiceSmall: number and token by name. The names are those of this project's
# labels, or the token's own.
EMOTIONS: dict[str, tuple[int, str]] = {
    "happy": (25001, "<|HAPPY|>"),
    "sad": (25002, "<|SAD|>"),
    "angry": (25003, "<|ANGRY|>"),
    "neutral": (25004, "<|NEUTRAL|>"),
    "fearful": (25005, "<|FEARFUL|>"),
    "disgusted": (25006, "<|DISGUSTED|>"),
    "surprised": (25007, "<|SURPRISED|>"),
    "other": (25008, "<|OTHER|>"),
    "unknown": (25009, "<|EMO_UNKNOWN|>"),
}
EVENTS: dict[str, tuple[int, str]] = {
    "speech": (24993, "<|Speech|>"),
    "music": (24995, "<|BGM|>"),
    "laughter": (24997, "<|Laughter|>"),
    "applause": (24999, "<|Applause|>"),
    "cry": (25010, "<|Cry|>"),
    "sneeze": (25011, "<|Sneeze|>"),
    "breath": (25012, "<|Breath|>"),
    "cough": (25013, "<|Cough|>"),
    "singing": (25014, "<|Sing|>"),
    "speech_noise": (25015, "<|Speech_Noise|>"),
    "gbg": (25018, "<|GBG|>"),
    "unknown": (25019, "<|Event_UNK|>"),
}
LANGUAGES: dict[str, tuple[int, str]] = {  # those it was trained to recognize
    "zh": (24884, "<|zh|>"),
    "en": (24885, "<|en|>"),
    "yue": (24888, "<|yue|>"),
    "ja": (24892, "<|ja|>"),
    "ko": (24896, "<|ko|>"),
    "nospeech": (24992, "<|nospeech|>"),
}
# The outputs: part of the stored layout, query whose state they are made of, tags.
OUTPUTS = (
    ("head", 1, EMOTIONS),
    ("head.others.events", 2, EVENTS),
    ("head.others.language", 0, LANGUAGES),
)
VOCABULARY = 25055  # tokens; what a fine-tune adds follows them


PARTS = ("weight", "bias")


def tags(array: NDArray[Any]) -> Sequence[NDArray[Any]]:
    """Takes the rows of all tags out of the layer that scores the vocabulary; ValueError if it lacks some.

    Each row of a weight is put where the state of its query is in the embedding, and all else is zero.
    """
    if len(array) < VOCABULARY:
        raise ValueError(f"{len(array)} tokens")
    found = []
    for _, query, names in OUTPUTS:
        rows = array[[number for number, _ in names.values()]]
        before, after = query * array[0].size, (QUERIES - 1 - query) * array[0].size
        found.append(np.pad(rows, ((0, 0), (before, after))) if array.ndim > 1 else rows)
    return found


def _block_rules(source: str, target: str) -> list[Rule]:
    attn = f"{target}.attn"
    rules = [Rule(f"{source}.self_attn.fsmn_block.weight", (f"{attn}.memory.weight",), channels_last)]
    for part in PARTS:
        targets = (f"{attn}.q_proj.{part}", f"{attn}.k_proj.{part}", f"{attn}.v_proj.{part}")
        rules += [
            Rule(f"{source}.self_attn.linear_q_k_v.{part}", targets, thirds),
            Rule(f"{source}.self_attn.linear_out.{part}", (f"{attn}.out_proj.{part}",)),
            Rule(f"{source}.feed_forward.w_1.{part}", (f"{target}.mlp.fc1.{part}",)),
            Rule(f"{source}.feed_forward.w_2.{part}", (f"{target}.mlp.fc2.{part}",)),
            Rule(f"{source}.norm1.{part}", (f"{target}.norm1.{part}",)),
            Rule(f"{source}.norm2.{part}", (f"{target}.norm2.{part}",)),
        ]
    return rules


RULES: tuple[Rule, ...] = (
    Rule("cmvn.shift", ("cmvn.shift",)),
    Rule("cmvn.scale", ("cmvn.scale",)),
    Rule("embed.weight", ("queries",)),
    *_block_rules("encoder.encoders0.{i}", "first_blocks.{i}"),
    *_block_rules("encoder.encoders.{i}", "blocks.{i}"),
    *_block_rules("encoder.tp_encoders.{i}", "tp_blocks.{i}"),
    *(Rule(f"encoder.{name}.{part}", (f"{name}.{part}",)) for name in ("after_norm", "tp_norm") for part in PARTS),
    *(Rule(f"ctc.ctc_lo.{part}", tuple(f"{name}.{part}" for name, _, _ in OUTPUTS), tags) for part in PARTS),
)

# Settings in config.yaml that change the forward pass: the only value that the runtimes compute, which is also what
# FunASR takes where the setting is missing.
REQUIRED: tuple[tuple[str, str, Any], ...] = (
    ("encoder_conf", "normalize_before", True),
    ("encoder_conf", "concat_after", False),
    ("encoder_conf", "sanm_shfit", 0),
    ("frontend_conf", "fs", 16_000),
    ("frontend_conf", "window", "hamming"),
    ("frontend_conf", "frame_length", 25),
    ("frontend_conf", "frame_shift", 10),
    ("frontend_conf", "snip_edges", True),
    ("frontend_conf", "upsacle_samples", True),  # FunASR's spelling
)
QUERIED = (0, 1, 2, 15)  # of FunASR's `generate`, where neither language nor text form is chosen


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a SenseVoice."""
    return "encoder.tp_norm.weight" in names


def describe(
    config: Mapping[str, Any] | None,
    vocabulary: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[SensevoiceConfig, tuple[Label, ...]]:
    """Returns the sizes and labels of a checkpoint.

    Args:
        config: Parsed config.yaml; None to take what leaves no trace in the shapes from the published model.
        vocabulary: Tokens in tokens.json; empty without one.
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for what was taken from the published model.

    Raises:
        CheckpointError: A setting is one that the runtimes cannot compute, am.mvn is missing, or the vocabulary is
            another.
    """
    if "cmvn.shift" not in targets:
        raise CheckpointError("no am.mvn, which scales the features; put the am.mvn of its repository next to it")
    if "head.weight" not in targets:
        raise CheckpointError(f"it has not the {VOCABULARY} tokens of SenseVoiceSmall: its tags are unknown")
    _check_vocabulary(vocabulary)
    settings = config or {}
    sections = {name: settings.get(name) or {} for name in ("encoder_conf", "frontend_conf")}
    for section, key, wanted in REQUIRED:
        value = sections[section].get(key, wanted)
        if value != wanted:
            raise CheckpointError(f"config.yaml: {section}.{key} is {value!r}; only {wanted!r} is supported")
    if config is None:
        note("no config.yaml: heads and spectrogram taken from the published SenseVoiceSmall")
    try:
        return _sizes(targets, sections["encoder_conf"], sections["frontend_conf"]), LABELS
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"the tensors are not those of a SenseVoice ({error!r})") from error


def _check_vocabulary(vocabulary: Sequence[str]) -> None:
    for number, token in (tag for _, _, names in OUTPUTS for tag in names.values()):
        found = vocabulary[number] if number < len(vocabulary) else None
        if vocabulary and found != token:
            raise CheckpointError(f"token {number} of tokens.json is {found!r}, not {token!r} as in SenseVoiceSmall")


def _sizes(targets: Mapping[str, Shape], encoder: Mapping[str, Any], frontend: Mapping[str, Any]) -> SensevoiceConfig:
    def count(stack: str) -> int:
        return sum(re.fullmatch(rf"{stack}\.\d+\.norm1\.weight", name) is not None for name in targets)

    width = targets["tp_norm.weight"][0]
    return SensevoiceConfig(
        normalize=False,
        embed_dim=QUERIES * width,
        head_dim=0,
        num_labels=len(EMOTIONS),
        others=BRANCHES,
        num_heads=encoder.get("attention_heads", 4),
        depth=count("blocks"),
        tp_depth=count("tp_blocks"),
        ffn_dim=targets["first_blocks.0.mlp.fc1.weight"][0],
        norm_eps=1e-5,
        bands=frontend.get("n_mels", 80),
        stacked=frontend.get("lfr_m", 7),
        step=frontend.get("lfr_n", 6),
        num_queries=targets["queries"][0],
        queries=QUERIED,
        kernel=targets["first_blocks.0.attn.memory.weight"][1],
    )


LABELS = tuple(Label(name, token, unused=False) for name, (_, token) in EMOTIONS.items())
BRANCHES = (Branch("events", linear_head(len(EVENTS))), Branch("language", linear_head(len(LANGUAGES))))

SMALL = SensevoiceConfig(
    normalize=False,
    embed_dim=QUERIES * 512,
    head_dim=0,
    num_labels=len(EMOTIONS),
    others=BRANCHES,
    num_heads=4,
    depth=49,
    tp_depth=20,
    ffn_dim=2048,
    norm_eps=1e-5,
    bands=80,
    stacked=7,
    step=6,
    num_queries=16,
    queries=QUERIED,
    kernel=11,
)
SIZES = {"sensevoice": SMALL}


def source_shapes(config: SensevoiceConfig) -> Iterator[tuple[str, Shape]]:
    """Yields FunASR's name and shape for every tensor of a model: convolutions [out, in, kernel], q, k, v stacked."""
    width = config.width
    stacks = {"encoders0": 1, "encoders": config.depth, "tp_encoders": config.tp_depth}
    for stack, depth in stacks.items():
        inputs = config.inputs if stack == "encoders0" else width
        for i in range(depth):
            block = f"encoder.{stack}.{i}"
            yield from pair(f"{block}.self_attn.linear_out", (width, width))
            yield from pair(f"{block}.self_attn.linear_q_k_v", (3 * width, inputs))
            yield f"{block}.self_attn.fsmn_block.weight", (width, 1, config.kernel)
            yield from pair(f"{block}.feed_forward.w_1", (config.ffn_dim, width))
            yield from pair(f"{block}.feed_forward.w_2", (width, config.ffn_dim))
            yield from pair(f"{block}.norm1", (inputs,))
            yield from pair(f"{block}.norm2", (width,))
    yield from pair("encoder.after_norm", (width,))
    yield from pair("encoder.tp_norm", (width,))
    yield from pair("ctc.ctc_lo", (VOCABULARY, width))
    yield "embed.weight", (config.num_queries, config.inputs)


def tokens() -> list[str]:
    """Returns a vocabulary with the published tags in their places; the other tokens are made up."""
    found = [f"token {number}" for number in range(VOCABULARY)]
    for number, token in (tag for _, _, names in OUTPUTS for tag in names.values()):
        found[number] = token
    return found


def make(config: SensevoiceConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as the hubs have them.

    Args:
        config: Sizes.
        folder: Folder to write model.pt, config.yaml, am.mvn, tokens.json and configuration.json to.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch
    import yaml

    draw = np.random.default_rng(seed)
    state = {
        name: torch.from_numpy(_value(name, draw.standard_normal(shape, dtype=np.float32)))
        for name, shape in source_shapes(config)
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": state}, folder / "model.pt")
    (folder / "config.yaml").write_text(yaml.safe_dump(_settings(config), sort_keys=False))
    (folder / "tokens.json").write_text(json.dumps(tokens()), "utf-8")
    (folder / "am.mvn").write_text(_cmvn(config, draw))
    paths = {
        "init_param": "model.pt",
        "config": "config.yaml",
        "tokenizer_conf": {"bpemodel": "chn_jpn_yue_eng_ko_spectok.bpe.model"},
        "frontend_conf": {"cmvn_file": "am.mvn"},
    }
    about = {"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}}
    (folder / "configuration.json").write_text(json.dumps({**about, "file_path_metas": paths}, indent=2))
    return folder


def _value(name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if name == "embed.weight":  # as large as the features that it is put before
        return values
    return trained_like(name, values, 3.0 if name == "ctc.ctc_lo.weight" else 1.0)  # logits spread over several units


def _cmvn(config: SensevoiceConfig, draw: np.random.Generator) -> str:
    """Returns an am.mvn: the text form of two layers of Kaldi's, by which the features of speech get the variance 1."""
    size = config.inputs
    shift, scale = -12 + draw.standard_normal(size), 0.2 + 0.02 * draw.standard_normal(size)
    lines = ["<Nnet>", f"<Splice> {size} {size}", "[ 0 ]"]
    for layer, values in (("AddShift", shift), ("Rescale", scale)):
        numbers = " ".join(f"{value:.6g}" for value in values)
        lines += [f"<{layer}> {size} {size}", f"<LearnRateCoef> 0 [ {numbers} ]"]
    return "\n".join([*lines, "</Nnet>", ""])


def _settings(config: SensevoiceConfig) -> dict[str, Any]:
    """Returns the settings in config.yaml that FunASR builds the model from."""
    encoder = {
        "output_size": config.width,
        "attention_heads": config.num_heads,
        "linear_units": config.ffn_dim,
        "num_blocks": 1 + config.depth,
        "tp_blocks": config.tp_depth,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "attention_dropout_rate": 0.1,
        "input_layer": "pe",
        "pos_enc_class": "SinusoidalPositionEncoder",
        "normalize_before": True,
        "kernel_size": config.kernel,
        "sanm_shfit": 0,
        "selfattention_layer_type": "sanm",
    }
    frontend = {
        "fs": 16_000,
        "window": "hamming",
        "n_mels": config.bands,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": config.stacked,
        "lfr_n": config.step,
        "cmvn_file": None,
    }
    return {
        "encoder": "SenseVoiceEncoderSmall",
        "encoder_conf": encoder,
        "model": "SenseVoiceSmall",
        "model_conf": {"length_normalized_loss": True, "sos": 1, "eos": 2, "ignore_id": -1},
        "tokenizer": "SentencepiecesTokenizer",
        "tokenizer_conf": {"bpemodel": None, "unk_symbol": "<unk>", "split_with_space": True},
        "frontend": "WavFrontend",
        "frontend_conf": frontend,
    }


CONVERTER = Converter(
    RULES,
    recognize,
    describe,
    SIZES,
    make,
    {"events": tuple(EVENTS), "language": tuple(LANGUAGES)},
    ("ctc.ctc_lo.weight", "ctc.ctc_lo.bias"),
)

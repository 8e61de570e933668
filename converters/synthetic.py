"""Makes a checkpoint of a published architecture in the format of its library, with random weights.

    python -m e2v_port.converters.synthetic --size base FOLDER

For demonstrations, benchmarks and tests where no published weights can be had: the arithmetic is that of the real
model, the labels it gives mean nothing.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from e2v_port.audio import SAMPLING_RATE, mel_filters
from e2v_port.config import DIMENSIONS, Emotion2vecConfig, Wav2smallConfig, Wav2vec2Config
from e2v_port.layout import Shape

from .wav2small import dft

__all__ = [
    "AUDEERING",
    "BASE",
    "LARGE",
    "TOKENS",
    "WAV2SMALL",
    "make",
    "make_wav2small",
    "make_wav2vec2",
    "source_shapes",
]

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
AUDEERING = Wav2vec2Config(
    conv_layers=BASE.conv_layers,
    embed_dim=1024,
    num_heads=16,
    depth=12,
    ffn_dim=4096,
    conv_pos_kernel=128,
    conv_pos_groups=16,
    normalize=True,
    head_dim=1024,
    norm_eps=1e-5,
    num_labels=len(DIMENSIONS),
    conv_bias=True,
    conv_norm="layer",
    pre_norm=True,
)
WAV2SMALL = Wav2smallConfig(
    normalize=True,
    embed_dim=338,
    head_dim=0,
    num_labels=len(DIMENSIONS),
    window=64,
    step=32,
    bands=26,
    floor=1e-10,
    band_norm=False,
    stages=((13,) * 3, (13,) * 4),
    residual=False,
    pooling="gram",
    width=13,
)


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
        yield from _pair(f"{layer}.2.1", (out,))
        channels = out
    yield from _pair(f"{audio}.project_features.1", (channels,))
    yield from _pair(f"{audio}.project_features.2", (dim, channels))
    for i in range(config.conv_pos_depth):
        shape = (dim, dim // config.conv_pos_groups, config.conv_pos_kernel)
        yield from _pair(f"{audio}.relative_positional_encoder.{i + 1}.0", shape)
    yield from _pair(f"{audio}.context_encoder.norm", (dim,))
    blocks = [f"{audio}.context_encoder.blocks.{i}" for i in range(config.prenet_depth)]
    blocks += [f"{prefix}blocks.{i}" for i in range(config.depth)]
    for block in blocks:
        yield from _pair(f"{block}.norm1", (dim,))
        yield from _pair(f"{block}.attn.qkv", (3 * dim, dim))
        yield from _pair(f"{block}.attn.proj", (dim, dim))
        yield from _pair(f"{block}.norm2", (dim,))
        yield from _pair(f"{block}.mlp.fc1", (config.ffn_dim, dim))
        yield from _pair(f"{block}.mlp.fc2", (dim, config.ffn_dim))
    if config.num_labels:
        yield from _pair("proj", (config.num_labels, dim))


def _pair(name: str, shape: Shape) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _trained_like(name: str, shape: Shape, draw: np.random.Generator) -> NDArray[np.float32]:
    """Random values of the sizes training leaves: no norm is one, no bias zero, some learned scales are negative."""
    values = draw.standard_normal(shape, dtype=np.float32)
    if name.endswith("alibi_scale"):
        return np.float32(0.7) + np.float32(0.6) * values
    if name.endswith("extra_tokens"):
        return values
    if name.endswith("bias"):
        return np.float32(0.1) * values
    if name.endswith("running_mean"):  # of convolutions of decibels, or of what a norm made
        return (np.float32(20) if ".l1." in name else np.float32(0.5)) * values
    if name.endswith("running_var"):
        spread: NDArray[np.float32] = np.exp(np.float32(0.3) * values)
        return (np.float32(400) if ".l1." in name else np.float32(0.5)) * spread
    if name.endswith(("weight_g", "original0")):  # the length of a weight norm
        length: NDArray[np.float32] = np.abs(np.float32(4) + values)
        return length
    if len(shape) == 1:  # the weight of a norm
        return np.float32(1) + np.float32(0.2) * values
    # Linear and convolution: keeps the variance. Logits spread over several units, dimensions over less than one.
    scale = {"proj.weight": 2.0, "classifier.out_proj.weight": 0.5, "adv.weight": 0.2}.get(name, 1.0)
    return values * np.float32(scale / np.sqrt(np.prod(shape[1:])))


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
        folder: Where to write weights, config.yaml, tokens.txt and configuration.json.
        tokens: Lines of tokens.txt.
        seed: Of the weights.
        prefix: What the names of all tensors but the head's start with: nothing in a pretrained model.
        weights: Name of the weights file.

    Returns:
        The folder.
    """
    draw = np.random.default_rng(seed)
    tensors = {
        name: torch.from_numpy(_trained_like(name, shape, draw)) for name, shape in source_shapes(config, prefix)
    }
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
    """Returns what FunASR reads from config.yaml to build the model, and how it maps the names."""
    dropout = {
        "encoder_dropout": 0.1,
        "post_mlp_drop": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
    }
    audio = {
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
        "modalities": {"audio": audio},
    }
    return {
        "model": "Emotion2vec",
        "model_conf": model,
        "tokenizer": "CharTokenizer" if config.num_labels else None,
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
        "scope_map": [prefix or "none", "none"],
    }


def make_wav2vec2(config: Wav2vec2Config, folder: Path, *, seed: int = 0, parametrized: bool = False) -> Path:
    """Writes a checkpoint folder as transformers does.

    Args:
        config: Sizes; `num_labels` is 3 for arousal, dominance and valence, or 0 for a model without a head.
        folder: Where to write pytorch_model.bin, config.json and preprocessor_config.json.
        seed: Of the weights.
        parametrized: Whether the weight norm has the names of newer versions of torch.

    Returns:
        The folder.
    """
    draw = np.random.default_rng(seed)
    shapes = _wav2vec2_shapes(config, parametrized)
    tensors = {name: torch.from_numpy(_trained_like(name, shape, draw)) for name, shape in shapes}
    folder.mkdir(parents=True, exist_ok=True)
    dims, kernels, strides = zip(*config.conv_layers, strict=True)
    settings = {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Vec2ForSpeechClassification"],
        "conv_dim": dims,
        "conv_kernel": kernels,
        "conv_stride": strides,
        "conv_bias": config.conv_bias,
        "feat_extract_norm": config.conv_norm,
        "feat_extract_activation": "gelu",
        "num_feat_extract_layers": len(dims),
        "hidden_size": config.embed_dim,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.depth,
        "intermediate_size": config.ffn_dim,
        "hidden_act": "gelu",
        "num_conv_pos_embeddings": config.conv_pos_kernel,
        "num_conv_pos_embedding_groups": config.conv_pos_groups,
        "do_stable_layer_norm": config.pre_norm,
        "layer_norm_eps": config.norm_eps,
        "id2label": dict(enumerate(DIMENSIONS)),
        "label2id": {name: i for i, name in enumerate(DIMENSIONS)},
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    processor = {"do_normalize": config.normalize, "return_attention_mask": True, "sampling_rate": 16_000}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def _wav2vec2_shapes(config: Wav2vec2Config, parametrized: bool) -> Iterator[tuple[str, Shape]]:
    dim, kernel = config.embed_dim, config.conv_pos_kernel
    encoder = "wav2vec2.encoder"
    yield "wav2vec2.masked_spec_embed", (dim,)
    channels = 1
    for i, (out, size, _) in enumerate(config.conv_layers):
        layer = f"wav2vec2.feature_extractor.conv_layers.{i}"
        yield f"{layer}.conv.weight", (out, channels, size)
        if config.conv_bias:
            yield f"{layer}.conv.bias", (out,)
        if config.norm_of(i):
            yield from _pair(f"{layer}.layer_norm", (out,))
        channels = out
    yield from _pair("wav2vec2.feature_projection.layer_norm", (channels,))
    yield from _pair("wav2vec2.feature_projection.projection", (dim, channels))
    length, direction = ("parametrizations.weight.original0", "parametrizations.weight.original1")
    if not parametrized:
        length, direction = "weight_g", "weight_v"
    yield f"{encoder}.pos_conv_embed.conv.bias", (dim,)
    yield f"{encoder}.pos_conv_embed.conv.{length}", (1, 1, kernel)
    yield f"{encoder}.pos_conv_embed.conv.{direction}", (dim, dim // config.conv_pos_groups, kernel)
    yield from _pair(f"{encoder}.layer_norm", (dim,))
    for i in range(config.depth):
        layer = f"{encoder}.layers.{i}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _pair(f"{layer}.attention.{part}", (dim, dim))
        yield from _pair(f"{layer}.layer_norm", (dim,))
        yield from _pair(f"{layer}.feed_forward.intermediate_dense", (config.ffn_dim, dim))
        yield from _pair(f"{layer}.feed_forward.output_dense", (dim, config.ffn_dim))
        yield from _pair(f"{layer}.final_layer_norm", (dim,))
    if config.num_labels:
        yield from _pair("classifier.dense", (config.head_dim, dim))
        yield from _pair("classifier.out_proj", (config.num_labels, config.head_dim))


def make_wav2small(config: Wav2smallConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as audeering does.

    Args:
        config: Sizes of the kind that its checkpoints have: `gram` pooling, no residuals, no norm of the bands, two
            stages, the first of three convolutions.
        folder: Where to write model.safetensors and config.json.
        seed: Of the weights.

    Returns:
        The folder.
    """
    draw = np.random.default_rng(seed)
    tensors = {name: torch.from_numpy(_trained_like(name, shape, draw)) for name, shape in _wav2small_shapes(config)}
    front = "vgg7.spectrogram_extractor"
    transform = torch.from_numpy(dft(config.window)[:, None]).to(torch.complex64)
    tensors[f"{front}.conv_real.weight"] = transform.real.contiguous()
    tensors[f"{front}.conv_imag.weight"] = transform.imag.contiguous()
    mel = mel_filters(config.bands, config.window, 0, SAMPLING_RATE / 2)
    tensors["vgg7.logmel_extractor.melW"] = torch.from_numpy(mel.T.copy())
    tensors["vgg7.logmel_extractor.amin"] = torch.tensor([1e-10])
    for i, _ in enumerate(config.stages[0] + config.stages[1]):
        tensors[f"vgg7.l{i + 1}.norm.num_batches_tracked"] = torch.tensor(1000)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    settings = {
        "model_type": "wav2vec2",
        "architectures": ["Wav2Small"],
        "half_mel": config.bands // 2,
        "n_fft": config.window,
        "n_time": config.window,
        "hidden": config.embed_dim,
        "hop": config.step,
    }
    (folder / "config.json").write_text(json.dumps(settings, indent=2))
    return folder


def _wav2small_shapes(config: Wav2smallConfig) -> Iterator[tuple[str, Shape]]:
    channels = 1
    for i, out in enumerate(config.stages[0] + config.stages[1], start=1):
        yield f"vgg7.l{i}.conv.weight", (out, channels, 3, 3)
        yield from _pair(f"vgg7.l{i}.norm", (out,))
        yield f"vgg7.l{i}.norm.running_mean", (out,)
        yield f"vgg7.l{i}.norm.running_var", (out,)
        channels = out
    yield from _pair("vgg7.lin", (config.width, channels, 1, 1))
    yield from _pair("vgg7.sof", (config.width, channels, 1, 1))
    if config.num_labels:
        yield from _pair("adv", (config.num_labels, config.embed_dim))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="e2v_port.converters.synthetic", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=("base", "large", "audeering", "wav2small"), default="base")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.size == "audeering":
        make_wav2vec2(AUDEERING, arguments.folder, seed=arguments.seed)
    elif arguments.size == "wav2small":
        make_wav2small(WAV2SMALL, arguments.folder, seed=arguments.seed)
    else:
        make(BASE if arguments.size == "base" else LARGE, arguments.folder, seed=arguments.seed)
    print(f"{arguments.folder} written: random weights, its labels mean nothing")


if __name__ == "__main__":
    main()

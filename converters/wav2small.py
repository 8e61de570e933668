"""audeering's wav2small checkpoints: the renames and folds to the stored layout, the sizes, and synthetic ones."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.config import Label
from e2v_port.architectures.shapes import Shape
from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.audio import SAMPLING_RATE, mel_filters
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError

from .random_weights import pair, trained_like
from .rules import Converter, Rule, batch_norm, keep, pointwise, transposed

__all__ = ["CONVERTER", "PUBLISHED", "dft", "make"]

NORM = "vgg7.l{i}.norm"
STAGES = (3, 4)  # convolutions before and after the max-pool, which leaves no trace in the tensors


def dft(window: int) -> NDArray[np.complex128]:
    """Returns the discrete Fourier transform of a Hann window of this many samples, [window // 2 + 1, window]."""
    at = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / window)
    turns: NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), at) / window)
    return turns * hann


def _computed(real: NDArray[Any], imag: NDArray[Any]) -> Sequence[NDArray[Any]]:
    wanted = dft(real.shape[-1])[:, None]
    if not (real.shape == imag.shape == wanted.shape and np.allclose(real + 1j * imag, wanted, rtol=0, atol=1e-5)):
        raise CheckpointError(
            "vgg7.spectrogram_extractor is not the Fourier transform of a Hann window, the only one supported"
        )
    return []


def _floor(amin: NDArray[Any]) -> Sequence[NDArray[Any]]:
    if not np.allclose(amin, 1e-10, rtol=1e-5, atol=0):
        raise CheckpointError(f"vgg7.logmel_extractor.amin is {amin.tolist()}; only 1e-10 is supported")
    return []


RULES: tuple[Rule, ...] = (
    Rule(
        "vgg7.spectrogram_extractor.conv_real.weight",
        change=_computed,
        beside=("vgg7.spectrogram_extractor.conv_imag.weight",),
        why="a constant, compared with the one that the runtimes compute",
    ),
    Rule("vgg7.logmel_extractor.amin", change=_floor, why="a constant, compared with the one that the runtimes use"),
    Rule("vgg7.logmel_extractor.melW", ("mel",), transposed),
    # The checkpoint counts layers from 1.
    Rule(
        "vgg7.l{i}.conv.weight",
        ("layers.{i-1}.weight", "layers.{i-1}.bias"),
        batch_norm,
        beside=(f"{NORM}.weight", f"{NORM}.bias", f"{NORM}.running_mean", f"{NORM}.running_var"),
    ),
    Rule(f"{NORM}.num_batches_tracked", why="counts the steps of the training"),
    Rule("vgg7.lin.weight", ("pooling.values.weight",), pointwise),
    Rule("vgg7.lin.bias", ("pooling.values.bias",)),
    Rule("vgg7.sof.weight", ("pooling.weights.weight",), pointwise),
    Rule("vgg7.sof.bias", ("pooling.weights.bias",)),
    Rule("adv.weight", ("head.weight",), keep),
    Rule("adv.bias", ("head.bias",), keep),
)


def recognize(names: Iterable[str], _config: Mapping[str, Any] | None) -> bool:
    """Returns whether tensors of these names are those of a wav2small, whose config.json claims to be a wav2vec2's."""
    return "vgg7.l1.conv.weight" in names


def describe(
    config: Mapping[str, Any] | None,
    _tokens: Sequence[str],
    _preprocessor: Mapping[str, Any] | None,
    targets: Mapping[str, Shape],
    note: Callable[[str], None],
) -> tuple[Wav2smallConfig, tuple[Label, ...]]:
    """Returns the sizes and outputs of a checkpoint.

    Args:
        config: Parsed config.json, of which only `hop` is read.
        targets: Name and shape of the tensors, in the target layout.
        note: Called with a line for each size that was inferred rather than read.

    Raises:
        CheckpointError: The tensors are not those of a wav2small.
    """
    try:
        bands, bins = targets["mel"]
        window = 2 * (bins - 1)
        hop = (config or {}).get("hop")
        if hop is None:
            note("no hop in a config.json: using half a window, as in the published model")
            hop = window // 2
        channels = tuple(targets[f"layers.{i}.weight"][0] for i in range(sum(STAGES)))
        width = targets["pooling.values.weight"][0]
        outputs = targets["head.weight"][0] if "head.weight" in targets else 0
        if outputs not in {0, len(DIMENSIONS)}:
            raise ValueError(f"{outputs} outputs, must be {', '.join(DIMENSIONS)}")
        sizes = Wav2smallConfig(
            normalize=True,
            embed_dim=width * ((bands + 1) // 2 + width),
            head_dim=0,
            num_labels=outputs,
            window=window,
            step=hop,
            bands=bands,
            floor=1e-10,
            band_norm=False,
            stages=(channels[: STAGES[0]], channels[STAGES[0] :]),
            residual=False,
            pooling="gram",
            width=width,
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"the tensors are not those of a wav2small ({error!r})") from error
    return sizes, tuple(Label(name, name, unused=False) for name in DIMENSIONS[:outputs])


PUBLISHED = Wav2smallConfig(
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
SIZES = {"wav2small": PUBLISHED}


def _source_shapes(config: Wav2smallConfig) -> Iterator[tuple[str, Shape]]:
    channels = 1
    for i, out in enumerate(config.stages[0] + config.stages[1], start=1):
        yield f"vgg7.l{i}.conv.weight", (out, channels, 3, 3)
        yield from pair(f"vgg7.l{i}.norm", (out,))
        yield f"vgg7.l{i}.norm.running_mean", (out,)
        yield f"vgg7.l{i}.norm.running_var", (out,)
        channels = out
    yield from pair("vgg7.lin", (config.width, channels, 1, 1))
    yield from pair("vgg7.sof", (config.width, channels, 1, 1))
    if config.num_labels:
        yield from pair("adv", (config.num_labels, config.embed_dim))


def _value(name: str, shape: Shape, draw: np.random.Generator) -> NDArray[np.float32]:
    values = draw.standard_normal(shape, dtype=np.float32)
    decibels = ".l1." in name  # the first layer's input; the others' comes from a norm
    if name.endswith("running_mean"):
        return (np.float32(20) if decibels else np.float32(0.5)) * values
    if name.endswith("running_var"):
        spread: NDArray[np.float32] = np.exp(np.float32(0.3) * values)
        return (np.float32(400) if decibels else np.float32(0.5)) * spread
    return trained_like(name, values, 0.2 if name == "adv.weight" else 1.0)  # dimensions spread over less than one


def make(config: Wav2smallConfig, folder: Path, *, seed: int = 0) -> Path:
    """Writes a checkpoint folder as audeering does.

    Args:
        config: Sizes that such a checkpoint can have: `gram` pooling, no residuals, no norm of the bands, two stages,
            the first of three convolutions.
        folder: Folder to write model.safetensors and config.json to.
        seed: Random seed of the weights.

    Returns:
        The folder.
    """
    import torch
    from safetensors.torch import save_file

    draw = np.random.default_rng(seed)
    tensors = {name: torch.from_numpy(_value(name, shape, draw)) for name, shape in _source_shapes(config)}
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


CONVERTER = Converter(RULES, recognize, describe, SIZES, make)

"""How audeering's wav2small checkpoint maps to the stored layout: the renames, the batch norms, the sizes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.config import DIMENSIONS, Label, Wav2smallConfig
from e2v_port.errors import CheckpointError
from e2v_port.layout import Shape

from .rules import Family, Rule, batch_norm, keep, pointwise, transposed

__all__ = ["FAMILY", "dft", "is_one"]

NORM = "vgg7.l{i}.norm"
STAGES = (3, 4)  # convolutions before and behind the max-pool, which leaves no trace in the tensors


def dft(window: int) -> NDArray[np.complex128]:
    """Returns the discrete Fourier transform of a Hann window of so many samples, [window // 2 + 1, window]."""
    at = np.arange(window)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * at / window)
    turns: NDArray[np.complex128] = np.exp(-2j * np.pi * np.outer(np.arange(window // 2 + 1), at) / window)
    return turns * hann


def _computed(real: NDArray[Any], imag: NDArray[Any]) -> Sequence[NDArray[Any]]:
    wanted = dft(real.shape[-1])[:, None]
    if not (real.shape == imag.shape == wanted.shape and np.allclose(real + 1j * imag, wanted, rtol=0, atol=1e-5)):
        raise CheckpointError(
            "vgg7.spectrogram_extractor is not the Fourier transform of a Hann window: only that is computed"
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
        why="a constant: compared with what the runtimes compute",
    ),
    Rule("vgg7.logmel_extractor.amin", change=_floor, why="a constant, likewise"),
    Rule("vgg7.logmel_extractor.melW", ("mel",), transposed),
    # Their layers count from 1.
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


def is_one(names: Iterable[str]) -> bool:
    """Tells a wav2small by the names of its tensors; its config.json says that it is a wav2vec2."""
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
        config: Its config.json, of which only `hop` is read.
        targets: Name and shape of its tensors, in the target layout.
        note: Told what was inferred rather than read.

    Raises:
        CheckpointError: The tensors are not those of a wav2small.
    """
    try:
        bands, bins = targets["mel"]
        window = 2 * (bins - 1)
        hop = (config or {}).get("hop")
        if hop is None:
            note("no hop in a config.json: half a window is taken, as in the published model")
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


FAMILY = Family("wav2small", RULES, describe)

"""The network in training: that of the wav2small runtimes with batch norms, which are folded away at the end."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port import seam
from e2v_port.architectures.wav2small import Wav2smallConfig
from e2v_port.audio import Waveform, mel_filters, normalize
from e2v_port.training.recipe import Recipe

__all__ = ["Normed", "NormedHead", "Student", "folded"]

_BATCH = 32  # clips per batch of `judge`


class Normed(nn.Module):
    """A convolution of the runtime, followed by a batch norm."""

    def __init__(self, layer: nn.Module, channels: int) -> None:
        super().__init__()
        self.layer = layer
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T, F] -> [B, C', T, F]."""
        out: Tensor = self.norm(self.layer(x))
        return out


class NormedHead(nn.Module):
    """A head of the runtime, preceded by a batch norm and dropout."""

    def __init__(self, head: nn.Module, inputs: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.dropout = nn.Dropout(dropout)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """[B, D] -> [B, outputs]."""
        out: Tensor = self.head(self.dropout(self.norm(x)))
        return out


class Student(nn.Module):
    """The runtime's network in training.

    Attributes:
        twin: The network, with its convolutions and its head wrapped in norms.
    """

    def __init__(self, config: Wav2smallConfig, recipe: Recipe) -> None:
        super().__init__()
        self.twin = _with_norms(seam.Wav2small(config), recipe)

    def spectrogram(self, waveforms: Sequence[Waveform]) -> tuple[Tensor, list[int]]:
        """Returns [B, T, F] and the number of columns of each clip, without padding."""
        config = self.twin.config
        if config.normalize:
            waveforms = [normalize(waveform, config.waveform_eps) for waveform in waveforms]
        samples = [len(waveform) for waveform in waveforms]
        batch = torch.zeros(len(waveforms), max(samples))
        for row, waveform in zip(batch, waveforms, strict=True):
            row[: len(waveform)] = torch.from_numpy(waveform)
        spectrogram: tuple[Tensor, list[int]] = self.twin.spectrogram(batch, samples)
        return spectrogram

    def forward(self, spectrogram: Tensor, lengths: list[int]) -> Tensor:
        """Returns logits [B, outputs]."""
        logits: Tensor = self.twin.network(spectrogram, lengths)[2]
        return logits

    @torch.inference_mode()
    def judge(self, waveforms: Sequence[Waveform]) -> NDArray[np.float32]:
        """Returns the logits [clips, outputs] of the finished network."""
        self.eval()
        logits = np.empty((len(waveforms), self.twin.config.num_labels), dtype=np.float32)
        # Sorted by length, so that little is computed for padding.
        order = sorted(range(len(waveforms)), key=lambda clip: len(waveforms[clip]))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            logits[batch] = self(*self.spectrogram([waveforms[clip] for clip in batch])).numpy()
        self.train()
        return logits


def _with_norms(twin: Any, recipe: Recipe) -> Any:
    """Initializes a network and wraps its layers and its head in norms, which the runtime's types do not know."""
    twin.mel = torch.from_numpy(mel_filters(recipe.bands, recipe.window, recipe.lowest, recipe.highest))
    for i, layer in enumerate(twin.layers):
        # torch's own initialization of convolutions. The norm cancels the scale, but it sets the effective step size.
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.zeros_(layer.bias).requires_grad_(False)  # the norm has one
        twin.layers[i] = Normed(layer, len(layer.weight))
    twin.head = NormedHead(twin.head, twin.config.embed_dim, recipe.dropout)
    return twin


def folded(student: Student) -> dict[str, NDArray[np.float32]]:
    """Multiplies the norms into the weights, in float64, and returns all stored tensors by name."""
    twin = student.twin
    tensors: dict[str, NDArray[np.float32]] = {"mel": twin.mel.numpy()}
    for i, normed in enumerate(twin.layers):
        scale, shift = _affine(normed.norm)
        weight = normed.layer.weight.detach().double() * scale[:, None, None, None]
        tensors |= _named(f"layers.{i}", weight, shift)
    for name, layer in twin.pooling.named_children():
        tensors |= _named(f"pooling.{name}", layer.weight, layer.bias)
    scale, shift = _affine(twin.head.norm)
    weight = twin.head.head.weight.detach().double()
    tensors |= _named("head", weight * scale, twin.head.head.bias.detach().double() + weight @ shift)
    return tensors


def _affine(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Returns the scale and the shift of a trained batch norm."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    return scale, norm.bias.detach().double() - norm.running_mean.double() * scale


def _named(name: str, weight: Tensor, bias: Tensor) -> dict[str, NDArray[np.float32]]:
    return {f"{name}.weight": weight.detach().float().numpy(), f"{name}.bias": bias.detach().float().numpy()}

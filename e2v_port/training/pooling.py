"""A readout in training: embeddings of features, with weights of layers and attention to learn."""

from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from e2v_port import seam
from e2v_port.architectures.base import VARIANCE, Transformer

__all__ = ["Own", "Pooling"]


class Own(nn.Module):
    """Takes a model's own embedding: nothing is left to learn. The same methods as `Pooling`."""

    def forward(self, features: Tensor, _lengths: Tensor) -> Tensor:
        """[B, 1, D] -> [B, D]."""
        return features[:, 0]

    def stored(self) -> dict[str, NDArray[np.float32]]:
        """Returns no tensors."""
        return {}


class Pooling(nn.Module):
    """Turns features, as `Part.batch` returns them, into embeddings [B, embed_dim].

    All layers begin with equal weight, and so do all frames. Without anything to learn, this has no parameters.

    Args:
        architecture: Architecture of the model that is trained.
        scale: Standard deviation of the features of a frame, [width]. Attention learns from frames divided by it, so
            that it learns equally fast from all features.
    """

    def __init__(self, architecture: Transformer, scale: Tensor) -> None:
        super().__init__()
        read = architecture.readout
        assert read is not None
        self._read, self._scale = read, scale
        self.weights = nn.Parameter(torch.zeros(len(read.layers))) if len(read.layers) > 1 else None
        self.attention = nn.Parameter(torch.zeros(read.heads, architecture.width)) if read.heads else None
        self._twin = (seam.Readout(architecture),)  # in a tuple: its parameters are not those that are trained

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Takes the values of `Part.batch` -> [B, embed_dim]."""
        if self._read.heads:
            [twin] = self._twin
            frames = (self._shares()[:, None] * features).sum(2)  # [B, T, D]
            stored = {"attention.weight": self.attention_of_raw()}
            if self.weights is not None:
                stored["weights"] = self.weights
            found: Tensor = torch.func.functional_call(twin, stored, (frames, lengths))
            return found
        shares, layers = self._shares(), len(self._read.layers)
        mean = (shares[:, None] * features[:, :layers]).sum(1)
        if self._read.pooling == "mean":
            return mean
        # The variance of a weighted sum is the sum of all covariances, weighted twice; those of a pair count twice.
        twice = torch.stack(
            [shares[i] * shares[j] * (1 if i == j else 2) for i, j in combinations_with_replacement(range(layers), 2)]
        )
        variance = (twice[:, None] * features[:, layers:]).sum(1)
        return torch.concatenate([mean, torch.sqrt(torch.relu(variance) + VARIANCE)], 1)

    def _shares(self) -> Tensor:
        return torch.ones(1) if self.weights is None else torch.softmax(self.weights, 0)

    def attention_of_raw(self) -> Tensor:
        """Returns the matrix of attention for frames as they are, [heads, width]."""
        assert self.attention is not None
        return self.attention / self._scale

    def stored(self) -> dict[str, NDArray[np.float32]]:
        """Returns the tensors of the readout by their stored names."""
        tensors = {}
        if self.weights is not None:
            tensors["readout.weights"] = self.weights.detach().numpy().copy()
        if self.attention is not None:
            tensors["readout.attention.weight"] = self.attention_of_raw().detach().numpy().copy()
        return tensors

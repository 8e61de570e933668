"""What more than one architecture is made of, in torch. Its twin is layers_mlx.py.

B clips, T frames, D wide, H heads.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from e2v_port.config import Architecture, Transformer

__all__ = [
    "Attention",
    "Distances",
    "Encoder",
    "Head",
    "Linear",
    "Mlp",
    "Projection",
    "Trace",
    "convolve",
    "extract",
    "frame_counts",
    "untraced",
]

Trace = Callable[[str, Tensor], None]  # is told name and value of every stage

# Frames that a CPU takes through all convolutions at a time, 2 s: whole clips would go through its memory at each.
FRAMES = 100
PACKED_ROWS = 512  # the number of frames that oneDNN is told to expect: 10 s


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """A strided convolution over time without padding.

    Args:
        x: [B, T, C].
        weight: [C', kernel, C].
        bias: [C'], or None.
        stride: Frames.

    Returns:
        [B, T', C'].
    """
    batch, time, channels = x.shape
    kernel = weight.shape[1]
    # A window of k frames is k * C neighbouring numbers: the convolution is one matrix product.
    windows = x.as_strided(
        (batch, (time - kernel) // stride + 1, kernel * channels), (x.stride(0), stride * channels, 1)
    )
    return F.linear(windows, weight.flatten(1), bias)


def frame_counts(samples: Tensor, sizes: Sequence[tuple[int, int, int]]) -> Tensor:
    """Returns how many frames clips of so many samples, [B], have behind convolutions of these sizes."""
    for _, kernel, stride in sizes:
        samples = (samples - kernel) // stride + 1
    return samples


def untraced(_name: str, _value: Tensor) -> None:
    """A trace that nobody asks for."""


def extract(
    layers: nn.ModuleList, sizes: Sequence[tuple[int, int, int]], x: Tensor, trace: Trace, first: int
) -> Tensor:
    """Takes x through convolutions that treat every frame alike: on a CPU some frames at a time.

    Args:
        layers: The convolutions.
        sizes: Their channels, kernels and strides.
        x: [B, T, C].
        trace: Called with the name and value of every layer.
        first: The number of the first layer.

    Returns:
        [B, T', C'].
    """
    if x.device.type != "cpu" or trace is not untraced:
        for i, layer in enumerate(layers, first):
            x = layer(x)
            trace(f"conv_layers.{i}", x)
        return x
    hop = math.prod(stride for _, _, stride in sizes)
    seen = 1  # of the frames of x, by one frame of the result
    for _, kernel, stride in reversed(sizes):
        seen = (seen - 1) * stride + kernel
    frames = (x.shape[1] - seen) // hop + 1
    result: Tensor | None = None
    for start in range(0, frames, FRAMES):
        stop = min(start + FRAMES, frames)
        part = x[:, start * hop : (stop - 1) * hop + seen]
        for layer in layers:
            part = layer(part)
        if result is None:
            if stop == frames:
                return part
            result = part.new_empty(len(part), frames, part.shape[2])
        result[:, start:stop] = part
    assert result is not None
    return result


class Linear(nn.Linear):
    """A linear layer, and an exact GELU behind it where one is asked for.

    Once packed, its weight lies in the order in which oneDNN multiplies in bfloat16, and oneDNN applies the GELU before
    it rounds: a tenth less time for a whole model on a CPU with AMX.
    """

    packed: Tensor | None = None

    def pack(self) -> None:
        """Puts the weight into that order, for good."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), PACKED_ROWS)
        self.register_parameter("weight", None)

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        if self.packed is None:
            x = super().forward(x)
            return F.gelu(x) if gelu else x
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "gelu" if gelu else "none", [], "none"
        )
        return out


class Projection(nn.Module):
    """From the channels of the convolutions to the width of the transformer."""

    def __init__(self, channels: int, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.linear = Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


class Distances(NamedTuple):
    """What a bias of attention follows from, for a kernel that makes it where it is needed: nothing of T x T is kept.

    Attributes:
        slopes: [H], float32: taken from a score for each frame between query and key.
        ends: [B]: how many tokens each clip has; what lies behind them is not attended to.
    """

    slopes: Tensor
    ends: Tensor


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias that broadcasts to [B, H, T, T], or is made of distances.

    The first `extra` tokens are no frames: they are near to all.
    """

    def __init__(self, dim: int, heads: int, extra: int = 0) -> None:
        super().__init__()
        self.heads, self.extra = heads, extra
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | Distances | None) -> Tensor:
        q = self.q_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D/H]
        k = self.k_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        v = self.v_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        if isinstance(bias, Distances):
            x = self._attend(q, k, v, bias)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))  # [B, T, D]
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, distances: Distances) -> Tensor:
        """One kernel, where it is compiled."""
        slopes, ends = distances

        def biased(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            far = torch.where((query >= self.extra) & (key >= self.extra), (query - key).abs(), 0)
            return torch.where(key < ends[clip], score - slopes[head] * far, -math.inf)

        x: Tensor = flex_attention(q, k, v, score_mod=biased)
        return x


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x, gelu=True))
        return out


class Head(nn.Module):
    """Linear; or linear, tanh, linear. In float32 whatever the type of its weights; no sigmoid or softmax."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.hidden = config.head_dim
        if self.hidden:
            self.dense = nn.Linear(config.embed_dim, self.hidden)
            self.out = nn.Linear(self.hidden, config.num_labels)
        else:
            only = nn.Linear(config.embed_dim, config.num_labels)
            self.weight, self.bias = only.weight, only.bias

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            if not self.hidden:
                return F.linear(x, self.weight.float(), self.bias.float())
            x = torch.tanh(F.linear(x, self.dense.weight.float(), self.dense.bias.float()))
            return F.linear(x, self.out.weight.float(), self.out.bias.float())


class Encoder(nn.Module, ABC):
    """What transformers for waveforms have in common: waveforms in, frames and their mean and logits out.

    Attributes:
        config: Sizes.
        head: None for a model without one.
        compiled: Layers that are worth a compiler's while.
        by_distance: Whether attention gets `Distances`, which is for compiled blocks.
    """

    config: Transformer
    head: Head | None
    compiled: tuple[type[nn.Module], ...] = ()
    by_distance = False

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs the model.

        Args:
            waveform: [B, S], normalised, clips filled up with zeros behind their end.
            samples: Of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D] in the type of the weights (those behind a clip's end mean nothing), their mean [B, D]
            and logits [B, labels] (None without a head), both float32.
        """
        lengths = [self.config.frames(count) for count in samples]
        return self.encode(waveform, torch.tensor(samples, device=waveform.device), min(lengths) < max(lengths), trace)

    @abstractmethod
    def encode(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Does what `forward` does without a look at the numbers, so that a graph of it can be kept.

        Args:
            waveform: As for `forward`.
            samples: Of each clip, [B].
            padded: Whether any clip has fewer frames than there are.
            trace: As for `forward`.
        """

    def score(self, x: Tensor) -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], float32."""
        assert self.head is not None
        logits: Tensor = self.head(x)
        return logits

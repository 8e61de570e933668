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
    "Convolution",
    "Distances",
    "Encoder",
    "Head",
    "Linear",
    "Mlp",
    "Positions",
    "Product",
    "Projection",
    "Trace",
    "extract",
    "frame_counts",
    "untraced",
]

Trace = Callable[[str, Tensor], None]  # is told name and value of every stage

# Frames that a CPU takes through all convolutions at a time, 1.3 s: what lies between two of them stays near, and is
# not so large that the memory for it goes back to the system each time.
FRAMES = 64
TILE = 128  # frames that a positional convolution in bfloat16 takes at a time on a CPU
PACKED_ROWS = 512  # the number of frames that oneDNN is told to expect: 10 s


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
    step = max(FRAMES // len(x), 1)
    for start in range(0, frames, step):
        stop = min(start + step, frames)
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


class Product(nn.Module):
    """A weight to multiply by, [out, ...], and a bias, [out], or None.

    Once packed, the weight lies in the order in which oneDNN multiplies in bfloat16, and oneDNN applies what follows
    before it rounds.
    """

    bias: Tensor | None
    packed: Tensor | None = None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias))

    def pack(self) -> None:
        """Puts the weight into that order, for good."""
        self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach().flatten(1), PACKED_ROWS)
        self.register_parameter("weight", None)

    def multiply(self, x: Tensor, gelu: bool = False, plus: Tensor | None = None) -> Tensor:
        """Returns x [..., in] times the weight, plus the bias; behind that an exact GELU, or the sum with another."""
        if self.packed is None:
            x = F.linear(x, self.weight.flatten(1), self.bias)
            if gelu:
                x = F.gelu(x)
            return x if plus is None else x + plus
        out: Tensor
        if plus is None:
            out = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "gelu" if gelu else "none", [], "none")
        else:
            out = torch.ops.mkldnn._linear_pointwise.binary(x, plus, self.packed, self.bias, "add")
        return out


class Linear(Product):
    """A linear layer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(torch.empty(outputs, inputs), torch.empty(outputs))

    def forward(self, x: Tensor, gelu: bool = False, plus: Tensor | None = None) -> Tensor:
        return self.multiply(x, gelu, plus)


class Convolution(Product):
    """A strided convolution over time without padding, LayerNorm over channels where there is one, exact GELU."""

    _spread: Tensor | None = None

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, *, bias: bool, norm: bool) -> None:
        super().__init__(torch.empty(channels, kernel, in_channels), torch.empty(channels) if bias else None)
        self.kernel, self.stride = kernel, stride
        self.norm = nn.LayerNorm(channels) if norm else None

    def pack(self) -> None:
        """Does what `Product.pack` does; a layer on the waveform becomes one product with its norm."""
        if self.norm is None or self.weight.shape[2] > 1:
            super().pack()
            return
        weight = self.weight.detach().flatten(1).double()  # [C', k]
        if self.bias is not None:
            weight = torch.cat([weight, self.bias[:, None]], 1)  # for a window u with a one behind it
        # Without its mean over channels, W gives them a mean of 0, and a variance of |W u|^2 / C' = |R u|^2 (W = QR).
        weight = weight - weight.mean(0)
        self._spread = (torch.linalg.qr(weight, mode="r").R / math.sqrt(len(weight))).float()
        weight = torch.cat([weight * self.norm.weight[:, None], self.norm.bias[:, None]], 1).to(self.weight.dtype)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
        self.register_parameter("weight", None)

    def forward(self, x: Tensor) -> Tensor:
        if self._spread is not None:
            return self._normalised(x, self._spread)
        x = self.convolve(x)
        return F.gelu(self.norm(x) if self.norm else x)

    def convolve(self, x: Tensor) -> Tensor:
        """Returns of x, [B, T, C], the convolution alone, [B, T', C']."""
        if self.packed is None:
            return self.multiply(self._windows(x.to(self.weight.dtype)))
        return self.multiply(self._windows(x.to(self.packed.dtype)).contiguous())

    def _windows(self, x: Tensor) -> Tensor:
        """A window of k frames is k * C neighbouring numbers: the convolution is one matrix product."""
        batch, time, channels = x.shape
        return x.as_strided(
            (batch, (time - self.kernel) // self.stride + 1, self.kernel * channels),
            (x.stride(0), self.stride * channels, 1),
        )

    def _normalised(self, x: Tensor, spread: Tensor) -> Tensor:
        """Applies what `pack` has made to a waveform in float32."""
        assert self.norm is not None
        assert self.packed is not None
        windows = self._windows(x)
        windows = windows.contiguous() if self.bias is None else F.pad(windows, (0, 1), value=1.0)
        variance = F.linear(windows, spread).square().sum(2, keepdim=True)
        windows = F.pad(windows * torch.rsqrt(variance + self.norm.eps), (0, 1), value=1.0)
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            windows.to(self.packed.dtype), self.packed, None, "gelu", [], "none"
        )
        return out


class Positions(nn.Module):
    """A grouped convolution over time that keeps the length.

    Once packed, its weight lies as oneDNN wants it in bfloat16 for `TILE` frames, which are then taken at a time: it
    would be put into another order for every clip, which takes as long as the convolution.
    """

    packed: Tensor | None = None

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel, self.groups = kernel, groups
        self.weight = nn.Parameter(torch.empty(dim, kernel, dim // groups))
        self.bias = nn.Parameter(torch.empty(dim))

    def pack(self) -> None:
        """Puts the weight into that order, for good."""
        weight = self.weight.detach().mT[:, :, None]  # [D, D/G, 1, k]
        shape = (1, len(weight), 1, TILE + self.kernel - 1)
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, (0, 0), (1, 1), (1, 1), self.groups, shape)
        self.register_parameter("weight", None)

    def convolve(self, x: Tensor) -> Tensor:
        """Returns of x, [B, T, D], the convolution, [B, T, D]."""
        batch, time, dim = x.shape
        before = self.kernel // 2
        if self.packed is None:
            x = F.conv1d(x.mT, self.weight.mT, self.bias, padding=before, groups=self.groups).mT
            return x[:, :time]  # an even kernel makes one frame too many
        whole = -(-time // TILE) * TILE
        padded = F.pad(x, (0, 0, before, whole - time + self.kernel - 1 - before))
        out = x.new_empty(batch, whole, dim)
        for clip in range(batch):
            for start in range(0, whole, TILE):
                tile = padded[clip : clip + 1, start : start + TILE + self.kernel - 1].mT[:, :, None]  # [1, D, 1, ...]
                tile = torch.ops.mkldnn._convolution_pointwise(
                    tile, self.packed, self.bias, (0, 0), (1, 1), (1, 1), self.groups, "none", [], "none"
                )
                out[clip, start : start + TILE] = tile[0, :, 0].mT
        return out[:, :time]


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

    The first `extra` tokens are no frames: they are near to all. `plus`, [B, T, D], is added to the result.
    """

    def __init__(self, dim: int, heads: int, extra: int = 0) -> None:
        super().__init__()
        self.heads, self.extra = heads, extra
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | Distances | None, plus: Tensor) -> Tensor:
        q = self.q_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D/H]
        k = self.k_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        v = self.v_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        if isinstance(bias, Distances):
            x = self._attend(q, k, v, bias)
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2), plus=plus)  # [B, T, D]
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
    """Two linear layers around an exact GELU; `plus` is added to the result."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor, plus: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x, gelu=True), plus=plus)
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
        padded = self.config.frames(min(samples)) < self.config.frames(waveform.shape[1])
        return self.encode(waveform, torch.tensor(samples, device=waveform.device), padded, trace)

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

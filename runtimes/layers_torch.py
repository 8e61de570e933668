"""What more than one architecture is made of, in torch. Its twin is layers_mlx.py.

B clips, T frames, D wide, H heads.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.config import Architecture

__all__ = ["Attention", "Head", "Linear", "Mlp", "Projection", "Trace", "convolve"]

Trace = Callable[[str, Tensor], None]  # is told name and value of every stage

ROWS = 2048  # frames that a CPU convolves at a time: 2 MB of 512 channels in 16 bits, which its caches keep
PACKED_ROWS = 512  # the number of frames that oneDNN is told to expect: 10 s


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """A strided convolution over time without padding, and what follows it in each frame by itself.

    Args:
        x: [B, T, C].
        weight: [C', kernel, C].
        bias: [C'], or None.
        stride: Frames.
        finish: Applied to [..., C'], frame by frame.

    Returns:
        [B, T', C'].
    """
    batch, time, channels = x.shape
    out, kernel, _ = weight.shape
    # A window of k frames is k * C neighbouring numbers: the convolution is one matrix product.
    windows = x.as_strided(
        (batch, (time - kernel) // stride + 1, kernel * channels), (time * channels, stride * channels, 1)
    )
    weight = weight.flatten(1)
    if x.device.type != "cpu":
        return finish(F.linear(windows, weight, bias))
    # Whole clips would go through the memory three times, and their windows be copied there.
    result = x.new_empty(batch, windows.shape[1], out)
    for clip, done in zip(windows, result, strict=True):
        for rows, place in zip(clip.split(ROWS), done.split(ROWS), strict=True):
            place.copy_(finish(F.linear(rows, weight, bias)))
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


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias that broadcasts to [B, H, T, T]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = Linear(dim, dim)
        self.k_proj = Linear(dim, dim)
        self.v_proj = Linear(dim, dim)
        self.out_proj = Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q = self.q_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D/H]
        k = self.k_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        v = self.v_proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        out: Tensor = self.out_proj(x.transpose(1, 2).flatten(2))  # [B, T, D]
        return out


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

"""What more than one architecture is made of, in MLX. Its twin is layers_torch.py.

B clips, T frames, D wide, H heads.
"""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from e2v_port.config import Architecture

__all__ = ["Attention", "Head", "Mlp", "Projection", "Trace", "linear", "sum_over_time"]

Trace = Callable[[str, mx.array], None]  # is told name and value of every stage


class Projection(nn.Module):
    """From the channels of the convolutions to the width of the transformer."""

    def __init__(self, channels: int, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.linear = nn.Linear(channels, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(self.norm(x))


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias that broadcasts to [B, H, T, T]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def __call__(self, x: mx.array, bias: mx.array | None) -> mx.array:
        q = mx.unflatten(self.q_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)  # [B, H, T, D/H]
        k = mx.unflatten(self.k_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)
        v = mx.unflatten(self.v_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)
        x = mx.fast.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, mask=bias)
        return self.out_proj(x.swapaxes(1, 2).flatten(2))  # [B, T, D]


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def __call__(self, x: mx.array) -> mx.array:
        return self.fc2(nn.gelu(self.fc1(x)))


class Head(nn.Module):
    """Linear; or linear, tanh, linear. In float32 whatever the type of its weights; no sigmoid or softmax."""

    def __init__(self, config: Architecture) -> None:
        super().__init__()
        self.hidden = config.head_dim
        if self.hidden:
            self.dense = nn.Linear(config.embed_dim, self.hidden)
            self.out = nn.Linear(self.hidden, config.num_labels)
        else:
            self.weight = mx.zeros((config.num_labels, config.embed_dim))
            self.bias = mx.zeros(config.num_labels)

    def __call__(self, x: mx.array) -> mx.array:
        return linear(mx.tanh(linear(x, self.dense)), self.out) if self.hidden else linear(x, self)


def linear(x: mx.array, layer: nn.Module) -> mx.array:
    """Applies the weight and bias of a layer in float32, whatever their type."""
    out: mx.array = x.astype(mx.float32) @ layer.weight.astype(mx.float32).T + layer.bias.astype(mx.float32)
    return out


def sum_over_time(x: mx.array) -> mx.array:
    """[B, T, C] -> [B, 1, C]; in two steps, as one would lose three digits over the 96 000 frames of 30 s."""
    x = mx.pad(x, [(0, 0), (0, -x.shape[1] % 256), (0, 0)])
    return mx.unflatten(x, 1, (-1, 256)).sum(2).sum(1, keepdims=True)

"""Layers compiled by torch, with FlexAttention: ALiBi and the mask of padding are computed per score, nothing is T x T.

One layer of each kind is compiled for all of its kind and for all lengths, so that compiling takes seconds, not
minutes.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from e2v_port.runtimes.layers_torch import Attention, Convolution, Encoder, Positions

__all__ = ["compiled"]

_PROBE = 64  # frames of the bias that slopes are read from


class Distances(NamedTuple):
    """The bias of attention in a form that a kernel computes where it needs it.

    Attributes:
        slopes: Amount subtracted from a score for each frame between query and key, [H], float32.
        ends: Tokens of each clip, [B]; later ones get no attention.
    """

    slopes: Tensor
    ends: Tensor


class FlexAttention(Attention):
    """`Attention` with `Distances` for a bias. The first `extra` tokens are not frames: they are near to all."""

    def __init__(self, plain: Attention, extra: int) -> None:
        nn.Module.__init__(self)
        self.heads, self.extra = plain.heads, extra
        for name, part in plain.named_children():
            setattr(self, name, part)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Any) -> Tensor:
        slopes, ends = bias

        def biased(score: Tensor, clip: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            far = torch.where((query >= self.extra) & (key >= self.extra), (query - key).abs(), 0)
            return torch.where(key < ends[clip], score - slopes[head] * far, -math.inf)

        x: Tensor = flex_attention(q, k, v, score_mod=biased)
        return x


def compiled(model: Encoder, empty: Encoder) -> Encoder:
    """Returns a model over the same weights whose layers are compiled.

    Args:
        model: A transformer with its weights.
        empty: The same without weights, on `meta`; becomes the result.

    Raises:
        ValueError: The bias of its attention does not follow from distances, or from more than them, as in WavLM.
    """
    if type(model).run is not Encoder.run:
        raise ValueError("its blocks take more than a bias of distances")
    slopes = _slopes(model)
    extra = model.extra
    empty.load_state_dict(model.state_dict(), strict=True, assign=True)
    empty.eval().requires_grad_(False)
    for part in list(empty.modules()):
        if type(attention := getattr(part, "attn", None)) is Attention:
            part.attn = FlexAttention(attention, extra)
    empty.bias = partial(_distances, slopes, extra)  # type: ignore[assignment]
    for part in empty.modules():
        if isinstance(part, Convolution | Positions) or isinstance(getattr(part, "attn", None), FlexAttention):
            kind: Any = type(part)
            part.forward = partial(_compiled_forward(kind), part)
    return empty


@cache
def _compiled_forward(kind: Any) -> Callable[..., Tensor]:
    forward: Callable[..., Tensor] = torch.compile(kind.forward, dynamic=True, fullgraph=True)
    return forward


def _distances(slopes: Tensor, extra: int, _x: Tensor, valid: Tensor, _padded: bool) -> Distances:
    """Takes the place of `Encoder.bias`."""
    return Distances(slopes, valid.sum(1) + extra)


def _slopes(model: Encoder) -> Tensor:
    """Returns the amount that `Encoder.bias` subtracts per frame of distance, [H], float32."""
    device = next(model.parameters()).device
    x = torch.zeros(1, _PROBE, model.config.width, dtype=torch.float32, device=device)
    with torch.no_grad():
        bias = model.bias(x, torch.ones(1, _PROBE, dtype=torch.bool, device=device), False)
    if bias is None:
        return torch.zeros(model.config.num_heads, dtype=torch.float32, device=device)
    bias = bias[0, :, -_PROBE:, -_PROBE:]  # [H, frames, frames]
    slopes = -bias[:, 0, 1]
    at = torch.arange(_PROBE, device=device)
    if not torch.allclose(bias, -slopes[:, None, None] * (at[:, None] - at).abs()):
        raise ValueError("attention has a bias that is not a slope times a distance")
    return slopes.clone()

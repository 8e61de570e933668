"""On an x86 CPU, keeps weights in the layout that oneDNN multiplies with.

oneDNN would otherwise reorder them on every call. It also applies the step that follows a product (GELU, a sum) before
it rounds the result, which saves a pass over memory. In float32, torch itself multiplies with MKL, which uses half the
width of an AMD CPU's vectors: with AVX-512, oneDNN takes 0.42 of the time there.
"""

import math
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.runtimes.layers_torch import Attention, Convolution, Head, Mlp, Positions, Readout, widened, windows

__all__ = ["available", "multiply", "pack"]

ROWS = 512  # frames that oneDNN optimizes the layout of a matrix for: 10 s
TILE = 128  # frames per call of a positional convolution, whose layout holds for one length only


def available(dtype: str) -> bool:
    """Returns whether packed weights are an advantage here, with the operators that torch's compiler uses on x86.

    Args:
        dtype: Type of the weights.
    """
    if platform.machine() not in {"x86_64", "AMD64"} or not torch._C._has_mkldnn:
        return False
    names = (
        "_is_mkldnn_bf16_supported",
        "_reorder_linear_weight",
        "_linear_pointwise",
        "_reorder_convolution_weight",
        "_convolution_pointwise",
    )
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    if dtype == "float32":
        return torch.backends.cpu.get_cpu_capability() == "AVX512"
    return dtype == "bfloat16" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(model: nn.Module) -> None:
    """Replaces every layer that has a packed form, for good.

    A readout and a head stay: they compute in float32. So does a convolution with a norm over time, whose weights are
    others for every clip: see tiles.py.
    """
    for name, part in model.named_children():
        if isinstance(part, Convolution) and part.kind == "group":
            continue
        if (kind := _PACKED.get(type(part))) is not None:
            setattr(model, name, kind(part))
        elif not isinstance(part, Readout | Head):
            pack(part)


class PackedLinear(nn.Module):
    """A linear layer, optionally followed by an exact GELU or a residual sum."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        self.bias = plain.bias
        self.packed = _reordered(plain.weight)

    def forward(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        return multiply(x, self.packed, self.bias, gelu, residual)


class PackedMlp(nn.Module):
    """`Mlp`, with GELU and the sum inside the products."""

    def __init__(self, plain: Mlp) -> None:
        super().__init__()
        self.fc1 = PackedLinear(plain.fc1)
        self.fc2 = PackedLinear(plain.fc2)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.fc1(x, gelu=True), residual=residual)
        return out


class PackedAttention(Attention):
    """`Attention`, with the sum inside the last product."""

    def __init__(self, plain: Attention) -> None:
        nn.Module.__init__(self)
        self.heads = plain.heads
        for name, part in plain.named_children():
            setattr(self, name, PackedLinear(part))  # type: ignore[arg-type]

    def forward(self, x: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
        out: Tensor = self.out_proj(self.mix(x, bias), residual=residual)
        return out


class PackedConvolution(Convolution):
    """`Convolution` with a packed weight; on the waveform, the LayerNorm becomes part of the product.

    Attributes:
        packed: Weight in oneDNN's layout.
        spread: For a convolution that includes its norm, the matrix whose product with a window has the length of the
            standard deviation over channels, [k or k + 1, the same], float32; else None.
    """

    spread: Tensor | None = None

    def __init__(self, plain: Convolution) -> None:
        nn.Module.__init__(self)
        self.kernel, self.stride, self.kind = plain.kernel, plain.stride, plain.kind
        self.bias, self.norm = plain.bias, plain.norm
        if plain.norm is not None and plain.kind == "layer" and plain.weight.shape[2] == 1:
            self.packed = self._merged(plain.weight.detach().flatten(1), plain.norm)
        else:
            self.packed = _reordered(plain.weight)

    def _merged(self, plain: Tensor, norm: nn.LayerNorm) -> Tensor:
        """Returns the packed product of a convolution [C', k] and its norm, and sets `spread`."""
        weight = plain.double()
        if self.bias is not None:
            weight = torch.cat([weight, self.bias[:, None]], 1)  # for windows that end in a one
        # Minus its mean over channels, W gives them a mean of 0 and a variance of |W u|^2 / C' = |R u|^2 (W = QR).
        weight = weight - weight.mean(0)
        self.spread = (torch.linalg.qr(weight, mode="r").R / math.sqrt(len(weight))).float()
        return _reordered(torch.cat([weight * norm.weight[:, None], norm.bias[:, None]], 1).to(plain.dtype))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if self.norm is None:
            return self.convolve(x, gelu=True)
        if self.spread is None:
            return super().forward(x, lengths)
        u = windows(x, self.kernel, self.stride)  # [B, T', k], float32
        u = u.contiguous() if self.bias is None else F.pad(u, (0, 1), value=1.0)
        variance = F.linear(u, self.spread).square().sum(2, keepdim=True)
        u = F.pad(u * torch.rsqrt(variance + self.norm.eps), (0, 1), value=1.0)
        return multiply(u.to(self.packed.dtype), self.packed, None, gelu=True)

    def convolve(self, x: Tensor, gelu: bool = False) -> Tensor:
        x = windows(x.to(self.packed.dtype), self.kernel, self.stride).contiguous()
        return multiply(x, self.packed, self.bias, gelu)


class PackedPositions(Positions):
    """`Positions`, `TILE` frames at a time: another length would need another layout."""

    def __init__(self, plain: Positions) -> None:
        nn.Module.__init__(self)
        self.kernel, self.groups, self.norm = plain.kernel, plain.groups, plain.norm
        weight = widened(plain.weight.detach()).mT[:, :, None]  # [D, D/G, 1, k]
        self.bias = nn.Parameter(plain.bias.to(weight.dtype), requires_grad=False)
        shape = (1, len(weight), 1, TILE + self.kernel - 1)
        self.packed = torch.ops.mkldnn._reorder_convolution_weight(weight, (0, 0), (1, 1), (1, 1), self.groups, shape)

    def convolve(self, x: Tensor) -> Tensor:
        batch, time, dim = x.shape
        before = self.kernel // 2
        whole = -(-time // TILE) * TILE
        padded = F.pad(x.to(self.packed.dtype), (0, 0, before, whole - time + self.kernel - 1 - before))
        out = x.new_empty(batch, whole, dim)
        for clip in range(batch):
            for start in range(0, whole, TILE):
                tile = padded[clip : clip + 1, start : start + TILE + self.kernel - 1].mT[:, :, None]  # [1, D, 1, ...]
                tile = torch.ops.mkldnn._convolution_pointwise(
                    tile, self.packed, self.bias, (0, 0), (1, 1), (1, 1), self.groups, "none", [], "none"
                )
                out[clip, start : start + TILE] = tile[0, :, 0].mT
        return out


_PACKED: dict[type[nn.Module], Any] = {
    nn.Linear: PackedLinear,
    Mlp: PackedMlp,
    Attention: PackedAttention,
    Convolution: PackedConvolution,
    Positions: PackedPositions,
}


def _reordered(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach().flatten(1), ROWS)
    return packed


def multiply(
    x: Tensor, packed: Tensor, bias: Tensor | None, gelu: bool = False, residual: Tensor | None = None
) -> Tensor:
    """Returns x [..., in] times a weight, packed or not, plus the bias, followed by a GELU or by a sum."""
    out: Tensor
    if residual is None:
        out = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "gelu" if gelu else "none", [], "none")
    else:
        out = torch.ops.mkldnn._linear_pointwise.binary(x, residual, packed, bias, "add")
    return out

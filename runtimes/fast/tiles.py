"""On a CPU, runs all convolutions on a few frames at a time, so that values between two of them stay in the cache."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from e2v_port.runtimes.fast import onednn
from e2v_port.runtimes.layers_torch import Convolution, Trace, WaveformEncoder, untraced, windows

__all__ = ["tile"]

# 1.3 s of frames: their values fit the caches, and buffers of this size are not returned to the system each time.
FRAMES = 64

Layer: TypeAlias = Callable[[Tensor], Tensor]  # [B, T, C] to [B, T', C'], each frame by itself


def tile(model: WaveformEncoder) -> None:
    """Makes a model extract features tile by tile."""
    model.extract = partial(_extract, model)  # type: ignore[method-assign]


def _extract(model: WaveformEncoder, waveform: Tensor, samples: Tensor, trace: Trace) -> tuple[Tensor, Tensor]:
    """Does the same as `WaveformEncoder.extract`, which runs whole layers when their values are traced."""
    if trace is not untraced:
        return WaveformEncoder.extract(model, waveform, samples, trace)
    x, lengths = waveform[:, :, None], samples
    layers: list[Layer] = []
    for i, (layer, (_, kernel, stride)) in enumerate(zip(model.conv_layers, model.config.conv_layers, strict=True)):
        lengths = (lengths - kernel) // stride + 1
        assert isinstance(layer, Convolution)
        normed = layer.kind == "group"
        assert not normed or i == 0, "only a product with the waveform has a norm over time that is known before it"
        layers.append(_normed(layer, x, lengths) if normed else partial(layer, lengths=None))
    return _tiled(layers, model.config.conv_layers, x), lengths


def _normed(layer: Convolution, waveform: Tensor, lengths: Tensor) -> Layer:
    """Returns a convolution of the waveform with the norm of each channel over time as part of the product.

    With the mean m and the covariance S of all windows of a clip, a channel of weights w has the mean w m and the
    variance w S w over time. So both are known before the first product, and no value has to wait for the last.

    Args:
        layer: The convolution.
        waveform: [B, S, 1].
        lengths: Frames of each clip in the output, [B].
    """
    assert layer.norm is not None
    kernel, stride, kind = layer.kernel, layer.stride, layer.weight.dtype
    plain = layer.weight.flatten(1).double()  # [C, k]
    every = windows(waveform, kernel, stride)  # [B, T', k]
    weights, biases = [], []
    for clip, length in zip(every, lengths.tolist(), strict=True):
        u = clip[:length].double()
        mean = u.mean(0)
        u = u - mean
        variance = ((plain @ (u.mT @ u)) * plain).sum(1) / length
        weight = plain * (layer.norm.weight * torch.rsqrt(variance + layer.norm.eps))[:, None]
        weights.append(weight.float())
        biases.append((layer.norm.bias - weight @ mean).float())

    fused = onednn.available("float32")

    def forward(x: Tensor) -> Tensor:
        # In float32 for any type: windows of a hum differ by little, and 16 bits would lose that.
        clips = zip(windows(x, kernel, stride).contiguous().split(1), weights, biases, strict=True)
        if fused:
            found = [onednn.multiply(*each, gelu=True).to(kind) for each in clips]
        else:
            found = [F.gelu(F.linear(*each)).to(kind) for each in clips]
        return found[0] if len(found) == 1 else torch.cat(found)

    return forward


def _tiled(layers: Sequence[Layer], sizes: Sequence[tuple[int, int, int]], x: Tensor) -> Tensor:
    """Runs convolutions that treat every frame alike.

    Args:
        layers: The convolutions.
        sizes: Channels, kernel and stride of each.
        x: [B, T, C].

    Returns:
        [B, T', C'].
    """
    hop = math.prod(stride for _, _, stride in sizes)
    span = 1  # frames of x that one frame of the result depends on
    for _, kernel, stride in reversed(sizes):
        span = (span - 1) * stride + kernel
    frames = (x.shape[1] - span) // hop + 1
    result: Tensor | None = None
    step = max(FRAMES // len(x), 1)
    for start in range(0, frames, step):
        stop = min(start + step, frames)
        part = x[:, start * hop : (stop - 1) * hop + span]
        for layer in layers:
            part = layer(part)
        if result is None:
            if stop == frames:
                return part
            result = part.new_empty(len(part), frames, part.shape[2])
        result[:, start:stop] = part
    assert result is not None
    return result

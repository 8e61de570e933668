"""On a CPU, runs all convolutions on a few frames at a time, so that values between two of them stay in the cache."""

import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from e2v_port.runtimes.layers_torch import Convolution, Trace, WaveformEncoder, untraced

__all__ = ["tile"]

# 1.3 s of frames: their values fit the caches, and buffers of this size are not returned to the system each time.
FRAMES = 64


def tile(model: WaveformEncoder) -> None:
    """Makes a model extract features tile by tile."""
    model.extract = partial(_extract, model)  # type: ignore[method-assign]


def _extract(model: WaveformEncoder, waveform: Tensor, samples: Tensor, trace: Trace) -> tuple[Tensor, Tensor]:
    """Does the same as `WaveformEncoder.extract`, which runs whole layers when their values are traced."""
    if trace is not untraced:
        return WaveformEncoder.extract(model, waveform, samples, trace)
    x, lengths = waveform[:, :, None], samples
    sizes = model.config.conv_layers
    whole = sum(layer.kind == "group" for layer in model.conv_layers)  # leading layers that need the whole clip
    for i, (_, kernel, stride) in enumerate(sizes):
        lengths = (lengths - kernel) // stride + 1
        if i < whole:
            x = model.conv_layers[i](x, lengths)
    return _tiled(model.conv_layers[whole:], sizes[whole:], x), lengths


def _tiled(layers: Sequence[Convolution] | nn.ModuleList, sizes: Sequence[tuple[int, int, int]], x: Tensor) -> Tensor:
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
            part = layer(part, None)
        if result is None:
            if stop == frames:
                return part
            result = part.new_empty(len(part), frames, part.shape[2])
        result[:, start:stop] = part
    assert result is not None
    return result

"""An ECAPA-TDNN speaker encoder in torch. The twin is ecapa_mlx.py: the same classes in order.

Dimensions: B clips, S samples, T columns of the spectrogram, F mel bands, K columns that a layer sees at a time, C
channels, D numbers of an embedding. The reference is speechbrain's Fbank and ECAPA_TDNN (arXiv 2005.07143).
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures import ecapa
from e2v_port.architectures.ecapa import FLOOR, RANGE, SMALLEST, STEP, WINDOW

from .layers_torch import Head, Trace, linear, parameter, sum_over_time, untraced, valid_frames

__all__ = ["Ecapa"]

TINY = 1e-12  # length below which an embedding has no direction


class Scale(nn.Module):
    """A factor and a shift of each channel: what a batch norm is after training."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = parameter(channels)
        self.bias = parameter(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class Layer(nn.Module):
    """A convolution over time, ReLU and a batch norm, [B, T, C] -> [B, T, C']."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, channels)
        self.norm = Scale(channels)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """Sees the columns `at` [B, T, K] side by side; without them, each column by itself."""
        if at is not None:
            x = torch.concatenate([taken(x, at[:, :, i]) for i in range(at.shape[2])], 2)
        return self.norm(F.relu(self.linear(x)))


class Block(nn.Module):
    """Layers on parts of the channels, each of which sees more time, and channel attention, with a residual sum."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        width, part = config.width, config.width // config.scale
        self.before = Layer(width, width)
        self.parts = nn.ModuleList([Layer(3 * part, part) for _ in range(config.scale - 1)])
        self.after = Layer(width, width)
        self.squeeze = nn.Linear(width, config.squeezed)
        self.excite = nn.Linear(config.squeezed, width)

    def forward(self, x: Tensor, at: Tensor, valid: Tensor) -> Tensor:
        residual = x
        first, *others = torch.chunk(self.before(x), len(self.parts) + 1, 2)
        found = [first]
        for i, part in enumerate(others):
            found.append(self.parts[i](part + found[-1] if i else part, at))
        x = self.after(torch.concatenate(found, 2))
        mean = sum_over_time(x.float() * valid) / valid.sum(1, keepdim=True)  # [B, 1, C]
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(mean.to(x.dtype)))))
        return x * gate + residual


class Pooling(nn.Module):
    """The mean and deviation over time of each channel, weighted by attention that knows those of the whole clip."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        self.frames = nn.Linear(config.joined, config.attended)
        self.mean = nn.Linear(config.joined, config.attended, bias=False)
        self.deviation = nn.Linear(config.joined, config.attended, bias=False)
        self.norm = Scale(config.attended)
        self.scores = nn.Linear(config.attended, config.joined)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        mean, deviation = self.statistics(x, valid / valid.sum(1, keepdim=True))
        whole = linear(mean, self.mean) + linear(deviation, self.deviation)  # [B, 1, attended]
        hidden = F.relu(linear(x, self.frames) + whole)
        scores = linear(torch.tanh(self.norm(hidden)), self.scores)
        weights = torch.softmax(torch.where(valid, scores, -math.inf), dim=1)
        return torch.concatenate(self.statistics(x, weights), -1)[:, 0]

    def statistics(self, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the weighted mean and standard deviation over time, [B, 1, C] each."""
        mean = sum_over_time(x * weights)
        variance = sum_over_time(torch.square(x - mean) * weights)
        return mean, torch.sqrt(variance.clamp_min(SMALLEST))


class Ecapa(nn.Module):
    """Waveforms in; frames and embeddings out."""

    def __init__(self, config: ecapa.EcapaConfig) -> None:
        super().__init__()
        self.config = config
        self.first = Layer(config.kernel * config.bands, config.width)
        self.blocks = nn.ModuleList([Block(config) for _ in config.dilations])
        self.join = Layer(len(config.dilations) * config.width, config.joined)
        self.pooling = Pooling(config)
        self.norm = Scale(2 * config.joined)
        self.projection = nn.Linear(2 * config.joined, config.embed_dim)
        self.head = Head(config) if config.has_head else None

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs the model.

        Args:
            waveform: Clips, zero-padded at the end, [B, S].
            samples: Samples of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, C] (undefined after a clip's end), embeddings [B, D] and logits [B, labels] (None without a
            head), all float32.
        """
        lengths = torch.tensor([self.config.frames(count) for count in samples], device=waveform.device)
        time = self.config.frames(waveform.shape[1])
        valid = valid_frames(lengths, time)[:, :, None]
        x = self.spectrogram(waveform, valid)  # [B, T, F]
        trace("spectrogram", x)
        x = x - sum_over_time(x * valid) / valid.sum(1, keepdim=True)
        trace("features", x)
        x = self.first(x.to(self.norm.weight.dtype), around(lengths, time, self.config.kernel, 1))
        trace("first", x)
        found = []
        for i, block in enumerate(self.blocks):
            x = block(x, around(lengths, time, 3, self.config.dilations[i]), valid)
            trace(f"blocks.{i}", x)
            found.append(x)
        frames = self.join(torch.concatenate(found, 2)).float()
        trace("frames", frames)
        x = self.pooling(frames, valid)
        trace("statistics", x)
        pooled = unit(linear(self.norm(x), self.projection).float())
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: Tensor, valid: Tensor) -> Tensor:
        """Computes the power in each mel band, in dB, at most RANGE below the highest of its clip.

        Args:
            waveform: Same as for `forward`.
            valid: Columns that belong to each clip, [B, T, 1].

        Returns:
            [B, T, F] in float32. Undefined after a clip's end.
        """
        x = F.pad(waveform.float(), (WINDOW // 2, WINDOW // 2)).unfold(1, WINDOW, STEP)  # [B, T, WINDOW]
        spectrum = torch.fft.rfft(x * window().to(x.device))
        power = torch.square(spectrum.real) + torch.square(spectrum.imag)
        levels = 10 * torch.log10((power @ bands(self.config.bands).to(x.device)).clamp_min(FLOOR))
        highest = torch.where(valid, levels, -math.inf).amax(dim=(1, 2), keepdim=True)
        return torch.maximum(levels, highest - RANGE)

    def score(self, x: Tensor, output: str = "") -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: Tensor = self.head.others[output](x) if output else self.head(x)
        return logits


def around(lengths: Tensor, time: int, kernel: int, dilation: int) -> Tensor:
    """Returns the columns that a layer sees at each column, mirrored at both ends of a clip, [B, T, K]."""
    at = torch.arange(time)[:, None] + dilation * (torch.arange(kernel) - kernel // 2)
    last = lengths[:, None, None] - 1
    return (last - torch.abs(last - torch.abs(at.to(last.device)))).clamp_min(0)


def taken(x: Tensor, at: Tensor) -> Tensor:
    """Returns the columns `at` [B, T] of x [B, T, C]."""
    return torch.take_along_dim(x, at[:, :, None], 1)


def unit(x: Tensor) -> Tensor:
    """Brings vectors [..., D] to length 1."""
    return x / torch.sqrt(torch.square(x).sum(-1, keepdim=True)).clamp_min(TINY)


@cache
def window() -> Tensor:
    """Returns the window, [WINDOW]."""
    return torch.from_numpy(ecapa.hamming())


@cache
def bands(number: int) -> Tensor:
    """Returns the mel filters, [WINDOW // 2 + 1, number]."""
    return torch.from_numpy(ecapa.filters(number).T)

"""Layers that several architectures share, in torch. The twin is layers_mlx.py.

Dimensions: B clips, S samples, T frames, C channels, D features per frame, H heads.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures.base import VARIANCE, Architecture, Transformer, WaveformTransformer
from e2v_port.architectures.heads import NORM_EPS, Step
from e2v_port.audio import SAMPLING_RATE

__all__ = [
    "Attention",
    "Convolution",
    "Encoder",
    "Head",
    "Mlp",
    "Positions",
    "Projection",
    "Readout",
    "Steps",
    "Trace",
    "WaveformEncoder",
    "linear",
    "parameter",
    "sum_over_time",
    "untraced",
    "valid_frames",
    "widened",
]

# Channels of a group below which a CPU convolves in float32: with AMX, oneDNN returns wrong sums for fewer of them in
# bfloat16, for some kernels by as much as the values themselves (pytorch/pytorch#163347).
NARROW = 16
LOCAL = 0.5  # seconds on both sides of a frame whose deviations score it: together about a word or two
LEAST = -30.0  # lowest logarithm of a weight of attention in such a neighborhood, so that no sum of weights is zero

Trace = Callable[[str, Tensor], None]  # receives the name and value of every stage


def untraced(_name: str, _value: Tensor) -> None:
    """Ignores a stage: the default trace."""


def parameter(*shape: int) -> nn.Parameter:
    """Returns a parameter of this shape. Its values are undefined until weights are loaded."""
    return nn.Parameter(torch.empty(shape))


def linear(x: Tensor, layer: Any) -> Tensor:
    """Applies the weight and bias of a layer in float32, whatever their type."""
    bias = layer.bias
    with torch.autocast(x.device.type, enabled=False):
        return F.linear(x.float(), layer.weight.float(), None if bias is None else bias.float())


def valid_frames(lengths: Tensor, time: int) -> Tensor:
    """Returns which of the frames belong to each clip rather than to its padding: [B] lengths to [B, T] booleans."""
    return torch.arange(time, device=lengths.device) < lengths[:, None]


def sum_over_time(x: Tensor) -> Tensor:
    """Sums [B, T, C] over time: [B, 1, C]."""
    return x.sum(1, keepdim=True)


class Convolution(nn.Module):
    """A strided convolution over time without padding, one of three norms, exact GELU.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        kernel: Frames per window.
        stride: Frames from one window to the next.
        bias: Whether the convolution has a bias.
        norm: `layer` for LayerNorm over channels, `group` for a norm of each channel over time, empty for none.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, bias: bool, norm: str) -> None:
        super().__init__()
        self.kernel, self.stride, self.kind = kernel, stride, norm
        self.weight = parameter(channels, kernel, in_channels)
        self.bias = parameter(channels) if bias else None
        self.norm = nn.LayerNorm(channels) if norm else None  # for `group`, holds the weights only

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Returns [B, T', C'] for x [B, T, C].

        Args:
            x: [B, T, C].
            lengths: Frames of each clip in the output, [B].
        """
        x = self.convolve(x)
        if self.norm is not None and self.kind == "layer":
            x = self.norm(x)
        elif self.norm is not None:
            x = self.over_time(x, lengths) * self.norm.weight + self.norm.bias
        return F.gelu(x)

    def convolve(self, x: Tensor) -> Tensor:
        # A window is k * C neighboring numbers, so the convolution is a single matrix product.
        x = x.to(self.weight.dtype)
        return F.linear(windows(x, self.kernel, self.stride), self.weight.flatten(1), self.bias)

    def over_time(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Scales each channel of each clip to zero mean and unit variance over the clip's own frames."""
        dtype = x.dtype
        x = x.float()
        counts = lengths[:, None, None]
        valid = valid_frames(lengths, x.shape[1])[:, :, None]  # [B, T, 1]
        x = x - sum_over_time(x * valid) / counts
        variance = sum_over_time(x * x * valid) / counts
        return (x * torch.rsqrt(variance + 1e-5)).to(dtype)


def windows(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Returns the windows of x [B, T, C] without copying them: [B, T', kernel * C]."""
    batch, time, channels = x.shape
    return x.as_strided((batch, (time - kernel) // stride + 1, kernel * channels), (x.stride(0), stride * channels, 1))


class Positions(nn.Module):
    """A grouped convolution over time that keeps the length, an optional LayerNorm without weights, exact GELU."""

    def __init__(self, dim: int, kernel: int, groups: int, norm: bool) -> None:
        super().__init__()
        self.kernel, self.groups, self.norm = kernel, groups, norm
        self.weight = parameter(dim, kernel, dim // groups)
        self.bias = parameter(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolve(x)[:, : x.shape[1]]  # an even kernel yields one frame too many
        return F.gelu(F.layer_norm(x, x.shape[2:]) if self.norm else x)

    def convolve(self, x: Tensor) -> Tensor:
        weight = widened(self.weight)
        bias = self.bias.to(weight.dtype)
        out = F.conv1d(x.to(weight.dtype).mT, weight.mT, bias, padding=self.kernel // 2, groups=self.groups)
        return out.mT.to(x.dtype)


def widened(weight: Tensor) -> Tensor:
    """Returns the weight of a grouped convolution, [C', k, C]: in float32 where a CPU may add up wrong in less."""
    return weight.float() if weight.device.type == "cpu" and weight.shape[2] < NARROW else weight


class Projection(nn.Module):
    """Projects the channels of the convolutions to the width of the transformer."""

    def __init__(self, channels: int, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)
        self.linear = nn.Linear(channels, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.norm(x))
        return out


class Attention(nn.Module):
    """Multi-head self-attention with an additive bias that broadcasts to [B, H, T, T], and a residual sum."""

    def __init__(self, dim: int, heads: int, key_bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim, bias=key_bias)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
        out: Tensor = residual + self.out_proj(self.mix(x, bias))
        return out

    def mix(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the weighted values of all heads side by side, [B, T, D]."""
        q = torch.unflatten(self.q_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)  # [B, H, T, D/H]
        k = torch.unflatten(self.k_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)
        v = torch.unflatten(self.v_proj(x), 2, (self.heads, -1)).swapaxes(1, 2)
        return self.attend(q, k, v, bias).swapaxes(1, 2).flatten(2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """Returns the values weighted by attention, [B, H, T, D/H]."""
        return F.scaled_dot_product_attention(q, k, v, scale=q.shape[-1] ** -0.5, attn_mask=bias)


class Mlp(nn.Module):
    """Two linear layers around an exact GELU, and a residual sum."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = residual + self.fc2(F.gelu(self.fc1(x)))
        return out


def scale_clips(x: Tensor, valid: Tensor) -> Tensor:
    """Scales each clip [B, T, C] to zero mean and unit variance over its frames and features together.

    Args:
        x: [B, T, C], float32.
        valid: Which of the frames belong to each clip, [B, T, 1].
    """
    count = sum_over_time(valid.float()) * x.shape[2]
    x = x - (x * valid).sum((1, 2), keepdim=True) / count
    variance = (torch.square(x) * valid).sum((1, 2), keepdim=True) / count
    return x * torch.rsqrt(variance + NORM_EPS)


class Steps(nn.Module):
    """Operations of a readout or a head in float32, as `architectures.heads.Step` says.

    Args:
        steps: The operations.
        width: Numbers that the first of them takes.
    """

    def __init__(self, steps: tuple[Step, ...], width: int) -> None:
        super().__init__()
        self.operations = steps
        for step in steps:
            if step.op not in {"linear", "norm"}:
                continue
            layer = nn.Linear(width, step.width, step.bias) if step.op == "linear" else nn.LayerNorm(width)
            width = step.width or width
            if step.name:
                setattr(self, step.name, layer)
            else:
                self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        """Returns [..., C'] for embeddings or frames [..., C].

        Args:
            x: Embeddings, or frames [B, T, C].
            valid: Which of the frames belong to each clip, [B, T, 1]; None for embeddings.
        """
        x = x.float()
        for step in self.operations:
            layer: Any = getattr(self, step.name) if step.name else self
            if step.op == "linear":
                x = linear(x, layer)
            elif step.op == "norm":
                x = F.layer_norm(x, x.shape[-1:], layer.weight.float(), layer.bias.float(), NORM_EPS)
            elif step.op == "clip_norm":
                assert valid is not None
                x = scale_clips(x, valid)
            elif step.op == "gelu":
                x = F.gelu(x)
            else:
                x = getattr(torch, step.op)(x)
        return x


class Head(Steps):
    """Everything that is computed from embeddings: the outputs, if there are any, and all further ones, by name."""

    def __init__(self, config: Architecture) -> None:
        super().__init__(config.head_steps, config.embed_dim)
        self.others = nn.ModuleDict({each.name: Steps(each.steps, config.embed_dim) for each in config.others})


def sum_over_windows(x: Tensor, reach: int) -> Tensor:
    """Sums [B, T, C] over each frame and `reach` frames on both sides of it, where there are any: [B, T, C].

    Sums of 1, 2, 4, ... frames are put together, since a difference of running sums would lose digits.
    """
    time, size, at, step = x.shape[1], 2 * reach + 1, 0, 1
    total = torch.zeros_like(x)
    x = F.pad(x, (0, 0, reach, reach))
    while size:
        if size % 2:
            total = total + x[:, at : at + time]
            at += step
        size //= 2
        if size:
            x = x[:, :-step] + x[:, step:]
            step *= 2
    return total


class Readout(nn.Module):
    """Makes embeddings of the outputs of blocks, in float32, as `architectures.base.Readout` says.

    Without one in the configuration, it takes the mean over time of a single output.
    """

    def __init__(self, config: Transformer) -> None:
        super().__init__()
        read = config.readout
        self.pooling = read.pooling if read else "mean"
        heads, width = read.heads if read else 0, config.frame_dim
        self.share = width // heads if heads else 0  # features of each head of attention
        self.reach = round(LOCAL * SAMPLING_RATE / config.hop)
        self.steps = Steps(read.steps if read else (), config.width)
        if read and len(read.layers) > 1:
            self.weights = parameter(len(read.layers))
        if self.pooling == "statistics":
            self.scores = nn.Linear(width, width)
        if heads:
            self.attention = nn.Linear(width, heads, bias=False)
        if self.pooling == "flatten":
            self.frames = config.frames(config.shortest)
            self.flatten = nn.Linear(self.frames * width, config.embed_dim)

    def combine(self, states: Sequence[Tensor]) -> Tensor:
        """Returns the weighted sum of the outputs of blocks, each [B, T, D]; a single one unchanged."""
        if len(states) == 1:
            return states[0]
        weights = torch.softmax(self.weights.float(), 0)
        total = weights[0] * states[0].float()
        for i, state in enumerate(states[1:], 1):
            total = total + weights[i] * state.float()
        return total

    def refine(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Applies the steps before pooling to frames [B, T, D], of which each clip has `lengths` [B]."""
        if not self.steps.operations:
            return frames
        refined: Tensor = self.steps(frames, valid_frames(lengths, frames.shape[1])[:, :, None])
        return refined

    def forward(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Returns the embeddings [B, embed_dim] of frames [B, T, D], of which each clip has `lengths` [B]."""
        x, valid = frames.float(), valid_frames(lengths, frames.shape[1])[:, :, None]  # [B, T, 1]
        if self.pooling == "mean":
            return (x * valid).sum(1) / lengths[:, None]
        if self.pooling == "flatten":
            return linear(x[:, : self.frames].flatten(1), self.flatten)
        weights, mean = self.weigh(x, valid, -math.inf)
        deviation = self.deviation(sum_over_time(torch.square(x - mean) * weights))
        return torch.concatenate([mean, deviation], 2)[:, 0]

    def deviation(self, variance: Tensor) -> Tensor:
        """Returns the standard deviation; the gradient of a root at zero is infinite."""
        return torch.sqrt(variance.clamp_min(VARIANCE) if self.pooling == "statistics" else variance + VARIANCE)

    def local(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Returns for every frame the embedding of itself, or where that takes deviations, of the second around it.

        Args:
            frames: [B, T, D].
            lengths: Frames of each clip, [B].

        Returns:
            [B, T, D or 2 D].
        """
        x, valid = frames.float(), valid_frames(lengths, frames.shape[1])[:, :, None]  # [B, T, 1]
        if self.pooling == "mean":
            return x
        weights, mean = self.weigh(x, valid, LEAST)
        x = x - mean  # the variance of a feature far from zero would have few digits
        total = sum_over_windows(weights, self.reach) + (1 - valid.float())  # not zero after a clip's end
        near = sum_over_windows(x * weights, self.reach) / total
        variance = F.relu(sum_over_windows(torch.square(x) * weights, self.reach) / total - torch.square(near))
        return torch.concatenate([near + mean, self.deviation(variance)], 2)

    def weigh(self, x: Tensor, valid: Tensor, least: float) -> tuple[Tensor, Tensor]:
        """Returns the weight of every frame and the weighted mean over time.

        Args:
            x: Frames [B, T, D].
            valid: Which of them belong to each clip, [B, T, 1].
            least: Lowest logarithm of a weight.

        Returns:
            [B, T, 1 or D], which sum to 1 over time, and [B, 1, D].
        """
        weights = valid / sum_over_time(valid.float())
        if self.share:
            scored = torch.tanh(linear(x, self.scores)) if self.pooling == "statistics" else x
            scores = torch.where(valid, scored @ self.attention.weight.float().T, -math.inf)  # [B, T, H]
            scores = scores - torch.logsumexp(scores, 1, keepdim=True)
            scores = torch.exp(torch.where(scores < least, least, scores)) * valid
            weights = torch.repeat_interleave(scores, self.share, 2)  # [B, T, D]
        return weights, sum_over_time(x * weights)


class Encoder(nn.Module, ABC):
    """The frame of every transformer: `begin`, the blocks, `finish` or a readout, pooling and a head.

    Attributes:
        stacks: Names of the lists of blocks, in order.
        extra: Number of tokens in front of the frames.
        config: Sizes of the network.
        readout: Pooling.
        head: Head, None for a model without one.
    """

    stacks: ClassVar[tuple[str, ...]] = ("blocks",)
    extra = 0

    config: Transformer
    readout: Readout
    head: Head | None

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs the model.

        Args:
            waveform: Normalized clips, zero-padded at the end, [B, S].
            samples: Samples of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D] in the type of the weights, or in float32 for a sum over layers (undefined after a clip's
            end); embeddings [B, embed_dim] and logits [B, labels] (None without a head), both float32.
        """
        padded = self.config.frames(min(samples)) < self.config.frames(waveform.shape[1])
        return self.encode(waveform, torch.tensor(samples, device=waveform.device), padded, trace)

    def encode(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Does the work of `forward` without reading a value back to the host, so that it can be recorded as a graph.

        Args:
            waveform: Same as for `forward`.
            samples: Samples of each clip, [B].
            padded: Whether any clip has fewer frames than the longest.
            trace: Same as for `forward`.
        """
        x, lengths, bias = self.begin(waveform, samples, padded, trace)
        layers = self.config.readout.layers if self.config.readout else (self.config.blocks,)
        states, last = [x[:, self.extra :]] if 0 in layers else [], x
        for number, last in enumerate(self.run(x, bias, trace), 1):
            if number in layers:
                states.append(last[:, self.extra :])
        if self.config.finished:
            states = [*states[:-1], self.finish(last[:, self.extra :], trace)]
        frames = self.readout.combine(states)
        if self.config.canvas:
            frames = frames[:, : self.config.frames(waveform.shape[1])]
        return self.pool(frames, lengths, trace)

    @abstractmethod
    def begin(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns the tokens [B, N, D] that the first block takes, the number of frames of each clip [B] and the bias.

        Args:
            waveform: Same as for `encode`.
            samples: Same as for `encode`.
            padded: Same as for `encode`.
            trace: Same as for `encode`.
        """

    def run(self, x: Tensor, bias: Tensor | None, trace: Trace) -> Iterator[Tensor]:
        """Runs the blocks on tokens [B, N, D] and yields the output of each."""
        for stack in self.stacks:
            for i, block in enumerate(getattr(self, stack)):
                x = block(x, bias)
                trace(f"{stack}.{i}", x)
                yield x

    def finish(self, x: Tensor, trace: Trace) -> Tensor:
        """Returns the frames [B, T, D] of a model without a readout, from the last block's output for them."""
        return x

    def hidden(self, waveform: Tensor, samples: list[int]) -> list[Tensor]:
        """Returns the output of every block for the frames, each [B, T, D]; arguments as for `forward`."""
        padded = self.config.frames(min(samples)) < self.config.frames(waveform.shape[1])
        x, _, bias = self.begin(waveform, torch.tensor(samples, device=waveform.device), padded, untraced)
        return [state[:, self.extra :] for state in self.run(x, bias, untraced)]

    def bias(self, x: Tensor, valid: Tensor, padded: bool) -> Tensor | None:
        """Returns an additive bias for the scores of attention that broadcasts to [B, H, T, T], or None.

        By default it is a mask of the frames after each clip's end, [B, 1, 1, T], and None where there are none.

        Args:
            x: Frames [B, T, D], whose type the bias gets.
            valid: Which frames belong to each clip, [B, T].
            padded: Whether any do not; those are masked.
        """
        if not padded:
            return None
        return torch.zeros_like(valid, dtype=x.dtype).masked_fill(~valid, -math.inf)[:, None, None, :]

    def pool(self, frames: Tensor, lengths: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns refined frames [B, T, D], the embedding of each clip [B, embed_dim], and its logits."""
        frames = self.readout.refine(frames, lengths)
        if self.readout.steps.operations:
            trace("refined", frames)
        pooled = self.readout(frames, lengths)
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)  # [B, labels]
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: Tensor, output: str = "") -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: Tensor = self.head.others[output](x) if output else self.head(x)
        return logits

    def score_frames(self, frames: Tensor, samples: list[int]) -> Tensor:
        """Applies the head to what the readout makes of each frame [B, T, D] and its neighbors: [B, T, labels]."""
        lengths = torch.tensor(list(map(self.config.frames, samples)), device=frames.device)
        return self.score(self.readout.local(frames, lengths))


class WaveformEncoder(Encoder):
    """An encoder that begins with convolutions on the waveform.

    Attributes:
        conv_layers: Convolutions of the feature extractor.
    """

    config: WaveformTransformer
    conv_layers: Sequence[Convolution] | nn.ModuleList

    def extract(self, waveform: Tensor, samples: Tensor, trace: Trace) -> tuple[Tensor, Tensor]:
        """Runs the convolutions on [B, S].

        Returns:
            [B, T, C] and the number of frames of each clip, [B].
        """
        x = waveform[:, :, None]  # [B, S, 1]
        lengths = samples
        for i, (layer, (_, kernel, stride)) in enumerate(zip(self.conv_layers, self.config.conv_layers, strict=True)):
            lengths = (lengths - kernel) // stride + 1
            x = layer(x, lengths)  # [B, T, C]
            trace(f"conv_layers.{i}", x)
        return x, lengths

"""A convolutional network on a log-mel spectrogram in torch. The twin is wav2small_mlx.py: the same classes in order.

Dimensions: B clips, S samples, T columns of the spectrogram (later frames), F mel bands, C channels, W features of the
pooling, D features of an embedding. The architecture follows wav2small (arXiv 2408.13920).

The network can be trained: `spectrogram` and `network` are the two halves of the forward pass, and any of `layers` may
be replaced by a module that takes and returns the same shapes. Under autocast, only the convolutions run in 16 bits.
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures.wav2small import Wav2smallConfig

from .layers_torch import Head, Trace, linear, parameter, sum_over_time, untraced, valid_frames

__all__ = ["Wav2small"]


class ConvLayer(nn.Module):
    """A 3 x 3 convolution that keeps time and bands, [B, C, T, F] -> [B, C', T, F] with channels last in memory."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.weight = parameter(channels, 3, 3, in_channels)
        self.bias = parameter(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.permute(0, 3, 1, 2), self.bias, padding=1)


class Gram(nn.Module):
    """The mean over time of W channels by bands, weighted by attention, and the product of that matrix with itself."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        channels = config.stages[-1][-1]
        self.values = nn.Linear(channels, config.width)
        self.weights = nn.Linear(channels, config.width)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        values = linear(x, self.values).swapaxes(2, 3)  # [B, T, W, F]
        weights = over_time(linear(x, self.weights).swapaxes(2, 3), valid)
        return self.embedding(values), self.embedding((values * weights).sum(1))

    def embedding(self, x: Tensor) -> Tensor:
        """Returns each channel's bands and its products with all channels, [..., W, F] -> [..., W * (F + W)]."""
        return torch.concatenate([x, x @ x.swapaxes(-1, -2)], -1).flatten(-2)


class Deviation(nn.Module):
    """The mean and standard deviation over time of W features, weighted by attention."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.values = nn.Linear(config.stages[-1][-1] * config.pooled_bands, config.width)
        self.weights = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        x = x.swapaxes(2, 3).flatten(2)  # [B, T, C * F]
        values = F.relu(linear(x, self.values))  # [B, T, W]
        weights = over_time(linear(values, self.weights), valid)
        mean = (values * weights).sum(1)
        variance = (torch.square(values - mean[:, None]) * weights).sum(1)
        frames = torch.concatenate([values, self.deviation(torch.zeros_like(values))], -1)
        return frames, torch.concatenate([mean, self.deviation(variance)], -1)

    def deviation(self, variance: Tensor) -> Tensor:
        """Returns the square root, kept away from zero, where it has no gradient."""
        return torch.sqrt(variance + 1e-5)


def over_time(x: Tensor, valid: Tensor) -> Tensor:
    """Applies a softmax over the columns of x [B, T, ...] that belong to each clip, [B, T]."""
    valid = valid.reshape(*valid.shape, *(1,) * (x.ndim - 2))
    return torch.softmax(torch.where(valid, x, -math.inf), dim=1)


class Wav2small(nn.Module):
    """Waveforms in; frames, embeddings and logits out."""

    mel: Tensor

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mel", torch.zeros(config.bands, config.window // 2 + 1))  # not trained
        channels = list(chain.from_iterable(config.stages))
        self.layers = nn.ModuleList([ConvLayer(*pair) for pair in zip([1, *channels], channels, strict=False)])
        self.pooling = Gram(config) if config.pooling == "gram" else Deviation(config)
        self.head = Head(config) if config.has_head else None

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs the model.

        Args:
            waveform: Normalized clips, zero-padded at the end, [B, S].
            samples: Samples of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D], each the embedding of a column by itself (undefined after a clip's end), embeddings [B, D]
            and logits [B, labels] (None without a head), all float32.
        """
        return self.network(*self.spectrogram(waveform, samples), trace)

    def spectrogram(self, waveform: Tensor, samples: list[int]) -> tuple[Tensor, list[int]]:
        """Computes the power in each mel band, in dB.

        Args:
            waveform: Same as for `forward`.
            samples: Same as for `forward`.

        Returns:
            [B, T, F] in float32, zero after a clip's end, with `band_norm` relative to the clip's mean; and the number
            of columns of each clip.
        """
        window, step = self.config.window, self.config.step
        x = F.pad(waveform.float(), (0, max(window - waveform.shape[1], 0)))
        x = x.unfold(1, window, step)  # [B, T, window]
        spectrum = torch.fft.rfft(x * torch.hann_window(window, dtype=torch.float32, device=x.device))
        power = torch.square(spectrum.real) + torch.square(spectrum.imag)
        with torch.autocast(x.device.type, enabled=False):
            x = 10 * torch.log10((power @ self.mel.float().T).clamp_min(self.config.floor))
        lengths = [self.config.windows(count) for count in samples]
        counts = torch.tensor(lengths, device=x.device)
        valid = valid_frames(counts, x.shape[1])[:, :, None]
        if self.config.band_norm:
            x = x - sum_over_time(x * valid) / counts[:, None, None]
        return x * valid, lengths

    def network(
        self, spectrogram: Tensor, lengths: list[int], trace: Trace = untraced
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs everything that follows the spectrogram.

        Args:
            spectrogram: [B, T, F], zero after a clip's end.
            lengths: Columns of each clip.
            trace: Same as for `forward`.

        Returns:
            The same as `forward`.
        """
        trace("spectrogram", spectrogram)
        x = spectrogram[:, None].to(self.mel.dtype)  # [B, 1, T, F]
        layers = enumerate(self.layers)
        for number, stage in enumerate(self.config.stages):
            if number:
                x = F.max_pool2d(x, 3, 2, 1)
                lengths = [(length + 1) // 2 for length in lengths]
            time = x.shape[2]
            valid = valid_frames(torch.tensor(lengths, device=x.device), time)
            padded = min(lengths) < time
            mask = valid[:, None, :, None]
            x = x * mask if padded else x
            for _, (i, layer) in zip(stage, layers, strict=False):
                y = layer(x)
                y = F.relu(x + y if self.config.residual and x.shape == y.shape else y)
                # The next convolution would carry values after a clip's end back into the clip.
                x = y * mask if padded else y
                trace(f"layers.{i}", x.permute(0, 2, 3, 1))
        x = x.permute(0, 2, 3, 1)  # [B, T, F, C]
        with torch.autocast(x.device.type, enabled=False):
            frames, pooled = self.pooling(x.float(), valid)
        trace("frames", frames)
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: Tensor, output: str = "") -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: Tensor = self.head.others[output](x) if output else self.head(x)
        return logits

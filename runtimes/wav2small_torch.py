"""A convolutional network on a log-mel spectrogram in torch. Its twin is wav2small_mlx.py: the same classes in order.

B clips, S samples, T columns (of the spectrogram, later frames), F mel bands, C channels, W the width of the pooling,
D the length of an embedding. The kind is that of wav2small (arXiv 2408.13920).

It can also be trained: `spectrogram` and `network` are the two halves of the forward pass, and any of `layers` may be
replaced by a module that takes and returns the same shapes. Under autocast the convolutions alone are in 16 bits.
"""

from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.config import Wav2smallConfig

from .layers_torch import Head, Trace

__all__ = ["Wav2small"]


class ConvLayer(nn.Module):
    """A 3 x 3 convolution that keeps time and bands, [B, C, T, F] -> [B, C', T, F] with channels last in memory."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        # Keeps the variance through a ReLU (arXiv 1502.01852). normal_ on "meta" would import half of torch, for 2 s.
        bound = (6 / (9 * in_channels)) ** 0.5
        self.weight = nn.Parameter(torch.empty(channels, 3, 3, in_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.permute(0, 3, 1, 2), self.bias, padding=1)


class Gram(nn.Module):
    """The mean over time of W channels by bands, weighted by attention, and the product of that matrix with itself."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        channels = config.stages[-1][-1]
        self.values = nn.Linear(channels, config.width)
        self.weights = nn.Linear(channels, config.width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        x = x.permute(0, 2, 3, 1)  # [B, T, F, C]
        values = _linear(x, self.values).mT  # [B, T, W, F]
        weights = _over_time(_linear(x, self.weights).mT, real)
        return self.embedding(values), self.embedding((values * weights).sum(1))

    def embedding(self, x: Tensor) -> Tensor:
        """[..., W, F] -> [..., W * (F + W)]: row by row, a channel's bands and its products with each channel."""
        return torch.cat([x, x @ x.mT], -1).flatten(-2)


class Deviation(nn.Module):
    """The mean and standard deviation over time of W features, weighted by attention."""

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.values = nn.Linear(config.stages[-1][-1] * config.pooled_bands, config.width)
        self.weights = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        x = x.transpose(1, 2).flatten(2)  # [B, T, C * F]
        values = torch.relu(_linear(x, self.values))  # [B, T, W]
        weights = _over_time(_linear(values, self.weights), real)
        mean = (values * weights).sum(1)
        variance = ((values - mean[:, None]).square() * weights).sum(1)
        frames = torch.cat([values, self.deviation(torch.zeros_like(values))], -1)
        return frames, torch.cat([mean, self.deviation(variance)], -1)

    def deviation(self, variance: Tensor) -> Tensor:
        """The root, kept from zero, where it has no gradient."""
        return torch.sqrt(variance + 1e-5)


def _linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight.float(), layer.bias.float())


def _over_time(x: Tensor, real: Tensor) -> Tensor:
    """Softmax over the columns [B, T, ...] that are a clip's own, [B, T]."""
    return x.masked_fill(~real.view(*real.shape, *(1,) * (x.dim() - 2)), -torch.inf).softmax(1)


class Wav2small(nn.Module):
    """Waveforms in, frames, embeddings and logits out."""

    mel: Tensor

    def __init__(self, config: Wav2smallConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mel", torch.zeros(config.bands, config.window // 2 + 1))
        channels = list(chain.from_iterable(config.stages))
        self.layers = nn.ModuleList(ConvLayer(*pair) for pair in zip([1, *channels], channels, strict=False))
        self.pooling = Gram(config) if config.pooling == "gram" else Deviation(config)
        self.head = Head(config) if config.num_labels else None

    def forward(
        self, waveform: Tensor, samples: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs the model.

        Args:
            waveform: [B, S], normalised, clips filled up with zeros behind their end.
            samples: Of each clip.
            trace: Called with the name and value of every stage.

        Returns:
            Frames [B, T, D], what the pooling makes of each by itself (those behind a clip's end mean nothing),
            embeddings [B, D] and logits [B, labels] (None without a head), all float32.
        """
        return self.network(*self.spectrogram(waveform, samples), trace)

    def spectrogram(self, waveform: Tensor, samples: list[int]) -> tuple[Tensor, list[int]]:
        """Returns the power in each mel band in dB, and how many columns of it are each clip's own.

        Args:
            waveform: As for `forward`.
            samples: As for `forward`.

        Returns:
            [B, T, F] in float32, with `band_norm` relative to the clip's mean; zero behind a clip's end.
        """
        window, step = self.config.window, self.config.step
        with torch.autocast(waveform.device.type, enabled=False):
            x = F.pad(waveform.float(), (0, max(window - waveform.shape[1], 0)))
            x = x.unfold(1, window, step) * torch.hann_window(window, device=x.device)
            spectrum = torch.fft.rfft(x)
            power = spectrum.real.square() + spectrum.imag.square()
            x = 10 * torch.log10((power @ self.mel.float().T).clamp_min(self.config.floor))
            lengths = [self.config.windows(count) for count in samples]
            real = self._real(lengths, x.shape[1], x)[:, :, None]
            if self.config.band_norm:
                x = x - (x * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
            return x * real, lengths

    def network(
        self, spectrogram: Tensor, lengths: list[int], trace: Trace = lambda _, __: None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Runs all behind the spectrogram.

        Args:
            spectrogram: [B, T, F], zero behind a clip's end.
            lengths: Columns of each clip.
            trace: As for `forward`.

        Returns:
            As `forward`.
        """
        trace("spectrogram", spectrogram)
        x = spectrogram[:, None].to(self.mel.dtype)  # [B, 1, T, F]
        layers = enumerate(self.layers)
        for number, stage in enumerate(self.config.stages):
            if number:
                x = F.max_pool2d(x, 3, 2, 1)
                lengths = [(length + 1) // 2 for length in lengths]
            real = self._real(lengths, x.shape[2], x)
            padded = min(lengths) < x.shape[2]
            own = real[:, None, :, None]
            x = x * own if padded else x
            for _, (i, layer) in zip(stage, layers, strict=False):
                y = layer(x)
                y = torch.relu(x + y if self.config.residual and x.shape == y.shape else y)
                # The next convolution would carry what lies behind a clip's end back into the clip.
                x = y * own if padded else y
                trace(f"layers.{i}", x.permute(0, 2, 3, 1))
        with torch.autocast(x.device.type, enabled=False):
            frames, pooled = self.pooling(x.float(), real)
        trace("frames", frames)
        trace("pooled", pooled)
        if self.head is None:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def score(self, x: Tensor) -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], float32."""
        assert self.head is not None
        logits: Tensor = self.head(x)
        return logits

    @staticmethod
    def _real(lengths: list[int], time: int, like: Tensor) -> Tensor:
        """Tells which columns are a clip's own, [B, T]."""
        return torch.arange(time, device=like.device) < torch.tensor(lengths, device=like.device)[:, None]

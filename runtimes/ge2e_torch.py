"""A GE2E speaker encoder in torch. The twin is ge2e_mlx.py: the same classes in order.

Dimensions: B clips, S samples, P excerpts of each clip, C columns of an excerpt, F mel bands, H numbers of a layer's
state, D features of an embedding. The reference is Resemblyzer's VoiceEncoder (arXiv 1710.10467).
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures.ge2e import Ge2eConfig
from e2v_port.audio import SAMPLING_RATE, mel_filters

from .layers_torch import Head, Trace, linear, untraced, valid_frames

__all__ = ["Ge2e"]

TINY = 1e-12  # length below which an embedding has no direction: of a network that has no output for silence


class Recurrent(nn.Module):
    """A layer of an LSTM, [N, C, inputs] -> [N, C, H], from a state of zeros."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.inputs = nn.Linear(inputs, 4 * width)
        self.states = nn.Linear(width, 4 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        none = torch.zeros(1, len(x), self.width, dtype=x.dtype, device=x.device)
        weights = [self.inputs.weight, self.states.weight, self.inputs.bias, torch.zeros_like(self.inputs.bias)]
        x, _, _ = torch.lstm(x, (none, none), weights, True, 1, 0.0, False, False, True)
        return x


class Ge2e(nn.Module):
    """Waveforms in; the embeddings of their excerpts and of all together out."""

    def __init__(self, config: Ge2eConfig) -> None:
        super().__init__()
        self.config = config
        inputs = [config.bands, *[config.width] * (config.depth - 1)]
        self.layers = nn.ModuleList([Recurrent(size, config.width) for size in inputs])
        self.projection = nn.Linear(config.width, config.embed_dim)
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
            Embeddings of the excerpts [B, P, D] (undefined after a clip's last), of the clips [B, D], and logits [B,
            labels] (None without a head), all float32.
        """
        lengths = torch.tensor([self.config.frames(count) for count in samples], device=waveform.device)
        time = self.config.frames(waveform.shape[1])
        x = self.spectrogram(waveform, time)  # [B, columns, F]
        trace("spectrogram", x)
        x = x.unfold(1, self.config.excerpt, self.config.apart).swapaxes(2, 3)  # [B, P, C, F]
        x = x.flatten(0, 1).to(self.projection.weight.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            trace(f"layers.{i}", x.reshape(-1, time, *x.shape[1:]))
        x = unit(F.relu(linear(x[:, -1], self.projection)).float())
        frames = x.reshape(-1, time, x.shape[1])  # [B, P, D]
        trace("frames", frames)
        pooled = unit((frames * valid_frames(lengths, time)[:, :, None]).sum(1))
        trace("pooled", pooled)
        if self.head is None or not self.config.num_labels:
            return frames, pooled, None
        logits = self.score(pooled)
        trace("logits", logits)
        return frames, pooled, logits

    def spectrogram(self, waveform: Tensor, excerpts: int) -> Tensor:
        """Computes the power in each mel band.

        Args:
            waveform: Same as for `forward`.
            excerpts: Number of excerpts to cover; what a clip lacks is silence.

        Returns:
            [B, columns, F] in float32.
        """
        window, size = self.config.window, self.config.covered(excerpts) - self.config.window // 2
        x = self.config.level * waveform[:, :size]
        x = F.pad(x, (window // 2, size - x.shape[1]))
        x = x.unfold(1, window, self.config.step)  # [B, columns, window]
        spectrum = torch.fft.rfft(x * torch.hann_window(window, dtype=torch.float32, device=x.device))
        power = torch.square(spectrum.real) + torch.square(spectrum.imag)
        return power @ bands(self.config.bands, window).to(x.device)

    def score(self, x: Tensor, output: str = "") -> Tensor:
        """Applies the head to embeddings [..., D]: logits [..., labels], or a further output by name; float32."""
        assert self.head is not None
        logits: Tensor = self.head.others[output](x) if output else self.head(x)
        return logits


def unit(x: Tensor) -> Tensor:
    """Brings vectors [..., D] to length 1."""
    return x / torch.sqrt(torch.square(x).sum(-1, keepdim=True)).clamp_min(TINY)


@cache
def bands(number: int, window: int) -> Tensor:
    """Returns the mel filters, [window // 2 + 1, number]."""
    return torch.from_numpy(mel_filters(number, window, 0, SAMPLING_RATE / 2).T)

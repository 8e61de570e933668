"""The encoder of Whisper in torch. The twin is whisper_mlx.py: the same classes in the same order.

Dimensions: B clips, S samples, M columns of the spectrogram, T frames, D features per frame, H heads. The reference is
transformers' WhisperFeatureExtractor and WhisperEncoder (arXiv 2212.04356).
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from e2v_port.architectures.whisper import COLUMN, STRIDES, WINDOW, WhisperConfig
from e2v_port.audio import mel_filters

from .layers_torch import Attention, Convolution, Encoder, Head, Mlp, Readout, Trace, valid_frames

__all__ = ["Whisper"]

ROWS = 512  # frames whose positions are computed together


class Block(nn.Module):
    """A transformer block that normalizes before each of its two halves."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attn = Attention(config.width, config.num_heads, key_bias=False)
        self.norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config.width, config.ffn_dim)
        self.norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        x = self.attn(self.norm1(x), bias, residual=x)
        out: Tensor = self.mlp(self.norm2(x), residual=x)
        return out


class Whisper(Encoder):
    """Waveforms in; frames, their mean and logits out."""

    config: WhisperConfig

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        sizes = zip((config.bands, config.width), STRIDES, strict=True)  # channels and stride
        self.conv_layers = nn.ModuleList(
            [Convolution(channels, config.width, 3, stride, True, "") for channels, stride in sizes]
        )
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.norm = nn.LayerNorm(config.width, eps=config.norm_eps) if config.finished else None
        self.readout = Readout(config)
        self.head = Head(config) if config.has_head else None

    def begin(
        self, waveform: Tensor, samples: Tensor, padded: bool, trace: Trace
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        read, samples = (samples // COLUMN + 1) // 2, samples.clamp_min(self.config.canvas)
        waveform = F.pad(waveform, (0, max(self.config.canvas - waveform.shape[1], 0)))
        lengths = samples // COLUMN
        x = self.spectrogram(waveform, samples)  # [B, M, bands]
        trace("spectrogram", x)
        for i, (layer, stride) in enumerate(zip(self.conv_layers, STRIDES, strict=True)):
            # Without the mask, the convolution would carry values after a clip's end back into the clip.
            x = F.pad(x * valid_frames(lengths, x.shape[1])[:, :, None], (0, 0, 1, 1))
            lengths = (lengths - 1) // stride + 1
            x = layer(x, lengths)  # [B, T, D]
            trace(f"conv_layers.{i}", x)
        x = x + marks(x.shape[1], self.config, x.device).to(x.dtype)
        trace("positions", x)
        return x, read, self.bias(x, valid_frames(lengths, x.shape[1]), padded)

    def spectrogram(self, waveform: Tensor, samples: Tensor) -> Tensor:
        """Computes the logarithm of the power in each mel band.

        Args:
            waveform: Clips, zero-padded at the end, [B, S].
            samples: Samples of each clip, [B].

        Returns:
            [B, M, bands] in float32: (p + 4) / 4 for p, the base-10 logarithm, of at least the clip's highest less 8.
            Undefined after a clip's end.
        """
        columns = waveform.shape[1] // COLUMN
        # The windows are centered on multiples of COLUMN, so that a clip is continued by its mirror image at both ends.
        beyond = torch.arange(WINDOW // 2 - COLUMN, device=waveform.device)
        end = torch.gather(waveform, 1, samples[:, None] - 2 - beyond)
        x = F.pad(waveform, (0, len(beyond))).scatter(1, samples[:, None] + beyond, end)
        x = torch.concatenate([waveform[:, 1 : WINDOW // 2 + 1].flip(1), x], 1)
        x = x.unfold(1, WINDOW, COLUMN)[:, :columns]  # [B, M, WINDOW]
        spectrum = torch.fft.rfft(x * torch.hann_window(WINDOW, dtype=x.dtype, device=x.device))
        power = torch.square(spectrum.real) + torch.square(spectrum.imag)
        x = torch.log10((power @ filters(self.config.bands, x.device)).clamp_min(1e-10))
        valid = valid_frames(samples // COLUMN, columns)[:, :, None]
        highest = torch.where(valid, x, -math.inf).amax((1, 2), keepdim=True)
        return (torch.maximum(x, highest - 8) + 4) / 4

    def finish(self, x: Tensor, trace: Trace) -> Tensor:
        assert self.norm is not None
        x = self.norm(x)
        trace("frames", x)
        return x


@cache
def filters(bands: int, device: torch.device) -> Tensor:
    """Returns the mel filters, [WINDOW // 2 + 1, bands]. Cached: CUDA graph capture forbids copies from the host."""
    with torch.inference_mode(False):  # a tensor made in inference mode could not be trained with
        return torch.from_numpy(mel_filters(bands, WINDOW, 0, 8000).T.copy()).to(device)


def marks(frames: int, config: WhisperConfig, device: torch.device) -> Tensor:
    """Returns what marks the positions of frames, [frames, width]."""
    return table(-(-frames // ROWS) * ROWS, config, device)[:frames]


@cache
def table(frames: int, config: WhisperConfig, device: torch.device) -> Tensor:
    """Returns the same, for whole multiples of ROWS frames. Cached like `filters`."""
    with torch.inference_mode(False):
        return torch.from_numpy(config.positions(frames)).to(device)

"""The encoder of Whisper: sizes, stored tensors, operations, and the numbers that no checkpoint needs to store."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Transformer
from e2v_port.architectures.shapes import Shape, is_size, norm

__all__ = ["COLUMN", "MAX_FRAMES", "STRIDES", "WINDOW", "WhisperConfig", "positions", "sinusoids"]

# Of every Whisper, in samples at 16 kHz: a window of the spectrogram, and the step to the next column.
WINDOW = 400
COLUMN = 160
STRIDES = (1, 2)  # of its two convolutions, whose kernels are 3
MAX_FRAMES = 1500  # 30 s: no checkpoint has positions for more


@dataclass(frozen=True, kw_only=True)
class WhisperConfig(Transformer):
    """Sizes of one encoder of Whisper (arXiv 2212.04356).

    Attributes:
        bands: Mel bands of the spectrogram.
        pad: Whether clips of less than 30 s are filled up with zeros, as Whisper was trained; 1500 frames are then read
            of each, silence included.
        fixed_frames: Frames that the blocks process of every clip: shorter ones are followed by silence, whose frames
            are not read, and longer ones run in windows. None for as many as the clip has.
    """

    waveform_eps: ClassVar[float] = 1e-7  # of transformers' WhisperFeatureExtractor, where it is asked to normalize

    bands: int
    pad: bool
    fixed_frames: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        fixed = self.fixed_frames
        if fixed is not None and (self.pad or not is_size(fixed) or fixed > MAX_FRAMES):
            raise ValueError(f"fixed_frames is {fixed!r}")

    @property
    def longest(self) -> int:
        """Samples of the longest clip that runs in one piece: 30 s, or those of `fixed_frames`."""
        return (self.fixed_frames or MAX_FRAMES) * self.hop

    @property
    def canvas(self) -> int:
        """Samples that the network fills a clip up to by itself: those of `fixed_frames`."""
        return (self.fixed_frames or 0) * self.hop

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320, 20 ms."""
        return 2 * COLUMN

    @property
    def shortest(self) -> int:
        """Samples that shorter clips are filled up to: 30 s with `pad`, else 0."""
        return MAX_FRAMES * self.hop if self.pad else 0

    def columns(self, samples: int) -> int:
        """Returns the number of columns in the spectrogram of a clip of this many samples."""
        return max(samples, self.shortest, self.canvas) // COLUMN

    def frames(self, samples: int) -> int:
        """Returns the number of frames in a clip of this many samples: one for two columns, the last may have one."""
        return (max(samples, self.shortest) // COLUMN + 1) // 2

    def tokens(self, samples: int) -> int:
        """Returns the number of frames that the blocks process for such a clip: with `fixed_frames`, those."""
        return (self.columns(samples) + 1) // 2

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`."""
        stored: dict[str, Shape] = {}
        for i, channels in enumerate((self.bands, self.width)):
            stored[f"conv_layers.{i}.weight"] = (self.width, 3, channels)
            stored[f"conv_layers.{i}.bias"] = (self.width,)
        blocks = self._blocks("blocks", self.depth)
        stored |= {name: shape for name, shape in blocks.items() if not name.endswith("k_proj.bias")}
        if self.finished:
            stored |= norm("norm", self.width)
        return stored | self._readout_and_head()

    def positions(self, frames: int) -> NDArray[np.float32]:
        """Returns what is added to the frames to mark their positions, [frames, width].

        With `fixed_frames`, another program than OpenAI's has computed them anew, in float32.
        """
        return sinusoids(frames, self.width) if self.fixed_frames else positions(frames, self.width)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the architecture as in `Transformer`; files may not mention `fixed_frames`, which was added later."""
        return super().from_dict({"fixed_frames": None} | values)

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        columns, frames, width = self.columns(samples), self.tokens(samples), self.width
        return {
            "spectrogram": 2 * columns * (WINDOW // 2 + 1) * self.bands,
            "convolutions": 2 * 3 * width * (columns * self.bands + frames * width),
            **self._block_operations(samples),
        }


def positions(frames: int, width: int) -> NDArray[np.float32]:
    """Returns what OpenAI's models add to the frames to mark their positions, [frames, width].

    All numbers of Whisper were published in 16 bits, these too, so that they are rounded here in the same way.
    """
    return sinusoids(frames, width).astype(np.float16).astype(np.float32)


def sinusoids(frames: int, width: int) -> NDArray[np.float32]:
    """Returns sines and cosines of the positions of frames, [frames, width].

    The wavelengths of the width / 2 sines grow from 2 pi to 20 000 pi frames (arXiv 1706.03762); the cosines follow
    them.
    """
    half = width // 2
    scales = np.exp(-np.log(10_000) / (half - 1) * np.arange(half))
    angles = np.arange(frames)[:, None] * scales
    return np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)

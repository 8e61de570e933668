"""ECAPA-TDNN speaker encoders: sizes, stored tensors, operations, and the numbers that no checkpoint stores."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.shapes import Shape, is_size, linear, norm
from e2v_port.audio import SAMPLING_RATE

__all__ = ["FLOOR", "RANGE", "SMALLEST", "STEP", "WINDOW", "EcapaConfig", "filters", "hamming"]

# Of speechbrain's Fbank with its own defaults, in samples at 16 kHz, and its Filterbank's.
WINDOW = 400
STEP = 160
FLOOR = 1e-10  # lowest power in a band
RANGE = 80.0  # dB below the loudest band of a clip that are kept

SMALLEST = 1e-12  # lowest variance over time, of speechbrain's AttentiveStatisticsPooling


@dataclass(frozen=True, kw_only=True)
class EcapaConfig(Architecture):
    """Sizes of a network of time-delay layers with channel attention (arXiv 2005.07143), as speechbrain has it.

    A frame is the output of the last layer before pooling. The embedding has length 1, which speechbrain leaves to the
    cosine similarity.

    Attributes:
        bands: Mel bands of the spectrogram.
        kernel: Columns that the first layer sees at a time, an odd number.
        width: Channels of the blocks.
        dilations: For each block, columns from one of the three that its convolutions see to the next.
        scale: Parts that the channels of a block are cut into, each of which sees more time than the one before.
        squeezed: Channels between the two layers of channel attention.
        joined: Channels of the layer that joins the outputs of all blocks.
        attended: Channels between the two layers of attention over time.
    """

    waveform_eps: ClassVar[float] = 1e-10  # never used: speechbrain does not normalize the waveform
    mean_of_frames: ClassVar[bool] = False
    half_precision: ClassVar[bool] = False  # not measured on the published weights
    speakers: ClassVar[bool] = True

    bands: int
    kernel: int
    width: int
    dilations: tuple[int, ...]
    scale: int
    squeezed: int
    joined: int
    attended: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.dilations) is not tuple or not self.dilations or not all(map(is_size, self.dilations)):
            raise ValueError(f"dilations is {self.dilations!r}")
        if not self.kernel % 2 or self.width % self.scale or self.scale < 2:
            raise ValueError(f"kernel, width and scale are {self.kernel, self.width, self.scale}")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 160, 10 ms."""
        return STEP

    @property
    def shortest(self) -> int:
        """Samples that shorter clips are filled up to, so that each layer finds enough columns to mirror at the ends.

        speechbrain fails on shorter ones.
        """
        return max(*self.dilations, self.kernel // 2) * STEP

    @property
    def frame_dim(self) -> int:
        """Length of the embedding of a single frame."""
        return self.joined

    @property
    def judges_frames(self) -> bool:
        """Whether the head can be applied to a part of a clip: never, since frames are not embeddings."""
        return False

    def frames(self, samples: int) -> int:
        """Returns the number of frames in a clip of this many samples."""
        return samples // STEP + 1

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`.

        A convolution is a linear layer on neighboring columns side by side, the earliest first.
        """
        part = self.width // self.scale
        stored = _layer("first", self.width, self.kernel * self.bands)
        for i in range(len(self.dilations)):
            stored |= _layer(f"blocks.{i}.before", self.width, self.width)
            for j in range(self.scale - 1):
                stored |= _layer(f"blocks.{i}.parts.{j}", part, 3 * part)
            stored |= _layer(f"blocks.{i}.after", self.width, self.width)
            stored |= linear(f"blocks.{i}.squeeze", self.squeezed, self.width)
            stored |= linear(f"blocks.{i}.excite", self.width, self.squeezed)
        stored |= _layer("join", self.joined, len(self.dilations) * self.width)
        stored |= linear("pooling.frames", self.attended, self.joined)
        stored["pooling.mean.weight"] = stored["pooling.deviation.weight"] = (self.attended, self.joined)
        stored |= norm("pooling.norm", self.attended) | linear("pooling.scores", self.joined, self.attended)
        stored |= norm("norm", 2 * self.joined) | linear("projection", self.embed_dim, 2 * self.joined)
        return stored | self._head()

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        time, part, blocks = self.frames(samples), self.width // self.scale, len(self.dilations)
        block = 2 * self.width**2 + 3 * (self.scale - 1) * part**2
        return {
            "spectrogram": 2 * time * (WINDOW // 2 + 1) * self.bands,
            "convolutions": 2 * time * (self.kernel * self.bands * self.width + blocks * block),
            "channel attention": blocks * 4 * self.width * self.squeezed,
            "joining": 2 * time * blocks * self.width * self.joined,
            "pooling": 4 * (time + 1) * self.joined * self.attended,
            "projection": 4 * self.joined * self.embed_dim,
            "head": self._head_operations(),
        }

    def packable(self, name: str, shape: Shape) -> bool:
        """Returns whether a tensor is a matrix of a layer; see `Architecture`."""
        return len(shape) == 2 and name.startswith(("first.", "blocks.", "join."))


def _layer(name: str, out: int, inputs: int) -> dict[str, Shape]:
    return linear(f"{name}.linear", out, inputs) | norm(f"{name}.norm", out)


def hamming() -> NDArray[np.float32]:
    """Returns the window of the spectrogram, [WINDOW]."""
    return (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)).astype(np.float32)


def filters(bands: int) -> NDArray[np.float32]:
    """Returns speechbrain's triangular filters from a power spectrum to mel bands, [bands, WINDOW // 2 + 1].

    Each is as wide on its right as on its left, which is the distance to the center before it, and 1 high. The scale is
    HTK's.
    """
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLING_RATE / 2 / 700), bands + 2)
    hz = 700 * (10 ** (mel / 2595) - 1)
    bins = np.arange(WINDOW // 2 + 1) * SAMPLING_RATE / WINDOW
    slope = (bins - hz[1:-1, None]) / (hz[1:-1] - hz[:-2])[:, None]
    triangles: NDArray[np.float32] = np.maximum(0, np.minimum(1 + slope, 1 - slope)).astype(np.float32)
    return triangles

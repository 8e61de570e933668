"""wav2small and networks of its kind: sizes, stored tensors, operations."""

from dataclasses import dataclass
from itertools import chain, pairwise
from typing import ClassVar

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.shapes import Shape, is_size, linear

__all__ = ["Wav2smallConfig"]


@dataclass(frozen=True, kw_only=True)
class Wav2smallConfig(Architecture):
    """Sizes of a convolutional network on a log-mel spectrogram, of the kind of wav2small (arXiv 2408.13920).

    Attributes:
        window: Samples in a Hann window of the spectrogram; shorter clips are padded with zeros.
        step: Samples from one window to the next.
        bands: Mel bands.
        floor: Lowest power in a band; anything below counts as this much. In float32 a spectrum has no digits left
            about 130 dB below its loudest part, so runtimes would disagree on what lies there.
        band_norm: Whether each band is brought to zero mean over the clip, which removes the constant coloring of a
            microphone, a line or a room.
        stages: Channels of each 3 x 3 convolution, stage by stage; between two stages the map is halved in time and
            in bands.
        residual: Whether a convolution that keeps the number of channels adds its input to its output.
        pooling: `gram`: the mean over time, weighted by attention, of `width` channels by bands, and the product of
            that matrix with itself; `deviation`: the weighted mean and standard deviation of `width` features.
        width: Channels or features that the pooling works on.
    """

    waveform_eps: ClassVar[float] = 1e-7  # of the published model
    mean_of_frames: ClassVar[bool] = False
    half_precision: ClassVar[bool] = False  # a spectrogram in decibels needs more, and so small a network gains nothing

    window: int
    step: int
    bands: int
    floor: float
    band_norm: bool
    stages: tuple[tuple[int, ...], ...]
    residual: bool
    pooling: str
    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.stages or not all(stage and all(map(is_size, stage)) for stage in self.stages):
            raise ValueError(f"stages is {self.stages!r}")
        if type(self.floor) is not float or not 0 < self.floor < 1:
            raise ValueError(f"floor is {self.floor!r}")
        if self.pooling not in {"gram", "deviation"}:
            raise ValueError(f"pooling is {self.pooling!r}")
        wanted = self.width * (self.pooled_bands + self.width) if self.pooling == "gram" else 2 * self.width
        if self.embed_dim != wanted:
            raise ValueError(f"embed_dim is {self.embed_dim}, but {self.pooling} pooling gives {wanted}")

    @property
    def pooled_bands(self) -> int:
        """Bands left after the last stage."""
        return self._halved(self.bands)

    @property
    def hop(self) -> int:
        """Samples from one frame after the last stage to the next."""
        return int(self.step * 2 ** (len(self.stages) - 1))

    def frames(self, samples: int) -> int:
        """Returns the number of frames after the last stage, for a clip of this many samples."""
        return self._halved(self.windows(samples))

    def windows(self, samples: int) -> int:
        """Returns the number of columns in the spectrogram of a clip of this many samples."""
        return max(samples - self.window, 0) // self.step + 1

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`."""
        stored: dict[str, Shape] = {"mel": (self.bands, self.window // 2 + 1)}
        channels = 1
        for i, out in enumerate(chain.from_iterable(self.stages)):
            stored[f"layers.{i}.weight"] = (out, 3, 3, channels)
            stored[f"layers.{i}.bias"] = (out,)
            channels = out
        # `gram` keeps the bands apart, `deviation` mixes them.
        inputs = channels if self.pooling == "gram" else channels * self.pooled_bands
        stored |= linear("pooling.values", self.width, inputs)
        stored |= linear("pooling.weights", self.width, channels if self.pooling == "gram" else self.width)
        return stored | self._head()

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        time, bands, channels, convolutions = self.windows(samples), self.bands, 1, 0
        mel = 2 * time * (self.window // 2 + 1) * bands
        for number, stage in enumerate(self.stages):
            if number:
                time, bands = (time + 1) // 2, (bands + 1) // 2
            for before, out in pairwise((channels, *stage)):
                convolutions += 2 * time * bands * 9 * before * out
            channels = stage[-1]
        if self.pooling == "gram":  # of every frame and of the whole
            pooling = 4 * time * bands * channels * self.width + 2 * (time + 1) * self.width**2 * bands
        else:
            pooling = 2 * time * self.width * (channels * bands + self.width)
        head = self._head_operations()
        return {"spectrogram": mel, "convolutions": convolutions, "pooling": pooling, "head": head}

    def _halved(self, size: int) -> int:
        for _ in self.stages[1:]:
            size = (size + 1) // 2
        return size

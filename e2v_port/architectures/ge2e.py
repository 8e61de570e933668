"""GE2E speaker encoders: sizes, stored tensors, operations."""

from dataclasses import dataclass
from typing import ClassVar

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.shapes import Shape, linear

__all__ = ["Ge2eConfig"]


@dataclass(frozen=True, kw_only=True)
class Ge2eConfig(Architecture):
    """Sizes of an LSTM on mel bands that tells voices apart (GE2E, arXiv 1710.10467), as Resemblyzer has it.

    A frame is the embedding of one excerpt of the clip, of length 1. The embedding of the clip is the mean of its
    frames, brought to length 1. A clip shorter than an excerpt is followed by silence.

    Attributes:
        level: Root mean square that every clip is brought to, as a share of full scale. The spectrogram has no
            logarithm, so that the network would take a quiet voice for another one.
        window: Samples in a Hann window of the spectrogram, an even number.
        step: Samples from one window to the next.
        bands: Mel bands.
        excerpt: Columns of the spectrogram in an excerpt.
        apart: Columns from the start of one excerpt to that of the next.
        least: Columns of the clip that an excerpt after the first must hold.
        depth: Layers of the LSTM.
        width: Numbers in the state of a layer.
    """

    waveform_eps: ClassVar[float] = 1e-10  # far below the noise of 16 bits
    mean_of_frames: ClassVar[bool] = False
    half_precision: ClassVar[bool] = False  # so small a network gains nothing
    speakers: ClassVar[bool] = True
    widened: ClassVar[bool] = True  # in float16, torch's LSTM takes ten times as long on a CPU

    level: float
    window: int
    step: int
    bands: int
    excerpt: int
    apart: int
    least: int
    depth: int
    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.level) is not float or not 0 < self.level < 1:
            raise ValueError(f"level is {self.level!r}")
        if self.window % 2 or not self.depth or self.least > self.excerpt:
            raise ValueError(
                f"window, depth, excerpt and least are {self.window, self.depth, self.excerpt, self.least}"
            )

    @property
    def hop(self) -> int:
        """Samples from the start of one excerpt to that of the next."""
        return self.apart * self.step

    @property
    def joining(self) -> str:
        """How the windows of a long clip join into one embedding; see `Architecture`."""
        return "mean"

    def frames(self, samples: int) -> int:
        """Returns the number of excerpts of a clip of this many samples: at least one."""
        return max(samples - self.least * self.step, 0) // self.hop + 1

    def columns(self, excerpts: int) -> int:
        """Returns the columns of the spectrogram that this many excerpts cover."""
        return (excerpts - 1) * self.apart + self.excerpt

    def covered(self, excerpts: int) -> int:
        """Returns the samples under the windows of these columns; the first is centered on the first sample."""
        return (self.columns(excerpts) - 1) * self.step + self.window

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`.

        The rows of a layer are those of its gates: input, forget, cell, output.
        """
        stored: dict[str, Shape] = {}
        for i in range(self.depth):
            stored |= linear(f"layers.{i}.inputs", 4 * self.width, self.width if i else self.bands)
            stored[f"layers.{i}.states.weight"] = (4 * self.width, self.width)
        return stored | linear("projection", self.embed_dim, self.width) | self._head()

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        excerpts = self.frames(samples)
        inputs = self.bands + (self.depth - 1) * self.width
        return {
            "spectrogram": 2 * self.columns(excerpts) * (self.window // 2 + 1) * self.bands,
            "LSTM": 2 * excerpts * self.excerpt * 4 * self.width * (inputs + self.depth * self.width),
            "projection": 2 * excerpts * self.width * self.embed_dim,
            "head": self._head_operations(),
        }

    def packable(self, name: str, shape: Shape) -> bool:
        """Returns whether a tensor is a matrix of the LSTM; see `Architecture`."""
        return name.startswith("layers.") and len(shape) == 2

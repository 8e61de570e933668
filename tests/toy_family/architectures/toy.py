"""A network of one layer over pieces of the waveform: sizes, stored tensors, operations."""

from dataclasses import dataclass
from typing import ClassVar

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.shapes import Shape, linear


@dataclass(frozen=True, kw_only=True)
class ToyConfig(Architecture):
    """Sizes of a toy.

    Attributes:
        kernel: Samples in a frame.
        stride: Samples from one frame to the next.
    """

    waveform_eps: ClassVar[float] = 1e-5
    mean_of_frames: ClassVar[bool] = True
    half_precision: ClassVar[bool] = True

    kernel: int
    stride: int

    @property
    def hop(self) -> int:
        return self.stride

    def frames(self, samples: int) -> int:
        return (samples - self.kernel) // self.stride + 1

    def tensors(self) -> dict[str, Shape]:
        return linear("frame", self.embed_dim, self.kernel) | self._head()

    def operations(self, samples: int) -> dict[str, int]:
        frame = 2 * self.frames(samples) * self.kernel * self.embed_dim
        return {"frames": frame, "head": self._head_operations()}

    def packable(self, name: str, _shape: Shape) -> bool:
        return name == "frame.weight"

"""emotion2vec: sizes, stored tensors, operations."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from e2v_port.architectures.base import WaveformTransformer
from e2v_port.architectures.shapes import Shape, linear, norm

__all__ = ["Emotion2vecConfig"]


@dataclass(frozen=True, kw_only=True)
class Emotion2vecConfig(WaveformTransformer):
    """Sizes of one emotion2vec. `depth` counts the blocks after the context encoder.

    Attributes:
        num_alibi_heads: How many heads, counted from the first, have an ALiBi bias.
        prenet_depth: Blocks of the context encoder.
        conv_pos_depth: Layers of the positional encoder.
        num_extra_tokens: Learned tokens in front of the frames.
    """

    waveform_eps: ClassVar[float] = 1e-5  # default of the layer norm that FunASR calls

    num_alibi_heads: int
    prenet_depth: int
    conv_pos_depth: int
    num_extra_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_alibi_heads > self.num_heads:
            raise ValueError(f"{self.num_alibi_heads} ALiBi heads, but {self.num_heads} heads in all")

    @property
    def blocks(self) -> int:
        """Number of all blocks: those of the context encoder and those after it."""
        return self.prenet_depth + self.depth

    def cut(self, blocks: int) -> Self:
        """Returns the architecture with this many blocks; see `Transformer`."""
        prenet = min(self.prenet_depth, blocks)
        return replace(super().cut(blocks - prenet), prenet_depth=prenet)

    def tokens(self, samples: int) -> int:
        """Returns the number of tokens that the blocks process for such a clip: frames and extra tokens."""
        return self.frames(samples) + self.num_extra_tokens

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`."""
        dim = self.width
        stored: dict[str, Shape] = {}
        channels = 1
        for i, (out, kernel, _) in enumerate(self.conv_layers):
            stored[f"conv_layers.{i}.weight"] = (out, kernel, channels)
            stored |= norm(f"conv_layers.{i}.norm", out)
            channels = out
        stored |= norm("projection.norm", channels)
        stored |= linear("projection.linear", dim, channels)
        for i in range(self.conv_pos_depth):
            stored[f"positions.{i}.weight"] = (dim, self.conv_pos_kernel, dim // self.conv_pos_groups)
            stored[f"positions.{i}.bias"] = (dim,)
        stored["alibi_scale"] = (self.num_alibi_heads,)
        stored["extra_tokens"] = (self.num_extra_tokens, dim)
        stored |= norm("context_norm", dim)
        stored |= self._blocks("context_blocks", self.prenet_depth)
        stored |= self._blocks("blocks", self.depth)
        return stored | self._readout_and_head()

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        return self._transformer_operations(samples, self.conv_pos_depth)

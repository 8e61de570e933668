"""wav2vec2 and HuBERT: sizes, stored tensors, operations."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from e2v_port.architectures.base import WaveformTransformer
from e2v_port.architectures.shapes import Shape, linear, norm

__all__ = ["Wav2vec2Config"]


@dataclass(frozen=True, kw_only=True)
class Wav2vec2Config(WaveformTransformer):
    """Sizes of one wav2vec2 (arXiv 2006.11477) or HuBERT (arXiv 2106.07447), which differ in training alone.

    Attributes:
        conv_bias: Whether the convolutions of the feature extractor have a bias.
        conv_norm: `layer`: a LayerNorm over channels follows each of them; `group`: a norm of each channel over time
            follows the first alone.
        pre_norm: Whether blocks normalize before their halves (large models) or after them (base).
        projection_norm: Whether a LayerNorm precedes the projection to the width of the transformer; not in
            DistilHuBERT.
    """

    waveform_eps: ClassVar[float] = 1e-7  # of transformers' Wav2Vec2FeatureExtractor

    conv_bias: bool
    conv_norm: str
    pre_norm: bool
    projection_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_norm not in {"layer", "group"}:
            raise ValueError(f"conv_norm is {self.conv_norm!r}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the architecture as in `Transformer`; files of older models do not mention `projection_norm`."""
        return super().from_dict({"projection_norm": True} | values)

    @property
    def has_norm(self) -> bool:
        """Whether there is a norm besides those of the blocks: a readout leaves out the one after them."""
        return self.finished or not self.pre_norm

    def norm_of(self, layer: int) -> str:
        """Returns the norm after a convolution: `layer`, `group`, or empty for none."""
        return "layer" if self.conv_norm == "layer" else "group" if layer == 0 else ""

    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor; see `Architecture`."""
        dim = self.width
        stored: dict[str, Shape] = {}
        channels = 1
        for i, (out, kernel, _) in enumerate(self.conv_layers):
            stored[f"conv_layers.{i}.weight"] = (out, kernel, channels)
            if self.conv_bias:
                stored[f"conv_layers.{i}.bias"] = (out,)
            if self.norm_of(i):
                stored |= norm(f"conv_layers.{i}.norm", out)
            channels = out
        if self.projection_norm:
            stored |= norm("projection.norm", channels)
        stored |= linear("projection.linear", dim, channels)
        stored["positions.weight"] = (dim, self.conv_pos_kernel, dim // self.conv_pos_groups)
        stored["positions.bias"] = (dim,)
        if self.has_norm:
            stored |= norm("norm", dim)
        stored |= self._blocks("blocks", self.depth)
        return stored | self._readout_and_head()

    def operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of one clip by part; see `Architecture`."""
        return self._transformer_operations(samples, 1)

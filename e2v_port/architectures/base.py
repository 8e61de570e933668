"""The base of all architectures, of transformers, and of transformers on raw waveforms."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, ClassVar, Self

from e2v_port.architectures.heads import (
    Branch,
    Step,
    check_steps,
    linear_head,
    step_operations,
    step_tensors,
    width_after,
)
from e2v_port.architectures.shapes import Shape, block, is_size, linear

__all__ = ["POOLINGS", "VARIANCE", "Architecture", "Readout", "Transformer", "WaveformTransformer"]

POOLINGS = ("mean", "deviation", "attention")  # those that can be trained here
VARIANCE = 1e-5  # added to a variance over time before its root, which has no gradient at zero
MAY_BE_ZERO = {"prenet_depth", "depth", "num_extra_tokens", "num_labels", "head_dim", "tp_depth"}


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """The sizes of a network, all read from its checkpoint, and everything that follows from them.

    A family of models is one subclass, in a module of its own; `registry.py` lists them.

    Attributes:
        mean_of_frames: Whether an embedding is the mean of its frames, unless `joining` says otherwise.
        half_precision: Whether the network may compute in 16 bits, so that `dtype="auto"` considers it.
        speakers: Whether an embedding says who speaks rather than how: that of a speaker encoder, which has length 1.
        widened: Whether the network computes in float32 by default though its weights are stored in 16 bits.
        normalize: Whether the waveform is scaled to zero mean and unit variance first.
        embed_dim: Length of an embedding.
        head_dim: Width of the head's hidden layer, which ends in a tanh; 0 for a head of one linear layer.
        num_labels: Outputs of the head; 0 for a model without one.
        means: Whether the mean embedding of each label is stored as well: see `tensors.MEANS`.
        head: Operations from the embedding to the outputs, for a head of another kind than `head_dim` describes; empty
            for those.
        others: Further outputs, made of the same embedding.
    """

    mean_of_frames: ClassVar[bool]
    half_precision: ClassVar[bool]
    speakers: ClassVar[bool] = False
    widened: ClassVar[bool] = False

    normalize: bool
    embed_dim: int
    head_dim: int
    num_labels: int
    means: bool = False
    head: tuple[Step, ...] = ()
    others: tuple[Branch, ...] = ()

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that no model has: they come from files."""
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in MAY_BE_ZERO else 1
            if field.type is int and not is_size(value, lowest):
                raise ValueError(f"{field.name} is {value!r}")
            if field.type in {bool, str} and type(value) is not field.type:
                raise ValueError(f"{field.name} is {value!r}")
        if self.means and not self.num_labels:
            raise ValueError("there are means of labels without a head")
        if self.head:
            check_steps(self.head, frames=False)
            if self.head_dim or width_after(self.head, 0) != self.num_labels:
                raise ValueError(f"a head of {self.num_labels} outputs cannot be {self.head!r}")
        if type(self.others) is not tuple or len({branch.name for branch in self.others}) < len(self.others):
            raise ValueError(f"further outputs are {self.others!r}")

    @property
    @abstractmethod
    def waveform_eps(self) -> float:
        """Epsilon of the waveform norm."""

    @property
    def head_steps(self) -> tuple[Step, ...]:
        """Operations from the embedding to the outputs; none for a model without them."""
        return self.head or (linear_head(self.num_labels, self.head_dim) if self.num_labels else ())

    @property
    def has_head(self) -> bool:
        """Whether anything is computed from the embedding."""
        return bool(self.num_labels or self.others)

    @property
    def judges_frames(self) -> bool:
        """Whether the head can be applied to a part of a clip, such as one of its frames."""
        return True

    @property
    def longest(self) -> int | None:
        """Samples of the longest clip that the network runs in one piece; None for any."""
        return None

    @property
    def canvas(self) -> int:
        """Samples that the network itself fills shorter clips up to, with silence that it does not read; 0 for none."""
        return 0

    @property
    def shortest(self) -> int:
        """Samples that shorter clips are filled up to, with zeros at their end; 0 for none."""
        return 0

    @property
    def frame_dim(self) -> int:
        """Length of the embedding of a single frame."""
        return self.embed_dim

    @property
    def joining(self) -> str:
        """How the windows of a long clip join into one embedding.

        `mean`: exactly the mean of all frames; `deviation`: exactly their mean and standard deviation; `windows`: the
        mean of the windows' embeddings, weighted by their frames. Those of speaker encoders get the length 1 again.
        """
        return "mean" if self.mean_of_frames else "windows"

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples from one frame to the next."""

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Returns the number of frames in a clip of this many samples."""

    @abstractmethod
    def tensors(self) -> dict[str, Shape]:
        """Returns name and shape of every stored tensor, in the order of the forward pass.

        Convolutions are [out, kernel, in per group], linear layers [out, in].
        """

    @abstractmethod
    def operations(self, samples: int) -> dict[str, int]:
        """Counts the floating-point operations of one clip, by part of the network.

        Only matrix products and convolutions count, a multiplication and an addition each; norms, activations, softmax
        and Fourier transforms do not. With T frames, D wide, E extra tokens, N = T + E and F inside the MLP:

            a convolution of kernel k from C to C' channels in g groups, over T frames: 2 T k C C' / g
            a linear layer from D to F, over T frames: 2 T D F
            attention: 8 N D^2 for its four layers, 4 N^2 D for the products of queries, keys and values
            an MLP: 4 N D F

        A positional convolution with an even kernel computes one frame too many, which is counted.
        """

    def flops(self, samples: int) -> int:
        """Returns the number of floating-point operations that one clip of this many samples takes."""
        return sum(self.operations(samples).values())

    def attention_bytes(self, _samples: int) -> int:
        """Returns roughly the memory that attention over a whole clip takes, in float32; 0 for networks without it."""
        return 0

    def packable(self, _name: str, _shape: Shape) -> bool:
        """Returns whether q8 and q4 pack this tensor where its rows are groups of 64 numbers; by default none."""
        return False

    def _head(self) -> dict[str, Shape]:
        stored = step_tensors(self.head_steps, "head", self.embed_dim)
        for branch in self.others:
            stored |= step_tensors(branch.steps, f"head.others.{branch.name}", self.embed_dim)
        return stored

    def _head_operations(self) -> int:
        heads = (self.head_steps, *(branch.steps for branch in self.others))
        return sum(step_operations(steps, self.embed_dim) for steps in heads)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the architecture from what `dataclasses.asdict` returned; KeyError or TypeError for anything else.

        Files may not mention what was added later: `means`, `head` and `others`.
        """
        values = {"means": False} | values
        values["head"] = Step.many(values.get("head", ()))
        values["others"] = tuple(map(Branch.from_dict, values.get("others", ())))
        return cls(**{field.name: _frozen(values[field.name]) for field in fields(cls)})


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Readout:
    """How an embedding is made of the outputs of chosen blocks. It takes the place of a model's own pooling.

    Attributes:
        layers: Numbers of the blocks whose outputs are read, ascending; 1 is the first block (of emotion2vec: of the
            context encoder), 0 what the first block takes. The outputs are raw, before any final norm. Several are
            summed, weighted by a softmax over one learned number for each.
        pooling: `mean`: the mean over time. `deviation`: the mean and the standard deviation over time side by side.
            `attention`: the same, weighted over time by attention (attentive statistics, arXiv 1803.10963), with each
            head for its share of the features (arXiv 1906.09890). `statistics`: the same as first published, scored by
            a linear layer, a tanh and one head for all features, with variances of at least `VARIANCE`. `flatten`: a
            linear layer on all frames side by side, of a model that fills clips up to one length.
        heads: Heads of `attention`, 1 for `statistics`; 0 for the other kinds of pooling.
        final: Whether the last output passes the model's final norm, if it has one.
        steps: Operations on each frame after the sum, before pooling.
        width: Features of a token, where steps or `flatten` hide it; else 0.
    """

    layers: tuple[int, ...]
    pooling: str
    heads: int = 0
    final: bool = False
    steps: tuple[Step, ...] = ()
    width: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError for values that no readout has: they come from files."""
        layers = self.layers
        sized = type(layers) is tuple and all(is_size(layer, 0) for layer in layers)
        if not (sized and layers and layers == tuple(sorted({*layers}))):
            raise ValueError(f"layers to read are {layers!r}")
        if self.pooling not in {*POOLINGS, "statistics", "flatten"}:
            raise ValueError(f"pooling is {self.pooling!r}")
        heads = {"attention": is_size(self.heads), "statistics": self.heads == 1}.get(self.pooling, self.heads == 0)
        if type(self.heads) is not int or not heads:
            raise ValueError(f"{self.pooling} pooling has {self.heads!r} heads")
        if type(self.final) is not bool or not is_size(self.width, 0):
            raise ValueError(f"a readout is {self!r}")
        check_steps(self.steps, frames=True)

    @property
    def statistics(self) -> int:
        """Numbers that pooling makes of each feature."""
        return 1 if self.pooling in {"mean", "flatten"} else 2

    @property
    def whole(self) -> bool:
        """Whether a frame depends on all others of its clip even before pooling."""
        return any(step.op == "clip_norm" for step in self.steps)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the readout from what `dataclasses.asdict` returned; KeyError or TypeError for anything else.

        Files may not mention what was added later: `final`, `steps` and `width`.
        """
        values = {"final": False, "width": 0} | values
        values["steps"] = Step.many(values.get("steps", ()))
        return cls(**{field.name: _frozen(values[field.name]) for field in fields(cls)})


@dataclass(frozen=True, kw_only=True)
class Transformer(Architecture):
    """Sizes and rules of all transformers.

    Attributes:
        num_heads: Attention heads per block.
        depth: Blocks of the transformer. With a readout, the last of them is the last that is read.
        ffn_dim: Width inside a block's MLP.
        norm_eps: Epsilon of the LayerNorms of the blocks.
        readout: How the embedding is made of the outputs of blocks; None for the model's own: the mean over time of the
            last block's output, after the final norm where there is one.
    """

    mean_of_frames: ClassVar[bool] = True
    half_precision: ClassVar[bool] = True

    num_heads: int
    depth: int
    ffn_dim: int
    norm_eps: float
    readout: Readout | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.norm_eps) is not float or not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps is {self.norm_eps!r}")
        if self.width % self.num_heads:
            raise ValueError(f"a width of {self.width} cannot be shared among {self.num_heads} heads")
        read = self.readout
        if read is None:
            return
        if type(read) is not Readout:
            raise ValueError(f"readout is {read!r}")
        if read.pooling == "flatten":
            fits = read.width > 0 and self.shortest > 0
        else:
            fits = self.embed_dim == self.frame_dim * read.statistics and not (
                read.heads and self.frame_dim % read.heads
            )
        if not fits:
            raise ValueError(f"an embedding of {self.embed_dim} numbers cannot come from {read}")
        if read.layers[-1] != self.blocks:
            raise ValueError(f"layers {read.layers} are read, but the last of the {self.blocks} blocks must be")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Builds the architecture as in `Architecture`; files of models without a readout may not mention it."""
        readout = values.get("readout")
        return super().from_dict(values | {"readout": None if readout is None else Readout.from_dict(readout)})

    @property
    def width(self) -> int:
        """Features of a token between the blocks."""
        if self.readout is None:
            return self.embed_dim
        return self.readout.width or self.embed_dim // self.readout.statistics

    @property
    def finished(self) -> bool:
        """Whether the last block's output passes the final norm, in models that have one."""
        return self.readout is None or self.readout.final

    @property
    def frame_dim(self) -> int:
        """Length of the embedding of a single frame: the width, or what the steps of a readout make of it."""
        return width_after(self.readout.steps, self.width) if self.readout else self.width

    @property
    def judges_frames(self) -> bool:
        """Whether the head can be applied to a part of a clip; see `Architecture`."""
        return self.readout is None or self.readout.pooling != "flatten"

    @property
    def joining(self) -> str:
        """How the windows of a long clip join into one embedding; see `Architecture`."""
        read = self.readout
        if read is None:
            return "mean"
        return "windows" if read.whole or read.pooling not in {"mean", "deviation"} else read.pooling

    @property
    def blocks(self) -> int:
        """Number of all blocks."""
        return self.depth

    def cut(self, blocks: int) -> Self:
        """Returns the architecture with this many blocks, from 1 to all, without a readout and means of its labels.

        Its head, if it has one, is that of `head_dim`, and its only output.
        """
        width = self.width
        return replace(self, depth=blocks, embed_dim=width, readout=None, means=False, head=(), others=())

    def read(self, readout: Readout) -> Self:
        """Returns the architecture cut after the last block that a readout reads, with that readout."""
        for layer in (readout.layers[0], readout.layers[-1]):
            if not 1 <= layer <= self.blocks:
                raise ValueError(f"block {layer} cannot be read: there are {self.blocks}")
        return replace(self.cut(readout.layers[-1]), embed_dim=self.width * readout.statistics, readout=readout)

    def tokens(self, samples: int) -> int:
        """Returns the number of tokens that the blocks process for such a clip."""
        return self.frames(samples)

    def attention_bytes(self, samples: int) -> int:
        """Returns roughly the memory of bias, products and softmax of all heads of one block, in float32."""
        return 3 * 4 * self.num_heads * self.frames(samples) ** 2

    def packable(self, name: str, shape: Shape) -> bool:
        """Returns whether a tensor is a matrix of a block: nine tenths of a model.

        Everything else is small or, as a convolution, something that MLX cannot multiply without unpacking it.
        """
        return "blocks." in name and len(shape) == 2

    def _blocks(self, name: str, depth: int) -> dict[str, Shape]:
        stored: dict[str, Shape] = {}
        for i in range(depth):
            stored |= block(f"{name}.{i}", self.width, self.ffn_dim)
        return stored

    def _readout_and_head(self) -> dict[str, Shape]:
        stored: dict[str, Shape] = {}
        read, width = self.readout, self.frame_dim
        if read and len(read.layers) > 1:
            stored["readout.weights"] = (len(read.layers),)
        if read:
            stored |= step_tensors(read.steps, "readout.steps", self.width)
        if read and read.pooling == "statistics":
            stored |= linear("readout.scores", width, width)
        if read and read.heads:
            stored["readout.attention.weight"] = (read.heads, width)
        if read and read.pooling == "flatten":
            stored |= linear("readout.flatten", self.embed_dim, self.frames(self.shortest) * width)
        return stored | self._head()

    def _block_operations(self, samples: int) -> dict[str, int]:
        """Counts the operations of the blocks and of all that follows."""
        tokens, width = self.tokens(samples), self.width
        return {
            "attention": self.blocks * (8 * tokens * width**2 + 4 * tokens**2 * width),
            "MLP": self.blocks * 4 * tokens * width * self.ffn_dim,
            **({"readout": read} if (read := self._readout_operations(samples)) else {}),
            "head": self._head_operations(),
        }

    def _readout_operations(self, samples: int) -> int:
        read, width = self.readout, self.frame_dim
        if read is None:
            return 0
        scores = width if read.pooling == "statistics" else 0
        frame = step_operations(read.steps, self.width) + 2 * width * (scores + read.heads)
        flat = self.embed_dim if read.pooling == "flatten" else 0
        return self.frames(samples) * (frame + 2 * width * flat)


@dataclass(frozen=True, kw_only=True)
class WaveformTransformer(Transformer):
    """Sizes and rules that emotion2vec and wav2vec2 share: convolutions on the waveform, and some for positions.

    Attributes:
        conv_layers: (channels, kernel, stride) of each convolution of the feature extractor.
        conv_pos_kernel: Kernel of the positional convolution, in frames.
        conv_pos_groups: Groups of the positional convolution.
    """

    conv_layers: tuple[tuple[int, int, int], ...]
    conv_pos_kernel: int
    conv_pos_groups: int

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.conv_layers
        if not layers or not all(len(layer) == 3 and all(map(is_size, layer)) for layer in layers):
            raise ValueError(f"conv_layers is {layers!r}")
        if self.width % self.conv_pos_groups:
            raise ValueError(f"a width of {self.width} cannot be shared among {self.conv_pos_groups} groups")

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 in all known models, 20 ms."""
        return prod(stride for _, _, stride in self.conv_layers)

    def frames(self, samples: int) -> int:
        """Returns the number of frames in a clip of this many samples: about 50 a second at 16 kHz."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        return samples

    def _transformer_operations(self, samples: int, position_layers: int) -> dict[str, int]:
        width, time, channels, convolutions = self.width, samples, 1, 0
        for out, kernel, stride in self.conv_layers:
            time = (time - kernel) // stride + 1
            convolutions += 2 * time * kernel * channels * out
            channels = out
        even = 1 - self.conv_pos_kernel % 2
        position = 2 * (time + even) * self.conv_pos_kernel * width * (width // self.conv_pos_groups)
        return {
            "convolutions": convolutions,
            "projection": 2 * time * channels * width,
            "positions": position_layers * position,
            **self._block_operations(samples),
        }

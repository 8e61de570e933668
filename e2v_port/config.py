"""What a converted model is: its architecture, labels and origin, as kept in config.json."""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from math import isfinite, prod
from pathlib import Path
from typing import Any, ClassVar, Self

from e2v_port.errors import CheckpointError

__all__ = [
    "ARCHITECTURES",
    "DIMENSIONS",
    "DTYPES",
    "QUANTISED",
    "Architecture",
    "Emotion2vecConfig",
    "Label",
    "ModelConfig",
    "Source",
    "Transformer",
    "Wav2smallConfig",
    "Wav2vec2Config",
]

DTYPES = ("float32", "float16", "bfloat16")
QUANTISED = {"q8": 8, "q4": 4}  # other ways to store weights, and to how many bits: see quantisation.py
MAY_BE_ZERO = {"prenet_depth", "depth", "num_extra_tokens", "num_labels", "head_dim"}
LARGEST = 1 << 16  # no size of a model comes near; a false one would cost time and memory before it is noticed

FORMAT = 2  # of config.json and of the names in model.safetensors; a reader refuses any other


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """Sizes that every architecture has; all of them are read from its checkpoint.

    Attributes:
        normalize: Whether the waveform is brought to zero mean and unit variance first.
        embed_dim: Length of an embedding.
        head_dim: Width of the head's hidden layer, which ends in a tanh; 0 for a head of one linear layer.
        num_labels: Outputs of the head; 0 for a model without one.
    """

    waveform_eps: ClassVar[float]  # of the waveform norm

    normalize: bool
    embed_dim: int
    head_dim: int
    num_labels: int

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that no model has: they come from files."""
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in MAY_BE_ZERO else 1
            if field.type is int and not _is_size(value, lowest):
                raise ValueError(f"{field.name} is {value!r}")
            if field.type in {bool, str} and type(value) is not field.type:
                raise ValueError(f"{field.name} is {value!r}")

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples from one frame to the next."""

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Returns how many frames a clip of this many samples has."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Returns the sizes that `dataclasses.asdict` was made of; KeyError or TypeError if they are not."""
        return cls(**{field.name: _frozen(values[field.name]) for field in fields(cls)})


def _is_size(value: object, lowest: int = 1) -> bool:
    return type(value) is int and lowest <= value <= LARGEST


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class Transformer(Architecture):
    """Sizes that emotion2vec and wav2vec2 both have.

    Attributes:
        conv_layers: (channels, kernel, stride) of each convolution of the feature extractor.
        num_heads: Attention heads per block.
        depth: Blocks of the transformer.
        ffn_dim: Width inside a block's MLP.
        conv_pos_kernel: Kernel of the positional convolution, in frames.
        conv_pos_groups: Its groups.
        norm_eps: Epsilon of the LayerNorms of the blocks.
    """

    conv_layers: tuple[tuple[int, int, int], ...]
    num_heads: int
    depth: int
    ffn_dim: int
    conv_pos_kernel: int
    conv_pos_groups: int
    norm_eps: float

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.conv_layers
        if not layers or not all(len(layer) == 3 and all(map(_is_size, layer)) for layer in layers):
            raise ValueError(f"conv_layers is {layers!r}")
        if type(self.norm_eps) is not float or not 0 < self.norm_eps < 1:
            raise ValueError(f"norm_eps is {self.norm_eps!r}")
        if self.embed_dim % self.num_heads or self.embed_dim % self.conv_pos_groups:
            raise ValueError(
                f"a width of {self.embed_dim} cannot be shared among {self.num_heads} heads and "
                f"{self.conv_pos_groups} groups"
            )

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 320 in all known models, 20 ms."""
        return prod(stride for _, _, stride in self.conv_layers)

    def frames(self, samples: int) -> int:
        """Returns how many frames a clip of this many samples has: about 50 a second at 16 kHz."""
        for _, kernel, stride in self.conv_layers:
            samples = (samples - kernel) // stride + 1
        return samples

    def tokens(self, samples: int) -> int:
        """Returns how many tokens its blocks see of such a clip."""
        return self.frames(samples)


@dataclass(frozen=True, kw_only=True)
class Emotion2vecConfig(Transformer):
    """Sizes of one emotion2vec. `depth` counts the blocks behind the context encoder.

    Attributes:
        num_alibi_heads: How many heads, counted from the first, have an ALiBi bias.
        prenet_depth: Blocks of the context encoder.
        conv_pos_depth: Layers of the positional encoder.
        num_extra_tokens: Learned tokens put before the frames.
    """

    waveform_eps: ClassVar[float] = 1e-5  # the default of the layer norm that FunASR calls

    num_alibi_heads: int
    prenet_depth: int
    conv_pos_depth: int
    num_extra_tokens: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_alibi_heads > self.num_heads:
            raise ValueError(f"{self.num_alibi_heads} ALiBi heads, but {self.num_heads} heads in all")

    def tokens(self, samples: int) -> int:
        """Returns how many tokens its blocks see of such a clip: frames and extra tokens."""
        return self.frames(samples) + self.num_extra_tokens


@dataclass(frozen=True, kw_only=True)
class Wav2vec2Config(Transformer):
    """Sizes of one wav2vec2.

    Attributes:
        conv_bias: Whether the convolutions of the feature extractor have a bias.
        conv_norm: `layer`: each of them is followed by a LayerNorm over channels; `group`: the first alone, by a norm
            of each channel over time.
        pre_norm: Whether blocks normalise before their halves (large models) or after them (base).
    """

    waveform_eps: ClassVar[float] = 1e-7  # of transformers' Wav2Vec2FeatureExtractor

    conv_bias: bool
    conv_norm: str
    pre_norm: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_norm not in {"layer", "group"}:
            raise ValueError(f"conv_norm is {self.conv_norm!r}")

    def norm_of(self, layer: int) -> str:
        """Returns the norm behind a convolution: `layer`, `group`, or empty for none."""
        return "layer" if self.conv_norm == "layer" else "group" if layer == 0 else ""


@dataclass(frozen=True, kw_only=True)
class Wav2smallConfig(Architecture):
    """Sizes of one convolutional network on a log-mel spectrogram, of the kind of wav2small (arXiv 2408.13920).

    Attributes:
        window: Samples of a Hann window of the spectrogram; clips shorter than it are filled up with zeros.
        step: Samples from one window to the next.
        bands: Mel bands.
        floor: Least power in a band; what is below counts as this much. In float32 a spectrum has no digits left some
            130 dB below its loudest part, so that runtimes would disagree on what lies there.
        band_norm: Whether each band is brought to zero mean over the clip, which takes away what a microphone, a line
            and a room do to all of it.
        stages: Channels of each 3 x 3 convolution, stage by stage; between two stages the map is halved in time and
            in bands.
        residual: Whether a convolution that keeps the number of channels adds to what it was given.
        pooling: `gram`: the mean over time, weighted by attention, of `width` channels by bands, and the product of
            that matrix with itself; `deviation`: the weighted mean and standard deviation of `width` features.
        width: See `pooling`.
    """

    waveform_eps: ClassVar[float] = 1e-7  # of the published model

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
        if not self.stages or not all(stage and all(map(_is_size, stage)) for stage in self.stages):
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
        """How many of the bands are left behind the last stage."""
        return self._halved(self.bands)

    @property
    def hop(self) -> int:
        """Samples from one frame behind the last stage to the next."""
        return int(self.step * 2 ** (len(self.stages) - 1))

    def frames(self, samples: int) -> int:
        """Returns how many frames a clip of this many samples has behind the last stage."""
        return self._halved(self.windows(samples))

    def windows(self, samples: int) -> int:
        """Returns how many columns the spectrogram of a clip of this many samples has."""
        return max(samples - self.window, 0) // self.step + 1

    def _halved(self, size: int) -> int:
        for _ in self.stages[1:]:
            size = (size + 1) // 2
        return size


ARCHITECTURES: dict[str, type[Architecture]] = {
    "emotion2vec": Emotion2vecConfig,
    "wav2vec2": Wav2vec2Config,
    "wav2small": Wav2smallConfig,
}

DIMENSIONS = ("arousal", "dominance", "valence")


@dataclass(frozen=True)
class Label:
    """One row of the head.

    Attributes:
        name: What users read, e.g. `angry`.
        token: What the checkpoint's tokens.txt says, e.g. `生气/angry`.
        unused: True for rows that are taken out before the softmax (`unuse_0` and the like).
    """

    name: str
    token: str
    unused: bool


@dataclass(frozen=True)
class Source:
    """Where the weights come from.

    Attributes:
        repository: Hub repository, or the path as it was given.
        hub: `modelscope`, `huggingface` or `local`.
        revision: Commit or tag on the hub; empty for a local file.
        file: Name of the weights file.
        sha256: Its hash.
    """

    repository: str
    hub: str
    revision: str
    file: str
    sha256: str


@dataclass(frozen=True)
class ModelConfig:
    """config.json of a converted model.

    Attributes:
        family: Which pair of runtimes runs it.
        architecture: Sizes.
        labels: One for each output of the head, in order; empty for a model without a head.
        dtype: Type of every stored tensor, and of the arithmetic between waveform norm and pooling; or `q8` or `q4`:
            the large matrices are packed, 8 or 4 bits a number, and all other tensors are float32.
        sampling_rate: Of the waveform the model expects, in Hz.
        temperature: What logits are divided by before the softmax, so that probabilities are as often right as they
            say (arXiv 1706.04599); 1 for a model that was not calibrated.
        licence: Licence of the weights.
        source: Where they come from.
        converter: Name and version of the program that wrote the folder.
    """

    family: str
    architecture: Architecture
    labels: tuple[Label, ...]
    dtype: str
    sampling_rate: int
    temperature: float
    licence: str
    source: Source
    converter: str

    def __post_init__(self) -> None:
        """Raises ValueError for what no converted model says."""
        if self.family not in ARCHITECTURES or self.dtype not in {*DTYPES, *QUANTISED}:
            known = f"{[*ARCHITECTURES]} and {[*DTYPES, *QUANTISED]}"
            raise ValueError(f"family {self.family!r} as {self.dtype!r}: {known} are known")
        if type(self.temperature) is not float or not (isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature!r}")
        rows = self.architecture.num_labels
        if len(self.labels) != rows or len({label.name for label in self.labels}) != rows:
            raise ValueError(f"{rows} rows of the head, but the labels are {self.labels}")

    @property
    def arithmetic(self) -> str:
        """The type that a model computes in, unless another is asked for."""
        return "float32" if self.dtype in QUANTISED else self.dtype

    @property
    def dimensional(self) -> bool:
        """Whether the outputs are arousal, dominance and valence rather than classes."""
        return {label.name for label in self.labels} == set(DIMENSIONS)

    def to_json(self) -> str:
        """Returns the text of config.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the configuration in a config.json.

        Raises:
            CheckpointError: The text is no config.json of this format.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise CheckpointError(f"config.json is not of format {FORMAT}: convert the checkpoint again")
            values["architecture"] = ARCHITECTURES[values["family"]].from_dict(values["architecture"])
            values["labels"] = tuple(Label(**label) for label in values["labels"])
            values["source"] = Source(**values["source"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"config.json is damaged ({error!r}): convert the checkpoint again") from error

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Returns the configuration of a converted folder.

        Raises:
            CheckpointError: Its config.json is missing, unreadable or damaged.
        """
        try:
            return cls.from_json((folder / "config.json").read_text("utf-8"))
        except (OSError, UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"{folder}: {error}") from error

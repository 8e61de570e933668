"""config.json of a converted model: architecture, labels and origin."""

import json
from dataclasses import asdict, dataclass, field
from math import isfinite
from pathlib import Path
from typing import Self

from e2v_port.architectures.base import Architecture
from e2v_port.architectures.quantization import QUANTIZED
from e2v_port.architectures.registry import FAMILIES
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.errors import CheckpointError

__all__ = ["DTYPES", "Label", "ModelConfig", "Source", "TrainedOn"]

DTYPES = ("float32", "float16", "bfloat16")

FORMAT = 2  # of config.json and of the names in model.safetensors; a reader refuses any other


@dataclass(frozen=True)
class Label:
    """One row of the head.

    Attributes:
        name: Name that users read, e.g. `angry`.
        token: Line of the checkpoint's tokens.txt, e.g. `生气/angry`.
        unused: Whether the row is removed before the softmax (`unuse_0` and the like).
    """

    name: str
    token: str
    unused: bool


@dataclass(frozen=True)
class Source:
    """Origin of the weights.

    Attributes:
        repository: Hub repository, or the path of a local checkpoint.
        hub: `modelscope`, `huggingface` or `local`.
        revision: Commit or tag on the hub; empty for a local file.
        file: Name of the weights file.
        sha256: Hash of the weights file.
    """

    repository: str
    hub: str
    revision: str
    file: str
    sha256: str


@dataclass(frozen=True)
class TrainedOn:
    """Who a model was trained on by `e2v train`, so that `e2v evaluate` does not test it on them.

    Attributes:
        train: Speakers whose clips determined the weights, e.g. `ravdess/01`.
        dev: Speakers whose clips determined which epoch was kept.
        train_clips: Sorted hashes of the sound of these clips, see `evaluation.sounds`, in base64.
        dev_clips: The same of the clips of `dev`.
    """

    train: tuple[str, ...]
    dev: tuple[str, ...]
    train_clips: str
    dev_clips: str

    @property
    def corpora(self) -> tuple[str, ...]:
        """Names of the corpora of these speakers, e.g. `ravdess`."""
        return tuple(sorted({speaker.partition("/")[0] for speaker in (*self.train, *self.dev)}))


@dataclass(frozen=True)
class ModelConfig:
    """config.json of a converted model.

    Attributes:
        family: Family of the model, as in `registry.FAMILIES`.
        architecture: Sizes of the network.
        labels: Label of each output of the head, in order; empty for a model without a head.
        dtype: Type of every stored tensor, and of the arithmetic between waveform norm and pooling (float32 in
            families that are `widened`); or `q8` or `q4`: the large matrices are packed at 8 or 4 bits per number, and
            all other tensors are float32.
        sampling_rate: Sampling rate of the waveform that the model expects, in Hz.
        temperature: Divisor of the logits before the softmax, which calibrates the probabilities (arXiv 1706.04599); 1
            for a model that was not calibrated.
        licence: License of the weights.
        source: Origin of the weights.
        converter: Name and version of the program that wrote the folder.
        trained_on: For each training by `e2v train`, of the network and of its head, who it was trained on; empty for
            models that were only converted.
        calibrated_on: Speakers whose clips determined the temperature, e.g. `emodb/11`; empty if it was not fitted.
        others: Names of the numbers in each further output, in order, e.g. `arousal`, `dominance`, `valence` for
            `dimensions`.
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
    trained_on: tuple[TrainedOn, ...] = ()
    calibrated_on: tuple[str, ...] = ()
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for values that no converted model has."""
        if self.family not in FAMILIES or self.dtype not in {*DTYPES, *QUANTIZED}:
            known = f"{', '.join(FAMILIES)}; dtypes: {', '.join([*DTYPES, *QUANTIZED])}"
            raise ValueError(f"family {self.family!r} as {self.dtype!r} is unknown; known families: {known}")
        if type(self.temperature) is not float or not (isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature!r}")
        rows = self.architecture.num_labels
        if len(self.labels) != rows or len({label.name for label in self.labels}) != rows:
            raise ValueError(f"the head has {rows} rows, but the labels are {self.labels}")
        named = {name: len({*rows}) for name, rows in self.others.items()}
        if named != {branch.name: branch.rows for branch in self.architecture.others}:
            raise ValueError(f"the further outputs are {self.architecture.others}, but their names are {self.others}")

    @property
    def arithmetic(self) -> str:
        """Type that the model computes in by default."""
        return "float32" if self.dtype in QUANTIZED or self.architecture.widened else self.dtype

    @property
    def dimensional(self) -> bool:
        """Whether the outputs are arousal, dominance and valence rather than classes."""
        return {label.name for label in self.labels} == set(DIMENSIONS)

    @property
    def measures(self) -> bool:
        """Whether arousal, dominance and valence are the outputs or the further output `dimensions`."""
        return self.dimensional or {*self.others.get("dimensions", ())} == set(DIMENSIONS)

    def to_json(self) -> str:
        """Returns the text of config.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Returns the configuration in a config.json.

        Raises:
            CheckpointError: The text is not a config.json of this format.
        """
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise CheckpointError(f"config.json is not in format {FORMAT}: convert the checkpoint again")
            values["architecture"] = FAMILIES[values["family"]].architecture.from_dict(values["architecture"])
            values["labels"] = tuple(Label(**label) for label in values["labels"])
            values["source"] = Source(**values["source"])
            values["trained_on"] = tuple(
                TrainedOn(tuple(each.pop("train")), tuple(each.pop("dev")), **each)
                for each in values.get("trained_on", ())
            )
            values["calibrated_on"] = tuple(values.get("calibrated_on", ()))
            values["others"] = {name: tuple(rows) for name, rows in values.get("others", {}).items()}
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

"""Settings of the training of a speech language model."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

from e2v_port.errors import TrainingError, quoted
from e2v_port.llm.adapter import FUSIONS, Fusion

__all__ = ["SYSTEM", "Hears", "Recipe"]

Hears = Literal["speech", "words", "label"]

SYSTEM = "Reply to the words and the tone."
"""Instruction to the language model. A short one: it costs time in every step, and training teaches the rest."""


@dataclass(frozen=True)
class Recipe:
    """How a speech language model is trained.

    Attributes:
        hears: What the language model gets of a remark: `speech`, through the adapter; or, to compare with, its `words`
            as text, or words and `label`, the name of the emotion, as text. The latter two have no adapter.
        fusion: See `AdapterConfig.fusion`.
        emotion: Whether the adapter gets emotion frames.
        speaker: Whether it gets the speaker's embedding. With a few dozen training speakers it learns who they are, and
            hears others worse.
        stages: Which are run: 1 aligns the adapter, 2 tunes it together with the language model.
        seed: Random seed.
        aligning: Epochs of stage 1.
        aligning_batch: Clips per step of stage 1.
        aligning_rate: Highest learning rate of stage 1 (AdamW).
        emotion_weight: Weight of the emotion loss, in both stages.
        align_weight: Weight of the contrastive loss of stage 1.
        temperature: Of that loss (van den Oord et al. 2018; 0.07 as in CLIP, Radford et al. 2021).
        tuning: Epochs of stage 2.
        clips: Most training clips of an epoch of stage 2, drawn anew for each, all tones equally often; 0 for all.
        batch: Clips per step of stage 2.
        accumulate: Steps whose gradients are summed before the weights move.
        rate: Highest learning rate of the low-rank matrices.
        adapter_rate: Highest learning rate of the adapter in stage 2. At the rate of the matrices it forgets much of
            what stage 1 has taught it, before they have learned to read it.
        rank: Rank of the matrices added to each linear layer (LoRA, Hu et al. 2021).
        alpha: Their product counts `alpha / rank`.
        masked: Share of frames, and of features, that are zeroed in training (SpecAugment, Park et al. 2019).
        mixup: Parameter of the beta distribution of mixed clips in stage 1 (Zhang et al. 2018); 0 mixes none.
        average: See `AdapterConfig`, as for the following.
        stack: Averaged frames per token.
        width: Width of the fusion.
        heads: Heads of its attention.
        hidden: Width inside the projection.
        dropout: Share of values left out in training.
        tone_token: See `AdapterConfig`.
        system: Instruction to the language model.
    """

    hears: Hears = "speech"
    fusion: Fusion = "frames"
    emotion: bool = True
    speaker: bool = False
    stages: tuple[int, ...] = (1, 2)
    seed: int = 0
    aligning: int = 10
    aligning_batch: int = 64
    aligning_rate: float = 1e-3
    emotion_weight: float = 1.0
    align_weight: float = 0.2
    temperature: float = 0.07
    tuning: int = 1
    clips: int = 0
    batch: int = 8
    accumulate: int = 1
    rate: float = 5e-4
    adapter_rate: float = 1e-4
    rank: int = 32
    alpha: int = 64
    masked: float = 0.2
    mixup: float = 0.0
    average: int = 4
    stack: int = 4
    width: int = 256
    heads: int = 4
    hidden: int = 512
    dropout: float = 0.1
    tone_token: bool = True
    system: str = SYSTEM

    def __post_init__(self) -> None:
        """Raises TrainingError for settings that train nothing."""
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            fits = isinstance(value, int | float) if kind is float else isinstance(value, kind)
            if not fits or (kind is not bool and isinstance(value, bool)):
                raise TrainingError(f"{field.name} must be of type {kind.__name__}, not {quoted(value)}")
            if kind is int and not value >= (0 if field.name in {"seed", "clips"} else 1):
                raise TrainingError(f"{field.name} must be at least 1, not {value}")
            if kind is float and not 0 <= value < (1 if field.name in {"masked", "dropout"} else 1e6):
                raise TrainingError(f"{field.name} is out of range: {value}")
        for name, known in (("hears", ("speech", "words", "label")), ("fusion", FUSIONS)):
            if getattr(self, name) not in known:
                raise TrainingError(f"{name} must be one of {', '.join(known)}, not {quoted(getattr(self, name))}")
        if self.temperature == 0 or self.width % self.heads:
            raise TrainingError("temperature must not be 0, and width must be a multiple of heads")
        if self.stages not in ((1,), (2,), (1, 2)):
            raise TrainingError("stages must be 1, 2 or both")
        if self.hears != "speech" and self.stages != (2,):
            raise TrainingError(
                f"a model that gets {self.hears} as text has no adapter to align: only stage 2 trains it"
            )
        if self.hears != "speech" and (
            self.fusion != "frames" or self.speaker or not (self.emotion and self.tone_token)
        ):
            raise TrainingError(
                f"a model that gets {self.hears} as text has no adapter: leave out --fusion, --without and --speaker "
                "(fusion, emotion, tone_token and speaker in a recipe)"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible values."""
        return {**asdict(self), "stages": list(self.stages)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Returns a recipe of what `to_dict` wrote, or of a part of it: the rest are the defaults.

        Raises:
            TrainingError: A name is unknown, or a value trains nothing.
        """
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            known = ", ".join(field.name for field in fields(cls))
            raise TrainingError(f"unknown settings {', '.join(sorted(unknown))}: use {known}")
        changed = dict(values)
        if isinstance(changed.get("stages"), list):
            changed["stages"] = tuple(changed["stages"])
        return cls(**changed)

    @classmethod
    def read(cls, file: Path) -> Self:
        """Reads a recipe from a JSON file, see `from_dict`.

        Raises:
            TrainingError: It cannot be read, or is no recipe.
        """
        try:
            values = json.loads(file.read_text("utf-8"))
            if not isinstance(values, dict):
                raise ValueError("not an object")
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file}: no recipe can be read ({error}): write a JSON object of settings") from error
        try:
            return cls.from_dict(values)
        except TrainingError as error:
            raise TrainingError(f"{file}: {error}") from error

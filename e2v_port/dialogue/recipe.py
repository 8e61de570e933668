"""Settings of the training of a speech language model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from e2v_port.errors import TrainingError
from e2v_port.llm.adapter import Fusion

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
        speaker: Whether it gets the speaker's embedding.
        stages: Which are run: 1 aligns the adapter, 2 tunes it together with the language model.
        seed: Random seed.
        aligning: Epochs of stage 1.
        aligning_batch: Clips per step of stage 1.
        aligning_rate: Highest learning rate of stage 1 (AdamW).
        emotion_weight: Weight of the emotion loss, in both stages.
        align_weight: Weight of the contrastive loss of stage 1.
        temperature: Of that loss (van den Oord et al. 2018; 0.07 as in CLIP, Radford et al. 2021).
        tuning: Epochs of stage 2.
        clips: Most training clips of an epoch of stage 2, drawn anew for each; 0 for all.
        batch: Clips per step of stage 2.
        accumulate: Steps whose gradients are summed before the weights move.
        rate: Highest learning rate of the low-rank matrices and of the adapter in stage 2.
        rank: Rank of the matrices added to each linear layer (LoRA, Hu et al. 2021).
        alpha: Their product counts `alpha / rank`.
        masked: Share of frames, and of features, that are zeroed in training (SpecAugment, Park et al. 2019).
        mixup: Parameter of the beta distribution of mixed clips in stage 1 (Zhang et al. 2018); 0 mixes none.
        system: Instruction to the language model.
    """

    hears: Hears = "speech"
    fusion: Fusion = "frames"
    emotion: bool = True
    speaker: bool = True
    stages: tuple[int, ...] = (1, 2)
    seed: int = 0
    aligning: int = 8
    aligning_batch: int = 64
    aligning_rate: float = 1e-3
    emotion_weight: float = 1.0
    align_weight: float = 0.2
    temperature: float = 0.07
    tuning: int = 1
    clips: int = 0
    batch: int = 16
    accumulate: int = 1
    rate: float = 5e-4
    rank: int = 32
    alpha: int = 64
    masked: float = 0.1
    mixup: float = 0.0
    system: str = SYSTEM
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises TrainingError for settings that train nothing."""
        if not self.stages or not set(self.stages) <= {1, 2}:
            raise TrainingError("stages are 1, 2 or both")
        if self.hears != "speech" and self.stages != (2,):
            raise TrainingError(
                f"a model that gets {self.hears} as text has no adapter to align: only stage 2 trains it"
            )

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON-compatible values."""
        return {**asdict(self), "stages": list(self.stages), "sizes": dict(self.sizes)}

"""The estimates of one model: a label with its probability, or arousal, dominance and valence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.errors import number

__all__ = ["DIMENSIONS", "Dimensions", "Prediction", "softmax"]


DIMENSIONS = ("arousal", "dominance", "valence")


@dataclass(frozen=True)
class Dimensions:
    """The estimate of a dimensional model for one clip.

    Raw outputs: nominally 0 to 1 with 0.5 in the middle; values slightly outside are kept.

    Attributes:
        arousal: Arousal, from calm (0) to activated (1).
        dominance: Dominance, from controlled (0) to in control (1).
        valence: Valence, from unpleasant (0) over neutral (0.5) to pleasant (1).
    """

    arousal: float
    dominance: float
    valence: float

    def __post_init__(self) -> None:
        """Raises ValueError, naming the dimension, for values that are no finite numbers."""
        for name in DIMENSIONS:
            number(name, getattr(self, name))

    def to_dict(self) -> dict[str, float]:
        """Returns the three values by name."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """The estimate of a categorical model for one clip, before fusion.

    Attributes:
        label: The most probable label.
        confidence: Probability of that label, 0 to 1.
        scores: Probability of each label, summing to 1, in the model's order, without the labels that the checkpoint
            marks as unused.
        logits: Outputs of the head, before the temperature (`config.temperature`) and the softmax.
        duration: Duration of the clip in seconds.
    """

    label: str
    confidence: float
    scores: Mapping[str, float]
    logits: Mapping[str, float]
    duration: float

    def __repr__(self) -> str:
        ranked = sorted(self.scores.items(), key=lambda item: -item[1])
        others = ", ".join(f"{label} {score:.3f}" for label, score in ranked[1:3])
        return f"Prediction({self.label} {self.confidence:.3f}; {others}; {self.duration:.2f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, strings and floats, ready for JSON."""
        return {
            "label": self.label,
            "confidence": self.confidence,
            "scores": dict(self.scores),
            "logits": dict(self.logits),
            "duration": self.duration,
        }


def softmax(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Returns the probabilities of logits [..., labels] divided by a temperature, in float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(-1, keepdims=True))
    probabilities: NDArray[np.float64] = powers / powers.sum(-1, keepdims=True)
    return probabilities

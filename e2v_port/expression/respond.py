"""Chooses the emotion of an answer to a voice."""

from dataclasses import asdict, dataclass
from typing import Any

from e2v_port.emotions import taxonomy
from e2v_port.errors import number, quoted
from e2v_port.expression.profiles import ProsodyParameters, parameters

__all__ = ["STRATEGIES", "Response", "respond"]


@dataclass(frozen=True)
class Response:
    """Emotion of an answer, and how it sounds.

    Attributes:
        emotion: Name of one of the 26 emotions.
        intensity: Strength of the emotion, 0 to 1.2.
        parameters: Voice parameters of that emotion at that intensity.
        strategy: Strategy that chose it.
    """

    emotion: str
    intensity: float
    parameters: ProsodyParameters
    strategy: str

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name, with the parameters as a dict."""
        return asdict(self)


# Strategy -> intensity of the answer per confidence in the emotion heard. `match` has the factor of the pipeline these
# strategies come from; the other factors are heuristic: an emotion heard faintly is answered faintly.
_SHARES = {"match": 0.8, "complement": 1.0, "amplify": 1.2, "neutral": 0.0}
STRATEGIES = tuple(_SHARES)


def respond(emotion: str, confidence: float, strategy: str = "complement") -> Response:
    """Chooses the tone of an answer to a voice.

    * `match`: the same emotion, at 80 % of the confidence.
    * `complement`: calm for unpleasant, activated emotions and for confusion; affectionate for unpleasant, deactivated
      ones; the same emotion for all others; at the confidence.
    * `amplify`: the same emotion, at 120 % of the confidence.
    * `neutral`: neutral, whatever was heard.

    Args:
        emotion: Emotion heard in the voice: the shade of a judgement (`segment.shade.name`), one of the 26; or a label
            of a set in the taxonomy, which counts as the emotion it most probably means.
        confidence: Confidence in that emotion, 0 to 1.
        strategy: Name of one of the four strategies.

    Raises:
        ValueError: The emotion or strategy is unknown, the label names no emotion, or the confidence is out of range.
    """
    if emotion not in {each.name for each in taxonomy.emotions()} and (label_set := taxonomy.label_set_of((emotion,))):
        emotion = next(iter(taxonomy.shades(emotion, label_set=label_set)), emotion)
    taxonomy.emotion(emotion)
    if strategy not in _SHARES:
        raise ValueError(f"unknown strategy {quoted(strategy)}: choose one of {', '.join(STRATEGIES)}")
    confidence = number("confidence", confidence, 0, 1)
    if strategy == "neutral":
        emotion = "neutral"
    elif strategy == "complement":
        emotion = taxonomy.table("prosody")["profiles"][emotion]["complement"]
    intensity = _SHARES[strategy] * confidence
    return Response(emotion, intensity, parameters(emotion, intensity), strategy)

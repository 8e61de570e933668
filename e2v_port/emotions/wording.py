"""What is said beside how it sounds: the valence of words and of a voice, weighed together."""

from dataclasses import asdict, dataclass
from typing import Any

from e2v_port.errors import check_numbers, number

__all__ = ["Wording", "WordingSettings", "weigh"]


@dataclass(frozen=True)
class WordingSettings:
    """How words and voice are weighed. Valences run from unpleasant (0) over neutral (0.5) to pleasant (1).

    Attributes:
        text: Weight of the words' valence, at least 0. The weights 0.6 and 0.4 are those of a deployed pipeline of
            speech recognition and emotion models, where they were set by hand: words say more about valence than the
            voice, from which it is hard to hear.
        voice: Weight of the voice's valence, at least 0. The two are divided by their sum, which must be above 0.
        unpleasant: Valence up to which words are clearly unpleasant. This and the next three are heuristic:
            docs/wording.md shows how often they are right.
        pleasant: Valence from which words are clearly pleasant.
        voice_unpleasant: Valence up to which a voice is clearly unpleasant. The levels of `FusionSettings` are closer
            to neutral, but the valence derived from a neutral label alone is 0.55.
        voice_pleasant: Valence from which a voice is clearly pleasant.
    """

    text: float = 0.6
    voice: float = 0.4
    unpleasant: float = 0.3
    pleasant: float = 0.7
    voice_unpleasant: float = 0.4
    voice_pleasant: float = 0.6

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(self, least=0)
        if not self.text + self.voice:
            raise ValueError("text and voice must not both be 0")
        for low, high in (("unpleasant", "pleasant"), ("voice_unpleasant", "voice_pleasant")):
            if not getattr(self, low) < 0.5 < getattr(self, high) <= 1:
                raise ValueError(f"{low} < 0.5 < {high} <= 1 must hold")


DEFAULTS = WordingSettings()


@dataclass(frozen=True)
class Wording:
    """The valence of what was said, and of how. Arousal and dominance are left to the voice.

    Attributes:
        text: Valence of the words, 0 to 1; None where they have none that is known.
        voice: Valence of the voice, nominally 0 to 1; None where it was not judged.
        voice_from: Source of the voice's valence, as `Judgement.dimensions_from`.
        valence: Both, weighed; None unless both are known.
        mismatch: Phrase for words and a voice that clearly disagree, such as `the words are pleasant, the voice is
            not`; None where they do not, or where that cannot be said. It claims neither irony nor what is meant.
        reason: Why a value is None, or why disagreement cannot be said; None where nothing is missing.
        scorer: Name of what scored the words.
    """

    text: float | None
    voice: float | None
    voice_from: str | None
    valence: float | None
    mismatch: str | None
    reason: str | None
    scorer: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `wording` object of the JSON dialect."""
        return asdict(self)


def weigh(
    text: float | None,
    voice: float | None,
    voice_from: str | None,
    *,
    doubtful: bool = False,
    reason: str | None = None,
    scorer: str | None = None,
    settings: WordingSettings = DEFAULTS,
) -> Wording:
    """Weighs the valence of words and of the voice that says them.

    There is a mismatch where one of them is clearly pleasant and the other clearly unpleasant. A voice whose emotion is
    in doubt contradicts nothing.

    Args:
        text: Valence of the words, 0 to 1; None if unknown.
        voice: Valence of the voice, nominally 0 to 1; None if unknown.
        voice_from: Source of the voice's valence, as `Judgement.dimensions_from`.
        doubtful: Whether the emotion of the voice is in doubt.
        reason: Why the words have no valence.
        scorer: Name of what scored the words.
        settings: Weights and thresholds.

    Raises:
        ValueError: A valence is not finite, or that of the words not from 0 to 1.
    """
    if text is None or voice is None:
        return Wording(text, voice, voice_from, None, None, reason or "the voice was not judged", scorer)
    number("text", text, 0, 1)
    number("voice", voice)
    total = settings.text + settings.voice
    valence = (settings.text * text + settings.voice * voice) / total
    if doubtful:
        return Wording(text, voice, voice_from, valence, None, "the emotion of the voice is in doubt", scorer)
    mismatch = None
    if text >= settings.pleasant and voice <= settings.voice_unpleasant:
        mismatch = "the words are pleasant, the voice is not"
    if text <= settings.unpleasant and voice >= settings.voice_pleasant:
        mismatch = "the words are unpleasant, the voice is not"
    return Wording(text, voice, voice_from, valence, mismatch, None, scorer)

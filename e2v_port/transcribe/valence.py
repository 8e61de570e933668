"""How pleasant words are: VADER for English, or any function of a text."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

from e2v_port.errors import number, quoted

__all__ = ["Scorer", "TextValence"]

Scorer: TypeAlias = Callable[[str], float | None]
"""Returns the valence of a text, from unpleasant (-1) to pleasant (1); None where the text has none."""


class TextValence:
    """Scores the valence of texts.

    Without a scorer it is VADER's (Hutto & Gilbert 2014, ICWSM), a lexicon with rules for negation and emphasis that
    knows English alone: no other language is scored, and none is guessed at.

    Attributes:
        name: Name of the scorer.

    Args:
        scorer: A function of a text; it is responsible for its languages. None for VADER.

    Raises:
        TypeError: The scorer is no function.
    """

    def __init__(self, scorer: Scorer | None = None) -> None:
        if scorer is not None and not callable(scorer):
            raise TypeError(f"text_valence must be a function of a text, not {quoted(scorer)}")
        self._scorer = scorer
        self.name = "VADER" if scorer is None else str(getattr(scorer, "__name__", type(scorer).__name__))

    def of(self, text: str, language: str | None) -> tuple[float | None, str | None]:
        """Scores a text.

        Args:
            text: The words.
            language: Code of their language, such as `en`; None if it is not known.

        Returns:
            Valence, from unpleasant (0) over neutral (0.5) to pleasant (1), or None; and the reason for None.

        Raises:
            ValueError: The scorer returned something else than None or a number from -1 to 1.
        """
        scorer = self._scorer
        if scorer is None:
            if language is None:
                return None, "the language of the words is not known"
            if language != "en":
                return None, f"{self.name} knows English, not {language}"
            scorer = _vader()
            if scorer is None:
                return None, 'vaderSentiment is not installed: pip install "e2v-port[words]"'
        score = scorer(text)
        if score is None:
            return None, "no word of known valence"
        return (number(f"valence by {self.name}", score, -1, 1) + 1) / 2, None


@cache
def _vader() -> Scorer | None:
    """Returns VADER as a scorer; None if it is not installed."""
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        return None
    analyzer: Any = SentimentIntensityAnalyzer()

    def score(text: str) -> float | None:
        scores = analyzer.polarity_scores(text)
        known = scores["pos"] or scores["neg"] or scores["compound"]
        return float(scores["compound"]) if known else None

    return score

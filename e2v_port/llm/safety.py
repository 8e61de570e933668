"""Checks of what a speech language model says."""

from dataclasses import dataclass

__all__ = ["Checked", "Sentences", "checked"]


@dataclass(frozen=True)
class Checked:
    """A checked answer.

    Attributes:
        text: What may be said.
        why: The rule that changed it; None if none did.
    """

    text: str
    why: str | None


def checked(text: str, words: str | None = None) -> Checked:
    """Returns what may be said of an answer."""
    return Checked(text, None)


class Sentences:
    """Checks an answer while it is made."""

    def __init__(self, words: str | None = None) -> None:
        self.why: str | None = None
        self.over = False
        self._held = ""

    def push(self, piece: str) -> str:
        """Takes the next piece of the answer and returns what may leave now."""
        self._held += piece
        cut = max(self._held.rfind(sign) for sign in (". ", "? ", "! ")) + 1
        left, self._held = self._held[:cut], self._held[cut:]
        return left

    def finish(self) -> str:
        """Returns the rest."""
        left, self._held = self._held, ""
        return left

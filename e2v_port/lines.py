"""Text of strangers, such as names and words that somebody said, on one line of an output."""

import unicodedata
from collections.abc import Sequence
from itertools import pairwise

__all__ = ["one_line", "shared", "shortened"]

_JOINERS = "\u200c\u200d"  # of which words of Persian and Hindi, and emoji, are made


def one_line(text: str) -> str:
    """Returns a text on one line, without anything that moves a cursor or turns the direction of writing.

    Unlike `e2v_port.files.printable`, which shows a name exactly, it keeps the text readable: characters that cannot be
    printed are dropped, and any white space, also that of other alphabets, becomes one space.
    """
    return " ".join("".join(map(_plain, text)).split())


def shortened(text: str, most: int) -> str:
    """Returns a line cut to a number of characters, where possible between two words, with an ellipsis at its end.

    Args:
        text: A line.
        most: Most characters, the ellipsis included.
    """
    if len(text) <= most:
        return text
    kept = text[: most - 3]
    words = kept.rpartition(" ")[0]
    return (words if len(words) > most // 2 else kept).rstrip() + "..."


def shared(text: str, words: Sequence[str]) -> list[str] | None:
    """Cuts a text into one part per word, which begins with that word: joined, the parts are the text.

    Args:
        text: A text.
        words: Its words in order, without white space around them; some may be missing.

    Returns:
        The parts, with the white space between words at their ends; None if the words are not in the text.
    """
    places: list[int] = []
    at = 0
    for word in words:
        place = text.find(word, at)
        if place < 0:
            return None
        places.append(place)
        at = place + len(word)
    return [text[start:end] for start, end in pairwise([0, *places[1:], len(text)])] if places else None


def _plain(character: str) -> str:
    if character.isprintable() or character in _JOINERS:
        return character
    return "" if unicodedata.category(character) == "Cf" else " "  # marks between letters, such as a soft hyphen

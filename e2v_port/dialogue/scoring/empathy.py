"""The empathy of replies, rated by a language model that somebody else serves; off unless one is named."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from e2v_port.errors import CorpusError
from e2v_port.files import lines, replacing

__all__ = ["Ask", "Rater", "Rating", "asking", "rate"]

Rating: TypeAlias = tuple[str, str, str]
"""What is rated: the words of a remark, the label of its tone, and a reply."""
Rater: TypeAlias = Callable[[str, str, str], float | None]
"""Rates such a triple from 1 to 5; None if it has no answer."""
Ask: TypeAlias = Callable[[Sequence[Mapping[str, str]]], str]
"""Answers a chat of messages with `role` and `content`, as any OpenAI-compatible endpoint does."""

_FIELDS = ("rater", "words", "label", "reply")

_SYSTEM = """You rate how empathic a reply is to something that was said in a certain tone of voice.
1: it ignores or hurts the feeling in the voice
2: it hardly notices the feeling
3: it notices the feeling, but says little about it
4: it names the feeling fittingly, or reacts to it warmly
5: it fits the feeling, reacts to it warmly and invites the person to say more
If the tone is neutral, 5 is a friendly reply that sees no feeling where there is none.
Answer with the number alone."""


def asking(ask: Ask) -> Rater:
    """Returns a rater that asks a language model.

    Args:
        ask: Answers a chat.
    """

    def rater(words: str, label: str, reply: str) -> float | None:
        remark = f"Said in a tone that is {label}: {json.dumps(words)}\nReply: {json.dumps(reply)}"
        answer = ask([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": remark}])
        found = re.fullmatch(r"\W*([1-5])(?:[.,]0)?\W*", answer)
        return float(found[1]) if found else None

    return rater


def rate(
    rater: Rater, name: str, wanted: Iterable[Rating], file: Path, advance: Callable[[], None] = lambda: None
) -> dict[Rating, float]:
    """Rates replies, and keeps the ratings in a file: what this rater has rated there is not rated again.

    Args:
        rater: The rater.
        name: Its name, which its ratings are kept under.
        wanted: What is rated; each once.
        file: The file, `ratings.jsonl`.
        advance: Called after each.

    Returns:
        The ratings, without those that the rater does not answer.

    Raises:
        CorpusError: The file is damaged.
    """
    try:
        rows = lines(file.read_text("utf-8")) if file.is_file() else []
        every = {tuple(row[field] for field in _FIELDS): float(row["rating"]) for row in map(json.loads, rows)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{file}: damaged ({error}): remove it and evaluate again") from error
    found: dict[Rating, float] = {}
    try:
        for each in dict.fromkeys(wanted):
            key = (name, *each)
            rating = every[key] if key in every else rater(*each)
            if rating is not None:
                found[each] = every[key] = rating
            advance()
    finally:  # what has been rated is kept if the endpoint fails
        with replacing(file) as partial:
            kept = [{**dict(zip(_FIELDS, key, strict=True)), "rating": rating} for key, rating in every.items()]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
            partial.write_text(text, "utf-8", newline="\n")
    return found

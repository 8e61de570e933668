"""The empathy of replies, rated by a language model that somebody else serves; off unless one is named."""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from e2v_port.errors import CorpusError
from e2v_port.files import replacing

__all__ = ["Ask", "Rater", "Rating", "asking", "rate"]

Rating: TypeAlias = tuple[str, str, str]
"""What is rated: the words of a remark, the label of its tone, and a reply."""
Rater: TypeAlias = Callable[[str, str, str], float | None]
"""Rates such a triple from 1 to 5; None if it has no answer."""
Ask: TypeAlias = Callable[[Sequence[Mapping[str, str]]], str]
"""Answers a chat of messages with `role` and `content`, as any OpenAI-compatible endpoint does."""

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
    rater: Rater, wanted: Iterable[Rating], file: Path, advance: Callable[[], None] = lambda: None
) -> dict[Rating, float]:
    """Rates replies, and keeps the ratings in a file: what is in there is not rated again.

    Args:
        rater: The rater.
        wanted: What is rated; each once.
        file: The file, `ratings.jsonl`.
        advance: Called after each.

    Returns:
        The ratings, without those that the rater does not answer.

    Raises:
        CorpusError: The file is damaged.
    """
    try:
        lines = file.read_text("utf-8").splitlines() if file.is_file() else []
        known = {(row["words"], row["label"], row["reply"]): row["rating"] for row in map(json.loads, lines)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{file}: damaged ({error}): remove it and evaluate again") from error
    found: dict[Rating, float] = {}
    try:
        for each in dict.fromkeys(wanted):
            rating = known[each] if each in known else rater(*each)
            if rating is not None:
                found[each] = known[each] = rating
            advance()
    finally:  # what has been rated is kept if the endpoint fails
        with replacing(file) as partial:
            rows = [dict(zip(("words", "label", "reply", "rating"), (*key, known[key]), strict=True)) for key in known]
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            partial.write_text(text, "utf-8", newline="\n")
    return found

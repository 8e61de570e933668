"""What an assistant answers to a tone of voice, and what was said before: the texts of taxonomy/replies.json."""

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any

from e2v_port.evaluation.datasets import published

__all__ = ["LABELS", "context", "contexts", "replies", "reply", "topic_of"]


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(files("e2v_port.taxonomy").joinpath("replies.json").read_text("utf-8"))
    return table


LABELS = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised")
"""Labels of emotion2vec that have replies: all that name an emotion."""


def topic_of(corpus: str, text: str) -> str | None:
    """Returns what a sentence of a published corpus is about, in English words; None for any other text.

    Args:
        corpus: Name of the corpus, such as `ravdess`.
        text: The sentence, as in `Utterance.text`.
    """
    sentences: dict[str, str] = published()["corpora"].get(corpus, {}).get("sentences", {})
    code = next((code for code, known in sentences.items() if known == text), None)
    topic: str | None = _table()["topics"].get(corpus, {}).get(code)
    return topic


def replies(label: str, intensity: str | None, topic: str | None = None) -> list[str]:
    """Returns all replies to a tone of voice.

    Args:
        label: One of `LABELS`.
        intensity: `normal` or `strong`; None counts as `normal`.
        topic: What the remark is about, in words; None if that is not known. Half of the replies name it.
    """
    table = _table()["replies"][label]
    ends = list(table["after"])
    if topic is not None:
        ends += [end.format(topic=topic) for end in table["about"]]
    return [f"{opening} {end}" for opening in table[intensity or "normal"] for end in ends]


def reply(label: str, intensity: str | None, topic: str | None, name: str) -> str:
    """Returns the reply to one remark, which depends on nothing but the arguments.

    Args:
        label: Same as for `replies`.
        intensity: Same as for `replies`.
        topic: Same as for `replies`.
        name: Name of the remark: different ones get different replies.
    """
    known = replies(label, intensity, topic)
    return known[_draw(name) % len(known)]


def contexts() -> list[list[dict[str, str]]]:
    """Returns what may have been said before a remark: turns of `user` and `assistant` in turn, the user first.

    They fit any tone of voice.
    """
    roles = ("user", "assistant")
    return [
        [{"role": roles[number % 2], "content": content} for number, content in enumerate(turns)]
        for turns in _table()["contexts"]
    ]


def context(name: str) -> list[dict[str, str]]:
    """Returns what was said before one remark: in two of three cases nothing.

    Args:
        name: Decides which. It must not depend on the tone of the remark.
    """
    known = contexts()
    drawn = _draw(f"context/{name}") % (3 * len(known))
    return known[drawn] if drawn < len(known) else []


def _draw(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])

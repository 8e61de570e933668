"""What a speech language model does not answer, and what it answers in a crisis: the rules of taxonomy/safety.json.

An answer is checked sentence by sentence. A sentence that states a feeling as a fact (`You are angry.`) becomes an
estimate (`You sound angry.`) where it says nothing else, and is dropped where it does. A sentence about health, about
who somebody is, or of another kind listed in the table ends the answer: a fixed one takes its place, and nothing after
it is said. The rules find words, not meaning: see docs/safety-of-replies.md for what they cannot see.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from re import Pattern
from typing import Any

from e2v_port.emotions import taxonomy

__all__ = ["Checked", "Sentences", "checked", "crisis"]

# A sentence ends at its mark, if a space and a capital letter or another sign follow; never before a digit, or a
# telephone number could pass in parts. The sign that follows is looked at, so that a stream is cut as the whole is.
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[^\s\d])|\n+(?=\s*[^\s\d])")
_MARKS = re.compile(r"[.!?…\n]+")
_APOSTROPHES = re.compile(r"['’‘`´]")
_YOU_ARE = re.compile(r"\byoure\b")  # so that each rule on one form holds for the other
_NO_WORD = re.compile(r"[^\w.]+|_")
_LETTERS = str.maketrans({"ł": "l", "đ": "d", "ø": "o"})  # which have no decomposition


@dataclass(frozen=True)
class Checked:
    """An answer that may be said.

    Attributes:
        text: The words.
        why: Name of the first rule that changed them, such as `health`, or `crisis: self-harm`; None if they are as
            they were.
    """

    text: str
    why: str | None


def checked(text: str, words: str | None = None) -> Checked:
    """Returns an answer as it may be said.

    Args:
        text: The answer of a language model.
        words: Words of the remark, where they are known: if they speak of a crisis, the answer is a fixed one.
    """
    sentences = Sentences(words)
    said = sentences.push(text) + sentences.finish()
    return Checked(said, sentences.why)


def crisis(words: str) -> Checked | None:
    """Returns the fixed answer to a remark that speaks of a crisis; None for any other.

    Crises are suicide and self-harm, violence against the speaker, and medical emergencies. English, German and Polish
    are understood; the answer is in the language of the words that were found.

    Args:
        words: The remark.
    """
    plain = _plain(words)
    for harmless, kinds in _crises():
        left = harmless.sub(" | ", plain)
        for kind, pattern, text in kinds:
            if pattern.search(left):
                return Checked(text, f"crisis: {kind}")
    return None


class Sentences:
    """Checks an answer while it is written: only whole sentences leave, each checked.

    The text that leaves is the same as that of `checked`, however the answer is cut into pieces.

    Attributes:
        why: Name of the first rule that changed something; None so far.
        over: Whether the fixed answer has left, so that nothing more will.
    """

    def __init__(self, words: str | None = None) -> None:
        """Begins an answer.

        Args:
            words: Words of the remark, where they are known.
        """
        self.why: str | None = None
        self.over = False
        self._begun = False
        self._waiting = ""
        found = None if words is None else crisis(words)
        self._fixed = None if found is None else found.text
        if found is not None:
            self.why = found.why

    def push(self, piece: str) -> str:
        """Takes the next piece of the answer, and returns what may leave now: often nothing."""
        if self._fixed is not None:
            return self._end(self._fixed)
        self._waiting += piece
        leaving = ""
        while not self.over and (end := _END.search(self._waiting)):
            sentence, self._waiting = self._waiting[: end.end()], self._waiting[end.end() :]
            leaving += self._checked(sentence)
        return leaving

    def finish(self) -> str:
        """Returns the rest of the answer, once its last piece has been taken."""
        leaving = self.push("")
        if not self.over:
            leaving += self._checked(self._waiting.rstrip())
            self._waiting = ""
        if not self._begun and self.why is not None:
            leaving += self._end(_answers().reply)  # all that was said has been dropped
        return leaving

    def _checked(self, sentence: str) -> str:
        rule, text = _sentence(sentence)
        self.why = self.why or rule
        if text is None:
            return self._end(_answers().reply)
        if not self._begun:
            text = text.lstrip()
        self._begun = self._begun or bool(text)
        return text

    def _end(self, text: str) -> str:
        """Returns a fixed text, once."""
        if self.over:
            return ""
        self.over = True
        space = " " if self._begun else ""
        self._begun = True
        return space + text


def _sentence(sentence: str) -> tuple[str | None, str | None]:
    """Returns the rule that a sentence breaks, and the text in its place: none if the answer must end here."""
    answers = _answers()
    text = unicodedata.normalize("NFKC", sentence)
    text = "".join(char for char in text if unicodedata.category(char) != "Cf").casefold()
    plain = _plain(sentence)
    for name, words, signs in answers.rules:
        if (words and words.search(plain)) or (signs and signs.search(text)):
            return name, None
    if answers.claims.search(answers.harmless.sub(" | ", plain)) and not sentence.rstrip().endswith("?"):
        exact = answers.exact.fullmatch(sentence)
        return "feeling", f"{exact[1]}{exact[2]}ou sound {exact[3]}" if exact else ""
    return None, sentence


def _plain(text: str) -> str:
    """Returns the words of a text in small letters without accents and apostrophes; sentences end with a word `.`.

    `you're` becomes `you are`.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()).translate(_LETTERS)
    kept = "".join(char for char in text if unicodedata.category(char) not in {"Mn", "Cf"})
    kept = _YOU_ARE.sub("you are", _APOSTROPHES.sub("", kept))
    return " ".join(_NO_WORD.sub(" ", _MARKS.sub(" . ", kept)).replace(".", " . ").split())


@dataclass(frozen=True)
class _Answers:
    reply: str
    harmless: Pattern[str]
    claims: Pattern[str]
    exact: Pattern[str]
    rules: tuple[tuple[str, Pattern[str] | None, Pattern[str] | None], ...]


@cache
def _answers() -> _Answers:
    table = taxonomy.table("safety")["answers"]
    feelings = "|".join(table["feelings"])
    adverbs = "|".join(table["adverbs"])
    lead = "(?:ou are|ou're|ou’re|ou feel|ou are feeling|ou're feeling|ou’re feeling|ou must be|ou must feel)"
    feeling = f"(?:(?:{adverbs}) )?(?:{feelings})"
    return _Answers(
        table["reply"],
        _words(table["harmless"]),
        _words([text.replace("FEELINGS", feelings).replace("ADVERBS", adverbs) for text in table["claims"]]),
        re.compile(rf"(\s*)([Yy]){lead} ({feeling}(?: and {feeling})?[.!]*)"),
        tuple(
            (
                rule["name"],
                _words(rule["patterns"]) if rule["patterns"] else None,
                re.compile("|".join(rule["signs"])) if "signs" in rule else None,
            )
            for rule in table["rules"]
        ),
    )


@cache
def _crises() -> tuple[tuple[Pattern[str], tuple[tuple[str, Pattern[str], str], ...]], ...]:
    languages: dict[str, dict[str, Any]] = taxonomy.table("safety")["crisis"]
    return tuple(
        (
            _words(language["harmless"]),
            tuple((kind, _words(entry["patterns"]), entry["text"]) for kind, entry in language["kinds"].items()),
        )
        for language in languages.values()
    )


def _words(patterns: Sequence[str]) -> Pattern[str]:
    """Returns a pattern that matches whole words."""
    return re.compile(rf"(?<!\w)(?:{'|'.join(patterns)})(?!\w)")

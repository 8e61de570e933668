"""The answer of a speech language model, whole or while it is made."""

import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from e2v_port.emotions.fusion import FusionSettings, unsure
from e2v_port.emotions.judgement import rivals
from e2v_port.errors import E2VError
from e2v_port.llm.safety import Sentences

if TYPE_CHECKING:  # it imports torch
    from e2v_port.llm.language import Language

__all__ = ["Reply", "Speaking", "notes_on", "sounds"]


@dataclass(frozen=True)
class Reply:
    """The answer to a remark.

    Attributes:
        text: The words; empty if no speech was heard.
        tone: Estimated probability of each tone of voice, summing to 1; None if no speech was heard. The words need not
            follow it: the language model gets it among other things.
        notes: What must be known about the sound and the answer, one English line each.
        seconds: Time since the call: `encoding` until the voice was encoded, `first_token` until the language model
            gave its first token, `total` until the end. Without speech, `total` alone.
    """

    text: str
    tone: Mapping[str, float] | None
    notes: tuple[str, ...]
    seconds: Mapping[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, ready for JSON."""
        return {**asdict(self), "notes": list(self.notes)}


class Speaking(Iterator[str]):
    """An answer while it is made: an iterator of its words, one or more whole sentences at a time.

    The pieces join to the text of the answer. The voice is encoded already; each piece is computed when it is asked
    for.

    Attributes:
        tone: As `Reply.tone`.
        notes: Those on the sound, as in `Reply.notes`.
        tokens: Tokens that the language model has given so far.
    """

    def __init__(
        self,
        tone: Mapping[str, float] | None,
        notes: Sequence[str],
        tokens: Iterable[Sequence[int | None]] = (),
        *,
        language: "Language | None" = None,
        words: str | None = None,
        limit: int = 0,
        started: float,
    ) -> None:
        self.tone, self.notes, self.tokens = tone, tuple(notes), 0
        self._started = started
        self._seconds = {} if language is None else {"encoding": self._passed}
        self._reply: Reply | None = None
        self._pieces = self._said(tokens, language, Sentences(words), limit)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stops the generation. Further calls do nothing."""
        self._pieces.close()

    @property
    def reply(self) -> Reply:
        """The whole answer.

        Raises:
            E2VError: It has not ended yet.
        """
        if self._reply is None:
            raise E2VError("the answer has not ended: take all of its pieces first")
        return self._reply

    def _said(
        self, tokens: Iterable[Sequence[int | None]], language: "Language | None", sentences: Sentences, limit: int
    ) -> Generator[str]:
        text = ""
        for piece in self._checked(tokens, language, sentences) if language else ():
            text += piece
            if piece:
                yield piece
        notes = (*self.notes, *notes_on(sentences, self.tokens == limit > 0, limit))
        seconds = {**self._seconds, "total": self._passed}
        self._reply = Reply(text, self.tone, notes, seconds)

    def _checked(
        self, tokens: Iterable[Sequence[int | None]], language: "Language", sentences: Sentences
    ) -> Iterator[str]:
        yield sentences.push("")
        if sentences.over:
            return  # the remark itself asks for a fixed answer
        ids: list[int] = []
        given = ""
        for (token,) in tokens:
            self._seconds.setdefault("first_token", self._passed)
            self.tokens += 1
            ids += [] if token is None else [token]
            # A letter may take several tokens; until the last of them, its bytes decode to replacement characters.
            known = language.text(ids).rstrip("\ufffd")
            if len(known) > len(given):
                piece, given = known[len(given) :], known
                yield sentences.push(piece)
                if sentences.over:
                    return
        self._seconds.setdefault("first_token", self._passed)
        yield sentences.push(language.text(ids)[len(given) :]) + sentences.finish()

    @property
    def _passed(self) -> float:
        return time.perf_counter() - self._started


def notes_on(sentences: Sentences, cut: bool, limit: int) -> tuple[str, ...]:
    """Returns what must be known about an answer: whether it was changed, and whether it was cut."""
    changed = [f"the answer was changed: {sentences.why}"] if sentences.why else []
    ended = [f"the answer was ended after {limit} tokens"] if cut and not sentences.over else []
    return (*changed, *ended)


def sounds(tone: Mapping[str, float]) -> str:
    """Returns in words how a voice sounds: `sad (71%)`, or `unclear: angry or disgusted` where that is in doubt.

    Doubt is that of an analysis, see `FusionSettings.uncertain` and `lead`.

    Args:
        tone: Probability of each label.
    """
    label = max(tone, key=lambda name: tone[name])
    if unsure(label, tone[label], tone, FusionSettings()):
        return f"unclear: {rivals(label, tone)}"
    return f"{label} ({tone[label]:.0%})"

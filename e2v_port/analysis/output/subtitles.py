"""Subtitles of turns: short pieces of what was said, at the times of their words.

Lengths are those of Netflix's Timed Text Style Guide, General Requirements, and its English template: at most two lines
of 42 characters, 5/6 s to 7 s on the screen, lines that end after punctuation where possible, and about as long.
"""

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from e2v_port.analysis.judged import JudgedSegment, unjudged_words
from e2v_port.analysis.turns import Turn
from e2v_port.lines import one_line, shared
from e2v_port.transcribe.words import Word

__all__ = ["Cue", "cues"]

_LINE = 42  # cells
_LINES = 2
_SHORTEST, _LONGEST = 5 / 6, 7.0  # s
_PAUSE = 1.0  # s without a word, after which a cue does not stay; heuristic
_ENDS = (".", "?", "!", "。", "？", "！", "…")
_HALTS = (",", ";", ":", "、", "，", "；", "：")
_UNEVEN = 12  # cells by which lines may differ more for one that ends after punctuation; heuristic
_ORPHANS = 3  # fewer words than these are no cue of their own where another cut is possible; heuristic


@dataclass(frozen=True)
class Cue:
    """A subtitle.

    Attributes:
        start: Start in seconds.
        end: End in seconds.
        speaker: Name of the speaker, if known.
        lines: Its lines.
    """

    start: float
    end: float
    speaker: str | None
    lines: list[str]


def cues(turns: Sequence[Turn], named: Callable[[str], str] = lambda name: "") -> list[Cue]:
    """Returns the subtitles of a clip, in order of time.

    How a turn sounds stands in front of its words, in brackets, where it is another emotion or speaker than before.
    Words with times are cut into pieces that can be read in passing. Words without times stay together for the length
    of their segment, since it is unknown when each of them is said. A segment without words has a cue that says how it
    sounds, or why it was not judged.

    Args:
        turns: Turns of the clip.
        named: Returns what a speaker's name puts in front of the first line; nothing by default.
    """
    found: list[Cue] = []
    before: tuple[str | None, int | None, str | None] | None = None
    for turn in turns:
        sounds = f"[{turn.caption}]" if turn.headline else f"({turn.caption})"
        now = (turn.speaker, turn.channel, turn.headline)
        lead = [] if now == before else [f"{sounds} "]
        before = now
        name = [prefix] if turn.speaker and (prefix := named(turn.speaker)) else []
        for part in turn.parts:
            if part.text and part.words:
                found += _pieces(part, name, lead)
            else:
                words = _breakable(one_line(part.text or ""))
                shown = (
                    [*lead, *words] if words else [sounds if part.judgement else f"({unjudged_words(part.quality)})"]
                )
                found.append(Cue(part.start, part.end, part.speaker, _lines([*name, *shown])))
            lead = []
    return sorted(found, key=lambda cue: cue.start)  # of several at once, in the order of the words


def _breakable(text: str) -> list[str]:
    """Returns the parts of a text between which a line may end: words; characters, where they count twice."""
    parts: list[str] = []
    for word in text.split():
        parts += [*word[:-1], f"{word[-1]} "] if _cells(word) > len(word) else [f"{word} "]
    return parts


def _pieces(part: JudgedSegment, name: list[str], lead: list[str]) -> Iterator[Cue]:
    """Yields the cues of a segment whose words have times."""
    said = _said(part)
    made: list[Cue] = []
    at = 0
    while at < len(said):
        until = _cut(said, at, [*name, *lead])
        texts = [text for text, _ in said[at:until]]
        start, end = said[at][1].start, max(word.end for _, word in said[at:until])
        made.append(Cue(start, min(end, start + _LONGEST), part.speaker, _lines([*name, *lead, *texts])))
        at, lead = until, []
    starts = [*(cue.start for cue in made[1:]), float("inf")]
    for cue, following in zip(made, starts, strict=True):
        shown = cue.start + _SHORTEST
        yield replace(cue, end=max(cue.end, min(shown, following) if following > cue.start else shown))


def _said(part: JudgedSegment) -> list[tuple[str, Word]]:
    """Returns the words with the text of each as it stands in the segment: with a space after it where there is one."""
    words = part.words or ()
    texts = [one_line(word.text) for word in words]
    parts = shared(one_line(part.text or ""), texts) or [f"{text} " for text in texts]
    return [*zip(parts, words, strict=True)]


def _cut(said: Sequence[tuple[str, Word]], at: int, front: list[str]) -> int:
    """Returns the number of the word before which the cue that begins with word `at` ends."""
    until = at + 1
    while until < len(said):
        if said[until][1].start - said[until - 1][1].end >= _PAUSE:
            return until
        texts = [text for text, _ in said[at : until + 1]]
        if said[until][1].end - said[at][1].start > _LONGEST or len(_filled([*front, *texts])) > _LINES:
            break
        until += 1
    else:
        return until

    def worse(end: int) -> tuple[int, int]:
        text = said[end - 1][0].rstrip()
        kind = 0 if text.endswith(_ENDS) else 1 if text.endswith(_HALTS) else 2
        return kind + 3 * (len(said) - end < _ORPHANS), -end

    return min(range(at + (until - at + 2) // 3, until + 1), key=worse)


def _lines(texts: Sequence[str]) -> list[str]:
    """Returns texts in lines: one that is short enough, two that are about as long, or as many as it takes."""
    filled = _filled(texts)
    if len(filled) != 2:
        return filled

    def uneven(count: int) -> int:
        first, second = _joined(texts[:count]), _joined(texts[count:])
        halts = first.endswith((*_ENDS, *_HALTS, "]", ")"))
        return abs(_cells(first) - _cells(second)) + (0 if halts else _UNEVEN)

    fits = [i for i in range(1, len(texts)) if len(_filled(texts[:i])) == 1 and len(_filled(texts[i:])) == 1]
    best = min(fits, key=uneven)
    return [_joined(texts[:best]), _joined(texts[best:])]


def _filled(texts: Sequence[str]) -> list[str]:
    """Returns texts in the fewest lines; one that is too long for a line has one of its own."""
    lines: list[list[str]] = []
    for text in texts:
        if lines and _cells(_joined([*lines[-1], text])) <= _LINE:
            lines[-1].append(text)
        else:
            lines.append([text])
    return [_joined(line) for line in lines]


def _joined(texts: Sequence[str]) -> str:
    return "".join(texts).strip()


def _cells(text: str) -> int:
    """Returns the width of a text, in which letters of Chinese, Japanese and Korean count twice."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)

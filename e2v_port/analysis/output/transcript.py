"""What was said and how it sounded, turn by turn: a transcript in Markdown, and a table with a row per turn."""

import csv
import io
import re
import string
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from e2v_port.analysis.judged import JudgedSegment, unjudged_words
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.turns import Turn, turns
from e2v_port.cells import cell
from e2v_port.emotions.judgement import columns
from e2v_port.emotions.wording import Wording
from e2v_port.lines import one_line
from e2v_port.llm.describe import NOTICE
from e2v_port.seconds import clock

__all__ = ["Voice", "missing_words", "reader", "to_markdown", "to_turns", "voices"]

_LINE = 100  # characters of a line of Markdown, for those who read it as plain text
_COLUMNS = (
    *("file", "start", "end", "speaker", "text", "channel", "overlap", "seconds_judged", "emotion", "confidence"),
    *("unclear", "shade", "shade_probability", "octant", "avd_arousal", "avd_dominance", "avd_valence", "avd_from"),
    *(f"wording_{field.name}" for field in fields(Wording)),
)
# What is markup anywhere in a line, of CommonMark and of its common extensions: links of GitHub, formulas, names of
# emoji, attributes, footnotes, highlights.
_MARKUP = re.compile(
    r"[\\`*{}\[\]<~$^]|(?<![a-z0-9])_|_(?![a-z0-9])|&(?=#?\w+;)|(?<=\s)#|(?<=\S)@(?=\S)"
    r"|:(?=//)|(?<!\d):(?=[\w+-]+:)|==|(?<=www)\.",
    re.I,
)
_ORDINAL = re.compile(r"(\d{1,9})(?=[.)](?:\s|$))")  # at the start of a line, that of a list


@dataclass(frozen=True)
class Voice:
    """How one speaker sounds over a whole clip.

    Attributes:
        speaker: Name of the speaker, if known.
        seconds: Length of the speaker's segments, in seconds.
        sounds: Share of that time, 0 to 1, by headline of the segments, the largest first. `unclear` stands for all
            headlines in doubt, and what was not judged is there under its reason: the shares add up to 1.
    """

    speaker: str | None
    seconds: float
    sounds: dict[str, float]

    def __str__(self) -> str:
        """Says how long the speaker speaks and how that sounds: `0:41 in all: neutral 62%, angry 38%`."""
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.sounds.items())
        return f"{clock(self.seconds)} in all: {shares}"


def voices(segments: Iterable[JudgedSegment]) -> list[Voice]:
    """Returns how each speaker of a clip sounds, in order of appearance."""
    found: dict[str | None, dict[str, float]] = {}
    for segment in segments:
        judgement = segment.judgement
        headline = judgement.headline if judgement else unjudged_words(segment.quality)
        name = "unclear" if judgement and judgement.doubtful else headline
        sounds = found.setdefault(segment.speaker, {})
        sounds[name] = sounds.get(name, 0.0) + segment.duration
    totals = {speaker: sum(sounds.values()) for speaker, sounds in found.items()}
    return [
        Voice(speaker, totals[speaker], {name: sounds[name] / totals[speaker] for name in _largest(sounds)})
        for speaker, sounds in found.items()
        if totals[speaker]
    ]


def _largest(sounds: dict[str, float]) -> list[str]:
    return sorted(sounds, key=lambda name: -sounds[name])


def reader(analysis: Analysis) -> str | None:
    """Returns in words which recognizer read the words of a clip; None if none did."""
    transcript = analysis.transcript
    if transcript is None:
        return None
    if transcript.language is None:
        return f"words by {transcript.model}"
    detected = transcript.language_probability
    sure = "" if detected is None else f" (detected, {detected:.2f})"
    return f"words by {transcript.model}, language {transcript.language}{sure}"


def missing_words(turn: Turn) -> bool:
    """Returns whether words were looked for in a turn, and none were found."""
    return turn.words is not None and not turn.text


def to_markdown(analyses: Sequence[Analysis]) -> str:
    """Returns a transcript in Markdown, which reads well as plain text, too.

    Per clip: its name and length, models and notes, how each speaker sounds over the whole clip, and the turns with
    their times, how they sound, and what was said. No word of a speaker, and no name, becomes markup.
    """
    blocks = [block for analysis in analyses for block in _blocks(analysis)]
    return "\n\n".join([*blocks, "---", _paragraph(NOTICE)]) + "\n"


def _blocks(analysis: Analysis) -> list[str]:
    """Returns the paragraphs of one clip."""
    models = [f"{model} (license: {model.licence})" for model in analysis.models]
    made = "; ".join(filter(None, [f"emotions by {' and '.join(models)}" if models else None, reader(analysis)]))
    facts = f"Length {clock(analysis.duration)}" + (f"; {made}" if made else "")
    blocks = [f"# {_escaped(analysis.file) or 'Recording'}", _paragraph(f"{facts}.")]
    blocks += [_paragraph(f"{analysis.reason[0].upper()}{analysis.reason[1:]}.")] if analysis.reason else []
    if analysis.notes:
        blocks.append("\n".join(_paragraph(f"Note: {note.text}", "- ", "  ") for note in analysis.notes))
    found = analysis.turns
    if found is None:
        found = turns(analysis.segments, analysis.settings.fusion)
    heard = [f"- {_bold(voice.speaker or 'voice')}: {_escaped(str(voice))}" for voice in voices(analysis.segments)]
    blocks += ["## By speaker", "\n".join(heard), "## Turns"] if len(found) > 1 else []
    for turn in found:
        facts = " · ".join([turn.caption, *([", ".join(turn.remarks)] if turn.remarks else [])])
        name = f"{_bold(turn.speaker)} " if turn.speaker else ""
        blocks.append(f"{name}{clock(turn.start)} to {clock(turn.end)} · {_escaped(facts)}")
        if one_line(turn.text or ""):
            blocks.append(_paragraph(turn.text or "", "> ", "> "))
        elif missing_words(turn):
            blocks.append("*No words were read.*")
    if analysis.events:
        sounds = [f"- {clock(event.start)} to {clock(event.end)}: {_escaped(event.name)}" for event in analysis.events]
        blocks += ["## Other sounds", "\n".join(sounds)]
    return blocks


def _paragraph(text: str, first: str = "", others: str = "") -> str:
    """Returns a text in lines for those who read it as plain text, broken between words: a line break is a space."""
    lines = textwrap.wrap(one_line(text), _LINE - len(first), break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"{others if i else first}{_escaped(line)}" for i, line in enumerate(lines))


def _bold(name: str) -> str:
    return f"**{_escaped(name) or 'unnamed'}**"


def _escaped(text: str) -> str:
    """Returns a text as one line of Markdown that shows it and nothing else, wherever the line begins."""
    line = _MARKUP.sub(lambda match: "".join(f"\\{character}" for character in match[0]), one_line(text))
    if line[:1] in set(string.punctuation) - {"\\"}:
        return f"\\{line}"
    return _ORDINAL.sub(r"\1\\", line, count=1) if _ORDINAL.match(line) else line


def to_turns(analyses: Sequence[Analysis]) -> str:
    """Returns a table with a header and one row per turn; fields without a value are empty cells.

    Names are those of the JSON, nested ones joined. Words and names that a spreadsheet would run as a formula get an
    apostrophe in front.
    """
    rows: list[dict[str, Any]] = []
    for analysis in analyses:
        found = analysis.turns
        if found is None:
            found = turns(analysis.segments, analysis.settings.fusion)
        for turn in found:
            rows.append({"file": analysis.file, **_flat(columns(turn.to_dict()))})
    text = io.StringIO()
    known = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, dict.fromkeys((*_COLUMNS, *known)), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _flat(cells: dict[str, Any]) -> dict[str, Any]:
    """Joins the names of nested objects to theirs: `prosody` and `pitch` to `prosody_pitch`."""
    flat: dict[str, Any] = {}
    for name, value in cells.items():
        if isinstance(value, dict):
            flat |= {f"{name}_{key}": part for key, part in _flat(value).items()}
        elif not isinstance(value, list | tuple):
            flat[name] = value
    return flat

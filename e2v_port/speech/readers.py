"""Reads the rows of diarization, subtitle and transcript files that are plain text: one reader per format."""

import csv
import html
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from e2v_port.cells import without_guard
from e2v_port.errors import SegmentError

__all__ = ["RTTM_OTHERS", "TEXTS", "UNTIL_THE_END", "Row", "ended", "kaldi", "of_one", "phrases", "shortened"]

UNTIL_THE_END = object()  # the end of a row that has none: the end of the clip


class Row(NamedTuple):
    """A row of a file; its values, of any type, are checked later.

    Attributes:
        place: Place in the file.
        start: Start in seconds.
        end: End in seconds, or `UNTIL_THE_END`.
        speaker: Speaker, or None.
        text: Words, or None.
        channel: Channel from 1, or None.
        words: Start, end, text and probability of words of the text, of any type, or None.
    """

    place: str
    start: Any
    end: Any
    speaker: Any = None
    text: Any = None
    channel: Any = None
    words: Any = None


RTTM_OTHERS = {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT"}
RTTM_OTHERS |= {"IP", "SU", "CB", "A/P", "SPKR-INFO"}
_TIME = re.compile(r"(?:([0-9]{1,6}):)?([0-5]?[0-9]):([0-5]?[0-9])(?:[.,]([0-9]{1,3}))?")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>|\{\\[^{}]*\}")  # <i>, <font color=red>, <00:00:01.500>, {\an8}
_INLINE_TIME = re.compile(r"<[0-9:.]{5,16}>")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^<>]+)>")
_NUMBER = re.compile(r"&#[0-9]{8,};?")  # no character has such a number
_PREFIX = re.compile(r"\[([^\[\]]+)\]:(?: |$)")  # whisperX's form of a speaker
_FLASH = 0.02  # s; YouTube's cues that only keep the last line on the screen take 0.01 s
_PHRASE = 8.0  # s; emotions are judged best from 3 to 8 s, see docs/analysis.md
_PHRASE_PAUSE = 0.3  # s, at which MSP-Podcast splits speech (see SegmentSettings)
_ENDS = (".", "?", "!", "。", "？", "！")


def shortened(value: object) -> str:
    """Returns a value for an error message: its repr, at most 40 characters long."""
    try:
        shown = repr(value)
    except RecursionError:
        shown = "nested too deeply"
    return "missing" if value is None else shown if len(shown) <= 40 else shown[:37] + "..."


def number(text: str | None) -> float | str | None:
    """Returns the number in a text; text that is not a number is returned as it is, to be refused later."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def ended(start: Any, length: Any) -> Any:
    """Returns the end of a row with a length, as if it were written in the file: 12.34 + 5.67 is not 18.01."""
    for value in (start, length):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return length
    return round(start + length, 6)


def of_one(recordings: set[str]) -> None:
    """Raises SegmentError for rows of several recordings."""
    if len(recordings) > 1:
        some = shortened(sorted(recordings)[:3])
        raise SegmentError(f"lines of {len(recordings)} recordings, {some}: keep those of one")


def phrases(words: Iterable[Row]) -> Iterator[Row]:
    """Joins words to phrases: up to a pause of 0.3 s, the end of a sentence, another speaker or channel, or 8 s."""
    phrase: Row | None = None
    for word in words:
        timed = all(isinstance(value, int | float) for value in (word.start, word.end))
        if phrase and timed and isinstance(word.text, str):
            same = (word.speaker, word.channel) == (phrase.speaker, phrase.channel)
            close = word.start >= phrase.start and word.start - phrase.end < _PHRASE_PAUSE
            if same and close and word.end - phrase.start <= _PHRASE and not phrase.text[-1].endswith(_ENDS):
                phrase.text.append(word.text.strip())
                phrase.words.append((word.start, word.end, word.text.strip(), None))
                phrase = phrase._replace(end=max(phrase.end, word.end))
                continue
        if phrase:
            yield phrase._replace(text=" ".join(phrase.text))
        phrase = None
        if timed and isinstance(word.text, str):
            said = word.text.strip()
            phrase = word._replace(text=[said], words=[(word.start, word.end, said, None)])
        if not phrase:
            yield word  # to be refused later
    if phrase:
        yield phrase._replace(text=" ".join(phrase.text))


def _channels(names: Iterable[str]) -> dict[str, Any]:
    """Returns the number of each channel that a file names.

    None where all have the first name, which diarizers write that mix the channels. Letters are numbers, A being 1;
    where 0 occurs beside others, it is the first.
    """
    named = set(names) - {"<NA>"}
    if named in ({"1"}, {"0"}, {"A"}):
        return dict.fromkeys([*named, "<NA>"])
    found: dict[str, Any] = {"<NA>": None}
    for name in named:
        letter = len(name) == 1 and name.isascii() and name.isalpha()
        found[name] = ord(name.upper()) - ord("A") + 1 if letter else name
        if "0" in named and name.isascii() and name.isdecimal() and len(name) < 9:
            found[name] = int(name) + 1
    return found


def _rttm(text: str) -> Iterator[Row]:
    rows = []
    for at, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or line.startswith(";;") or fields[0] in RTTM_OTHERS:
            continue
        found = _speaker_line(line, fields) if fields[0] == "SPEAKER" else None
        if found is None:
            form = "SPEAKER file channel start duration <NA> <NA> name <NA> <NA>"
            raise SegmentError(f"line {at}: {shortened(line)} is not a line of RTTM: {form}")
        rows.append((f"line {at}", *found))
    of_one({recording for _, recording, *_ in rows})
    channels = _channels(channel for _, _, channel, *_ in rows)
    for place, _, channel, onset, length, name in rows:
        start, duration = number(onset), number(length)
        yield Row(place, start, ended(start, duration), None if name == "<NA>" else name, None, channels[channel])


def _speaker_line(line: str, fields: list[str]) -> tuple[str, str, str, str, str] | None:
    """Returns recording, channel, start, duration and name of a line of RTTM, of 9 or 10 fields; None for another.

    Names with a space, which the format has no room for but programs write, are found by the fields between them: two
    numbers and twice `<NA>`.
    """
    tabbed = [field.strip() for field in line.strip().split("\t")]
    if len(fields) not in {9, 10} and len(tabbed) in {9, 10}:
        fields = tabbed
    if len(fields) in {9, 10}:
        _, recording, channel, onset, length, _, _, name = fields[:8]
        return recording, channel, onset, length, name
    for i in range(3, len(fields) - 5):
        numbers = (number(fields[i]), number(fields[i + 1]))
        if fields[i + 2 : i + 4] == ["<NA>", "<NA>"] and all(isinstance(value, float) for value in numbers):
            rest = fields[i + 4 :]
            closing = 2 if len(rest) > 2 and (rest[-2] == "<NA>" or isinstance(number(rest[-2]), float)) else 1
            return " ".join(fields[1 : i - 1]), fields[i - 1], fields[i], fields[i + 1], " ".join(rest[:-closing])
    return None


def _ctm(text: str) -> Iterator[Row]:
    """Yields the words of NIST's CTM, joined to phrases: `file channel start duration word [confidence]`."""
    rows = []
    for at, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or line.startswith(";;") or fields[2:4] == ["*", "*"]:  # a mark of alternatives
            continue
        if not 5 <= len(fields) <= 8:
            form = "file channel start duration word confidence"
            raise SegmentError(f"line {at}: {shortened(line)} is not a line of CTM: {form}")
        rows.append((f"line {at}", *fields[:5], fields[7] if len(fields) == 8 else "<NA>"))
    of_one({recording for _, recording, *_ in rows})
    channels = _channels(channel for _, _, channel, *_ in rows)
    words: dict[str, list[Row]] = {}  # by channel, which some programs interleave
    for place, _, channel, onset, length, word, name in rows:
        start, duration = number(onset), number(length)
        speaker = None if name in {"<NA>", "unknown"} else name
        row = Row(place, start, ended(start, duration), speaker, word, channels[channel])
        words.setdefault(channel, []).append(row)
    for rows_of_one in words.values():
        yield from phrases(rows_of_one)


def kaldi(text: str, speakers: Mapping[str, str] | None = None) -> Iterator[Row]:
    """Yields Kaldi's segments, `utterance recording start end`; an end of -1 is the end of the recording.

    Args:
        text: Content of the file.
        speakers: Speaker of each utterance, if known.
    """
    rows = []
    for at, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 4:
            form = "utterance recording start end"
            raise SegmentError(f"line {at}: {shortened(line)} is not a line of Kaldi's segments: {form}")
        rows.append((f"line {at}", fields))
    of_one({fields[1] for _, fields in rows})
    for place, (utterance, _, onset, end) in rows:
        last = number(end)
        yield Row(place, number(onset), UNTIL_THE_END if last == -1 else last, (speakers or {}).get(utterance))


def _audacity(text: str) -> Iterator[Row]:
    """Yields Audacity's labels; lines of frequencies, which begin with a backslash, are left out."""
    for at, line in enumerate(text.split("\n"), 1):
        if not line.strip() or line.startswith("\\"):
            continue
        start, _, rest = line.partition("\t")
        end, _, label = rest.partition("\t")
        yield Row(f"line {at}", number(start.strip()), number(end.strip()), None, label)


def _cues(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the blocks between blank lines: the number of the first line, and the lines.

    A line of blanks ends a block only where a cue follows: YouTube's captions have such lines within cues.
    """
    lines = text.split("\n")
    block: list[str] = []
    first = 0
    for at, line in enumerate([*lines, ""], 1):
        if line.strip():
            first = first if block else at
            block.append(line)
        elif block and (not line or any("-->" in following for following in lines[at : at + 2])):
            yield first, block
            block = []


def _srt(text: str) -> Iterator[Row]:
    yield from _rows([_timed(at, block) for at, block in _cues(text)], str)


def _vtt(text: str) -> Iterator[Row]:
    if not re.match(r"WEBVTT(?:[ \t\n]|$)", text):
        raise SegmentError('line 1: no "WEBVTT": this is not WebVTT')
    cues = []
    for at, block in _cues(text):
        if at == 1 and any("-->" in line for line in block):
            raise SegmentError("line 2: a cue without a blank line before it: insert one")
        if at > 1 and re.split(r"\s", block[0])[0] not in {"NOTE", "STYLE", "REGION"}:
            cues.append(_timed(at, block))
    yield from _rows(cues, _unescaped)


def _unescaped(text: str) -> str:
    """Replaces character references; one beyond Unicode becomes U+FFFD, as in HTML."""
    return html.unescape(_NUMBER.sub("\ufffd", text))


class _Cue(NamedTuple):
    place: str
    start: float | str
    end: float | str
    lines: list[str]

    def flashes_after(self, other: "_Cue") -> bool:
        """Whether it follows another cue at once, and is on the screen too briefly to be read."""
        if not isinstance(self.start, float) or not isinstance(self.end, float):
            return False
        return self.start == other.end and 0 < round(self.end - self.start, 6) <= _FLASH


def _timed(at: int, block: list[str]) -> _Cue:
    """Returns the cue in a block, whose first line has a number."""
    timing = 0 if "-->" in block[0] else 1  # after a number or a name
    if timing >= len(block) or "-->" not in block[timing]:
        example = "00:01.000 --> 00:02.500"
        raise SegmentError(f"line {at}: {shortened(block[0])} does not start a cue: add a line like {example}")
    place = f"line {at + timing}"
    if any("-->" in line for line in block[timing + 1 :]):
        raise SegmentError(f"{place}: two cues without a blank line between them: insert one")
    start, _, rest = block[timing].partition("-->")
    end = rest.split()[0] if rest.split() else ""
    return _Cue(place, _clock(start), _clock(end), block[timing + 1 :])


def _rows(cues: list[_Cue], unescape: Callable[[str], str]) -> Iterator[Row]:
    """Yields the rows of cues.

    Automatic captions roll: a cue begins with the lines that the last one ended with, and between two of them a cue of
    0.01 s shows the last line alone. In a file with such cues, or with times within lines, the lines that only stay on
    the screen are left out, and so are cues of that length without another line.
    """
    neighbors = [*pairwise([_Cue("", 0.0, 0.0, []), *cues])]
    staying = [_staying(before.lines, cue.lines) for before, cue in neighbors]
    only = [
        0 < count == len(cue.lines) and cue.flashes_after(before)
        for count, (before, cue) in zip(staying, neighbors, strict=True)
    ]
    rolls = any(only) or any(_INLINE_TIME.search(line) for cue in cues for line in cue.lines)
    for cue, count, drop in zip(cues, staying, only, strict=True):
        if not drop:
            text = " ".join(line.strip() for line in cue.lines[count if rolls else 0 :])
            voices = {unescape(voice).strip() for voice in _VOICE.findall(text)}
            text = unescape(_TAG.sub("", text))
            speaker = voices.pop() if len(voices) == 1 else None
            if prefix := _PREFIX.match(text):
                speaker, text = prefix[1], text[prefix.end() :]
            yield Row(cue.place, cue.start, cue.end, speaker, text)


def _staying(before: list[str], lines: list[str]) -> int:
    """Returns how many lines at the start of a cue, at most 4, are those at the end of the cue before."""
    known = [_TAG.sub("", line).strip() for line in before[-4:]]
    shown = [_TAG.sub("", line).strip() for line in lines[:4]]
    fresh = [i for i, line in enumerate(lines[:4]) if _INLINE_TIME.search(line)]
    counts = range(min(len(known), len(shown), *fresh), 0, -1)
    return next((count for count in counts if known[-count:] == shown[:count]), 0)


def _clock(text: str) -> float | str:
    """Returns the seconds of a time; text that is not a time is returned as it is, to be refused later."""
    time = _TIME.fullmatch(text.strip())
    if not time:
        return text.strip()
    hours, minutes, seconds, fraction = time.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")


def _table(text: str) -> Iterator[Row]:
    header = text.split("\n", 1)[0]
    separator = max("\t,;", key=header.count)  # of equally frequent ones, the first
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    try:
        columns = [column.strip().lower() for column in next(reader, [])]
        if not {"start", "end"} <= set(columns) and text.strip():
            raise SegmentError(
                "line 1: no header with the columns start and end: add one, as in start,end,speaker,text"
            )
        for cells in reader:
            if len(cells) > len(columns):
                raise SegmentError(f"line {reader.line_num}: more cells than the header has: quote its text")
            if cells:
                rows.append((reader.line_num, dict(zip(columns, cells, strict=False))))
    except csv.Error as error:
        raise SegmentError(f"line {reader.line_num}: {error}: quote its cells as CSV does") from error
    times = [row.get(key, "") for _, row in rows for key in ("start", "end")]
    if (separator, columns) == ("\t", ["start", "end", "text"]) and times and all(map(str.isdecimal, times)):
        raise SegmentError("whole numbers, milliseconds in Whisper's TSV: pass its JSON, or write seconds as 1.0")
    if not {"quality", "seconds_judged"}.isdisjoint(columns):  # written by this package; may hold several clips
        of_one({row["file"] for _, row in rows if row.get("file")})
        for _, row in rows:
            row |= {key: without_guard(row[key]) for key in ("speaker", "text") if row.get(key)}
    for at, row in rows:
        start, end = number(row.get("start")), number(row.get("end"))
        yield Row(f"line {at}", start, end, row.get("speaker"), row.get("text"), row.get("channel"))


_PRAAT = re.compile(r'"[^"]*(?:""[^"]*)*"|(?<!\S)[-+]?[0-9][-+0-9.eE]*(?!\S)')
_DIMENSION = "(?:derived )?(?:arousal|dominance|valence)"
_OWN_TIER = re.compile(
    rf"(emotion|confidence|shade|compound|text|words|boundaries|turns|{_DIMENSION})( \(.*\))?( [0-9]+)?", re.S
)
_CHANNEL = re.compile("channel ([0-9]{1,4})")
_WORDS_TIER = re.compile(r"(?:(.*) - )?words", re.S)


def _textgrid(text: str) -> Iterator[Row]:
    """Yields the intervals with text of Praat's TextGrid, long or short; points have no length and are left out.

    Of the tiers that this package writes, `emotion (NAME)` has the segments and `text (NAME)` the words. Of those of
    the Montreal Forced Aligner, `NAME - words` is used, joined to phrases. Any other tier is that of a speaker of its
    name, or of nobody if it is the only one.
    """
    tiers = [*_tiers(text)]
    own = [_OWN_TIER.fullmatch(name) for name, _ in tiers]
    if all(own) and any(match[1] == "emotion" for match in own if match):
        named = [(match[1], (match[2], match[3]), rows) for match, (_, rows) in zip(own, tiers, strict=True) if match]
        words = {(voice, row.start, row.end): row.text for kind, voice, rows in named if kind == "text" for row in rows}
        for kind, voice, rows in named:
            if kind == "emotion":
                name, channel = _voice((voice[0] or "")[2:-1])
                for row in rows:
                    spoken = words.get((voice, row.start, row.end))
                    yield row._replace(speaker=name, text=spoken, channel=channel)
        return
    aligned = [match and (match[1], rows) for name, rows in tiers for match in [_WORDS_TIER.fullmatch(name)]]
    if any(aligned):
        for speaker, rows in filter(None, aligned):
            yield from phrases(row._replace(speaker=speaker) for row in rows)
        return
    for name, rows in tiers:
        yield from (row._replace(speaker=name if len(tiers) > 1 else None) for row in rows)


def _voice(name: str) -> tuple[str | None, int | None]:
    """Returns the speaker and the channel in the name of a tier: `ann`, `channel 2` or `ann, channel 2`."""
    speaker, _, last = name.rpartition(", ")
    if match := _CHANNEL.fullmatch(last):
        return speaker or None, int(match[1])
    return name or None, None


def _tiers(text: str) -> Iterator[tuple[str, list[Row]]]:
    """Yields the name and the intervals with text of each tier of intervals."""
    # As Praat reads it: strings and numbers between blanks count, and the words around them do not.
    tokens = iter(_PRAAT.findall(text.partition('"TextGrid"')[2]))

    def value() -> float:
        return float(next(tokens))

    def string() -> str:
        token = next(tokens)
        if not token.startswith('"'):
            raise ValueError(token)
        return str(token[1:-1].replace('""', '"'))

    try:
        value(), value()
        for _ in range(int(value())):
            kind, name = string(), string()
            value(), value()
            rows = []
            for at in range(1, int(value()) + 1):
                start, end = value(), value() if kind == "IntervalTier" else None
                label = string()
                if label.strip():
                    rows.append(Row(f"tier {shortened(name)}, interval {at}", start, end, None, label))
            if kind == "IntervalTier":
                yield name, rows
    except (StopIteration, ValueError, OverflowError) as error:
        raise SegmentError("a TextGrid that is cut off or damaged: save it again with Praat") from error


TEXTS: dict[str, Callable[[str], Iterator[Row]]] = {
    ".rttm": _rttm,
    ".srt": _srt,
    ".vtt": _vtt,
    ".csv": _table,
    ".tsv": _table,
    ".ctm": _ctm,
    ".textgrid": _textgrid,
    "Audacity": _audacity,
}

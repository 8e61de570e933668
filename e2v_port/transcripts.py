"""Segments that somebody gives: read from diarisation, subtitles and transcripts, and matched to what was found."""

import csv
import html
import io
import json
import os
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from e2v_port.errors import SegmentError
from e2v_port.files import printable
from e2v_port.segments import GivenSegment

__all__ = ["FORMATS", "Span", "align", "parse_segments", "read_segments"]

_MAX_BYTES = 1 << 28  # far beyond six hours of words with their times

# Where it stands in the file, start, end, speaker, text.
_Row: TypeAlias = tuple[str, Any, Any, Any, Any]

_TIME = re.compile(r"(?:([0-9]{1,6}):)?([0-5]?[0-9]):([0-5]?[0-9])(?:[.,]([0-9]{1,3}))?")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>|\{\\[^{}]*\}")  # <i>, <font color=red>, <00:00:01.500>, {\an8}
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s+([^<>]+)>")
_PREFIX = re.compile(r"\[([^\[\]]+)\]:(?: |$)")  # as whisperX writes a speaker
_RTTM_OTHERS = {"SEGMENT", "NOSCORE", "NO_RT_METADATA", "LEXEME", "NON-LEX", "NON-SPEECH", "FILLER", "EDIT"}
_RTTM_OTHERS |= {"IP", "SU", "CB", "A/P", "SPKR-INFO"}


class Span(Protocol):
    """Whatever has a start and an end, in seconds."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102


def read_segments(path: str | os.PathLike[str]) -> list[GivenSegment]:
    """Reads the segments of a diarisation, subtitles or a transcript.

    The name's extension decides the format; under any other extension, the content does:

    * `.rttm`: its SPEAKER lines. All channels are read, since a clip's channels are averaged; a name that occurs on
      several becomes "name (channel 2)".
    * `.srt`, `.vtt`: speakers from voice tags (`<v Mary>`, if a cue has one) or as whisperX writes them
      (`[SPEAKER_00]: `). Tags and positions are removed.
    * `.json`: as Whisper, whisperX and faster-whisper give it, {"segments": [{"start", "end", "text", "speaker"}]},
      or the list alone. `speaker` and `text` may be missing; other keys are ignored.
    * `.csv`, `.tsv`: a header with `start` and `end`, and `speaker` and `text` if known, in any order; other columns
      are ignored. Separated by tabs, commas or semicolons. Whisper's own TSV counts milliseconds and is refused.

    Text files are UTF-8 or, with a byte order mark, UTF-16. Times are seconds, or hours:minutes:seconds in subtitles.

    Args:
        path: Of the file.

    Returns:
        Segments in the order of the file. None for an empty transcript: a file without lines, or with a header alone.

    Raises:
        SegmentError: The file cannot be read, is of no format above, or breaks its rules. The message is one line:
            which file, where in it, what is wrong, what to do.
    """
    name = os.fsdecode(path)
    with _named(name):
        return _parsed(name, _content(Path(name)))


def parse_segments(data: bytes, name: str = "segments") -> list[GivenSegment]:
    """Does what `read_segments` does, with the bytes of a file that was read already; `name` is what it is called.

    Raises:
        SegmentError: As there.
    """
    with _named(name):
        return _parsed(name, data)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Says which file an error is about."""
    try:
        yield
        return
    except SegmentError as error:
        why, cause = error, error.__cause__
    raise SegmentError(f"{printable(name) or ascii(name)}: {why}") from cause


def _parsed(name: str, data: bytes) -> list[GivenSegment]:
    text = _text(data)
    reader = FORMATS.get(Path(name).suffix.lower()) or FORMATS[_guess(text)]
    return [_given(*row) for row in reader(text)]


def align(emotions: Sequence[Span], transcript: Sequence[Span]) -> list[int | None]:
    """Finds the emotion of each segment of a transcript: by the largest overlap in time.

    The times of a transcript and of speech segments come from different models, so that the nearest start often
    belongs to a neighbour. Takes n log n steps, as long as few segments overlap and none is far longer than the rest.

    Args:
        emotions: Segments that were judged, in any order; they may overlap.
        transcript: Segments with text, in any order; they may overlap.

    Returns:
        For each segment of the transcript, the index of the emotion segment that shares most seconds with it: of
        several the one that starts (then ends) first. None where none shares any.
    """
    order = sorted(range(len(emotions)), key=lambda i: (emotions[i].start, emotions[i].end))
    starts = [emotions[i].start for i in order]
    longest = max((emotion.end - emotion.start for emotion in emotions), default=0.0)
    found: list[int | None] = []
    for segment in transcript:
        best, most = None, 0.0
        # A little earlier than exact arithmetic asks for, since sums are rounded.
        for k in range(bisect_left(starts, segment.start - longest - 1e-6), bisect_left(starts, segment.end)):
            emotion = emotions[order[k]]
            # Rounded, so that ties are ties: 0.3 - 0.2 is not 0.1.
            shared = round(min(emotion.end, segment.end) - max(emotion.start, segment.start), 6)
            if shared > most:
                best, most = order[k], shared
        found.append(best)
    return found


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SegmentError(f"cannot be read ({why}): pass a readable file") from error


def _text(data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise SegmentError(f"more than {_MAX_BYTES >> 20} MiB is no transcript of one clip: pass its segments alone")
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SegmentError(f"line {line}: not {encoding.removesuffix('-sig').upper()}: save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _guess(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(";;")]
    first = lines[0] if lines else ""
    if first.startswith("WEBVTT"):
        return ".vtt"
    if first.lstrip()[:1] in {"{", "["}:
        return ".json"
    if first.split()[:1] and first.split()[0] in {"SPEAKER", *_RTTM_OTHERS}:
        return ".rttm"
    if any("-->" in line for line in lines[:3]):
        return ".srt"
    if {"start", "end"} <= set(re.split(r"[\t,; \"]+", first.lower())):
        return ".csv"
    raise SegmentError(f"of no known format: pass one of {', '.join(FORMATS)}")


def _given(place: str, start: Any, end: Any, speaker: Any, text: Any) -> GivenSegment:
    """Checks one row, whatever the file had in it."""
    for key, value in ("start", start), ("end", end):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SegmentError(f"{place}: {key} is {_short(value)}, which is no time")
    if isinstance(speaker, int) and not isinstance(speaker, bool):
        speaker = str(speaker)
    for key, value in ("speaker", speaker), ("text", text):
        # JSON can name half a character, which nothing could print.
        if not (value is None or (isinstance(value, str) and value == value.encode("utf-8", "replace").decode())):
            raise SegmentError(f"{place}: {key} is {_short(value)}: give a string")
    try:
        return GivenSegment(float(start), float(end), (speaker or "").strip() or None, (text or "").strip() or None)
    except (SegmentError, OverflowError) as error:
        raise SegmentError(f"{place}: {error}") from error


def _short(value: object) -> str:
    shown = repr(value)
    return "missing" if value is None else shown if len(shown) <= 40 else shown[:37] + "..."


def _number(text: str | None) -> float | str | None:
    """A number, or what stands in its place, to be refused."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def _rttm(text: str) -> Iterator[_Row]:
    rows = []
    channels = defaultdict(set)
    recordings = set()
    for number, line in enumerate(text.split("\n"), 1):
        fields = line.split()
        if not fields or line.startswith(";;") or fields[0] in _RTTM_OTHERS:
            continue
        if fields[0] != "SPEAKER" or len(fields) not in {9, 10}:
            form = "SPEAKER file channel start duration <NA> <NA> name <NA> <NA>"
            raise SegmentError(f"line {number}: {_short(line)} is no line of RTTM: {form}")
        _, recording, channel, onset, length, _, _, name = fields[:8]
        recordings.add(recording)
        channels[name].add(channel)
        rows.append((f"line {number}", _number(onset), _number(length), name, channel))
    if len(recordings) > 1:
        raise SegmentError(f"lines of {len(recordings)} recordings, {sorted(recordings)[:3]}...: keep those of one")
    for place, start, duration, name, channel in rows:
        speaker = f"{name} (channel {channel})" if len(channels[name]) > 1 else name
        end = duration
        if isinstance(start, float) and isinstance(duration, float):
            end = round(start + duration, 6)  # as if it were written: 12.34 + 5.67 is not 18.01
        yield place, start, end, None if name == "<NA>" else speaker, None


def _cues(text: str) -> Iterator[tuple[int, list[str]]]:
    """Blocks between blank lines: the number of the first line, the lines."""
    block: list[str] = []
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _srt(text: str) -> Iterator[_Row]:
    for number, block in _cues(text):
        yield _cue(number, block)


def _vtt(text: str) -> Iterator[_Row]:
    if not re.match(r"WEBVTT(?:[ \t\n]|$)", text):
        raise SegmentError('line 1: no "WEBVTT": this is not WebVTT')
    for number, block in _cues(text):
        if number == 1 and any("-->" in line for line in block):
            raise SegmentError("line 2: a cue without a blank line before it: insert one")
        if number > 1 and re.split(r"\s", block[0])[0] not in {"NOTE", "STYLE", "REGION"}:
            yield _cue(number, block, unescape=html.unescape)


def _cue(number: int, block: list[str], unescape: Callable[[str], str] = str) -> _Row:
    timing = 0 if "-->" in block[0] else 1  # after a number or a name
    if timing >= len(block) or "-->" not in block[timing]:
        raise SegmentError(f'line {number}: {_short(block[0])} begins no cue: a line like "00:01.000 --> 00:02.500"')
    place = f"line {number + timing}"
    if any("-->" in line for line in block[timing + 1 :]):
        raise SegmentError(f"{place}: two cues without a blank line between them: insert one")
    start, _, rest = block[timing].partition("-->")
    text = " ".join(line.strip() for line in block[timing + 1 :])
    voices = {unescape(voice).strip() for voice in _VOICE.findall(text)}
    text = unescape(_TAG.sub("", text))
    speaker = voices.pop() if len(voices) == 1 else None
    if prefix := _PREFIX.match(text):
        speaker, text = prefix[1], text[prefix.end() :]
    return place, _clock(start), _clock(rest.split()[0] if rest.split() else ""), speaker, text


def _clock(text: str) -> float | str:
    """Seconds, or what stands in the place of a time, to be refused."""
    time = _TIME.fullmatch(text.strip())
    if not time:
        return text.strip()
    hours, minutes, seconds, fraction = time.groups(default="0")
    return int(hours) * 3600 + int(minutes) * 60 + float(f"{seconds}.{fraction}")


def _json(text: str) -> Iterator[_Row]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SegmentError(f"not JSON ({error}): export it again") from error
    rows = data.get("segments") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise SegmentError('no list of segments: {"segments": [{"start": 0.0, "end": 1.5}, ...]} or the list alone')
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise SegmentError(f'segment {number}: {_short(row)}: give an object like {{"start": 0.0, "end": 1.5}}')
        yield f"segment {number}", row.get("start"), row.get("end"), row.get("speaker"), row.get("text")


def _table(text: str) -> Iterator[_Row]:
    header = text.split("\n", 1)[0]
    separator = max("\t,;", key=header.count)  # the first of those that occur equally often
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
    for number, row in rows:
        start, end = _number(row.get("start")), _number(row.get("end"))
        yield f"line {number}", start, end, row.get("speaker"), row.get("text")


FORMATS: dict[str, Callable[[str], Iterator[_Row]]] = {
    ".rttm": _rttm,
    ".srt": _srt,
    ".vtt": _vtt,
    ".json": _json,
    ".csv": _table,
    ".tsv": _table,
}

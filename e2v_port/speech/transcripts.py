"""Reads segments from diarizations, subtitles and transcripts."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2v_port.errors import SegmentError, cut
from e2v_port.files import printable
from e2v_port.lines import shared
from e2v_port.speech.json_readers import read_json
from e2v_port.speech.readers import RTTM_OTHERS, TEXTS, UNTIL_THE_END, Row, kaldi, shortened
from e2v_port.speech.segment import GivenSegment, TimedWord

__all__ = ["FORMATS", "parse_segments", "read_segments"]

AUDACITY, KALDI = "Audacity", "Kaldi"  # formats whose files have no extension of their own
FORMATS: dict[str, Callable[[str], Iterator[Row]]] = {**TEXTS, ".json": read_json, ".jsonl": read_json}
FORMATS[KALDI] = kaldi
_MAX_BYTES = 1 << 28  # far beyond six hours of words with their times


def read_segments(path: str | os.PathLike[str]) -> list[GivenSegment]:
    """Reads the segments of a diarization, subtitles or a transcript.

    The extension of the file's name decides the format; with an unknown extension, the content does:

    * `.rttm`: SPEAKER lines. Segments have the channel that the file names, unless it names 1 everywhere, as
      diarizers do that mix the channels, or 0. Where 0 occurs beside others, it is the first channel. Names of the
      recording and of speakers may have spaces.
    * `.srt`, `.vtt`: speakers from voice tags (`<v Mary>`, if a cue has exactly one) or whisperX's prefix
      (`[SPEAKER_00]: `). Tags and positions are removed, and in automatic captions, which roll, the lines that only
      stay on the screen.
    * `.json`: the output of Whisper, whisperX, faster-whisper, OpenAI, whisper.cpp, transformers, FunASR, pyannote,
      Deepgram, AssemblyAI or this package, NeMo's manifests, or a list of {"start", "end", "speaker", "text",
      "channel"}, of which the last three may be missing. `e2v_port.speech.json_readers` has the keys and units.
    * `.csv`, `.tsv`: a header with `start` and `end`, and `speaker`, `text` and `channel` if known, in any order;
      other columns are ignored. Separated by tabs, commas or semicolons. Whisper's own TSV is in milliseconds and is
      refused.
    * `.ctm`: words, joined to phrases: up to a pause of 0.3 s, the end of a sentence, or 8 s. So are words in JSON.
    * `.TextGrid`: intervals with text: the tiers that this package writes, aligned words, or a tier per speaker.
    * Labels of Audacity, and Kaldi's `segments`, by their content. Speakers of a file named `segments` are read from
      the `utt2spk` next to it.

    Rows of several recordings are refused.

    Text is UTF-8 or, with a byte order mark, UTF-16. Times are seconds; in subtitles, hours:minutes:seconds.

    Args:
        path: Path of the file.

    Returns:
        Segments in the order of the file. An empty list for an empty transcript: a file without lines, or with only a
        header.

    Raises:
        SegmentError: The file cannot be read, has none of these formats, or breaks its rules. The message is one line:
            the file, the place in it, the problem, the remedy.
    """
    name = os.fsdecode(path)
    with _named(name):
        speakers = {}
        if Path(name).name == "segments" and (listed := Path(name).with_name("utt2spk")).is_file():
            lines = (line.split() for line in _text(_content(listed)).split("\n"))
            speakers = {fields[0]: fields[1] for fields in lines if len(fields) == 2}
        return _parsed(name, _content(Path(name)), speakers)


def parse_segments(data: bytes, name: str = "segments") -> list[GivenSegment]:
    """Reads segments from the bytes of a file.

    Args:
        data: Content of the file.
        name: Name of the file; its extension decides the format, as in `read_segments`.

    Returns:
        Segments as in `read_segments`.

    Raises:
        SegmentError: The data has no known format, or breaks its rules.
    """
    with _named(name):
        return _parsed(name, data)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Puts the name of the file in front of an error's message."""
    try:
        yield
        return
    except SegmentError as error:
        why, cause = error, error.__cause__
    raise SegmentError(f"{cut(printable(name) or ascii(name))}: {why}") from cause


def _parsed(name: str, data: bytes, speakers: Mapping[str, str] | None = None) -> list[GivenSegment]:
    text = _text(data)
    reader = FORMATS.get(Path(name).suffix.lower()) or FORMATS[_guess(text)]
    rows = kaldi(text, speakers) if reader is kaldi else reader(text)
    return [_given(row) for row in rows]


def _content(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SegmentError(f"cannot be read ({why}): pass a readable file") from error


def _text(data: bytes) -> str:
    if len(data) > _MAX_BYTES:
        raise SegmentError(f"more than {_MAX_BYTES >> 20} MiB is no transcript of one clip: pass only its segments")
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
    if first.split()[:1] and first.split()[0] in {"SPEAKER", *RTTM_OTHERS}:
        return ".rttm"
    if 'ooTextFile"' in first:
        return ".textgrid"
    if len(columns := first.split("\t")) in {2, 3} and _are_times(columns[:2]):
        return AUDACITY
    if any("-->" in line for line in lines[:3]):
        return ".srt"
    fields = first.split()
    if len(fields) > 3 and fields[2:4] != ["*", "*"] and _are_times(fields[2:4]):
        return KALDI if len(fields) == 4 else ".ctm"
    if {"start", "end"} <= set(re.split(r"[\t,; \"]+", first.lower())):
        return ".csv"
    known = [name for name in FORMATS if name.startswith(".")]
    raise SegmentError(f"of an unknown format: pass one of {', '.join(known)}, labels of Audacity, or Kaldi's segments")


def _are_times(texts: list[str]) -> bool:
    try:
        return all(math.isfinite(float(text)) for text in texts)
    except ValueError:
        return False


def _timed(text: str | None, words: Any, start: float, end: float) -> tuple[TimedWord, ...] | None:
    """Returns the words of a text that have times, within those of its segment; None where most of it has none.

    Words without times, or with times that are none, belong to the word before.
    """
    found = []
    for word in words or ():
        times = word[:2]
        known = all(
            isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time) for time in times
        )
        if known and isinstance(word[2], str) and word[2].strip() and start <= end:
            first, last = (min(max(float(time), start), end) for time in times)
            sure = float(word[3]) if isinstance(word[3], int | float) and 0 <= word[3] <= 1 else None
            found.append(TimedWord(first, max(first, last), word[2].strip(), sure))
    parts = shared(text or "", [word.text for word in found])
    letters = len("".join((text or "").split()))
    if sum(len("".join(word.text.split())) for word in found) * 2 < letters:
        return None
    return tuple(word._replace(text=part) for word, part in zip(found, parts, strict=True)) if parts else None


def _given(row: Row) -> GivenSegment:
    """Checks the values of one row, which may be of any type."""
    place, start, end, speaker, text, channel, timed = row
    if end is UNTIL_THE_END:
        end = math.inf
    for key, value in ("start", start), ("end", end):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise SegmentError(f"{place}: {key} is {shortened(value)}, not a time")
    if isinstance(speaker, int) and not isinstance(speaker, bool):
        speaker = str(speaker)
    for key, value in ("speaker", speaker), ("text", text):
        # JSON can contain half a surrogate pair, which cannot be printed.
        if not (value is None or (isinstance(value, str) and value == value.encode("utf-8", "replace").decode())):
            raise SegmentError(f"{place}: {key} is {shortened(value)}: give a string")
    if isinstance(channel, str):
        channel = int(channel) if channel.isdecimal() and len(channel) <= 4 else channel.strip() or None
    if not (channel is None or (isinstance(channel, int) and not isinstance(channel, bool) and channel > 0)):
        raise SegmentError(f"{place}: channel is {shortened(channel)}: give its number, from 1")
    words = ((speaker or "").strip() or None, (text or "").strip() or None)
    try:
        if not math.isfinite(end) and row.end is not UNTIL_THE_END:
            raise SegmentError(f"from {float(start)} to {end} s is not finite: give times in seconds")
        return GivenSegment(
            float(start),
            float(end),
            *words,
            channel,
            place=place,
            words=_timed(words[1], timed, float(start), float(end)),
        )
    except (SegmentError, OverflowError) as error:
        raise SegmentError(f"{place}: {error}") from error

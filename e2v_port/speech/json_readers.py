"""Reads the rows of transcripts and diarizations in JSON, each by the keys that its program documents.

Keys decide the unit of the times, never their size.

| program | keys | times |
|---|---|---|
| Whisper, whisperX, faster-whisper, OpenAI, this package | `segments` of `start`, `end` | seconds |
| OpenAI, words only | `words` of `word`, `start`, `end` | seconds |
| whisper.cpp (`--output-json`) | `transcription` of `offsets` {`from`, `to`} | milliseconds |
| transformers (`return_timestamps`) | `chunks` of `timestamp` [start, end] | seconds |
| FunASR | `sentence_info` of `start`, `end`, `spk` | milliseconds |
| pyannote.audio, pyannoteAI | `diarization`, also within `output` | seconds |
| pyannote.core (`Annotation.for_json`) | `content` of `segment` {`start`, `end`}, `label` | seconds |
| Deepgram | `results` with `utterances`, or `channels` of `alternatives` | seconds |
| AssemblyAI | `utterances`, `sentences` or `paragraphs` of `text`; `words` beside `audio_duration` | milliseconds |
| NVIDIA NeMo, a manifest | `audio_filepath`, `offset`, `duration`, one object per line | seconds |
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from e2v_port.errors import SegmentError
from e2v_port.speech.readers import UNTIL_THE_END, Row, ended, of_one, phrases, shortened

__all__ = ["read_json"]

_Object: TypeAlias = dict[str, Any]

_FORM = '{"segments": [{"start": 0.0, "end": 1.5}, ...]} or the list alone'


def read_json(text: str) -> Iterator[Row]:
    """Yields the rows of a transcript or a diarization in JSON, or with an object per line."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if (objects := _lines(text)) is None:
            raise SegmentError(f"not JSON ({error}): export it again") from error
        data = objects
    if isinstance(data, list) and len(data) == 1 and isinstance(data[0], dict) and "start" not in data[0]:
        data = data[0]  # FunASR's list of recordings, or the only line
    if isinstance(data, list):
        yield from _listed(data)
        return
    while isinstance(data, dict):
        for holds, read in _READERS:
            if holds(data):
                yield from read(data)
                return
        data = data.get("output", data.get("result"))  # pyannoteAI's jobs; services that wrap FunASR
    raise SegmentError(f"no list of segments: {_FORM}")


def _lines(text: str) -> list[Any] | None:
    """Returns the values of a text with one JSON object per line; None for any other text."""
    try:
        found = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError):
        return None
    return found if found and all(isinstance(item, dict) for item in found) else None


def _listed(data: list[Any]) -> Iterator[Row]:
    if any(isinstance(item, dict) and ("segments" in item or "sentence_info" in item) for item in data):
        raise SegmentError(f"{len(data)} recordings in one file: keep the one of this clip")
    if data and isinstance(data[0], dict) and "audio_filepath" in data[0]:
        return _manifest(data)
    return _plain("segment", data)


def _objects(name: str, rows: Any) -> Iterator[tuple[str, _Object]]:
    """Yields the objects of a list with their places; raises SegmentError for anything else."""
    if not isinstance(rows, list):
        raise SegmentError(f"no list of segments, but {shortened(rows)}: {_FORM}")
    for number, row in enumerate(rows, 1):
        place = f"{name} {number}"
        if not isinstance(row, dict):
            raise SegmentError(f'{place}: {shortened(row)}: give an object like {{"start": 0.0, "end": 1.5}}')
        yield place, row


def _plain(name: str, rows: Any) -> Iterator[Row]:
    """Yields objects of `start` and `end`; an end that is null is that of the clip, one that is missing an error."""
    for place, row in _objects(name, rows):
        end = UNTIL_THE_END if row.get("end", ...) is None else row.get("end")
        words = _words_within(row)
        yield Row(place, row.get("start"), end, row.get("speaker"), row.get("text"), row.get("channel"), words)


def _words_within(row: _Object) -> list[tuple[Any, ...]] | None:
    """Returns start, end, text and probability of each word that a segment lists; some have no times in whisperX's."""
    words = row.get("words")
    if not isinstance(words, list):
        return None
    found = []
    for word in words:
        if isinstance(word, dict):
            text = word.get("punctuated_word", word.get("word", word.get("text")))
            sure = word.get("probability", word.get("score", word.get("confidence")))
            found.append((word.get("start"), word.get("end"), text, sure))
    return found


def _milliseconds(place: str, key: str, value: Any) -> Any:
    """Returns the seconds of a time in whole milliseconds."""
    if isinstance(value, float):
        raise SegmentError(f"{place}: {key} is {shortened(value)}: a whole number of milliseconds is due here")
    return value / 1000 if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e15 else value


def _shorter(value: Any) -> Any:
    """Returns the seconds of a word's time in milliseconds; None for anything but a number."""
    return value / 1000 if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _in_milliseconds(name: str, rows: Any, speaker: str = "speaker") -> Iterator[Row]:
    for place, row in _objects(name, rows):
        start, end = (_milliseconds(place, key, row.get(key)) for key in ("start", "end"))
        words = [(_shorter(first), _shorter(last), *about) for first, last, *about in _words_within(row) or ()]
        yield Row(place, start, end, row.get(speaker), row.get("text"), row.get("channel"), words)


def _whisper_cpp(data: _Object) -> Iterator[Row]:
    for place, row in _objects("segment", data["transcription"]):
        offsets = row.get("offsets")
        if not isinstance(offsets, dict):
            raise SegmentError(f"{place}: offsets is {shortened(offsets)}: export it with whisper.cpp's --output-json")
        start, end = (_milliseconds(place, key, offsets.get(key)) for key in ("from", "to"))
        yield Row(place, start, end, row.get("speaker"), row.get("text"))


def _chunks(data: _Object) -> Iterator[Row]:
    """Yields transformers' chunks; the last has no end where the recording stops within it."""
    rows = [*_objects("chunk", data["chunks"])]
    spans = []
    for place, row in rows:
        span = row.get("timestamp")
        if not isinstance(span, list | tuple) or len(span) != 2:
            raise SegmentError(f"{place}: timestamp is {shortened(span)}: run the pipeline with return_timestamps=True")
        spans.append(span)
    for i, ((place, row), (start, end)) in enumerate(zip(rows, spans, strict=True)):
        following = spans[i + 1][0] if i + 1 < len(spans) else UNTIL_THE_END
        yield Row(place, start, following if end is None else end, row.get("speaker"), row.get("text"))


def _annotation(data: _Object) -> Iterator[Row]:
    for place, row in _objects("track", data["content"]):
        span = row.get("segment")
        if not isinstance(span, dict):
            raise SegmentError(f"{place}: segment is {shortened(span)}: export pyannote's Annotation again")
        yield Row(place, span.get("start"), span.get("end"), row.get("label"), None)


def _deepgram(data: _Object) -> Iterator[Row]:
    """Yields Deepgram's utterances where they were asked for, else its paragraphs' sentences or its words."""
    results = data["results"]
    channels = results.get("channels")
    several = isinstance(channels, list) and len(channels) > 1
    if results.get("utterances") is not None:
        for place, row in _objects("utterance", results["utterances"]):
            channel = _channel(row.get("channel"), several)
            spoken = (row.get("speaker"), row.get("transcript"), channel, _words_within(row))
            yield Row(place, row.get("start"), row.get("end"), *spoken)
        return
    for number, (_, row) in enumerate(_objects("channel", channels)):
        channel = _channel(number, several)
        for _, alternative in [*_objects("alternative", row.get("alternatives"))][:1]:
            words = _objects("word", alternative.get("words") or [])
            yield from phrases(
                Row(
                    place,
                    word.get("start"),
                    word.get("end"),
                    word.get("speaker"),
                    word.get("punctuated_word") or word.get("word"),
                    channel,
                )
                for place, word in words
            )


def _channel(number: Any, several: bool) -> Any:
    """Returns the number from 1 of a channel from 0; None where there is one, as it may be a mix."""
    return number + 1 if several and isinstance(number, int) and not isinstance(number, bool) else None


def _words(rows: Any) -> Iterator[Row]:
    return phrases(
        Row(place, row.get("start"), row.get("end"), row.get("speaker"), row.get("word"))
        for place, row in _objects("word", rows)
    )


def _manifest(rows: list[Any]) -> Iterator[Row]:
    """Yields the rows of NeMo's manifest, whose label is a speaker only where it is not `infer` or `-`."""
    objects = [*_objects("line", rows)]
    of_one({str(row.get("audio_filepath")) for _, row in objects})
    for place, row in objects:
        offset, length = row.get("offset", 0.0), row.get("duration")
        words = row.get("text") if row.get("text") != "-" else None
        label = row.get("label") if row.get("label") not in {"infer", "-", "UNK"} else None
        yield Row(place, offset, ended(offset, length), row.get("speaker") or label, words)


def _texts(key: str) -> Callable[[_Object], bool]:
    """Returns whether a list of objects with `text` has a key, as AssemblyAI's answers do."""
    return lambda data: (
        isinstance(data.get(key), list) and all(isinstance(row, dict) and "text" in row for row in data[key])
    )


_READERS: tuple[tuple[Callable[[_Object], bool], Callable[[_Object], Iterator[Row]]], ...] = (
    (lambda data: "segments" in data, lambda data: _plain("segment", data["segments"])),
    (lambda data: "transcription" in data and isinstance(data["transcription"], list), _whisper_cpp),
    (lambda data: "chunks" in data, _chunks),
    (lambda data: "sentence_info" in data, lambda data: _in_milliseconds("sentence", data["sentence_info"], "spk")),
    (lambda data: "turnLevelTranscription" in data, lambda data: _plain("turn", data["turnLevelTranscription"])),
    (lambda data: "diarization" in data, lambda data: _plain("turn", data["diarization"])),
    (lambda data: isinstance(data.get("content"), list), _annotation),
    (lambda data: isinstance(data.get("results"), dict), _deepgram),
    *(
        (_texts(key), lambda data, key=key: _in_milliseconds(key[:-1], data[key]))
        for key in ("utterances", "sentences")
    ),
    (_texts("paragraphs"), lambda data: _in_milliseconds("paragraph", data["paragraphs"])),
    (
        lambda data: "audio_duration" in data and _texts("words")(data),
        lambda data: phrases(_in_milliseconds("word", data["words"])),
    ),
    (lambda data: isinstance(data.get("words"), list), lambda data: _words(data["words"])),
    (lambda data: "audio_filepath" in data, lambda data: _manifest([data])),
)

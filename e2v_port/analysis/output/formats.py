"""Analyses as text for other programs: docs/analysis.md lists which program reads which format."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, TypeVar

from e2v_port.analysis.judged import JudgedSegment, unjudged_words
from e2v_port.analysis.output.subtitles import Cue, cues
from e2v_port.analysis.output.transcript import to_markdown, to_turns
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.turns import Turn
from e2v_port.cells import cell
from e2v_port.emotions.changes import Boundary
from e2v_port.emotions.estimates import DIMENSIONS
from e2v_port.emotions.judgement import COLUMNS, MEASURED, columns
from e2v_port.seconds import seconds

__all__ = [
    "FORMATS",
    "ONE_CLIP",
    "SEGMENTS_IN_FULL",
    "changes_within",
    "label",
    "to_audacity",
    "to_csv",
    "to_json",
    "to_jsonl",
    "to_markdown",
    "to_rttm",
    "to_srt",
    "to_textgrid",
    "to_turns",
    "to_vtt",
]

_ROUND = str.maketrans("[]<>", "()()")
_Spoken = TypeVar("_Spoken", JudgedSegment, Turn)


def to_json(analyses: Sequence[Analysis]) -> str:
    """Returns one indented object, or an array of them for several analyses."""
    objects = [analysis.to_dict() for analysis in analyses]
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=2) + "\n"


def to_jsonl(analyses: Sequence[Analysis]) -> str:
    """Returns one object per clip, each on a line of its own."""
    return "".join(json.dumps(analysis.to_dict()) + "\n" for analysis in analyses)


def to_csv(analyses: Sequence[Analysis]) -> str:
    """Returns a table with a header and one row per segment; fields without a value are empty cells.

    Words, names and labels that a spreadsheet would run as a formula get an apostrophe in front.
    """
    place = ["file", "start", "end", "speaker", "text", "channel", "quality"]
    rows = []
    for file, segment in ((analysis.file, segment) for analysis in analyses for segment in analysis.segments):
        cells = segment.to_dict()
        cells.pop("words", None)  # a row has room for their text
        cells.pop("reasons", None)
        emotion, prosody = cells.pop("emotion") or {}, cells.pop("prosody", None) or {}
        rows.append({"file": file, **cells, **columns(emotion), **_measures(prosody)})
    known = dict.fromkeys(name for row in rows for name in row)
    nested = [name for prefix in ("e2v_", "distribution_", "prosody_") for name in known if name.startswith(prefix)]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*place, *COLUMNS, *nested], lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _measures(prosody: Mapping[str, Any]) -> dict[str, Any]:
    """Flattens a `prosody` object of the JSON dialect: `prosody_pitch_mean`, `prosody_quality_snr`."""
    flat = {name: value for name, value in prosody.items() if name != "quality"}
    flat |= {f"quality_{name}": value for name, value in prosody.get("quality", {}).items()}
    return {f"prosody_{name}": value for name, value in flat.items()}


def to_vtt(analyses: Sequence[Analysis]) -> str:
    """Returns the WebVTT of one clip: a cue per segment, or short cues of its words; the speaker is its voice."""
    blocks = ["WEBVTT"]
    for cue in _cues(_one(analyses, "vtt")):
        voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
        start, end = _clock(cue.start), _clock(cue.end)
        if start < end:
            blocks.append(f"{start} --> {end}\n{voice}" + "\n".join(map(_escaped, cue.lines)))
    return "\n\n".join(blocks) + "\n"


def to_srt(analyses: Sequence[Analysis]) -> str:
    """Returns the SubRip of one clip: subtitles as in `to_vtt`, preceded by the speaker as whisperX writes it."""

    def named(speaker: str) -> str:
        name = _line(speaker).translate(_ROUND)  # SubRip cannot escape tags
        return f"[{name}]: " if name else ""

    blocks: list[str] = []
    for cue in _cues(_one(analyses, "srt"), named):
        lines = "\n".join(cue.lines).replace("-->", "->")
        start, end = _clock(cue.start, ","), _clock(cue.end, ",")
        if start < end:
            blocks.append(f"{len(blocks) + 1}\n{start} --> {end}\n{lines}\n")
    return "\n".join(blocks)


def _cues(analysis: Analysis, named: Callable[[str], str] = lambda name: "") -> list[Cue]:
    """Returns short cues of the words, or one per segment where there are none."""
    if analysis.turns and any(segment.text for segment in analysis.segments):
        return cues(analysis.turns, named)
    return [
        Cue(segment.start, segment.end, segment.speaker, [named(segment.speaker or "") + _caption(segment)])
        for segment in analysis.segments
    ]


def to_textgrid(analyses: Sequence[Analysis]) -> str:
    """Returns Praat's TextGrid of one clip in the long format: tiers for each speaker, as intervals may not overlap.

    Tiers have the name of the speaker: `emotion (ann)`; or `emotion (ann, channel 2)` where a clip is judged by its
    channels. `turns (ann)` has the turns, each with how it sounds and its words. Tiers of dimensions derived from the
    labels are called `derived arousal` and so on, and those of sounds besides speech `event laughter` and so on.
    """
    analysis = _one(analyses, "textgrid")
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    changes = changes_within(analysis)
    for name, segments in _voices(analysis.segments):
        spans = [(segment.start, segment.end) for segment in segments]
        texts = {
            "emotion": [segment.judgement.words if segment.judgement else _not_judged(segment) for segment in segments],
            "confidence": [_number(segment.confidence) for segment in segments],
            "shade": [_finer(segment) for segment in segments],
            "compound": [segment.compound or "" for segment in segments],
            **_dimensions(segments, "", measured=True),
            **_dimensions(segments, "derived ", measured=False),
            "text": [segment.text or "" for segment in segments],
        }
        for kind, column in texts.items():
            if kind == "emotion" or any(column):
                tiers[kind + name] = [(*span, text) for span, text in zip(spans, column, strict=True)]
        if words := _timed(segments):
            tiers["words" + name] = words
        if analysis.boundaries is not None:
            parts = [part for segment in segments for part in changes.get(id(segment), ())]
            tiers["boundaries" + name] = [(part.start, part.end, part.label) for part in parts]
    for name, turns in _voices(analysis.turns or ()) if analysis.turns else ():
        shown = [f"[{turn.caption}] {turn.text or ''}" for turn in turns]
        tiers["turns" + name] = [(turn.start, turn.end, text) for turn, text in zip(turns, shown, strict=True)]
    for event in analysis.events or ():
        channel = f" (channel {event.channel})" if event.channel is not None else ""
        tiers.setdefault(f"event {event.name}{channel}", []).append((event.start, event.end, event.name))
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {analysis.duration}"]
    lines = [*head, "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, rows) in enumerate(tiers.items(), 1):
        intervals = list(_filled(rows, analysis.duration))
        lines += [f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}"]
        lines += [
            "        xmin = 0",
            f"        xmax = {analysis.duration}",
            f"        intervals: size = {len(intervals)}",
        ]
        for i, (start, end, text) in enumerate(intervals, 1):
            lines += [f"        intervals [{i}]:", f"            xmin = {start}", f"            xmax = {end}"]
            lines += [f"            text = {_quoted(text)}"]
    return "\n".join(lines) + "\n"


def _voices(segments: Sequence[_Spoken]) -> Iterator[tuple[str, list[_Spoken]]]:
    """Yields the segments or turns of each voice, and what its tiers are called; those of one never overlap."""
    by_channel = len({segment.channel for segment in segments}) > 1
    voices: dict[str, list[list[_Spoken]]] = {}
    for segment in segments:
        channel = f"channel {segment.channel}" if by_channel and segment.channel is not None else ""
        names = [name for name in (_line(segment.speaker or ""), channel) if name]
        layers = voices.setdefault(f" ({', '.join(names)})" if names else "", [])
        free = (layer for layer in layers if layer[-1].end <= segment.start)
        layer = next(free, None)
        if layer is None:
            layers.append(layer := [])
        layer.append(segment)
    if not voices:
        yield "", []
    for name, layers in voices.items():
        for number, layer in enumerate(layers, 1):
            yield f"{name} {number}" if number > 1 else name, layer


def changes_within(analysis: Analysis) -> dict[int, list[Boundary]]:
    """Returns the boundaries within each segment, by its identity: they are listed segment by segment."""
    left = list(analysis.boundaries or ())[::-1]
    found: dict[int, list[Boundary]] = {}
    for segment in analysis.segments:
        start, end = seconds(segment.start), seconds(segment.end)
        while segment.judgement and left and start <= left[-1].start and left[-1].end <= end:
            start = left[-1].end
            found.setdefault(id(segment), []).append(left.pop())
    return found


def _timed(segments: Sequence[JudgedSegment]) -> list[tuple[float, float, str]]:
    """Returns the intervals of the words of one voice.

    A tier of Praat has neither intervals without length, as recognizers time some words, nor any that overlap. A word
    without time of its own stands beside its neighbor in the segment; alone, it has the time of the segment.
    """
    rows: list[tuple[float, float, str]] = []
    at = 0.0
    for segment in segments:
        own: list[tuple[float, float, str]] = []
        early: list[str] = []
        for word in segment.words or ():
            if word.end > max(word.start, at):
                own.append((max(word.start, at), word.end, " ".join([*early, word.text])))
                early, at = [], word.end
            elif own:
                own[-1] = (*own[-1][:2], f"{own[-1][2]} {word.text}")
            else:
                early.append(word.text)
        if early and segment.end > max(segment.start, at):
            own.append((max(segment.start, at), segment.end, " ".join(early)))
            at = segment.end
        rows += own
    return rows


def _dimensions(segments: Sequence[JudgedSegment], prefix: str, *, measured: bool) -> dict[str, list[str]]:
    """Returns the texts of three tiers, empty where the dimensions have the other source."""
    return {
        prefix + name: [
            _number(getattr(segment, name)) if (segment.dimensions_from in MEASURED) == measured else ""
            for segment in segments
        ]
        for name in DIMENSIONS
    }


def to_audacity(analyses: Sequence[Analysis]) -> str:
    """Returns an Audacity label track of one clip: start, end and label, separated by tabs."""
    segments = _one(analyses, "audacity").segments
    return "".join(f"{segment.start:.6f}\t{segment.end:.6f}\t{_caption(segment)}\n" for segment in segments)


def to_rttm(analyses: Sequence[Analysis]) -> str:
    """Returns RTTM: a SPEAKER line per segment, with the headline in place of the speaker's name, and its confidence.

    If the changes of emotion were requested, there is a line for each of them, with its label and its mean probability.
    Tools that score or draw a diarization then do so for emotions. The speaker is not part of it, nor are words of
    doubt: the confidence shows it. One that overlaps another of the same headline has its speaker after a slash, as a
    diarization may not hold one name twice at a time.
    """
    lines = []
    ends: dict[tuple[str, int, str], float] = {}
    for analysis in analyses:
        file = "_".join(PurePath(analysis.file).stem.split()) or "clip"
        changes = changes_within(analysis)
        for segment in analysis.segments:
            channel = segment.channel or 1
            for start, end, label, confidence in _turns(segment, changes.get(id(segment))):
                name = "_".join(label.split())
                if start < ends.get((file, channel, name), 0.0) and segment.speaker:
                    name += f"/{'_'.join(segment.speaker.split())}"
                ends[file, channel, name] = max(end, ends.get((file, channel, name), 0.0))
                span = f"{start:.6f} {end - start:.6f}"
                shown = _number(confidence) or "<NA>"
                lines.append(f"SPEAKER {file} {channel} {span} <NA> <NA> {name} {shown} <NA>\n")
    return "".join(lines)


def _turns(segment: JudgedSegment, parts: list[Boundary] | None) -> list[tuple[float, float, str, float | None]]:
    """Returns start, end, label and confidence of the changes within a segment, or of the segment without them."""
    if parts:
        return [(part.start, part.end, part.label, part.probability) for part in parts]
    name = segment.judgement.headline if segment.judgement else "<NA>"
    return [(segment.start, segment.end, name, segment.confidence)]


def label(segment: JudgedSegment) -> str:
    """Returns a judgement in a few words: `angry 0.820 (resentment)`, or `unclear: angry or disgusted`."""
    if segment.judgement is None:
        return _not_judged(segment)
    if segment.confidence is None or segment.judgement.doubtful:
        return segment.judgement.words
    compound = f" ({segment.compound})" if segment.compound else ""
    return f"{segment.emotion} {_number(segment.confidence)}{compound}"


def _not_judged(segment: JudgedSegment) -> str:
    return f"({unjudged_words(segment.quality)})"


def _finer(segment: JudgedSegment) -> str:
    finer = segment.judgement.finer if segment.judgement else None
    return finer.name if finer else ""


def _caption(segment: JudgedSegment) -> str:
    """Returns the judgement and the words spoken, on one line."""
    return _line(f"[{label(segment)}] {segment.text}" if segment.text else label(segment))


def _one(analyses: Sequence[Analysis], name: str) -> Analysis:
    if len(analyses) != 1:
        raise ValueError(f"{name} holds one clip, not {len(analyses)}: write one file per clip")
    return analyses[0]


def _filled(rows: list[tuple[float, float, str]], duration: float) -> Iterator[tuple[float, float, str]]:
    """Fills the gaps and drops empty intervals: a tier of Praat may have neither."""
    at = 0.0
    for start, end, text in rows:
        if end > start:
            if start > at:
                yield at, start, ""
            yield start, end, text
            at = end
    if at < duration:
        yield at, duration, ""


def _line(text: str) -> str:
    return " ".join(text.split())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _quoted(text: str) -> str:
    return '"' + _line(text).replace('"', '""') + '"'


def _escaped(text: str) -> str:
    return _line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str = ".") -> str:
    """Returns hours:minutes:seconds.milliseconds with fixed digits, so that they sort."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


FORMATS: dict[str, Callable[[Sequence[Analysis]], str]] = {
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "turns": to_turns,
    "md": to_markdown,
    "vtt": to_vtt,
    "srt": to_srt,
    "textgrid": to_textgrid,
    "audacity": to_audacity,
    "rttm": to_rttm,
}

SEGMENTS_IN_FULL = {"json", "jsonl", "csv", "turns"}  # formats with the measures of a voice; JSON has indicators, too

ONE_CLIP = {"vtt", "srt", "textgrid", "audacity"}  # formats that cannot hold the name of a clip

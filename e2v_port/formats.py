"""Analyses as text that other programs read: see docs/analysis.md for who reads what."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath

from e2v_port.analysis import Analysis, JudgedSegment
from e2v_port.config import DIMENSIONS
from e2v_port.fusion import MEASURED

__all__ = [
    "FORMATS",
    "ONE_CLIP",
    "label",
    "to_audacity",
    "to_csv",
    "to_json",
    "to_jsonl",
    "to_rttm",
    "to_srt",
    "to_textgrid",
    "to_vtt",
]

_ROUND = str.maketrans("[]<>", "()()")
_NOT_JUDGED = {"too_short": "(too short to judge)", "no_speech": "(no speech)", "not_enrolled": "(not enrolled)"}


def to_json(analyses: Sequence[Analysis]) -> str:
    """One object, indented; of several analyses an array of them."""
    objects = [analysis.to_dict() for analysis in analyses]
    return json.dumps(objects[0] if len(objects) == 1 else objects, indent=2) + "\n"


def to_jsonl(analyses: Sequence[Analysis]) -> str:
    """One object per line and clip."""
    return "".join(json.dumps(analysis.to_dict()) + "\n" for analysis in analyses)


def to_csv(analyses: Sequence[Analysis]) -> str:
    """One row per segment, with a header; what no model said is an empty cell."""
    columns = ["file", "start", "end", "speaker", "text", "quality", "emotion", "confidence", "compound"]
    columns += [*DIMENSIONS, "dimensions_from"]
    scores = {name: None for _, segment in _segments(analyses) for name in _scores(segment)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, *(f"score_{name}" for name in scores)])
    for analysis, segment in _segments(analyses):
        cells = {**segment.to_dict(), "file": analysis.file}
        writer.writerow([cells[column] for column in columns] + [_scores(segment).get(name) for name in scores])
    return text.getvalue()


def to_vtt(analyses: Sequence[Analysis]) -> str:
    """WebVTT of one clip: a cue per segment, with the speaker as its voice."""
    cues = ["WEBVTT"]
    for segment in _one(analyses, "vtt").segments:
        voice = f"<v {_escaped(segment.speaker)}>" if segment.speaker else ""
        start, end = _clock(segment.start), _clock(segment.end)
        if start < end:
            cues.append(f"{start} --> {end}\n{voice}{_escaped(_said(segment))}")
    return "\n\n".join(cues) + "\n"


def to_srt(analyses: Sequence[Analysis]) -> str:
    """SubRip of one clip: a subtitle per segment, with the speaker before it as whisperX writes it."""
    cues: list[str] = []
    for segment in _one(analyses, "srt").segments:
        speaker = _line(segment.speaker or "").translate(_ROUND)  # SubRip has no way to write what it reads as tags
        said = (f"[{speaker}]: " if speaker else "") + _said(segment).replace("-->", "->")
        start, end = _clock(segment.start, ","), _clock(segment.end, ",")
        if start < end:
            cues.append(f"{len(cues) + 1}\n{start} --> {end}\n{said}\n")
    return "\n".join(cues)


def to_textgrid(analyses: Sequence[Analysis]) -> str:
    """Praat's TextGrid of one clip, long format: tiers of the segments of each speaker, and of the boundaries.

    The tiers of dimensions that follow from the labels are called `derived arousal` and so on.
    """
    analysis = _one(analyses, "textgrid")
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    speakers = dict.fromkeys(segment.speaker for segment in analysis.segments) or {None: None}
    for speaker in speakers:
        segments = [segment for segment in analysis.segments if segment.speaker == speaker]
        columns = {
            "emotion": [segment.emotion or _not_judged(segment) for segment in segments],
            "confidence": [_number(segment.confidence) for segment in segments],
            "compound": [segment.compound or "" for segment in segments],
            **_dimensions(segments, "", measured=True),
            **_dimensions(segments, "derived ", measured=False),
            "text": [segment.text or "" for segment in segments],
        }
        for name, texts in columns.items():
            if name == "emotion" or any(texts):
                spans = [(segment.start, segment.end) for segment in segments]
                rows = [(*span, text) for span, text in zip(spans, texts, strict=True)]
                tiers[f"{name} ({speaker})" if speaker else name] = rows
    if analysis.boundaries is not None:
        tiers["boundaries"] = [(part.start, part.end, part.label) for part in analysis.boundaries]
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


def _dimensions(segments: Sequence[JudgedSegment], prefix: str, *, measured: bool) -> dict[str, list[str]]:
    """The texts of three tiers: empty where the dimensions are from elsewhere."""
    return {
        prefix + name: [
            _number(getattr(segment, name)) if (segment.dimensions_from in MEASURED) == measured else ""
            for segment in segments
        ]
        for name in DIMENSIONS
    }


def to_audacity(analyses: Sequence[Analysis]) -> str:
    """A label track of Audacity, of one clip: start, end and label between tabs."""
    segments = _one(analyses, "audacity").segments
    return "".join(f"{segment.start:.6f}\t{segment.end:.6f}\t{_said(segment)}\n" for segment in segments)


def to_rttm(analyses: Sequence[Analysis]) -> str:
    """RTTM: a SPEAKER line per segment with the emotion in the place of the name, and its confidence.

    So what scores or draws a diarisation scores or draws emotions. The speaker has no place in it.
    """
    lines = []
    for analysis, segment in _segments(analyses):
        file = "_".join(PurePath(analysis.file).stem.split()) or "clip"
        name = "_".join((segment.emotion or _octant(segment)).split()) or "<NA>"
        confidence = _number(segment.confidence) or "<NA>"
        span = f"{segment.start:.6f} {segment.duration:.6f}"
        lines.append(f"SPEAKER {file} 1 {span} <NA> <NA> {name} {confidence} <NA>\n")
    return "".join(lines)


def label(segment: JudgedSegment) -> str:
    """Returns a segment's judgement in a few words, e.g. `angry 0.82 (resentment)`; a question mark if uncertain."""
    if segment.judgement is None:
        return _not_judged(segment)
    if segment.emotion is None:
        return _octant(segment)
    doubt = "?" if "uncertain" in segment.judgement.notes else ""
    compound = f" ({segment.compound})" if segment.compound else ""
    return f"{segment.emotion}{doubt} {_number(segment.confidence)}{compound}"


def _not_judged(segment: JudgedSegment) -> str:
    return _NOT_JUDGED.get(segment.quality, "")


def _octant(segment: JudgedSegment) -> str:
    return (segment.judgement and segment.judgement.octant) or ""


def _said(segment: JudgedSegment) -> str:
    """The label, and what is said, on one line."""
    return _line(f"[{label(segment)}] {segment.text}" if segment.text else label(segment))


def _segments(analyses: Iterable[Analysis]) -> Iterator[tuple[Analysis, JudgedSegment]]:
    return ((analysis, segment) for analysis in analyses for segment in analysis.segments)


def _scores(segment: JudgedSegment) -> dict[str, float]:
    return dict((segment.judgement and segment.judgement.scores) or {})


def _one(analyses: Sequence[Analysis], name: str) -> Analysis:
    if len(analyses) != 1:
        raise ValueError(f"{name} holds one clip, not {len(analyses)}: write one file for each")
    return analyses[0]


def _filled(rows: list[tuple[float, float, str]], duration: float) -> Iterator[tuple[float, float, str]]:
    """Fills the gaps, which a tier of Praat's does not have; nor has it intervals of no length."""
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
    """hours:minutes:seconds.milliseconds, in as many digits at least as make them sort."""
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


FORMATS: dict[str, Callable[[Sequence[Analysis]], str]] = {
    "json": to_json,
    "jsonl": to_jsonl,
    "csv": to_csv,
    "vtt": to_vtt,
    "srt": to_srt,
    "textgrid": to_textgrid,
    "audacity": to_audacity,
    "rttm": to_rttm,
}

ONE_CLIP = {"vtt", "srt", "textgrid", "audacity"}  # formats without a place for the name of a clip

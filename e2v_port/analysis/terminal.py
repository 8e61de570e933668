"""An analysis as a table on the terminal, with bars in the colors of the emotions."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.results import Analysis
from e2v_port.emotions import taxonomy
from e2v_port.emotions.indicators import Indicator, Indicators
from e2v_port.files import printable

__all__ = ["GREY", "bar", "colour", "doubtful", "number", "reasons", "table"]

GREY = "#8c8c8c"  # segments that were not judged, or are unclear

_BAR = 12  # cells at a confidence of 1
_PARTS = " ▏▎▍▌▋▊▉"
_RIGHT = {"start", "end", "channel", "conf", "A", "D", "V", "Hz", "syl/s", "value"}
_LESS = ("short", "noisy", "overlap")  # notes for which a segment has less quality
_UNJUDGED = {"too_short": "too short to judge", "no_speech": "no speech"}

_Row = tuple[dict[str, str], str | None]  # cells by their column's heading; color, or None for a gray row


def table(analysis: Analysis, *, ascii_only: bool = False) -> Text:
    """Returns a header line and a row per segment, then a row per boundary if there are any.

    The headline is the label, or the octant where no model gave labels; where it is in doubt, `unclear: angry or
    disgusted`. A shade has a column of its own with its probability, where dimensions were measured and it has another
    name than the label. Values derived from the labels are marked with `~`, explained below the table, where the notes
    on the sound of the clip are as well.

    Args:
        analysis: Analysis of one clip.
        ascii_only: Whether the terminal shows only ASCII.
    """
    models = ", ".join(map(str, analysis.models))
    text = Text.assemble((printable(analysis.file), "bold"), f"  {analysis.duration:.2f} s  {models}\n")
    if analysis.reason:
        text.append(f"{analysis.reason}\n")
    _append(text, [(_cells(segment, ascii_only), _colour(segment)) for segment in analysis.segments])
    parts = [
        {
            "start": f"{part.start:.2f}",
            "end": f"{part.end:.2f}",
            "inside": part.label,
            "mean": f"{part.probability:.3f}",
            "": bar(part.probability, ascii_only),
        }
        for part in analysis.boundaries or ()
    ]
    _append(text, [(part, colour(part["inside"])) for part in parts])
    if any(segment.dimensions_from == "labels" for segment in analysis.segments):
        text.append("~ derived from the labels, not measured in the voice\n", GREY)
    for note in analysis.notes:
        text.append(f"note: {note.text}\n")
    if analysis.indicators:
        _append_indicators(text, analysis.indicators)
    text.rstrip()
    return text


def _append_indicators(text: Text, indicators: Indicators) -> None:
    """Appends a table per voice, the reasons for what it lacks, and what the figures do not say."""
    for voice in indicators.voices:
        channel = f"channel {voice.channel}" if voice.channel is not None else "all speech"
        text.append(f"\n{printable(voice.speaker or channel)}", "bold")
        overlapped = f", {voice.overlapped} left out where two voices overlap" if voice.overlapped else ""
        text.append(f"  {voice.seconds:.1f} s in {voice.segments} segments{overlapped}\n")
        _append(text, [(_figure(each), GREY) for each in voice.indicators if each.value is not None])
        reasons: dict[str, list[str]] = {}
        for each in voice.indicators:
            if each.reason:
                reasons.setdefault(each.reason, []).append(each.name)
        for reason, names in reasons.items():
            text.append(f"no {', '.join(names)}: {reason}\n", GREY)
    text.append("\n")
    for note in indicators.notes.values():
        text.append(f"note: {note}\n")
    text.append(f"{indicators.notice}\n")


def _figure(indicator: Indicator) -> dict[str, str]:
    digits = 0 if indicator.unit == "Hz" else 2
    low, high = indicator.interval or (0.0, 0.0)
    sign = "+" if indicator.name.endswith(("_shift", "_change")) else ""
    against = {"baseline": "from the baseline", "recording": "from the own median"}
    apart = against.get(indicator.reference or "", "") if indicator.name.endswith("_apart") else ""
    return {
        "indicator": indicator.name,
        "value": f"{indicator.value:{sign}.{digits}f}",
        "95 %": f"{low:{sign}.{digits}f} to {high:{sign}.{digits}f}",
        "unit": indicator.unit,
        "meaning": f"{indicator.word} {apart}".strip(),
    }


def colour(label: str | None) -> str:
    """Returns the color of a label; gray for a label that no set of the taxonomy has."""
    label_set = None if label is None else taxonomy.label_set_of((label,))
    return taxonomy.colour(label, label_set) if label is not None and label_set else GREY


def doubtful(segment: JudgedSegment) -> bool:
    """Returns whether a segment must look less certain than others: not judged, of low quality or unclear."""
    judgement = segment.judgement
    return judgement is None or segment.quality != "normal" or judgement.doubtful


def reasons(segment: JudgedSegment) -> list[str]:
    """Returns why the judgement of a segment is less certain: any of `short`, `noisy` and `overlap`."""
    notes = segment.judgement.notes if segment.judgement else ()
    found = [note for note in _LESS if note in notes]
    return found or ["short"] if segment.quality == "low_confidence" else found


def _cells(segment: JudgedSegment, ascii_only: bool) -> dict[str, str]:
    judgement, prosody = segment.judgement, segment.prosody
    about = "~" if segment.dimensions_from == "labels" else ""
    finer = judgement.finer if judgement else None
    notes = [_UNJUDGED.get(segment.quality, ""), *reasons(segment)]
    if judgement:
        notes += [note for note in judgement.notes if note not in {*_LESS, "uncertain"}]
        notes += ["models disagree"] if judgement.agreement == "disagree" else []
    return {
        "start": f"{segment.start:.2f}",
        "end": f"{segment.end:.2f}",
        "speaker": printable(segment.speaker or ""),
        "channel": "" if segment.channel is None else str(segment.channel),
        "emotion": judgement.words if judgement else "",
        "conf": number(segment.confidence) or ("-" if judgement else ""),  # an octant has no number
        "": bar(segment.confidence or 0, ascii_only),
        "shade": f"{finer.name} {number(finer.probability)}" if finer else "",
        "A": about + number(segment.arousal),
        "D": about + number(segment.dominance),
        "V": about + number(segment.valence),
        "compound": segment.compound or "",
        "Hz": f"{prosody.pitch_mean:.0f}" if prosody and prosody.pitch_mean else "",
        "syl/s": f"{prosody.rate:.1f}" if prosody and prosody.rate is not None else "",
        "sounds": ", ".join(segment.reasons),
        "note": ", ".join(note for note in notes if note),
        "text": printable(segment.text or ""),
    }


def _colour(segment: JudgedSegment) -> str | None:
    return None if doubtful(segment) else colour(segment.emotion)


def _append(text: Text, rows: Sequence[_Row]) -> None:
    heads = [head for head in (rows[0][0] if rows else ()) if any(cells[head].strip() for cells, _ in rows)]
    widths = {head: max(map(cell_len, [head, *(cells[head] for cells, _ in rows)])) for head in heads}
    for cells, row_colour in [({head: head for head in heads}, None), *rows] if heads else ():
        line = Text()
        for head in heads:
            space = " " * (widths[head] - cell_len(cells[head]))
            cell = space + cells[head] if head in _RIGHT else cells[head] + space
            style = row_colour if head in {"", "emotion", "inside"} else ""
            line.append(f"{cell}  ", GREY if row_colour is None else style)
        line.rstrip()
        text.append_text(line).append("\n")


def bar(share: float, ascii_only: bool, cells: int = _BAR) -> str:
    """Returns a bar for a share from 0 to 1; `cells` is its length at 1."""
    if ascii_only:
        return "#" * round(share * cells)
    full, part = divmod(round(share * cells * len(_PARTS)), len(_PARTS))
    return ("█" * full + _PARTS[part]).strip()


def number(value: float | None) -> str:
    """Returns a number with three decimals, or nothing for None."""
    return "" if value is None else f"{value:.3f}"

"""An analysis as a table on the terminal, with bars in the colours of the emotions."""

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text

from e2v_port import emotions
from e2v_port.analysis import Analysis, JudgedSegment
from e2v_port.files import printable

__all__ = ["GREY", "bar", "colour", "doubtful", "number", "table"]

GREY = "#8c8c8c"  # what could not be judged, or not surely

_BAR = 12  # cells of a confidence of 1
_PARTS = " ▏▎▍▌▋▊▉"
_RIGHT = {"start", "end", "conf", "A", "D", "V"}
_QUALITIES = {"low_confidence": "short", "too_short": "too short to judge", "no_speech": "no speech"}

_Row = tuple[dict[str, str], str | None]  # cells by the head of their column; colour, or None for a grey row


def table(analysis: Analysis, *, ascii_only: bool = False) -> Text:
    """Returns a header line and a row per segment, then a row per boundary where there are any.

    Dimensions that follow from the labels have a `~` before them, and the last line says so.

    Args:
        analysis: Of one clip.
        ascii_only: Whether the terminal shows nothing else.
    """
    models = ", ".join(f"{model.name} on {model.runtime}" for model in analysis.models)
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
        text.append("~ follows from the labels, not measured in the voice\n", GREY)
    text.rstrip()
    return text


def colour(label: str | None) -> str:
    """Returns the colour of a label; grey for one that is none of emotion2vec's."""
    return emotions.colour(label) if label in emotions.labels("emotion2vec") else GREY


def doubtful(segment: JudgedSegment) -> bool:
    """Tells whether a segment is not to be shown like a sure one: not judged, short or uncertain."""
    judgement = segment.judgement
    return judgement is None or segment.quality != "normal" or "uncertain" in judgement.notes


def _cells(segment: JudgedSegment, ascii_only: bool) -> dict[str, str]:
    judgement = segment.judgement
    about = "~" if segment.dimensions_from == "labels" else ""
    notes = [_QUALITIES.get(segment.quality, "")]
    if judgement:
        notes += [note for note in judgement.notes if note != "short"]  # that is the quality as well
        notes += ["models disagree"] if judgement.agreement == "disagree" else []
    return {
        "start": f"{segment.start:.2f}",
        "end": f"{segment.end:.2f}",
        "speaker": printable(segment.speaker or ""),
        "emotion": segment.emotion or "",
        "conf": number(segment.confidence),
        "": bar(segment.confidence or 0, ascii_only),
        "compound": segment.compound or "",
        "octant": (judgement.octant or "") if judgement and not segment.emotion else "",
        "A": about + number(segment.arousal),
        "D": about + number(segment.dominance),
        "V": about + number(segment.valence),
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
            own = row_colour if head in {"", "emotion", "inside"} else ""
            line.append(f"{cell}  ", GREY if row_colour is None else own)
        line.rstrip()
        text.append_text(line).append("\n")


def bar(share: float, ascii_only: bool, cells: int = _BAR) -> str:
    """Returns a bar for a share of 0 to 1, of so many cells at 1."""
    if ascii_only:
        return "#" * round(share * cells)
    full, part = divmod(round(share * cells * len(_PARTS)), len(_PARTS))
    return ("█" * full + _PARTS[part]).strip()


def number(value: float | None) -> str:
    """Returns a number as tables show it, and nothing for None."""
    return "" if value is None else f"{value:.3f}"

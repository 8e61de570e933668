"""An analysis on the terminal: a table of segments, or a transcript of turns, in the colors of the emotions."""

from collections.abc import Iterable, Iterator, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from e2v_port.analysis.events import OVER_SPEECH
from e2v_port.analysis.judged import JudgedSegment, unjudged_words
from e2v_port.analysis.output.formats import changes_within
from e2v_port.analysis.output.transcript import missing_words, reader, voices
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.turns import Turn
from e2v_port.emotions import taxonomy
from e2v_port.emotions.indicators import Indicator, Indicators
from e2v_port.emotions.judgement import MEASURED
from e2v_port.files import printable
from e2v_port.lines import one_line
from e2v_port.seconds import clock

__all__ = ["GREY", "bar", "colour", "doubtful", "number", "reasons", "table", "transcript"]

GREY = "#8c8c8c"  # segments that were not judged, or are unclear

_BAR = 12  # cells at a confidence of 1
_PARTS = " ▏▎▍▌▋▊▉"
_RIGHT = {"start", "end", "channel", "conf", "A", "D", "V", "Hz", "syl/s", "value"}
_TURN = ("time", "speaker", "sounds", "bar")  # columns of a turn
_LONGEST_NAME = 20  # cells
_NARROWEST = 20  # cells that words get on any terminal
_LESS = ("short", "noisy", "overlap", *OVER_SPEECH)  # notes for which a segment has less quality

_Row = tuple[dict[str, str], str | None]  # cells by their column's heading; color, or None for a gray row


def table(analysis: Analysis, *, ascii_only: bool = False) -> Text:
    """Returns a header line and a row per segment, then a row per boundary and per event if there are any.

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
    marked = any(segment.dimensions_from == "labels" for segment in analysis.segments)
    _append_rest(text, analysis, ascii_only, "~ derived from the labels, not measured in the voice\n" if marked else "")
    return text


def transcript(analysis: Analysis, *, width: int | None = None, ascii_only: bool = False) -> Text:
    """Returns a header line and the turns: when, who, how it sounds, and under that what was measured and said.

    A bar in the color of the emotion runs down beside the words; it is gray where the emotion is in doubt or unknown.
    After the turns, where a reader of a long call looks first, each speaker's emotions are summed up.

    Args:
        analysis: Analysis of one clip that has turns.
        width: Cells in a line, at which words are wrapped; None to leave them on one line, as for a file.
        ascii_only: Whether the terminal shows only ASCII.
    """
    by = [*map(str, analysis.models), *filter(None, [reader(analysis)])]
    text = Text.assemble((printable(analysis.file), "bold"), f"  {clock(analysis.duration)}  {', '.join(by)}\n")
    if analysis.reason:
        text.append(f"{analysis.reason}\n")
    rows = [_turn_cells(turn, ascii_only) for turn in analysis.turns or ()]
    widths = {head: max((cell_len(row[head]) for row in rows), default=0) + 2 for head in _TURN}
    if width is not None and sum(widths.values()) > width:
        del widths["bar"]
    for turn, row in zip(analysis.turns or (), rows, strict=True):
        style = _turn_colour(turn)
        line = Text()
        for head in (head for head in widths if widths[head] > 2):
            line.append(set_cell_size(row[head], widths[head]), style if head in {"sounds", "bar"} else "")
        remarks = ", ".join(turn.remarks)
        below = [_words(turn)]
        if width is None or line.cell_len + cell_len(remarks) <= width:
            line.append(remarks)
        elif remarks:
            below.insert(0, Text(f"({remarks})"))
        line.rstrip()
        text.append_text(line).append("\n")
        for part in _wrapped([Text(_measured(turn), GREY)], None if width is None else max(width - 2, _NARROWEST)):
            text.append("  ").append_text(part).append("\n")
        gutter = f"  {'|' if ascii_only else '▎'} "
        for part in _wrapped(below, None if width is None else max(width - len(gutter), _NARROWEST)):
            text.append(gutter, style).append_text(part).append("\n")
    if len(rows) > 1:
        text.append("\n")
        found = [(_name(voice.speaker) or "voice", voice) for voice in voices(analysis.segments)]
        longest = max(cell_len(name) for name, _ in found)
        for name, voice in found:
            text.append(set_cell_size(name, longest), "bold").append(f"  {voice}\n")
    _append_rest(text, analysis, ascii_only)
    return text


def _turn_cells(turn: Turn, ascii_only: bool) -> dict[str, str]:
    emotion = turn.emotion
    return {
        "time": f"{clock(turn.start)}-{clock(turn.end)}",
        "speaker": _name(turn.speaker),
        "sounds": turn.caption,
        "bar": "" if emotion["unclear"] else bar(emotion["confidence"] or 0, ascii_only),
    }


def _measured(turn: Turn) -> str:
    """Returns what was measured in the voice of a turn, in words; what is unusual if it holds for half of it."""
    emotion, prosody = turn.emotion, turn.prosody
    found: list[str] = []
    if emotion["avd_from"] in MEASURED:
        found.append(", ".join(f"{name} {value:.2f}" for name, value in emotion["avd_scores"].items()))
        shade = emotion["shade"]
        if shade and not emotion["unclear"] and shade["name"] != emotion["emotion"].casefold():
            found.append(f"shade {shade['name']} {shade['probability']:.2f}")
        compounds = dict.fromkeys(part.compound for part in turn.parts if part.compound)
        if not emotion["unclear"] and {*compounds} - {(emotion["emotion"] or "").casefold()}:
            found.append(f"compound {', '.join(compounds)}")
    if prosody and prosody.pitch_mean:
        found.append(f"{prosody.pitch_mean:.0f} Hz")
    if prosody and prosody.rate is not None:
        found.append(f"{prosody.rate:.1f} syllables/s")
    lengths: dict[str, float] = {}
    for part in turn.parts:
        for reason in part.reasons:
            lengths[reason] = lengths.get(reason, 0.0) + part.duration
    return "; ".join([*found, *(reason for reason, length in lengths.items() if length >= emotion["seconds"] / 2)])


def _turn_colour(turn: Turn) -> str:
    return GREY if turn.emotion["unclear"] else colour(turn.emotion["emotion"])


def _name(speaker: str | None) -> str:
    """Returns a name in so few cells that the columns beside it have room."""
    name = one_line(speaker or "")
    while cell_len(name) > _LONGEST_NAME:
        name = f"{name.rstrip('.')[:-1]}..."
    return name


def _words(turn: Turn) -> Text:
    return Text("(no words were read)", GREY) if missing_words(turn) else Text(one_line(turn.text or ""))


def _wrapped(texts: Iterable[Text], width: int | None) -> Iterator[Text]:
    """Yields texts in lines of so many cells; None for a line each. Empty ones have none."""
    for text in filter(None, texts):
        for line in [text] if width is None else text.wrap(Console(width=width), width):
            line.rstrip()
            yield line


def _append_rest(text: Text, analysis: Analysis, ascii_only: bool, legend: str = "") -> None:
    """Appends what follows segments and turns: the changes within them, other sounds, the legend, and notes."""
    within = changes_within(analysis)
    parts = [
        {
            "start": f"{part.start:.2f}",
            "end": f"{part.end:.2f}",
            "speaker": _name(segment.speaker),
            "channel": "" if segment.channel is None else str(segment.channel),
            "inside": part.label,
            "mean": f"{part.probability:.3f}",
            "": bar(part.probability, ascii_only),
        }
        for segment in analysis.segments
        for part in within.get(id(segment), ())
    ]
    _append(text, [(part, colour(part["inside"])) for part in parts])
    heard = [
        {
            "start": f"{event.start:.2f}",
            "end": f"{event.end:.2f}",
            "channel": "" if event.channel is None else str(event.channel),
            "event": printable(event.name),
            "mean": f"{event.probability:.3f}",
            "": bar(event.probability, ascii_only),
        }
        for event in analysis.events or ()
    ]
    _append(text, [(row, None) for row in heard])
    text.append(legend, GREY)
    for note in analysis.notes:
        text.append(f"note: {note.text}\n")
    if analysis.indicators:
        _append_indicators(text, analysis.indicators)
    text.rstrip()


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
    """Returns why the judgement of a segment is less certain: any of `short`, `noisy`, `overlap` and `OVER_SPEECH`."""
    notes = segment.judgement.notes if segment.judgement else ()
    found = [note for note in _LESS if note in notes]
    return found or ["short"] if segment.quality == "low_confidence" else found


def _cells(segment: JudgedSegment, ascii_only: bool) -> dict[str, str]:
    judgement, prosody = segment.judgement, segment.prosody
    about = "~" if segment.dimensions_from == "labels" else ""
    finer = judgement.finer if judgement else None
    notes = reasons(segment) if judgement else [unjudged_words(segment.quality)]
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

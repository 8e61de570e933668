"""An evaluation as text and tables, for a terminal and as a page."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeAlias

from e2v_port import pages
from e2v_port.evaluation.bootstrap import FEWEST_SPEAKERS, RESAMPLES
from e2v_port.evaluation.calibration import LeftOut
from e2v_port.evaluation.results import Doubt, Evaluation, Figures, Risk, Seen

__all__ = [
    "COVERAGES",
    "Part",
    "conditions_table",
    "intervals",
    "left_out_table",
    "page",
    "remaining_errors",
    "report",
    "seen_lines",
]

Part: TypeAlias = str | list[list[str]]  # a line of text, or a table with its header first

_STYLE = """
body { max-width: 72rem; } figure { background: #ffffff; } img { width: 100%; height: auto; }
"""
_ALT = "confusion matrix, confidence against accuracy, and share of wrong answers against share of answers, by corpus"

_RULES = {"frames": "each frame by itself (arXiv 2306.12991)", "smoothed": "smoothed, as --frames does it"}

COVERAGES = (1.0, 0.8, 0.6, 0.4, 0.2)


def report(evaluation: Evaluation) -> list[Part]:
    """Returns lines of text, and tables as lists of rows, the header first."""
    counts = Counter(clip.original for clip in evaluation.clips)
    people = f"{evaluation.speakers} speaker{'' if evaluation.speakers == 1 else 's'}"
    parts: list[Part] = [f"{evaluation.judged} of {len(evaluation.clips)} clips are in the figures, by {people}"]
    parts += seen_lines(evaluation.seen)
    if voices := evaluation.known_voices:
        parts.append(
            f"adapted to each voice from {voices.others} other clips of it: {voices.adapted} clips; {voices.refused} "
            f"were not, as the others could be a single mood, and {voices.too_few} have too few others; without that, "
            f"the closed UAR is {voices.closed}"
        )
    if evaluation.open and evaluation.closed:
        answers: dict[str, list[str]] = {}
        for name, label in evaluation.outputs.items():
            answers.setdefault(label, []).append(name)
        table = [["label of the corpus", "counts as", "label of the model", "clips"]]
        for original, counterpart in evaluation.mapping.items():
            matching = ", ".join(answers.get(counterpart or "", ())) or "none: left out"
            table.append([original, counterpart or "-", matching, str(counts[original])])
        lacking = [name for name, label in evaluation.outputs.items() if label not in evaluation.mapping.values()]
        parts += [table, f"labels of the model that the corpus lacks: {', '.join(lacking)}"] if lacking else [table]
        if evaluation.impossible:
            parts.append(
                f"{_counted(evaluation.impossible)}: the model has no such label; if these counted as errors, the "
                f"UAR would be {evaluation.uar_with_impossible:.3f}"
            )
        parts += ["", _table_of_figures(evaluation)]
    elif evaluation.diarization:
        header = ["share of the clip with the wrong emotion", "EDER", "false alarm", "missed", "confusion"]
        rows = [[_RULES[rule], *map(str, rates.values())] for rule, rates in evaluation.diarization.items()]
        parts += ["", [header, *rows]]
    else:
        header = ["", "CCC", "Pearson", "MAE"]
        rows = [[name, *map(str, figures.values())] for name, figures in evaluation.dimensions.items()]
        parts += ["", [header, *rows]]
    parts.append(intervals(evaluation.resampled))
    if evaluation.conditions:
        parts += ["", conditions_table(evaluation)]
    if evaluation.risk and evaluation.doubt:
        parts += ["", *_confidence(evaluation.risk, evaluation.doubt)]
    if evaluation.open:
        parts += ["", *_details(evaluation.open, evaluation)]
    return parts


def conditions_table(evaluation: Evaluation) -> list[list[str]]:
    """Returns the figures as recorded and under each condition; the header first."""
    assert evaluation.open
    assert evaluation.closed
    figures = [str(evaluation.closed.uar), "", str(evaluation.open.uar), str(evaluation.ece)]
    rows = [["condition", "clips changed", "UAR, closed", "change", "UAR, open", "ECE"], ["as recorded", "", *figures]]
    for name, condition in evaluation.conditions.items():
        change = f"{condition.change.value:+.3f} [{condition.change.low:+.3f}, {condition.change.high:+.3f}]"
        shown = [str(condition.closed), change if condition.changed else "", str(condition.open), str(condition.ece)]
        rows.append([name, str(condition.changed), *shown])
    return rows


def remaining_errors(risk: Risk, coverage: float) -> float:
    """Returns the share of wrong answers if only the most confident ones are given, at least `coverage` of all."""
    return next(error for answered, error, _ in risk.curve if answered >= coverage - 1e-9)


def _confidence(risk: Risk, doubt: Doubt) -> list[Part]:
    """Returns what confidence is worth: errors by the share of answers, and by the note `uncertain`."""
    header = ["if only the most confident answers are given", *(f"{coverage:.0%}" for coverage in COVERAGES)]
    row = ["share of them that is wrong", *(f"{remaining_errors(risk, coverage):.3f}" for coverage in COVERAGES)]
    table = [["note of the judgement", "clips", "wrong"]]
    table.append(["none", str(doubt.certain), str(doubt.certain_errors)])
    table.append(["uncertain", str(doubt.uncertain), str(doubt.uncertain_errors)])
    coverage = [header, row]
    return [coverage, f"area under this risk-coverage curve (AURC): {risk.aurc}", "", table]


def seen_lines(seen: Mapping[str, Seen] | None) -> list[str]:
    """Returns a line for each way in which clips are known from the training, as in `Evaluation.seen`."""
    lines = {
        "train": "the model was trained on {} of these clips: the figures are no estimate for other voices",
        "dev": "the best epoch of the model was chosen by {} of these clips: the figures are slightly too good",
        "corpus": "the model was trained on other speakers of the corpus of {} of these clips: elsewhere, it is right "
        "less often",
        "calibration": "the temperature of the model was fitted on {} of these clips: the ECE is slightly too good",
    }
    return [line.format(seen[part].clips) for part, line in lines.items() if seen and part in seen and seen[part].clips]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _table_of_figures(evaluation: Evaluation) -> list[list[str]]:
    assert evaluation.open
    assert evaluation.closed
    table = [["", "open: any label of the model", "closed: only labels that the corpus has"]]
    for title, name in (("UAR", "uar"), ("WA", "wa"), ("macro-F1", "macro_f1")):
        table.append([title, str(getattr(evaluation.open, name)), str(getattr(evaluation.closed, name))])
    return [
        *table,
        [f"ECE at temperature {evaluation.temperature:.3g}", str(evaluation.ece), ""],
        ["ECE, scaled", str(evaluation.ece_scaled), ""],
    ]


def intervals(resampled: str) -> str:
    """Returns a line about the intervals, from the unit of the bootstrap, `speakers` or `clips`."""
    text = f"95 % intervals from {RESAMPLES} resamples of {resampled}"
    if resampled == "speakers":
        return text
    return f"{text}: with fewer than {FEWEST_SPEAKERS} speakers they do not apply to other speakers"


def _details(figures: Figures, evaluation: Evaluation) -> list[Part]:
    """Returns the confusion matrix, and the UAR by language, by sex and by speaker."""
    matrix = [["reference below, answer on the right", *figures.labels, "recall"]]
    for label, row in zip(figures.labels, figures.confusion, strict=True):
        if label in figures.recalls:
            matrix.append([label, *map(str, row), f"{figures.recalls[label]:.3f}"])
    groups = [["", "clips", "speakers", "UAR, closed", "UAR, open"]]
    for name, group in {**evaluation.by_language, **evaluation.by_sex}.items():
        groups.append([name, str(group.clips), str(group.speakers), str(group.closed), str(group.open)])
    speakers = [["speaker", "clips", "UAR, open"]]
    speakers += [[name, str(count), f"{value:.3f}"] for name, (count, value) in evaluation.by_speaker.items()]
    parts: list[Part] = [matrix, ""]
    parts += [groups, ""] if len(groups) > 1 else []
    return [*parts, speakers]


def left_out_table(left_out: Mapping[str, LeftOut]) -> list[list[str]]:
    """Returns what a temperature fitted on the other corpora does to each corpus; the header first."""
    rows = [["corpus left out", "temperature of the others", "ECE before", "ECE after"]]
    for name, each in left_out.items():
        rows.append([name, f"{each.temperature:.3f}", str(each.before), str(each.after)])
    return rows


def page(title: str, sections: Mapping[str, Sequence[Part]], picture: bytes | None) -> str:
    """Returns an evaluation as a page that needs no other file.

    Args:
        title: Title of the page.
        sections: Lines and tables by heading.
        picture: A PNG to show above them; None for none.
    """
    parts = [f"<h1>{escape(title)}</h1>"]
    if picture:
        data = base64.b64encode(picture).decode()
        parts.append(f'<figure><img alt="{_ALT}" src="data:image/png;base64,{data}"></figure>')
    for heading, lines in sections.items():
        parts.append(f"<h2>{escape(heading)}</h2>")
        for line in lines:
            if isinstance(line, str):
                parts += [f"<p>{escape(line)}</p>"] if line else []
            else:
                parts.append(pages.table(line[1:], line[0]))
    return pages.page(title, parts, style=_STYLE)

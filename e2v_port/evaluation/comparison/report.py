"""Comparisons as one table: for a terminal, and as Markdown."""

from collections.abc import Mapping

from e2v_port.evaluation.comparison.compare import Comparison
from e2v_port.evaluation.report import intervals, seen_lines
from e2v_port.evaluation.results import Figure

__all__ = ["lines", "markdown", "table"]

_HEADER = [
    "corpus",
    "model",
    "UAR",
    "to the first",
    "macro-F1",
    "to the first",
    "right: only it, only the first",
    "p (McNemar)",
    "time",
    "MB",
]


def table(comparisons: Mapping[str, Comparison]) -> list[list[str]]:
    """Returns a row for each corpus and model; the header first."""
    rows = [_HEADER]
    for name, comparison in comparisons.items():
        for each in comparison.contenders:
            other = each.difference
            rows.append(
                [
                    name,
                    each.model,
                    str(each.uar),
                    _signed(other.uar) if other else "",
                    str(each.macro_f1),
                    _signed(other.macro_f1) if other else "",
                    f"{other.only_this}, {other.only_first}" if other else "",
                    f"{other.p:.2g}" if other else "",
                    f"{each.seconds:.3g}",
                    f"{each.size / 1e6:.1f}",
                ]
            )
    return rows


def lines(comparisons: Mapping[str, Comparison]) -> list[str]:
    """Returns what the table is about: the clips and labels that count, errors, and clips known from a training."""
    found = []
    for name, comparison in comparisons.items():
        people = f"{comparison.speakers} speaker{'' if comparison.speakers == 1 else 's'}"
        found.append(
            f"{name}: {comparison.clips} clips by {people}; labels that count, as all models have them: "
            f"{', '.join(comparison.labels)}"
        )
        if comparison.left_out:
            counts = ", ".join(f"{count} {label or 'without label'}" for label, count in comparison.left_out.items())
            found.append(f"{name}: clips left out, with other labels: {counts}")
        if comparison.errors:
            found.append(f"{name}: {len(comparison.errors)} clips left out, since a model could not use them")
        for each in comparison.contenders:
            if each.ignored:
                found.append(f"{name}: answers of {each.model} that do not count: {', '.join(each.ignored)}")
            # A temperature changes no answer.
            seen = {part: clips for part, clips in (each.seen or {}).items() if part != "calibration"}
            found += [f"{name}: {each.model}: {line}" for line in seen_lines(seen)]
        found += [f"{name}: note: {note}" for note in comparison.notes]
        found.append(f"{name}: {intervals(comparison.resampled)}")
    first = next(iter(comparisons.values())).contenders[0]
    found.append(
        f"time: seconds of computing per second of audio, from file to label, here on {first.runtime}; MB: size of the "
        f"weights"
    )
    return found


def markdown(comparisons: Mapping[str, Comparison], title: str) -> str:
    """Returns the table and the lines as a page of Markdown."""
    header, *rows = ([cell.replace("|", r"\|") for cell in row] for row in table(comparisons))
    body = [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join([f"# {title}", "", *body, "", *(f"- {line}" for line in lines(comparisons)), ""])


def _signed(figure: Figure) -> str:
    return f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]"

"""The report of a training, next to its model: training.json and report.html."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from e2v_port import pages
from e2v_port.files import replacing

__all__ = ["STYLE", "chart", "confusion", "folder_of", "html", "write"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 44, 28  # of a chart, in its own units

# Okabe & Ito's palette without black and yellow: distinguishable with any color vision, on white and on black.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

STYLE = """
svg text { fill: var(--grey); font-size: 12px; } svg .axis { stroke: var(--line); }
.matrix th { padding: 0.25rem 0.5rem; }
.matrix td { padding: 0.25rem 0.5rem; text-align: right; background: rgb(var(--heat) / var(--share)); }
.key { display: inline-block; margin-right: 1rem; } .key b { display: inline-block; width: 1em; height: 0.25em;
  vertical-align: middle; margin-right: 0.4em; }
"""


def folder_of(out: Path) -> Path:
    """Returns the folder of the report of a model: next to the model's own, which holds nothing but the model."""
    out = out.resolve()
    return out.parent / f"{out.name}-report"


def html(name: str, report: Mapping[str, Any]) -> str:
    """Returns the report as a page: facts, curves, confusion matrices, corpora and recipe."""
    curve, best = report["curve"], report["best"]
    loss = {"training": [row["loss"] for row in curve], "development": [row["dev_loss"] for row in curve]}
    series = {corpus: [row["scores"][corpus] for row in curve] for corpus in curve[0]["scores"]}
    parts = [
        f"<h1>{escape(name)}</h1>",
        _facts(report),
        f"<h2>{escape(report['score'])} on the development set</h2>",
        chart(series, best, (0.0, 1.0)),
        "<h2>Loss</h2>",
        chart(loss, best, None),
        *(
            part
            for corpus, figures in report["dev"].items()
            for part in _development(corpus, figures, report["outputs"])
        ),
        "<h2>Corpora</h2>",
        _corpora(report),
        "<h2>Recipe</h2>",
        pages.table([[key, json.dumps(value)] for key, value in report["recipe"].items()]),
    ]
    return pages.page(f"{name}: training", parts, style=STYLE)


def write(out: Path, report: Mapping[str, Any], page: Callable[[str, Mapping[str, Any]], str] = html) -> Path:
    """Writes both files; each appears complete or not at all.

    Args:
        out: Folder of the model.
        report: JSON-compatible values; see docs/training.md.
        page: Makes the page, of the name of the model and the report.

    Returns:
        The folder of the report.
    """
    folder = folder_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "training.json": json.dumps(report, ensure_ascii=False, indent=2) + "\n",
        "report.html": page(out.resolve().name, report),
    }
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")
    return folder


def _facts(report: Mapping[str, Any]) -> str:
    clips, hours = report["clips"], report["hours"]
    best = report["curve"][report["best"] - 1]
    rows = [
        ["outputs", ", ".join(report["outputs"])],
        ["parameters", f"{report['parameters']:,}"],
        *([f"{part} clips", f"{clips[part]} ({hours[part]:.2f} h)"] for part in ("train", "dev")),
        ["test clips", f"{clips['test']}, not used here; run e2v evaluate on them"],
        ["best epoch", f"{report['best']} of {len(report['curve'])}, mean {report['score']} {best['score']:.3f}"],
        ["seed, threads", f"{report['seed']}, {report['threads']}"],
        ["license", report["licence"]],
    ]
    if "teacher" in report:
        unlabelled = f"; {report['unlabelled']['files']} recordings without labels ({hours['unlabelled']:.2f} h)"
        rows.append(["teacher", f"{report['teacher']['model']}{unlabelled}"])
    return pages.table(rows)


def _development(corpus: str, figures: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    if "confusion" not in figures:
        rows = [[name, f"{value:.3f}"] for name, value in figures["ccc"].items()]
        return [f"<h2>{escape(corpus)}, development: concordance correlation</h2>", pages.table(rows)]
    return confusion(corpus, figures, outputs)


def confusion(corpus: str, figures: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    """Returns the UAR and the confusion matrix of a corpus, as HTML.

    Args:
        corpus: Its name.
        figures: Its entry in the result of `task.by_corpus`.
        outputs: Labels.
    """
    note = "Rows: label of the corpus. Columns: label of the model. Numbers: clips. Color: share of the row."
    return [
        f"<h2>{escape(corpus)}, development: UAR {figures['uar']:.3f}</h2>",
        _matrix(figures["confusion"], outputs),
        f'<p class="note">{note}</p>',
    ]


def _matrix(matrix: Sequence[Sequence[int]], outputs: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in outputs)
    rows = [f'<tr><th></th>{head}<th scope="col">recall</th></tr>']
    for name, row, i in zip(outputs, matrix, range(len(outputs)), strict=True):
        total = sum(row)
        if not total:
            continue  # the corpus lacks this label
        # At most half of the full color, so that text stays readable on it.
        cells = "".join(f'<td style="--share: {0.5 * number / total:.2f}">{number}</td>' for number in row)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>{cells}<td style="--share: 0">{row[i] / total:.2f}</td></tr>'
        )
    return pages.wide(rows, "matrix")


def _corpora(report: Mapping[str, Any]) -> str:
    rows = []
    for corpus in report["corpora"]:
        name = corpus["name"]
        renamed = ", ".join(
            f"{old} as {new}" if new else f"{old} left out" for old, new in corpus["labels"].items() if old != new
        )
        speakers = "; ".join(
            f"{part}: {', '.join(speaker.removeprefix(name + '/') for speaker in by_corpus[name]) or 'none'}"
            for part, by_corpus in report["speakers"].items()
        )
        rows.append([name, f"{corpus['licence'] or 'license unknown'}. Speakers of {speakers}. {renamed}"])
    return pages.table(rows)


def chart(
    series: Mapping[str, Sequence[float]],
    best: int,
    limits: tuple[float, float] | None,
    title: str = "by epoch; the numbers are those of the best epoch, {best}",
) -> str:
    """Draws a line per series over the epochs, and a dashed line at the best epoch, as HTML.

    Args:
        series: Values by name, one per epoch.
        best: Number of an epoch, from 1; the key shows its values.
        limits: Ends of the vertical axis; by default from 0 to a little more than the largest value.
        title: What the values are by, and which ones the key shows.
    """
    values = [value for line in series.values() for value in line]
    low, high = limits or (0.0, max(values) * 1.05 or 1.0)
    epochs = max(len(line) for line in series.values())

    def x(epoch: int) -> float:
        return _LEFT + (epoch - 1) / max(epochs - 1, 1) * (_WIDTH - _LEFT - 8)

    def y(value: float) -> float:
        return 8 + (high - value) / (high - low) * (_HEIGHT - _BOTTOM - 8)

    shapes = []
    for tick in range(6):
        value = low + (high - low) * tick / 5
        shapes.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        shapes.append(f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.2f}</text>')
    for epoch in sorted({best, *(end for end in (1, epochs) if abs(end - best) > epochs / 20)}):
        anchor = "end" if epoch == epochs > 1 else "middle"
        shapes.append(f'<text x="{x(epoch):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{epoch}</text>')
    shapes.append(
        f'<line class="axis" stroke-dasharray="4" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="8" '
        f'y2="{_HEIGHT - _BOTTOM}"/>'
    )
    keys = []
    for name, line, color in zip(series, series.values(), _colors(series), strict=True):
        points = " ".join(f"{x(i + 1):.1f},{y(value):.1f}" for i, value in enumerate(line))
        shapes.append(f'<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>')
        keys.append(f'<span class="key"><b style="background: {color}"></b>{escape(name)} {line[best - 1]:.3f}</span>')
    title = title.format(best=best)
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(series))} {title}">'
        f"{''.join(shapes)}</svg><figcaption>{''.join(keys)} {title}</figcaption></figure>"
    )


def _colors(names: Iterable[str]) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i, _ in enumerate(names)]

"""What a training leaves beside its model: training.json, and report.html, which needs no other file and no network."""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from e2v_port.files import replacing

__all__ = ["folder_of", "html", "write"]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 260, 44, 28  # of a chart, in its own units

# Okabe & Ito's palette without its black and yellow: told apart by all kinds of colour vision, on white and on black.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --grey: #767676; --line: #d8d8d8;
  --heat: 0 114 178; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --grey: #9a9a9a; --line: #3a3a3a; --heat: 86 180 233; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 46rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
svg { width: 100%; height: auto; } svg text { fill: var(--grey); font-size: 12px; } svg .axis { stroke: var(--line); }
figure { margin: 1rem 0; } figcaption, .note { color: var(--grey); font-size: 0.9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; font-weight: normal; }
th { color: var(--grey); } tr { border-bottom: 1px solid var(--line); }
.matrix td { text-align: right; font-variant-numeric: tabular-nums; background: rgb(var(--heat) / var(--share)); }
.key { display: inline-block; margin-right: 1rem; } .key b { display: inline-block; width: 1em; height: 0.25em;
  vertical-align: middle; margin-right: 0.4em; }
"""


def folder_of(out: Path) -> Path:
    """Returns where the report of a model lies: beside its folder, which holds a model and nothing else."""
    out = out.resolve()
    return out.parent / f"{out.name}-report"


def write(out: Path, report: Mapping[str, Any]) -> Path:
    """Writes both files.

    Args:
        out: The model's folder.
        report: As JSON holds it; see docs/training.md.

    Returns:
        The folder of the report.
    """
    folder = folder_of(out)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "training.json": json.dumps(report, ensure_ascii=False, indent=2) + "\n",
        "report.html": html(out.resolve().name, report),
    }
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")
    return folder


def html(name: str, report: Mapping[str, Any]) -> str:
    """Returns a page: what was trained on what, its curves, and what is taken for what."""
    curve, best = report["curve"], report["best"]
    loss = {"training": [row["loss"] for row in curve], "development": [row["dev_loss"] for row in curve]}
    series = {of: [row["scores"][of] for row in curve] for of in curve[0]["scores"]}
    parts = [
        f"<h1>{escape(name)}</h1>",
        _facts(report),
        f"<h2>{escape(report['score'])} of the development set</h2>",
        _chart(series, best, (0.0, 1.0)),
        "<h2>Loss</h2>",
        _chart(loss, best, None),
        *(part for corpus, found in report["dev"].items() for part in _development(corpus, found, report["outputs"])),
        "<h2>Corpora</h2>",
        _corpora(report),
        "<h2>Recipe</h2>",
        _table([[key, json.dumps(value)] for key, value in report["recipe"].items()]),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}: training</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _facts(report: Mapping[str, Any]) -> str:
    clips, hours = report["clips"], report["hours"]
    best = report["curve"][report["best"] - 1]
    rows = [
        ["outputs", ", ".join(report["outputs"])],
        ["parameters", f"{report['parameters']:,}"],
        *([f"{part} clips", f"{clips[part]} ({hours[part]:.2f} h)"] for part in ("train", "dev")),
        ["test clips", f"{clips['test']}: not touched; judge with e2v evaluate"],
        ["best epoch", f"{report['best']} of {len(report['curve'])}, mean {report['score']} {best['score']:.3f}"],
        ["seed, threads", f"{report['seed']}, {report['threads']}"],
        ["licence", report["licence"]],
    ]
    return _table(rows)


def _development(corpus: str, found: Mapping[str, Any], outputs: Sequence[str]) -> list[str]:
    if "confusion" not in found:
        rows = [[name, f"{value:.3f}"] for name, value in found["ccc"].items()]
        return [f"<h2>{escape(corpus)}, development: concordance correlation</h2>", _table(rows)]
    note = "Rows: what was acted. Columns: what the model says. Numbers: clips; colour: share of the row."
    return [
        f"<h2>{escape(corpus)}, development: UAR {found['uar']:.3f}</h2>",
        _matrix(found["confusion"], outputs),
        f'<p class="note">{note}</p>',
    ]


def _matrix(matrix: Sequence[Sequence[int]], outputs: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in outputs)
    rows = [f'<tr><th></th>{head}<th scope="col">recall</th></tr>']
    for name, row, i in zip(outputs, matrix, range(len(outputs)), strict=True):
        total = sum(row)
        if not total:
            continue  # nobody acted that here
        # Half of full colour at most, so that ink and grey stay readable on it.
        cells = "".join(f'<td style="--share: {0.5 * number / total:.2f}">{number}</td>' for number in row)
        rows.append(
            f'<tr><th scope="row">{escape(name)}</th>{cells}<td style="--share: 0">{row[i] / total:.2f}</td></tr>'
        )
    return f'<div class="wide"><table class="matrix">{"".join(rows)}</table></div>'


def _corpora(report: Mapping[str, Any]) -> str:
    rows = []
    for corpus in report["corpora"]:
        name = corpus["name"]
        renamed = ", ".join(f"{own} as {label or 'nothing'}" for own, label in corpus["labels"].items() if own != label)
        speakers = "; ".join(
            f"{part}: {', '.join(one.removeprefix(name + '/') for one in of[name]) or 'nobody'}"
            for part, of in report["speakers"].items()
        )
        rows.append([name, f"{corpus['licence'] or 'licence not known here'}. Speakers of {speakers}. {renamed}"])
    return _table(rows)


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = (f'<tr><th scope="row">{escape(key)}</th><td>{escape(value)}</td></tr>' for key, value in rows)
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _chart(series: Mapping[str, Sequence[float]], best: int, limits: tuple[float, float] | None) -> str:
    """Draws lines over epochs, and a dashed one at the best of them."""
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
    for name, line, colour in zip(series, series.values(), _colours(series), strict=True):
        points = " ".join(f"{x(i + 1):.1f},{y(value):.1f}" for i, value in enumerate(line))
        shapes.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        keys.append(f'<span class="key"><b style="background: {colour}"></b>{escape(name)} {line[best - 1]:.3f}</span>')
    title = f"by epoch; numbers at the best, {best}"
    return (
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(", ".join(series))} {title}">'
        f"{''.join(shapes)}</svg><figcaption>{''.join(keys)} {title}</figcaption></figure>"
    )


def _colours(names: Iterable[str]) -> list[str]:
    return [_COLOURS[i % len(_COLOURS)] for i, _ in enumerate(names)]

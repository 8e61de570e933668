"""What a corpus holds, from its rows: figures for `e2v evaluate`, and a page and a picture for `e2v report`.

Rows are gone through in batches, so that a table longer than memory can be drawn too.
"""

import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port import plots
from e2v_port.corpora import Corpus, Utterance, label_of
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation import Answer, Evaluation, compare
from e2v_port.files import printable, replacing
from e2v_port.model import Prediction
from e2v_port.terminal import GREY, colour

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from matplotlib.axes import Axes

__all__ = ["evaluate", "write"]

_BINS = 50  # of arousal and of valence
_SPEAKERS = 25  # with the most rows; the others are counted only
_MINUTES = 6 * 60  # of the longest clip there can be


def evaluate(folder: Path) -> tuple[Corpus, Evaluation]:
    """Compares the labels of rows with the reference labels that the source had.

    A row is a clip there: where clips were cut into stretches of speech, each stretch has its clip's reference.

    Raises:
        CorpusError: There are no rows, or none with a label and a reference.
    """
    manifest, rows = _opened(folder)
    prefix = "score_"
    names = [name.removeprefix(prefix) for name in rows.schema.names if name.startswith(prefix)]
    if not names:
        raise CorpusError(f"{folder}: its rows have no labels, only dimensions: run e2v corpus with --model")
    about = manifest["settings"]["models"]["categorical"]
    temperature = about["temperature"]
    utterances: list[Utterance] = []
    answers: list[Answer] = []
    columns = ["file", "speaker", "reference", "label", "start", "end", "error", *(prefix + name for name in names)]
    for row in _rows(rows, columns):
        if row["reference"] is None:
            continue
        label = label_of(row["reference"])
        speaker = f"{folder.name}/{row['speaker'] or row['file']}"
        utterances.append(Utterance(Path(row["file"]), label, row["reference"], speaker, None, folder.name, None, None))
        if row["error"] is not None:
            answers.append(AudioError(f"{row['file']}: {row['error']}"))
        elif label is None or row["label"] is None:
            answers.append(None)
        else:
            scores = {name: row[prefix + name] for name in names}
            smallest = float(np.finfo(np.float32).tiny)
            logits = {name: temperature * math.log(max(score, smallest)) for name, score in scores.items()}
            seconds = row["end"] - row["start"]
            answers.append(Prediction(row["label"], scores[row["label"]], scores, logits, seconds))
    if not utterances:
        raise CorpusError(f"{folder}: no row has a reference: give e2v corpus a table with a column label")
    found = compare(
        utterances,
        answers,
        names,
        model=about["name"],
        runtime=manifest["settings"]["runtime"],
        temperature=temperature,
    )
    return Corpus(folder.name, "csv", folder, "", tuple(utterances), dict(found.mapping), ()), found


def _opened(folder: Path) -> "tuple[dict[str, Any], ds.Dataset]":
    from pyarrow import dataset

    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder}: no folder that e2v corpus wrote (manifest.json: {error})") from error
    shards = sorted((folder / "rows").glob("part-*.parquet"))
    if not shards:
        raise CorpusError(f"{folder}: there are no rows yet: run e2v corpus to its end")
    return manifest, dataset.dataset([str(shard) for shard in shards], format="parquet")


def _rows(rows: "ds.Dataset", columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(columns=list(columns), batch_size=1 << 14):
        yield from batch.to_pylist()


@dataclass
class _Found:
    """What is counted of all rows."""

    rows: int = 0
    clips: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    speakers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    density: Any = field(default_factory=lambda: np.zeros((_BINS, _BINS)))  # [valence, arousal]
    measured: bool = False
    # Of rows, arousal and valence, by the minute of the recording that they begin in.
    minutes: Any = field(default_factory=lambda: np.zeros((_MINUTES, 3)))


def write(folder: Path) -> tuple[Path, Path]:
    """Draws the rows: shares of labels, where they lie in arousal and valence, by speaker, over time.

    Returns:
        report.html, which needs no other file and no network, and report.png.

    Raises:
        CorpusError: There are no rows.
        E2VError: matplotlib is not installed.
        OSError: The files cannot be written.
    """
    page, picture = folder / "report.html", folder / "report.png"
    plots.check(picture)
    manifest, rows = _opened(folder)
    found = _count(rows)
    figure = _figure(found)
    with replacing(picture) as partial:
        figure.savefig(partial, dpi=150)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = text.getvalue()
    with replacing(page) as partial:
        partial.write_text(_page(folder, manifest, found, drawing[drawing.index("<svg") :]), "utf-8", newline="\n")
    return page, picture


def _count(rows: "ds.Dataset") -> _Found:
    found = _Found()
    labelled = "label" in rows.schema.names
    columns = ["segment", "start", "duration", "speaker", "arousal", "valence", "dimensions_from", "octant", "error"]
    for row in _rows(rows, [*columns, *(["label"] if labelled else [])]):
        found.rows += 1
        if row["segment"] == 0:
            found.clips += 1
            found.seconds += row["duration"] or 0.0
        if row["error"] is not None:
            found.errors[row["error"]] += 1
        label = row["label"] if labelled else row["octant"]
        if label is None:
            continue
        found.labels[label] += 1
        if row["speaker"] is not None:
            found.speakers[row["speaker"]][label] += 1
        if row["valence"] is None:
            continue
        found.measured = found.measured or row["dimensions_from"] == "model"
        place = [min(max(int(row[name] * _BINS), 0), _BINS - 1) for name in ("valence", "arousal")]
        found.density[tuple(place)] += 1
        found.minutes[min(int(row["start"] // 60), _MINUTES - 1)] += (1, row["arousal"], row["valence"])
    return found


def _figure(found: _Found) -> Any:
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure and choose a window system

    figure = Figure(figsize=(11, 9), layout="constrained")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    labels = [label for label, _ in found.labels.most_common()]
    total = max(sum(found.labels.values()), 1)
    upper_left.barh(
        labels, [found.labels[label] / total for label in labels], color=[colour(label) for label in labels]
    )
    upper_left.invert_yaxis()
    upper_left.set(xlabel="share of rows", title="what was heard")
    _density(found, upper_right)
    _speakers(found, labels, lower_left)
    _time(found, lower_right)
    for axes in (upper_left, lower_left, lower_right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _density(found: _Found, axes: "Axes") -> None:
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_equal(found.density.T, 0)
    if found.density.any():
        image = axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=LogNorm(1), aspect="auto")
        axes.figure.colorbar(image, ax=axes, label="rows")
    for line in (axes.axhline, axes.axvline):
        line(0.5, color=GREY, linewidth=0.8, linestyle="--")
    how = "measured" if found.measured else "derived from the labels"
    axes.set(xlabel="valence", ylabel="arousal", title=f"arousal and valence, {how}")


def _speakers(found: _Found, labels: Sequence[str], axes: "Axes") -> None:
    most = _most(found)
    axes.set(title=f"by speaker, the {len(most)} with the most rows" if most else "no speakers are known")
    start = np.zeros(len(most))
    for label in labels if most else ():
        shares = np.array([found.speakers[name][label] / found.speakers[name].total() for name in most])
        names = [_short(name) for name in most]
        axes.barh(range(len(names)), shares, left=start, color=colour(label), label=label)
        axes.set_yticks(range(len(names)), names)
        start += shares
    if most:
        axes.invert_yaxis()
        axes.set(xlabel="share of rows", xlim=(0, 1))
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def _time(found: _Found, axes: "Axes") -> None:
    counts, arousal, valence = found.minutes.T
    there = np.flatnonzero(counts)
    if len(there) < 2:
        axes.set(title="over time: no recording goes beyond a minute", xticks=[], yticks=[])
        return
    for name, sums, line in (("arousal", arousal, "#d1495b"), ("valence", valence, "#00798c")):
        axes.plot(there, sums[there] / counts[there], color=line, label=f"mean {name}")
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes into the recording", ylim=(0, 1), title="over time, mean of all recordings")
    axes.legend(frameon=False, fontsize=9)


def _most(found: _Found) -> list[str]:
    return sorted(found.speakers, key=lambda name: (-found.speakers[name].total(), name))[:_SPEAKERS]


def _short(name: str) -> str:
    """A name for an axis: printable, not too long, and without what matplotlib would read as a formula."""
    name = printable(name)
    return (name if len(name) <= 20 else f"{name[:19]}…").replace("$", r"\$")


_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --grey: #767676; --line: #d8d8d8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --grey: #9a9a9a; --line: #3a3a3a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 64rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; background: #ffffff; } figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; font-weight: normal; }
td { font-variant-numeric: tabular-nums; } th { color: var(--grey); } tr { border-bottom: 1px solid var(--line); }
"""


def _page(folder: Path, manifest: Mapping[str, Any], found: _Found, drawing: str) -> str:
    models = [f"{kind}: {about['name']}" for kind, about in manifest["settings"]["models"].items()]
    missing = manifest["clips"] - found.clips
    facts = [
        ["clips", f"{found.clips:,}" + (f", {missing:,} still missing" if missing else "")],
        ["audio", f"{found.seconds / 3600:,.2f} h"],
        ["rows", f"{found.rows:,}, of which {found.labels.total():,} were judged"],
        ["models", "; ".join(models)],
    ]
    total = max(found.labels.total(), 1)
    labels = [[label, f"{count:,}", f"{count / total:.1%}"] for label, count in found.labels.most_common()]
    errors = [[error, f"{count:,}"] for error, count in found.errors.most_common(20)]
    heads = [label for label, _ in found.labels.most_common()]
    speakers = [
        [name, str(counts.total()), *(f"{counts[label] / counts.total():.0%}" for label in heads)]
        for name, counts in ((name, found.speakers[name]) for name in _most(found))
    ]
    name = escape(folder.resolve().name)
    title = "label shares, arousal and valence, speakers, time: the numbers are in the tables below"
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    parts = [
        f"<h1>{name}</h1>",
        _table([], facts),
        f"<figure>{drawing}</figure>",
        "<h2>What was heard</h2>",
        _table(["", "rows", "share"], labels),
        *(["<h2>Speakers</h2>", _table(["", "rows", *heads], speakers)] if speakers else []),
        *(["<h2>Errors</h2>", _table(["", "rows"], errors)] if errors else []),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: emotions</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{heads}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'

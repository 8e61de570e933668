"""Figures from the rows of a corpus: for `e2v evaluate`, and as a page and a picture for `e2v report`.

Rows are read in batches, so that a table may be larger than memory.
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

from e2v_port import pages
from e2v_port.analysis.output import plots
from e2v_port.analysis.output.terminal import GREY, colour
from e2v_port.corpus.folder import checksums
from e2v_port.corpus.job import digest
from e2v_port.emotions.estimates import Prediction
from e2v_port.errors import AudioError, CorpusError
from e2v_port.evaluation.datasets import Corpus, Utterance, label_of
from e2v_port.evaluation.evaluate import compare
from e2v_port.evaluation.results import Answer, Evaluation
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    import pyarrow.dataset as ds
    from matplotlib.axes import Axes

__all__ = ["evaluate", "write"]

_BINS = 50  # of arousal and of valence
_SPEAKERS = 25  # shown: those with the most rows
_MINUTES = 6 * 60  # in the longest possible clip


def evaluate(folder: Path) -> tuple[Corpus, Evaluation]:
    """Compares the labels of rows with the reference labels of the source.

    Each row counts as a clip: the speech segments of a clip share its reference.

    Raises:
        CorpusError: There are no rows, or none has both a label and a reference.
    """
    manifest, rows = _opened(folder)
    prefix = "e2v_"
    names = [name.removeprefix(prefix) for name in rows.schema.names if name.startswith(prefix)]
    if not names:
        raise CorpusError(f"{folder}: its rows have no labels, only dimensions: run e2v corpus with --model")
    about = manifest["settings"]["models"]["categorical"]
    temperature = about["temperature"]
    utterances: list[Utterance] = []
    answers: list[Answer] = []
    columns = ["file", "speaker", "reference", "primary", "start", "end", "error", *(prefix + name for name in names)]
    for row in _rows(rows, columns):
        if row["reference"] is None:
            continue
        label = label_of(row["reference"])
        speaker = f"{folder.name}/{row['speaker'] or row['file']}"
        utterances.append(Utterance(Path(row["file"]), label, row["reference"], speaker, None, folder.name, None, None))
        if row["error"] is not None:
            answers.append(AudioError(f"{row['file']}: {row['error']}"))
        elif label is None or row["primary"] is None:
            answers.append(None)
        else:
            scores = {name: row[prefix + name] for name in names}
            smallest = float(np.finfo(np.float32).tiny)
            logits = {name: temperature * math.log(max(score, smallest)) for name, score in scores.items()}
            seconds = row["end"] - row["start"]
            answers.append(Prediction(row["primary"], scores[row["primary"]], scores, logits, seconds))
    if not utterances:
        raise CorpusError(f"{folder}: no row has a reference: run e2v corpus on a table with a column label")
    evaluation = compare(
        utterances,
        answers,
        names,
        model=about["name"],
        runtime=manifest["settings"]["runtime"],
        temperature=temperature,
    )
    notes = ("rows do not show whether the model was trained on these clips or speakers",)
    return Corpus(folder.name, "csv", folder, "", tuple(utterances), dict(evaluation.mapping), notes), evaluation


def _opened(folder: Path) -> "tuple[dict[str, Any], ds.Dataset]":
    from pyarrow import dataset

    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"{folder}: not written by e2v corpus ({error}): pass its output folder") from error
    shards = sorted((folder / "rows").glob("part-*.parquet"))
    if not shards:
        raise CorpusError(f"{folder}: no rows yet: finish the run of e2v corpus")
    known = checksums(folder)
    for shard in shards:
        if digest(shard) != known.get(shard.name):
            raise CorpusError(f"{shard}: not as it was written: repeat the run of e2v corpus, which remakes it")
    return manifest, dataset.dataset([str(shard) for shard in shards], format="parquet")


def _rows(rows: "ds.Dataset", columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for batch in rows.to_batches(columns=list(columns), batch_size=1 << 14):
        yield from batch.to_pylist()


@dataclass
class _Totals:
    """Counts over all rows."""

    rows: int = 0
    clips: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    speakers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    density: Any = field(default_factory=lambda: np.zeros((_BINS, _BINS)))  # [valence, arousal]
    measured: bool = False
    # Rows, and the sums of their arousal and valence, by the minute of the recording they start in.
    minutes: Any = field(default_factory=lambda: np.zeros((_MINUTES, 3)))


def write(folder: Path) -> tuple[Path, Path]:
    """Draws the shares of labels, the density over arousal and valence, and both by speaker and over time.

    Returns:
        The paths of report.html and report.png.

    Raises:
        CorpusError: There are no rows.
        E2VError: matplotlib is not installed.
        OSError: The files cannot be written.
    """
    page, picture = folder / "report.html", folder / "report.png"
    plots.check(picture)
    manifest, rows = _opened(folder)
    totals = _count(rows)
    figure = _figure(totals)
    with replacing(picture) as partial:
        figure.savefig(partial, dpi=150)
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawing = text.getvalue()
    with replacing(page) as partial:
        partial.write_text(_page(folder, manifest, totals, drawing[drawing.index("<svg") :]), "utf-8", newline="\n")
    return page, picture


def _count(rows: "ds.Dataset") -> _Totals:
    totals = _Totals()
    headline = "primary" if "primary" in rows.schema.names else "octant"
    columns = ["segment", "start", "duration", "speaker", "avd_arousal", "avd_valence", "avd_from", "error"]
    for row in _rows(rows, [*columns, headline]):
        totals.rows += 1
        if row["segment"] == 0:
            totals.clips += 1
            totals.seconds += row["duration"] or 0.0
        if row["error"] is not None:
            totals.errors[row["error"]] += 1
        label = row[headline]
        if label is None:
            continue
        totals.labels[label] += 1
        if row["speaker"] is not None:
            totals.speakers[row["speaker"]][label] += 1
        if row["avd_valence"] is None:
            continue
        totals.measured = totals.measured or row["avd_from"] == "model"
        place = [min(max(int(row[name] * _BINS), 0), _BINS - 1) for name in ("avd_valence", "avd_arousal")]
        totals.density[tuple(place)] += 1
        totals.minutes[min(int(row["start"] // 60), _MINUTES - 1)] += (1, row["avd_arousal"], row["avd_valence"])
    return totals


def _figure(totals: _Totals) -> Any:
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure and choose a window system

    figure = Figure(figsize=(11, 9), layout="constrained")
    (upper_left, upper_right), (lower_left, lower_right) = figure.subplots(2, 2)
    labels = [label for label, _ in totals.labels.most_common()]
    total = max(sum(totals.labels.values()), 1)
    upper_left.barh(
        labels, [totals.labels[label] / total for label in labels], color=[colour(label) for label in labels]
    )
    upper_left.invert_yaxis()
    upper_left.set(xlabel="share of rows", title="labels")
    _density(totals, upper_right)
    _speakers(totals, labels, lower_left)
    _time(totals, lower_right)
    for axes in (upper_left, lower_left, lower_right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _density(totals: _Totals, axes: "Axes") -> None:
    from matplotlib.colors import LogNorm

    shown = np.ma.masked_equal(totals.density.T, 0)
    if totals.density.any():
        image = axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=LogNorm(1), aspect="auto")
        axes.figure.colorbar(image, ax=axes, label="rows")
    for line in (axes.axhline, axes.axvline):
        line(0.5, color=GREY, linewidth=0.8, linestyle="--")
    how = "measured" if totals.measured else "derived from the labels"
    axes.set(xlabel="valence", ylabel="arousal", title=f"arousal and valence, {how}")


def _speakers(totals: _Totals, labels: Sequence[str], axes: "Axes") -> None:
    most = _most(totals)
    axes.set(title=f"by speaker, the {len(most)} with the most rows" if most else "no speakers given")
    start = np.zeros(len(most))
    for label in labels if most else ():
        shares = np.array([totals.speakers[name][label] / totals.speakers[name].total() for name in most])
        names = [_short(name) for name in most]
        axes.barh(range(len(names)), shares, left=start, color=colour(label), label=label)
        axes.set_yticks(range(len(names)), names)
        start += shares
    if most:
        axes.invert_yaxis()
        axes.set(xlabel="share of rows", xlim=(0, 1))
        axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False)


def _time(totals: _Totals, axes: "Axes") -> None:
    counts, arousal, valence = totals.minutes.T
    there = np.flatnonzero(counts)
    if len(there) < 2:
        axes.set(title="over time: no recording is longer than a minute", xticks=[], yticks=[])
        return
    for name, sums, line in (("arousal", arousal, "#d1495b"), ("valence", valence, "#00798c")):
        axes.plot(there, sums[there] / counts[there], color=line, label=f"mean {name}")
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--")
    axes.set(xlabel="minutes into the recording", ylim=(0, 1), title="over time, mean of all recordings")
    axes.legend(frameon=False, fontsize=9)


def _most(totals: _Totals) -> list[str]:
    return sorted(totals.speakers, key=lambda name: (-totals.speakers[name].total(), name))[:_SPEAKERS]


def _short(name: str) -> str:
    """Returns a name for an axis: printable, short, and escaped for matplotlib."""
    name = printable(name)
    return (name if len(name) <= 20 else f"{name[:19]}…").replace("$", r"\$")


_STYLE = """
body { max-width: 64rem; } figure { background: #ffffff; }
"""


def _page(folder: Path, manifest: Mapping[str, Any], totals: _Totals, drawing: str) -> str:
    models = [f"{kind}: {about['name']}" for kind, about in manifest["settings"]["models"].items()]
    missing = manifest["clips"] - totals.clips
    facts = [
        ["clips", f"{totals.clips:,}" + (f", {missing:,} still missing" if missing else "")],
        ["audio", f"{totals.seconds / 3600:,.2f} h"],
        ["rows", f"{totals.rows:,}, {totals.labels.total():,} of them judged"],
        ["models", "; ".join(models)],
    ]
    total = max(totals.labels.total(), 1)
    labels = [[label, f"{count:,}", f"{count / total:.1%}"] for label, count in totals.labels.most_common()]
    errors = [[error, f"{count:,}"] for error, count in totals.errors.most_common(20)]
    heads = [label for label, _ in totals.labels.most_common()]
    speakers = [
        [name, str(counts.total()), *(f"{counts[label] / counts.total():.0%}" for label in heads)]
        for name, counts in ((name, totals.speakers[name]) for name in _most(totals))
    ]
    name = escape(folder.resolve().name)
    title = "shares of labels, arousal and valence, speakers, time; the tables below have the numbers"
    drawing = drawing.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
    parts = [
        f"<h1>{name}</h1>",
        pages.table(facts),
        f"<figure>{drawing}</figure>",
        "<h2>Labels</h2>",
        pages.table(labels, ["", "rows", "share"]),
        *(["<h2>Speakers</h2>", pages.table(speakers, ["", "rows", *heads])] if speakers else []),
        *(["<h2>Errors</h2>", pages.table(errors, ["", "rows"])] if errors else []),
    ]
    return pages.page(f"{folder.resolve().name}: emotions", parts, style=_STYLE)

"""An analysis, or an evaluation, as a picture: needs matplotlib, `pip install "e2v-port[plots]"`."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.analysis import Analysis
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import E2VError
from e2v_port.evaluation import Evaluation, Figures
from e2v_port.files import printable
from e2v_port.formats import label
from e2v_port.terminal import GREY, colour, doubtful

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SUFFIXES", "check", "plot", "plot_evaluations"]

SUFFIXES = (".png", ".svg", ".pdf")

_COLUMNS = 2400  # of the waveform: two for each pixel of its width
_LINES = {"arousal": "#d1495b", "dominance": "#6c757d", "valence": "#00798c"}
_LEGEND: dict[str, Any] = {"loc": "upper left", "frameon": False, "fontsize": 9}


def plot(analysis: Analysis, waveform: Waveform, path: str | Path) -> None:
    """Draws the waveform with its segments in the colours of their emotions, and what was measured below.

    Segments that could not be judged are grey; what is uncertain or short is hatched. Below are arousal, dominance and
    valence of each segment, if a dimensional model spoke; else the confidence of its label and, dotted, the dimensions
    that follow from the labels. Boundaries are a strip at the foot of the waveform.

    Args:
        analysis: Of one clip.
        waveform: Of that clip, [samples], float32, 16 kHz, as `load_audio` gives it.
        path: A .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: Another ending.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure  # without pyplot, which would keep every figure and choose a window system
    from matplotlib.patches import Patch

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.suptitle(_title(analysis), fontsize=11, x=0.01, ha="left")

    times, low, high = _envelope(waveform)
    upper.fill_between(times, low, high, color="#343a40", linewidth=0, zorder=2)
    limit = max(float(high.max()), -float(low.min()), 1e-3) * 1.1
    upper.set(ylim=(-limit, limit), ylabel="waveform", yticks=[])
    shown: dict[str, Any] = {}
    for segment in analysis.segments:
        known = segment.judgement is not None
        fill = colour(segment.emotion) if known else "#dee2e6"
        name = (segment.emotion or "judged") if known else "not judged"
        hatch = "///" if known and doubtful(segment) else None
        for axes, alpha in ((upper, 0.55), (lower, 0.12)):
            style = {"facecolor": fill, "alpha": alpha, "edgecolor": "white", "linewidth": 0.8, "zorder": 1}
            axes.axvspan(segment.start, segment.end, hatch=hatch if axes is upper else None, **style)
        shown.setdefault(name, Patch(facecolor=fill, alpha=0.6, label=name))
        said = segment.compound or segment.emotion or label(segment)
        if known and segment.duration > 0.008 * len(said) * analysis.duration:  # else it does not fit
            middle = (segment.start + segment.end) / 2
            upper.text(middle, 0.97 * limit, said, ha="center", va="top", fontsize=8, zorder=3)
    for part in analysis.boundaries or ():
        upper.axvspan(part.start, part.end, ymax=0.06, facecolor=colour(part.label), edgecolor="white", zorder=3)
        shown.setdefault(part.label, Patch(facecolor=colour(part.label), alpha=0.6, label=part.label))
    if any(segment.judgement and doubtful(segment) for segment in analysis.segments):
        shown["uncertain"] = Patch(facecolor="white", edgecolor=GREY, hatch="///", label="uncertain or short")
    if shown:
        upper.legend(handles=list(shown.values()), bbox_to_anchor=(1.0, 1.02), **_LEGEND)
    if analysis.reason:
        upper.text(0.5, 0.9, analysis.reason, transform=upper.transAxes, ha="center", va="top", color=GREY)
    _measured(analysis, lower)
    lower.set(xlabel="seconds", xlim=(0, analysis.duration))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def plot_evaluations(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Draws for each corpus what was answered to what, in shares of each row, and how often confidences are right.

    Args:
        evaluations: Of a model with labels, by corpus.
        path: A .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: Another ending.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5 * len(evaluations)), dpi=100, layout="constrained")
    rows = figure.subplots(len(evaluations), 2, squeeze=False, width_ratios=[3, 2])
    for (left, right), (name, evaluation) in zip(rows, evaluations.items(), strict=True):
        assert evaluation.open
        _confusion(evaluation.open, left)
        left.set_title(f"{name}: {evaluation.judged} clips, UAR {evaluation.open.uar}".replace("$", r"\$"), fontsize=10)
        _reliability(evaluation, right)
    figure.savefig(path)


def _confusion(figures: Figures, axes: "Axes") -> None:
    matrix = np.array(figures.confusion, dtype=np.float64)
    there = matrix.sum(1) > 0
    shares = matrix[there] / matrix[there].sum(1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        count = int(matrix[there][row, column])
        axes.text(column, row, str(count), ha="center", va="center", color="white" if share > 0.6 else "black")
    labels = np.array(figures.labels)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(int(there.sum())), labels[there])
    axes.set(xlabel="answer of the model", ylabel="label of the corpus")


def _reliability(evaluation: Evaluation, axes: "Axes") -> None:
    counts, confidences, right = np.array(evaluation.reliability).T
    filled = counts > 0
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    sizes = 12 + 300 * counts[filled] / counts.sum()
    accuracy = right[filled] / counts[filled]
    axes.scatter(confidences[filled] / counts[filled], accuracy, s=sizes, color="#00798c", alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="share that is right")
    axes.set_title(f"ECE {evaluation.ece}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def check(path: str | Path) -> None:
    """Raises what `plot` would raise before it draws; to be asked before long work."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a picture ends in {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise E2VError('a picture needs matplotlib: pip install "e2v-port[plots]"')


def _measured(analysis: Analysis, axes: "Axes") -> None:
    """Draws a step for each segment, joined by thin lines."""
    judged = [segment for segment in analysis.segments if segment.judgement]
    dimensional = any(model.kind == "dimensional" for model in analysis.models)
    derived = any(segment.dimensions_from == "labels" for segment in judged)
    names = ({} if dimensional else {"confidence": "#343a40"}) | (_LINES if dimensional or derived else {})
    for name, line in names.items():
        values = [float(getattr(segment, name)) for segment in judged]
        follows = derived and name in _LINES
        style: dict[str, Any] = {"color": line, "linewidth": 2.4, "linestyle": ":" if follows else "-"}
        for segment, value in zip(judged, values, strict=True):
            axes.hlines(value, segment.start, segment.end, **style)
        middles = [(segment.start + segment.end) / 2 for segment in judged]
        axes.plot(middles, values, color=line, linewidth=0.7, alpha=0.6)
        axes.plot([], [], **style, label=f"{name}, derived from labels" if follows else name)
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    everything = [0.0, 1.0, *(float(getattr(segment, name)) for segment in judged for name in names)]
    axes.set(ylim=(min(everything) - 0.03, max(everything) + 0.03), ylabel="0 to 1")
    axes.legend(bbox_to_anchor=(1.0, 1.04), **_LEGEND)


def _envelope(waveform: Waveform) -> tuple[Any, Any, Any]:
    """Lowest and highest sample of each column, with its time."""
    firsts = np.unique(np.linspace(0, len(waveform), _COLUMNS, endpoint=False, dtype=np.int64))
    low, high = np.minimum.reduceat(waveform, firsts), np.maximum.reduceat(waveform, firsts)
    return firsts / SAMPLING_RATE, low, high


def _title(analysis: Analysis) -> str:
    """On one line, and without what matplotlib would read as a formula."""
    name = Path(analysis.file).name
    name = printable(name).replace("$", r"\$")
    models = ", ".join(model.name for model in analysis.models).replace("$", r"\$")
    return f"{name}, {analysis.duration:.1f} s: {models}"

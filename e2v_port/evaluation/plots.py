"""Plots of an evaluation: confusion matrices, reliability diagrams and risk-coverage curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from e2v_port.analysis.output.plots import check
from e2v_port.analysis.output.terminal import GREY
from e2v_port.evaluation.report import seen_lines
from e2v_port.evaluation.results import Evaluation, Figures, Risk

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from e2v_port.evaluation.comparison.compare import Comparison
    from e2v_port.evaluation.probe import Probe

__all__ = ["plot_comparisons", "plot_evaluations", "plot_probes"]

_COLOR = "#00798c"


def plot_evaluations(evaluations: Mapping[str, Evaluation], path: str | Path) -> None:
    """Draws a confusion matrix, a reliability diagram and a risk-coverage curve for each corpus.

    Args:
        evaluations: Evaluations of a model with labels, by corpus.
        path: File to write: .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: `path` has another extension.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 5 * len(evaluations)), dpi=100, layout="constrained")
    rows = figure.subplots(len(evaluations), 3, squeeze=False, width_ratios=[3, 2, 2])
    for (left, middle, right), (name, evaluation) in zip(rows, evaluations.items(), strict=True):
        assert evaluation.open
        assert evaluation.risk
        _confusion(evaluation.open, left)
        title = "\n".join(
            [f"{name}: {evaluation.judged} clips, UAR {evaluation.open.uar}", *seen_lines(evaluation.seen)]
        )
        left.set_title(title.replace("$", r"\$"), fontsize=10)
        _reliability(evaluation, middle)
        _risk(evaluation.risk, right)
    figure.savefig(path)


def plot_probes(probes: "Mapping[str, Probe]", path: str | Path) -> None:
    """Draws the UAR of each layer with its interval, a line for each corpus.

    Args:
        probes: Probes of one model, by corpus.
        path: File to write: .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: `path` has another extension.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=100, layout="constrained")
    axes = figure.subplots()
    for i, (name, found) in enumerate(probes.items()):
        uar = np.array([[layer.uar.value, layer.uar.low, layer.uar.high] for layer in found.layers])
        at = np.array([layer.layer for layer in found.layers]) + 0.08 * (i - (len(probes) - 1) / 2)
        title = f"{name}: {found.clips} clips, best layer {found.best}"
        line = axes.plot(at, uar[:, 0], marker="o", label=title.replace("$", r"\$"))[0]
        axes.vlines(at, uar[:, 1], uar[:, 2], color=line.get_color(), alpha=0.6)
        axes.axhline(1 / len(found.labels), color=line.get_color(), linewidth=0.8, linestyle=":")
    found = next(iter(probes.values()))
    axes.set_xticks([layer.layer for layer in found.layers])
    axes.set(ylim=(0, 1), xlabel=f"layer ({found.pooling})", ylabel="UAR; dotted: chance", title=found.model)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def plot_comparisons(comparisons: "Mapping[str, Comparison]", path: str | Path) -> None:
    """Draws accuracy against cost: the UAR of each model with its interval over the time it takes, for each corpus.

    The area of a circle is proportional to the size of the weights.

    Args:
        comparisons: Comparisons of the same models, by corpus.
        path: File to write: .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: `path` has another extension.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(comparisons), 5), dpi=100, layout="constrained")
    for axes, (name, found) in zip(
        figure.subplots(1, len(comparisons), squeeze=False)[0], comparisons.items(), strict=True
    ):
        largest = max(each.size for each in found.contenders)
        for each in found.contenders:
            axes.vlines(each.seconds, each.uar.low, each.uar.high, color=_COLOR, alpha=0.6)
            axes.scatter(each.seconds, each.uar.value, s=20 + 400 * each.size / largest, color=_COLOR, alpha=0.6)
            text = f"{each.model.rstrip('/').rpartition('/')[2]}, {each.size / 1e6:.1f} MB".replace("$", r"\$")
            axes.annotate(text, (each.seconds, each.uar.value), xytext=(12, 4), textcoords="offset points", fontsize=9)
        axes.axhline(1 / len(found.labels), color=GREY, linewidth=0.8, linestyle=":")
        title = f"{name}: {found.clips} clips, {len(found.labels)} labels".replace("$", r"\$")
        axes.set(xscale="log", ylim=(0, 1.05), title=title)
        axes.set(xlabel="seconds of computing per second of audio", ylabel="UAR; dotted: chance")
        axes.margins(x=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _confusion(figures: Figures, axes: "Axes") -> None:
    matrix = np.array(figures.confusion, dtype=np.float64)
    present = matrix.sum(1) > 0
    shares = matrix[present] / matrix[present].sum(1, keepdims=True)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        count = int(matrix[present][row, column])
        axes.text(column, row, str(count), ha="center", va="center", color="white" if share > 0.6 else "black")
    labels = np.array(figures.labels)
    axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    axes.set_yticks(range(int(present.sum())), labels[present])
    axes.set(xlabel="label of the model", ylabel="label of the corpus")


def _reliability(evaluation: Evaluation, axes: "Axes") -> None:
    counts, confidences, right = np.array(evaluation.reliability).T
    filled = counts > 0
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle="--")
    sizes = 12 + 300 * counts[filled] / counts.sum()
    accuracy = right[filled] / counts[filled]
    axes.scatter(confidences[filled] / counts[filled], accuracy, s=sizes, color=_COLOR, alpha=0.7)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), xlabel="confidence", ylabel="accuracy")
    axes.set_title(f"ECE {evaluation.ece}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _risk(risk: Risk, axes: "Axes") -> None:
    coverage, wrong, _ = np.array(risk.curve).T
    axes.plot(coverage, wrong, color=_COLOR)
    axes.axhline(wrong[-1], color=GREY, linewidth=0.8, linestyle="--")  # what random confidences would leave
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="share of clips that get an answer", ylabel="share of answers wrong")
    axes.set_title(f"AURC {risk.aurc}", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)

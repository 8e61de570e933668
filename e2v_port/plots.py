"""An analysis as a picture: needs matplotlib, `pip install "e2v-port[plots]"`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.analysis import Analysis
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.errors import E2VError
from e2v_port.formats import label
from e2v_port.terminal import GREY, colour, doubtful

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SUFFIXES", "check", "plot"]

SUFFIXES = (".png", ".svg", ".pdf")

_COLUMNS = 2400  # of the waveform: two for each pixel of its width
_LINES = {"arousal": "#d1495b", "dominance": "#6c757d", "valence": "#00798c"}
_LEGEND: dict[str, Any] = {"loc": "upper left", "frameon": False, "fontsize": 9}


def plot(analysis: Analysis, waveform: Waveform, path: str | Path) -> None:
    """Draws the waveform with its segments in the colours of their emotions, and what was measured below.

    Segments that could not be judged are grey; what is uncertain or short is hatched. Below are arousal, dominance and
    valence of each segment, if a dimensional model spoke, else the confidence of its label. Boundaries are a strip at
    the foot of the waveform.

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
    limit = max(float(np.abs(waveform).max()), 1e-3) * 1.1
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
    names = _LINES if dimensional else {"confidence": "#343a40"}
    for name, line in names.items():
        values = [float(getattr(segment, name)) for segment in judged]
        for segment, value in zip(judged, values, strict=True):
            axes.hlines(value, segment.start, segment.end, color=line, linewidth=2.4)
        middles = [(segment.start + segment.end) / 2 for segment in judged]
        axes.plot(middles, values, color=line, linewidth=0.7, alpha=0.6)
        axes.plot([], [], color=line, linewidth=2.4, label=name)
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
    name = (name if name.isprintable() else ascii(name)).replace("$", r"\$")
    models = ", ".join(model.name for model in analysis.models).replace("$", r"\$")
    return f"{name}, {analysis.duration:.1f} s: {models}"

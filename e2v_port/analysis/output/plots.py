"""An analysis as a picture. Needs matplotlib: `pip install "e2v-port[plots]"`."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.output.terminal import GREY, colour, doubtful
from e2v_port.analysis.results import Analysis
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions.judgement import MEASURED
from e2v_port.errors import E2VError
from e2v_port.files import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["SUFFIXES", "check", "plot"]

SUFFIXES = (".png", ".svg", ".pdf")

_COLUMNS = 2400  # of the envelope: two per pixel of its width
_LINES = {"arousal": "#d1495b", "dominance": "#6c757d", "valence": "#00798c"}
_INK, _NOT_JUDGED = "#343a40", "#dee2e6"
_LEGEND: dict[str, Any] = {"loc": "upper left", "frameon": False, "fontsize": 9}


def plot(analysis: Analysis, waveform: Waveform, path: str | Path) -> None:
    """Draws the waveform with its segments in the colors of their emotions, and the measurements below.

    Each segment carries its headline with the confidence, or the doubt in words: `unclear: angry or disgusted`.
    Segments that were not judged are gray; unclear or short ones are hatched. Below are arousal, dominance and valence
    of each segment if they were measured; else the confidence and, dotted, the dimensions derived from the labels.
    Boundaries are a strip at the foot of the waveform.

    Args:
        analysis: Analysis of one clip.
        waveform: Waveform of that clip, [samples], float32, 16 kHz, as `load_audio` returns it.
        path: File to write, a .png, .svg or .pdf.

    Raises:
        E2VError: matplotlib is not installed.
        ValueError: The path has another suffix.
        OSError: The file cannot be written.
    """
    check(path)
    from matplotlib.figure import Figure  # without pyplot, which keeps every figure and chooses a window system

    figure = Figure(figsize=(11, 4.6), dpi=100, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    figure.suptitle(title(analysis), fontsize=11, x=0.01, ha="left")
    limit = _draw_waveform(waveform, upper)
    _draw_segments(analysis, limit, upper, lower)
    if analysis.reason:
        upper.text(0.5, 0.9, analysis.reason, transform=upper.transAxes, ha="center", va="top", color=GREY)
    _draw_values(analysis, lower)
    lower.set(xlabel="seconds", xlim=(0, analysis.duration))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _draw_waveform(waveform: Waveform, axes: "Axes") -> float:
    """Draws the envelope and returns the limit of its axis."""
    times, low, high = _envelope(waveform)
    axes.fill_between(times, low, high, color=_INK, linewidth=0, zorder=2)
    limit = max(float(high.max()), -float(low.min()), 1e-3) * 1.1
    axes.set(ylim=(-limit, limit), ylabel="waveform", yticks=[])
    return limit


def _draw_segments(analysis: Analysis, limit: float, upper: "Axes", lower: "Axes") -> None:
    """Draws the segments behind the waveform and the values, the boundaries, and their legend."""
    from matplotlib.patches import Patch

    shown: dict[str, Patch] = {}
    for segment in analysis.segments:
        judgement = segment.judgement
        fill = colour(segment.emotion) if judgement else _NOT_JUDGED
        name = judgement.headline if judgement else "not judged"
        style: dict[str, Any] = {"facecolor": fill, "edgecolor": "white", "linewidth": 0.8, "zorder": 1}
        hatch = "///" if judgement and doubtful(segment) else None
        upper.axvspan(segment.start, segment.end, alpha=0.55, hatch=hatch, **style)
        lower.axvspan(segment.start, segment.end, alpha=0.12, **style)
        shown.setdefault(name, Patch(facecolor=fill, alpha=0.6, label=name))
        fitting = [text for text in _texts(segment) if segment.duration > 0.008 * len(text) * analysis.duration]
        if fitting:
            middle = (segment.start + segment.end) / 2
            upper.text(middle, 0.97 * limit, fitting[0], ha="center", va="top", fontsize=8, zorder=3)
    for part in analysis.boundaries or ():
        upper.axvspan(part.start, part.end, ymax=0.06, facecolor=colour(part.label), edgecolor="white", zorder=3)
        shown.setdefault(part.label, Patch(facecolor=colour(part.label), alpha=0.6, label=part.label))
    if any(segment.judgement and doubtful(segment) for segment in analysis.segments):
        shown["unclear or short"] = Patch(facecolor="white", edgecolor=GREY, hatch="///", label="unclear or short")
    if shown:
        upper.legend(handles=list(shown.values()), bbox_to_anchor=(1.0, 1.02), **_LEGEND)


def _texts(segment: JudgedSegment) -> list[str]:
    """Returns what can be written into a segment, longest first."""
    if segment.judgement is None:
        return []
    if segment.judgement.doubtful:
        return [segment.judgement.words, "unclear"]
    name = segment.judgement.headline
    return [name if segment.confidence is None else f"{name} {segment.confidence:.2f}"]


def check(path: str | Path) -> None:
    """Raises the errors that `plot` would raise before it draws. Call it before long work."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: not a picture: use the suffix {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise E2VError('a picture needs matplotlib: pip install "e2v-port[plots]"')


def _draw_values(analysis: Analysis, axes: "Axes") -> None:
    """Draws a step per segment for each value, joined by thin lines."""
    judged = [segment for segment in analysis.segments if segment.judgement]
    measured = any(model.kind == "dimensional" for model in analysis.models)
    measured = measured or any(segment.dimensions_from in MEASURED for segment in judged)
    derived = any(segment.dimensions_from == "labels" for segment in judged)
    names = ({} if measured else {"confidence": _INK}) | (_LINES if measured or derived else {})
    drawn = [0.0, 1.0]
    for name, line in names.items():
        values = [(segment, getattr(segment, name)) for segment in judged if getattr(segment, name) is not None]
        follows = derived and name in _LINES
        style: dict[str, Any] = {"color": line, "linewidth": 2.4, "linestyle": ":" if follows else "-"}
        for segment, value in values:
            axes.hlines(value, segment.start, segment.end, **style)
        middles = [(segment.start + segment.end) / 2 for segment, _ in values]
        axes.plot(middles, [value for _, value in values], color=line, linewidth=0.7, alpha=0.6)
        axes.plot([], [], **style, label=f"{name}, derived from labels" if follows else name)
        drawn += [value for _, value in values]
    axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    axes.set(ylim=(min(drawn) - 0.03, max(drawn) + 0.03), ylabel="0 to 1")
    axes.legend(bbox_to_anchor=(1.0, 1.04), **_LEGEND)


def _envelope(waveform: Waveform) -> tuple[Any, Any, Any]:
    """Returns the time, lowest and highest sample of each column."""
    firsts = np.unique(np.linspace(0, len(waveform), _COLUMNS, endpoint=False, dtype=np.int64))
    low, high = np.minimum.reduceat(waveform, firsts), np.maximum.reduceat(waveform, firsts)
    return firsts / SAMPLING_RATE, low, high


def title(analysis: Analysis) -> str:
    """Returns the title on one line, escaped so that matplotlib reads no formula."""
    name = Path(analysis.file).name
    name = printable(name).replace("$", r"\$")
    models = ", ".join(model.name for model in analysis.models).replace("$", r"\$")
    return f"{name}, {analysis.duration:.1f} s: {models}"

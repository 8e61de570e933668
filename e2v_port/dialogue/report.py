"""The page of the training of a speech language model: curves of both stages, figures, settings."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from e2v_port import pages
from e2v_port.dialogue.replies import LABELS
from e2v_port.training.report import STYLE, chart, confusion

__all__ = ["html"]

_POINTS = 100  # of the curve of stage 2, each the mean of neighboring steps


def html(name: str, report: Mapping[str, Any]) -> str:
    """Returns the report as a page.

    Args:
        name: Name of the model.
        report: As of `train.train`.
    """
    parts = [f"<h1>{escape(name)}</h1>", _facts(report), *_aligned(report["align"]), *_tuned(report)]
    for corpus, figures in report["dev"].items():
        parts += confusion(corpus, figures, LABELS)
    parts += ["<h2>Corpora</h2>", _corpora(report)]
    parts += ["<h2>Recipe</h2>", pages.table([[key, json.dumps(value)] for key, value in report["recipe"].items()])]
    return pages.page(f"{name}: training", parts, style=STYLE)


def _facts(report: Mapping[str, Any]) -> str:
    language, parameters = report["language"], report["parameters"]
    rows = [
        ["language model", f"{_named(language)}; license {language['licence']}"],
        *([kind, _named(about)] for kind, about in report["encoders"].items()),
        ["parameters", f"{parameters['adapter']:,} adapter, {parameters['low_rank']:,} low-rank matrices"],
        ["size", f"{report['bytes'] / 1e6:.1f} MB"],
        *([f"{part} clips", str(number)] for part, number in report["clips"].items()),
        *([f"{corpus}, development UAR", f"{figures['uar']:.3f}"] for corpus, figures in report["dev"].items()),
        *([["loss of the development replies", f"{report['dev_text']:.3f}"]] if report["dev_text"] else []),
        ["time", f"{report['seconds'] / 60:.1f} minutes, {_threads(report['threads'])}, {report['device']}"],
        ["peak memory", _memory(report)],
    ]
    return pages.table(rows)


def _threads(number: int) -> str:
    return f"{number} thread{'s' * (number != 1)}"


def _named(about: Mapping[str, Any] | None) -> str:
    return f"{about['name']} {about['revision']}".strip() if about else "not used"


def _memory(report: Mapping[str, Any]) -> str:
    device = report["device_peak_bytes"]
    return f"{report['peak_bytes'] / 1e9:.1f} GB{f', {device / 1e9:.1f} GB on the GPU' if device else ''}"


def _aligned(curve: Sequence[Mapping[str, Any]]) -> list[str]:
    if not curve:
        return []
    title = "by epoch; the numbers are those of the last one, {best}"
    scores = {corpus: [row["dev"][corpus] for row in curve] for corpus in curve[0]["dev"]}
    losses = {name: [row[name] for row in curve] for name in ("emotion", "align")}
    return [
        "<h2>Stage 1: UAR of the emotion on the development set</h2>",
        chart(scores, len(curve), (0.0, 1.0), title),
        "<h2>Stage 1: losses</h2>",
        chart(losses, len(curve), None, title),
    ]


def _tuned(report: Mapping[str, Any]) -> list[str]:
    curve = report["tune"]
    if not curve:
        return []
    points = np.array_split(np.arange(len(curve)), min(_POINTS, len(curve)))
    losses = {
        name: [float(np.mean([curve[step][name] for step in steps])) for steps in points]
        for name in (("text", "emotion") if report["parameters"]["adapter"] else ("text",))
    }
    title = "by step; the numbers are those of the last one"
    if len(points) < len(curve):
        title = f"means of neighboring ones of {len(curve)} steps; the numbers are those of the last mean"
    return ["<h2>Stage 2: losses</h2>", chart(losses, len(points), None, title)]


def _corpora(report: Mapping[str, Any]) -> str:
    rows = []
    for corpus in report["corpora"]:
        name = corpus["name"]
        speakers = "; ".join(
            f"{part}: {', '.join(speaker.removeprefix(name + '/') for speaker in speakers) or 'none'}"
            for part, speakers in corpus["speakers"].items()
        )
        rows.append([name, f"{corpus['licence'] or 'license unknown'}. Speakers of {speakers}."])
    return pages.table(rows)

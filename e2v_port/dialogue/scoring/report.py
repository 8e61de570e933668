"""An evaluation of replies as tables: for a terminal, as Markdown and as a page."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e2v_port.dialogue.scoring.figures import GROUPS, REFERENCES, Evaluation, Scores
from e2v_port.dialogue.scoring.similarity import said
from e2v_port.evaluation.report import Part, intervals, page
from e2v_port.evaluation.results import Figure
from e2v_port.files import replacing

__all__ = ["sections", "shown", "table", "write"]

_HEARS = {"speech": "speech", "words": "words as text", "label": "words and label as text", "": ""}
_TITLE = "Replies to tones of voice"


def sections(evaluation: Evaluation, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Part]]:
    """Returns lines and tables by heading, each table with its header first.

    Args:
        evaluation: The figures.
        rows: Replies to show, as of `shown`.
    """
    whole = evaluation.models[0].whole
    found: dict[str, list[Part]] = {
        f"{evaluation.part}: {whole.clips} clips by {whole.speakers} speakers": [
            table(evaluation),
            f"{intervals(whole.resampled)}; all models are resampled together",
            _chosen(evaluation),
        ]
    }
    judges = list(whole.tones)
    for judge in judges:
        other, same = evaluation.pairs
        lines: list[Part] = [
            _tones(evaluation, judge),
            f"{other} pairs of the same words in another tone, {same} in the same tone; the first row shows what the "
            "judge makes of the reference replies: no model can be expected to do better",
        ]
        if len(evaluation.models) > 2:
            lines += ["", _differences(evaluation, judge)]
        found[f"Tone of the replies, by the {judge}"] = lines
    for by in GROUPS:
        values = list(evaluation.models[0].groups[by])
        if len(values) > 1:
            tables: list[Part] = ["The other figures of these groups are in evaluation.json."]
            for judge in judges:
                tables += [f"F1 of the tone, by the {judge}", _groups(evaluation, by, judge)]
            found[f"By {by}"] = tables
    if rows:
        found["The same words in different tones"] = [
            f"{rows[0]['words']} Drawn at random, seed {evaluation.seed}.",
            _examples(rows),
        ]
    return found


def _chosen(evaluation: Evaluation) -> str:
    """Returns in words what the replies are."""
    chosen = "the most likely words"
    if evaluation.temperature:
        chosen = f"words drawn at temperature {evaluation.temperature:g}, seed {evaluation.seed}"
    return f"Replies are {chosen}, of language models in {evaluation.dtype}."


def table(evaluation: Evaluation) -> list[list[str]]:
    """Returns a row for each model, the header first."""
    models = evaluation.models
    judge = next(iter(models[0].whole.tones))
    columns: dict[str, Callable[[Scores], Figure | None]] = {
        "F1 of the tone": lambda scores: scores.tones[judge].f1,
        "other tone: differs": lambda scores: scores.tones[judge].differs,
        "BLEU": lambda scores: scores.bleu,
        "ROUGE-L": lambda scores: scores.rouge_l,
        "UAR of the adapter": lambda scores: scores.heard,
        f"WER (chance {evaluation.chance:.2f})": lambda scores: scores.wer,
        "empathy, 1 to 5": lambda scores: scores.empathy,
    }
    kept = {name: of for name, of in columns.items() if any(of(each.whole) for each in models)}
    return [
        ["model", "hears", *kept],
        *(
            [each.name, _HEARS[each.hears], *(_cell(of(each.whole)) for of in kept.values())]
            for each in evaluation.models
        ),
    ]


def _tones(evaluation: Evaluation, judge: str) -> list[list[str]]:
    rows = [["model", "F1", "accuracy", "other tone: differs", "other tone: both right", "same tone: same"]]
    for each in evaluation.models:
        tones = each.whole.tones[judge]
        rows.append([each.name, *map(_cell, (tones.f1, tones.accuracy, tones.differs, tones.both, tones.keeps))])
    return rows


def _differences(evaluation: Evaluation, judge: str) -> list[list[str]]:
    """Returns the F1 of the first model less that of each other one."""
    first = evaluation.models[1].name
    rows = [[f"F1 of {first} less that of", "difference"]]
    for name, figure in evaluation.differences[judge][first].items():
        if name != REFERENCES:
            rows.append([name, f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]"])
    return rows


def _groups(evaluation: Evaluation, by: str, judge: str) -> list[list[str]]:
    first = evaluation.models[0].groups[by]
    rows = [["model", *(f"{value} ({scores.clips} clips)" for value, scores in first.items())]]
    for each in evaluation.models:
        rows.append([each.name, *(_cell(scores.tones[judge].f1) for scores in each.groups[by].values())])
    return rows


def _examples(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    clips = list(dict.fromkeys(row["audio"] for row in rows))
    cells = {(row["audio"], row["model"]): row for row in rows}
    found = [["tone of the voice", "reference", *models]]
    for clip in clips:
        first = cells[clip, models[0]]
        tone = f"{first['emotion']}{', strong' if first['intensity'] == 'strong' else ''} ({first['speaker']})"
        found.append([tone, first["reference"], *(cells[clip, model]["reply"] for model in models)])
    return found


def _cell(figure: Figure | None) -> str:
    return "-" if figure is None else str(figure)


def shown(rows: Sequence[Mapping[str, Any]], number: int, seed: int) -> list[Mapping[str, Any]]:
    """Draws clips of one person who says the same words in different tones; returns their rows of `replies.jsonl`.

    The person and the words are drawn among those with the most tones, then clips, one of each tone before a second.

    Args:
        rows: All rows.
        number: Most clips.
        seed: Seed of the draws.
    """
    draw = np.random.default_rng(seed)
    cells: dict[tuple[str, tuple[str, ...]], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        clips = cells[row["speaker"], said(row["words"])][row["emotion"]]
        if row["audio"] not in clips:
            clips.append(row["audio"])
    most = max((len(tones) for tones in cells.values()), default=0)
    choices = [tones for _, tones in sorted(cells.items()) if len(tones) == most]
    if not choices:
        return []
    tones = choices[draw.integers(len(choices))]
    orders = [draw.permutation(sorted(tones[label])).tolist() for label in sorted(tones)]
    turns = [clip for turn in range(max(map(len, orders))) for order in orders for clip in order[turn : turn + 1]]
    chosen = {clip: place for place, clip in enumerate(turns[:number])}
    return sorted((row for row in rows if row["audio"] in chosen), key=lambda row: chosen[row["audio"]])


def write(evaluation: Evaluation, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Writes `evaluation.json`, `evaluation.md` and `evaluation.html`, each complete or not at all.

    Args:
        evaluation: The figures.
        rows: Replies to show, as of `shown`.
        folder: Folder to write to.
    """
    found = sections(evaluation, rows)
    texts = {
        "evaluation.json": json.dumps(evaluation.to_dict(), ensure_ascii=False, allow_nan=False, indent=1) + "\n",
        "evaluation.md": _markdown(found),
        "evaluation.html": page(_TITLE, found, None),
    }
    for name, text in texts.items():
        with replacing(folder / name) as partial:
            partial.write_text(text, "utf-8", newline="\n")


def _markdown(found: Mapping[str, Sequence[Part]]) -> str:
    lines = [f"# {_TITLE}"]
    for heading, parts in found.items():
        lines += ["", f"## {heading}"]
        for part in parts:
            if isinstance(part, str):
                lines += ["", part] if part else []
                continue
            header, *rows = ([" ".join(cell.replace("|", r"\|").split()) for cell in row] for row in part)
            lines += ["", *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))]
    return "\n".join(lines) + "\n"

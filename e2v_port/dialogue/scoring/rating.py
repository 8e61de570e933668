"""Sheets on which people rate replies without knowing whose they are, and what the filled-in sheets say."""

import csv
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from e2v_port.cells import cell, without_guard
from e2v_port.dialogue.scoring.agreement import alpha
from e2v_port.errors import CorpusError, quoted
from e2v_port.evaluation import metrics
from e2v_port.evaluation.bootstrap import Bootstrap
from e2v_port.evaluation.results import Figure
from e2v_port.files import replacing

__all__ = ["QUESTIONS", "Ratings", "Sheets", "read", "sheets", "write"]

QUESTIONS: Mapping[str, str] = {
    "appropriateness": "Is this a fitting reaction to the way it was said?",
    "empathy": "Does the reply respond to the feeling in the voice?",
    "relevance": "Does the reply respond to what was said?",
    "naturalness": "Could a person have said this?",
}
"""What raters are asked, each from 1 (not at all) to 5 (completely)."""
HIGHEST = 5
_COPY = 8  # rows from which on nobody has the order and the ratings of somebody else by chance
KEY, GUIDE = "key.csv", "instructions.md"


@dataclass(frozen=True)
class Sheets:
    """Sheets for raters.

    Attributes:
        items: What is rated, by its number: the clip, what is said there, and the reply.
        orders: Order of the items for each rater.
        key: Item, model, clip, emotion and reply: a row for each model that gave the reply of an item.
    """

    items: Mapping[str, Mapping[str, str]]
    orders: tuple[tuple[str, ...], ...]
    key: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Ratings:
    """What raters say.

    Attributes:
        raters: Number of raters.
        models: For each model and question the mean of all ratings of its replies, with the interval of a bootstrap
            over remarks, and their number.
        alpha: Krippendorff's alpha of each question, ordinal; NaN if no reply has two different ratings.
    """

    raters: int
    models: Mapping[str, Mapping[str, tuple[Figure, int]]]
    alpha: Mapping[str, float]


def sheets(rows: Sequence[Mapping[str, Any]], raters: int, remarks: int, seed: int) -> Sheets:
    """Draws remarks, and puts the replies of all models to them into a random order for each rater.

    Tones are equally frequent as far as possible. A reply that several models give is rated once, for all of them.

    Args:
        rows: Rows of `replies.jsonl`.
        raters: Number of raters; all rate the same.
        remarks: Number of remarks; all of them if there are fewer.
        seed: Seed of the draws.
    """
    draw = np.random.default_rng(seed)
    clips: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["audio"] not in clips[row["emotion"]]:
            clips[row["emotion"]].append(row["audio"])
    orders = [draw.permutation(sorted(some)).tolist() for _, some in sorted(clips.items())]
    turns = [clip for turn in range(max(map(len, orders))) for order in orders for clip in order[turn : turn + 1]]
    chosen = set(turns[:remarks])
    together: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["audio"] in chosen:
            together[row["audio"], row["reply"]].append(row)
    groups = list(together.values())
    items, key = {}, []
    for number, index in enumerate(draw.permutation(len(groups)), 1):
        first = groups[index][0]
        items[str(number)] = {"audio": first["audio"], "words": first["words"], "reply": first["reply"]}
        key += [
            {"item": str(number), **{name: row[name] for name in ("model", "audio", "emotion", "reply")}}
            for row in groups[index]
        ]
    return Sheets(
        items, tuple(tuple(draw.permutation(sorted(items, key=int)).tolist()) for _ in range(raters)), tuple(key)
    )


def write(made: Sheets, folder: Path) -> list[Path]:
    """Writes a sheet for each rater, instructions for them, and the key, which they must not see.

    Returns:
        The sheets.

    Raises:
        OSError: The folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number, order in enumerate(made.orders, 1):
        files.append(folder / f"rater-{number}.csv")
        empty = dict.fromkeys(QUESTIONS, "")
        _write(files[-1], [{"item": item, **made.items[item], **empty} for item in order])
    _write(folder / KEY, made.key)
    questions = [f"- **{name}**: {question}" for name, question in QUESTIONS.items()]
    lines = [
        "# Rating replies",
        "",
        "Each row of your sheet is a recording of one sentence, and a reply to it. Listen to the recording: how",
        "something is said matters as much as what is said. Then rate the reply from 1 (not at all) to 5 (completely):",
        "",
        *questions,
        "",
        "Rate each reply by itself, without looking for the one it might be compared with. Leave a cell empty if you",
        "cannot say. Do not talk to other raters before all are done.",
    ]
    with replacing(folder / GUIDE) as partial:
        partial.write_text("\n".join(lines) + "\n", "utf-8", newline="\n")
    return files


def _write(file: Path, rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    with replacing(file) as partial:
        partial.write_text(text.getvalue(), "utf-8-sig", newline="")  # spreadsheets need the mark to see UTF-8


def read(files: Sequence[Path], key: Path, seed: int = 0) -> Ratings:
    """Reads filled-in sheets, one per rater.

    Args:
        files: The sheets.
        key: The key that was written with them.
        seed: Seed of the bootstrap.

    Raises:
        CorpusError: A file cannot be read, is not of these sheets, is empty or a copy of another, or has a cell that
            is no rating.
    """
    clips: dict[str, str] = {}
    replies: dict[str, str] = {}
    authors: dict[str, list[str]] = defaultdict(list)
    for _, row in _rows(key, ("item", "model", "audio", "reply")):
        clips[row["item"]] = row["audio"]
        replies[row["item"]] = _plain(row["reply"])
        authors[row["item"]].append(row["model"])
    found: dict[str, dict[str, list[int]]] = {question: defaultdict(list) for question in QUESTIONS}
    if len({file.resolve() for file in files}) < len(files):
        raise CorpusError("a sheet is named twice: pass each rater's sheet once")
    sheets: dict[tuple[tuple[str, ...], ...], Path] = {}
    for file in files:
        done: set[str] = set()
        table = _rows(file, ("item", "reply", *QUESTIONS))
        other = sheets.setdefault(tuple(tuple(row.values()) for _, row in table), file)
        if other is not file and len(table) > _COPY:
            raise CorpusError(f"{file}: is a copy of {other}: pass each rater's sheet once")
        empty = True
        for number, row in table:
            item = row["item"].strip()
            # Items of every key are numbered from 1: the reply shows whether this is the same one.
            if item in done or _plain(row["reply"]) != replies.get(item):
                reason = "is there twice" if item in done else f"with this reply is not in {key}"
                raise CorpusError(f"{file}:{number}: item {quoted(item)} {reason}: use the sheets of one key")
            done.add(item)
            for question in QUESTIONS:
                if (value := row[question].strip()) == "":
                    continue
                if value not in {str(rating) for rating in range(1, HIGHEST + 1)}:
                    raise CorpusError(
                        f"{file}:{number}: {question} is {quoted(value)}: use 1 to {HIGHEST}, or leave it empty"
                    )
                found[question][item].append(int(value))
                empty = False
        if empty:
            raise CorpusError(f"{file}: has no ratings: fill it in first, or leave it out")
    names = sorted({name for some in authors.values() for name in some})
    models: dict[str, dict[str, tuple[Figure, int]]] = {name: {} for name in names}
    for question, by_item in found.items():
        for name in names:
            rated = {item: ratings for item, ratings in by_item.items() if name in authors[item]}
            if rated:
                models[name][question] = _mean(rated, clips, seed)
    return Ratings(
        len(files), models, {question: alpha(by_item.values(), HIGHEST) for question, by_item in found.items()}
    )


def _plain(reply: str) -> str:
    """Returns a reply without what spreadsheets may change: spaces and ends of lines."""
    return " ".join(reply.split())


def _mean(rated: Mapping[str, Sequence[int]], clips: Mapping[str, str], seed: int) -> tuple[Figure, int]:
    each = np.array([(len(ratings), sum(ratings)) for ratings in rated.values()], float)
    bootstrap = Bootstrap([clips[item] for item in rated], seed)
    return bootstrap.figure(metrics.share, each.sum(0), bootstrap.draws(each)), int(each[:, 0].sum())


def _rows(file: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Returns the rows of a table with their line numbers, whether commas or, as some spreadsheets do, semicolons."""
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file}: cannot be read ({error}): save it as CSV in UTF-8") from error
    header = text.partition("\n")[0]
    table = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if header.count(";") > header.count(",") else ","
    )
    if missing := [name for name in columns if name not in (table.fieldnames or ())]:
        raise CorpusError(f"{file}: no column {missing[0]}: use a sheet of e2v dialogue rate")
    return [
        (table.line_num, {name: without_guard(value or "") for name, value in row.items() if name in columns})
        for row in table
    ]

"""What models answer, in replies.jsonl: a row for each model and clip."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2v_port.errors import CorpusError
from e2v_port.files import lines, replacing

if TYPE_CHECKING:  # imports torch
    from e2v_port.dialogue.examples import Example

__all__ = ["Run", "read", "rows", "write"]


@dataclass(frozen=True)
class Run:
    """What a model answers to each remark of a set.

    Attributes:
        name: Name of the model in tables.
        hears: What it is given: `speech`, `words` or `label`.
        key: Hash of everything that the answers depend on.
        replies: The answers.
        tones: Emotion that the adapter itself hears in each; None for a model without an adapter.
        nearest: For each, the one among all remarks whose words are nearest to what the adapter hears; None without
            one.
    """

    name: str
    hears: str
    key: str
    replies: tuple[str, ...]
    tones: tuple[str, ...] | None = None
    nearest: tuple[str, ...] | None = None


def write(runs: Sequence[Run], examples: "Sequence[Example]", file: Path) -> None:
    """Writes a row for each model and clip: what was said, how, what the model answers and what it hears.

    Args:
        runs: The answers.
        examples: The set.
        file: The file, `replies.jsonl`.
    """
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as opened:
        for run in runs:
            for index, example in enumerate(examples):
                row = {
                    "model": run.name,
                    "hears": run.hears,
                    "audio": str(example.audio),
                    "words": example.words,
                    "emotion": example.emotion,
                    "intensity": example.intensity,
                    "corpus": example.corpus,
                    "speaker": example.speaker,
                    "reference": example.reply,
                    "reply": run.replies[index],
                    "heard": run.tones and run.tones[index],
                    "nearest": run.nearest and run.nearest[index],
                    "key": run.key,
                }
                opened.write(json.dumps(row, ensure_ascii=False) + "\n")


def rows(file: Path) -> list[dict[str, Any]]:
    """Returns the rows of `write`.

    Raises:
        CorpusError: The file is missing or damaged.
    """
    try:
        found = [json.loads(line) for line in lines(file.read_text("utf-8"))]
        for row in found:
            if not {"model", "audio", "words", "emotion", "reply", "key"} <= row.keys():
                raise ValueError("a row lacks a field")
    except FileNotFoundError as error:
        raise CorpusError(f"{file}: not there: make it with e2v dialogue evaluate") from error
    except (OSError, ValueError, AttributeError) as error:
        raise CorpusError(f"{file}: damaged ({error}): remove it and evaluate again") from error
    return found


def read(file: Path) -> dict[str, Run]:
    """Returns the finished runs of a file by their keys; none if it is not there.

    Raises:
        CorpusError: The file is damaged.
    """
    by_key: dict[str, list[dict[str, Any]]] = {}
    for row in rows(file) if file.is_file() else []:
        by_key.setdefault(row["key"], []).append(row)
    runs = {}
    for name, some in by_key.items():
        first = some[0]
        heard_, nearest = (
            tuple(row[field] for row in some) if first[field] is not None else None for field in ("heard", "nearest")
        )
        runs[name] = Run(first["model"], first["hears"], name, tuple(row["reply"] for row in some), heard_, nearest)
    return runs

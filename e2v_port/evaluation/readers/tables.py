"""Tables and JSON Lines as corpora come with them."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from e2v_port.errors import CorpusError

__all__ = ["json_lines", "json_object", "rows", "text_of"]


def rows(table: Path, delimiter: str, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the number of the last line of each row, and its cells by column, stripped of blanks."""
    text = text_of(table)
    # In a tab-separated transcript a quotation mark is an ordinary character.
    quoting: Literal[0, 3] = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if lacking := [column for column in columns if column not in header]:
            raise CorpusError(f"{table}, line 1: the header lacks {', '.join(lacking)}; it has {', '.join(header)}")
        for cells in reader:
            if not any(cells):
                continue
            if len(cells) != len(header):
                raise CorpusError(
                    f"{table}, line {reader.line_num}: {len(cells)} cells, but {len(header)} columns: quote cells that "
                    f"contain a comma"
                )
            yield reader.line_num, dict(zip(header, (cell.strip() for cell in cells), strict=True))
    except csv.Error as error:
        raise CorpusError(f"{table}, line {reader.line_num}: {error}: save it as a plain table") from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yields the number and the object of each line that is not blank; None for a line that is no JSON object.

    Raises:
        CorpusError: The file cannot be read.
    """
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            yield number, _object(line)


def json_object(path: Path) -> dict[str, Any] | None:
    """Returns the object in a JSON file; None if the file holds none.

    Raises:
        CorpusError: The file cannot be read.
    """
    return _object(text_of(path))


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def text_of(path: Path) -> str:
    """Returns the content of a text file in UTF-8.

    Raises:
        CorpusError: The file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read ({error.strerror or error}): pass a readable file") from error
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path}: not UTF-8: save it as UTF-8") from error

"""What commands tell, where they may write, and how they end: errors, progress, tables, exit codes."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

__all__ = [
    "BAD_INPUT",
    "PARTIAL_FAILURE",
    "complain",
    "fail",
    "finish",
    "need_folder",
    "need_place",
    "print_table",
    "progress_bar",
]

BAD_INPUT = 2  # nothing could be done
PARTIAL_FAILURE = 1  # some files failed, the others' results are written


def fail(message: str) -> NoReturn:
    """Ends the program over bad input: prints one line, and exits with 2."""
    complain(message)
    sys.exit(BAD_INPUT)


def complain(message: str) -> None:
    """Prints one line, whatever stands in the message."""
    line = " ".join(part.strip() for part in message.splitlines())
    print("error:", "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line), file=sys.stderr)


@contextmanager
def progress_bar(total: int, what: str = "analysing") -> Iterator[Any]:
    """Gives a function to call after each step: it moves a bar on a terminal, and does nothing elsewhere."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    # Results may go into a file while the bar is on the terminal: they must not be caught with it.
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True, soft_wrap=True)  # a result stays one line, to be copied as one
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def finish(total: int, failed: int) -> None:
    """Ends a command that goes on after errors: exits with 2 where nothing could be done, with 1 where a part."""
    if failed:
        raise typer.Exit(BAD_INPUT if failed == total else PARTIAL_FAILURE)


def need_place(option: str, file: Path) -> None:
    """Ends the program where a file cannot be written."""
    if not _writable(file.parent):
        fail(f"{option} {file}: {file.parent} is not a folder that can be written to")


def need_folder(option: str, folder: Path) -> None:
    """Ends the program where files cannot be written to a folder, or where none can be made."""
    if not _writable(folder if folder.exists() else folder.parent):
        fail(f"{option} {folder}: not a folder that can be written to")


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def print_table(rows: Iterable[list[str]]) -> None:
    """Prints aligned columns: the same on a terminal, in a pipe and in a bug report."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

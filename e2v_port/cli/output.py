"""Errors, progress bars, tables and exit codes of the commands, and checks of output paths."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

from e2v_port.cli.messages import one_line

__all__ = [
    "BAD_INPUT",
    "PARTIAL_FAILURE",
    "complain",
    "fail",
    "finish",
    "model_or_bundled",
    "need_folder",
    "need_place",
    "print_table",
    "progress_bar",
]

BAD_INPUT = 2  # nothing could be done
PARTIAL_FAILURE = 1  # some files failed; the results of the others are written


def fail(message: str) -> NoReturn:
    """Prints an error on one line and exits with code 2."""
    complain(message)
    sys.exit(BAD_INPUT)


def complain(message: str) -> None:
    """Prints an error on one line of stderr, whatever characters are in the message."""
    print("error:", one_line(message), file=sys.stderr)


@contextmanager
def progress_bar(total: int, title: str = "analyzing") -> Iterator[Any]:
    """Yields a function to call after each step. It advances a bar on a terminal and does nothing elsewhere."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    # Results written to a file must bypass the bar, which is on the terminal.
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True, soft_wrap=True)  # keeps a result on one line, so that it can be copied
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(title, total=total)
        yield lambda: progress.advance(task)


def finish(total: int, failed: int) -> None:
    """Exits with code 2 if every item failed and with 1 if some did; returns if none did."""
    if failed:
        raise typer.Exit(BAD_INPUT if failed == total else PARTIAL_FAILURE)


def model_or_bundled(model: str | None) -> str:
    """Returns the model that was named, or `bundled`, and says so: the user did not ask for it."""
    if model is None:
        print("no --model given: using bundled (see `e2v models`)", file=sys.stderr)
    return model or "bundled"


def need_place(option: str, file: Path) -> None:
    """Exits with an error if the folder of a file cannot be written to."""
    if not _writable(file.parent):
        fail(f"{option} {file}: {file.parent} is not a writable folder")


def need_folder(option: str, folder: Path) -> None:
    """Exits with an error if a folder cannot be written to, or cannot be created."""
    if not _writable(folder if folder.exists() else folder.parent):
        fail(f"{option} {folder}: not a writable folder")


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def print_table(rows: Iterable[list[str]]) -> None:
    """Prints aligned columns that look the same on a terminal, in a pipe and in a bug report."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

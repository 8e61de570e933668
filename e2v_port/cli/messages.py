"""Shows what the library reports: records of its loggers and Python warnings, as plain lines on stderr."""

import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

__all__ = ["one_line", "showing_messages"]

LIBRARY = "e2v_port"


@contextmanager
def showing_messages() -> Iterator[None]:
    """Prints INFO and higher records of the library's loggers, and warnings, until the context ends."""
    logger = logging.getLogger(LIBRARY)
    handler = _PlainLines()
    level, show = logger.level, warnings.showwarning
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    try:
        yield
    finally:
        warnings.showwarning = show
        logger.setLevel(level)
        logger.removeHandler(handler)


def one_line(message: str) -> str:
    """Returns a message as one printable line, whatever characters are in it."""
    line = " ".join(part.strip() for part in message.splitlines())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


class _PlainLines(logging.Handler):
    """Writes to the stderr of the moment: a progress bar replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(one_line(record.getMessage()), file=sys.stderr, flush=True)
            if record.exc_info:  # an internal error: only its traceback helps
                traceback.print_exception(record.exc_info[1], file=sys.stderr)
        except Exception:  # as in logging's own handlers: a bad record must not end the program
            self.handleError(record)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print("warning:", one_line(str(message)), file=file or sys.stderr, flush=True)

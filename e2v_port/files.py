"""Files and folders that appear whole or not at all, how a reader notices it, and what messages call them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["identity", "printable", "replacing"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path of the same name to write to; what is written there takes the place of `path` at the end.

    Args:
        path: The file. One that is already there stays as it was if an exception leaves the block.

    Raises:
        OSError: The folder does not exist, or cannot be written to.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.partial-") as folder:
        partial = Path(folder) / path.name
        yield partial
        os.replace(partial, path)


def identity(path: Path) -> tuple[int, int, int] | None:
    """Returns what changes when another file or folder takes the name; None where there is nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns  # the number of a deleted file is given to another


def printable(name: str) -> str:
    """Returns a name that keeps its message on one line: quoted and escaped where it must be."""
    return name if name.isprintable() else ascii(name)

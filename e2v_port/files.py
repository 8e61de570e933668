"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


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

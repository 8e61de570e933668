"""Writes an npz one array at a time: it needs not fit into memory, and appears whole or not at all."""

import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["writing"]


@contextmanager
def writing(path: Path) -> Iterator[Callable[[str, NDArray[Any]], None]]:
    """Gives a function that adds an array under a name; `numpy.load` reads the file.

    Args:
        path: The npz. One that is already there is replaced when all arrays are written, and stays if an exception
            leaves the block.

    Raises:
        OSError: The folder does not exist or the disk is full.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.partial-")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as members:

            def add(name: str, array: NDArray[Any]) -> None:
                with members.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

            yield add
        os.chmod(partial, 0o644)  # mkstemp's is for its owner alone
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise

"""Writes an npz one array at a time: it need not fit into memory, and is complete or absent at every moment."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.files import replacing

__all__ = ["writing"]


@contextmanager
def writing(path: Path) -> Iterator[Callable[[str, NDArray[Any]], None]]:
    """Provides a function that adds an array under a name; `numpy.load` reads the file.

    Names in a zip are Unicode: bytes of a file name that are not UTF-8 are escaped as in JSON.

    Args:
        path: File to write. An existing one is replaced once all arrays are written, and kept if the block raises.

    Raises:
        OSError: The folder does not exist or the disk is full.
    """
    with replacing(path) as partial, zipfile.ZipFile(partial, "w") as members:

        def add(name: str, array: NDArray[Any]) -> None:
            unicode = name.encode("utf-8", "backslashreplace").decode("utf-8")
            with members.open(f"{unicode}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)

        yield add

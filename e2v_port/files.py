"""Replaces files atomically, notices replaced ones, prints their names, and finds the folders of the package."""

import atexit
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

__all__ = ["identity", "lines", "naming", "packaged", "printable", "replacing", "sync"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path with the same name; the file written there replaces `path` at the end.

    The new file has the mode, and where the system permits the owner, of the one it replaces; without one, the usual
    mode. A link is followed: its target is replaced. A device or a pipe is written to. Once this returns, the file
    survives a power cut.

    Args:
        path: File to replace. An existing file is untouched if the block raises.

    Raises:
        OSError: The folder does not exist, or cannot be written to, or the disk is full; the error names `path`.
    """
    with naming(path):
        target = Path(os.path.realpath(path))
        try:
            before = target.stat()
        except FileNotFoundError:
            before = None
        stream = before is not None and not (stat.S_ISREG(before.st_mode) or stat.S_ISDIR(before.st_mode))
        place = None if stream else target.parent
        with tempfile.TemporaryDirectory(dir=place, prefix=f".{target.name}.partial-") as folder:
            partial = Path(folder) / target.name
            yield partial
            if stream:
                with partial.open("rb") as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
                return
            sync(partial)
            if before is not None:
                with suppress(OSError):  # only root may give a file away
                    os.chown(partial, before.st_uid, before.st_gid)
                partial.chmod(before.st_mode & 0o777)
            os.replace(partial, target)
        sync(target.parent)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names a file or folder in the OSErrors of a block that writes it, which come without a name or with a temporary.

    Args:
        path: The file or folder, as the user knows it.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # numpy's
            raise OSError(errno.EIO, str(error), os.fspath(path)) from error
        if error.filename is None or ".partial-" in os.fsdecode(error.filename):
            del error.filename2  # of a rename
            error.filename = os.fspath(path)
        raise


def sync(path: Path) -> None:
    """Writes a file, or the names in a folder where the file system offers that, to the disk."""
    folder = path.is_dir()
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError:
        if not folder:
            raise


def identity(path: Path) -> tuple[int, int, int] | None:
    """Returns a value that changes when another file or folder takes the path; None if nothing is there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns  # the inode number of a deleted file is reused


def lines(text: str) -> list[str]:
    """Returns the lines of a text, which only a line feed ends.

    `str.splitlines` also splits at characters such as U+2028, which JSON leaves as they are inside a line.
    """
    return text.removesuffix("\n").split("\n") if text else []


def printable(name: str) -> str:
    """Returns a name for one line of text: quoted and escaped if it is not printable."""
    return name if name.isprintable() else ascii(name)


@cache
def packaged(package: str, *inside: str) -> Path:
    """Returns a folder of data in the package. From a package inside a zip it is unpacked until this process ends.

    Args:
        package: Name of the package that holds it.
        inside: Names from there to the folder.
    """
    place = files(package).joinpath(*inside)
    if isinstance(place, Path):
        return place
    folder = Path(tempfile.mkdtemp(prefix="e2v-port-"))
    owner = os.getpid()  # not one that it forks
    atexit.register(lambda: shutil.rmtree(folder, ignore_errors=True) if os.getpid() == owner else None)
    _unpack(place, folder)
    return folder


def _unpack(place: Traversable, folder: Path) -> None:
    for entry in place.iterdir():
        if entry.is_dir():
            (folder / entry.name).mkdir()
            _unpack(entry, folder / entry.name)
        else:
            (folder / entry.name).write_bytes(entry.read_bytes())

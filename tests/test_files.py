"""Files are replaced completely or not at all, and keep what belongs to their owner."""

import errno
import os
import re
import resource
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from e2v_port import npz
from e2v_port.files import replacing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links of POSIX")


def write(path: Path, text: str = "new") -> None:
    with replacing(path) as partial:
        partial.write_text(text)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("before", [0o600, 0o640, 0o444, 0o660, 0o200])
def test_a_file_keeps_its_mode(tmp_path: Path, before: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(before)
    write(path)
    assert mode(path) == before
    assert path.stat().st_size == 3
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 65534, 65533)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65533)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_usual_mode(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file")
        assert mode(tmp_path / "file") == 0o666 & ~umask
    finally:
        os.umask(before)


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced(tmp_path: Path, exists: bool) -> None:
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    if exists:
        target.write_text("old")
    (tmp_path / "between").symlink_to("elsewhere/target")
    link.symlink_to("between")
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


def test_a_device_and_a_pipe_are_written_to(tmp_path: Path) -> None:
    null = os.stat(os.devnull)
    write(Path(os.devnull))
    assert os.stat(os.devnull).st_ino == null.st_ino
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    thread = threading.Thread(target=lambda: read.append(pipe.read_text()))
    thread.start()
    write(pipe)
    thread.join()
    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Limits the size of files, so that writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    numbers = np.zeros(100_000)
    with limited(4096):
        with pytest.raises(OSError, match=re.escape(str(path))) as caught:
            write(path, "x" * 100_000)
        assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(path))
        assert str(caught.value) == f"[Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{path}'"
        with pytest.raises(OSError, match=re.escape(str(path))), replacing(path) as partial:
            np.save(partial, numbers)  # its error has neither a name nor a number
        with pytest.raises(OSError, match=re.escape(str(path))), npz.writing(path) as add:
            add("numbers", numbers)
    if Path("/dev/full").exists():
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            write(Path("/dev/full"))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "nowhere" / "file"))):
        write(tmp_path / "nowhere" / "file")
    assert list(tmp_path.iterdir()) == []
    path.mkdir()
    with pytest.raises(OSError, match=rf"directory: '{re.escape(str(path))}'$"):  # not the name of a temporary file
        write(path)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_file_and_its_folder_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it takes the name, the folder after it."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def synced(opened: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{opened}"))
        fsync(opened)

    def replaced(old: Path, new: Path) -> None:
        done.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write(tmp_path / "file")
    assert [Path(name).name for name in done] == ["file", "rename", tmp_path.name]

"""Where clips come from: a folder, a glob, a list, a table or tar shards, here or at any address that fsspec opens.

What is found is kept as a table, about 150 bytes a clip, so that a list of millions fits into memory.
"""

import json
import math
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from e2v_port.errors import CorpusError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Clip", "find"]

# What people keep speech in. The second row cannot be decoded here: such a clip becomes a row that says so.
_AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
_AUDIO |= {".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp"}
_LISTS = {".txt", ".lst", ".list"}
_TABLES = {".csv", ".parquet"}
_KINDS = (
    "a folder, a glob, a list of files (.txt), a table with a column file (.csv, .parquet), tar shards (.tar), or an "
    "audio file; here or at any address that fsspec opens"
)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # shards-{000..099}.tar, as WebDataset writes it

# What tells in an fsspec listing that a file has changed, the surest first.
_STAMPS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "modified")

_ABOUT = 1 << 20  # bytes of a .json in a tar: what is said of a clip is shorter
_CHUNK = 1 << 16  # clips that are held as Python objects


class Clip(NamedTuple):
    """A clip of a corpus: a file, a part of one, or a member of a tar.

    Attributes:
        file: What it is called in the rows: as in the list or table, or as it lies below the folder; a member of a tar
            by the tar's name and its own.
        address: What is opened: a path or an fsspec address.
        offset: Bytes from the start of the tar; None outside one.
        size: Bytes; of a tar, those of the member; None where that is not known without asking for each file.
        start: Seconds into the file; None for its beginning.
        end: Seconds into the file; None for its end.
        speaker: Who speaks, if the source says so.
        reference: The label that somebody gave it, likewise.
        stamp: Changes when the file does; empty where that is not known.
        broken: Why it need not even be opened; None for all others.
    """

    file: str
    address: str
    offset: int | None = None
    size: int | None = None
    start: float | None = None
    end: float | None = None
    speaker: str | None = None
    reference: str | None = None
    stamp: str = ""
    broken: str | None = None


def find(source: str, said: Callable[[str], None] = lambda line: None) -> "pa.Table":
    """Lists the clips of a source, always in the same order.

    * A folder: every audio file in it, however deep, by name; every .tar among them is opened.
    * A glob, `*`, `**`, `?`, `[...]` and `{000..099}`: likewise.
    * A list: a .txt with a path or address per line, relative to the list; empty lines and those after `#` are none.
    * A table: .csv or .parquet with a column `file` (or `file_name`), relative to the table, and if wanted `start` and
      `end` in seconds, `speaker`, and `label`, the one that somebody gave. A row is a clip.
    * Tar shards in the layout of WebDataset: files of one name up to the first dot belong together. Audio is a clip;
      `speaker` and `label` are taken from a .json beside it.

    Files on this machine, and whatever a listing tells about, are told apart by size and time of change (or an ETag);
    remote files in a list or table by their address alone, since asking for each takes longer than reading it.

    Args:
        source: A path, a glob or an address.
        said: Is told, in one line, what was left out.

    Returns:
        A table with the columns of `Clip`, a row for each.

    Raises:
        CorpusError: There is nothing of that kind, a table lacks its columns, or a row of it makes no sense.
    """
    clips = _Table()
    try:
        for clip in _listed(source, said):
            clips.add(clip)
    except (OSError, ValueError, ImportError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CorpusError(f"{source}: cannot be read ({why}): name {_KINDS}") from error
    found = clips.finish()
    if not len(found):
        raise CorpusError(f"{source}: no audio there: name {_KINDS}")
    return found


class _Table:
    """Rows on their way into Arrow."""

    def __init__(self) -> None:
        import pyarrow as pa

        text, number, seconds = pa.string(), pa.int64(), pa.float64()
        kinds = (text, text, number, number, seconds, seconds, text, text, text, text)
        self._schema = pa.schema(list(zip(Clip._fields, kinds, strict=True)))
        self._batches: list[pa.RecordBatch] = []
        self._rows: list[Clip] = []

    def add(self, clip: Clip) -> None:
        try:
            f"{clip.file}{clip.address}".encode()
        except UnicodeEncodeError:
            file = clip.file.encode("utf-8", "backslashreplace").decode()
            clip = clip._replace(file=file, address="", broken="its name is not UTF-8: rename it")
        self._rows.append(clip)
        if len(self._rows) == _CHUNK:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = [list(column) for column in zip(*self._rows, strict=True)] or [[] for _ in Clip._fields]
        self._batches.append(pa.record_batch(columns, schema=self._schema))
        self._rows = []

    def finish(self) -> "pa.Table":
        import pyarrow as pa

        self._flush()
        return pa.Table.from_batches(self._batches, self._schema)


def _listed(source: str, said: Callable[[str], None]) -> Iterator[Clip]:
    from fsspec.core import url_to_fs

    suffix = PurePosixPath(source).suffix.lower()
    system, path = url_to_fs(source)
    local = "file" in _protocols(system)
    if not _BRACES.search(path) and system.isdir(path):
        yield from _folder(system, path, path, said)
    elif _BRACES.search(path) or (any(mark in path for mark in "*?[") and not system.exists(path)):
        fixed = re.split(r"[*?\[{]", path, maxsplit=1)[0].rpartition("/")[0]
        yield from _globbed(system, path, fixed, said)
    elif not system.exists(path):
        raise FileNotFoundError(2, "there is no such file")
    elif suffix in _LISTS:
        with system.open(path, "r", encoding="utf-8-sig") as lines:
            names = (line.strip() for line in lines)
            rows = ({"file": name} for name in names if name and not name.startswith("#"))
            yield from _rows(rows, system, path, local)
    elif suffix in _TABLES:
        yield from _rows(_table_rows(source, system, path, suffix), system, path, local)
    elif suffix == ".tar" or suffix in _AUDIO:
        yield from _files(system, {path: system.info(path)}, path.rpartition("/")[0], said)
    else:
        raise ValueError(f"a file ending in {suffix!r} is no source")


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _folder(system: Any, path: str, root: str, said: Callable[[str], None]) -> Iterator[Clip]:
    yield from _files(system, system.find(path, detail=True), root, said)


def _globbed(system: Any, pattern: str, root: str, said: Callable[[str], None]) -> Iterator[Clip]:
    found: dict[str, Any] = {}
    for one in _expanded(pattern):
        matches = system.glob(one, detail=True) if any(mark in one for mark in "*?[") else {one: system.info(one)}
        found |= {path: info for path, info in matches.items() if info["type"] != "directory"}
    yield from _files(system, found, root, said)


def _expanded(pattern: str) -> Iterator[str]:
    if not (match := _BRACES.search(pattern)):
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: match.start()]}{number:0{len(first)}}{pattern[match.end() :]}")


def _files(system: Any, found: Mapping[str, Any], root: str, said: Callable[[str], None]) -> Iterator[Clip]:
    local = "file" in _protocols(system)
    others = 0
    for path in sorted(found):
        suffix = PurePosixPath(path).suffix.lower()
        name = path[len(root) :].lstrip("/")
        if any(part.startswith(".") for part in name.split("/")) or suffix not in _AUDIO | {".tar"}:
            others += 1
            continue
        address = path if local else system.unstrip_protocol(path)
        info = found[path]
        stamp = _stamp(info)
        if suffix == ".tar":
            yield from _members(system, path, Clip(name, address, stamp=stamp))
        else:
            yield Clip(name, address, size=info.get("size"), stamp=stamp)
    if others:
        said(f"{others} file{'' if others == 1 else 's'} of other kinds left out")


def _stamp(info: Mapping[str, Any]) -> str:
    told = next((f" {info[key]}" for key in _STAMPS if info.get(key)), "")
    return f"{info.get('size')}{told}"


def _members(system: Any, path: str, tar: Clip) -> Iterator[Clip]:
    """Gives the clips of a tar; what is damaged of it is one that says so."""
    held: list[Clip] = []
    about: dict[str, Any] = {}
    key = ""
    with system.open(path, "rb") as file:
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        broken = None
        try:
            with tarfile.open(fileobj=file, mode="r:") as opened:
                while member := opened.next():
                    opened.members = []  # type: ignore[attr-defined]  # it would keep all of them
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    own = f"{folder}/{base.partition('.')[0]}"
                    if own != key:
                        yield from (clip._replace(**about) for clip in held)
                        key, held, about = own, [], {}
                    suffix = PurePosixPath(base).suffix.lower()
                    if suffix in _AUDIO:
                        cut = member.offset_data + member.size > length
                        held.append(
                            tar._replace(
                                file=f"{tar.file}/{member.name}",
                                offset=member.offset_data,
                                size=member.size,
                                broken="the tar ends within it: get a complete copy" if cut else None,
                            )
                        )
                    elif suffix == ".json" and member.size <= _ABOUT:
                        after = file.tell()
                        file.seek(member.offset_data)
                        about = _about(file.read(member.size))
                        file.seek(after)
        except tarfile.TarError as error:
            broken = f"no tar, or damaged beyond this point ({error}): get a complete copy, unpacked if it is a .gz"
        yield from (clip._replace(**about) for clip in held)
        if broken:
            yield tar._replace(broken=broken)


def _about(data: bytes) -> dict[str, str]:
    try:
        told = json.loads(data)
    except ValueError:
        return {}
    if not isinstance(told, dict):
        return {}
    names = {"speaker": "speaker", "label": "reference"}
    return {ours: str(told[name]) for name, ours in names.items() if isinstance(told.get(name), str | int)}


def _table_rows(source: str, system: Any, path: str, suffix: str) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import csv, parquet

    kinds = {"file": pa.string(), "file_name": pa.string(), "start": pa.float64(), "end": pa.float64()}
    kinds |= {"speaker": pa.string(), "label": pa.string()}
    with system.open(path, "rb") as file:
        if suffix == ".csv":
            options = csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
            table = csv.read_csv(file, convert_options=options)
        else:
            opened = parquet.ParquetFile(file)
            table = opened.read([name for name in opened.schema_arrow.names if name in kinds])
    name = next((name for name in ("file", "file_name") if name in table.column_names), None)
    if name is None:
        raise ValueError(f"it has the columns {', '.join(table.column_names)}, but no file")
    known = [column for column in table.column_names if column in kinds]
    table = table.select(known).cast(pa.schema([(column, kinds[column]) for column in known]))
    number = 0
    for batch in table.to_batches(_CHUNK):
        for row in batch.to_pylist():
            number += 1
            row["file"] = row[name]
            where = f"{source}, row {number}"
            if not row["file"]:
                raise CorpusError(f"{where}: it names no file: fill the column, or leave the row out")
            start, end = row.get("start"), row.get("end")
            times = [time for time in (start or 0.0, end) if time is not None]
            if not all(math.isfinite(time) and time >= 0 for time in times) or (end is not None and end <= times[0]):
                raise CorpusError(f"{where}: from {start} to {end} is no part of a file: give seconds, the end later")
            yield row


def _rows(rows: Iterator[dict[str, Any]], system: Any, path: str, local: bool) -> Iterator[Clip]:
    """Gives the clips of a list or table, whose paths are relative to it."""
    folder = path.rpartition("/")[0]
    last, known = "", Clip("", "")
    for row in rows:
        name = row["file"]
        if name != last:
            address, own = name, local
            if "://" in name:
                own = name.startswith("file://")
                address = name.removeprefix("file://")
            elif not (local and os.path.isabs(name)):
                address = os.path.join(folder, name) if local else system.unstrip_protocol(f"{folder}/{name}")
            last, known = name, _known(name, address) if own else Clip(name, address)
        yield known._replace(
            start=row.get("start"), end=row.get("end"), speaker=row.get("speaker"), reference=row.get("label")
        )


def _known(name: str, address: str) -> Clip:
    try:
        found = os.stat(address)
    except (OSError, ValueError):
        return Clip(name, address, stamp="missing")  # which is told when it is opened
    return Clip(name, address, size=found.st_size, stamp=f"{found.st_size} {found.st_mtime}")

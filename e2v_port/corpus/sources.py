"""Lists the clips of a folder, a glob, a list, a table or tar shards, local or at any address that fsspec opens.

The list is an Arrow table of about 150 bytes per clip, so that millions of clips fit into memory.
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

# Common formats of speech. Those of the second row need PyAV; a clip that cannot be decoded becomes an error.
_AUDIO = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
_AUDIO |= {".m4a", ".m4b", ".mp4", ".aac", ".webm", ".mka", ".wma", ".amr", ".3gp"}
_LISTS = {".txt", ".lst", ".list"}
_TABLES = {".csv", ".parquet"}
_KINDS = (
    "a folder, a glob, a list of files (.txt), a table with a column file (.csv, .parquet), tar shards (.tar), or an "
    "audio file; local or at any address that fsspec opens"
)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")  # shards-{000..099}.tar, as WebDataset writes it

# Fields of an fsspec listing that change with the file, the most reliable first.
_STAMPS = ("ETag", "etag", "md5Hash", "checksum", "mtime", "LastModified", "last_modified", "modified")

_ABOUT = 1 << 20  # bytes of the longest .json in a tar that is read as the metadata of a clip
_CHUNK = 1 << 16  # clips held as Python objects


class Clip(NamedTuple):
    """A clip of a corpus: a file, a part of one, or a member of a tar.

    Attributes:
        file: Name in the rows: as in the list or table, or relative to the folder; for a member of a tar, the name of
            the tar followed by its own.
        address: Path or fsspec address to open.
        offset: Offset in the tar, in bytes; None outside a tar.
        size: Size in bytes of the file or the member of a tar; None if unknown without a request per file.
        start: Start in the file, in seconds; None for its beginning.
        end: End in the file, in seconds; None for its end.
        speaker: Speaker, if the source has one.
        reference: Reference label, if the source has one.
        stamp: Text that changes when the file does; empty if unknown.
        broken: Reason why the clip cannot be opened; None otherwise.
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


def find(source: str, note: Callable[[str], None] = lambda line: None) -> "pa.Table":
    """Lists the clips of a source, always in the same order.

    * A folder: all audio files in it and its subfolders, sorted by name; .tar files among them are opened.
    * A glob with `*`, `**`, `?`, `[...]` or `{000..099}`: all matching audio files and .tar files.
    * A list: a .txt with a path or address per line, relative to the list; empty lines and lines with `#` are skipped.
    * A table: a .csv or .parquet with a row per clip. The column `file` (or `file_name`) is relative to the table;
      `start` and `end` in seconds, `speaker`, and the reference `label` are optional.
    * Tar shards in the layout of WebDataset: files that share a name up to the first dot belong together. Each audio
      file is a clip; its `speaker` and `label` are read from the .json with that name.

    A change of a local or listed file is detected by its size and its time of change (or ETag); remote files in a list
    or table are identified by their address only, since a request per file would take longer than reading it.

    Args:
        source: Path, glob or address.
        note: Receives a line about files left out.

    Returns:
        A table with the columns of `Clip`.

    Raises:
        CorpusError: The source does not exist or has no audio, a table lacks its columns, or a row is invalid.
    """
    clips = _Table()
    try:
        for clip in _listed(source, note):
            clips.add(clip)
    except (OSError, ValueError, ImportError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CorpusError(f"{source}: cannot be read ({why}): pass {_KINDS}") from error
    table = clips.finish()
    if not len(table):
        raise CorpusError(f"{source}: no audio found: pass {_KINDS}")
    return table


class _Table:
    """Collects rows into Arrow batches."""

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


def _listed(source: str, note: Callable[[str], None]) -> Iterator[Clip]:
    from fsspec.core import url_to_fs

    suffix = PurePosixPath(source).suffix.lower()
    system, path = url_to_fs(source)
    local = "file" in _protocols(system)
    if not _BRACES.search(path) and system.isdir(path):
        yield from _folder(system, path, path, note)
    elif _BRACES.search(path) or (any(mark in path for mark in "*?[") and not system.exists(path)):
        fixed = re.split(r"[*?\[{]", path, maxsplit=1)[0].rpartition("/")[0]
        yield from _globbed(system, path, fixed, note)
    elif not system.exists(path):
        raise FileNotFoundError(2, "no such file")
    elif suffix in _LISTS:
        with system.open(path, "r", encoding="utf-8-sig") as lines:
            names = (line.strip() for line in lines)
            rows = ({"file": name} for name in names if name and not name.startswith("#"))
            yield from _rows(rows, system, path, local)
    elif suffix in _TABLES:
        yield from _rows(_table_rows(source, system, path, suffix), system, path, local)
    elif suffix == ".tar" or suffix in _AUDIO:
        yield from _files(system, {path: system.info(path)}, path.rpartition("/")[0], note)
    else:
        raise ValueError(f"the extension {suffix!r} is not supported")


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _folder(system: Any, path: str, root: str, note: Callable[[str], None]) -> Iterator[Clip]:
    yield from _files(system, system.find(path, detail=True), root, note)


def _globbed(system: Any, pattern: str, root: str, note: Callable[[str], None]) -> Iterator[Clip]:
    found: dict[str, Any] = {}
    for one in _expanded(pattern):
        matches = system.glob(one, detail=True) if any(mark in one for mark in "*?[") else {one: system.info(one)}
        found |= {path: info for path, info in matches.items() if info["type"] != "directory"}
    yield from _files(system, found, root, note)


def _expanded(pattern: str) -> Iterator[str]:
    if not (match := _BRACES.search(pattern)):
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expanded(f"{pattern[: match.start()]}{number:0{len(first)}}{pattern[match.end() :]}")


def _files(system: Any, found: Mapping[str, Any], root: str, note: Callable[[str], None]) -> Iterator[Clip]:
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
        note(f"{others} file{'' if others == 1 else 's'} of other kinds left out")


def _stamp(info: Mapping[str, Any]) -> str:
    changed = next((f" {info[key]}" for key in _STAMPS if info.get(key)), "")
    return f"{info.get('size')}{changed}"


def _members(system: Any, path: str, tar: Clip) -> Iterator[Clip]:
    """Yields the clips of a tar; a damaged part becomes a clip with an error."""
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
                    opened.members = []  # type: ignore[attr-defined]  # tarfile would keep all of them
                    if not member.isfile():
                        continue
                    folder, _, base = member.name.rpartition("/")
                    stem = f"{folder}/{base.partition('.')[0]}"
                    if stem != key:
                        yield from (_described(clip, about) for clip in held)
                        key, held, about = stem, [], {}
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
                    elif suffix == ".json":
                        after = file.tell()
                        file.seek(member.offset_data)
                        about = _about(file.read(min(member.size, _ABOUT + 1)))
                        file.seek(after)
        except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
            broken = f"not a tar, or damaged from here on ({error}): get a complete copy, unpacked if it is a .gz"
        yield from (_described(clip, about) for clip in held)
        if broken:
            yield tar._replace(broken=broken)


def _described(clip: Clip, about: Mapping[str, Any]) -> Clip:
    """Adds the metadata of a clip, or the reason why it cannot be read, to a clip that is not broken itself."""
    return clip if clip.broken else clip._replace(**about)


def _about(data: bytes) -> dict[str, str]:
    """Returns speaker and reference of a clip, or the reason why they cannot be read."""
    found = {}
    try:
        if len(data) > _ABOUT:
            raise ValueError("longer than 1 MiB")
        values = json.loads(data)
        for name, field in (("speaker", "speaker"), ("label", "reference")):
            value = values.get(name) if isinstance(values, dict) else None
            if not isinstance(value, str | int | float | None):
                raise ValueError(f"its {name} is no text")
            if value is not None:
                found[field] = str(value)
                found[field].encode()  # raises for halves of a surrogate pair, which no table can hold
    except (ValueError, RecursionError) as error:
        why = "its text is not Unicode" if isinstance(error, UnicodeError) else str(error)
        return {"broken": f"its .json cannot be read ({why}): correct it, or leave it out"}
    return found


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
        raise ValueError(f"it has the columns {', '.join(table.column_names)}, but not file")
    known = [column for column in table.column_names if column in kinds]
    table = table.select(known).cast(pa.schema([(column, kinds[column]) for column in known]))
    number = 0
    for batch in table.to_batches(_CHUNK):
        for row in batch.to_pylist():
            number += 1
            row["file"] = row[name]
            where = f"{source}, row {number}"
            if not row["file"]:
                raise CorpusError(f"{where}: the column file is empty: fill it in, or delete the row")
            start, end = row.get("start"), row.get("end")
            times = [time for time in (start or 0.0, end) if time is not None]
            if not all(math.isfinite(time) and time >= 0 for time in times) or (end is not None and end <= times[0]):
                raise CorpusError(f"{where}: {start} to {end} is not a part: give seconds, the end after the start")
            yield row


def _rows(rows: Iterator[dict[str, Any]], system: Any, path: str, local: bool) -> Iterator[Clip]:
    """Yields the clips of a list or table, whose paths are relative to it."""
    folder = path.rpartition("/")[0]
    last, known = "", Clip("", "")
    for row in rows:
        name = row["file"]
        if name != last:
            address, here = name, local
            if "://" in name:
                here = name.startswith("file://")
                address = name.removeprefix("file://")
            elif not (local and os.path.isabs(name)):
                address = os.path.join(folder, name) if local else system.unstrip_protocol(f"{folder}/{name}")
            last, known = name, _known(name, address) if here else Clip(name, address)
        yield known._replace(
            start=row.get("start"), end=row.get("end"), speaker=row.get("speaker"), reference=row.get("label")
        )


def _known(name: str, address: str) -> Clip:
    try:
        status = os.stat(address)
    except (OSError, ValueError):
        return Clip(name, address, stamp="missing")  # becomes an error when it is opened
    return Clip(name, address, size=status.st_size, stamp=f"{status.st_size} {status.st_mtime}")

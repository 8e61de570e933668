"""The history of judgements: one SQLite file, kept as long as its owner wants and no longer."""

import json
import os
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from e2v_port.cells import cell
from e2v_port.emotions.judgement import columns
from e2v_port.errors import HistoryError, quoted
from e2v_port.seconds import seconds

__all__ = ["COLUMNS", "FIELDS", "History", "cells"]

_APPLICATION, _SCHEMA = 0x65327621, 2  # "e2v!" and a version, in the header of the file
_DAY = 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 1000  # rows read at a time, so that a long export blocks nobody
_LOG = 1000  # deletions that `audit` shows

# Every table and column with its purpose: `audit` shows the same words.
_TABLES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "segments": (
        "one row per judged segment; becomes part of a day after raw_days",
        {
            "id": ("INTEGER PRIMARY KEY", "order of the rows"),
            "at": ("REAL NOT NULL", "start in seconds since 1970, UTC: to show, delete and expire rows"),
            "seconds": ("REAL NOT NULL", "duration: the weight of the row in its day"),
            "speaker": ("TEXT", "speaker, as named by the caller: to show and delete rows"),
            "client": ("TEXT", "program that sent the clip: to tell clients apart"),
            "label": ("TEXT", "the label"),
            "confidence": ("REAL", "confidence in the label"),
            "shade": ("TEXT", "the finer emotion that the label means"),
            "shade_probability": ("REAL", "probability of the shade given the label"),
            "compound": ("TEXT", "the label, refined by arousal and dominance"),
            "arousal": ("REAL", "arousal, measured or derived from the labels"),
            "dominance": ("REAL", "dominance, measured or derived from the labels"),
            "valence": ("REAL", "valence, measured or derived from the labels"),
            "avd_from": ("TEXT", "source of these three"),
            "scores": ("TEXT", "probability of each label, as JSON"),
        },
    ),
    "days": (
        "one row per day and speaker whose segments have expired",
        {
            "day": ("TEXT NOT NULL", "date, UTC"),
            "speaker": ("TEXT", "speaker: to show and delete rows"),
            "segments": ("INTEGER NOT NULL", "number of segments"),
            "seconds": ("REAL NOT NULL", "total duration"),
            "measured": ("REAL NOT NULL", "duration of segments with measured dimensions: the weight of the means"),
            "arousal": ("REAL", "mean of measured arousal, weighted by duration"),
            "dominance": ("REAL", "mean of measured dominance, weighted by duration"),
            "valence": ("REAL", "mean of measured valence, weighted by duration"),
            "labels": ("TEXT NOT NULL", "number of segments by label, as JSON"),
        },
    ),
    "deletions": (
        "one row per deletion, without the deleted content",
        {
            "at": ("REAL NOT NULL", "time in seconds since 1970"),
            "what": ("TEXT NOT NULL", "scope: by time, by speaker, everything, or by retention"),
            "segments": ("INTEGER NOT NULL", "number of deleted rows in segments"),
            "days": ("INTEGER NOT NULL", "number of deleted rows in days"),
        },
    ),
    "settings": (
        "settings that survive a restart",
        {
            "name": (
                "TEXT PRIMARY KEY",
                "emotion: whether emotions are analyzed; overwritten: whether all that was deleted is gone",
            ),
            "value": ("INTEGER NOT NULL", "1 or 0"),
        },
    ),
}
_SEGMENT = [name for name in _TABLES["segments"][1] if name != "id"]

FIELDS = (
    "kind",
    "start",
    "end",
    "seconds",
    "segments",
    "speaker",
    "client",
    "primary",
    "confidence",
    "shade",
    "compound",
    "avd_scores",
    "avd_from",
    "e2v_scores",
    "labels",
)
"""Keys of a row of `History.read`, in order: `history_row` in analysis/schema.json."""

_CELLS: dict[str, tuple[str, ...]] = {
    "shade": ("shade", "shade_probability"),
    "avd_scores": ("avd_arousal", "avd_dominance", "avd_valence"),
}
COLUMNS = tuple(column for field in FIELDS for column in _CELLS.get(field, (field,)))
"""Columns of the history as a table; the last two hold JSON, since each model has labels of its own."""


def cells(row: Mapping[str, Any]) -> list[Any]:
    """Returns a row of `History.read` in the order of `COLUMNS`, as the cells of a CSV: no text is a formula."""
    tables = {name: None if row[name] is None else json.dumps(row[name]) for name in ("e2v_scores", "labels")}
    flat = columns({name: row[name] for name in row if name not in tables}) | tables
    return [cell(flat.get(name)) for name in COLUMNS]


class History:
    """Judgements of segments in a file, and daily aggregates of those that have expired.

    Audio, words, file names and segments without a judgement are not stored. Only the owner can read the file. Deleted
    data is overwritten, in the file and in its log. Safe to use from several threads.

    Args:
        path: Path of the file, which is created if missing. Its folder must exist.
        raw_days: Days to keep segments, by the time they were recorded; at least 0.
        aggregate_days: Days to keep daily aggregates; None keeps them forever.

    Raises:
        HistoryError: The file cannot be opened, is damaged, or is not a history. It is left unchanged.
        ValueError: A number of days is below 0.
    """

    def __init__(self, path: str | os.PathLike[str], raw_days: float = 90, aggregate_days: float | None = None) -> None:
        for name, days in ("raw_days", raw_days), ("aggregate_days", aggregate_days):
            if days is not None and not days >= 0:
                raise ValueError(f"{name} must be at least 0, not {quoted(days)}")
        self._path = os.path.abspath(path)
        self._raw_days, self._aggregate_days = raw_days, aggregate_days
        self._lock = threading.RLock()
        self._create()
        with self._explained():
            self._connection = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _create(self) -> None:
        try:
            try:
                # Opened here only if it is new: closing a descriptor would release the locks that SQLite holds.
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                if not os.path.isfile(self._path):
                    raise HistoryError(f"{self._path}: not a file: pass the path of a file") from None
                os.chmod(self._path, 0o600)  # also applies to the files that SQLite creates next to it
        except OSError as error:
            why = error.strerror or error
            raise HistoryError(f"{self._path}: cannot be opened ({why}): choose a file in a folder you own") from error

    def _open(self) -> None:
        ask = self._connection.execute
        (application,), (version,) = ask("PRAGMA application_id").fetchone(), ask("PRAGMA user_version").fetchone()
        (tables,) = ask("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and (application or tables):
            raise HistoryError(f"{self._path}: belongs to another program: choose another file")
        if version > _SCHEMA:
            raise HistoryError(f"{self._path}: written by a newer e2v-port: update e2v-port or choose another file")
        (state,) = ask("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        ask("PRAGMA journal_mode = WAL")
        ask("PRAGMA synchronous = NORMAL")
        ask("PRAGMA secure_delete = ON")
        ask("PRAGMA temp_store = MEMORY")  # VACUUM would copy everything to a temporary file
        with self._transaction() as ask:
            for table, (_, columns) in _TABLES.items():
                definitions = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
                ask(f"CREATE TABLE IF NOT EXISTS {table} ({definitions})")
            if version == 1:  # had no shades
                for name in "shade", "shade_probability":
                    ask(f"ALTER TABLE segments ADD COLUMN {name} {_TABLES['segments'][1][name][0]}")
            ask("CREATE INDEX IF NOT EXISTS segments_at ON segments (at, id)")
            ask("INSERT OR IGNORE INTO settings VALUES ('emotion', 1), ('overwritten', ?)", [not tables])
            ask(f"PRAGMA application_id = {_APPLICATION}")
            ask(f"PRAGMA user_version = {_SCHEMA}")
            (enabled,) = ask("SELECT value FROM settings WHERE name = 'emotion'").fetchone()
        self._enabled = bool(enabled)

    def close(self) -> None:
        """Closes the file and merges its log into it."""
        with self._lock:
            self._connection.close()

    @property
    def enabled(self) -> bool:
        """Whether emotions are analyzed: a switch kept in the file, since "off" must survive a restart."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        """Raises HistoryError if the file cannot be written; the switch is then unchanged."""
        with self._transaction() as ask:
            ask("UPDATE settings SET value = ? WHERE name = 'emotion'", [int(enabled)])
        self._enabled = enabled

    def add(self, answer: Mapping[str, Any], recorded_at: datetime, client: str | None = None) -> None:
        """Stores all judged segments of a clip, or none of them.

        Args:
            answer: Answer of the service, with its `segments`.
            recorded_at: Time at which the clip begins, with a time zone.
            client: Program that sent the clip.

        Raises:
            HistoryError: The file cannot be written, or the time is before 1970 or in the future, where nothing would
                expire.
            ValueError: The time has no zone.
        """
        began = _seconds(recorded_at)
        if not 0 <= began <= time.time() + _DAY:  # a day of tolerance for clocks that differ
            raise HistoryError(
                f"recorded_at {recorded_at.isoformat()} is before 1970 or in the future: pass the actual time"
            )
        rows = []
        for segment in answer["segments"]:
            if (emotion := segment["emotion"]) is None:
                continue
            avd, shade = emotion["avd_scores"] or {}, emotion["shade"] or {}
            scores = emotion["e2v_scores"]
            rows.append(
                {
                    "at": began + segment["start"],
                    "seconds": seconds(segment["end"] - segment["start"]),
                    "speaker": segment["speaker"],
                    "client": client,
                    "label": emotion["primary"],
                    "confidence": emotion["confidence"],
                    "shade": shade.get("name"),
                    "shade_probability": shade.get("probability"),
                    "compound": emotion["compound"],
                    **{name: avd.get(name) for name in ("arousal", "dominance", "valence")},
                    "avd_from": emotion["avd_from"],
                    "scores": None if scores is None else json.dumps(scores),
                }
            )
        if rows:
            with self._transaction():
                names, places = ", ".join(_SEGMENT), ", ".join(f":{name}" for name in _SEGMENT)
                self._connection.executemany(f"INSERT INTO segments ({names}) VALUES ({places})", rows)

    def read(
        self, start: datetime | None = None, end: datetime | None = None, speaker: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yields the stored rows, optionally of one period or speaker: days first, then segments, in order of time.

        Args:
            start: Start of the period, with a time zone; a day that began earlier is included if it overlaps.
            end: End of the period, with a time zone, exclusive.
            speaker: Name of the speaker.

        Returns:
            An iterator of dicts with the keys of `FIELDS`, as `history_row` in analysis/schema.json describes them.

        Raises:
            HistoryError: The file cannot be read.
            ValueError: A time has no zone.
        """
        where, values = _days_where(start, end, speaker)
        days = self._rows(f"SELECT * FROM days WHERE {where} ORDER BY day, speaker", values)
        where, values = _segments_where(start, end, speaker)
        return self._read(days, where, values)

    def _read(self, days: list[sqlite3.Row], where: str, values: list[Any]) -> Iterator[dict[str, Any]]:
        nothing = dict.fromkeys(FIELDS)
        for row in days:
            shared = {name: row[name] for name in ("seconds", "segments", "speaker")} | _dimensions(row)
            shared["avd_from"] = "model" if shared["avd_scores"] else None
            began = datetime.fromisoformat(row["day"]).replace(tzinfo=UTC)
            times = {"start": _iso(began), "end": _iso(began + timedelta(days=1))}
            yield {**nothing, "kind": "day", **times, **shared, "labels": json.loads(row["labels"])}
        last = (float("-inf"), 0)
        query = f"SELECT * FROM segments WHERE {where} AND (at, id) > (?, ?) ORDER BY at, id LIMIT {_PAGE}"
        while rows := self._rows(query, [*values, *last]):
            for row in rows:
                shared = {name: row[name] for name in FIELDS if name in _SEGMENT} | _dimensions(row)
                times = {"start": _iso(_when(row["at"])), "end": _iso(_when(row["at"] + row["seconds"]))}
                scores = None if row["scores"] is None else json.loads(row["scores"])
                shade = {"name": row["shade"], "probability": row["shade_probability"]} if row["shade"] else None
                known = {"segments": 1, "primary": row["label"], "shade": shade, "e2v_scores": scores}
                yield {**nothing, "kind": "segment", **times, **shared, **known}
            last = (rows[-1]["at"], rows[-1]["id"])

    def delete(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        speaker: str | None = None,
        everything: bool = False,
    ) -> int:
        """Deletes the rows of a period, a speaker, both together, or everything, and overwrites them in the file.

        A day that overlaps the period is deleted as a whole, since it cannot be split.

        Args:
            start: Start of the period, with a time zone.
            end: End of the period, with a time zone, exclusive.
            speaker: Name of the speaker.
            everything: Whether to delete all rows; only the switch and the log of deletions remain.

        Returns:
            The number of deleted rows.

        Raises:
            HistoryError: The file cannot be written; or another program is reading it, so that a copy remains until
                that ends and `expire` is called.
            ValueError: No scope is given, `everything` is combined with another one, or a time has no zone.
        """
        by = [name for name, value in (("time", start or end), ("speaker", speaker is not None)) if value]
        if everything == bool(by):
            raise ValueError("pass a period, a speaker or both; or everything alone")
        removed = []
        with self._transaction() as ask:
            for table, condition in ("segments", _segments_where), ("days", _days_where):
                where, values = condition(start, end, speaker)
                removed.append(ask(f"DELETE FROM {table} WHERE {where}", values).rowcount)
            what = "everything" if everything else f"by {' and '.join(by)}"
            self._note(time.time(), what, *removed)
        self._overwrite()
        return sum(removed)

    def expire(self, now: datetime) -> None:
        """Aggregates segments older than `raw_days` into days, and deletes days older than `aggregate_days`.

        It also overwrites what an earlier deletion could not, since another program was reading the file. Call it at
        the start and about once a minute.

        Raises:
            HistoryError: The file cannot be written; or another program is reading it, so that a copy of what was
                deleted remains until that ends and this is called again.
            ValueError: The time has no zone.
        """
        oldest = _seconds(now) - self._raw_days * _DAY
        with self._transaction() as ask:
            old = ask("SELECT * FROM segments WHERE at < ?", [oldest]).fetchall()
            groups: dict[tuple[str, str | None], list[sqlite3.Row]] = {}
            for row in old:
                groups.setdefault((_when(row["at"]).date().isoformat(), row["speaker"]), []).append(row)
            for (day, speaker), rows in groups.items():
                self._aggregate(day, speaker, rows)
            ask("DELETE FROM segments WHERE at < ?", [oldest])
            days = 0
            if self._aggregate_days is not None:
                last = _when(_seconds(now) - self._aggregate_days * _DAY - _DAY).date()  # end of the day
                days = ask("DELETE FROM days WHERE day <= ?", [last.isoformat()]).rowcount
            if old or days:
                self._note(_seconds(now), "by retention", len(old), days)
        if not self._overwritten:
            self._overwrite()

    def _note(self, at: float, what: str, segments: int, days: int) -> None:
        """Logs a deletion, and that it is not overwritten yet."""
        self._connection.execute("INSERT INTO deletions VALUES (?, ?, ?, ?)", [at, what, segments, days])
        self._connection.execute("UPDATE settings SET value = 0 WHERE name = 'overwritten'")

    @property
    def _overwritten(self) -> bool:
        [(value,)] = self._rows("SELECT value FROM settings WHERE name = 'overwritten'")
        return bool(value)

    def _aggregate(self, day: str, speaker: str | None, rows: list[sqlite3.Row]) -> None:
        """Adds segments to the aggregate of their day, which may exist already: older clips can arrive later."""
        ask = self._connection.execute
        before = ask("SELECT * FROM days WHERE day = ? AND speaker IS ?", [day, speaker]).fetchone()
        ask("DELETE FROM days WHERE day = ? AND speaker IS ?", [day, speaker])
        measured = [(row["seconds"], row) for row in rows if row["avd_from"] == "model"]
        labels = Counter(row["label"] for row in rows if row["label"] is not None)
        if before:
            measured += [(before["measured"], before)] if before["measured"] else []
            labels.update(json.loads(before["labels"]))
        weight = sum(length for length, _ in measured)
        means = [
            sum(length * row[name] for length, row in measured) / weight if weight else None
            for name in ("arousal", "dominance", "valence")
        ]
        count = len(rows) + (before["segments"] if before else 0)
        spoken = seconds(sum(row["seconds"] for row in rows) + (before["seconds"] if before else 0.0))
        values = [day, speaker, count, spoken, seconds(weight), *means, json.dumps(labels, sort_keys=True)]
        ask(f"INSERT INTO days VALUES ({', '.join('?' * len(values))})", values)

    def audit(self) -> dict[str, Any]:
        """Lists everything that is stored: tables and columns with their purpose, amounts, periods and settings.

        Returns:
            Plain dicts, lists, strings and numbers; times are ISO 8601 in UTC.

        Raises:
            HistoryError: The file cannot be read.
        """
        with self._lock:
            tables = {}
            for table, (why, columns) in _TABLES.items():
                [(rows,)] = self._rows(f"SELECT count(*) FROM {table}")
                reasons = {name: reason for name, (_, reason) in columns.items()}
                tables[table] = {"why": why, "rows": rows, "columns": reasons}
            [(first, last)] = self._rows("SELECT min(at), max(at) FROM segments")
            [(first_day, last_day)] = self._rows("SELECT min(day), max(day) FROM days")
            speakers = self._rows(
                "SELECT speaker, sum(segments), sum(seconds) FROM ("
                "SELECT speaker, 1 AS segments, seconds FROM segments "
                "UNION ALL SELECT speaker, segments, seconds FROM days"
                ") GROUP BY speaker ORDER BY speaker"
            )
            deletions = self._rows(f"SELECT * FROM deletions ORDER BY at DESC LIMIT {_LOG}")
        oldest, newest = (None if at is None else _iso(_when(at)) for at in (first, last))
        return {
            "file": self._path,
            "bytes": sum(os.path.getsize(p) for p in (self._path, f"{self._path}-wal") if os.path.exists(p)),
            "never_stored": ["audio", "words", "file names", "segments without a judgement"],
            "tables": tables,
            "segments": {"oldest": oldest, "newest": newest},
            "days": {"oldest": first_day, "newest": last_day},
            "speakers": [{"speaker": name, "segments": n, "seconds": round(s, 3)} for name, n, s in speakers],
            "settings": {
                "raw_days": self._raw_days,
                "aggregate_days": self._aggregate_days,
                "emotion_enabled": self._enabled,
            },
            "overwritten": self._overwritten,
            "deletions": [{**dict(row), "at": _iso(_when(row["at"]))} for row in deletions],
        }

    def _rows(self, query: str, values: list[Any] | None = None) -> list[sqlite3.Row]:
        with self._lock, self._explained():
            return self._connection.execute(query, values or []).fetchall()

    def _overwrite(self) -> None:
        """Removes all traces of deleted data, from free pages and from the log."""
        truncate = "PRAGMA wal_checkpoint(TRUNCATE)"
        with self._lock, self._explained():
            ask = self._connection.execute
            (busy, _, _) = ask(truncate).fetchone()  # first: while another program reads, VACUUM only adds a copy
            if not busy:
                ask("VACUUM")
                (busy, _, _) = ask(truncate).fetchone()
            if busy:
                raise HistoryError(
                    f"{self._path}: deleted, but another program is reading the file and a copy remains: close that "
                    "program, and it is overwritten within a minute"
                )
            ask("UPDATE settings SET value = 1 WHERE name = 'overwritten'")

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Yields a function that executes statements: all of them take effect, or none."""
        with self._lock, self._explained():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # some errors of SQLite end it
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns an error of SQLite into one line with a remedy."""
        try:
            yield
        except sqlite3.Error as error:
            what = " ".join(str(error).split())
            why = _WHY.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, f"damaged ({what}): {_ELSEWHERE}")
            raise HistoryError(f"{self._path}: {why}") from error
        except UnicodeEncodeError as error:
            raise HistoryError(f"{self._path}: a name is not valid UTF-8: send UTF-8") from error


_ELSEWHERE = "it is left unchanged; move it away or choose another file"
_WHY = {
    sqlite3.SQLITE_BUSY: "another program is writing to it: close that program",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: choose a file in a folder you own",
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_IOERR: "cannot be read or written: is the disk full or gone?",
    sqlite3.SQLITE_NOTADB: f"not a history: {_ELSEWHERE}",
    sqlite3.SQLITE_PERM: "cannot be read: change its permissions",
    sqlite3.SQLITE_READONLY: "cannot be written: make it and its folder writable",
}


def _segments_where(start: datetime | None, end: datetime | None, speaker: str | None) -> tuple[str, list[Any]]:
    conditions = [
        ("at >= ?", None if start is None else _seconds(start)),
        ("at < ?", None if end is None else _seconds(end)),
        ("speaker = ?", speaker),
    ]
    return _where(conditions)


def _days_where(start: datetime | None, end: datetime | None, speaker: str | None) -> tuple[str, list[Any]]:
    conditions = [
        ("strftime('%s', day) + 86400 > ?", None if start is None else _seconds(start)),
        ("strftime('%s', day) + 0 < ?", None if end is None else _seconds(end)),
        ("speaker = ?", speaker),
    ]
    return _where(conditions)


def _where(conditions: list[tuple[str, Any]]) -> tuple[str, list[Any]]:
    conditions = [(text, value) for text, value in conditions if value is not None]
    return " AND ".join(text for text, _ in conditions) or "TRUE", [value for _, value in conditions]


def _dimensions(row: sqlite3.Row) -> dict[str, Any]:
    values = {name: row[name] for name in ("arousal", "dominance", "valence")}
    return {"avd_scores": None if None in values.values() else values}


def _seconds(when: datetime) -> float:
    if when.tzinfo is None:
        raise ValueError(f"{when.isoformat()} has no time zone: add one, as in 2026-01-31T12:00:00Z")
    return when.timestamp()


def _when(seconds: float) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")

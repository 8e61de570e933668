"""What the service has said, kept in one SQLite file for as long as its owner wants, and no longer."""

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

from e2v_port.errors import HistoryError

__all__ = ["FIELDS", "History"]

_APPLICATION, _SCHEMA = 0x65327621, 1  # "e2v!" and a version, in the header of the file
_DAY = 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGE = 1000  # rows read at a time, so that nobody waits for a long export
_LOG = 1000  # deletions that `audit` shows

# Every table, every column, and why it is there: `audit` shows the same words.
_TABLES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "segments": (
        "one row for each judged segment; becomes part of a day after raw_days",
        {
            "id": ("INTEGER PRIMARY KEY", "the order of the rows"),
            "at": ("REAL NOT NULL", "when it began, in seconds since 1970, UTC: to show, to delete and to let expire"),
            "seconds": ("REAL NOT NULL", "how long it is: the weight of the row in its day"),
            "speaker": ("TEXT", "who spoke, as the caller named them: to show and to delete"),
            "client": ("TEXT", "which program asked: to tell apart who listens"),
            "label": ("TEXT", "the estimate"),
            "confidence": ("REAL", "how sure it is"),
            "compound": ("TEXT", "the estimate, refined"),
            "arousal": ("REAL", "the estimate of the dimensional model, or derived"),
            "dominance": ("REAL", "likewise"),
            "valence": ("REAL", "likewise"),
            "avd_from": ("TEXT", "whether these three were measured or derived from the labels"),
            "scores": ("TEXT", "the probability of each label, as JSON"),
        },
    ),
    "days": (
        "one row for each day and speaker whose segments have expired",
        {
            "day": ("TEXT NOT NULL", "the date, UTC"),
            "speaker": ("TEXT", "who spoke: to show and to delete"),
            "segments": ("INTEGER NOT NULL", "how many there were"),
            "seconds": ("REAL NOT NULL", "how long they were together"),
            "measured": ("REAL NOT NULL", "seconds of those with measured dimensions: the weight of the means"),
            "arousal": ("REAL", "mean of the measured ones, weighted by length"),
            "dominance": ("REAL", "likewise"),
            "valence": ("REAL", "likewise"),
            "labels": ("TEXT NOT NULL", "how many segments had each label, as JSON"),
        },
    ),
    "deletions": (
        "one row for each deletion, without what was deleted",
        {
            "at": ("REAL NOT NULL", "when, in seconds since 1970"),
            "what": ("TEXT NOT NULL", "by time, by speaker, everything, or by retention"),
            "segments": ("INTEGER NOT NULL", "how many rows of segments"),
            "days": ("INTEGER NOT NULL", "how many rows of days"),
        },
    ),
    "settings": (
        "what must survive a restart",
        {
            "name": ("TEXT PRIMARY KEY", "emotion: whether emotions are analysed"),
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
    "compound",
    "arousal",
    "dominance",
    "valence",
    "avd_from",
    "scores",
    "labels",
)
"""The keys of what `History.read` gives, in order, for tables."""


class History:
    """Judgements of segments in a file, and sums of their days when they have expired.

    Segments without a judgement are not stored, nor are audio, words, or names of files. The file can be read by its
    owner alone. What is deleted is overwritten, in the file and in its log. May be used from several threads at once.

    Args:
        path: Of the file; it is made if there is none. Its folder must be there.
        raw_days: How long segments are kept as they are, by the time they were recorded; at least 0.
        aggregate_days: How long the sums of days are kept; None for ever.

    Raises:
        HistoryError: The file cannot be opened, is damaged, or is something else. It is left as it is.
        ValueError: A number of days below 0.
    """

    def __init__(self, path: str | os.PathLike[str], raw_days: float = 90, aggregate_days: float | None = None) -> None:
        for name, days in ("raw_days", raw_days), ("aggregate_days", aggregate_days):
            if days is not None and not days >= 0:
                raise ValueError(f"{name} must be at least 0, not {days!r}")
        self._path = os.path.abspath(path)
        self._raw_days, self._aggregate_days = raw_days, aggregate_days
        self._lock = threading.RLock()
        self._made()
        with self._told():
            self._connection = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
            self._connection.row_factory = sqlite3.Row
            try:
                self._open()
            except BaseException:
                self._connection.close()
                raise

    def _made(self) -> None:
        try:
            try:
                # By a descriptor of ours only if it is new: closing one would free the locks that SQLite holds.
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            except FileExistsError:
                if not os.path.isfile(self._path):
                    raise HistoryError(f"{self._path}: is no file: name one for the history") from None
                os.chmod(self._path, 0o600)  # also of the files that SQLite puts beside it
        except OSError as error:
            why = error.strerror or error
            raise HistoryError(f"{self._path}: cannot be opened ({why}): name a file in a folder of yours") from error

    def _open(self) -> None:
        ask = self._connection.execute
        (application,), (version,) = ask("PRAGMA application_id").fetchone(), ask("PRAGMA user_version").fetchone()
        (tables,) = ask("SELECT count(*) FROM sqlite_master").fetchone()
        if application != _APPLICATION and (application or tables):
            raise HistoryError(f"{self._path}: is the database of another program: name another file")
        if version > _SCHEMA:
            raise HistoryError(f"{self._path}: was written by a newer e2v-port: update this one, or name another file")
        (state,) = ask("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        ask("PRAGMA journal_mode = WAL")
        ask("PRAGMA synchronous = NORMAL")
        ask("PRAGMA secure_delete = ON")
        ask("PRAGMA temp_store = MEMORY")  # VACUUM would write a copy of everything to a temporary file
        with self._transaction() as ask:
            for table, (_, columns) in _TABLES.items():
                definitions = ", ".join(f"{name} {kind}" for name, (kind, _) in columns.items())
                ask(f"CREATE TABLE IF NOT EXISTS {table} ({definitions})")
            ask("CREATE INDEX IF NOT EXISTS segments_at ON segments (at, id)")
            ask("INSERT OR IGNORE INTO settings VALUES ('emotion', 1)")
            ask(f"PRAGMA application_id = {_APPLICATION}")
            ask(f"PRAGMA user_version = {_SCHEMA}")
            (enabled,) = ask("SELECT value FROM settings WHERE name = 'emotion'").fetchone()
        self._enabled = bool(enabled)

    def close(self) -> None:
        """Closes the file; its log becomes part of it."""
        with self._lock:
            self._connection.close()

    @property
    def enabled(self) -> bool:
        """Whether emotions are analysed: a switch that is kept here, since "off" must survive a restart."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        """Raises HistoryError where it cannot be written; it is then as before."""
        with self._transaction() as ask:
            ask("UPDATE settings SET value = ? WHERE name = 'emotion'", [int(enabled)])
        self._enabled = enabled

    def add(self, answer: Mapping[str, Any], recorded_at: datetime, client: str | None = None) -> None:
        """Stores what was said of a clip: all of its judged segments, or none.

        Args:
            answer: Of the service, with its `segments`.
            recorded_at: When the clip began, with a time zone.
            client: Which program asked.

        Raises:
            HistoryError: It cannot be written, or the time lies in the future, where nothing would expire, or
                before 1970.
            ValueError: A time without a zone.
        """
        began = _seconds(recorded_at)
        if not 0 <= began <= time.time() + _DAY:  # a day, for clocks that differ
            raise HistoryError(
                f"recorded_at {recorded_at.isoformat()} is before 1970 or in the future: give the true one"
            )
        rows = []
        for segment in answer["segments"]:
            if (emotion := segment["emotion"]) is None:
                continue
            avd = emotion["avd_scores"] or {}
            scores = emotion["e2v_scores"]
            rows.append(
                {
                    "at": began + segment["start"],
                    "seconds": segment["end"] - segment["start"],
                    "speaker": segment["speaker"],
                    "client": client,
                    "label": emotion["primary"],
                    "confidence": emotion["confidence"],
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
        """Gives all that is stored, or the part of a time or a speaker: days first, then segments, in order of time.

        Args:
            start: Of the time, with a zone; a day that began before is given as well if it reaches into it.
            end: Likewise; it is not part of the time.
            speaker: Who spoke.

        Returns:
            An iterator of dicts with the keys of `FIELDS`: `kind` is `segment` or `day`, times are ISO 8601 in UTC,
            `segments` how many there were, `labels` how many of them had each label. What a kind has not is None.

        Raises:
            HistoryError: It cannot be read.
            ValueError: A time without a zone.
        """
        where, values = _days_where(start, end, speaker)
        days = self._rows(f"SELECT * FROM days WHERE {where} ORDER BY day, speaker", values)
        where, values = _segments_where(start, end, speaker)
        return self._read(days, where, values)

    def _read(self, days: list[sqlite3.Row], where: str, values: list[Any]) -> Iterator[dict[str, Any]]:
        nothing = dict.fromkeys(FIELDS)
        for row in days:
            shared = {name: row[name] for name in ("seconds", "segments", "speaker", "arousal", "dominance", "valence")}
            began = datetime.fromisoformat(row["day"]).replace(tzinfo=UTC)
            times = {"start": _iso(began), "end": _iso(began + timedelta(days=1))}
            yield {**nothing, "kind": "day", **times, **shared, "labels": json.loads(row["labels"])}
        last = (float("-inf"), 0)
        query = f"SELECT * FROM segments WHERE {where} AND (at, id) > (?, ?) ORDER BY at, id LIMIT {_PAGE}"
        while rows := self._rows(query, [*values, *last]):
            for row in rows:
                shared = {name: row[name] for name in FIELDS if name in _SEGMENT}
                times = {"start": _iso(_when(row["at"])), "end": _iso(_when(row["at"] + row["seconds"]))}
                scores = None if row["scores"] is None else json.loads(row["scores"])
                known = {"segments": 1, "primary": row["label"], "scores": scores}
                yield {**nothing, "kind": "segment", **times, **shared, **known}
            last = (rows[-1]["at"], rows[-1]["id"])

    def delete(
        self,
        start: datetime | None = None,
        end: datetime | None = None,
        speaker: str | None = None,
        everything: bool = False,
    ) -> int:
        """Deletes what is stored of a time, a speaker, both together, or everything, and overwrites it in the file.

        A day of which a part is to be deleted goes as a whole, as it cannot be taken apart.

        Args:
            start: Of the time, with a zone.
            end: Likewise; it is not part of the time.
            speaker: Who spoke.
            everything: All of it; only the switch and the log of deletions stay.

        Returns:
            How many rows there were.

        Raises:
            HistoryError: It cannot be written; or another program reads the file, so that a copy may be left there.
            ValueError: Nothing is named, or `everything` with something else; a time without a zone.
        """
        by = [name for name, value in (("time", start or end), ("speaker", speaker is not None)) if value]
        if everything == bool(by):
            raise ValueError("name a time, a speaker or both; or everything, alone")
        removed = []
        with self._transaction() as ask:
            for table, condition in ("segments", _segments_where), ("days", _days_where):
                where, values = condition(start, end, speaker)
                removed.append(ask(f"DELETE FROM {table} WHERE {where}", values).rowcount)
            what = "everything" if everything else f"by {' and '.join(by)}"
            ask("INSERT INTO deletions VALUES (?, ?, ?, ?)", [time.time(), what, *removed])
        self._overwrite()
        return sum(removed)

    def expire(self, now: datetime) -> None:
        """Makes sums of the segments that are older than `raw_days`, and deletes days older than `aggregate_days`.

        To be called at the start and every hour or so.

        Raises:
            HistoryError: It cannot be written.
            ValueError: A time without a zone.
        """
        oldest = _seconds(now) - self._raw_days * _DAY
        with self._transaction() as ask:
            old = ask("SELECT * FROM segments WHERE at < ?", [oldest]).fetchall()
            groups: dict[tuple[str, str | None], list[sqlite3.Row]] = {}
            for row in old:
                groups.setdefault((_when(row["at"]).date().isoformat(), row["speaker"]), []).append(row)
            for (day, speaker), rows in groups.items():
                self._summed(day, speaker, rows)
            ask("DELETE FROM segments WHERE at < ?", [oldest])
            days = 0
            if self._aggregate_days is not None:
                last = _when(_seconds(now) - self._aggregate_days * _DAY - _DAY).date()  # it ends a day later
                days = ask("DELETE FROM days WHERE day <= ?", [last.isoformat()]).rowcount
            if old or days:
                ask("INSERT INTO deletions VALUES (?, 'by retention', ?, ?)", [_seconds(now), len(old), days])
        if old or days:
            self._overwrite()

    def _summed(self, day: str, speaker: str | None, rows: list[sqlite3.Row]) -> None:
        """Adds segments to the sums of their day, which may be there already: older clips can come later."""
        ask = self._connection.execute
        before = ask("SELECT * FROM days WHERE day = ? AND speaker IS ?", [day, speaker]).fetchone()
        ask("DELETE FROM days WHERE day = ? AND speaker IS ?", [day, speaker])
        measured = [(row["seconds"], row) for row in rows if row["avd_from"] == "model"]
        labels = Counter(row["label"] for row in rows if row["label"] is not None)
        if before:
            measured += [(before["measured"], before)] if before["measured"] else []
            labels.update(json.loads(before["labels"]))
        weight = sum(seconds for seconds, _ in measured)
        means = [
            sum(seconds * row[name] for seconds, row in measured) / weight if weight else None
            for name in ("arousal", "dominance", "valence")
        ]
        count = len(rows) + (before["segments"] if before else 0)
        seconds = sum(row["seconds"] for row in rows) + (before["seconds"] if before else 0.0)
        values = [day, speaker, count, seconds, weight, *means, json.dumps(labels, sort_keys=True)]
        ask(f"INSERT INTO days VALUES ({', '.join('?' * len(values))})", values)

    def audit(self) -> dict[str, Any]:
        """Tells what is stored: every table and column with its reason, how much of it, since when, and the settings.

        Returns:
            Plain dicts, lists, strings and numbers; times are ISO 8601 in UTC.

        Raises:
            HistoryError: It cannot be read.
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
            "never_stored": ["audio", "words", "names of files", "segments without a judgement"],
            "tables": tables,
            "segments": {"oldest": oldest, "newest": newest},
            "days": {"oldest": first_day, "newest": last_day},
            "speakers": [{"speaker": who, "segments": n, "seconds": round(s, 3)} for who, n, s in speakers],
            "settings": {
                "raw_days": self._raw_days,
                "aggregate_days": self._aggregate_days,
                "emotion_enabled": self._enabled,
            },
            "deletions": [{**dict(row), "at": _iso(_when(row["at"]))} for row in deletions],
        }

    def _rows(self, query: str, values: list[Any] | None = None) -> list[sqlite3.Row]:
        with self._lock, self._told():
            return self._connection.execute(query, values or []).fetchall()

    def _overwrite(self) -> None:
        """Leaves nothing of what was deleted: neither in free pages nor in the log."""
        with self._lock, self._told():
            self._connection.execute("VACUUM")
            (busy, _, _) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise HistoryError(
                f"{self._path}: deleted, but another program reads the file and a copy may be left in it: "
                "close that program and delete again"
            )

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        """Gives what executes statements, all of which take place or none."""
        with self._lock, self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # some errors of SQLite have ended it already
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says in one line what an error of SQLite means."""
        try:
            yield
        except sqlite3.Error as error:
            what = " ".join(str(error).split())
            why = _WHY.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, f"damaged ({what}): {_ELSEWHERE}")
            raise HistoryError(f"{self._path}: {why}") from error
        except UnicodeEncodeError as error:
            raise HistoryError(f"{self._path}: a name with half a character cannot be stored: send UTF-8") from error


_ELSEWHERE = "it is left as it is; move it away, or name another file"
_WHY = {
    sqlite3.SQLITE_BUSY: "another program is writing to it: close that one",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: name a file in a folder of yours",
    sqlite3.SQLITE_FULL: "no room on the disk: free some",
    sqlite3.SQLITE_IOERR: "cannot be read or written: is the disk full or gone?",
    sqlite3.SQLITE_NOTADB: f"is no history: {_ELSEWHERE}",
    sqlite3.SQLITE_PERM: "may not be read: make it yours",
    sqlite3.SQLITE_READONLY: "may not be written: make it and its folder writable",
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


def _seconds(when: datetime) -> float:
    if when.tzinfo is None:
        raise ValueError(f"{when.isoformat()} has no time zone: give one, as in 2026-01-31T12:00:00Z")
    return when.timestamp()


def _when(seconds: float) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)


def _iso(when: datetime) -> str:
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")

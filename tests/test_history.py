"""The history keeps judgements, and deleted rows are gone: checked with sqlite3 itself and in the file's bytes."""

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from e2v_port.errors import HistoryError
from e2v_port.service.history import COLUMNS, FIELDS, History, cells

NOW = datetime.now(UTC).replace(microsecond=0)
NOON = NOW.replace(hour=12, minute=0, second=0) - timedelta(days=2)


def segment(
    label: str | None = "happy",
    start: float = 0.0,
    speaker: str | None = "Ann",
    avd: str | None = "model",
    **changes: Any,
) -> dict[str, Any]:
    estimate = {
        "primary": label,
        "confidence": 0.5,
        "shade": {"name": "content", "probability": 0.25},
        "compound": "joy",
        "e2v_scores": {"happy": 0.75, "sad": 0.25},
        "avd_scores": {"arousal": 0.5, "dominance": 0.25, "valence": 1.0} if avd else None,
        "avd_from": avd,
        "notes": [],
    }
    place = {"start": start, "end": start + 4.0, "quality": "normal", "speaker": speaker, "text": "words spoken"}
    return {**place, "emotion": estimate | changes}


def answer(*segments: dict[str, Any]) -> dict[str, Any]:
    return {"file": "a name of a file.wav", "segments": list(segments)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.sqlite"


@pytest.fixture
def history(path: Path) -> Iterator[History]:
    with closing(History(path)) as history:
        yield history


def on_disk(path: Path) -> bytes:
    return b"".join(part.read_bytes() for part in sorted(path.parent.glob(f"{path.name}*")))


def test_what_is_stored_comes_back(history: History, path: Path) -> None:
    nobody = {**segment(), "emotion": None}
    history.add(answer(segment(), nobody, segment("sad", 10, None, "labels")), NOON, "assistant")
    first, second = history.read()
    assert tuple(first) == tuple(second) == FIELDS
    assert first == {
        "kind": "segment",
        "start": NOON.strftime("%Y-%m-%dT12:00:00.000Z"),
        "end": NOON.strftime("%Y-%m-%dT12:00:04.000Z"),
        "seconds": 4.0,
        "segments": 1,
        "speaker": "Ann",
        "client": "assistant",
        "primary": "happy",
        "confidence": 0.5,
        "shade": {"name": "content", "probability": 0.25},
        "compound": "joy",
        "avd_scores": {"arousal": 0.5, "dominance": 0.25, "valence": 1.0},
        "avd_from": "model",
        "e2v_scores": {"happy": 0.75, "sad": 0.25},
        "labels": None,
    }
    assert (second["start"], second["speaker"]) == (NOON.strftime("%Y-%m-%dT12:00:10.000Z"), None)
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT label, speaker FROM segments ORDER BY at").fetchall() == [
            ("happy", "Ann"),
            ("sad", None),
        ]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_words_names_of_files_and_unjudged_segments_are_not_stored(history: History, path: Path) -> None:
    stranger = {**segment(speaker="a stranger"), "emotion": None}
    history.add(answer(segment(speaker="enrolled"), stranger), NOON)
    history.add(answer(stranger), NOON)
    stored = on_disk(path)
    assert b"enrolled" in stored, "else the checks below show nothing"
    for word in b"words spoken", b"a name of a file", b"stranger":
        assert word not in stored


@pytest.mark.parametrize("umask", [0, 0o077])
def test_only_the_owner_can_read_it(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with closing(History(path)) as history:
            history.add(answer(segment()), NOON)
            assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
                path.name: 0o600,
                f"{path.name}-wal": 0o600,
                f"{path.name}-shm": 0o600,
            }
    finally:
        os.umask(before)
    path.chmod(0o644)
    History(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_part_of_it_by_time_and_speaker(history: History) -> None:
    for hours, speaker in (0, "Ann"), (1, "Bob"), (2, "Ann"):
        history.add(answer(segment(speaker=speaker)), NOON + timedelta(hours=hours))
    hour = timedelta(hours=1)

    def hours(**what: Any) -> list[int]:
        return [datetime.fromisoformat(row["start"]).hour - 12 for row in history.read(**what)]

    assert hours() == [0, 1, 2]
    assert hours(speaker="Ann") == [0, 2]
    assert hours(start=NOON + hour) == [1, 2]
    assert hours(end=NOON + hour) == [0], "its end is not part of a time"
    assert hours(start=NOON + hour, end=NOON + 3 * hour, speaker="Ann") == [2]


def test_more_than_is_read_at_a_time_and_changes_meanwhile(history: History) -> None:
    history.add(answer(*(segment(str(i), i // 3) for i in range(3500))), NOON)
    rows = history.read()
    first = next(rows)
    history.delete(start=NOON + timedelta(seconds=1000))
    rest = list(rows)
    assert [row["primary"] for row in (first, *rest)] == [str(i) for i in range(3000)]


@pytest.mark.parametrize(
    ("what", "left"),
    [
        ({"speaker": "Ann"}, [("Bob", 0), ("Bob", 1)]),
        ({"start": NOON + timedelta(minutes=30)}, [("Ann", 0), ("Bob", 0)]),
        ({"end": NOON + timedelta(minutes=30), "speaker": "Bob"}, [("Ann", 0), ("Ann", 1), ("Bob", 1)]),
        ({"everything": True}, []),
    ],
)
def test_what_is_deleted_is_gone_from_the_file(
    history: History, path: Path, what: dict[str, Any], left: list[tuple[str, int]]
) -> None:
    marks = {(speaker, hour): f"{speaker}{hour}-" + 20 * "x" for speaker in ("Ann", "Bob") for hour in (0, 1)}
    for (speaker, hour), mark in marks.items():
        for i in range(150):  # so that there are several pages, and the log is longer than the file
            row = segment(speaker=speaker, compound=mark, start=i)
            history.add(answer(row), NOON + timedelta(hours=hour))
    assert all(mark.encode() in on_disk(path) for mark in marks.values())
    assert history.delete(**what) == 150 * (4 - len(left))
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA freelist_count").fetchone() == (0,), "the room is given back"
    stored = on_disk(path)
    assert [key for key, mark in sorted(marks.items()) if mark.encode() in stored] == left
    assert {row["compound"] for row in history.read()} == {marks[key] for key in left}
    [deletion] = history.audit()["deletions"]
    assert deletion["segments"] == 150 * (4 - len(left))
    assert "Ann" not in json.dumps(deletion)


def test_nothing_or_too_much_named_to_delete(history: History) -> None:
    history.add(answer(segment()), NOON)
    for what in {}, {"everything": True, "speaker": "Ann"}, {"everything": True, "start": NOON}:
        with pytest.raises(ValueError, match="pass a period, a speaker or both; or everything alone"):
            history.delete(**what)
    with pytest.raises(ValueError, match="no time zone"):
        history.delete(start=datetime(2026, 1, 1))
    assert len(list(history.read())) == 1


@pytest.mark.parametrize("again", [False, True], ids=["running", "restarted"])
@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_what_another_program_hinders_is_overwritten_later(path: Path, how: str, again: bool) -> None:
    """While it reads, what was deleted stays in the file or its log: never for good, and never without a word."""
    mark = "mark" + 20 * "x"
    history = History(path, raw_days=1)
    for i in range(150):
        history.add(answer(segment(compound=mark, start=i)), NOON - timedelta(days=5))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM segments").fetchall()
        history._connection.execute("PRAGMA busy_timeout = 100")
        message = "deleted, but another program is reading the file and a copy remains: close that program"
        with pytest.raises(HistoryError, match=message):
            history.delete(everything=True) if how == "deleted" else history.expire(NOON)
        size = len(on_disk(path))
        for _ in range(2):
            with pytest.raises(HistoryError, match=message):
                history.expire(NOON)
        assert len(on_disk(path)) <= size, "trying again does not add copies"
        assert not list(history.read(speaker="nobody"))
        assert history.audit()["overwritten"] is False
        assert mark.encode() in on_disk(path)
        if again:
            history.close()
    if again:
        history = History(path, raw_days=1)
    else:
        assert mark.encode() in on_disk(path), "closing the other program alone changes nothing"
    history.expire(NOON)
    assert mark.encode() not in on_disk(path)
    assert history.audit()["overwritten"] is True
    assert path.with_name(path.name + "-wal").stat().st_size < 20_000
    history.close()


def test_a_formula_is_text_in_a_table(history: History) -> None:
    history.add(answer(segment(speaker='=HYPERLINK("http://evil")')), NOON, "@SUM(1)")
    [row] = history.read()
    assert row["speaker"].startswith("="), "as JSON it is what was sent"
    table = dict(zip(COLUMNS, cells(row), strict=True))
    assert (table["speaker"], table["client"]) == ('\'=HYPERLINK("http://evil")', "'@SUM(1)")


def test_segments_become_days(path: Path) -> None:
    with closing(History(path, raw_days=30, aggregate_days=365)) as history:
        old = NOON - timedelta(days=40)
        quiet = {"arousal": 0.0, "dominance": 0.75, "valence": 0.0}
        short = segment("sad", 20, avd_scores=quiet) | {"end": 22.0}
        history.add(answer(segment("happy", compound="rapture"), short, segment("sad", 40, avd="labels")), old)
        history.add(answer(segment("angry", 50, None, None)), old)
        history.add(answer(segment("neutral")), NOON)
        history.expire(NOW)
        nobody, ann, recent = history.read()
        assert (recent["kind"], recent["primary"]) == ("segment", "neutral")
        assert tuple(ann) == FIELDS
        known = {name: value for name, value in ann.items() if value is not None}
        means = {"arousal": (4 * 0.5 + 2 * 0.0) / 6, "dominance": (4 * 0.25 + 2 * 0.75) / 6, "valence": 4 * 1.0 / 6}
        assert known.pop("avd_scores") == pytest.approx(means)
        assert known == {
            "kind": "day",
            "start": old.strftime("%Y-%m-%dT00:00:00.000Z"),
            "end": (old + timedelta(days=1)).strftime("%Y-%m-%dT00:00:00.000Z"),
            "seconds": 10.0,
            "segments": 3,
            "speaker": "Ann",
            "avd_from": "model",
            "labels": {"happy": 1, "sad": 2},
        }
        assert (nobody["speaker"], nobody["avd_scores"], nobody["labels"]) == (None, None, {"angry": 1})
        assert b"rapture" not in on_disk(path)

        # Segments that are older still and arrive later go into the same sums.
        history.add(answer(segment("happy", avd_scores=quiet)), old)
        history.expire(NOW)
        assert [row["segments"] for row in history.read()] == [1, 4, 1]
        assert next(row["avd_scores"]["arousal"] for row in history.read(speaker="Ann")) == pytest.approx(2 / 10)

        assert history.delete(end=old.replace(hour=1)) == 2, "a day goes as a whole"
        assert [row["primary"] for row in history.read()] == ["neutral"]


def test_a_history_without_shades_gains_them(path: Path) -> None:
    """Files of the previous version are opened and extended."""
    with closing(History(path)) as history:
        history.add(answer(segment()), NOON)
    with closing(sqlite3.connect(path)) as other:
        for name in "shade", "shade_probability":
            other.execute(f"ALTER TABLE segments DROP COLUMN {name}")
        other.execute("PRAGMA user_version = 1")
        other.commit()
    for _ in range(2):
        with closing(History(path)) as history:
            history.add(answer(segment()), NOON + timedelta(seconds=10))
            before, *after = history.read()
    assert before["shade"] is None
    assert [row["shade"] for row in after] == [segment()["emotion"]["shade"]] * 2


def test_days_expire_too(path: Path) -> None:
    with closing(History(path, raw_days=0, aggregate_days=10)) as history:
        for days in range(1, 15):
            history.add(answer(segment()), NOON - timedelta(days=days))
        history.expire(NOON + timedelta(minutes=1))
        kept = [datetime.fromisoformat(row["start"]) for row in history.read()]
        assert min(kept) + timedelta(days=1) > NOON + timedelta(minutes=1) - timedelta(days=10)
        assert len(kept) == 10, "those that end within the last ten days"
        history.expire(NOON + timedelta(days=100))
        assert list(history.read()) == []
    with closing(History(path, raw_days=0)) as history:
        history.add(answer(segment()), NOON)
        history.expire(NOON + timedelta(days=10_000))
        assert [row["kind"] for row in history.read()] == ["day"]


def test_the_audit_names_every_column_there_is(history: History, path: Path) -> None:
    history.add(answer(segment(), segment("sad", 8, None)), NOON)
    history.delete(speaker="nobody")
    audit = json.loads(json.dumps(history.audit()))
    with closing(sqlite3.connect(path)) as other:
        names = [name for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert sorted(names) == sorted(audit["tables"])
        for name, table in audit["tables"].items():
            columns = [row[1] for row in other.execute(f"PRAGMA table_info({name})")]
            assert columns == list(table["columns"])
            assert all(table["columns"].values())
            assert other.execute(f"SELECT count(*) FROM {name}").fetchone() == (table["rows"],)
    assert audit["segments"]["newest"] == NOON.strftime("%Y-%m-%dT12:00:08.000Z")
    assert audit["days"] == {"oldest": None, "newest": None}
    assert audit["settings"] == {"raw_days": 90, "aggregate_days": None, "emotion_enabled": True}
    assert audit["speakers"] == [
        {"speaker": None, "segments": 1, "seconds": 4.0},
        {"speaker": "Ann", "segments": 1, "seconds": 4.0},
    ]
    assert [deletion["what"] for deletion in audit["deletions"]] == ["by speaker"]


def test_off_survives_a_restart(path: Path) -> None:
    with closing(History(path)) as history:
        assert history.enabled
        history.enabled = False
    with closing(History(path)) as history:
        assert not history.enabled
        history.delete(everything=True)
    with closing(History(path)) as history:
        assert not history.enabled, "everything means the rows"


def test_many_threads(history: History) -> None:
    def work(i: int) -> None:
        for j in range(10):
            history.add(answer(segment(f"{i}-{j}", j), segment(start=j)), NOON + timedelta(minutes=i))
            assert len(list(history.read(speaker="Ann"))) >= 2
            history.expire(NOW)
            history.audit()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len({row["primary"] for row in history.read()}) == 81


def add_and_die(path: Path, added: Any) -> None:
    history = History(path)
    history.add(answer(segment("kept")), NOON)
    added.set()
    threading.Event().wait()


def test_what_was_stored_outlives_a_kill(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    added = context.Event()
    process = context.Process(target=add_and_die, args=(path, added))
    process.start()
    assert added.wait(30)
    process.kill()
    process.join()
    with closing(History(path)) as history:
        assert [row["primary"] for row in history.read()] == ["kept"]


# A limit on the size of files is a real failing write, as of a full disk; it holds for a process.
FULL = """
import resource, signal, sys
from datetime import UTC, datetime
sys.path.insert(0, sys.argv[2])
from test_history import History, HistoryError, answer, segment
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
history = History(sys.argv[1])
history.add(answer(segment("before")), datetime.now(UTC))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for what in ("add", "switch"):
    try:
        for i in range(500):
            if what == "add":
                history.add(answer(*[segment(f"{i}")] * 50), datetime.now(UTC))
            else:
                history.enabled = not history.enabled
    except HistoryError as error:
        print(error)
labels = [row["primary"] for row in history.read()]
print(labels[0], all(labels.count(label) == 50 for label in labels[1:]), history.enabled)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
history.add(answer(segment("after")), datetime.now(UTC))
print([row["primary"] for row in history.read()][-1])
"""


def test_a_write_that_fails_is_told_and_nothing_is_lost(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{path}: cannot be read or written: is the disk full or gone?"] * 2
    first, whole, enabled = lines[2].split()
    assert (first, whole, lines[3]) == ("before", "True", "after")
    with closing(History(path)) as history:
        assert str(history.enabled) == enabled


def test_no_more_room(path: Path) -> None:
    with closing(History(path)) as history:
        history._connection.execute("PRAGMA max_page_count = 12")
        with pytest.raises(HistoryError, match=r"history.sqlite: the disk is full: free some space$"):
            history.add(answer(*(segment(start=i) for i in range(1000))), NOON)
        assert list(history.read()) == []
        history.add(answer(segment()), NOON)


def damaged(path: Path) -> bytes:
    with closing(History(path)) as history:
        history.add(answer(*(segment(start=i) for i in range(1000))), NOON)
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 8] = os.urandom(4096 * 5)
    return bytes(data)


def another(path: Path) -> bytes:
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE segments (text TEXT)")
        other.commit()
    return path.read_bytes()


def newer(path: Path) -> bytes:
    History(path).close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
        other.commit()
    return path.read_bytes()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: b"no database at all, but somebody's letter", "not a history: it is left unchanged"),
        (damaged, "damaged .*: it is left unchanged; move it away or choose another file"),
        (another, "belongs to another program: choose another file"),
        (newer, "written by a newer e2v-port"),
    ],
)
def test_a_file_that_cannot_be_used_is_left_as_it_is(path: Path, make: Any, message: str) -> None:
    data = make(path)
    path.write_bytes(data)
    with pytest.raises(HistoryError, match=f"^{path}: {message}") as error:
        History(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == data


def test_places_where_there_can_be_no_file(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="not a file: pass the path of a file"):
        History(tmp_path)
    with pytest.raises(HistoryError, match=r"cannot be opened .* in a folder you own"):
        History(tmp_path / "missing" / "history.sqlite")


def test_times_that_cannot_be(history: History) -> None:
    for when in NOW + timedelta(days=3), datetime(1969, 12, 31, tzinfo=UTC), datetime.max.replace(tzinfo=UTC):
        with pytest.raises(HistoryError, match="pass the actual time"):
            history.add(answer(segment()), when)
    with pytest.raises(ValueError, match="no time zone"):
        history.add(answer(segment()), datetime(2026, 1, 1))
    with pytest.raises(HistoryError, match="not valid UTF-8"):
        history.add(answer(segment(speaker="\ud800")), NOON)
    for days in {"raw_days": -1}, {"aggregate_days": float("nan")}:
        with pytest.raises(ValueError, match="must be at least 0"):
            History(history._path, **days)
    assert list(history.read()) == []

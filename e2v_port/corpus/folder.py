"""The folder that a corpus' rows are written to: what shall be in it, what is there, and who may write.

    manifest.json     settings, models, and the clips and hash of every shard
    rows/part-*.parquet
    summary.json      of the last run that came to its end

A shard appears whole or not at all, and says itself what it was made from; so what is missing can be told at any time.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2v_port.corpus.rows import ABOUT, Shard, Tally
from e2v_port.corpus.sources import Clip
from e2v_port.errors import CorpusError
from e2v_port.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Folder"]

FORMAT = 1

# Of files, or members of a tar, in a shard: a day of speech at 24 kbit/s, two hours of WAV at 16 kHz. Our own choice.
BYTES = 256 << 20


class Folder:
    """A folder for the rows of one corpus by one set of models and settings.

    Args:
        path: Made where it does not exist yet.
        clips: As `sources.find` lists them.
        settings: Everything else that rows depend on, as JSON holds it.
        most: Clips in a shard.
    """

    def __init__(self, path: Path, clips: "pa.Table", settings: Mapping[str, Any], most: int) -> None:
        self.path, self._clips = path, clips
        self._rows = path / "rows"
        base = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        shards = [[first, count, self._key(base, first, count)] for first, count in _plan(clips, most)]
        self.manifest: dict[str, Any] = {
            "format": FORMAT,
            "clips": len(clips),
            "settings": dict(settings),
            "shards": shards,
        }

    def _key(self, base: "hashlib._Hash", first: int, count: int) -> str:
        """Hashes what the rows of a shard follow from, not where its files lie."""
        own = base.copy()
        for clip in self._read(first, count):
            known = (clip.file, clip.start, clip.end, clip.speaker, clip.reference, clip.stamp, clip.broken)
            own.update(json.dumps([first, known]).encode())
        return own.hexdigest()[:32]

    def _read(self, first: int, count: int) -> list[Clip]:
        return [Clip(**row) for row in self._clips.slice(first, count).to_pylist()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lets nobody else write there meanwhile.

        Raises:
            CorpusError: Somebody does, or the folder holds something else.
        """
        from filelock import FileLock, Timeout

        known = {"manifest.json", "summary.json", "rows", ".lock", "report.html", "report.png"}
        if self.path.exists() and (other := sorted({entry.name for entry in self.path.iterdir()} - known)):
            shown = [name for name in other if not name.startswith(".")]
            if shown:
                raise CorpusError(f"{self.path}: holds {shown[0]}, which is none of e2v corpus: name an empty folder")
        self._rows.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise CorpusError(
                f"{self.path}: another run is writing there: wait for its end, or name another folder"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, update: bool) -> tuple[list[int], Tally]:
        """Compares what is there with what shall be, and stores the latter.

        Args:
            update: Whether shards that were made otherwise, or that hold errors, are removed and made anew.

        Returns:
            The numbers of the shards that are missing, and what is to be counted of the others.

        Raises:
            CorpusError: Settings, models or clips have changed since, and `update` is not given.
        """
        stored = self._stored()
        if stored is not None and stored != self.manifest and not update:
            raise CorpusError(
                f"{self.path}: its rows were made otherwise: {_changes(stored, self.manifest)}. Go on as before, name "
                f"another folder, or do anew what has changed with --update"
            )
        if stored is None and any(self._rows.glob("part-*.parquet")):
            raise CorpusError(f"{self.path}: there are rows but no manifest.json: name another folder, or empty it")
        if stored != self.manifest:
            with replacing(self.path / "manifest.json") as partial:
                partial.write_text(json.dumps(self.manifest) + "\n", "utf-8")
        for folder in (self.path, self._rows):
            for left in folder.glob(".*.partial-*"):  # of a run that was killed
                shutil.rmtree(left)
        missing, tally = [], Tally.none()
        files = {file.name: file for file in self._rows.glob("part-*.parquet")}
        for number, (_, _, key) in enumerate(self.manifest["shards"]):
            about = _about(files.pop(_name(number), None))
            own = Tally.read(about["tally"]) if about and about["key"] == key else None
            if own is None or (update and own.failed):
                missing.append(number)
                (self._rows / _name(number)).unlink(missing_ok=True)
            else:
                tally.add(own)
        for file in files.values():  # there were more clips before
            file.unlink()
        return missing, tally

    def _stored(self) -> dict[str, Any] | None:
        path = self.path / "manifest.json"
        try:
            stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CorpusError(f"{path}: no JSON ({error}): name another folder, or empty this one") from error
        return stored

    def shard(self, number: int) -> Shard:
        """Returns what is to be done for one of them."""
        first, count, key = self.manifest["shards"][number]
        return Shard(number, first, self._read(first, count), key)

    def write(self, number: int, file: bytes) -> None:
        """Stores the file of a shard; once this returns, not even a power cut takes it away."""
        with replacing(self._rows / _name(number)) as partial, open(partial, "wb") as opened:
            opened.write(file)
            opened.flush()
            os.fsync(opened.fileno())


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _plan(clips: "pa.Table", most: int) -> Iterator[tuple[int, int]]:
    """Gives the first clip and the number of clips of each shard."""
    first, held, last = 0, 0, None
    for number, (address, offset, size) in enumerate(
        pair
        for batch in clips.select(["address", "offset", "size"]).to_batches()
        for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ):
        own = (size or 0) if (address, offset) != last else 0  # parts of one file count once
        if number > first and (number - first == most or held + own > BYTES):
            yield first, number - first
            first, held, own = number, 0, size or 0
        held, last = held + own, (address, offset)
    yield first, len(clips) - first


def _about(file: Path | None) -> dict[str, Any] | None:
    """Returns what a shard says of itself; None where there is none that can be read."""
    import pyarrow as pa
    from pyarrow import parquet

    if file is None:
        return None
    try:
        about: dict[str, Any] = json.loads(parquet.read_schema(file).metadata[ABOUT])
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError):
        return None
    return about


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = _flat(old.get("settings", {})), _flat(new["settings"])
    told = [
        f"{name} was {before.get(name, 'not there')}, now {after.get(name, 'not there')}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    if old.get("clips") != new["clips"]:
        told.append(f"clips were {old.get('clips')}, now {new['clips']}")
    elif not told:
        others = sum(a != b for a, b in zip(old.get("shards", ()), new["shards"], strict=False))
        told.append(f"clips have changed, in {others} of {len(new['shards'])} shards")
    return "; ".join(told)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

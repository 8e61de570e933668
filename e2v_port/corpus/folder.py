"""The output folder of a corpus: what belongs in it, what is there already, and a lock for the writer.

    manifest.json         settings, models, and the clips and the key of every shard
    rows/part-*.parquet   one file per shard
    checksums.sha256      a line per finished shard, for `sha256sum --check`
    summary.json          result of the last complete run

A shard appears complete or not at all, and its file records what it was made from, so that a later run can tell which
shards are missing. A shard that is not as it was written is missing too.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2v_port.corpus.job import digest
from e2v_port.corpus.shards import ABOUT, Shard, Tally
from e2v_port.corpus.sources import Clip
from e2v_port.errors import CorpusError
from e2v_port.files import naming, replacing, sync

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Folder", "checksums"]

FORMAT = 1
CHECKSUMS = "checksums.sha256"

# Audio bytes per shard: a day of speech at 24 kbit/s, two hours of WAV at 16 kHz. Heuristic.
BYTES = 256 << 20


class Folder:
    """A folder for the rows of one corpus, made by one set of models and settings.

    Args:
        path: The folder; created if missing.
        clips: Clips as listed by `sources.find`.
        settings: Everything else the rows depend on, as JSON-compatible values.
        most: Largest number of clips per shard.

    Attributes:
        path: The folder.
        manifest: Contents of manifest.json.
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
        """Hashes everything the rows of a shard depend on, which excludes the location of its files."""
        key = base.copy()
        for clip in self._read(first, count):
            known = (clip.file, clip.start, clip.end, clip.speaker, clip.reference, clip.stamp, clip.broken)
            key.update(json.dumps([first, known]).encode())
        return key.hexdigest()[:32]

    def _read(self, first: int, count: int) -> list[Clip]:
        return [Clip(**row) for row in self._clips.slice(first, count).to_pylist()]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other runs from writing to the folder.

        Raises:
            CorpusError: Another run is writing to it, or it holds other files.
        """
        from filelock import FileLock, Timeout

        known = {"manifest.json", "summary.json", "checksums.sha256", "rows", ".lock", "report.html", "report.png"}
        if self.path.exists() and (other := sorted({entry.name for entry in self.path.iterdir()} - known)):
            shown = [name for name in other if not name.startswith(".")]
            if shown:
                raise CorpusError(f"{self.path}: contains {shown[0]}, not from e2v corpus: pass an empty folder")
        self._rows.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise CorpusError(
                f"{self.path}: another run is writing to it: wait until it ends, or pass another folder"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, update: bool) -> tuple[list[int], Tally]:
        """Stores the manifest and finds the shards to make.

        Args:
            update: Whether to delete and remake shards made with other settings, models or clips, and shards with
                errors.

        Returns:
            The numbers of the missing shards, and the tally of the others.

        Raises:
            CorpusError: Settings, models or clips have changed and `update` is false.
        """
        stored = self._stored()
        if stored is not None and stored != self.manifest and not update:
            raise CorpusError(
                f"{self.path}: its rows were made with other settings: {_changes(stored, self.manifest)}. Restore "
                f"them, pass another folder, or remake what has changed with --update"
            )
        if stored is None and any(self._rows.glob("part-*.parquet")):
            raise CorpusError(f"{self.path}: rows without a manifest.json: pass another folder, or empty this one")
        if stored != self.manifest:
            with replacing(self.path / "manifest.json") as partial:
                partial.write_text(json.dumps(self.manifest) + "\n", "utf-8")
        for folder in (self.path, self._rows):
            for left in folder.glob(".*.partial-*"):  # left by a killed run
                shutil.rmtree(left)
        missing, tally = [], Tally.none()
        known, good = checksums(self.path), {}
        files = {file.name: file for file in self._rows.glob("part-*.parquet")}
        for number, (_, _, key) in enumerate(self.manifest["shards"]):
            file = files.pop(_name(number), None)
            about = _about(file) if file and digest(file) == known.get(file.name) else None
            counts = Tally.read(about["tally"]) if about and about["key"] == key else None
            if counts is None or (update and counts.failed):
                missing.append(number)
                (self._rows / _name(number)).unlink(missing_ok=True)
            else:
                tally.add(counts)
                good[_name(number)] = known[_name(number)]
        with replacing(self.path / CHECKSUMS) as partial:
            partial.write_text("".join(f"{hashed}  rows/{name}\n" for name, hashed in good.items()), "utf-8")
        for file in files.values():  # the source had more clips before
            file.unlink()
        return missing, tally

    def _stored(self) -> dict[str, Any] | None:
        path = self.path / "manifest.json"
        try:
            stored: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise CorpusError(f"{path}: not JSON ({error}): pass another folder, or empty this one") from error
        return stored

    def shard(self, number: int) -> Shard:
        """Returns a shard by its number."""
        first, count, key = self.manifest["shards"][number]
        return Shard(number, first, self._read(first, count), key)

    def write(self, number: int, file: bytes) -> None:
        """Stores the file of a shard and its checksum durably: once this returns, they survive a power cut."""
        lines = self.path / CHECKSUMS  # first, since a checksum without a file does no harm
        with naming(lines), lines.open("a", encoding="utf-8") as opened:
            opened.write(f"{hashlib.sha256(file).hexdigest()}  rows/{_name(number)}\n")
        sync(lines)
        with replacing(self._rows / _name(number)) as partial:
            partial.write_bytes(file)


def checksums(folder: Path) -> dict[str, str]:
    """Returns the SHA-256 of each finished shard of an output folder, by the name of its file."""
    try:
        text = (folder / CHECKSUMS).read_text("utf-8", "replace")
    except FileNotFoundError:
        return {}
    lines = (line.split("  rows/") for line in text.splitlines())
    return {line[1]: line[0] for line in lines if len(line) == 2}


def _name(number: int) -> str:
    return f"part-{number:06}.parquet"


def _plan(clips: "pa.Table", most: int) -> Iterator[tuple[int, int]]:
    """Yields the first clip and the number of clips of each shard."""
    first, held, last = 0, 0, None
    for number, (address, offset, size) in enumerate(
        pair
        for batch in clips.select(["address", "offset", "size"]).to_batches()
        for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
    ):
        added = (size or 0) if (address, offset) != last else 0  # parts of one file count once
        if number > first and (number - first == most or held + added > BYTES):
            yield first, number - first
            first, held, added = number, 0, size or 0
        held, last = held + added, (address, offset)
    yield first, len(clips) - first


def _about(file: Path) -> dict[str, Any] | None:
    """Returns the key and the tally stored in the file of a shard; None if it is damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        about: dict[str, Any] = json.loads(parquet.read_schema(file).metadata[ABOUT])
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError):
        return None
    return about


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    before, after = _flat(old.get("settings", {})), _flat(new["settings"])
    changes = [
        f"{name} was {before.get(name, 'absent')}, now {after.get(name, 'absent')}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    if old.get("clips") != new["clips"]:
        changes.append(f"clips were {old.get('clips')}, now {new['clips']}")
    elif not changes:
        others = sum(a != b for a, b in zip(old.get("shards", ()), new["shards"], strict=False))
        changes.append(f"clips have changed, in {others} of {len(new['shards'])} shards")
    return "; ".join(changes)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat

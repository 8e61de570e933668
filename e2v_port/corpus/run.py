"""From a source of clips to a folder of rows, on this machine or a cluster: nothing is done twice, nothing lost."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e2v_port import __version__, catalog, conversion
from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE
from e2v_port.config import ModelConfig
from e2v_port.corpus.decoder import Rules
from e2v_port.corpus.folder import Folder
from e2v_port.corpus.sources import find
from e2v_port.errors import CorpusError, E2VError
from e2v_port.files import replacing
from e2v_port.fusion import FusionSettings
from e2v_port.segments import SegmentSettings

__all__ = ["ENGINES", "LONGEST", "SHARD", "Job", "Progress", "Summary", "TooManyErrors", "digest", "run"]

ENGINES = {"local": "machine", "ray": "cluster"}

LONGEST = 3600.0  # seconds of a clip; 230 MB while it is looked through for speech
SHARD = 500  # clips: enough to sort by length, and minutes of work for a large model without a GPU


@dataclass(frozen=True)
class Job:
    """What an engine has to know beside the clips.

    Attributes:
        models: By kind, `categorical` and `dimensional`: a name or folder.
        digests: sha256 of their weights, likewise.
        runtime: `cuda`, `cpu`, `mps` or `mlx`.
        dtype: As for `load`.
        offline: Likewise.
        rules: How clips are cut.
        fusion: Of the two models.
        embeddings: Whether rows have one.
        decoders: Processes that decode, for each of these; None for one for each of its cores.
        workers: How many sets of models work beside each other; None for as many as the machine is good for.
    """

    models: dict[str, str]
    digests: dict[str, str]
    runtime: str
    dtype: str | None
    offline: bool
    rules: Rules
    fusion: FusionSettings
    embeddings: bool
    decoders: int | None
    workers: int | None


@dataclass
class Progress:
    """Who wants to know how far a run is.

    Attributes:
        start: Told once how many clips there are, how many of them are done, and how many seconds of audio these have.
        advance: Told of each clip that is read: 1 and its seconds. From several threads.
        said: Told a line about what was left out or goes wrong.
    """

    start: Callable[[int, int, float], None] = lambda clips, done, seconds: None
    advance: Callable[[int, float], None] = lambda clips, seconds: None
    said: Callable[[str], None] = lambda line: None


@dataclass(frozen=True)
class Summary:
    """What a run came to.

    Attributes:
        clips: In the folder now.
        rows: Likewise.
        hours: Of all clips that could be read.
        errors: Clips by the reason why they could not be judged, the most frequent first.
        failed: How many of these failed: all but those that hold no speech.
        labels: Rows by label, likewise.
        done: Clips that this run did itself.
        seconds: It took, models loaded.
        speed: Seconds of audio in a second, of what it did itself.
    """

    clips: int
    rows: int
    hours: float
    errors: dict[str, int]
    failed: int
    labels: dict[str, int]
    done: int
    seconds: float
    speed: float


class TooManyErrors(CorpusError):
    """More clips than allowed cannot be judged.

    Attributes:
        summary: Of what was done until then.
    """

    def __init__(self, message: str, summary: Summary) -> None:
        super().__init__(message)
        self.summary = summary


def run(
    source: str,
    out: str | Path,
    *,
    model: str | None = None,
    dimensional: str | None = None,
    runtime: str = "auto",
    dtype: str | None = None,
    whole: bool = False,
    embeddings: bool = False,
    longest: float = LONGEST,
    settings: SegmentSettings | None = None,
    fusion: FusionSettings | None = None,
    max_errors: float = 0.2,
    shard: int = SHARD,
    update: bool = False,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    decoders: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Judges every clip of a source and writes a row for each, or for each stretch of speech in it.

    Interrupted at any moment, the same call goes on where it was, and ends with the same rows.

    Args:
        source: A folder, glob, list, table or tar shards, or an address: see `sources.find`.
        out: The folder for the rows, no address; one that was begun is gone on with.
        model: Gives labels: a name or folder as for `load`. `bundled` where neither this nor `dimensional` is given.
        dimensional: Gives arousal, dominance and valence: likewise.
        runtime: As for `load`; on a cluster, `auto` is CUDA where it has GPUs.
        dtype: As for `load`, but not `auto`, which may be another on the next machine.
        whole: A row for each clip as it is; by default one for each stretch of speech in it.
        embeddings: Also the embedding of each row, float16.
        longest: Seconds, up to 6 hours; a longer clip becomes an error.
        settings: Of segments.
        fusion: Of the two models.
        max_errors: Share of the clips, 0 to 1; where more cannot be judged, the run stops. 0.2 is our own choice.
        shard: Clips in a shard, which is a file of rows: what goes through the models together, and what is lost when a
            run is killed. Fewer where 256 MB of files are reached.
        update: Do anew what was made with other models, settings or clips, and what holds errors.
        engine: `local`, or `ray` for a cluster.
        address: Of the cluster, as for `ray.init`; without one, one is started on this machine.
        workers: Sets of models, each in a process; by default one for each GPU. Without any, one on this machine, or
            one for each core (8 at most) where they are as small as `bundled`; on a cluster one for each four cores.
        decoders: Processes that decode, for each of these; by default one for each core it has, 16 at most.
        offline: Never open a connection to a hub.
        progress: Who wants to know.

    Raises:
        CorpusError: The source cannot be read, or the folder holds other rows or belongs to another run.
        TooManyErrors: See `max_errors`. What was done is kept.
        NoLabels: A model is not of the kind it is to be used as.
        ValueError: Options that make no sense.
        E2VError: As for `load`; a library is missing.
    """
    progress = progress or Progress()
    if re.match(r"\w\w+:/", str(out)):  # and no letter of a drive
        raise ValueError(f"{out} is an address: rows are written to a folder of this machine, or one mounted on it")
    _check(engine, dtype, longest, max_errors)
    _check_counts(shard=shard, workers=workers, decoders=decoders)
    if engine == "local" and address:
        raise ValueError("an address belongs to a cluster: name engine ray")
    if model is None and dimensional is None:
        model = catalog.BUNDLED
    given = {kind: name for kind, name in (("categorical", model), ("dimensional", dimensional)) if name}
    folders = {kind: conversion.folder_of(name, offline=offline) for kind, name in given.items()}
    clips = find(source, progress.said)
    module = import_module(f"e2v_port.corpus.{ENGINES[engine]}")
    with module.opened(runtime, dtype, address) as chosen:
        job = Job(
            models=given,
            digests={kind: digest(path / "model.safetensors") for kind, path in folders.items()},
            runtime=chosen,
            dtype=dtype,
            offline=offline,
            rules=Rules(whole, float(longest), settings or SegmentSettings()),
            fusion=fusion or FusionSettings(),
            embeddings=embeddings,
            decoders=decoders,
            workers=workers,
        )
        configs = {kind: ModelConfig.read(path) for kind, path in folders.items()}
        folder = Folder(Path(out), clips, _depends_on(job, configs, shard), shard)
        with folder.locked():
            return _run(job, folder, module.run, update=update, max_errors=max_errors, progress=progress)


def _run(
    job: Job, folder: Folder, engine: Callable[..., Any], *, update: bool, max_errors: float, progress: Progress
) -> Summary:
    missing, tally = folder.begin(update)
    progress.start(folder.manifest["clips"], tally.clips, tally.seconds)
    clips, seconds, started = tally.clips, tally.seconds, time.perf_counter()

    def summary() -> Summary:
        taken = time.perf_counter() - started
        return Summary(
            clips=tally.clips,
            rows=tally.rows,
            hours=tally.seconds / 3600,
            errors=dict(tally.errors.most_common()),
            failed=tally.failed,
            labels=dict(tally.labels.most_common()),
            done=tally.clips - clips,
            seconds=taken,
            speed=(tally.seconds - seconds) / taken,
        )

    if missing:  # else no model is loaded
        with closing(engine(job, len(missing), map(folder.shard, missing), progress)) as results:
            for left, (number, file, own) in zip(reversed(range(len(missing))), results, strict=True):
                folder.write(number, file)
                tally.add(own)
                if left and tally.failed > max_errors * tally.clips:
                    raise TooManyErrors(
                        f"{tally.failed} of {tally.clips} clips cannot be judged, more than {max_errors:.0%}: see what "
                        f"they are, or allow more with --max-errors; {folder.path} keeps what is done",
                        summary(),
                    )
    found = summary()
    with replacing(folder.path / "summary.json") as partial:
        partial.write_text(json.dumps(asdict(found), ensure_ascii=False, indent=1) + "\n", "utf-8")
    return found


def _check(engine: str, dtype: str | None, longest: float, max_errors: float) -> None:
    if engine not in ENGINES:
        raise ValueError(f"no engine is called {engine}: use {', '.join(ENGINES)}")
    if dtype == "auto":
        raise ValueError("dtype auto may be another on the next machine: name one, as bfloat16")
    if not MIN_SAMPLES / SAMPLING_RATE <= longest <= 6 * 3600:
        raise ValueError(f"longest must be 0.025 to 21600 s, not {longest!r}")
    if not 0 <= max_errors <= 1:
        raise ValueError(f"max_errors is a share, 0 to 1, not {max_errors!r}")
    libraries = {"pyarrow": "batch", "fsspec": "batch", "filelock": "batch"}
    for library, extra in (libraries | {"ray": "ray"} if engine == "ray" else libraries).items():
        if find_spec(library) is None:
            raise E2VError(f'a corpus needs {library}, which is not installed: pip install "e2v-port[{extra}]"')


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more, not {count!r}")


def digest(path: Path) -> str:
    """Returns the sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _depends_on(job: Job, configs: Mapping[str, ModelConfig], shard: int) -> dict[str, Any]:
    """Returns everything that rows depend on beside the clips."""
    models = {
        kind: {
            "name": config.source.repository,
            "weights": job.digests[kind],
            "temperature": config.temperature,
            "config": hashlib.sha256(config.to_json().encode()).hexdigest(),
        }
        for kind, config in configs.items()
    }
    settings = {
        "version": __version__,
        "runtime": job.runtime,
        "dtype": job.dtype,
        "embeddings": job.embeddings,
        "shard": shard,
    }
    return {**settings, "models": models, "rules": asdict(job.rules), "fusion": asdict(job.fusion)}

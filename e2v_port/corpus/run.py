"""From a source of clips to a folder of rows, on this machine or a cluster. An interrupted run is resumed."""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE, channel_number
from e2v_port.checkpoints import catalog
from e2v_port.corpus.cutting import Rules
from e2v_port.corpus.folder import Folder
from e2v_port.corpus.job import Engine, Job, Progress, Summary, TooManyErrors, digest
from e2v_port.corpus.sources import find
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import CorpusError, E2VError, quoted
from e2v_port.files import replacing
from e2v_port.models.load import weights_of
from e2v_port.speech.segment import SegmentSettings
from e2v_port.version import __version__

__all__ = ["ENGINES", "LONGEST", "SHARD", "run"]

ENGINES = ("local", "ray")

LONGEST = 3600.0  # seconds of a clip; takes 230 MB while speech is being found in it
SHARD = 500  # clips: enough to sort by length, and minutes of work for a large model without a GPU


def run(
    source: str,
    out: str | Path,
    *,
    model: str | None = None,
    dimensional: str | None = None,
    runtime: str = "auto",
    dtype: str | None = None,
    labels: str | None = None,
    channel: int | str = "mix",
    whole: bool = False,
    embeddings: bool = False,
    adapt: bool = False,
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
    """Judges every clip of a source and writes a row for each clip, or for each speech segment in it.

    Repeating an interrupted call resumes it and ends with the same rows.

    Args:
        source: Folder, glob, list, table, tar shards, or an address of these; see `sources.find`.
        out: Output folder, on this machine or mounted on it.
        model: Model with labels: name or folder as for `load`. `bundled` if neither this nor `dimensional` is given.
        dimensional: Model of arousal, dominance and valence: name or folder as for `load`.
        runtime: Runtime as for `load`; on a cluster `auto` is CUDA if it has GPUs.
        dtype: Type as for `load`, except `auto`, which may differ between machines.
        labels: Labels that the answers of `model` are limited to, separated by commas, as for `Model.limited`; by
            default all of them. Rows have no column for any other label.
        whole: Whether to write a row per clip, judged as a whole; otherwise a row per speech segment.
        embeddings: Whether to add the embedding of each row, as float16.
        adapt: Whether to adapt to each named speaker, from all rows of that speaker in the same output file; the column
            `adaptation` says so, or why not. Keep the clips of a speaker together, and raise `shard` for many.
        channel: Channel of the clips: `mix`, `left`, `right`, a number from 1, or `each` as one speaker, whose rows
            then have its name where the source has none.
        longest: Longest clip in seconds, up to 6 hours; a longer one becomes an error.
        settings: Settings of the speech segments.
        fusion: Settings of the fusion of the two models.
        max_errors: Share of clips that may fail, 0 to 1. The default is chosen here.
        shard: Clips per shard. A shard is one output file, goes through the models together, and is the most work
            that a killed run loses. A shard ends earlier once its files reach 256 MB.
        update: Whether to redo shards made with other models, settings or clips, and shards with errors.
        engine: `local`, or `ray` for a cluster.
        address: Address of the cluster, as for `ray.init`; by default a cluster is started on this machine.
        workers: Number of sets of models, each in its own process. By default one per GPU; without a GPU one, or one
            per core (at most 8) for models as small as `bundled`; on a cluster without GPUs one per four cores.
        decoders: Number of decoding processes for each set of models; by default one per core, at most 16.
        offline: Whether to avoid all network access.
        progress: Callbacks that receive the progress.

    Raises:
        CorpusError: The source cannot be read, or the folder holds other rows or is in use.
        TooManyErrors: More than `max_errors` of the clips failed, so far or in the end. Finished shards are kept.
        NoLabels: A model is not of the kind it is used as.
        ValueError: An option is invalid.
        E2VError: A model cannot be loaded, or a library is missing.
    """
    progress = progress or Progress()
    _check_place(out, engine, address)
    _check(engine, dtype, longest, max_errors)
    if channel != "each":
        channel_number(channel)
    _check_counts(shard=shard, workers=workers, decoders=decoders)
    if model is None and dimensional is None:
        model = catalog.BUNDLED
    names = {kind: name for kind, name in (("categorical", model), ("dimensional", dimensional)) if name}
    if labels is not None and "categorical" not in names:
        raise ValueError("no model that gives labels is named, so that there are none to choose among")
    weights = {kind: weights_of(name, runtime, offline=offline) for kind, name in names.items()}
    clips = find(source, progress.note)
    if adapt and channel != "each" and clips["speaker"].null_count == len(clips):
        raise CorpusError(f"{source} does not say who speaks: add a column speaker, or leave --adapt out")
    chosen = _engine(engine)
    with chosen.opened(runtime, dtype, address) as device:
        job = Job(
            models=names,
            digests={kind: digest(path) for kind, path in weights.items()},
            runtime=device,
            dtype=dtype,
            labels=labels,
            offline=offline,
            rules=Rules(whole, float(longest), settings or SegmentSettings(), channel),
            fusion=fusion or FusionSettings(),
            embeddings=embeddings,
            adapt=adapt,
            decoders=decoders,
            workers=workers,
        )
        configs = {kind: ModelConfig.read(path.parent) for kind, path in weights.items()}
        folder = Folder(Path(out), clips, _depends_on(job, configs, shard), shard)
        with folder.locked():
            return _run(job, folder, chosen, update=update, max_errors=max_errors, progress=progress)


def _engine(name: str) -> Engine:
    if name == "ray":
        from e2v_port.corpus import cluster

        return cluster
    from e2v_port.corpus import machine

    return machine


def _run(job: Job, folder: Folder, engine: Engine, *, update: bool, max_errors: float, progress: Progress) -> Summary:
    """Makes the missing shards of a folder, and writes its summary."""
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

    def check() -> None:
        if tally.failed > max_errors * tally.clips:
            raise TooManyErrors(
                f"{tally.failed} of {tally.clips} clips cannot be judged, more than {max_errors:.0%}: fix them "
                f"or raise --max-errors; finished shards are kept in {folder.path}",
                summary(),
            )

    if missing:  # otherwise no model is loaded
        with closing(engine.run(job, len(missing), map(folder.shard, missing), progress)) as results:
            for left, (number, file, counts) in zip(reversed(range(len(missing))), results, strict=True):
                folder.write(number, file)
                tally.add(counts)
                if left:
                    check()
    result = summary()
    with replacing(folder.path / "summary.json") as partial:
        partial.write_text(json.dumps(asdict(result), ensure_ascii=False, indent=1) + "\n", "utf-8")
    check()  # the whole, with the last shard, once it is stored
    return result


def _check_place(out: str | Path, engine: str, address: str | None) -> None:
    if re.match(r"\w\w+:/", str(out)):  # two letters or more: not a Windows drive
        raise ValueError(f"{out} is an address: rows are written to a folder of this machine, or one mounted on it")
    if engine == "local" and address:
        raise ValueError("an address needs a cluster: use engine ray")


def _check(engine: str, dtype: str | None, longest: float, max_errors: float) -> None:
    if engine not in ENGINES:
        raise ValueError(f"no engine is called {engine}: use {', '.join(ENGINES)}")
    if dtype == "auto":
        raise ValueError("dtype auto may differ between machines: name a type, such as bfloat16")
    if not MIN_SAMPLES / SAMPLING_RATE <= longest <= 6 * 3600:
        raise ValueError(f"longest must be 0.025 to 21600 s, not {quoted(longest)}")
    if not 0 <= max_errors <= 1:
        raise ValueError(f"max_errors must be a share, 0 to 1, not {quoted(max_errors)}")
    libraries = {"pyarrow": "batch", "fsspec": "batch", "filelock": "batch"}
    for library, extra in (libraries | {"ray": "ray"} if engine == "ray" else libraries).items():
        if find_spec(library) is None:
            raise E2VError(f'a corpus needs {library}, which is not installed: pip install "e2v-port[{extra}]"')


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be 1 or more, not {quoted(count)}")


def _depends_on(job: Job, configs: Mapping[str, ModelConfig], shard: int) -> dict[str, Any]:
    """Returns everything that the rows depend on besides the clips."""
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
    if job.adapt:
        settings["adapt"] = True
    if job.labels is not None:
        settings["labels"] = job.labels
    return {**settings, "models": models, "rules": asdict(job.rules), "fusion": asdict(job.fusion)}

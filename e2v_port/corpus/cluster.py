"""The engine for many machines: shards through a Ray Data pipeline, on a cluster or on this machine.

A shard goes to an actor that has a GPU, or some cores, of its own, and in it through the same decoding processes and
the same models as on one machine: audio, 64 KB a second, never crosses the network, only the finished file of a shard
does. The one who started the run writes these files, so that nothing on the cluster can write to a run that is over.
What a worker that dies was doing is done again by another.
"""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from e2v_port import conversion, devices
from e2v_port.corpus.machine import AT_ONCE, judge
from e2v_port.corpus.rows import Shard, Tally
from e2v_port.corpus.run import Job, Progress, digest
from e2v_port.errors import CorpusError, E2VError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["opened", "run"]

CORES = 4  # of a worker without a GPU: two batches run at a time, and decoding takes as much again


@contextmanager
def opened(runtime: str, dtype: str | None, address: str | None) -> Iterator[str]:
    """Connects to a cluster, or starts one, and gives what `auto` is there; any other is the workers' business."""
    import ray

    connected = not ray.is_initialized()
    if connected:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else it tells its makers
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # an actor that dies is not this program's error
        alone: dict[str, Any] = {"include_dashboard": False} if address is None else {}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **alone)
        except (ConnectionError, ValueError, RuntimeError) as error:
            # Without the right token Ray says no more than that it cannot connect.
            token = "" if address in {None, "auto"} else "; if it has a token, set RAY_AUTH_MODE=token"
            raise CorpusError(f"no Ray cluster at {address or 'this machine'}: {error}{token}") from error
    try:
        if runtime == "auto":
            runtime = "cuda" if ray.cluster_resources().get("GPU") else devices.choose("auto", dtype)
        yield runtime
    finally:
        if connected:
            ray.shutdown()


class _Worker:
    """An actor: the models, and processes that decode for them."""

    def __init__(self, job: Job) -> None:
        for kind, name in job.models.items():
            folder = conversion.folder_of(name, offline=job.offline)
            if digest(folder / "model.safetensors") != job.digests[kind]:
                raise CorpusError(f"{folder}: other weights than where the run was started: copy them here")
        self._open = ExitStack()
        self._judge = self._open.enter_context(judge(job))

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        done: dict[str, list[Any]] = {"number": [], "file": [], "tally": []}
        for data in batch["shard"].to_pylist():
            shard = pickle.loads(data)
            file, tally = self._judge.parquet(shard, lambda clips, seconds: None)
            for column, value in zip(done.values(), (shard.number, file, pickle.dumps(tally)), strict=True):
                column.append(value)
        return pa.table(done, pa.schema({"number": pa.int64(), "file": pa.large_binary(), "tally": pa.binary()}))


def run(job: Job, count: int, shards: Iterable[Shard], progress: Progress) -> Iterator[tuple[int, bytes, Tally]]:
    """Gives the number, the file and the tally of each shard, as they are done."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0)) if job.runtime == "cuda" else 0
    workers = job.workers or gpus or max(1, cores // CORES)
    each = max(1, cores // workers)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for handler in logging.getLogger("ray.data").handlers:
        if not isinstance(handler, logging.FileHandler):
            handler.setLevel(logging.CRITICAL)  # what ends the run is raised as well
    items = [{"shard": pickle.dumps(shard)} for shard in shards]
    done = ray.data.from_items(items, override_num_blocks=count).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(replace(job, decoders=job.decoders or each),),
        compute=ray.data.ActorPoolStrategy(
            size=min(workers, count), max_concurrent_calls_per_actor=AT_ONCE, enable_true_multi_threading=True
        ),
        num_cpus=each,
        num_gpus=gpus / workers if gpus else None,
    )
    try:
        for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast("pa.Table", batch).to_pylist():
                tally = pickle.loads(row["tally"])
                progress.advance(tally.clips, tally.seconds)
                yield row["number"], row["file"], tally
    except ray.exceptions.RayError as error:
        raise _own(error) from error


def _own(error: Exception) -> E2VError:
    """Returns what a worker raised; Ray hands on its text."""
    last = str(error).strip().splitlines()[-1]
    name, _, why = last.rpartition("e2v_port.errors.")[2].partition(": ")
    return CorpusError(why if name != last and why else f"the cluster gave up: {last}")

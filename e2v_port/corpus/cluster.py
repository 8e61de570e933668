"""The engine for many machines: shards go through a Ray Data pipeline, on a cluster or on this machine.

A shard goes to an actor with its own GPU or cores, which decodes and judges it as on a single machine. Audio (64 KB/s)
never crosses the network, only the finished file of the shard does. The process that started the run writes these
files, so nothing on the cluster can write to a run that has ended. If a worker dies, another one redoes its shards.
"""

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from e2v_port.corpus.job import Job, Progress, Results, digest
from e2v_port.corpus.machine import AT_ONCE, judge
from e2v_port.corpus.shards import Shard
from e2v_port.errors import CorpusError, E2VError
from e2v_port.models import devices
from e2v_port.models.load import weights_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["opened", "run"]

_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",  # otherwise Ray reports usage to its makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # a dying actor is not an error of this program
}

CORES = 4  # per worker without a GPU: two batches run at a time, and decoding takes as much again


@contextmanager
def opened(runtime: str, dtype: str | None, address: str | None) -> Iterator[str]:
    """Connects to a cluster, or starts one, and provides the runtime, with `auto` resolved."""
    import ray

    with nullcontext() if ray.is_initialized() else _connected(address):
        if runtime == "auto":
            runtime = "cuda" if ray.cluster_resources().get("GPU") else devices.choose("auto", dtype)
        yield runtime


@contextmanager
def _connected(address: str | None) -> Iterator[None]:
    """Connects inside the block; afterwards restores the environment and the level of Ray's logger."""
    import ray

    level = logging.getLogger("ray").level
    changed = [name for name in _VARIABLES if name not in os.environ]
    os.environ.update({name: _VARIABLES[name] for name in changed})
    alone: dict[str, Any] = {"include_dashboard": False} if address is None else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **alone)
        yield
    except (ConnectionError, ValueError, RuntimeError) as error:
        if ray.is_initialized():
            raise
        # Without the right token Ray only reports that it cannot connect.
        token = "" if address in {None, "auto"} else "; if it has a token, set RAY_AUTH_MODE=token"
        raise CorpusError(f"no Ray cluster at {address or 'this machine'}: {error}{token}") from error
    finally:
        ray.shutdown()
        logging.getLogger("ray").setLevel(level)
        for name in changed:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides Ray's progress bars and its log of errors, which are raised as well, inside the block."""
    import ray

    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False
    handlers = [
        (handler, handler.level)
        for handler in logging.getLogger("ray.data").handlers
        if not isinstance(handler, logging.FileHandler)
    ]
    for handler, _ in handlers:
        handler.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars = bars
        for handler, level in handlers:
            handler.setLevel(level)


class _Worker:
    """An actor: the models and their decoding processes."""

    def __init__(self, job: Job) -> None:
        for kind, name in job.models.items():
            weights = weights_of(name, job.runtime, offline=job.offline)
            if digest(weights) != job.digests[kind]:
                raise CorpusError(
                    f"{weights.parent}: the weights differ from those where the run was started: copy them here"
                )
        self._open = ExitStack()
        self._judge = self._open.enter_context(judge(job))

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        import pyarrow as pa

        columns: dict[str, list[Any]] = {"number": [], "file": [], "tally": []}
        for data in batch["shard"].to_pylist():
            shard = pickle.loads(data)
            file, tally = self._judge.parquet(shard, lambda clips, seconds: None)
            for column, value in zip(columns.values(), (shard.number, file, pickle.dumps(tally)), strict=True):
                column.append(value)
        return pa.table(columns, pa.schema({"number": pa.int64(), "file": pa.large_binary(), "tally": pa.binary()}))


def run(job: Job, count: int, shards: Iterable[Shard], progress: Progress) -> Results:
    """Yields the number, the file and the tally of each shard, in the order they are finished."""
    import ray

    resources = ray.cluster_resources()
    cores, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0)) if job.runtime == "cuda" else 0
    workers = job.workers or gpus or max(1, cores // CORES)
    each = max(1, cores // workers)
    items = [{"shard": pickle.dumps(shard)} for shard in shards]
    with _quiet():
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
            raise _original(error) from error


def _original(error: Exception) -> E2VError:
    """Returns the error that a worker raised; Ray only passes on its text."""
    last = str(error).strip().splitlines()[-1]
    name, _, why = last.rpartition("e2v_port.errors.")[2].partition(": ")
    return CorpusError(why if name != last and why else f"the cluster failed: {last}")

"""The engine for one machine: decoding processes feed one set of models per device."""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from e2v_port.corpus.decoding import Decoders
from e2v_port.corpus.job import Job, Progress, Results
from e2v_port.corpus.rows import ShardWriter
from e2v_port.corpus.shards import Shard, Tally
from e2v_port.errors import CorpusError, E2VError
from e2v_port.models import devices
from e2v_port.models.convert import folder_of
from e2v_port.models.load import load

__all__ = ["AT_ONCE", "cores", "judge", "opened", "run", "run_here"]

# Shards in progress: the next one runs while the last batch of the one before leaves the device half idle.
AT_ONCE = 2
_AHEAD = AT_ONCE + 1  # one more waits, so that no thread idles while a file is written

_MOST_DECODERS = 16  # by default; each takes 50 MB, or 300 MB if it finds speech

# Models of fewer bytes are limited by Python rather than by arithmetic, so they get one process per core. Heuristic, as
# is the largest number: each process holds torch, about 300 MB.
_SMALL, _MOST_WORKERS = 64 << 20, 8


@contextmanager
def opened(runtime: str, dtype: str | None, address: str | None) -> Iterator[str]:
    """Provides the runtime that `runtime`, possibly `auto`, stands for on this machine."""
    yield devices.choose(runtime, dtype)


@contextmanager
def judge(job: Job) -> Iterator[ShardWriter]:
    """Loads the models and starts the decoding processes.

    Raises:
        NoLabels: A model is not of the kind it is used as.
        E2VError: A model cannot be loaded.
    """
    models = {
        kind: load(name, runtime=job.runtime, dtype=job.dtype, offline=job.offline) for kind, name in job.models.items()
    }
    if "categorical" in models and job.labels is not None:
        models["categorical"] = models["categorical"].limited(job.labels)
    if "categorical" in models and (not job.embeddings or models["categorical"].config.dimensional):
        models["categorical"].need_labels()
    if "dimensional" in models:
        models["dimensional"].need_dimensions()
    for model in models.values():
        model.compile()  # worth the wait for a corpus
    count = job.decoders or min(cores(), _MOST_DECODERS)
    # As much audio as a model sorts at a time, so that it never waits for the next window.
    with Decoders(count, job.rules, max(model.window_seconds for model in models.values())) as decoders:
        yield ShardWriter(models, job.digests, job.fusion, job.embeddings, decoders, adapt=job.adapt)


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(job: Job, count: int, shards: Iterable[Shard], progress: Progress) -> Results:
    """Yields the number, the file and the tally of each of `count` shards.

    A single set of models works in this process; several, by default one per GPU, work in separate processes.

    Raises:
        CorpusError: A process with models died.
        E2VError: See `judge`.
    """
    workers = job.workers or min(_workers(job), count)
    return run_here(job, shards, progress) if workers == 1 else _run_in_processes(job, shards, progress, workers)


def _workers(job: Job) -> int:
    """Returns the number of sets of models that keep this machine busy."""
    if job.runtime == "cuda":
        return _devices()
    if job.runtime not in {"cpu", "numpy"}:
        return 1
    weights = sum((folder_of(name) / "model.safetensors").stat().st_size for name in job.models.values())
    return min(cores(), _MOST_WORKERS) if weights <= _SMALL else 1


def _devices() -> int:
    import torch

    return torch.cuda.device_count()


def run_here(job: Job, shards: Iterable[Shard], progress: Progress) -> Results:
    """Makes shards in this process and yields them in order."""
    running: deque[tuple[int, Future[tuple[bytes, Tally]]]] = deque()
    pool = ThreadPoolExecutor(AT_ONCE, "shard")
    try:
        with judge(job) as judging:
            for shard in shards:
                running.append((shard.number, pool.submit(judging.parquet, shard, progress.advance)))
                if len(running) == _AHEAD:
                    yield _done(running)
            while running:
                yield _done(running)
    finally:
        pool.shutdown(cancel_futures=True)


def _done(running: "deque[tuple[int, Future[tuple[bytes, Tally]]]]") -> tuple[int, bytes, Tally]:
    number, future = running.popleft()
    return number, *future.result()


def _run_in_processes(job: Job, shards: Iterable[Shard], progress: Progress, workers: int) -> Results:
    """Makes shards in worker processes and yields them in the order they are finished."""
    share = replace(job, decoders=job.decoders or max(1, min(cores() // workers, _MOST_DECODERS)))
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left, taking = iter(shards), threading.Lock()

    def next_shard() -> Shard | None:
        with taking:
            return next(left, None)

    processes = [_worker(job.runtime, number, workers) for number in range(workers)]
    threads = [
        threading.Thread(target=_follow, args=(process, share, next_shard, done.put, progress)) for process in processes
    ]
    for thread in threads:
        thread.start()
    try:
        running = workers
        while running:
            result = done.get()
            if isinstance(result, Exception):
                raise result
            if result is None:
                running -= 1
            else:
                yield result
    finally:
        for process, thread in zip(processes, threads, strict=True):
            process.kill()
            thread.join()
            with suppress(OSError), process:  # closes its pipes
                pass


def _follow(
    process: "subprocess.Popen[bytes]",
    job: Job,
    next_shard: Callable[[], Shard | None],
    done: Callable[[Any], None],
    progress: Progress,
) -> None:
    """Sends shards to a worker and passes on its results; at the end None, or the error that ended it."""
    tasks, answers = process.stdin, process.stdout
    assert tasks is not None
    assert answers is not None

    def send() -> None:
        if tasks.closed:
            return
        if shard := next_shard():
            pickle.dump(shard, tasks)
            tasks.flush()
        else:
            tasks.close()

    try:
        pickle.dump(job, tasks)
        for _ in range(_AHEAD):
            send()
        while not isinstance(result := pickle.load(answers), E2VError):
            if len(result) == 2:
                progress.advance(*result)
            else:
                done(result)
                send()
        done(result)
    except (OSError, EOFError, pickle.UnpicklingError):
        status = process.wait()
        died = CorpusError(f"a worker process died ({status}): repeat the command to resume the run")
        done(died if status else None)
    except Exception as error:  # passed on to the thread that waits
        done(error)


def _worker(runtime: str, number: int, workers: int) -> "subprocess.Popen[bytes]":
    environment = dict(os.environ)
    if runtime == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices_ = visible.split(",") if visible else [str(i) for i in range(_devices())]
        environment["CUDA_VISIBLE_DEVICES"] = devices_[number % len(devices_)]
    else:
        environment["OMP_NUM_THREADS"] = str(max(1, cores() // workers))
    command = [sys.executable, "-m", "e2v_port.corpus.worker"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

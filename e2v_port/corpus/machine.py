"""The engine for one machine: processes that decode feed the models, one set of them for each device."""

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

from e2v_port import devices
from e2v_port.conversion import folder_of
from e2v_port.corpus.decoding import Decoders
from e2v_port.corpus.rows import Judge, Shard, Tally
from e2v_port.corpus.run import Job, Progress
from e2v_port.errors import CorpusError, E2VError
from e2v_port.model import load

__all__ = ["AT_ONCE", "cores", "judge", "opened", "run", "run_here"]

# Shards that are under way: while one is at its end, and its last batch leaves the device half idle, the next runs.
AT_ONCE = 2
_AHEAD = AT_ONCE + 1  # one waits, so that no thread does while a file is written

_MOST_DECODERS = 16  # by default; each takes 50 MB, and 300 MB where it looks for speech

# One process waits for Python more than for a model of so few bytes: it takes one for each core. Our own choice, as is
# how many: each holds torch, some 300 MB.
_SMALL, _MOST_WORKERS = 64 << 20, 8


@contextmanager
def opened(runtime: str, dtype: str | None, address: str | None) -> Iterator[str]:
    """Gives what a runtime, `auto` too, is here."""
    yield devices.choose(runtime, dtype)


@contextmanager
def judge(job: Job) -> Iterator[Judge]:
    """Loads the models and starts the processes that decode.

    Raises:
        NoLabels: A model is not of the kind it is to be used as.
        E2VError: As for `load`.
    """
    models = {
        kind: load(name, runtime=job.runtime, dtype=job.dtype, offline=job.offline) for kind, name in job.models.items()
    }
    if "categorical" in models and (not job.embeddings or models["categorical"].config.dimensional):
        models["categorical"].need_labels()
    if "dimensional" in models:
        models["dimensional"].need_dimensions()
    for model in models.values():
        model.compile()  # a corpus is worth the wait
    count = job.decoders or min(cores(), _MOST_DECODERS)
    # As much as a model sorts at a time, so that it never waits for the next lot.
    with Decoders(count, job.rules, max(model.window_seconds for model in models.values())) as decoders:
        yield Judge(models, job.digests, job.fusion, job.embeddings, decoders)


def cores() -> int:
    """Returns how many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(job: Job, count: int, shards: Iterable[Shard], progress: Progress) -> Iterator[tuple[int, bytes, Tally]]:
    """Gives the number, the file and the tally of each shard, of which there are so many.

    One set of models works here; several, by default one for each GPU, work in processes of their own.

    Raises:
        CorpusError: A process with models died.
        E2VError: As for `judge`.
    """
    workers = job.workers or min(_workers(job), count)
    return run_here(job, shards, progress) if workers == 1 else _run_beside(job, shards, progress, workers)


def _workers(job: Job) -> int:
    """Returns how many sets of models keep this machine busy."""
    if job.runtime == "cuda":
        return _devices()
    if job.runtime != "cpu":
        return 1
    weights = sum((folder_of(name) / "model.safetensors").stat().st_size for name in job.models.values())
    return min(cores(), _MOST_WORKERS) if weights <= _SMALL else 1


def _devices() -> int:
    import torch

    return torch.cuda.device_count()


def run_here(job: Job, shards: Iterable[Shard], progress: Progress) -> Iterator[tuple[int, bytes, Tally]]:
    """Does it in this process; in order."""
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


def _run_beside(
    job: Job, shards: Iterable[Shard], progress: Progress, workers: int
) -> Iterator[tuple[int, bytes, Tally]]:
    """Does it in a process for each device, see `e2v_port.corpus.worker`; as they are done."""
    own = replace(job, decoders=job.decoders or max(1, min(cores() // workers, _MOST_DECODERS)))
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()
    left, taking = iter(shards), threading.Lock()

    def next_shard() -> Shard | None:
        with taking:
            return next(left, None)

    processes = [_worker(job.runtime, number, workers) for number in range(workers)]
    threads = [
        threading.Thread(target=_follow, args=(process, own, next_shard, done.put, progress)) for process in processes
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
    """Sends a process what to do, and hands on what it answers; at last None, or the error that ended it."""
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
        died = CorpusError(f"a process with models died ({status}): start the run again, it goes on where it was")
        done(died if status else None)
    except Exception as error:  # whatever it is, who waits must know
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

"""A process with models of its own: `python -m e2v_port.corpus.worker`, started by `machine.run` for each device.

It reads a Job and then shards from its standard input, until that ends, and writes what becomes of them: steps of
progress, finished shards, or the error that ends it.
"""

import os
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

from e2v_port.corpus.decoder import belong
from e2v_port.corpus.machine import run_here
from e2v_port.corpus.rows import Shard
from e2v_port.corpus.run import Progress
from e2v_port.errors import E2VError


def main() -> None:
    """Serves what started this process."""
    belong()
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    answering = threading.Lock()

    def answer(value: Any) -> None:
        with answering:
            pickle.dump(value, answers)
            answers.flush()

    def shards() -> Iterator[Shard]:
        try:
            while True:
                yield pickle.load(tasks)
        except EOFError:
            return

    try:
        job = pickle.load(tasks)
        for result in run_here(job, shards(), Progress(advance=lambda clips, seconds: answer((clips, seconds)))):
            answer(result)
    except E2VError as error:
        answer(error)


if __name__ == "__main__":
    main()

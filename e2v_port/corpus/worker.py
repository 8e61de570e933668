"""A process with its own models: `python -m e2v_port.corpus.worker`, started by `machine.run` for each device.

It reads a Job and then shards from its standard input until that ends, and writes the progress, the finished shards,
and the error that ends it, if any.
"""

import os
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

from e2v_port.corpus.job import Progress
from e2v_port.corpus.machine import run_here
from e2v_port.corpus.shards import Shard
from e2v_port.errors import E2VError
from e2v_port.processes import end_with_parent


def main() -> None:
    """Serves the parent process."""
    end_with_parent()
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
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

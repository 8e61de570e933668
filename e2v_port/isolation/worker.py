"""The process of `isolation.run`: `python -m e2v_port.isolation.worker`.

It reads options and then clips from its standard input until that ends, and writes a pickled answer for each, and what
it logs in between.
"""

import logging
import os
import pickle
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from e2v_port.analysis.analyze import each
from e2v_port.audio import Clip
from e2v_port.audio.clip import clip_name
from e2v_port.errors import AudioError, E2VError, cut
from e2v_port.files import printable
from e2v_port.processes import end_with_parent


class _ToParent(logging.Handler):
    def __init__(self, channel: "_Channel") -> None:
        super().__init__(logging.INFO)
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a record as text."""
        self._channel.send("log", (record.name, record.levelno, self.format(record)))


class _Channel:
    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # output of libraries must not mix with the answers
        self._lock = threading.Lock()

    def send(self, kind: str, content: Any) -> None:
        """Sends an answer, an error or a record."""
        data = pickle.dumps((kind, content))
        with self._lock:
            self._answers.write(data)
            self._answers.flush()


def main() -> None:
    """Serves the parent process."""
    end_with_parent()
    channel = _Channel()
    logger = logging.getLogger("e2v_port")
    logger.addHandler(_ToParent(channel))
    logger.setLevel(logging.INFO)
    warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
    tasks = _Tasks()
    try:
        options = pickle.load(sys.stdin.buffer)
        clips: Iterable[Clip] = tasks
        if options.get("segments") is not None:  # they belong to the one clip, and are checked with it
            channel.send("ready", None)
            clips = [*islice(tasks, 1)]
        results = each(clips, together=False, **options)
        if clips is tasks:
            channel.send("ready", None)
        for result in results:
            channel.send("result", result)
    except (E2VError, ValueError, TypeError, OSError) as error:  # of the options: no other clip would fare better
        channel.send("error", error)
    except Exception as error:  # an internal error, or no memory left
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        channel.send("last", AudioError(f"{tasks.name}: {cut(reason)}"))


class _Tasks:
    """The clips that the parent sends, one after the other."""

    name = ""  # of the last one

    def __iter__(self) -> Iterator[Clip]:
        with suppress(EOFError):
            while True:
                clip: Clip = pickle.load(sys.stdin.buffer)
                self.name = printable(clip_name(clip))
                yield clip


if __name__ == "__main__":
    main()

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
from typing import Any

from e2v_port.analysis.analyze import each, loaded
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
    tasks = sys.stdin.buffer
    try:
        options = loaded(pickle.load(tasks))
        if options.get("segments") is None:  # those are checked with their clip
            list(each([], **options))
    except (E2VError, ValueError, TypeError, OSError) as error:
        channel.send("error", error)
        return
    channel.send("ready", None)
    while True:
        try:
            clip = pickle.load(tasks)
        except EOFError:
            return
        try:
            [result] = each([clip], **options)
            channel.send("result", result)
        except AudioError as error:
            channel.send("result", error)
        except (E2VError, ValueError, TypeError) as error:  # of the options: no other clip would fare better
            channel.send("error", error)
        except Exception as error:  # an internal error, or no memory left
            reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            channel.send("result", AudioError(f"{printable(clip_name(clip))}: {cut(reason)}"))


if __name__ == "__main__":
    main()

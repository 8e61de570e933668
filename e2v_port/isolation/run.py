"""Analyzes clips in a worker process, which is replaced after a clip that hangs or kills it."""

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from signal import Signals
from typing import Any, Unpack

from e2v_port.analysis.analyze import Options
from e2v_port.analysis.results import Analysis
from e2v_port.audio import Clip
from e2v_port.audio.clip import check_clips, clip_name
from e2v_port.errors import AudioError, E2VError, cut, number
from e2v_port.files import printable
from e2v_port.models.profiles import completed

__all__ = ["each"]


def each(clips: Iterable[Clip], *, retries: int = 0, **options: Unpack[Options]) -> Iterator[Analysis | AudioError]:
    """Analyzes clips one after the other in a process of their own, and continues after one that kills it.

    The process loads the models once. It is replaced, and they are loaded again, after a clip over the time limit and
    after one whose decoding or judgement crashed it (a fault in a native library, no memory left). Either is the
    AudioError of that clip.

    Args:
        clips: Paths or arrays, as for `e2v_port.analyze`. No file objects: they belong to one process.
        retries: How often a clip is tried again whose process was killed from outside, as by a system that is short of
            memory. Everything else is deterministic, and would only fail again: after a crash or a time limit, nothing
            is tried again.
        options: Options of `e2v_port.analyze`. Models and recognizers are names or folders: a loaded one cannot go to
            another process. `timeout` counts from the moment that the process gets the clip, without the loading of
            the models, and holds whatever the process is doing.

    Returns:
        An iterator that yields, for each clip in order, its Analysis or the AudioError that stopped it.

    Raises:
        TypeError: An option or a clip cannot be sent to another process.
        ValueError: `retries` is no whole number from 0 on, or options contradict each other.
        E2VError: See `e2v_port.analyze`; or the process cannot start.
    """
    check_clips(clips)
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number from 0 on, not {retries!r}")
    chosen: dict[str, Any] = {**options}
    names = ("model", "dimensional", "dtype", "words", "timeout")
    found = completed(chosen.pop("profile", None), **{name: chosen.get(name) for name in names})
    chosen |= dict(zip(names, found, strict=True))
    if chosen.get("segments") is not None:
        clips = list(clips)
        if len(clips) != 1:
            raise ValueError(f"segments= belong to one clip, not to {len(clips)}: analyze them one at a time")
    timeout = chosen.pop("timeout", None)
    limit = None if timeout is None else number("timeout", timeout, 0) or None
    worker = _Worker(_sent("an option", chosen))
    worker.start()  # errors of the options come before any clip
    return _each(worker, clips, retries, limit)


def _each(
    worker: "_Worker", clips: Iterable[Clip], retries: int, limit: float | None
) -> Iterator[Analysis | AudioError]:
    try:
        for clip in clips:
            name, task = printable(clip_name(clip)), _sent("a clip", clip)
            for left in range(retries, -1, -1):
                result = worker.analyzed(name, task, limit)
                if not isinstance(result, _Killed) or not left:
                    break
                logging.getLogger(__name__).warning("%s; trying it again", result)
            yield AudioError(str(result)) if isinstance(result, _Killed) else result
    finally:
        worker.end()


class _Killed(AudioError):
    """The process was killed from outside."""


class _Worker:
    """The process: `python -m e2v_port.isolation.worker`."""

    def __init__(self, options: bytes) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process and waits until it has loaded the models.

        Raises:
            E2VError, ValueError, TypeError: An option cannot be used, or the process cannot start.
        """
        command = [sys.executable, "-m", "e2v_port.isolation.worker"]
        # What native libraries write when they crash would mix with the output of this program.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            self._asked(self._options)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise E2VError(f"no process for the clips: {self.end()}; run {' '.join(command)} to see why") from error
        except BaseException:
            self.end()
            raise

    def analyzed(self, name: str, task: bytes, limit: float | None) -> Analysis | AudioError:
        """Returns the result of a clip; a process that died of another is replaced first."""
        if self._process is None:
            self.start()
        process, overdue = self._process, threading.Event()
        assert process is not None

        def stop() -> None:
            overdue.set()
            process.kill()

        timer = threading.Timer(limit, stop) if limit is not None else None
        if timer:
            timer.daemon = True
            timer.start()
        try:
            kind, result = self._asked(task)
        except (OSError, EOFError, pickle.UnpicklingError):
            code, reason = process.wait(), self.end()
            if overdue.is_set():
                return AudioError(f"{name}: stopped at the time limit of {limit:g} s")
            outside = code < 0 and Signals(-code).name in {"SIGKILL", "SIGTERM"}
            return (_Killed if outside else AudioError)(f"{name}: {reason}")
        finally:
            if timer:
                timer.cancel()
                timer.join()
        if kind == "last" or overdue.is_set():  # by a moment: the result is whole, but the process is gone
            self.end()
        found: Analysis | AudioError = result
        return found

    def _asked(self, message: bytes) -> tuple[str, Any]:
        """Sends a message and returns kind and content of the answer; logs what the process logs until then."""
        assert self._process is not None
        tasks, answers = self._process.stdin, self._process.stdout
        assert tasks is not None
        assert answers is not None
        tasks.write(message)
        tasks.flush()
        while True:
            kind, content = pickle.load(answers)
            if kind == "log":
                name, level, text = content
                logging.getLogger(name).log(level, "%s", text)
            elif kind == "error" and isinstance(content, OSError):  # it says what is wrong; the pipes are fine
                raise E2VError(f"{cut(str(content))}: name another folder or file") from content
            elif kind == "error":
                raise content
            else:
                return kind, content

    def end(self) -> str:
        """Ends the process, and returns the reason why it died, as text."""
        process, self._process = self._process, None
        if process is None:
            return ""
        code = process.poll()
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                assert pipe is not None
                pipe.close()
        code = process.wait() if code is None else code
        if code >= 0:
            return f"its process ended with status {code}"
        name = Signals(-code).name
        return f"its process died of {name}{' (out of memory, most likely)' if name == 'SIGKILL' else ''}"


def _sent(what: str, value: Any) -> bytes:
    """Returns a value as bytes for another process."""
    try:
        return pickle.dumps(value)
    except Exception as error:
        where = "pass names and folders of models, and paths or arrays of clips"
        raise TypeError(f"{what} cannot be sent to another process ({error}): {where}") from error

"""The progress of `e2v corpus` on stderr: a bar on a terminal, otherwise a line per minute."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from e2v_port.corpus.job import Progress

__all__ = ["shown"]

_EVERY = 60.0  # seconds


@contextmanager
def shown() -> Iterator[Progress]:
    """Provides a Progress that shows clips and hours done, speed in seconds of audio per second, and time left."""
    state = _State()
    if not sys.stderr.isatty():
        printed = time.monotonic()

        def line(clips: int, seconds: float) -> None:
            nonlocal printed
            state.advance(clips, seconds)
            if time.monotonic() - printed >= _EVERY:
                printed = time.monotonic()
                print(f"{state.done} of {state.clips} clips, {state}", file=sys.stderr, flush=True)

        yield Progress(state.start, line, lambda text: print(text, file=sys.stderr, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[so_far]}", markup=False))
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None, so_far="listing the clips")

        def start(clips: int, done: int, seconds: float) -> None:
            state.start(clips, done, seconds)
            bar.update(task, total=clips, completed=done, so_far="loading the models")

        def advance(clips: int, seconds: float) -> None:
            state.advance(clips, seconds)
            bar.update(task, advance=clips, so_far=str(state))

        yield Progress(start, advance, lambda text: bar.console.print(text, markup=False, highlight=False))


class _State:
    """Counts the progress of several threads."""

    def __init__(self) -> None:
        self._counting = threading.Lock()
        self.clips = self.done = 0

    def start(self, clips: int, done: int, seconds: float) -> None:
        self.clips, self.done, self._seconds = clips, done, seconds
        self._before, self._started = (done, seconds), time.monotonic()

    def advance(self, clips: int, seconds: float) -> None:
        with self._counting:
            self.done += clips
            self._seconds += seconds

    def __str__(self) -> str:
        taken = max(time.monotonic() - self._started, 1e-3)
        done, seconds = self.done - self._before[0], self._seconds - self._before[1]
        left = round((self.clips - self.done) * taken / max(done, 1))
        clock = f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"
        return f"{self._seconds / 3600:.2f} h, {seconds / taken:.0f} s of audio per second, {clock} left"

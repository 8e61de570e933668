"""The loop from a source of sound through a listener to whatever shows the results."""

import json
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import Protocol, TextIO

from e2v_port.errors import AudioError
from e2v_port.live.listener import Listener
from e2v_port.live.results import VoiceSegment
from e2v_port.live.sources import Block, Source

__all__ = ["JsonLines", "Show", "follow"]


class Show(Protocol):
    """Shows results as they come."""

    def __call__(self, block: Block | None, segments: list[VoiceSegment], clock: float | None) -> None:
        """Shows a block and the results that it completes.

        Args:
            block: Block of samples; None at the end.
            segments: Results, in order of time.
            clock: Length that the sound has by now, in seconds; None at the end, and for a source without a pace.
        """


def follow(source: Source, listener: Listener, show: Show) -> None:
    """Listens to a source until it ends or Ctrl-C is pressed; everything heard until then is judged and shown.

    Raises:
        AudioError: The source broke off; raised after the results of everything before.
    """
    broken = None
    try:
        for block in _until_stopped(iter(source)):
            segments = listener.push(block.samples)
            late = None if block.recorded is None else time.monotonic() - block.recorded
            show(block, segments, None if late is None else listener.duration + late)
    except AudioError as error:
        broken = error
    show(None, listener.finish(), None)
    if broken:
        raise broken


def _until_stopped(blocks: Iterator[Block]) -> Iterator[Block]:
    """Yields blocks until they end or Ctrl-C is pressed: the block that is in work then is the last one.

    Ctrl-C pressed again during that work interrupts as usual.
    """
    waiting = stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        before, stopped = stopped, True
        if waiting or before:
            raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, stop)
    try:
        while not stopped:
            waiting = True
            block = next(blocks, None)
            waiting = False
            if block is None:
                break
            yield block
    except KeyboardInterrupt:  # raised while waiting: the work on a block is done by the caller
        pass
    finally:
        signal.signal(signal.SIGINT, usual)


class JsonLines:
    """Writes each result as a JSON object on a line of its own, as soon as it is complete.

    The object is that of `VoiceSegment.to_dict` with a `latency`: seconds from the end of the segment to this line,
    which includes the reading of its words where the line holds them; null for segments that the end of the sound
    completes, and for a source without a pace.

    Args:
        out: Where to write; by default standard output.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout

    def __call__(self, block: Block | None, segments: list[VoiceSegment], clock: float | None) -> None:
        """Writes the results of a block."""
        for segment in segments:
            latency = None if clock is None else round(clock - segment.end, 3)
            self._out.write(json.dumps(segment.to_dict() | {"latency": latency}) + "\n")
            self._out.flush()

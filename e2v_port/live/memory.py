"""The voices heard recently: final segments of all clips and streams, and windows of ongoing speech."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol
from weakref import WeakSet

from e2v_port.errors import number, quoted
from e2v_port.live.results import VoiceSegment

__all__ = ["Memory"]


class _Stream(Protocol):
    windows: tuple[VoiceSegment, ...]


class Memory:
    """Segments by the time at which they ended. Safe to use from several threads.

    Args:
        remembered: Seconds after which a segment is forgotten.
    """

    def __init__(self, remembered: float) -> None:
        self._remembered = remembered
        self._epoch = time.time() - time.monotonic()  # the system clock may be set while a voice speaks
        self._segments: deque[VoiceSegment] = deque()
        self._streams: WeakSet[_Stream] = WeakSet()
        self._lock = threading.Lock()

    def now(self) -> float:
        """Returns the present, in seconds since the epoch; never before the end of what was heard."""
        return self._epoch + time.monotonic()

    def add_stream(self, stream: _Stream) -> None:
        """Counts the windows of a stream among `recent`, as long as the stream exists."""
        with self._lock:
            self._streams.add(stream)

    def add(self, segments: Sequence[VoiceSegment]) -> None:
        """Remembers final segments, and forgets those that are too old."""
        with self._lock:
            self._segments.extend(segments)
            self._epoch += max([0.0, *(segment.at - self.now() for segment in segments)])
            while self._segments and self._segments[0].at < self.now() - self._remembered:
                self._segments.popleft()

    def replace(self, before: VoiceSegment, segment: VoiceSegment) -> None:
        """Puts a segment with its words in the place of the same one before they were read, if that is remembered."""
        with self._lock:
            for i, known in enumerate(self._segments):
                if known is before:
                    self._segments[i] = segment

    def final(self, window: float | None, speaker: str | None) -> tuple[VoiceSegment, ...]:
        """Returns final segments in order of time.

        Args:
            window: How far to go back, in seconds; None for everything that is remembered.
            speaker: Name of the speaker; None for all speakers.

        Raises:
            ValueError: The window is not a positive number.
        """
        if window is not None and not number("window", window, 0, 1e9) > 0:
            raise ValueError(f"window must be a number of seconds above 0, not {quoted(window)}")
        with self._lock:
            heard = sorted(self._segments, key=lambda segment: segment.at)
        since = -math.inf if window is None else self.now() - window
        return tuple(item for item in heard if item.at >= since and speaker in {None, item.speaker})

    def recent(self, window: float, speaker: str | None) -> list[VoiceSegment]:
        """Returns final segments, and the windows of speech that no final segment holds yet, in order of time.

        Args and errors are those of `final`.
        """
        heard = list(self.final(window, speaker))
        with self._lock:
            windows = [segment for stream in self._streams for segment in stream.windows]
        since = max([self.now(), *(segment.at for segment in windows)]) - window
        heard += [item for item in windows if item.at >= since and speaker in {None, item.speaker}]
        return sorted(heard, key=lambda segment: segment.at)

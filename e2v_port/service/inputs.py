"""What requests send: clips, decoded within the limits of the service, and the segments given for them."""

import io
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from e2v_port.analysis.sounds import Request, Sounds
from e2v_port.errors import RequestRefused
from e2v_port.llm.speech import LONGEST
from e2v_port.service.batching import Job
from e2v_port.speech.segment import GivenSegment
from e2v_port.speech.transcripts import parse_segments

__all__ = ["Decoder", "given_segments"]

# Seconds; two longer recordings are held at a time, since an hour takes 230 MB, and twice that while it is analyzed.
LONG = 600
LONG_AT_ONCE = 2
LONG_WORDS_AT_ONCE = 1  # whose words are read: they stay in memory for minutes
SEGMENTS, SEGMENT_BYTES = 50_000, 8_000_000  # given for one clip: five times the words of an hour, and 12 s to read


class _Body(io.BytesIO):
    """A clip in memory, with a name for errors."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


class Decoder:
    """Decodes clips up to the longest allowed length; a long one waits until few others are in memory.

    Args:
        max_seconds: Longest clip, in seconds.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_seconds = max_seconds
        self._long = threading.Semaphore(LONG_AT_ONCE)
        self._long_words = threading.Semaphore(LONG_WORDS_AT_ONCE)

    @contextmanager
    def decoded(
        self, job: Job, body: bytes, name: str, request: Request, *, words: bool = False, remark: bool = False
    ) -> Iterator[Sounds]:
        """Decodes a clip, which counts as in memory for as long as the context lasts.

        Channels that are judged apart count together.

        Args:
            job: The job that waits.
            body: The clip.
            name: Its name in errors.
            request: What is wanted of it.
            words: Whether its words will be read.
            remark: Whether a reply to it will be made.

        Raises:
            RequestRefused: It is too long.
            AudioError: It cannot be decoded.
            Stopped: The job was cancelled.
        """
        waited = False
        with ExitStack() as held:

            def check(seconds: float) -> None:
                nonlocal waited
                job.check()
                why = None
                if seconds > self._max_seconds:
                    why = f"{self._max_seconds:g} s, the limit of this service (--max-seconds): split it"
                elif remark and seconds > LONGEST:
                    why = f"{LONGEST:g} s, which a remark may last: send its end"
                if why:
                    raise RequestRefused(f"{name}: longer than {why}", status=413, kind="too_long")
                if seconds >= LONG and not waited:
                    waited = True
                    with job.waiting():
                        held.enter_context(self._long_words if words else self._long)

            yield request.load(_Body(body, name), check=check)


def given_segments(data: bytes) -> list[GivenSegment]:
    """Reads the segments given for a clip.

    Raises:
        RequestRefused: They are more than any clip has.
        SegmentError: They cannot be used.
    """
    if len(data) > SEGMENT_BYTES:
        raise _too_many(f"{len(data)} bytes of segments are more than {SEGMENT_BYTES}")
    given = parse_segments(data)
    if len(given) > SEGMENTS:
        raise _too_many(f"{len(given)} segments are more than {SEGMENTS}")
    return given


def _too_many(what: str) -> RequestRefused:
    return RequestRefused(f"{what}: send those of this clip alone, or the clip in parts", status=413, kind="too_large")

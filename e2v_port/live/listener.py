"""A voice that is listened to: samples in, segments with the time of day out."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from e2v_port.audio import LiveAudio, Note
from e2v_port.live.follower import Followed, Follower
from e2v_port.live.memory import Memory
from e2v_port.live.results import VoiceSegment
from e2v_port.live.words import LiveWords, Update
from e2v_port.transcribe.words import Transcript

__all__ = ["Listener"]


class Listener:
    """One voice while it speaks: samples go in as they are recorded, segments come out. See `EmotionDetector.open`.

    It returns:

    * segments that have ended (`final`), once each and in order of time: those that `EmotionDetector.analyze` finds
      in the whole recording, judged the same way. Those too short to judge are among them and marked.
    * before that, after the first second of speech, windows of ongoing speech (`final` is False): its last
      second, twice a second, or less often on a machine that is too slow for that. Their label is steadied: it stays
      for at least a second, and until another clearly leads. The size of the blocks that come in has no influence.
    * if the detector reads words, each final segment that may be read a second time, as soon as its words are settled:
      `VoiceSegment.reading` says which time it is. Nothing waits for the words but `finish`.

    Use it from one thread at a time.

    Attributes:
        windows: Windows of the speech that no final segment holds yet.
    """

    def __init__(
        self,
        audio: LiveAudio,
        follower: Follower,
        memory: Memory,
        voiced: Callable[[Followed, float], VoiceSegment],
        words: LiveWords[VoiceSegment] | None = None,
    ) -> None:
        """Starts the stream now; `voiced` makes a result of what was followed and of the time the stream started."""
        self._audio, self._follower, self._memory, self._voiced = audio, follower, memory, voiced
        self._zero = memory.now()  # start of the stream, as if it had come in at its own pace since
        self._words = words
        self._finished = False
        self.windows: tuple[VoiceSegment, ...] = ()
        memory.add_stream(self)

    @property
    def duration(self) -> float:
        """Length of the audio taken so far, in seconds."""
        return self._audio.duration

    @property
    def notes(self) -> tuple[Note, ...]:
        """What must be known about the sound so far, such as channels that cancel when mixed, and missing words."""
        return (*self._audio.notes, *(self._words.notes if self._words else ()))

    @property
    def transcript(self) -> Transcript | None:
        """How the last words were read; None before the first."""
        return self._words.transcript if self._words else None

    def push(self, samples: NDArray[Any]) -> list[VoiceSegment]:
        """Takes the next block and returns the results that it completes.

        Args:
            samples: [samples] or [samples, channels], any number of samples; floats with full scale 1, or integers.

        Raises:
            AudioError: The samples cannot be used. None of this block is taken; `finish` still returns the results of
                the blocks before.
            ValueError: The stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished: open another")
        waveform = self._audio.push(samples)
        self._keep_up()
        followed = self._follower.push(waveform)
        settled = self._settled(self._words.settled()) if self._words else []
        return settled + self._heard(followed)

    def finish(self) -> list[VoiceSegment]:
        """Returns the results that the end of the stream completes. Nothing may be pushed after it."""
        if self._finished:
            return []
        rest = self._audio.finish()
        self._finished = True
        self._keep_up()
        heard = self._heard([*self._follower.push(rest), *self._follower.finish()])
        self.windows = ()
        return heard + (self._settled(self._words.rest()) if self._words else [])

    def _keep_up(self) -> None:
        """Moves the start of a stream that paused, such as that of a muted microphone, to where its end is now."""
        self._zero = max(self._zero, self._memory.now() - self.duration)

    def _heard(self, followed: list[Followed]) -> list[VoiceSegment]:
        heard = [self._voice(item) for item in followed]
        for segment in heard:
            if segment.final:
                self._memory.add([segment])
                self.windows = tuple(window for window in self.windows if window.start >= segment.end)
            else:
                self.windows += (segment,)
        return heard

    def _voice(self, followed: Followed) -> VoiceSegment:
        """Makes a result, and lets its words be read if it has ended."""
        segment = self._voiced(followed, self._zero)
        if self._words and followed.waveform is not None and self._words.may_read(segment):
            segment = replace(segment, reading="pending")
            self._words.add(segment, followed.waveform, self.duration)
        return segment

    def _settled(self, updates: Iterable[Update[VoiceSegment]]) -> list[VoiceSegment]:
        found = []
        for update in updates:
            segment = replace(update.segment, reading=update.reading)
            self._memory.replace(update.before, segment)
            found.append(segment)
        return found

"""One live stream of the service: bytes of samples in, messages with judged segments out."""

from dataclasses import asdict
from typing import Any

from numpy.typing import NDArray

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.audio import MAX_CHANNELS, LiveAudio, channel_number
from e2v_port.audio.pcm import ENCODINGS, Samples
from e2v_port.errors import AudioError
from e2v_port.live.follower import Followed, Follower, Judging, LiveSettings
from e2v_port.live.words import LiveWords, Update
from e2v_port.speech.segment import DEFAULTS, SegmentSettings

__all__ = ["Session"]

_REMEDY = f'declare its "format" ({", ".join(ENCODINGS)}), or send the file to POST /v1/analyze'
_RATES = (8_000, 192_000)  # Hz: from the telephone to studio equipment


class Session:
    """One stream, from its first sample to its last.

    It returns messages {"type", "segment"}, with the segment as in other answers of the service and "final" in it:

    * `final`: a segment that has ended, once each and in order of time. Those too short to judge are among them and
      marked.
    * `partial`: a window of ongoing speech, steadied.
    * `words`: a final segment again, with its words, where these are read: see `VoiceSegment.reading`.

    `e2v_port.live.follower.Follower` has the rules of both.

    Args:
        judge: Judges segments and windows; it is called for segments that are too short as well.
        sampling_rate: Sampling rate of the samples, 8000 to 192000 Hz.
        format: One of `e2v_port.audio.pcm.ENCODINGS`.
        channels: Number of channels, 1 to 64, interleaved.
        channel: The one that is judged: `mix`, `left`, `right` or a number from 1.
        speaker: Name of the speaker, if known.
        settings: Thresholds and lengths of segments.
        live: How windows are judged.
        ahead: Whether segments may be judged before they have ended, as for `Follower`.
        words: Reads the words of segments that have ended; None to leave them out.

    Raises:
        ValueError: The rate, format, number of channels or name cannot be used, whatever its type: one line.
    """

    def __init__(
        self,
        judge: Judging,
        *,
        sampling_rate: int,
        format: str = "s16le",  # noqa: A002 (its name in the protocol)
        channels: int = 1,
        speaker: str | None = None,
        channel: int | str = "mix",
        settings: SegmentSettings = DEFAULTS,
        live: LiveSettings | None = None,
        ahead: bool = True,
        words: LiveWords[JudgedSegment] | None = None,
    ) -> None:
        for name, value, (low, high) in (
            ("sampling_rate", sampling_rate, _RATES),
            ("channels", channels, (1, MAX_CHANNELS)),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}: declare a whole number from {low} to {high}, not {_shown(value)}")
        if not isinstance(format, str) or format not in ENCODINGS:
            raise ValueError(f"format: declare one of {', '.join(ENCODINGS)}, not {_shown(format)}")
        if speaker is not None and not isinstance(speaker, str):
            raise ValueError(f"speaker: give a name or null, not {_shown(speaker)}")
        try:
            number = channel_number(channel)
        except AudioError as error:
            raise ValueError(str(error)) from error
        if number is not None and number > channels:
            raise ValueError(f"channel {number} of a stream of {channels}: declare the number of channels")
        self._bytes = Samples(format, channels, sampling_rate, _REMEDY)
        self._audio = LiveAudio(sampling_rate, channel, channels=channels)
        self._follower = Follower(judge, live, settings, speaker, ahead=ahead)
        self._words = words
        self._noted: set[str] = set()
        self.samples = 0
        """Samples of the declared rate taken so far, per channel: they are judged now or by `finish`."""

    @property
    def duration(self) -> float:
        """Length of the audio taken so far, in seconds."""
        return self._audio.duration

    def notes(self) -> list[dict[str, str]]:
        """Returns what must be known about the sound, each kind once."""
        notes = [*self._audio.notes, *(self._words.notes if self._words else ())]
        new = [note for note in notes if note.kind not in self._noted]
        self._noted |= {note.kind for note in new}
        return [note._asdict() for note in new]

    @property
    def transcript(self) -> dict[str, Any] | None:
        """How the last words were read, as in other answers of the service; None if none were."""
        return asdict(self._words.transcript) if self._words and self._words.transcript else None

    def push(self, data: bytes) -> list[dict[str, Any]]:
        """Takes the next bytes, any number of them, and returns the messages that they complete.

        A sample may be split between two calls.

        Raises:
            AudioError: Samples are not finite or beyond 100 times full scale, or are not what `format` says, such as
                the bytes of a file. None of these bytes is taken; `finish` still returns the messages that the samples
                before leave open.
        """
        return self._pushed(self._bytes.push(data))

    def finish(self) -> list[dict[str, Any]]:
        """Returns the messages that the end of the stream completes. An incomplete last sample is dropped.

        Raises:
            AudioError: As for `push`, by what a short stream holds.
        """
        found = self._pushed(self._bytes.finish())
        found += self._messages([*self._follower.push(self._audio.finish()), *self._follower.finish()])
        return found + [_words(update) for update in (self._words.rest() if self._words else ())]

    def close(self) -> None:
        """Lets go of words that have not been read."""
        if self._words:
            self._words.close()

    def _pushed(self, block: NDArray[Any]) -> list[dict[str, Any]]:
        waveform = self._audio.push(block)
        self.samples += len(block)
        followed = self._follower.push(waveform)
        settled = [_words(update) for update in (self._words.settled() if self._words else ())]
        return settled + self._messages(followed)

    def _messages(self, followed: list[Followed]) -> list[dict[str, Any]]:
        """Returns the messages of what was followed; the words of segments that have ended are read from now on."""
        messages: list[dict[str, Any]] = []
        for segment, final, waveform in followed:
            shown = {**segment.to_dict(), "final": final}
            if self._words and waveform is not None and self._words.may_read(segment):
                shown["reading"] = "pending"
                self._words.add(segment, waveform, self.duration)
            messages.append({"type": "final" if final else "partial", "segment": shown})
        return messages


def _words(update: Update[JudgedSegment]) -> dict[str, Any]:
    return {"type": "words", "segment": {**update.segment.to_dict(), "final": True, "reading": update.reading}}


def _shown(value: object) -> str:
    """Shows a declared value on one short line."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

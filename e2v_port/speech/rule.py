"""silero-vad's rule from speech probabilities to spans of speech."""

from collections.abc import Iterable

from e2v_port.speech.segment import Span
from e2v_port.speech.silero import FRAME_SAMPLES

__all__ = ["SpeechRule"]

# silero's defaults: 100 ms, 250 ms and 30 ms in samples, and a difference of probabilities.
_MIN_SILENCE, _MIN_SPEECH, _PAD = 1600, 4000, 480
_HYSTERESIS = 0.15


class SpeechRule:
    """Finds spans of speech frame by frame, as silero's `get_speech_timestamps_from_probs` does.

    A span starts where the probability reaches the threshold. It ends where the probability falls 0.15 below, if it
    then stays below the threshold for another 100 ms. Spans of 250 ms or less are dropped; the others are widened by
    30 ms on both sides.

    After such a fall the probability may stay just below the threshold. silero then waits without end for what comes
    next; here the span ends where it fell, so that a stream can forget the sound.

    Args:
        threshold: `SegmentSettings.speech_threshold`.
        patience: Longest wait after a fall, in samples; at least 100 ms are waited.
    """

    def __init__(self, threshold: float, patience: int) -> None:
        self._threshold, self._fall = threshold, max(threshold - _HYSTERESIS, 0.01)
        self._patience = max(patience, _MIN_SILENCE)
        self._frames = 0
        self._start: int | None = None  # of the open span
        self._silence: int | None = None  # where the open span ends, if it stays silent

    def push(self, probabilities: Iterable[float]) -> list[Span]:
        """Returns the spans that end within the next frames, in order, with pauses between them."""
        spans = []
        for probability in probabilities:
            at = self._frames * FRAME_SAMPLES
            self._frames += 1
            if probability >= self._threshold:
                self._silence = None
                if self._start is None:
                    self._start = at
                    continue
            if self._start is None:
                continue
            falls = probability < self._fall
            if falls and self._silence is None:
                self._silence = at
            if self._silence is not None and at - self._silence >= (_MIN_SILENCE if falls else self._patience):
                if self._silence - self._start > _MIN_SPEECH:
                    spans.append((self.next_start, self._silence + _PAD))
                self._start = self._silence = None
        return spans

    def finish(self, samples: int) -> list[Span]:
        """Returns the open span, closed by the end of the clip, if there is one.

        Args:
            samples: Length of the clip.
        """
        if self._start is None or samples - self._start <= _MIN_SPEECH:
            return []
        return [(self.next_start, samples)]

    @property
    def next_start(self) -> int:
        """Start of the open span; without one, the earliest sample at which the next span can start."""
        start = self._frames * FRAME_SAMPLES if self._start is None else self._start
        return max(start - _PAD, 0)

    @property
    def open_end(self) -> int | None:
        """Earliest sample at which the open span can end; None without one, or while it may still be dropped."""
        if self._start is None:
            return None
        end = self._frames * FRAME_SAMPLES if self._silence is None else self._silence
        return end if end - self._start > _MIN_SPEECH else None

"""Follows speech while it is spoken: windows of ongoing speech, and segments as they end."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.emotions.estimates import Prediction
from e2v_port.errors import check_numbers, quoted
from e2v_port.speech.segment import DEFAULTS, Quality, Segment, SegmentSettings, to_samples
from e2v_port.speech.silero import FRAME_SAMPLES
from e2v_port.speech.stream import SpeechStream

__all__ = ["Followed", "Follower", "Judging", "LiveSettings", "Steady"]

_STEP = 8 * FRAME_SAMPLES  # 256 ms, the step of SpeechStream: the size of the blocks that come in changes nothing
_AHEAD = 0.5  # s of pause after which the segments that will have ended if it lasts are judged

Steady: TypeAlias = Callable[[Prediction], Prediction]
"""Replaces the prediction of one window by the steadied one."""

Judging: TypeAlias = Callable[[Segment, Waveform, Steady | None], JudgedSegment]
"""Judges a segment with its waveform [samples], float32, 16 kHz. For a window, it passes the prediction of the
categorical model through the third argument before fusion; for a segment that has ended, that is None."""


@dataclass(frozen=True)
class LiveSettings:
    """How speech is judged before it has ended. The defaults are chosen here, not from a paper: see docs/live.md.

    Attributes:
        window: Length of a window of speech that is judged, in seconds: 0.25 to 10.
        overlap: Longest overlap of a window with the one before it, in seconds; below `window`.
        smoothing: Time constant, in seconds, of the exponential average of the label scores over the windows of one
            speech. 0 for no average.
        margin: Probability, 0 to 1, by which the average of another label must exceed that of the label shown before
            it takes over.
        hold: Shortest time that a label is shown during ongoing speech, in seconds.
        load: Largest share of the time that windows may take to judge, above 0: after a window that took a second, the
            next one comes 1 / `load` seconds of audio later. A slow machine so judges fewer windows, and keeps up.
        remembered: How far `EmotionDetector.history` goes back, in seconds.
    """

    window: float = 1.0
    overlap: float = 0.5
    smoothing: float = 2.0
    margin: float = 0.1
    hold: float = 1.0
    load: float = 0.5
    remembered: float = 3600.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for a value out of range."""
        check_numbers(self, least=0)
        if not 0.25 <= self.window <= 10:
            raise ValueError(f"window must be from 0.25 to 10 s, not {quoted(self.window)}")
        if self.overlap >= self.window:
            raise ValueError(f"overlap must be below window, {quoted(self.window)} s, not {quoted(self.overlap)}")
        if self.margin >= 1:
            raise ValueError(f"margin must be below 1, not {quoted(self.margin)}")
        if not self.load:
            raise ValueError("load must be above 0")


class Followed(NamedTuple):
    """A judged segment of a stream.

    Attributes:
        segment: The segment.
        final: True for a segment that has ended, False for a window of ongoing speech.
        waveform: [samples], float32, 16 kHz, of a segment that has ended; None for a window.
    """

    segment: JudgedSegment
    final: bool
    waveform: Waveform | None = None


class Follower:
    """Judges the speech in a waveform that comes in blocks of any size.

    It gives:

    * each segment that has ended, once and in order of time: those that `speech.detect` finds in the whole waveform.
      Those too short to judge are among them and marked.
    * before that, windows of ongoing speech: the last `LiveSettings.window` seconds of it, as often as
      `overlap` allows and as long as judging them takes no more than `load` of the time. Their label is steadied: the
      scores are averaged over the windows of one speech, and a label stays until another clearly leads. Without label
      scores nothing is steadied.

    Use it from one thread at a time.

    Args:
        judge: Judges segments and windows; it is called for segments that are too short as well.
        settings: How windows are judged.
        segments: Thresholds and lengths of segments.
        speaker: Name of the speaker, if known.
        ahead: Whether to judge a segment half a second into the pause that may end it, rather than when it has ended.
            Without that, the judge sees each final segment once and in order of time.
    """

    def __init__(
        self,
        judge: Judging,
        settings: LiveSettings | None = None,
        segments: SegmentSettings = DEFAULTS,
        speaker: str | None = None,
        *,
        ahead: bool = True,
    ) -> None:
        self._judge, self._settings, self._speaker, self._early = judge, settings or LiveSettings(), speaker, ahead
        length = self._settings.window
        self._quality: Quality = "normal" if length >= segments.low_confidence else "low_confidence"
        self._speech = SpeechStream(segments)
        self._label = _SteadyLabel(self._settings)
        self._waiting = np.empty(0, np.float32)
        self._window_end = 0.0  # s; of the last window
        self._due = 0.0  # s of audio before which nothing is judged that has not ended
        self._ahead: dict[Segment, JudgedSegment] = {}  # segments that may end so, judged already

    def push(self, waveform: Waveform) -> list[Followed]:
        """Takes the next block and returns the results that it completes.

        Args:
            waveform: [samples], float32, 16 kHz; any number of samples.
        """
        waveform = np.concatenate([self._waiting, waveform])
        whole = len(waveform) - len(waveform) % _STEP
        self._waiting = waveform[whole:]
        found = []
        for at in range(0, whole, _STEP):
            found += self._ended(self._speech.push(waveform[at : at + _STEP]))
            found += self._unended()
        return found

    def finish(self) -> list[Followed]:
        """Returns the segments that the end of the stream completes. Nothing may be pushed after it."""
        found = self._ended(self._speech.push(self._waiting))
        return found + self._ended(self._speech.finish())

    def _ended(self, segments: list[Segment]) -> list[Followed]:
        if not segments:
            return []
        found = [
            Followed(self._ahead.get(segment) or self._judged(segment), True, self._speech.take(segment))
            for segment in segments
        ]
        self._ahead = {}
        return found

    def _judged(self, segment: Segment, steady: Steady | None = None) -> JudgedSegment:
        return self._judge(replace(segment, speaker=self._speaker), self._speech.take(segment), steady)

    def _unended(self) -> list[Followed]:
        """Judges a window of ongoing speech, if enough of it is new, or a segment that is about to end."""
        parts, now = self._speech.parts, self._speech.duration
        if not parts:
            self._label.forget()
            return []
        if now < self._due:
            return []
        started = time.perf_counter()
        pause = now - parts[-1].end
        found = []
        if pause >= _AHEAD:
            if self._early:
                self._judge_ahead(parts)
        elif pause <= _STEP / SAMPLING_RATE and (window := self._window(parts[-1])):
            found.append(Followed(self._judged(window, lambda prediction: self._label(prediction, window.end)), False))
        self._due = now + (time.perf_counter() - started) / self._settings.load
        return found

    def _window(self, speech: Segment) -> Segment | None:
        """Returns the end of a speech as a window; None if that is too short, or too close to the last window."""
        length, end = self._settings.window, speech.end
        if speech.duration < length or end - self._window_end < length - self._settings.overlap:
            return None
        self._window_end = end
        return Segment(to_samples(end - length) / SAMPLING_RATE, end, self._quality)

    def _judge_ahead(self, parts: list[Segment]) -> None:
        """Judges one of the segments that end if the pause lasts: several may end at once, and each takes its time."""
        part = next((part for part in parts if part not in self._ahead), None)
        if part is None:
            return
        judged = self._judged(part)
        if judged.judgement or judged.quality == "not_enrolled":  # any other may be judged once it has ended
            self._ahead[part] = judged


class _SteadyLabel:
    """The label that is shown for one speech, and the scores averaged over its windows."""

    def __init__(self, settings: LiveSettings) -> None:
        self._settings = settings
        self._label: str | None = None
        self._since = self._until = 0.0  # s; from when the label is shown, and until when scores are averaged
        self._average: dict[str, float] = {}

    def forget(self) -> None:
        """Forgets a speech that has ended."""
        self._label = None

    def __call__(self, prediction: Prediction, end: float) -> Prediction:
        """Returns the steadied prediction of the window that ends at a time, in seconds; its logits are the window's.

        Its label is the one shown, its confidence the averaged probability of that label.
        """
        settings, scores = self._settings, prediction.scores
        if self._label is None:
            self._average = dict(scores)
        else:
            keep = math.exp((self._until - end) / settings.smoothing) if settings.smoothing else 0.0
            self._average = {name: keep * self._average[name] + (1 - keep) * scores[name] for name in scores}
        self._until = end
        best = max(self._average, key=self._average.__getitem__)
        if self._label is None or (
            best != self._label
            and self._average[best] - self._average[self._label] >= settings.margin
            and end - self._since >= settings.hold
        ):
            self._label, self._since = best, end
        scores = dict(self._average)
        return replace(prediction, label=self._label, confidence=scores[self._label], scores=scores)

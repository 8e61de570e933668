"""Whose voice a stream is: each segment and window is named by its voice before it is judged."""

import numpy as np

from e2v_port.analysis.judged import JudgedSegment, placed
from e2v_port.audio import Waveform
from e2v_port.live.follower import Judging, Steady
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, to_samples

__all__ = ["Recognition"]

_GAP = 0.5  # s between two windows, from which they may be of two voices


class Recognition:
    """Names the voice in each segment of one stream, and lets only those be judged that may be.

    A segment that has ended is compared as a whole. A window of ongoing speech is compared together with the window
    before it, if they follow each other: one second says too little about a voice.

    Args:
        judge: Judges what may be judged; it gets segments with the speaker that the voice says.
        known: The enrolled voices.
        settings: Settings that speech is found with.
    """

    def __init__(self, judge: Judging, known: KnownVoices, settings: SegmentSettings = DEFAULTS) -> None:
        self._judge, self._known, self._settings = judge, known, settings
        self._before: tuple[Segment, Waveform] | None = None  # the last window

    def __call__(self, segment: Segment, waveform: Waveform, steady: Steady | None) -> JudgedSegment:
        """Judges a segment or a window, as `Judging` does, unless its voice may not be judged."""
        sound = waveform
        if steady is not None:
            sound = self._longer(segment, waveform)
            self._before = segment, waveform
        named = self._known.settle(segment, self._known.whose(sound, self._settings))
        return placed(named) if named.quality == "not_enrolled" else self._judge(named, waveform, steady)

    def _longer(self, window: Segment, waveform: Waveform) -> Waveform:
        """Returns the sound of a window with that of the window before it."""
        if self._before is None:
            return waveform
        last, sound = self._before
        if not last.start < window.start <= last.end + _GAP:
            return waveform
        shared = max(to_samples(last.end) - to_samples(window.start), 0)
        return np.concatenate([sound[: len(sound) - shared], waveform])

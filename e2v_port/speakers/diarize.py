"""Names the speakers of a clip by their voices, and splits segments where the speaker changes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Note, Waveform
from e2v_port.errors import E2VError, check_numbers, quoted
from e2v_port.models.model import Model
from e2v_port.speakers.cluster import Vectors, Voices, find
from e2v_port.speakers.windows import Run, Window, over, runs
from e2v_port.speech.detect import speech_spans
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings, Span, spans_between, to_samples, to_segment
from e2v_port.speech.silero import speech_probabilities
from e2v_port.speech.split import split_long

__all__ = ["ALIKE", "SpeakerSettings", "Speakers"]

ALIKE = {"ge2e": 0.85}
"""Similarity from which two voices are one, by the family of the encoder: see docs/speakers.md for its fit."""

_LISTENED = {"normal", "low_confidence", "too_short"}
_QUIET = 800  # samples: 50 ms, to find a quiet point between two speakers


@dataclass(frozen=True)
class SpeakerSettings:
    """How voices are compared. Defaults were chosen on made calls: see docs/speakers.md.

    Attributes:
        window: Length of a window, in seconds. GE2E was trained on 1.6 s.
        hop: Largest distance between windows, in seconds, at most `window`.
        pause: Shortest pause between two windows of speech, in seconds: a change of speaker is sought there first.
        shortest: Shortest speech whose speaker is named by its voice, in seconds. Shorter speech goes to the neighbor
            across the shorter pause; without a neighbor within `SegmentSettings.merge_gap`, it has no speaker.
        compared: Shortest window that takes part in finding the voices, in seconds.
        alike: Similarity from which two voices are one; None for that of the encoder's family.
        margin: Distance from `alike` within which notes report another number of speakers.
        least: Least speech of a speaker whose number is estimated, in seconds.
        most: Largest number of speakers that is estimated.
        close: Difference between the similarities to two voices below which a segment is a close call.
        cap: Largest number of windows that are compared with each other: memory grows with its square.
    """

    window: float = 1.6
    hop: float = 0.8
    pause: float = 0.25
    shortest: float = 0.5
    compared: float = 1.2
    alike: float | None = None
    margin: float = 0.02
    least: float = 5.0
    most: int = 8
    close: float = 0.05
    cap: int = 1500

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(replace_none(self), least=0)
        for name, holds, bounds in (
            ("window", self.window >= 0.1, "at least 0.1 s"),
            ("hop", 0 < self.hop <= self.window, "above 0 s and at most window"),
            ("compared", self.compared <= self.window, "at most window"),
            ("most", self.most >= 1, "at least 1"),
            ("cap", self.cap >= 10, "at least 10"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {bounds}, not {quoted(getattr(self, name))}")

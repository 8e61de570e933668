"""Sounds besides speech, such as laughter and music, where a model hears them: events, which nobody judges."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Note, Waveform
from e2v_port.emotions.estimates import softmax
from e2v_port.errors import AudioError, check_numbers, need
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.seconds import seconds
from e2v_port.speech.segment import Segment, Span, spans_between, to_samples

__all__ = ["OUTPUT", "OVER_SPEECH", "Event", "EventDetector", "EventSettings", "doubted", "remarks"]

OUTPUT = "events"  # name of the further output of a model
NO_EVENTS = frozenset({"speech", "speech_noise", "gbg", "unknown"})  # tags of SenseVoice for no sound besides speech
OVER_SPEECH = {
    "music": "music plays",
    "singing": "somebody sings",
    "laughter": "somebody laughs",
    "applause": "there is applause",
}
"""Events that make a judgement less certain where they cover speech, with their words: a model hears both."""


@dataclass(frozen=True)
class EventSettings:
    """How the answers of a model for windows become events. No value is measured: no trained model was at hand.

    Attributes:
        window: Length of the windows that the model hears, in seconds. SenseVoice names one event for what it hears at
            once; a longer window hides short sounds, and a shorter one is unlike the utterances it was trained on.
        step: From one window to the next, in seconds, at most `window`; it is also the resolution of the times. With
            the default every sound is heard twice, which takes twice as long as hearing the clip once.
        threshold: Lowest probability of an event, averaged over the windows that hold a moment, above 0 and below 1.
            With the default it is more probable than all else together, speech included.
        covered: Share of a segment of speech, above 0 and up to 1, from which music or laughter over it makes its
            judgement less certain. A second voice over this share changes a third of the labels (docs/analysis.md).
    """

    window: float = 3.0
    step: float = 1.5
    threshold: float = 0.5
    covered: float = 0.3

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for values that make no sense."""
        check_numbers(self)
        for name, holds, bounds in (
            ("window", self.window >= 0.5, "at least 0.5 s"),
            ("step", 0.1 <= self.step <= self.window, "from 0.1 s to window"),
            ("threshold", 0 < self.threshold < 1, "between 0 and 1"),
            ("covered", 0 < self.covered <= 1, "above 0 and up to 1"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {bounds}, not {getattr(self, name)}")


@dataclass(frozen=True)
class Event:
    """A sound besides speech.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        name: Name of the sound as the model has it, such as `laughter`, `music` or `cough`.
        probability: Mean probability of it from start to end, 0 to 1, among all events of the model.
        channel: Channel of the clip in which it was heard, from 1; None for the channels mixed.
    """

    start: float
    end: float
    name: str
    probability: float
    channel: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `sound` object of the JSON dialect."""
        return {
            "start": seconds(self.start),
            "end": seconds(self.end),
            "name": self.name,
            "probability": self.probability,
            "channel": self.channel,
        }


class EventDetector:
    """Finds events in clips with a model that has the further output `events`, such as SenseVoice.

    Args:
        model: The model: a name or folder for `load`, or a loaded model.
        settings: Settings; the default ones if None.
        runtime: Runtime of the model to load, as for `load`.
        dtype: Type of its arithmetic, as for `load`.
        offline: Whether to never open a connection.

    Attributes:
        model: The model.
        settings: The settings.

    Raises:
        NoLabels: The model has no such output.
        E2VError: See `load`.
    """

    def __init__(
        self,
        model: str | Path | Model,
        settings: EventSettings | None = None,
        *,
        runtime: str = "auto",
        dtype: str | None = None,
        offline: bool = False,
    ) -> None:
        need("events", model, str, Path, Model)
        need("settings", settings, EventSettings, None)
        if not isinstance(model, Model):
            model = load(model, runtime=runtime, dtype=dtype, offline=offline)
        model.need_outputs([OUTPUT])
        self.model = model
        self.settings = settings or EventSettings()

    def find(
        self, waveform: Waveform, *, barred: Iterable[tuple[float, float]] = (), channel: int | None = None
    ) -> list[Event]:
        """Finds the events in a clip.

        Args:
            waveform: [samples], float32, 16 kHz.
            barred: Start and end of what may not be heard, in seconds. No window reaches into it.
            channel: Channel of the clip, which the events carry.

        Returns:
            Events in order of time. Those of one name are apart; those of different names may overlap.
        """
        barred = [*barred]
        windows = [
            (start, end)
            for start, end in self._windows(len(waveform))
            if np.ptp(waveform[start:end]) > 0
            and all(end <= first * SAMPLING_RATE or last * SAMPLING_RATE <= start for first, last in barred)
        ]
        names = self.model.config.others[OUTPUT]
        step = round(self.settings.step * SAMPLING_RATE)
        bins = [(start, min(start + step, len(waveform))) for start in range(0, len(waveform), step)]
        sums, weights = np.zeros((len(bins), len(names))), np.zeros(len(bins))
        results = self.model.each((waveform[start:end] for start, end in windows), SAMPLING_RATE)
        for (start, end), result in zip(windows, results, strict=True):
            if isinstance(result, AudioError):  # shorter than the model can hear
                continue
            logits = self.model.outputs(result, [OUTPUT])[OUTPUT]
            shares = softmax(np.array([*logits.values()]), 1.0)
            for i in range(start // step, -(-end // step)):
                shared = min(end, bins[i][1]) - max(start, bins[i][0])
                sums[i] += shared * shares
                weights[i] += shared
        means = (sums / np.maximum(weights, 1)[:, None]).tolist()
        found = [
            event
            for number, name in enumerate(names)
            if name not in NO_EVENTS
            for event in self._runs(bins, [row[number] for row in means], name, channel)
        ]
        return sorted(found, key=lambda event: (event.start, event.end, event.name))

    def _windows(self, samples: int) -> list[tuple[int, int]]:
        """Returns the windows of a clip in samples; the last ends with the clip."""
        window, step = (round(length * SAMPLING_RATE) for length in (self.settings.window, self.settings.step))
        windows = [(start, start + window) for start in range(0, samples - window + 1, step)]
        if samples and (not windows or windows[-1][1] < samples):
            windows.append((max(samples - window, 0), samples))
        return windows

    def _runs(
        self, bins: Sequence[tuple[int, int]], shares: Sequence[float], name: str, channel: int | None
    ) -> list[Event]:
        """Joins neighboring bins in which an event is probable enough."""
        runs: list[list[int]] = []
        for i, share in enumerate(shares):
            if share < self.settings.threshold:
                continue
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return [
            Event(
                bins[run[0]][0] / SAMPLING_RATE,
                bins[run[-1]][1] / SAMPLING_RATE,
                name,
                sum(shares[i] for i in run) / len(run),
                channel,
            )
            for run in runs
        ]


def doubted(segments: Sequence[Segment], events: Sequence[Event], settings: EventSettings) -> list[Segment]:
    """Returns the segments of a clip, with less quality and a doubt where music or laughter covers speech.

    Args:
        segments: Segments of speech.
        events: Events of the clip.
        settings: Share of a segment from which it is doubted.
    """
    spans: dict[tuple[str, int | None], list[Span]] = {}
    for event in events:
        spans.setdefault((event.name, event.channel), []).append((to_samples(event.start), to_samples(event.end)))

    def covered(segment: Segment, name: str) -> bool:
        start, end = to_samples(segment.start), to_samples(segment.end)
        over = spans_between(spans.get((name, segment.channel), []), start, end)
        return sum(min(last, end) - max(first, start) for first, last in over) >= settings.covered * (end - start)

    def graded(segment: Segment) -> Segment:
        doubts = tuple(name for name in OVER_SPEECH if covered(segment, name))
        if not doubts or segment.quality not in {"normal", "low_confidence"}:
            return segment
        return replace(segment, quality="low_confidence", doubts=(*segment.doubts, *doubts))

    return [*map(graded, segments)]


def remarks(segments: Sequence[Segment]) -> list[Note]:
    """Returns what must be known about the segments of a clip that `doubted` has marked, one note for each event."""
    notes = []
    for name, words in OVER_SPEECH.items():
        if starts := [segment.start for segment in segments if name in segment.doubts]:
            count = f"{len(starts)} segment{'s' if len(starts) > 1 else ''}"
            notes.append(Note(name, f"{words} during {count} of speech, from {starts[0]:.2f} s: a model hears both"))
    return notes

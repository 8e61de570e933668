"""Voices that a model adapts to: offsets of speakers, from their baselines or learned from what they say."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from e2v_port.analysis.judge import CATEGORICAL, Judge, JudgedWaveform
from e2v_port.audio import Note
from e2v_port.emotions.adaptation import Offset
from e2v_port.emotions.estimates import Prediction
from e2v_port.errors import BaselineError, need
from e2v_port.prosody.baseline import Baseline

__all__ = ["Adapting", "Baselines", "Voices", "read_baselines"]

Baselines: TypeAlias = Baseline | str | Path | Iterable[Baseline | str | Path] | None
"""Baselines of speakers, or the files that hold them: one, several or none."""

Adapting: TypeAlias = Callable[[Sequence[tuple[str | None, JudgedWaveform]]], tuple[list[JudgedWaveform], list[Note]]]
"""Adapts the results of one clip, in order of time, each with its speaker; also returns what to say about it."""

_HELD = 200  # clips of a speaker that an offset is learned from, the last ones; more change it little


def read_baselines(given: Baselines) -> dict[str | None, Baseline]:
    """Returns baselines by speaker; a single one, under any name, also serves for speech without a speaker.

    Raises:
        BaselineError: A file cannot be read, or holds something else.
    """
    if given is None:
        return {}
    found: dict[str | None, Baseline] = {}
    if isinstance(given, Baseline | str | Path) or not isinstance(given, Iterable):
        given = [given]
    for item in given:
        need("baseline", item, Baseline, str, Path)
        baseline = item if isinstance(item, Baseline) else Baseline.load(item)
        found[baseline.speaker] = baseline
    if len(found) == 1:
        found[None] = baseline
    return found


class Voices:
    """The offsets of speakers for one judge. Safe to use from several threads.

    An offset in a baseline is used as it is. Without one, if voices are learned, it follows from all clips of the
    speaker that were heard before.

    Args:
        judge: Judge whose categorical model adapts.
        baselines: Baselines by speaker; they may change meanwhile.
        learn: Whether to learn the offsets of speakers whose baseline has none.

    Raises:
        NoLabels: There is no categorical model with labels.
        BaselineError: The offset of a baseline was learned with another model.
        E2VError: The model stores no means of its labels: see `Model.centers`.
    """

    def __init__(self, judge: Judge, baselines: Mapping[str | None, Baseline], *, learn: bool) -> None:
        if CATEGORICAL not in judge.models:
            next(iter(judge.models.values())).need_labels()
        self._judge, self._baselines, self._learn = judge, baselines, learn
        self._centers = judge.models[CATEGORICAL].centers
        self._heard: dict[str | None, deque[Prediction]] = {}
        self._offsets: dict[str | None, Offset] = {}  # learned from what was heard
        self._lock = threading.Lock()
        for baseline in baselines.values():
            self.check(baseline)

    def check(self, baseline: Baseline) -> None:
        """Raises BaselineError for an offset that was learned with another model."""
        offset, labels = baseline.offset, set(self._centers.labels)
        if offset and not (offset.model == self._centers.model and (offset.reason or offset.logits.keys() >= labels)):
            name = self._judge.models[CATEGORICAL].config.source.repository
            who = f" of {baseline.speaker}" if baseline.speaker else ""
            raise BaselineError(
                f"the baseline{who} was adapted with another model than {name}: name that model, or learn it again "
                f"with `e2v adapt`"
            )

    @property
    def learns(self) -> bool:
        """Whether voices are learned from what is heard."""
        return self._learn

    @property
    def speakers(self) -> list[str | None]:
        """Speakers that were heard."""
        with self._lock:
            return list(self._heard)

    def offset(self, speaker: str | None) -> Offset | None:
        """Returns the offset of a speaker as known now; None if no baseline has one and nothing is learned."""
        baseline = self._baselines.get(speaker)
        if baseline and baseline.offset:
            return baseline.offset
        if not self._learn:
            return None
        with self._lock:
            known = self._offsets.get(speaker)
            if known is None:
                known = self._offsets[speaker] = self._centers.offset(list(self._heard.get(speaker, ())))
            return known

    def hear(self, speaker: str | None, prediction: Prediction | None) -> None:
        """Learns from a clip of a speaker, which was judged with or without an offset."""
        if not self._learn or prediction is None:
            return
        with self._lock:
            self._heard.setdefault(speaker, deque(maxlen=_HELD)).append(prediction)
            self._offsets.pop(speaker, None)

    def forget(self, speaker: str | None) -> bool:
        """Forgets what was heard of a speaker; returns whether there was anything."""
        with self._lock:
            self._offsets.pop(speaker, None)
            return self._heard.pop(speaker, None) is not None

    def adapted(self, speaker: str | None, result: JudgedWaveform, *, hear: bool = False) -> JudgedWaveform:
        """Returns a result with the offset of its speaker taken off; then learns from it, if `hear`."""
        offset = self.offset(speaker)
        if hear:
            self.hear(speaker, result.prediction)
        return self._judge.adapted(result, offset) if offset else result

    def note(self, speaker: str | None) -> Note:
        """Says in words whether a speaker is adapted to, from how many clips, or why not."""
        offset = self.offset(speaker)
        who = f"{speaker}: " if speaker is not None else ""
        if offset is None:
            return Note("not_adapted", f"{who}not adapted: there is no baseline with an offset of this voice")
        return Note("not_adapted" if offset.reason else "adapted", f"{who}{offset}")

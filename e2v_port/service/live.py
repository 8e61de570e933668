"""A voice judged while it speaks: samples go in as they are recorded, judgements come out."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from e2v_port.analysis import JudgedSegment
from e2v_port.audio import MAX_CHANNELS, LiveAudio, Waveform
from e2v_port.segments import DEFAULTS, Segment, SegmentSettings
from e2v_port.service.answers import segment_dict
from e2v_port.streaming import SpeechStream

__all__ = ["FORMATS", "Session"]

FORMATS: dict[str, np.dtype[Any]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
_RATES = (8_000, 192_000)  # Hz: from the telephone to studio equipment
_PARTIAL = 1.0  # s of new audio between two judgements of the same speech


class Session:
    """One stream, from its first sample to its last.

    What comes out are dicts {"type", "segment"}, the segment as in answers of the service, with "final" in it:

    * `final`: a segment that has ended, as `streaming.SpeechStream` gives it. It is given once, and in order of time.
      Those too short to judge are among them and marked.
    * `partial`: what would be said if the clip ended here, of the speech that has not ended. It comes at most once per
      second of new audio, from `min_duration` of speech on, and less often where judging takes longer than half of
      that.

    Args:
        judge: Says what is in a waveform [samples], float32, 16 kHz. It is given the segment that this is as well, and
            is asked about those that cannot be judged, too.
        sampling_rate: Of what comes in, 8000 to 192000 Hz.
        format: `s16le`, 16-bit integers, or `f32le`, floats with full scale 1; both little-endian.
        channels: 1 to 64, interleaved; their mean is judged.
        speaker: Who speaks, if that is known.
        settings: Thresholds and lengths of segments.

    Raises:
        ValueError: A rate, format, number of channels or name that cannot be used, whatever its type: one line.
    """

    def __init__(
        self,
        judge: Callable[[Waveform, Segment], JudgedSegment],
        *,
        sampling_rate: int,
        format: str = "s16le",  # noqa: A002 (its name in the protocol)
        channels: int = 1,
        speaker: str | None = None,
        settings: SegmentSettings = DEFAULTS,
    ) -> None:
        for name, value, (low, high) in (
            ("sampling_rate", sampling_rate, _RATES),
            ("channels", channels, (1, MAX_CHANNELS)),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(f"{name}: declare a whole number from {low} to {high}, not {_shown(value)}")
        if not isinstance(format, str) or format not in FORMATS:
            raise ValueError(f"format: declare one of {', '.join(FORMATS)}, not {_shown(format)}")
        if speaker is not None and not isinstance(speaker, str):
            raise ValueError(f"speaker: give a name or null, not {_shown(speaker)}")
        self._judge, self._kind, self._channels = judge, FORMATS[format], channels
        self._speaker, self._settings = speaker, settings
        self._audio = LiveAudio(sampling_rate)
        self._rest = b""  # of a sample whose other bytes have not come yet
        self._speech = SpeechStream(settings)
        self._due = 0.0  # s of audio, before which no partial judgement is made
        self._shown: Segment | None = None  # by the last of them
        self.samples = 0
        """Samples of the declared rate taken so far, per channel: they are judged, or will be by `finish`."""

    @property
    def duration(self) -> float:
        """Seconds taken so far."""
        return self._audio.duration

    def push(self, data: bytes) -> list[dict[str, Any]]:
        """Goes on with the next bytes, as many as there are; a sample may be cut in two between pushes.

        Returns:
            What can be said now.

        Raises:
            AudioError: Samples that are not finite or beyond 100 times full scale. None of these bytes is taken, and
                `finish` still gives what remains to be said of those before.
        """
        found = self._heard(self._decoded(data))
        now = self._speech.open
        new = now and self._speech.duration >= self._due and now != self._shown
        if now and new and now.duration >= self._settings.min_duration:
            started = time.perf_counter()
            found.append(self._event("partial", now))
            self._shown = now
            self._due = self._speech.duration + max(_PARTIAL, 2 * (time.perf_counter() - started))
        return found

    def finish(self) -> list[dict[str, Any]]:
        """Returns what remains to be said at the end of the stream. A sample that is not complete is left out."""
        found = self._heard(self._audio.finish())
        return found + [self._event("final", segment) for segment in self._speech.finish()]

    def _decoded(self, data: bytes) -> Waveform:
        data = self._rest + data
        size = len(data) - len(data) % (self._kind.itemsize * self._channels)
        self._rest = data[size:]
        block = np.frombuffer(data[:size], self._kind).reshape(-1, self._channels)
        waveform = self._audio.push(block)
        self.samples += len(block)
        return waveform

    def _heard(self, waveform: Waveform) -> list[dict[str, Any]]:
        return [self._event("final", segment) for segment in self._speech.push(waveform)]

    def _event(self, kind: str, segment: Segment) -> dict[str, Any]:
        segment = replace(segment, speaker=self._speaker)
        judged = self._judge(self._speech.take(segment), segment)
        return {"type": kind, "segment": {**segment_dict(judged), "final": kind == "final"}}


def _shown(value: object) -> str:
    """Shows what somebody sent on one short line."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

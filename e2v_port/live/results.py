"""Results of the live voice: segments with the time of day, and analyses of clips."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self, TypeAlias

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.results import Analysis
from e2v_port.seconds import seconds

__all__ = ["Reading", "VoiceAnalysis", "VoiceSegment"]

Reading: TypeAlias = Literal["pending", "done", "late", "failed"]
"""What becomes of the words of a segment: see `VoiceSegment.reading`."""


@dataclass(frozen=True, kw_only=True, repr=False)
class VoiceSegment(JudgedSegment):
    """A segment of speech and how it sounds, of a clip or of a stream.

    Attributes:
        final: True for a segment that has ended, which is judged as `e2v_port.analyze` does; False for a window of
            ongoing speech, whose label and scores are steadied, see `LiveSettings`.
        at: Time of its end, in seconds since the epoch (`time.time`). A stream that comes faster than it was spoken
            counts as if it had come at its own pace, and everything heard after it as later still.
        backend: Name of the backend, see `EmotionDetector`.
        fallback: Reason why it was not the backend that was asked for; None if it was.
        prosody: Measures of the voice; None for segments that were not judged, and for windows unless the backend
            needs them.
        reading: What becomes of its words in a stream that is read. `pending`: the same segment comes again when its
            words are settled. Then it is `done`: `words` holds them, and is empty if none were heard; `late`: they were
            left out, since this machine reads more slowly than people speak; or `failed`. None for a segment that is
            not read: a window, a speaker who is not enrolled, or a detector without words.
    """

    final: bool
    at: float = field(compare=False)
    backend: str
    fallback: str | None
    reading: Reading | None = None

    @classmethod
    def of(cls, segment: JudgedSegment, *, final: bool, at: float, backend: str, fallback: str | None) -> Self:
        """Makes one of a judged segment."""
        values = {item.name: getattr(segment, item.name) for item in fields(segment)}
        return cls(**values, final=final, at=at, backend=backend, fallback=fallback)

    def __repr__(self) -> str:
        what = self.judgement.words if self.judgement else self.quality
        if self.confidence is not None and self.judgement and not self.judgement.doubtful:
            what += f" {self.confidence:.2f}"
        state = "" if self.final else ", ongoing"
        return f"VoiceSegment({self.start:.2f} to {self.end:.2f} s{state}; {what}; {self.backend})"

    @property
    def scores(self) -> Mapping[str, float] | None:
        """Probabilities of the model's labels."""
        return self.judgement.scores if self.judgement else None

    @property
    def distribution(self) -> Mapping[str, float] | None:
        """Probability of each of the 26 emotions; None for a model with labels of its own."""
        return self.judgement.distribution if self.judgement else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `segment` object of the JSON dialect, with the fields of a live voice."""
        return {
            **super().to_dict(),
            "final": self.final,
            "at": seconds(self.at),
            "backend": self.backend,
            "fallback": self.fallback,
            "reasons": list(self.reasons),
            "prosody": self.prosody.to_dict() if self.prosody else None,
            **({} if self.reading is None else {"reading": self.reading}),
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class VoiceAnalysis(Analysis):
    """The segments of speech in one clip and how they sound.

    Attributes:
        segments: Segments in order of time, all of them final.
        backend: Name of the backend, see `EmotionDetector`.
        fallback: Reason why it was not the backend that was asked for; None if it was.
    """

    segments: tuple[VoiceSegment, ...]
    backend: str
    fallback: str | None

    def __repr__(self) -> str:
        return f"Voice{super().__repr__()}"

    def to_dict(self) -> dict[str, Any]:
        """Returns the document of the JSON dialect, with the backend and its fallback."""
        return {**super().to_dict(), "backend": self.backend, "fallback": self.fallback}

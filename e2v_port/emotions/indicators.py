"""Indicators: how a voice sounds over a recording, each figure with its uncertainty (docs/indicators.md)."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from e2v_port.seconds import seconds

__all__ = ["KINDS", "NOTICE", "Indicator", "Indicators", "Minimum", "VoiceIndicators", "refusal"]

NOTICE = (
    "These figures describe how a voice sounds. They say nothing about truthfulness, intentions or health, and no "
    "decision about a person may rest on them."
)

KINDS = ("arousal", "valence", "tense", "pitch", "tempo", "pauses", "tremor", "agreement")
"""What indicators are about; the name of each indicator begins with one of these."""

_UNNAMED = "speech without a named speaker counts as that of one voice on each channel"

_TRUTH = {
    *("credibility", "deceit", "deception", "deceptive", "guilt", "honesty", "lie", "lies", "lying", "sincerity"),
    *("stress", "trust", "trustworthiness", "truth", "truthfulness"),
}
_HEALTH = {
    *("adhd", "alcohol", "anxiety", "autism", "burnout", "dementia", "depression", "diagnosis", "disease", "drugs"),
    *("fatigue", "health", "illness", "intoxication", "parkinson", "ptsd", "suicidality", "suicide"),
}


class Minimum(NamedTuple):
    """The least speech that an indicator needs; below it, there is a reason instead of a value.

    Attributes:
        segments: Number of segments in which it was measured.
        seconds: Seconds of speech in them.
        span: Seconds from the end of the first to the end of the last; 0 where time plays no part.
    """

    segments: int
    seconds: float
    span: float


@dataclass(frozen=True)
class Indicator:
    """One figure about a voice in a recording.

    Attributes:
        name: One of `KINDS`, alone for the level; with `_shift` for the difference from the baseline, `_apart` for the
            share of speech away from the reference, `_change` for the change over time.
        value: The figure; None below the minimum, or where it cannot be measured.
        unit: Unit of the value.
        interval: 95 % interval of the value: how far it would move with more speech of the same kind. Errors of the
            models are not part of it.
        word: What the value says, in words.
        reference: What it is compared with: `baseline`, the speaker's neutral voice; `recording`, the median of the
            speaker in this recording; None if with nothing.
        source: Origin of the numbers: as `Judgement.dimensions_from` for arousal, valence and tense speech, `voice` for
            what is measured without a model, `models` for agreement; None where there are none.
        segments: Number of segments in which it was measured.
        seconds: Seconds of speech in them.
        minimum: What it needs at least.
        reason: Reason why there is no value; None if there is one.
    """

    name: str
    value: float | None
    unit: str
    interval: tuple[float, float] | None
    word: str | None
    reference: str | None
    source: str | None
    segments: int
    seconds: float
    minimum: Minimum
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Returns the `indicator` object of the JSON dialect."""
        return asdict(self) | {
            "interval": list(self.interval) if self.interval else None,
            "seconds": seconds(self.seconds),
            "minimum": self.minimum._asdict(),
        }


@dataclass(frozen=True)
class VoiceIndicators:
    """The indicators of one voice.

    Attributes:
        speaker: Name of the speaker, if known.
        channel: Channel of the clip, from 1; None for the channels mixed.
        segments: Number of its judged segments that count.
        seconds: Seconds of speech in them.
        overlapped: Number of its judged segments that are left out, since somebody else is heard in them.
        indicators: The indicators, in the order of `KINDS`.
    """

    speaker: str | None
    channel: int | None
    segments: int
    seconds: float
    overlapped: int
    indicators: tuple[Indicator, ...]

    def __getitem__(self, name: str) -> Indicator:
        """Returns the indicator of a name, such as `pitch_change`.

        Raises:
            KeyError: There is none of that name.
        """
        for indicator in self.indicators:
            if indicator.name == name:
                return indicator
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """Returns the `voice_indicators` object of the JSON dialect."""
        return {
            "speaker": self.speaker,
            "channel": self.channel,
            "segments": self.segments,
            "seconds": seconds(self.seconds),
            "overlapped": self.overlapped,
            "indicators": [indicator.to_dict() for indicator in self.indicators],
        }


@dataclass(frozen=True)
class Indicators:
    """The indicators of all voices of a recording. They say nothing about truthfulness, intentions or health.

    Attributes:
        voices: Those of each voice, in the order in which they begin to speak.
    """

    voices: tuple[VoiceIndicators, ...]

    @property
    def notice(self) -> str:
        """What these figures do not say; it belongs beside them wherever they are shown."""
        return NOTICE

    @property
    def notes(self) -> dict[str, str]:
        """What must be known about them, in words, by its kind as in `Note`."""
        unnamed = any(voice.speaker is None for voice in self.voices)
        return {"unnamed_speaker": _UNNAMED} if unnamed else {}

    def to_dict(self) -> dict[str, Any]:
        """Returns the `indicators` object of the JSON dialect."""
        return {
            "notice": self.notice,
            "notes": [{"kind": kind, "text": text} for kind, text in self.notes.items()],
            "voices": [voice.to_dict() for voice in self.voices],
        }


def refusal(name: str) -> str | None:
    """Returns why an indicator of that name is refused, in one line; None for any other name.

    Args:
        name: A name that somebody asked for, such as `deception`.
    """
    word = name.strip().casefold()
    if word in _TRUTH:
        return (
            f"{word} is refused: cues to deception are weak (DePaulo et al. 2003; Hartwig & Bond 2011), and lie or "
            "stress detectors for voices perform at chance (Eriksson & Lacerda 2007): see docs/indicators.md"
        )
    if word in _HEALTH:
        return f"{word} is refused: none of these figures was tested as a finding about health: see docs/indicators.md"
    return None

"""Voice parameters for each emotion: emotion -> eight parameters -> SSML, speech engines, audio.

The table is taxonomy/prosody.json; see docs/expression.md. All parameters are relative to the same voice speaking
neutrally, so one set of them can be given to an engine, applied to its audio, or shared between the two.
"""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from e2v_port.emotions import taxonomy
from e2v_port.errors import check_numbers, number, quoted

__all__ = ["NEUTRAL", "ProsodyParameters", "parameter_rows", "parameters"]


@dataclass(frozen=True)
class ProsodyParameters:
    """Differences between a voice and its own neutral speech.

    Attributes:
        pitch_shift_semitones: Shift of the fundamental frequency, -6 to 6 semitones; the formants stay.
        pitch_variance: Factor for the distance of the pitch from its mean, in semitones, 0.5 to 2.
        speech_rate: Factor for the speed, pauses included, 0.7 to 1.5.
        pause_multiplier: Factor for the length of pauses at that speed, 0.5 to 2.
        volume_db: Change of the level of the speech, -6 to 6 dB.
        dynamic_range: Factor for the distance of the level from its mean, in dB, 0.5 to 1.5.
        breathiness: Amount of breath, from 0, none added, to 1, breath in all but the lowest harmonics.
        tremolo_amount: Depth of a tremolo of the level, from 0, none, to 1, half of the amplitude.

    Raises:
        ValueError: A value is not a number, or outside its range.
    """

    pitch_shift_semitones: float = 0.0
    pitch_variance: float = 1.0
    speech_rate: float = 1.0
    pause_multiplier: float = 1.0
    volume_db: float = 0.0
    dynamic_range: float = 1.0
    breathiness: float = 0.0
    tremolo_amount: float = 0.0

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, row in parameter_rows().items():
            if not row["from"] <= getattr(self, name) <= row["to"]:  # NaN is in no range
                raise ValueError(f"{name} must be from {row['from']} to {row['to']}, not {quoted(getattr(self, name))}")

    def to_dict(self) -> dict[str, float]:
        """Returns the eight parameters by name."""
        return asdict(self)


@cache
def parameter_rows() -> dict[str, dict[str, Any]]:
    """Returns the kind ("factor" or "additive") and the range of each parameter, by its name."""
    rows: dict[str, dict[str, Any]] = taxonomy.table("prosody")["parameters"]
    return rows


NEUTRAL = ProsodyParameters()


def parameters(emotion: str, intensity: float = 1.0) -> ProsodyParameters:
    """Returns the voice parameters of an emotion.

    Additive parameters are multiplied by the intensity, factors are raised to its power: half of a pause factor of 2 is
    1.41. Above 1 the emotion is exaggerated, and a parameter stops at the end of its range.

    Args:
        emotion: Name of one of the 26 emotions.
        intensity: Strength of the emotion, from 0, neutral, through 1, the profile of the table, to 2.

    Raises:
        ValueError: The emotion is unknown, or the intensity is not from 0 to 2.
    """
    taxonomy.emotion(emotion)
    intensity = number("intensity", intensity, 0, 2)
    profile = taxonomy.table("prosody")["profiles"][emotion]
    values = {}
    for name, row in parameter_rows().items():
        value = profile[name] ** intensity if row["kind"] == "factor" else profile[name] * intensity
        values[name] = min(max(value, row["from"]), row["to"])
    return ProsodyParameters(**values)

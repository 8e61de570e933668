"""Describes what is known of a speaker: the neutral voice, and how the voice moves a model's judgements."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from e2v_port.emotions.adaptation import Offset
from e2v_port.errors import BaselineError, cut, need
from e2v_port.files import replacing
from e2v_port.prosody.measure import Prosody

__all__ = ["HIGH_VOICE", "LEAST_QUALITY", "Baseline", "comparable"]

# Women commonly speak below this pitch, and men further below (Titze, Principles of Voice Production, 1994): without a
# baseline, only a higher pitch is known to be high.
HIGH_VOICE = 255.0  # Hz
LEAST_QUALITY = 0.3  # of a recording in which a voice is measured, 0 to 1; heuristic
_HESITATION_SECONDS = 5.0  # shorter segments count as this long: one hesitation in them is not many


def comparable(prosody: Prosody) -> dict[str, float]:
    """Returns the measures that rules compare, in units in which a difference means the same for every voice."""
    values = {
        "pitch": 12 * math.log2(prosody.pitch_mean / HIGH_VOICE) if prosody.pitch_mean else None,  # semitones
        "pitch_std": prosody.pitch_std,
        "rate": prosody.rate,
        "energy": prosody.energy,
        "energy_std": prosody.energy_std,
        "tremor": prosody.tremor,
        "breathiness": prosody.breathiness,
        "pause_ratio": prosody.pause_ratio,
        "hesitations": prosody.hesitations / max(prosody.duration, _HESITATION_SECONDS),  # per second
    }
    return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Baseline:
    """What is known of a speaker's voice. It is personal data: delete the file when it is no longer needed.

    Attributes:
        speaker: Speaker, if named.
        samples: Number of neutral samples; 0 if only the offset is known.
        seconds: Total length of the samples.
        means: Mean of each measure over the samples: `pitch` in semitones from 255 Hz, `pitch_std`, `rate`, `energy`,
            `energy_std`, `tremor`, `breathiness` and `pause_ratio` as in `Prosody`, `hesitations` per second. Measures
            that fewer than two samples have are missing.
        deviations: Standard deviation of each measure over the samples.
        offset: How far the voice moves the logits of one model, learned by `e2v adapt`: see docs/adaptation.md. None if
            it was not learned.
    """

    speaker: str | None
    samples: int
    seconds: float
    means: Mapping[str, float]
    deviations: Mapping[str, float]
    offset: Offset | None = None

    @classmethod
    def of(cls, prosodies: Iterable[Prosody], speaker: str | None = None) -> Self:
        """Makes a baseline from neutral samples. Three to five sentences suffice; more are better.

        The level of the voice is compared too, so record the samples in the same way as the speech to judge.

        Args:
            prosodies: Prosody of each sample.
            speaker: Name of the speaker.

        Raises:
            ValueError: There are fewer than three samples, or one is unusable: no voice, shorter than 1 s, or a
                recording with a score below 0.3 (heuristic). The message names the sample and the reason.
        """
        prosodies = list(prosodies)
        for prosody in prosodies:
            need("a sample", prosody, Prosody)
        if len(prosodies) < _LEAST_SAMPLES:
            raise ValueError(f"a baseline needs {_LEAST_SAMPLES} to 5 neutral samples, not {len(prosodies)}")
        for number, prosody in enumerate(prosodies, 1):
            if why := _unusable(prosody):
                raise ValueError(f"neutral sample {number} of {len(prosodies)} {why}: record it again")
        tables = [comparable(prosody) for prosody in prosodies]
        names = sorted({name for table in tables for name in table})
        # Sorted, so that the sums do not depend on the order of the samples either.
        columns = {name: sorted(table[name] for table in tables if name in table) for name in names}
        columns = {name: values for name, values in columns.items() if len(values) > 1}
        return cls(
            speaker,
            len(prosodies),
            math.fsum(prosody.duration for prosody in prosodies),
            {name: float(np.mean(values)) for name, values in columns.items()},
            {name: float(np.std(values, ddof=1)) for name, values in columns.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the baseline as plain dicts, strings and numbers, ready for JSON."""
        values = {"format": _FORMAT} | asdict(self)
        offset = values.pop("offset")
        return values | {"format": _FORMAT_WITH_OFFSET, "offset": offset} if offset else values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Makes a baseline from the result of `to_dict`.

        Raises:
            BaselineError: The values are not those of a baseline of this version.
        """
        try:
            speaker, samples, seconds = values["speaker"], int(values["samples"]), float(values["seconds"])
            tables = [{str(name): float(x) for name, x in values[key].items()} for key in ("means", "deviations")]
            good = tables[0].keys() == tables[1].keys() and samples >= 0
            good &= values["format"] == (_FORMAT_WITH_OFFSET if "offset" in values else _FORMAT)
            offset = Offset.from_dict(values["offset"]) if "offset" in values else None
            good &= all(math.isfinite(x) for table in tables for x in table.values())
        except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
            raise BaselineError(_NO_BASELINE) from error
        if not good or not isinstance(speaker, str | None):
            raise BaselineError(_NO_BASELINE)
        return cls(speaker, samples, seconds, tables[0], tables[1], offset)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the baseline to a JSON file, completely or not at all.

        Raises:
            OSError: The folder does not exist, or cannot be written to.
        """
        with replacing(Path(path)) as partial:
            partial.write_text(json.dumps(self.to_dict(), indent=1) + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a file written by `save`.

        Raises:
            BaselineError: The file cannot be read, or is not a baseline of this version.
        """
        try:
            with Path(path).open("rb") as file:
                return cls.from_dict(json.loads(file.read(_MOST_BYTES)))
        except OSError as error:
            why = f"cannot be read ({error.strerror}): name the file that `e2v listen --calibrate` wrote"
            raise BaselineError(f"{cut(os.fsdecode(path))}: {why}") from error
        except (BaselineError, ValueError) as error:
            raise BaselineError(f"{cut(os.fsdecode(path))}: {_NO_BASELINE}") from error


_LEAST_SAMPLES = 3
_MOST_BYTES = 1 << 20  # of a file; a baseline has 1 kB
_FORMAT = "e2v-port baseline 1"  # the number changes with the meaning of a measure
_FORMAT_WITH_OFFSET = "e2v-port baseline 2"
_NO_BASELINE = "not a baseline of this version: make it anew from neutral samples"


def _unusable(prosody: Prosody) -> str | None:
    if prosody.pitch_mean is None:
        return "has no voice"
    if prosody.duration < 1:
        return f"is only {prosody.duration:.2f} s long, and 1 s is the least"
    if prosody.quality.score < LEAST_QUALITY:
        quality = prosody.quality
        figures = f"{quality.level:.0f} dBFS, {quality.snr:.0f} dB above the noise, {quality.clipped:.1%} clipped"
        return f"is too bad a recording ({figures})"
    return None

"""The scope of a benchmark: amount of audio, number of repetitions, and the model under test."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.bench import clips as speech

__all__ = ["FULL", "LATENCY_SECONDS", "QUICK", "Note", "Plan", "Setup"]

Note = Callable[[str], None]

LATENCY_SECONDS = (1, 4, 10)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        seconds: Total length of the clips, in seconds.
        repeats: Repetitions of every measurement except latency, which gets three times as many.
        long_files: Lengths of the long files, in seconds.
        counts: Numbers of clips over which the time per second of audio should stay constant.
        sizes: Models to make with random weights when none is given.
    """

    seconds: float
    repeats: int
    long_files: tuple[int, ...]
    counts: tuple[int, ...]
    sizes: tuple[str, ...]

    def longer(self) -> "Plan":
        """Returns this plan plus a one-hour file, a thousand clips and the large model."""
        sizes = tuple(dict.fromkeys((*self.sizes[:1], "large", *self.sizes[1:])))
        return Plan(self.seconds, self.repeats, (*self.long_files, 3600), (*self.counts, 1000), sizes)


FULL = Plan(600.0, 3, (60, 600), (1, 10, 100), ("base", "audeering"))
QUICK = Plan(30.0, 1, (60,), (1, 10), ("base",))


@dataclass(frozen=True)
class Setup:
    """The model under test, the clips, and the conditions of the measurement.

    Attributes:
        name: Name of the model in the report.
        folder: Converted model.
        loaded: Folder that is loaded: the converted model, or its export for ONNX Runtime.
        random: Whether its weights are random.
        runtime: `cuda`, `cpu`, `mps`, `mlx`, `numpy` or `onnx`.
        plan: Amount of audio and number of repetitions.
        work: Temporary folder.
        clips: Paths of the clips.
        note: Receives one line at the start of each measurement.
    """

    name: str
    folder: Path
    loaded: Path
    random: bool
    runtime: str
    plan: Plan
    work: Path
    clips: list[str]
    note: Note

    def piece(self, seconds: float, name: str, seed: int = 1) -> str:
        """Returns a clip of a given length, cut from the other clips."""
        path = self.work / "pieces" / f"{name}.flac"
        if not path.exists():
            pool = np.concatenate([load_audio(clip) for clip in self.clips])
            speech.write_piece(pool, round(seconds * SAMPLING_RATE), path, np.random.default_rng(seed))
        return str(path)

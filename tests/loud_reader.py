"""A recognizer without weights: it reads how loud each half second is. Its words depend on the sound alone."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e2v_port.audio import SAMPLING_RATE
from e2v_port.errors import E2VError, ModelNotFound
from e2v_port.transcribe.words import Transcript, Word

HALF = SAMPLING_RATE // 2
KNOWN = {"en", "de"}

# Runs at the start of every Python of a service or command: its recognizer is the one above, in place of Whisper.
IN_PLACE_OF_WHISPER = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import loud_reader
from e2v_port.analysis import reading
reading.opened = loud_reader.opened
"""


class LoudReader:
    """Reads passages: see `e2v_port.transcribe.words.Reader`.

    Args:
        language: Code of the language that it claims to hear.
        probability: Probability that it gives this language.
        before: Called before each passage is read, with its samples.
    """

    name = "loudness"

    def __init__(
        self, language: str | None = None, probability: float = 0.9, before: Callable[[np.ndarray], None] | None = None
    ) -> None:
        self.language, self.probability, self.before = language, probability, before
        self.asked: list[str | None] = []  # the language of each call with passages

    def read(
        self, waveform: np.ndarray, passages: Sequence[tuple[float, float]], *, language: str | None = None
    ) -> tuple[tuple[Word, ...], Transcript]:
        language = language or self.language
        if language not in {None, *KNOWN}:
            raise E2VError(f"language {language!r} is unknown to {self.name}: use {', '.join(sorted(KNOWN))}")
        words = []
        self.asked += [language] if passages else []
        for start, end in passages:
            first, last = round(start * SAMPLING_RATE), min(round(end * SAMPLING_RATE), len(waveform))
            if self.before:
                self.before(waveform[first:last])
            for at in range(first, last, HALF):
                part = waveform[at : min(at + HALF, last)].astype(np.float64)
                loud = round(1000 * math.sqrt(float(np.mean(part**2))))
                words.append(Word(at / SAMPLING_RATE, (at + len(part)) / SAMPLING_RATE, f" {loud}", 0.5))
        heard = language or ("en" if words else None)
        return tuple(words), Transcript(self.name, heard, None if language or not words else self.probability)


def opened(words: Any, language: str | None, offline: bool) -> Any:
    """Stands for `e2v_port.analysis.reading.opened`: `loudness` is the recognizer above.

    It writes the number of samples of each passage to the file in E2V_TEST_READ; and waits to read as long as the file
    in E2V_TEST_WAIT exists.
    """
    if words == "nothing":
        raise ModelNotFound("nothing: no Whisper model or folder")
    if words != "loudness":
        return words
    return LoudReader(language, before=_logged)


def _logged(part: np.ndarray) -> None:
    if path := os.environ.get("E2V_TEST_READ"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{len(part)}\n")
    while (path := os.environ.get("E2V_TEST_WAIT")) and Path(path).exists():
        time.sleep(0.02)

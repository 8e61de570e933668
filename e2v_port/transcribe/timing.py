"""Moves the times of words to where the sound is: recognizers put pauses into words, and cut words off."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.transcribe.words import Word

__all__ = ["in_sound"]

FRAME = 160  # samples whose level is measured at a time: 10 ms
RATE = SAMPLING_RATE / FRAME
PAUSE = 8  # frames of the shortest pause; closures inside words, as before a `t`, are mostly shorter
QUIET = 10 ** (-30 / 20)  # of the loudest frame of a word: below, there is a pause; in noise there is none, and no move
NEAR = 0.05  # seconds between words that touch
FADE = 30  # frames within which sound outside of the time of a word must end to belong to the word


def in_sound(words: Sequence[Word], waveform: Waveform) -> tuple[Word, ...]:
    """Returns the words with times that begin and end where their sound does, as far as pauses show it.

    Whisper's words last from one to the next, so that a pause belongs to either, or they end before their sound does
    (docs/analysis.md has the figures). Pauses of 80 ms and more are taken out of the time of a word: its longest sound
    is the word, and what sounds on the other side of a pause goes to the neighbor that touches it. Then sound that no
    word has, and that ends within 0.3 s, goes to the word next to it. Words that run into each other stay as they are.

    Args:
        words: Words in order.
        waveform: [samples], float32, 16 kHz, of the clip.
    """
    whole = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    levels = np.sqrt(np.mean(whole**2, axis=1))
    peaks = [levels[int(word.start * RATE) : round(word.end * RATE)].max(initial=0.0) for word in words]
    times = [[word.start, word.end] for word in words]
    touching = [False, *(b.start - a.end <= NEAR for a, b in pairwise(words)), False]
    for i, word in enumerate(words):
        first = int(word.start * RATE)
        part = levels[first : round(word.end * RATE)]
        loud = np.flatnonzero(part > QUIET * peaks[i])
        if not len(loud):
            continue
        runs = np.split(loud, np.flatnonzero(np.diff(loud) > PAUSE) + 1)
        own = max(range(len(runs)), key=lambda k: len(runs[k]))
        begin, stop = int(runs[own][0]), int(runs[own][-1]) + 1
        if own > 0 or begin >= PAUSE:
            times[i][0] = (first + begin) / RATE
        if own < len(runs) - 1 or len(part) - stop >= PAUSE:
            times[i][1] = (first + stop) / RATE
        if own > 0 and touching[i]:
            times[i - 1][1] = max(times[i - 1][1], (first + int(runs[own - 1][-1]) + 1) / RATE)
        if own < len(runs) - 1 and touching[i + 1]:
            times[i + 1][0] = min(times[i + 1][0], (first + int(runs[own + 1][0])) / RATE)
    for i, peak in enumerate(peaks):
        before = times[i - 1][1] if i else 0.0
        after = times[i + 1][0] if i + 1 < len(words) else len(levels) / RATE
        first, last = int(times[i][0] * RATE), round(times[i][1] * RATE)
        times[i][0] -= min(
            _sounding(levels[max(first - FADE - PAUSE, 0) : first][::-1], peak) / RATE, max(times[i][0] - before, 0)
        )
        times[i][1] += min(_sounding(levels[last : last + FADE + PAUSE], peak) / RATE, max(after - times[i][1], 0))
    return tuple(replace(word, start=start, end=end) for word, (start, end) in zip(words, times, strict=True))


def _sounding(levels: NDArray[np.float32], peak: float) -> int:
    """Returns the frames up to a pause, from the end of a word on; 0 if no pause comes."""
    loud = np.flatnonzero(levels > QUIET * peak)
    edges = np.concatenate([[-1], loud, [len(levels)]])
    pauses = np.flatnonzero(np.diff(edges) > PAUSE)
    return int(edges[pauses[0]]) + 1 if len(pauses) else 0

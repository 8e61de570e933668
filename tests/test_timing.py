"""Times of words, moved to where their sound is: tones at known places stand for words."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.transcribe.timing import in_sound
from e2v_port.transcribe.words import Word

STEP = 0.0101  # s: a frame, and rounding


def sounds(*spans: tuple[float, float], noise: float = 1e-4, seconds: float = 4.0) -> Waveform:
    """Returns a clip with a tone in each span, over faint noise."""
    times = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    clip = np.random.default_rng(0).normal(0, noise, len(times))
    for start, end in spans:
        here = (times >= start) & (times < end)
        clip[here] += 0.1 * np.sin(2 * np.pi * 200 * times[here])
    return clip.astype(np.float32)


def moved(clip: Waveform, *spans: tuple[float, float]) -> list[tuple[float, float]]:
    return [(word.start, word.end) for word in in_sound([Word(*span, " a", 0.5) for span in spans], clip)]


SAID = (0.5, 1.0), (1.4, 1.9), (2.3, 2.8)  # with pauses of 0.4 s


@pytest.mark.parametrize(
    "read",
    [
        pytest.param([(0.3, 0.95), (0.95, 1.85), (1.85, 2.75)], id="a pause belongs to the word after it"),
        pytest.param([(0.55, 1.45), (1.45, 2.35), (2.35, 3.2)], id="a pause belongs to the word before it"),
        pytest.param([(0.5, 0.8), (1.4, 1.7), (2.5, 2.6)], id="words are cut off"),
        pytest.param([*SAID], id="the times are right"),
    ],
)
def test_words_begin_and_end_with_their_sound(read: list[tuple[float, float]]) -> None:
    found = moved(sounds(*SAID), *read)
    assert np.abs(np.array(found) - np.array(SAID)).max() <= STEP


def test_without_a_pause_nothing_moves() -> None:
    read = (0.5, 1.1), (1.1, 1.7), (1.7, 2.2)
    assert moved(sounds((0.0, 4.0)), *read) == [*read], "words that run into each other"
    assert moved(sounds(*SAID, noise=0.03), *read) == [*read], "in noise"
    assert moved(np.zeros(4 * SAMPLING_RATE, np.float32), *read) == [*read], "in silence"
    with_closure = sounds((0.5, 0.8), (0.86, 1.2))
    assert moved(with_closure, (0.5, 1.2)) == [(0.5, 1.2)], "a closure inside a word"
    assert moved(sounds((0.5, 2.0)), (0.5, 1.2)) == [(0.5, 1.2)], "sound that goes on for long is not of this word"
    assert in_sound([], sounds()) == ()
    [beyond] = moved(sounds((0.5, 1.0)), (3.9, 4.5))
    assert beyond[0] <= beyond[1]


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.6), st.floats(0, 0.9)), max_size=5),
    st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), max_size=6),
)
def test_words_stay_in_order(read: list[tuple[float, float]], said: list[tuple[float, float]]) -> None:
    def spans(parts: list[tuple[float, float]]) -> list[tuple[float, float]]:
        found, at = [], 0.0
        for gap, length in parts:
            found.append((at + gap, at + gap + length))
            at = found[-1][1]
        return found

    found = moved(sounds(*spans(said), seconds=6.0), *spans(read))
    assert all(0 <= start <= end <= 10 for start, end in found)
    assert all(one[1] <= other[0] + 1e-9 for one, other in pairwise(found))

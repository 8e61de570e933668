"""Trends of voices, against NumPy's least squares and SciPy's Student distribution, and on synthetic trends."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from e2v_port.emotions.trajectory import MIN_SEGMENTS, MIN_SPAN, Trajectory, trajectory


@dataclass
class Spoken:
    """The attributes of a segment that a trend uses."""

    at: float
    duration: float
    valence: float | None
    dimensions_from: str | None = "model"
    speaker: str | None = None


def talk(
    rng: np.random.Generator,
    count: int = 20,
    *,
    slope: float = 0.0,
    scatter: float = 0.05,
    memory: float = 0.0,
    start: float = 0.5,
) -> list[Spoken]:
    """Returns five minutes whose valence changes by `slope` per minute; `memory` correlates neighbors."""
    times = np.linspace(0, 300, count) + rng.uniform(-2, 2, count)
    noise = rng.normal(0, scatter, count)
    for i in range(1, count):
        noise[i] = memory * noise[i - 1] + np.sqrt(1 - memory**2) * noise[i]
    values = start + slope * times / 60 + noise
    return [
        Spoken(1.7e9 + at, seconds, value)
        for at, seconds, value in zip(times, rng.uniform(1, 10, count), values, strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_line_is_that_of_weighted_least_squares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    voice = talk(rng, count=int(rng.integers(5, 40)), slope=rng.uniform(-0.1, 0.1))
    times = np.array([item.at - voice[0].at for item in voice]) / 60
    values, weights = np.array([item.valence for item in voice]), np.array([item.duration for item in voice])
    slope, intercept = np.polyfit(times, values, 1, w=np.sqrt(weights))
    weights = weights / weights.mean()
    residuals = values - slope * times - intercept
    found = trajectory(voice)
    assert found.slope == pytest.approx(slope)
    assert found.mean == pytest.approx(np.average(values, weights=weights))
    assert found.scatter == pytest.approx(np.sqrt((weights * residuals**2).sum() / (len(voice) - 2)))
    assert found.segments == len(voice)
    assert found.speech == pytest.approx(sum(item.duration for item in voice))
    assert found.span == pytest.approx(voice[-1].at - voice[0].at)
    assert found.interval == pytest.approx((found.slope - (half := found.interval[1] - slope), found.slope + half))


def test_independent_segments_have_the_interval_of_student() -> None:
    """Alternating residuals are not correlated positively, so each of them counts."""
    for count in 5, 6, 9, 17, 40:
        voice = [Spoken(20 * i, 3.0, 0.5 + 0.03 * (-1) ** i) for i in range(count)]
        expected = stats.linregress([item.at / 60 for item in voice], [item.valence for item in voice])
        found = trajectory(voice)
        assert found.slope == pytest.approx(expected.slope)
        assert found.error == pytest.approx(expected.stderr)
        half = stats.t.ppf(0.975, count - 2) * expected.stderr
        assert found.interval[1] - found.slope == pytest.approx(half, rel=2e-3)


@pytest.mark.parametrize(("memory", "least"), [(0.0, 0.92), (0.3, 0.9), (0.6, 0.85)])
def test_the_interval_holds_the_truth(memory: float, least: float) -> None:
    """The interval covers the true slope as often as stated; without a correction only 70 % at a memory of 0.6."""
    rng = np.random.default_rng(1)
    courses = [trajectory(talk(rng, slope=0.02, memory=memory)) for _ in range(500)]
    held = np.mean([course.interval[0] <= 0.02 <= course.interval[1] for course in courses])
    assert least <= held <= 0.99


@pytest.mark.parametrize(
    ("slope", "scatter", "start", "trend"),
    [
        (0.08, 0.05, 0.3, "improving"),
        (-0.08, 0.05, 0.7, "declining"),
        (0.0, 0.05, 0.5, "stable"),
        (0.01, 0.002, 0.5, "stable"),  # certain, and too little to matter
        (0.0, 0.25, 0.5, "volatile"),
        (0.01, 0.25, 0.5, "volatile"),
    ],
)
def test_trends(slope: float, scatter: float, start: float, trend: str) -> None:
    rng = np.random.default_rng(2)
    found = [trajectory(talk(rng, slope=slope, scatter=scatter, start=start)).trend for _ in range(200)]
    assert found.count(trend) >= 170, {name: found.count(name) for name in set(found)}


def test_too_little_to_tell() -> None:
    nothing = trajectory([])
    assert (nothing.segments, nothing.speech, nothing.span, nothing.trend, nothing.slope) == (0, 0, 0, None, None)
    assert nothing.dimensions_from is None
    few = trajectory([Spoken(60 * i, 3.0, 0.5) for i in range(MIN_SEGMENTS - 1)])
    assert few.reason == "4 judged segments: at least 5 are needed"
    short = trajectory([Spoken(5 * i, 3.0, 0.5) for i in range(10)])
    assert short.reason == "segments within 45 s: at least 60 s are needed"
    assert short.span < MIN_SPAN
    unjudged = trajectory([Spoken(60 * i, 0.5, None, None) for i in range(10)])
    assert unjudged.reason == "0 judged segments: at least 5 are needed"
    for found in nothing, few, short, unjudged:
        assert found.interval is found.trend is found.scatter is None


def test_a_voice_that_does_not_change_at_all() -> None:
    found = trajectory([Spoken(60 * i, 3.0, 0.5) for i in range(10)])
    assert found == Trajectory("stable", 0.0, 0.0, (0.0, 0.0), 0.0, 0.5, 10, 30.0, 540.0, "model", None)
    assert json.loads(json.dumps(found.to_dict()))["interval"] == [0.0, 0.0]


def test_where_valence_is_from_is_told() -> None:
    voice = [Spoken(60 * i, 3.0, 0.5, "labels" if i % 2 else "model") for i in range(10)]
    assert trajectory(voice).dimensions_from == "model or labels"


def test_the_order_does_not_matter_and_speakers_are_not_mixed() -> None:
    voice = talk(np.random.default_rng(0), slope=0.03)
    assert trajectory(voice[::-1]) == trajectory(voice)
    mixed = trajectory([replace(each, speaker=("Ann", None)[i % 2]) for i, each in enumerate(voice)])
    assert (mixed.trend, mixed.slope) == (None, None)
    assert mixed.reason == "2 speakers: name one, since voices differ"
    assert trajectory([replace(each, speaker="Ann") for each in voice]) == trajectory(voice)

"""Changes of emotion within a segment: score tracks with known boundaries."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2v_port.emotions.changes import Boundary, BoundarySettings, boundaries
from e2v_port.seconds import seconds

LABELS = ("angry", "happy", "sad")
FRAME = 0.02
RAW = BoundarySettings(smoothing=0, margin=0, min_duration=0)


def track(*parts: tuple[str, float, float]) -> np.ndarray:
    """Returns frames of scores: each part is a label, its probability and its duration in seconds."""
    rows = []
    for label, probability, length in parts:
        row = np.full(len(LABELS), (1 - probability) / (len(LABELS) - 1))
        row[LABELS.index(label)] = probability
        rows += [row] * round(length / FRAME)
    return np.array(rows)


def run(scores: np.ndarray, settings: BoundarySettings | None = None, start: float = 0.0) -> list[Boundary]:
    return boundaries(scores, LABELS, (start, start + FRAME * len(scores) + 0.005), FRAME, settings)


def test_a_constant_track_is_one_stretch() -> None:
    (only,) = run(track(("happy", 0.8, 7)), start=3)
    assert (only.start, only.end, only.label) == (3, 10.005, "happy")
    assert only.probability == pytest.approx(0.8)


def test_changes_lie_where_the_labels_change() -> None:
    found = run(track(("happy", 0.9, 3), ("sad", 0.7, 2), ("angry", 0.8, 4)), start=10)
    assert [part.label for part in found] == ["happy", "sad", "angry"]
    assert [part.start for part in found] == pytest.approx([10, 13, 15], abs=0.1)
    assert [part.probability for part in found] == pytest.approx([0.9, 0.7, 0.8], abs=0.03)


def test_a_single_sound_does_not_decide() -> None:
    scores = track(("happy", 0.8, 3), ("sad", 1.0, 0.3), ("happy", 0.8, 3))
    assert [part.label for part in run(scores, RAW)] == ["happy", "sad", "happy"]
    for settings in BoundarySettings(margin=0, min_duration=0), BoundarySettings(smoothing=0, margin=0):
        assert [part.label for part in run(scores, settings)] == ["happy"]


def test_two_labels_of_almost_the_same_probability_do_not_take_turns() -> None:
    scores = np.concatenate([track(("happy", 0.45, 0.5), ("sad", 0.45, 0.5))] * 4)
    close = scores * 0.1 + track(("happy", 1 / 3, 4)) * 0.9
    assert len(run(close, RAW)) == 8
    assert [part.label for part in run(close, BoundarySettings(smoothing=0, min_duration=0))] == ["happy"]
    assert len(run(scores, BoundarySettings(smoothing=0, margin=0.17, min_duration=0))) == 8  # 0.45 to 0.275
    assert len(run(scores, BoundarySettings(smoothing=0, margin=0.18, min_duration=0))) == 1


def test_a_change_is_dated_back_to_where_the_label_went_ahead() -> None:
    share = np.linspace(0.8, 0.2, 200)  # equal after frame 99; 0.1 apart about 17 frames later
    scores = np.stack([share, 1 - share, np.zeros(200)], axis=1)
    first, second = run(scores, BoundarySettings(smoothing=0, margin=0.1, min_duration=0))
    assert first.end == second.start == pytest.approx(100 * FRAME)


def test_short_spans_go_to_the_likelier_neighbor() -> None:
    middle = track(("sad", 0.5, 0.4))
    middle[:, LABELS.index("angry")] = 0.4
    middle[:, LABELS.index("happy")] = 0.1
    scores = np.concatenate([track(("happy", 0.9, 3)), middle, track(("angry", 0.9, 3))])
    settings = BoundarySettings(smoothing=0, margin=0)
    for order, labels, change in (scores, ["happy", "angry"], 3.0), (scores[::-1], ["angry", "happy"], 3.4):
        found = run(order, settings)
        assert [part.label for part in found] == labels
        assert found[1].start == pytest.approx(change)


@given(
    st.lists(st.tuples(st.sampled_from(LABELS), st.floats(0.34, 1), st.floats(0.02, 2.5)), min_size=1, max_size=25),
    st.floats(0, 2),
    st.floats(0, 0.5),
    st.floats(0, 3),
    st.floats(0, 20_000),
)
def test_spans_cover_the_segment(
    parts: list[tuple[str, float, float]], smoothing: float, margin: float, least: float, start: float
) -> None:
    scores = track(*parts)
    end = start + FRAME * len(scores) + 0.005
    found = boundaries(scores, LABELS, (start, end), FRAME, BoundarySettings(smoothing, margin, least))
    assert (found[0].start, found[-1].end) == (seconds(start), seconds(end))
    for one, other in pairwise(found):
        assert one.end == other.start
        assert one.label != other.label
    assert len(found) == 1 or all(part.end - part.start >= least - 1e-6 for part in found)
    assert all(0 <= part.probability <= 1 for part in found)
    assert {part.label for part in found} <= {LABELS[i] for i in scores.argmax(axis=1)}


def test_many_spans_are_merged_quickly() -> None:
    scores = np.random.default_rng(0).dirichlet([1, 1, 1], 200_000)  # an hour
    found = run(scores, BoundarySettings(smoothing=0.1, margin=0))
    assert len(found) > 100


@pytest.mark.parametrize(
    ("name", "value"), [("smoothing", -1), ("margin", 1), ("min_duration", float("nan")), ("margin", float("inf"))]
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        BoundarySettings(**{name: value})


@pytest.mark.parametrize("scores", [np.empty((0, 3)), np.ones((5, 2)), np.ones((5, 3))])
def test_scores_are_checked(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frames"):
        boundaries(scores, LABELS, (0, 0.08), FRAME)

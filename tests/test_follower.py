"""Windows of ongoing speech: what steadies their label, and how a slow machine keeps up."""

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import e2v_port
from e2v_port.analysis.judge import Judge
from e2v_port.analysis.judged import JudgedSegment, placed
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.estimates import Prediction
from e2v_port.live.follower import Followed, Follower, LiveSettings, Steady
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import Segment

SPEECH = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
ALWAYS = 1e6  # `load` under which no window is left out, however busy this machine is
EVEN = {"smoothing": 0.0, "margin": 0.0, "hold": 0.0}


@pytest.fixture(scope="module")
def spoken() -> np.ndarray:
    """Eight seconds of speech without a pause that ends a segment, and silence."""
    speech = np.tile(load_audio(SPEECH), 3)[: 8 * SAMPLING_RATE]
    return np.concatenate([speech, np.zeros(3 * SAMPLING_RATE, np.float32)])


def follow(follower: Follower, waveform: np.ndarray, size: int = 320) -> list[Followed]:
    found = []
    for at in range(0, len(waveform), size):
        found += follower.push(waveform[at : at + size])
    return found + follower.finish()


def scripted(scores: Iterable[float], settings: LiveSettings, waveform: np.ndarray) -> list[tuple[float, Prediction]]:
    """Follows a waveform whose windows get these probabilities of `a`; the rest is that of `b`.

    Returns:
        The end of each window and its steadied prediction.
    """
    script, found = iter(scores), []

    def judge(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        if steady:
            share = next(script)
            raw = {"a": share, "b": 1 - share}
            found.append(
                (segment.end, steady(Prediction(max(raw, key=raw.__getitem__), max(raw.values()), raw, {}, 1.0)))
            )
        return placed(segment)

    follow(Follower(judge, settings), waveform)
    assert len(found) > 8
    return found


def settings(**values: float) -> LiveSettings:
    return LiveSettings(**{"load": ALWAYS} | EVEN | values)


# ---- what steadies a label


def test_without_rules_each_window_shows_its_own_label(spoken: np.ndarray) -> None:
    script = [0.9, 0.4] * 20
    for (_, shown), share in zip(scripted(script, settings(), spoken), script, strict=False):
        assert shown.scores == {"a": share, "b": 1 - share}
        assert (shown.label, shown.confidence) == ("a", share) if share > 0.5 else ("b", 1 - share)


def test_scores_are_averaged_with_a_time_constant(spoken: np.ndarray) -> None:
    script = [*np.random.default_rng(0).uniform(0, 1, 40)]
    found = scripted(script, settings(smoothing=2.0), spoken)
    average = script[0]
    for (before, _), (end, shown), share in zip(found, found[1:], script[1:], strict=False):
        keep = math.exp((before - end) / 2.0)
        average = keep * average + (1 - keep) * share
        assert shown.scores == pytest.approx({"a": average, "b": 1 - average})
        assert shown.confidence == shown.scores[shown.label]
        assert shown.label == max(shown.scores, key=shown.scores.__getitem__)


def test_a_label_is_held_for_a_time(spoken: np.ndarray) -> None:
    found = scripted([0.9, 0.1] * 20, settings(hold=1.4), spoken)
    changes = [end for (_, before), (end, after) in itertools.pairwise(found) if before.label != after.label]
    assert len(changes) > 2
    assert min(np.diff([found[0][0], *changes])) >= 1.4
    for _, shown in found:
        assert shown.confidence == shown.scores[shown.label], "of the label shown, not of the likeliest"


def test_another_label_must_lead_by_a_margin(spoken: np.ndarray) -> None:
    close = scripted([0.54, 0.46] * 20, settings(margin=0.1), spoken)
    assert {shown.label for _, shown in close} == {"a"}
    clear = scripted([0.56, 0.44] * 20, settings(margin=0.1), spoken)
    assert [shown.label for _, shown in clear[:4]] == ["a", "b", "a", "b"]


def test_a_pause_ends_what_is_shown(spoken: np.ndarray) -> None:
    """The next speech starts with its own scores."""
    first = len(scripted([0.9] * 40, settings(), spoken))
    found = scripted([0.9] * first + [0.2] * 40, settings(smoothing=60.0, hold=60.0), np.tile(spoken, 2))
    assert {shown.label for _, shown in found[:first]} == {"a"}
    assert {shown.label for _, shown in found[first:]} == {"b"}
    assert [shown.confidence for _, shown in found[first:]] == pytest.approx([0.8] * (len(found) - first))


def test_everything_about_a_window_follows_from_its_label(spoken: np.ndarray) -> None:
    """Its judgement is the fusion of the steadied prediction, as that of any other prediction."""
    judge = Judge(e2v_port.load("bundled-tiny", runtime="cpu"))

    def judged(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        result = judge.one(waveform)
        if steady:
            result = judge.with_prediction(result, steady(result.prediction))
        return replace(placed(segment), judgement=result.judgement, prediction=result.prediction)

    windows = [item.segment for item in follow(Follower(judged, LiveSettings(load=ALWAYS)), spoken) if not item.final]
    assert len(windows) > 8
    for window in windows:
        assert window.judgement == judge.fuse(window.prediction, None, 1.0)
        assert window.emotion == window.prediction.label
        assert sum(window.prediction.scores.values()) == pytest.approx(1)


# ---- segments that end


def test_segments_are_those_of_the_whole_waveform(spoken: np.ndarray) -> None:
    waveform = np.concatenate([spoken, spoken[: SAMPLING_RATE // 2], np.zeros(3 * SAMPLING_RATE, np.float32), spoken])
    expected = [placed(replace(segment, speaker="Ann")) for segment in detect(waveform)]
    assert len(expected) > 2
    for size in 320, 4096, len(waveform):
        follower = Follower(lambda segment, waveform, steady: placed(segment), speaker="Ann")
        found = follow(follower, waveform, size)
        assert [item.segment for item in found if item.final] == expected


def counted(judgement: Callable[[], object]) -> tuple[Follower, list[Segment]]:
    calls: list[Segment] = []

    def judge(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        if steady is None:
            calls.append(segment)
        return replace(placed(segment), judgement=judgement())

    return Follower(judge, LiveSettings(load=ALWAYS)), calls


def test_a_segment_is_judged_once_in_the_pause_that_ends_it(spoken: np.ndarray) -> None:
    follower, calls = counted(object)
    before = 0
    for at in range(0, len(spoken), 4096):
        found = [item.segment for item in follower.push(spoken[at : at + 4096]) if item.final]
        if found:
            break
        before = len(calls)
    assert len(calls) == before, "nothing is left to judge when it ends"
    assert (calls[-1].start, calls[-1].end) == (found[0].start, found[0].end)


def test_what_was_not_judged_ahead_is_judged_at_the_end(spoken: np.ndarray) -> None:
    """As where emotions are switched on during the pause."""
    on = False
    follower, _ = counted(lambda: object() if on else None)
    for at in range(0, len(spoken), 4096):
        if found := [item.segment for item in follower.push(spoken[at : at + 4096]) if item.final]:
            break
        on = at > 8.8 * SAMPLING_RATE
    assert found[0].judgement is not None


# ---- a slow machine


def test_windows_take_no_more_than_their_share_of_the_time(spoken: np.ndarray) -> None:
    """A window that takes 50 ms, of which 5 % are allowed, makes the next one wait for a second of audio."""
    ends, spent = [], []

    def slow(segment: Segment, waveform: np.ndarray, steady: Steady | None) -> JudgedSegment:
        if steady:
            started = time.perf_counter()
            time.sleep(0.05)
            spent.append(time.perf_counter() - started)
            ends.append(segment.end)
        return placed(segment)

    for size in 320, len(spoken):
        ends, spent = [], []
        found = follow(Follower(slow, LiveSettings(load=0.05)), spoken, size)
        assert len(ends) > 1
        assert min(np.diff(ends)) > 0.7, "256 ms at a time are listened to, so their ends lie closer than a second"
        assert sum(spent[:-1]) <= 0.05 * len(spoken) / SAMPLING_RATE, "after the last one, nobody has waited"
        assert [item.segment for item in found if item.final] == [placed(segment) for segment in detect(spoken)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"window": 0.1}, "window must be from 0.25 to 10 s, not 0.1"),
        ({"overlap": 1.0}, "overlap must be below window"),
        ({"margin": 1.0}, "margin must be below 1"),
        ({"load": 0.0}, "load must be above 0"),
        ({"hold": math.nan}, "hold must be a finite number"),
        ({"smoothing": True}, "smoothing must be a finite number"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LiveSettings(**values)

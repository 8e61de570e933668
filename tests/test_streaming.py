"""Segments of a stream against those of the whole clip, and the rule against silero's own function."""

import itertools
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.errors import AudioError
from e2v_port.speech.detect import detect, from_probabilities
from e2v_port.speech.rule import SpeechRule
from e2v_port.speech.segment import DEFAULTS, Segment, SegmentSettings
from e2v_port.speech.silero import SpeechProbabilities, speech_probabilities
from e2v_port.speech.stream import SpeechStream


@pytest.fixture(scope="module")
def clips(speech_folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in sorted(speech_folder.iterdir()):
        try:
            found[path.name] = load_audio(path)
        except AudioError:
            assert path.suffix in {".md", ".csv"}, path
    assert len(found) > 50
    return found


def blocks(waveform: np.ndarray, rng: np.random.Generator, most: int = 60_000) -> Any:
    """Yields blocks of one sample to four seconds, small ones as often as large ones; some are empty."""
    at = 0
    while at < len(waveform):
        size = int(np.exp(rng.uniform(-0.5, np.log(most))))
        yield waveform[at : at + size]
        at += size


def streamed(waveform: np.ndarray, rng: np.random.Generator, settings: SegmentSettings = DEFAULTS) -> list[Segment]:
    stream = SpeechStream(settings)
    found = []
    for block in itertools.chain(blocks(waveform, rng), [None]):
        for segment in stream.finish() if block is None else stream.push(block):
            assert segment.end <= stream.duration
            assert np.array_equal(stream.take(segment), waveform[segment.samples]), "other samples"
            found.append(segment)
    assert stream.duration == len(waveform) / SAMPLING_RATE
    return found


def share(expected: list[Segment], found: list[Segment]) -> float:
    """Returns the share of the expected segments that were found, with both ends within 0.25 s."""
    near = [any(abs(a.start - b.start) <= 0.25 and abs(a.end - b.end) <= 0.25 for b in found) for a in expected]
    return sum(near) / len(near)


def test_segments_of_real_recordings_equal_those_of_the_whole_clip(clips: dict[str, np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    expected = {name: detect(waveform) for name, waveform in clips.items()}
    assert sum(map(len, expected.values())) > 90
    assert {name: streamed(waveform, rng) for name, waveform in clips.items()} == expected


def test_recordings_that_follow_each_other(clips: dict[str, np.ndarray]) -> None:
    """With music, noise and silence between them: earlier sound does not affect later segments."""
    rng = np.random.default_rng(1)
    waveform = np.concatenate([clips[name] for name in rng.permutation(sorted(clips))])
    expected, found = detect(waveform), streamed(waveform, rng)
    assert len(expected) > 30
    assert share(expected, found) >= 0.95
    assert [segment.quality for segment in found] == [segment.quality for segment in expected]


def test_talk_without_a_pause_to_end_a_segment(clips: dict[str, np.ndarray]) -> None:
    """The best pauses to split at depend only on speech that a stream waits for."""
    rng = np.random.default_rng(2)
    spoken = [waveform[segment.samples] for waveform in clips.values() for segment in detect(waveform)]
    pauses = [np.zeros(int(rng.uniform(0.05, 1.2) * SAMPLING_RATE), np.float32) for _ in spoken]
    waveform = np.concatenate([part for pair in zip(spoken, pauses, strict=True) for part in pair])
    expected, found = detect(waveform), streamed(waveform, rng)
    assert len(expected) > 30
    assert share(expected, found) >= 0.95
    assert all(segment.duration <= 11 for segment in found)
    assert {segment.quality for segment in found} == {"normal"}


def test_the_size_of_blocks_changes_nothing(clips: dict[str, np.ndarray]) -> None:
    waveform = clips["ami_EN2002a_30s.flac"][: 12 * SAMPLING_RATE]
    whole = SpeechStream()
    expected = whole.push(waveform) + whole.finish()
    for size in 1, 37, 511, 512, 4096, 4097:
        stream = SpeechStream()
        parts = [waveform[at : at + size] for at in range(0, len(waveform), size)]
        assert [segment for part in parts for segment in stream.push(part)] + stream.finish() == expected
    assert expected


def test_probabilities_of_parts(clips: dict[str, np.ndarray]) -> None:
    waveform = clips["jfk.flac"]
    expected = speech_probabilities(waveform)
    assert expected.min() < 0.1
    assert expected.max() > 0.9
    for frames in 1, 8, 200:
        source = SpeechProbabilities()
        parts = [waveform[at : at + frames * 512] for at in range(0, len(waveform), frames * 512)]
        np.testing.assert_allclose(np.concatenate([source.push(part) for part in parts]), expected, atol=1e-4)


def test_a_segment_is_returned_as_soon_as_it_is_certain(clips: dict[str, np.ndarray]) -> None:
    """The pause that ends a segment is 1.5 s long."""
    spoken = clips["jfk.flac"][: 3 * SAMPLING_RATE]
    waveform = np.concatenate([spoken, np.zeros(5 * SAMPLING_RATE, np.float32), spoken])
    [first, second] = detect(waveform)
    stream, given_out = SpeechStream(), {}
    for at in range(0, len(waveform), 320):
        for segment in stream.push(waveform[at : at + 320]):
            given_out[segment] = stream.duration
    assert first.end + 1.5 <= given_out.pop(first) < first.end + 1.5 + 0.4
    assert given_out == {}
    assert stream.finish() == [second]


def test_the_open_segment(clips: dict[str, np.ndarray]) -> None:
    """The open segment is the last one of a clip that ends where silero has heard it."""
    waveform = clips["librispeech_3436-172162-0000.flac"]
    stream, seen = SpeechStream(), 0
    assert stream.open is None
    for at in range(0, len(waveform), 4096):
        stream.push(waveform[at : at + 4096])
        if now := stream.open:
            seen += 1
            assert now.duration <= 11
            assert now.end <= stream.duration
            assert np.array_equal(stream.take(now), waveform[now.samples])
            *_, last = detect(waveform[: at + 4096])
            assert now.start == last.start
            assert last.end - 0.15 < now.end <= last.end, "without the silence at its end"
    assert seen > 50
    stream.finish()
    assert stream.open is None


probability_tracks = st.lists(
    st.tuples(
        st.one_of(st.integers(1, 12), st.integers(1, 260)),
        st.sampled_from([0.0, 0.004, 0.2, 0.4, 0.55, 0.97]),
    ),
    min_size=1,
    max_size=24,
)
# Phrases with pauses that do not end a segment but may split it.
talk = st.lists(st.tuples(st.integers(10, 300), st.integers(8, 45)), min_size=2, max_size=30).map(
    lambda phrases: [run for speech, pause in phrases for run in ((speech, 0.97), (pause, 0.0))]
)
some_settings = st.builds(
    lambda threshold, gap, least, low, most, pause: SegmentSettings(
        threshold, gap, least, least * low, 2 * least * low * most, pause * least * low
    ),
    st.sampled_from([0.003, 0.3, 0.5, 0.96]),
    st.sampled_from([0.0, 0.2, 1.5, 5.0, 60.0]),
    st.sampled_from([0.025, 0.3, 1.0]),
    st.sampled_from([1.0, 1.3, 2.0]),
    st.sampled_from([1.0, 1.37, 2.75]),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)


def track(runs: list[tuple[int, float]], missing: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities, and noise of the same length."""
    probabilities = np.concatenate([np.full(frames, p, np.float32) for frames, p in runs])
    samples = len(probabilities) * 512 - missing
    return probabilities, np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.usefixtures("silero_package")
@hypothesis(max_examples=300, deadline=None)
@given(probability_tracks, st.integers(0, 511), st.sampled_from([0.003, 0.3, 0.5, 0.96]), st.integers(1, 40))
def test_the_rule_is_sileros(runs: list[tuple[int, float]], missing: int, threshold: float, size: int) -> None:
    from silero_vad import get_speech_timestamps_from_probs

    probabilities, waveform = track(runs, missing)
    expected = get_speech_timestamps_from_probs(
        probabilities.tolist(),
        threshold=threshold,
        neg_threshold=max(threshold - 0.15, 0.01),
        audio_length_samples=len(waveform),
    )
    rule, found = SpeechRule(threshold, len(waveform)), []
    for at in range(0, len(probabilities), size):
        found += rule.push(probabilities[at : at + size].tolist())
        whole = at + size < len(probabilities)  # the last frame may be filled up
        if whole and (end := rule.open_end) is not None:
            [current] = [item for item in expected if item["start"] == rule.next_start]
            assert current["end"] >= min(end, len(waveform)), "it ended earlier"
        assert all(item["start"] >= rule.next_start for item in expected[len(found) :])
    found += rule.finish(len(waveform))
    assert found == [(item["start"], item["end"]) for item in expected]


class Known:
    """Returns known probabilities in place of silero's."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities, self.at = probabilities, 0

    def push(self, waveform: np.ndarray) -> np.ndarray:
        self.at += -(-len(waveform) // 512)
        return self.probabilities[self.at - -(-len(waveform) // 512) : self.at]


@hypothesis(max_examples=300, deadline=None)
@given(
    st.one_of(probability_tracks, talk),
    st.integers(0, 511),
    st.one_of(st.just(DEFAULTS), some_settings),
    st.integers(0, 9),
)
def test_any_probabilities_and_settings(
    runs: list[tuple[int, float]], missing: int, settings: SegmentSettings, seed: int
) -> None:
    probabilities, waveform = track(runs, missing, seed)
    expected = from_probabilities(probabilities, waveform, settings)
    with patch("e2v_port.speech.stream.SpeechProbabilities", lambda gain: Known(probabilities)):
        found = streamed(waveform, np.random.default_rng(seed), settings)

    assert found == expected
    assert all(segment.duration <= settings.max_duration + 1e-4 for segment in found)
    for before, after in itertools.pairwise(found):
        assert before.end <= after.start


def runs(*parts: tuple[float, float]) -> np.ndarray:
    """Returns probabilities, each for a number of seconds."""
    return np.concatenate([np.full(round(seconds * SAMPLING_RATE / 512), p, np.float32) for seconds, p in parts])


HOUR = 3600
ENDLESS = {
    "talk": np.tile(runs((1.9, 0.9), (0.6, 0.1), (2.5, 0.9), (0.6, 0.1)), 640),
    "silence": runs((HOUR, 0.0)),
    "speech without a pause": runs((HOUR, 0.9)),
    "pauses too short to count": np.tile(runs((0.4, 0.9), (0.064, 0.1)), 7758),
    "in doubt after speech": runs((2, 0.9), (0.05, 0.1), (HOUR, 0.45)),
    "in doubt between speech": np.tile(runs((2, 0.9), (0.05, 0.1), (30, 0.45)), 112),
    "anything": np.random.default_rng(0).random(HOUR * SAMPLING_RATE // 512).astype(np.float32),
}


@pytest.mark.parametrize("sound", ENDLESS)
def test_an_hour_is_not_held(sound: str) -> None:
    """The waveform held is bounded, whatever is heard, and the segments are those of the whole hour."""
    probabilities = ENDLESS[sound]
    noise = np.random.default_rng(0).normal(0, 0.1, len(probabilities) * 512).astype(np.float32)
    with patch("e2v_port.speech.stream.SpeechProbabilities", lambda gain: Known(probabilities)):
        stream, found, most = SpeechStream(), [], 0
        for at in range(0, len(noise), 4096):
            found += stream.push(noise[at : at + 4096])
            most = max(most, len(stream._held))
    found += stream.finish()
    assert most < 4 * 4 * 11.3 * SAMPLING_RATE, "more than four times the longest segment, in bytes"
    assert found == from_probabilities(probabilities, noise)


def test_memory_stays_flat() -> None:
    """In endless talk, where only the bound makes segments final, and in silence."""
    talk = np.tile(np.r_[np.full(60, 0.9), np.full(20, 0.1), np.full(77, 0.9), np.full(20, 0.1)], 200)  # 19 minutes
    for probabilities in talk, np.zeros_like(talk):
        noise = np.random.default_rng(0).normal(0, 0.1, SAMPLING_RATE).astype(np.float32)
        with patch("e2v_port.speech.stream.SpeechProbabilities", lambda gain, known=probabilities: Known(known)):
            stream, found = SpeechStream(), 0
            tracemalloc.start()
            for second in range(len(probabilities) * 512 // SAMPLING_RATE):
                found += len(stream.push(noise))
                if second == 120:
                    tracemalloc.reset_peak()
                    early = tracemalloc.get_traced_memory()[0]
            now, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 8e6, "33 s are 2 MB; they are held, and copied to judge them"
        assert now < early + 2e6
        assert bool(found) == bool(probabilities.any())

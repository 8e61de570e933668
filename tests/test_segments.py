"""Segments of speech: against silero's own functions, known cut positions, and real recordings."""

import csv
import hashlib
import itertools
import math
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from safetensors.numpy import load_file, save

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.converters import silero as converter
from e2v_port.errors import CheckpointError, E2VError, SegmentError
from e2v_port.speech.detect import detect, from_probabilities, speech_spans
from e2v_port.speech.given import from_given
from e2v_port.speech.segment import DEFAULTS, GivenSegment, Segment, SegmentSettings
from e2v_port.speech.silero import FRAME_SAMPLES, speech_probabilities

FRAME = FRAME_SAMPLES / SAMPLING_RATE
WEIGHTS = Path(__file__).parents[1] / "weights" / "silero"
# Every span of speech that silero finds on its own becomes one segment.
SPANS = SegmentSettings(merge_gap=0, min_duration=0.025, low_confidence=0.3, max_duration=1e6, max_gain=0)


@pytest.fixture(scope="module")
def silero(silero_package: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return silero_package.load_silero_vad()


@pytest.fixture(scope="module")
def timeline(recordings: Path) -> tuple[np.ndarray, list[tuple[float, float]]]:
    with open(recordings / "emodb_timeline.csv", encoding="utf-8") as file:
        spans = [(float(row["start"]), float(row["end"])) for row in csv.DictReader(file)]
    assert len(spans) == 53
    return load_audio(recordings / "emodb_timeline.flac"), spans


def made(given: Iterable[GivenSegment], waveform: Waveform, settings: SegmentSettings = DEFAULTS) -> list[Segment]:
    return from_given(given, waveform, settings).segments


def silent(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLING_RATE), np.float32)


def track(*parts: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Returns probabilities, each for a number of seconds, and silence of the same length."""
    probabilities = np.concatenate([np.full(round(seconds / FRAME), p, np.float32) for seconds, p in parts])
    return probabilities, np.zeros(len(probabilities) * FRAME_SAMPLES, np.float32)


def times(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def seconds_of(spans: list[tuple[float, float]], other: list[tuple[float, float]]) -> float:
    return sum(max(0.0, min(b, d) - max(a, c)) for a, b in spans for c, d in other)


def test_probabilities_equal_those_of_sileros_own_call(speech_folder: Path, silero: Any) -> None:
    clip = load_audio(speech_folder / "emodb_timeline.flac")
    for samples in 1, 400, 512, 513, 16_000, 512 * 512, 512 * 512 + 1, 700_001:
        waveform = clip[20_000 : 20_000 + samples]
        filled = np.pad(waveform, (0, -samples % 512))
        silero.reset_states()
        with torch.no_grad():
            expected = [silero(torch.from_numpy(frame), SAMPLING_RATE).item() for frame in filled.reshape(-1, 512)]
        found = speech_probabilities(waveform)
        assert found.dtype == np.float32
        # Both round in float32: on recordings of speech, either is up to 1.6e-5 from the result in float64.
        np.testing.assert_allclose(found, expected, atol=3e-5)
    assert speech_probabilities(clip[:0]).shape == (0,)


@pytest.mark.parametrize("threshold", [0.5, 0.2, 0.9])
@pytest.mark.parametrize(
    "name", ["jfk.flac", "ami_EN2002a_30s.flac", "librispeech_198-209-0000.flac", "emotion2vec_test.wav"]
)
def test_spans_equal_sileros_timestamps(speech_folder: Path, silero: Any, name: str, threshold: float) -> None:
    from silero_vad import get_speech_timestamps

    waveform = load_audio(speech_folder / name)
    expected = get_speech_timestamps(torch.from_numpy(waveform), silero, threshold=threshold)
    settings = replace(SPANS, speech_threshold=threshold)
    found = detect(waveform, settings)
    assert [(s.samples.start, s.samples.stop) for s in found] == [(s["start"], s["end"]) for s in expected]
    assert found, "nothing was compared"


def test_speech_time_of_a_timeline_with_known_boundaries(
    timeline: tuple[np.ndarray, list[tuple[float, float]]],
) -> None:
    waveform, spans = timeline
    probabilities = speech_probabilities(waveform)
    total = sum(end - start for start, end in spans)
    for settings, precision, recall in (SPANS, 0.96, 0.93), (DEFAULTS, 0.80, 0.98):
        found = times(from_probabilities(probabilities, waveform, settings))
        common = seconds_of(found, spans)
        assert common / sum(end - start for start, end in found) > precision
        assert common / total > recall
    for start, end in spans:
        assert seconds_of([(start, end)], found) > 0.9 * (end - start), "an utterance was missed"
    assert {s.quality for s in detect(waveform)} == {"normal", "low_confidence"}


def test_music_noise_and_silence_give_no_segments(speech_folder: Path) -> None:
    with open(speech_folder / "manifest.csv", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["corpus"] == "nonspeech"]
    assert len(names) == 10
    for name in names:
        waveform = load_audio(speech_folder / name)
        for gain in 0.03, 0.3, 1.0:
            assert detect(waveform * np.float32(gain)) == [], name
    assert detect(silent(3)) == []


def test_long_speech_is_split_at_its_pauses(speech_folder: Path) -> None:
    waveform = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")
    spans = times(detect(waveform, SPANS))
    first, second = detect(waveform)
    assert first.start == spans[0][0]
    assert second.end == spans[-1][1]
    pause = (first.end, second.start)
    assert pause in itertools.pairwise(itertools.chain.from_iterable(spans)), "not a pause of silero's"
    assert pause[1] - pause[0] >= 0.3
    assert max(first.duration, second.duration) <= 11


def test_short_pauses_do_not_end_a_segment() -> None:
    # silero's padding of 30 ms on both sides shortens a pause.
    for pause, segments in (1.4, 1), (1.5, 1), (1.6, 2), (3.0, 2):
        found = from_probabilities(*track((1, 0), (3, 0.9), (pause, 0.1), (3, 0.9), (1, 0)))
        assert len(found) == segments, pause
        assert found[0].start == pytest.approx(1 - 0.03, abs=FRAME)
        assert found[-1].end == pytest.approx(7 + pause + 0.03, abs=2 * FRAME)


@pytest.mark.parametrize(
    ("seconds", "quality"),
    [(0.5, "too_short"), (0.9, "too_short"), (1.0, "low_confidence"), (1.9, "low_confidence"), (2.0, "normal")],
)
def test_quality(seconds: float, quality: str) -> None:
    [segment] = from_probabilities(*track((1, 0), (seconds, 0.9), (1, 0)))
    assert segment.quality == quality
    assert segment.duration == pytest.approx(seconds + 0.06, abs=FRAME)
    assert (segment.speaker, segment.text) == (None, None)


def test_quality_at_the_limit() -> None:
    """From 0.1 to 1.1 s is exactly 1.0 s, despite floating point."""
    qualities = {}
    for start in np.arange(0, 2, 0.1):
        for length in 1.0, 2.0, 0.9999, 1.9999:
            [segment] = made([GivenSegment(start, start + length, "A")], silent(5))
            qualities.setdefault(length, set()).add(segment.quality)
            assert segment.duration == pytest.approx(length, abs=1 / SAMPLING_RATE)
    assert qualities[0.9999] == {"too_short"}
    assert "too_short" not in qualities[1.0]


def test_a_click_is_not_speech() -> None:
    assert from_probabilities(*track((1, 0), (0.2, 0.9), (1, 0))) == []


def test_splits_are_few_even_and_not_too_short() -> None:
    def split(*speech: float, pause: float = 0.5) -> list[float]:
        probabilities, waveform = track(*(part for seconds in speech for part in ((seconds, 0.9), (pause, 0.1))))
        return [round(s.duration) for s in from_probabilities(probabilities, waveform)]

    assert split(5, 5) == [11]
    assert split(3, 3, 3, 3) == [7, 7]
    assert split(10, 1, 9) == [10, 11], "the short one joins the part with room"
    assert split(9, 3, 3) == [9, 7]
    assert split(4, 4, 4, 4, 4, 4) == [4, 4, 4, 4, 4, 4], "each pair would be longer than 8 s"
    assert split(3.5, 3.5, 3.5, 3.5, 3.5, 3.5) == [8, 8, 8]
    parts = (2.2, 0.9), (0.5, 0.1), (7.2, 0.9), (1.4, 0.1), (1.8, 0.9), (1, 0.0)
    found = from_probabilities(*track(*parts))
    assert [s.quality for s in found] == ["normal", "normal"], "10 s and 1.9 s would be more even"


def test_a_pause_as_long_as_the_limit_counts() -> None:
    pause = (20 * FRAME_SAMPLES - 960) / SAMPLING_RATE  # 20 frames, less the padding
    for gap, segments in (pause, 2), (pause + 0.0001, 1):
        assert (
            len(from_probabilities(*track((3, 0.9), (20 * FRAME, 0.1), (3, 0.9)), SegmentSettings(merge_gap=gap)))
            == segments
        )


def test_a_cut_leaves_no_short_rest() -> None:
    probabilities, waveform = track((12, 0.9))
    waveform += np.random.default_rng(0).normal(0, 0.1, len(waveform)).astype(np.float32)
    waveform[int(10.5 * SAMPLING_RATE) : int(10.6 * SAMPLING_RATE)] = 0
    first, second = from_probabilities(probabilities, waveform)
    assert first.end == second.start
    assert second.quality == "normal"


def test_speech_without_pauses_is_cut_at_its_quietest_point() -> None:
    rng = np.random.default_rng(0)
    probabilities, waveform = track((18, 0.9))
    waveform += rng.normal(0, 0.1, len(waveform)).astype(np.float32)
    for quiet, depth in (3.0, 0.0), (8.0, 0.01), (8.5, 0.05), (14.0, 0.0):
        at = round(quiet * SAMPLING_RATE)
        waveform[at - 600 : at + 600] *= np.float32(depth)
    found = times(from_probabilities(probabilities, waveform))
    assert found[0][1] == pytest.approx(8.0, abs=0.02), "not at 3 s, which is too early"
    assert found == [(0.0, found[0][1]), (found[0][1], found[-1][1])], "nothing is left out"
    assert found[-1][1] == pytest.approx(18, abs=FRAME)


probability_tracks = st.lists(
    st.tuples(st.integers(1, 260), st.sampled_from([0.0, 0.2, 0.4, 0.55, 0.97])), min_size=1, max_size=24
)
some_settings = st.builds(
    lambda threshold, gap, least, low, most, pause: SegmentSettings(
        threshold, gap, least, least * low, 2 * least * low * most, pause * least * low
    ),
    st.sampled_from([0.005, 0.3, 0.5, 0.96]),
    st.sampled_from([0.0, 0.2, 1.5, 5.0]),
    st.sampled_from([0.025, 0.3, 1.0]),
    st.sampled_from([1.0, 1.3, 2.0]),
    st.sampled_from([1.0, 1.37, 2.75]),
    st.sampled_from([0.0, 0.1, 0.3, 1.0]),
)


@hypothesis(max_examples=200, deadline=None)
@given(probability_tracks, st.integers(0, 511), st.one_of(st.just(DEFAULTS), some_settings), st.integers(0, 9))
@example([(260, 0.97)] * 6, 0, DEFAULTS, 0)
def test_invariants_for_any_probabilities(
    runs: list[tuple[int, float]], missing: int, settings: SegmentSettings, seed: int
) -> None:
    probabilities = np.concatenate([np.full(frames, p, np.float32) for frames, p in runs])
    samples = len(probabilities) * 512 - missing
    waveform = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    found = from_probabilities(probabilities, waveform, settings)

    assert found == from_probabilities(probabilities, waveform, settings)
    speech = speech_spans(probabilities, waveform, settings)
    sample = 1 / SAMPLING_RATE
    spans = [(s.samples.start, s.samples.stop) for s in found]
    assert [x / SAMPLING_RATE for span in spans for x in span] == [t for s in found for t in (s.start, s.end)]
    assert all(0 <= start < end <= samples for start, end in spans)
    assert all(s.duration <= settings.max_duration + sample for s in found)
    limits = {
        "too_short": (0, settings.min_duration),
        "low_confidence": (settings.min_duration, settings.low_confidence),
        "normal": (settings.low_confidence, math.inf),
    }
    for segment in found:
        low, high = limits[segment.quality]
        assert low - sample < segment.duration < high + sample

    voiced = np.zeros(samples, bool)
    covered = np.zeros(samples, bool)
    for start, end in speech:
        voiced[start:end] = True
    for start, end in spans:
        assert not covered[start:end].any(), "overlap"
        assert voiced[start:end].any()
        covered[start:end] = True
    assert not (voiced & ~covered).any(), "speech is left out"
    for (_, before), (after, _) in itertools.pairwise(spans):
        pause = (after - before) / SAMPLING_RATE
        assert pause == 0 or (voiced[before - 1] and voiced[after])
        assert pause == 0 or pause > min(settings.merge_gap, settings.split_pause) - sample
    # No pause that ends a segment lies within one.
    for (_, before), (after, _) in itertools.pairwise(spans):
        if (after - before) / SAMPLING_RATE > settings.merge_gap + sample:
            assert not covered[before:after].any()


@hypothesis(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(10, 300), st.integers(12, 40)), min_size=2, max_size=8))
def test_no_other_choice_of_pauses_is_better(runs: list[tuple[int, int]]) -> None:
    probabilities = np.concatenate([[0.9] * speech + [0.0] * pause for speech, pause in runs]).astype(np.float32)
    waveform = np.zeros(len(probabilities) * 512, np.float32)
    spoken = [(s.samples.start, s.samples.stop) for s in from_probabilities(probabilities, waveform, SPANS)]
    found = from_probabilities(probabilities, waveform)
    spans = [(s.samples.start, s.samples.stop) for s in found]

    def cost(parts: list[tuple[int, int]]) -> tuple[int, int, int, int]:
        lengths = [end - start for start, end in parts]
        return (
            sum((length < 16_000) + (length < 32_000) for length in lengths),
            sum(length > 128_000 for length in lengths),
            len(lengths),
            sum(length**2 for length in lengths),
        )

    def choices() -> Any:
        for cuts in itertools.product([False, True], repeat=len(spoken) - 1):
            parts = [spoken[0]]
            for cut, (start, end) in zip(cuts, spoken[1:], strict=True):
                if cut and start - parts[-1][1] >= 0.3 * SAMPLING_RATE:
                    parts.append((start, end))
                else:
                    parts[-1] = (parts[-1][0], end)
            if all(end - start <= 11 * SAMPLING_RATE for start, end in parts):
                yield parts

    whole = (spoken[0][0], spoken[-1][1])
    if whole[1] - whole[0] <= 11 * SAMPLING_RATE:
        assert spans == [whole]
    elif whole[1] - whole[0] <= 33 * SAMPLING_RATE:  # beyond three segments' length parts are fixed one by one
        # There is a choice, since no speech here is longer than 11 s and every pause is worth a cut.
        assert cost(spans) == min(map(cost, choices()))


def test_a_wrong_number_of_probabilities_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        from_probabilities(np.zeros(3, np.float32), silent(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("speech_threshold", 0.0),
        ("speech_threshold", 1.0),
        ("speech_threshold", math.nan),
        ("speech_threshold", "0.5"),
        ("merge_gap", -0.1),
        ("merge_gap", math.inf),
        ("min_duration", 0.02),
        ("min_duration", True),
        ("low_confidence", 0.9),
        ("max_duration", 3.9),
        ("max_duration", None),
        ("split_pause", -1),
        ("split_pause", 2.1),
        ("preferred_duration", 0),
        ("max_gain", -1),
        ("max_gain", 60.1),
        ("max_gain", math.nan),
    ],
)
def test_settings_that_make_no_sense(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must be"):
        SegmentSettings(**{field: value})


def test_given_segments_are_taken_as_they_are(speech_folder: Path) -> None:
    waveform = load_audio(speech_folder / "jfk.flac")
    given = [
        GivenSegment(8.0, 10.9, "B", "ask what you can do"),
        GivenSegment(0.0, 2.4, "A", "And so my fellow Americans"),
        GivenSegment(2.4, 3.1, "C"),
        GivenSegment(2.0, 3.7, "B", "overlapping A"),
    ]
    assert made(given, waveform) == [
        Segment(0.0, 2.4, "low_confidence", "A", "And so my fellow Americans", doubts=("overlap",)),
        Segment(2.0, 3.7, "low_confidence", "B", "overlapping A", doubts=("overlap",)),
        Segment(2.4, 3.1, "too_short", "C", doubts=("overlap",)),
        Segment(8.0, 10.9, "normal", "B", "ask what you can do"),
    ]
    assert made([], waveform) == []
    assert made([GivenSegment(1, 1)], waveform) == [Segment(1.0, 1.0, "too_short")]


def test_given_segments_without_speech_are_marked(speech_folder: Path) -> None:
    music = load_audio(speech_folder / "brahms_hungarian_dance5.flac")
    assert [s.quality for s in made([GivenSegment(0, 5), GivenSegment(5, 5.5, "A")], music)] == [
        "no_speech",
        "too_short",
    ]
    speech = load_audio(speech_folder / "jfk.flac")
    both = np.concatenate([music, speech])
    found = made([GivenSegment(0, len(both) / SAMPLING_RATE, "A", "all of it")], both)
    assert found[0].quality == "no_speech"
    assert found[-1].quality == "normal"
    assert found[0].start == 0
    assert found[-1].end == len(both) / SAMPLING_RATE
    assert all(s.duration <= 11 for s in found)
    assert {s.speaker for s in found} == {"A"}
    assert {s.text for s in found} == {None}, "it is unknown which words fall into which part"


def test_a_long_given_segment_is_split_at_its_pauses(speech_folder: Path) -> None:
    waveform = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")
    whole = GivenSegment(0, len(waveform) / SAMPLING_RATE, "reader", "...")
    settings = replace(DEFAULTS, preferred_duration=11.0)  # the first part may then hold the breath before it
    first, second = made([whole], waveform, settings)
    expected = detect(waveform, settings)
    assert (first.start, first.end) == (0, expected[0].end)
    assert (second.start, second.end) == (expected[1].start, whole.end)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([(0.0, 6.1)], "beyond the end of the clip at 5.000 s"),
        ([(7.0, 8.0)], "from 7.000 to 8.000 s lies beyond"),
        ([(0.0, 2.0), (1.5, 3.0)], "from 1.500 to 3.000 s overlaps the one before, which ends at 2.000 s"),
        ([(0.0, 2.0, "A"), (1.0, 1.5, "B"), (1.5, 3.0, "A")], "of speaker 'A' overlaps"),
        ([(0.0, 4.0), (1.0, 2.0), (3.0, 5.0)], "from 1.000 to 2.000 s overlaps"),
    ],
)
def test_given_segments_that_overlap_or_lie_outside(given: list[tuple], message: str) -> None:
    for order in itertools.permutations(given):
        with pytest.raises(SegmentError, match=message):
            made([GivenSegment(*item) for item in order], silent(5))


def test_rounded_times_are_tolerated() -> None:
    found = made([GivenSegment(0, 2.015), GivenSegment(2.0, 5.02), GivenSegment(5.01, 5.02)], silent(5))
    assert times(found) == [(0.0, 2.015), (2.015, 5.0)]


@pytest.mark.parametrize("span", [(-0.1, 1), (2, 1), (0, math.nan), (math.inf, math.inf), (-math.inf, 0)])
def test_invalid_times(span: tuple[float, float]) -> None:
    with pytest.raises(SegmentError, match=r"^from -?[0-9a-z.]+ to -?[0-9a-z.]+ s"):
        GivenSegment(*span)


@hypothesis(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 15), st.floats(0, 15), st.sampled_from([None, "A", "B"])).map(
            lambda item: GivenSegment(min(item[:2]), max(item[:2]), item[2], "text")
        ),
        max_size=5,
    )
)
def test_invariants_for_any_given_segments(given: list[GivenSegment]) -> None:
    waveform = np.random.default_rng(0).normal(0, 0.01, 15 * SAMPLING_RATE).astype(np.float32)
    by_speaker: dict[str | None, list[GivenSegment]] = {}
    for item in sorted(given, key=lambda item: (item.start, item.end)):
        by_speaker.setdefault(item.speaker, []).append(item)
    overlap = max(
        (a.end - b.start for items in by_speaker.values() for a, b in itertools.pairwise(items)), default=-math.inf
    )
    try:
        found = made(given, waveform, SegmentSettings(merge_gap=0))  # joined, they would hold the pauses as well
    except SegmentError:
        assert overlap > 0.0199
        return
    assert overlap < 0.0201
    assert [(s.start, s.end) for s in found] == sorted((s.start, s.end) for s in found)
    assert all(0 <= s.start <= s.end <= 15 and s.duration <= 11 for s in found)
    for speaker, items in by_speaker.items():
        mine = [s for s in found if s.speaker == speaker]
        assert all(a.end <= b.start for a, b in itertools.pairwise(mine))
        lengths = sum(s.duration for s in mine), sum(item.end - item.start for item in items)
        assert lengths[0] == pytest.approx(lengths[1], abs=0.02 * len(items) + 0.001), (
            "noise has no pauses to leave out"
        )
    assert all(s.quality in {"no_speech", "too_short"} for s in found)


CHILD = """
import socket, sys, time, warnings
import numpy as np
from e2v_port.processes import peak_memory
from e2v_port.speech import detect, silero
warnings.simplefilter("error")
def refuse(*_): raise AssertionError("a connection")
socket.socket.connect = socket.getaddrinfo = refuse
filters = list(warnings.filters)
np.seterr(all="raise")
faint = np.broadcast_to(np.float32(1e-25), (60 * 16_000,))  # its square is zero
assert detect.detect(faint) == []
assert set(np.geterr().values()) == {"raise"}
assert warnings.filters == filters
before = peak_memory()
process, thread = time.process_time(), time.thread_time()
long = np.broadcast_to(np.float32(0), (20 * 60 * 16_000,))  # 77 MB, if anybody copied it
assert len(silero.speech_probabilities(long)) == 37_500
here = time.thread_time() - thread
elsewhere = time.process_time() - process - here
assert elsewhere < here / 10, f"{elsewhere} s in other threads, {here} s in this one"
grown = peak_memory() - before
assert grown < 30e6, f"{grown} bytes"
assert not {"torch", "silero_vad"} & set(sys.modules)
"""


@pytest.fixture
def program(silero_package: Any) -> Path:
    """silero's own file, which `weights/silero` was converted from."""
    return Path(silero_package.__file__).with_name("data") / "silero_vad.jit"


def test_weights_in_the_package_are_sileros(program: Path, tmp_path: Path) -> None:
    converter.convert(program, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (WEIGHTS / "model.safetensors").read_bytes()
    stored = load_file(WEIGHTS / "model.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        theirs = {name: value for name, value in torch.jit.load(program).state_dict().items() if "8k" not in name}
    known = {array.tobytes() for array in stored.values()}
    assert {value.numpy().tobytes() for value in theirs.values() if value.numel()} == known
    assert hashlib.sha256(program.read_bytes()).hexdigest() in (WEIGHTS / "README.md").read_text("utf-8")
    licence = next(file for file in distribution("silero-vad").files or () if file.name == "LICENSE")
    assert licence.read_text() == (WEIGHTS / "LICENSE").read_text("utf-8")


class Trap:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_a_file_that_is_not_sileros_is_not_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "silero_vad.jit", tmp_path / "out.safetensors"

    def refused(why: str) -> None:
        with pytest.raises(CheckpointError, match=why):
            converter.convert(file, out)

    refused("No such file")
    file.write_bytes(b"no archive")
    refused("not a zip file")
    for content, why in (({"other": "model"}, "is not the network"), (Trap(), r"would run code .*print")):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(content))
        refused(why)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), file)
    refused(r"weight \[2, 3\] matches no rule; .*missing stft \[258, 1, 256\]")
    assert not out.exists()
    assert capsys.readouterr().out == ""


def test_weights_that_were_damaged_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from e2v_port.speech import silero as network

    place = tmp_path / "silero" / "model.safetensors"
    place.parent.mkdir()
    monkeypatch.setattr(network, "files", lambda _: tmp_path)
    stored = (WEIGHTS / "model.safetensors").read_bytes()
    for content in (None, b"", stored[:-4], save({"stft": np.zeros((2, 2), np.float32)})):
        if content is not None:
            place.write_bytes(content)
        with pytest.raises(E2VError, match=r"model\.safetensors .*: install e2v-port again"):
            network.read_weights()


def test_speech_is_found_on_one_core_without_torch_and_in_memory_that_does_not_grow_with_the_clip() -> None:
    command = [sys.executable, "-c", CHILD]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "4"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_threads_do_not_disturb_each_other(speech_folder: Path) -> None:
    clips = [
        load_audio(speech_folder / name) for name in ("jfk.flac", "ami_EN2002a_30s.flac", "macleod_sugar_plum.flac")
    ]
    expected = [speech_probabilities(clip) for clip in clips]
    with ThreadPoolExecutor(6) as pool:
        for found, right in zip(pool.map(speech_probabilities, clips * 6), expected * 6, strict=True):
            np.testing.assert_array_equal(found, right)


def test_a_read_only_clip(speech_folder: Path) -> None:
    waveform = load_audio(speech_folder / "jfk.flac")
    expected = detect(waveform.copy())
    waveform.flags.writeable = False
    assert detect(waveform) == expected
    assert [len(waveform[s.samples]) for s in expected] == [round(s.duration * SAMPLING_RATE) for s in expected]

"""Segments that the caller supplies: ends beyond the clip, cut turns, speakers at once, speakers not enrolled."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given as examples
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

import e2v_port
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.errors import SegmentError
from e2v_port.speech.given import from_given
from e2v_port.speech.segment import GivenSegment, Segment, SegmentSettings, TimedWord


@pytest.fixture(scope="module")
def speech() -> Waveform:
    return load_audio(Path(__file__).parents[1] / "benchmarks/speech/calm.flac")


def noise(seconds: float) -> Waveform:
    return np.random.default_rng(0).normal(0, 0.01, round(seconds * SAMPLING_RATE)).astype(np.float32)


def spans(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(segment.start, segment.end) for segment in segments]


def turns(*items: tuple[float, float, str | None]) -> list[GivenSegment]:
    return [GivenSegment(start, end, speaker, f"{start:g}") for start, end, speaker in items]


# Ends beyond the clip


@pytest.mark.parametrize("late", [0.021, 0.06, 0.49, 1.0])
def test_a_segment_that_ends_late_is_cut_and_said(late: float) -> None:
    segments, notes = from_given([GivenSegment(0, 2.5, "A"), GivenSegment(3, 5 + late, "A")], noise(5))
    assert spans(segments) == [(0, 2.5), (3, 5)]
    [note] = notes
    assert note.kind == "clipped_end"
    assert f"up to {late:.2f} s before the end given" in note.text


def test_rounding_is_not_worth_a_note() -> None:
    assert from_given([GivenSegment(0, 5.02)], noise(5)).notes == []


@pytest.mark.parametrize(
    "item", [GivenSegment(4, 6.01), GivenSegment(5.03, 5.5), GivenSegment(9e5, 9.1e5), GivenSegment(0, 9e5)]
)
def test_what_lies_beyond_the_clip_is_an_error_that_names_its_place(item: GivenSegment) -> None:
    with pytest.raises(SegmentError, match=r"lies beyond the end of the clip at 5\.000 s"):
        from_given([GivenSegment(0, 2), item], noise(5))


def test_the_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.srt"
    file.write_text("1\n00:00:00,000 --> 00:00:01,000\na\n\n2\n00:00:09,000 --> 00:00:10,000\nb\n")
    with pytest.raises(SegmentError, match=r"^line 6: the segment from 9\.000 to 10\.000 s lies beyond"):
        e2v_port.analyze(noise(5), sampling_rate=SAMPLING_RATE, segments=file)


def test_an_end_that_is_the_end_of_the_clip() -> None:
    segments, notes = from_given([GivenSegment(0, 2), GivenSegment(2.5, math.inf, text="...")], noise(5))
    assert spans(segments) == [(0, 2), (2.5, 5)]
    assert notes == []


# Turns that were cut


def test_short_turns_of_one_speaker_are_joined() -> None:
    segments, [note] = from_given(turns((0, 1.2, "A"), (1.3, 2.5, "A"), (3.9, 5, "A")), noise(9))
    assert spans(segments) == [(0, 5)]
    assert segments[0].text == "0 1.3 3.9"
    assert note.kind == "merged"
    assert "3 given segments" in note.text


def timed(text: str, start: float, pace: float) -> tuple[TimedWord, ...]:
    parts = text.split(" ")
    return tuple(
        TimedWord(start + i * pace, start + (i + 0.8) * pace, part if i + 1 == len(parts) else f"{part} ", 0.9)
        for i, part in enumerate(parts)
    )


def test_words_with_times_follow_the_parts_of_a_long_segment(speech: Waveform) -> None:
    waveform = np.concatenate([speech] * 6)
    length = len(waveform) / SAMPLING_RATE
    text = " ".join(f"word{i}" for i in range(60))
    words = timed(text, 0.0, length / 60)
    parts, notes = from_given([GivenSegment(0, length, "ann", text, words=words)], waveform)
    assert len(parts) > 1
    assert notes == []
    assert " ".join(part.text or "" for part in parts) == text
    assert [word for part in parts for word in part.words or ()] == [*words], "each once, in order"
    for part in parts:
        assert "".join(word.text for word in part.words or ()).strip() == part.text
        for word in part.words or ():
            held = [min(word.end, other.end) - max(word.start, other.start) for other in parts]
            assert held[parts.index(part)] == max(held)
    wordless, [note] = from_given([GivenSegment(0, length, "ann", text)], waveform)
    assert {part.text for part in wordless} == {None}, "which words were when is unknown"
    assert note.kind == "words_left_out"
    assert note.text.startswith("the words of 1 given segment longer than 11 s were left out, from 0.00 s")


def test_joined_turns_keep_the_times_of_their_words() -> None:
    both = [
        GivenSegment(0, 1.2, "A", "well yes", words=timed("well yes", 0.1, 0.5)),
        GivenSegment(1.3, 2.5, "A", "it is", words=timed("it is", 1.4, 0.5)),
    ]
    [joined], _ = from_given(both, noise(9))
    assert joined.text == "well yes it is"
    assert [word.text for word in joined.words or ()] == ["well ", "yes ", "it ", "is "]
    [half], _ = from_given([both[0], GivenSegment(1.3, 2.5, "A", "it is")], noise(9))
    assert (half.text, half.words) == ("well yes it is", None), "times of half of the words are those of none"
    [some], _ = from_given([both[0], GivenSegment(1.3, 2.5, "A")], noise(9))
    assert (some.text, len(some.words or ())) == ("well yes", 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # sentences of a transcript stay apart, however close they are
        ([(0, 2, None), (2, 4.5, None), (4.5, 7, None)], [(0, 2), (2, 4.5), (4.5, 7)]),
        # a short one joins across the shorter pause
        ([(0, 3, "A"), (3.5, 4, "A"), (4.2, 8, "A")], [(0, 3), (3.5, 8)]),
        ([(0, 3, "A"), (3.2, 4, "A"), (4.5, 8, "A")], [(0, 4), (4.5, 8)]),
        # not across a pause that ends a segment of speech
        ([(0, 3, "A"), (4.5, 5, "A")], [(0, 3), (4.5, 5)]),
        ([(0, 3, "A"), (4.49, 5, "A")], [(0, 5)]),
        # not across somebody else, not with somebody else
        ([(0, 1, "A"), (1.1, 1.4, "B"), (1.5, 2.5, "A")], [(0, 1), (1.1, 1.4), (1.5, 2.5)]),
        ([(0, 1, "A"), (0.9, 1.6, None), (1.5, 2.5, "A")], [(0, 1), (0.9, 1.6), (1.5, 2.5)]),
        ([(0, 1, "A"), (1, 2, "B")], [(0, 1), (1, 2)]),
        # not beyond the longest segment
        ([(0, 10.5, "A"), (10.5, 11.5, "A")], [(0, 10.5), (10.5, 11.5)]),
        # the nameless are one speaker, as for overlaps
        ([(0, 1.5, None), (1.6, 3, None)], [(0, 3)]),
    ],
)
def test_what_is_joined(given: list[tuple[float, float, str | None]], expected: list[tuple[float, float]]) -> None:
    for order in itertools.permutations(given):
        assert spans(from_given(turns(*order), noise(12)).segments) == expected


# Speakers at once


@pytest.mark.parametrize(("shared", "marked"), [(0.0, False), (0.3, False), (0.4, True), (2.0, True)])
def test_a_tenth_of_overlap_makes_a_judgement_less_certain(speech: Waveform, shared: float, marked: bool) -> None:
    given = [GivenSegment(0, 4, "A"), GivenSegment(4 - shared, 4.5 + 3, "B")]
    first, second = from_given(given, np.resize(speech, 8 * SAMPLING_RATE)).segments
    assert first.doubts == (("overlap",) if marked else ())
    assert first.quality == ("low_confidence" if marked else "normal")
    assert second.doubts == (("overlap",) if shared >= 0.1 * (3.5 + shared) and shared else ())


@pytest.mark.parametrize(
    ("one", "other", "marked"), [(1, 2, [0, 0]), (1, 1, [1, 1]), (None, 2, [1, 1]), (1, None, [1, 1])]
)
def test_overlap_needs_the_same_channel(
    speech: Waveform, one: int | None, other: int | None, marked: list[int]
) -> None:
    sound = np.resize(speech, 4 * SAMPLING_RATE)
    given = [GivenSegment(0, 3, "A", channel=one), GivenSegment(0, 3, "B", channel=other)]
    segments = from_given(given, dict.fromkeys([None, 1, 2], sound)).segments
    assert [len(segment.doubts) for segment in segments] == marked
    assert all(segment.doubts for segment in from_given(given, sound).segments), "one sound may hold both"


def test_a_stranger_on_another_channel(speech: Waveform) -> None:
    sound = np.resize(speech, 9 * SAMPLING_RATE)
    given = [GivenSegment(0, 8, "ann", channel=1), GivenSegment(3, 4, "eve", channel=2, enrolled=False)]
    apart = from_given(given, {1: sound, 2: sound}).segments
    mixed = from_given(given, sound).segments
    assert spans([s for s in apart if s.speaker == "ann"]) == [(0, 8)]
    assert spans([s for s in mixed if s.speaker == "ann"]) == [(0, 3), (4, 8)]


def test_the_judgement_has_the_note(speech: Waveform) -> None:
    given = [GivenSegment(0, 3, "A"), GivenSegment(1, 3, "B"), GivenSegment(3, 6, "C")]
    analysis = e2v_port.analyze(np.resize(speech, 6 * SAMPLING_RATE), sampling_rate=SAMPLING_RATE, segments=given)
    for segment in analysis.segments:
        assert segment.judgement
        assert ("overlap" in segment.judgement.notes) == (segment.speaker != "C")
        assert (segment.quality == "normal") == (segment.speaker == "C")


# Speakers who are not enrolled


def test_the_time_of_strangers_is_cut_out_of_everybody(speech: Waveform) -> None:
    given = [
        GivenSegment(0, 8, "ann", "all of it"),
        GivenSegment(3, 4, "eve", "psst", enrolled=False),
        GivenSegment(7.5, 9, "eve", enrolled=False),
        GivenSegment(3.2, 3.8, "bob"),
    ]
    segments, notes = from_given(given, np.resize(speech, 9 * SAMPLING_RATE))
    judged = [segment for segment in segments if segment.quality != "not_enrolled"]
    assert spans(judged) == [(0, 3), (4, 7.5)]
    assert [(s.speaker, s.text) for s in judged] == [("ann", None), ("ann", None)], "which words were when is unknown"
    others = [(s.start, s.end, s.speaker) for s in segments if s.quality == "not_enrolled"]
    assert others == [(3, 4, "eve"), (3.2, 3.8, "bob"), (7.5, 9, "eve")], "nothing is left of bob"
    removed = [note for note in notes if note.kind == "strangers_removed"]
    assert len(removed) == 1
    assert "2.10 s" in removed[0].text
    assert "eve" not in removed[0].text


def test_what_is_left_of_a_segment_may_be_too_short(speech: Waveform) -> None:
    given = [GivenSegment(0, 3, "ann"), GivenSegment(0.6, 3, "eve", enrolled=False)]
    first, second = from_given(given, np.resize(speech, 4 * SAMPLING_RATE)).segments
    assert (first.start, first.end, first.quality, first.speaker) == (0, 0.6, "too_short", "ann")
    assert second.quality == "not_enrolled"


def test_a_stranger_is_not_even_searched_for_speech(speech: Waveform) -> None:
    """Speech is found with 30 ms around it: those of a stranger would be the speech of whoever comes next."""
    heard = np.zeros(8 * SAMPLING_RATE, np.float32)
    heard[3 * SAMPLING_RATE : 5 * SAMPLING_RATE] = np.resize(speech, 2 * SAMPLING_RATE)
    before = heard.copy()
    given = [GivenSegment(0, 8, "ann"), GivenSegment(3, 5, "eve", enrolled=False)]
    qualities = [segment.quality for segment in from_given(given, heard).segments]
    assert qualities == ["no_speech", "not_enrolled", "no_speech"]
    assert np.array_equal(before, heard), "the clip of the caller is not changed"


def test_strangers_are_checked_like_everybody() -> None:
    for item in GivenSegment(4, 9, "eve", enrolled=False), GivenSegment(0.5, 2, "eve", enrolled=False):
        with pytest.raises(SegmentError):
            from_given([GivenSegment(0, 1, "eve", enrolled=False), item], noise(5))


some_turns = st.lists(
    st.tuples(st.integers(0, 80), st.integers(0, 40), st.sampled_from("ABC"), st.sampled_from([None, 1, 2])),
    max_size=8,
)


@hypothesis(max_examples=30, deadline=None)
@examples(some_turns, st.sampled_from(["", "C", "BC"]))
def test_no_time_of_a_stranger_is_left(items: list[tuple[int, int, str, int | None]], strangers: str) -> None:
    given = [
        GivenSegment(start / 10, (start + length) / 10, speaker, None, channel, speaker not in strangers)
        for start, length, speaker, channel in items
    ]
    try:
        segments = from_given(given, noise(12), SegmentSettings(max_duration=4)).segments
    except SegmentError:
        return
    for segment in segments:
        for other in given:
            if segment.quality != "not_enrolled" and not other.enrolled:
                assert min(segment.end, other.end) - max(segment.start, other.start) <= 1e-9

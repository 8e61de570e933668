"""Given segments: files as the tools of others write them, and time overlap against its definition."""

import itertools
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.errors import SegmentError
from e2v_port.segments import GivenSegment
from e2v_port.transcripts import FORMATS, align, read_segments

RTTM = """\
;; a comment
SPKR-INFO EN2002a 1 <NA> <NA> <NA> unknown FEE083 <NA> <NA>
SPEAKER EN2002a 1 5.850 8.180 <NA> <NA> FEE083 <NA> <NA>
SPEAKER EN2002a 1   12.340   5.670 <NA> <NA> MEE075 <NA>
NON-SPEECH EN2002a 1 20.0 1.0 <NA> noise <NA> <NA> <NA>
SPEAKER EN2002a 1 0 0.5 <NA> <NA> <NA> <NA> <NA>
"""

SRT = """\
1
00:00:00,000 --> 00:00:02,400
[SPEAKER_00]: And so my fellow
<i>Americans</i>

2
01:00:03,250 --> 01:00:04,100 X1:40 X2:600 Y1:20 Y2:50
{\\an8}ask not -> what

3
00:00:05,5 --> 00:00:06,000

"""

VTT = """\
WEBVTT - a talk
Kind: captions

STYLE
::cue { color: red }

NOTE
00:00 is midnight

intro
00:00.000 --> 00:02.400 align:start position:10%
<v.loud Esme Ralda>AT&amp;T is <c.red>here</c> <00:00:01.500>now</v>

01:00:03.250 --> 01:00:04.100
<v Ann>Yes</v>
<v Bob>No</v>

00:00:05.500\t-->\t00:00:06.000
[SPEAKER_01]: 3 < 4
"""

# As openai-whisper writes it (shortened), with the speakers of whisperX.
WHISPER = {
    "text": " And so my fellow Americans, ask not",
    "segments": [
        {
            "id": 0,
            "seek": 0,
            "start": 0.0,
            "end": 7.6000000000000005,
            "text": " And so my fellow Americans,",
            "tokens": [50364, 400, 370],
            "temperature": 0.0,
            "avg_logprob": -0.2867,
            "compression_ratio": 1.35,
            "no_speech_prob": 0.009,
            "words": [{"word": " And", "start": 0.0, "end": 0.6, "probability": 0.6}],
        },
        {"id": 1, "start": 8, "end": 8, "text": " ask not", "speaker": "SPEAKER_00"},
        {"start": 9.5, "end": 10, "text": "  ", "speaker": None},
        {"start": 10, "end": 11.0, "speaker": 3},
    ],
    "language": "en",
}
WHISPER_SEGMENTS = [
    GivenSegment(0.0, 7.6000000000000005, None, "And so my fellow Americans,"),
    GivenSegment(8.0, 8.0, "SPEAKER_00", "ask not"),
    GivenSegment(9.5, 10.0),
    GivenSegment(10.0, 11.0, "3"),
]

FILES = {
    ".rttm": (RTTM, [GivenSegment(5.85, 14.03, "FEE083"), GivenSegment(12.34, 18.01, "MEE075"), GivenSegment(0, 0.5)]),
    ".srt": (
        SRT,
        [
            GivenSegment(0.0, 2.4, "SPEAKER_00", "And so my fellow Americans"),
            GivenSegment(3603.25, 3604.1, None, "ask not -> what"),
            GivenSegment(5.5, 6.0),
        ],
    ),
    ".vtt": (
        VTT,
        [
            GivenSegment(0.0, 2.4, "Esme Ralda", "AT&T is here now"),
            GivenSegment(3603.25, 3604.1, None, "Yes No"),
            GivenSegment(5.5, 6.0, "SPEAKER_01", "3 < 4"),
        ],
    ),
    ".json": (json.dumps(WHISPER, indent=1), WHISPER_SEGMENTS),
    ".csv": (
        'Start,end,sex,text,speaker\n0,1.5,m,"Yes, ""indeed"",\nhe said",A\n\n1.50,2e0,f,,\n',
        [GivenSegment(0.0, 1.5, "A", 'Yes, "indeed",\nhe said'), GivenSegment(1.5, 2.0)],
    ),
    ".tsv": (
        "end\tstart\tspeaker\n1.5\t0\tMüller\n4\t1.5\n",
        [GivenSegment(0.0, 1.5, "Müller"), GivenSegment(1.5, 4.0)],
    ),
}


def read(folder: Path, content: str | bytes, name: str) -> list[GivenSegment]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_segments(path)


def refusal(folder: Path, content: str | bytes, name: str) -> str:
    """The message, without the path it begins with."""
    with pytest.raises(SegmentError) as caught:
        read(folder, content, name)
    message = str(caught.value)
    assert message.startswith(f"{folder / name}: ")
    assert message.isprintable(), "one line"
    return message.removeprefix(f"{folder / name}: ")


@pytest.mark.parametrize("suffix", FILES)
def test_each_format_with_any_name_ending_and_encoding(tmp_path: Path, suffix: str) -> None:
    content, expected = FILES[suffix]
    assert set(FILES) == set(FORMATS)
    for name in "x" + suffix, "x" + suffix.upper(), "x.txt", "transcript":
        found = read(tmp_path, content, name)
        assert found == expected, name
        assert all(isinstance(time, float) for segment in found for time in (segment.start, segment.end))
        # A text with a line break of its own keeps it.
        assert read(tmp_path, content.replace("\n", "\r\n"), name) == expected
        assert read(tmp_path, content.replace("\n", "\r"), name) == expected
        assert read(tmp_path, content.encode("utf-8-sig"), name) == expected
        assert read(tmp_path, content.encode("utf-16"), name) == expected
    assert read_segments(str(tmp_path / "x.txt")) == expected


def test_a_plain_list(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(WHISPER["segments"]), "x.json") == WHISPER_SEGMENTS


def test_separators_of_tables(tmp_path: Path) -> None:
    for separator, suffix in itertools.product("\t,;", [".csv", ".tsv", ".txt"]):
        content = 'start,end,text\n0.5,1,"a b"\n'.replace(",", separator)
        assert read(tmp_path, content, "x" + suffix) == [GivenSegment(0.5, 1.0, None, "a b")]


def test_a_timeline_of_real_recordings(speech_folder: Path) -> None:
    segments = read_segments(speech_folder / "emodb_timeline.csv")
    assert len(segments) == 53
    assert segments[1] == GivenSegment(4.5, 6.303, "12")


def test_channels_of_rttm(tmp_path: Path) -> None:
    content = "".join(
        f"SPEAKER call {channel} {start} 1.0 <NA> <NA> {name} <NA> <NA>\n"
        for channel, start, name in ((1, 0, "spk0"), (2, 0.5, "spk0"), (1, 2, "spk1"), (2, 4, "<NA>"), (1, 4, "<NA>"))
    )
    speakers = [segment.speaker for segment in read(tmp_path, content, "x.rttm")]
    assert speakers == ["spk0 (channel 1)", "spk0 (channel 2)", "spk1", None, None]


def test_empty_transcripts(tmp_path: Path) -> None:
    for suffix, content in (
        (".rttm", ""),
        (".srt", ""),
        (".srt", "\n\n"),
        (".vtt", "WEBVTT\n"),
        (".vtt", "WEBVTT"),
        (".json", "[]"),
        (".json", '{"text": "", "segments": [], "language": "en"}'),
        (".csv", ""),
        (".tsv", "start\tend\ttext\n"),
    ):
        assert read(tmp_path, content, "x" + suffix) == []


LONG = "9" * 5000


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        (".rttm", "SPEAKER a 1 0 1 <NA> <NA> A\n", "line 1: 'SPEAKER a 1 0 1 <NA> <NA> A' is no line of RTTM: SPEAKER"),
        (".rttm", ";;\nSPEAKER a 1 0 x <NA> <NA> A <NA> <NA>", "line 2: end is 'x', which is no time"),
        (".rttm", "SPEAKER a 1 0 -1 <NA> <NA> A <NA> <NA>", "line 1: from 0.0 to -1.0 s"),
        (".rttm", "SPEAKER a 1 0 nan <NA> <NA> A <NA> <NA>", "line 1: from 0.0 to nan s is not finite"),
        (".rttm", RTTM + RTTM.replace("EN2002a", "b"), "lines of 2 recordings, ['EN2002a', 'b']...: keep those of one"),
        (".rttm", SRT, "line 1: '1' is no line of RTTM"),
        (".srt", "1\n00:00:01,000 -> 00:00:02,000\na\n", "line 1: '1' begins no cue"),
        (".srt", SRT + "\n\n4\n00:00:61,000 --> 00:01:02,000\na", "line 16: start is '00:00:61,000', which is no time"),
        (".srt", "1\n00:00:03,000 --> 00:00:02,000\na\n", "line 2: from 3.0 to 2.0 s"),
        (".srt", "1\n00:00:01,000 --> \na\n", "line 2: end is '', which is no time"),
        (".srt", SRT.replace("\n\n", "\n"), "line 2: two cues without a blank line"),
        (".srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\nlost text\n", "line 5: 'lost text' begins no cue"),
        (".vtt", SRT, 'line 1: no "WEBVTT"'),
        (".vtt", "WEBVTT\n00:00.000 --> 00:01.000\na\n", "line 2: a cue without a blank line before it"),
        (".vtt", "WEBVTT\n\n-00:01.000 --> 00:02.000\n", "line 3: start is '-00:01.000', which is no time"),
        (".json", "", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (".json", '[{"start": 0,\n "end": 1},]', "not JSON ("),
        (".json", "[" * 30_000, "not JSON ("),
        (".json", f'[{{"start": 0, "end": {LONG}}}]', "not JSON ("),
        (".json", f'[{{"start": 0, "end": {LONG[:400]}}}]', "segment 1: int too large"),
        (".json", '{"text": "a"}', "no list of segments"),
        (".json", "7", "no list of segments"),
        (".json", '[{"start": 0, "end": 1}, [1, 2]]', "segment 2: [1, 2]: give an object"),
        (".json", '[{"start": 0, "end": 1}, {"start": 1}]', "segment 2: end is missing, which is no time"),
        (".json", '[{"start": "0", "end": 1}]', "segment 1: start is '0', which is no time"),
        (".json", '[{"start": false, "end": 1}]', "segment 1: start is False"),
        (".json", '[{"start": -1, "end": 1}]', "segment 1: from -1.0 to 1.0 s: give a start of at least 0"),
        (".json", '[{"start": 0, "end": Infinity}]', "segment 1: from 0.0 to inf s is not finite"),
        (".json", '[{"start": 0, "end": 1, "speaker": ["A"]}]', "segment 1: speaker is ['A']: give a string"),
        (".json", '[{"start": 0, "end": 1, "text": "\\ud800"}]', "segment 1: text is '\\ud800': give a string"),
        (".csv", "0,1,A\n", "line 1: no header with the columns start and end"),
        (".csv", "start,end\n0,1\n\n2,x\n", "line 4: end is 'x', which is no time"),
        (".csv", "start;end\n0,5;1,5\n", "line 2: start is '0,5', which is no time"),
        (".csv", "start,end\n3\n", "line 2: end is missing"),
        (".csv", "start,end,text\n0,1,yes, indeed\n", "line 2: more cells than the header has: quote its text"),
        (".csv", 'start,end,text\n0,1,"yes\n1,2,no\n', "line 3: unexpected end of data"),
        (".tsv", "start\tend\ttext\n0\t2400\tAnd so\n2400\t7600\tmy\n", "whole numbers, milliseconds in Whisper's TSV"),
        (".txt", "", "of no known format: pass one of .rttm, .srt, .vtt, .json, .csv, .tsv"),
        (".txt", "Dear diary,\n\nthis is text.", "of no known format"),
        (".srt", SRT.encode() + b"\n\n4\n00:00:07,000 --> 00:00:08,000\nM\xfcller", "line 17: not UTF-8"),
        (".srt", b"\xff\xfea", "line 1: not UTF-16"),
        (".csv", "start,end,text\n0,x\x1b[31m,a\n", "line 2: end is 'x\\x1b[31m', which is no time"),
    ],
)
def test_files_that_break_the_rules(tmp_path: Path, suffix: str, content: str | bytes, message: str) -> None:
    assert refusal(tmp_path, content, "x" + suffix).startswith(message)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for path, message in (
        (tmp_path / "none.srt", "No such file"),
        (tmp_path, "directory"),
        ("a\0b", "null"),
        ("two\nlines.srt", "No such file"),
    ):
        with pytest.raises(SegmentError, match=message) as caught:
            read_segments(path)
        assert str(caught.value).isprintable()


def test_a_file_far_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("e2v_port.transcripts._MAX_BYTES", 99)
    assert read(tmp_path, "start,end\n0,1" + "\n" * 86, "x.csv") == [GivenSegment(0, 1)]
    assert "is no transcript of one clip" in refusal(tmp_path, "start,end\n0,1" + "\n" * 87, "x.csv")


words = st.text(st.sampled_from("aé字 ,;'!?"), max_size=12).map(lambda text: " ".join(text.split()) or None)
any_segments = st.lists(
    st.tuples(st.integers(0, 90_000_000), st.integers(0, 90_000_000), words, words).map(
        lambda item: GivenSegment(min(item[:2]) / 1000, max(item[:2]) / 1000, *item[2:])
    ),
    max_size=4,
)


def clock(seconds: float, separator: str) -> str:
    milliseconds = round(seconds * 1000)
    hours, minutes = divmod(milliseconds // 60_000, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000 % 60:02}{separator}{milliseconds % 1000:03}"


def written(segments: list[GivenSegment], suffix: str) -> str:
    """As simple writers of others do it: json.dumps, and one f-string a line."""
    if suffix == ".json":
        return json.dumps([vars(segment) for segment in segments])
    if suffix == ".csv":
        rows = [f'{s.start},{s.end},"{s.speaker or ""}","{s.text or ""}"\n' for s in segments]
        return "start,end,speaker,text\n" + "".join(rows)
    cues = [
        f"{number}\n{clock(s.start, ',.'[suffix == '.vtt'])} --> {clock(s.end, ',.'[suffix == '.vtt'])}\n"
        f"{f'[{s.speaker}]: ' if s.speaker else ''}{s.text or ''}\n\n"
        for number, s in enumerate(segments, 1)
    ]
    return ("WEBVTT\n\n" if suffix == ".vtt" else "") + "".join(cues)


@settings(max_examples=100, deadline=None)
@given(any_segments, st.sampled_from([".json", ".csv", ".srt", ".vtt"]))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, segments: list[GivenSegment], suffix: str
) -> None:
    found = read(tmp_path_factory.getbasetemp(), written(segments, suffix), "written" + suffix)
    assert [(s.speaker, s.text) for s in found] == [(s.speaker, s.text) for s in segments]
    for one, other in zip(found, segments, strict=True):
        assert (one.start, one.end) == (pytest.approx(other.start, abs=1e-7), pytest.approx(other.end, abs=1e-7))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_files_give_segments_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, draw: st.DataObject
) -> None:
    data = bytearray(FILES[suffix][0].encode())
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at : at + draw.draw(st.integers(0, 9))] = draw.draw(
            st.one_of(st.binary(max_size=3), st.just(b"\n\n-->\n"))
        )
        data = data or bytearray(b" ")
    name = "damaged" + draw.draw(st.sampled_from([suffix, ".txt"]))
    try:
        found = read(tmp_path_factory.getbasetemp(), bytes(data), name)
    except SegmentError:
        refusal(tmp_path_factory.getbasetemp(), bytes(data), name)
    else:
        assert all(isinstance(segment, GivenSegment) for segment in found)


def test_the_largest_overlap_counts_not_the_nearest_start() -> None:
    emotions = [GivenSegment(0, 4.9), GivenSegment(5, 9), GivenSegment(9.5, 12)]
    transcript = [
        GivenSegment(4.8, 8),  # starts next to the end of the first, but is said in the second
        GivenSegment(1, 5.4),
        GivenSegment(4.9, 5.0),  # in a pause, touching both
        GivenSegment(3, 11),  # the longest of three
        GivenSegment(12, 13),
        GivenSegment(6, 6),
        GivenSegment(8.7, 9.8),  # 0.3 s of either: the earlier
    ]
    assert align(emotions, transcript) == [1, 0, None, 1, None, None, 1]
    assert align([], transcript) == [None] * 7
    assert align(emotions, []) == []


spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 25)).map(lambda s: GivenSegment(s[0] / 10, (s[0] + s[1]) / 10)),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(spans, spans)
def test_align_is_its_definition(emotions: list[GivenSegment], transcript: list[GivenSegment]) -> None:
    for segment, found in zip(transcript, align(emotions, transcript), strict=True):
        # In tenths, so that equal is equal.
        shared = [
            min(round(e.end * 10), round(segment.end * 10)) - max(round(e.start * 10), round(segment.start * 10))
            for e in emotions
        ]
        most = max(shared, default=0)
        if most <= 0:
            assert found is None
        else:
            ranked = [(e.start, e.end, i) for i, e in enumerate(emotions) if shared[i] == most]
            assert found == min(ranked)[2]


def test_align_takes_no_time_for_a_long_recording() -> None:
    """30 000 segments each: all pairs would take minutes."""
    emotions = [GivenSegment(2 * i, 2 * i + 1.5) for i in range(30_000)]
    transcript = [GivenSegment(2 * i + 1, 2 * i + 2.9) for i in range(30_000)]
    before = time.process_time()
    assert align(emotions, transcript) == [*range(1, 30_000), 29_999]
    assert time.process_time() - before < 10

"""Supplied segments: files as other tools write them, and time overlap against its definition."""

import itertools
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2v_port.errors import SegmentError
from e2v_port.speech.align import align
from e2v_port.speech.segment import GivenSegment
from e2v_port.speech.transcripts import FORMATS, parse_segments, read_segments

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

# NIST's CTM: words by channel; the last comes after a pause of 0.3 s. sctk's doc/infmts.htm.
FILES[".ctm"] = (
    ";; a comment\n"
    "7654 A 11.34 0.20 YES -6.763\n7654 A 12.00 0.34 You -12.384530\n7654 A 12.34 0.25 can. 0.9\n"
    "7654 A * * <ALT_BEGIN>\n7654 A 12.60 0.5 ADD\n7654 A * * <ALT_END>\n7654 B 1.34 0.2 I\n7654 B 1.54 0.3 CAN\n",
    [
        GivenSegment(11.34, 11.54, None, "YES", 1),
        GivenSegment(12.0, 12.59, None, "You can.", 1),
        GivenSegment(12.6, 13.1, None, "ADD", 1),
        GivenSegment(1.34, 1.84, None, "I CAN", 2),
    ],
)
# NVIDIA NeMo's manifest, one object per line: docs, "Speaker Diarization", "Data Preparation".
FILES[".jsonl"] = (
    '{"audio_filepath": "/a/b.wav", "offset": 0, "duration": 1.5, "label": "infer", "text": "-"}\n'
    '{"audio_filepath": "/a/b.wav", "offset": 12.34, "duration": 5.67, "label": "speaker_1", "text": "hello"}\n',
    [GivenSegment(0.0, 1.5), GivenSegment(12.34, 18.01, "speaker_1", "hello")],
)
# Praat's TextGrid in its long form: the manual, "TextGrid file formats".
FILES[".textgrid"] = (
    """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2.3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "Mary"
        xmin = 0
        xmax = 2.3
        intervals: size = 2
        intervals [1]:
            xmin = 0
            xmax = 1
            text = "say ""hi"" 3"
        intervals [2]:
            xmin = 1
            xmax = 2.3
            text = ""
    item [2]:
        class = "IntervalTier"
        name = "John"
        xmin = 0
        xmax = 2.3
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 2.3
            text = "yes"
    item [3]:
        class = "TextTier"
        name = "bell"
        xmin = 0
        xmax = 2.3
        points: size = 1
        points [1]:
            number = 1
            mark = "ding"
""",
    [GivenSegment(0.0, 1.0, "Mary", 'say "hi" 3'), GivenSegment(0.0, 2.3, "John", "yes")],
)
# Audacity's labels, a point and a range of frequencies among them: its manual, "Importing and Exporting Labels".
FILES["Audacity"] = (
    "2.150000\t2.150000\tpoint label\n3.400000\t6.100000\tregion label\n\\\t6928.456055\t6928.456055\n7\t8\n",
    [GivenSegment(2.15, 2.15, None, "point label"), GivenSegment(3.4, 6.1, None, "region label"), GivenSegment(7, 8)],
)
# Kaldi's segments: "Data preparation", segments.
FILES["Kaldi"] = (
    "sw02001-A_000098-001156 sw02001-A 0.98 11.56\nsw02001-A_001980-002131 sw02001-A 19.8 -1\n",
    [GivenSegment(0.98, 11.56), GivenSegment(19.8, math.inf)],
)


def read(folder: Path, content: str | bytes, name: str) -> list[GivenSegment]:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_segments(path)


def refusal(folder: Path, content: str | bytes, name: str) -> str:
    """Returns the error message, without the path at its start."""
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
        # A line break within a text is kept.
        assert read(tmp_path, content.replace("\n", "\r\n"), name) == expected
        assert read(tmp_path, content.replace("\n", "\r"), name) == expected
        assert read(tmp_path, content.encode("utf-8-sig"), name) == expected
        assert read(tmp_path, content.encode("utf-16"), name) == expected
    assert read_segments(str(tmp_path / "x.txt")) == expected


# Shortened from the documents of each program; times in seconds or milliseconds by its keys.
PROGRAMS = {
    # whisper.cpp, --output-json, here with --diarize: examples/cli/cli.cpp, output_json
    "whisper.cpp": (
        {
            "systeminfo": "AVX = 1",
            "result": {"language": "en"},
            "transcription": [
                {
                    "timestamps": {"from": "00:00:00,000", "to": "00:00:07,600"},
                    "offsets": {"from": 0, "to": 7600},
                    "text": " And so my fellow Americans",
                    "speaker": "0",
                },
                {"timestamps": {}, "offsets": {"from": 7600, "to": 10120}, "text": " ask not"},
            ],
        },
        [GivenSegment(0.0, 7.6, "0", "And so my fellow Americans"), GivenSegment(7.6, 10.12, None, "ask not")],
    ),
    # transformers, return_timestamps=True: its task page "Automatic speech recognition"; the last chunk may have no end
    "transformers": (
        {
            "text": " And so my fellow Americans ask",
            "chunks": [
                {"timestamp": [0.0, 3.5], "text": " And so"},
                {"timestamp": [3.5, None], "text": " my fellow Americans"},
                {"timestamp": [8.0, None], "text": " ask"},
            ],
        },
        [
            GivenSegment(0.0, 3.5, None, "And so"),
            GivenSegment(3.5, 8.0, None, "my fellow Americans"),
            GivenSegment(8.0, math.inf, None, "ask"),
        ],
    ),
    # FunASR, AutoModel.generate with sentence_timestamp or a spk_model: a list with a result per recording
    "FunASR": (
        [
            {
                "key": "asr_example",
                "text": "欢迎大家，来到",
                "timestamp": [[880, 1120], [1120, 1360]],
                "sentence_info": [
                    {"text": "欢迎大家，", "start": 880, "end": 1360, "timestamp": [[880, 1120]], "spk": 0},
                    {"text": "来到", "start": 1380, "end": 2120, "timestamp": [], "spk": 1},
                ],
            }
        ],
        [GivenSegment(0.88, 1.36, "0", "欢迎大家，"), GivenSegment(1.38, 2.12, "1", "来到")],
    ),
    # pyannote.audio 4, DiarizeOutput.serialize
    "pyannote.audio": (
        {
            "diarization": [{"start": 6.665, "end": 7.165, "speaker": "SPEAKER_00"}],
            "exclusive_diarization": [{"start": 6.665, "end": 7.0, "speaker": "SPEAKER_00"}],
        },
        [GivenSegment(6.665, 7.165, "SPEAKER_00")],
    ),
    # pyannoteAI, a job: docs.pyannote.ai, "Diarization"
    "pyannoteAI": (
        {
            "jobId": "bd7e97c9",
            "status": "succeeded",
            "output": {"diarization": [{"speaker": "SPEAKER_01", "start": 1.345, "end": 2.6}]},
        },
        [GivenSegment(1.345, 2.6, "SPEAKER_01")],
    ),
    "pyannoteAI with words": (
        {
            "output": {
                "diarization": [{"start": 0.5, "end": 2.3, "speaker": "SPEAKER_00"}],
                "turnLevelTranscription": [
                    {"start": 0.5, "end": 2.3, "text": "Hello, how are you?", "speaker": "SPEAKER_00"}
                ],
            }
        },
        [GivenSegment(0.5, 2.3, "SPEAKER_00", "Hello, how are you?")],
    ),
    # pyannote.core, Annotation.for_json
    "pyannote.core": (
        {
            "pyannote": "Annotation",
            "content": [{"segment": {"start": 1.0, "end": 3.5}, "track": "A", "label": "bob"}],
        },
        [GivenSegment(1.0, 3.5, "bob")],
    ),
    # Deepgram, utterances=true: developers.deepgram.com, "Utterances"
    "Deepgram utterances": (
        {
            "metadata": {"channels": 2},
            "results": {
                "channels": [{"alternatives": [{"words": []}]}, {"alternatives": [{"words": []}]}],
                "utterances": [
                    {
                        "start": 0.41915998,
                        "end": 5.43012,
                        "confidence": 0.88,
                        "channel": 1,
                        "transcript": "four score and seven",
                        "words": [{"word": "four", "start": 0.41915998, "end": 0.85827994}],
                        "speaker": 0,
                    }
                ],
            },
        },
        [GivenSegment(0.41915998, 5.43012, "0", "four score and seven", 2)],
    ),
    "Deepgram words": (
        {
            "results": {
                "channels": [
                    {
                        "alternatives": [
                            {
                                "transcript": "Yep. I said it",
                                "words": [
                                    {"word": "yep", "start": 0, "end": 0.5, "speaker": 0, "punctuated_word": "Yep."},
                                    {"word": "i", "start": 0.6, "end": 0.7, "speaker": 0, "punctuated_word": "I"},
                                    {"word": "said", "start": 0.7, "end": 1.2, "speaker": 0},
                                    {"word": "it", "start": 1.2, "end": 1.4, "speaker": 1},
                                ],
                            }
                        ]
                    }
                ]
            }
        },
        [GivenSegment(0, 0.5, "0", "Yep."), GivenSegment(0.6, 1.2, "0", "I said"), GivenSegment(1.2, 1.4, "1", "it")],
    ),
    # AssemblyAI, speaker_labels: its reference of a transcript; milliseconds
    "AssemblyAI": (
        {
            "id": "9ea68fd3",
            "audio_duration": 281,
            "words": [{"text": "Smoke", "start": 250, "end": 650, "confidence": 0.97, "speaker": "A"}],
            "utterances": [
                {"confidence": 0.96, "start": 250, "end": 26950, "text": "Smoke from", "speaker": "A", "words": []}
            ],
        },
        [GivenSegment(0.25, 26.95, "A", "Smoke from")],
    ),
    "AssemblyAI words": (
        {
            "audio_duration": 281,
            "utterances": None,
            "words": [
                {"text": "Smoke", "start": 250, "end": 650, "confidence": 0.97, "speaker": None},
                {"text": "from", "start": 730, "end": 1022, "confidence": 0.99, "speaker": None},
            ],
        },
        [GivenSegment(0.25, 1.022, None, "Smoke from")],
    ),
    # OpenAI, verbose_json: platform.openai.com, "Create transcription"; with words alone, and with speakers
    "OpenAI": (
        {
            "task": "transcribe",
            "duration": 8.47,
            "text": "The beach was",
            "segments": [{"id": 0, "seek": 0, "start": 0.0, "end": 3.32, "text": " The beach was", "tokens": [50364]}],
        },
        [GivenSegment(0.0, 3.32, None, "The beach was")],
    ),
    "OpenAI words": (
        {
            "duration": 8.47,
            "words": [{"word": "The", "start": 0, "end": 0.24}, {"word": "beach", "start": 0.24, "end": 1}],
        },
        [GivenSegment(0.0, 1.0, None, "The beach")],
    ),
    "OpenAI speakers": (
        {
            "segments": [
                {
                    "type": "transcript.text.segment",
                    "id": "seg_0",
                    "start": 0.0,
                    "end": 4.7,
                    "text": "Hi",
                    "speaker": "A",
                }
            ]
        },
        [GivenSegment(0.0, 4.7, "A", "Hi")],
    ),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_json_of_programs(tmp_path: Path, program: str) -> None:
    data, expected = PROGRAMS[program]
    for name, indent in ("x.json", None), ("x.txt", 2):
        assert read(tmp_path, json.dumps(data, indent=indent), name) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # a time in seconds under keys of milliseconds is never taken for one of them
        (
            {"utterances": [{"text": "a", "start": 0.0, "end": 1.5}]},
            "utterance 1: start is 0.0: a whole number of milli",
        ),
        ({"sentence_info": [{"text": "a", "start": 0, "end": 1.5}]}, "sentence 1: end is 1.5: a whole number of milli"),
        (
            {"transcription": [{"text": "a", "timestamps": {}}]},
            "segment 1: offsets is missing: export it with whisper.c",
        ),
        (
            {"chunks": [{"text": "a", "timestamp": 3}]},
            "chunk 1: timestamp is 3: run the pipeline with return_timestamp",
        ),
        ({"content": [{"segment": 1}]}, "track 1: segment is 1: export pyannote's Annotation again"),
        ({"results": {"channels": 3}}, "no list of segments, but 3"),
        ({"words": [{"word": "a", "start": "0", "end": 1}]}, "word 1: start is '0', not a time"),
        ([{"sentence_info": []}, {"sentence_info": []}], "2 recordings in one file: keep the one of this clip"),
        ([{"segments": []}, {"segments": []}], "2 recordings in one file: keep the one of this clip"),
        ({"output": {"output": {"output": 3}}}, "no list of segments: "),
        ({"transcription": "Hello", "status": 1}, "no list of segments: "),
    ],
)
def test_json_that_breaks_the_rules(tmp_path: Path, data: Any, message: str) -> None:
    assert refusal(tmp_path, json.dumps(data), "x.json").startswith(message)


def test_an_end_that_is_null_is_that_of_the_clip(tmp_path: Path) -> None:
    found = read(tmp_path, '[{"start": 0, "end": 1}, {"start": 1, "end": null}]', "x.json")
    assert found == [GivenSegment(0.0, 1.0), GivenSegment(1.0, math.inf)]


def test_rows_of_several_recordings_are_refused(tmp_path: Path) -> None:
    manifest = '{"audio_filepath": "a", "duration": 1}\n{"audio_filepath": "b", "duration": 1}\n'
    for name, content in (
        ("x.jsonl", manifest),
        ("x.ctm", "a 1 0 1 word\nb 1 0 1 word\n"),
        ("segments", "u a 0 1\nv b 0 1\n"),
        ("x.csv", "file,start,end,quality\na,0,1,normal\nb,0,1,normal\n"),
    ):
        assert refusal(tmp_path, content, name) == "lines of 2 recordings, ['a', 'b']: keep those of one"


def test_speakers_of_kaldi(tmp_path: Path) -> None:
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 bob\n")
    found = read(tmp_path, "u1 rec 0 1\nu2 rec 1.5 -1\nu3 rec 1 1.5\n", "segments")
    assert [segment.speaker for segment in found] == ["ann", "bob", None]


def test_names_with_spaces_in_rttm(tmp_path: Path) -> None:
    for line, speaker in (
        ("SPEAKER my call 1 0.5 1.5 <NA> <NA> A <NA> <NA>", "A"),
        ("SPEAKER my  long call 1 0.5 1.5 <NA> <NA> Mary Ann <NA> <NA>", "Mary Ann"),
        ("SPEAKER call 1 0.5 1.5 <NA> <NA> Mary Ann 0.93 <NA>", "Mary Ann"),
        ("SPEAKER my call 2 1 0.5 1.5 <NA> <NA> A <NA>", "A"),
        ("SPEAKER\tmy call\t1\t0.5\t1.5\t<NA>\t<NA>\tMary Ann\t<NA>\t<NA>", "Mary Ann"),
    ):
        assert read(tmp_path, f"{line}\n{line.replace('0.5 ', '5 ')}\n", "x.rttm")[0] == GivenSegment(0.5, 2.0, speaker)


def test_short_textgrids_aligned_words_and_a_single_tier(tmp_path: Path) -> None:
    head = '"ooTextFile"\n"TextGrid"\n\n0\n2\n<exists>\n{}\n'
    tier = '"IntervalTier"\n"{}"\n0\n2\n2\n0\n1\n"{}"\n1\n2\n"{}"\n'
    one = head.format(1) + tier.format("anything", "so", "")
    assert read(tmp_path, one, "x.TextGrid") == [GivenSegment(0.0, 1.0, None, "so")]
    aligned = head.format(2) + tier.format("Ann - words", "so", "much") + tier.format("Ann - phones", "s", "m")
    assert read(tmp_path, aligned, "x.TextGrid") == [GivenSegment(0.0, 2.0, "Ann", "so much")]
    assert refusal(tmp_path, one[:-4], "x.TextGrid").startswith("a TextGrid that is cut off or damaged")
    assert refusal(tmp_path, head.format("9" * 400), "x.TextGrid").startswith("a TextGrid that is cut off or damaged")


# As YouTube writes automatic captions, and yt-dlp fetches them.
ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.350 align:start position:0%
\x20
hello<00:00:00.480><c> everyone</c><00:00:01.199><c> and</c>

00:00:02.350 --> 00:00:02.360 align:start position:0%
hello everyone and
\x20

00:00:02.360 --> 00:00:04.230 align:start position:0%
hello everyone and
welcome<00:00:02.800><c> to</c>

00:00:04.230 --> 00:00:04.240 align:start position:0%
welcome to
\x20

00:00:04.240 --> 00:00:07.000 align:start position:0%
welcome to
\x20
"""


def test_automatic_captions_say_each_word_once(tmp_path: Path) -> None:
    expected = [
        GivenSegment(0.16, 2.35, None, "hello everyone and"),
        GivenSegment(2.36, 4.23, None, "welcome to"),
        GivenSegment(4.24, 7.0),  # on the screen still, but nothing new is said
    ]
    assert read(tmp_path, ROLLING, "x.vtt") == expected
    # converted to SubRip, which has no times within lines
    plain = re.sub(r"<[^>]+>", "", ROLLING.split("en\n\n")[1]).replace(" align:start position:0%", "")
    cues = "".join(f"{i}\n{cue}\n\n" for i, cue in enumerate(plain.strip().split("\n\n"), 1))
    assert read(tmp_path, re.sub(r"(:\d\d)\.", r"\1,", cues), "x.srt") == expected


def test_captions_that_repeat_a_line_keep_it(tmp_path: Path) -> None:
    cues = "".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\nNo.\n\n" for i in range(1, 4))
    assert [segment.text for segment in read(tmp_path, cues, "x.srt")] == ["No."] * 3


def test_a_line_of_blanks_in_a_cue_and_between_cues(tmp_path: Path) -> None:
    cue = "00:0{0}.000 --> 00:0{0}.900\n"
    text = "WEBVTT\n\n" + cue.format(1) + " \none\n \ntwo\n \n" + cue.format(2) + "three\n\t\nname\n" + cue.format(3)
    assert [segment.text for segment in read(tmp_path, text, "x.vtt")] == ["one two", "three", None]


def test_a_plain_list(tmp_path: Path) -> None:
    assert read(tmp_path, json.dumps(WHISPER["segments"]), "x.json") == WHISPER_SEGMENTS


def test_separators_of_tables(tmp_path: Path) -> None:
    for separator, suffix in itertools.product("\t,;", [".csv", ".tsv", ".txt"]):
        content = 'start,end,text\n0.5,1,"a b"\n'.replace(",", separator)
        assert read(tmp_path, content, "x" + suffix) == [GivenSegment(0.5, 1.0, None, "a b")]


def test_a_timeline_of_real_recordings(recordings: Path) -> None:
    segments = read_segments(recordings / "emodb_timeline.csv")
    assert len(segments) == 53
    assert segments[1] == GivenSegment(4.5, 6.303, "12")


def test_channels_of_rttm(tmp_path: Path) -> None:
    content = "".join(
        f"SPEAKER call {channel} {start} 1.0 <NA> <NA> {name} <NA> <NA>\n"
        for channel, start, name in ((1, 0, "spk0"), (2, 0.5, "spk0"), (1, 2, "spk1"), (2, 4, "<NA>"), (1, 4, "<NA>"))
    )
    segments = read(tmp_path, content, "x.rttm")
    assert [segment.channel for segment in segments] == [1, 2, 1, 2, 1]
    assert [segment.speaker for segment in segments] == ["spk0", "spk0", "spk1", None, None]


@pytest.mark.parametrize(
    ("names", "channels"),
    [
        ("11", [None, None]),  # of a diarizer that mixes the channels
        ("00", [None, None]),
        ("22", [2, 2]),
        ("01", [1, 2]),
        (["<NA>", "2"], [None, 2]),
    ],
)
def test_the_channel_that_a_line_of_rttm_names(names: list[str], channels: list[int | None], tmp_path: Path) -> None:
    content = "".join(f"SPEAKER call {name} {at} 1.0 <NA> <NA> s{at} <NA> <NA>\n" for at, name in enumerate(names))
    assert [segment.channel for segment in read(tmp_path, content, "x.rttm")] == channels


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", '[{"start": 0, "end": 1, "channel": 2}, {"start": 1, "end": 3, "channel": "1"}]'),
        ("x.csv", "start,end,channel\n0,1,2\n1,3,1\n"),
    ],
)
def test_the_channel_in_tables_and_json(name: str, content: str, tmp_path: Path) -> None:
    assert [segment.channel for segment in read(tmp_path, content, name)] == [2, 1]
    with pytest.raises(SegmentError, match=r"(line|segment) \S+ channel is .*: give its number, from 1"):
        read(tmp_path, content.replace("2", '"left"'), name)


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
        (".rttm", "SPEAKER a 1 0 1 <NA> <NA> A\n", "line 1: 'SPEAKER a 1 0 1 <NA> <NA> A' is not a line of RTTM: SP"),
        (".rttm", ";;\nSPEAKER a 1 0 x <NA> <NA> A <NA> <NA>", "line 2: end is 'x', not a time"),
        (".rttm", "SPEAKER a 1 0 -1 <NA> <NA> A <NA> <NA>", "line 1: from 0.0 to -1.0 s"),
        (".rttm", "SPEAKER a 1 0 nan <NA> <NA> A <NA> <NA>", "line 1: from 0.0 to nan s is not finite"),
        (".rttm", RTTM + RTTM.replace("EN2002a", "b"), "lines of 2 recordings, ['EN2002a', 'b']: keep those of one"),
        (".rttm", SRT, "line 1: '1' is not a line of RTTM"),
        (".srt", "1\n00:00:01,000 -> 00:00:02,000\na\n", "line 1: '1' does not start a cue"),
        (".srt", SRT + "\n\n4\n00:00:61,000 --> 00:01:02,000\na", "line 16: start is '00:00:61,000', not a time"),
        (".srt", "1\n00:00:03,000 --> 00:00:02,000\na\n", "line 2: from 3.0 to 2.0 s"),
        (".srt", "1\n00:00:01,000 --> \na\n", "line 2: end is '', not a time"),
        (".srt", SRT.replace("\n\n", "\n"), "line 2: two cues without a blank line"),
        (".srt", "1\n00:00:01,000 --> 00:00:02,000\na\n\nlost text\n", "line 5: 'lost text' does not start a cue"),
        (".vtt", SRT, 'line 1: no "WEBVTT"'),
        (".vtt", "WEBVTT\n00:00.000 --> 00:01.000\na\n", "line 2: a cue without a blank line before it"),
        (".vtt", "WEBVTT\n\n-00:01.000 --> 00:02.000\n", "line 3: start is '-00:01.000', not a time"),
        (".json", "", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (".json", '[{"start": 0,\n "end": 1},]', "not JSON ("),
        (".json", "[" * 30_000, "not JSON ("),
        (".json", f'[{{"start": 0, "end": {LONG}}}]', "not JSON ("),
        (".json", f'[{{"start": 0, "end": {LONG[:400]}}}]', "segment 1: int too large"),
        (".json", '{"text": "a"}', "no list of segments"),
        (".json", "7", "no list of segments"),
        (".json", '[{"start": 0, "end": 1}, [1, 2]]', "segment 2: [1, 2]: give an object"),
        (".json", '[{"start": 0, "end": 1}, {"start": 1}]', "segment 2: end is missing, not a time"),
        (".json", '[{"start": "0", "end": 1}]', "segment 1: start is '0', not a time"),
        (".json", '[{"start": false, "end": 1}]', "segment 1: start is False"),
        (".json", '[{"start": -1, "end": 1}]', "segment 1: from -1.0 to 1.0 s: give a start of at least 0"),
        (".json", '[{"start": 0, "end": Infinity}]', "segment 1: from 0.0 to inf s is not finite"),
        (".json", '[{"start": 0, "end": 1, "speaker": ["A"]}]', "segment 1: speaker is ['A']: give a string"),
        (".json", '[{"start": 0, "end": 1, "text": "\\ud800"}]', "segment 1: text is '\\ud800': give a string"),
        (".csv", "0,1,A\n", "line 1: no header with the columns start and end"),
        (".csv", "start,end\n0,1\n\n2,x\n", "line 4: end is 'x', not a time"),
        (".csv", "start;end\n0,5;1,5\n", "line 2: start is '0,5', not a time"),
        (".csv", "start,end\n3\n", "line 2: end is missing"),
        (".csv", "start,end,text\n0,1,yes, indeed\n", "line 2: more cells than the header has: quote its text"),
        (".csv", 'start,end,text\n0,1,"yes\n1,2,no\n', "line 3: unexpected end of data"),
        (".tsv", "start\tend\ttext\n0\t2400\tAnd so\n2400\t7600\tmy\n", "whole numbers, milliseconds in Whisper's TSV"),
        (".txt", "", "of an unknown format: pass one of .rttm, .srt, .vtt, .csv, .tsv"),
        (".txt", "Dear diary,\n\nthis is text.", "of an unknown format"),
        (".srt", SRT.encode() + b"\n\n4\n00:00:07,000 --> 00:00:08,000\nM\xfcller", "line 17: not UTF-8"),
        (".srt", b"\xff\xfea", "line 1: not UTF-16"),
        (".csv", "start,end,text\n0,x\x1b[31m,a\n", "line 2: end is 'x\\x1b[31m', not a time"),
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
    monkeypatch.setattr("e2v_port.speech.transcripts._MAX_BYTES", 99)
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
    """Writes segments as simple tools do: with json.dumps, and one f-string per line."""
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


def test_the_largest_overlap_counts_rather_than_the_nearest_start() -> None:
    emotions = [GivenSegment(0, 4.9), GivenSegment(5, 9), GivenSegment(9.5, 12)]
    transcript = [
        GivenSegment(4.8, 8),  # starts next to the end of the first, but is spoken in the second
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
def test_align_matches_its_definition(emotions: list[GivenSegment], transcript: list[GivenSegment]) -> None:
    for segment, found in zip(transcript, align(emotions, transcript), strict=True):
        # In tenths of a second, so that equal overlaps compare equal.
        shared = [
            min(round(e.end * 10), round(segment.end * 10)) - max(round(e.start * 10), round(segment.start * 10))
            for e in emotions
        ]
        most = max(shared, default=0)
        if most <= 0:
            assert found is None
        else:
            ranked = [(e.start, -e.end, i) for i, e in enumerate(emotions) if shared[i] == most]
            assert found == min(ranked)[2]


def test_align_takes_no_time_for_a_long_recording() -> None:
    """30 000 segments each: all pairs would take minutes."""
    emotions = [GivenSegment(2 * i, 2 * i + 1.5) for i in range(30_000)]
    transcript = [GivenSegment(2 * i + 1, 2 * i + 2.9) for i in range(30_000)]
    before = time.process_time()
    assert align(emotions, transcript) == [*range(1, 30_000), 29_999]
    assert time.process_time() - before < 10


# Words with times


def words_of(data: object) -> list[tuple[object, ...]]:
    [found] = parse_segments(json.dumps(data).encode(), "x.json")
    assert "".join(word.text for word in found.words or ()) == (found.text if found.words else "")
    return [(word.start, word.end, word.text, word.probability) for word in found.words or ()]


def test_words_within_segments_keep_their_times() -> None:
    # As whisperX writes it: what its aligner does not know, such as numbers, has no times.
    aligned = {
        "start": 1.0,
        "end": 3.0,
        "text": " In 2014 we met.",
        "words": [
            {"word": "In", "start": 1.0, "end": 1.2, "score": 0.8},
            {"word": "2014"},
            {"word": "we", "start": 1.9, "end": 2.0, "score": 0.7},
            {"word": "met.", "start": 2.1, "end": 3.4, "score": 1.7},
        ],
    }
    assert words_of({"segments": [aligned]}) == [
        (1.0, 1.2, "In 2014 ", 0.8),
        (1.9, 2.0, "we ", 0.7),
        (2.1, 3.0, "met.", None),
    ]
    japanese = [{"word": "今", "start": 0.0, "end": 0.4}, {"word": "日は", "start": 0.4, "end": 1.0}]
    assert [
        word[2] for word in words_of({"segments": [{"start": 0, "end": 1, "text": "今日は", "words": japanese}]})
    ] == [
        "今",
        "日は",
    ]
    deepgram = {"word": "yes", "punctuated_word": "Yes.", "start": 0.5, "end": 0.9, "confidence": 0.99}
    heard = {"start": 0.5, "end": 1.0, "transcript": "Yes.", "words": [deepgram]}
    assert words_of({"results": {"utterances": [heard]}}) == [(0.5, 0.9, "Yes.", 0.99)]
    assembly = {"text": "Smoke.", "start": 250, "end": 650, "confidence": 0.97}
    assert words_of({"utterances": [{"start": 250, "end": 900, "text": "Smoke.", "words": [assembly]}]}) == [
        (0.25, 0.65, "Smoke.", 0.97)
    ]
    alone = {"words": [{"word": "a", "start": 0.0, "end": 0.2}, {"word": "b", "start": 0.3, "end": 0.5}]}
    assert words_of(alone) == [(0.0, 0.2, "a ", None), (0.3, 0.5, "b", None)]


@pytest.mark.parametrize(
    "words",
    [
        "none",
        [1, None],
        [{"word": "other", "start": 0.0, "end": 1.0}],
        [{"word": "Yes", "start": "0", "end": 1.0}],
        [{"word": "Yes", "start": float("nan"), "end": 1.0}],
        [{"word": 7, "start": 0.0, "end": 1.0}],
        [{"word": " ", "start": 0.0, "end": 1.0}],
        [{"word": "Yes", "start": 0.0, "end": 0.4}],  # the times of most of the words are unknown
    ],
)
def test_words_that_cannot_be_placed_have_no_times(words: object) -> None:
    text = "Yes, I have always known that."
    assert words_of({"segments": [{"start": 0.0, "end": 2.0, "text": text, "words": words}]}) == []

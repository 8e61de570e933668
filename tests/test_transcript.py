"""Turns as people read them: the screen, Markdown, rows, subtitles and tiers, read by third-party parsers."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import jsonschema
import numpy as np
import pytest
import soundfile
import srt
import webvtt
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from praatio import textgrid
from rich.cells import cell_len
from test_formats import AWKWARD, SETTINGS, SPOKEN, analysis, segment

import e2v_port
from e2v_port.analysis.output.formats import FORMATS
from e2v_port.analysis.output.terminal import GREY, colour, transcript
from e2v_port.analysis.output.transcript import voices
from e2v_port.analysis.results import Analysis
from e2v_port.analysis.schema import definition
from e2v_port.analysis.turns import spoken
from e2v_port.audio import SAMPLING_RATE, Note, load_audio
from e2v_port.emotions.changes import Boundary
from e2v_port.lines import one_line, shortened
from e2v_port.llm.describe import NOTICE
from e2v_port.prosody.measure import measure
from e2v_port.speech.transcripts import read_segments
from e2v_port.transcribe.words import Transcript, Word

ROOT = Path(__file__).parents[1]
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
# Pieces of Markdown, of HTML and of what this package writes itself; and letters, blanks and invisible characters.
PIECES = [
    *(
        "# ",
        "## By speaker",
        "\n",
        "\n\n",
        "    ",
        "\t",
        "> ",
        "- ",
        "* ",
        "+ ",
        "1. ",
        "2) ",
        "===",
        "---",
        "***",
        "___",
    ),
    *(
        "*a*",
        "**b**",
        "_c_",
        "`d`",
        "```",
        "~~e~~",
        "~~~",
        "[f](http://g)",
        "[h]: /i",
        "![j](k)",
        "<l@m.n>",
        "<b>",
        "</b>",
    ),
    *(
        "<script>",
        "<!-- ",
        " -->",
        "&lt;",
        "&#42;",
        "\\",
        "\\*",
        "| a | b |\n|---|---|\n",
        "**ann** 0:12 to 0:18 · happy",
    ),
    *(
        "word",
        " ",
        "字",
        "é",
        "\u200d",
        "\u202e",
        "\x1b[31m",
        "\x07",
        "\r",
        "\u2028",
        "\xa0",
        ":smile:",
        "@you",
        "$x$",
        ".",
    ),
]
patient = settings(deadline=None)  # on a busy machine, an example may take long
anything = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def with_turns(found: Analysis) -> Analysis:
    return replace(found, turns=spoken(found.segments, found.settings.fusion))


def timed(text: str, start: float, pace: float = 0.3) -> tuple[Word, ...]:
    """Returns the words of a text, each of which takes so many seconds."""
    return tuple(Word(start + i * pace, start + (i + 0.9) * pace, word, 0.9) for i, word in enumerate(text.split()))


LONG = "I have called three times now, and nobody could say where my order is. Could you please look it up for me?"
CALL = with_turns(
    analysis(
        segment(0.0, 5.0, "neutral", speaker="ann", text="Good morning, how can I help?", dimensions=None),
        replace(segment(5.5, 16.0, "angry", speaker="bob", text=LONG, dimensions=None), words=timed(LONG, 5.5)),
        segment(16.5, 17.0, None, speaker="ann", text="Oh.", quality="too_short"),
        segment(17.5, 20.0, "sad", share=0.3, speaker="ann", text="I am sorry.", dimensions=None),
        segment(21.0, 24.0, "happy", speaker="bob", quality="not_enrolled"),
        duration=30.0,
    )
)


# ---- one line


@patient
@given(st.text() | anything)
def test_a_line_of_a_stranger_is_one_line_and_printable(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    assert line.replace("\u200c", "").replace("\u200d", "").isprintable()
    assert line == one_line(line)
    letters = [character for character in text if character.isalnum()]
    assert [character for character in line if character.isalnum()] == letters


def test_words_of_every_alphabet_stay_readable() -> None:
    for text in ("می‌خواهم", "क्‍ष", "👩‍🚀", "שלום", "字幕"):
        assert one_line(text) == text
    assert one_line("soft\u00adhyphen\u00a0and \u202eturned") == "softhyphen and turned"


@patient
@given(st.text(st.sampled_from("ab ")), st.integers(4, 30))
def test_a_line_is_cut_between_words(text: str, most: int) -> None:
    line = one_line(text)
    cut = shortened(line, most)
    assert len(cut) <= most
    assert cut == line or (cut.endswith("...") and line.startswith(cut[:-3]))


# ---- Markdown


def inline(tokens: Sequence[Token], kind: str) -> list[list[Token]]:
    """Returns what is inside each element of a kind."""
    return [
        token.children or []
        for opening, token in pairwise(tokens)
        if opening.type == f"{kind}_open" and token.type == "inline"
    ]


def shown(tokens: Sequence[Token]) -> str:
    return "".join(token.content for token in tokens)


@patient
@given(anything, anything, anything)
def test_no_word_and_no_name_becomes_markup(said: str, speaker: str, file: str) -> None:
    found = with_turns(analysis(segment(1.0, 9.0, speaker=speaker, text=said), file=file))
    plain = with_turns(analysis(segment(1.0, 9.0, speaker="ann", text="word" if one_line(said) else "")))
    tokens, ordinary = (MARKDOWN.parse(FORMATS["md"]([each])) for each in (found, plain))
    if one_line(speaker):
        assert [token.type for token in tokens] == [token.type for token in ordinary]
    [title] = inline(tokens, "heading")
    assert shown(title) == (one_line(file) or "Recording")
    paragraphs = inline(tokens, "paragraph")
    [turn] = [part for part in paragraphs if shown(part).endswith(f"0:01 to 0:09 · angry {0.92:.2f}")]
    if speaker:
        assert [token.type for token in turn] == ["text", "strong_open", "text", "strong_close", "text"]
        assert turn[2].content == (one_line(speaker) or "unnamed")
    if one_line(said):
        quotes = [
            inline(tokens[i + 1 : i + 3], "paragraph")
            for i, token in enumerate(tokens)
            if token.type == "blockquote_open"
        ]
        [[words]] = quotes
        assert {token.type for token in words} <= {"text", "softbreak"}
        assert " ".join(shown([token]) for token in words if token.type == "text") == one_line(said)


def test_a_transcript_says_who_said_what_how_and_when() -> None:
    noted = replace(CALL, notes=(Note("cut_off", "only *half* was read"),), transcript=Transcript("base", "en", 0.98))
    text = FORMATS["md"]([noted])
    assert text.startswith(
        "# call.wav\n\n"
        "Length 0:30; emotions by iic/emotion2vec_plus_base on cpu (license: its licence); words by base,\n"
        "language en (detected, 0.98).\n\n- Note: only \\*half\\* was read\n\n## By speaker\n\n"
        "- **ann**: 0:08 in all: neutral 62%, unclear 31%, too short to judge 6%\n"
    )
    assert "\n\n**bob** 0:05 to 0:16 · angry 0.80\n\n> I have called" in text
    assert text.replace("\n> ", " ").count(f" {LONG}\n") == 1
    assert max(map(len, text.split("\n"))) <= 100
    assert (
        "\n\n**ann** 0:16 to 0:20 · unclear: sad or neutral · 0.5 s too short to judge\n\n> Oh. I am sorry.\n" in text
    )
    assert "\n\n**bob** 0:21 to 0:24 · not enrolled\n" in text
    assert " ".join(text.rpartition("\n---\n\n")[2].split()) == NOTICE
    assert FORMATS["md"]([CALL, SPOKEN]).count(NOTICE[:40]) == 1


def test_numbers_are_no_lists_and_stay_as_they_are() -> None:
    for text in ("1.00 or 2.5, and no more.", "1. one", "2) two", "3."):
        shown = FORMATS["md"]([with_turns(analysis(segment(0.0, 4.0, speaker="ann", text=text)))])
        assert not [token for token in MARKDOWN.parse(shown) if token.type == "ordered_list_open"]
        assert ("\\" in shown) == (text[:4] != "1.00")


def test_a_transcript_without_words_or_speech() -> None:
    silent = replace(analysis(), reason="no speech found")
    assert "\n\nNo speech found.\n\n---" in FORMATS["md"]([silent])
    alone = FORMATS["md"]([analysis(segment(0.0, 4.0, "sad"))])
    assert "\n\n0:00 to 0:04 · sad 0.92\n" in alone
    assert "## By speaker" not in alone
    unread = with_turns(analysis(replace(segment(0.0, 4.0, "sad"), words=())))
    assert "sad 0.92\n\n*No words were read.*\n" in FORMATS["md"]([unread])
    assert "(no words were read)" in transcript(unread).plain


def test_words_and_a_voice_that_disagree_are_shown_everywhere() -> None:
    said = segment(0.0, 4.0, "sad", speaker="ann", text="What a wonderful day!", dimensions=None)
    turns = spoken([said], SETTINGS.fusion, languages={None: "en"})
    assert turns is not None
    found = replace(analysis(said), turns=turns)
    mismatch = "the words are pleasant, the voice is not"
    assert f"**ann** 0:00 to 0:04 · sad 0.80 · {mismatch}\n" in FORMATS["md"]([found])
    assert transcript(found).plain.split("\n")[1].endswith(f"  {mismatch}")
    assert found.to_context().endswith(f'; {mismatch}; said: "What a wonderful day!"]')
    [row] = csv.DictReader(io.StringIO(FORMATS["turns"]([found])))
    assert row["wording_mismatch"] == mismatch
    assert float(row["wording_text"]) > 0.7


# ---- rows


def test_a_row_per_turn(tmp_path: Path) -> None:
    guarded = with_turns(analysis(segment(0.0, 4.0, speaker="=ann", text="+1"), file="=1.wav"))
    rows = list(csv.DictReader(io.StringIO(FORMATS["turns"]([CALL, guarded]))))
    assert [(row["file"], row["start"], row["speaker"], row["emotion"], row["unclear"]) for row in rows] == [
        ("call.wav", "0.0", "ann", "neutral", "False"),
        ("call.wav", "5.5", "bob", "angry", "False"),
        ("call.wav", "16.5", "ann", "sad", "True"),
        ("call.wav", "21.0", "bob", "", ""),
        ("'=1.wav", "0.0", "'=ann", "angry", "False"),
    ]
    assert float(rows[1]["confidence"]) == CALL.segments[1].confidence
    assert (rows[2]["text"], rows[2]["seconds_judged"], rows[4]["text"]) == ("Oh. I am sorry.", "2.5", "'+1")
    path = tmp_path / "turns.csv"
    path.write_text(FORMATS["turns"]([guarded]), "utf-8")
    assert [(s.start, s.end, s.speaker, s.text) for s in read_segments(path)] == [(0.0, 4.0, "=ann", "+1")]
    assert FORMATS["turns"]([replace(CALL, turns=None)]).count("\n") == FORMATS["turns"]([CALL]).count("\n")
    assert FORMATS["turns"]([analysis()]).splitlines() == [",".join(rows[0])]


# ---- subtitles


def at(time: str) -> float:
    """Returns the seconds of a time in WebVTT, of which webvtt-py gives whole ones."""
    hours, minutes, seconds = map(float, time.split(":"))
    return hours * 3600 + minutes * 60 + seconds


def heard(cues: Sequence[str]) -> str:
    """Returns the words of cues, without what is in brackets in front of them."""
    return " ".join(" ".join(re.sub(r"^(\[[^]]*\]:?\s|\([^)]*\)\s)*", "", cue).split()) for cue in cues)


def test_words_become_subtitles_that_can_be_read() -> None:
    cues = [cue for cue in webvtt.from_string(FORMATS["vtt"]([CALL])) if cue.voice == "bob"]
    assert heard([cue.text for cue in cues[:-1]]) == LONG
    assert [cue.text.split("\n")[0][:12] for cue in cues] == ["[angry 0.80]", "and nobody c", "(not enrolle"]
    for cue in cues[:-1]:
        assert len(cue.text.split("\n")) <= 2
        assert all(len(line) <= 42 for line in cue.text.split("\n"))
        assert at(cue.end) - at(cue.start) <= 7
    starts = {word.text: word.start for word in CALL.segments[1].words or ()}
    assert cues[1].start == f"00:00:{starts['and']:06.3f}", "at the time of its first word"
    for subtitle in srt.parse(FORMATS["srt"]([CALL])):
        assert all(len(line) <= 42 for line in subtitle.content.split("\n"))


@st.composite
def sayings(draw: st.DrawFn) -> tuple[Word, ...]:
    words, at = [], 0.0
    for text in draw(
        st.lists(st.sampled_from(["I", "am", "here.", "well,", "extraordinarily", "x" * 60, "字"]), min_size=1)
    ):
        at += draw(st.sampled_from([0.0, 0.05, 0.4, 1.5]))
        end = at + draw(st.sampled_from([0.0, 0.2, 0.5, 9.0]))
        words.append(Word(at, end, text, 0.5))
        at = end
    return tuple(words)


@patient
@given(
    sayings(), st.sampled_from(["vtt", "srt"]), st.sampled_from(["ann", "somebody whose name is longer than a line is"])
)
def test_no_word_is_lost_and_no_subtitle_is_long(words: tuple[Word, ...], name: str, speaker: str) -> None:
    text = " ".join(word.text for word in words)
    end = max(words[-1].end, 1.0)
    made = with_turns(analysis(replace(segment(0.0, end, speaker=speaker, text=text), words=words), duration=end))
    written = FORMATS[name]([made])
    found = (
        [(at(cue.start), at(cue.end), cue.text) for cue in webvtt.from_string(written)]
        if name == "vtt"
        else [(cue.start.total_seconds(), cue.end.total_seconds(), cue.content) for cue in srt.parse(written)]
    )
    assert heard([text for _, _, text in found]) == text
    for (start, end, text), following in zip(found, [*found[1:], None], strict=True):
        lines = text.split("\n")
        own = len(heard([text]).split())
        assert end - start <= 7.001
        assert end - start >= 0.832 or (following is not None and following[0] - start < 0.834)
        assert own == 1 or len(lines) <= 2
        assert all(cell_len(line) <= 42 or " " not in line or line.startswith("[some") for line in lines)


def test_the_emotion_is_shown_where_it_changes() -> None:
    said = [
        segment(0.0, 3.0, "happy", dimensions=None, speaker="ann", text="Yes."),
        segment(6.0, 9.0, "happy", dimensions=None, speaker="ann", text="Of course."),
        segment(9.0, 12.0, "sad", dimensions=None, speaker="ann", text="No."),
        segment(11.0, 14.0, "sad", dimensions=None, speaker="bob", text="Why?"),
    ]
    cues = [*webvtt.from_string(FORMATS["vtt"]([with_turns(analysis(*said))]))]
    assert [cue.text for cue in cues] == ["[happy 0.80] Yes.", "Of course.", "[sad 0.80] No.", "[sad 0.80] Why?"]
    assert [cue.voice for cue in cues] == ["ann", "ann", "ann", "bob"]


def test_subtitles_are_in_order_of_time_and_keep_given_times() -> None:
    found = with_turns(SPOKEN)
    for name in ("vtt", "srt"):
        text = FORMATS[name]([found])
        starts = [at(cue.start) for cue in webvtt.from_string(text)] if name == "vtt" else []
        assert starts == sorted(starts)
    first = next(iter(webvtt.from_string(FORMATS["vtt"]([found]))))
    assert (at(first.start), at(first.end)) == (1.0, 9.0), "words without times stay together"
    assert one_line(AWKWARD) in " ".join(unescape(first.text).split())
    overlapping = replace(segment(0.0, 20.0, speaker="ann", text=LONG * 2), words=timed(LONG * 2, 0.0))
    both = with_turns(analysis(overlapping, segment(2.0, 3.0, speaker="bob", text="Yes.")))
    starts = [at(cue.start) for cue in webvtt.from_string(FORMATS["vtt"]([both]))]
    assert starts == sorted(starts)


@pytest.mark.parametrize("name", ["vtt", "srt", "textgrid", "json", "csv"])
def test_a_call_is_read_back(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"call.{name}"
    path.write_text(FORMATS[name]([CALL]), "utf-8")
    found = read_segments(path)
    assert {s.speaker for s in found} == {"ann", "bob"}
    if name in {"textgrid", "json", "csv"}:
        assert sorted((s.start, s.speaker, s.text) for s in found) == [
            (s.start, s.speaker, s.text) for s in CALL.segments
        ]


def test_the_words_of_whisperx_reach_every_output(tmp_path: Path) -> None:
    """A segment longer than is judged at once, with the times of its words, and one whose words have none."""
    clips = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))
    sound = np.concatenate([load_audio(clip) for clip in (*clips, *clips)])
    long, length = len(sound) / SAMPLING_RATE * 0.75, len(sound) / SAMPLING_RATE
    said = " ".join(f"word{i}," for i in range(70))
    words = [
        {"word": word, "start": i * long / 70, "end": (i + 0.9) * long / 70} for i, word in enumerate(said.split())
    ]
    segments = [
        {"start": 0.0, "end": long, "text": f" {said}", "speaker": "SPEAKER_00", "words": words},
        {"start": long, "end": length, "text": " And that is all.", "speaker": "SPEAKER_01"},
    ]
    path = tmp_path / "call.json"
    path.write_text(json.dumps({"segments": segments, "language": "en"}))
    found = e2v_port.analyze(sound, sampling_rate=SAMPLING_RATE, segments=path)
    jsonschema.validate(found.to_dict(), definition("analysis"))
    assert len([part for part in found.segments if part.speaker == "SPEAKER_00"]) > 1
    assert " ".join(turn.text or "" for turn in found.turns or ()) == f"{said} And that is all."
    cues = [*webvtt.from_string(FORMATS["vtt"]([found]))]
    assert heard([cue.text for cue in cues]) == f"{said} And that is all."
    assert all(at(cue.end) - at(cue.start) <= 7 for cue in cues if cue.voice == "SPEAKER_00")
    (tmp_path / "again.json").write_text(FORMATS["json"]([found]))
    again = read_segments(tmp_path / "again.json")
    assert " ".join(word.text.strip() for part in again for word in part.words or ()) == said


# ---- TextGrid


def test_tiers_of_turns(tmp_path: Path) -> None:
    path = tmp_path / "call.TextGrid"
    path.write_text(FORMATS["textgrid"]([CALL]), "utf-8")
    grid = textgrid.openTextgrid(str(path), False)
    assert [tuple(entry) for entry in grid.getTier("turns (ann)").entries] == [
        (0.0, 5.0, "[neutral 0.80] Good morning, how can I help?"),
        (16.5, 20.0, "[unclear: sad or neutral] Oh. I am sorry."),
    ]
    assert [entry.label for entry in grid.getTier("words (bob)").entries] == LONG.split()


@patient
@given(st.lists(st.lists(st.tuples(st.integers(-1, 9), st.integers(0, 3)), min_size=1, max_size=6), max_size=4))
def test_no_word_is_missing_in_a_tier(times: list[list[tuple[int, int]]]) -> None:
    parts = []
    for i, spans in enumerate(times):
        starts = sorted(10.0 * i + start for start, _ in spans)
        words = tuple(
            Word(max(start, 0.0), max(start, 0.0) + length, f"w{i}.{k}", 0.9)
            for k, (start, (_, length)) in enumerate(zip(starts, spans, strict=True))
        )
        text = " ".join(word.text for word in words)
        parts.append(replace(segment(10.0 * i, 10.0 * i + 9.5, speaker="ann", text=text), words=words))
    found = with_turns(analysis(*parts, duration=60.0))
    with TemporaryDirectory() as folder:
        path = Path(folder, "call.TextGrid")
        path.write_text(FORMATS["textgrid"]([found]), "utf-8")
        grid = textgrid.openTextgrid(str(path), False)
    if parts:
        tier = grid.getTier("words (ann)")
        assert " ".join(entry.label for entry in tier.entries) == " ".join(part.text or "" for part in parts)
        assert all(one.end <= two.start for one, two in pairwise(tier.entries))


# ---- the screen


@patient
@given(st.lists(st.tuples(anything, anything), min_size=1, max_size=4), st.sampled_from([30, 60, 80, 200]))
def test_the_screen_is_not_left(parts: list[tuple[str, str]], width: int) -> None:
    said = [segment(5.0 * i, 5.0 * i + 4, speaker=speaker, text=text) for i, (speaker, text) in enumerate(parts)]
    lines = transcript(with_turns(analysis(*said)), width=width).plain.split("\n")
    words = [line for line in lines if line.startswith("  ▎ ")]
    assert all(cell_len(line.rstrip()) <= width for line in words)
    assert "".join("".join(line[4:] for line in words).split()) == "".join(
        one_line(text).replace(" ", "")
        for turn in with_turns(analysis(*said)).turns or ()
        for text in [turn.text or ""]
    )
    assert all(line.replace("\u200d", "").isprintable() for line in lines)


def test_what_the_screen_shows() -> None:
    text = transcript(CALL, width=60)
    assert text.plain.split("\n")[1:6] == [
        "0:00-0:05  ann  neutral 0.80             █████████▋",
        "  ▎ Good morning, how can I help?",
        "0:05-0:16  bob  angry 0.80               █████████▋",
        "  ▎ I have called three times now, and nobody could say",
        "  ▎ where my order is. Could you please look it up for me?",
    ]
    wide = transcript(CALL, width=90).plain
    assert "0:16-0:20  ann  unclear: sad or neutral              0.5 s too short to judge" in wide
    assert "0:21-0:24  bob  not enrolled" in text.plain
    narrow = transcript(CALL, width=40).plain
    assert "\n0:05-0:16  bob  angry 0.80\n" in narrow, "without bars where they have no room"
    assert "unclear: sad or neutral\n  ▎ (0.5 s too short to judge)\n  ▎ Oh. I am sorry.\n" in narrow
    assert text.plain.endswith("\nbob  0:13 in all: angry 78%, not enrolled 22%")
    styles = {text.plain[span.start : span.end].strip(): str(span.style) for span in text.spans}
    assert styles["angry 0.80"] == colour("angry")
    assert styles["unclear: sad or neutral"] == styles["not enrolled"] == GREY
    plain = transcript(CALL, ascii_only=True).plain
    assert plain.isascii()
    assert f"\n  | {LONG}\n" in plain, "not wrapped where there is no width"


def test_the_screen_shows_what_was_measured() -> None:
    voice = measure(0.3 * np.sin(2 * np.pi * 200 * np.arange(2 * SAMPLING_RATE) / SAMPLING_RATE).astype(np.float32))
    heard = replace(segment(0.0, 4.0, "fearful", speaker="ann", text="Oh."), prosody=voice, reasons=("elevated pitch",))
    calm = segment(4.0, 8.0, "fearful", speaker="ann", text="I see.")
    lines = transcript(with_turns(analysis(heard)), width=130).plain.split("\n")
    assert voice.pitch_mean is not None
    assert lines[2].startswith("  arousal 0.70, dominance 0.30, valence 0.25; shade ")
    assert heard.compound is not None
    assert f"; compound {heard.compound}; " in lines[2]
    assert f"; {voice.pitch_mean:.0f} Hz; " in lines[2]
    assert lines[2].endswith("; elevated pitch")
    assert lines[3] == "  ▎ Oh."
    both = transcript(with_turns(analysis(heard, calm))).plain
    assert "elevated pitch" in both, "it holds for half of the turn"
    assert "elevated pitch" not in transcript(with_turns(analysis(heard, replace(calm, end=8.5)))).plain
    narrow = transcript(with_turns(analysis(heard)), width=40).plain.split("\n")
    assert max(map(len, narrow[2:])) <= 40
    assert "Hz" not in transcript(CALL).plain
    assert "arousal" not in transcript(CALL).plain


def test_what_must_be_known_of_the_clip_follows_the_turns() -> None:
    parts = (Boundary(0.0, 2.0, "neutral", 0.9), Boundary(2.0, 5.0, "sad", 0.6))
    found = replace(CALL, boundaries=parts, notes=(Note("cut_off", "only half was read"),), reason="a reason")
    lines = transcript(found, width=80).plain.split("\n")
    assert lines[1] == "a reason"
    assert [line.split()[:5] for line in lines[-3:-1]] == [
        ["0.00", "2.00", "ann", "neutral", "0.900"],
        ["2.00", "5.00", "ann", "sad", "0.600"],
    ]
    assert lines[-1] == "note: only half was read"


def test_the_words_of_a_whole_file_are_printed(recordings: Path, whisper_tiny_en: Path) -> None:
    command = [sys.executable, "-m", "e2v_port", "analyze", str(recordings / "jfk.flac"), "--whole"]
    done = subprocess.run(
        [*command, "--words", str(whisper_tiny_en)], check=True, capture_output=True, text=True, encoding="utf-8"
    )
    scores, words = done.stdout.splitlines()[:2]
    assert re.search(r"jfk\.flac: .*\[", scores)
    assert words.startswith("  And so")
    assert words.endswith("for your country.")


@patient
@given(st.lists(st.tuples(st.sampled_from(["ann", None]), st.sampled_from(["angry", "sad", None]), st.integers(1, 9))))
def test_shares_of_a_voice_add_up(parts: list[tuple[str | None, str | None, int]]) -> None:
    said = [
        segment(10.0 * i, 10.0 * i + length, label, speaker=speaker, quality="normal" if label else "too_short")
        for i, (speaker, label, length) in enumerate(parts)
    ]
    found = voices(said)
    assert [voice.speaker for voice in found] == [*dict.fromkeys(speaker for speaker, _, _ in parts)]
    for voice in found:
        own = [part for part in said if part.speaker == voice.speaker]
        assert voice.seconds == pytest.approx(sum(part.duration for part in own))
        assert sum(voice.sounds.values()) == pytest.approx(1)
        assert [*voice.sounds.values()] == sorted(voice.sounds.values(), reverse=True)
        angry = sum(part.duration for part in own if part.emotion == "angry")
        assert voice.sounds.get("angry", 0.0) == pytest.approx(angry / voice.seconds)


def test_the_program_prints_a_transcript_of_given_turns(tmp_path: Path) -> None:
    clip = max((ROOT / "benchmarks" / "speech").glob("*.flac"), key=lambda path: soundfile.info(path).duration)
    length = soundfile.info(clip).duration
    rows = f"start,end,speaker,text\n0,{length / 2},ann,{LONG.replace(',', '')}\n{length / 2},{length},bob,No.\n"
    (tmp_path / "given.csv").write_text(rows)
    command = [sys.executable, "-m", "e2v_port", "analyze", str(clip), "--segments", str(tmp_path / "given.csv")]

    def run(**environment: str) -> list[str]:
        variables = {
            key: value for key, value in os.environ.items() if key not in {"FORCE_COLOR", "COLUMNS", "NO_COLOR"}
        }
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, encoding="utf-8", env=variables | environment
        )
        return done.stdout.splitlines()

    piped = run(PYTHONUTF8="1")
    assert re.match(r"0:00-0:0\d  ann  \S+", piped[1])
    assert piped[2] == f"  ▎ {LONG.replace(',', '')}"
    assert piped[-2].startswith("ann  0:0")
    screen = run(PYTHONUTF8="1", FORCE_COLOR="1", COLUMNS="50")
    wrapped = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in screen]
    assert wrapped[2:5] == [
        "  ▎ I have called three times now and nobody could",
        "  ▎ say where my order is. Could you please look",
        "  ▎ it up for me?",
    ]

"""Written formats, read back by third-party parsers, the standard library and this package's reader."""

import csv
import io
import json
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import srt
import webvtt
from praatio import textgrid

from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.output.formats import FORMATS, ONE_CLIP
from e2v_port.analysis.output.terminal import colour, table
from e2v_port.analysis.results import Analysis, AnalysisSettings, UsedModel
from e2v_port.emotions import taxonomy
from e2v_port.emotions.changes import Boundary
from e2v_port.emotions.estimates import DIMENSIONS, Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.speech.segment import Quality, SegmentSettings
from e2v_port.speech.transcripts import read_segments

AWKWARD = 'He said: "3 < 4 & 5 > 4" --> {ok}\tthen,\n\n1\nleft; [gone]: ü 声 <i>now</i>'
TENSE = Dimensions(arousal=0.7, dominance=0.3, valence=0.25)
SETTINGS = AnalysisSettings("speech", SegmentSettings(), FusionSettings(), None)


def segment(
    start: float,
    end: float,
    label: str | None = "angry",
    *,
    share: float = 0.8,
    dimensions: Dimensions | None = TENSE,
    quality: Quality = "normal",
    speaker: str | None = None,
    text: str | None = None,
    label_set: str = "emotion2vec",
) -> JudgedSegment:
    prediction = None
    if label:
        second = next(name for name in reversed(taxonomy.labels(label_set)) if name != label)
        scores = {label: share, ("neutral" if label_set == "emotion2vec" else second): 1 - share}
        prediction = Prediction(label, share, scores, scores, end - start)
    judged = quality in {"normal", "low_confidence"}
    judgement = fuse(prediction, dimensions, end - start, label_set=label_set) if judged else None
    return JudgedSegment(start, end, quality, speaker, text, judgement, prediction)


def analysis(*segments: JudgedSegment, file: str = "call.wav", duration: float = 4000.0) -> Analysis:
    models = (UsedModel("categorical", "iic/emotion2vec_plus_base", "float32", "cpu", "its licence"),)
    return Analysis(file, duration, segments, None, None, models, SETTINGS, {"decode": 0.1})


PLAIN = analysis(
    segment(0.0, 2.5),
    segment(2.5, 3.25, quality="too_short"),
    segment(61.0004375, 70.0, "sad", share=0.25),
    segment(3599.9996, 3725.125, "happy", dimensions=None),
)
SPOKEN = analysis(
    segment(1.0, 9.0, speaker="SPEAKER_00", text=AWKWARD),
    segment(8.5, 12.0, "sad", speaker="Mary & <Jo> [2]", text="Yes."),
    segment(12.0, 14.0, quality="no_speech", speaker="SPEAKER_00"),
)
EMPTY = replace(analysis(), reason="no speech found")


def times(analysis: Analysis) -> list[tuple[float, float]]:
    return [(part.start, part.end) for part in analysis.segments]


def write(name: str, analysis: Analysis, folder: Path) -> Path:
    path = folder / f"x.{name}"
    path.write_text(FORMATS[name]([analysis]), "utf-8", newline="")
    return path


@pytest.mark.parametrize("name", ["json", "jsonl", "csv", "rttm", "srt", "vtt", "textgrid", "audacity"])
@pytest.mark.parametrize("case", [PLAIN, SPOKEN, EMPTY], ids=["plain", "spoken", "empty"])
def test_what_is_written_is_read_back(name: str, case: Analysis, tmp_path: Path) -> None:
    path = write(name, case, tmp_path)
    if name == "audacity" and case is EMPTY:
        assert path.read_text() == ""
        return
    found = sorted(read_segments(path), key=lambda given: given.start)  # a TextGrid is sorted by speaker
    exact = {"srt": 0.0005, "vtt": 0.0005, "rttm": 1e-6, "audacity": 1e-6}.get(name, 0)
    assert len(found) == len(case.segments)
    for given, (start, end) in zip(found, times(case), strict=True):
        assert given.start == pytest.approx(start, abs=exact, rel=0)
        assert given.end == pytest.approx(end, abs=2 * exact, rel=0)
    if name == "rttm":
        emotions = ["angry", None, "sad", "happy"] if case is PLAIN else ["angry", "sad", None]
        assert [given.speaker for given in found] == emotions[: len(found)]
    elif case is SPOKEN and name != "audacity":
        second = "Mary & (Jo) (2)" if name == "srt" else "Mary & <Jo> [2]"
        assert [given.speaker for given in found] == ["SPEAKER_00", second, "SPEAKER_00"]


def test_json_holds_everything() -> None:
    found = json.loads(FORMATS["json"]([PLAIN]))
    assert found == json.loads(json.dumps(PLAIN.to_dict()))
    assert found["segments"][0]["emotion"]["compound"] == PLAIN.segments[0].compound
    assert found["segments"][1]["emotion"] is None
    assert json.loads(FORMATS["json"]([PLAIN, EMPTY]))[1]["reason"] == "no speech found"
    lines = FORMATS["jsonl"]([PLAIN, SPOKEN, EMPTY]).splitlines()
    assert [len(json.loads(line)["segments"]) for line in lines] == [4, 3, 0]


def test_csv_has_a_row_per_segment() -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"]([PLAIN, replace(SPOKEN, file='a, "b".wav'), EMPTY]))))
    assert [row["file"] for row in rows] == ["call.wav"] * 4 + ['a, "b".wav'] * 3
    assert rows[4]["text"] == AWKWARD
    assert (rows[1]["quality"], rows[1]["primary"], rows[1]["avd_arousal"]) == ("too_short", "", "")
    assert (rows[3]["primary"], rows[3]["e2v_happy"]) == ("happy", "0.8")
    assert [row["avd_from"] for row in rows] == ["model", "", "model", "labels", "model", "model", ""]
    derived = PLAIN.segments[3].dimensions
    assert derived is not None
    assert [float(rows[3][f"avd_{name}"]) for name in ("arousal", "dominance", "valence")] == [
        *derived.to_dict().values()
    ]
    assert rows[3]["e2v_angry"] == ""
    assert float(rows[0]["confidence"]) == PLAIN.segments[0].confidence
    assert [float(rows[0][f"avd_{name}"]) for name in DIMENSIONS] == [0.7, 0.3, 0.25]


@pytest.mark.parametrize("label_set", taxonomy.label_sets())
def test_labels_of_every_model(label_set: str, tmp_path: Path) -> None:
    names = taxonomy.labels(label_set)
    found = analysis(
        *(segment(3.0 * i, 3.0 * i + 2.5, name, label_set=label_set) for i, name in enumerate(names)),
        duration=3.0 * len(names),
    )
    assert [row["primary"] for row in csv.DictReader(io.StringIO(FORMATS["csv"]([found])))] == [*names]
    emotions = textgrid.openTextgrid(str(write("textgrid", found, tmp_path)), False).getTier("emotion")
    assert [entry.label for entry in emotions.entries] == [*names]
    read = [line.split("\t")[-1] for line in FORMATS["audacity"]([found]).splitlines()]
    assert [text.split(" 0.")[0] for text in read] == [*names]
    assert [unescape(cue.text).split(" 0.")[0] for cue in webvtt.read(str(write("vtt", found, tmp_path)))] == [*names]
    assert [cue.content.split(" 0.")[0] for cue in srt.parse(FORMATS["srt"]([found]))] == [*names]
    assert all(name in table(found).plain for name in names)
    assert all(colour(name) == taxonomy.colour(name, label_set) for name in names if len(name) > 1)


def test_vtt(tmp_path: Path) -> None:
    plain = webvtt.read(str(write("vtt", PLAIN, tmp_path)))
    compound = PLAIN.segments[0].compound
    assert [cue.text for cue in plain] == [
        f"angry 0.920 ({compound})",
        "(too short to judge)",
        "unclear: sad or neutral",
        "happy 0.800",
    ]
    assert [(cue.start, cue.end) for cue in plain][2:] == [
        ("00:01:01.000", "00:01:10.000"),
        ("01:00:00.000", "01:02:05.125"),
    ]
    text = FORMATS["vtt"]([SPOKEN])
    assert text.startswith("WEBVTT\n\n00:00:01.000 --> 00:00:09.000\n<v SPEAKER_00>[angry ")
    assert text.count("-->") == len(webvtt.from_string(text)) == 3
    assert "\n<v Mary &amp; &lt;Jo&gt; [2]>" in text
    (first, *_) = read_segments(write("vtt", SPOKEN, tmp_path))
    assert first.text == f"[angry 0.920 ({compound})] {' '.join(AWKWARD.split())}"


def test_srt() -> None:
    found = list(srt.parse(FORMATS["srt"]([SPOKEN])))
    assert [cue.index for cue in found] == [1, 2, 3]
    assert [cue.start.total_seconds() for cue in found] == [1.0, 8.5, 12.0]
    assert found[0].content.startswith("[SPEAKER_00]: [angry 0.920 (")
    assert "ü 声" in found[0].content
    late = list(srt.parse(FORMATS["srt"]([PLAIN])))[-1]
    assert (late.start.total_seconds(), late.end.total_seconds()) == (3600.0, 3725.125)
    assert FORMATS["srt"]([EMPTY]) == ""


def test_textgrid(tmp_path: Path) -> None:
    plain, spoken = (textgrid.openTextgrid(str(write("textgrid", case, tmp_path)), True) for case in (PLAIN, SPOKEN))
    measured = ("arousal", "dominance", "valence")
    derived = tuple(f"derived {name}" for name in measured)
    assert plain.tierNames == ("emotion", "confidence", "shade", "compound", *measured, *derived)
    for names, judged in ((measured, PLAIN.segments[:3:2]), (derived, PLAIN.segments[3:])):
        for name in names:
            texts = [entry.label for entry in plain.getTier(name).entries if entry.label]
            assert texts == [f"{getattr(segment, name.split()[-1]):.3f}" for segment in judged]
    assert not {*derived} & {name.split(" (")[0] for name in spoken.tierNames}
    emotion = [tuple(entry) for entry in plain.getTier("emotion").entries if entry.label]
    labels = ["angry", "(too short to judge)", "unclear: sad or neutral", "happy"]
    assert emotion == [(*span, label) for span, label in zip(times(PLAIN), labels, strict=True)]
    for case, grid in ((PLAIN, plain), (SPOKEN, spoken)):
        assert (grid.minTimestamp, grid.maxTimestamp) == (0, case.duration)
        for tier in grid.tiers:
            at = 0.0
            for start, end, _ in tier.entries:
                assert start == at < end
                at = end
            assert at == case.duration
    assert "arousal (Mary & <Jo> [2])" in spoken.tierNames
    assert [entry.label for entry in spoken.getTier("text (SPEAKER_00)").entries if entry.label] == [
        " ".join(AWKWARD.split())
    ]
    assert '"He said: ""3 < 4' in FORMATS["textgrid"]([SPOKEN])


def check_tiers(grid: textgrid.Textgrid) -> None:
    """Intervals of a tier neither overlap nor leave gaps: Praat refuses a file otherwise."""
    for tier in grid.tiers:
        assert [entry.start for entry in tier.entries] == [0, *(entry.end for entry in tier.entries[:-1])]


def test_tiers_of_speakers_at_once(tmp_path: Path) -> None:
    """Boundaries of both, a name on two channels, and segments without a name at once."""
    ann, bob = segment(1.0, 5.0, speaker="ann", text="one"), segment(2.0, 4.0, "sad", speaker="bob")
    parts = (Boundary(1.0, 3.0, "angry", 0.9), Boundary(3.0, 5.0, "sad", 0.6), Boundary(2.0, 4.0, "sad", 0.7))
    both = replace(analysis(ann, bob), boundaries=parts)
    grid = textgrid.openTextgrid(str(write("textgrid", both, tmp_path)), True)
    check_tiers(grid)
    for name, expected in (("ann", parts[:2]), ("bob", parts[2:])):
        entries = [entry for entry in grid.getTier(f"boundaries ({name})").entries if entry.label]
        assert [tuple(entry) for entry in entries] == [(part.start, part.end, part.label) for part in expected]

    channels = [replace(segment(0.0, 3.0 + i, speaker=name), channel=i) for name in ("agent", None) for i in (1, 2)]
    path = write("textgrid", analysis(*channels), tmp_path)
    check_tiers(textgrid.openTextgrid(str(path), True))
    assert [(s.start, s.end, s.speaker, s.channel) for s in read_segments(path)] == [
        (s.start, s.end, s.speaker, s.channel) for s in channels
    ]

    nameless = analysis(segment(0.0, 3.0), segment(1.0, 2.0), segment(2.5, 4.0), segment(3.0, 5.0))
    path = write("textgrid", nameless, tmp_path)
    check_tiers(textgrid.openTextgrid(str(path), True))
    assert sorted((s.start, s.end) for s in read_segments(path)) == times(nameless)


def test_rttm_of_speakers_at_once(tmp_path: Path) -> None:
    """A diarization may not hold one name twice at a time; another channel is another time."""
    both = analysis(
        segment(0.0, 3.0, speaker="ann"),
        segment(1.0, 2.0, speaker="Mary Ann"),
        segment(2.0, 4.0, "sad", speaker="bob"),
        replace(segment(2.5, 4.0, speaker="eve"), channel=2),
        segment(3.0, 5.0, speaker="bob"),
    )
    found = read_segments(write("rttm", both, tmp_path))
    assert [s.speaker for s in found] == ["angry", "angry/Mary_Ann", "sad", "angry", "angry"]
    assert [s.channel for s in found] == [1, 1, 1, 2, 1]


def test_no_text_in_csv_is_a_formula(tmp_path: Path) -> None:
    words = ['=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "'=1", "no = formula", "＝1"]
    case = analysis(*(segment(i, i + 1, speaker=word, text=word) for i, word in enumerate(words)), file="=1.wav")
    path = write("csv", case, tmp_path)
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    for row in rows:
        for name, value in row.items():
            assert not value.startswith(("=", "+", "@", "\t", "＝")), name
            assert not value.startswith("-") or float(value) < 0
    assert [s.text for s in read_segments(path)][:4] == words[:4]


def test_textgrid_of_boundaries_and_of_nothing(tmp_path: Path) -> None:
    parts = (Boundary(0.0, 1.5, "angry", 0.9), Boundary(1.5, 2.5, "sad", 0.6))
    grid = textgrid.openTextgrid(str(write("textgrid", replace(PLAIN, boundaries=parts), tmp_path)), False)
    assert [tuple(entry) for entry in grid.getTier("boundaries").entries] == [(0.0, 1.5, "angry"), (1.5, 2.5, "sad")]
    empty = textgrid.openTextgrid(str(write("textgrid", EMPTY, tmp_path)), True)
    assert [tuple(entry) for entry in empty.getTier("emotion").entries] == [(0, EMPTY.duration, "")]
    nothing = write("textgrid", analysis(segment(3.0, 3.0, quality="too_short")), tmp_path)
    assert [entry.label for entry in textgrid.openTextgrid(str(nothing), True).getTier("emotion").entries] == [""]


def test_audacity() -> None:
    rows = [line.split("\t") for line in FORMATS["audacity"]([SPOKEN]).splitlines()]
    assert [(float(start), float(end)) for start, end, _ in rows] == times(SPOKEN)
    assert rows[2][2] == "(no speech)"
    assert " then, 1 left;" in rows[0][2]


def test_rttm_of_several_files() -> None:
    cases = [PLAIN, replace(SPOKEN, file="/calls/my call.wav"), EMPTY]
    rows = [line.split(" ") for line in FORMATS["rttm"](cases).splitlines()]
    assert {len(row) for row in rows} == {10}
    assert [row[1] for row in rows] == ["call"] * 4 + ["my_call"] * 3
    assert rows[0][3:] == ["0.000000", "2.500000", "<NA>", "<NA>", "angry", "0.920", "<NA>"]
    assert rows[1][7:9] == ["<NA>", "<NA>"]


def test_rttm_of_changes() -> None:
    parts = (Boundary(0.0, 1.5, "angry", 0.9), Boundary(1.5, 2.5, "sad", 0.6))
    rows = [line.split() for line in FORMATS["rttm"]([replace(PLAIN, boundaries=parts)]).splitlines()]
    assert [(row[3], row[4], row[7], row[8]) for row in rows[:2]] == [
        ("0.000000", "1.500000", "angry", "0.900"),
        ("1.500000", "1.000000", "sad", "0.600"),
    ]
    assert [row[7] for row in rows[2:]] == ["<NA>", "sad", "happy"]


def test_dimensions_alone_are_named_by_their_octant(tmp_path: Path) -> None:
    case = analysis(segment(0, 5, None))
    octant = case.segments[0].judgement.octant
    assert octant
    assert [cue.text for cue in webvtt.read(str(write("vtt", case, tmp_path)))] == [octant]
    assert FORMATS["rttm"]([case]).split()[7] == octant
    assert "emotion" in textgrid.openTextgrid(str(write("textgrid", case, tmp_path)), False).tierNames


@pytest.mark.parametrize("name", sorted(ONE_CLIP))
def test_some_formats_hold_one_clip(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} holds one clip, not 2"):
        FORMATS[name]([PLAIN, SPOKEN])


def test_the_names_of_the_formats() -> None:
    assert [*FORMATS] == ["json", "jsonl", "csv", "turns", "md", "vtt", "srt", "textgrid", "audacity", "rttm"]
    assert FORMATS.keys() > ONE_CLIP

"""One vocabulary, one JSON: every producer matches analysis/schema.json, and no rendering contradicts the headline."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import toys
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from served import Served
from websockets.sync.client import connect

import e2v_port
from e2v_port import client as clients
from e2v_port.analysis.judged import JudgedSegment
from e2v_port.analysis.output import formats, plots, terminal
from e2v_port.analysis.results import Analysis, AnalysisSettings
from e2v_port.analysis.schema import SCHEMA_VERSION, about, definition, schema
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions import taxonomy
from e2v_port.emotions.estimates import DIMENSIONS, Dimensions, Prediction
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.emotions.judgement import COLUMNS, MEASURED, Judgement, columns
from e2v_port.live.results import VoiceSegment
from e2v_port.llm import describe
from e2v_port.prosody.measure import Prosody
from e2v_port.seconds import seconds
from e2v_port.service.history import COLUMNS as HISTORY_COLUMNS
from e2v_port.service.history import FIELDS, History, cells
from e2v_port.speech.segment import SegmentSettings

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "bright.flac"
LABELS = taxonomy.labels("emotion2vec")
EMOTIONS = tuple(emotion.name for emotion in taxonomy.emotions())
SETTINGS = AnalysisSettings("speech", SegmentSettings(), FusionSettings(), None)


def check(value: Any, name: str = "analysis") -> None:
    """Fails unless a value, written as JSON and read back, matches this definition of the schema."""
    validator = jsonschema.Draft202012Validator(definition(name), format_checker=jsonschema.FormatChecker())
    error = jsonschema.exceptions.best_match(validator.iter_errors(json.loads(json.dumps(value, allow_nan=False))))
    assert error is None, f"{error.json_path}: {error.message}"


@pytest.fixture(scope="module")
def model() -> e2v_port.Model:
    return e2v_port.load("bundled-tiny", runtime="cpu")


@pytest.fixture(scope="module")
def dimensional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dimensional")
    return toys.convert(toys.make_dimensional(folder / "checkpoint"), folder / "model")


@pytest.fixture(scope="module")
def service(dimensional: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if sys.platform != "linux":
        pytest.skip("starts the service as its tests do, which needs /proc")
    history = tmp_path_factory.mktemp("history") / "history.sqlite"
    with Served("--model", "bundled-tiny", "--dimensional", str(dimensional), "--history", str(history)) as served:
        yield served


# ---- the schema


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["$defs"]["analysis"]["properties"]["schema_version"]["const"] == SCHEMA_VERSION
    with pytest.raises(ValueError, match="no definition is called 'judgment'; known: analysis, "):
        definition("judgment")


def test_the_schema_lists_the_words_of_the_package() -> None:
    known = schema()["$defs"]
    emotion = known["emotion"]["properties"]
    assert tuple(known["distribution"]["propertyNames"]["enum"]) == EMOTIONS
    assert tuple(known["shade"]["properties"]["name"]["enum"]) == EMOTIONS
    assert set(emotion["octant"]["enum"]) == {*taxonomy.octants(), None}
    assert {*emotion["avd_from"]["enum"]} == MEASURED | {"labels", "labels and prosody", None}
    assert tuple(known["dimensions"]["properties"]) == ("arousal", "dominance", "valence")
    assert set(known["prosody"]["properties"]) == {field.name for field in fields(Prosody)} - {"contour"}
    assert tuple(known["cells"]["properties"]) == COLUMNS
    assert tuple(known["history_row"]["properties"]) == FIELDS


def test_every_field_is_described() -> None:
    """Every field has a description, and every number a unit or a range."""

    def described(name: str, part: Mapping[str, Any]) -> None:
        assert part.get("description") or "$ref" in part or "const" in part, name
        if {"number", "integer"} & {*([part["type"]] if isinstance(part.get("type"), str) else part.get("type", ()))}:
            assert "unit" in part or "minimum" in part or re.search(r"\b0, .*\b1;", part["description"]), name
        for key, value in part.get("properties", {}).items():
            described(f"{name}.{key}", value)

    for name, part in schema()["$defs"].items():
        described(name, part)


# ---- producers


@pytest.mark.parametrize("options", [{}, {"frames": True}, {"whole": True}], ids=["plain", "frames", "whole"])
@pytest.mark.parametrize("kinds", ["categorical", "dimensional", "both"])
def test_analyses(options: dict[str, bool], kinds: str, model: Any, dimensional: Path) -> None:
    if kinds == "dimensional" and "frames" in options:
        pytest.skip("frames need a model with labels")
    models = {"model": model} if kinds != "dimensional" else {}
    models |= {"dimensional": dimensional} if kinds != "categorical" else {}
    found = e2v_port.analyze(
        [CLIP, np.zeros(8000, np.float32)], sampling_rate=SAMPLING_RATE, runtime="cpu", **models, **options
    )
    for analysis in found:
        check(analysis.to_dict())
    one, several = json.loads(formats.to_json(found[:1])), json.loads(formats.to_json(found))
    assert several == [json.loads(line) for line in formats.to_jsonl(found).splitlines()]
    assert one == several[0]
    assert one["segments"][0]["emotion"]


def run(*arguments: str | Path) -> list[str]:
    """Runs the command line and returns the lines it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "e2v_port", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env={**os.environ, "E2V_LICENCE": "accepted"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_command_line(tmp_path: Path) -> None:
    (line,) = run("analyze", CLIP, "-r", "cpu", "--json")
    check(json.loads(line))
    run("analyze", CLIP, "-r", "cpu", "--format", "json", "--out", tmp_path / "a.json")
    written = json.loads((tmp_path / "a.json").read_text("utf-8"))
    check(written)
    assert written["segments"] == json.loads(line)["segments"]


def test_csv(model: Any, dimensional: Path) -> None:
    """Columns have the names of the JSON, and cells its values."""
    analysis = e2v_port.analyze(CLIP, model=model, dimensional=dimensional, runtime="cpu")
    rows = list(csv.DictReader(io.StringIO(formats.to_csv([analysis]))))
    place = ("file", "start", "end", "speaker", "text", "channel", "quality")
    nested = [*(f"e2v_{label}" for label in model.labels), *(f"distribution_{name}" for name in EMOTIONS)]
    assert [*rows[0]] == [*place, *COLUMNS, *nested]
    numbers = {"confidence", "shade_probability", *nested} | {f"avd_{name}" for name in DIMENSIONS}
    for row, segment in zip(rows, analysis.to_dict()["segments"], strict=True):
        cells = {name: float(cell) if name in numbers else cell for name, cell in row.items() if name not in place}
        check(cells, "cells")
        assert cells == {name: "" if value is None else value for name, value in columns(segment["emotion"]).items()}


@pytest.mark.parametrize("backend", ["bundled", "prosodic", "hybrid"])
def test_a_live_voice(backend: str) -> None:
    detector = e2v_port.EmotionDetector(backend=backend, runtime="cpu")
    waveform = load_audio(CLIP)
    check(detector.analyze(waveform, SAMPLING_RATE).to_dict())
    blocks = (waveform[i : i + 1600] for i in range(0, len(waveform), 1600))
    found = list(detector.stream(blocks))
    assert {segment.final for segment in found} == {False, True}
    for segment in found:
        check(segment.to_dict(), "segment")
        assert (segment.emotion is None) == (segment.confidence is None) == (backend == "prosodic")


def test_prosody_alone_can_be_drawn(tmp_path: Path) -> None:
    """Without a confidence, the picture shows measured dimensions, and octants as headlines."""
    waveform = load_audio(CLIP)
    analysis = e2v_port.EmotionDetector(backend="prosodic").analyze(waveform, SAMPLING_RATE)
    plots.plot(analysis, waveform, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text("utf-8")
    assert f"<!-- {analysis.segments[0].judgement.headline} -->" in drawn
    assert "<!-- arousal -->" in drawn
    assert "<!-- confidence -->" not in drawn


def test_lines_of_listen() -> None:
    lines = run("listen", CLIP, "--fast", "--jsonl", "-r", "cpu")
    assert lines
    for line in lines:
        check(json.loads(line), "live_line")


def test_the_service(service: Served) -> None:
    for granularity in "segment", "clip", "frame":
        answer = service.analyze(CLIP, granularity=granularity)
        check(answer, "answer")
        assert answer["segments"][0]["emotion"]["shade"]
    line = service.client.post("/v1/analyze", content=CLIP.read_bytes(), params={"format": "jsonl"}).text
    assert line.count("\n") == 1
    check(json.loads(line), "answer")
    assert json.loads(line)["segments"] == service.analyze(CLIP)["segments"]
    service.client.put("/v1/config/emotion", json={"enabled": False})
    try:
        check(service.analyze(CLIP), "answer")
    finally:
        service.client.put("/v1/config/emotion", json={"enabled": True})


def test_the_stream_of_the_service(service: Served) -> None:
    samples = (load_audio(CLIP) * 32767).astype("<i2")
    with connect(f"ws://127.0.0.1:{service.port}/v1/stream") as socket:
        socket.send(json.dumps({"type": "start", "sampling_rate": SAMPLING_RATE, "format": "s16le"}))
        for at in range(0, len(samples), 8000):
            socket.send(samples[at : at + 8000].tobytes())
        socket.send(json.dumps({"type": "end"}))
        events = [json.loads(message) for message in socket]
    carried = [event for event in events if event["type"] in {"final", "partial"}]
    assert carried
    for event in carried:
        check(event, "event")


def test_the_history(service: Served, tmp_path: Path) -> None:
    service.analyze(CLIP, speaker="Ann")
    rows = service.client.get("/v1/history").json()["rows"]
    assert rows
    for row in rows:
        check(row, "history_row")
    table = list(csv.reader(io.StringIO(service.client.get("/v1/history", params={"format": "csv"}).text)))
    assert tuple(table[0]) == HISTORY_COLUMNS
    assert table[1:] == [["" if cell is None else str(cell) for cell in cells(row)] for row in rows]
    with closing(History(tmp_path / "h.sqlite", raw_days=1)) as history:
        history.add(service.analyze(CLIP), datetime.now(UTC) - timedelta(days=3))
        history.expire(datetime.now(UTC))
        [day] = history.read()
    assert day["kind"] == "day"
    check(day, "history_row")


def test_the_classes_of_the_client(service: Served) -> None:
    """The client's classes hold everything the service sent: as JSON, they are a valid answer again."""
    answer = clients.Client(service.url, timeout=60).analyze(CLIP, granularity="frame")
    held = asdict(answer)
    assert held.pop("unavailable") is None
    assert (held.pop("turns"), held.pop("transcript")) == (None, None), "there are no words"
    assert [segment.pop("words") for segment in held["segments"]] == [None] * len(answer.segments)
    check(held, "answer")
    sent = service.analyze(CLIP, granularity="frame")
    assert {*held} == {*sent}
    assert json.loads(json.dumps(held["segments"])) == sent["segments"]
    newer = {**sent, "mood": 1, "segments": [{**sent["segments"][0], "mood": 1}]}
    newer["segments"][0]["emotion"] = {**newer["segments"][0]["emotion"], "mood": {"deep": 1}}
    assert clients._answer(newer).segments == answer.segments[:1]


def test_rows_of_a_corpus(dimensional: Path, tmp_path: Path) -> None:
    from e2v_port.corpus.run import run

    names = {
        "both": {"model": "bundled-tiny", "dimensional": str(dimensional)},
        "dimensions": {"dimensional": str(dimensional)},
    }
    for name, models in names.items():
        run(str(CLIP.parent), tmp_path / name, runtime="cpu", embeddings=name == "both", **models)
        table = parquet.read_table(tmp_path / name / "rows")
        known = schema()["$defs"]["corpus_row"]
        for row in table.to_pylist():
            check({key: row[key] for key in row if key != "embedding"}, "corpus_row")
            assert (row.get("primary") is not None) == (name == "both")
            assert row["octant"]
        for field in table.schema:
            described = (
                known["properties"].get(field.name)
                or known["patternProperties"][
                    next(pattern for pattern in known["patternProperties"] if re.match(pattern, field.name))
                ]
            )
            metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            assert metadata.items() >= {k: v for k, v in about(described).items() if k != "range"}.items(), field.name


# ---- seconds


def test_seconds_hold_a_sample_and_no_noise() -> None:
    assert str(seconds(715_200 / SAMPLING_RATE - 4e-13)) == "44.7"
    for samples in (1, 12_345, 16_000 * 3600 + 1):
        assert round(seconds(samples / SAMPLING_RATE) * SAMPLING_RATE) == samples
    noisy = JudgedSegment(0.1 + 0.2, 1.1 + 2.2, "normal", None, None, None)
    assert (noisy.to_dict()["start"], noisy.to_dict()["end"], noisy.duration) == (0.3, 3.3, 3.0)


# ---- renderings

NUMBER = r"~?(\d+(?:\.\d+)?)(%?)"
WORD = re.compile(rf"\b({'|'.join(sorted({*LABELS, *EMOTIONS}, key=len, reverse=True))})\b\??[ :=]+{NUMBER}")


def pairs(text: str) -> set[tuple[str, float]]:
    """Returns each name of a label or an emotion that a number follows, with that number."""
    return {(name, float(number) / (100 if percent else 1)) for name, number, percent in WORD.findall(text)}


@st.composite
def judged(draw: st.DrawFn) -> JudgedSegment:
    labels = draw(st.sampled_from([LABELS, LABELS[:4], ("grumpy", "sunny")]))
    masses = draw(st.lists(st.floats(0.01, 1), min_size=len(labels), max_size=len(labels)))
    scores = {label: mass / sum(masses) for label, mass in zip(labels, masses, strict=True)}
    label = max(scores, key=scores.__getitem__)
    unit = st.floats(-0.1, 1.1)
    dimensions = draw(st.none() | st.builds(Dimensions, unit, unit, unit))
    length = draw(st.sampled_from([1.5, 4.0]))
    prediction = Prediction(label, scores[label], scores, {}, length)
    if dimensions and draw(st.integers(0, 4)) == 0:
        prediction = None
    judgement = fuse(prediction, dimensions, length, label_set=taxonomy.label_set_of(labels))
    return JudgedSegment(0.0, length, "normal", None, None, judgement, prediction)


def truths(judgement: Judgement) -> list[tuple[str, float]]:
    """Returns the words of a judgement with the numbers that belong to them."""
    found = [] if judgement.confidence is None else [(str(judgement.primary), judgement.confidence)]
    if judgement.shade:
        found.append((judgement.shade.name, judgement.shade.probability))
    others = {name: score for name, score in (judgement.scores or {}).items() if name != judgement.primary}
    return [*found, *others.items()]


@given(judged())
def test_a_shade_is_one_that_the_label_can_mean(segment: JudgedSegment) -> None:
    judgement = segment.judgement
    assert judgement is not None
    check(judgement.to_dict(), "emotion")
    known = taxonomy.label_set_of(judgement.scores or ())
    named = judgement.primary is not None and known and judgement.primary not in taxonomy.NO_EMOTION
    assert (judgement.shade is not None) == bool(named)
    if judgement.shade:
        weights = taxonomy.meaning(str(judgement.primary)).weights
        measured = judgement.dimensions if judgement.dimensions_from == "model" else None
        shares = taxonomy.shades(str(judgement.primary), measured)
        assert judgement.shade.name in weights
        assert judgement.shade.probability == max(shares.values())
        assert sum(shares.values()) == pytest.approx(1)
    assert (judgement.confidence is None) == (judgement.primary is None)


@given(judged())
def test_renderings_name_the_headline_and_pair_no_number_with_another_word(segment: JudgedSegment) -> None:
    judgement = segment.judgement
    assert judgement is not None
    analysis = Analysis("a.wav", 5.0, (segment,), None, None, (), SETTINGS, {})
    live = VoiceSegment(
        **{field.name: getattr(segment, field.name) for field in fields(segment)},
        final=True,
        at=0.0,
        backend="bundled",
        fallback=None,
    )
    texts = {
        "context": analysis.to_context(),
        "report": analysis.to_context(long=True),
        "terminal": terminal.table(analysis, ascii_only=True).plain,
        "repr": repr(live),
        **{name: write([analysis]) for name, write in formats.FORMATS.items() if name not in {"json", "jsonl", "csv"}},
    }
    for name, text in texts.items():
        words = re.sub(r"[()]", " ", text)
        spoken = "no clear emotion" if judgement.headline in taxonomy.NO_EMOTION else judgement.headline
        if name != "rttm" and judgement.doubtful:
            spoken = judgement.rivals
        assert spoken in words or judgement.headline in words, (name, text)
        for word, number in pairs(text.replace(judgement.words, judgement.headline)):  # the column is the headline's
            assert any(
                word == truth and number == pytest.approx(value, abs=0.00501) for truth, value in truths(judgement)
            ), (name, text)
    found = describe.means([segment], SETTINGS.fusion)
    assert found["emotion"] == judgement.primary
    assert found["confidence"] == (None if judgement.confidence is None else pytest.approx(judgement.confidence))
    if judgement.shade is None:
        assert found["shade"] is None
    else:
        assert found["shade"]["name"] == judgement.shade.name
        assert found["shade"]["probability"] == pytest.approx(judgement.shade.probability)


@given(st.lists(judged(), min_size=1, max_size=4))
def test_a_summary_names_the_label_of_most_support(segments: list[JudgedSegment]) -> None:
    labels = {frozenset(segment.judgement.scores or ()) for segment in segments if segment.judgement}
    if len(labels) > 1:  # one detector has one model
        segments = segments[:1]
    judgements = [(segment.duration, segment.judgement) for segment in segments if segment.judgement]
    labeled = [(weight, judgement) for weight, judgement in judgements if judgement.primary is not None]
    found = describe.means(segments, SETTINGS.fusion)
    if not labeled:
        assert found["emotion"] is found["confidence"] is None
        return
    total = sum(weight for weight, _ in labeled)

    def support(label: str) -> float:
        values = [
            (weight, judgement.confidence if label == judgement.primary else (judgement.scores or {}).get(label, 0.0))
            for weight, judgement in labeled
        ]
        return sum(weight * (value or 0.0) for weight, value in values) / total

    best = max(support(str(judgement.primary)) for _, judgement in labeled)
    assert found["confidence"] == pytest.approx(best)
    assert support(found["emotion"]) == pytest.approx(best)
    assert found["emotion"] in {judgement.primary for _, judgement in labeled}

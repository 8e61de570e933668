"""Sounds besides speech: a SenseVoice of random weights whose head hears a hum as music and noise as laughter."""

import json
from itertools import pairwise
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from typer.testing import CliRunner

import e2v_port
from e2v_port.analysis.events import Event, EventDetector, EventSettings, doubted, remarks
from e2v_port.analysis.output.formats import to_textgrid
from e2v_port.analysis.output.terminal import table
from e2v_port.analysis.schema import schema
from e2v_port.architectures.config import ModelConfig
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.cli import app
from e2v_port.converters import sensevoice
from e2v_port.errors import NoLabels
from e2v_port.models.model import Model
from e2v_port.speech.segment import GivenSegment, Segment

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
NAMES = tuple(sensevoice.EVENTS)


def hum(seconds: float) -> Waveform:
    times = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    return (0.2 * sum(np.sin(2 * np.pi * tone * times) for tone in (220, 277, 330))).astype(np.float32)


def noise(seconds: float) -> Waveform:
    return np.random.default_rng(3).normal(0, 0.1, round(seconds * SAMPLING_RATE)).astype(np.float32)


def speech(seconds: float) -> Waveform:
    return np.resize(load_audio(CLIP), round(seconds * SAMPLING_RATE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of speech, music and laughter are set so that each fits the windows of its sound: logits of 0 and 20."""
    place = tmp_path_factory.mktemp("events")
    plain = toys.convert(toys.make_sensevoice(place / "source", seed=2), place / "plain")
    config, stored = ModelConfig.read(plain), load_file(plain / "model.safetensors")
    model = e2v_port.load(plain, runtime="cpu")
    sounds = {"speech": speech(60), "music": hum(60), "laughter": noise(60)}
    examples = [
        (name, part)
        for name, sound in sounds.items()
        for start in range(0, 50, 2)
        for part in [sound[start * SAMPLING_RATE :][: 3 * SAMPLING_RATE]]
    ]
    examples += [("music", hum(3) + part) for name, part in examples if name == "speech"]
    inputs = np.stack(model.embed([part for _, part in examples], SAMPLING_RATE)).astype(np.float64)
    wanted = np.array([[20.0 * (name == row) for row in NAMES] for name, _ in examples])
    query = config.architecture.embed_dim // 4
    inputs[:, : 2 * query] = inputs[:, 3 * query :] = 0  # the head of events reads the state of the third query alone
    center = inputs.mean(0)
    found = np.linalg.lstsq(
        (inputs - center).T @ (inputs - center) + 1e-3 * np.eye(len(center)),
        (inputs - center).T @ (wanted - wanted.mean(0)),
        rcond=None,
    )[0]
    stored["head.others.events.weight"] = found.T.astype(np.float32)
    stored["head.others.events.bias"] = (wanted.mean(0) - center @ found).astype(np.float32)
    return toys.store(place / "model", config.architecture, stored, others=config.others, labels=config.labels)


@pytest.fixture(scope="module")
def detector(folder: Path) -> EventDetector:
    return EventDetector(e2v_port.load(folder, runtime="cpu"))


def test_a_sound_is_found_where_it_is(detector: EventDetector) -> None:
    clip = np.concatenate([speech(6), hum(6), speech(6), noise(6), speech(4.6)])
    found = detector.find(clip, channel=2)
    assert [(event.name, event.channel) for event in found] == [("music", 2), ("laughter", 2)]
    step = detector.settings.step
    for event, start in zip(found, (6, 18), strict=True):
        assert abs(event.start - start) <= step
        assert abs(event.end - start - 6) <= step
        assert 0.5 <= event.probability <= 1


def test_neither_silence_nor_a_short_clip_is_an_event(detector: EventDetector) -> None:
    for samples in (0, 1, 399, 5 * SAMPLING_RATE):
        assert detector.find(np.zeros(samples, np.float32)) == []
    assert detector.find(hum(0.02)) == []
    [event] = detector.find(hum(1))
    assert (event.start, event.end, event.name) == (0.0, 1.0, "music")
    [long] = detector.find(hum(100.1))
    assert (long.start, long.end) == (0.0, 100.1)


def test_the_time_of_a_stranger_is_not_heard(detector: EventDetector) -> None:
    clip = np.concatenate([hum(6), speech(6), hum(6)])
    found = detector.find(clip, barred=[(0, 6.5)])
    assert [event.start >= 10 for event in found] == [True]
    [rest] = detector.find(hum(9), barred=[(4, 5)])[:1]
    assert rest.end <= 4


@settings(max_examples=10, deadline=None)
@given(st.lists(st.sampled_from("shn"), min_size=1, max_size=8), st.floats(0.1, 3), st.floats(1, 4))
def test_events_of_a_name_are_apart_and_inside_the_clip(
    detector: EventDetector, parts: list[str], step: float, window: float
) -> None:
    makers = {"s": speech, "h": hum, "n": noise}
    clip = np.concatenate([makers[part](2.3) for part in parts])
    own = EventDetector(detector.model, EventSettings(window=window, step=min(step, window)))
    found = own.find(clip)
    for name in {event.name for event in found}:
        same = [event for event in found if event.name == name]
        assert all(one.end < other.start for one, other in pairwise(same))
    assert all(0 <= event.start < event.end <= len(clip) / SAMPLING_RATE for event in found)
    assert {event.name for event in found} <= {*NAMES} - {"speech", "speech_noise", "gbg", "unknown"}


def test_music_over_speech_makes_its_judgement_less_certain(detector: EventDetector) -> None:
    clip = np.concatenate([speech(6), speech(6) + hum(6), speech(3)])
    parts = [GivenSegment(0, 4), GivenSegment(7, 11.9), GivenSegment(11.95, 14.9)]
    found = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, segments=parts, events=detector)
    plain = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, segments=parts)
    assert [event.name for event in found.events or ()] == ["music"]
    assert plain.events is None
    notes = [segment.judgement.notes for segment in found.segments if segment.judgement]
    assert ["music" in note for note in notes] == [False, True, False]
    assert found.segments[1].quality == "low_confidence"
    assert found.segments[0].quality == plain.segments[0].quality
    assert [each.prediction for each in found.segments] == [each.prediction for each in plain.segments]
    [remark] = [note for note in found.notes if note.kind == "music"]
    assert remark.text == "music plays during 1 segment of speech, from 7.00 s: a model hears both"
    assert found.to_context().endswith("; music plays over speech]")
    text = str(table(found))
    assert "music" in text.split("\n")[3], "in the row of the segment"
    [music] = found.events or ()
    assert f"{music.start:.2f}  {music.end:.2f}  music  {music.probability:.3f}" in text
    document = found.to_dict()
    jsonschema.validate(document, schema())
    assert document["settings"]["events"]["window"] == 3.0
    assert [model["kind"] for model in document["models"]] == ["categorical", "events"]
    assert "events" in found.timings
    jsonschema.validate(plain.to_dict(), schema())
    assert not {"events"} & {*plain.to_dict(), *plain.to_dict()["settings"]}
    assert 'name = "event music"' in to_textgrid([found])


def test_channels_have_events_of_their_own(detector: EventDetector) -> None:
    clip = np.stack([speech(6), hum(6)], 1)
    found = e2v_port.analyze(clip, sampling_rate=SAMPLING_RATE, channel="each", events=detector)
    assert [(event.name, event.channel) for event in found.events or ()] == [("music", 2)]
    assert {segment.speaker for segment in found.segments} == {"left"}
    assert all("music" not in (segment.judgement.notes if segment.judgement else ()) for segment in found.segments)
    assert 'name = "event music (channel 2)"' in to_textgrid([found])


def test_how_much_music_covers_a_segment() -> None:
    segments = [Segment(0, 10, "normal"), Segment(10, 20, "normal"), Segment(20, 21, "too_short")]
    events = [Event(8, 13, "music", 0.9), Event(13, 20, "cough", 0.9), Event(20, 21, "laughter", 0.9)]
    found = doubted(segments, events, EventSettings(covered=0.3))
    assert [segment.doubts for segment in found] == [(), ("music",), ()]
    assert [segment.quality for segment in found] == ["normal", "low_confidence", "too_short"]
    assert [note.kind for note in remarks(found)] == ["music"]
    assert doubted(segments, [Event(8, 13, "music", 0.9, 2)], EventSettings()) == segments, "of another channel"
    for wrong in ({"window": 0.1}, {"step": 4}, {"threshold": 1}, {"covered": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            EventSettings(**wrong)


def test_a_model_for_both_runs_once_loaded_and_others_are_refused(folder: Path, detector: EventDetector) -> None:
    found = e2v_port.analyze(CLIP, model=str(folder), events=str(folder), runtime="cpu")
    assert found.events == ()
    assert [model.name for model in found.models] == ["toy", "toy"]
    with pytest.raises(NoLabels, match="bundled-tiny has no output 'events': it has no further outputs"):
        e2v_port.analyze(CLIP, events="bundled-tiny")
    with pytest.raises(TypeError, match="events"):
        EventDetector(3)  # type: ignore[arg-type]
    assert isinstance(detector.model, Model)


def test_the_command_shows_events(folder: Path, tmp_path: Path) -> None:
    import soundfile

    file = tmp_path / "call.wav"
    soundfile.write(file, np.concatenate([speech(6), hum(6)]), SAMPLING_RATE)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["analyze", str(file), "--events", str(folder), "--runtime", "cpu", *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    [event] = json.loads(run("--json"))["events"]
    assert (event["name"], event["end"], event["channel"]) == ("music", 12.0, None)
    row = f"{event['start']:.2f}  12.00  music  {event['probability']:.3f}"
    assert row in run()
    assert f"event: music {event['probability']:.3f}, {event['start']:.2f} to 12.00 s" in run("--whole")

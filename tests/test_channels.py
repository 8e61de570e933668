"""Channels of a clip: chosen, judged apart, and noticed where their mix does not sound as they do."""

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from own_audio import SENTENCES
from served import Served
from websockets.sync.client import connect

import e2v_port
from e2v_port.audio import SAMPLING_RATE, AudioStream, LiveAudio, load_audio, load_sound
from e2v_port.client import Client
from e2v_port.errors import AudioError, RequestRefused, SegmentError
from e2v_port.speech.segment import GivenSegment

RATE = SAMPLING_RATE
BRIGHT, CALM = (np.tile(load_audio(file), 2)[: 3 * RATE] for file in SENTENCES[:2])
NOISE = np.random.default_rng(0).normal(size=3 * RATE).astype(np.float32)


def stereo(*channels: np.ndarray) -> np.ndarray:
    return np.stack(channels, axis=1)


def encoded(samples: np.ndarray, rate: int = RATE, **kind: str) -> io.BytesIO:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, **{"format": "WAV", "subtype": "FLOAT", **kind})
    file.seek(0)
    return file


def kinds(samples: np.ndarray, rate: int = RATE, channel: int | str = "mix") -> list[str]:
    return [note.kind for note in load_sound(samples, rate, channel).notes]


# ---- choosing


@pytest.mark.parametrize(("channel", "number"), [("left", 0), ("right", 1), (1, 0), (2, 1), ("2", 1)])
def test_one_channel_is_that_channel(channel: int | str, number: int) -> None:
    both = stereo(BRIGHT, CALM)
    for clip in both, encoded(both):
        np.testing.assert_array_equal(load_audio(clip, RATE, channel), both[:, number])


def test_the_mix_of_ordinary_channels_is_their_mean_bit_for_bit() -> None:
    for clip in stereo(BRIGHT, CALM), stereo(BRIGHT, 0.5 * BRIGHT + 0.01 * NOISE), stereo(BRIGHT, CALM, NOISE / 9):
        sound = load_sound(clip, RATE)
        np.testing.assert_array_equal(sound.waveform, np.einsum("fc->f", clip) / clip.shape[1])
        assert (sound.notes, sound.channels) == ((), clip.shape[1])


@pytest.mark.parametrize("channel", [0, -1, True, 1.5, "", "each", "both", "-1", "\u0662", None, "9999"])
def test_a_channel_that_is_none_is_refused_before_anything_is_read(channel: object) -> None:
    with pytest.raises(AudioError, match=r"channel .*: pass mix, left, right or a number from 1"):
        load_audio("missing.wav", channel=channel)  # type: ignore[arg-type]


def test_a_channel_that_the_clip_lacks_is_one_clear_error() -> None:
    with pytest.raises(AudioError, match="no channel 2 in a clip of 1 channel: pass one that it has, or mix"):
        load_audio(BRIGHT, RATE, "right")
    np.testing.assert_array_equal(load_audio(BRIGHT, RATE, "left"), BRIGHT)


# ---- channels that cancel


@pytest.mark.parametrize("rate", [8_000, 44_100])
@pytest.mark.parametrize("size", [0.3, 4.0], ids=["a third of a span", "over a span"])
def test_inverted_channels_are_noticed_at_any_rate(rate: int, size: float) -> None:
    import soxr

    voice = soxr.resample(BRIGHT, RATE, rate)
    assert kinds(stereo(voice, -voice), rate) == ["channels_cancel"]
    live, block = LiveAudio(rate), round(size * rate / 4)
    heard = [live.push(stereo(voice, -voice)[at : at + block]) for at in range(0, len(voice), block)]
    assert np.concatenate(heard).std() > 0.9 * BRIGHT.std()
    assert [note.kind for note in live.notes] == ["channels_cancel"]


def test_where_channels_cancel_the_louder_is_used() -> None:
    np.testing.assert_array_equal(load_audio(stereo(0.9 * BRIGHT, -BRIGHT), RATE), -BRIGHT)
    np.testing.assert_array_equal(load_audio(stereo(BRIGHT, -0.9 * BRIGHT), RATE), BRIGHT)


def test_channels_that_cancel_for_a_part_lose_only_a_moment_there() -> None:
    """The rest is the mix, bit for bit, so that a voice on the other channel is not lost."""
    early, late = stereo(BRIGHT, CALM), stereo(BRIGHT, -BRIGHT)
    sound = load_sound(np.concatenate([early, late, early]), RATE)
    mean = np.einsum("fc->f", early) / 2
    np.testing.assert_array_equal(sound.waveform[: 3 * RATE], mean)
    np.testing.assert_array_equal(sound.waveform[7 * RATE :], mean[RATE:])
    same = np.abs(sound.waveform[3 * RATE : 6 * RATE]) == np.abs(BRIGHT)
    assert same.mean() > 0.85
    assert same[RATE // 2 :].all()
    [note] = sound.notes
    assert note.kind == "channels_cancel"
    assert " is used where they do, for " in note.text


def test_an_inverted_channel_that_is_late_still_cancels() -> None:
    for late in 1, 2:  # samples at 16 kHz: 0.06 and 0.13 ms
        delayed = np.concatenate([np.zeros(late, np.float32), BRIGHT[:-late]])
        sound = load_sound(stereo(BRIGHT, -delayed), RATE)
        assert [note.kind for note in sound.notes] == ["channels_cancel"]
        assert (sound.waveform == BRIGHT).mean() > 0.7
        assert kinds(stereo(BRIGHT, delayed)) == []


def test_more_channels_cancel_and_the_loudest_is_used() -> None:
    assert kinds(stereo(BRIGHT, -0.5 * BRIGHT, -0.5 * BRIGHT)) == ["channels_cancel"]
    np.testing.assert_array_equal(load_audio(stereo(BRIGHT / 2, -BRIGHT, BRIGHT / 2), RATE), -BRIGHT)


def test_a_stream_hears_what_a_whole_clip_does() -> None:
    for clip in stereo(BRIGHT, CALM), stereo(BRIGHT, -BRIGHT):
        with AudioStream(clip, RATE) as stream:
            np.testing.assert_array_equal(np.concatenate(list(stream)), load_audio(clip, RATE))
            assert stream.notes == load_sound(clip, RATE).notes


# ---- silence


@pytest.mark.parametrize(
    "quiet",
    [0 * BRIGHT, 0 * BRIGHT + 0.1, np.sign(NOISE) / 2**15, BRIGHT.std() / 200 * NOISE],
    ids=["zeros", "an offset", "dither", "noise 46 dB below"],
)
def test_a_silent_channel_does_not_make_the_other_quieter(quiet: np.ndarray) -> None:
    sound = load_sound(stereo(quiet - quiet.mean(), BRIGHT), RATE)
    assert [note.kind for note in sound.notes] == ["silent_channel"]
    assert sound.notes[0].text == "channel 1 is silent: only channel 2 is used"
    np.testing.assert_allclose(sound.waveform, BRIGHT, atol=4 * np.abs(quiet - quiet.mean()).max() + 1e-7)
    assert kinds(stereo(quiet, BRIGHT)) == ["silent_channel"]


def test_a_word_in_an_otherwise_silent_channel_is_heard() -> None:
    word = np.zeros_like(BRIGHT)
    word[RATE : RATE + RATE // 2] = CALM[RATE : RATE + RATE // 2]
    assert kinds(np.concatenate([stereo(BRIGHT, 0 * BRIGHT)] * 20 + [stereo(BRIGHT, word)])) == []


SILENCES = {
    "zeros": np.zeros(2 * RATE, np.float32),
    "an offset": np.full(2 * RATE, 0.1, np.float32),
    "dither": (np.sign(NOISE[: 2 * RATE]) / 2**15).astype(np.float32),
    "two channels": np.zeros((2 * RATE, 2), np.float32),
    "integers": np.full(2 * RATE, 128, np.uint8),
}


@pytest.fixture(scope="module")
def model() -> e2v_port.Model:
    return e2v_port.load("bundled-tiny", runtime="cpu")


@pytest.mark.parametrize("options", [{}, {"whole": True}, {"segments": [GivenSegment(0.2, 1.9)]}, {"channel": "each"}])
@pytest.mark.parametrize("silence", SILENCES)
def test_silence_is_never_judged(silence: str, options: dict[str, object], model: e2v_port.Model) -> None:
    if options.get("segments") and options.get("channel"):
        return
    analysis = e2v_port.analyze(SILENCES[silence], model=model, sampling_rate=RATE, **options)
    assert "silence" in {note.kind for note in analysis.notes}
    assert analysis.reason
    assert {segment.quality for segment in analysis.segments} <= {"no_speech"}
    assert not any(segment.judgement for segment in analysis.segments)


@pytest.mark.parametrize("silence", SILENCES)
def test_predict_refuses_silence_and_embed_says_so(
    silence: str, model: e2v_port.Model, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AudioError, match=r"array: silence: no sound above the last bit.*: record it again"):
        model.predict(SILENCES[silence], RATE)
    with caplog.at_level(logging.WARNING, "e2v_port"):
        model.embed(SILENCES[silence], RATE)
    assert any("silence" in record.getMessage() for record in caplog.records)


def test_a_long_silence_is_refused_as_well(model: e2v_port.Model) -> None:
    with pytest.raises(AudioError, match="silence"):
        model.predict(np.zeros(70 * RATE, np.float32), RATE)


def test_a_silent_channel_of_each_is_said_and_not_judged(model: e2v_port.Model) -> None:
    analysis = e2v_port.analyze(stereo(BRIGHT, 0 * BRIGHT), model=model, sampling_rate=RATE, channel="each", whole=True)
    assert [(s.speaker, s.quality, s.judgement is None) for s in analysis.segments] == [
        ("left", "normal", False),
        ("right", "no_speech", True),
    ]
    assert [note.text for note in analysis.notes] == ["silence: no sound above the last bit in channel 2"]


# ---- judged apart


def test_each_channel_is_judged_as_it_is_alone(model: e2v_port.Model) -> None:
    analysis = e2v_port.analyze(stereo(BRIGHT, CALM), model=model, sampling_rate=RATE, channel="each")
    assert [(segment.speaker, segment.channel) for segment in analysis.segments] == [("left", 1), ("right", 2)]
    for segment, alone in zip(analysis.segments, (BRIGHT, CALM), strict=True):
        [expected] = e2v_port.analyze(alone, model=model, sampling_rate=RATE).segments
        assert (segment.start, segment.end, segment.emotion) == (expected.start, expected.end, expected.emotion)
        assert segment.confidence == pytest.approx(expected.confidence, abs=1e-4)
        assert segment.to_dict()["channel"] == segment.channel
    three = e2v_port.analyze(stereo(BRIGHT, CALM, BRIGHT), model=model, sampling_rate=RATE, channel="each")
    assert {segment.speaker for segment in three.segments} == {"channel 1", "channel 2", "channel 3"}


def test_segments_are_judged_on_the_channel_they_name(model: e2v_port.Model, tmp_path: Path) -> None:
    rttm = "".join(f"SPEAKER x {n} 0.2 2.5 <NA> <NA> {name} <NA> <NA>\n" for n, name in ((1, "Ann"), (2, "Bob")))
    (tmp_path / "x.rttm").write_text(rttm)
    options = {"model": model, "sampling_rate": RATE}
    analysis = e2v_port.analyze(stereo(BRIGHT, CALM), segments=tmp_path / "x.rttm", **options)
    assert [(segment.speaker, segment.channel) for segment in analysis.segments] == [("Ann", 1), ("Bob", 2)]
    for segment, alone in zip(analysis.segments, (BRIGHT, CALM), strict=True):
        [expected] = e2v_port.analyze(alone, segments=[GivenSegment(0.2, 2.7)], **options).segments
        assert segment.emotion == expected.emotion
        assert segment.confidence == pytest.approx(expected.confidence, abs=1e-4)
    mixed = [GivenSegment(0.2, 2.7), GivenSegment(0.2, 2.7, "Bob", channel=2)]
    found = e2v_port.analyze(stereo(BRIGHT, CALM), segments=mixed, channel="left", **options).segments
    assert {segment.channel for segment in found} == {1, 2}


def test_a_transcript_of_channels_that_the_clip_lacks_is_one_clear_error(model: e2v_port.Model) -> None:
    with pytest.raises(SegmentError, match="segments of channel 2, but array has 1: give the segments of this clip"):
        e2v_port.analyze(BRIGHT, model=model, sampling_rate=RATE, segments=[GivenSegment(0, 2, channel=2)])
    with pytest.raises(SegmentError, match="channel each, but segments without a channel"):
        e2v_port.analyze(BRIGHT, model=model, sampling_rate=RATE, segments=[GivenSegment(0, 2)], channel="each")


def test_speech_on_one_channel_is_not_that_of_the_other(model: e2v_port.Model) -> None:
    given = [GivenSegment(0.2, 2.5, "Ann", channel=1), GivenSegment(0.2, 2.5, "Ann", channel=2)]
    found = e2v_port.analyze(stereo(BRIGHT, NOISE / 1e3), model=model, sampling_rate=RATE, segments=given).segments
    assert [segment.quality for segment in found] == ["normal", "no_speech"]


def test_a_detector_listens_to_one_channel(model: e2v_port.Model) -> None:
    detector = e2v_port.EmotionDetector(model, runtime="cpu")
    both = stereo(0 * BRIGHT, BRIGHT)
    [expected] = detector.analyze(BRIGHT, RATE).segments
    [found] = detector.analyze(both, RATE, channel="right").segments
    assert (found.channel, found.judgement) == (2, expected.judgement)
    assert detector.analyze(both, RATE, channel="left").notes[0].kind == "silence"
    listener = detector.open(RATE)
    listener.push(stereo(BRIGHT, -BRIGHT))
    assert [note.kind for note in listener.notes] == ["channels_cancel"]
    heard = [segment for segment in detector.stream([both], RATE, channel="right") if segment.final]
    assert [segment.judgement for segment in heard] == [expected.judgement]


def test_a_call_is_judged_by_channels(field: Path, model: e2v_port.Model) -> None:
    by_channel = e2v_port.analyze(field / "call.wav", model=model, channel="each")
    by_rttm = e2v_port.analyze(field / "call.wav", model=model, segments=field / "call.rttm")
    alone = [e2v_port.analyze(field / "call.wav", model=model, channel=side).segments for side in ("left", "right")]
    assert [segment.judgement for segment in by_channel.segments] == [each.judgement for [each] in alone]
    assert [segment.channel for segment in by_rttm.segments] == [1, 2]
    for segment in by_rttm.segments:
        heard = load_audio(field / "call.wav", channel=segment.channel)[: round(segment.end * RATE)]
        assert segment.judgement.scores == pytest.approx(model.predict(heard, RATE).scores, abs=2e-5)


# ---- the service and its client


@pytest.fixture(scope="module")
def service() -> Iterator[Served]:
    if sys.platform != "linux":
        pytest.skip("starts the service as its tests do, which needs /proc")
    with Served("--model", "bundled-tiny") as served:
        yield served


def test_the_service_judges_channels_apart(service: Served) -> None:
    client = Client(service.url, timeout=300, strict=True)
    call = encoded(stereo(BRIGHT, CALM)).getvalue()
    answer = client.analyze(call, channel="each")
    assert [(segment.speaker, segment.channel) for segment in answer.segments] == [("left", 1), ("right", 2)]
    [right] = client.analyze(call, channel=2).segments
    assert right.channel == 2
    assert right.emotion is not None
    assert right.emotion.e2v_scores == pytest.approx(answer.segments[1].emotion.e2v_scores, abs=1e-4)
    given = [GivenSegment(0.2, 2.7, "Ann", channel=1), GivenSegment(0.2, 2.7, "Bob", channel=2)]
    assert [segment.channel for segment in client.analyze(call, given).segments] == [1, 2]
    alone = client.embed(encoded(BRIGHT).getvalue()).embedding
    assert client.embed(call, channel=1).embedding == pytest.approx(alone, abs=1e-4)


def test_the_service_says_what_it_noticed(service: Served) -> None:
    client = Client(service.url, timeout=300, strict=True)
    inverted = encoded(stereo(BRIGHT, -BRIGHT)).getvalue()
    assert [note.kind for note in client.analyze(inverted).notes] == ["channels_cancel"]
    assert [note.kind for note in client.embed(inverted).notes] == ["channels_cancel"]
    silent = client.analyze(encoded(SILENCES["zeros"]).getvalue(), granularity="clip")
    assert ([note.kind for note in silent.notes], silent.segments[0].quality) == (["silence"], "no_speech")


def test_the_service_refuses_channels_that_are_none(service: Served) -> None:
    client = Client(service.url, timeout=300, strict=True)
    clip = encoded(BRIGHT).getvalue()
    with pytest.raises(AudioError, match="no channel 2 in a clip of 1 channel"):
        client.analyze(clip, channel="right")
    with pytest.raises(SegmentError, match="segments of channel 2, but clip has 1"):
        client.analyze(clip, [GivenSegment(0, 2, channel=2)])
    for channel in "both", 0, "each each":
        with pytest.raises(RequestRefused):
            client.analyze(clip, channel=channel)
    with pytest.raises(RequestRefused):
        client.embed(clip, channel="each")
    with pytest.raises(RequestRefused, match="each channel is a speaker"):
        client.analyze(clip, speaker="Ann", channel="each")


def test_a_stream_of_the_service_is_one_channel_and_says_once_what_it_noticed(service: Served) -> None:
    def talk(samples: np.ndarray, **start: object) -> list[dict[str, Any]]:
        with connect(f"ws://127.0.0.1:{service.port}/v1/stream") as socket:
            start = {"type": "start", "sampling_rate": RATE, "format": "f32le", "channels": 2, **start}
            socket.send(json.dumps(start))
            for at in range(0, len(samples), RATE // 10):
                socket.send(samples[at : at + RATE // 10].astype("<f4").tobytes())
            socket.send(json.dumps({"type": "end"}))
            return [json.loads(message) for message in socket]

    events = talk(stereo(BRIGHT, -BRIGHT))
    assert [event["kind"] for event in events if event["type"] == "note"] == ["channels_cancel"]
    [inverted] = [event["segment"] for event in events if event["type"] == "final"]
    right = talk(stereo(0 * BRIGHT, BRIGHT), channel="right")
    [alone] = [event["segment"] for event in right if event["type"] == "final"]
    assert inverted["emotion"]["primary"] == alone["emotion"]["primary"]
    for channel in 3, "each", None:
        with connect(f"ws://127.0.0.1:{service.port}/v1/stream") as socket:
            socket.send(json.dumps({"type": "start", "sampling_rate": RATE, "channels": 2, "channel": channel}))
            assert json.loads(socket.recv())["error"]["kind"] == "stream"


# ---- the command line and corpora


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "e2v_port", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        timeout=300,
        env={**os.environ, "E2V_LICENCE": "accepted", "COLUMNS": "200"},
    )


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("call") / "call.wav"
    soundfile.write(path, stereo(BRIGHT, CALM), RATE, subtype="FLOAT")
    return path


def test_the_command_line_judges_channels(call: Path, tmp_path: Path) -> None:
    done = run("analyze", call, "--channel", "each", "--json", "--plot", tmp_path / "call.png")
    found = json.loads(done.stdout)
    assert [(s["speaker"], s["channel"]) for s in found["segments"]] == [("left", 1), ("right", 2)], done.stderr
    assert (tmp_path / "call.png").exists()
    whole = run("analyze", call, "--channel", "each", "--whole").stdout.splitlines()
    assert [line.partition(":")[0] for line in whole] == [f"{call} (left)", f"{call} (right)"]
    heard = run("listen", call, "--fast", "--jsonl", "--channel", "right").stdout.splitlines()
    assert json.loads(heard[-1])["emotion"]["primary"] == found["segments"][1]["emotion"]["primary"]
    run("embed", call, "-m", "bundled-tiny", "-o", tmp_path / "right.npz", "--channel", "2")
    run("embed", call, "-m", "bundled-tiny", "-o", tmp_path / "mix.npz")
    with np.load(tmp_path / "right.npz") as right, np.load(tmp_path / "mix.npz") as mix:
        assert np.abs(right[str(call)] - mix[str(call)]).max() > 0.01


def test_the_command_line_says_what_it_noticed(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "inverted.wav", stereo(BRIGHT, -BRIGHT), RATE)
    soundfile.write(tmp_path / "silent.wav", SILENCES["zeros"], RATE)
    shown = run("analyze", tmp_path / "inverted.wav").stdout
    assert "note: the channels cancel each other when mixed: channel 1 is used\n" in shown
    shown = run("analyze", tmp_path / "silent.wav", "--whole").stdout
    assert shown == f"{tmp_path / 'silent.wav'}: no speech\nnote: silence: no sound above the last bit\n"
    for channel in "both", "0":
        refused = run("analyze", tmp_path / "silent.wav", "--channel", channel)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert "pass mix, left, right or a number from 1" in refused.stderr


def test_a_corpus_has_rows_by_channel(call: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from e2v_port.corpus.run import run

    soundfile.write(call.parent / "inverted.wav", stereo(BRIGHT, -BRIGHT), RATE)
    soundfile.write(call.parent / "mono.wav", BRIGHT, RATE)
    names = ["file", "channel", "speaker", "notes", "primary"]

    def rows(channel: str) -> dict[str, list[dict[str, Any]]]:
        run(str(call.parent), tmp_path / channel, runtime="cpu", channel=channel, max_errors=1)
        found: dict[str, list[dict[str, Any]]] = {}
        for row in parquet.read_table(tmp_path / channel / "rows", columns=names).to_pylist():
            found.setdefault(row.pop("file"), []).append(row)
        return found

    each, mix, right = rows("each"), rows("mix"), rows("2")
    assert [(row["channel"], row["speaker"]) for row in each["call.wav"]] == [(1, "left"), (2, "right")]
    assert [row["channel"] for row in each["mono.wav"]] == [1]
    assert [(row["channel"], row["notes"]) for row in mix["inverted.wav"]] == [(None, "channels_cancel")]
    assert mix["inverted.wav"][0]["primary"] == mix["mono.wav"][0]["primary"]
    assert [(row["channel"], row["primary"]) for row in right["call.wav"]] == [(2, each["call.wav"][1]["primary"])]
    assert right["mono.wav"][0]["primary"] is None  # an error in its row: it has no such channel

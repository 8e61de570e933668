"""Quiet speech is found, in clips and in streams, and quiet noise does not become speech."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import own_audio
import pytest

from e2v_port.analysis.analyze import analyze
from e2v_port.analysis.judged import placed
from e2v_port.audio import SAMPLING_RATE, Note, load_audio
from e2v_port.live.detector import EmotionDetector
from e2v_port.service.live import Session
from e2v_port.speech.detect import detect
from e2v_port.speech.given import from_given
from e2v_port.speech.level import EXPECTED, Gain, levels
from e2v_port.speech.segment import GivenSegment, Segment, SegmentSettings
from e2v_port.speech.silero import FRAME_SAMPLES, speech_probabilities
from e2v_port.speech.stream import SpeechStream

LEFT = SegmentSettings(max_gain=0)


@pytest.fixture(scope="module")
def voices(speech_folder: Path) -> list[np.ndarray]:
    names = ("jfk", "ami_EN2002a_30s", "librispeech_198-209-0000", "emodb_03a02Wb")
    return [load_audio(speech_folder / f"{name}.flac") for name in names]


def scaled(waveform: np.ndarray, decibels: float) -> np.ndarray:
    return (waveform * 10 ** (decibels / 20)).astype(np.float32)


def covered(segments: list[Segment], samples: int) -> np.ndarray:
    mask = np.zeros(samples, bool)
    for segment in segments:
        mask[segment.samples] = True
    return mask


def frames_of(waveform: np.ndarray) -> np.ndarray:
    return waveform[: len(waveform) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)


def agreement(one: list[Segment], other: list[Segment], samples: int) -> float:
    a, b = covered(one, samples), covered(other, samples)
    return float((a & b).sum() / (a | b).sum())


def sixteen_bits(waveform: np.ndarray) -> np.ndarray:
    return (np.round(waveform * 2**15) / 2**15).astype(np.float32)


@pytest.mark.parametrize("decibels", [-20, -30, -40])
def test_quiet_speech_is_found(voices: list[np.ndarray], decibels: float) -> None:
    for voice in voices:
        quiet = scaled(voice, decibels)
        assert agreement(detect(quiet), detect(voice), len(voice)) > 0.9
        assert agreement(detect(sixteen_bits(quiet)), detect(voice), len(voice)) > 0.85


def test_without_a_gain_it_is_not(voices: list[np.ndarray]) -> None:
    """So the tests above show the gain, not silero's ears."""
    found = [agreement(detect(scaled(voice, -50), LEFT), detect(voice), len(voice)) for voice in voices]
    assert min(found) < 0.3


def test_a_stream_finds_the_same_quiet_speech(voices: list[np.ndarray]) -> None:
    for voice in voices:
        for decibels in -12, -30, -45:
            quiet = scaled(voice, decibels)
            for size in 333, 4096, 50_000:
                stream, found = SpeechStream(), []
                for at in range(0, len(quiet), size):
                    found += stream.push(quiet[at : at + size])
                assert found + stream.finish() == detect(quiet)


@pytest.mark.parametrize("encoding", ["s16le", "f32le"])
def test_a_stream_of_the_service_hears_it(encoding: str, voices: list[np.ndarray]) -> None:
    quiet = scaled(voices[0], -30)
    data = (quiet * 2**15).round().astype("<i2") if encoding == "s16le" else quiet
    session = Session(lambda segment, *_: placed(segment), sampling_rate=SAMPLING_RATE, format=encoding)
    messages = session.push(data.tobytes()) + session.finish()
    found = [message["segment"] for message in messages if message["type"] == "final"]
    assert sum(segment["end"] - segment["start"] for segment in found) > 0.95 * sum(
        segment.duration for segment in detect(voices[0])
    )


def test_a_voice_that_moves_away_is_still_heard(voices: list[np.ndarray]) -> None:
    far = np.concatenate([scaled(voices[0], -6), np.zeros(8 * SAMPLING_RATE, np.float32), scaled(voices[0], -40)])
    later = [segment for segment in detect(far) if segment.start > len(voices[0]) / SAMPLING_RATE + 7]
    assert sum(segment.duration for segment in later) > 8


def test_clicks_do_not_hide_a_quiet_voice(voices: list[np.ndarray]) -> None:
    for voice in voices:
        clicking = scaled(voice, -40)
        for at in range(2000, len(voice) - 320, 4 * SAMPLING_RATE):
            clicking[at : at + 320] += np.random.default_rng(at).normal(0, 0.25, 320).astype(np.float32)
        assert agreement(detect(clicking), detect(voice), len(voice)) > 0.8


def test_a_usual_level_changes_nothing(speech_folder: Path) -> None:
    """Segments are those of silero alone; in 3 % of recordings some start 0.05 s or end 0.25 s earlier or later."""
    same = all_of_them = 0
    for path in sorted(speech_folder.glob("*.flac")):
        waveform = load_audio(path)
        found, alone = detect(waveform), detect(waveform, LEFT)
        same, all_of_them = same + (found == alone), all_of_them + 1
        assert len(found) == len(alone)
        for one, other in zip(found, alone, strict=True):
            assert one.start == pytest.approx(other.start, abs=0.05)
            assert one.end == pytest.approx(other.end, abs=0.25)
    assert same >= 0.97 * all_of_them


def test_loud_speech_is_left_as_it_is(voices: list[np.ndarray]) -> None:
    for voice in voices:
        loud = scaled(voice, 12).clip(-1, 1)
        assert detect(loud) == detect(loud, LEFT)


def quiet_sounds() -> dict[str, Callable[[int], np.ndarray]]:
    def noise(power: float, level: float) -> Callable[[int], np.ndarray]:
        def make(samples: int) -> np.ndarray:
            spectrum = np.fft.rfft(np.random.default_rng(0).normal(0, 1, samples))
            sound = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** (power / 2), samples)
            return 10 ** (level / 20) * sound / sound.std()

        return make

    def hum(samples: int) -> np.ndarray:
        t = np.arange(samples) / SAMPLING_RATE
        return 0.002 * sum(np.sin(2 * np.pi * 50 * n * t) / n for n in range(1, 8))

    def knocking(samples: int) -> np.ndarray:
        t = np.arange(samples) / SAMPLING_RATE
        return 0.003 * np.random.default_rng(0).normal(0, 1, samples) * np.exp(-(t % 0.6) / 0.02)

    return {
        "white": noise(0, -60),
        "pink": noise(1, -55),
        "brown": noise(2, -50),
        "dither": lambda samples: np.random.default_rng(0).integers(-1, 2, samples) / 32768,
        "hum": hum,
        "knocking": knocking,
        "silence": np.zeros,
    }


@pytest.mark.parametrize("sound", quiet_sounds())
def test_quiet_noise_is_not_speech(sound: str) -> None:
    waveform = quiet_sounds()[sound](10 * SAMPLING_RATE).astype(np.float32)
    assert detect(waveform) == []
    assert detect(waveform, SegmentSettings(max_gain=60)) == []


def test_quiet_music_and_noise_are_not_speech(speech_folder: Path) -> None:
    with open(speech_folder / "manifest.csv", encoding="utf-8") as file:
        names = [row["file"] for row in csv.DictReader(file) if row["corpus"] == "nonspeech"]
    for name in names:
        waveform = load_audio(speech_folder / name)
        for decibels in -20, -30, -40, -50:
            quiet = scaled(waveform, decibels)
            found = covered(detect(quiet), len(quiet)) & ~covered(detect(quiet, LEFT), len(quiet))
            assert not found.any(), f"{name} at {decibels} dB"


def test_speech_is_never_lost_by_the_gain(voices: list[np.ndarray]) -> None:
    for voice in voices:
        for decibels in 0, -10, -25:
            quiet = scaled(voice, decibels)
            assert (speech_probabilities(quiet, 40) >= speech_probabilities(quiet)).all()


def test_gain_of_frames() -> None:
    def steady(level: float, frames: int) -> np.ndarray:
        sine = np.sin(2 * np.pi * 500 * np.arange(frames * FRAME_SAMPLES) / SAMPLING_RATE) * np.sqrt(2)
        return scaled(sine, level).reshape(-1, FRAME_SAMPLES)

    assert levels(steady(-20, 2)) == pytest.approx([-20, -20], abs=0.01)
    for level in EXPECTED, -20, 0:
        assert (Gain(40).push(steady(level + 0.01, 50)) == 1).all()
    for level, expected in (-50, EXPECTED + 50), (-90, 40), (-150, 40):
        assert 20 * np.log10(Gain(40).push(steady(level, 50))) == pytest.approx(expected, abs=0.02)
    assert (Gain(0).push(steady(-70, 50)) == 1).all()

    gain = Gain(40)
    gain.push(steady(-26, 10))
    assert (gain.push(steady(-70, 150)) == 1).all(), "10 dB above what is expected: 5 s"
    after = 20 * np.log10(gain.push(steady(-70, 313)))
    assert after[-1] == pytest.approx(2 * (463 * 0.032) - 10, abs=0.1)
    assert (np.diff(after[after > 0]) >= -1e-6).all()
    [*before, click, later] = 20 * np.log10(gain.push(np.concatenate([steady(-70, 5), steady(-20, 1), steady(-70, 1)])))
    assert click == 0
    assert later == pytest.approx(before[-1], abs=0.2), "a click is not a voice"


def test_given_segments_of_a_quiet_voice_hold_speech(voices: list[np.ndarray]) -> None:
    quiet = scaled(voices[0], -65)
    given = [GivenSegment(0.0, 10.0)]
    assert [segment.quality for segment in from_given(given, quiet).segments] == ["normal"]
    assert [segment.quality for segment in from_given(given, quiet, LEFT).segments] == ["no_speech"]


def test_a_quiet_clip_says_so(voices: list[np.ndarray], speech_folder: Path) -> None:
    detector = EmotionDetector(backend="prosodic")
    quiet = scaled(voices[0], -65)

    def notes(waveform: np.ndarray, **options: Any) -> list[Note]:
        return [*analyze(waveform, sampling_rate=SAMPLING_RATE, runtime="cpu", **options).notes]

    [note] = notes(quiet)
    assert note.kind == "quiet"
    missing = int(re.search(r"is (\d+) dB too quiet", note.text)[1])
    assert missing == pytest.approx(EXPECTED - (np.quantile(levels(frames_of(voices[0])), 0.95) - 65), abs=3)
    assert detector.analyze(quiet, SAMPLING_RATE).notes == (note,)
    assert notes(quiet, segments=[GivenSegment(0.5, 10.0)]) == [note]
    assert notes(quiet, whole=True) == []
    assert notes(quiet, settings=LEFT) == []
    assert notes(scaled(voices[0], -10)) == notes(voices[0]) == []


def test_speech_of_the_project_itself() -> None:
    waveform = load_audio(own_audio.SENTENCES[0])
    assert agreement(detect(scaled(waveform, -40)), detect(waveform), len(waveform)) > 0.9

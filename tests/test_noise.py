"""Speech in noise is noticed, wherever it is judged, and clean speech is not."""

import tracemalloc
from pathlib import Path

import numpy as np
import own_audio
import pytest

from e2v_port.analysis.analyze import analyze
from e2v_port.analysis.judge import Judge
from e2v_port.analysis.judged import JudgedSegment, graded
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.estimates import Dimensions
from e2v_port.emotions.fusion import FusionSettings, fuse
from e2v_port.live.detector import EmotionDetector
from e2v_port.prosody import noise
from e2v_port.prosody.measure import measure
from e2v_port.prosody.noise import LEAST_SAMPLES, signal_to_noise
from e2v_port.speech.detect import detect
from e2v_port.speech.segment import GivenSegment


def colored(power: float, samples: int) -> np.ndarray:
    """Returns noise of mean square 1: white, pink or brown for 0, 1 or 2."""
    spectrum = np.fft.rfft(np.random.default_rng(1).normal(0, 1, samples))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), samples // 800) ** (power / 2), samples)
    return noise / noise.std()


def noisy(waveform: np.ndarray, decibels: float, power: float = 1.0) -> np.ndarray:
    frames = waveform[: len(waveform) // 160 * 160].astype(np.float64).reshape(-1, 160)
    powers = np.square(frames).mean(axis=1)
    speech = powers[powers > powers.max() / 10**3].mean()
    return (waveform + colored(power, len(waveform)) * np.sqrt(speech) * 10 ** (-decibels / 20)).astype(np.float32)


@pytest.fixture(scope="module")
def sentence() -> np.ndarray:
    """Two sentences: 3 s and more."""
    return np.concatenate([load_audio(path) for path in own_audio.SENTENCES[:2]])


def test_the_stored_correction_is_that_of_a_minute_of_noise() -> None:
    drawn = np.random.default_rng(0).normal(0, 0.1, 60 * SAMPLING_RATE).astype(np.float32)
    bands = noise._band_powers(drawn)
    np.testing.assert_allclose(noise.correction(), bands.mean(axis=0) / noise._quietest(bands), rtol=1e-6)


def test_clean_speech_is_not_noisy(recordings: Path) -> None:
    """Recordings of a studio, cut right where the speech begins and ends: there is no pause to hear noise in."""
    measured = 0
    for path in sorted(recordings.glob("*.flac")):
        if path.name.startswith(("emodb", "librispeech", "librivox")):
            waveform = load_audio(path)
            for segment in detect(waveform):
                if segment.duration >= 1:
                    measured += 1
                    assert signal_to_noise(waveform[segment.samples]) > 20, path.name
    assert measured > 80


def test_synthetic_speech_is_not_noisy() -> None:
    for path in own_audio.SENTENCES:
        waveform = load_audio(path)
        for segment in detect(waveform):
            assert signal_to_noise(waveform[segment.samples]) > 20


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_steady_noise_is_measured(power: float, speech_folder: Path) -> None:
    clean = load_audio(speech_folder / "librispeech_3436-172162-0000.flac")
    for decibels in 5, 10, 15, 20, 25:
        assert signal_to_noise(noisy(clean, decibels, power)) == pytest.approx(decibels, abs=6)
    assert signal_to_noise(noisy(clean, -10, power)) < 8


def test_what_is_only_noise() -> None:
    assert signal_to_noise(colored(0.0, 32_000).astype(np.float32) * np.float32(0.1)) < 3
    assert signal_to_noise(np.zeros(32_000, np.float32)) == 0
    assert 0 <= signal_to_noise(np.ones(LEAST_SAMPLES, np.float32)) <= 60


def test_it_is_the_measure_of_prosody(sentence: np.ndarray) -> None:
    for waveform in sentence, noisy(sentence, 10), sentence[:LEAST_SAMPLES]:
        assert measure(waveform).quality.snr == signal_to_noise(waveform)


def test_the_level_does_not_matter(sentence: np.ndarray) -> None:
    loud = noisy(sentence, 15)
    assert signal_to_noise((0.01 * loud).astype(np.float32)) == pytest.approx(signal_to_noise(loud), abs=0.1)


def test_the_note_and_the_quality() -> None:
    voice = Dimensions(0.5, 0.5, 0.5)
    for snr, notes in (None, ()), (20.0, ()), (19.9, ("noisy",)), (0.0, ("noisy",)):
        judgement = fuse(None, voice, 4.0, snr=snr)
        assert judgement.notes == notes
        assert graded("normal", judgement) == ("low_confidence" if notes else "normal")
        assert graded("low_confidence", judgement) == "low_confidence"
    assert fuse(None, voice, 4.0, FusionSettings(noisy=10), snr=15).notes == ()
    assert fuse(None, voice, 1.0, snr=3).notes == ("short", "noisy")
    assert graded("normal", None) == "normal"


def states(segments: tuple[JudgedSegment, ...]) -> list[tuple[str, bool]]:
    return [(s.quality, s.judgement is not None and "noisy" in s.judgement.notes) for s in segments]


def test_noise_in_a_clip(sentence: np.ndarray) -> None:
    seconds = len(sentence) / SAMPLING_RATE
    ways = {"found": {}, "given": {"segments": [GivenSegment(0.0, seconds)]}, "whole": {"whole": True}}
    for options in ways.values():
        [clean] = states(analyze(sentence, sampling_rate=SAMPLING_RATE, runtime="cpu", **options).segments)
        [noise] = states(analyze(noisy(sentence, 8), sampling_rate=SAMPLING_RATE, runtime="cpu", **options).segments)
        assert (clean, noise) == (("normal", False), ("low_confidence", True))


def test_noise_in_a_part_of_a_clip(sentence: np.ndarray) -> None:
    pause = np.zeros(3 * SAMPLING_RATE, np.float32)
    analysis = analyze(
        np.concatenate([sentence, pause, noisy(sentence, 8)]), sampling_rate=SAMPLING_RATE, runtime="cpu"
    )
    assert states(analysis.segments) == [("normal", False), ("low_confidence", True)]
    assert "noisy" in analysis.to_dict()["segments"][1]["emotion"]["notes"]


@pytest.mark.parametrize("backend", ["bundled", "hybrid", "prosodic"])
def test_noise_in_a_stream(backend: str, sentence: np.ndarray) -> None:
    detector = EmotionDetector(backend=backend, runtime="cpu")
    pause = np.zeros(2 * SAMPLING_RATE, np.float32)
    for waveform, expected in (sentence, ("normal", False)), (noisy(sentence, 8), ("low_confidence", True)):
        listener = detector.open()
        heard = listener.push(np.concatenate([waveform, pause])) + listener.finish()
        assert states(tuple(segment for segment in heard if segment.final)) == [expected]
        assert states(detector.analyze(waveform, SAMPLING_RATE).segments) == [expected]
        windows = [segment for segment in heard if not segment.final]
        assert windows
        assert not any(noise for _, noise in states(tuple(windows))), "a second is too short to tell"


def test_a_clip_too_short_to_measure() -> None:
    bundled = EmotionDetector(runtime="cpu")._backend.judge
    assert isinstance(bundled, Judge)
    assert bundled.one(np.full(LEAST_SAMPLES - 1, 0.1, np.float32)).snr is None


def test_a_minute_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    minute = colored(1.0, 60 * SAMPLING_RATE).astype(np.float32)
    tracemalloc.start()
    found = signal_to_noise(minute)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6  # the spectra of its frames alone take 25 MB
    monkeypatch.setattr(noise, "_FRAMES", len(minute))
    assert signal_to_noise(minute) == found

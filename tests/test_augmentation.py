"""What the steps of an augmentation claim, measured on what they make of tones and noise."""

import inspect
from dataclasses import fields

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from e2v_port import augmentation
from e2v_port.augmentation import Augmentation, augment

RATE = 16_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def white(seconds: float = 4.0) -> np.ndarray:
    return (0.1 * rng(99).standard_normal(int(seconds * RATE))).astype(np.float32)


def voice(seconds: float = 2.0) -> np.ndarray:
    """Silence, a hum with overtones that swells and fades, silence."""
    at = np.arange(int(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * 140 * k * at) / k for k in range(1, 20))
    return (0.2 * hum * np.clip(np.sin(2 * np.pi * at / seconds), 0, 1)).astype(np.float32)


def levels(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and power in dB."""
    hertz, power = scipy.signal.welch(waveform, RATE, nperseg=2048)
    return hertz, 10 * np.log10(power + 1e-20)


def at(hertz: float, frequencies: np.ndarray, values: np.ndarray) -> float:
    return float(np.interp(hertz, frequencies, values))


STEPS = {
    "speed": lambda x, r: augmentation.speed(x, r, (0.85, 1.17)),
    "tilt": lambda x, r: augmentation.tilt(x, r, 4.0),
    "room": lambda x, r: augmentation.room(x, r, (0.08, 0.7), (-3.0, 12.0)),
    "add": lambda x, r: augmentation.add(x, augmentation.coloured_noise(len(x), r), r.uniform(3, 30)),
    "babble": lambda x, r: augmentation.add(x, augmentation.babble(len(x), r, [voice(), tone(300)]), r.uniform(3, 30)),
    "band": lambda x, r: augmentation.band(x, r, (20.0, 350.0), (2500.0, 7500.0)),
    "overdrive": lambda x, r: augmentation.overdrive(x, r, (1.0, 4.0)),
    "gain": lambda x, r: augmentation.gain(x, r, (0.1, 0.95)),
    "trim": lambda x, r: augmentation.trim(x),
    "crop": lambda x, r: augmentation.crop(x, r, (0.1, 0.5)),
    "augment": lambda x, r: augment(x, r, [voice(), tone(300)], Augmentation()),
}


def test_every_step_is_tested_here() -> None:
    sources = "".join(map(inspect.getsource, STEPS.values()))
    for name in augmentation.__all__:
        assert name == "Augmentation" or name in sources, name


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("clip", [voice(), white(0.3), np.zeros(5000, np.float32), tone(440, 0.025)], ids=len)
def test_a_step_is_deterministic_and_leaves_its_clip_alone(step, clip: np.ndarray) -> None:
    before = clip.copy()
    first, second = step(clip, rng(3)), step(clip, rng(3))
    assert np.array_equal(first, second)
    assert np.array_equal(clip, before)
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert len(first)
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"speed", "trim", "crop", "augment"}))
def test_other_steps_keep_the_length(name: str) -> None:
    for seed, clip in enumerate([voice(), white(0.3), tone(440, 0.025)]):
        assert len(STEPS[name](clip, rng(seed))) == len(clip)


@given(st.integers(0, 10_000), st.integers(400, 20_000))
def test_any_chain_of_steps_gives_a_clip_within_full_scale(seed: int, samples: int) -> None:
    always = {field.name: 1.0 for field in fields(Augmentation) if isinstance(field.default, float)}
    clip = white(2)[:samples]
    found = augment(clip, rng(seed), [voice()], Augmentation(**always | {"babble": 0.5, "decibels": 4.0}))
    assert 0.1 * 0.999 <= np.abs(found).max() <= 0.95 * 1.001
    assert 0.84 < len(clip) / len(found) < 1.18


def test_without_any_step_only_the_level_changes() -> None:
    nothing = Augmentation(speed=0, tilt=0, room=0, noise=0, band=0, overdrive=0)
    clip = voice()
    found = augment(clip, rng(), [], nothing)
    assert np.corrcoef(clip, found)[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.17])
def test_speed_changes_length_and_pitch_alike(factor: float) -> None:
    found = augmentation.speed(tone(1000), rng(), (factor, factor))
    assert len(found) == pytest.approx(RATE / factor, abs=2)
    frequencies, power = scipy.signal.periodogram(found, RATE)
    assert frequencies[power.argmax()] == pytest.approx(1000 * factor, abs=1.5)


def test_speed_is_as_often_higher_as_lower() -> None:
    generator = rng()
    lengths = np.array([len(augmentation.speed(tone(300, 0.1), generator, (0.8, 1.25))) for _ in range(200)])
    assert np.median(lengths) == pytest.approx(1600, rel=0.03)
    assert lengths.min() >= 1600 / 1.25 - 1
    assert lengths.max() <= 1600 / 0.8 + 1


@pytest.mark.parametrize("snr", [-3.0, 0.0, 12.5, 30.0])
def test_noise_has_the_power_it_was_asked_for(snr: float) -> None:
    clip = voice()
    for noise in (augmentation.coloured_noise(len(clip), rng(1)), augmentation.babble(len(clip), rng(1), [white(1)])):
        assert np.mean(noise**2) == pytest.approx(1, rel=1e-3)
        added = augmentation.add(clip, noise, snr) - clip
        assert 10 * np.log10(np.mean(clip**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.05)


def test_noise_is_between_white_and_brown() -> None:
    slopes = []
    for seed in range(20):
        hertz, power = levels(augmentation.coloured_noise(8 * RATE, rng(seed)))
        own = (hertz > 200) & (hertz < 7000)
        slopes.append(np.polyfit(np.log2(hertz[own]), power[own], 1)[0])  # dB an octave
    assert -6.5 < min(slopes) < -4
    assert -2 < max(slopes) < 0.5


def test_babble_is_made_of_the_voices_given() -> None:
    found = augmentation.babble(2 * RATE, rng(), [tone(500), tone(900)])
    hertz, power = levels(found)
    assert max(at(500, hertz, power), at(900, hertz, power)) - at(2000, hertz, power) > 40
    whole = augmentation.babble(2 * RATE, rng(), [(tone(500) * 32767).astype(np.int16)])
    assert np.mean(whole**2) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(300.0, 3400.0), (100.0, 5000.0)])
def test_a_band_ends_where_it_is_said_to(low: float, high: float) -> None:
    clip = white()
    hertz, before = levels(clip)
    after = levels(augmentation.band(clip, rng(), (low, low), (high, high)))[1] - before
    assert at(np.sqrt(low * high), hertz, after) == pytest.approx(0, abs=0.5)
    assert at(low, hertz, after) == pytest.approx(-3, abs=1)
    assert at(high, hertz, after) == pytest.approx(-3, abs=1)
    if 2 * high < RATE / 2:
        assert at(2 * high, hertz, after) < -45


def test_a_tilt_has_the_spread_it_was_asked_for() -> None:
    clip = white()
    hertz, before = levels(clip)
    generator = rng()
    gains = [levels(augmentation.tilt(clip, generator, 4.0))[1] - before for _ in range(100)]
    for point in (200, 800, 3000):
        assert np.std([at(point, hertz, gain) for gain in gains]) == pytest.approx(4, rel=0.25)
    assert np.abs(augmentation.tilt(clip, generator, 0.0) - clip).max() < 1e-5


@pytest.mark.parametrize(("decay", "direct"), [(0.2, 6.0), (0.6, 0.0)])
def test_a_room_decays_by_60_db_in_its_time(decay: float, direct: float) -> None:
    click = np.zeros(2 * RATE, np.float32)
    click[100] = 1
    found = augmentation.room(click, rng(), (decay, decay), (direct, direct))[100:].astype(np.float64)
    assert found[0] == pytest.approx(1, abs=1e-3)
    assert 10 * np.log10(found[0] ** 2 / np.sum(found[1:] ** 2)) == pytest.approx(direct, abs=0.1)
    # Schroeder's integral, over the part in which it is straight, is how acousticians measure it (ISO 3382).
    echo = 10 * np.log10(np.cumsum(found[:0:-1] ** 2)[::-1] / np.sum(found[1:] ** 2) + 1e-12)
    five, twenty_five = np.argmax(echo < -5), np.argmax(echo < -25)
    assert 3 * (twenty_five - five) / RATE == pytest.approx(decay, rel=0.1)
    assert np.abs(augmentation.room(click, rng(), (decay, decay), (direct, direct))[:100]).max() < 1e-5


def test_overdrive_flattens_what_is_too_loud() -> None:
    found = augmentation.overdrive(tone(200), rng(), (2.0, 2.0))
    # A sine of height 2 is beyond 1 for two thirds of the time.
    assert np.mean(np.abs(found) >= 1) == pytest.approx(2 / 3, abs=0.01)
    assert np.abs(found).max() == 1


def test_trim_leaves_a_tenth_of_a_second_around_the_voice() -> None:
    silence = np.zeros(RATE, np.float32)
    quiet = 0.001 * white(1.0)
    found = augmentation.trim(np.concatenate([quiet, tone(300, 0.5), silence]))
    assert len(found) == pytest.approx(0.7 * RATE, abs=50)
    # The first sample of a sine is zero.
    assert np.array_equal(found[1600:8600], tone(300, 0.5)[1:7001])
    assert np.array_equal(augmentation.trim(silence), silence)


def test_a_crop_is_a_part_of_its_clip() -> None:
    clip = white(3)
    starts = set()
    for seed in range(50):
        found = augmentation.crop(clip, rng(seed), (0.5, 1.0))
        assert 0.5 * RATE - 1 <= len(found) <= RATE
        start = int(np.flatnonzero(clip == found[0])[0])
        starts.add(start)
        assert np.array_equal(clip[start : start + len(found)], found)
    assert len(starts) > 40


def test_a_crop_of_a_shorter_clip_repeats_it() -> None:
    clip = white(3)[:100]
    found = augmentation.crop(clip, rng(), (0.5, 1.0))
    assert 0.5 * RATE - 1 <= len(found) <= RATE
    assert np.array_equal(found, clip[np.arange(len(found)) % 100])

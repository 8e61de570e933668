"""The steps of the augmentation, measured on tones and noise."""

import inspect
from dataclasses import fields

import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st

from e2v_port.errors import TrainingError
from e2v_port.training import augmentation, telephony
from e2v_port.training.augmentation import Augmentation, augment

RATE = 16_000


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype(np.float32)


def white(seconds: float = 4.0) -> np.ndarray:
    return (0.1 * rng(99).standard_normal(int(seconds * RATE))).astype(np.float32)


def voice(seconds: float = 2.0) -> np.ndarray:
    """Returns a hum with overtones that swells and fades, followed by silence."""
    at = np.arange(int(seconds * RATE)) / RATE
    hum = sum(np.sin(2 * np.pi * 140 * k * at) / k for k in range(1, 20))
    return (0.2 * hum * np.clip(np.sin(2 * np.pi * at / seconds), 0, 1)).astype(np.float32)


def speech(seconds: float = 2.0) -> np.ndarray:
    """Returns a voice whose pitch glides, so that no two periods are alike, in syllables, between 300 and 3000 Hz."""
    at = np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 50 * np.sin(5 * at) + 20 * at) / RATE
    hum = sum(np.sin(k * phase) for k in range(1, 40)) * np.clip(np.sin(2 * np.pi * 3 * at), 0, 1)
    band = scipy.signal.butter(4, (300, 3000), "band", fs=RATE, output="sos")
    return (0.03 * scipy.signal.sosfilt(band, hum)).astype(np.float32)


def levels(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns frequencies in Hz and power in dB."""
    hertz, power = scipy.signal.welch(waveform, RATE, nperseg=2048)
    return hertz, 10 * np.log10(power + 1e-20)


def at(hertz: float, frequencies: np.ndarray, values: np.ndarray) -> float:
    return float(np.interp(hertz, frequencies, values))


STEPS = {
    "cut": lambda x, r: augmentation.cut(x, r, (0.1, 0.5)),
    "speed": lambda x, r: augmentation.speed(x, r, (0.85, 1.17)),
    "tempo": lambda x, r: augmentation.tempo(x, r, (0.8, 1.25)),
    "tilt": lambda x, r: augmentation.tilt(x, r, 4.0),
    "room": lambda x, r: augmentation.room(x, r, (0.08, 0.7), (-3.0, 12.0)),
    "add": lambda x, r: augmentation.add(x, augmentation.coloured_noise(len(x), r), r.uniform(3, 30)),
    "babble": lambda x, r: augmentation.add(x, augmentation.babble(len(x), r, [voice(), tone(300)]), r.uniform(3, 30)),
    "band": lambda x, r: augmentation.band(x, r, (20.0, 350.0), (2500.0, 7500.0)),
    **{codec: lambda x, r, codec=codec: augmentation.transmit(x, r, codec) for codec in telephony.CODECS},
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
def test_a_step_is_deterministic_and_does_not_modify_its_input(step, clip: np.ndarray) -> None:
    before = clip.copy()
    first, second = step(clip, rng(3)), step(clip, rng(3))
    assert np.array_equal(first, second)
    assert np.array_equal(clip, before)
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert len(first)
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", sorted(STEPS.keys() - {"cut", "speed", "tempo", "trim", "crop", "augment"}))
def test_other_steps_keep_the_length(name: str) -> None:
    for seed, clip in enumerate([voice(), white(0.3), tone(440, 0.025)]):
        assert len(STEPS[name](clip, rng(seed))) == len(clip)


@given(st.integers(0, 10_000), st.integers(400, 20_000))
def test_any_chain_of_steps_stays_within_full_scale(seed: int, samples: int) -> None:
    always = {field.name: 1.0 for field in fields(Augmentation) if isinstance(field.default, float)}
    clip = white(2)[:samples]
    settings = Augmentation(**always | {"babble": 0.5, "decibels": 4.0, "seconds": (1.0, 1.0)})
    result = augment(clip, rng(seed), [voice()], settings)
    assert 0.03 * 0.999 <= np.abs(result).max() <= 0.95 * 1.001
    assert 0.84 * 0.8 * 0.97 < min(len(clip), RATE) / len(result) < 1.18 * 1.25 * 1.05


def test_without_steps_only_the_level_changes() -> None:
    nothing = Augmentation(cut=0, speed=0, tempo=0, tilt=0, room=0, noise=0, band=0, overdrive=0, transmit=0)
    clip = voice()
    result = augment(clip, rng(), [], nothing)
    assert np.corrcoef(clip, result)[0, 1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.17])
def test_speed_changes_length_and_pitch_alike(factor: float) -> None:
    result = augmentation.speed(tone(1000), rng(), (factor, factor))
    assert len(result) == pytest.approx(RATE / factor, abs=2)
    frequencies, power = scipy.signal.periodogram(result, RATE)
    assert frequencies[power.argmax()] == pytest.approx(1000 * factor, abs=1.5)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_tempo_changes_the_length_and_keeps_the_pitch(factor: float) -> None:
    clip = tone(1000, 2.0)
    result = augmentation.tempo(clip, rng(), (factor, factor))
    assert len(result) == pytest.approx(2 * RATE / factor, rel=0.01)
    frequencies, power = scipy.signal.periodogram(result, RATE)
    assert frequencies[power.argmax()] == pytest.approx(1000, abs=5)
    assert np.sqrt(np.mean(result**2)) == pytest.approx(np.sqrt(np.mean(clip**2)), rel=0.05)


def test_speed_is_symmetric() -> None:
    generator = rng()
    lengths = np.array([len(augmentation.speed(tone(300, 0.1), generator, (0.8, 1.25))) for _ in range(200)])
    assert np.median(lengths) == pytest.approx(1600, rel=0.03)
    assert lengths.min() >= 1600 / 1.25 - 1
    assert lengths.max() <= 1600 / 0.8 + 1


@pytest.mark.parametrize("snr", [-3.0, 0.0, 12.5, 30.0])
def test_noise_has_the_requested_power(snr: float) -> None:
    clip = voice()
    for noise in (augmentation.coloured_noise(len(clip), rng(1)), augmentation.babble(len(clip), rng(1), [white(1)])):
        assert np.mean(noise**2) == pytest.approx(1, rel=1e-3)
        added = augmentation.add(clip, noise, snr) - clip
        assert 10 * np.log10(np.mean(clip**2) / np.mean(added**2)) == pytest.approx(snr, abs=0.05)


def test_noise_is_between_white_and_brown() -> None:
    slopes = []
    for seed in range(20):
        hertz, power = levels(augmentation.coloured_noise(8 * RATE, rng(seed)))
        inner = (hertz > 200) & (hertz < 7000)
        slopes.append(np.polyfit(np.log2(hertz[inner]), power[inner], 1)[0])  # dB per octave
    assert -6.5 < min(slopes) < -4
    assert -2 < max(slopes) < 0.5


def test_babble_is_made_of_the_voices() -> None:
    result = augmentation.babble(2 * RATE, rng(), [tone(500), tone(900)])
    hertz, power = levels(result)
    assert max(at(500, hertz, power), at(900, hertz, power)) - at(2000, hertz, power) > 40
    whole = augmentation.babble(2 * RATE, rng(), [(tone(500) * 32767).astype(np.int16)])
    assert np.mean(whole**2) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(("low", "high"), [(300.0, 3400.0), (100.0, 5000.0)])
def test_a_band_has_the_requested_edges(low: float, high: float) -> None:
    clip = white()
    hertz, before = levels(clip)
    after = levels(augmentation.band(clip, rng(), (low, low), (high, high)))[1] - before
    assert at(np.sqrt(low * high), hertz, after) == pytest.approx(0, abs=0.5)
    assert at(low, hertz, after) == pytest.approx(-3, abs=1)
    assert at(high, hertz, after) == pytest.approx(-3, abs=1)
    if 2 * high < RATE / 2:
        assert at(2 * high, hertz, after) < -45


def fidelity(clip: np.ndarray, result: np.ndarray) -> tuple[int, float]:
    """Returns the delay of the result in samples, and its correlation with the clip there."""
    products = scipy.signal.correlate(result.astype(float), clip.astype(float), method="fft")
    best = int(products.argmax())
    return best - len(clip) + 1, float(products[best] / np.linalg.norm(clip) / np.linalg.norm(result))


@pytest.mark.parametrize("codec", telephony.NARROWBAND)
def test_a_telephone_line_has_the_band_of_one(codec: str) -> None:
    clip = speech() + 0.1 * white(2.0) + tone(100, 2.0) / 10 + tone(6000, 2.0) / 10
    hertz, before = levels(clip)
    after = levels(augmentation.transmit(clip, rng(), codec))[1] - before
    inside = (hertz > 600) & (hertz < 2800)
    assert np.mean(after[inside]) == pytest.approx(0, abs=4)
    assert np.mean(after[(hertz > 4200) & (hertz < 7800)]) < -30
    assert at(6000, hertz, after) < -60
    assert at(100, hertz, after) < -12


@pytest.mark.parametrize("codec", telephony.CODECS)
def test_a_codec_keeps_the_voice_where_it_is(codec: str) -> None:
    clip = speech()
    for seed in range(4):
        result = telephony.passed(clip, codec, rng(seed))
        delay, correlation = fidelity(clip, result)
        assert abs(delay) <= 3
        assert 0.7 < correlation < 0.99999
        assert not np.array_equal(result, clip)


@pytest.mark.parametrize("codec", ["mulaw", "alaw"])
@pytest.mark.parametrize("peak", [0.5, 0.05])
def test_g711_has_the_noise_of_its_standard(codec: str, peak: float) -> None:
    clip = 2 * peak * tone(1020, 2.0)
    noise = telephony.passed(clip, codec, rng()) - clip
    inner = slice(RATE // 4, -RATE // 4)  # resampling a sine that starts and stops rings
    ratio = 10 * np.log10(np.mean(clip[inner] ** 2) / np.mean(noise[inner] ** 2))
    assert 33 < ratio < 42  # ITU-T G.712 asks for 33 dB at such levels; eight bits in logarithmic steps give 38


@pytest.mark.parametrize(("codec", "rates"), [("amr", "_AMR_RATES"), ("opus", "_OPUS_RATES")])
def test_fewer_bits_keep_less(codec: str, rates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = speech()
    kept = []
    for rate in (getattr(telephony, rates)[0], getattr(telephony, rates)[-1]):
        monkeypatch.setattr(telephony, rates, (rate,))
        kept.append(fidelity(clip, telephony.passed(clip, codec, rng()))[1])
    assert kept[0] < kept[1]


def test_an_ffmpeg_without_a_codec_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, mode: str) -> None:
        raise telephony.UnknownCodecError(name)

    monkeypatch.setattr(telephony.CodecContext, "create", create, raising=False)
    with pytest.raises(TrainingError, match=r"lacks the codec .*install"):
        telephony.passed(voice(), "amr", rng())


def test_a_tilt_has_the_requested_spread() -> None:
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
    result = augmentation.room(click, rng(), (decay, decay), (direct, direct))[100:].astype(np.float64)
    assert result[0] == pytest.approx(1, abs=1e-3)
    assert 10 * np.log10(result[0] ** 2 / np.sum(result[1:] ** 2)) == pytest.approx(direct, abs=0.1)
    # Measured as in ISO 3382: Schroeder's integral, over its linear part.
    echo = 10 * np.log10(np.cumsum(result[:0:-1] ** 2)[::-1] / np.sum(result[1:] ** 2) + 1e-12)
    five, twenty_five = np.argmax(echo < -5), np.argmax(echo < -25)
    assert 3 * (twenty_five - five) / RATE == pytest.approx(decay, rel=0.1)
    assert np.abs(augmentation.room(click, rng(), (decay, decay), (direct, direct))[:100]).max() < 1e-5


def test_overdrive_clips_loud_samples() -> None:
    result = augmentation.overdrive(tone(200), rng(), (2.0, 2.0))
    # A sine of amplitude 2 exceeds 1 for two thirds of the time.
    assert np.mean(np.abs(result) >= 1) == pytest.approx(2 / 3, abs=0.01)
    assert np.abs(result).max() == 1


def test_trim_leaves_a_tenth_of_a_second_around_the_voice() -> None:
    silence = np.zeros(RATE, np.float32)
    quiet = 0.001 * white(1.0)
    result = augmentation.trim(np.concatenate([quiet, tone(300, 0.5), silence]))
    assert len(result) == pytest.approx(0.7 * RATE, abs=50)
    # The first sample of a sine is zero.
    assert np.array_equal(result[1600:8600], tone(300, 0.5)[1:7001])
    assert np.array_equal(augmentation.trim(silence), silence)


def test_a_crop_is_an_excerpt() -> None:
    clip = white(3)
    starts = set()
    for seed in range(50):
        result = augmentation.crop(clip, rng(seed), (0.5, 1.0))
        assert 0.5 * RATE - 1 <= len(result) <= RATE
        start = int(np.flatnonzero(clip == result[0])[0])
        starts.add(start)
        assert np.array_equal(clip[start : start + len(result)], result)
    assert len(starts) > 40


def test_a_cut_has_no_silence_around_it_and_keeps_short_clips() -> None:
    clip = np.concatenate([np.zeros(RATE, np.float32), white(3), np.zeros(RATE, np.float32)])
    for seed in range(20):
        result = augmentation.cut(clip, rng(seed), (1.0, 2.0))
        assert RATE - 1 <= len(result) <= 2 * RATE
        assert np.abs(result[:1700]).max() > 0.1
        assert np.abs(result[-1700:]).max() > 0.1
    assert np.array_equal(augmentation.cut(white(0.3), rng(), (1.0, 2.0)), augmentation.trim(white(0.3)))


def test_a_crop_of_a_shorter_clip_repeats_it() -> None:
    clip = white(3)[:100]
    result = augmentation.crop(clip, rng(), (0.5, 1.0))
    assert 0.5 * RATE - 1 <= len(result) <= RATE
    assert np.array_equal(result, clip[np.arange(len(result)) % 100])

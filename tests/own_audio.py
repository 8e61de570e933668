"""Recordings for tests where ../shared/audio is missing: speech that the project ships, and sounds made from numbers.

They have the names and the lengths of the real recordings, so that tests find them in the same way. What only a real
voice, a real room or a real label can show asks for the fixture `recordings` instead, and is skipped without them.
"""

import csv
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
import soxr

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio

ROOT = Path(__file__).parents[1]
SENTENCES = sorted((ROOT / "benchmarks" / "speech").glob("*.flac"))
# Speakers as EmoDB numbers them, and how much slower each speaks than the synthesizer: a slower one is lower, too.
SPEAKERS = {"03": 1.0, "08": 0.87, "09": 0.93, "10": 1.06, "11": 1.03, "13": 0.96, "16": 0.9}
EMOTIONS = "WLEAFTN"  # the sixth character of EmoDB's names
NAMES = {"W": "anger", "L": "boredom", "E": "disgust", "A": "fear", "F": "happiness", "T": "sadness", "N": "neutral"}
SEXES = {"03": "m", "08": "f", "09": "f", "10": "m", "11": "m", "13": "f", "16": "f"}
# Names that tests ask for besides those of the grid below.
EMODB = [
    "03a01Nc",
    "03a02Wb",
    "03a02Ta",
    "03a04Ad",
    "09a04Fd",
    "10a07Ta",
    "08a01Ab",
    "11a04Ac",
    "13a01Ea",
    "16a01Lb",
    "16a02Ea",
    "16a02Wb",
]
LONG = {
    "jfk.flac": 11.0,
    "ami_EN2002a_30s.flac": 30.0,
    "librispeech_198-209-0000.flac": 13.91,
    "librispeech_3436-172162-0000.flac": 16.745,
    "librivox_idle_hour_john_clare.flac": 9.444,
    "emotion2vec_test.wav": 4.104,
    "bagus-test_16000.wav": 13.3,
}
# In the meeting, every third pause is long enough to end a segment.
PAUSES = {"ami_EN2002a_30s.flac": (0.15, 0.15, 1.8)}
FIELDS = ("file", "duration_s", "sample_rate", "corpus", "speaker", "sex", "emotion", "language", "licence", "note")


def write(folder: Path) -> Path:
    """Writes all of them, and manifest.csv."""
    rows: list[dict[str, object]] = []

    def add(name: str, waveform: Waveform, corpus: str, **about: object) -> None:
        soundfile.write(folder / name, waveform, SAMPLING_RATE, compression_level=0.0 if name.endswith("c") else None)
        rows.append(
            dict.fromkeys(FIELDS, "")
            | {"file": name, "duration_s": len(waveform) / SAMPLING_RATE, "sample_rate": SAMPLING_RATE}
            | {"corpus": corpus, **about}
        )

    utterances = dict(_utterances())
    for code, waveform in utterances.items():
        about = {"speaker": code[:2], "sex": SEXES[code[:2]], "emotion": NAMES[code[5]], "language": "de"}
        add(f"emodb_{code}.flac", waveform, "emodb", **about)
    for i, (name, seconds) in enumerate(LONG.items()):
        add(name, _reading(seconds, i, PAUSES.get(name, (0.5,))), "longform")
    for name, sound in _sounds():
        add(name, sound, "nonspeech")
    timeline, spans = _timeline(utterances)
    add("emodb_timeline.flac", timeline, "emodb")
    with open(folder / "emodb_timeline.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "speaker", "sex", "emotion", "file"])
        writer.writerows(spans)
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        table.writerows(rows)
    return folder


def _utterances() -> Iterator[tuple[str, Waveform]]:
    """One sentence for each speaker and emotion, by EmoDB's codes."""
    sentences = [_trimmed(load_audio(path)) for path in reversed(SENTENCES)]  # the first one has no comma
    codes = dict.fromkeys(EMODB)
    codes |= dict.fromkeys(
        f"{speaker}b{i + 1:02}{emotion}a" for speaker in SPEAKERS for i, emotion in enumerate(EMOTIONS)
    )
    for i, code in enumerate(codes):
        slower = SPEAKERS[code[:2]]
        level = 0.7 + 0.3 * np.cos(i)
        yield code, (level * _slower(sentences[i % len(sentences)], slower)).astype(np.float32)


def _trimmed(waveform: Waveform) -> Waveform:
    """Returns a sentence with no more than 30 ms of silence around it."""
    [loud] = np.nonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max())
    margin = round(0.03 * SAMPLING_RATE)
    return waveform[max(loud[0] - margin, 0) : loud[-1] + margin]


def _slower(waveform: Waveform, factor: float) -> Waveform:
    slowed: Waveform = soxr.resample(waveform, SAMPLING_RATE, round(SAMPLING_RATE * factor)).astype(np.float32)
    return slowed


def _reading(seconds: float, shift: int, pauses: Iterable[float] = (0.5,)) -> Waveform:
    """Sentences read one after the other, with these pauses between them in turn, in seconds."""
    samples = round(seconds * SAMPLING_RATE)
    factor = list(SPEAKERS.values())[shift % len(SPEAKERS)]
    parts: list[Waveform] = []
    for path, pause in zip(cycle([*SENTENCES[shift % 4 :], *SENTENCES[: shift % 4]]), cycle(pauses), strict=False):
        parts += [_slower(load_audio(path), factor), np.zeros(round(pause * SAMPLING_RATE), np.float32)]
        if sum(map(len, parts)) >= samples:
            break
    return _with_floor(np.concatenate(parts)[:samples], shift)


def _with_floor(waveform: Waveform, seed: int) -> Waveform:
    """Adds noise at -80 dB, as no room is without."""
    noise = np.random.default_rng(seed).normal(0, 1e-4, len(waveform))
    return (waveform + noise).astype(np.float32)


def _timeline(utterances: dict[str, Waveform]) -> tuple[Waveform, list[tuple[object, ...]]]:
    """150 s of utterances with 0.15 to 3 s between them, and where each lies."""
    gaps = np.random.default_rng(7).permutation(np.linspace(0.15, 3.0, 60)).round(2)
    parts: list[Waveform] = [np.zeros(SAMPLING_RATE, np.float32)]
    rows: list[tuple[object, ...]] = []
    at, end = len(parts[0]), 150 * SAMPLING_RATE
    for (code, waveform), gap in zip(cycle(utterances.items()), gaps, strict=False):
        pause = round(gap * SAMPLING_RATE)
        if at + len(waveform) + pause > end:
            break
        span = (at / SAMPLING_RATE, (at + len(waveform)) / SAMPLING_RATE)
        rows.append((*span, code[:2], SEXES[code[:2]], NAMES[code[5]], f"{code}.wav"))
        parts += [waveform, np.zeros(pause, np.float32)]
        at += len(waveform) + pause
    return _with_floor(np.concatenate(parts), 11), rows


def _sounds() -> Iterator[tuple[str, Waveform]]:
    """Noise, hum, music and animals: all that is no speech."""
    draw = np.random.default_rng(0)

    def noise(seconds: float) -> Waveform:
        return (0.1 * draw.normal(size=round(seconds * SAMPLING_RATE))).clip(-1, 1).astype(np.float32)

    def tones(seconds: float, *pitches: float, beat: float = 0.0) -> Waveform:
        t = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
        sound = sum(np.sin(2 * np.pi * pitch * n * t) / n**2 for pitch in pitches for n in range(1, 6))
        envelope = np.exp(-4 * (t % beat)) if beat else np.ones_like(t)
        return (0.5 * sound / len(pitches) * envelope).astype(np.float32)

    yield "gen_white.flac", noise(4)
    pink = np.fft.rfft(noise(4))
    yield "gen_pink.flac", np.fft.irfft(pink / np.sqrt(np.arange(1, len(pink) + 1))).astype(np.float32) * 4
    yield "gen_hum50.flac", tones(4, 50)
    chords = [(261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6)]
    music = np.concatenate([tones(2.5, *chord, beat=0.5) for chord in chords * 2])
    for name in ("musan_music_hd_0048", "brahms_hungarian_dance5", "macleod_sugar_plum"):
        yield f"{name}.flac", music
    yield "sorohanro_solo_trumpet.flac", tones(5.333, 440, beat=0.8)
    yield "musan_noise_free_sound_0442.flac", noise(15)
    t = np.arange(round(2.699 * SAMPLING_RATE)) / SAMPLING_RATE
    chirps = np.sin(2 * np.pi * (6000 * t + 50 * np.sin(5 * t))) * (np.sin(2 * np.pi * 4 * t) > 0)
    yield "inspectorj_robin.flac", (0.3 * chirps).astype(np.float32)
    yield (
        "nps_humpback.flac",
        (0.3 * np.sin(2 * np.pi * 300 * np.arange(12 * SAMPLING_RATE) / SAMPLING_RATE)).astype(np.float32),
    )

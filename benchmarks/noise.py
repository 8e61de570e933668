"""Measures how often noise in speech is noticed, by its kind and its level.

    python benchmarks/noise.py

Mixes noise into the segments of speech of the recordings in $E2V_TEST_AUDIO, by default ../shared/audio, and prints
Markdown. Takes a minute.
"""

import csv
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.prosody.measure import measure
from e2v_port.prosody.noise import signal_to_noise
from e2v_port.speech.detect import detect

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
STUDIO = ("emodb", "librispeech", "librivox")  # how names of recordings without noise begin
DECIBELS = (0, 5, 10, 15, 20, 25, 30, 40)
LIMIT = FusionSettings().noisy

Noise = Callable[[int], NDArray[np.float64]]


def main() -> None:
    """Prints the share of segments below the limit, and the cost."""
    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clips = {row["file"]: load_audio(AUDIO / row["file"]) for row in rows}
    quiet = {row["file"] for row in rows if row["corpus"] == "nonspeech"}
    segments: dict[str, list[Waveform]] = {"studio": [], "other": []}
    for name, clip in clips.items():
        kind = "studio" if name.startswith(STUDIO) else "other"
        judged = (item for item in detect(clip) if name not in quiet and item.quality in {"normal", "low_confidence"})
        segments[kind] += [clip[item.samples] for item in judged]
    for kind, parts in segments.items():
        found = sorted(map(signal_to_noise, parts))
        below = sum(value < LIMIT for value in found)
        print(f"{kind}: {below} of {len(parts)} segments below {LIMIT:g} dB; from {found[0]:.1f} to {found[-1]:.1f} dB")
    for seconds in 1, 2:
        size = seconds * SAMPLING_RATE
        windows = [part[at : at + size] for part in segments["studio"] for at in range(0, len(part) - size + 1, size)]
        below = sum(signal_to_noise(window) < LIMIT for window in windows)
        print(f"studio, windows of {seconds} s: {below} of {len(windows)}")

    print(f"\n| noise in studio recordings | {' | '.join(f'{snr} dB' for snr in DECIBELS)} |")
    print(f"|---|{'---|' * len(DECIBELS)}")
    for name, noise in noises(clips).items():
        cells = []
        for snr in DECIBELS:
            found = [signal_to_noise(mixed(part, noise, snr)) for part in segments["studio"]]
            cells.append(f"{np.mean(np.array(found) < LIMIT):.0%} ({np.median(found):.0f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)

    total = sum(map(len, segments["studio"])) / SAMPLING_RATE
    for function in signal_to_noise, measure:
        started = time.process_time()
        for part in segments["studio"]:
            function(part)
        print(f"\n{function.__name__}: {1000 * (time.process_time() - started) / total:.2f} ms per second of audio")


def mixed(part: Waveform, noise: Noise, snr: float) -> Waveform:
    """Returns a segment with noise at a level below that of the speech in it, which is what is not a pause."""
    power = np.square(part.astype(np.float64))[: len(part) // 160 * 160].reshape(-1, 160).mean(axis=1)
    speech = power[power > np.quantile(power, 0.95) / 10**2.5].mean()
    sound = noise(len(part))
    scale = np.sqrt(speech * 10 ** (-snr / 10) / np.square(sound).mean())
    sum_of_both: Waveform = (part + sound * scale).astype(np.float32)
    return sum_of_both


def noises(clips: dict[str, Waveform]) -> dict[str, Noise]:
    """Returns functions that make noise of a number of samples, of any power."""
    draw = np.random.default_rng(0)

    def colored(power: float, samples: int) -> NDArray[np.float64]:
        spectrum = np.fft.rfft(draw.normal(0, 1, samples))
        floor = samples // 800  # 20 Hz
        noise: NDArray[np.float64] = np.fft.irfft(
            spectrum / np.maximum(np.arange(len(spectrum)), floor) ** (power / 2), samples
        )
        return noise

    def taken(name: str, samples: int) -> NDArray[np.float64]:
        clip = np.tile(clips[name].astype(np.float64), 2)
        at = int(draw.integers(0, len(clip) - samples))
        return clip[at : at + samples]

    def babble(samples: int) -> NDArray[np.float64]:
        names = [f"librispeech_{number}.flac" for number in ("198-209-0000", "3436-172162-0000")]
        voices: NDArray[np.float64] = np.sum([taken(names[i % 2], samples) for i in range(8)], axis=0)
        return voices

    recorded = {
        "music, strings": "brahms_hungarian_dance5.flac",
        "music, electronic": "musan_music_hd_0048.flac",
        "noise that comes and goes": "musan_noise_free_sound_0442.flac",
    }
    return {
        **{name: partial(colored, power) for name, power in (("white", 0.0), ("pink", 1.0), ("brown", 2.0))},
        "eight voices": babble,
        **{name: partial(taken, file) for name, file in recorded.items()},
    }


if __name__ == "__main__":
    main()

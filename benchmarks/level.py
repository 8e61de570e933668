"""Measures the speech found in quiet, loud and coarsely quantized copies of recordings, and in what is no speech.

    python benchmarks/level.py

Compares what `detect` does with other ways to hear quiet speech. Reads the recordings in $E2V_TEST_AUDIO, by default
../shared/audio, and prints Markdown. Takes some minutes.
"""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.speech.detect import from_probabilities
from e2v_port.speech.level import EXPECTED, levels
from e2v_port.speech.segment import DEFAULTS, Segment
from e2v_port.speech.silero import FRAME_SAMPLES, speech_probabilities

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
FALL = 2 * FRAME_SAMPLES / SAMPLING_RATE  # dB per frame

Probabilities = NDArray[np.float32]
Levels = NDArray[np.float64]


def main() -> None:
    """Prints one table for speech and one for everything else."""
    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    speech = [load_audio(AUDIO / row["file"]) for row in rows if row["corpus"] != "nonspeech"]
    usual = [from_probabilities(speech_probabilities(clip), clip) for clip in speech]
    sounds = [load_audio(AUDIO / row["file"]) for row in rows if row["corpus"] == "nonspeech"]
    sounds += [*noises(), *pauses(speech, usual)]
    copies = {"as it is": [*speech], **{name: [copy(clip) for clip in speech] for name, copy in COPIES.items()}}

    print(
        f"Seconds of speech found in {len(speech)} recordings, and in parentheses how far they are those found in the"
    )
    print(
        "recordings as they are by silero alone (intersection over union); how many have exactly the same segments.\n"
    )
    print(f"| design | {' | '.join(copies)} | same |\n|---|{'---|' * len(copies)}---|")
    for name, heard in DESIGNS.items():
        cells = []
        for clips in copies.values():
            found = [from_probabilities(heard(clip), clip) for clip in clips]
            seconds = sum(segment.duration for segments in found for segment in segments)
            cells.append(f"{seconds:.0f} s ({agreement(found, usual, clips):.3f})")
            if clips is copies["as it is"]:
                same = sum(one == other for one, other in zip(found, usual, strict=True))
        print(f"| {name} | {' | '.join(cells)} | {same} |", flush=True)

    total = sum(map(len, sounds)) / SAMPLING_RATE
    copies = {"as it is": [*sounds], **{name: [copy(clip) for clip in sounds] for name, copy in COPIES.items()}}
    print(f"\nSeconds of speech found in {len(sounds)} sounds without speech, of {total:.0f} s.\n")
    print(f"| design | {' | '.join(copies)} |\n|---|{'---|' * len(copies)}")
    for name, heard in DESIGNS.items():
        cells = []
        for clips in copies.values():
            found = [from_probabilities(heard(clip), clip) for clip in clips]
            cells.append(f"{sum(segment.duration for segments in found for segment in segments):.1f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def raised(clip: Waveform, decibels: NDArray[np.float64] | float) -> Waveform:
    """Returns a clip raised by a number of dB, or by one for each frame."""
    factors = np.repeat(10 ** (np.atleast_1d(decibels) / 20), FRAME_SAMPLES)
    factors = factors[: len(clip)] if np.ndim(decibels) else factors[:1]
    return (clip * factors).astype(np.float32)


def quantized(clip: Waveform, bits: int) -> Waveform:
    """Returns a clip rounded to a number of bits."""
    steps = 2.0 ** (bits - 1)
    return (np.round(clip * steps) / steps).astype(np.float32)


def clicking(clip: Waveform) -> Waveform:
    """Returns a clip with a click of 20 ms at -12 dBFS every 4 s."""
    clip, draw = clip.copy(), np.random.default_rng(3)
    for at in range(2000, len(clip) - 320, 4 * SAMPLING_RATE):
        clip[at : at + 320] += draw.normal(0, 0.25, 320).astype(np.float32)
    return clip


COPIES: dict[str, Callable[[Waveform], Waveform]] = {
    "-20 dB": lambda clip: raised(clip, -20.0),
    "-30 dB": lambda clip: raised(clip, -30.0),
    "-40 dB": lambda clip: raised(clip, -40.0),
    "-20 dB, 8 bits": lambda clip: quantized(raised(clip, -20.0), 8),
    "-40 dB, 16 bits": lambda clip: quantized(raised(clip, -40.0), 16),
    "-40 dB, clicks": lambda clip: clicking(raised(clip, -40.0)),
    "+12 dB, clipped": lambda clip: raised(clip, 12.0).clip(-1, 1),
}


def frame_levels(clip: Waveform) -> Levels:
    """Returns the level of each frame in dBFS."""
    return levels(np.pad(clip, (0, -len(clip) % FRAME_SAMPLES)).reshape(-1, FRAME_SAMPLES))


def following(clip: Waveform) -> Levels:
    """Returns a gain in dB for each frame, from a peak that rises at once and falls slowly."""
    steps = np.arange(len(clip) // FRAME_SAMPLES + 1) * FALL
    loudest = frame_levels(clip)
    loudest = np.maximum.accumulate(loudest + steps[: len(loudest)]) - steps[: len(loudest)]
    gains: Levels = np.clip(EXPECTED - loudest, 0, DEFAULTS.max_gain)
    return gains


def recent(clip: Waveform) -> Levels:
    """Returns a gain in dB for each frame, from the level that a tenth of the last 10 s exceeds."""
    loudness, back = frame_levels(clip), 10 * SAMPLING_RATE // FRAME_SAMPLES
    loudest = [float(np.quantile(loudness[max(0, i - back) : i + 1], 0.9)) for i in range(len(loudness))]
    return np.clip(EXPECTED - np.array(loudest), 0, DEFAULTS.max_gain)


def lower_threshold(clip: Waveform) -> Probabilities:
    """Raises the probabilities of quiet frames, by up to 0.3: a threshold that falls to 0.2 over 20 dB."""
    shift = 0.3 * np.clip(following(clip) / 20, 0, 1)
    return np.clip(speech_probabilities(clip) + shift, 0, 1).astype(np.float32)


DESIGNS: dict[str, Callable[[Waveform], Probabilities]] = {
    "silero alone": speech_probabilities,
    "one gain for the clip (looks ahead)": lambda clip: speech_probabilities(
        raised(clip, float(np.clip(EXPECTED - np.quantile(frame_levels(clip), 0.95), 0, DEFAULTS.max_gain)))
    ),
    "gain after a peak": lambda clip: speech_probabilities(raised(clip, following(clip))),
    "gain after the loudest tenth of 10 s": lambda clip: speech_probabilities(raised(clip, recent(clip))),
    "threshold by level": lower_threshold,
    "quiet frames twice (in use)": lambda clip: speech_probabilities(clip, DEFAULTS.max_gain),
}


def noises() -> Iterator[Waveform]:
    """Yields the quiet sounds of rooms, machines and wires, 10 s each."""
    draw = np.random.default_rng(0)
    seconds = np.arange(10 * SAMPLING_RATE) / SAMPLING_RATE
    slow = 1 + 0.9 * np.sin(2 * np.pi * 0.3 * seconds)
    for power in 0.0, 1.0, 2.0:  # white, pink, brown
        spectrum = np.fft.rfft(draw.normal(0, 1, len(seconds)))
        noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** (power / 2), len(seconds))
        for level in -70, -60, -50:
            for sound in noise, noise * slow:
                yield (10 ** (level / 20) * sound / sound.std()).astype(np.float32)
    hum = np.sum([np.sin(2 * np.pi * 50 * n * seconds) / n for n in range(1, 8)], axis=0)
    beeps = np.sin(2 * np.pi * 1000 * seconds) * (seconds % 1 < 0.2)
    knocks = draw.normal(0, 1, len(seconds)) * np.exp(-(seconds % 0.6) / 0.02)
    typing = draw.normal(0, 1, len(seconds)) * np.exp(-(seconds * 5.3 % 1) / 0.05) * (seconds % 3 < 2)
    for sound in (
        hum,
        beeps,
        knocks,
        typing,
        np.sin(2 * np.pi * 440 * seconds),
        np.sin(2 * np.pi * 200 * seconds) * slow,
    ):
        yield (10**-2.75 * sound + draw.normal(0, 1e-4, len(seconds))).astype(np.float32)
    yield (draw.integers(-1, 2, len(seconds)) / 32768).astype(np.float32)  # dither


def pauses(clips: list[Waveform], found: list[list[Segment]]) -> Iterator[Waveform]:
    """Yields the rooms of the recordings: what lies 0.1 s and more outside speech, if that is a second or more."""
    margin = SAMPLING_RATE // 10
    for clip, segments in zip(clips, found, strict=True):
        ends = [0, *(segment.samples.stop for segment in segments)]
        starts = [*(segment.samples.start for segment in segments), len(clip)]
        for end, start in zip(ends, starts, strict=True):
            if start - end >= SAMPLING_RATE + 2 * margin:
                yield np.tile(clip[end + margin : start - margin], 3)


def agreement(found: list[list[Segment]], usual: list[list[Segment]], clips: list[Waveform]) -> float:
    """Returns the intersection of two findings over their union, in samples, over all clips."""
    both = either = 0
    for one, other, clip in zip(found, usual, clips, strict=True):
        masks = np.zeros((2, len(clip)), bool)
        for mask, segments in zip(masks, (one, other), strict=True):
            for segment in segments:
                mask[segment.samples] = True
        both += int((masks[0] & masks[1]).sum())
        either += int((masks[0] | masks[1]).sum())
    return both / either


if __name__ == "__main__":
    main()

"""Measures how often the intervals of indicators hold the truth, and how often they find what is not there.

    python benchmarks/indicators.py [FOLDER]

Prints Markdown. The truth of made recordings is known. FOLDER is speechocean762 (https://www.openslr.org/101): 250
speakers who read 20 sentences each. The sentences of a speaker follow each other in the order of their numbers; nothing
is known to change in them, so what is found is a false alarm or the drift of a voice that reads. Every sixth speaker is
taken, which takes some minutes.
"""

import math
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from e2v_port import Baseline, EmotionDetector, indicators
from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.emotions.intervals import line, mean, share, share_change

MEASURES = ("pitch", "tempo", "pauses", "tremor")
NEUTRAL = 5  # sentences that make the baseline
EVERY = 6  # every sixth speaker
MADE = 1000  # recordings of each kind
SHARE = 0.3
NAMES = ("level", "change", "slope", "share", "change of a share")


def main(folders: list[str]) -> None:
    """Prints both tables, or the first alone."""
    if folders:
        read(Path(folders[0]))
        print()
    made()


def made() -> None:
    """Prints how many intervals hold the truth, of segments of 1.5 to 6 s with normal scatter."""
    print(f"| segments | correlation of neighbors | {' | '.join(NAMES)} |")
    print(f"|---|---|{'---|' * len(NAMES)}")
    for count in (10, 30, 60):
        for memory in (0.0, 0.3, 0.6):
            rng = np.random.default_rng(0)
            held = np.mean([held_by(rng, count, memory) for _ in range(MADE)], axis=0)
            print(f"| {count} | {memory:g} | {' | '.join(f'{part:.1%}' for part in held)} |")


def held_by(rng: np.random.Generator, count: int, memory: float) -> list[bool]:
    """Returns whether the intervals of one recording hold the truth, in the order of `NAMES`."""
    third = count // 3
    times, weights = [8.0 * i for i in range(count)], rng.uniform(1.5, 6, count).tolist()
    noise = rng.normal(size=count)
    flags = (rng.random(count) < SHARE).astype(float)
    for i in range(1, count):
        noise[i] = memory * noise[i - 1] + math.sqrt(1 - memory**2) * noise[i]
        flags[i] = flags[i - 1] if rng.random() < memory else flags[i]
    values, set_flags = noise.tolist(), flags.tolist()

    def thirds(column: list[float]) -> tuple[tuple[list[float], list[float]], tuple[list[float], list[float]]]:
        return (column[:third], weights[:third]), (column[-third:], weights[-third:])

    before, after = thirds(values)
    truths = [
        (mean(values, weights).interval, 0.0),
        (mean(*after).minus(mean(*before)).interval, 0.0),
        (line(times, values, weights).interval, 0.0),
        (share(set_flags, weights)[1], SHARE),
        (share_change(*thirds(set_flags))[1], 0.0),
    ]
    return [low <= truth <= high for (low, high), truth in truths]


def read(folder: Path) -> None:
    """Prints the share of speakers in whom a change or a difference from the baseline is shown."""
    detector = EmotionDetector(backend="prosodic")
    gap = np.zeros(SAMPLING_RATE, np.float32)
    asked: Counter[str] = Counter()
    shown: Counter[str] = Counter()
    speakers = sorted(path for path in (folder / "WAVE").iterdir() if path.is_dir())[::EVERY]
    for speaker in speakers:
        clips = [load_audio(path) for path in sorted(speaker.glob("*.WAV"))]
        analysis = detector.analyze(np.concatenate([part for clip in clips for part in (clip, gap)]), SAMPLING_RATE)
        usable = [each for each in analysis.segments if each.prosody and each.prosody.pitch_mean and each.duration >= 1]
        try:
            baseline = Baseline.of([each.prosody for each in usable[:NEUTRAL] if each.prosody])
        except ValueError:  # too poor a recording
            continue
        later = replace(analysis, segments=tuple(usable[NEUTRAL:]))
        for voice, ending in ((indicators(analysis), "_change"), (indicators(later, baseline), "_shift")):
            for each in (number for one in voice.voices for number in one.indicators):
                if each.name.endswith(ending) and each.interval:
                    asked[each.name] += 1
                    shown[each.name] += not each.interval[0] <= 0 <= each.interval[1]
    print(f"| of {len(speakers)} speakers | measured in | a change is shown | measured in | a shift is shown |")
    print("|---|---|---|---|---|")
    for name in ("arousal", "valence", *MEASURES):
        cells = []
        for key in (f"{name}_change", f"{name}_shift"):
            cells += [str(asked[key]), f"{shown[key] / asked[key]:.1%}"] if asked[key] else ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])

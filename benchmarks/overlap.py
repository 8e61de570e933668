"""Measures how often a second voice changes the label of a clip, by the share of the clip in which it speaks.

    python benchmarks/overlap.py

Takes the sentences of EmoDB among the recordings in $E2V_TEST_AUDIO, by default ../shared/audio. Each is mixed twice
with another speaker's, at equal level, from a random place on. A model that never met them judges. Prints Markdown.
Takes a minute.
"""

import os
from pathlib import Path

import numpy as np

from e2v_port import load
from e2v_port.audio import SAMPLING_RATE, load_audio

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
MIXTURES = 2  # of each clip


def main() -> None:
    """Prints the share of labels that change."""
    model, rng = load("bundled-nc", runtime="cpu"), np.random.default_rng(0)
    clips = {path: load_audio(path) for path in sorted(AUDIO.glob("emodb_[0-9]*.flac"))}
    changed = dict.fromkeys(SHARES, 0)
    for path, clip in clips.items():
        label = model.predict(clip, SAMPLING_RATE).label
        others = [voice for other, voice in clips.items() if other.name[:8] != path.name[:8]]
        for number in rng.choice(len(others), MIXTURES, replace=False):
            voice = np.resize(others[number] * np.sqrt(np.mean(clip**2) / np.mean(others[number] ** 2)), len(clip))
            place = rng.random()
            for share in SHARES:
                size = round(share * len(clip))
                start = round(place * (len(clip) - size))
                mixed = clip.copy()
                mixed[start : start + size] += voice[start : start + size]
                changed[share] += model.predict(mixed, SAMPLING_RATE).label != label
    total = MIXTURES * len(clips)
    print(f"{len(clips)} clips, {total} mixtures\n")
    print(f"| share | {' | '.join(f'{share:g}' for share in SHARES)} |")
    print(f"|---|{'---|' * len(SHARES)}")
    print(f"| labels that change | {' | '.join(f'{count / total:.0%}' for count in changed.values())} |")


if __name__ == "__main__":
    main()

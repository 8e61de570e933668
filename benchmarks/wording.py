"""How often words and a voice are found to disagree, where they were made to and where they were not.

    E2V_TEST_AUDIO=FOLDER python benchmarks/wording.py [MODEL]

Each clip of EmoDB in the folder, with its acted emotion in manifest.csv, gets each of the English texts below as its
words. The sentences that were really spoken are German and of no particular valence.
"""

import csv
import os
import sys
from collections import Counter
from pathlib import Path

import e2v_port

TEXTS = {
    "pleasant": (
        "I love this, it is wonderful.",
        "What a great day, I am so happy.",
        "Thank you, you have been very kind and helpful.",
    ),
    "without": ("The table stands in the kitchen.", "We will meet at half past seven.", "It lies on the left side."),
    "unpleasant": (
        "This is terrible, I hate it.",
        "I am sad and afraid that it will be a disaster.",
        "You are a horrible liar.",
    ),
}
SIDES = {"happiness": "pleasant", "neutral": "neutral"}  # all others are unpleasant


def main(model: str) -> None:
    """Prints the table for a model."""
    folder = Path(os.environ["E2V_TEST_AUDIO"])
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        clips = [row for row in csv.DictReader(file) if row["corpus"] == "emodb" and row["sex"]]
    loaded = e2v_port.load(model)
    found: Counter[tuple[str, str, str]] = Counter()
    for clip in clips:
        side = SIDES.get(clip["emotion"], "unpleasant")
        for kind, texts in TEXTS.items():
            for text in texts:
                segments = [e2v_port.GivenSegment(0.0, float(clip["duration_s"]), text=text)]
                analysis = e2v_port.analyze(folder / clip["file"], model=loaded, segments=segments, language="en")
                [turn] = analysis.turns or ()
                assert turn.wording
                doubt = "doubt" if (turn.wording.reason or "").startswith("the emotion") else "none"
                found[side, kind, "mismatch" if turn.wording.mismatch else doubt] += 1
    print("| acted voice | words | turns | mismatch | voice in doubt |\n|---|---|---|---|---|")
    for side in ("pleasant", "neutral", "unpleasant"):
        for kind in TEXTS:
            every = sum(count for (s, k, _), count in found.items() if (s, k) == (side, kind))
            shares = [found[side, kind, what] / every for what in ("mismatch", "doubt")]
            print(f"| {side} | {kind} | {every} | " + " | ".join(f"{share:.0%}" for share in shares) + " |")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "bundled")

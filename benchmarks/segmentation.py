"""How much of the speech is found, and how much that is none, on recordings with known boundaries and without speech.

    python benchmarks/segmentation.py

Reads the recordings in ../shared/audio, or in $E2V_TEST_AUDIO, and prints Markdown.
"""

import csv
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.segments import DEFAULTS, detect, from_probabilities, speech_probabilities
from e2v_port.transcripts import Span, read_segments

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
LONG = replace(DEFAULTS, max_duration=1e6)
REPEATS = 3


def main() -> None:
    """Prints two tables and a line about speed."""
    waveform = load_audio(AUDIO / "emodb_timeline.flac")
    utterances = read_segments(AUDIO / "emodb_timeline.csv")
    probabilities = speech_probabilities(waveform)
    print("| emodb_timeline: 53 utterances | segments | precision | recall |\n|---|---|---|---|")
    for name, settings in (
        ("stretches, as silero finds them", replace(LONG, merge_gap=0)),
        ("segments, pauses under 1.5 s within them", DEFAULTS),
    ):
        found = from_probabilities(probabilities, waveform, settings)
        common = shared(found, utterances)
        print(f"| {name} | {len(found)} | {common / total(found):.3f} | {common / total(utterances):.3f} |")

    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        clips = {
            row["file"]: row["note"].split(";")[0] if row["corpus"] in {"nonspeech", "longform"} else row["corpus"]
            for row in csv.DictReader(file)
            if row["corpus"] != "emodb"
        }
    print("\n| clip | what | seconds | segments | of them in s | highest probability |\n|---|---|---|---|---|---|")
    for name, note in clips.items():
        waveform = load_audio(AUDIO / name)
        probabilities = speech_probabilities(waveform)
        found = from_probabilities(probabilities, waveform)
        where = ", ".join(f"{segment.start:.1f}-{segment.end:.1f}" for segment in found)
        seconds = len(waveform) / SAMPLING_RATE
        print(f"| {name} | {note} | {seconds:.1f} | {len(found)} | {where} | {probabilities.max():.2f} |")

    waveform = load_audio(AUDIO / "emodb_timeline.flac")
    taken = []
    for _ in range(REPEATS):
        before = time.perf_counter()
        detect(waveform)
        taken.append(time.perf_counter() - before)
    print(f"\n{1000 * min(taken) / (len(waveform) / SAMPLING_RATE):.2f} ms per second of audio, best of {REPEATS}.")


def total(spans: Sequence[Span]) -> float:
    """Seconds in spans that do not overlap."""
    return sum(span.end - span.start for span in spans)


def shared(spans: Sequence[Span], others: Sequence[Span]) -> float:
    """Seconds in both."""
    return sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in spans for b in others)


if __name__ == "__main__":
    main()

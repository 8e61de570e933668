"""Measures precision and recall of speech detection, on recordings with known boundaries and without speech.

    python benchmarks/segmentation.py

Reads the recordings in $E2V_TEST_AUDIO, by default ../shared/audio, and prints Markdown.
"""

import csv
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from e2v_port.audio import SAMPLING_RATE, load_audio
from e2v_port.speech.align import Timed
from e2v_port.speech.detect import detect, from_probabilities
from e2v_port.speech.segment import DEFAULTS
from e2v_port.speech.silero import speech_probabilities
from e2v_port.speech.transcripts import read_segments

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
LONG = replace(DEFAULTS, max_duration=1e6)
REPEATS = 3


def main() -> None:
    """Prints two tables and the speed."""
    waveform = load_audio(AUDIO / "emodb_timeline.flac")
    utterances = read_segments(AUDIO / "emodb_timeline.csv")
    probabilities = speech_probabilities(waveform)
    print("| emodb_timeline: 53 utterances | segments | precision | recall |\n|---|---|---|---|")
    for name, settings in (
        ("speech as found by silero", replace(LONG, merge_gap=0)),
        ("segments, with pauses under 1.5 s inside", DEFAULTS),
    ):
        segments = from_probabilities(probabilities, waveform, settings)
        common = shared(segments, utterances)
        print(f"| {name} | {len(segments)} | {common / total(segments):.3f} | {common / total(utterances):.3f} |")

    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        clips = {
            row["file"]: row["note"].replace(",", ";").split(";")[0]
            if row["corpus"] in {"nonspeech", "longform"}
            else row["corpus"]
            for row in csv.DictReader(file)
            if row["corpus"] != "emodb"
        }
    print("\n| clip | contents | seconds | segments | start-end in s | top probability |\n|---|---|---|---|---|---|")
    for name, note in clips.items():
        waveform = load_audio(AUDIO / name)
        probabilities = speech_probabilities(waveform)
        segments = from_probabilities(probabilities, waveform)
        where = ", ".join(f"{segment.start:.1f}-{segment.end:.1f}" for segment in segments)
        seconds = len(waveform) / SAMPLING_RATE
        print(f"| {name} | {note} | {seconds:.1f} | {len(segments)} | {where} | {probabilities.max():.2f} |")

    waveform = load_audio(AUDIO / "emodb_timeline.flac")
    taken = []
    for _ in range(REPEATS):
        before = time.perf_counter()
        detect(waveform)
        taken.append(time.perf_counter() - before)
    print(f"\n{1000 * min(taken) / (len(waveform) / SAMPLING_RATE):.2f} ms per second of audio, best of {REPEATS}.")


def total(spans: Sequence[Timed]) -> float:
    """Returns the total seconds of spans that do not overlap."""
    return sum(span.end - span.start for span in spans)


def shared(spans: Sequence[Timed], others: Sequence[Timed]) -> float:
    """Returns the seconds that two lists of spans have in common."""
    return sum(max(0.0, min(a.end, b.end) - max(a.start, b.start)) for a in spans for b in others)


if __name__ == "__main__":
    main()

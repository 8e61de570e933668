"""Measures how much speech gets the right label, by the longest part preferred where a long segment is split.

    python benchmarks/splitting.py

Joins acted sentences of the recordings in $E2V_TEST_AUDIO, by default ../shared/audio, to turns of 12 to 40 s in which
the emotion changes, judges them with a model that never met them, and prints Markdown. Takes some minutes.
"""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, load_audio
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.speech.detect import from_probabilities
from e2v_port.speech.segment import DEFAULTS
from e2v_port.speech.silero import speech_probabilities

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
LABELS = {"anger": "angry", "disgust": "disgusted", "fear": "fearful", "happiness": "happy", "sadness": "sad"}
LABELS |= {"neutral": "neutral"}
TURNS = 60
LASTING = (3, 6)  # s that an emotion lasts
PREFERRED = (11.0, 8.0)

Turn = tuple[Waveform, list[tuple[int, int, str]]]


def main() -> None:
    """Prints the share of the speech that gets the right label."""
    sentences: dict[str, list[Waveform]] = {}
    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["corpus"] == "emodb" and row["emotion"] in LABELS:
                sentences.setdefault(LABELS[row["emotion"]], []).append(load_audio(AUDIO / row["file"]))
    model = load("bundled-nc", runtime="cpu")
    print(f"| an emotion lasts | {' | '.join(f'up to {seconds:g} s preferred' for seconds in PREFERRED)} |")
    print(f"|---|{'---|' * len(PREFERRED)}")
    for lasting in LASTING:
        draw = np.random.default_rng(lasting)
        turns = [turn(sentences, lasting, draw) for _ in range(TURNS)]
        cells = [f"{right(turns, seconds, model):.1%}" for seconds in PREFERRED]
        print(f"| {lasting} s | {' | '.join(cells)} |", flush=True)


def turn(sentences: dict[str, list[Waveform]], lasting: float, draw: np.random.Generator) -> Turn:
    """Returns sentences with short pauses between them, and the samples and label of each."""
    parts: list[Waveform] = []
    spans: list[tuple[int, int, str]] = []
    length, at, until, label = draw.uniform(12, 40) * SAMPLING_RATE, 0, 0.0, ""
    while at < length:
        if at >= until:
            label = str(draw.choice([name for name in sentences if name != label]))
            until = at + draw.uniform(0.5, 1.5) * lasting * SAMPLING_RATE
        sentence = sentences[label][draw.integers(len(sentences[label]))]
        spans.append((at, at + len(sentence), label))
        parts += [sentence, np.zeros(int(draw.uniform(0.35, 0.9) * SAMPLING_RATE), np.float32)]
        at += len(parts[-2]) + len(parts[-1])
    return (np.concatenate(parts) + draw.normal(0, 1e-4, at)).astype(np.float32), spans


def right(turns: list[Turn], preferred: float, model: Model) -> float:
    """Returns the share of the speech in segments that get its label."""
    settings = replace(DEFAULTS, preferred_duration=preferred)
    parts: list[Clip] = []
    truths = []
    for waveform, spans in turns:
        for segment in from_probabilities(speech_probabilities(waveform), waveform, settings):
            first, last = segment.samples.start, segment.samples.stop
            parts.append(waveform[segment.samples])
            truths.append([(max(0, min(end, last) - max(start, first)), label) for start, end, label in spans])
    total = hit = 0
    for prediction, truth in zip(model.predict(parts, SAMPLING_RATE), truths, strict=True):
        total += sum(samples for samples, _ in truth)
        hit += sum(samples for samples, label in truth if label == prediction.label)
    return hit / total


if __name__ == "__main__":
    main()

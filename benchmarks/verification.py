"""Measures how well enrolled voices are told from others: false accepts and false rejects by seconds of speech.

    python benchmarks/verification.py ocean=FOLDER librispeech=FOLDER [--model bundled-voices] [--most 100]

Each corpus is a folder with one folder of recordings for each speaker, or a folder with a `manifest.csv` that has the
columns file, speaker and emotion. Every speaker is enrolled from the first 10 s of speech in whole recordings, by name,
neutral ones first, or from half of them where there are fewer; the rest is cut into pieces, which are compared with everybody enrolled. The first corpus is the one
that a threshold is fitted on: the lowest with at most 1 % false accepts in pieces of 4 s. Prints Markdown.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.speakers.known import stretches
from e2v_port.speakers.roster import LEAST_SECONDS, mean_of, threshold_of

ENROLLED = 10  # s of speech
LENGTHS = {1: 4, 2: 4, 4: 4, 8: 3}  # s of a piece, and pieces of each speaker
ACCEPTED = 0.01  # share of other voices, at most
FITTED = 4  # s


@dataclass
class Speaker:
    """A speaker: the embedding that is enrolled, and those of pieces by their length in seconds."""

    enrolled: NDArray[np.float32]
    pieces: dict[int, list[NDArray[np.float32]]]


def main() -> None:
    """Prints a table of all corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="bundled-voices")
    parser.add_argument("--most", type=int, default=100, help="speakers of each corpus")
    options = parser.parse_args()
    encoder = load(options.model, runtime="cpu")
    threshold = threshold_of(encoder)
    print("| corpus | speakers | speech | comparisons | EER | false accepts | false rejects | somebody else's name |")
    print("|---|---|---|---|---|---|---|---|")
    for corpus in options.corpora:
        name, _, folder = corpus.partition("=")
        speakers = [*embedded(encoder, Path(folder), options.most)]
        fitted = lowest(*similarities(speakers, FITTED))
        threshold = fitted if threshold is None else threshold
        for seconds in LENGTHS:
            print(row(name, speakers, seconds, threshold), flush=True)
        print(f"{name}: {ACCEPTED:.0%} of other voices in {FITTED} s are above {fitted:.3f}", flush=True)


def recordings(folder: Path) -> dict[str, list[Path]]:
    """Returns the recordings of each speaker, neutral ones first where that is known."""
    if not (folder / "manifest.csv").exists():
        suffixes = {".wav", ".flac", ".mp3"}
        return {
            place.name: sorted(file for file in place.rglob("*") if file.suffix.lower() in suffixes)
            for place in sorted(folder.iterdir())
            if place.is_dir()
        }
    found: dict[str, list[tuple[bool, Path]]] = {}
    with open(folder / "manifest.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["speaker"] and row["emotion"]:
                found.setdefault(row["speaker"], []).append((row["emotion"] != "neutral", folder / row["file"]))
    return {speaker: [path for _, path in sorted(files)] for speaker, files in found.items()}


def embedded(encoder: Model, folder: Path, most: int) -> Iterator[Speaker]:
    """Yields the speakers of a corpus who say enough."""
    for files in [*recordings(folder).values()][:most]:
        spoken = [np.concatenate(parts) for file in files if (parts := stretches(load_audio(file)))]
        enrolled: list[Waveform] = []
        half = sum(map(len, spoken)) / 2
        while sum(map(len, enrolled)) < min(ENROLLED * SAMPLING_RATE, half):
            enrolled.append(spoken.pop(0))
        if not spoken or sum(map(len, enrolled)) < LEAST_SECONDS * SAMPLING_RATE:
            continue
        rest = np.concatenate(spoken)
        cut = {seconds: [*pieces(rest, seconds * SAMPLING_RATE, count)] for seconds, count in LENGTHS.items()}
        sounds = [*enrolled, *(piece for each in cut.values() for piece in each)]
        embeddings = iter(encoder.embed(sounds, SAMPLING_RATE))
        own = [next(embeddings) for _ in enrolled]
        yield Speaker(
            mean_of(own, [len(sound) for sound in enrolled]),
            {seconds: [next(embeddings) for _ in each] for seconds, each in cut.items()},
        )


def pieces(waveform: Waveform, length: int, count: int) -> Iterator[Waveform]:
    """Yields pieces that lie evenly in a waveform and do not overlap."""
    count = min(count, len(waveform) // length)
    for i in range(count):
        start = i * len(waveform) // count
        yield waveform[start : start + length]


def similarities(speakers: list[Speaker], seconds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the similarities of pieces with their own speaker, and with all others."""
    own, other = [], []
    for i, speaker in enumerate(speakers):
        for piece in speaker.pieces[seconds]:
            for j, enrolled in enumerate(speakers):
                (own if i == j else other).append(float(mean_of([piece]) @ enrolled.enrolled))
    return np.array(own), np.array(other)


def lowest(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Returns the lowest threshold that accepts at most the allowed share of other voices."""
    return float(np.quantile(other, 1 - ACCEPTED))


def equal_error(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Returns the error rate at the threshold where false accepts and false rejects are equal."""
    thresholds = np.sort(np.concatenate([own, other]))
    rejects = np.searchsorted(np.sort(own), thresholds) / len(own)
    accepts = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    nearest = int(np.argmin(np.abs(rejects - accepts)))
    return float(rejects[nearest] + accepts[nearest]) / 2


def row(name: str, speakers: list[Speaker], seconds: int, threshold: float) -> str:
    """Returns the line of one corpus and one length."""
    own, other = similarities(speakers, seconds)
    wrong = total = 0
    for i, speaker in enumerate(speakers):
        for piece in speaker.pieces[seconds]:
            alike = [float(mean_of([piece]) @ each.enrolled) for each in speakers]
            wrong += int(np.argmax(alike)) != i and max(alike) >= threshold
            total += 1
    cells = [name, f"{len(speakers)}", f"{seconds} s", f"{len(own)} + {len(other)}", f"{equal_error(own, other):.1%}"]
    cells += [f"{np.mean(other >= threshold):.2%}", f"{np.mean(own < threshold):.1%}", f"{wrong / total:.1%}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

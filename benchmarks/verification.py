"""Measures how well enrolled voices are told from others: false accepts and false rejects by seconds of speech.

    python benchmarks/verification.py ocean=FOLDER librispeech=FOLDER [--model bundled-voices] [--most 100]

Each corpus is a folder with one folder of recordings for each speaker, or a folder with a `manifest.csv` that has the
columns file, speaker and emotion. Every speaker is enrolled from the first 10 s of speech in whole recordings, by name,
neutral ones first, or from half of them where there are fewer; the rest is cut into stretches, which are compared with
everybody enrolled, as the thresholds of the package say. The second table has the similarities that 1 % of other voices
exceed, from which thresholds are fitted. Prints Markdown.
"""

import argparse
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.speakers.known import pieces, stretches
from e2v_port.speakers.roster import LEAST_SECONDS, Roster, mean_of

ENROLLED = 10  # s of speech
LENGTHS = {1: 4, 2: 4, 4: 4, 8: 3}  # s of a piece, and pieces of each speaker
ACCEPTED = 0.01  # share of other voices, at most
FITTED = 4  # s
SPREAD = 6  # of that many recordings in a row, the first are enrolled


@dataclass
class Speech:
    """The embedding of a stretch of speech, and those of its pieces of 2 s."""

    whole: NDArray[np.float32]
    pieces: list[NDArray[np.float32]]


@dataclass
class Speaker:
    """The embedding that is enrolled, and the speech that it is compared with, by its length in seconds."""

    enrolled: NDArray[np.float32]
    seconds: float
    speech: dict[int, list[Speech]]
    sounds: list[Waveform]  # 4 s each


def main() -> None:
    """Prints a table of all corpora."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--model", default="bundled-voices")
    parser.add_argument("--most", type=int, default=100, help="speakers of each corpus")
    parser.add_argument("--spread", action="store_true", help="enroll from recordings spread over all of a speaker")
    options = parser.parse_args()
    encoder = load(options.model, runtime="cpu")
    print("| corpus | speakers | speech | comparisons | EER | false accepts | false rejects | somebody else's name |")
    print("|---|---|---|---|---|---|---|---|")
    fitted, two = [], []
    for corpus in options.corpora:
        name, _, folder = corpus.partition("=")
        speakers = [*embedded(encoder, Path(folder), options.most, options.spread)]
        for seconds in LENGTHS:
            print(row(name, speakers, seconds, encoder), flush=True)
        other = {seconds: similarities(speakers, seconds)[1] for seconds in LENGTHS}
        cells = [f"{np.quantile(each, 1 - ACCEPTED):.3f}" if len(each) else "" for each in other.values()]
        fitted.append(f"| {name} | {' | '.join(cells)} |")
        two.append(f"| {name} | {mixed(encoder, speakers, 2):.1%} | {mixed(encoder, speakers, 4):.1%} |")
    print(f"\n| {ACCEPTED:.0%} of other voices are above | {' | '.join(f'{seconds} s' for seconds in LENGTHS)} |")
    print(f"|---|{'---|' * len(LENGTHS)}")
    print("\n".join(fitted))
    print("\n| named, of 4 s of the voice and some of another | 2 s | 4 s |\n|---|---|---|")
    print("\n".join(two))


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


def embedded(encoder: Model, folder: Path, most: int, spread: bool) -> Iterator[Speaker]:
    """Yields the speakers of a corpus who say enough."""
    for files in [*recordings(folder).values()][:most]:
        spoken = [np.concatenate(parts) for file in files if (parts := stretches(load_audio(file)))]
        if spread:
            spoken = [sound for i in range(SPREAD) for sound in spoken[i::SPREAD]]
        enrolled: list[Waveform] = []
        half = sum(map(len, spoken)) / 2
        while sum(map(len, enrolled)) < min(ENROLLED * SAMPLING_RATE, half):
            enrolled.append(spoken.pop(0))
        total = sum(map(len, enrolled)) / SAMPLING_RATE
        if not spoken or total < LEAST_SECONDS:
            continue
        rest = np.concatenate(spoken)
        cut = {seconds: [*evenly(rest, seconds * SAMPLING_RATE, count)] for seconds, count in LENGTHS.items()}
        mean = mean_of(encoder.embed([*enrolled], SAMPLING_RATE), [len(sound) for sound in enrolled])
        speech = {seconds: [heard(encoder, sound) for sound in sounds] for seconds, sounds in cut.items()}
        yield Speaker(mean, total, speech, cut[FITTED])


def heard(encoder: Model, sound: Waveform) -> Speech:
    """Returns the embeddings of a stretch of speech, as a recognition compares them."""
    whole, *parts = encoder.embed([sound, *pieces(sound)], SAMPLING_RATE)
    return Speech(whole, parts)


def mixed(encoder: Model, speakers: list[Speaker], seconds: int) -> float:
    """Returns the share of 4 s of a voice that are named although some seconds of the next speaker follow."""
    named = []
    for one, other in pairwise([*speakers, speakers[0]]):
        for own, foreign in zip(one.sounds, other.sounds, strict=False):
            speech = heard(encoder, np.concatenate([own, foreign[: seconds * SAMPLING_RATE]]))
            named.append(roster(encoder, [one]).identify(speech.whole, 4 + seconds, speech.pieces)[0] is not None)
    return float(np.mean(named))


def roster(encoder: Model, speakers: list[Speaker]) -> Roster:
    """Returns a roster with these speakers, by their number."""
    found = Roster.of(encoder)
    for i, speaker in enumerate(speakers):
        found.enroll(f"number {i}", [speaker.enrolled], [speaker.seconds])
    return found


def evenly(waveform: Waveform, length: int, count: int) -> Iterator[Waveform]:
    """Yields pieces that lie evenly in a waveform and do not overlap."""
    count = min(count, len(waveform) // length)
    for i in range(count):
        start = i * len(waveform) // count
        yield waveform[start : start + length]


def similarities(speakers: list[Speaker], seconds: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the similarities of pieces with their own speaker, and with all others."""
    own: list[float] = []
    other: list[float] = []
    for i, speaker in enumerate(speakers):
        for speech in speaker.speech[seconds]:
            for j, enrolled in enumerate(speakers):
                (own if i == j else other).append(float(mean_of([speech.whole]) @ enrolled.enrolled))
    return np.array(own), np.array(other)


def equal_error(own: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Returns the error rate at the threshold where false accepts and false rejects are equal."""
    thresholds = np.sort(np.concatenate([own, other]))
    rejects = np.searchsorted(np.sort(own), thresholds) / len(own)
    accepts = 1 - np.searchsorted(np.sort(other), thresholds) / len(other)
    nearest = int(np.argmin(np.abs(rejects - accepts)))
    return float(rejects[nearest] + accepts[nearest]) / 2


def row(name: str, speakers: list[Speaker], seconds: int, encoder: Model) -> str:
    """Returns the line of one corpus and one length."""
    own, other = similarities(speakers, seconds)
    if not len(own):
        return f"| {name} | {len(speakers)} | {seconds} s | 0 |  |  |  |  |"
    everybody, alone = roster(encoder, speakers), [roster(encoder, [speaker]) for speaker in speakers]
    accepted, rejected, wrong = [], [], []
    for i, speaker in enumerate(speakers):
        for speech in speaker.speech[seconds]:
            given = (speech.whole, seconds, speech.pieces)
            names = [each.identify(*given)[0] for each in alone]
            rejected.append(names.pop(i) is None)
            accepted += [named is not None for named in names]
            wrong.append(everybody.identify(*given)[0] not in {None, f"number {i}"})
    cells = [name, f"{len(speakers)}", f"{seconds} s", f"{len(own)} + {len(other)}", f"{equal_error(own, other):.1%}"]
    cells += [f"{np.mean(accepted):.2%}", f"{np.mean(rejected):.1%}", f"{np.mean(wrong):.1%}"]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

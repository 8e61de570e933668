"""Measures speaker encoders: equal error rates by length and loudness, and the speed beside Resemblyzer.

    python benchmarks/speakers.py CORPUS [--model bundled-voices] [--clips 8] [--speakers 60]
    python benchmarks/speakers.py --speed

CORPUS is a folder with one folder of recordings for each speaker. Of every recording, one piece is taken out of its
middle, and each piece is compared with every other: the equal error rate is where as many pairs of one speaker fall
below the threshold as pairs of two speakers lie above it. Pairs within one recording do not occur. Prints tables in
Markdown.

`--speed` times Resemblyzer's own `embed_utterance` and this package on each of its runtimes, in turns, on the same
clips in this process and on one thread; the figures are seconds of user time, which other programs on the machine move
less than the clock.
"""

import argparse
import random
import resource
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import e2v_port
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.models import devices
from e2v_port.quiet import quiet

SECONDS = (0.5, 1.0, 1.6, 2.0, 3.0, 5.0)
GAINS = (-30.0, 10.0)  # dB, the range that random gains are drawn from
SUFFIXES = {".flac", ".wav", ".ogg", ".mp3"}


def equal_error(embeddings: NDArray[np.float32], speakers: Sequence[str]) -> tuple[float, float]:
    """Returns the equal error rate over all pairs, and the cosine similarity that it lies at.

    Args:
        embeddings: [clips, dim], of length 1.
        speakers: Speaker of each clip.
    """
    first, second = np.triu_indices(len(embeddings), 1)
    similar = (embeddings @ embeddings.T)[first, second]
    names = np.array(speakers)
    same = names[first] == names[second]
    inside, outside = np.sort(similar[same]), np.sort(similar[~same])
    missed = np.searchsorted(inside, inside, "left") / len(inside)
    taken = 1 - np.searchsorted(outside, inside, "left") / len(outside)
    at = int(np.argmin(np.abs(missed - taken)))
    return float(missed[at] + taken[at]) / 2, float(inside[at])


def pieces(corpus: Path, speakers: int, clips: int) -> list[tuple[str, Waveform]]:
    """Returns up to so many recordings of up to so many speakers, drawn once for all tables."""
    draw = random.Random(0)
    folders = sorted(folder for folder in corpus.iterdir() if folder.is_dir())
    found = []
    for folder in sorted(draw.sample(folders, min(speakers, len(folders)))):
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        found += [(folder.name, load_audio(file)) for file in draw.sample(files, min(clips, len(files)))]
    return found


def middle(clip: Waveform, size: int) -> Waveform:
    """Returns so many samples out of the middle of a clip: many begin and end with silence."""
    start = (len(clip) - size) // 2
    return clip[start : start + size]


def amplified(clips: Sequence[Waveform]) -> list[Waveform]:
    """Returns the clips, each with a gain of its own from GAINS."""
    draw = np.random.default_rng(1)
    return [(clip * 10 ** (draw.uniform(*GAINS) / 20)).astype(np.float32) for clip in clips]


def error_rates(model: e2v_port.Model, corpus: Path, speakers: int, clips: int) -> None:
    """Prints the table of one corpus."""
    found = pieces(corpus, speakers, clips)
    print(f"{len({name for name, _ in found})} speakers, {len(found)} recordings\n")
    print("| seconds | clips | EER | at | EER with random gains |\n|---|---|---|---|---|")
    for seconds in (*SECONDS, None):
        size = round(seconds * SAMPLING_RATE) if seconds else 0
        chosen = [(name, middle(clip, size) if size else clip) for name, clip in found if len(clip) >= size]
        names, cut = [name for name, _ in chosen], [clip for _, clip in chosen]
        if len({*names}) < 2 or len({*names}) == len(names):
            continue
        rate, at = equal_error(np.stack(model.embed(cut, SAMPLING_RATE)), names)
        moved, _ = equal_error(np.stack(model.embed(amplified(cut), SAMPLING_RATE)), names)
        print(f"| {seconds or 'all'} | {len(cut)} | {rate:.3f} | {at:.2f} | {moved:.3f} |", flush=True)


def user_seconds(call: Callable[[], object]) -> float:
    """Returns the user time of one call."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime - before


def speed() -> None:
    """Prints the table of user times."""
    import torch

    torch.set_num_threads(1)
    with quiet():
        from resemblyzer import VoiceEncoder

        encoder = VoiceEncoder("cpu", verbose=False)
    calls: dict[str, Callable[[Waveform], object]] = {"Resemblyzer": encoder.embed_utterance}
    for runtime in devices.RUNTIMES:
        if devices.unavailable(runtime) is None:
            model = e2v_port.load("bundled-voices", runtime=runtime, offline=True)
            calls[f"e2v-port, {runtime}"] = lambda clip, model=model: model.embed(clip, SAMPLING_RATE)  # type: ignore[misc]
    noise = np.random.default_rng(0).standard_normal(60 * SAMPLING_RATE).astype(np.float32) * np.float32(0.1)
    rows: dict[str, list[str]] = {name: [] for name in calls}
    lengths = (1.6, 5.0, 30.0)
    for seconds in lengths:
        clip = noise[: round(seconds * SAMPLING_RATE)]
        times: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(8):
            for name, call in calls.items():
                taken = user_seconds(lambda call=call, clip=clip: call(clip))  # type: ignore[misc]
                if turn:  # the first of each warms up
                    times[name].append(taken)
        middle = {name: statistics.median(each) for name, each in times.items()}
        for name, taken in middle.items():
            rows[name].append(f"{1000 * taken:.0f} ms ({middle['Resemblyzer'] / taken:.1f})")
    print(f"| user time | {' | '.join(f'{seconds:g} s' for seconds in lengths)} |")
    print("|---" * (1 + len(lengths)) + "|")
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, nargs="?", help="folder with one folder of recordings for each speaker")
    parser.add_argument("--model", default="bundled-voices")
    parser.add_argument("--runtime", default="cpu")
    parser.add_argument("--speakers", type=int, default=60)
    parser.add_argument("--clips", type=int, default=8, help="recordings of each speaker")
    parser.add_argument("--speed", action="store_true", help="measure the speed beside Resemblyzer")
    arguments = parser.parse_args()
    if arguments.corpus is None and not arguments.speed:
        parser.error("name a corpus, or pass --speed")
    if arguments.corpus:
        model = e2v_port.load(arguments.model, runtime=arguments.runtime)
        error_rates(model, arguments.corpus, arguments.speakers, arguments.clips)
    if arguments.speed:
        speed()


if __name__ == "__main__":
    sys.exit(main())

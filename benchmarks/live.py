"""Measures streams: speed and delay, over hours as well, and agreement with the analysis of the whole recording.

    python benchmarks/live.py [--seconds 60] [--hours 8] [--model NAME]

Runs on one core, with the recordings in ../shared/audio or in $E2V_TEST_AUDIO, and prints Markdown.
"""

import argparse
import os
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.emotions.trajectory import trajectory
from e2v_port.errors import AudioError
from e2v_port.live.detector import EmotionDetector
from e2v_port.live.follower import LiveSettings
from e2v_port.live.results import VoiceSegment

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
BLOCK = 320  # samples: 20 ms, as from a sound card
NEAR = 0.25  # s between two boundaries that count as the same
PART = 1800  # s of a long stream per row of figures


@dataclass(frozen=True)
class Said:
    """The part of a segment that a trajectory uses."""

    at: float
    duration: float
    valence: float | None
    dimensions_from: str | None = "model"
    speaker: str | None = None


def main() -> None:
    """Prints six tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="audio at real-time pace, per backend")
    parser.add_argument("--hours", type=float, default=8, help="length of the long stream; 0 for none")
    parser.add_argument("--model", help="an emotion2vec model to measure as well")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    clips = dict(readable(sorted(AUDIO.iterdir())))
    waveform = np.concatenate([*clips.values()])
    detectors = {name: EmotionDetector(backend=name) for name in ("bundled", "prosodic", "hybrid")}
    detectors["bundled-tiny"] = EmotionDetector("bundled-tiny")
    if options.model:
        detectors["emotion2vec"] = EmotionDetector(options.model)

    print("| backend | s of audio | share of real time | of it finals |\n|---|---|---|---|")
    for name, detector in detectors.items():
        print(f"| {name} | {len(waveform) / SAMPLING_RATE:.0f} | {' | '.join(throughput(detector, waveform))} |")

    spoken = clips["ami_EN2002a_30s.flac"]
    paced = np.tile(spoken, int(options.seconds * SAMPLING_RATE / len(spoken)) + 1)
    paced = paced[: int(options.seconds * SAMPLING_RATE)]
    if len(paced):
        print("\n| backend, real-time pace | results | median ms | 95 % | worst |\n|---|---|---|---|---|")
        for name, detector in detectors.items():
            for kind, seconds in latencies(detector, paced).items():
                cells = " | ".join(f"{1000 * value:.0f}" for value in np.quantile(seconds, [0.5, 0.95, 1]))
                print(f"| {name}, {kind} | {len(seconds)} | {cells} |")

    print("\n| final segments | offline | live | same within 0.25 s |\n|---|---|---|---|")
    detector = detectors["bundled"]
    pairs = [(finals(detector, clip), [*detector.analyze(clip, SAMPLING_RATE).segments]) for clip in clips.values()]
    print(f"| {len(clips)} recordings by themselves | {compared(pairs)} |")
    whole = (finals(detector, waveform), [*detector.analyze(waveform, SAMPLING_RATE).segments])
    print(f"| all in a row | {compared([whole])} |")

    print("\n| recording | windows | raw changes | steadied | raw equal | steadied |\n|---|---|---|---|---|---|")
    for name in ("ami_EN2002a_30s.flac", "librivox_idle_hour_john_clare.flac", "emodb_timeline.flac"):
        print(f"| {name} | {' | '.join(map(str, steadiness(clips[name])))} |")

    print("\n| segments | correlation of neighbors | trend reported | interval contains 0 |\n|---|---|---|---|")
    for count in 8, 20, 50:
        for memory in 0.0, 0.3, 0.6:
            reported, right = courses(count, memory)
            print(f"| {count} | {memory} | {reported:.1%} | {right:.1%} |")

    if options.hours:
        print("\n| hour | segments | share of real time | worst push in ms | MB resident |\n|---|---|---|---|---|")
        for row in endless(detector, waveform, options.hours):
            print(row, flush=True)


def readable(paths: Sequence[Path]) -> Iterator[tuple[str, Waveform]]:
    """Yields the name and the waveform of each file that holds audio."""
    for path in paths:
        try:
            yield path.name, load_audio(path)
        except AudioError:
            continue


def blocks(waveform: Waveform) -> Iterator[Waveform]:
    """Yields 20 ms at a time."""
    for at in range(0, len(waveform), BLOCK):
        yield waveform[at : at + BLOCK]


def finals(detector: EmotionDetector, waveform: Waveform) -> list[VoiceSegment]:
    """Returns the final segments of a stream of a waveform."""
    return [segment for segment in detector.stream(blocks(waveform)) if segment.final]


def throughput(detector: EmotionDetector, waveform: Waveform) -> tuple[str, str]:
    """Returns the time that a stream takes, relative to its length, and the part of it that final segments take."""
    listener = detector.open()
    seconds = last = 0.0
    for block in blocks(waveform):
        started = time.perf_counter()
        found = listener.push(block)
        spent = time.perf_counter() - started
        seconds += spent
        last += spent if any(segment.final for segment in found) else 0.0
    started = time.perf_counter()
    listener.finish()
    seconds += time.perf_counter() - started
    length = len(waveform) / SAMPLING_RATE
    return f"{seconds / length:.4f}", f"{last / length:.4f}"


def latencies(detector: EmotionDetector, waveform: Waveform) -> dict[str, list[float]]:
    """Returns the seconds from the recording of a block to the result that it completed.

    For a window, this is the block with its last sample; for a segment that has ended, the one that showed its end.
    """
    listener = detector.open()
    found: dict[str, list[float]] = {"windows": [], "finals": []}
    begun = time.perf_counter()
    for number, block in enumerate(blocks(waveform), 1):
        recorded = begun + number * BLOCK / SAMPLING_RATE
        time.sleep(max(0.0, recorded - time.perf_counter()))
        segments = listener.push(block)
        now = time.perf_counter()
        for segment in segments:
            if segment.final:
                found["finals"].append(now - recorded)
            else:
                last = -int(-round(segment.end * SAMPLING_RATE) // BLOCK)
                found["windows"].append(now - begun - last * BLOCK / SAMPLING_RATE)
    return found


def compared(pairs: Sequence[tuple[list[VoiceSegment], list[VoiceSegment]]]) -> str:
    """Counts the offline segments of which both ends were found live; pairs are live and offline."""
    same = 0
    for live, offline in pairs:
        same += sum(any(abs(a.start - b.start) <= NEAR and abs(a.end - b.end) <= NEAR for b in live) for a in offline)
    count = sum(len(offline) for _, offline in pairs)
    return f"{count} | {sum(len(live) for live, _ in pairs)} | {same / count:.1%}"


def steadiness(waveform: Waveform) -> tuple[int, ...]:
    """Counts windows, changes of their label, and labels that equal the final segment's: raw and steadied."""
    settings = LiveSettings(load=1e6)  # no window is left out, however busy this machine is
    changes, equal = [], []
    for live in replace(settings, smoothing=0.0, margin=0.0, hold=0.0), settings:
        segments = list(EmotionDetector(live=live).stream(blocks(waveform)))
        windows = [segment for segment in segments if not segment.final]
        finals = [next((b for b in segments if b.final and b.start <= a.end - 0.5 <= b.end), None) for a in windows]
        changes.append(sum(a.emotion != b.emotion for a, b in pairwise(windows)))
        equal.append(sum(b is not None and b.emotion == a.emotion for a, b in zip(windows, finals, strict=True)))
    return len(windows), *changes, *equal


def courses(count: int, memory: float) -> tuple[float, float]:
    """Returns how often a voice without a trend is reported to have one, and how often the interval contains 0.

    Valence scatters by 0.08 over five minutes; `memory` is the correlation of a segment with the one before.
    """
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        noise = rng.normal(0, 0.08, count)
        for i in range(1, count):
            noise[i] = memory * noise[i - 1] + (1 - memory**2) ** 0.5 * noise[i]
        times, seconds = np.linspace(0, 290, count) + rng.uniform(-3, 3, count), rng.uniform(1.5, 10, count)
        said = [Said(*row) for row in zip(times.tolist(), seconds.tolist(), (0.5 + noise).tolist(), strict=True)]
        found.append(trajectory(said))
    reported = sum(course.trend in {"improving", "declining"} for course in found)
    right = sum(course.interval is not None and course.interval[0] <= 0 <= course.interval[1] for course in found)
    return reported / len(found), right / len(found)


def endless(detector: EmotionDetector, waveform: Waveform, hours: float) -> Iterator[str]:
    """Yields a row per half hour of a stream that repeats a waveform, as fast as it goes."""
    listener = detector.open()
    ends = [*np.arange(0, hours * 3600 + 1, PART)]
    at = 0
    for _, until in pairwise(ends):
        segments, worst, started = 0, 0.0, time.perf_counter()
        while listener.duration < until:
            block = waveform[at : at + BLOCK]
            at = at + BLOCK if at + BLOCK < len(waveform) else 0
            before = time.perf_counter()
            segments += sum(segment.final for segment in listener.push(block))
            worst = max(worst, time.perf_counter() - before)
        share = (time.perf_counter() - started) / PART
        yield f"| {until / 3600:.1f} | {segments} | {share:.4f} | {1000 * worst:.0f} | {resident():.1f} |"


def resident() -> float:
    """Returns the resident memory of this process in MB; or its maximum, if only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()

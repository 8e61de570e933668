"""Measures how well speakers are told apart in calls made of recordings, as diarization error rates.

    python benchmarks/diarization.py FOLDER [CALLS] [SPEAKER]

FOLDER holds recordings of one speaker each, anywhere below it; SPEAKER is a regular expression whose group is the name
of the speaker in the path, by default the name of the folder that the file lies in. For 1, 2, 3 and 4 speakers it makes
CALLS calls (10) of 90 s of speech: turns of one or two recordings, cut to their sound, with pauses of 0.1 to 1 s
between turns and noise at -80 dBFS, nobody at the same time. Prints Markdown: how often the number of speakers was
found, and pyannote.metrics' diarization error rate, without a collar and with 0.25 s on both sides of each boundary,
which is not scored. Takes about 0.1 s per second of call.

A second table shows what is left if the speakers of the other turns are known: each window gets the speaker whose mean
embedding in all other turns is nearest, which finds nobody who has a single turn; and what is left if each window has
its true speaker.
"""

import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import e2v_port
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.speakers.diarize import Speakers
from e2v_port.speech.detect import detect

__all__ = ["Call", "annotation", "error_rate", "extent", "made", "recordings_by_speaker"]

SPEECH = 90 * SAMPLING_RATE
FLOOR = 35  # dB below the loudest 25 ms: what is quieter at both ends of a recording is cut off
SUFFIXES = {".wav", ".flac"}


class Call(NamedTuple):
    """A made call.

    Attributes:
        waveform: [samples], float32, 16 kHz.
        turns: Start and end in seconds, and speaker of each turn.
    """

    waveform: Waveform
    turns: list[tuple[float, float, str]]


def recordings_by_speaker(folder: Path, speaker: str | None = None) -> dict[str, list[Path]]:
    """Returns the recordings below a folder by their speaker, in order."""
    found = defaultdict(list)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in SUFFIXES:
            continue
        match = re.search(speaker, path.relative_to(folder).as_posix()) if speaker else None
        if match or not speaker:
            found[match[1] if match else path.parent.name].append(path)
    return dict(found)


def made(recordings: Mapping[str, list[Path]], speakers: int, number: int) -> Call:
    """Makes the call of this number; the same number always gives the same call."""
    draw = np.random.default_rng([speakers, number])
    names = sorted(draw.choice(sorted(recordings), speakers, replace=False).tolist())
    left = {name: [recordings[name][i] for i in draw.permutation(len(recordings[name]))] for name in names}
    parts: list[Waveform] = []
    turns: list[tuple[float, float, str]] = []
    at = spoken = 0
    order: list[str] = []
    while spoken < SPEECH and any(left.values()):
        order = order or draw.permutation([name for name in names if left[name]]).tolist()
        name = order.pop(0)
        start = at
        for _ in range(min(int(draw.integers(1, 3)), len(left[name]))):
            if at > start:
                at += _silence(parts, draw.uniform(0.1, 0.3))
            parts.append(_sound(left[name].pop()))
            at, spoken = at + len(parts[-1]), spoken + len(parts[-1])
        turns.append((start / SAMPLING_RATE, at / SAMPLING_RATE, name))
        at += _silence(parts, draw.uniform(0.1, 1.0))
    waveform = np.concatenate(parts)
    return Call((waveform + draw.normal(0, 1e-4, len(waveform))).astype(np.float32), turns)


def _silence(parts: list[Waveform], seconds: float) -> int:
    parts.append(np.zeros(round(seconds * SAMPLING_RATE), np.float32))
    return len(parts[-1])


def _sound(path: Path) -> Waveform:
    waveform = load_audio(path)
    power = np.convolve(waveform**2, np.ones(400) / 400, "same")
    loud = np.flatnonzero(power > power.max() / 10 ** (FLOOR / 10))
    return waveform[loud[0] : loud[-1] + 1]


def annotation(parts: Iterable[tuple[float, float, str]]) -> Any:
    """Returns pyannote's annotation of turns."""
    from pyannote.core import Annotation, Segment

    found = Annotation()
    for i, (start, end, speaker) in enumerate(parts):
        found[Segment(start, end), i] = speaker
    return found


def extent(duration: float) -> Any:
    """Returns pyannote's timeline of a whole clip."""
    from pyannote.core import Segment, Timeline

    return Timeline([Segment(0, duration)])


def error_rate(collar: float) -> Any:
    """Returns pyannote's diarization error rate; the collar is on both sides of a boundary, in seconds."""
    from pyannote.metrics.diarization import DiarizationErrorRate

    return DiarizationErrorRate(collar=2 * collar)


def _parts(rate: Any) -> list[str]:
    """Returns the three parts of an error rate."""
    return [f"{rate[part] / rate['total']:.1%}" for part in ("missed detection", "false alarm", "confusion")]


class TurnsKnown(Speakers):
    """Names speakers with knowledge of a call's turns, to tell limits of the encoder from those of the grouping.

    Attributes:
        turns: Turns of the call.
        truly: Whether each window gets its true speaker; otherwise it gets the one whose windows in other turns are
            most like it.
    """

    turns: list[tuple[float, float, str]]
    truly: bool

    def _similarities(self, embeddings: Any, windows: Any, voices: Any) -> Any:
        bounds = np.array([[start, end] for start, end, _ in self.turns]) * SAMPLING_RATE
        overlap = [np.minimum(bounds[:, 1], window.last) - np.maximum(bounds[:, 0], window.first) for window in windows]
        turn = np.argmax(overlap, axis=1)
        names = sorted({name for _, _, name in self.turns})
        owner = np.array([names.index(name) for _, _, name in self.turns])[turn]
        if self.truly:
            return np.eye(len(names), dtype=np.float32)[owner]
        like = np.full((len(windows), len(names)), -1, np.float32)
        for i, one in enumerate(turn):
            for k in range(len(names)):
                others = embeddings[(owner == k) & (turn != one)]
                if len(others):
                    center = others.mean(0)
                    like[i, k] = embeddings[i] @ center / np.linalg.norm(center)
        return like


def main() -> None:
    """Prints the tables."""
    folder, calls = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10
    recordings = recordings_by_speaker(folder, sys.argv[3] if len(sys.argv) > 3 else None)
    encoder = e2v_port.load("bundled-voices")
    print(
        "| speakers | number found | DER | missed | false alarm | wrong speaker | DER, collar 0.25 s | number given |"
    )
    print("|---|---|---|---|---|---|---|---|")
    taken = heard = 0.0
    limits = []
    for people in range(1, min(4, len(recordings)) + 1):
        bare, lenient, given = error_rate(0), error_rate(0.25), error_rate(0)
        known, true = error_rate(0), error_rate(0)
        right = 0
        for number in range(calls):
            call = made(recordings, people, number)
            segments = detect(call.waveform)
            truth, whole = annotation(call.turns), extent(len(call.waveform) / SAMPLING_RATE)
            for count, rates in ((None, (bare, lenient)), (people, (given,))):
                before = time.perf_counter()
                named, _ = Speakers(encoder, count=count).named(call.waveform, segments)
                taken, heard = taken + time.perf_counter() - before, heard + len(call.waveform) / SAMPLING_RATE
                found = annotation((each.start, each.end, each.speaker or "nobody") for each in named)
                for rate in rates:
                    rate(truth, found, uem=whole)
                if count is None:
                    right += len({each.speaker for each in named} - {None}) == people
            oracle = TurnsKnown(encoder, count=people)
            oracle.turns = call.turns
            for oracle.truly, rate in ((False, known), (True, true)):
                named, _ = oracle.named(call.waveform, segments)
                rate(truth, annotation((each.start, each.end, each.speaker or "nobody") for each in named), uem=whole)
        parts = " | ".join(_parts(bare))
        rates_shown = f"{abs(lenient):.1%} | {abs(given):.1%}"
        print(f"| {people} | {right} of {calls} | {abs(bare):.1%} | {parts} | {rates_shown} |", flush=True)
        confused = f"{abs(given):.1%} | {_parts(given)[2]} | {abs(known):.1%} | {_parts(known)[2]}"
        limits.append(f"| {people} | {confused} | {abs(true):.1%} | {' | '.join(_parts(true)[:2])} |")
    print("\n| speakers | number given | wrong | voices known | wrong | true speakers | missed | false alarm |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(limits))
    print(f"\n{taken / heard:.3f} s per second of sound.")


if __name__ == "__main__":
    main()

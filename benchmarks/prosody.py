"""Measures the accuracy and the speed of pitch, voice quality and tempo, compared with other libraries.

    pip install scipy praat-parselmouth librosa pyworld praatfan-rust pysptk swift-f0
    python benchmarks/prosody.py

Reads the recordings in $E2V_TEST_AUDIO, by default ../shared/audio, and prints Markdown. The reference is Praat,
through parselmouth; other libraries that are not installed are left out. Speed is measured with one thread.
"""

import csv
import math
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray
from voices import noisy, syllables, tone, voice

from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.prosody.frames import FRAME_SECONDS
from e2v_port.prosody.judge import judge
from e2v_port.prosody.measure import measure

AUDIO = Path(os.environ.get("E2V_TEST_AUDIO", Path(__file__).parents[1] / ".." / "shared" / "audio"))
FLOOR, CEILING = 75.0, 600.0  # Hz
TONES = (80, 100, 130, 180, 250, 350, 480, 590)  # Hz

Contour: TypeAlias = tuple[NDArray[Any], NDArray[Any]]  # seconds, Hz or 0


def main() -> None:
    """Prints all tables."""
    with open(AUDIO / "manifest.csv", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if is_speech(row)]
    clips = {row["file"]: load_audio(AUDIO / row["file"]) for row in rows}
    seconds = sum(map(len, clips.values())) / SAMPLING_RATE
    print(f"{len(clips)} recordings of speech, {seconds:.0f} s.\n")
    pitch_table(clips.values())
    quality_table(clips.values())
    synthetic_table()
    acted = [row for row in rows if row["corpus"] == "emodb"]
    rate_table(acted, clips)
    emotion_line(acted, clips)
    speed_line(clips.values())


def is_speech(row: dict[str, str]) -> bool:
    """Returns whether a row of the manifest is a recording of speech, other than the timeline that joins them."""
    return row["corpus"] in {"emodb", "longform", "emotion2vec", "w2v2-vad"} and row["file"] != "emodb_timeline.flac"


def praat(waveform: Waveform) -> Contour:
    """Tracks pitch with Praat's standard settings."""
    sound = import_module("parselmouth").Sound(waveform.astype(np.float64), SAMPLING_RATE)
    pitch = sound.to_pitch_ac(FRAME_SECONDS, FLOOR, pitch_ceiling=CEILING)
    return pitch.xs(), pitch.selected_array["frequency"]


def e2v(waveform: Waveform) -> Contour:
    """Tracks pitch with `measure`, which also computes everything else."""
    contour = measure(waveform).contour
    first = (len(waveform) / SAMPLING_RATE - FRAME_SECONDS * (len(contour) - 1)) / 2
    return first + FRAME_SECONDS * np.arange(len(contour)), np.nan_to_num(contour)


def praatfan(waveform: Waveform) -> Contour:
    """Tracks pitch with a reimplementation of Praat from its manual."""
    sound = import_module("praatfan_rust").Sound(waveform.astype(np.float64), SAMPLING_RATE)
    pitch = sound.to_pitch_ac(FRAME_SECONDS, FLOOR, CEILING)
    return np.array(pitch.xs()), np.nan_to_num(np.array(pitch.values()))


def pyin(waveform: Waveform) -> Contour:
    """Tracks pitch with librosa, in voiced frames."""
    track = import_module("librosa").pyin
    pitch, voiced, _ = track(waveform, fmin=FLOOR, fmax=CEILING, sr=SAMPLING_RATE, hop_length=160)
    return FRAME_SECONDS * np.arange(len(pitch)), np.where(voiced, pitch, 0)


def harvest(waveform: Waveform) -> Contour:
    """Tracks pitch with WORLD's slow algorithm."""
    track = import_module("pyworld").harvest(waveform.astype(np.float64), SAMPLING_RATE, FLOOR, CEILING, 10.0)
    return track[1], track[0]


def dio(waveform: Waveform) -> Contour:
    """Tracks pitch with WORLD's fast algorithm, refined by StoneMask as its authors recommend."""
    world, samples = import_module("pyworld"), waveform.astype(np.float64)
    pitch, times = world.dio(samples, SAMPLING_RATE, FLOOR, CEILING, frame_period=10.0)
    return times, world.stonemask(samples, pitch, times, SAMPLING_RATE)


def rapt(waveform: Waveform) -> Contour:
    """Tracks pitch with Talkin's RAPT, from SPTK."""
    pitch = import_module("pysptk").rapt(waveform * 32768, SAMPLING_RATE, 160, FLOOR, CEILING, otype="f0")
    return FRAME_SECONDS * np.arange(len(pitch)), pitch.astype(np.float64)


def swift(waveform: Waveform) -> Contour:
    """Tracks pitch with a small network and its authors' threshold."""
    track = swift_network().detect(waveform, SAMPLING_RATE, FLOOR, CEILING)
    return track.timestamps, np.where(track.confidence >= 0.5, track.pitch_hz, 0.0)


@cache
def swift_network() -> Any:
    """Loads the network once."""
    return import_module("swift_f0").SwiftF0(threads=1)


# Name, package on PyPI, license, and function.
CONTENDERS: tuple[tuple[str, str, str, Callable[[Waveform], Contour]], ...] = (
    ("e2v_port.prosody.measure, all measures", "e2v-port", "MIT", e2v),
    ("Praat", "praat-parselmouth", "GPL-3", praat),
    ("praatfan (Rust)", "praatfan-rust", "MIT", praatfan),
    ("librosa.pyin", "librosa", "ISC", pyin),
    ("WORLD harvest", "pyworld", "MIT", harvest),
    ("WORLD dio + stonemask", "pyworld", "MIT", dio),
    ("RAPT", "pysptk", "MIT", rapt),
    ("SwiftF0", "swift-f0", "MIT", swift),
)


def pitch_table(clips: Iterable[Waveform]) -> None:
    """Prints errors on tones, and differences from Praat on speech."""
    clips = list(clips)
    references = [praat(clip) for clip in clips]
    tones = [(hz, tone(hz)) for hz in TONES]
    heads = ("pitch by", "version", "license", "worst tone", "within 5 %, Praat's frames")
    print(f"| {' | '.join(heads)} | shared frames | voicing differs | ms/s |\n|{'---|' * 8}")
    for name, package, licence, track in CONTENDERS:
        try:
            worst = max(tone_error(hz, track(waveform)) for hz, waveform in tones)
        except ImportError:
            print(f"| {name} | not installed | {licence} | | | | | |")
            continue
        before = time.perf_counter()
        contours = [track(clip) for clip in clips]
        taken = 1000 * (time.perf_counter() - before) / (sum(map(len, clips)) / SAMPLING_RATE)
        near = voiced = both = differ = frames = 0
        for (times, hz), (other_times, other) in zip(references, contours, strict=True):
            nearest = other[np.abs(other_times[:, None] - times).argmin(axis=0)]
            near += int((np.abs(nearest - hz)[hz > 0] <= 0.05 * hz[hz > 0]).sum())
            voiced += int((hz > 0).sum())
            both += int(((hz > 0) & (nearest > 0)).sum())
            differ += int(((hz > 0) != (nearest > 0)).sum())
            frames += len(hz)
        tone_cell = f"{worst:.2%}" if worst < 1 else "no pitch"
        print(
            f"| {name} | {version(package)} | {licence} | {tone_cell} | {near / voiced:.1%} | {near / both:.1%} "
            f"| {differ / frames:.1%} | {taken:.1f} |"
        )
    print()


def tone_error(hz: float, contour: Contour) -> float:
    """Returns the largest relative error between 0.1 and 0.9 s; 1 where there is no pitch."""
    times, pitch = contour
    inner = pitch[(times > 0.1) & (times < 0.9)]
    return float(np.abs(inner / hz - 1).max())


def quality_table(clips: Iterable[Waveform]) -> None:
    """Prints how jitter, shimmer and HNR of the recordings differ from Praat's."""
    pairs = defaultdict(list)
    for clip in clips:
        measured, reference = measure(clip), praat_quality(clip)
        for name, theirs in reference.items():
            if (value := getattr(measured, name)) is not None:
                pairs[name].append((theirs, value))
    print("| of each recording, against Praat | median difference | 95 % of them | correlation |\n|---|---|---|---|")
    for name, values in pairs.items():
        theirs, mine = np.array(values).T
        if name == "hnr":
            median, most = (f"{x:.2f} dB" for x in np.quantile(np.abs(mine - theirs), (0.5, 0.95)))
        else:
            median, most = (f"{x:.1%}" for x in np.quantile(np.abs(mine / theirs - 1), (0.5, 0.95)))
        print(f"| {name} | {median} | {most} | {np.corrcoef(theirs, mine)[0, 1]:.3f} |")
    print()


def praat_quality(waveform: Waveform) -> dict[str, float]:
    """Returns jitter and shimmer (local), and the mean harmonicity (cc) of voiced frames, by Praat."""
    call = import_module("parselmouth.praat").call
    sound = import_module("parselmouth").Sound(waveform.astype(np.float64), SAMPLING_RATE)
    pitch = sound.to_pitch_ac(FRAME_SECONDS, FLOOR, pitch_ceiling=CEILING)
    pulses = call([sound, pitch], "To PointProcess (cc)")
    harmonicity = sound.to_harmonicity_cc(FRAME_SECONDS, FLOOR, 0.1, 1.0)
    voiced = pitch.xs()[pitch.selected_array["frequency"] > 0]
    values = harmonicity.values[0][np.abs(harmonicity.xs()[:, None] - voiced).argmin(axis=0)]
    return {
        "jitter": call(pulses, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3),
        "shimmer": call([sound, pulses], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6),
        "hnr": float(values[values > -199].mean()),
    }


def synthetic_table() -> None:
    """Prints measurements of synthetic voices with known properties."""
    pitches = (113.0, 217.0)
    rows: list[tuple[str, str, str, Callable[[float], Waveform], str]] = []
    for x in (0.005, 0.01, 0.02, 0.04):
        rows.append(("jitter", f"{x:.3f}", "jitter", partial(uneven, jitter=x), ".4f"))
    for x in (0.03, 0.06, 0.12):
        rows.append(("shimmer", f"{x:.2f}", "shimmer", partial(uneven, shimmer=x), ".3f"))
    for x in (5, 10, 20, 30):
        rows.append(("HNR", f"{x} dB", "hnr", partial(hoarse, decibels=x), ".1f"))
    for x in (0.1, 0.3, 0.5, 0.8):
        rows.append(("breathiness", f"{x:.1f}", "breathiness", partial(breathy, share=x), ".2f"))
    for x in (0.0, 0.005, 0.01, 0.02, 0.04):
        rows.append(("tremor of 6 Hz", f"{x:.1%} of pitch", "tremor", partial(trembling, depth=x), ".2f"))
    for x in (2, 4, 6, 8):
        rows.append(("syllables per second", f"{x}", "rate", partial(speaking, rate=x), ".2f"))
    print(f"| synthetic voice | true value | {' | '.join(f'measured at {pitch:.0f} Hz' for pitch in pitches)} |")
    print("|---|---|---|---|")
    for quantity, true, name, make, form in rows:
        cells = " | ".join(format(getattr(measure(make(pitch)), name), form) for pitch in pitches)
        print(f"| {quantity} | {true} | {cells} |")
    print()


def uneven(pitch: float, jitter: float = 0.0, shimmer: float = 0.0) -> Waveform:
    """Returns a voice without noise."""
    return voice(4, pitch, jitter=jitter, shimmer=shimmer).waveform


def hoarse(pitch: float, decibels: float) -> Waveform:
    """Returns an even voice with noise."""
    return noisy(voice(2, pitch).waveform, decibels)


def breathy(pitch: float, share: float) -> Waveform:
    """Returns a slightly uneven voice with noise."""
    decibels = 10 * math.log10((1 - share) / share)
    return noisy(voice(2, pitch, jitter=0.01, shimmer=0.04).waveform, decibels, emphasized=True)


def trembling(pitch: float, depth: float) -> Waveform:
    """Returns a slightly uneven voice with tremor."""
    return voice(2, pitch, jitter=0.01, tremor=(6.0, depth)).waveform


def speaking(pitch: float, rate: float) -> Waveform:
    """Returns twelve syllables."""
    return syllables(12, rate, voice(6.5, pitch, jitter=0.01).waveform)


SENTENCES = {
    "en-us": (
        "the weather is lovely this morning and we are going to walk along the river",
        "she told me that nobody had seen the letter before Monday",
        "please remember to bring the yellow umbrella and the old camera",
    ),
    "de": (
        "das will sie am Mittwoch abgeben",
        "wir gehen morgen zusammen ins Theater und danach essen wir etwas",
        "der kleine Hund lief schnell über die Wiese",
    ),
}
VOWELS = "aeiouæɐɑɒɔəɚɛɜɪʊʌøœɵyʏ"


# Syllables in Emo-DB's sentences: "Der Lappen liegt auf dem Eisschrank", "Das will sie am Mittwoch abgeben", "Heute
# abend könnte ich es ihm sagen", "In sieben Stunden wird es soweit sein".
SYLLABLES = {"a01": 8, "a02": 9, "a04": 11, "a07": 10}


def rate_table(rows: list[dict[str, str]], clips: dict[str, Waveform]) -> None:
    """Prints how the measured rate differs from the true number of syllables per second."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    if shutil.which("espeak-ng"):
        pairs["sentences by espeak-ng, at five speeds"] = [
            (count / (len(waveform) / SAMPLING_RATE), measure(waveform).rate or 0.0)
            for count, waveform in synthesized()
        ]
    pairs["acted sentences of Emo-DB"] = [
        (count / (len(waveform) / SAMPLING_RATE), measure(waveform).rate or 0.0)
        for row in rows
        if "complete utterance" in row["note"] and (count := SYLLABLES.get(row["file"][8:11]))
        for waveform in [trimmed(clips[row["file"]])]
    ]
    print("| rate | clips | syllables per second | mean error | bias | correlation |\n|---|---|---|---|---|---|")
    for name, values in pairs.items():
        true, measured = np.array(values).T
        errors = measured / true - 1
        print(
            f"| {name} | {len(true)} | {true.min():.1f} to {true.max():.1f} | {np.abs(errors).mean():.1%} "
            f"| {errors.mean():+.1%} | {np.corrcoef(true, measured)[0, 1]:.2f} |"
        )
    print()


def synthesized() -> Iterator[tuple[int, Waveform]]:
    """Yields the number of vowels and the waveform of sentences spoken by espeak-ng."""
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/speech.wav"
        for language, sentences in SENTENCES.items():
            for sentence in sentences:
                spoken = ["espeak-ng", "-v", language, sentence]
                ipa = subprocess.run([*spoken, "-q", "--ipa"], capture_output=True, text=True, check=True).stdout
                count = len(re.findall(f"[{VOWELS}]ː?[ɪʊə]?|[lnm]̩", ipa))
                for words in (110, 150, 190, 240, 300):
                    subprocess.run([*spoken, "-s", str(words), "-w", file], check=True)
                    yield count, trimmed(load_audio(file))


def trimmed(waveform: Waveform) -> Waveform:
    """Trims both ends at 40 dB below the peak."""
    loud = np.flatnonzero(np.abs(waveform) > 0.01 * np.abs(waveform).max())
    return waveform[loud[0] : loud[-1]]


HIGH, LOW = {"anger", "fear", "happiness"}, {"sadness", "boredom", "neutral"}


def emotion_line(rows: list[dict[str, str]], clips: dict[str, Waveform]) -> None:
    """Prints how well the judged arousal separates acted emotions."""
    judged = [(row["emotion"], judge(measure(clips[row["file"]])).dimensions.arousal) for row in rows]
    high, low = (np.array([arousal for emotion, arousal in judged if emotion in group]) for group in (HIGH, LOW))
    auc = (high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean()
    print(
        f"Arousal of {len(high)} acted sentences of Emo-DB in {', '.join(sorted(HIGH))} above that of {len(low)} in "
        f"{', '.join(sorted(LOW))}: area under the curve {auc:.2f}, without a baseline.\n"
    )


def speed_line(clips: Iterable[Waveform]) -> None:
    """Prints the speed of measuring and judging."""
    clips = list(clips)
    seconds, taken = sum(map(len, clips)) / SAMPLING_RATE, []
    for _ in range(3):
        before = time.perf_counter()
        for clip in clips:
            judge(measure(clip))
        taken.append(time.perf_counter() - before)
    second = load_audio(AUDIO / "jfk.flac")[:SAMPLING_RATE]
    single = []
    for _ in range(20):
        before = time.perf_counter()
        measure(second)
        single.append(time.perf_counter() - before)
    print(
        f"measure and judge: {1000 * min(taken) / seconds:.1f} ms per second of audio, best of 3; "
        f"a single second by itself {1000 * statistics.median(single):.1f} ms."
    )


if __name__ == "__main__":
    main()

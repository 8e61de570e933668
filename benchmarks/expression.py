"""Measures whether changed speech has the requested prosody, and whether actors change theirs the way the profiles do.

    python benchmarks/expression.py FOLDER

reads the clips of Emo-DB in a folder (their names encode speaker and emotion), measures them with Praat, and prints
three tables: libraries that change pitch and tempo, `expression.apply` for each of its parameters, and actors compared
with their neutral voice. Libraries that are not installed are left out: `pip install librosa python-stretch pedalboard
praat-parselmouth`.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import parselmouth
import soundfile
from numpy.typing import NDArray

from e2v_port.expression import profiles
from e2v_port.expression.apply import apply
from e2v_port.expression.profiles import ProsodyParameters
from e2v_port.prosody.measure import measure

Array: TypeAlias = NDArray[Any]
Change: TypeAlias = Callable[[Array, int, float, float], Array]  # waveform, rate, semitones, speed

ACTED = {"W": "angry", "L": "bored", "A": "panicked", "F": "happy", "T": "sad"}  # Emo-DB's codes; N is neutral


def libraries() -> dict[str, Change]:
    """Returns the installed libraries that change pitch and tempo."""

    def librosa_(x: Array, rate: int, semitones: float, speed: float) -> Array:
        import librosa

        y = librosa.effects.time_stretch(x.astype(np.float32), rate=speed)
        shifted: Array = librosa.effects.pitch_shift(y, sr=rate, n_steps=semitones)
        return shifted

    def signalsmith(x: Array, rate: int, semitones: float, speed: float) -> Array:
        import python_stretch

        stretch = python_stretch.Signalsmith.Stretch()
        stretch.preset(1, rate)
        stretch.setTransposeSemitones(semitones)
        stretch.timeFactor = speed
        y: Array = stretch.process(np.ascontiguousarray(x[None], np.float32))[0]
        return y

    def rubber_band(x: Array, rate: int, semitones: float, speed: float) -> Array:
        import pedalboard

        y: Array = pedalboard.time_stretch(
            x.astype(np.float32)[None], rate, speed, pitch_shift_in_semitones=semitones, preserve_formants=True
        )[0]
        return y

    def psola(x: Array, rate: int, semitones: float, speed: float) -> Array:
        call = parselmouth.praat.call
        sound = parselmouth.Sound(x, rate)
        manipulation = call(sound, "To Manipulation", 0.01, 60, 600)
        pitch = call(manipulation, "Extract pitch tier")
        call(pitch, "Multiply frequencies", sound.xmin, sound.xmax, 2 ** (semitones / 12))
        call([pitch, manipulation], "Replace pitch tier")
        duration = call("Create DurationTier", "speed", sound.xmin, sound.xmax)
        call(duration, "Add point", sound.xmin, 1 / speed)
        call([duration, manipulation], "Replace duration tier")
        resynthesized: Array = call(manipulation, "Get resynthesis (overlap-add)").values[0]
        return resynthesized

    def world(x: Array, rate: int, semitones: float, speed: float) -> Array:
        return apply(x, rate, ProsodyParameters(pitch_shift_semitones=semitones, speech_rate=speed))

    known: dict[str, tuple[str, Change]] = {
        "phase vocoder (librosa)": ("librosa", librosa_),
        "Signalsmith Stretch": ("python_stretch", signalsmith),
        "Rubber Band, formants kept (pedalboard)": ("pedalboard", rubber_band),
        "PSOLA (Praat)": ("parselmouth", psola),
        "WORLD (this package)": ("pyworld", world),
    }
    return {name: change for name, (module, change) in known.items() if find_spec(module)}


def contour(x: Array, rate: int) -> Array:
    """Returns the pitch in semitones every 5 ms, NaN where there is none."""
    track = parselmouth.Sound(np.asarray(x, np.float64), rate).to_pitch_ac(
        time_step=0.005, pitch_floor=60, pitch_ceiling=800
    )
    hertz = track.selected_array["frequency"]
    return np.where(hertz > 0, 12 * np.log2(np.maximum(hertz, 1)), np.nan)


def moved(before: Array, after: Array) -> Array:
    """Returns the difference between two contours where both have a pitch."""
    count = min(len(before), len(after))
    difference: Array = after[:count] - before[:count]
    return difference[~np.isnan(difference)]


def slope(before: Array, after: Array) -> float:
    """Returns the factor by which a melody was expanded, as the median over pairs of frames."""
    count = min(len(before), len(after))
    a, b = before[:count], after[:count]
    voiced = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[voiced], b[voiced]
    first, second = np.random.default_rng(0).integers(0, len(a), (2, 20_000))
    apart = np.abs(a[first] - a[second]) > 1
    return float(np.median((b[first] - b[second])[apart] / (a[first] - a[second])[apart]))


def formants(x: Array, rate: int) -> Array:
    """Returns the medians of the first three formants over voiced frames, in Hz."""
    sound = parselmouth.Sound(np.asarray(x, np.float64), rate)
    track = sound.to_formant_burg(max_number_of_formants=5, maximum_formant=5500)
    pitch = sound.to_pitch_ac(pitch_floor=60, pitch_ceiling=800)
    times = [at for at in track.ts() if pitch.get_value_at_time(at) > 0]
    medians: Array = np.nanmedian([[track.get_value_at_time(number, at) for number in (1, 2, 3)] for at in times], 0)
    return medians


def levels(x: Array, rate: int) -> Array:
    """Returns the level along a clip, in dB."""
    along: Array = parselmouth.Sound(np.asarray(x, np.float64), rate).to_intensity(minimum_pitch=100).values[0]
    return along


def level(x: Array, rate: int) -> float:
    """Returns the mean level over frames less than 25 dB below the loudest one."""
    along = levels(x, rate)
    return float(10 * np.log10((10 ** (along[along > along.max() - 25] / 10)).mean()))


def prominence(x: Array, rate: int) -> float:
    """Returns the smoothed cepstral peak prominence in dB, which breathiness lowers (Hillenbrand et al. 1994)."""
    call = parselmouth.praat.call
    cepstrum = call(parselmouth.Sound(np.asarray(x, np.float64), rate), "To PowerCepstrogram", 60, 0.002, 5000, 50)
    settings = ("no", 0.02, 0.0005, 60, 330, 0.05, "Parabolic", 0.001, 0, "Straight", "Robust")
    return float(call(cepstrum, "Get CPPS", *settings))


def main() -> None:
    """Prints the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=6, help="take every Nth clip for the first two tables")
    options = parser.parse_args()
    files = sorted(options.folder.glob("emodb_*.flac")) or sorted(options.folder.glob("*.wav"))
    clips = [(0.3 * x, rate) for x, rate in map(soundfile.read, files[:: options.every])]
    print(f"{len(clips)} of {len(files)} clips, {sum(len(x) / rate for x, rate in clips):.0f} s\n")
    compare(clips)
    parameters(clips)
    actors(files)


def compare(clips: list[tuple[Array, int]]) -> None:
    """Prints how libraries change pitch and tempo."""
    print("| 3 st up and down; 0.8 and 1.25 x | pitch error, st | formant shift, % | shift with speed, st | time |")
    print("|---|---|---|---|---|")
    for name, change in libraries().items():
        found: dict[str, list[float]] = defaultdict(list)
        change(*clips[0], 3, 1)  # imports and compiles
        for x, rate in clips:
            pitch, places = contour(x, rate), formants(x, rate)
            for semitones in (-3.0, 3.0):
                start = time.perf_counter()
                y = change(x, rate, semitones, 1)
                found["time"].append((time.perf_counter() - start) / (len(x) / rate))
                found["pitch"].append(abs(float(np.median(moved(pitch, contour(y, rate)))) - semitones))
                found["formants"].append(100 * float(np.abs(formants(y, rate) / places - 1).mean()))
            for speed in (0.8, 1.25):
                new = contour(change(x, rate, 0, speed), rate)
                new = new[np.round(np.linspace(0, len(new) - 1, len(pitch))).astype(int)]
                found["speed"].append(abs(float(np.median(moved(pitch, new)))))
        cells = (
            f"{statistics.mean(found[key]):{form}}"
            for key, form in (("pitch", ".3f"), ("formants", ".1f"), ("speed", ".3f"), ("time", ".3f"))
        )
        print(f"| {name} | {' | '.join(cells)} |")
    print()


def parameters(clips: list[tuple[Array, int]]) -> None:
    """Prints the measured effect of each parameter."""
    print("| requested | measured: mean | lowest | highest |\n|---|---|---|---|")

    def row(requested: str, values: list[float], form: str) -> None:
        cells = (statistics.mean(values), min(values), max(values))
        print(f"| {requested} | {' | '.join(f'{x:{form}}' for x in cells)} |")

    def changed(**settings: float) -> list[Array]:
        return [apply(x, rate, ProsodyParameters(**settings)) for x, rate in clips]

    for semitones in (-6, -1, 1, 6):
        made = changed(pitch_shift_semitones=semitones)
        found = [float(np.median(moved(contour(x, r), contour(y, r)))) for (x, r), y in zip(clips, made, strict=True)]
        row(f"pitch {semitones:+d} st", found, "+.2f")
    for factor in (0.5, 1.4, 2):
        made = changed(pitch_variance=factor)
        row(
            f"melody x {factor}",
            [slope(contour(x, r), contour(y, r)) for (x, r), y in zip(clips, made, strict=True)],
            ".2f",
        )
    for factor in (0.7, 1.5):
        row(
            f"speed x {factor}",
            [len(x) / len(y) for (x, _), y in zip(clips, changed(speech_rate=factor), strict=True)],
            ".3f",
        )
    for decibels in (-6, 6):
        made = changed(volume_db=decibels)
        row(
            f"volume {decibels:+d} dB",
            [level(y, r) - level(x, r) for (x, r), y in zip(clips, made, strict=True)],
            "+.2f",
        )
    for factor in (0.5, 0.8, 1.5):
        found = []
        for (x, rate), y in zip(clips, changed(dynamic_range=factor), strict=True):
            before = levels(x, rate)
            spoken = before > before.max() - 20
            found.append(float(levels(y, rate)[spoken].std() / before[spoken].std()))
        row(f"dynamics x {factor}", found, ".2f")
    none = [prominence(y, rate) for (_, rate), y in zip(clips, changed(breathiness=1e-6), strict=True)]
    for amount in (0.25, 0.5, 1):
        made = changed(breathiness=amount)
        found = [prominence(y, rate) - old for (_, rate), y, old in zip(clips, made, none, strict=True)]
        row(f"breath {amount}: cepstral peak, dB", found, "+.1f")
    print()


def actors(files: list[Path]) -> None:
    """Prints how actors differ from their neutral voice, next to the profiles."""
    print("| emotion | pitch, st: actors | profile | melody: actors | profile | speed: actors | profile |")
    print("|---|---|---|---|---|---|---|")
    voices: dict[str, dict[str, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for speaker, group in groupby(files, lambda file: file.stem.removeprefix("emodb_")[:2]):
        for file in group:
            waveform, _ = soundfile.read(file, dtype="float32")
            found = measure(waveform)
            if found.pitch_mean and found.pitch_std and found.rate:
                values = (12 * np.log2(found.pitch_mean), np.log(found.pitch_std), np.log(found.rate))
                voices[speaker][file.stem.removeprefix("emodb_")[5]].append(values)
    for code, emotion in ACTED.items():
        apart = [
            np.mean(voice[code], 0) - np.mean(voice["N"], 0) for voice in voices.values() if voice[code] and voice["N"]
        ]
        pitch, melody, speed = np.median(apart, 0)
        profile = profiles.parameters(emotion)
        pairs = (
            (f"{pitch:+.1f}", f"{profile.pitch_shift_semitones:+.1f}"),
            (f"{np.exp(melody):.2f}", f"{profile.pitch_variance:.2f}"),
            (f"{np.exp(speed):.2f}", f"{profile.speech_rate:.2f}"),
        )
        print(f"| {emotion} ({len(apart)} actors) | {' | '.join(cell for pair in pairs for cell in pair)} |")


if __name__ == "__main__":
    main()

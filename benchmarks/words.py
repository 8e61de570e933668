"""How right the words of a recognizer are, and how right their times: the tables of docs/analysis.md, "Words".

    E2V_TEST_AUDIO=FOLDER python benchmarks/words.py MODEL [RECORDING ...]

MODEL is a Whisper model in the form of CTranslate2. Word times are measured twice: on words of espeak-ng, put at known
places with pauses of 0, 0.1 and 0.35 s between them; and on recordings, where pauses of 0.2 s and more show where words
end and begin. Each is measured with Whisper's own times as well. Needs espeak-ng and jiwer.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

import jiwer
import numpy as np

from e2v_port import analyze
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.transcribe import whisper
from e2v_port.transcribe.timing import in_sound
from e2v_port.transcribe.words import Word

# JFK's inaugural address, and the twelfth chapter of Jane Austen's Northanger Abbey.
TEXTS = {
    "jfk.flac": "And so my fellow Americans, ask not what your country can do for you, ask what you can do for your "
    "country.",
    "librispeech_198-209-0000.flac": "Mrs. Allen, said Catherine the next morning, will there be any harm in my "
    "calling on Miss Tilney today? I shall not be easy till I have explained everything. Go, by all means, my dear; "
    "only put on a white gown; Miss Tilney always wears white.",
}
SENTENCE = (
    "the old man went down to the river because his boat had drifted away and nobody wanted to look for it before"
)
SAID = [*SENTENCE.split(), "morning"]
VOICES = ("en-us", "en-gb", "en-gb-scotland")
SPEEDS = ("140", "180")
PAUSES = (0.0, 0.1, 0.35)


def plain(text: str) -> str:
    """Returns the words alone, in small letters."""
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def synthetic(voice: str, speed: str, pause: float) -> tuple[Waveform, list[tuple[float, float]]]:
    """Returns a clip of the words, and where each of them is."""
    clip, places, at = np.random.default_rng(0).normal(0, 1e-4, 40 * SAMPLING_RATE).astype(np.float32), [], 0.5
    with tempfile.TemporaryDirectory() as folder:
        for said in SAID:
            file = Path(folder) / "word.wav"
            subprocess.run(["espeak-ng", "-v", voice, "-s", speed, "-w", file, said], check=True)
            word = load_audio(file)
            loud = np.flatnonzero(np.abs(word) > 0.02)
            word = word[loud[0] : loud[-1]]
            start = round(at * SAMPLING_RATE)
            clip[start : start + len(word)] += word
            places.append((at, at + len(word) / SAMPLING_RATE))
            at = places[-1][1] + pause
    return clip[: round((at + 0.5) * SAMPLING_RATE)], places


def off(words: Sequence[Word], places: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Yields how far start and end of each word that was read right are off."""
    found = [plain(word.text) for word in words]
    for block in SequenceMatcher(None, SAID, found, autojunk=False).get_matching_blocks():
        for k in range(block.size):
            word, (start, end) = words[block.b + k], places[block.a + k]
            yield abs(word.start - start), abs(word.end - end)


def heard_pauses(clip: Waveform) -> list[tuple[float, float]]:
    """Returns where nothing is heard for 0.2 s: 10 ms are 30 dB below the loudest hundredth of the clip."""
    whole = clip[: len(clip) // 160 * 160].reshape(-1, 160)
    levels = np.sqrt(np.mean(whole**2, axis=1))
    loud = np.flatnonzero(levels > np.quantile(levels, 0.99) * 10 ** (-30 / 20))
    return [(loud[i] / 100 + 0.01, loud[i + 1] / 100) for i in np.flatnonzero(np.diff(loud) > 20)]


def beside(words: Sequence[Word], pauses: Sequence[tuple[float, float]]) -> Iterator[tuple[str, float]]:
    """Yields how far the word before each pause ends from it, and how far the one after it begins."""
    for start, end in pauses:
        before = [word for word in words if (word.start + word.end) / 2 < start]
        after = [word for word in words if (word.start + word.end) / 2 > end]
        if before:
            yield "end", abs(before[-1].end - start)
        if after:
            yield "start", abs(after[0].start - end)


def shown(values: Sequence[float]) -> str:
    """Returns the median, where most are, and the number."""
    return f"{np.median(values):.3f} (9 of 10 within {np.quantile(values, 0.9):.2f} s, {len(values)})"


def main(model: str, recordings: Sequence[str]) -> None:
    """Prints the tables for one model."""
    vars(whisper)["in_sound"] = lambda words, _: words  # Whisper's own times, to compare with
    reader = whisper.Transcriber(model, language="en")
    folder = Path(os.environ["E2V_TEST_AUDIO"])
    for file, text in TEXTS.items():
        found = analyze(folder / file, words=reader)
        said = " ".join(segment.text or "" for segment in found.segments)
        print(f"{file}: WER {jiwer.wer(plain(text), plain(said)):.3f}")
    for pause in PAUSES:
        rows: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for voice in VOICES:
            for speed in SPEEDS:
                clip, places = synthetic(voice, speed, pause)
                words, _ = reader.read(clip, [(0.3, places[-1][1] + 0.2)])
                rows["as Whisper has them"] += off(words, places)
                rows["in the sound"] += off(in_sound(words, clip), places)
        for name, pairs in rows.items():
            starts, ends = zip(*pairs, strict=True)
            print(f"pauses of {pause} s, {name}: start {shown(starts)}, end {shown(ends)}")
    real: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for file in recordings:
        clip = load_audio(file)[: 28 * SAMPLING_RATE]
        words, _ = reader.read(clip, [(0.0, len(clip) / SAMPLING_RATE)])
        for name, timed in (("as Whisper has them", words), ("in the sound", in_sound(words, clip))):
            for side, distance in beside(timed, heard_pauses(clip)):
                real[name, side].append(distance)
    for (name, side), distances in real.items():
        print(f"at pauses of recordings, {name}: {side} {shown(distances)}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

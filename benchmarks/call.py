"""Makes a call of two synthetic voices with a known script, analyzes it, and writes what that gives into the documents.

python benchmarks/call.py WHISPER [FOLDER]

WHISPER is the name or the folder of a Whisper model. The call has 90 s: each voice of espeak-ng on a channel of its
own, with a pitch and a pace that change from line to line; once both speak at a time. docs/call.md gets its transcript,
the share of wrong words and the time of each stage; docs/images/call.svg the screen. FOLDER keeps the sound and every
format. espeak-ng and jiwer must be installed.
"""

import argparse
import io
import re
import subprocess
import tempfile
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jiwer
import numpy as np
import soundfile
import soxr
from pictures import FONTS, IMAGES
from rich.console import Console
from rich.text import Text

import e2v_port
from e2v_port.analysis.output.formats import FORMATS
from e2v_port.analysis.output.terminal import transcript
from e2v_port.analysis.results import Analysis
from e2v_port.audio import SAMPLING_RATE, Waveform
from e2v_port.files import replacing
from e2v_port.transcribe.whisper import Transcriber

PAGE = Path(__file__).parents[1] / "docs" / "call.md"
BETWEEN = re.compile(r"(<!-- call.*?-->\n).*?(<!-- /call -->)", re.S)
VOICES = ("en-us+f4", "en-gb+m3")  # of the left channel and of the right
WIDTH = 92  # columns of the screen
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Line(NamedTuple):
    """What one of the two says.

    Attributes:
        who: 0 for the left channel, 1 for the right.
        text: The words.
        pitch: Pitch of espeak-ng, 0 to 99.
        pace: Words per minute.
        melody: Range of pitch, as SSML names it.
        pause: Seconds from the end of the line before; below 0 where it is interrupted.
    """

    who: int
    text: str
    pitch: int = 50
    pace: int = 165
    melody: str = "medium"
    pause: float = 0.5


SCRIPT = (
    Line(0, "Good morning, this is the help line. My name is Anna. What can I do for you?"),
    Line(1, "Good morning. I ordered a heater three weeks ago, and it has not come yet.", 35, 150),
    Line(0, "I am sorry to hear that. Could you give me the number of your order, please?"),
    Line(1, "Yes. It is four, seven, one, one, two.", 35, 140),
    Line(0, "Thank you. One moment, please, I am looking it up in our system.", 45, 150),
    Line(0, "It left the warehouse on Monday, but the driver could not find your house.", pause=3.5),
    Line(1, "That cannot be true! I was at home all day, and nobody rang the bell!", 70, 200, "x-high"),
    Line(1, "This is the third time that I call you, and every time I hear another story!", 75, 210, "x-high"),
    Line(0, "I understand. Please let me", 45, 160),
    Line(1, "No, you do not understand! My children are sitting in a cold room!", 80, 220, "x-high", -0.6),
    Line(0, "That must be very hard. I will call the driver myself, right now.", 40, 140, "low", 1.0),
    Line(1, "I am so tired of this. We have been cold for two weeks, and nobody helps us.", 20, 115, "x-low", 1.0),
    Line(
        0, "I have him on the other line. He is ten minutes away from you, and he has the heater.", 55, 170, pause=3.0
    ),
    Line(1, "Really? He comes today? That is wonderful!", 75, 190, "x-high"),
    Line(0, "Yes! He will also connect it for you, and you do not have to pay for that.", 65, 180, "high"),
    Line(1, "Thank you so much, Anna. The children will be very happy. You have made my day.", 60, 170, "high"),
    Line(0, "You are very welcome. Have a warm evening, and goodbye.", 55, 165, "high"),
    Line(1, "Goodbye!", 55, 165, "high"),
)


def main() -> None:
    """Makes the call, analyzes it, and writes the page and the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("words", metavar="WHISPER", help="name or folder of a Whisper model")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", type=Path, help="folder for the sound and every format")
    arguments = parser.parse_args()
    call = made(SCRIPT)
    reader = Transcriber(arguments.words, language="en")
    reader.name = Path(arguments.words).name  # the document names no folder of this machine
    started = time.process_time()  # other programs on the machine do not count
    found = e2v_port.analyze(call, sampling_rate=SAMPLING_RATE, channel="each", words=reader)
    seconds = time.process_time() - started
    found = replace(found, file="call.wav")
    if arguments.folder:
        keep(arguments.folder, call, found)
    with replacing(IMAGES / "call.svg") as unfinished:
        screen(found, unfinished)
    body = "\n".join([measured(found, seconds), "", lowered(FORMATS["md"]([found]))])
    page, places = BETWEEN.subn(lambda match: match[1] + body + match[2], PAGE.read_text("utf-8"))
    if places != 1:
        raise SystemExit(f"error: {PAGE.name} has {places} places for the call: keep one <!-- call --> <!-- /call -->")
    with replacing(PAGE) as unfinished:
        unfinished.write_text(page, "utf-8", newline="\n")


def made(script: tuple[Line, ...]) -> Waveform:
    """Returns the sound of a script, [samples, channels]: each voice on its channel, in time with the other."""
    placed: list[tuple[int, int, Waveform]] = []
    end = SAMPLING_RATE // 2
    for line in script:
        spoken = said(line)
        start = max(end + round(line.pause * SAMPLING_RATE), 0)
        placed.append((line.who, start, spoken))
        end = start + len(spoken)
    call = np.zeros((end + SAMPLING_RATE // 2, len(VOICES)), np.float32)
    for who, start, spoken in placed:
        call[start : start + len(spoken), who] += spoken
    return (call + np.random.default_rng(0).normal(0, 3e-4, call.shape)).astype(np.float32)


def said(line: Line) -> Waveform:
    """Returns a line as espeak-ng says it, [samples], without the silence around it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line.wav"
        settings = ["-p", str(line.pitch), "-s", str(line.pace), "-w", str(path)]
        text = f'<speak><prosody range="{line.melody}">{line.text}</prosody></speak>'
        command = ["espeak-ng", "-m", "-v", VOICES[line.who], *settings, text]
        subprocess.run(command, check=True)
        samples, rate = soundfile.read(path, dtype="float32")
    loud = np.flatnonzero(np.abs(samples) > 1e-3)
    samples = samples[loud[0] : loud[-1] + 1]
    return np.asarray(soxr.resample(samples, rate, SAMPLING_RATE), np.float32)


def keep(folder: Path, call: Waveform, found: Analysis) -> None:
    """Writes the sound, and the analysis in every format."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "call.wav", call, SAMPLING_RATE)
    for name, write in FORMATS.items():
        (folder / f"call.{name}").write_text(write([found]), "utf-8", newline="\n")


def screen(found: Analysis, path: Path) -> None:
    """Draws the transcript as a terminal shows it."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ e2v analyze call.wav --channel each --words base --language en"))
    console.print(transcript(found, width=WIDTH))
    path.write_text(FONTS.sub("", console.export_svg(title="e2v analyze")), "utf-8")


def measured(found: Analysis, seconds: float) -> str:
    """Returns what was measured, as Markdown."""
    wrong = {}
    for who, name in enumerate(("left", "right")):
        said = " ".join(line.text for line in SCRIPT if line.who == who)
        read = " ".join(turn.text or "" for turn in found.turns or () if turn.speaker == name)
        wrong[name] = jiwer.wer(plain(said), plain(read))
    words = ", ".join(f"{name} {rate:.1%}" for name, rate in wrong.items())
    total = sum(found.timings.values())
    shares = ", ".join(f"{stage} {spent / total:.1%}" for stage, spent in found.timings.items())
    return textwrap.fill(
        f"The call lasts {found.duration:.1f} s. Its analysis took {seconds:.1f} s of CPU time, of all cores together. "
        f"Shares of the time: {shares}. Wrong words (WER, numbers as words): {words}.",
        120,
    )


def plain(text: str) -> str:
    """Returns words without case and punctuation, each digit as a word."""
    spelled = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text.casefold())
    return " ".join(re.sub(r"[^\w']", " ", spelled).split())


def lowered(text: str) -> str:
    """Returns a transcript with its headings two levels lower, as a part of a page."""
    return re.sub(r"^(#+ )", r"##\1", text, flags=re.M)


if __name__ == "__main__":
    main()

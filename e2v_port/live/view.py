"""The view of `e2v listen` on a terminal: a line per segment, and a picture that moves with the voice."""

import math
import time
from collections import deque
from typing import Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from e2v_port.analysis.output.terminal import GREY, bar, colour, doubtful, number, reasons
from e2v_port.audio import Waveform
from e2v_port.emotions.judgement import MEASURED
from e2v_port.files import printable
from e2v_port.live.results import VoiceSegment
from e2v_port.live.sources import Block, Source, lost

__all__ = ["View", "row", "words_row"]

_REDRAWN = 0.1  # s, the shortest time between two pictures
_QUIETEST = -60.0  # dBFS, the left end of the meter: a quiet room
_TRACE = 60  # judgements in the traces: half a minute of speech
_SPARKS = {
    False: "▁▂▃▄▅▆▇█",
    True: "0123456789",
}  # lowest to highest; True for ASCII terminals
_NAMES = 12  # cells, of the longest of the 26
_HEAD = (
    f"{'start':>8} {'end':>8}  {'emotion':{_NAMES}}  conf               {'arousal':>8} {'dominance':>9} {'valence':>8}"
)


def row(segment: VoiceSegment, *, ascii_only: bool = False) -> Text:
    """Returns the line of a segment that has ended, in columns of fixed width.

    Args:
        segment: Segment to show.
        ascii_only: Whether the terminal shows ASCII alone.
    """
    line = Text(f"{segment.start:8.2f} {segment.end:8.2f}  ")
    if segment.judgement is None:
        return line.append(segment.quality.replace("_", " "), GREY)
    name = "unclear" if segment.judgement.doubtful else segment.judgement.headline
    line.append_text(_emotion(name, segment, ascii_only))
    about = "" if segment.dimensions_from in MEASURED else "~"
    values = (about + number(value) for value in (segment.arousal, segment.dominance, segment.valence))
    line.append("{:>8} {:>9} {:>8}".format(*values))
    notes = [printable(segment.speaker)] if segment.speaker else []
    notes += [segment.judgement.rivals] if segment.judgement.doubtful else []
    notes += [*segment.reasons, *reasons(segment)]
    return line.append(f"  {', '.join(notes)}" if notes else "", GREY)


def words_row(segment: VoiceSegment) -> Text:
    """Returns the line with the words of a segment, below its own line: the rows of others may come between.

    Args:
        segment: Segment whose words are settled.
    """
    line = Text(f"{segment.start:8.2f} {'':8}  ", GREY)
    if segment.reading == "done":
        return line.append(f'"{printable(segment.text)}"', "none") if segment.text else line.append("no words")
    return line.append("words left out: too slow" if segment.reading == "late" else "words could not be read")


def _emotion(name: str, segment: VoiceSegment, ascii_only: bool) -> Text:
    confidence = segment.confidence or 0.0
    shown = GREY if doubtful(segment) else colour(segment.emotion)
    return Text.assemble(
        (f"{printable(name):{_NAMES}}", shown),
        f"  {number(segment.confidence):5} ",
        (f"{bar(confidence, ascii_only):12} ", shown),
    )


class View:
    """Prints a line for each segment that has ended; on a terminal, a picture below them moves with the voice.

    Use it in a `with` statement, whose end removes the picture.

    Args:
        console: Where to print.
        source: Source of the sound.
        by: Backend and models, as shown to people.
    """

    def __init__(self, console: Console, source: Source, by: str) -> None:
        self._console, self._source, self._by = console, source, by
        self._ascii = console.options.ascii_only
        self._drawn = -math.inf
        self._sound: deque[Waveform] = deque(maxlen=2)  # of the last 0.1 s
        self._now: VoiceSegment | None = None  # window of ongoing speech
        self._trace: deque[VoiceSegment] = deque(maxlen=_TRACE)
        self._latency: float | None = None
        self._words_latency: float | None = None
        self._live = Live(console=console, get_renderable=self._picture, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._print(Text(_HEAD, GREY))
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, block: Block | None, segments: list[VoiceSegment], clock: float | None) -> None:
        """Shows a block and the results that it completes."""
        if block:
            self._sound.append(block.samples)
        for segment in segments:
            if segment.reading not in {None, "pending"}:  # the same segment again, with its words
                self._print(words_row(segment))
                self._words_latency = None if clock is None else clock - segment.end
                continue
            if segment.final:
                self._print(row(segment, ascii_only=self._ascii))
            elif clock is not None:
                self._latency = clock - segment.end
            self._now = None if segment.final else segment
            if segment.dimensions and not (self._trace and segment.end <= self._trace[-1].end):
                self._trace.append(segment)
        if time.monotonic() - self._drawn >= _REDRAWN:
            self._live.refresh()
            self._drawn = time.monotonic()

    def _print(self, line: Text) -> None:
        self._console.print(line, soft_wrap=True)

    def _picture(self) -> Text:
        lines = {"level": self._level(), "now": Text("-", GREY)}
        if self._now:
            name = self._now.judgement.words if self._now.judgement else ""
            lines["now"] = _emotion(name, self._now, self._ascii)
        latest = list(self._trace)[9 - self._console.width :]  # as many as fit
        for name in "arousal", "valence":
            lines[name] = Text("".join(self._spark(getattr(segment, name)) for segment in latest))
        status = [printable(self._source.name), self._by]
        if self._latency is not None:
            status.append(f"delay {self._latency:.2f} s")
        if self._words_latency is not None:
            status.append(f"words {self._words_latency:.2f} s")
        if self._source.gaps:
            status.append(lost(self._source))
        picture = Text(no_wrap=True, overflow="crop")
        for name, line in lines.items():
            picture.append(f"{name:9}", GREY).append_text(line).append("\n")
        return picture.append(", ".join([*status, "Ctrl-C ends"]), GREY)

    def _level(self) -> Text:
        sound = np.concatenate([*self._sound, np.zeros(1, np.float32)])
        level = 10 * math.log10(max(float(np.mean(sound**2)), 10 ** (_QUIETEST / 10)))
        loud = ("clipped", "bold") if np.abs(sound).max() >= 1 else bar(1 - level / _QUIETEST, self._ascii, cells=30)
        return Text.assemble(f"{level:5.0f} dB  ", loud)

    def _spark(self, value: float | None) -> str:
        if value is None:
            return " "
        marks = _SPARKS[self._ascii]
        return marks[min(max(int(value * len(marks)), 0), len(marks) - 1)]

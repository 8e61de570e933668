"""A voice followed at the terminal: where its samples come from, and what is shown of them while it speaks."""

import json
import math
import os
import queue
import signal
import time
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import FrameType
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.text import Text

from e2v_port import emotions
from e2v_port.audio import SAMPLING_RATE, Waveform, load_audio
from e2v_port.detector import Listener, VoiceSegment
from e2v_port.errors import AudioError
from e2v_port.files import printable
from e2v_port.fusion import MEASURED
from e2v_port.terminal import GREY, bar, doubtful, number

__all__ = ["Block", "JsonLines", "Microphone", "Pipe", "Recording", "Show", "Source", "View", "follow", "row"]

_BLOCK = 0.05  # s: what comes in at a time; a level that moves 20 times a second looks alive
_HELD = 30.0  # s of a microphone that wait for a model that is slower than the voice, before any are lost
_PATIENCE = 0.5  # s without samples, after which a microphone is asked whether it is still there
_FILES = {b"RIFF": "a WAV", b"fLaC": "a FLAC", b"OggS": "an OGG", b"ID3": "an MP3"}
_REDRAWN = 0.1  # s from one picture to the next, at least
_QUIETEST = -60.0  # dBFS, the left end of the meter: a quiet room
_TRACE = 60  # judgements: half a minute of speech
_SPARKS = {False: "▁▂▃▄▅▆▇█", True: "0123456789"}  # the lowest to the highest; True where there is only ASCII
_NAMES = 12  # cells, of the longest of the 26
_HEAD = (
    f"{'start':>8} {'end':>8}  {'emotion':{_NAMES}}  conf               {'arousal':>8} {'dominance':>9} {'valence':>8}"
)


class Block(NamedTuple):
    """A piece of sound.

    Attributes:
        samples: [samples], float32.
        recorded: When the last of them had been, by `time.monotonic`; None where that does not count.
    """

    samples: Waveform
    recorded: float | None


class Source(Protocol):
    """Where sound comes from.

    Attributes:
        name: Of it, for people.
        sampling_rate: Hz.
        gaps: How often sound has been lost so far.
    """

    name: str
    sampling_rate: int
    gaps: int

    def __iter__(self) -> Iterator[Block]: ...


class Recording:
    """A file, played without a sound: a block is there when it would have been spoken.

    Args:
        file: Its path, as for `load_audio`.
        paced: False to give the blocks as fast as they are taken.

    Raises:
        AudioError: As `load_audio`.
    """

    gaps = 0
    sampling_rate = SAMPLING_RATE

    def __init__(self, file: str, paced: bool) -> None:
        self.name, self._waveform, self._paced = file, load_audio(file), paced

    def __iter__(self) -> Iterator[Block]:
        size = round(_BLOCK * SAMPLING_RATE)
        began = time.monotonic()
        for start in range(0, len(self._waveform), size):
            samples = self._waveform[start : start + size]
            recorded = began + (start + len(samples)) / SAMPLING_RATE
            if self._paced:
                time.sleep(max(0.0, recorded - time.monotonic()))
            yield Block(samples, recorded if self._paced else None)


class Pipe:
    """Samples without a header: 16-bit little-endian integers of one channel, as `arecord -t raw` writes them.

    They are read as they come; at the end, half a sample is left out.

    Args:
        number: Of the file, as the system has it: 0 for standard input.
        sampling_rate: Hz.

    Raises:
        AudioError: While it is read, where it is a file with a header.
    """

    gaps = 0
    name = "standard input"

    def __init__(self, number: int, sampling_rate: int) -> None:
        self._number, self.sampling_rate = number, sampling_rate

    def __iter__(self) -> Iterator[Block]:
        size = 2 * round(_BLOCK * self.sampling_rate)
        rest, new = b"", True
        while data := os.read(self._number, size):
            recorded = time.monotonic()
            rest += data
            if new and len(rest) >= 4:
                new = False
                if kind := next((kind for mark, kind in _FILES.items() if rest.startswith(mark)), None):
                    raise AudioError(f"{self.name}: {kind} file, but samples without a header are read: name the file")
            if not new:
                whole = len(rest) - len(rest) % 2
                samples: Waveform = np.frombuffer(rest[:whole], "<i2").astype(np.float32) / np.float32(32768)
                rest = rest[whole:]
                yield Block(samples, recorded)


class Microphone:
    """What a microphone hears, at its own rate; the first channel of it. To be used in a `with`.

    Blocks wait in a queue for up to 30 s, while a segment is judged; what finds no place there is lost.

    Args:
        device: Part of its name, or its number, as `python -m sounddevice` lists them; by default the system's.

    Raises:
        AudioError: Nothing can be recorded here; later, that the microphone has gone.
    """

    def __init__(self, device: str | None = None) -> None:
        if find_spec("sounddevice") is None:
            raise AudioError('the microphone needs sounddevice, which is not installed: pip install "e2v-port[mic]"')
        try:
            self._library: Any = import_module("sounddevice")
        except OSError as error:  # the wheels for Linux come without it
            raise AudioError(
                f"the microphone needs PortAudio, which cannot be loaded ({error}): apt-get install libportaudio2"
            ) from error
        inputs = [str(each["name"]) for each in self._library.query_devices() if each["max_input_channels"]]
        if not inputs:
            raise AudioError("no microphone is there, or the system does not let it be used: name a file")
        try:
            about = self._library.query_devices(int(device) if device and device.isdigit() else device, "input")
            self.name, self.sampling_rate = str(about["name"]), round(about["default_samplerate"])
            self._stream = self._library.InputStream(
                samplerate=self.sampling_rate,
                blocksize=round(_BLOCK * self.sampling_rate),
                device=about["index"],
                channels=1,
                dtype="float32",
                latency="low",
                callback=self._recorded,
            )
        except (ValueError, self._library.PortAudioError) as error:
            which = f"microphone {device}" if device else "microphone"
            known = f"name one of these with --device: {', '.join(inputs)}"
            raise AudioError(f"{which}: {_first_line(error)}: {known}") from error
        self._blocks: queue.Queue[Block] = queue.Queue(round(_HELD / _BLOCK))
        self.gaps = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[Block]:
        try:
            self._stream.start()
        except self._library.PortAudioError as error:
            raise AudioError(
                f"microphone {self.name}: {_first_line(error)}: see whether another program uses it"
            ) from error
        while True:
            try:
                yield self._blocks.get(timeout=_PATIENCE)
            except queue.Empty:
                if not self._stream.active:
                    raise AudioError(f"microphone {self.name}: it has gone") from None

    def _recorded(self, samples: Any, frames: int, clock: Any, status: Any) -> None:
        """Takes a block, in a thread of PortAudio's that must not wait."""
        self.gaps += bool(status.input_overflow)
        try:
            self._blocks.put_nowait(Block(samples[:, 0].copy(), time.monotonic()))
        except queue.Full:
            self.gaps += 1


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class Show(Protocol):
    """Something that shows what is heard."""

    def __call__(self, block: Block | None, found: list[VoiceSegment], clock: float | None) -> None:
        """Shows a block, None at the end, and what was said of it.

        Args:
            block: What came in.
            found: What can be said now.
            clock: How many seconds there would be of the sound by now; None at the end, and where it has no pace.
        """


def follow(source: Source, listener: Listener, show: Show) -> None:
    """Listens to a source until it ends or Ctrl-C is pressed; what has been heard until then is judged.

    Raises:
        AudioError: The source broke off, behind all that could be said of it.
    """
    broken = None
    try:
        for block in _until_stopped(iter(source)):
            found = listener.push(block.samples)
            late = None if block.recorded is None else time.monotonic() - block.recorded
            show(block, found, None if late is None else listener.duration + late)
    except AudioError as error:
        broken = error
    show(None, listener.finish(), None)
    if broken:
        raise broken


def _until_stopped(blocks: Iterator[Block]) -> Iterator[Block]:
    """Gives blocks until there are no more, or Ctrl-C is pressed: a block that is worked on then is the last one.

    Pressed again while that is worked on, Ctrl-C is what it always is.
    """
    waiting = stopped = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        before, stopped = stopped, True
        if waiting or before:
            raise KeyboardInterrupt

    usual = signal.signal(signal.SIGINT, stop)
    try:
        while not stopped:
            waiting = True
            block = next(blocks, None)
            waiting = False
            if block is None:
                break
            yield block
    except KeyboardInterrupt:  # while it waited: what is done with a block is not done in here
        pass
    finally:
        signal.signal(signal.SIGINT, usual)


def lost(source: Source) -> str:
    """Says that there are gaps in the sound, for people."""
    return f"sound was lost {source.gaps} times"


class JsonLines:
    """Prints each result as a JSON object on a line of its own, as soon as it is there.

    It is what `VoiceSegment.to_dict` gives, and `latency`: seconds from the end of the segment to this line; null for
    what the end of the sound makes final, and where the sound has no pace of its own.
    """

    def __call__(self, block: Block | None, found: list[VoiceSegment], clock: float | None) -> None:
        """Prints the results of a block."""
        for segment in found:
            latency = None if clock is None else round(clock - segment.end, 3)
            print(json.dumps(segment.to_dict() | {"latency": latency}), flush=True)


def row(segment: VoiceSegment, *, ascii_only: bool = False) -> Text:
    """Returns a line about a segment that has ended, in columns as wide for all of them.

    Args:
        segment: Any.
        ascii_only: Whether the terminal shows nothing else.
    """
    line = Text(f"{segment.start:8.2f} {segment.end:8.2f}  ")
    if segment.judgement is None:
        return line.append(segment.quality.replace("_", " "), GREY)
    line.append_text(_emotion(segment, ascii_only))
    about = "" if segment.dimensions_from in MEASURED else "~"
    values = (about + number(value) for value in (segment.arousal, segment.dominance, segment.valence))
    line.append("{:>8} {:>9} {:>8}".format(*values))
    notes = [*segment.reasons, *(["short"] if segment.quality == "low_confidence" else [])]
    return line.append(f"  {', '.join(notes)}" if notes else "", GREY)


def _emotion(segment: VoiceSegment, ascii_only: bool) -> Text:
    name = segment.emotion or segment.label or ""
    confidence = segment.confidence or 0.0
    colour = emotions.emotion(segment.emotion).colour if segment.emotion and not doubtful(segment) else GREY
    return Text.assemble(
        (f"{printable(name):{_NAMES}}", colour),
        f"  {number(segment.confidence):5} ",
        (f"{bar(confidence, ascii_only):12} ", colour),
    )


class View:
    """Prints a line for each segment that has ended; on a terminal, a picture below them moves with the voice.

    To be used in a `with`, which ends the picture.

    Args:
        console: Where to.
        source: Who is heard.
        by: What listens, for people.
    """

    def __init__(self, console: Console, source: Source, by: str) -> None:
        self._console, self._source, self._by = console, source, by
        self._ascii = console.options.ascii_only
        self._drawn = -math.inf
        self._sound: deque[Waveform] = deque(maxlen=2)  # of the last 0.1 s
        self._now: VoiceSegment | None = None  # of the speech that goes on
        self._trace: deque[VoiceSegment] = deque(maxlen=_TRACE)
        self._latency: float | None = None
        self._live = Live(console=console, get_renderable=self._picture, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._print(Text(_HEAD, GREY))
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, block: Block | None, found: list[VoiceSegment], clock: float | None) -> None:
        """Takes note of a block and its results, and shows them."""
        if block:
            self._sound.append(block.samples)
        for segment in found:
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
            lines["now"] = _emotion(self._now, self._ascii)
        latest = list(self._trace)[9 - self._console.width :]  # what there is room for
        for name in "arousal", "valence":
            lines[name] = Text("".join(self._spark(getattr(segment, name)) for segment in latest))
        status = [printable(self._source.name), self._by]
        if self._latency is not None:
            status.append(f"{self._latency:.2f} s behind")
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

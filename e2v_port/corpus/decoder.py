"""A process that decodes clips, so that hostile audio takes nothing else with it: `python -m e2v_port.corpus.decoder`.

It reads tasks from its standard input and answers on its standard output until the input ends: a JSON object behind its
length, then samples. The other end is `e2v_port.corpus.decoding`.
"""

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np

from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE, AudioStream, Waveform
from e2v_port.errors import AudioError
from e2v_port.files import printable
from e2v_port.segments import Segment, SegmentSettings, detect, to_samples

__all__ = ["LENGTH", "NO_SPEECH", "Rules", "belong", "serve"]

LENGTH = struct.Struct("<Q")  # of a JSON object, in front of it

NO_SPEECH = "no speech found"  # an error in its row, and yet an answer

SILENT = 2.0**-15  # of full scale: the last bit of 16, which is dither or nothing
FULL_SCALE = 0.999  # from here on a sample counts as clipped: the largest of 16 bits is 0.99997
_ROUNDING = 0.02  # s: a part may end so far beyond its file, as times in tables are rounded

_ATTEMPTS, _WAIT = 3, 1.0  # at fetching a file from elsewhere; seconds before the second, twice that before the third
_MEMORY = 2 << 30  # bytes beside four times the longest clip: torch, and whatever a library takes for a false header


@dataclass(frozen=True)
class Rules:
    """How clips are cut.

    Attributes:
        whole: Each clip as one segment; else the speech in it.
        longest: Seconds; a longer clip becomes an error.
        segments: Thresholds and lengths of the speech in it.
    """

    whole: bool
    longest: float
    segments: SegmentSettings


def serve(tasks: BinaryIO, answers: BinaryIO, rules: Rules) -> None:
    """Answers tasks until there are no more.

    A task is `address`, `offset`, `size` and `parts`: [start, end] in seconds, None for the file's own ends. Its answer
    has for each part what there is of `error`, `duration` in seconds, `rate` in Hz and `segments`, each of these with
    start and end in seconds, quality, level, peak, clipping, and how many samples follow: float32, 16 kHz, those
    of all segments in order, none of a segment that is too short to judge.
    """
    while len(head := tasks.read(LENGTH.size)) == LENGTH.size:
        task = json.loads(tasks.read(*LENGTH.unpack(head)))
        waveforms: list[Waveform] = []
        try:
            parts = _answer(task, rules, waveforms)
        except Exception as error:  # whatever a clip causes ends in its row
            why = f"cannot be read ({type(error).__name__}: {error})"
            if isinstance(error, MemoryError):
                why = "takes more memory than a clip may: cut it into parts"
            waveforms, parts = [], [{"error": why}] * len(task["parts"])
        answer = json.dumps(parts).encode()
        answers.write(LENGTH.pack(len(answer)) + answer)
        for waveform in waveforms:
            answers.write(waveform.data)
        answers.flush()


def _answer(task: dict[str, Any], rules: Rules, waveforms: list[Waveform]) -> list[dict[str, Any]]:
    spans = [(start or 0.0, end) for start, end in task["parts"]]
    address, offset = task["address"], task["offset"]
    try:
        here = offset is None and "://" not in address
        with AudioStream(address) if here else _fetched(address, offset, task["size"]) as stream:
            found = _parts(stream, spans, rules.longest)
            rate = stream.rate
    except AudioError as error:
        return [{"error": _why(error, address)}] * len(spans)
    return [
        {"error": _why(part, address)}
        if isinstance(part, AudioError)
        else {"rate": rate, **_described(part, start, rules, waveforms)}
        for (start, _), part in zip(spans, found, strict=True)
    ]


def _why(error: AudioError, address: str) -> str:
    """Returns what an error says, without the name in front: the row has it."""
    return str(error).removeprefix(f"{printable(address)}: ")


class _Member:
    """A file from elsewhere, or a part of a tar, as something to read from."""

    def __init__(self, file: BinaryIO, name: str, offset: int | None, size: int | None) -> None:
        self._file, self.name, self._left = file, name, size
        if offset is not None:
            file.seek(offset)

    def read(self, size: int) -> bytes:
        data = self._file.read(size if self._left is None else min(size, self._left))
        if self._left is not None:
            self._left -= len(data)
        return data


def _fetched(address: str, offset: int | None, size: int | None) -> AudioStream:
    """Copies a file, and tries again where the way to it fails."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with system.open(path, "rb") as file:
                member = _Member(file, address, offset, None if offset is None else size)
                return AudioStream(cast(BinaryIO, member))
        except FileNotFoundError as error:
            raise AudioError("cannot be read (No such file or directory): pass a readable file") from error
        except Exception as error:  # every file system has errors of its own
            if isinstance(error, AudioError) and not isinstance(error.__cause__, OSError):
                raise
            if attempt == _ATTEMPTS:
                why = f"{type(error).__name__}: {error}" if not isinstance(error, AudioError) else str(error)
                raise AudioError(
                    f"cannot be fetched ({why}), tried {_ATTEMPTS} times: see that it can be read"
                ) from error
            time.sleep(_WAIT * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _parts(
    stream: AudioStream, spans: Sequence[tuple[float, float | None]], longest: float
) -> list[Waveform | AudioError]:
    """Cuts parts out of a file, which is decoded once, and no further than the last of them."""
    most = to_samples(longest)
    starts = [to_samples(start) for start, _ in spans]
    ends = [None if end is None else to_samples(end) for _, end in spans]
    # One sample more than is allowed tells that there are more.
    stops = [
        start + most + 1 if end is None else min(end, start + most + 1) for start, end in zip(starts, ends, strict=True)
    ]
    held = [bytearray() for _ in spans]
    at, failed, over = 0, None, False
    try:
        for block in stream:
            for own, start, stop in zip(held, starts, stops, strict=True):
                if start < at + len(block) and stop > at:
                    own.extend(block[max(start - at, 0) : stop - at].data)
            at += len(block)
            if at >= max(stops):
                break
        else:
            over = True
    except AudioError as error:
        failed = error
    found: list[Waveform | AudioError] = []
    for data, start, end, stop in zip(held, starts, ends, stops, strict=True):
        waveform = np.frombuffer(data, np.float32)
        if len(waveform) > most:
            found.append(AudioError(f"longer than {longest:g} s: cut it into parts, or allow more with --longest"))
        elif failed and at < stop:
            found.append(failed)
        elif over and (start >= at or (end is not None and end > at + to_samples(_ROUNDING))):
            found.append(
                AudioError(f"this part lies beyond the end of the file at {at / SAMPLING_RATE:.3f} s: correct it")
            )
        elif len(waveform) < MIN_SAMPLES:
            found.append(
                AudioError(f"too short at {len(waveform) / 16:.1f} ms: pass at least {MIN_SAMPLES / 16:.0f} ms")
            )
        else:
            found.append(waveform)
    return found


def _described(waveform: Waveform, start: float, rules: Rules, waveforms: list[Waveform]) -> dict[str, Any]:
    """Finds the segments of a clip, adds those to be judged to `waveforms`, and says what they are."""
    duration = len(waveform) / SAMPLING_RATE
    if _peak(waveform) <= SILENT:
        return {"duration": duration, "error": "silent: no sample beyond 1/32768 of full scale: record it again"}
    if rules.whole:
        short = duration < rules.segments.low_confidence
        segments = [Segment(0.0, duration, "low_confidence" if short else "normal")]
    else:
        segments = detect(waveform, rules.segments)
    if not segments:
        return {"duration": duration, "error": NO_SPEECH}
    rows = []
    begin = to_samples(start)
    for segment in segments:
        own = waveform[segment.samples]
        judged = segment.quality in {"normal", "low_confidence"}
        # Not a dot product, whose last digits depend on where in memory the samples lie.
        mean_square = float(np.square(own).mean())
        peak = _peak(own)
        rows.append(
            {
                # On a whole sample of the file, whatever is added to what.
                "start": (begin + segment.samples.start) / SAMPLING_RATE,
                "end": (begin + segment.samples.stop) / SAMPLING_RATE,
                "quality": segment.quality,
                "level": round(10 * float(np.log10(mean_square)), 2) if mean_square else None,
                "peak": peak,
                "clipping": float((np.abs(own) >= FULL_SCALE).mean()) if peak >= FULL_SCALE else 0.0,
                "samples": len(own) if judged else 0,
            }
        )
        if judged:
            waveforms.append(own)
    return {"duration": duration, "segments": rows}


def _peak(waveform: Waveform) -> float:
    return max(float(waveform.max()), -float(waveform.min()))


def _limit_memory(longest: float) -> None:
    try:
        import resource
    except ImportError:  # Windows has none
        return
    most = _MEMORY + 4 * to_samples(longest) * 4
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def belong() -> None:
    """Lets this process end with the one that started it, and by nothing else.

    A signal may be sent to a whole group: what it does to the clip or shard at hand is for the one who started this.
    """
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # it was killed: nobody waits for what is done here

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """Serves what started this process; the rules are its first argument."""
    belong()
    given = json.loads(sys.argv[1])
    rules = Rules(given["whole"], given["longest"], SegmentSettings(**given["segments"]))
    _limit_memory(rules.longest)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    answers.write(LENGTH.pack(0))  # ready
    answers.flush()
    serve(sys.stdin.buffer, answers, rules)


if __name__ == "__main__":
    main()

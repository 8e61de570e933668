"""A process that decodes clips, so that hostile audio harms nothing else: `python -m e2v_port.corpus.decoder`.

It reads tasks from its standard input and writes answers to its standard output until the input ends. An answer is the
length of a JSON object, the object, then samples. The other end is `e2v_port.corpus.decoding`.
"""

import json
import os
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import numpy as np

from e2v_port.audio import AudioStream, Waveform, channel_name, channel_number
from e2v_port.corpus.cutting import Rules, cut, described
from e2v_port.errors import AudioError
from e2v_port.files import printable
from e2v_port.processes import end_with_parent
from e2v_port.speech.segment import SegmentSettings, to_samples

__all__ = ["LENGTH", "serve"]

LENGTH = struct.Struct("<Q")  # of the JSON object that follows

_ATTEMPTS, _WAIT = 3, 1.0  # to fetch a remote file; seconds before the second one, twice that before the third
_MEMORY = 2 << 30  # bytes on top of four times the longest clip: torch, and allocations caused by false headers


def serve(tasks: BinaryIO, answers: BinaryIO, rules: Rules) -> None:
    """Answers tasks until the input ends.

    A task has the fields `address`, `offset`, `size` and `parts`, a list of [start, end] in seconds (None for the ends
    of the file). The answer has for each part an `error`, or `duration` in seconds, `rate` in Hz and `segments`; a
    segment has its channel, speaker and notes, start and end in seconds, quality, level, peak, clipping, snr, and its
    number of samples. The samples of all segments follow in order, as float32 at 16 kHz; a segment too short to judge
    has none.
    """
    while len(head := tasks.read(LENGTH.size)) == LENGTH.size:
        task = json.loads(tasks.read(*LENGTH.unpack(head)))
        waveforms: list[Waveform] = []
        try:
            parts = _answer(task, rules, waveforms)
        except Exception as error:  # any failure becomes an error in the row of the clip
            why = f"cannot be read ({type(error).__name__}: {error})"
            if isinstance(error, MemoryError):
                why = "needs too much memory: cut it into parts"
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
        local = offset is None and "://" not in address
        with AudioStream(address) if local else _fetched(address, offset, task["size"]) as stream:
            channels = [*_channels(stream, spans, rules)]
            rate = stream.rate
    except AudioError as error:
        return [{"error": _why(error, address)}] * len(spans)
    answers = []
    for i, (start, _) in enumerate(spans):
        found: list[dict[str, Any]] = []
        for about, parts in channels:
            part = parts[i]
            if isinstance(part, AudioError):
                found.append({"error": _why(part, address)})
            else:
                found.append({"rate": rate, **described(part, start, rules, waveforms)})
            found[-1]["segments"] = [{**row, **about} for row in found[-1].get("segments", ())]
        # Of channels without speech, nothing is said beside those in which there is some.
        answer = next((item for item in found if item["segments"]), found[0])
        answers.append({**answer, "segments": [row for item in found for row in item["segments"]]})
    return answers


def _channels(
    stream: AudioStream, spans: list[tuple[float, float | None]], rules: Rules
) -> Iterator[tuple[dict[str, Any], list[Waveform | AudioError]]]:
    """Yields the parts of each channel that is judged, with the cells of its rows. Each is decoded anew."""
    each = rules.channel == "each"
    stream.channel = 1 if each else channel_number(rules.channel)
    while True:
        parts = cut(stream, spans, rules.longest)
        kinds = [note.kind for note in stream.notes]
        about: dict[str, Any] = {"channel": stream.channel, "speaker": None, "notes": " ".join(kinds) or None}
        if stream.mixer and (gain := np.float32(stream.mixer.downmix.gain)) != 1:
            parts = [part if isinstance(part, AudioError) else part * gain for part in parts]
        channels = stream.mixer.downmix.channels if stream.mixer else 0
        if each and channels:
            about["speaker"] = channel_name(stream.channel or 1, channels)
        yield about, parts
        if not each or (stream.channel or 1) >= channels:
            return
        stream.channel = (stream.channel or 1) + 1


def _why(error: AudioError, address: str) -> str:
    """Returns the message of an error without the leading file name, which the row has."""
    return str(error).removeprefix(f"{printable(address)}: ")


class _Member:
    """A remote file, or a member of a tar, as a readable object."""

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
    """Reads a remote file into memory, retrying when the connection fails."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(address)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with system.open(path, "rb") as file:
                member = _Member(file, address, offset, None if offset is None else size)
                return AudioStream(cast(BinaryIO, member))
        except FileNotFoundError as error:
            raise AudioError("cannot be read (No such file or directory): pass a readable file") from error
        except Exception as error:  # each file system has its own exceptions
            if isinstance(error, AudioError) and not isinstance(error.__cause__, OSError):
                raise
            if attempt == _ATTEMPTS:
                why = f"{type(error).__name__}: {error}" if not isinstance(error, AudioError) else str(error)
                raise AudioError(
                    f"cannot be fetched ({why}), tried {_ATTEMPTS} times: check the address and the connection"
                ) from error
            time.sleep(_WAIT * 2 ** (attempt - 1))
    raise AssertionError("the last attempt returns or raises")


def _limit_memory(longest: float) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    most = _MEMORY + 4 * to_samples(longest) * 4
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def main() -> None:
    """Serves the parent process; the first argument has the rules as JSON."""
    end_with_parent()
    values = json.loads(sys.argv[1])
    rules = Rules(values["whole"], values["longest"], SegmentSettings(**values["segments"]), values["channel"])
    _limit_memory(rules.longest)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    answers.write(LENGTH.pack(0))  # ready
    answers.flush()
    serve(sys.stdin.buffer, answers, rules)


if __name__ == "__main__":
    main()

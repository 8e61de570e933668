"""Files -> blocks of samples, decoded by libsndfile or FFmpeg."""

import signal
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import groupby

import numpy as np
import soxr

from e2v_port.audio.clip import Waveform
from e2v_port.audio.ffmpeg import TOLERANCE, ffmpeg_blocks, installed
from e2v_port.audio.headers import Part, has_known_length, parts
from e2v_port.audio.mix import check_size
from e2v_port.audio.notes import Note
from e2v_port.audio.opening import Call, Source
from e2v_port.audio.sndfile import UnknownToSndfileError, sndfile_blocks
from e2v_port.errors import AudioError

__all__ = ["decode"]


def decode(source: Source) -> Generator[Waveform]:
    """Yields the blocks [frames, channels] of a file, at its own rate. A block's memory is reused by the next one.

    libsndfile decodes what it stores exactly (WAV, FLAC, AIFF and the like); FFmpeg decodes everything else, and what
    libsndfile does not know. Where FFmpeg is not installed, libsndfile decodes MP3, too, to the same samples within
    1e-5. Where the parts of joined files differ, they get the rate and channels of the first.

    Args:
        source: The file. Its `rate` is set before the first block; its `notes` are complete after the last.

    Raises:
        AudioError: The file is damaged or not audio, or its rate or number of channels is beyond the limits.
        OSError: The file cannot be read.
    """
    try:
        with _interruptible() as call, closing(_blocks(source, call)) as blocks:
            yield from _conformed(source, blocks)
    finally:
        if source.error:
            raise source.error


@contextmanager
def _interruptible() -> Iterator[Call]:
    """Provides a function that calls a decoder, outside the main thread where signals may raise exceptions there.

    Such an exception, as of Ctrl-C, Python would print and ignore inside a callback of the decoder.
    """
    raising = any(callable(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM))
    if not raising or threading.current_thread() is not threading.main_thread():
        yield lambda function, **arguments: function(**arguments)
        return
    with ThreadPoolExecutor(1, "decoder") as pool:
        yield lambda function, **arguments: pool.submit(function, **arguments).result()


def _blocks(source: Source, call: Call) -> Generator[tuple[int, Waveform]]:
    decoded = 0.0  # seconds
    for number, part in enumerate(parts(source)):
        try:
            for rate, block in _part_blocks(source, part, call):
                decoded += len(block) / rate
                yield rate, block
        except AudioError as error:
            if not number:
                raise
            text = f"only the first {decoded:.1f} s were decoded: part {number + 1} of the file is {error}"
            source.notes.append(Note("cut_off", text))
            return


def _part_blocks(source: Source, part: Part, call: Call) -> Generator[tuple[int, Waveform]]:
    if part.sndfile or (part.demuxer == "mp3" and not installed() and has_known_length(part)):
        decoded = 0.0  # seconds
        try:
            for rate, block in sndfile_blocks(part.file, call):
                decoded += len(block) / rate
                yield rate, block
        except UnknownToSndfileError as error:
            if not part.demuxer:
                raise AudioError("damaged, or in an encoding that is not read here: get a complete copy") from error
        else:
            missing = part.missing
            if part.seconds is not None and part.seconds - decoded > TOLERANCE:
                missing = missing or f"its header announces {part.seconds:.1f} s and {decoded:.1f} s were found"
            if missing:
                source.notes.append(Note("cut_off", f"incomplete: {missing}; what there is was decoded"))
            return
    yield from ffmpeg_blocks(part, call, source.notes)


def _conformed(source: Source, blocks: Generator[tuple[int, Waveform]]) -> Iterator[Waveform]:
    """Yields blocks at the rate and with the channels of the first one."""
    channels = 0
    for (rate, width), group in groupby(blocks, lambda found: (found[0], found[1].shape[1])):
        check_size(rate, width, 0)
        if source.rate is None:
            source.rate, channels = rate, width
        same = (block for _, block in group)
        if width != channels:
            same = (np.repeat(block.mean(axis=1, keepdims=True), channels, axis=1) for block in same)
        yield from same if rate == source.rate else _resampled(same, rate, source.rate, channels)


def _resampled(blocks: Iterator[Waveform], rate: int, wanted: int, channels: int) -> Iterator[Waveform]:
    stream = soxr.ResampleStream(rate, wanted, channels, "float32", "HQ")
    for block in blocks:
        if len(part := stream.resample_chunk(block)):
            yield part
    if len(rest := stream.resample_chunk(np.empty((0, channels), np.float32), last=True)):
        yield rest

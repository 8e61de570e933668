"""Clips of any length in the same memory: one beyond a minute goes through a model in windows.

A transformer's attention takes memory and time with the square of a clip's length, and a long clip itself takes memory.
So a clip longer than `LONGEST` is read twice: once to learn its length, mean and variance, once to cut it into windows
of `WINDOW`. These overlap by at least twice `CONTEXT`, and the frames within `CONTEXT` of a cut are dropped: each frame
of the clip is taken from the window that it lies deeper in. Windows begin where a frame of the clip does, so their
frames are those of the clip.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from e2v_port.audio import SAMPLING_RATE, AudioStream, Clip, Moments, Waveform, clip_name, normalize
from e2v_port.config import Architecture, Transformer
from e2v_port.errors import AudioError

if TYPE_CHECKING:
    from e2v_port.model import Output

__all__ = ["CONTEXT", "LONGEST", "WINDOW", "Joined", "Piece", "pieces"]

# 1 minute through emotion2vec_plus_base takes 0.9 GB beside the weights, 2 minutes 3.5 GB (docs/long.md).
LONGEST = 60 * SAMPLING_RATE  # samples of a clip that is run as it is
WINDOW = 30 * SAMPLING_RATE
CONTEXT = 5 * SAMPLING_RATE  # at both ends of a window; what windows change is told in docs/long.md

Vector = NDArray[np.float32]


class Joined:
    """What the windows of one clip say together.

    Attributes:
        embedding: Of a transformer, the mean of all frames, as for any clip; of another network the mean of what it
            makes of each window, weighted by the frames that are taken from it. [dim].
        frames: [frames, dim], if they are to be kept: 550 MB for an hour of 768 numbers 50 times a second.
        frame_logits: [frames, labels], likewise; None for a model without a head.
    """

    def __init__(self, architecture: Architecture, samples: int, *, frames: bool) -> None:
        self.frames: Vector | None = None
        self.frame_logits: Vector | None = None
        self._total = architecture.frames(samples)
        self._mean_of_frames = isinstance(architecture, Transformer)
        self._keep = frames
        self._sum = np.zeros(architecture.embed_dim)

    @property
    def embedding(self) -> Vector:
        """See above."""
        return (self._sum / self._total).astype(np.float32)

    def add(self, taken: range, at: int, output: "Output") -> None:
        """Takes those frames of a window that are the clip's from number `at` on."""
        embedding, frames, frame_logits = output.embedding, output.frames, output.frame_logits
        assert frames is not None
        own = slice(taken.start, taken.stop)
        mean = frames[own].mean(0, dtype=np.float64) if self._mean_of_frames else embedding.astype(np.float64)
        self._sum += mean * len(taken)
        if self._keep:
            place = slice(at, at + len(taken))
            if self.frames is None:
                self.frames = np.empty((self._total, frames.shape[1]), np.float32)
            self.frames[place] = frames[own]
            if frame_logits is not None:
                if self.frame_logits is None:
                    self.frame_logits = np.empty((self._total, frame_logits.shape[1]), np.float32)
                self.frame_logits[place] = frame_logits[own]


@dataclass(frozen=True)
class Piece:
    """A clip, or a window of one.

    Attributes:
        waveform: [samples], normalised as the whole clip is.
        duration: Of the whole clip, in seconds.
        joined: Of the whole clip; None if the piece is all of it.
        taken: Which of the window's frames are taken.
        at: Number of the first of these in the clip.
        last: Whether it is the last of its clip.
    """

    waveform: Waveform
    duration: float
    joined: Joined | None = None
    taken: range = range(0)
    at: int = 0
    last: bool = True


def pieces(
    clip: Clip, sampling_rate: int | None, architecture: Architecture, *, frames: bool
) -> Iterator[Piece | AudioError]:
    """Reads a clip for a model: as one piece, or in windows.

    Args:
        clip: As for `load_audio`.
        sampling_rate: Likewise.
        architecture: Of the model.
        frames: Whether `Joined` keeps the frames.

    Yields:
        The pieces in order; last of all, where the clip cannot be used, why.
    """
    try:
        with AudioStream(clip, sampling_rate) as stream:
            head: list[Waveform] = []
            held, blocks = 0, iter(stream)
            for block in blocks:
                head.append(block)
                held += len(block)
                if held > LONGEST:
                    break
            else:
                waveform = np.concatenate(head)
                if architecture.normalize:
                    waveform = normalize(waveform, architecture.waveform_eps)
                yield Piece(waveform, held / SAMPLING_RATE)
                return
            moments = Moments.of(chain(head, blocks))
            del head, block
            samples = moments.samples
            joined = Joined(architecture, samples, frames=frames)
            spans, taken = _plan(architecture, samples)
            for waveform, span, own in zip(_cut(stream, spans), spans, taken, strict=True):
                if len(waveform) < len(span):
                    raise AudioError(f"{clip_name(clip)}: shorter when it was read again: leave it alone meanwhile")
                part = normalize(waveform, architecture.waveform_eps, moments) if architecture.normalize else waveform
                first = span.start // architecture.hop
                inside = range(own.start - first, own.stop - first)
                yield Piece(part, samples / SAMPLING_RATE, joined, inside, own.start, span is spans[-1])
    except AudioError as error:
        yield error


def _plan(architecture: Architecture, samples: int) -> tuple[list[range], list[range]]:
    """Tells each window's samples, and the frames of the clip that are taken from it.

    All windows have equally many frames, so that a batch of them is not filled up, and stand evenly in the clip.
    """
    total = architecture.frames(samples)
    length = architecture.frames(WINDOW)
    context = CONTEXT // architecture.hop
    count = 1 - (length - total) // (length - 2 * context)  # of windows, rounded up
    starts = [i * (total - length) // (count - 1) for i in range(count)]
    cuts = [0, *((before + length + after) // 2 for before, after in pairwise(starts)), total]
    # The most samples that give so many frames.
    size = bisect_right(range(WINDOW + architecture.hop), length, key=architecture.frames) - 1
    spans = [range(at * architecture.hop, min(at * architecture.hop + size, samples)) for at in starts]
    return spans, [range(*pair) for pair in pairwise(cuts)]


def _cut(blocks: Iterable[Waveform], spans: list[range]) -> Iterator[Waveform]:
    """Cuts overlapping spans, in order, out of blocks; what lies beyond the blocks is missing."""
    held, start = np.empty(0, np.float32), 0
    stream = iter(blocks)
    for span in spans:
        parts, end = [held], start + len(held)
        while end < span.stop and (block := next(stream, None)) is not None:
            parts.append(block)
            end += len(block)
        held, start = np.concatenate(parts)[span.start - start :], span.start
        yield held[: len(span)]

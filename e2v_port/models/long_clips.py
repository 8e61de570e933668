"""Runs clips of any length in constant memory: a clip of more than a minute goes through the model in windows.

The memory and time of a transformer's attention grow with the square of a clip's length, and a long clip itself takes
memory. So a clip longer than `longest` is read twice: first for its length, mean and variance, then to cut it into
windows of `WINDOW`. Windows overlap by at least twice `CONTEXT`, and the frames within `CONTEXT` of a cut are dropped:
each frame of the clip is taken from the window in which it is farther from the ends. Windows begin where a frame of the
clip begins, so their frames are those of the clip.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from e2v_port.architectures.base import VARIANCE, Architecture
from e2v_port.audio import SAMPLING_RATE, AudioStream, Clip, Moments, Waveform, clip_name, log_notes, normalize
from e2v_port.errors import AudioError

if TYPE_CHECKING:
    from e2v_port.architectures.runtime import Output

__all__ = ["CONTEXT", "LONGEST", "WINDOW", "Joined", "Piece", "filled", "longest", "pieces", "prepared"]

# Besides the weights, 1 minute through emotion2vec_plus_base takes 0.9 GB, 2 minutes 3.5 GB (docs/long.md).
LONGEST = 60 * SAMPLING_RATE  # samples; a clip up to this length runs in one piece
WINDOW = 30 * SAMPLING_RATE
SHORTEST = 1e-12  # a mean below this length has no direction
CONTEXT = 5 * SAMPLING_RATE  # at both ends of a window; docs/long.md measures what windows change

Vector = NDArray[np.float32]


class Joined:
    """The joined outputs of the windows of one clip.

    Attributes:
        embedding: Embedding of the clip, [dim], joined as `Architecture.joining` says.
        frames: Frames of the clip, [frames, frame_dim], if requested: 550 MB for an hour of 768 numbers 50 times a
            second.
        frame_logits: Outputs of the head for each frame, [frames, labels], if requested; None without a head.
    """

    def __init__(self, architecture: Architecture, samples: int, *, frames: bool) -> None:
        self.frames: Vector | None = None
        self.frame_logits: Vector | None = None
        self._total = architecture.frames(samples)
        self._joining = architecture.joining
        self._unit = architecture.speakers
        self._keep = frames
        size = architecture.embed_dim if self._joining == "windows" else architecture.frame_dim
        self._sum, self._squares = np.zeros(size), np.zeros(size)

    @property
    def embedding(self) -> Vector:
        """Embedding of the clip, [dim]."""
        mean = self._sum / self._total
        if self._joining == "deviation":
            variance = np.maximum(self._squares / self._total - mean**2, 0)
            mean = np.concatenate([mean, np.sqrt(variance + VARIANCE)])
        if self._unit:
            mean = mean / max(float(np.linalg.norm(mean)), SHORTEST)
        return mean.astype(np.float32)

    def add(self, taken: range, at: int, output: "Output") -> None:
        """Adds a window.

        Args:
            taken: Frames of the window to use.
            at: Position of the first of them among the frames of the clip.
            output: Outputs of the window, with frames.
        """
        embedding, frames, frame_logits = output.embedding, output.frames, output.frame_logits
        assert frames is not None
        chosen = slice(taken.start, taken.stop)
        if self._joining == "windows":
            self._sum += embedding.astype(np.float64) * len(taken)
        else:
            self._sum += frames[chosen].sum(0, dtype=np.float64)
        if self._joining == "deviation":
            self._squares += np.square(frames[chosen], dtype=np.float64).sum(0)
        if self._keep:
            place = slice(at, at + len(taken))
            if self.frames is None:
                self.frames = np.empty((self._total, frames.shape[1]), np.float32)
            self.frames[place] = frames[chosen]
            if frame_logits is not None:
                if self.frame_logits is None:
                    self.frame_logits = np.empty((self._total, frame_logits.shape[1]), np.float32)
                self.frame_logits[place] = frame_logits[chosen]


@dataclass(frozen=True)
class Piece:
    """A clip, or a window of one.

    Attributes:
        waveform: Samples [samples], normalized like the whole clip.
        duration: Duration of the whole clip, in seconds.
        joined: Outputs of the whole clip; None for a clip in one piece.
        taken: Frames of the window to use.
        at: Position of the first of them among the frames of the clip.
        last: Whether this is the last window of the clip.
    """

    waveform: Waveform
    duration: float
    joined: Joined | None = None
    taken: range = range(0)
    at: int = 0
    last: bool = True


def pieces(
    clip: Clip,
    sampling_rate: int | None,
    architecture: Architecture,
    *,
    frames: bool,
    channel: int | str = "mix",
    refuse_silence: bool = False,
) -> Iterator[Piece | AudioError]:
    """Reads a clip for a model, in one piece or in windows.

    Args:
        clip: Path, binary file object or array of samples.
        sampling_rate: Sampling rate of an array, in Hz.
        architecture: Architecture of the model.
        frames: Whether `Joined` keeps the frames.
        channel: Channel, as in `load_audio`.
        refuse_silence: Whether a silent clip cannot be used. All other notes on the sound are logged.

    Yields:
        The pieces in order; an AudioError, at the end, if the clip cannot be used.
    """
    limit = longest(architecture)
    try:
        with AudioStream(clip, sampling_rate, channel=channel) as stream:
            head: list[Waveform] = []
            held, blocks = 0, iter(stream)
            for block in blocks:
                head.append(block)
                held += len(block)
                if held > limit:
                    break
            else:
                _note(clip, stream, refuse_silence)
                yield Piece(prepared(np.concatenate(head), architecture), held / SAMPLING_RATE)
                return
            moments = Moments.of(chain(head, blocks))
            _note(clip, stream, refuse_silence)
            del head, block
            samples = moments.samples
            joined = Joined(architecture, samples, frames=frames)
            spans, taken = _plan(architecture, samples)
            for waveform, span, part in zip(_cut(stream, spans), spans, taken, strict=True):
                if len(waveform) < len(span):
                    raise AudioError(f"{clip_name(clip)}: became shorter before it was read again: leave it unchanged")
                window = prepared(waveform, architecture, moments)
                first = span.start // architecture.hop
                inside = range(part.start - first, part.stop - first)
                yield Piece(window, samples / SAMPLING_RATE, joined, inside, part.start, span is spans[-1])
    except AudioError as error:
        yield error


def longest(architecture: Architecture) -> int:
    """Returns the samples of the longest clip that runs in one piece."""
    return min(LONGEST, architecture.longest or LONGEST)


def prepared(waveform: Waveform, architecture: Architecture, moments: Moments | None = None) -> Waveform:
    """Returns what a network takes for a clip: normalized and filled up, if its architecture says so.

    Args:
        waveform: [samples], float32, 16 kHz.
        architecture: Architecture of the network.
        moments: Moments of the whole clip, if `waveform` is a window of it.
    """
    if architecture.normalize:
        waveform = normalize(waveform, architecture.waveform_eps, moments)
    return filled(waveform, architecture)


def filled(waveform: Waveform, architecture: Architecture) -> Waveform:
    """Returns a clip filled up with zeros, if its architecture does that."""
    missing = architecture.shortest - len(waveform)
    return np.pad(waveform, (0, missing)) if missing > 0 else waveform


def _note(clip: Clip, stream: AudioStream, refuse_silence: bool) -> None:
    """Logs what must be known about a clip, or refuses it."""
    for note in stream.notes:
        if refuse_silence and note.kind == "silence":
            raise AudioError(f"{clip_name(clip)}: {note.text}: record it again")
    log_notes(clip, stream.notes)


def _plan(architecture: Architecture, samples: int) -> tuple[list[range], list[range]]:
    """Returns the samples of each window, and the frames of the clip that are taken from it.

    All windows have the same number of frames, so that batches of them need no padding, and are evenly spaced.
    """
    window = min(WINDOW, longest(architecture))
    total = architecture.frames(samples)
    length = architecture.frames(window)
    context = window * CONTEXT // WINDOW // architecture.hop
    count = 1 - (length - total) // (length - 2 * context)  # of windows, rounded up
    starts = [i * (total - length) // (count - 1) for i in range(count)]
    cuts = [0, *((before + length + after) // 2 for before, after in pairwise(starts)), total]
    # The largest number of samples that gives this number of frames.
    size = bisect_right(range(window + architecture.hop), length, key=architecture.frames) - 1
    spans = [range(at * architecture.hop, min(at * architecture.hop + size, samples)) for at in starts]
    return spans, [range(*pair) for pair in pairwise(cuts)]


def _cut(blocks: Iterable[Waveform], spans: list[range]) -> Iterator[Waveform]:
    """Cuts overlapping spans, in order, out of blocks; a span beyond the last block is shorter."""
    held, start = np.empty(0, np.float32), 0
    stream = iter(blocks)
    for span in spans:
        parts, end = [held], start + len(held)
        while end < span.stop and (block := next(stream, None)) is not None:
            parts.append(block)
            end += len(block)
        held, start = np.concatenate(parts)[span.start - start :], span.start
        yield held[: len(span)]

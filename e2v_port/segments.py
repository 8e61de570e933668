"""Where speech is: a waveform, or segments somebody gives, cut into what a model can judge."""

import math
import threading
import warnings
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from e2v_port.audio import MIN_SAMPLES, SAMPLING_RATE, Waveform
from e2v_port.errors import SegmentError

__all__ = [
    "DEFAULTS",
    "FRAME_SAMPLES",
    "GivenSegment",
    "Quality",
    "Segment",
    "SegmentSettings",
    "Span",
    "SpeechProbabilities",
    "SpeechRule",
    "cut",
    "detect",
    "divide",
    "from_given",
    "from_probabilities",
    "mark",
    "part_bounds",
    "part_starts",
    "speech_probabilities",
    "to_samples",
]

Quality: TypeAlias = Literal["normal", "low_confidence", "too_short", "no_speech", "not_enrolled"]

FRAME_SAMPLES = 512  # 32 ms: what silero judges at a time
_CONTEXT = 64  # samples before them that it is shown as well
_BLOCK = 512 * FRAME_SAMPLES  # samples run at once: 16 s, so that memory does not grow with the clip

# silero's own defaults: samples of 100 ms, 250 ms and 30 ms, and a difference of probabilities.
_MIN_SILENCE, _MIN_SPEECH, _PAD = 1600, 4000, 480
_HYSTERESIS = 0.15

_WINDOW, _HOP = 800, 160  # samples: 50 ms every 10 ms, to find a quiet point between two sounds
_HORIZON = 3  # times max_duration: how far ahead is looked for the best way to split: our own choice
# s: Whisper's times are multiples of it, and other formats round by less.
_ROUNDING = 0.02

Span: TypeAlias = tuple[int, int]  # samples, the end excluded


@dataclass(frozen=True)
class SegmentSettings:
    """How speech becomes segments. A pause is what silero leaves between two stretches of speech.

    Attributes:
        speech_threshold: Probability from which a frame starts a stretch of speech, between 0 and 1: silero's
            default. It ends where the probability falls 0.15 below (silero's default, too).
        merge_gap: Seconds; a shorter pause does not end a segment. Chosen in the deployment that these settings come
            from, so that a breath between two sentences does not cut a turn.
        min_duration: Seconds, at least 0.025; a shorter segment is too short to judge. Below 1 s people do not label
            reliably, and diarisation leaves artefacts.
        low_confidence: Seconds; a shorter segment is judged with low confidence. MSP-Podcast, from which both model
            families learned, has nothing under 2.75 s, and 1.5 s cost 8 points of accuracy against 3 s on Emo-DB
            (Csuka et al. 2024, PMC10987695).
        max_duration: Seconds, at least twice `low_confidence`; a longer segment is split. The longest of MSP-Podcast
            (Busso et al. 2025, arXiv:2509.09791): emotions vary within a turn, and one label would average them.
        split_pause: Seconds, at most `low_confidence`; the shortest pause to split such a segment at, as MSP-Podcast
            was.
    """

    speech_threshold: float = 0.5
    merge_gap: float = 1.5
    min_duration: float = 1.0
    low_confidence: float = 2.0
    max_duration: float = 11.0
    split_pause: float = 0.3

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for what makes no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{field.name} must be a finite number, not {value!r}")
        for name, holds, bounds in (
            ("speech_threshold", 0 < self.speech_threshold < 1, "between 0 and 1"),
            ("merge_gap", self.merge_gap >= 0, "at least 0 s"),
            ("min_duration", self.min_duration >= MIN_SAMPLES / SAMPLING_RATE, "at least 0.025 s"),
            ("low_confidence", self.low_confidence >= self.min_duration, "at least min_duration"),
            ("max_duration", self.max_duration >= 2 * self.low_confidence, "at least twice low_confidence"),
            ("split_pause", 0 <= self.split_pause <= self.low_confidence, "from 0 s to low_confidence"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {bounds}, not {getattr(self, name)!r}")


DEFAULTS = SegmentSettings()


@dataclass(frozen=True)
class GivenSegment:
    """A segment that somebody gives: from a diarisation, subtitles, a transcript.

    Attributes:
        start: Seconds from the start of the clip, at least 0.
        end: Seconds, not before `start`.
        speaker: Who speaks, if known.
        text: What is said, if known.

    Raises:
        SegmentError: The times are negative, reversed or not finite.
    """

    start: float
    end: float
    speaker: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Raises SegmentError for times that are none."""
        if not (math.isfinite(self.start) and math.isfinite(self.end)):
            raise SegmentError(f"from {self.start} to {self.end} s is not finite: give times in seconds")
        if not 0 <= self.start <= self.end:
            raise SegmentError(f"from {self.start} to {self.end} s: give a start of at least 0, and an end after it")


@dataclass(frozen=True)
class Segment:
    """A stretch of a clip to be judged as one.

    Attributes:
        start: Seconds from the start of the clip, on a whole sample.
        end: Seconds, on a whole sample.
        quality: How far a judgement of it can be trusted:

            * `normal`;
            * `low_confidence`: shorter than `SegmentSettings.low_confidence`;
            * `too_short`: shorter than `SegmentSettings.min_duration`, not to be judged;
            * `no_speech`: given by somebody, and silero hears no speech in it;
            * `not_enrolled`: of somebody whom the service may not listen to, so that it was not looked at.
        speaker: Who speaks, if the segment was given with that.
        text: What is said, if the segment was given with that and not split.
    """

    start: float
    end: float
    quality: Quality
    speaker: str | None = None
    text: str | None = None

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return round(self.end - self.start, 7)  # one sample is 0.0000625 s

    @property
    def samples(self) -> slice:
        """Its place in the waveform: `waveform[segment.samples]`."""
        return slice(to_samples(self.start), to_samples(self.end))


def to_samples(seconds: float) -> int:
    """Returns the whole sample nearest to a time."""
    return round(seconds * SAMPLING_RATE)


def detect(waveform: Waveform, settings: SegmentSettings = DEFAULTS) -> list[Segment]:
    """Finds the segments of speech in a clip.

    silero-vad finds stretches of speech, with its defaults: a stretch ends after 100 ms of silence, one under 250 ms
    is no speech but a click, and each begins 30 ms before its first frame and ends 30 ms after its last. Stretches
    with shorter pauses than `merge_gap` between them are one segment.

    A segment longer than `max_duration` is split at pauses of at least `split_pause`, which are left out, so that as
    few parts as possible are under `low_confidence`, then as few as possible in all, then of even length. What lies
    more than 3 times `max_duration` behind the start of a part plays no role for its end. Where there is no such pause
    for longer than `max_duration`, it is cut in the middle of the quietest 50 ms between half of that and all of it.

    Args:
        waveform: [samples], float32, 16 kHz, as `load_audio` gives it.
        settings: Thresholds and lengths.

    Returns:
        Segments in order, not overlapping, none longer than `max_duration`. Those too short to judge are among them
        and marked. No segment for a clip without speech.
    """
    return from_probabilities(speech_probabilities(waveform), waveform, settings)


def from_probabilities(
    probabilities: NDArray[np.float32], waveform: Waveform, settings: SegmentSettings = DEFAULTS
) -> list[Segment]:
    """Does what `detect` does, with speech probabilities that are known already.

    Args:
        probabilities: One for each 512 samples of the waveform, the last frame being filled up, 0 to 1.
        waveform: [samples], float32, 16 kHz.
        settings: Thresholds and lengths.

    Returns:
        As `detect`.

    Raises:
        ValueError: Their number does not fit the waveform.
    """
    stretches = _stretches(probabilities, waveform, settings)
    return [
        mark(part, stretches, settings)
        for group in _grouped(stretches, to_samples(settings.merge_gap))
        for part in _parts(group, waveform, settings)
    ]


def from_given(
    given: Iterable[GivenSegment], waveform: Waveform, settings: SegmentSettings = DEFAULTS
) -> list[Segment]:
    """Makes segments of those that somebody gives.

    They are taken as they are, not merged and not trimmed; only those longer than `max_duration` are split, as in
    `detect`, the pauses between the parts being left out. Parts keep the speaker. They have no text: nothing tells
    which words fall into which part (`e2v_port.transcripts.align` maps the parts back to the text).

    Speakers may overlap each other, as diarisation finds them; a model then hears both. Times are rounded to
    whole samples, and those off by no more than 20 ms, as Whisper rounds them, are moved to the end of the clip or of
    the speaker's segment before.

    Args:
        given: In any order.
        waveform: [samples], float32, 16 kHz, of the whole clip.
        settings: Lengths; and the threshold, to mark what is no speech and to find pauses.

    Returns:
        Segments by start, then end, none longer than `max_duration`.

    Raises:
        SegmentError: A segment reaches beyond the end of the clip, or overlaps another of the same speaker (where
            no speaker is known: any other without one).
    """
    stretches = _stretches(speech_probabilities(waveform), waveform, settings)
    tolerance = to_samples(_ROUNDING)
    segments: list[Segment] = []
    last: dict[str | None, int] = {}
    for item in sorted(given, key=lambda item: (item.start, item.end)):
        start, end = to_samples(item.start), to_samples(item.end)
        who = "" if item.speaker is None else f" of speaker {item.speaker!r}"
        where = f"the segment from {item.start:.3f} to {item.end:.3f} s{who}"
        if end > len(waveform) + tolerance:
            raise SegmentError(
                f"{where} lies beyond the end of the clip at {len(waveform) / SAMPLING_RATE:.3f} s: "
                "give the segments of this clip, in seconds"
            )
        before = last.get(item.speaker, 0)
        if start < before - tolerance:
            raise SegmentError(
                f"{where} overlaps the one before, which ends at {before / SAMPLING_RATE:.3f} s: "
                "correct the times, or name the speakers where two speak at once"
            )
        start = min(max(start, before), len(waveform))
        end = min(max(start, end), len(waveform))
        last[item.speaker] = end
        spoken = [(max(start, a), min(end, b)) for a, b in _overlapping(stretches, start, end)] or [(start, end)]
        spoken[0] = (start, spoken[0][1])
        spoken[-1] = (spoken[-1][0], end)
        parts = _parts(spoken, waveform, settings)
        text = item.text if len(parts) == 1 else None
        segments += [mark(part, stretches, settings, item.speaker, text) for part in parts]
    return sorted(segments, key=lambda segment: (segment.start, segment.end))


def speech_probabilities(waveform: Waveform) -> NDArray[np.float32]:
    """Tells how probable speech is, with silero-vad on the CPU.

    Takes about 1 ms per second of audio, and memory for 16 s at a time. May be called from several threads at once.

    Args:
        waveform: [samples], float32, 16 kHz.

    Returns:
        [ceil(samples / 512)], float32, 0 to 1: frame i begins at sample 512 i; the last one is filled up with zeros.
    """
    source = SpeechProbabilities()
    blocks = (waveform[at : at + _BLOCK] for at in range(0, len(waveform), _BLOCK))
    return np.concatenate([np.empty(0, np.float32), *map(source.push, blocks)])


class SpeechProbabilities:
    """What `speech_probabilities` gives, of a waveform that comes in parts.

    How long the parts are may change the last bits, by less than 1e-5.
    """

    def __init__(self) -> None:
        self._silero = _silero()
        self._context = np.zeros(_CONTEXT, np.float32)
        self._state: Any = None

    def push(self, waveform: Waveform) -> NDArray[np.float32]:
        """Goes on with the next part.

        Args:
            waveform: [samples], float32, 16 kHz; whole frames of 512 samples, but for the last part, which is filled
                up with zeros.

        Returns:
            [ceil(samples / 512)], float32, 0 to 1.
        """
        samples = np.concatenate([self._context, waveform, np.zeros(-len(waveform) % FRAME_SAMPLES, np.float32)])
        self._context = samples[-_CONTEXT:]
        probabilities, self._state = self._silero.probabilities(samples, self._state)
        return probabilities


class SpeechRule:
    """silero's rule from probabilities to stretches of speech: `get_speech_timestamps_from_probs`, frame by frame.

    A stretch begins where the probability reaches the threshold and ends where it falls 0.15 below, if it stays below
    the threshold for 100 ms more. One of 250 ms or less is none. Each is widened by 30 ms on both sides.

    Args:
        threshold: `SegmentSettings.speech_threshold`.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold, self._fall = threshold, max(threshold - _HYSTERESIS, 0.01)
        self._frames = 0
        self._start: int | None = None  # of the stretch that has begun
        self._silence: int | None = None  # where it ends, if it stays silent

    def push(self, probabilities: Iterable[float]) -> list[Span]:
        """Returns the stretches that end with the next frames, in order, with pauses between them."""
        found = []
        for probability in probabilities:
            at = self._frames * FRAME_SAMPLES
            self._frames += 1
            if probability >= self._threshold:
                self._silence = None
                if self._start is None:
                    self._start = at
                    continue
            if probability < self._fall and self._start is not None:
                if self._silence is None:
                    self._silence = at
                if at - self._silence >= _MIN_SILENCE:
                    if self._silence - self._start > _MIN_SPEECH:
                        found.append((self.next_start, self._silence + _PAD))
                    self._start = self._silence = None
        return found

    def finish(self, samples: int) -> list[Span]:
        """Returns the stretch that the end of the clip ends, if one has begun."""
        if self._start is None or samples - self._start <= _MIN_SPEECH:
            return []
        return [(self.next_start, samples)]

    @property
    def next_start(self) -> int:
        """Where the next stretch begins, or before which it does not; samples."""
        begun = self._frames * FRAME_SAMPLES if self._start is None else self._start
        return max(begun - _PAD, 0)

    @property
    def open_end(self) -> int | None:
        """Before which sample the stretch that has begun does not end; None while it may still turn out to be none."""
        if self._start is None:
            return None
        end = self._frames * FRAME_SAMPLES if self._silence is None else self._silence
        return end if end - self._start > _MIN_SPEECH else None


_loading = threading.Lock()


def _silero() -> "_Silero":
    with _loading:
        return _Silero.load()


class _Silero:
    """silero-vad's network.

    The network's own call goes from frame to frame and keeps a state between calls. Here the same modules with the
    same weights take all frames of a block at once, which is ten times as fast and needs no lock.
    """

    def __init__(self) -> None:
        import torch

        threads = torch.get_num_threads()
        try:
            import silero_vad  # sets the number of threads to 1, for the whole process
        finally:
            torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.load, in which silero's weights come
            self._model: Any = silero_vad.load_silero_vad()._model
        # On "meta" no random numbers are drawn, so that a user's seed is left as it was.
        self._lstm = torch.nn.LSTM(128, 128, device="meta")
        weights = {f"{name}_l0": value for name, value in self._model.decoder.rnn.named_parameters()}
        self._lstm.load_state_dict(weights, assign=True)

    @classmethod
    @cache
    def load(cls) -> "_Silero":
        return cls()

    def probabilities(self, samples: Waveform, state: Any) -> tuple[NDArray[np.float32], Any]:
        """Goes on from a state: 64 samples of context and whole frames give a probability for each frame."""
        import torch

        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            frames = torch.from_numpy(samples).unfold(0, _CONTEXT + FRAME_SAMPLES, FRAME_SAMPLES)  # [T, 576]
            features = self._model.encoder(self._model.run_extractors(frames)).squeeze(-1)  # [T, 128]
            hidden, state = self._lstm(features, state)
            return self._model.decoder.decoder(hidden[..., None])[:, 0, 0].numpy(), state


def _stretches(probabilities: NDArray[np.float32], waveform: Waveform, settings: SegmentSettings) -> list[Span]:
    """Where silero hears speech: in order, with pauses between them."""
    if probabilities.shape != (-(-len(waveform) // FRAME_SAMPLES),):
        raise ValueError(f"{probabilities.shape} probabilities do not fit {len(waveform)} samples")
    rule = SpeechRule(settings.speech_threshold)
    return rule.push(probabilities.tolist()) + rule.finish(len(waveform))


def _grouped(stretches: list[Span], pause: int) -> list[list[Span]]:
    """Puts together what shorter pauses separate."""
    groups: list[list[Span]] = []
    for stretch in stretches:
        if groups and stretch[0] - groups[-1][-1][1] < pause:
            groups[-1].append(stretch)
        else:
            groups.append([stretch])
    return groups


def _overlapping(stretches: list[Span], start: int, end: int) -> list[Span]:
    first = bisect_right(stretches, start, key=lambda stretch: stretch[1])
    return stretches[first : bisect_left(stretches, end, key=lambda stretch: stretch[0])]


def mark(
    part: Span,
    stretches: list[Span],
    settings: SegmentSettings,
    speaker: str | None = None,
    text: str | None = None,
) -> Segment:
    """Makes a segment of a part of a clip and says how far a judgement of it can be trusted.

    Args:
        part: Where it is.
        stretches: Of speech, in order.
        settings: Lengths.
        speaker: Who speaks.
        text: What is said.
    """
    start, end = part
    quality: Quality = "normal"
    if end - start < to_samples(settings.min_duration):
        quality = "too_short"
    elif not _overlapping(stretches, start, end):
        quality = "no_speech"
    elif end - start < to_samples(settings.low_confidence):
        quality = "low_confidence"
    return Segment(start / SAMPLING_RATE, end / SAMPLING_RATE, quality, speaker, text)


def _parts(stretches: list[Span], waveform: Waveform, settings: SegmentSettings) -> list[Span]:
    """Splits one segment, if it is too long."""
    longest = to_samples(settings.max_duration)
    if stretches[-1][1] - stretches[0][0] <= longest:
        return [(stretches[0][0], stretches[-1][1])]
    units = [(group[0][0], group[-1][1]) for group in _grouped(stretches, to_samples(settings.split_pause))]
    pieces = [piece for unit in units for piece in cut(unit, lambda low, high: waveform[low:high], settings)]
    bounds = divide(pieces, settings)
    return [(pieces[i][0], pieces[j - 1][1]) for i, j in pairwise(bounds)]


def divide(pieces: Sequence[Span], settings: SegmentSettings, *, ended: bool = True) -> list[int]:
    """Puts the pieces of a segment that is too long together to parts, each as soon as three of the longest are known.

    The first part is the first of the best way for the pieces that end within 3 times `max_duration`; then the same
    from there on. So where a segment is split does not depend on words minutes later, and a stream can split it too.

    Args:
        pieces: In order, none longer than `max_duration`.
        settings: Lengths.
        ended: False for a segment that goes on: only the parts that do not depend on what follows are made.

    Returns:
        Numbers of the pieces that parts begin with, and behind them where the last of them ends.
    """
    horizon = _HORIZON * to_samples(settings.max_duration)
    bounds = [0]
    for j, (_, end) in enumerate(pieces):
        while end - pieces[bounds[-1]][0] > horizon:
            known = pieces[bounds[-1] : j]
            bounds.append(bounds[-1] + part_bounds(part_starts(known, settings), len(known))[1])
    if ended:
        rest = pieces[bounds[-1] :]
        bounds += [bounds[-1] + bound for bound in part_bounds(part_starts(rest, settings), len(rest))[1:]]
    return bounds


def part_starts(pieces: Sequence[Span], settings: SegmentSettings) -> list[int]:
    """Finds the best way to put the pieces of a segment that is too long together to parts.

    Args:
        pieces: In order, none longer than `max_duration`.
        settings: Lengths.

    Returns:
        For the first 0, 1, 2 ... pieces by themselves: the number of the piece that the last of their parts begins
        with. It does not depend on the pieces behind them.
    """
    longest = to_samples(settings.max_duration)
    # The best way to make parts of the first j pieces: its cost, and the piece that the last part begins with.
    best = [((0, 0, 0), 0)]
    for j, (_, end) in enumerate(pieces, 1):
        ways = []
        for i in reversed(range(j)):
            length = end - pieces[i][0]
            if length > longest:
                break
            doubtful = (length < to_samples(settings.min_duration)) + (length < to_samples(settings.low_confidence))
            short, count, squares = best[i][0]
            ways.append(((short + doubtful, count + 1, squares + length**2), i))
        best.append(min(ways))
    return [i for _, i in best]


def part_bounds(starts: Sequence[int], pieces: int) -> list[int]:
    """Returns where parts begin, and after them the end: follows what `part_starts` gives from so many pieces back."""
    bounds = [pieces]
    while bounds[-1]:
        bounds.append(starts[bounds[-1]])
    return bounds[::-1]


def cut(
    span: Span, read: Callable[[int, int], Waveform], settings: SegmentSettings, *, ended: bool = True
) -> list[Span]:
    """Cuts speech without pauses at its quietest points, if it is too long.

    Args:
        span: Where it is.
        read: Gives the waveform between two samples.
        settings: Lengths.
        ended: False for speech that goes on: only the cuts that do not depend on its end are made, and the last
            piece is what may still be cut.

    Returns:
        Pieces in order, with nothing between them.
    """
    start, end = span
    longest, rest = to_samples(settings.max_duration), to_samples(settings.low_confidence)
    pieces = []
    while end - start > (longest if ended else longest + rest):
        # Neither bound is nearer than half a window to the ends, since min_duration is at least as long.
        low, high = start + longest // 2, min(start + longest, end - rest)
        squares = read(low - _WINDOW // 2, high + _WINDOW // 2).astype(np.float64) ** 2
        energies = sliding_window_view(squares, _WINDOW)[::_HOP].sum(axis=1)
        at = low + _HOP * int(energies.argmin())
        pieces.append((start, at))
        start = at
    return [*pieces, (start, end)]

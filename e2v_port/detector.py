"""A voice followed while it speaks, or judged clip by clip: one kind of result, whatever listens."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from e2v_port import context
from e2v_port import segments as speech
from e2v_port.analysis import Analysis, AnalysisSettings, JudgedSegment, UsedModel, unjudged
from e2v_port.audio import SAMPLING_RATE, Clip, LiveAudio, Waveform, clip_name, load_audio
from e2v_port.backends import opened
from e2v_port.errors import AudioError
from e2v_port.fusion import FusionSettings
from e2v_port.model import Model
from e2v_port.prosody import Baseline, measure
from e2v_port.segments import Quality, Segment, SegmentSettings
from e2v_port.streaming import SpeechStream
from e2v_port.trajectory import Trajectory, trajectory

__all__ = ["EmotionDetector", "Listener", "LiveSettings", "VoiceAnalysis", "VoiceSegment"]

_STEP = 8 * speech.FRAME_SAMPLES  # 256 ms: what SpeechStream hears at a time
_AHEAD = 0.5  # s of pause from which on segments are judged that will have ended if it lasts


@dataclass(frozen=True)
class LiveSettings:
    """What is said of speech that has not ended. The numbers are our own; docs/live.md has what they do.

    Attributes:
        window: Seconds of speech that are judged at a time.
        overlap: Seconds that a window shares with the one before, at most; below `window`.
        smoothing: Seconds; with this time constant the probabilities of the windows of one speech are averaged. 0 for
            not at all.
        margin: Probability, 0 to 1; another emotion takes over where its average is this much above that of the one
            shown.
        hold: Seconds for which an emotion is shown at least, as long as the speech lasts.
        remembered: Seconds that `history` goes back.
    """

    window: float = 1.0
    overlap: float = 0.5
    smoothing: float = 2.0
    margin: float = 0.1
    hold: float = 1.0
    remembered: float = 3600.0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the field, for what makes no sense."""
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{item.name} must be a finite number of at least 0, not {value!r}")
        if not 0.25 <= self.window <= 10:
            raise ValueError(f"window must be from 0.25 to 10 s, not {self.window!r}")
        if self.overlap >= self.window:
            raise ValueError(f"overlap must be below window, {self.window!r} s, not {self.overlap!r}")
        if self.margin >= 1:
            raise ValueError(f"margin must be below 1, not {self.margin!r}")


@dataclass(frozen=True, kw_only=True, repr=False)
class VoiceSegment(JudgedSegment):
    """A stretch of speech and how it sounds, of a clip or of a stream.

    Attributes:
        final: True for a segment that has ended, which is judged as `e2v_port.analyze` does it; False for a window of
            speech that goes on.
        at: When it ended, in seconds since the epoch (`time.time`). A stream that comes faster than it was spoken
            counts as if it had come at its own pace, and what is heard after it as later still.
        backend: What listened, see `EmotionDetector`.
        fallback: Why it was not the backend that was asked for; None if it was.
        prosody: Measures of the voice; None for what was not judged, and for windows unless the backend goes by them.
        held: The emotion that is still shown though another is likelier in this window, see `LiveSettings`.
    """

    final: bool
    at: float = field(compare=False)
    backend: str
    fallback: str | None
    held: str | None = None

    def __repr__(self) -> str:
        what = self.quality if self.emotion is None else f"{self.emotion} {self.confidence or 0:.2f}"
        state = "" if self.final else ", goes on"
        return f"VoiceSegment({self.start:.2f} to {self.end:.2f} s{state}; {what}; {self.backend})"

    @property
    def emotion(self) -> str | None:
        """The likeliest of the 26 emotions, steadied in a stream; None for what was not judged."""
        shares = self.distribution
        return self.held or (max(shares, key=shares.__getitem__) if shares else None)

    @property
    def confidence(self) -> float | None:
        """Of `label`, after fusion, 0 to 1; of an emotion that is held, as much less as that is less likely."""
        if not (self.judgement and self.judgement.confidence is not None):
            return None
        shares = self.distribution
        return self.judgement.confidence * (shares[self.held] / max(shares.values()) if self.held and shares else 1.0)

    @property
    def label(self) -> str | None:
        """The model's most probable label, one of its own; None where no model gave any."""
        return self.judgement.primary if self.judgement else None

    @property
    def scores(self) -> Mapping[str, float] | None:
        """Probabilities of the model's labels."""
        return self.judgement.scores if self.judgement else None

    @property
    def distribution(self) -> Mapping[str, float] | None:
        """Probability of each of the 26 emotions; None for a model with labels of its own."""
        return self.judgement.distribution if self.judgement else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {
            **super().to_dict(),
            "label": self.label,
            "final": self.final,
            "at": self.at,
            "backend": self.backend,
            "fallback": self.fallback,
            "reasons": list(self.reasons),
            "prosody": self.prosody.to_dict() if self.prosody else None,
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class VoiceAnalysis(Analysis):
    """What was found in one clip.

    Attributes:
        segments: In order of time, all of them final.
        backend: What listened, see `EmotionDetector`.
        fallback: Why it was not the backend that was asked for; None if it was.
    """

    segments: tuple[VoiceSegment, ...]
    backend: str
    fallback: str | None

    def __repr__(self) -> str:
        return f"Voice{super().__repr__()}"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {**super().to_dict(), "backend": self.backend, "fallback": self.fallback}


class EmotionDetector:
    """Says how a voice sounds, of clips and while it speaks. May be used from several threads at once.

    What listens is one of these backends:

    * `bundled`: the small model in the package; the default where no model is named.
    * `emotion2vec`: the emotion2vec model that is named; without a name, the first of `e2v models` that has been
      converted on this machine.
    * `prosodic`: no model, only pitch, loudness, pace and the like, see `e2v_port.prosody`; confidence up to 0.75.
    * `hybrid`: labels from the model that is named, or from the one in the package; of arousal, dominance and valence,
      70 % are the model's and 30 % are those of the prosody. The model's are measured where `dimensional` is given,
      else they follow from its labels.

    A model of another kind that is named without a backend listens under the name of its family.

    Args:
        model: Gives labels: a name or folder as for `load`, or a loaded model.
        backend: One of the above; by default what fits the model.
        dimensional: Gives arousal, dominance and valence: likewise.
        runtime: For models that are not loaded yet, as for `load`.
        dtype: Likewise.
        fallback: Where what is asked for cannot run here, take the model in the package, or else prosody alone. Each
            result says so, and why. Without it that is an error.
        baseline: How the voice sounds when nothing is the matter, or the file that holds it: see `calibrate`.
        settings: Of segments.
        fusion: Of the judgement.
        live: Of what is said before a segment has ended.
        offline: Never open a connection.

    Attributes:
        backend: What listens.
        fallback: Why it is not the one asked for; None if it is.
        models: The categorical model, the dimensional model, both in this order, or none.

    Raises:
        RuntimeUnavailable: The backend cannot run here: why, and what to do.
        NoLabels: A model is not of the kind it is to be used as.
        BaselineError: The file of a baseline cannot be read, or holds something else.
        ValueError: No backend goes by this name, or the arguments contradict each other.
        E2VError: As for `load`.
    """

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        backend: str | None = None,
        dimensional: str | Path | Model | None = None,
        runtime: str = "auto",
        dtype: str | None = None,
        fallback: bool = False,
        baseline: Baseline | str | Path | None = None,
        settings: SegmentSettings | None = None,
        fusion: FusionSettings | None = None,
        live: LiveSettings | None = None,
        offline: bool = False,
    ) -> None:
        self._settings = AnalysisSettings("speech", settings or SegmentSettings(), fusion or FusionSettings(), None)
        self._live = live or LiveSettings()
        self._baselines: dict[str | None, Baseline] = {}
        if baseline is not None:
            self._set_baseline(baseline)
        self._backend = opened(
            backend, model, dimensional, fallback=fallback, runtime=runtime, dtype=dtype, offline=offline
        )
        self.backend, self.fallback = self._backend.name, self._backend.fallback
        kinds = {"categorical": self._backend.categorical, "dimensional": self._backend.dimensional}
        self.models = tuple(UsedModel.of(kind, loaded) for kind, loaded in kinds.items() if loaded)
        self._epoch = time.time() - time.monotonic()  # the clock of the system may be set while somebody speaks
        self._heard: deque[VoiceSegment] = deque()
        self._listeners: WeakSet[Listener] = WeakSet()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"EmotionDetector({', '.join([self.backend, *(model.name for model in self.models)])})"

    def analyze(self, clip: Clip, sampling_rate: int | None = None, *, speaker: str | None = None) -> VoiceAnalysis:
        """Says what is in the voice of one clip: the same, segment by segment, as a stream of it.

        Args:
            clip: A path, a binary file object or an array of samples, as for `e2v_port.analyze`.
            sampling_rate: Of an array, in Hz; files bring their own.
            speaker: Who speaks, if that is known.

        Raises:
            AudioError: The clip cannot be used.
        """
        started = time.perf_counter()
        waveform = load_audio(clip, sampling_rate)
        decoded = time.perf_counter()
        found = [replace(segment, speaker=speaker) for segment in speech.detect(waveform, self._settings.segments)]
        detected = time.perf_counter()
        ended = self._now() - len(waveform) / SAMPLING_RATE
        segments = self._judged([(segment, waveform[segment.samples]) for segment in found], ended, final=True)
        self._remember(segments)
        return VoiceAnalysis(
            file=clip_name(clip),
            duration=len(waveform) / SAMPLING_RATE,
            segments=tuple(segments),
            boundaries=None,
            reason=None if any(segment.judgement for segment in segments) else unjudged(found, self._settings),
            models=self.models,
            settings=self._settings,
            timings={
                "decode": decoded - started,
                "speech": detected - decoded,
                "judge": time.perf_counter() - detected,
            },
            backend=self.backend,
            fallback=self.fallback,
        )

    def open(self, sampling_rate: int = SAMPLING_RATE, *, speaker: str | None = None) -> "Listener":
        """Begins to listen to a voice, whose samples are pushed as they come.

        What is slow the first time, up to some seconds, is done here, so that no result waits for it.

        Args:
            sampling_rate: Of what will come in, in Hz.
            speaker: Who speaks, if that is known.

        Raises:
            AudioError: A rate outside 1 to 768 kHz.
        """
        audio = LiveAudio(sampling_rate)
        self._warm()
        listener = Listener(self, audio, speaker)
        with self._lock:
            self._listeners.add(listener)
        return listener

    def stream(
        self, chunks: Iterable[NDArray[Any]], sampling_rate: int = SAMPLING_RATE, *, speaker: str | None = None
    ) -> Iterator[VoiceSegment]:
        """Listens to blocks of samples, and gives each result as soon as it is there: see `Listener`.

        Args:
            chunks: Blocks as for `Listener.push`.
            sampling_rate: Of them, in Hz.
            speaker: Who speaks, if that is known.

        Raises:
            AudioError: Samples that cannot be used, behind the results of those before.
        """
        return _streamed(self.open(sampling_rate, speaker=speaker), chunks)

    async def astream(
        self,
        chunks: AsyncIterable[NDArray[Any]] | Iterable[NDArray[Any]],
        sampling_rate: int = SAMPLING_RATE,
        *,
        speaker: str | None = None,
    ) -> AsyncIterator[VoiceSegment]:
        """Does what `stream` does, in a thread of its own: the event loop goes on meanwhile.

        Args:
            chunks: Blocks as for `Listener.push`, from an iterator of either kind.
            sampling_rate: As for `stream`.
            speaker: As for `stream`.

        Raises:
            AudioError: As for `stream`.
        """
        listener = await asyncio.to_thread(self.open, sampling_rate, speaker=speaker)
        async for chunk in _asynchronous(chunks):
            for segment in await asyncio.to_thread(listener.push, chunk):
                yield segment
        for segment in await asyncio.to_thread(listener.finish):
            yield segment

    def calibrate(
        self, samples: Sequence[Clip], sampling_rate: int | None = None, *, speaker: str | None = None
    ) -> Baseline:
        """Learns how a voice sounds when nothing is the matter: its later measures are judged against that.

        Args:
            samples: 3 to 5 neutral sentences, each a clip as for `analyze`; the longest segment of each counts.
            sampling_rate: Of arrays, in Hz.
            speaker: Whose voice it is. Where nobody is named, as here by default, the baseline is for whoever is not
                named, and so is that of the speaker who was calibrated last.

        Returns:
            The baseline, which this detector uses from now on; `Baseline.save` keeps it for another.

        Raises:
            AudioError: A sample cannot be used, or there is no speech in it.
            ValueError: Too few samples, or one in which no voice can be measured.
        """
        measured = []
        for sample in samples:
            waveform = load_audio(sample, sampling_rate)
            spoken = speech.detect(waveform, self._settings.segments)
            if not spoken:
                raise AudioError(f"{clip_name(sample)}: no speech found: record a neutral sentence")
            longest = max(spoken, key=lambda segment: segment.duration)
            measured.append(measure(waveform[longest.samples]))
        baseline = Baseline.of(measured, speaker)
        self._set_baseline(baseline)
        return baseline

    def history(self, window: float | None = None, *, speaker: str | None = None) -> tuple[VoiceSegment, ...]:
        """Returns the final segments heard, of all clips and streams, in order of time.

        Args:
            window: How many seconds to go back; by default as far as there is anything (`LiveSettings.remembered`).
            speaker: Only those of this speaker.

        Raises:
            ValueError: A window that is no number of seconds.
        """
        if window is not None and not (math.isfinite(window) and window > 0):
            raise ValueError(f"a window is a number of seconds above 0, not {window!r}")
        with self._lock:
            heard = sorted(self._heard, key=lambda segment: segment.at)
        since = -math.inf if window is None else self._now() - window
        return tuple(item for item in heard if item.at >= since and speaker in {None, item.speaker})

    def trajectory(self, window: float = 300.0, *, speaker: str | None = None) -> Trajectory:
        """Tells where the voice is going: see `e2v_port.trajectory`.

        Args:
            window: As for `history`; five minutes by default.
            speaker: As for `history`: who speaks matters here, since voices differ.
        """
        return trajectory(self.history(window, speaker=speaker))

    def to_context(self, window: float = 30.0, *, speaker: str | None = None, long: bool = False) -> str:
        """Tells a language model how the voice has sounded lately, up to now: see `e2v_port.context`.

        Of speech that has not ended, the windows count, see `Listener`.

        Args:
            window: As for `history`.
            speaker: As for `history`.
            long: In several lines, with how sure it is and where the voice is going.
        """
        heard = self._lately(window, speaker)
        if not long:
            return context.line(heard, self._settings.fusion)
        return context.report(heard, self._settings.fusion, self.trajectory(speaker=speaker))

    def voice_state(self, *, window: float = 30.0, long: bool = False) -> dict[str, Any]:
        """Answers the tool that `context.tool_schema` declares: `voice_state(**arguments)`.

        It is about the speaker who was heard last.

        Args:
            window: As for `to_context`.
            long: As for `to_context`.

        Returns:
            What `outputSchema` says; the means over segments, weighted by their length.
        """
        heard = self._lately(window, None)
        speaker = heard[-1].speaker if heard else None
        return {
            "context": self.to_context(window, speaker=speaker, long=long),
            **context.means([segment for segment in heard if segment.speaker == speaker]),
            "trend": self.trajectory(speaker=speaker).trend,
            "notice": context.NOTICE,
        }

    def _lately(self, window: float, speaker: str | None) -> list[VoiceSegment]:
        """The history, and what is being said right now, which no segment holds yet."""
        heard = list(self.history(window, speaker=speaker))
        with self._lock:
            going_on = [segment for listener in self._listeners for segment in listener.windows]
        since = max([self._now(), *(segment.at for segment in going_on)]) - window
        heard += [item for item in going_on if item.at >= since and speaker in {None, item.speaker}]
        return sorted(heard, key=lambda segment: segment.at)

    def _now(self) -> float:
        return self._epoch + time.monotonic()

    def _remember(self, segments: Sequence[VoiceSegment]) -> None:
        with self._lock:
            self._heard.extend(segments)
            self._epoch += max([0.0, *(segment.at - self._now() for segment in segments)])
            while self._heard and self._heard[0].at < self._now() - self._live.remembered:
                self._heard.popleft()

    def _set_baseline(self, baseline: Baseline | str | Path) -> None:
        known = baseline if isinstance(baseline, Baseline) else Baseline.load(Path(baseline))
        self._baselines[known.speaker] = self._baselines[None] = known

    def _warm(self) -> None:
        voice = np.sin(np.arange(2 * SAMPLING_RATE, dtype=np.float32) * 0.05) / 4
        speech.speech_probabilities(voice)
        self._judged([(Segment(0.0, 2.0, "normal"), voice)], 0.0, final=True)

    def _judged(self, parts: Sequence[tuple[Segment, Waveform]], zero: float, *, final: bool) -> list[VoiceSegment]:
        """Judges segments with their waveforms; `zero` is when their clip began."""
        judged = self._backend.judge(parts, self._settings.fusion, self._baselines, measured=final)
        return [
            VoiceSegment(
                **{item.name: getattr(segment, item.name) for item in fields(segment)},
                final=final,
                at=zero + segment.end,
                backend=self.backend,
                fallback=self.fallback,
            )
            for segment in judged
        ]


class Listener:
    """One voice while it speaks: samples go in as they are recorded, segments come out. Made by `EmotionDetector.open`.

    What comes out:

    * segments that have ended (`final`), once each and in order of time: those that `EmotionDetector.analyze` finds
      in the whole recording, judged likewise. Those too short to judge are among them and marked.
    * before that, from a second of speech on, windows of the speech that goes on (`final` is False): the last second
      of it, twice a second. Their emotion is steadied: it stays for a second at least, and until another is clearly
      likelier. It does not depend on the size of the blocks that come in.

    To be used from one thread at a time.

    Attributes:
        windows: Those of the speech that no final segment holds yet.
    """

    def __init__(self, detector: EmotionDetector, audio: LiveAudio, speaker: str | None) -> None:
        self._detector, self._audio, self._speaker = detector, audio, speaker
        self._settings = detector._live
        self._speech = SpeechStream(detector._settings.segments)
        self._waiting = np.empty(0, np.float32)
        self._zero = detector._now()  # when the stream began, as if it had come at its own pace since
        self._window_end = 0.0  # s; of the last window
        self._average: dict[str, float] = {}  # of the windows of this speech
        self._averaged_until = 0.0
        self._shown: str | None = None
        self._shown_since = 0.0
        self._ahead: dict[Segment, VoiceSegment] = {}  # segments that may end so, judged already
        self._finished = False
        self.windows: tuple[VoiceSegment, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds that have come in."""
        return self._audio.duration

    def push(self, samples: NDArray[Any]) -> list[VoiceSegment]:
        """Goes on with the next block.

        Args:
            samples: [samples] or [samples, channels], any number of them; floats with full scale 1, or integers.

        Returns:
            What can be said now.

        Raises:
            AudioError: Samples that cannot be used. None of this block is taken, and `finish` still gives what remains
                to be said of those before.
            ValueError: The stream is finished.
        """
        if self._finished:
            raise ValueError("the stream is finished: open another")
        return self._hear(self._audio.push(samples))

    def finish(self) -> list[VoiceSegment]:
        """Returns what remains to be said at the end of the stream; nothing may be pushed behind it."""
        if self._finished:
            return []
        found = self._hear(self._audio.finish())
        self._finished = True
        found += self._final(self._speech.push(self._waiting))
        found += self._final(self._speech.finish())
        self.windows = ()
        return found

    def _hear(self, waveform: Waveform) -> list[VoiceSegment]:
        # A stream that pauses, as a muted microphone does, falls behind the clock, and stays so.
        self._zero = max(self._zero, self._detector._now() - self.duration)
        waveform = np.concatenate([self._waiting, waveform])
        whole = len(waveform) - len(waveform) % _STEP
        self._waiting = waveform[whole:]
        found = []
        for at in range(0, whole, _STEP):
            found += self._final(self._speech.push(waveform[at : at + _STEP]))
            found += self._windows()
        return found

    def _final(self, segments: list[Segment]) -> list[VoiceSegment]:
        if not segments:
            return []
        found = [replace(self._judged(segment), at=self._zero + segment.end) for segment in segments]
        self._detector._remember(found)
        self._ahead = {}
        self.windows = tuple(window for window in self.windows if window.start >= found[-1].end)
        return found

    def _judged(self, segment: Segment) -> VoiceSegment:
        if segment not in self._ahead:
            part = replace(segment, speaker=self._speaker), self._speech.take(segment)
            [self._ahead[segment]] = self._detector._judged([part], self._zero, final=True)
        return self._ahead[segment]

    def _windows(self) -> list[VoiceSegment]:
        """What can be said of the speech that goes on, if there is enough that is new."""
        parts = self._speech.parts
        if not parts:
            self._shown = None
            return []
        end, pause = parts[-1].end, self._speech.duration - parts[-1].end
        if pause >= _AHEAD:  # several segments may end at once, and each takes its time: one by one, before they do
            for part in [part for part in parts if part not in self._ahead][:1]:
                self._judged(part)
        length, hop = self._settings.window, self._settings.window - self._settings.overlap
        late = pause > _STEP / SAMPLING_RATE  # a pause has ended this speech, and what was left of it is old
        if parts[-1].duration < length or end - self._window_end < hop or late:
            return []
        self._window_end = end
        quality: Quality = "normal" if length >= self._detector._settings.segments.low_confidence else "low_confidence"
        span = Segment(speech.to_samples(end - length) / SAMPLING_RATE, end, quality, self._speaker)
        found = self._detector._judged([(span, self._speech.take(span))], self._zero, final=False)
        found = [replace(segment, held=self._held(segment)) for segment in found]
        self.windows += (*found,)
        return found

    def _held(self, window: VoiceSegment) -> str | None:
        """Steadies what is shown: returns the emotion that is, where another is likelier in this window."""
        shares = window.distribution
        if shares is None:
            return None
        if self._shown is None:
            self._average = dict(shares)
        else:
            seconds = window.end - self._averaged_until
            keep = math.exp(-seconds / self._settings.smoothing) if self._settings.smoothing else 0.0
            self._average = {name: keep * self._average[name] + (1 - keep) * shares[name] for name in shares}
        self._averaged_until = window.end
        best = max(self._average, key=self._average.__getitem__)
        if self._shown is None or (
            self._average[best] - self._average[self._shown] >= self._settings.margin
            and window.end - self._shown_since >= self._settings.hold
        ):
            self._shown, self._shown_since = best, window.end
        return None if self._shown == window.emotion else self._shown


def _streamed(listener: Listener, chunks: Iterable[NDArray[Any]]) -> Iterator[VoiceSegment]:
    for chunk in chunks:
        yield from listener.push(chunk)
    yield from listener.finish()


async def _asynchronous(
    chunks: AsyncIterable[NDArray[Any]] | Iterable[NDArray[Any]],
) -> AsyncIterator[NDArray[Any]]:
    if isinstance(chunks, AsyncIterable):
        async for chunk in chunks:
            yield chunk
        return
    blocks = iter(chunks)
    while (block := await asyncio.to_thread(next, blocks, None)) is not None:
        yield block

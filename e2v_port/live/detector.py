"""Judges how a voice sounds, in clips and while it speaks, with whichever backend runs here."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from e2v_port.analysis import reading
from e2v_port.analysis.judged import JudgedSegment, worded
from e2v_port.analysis.results import AnalysisSettings, UsedModel, unjudged
from e2v_port.analysis.sounds import Request
from e2v_port.analysis.turns import spoken
from e2v_port.analysis.voices import Baselines, Voices, read_baselines
from e2v_port.audio import SAMPLING_RATE, Clip, LiveAudio, Note, Waveform, clip_name, load_audio
from e2v_port.emotions.adaptation import Offset
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.emotions.trajectory import Trajectory, trajectory
from e2v_port.errors import AudioError, need
from e2v_port.live.backends import opened
from e2v_port.live.follower import Followed, Follower, LiveSettings, Steady
from e2v_port.live.listener import Listener
from e2v_port.live.memory import Memory
from e2v_port.live.recognition import Recognition
from e2v_port.live.results import VoiceAnalysis, VoiceSegment
from e2v_port.live.words import LiveWords
from e2v_port.llm import describe
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.measure import measure
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech import detect, silero
from e2v_port.speech.segment import Segment, SegmentSettings
from e2v_port.transcribe.words import Reader

__all__ = ["EmotionDetector"]

_QUOTED = 280  # characters of the latest words in a description: within the 300 that `describe.said` quotes


class EmotionDetector:
    """Judges how a voice sounds, in clips and while it speaks. Safe to use from several threads.

    It listens with one of these backends:

    * `bundled`: the model of that name in the package; the default where no model is given.
    * `emotion2vec`: the emotion2vec model that is given; without one, the first of `e2v models` that has been
      converted on this machine.
    * `prosodic`: no model, only pitch, loudness, pace and the like (`e2v_port.prosody`). It gives dimensions and their
      octant, no label.
    * `hybrid`: labels from the model that is given, or from the bundled one; arousal, dominance and valence are 70 %
      the model's and 30 % those of the prosody. The model's are measured where `dimensional` is given; otherwise they
      follow from its labels.

    A model of another kind, given without a backend, listens under its own name if it is bundled, or else under that of
    its family.

    Args:
        model: Model that gives labels: a name or folder for `load`, or a loaded model.
        backend: Name of the backend; by default the one that fits the model.
        dimensional: Model that measures arousal, dominance and valence, in the same forms.
        runtime: Runtime of the models to load, as for `load`.
        dtype: Type of their arithmetic, as for `load`.
        labels: Labels that the answers of `model` are limited to, as for `Model.limited`; by default all of them.
        fallback: Whether to use the bundled model, or else prosody alone, if the backend cannot run here. Every result
            then holds the reason. Otherwise this is an error.
        baseline: Baselines of speakers, one or several, or the files that hold them: see `calibrate` and `e2v adapt`.
            An offset in one is taken off the model's answers for that speaker.
        adapt: Whether to adapt to each speaker whose baseline has no offset: it is learned from all final segments that
            were heard before, as `adaptation` reports. A final segment then comes up to half a second later.
        settings: Thresholds and lengths of segments.
        fusion: Settings of the fusion.
        live: How speech is judged before it has ended.
        enrolled: Enrolled voices. Each segment then has the name that its voice says, whatever `speaker` is given
            elsewhere; with `KnownVoices.only`, nobody else is judged: see docs/enrolment.md.
        words: Recognizer that reads what is said in segments that have ended, as for `e2v_port.analyze`. In a stream
            each of them comes twice: as soon as it is judged, and with its words, see `VoiceSegment.reading`.
        language: Code of the language that is spoken; None to detect it in each clip or stream.
        offline: Whether to never open a connection.

    Attributes:
        backend: Name of the backend in use.
        fallback: Reason why it is not the one that was asked for; None if it is.
        models: The categorical model, the dimensional model, both in this order, or none.

    Raises:
        RuntimeUnavailable: The backend cannot run here; the message holds the reason and the remedy.
        NoLabels: A model is of another kind than it is used as.
        BaselineError: The file of a baseline cannot be read, or holds something else.
        ValueError: The backend is unknown, or arguments contradict each other.
        E2VError: See `load`.
    """

    def __init__(
        self,
        model: str | Path | Model | None = None,
        *,
        backend: str | None = None,
        dimensional: str | Path | Model | None = None,
        runtime: str = "auto",
        dtype: str | None = None,
        labels: str | Iterable[str] | None = None,
        fallback: bool = False,
        baseline: Baselines = None,
        adapt: bool = False,
        settings: SegmentSettings | None = None,
        fusion: FusionSettings | None = None,
        live: LiveSettings | None = None,
        enrolled: KnownVoices | None = None,
        words: str | Path | Reader | None = None,
        language: str | None = None,
        offline: bool = False,
    ) -> None:
        need("settings", settings, SegmentSettings, None)
        need("fusion", fusion, FusionSettings, None)
        need("live", live, LiveSettings, None)
        need("enrolled", enrolled, KnownVoices, None)
        self._settings = AnalysisSettings("speech", settings or SegmentSettings(), fusion or FusionSettings(), None)
        self._live = live or LiveSettings()
        self._known = enrolled
        self._baselines = read_baselines(baseline)
        self._reader = reading.opened(words, language, offline)
        self._reading = ThreadPoolExecutor(1, "words") if self._reader else None  # one segment at a time
        self._backend = opened(
            backend,
            model,
            dimensional,
            self._settings.fusion,
            fallback=fallback,
            runtime=runtime,
            dtype=dtype,
            labels=labels,
            offline=offline,
        )
        self.backend, self.fallback = self._backend.name, self._backend.fallback
        models = self._backend.judge.models if self._backend.judge else {}
        self.models = tuple(UsedModel.of(kind, loaded) for kind, loaded in models.items())
        self._memory = Memory(self._live.remembered)
        self._voices = self._opened_voices(adapt)

    def _opened_voices(self, learn: bool) -> Voices | None:
        """Returns the voices to adapt to; None if nobody asked for that, or prosody judges alone."""
        if not (learn or any(baseline.offset for baseline in self._baselines.values())):
            return None
        if self._backend.judge is None:
            if learn:
                raise ValueError("the backend prosodic has no model that could adapt: leave adapt= out")
            return None
        return Voices(self._backend.judge, self._baselines, learn=learn)

    def __repr__(self) -> str:
        return f"EmotionDetector({', '.join([self.backend, *(model.name for model in self.models)])})"

    def analyze(
        self,
        clip: Clip,
        sampling_rate: int | None = None,
        *,
        speaker: str | None = None,
        channel: int | str = "mix",
    ) -> VoiceAnalysis:
        """Judges the voice in one clip. The segments are those that a stream of the same audio ends with.

        Args:
            clip: A path, a binary file object or an array of samples, as for `e2v_port.analyze`.
            sampling_rate: Sampling rate of an array, in Hz; files bring their own.
            speaker: Name of the speaker, if known.
            channel: `mix`, `left`, `right`, a number from 1, or `each`, as for `e2v_port.analyze`.

        Raises:
            AudioError: The clip cannot be used.
        """
        started = time.perf_counter()
        request = Request(channel)
        sounds = request.load(clip, sampling_rate)
        decoded = time.perf_counter()
        found, notes = request.segments(sounds, self._settings.segments)
        if channel != "each":
            found = [replace(segment, speaker=speaker) for segment in found]
        if self._known:
            heard = {number: sound.waveform for number, sound in sounds.by_channel.items()}
            found, said = self._known.named(heard, found, self._settings.segments)
            notes = [*notes, *said]
        detected = time.perf_counter()
        read = reading.read(sounds, found, self._reader) if self._reader else None
        done = time.perf_counter()
        judged = self._judged([(segment, sounds.of(segment)) for segment in found])
        if read:
            judged = [
                worded(segment, read.words[i]) if i in read.words else segment for i, segment in enumerate(judged)
            ]
        # As if the last word ended now: the clip that was analyzed last is the one that was heard last, even if it ends
        # in more silence than the analysis took.
        begin = self._memory.now() - max((segment.end for segment in found), default=sounds.duration)
        segments = [self._voiced(Followed(segment, True), begin) for segment in judged]
        self._memory.add(segments)
        return VoiceAnalysis(
            file=clip_name(clip),
            duration=sounds.duration,
            segments=tuple(segments),
            boundaries=None,
            reason=None if any(segment.judgement for segment in segments) else unjudged(found, self._settings),
            models=self.models,
            settings=self._settings,
            timings={
                "decode": decoded - started,
                "speech": detected - decoded,
                **({"words": done - detected} if read else {}),
                "judge": time.perf_counter() - done,
            },
            notes=(*sounds.notes, *notes, *(read.notes if read else ()), *self._adapted_to(found)),
            transcript=read.transcript if read else None,
            turns=spoken(segments, self._settings.fusion, languages=read.languages if read else None),
            backend=self.backend,
            fallback=self.fallback,
        )

    def open(
        self, sampling_rate: int = SAMPLING_RATE, *, speaker: str | None = None, channel: int | str = "mix"
    ) -> Listener:
        """Opens a stream: its samples are pushed as they come in.

        Everything that is slow the first time, up to some seconds, is done here, so that no result waits for it.

        Args:
            sampling_rate: Sampling rate of the stream, in Hz.
            speaker: Name of the speaker, if known.
            channel: `mix`, `left`, `right` or a number from 1.

        Raises:
            AudioError: The rate is outside 1 to 768 kHz, or the channel is unknown.
        """
        audio = LiveAudio(sampling_rate, channel)
        self._warm()
        ahead = self._voices is None or not self._voices.learns
        judge = Recognition(self._judged_one, self._known, self._settings.segments) if self._known else self._judged_one
        follower = Follower(judge, self._live, self._settings.segments, speaker, ahead=ahead)
        words = None
        if self._reader and self._reading:
            words = LiveWords[VoiceSegment](self._reader, self._reading.submit)
        return Listener(audio, follower, self._memory, self._voiced, words)

    def stream(
        self,
        chunks: Iterable[NDArray[Any]],
        sampling_rate: int = SAMPLING_RATE,
        *,
        speaker: str | None = None,
        channel: int | str = "mix",
    ) -> Iterator[VoiceSegment]:
        """Listens to blocks of samples and yields each result as soon as it is complete: see `Listener`.

        Args:
            chunks: Blocks as for `Listener.push`.
            sampling_rate: Sampling rate of the blocks, in Hz.
            speaker: Name of the speaker, if known.
            channel: Channel, as for `open`.

        Raises:
            AudioError: Samples cannot be used; raised after the results of the blocks before.
        """
        return _streamed(self.open(sampling_rate, speaker=speaker, channel=channel), chunks)

    async def astream(
        self,
        chunks: AsyncIterable[NDArray[Any]] | Iterable[NDArray[Any]],
        sampling_rate: int = SAMPLING_RATE,
        *,
        speaker: str | None = None,
        channel: int | str = "mix",
    ) -> AsyncIterator[VoiceSegment]:
        """Does what `stream` does in another thread, so that the event loop stays free.

        Args:
            chunks: Blocks as for `Listener.push`, from an iterator of either kind.
            sampling_rate: Sampling rate of the blocks, in Hz.
            speaker: Name of the speaker, if known.
            channel: Channel, as for `open`.

        Raises:
            AudioError: See `stream`.
        """
        listener = await asyncio.to_thread(self.open, sampling_rate, speaker=speaker, channel=channel)
        async for chunk in _asynchronous(chunks):
            for segment in await asyncio.to_thread(listener.push, chunk):
                yield segment
        for segment in await asyncio.to_thread(listener.finish):
            yield segment

    def calibrate(
        self, samples: Sequence[Clip], sampling_rate: int | None = None, *, speaker: str | None = None
    ) -> Baseline:
        """Learns how a voice sounds when it is neutral: its later measures are compared with that.

        Args:
            samples: 3 to 5 neutral sentences, each a clip as for `analyze`; the longest segment of each counts.
            sampling_rate: Sampling rate of arrays, in Hz.
            speaker: Name of the speaker. The baseline calibrated last, under any name, also serves for speech without
                a speaker.

        Returns:
            The baseline, which this detector uses from now on; `Baseline.save` keeps it for another one.

        Raises:
            AudioError: A sample cannot be used, or holds no speech.
            ValueError: There are too few samples, or one in which no voice can be measured.
        """
        measured = []
        for sample in samples:
            waveform = load_audio(sample, sampling_rate)
            spoken = detect.detect(waveform, self._settings.segments)
            if not spoken:
                raise AudioError(f"{clip_name(sample)}: no speech found: record a neutral sentence")
            longest = max(spoken, key=lambda segment: segment.duration)
            measured.append(measure(waveform[longest.samples]))
        baseline = Baseline.of(measured, speaker)
        known = self._baselines.get(speaker)
        if known and known.speaker == speaker:
            baseline = replace(baseline, offset=known.offset)
        self._baselines[speaker] = self._baselines[None] = baseline
        return baseline

    def adaptation(self, speaker: str | None = None) -> Offset | None:
        """Returns the offset that is taken off the next judgement of a speaker, with the reason if none is.

        Args:
            speaker: Name of the speaker; None for speech without one.

        Returns:
            The offset, learned or from a baseline; None without either. `dataclasses.replace(baseline, offset=...)`
            keeps it for another detector.
        """
        return self._voices.offset(speaker) if self._voices else None

    def forget(self, speaker: str | None = None) -> None:
        """Forgets what is known of a speaker's voice: the baseline, and what was learned from segments.

        Args:
            speaker: Name of the speaker; None for speech without one. The segments in `history` stay until they are
                too old.
        """
        known = self._baselines.pop(speaker, None)
        if known is not None and self._baselines.get(None) is known:
            del self._baselines[None]
        if self._voices:
            self._voices.forget(speaker)

    def adapt(
        self, samples: Iterable[Clip], sampling_rate: int | None = None, *, speaker: str | None = None
    ) -> Baseline:
        """Learns how a voice moves the judgements of the model: it is taken off from now on. No labels are needed.

        Args:
            samples: Clips of one speaker in several moods, as for `analyze`; every segment of speech in them counts.
                Ten or more segments are a good start.
            sampling_rate: Sampling rate of arrays, in Hz.
            speaker: Name of the speaker, as for `calibrate`.

        Returns:
            The baseline of the speaker with the offset, which this detector uses from now on; `Baseline.save` keeps it
            for another one.

        Raises:
            AudioError: A sample cannot be used.
            ValueError: Adapting could do harm: there are too few segments, or they sound like a single mood. Or the
                backend is `prosodic`.
            E2VError: The model cannot adapt: see `Model.centers`.
        """
        if self._backend.judge is None:
            raise ValueError("the backend prosodic has no model that could adapt: choose another")
        voices = Voices(self._backend.judge, {}, learn=True)
        for sample in samples:
            waveform = load_audio(sample, sampling_rate)
            found = detect.detect(waveform, self._settings.segments)
            good = [waveform[segment.samples] for segment in found if segment.quality in {"normal", "low_confidence"}]
            for result in self._backend.judge.all(good):
                if isinstance(result, AudioError):
                    raise AudioError(f"{clip_name(sample)}: {result}")
                voices.hear(speaker, result.prediction)
        offset = voices.offset(speaker)
        assert offset is not None
        if offset.reason:
            raise ValueError(f"{offset}: add clips of other moods")
        known = self._baselines.get(speaker)
        if known is None or known.speaker != speaker:
            known = Baseline(speaker, 0, 0.0, {}, {})
        baseline = replace(known, offset=offset)
        self._baselines[speaker] = self._baselines[None] = baseline
        if self._voices is None:
            self._voices = Voices(self._backend.judge, self._baselines, learn=False)
        return baseline

    def history(self, window: float | None = None, *, speaker: str | None = None) -> tuple[VoiceSegment, ...]:
        """Returns the final segments heard recently, of all clips and streams, in order of time.

        Args:
            window: How far to go back, in seconds; by default as far as `LiveSettings.remembered`.
            speaker: Name of the speaker; by default all speakers.

        Raises:
            ValueError: The window is not a positive number.
        """
        return self._memory.final(window, speaker)

    def trajectory(self, window: float = 300.0, *, speaker: str | None = None) -> Trajectory:
        """Describes where the voice is going: see `e2v_port.emotions.trajectory`.

        Args:
            window: How far to go back, in seconds.
            speaker: Name of the speaker, as for `history`. There is no trend over several: voices differ.
        """
        return trajectory(self.history(window, speaker=speaker))

    def to_context(self, window: float = 30.0, *, speaker: str | None = None, long: bool = False) -> str:
        """Describes for a language model how the voice has sounded up to now: see `e2v_port.llm.describe`.

        Speech that has not ended counts with its windows, see `Listener`. Words that were read are quoted as in
        `e2v_port.llm.describe.said`, the latest of each speaker.

        Args:
            window: How far to go back, in seconds.
            speaker: Name of the speaker, as for `history`.
            long: Whether to add, in lines of their own, how sure this is and where the voice is going.
        """
        heard = self._memory.recent(window, speaker)
        return self._described(heard, self.trajectory(speaker=speaker) if long else None)

    def voice_state(self, *, window: float = 30.0, long: bool = False) -> dict[str, Any]:
        """Answers the tool that `tool_schema` declares: `voice_state(**arguments)`.

        It describes the speaker who was heard last, and all who have no name as one.

        Args:
            window: How far to go back, in seconds.
            long: Same as for `to_context`.

        Returns:
            An answer in the form of `outputSchema`; means over segments are weighted by their length.
        """
        recent = self._memory.recent(window, None)
        heard = [segment for segment in recent if segment.speaker == recent[-1].speaker]
        course = trajectory(each for each in self.history(300.0) if heard and each.speaker == heard[-1].speaker)
        settings = self._settings.fusion
        return {
            "context": self._described(heard, course if long else None),
            **describe.means(heard, settings),
            "text": " ".join(segment.text for segment in heard if segment.text) or None,
            "trend": course.trend,
            "notice": describe.NOTICE,
        }

    def _described(self, heard: Sequence[VoiceSegment], course: Trajectory | None) -> str:
        """Describes segments in one line, or with their course in several; then a line of words for each speaker."""
        settings = self._settings.fusion
        lines = describe.report(heard, settings, course).splitlines() if course else [describe.line(heard, settings)]
        speakers = dict.fromkeys(segment.speaker for segment in heard)
        quoted = []
        for speaker in speakers:
            own = [segment for segment in heard if segment.speaker == speaker]
            if text := _latest([segment.text for segment in own if segment.text]):
                quoted.append(describe.said(own, settings, text))
        if quoted and len(speakers) == 1:
            lines[:1] = quoted
        else:
            place = len(lines) - bool(course)  # the notice is the last line
            lines[place:place] = quoted
        return "\n".join(lines)

    def _adapted_to(self, segments: Sequence[Segment]) -> list[Note]:
        speakers = dict.fromkeys(segment.speaker for segment in segments)
        return [self._voices.note(speaker) for speaker in speakers] if self._voices else []

    def _warm(self) -> None:
        voice = np.sin(np.arange(2 * SAMPLING_RATE, dtype=np.float32) * 0.05) / 4
        silero.speech_probabilities(voice)
        self._backend.judge_all([(Segment(0.0, 2.0, "normal"), voice)], self._baselines, measured=True)
        if self._known:
            self._known.encoder.embed(voice, SAMPLING_RATE)

    def _judged(self, parts: Sequence[tuple[Segment, Waveform]]) -> list[JudgedSegment]:
        return self._backend.judge_all(parts, self._baselines, measured=True, voices=self._voices)

    def _judged_one(self, segment: Segment, waveform: Waveform, steady: Steady | None) -> JudgedSegment:
        """Judges for a follower. The prosody of a window is measured only for a backend that needs it."""
        part = segment, waveform
        [judged] = self._backend.judge_all(
            [part], self._baselines, measured=steady is None, steady=steady, voices=self._voices
        )
        return judged

    def _voiced(self, followed: Followed, begin: float) -> VoiceSegment:
        """Makes a result of a segment of a clip or stream that began at a time, in seconds since the epoch."""
        return VoiceSegment.of(
            followed.segment,
            final=followed.final,
            at=begin + followed.segment.end,
            backend=self.backend,
            fallback=self.fallback,
        )


def _latest(texts: Sequence[str]) -> str:
    """Returns the last texts that fit into a quotation, at least one."""
    kept: list[str] = []
    for text in reversed(texts):
        if kept and len(text) + sum(len(each) + 1 for each in kept) > _QUOTED:
            return " ".join(["...", *reversed(kept)])
        kept.append(text)
    return " ".join(reversed(kept))


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

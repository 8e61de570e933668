"""From clips to analyses, step by step: speech, speakers, other sounds, words, judgements, turns."""

import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from e2v_port.analysis import events as sound_events
from e2v_port.analysis.events import Event, EventDetector
from e2v_port.analysis.judge import CATEGORICAL, Judge, JudgedWaveform
from e2v_port.analysis.judged import JudgedSegment, placed
from e2v_port.analysis.reading import read
from e2v_port.analysis.results import Analysis, AnalysisSettings, UsedModel, unjudged
from e2v_port.analysis.sounds import Request, Sounds
from e2v_port.analysis.turns import spoken
from e2v_port.analysis.voices import Adapting
from e2v_port.audio import SAMPLING_RATE, Clip, Note
from e2v_port.audio.clip import clip_name
from e2v_port.emotions.changes import Boundary, boundaries
from e2v_port.errors import AudioError
from e2v_port.files import printable
from e2v_port.models.batches import ahead
from e2v_port.models.cache import OutputCache
from e2v_port.models.model import Model
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import judge as judge_prosody
from e2v_port.prosody.measure import MIN_SECONDS, Prosody, measure
from e2v_port.speakers.diarize import Speakers
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech.detect import speech_spans
from e2v_port.speech.segment import Segment
from e2v_port.speech.silero import speech_probabilities
from e2v_port.transcribe.valence import TextValence
from e2v_port.transcribe.words import Reader, Transcript, Word

__all__ = ["Analyzer", "Saying"]

_CHECKED = 60.0  # seconds of speech that the models judge between two looks at the clock, where there is a timeout


@dataclass
class _Work:
    """A clip between decoding and its analysis."""

    sounds: Sounds
    segments: list[Segment]
    notes: tuple[Note, ...]
    timings: dict[str, float]
    transcript: Transcript | None = None
    languages: dict[int | None, str | None] = field(default_factory=dict)  # of the words, by channel
    events: tuple[Event, ...] | None = None
    words: dict[int, tuple[Word, ...]] = field(default_factory=dict)  # by the number of the segment
    judged: dict[int, JudgedWaveform] = field(default_factory=dict)  # in the same way
    prosody: dict[int, Prosody] = field(default_factory=dict)
    error: AudioError | None = None

    def to_judge(self) -> list[int]:
        """Returns the numbers of the segments that can be judged."""
        return [i for i, segment in enumerate(self.segments) if segment.quality in {"normal", "low_confidence"}]


@dataclass(frozen=True)
class Saying:
    """What reads words and weighs them; `language` is that of words which were given."""

    reader: Reader | None
    language: str | None
    valence: TextValence


class Analyzer:
    """Analyzes clips; its options are those of `analyze.each`, made ready."""

    def __init__(
        self,
        judge: Judge,
        settings: AnalysisSettings,
        request: Request,
        *,
        adapting: Adapting | None,
        saying: Saying,
        naming: Speakers | None,
        known: KnownVoices | None,
        voices: Mapping[str | None, Baseline] | None,
        events: EventDetector | None,
        timeout: float | None,
        cache: OutputCache | None,
        together: bool,
    ) -> None:
        self.judge, self.settings, self.request, self.adapting = judge, settings, request, adapting
        self.saying, self.naming, self.known, self.events = saying, naming, known, events
        self.voices = voices  # what measured voices are compared with; None to measure none
        self.timeout, self.cache, self.together = timeout, cache, together
        self.models = judge.models

    def each(self, clips: Iterable[Clip | Sounds], sampling_rate: int | None) -> Iterator[Analysis | AudioError]:
        """Yields the analysis of each clip, or what stopped it: see `analyze.each`."""
        readers = max(model.readers for model in self.models.values()) if self.together else 0
        windows = self._windows(ahead(partial(self._read, sampling_rate), clips, readers))
        if not readers:
            for window in windows:
                yield from self._finished(window)
                window.clear()  # a clip of hours does not stay in memory while the next is read
            return
        with ThreadPoolExecutor(1, "analysis") as pool:  # while a GPU has one window, the next is read
            running: Future[list[Analysis | AudioError]] | None = None
            for window in windows:
                last, running = running, pool.submit(self._finished, window)
                if last:
                    yield from last.result()
            assert running is not None
            yield from running.result()

    def _windows(self, items: Iterable[_Work | AudioError]) -> Iterator[list[_Work | AudioError]]:
        """Yields lists of clips that run together; the last may be empty."""
        most = min(model.window_seconds for model in self.models.values()) * SAMPLING_RATE if self.together else 0
        window: list[_Work | AudioError] = []
        for item in items:
            window.append(item)
            del item  # no name but the window's for a clip, which would keep one of hours while the next is read
            if sum(item.sounds.samples for item in window if isinstance(item, _Work)) >= most:
                yield window
                window = []
        yield window

    def _read(self, sampling_rate: int | None, clip: Clip | Sounds) -> _Work | AudioError:
        try:
            return self._segmented(clip, sampling_rate)
        except AudioError as error:
            return error

    def _segmented(self, clip: Clip | Sounds, sampling_rate: int | None) -> _Work:
        started = time.perf_counter()
        name = printable(clip.name if isinstance(clip, Sounds) else clip_name(clip))

        def decoding(_: float) -> None:
            self._check_time(None, time.perf_counter() - started, "while it was decoded")

        sounds = clip if isinstance(clip, Sounds) else self.request.load(clip, sampling_rate, decoding)
        decoded = time.perf_counter()
        segments, notes = self.request.segments(sounds, self.settings.segments)
        timings = {"decode": decoded - started, "speech": time.perf_counter() - decoded}
        self._check_time(name, sum(timings.values()), "once its speech was found")
        if self.naming or self.known:
            started = time.perf_counter()
            segments, said = self._named(sounds, segments)
            notes = [*notes, *said]
            timings["speakers"] = time.perf_counter() - started
            self._check_time(name, sum(timings.values()), "once its speakers were told apart")
        work = _Work(sounds, segments, (*sounds.notes, *notes), timings)
        if self.events:
            started = time.perf_counter()
            self._find_events(work, self.events)
            timings["events"] = time.perf_counter() - started
            self._check_time(name, sum(timings.values()), "once its sounds were found")
        work.languages = dict.fromkeys(sounds.by_channel, self.saying.language)
        if self.saying.reader:
            started = time.perf_counter()
            found = read(sounds, self._spoken(sounds, work.segments), self.saying.reader)
            work.words, work.transcript, work.languages = found.words, found.transcript, found.languages
            work.notes = (*work.notes, *found.notes)
            if self.request.whole and not found.words:
                work.notes = (*work.notes, Note("no_words", "no words were read, as no speech was found"))
            timings["words"] = time.perf_counter() - started
            self._check_time(name, sum(timings.values()), "once its words were read")
        timings |= dict.fromkeys([*self.models, "fusion"], 0.0)
        return work

    def _spoken(self, sounds: Sounds, segments: list[Segment]) -> list[Segment]:
        """Returns segments as they may be read: recognizers invent words for clips without speech."""
        if not self.request.whole:
            return segments
        own = self.settings.segments
        found: list[Segment] = []
        for segment in segments:
            waveform = sounds.of(segment)
            spans = speech_spans(speech_probabilities(waveform, own.max_gain), waveform, own)
            found.append(segment if spans else replace(segment, quality="no_speech"))
        return found

    def _check_time(self, name: str | None, spent: float, when: str) -> None:
        """Raises AudioError for a clip on which more than the timeout was spent; its name is None where it is added."""
        if self.timeout is not None and spent > self.timeout:
            which = f"{name}: " if name else ""
            raise AudioError(f"{which}over the time limit of {self.timeout:g} s: stopped after {spent:.1f} s, {when}")

    def _named(self, sounds: Sounds, segments: list[Segment]) -> tuple[list[Segment], list[Note]]:
        """Names the speakers by their voices, and then those who are enrolled by their names."""
        heard = {channel: sound.waveform for channel, sound in sounds.by_channel.items()}
        given = {segment.speaker for segment in segments}
        notes: list[Note] = []
        if self.naming:
            segments, notes = self.naming.named(heard, segments, self.settings.segments)
        if self.known:
            found = {segment.speaker for segment in segments if segment.speaker is not None} - given
            segments, said = self.known.named(heard, segments, self.settings.segments, found=found)
            notes = [*notes, *said]
        return segments, notes

    def _find_events(self, work: _Work, detector: EventDetector) -> None:
        """Finds the sounds besides speech in each channel, but not in the time of speakers who are not enrolled."""
        found: list[Event] = []
        for channel, sound in work.sounds.by_channel.items():
            strangers = (each for each in work.segments if each.quality == "not_enrolled")
            heard = (each for each in strangers if channel == each.channel or None in {channel, each.channel})
            barred = [(each.start, each.end) for each in heard]
            found += detector.find(sound.waveform, barred=barred, channel=channel)
        work.events = tuple(sorted(found, key=lambda event: (event.start, event.end)))
        work.segments = sound_events.doubted(work.segments, found, detector.settings)
        work.notes = (*work.notes, *sound_events.remarks(work.segments))

    def _finished(self, window: list[_Work | AudioError]) -> list[Analysis | AudioError]:
        self._run([work for work in window if isinstance(work, _Work)])
        return [(item.error or self._analysis(item)) if isinstance(item, _Work) else item for item in window]

    def _run(self, works: list[_Work]) -> None:
        """Judges the segments of several clips together, and shares the time among the clips by their speech."""
        parts = [(work, i) for work in works for i in work.to_judge()]
        for batch in self._limited(parts):
            self._judge(batch)
        for work in works:
            self._adapt(work)
            self._measure(work)

    def _limited(self, parts: list[tuple[_Work, int]]) -> Iterator[list[tuple[_Work, int]]]:
        """Yields the segments that are judged together; with a timeout, a few at a time and none of a clip over it."""
        if self.timeout is None:
            yield parts
            return
        while parts:
            batch: list[tuple[_Work, int]] = []
            while parts and sum(work.segments[i].duration for work, i in batch) < _CHECKED:
                batch.append(parts.pop(0))
            yield batch
            for work in {id(work): work for work, _ in parts}.values():
                try:
                    self._check_time(printable(work.sounds.name), sum(work.timings.values()), "by the models")
                except AudioError as error:
                    work.error = error
            parts = [part for part in parts if part[0].error is None]

    def _judge(self, parts: list[tuple[_Work, int]]) -> None:
        waveforms = [work.sounds.of(work.segments[i]) for work, i in parts]
        seconds: dict[str, float] = {}
        frames = self.settings.boundaries is not None
        results = self.judge.all(waveforms, frames=frames, seconds=seconds, cache=self.cache)
        for (work, i), result in zip(parts, results, strict=True):
            if isinstance(result, AudioError):  # resampled, it went beyond what a clip may hold
                work.error = AudioError(f"{work.sounds.name}: {result}")
            else:
                work.judged[i] = result
        total = sum(work.segments[i].duration for work, i in parts)
        for work, i in parts:
            for stage, spent in seconds.items():
                work.timings[stage] += spent * work.segments[i].duration / total

    def _measure(self, work: _Work) -> None:
        if self.voices is None:
            return
        started = time.perf_counter()
        for i in work.judged:
            waveform = work.sounds.of(work.segments[i])
            if len(waveform) >= MIN_SECONDS * SAMPLING_RATE:
                work.prosody[i] = measure(waveform)
        work.timings["prosody"] = time.perf_counter() - started

    def _adapt(self, work: _Work) -> None:
        if self.adapting and work.judged:
            speakers = [work.segments[i].speaker for i in work.judged]
            results, notes = self.adapting([*zip(speakers, work.judged.values(), strict=True)])
            work.judged = dict(zip(work.judged, results, strict=True))
            work.notes = (*work.notes, *notes)

    def _analysis(self, work: _Work) -> Analysis:
        started = time.perf_counter()
        segments = []
        for i, segment in enumerate(work.segments):
            judged = work.judged.get(i)
            estimates = (judged.judgement, judged.prediction) if judged else (None, None)
            segments.append(self._voiced(placed(segment, *estimates, words=work.words.get(i)), work.prosody.get(i)))
        changes = None
        if self.settings.boundaries is not None:
            changes = tuple(part for i in sorted(work.judged) for part in self._boundaries(work, i))
        work.timings["fusion"] += time.perf_counter() - started
        return Analysis(
            file=work.sounds.name,
            duration=work.sounds.duration,
            segments=tuple(segments),
            boundaries=changes,
            reason=None if work.judged else unjudged(work.segments, self.settings),
            models=tuple(UsedModel.of(kind, model) for kind, model in self._used().items()),
            settings=self.settings,
            timings=work.timings,
            notes=work.notes,
            transcript=work.transcript,
            turns=spoken(segments, self.settings.fusion, self.saying.valence, work.languages),
            events=work.events,
        )

    def _used(self) -> dict[str, Model]:
        """Returns all models by kind."""
        named = self.naming or self.known
        speakers = {"speakers": named.encoder} if named else {}
        return {**self.models, **speakers, **({sound_events.OUTPUT: self.events.model} if self.events else {})}

    def _voiced(self, segment: JudgedSegment, prosody: Prosody | None) -> JudgedSegment:
        if prosody is None or self.voices is None:
            return segment
        return replace(
            segment, prosody=prosody, reasons=judge_prosody(prosody, self.voices.get(segment.speaker)).reasons
        )

    def _boundaries(self, work: _Work, i: int) -> list[Boundary]:
        model, segment, scores = self.models[CATEGORICAL], work.segments[i], work.judged[i].frame_scores
        assert scores is not None
        hop = model.config.architecture.hop / SAMPLING_RATE
        return boundaries(scores, model.labels, (segment.start, segment.end), hop, self.settings.boundaries)

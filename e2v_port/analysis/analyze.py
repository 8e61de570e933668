"""Analyzes recordings: finds segments of speech and judges each with one model or two."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack, overload

from e2v_port.analysis import events as sound_events
from e2v_port.analysis.events import Event, EventDetector
from e2v_port.analysis.judge import CATEGORICAL, Judge, JudgedWaveform
from e2v_port.analysis.judged import JudgedSegment, placed
from e2v_port.analysis.reading import opened, read
from e2v_port.analysis.results import Analysis, AnalysisSettings, UsedModel, unjudged
from e2v_port.analysis.sounds import Request, Sounds
from e2v_port.analysis.turns import spoken
from e2v_port.analysis.voices import Adapting, Baselines, Voices, read_baselines
from e2v_port.audio import SAMPLING_RATE, Clip, Note
from e2v_port.audio.clip import check_clips, clip_name
from e2v_port.checkpoints import catalog
from e2v_port.emotions.changes import Boundary, BoundarySettings, boundaries
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import AudioError, ModelNotFound, SegmentError, need, number, quoted
from e2v_port.files import printable
from e2v_port.models.batches import ahead
from e2v_port.models.cache import OutputCache
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.models.profiles import completed
from e2v_port.prosody.baseline import Baseline
from e2v_port.prosody.judge import judge as judge_prosody
from e2v_port.prosody.measure import MIN_SECONDS, Prosody, measure
from e2v_port.speakers.diarize import Speakers
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech.segment import GivenSegment, Segment, SegmentSettings
from e2v_port.speech.transcripts import read_segments
from e2v_port.transcribe.valence import Scorer, TextValence
from e2v_port.transcribe.words import Reader, Transcript, Word

__all__ = ["Options", "analyze", "each"]

_CHECKED = 60.0  # seconds of speech that the models judge between two looks at the clock, where there is a timeout
VOICES = "bundled-voices"  # the speaker encoder of the package


class Options(TypedDict, total=False):
    """Options of `each`, which `analyze` takes as well."""

    model: str | Path | Model | None
    dimensional: str | Path | Model | None
    runtime: str
    dtype: str | None
    labels: str | Iterable[str] | None
    segments: Sequence[GivenSegment] | str | Path | None
    whole: bool
    frames: bool
    sampling_rate: int | None
    channel: int | str
    settings: SegmentSettings | None
    fusion: FusionSettings | None
    boundaries: BoundarySettings | None
    adapt: bool | Adapting
    baseline: Baselines
    prosody: bool
    words: str | Path | Reader | None
    language: str | None
    text_valence: Scorer | None
    speakers: bool | str | Path | Model | Speakers | None
    speaker_count: int | None
    enrolled: KnownVoices | None
    events: str | Path | Model | EventDetector | None
    offline: bool
    profile: str | None
    timeout: float | None
    cache: str | Path | OutputCache | None
    together: bool


@overload
def analyze(clips: Clip, **options: Unpack[Options]) -> Analysis: ...
@overload
def analyze(clips: list[Clip] | tuple[Clip, ...], **options: Unpack[Options]) -> list[Analysis]: ...
def analyze(clips: Clip | list[Clip] | tuple[Clip, ...], **options: Unpack[Options]) -> Analysis | list[Analysis]:
    """Finds the segments of speech in one clip, or in each clip of a list, and judges the emotion of each.

    Args:
        clips: A path, a binary file object or an array of samples; or a list of these, whose segments go through the
            models together.
        options: `model`, `dimensional` or both, and any other option of `each`. Without both, the bundled model is
            used.

    Returns:
        An Analysis; for a list, one per clip in its order. For a clip without speech, its `reason` says so.

    Raises:
        AudioError: A clip cannot be used. Nothing is returned for the other clips; `each` skips it instead.
        E2VError: See `each`.
    """
    if not isinstance(clips, (list, tuple)):
        return analyze([clips], **options)[0]
    analyses: list[Analysis] = []
    for result in each(clips, **options):
        if isinstance(result, AudioError):
            raise result
        analyses.append(result)
    return analyses


def each(
    clips: Iterable[Clip | Sounds],
    *,
    model: str | Path | Model | None = None,
    dimensional: str | Path | Model | None = None,
    runtime: str = "auto",
    dtype: str | None = None,
    labels: str | Iterable[str] | None = None,
    segments: Sequence[GivenSegment] | str | Path | None = None,
    whole: bool = False,
    frames: bool = False,
    sampling_rate: int | None = None,
    channel: int | str = "mix",
    settings: SegmentSettings | None = None,
    fusion: FusionSettings | None = None,
    boundaries: BoundarySettings | None = None,
    adapt: bool | Adapting = False,
    baseline: Baselines = None,
    prosody: bool = False,
    words: str | Path | Reader | None = None,
    language: str | None = None,
    text_valence: Scorer | None = None,
    speakers: bool | str | Path | Model | Speakers | None = None,
    speaker_count: int | None = None,
    enrolled: KnownVoices | None = None,
    events: str | Path | Model | EventDetector | None = None,
    offline: bool = False,
    profile: str | None = None,
    timeout: float | None = None,
    cache: str | Path | OutputCache | None = None,
    together: bool = True,
) -> Iterator[Analysis | AudioError]:
    """Analyzes any number of clips, and continues after a clip that cannot be used.

    Clips are read as they are needed; a few batches of them are in memory at a time, and the segments of all of those
    run together. The label and scores of a segment equal those of `Model.predict` for that part of the waveform.

    Args:
        clips: Clips as for `analyze`.
        model: Model that gives labels: a name or folder for `load`, or a loaded model.
        dimensional: Model that measures arousal, dominance and valence, in the same forms. One of the two may be left
            out; without both, `model` is `bundled`.
        runtime: Runtime of the models to load, as for `load`.
        dtype: Type of their arithmetic, as for `load`.
        labels: Labels that the answers of `model` are limited to, as for `Model.limited`; by default all of them.
        segments: Segments of the one clip, instead of those found in it; or the file that holds them. One that names
            a channel is judged on that channel.
        whole: Whether to judge each clip as one segment, whatever its length and whether or not it holds speech.
        frames: Whether to find where the emotion changes within a segment, from the frames of `model`.
        sampling_rate: Sampling rate of arrays, in Hz; files bring their own.
        channel: `mix`, `left`, `right`, a number from 1, as for `e2v_port.audio.load_audio`; or `each`, which analyzes
            every channel on its own, as that of one speaker: `left` and `right`, or `channel N`. Segments of different
            channels may overlap.
        settings: Thresholds and lengths of segments.
        fusion: Settings of the fusion.
        boundaries: How the scores of frames become boundaries.
        adapt: Whether to adapt to each voice: the offset of each speaker of a clip is learned from all segments of that
            speaker in it, and taken off. Segments without a speaker count as those of one. Notes of the analysis say
            who was adapted to, or why not: see docs/adaptation.md. Or a function that adapts the results of a clip.
        baseline: Baselines of speakers, or their files. One with an offset is used instead of learning it; the last one
            also serves for speech without a speaker.
        prosody: Whether to measure the voice of each judged segment of at least 0.1 s: pitch, tempo, pauses and more,
            see docs/prosody.md. Its `reasons` name what is unusual, compared with the baseline of its speaker if there
            is one. The judgements do not depend on it.
        words: Recognizer that reads what is said: the name or folder of a model, as for
            `e2v_port.transcribe.load.load`, or a loaded one. Only segments of speech are read, on their channel, from
            the sound that the models hear.
        language: Code of the language that is spoken; None to detect it in each clip. The words of given segments are
            of an unknown language without it.
        text_valence: Function that scores a text from unpleasant (-1) to pleasant (1), for `Turn.wording`. By default
            it is VADER for English words, and no other language is scored: see docs/wording.md.
        speakers: Whether to name the speakers by their voices, and to split segments where the speaker changes; or the
            speaker encoder to do it with, by default `bundled-voices`; or Speakers with settings of their own.
        speaker_count: Number of speakers in each clip; None to estimate it.
        enrolled: Enrolled voices: segments of theirs get their names, whatever a caller called them; with
            `KnownVoices.only`, those of nobody else are judged or read. Without `speakers`, no segment is split.
        events: Model that hears sounds besides speech, such as laughter and music: a name or folder for `load`, a
            loaded model, or an `e2v_port.analysis.events.EventDetector` with its own settings. They are not judged;
            where they cover speech, its judgement is less certain.
        offline: Whether to never open a connection.
        profile: `fast`, `balanced`, `accurate` or `research`: chooses the models, their dtype, the words and the
            timeout, see docs/profiles.md. Any of these options that is given wins; `none` as `dimensional` or `words`,
            and 0 as `timeout`, switch off what the profile would choose.
        timeout: Most seconds that may be spent on one clip; None or 0 for no limit. It is checked while the clip is
            decoded, after speech is found, after its words are read, and between batches of the models: a clip over it
            is an AudioError, and the next one is begun. Nothing stops a step that hangs: `e2v_port.isolation` does.
        cache: Folder of model outputs that are not computed again, see `e2v_port.models.cache.OutputCache`.
        together: Whether the segments of several clips run together, which is faster. False finishes each clip before
            the next one is taken from `clips`, as where they come one after the other.

    Returns:
        An iterator that yields, for each clip in order, its Analysis or the AudioError that stopped it.

    Raises:
        NoLabels: A model is of another kind than it is used as, or `model` does not have the `labels`.
        SegmentError: The given segments cannot be used; some of this shows only when the clip is read.
        BaselineError: A baseline cannot be read, or was learned with another model.
        AudioError: The channel is unknown. A clip without it stops that clip alone.
        ValueError: Options contradict each other.
        TypeError: Clips or an option are of another type.
        E2VError: See `load`.
    """
    need("settings", settings, SegmentSettings, None)
    need("fusion", fusion, FusionSettings, None)
    need("boundaries", boundaries, BoundarySettings, None)
    if profile is not None:
        model, dimensional, dtype, words, timeout = completed(
            profile, model=model, dimensional=dimensional, dtype=dtype, words=words, timeout=timeout
        )
    limit = None if timeout is None else number("timeout", timeout, 0) or None
    need("cache", cache, str, Path, OutputCache, None)
    if frames and model is None and dimensional is not None:
        raise ValueError("frames=True needs a model that gives labels: pass model=")
    check_clips(clips)
    given = None
    if segments is not None:
        clips = list(clips)
        given = _given(segments, len(clips), whole)
    request = Request(channel, given, whole)
    reader = _reader(words, language, given, offline)
    naming = _naming(speakers, speaker_count, request, runtime, offline)
    if model is None and dimensional is None:
        model = _bundled()
    judge = Judge.load(model, dimensional, fusion, runtime=runtime, dtype=dtype, labels=labels, offline=offline)
    if frames:
        judge.models[CATEGORICAL].need_judged_frames()
    if events is not None and not isinstance(events, EventDetector):
        loaded = judge.models.get(CATEGORICAL) if events == model else None
        events = EventDetector(loaded or events, runtime=runtime, dtype=dtype, offline=offline)
    chosen = AnalysisSettings(
        source="whole" if whole else "speech" if given is None else "given",
        segments=settings or SegmentSettings(),
        fusion=judge.fusion,
        boundaries=(boundaries or BoundarySettings()) if frames else None,
        events=events.settings if events else None,
    )
    return _Analyzer(
        judge,
        chosen,
        request,
        adapting=_adapting(judge, adapt, baseline),
        saying=_Saying(reader, language, TextValence(text_valence)),
        naming=naming,
        known=enrolled,
        voices=read_baselines(baseline) if prosody else None,
        events=events,
        timeout=limit,
        cache=OutputCache(cache) if isinstance(cache, str | Path) else cache,
        together=together,
    ).each(clips, sampling_rate)


def _reader(
    words: str | Path | Reader | None, language: str | None, given: Sequence[GivenSegment] | None, offline: bool
) -> Reader | None:
    """Returns the recognizer of words, after checking that it fits the other options."""
    if words is None:
        if language is not None and not any(segment.text is not None for segment in given or ()):
            raise ValueError("language= belongs to words= or to segments with texts: pass one of them, or leave it out")
        return None
    if any(segment.text is not None for segment in given or ()):
        raise SegmentError("the given segments have their words: do not read them again, or leave their texts out")
    return opened(words, language, offline)


def _naming(
    speakers: bool | str | Path | Model | Speakers | None,
    count: int | None,
    request: Request,
    runtime: str,
    offline: bool,
) -> Speakers | None:
    """Returns what names the speakers, after checking that it fits the other options."""
    if speakers is None or speakers is False:
        if count is not None:
            raise ValueError("speaker_count= belongs to speakers=: pass both, or leave it out")
        return None
    if request.channel == "each":
        raise ValueError("speakers= and channel='each' contradict each other: there, each channel is a speaker")
    if request.whole:
        raise ValueError("speakers= and whole=True contradict each other: leave one of them out")
    if isinstance(speakers, Speakers):
        if count is not None:
            raise ValueError("a Speakers object has its count: leave speaker_count= out")
        return speakers
    if not isinstance(speakers, Model):
        speakers = load(VOICES if speakers is True else speakers, runtime=runtime, offline=offline)
    return Speakers(speakers, count=count)


def _adapting(judge: Judge, adapt: bool | Adapting, given: Baselines) -> Adapting | None:
    """Returns what adapts the results of a clip; the voices of each clip are learned anew."""
    baselines = read_baselines(given)
    if not isinstance(adapt, bool):
        return adapt
    if not adapt and not any(baseline.offset for baseline in baselines.values()):
        return None
    Voices(judge, baselines, learn=adapt)  # errors come before any clip is read

    def adapting(parts: Sequence[tuple[str | None, JudgedWaveform]]) -> tuple[list[JudgedWaveform], list[Note]]:
        voices = Voices(judge, baselines, learn=adapt)
        for speaker, result in parts:
            voices.hear(speaker, result.prediction)
        speakers = dict.fromkeys(speaker for speaker, _ in parts)
        return [voices.adapted(*part) for part in parts], [*map(voices.note, speakers)]

    return adapting


def _given(segments: Sequence[GivenSegment] | str | Path, clips: int, whole: bool) -> list[GivenSegment]:
    """Returns the given segments, after checking that they fit the other options."""
    if whole:
        raise ValueError("segments= and whole=True contradict each other: leave one of them out")
    if clips != 1:
        raise ValueError(f"segments= belong to one clip, not to {clips}: analyze them one at a time")
    if isinstance(segments, str | Path):
        return read_segments(segments)
    given = list(segments) if isinstance(segments, Iterable) else [segments]
    for item in given:
        if not isinstance(item, GivenSegment):
            raise SegmentError(f"{quoted(item)} is no segment: pass GivenSegment(start, end), or a file")
    return given


def _bundled() -> Path:
    """Returns the folder of the bundled model; a folder of that name where the program runs is not meant."""
    if folder := catalog.find(catalog.BUNDLED):
        return folder
    raise ModelNotFound("no model given and bundled is missing from the package: pass --model (see `e2v models`)")


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
class _Saying:
    """What reads words and weighs them; `language` is that of words which were given."""

    reader: Reader | None
    language: str | None
    valence: TextValence


class _Analyzer:
    def __init__(
        self,
        judge: Judge,
        settings: AnalysisSettings,
        request: Request,
        *,
        adapting: Adapting | None,
        saying: _Saying,
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
            self._check_time(name, time.perf_counter() - started, "while it was decoded")

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
            found = read(sounds, work.segments, self.saying.reader)
            work.words, work.transcript, work.languages = found.words, found.transcript, found.languages
            work.notes = (*work.notes, *found.notes)
            timings["words"] = time.perf_counter() - started
            self._check_time(name, sum(timings.values()), "once its words were read")
        timings |= dict.fromkeys([*self.models, "fusion"], 0.0)
        return work

    def _check_time(self, name: str, spent: float, when: str) -> None:
        """Raises AudioError for a clip on which more than the timeout was spent."""
        if self.timeout is not None and spent > self.timeout:
            raise AudioError(f"{name}: over the time limit of {self.timeout:g} s: stopped after {spent:.1f} s, {when}")

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
            strangers = (each for each in work.segments if each.channel == channel and each.quality == "not_enrolled")
            barred = [(each.start, each.end) for each in strangers]
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

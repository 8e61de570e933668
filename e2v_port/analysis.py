"""What is in a voice, when, and how sure: segments of speech, judged by one model or two."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from e2v_port import catalog, context, devices
from e2v_port import segments as speech
from e2v_port.audio import SAMPLING_RATE, Clip, Waveform, clip_name, load_audio
from e2v_port.boundaries import Boundary, BoundarySettings, boundaries
from e2v_port.config import ModelConfig
from e2v_port.emotions import Dimensions
from e2v_port.errors import AudioError, ModelNotFound
from e2v_port.fusion import FusionSettings, Judgement, fuse
from e2v_port.model import Model, Output, Prediction, ahead, load, softmax, tell_licence
from e2v_port.segments import GivenSegment, Quality, Segment, SegmentSettings
from e2v_port.transcripts import read_segments

if TYPE_CHECKING:
    from e2v_port.prosody import Prosody

__all__ = ["Analysis", "AnalysisSettings", "JudgedSegment", "Options", "UsedModel", "analyze", "each", "unjudged"]


@dataclass(frozen=True)
class UsedModel:
    """A model that an analysis was made with.

    Attributes:
        kind: `categorical` or `dimensional`.
        name: Its repository.
        dtype: Of its weights.
        runtime: What it ran on.
        licence: Of its weights.
    """

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str

    @classmethod
    def of(cls, kind: str, model: Model) -> "UsedModel":
        """Describes a loaded model."""
        return cls(kind, model.config.source.repository, model.dtype, model.runtime, model.config.licence)


@dataclass(frozen=True)
class AnalysisSettings:
    """Everything an analysis depends on beside clip and models.

    Attributes:
        source: Where the segments come from: `speech` found in the clip, `given` by the caller, or the `whole` clip.
        segments: Thresholds and lengths of segments.
        fusion: Thresholds and factors of the judgement.
        boundaries: How frames become boundaries; None where they were not asked for.
    """

    source: str
    segments: SegmentSettings
    fusion: FusionSettings
    boundaries: BoundarySettings | None


@dataclass(frozen=True)
class JudgedSegment:
    """A stretch of a clip, and what the models say of it. What no model said, and nothing follows from, is None.

    Attributes:
        start: Seconds from the start of the clip.
        end: Seconds.
        quality: How far the judgement can be trusted, as in `e2v_port.segments.Segment`.
        speaker: Who speaks, if that was given.
        text: What is said, if that was given.
        judgement: Of both models together; None for a segment that is too short or holds no speech.
        prediction: Of the categorical model by itself, before fusion.
        prosody: Measures of the voice; None unless they were asked for, as `EmotionDetector` does.
        reasons: What follows from these, in words such as `elevated pitch`.
    """

    start: float
    end: float
    quality: Quality
    speaker: str | None
    text: str | None
    judgement: Judgement | None
    prediction: Prediction | None = field(default=None, repr=False)
    prosody: "Prosody | None" = field(default=None, repr=False)
    reasons: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Length in seconds."""
        return round(self.end - self.start, 7)

    @property
    def emotion(self) -> str | None:
        """The categorical model's most probable label."""
        return self.judgement.primary if self.judgement else None

    @property
    def confidence(self) -> float | None:
        """Of that label, after fusion, 0 to 1."""
        return self.judgement.confidence if self.judgement else None

    @property
    def compound(self) -> str | None:
        """That label refined by measured arousal and dominance."""
        return self.judgement.compound if self.judgement else None

    @property
    def dimensions(self) -> Dimensions | None:
        """Raw outputs of the dimensional model, or derived from the labels: `dimensions_from` tells."""
        return self.judgement.dimensions if self.judgement else None

    @property
    def dimensions_from(self) -> str | None:
        """`model` if they were measured; `labels` if they follow from the labels, and are no more than these say."""
        return self.judgement.dimensions_from if self.judgement else None

    @property
    def arousal(self) -> float | None:
        """From calm, 0, to activated, 1."""
        return self.dimensions.arousal if self.dimensions else None

    @property
    def dominance(self) -> float | None:
        """From controlled, 0, to in control, 1."""
        return self.dimensions.dominance if self.dimensions else None

    @property
    def valence(self) -> float | None:
        """From unpleasant, 0, to pleasant, 1."""
        return self.dimensions.valence if self.dimensions else None

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {
            "start": self.start,
            "end": self.end,
            "quality": self.quality,
            "speaker": self.speaker,
            "text": self.text,
            "emotion": self.emotion,
            "confidence": self.confidence,
            "compound": self.compound,
            "arousal": self.arousal,
            "dominance": self.dominance,
            "valence": self.valence,
            "dimensions_from": self.dimensions_from,
            "judgement": self.judgement.to_dict() if self.judgement else None,
        }


@dataclass(frozen=True)
class Analysis:
    """What was found in one clip.

    Attributes:
        file: What the clip is called.
        duration: Of the clip, in seconds.
        segments: In order of time; those that could not be judged are among them and marked.
        boundaries: Which emotion when, inside the judged segments; None unless asked for.
        reason: Why no segment was judged; None if one was.
        models: The categorical model, the dimensional model, or both in this order.
        settings: All thresholds.
        timings: Seconds spent on the clip by stage. Clips that ran in one batch share its time by their speech.
    """

    file: str
    duration: float
    segments: tuple[JudgedSegment, ...]
    boundaries: tuple[Boundary, ...] | None
    reason: str | None
    models: tuple[UsedModel, ...]
    settings: AnalysisSettings
    timings: Mapping[str, float]

    def __repr__(self) -> str:
        judged = sum(segment.judgement is not None for segment in self.segments)
        what = self.reason or f"{judged} of {len(self.segments)} segments judged"
        return f"Analysis({self.file}; {self.duration:.2f} s; {what}; {self.to_context()})"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, strings and floats, as JSON holds them."""
        return {
            "file": self.file,
            "duration": self.duration,
            "reason": self.reason,
            "segments": [segment.to_dict() for segment in self.segments],
            "boundaries": None if self.boundaries is None else [part.to_dict() for part in self.boundaries],
            "models": [asdict(model) for model in self.models],
            "settings": asdict(self.settings),
            "timings": dict(self.timings),
        }

    def to_context(self, *, long: bool = False) -> str:
        """Tells a language model in one line how the voice sounds, or in a few: see `e2v_port.context`."""
        return (context.report if long else context.line)(self.segments, self.settings.fusion)


class Options(TypedDict, total=False):
    """The options of `each`, which `analyze` takes as well."""

    model: str | Path | Model | None
    dimensional: str | Path | Model | None
    runtime: str
    dtype: str | None
    segments: Sequence[GivenSegment] | str | Path | None
    whole: bool
    frames: bool
    sampling_rate: int | None
    settings: SegmentSettings | None
    fusion: FusionSettings | None
    boundaries: BoundarySettings | None
    offline: bool


@overload
def analyze(clips: Clip, **options: Unpack[Options]) -> Analysis: ...
@overload
def analyze(clips: list[Clip] | tuple[Clip, ...], **options: Unpack[Options]) -> list[Analysis]: ...
def analyze(clips: Clip | list[Clip] | tuple[Clip, ...], **options: Unpack[Options]) -> Analysis | list[Analysis]:
    """Says what is in the voice of one clip, or of each clip of a list: which emotion, when, how sure.

    Args:
        clips: A path, a binary file object or an array of samples; or a list of these, whose segments go through the
            models together.
        options: `model`, `dimensional` or both, and what else `each` takes. With neither of the two it is the small
            model in the package that says what it hears.

    Returns:
        An Analysis; for a list, one per clip in its order. A clip without speech has one too, which says so.

    Raises:
        AudioError: A clip cannot be used. Nothing is returned for the others: see `each`.
        E2VError: As for `each`.
    """
    if not isinstance(clips, (list, tuple)):
        return analyze([clips], **options)[0]
    found: list[Analysis] = []
    for result in each(clips, **options):
        if isinstance(result, AudioError):
            raise result
        found.append(result)
    return found


def each(
    clips: Iterable[Clip],
    *,
    model: str | Path | Model | None = None,
    dimensional: str | Path | Model | None = None,
    runtime: str = "auto",
    dtype: str | None = None,
    segments: Sequence[GivenSegment] | str | Path | None = None,
    whole: bool = False,
    frames: bool = False,
    sampling_rate: int | None = None,
    settings: SegmentSettings | None = None,
    fusion: FusionSettings | None = None,
    boundaries: BoundarySettings | None = None,
    offline: bool = False,
) -> Iterator[Analysis | AudioError]:
    """Analyses any number of clips, and goes on where one of them cannot be used.

    Clips are read as they are needed; a few batches of them are in memory at a time, and segments of all of those
    run together. What is said of a segment is what `Model.predict` says of that part of the waveform.

    Args:
        clips: As for `analyze`.
        model: Gives labels: a name or folder as for `load`, or a loaded model.
        dimensional: Gives arousal, dominance and valence: likewise. One of the two may be left out; where both are,
            `model` is `bundled`, the small one in the package, and a line on stderr says so once.
        runtime: For models that are not loaded yet, as for `load`.
        dtype: Likewise.
        segments: Of the one clip, instead of those found in it; or the file they are in.
        whole: Take each clip as one segment, however short or long; whether there is speech in it is not asked.
        frames: Also tell which emotion when, inside the segments, from the categorical model's frames.
        sampling_rate: Of arrays, in Hz; files bring their own.
        settings: Of segments.
        fusion: Of the judgement.
        boundaries: Of the frames.
        offline: Never open a connection.

    Returns:
        An iterator that gives, for each clip, in order, its Analysis or the AudioError that stopped it.

    Raises:
        NoLabels: A model is not of the kind it is to be used as.
        SegmentError: The given segments cannot be used; some of it is noticed only when the clip is read.
        ValueError: Options that contradict each other.
        E2VError: As for `load`.
    """
    if frames and model is None and dimensional is not None:
        raise ValueError("frames=True needs model=, one that gives labels")
    given = None
    if segments is not None:
        clips = list(clips)
        if whole:
            raise ValueError("segments= and whole=True contradict each other: leave one of them out")
        if len(clips) != 1:
            raise ValueError(f"segments= belong to one clip, not {len(clips)}: analyse them one at a time")
        given = read_segments(segments) if isinstance(segments, str | Path) else list(segments)
    if model is None and dimensional is None:
        model = _bundled(runtime, dtype)
    categorical = _loaded(model, runtime, dtype, offline)
    if categorical:
        categorical.need_labels()
    dimensional = _loaded(dimensional, runtime, dtype, offline)
    if dimensional:
        dimensional.need_dimensions()
    chosen = AnalysisSettings(
        source="whole" if whole else "speech" if given is None else "given",
        segments=settings or SegmentSettings(),
        fusion=fusion or FusionSettings(),
        boundaries=(boundaries or BoundarySettings()) if frames else None,
    )
    return _Analyzer(categorical, dimensional, chosen, given).each(clips, sampling_rate)


def _loaded(model: str | Path | Model | None, runtime: str, dtype: str | None, offline: bool) -> Model | None:
    if isinstance(model, str | Path):
        return load(model, runtime=runtime, dtype=dtype, offline=offline)
    return model


def _bundled(runtime: str, dtype: str | None) -> Path:
    """Returns the folder of the model in the package, after saying what it is: nobody has asked for it."""
    folder, known = catalog.find(catalog.BUNDLED), catalog.lookup(catalog.BUNDLED)
    if folder is None or known is None:
        raise ModelNotFound("no model is named, and the one of the package is not there: name one, see e2v models")
    devices.choose(runtime, dtype)  # before the line is printed: an error stands alone
    config = ModelConfig.read(folder)
    size = f"{known.parameters / 1e6:.1f} M parameters"
    line = f"model {known.id} ({size}, {config.licence}); for the large ones: --model iic/emotion2vec_plus_base"
    tell_licence(config, line)
    return folder


@dataclass
class _Work:
    """A clip on its way."""

    name: str
    waveform: Waveform
    segments: list[Segment]
    timings: dict[str, float]
    predictions: dict[int, Prediction] = field(default_factory=dict)  # by the number of the segment
    dimensions: dict[int, Dimensions] = field(default_factory=dict)
    frames: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    error: AudioError | None = None

    def judged(self) -> list[int]:
        return [i for i, segment in enumerate(self.segments) if segment.quality in {"normal", "low_confidence"}]


class _Analyzer:
    def __init__(
        self,
        categorical: Model | None,
        dimensional: Model | None,
        settings: AnalysisSettings,
        given: list[GivenSegment] | None,
    ) -> None:
        self.categorical, self.dimensional, self.settings, self.given = categorical, dimensional, settings, given
        kinds = {"categorical": categorical, "dimensional": dimensional}
        self.models = {kind: model for kind, model in kinds.items() if model}
        self.label_set = context.label_set(categorical.labels) if categorical else None

    def each(self, clips: Iterable[Clip], sampling_rate: int | None) -> Iterator[Analysis | AudioError]:
        readers = max(model.readers for model in self.models.values())
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
        """Puts together what runs together: lists, of which the last may be empty."""
        most = min(model.window_seconds for model in self.models.values()) * SAMPLING_RATE
        window: list[_Work | AudioError] = []
        for item in items:
            window.append(item)
            del item  # no name but the window's for a clip, which would keep one of hours while the next is read
            if sum(len(item.waveform) for item in window if isinstance(item, _Work)) >= most:
                yield window
                window = []
        yield window

    def _read(self, sampling_rate: int | None, clip: Clip) -> _Work | AudioError:
        try:
            return self._segmented(clip, sampling_rate)
        except AudioError as error:
            return error

    def _segmented(self, clip: Clip, sampling_rate: int | None) -> _Work:
        started = time.perf_counter()
        waveform = load_audio(clip, sampling_rate)
        decoded = time.perf_counter()
        settings, duration = self.settings.segments, len(waveform) / SAMPLING_RATE
        if self.settings.source == "whole":
            segments = [Segment(0.0, duration, "low_confidence" if duration < settings.low_confidence else "normal")]
        elif self.given is not None:
            segments = speech.from_given(self.given, waveform, settings)
        else:
            segments = speech.detect(waveform, settings)
        timings = {"decode": decoded - started, "speech": time.perf_counter() - decoded}
        return _Work(clip_name(clip), waveform, segments, timings | dict.fromkeys(self.models, 0.0))

    def _finished(self, window: list[_Work | AudioError]) -> list[Analysis | AudioError]:
        works = [work for work in window if isinstance(work, _Work)]
        for kind, model in self.models.items():
            self._run(kind, model, works)
        return [(item.error or self._analysis(item)) if isinstance(item, _Work) else item for item in window]

    def _run(self, kind: str, model: Model, works: list[_Work]) -> None:
        """Runs the segments of several clips together."""
        parts = [(work, i) for work in works for i in work.judged()]
        started = time.perf_counter()
        clips: Iterator[Clip] = (work.waveform[work.segments[i].samples] for work, i in parts)
        frames = kind == "categorical" and self.settings.boundaries is not None
        for (work, i), result in zip(parts, model.each(clips, SAMPLING_RATE, frames=frames), strict=True):
            if isinstance(result, AudioError):  # resampled, it went beyond what a clip may hold
                work.error = AudioError(f"{work.name}: {result}")
            elif kind == "dimensional":
                work.dimensions[i] = model.measure(result)
            else:
                work.predictions[i] = model.judge(result)
                if frames:
                    work.frames[i] = _frame_scores(model, result[1])
        spent = time.perf_counter() - started
        total = sum(work.segments[i].duration for work, i in parts)
        for work, i in parts:
            work.timings[kind] += spent * work.segments[i].duration / total

    def _analysis(self, work: _Work) -> Analysis:
        started = time.perf_counter()
        judged = set(work.judged())
        segments = []
        for i, segment in enumerate(work.segments):
            prediction, dimensions = work.predictions.get(i), work.dimensions.get(i)
            judgement = None
            if i in judged:
                fusion = self.settings.fusion
                judgement = fuse(prediction, dimensions, segment.duration, fusion, label_set=self.label_set)
            place = (segment.start, segment.end, segment.quality, segment.speaker, segment.text)
            segments.append(JudgedSegment(*place, judgement, prediction))
        found = None
        if self.settings.boundaries is not None:
            found = tuple(part for i in sorted(work.frames) for part in self._boundaries(work, i))
        work.timings["fusion"] = time.perf_counter() - started
        return Analysis(
            file=work.name,
            duration=len(work.waveform) / SAMPLING_RATE,
            segments=tuple(segments),
            boundaries=found,
            reason=None if judged else unjudged(work.segments, self.settings),
            models=tuple(UsedModel.of(kind, model) for kind, model in self.models.items()),
            settings=self.settings,
            timings=work.timings,
        )

    def _boundaries(self, work: _Work, i: int) -> list[Boundary]:
        assert self.categorical is not None
        segment = work.segments[i]
        hop = self.categorical.config.architecture.hop / SAMPLING_RATE
        span = (segment.start, segment.end)
        return boundaries(work.frames[i], self.categorical.labels, span, hop, self.settings.boundaries)


def unjudged(segments: Sequence[Segment], settings: AnalysisSettings) -> str:
    """Says in one line why none of these segments can be judged."""
    if not segments:
        return "no segments given" if settings.source == "given" else "no speech found"
    short = sum(segment.quality == "too_short" for segment in segments)
    silent = len(segments) - short
    reasons = [f"{short} shorter than {settings.segments.min_duration:g} s"] if short else []
    reasons += [f"{silent} without speech"] if silent else []
    return f"no segment can be judged: {', '.join(reasons)}"


def _frame_scores(model: Model, output: Output) -> NDArray[np.float64]:
    """Probabilities of the used labels for each frame: [frames, labels]."""
    assert output.frame_logits is not None
    used = [not label.unused for label in model.config.labels]
    return softmax(output.frame_logits[:, used], model.config.temperature)

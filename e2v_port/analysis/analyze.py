"""Analyzes recordings: finds segments of speech and judges each with one model or two."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict, Unpack, overload

from e2v_port.analysis.analyzer import Analyzer, Saying
from e2v_port.analysis.events import EventDetector
from e2v_port.analysis.judge import CATEGORICAL, Judge, JudgedWaveform
from e2v_port.analysis.reading import opened
from e2v_port.analysis.results import Analysis, AnalysisSettings
from e2v_port.analysis.sounds import Request, Sounds
from e2v_port.analysis.voices import Adapting, Baselines, Voices, read_baselines
from e2v_port.audio import Clip, Note
from e2v_port.audio.clip import check_clips
from e2v_port.checkpoints import catalog
from e2v_port.emotions.changes import BoundarySettings
from e2v_port.emotions.fusion import FusionSettings
from e2v_port.errors import AudioError, ModelNotFound, SegmentError, need, number, quoted
from e2v_port.models.cache import OutputCache
from e2v_port.models.load import load
from e2v_port.models.model import Model
from e2v_port.models.profiles import completed
from e2v_port.speakers.diarize import Speakers
from e2v_port.speakers.known import KnownVoices
from e2v_port.speech.segment import GivenSegment, SegmentSettings
from e2v_port.speech.transcripts import read_segments
from e2v_port.transcribe.valence import Scorer, TextValence
from e2v_port.transcribe.words import Reader

__all__ = ["Options", "analyze", "each"]

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
    need("enrolled", enrolled, KnownVoices, None)
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
    return Analyzer(
        judge,
        chosen,
        request,
        adapting=_adapting(judge, adapt, baseline),
        saying=Saying(reader, language, TextValence(text_valence)),
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

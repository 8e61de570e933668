"""e2v analyze, e2v embed and e2v outputs."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import (
    Adapt,
    BaselineFiles,
    ChannelName,
    ChannelOrEach,
    DimensionalName,
    DtypeName,
    Enrolled,
    LabelNames,
    MaxGain,
    ModelName,
    Offline,
    OnlyEnrolled,
    ProfileName,
    RosterFile,
    RuntimeName,
    SpeechThreshold,
    completed,
    known_voices,
    segment_settings,
)
from e2v_port.cli.output import complain, fail, finish, model_or_bundled, need_folder, need_place, progress_bar
from e2v_port.errors import AudioError
from e2v_port.files import printable, replacing
from e2v_port.lines import one_line

if TYPE_CHECKING:
    from e2v_port.analysis.judged import JudgedSegment
    from e2v_port.analysis.results import Analysis
    from e2v_port.analysis.sounds import Sounds
    from e2v_port.audio import Waveform

__all__ = ["analyze", "embed", "outputs"]

# Strings, not paths: results carry the names as given, and Path("./a.wav") would become "a.wav".
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Audio files.", show_default=False)]


SegmentsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Read the segments of a single audio file from a diarization, subtitles or a transcript."
    ),
]
Whole = Annotated[bool, typer.Option("--whole", help="Judge each file as one segment; print one line with all scores.")]
Frames = Annotated[bool, typer.Option("--frames", help="Also show where the emotion changes within a segment.")]
Diarize = Annotated[
    bool,
    typer.Option(
        "--diarize",
        help="Show which emotion appears when in the whole file: the most probable label of each frame, unsmoothed.",
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="NAME",
        help="Output format: json, jsonl, csv, turns, md, vtt, srt, textgrid, audacity or rttm.",
    ),
]
FormatFile = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the --format to a file.")]
Plot = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Draw a single audio file as a .png, .svg or .pdf picture.")
]
Words = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Also read the words, with Whisper (tiny.en, base, ... large-v3) or SenseVoice (iic/SenseVoiceSmall), by "
        "name or folder. Without MODEL: base.",
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="Language of the words, such as en; by default detected, unknown for --segments with words.",
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Most seconds for one file, checked between steps: the others continue. Default: no limit, or that of the "
        "profile; 0 for none.",
        show_default=False,
    ),
]
Isolate = Annotated[
    bool,
    typer.Option(
        "--isolate",
        help="Analyze in a process of its own: a --timeout stops whatever it does, and a file that crashes it is one "
        "line.",
    ),
]
Retries = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="With --isolate: try a file again whose process was killed from outside, N times. Default: 0.",
        show_default=False,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Keep what the models give, and do not compute it again for the same sound."),
]
BySpeaker = Annotated[
    bool,
    typer.Option("--speakers", help="Name the speakers by their voices; split segments where the speaker changes."),
]
SpeakerModel = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Speaker encoder of --speakers and --enrolled, named as for --model. Default: bundled-voices.",
        show_default=False,
    ),
]
SpeakerCount = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="Number of speakers in each file, for --speakers. Default: estimated.",
        show_default=False,
    ),
]
Events = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Also find laughter, music and the like, with a model that hears them, such as iic/SenseVoiceSmall.",
    ),
]
Prosody = Annotated[bool, typer.Option("--prosody", help="Also measure each voice: pitch, tempo, pauses and more.")]
WithIndicators = Annotated[
    bool,
    typer.Option(
        "--indicators", help="Also summarize how each voice sounds over the file, with uncertainty; implies --prosody."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per file, each as soon as it is ready.")]


def analyze(
    files: Files,
    model: ModelName = None,
    dimensional: DimensionalName = None,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    labels: LabelNames = None,
    segments: SegmentsFile = None,
    channel: ChannelOrEach = "mix",
    whole: Whole = False,
    frames: Frames = False,
    diarize: Diarize = False,
    form: Format = None,
    out: FormatFile = None,
    plot: Plot = None,
    as_json: Json = False,
    adapt: Adapt = False,
    baseline: BaselineFiles = None,
    prosody: Prosody = False,
    indicators: WithIndicators = False,
    words: Words = None,
    language: Language = None,
    speakers: BySpeaker = False,
    speaker_model: SpeakerModel = None,
    speaker_count: SpeakerCount = None,
    events: Events = None,
    enrolled: Enrolled = False,
    only_enrolled: OnlyEnrolled = False,
    roster: RosterFile = None,
    speech_threshold: SpeechThreshold = None,
    max_gain: MaxGain = None,
    offline: Offline = False,
    profile: ProfileName = None,
    timeout: Timeout = None,
    isolate: Isolate = False,
    retries: Retries = None,
    cache: Cache = None,
) -> None:
    """Find the emotions in each file, with times and confidence.

    Without --model or --dimensional, the bundled model is used.
    """
    model, dimensional, dtype, words, timeout = completed(
        profile, model=model, dimensional=dimensional, dtype=dtype, words=words, timeout=timeout
    )
    _check_isolation(isolate, retries, plot, known=enrolled or only_enrolled or roster is not None)
    if (frames or diarize) and dimensional and not model:
        fail(f"--{'diarize' if diarize else 'frames'} needs labels: name a model that gives them with --model")
    if diarize and (frames or segments):
        fail(f"--diarize is about each frame of the whole file: leave out --{'frames' if frames else 'segments'}")
    whole = whole or diarize
    if language and not (words or segments):
        fail("--language is about words: add --words, with Whisper or iic/SenseVoiceSmall, or --segments with texts")
    by_name = enrolled or only_enrolled or roster is not None
    _check_speakers(speakers, speaker_model if not by_name else None, speaker_count, channel, whole)
    settings = segment_settings(speech_threshold, max_gain)
    scores_only = whole and not (form or plot or frames or diarize)
    _check_segments(segments, whole, files)
    _check_format(form, out, as_json, files)
    if indicators:
        _check_indicators(whole, form, files)
    if prosody or indicators:
        _check_prosody(form, scores_only and not as_json)
    _check_plot(plot, files)

    from e2v_port.analysis.analyze import Options, each
    from e2v_port.analysis.indicators import indicators as summarize
    from e2v_port.analysis.sounds import Request
    from e2v_port.emotions.changes import DIARIZATION
    from e2v_port.speech.transcripts import read_segments

    encoder = speaker_model or "bundled-voices"
    known = known_voices(enrolled, only_enrolled, roster, encoder, runtime=runtime, offline=offline)
    request = Request(channel, read_segments(segments) if segments else None, whole)
    # Decoded once, for the analysis and the picture: a pipe can be read only once.
    sounds = request.load(files[0]) if plot else None
    if cache:
        need_folder("--cache", cache)
    options = Options(
        channel=channel,
        model=model,
        dimensional=dimensional,
        runtime=runtime,
        dtype=dtype,
        labels=labels,
        segments=request.given,
        whole=whole,
        frames=frames or diarize,
        adapt=adapt,
        baseline=baseline,
        prosody=prosody or indicators,
        words=words,
        language=language,
        speakers=speakers and (known.encoder if known else speaker_model or True),
        speaker_count=speaker_count,
        events=events,
        enrolled=known,
        settings=settings,
        boundaries=DIARIZATION if diarize else None,
        offline=offline,
        timeout=timeout,
        cache=cache,
    )
    if isolate:
        from e2v_port.isolation.run import each as each_isolated

        results = each_isolated(files, retries=retries or 0, **options)
    else:
        results = each(files if sounds is None else [sounds], **options)
    output = _Output(as_json, form, plot, sounds, scores_only, spaced=len(files) > 1)
    with progress_bar(len(files)) as advance:
        for file, result in zip(files, results, strict=True):
            if isinstance(result, AudioError):
                output.error(file, result)
            else:
                summary = summarize(result, baseline) if indicators else None
                output.show(replace(result, file=file, indicators=summary))
            advance()
    output.write(out)
    finish(len(files), output.failed)


def _check_isolation(isolate: bool, retries: int | None, plot: Path | None, *, known: bool) -> None:
    if retries is not None and not isolate:
        fail("--retries belongs to --isolate: only what was killed from outside is worth another try")
    if isolate and plot:
        fail("--isolate and --plot contradict each other: a picture needs the sound in this process")
    if isolate and known:
        fail("--isolate and --enrolled contradict each other: the voices are compared in this process")


def _check_speakers(speakers: bool, model: str | None, count: int | None, channel: str, whole: bool) -> None:
    for option, given in (("--speaker-model", model is not None), ("--speaker-count", count is not None)):
        if given and not speakers:
            fail(f"{option} belongs to --speakers: add it")
    if count is not None and count < 1:
        fail(f"--speaker-count {count}: there is at least 1 speaker")
    if speakers and channel == "each":
        fail("--speakers and --channel each contradict each other: there, each channel is a speaker")
    if speakers and whole:
        fail("--speakers and --whole or --diarize contradict each other: one segment has one speaker")


def _check_segments(segments: Path | None, whole: bool, files: list[str]) -> None:
    if segments and whole:
        fail("--segments and --whole contradict each other: leave one out")
    if segments and len(files) > 1:
        fail(f"--segments {segments} describes one file, not {len(files)}: analyze them one at a time")


def _check_format(form: str | None, out: Path | None, as_json: bool, files: list[str]) -> None:
    if form and as_json:
        fail("--json and --format contradict each other: --format jsonl gives the same objects, without errors")
    if out and not form:
        fail(f"--out {out}: add a --format")
    if out and out.is_dir():
        fail(f"--out {out}: is a folder, not a file")
    if out:
        need_place("--out", out)
    if form:
        from e2v_port.analysis.output import formats

        if form not in formats.FORMATS:
            fail(f"unknown format {form}: use {', '.join(formats.FORMATS)}")
        if form in formats.ONE_CLIP and len(files) > 1:
            others = ", ".join(name for name in formats.FORMATS if name not in formats.ONE_CLIP)
            fail(f"--format {form} holds one file, not {len(files)}: analyze them one at a time, or use {others}")


def _check_indicators(whole: bool, form: str | None, files: list[str]) -> None:
    from e2v_port.emotions.indicators import refusal

    for file in files:  # `--indicators deception`
        if (why := refusal(file)) and not Path(file).exists():
            fail(why)
    if whole:
        fail("--indicators are about a voice over several segments: leave out --whole and --diarize")
    if form and form not in {"json", "jsonl"}:
        fail(f"--format {form} has no room for --indicators: use json or jsonl, or --prosody with csv")


def _check_prosody(form: str | None, scores_only: bool) -> None:
    from e2v_port.analysis.output.formats import SEGMENTS_IN_FULL

    if form and form not in SEGMENTS_IN_FULL:
        fail(f"--format {form} has no room for --prosody: use {', '.join(sorted(SEGMENTS_IN_FULL))}")
    if scores_only:
        fail("--whole prints scores alone: add --json to --prosody, or --format csv or json")


def _check_plot(plot: Path | None, files: list[str]) -> None:
    if not plot:
        return
    from e2v_port.analysis.output import plots

    if len(files) > 1:
        fail(f"--plot {plot} shows one file, not {len(files)}: analyze them one at a time")
    need_place("--plot", plot)
    try:
        plots.check(plot)
    except ValueError as error:
        fail(f"--plot {error}")


@dataclass
class _Output:
    """Shows each result as soon as it is ready, and writes a `--format` at the end."""

    as_json: bool
    form: str | None
    plot: Path | None
    sounds: "Sounds | None"
    scores_only: bool
    spaced: bool
    failed: int = 0
    analyses: "list[Analysis]" = field(default_factory=list)

    def error(self, file: str, error: AudioError) -> None:
        self.failed += 1
        complain(str(error))
        if self.as_json:
            print(json.dumps({"file": file, "error": str(error)}), flush=True)

    def show(self, analysis: "Analysis") -> None:
        if self.as_json:
            print(json.dumps(analysis.to_dict()), flush=True)
        elif self.scores_only:
            _print_scores(analysis)
        elif self.form:
            self.analyses.append(analysis)
        else:
            _print_timeline(analysis, end="\n" if self.spaced else "")
        if self.plot and self.sounds is not None:
            _draw(analysis, self.sounds.mean, self.plot)

    def write(self, out: Path | None) -> None:
        if self.form and self.analyses:
            _print_format(self.analyses, self.form, out)


def _print_scores(analysis: "Analysis") -> None:
    """Prints the outputs of the models for a whole file, before fusion; a label in doubt is shown in words."""
    for segment in analysis.segments:
        name = f"{printable(analysis.file)} ({segment.speaker})" if segment.speaker else printable(analysis.file)
        print(f"{name}: {_scores(segment)}", flush=True)
        if segment.text:
            print(f"  {one_line(segment.text)}", flush=True)
    for model in analysis.models:
        if model.limited_to:
            print(f"note: probabilities among {', '.join(model.limited_to)} alone", flush=True)
    for event in analysis.events or ():
        print(f"event: {event.name} {event.probability:.3f}, {event.start:.2f} to {event.end:.2f} s", flush=True)
    for note in analysis.notes:
        print(f"note: {note.text}", flush=True)


def _scores(segment: "JudgedSegment") -> str:
    if segment.judgement is None:
        return segment.quality.replace("_", " ")
    prediction = segment.prediction
    dimensions = segment.dimensions if segment.dimensions_from == "model" else None
    parts = [f"{prediction.label} {prediction.confidence:.3f}"] if prediction else []
    if segment.judgement and segment.judgement.doubtful:
        parts = [segment.judgement.words]
    parts += [f"{name} {value:.3f}" for name, value in (dimensions.to_dict() if dimensions else {}).items()]
    if prediction:
        ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
        parts.append(f"[{'  '.join(f'{label} {score:.3f}' for label, score in ranked)}]")
    return "  ".join(parts)


def _print_timeline(analysis: "Analysis", end: str) -> None:
    """Prints a table, or a transcript where there are turns; in color on a terminal, and wrapped to its width."""
    from rich.console import Console

    from e2v_port.analysis.output.terminal import table, transcript

    console = Console(highlight=False, soft_wrap=True)
    ascii_only = console.options.ascii_only
    if analysis.turns is None:
        shown = table(analysis, ascii_only=ascii_only)
    else:
        shown = transcript(analysis, width=console.width if console.is_terminal else None, ascii_only=ascii_only)
    with console.capture() as capture:
        console.print(shown)
    print(capture.get(), end=end, flush=True)


def _print_format(analyses: "list[Analysis]", form: str, out: Path | None) -> None:
    from e2v_port.analysis.output.formats import FORMATS

    text = FORMATS[form](analyses)
    if out is None:
        print(text, end="")
        return
    with replacing(out) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _draw(analysis: "Analysis", waveform: "Waveform", path: Path) -> None:
    from e2v_port.analysis.output.plots import plot

    with replacing(path) as partial:
        plot(analysis, waveform, partial)


NpzFile = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="FILE.npz", help="Output file, with one array per audio file under its name."),
]
Granularity = Annotated[
    Literal["utterance", "frame"],
    typer.Option(help="utterance: one vector [dim] per file. frame: [frames, dim], 50 frames per second."),
]


def embed(
    files: Files,
    out: NpzFile,
    model: ModelName = None,
    granularity: Granularity = "utterance",
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    offline: Offline = False,
) -> None:
    """Write the embedding of each file to an .npz file.

    Without --model, the bundled model is used.
    """
    if out.suffix != ".npz" or out.is_dir():
        fail(f"--out {out}: name an .npz file")
    need_place("--out", out)
    from e2v_port import npz
    from e2v_port.models.load import load

    files = list(dict.fromkeys(files))  # names in an npz are unique
    loaded = load(model_or_bundled(model), runtime=runtime, dtype=dtype, offline=offline)
    failed = 0
    results = loaded.each(files, frames=granularity == "frame", channel=channel)
    with npz.writing(out) as add, progress_bar(len(files)) as advance:
        for file, result in zip(files, results, strict=True):
            if isinstance(result, AudioError):
                failed += 1
                complain(str(result))
            else:
                output = result[1]
                add(file, output.embedding if output.frames is None else output.frames)
            advance()
        if failed == len(files):
            finish(len(files), failed)  # raises, so that no npz is written
    finish(len(files), failed)


OutputNames = Annotated[
    str | None,
    typer.Option(
        "--outputs",
        metavar="NAMES",
        help="Outputs to give, such as events,language. Default: all but age and sex, which have to be named.",
        show_default=False,
    ),
]

_PERSONAL = (
    "estimated from the voice, and wrong for some groups more often than for others: do not decide about people by it"
)


def outputs(
    files: Files,
    model: ModelName = None,
    names: OutputNames = None,
    channel: ChannelName = "mix",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    as_json: Json = False,
    offline: Offline = False,
) -> None:
    """Print what a model gives beside labels, such as events or age.

    Each file is judged as a whole. See docs/models.md for age and sex.
    """
    from e2v_port.models.load import load
    from e2v_port.models.model import SENSITIVE

    loaded = load(model_or_bundled(model), runtime=runtime, dtype=dtype, offline=offline)
    chosen = loaded.need_outputs(None if names is None else [name.strip() for name in names.split(",")])
    if not chosen:
        known = ", ".join(loaded.config.others)
        fail(
            f"{loaded.config.source.repository}: "
            + (f"name what to give: --outputs {known}" if known else "no outputs beside labels")
        )
    personal = [name for name in chosen if name in SENSITIVE]
    about = f"{' and '.join(personal)}: {_PERSONAL}" if personal else None
    failed = 0
    with progress_bar(len(files)) as advance:
        for file, result in zip(files, loaded.each(files, channel=channel, refuse_silence=True), strict=True):
            if isinstance(result, AudioError):
                failed += 1
                complain(str(result))
                row: dict[str, Any] = {"file": file, "error": str(result)}
            else:
                row = {"file": file, "outputs": _shares(loaded.outputs(result, chosen)), "note": about}
            if as_json:
                print(json.dumps(row | {"licence": loaded.config.licence}), flush=True)
            elif "outputs" in row:
                parts = [f"{name} [{_listed(numbers)}]" for name, numbers in row["outputs"].items()]
                print(f"{printable(file)}: {'  '.join(parts)}", flush=True)
            advance()
    if about and not as_json:
        print(f"note: {about} (license of the weights: {loaded.config.licence})", flush=True)
    finish(len(files), failed)


def _shares(outputs: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns outputs with probabilities in place of the logits of classes."""
    import numpy as np

    from e2v_port.emotions.estimates import softmax
    from e2v_port.models.model import CLASSES

    return {
        name: dict(zip(numbers, softmax(np.array([*numbers.values()]), 1.0).tolist(), strict=True))
        if name in CLASSES
        else numbers
        for name, numbers in outputs.items()
    }


def _listed(numbers: dict[str, float]) -> str:
    return "  ".join(f"{name} {number:.3f}" for name, number in numbers.items())

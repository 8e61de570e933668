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
    LabelNames,
    MaxGain,
    ModelName,
    Offline,
    RuntimeName,
    SpeechThreshold,
    segment_settings,
)
from e2v_port.cli.output import complain, fail, finish, model_or_bundled, need_place, progress_bar
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
        metavar="MODEL", help="Also read the words, with a Whisper model: tiny.en, base, ... large-v3, or its folder."
    ),
]
Language = Annotated[
    str | None,
    typer.Option(
        metavar="CODE",
        help="Language of the words, such as en; by default detected, unknown for --segments with words.",
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
    words: Words = None,
    language: Language = None,
    speech_threshold: SpeechThreshold = None,
    max_gain: MaxGain = None,
    offline: Offline = False,
) -> None:
    """Find the emotions in each file, with times and confidence.

    Without --model or --dimensional, the bundled model is used.
    """
    if (frames or diarize) and dimensional and not model:
        fail(f"--{'diarize' if diarize else 'frames'} needs labels: name a model that gives them with --model")
    if diarize and (frames or segments):
        fail(f"--diarize is about each frame of the whole file: leave out --{'frames' if frames else 'segments'}")
    whole = whole or diarize
    if language and not (words or segments):
        fail("--language belongs to --words: name a Whisper model with --words as well")
    settings = segment_settings(speech_threshold, max_gain)
    _check_segments(segments, whole, files)
    _check_format(form, out, as_json, files)
    _check_plot(plot, files)

    from e2v_port.analysis.analyze import each
    from e2v_port.analysis.sounds import Request
    from e2v_port.emotions.changes import DIARIZATION
    from e2v_port.speech.transcripts import read_segments

    request = Request(channel, read_segments(segments) if segments else None, whole)
    # Decoded once, for the analysis and the picture: a pipe can be read only once.
    sounds = request.load(files[0]) if plot else None
    results = each(
        files if sounds is None else [sounds],
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
        words=words,
        language=language,
        settings=settings,
        boundaries=DIARIZATION if diarize else None,
        offline=offline,
    )
    scores_only = whole and not (form or plot or frames or diarize)
    output = _Output(as_json, form, plot, sounds, scores_only, spaced=len(files) > 1)
    with progress_bar(len(files)) as advance:
        for file, result in zip(files, results, strict=True):
            if isinstance(result, AudioError):
                output.error(file, result)
            else:
                output.show(replace(result, file=file))
            advance()
    output.write(out)
    finish(len(files), output.failed)


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
        from e2v_port.analysis import formats

        if form not in formats.FORMATS:
            fail(f"unknown format {form}: use {', '.join(formats.FORMATS)}")
        if form in formats.ONE_CLIP and len(files) > 1:
            others = ", ".join(name for name in formats.FORMATS if name not in formats.ONE_CLIP)
            fail(f"--format {form} holds one file, not {len(files)}: analyze them one at a time, or use {others}")


def _check_plot(plot: Path | None, files: list[str]) -> None:
    if not plot:
        return
    from e2v_port.analysis import plots

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

    from e2v_port.analysis.terminal import table, transcript

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
    from e2v_port.analysis.formats import FORMATS

    text = FORMATS[form](analyses)
    if out is None:
        print(text, end="")
        return
    with replacing(out) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _draw(analysis: "Analysis", waveform: "Waveform", path: Path) -> None:
    from e2v_port.analysis.plots import plot

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

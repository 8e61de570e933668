"""e2v analyze, e2v embed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from e2v_port.cli.options import MODEL_OPTION, DimensionalName, DtypeName, ModelName, Offline, RuntimeName
from e2v_port.cli.output import complain, fail, finish, need_place, progress_bar
from e2v_port.errors import AudioError
from e2v_port.files import printable, replacing

if TYPE_CHECKING:
    from e2v_port.analysis import Analysis
    from e2v_port.audio import Waveform

__all__ = ["analyze", "embed"]

# Strings, not paths: results go by the names that were given, and Path("./a.wav") is "a.wav".
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Audio files.", show_default=False)]


def analyze(
    files: Files,
    model: ModelName = None,
    dimensional: DimensionalName = None,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    segments: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Segments of the one file: RTTM, SRT, VTT, JSON of Whisper, CSV."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Each file as one segment; by default a line with all scores.")
    ] = False,
    frames: Annotated[bool, typer.Option("--frames", help="Also which emotion when, inside the segments.")] = False,
    form: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="NAME", help="json, jsonl, csv, vtt, srt, textgrid, audacity or rttm."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write that format.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the one file; or .svg, .pdf.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    offline: Offline = False,
) -> None:
    """Say which emotion is in each file, when, and how sure.

    With neither --model nor --dimensional it is the small model in the package that does.
    """
    _check_analyze(files, model, dimensional, segments, whole, frames, form, out, plot, as_json)
    import json
    from dataclasses import replace

    from e2v_port.analysis import Analysis, each
    from e2v_port.audio import SAMPLING_RATE, load_audio

    # Read once, for the picture as well: a pipe gives its samples only once.
    waveform = load_audio(files[0]) if plot else None
    results = each(
        files if waveform is None else [waveform],
        sampling_rate=SAMPLING_RATE,
        model=model,
        dimensional=dimensional,
        runtime=runtime,
        dtype=dtype,
        segments=segments,
        whole=whole,
        frames=frames,
        offline=offline,
    )
    raw = whole and not (form or plot or frames)
    found: list[Analysis] = []
    failed = 0
    with progress_bar(len(files)) as advance:
        for file, result in zip(files, results, strict=True):
            if isinstance(result, AudioError):
                failed += 1
                complain(str(result))
                if as_json:
                    print(json.dumps({"file": file, "error": str(result)}), flush=True)
            else:
                analysis = replace(result, file=file)
                if raw:
                    _print_whole(analysis, as_json)
                elif as_json:
                    print(json.dumps(analysis.to_dict()), flush=True)
                elif form:
                    found.append(analysis)
                else:
                    _print_timeline(analysis, end="" if len(files) == 1 else "\n")
                if plot and waveform is not None:
                    _draw(analysis, waveform, plot)
            advance()
    if form and found:
        _print_format(found, form, out)
    finish(len(files), failed)


def _check_analyze(
    files: list[str],
    model: str | None,
    dimensional: str | None,
    segments: Path | None,
    whole: bool,
    frames: bool,
    form: str | None,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Refuses what contradicts itself, before anything is loaded."""
    if frames and dimensional and not model:
        fail("--frames: needs --model, one that gives labels")
    if segments and whole:
        fail("--segments and --whole contradict each other: leave one of them out")
    if segments and len(files) > 1:
        fail(f"--segments {segments}: belong to one file, not {len(files)}: analyse them one at a time")
    if form and as_json:
        fail("--json and --format contradict each other: --format jsonl is the same without errors")
    if out and not form:
        fail(f"--out {out}: name a --format as well")
    if out and out.is_dir():
        fail(f"--out {out}: a folder")
    if out:
        need_place("--out", out)
    if form:
        from e2v_port import formats

        if form not in formats.FORMATS:
            fail(f"no format is called {form}: use {', '.join(formats.FORMATS)}")
        if form in formats.ONE_CLIP and len(files) > 1:
            others = ", ".join(name for name in formats.FORMATS if name not in formats.ONE_CLIP)
            fail(f"--format {form}: holds one file, not {len(files)}: analyse them one at a time, or use {others}")
    if plot:
        from e2v_port import plots

        if len(files) > 1:
            fail(f"--plot {plot}: shows one file, not {len(files)}: analyse them one at a time")
        need_place("--plot", plot)
        try:
            plots.check(plot)
        except ValueError as error:
            fail(f"--plot {error}")


def _print_whole(analysis: "Analysis", as_json: bool) -> None:
    """Prints what the models say of a file, before any fusion; nothing that only follows from it."""
    (segment,) = analysis.segments
    prediction = segment.prediction
    dimensions = segment.dimensions if segment.dimensions_from == "model" else None
    if as_json:
        import json

        row = {"file": analysis.file, "duration": analysis.duration}
        row |= prediction.to_dict() if prediction else {}
        print(json.dumps(row | (dimensions.to_dict() if dimensions else {})), flush=True)
        return
    parts = [f"{prediction.label} {prediction.confidence:.3f}"] if prediction else []
    parts += [f"{name} {value:.3f}" for name, value in (dimensions.to_dict() if dimensions else {}).items()]
    if prediction:
        ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
        parts.append(f"[{'  '.join(f'{label} {score:.3f}' for label, score in ranked)}]")
    print(f"{printable(analysis.file)}: {'  '.join(parts)}", flush=True)


def _print_timeline(analysis: "Analysis", end: str) -> None:
    """Prints a table, coloured on a terminal."""
    from rich.console import Console

    from e2v_port.terminal import table

    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as capture:
        console.print(table(analysis, ascii_only=console.options.ascii_only))
    print(capture.get(), end=end, flush=True)


def _print_format(analyses: "list[Analysis]", form: str, out: Path | None) -> None:
    from e2v_port.formats import FORMATS

    text = FORMATS[form](analyses)
    if out is None:
        print(text, end="")
        return
    with replacing(out) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _draw(analysis: "Analysis", waveform: "Waveform", path: Path) -> None:
    from e2v_port.plots import plot

    with replacing(path) as partial:
        plot(analysis, waveform, partial)


def embed(
    files: Files,
    model: Annotated[str, MODEL_OPTION],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE.npz", help="Where to write one array per file, under its name."),
    ],
    granularity: Annotated[
        Literal["utterance", "frame"],
        typer.Option(help="[dim] per file, or [frames, dim], 50 frames a second."),
    ] = "utterance",
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    offline: Offline = False,
) -> None:
    """Write the embedding of each file to an .npz."""
    if out.suffix != ".npz" or out.is_dir():
        fail(f"--out {out}: name an .npz file")
    need_place("--out", out)
    from e2v_port import npz
    from e2v_port.model import load

    files = list(dict.fromkeys(files))  # a name can stand in the npz once
    loaded = load(model, runtime=runtime, dtype=dtype, offline=offline)
    failed = 0
    with npz.writing(out) as add, progress_bar(len(files)) as advance:
        for file, result in zip(files, loaded.each(files, frames=granularity == "frame"), strict=True):
            if isinstance(result, AudioError):
                failed += 1
                complain(str(result))
            else:
                output = result[1]
                add(file, output.embedding if output.frames is None else output.frames)
            advance()
        if failed == len(files):
            finish(len(files), failed)  # leaving by this exception, the npz is not written
    finish(len(files), failed)

"""The command line: every subcommand loads only what it uses."""

import io
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from e2v_port import __version__
from e2v_port.errors import AudioError, E2VError

if TYPE_CHECKING:
    from e2v_port import corpora, evaluation
    from e2v_port.analysis import Analysis
    from e2v_port.audio import Waveform
    from e2v_port.corpus.run import Summary
    from e2v_port.detector import VoiceSegment
    from e2v_port.model import Model

__all__ = ["app", "main"]

BAD_INPUT = 2  # nothing could be done
PARTIAL_FAILURE = 1  # some files failed, the others' results are written

app = typer.Typer(
    help="Speech emotion, by models converted once and run on CUDA, MLX or the CPU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Strings, not paths: results go by the names that were given, and Path("./a.wav") is "a.wav".
Files = Annotated[list[str], typer.Argument(metavar="FILE", help="Audio files.", show_default=False)]
MODEL_OPTION = typer.Option(
    "--model",
    "-m",
    metavar="MODEL",
    envvar="E2V_MODEL",
    help="Known model (see e2v models), converted folder, or checkpoint.",
    show_default=False,
)
ModelName = Annotated[str, MODEL_OPTION]
RuntimeName = Annotated[str, typer.Option("--runtime", "-r", metavar="NAME", help="auto, cuda, mlx, mps or cpu.")]
DtypeName = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="float32, bfloat16, float16 or auto, the fastest here; by default as stored.",
        show_default=False,
    ),
]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a connection; so does E2V_OFFLINE=1.")]


def main() -> None:
    """Runs the command line: one line on stderr for every error; exit 2 for bad input, 1 for a partial failure."""
    if sys.stderr is None:  # closed; print would take stdout in its place
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    if sys.stdout is None:
        _fail("standard output is closed: there is nowhere to write to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal's encoding lacks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that partial files are removed
    try:
        try:
            app(prog_name="e2v")
        finally:
            sys.stdout.flush()  # here, not at exit, where an error would be a traceback
    except E2VError as error:
        _fail(str(error))
    except OSError as error:
        with suppress(OSError):
            sys.stdout.close()  # what is left in it would be tried again at exit
        if isinstance(error, BrokenPipeError):  # `e2v analyze *.wav | head` is no error
            sys.exit(PARTIAL_FAILURE)
        _fail(f"{error.filename or 'cannot write'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _fail(message: str) -> NoReturn:
    _complain(message)
    sys.exit(BAD_INPUT)


def _complain(message: str) -> None:
    """Prints one line, whatever stands in the message."""
    line = " ".join(part.strip() for part in message.splitlines())
    print("error:", "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line), file=sys.stderr)


def _shown(file: str) -> str:
    """Returns a name that keeps a result on its line: quoted and escaped, as in error messages, where it must be."""
    return file if file.isprintable() else ascii(file)


@contextmanager
def _progress(total: int, what: str = "analysing") -> Iterator[Any]:
    """Gives a function to call after each step: it moves a bar on a terminal, and does nothing elsewhere."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    # Results may go into a file while the bar is on the terminal: they must not be caught with it.
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True, soft_wrap=True)  # a result stays one line, to be copied as one
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


def _load(model: str, runtime: str, offline: bool, dtype: str | None = None) -> "Model":
    from e2v_port.model import load

    return load(model, runtime=runtime, dtype=dtype, offline=offline)


def _finish(total: int, failed: int) -> None:
    if failed:
        raise typer.Exit(BAD_INPUT if failed == total else PARTIAL_FAILURE)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"e2v-port {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def analyze(
    files: Files,
    model: Annotated[str | None, MODEL_OPTION] = None,
    dimensional: Annotated[
        str | None,
        typer.Option("--dimensional", "-d", metavar="MODEL", help="Model of arousal, dominance and valence, likewise."),
    ] = None,
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
    with _progress(len(files)) as advance:
        for file, result in zip(files, results, strict=True):
            if isinstance(result, AudioError):
                failed += 1
                _complain(str(result))
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
    _finish(len(files), failed)


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
        _fail("--frames: needs --model, one that gives labels")
    if segments and whole:
        _fail("--segments and --whole contradict each other: leave one of them out")
    if segments and len(files) > 1:
        _fail(f"--segments {segments}: belong to one file, not {len(files)}: analyse them one at a time")
    if form and as_json:
        _fail("--json and --format contradict each other: --format jsonl is the same without errors")
    if out and not form:
        _fail(f"--out {out}: name a --format as well")
    if out and (out.is_dir() or not _writable(out.parent)):
        _fail(f"--out {out}: {'a folder' if out.is_dir() else f'{out.parent} is not a folder that can be written to'}")
    if form:
        from e2v_port import formats

        if form not in formats.FORMATS:
            _fail(f"no format is called {form}: use {', '.join(formats.FORMATS)}")
        if form in formats.ONE_CLIP and len(files) > 1:
            others = ", ".join(name for name in formats.FORMATS if name not in formats.ONE_CLIP)
            _fail(f"--format {form}: holds one file, not {len(files)}: analyse them one at a time, or use {others}")
    if plot:
        from e2v_port import plots

        if len(files) > 1:
            _fail(f"--plot {plot}: shows one file, not {len(files)}: analyse them one at a time")
        if not _writable(plot.parent):
            _fail(f"--plot {plot}: {plot.parent} is not a folder that can be written to")
        try:
            plots.check(plot)
        except ValueError as error:
            _fail(f"--plot {error}")


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK)


def _print_whole(analysis: "Analysis", as_json: bool) -> None:
    """Prints what the models say of a file, before any fusion; nothing that only follows from it."""
    (segment,) = analysis.segments
    prediction = segment.prediction
    dimensions = segment.dimensions if segment.dimensions_from == "model" else None
    if as_json:
        row = {"file": analysis.file, "duration": analysis.duration}
        row |= prediction.to_dict() if prediction else {}
        print(json.dumps(row | (dimensions.to_dict() if dimensions else {})), flush=True)
        return
    parts = [f"{prediction.label} {prediction.confidence:.3f}"] if prediction else []
    parts += [f"{name} {value:.3f}" for name, value in (dimensions.to_dict() if dimensions else {}).items()]
    if prediction:
        ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
        parts.append(f"[{'  '.join(f'{label} {score:.3f}' for label, score in ranked)}]")
    print(f"{_shown(analysis.file)}: {'  '.join(parts)}", flush=True)


def _print_timeline(analysis: "Analysis", end: str) -> None:
    """Prints a table, coloured on a terminal."""
    from rich.console import Console

    from e2v_port.terminal import table

    console = Console(highlight=False, soft_wrap=True)
    with console.capture() as capture:
        console.print(table(analysis, ascii_only=console.options.ascii_only))
    print(capture.get(), end=end, flush=True)


def _print_format(analyses: "list[Analysis]", form: str, out: Path | None) -> None:
    from e2v_port.files import replacing
    from e2v_port.formats import FORMATS

    text = FORMATS[form](analyses)
    if out is None:
        print(text, end="")
        return
    with replacing(out) as partial:
        partial.write_text(text, "utf-8", errors="backslashreplace", newline="\n")


def _draw(analysis: "Analysis", waveform: "Waveform", path: Path) -> None:
    from e2v_port.files import replacing
    from e2v_port.plots import plot

    with replacing(path) as partial:
        plot(analysis, waveform, partial)


@app.command()
def embed(
    files: Files,
    model: ModelName,
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
        _fail(f"--out {out}: name an .npz file")
    if not _writable(out.parent):
        _fail(f"--out {out}: {out.parent} is not a folder that can be written to")
    from e2v_port import npz

    files = list(dict.fromkeys(files))  # a name can stand in the npz once
    loaded = _load(model, runtime, offline, dtype)
    failed = 0
    with npz.writing(out) as add, _progress(len(files)) as advance:
        for file, result in zip(files, loaded.each(files, frames=granularity == "frame"), strict=True):
            if isinstance(result, AudioError):
                failed += 1
                _complain(str(result))
            else:
                output = result[1]
                add(file, output.embedding if output.frames is None else output.frames)
            advance()
        if failed == len(files):
            _finish(len(files), failed)  # leaving by this exception, the npz is not written
    _finish(len(files), failed)


@app.command()
def convert(
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="Known model, owner/name on a hub, folder or .pt file."),
    ],
    hub: Annotated[Literal["auto", "modelscope", "huggingface"], typer.Option(help="Where to download from.")] = "auto",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Branch, tag or commit on the hub; by default its main branch.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16", "q8", "q4"],
        typer.Option(help="Of the stored weights; q8 and q4 pack the large matrices, 8 or 4 bits a number."),
    ] = "float32",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FOLDER", help="Where to write; by default where --model finds it."),
    ] = None,
    keep_npz: Annotated[bool, typer.Option("--keep-npz", help="Keep the npz between the two halves.")] = False,
    offline: Offline = False,
) -> None:
    """Convert a checkpoint to model.safetensors and config.json."""
    from e2v_port.config import ModelConfig
    from e2v_port.conversion import convert as convert_

    folder = convert_(model, hub=hub, revision=revision, dtype=dtype, out=out, keep_npz=keep_npz, offline=offline)
    config = ModelConfig.read(folder)
    size = (folder / "model.safetensors").stat().st_size / 1e6
    labels = f"{len(config.labels)} labels" if config.labels else "no labels: embeddings only"
    print(f"{folder}: {config.dtype}, {size:.0f} MB, {labels}, read back and equal bit by bit")


@app.command()
def train(
    corpus: Annotated[
        list[str],
        typer.Option("--corpus", "-c", metavar="NAME=PATH", help="ravdess, emodb, nemo, crema-d or csv; repeatable."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write the model.")],
    head_of: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Train a new head for this model instead of a small network from nothing."),
    ] = None,
    hidden: Annotated[
        int, typer.Option(min=0, metavar="N", help="Width of a hidden layer of that head; 0 for none.")
    ] = 0,
    dimensions: Annotated[
        bool, typer.Option("--dimensions", help="Let that head give arousal, dominance and valence.")
    ] = False,
    dev: Annotated[
        str, typer.Option(metavar="SPEAKERS", help="Who decides when to stop, with commas: ravdess/19,ravdess/20.")
    ] = "",
    test: Annotated[str, typer.Option(metavar="SPEAKERS", help="Who is left out, likewise, or a corpus.")] = "",
    epochs: Annotated[int | None, typer.Option(min=1, metavar="N", help="Instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of all that is drawn.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, metavar="N", help="By default one for each core.")] = None,
    licence: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Of the weights; by default what the corpora say.")
    ] = None,
    runtime: RuntimeName = "auto",
    offline: Offline = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where one was interrupted, and replace a model.")
    ] = False,
) -> None:
    """Train a small model on corpora, or a new head for a model.

    Interrupted, the same command goes on where it was.
    """
    if not head_of and (hidden or dimensions):
        _fail(f"{'--hidden' if hidden else '--dimensions'} belongs to a head: name a model with --head-of")
    from dataclasses import replace

    from e2v_port import corpora, training, training_report

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    progress = training.Progress(say, _progress)
    read = [corpora.read(spec) for spec in corpus]
    for each in read:
        for note in each.notes:
            say(f"{each.name}: {note}")
    names = [[name for name in text.split(",") if name] for text in (dev, test)]
    task = training.choose(read, *names, dimensional=dimensions, seed=seed)
    changes: dict[str, Any] = {"epochs": epochs} if epochs else {}
    options: dict[str, Any] = {"licence": licence, "number_of_threads": threads, "restart": restart}
    if head_of:
        from e2v_port import heads

        recipe = replace(heads.HeadRecipe(hidden=hidden), **changes)
        options |= {"runtime": runtime, "offline": offline}
        report = heads.train(head_of, task, out, recipe, progress=progress, **options)
    else:
        from e2v_port import student

        report = student.train(task, out, replace(student.Recipe(), **changes), progress=progress, **options)
    best = report["curve"][report["best"] - 1]
    page = training_report.folder_of(out) / "report.html"
    print(f"{out}: {report['parameters']} parameters, development {report['score']} {best['score']:.3f}; see {page}")


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the known models and what is converted on this machine."""
    from e2v_port import catalog
    from e2v_port.config import DIMENSIONS

    rows: list[dict[str, Any]] = [
        {
            "id": model.id,
            "parameters": model.parameters,
            "dimensions": model.embed_dim,
            "labels": list(model.labels),
            "licence": model.licence,
            "converted": str(catalog.find(model.id) or "") or None,
        }
        for model in catalog.known()
    ]
    known = {row["id"] for row in rows}
    rows += [_own_model(name) for name in catalog.converted() if name not in known]
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    table = [["model", "parameters", "width", "gives", "licence", "converted"]]
    sets: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        kind = "dimensions" if set(row["labels"]) == set(DIMENSIONS) else "labels"
        gives = f"{len(row['labels'])} {kind}" if row["labels"] else "embeddings"
        converted = "in the package" if row["id"] == catalog.BUNDLED else "yes" if row["converted"] else "no"
        table.append(
            [row["id"], _millions(row["parameters"]), str(row["dimensions"]), gives, row["licence"], converted]
        )
        if row["labels"]:
            sets.setdefault(tuple(row["labels"]), []).append(row["id"])
    _print_table(table)
    print()
    for labels, names in sets.items():
        print(f"{', '.join(labels)}: {', '.join(names)}")
    print(f"folders: {', '.join(map(str, catalog.roots()))}")


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.{0 if parameters >= 1e6 else 1 if parameters >= 1e5 else 2}f} million"


def _own_model(name: str) -> dict[str, Any]:
    """Returns the row of a converted model that is not in the manifest."""
    from e2v_port import catalog, layout
    from e2v_port.config import ModelConfig

    folder = catalog.find(name)
    assert folder is not None
    config = ModelConfig.read(folder)
    return {
        "id": name,
        "parameters": layout.parameters(config.architecture),
        "dimensions": config.architecture.embed_dim,
        "labels": [label.name for label in config.labels if not label.unused],
        "licence": config.licence,
        "converted": str(folder),
    }


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    import platform

    from e2v_port import __version__, catalog, devices, hubs, references

    table = [
        ["what", "state"],
        ["e2v-port", __version__],
        ["Python", f"{platform.python_version()} on {platform.platform()}"],
    ]
    for runtime in devices.RUNTIMES:
        reason = devices.unavailable(runtime)
        table.append([f"runtime {runtime}", f"no: {reason}" if reason else f"yes: {devices.describe(runtime)}"])
    table.append(["runtime auto", f"takes {devices.choose('auto')}"])
    for family, (library, _) in references.REFERENCES.items():
        if library == "torch":  # told of above
            continue
        state = "installed" if references.installed(family) else "not installed"
        table.append([library, f"{state}: `e2v verify` compares {family} with it, nothing else needs it"])
    network = "never used (E2V_OFFLINE)" if hubs.offline_by_environment() else "used to download models"
    table.append(["network", network])
    table += [["weights", str(root) if root.is_dir() else f"{root} (does not exist yet)"] for root in catalog.roots()]
    converted = ", ".join(catalog.converted()) or "no model yet: e2v convert --model iic/emotion2vec_plus_base"
    table.append(["converted", converted])
    table.append([catalog.BUNDLED, str(catalog.find(catalog.BUNDLED) or "missing: install e2v-port again")])
    _print_table(table)


@app.command()
def verify(
    model: Annotated[str | None, MODEL_OPTION] = None,
    runtime: Annotated[
        str, typer.Option("--runtime", "-r", metavar="NAME", help="One runtime, or all that this machine has.")
    ] = "all",
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Unconverted checkpoint, if it has moved since the conversion."),
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Clip to compare on; by default one made for it.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Compare converted models, by default all, with their references.

    These are FunASR and transformers, where they are installed, and published outputs.
    """
    from e2v_port import catalog, devices

    if checkpoint and not model:
        _fail("--checkpoint belongs to one model: name it with --model")
    names = [model] if model else catalog.converted()
    if not names:
        _fail("no model is converted on this machine: e2v convert --model iic/emotion2vec_plus_base")
    runtimes = (
        [name for name in devices.RUNTIMES if devices.unavailable(name) is None] if runtime == "all" else [runtime]
    )
    failed = different = 0
    for name in names:
        try:
            different += not _verify(name, runtimes, checkpoint, audio, offline)
        except E2VError as error:
            failed += 1
            _complain(str(error))
    _finish(len(names), failed)
    if different:
        raise typer.Exit(PARTIAL_FAILURE)


def _verify(model: str, runtimes: list[str], checkpoint: Path | None, audio: Path | None, offline: bool) -> bool:
    """Prints the table and the verdict of one model, and tells whether it is equal."""
    from e2v_port import verify

    loaded = [_load(model, name, offline) for name in runtimes]
    rows, notes = verify.verify(loaded, audio, checkpoint)
    if not rows:
        raise E2VError(f"{model}: nothing to compare with: {'; '.join(notes)}")
    table = [["largest difference", *(each.runtime for each in loaded), "bar"]]
    for row in rows:
        bars = dict.fromkeys("-" if check.bar == float("inf") else f"{check.bar:.0e}" for check in row)
        marks = [f"{check.difference:.1e}{'' if check.passed else ' !'}" for check in row]
        table.append([row[0].name, *marks, ", ".join(bars)])
    _print_table(table)
    for note in notes:
        print(note)
    off = [check.name for row in rows for check in row if not check.passed]
    total = sum(map(len, rows))
    verdict = f"NOT EQUAL: {len(off)} of {total} exceed their bar, first {off[0]}" if off else "equal within the bars"
    print(f"{model}: {verdict}", flush=True)
    return not off


@app.command()
def evaluate(
    model: Annotated[str | None, MODEL_OPTION] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", "-c", metavar="NAME=PATH", help="ravdess, emodb, nemo, crema-d or csv; repeatable."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="What e2v corpus wrote of labelled clips, in place of model and corpus."),
    ] = None,
    split: Annotated[
        Literal["train", "dev", "test", "all"] | None,
        typer.Option(help="Which speakers; by default test, with --calibrate dev.", show_default=False),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit a temperature on them, and store it with the model.")
    ] = False,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write evaluation.json and a picture.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what evaluation.json holds.")] = False,
    offline: Offline = False,
) -> None:
    """Say how often a model is right on a corpus of labelled speech."""
    part = split or ("dev" if calibrate else "test")
    if calibrate and part in {"test", "all"}:
        _fail(f"--calibrate on {part} would make the figures of the test speakers worthless: take dev, or train")
    if out and not _writable(out if out.exists() else out.parent):
        _fail(f"--out {out}: not a folder that can be written to")
    if rows:
        if corpus or calibrate or split:
            _fail("--rows hold their model and their clips: leave --corpus, --split and --calibrate out")
        _evaluate_rows(rows, out, as_json)
        return
    if not model or not corpus:
        _fail(f"{'--corpus' if model else '--model'} is missing: name one, or --rows that e2v corpus wrote")
    from e2v_port import corpora, evaluation

    known = [corpora.read(spec) for spec in corpus]
    chosen = corpora.chosen(known, part)
    folder = _to_calibrate(model, offline) if calibrate else None
    loaded = _load(model, runtime, offline, dtype)
    if calibrate:
        loaded.need_labels()
    found: dict[str, evaluation.Evaluation] = {}
    with _progress(sum(map(len, chosen.values()))) as advance:
        for name, utterances in chosen.items():
            found[name] = evaluation.evaluate(loaded, utterances, advance=advance)
            for error in found[name].errors:
                _complain(error)
    result: dict[str, Any] = {"model": model, "split": part, "corpora": {}, "mean": None, "calibration": None}
    for each in known:
        about = {"path": str(each.path), "licence": each.licence, "notes": list(each.notes)}
        result["corpora"][each.name] = about | found[each.name].to_dict()
    if len(found) > 1:
        result["mean"] = evaluation.mean(list(found.values()))
    if folder:
        hot, before, after = evaluation.temperature(list(found.values()))
        evaluation.store_temperature(folder, hot)
        result["calibration"] = {"temperature": hot, "nll_before": before, "nll_after": after, "folder": str(folder)}
    _tell_evaluation(result, known, found, out, as_json)


def _evaluate_rows(rows: Path, out: Path | None, as_json: bool) -> None:
    from e2v_port.corpus.report import evaluate as evaluate_

    known, found = evaluate_(rows)
    about = {"path": str(rows), "licence": "", "notes": []}
    corpora_ = {known.name: about | found.to_dict()}
    result = {"model": found.model, "split": "all", "corpora": corpora_, "mean": None, "calibration": None}
    _tell_evaluation(result, [known], {known.name: found}, out, as_json)


def _tell_evaluation(
    result: dict[str, Any],
    known: "list[corpora.Corpus]",
    found: "dict[str, evaluation.Evaluation]",
    out: Path | None,
    as_json: bool,
) -> None:
    from e2v_port.evaluation import plain

    if as_json:
        print(json.dumps(plain(result), allow_nan=False))
    else:
        _print_evaluation(result, known, found)
    if out:
        _write_evaluation(result, found, out)
    failed = sum(len(each.errors) for each in found.values())
    _finish(failed + sum(each.judged for each in found.values()), failed)


def _to_calibrate(model: str, offline: bool) -> Path:
    """Returns the folder of a model whose config.json may be written."""
    from importlib.resources import files

    from e2v_port.conversion import folder_of

    folder = folder_of(model, offline=offline)
    package = Path(str(files("e2v_port.weights"))).resolve()
    if folder.resolve().is_relative_to(package):
        _fail(f"--calibrate does not change what is in the package: copy {folder} elsewhere and name the copy")
    if not os.access(folder, os.W_OK):
        _fail(f"--calibrate: {folder} cannot be written to: copy it elsewhere and name the copy")
    return folder


def _print_evaluation(
    result: dict[str, Any], known: "list[corpora.Corpus]", found: "dict[str, evaluation.Evaluation]"
) -> None:
    from e2v_port.evaluation import report

    for corpus in known:
        runtime = found[corpus.name].runtime
        print(f"{corpus.name}, {result['split']}: {result['model']} on {runtime}")
        for note in corpus.notes:
            print(f"note: {_shown(note)}")
        for part in report(found[corpus.name]):
            if isinstance(part, str):
                print(_shown(part))
            else:
                _print_table([_shown(cell) for cell in row] for row in part)
        print()
    if result["mean"]:
        print(f"mean of {len(known)} corpora")
        _print_table([[name.replace("_", " "), f"{value:.3f}"] for name, value in result["mean"].items()])
    if calibration := result["calibration"]:
        print(
            f"temperature {calibration['temperature']:.3f} stored in {calibration['folder']}: negative log likelihood "
            f"{calibration['nll_before']:.3f} before, {calibration['nll_after']:.3f} after"
        )


def _write_evaluation(result: dict[str, Any], found: "dict[str, evaluation.Evaluation]", out: Path) -> None:
    from importlib.util import find_spec

    from e2v_port.evaluation import plain
    from e2v_port.files import replacing

    out.mkdir(exist_ok=True)
    with replacing(out / "evaluation.json") as partial:
        partial.write_text(json.dumps(plain(result), allow_nan=False, indent=1) + "\n", "utf-8", newline="\n")
    if not all(each.open for each in found.values()):
        return
    if find_spec("matplotlib") is None:
        print('no picture without matplotlib: pip install "e2v-port[plots]"', file=sys.stderr)
        return
    from e2v_port.plots import plot_evaluations

    with replacing(out / "evaluation.png") as partial:
        plot_evaluations(found, partial)


@app.command()
def corpus(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="Folder, glob, list (.txt), table (.csv, .parquet) or tar shards; here or at an fsspec address.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write; begun ones are gone on with.")
    ],
    model: Annotated[str | None, MODEL_OPTION] = None,
    dimensional: Annotated[
        str | None,
        typer.Option("--dimensional", "-d", metavar="MODEL", help="Model of arousal, dominance and valence, likewise."),
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="A row for each clip; by default for each stretch of speech in it.")
    ] = False,
    embeddings: Annotated[bool, typer.Option("--embeddings", help="Also the embedding of each row, float16.")] = False,
    runtime: RuntimeName = "auto",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="float32, bfloat16 or float16; by default as stored.", show_default=False),
    ] = None,
    longest: Annotated[
        float, typer.Option(metavar="SECONDS", help="A longer clip becomes an error; 21600 at most.")
    ] = 3600,
    max_errors: Annotated[
        float, typer.Option("--max-errors", metavar="SHARE", help="Stop where more clips cannot be judged, 0 to 1.")
    ] = 0.2,
    shard: Annotated[
        int, typer.Option(metavar="CLIPS", help="In a file of rows, and lost when a run is killed.")
    ] = 500,
    update: Annotated[
        bool, typer.Option("--update", help="Do anew what was made otherwise, and what holds errors.")
    ] = False,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")] = "local",
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Of the cluster; without it, one is started here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes with models; by default one for each GPU.")
    ] = None,
    decoders: Annotated[
        int | None, typer.Option(metavar="N", help="Decoding processes of each; by default one per core.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    offline: Offline = False,
) -> None:
    """Write a table of what is in each clip of a whole corpus.

    Interrupted, the same command goes on where it was. See docs/corpora.md.
    """
    from dataclasses import asdict

    from e2v_port.corpus.progress import shown
    from e2v_port.corpus.run import TooManyErrors, run

    failure: TooManyErrors | None = None
    with shown() as progress:
        try:
            summary = run(
                source,
                out,
                model=model,
                dimensional=dimensional,
                runtime=runtime,
                dtype=dtype,
                whole=whole,
                embeddings=embeddings,
                longest=longest,
                max_errors=max_errors,
                shard=shard,
                update=update,
                engine=engine,
                address=address,
                workers=workers,
                decoders=decoders,
                offline=offline,
                progress=progress,
            )
        except TooManyErrors as error:
            failure, summary = error, error.summary
        except ValueError as error:
            _fail(str(error))
    if as_json:
        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        _print_summary(summary, out)
    if failure:
        _fail(str(failure))
    _finish(summary.clips, summary.failed)


def _print_summary(summary: "Summary", out: Path) -> None:
    hours = f"{summary.hours:.2f} h of audio"
    print(f"{out}: {summary.clips} clips, {hours}, {summary.rows} rows, {summary.failed} clips could not be judged")
    print(f"this run: {summary.done} clips in {summary.seconds:.1f} s, {summary.speed:.0f} s of audio per second")
    for name, counts in (("label", summary.labels), ("error", summary.errors)):
        if counts:
            print()
            total = sum(counts.values())
            unit = "rows" if name == "label" else "clips"
            rows = [[_shown(key), str(count), f"{count / total:.1%}"] for key, count in counts.items()]
            _print_table([[name, unit, "share"], *rows])


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What e2v corpus wrote.", show_default=False)],
) -> None:
    """Draw what e2v corpus found, as report.html and report.png in its folder."""
    from e2v_port.corpus.report import write

    for path in write(folder):
        print(path)


@app.command()
def bench(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Converted folder, known model or checkpoint; repeatable. By default models of full size are made, "
            "with random weights.",
            show_default=False,
        ),
    ] = None,
    runtime: RuntimeName = "auto",
    dtype: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="float32, bfloat16, float16 or auto; repeatable. By default float32, auto."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Half a minute of clips, each measured once.")] = False,
    long: Annotated[
        bool, typer.Option("--long", help="Also an hour in one file, a thousand clips and the large model.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where to write bench.json and bench.md.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Measure how fast models are here, beside FunASR.

    And beside transformers; each where it is installed.
    """
    if out and not _writable(out if out.exists() else out.parent):
        _fail(f"--out {out}: not a folder that can be written to")
    from e2v_port import bench as bench_
    from e2v_port import bench_report

    def note(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    plan = bench_.QUICK if quick else bench_.FULL
    result: dict[str, Any] = {}
    for result in bench_.bench(
        model or (),
        runtime=runtime,
        dtypes=dtype or ("float32", "auto"),
        plan=plan.longer() if long else plan,
        offline=offline,
        note=note,
    ):
        if out:  # after each model, so that what was measured is kept
            bench_report.save(result, out)
    print(bench_report.render(result), end="")


@app.command()
def serve(
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="127.0.0.1 by default; another needs --token or --insecure.")
    ] = None,
    port: Annotated[int | None, typer.Option(metavar="NUMBER", help="9101 by default; 0 picks a free one.")] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Gives labels, as for e2v analyze.")
    ] = None,
    dimensional: Annotated[
        str | None,
        typer.Option("--dimensional", "-d", metavar="MODEL", help="Model of arousal, dominance and valence, likewise."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", "-r", metavar="NAME", help="auto, cuda, mlx, mps or cpu.")
    ] = None,
    dtype: DtypeName = None,
    token: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Asked of everybody; E2V_SERVE_TOKEN keeps it out of `ps`.")
    ] = None,
    insecure: Annotated[
        bool | None, typer.Option("--insecure", help="Let anybody on the network in, without a token.")
    ] = None,
    speakers: Annotated[
        str | None, typer.Option(metavar="NAMES", help="Enrolled speakers, as ann,bob: no other voice is analysed.")
    ] = None,
    emotion: Annotated[
        bool | None, typer.Option("--emotion/--no-emotion", help="Whether emotions are analysed at first.")
    ] = None,
    history: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Store what was found; by default nothing is stored.")
    ] = None,
    history_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Until it becomes daily sums; 90 by default.")
    ] = None,
    history_aggregate_days: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Until these go as well; by default never.")
    ] = None,
    max_body: Annotated[
        float | None, typer.Option(metavar="MB", help="Largest body; 64, the most there can be, by default.")
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Longest clip; an hour by default.")
    ] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Never open a connection to a hub.")] = None,
) -> None:
    """Answer over HTTP and WebSocket what e2v analyze says, with a page at /.

    Each option is also read from the environment, as E2V_SERVE_PORT. See docs/service.md.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    from importlib.util import find_spec

    libraries = ("fastapi", "uvicorn", "httptools", "websockets", "python_multipart", "prometheus_client")
    if missing := [name for name in (*libraries, "pydantic_settings") if find_spec(name) is None]:
        _fail(f'e2v serve needs {missing[0]}, which is not installed: pip install "e2v-port[serve]"')
    from pydantic import ValidationError

    from e2v_port.service.server import run
    from e2v_port.service.state import Settings

    try:
        settings = Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"--{'-'.join(map(str, first['loc'])).replace('_', '-')}: {first['msg']}, not {first['input']}")
    run(settings)


@app.command()
def listen(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            help="Audio file, followed as if it were spoken now; - for samples on stdin. By default the microphone.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, MODEL_OPTION] = None,
    dimensional: Annotated[
        str | None,
        typer.Option("--dimensional", "-d", metavar="MODEL", help="Model of arousal, dominance and valence, likewise."),
    ] = None,
    backend: Annotated[
        Literal["bundled", "emotion2vec", "prosodic", "hybrid"] | None,
        typer.Option("--backend", "-b", help="What listens; by default what fits the model.", show_default=False),
    ] = None,
    runtime: RuntimeName = "auto",
    dtype: DtypeName = None,
    baseline: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What this voice is like when nothing is the matter.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write such a file from what is heard: 3 to 5 neutral sentences."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Microphone: its number, or a part of its name.")
    ] = None,
    rate: Annotated[
        int, typer.Option(metavar="HZ", help="Of samples on stdin, which are 16-bit integers of one channel.")
    ] = 16_000,
    fast: Annotated[bool, typer.Option("--fast", help="Follow a file as fast as it can be judged.")] = False,
    as_json: Annotated[bool, typer.Option("--jsonl", help="One JSON object per result, at once.")] = False,
    speak_as: Annotated[
        str | None,
        typer.Option(metavar="TONE", help="Of --reply: an emotion, or match, complement, amplify or neutral."),
    ] = None,
    reply: Annotated[Path | None, typer.Option(metavar="FILE", help="Speech that is to answer the voice.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.wav", help="Where to write it in that tone; or .flac.")
    ] = None,
    offline: Offline = False,
) -> None:
    """Follow a voice while it speaks, until it ends or Ctrl-C.

    A line for each stretch of speech that has ended; on a terminal also what is heard now.
    """
    _check_listen(source, device, fast, calibrate, speak_as, reply, out)
    answer = _voice(reply) if reply else None  # an error in it is told before anybody speaks

    from contextlib import ExitStack

    from rich.console import Console

    from e2v_port import listening
    from e2v_port.detector import EmotionDetector

    with ExitStack() as stack:
        sound: listening.Source
        if source is None:
            sound = stack.enter_context(listening.Microphone(device))
        elif source == "-":
            sound = listening.Pipe(sys.stdin.fileno(), rate)
        else:
            sound = listening.Recording(source, paced=not fast)
        try:
            detector = EmotionDetector(
                model,
                backend=backend,
                dimensional=dimensional,
                runtime=runtime,
                dtype=dtype,
                baseline=baseline,
                offline=offline,
            )
        except ValueError as error:
            _fail(str(error))
        listener = detector.open(sound.sampling_rate)
        show: listening.Show = listening.JsonLines()
        if not as_json:
            names = [f"{each.name} on {each.runtime}" for each in detector.models]
            console = Console(highlight=False)
            show = stack.enter_context(listening.View(console, sound, ", ".join([detector.backend, *names])))
        try:
            listening.follow(sound, listener, show)
        except AudioError as error:
            _complain(str(error))
            _finish(1 + len(detector.history()), failed=1)
        if sound.gaps:
            print(f"note: {listening.lost(sound)}", file=sys.stderr)
    heard = detector.history()
    if not as_json:
        print(detector.to_context(3600.0, long=True), flush=True)
    if calibrate:
        from e2v_port.prosody import Baseline

        try:
            Baseline.of([each.prosody for each in heard if each.prosody]).save(calibrate)
        except ValueError as error:
            _fail(f"--calibrate {calibrate}: {error}")
    if answer and speak_as and out:
        last = next((each for each in reversed(heard) if each.emotion), None)
        _answer(answer, speak_as, last, out)


def _check_listen(
    source: str | None,
    device: str | None,
    fast: bool,
    calibrate: Path | None,
    speak_as: str | None,
    reply: Path | None,
    out: Path | None,
) -> None:
    """Refuses what contradicts itself, before anything is loaded."""
    if source is not None and device:
        _fail(f"--device {device}: is for the microphone, not for {source}")
    if fast and source in {None, "-"}:
        _fail("--fast: needs a file; all else comes at its own pace")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        _fail("-: no samples come in: pipe them, as in arecord -t raw -f S16_LE -r 16000 | e2v listen -")
    if calibrate and not _writable(calibrate.parent):
        _fail(f"--calibrate {calibrate}: {calibrate.parent} is not a folder that can be written to")
    if any((speak_as, reply, out)):
        if not (speak_as and reply and out):
            _fail("--speak-as, --reply and --out belong together: name all three")
        _check_tone(speak_as)
        _check_audio_out(out)


@app.command()
def express(
    emotion: Annotated[str, typer.Option("--emotion", "-e", metavar="NAME", help="One of the 26, such as calm.")],
    what: Annotated[
        str | None,
        typer.Argument(metavar="TEXT|FILE", help="Text to say, or with --out recorded speech.", show_default=False),
    ] = None,
    intensity: Annotated[float, typer.Option(metavar="NUMBER", help="From nothing of it, 0, to 2.")] = 1.0,
    ssml: Annotated[
        str | None,
        typer.Option(
            metavar="DIALECT", help="Of TEXT: w3c by default, azure, google, polly, polly-neural or espeak-ng."
        ),
    ] = None,
    language: Annotated[str, typer.Option(metavar="TAG", help="Of TEXT.")] = "en-US",
    voice: Annotated[str | None, typer.Option(metavar="NAME", help="Of the engine that is to say TEXT.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print its settings instead: piper, kokoro, xtts, espeak-ng, say or rvc."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.wav", help="Where to write the speech; or .flac.")
    ] = None,
) -> None:
    """Make text or recorded speech sound like an emotion.

    TEXT is printed as SSML for a speech engine. Speech is changed in pitch, pace, pauses, level and breath.
    """
    from e2v_port import expression

    if (what is None) == (engine is None):
        _fail("name a text, a file of speech, or an --engine whose settings are to be printed")
    if engine and (out or ssml):
        _fail(f"--engine {engine}: prints settings: leave --out and --ssml out")
    if out and ssml:
        _fail(f"--out {out}: holds speech, --ssml marks up text: leave one of them out")
    if what and not out and Path(what).is_file():
        _fail(f"{_shown(what)}: is a file: name --out, where to write the speech in it")
    try:
        parameters = expression.parameters(emotion, intensity)
        if engine:
            print(json.dumps(expression.to_engine(parameters, engine)), flush=True)
        elif what and not out:
            print(expression.to_ssml(what, parameters, ssml or "w3c", language=language, voice=voice), flush=True)
    except ValueError as error:
        _fail(str(error))
    if what and out:
        _check_audio_out(out)
        waveform, rate = _voice(Path(what))
        _write_voice(expression.apply(waveform, rate, parameters), rate, out)


def _check_tone(tone: str) -> None:
    from e2v_port import emotions, expression

    names = [emotion.name for emotion in emotions.emotions()]
    if tone not in {*expression.STRATEGIES, *names}:
        _fail(f"--speak-as {tone}: is none of {', '.join(expression.STRATEGIES)}, nor an emotion: {', '.join(names)}")


def _check_audio_out(out: Path) -> None:
    if out.suffix.lower() not in {".wav", ".flac"} or out.is_dir():
        _fail(f"--out {out}: name a .wav or .flac file")
    if not _writable(out.parent):
        _fail(f"--out {out}: {out.parent} is not a folder that can be written to")


def _voice(file: Path) -> "tuple[Waveform, int]":
    """Reads speech at its own rate: it is to be heard, not judged."""
    import soundfile

    from e2v_port.audio import load_audio

    load_audio(file)  # says what is wrong with it
    samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


def _write_voice(waveform: "Waveform", rate: int, out: Path) -> None:
    import soundfile

    from e2v_port.files import replacing

    data = io.BytesIO()  # the library would not tell that a disk is full
    soundfile.write(data, waveform, rate, format=out.suffix[1:])
    with replacing(out) as partial:
        partial.write_bytes(data.getvalue())


def _answer(reply: "tuple[Waveform, int]", tone: str, heard: "VoiceSegment | None", out: Path) -> None:
    """Writes the reply in a tone that answers the last that was heard, or in the one that was asked for."""
    from e2v_port import expression

    if tone not in expression.STRATEGIES:
        emotion, parameters, why = tone, expression.parameters(tone), "as asked for"
    elif heard and heard.emotion:
        response = expression.respond(heard.emotion, heard.confidence or 0.0, tone)
        emotion, parameters = response.emotion, response.parameters
        why = f"{tone} of {heard.emotion}, {heard.confidence:.2f}"
    else:
        _complain(f"--speak-as {tone}: no emotion was heard that could be answered: {out} is not written")
        raise typer.Exit(PARTIAL_FAILURE)
    waveform, rate = reply
    _write_voice(expression.apply(waveform, rate, parameters), rate, out)
    print(f"{_shown(str(out))}: spoken {emotion} ({why})", file=sys.stderr)


def _print_table(rows: Iterable[list[str]]) -> None:
    """Prints aligned columns: the same on a terminal, in a pipe and in a bug report."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

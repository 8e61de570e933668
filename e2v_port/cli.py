"""The command line: every subcommand loads only what it uses."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.errors import AudioError, E2VError

if TYPE_CHECKING:
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

Files = Annotated[list[Path], typer.Argument(metavar="FILES...", help="Audio files.", show_default=False)]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="E2V_MODEL",
        help="Known model, converted folder, or checkpoint.",
        show_default=False,
    ),
]
RuntimeName = Annotated[str, typer.Option("--runtime", "-r", help="auto, cuda, mlx, mps or cpu.")]
Offline = Annotated[bool, typer.Option("--offline", help="Never open a connection; so does E2V_OFFLINE=1.")]


def main() -> None:
    """Runs the command line: one line on stderr for every error; exit 2 for bad input, 1 for a partial failure."""
    try:
        app()
    except E2VError as error:
        _fail(str(error))
    except BrokenPipeError:  # `e2v analyze *.wav | head` is no error
        sys.stderr.close()
    except OSError as error:
        _fail(f"{error.filename or 'writing'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> None:
    _complain(message)
    sys.exit(BAD_INPUT)


def _complain(message: str) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def _progress(total: int) -> Iterator[Any]:
    """Gives a function to call after each file: it moves a bar on a terminal, and does nothing elsewhere."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress

    # Results may go into a file while the bar is on the terminal: they must not be caught with it.
    columns = (*Progress.get_default_columns(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty()) as progress:
        task = progress.add_task("analysing", total=total)
        yield lambda: progress.advance(task)


def _load(model: str, runtime: str, offline: bool) -> "Model":
    from e2v_port.model import load

    return load(model, runtime=runtime, offline=offline)


def _finish(total: int, failed: int) -> None:
    if failed:
        raise typer.Exit(BAD_INPUT if failed == total else PARTIAL_FAILURE)


@app.command()
def analyze(
    files: Files,
    model: ModelName,
    runtime: RuntimeName = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    offline: Offline = False,
) -> None:
    """Say which emotion is in each file: label, confidence, scores."""
    loaded = _load(model, runtime, offline)
    loaded.need_labels()
    failed = 0
    with _progress(len(files)) as advance:
        for file, result in zip(files, loaded.each(files), strict=True):
            if isinstance(result, AudioError):
                failed += 1
                _complain(str(result))
                if as_json:
                    print(json.dumps({"file": str(file), "error": str(result)}, ensure_ascii=False), flush=True)
            else:
                prediction = loaded.judge(result)
                if as_json:
                    print(
                        json.dumps({"file": str(file), **prediction.to_dict()}, ensure_ascii=False),
                        flush=True,
                    )
                else:
                    ranked = sorted(prediction.scores.items(), key=lambda item: -item[1])
                    scores = "  ".join(f"{label} {score:.3f}" for label, score in ranked)
                    print(f"{file}: {prediction.label} {prediction.confidence:.3f}  [{scores}]", flush=True)
            advance()
    _finish(len(files), failed)


@app.command()
def embed(
    files: Files,
    model: ModelName,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .npz to write: one array per file, under its name.")],
    granularity: Annotated[
        Literal["utterance", "frame"],
        typer.Option(help="[dim] per file, or [frames, dim], 50 frames a second."),
    ] = "utterance",
    runtime: RuntimeName = "auto",
    offline: Offline = False,
) -> None:
    """Write the embedding of each file to an .npz."""
    from e2v_port import npz

    if out.suffix != ".npz" or out.is_dir() or not out.parent.is_dir():
        _fail(f"{out} must be an .npz file in an existing folder")
    files = list(dict.fromkeys(files))  # a name can stand in the npz once
    loaded = _load(model, runtime, offline)
    failed = 0
    with npz.writing(out) as add, _progress(len(files)) as advance:
        for file, result in zip(files, loaded.each(files, frames=granularity == "frame"), strict=True):
            if isinstance(result, AudioError):
                failed += 1
                _complain(str(result))
            else:
                output = result[1]
                add(str(file), output.embedding if output.frames is None else output.frames)
            advance()
        if failed == len(files):
            _finish(len(files), failed)  # leaving by this exception, the npz is not written
    _finish(len(files), failed)


@app.command()
def convert(
    model: Annotated[str, typer.Option("--model", "-m", help="Known model, owner/name on a hub, folder or .pt file.")],
    hub: Annotated[Literal["auto", "modelscope", "huggingface"], typer.Option(help="Where to download from.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on that hub.")] = None,
    dtype: Annotated[
        Literal["float32", "float16", "bfloat16"], typer.Option(help="Of the stored weights.")
    ] = "float32",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; by default where --model NAME finds it.")
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
def models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List the known models and what is converted on this machine."""
    from e2v_port import catalog

    rows: list[dict[str, Any]] = [
        {
            "id": model.id,
            "parameters": model.parameters,
            "dimensions": model.embed_dim,
            "labels": list(model.labels),
            "licence": model.licence,
            "converted": str(catalog.find(model.id) or ""),
        }
        for model in catalog.known()
    ]
    known = {model.id for model in catalog.known()}
    others = [name for name in catalog.converted() if name not in known]
    if as_json:
        for row in [*rows, *({"id": name, "converted": str(catalog.find(name))} for name in others)]:
            print(json.dumps(row, ensure_ascii=False))
        return
    table = [["model", "size", "width", "labels", "licence", "converted"]]
    for row in rows:
        size = f"{row['parameters'] / 1e6:.0f} M"
        labels = f"{len(row['labels'])}" if row["labels"] else "none: embeddings"
        table.append(
            [
                row["id"],
                size,
                str(row["dimensions"]),
                labels,
                row["licence"],
                "yes" if row["converted"] else "no",
            ]
        )
    table += [[name, "", "", "", "", "yes"] for name in others]
    _print_table(table)
    emotions = next(model.labels for model in catalog.known() if model.labels)
    print(f"\nlabels: {', '.join(emotions)}\nfolders: {', '.join(map(str, catalog.roots()))}")


@app.command()
def doctor() -> None:
    """Say what this machine can run, and why not the rest."""
    import platform

    from e2v_port import __version__, catalog, devices, hubs, verify

    table = [
        ["what", "state"],
        ["e2v-port", __version__],
        ["Python", f"{platform.python_version()} on {platform.platform()}"],
    ]
    for runtime in devices.RUNTIMES:
        reason = devices.unavailable(runtime)
        table.append([f"runtime {runtime}", f"no: {reason}" if reason else f"yes: {devices.describe(runtime)}"])
    table.append(["runtime auto", f"takes {devices.choose('auto')}"])
    installed = verify.funasr_installed()
    table.append(
        [
            "FunASR",
            "installed: `e2v verify` compares with it" if installed else "not installed: only `e2v verify` needs it",
        ]
    )
    table.append(
        [
            "network",
            "never used (E2V_OFFLINE)" if hubs.offline_by_environment() else "used to download models",
        ]
    )
    table += [["weights", str(root) if root.is_dir() else f"{root} (does not exist yet)"] for root in catalog.roots()]
    table.append(
        [
            "converted",
            ", ".join(catalog.converted()) or "no model yet: e2v convert --model iic/emotion2vec_plus_base",
        ]
    )
    _print_table(table)


@app.command()
def verify(
    model: ModelName,
    runtime: Annotated[str, typer.Option("--runtime", "-r", help="One runtime, or all that this machine has.")] = "all",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Unconverted checkpoint, if it has moved since the conversion.")
    ] = None,
    audio: Annotated[Path | None, typer.Option(help="Clip to compare on; by default one made for it.")] = None,
    offline: Offline = False,
) -> None:
    """Compare a converted model with FunASR, stage by stage, and with published outputs."""
    from e2v_port import catalog, devices
    from e2v_port import verify as verification
    from e2v_port.audio import load_audio

    runtimes = (
        [name for name in devices.RUNTIMES if devices.unavailable(name) is None] if runtime == "all" else [runtime]
    )
    loaded = {name: _load(model, name, offline) for name in runtimes}
    config = next(iter(loaded.values())).config
    columns: dict[str, list[verification.Check]] = {name: [] for name in runtimes}
    notes = []

    clip = load_audio(audio) if audio else verification.test_clip()
    if verification.funasr_installed():
        reference = verification.FunASR(verification.checkpoint_of(config, checkpoint)).stages(clip)
        for name, each in loaded.items():
            columns[name] += verification.compare(each, reference, each.stages(clip, 16_000))
    else:
        notes.append("not compared with FunASR: it is not installed (pip install funasr)")

    known = catalog.lookup(config.source.repository)
    if known is None or known.published is None:
        notes.append(f"no published outputs are known for {config.source.repository}")
    else:
        for name, each in loaded.items():
            if audio and (check := verification.published(each, audio)):
                columns[name].append(check)
        if not audio or not any(check.name == "published logits" for check in columns[runtimes[0]]):
            notes.append(f"not compared with published outputs: pass --audio with {known.published.clip}")

    checks = [check for column in columns.values() for check in column]
    if checks:
        table = [["largest difference", *runtimes, "bar"]]
        for rows in zip(*columns.values(), strict=True):
            bars = ", ".join(dict.fromkeys("-" if check.bar == float("inf") else f"{check.bar:.0e}" for check in rows))
            marks = [f"{check.difference:.1e}{'' if check.passed else ' !'}" for check in rows]
            table.append([rows[0].name, *marks, bars])
        _print_table(table)
    for note in notes:
        print(note)
    if not checks:
        _fail(f"{model}: there was nothing to compare with")
    missed = sum(not check.passed for check in checks)
    verdict = f"NOT EQUAL: {missed} of {len(checks)} exceed their bar" if missed else "equal within the bars"
    print(f"{model}: {verdict}")
    if missed:
        raise typer.Exit(PARTIAL_FAILURE)


def _print_table(rows: Iterable[list[str]]) -> None:
    """Prints aligned columns: the same on a terminal, in a pipe and in a bug report."""
    rows = list(rows)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

"""e2v corpus, e2v report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from e2v_port.cli.options import DimensionalName, ModelName, Offline, RuntimeName
from e2v_port.cli.output import fail, finish, print_table
from e2v_port.files import printable

if TYPE_CHECKING:
    from e2v_port.corpus.run import Summary

__all__ = ["corpus", "report"]


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
    model: ModelName = None,
    dimensional: DimensionalName = None,
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
        int | None,
        typer.Option(metavar="N", help="Processes with models; by default what the machine is good for."),
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
            fail(str(error))
    if as_json:
        import json

        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        _print_summary(summary, out)
    if failure:
        fail(str(failure))
    finish(summary.clips, summary.failed)


def _print_summary(summary: "Summary", out: Path) -> None:
    hours = f"{summary.hours:.2f} h of audio"
    print(f"{out}: {summary.clips} clips, {hours}, {summary.rows} rows, {summary.failed} clips could not be judged")
    print(f"this run: {summary.done} clips in {summary.seconds:.1f} s, {summary.speed:.0f} s of audio per second")
    for name, counts in (("label", summary.labels), ("error", summary.errors)):
        if counts:
            print()
            total = sum(counts.values())
            unit = "rows" if name == "label" else "clips"
            rows = [[printable(key), str(count), f"{count / total:.1%}"] for key, count in counts.items()]
            print_table([[name, unit, "share"], *rows])


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What e2v corpus wrote.", show_default=False)],
) -> None:
    """Draw what e2v corpus found, as report.html and report.png in its folder."""
    from e2v_port.corpus.report import write

    for path in write(folder):
        print(path)

"""e2v corpus and e2v report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from e2v_port.cli.options import ChannelOrEach, DimensionalName, LabelNames, ModelName, Offline, RuntimeName
from e2v_port.cli.output import fail, finish, print_table
from e2v_port.files import printable

if TYPE_CHECKING:
    from e2v_port.corpus.job import Summary

__all__ = ["corpus", "report"]


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, glob, list (.txt), table (.csv, .parquet) or tar shards; local or an fsspec address.",
        show_default=False,
    ),
]
# A string, not a path: an address such as s3://bucket is refused by its own name.
Out = Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="Output folder; an unfinished run is resumed.")]
Whole = Annotated[bool, typer.Option("--whole", help="Write one row per clip instead of one per segment of speech.")]
Embeddings = Annotated[bool, typer.Option("--embeddings", help="Also write the embedding of each row, as float16.")]
Adapt = Annotated[
    bool,
    typer.Option("--adapt", help="Adapt to each speaker, from all rows of that speaker in an output file."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Precision of the computation: float32, bfloat16 or float16. Default: as stored.",
        show_default=False,
    ),
]
Longest = Annotated[float, typer.Option(metavar="SECONDS", help="Report longer clips as errors. The maximum is 21600.")]
MaxErrors = Annotated[
    float,
    typer.Option("--max-errors", metavar="SHARE", help="Stop when more than this share of the clips fails, 0 to 1."),
]
Shard = Annotated[
    int, typer.Option(metavar="CLIPS", help="Clips per output file (the most work a killed run can lose).")
]
Update = Annotated[
    bool, typer.Option("--update", help="Redo results of other models or settings, and those that hold errors.")
]
Engine = Annotated[Literal["local", "ray"], typer.Option(help="Run on this machine or on a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address of the cluster. Default: start one on this machine.")
]
Workers = Annotated[
    int | None, typer.Option(metavar="N", help="Processes that run models. Default: chosen for this machine.")
]
Decoders = Annotated[
    int | None, typer.Option(metavar="N", help="Decoding processes per worker. Default: one per core.")
]


def corpus(
    source: Source,
    out: Out,
    model: ModelName = None,
    dimensional: DimensionalName = None,
    labels: LabelNames = None,
    channel: ChannelOrEach = "mix",
    whole: Whole = False,
    embeddings: Embeddings = False,
    adapt: Adapt = False,
    runtime: RuntimeName = "auto",
    dtype: Dtype = None,
    longest: Longest = 3600,
    max_errors: MaxErrors = 0.2,
    shard: Shard = 500,
    update: Update = False,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = None,
    decoders: Decoders = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    offline: Offline = False,
) -> None:
    """Analyze a whole corpus into Parquet files.

    Run the same command again to resume after an interruption. See docs/corpora.md.
    """
    summary, failure = _run(
        source,
        out,
        model=model,
        dimensional=dimensional,
        labels=labels,
        runtime=runtime,
        dtype=dtype,
        channel=channel,
        whole=whole,
        embeddings=embeddings,
        adapt=adapt,
        longest=longest,
        max_errors=max_errors,
        shard=shard,
        update=update,
        engine=engine,
        address=address,
        workers=workers,
        decoders=decoders,
        offline=offline,
    )
    if as_json:
        print(json.dumps(asdict(summary), ensure_ascii=False))
    else:
        _print_summary(summary, out)
    if failure:
        fail(failure)
    finish(summary.clips, summary.failed)


def _run(source: str, out: str, **options: Any) -> "tuple[Summary, str | None]":
    """Runs with a progress bar. Returns the summary and, if too many clips failed, the error."""
    from e2v_port.cli.progress import shown
    from e2v_port.corpus.job import TooManyErrors
    from e2v_port.corpus.run import run

    with shown() as progress:
        try:
            return run(source, out, progress=progress, **options), None
        except TooManyErrors as error:
            return error.summary, str(error)
        except ValueError as error:
            fail(str(error))


def _print_summary(summary: "Summary", out: str) -> None:
    hours = f"{summary.hours:.2f} h of audio"
    print(f"{out}: {summary.clips} clips, {hours}, {summary.rows} rows, {summary.failed} clips failed")
    print(f"this run: {summary.done} clips in {summary.seconds:.1f} s, {summary.speed:.0f} s of audio per second")
    for name, counts in (("label", summary.labels), ("error", summary.errors)):
        if counts:
            print()
            total = sum(counts.values())
            unit = "rows" if name == "label" else "clips"
            rows = [[printable(key), str(count), f"{count / total:.1%}"] for key, count in counts.items()]
            print_table([[name, unit, "share"], *rows])


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Output folder of `e2v corpus`.", show_default=False)
    ],
) -> None:
    """Draw the results of e2v corpus as report.html and report.png."""
    from e2v_port.corpus.report import write

    for path in write(folder):
        print(path)

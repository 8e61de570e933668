"""e2v dialogue rate."""

import math
from pathlib import Path
from typing import Annotated

import typer

from e2v_port.cli.output import fail, need_folder, print_table
from e2v_port.files import printable

__all__ = ["rate"]

Replies = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Make sheets of these replies: replies.jsonl of e2v dialogue evaluate.", show_default=False
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Output folder for the sheets, instructions and key.csv, which raters must not see.",
        show_default=False,
    ),
]
Raters = Annotated[int, typer.Option(min=1, help="Number of raters; all rate the same replies.")]
Items = Annotated[int, typer.Option(min=1, help="Number of remarks; raters rate the reply of every model to each.")]
Read = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Read a filled-in sheet. Repeatable, once per rater.", show_default=False),
]
Key = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="key.csv of the sheets that are read.", show_default=False),
]


def rate(
    replies: Replies = None,
    out: Out = None,
    raters: Raters = 3,
    items: Items = 50,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    read: Read = None,
    key: Key = None,
) -> None:
    """Let people rate replies without knowing whose they are.

    Make sheets with --replies and --out. Read them back with --read and --key.
    """
    from e2v_port.dialogue.scoring import rating, written

    if replies and out and not read:
        need_folder("--out", out)
        made = rating.sheets(written.rows(replies), raters, items, seed)
        for file in rating.write(made, out):
            print(file)
        return
    if replies or out or not (read and key):
        fail("pass --replies and --out to make sheets, or --read and --key to read them")
    found = rating.read(read, key, seed)
    rows = [["model", *rating.QUESTIONS, "ratings"]]
    for name, means in found.models.items():
        cells = [str(means[question][0]) if question in means else "-" for question in rating.QUESTIONS]
        rows.append([printable(name), *cells, str(sum(number for _, number in means.values()))])
    agreement = ("-" if math.isnan(value) else f"{value:.3f}" for value in found.alpha.values())
    rows.append(["agreement (alpha)", *agreement, ""])
    print_table(rows)

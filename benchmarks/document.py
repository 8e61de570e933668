"""Replaces the results of `e2v bench` in docs/benchmarks.md.

python benchmarks/document.py FOLDER/bench.json...
"""

import argparse
import json
import re
from pathlib import Path

from e2v_port.bench.report import render
from e2v_port.files import replacing

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BETWEEN = re.compile(r"(<!-- bench.*?-->\n).*?(<!-- /bench -->)", re.S)


def main() -> None:
    """Renders each file as a section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, nargs="+", metavar="FILE.json")
    sections = [render(json.loads(path.read_text("utf-8"))) for path in parser.parse_args().measured]
    text = "\n".join(("", *sections, ""))
    page, places = BETWEEN.subn(lambda match: match[1] + text + match[2], PAGE.read_text("utf-8"))
    if places != 1:
        raise SystemExit(
            f"error: {PAGE.name} has {places} places for the results: keep one <!-- bench --> <!-- /bench -->"
        )
    with replacing(PAGE) as partial:
        partial.write_text(page, "utf-8", newline="\n")


if __name__ == "__main__":
    main()

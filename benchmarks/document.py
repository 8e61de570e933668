"""Puts what `e2v bench` measured into docs/benchmarks.md, in place of what stands there.

python benchmarks/document.py FOLDER/bench.json...
"""

import argparse
import json
import re
from pathlib import Path

from e2v_port.bench_report import render
from e2v_port.files import replacing

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BETWEEN = re.compile(r"(<!-- bench.*?-->\n).*?(<!-- /bench -->)", re.S)


def main() -> None:
    """One section for each file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("measured", type=Path, nargs="+", metavar="FILE.json")
    sections = [render(json.loads(path.read_text("utf-8"))) for path in parser.parse_args().measured]
    text = "\n".join(("", *sections, ""))
    page, places = BETWEEN.subn(lambda found: found[1] + text + found[2], PAGE.read_text("utf-8"))
    if places != 1:
        raise SystemExit(f"error: {PAGE.name} has {places} places for it: one pair of <!-- bench --> <!-- /bench -->")
    with replacing(PAGE) as partial:
        partial.write_text(page, "utf-8", newline="\n")


if __name__ == "__main__":
    main()

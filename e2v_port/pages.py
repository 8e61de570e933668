"""HTML reports that need no other file and no network: the page, its style, and its tables."""

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["page", "table", "wide"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #ffffff; --grey: #767676; --line: #d8d8d8;
  --heat: 0 114 178; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e8; --paper: #161616; --grey: #9a9a9a; --line: #3a3a3a; --heat: 86 180 233; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 46rem;
  margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; }
figcaption, .note { color: var(--grey); font-size: 0.9rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: 0.25rem 0.75rem 0.25rem 0; text-align: left; vertical-align: top; font-weight: normal; }
td { font-variant-numeric: tabular-nums; }
th { color: var(--grey); overflow-wrap: break-word; } tr { border-bottom: 1px solid var(--line); }
"""


def page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """Returns a page in light or dark, as the reader prefers.

    Args:
        title: Title, as plain text.
        parts: Contents, as HTML.
        style: CSS in addition to that of all pages, or to override it.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def table(rows: Iterable[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Returns a table that scrolls sideways where it is too wide.

    Args:
        rows: Cells as plain text; the first of each row is its heading.
        head: Headings of the columns.
    """
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [f"<tr>{heads}</tr>"] if head else []
    for first, *others in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in others)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return wide(lines)


def wide(rows: Iterable[str], kind: str = "") -> str:
    """Returns a table that scrolls sideways where it is too wide, from rows in HTML, optionally with a CSS class."""
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f'<div class="wide">{opening}{"".join(rows)}</table></div>'

"""The HTML page that all reports share."""

import re

from e2v_port import pages


def test_a_page_is_complete_and_loads_nothing() -> None:
    text = pages.page("a < b", ["<h1>one</h1>", pages.table([["x", "y"]])], style="h1 { color: red; }")
    assert text.startswith("<!doctype html>")
    assert "<title>a &lt; b</title>" in text
    assert "h1 { color: red; }" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?:|url\(|@import|<script|<link|src=", text)
    assert text.count("<table>") == text.count("</table>") == 1


def test_cells_are_escaped_and_the_first_of_a_row_is_its_heading() -> None:
    text = pages.table([["<b>", "1 & 2"]], ["", "count"])
    assert '<th scope="col">count</th>' in text
    assert '<th scope="row">&lt;b&gt;</th><td>1 &amp; 2</td>' in text

"""Cells of tables that other programs open."""

from typing import TypeVar

__all__ = ["cell", "without_guard"]

_T = TypeVar("_T")

# What spreadsheets take for the start of a formula: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def cell(value: _T) -> _T | str:
    """Returns a cell for a CSV that no spreadsheet runs as a formula.

    Text that would start one gets an apostrophe in front, which spreadsheets take as "this is text". Anything but text,
    such as a negative number, is returned unchanged.
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def without_guard(value: str) -> str:
    """Returns the text that `cell` was given."""
    return value[1:] if value.startswith("'") and value[1:].startswith(_FORMULA) else value

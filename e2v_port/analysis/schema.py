"""The JSON Schema of everything this package writes as JSON or as a table: analysis/schema.json, see docs/json.md."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from e2v_port.errors import quoted

__all__ = ["SCHEMA_VERSION", "about", "definition", "schema"]

SCHEMA_VERSION = 1
"""Version of the dialect: `schema_version` in every document. It changes when a name or a meaning does."""


@cache
def schema() -> dict[str, Any]:
    """Returns the JSON Schema (2020-12) of a document. It is read once and shared: do not change it."""
    content: dict[str, Any] = json.loads(files("e2v_port.analysis").joinpath("schema.json").read_text("utf-8"))
    return content


def definition(name: str) -> dict[str, Any]:
    """Returns the schema of one of the `$defs`, complete by itself.

    Args:
        name: E.g. `segment`, `emotion`, `live_line`, `history_row` or `corpus_row`.
    """
    definitions = schema()["$defs"]
    if name not in definitions:
        raise ValueError(f"no definition is called {quoted(name)}; known: {', '.join(definitions)}")
    return {"$schema": schema()["$schema"], "$ref": f"#/$defs/{name}", "$defs": definitions}


def about(column: Mapping[str, Any]) -> dict[str, str]:
    """Returns description, unit and range of a property of the schema, as the metadata of a column."""
    span = ", ".join(value for value in column.get("enum", ()) if value)
    if not span and "minimum" in column:
        span = f"{column['minimum']} to {column['maximum']}" if "maximum" in column else f"from {column['minimum']}"
    words = {"description": column.get("description", ""), "unit": column.get("unit", ""), "range": span}
    return {name: text for name, text in words.items() if text}

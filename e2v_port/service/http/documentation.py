"""The page /docs: the OpenAPI document as HTML that loads nothing from other hosts."""

import json
from html import escape
from typing import Any

__all__ = ["documentation"]

_STYLE = (
    ":root{color-scheme:light dark}body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "th{text-align:left;vertical-align:top;padding-right:1rem;white-space:nowrap}td{overflow-wrap:anywhere}"
    "pre{overflow:auto;max-height:30rem}h2,h3{font:600 1.1rem ui-monospace,monospace;margin-top:2rem}"
)


def documentation(document: dict[str, Any], stream_start: str) -> str:
    """Returns an OpenAPI document as an HTML page.

    Args:
        document: The OpenAPI document.
        stream_start: First message of a live stream, as an example.
    """
    routes = [
        _route(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = document["components"]
    tokens = "".join(f"<p>{escape(scheme['description'])}" for scheme in parts["securitySchemes"].values())
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=width=device-width>"
        f"<title>e2v-port API</title><style>{_STYLE}</style>"
        f"<h1>e2v-port API</h1><p>{escape(document['info']['description'])}</p>"
        f"<p>Also available as an <a href=/openapi.json>OpenAPI document</a>. Live audio goes to the WebSocket "
        f"/v1/stream: send <code>{escape(stream_start)}</code> first, then samples as binary messages, then "
        f'<code>{{"type": "end"}}</code>; judgements come back as {_link("event")}.</p>'
        f"<h2>Authorization: Bearer TOKEN</h2>{tokens}{''.join(routes)}<h2>Fields</h2>"
        + "".join(_fields(name, schema) for name, schema in parts["schemas"].items())
    )


def _route(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (f"{p['name']} ({p['in']})", f"{escape(p.get('description', ''))} {_kind(p['schema'])}")
        for p in operation.get("parameters", [])
    ]
    rows += [(f"body {kind}", _kind(each["schema"])) for kind, each in _content(operation.get("requestBody", {}))]
    examples = ""
    for status, answer in operation["responses"].items():
        kinds = "; ".join(f"{escape(kind)} {_kind(each['schema'])}" for kind, each in _content(answer))
        rows.append((f"response {status}", f"{escape(answer['description'])} {kinds}"))
        for _, each in _content(answer):
            if "example" in each:
                example = escape(json.dumps(each["example"], indent=2, ensure_ascii=False))
                examples += f"<details><summary>Example</summary><pre>{example}</pre></details>"
    text = escape(operation.get("description", ""))
    summary = escape(operation["summary"])
    return f"<h2>{method.upper()} {escape(path)}</h2><p><b>{summary}.</b> {text}</p>{_table(rows)}{examples}"


def _content(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(body.get("content", {}).items())


def _fields(name: str, schema: dict[str, Any]) -> str:
    """Returns the properties of a schema as a table."""
    rows = []
    for field, part in schema.get("properties", {}).items():
        unit = f" in {part['unit']}" if "unit" in part else ""
        missing = "" if field in schema.get("required", ()) else " (may be missing)"
        rows.append((field, f"{_kind(part)}{escape(unit)}{missing}. {escape(part.get('description', ''))}"))
    above = "".join(f" All fields of {_kind(part)}." for part in schema.get("allOf", ()))
    return (
        f"<h3 id={escape(name)}>{escape(name)}</h3><p>{escape(schema.get('description', ''))}{above}</p>{_table(rows)}"
    )


def _kind(part: dict[str, Any]) -> str:
    """Returns the type of a value in a few words, with links to other schemas."""
    if "$ref" in part:
        return _link(part["$ref"].rpartition("/")[2])
    if "anyOf" in part:
        return " or ".join(map(_kind, part["anyOf"]))
    if "enum" in part or "const" in part:
        return escape(", ".join(json.dumps(value) for value in part.get("enum", [part.get("const")])))
    kinds = part.get("type", "any")
    text = escape(kinds if isinstance(kinds, str) else " or ".join(kinds))
    if "items" in part:
        text += f" of {_kind(part['items'])}"
    if "format" in part:
        text += f" ({escape(part['format'])})"
    return text


def _link(name: str) -> str:
    return f"<a href=#{escape(name)}>{escape(name)}</a>"


def _table(rows: list[tuple[str, str]]) -> str:
    """Returns a table; the second cells are HTML."""
    return "<table>" + "".join(f"<tr><th>{escape(name)}<td>{text}" for name, text in rows) + "</table>" if rows else ""

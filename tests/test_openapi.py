"""The OpenAPI document is valid and complete, and its examples are real answers. Run it to write them anew."""

import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from served import Served

from e2v_port.analysis.schema import schema

CLIP = Path(__file__).parents[1] / "benchmarks" / "speech" / "calm.flac"
EXAMPLES = Path(__file__).parents[1] / "e2v_port" / "service" / "http" / "examples.json"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="starts the service as its tests do, which needs /proc")


def answers(history: Path) -> dict[str, Any]:
    """Asks a service for one answer of each kind, and shortens the long lists."""
    with Served("--history", str(history)) as service:
        form = {"name": "calm.flac", "speaker": "ann", "recorded_at": "2026-01-31T12:00:00Z"}
        found = {"POST /v1/analyze": service.analyze(CLIP, **form)}
        found["POST /v1/embed"] = service.client.post("/v1/embed", content=CLIP.read_bytes()).json()
        paths = ("/v1/models", "/v1/config/emotion", "/v1/history", "/v1/history/audit")
        found |= {f"GET {path}": service.client.get(path).json() for path in paths}
    found["GET /v1/history/audit"]["file"] = "/data/history.sqlite"
    found["POST /v1/embed"]["embedding"] = found["POST /v1/embed"]["embedding"][:4]
    return found


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served("--history", str(tmp_path_factory.mktemp("history") / "h.sqlite")) as served:
        yield served


@pytest.fixture(scope="module")
def document(service: Served) -> dict[str, Any]:
    return service.client.get("/openapi.json").json()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def check(document: dict[str, Any], part: dict[str, Any], value: Any) -> None:
    """Fails unless a value matches a schema of the document."""
    whole = {**part, "components": document["components"]}
    jsonschema.Draft202012Validator(whole, format_checker=jsonschema.FormatChecker()).validate(value)


def test_every_answer_has_fields(document: dict[str, Any]) -> None:
    """None of them is "any JSON", and each of its schemas is a valid one with properties."""
    known = document["components"]["schemas"]
    for name, part in known.items():
        jsonschema.Draft202012Validator.check_schema(part)
        assert part.get("description"), name
        assert part.get("properties") or part.get("allOf") or "additionalProperties" in part, name
    for path, method, operation in operations(document):
        answer = operation["responses"]["200"]["content"]
        for kind, content in answer.items():
            assert content["schema"].keys() & {"$ref", "type"}, (path, method, kind)
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= set(known)
    assert {"answer", "analysis", "segment", "emotion", "event", "history_row"} <= known.keys()
    assert "corpus_row" not in known
    assert known["segment"]["properties"]["emotion"]["anyOf"][0] == {"$ref": "#/components/schemas/emotion"}


def test_the_token_is_a_security_scheme(document: dict[str, Any]) -> None:
    [scheme] = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    assert document["security"] == [{"token": []}, {}]
    free = [path for path, _, operation in operations(document) if operation.get("security") == []]
    assert free == ["/healthz", "/readyz"]


def test_the_document_is_valid(document: dict[str, Any], service: Served) -> None:
    """schemathesis reads it: every reference is resolved and every operation can be called."""
    import schemathesis

    read = schemathesis.openapi.from_url(f"{service.url}/openapi.json")
    read.validate()
    assert len(list(read.get_all_operations())) == len(operations(document))


def test_the_examples_are_real_answers(document: dict[str, Any], tmp_path: Path) -> None:
    shown = {}
    for path, method, operation in operations(document):
        for answer in operation["responses"].values():
            for content in answer.get("content", {}).values():
                if "example" in content:
                    check(document, content["schema"], content["example"])
                    shown[f"{method.upper()} {path}"] = content["example"]
    assert shown == json.loads(EXAMPLES.read_text("utf-8"))
    real = answers(tmp_path / "history.sqlite")
    for route, value in real.items():
        assert shape(shown[route]) == shape(value), f"{route}: run tests/test_openapi.py to write the examples anew"
    [segment] = shown["POST /v1/analyze"]["segments"]
    emotion = real["POST /v1/analyze"]["segments"][0]["emotion"]
    assert segment["emotion"]["primary"] == emotion["primary"]
    assert segment["emotion"]["confidence"] == pytest.approx(emotion["confidence"], abs=1e-3)


def shape(value: Any) -> Any:
    """Returns the names and types in a value."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    return [shape(part) for part in value] if isinstance(value, list) else type(value).__name__


class Page(HTMLParser):
    """Collects what is linked to and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets, self.names, self.text = set(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names |= {f"#{found['id']}"} if "id" in found else set()
        self.targets |= {found["href"]} if "href" in found else set()

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_fields_examples_and_the_token(service: Served, document: dict[str, Any]) -> None:
    page = Page(service.client.get("/docs").text)
    assert page.targets - {"/openapi.json"} <= page.names
    assert {f"#{name}" for name in document["components"]["schemas"]} == page.names
    assert "Authorization: Bearer TOKEN" in page.text
    for field in schema()["$defs"]["emotion"]["properties"].values():
        assert field.get("description", "") in page.text
    for example in json.loads(EXAMPLES.read_text("utf-8")).values():
        assert json.dumps(example, indent=2, ensure_ascii=False) in page.text


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = answers(Path(folder) / "history.sqlite")
    made = json.loads(EXAMPLES.read_text("utf-8")) | made  # a reply takes a model that was trained
    EXAMPLES.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", "utf-8")

"""All errors are one tree, all of it public, and those of the service are one branch of it."""

import ast
import pickle
from pathlib import Path

import pytest

import e2v_port
from e2v_port import errors

SERVICE = Path(e2v_port.__file__).parent / "service"
ALL = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]


def test_every_error_is_public_and_in_one_tree() -> None:
    defined = [value for value in vars(errors).values() if getattr(value, "__module__", "") == errors.__name__]
    defined = [value for value in defined if isinstance(value, type)]
    assert set(defined) == set(ALL)
    assert all(issubclass(kind, errors.E2VError) for kind in ALL)
    assert all(getattr(e2v_port, kind.__name__) is kind for kind in ALL)


def test_the_service_defines_no_other_errors() -> None:
    """Except `Stopped`, which never leaves the process that holds the models."""
    own = {
        node.name
        for path in SERVICE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(str(getattr(base, "id", "")).endswith(("Exception", "Error")) for base in node.bases)
    }
    assert own <= {"Stopped"}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.RequestRefused),
        (422, errors.RequestRefused),
        (499, errors.RequestCancelled),
        (500, errors.ServiceError),
        (503, errors.ServiceUnavailable),
    ],
)
def test_a_status_code_belongs_to_an_error(status: int, kind: type[errors.ServiceError]) -> None:
    error = errors.ServiceError.of(status, "word", "one line")
    assert type(error) is kind
    assert (error.status, error.kind, str(error)) == (status, "word", "one line")


@pytest.mark.parametrize("kind", [each for each in ALL if issubclass(each, errors.ServiceError)])
def test_errors_of_the_service_survive_a_process_boundary(kind: type[errors.ServiceError]) -> None:
    error = kind("one line")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.status, copy.kind) == ("one line", error.status, error.kind)
    assert (error.retry_after is not None) == (error.status == 503)


@pytest.mark.parametrize("kind", ALL)
def test_a_message_is_one_short_line_whatever_it_quotes(kind: type[errors.E2VError]) -> None:
    message = str(kind(f"{'a' * 50_000_000}\n\x1b[2J: {'b' * 1000} remedy"))
    assert len(message) <= 2000
    assert message.isprintable()
    assert message.startswith("aaa")
    assert message.endswith("remedy")
    assert str(kind("clip.wav: too short\tpass more")) == "clip.wav: too short pass more"


@pytest.mark.parametrize(
    "value",
    ["x" * 50_000_000, b"x" * 50_000_000, ["x" * 1000] * 1000, 10**5000, "a\nb"],
    ids=["text", "bytes", "list", "number", "lines"],
)
def test_a_quoted_value_is_short(value: object) -> None:
    text = errors.quoted(value)
    assert len(text) <= 90
    assert text.isprintable()
    assert errors.quoted(0.5) == "0.5"

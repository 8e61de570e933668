"""Contents of the OpenAPI document: bodies, responses, errors, examples and the token."""

import json
import re
from datetime import datetime
from importlib.resources import files
from typing import Any

from pydantic import BaseModel
from typing_extensions import TypedDict  # pydantic cannot read the one of typing before Python 3.12

from e2v_port.analysis.schema import schema

__all__ = [
    "ANALYSIS",
    "AUDIT",
    "BODY",
    "DESCRIPTION",
    "EMBEDDING",
    "ERRORS",
    "EXPORT",
    "HISTORY",
    "MODELS",
    "REMARK",
    "REPLY",
    "REPLYING",
    "TEXT",
    "UPLOAD",
    "Audit",
    "Config",
    "Deleted",
    "EmbedAnswer",
    "ErrorAnswer",
    "ModelAnswer",
    "Ready",
    "ReplyAnswer",
    "Status",
    "Switch",
    "Taxonomy",
    "completed",
    "errors",
]

EXAMPLES: dict[str, Any] = json.loads(files("e2v_port.service.http").joinpath("examples.json").read_text("utf-8"))
"""Real answers by method and path, which `tests/test_openapi.py` writes."""

_SCHEMAS = "#/components/schemas/"
_OPEN = ("/healthz", "/readyz")  # ask for no token
DESCRIPTION = (
    "Estimates of the emotion in a voice, computed on this machine. Estimates can be wrong: always show `confidence` "
    "with a label, and never show a label with the note `uncertain` as an answer."
)


class ErrorBody(TypedDict):
    """An error: a word for programs, and one line that names the remedy."""

    kind: str
    message: str
    request_id: str


class ErrorAnswer(TypedDict):
    """Body of every error response."""

    error: ErrorBody


class Status(TypedDict):
    """State of the service: `ok`."""

    status: str


class Ready(TypedDict):
    """State of the service: `ready`; and whether it reads words, and replies."""

    status: str
    words: bool
    replies: bool


class Taxonomy(TypedDict):
    """The 26 emotions, the compound labels, and the meaning of each label of each set, as in the folder taxonomy/."""

    emotions: dict[str, Any]
    compounds: dict[str, Any]
    labels: dict[str, Any]


class TableAudit(TypedDict):
    """A table of the history: its purpose, its number of rows, and the purpose of each column."""

    why: str
    rows: int
    columns: dict[str, str]


class Period(TypedDict):
    """Oldest and newest row; null if there is none."""

    oldest: str | None
    newest: str | None


class SpeakerAudit(TypedDict):
    """Number and total length of the segments of a speaker, in seconds; null for those without a name."""

    speaker: str | None
    segments: int
    seconds: float


class SettingsAudit(TypedDict):
    """Days that segments and daily sums are kept, null for ever; and whether emotions are analyzed."""

    raw_days: float
    aggregate_days: float | None
    emotion_enabled: bool


class Deletion(TypedDict):
    """A deletion: its time, its scope, and the number of rows."""

    at: str
    what: str
    segments: int
    days: int


class Audit(TypedDict):
    """Everything that the history holds; `overwritten` is false while something deleted can still be read on disk."""

    file: str
    bytes: int
    never_stored: list[str]
    tables: dict[str, TableAudit]
    segments: Period
    days: Period
    speakers: list[SpeakerAudit]
    settings: SettingsAudit
    overwritten: bool
    deletions: list[Deletion]


class EmbedAnswer(TypedDict):
    """One embedding of a clip, or one every `hop_seconds`; null while emotion analysis is off."""

    request_id: str
    model: str
    dim: int
    duration: float
    hop_seconds: float
    notes: list[dict[str, str]]
    embedding: list[float] | list[list[float]] | None


class ModelAnswer(TypedDict):
    """A loaded model."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str
    limited_to: list[str] | None
    labels: list[str]
    embed_dim: int
    hop_seconds: float


class Prosody(TypedDict):
    """How the reply should sound: an emotion that answers the tone, and factors for a neutral voice.

    `rate`, `pitch` and `volume` are those of `SpeechSynthesisUtterance` in a browser.
    """

    emotion: str
    intensity: float
    rate: float
    pitch: float
    volume: float


class ReplyAnswer(TypedDict):
    """A reply to a remark; `tone` is an estimate, and no answer where `unclear` is true.

    `words` are null unless they were asked for; `audio` is a WAV file in base64, null unless it was asked for and the
    service has a speech engine. `seconds` are those until the voice was encoded, until the first token, and in all.
    """

    request_id: str
    reply: str
    tone: dict[str, float] | None
    unclear: bool | None
    words: str | None
    notes: list[dict[str, str]]
    duration: float
    seconds: dict[str, float]
    prosody: Prosody
    audio: str | None


class Switch(BaseModel, extra="forbid"):
    """Whether emotion analysis is to be on."""

    enabled: bool


class Config(BaseModel):
    """Whether emotion analysis is on, since when, and whether judgements are stored."""

    enabled: bool
    since: datetime
    history: bool


class Deleted(BaseModel):
    """Number of deleted rows."""

    deleted: int


def errors(**descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Returns the error responses of a route from their descriptions, e.g. `_400="The body is malformed."`."""
    return {int(status[1:]): {"model": ErrorAnswer, "description": text} for status, text in descriptions.items()}


ERRORS = errors(
    _400="The body is malformed.",
    _401="The token is missing or wrong.",
    _403="The Host header names another machine, or the request comes from another site's page.",
    _422="A parameter is invalid.",
)


def _answer(schema: dict[str, Any], **texts: str) -> dict[int | str, Any]:
    """Returns the response of a route that succeeds: its JSON, and the media types that it can have instead."""
    content: dict[str, Any] = {"application/json": {"schema": schema}}
    content |= {
        kind.replace("_", "/"): {"schema": {"type": "string", "description": text}} for kind, text in texts.items()
    }
    return {200: {"description": "The answer.", "content": content}}


ANALYSIS = _answer(
    {"$ref": f"{_SCHEMAS}answer"},
    text_csv="`format=csv`: a row per segment.",
    text_vtt="`format=vtt`: subtitles.",
    text_plain="`format=srt`, `textgrid`, `audacity` or `rttm`.",
)
ANALYSIS[200]["content"]["application/x-ndjson"] = {"schema": {"$ref": f"{_SCHEMAS}answer"}}
EMBEDDING = _answer({"$ref": f"{_SCHEMAS}EmbedAnswer"})
REPLY = _answer({"$ref": f"{_SCHEMAS}ReplyAnswer"})
REPLY[200]["content"]["text/event-stream"] = {
    "schema": {
        "type": "string",
        "description": "Events `tone`, `text`, and `done` or `error`, with JSON as their data.",
    }
}
MODELS = _answer({"type": "array", "items": {"$ref": f"{_SCHEMAS}ModelAnswer"}})
AUDIT = _answer({"$ref": f"{_SCHEMAS}Audit"})
EXPORT = _answer(
    {
        "type": "object",
        "properties": {"rows": {"type": "array", "items": {"$ref": f"{_SCHEMAS}history_row"}}},
        "required": ["rows"],
    },
    text_csv="`format=csv`: a row per segment or day.",
)
TEXT: dict[int | str, Any] = {
    200: {"description": "The answer.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}

_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _body(**beside: str) -> dict[str, Any]:
    """Returns the body of a route that takes audio: that alone, or a form with a text beside it."""
    fields: dict[str, Any] = {"file": {"type": "string", "format": "binary", "description": "Audio file."}}
    fields |= {name: {"type": "string", "description": text} for name, text in beside.items()}
    form = {"type": "object", "required": ["file"], "properties": fields}
    content: dict[str, Any] = dict.fromkeys(("application/octet-stream", "audio/wav", "audio/flac"), _BINARY)
    content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


BODY = _body(
    segments="Diarization, subtitles or transcript of the clip: formats in docs/analysis.md; or a JSON list of "
    '{"start", "end", "speaker", "text"}.'
)
REMARK = _body(
    context='What was said before, oldest first: a JSON list of {"role": "user" or "assistant", "content": words}.'
)
UPLOAD = errors(
    _400="The body holds no audio, or the form is malformed.",
    _408="The body arrived too slowly.",
    _413="The body is too large, or the clip too long.",
    _415="The multipart body is not form-data.",
    _422="The audio cannot be decoded, or parameters or segments are invalid.",
    _503="Too many requests, or the models are being loaded: see Retry-After.",
)
REPLYING = errors(
    _404="The service does not reply: start it with --reply FOLDER.",
    _409="Emotion analysis is switched off.",
)
HISTORY = errors(
    _404="Nothing is stored: start the service with --history FILE.",
    _503="The history file cannot be used at the moment.",
)


def completed(document: dict[str, Any]) -> dict[str, Any]:
    """Adds to FastAPI's document what it cannot hold.

    These are the fields of answers, from analysis/schema.json; examples, whose nulls it would drop; and the token.

    Args:
        document: The document, which is changed.
    """
    known = json.loads(json.dumps(schema()["$defs"]).replace("#/$defs/", _SCHEMAS))
    components = document["components"]
    wanted = ["answer", "event", "history_row"]
    for name in wanted:  # which grows by what it refers to
        components["schemas"][name] = known[name]
        found = re.findall(f'"{_SCHEMAS}(.+?)"', json.dumps(known[name]))
        wanted += [other for other in dict.fromkeys(found) if other not in wanted]
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "The token of `e2v serve --token`; without one, the service asks for none.",
        }
    }
    for route, example in EXAMPLES.items():
        method, _, path = route.partition(" ")
        answer = document["paths"][path][method.lower()]["responses"]["200"]
        answer["content"]["application/json"]["example"] = example
    document["security"] = [{"token": []}, {}]
    for path in _OPEN:
        document["paths"][path]["get"]["security"] = []
    return document

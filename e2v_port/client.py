"""A client of `e2v serve` that a pipeline can rely on: without the service, it goes on without emotions.

Needs nothing but the standard library, and loads no model.
"""

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, TypeVar
from urllib.parse import urlencode, urlsplit

from e2v_port.errors import AudioError, SegmentError, ServiceError, ServiceUnavailable

__all__ = [
    "Answer",
    "Audio",
    "Boundary",
    "Client",
    "Embedding",
    "Emotion",
    "GivenSegment",
    "Segment",
    "ServedModel",
    "UsedModel",
]

Audio: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO
_T = TypeVar("_T")

_AUDIO = {"audio", "empty", "too_large", "too_long"}  # kinds of errors that are about the clip
_LATER = {408, 429}  # of the caller by their number, but not its fault
_NAME = 255  # characters that the service takes


class GivenSegment(Protocol):
    """What is needed of a segment that somebody gives, as `e2v_port.segments.GivenSegment` has it; or a dict of it."""

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102
    @property
    def speaker(self) -> str | None: ...  # noqa: D102
    @property
    def text(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Emotion:
    """An estimate of how a voice sounds. What no model said, and nothing follows from, is None.

    Attributes:
        primary: The most probable label.
        confidence: Of it, 0 to 1; below 0.3 it is not to be shown without saying so.
        intensity: `low`, `mild`, `moderate` or `high`.
        valence: `negative`, `neutral` or `positive`.
        arousal: `low`, `moderate` or `high`.
        compound: The label refined by arousal and dominance.
        octant: Of the three dimensions.
        agreement: Of label and valence: `agree`, `disagree` or `neutral`.
        notes: Any of `elevated arousal`, `short` and `uncertain`.
        e2v_scores: Probability of each label.
        avd_scores: `arousal`, `dominance` and `valence`, 0 to 1.
        avd_from: Where these are from: `model`, measured; `labels`, derived.
        distribution: Probability of each of the 26 emotions.
    """

    primary: str | None
    confidence: float | None
    intensity: str | None
    valence: str | None
    arousal: str | None
    compound: str | None
    octant: str | None
    agreement: str | None
    notes: tuple[str, ...]
    e2v_scores: Mapping[str, float] | None
    avd_scores: Mapping[str, float] | None
    avd_from: str | None
    distribution: Mapping[str, float] | None


@dataclass(frozen=True)
class Segment:
    """A stretch of a clip.

    Attributes:
        start: Seconds from the start of the clip.
        end: Seconds.
        quality: How far the estimate can be trusted, as in `e2v_port.segments.Segment`; None if nobody looked.
        speaker: Who speaks, if that was given.
        text: What is said, if that was given.
        emotion: None if it was not judged: too short, no speech, nobody enrolled, switched off, or no service.
    """

    start: float
    end: float
    quality: str | None
    speaker: str | None
    text: str | None
    emotion: Emotion | None


@dataclass(frozen=True)
class Boundary:
    """A stretch in which one label prevails, in seconds from the start of the clip."""

    start: float
    end: float
    label: str
    probability: float


@dataclass(frozen=True)
class UsedModel:
    """A model that a clip was judged with, as `e2v_port.UsedModel`."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str


@dataclass(frozen=True)
class ServedModel:
    """A model that the service has loaded."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str
    labels: tuple[str, ...]
    embed_dim: int
    hop_seconds: float


@dataclass(frozen=True)
class Answer:
    """What the service says of a clip.

    Attributes:
        segments: In order of time. Without the service, those that were given, with `emotion` None.
        unavailable: Why there is no answer, in one line; None if there is one. What follows is then None or empty.
        request_id: By which the service's log has it.
        file: What the clip is called.
        duration: Of the clip, in seconds.
        emotion_enabled: Whether emotions are analysed at all.
        reason: Why no segment was judged; None if one was.
        context: One line that tells a language model how the voice sounds.
        boundaries: Which emotion when, inside the segments; None unless asked for.
        models: That judged.
        settings: All thresholds.
        timings: Seconds by stage.
        history: `off`, `stored`, or why it was not.
    """

    segments: tuple[Segment, ...]
    unavailable: str | None = None
    request_id: str | None = None
    file: str | None = None
    duration: float | None = None
    emotion_enabled: bool | None = None
    reason: str | None = None
    context: str | None = None
    boundaries: tuple[Boundary, ...] | None = None
    models: tuple[UsedModel, ...] = ()
    settings: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None
    history: str | None = None


@dataclass(frozen=True)
class Embedding:
    """What a model makes of a voice, as numbers.

    Attributes:
        embedding: [dim], or [frames][dim] if frames were asked for; None if emotions are switched off, or without the
            service.
        unavailable: Why there is no answer, in one line; None if there is one. What follows is then None.
        request_id: By which the service's log has it.
        model: That made it.
        dim: Numbers in a vector.
        duration: Of the clip, in seconds.
        hop_seconds: Between two frames.
    """

    embedding: list[float] | list[list[float]] | None
    unavailable: str | None = None
    request_id: str | None = None
    model: str | None = None
    dim: int | None = None
    duration: float | None = None
    hop_seconds: float | None = None


class Client:
    """Asks a service. May be used from several threads at once; each question has a connection of its own.

    Args:
        url: Of the service.
        token: What it asks for, if anything.
        timeout: Seconds that a question may take in all, from the first byte sent to the last one received. 5 s are
            what the deployed pipeline waited for, so that speech recognition is never held up by emotions.
        strict: Raise ServiceUnavailable where `analyze` and `embed` would go on without the service.

    Raises:
        ValueError: What is given is no address of a service, no token or no time.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:9101",
        token: str | None = None,
        timeout: float = 5.0,
        *,
        strict: bool = False,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is no address of a service: give one as http://127.0.0.1:9101")
        if token is not None and not (token.isascii() and token.isprintable()):
            raise ValueError("a token is printable ASCII, without line breaks")
        if not 0 < timeout < threading.TIMEOUT_MAX:
            raise ValueError(f"timeout must be more than 0 s, not {timeout!r}")
        self._url, self._host, self._port, self._path = url, parts.hostname, parts.port, parts.path.rstrip("/")
        self._connection = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._headers = {"User-Agent": "e2v-port client", "Connection": "close"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout, self._strict = timeout, strict

    def analyze(
        self,
        audio: Audio,
        segments: Iterable[GivenSegment | Mapping[str, Any]] | None = None,
        granularity: Literal["segment", "clip", "frame"] = "segment",
        *,
        speaker: str | None = None,
        name: str | None = None,
        recorded_at: datetime | None = None,
    ) -> Answer:
        """Says which emotion is in a voice, when, and how sure.

        Without the service - it is down, busy, too slow or answers nonsense - nothing is raised: the answer has
        `unavailable`, and the segments that were given, without emotions.

        Args:
            audio: Path, bytes of a file, or a binary file object.
            segments: Of the clip, instead of those found in it. `e2v_port.transcripts.read_segments` reads files.
            granularity: Segments of speech; the `clip` as one; or segments and which emotion when in them: `frame`.
            speaker: Of the whole clip.
            name: What the clip is to be called; by default its path's last part.
            recorded_at: When the clip began, with a time zone, for the service's history; by default now.

        Raises:
            AudioError: The clip cannot be read, here or there.
            SegmentError: The given segments cannot be used.
            ServiceError: The service refuses the question: a wrong token, parameters that make no sense.
            ServiceUnavailable: With `strict`, instead of an answer without emotions.
        """
        given = None if segments is None else [_given(segment) for segment in segments]
        data, own_name = _read(audio)
        body, kind = (data, "application/octet-stream") if given is None else _form(data, json.dumps(given))
        query = {"granularity": granularity, "speaker": speaker, "name": name or own_name}
        query["recorded_at"] = None if recorded_at is None else recorded_at.isoformat()

        def nothing(why: str) -> Answer:
            return Answer(
                tuple(_made(Segment, {"quality": None, "emotion": None, **item}) for item in given or []), why
            )

        return self._else(nothing, lambda: self._ask("POST", f"/v1/analyze?{_encoded(query)}", _answer, body, kind))

    def embed(
        self,
        audio: Audio,
        granularity: Literal["utterance", "frame"] = "utterance",
        *,
        speaker: str | None = None,
        name: str | None = None,
    ) -> Embedding:
        """Returns what the model makes of a voice, as numbers; without the service, as `analyze` does.

        Args:
            audio: As for `analyze`.
            granularity: One vector of the clip, or one for each `frame`.
            speaker: Likewise.
            name: Likewise.

        Raises:
            AudioError: As `analyze`, as are the others.
        """
        data, own_name = _read(audio)
        query = {"granularity": granularity, "speaker": speaker, "name": name or own_name}
        target, kind = f"/v1/embed?{_encoded(query)}", "application/octet-stream"
        return self._else(
            lambda why: Embedding(None, why),
            lambda: self._ask("POST", target, lambda found: _made(Embedding, found), data, kind),
        )

    @property
    def emotion_enabled(self) -> bool:
        """Whether the service analyses emotions: its switch.

        Without the service, to read it and to set it raise ServiceUnavailable.
        """
        return self._ask("GET", "/v1/config/emotion", _enabled)

    @emotion_enabled.setter
    def emotion_enabled(self, enabled: bool) -> None:
        body = json.dumps({"enabled": enabled}).encode()
        self._ask("PUT", "/v1/config/emotion", _enabled, body=body, kind="application/json")

    def models(self) -> tuple[ServedModel, ...]:
        """Lists the models that the service has loaded.

        Raises:
            ServiceError: As `analyze`.
            ServiceUnavailable: There is no service, or it is still loading them.
        """
        return self._ask("GET", "/v1/models", lambda found: tuple(_made(ServedModel, item) for item in found))

    def ready(self) -> bool:
        """Tells whether the service is there and has loaded its models."""
        try:
            return self._ask("GET", "/readyz", lambda found: bool(found["status"] == "ready"))
        except (ServiceError, ServiceUnavailable):
            return False

    def _else(self, nothing: Callable[[str], _T], ask: Callable[[], _T]) -> _T:
        try:
            return ask()
        except ServiceUnavailable as error:
            if self._strict:
                raise
            return nothing(str(error))

    def _ask(
        self,
        method: str,
        target: str,
        read: Callable[[Any], _T],
        body: bytes | None = None,
        kind: str | None = None,
    ) -> _T:
        """Asks and reads the answer; raises ServiceUnavailable if there is none."""
        status, data = self._answered(method, target, body, kind)
        try:
            found = json.loads(data)
            if status == 200:
                return read(found)
            error = found["error"]
            message, what = " ".join(str(error["message"]).split()), error["kind"]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise ServiceUnavailable(
                f"{self._url}: status {status} and no answer of e2v serve: is it another program's address?"
            ) from None
        if status in _LATER or not 400 <= status < 499:
            raise ServiceUnavailable(f"{self._url}: {message} (status {status})")
        refused = AudioError if what in _AUDIO else SegmentError if what == "segments" else ServiceError
        raise refused(message)

    def _answered(self, method: str, target: str, body: bytes | None, kind: str | None) -> tuple[int, bytes]:
        """Returns status and body within the time.

        A timeout of sockets counts for each read anew, so that another thread waits for this one.
        """
        connection = self._connection(self._host, self._port, timeout=self._timeout)
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        done: Future[tuple[int, bytes]] = Future()
        opened: list[socket.socket] = []

        def exchange() -> None:
            try:
                connection.connect()
                opened.append(connection.sock)
                # It may answer before it has everything, as to a body that is too large, and close.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._path + target, body, headers)
                with connection.getresponse() as response:
                    done.set_result((response.status, response.read()))
            except BaseException as error:
                done.set_exception(error)
            finally:
                connection.close()

        threading.Thread(target=exchange, name="e2v-client", daemon=True).start()
        try:
            return done.result(self._timeout)
        except TimeoutError:
            why = f"no answer within {self._timeout:g} s"
            for each in opened:  # wakes the thread, which closes it
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        except (OSError, HTTPException) as error:
            text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
            why = f"cannot be asked ({text}): is `e2v serve` running there?"
        raise ServiceUnavailable(f"{self._url}: {why}")


def _read(audio: Audio) -> tuple[bytes, str | None]:
    """Returns bytes and the name of a file."""
    if isinstance(audio, bytes):
        return audio, None
    if isinstance(audio, str | os.PathLike):
        path = os.fsdecode(audio)
        try:
            with open(path, "rb") as file:
                return file.read(), os.path.basename(path)[:_NAME].encode(errors="replace").decode()
        except OSError as error:
            raise AudioError(f"{path}: cannot be read ({error.strerror or error}): pass a readable file") from error
    data = audio.read()
    if not isinstance(data, bytes):
        raise AudioError("opened as text: open it with mode 'rb'")
    return data, None


def _encoded(query: Mapping[str, str | None]) -> str:
    return urlencode({name: value for name, value in query.items() if value is not None})


def _given(segment: GivenSegment | Mapping[str, Any]) -> dict[str, Any]:
    names = ("start", "end", "speaker", "text")
    if isinstance(segment, Mapping):
        found: dict[str, Any] = {name: segment.get(name) for name in names}
    else:
        found = {name: getattr(segment, name) for name in names}
    try:
        return found | {"start": float(found["start"]), "end": float(found["end"])}
    except (TypeError, ValueError):
        raise SegmentError(f"from {found['start']!r} to {found['end']!r}: give times in seconds") from None


def _form(audio: bytes, segments: str) -> tuple[bytes, str]:
    """Returns multipart/form-data and its Content-Type."""
    boundary = uuid.uuid4().hex  # which no clip contains
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="segments"\r\n\r\n{segments}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="clip"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return b"".join(
        [body.encode(), audio, f"\r\n--{boundary}--\r\n".encode()]
    ), f"multipart/form-data; boundary={boundary}"


def _made(kind: type[_T], found: Mapping[str, Any]) -> _T:
    """Makes a dataclass of what it knows of an answer: a newer service may say more."""
    values = {field.name: found[field.name] for field in fields(kind) if field.name in found}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if name in {"notes", "labels"} else value for name, value in values.items()})


def _answer(found: Mapping[str, Any]) -> Answer:
    segments = []
    for item in found["segments"]:
        emotion = None if item["emotion"] is None else _made(Emotion, item["emotion"])
        segments.append(_made(Segment, {**item, "emotion": emotion}))
    marks = found["boundaries"]
    parts = {
        "segments": tuple(segments),
        "boundaries": None if marks is None else tuple(_made(Boundary, mark) for mark in marks),
        "models": tuple(_made(UsedModel, model) for model in found["models"]),
    }
    return _made(Answer, {**found, **parts})


def _enabled(found: Mapping[str, Any]) -> bool:
    return bool(found["enabled"])

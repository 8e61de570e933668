"""A client of `e2v serve` for pipelines: if the service is unavailable, they continue without emotions.

It needs only the standard library and loads no model. The classes hold the JSON dialect of docs/json.md; fields that a
newer service adds are ignored.
"""

import json
import math
import os
import queue
import socket
import threading
import time
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, RemoteDisconnected
from typing import Any, BinaryIO, Literal, Protocol, TypeAlias, TypeVar, cast
from urllib.parse import SplitResult, urlencode, urlsplit

from e2v_port.errors import AudioError, RequestRefused, SegmentError, ServiceError, ServiceUnavailable, cut, quoted
from e2v_port.files import printable

__all__ = [
    "Answer",
    "Audio",
    "Boundary",
    "Client",
    "Embedding",
    "Emotion",
    "GivenSegment",
    "Note",
    "Prosody",
    "Reply",
    "Segment",
    "ServedModel",
    "Shade",
    "Transcript",
    "Turn",
    "UsedModel",
    "Word",
]

Audio: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
_T = TypeVar("_T")

_EVENTS = "text/event-stream"
_AUDIO = {"audio", "empty", "too_large", "too_long"}  # kinds of errors that are about the clip
_LATER = {408, 429}  # of the caller by their number, but not its fault
_NAME = 255  # characters that the service takes


class GivenSegment(Protocol):
    """The attributes of a given segment that the client sends, as in `e2v_port.speech.segment.GivenSegment`.

    A dict with these keys will do as well.
    """

    @property
    def start(self) -> float: ...  # noqa: D102
    @property
    def end(self) -> float: ...  # noqa: D102
    @property
    def speaker(self) -> str | None: ...  # noqa: D102
    @property
    def text(self) -> str | None: ...  # noqa: D102
    @property
    def channel(self) -> int | None: ...  # noqa: D102


@dataclass(frozen=True)
class Shade:
    """The finer emotion, one of 26, that a label means in a voice.

    Attributes:
        name: Name of the emotion.
        probability: Probability of this shade given that the label is right, 0 to 1.
    """

    name: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Emotion:
    """The estimate of how a voice sounds. Fields that no model provided and none could be derived from are None.

    Attributes:
        primary: The headline: the most probable label; None without a model that gives labels.
        confidence: Probability of that label, 0 to 1; see also the note `uncertain`.
        shade: The finer emotion that the label means here.
        intensity: Intensity of the voice: `low`, `mild`, `moderate` or `high`.
        valence: Measured valence as a word: `negative`, `neutral` or `positive`.
        arousal: Measured arousal as a word: `low`, `moderate` or `high`.
        compound: The label refined by arousal and dominance.
        octant: Name of the octant of the three dimensions.
        agreement: Agreement of label and valence: `agree`, `disagree` or `neutral`.
        notes: Any of `elevated arousal`, `short`, `noisy`, `uncertain` and `overlap`. With `uncertain`, the
            label is in doubt and no answer.
        sources: Inputs of the judgement: `categorical`, `dimensional`, `prosodic`.
        e2v_scores: Probability of each label.
        avd_scores: `arousal`, `dominance` and `valence` as numbers, nominally 0 to 1.
        avd_from: Source of `avd_scores`: `model`, measured; `labels`, derived from the labels.
        distribution: Probability of each of the 26 emotions, over all labels.
    """

    primary: str | None
    confidence: float | None
    shade: Shade | None = None
    intensity: str | None
    valence: str | None
    arousal: str | None
    compound: str | None
    octant: str | None
    agreement: str | None
    notes: tuple[str, ...]
    sources: tuple[str, ...] = ()
    e2v_scores: Mapping[str, float] | None
    avd_scores: Mapping[str, float] | None
    avd_from: str | None
    distribution: Mapping[str, float] | None


@dataclass(frozen=True)
class Word:
    """A word that was read in a clip.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        text: The word with its punctuation.
        probability: Probability that the recognizer gives it, 0 to 1.
    """

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True)
class Transcript:
    """How the words of a clip were read, as `e2v_port.transcribe.words.Transcript`."""

    model: str
    language: str | None
    language_probability: float | None


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Segments of one speaker in a row that sound alike.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        speaker: Name of the speaker, if known.
        channel: Channel of the clip, from 1; None for the channels mixed.
        text: Words spoken, if given or read.
        segments: Numbers of its segments in `Answer.segments`.
        overlap: Whether somebody else speaks during the turn.
        seconds_judged: Length of the segments that were judged.
        emotion: The label with most support; None if nothing was judged.
        confidence: Mean probability of that label, 0 to 1.
        unclear: Whether the label is in doubt: then it is no answer.
        shade: The finer emotion that the label means here.
        octant: Name of the octant of the mean of measured dimensions.
        avd_scores: Mean `arousal`, `dominance` and `valence`.
        avd_from: Source of `avd_scores`.
        wording: Valence of the words beside that of the voice, as docs/wording.md describes it; None without words.
    """

    start: float
    end: float
    speaker: str | None
    channel: int | None
    text: str | None
    segments: tuple[int, ...]
    overlap: bool
    seconds_judged: float
    emotion: str | None
    confidence: float | None
    unclear: bool | None
    shade: Shade | None
    octant: str | None
    avd_scores: Mapping[str, float] | None
    avd_from: str | None
    wording: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Segment:
    """A segment of a clip.

    Attributes:
        start: Start in seconds, from the start of the clip.
        end: End in seconds.
        quality: How far the estimate can be trusted, as in `e2v_port.speech.segment.Segment`; None without the service.
        speaker: Name of the speaker, if given.
        text: Words spoken, if given or read.
        emotion: The estimate; None if the segment was not judged: too short, no speech, speaker not enrolled, analysis
            switched off, or no service.
        channel: Channel of the clip in which it was judged, from 1; None for the channels mixed.
        words: The words of `text` with their times; None unless they were read.
    """

    start: float
    end: float
    quality: str | None
    speaker: str | None
    text: str | None
    emotion: Emotion | None
    channel: int | None = None
    words: tuple[Word, ...] | None = None


@dataclass(frozen=True)
class Note:
    """Something the user must know about the sound of a clip: `kind` for programs, `text` for people."""

    kind: str
    text: str


@dataclass(frozen=True)
class Boundary:
    """A span within a segment in which one label prevails, in seconds from the start of the clip."""

    start: float
    end: float
    label: str
    probability: float


@dataclass(frozen=True)
class UsedModel:
    """A model that judged a clip, as `e2v_port.UsedModel`."""

    kind: str
    name: str
    dtype: str
    runtime: str
    licence: str
    limited_to: tuple[str, ...] | None = None


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
    limited_to: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Answer:
    """The service's analysis of a clip.

    Attributes:
        segments: Segments in order of time. Without the service, the given ones, with `emotion` None.
        unavailable: Reason why there is no answer, in one line; None if there is one. All fields below are then None
            or empty.
        schema_version: Version of the JSON dialect that the service speaks.
        request_id: Identifier of the request in the service's log.
        file: Name of the clip.
        duration: Duration of the clip in seconds.
        emotion_enabled: Whether the service analyzes emotions.
        reason: Reason why no segment was judged; None if one was.
        notes: What the user must know about the sound of the clip.
        context: One line about how the voice sounds, for a language model.
        boundaries: Where the emotion changes within segments; None unless requested.
        models: Models used.
        settings: All thresholds of the analysis.
        timings: Seconds spent, by stage.
        history: `off`, `stored`, or the reason why the answer was not stored.
        turns: The segments joined to turns of speakers; None unless a segment has a speaker or words.
        transcript: How the words were read; None unless they were.
    """

    segments: tuple[Segment, ...]
    unavailable: str | None = None
    schema_version: int | None = None
    request_id: str | None = None
    file: str | None = None
    duration: float | None = None
    emotion_enabled: bool | None = None
    reason: str | None = None
    notes: tuple[Note, ...] = ()
    context: str | None = None
    boundaries: tuple[Boundary, ...] | None = None
    models: tuple[UsedModel, ...] = ()
    settings: Mapping[str, Any] | None = None
    timings: Mapping[str, float] | None = None
    history: str | None = None
    turns: tuple[Turn, ...] | None = None
    transcript: Transcript | None = None


@dataclass(frozen=True)
class Embedding:
    """An embedding of a voice.

    Attributes:
        embedding: [dim], or [frames][dim] if frames were requested; None if analysis is switched off, or without the
            service.
        unavailable: Reason why there is no answer, in one line; None if there is one. All fields below are then None.
        request_id: Identifier of the request in the service's log.
        model: Name of the model.
        dim: Length of a vector.
        duration: Duration of the clip in seconds.
        hop_seconds: Seconds from one frame to the next.
        notes: What the user must know about the sound of the clip.
    """

    embedding: list[float] | list[list[float]] | None
    unavailable: str | None = None
    request_id: str | None = None
    model: str | None = None
    dim: int | None = None
    duration: float | None = None
    hop_seconds: float | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Prosody:
    """How a reply should sound: an emotion that answers the tone, and factors for a neutral voice.

    Attributes:
        emotion: Name of one of the 26 emotions.
        intensity: Strength of the emotion, 0 to 1.
        rate: Factor for the speed.
        pitch: Factor for the pitch.
        volume: Factor for the amplitude, at most 1.
    """

    emotion: str
    intensity: float
    rate: float
    pitch: float
    volume: float


@dataclass(frozen=True)
class Reply:
    """The service's reply to a remark.

    Attributes:
        reply: The words; None without the service.
        unavailable: Reason why there is no reply, in one line; None if there is one. All fields below are then None.
        request_id: Identifier of the request in the service's log.
        tone: Probability of each label for the tone that was heard: an estimate.
        unclear: Whether the tone is in doubt: then it is no answer.
        words: Words of the remark; None unless they were asked for.
        notes: What the user must know about the sound of the clip, and about the reply.
        duration: Duration of the clip in seconds.
        seconds: Seconds that the reply took: `encoding` the voice, until the `first_token`, and in `total`.
        prosody: How the reply should sound.
        audio: The reply as a WAV file; None unless it was asked for, or without a speech engine of the service.
    """

    reply: str | None
    unavailable: str | None = None
    request_id: str | None = None
    tone: Mapping[str, float] | None = None
    unclear: bool | None = None
    words: str | None = None
    notes: tuple[Note, ...] = ()
    duration: float | None = None
    seconds: Mapping[str, float] | None = None
    prosody: Prosody | None = None
    audio: bytes | None = None


class Client:
    """Sends requests to a service. Safe to use from several threads: each request has a connection of its own.

    Args:
        url: Address of the service.
        token: Token that the service requires, if any.
        timeout: Longest time for a whole request in seconds, from the first byte sent to the last received. The
            default of 5 s is that of the deployed pipeline, so that emotions never hold up speech recognition.
        strict: Raise ServiceUnavailable instead of returning an answer without emotions.

    Raises:
        ValueError: The address, the token or the timeout is invalid.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:9101",
        token: str | None = None,
        timeout: float = 5.0,
        *,
        strict: bool = False,
    ) -> None:
        parts = _address(url)
        if token is not None and not (isinstance(token, str) and token.isascii() and token.isprintable()):
            raise ValueError("a token is printable ASCII, without line breaks: pass that of `e2v serve --token`")
        if token is not None and token != token.strip():
            raise ValueError("a token has no blanks at its ends, which HTTP would lose: remove them")
        if not isinstance(timeout, int | float) or not 0 < timeout < threading.TIMEOUT_MAX:
            raise ValueError(f"timeout must be more than 0 s, not {quoted(timeout)}")
        self._url, self._host, self._port, self._path = url, str(parts.hostname), parts.port, parts.path.rstrip("/")
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
        channel: int | str = "mix",
        words: bool = False,
        language: str | None = None,
        name: str | None = None,
        recorded_at: datetime | None = None,
    ) -> Answer:
        """Returns the emotion in a voice, when it occurs, and the confidence.

        If the service is down, busy, too slow or returns nonsense, nothing is raised: the answer has `unavailable`
        set and holds the given segments without emotions.

        Args:
            audio: Path, bytes of a file, or a binary file object.
            segments: Segments to use instead of those detected; `e2v_port.speech.transcripts.read_segments` reads
                files.
            granularity: `segment` for segments of speech, `clip` for the clip as one segment, `frame` for segments
                with the changes of emotion inside them.
            speaker: Name of the speaker of the whole clip.
            channel: `mix`, `left`, `right`, a number from 1, or `each` channel as one speaker.
            words: Whether to read the words as well; the service must be started with `--words`. Reading takes longer
                than judging: raise the `timeout` for clips beyond half a minute.
            language: Code of the language of the words, such as `en`; None to detect it.
            name: Name of the clip in the answer; by default the last part of its path.
            recorded_at: Time at which the clip begins, with a time zone, for the service's history; by default now.

        Raises:
            AudioError: The clip cannot be read, by the client or by the service.
            SegmentError: The given segments cannot be used.
            RequestRefused: The service refuses the request: a wrong token, invalid parameters.
            ServiceUnavailable: With `strict`, instead of an answer without emotions.
            ValueError: The time has no time zone.
        """
        given = None if segments is None else _all_given(segments)
        data, own_name = _read(audio)
        body, kind = (
            (data, "application/octet-stream") if given is None else _form(data, json.dumps(_sent(given)), "segments")
        )
        query = {"granularity": granularity, "speaker": speaker, "channel": str(channel), "name": name or own_name}
        if words or language is not None:
            query |= {"words": str(bool(words)).lower(), "language": language}
        if recorded_at is not None:
            if not isinstance(recorded_at, datetime) or recorded_at.tzinfo is None:
                raise ValueError("recorded_at: pass a datetime with a time zone, as datetime.now(UTC)")
            query["recorded_at"] = recorded_at.isoformat()

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
        channel: int | str = "mix",
        name: str | None = None,
    ) -> Embedding:
        """Returns the embedding of a voice. If the service is unavailable, `analyze` describes what happens.

        Args:
            audio: Path, bytes of a file, or a binary file object.
            granularity: `utterance` for one vector of the clip, `frame` for one vector per frame.
            speaker: Name of the speaker of the whole clip.
            channel: `mix`, `left`, `right` or a number from 1.
            name: Name of the clip in error messages; by default the last part of its path.

        Raises:
            AudioError: The clip cannot be read, by the client or by the service.
            RequestRefused: The service refuses the request: a wrong token, invalid parameters.
            ServiceUnavailable: With `strict`, instead of an answer without an embedding.
        """
        data, own_name = _read(audio)
        query = {"granularity": granularity, "speaker": speaker, "channel": str(channel), "name": name or own_name}
        target, kind = f"/v1/embed?{_encoded(query)}", "application/octet-stream"
        return self._else(
            lambda why: Embedding(None, why),
            lambda: self._ask("POST", target, _embedding, data, kind),
        )

    def reply(
        self,
        audio: Audio,
        context: Iterable[Mapping[str, str]] = (),
        *,
        words: bool = False,
        language: str | None = None,
        aloud: bool = False,
        temperature: float = 0.0,
        speaker: str | None = None,
        channel: int | str = "mix",
        name: str | None = None,
        hear: Callable[[str], None] | None = None,
    ) -> Reply:
        """Returns an answer to a remark in words, and the tone that it answers.

        The service must be started with `--reply`. A reply takes seconds, more on a slow computer or while others wait:
        raise the `timeout`. If the service is unavailable, `analyze` describes what happens.

        Args:
            audio: Path, bytes of a file, or a binary file object.
            context: What was said before, oldest first, each as {"role": "user" or "assistant", "content": words}.
            words: Whether to read the words as well; the service must be started with `--words`.
            language: Code of the language of the words, such as `en`; None to detect it.
            aloud: Whether to speak the reply, if the service has a speech engine.
            temperature: 0 for the most likely words. Up to 2: words are drawn, and the same remark may have another
                reply each time.
            speaker: Name of the speaker of the whole clip.
            channel: `mix`, `left`, `right` or a number from 1.
            name: Name of the clip in error messages; by default the last part of its path.
            hear: Called with each piece of the reply as soon as it is made; together they are `Reply.reply`.

        Raises:
            AudioError: The clip cannot be read, by the client or by the service.
            RequestRefused: The service refuses the request: it does not reply, or the context cannot be used.
            ServiceUnavailable: With `strict`, instead of an answer without a reply.
        """
        data, own_name = _read(audio)
        try:
            turns = json.dumps([dict(turn) for turn in context])
        except (TypeError, ValueError):
            raise RequestRefused(
                'context: pass a list of turns, each {"role": "user", "content": "words"}', kind="context"
            ) from None
        body, kind = _form(data, turns, "context")
        query = {"speaker": speaker, "channel": str(channel), "name": name or own_name, "temperature": str(temperature)}
        query |= {"words": str(bool(words)).lower(), "language": language, "aloud": str(bool(aloud)).lower()}
        target = f"/v1/reply?{_encoded(query)}"
        return self._else(
            lambda why: Reply(None, why),
            lambda: self._ask("POST", target, _reply, body, kind, hear=hear),
        )

    @property
    def emotion_enabled(self) -> bool:
        """Whether the service analyzes emotions. Setting it turns the analysis on or off.

        Raises:
            ServiceUnavailable: There is no service to ask.
        """
        return self._ask("GET", "/v1/config/emotion", _enabled)

    @emotion_enabled.setter
    def emotion_enabled(self, enabled: bool) -> None:
        body = json.dumps({"enabled": enabled}).encode()
        self._ask("PUT", "/v1/config/emotion", _enabled, body=body, kind="application/json")

    def models(self) -> tuple[ServedModel, ...]:
        """Lists the models that the service has loaded.

        Raises:
            RequestRefused: The service refuses the request, as for `analyze`.
            ServiceUnavailable: There is no service, or it is still loading its models.
        """
        return self._ask("GET", "/v1/models", lambda found: tuple(_made(ServedModel, item) for item in found))

    def ready(self) -> bool:
        """Returns whether the service is running and has loaded its models."""
        try:
            return self._ask("GET", "/readyz", lambda found: bool(found["status"] == "ready"))
        except ServiceError:
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
        *,
        hear: Callable[[str], None] | None = None,
    ) -> _T:
        """Sends a request and reads the answer; raises ServiceUnavailable if there is none."""
        status, data = self._answered(method, target, body, kind, hear)
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
        if what in _AUDIO or what == "segments":
            raise (SegmentError if what == "segments" else AudioError)(message)
        raise RequestRefused(message, status=status, kind=str(what))

    def _answered(
        self,
        method: str,
        target: str,
        body: bytes | None,
        kind: str | None,
        hear: Callable[[str], None] | None,
    ) -> tuple[int, bytes]:
        """Returns status and body within the time; of server-sent events, those of the last one.

        A timeout of sockets counts for each read anew, so that another thread waits for this one.
        """
        connection = self._connection(self._host, self._port, timeout=self._timeout)
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        headers |= {"Accept": _EVENTS} if hear else {}
        done: Future[tuple[int, bytes]] = Future()
        pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        opened: list[socket.socket] = []

        def exchange() -> None:
            try:
                connection.connect()
                opened.append(connection.sock)
                # It may answer before it has everything, as to a body that is too large, and close.
                with suppress(BrokenPipeError, ConnectionResetError):
                    connection.request(method, self._path + target, body, headers)
                with connection.getresponse() as response:
                    if response.getheader("content-type", "").startswith(_EVENTS):
                        done.set_result(_last_event(response, pieces.put))
                    else:
                        done.set_result((response.status, response.read()))
            except BaseException as error:
                done.set_exception(error)
            finally:
                connection.close()
                pieces.put(None)

        until = time.monotonic() + self._timeout
        threading.Thread(target=exchange, name="e2v-client", daemon=True).start()
        try:
            while True:
                try:
                    piece = pieces.get(timeout=max(until - time.monotonic(), 0))
                    if piece is None:
                        return done.result(0)
                except (queue.Empty, TimeoutError):
                    why = f"no answer within {self._timeout:g} s: pass a longer timeout=, or shorter clips"
                    break
                except (OSError, HTTPException, UnicodeError) as error:  # UnicodeError: a host that is no name
                    text = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
                    why = f"cannot be asked ({text}): is `e2v serve` running there?"
                    break
                if hear:
                    hear(piece)
        finally:
            for each in opened:  # wakes the thread, which closes it
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        raise ServiceUnavailable(f"{self._url}: {why}")


def _address(url: str) -> SplitResult:
    """Takes an address apart; raises ValueError for one that cannot be a service's."""
    with suppress(ValueError, TypeError, AttributeError):  # of brackets, of ports, of other types
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        whole = parts.scheme in {"http", "https"} and port != 0 and not parts.query and not parts.fragment
        if whole and host and host.isprintable() and " " not in host:
            return parts
    raise ValueError(f"{quoted(url)} is no address of a service: give one as http://127.0.0.1:9101")


def _read(audio: Audio) -> tuple[bytes, str | None]:
    """Returns bytes and the name of a file."""
    if isinstance(audio, bytes | bytearray | memoryview):
        return bytes(audio), None
    path = os.fsdecode(audio) if isinstance(audio, str | os.PathLike) else None
    try:
        if path is not None:
            with open(path, "rb") as file:
                return file.read(), os.path.basename(path)[:_NAME].encode(errors="replace").decode()
        data = cast(BinaryIO, audio).read()
    except (OSError, ValueError) as error:  # ValueError: a null character, a closed file
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        where = "" if path is None else f"{cut(printable(path))}: "
        raise AudioError(f"{where}cannot be read ({why}): pass a readable file") from error
    except AttributeError:
        raise AudioError(
            f"{quoted(audio)} is no clip: pass a path, the bytes of a file, or a binary file object"
        ) from None
    if not isinstance(data, bytes):
        raise AudioError("opened as text: open it with mode 'rb'")
    return data, None


def _encoded(query: Mapping[str, str | None]) -> str:
    try:
        return urlencode({name: value for name, value in query.items() if value is not None})
    except UnicodeEncodeError as error:
        raise RequestRefused(f"{quoted(error.object)} holds half a character: decode names as UTF-8") from None


def _all_given(segments: Iterable[GivenSegment | Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(segments, str | bytes) or not isinstance(segments, Iterable):
        raise SegmentError(f"{quoted(segments)}: pass a list of segments, such as read_segments(path) returns")
    return [_given(segment) for segment in segments]


def _given(segment: GivenSegment | Mapping[str, Any]) -> dict[str, Any]:
    names = ("start", "end", "speaker", "text", "channel")
    try:
        if isinstance(segment, Mapping):
            found: dict[str, Any] = {name: segment.get(name) for name in names}
        else:
            found = {name: getattr(segment, name) for name in names}
    except AttributeError:
        raise SegmentError(f'{quoted(segment)}: give a GivenSegment, or {{"start": 0.0, "end": 1.5}}') from None
    for name, kinds, wanted in (
        ("speaker", str, "a name"),
        ("text", str, "words"),
        ("channel", int, "a number from 1"),
    ):
        if not isinstance(found[name], kinds | None):
            raise SegmentError(f"{name} is {quoted(found[name])}: give {wanted}, or None")
    try:
        times = {name: float(found[name]) for name in ("start", "end")}
    except (TypeError, ValueError, OverflowError):
        times = {}
    if not times or not math.isfinite(times["start"]) or not times["end"] > -math.inf:
        raise SegmentError(f"from {quoted(found['start'])} to {quoted(found['end'])}: give times in seconds")
    return found | times


def _sent(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns segments as JSON can hold them: an end that is that of the clip is null."""
    return [{**item, "end": None if item["end"] == math.inf else item["end"]} for item in given]


def _form(audio: bytes, text: str, name: str) -> tuple[bytes, str]:
    """Returns multipart/form-data with a clip and a text of a name, and its Content-Type."""
    boundary = uuid.uuid4().hex  # which no clip contains
    body = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="clip"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return b"".join(
        [body.encode(), audio, f"\r\n--{boundary}--\r\n".encode()]
    ), f"multipart/form-data; boundary={boundary}"


def _made(kind: type[_T], found: Mapping[str, Any]) -> _T:
    """Makes a dataclass from the fields it knows: a newer service may send more."""
    values = {field.name: found[field.name] for field in fields(kind) if field.name in found}  # type: ignore[arg-type]
    lists = {"notes", "labels", "sources", "limited_to", "segments"}
    return kind(
        **{name: tuple(value) if name in lists and value is not None else value for name, value in values.items()}
    )


def _emotion(found: Mapping[str, Any] | None) -> Emotion | None:
    if found is None:
        return None
    return _made(Emotion, {**found, "shade": _shade(found.get("shade"))})


def _shade(found: Mapping[str, Any] | None) -> Shade | None:
    return None if found is None else _made(Shade, found)


def _segment(found: Mapping[str, Any]) -> Segment:
    words = found.get("words")
    read = None if words is None else tuple(_made(Word, word) for word in words)
    return _made(Segment, {**found, "emotion": _emotion(found["emotion"]), "words": read})


def _reply(found: Mapping[str, Any]) -> Reply:
    audio = None if found["audio"] is None else b64decode(found["audio"])
    notes = tuple(_made(Note, note) for note in found["notes"])
    return _made(Reply, {**found, "audio": audio, "notes": notes, "prosody": _made(Prosody, found["prosody"])})


def _last_event(response: HTTPResponse, put: Callable[[str], None]) -> tuple[int, bytes]:
    """Reads server-sent events: puts the pieces of a reply, and returns status and body as if there were no events.

    Raises:
        HTTPException: The events end before the reply does.
    """
    name = ""
    for line in response:
        kind, _, rest = line.decode().strip().partition(": ")
        if kind == "event":
            name = rest
        elif kind == "data" and name == "text":
            put(json.loads(rest)["text"])
        elif kind == "data" and name in {"done", "error"}:
            return (200 if name == "done" else int(json.loads(rest)["status"])), rest.encode()
    raise RemoteDisconnected("the reply ended before it was whole")


def _embedding(found: Mapping[str, Any]) -> Embedding:
    return _made(Embedding, {**found, "notes": tuple(_made(Note, note) for note in found["notes"])})


def _answer(found: Mapping[str, Any]) -> Answer:
    marks = found["boundaries"]
    parts: dict[str, Any] = {
        "segments": tuple(_segment(item) for item in found["segments"]),
        "boundaries": None if marks is None else tuple(_made(Boundary, mark) for mark in marks),
        "notes": tuple(_made(Note, note) for note in found["notes"]),
        "models": tuple(_made(UsedModel, model) for model in found["models"]),
    }
    if found.get("turns") is not None:
        parts["turns"] = tuple(_made(Turn, {**turn, "shade": _shade(turn.get("shade"))}) for turn in found["turns"])
    if found.get("transcript") is not None:
        parts["transcript"] = _made(Transcript, found["transcript"])
    return _made(Answer, {**found, **parts})


def _enabled(found: Mapping[str, Any]) -> bool:
    return bool(found["enabled"])
